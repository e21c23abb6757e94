/* Safetensors: the writer. */
#define _POSIX_C_SOURCE 200809L

#include "runtime/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/json.h"

enum { HEADER_LIMIT = 100000000, HEADER_ALIGNMENT = 64 };

/* The tensors in the order of the file: wide elements first, so that all stay aligned. */
typedef struct place {
    size_t index;
    size_t alignment;
    const char *name;
} place;

static int compare_alignment(const void *a, const void *b) {
    const place *x = a;
    const place *y = b;
    if (x->alignment != y->alignment) return x->alignment > y->alignment ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

static int compare_name(const void *a, const void *b) {
    const place *x = a;
    const place *y = b;
    return strcmp(x->name, y->name);
}

static const char *stored_name(kin_dtype dtype) {
    switch (dtype) {
    case KIN_F32:
        return "F32";
    case KIN_F16:
        return "F16";
    case KIN_BF16:
        return "BF16";
    case KIN_I32:
        return "I32";
    case KIN_I64:
        return "I64";
    case KIN_U8:
        return "U8";
    case KIN_BOOL:
        return "BOOL";
    case KIN_F64:
        return "F64";
    case KIN_Q8_0:
        return "U8";
    case KIN_DTYPE_COUNT:
        break;
    }
    return NULL;
}

static kin_status check_tensor(kin_context *context, const char *path,
                               const kin_named_tensor *tensor, bool has_fill) {
    const char *name = tensor->name;
    if (name == NULL || !kin_utf8_is_valid(name, strlen(name)) || strcmp(name, "__metadata__") == 0)
        return kin_fail(context, KIN_INVALID, "%s: a tensor with an impossible name", path);
    if (stored_name(tensor->desc.dtype) == NULL || tensor->desc.rank < 0 ||
        tensor->desc.rank > KIN_MAX_RANK)
        return kin_fail(context, KIN_INVALID, "%s: tensor '%s': impossible dtype or rank", path,
                        name);
    for (int i = 0; i < tensor->desc.rank; i++)
        if (tensor->desc.dims[i] < 0)
            return kin_fail(context, KIN_INVALID, "%s: tensor '%s': a negative size", path, name);
    if (tensor->desc.dtype == KIN_Q8_0 && tensor->desc.rank == 0)
        return kin_fail(context, KIN_INVALID, "%s: tensor '%s': q8_0 needs an axis", path, name);
    if (!kin_desc_is_dense(&tensor->desc))
        return kin_fail(context, KIN_INVALID, "%s: tensor '%s': must be dense to be written", path,
                        name);
    if (kin_desc_bytes(&tensor->desc) > INT64_MAX / 2)
        return kin_fail(context, KIN_INVALID, "%s: tensor '%s': too large", path, name);
    if (tensor->data == NULL && !has_fill && kin_desc_bytes(&tensor->desc) > 0)
        return kin_fail(context, KIN_INVALID, "%s: tensor '%s': no data", path, name);
    return KIN_OK;
}

/* Fills `places` in the order of the file after checking the list. */
static kin_status arrange(kin_context *context, const char *path, const kin_named_tensor *tensors,
                          size_t count, bool has_fill, place *places) {
    for (size_t i = 0; i < count; i++) {
        kin_status status = check_tensor(context, path, &tensors[i], has_fill);
        if (status != KIN_OK) return status;
        kin_dtype dtype = tensors[i].desc.dtype;
        places[i] = (place){
            .index = i,
            .alignment = dtype == KIN_Q8_0 ? 2 : kin_dtype_size(dtype),
            .name = tensors[i].name,
        };
    }
    if (count == 0) return KIN_OK;
    qsort(places, count, sizeof *places, compare_name);
    for (size_t i = 1; i < count; i++)
        if (strcmp(places[i - 1].name, places[i].name) == 0)
            return kin_fail(context, KIN_INVALID, "%s: the tensor name '%s' comes twice", path,
                            places[i].name);
    qsort(places, count, sizeof *places, compare_alignment);
    return KIN_OK;
}

/* One tensor's entry; *offset moves to its end. */
static int add_entry(json_t *header, json_t *metadata, const kin_named_tensor *tensor,
                     uint64_t *offset) {
    const kin_desc *desc = &tensor->desc;
    json_t *shape = json_array();
    uint64_t begin = *offset;
    *offset += kin_desc_bytes(desc);
    int failed = shape == NULL;
    for (int i = 0; i < desc->rank; i++) {
        int64_t dim = desc->dims[i];
        if (desc->dtype == KIN_Q8_0 && i == desc->rank - 1) {
            kin_desc row = kin_desc_dense(KIN_Q8_0, 1, &dim);
            char key[2048];
            char value[32];
            int length = snprintf(key, sizeof key, "kinora.q8_0.%s", tensor->name);
            if (length < 0 || (size_t)length >= sizeof key) failed = 1;
            snprintf(value, sizeof value, "%lld", (long long)dim);
            failed |= json_object_set_new(metadata, key, json_string(value));
            dim = (int64_t)kin_desc_bytes(&row);
        }
        failed |= json_array_append_new(shape, json_integer(dim));
    }
    json_t *entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", stored_name(desc->dtype), "shape",
                              shape, "data_offsets", (json_int_t)begin, (json_int_t)*offset);
    failed |= json_object_set_new(header, tensor->name, entry);
    return failed;
}

