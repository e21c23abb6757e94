/* Index files of sharded checkpoints. */
#define _POSIX_C_SOURCE 200809L

#include "runtime/shards.h"

#include <string.h>

#include "runtime/file.h"
#include "runtime/json.h"

enum { SHARD_LIMIT = 10000 };

/* A name that stays in the folder, whatever the system makes of separators. */
static bool is_plain_name(const char *name) {
    size_t length = strlen(name);
    if (length == 0 || length > 255) return false;
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) return false;
    return strpbrk(name, "/\\:") == NULL;
}

/* Index of the shard with that name among those seen; adds it if new. */
static kin_status find_shard(kin_context *context, const char *path, const char *folder,
                             const char *name, kin_shard_index *index, size_t *out_shard) {
    size_t folder_length = strlen(folder);
    for (size_t i = index->file_count; i-- > 0;) { /* neighbours mostly share a shard */
        const char *file = index->files[i] + folder_length;
        if (strcmp(file[0] == '/' ? file + 1 : file, name) == 0) {
            *out_shard = i;
            return KIN_OK;
        }
    }
    if (index->file_count == SHARD_LIMIT)
        return kin_fail(context, KIN_FORMAT, "%s: names more than %d shards", path, SHARD_LIMIT);
    char **files =
        kin_realloc(context, index->files, (index->file_count + 1) * sizeof *index->files);
    if (files == NULL) return KIN_OUT_OF_MEMORY;
    index->files = files;
    files[index->file_count] = kin_path_join(context, folder, name);
    if (files[index->file_count] == NULL) return KIN_OUT_OF_MEMORY;
    *out_shard = index->file_count++;
    return KIN_OK;
}

static kin_status read_map(kin_context *context, const char *path, const char *folder, json_t *map,
                           kin_shard_index *index) {
    const char *key;
    json_t *value;
    size_t bytes = 0;
    json_object_foreach(map, key, value) {
        bytes += strlen(key) + 1;
    }
    index->entries = kin_calloc(context, json_object_size(map), sizeof *index->entries);
    index->names = kin_alloc(context, bytes);
    if (index->entries == NULL || index->names == NULL) return KIN_OUT_OF_MEMORY;
    char *next = index->names;
    json_object_foreach(map, key, value) {
        const char *file = json_string_value(value);
        if (file == NULL)
            return kin_fail(context, KIN_FORMAT, "%s: the file of the tensor '%s' is no string",
                            path, key);
        if (!is_plain_name(file))
            return kin_fail(context, KIN_FORMAT,
                            "%s: the tensor '%s' is said to be in '%s'; a shard must be a file "
                            "beside the index, named without a path",
                            path, key, file);
        kin_shard_entry *entry = &index->entries[index->entry_count];
        kin_status status = find_shard(context, path, folder, file, index, &entry->shard);
        if (status != KIN_OK) return status;
        size_t size = strlen(key) + 1;
        entry->name = memcpy(next, key, size);
        next += size;
        index->entry_count++;
    }
    return KIN_OK;
}

kin_status kin_shard_index_read(kin_context *context, const char *path,
                                kin_shard_index *out_index) {
    *out_index = (kin_shard_index){0};
    json_t *root = NULL;
    kin_status status = kin_json_load(context, path, &root);
    if (status != KIN_OK) return status;
    json_t *map = json_object_get(root, "weight_map");
    if (!json_is_object(map)) {
        json_decref(root);
        return kin_fail(context, KIN_FORMAT,
                        "%s: no object 'weight_map'; is this the index of a checkpoint?", path);
    }
    char *folder = kin_path_folder(context, path);
    status = folder == NULL ? KIN_OUT_OF_MEMORY : read_map(context, path, folder, map, out_index);
    kin_free(context, folder);
    json_decref(root);
    if (status != KIN_OK) kin_shard_index_free(context, out_index);
    return status;
}

void kin_shard_index_free(kin_context *context, kin_shard_index *index) {
    for (size_t i = 0; i < index->file_count; i++) kin_free(context, index->files[i]);
    kin_free(context, index->files);
    kin_free(context, index->entries);
    kin_free(context, index->names);
    *index = (kin_shard_index){0};
}
