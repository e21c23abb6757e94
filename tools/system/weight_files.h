/* Files of weights in the forms that are published: one file or shards with an index, safetensors
 * or torch.save. Tensors are streamed: a few megabytes of memory, whatever their size. */
#ifndef KIN_TOOLS_WEIGHT_FILES_H
#define KIN_TOOLS_WEIGHT_FILES_H

#include "runtime/file.h"
#include "runtime/pickle_write.h"
#include "tools/tool.h"

typedef struct kin_weight_form {
    const char *base;   /* "diffusion_pytorch_model" */
    const char *ending; /* ".safetensors": that form; any other: torch.save's */
    uint64_t
        shard_bytes; /* of a file at most, but for a tensor that alone is larger; 0: one file */
    const kin_pickle_layout *layout; /* of torch.save's form; NULL: plain */
    const kin_metadata *metadata; /* of safetensors; "format": "pt" is added, which others want */
    size_t metadata_count;
} kin_weight_form;

/* The dtype in which a tensor is kept in a file of `wanted`. Integers and flags stay as they are.
 * For q8_0 the weights of linear layers (two axes, named ".weight", rows of whole blocks) become
 * that; tables of embeddings and convolutions f16; biases, norms and other single rows f32. */
kin_dtype kin_weight_dtype(const char *name, const kin_desc *desc, kin_dtype wanted);
/* Bytes of the tensors. */
uint64_t kin_weight_bytes(const kin_named_tensor *tensors, size_t count);
/* Writes FOLDER/base.ending or, above the limit, base-00001-of-0000N.ending and
 * base.ending.index.json. Tensors keep their order from shard to shard. `fill` is asked in pieces
 * for tensors without data. KIN_CANCELLED after Ctrl-C. progress: of kin_weight_progress, or NULL.
 */
kin_status kin_weight_files_write(kin_context *context, const char *folder,
                                  const kin_weight_form *form, const kin_named_tensor *tensors,
                                  size_t count, kin_fill_piece fill, void *fill_user,
                                  kin_progress *progress);

/* Progress in MiB for that; nothing is shown for files that take no time. */
kin_progress kin_weight_progress(const char *label, uint64_t bytes, bool quiet);

/* KIN_IO unless the file system of `folder` (or of the nearest folder above that exists) has so
 * many bytes free. */
kin_status kin_need_disk(kin_context *context, const char *folder, uint64_t bytes);

/* A folder that appears whole or not at all: files are written to a hidden one beside it. */
typedef struct kin_staging {
    kin_context *context;
    char *target, *folder; /* the final one; the one to write to */
} kin_staging;

/* KIN_INVALID if the target is there and holds something. */
kin_status kin_staging_open(kin_context *context, const char *target, kin_staging *out_staging);
/* Moves it to its place. The staging is closed, whatever it returns. */
kin_status kin_staging_commit(kin_staging *staging);
/* Removes what was written; fine after a commit too. */
void kin_staging_abandon(kin_staging *staging);

#endif