/* The header's text in jansson's memory, or NULL. */
static char *make_header(const kin_named_tensor *tensors, const place *places, size_t count,
                         const kin_metadata *metadata, size_t metadata_count) {
    json_t *header = json_object();
    json_t *texts = json_object();
    uint64_t offset = 0;
    int failed = header == NULL || texts == NULL;
    for (size_t i = 0; i < metadata_count && !failed; i++)
        failed |= json_object_set_new(texts, metadata[i].key, json_string(metadata[i].value));
    /* Its place is the first; it is filled while the tensors are added. */
    if (!failed) failed |= json_object_set(header, "__metadata__", texts);
    for (size_t i = 0; i < count && !failed; i++)
        failed |= add_entry(header, texts, &tensors[places[i].index], &offset);
    if (!failed && json_object_size(texts) == 0) json_object_del(header, "__metadata__");
    char *text = failed ? NULL : json_dumps(header, JSON_COMPACT);
    json_decref(texts);
    json_decref(header);
    return text;
}

static kin_status write_header(kin_file_writer *writer, const char *text) {
    static const char spaces[HEADER_ALIGNMENT + 1] =
        "                                                                ";
    size_t length = strlen(text);
    size_t padding = (HEADER_ALIGNMENT - (8 + length) % HEADER_ALIGNMENT) % HEADER_ALIGNMENT;
    uint64_t total = length + padding;
    unsigned char bytes[8];
    if (total > HEADER_LIMIT)
        return kin_fail(writer->context, KIN_INVALID,
                        "%s: the header would have %llu bytes; readers take %d at most",
                        writer->path, (unsigned long long)total, HEADER_LIMIT);
    for (int i = 0; i < 8; i++) bytes[i] = (unsigned char)(total >> (8 * i));
    kin_status status = kin_file_writer_write(writer, bytes, sizeof bytes);
    if (status == KIN_OK) status = kin_file_writer_write(writer, text, length);
    if (status == KIN_OK) status = kin_file_writer_write(writer, spaces, padding);
    return status;
}

/* Where the data of tensors without any comes from: one of the two. */
typedef struct data_source {
    kin_safetensors_fill whole;
    kin_fill_piece piece;
    void *user;
} data_source;

static kin_status write_tensor(kin_file_writer *writer, const kin_named_tensor *tensor,
                               size_t index, const data_source *source, void *buffer) {
    size_t bytes = kin_desc_bytes(&tensor->desc);
    kin_status status = KIN_OK;
    if (tensor->data != NULL) return kin_file_writer_write(writer, tensor->data, bytes);
    if (source->piece == NULL) {
        status = source->whole(source->user, index, buffer, bytes);
        return status == KIN_OK ? kin_file_writer_write(writer, buffer, bytes) : status;
    }
    for (size_t done = 0; done < bytes && status == KIN_OK; done += KIN_PIECE) {
        size_t part = bytes - done < KIN_PIECE ? bytes - done : KIN_PIECE;
        status = source->piece(source->user, index, done, buffer, part);
        if (status == KIN_OK) status = kin_file_writer_write(writer, buffer, part);
    }
    return status;
}

