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
 * that is no part of the model; a name that it does not know is handed on as it is. */
typedef bool (*kin_weights_rename)(const void *config, const char *file_name, char *out_name,
                                   size_t size);

typedef struct kin_weights_options {
    const char *prefix;        /* variables of the store are named "prefix.name"; NULL: "name" */
    kin_weights_rename rename; /* NULL: names are equal */
    const void *config;        /* for rename */
    bool allow_missing;        /* variables that the file lacks keep what they have */
    bool allow_unexpected;     /* tensors that no variable wants are skipped */
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
