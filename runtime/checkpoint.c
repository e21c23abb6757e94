/* Checkpoints of whatever form under one list of tensors. */
#define _POSIX_C_SOURCE 200809L

#include "runtime/checkpoint.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/pickle.h"
#include "runtime/safetensors.h"
#include "runtime/shards.h"

struct kin_checkpoint {
    kin_context *context;
    char *path;
    kin_safetensors *safetensors; /* one of the two is used */
    kin_pickle **pickles;
    size_t pickle_count;
    char *entry;                      /* of the first pickle; NULL: none was opened */
    const kin_named_tensor **tensors; /* by name */
    size_t count;
};

static int compare_names(const void *a, const void *b) {
    const kin_named_tensor *const *x = a;
    const kin_named_tensor *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static kin_status allocate_list(kin_checkpoint *checkpoint, size_t count) {
    checkpoint->tensors = kin_calloc(checkpoint->context, count, sizeof *checkpoint->tensors);
    if (checkpoint->tensors != NULL) return KIN_OK;
    return kin_fail_in(checkpoint->context, KIN_OUT_OF_MEMORY, "%s", checkpoint->path);
}

static kin_status open_safetensors(kin_checkpoint *checkpoint) {
    kin_status status =
        kin_safetensors_open(checkpoint->context, checkpoint->path, &checkpoint->safetensors);
    if (status != KIN_OK) return status;
    size_t count = kin_safetensors_count(checkpoint->safetensors);
    status = allocate_list(checkpoint, count);
    for (size_t i = 0; i < count && status == KIN_OK; i++)
        checkpoint->tensors[checkpoint->count++] = kin_safetensors_at(checkpoint->safetensors, i);
    return status;
}

static kin_status open_one_pickle(kin_checkpoint *checkpoint, const char *path, const char *entry,
                                  const kin_named_tensor **out_tensors, size_t *out_count) {
    kin_pickle *file = NULL;
    kin_status status = kin_pickle_open(checkpoint->context, path, &file);
    if (status != KIN_OK) return status;
    checkpoint->pickles[checkpoint->pickle_count++] = file;
    const char *found = NULL;
    status = kin_pickle_state_dict(file, entry, out_tensors, out_count, &found);
    if (status != KIN_OK || checkpoint->entry != NULL) return status;
    checkpoint->entry = kin_strdup(checkpoint->context, found);
    return checkpoint->entry != NULL ? KIN_OK : KIN_OUT_OF_MEMORY;
}

static kin_status open_pickle(kin_checkpoint *checkpoint, const char *entry) {
    const kin_named_tensor *tensors = NULL;
    size_t count = 0;
    checkpoint->pickles = kin_calloc(checkpoint->context, 1, sizeof *checkpoint->pickles);
    if (checkpoint->pickles == NULL) return KIN_OUT_OF_MEMORY;
    kin_status status = open_one_pickle(checkpoint, checkpoint->path, entry, &tensors, &count);
    if (status == KIN_OK) status = allocate_list(checkpoint, count);
    for (size_t i = 0; i < count && status == KIN_OK; i++)
        checkpoint->tensors[checkpoint->count++] = &tensors[i];
    return status;
}

static int compare_entries(const void *a, const void *b) {
    const kin_shard_entry *x = a;
    const kin_shard_entry *y = b;
    if (x->shard != y->shard) return x->shard < y->shard ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* Opens one shard and takes the tensors that the index puts there: entries[0] to [count - 1]. */
static kin_status take_shard(kin_checkpoint *checkpoint, const char *path, const char *entry,
                             const kin_shard_entry *entries, size_t count) {
    const kin_named_tensor *tensors = NULL;
    size_t tensor_count = 0;
    kin_status status = open_one_pickle(checkpoint, path, entry, &tensors, &tensor_count);
    if (status != KIN_OK)
        return kin_fail_in(checkpoint->context, status, "a shard of %s", checkpoint->path);
    size_t first = checkpoint->count;
    for (size_t i = 0; i < tensor_count && count > 0; i++) {
        kin_shard_entry wanted = {.name = tensors[i].name, .shard = entries[0].shard};
        if (bsearch(&wanted, entries, count, sizeof *entries, compare_entries) != NULL)
            checkpoint->tensors[checkpoint->count++] = &tensors[i];
    }
    size_t taken = checkpoint->count - first;
    if (taken == count) return KIN_OK;
    const kin_named_tensor **part = checkpoint->tensors + first;
    if (taken > 0) qsort(part, taken, sizeof *part, compare_names);
    size_t missing = 0;
    while (missing < taken && strcmp(part[missing]->name, entries[missing].name) == 0) missing++;
    return kin_fail(checkpoint->context, KIN_FORMAT,
                    "%s: tensor '%s' is not in the shard %s, where the index says it is",
                    checkpoint->path, entries[missing].name, path);
}

static kin_status open_pickle_shards(kin_checkpoint *checkpoint, const char *entry,
                                     const kin_shard_index *index) {
    checkpoint->pickles =
        kin_calloc(checkpoint->context, index->file_count, sizeof *checkpoint->pickles);
    if (checkpoint->pickles == NULL) return KIN_OUT_OF_MEMORY;
    kin_status status = allocate_list(checkpoint, index->entry_count);
    qsort(index->entries, index->entry_count, sizeof *index->entries, compare_entries);
    size_t first = 0;
    for (size_t i = 0; i < index->file_count && status == KIN_OK; i++) {
        size_t end = first;
        while (end < index->entry_count && index->entries[end].shard == i) end++;
        status =
            take_shard(checkpoint, index->files[i], entry, index->entries + first, end - first);
        first = end;
    }
    return status;
}

/* True if the file begins as torch.save's forms do. */
static kin_status is_pickle(kin_context *context, const char *path, bool *out_is_pickle) {
    kin_mapping mapping;
    kin_status status = kin_file_map(context, path, &mapping);
    if (status != KIN_OK) return status;
    *out_is_pickle = (mapping.size >= 4 && memcmp(mapping.data, "PK\003\004", 4) == 0) ||
                     (mapping.size >= 2 && mapping.data[0] == 0x80 && mapping.data[1] <= 5 &&
                      /* The eighth byte of a safetensors header's length is 0, and '{' follows. */
                      !(mapping.size > 8 && mapping.data[7] == 0 && mapping.data[8] == '{'));
    /* Damaged files get the message that fits their name. */
    bool has_pickle_name = kin_path_ends_with(path, ".pth") || kin_path_ends_with(path, ".pt") ||
                           kin_path_ends_with(path, ".ckpt") || kin_path_ends_with(path, ".bin");
    bool is_safetensors = mapping.size > 8 && mapping.data[7] == 0 && mapping.data[8] == '{';
    if (has_pickle_name && !is_safetensors) *out_is_pickle = true;
    kin_file_unmap(&mapping);
    return KIN_OK;
}

/* The pickled file of a folder that has no safetensors; NULL if none, or out of memory. */
static kin_status choose_pickle(kin_context *context, const char *folder, char **out_path) {
    static const char *const names[] = {
        "model.safetensors",
        "diffusion_pytorch_model.safetensors",
        "model.safetensors.index.json",
        "diffusion_pytorch_model.safetensors.index.json",
        "pytorch_model.bin",
        "diffusion_pytorch_model.bin",
        "pytorch_model.bin.index.json",
        "diffusion_pytorch_model.bin.index.json",
    };
    *out_path = NULL;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char *candidate = kin_path_join(context, folder, names[i]);
        if (candidate == NULL) return KIN_OUT_OF_MEMORY;
        if (kin_file_exists(candidate)) {
            *out_path = candidate;
            return KIN_OK;
        }
        kin_free(context, candidate);
    }
    return kin_fail(context, KIN_NOT_FOUND,
                    "%s: the folder holds no checkpoint under a known name: model.safetensors, "
                    "diffusion_pytorch_model.safetensors, pytorch_model.bin, "
                    "diffusion_pytorch_model.bin or the .index.json of one",
                    folder);
}

static kin_status open_index(kin_checkpoint *checkpoint, const char *entry) {
    kin_shard_index index;
    bool pickled = false;
    kin_status status = kin_shard_index_read(checkpoint->context, checkpoint->path, &index);
    if (status != KIN_OK) return status;
    if (index.file_count > 0) {
        status = is_pickle(checkpoint->context, index.files[0], &pickled);
        if (status != KIN_OK)
            (void)kin_fail_in(checkpoint->context, status, "a shard of %s", checkpoint->path);
    }
    if (status == KIN_OK)
        status =
            pickled ? open_pickle_shards(checkpoint, entry, &index) : open_safetensors(checkpoint);
    kin_shard_index_free(checkpoint->context, &index);
    return status;
}

static kin_status open_any(kin_checkpoint *checkpoint, const char *path, const char *entry) {
    kin_context *context = checkpoint->context;
    kin_status status = KIN_OK;
    bool pickled = false;
    if (kin_file_is_folder(path)) status = choose_pickle(context, path, &checkpoint->path);
    else if ((checkpoint->path = kin_strdup(context, path)) == NULL) status = KIN_OUT_OF_MEMORY;
    if (status != KIN_OK) return status;
    if (kin_path_ends_with(checkpoint->path, ".json")) return open_index(checkpoint, entry);
    status = is_pickle(context, checkpoint->path, &pickled);
    if (status != KIN_OK) return status;
    return pickled ? open_pickle(checkpoint, entry) : open_safetensors(checkpoint);
}

kin_status kin_checkpoint_open(kin_context *context, const char *path, const char *entry,
                               kin_checkpoint **out_checkpoint) {
    *out_checkpoint = NULL;
    kin_checkpoint *checkpoint = kin_calloc(context, 1, sizeof *checkpoint);
    if (checkpoint == NULL) return KIN_OUT_OF_MEMORY;
    checkpoint->context = context;
    kin_status status = open_any(checkpoint, path, entry);
    if (status != KIN_OK) {
        kin_checkpoint_close(checkpoint);
        return status;
    }
    if (checkpoint->count > 0)
        qsort(checkpoint->tensors, checkpoint->count, sizeof *checkpoint->tensors, compare_names);
    *out_checkpoint = checkpoint;
    return KIN_OK;
}

void kin_checkpoint_close(kin_checkpoint *checkpoint) {
    if (checkpoint == NULL) return;
    kin_context *context = checkpoint->context;
    kin_safetensors_close(checkpoint->safetensors);
    for (size_t i = 0; i < checkpoint->pickle_count; i++) kin_pickle_close(checkpoint->pickles[i]);
    kin_free(context, checkpoint->pickles);
    kin_free(context, checkpoint->tensors);
    kin_free(context, checkpoint->entry);
    kin_free(context, checkpoint->path);
    kin_free(context, checkpoint);
}

void kin_checkpoint_forget(const kin_checkpoint *checkpoint, const void *data, size_t size) {
    if (checkpoint->safetensors) kin_safetensors_forget(checkpoint->safetensors, data, size);
    for (size_t i = 0; i < checkpoint->pickle_count; i++)
        kin_pickle_forget(checkpoint->pickles[i], data, size);
}

size_t kin_checkpoint_count(const kin_checkpoint *checkpoint) {
    return checkpoint->count;
}

const kin_named_tensor *kin_checkpoint_at(const kin_checkpoint *checkpoint, size_t index) {
    return index < checkpoint->count ? checkpoint->tensors[index] : NULL;
}

const kin_named_tensor *kin_checkpoint_find(const kin_checkpoint *checkpoint, const char *name) {
    kin_named_tensor wanted = {.name = name};
    const kin_named_tensor *key = &wanted;
    if (checkpoint->count == 0) return NULL;
    const kin_named_tensor **found = bsearch(&key, checkpoint->tensors, checkpoint->count,
                                             sizeof *checkpoint->tensors, compare_names);
    return found != NULL ? *found : NULL;
}

kin_status kin_checkpoint_get(const kin_checkpoint *checkpoint, const char *name,
                              const kin_named_tensor **out_tensor) {
    *out_tensor = kin_checkpoint_find(checkpoint, name);
    if (*out_tensor != NULL) return KIN_OK;
    const char *nearest = NULL;
    for (size_t i = 0; i < checkpoint->count; i++) {
        const char *pair[2] = {nearest, checkpoint->tensors[i]->name};
        nearest = kin_nearest_name(name, pair, 2);
    }
    return kin_fail(checkpoint->context, KIN_NOT_FOUND, "%s: there is no tensor '%s'%s%s%s",
                    checkpoint->path, name, nearest != NULL ? "; the nearest name is '" : "",
                    nearest != NULL ? nearest : "", nearest != NULL ? "'" : "");
}

const char *kin_checkpoint_path(const kin_checkpoint *checkpoint) {
    return checkpoint->path;
}

const char *kin_checkpoint_entry(const kin_checkpoint *checkpoint) {
    return checkpoint->entry;
}

const char *kin_checkpoint_metadata(const kin_checkpoint *checkpoint, const char *key) {
    if (checkpoint->safetensors == NULL) return NULL;
    return kin_safetensors_metadata(checkpoint->safetensors, key);
}