static kin_status write_data(kin_file_writer *writer, const kin_named_tensor *tensors,
                             const place *places, size_t count, const data_source *source) {
    size_t largest = 0;
    for (size_t i = 0; i < count; i++) {
        size_t bytes = kin_desc_bytes(&tensors[i].desc);
        if (tensors[i].data == NULL && bytes > largest) largest = bytes;
    }
    if (source->piece != NULL && largest > KIN_PIECE) largest = KIN_PIECE;
    void *buffer = NULL;
    if (largest > 0 && (buffer = kin_alloc(writer->context, largest)) == NULL)
        return kin_fail_in(writer->context, KIN_OUT_OF_MEMORY, "%s", writer->path);
    kin_status status = KIN_OK;
    for (size_t i = 0; i < count && status == KIN_OK; i++) {
        const kin_named_tensor *tensor = &tensors[places[i].index];
        if (kin_desc_bytes(&tensor->desc) == 0) continue;
        status = write_tensor(writer, tensor, places[i].index, source, buffer);
    }
    kin_free(writer->context, buffer);
    return status;
}

static kin_status write_file(kin_context *context, const char *path, const char *header,
                             const kin_named_tensor *tensors, const place *places, size_t count,
                             const data_source *source) {
    kin_file_writer writer;
    kin_status status = kin_file_writer_open(context, path, &writer);
    if (status != KIN_OK) return status;
    status = write_header(&writer, header);
    if (status == KIN_OK) status = write_data(&writer, tensors, places, count, source);
    if (status == KIN_OK) return kin_file_writer_commit(&writer);
    kin_file_writer_abandon(&writer);
    return status;
}

static kin_status write_all(kin_context *context, const char *path, const kin_named_tensor *tensors,
                            size_t count, const kin_metadata *metadata, size_t metadata_count,
                            const data_source *source) {
    for (size_t i = 0; i < metadata_count; i++)
        if (!kin_utf8_is_valid(metadata[i].key, strlen(metadata[i].key)) ||
            !kin_utf8_is_valid(metadata[i].value, strlen(metadata[i].value)))
            return kin_fail(context, KIN_INVALID, "%s: metadata that is not UTF-8", path);
    place *places = kin_calloc(context, count, sizeof *places);
    if (places == NULL) return kin_fail_in(context, KIN_OUT_OF_MEMORY, "%s", path);
    bool has_fill = source->whole != NULL || source->piece != NULL;
    kin_status status = arrange(context, path, tensors, count, has_fill, places);
    if (status == KIN_OK) {
        char *header = make_header(tensors, places, count, metadata, metadata_count);
        if (header == NULL)
            status = kin_fail(context, KIN_OUT_OF_MEMORY, "%s: no memory for the header", path);
        else status = write_file(context, path, header, tensors, places, count, source);
        free(header);
    }
    kin_free(context, places);
    return status;
}

kin_status kin_safetensors_write(kin_context *context, const char *path,
                                 const kin_named_tensor *tensors, size_t count,
                                 const kin_metadata *metadata, size_t metadata_count,
                                 kin_safetensors_fill fill, void *fill_user) {
    data_source source = {.whole = fill, .user = fill_user};
    return write_all(context, path, tensors, count, metadata, metadata_count, &source);
}

kin_status kin_safetensors_write_pieces(kin_context *context, const char *path,
                                        const kin_named_tensor *tensors, size_t count,
                                        const kin_metadata *metadata, size_t metadata_count,
                                        kin_fill_piece fill, void *fill_user) {
    data_source source = {.piece = fill, .user = fill_user};
    return write_all(context, path, tensors, count, metadata, metadata_count, &source);
}
