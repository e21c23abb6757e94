/* kinora convert: weights from any form that is read here into safetensors, or into a file of
 * torch.save, in another dtype. */
#ifndef KIN_TOOLS_CONVERT_H
#define KIN_TOOLS_CONVERT_H

#include "runtime/tensor.h"

typedef struct kin_convert_options {
    const char *dtype; /* "f32", "f16", "bf16", "q8_0"; NULL: as it is */
    const char *entry; /* of a pickled source: the key of the state dict, such as "ema"; NULL: the
                          usual one */
    const char
        *into; /* of a target of torch.save: the key to put the state dict under; NULL: none */
    uint64_t shard_bytes; /* 0: one file */
    bool verify;          /* read everything back and compare every bit */
    bool quiet;
    void (*told)(void *user,
                 const char *line); /* one line for each file, without its end; or NULL */
    void *told_user;
} kin_convert_options;

/* Converts `source`, a file or an index of shards, to `target`: a file by its ending (.safetensors,
 * or .pth, .pt, .ckpt, .bin for torch.save's form) or else a folder that is made. If `source` is a
 * folder, `target` is one, too: the weights in it and in all folders below are converted, part by
 * part, and the other files are copied. Tensors keep their names, but for a "module." in front of
 * all of them; one that is stored under two names (T5's table) has only the first in safetensors,
 * as transformers has it. The source may be of any size: memory is needed for one piece of a
 * tensor, and for one tensor where a pickled file holds a strided view.
 *
 * q8_0 is for weights of linear layers (kin_weight_dtype). A tensor with values beyond f16's range
 * stays f32 (or bf16, if it was that); that, and every tensor with values that are not finite, is
 * logged by name. The target appears whole or not at all. KIN_INVALID if a target folder is there
 * and not empty, or a file is to be written in shards; KIN_NUMERIC if verifying finds a difference;
 * KIN_CANCELLED after Ctrl-C. */
kin_status kin_convert_weights(kin_context *context, const char *source, const char *target,
                               const kin_convert_options *options);

/* ---- between the files of this part ---- */

/* One checkpoint into FOLDER/base.ending. */
kin_status kin_convert_checkpoint(kin_context *context, const char *source, const char *folder,
                                  const char *base, const char *ending,
                                  const kin_convert_options *options);

#endif
