/* Safetensors: the reader. The layout is checked in full before a tensor is given out. */
#define _POSIX_C_SOURCE 200809L

#include "runtime/safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/json.h"
#include "runtime/shards.h"

#define HEADER_LIMIT ((uint64_t)100000000) /* of the safetensors library */
#define Q8_0_KEY "kinora.q8_0."

typedef struct entry {
    kin_named_tensor tensor;
    int stored; /* index into stored_types */
    uint64_t begin;
    uint64_t end;
} entry;

/* One file of the checkpoint. */
typedef struct part {
    const char *path;
    kin_mapping mapping;
    const unsigned char *data; /* after the header */
    uint64_t data_size;
    entry *entries; /* by place in the file */
    size_t count;
    kin_metadata *metadata;
    size_t metadata_count;
    char *texts;  /* memory of names and metadata */
    void *copies; /* memory of tensors that could not stay in place */
} part;

struct kin_safetensors {
    kin_context *context;
    char *path;
    kin_shard_index index; /* empty for a single file */
    part *parts;
    size_t part_count;
    const kin_named_tensor **tensors;
    const kin_named_tensor **by_name;
    size_t count;
};

typedef struct stored_type {
    const char *name;
    size_t size;
    kin_dtype dtype; /* as it is given out */
} stored_type;

static const stored_type stored_types[] = {
    {"F64", 8, KIN_F64}, {"F32", 4, KIN_F32}, {"F16", 2, KIN_F16}, {"BF16", 2, KIN_BF16},
    {"I64", 8, KIN_I64}, {"I32", 4, KIN_I32}, {"I16", 2, KIN_I32}, {"I8", 1, KIN_I32},
    {"U32", 4, KIN_I64}, {"U16", 2, KIN_I32}, {"U8", 1, KIN_U8},   {"BOOL", 1, KIN_BOOL},
};
enum { STORED_TYPE_COUNT = sizeof stored_types / sizeof stored_types[0] };

/* ---- the header's entries ---- */

static kin_status fail_tensor(const kin_safetensors *file, const part *of, const char *name,
                              const char *what) {
    return kin_fail(file->context, KIN_FORMAT, "%s: tensor '%s': %s", of->path, name, what);
}

static kin_status read_dtype(const kin_safetensors *file, const part *of, const char *name,
                             const json_t *value, entry *out_entry) {
    const char *text = json_string_value(value);
    if (text == NULL) return fail_tensor(file, of, name, "the dtype is missing or no string");
    for (int i = 0; i < STORED_TYPE_COUNT; i++) {
        if (strcmp(stored_types[i].name, text) != 0) continue;
        out_entry->stored = i;
        return KIN_OK;
    }
    return kin_fail(file->context, KIN_FORMAT, "%s: tensor '%s': the dtype '%s' is not known",
                    of->path, name, text);
}

/* Shape and, from it, the number of bytes. */
static kin_status read_shape(const kin_safetensors *file, const part *of, const char *name,
                             const json_t *value, entry *out_entry, uint64_t *out_bytes) {
    int64_t dims[KIN_MAX_RANK];
    if (!json_is_array(value))
        return fail_tensor(file, of, name, "the shape is missing or no array");
    size_t rank = json_array_size(value);
    if (rank > KIN_MAX_RANK)
        return kin_fail(file->context, KIN_UNSUPPORTED,
                        "%s: tensor '%s': it has %zu axes; %d are possible", of->path, name, rank,
                        KIN_MAX_RANK);
    bool is_empty = false;
    for (size_t i = 0; i < rank; i++) {
        const json_t *dim = json_array_get(value, i);
        if (!json_is_integer(dim) || json_integer_value(dim) < 0)
            return fail_tensor(file, of, name, "the shape holds something that is no size");
        dims[i] = json_integer_value(dim);
        is_empty = is_empty || dims[i] == 0;
    }
    const stored_type *stored = &stored_types[out_entry->stored];
    uint64_t bytes = is_empty ? 0 : stored->size;
    for (size_t i = 0; i < rank && !is_empty; i++) {
        if (bytes > (uint64_t)INT64_MAX / (uint64_t)dims[i])
            return fail_tensor(file, of, name, "the shape has more elements than can be counted");
        bytes *= (uint64_t)dims[i];
    }
    out_entry->tensor.desc = kin_desc_dense(stored->dtype, (int)rank, dims);
    *out_bytes = bytes;
    return KIN_OK;
}

