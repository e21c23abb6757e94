/* Files of torch.save: opening, storages, and walks over the values. */
#define _POSIX_C_SOURCE 200809L

#include "runtime/pickle_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    BLOCK_SIZE = 1 << 16,
    TREE_LIMIT = 1 << 24, /* values of a walk */
    MEMORY_FACTOR = 128   /* bytes of memory per byte of file; honest pickles need up to 50 */
};
#define MEMORY_LIMIT ((size_t)1 << 31)

/* ---- memory ---- */

struct pickle_block {
    pickle_block *next;
    size_t size;
    size_t used;
    _Alignas(16) unsigned char bytes[];
};

void *kin_pickle_alloc(kin_pickle *file, size_t size) {
    size_t limit = MEMORY_LIMIT;
    if (file->mapping.size < limit / MEMORY_FACTOR)
        limit = file->mapping.size * MEMORY_FACTOR + 4 * BLOCK_SIZE;
    if (size > limit || file->block_bytes > limit - size) {
        (void)kin_fail(file->context, KIN_OUT_OF_MEMORY,
                       "the pickle needs far more memory than its size explains");
        return NULL;
    }
    size = (size + 15) / 16 * 16;
    file->block_bytes += size;
    pickle_block *block = file->blocks;
    if (block == NULL || block->size - block->used < size) {
        size_t block_size = size > BLOCK_SIZE / 4 ? size : BLOCK_SIZE;
        block = kin_alloc(file->context, sizeof *block + block_size);
        if (block == NULL) return NULL;
        block->size = block_size;
        block->used = 0;
        /* A block for one large piece goes behind the one that still has room. */
        if (block_size == size && file->blocks != NULL) {
            block->next = file->blocks->next;
            file->blocks->next = block;
        } else {
            block->next = file->blocks;
            file->blocks = block;
        }
    }
    unsigned char *result = block->bytes + block->used;
    block->used += size;
    memset(result, 0, size);
    return result;
}

char *kin_pickle_text(kin_pickle *file, const void *data, size_t size) {
    char *text = kin_pickle_alloc(file, size + 1);
    if (text != NULL && size > 0) memcpy(text, data, size);
    return text;
}

const char *kin_pickle_printable(const char *text, size_t size, char *target, size_t target_size) {
    size_t length = size < target_size - 1 ? size : target_size - 1;
    for (size_t i = 0; i < length; i++)
        target[i] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
    target[length] = '\0';
    return target;
}

pickle_node *kin_pickle_node(kin_pickle *file, kin_pickle_kind kind) {
    pickle_node *node = kin_pickle_alloc(file, sizeof *node);
    if (node != NULL) node->value.kind = kind;
    return node;
}

kin_status kin_pickle_append(kin_pickle *file, pickle_node *list, pickle_node *item) {
    size_t count = list->value.as.list.count;
    if (count == list->capacity) {
        size_t capacity = count < 2 ? 2 : count * 2;
        kin_pickle_value **items = kin_pickle_alloc(file, capacity * sizeof *items);
        if (items == NULL) return KIN_OUT_OF_MEMORY;
        if (count > 0) memcpy(items, list->value.as.list.items, count * sizeof *items);
        list->value.as.list.items = items;
        list->capacity = capacity;
    }
    list->value.as.list.items[count] = &item->value;
    list->value.as.list.count = count + 1;
    return KIN_OK;
}

/* ---- the check that every walk ends ---- */

static bool is_container(const pickle_node *node) {
    return node->value.kind == KIN_PICKLE_LIST || node->value.kind == KIN_PICKLE_TUPLE ||
           node->value.kind == KIN_PICKLE_DICT;
}

typedef struct visit {
    pickle_node *node;
    size_t next;
    uint32_t tree_size;
    uint16_t height;
} visit;

static kin_status fail_tree(const kin_pickle *file, const char *what) {
    return kin_fail(file->context, KIN_FORMAT, "%s: bad pickle: %s", file->path, what);
}

