/* Index files of sharded checkpoints, `*.index.json`: which file holds which tensor. */
#ifndef KIN_RUNTIME_SHARDS_H
#define KIN_RUNTIME_SHARDS_H

#include "runtime/context.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kin_shard_entry {
    const char *name; /* of the tensor */
    size_t shard;     /* index of its file */
} kin_shard_entry;

typedef struct kin_shard_index {
    char **files; /* paths: the index's folder and the shard's name */
    size_t file_count;
    kin_shard_entry *entries; /* in the file's order */
    size_t entry_count;
    char *names; /* memory of the entries' names */
} kin_shard_index;

/* Reads {"metadata": ..., "weight_map": {tensor: file}}. A file must be a plain name beside the
 * index: a path that could lead elsewhere is KIN_FORMAT. */
KIN_API kin_status kin_shard_index_read(kin_context *context, const char *path,
                                        kin_shard_index *out_index);
KIN_API void kin_shard_index_free(kin_context *context, kin_shard_index *index);

#ifdef __cplusplus
}
#endif
#endif