static kin_status read_offsets(const kin_safetensors *file, const part *of, const char *name,
                               const json_t *value, uint64_t bytes, entry *out_entry) {
    const json_t *begin = json_array_get(value, 0);
    const json_t *end = json_array_get(value, 1);
    if (!json_is_array(value) || json_array_size(value) != 2 || !json_is_integer(begin) ||
        !json_is_integer(end))
        return fail_tensor(file, of, name, "data_offsets is missing or no pair of integers");
    if (json_integer_value(begin) < 0 || json_integer_value(end) < json_integer_value(begin))
        return fail_tensor(file, of, name, "data_offsets is negative or ends before it begins");
    out_entry->begin = (uint64_t)json_integer_value(begin);
    out_entry->end = (uint64_t)json_integer_value(end);
    if (out_entry->end > of->data_size)
        return kin_fail(file->context, KIN_FORMAT,
                        "%s: tensor '%s': its data ends at byte %llu, and the file has %llu bytes "
                        "of data; is it truncated?",
                        of->path, name, (unsigned long long)out_entry->end,
                        (unsigned long long)of->data_size);
    if (out_entry->end - out_entry->begin != bytes)
        return kin_fail(file->context, KIN_FORMAT,
                        "%s: tensor '%s': %llu bytes of data; its shape and dtype need %llu",
                        of->path, name, (unsigned long long)(out_entry->end - out_entry->begin),
                        (unsigned long long)bytes);
    return KIN_OK;
}

static kin_status read_entry(const kin_safetensors *file, const part *of, const char *name,
                             const json_t *value, entry *out_entry) {
    uint64_t bytes = 0;
    if (!json_is_object(value)) return fail_tensor(file, of, name, "its entry is no object");
    const char *key;
    json_t *ignored;
    json_object_foreach((json_t *)(uintptr_t)value, key, ignored) {
        if (strcmp(key, "dtype") != 0 && strcmp(key, "shape") != 0 &&
            strcmp(key, "data_offsets") != 0)
            return kin_fail(file->context, KIN_FORMAT, "%s: tensor '%s': unknown field '%s'",
                            of->path, name, key);
    }
    kin_status status = read_dtype(file, of, name, json_object_get(value, "dtype"), out_entry);
    if (status == KIN_OK)
        status = read_shape(file, of, name, json_object_get(value, "shape"), out_entry, &bytes);
    if (status == KIN_OK)
        status =
            read_offsets(file, of, name, json_object_get(value, "data_offsets"), bytes, out_entry);
    return status;
}

/* ---- one file ---- */

static const char *keep_text(char **next, const char *text) {
    size_t size = strlen(text) + 1;
    char *kept = memcpy(*next, text, size);
    *next += size;
    return kept;
}

static int compare_keys(const void *a, const void *b) {
    const kin_metadata *x = a;
    const kin_metadata *y = b;
    return strcmp(x->key, y->key);
}