/* Depth first with a stack of its own. A node that is met again is counted, not walked, so this
 * takes as long as there are nodes however often they are shared. */
static kin_status check_tree(const kin_pickle *file, pickle_node *root) {
    visit path[KIN_PICKLE_DEPTH];
    size_t depth = 1;
    path[0] = (visit){.node = root, .tree_size = 1, .height = 1};
    while (depth > 0) {
        visit *here = &path[depth - 1];
        pickle_node *node = here->node;
        if (is_container(node) && here->next < node->value.as.list.count) {
            pickle_node *child = (pickle_node *)node->value.as.list.items[here->next];
            if (child->is_open) return fail_tree(file, "a value holds itself");
            if (child->tree_size == 0) {
                if (depth == KIN_PICKLE_DEPTH) return fail_tree(file, "it is nested too deep");
                node->is_open = true;
                path[depth++] = (visit){.node = child, .tree_size = 1, .height = 1};
                continue;
            }
            here->next++;
            here->tree_size += child->tree_size;
            if (here->tree_size > TREE_LIMIT)
                return fail_tree(file, "shared values unfold into too many");
            if (child->height >= here->height) here->height = (uint16_t)(child->height + 1);
            if (depth - 1 + here->height > KIN_PICKLE_DEPTH)
                return fail_tree(file, "it is nested too deep");
            continue;
        }
        node->is_open = false;
        node->tree_size = here->tree_size;
        node->height = here->height;
        depth--;
    }
    return KIN_OK;
}

/* ---- storages ---- */

static int compare_storages(const void *a, const void *b) {
    const pickle_storage *const *x = a;
    const pickle_storage *const *y = b;
    if ((*x)->key_size != (*y)->key_size) return (*x)->key_size < (*y)->key_size ? -1 : 1;
    return memcmp((*x)->key, (*y)->key, (*x)->key_size);
}

/* All mentions of storages, sorted by key; in the file's blocks. */
static kin_status sort_storages(kin_pickle *file, pickle_storage ***out_sorted) {
    size_t count = 0;
    *out_sorted = kin_pickle_alloc(file, file->storage_count * sizeof **out_sorted);
    if (*out_sorted == NULL) return KIN_OUT_OF_MEMORY;
    for (pickle_storage *at = file->storages; at != NULL; at = at->next)
        (*out_sorted)[count++] = at;
    if (count > 0) qsort(*out_sorted, count, sizeof **out_sorted, compare_storages);
    for (size_t i = 1; i < count; i++) {
        const pickle_storage *a = (*out_sorted)[i - 1];
        const pickle_storage *b = (*out_sorted)[i];
        if (compare_storages(&a, &b) == 0 && (a->type != b->type || a->count != b->count))
            return kin_fail(file->context, KIN_FORMAT, "%s: storage '%s' is described in two ways",
                            file->path, a->key);
    }
    return KIN_OK;
}

/* Copies what is not aligned and widens small integers. Copies are as large as the file, or 4 times
 * that, so they are not counted among the blocks' bytes. */
static kin_status adopt_data(kin_pickle *file, pickle_storage *storage, const unsigned char *data) {
    const pickle_type *type = &kin_pickle_types[storage->type];
    size_t size = kin_dtype_size(type->dtype);
    bool is_widened = size != type->size;
    storage->data = data;
    if (!is_widened && (uintptr_t)data % size == 0) return KIN_OK;
    size_t bytes = (size_t)storage->count * size;
    pickle_block *block = kin_alloc(file->context, sizeof *block + bytes);
    if (block == NULL) return kin_fail_in(file->context, KIN_OUT_OF_MEMORY, "%s", file->path);
    *block = (pickle_block){.size = bytes, .used = bytes};
    if (file->blocks != NULL) {
        block->next = file->blocks->next;
        file->blocks->next = block;
    } else {
        file->blocks = block;
    }
    storage->data = block->bytes;
    if (!is_widened) {
        memcpy(block->bytes, data, bytes);
        return KIN_OK;
    }
    int32_t *out = (int32_t *)(void *)block->bytes;
    for (int64_t i = 0; i < storage->count; i++)
        out[i] = type->size == 1 ? (int8_t)data[i]
                                 : (int16_t)(uint16_t)(data[2 * i] | data[2 * i + 1] << 8);
    return KIN_OK;
}

