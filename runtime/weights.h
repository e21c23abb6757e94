/* Weights between files and stores: published checkpoints in, safetensors out, and the whole state
 * of a training run both ways. */
#ifndef KIN_RUNTIME_WEIGHTS_H
#define KIN_RUNTIME_WEIGHTS_H

#include "runtime/file.h"
#include "runtime/store.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Maps a name in a file to the name of a variable (without the prefix). Returns false for a tensor
 * that is no part of the model; a name that it does not know is handed on as it is.
 *
 * Where files and variables are cut differently along the first axis, the name says how. In
 * "to_q|to_k|to_v" the file's tensor is these variables, of equal size, one after the other. With
 * "qkv{1/3}" it is part 1 (of 0, 1 and 2) of that variable. With "table{*}" it may have another
 * number of rows: the last one is repeated, or those behind the variable's are left out. */
typedef bool (*kin_weights_rename)(const void *config, const char *file_name, char *out_name,
                                   size_t size);

/* One variable of such a name. */
typedef struct kin_weights_target {
    char name[1024];
    int source_part, source_parts; /* of the file's tensor; 0 of 1 is all of it */
    int part, parts;               /* of the variable */
    bool any_rows;
} kin_weights_target;

/* Target number `index` of a name that a rename gave; false past the last one, or if the name makes
 * no sense. */
KIN_API bool kin_weights_target_at(const char *renamed, int index, kin_weights_target *out_target);
/* True if a tensor of the file fits the target's place in the variable. */
KIN_API bool kin_weights_target_fits(const kin_weights_target *target, const kin_desc *file,
                                     const kin_desc *variable);

typedef struct kin_weights_options {
    const char *prefix;        /* variables of the store are named "prefix.name"; NULL: "name" */
    kin_weights_rename rename; /* NULL: names are equal */
    const void *config;        /* for rename */
    bool allow_missing;        /* variables that the file lacks keep what they have */
    bool allow_unexpected;     /* tensors that no variable wants are skipped */
    const char *entry; /* of pickled files: the state dict's key; NULL: as kin_checkpoint_open */
} kin_weights_options;

typedef struct kin_weights_report {
    size_t loaded, missing, unexpected;
} kin_weights_report;

/* Fills the weights and buffers of a store from a safetensors file, a folder, an index file, or a
 * `.pth`, `.pt`, `.ckpt` or `.bin` file. Axes of size 1 may differ. KIN_NOT_FOUND names missing
 * keys, KIN_INVALID unexpected ones with the nearest name, and shapes that do not fit. out_report
 * may be NULL. */
KIN_API kin_status kin_weights_load(kin_store *store, const char *path,
                                    const kin_weights_options *options,
                                    kin_weights_report *out_report);
/* Writes the weights and buffers named "prefix.*" to a safetensors file, without the prefix, as
 * `dtype` (f32, f16 or bf16). averages: where the store holds "AVERAGES" + name, that is written in
 * its place (NULL: never). */
KIN_API kin_status kin_weights_save(kin_store *store, const char *path, const char *prefix,
                                    const char *averages, kin_dtype dtype,
                                    const kin_metadata *metadata, size_t metadata_count);

/* Everything in the store, bit for bit, under the store's own names. */
KIN_API kin_status kin_store_save(kin_store *store, const char *path, const kin_metadata *metadata,
                                  size_t metadata_count);
/* The reverse: the file must hold exactly the store's tensors. */
KIN_API kin_status kin_store_load(kin_store *store, const char *path);

#ifdef __cplusplus
}
#endif
#endif