static kin_status read_metadata(const kin_safetensors *file, part *of, const json_t *metadata,
                                char **next_text) {
    const char *key;
    json_t *value;
    if (metadata == NULL) return KIN_OK;
    of->metadata = kin_calloc(file->context, json_object_size(metadata), sizeof *of->metadata);
    if (of->metadata == NULL) return kin_fail_in(file->context, KIN_OUT_OF_MEMORY, "%s", of->path);
    json_object_foreach((json_t *)(uintptr_t)metadata, key, value) {
        of->metadata[of->metadata_count].key = keep_text(next_text, key);
        of->metadata[of->metadata_count].value = keep_text(next_text, json_string_value(value));
        of->metadata_count++;
    }
    if (of->metadata_count > 0)
        qsort(of->metadata, of->metadata_count, sizeof *of->metadata, compare_keys);
    return KIN_OK;
}

/* Checks `__metadata__` and counts the bytes of all texts. */
static kin_status measure_texts(const kin_safetensors *file, const part *of, json_t *header,
                                size_t *out_bytes) {
    const char *key;
    json_t *value;
    const json_t *metadata = json_object_get(header, "__metadata__");
    *out_bytes = 0;
    if (metadata != NULL && !json_is_object(metadata))
        return kin_fail(file->context, KIN_FORMAT, "%s: __metadata__ is no object", of->path);
    json_object_foreach((json_t *)(uintptr_t)metadata, key, value) {
        if (!json_is_string(value))
            return kin_fail(file->context, KIN_FORMAT, "%s: __metadata__: '%s' is no string",
                            of->path, key);
        *out_bytes += strlen(key) + 1 + json_string_length(value) + 1;
    }
    json_object_foreach(header, key, value) {
        *out_bytes += strlen(key) + 1;
    }
    return KIN_OK;
}

static int compare_places(const void *a, const void *b) {
    const entry *x = a;
    const entry *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) return x->end < y->end ? -1 : 1;
    return 0;
}

/* Sorts the entries and makes sure that they cover the data without holes or overlaps. */
static kin_status check_layout(const kin_safetensors *file, part *of) {
    uint64_t reached = 0;
    if (of->count > 0) qsort(of->entries, of->count, sizeof *of->entries, compare_places);
    for (size_t i = 0; i < of->count; i++) {
        const entry *at = &of->entries[i];
        if (at->begin < reached)
            return kin_fail(file->context, KIN_FORMAT,
                            "%s: tensor '%s': its data overlaps that of '%s'", of->path,
                            at->tensor.name, of->entries[i > 0 ? i - 1 : 0].tensor.name);
        if (at->begin > reached)
            return kin_fail(file->context, KIN_FORMAT,
                            "%s: tensor '%s': the bytes %llu to %llu before it belong to no tensor",
                            of->path, at->tensor.name, (unsigned long long)reached,
                            (unsigned long long)at->begin);
        reached = at->end;
    }
    if (reached != of->data_size)
        return kin_fail(file->context, KIN_FORMAT,
                        "%s: %llu bytes after the last tensor belong to no tensor", of->path,
                        (unsigned long long)(of->data_size - reached));
    return KIN_OK;
}

/* Looks for the key "kinora.q8_0.<name>" without putting it together. */
static int compare_q8_0_key(const void *name, const void *metadata) {
    const char *key = ((const kin_metadata *)metadata)->key;
    int order = strncmp(Q8_0_KEY, key, sizeof Q8_0_KEY - 1);
    return order != 0 ? order : strcmp(name, key + sizeof Q8_0_KEY - 1);
}

/* Gives U8 tensors that the metadata names their true type. */
static kin_status restore_q8_0(const kin_safetensors *file, part *of) {
    for (size_t i = 0; i < of->count && of->metadata_count > 0; i++) {
        kin_named_tensor *tensor = &of->entries[i].tensor;
        if (strcmp(stored_types[of->entries[i].stored].name, "U8") != 0) continue;
        const kin_metadata *found = bsearch(tensor->name, of->metadata, of->metadata_count,
                                            sizeof *of->metadata, compare_q8_0_key);
        if (found == NULL) continue;
        const char *value = found->value;
        char *end = NULL;
        long long last = value[0] >= '0' && value[0] <= '9' ? strtoll(value, &end, 10) : -1;
        kin_desc desc = tensor->desc;
        size_t bytes = kin_desc_bytes(&desc);
        if (last >= 0 && *end == '\0' && desc.rank > 0) {
            desc.dims[desc.rank - 1] = last;
            desc = kin_desc_dense(KIN_Q8_0, desc.rank, desc.dims);
        }
        if (desc.dtype != KIN_Q8_0 || kin_desc_bytes(&desc) != bytes)
            return fail_tensor(file, of, tensor->name,
                               "the metadata says q8_0 with a length that does not fit");
        tensor->desc = desc;
    }
    return KIN_OK;
}