static kin_status find_zip_data(kin_pickle *file, pickle_storage *storage) {
    char name[80];
    snprintf(name, sizeof name, "data/%s", storage->key);
    const pickle_record *record = NULL;
    kin_status status = kin_pickle_get_record(file, name, &record);
    if (status != KIN_OK) return status;
    size_t bytes = (size_t)storage->count * kin_pickle_types[storage->type].size;
    if (record->size != bytes)
        return kin_fail(file->context, KIN_FORMAT,
                        "%s: record '%s' has %zu bytes; the pickle says %zu", file->path, name,
                        record->size, bytes);
    return adopt_data(file, storage, record->data);
}

static kin_status find_all_zip_data(kin_pickle *file, pickle_storage **sorted) {
    for (size_t i = 0; i < file->storage_count; i++) {
        if (i > 0 && compare_storages(&sorted[i - 1], &sorted[i]) == 0) {
            sorted[i]->data = sorted[i - 1]->data;
            continue;
        }
        kin_status status = find_zip_data(file, sorted[i]);
        if (status != KIN_OK) return status;
    }
    return KIN_OK;
}

/* Points every tensor at its element 0. That it fits its storage was checked when it was built. */
static void place_tensors(kin_pickle *file) {
    for (pickle_tensor *at = file->tensors; at != NULL; at = at->next) {
        const pickle_storage *storage = at->storage;
        const pickle_storage *base = storage->base != NULL ? storage->base : storage;
        int64_t offset = storage->base != NULL ? storage->offset : 0;
        /* An empty tensor may name any offset. */
        if (kin_desc_count(&at->tensor.desc) > 0) offset += at->offset;
        at->tensor.data = (unsigned char *)(uintptr_t)base->data +
                          (size_t)offset * kin_dtype_size(kin_pickle_types[base->type].dtype);
    }
}

/* ---- the two forms ---- */

static kin_status read_zip_form(kin_pickle *file, pickle_node **out_root) {
    const pickle_record *record = NULL;
    pickle_storage **sorted = NULL;
    kin_status status = kin_pickle_read_zip(file, &record);
    if (status != KIN_OK) return status;
    const unsigned char *at = record->data;
    status = kin_pickle_run(file, &at, record->data + record->size, true, out_root);
    if (status == KIN_OK) status = sort_storages(file, &sorted);
    if (status == KIN_OK) status = find_all_zip_data(file, sorted);
    return status;
}

static kin_status check_legacy_start(kin_pickle *file, const unsigned char **at,
                                     const unsigned char *end) {
    static const unsigned char magic[10] = {0x6C, 0xFC, 0x9C, 0x46, 0xF9,
                                            0x20, 0x6A, 0xA8, 0x50, 0x19};
    pickle_node *node = NULL;
    kin_status status = kin_pickle_run(file, at, end, false, &node);
    if (status != KIN_OK) return status;
    if (node->value.kind != KIN_PICKLE_BIG_INT || node->value.as.text.size != sizeof magic ||
        memcmp(node->value.as.text.data, magic, sizeof magic) != 0)
        return kin_fail(file->context, KIN_FORMAT, "%s: a pickle, but none of torch.save",
                        file->path);
    status = kin_pickle_run(file, at, end, false, &node);
    if (status != KIN_OK) return status;
    if (node->value.kind != KIN_PICKLE_INT || node->value.as.integer != 1001)
        return kin_fail(file->context, KIN_FORMAT, "%s: an unknown version of the format",
                        file->path);
    status = kin_pickle_run(file, at, end, false, &node);
    if (status != KIN_OK) return status;
    const kin_pickle_value *little = kin_pickle_lookup(&node->value, "little_endian");
    if (little == NULL || little->kind != KIN_PICKLE_BOOL)
        return kin_fail(file->context, KIN_FORMAT, "%s: the system's description is missing",
                        file->path);
    if (!little->as.boolean)
        return kin_fail(file->context, KIN_UNSUPPORTED,
                        "%s: saved on a big-endian machine; save it again on another", file->path);
    return KIN_OK;
}