static size_t alignment_of(kin_dtype dtype) {
    return dtype == KIN_Q8_0 ? 2 : kin_dtype_size(dtype);
}

static bool stays_in_place(const part *of, const entry *at) {
    const stored_type *stored = &stored_types[at->stored];
    if (stored->size != kin_dtype_size(stored->dtype)) return false;
    return (uintptr_t)(of->data + at->begin) % alignment_of(at->tensor.desc.dtype) == 0;
}

static size_t copy_bytes(const entry *at) {
    const stored_type *stored = &stored_types[at->stored];
    size_t factor = kin_dtype_size(stored->dtype) / stored->size;
    /* At most 4 times a file that is mapped: this cannot overflow. */
    return ((size_t)(at->end - at->begin) * factor + 15) / 16 * 16;
}

static void widen(const unsigned char *source, const stored_type *stored, int64_t count,
                  void *target) {
    int32_t *out = target;
    int64_t *out_wide = target;
    bool is_signed = stored->name[0] == 'I';
    for (int64_t i = 0; i < count; i++) {
        if (stored->size == 1) {
            out[i] = (int8_t)source[i];
        } else if (stored->size == 2) {
            uint16_t value = (uint16_t)(source[2 * i] | source[2 * i + 1] << 8);
            out[i] = is_signed ? (int16_t)value : value;
        } else {
            uint32_t value;
            memcpy(&value, source + 4 * i, sizeof value);
            out_wide[i] = value;
        }
    }
}

/* Points every tensor at its data; copies those that cannot stay. */
static kin_status place_data(const kin_safetensors *file, part *of) {
    size_t bytes = 0;
    for (size_t i = 0; i < of->count; i++)
        if (!stays_in_place(of, &of->entries[i])) bytes += copy_bytes(&of->entries[i]);
    if (bytes > 0 && (of->copies = kin_alloc(file->context, bytes)) == NULL)
        return kin_fail_in(file->context, KIN_OUT_OF_MEMORY, "%s", of->path);
    unsigned char *next = of->copies;
    for (size_t i = 0; i < of->count; i++) {
        entry *at = &of->entries[i];
        const stored_type *stored = &stored_types[at->stored];
        const unsigned char *source = of->data + at->begin;
        if (stays_in_place(of, at)) {
            at->tensor.data = source;
            continue;
        }
        at->tensor.data = source; /* stays so if the tensor is empty */
        if (at->end == at->begin) continue;
        at->tensor.data = next;
        if (stored->size != kin_dtype_size(stored->dtype))
            widen(source, stored, kin_desc_count(&at->tensor.desc), next);
        else memcpy(next, source, (size_t)(at->end - at->begin));
        next += copy_bytes(at);
    }
    return KIN_OK;
}