/* One storage behind the pickles: the number of elements, then the elements. */
static kin_status read_legacy_storage(kin_pickle *file, pickle_storage **sorted,
                                      const pickle_node *key, const unsigned char **at,
                                      const unsigned char *end) {
    if (key->value.kind != KIN_PICKLE_STRING)
        return kin_fail(file->context, KIN_FORMAT, "%s: a storage key that is no string",
                        file->path);
    pickle_storage wanted = {.key = key->value.as.text.data, .key_size = key->value.as.text.size};
    const pickle_storage *pointer = &wanted;
    pickle_storage **found =
        file->storage_count == 0
            ? NULL
            : bsearch(&pointer, sorted, file->storage_count, sizeof *sorted, compare_storages);
    if (found == NULL)
        return kin_fail(file->context, KIN_FORMAT,
                        "%s: it has a storage that the pickle does not "
                        "name",
                        file->path);
    if ((*found)->data != NULL)
        return kin_fail(file->context, KIN_FORMAT, "%s: storage '%s' comes twice", file->path,
                        (*found)->key);
    if (end - *at < 8)
        return kin_fail(file->context, KIN_FORMAT, "%s: truncated before storage '%s'", file->path,
                        (*found)->key);
    uint64_t count = 0;
    for (int i = 7; i >= 0; i--) count = count << 8 | (*at)[i];
    *at += 8;
    if (count != (uint64_t)(*found)->count)
        return kin_fail(file->context, KIN_FORMAT,
                        "%s: storage '%s' has %llu elements; the pickle says %lld", file->path,
                        (*found)->key, (unsigned long long)count, (long long)(*found)->count);
    size_t size = kin_pickle_types[(*found)->type].size;
    if (count > (uint64_t)(end - *at) / size)
        return kin_fail(file->context, KIN_FORMAT, "%s: truncated in storage '%s'", file->path,
                        (*found)->key);
    kin_status status = adopt_data(file, *found, *at);
    *at += (size_t)count * size;
    /* The same storage may be mentioned before and behind the one that was found. */
    for (pickle_storage **s = found;
         status == KIN_OK && s > sorted && compare_storages(s - 1, found) == 0; s--)
        s[-1]->data = (*found)->data;
    for (pickle_storage **s = found + 1;
         status == KIN_OK && s < sorted + file->storage_count && compare_storages(s, found) == 0;
         s++)
        s[0]->data = (*found)->data;
    return status;
}

static kin_status read_legacy_form(kin_pickle *file, pickle_node **out_root) {
    const unsigned char *at = file->mapping.data;
    const unsigned char *end = at + file->mapping.size;
    pickle_storage **sorted = NULL;
    pickle_node *keys = NULL;
    kin_status status = check_legacy_start(file, &at, end);
    if (status == KIN_OK) status = kin_pickle_run(file, &at, end, true, out_root);
    if (status == KIN_OK) status = kin_pickle_run(file, &at, end, false, &keys);
    if (status == KIN_OK) status = sort_storages(file, &sorted);
    if (status != KIN_OK) return status;
    if (keys->value.kind != KIN_PICKLE_LIST)
        return kin_fail(file->context, KIN_FORMAT, "%s: the list of storages is missing",
                        file->path);
    for (size_t i = 0; i < keys->value.as.list.count && status == KIN_OK; i++)
        status = read_legacy_storage(file, sorted, (pickle_node *)keys->value.as.list.items[i], &at,
                                     end);
    for (size_t i = 0; i < file->storage_count && status == KIN_OK; i++)
        if (sorted[i]->data == NULL)
            status = kin_fail(file->context, KIN_FORMAT, "%s: the data of storage '%s' is missing",
                              file->path, sorted[i]->key);
    return status;
}

/* What a file that is neither may be. */
static kin_status fail_unknown(const kin_pickle *file) {
    static const struct {
        const char *start;
        const char *text;
    } known[] = {
        {"<", "an HTML or XML page: the download gave an error page"},
        {"version https://git-lfs", "a Git LFS pointer: fetch the real file with 'git lfs pull'"},
        {"\x93NUMPY", "a NumPy array"},
    };
    const kin_mapping *mapping = &file->mapping;
    const char *text = "not a file of torch.save";
    if (mapping->size == 0) text = "an empty file";
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        size_t length = strlen(known[i].start);
        if (mapping->size >= length && memcmp(mapping->data, known[i].start, length) == 0)
            text = known[i].text;
    }
    if (mapping->size > 8 && mapping->data[8] == '{' && mapping->data[7] == 0)
        text = "a safetensors file under another name; call it .safetensors";
    return kin_fail(file->context, KIN_FORMAT, "%s: %s", file->path, text);
}

static kin_status open_file(kin_pickle *file) {
    kin_status status = kin_file_map(file->context, file->path, &file->mapping);
    pickle_node *root = NULL;
    if (status != KIN_OK) return status;
    const unsigned char *data = file->mapping.data;
    size_t size = file->mapping.size;
    if (size >= 4 && memcmp(data, "PK\003\004", 4) == 0) status = read_zip_form(file, &root);
    else if (size >= 2 && data[0] == 0x80 && data[1] <= 5) status = read_legacy_form(file, &root);
    else return fail_unknown(file);
    if (status == KIN_OK) status = check_tree(file, root);
    if (status != KIN_OK) return status;
    place_tensors(file);
    file->root = &root->value;
    return KIN_OK;
}

kin_status kin_pickle_open(kin_context *context, const char *path, kin_pickle **out_file) {
    *out_file = NULL;
    kin_pickle *file = kin_calloc(context, 1, sizeof *file);
    if (file == NULL) return KIN_OUT_OF_MEMORY;
    file->context = context;
    file->path = kin_strdup(context, path);
    kin_status status = file->path == NULL ? KIN_OUT_OF_MEMORY : open_file(file);
    if (status != KIN_OK) {
        kin_pickle_close(file);
        return status;
    }
    *out_file = file;
    return KIN_OK;
}

void kin_pickle_close(kin_pickle *file) {
    if (file == NULL) return;
    kin_context *context = file->context;
    while (file->blocks != NULL) {
        pickle_block *next = file->blocks->next;
        kin_free(context, file->blocks);
        file->blocks = next;
    }
    kin_file_unmap(&file->mapping);
    kin_free(context, file->path);
    kin_free(context, file);
}

void kin_pickle_forget(const kin_pickle *file, const void *data, size_t size) {
    kin_mapping_forget(&file->mapping, data, size);
}

const kin_pickle_value *kin_pickle_root(const kin_pickle *file) {
    return file->root;
}

const kin_pickle_value *kin_pickle_lookup(const kin_pickle_value *dict, const char *key) {
    if (dict == NULL || dict->kind != KIN_PICKLE_DICT) return NULL;
    for (size_t i = dict->as.list.count; i >= 2; i -= 2) { /* from the end: a later key wins */
        const kin_pickle_value *name = dict->as.list.items[i - 2];
        if (name->kind == KIN_PICKLE_STRING && name->as.text.size == strlen(key) &&
            memcmp(name->as.text.data, key, name->as.text.size) == 0)
            return dict->as.list.items[i - 1];
    }
    return NULL;
}