static kin_status read_header(const kin_safetensors *file, part *of, json_t *header) {
    size_t bytes = 0;
    const char *key;
    json_t *value;
    kin_status status = measure_texts(file, of, header, &bytes);
    if (status != KIN_OK) return status;
    of->texts = kin_alloc(file->context, bytes);
    of->entries = kin_calloc(file->context, json_object_size(header), sizeof *of->entries);
    if (of->texts == NULL || of->entries == NULL)
        return kin_fail_in(file->context, KIN_OUT_OF_MEMORY, "%s", of->path);
    char *next = of->texts;
    status = read_metadata(file, of, json_object_get(header, "__metadata__"), &next);
    if (status != KIN_OK) return status;
    json_object_foreach(header, key, value) {
        if (strcmp(key, "__metadata__") == 0) continue;
        entry *at = &of->entries[of->count];
        at->tensor.name = keep_text(&next, key);
        status = read_entry(file, of, key, value, at);
        if (status != KIN_OK) return status;
        of->count++;
    }
    status = check_layout(file, of);
    if (status == KIN_OK) status = restore_q8_0(file, of);
    if (status == KIN_OK) status = place_data(file, of);
    return status;
}

static kin_status open_part(const kin_safetensors *file, const char *path, part *of) {
    kin_context *context = file->context;
    of->path = path;
    kin_status status = kin_file_map(context, path, &of->mapping);
    if (status != KIN_OK) return status;
    const unsigned char *bytes = of->mapping.data;
    if (of->mapping.size < 8)
        return kin_fail(context, KIN_FORMAT,
                        "%s: %zu bytes are no safetensors file; was it downloaded in full?", path,
                        of->mapping.size);
    uint64_t length = 0;
    for (int i = 7; i >= 0; i--) length = length << 8 | bytes[i];
    if (length > HEADER_LIMIT)
        return kin_fail(context, KIN_FORMAT,
                        "%s: not a safetensors file, its header would have %llu bytes", path,
                        (unsigned long long)length);
    if (length > of->mapping.size - 8)
        return kin_fail(context, KIN_FORMAT,
                        "%s: truncated: the header has %llu bytes, the file %zu", path,
                        (unsigned long long)length, of->mapping.size);
    if (length == 0 || bytes[8] != '{')
        return kin_fail(context, KIN_FORMAT, "%s: the header does not begin with '{'", path);
    of->data = bytes + 8 + length;
    of->data_size = of->mapping.size - 8 - length;
    json_t *header = NULL;
    status = kin_json_parse(context, path, (const char *)bytes + 8, (size_t)length, &header);
    if (status == KIN_OK) status = read_header(file, of, header);
    json_decref(header);
    return status;
}

/* ---- the whole checkpoint ---- */

static int compare_names(const void *a, const void *b) {
    const kin_named_tensor *const *x = a;
    const kin_named_tensor *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static const kin_named_tensor *find_sorted(const kin_named_tensor *const *sorted, size_t count,
                                           const char *name) {
    kin_named_tensor wanted = {.name = name};
    const kin_named_tensor *key = &wanted;
    if (count == 0) return NULL;
    const kin_named_tensor *const *found =
        bsearch(&key, sorted, count, sizeof *sorted, compare_names);
    return found != NULL ? *found : NULL;
}

static kin_status allocate_lists(kin_safetensors *file, size_t count) {
    file->tensors = kin_calloc(file->context, count, sizeof *file->tensors);
    file->by_name = kin_calloc(file->context, count, sizeof *file->by_name);
    if (file->tensors == NULL || file->by_name == NULL)
        return kin_fail_in(file->context, KIN_OUT_OF_MEMORY, "%s", file->path);
    return KIN_OK;
}

static void sort_by_name(kin_safetensors *file) {
    if (file->count == 0) return;
    memcpy(file->by_name, file->tensors, file->count * sizeof *file->by_name);
    qsort(file->by_name, file->count, sizeof *file->by_name, compare_names);
}

static kin_status open_single(kin_safetensors *file) {
    file->parts = kin_calloc(file->context, 1, sizeof *file->parts);
    if (file->parts == NULL) return kin_fail_in(file->context, KIN_OUT_OF_MEMORY, "%s", file->path);
    file->part_count = 1;
    kin_status status = open_part(file, file->path, &file->parts[0]);
    if (status == KIN_OK) status = allocate_lists(file, file->parts[0].count);
    if (status != KIN_OK) return status;
    for (size_t i = 0; i < file->parts[0].count; i++)
        file->tensors[file->count++] = &file->parts[0].entries[i].tensor;
    sort_by_name(file);
    return KIN_OK;
}

static int compare_entries(const void *a, const void *b) {
    const kin_shard_entry *x = a;
    const kin_shard_entry *y = b;
    if (x->shard != y->shard) return x->shard < y->shard ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* Takes from one shard the tensors that the index says are in it. `mapped` are the shard's entries
 * of the index, by name; both lists are walked side by side. */
static kin_status take_shard(kin_safetensors *file, const part *of, const kin_shard_entry *mapped,
                             size_t mapped_count) {
    const kin_named_tensor **sorted = file->by_name + file->count;
    size_t first = file->count;
    if (mapped_count == 0) return KIN_OK;
    for (size_t i = 0; i < of->count; i++) {
        const kin_named_tensor *tensor = &of->entries[i].tensor;
        kin_shard_entry wanted = {.name = tensor->name, .shard = mapped[0].shard};
        if (bsearch(&wanted, mapped, mapped_count, sizeof *mapped, compare_entries) == NULL)
            continue;
        file->tensors[file->count++] = tensor;
    }
    size_t taken = file->count - first;
    if (taken == mapped_count) return KIN_OK;
    if (taken > 0) {
        memcpy(sorted, file->tensors + first, taken * sizeof *sorted);
        qsort(sorted, taken, sizeof *sorted, compare_names);
    }
    for (size_t i = 0; i < mapped_count; i++)
        if (find_sorted(sorted, taken, mapped[i].name) == NULL)
            return kin_fail(file->context, KIN_FORMAT,
                            "%s: tensor '%s' is not in the shard %s, where the index says it is",
                            file->path, mapped[i].name, of->path);
    return KIN_OK;
}

static kin_status open_index(kin_safetensors *file) {
    kin_context *context = file->context;
    kin_shard_index *index = &file->index;
    kin_status status = kin_shard_index_read(context, file->path, index);
    if (status != KIN_OK) return status;
    file->parts = kin_calloc(context, index->file_count, sizeof *file->parts);
    if (file->parts == NULL) return kin_fail_in(context, KIN_OUT_OF_MEMORY, "%s", file->path);
    file->part_count = index->file_count;
    status = allocate_lists(file, index->entry_count);
    if (index->entry_count > 0)
        qsort(index->entries, index->entry_count, sizeof *index->entries, compare_entries);
    size_t first = 0;
    for (size_t i = 0; i < file->part_count && status == KIN_OK; i++) {
        size_t end = first;
        while (end < index->entry_count && index->entries[end].shard == i) end++;
        status = open_part(file, index->files[i], &file->parts[i]);
        if (status == KIN_OK)
            status = take_shard(file, &file->parts[i], index->entries + first, end - first);
        else status = kin_fail_in(context, status, "a shard of %s", file->path);
        first = end;
    }
    if (status == KIN_OK) sort_by_name(file);
    return status;
}

/* The path itself, or what a folder holds. */
static kin_status choose_path(kin_context *context, const char *path, char **out_path) {
    static const char *const names[] = {
        "model.safetensors",
        "diffusion_pytorch_model.safetensors",
        "model.safetensors.index.json",
        "diffusion_pytorch_model.safetensors.index.json",
    };
    *out_path = NULL;
    if (!kin_file_is_folder(path)) {
        *out_path = kin_strdup(context, path);
        return *out_path == NULL ? KIN_OUT_OF_MEMORY : KIN_OK;
    }
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char *candidate = kin_path_join(context, path, names[i]);
        if (candidate == NULL) return KIN_OUT_OF_MEMORY;
        if (kin_file_exists(candidate)) {
            *out_path = candidate;
            return KIN_OK;
        }
        kin_free(context, candidate);
    }
    return kin_fail(context, KIN_NOT_FOUND,
                    "%s: the folder holds neither model.safetensors nor "
                    "diffusion_pytorch_model.safetensors nor the .index.json of one",
                    path);
}

kin_status kin_safetensors_open(kin_context *context, const char *path,
                                kin_safetensors **out_file) {
    *out_file = NULL;
    kin_safetensors *file = kin_calloc(context, 1, sizeof *file);
    if (file == NULL) return KIN_OUT_OF_MEMORY;
    file->context = context;
    kin_status status = choose_path(context, path, &file->path);
    if (status == KIN_OK)
        status = kin_path_ends_with(file->path, ".json") ? open_index(file) : open_single(file);
    if (status != KIN_OK) {
        kin_safetensors_close(file);
        return status;
    }
    *out_file = file;
    return KIN_OK;
}

void kin_safetensors_close(kin_safetensors *file) {
    if (file == NULL) return;
    kin_context *context = file->context;
    for (size_t i = 0; i < file->part_count; i++) {
        kin_free(context, file->parts[i].entries);
        kin_free(context, file->parts[i].metadata);
        kin_free(context, file->parts[i].texts);
        kin_free(context, file->parts[i].copies);
        kin_file_unmap(&file->parts[i].mapping);
    }
    kin_free(context, file->parts);
    kin_free(context, file->tensors);
    kin_free(context, file->by_name);
    kin_shard_index_free(context, &file->index);
    kin_free(context, file->path);
    kin_free(context, file);
}

void kin_safetensors_forget(const kin_safetensors *file, const void *data, size_t size) {
    for (size_t i = 0; i < file->part_count; i++)
        kin_mapping_forget(&file->parts[i].mapping, data, size);
}

size_t kin_safetensors_count(const kin_safetensors *file) {
    return file->count;
}

const kin_named_tensor *kin_safetensors_at(const kin_safetensors *file, size_t index) {
    return index < file->count ? file->tensors[index] : NULL;
}

const kin_named_tensor *kin_safetensors_find(const kin_safetensors *file, const char *name) {
    return find_sorted(file->by_name, file->count, name);
}

/* The nearest of all names, found one by one so that no list of them is needed. */
static const char *nearest_tensor(const kin_safetensors *file, const char *name) {
    const char *nearest = NULL;
    for (size_t i = 0; i < file->count; i++) {
        const char *pair[2] = {nearest, file->by_name[i]->name};
        nearest = kin_nearest_name(name, pair, 2);
    }
    return nearest;
}

kin_status kin_safetensors_get(const kin_safetensors *file, const char *name,
                               const kin_named_tensor **out_tensor) {
    *out_tensor = kin_safetensors_find(file, name);
    if (*out_tensor != NULL) return KIN_OK;
    const char *nearest = nearest_tensor(file, name);
    if (nearest != NULL)
        return kin_fail(file->context, KIN_NOT_FOUND,
                        "%s: there is no tensor '%s'; the nearest name is '%s'", file->path, name,
                        nearest);
    return kin_fail(file->context, KIN_NOT_FOUND, "%s: there is no tensor '%s'", file->path, name);
}

size_t kin_safetensors_metadata_count(const kin_safetensors *file) {
    return file->part_count > 0 ? file->parts[0].metadata_count : 0;
}

const kin_metadata *kin_safetensors_metadata_at(const kin_safetensors *file, size_t index) {
    return index < kin_safetensors_metadata_count(file) ? &file->parts[0].metadata[index] : NULL;
}

const char *kin_safetensors_metadata(const kin_safetensors *file, const char *key) {
    size_t count = kin_safetensors_metadata_count(file);
    kin_metadata wanted = {.key = key};
    if (count == 0) return NULL;
    const kin_metadata *found =
        bsearch(&wanted, file->parts[0].metadata, count, sizeof wanted, compare_keys);
    return found != NULL ? found->value : NULL;
}
