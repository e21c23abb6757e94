/* What a pickle may name, and what comes of it: the whole allow-list is in this file. */
#define _POSIX_C_SOURCE 200809L

#include "runtime/pickle_internal.h"

#include <stdio.h>
#include <string.h>

typedef enum action {
    ACTION_NONE,
    ACTION_CLASS,     /* a class of which objects stay opaque */
    ACTION_CONSTANT,  /* a value: cannot be called */
    ACTION_DICT,      /* OrderedDict and its like */
    ACTION_STORAGE,   /* a storage class; parameter: index into kin_pickle_types */
    ACTION_TENSOR,    /* parameter: the version of torch._utils._rebuild_tensor */
    ACTION_PARAMETER, /* the tensor is the first argument */
    ACTION_SIZE,      /* torch.Size: the tuple that is its argument */
    ACTION_ENCODE     /* _codecs.encode(text, "latin1"): how protocol 2 writes bytes */
} action;

const pickle_type kin_pickle_types[] = {
    {"FloatStorage", 4, KIN_F32, "float32"}, {"DoubleStorage", 8, KIN_F64, "float64"},
    {"HalfStorage", 2, KIN_F16, "float16"},  {"BFloat16Storage", 2, KIN_BF16, "bfloat16"},
    {"LongStorage", 8, KIN_I64, "int64"},    {"IntStorage", 4, KIN_I32, "int32"},
    {"ShortStorage", 2, KIN_I32, "int16"},   {"CharStorage", 1, KIN_I32, "int8"},
    {"ByteStorage", 1, KIN_U8, "uint8"},     {"BoolStorage", 1, KIN_BOOL, "bool"},
};
const int kin_pickle_type_count = sizeof kin_pickle_types / sizeof kin_pickle_types[0];

typedef struct allowed_name {
    const char *module;
    const char *name;
    action action;
    int parameter;
} allowed_name;

/* Classes are listed because training checkpoints hold their objects beside the weights. */
static const allowed_name allowed_names[] = {
    {"collections", "OrderedDict", ACTION_DICT, 0},
    {"collections", "defaultdict", ACTION_DICT, 0},
    {"collections", "Counter", ACTION_DICT, 0},
    {"torch._utils", "_rebuild_tensor", ACTION_TENSOR, 1},
    {"torch._utils", "_rebuild_tensor_v2", ACTION_TENSOR, 2},
    {"torch._utils", "_rebuild_parameter", ACTION_PARAMETER, 0},
    {"torch._utils", "_rebuild_parameter_with_state", ACTION_PARAMETER, 0},
    {"torch", "Size", ACTION_SIZE, 0},
    {"torch", "device", ACTION_CLASS, 0},
    {"_codecs", "encode", ACTION_ENCODE, 0},
    {"argparse", "Namespace", ACTION_CLASS, 0},
    {"pathlib", "PosixPath", ACTION_CLASS, 0},
    {"pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint", ACTION_CLASS, 0},
    {"omegaconf.dictconfig", "DictConfig", ACTION_CLASS, 0},
    {"omegaconf.listconfig", "ListConfig", ACTION_CLASS, 0},
    {"omegaconf.base", "ContainerMetadata", ACTION_CLASS, 0},
    {"omegaconf.base", "Metadata", ACTION_CLASS, 0},
    {"omegaconf.nodes", "AnyNode", ACTION_CLASS, 0},
    {"typing", "Any", ACTION_CONSTANT, 0},
    {"builtins", "dict", ACTION_CONSTANT, 0},
    {"builtins", "list", ACTION_CONSTANT, 0},
    {"builtins", "int", ACTION_CONSTANT, 0},
    {"builtins", "float", ACTION_CONSTANT, 0},
    {"__builtin__", "dict", ACTION_CONSTANT, 0},
    {"__builtin__", "list", ACTION_CONSTANT, 0},
    {"__builtin__", "int", ACTION_CONSTANT, 0},
    {"__builtin__", "float", ACTION_CONSTANT, 0},
    {"numpy", "dtype", ACTION_CLASS, 0},
    {"numpy.core.multiarray", "scalar", ACTION_CLASS, 0},
};

static bool is_text(const char *text, size_t size, const char *wanted) {
    return strlen(wanted) == size && memcmp(text, wanted, size) == 0;
}

/* Storage classes and dtypes are in module torch, under the names of the table of types. */
static action find_torch_name(const char *name, size_t size, int *out_parameter) {
    for (int i = 0; i < kin_pickle_type_count; i++) {
        *out_parameter = i;
        if (is_text(name, size, kin_pickle_types[i].name)) return ACTION_STORAGE;
        if (is_text(name, size, kin_pickle_types[i].torch_dtype)) return ACTION_CONSTANT;
    }
    return ACTION_NONE;
}

kin_status kin_pickle_global(kin_pickle *file, const char *module, size_t module_size,
                             const char *name, size_t name_size, pickle_node **out_node) {
    action found = ACTION_NONE;
    int parameter = 0;
    for (size_t i = 0; i < sizeof allowed_names / sizeof allowed_names[0]; i++) {
        const allowed_name *allowed = &allowed_names[i];
        if (!is_text(module, module_size, allowed->module) ||
            !is_text(name, name_size, allowed->name))
            continue;
        found = allowed->action;
        parameter = allowed->parameter;
    }
    if (found == ACTION_NONE && is_text(module, module_size, "torch"))
        found = find_torch_name(name, name_size, &parameter);
    if (found == ACTION_NONE) {
        char shown_module[80];
        char shown_name[80];
        return kin_fail(
            file->context, KIN_FORMAT,
            "%s: refused: the pickle names '%s.%s', which is neither a tensor nor plain data, and "
            "building it could run code; save the plain state dict, or as safetensors",
            file->path,
            kin_pickle_printable(module, module_size, shown_module, sizeof shown_module),
            kin_pickle_printable(name, name_size, shown_name, sizeof shown_name));
    }
    pickle_node *node = kin_pickle_node(file, KIN_PICKLE_OPAQUE);
    char full[160];
    int length =
        snprintf(full, sizeof full, "%.*s.%.*s", (int)module_size, module, (int)name_size, name);
    if (node == NULL || length < 0) return KIN_OUT_OF_MEMORY;
    node->value.as.text.data = kin_pickle_text(file, full, (size_t)length);
    node->value.as.text.size = (size_t)length;
    if (node->value.as.text.data == NULL) return KIN_OUT_OF_MEMORY;
    node->action = (int)found;
    node->parameter = parameter;
    *out_node = node;
    return KIN_OK;
}

static kin_status fail_call(kin_pickle *file, const pickle_node *function, const char *what) {
    return kin_fail(file->context, KIN_FORMAT, "%s: bad pickle: %s: %s", file->path,
                    function->value.as.text.data, what);
}

static pickle_node *argument(const pickle_node *arguments, size_t index) {
    if (index >= arguments->value.as.list.count) return NULL;
    return (pickle_node *)arguments->value.as.list.items[index];
}

static bool has_kind(const pickle_node *node, kin_pickle_kind kind) {
    return node != NULL && node->value.kind == kind;
}

/* ---- storages ---- */

static bool is_plain_key(const char *key, size_t size) {
    if (size == 0 || size > 64) return false;
    for (size_t i = 0; i < size; i++) {
        char c = key[i];
        bool is_plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
                        (c >= 'A' && c <= 'Z') || c == '_' || c == '-';
        if (!is_plain) return false;
    }
    return true;
}

static pickle_storage *add_storage(kin_pickle *file, const pickle_node *key, int type,
                                   int64_t count) {
    pickle_storage *storage = kin_pickle_alloc(file, sizeof *storage);
    if (storage == NULL) return NULL;
    *storage = (pickle_storage){
        .next = file->storages,
        .key = key->value.as.text.data,
        .key_size = key->value.as.text.size,
        .type = type,
        .count = count,
    };
    file->storages = storage;
    file->storage_count++;
    return storage;
}

/* Legacy: a sixth member (view key, offset, size) makes the storage a part of another. */
static kin_status apply_view(kin_pickle *file, const pickle_node *view, pickle_storage **storage) {
    const pickle_storage *base = *storage;
    const pickle_node *offset = has_kind(view, KIN_PICKLE_TUPLE) ? argument(view, 1) : NULL;
    const pickle_node *size = has_kind(view, KIN_PICKLE_TUPLE) ? argument(view, 2) : NULL;
    if (!has_kind(offset, KIN_PICKLE_INT) || !has_kind(size, KIN_PICKLE_INT) ||
        offset->value.as.integer < 0 || size->value.as.integer < 0 ||
        offset->value.as.integer > base->count ||
        size->value.as.integer > base->count - offset->value.as.integer)
        return kin_fail(file->context, KIN_FORMAT,
                        "%s: bad pickle: the view of a storage lies outside it", file->path);
    pickle_storage *part = kin_pickle_alloc(file, sizeof *part);
    if (part == NULL) return KIN_OUT_OF_MEMORY;
    /* Not in the file's list: its data comes from the base. */
    *part = (pickle_storage){.type = base->type,
                             .count = size->value.as.integer,
                             .base = base,
                             .offset = offset->value.as.integer};
    *storage = part;
    return KIN_OK;
}

kin_status kin_pickle_persistent(kin_pickle *file, const pickle_node *id, pickle_node **out_node) {
    bool is_tuple = has_kind(id, KIN_PICKLE_TUPLE);
    const pickle_node *tag = is_tuple ? argument(id, 0) : NULL;
    const pickle_node *type = is_tuple ? argument(id, 1) : NULL;
    const pickle_node *key = is_tuple ? argument(id, 2) : NULL;
    const pickle_node *count = is_tuple ? argument(id, 4) : NULL;
    if (!has_kind(tag, KIN_PICKLE_STRING) ||
        !is_text(tag->value.as.text.data, tag->value.as.text.size, "storage"))
        return kin_fail(file->context, KIN_FORMAT,
                        "%s: bad pickle: a persistent id that is no storage", file->path);
    if (type == NULL || type->action != ACTION_STORAGE)
        return kin_fail(file->context, KIN_FORMAT,
                        "%s: bad pickle: a storage whose class is not known", file->path);
    if (!has_kind(key, KIN_PICKLE_STRING) ||
        !is_plain_key(key->value.as.text.data, key->value.as.text.size))
        return kin_fail(file->context, KIN_FORMAT,
                        "%s: bad pickle: a storage whose key is no plain name", file->path);
    if (!has_kind(count, KIN_PICKLE_INT) || count->value.as.integer < 0 ||
        count->value.as.integer > INT64_MAX / 8)
        return kin_fail(file->context, KIN_FORMAT,
                        "%s: bad pickle: storage '%s' has an impossible number of elements",
                        file->path, key->value.as.text.data);
    pickle_storage *storage = add_storage(file, key, type->parameter, count->value.as.integer);
    pickle_node *node = kin_pickle_node(file, KIN_PICKLE_OPAQUE);
    if (storage == NULL || node == NULL) return KIN_OUT_OF_MEMORY;
    const pickle_node *view = argument(id, 5);
    if (view != NULL && view->value.kind != KIN_PICKLE_NONE) {
        kin_status status = apply_view(file, view, &storage);
        if (status != KIN_OK) return status;
    }
    node->value.as.text.data = type->value.as.text.data;
    node->value.as.text.size = type->value.as.text.size;
    node->storage = storage;
    *out_node = node;
    return KIN_OK;
}

/* ---- tensors ---- */

/* A tuple of integers >= 0. */
static bool read_sizes(const pickle_node *tuple, int64_t *values) {
    for (size_t i = 0; i < tuple->value.as.list.count; i++) {
        const pickle_node *item = argument(tuple, i);
        if (!has_kind(item, KIN_PICKLE_INT) || item->value.as.integer < 0) return false;
        values[i] = item->value.as.integer;
    }
    return true;
}

/* True if all elements lie in the storage; no product or sum may overflow. */
static bool fits_storage(const kin_desc *desc, int64_t offset, int64_t storage_count) {
    int64_t last = offset;
    int64_t count = 1;
    for (int i = 0; i < desc->rank; i++)
        if (desc->dims[i] == 0) return true;
    for (int i = 0; i < desc->rank; i++) {
        int64_t steps = desc->dims[i] - 1;
        if (count > INT64_MAX / 8 / desc->dims[i]) return false;
        count *= desc->dims[i];
        if (steps > 0 && desc->strides[i] > (INT64_MAX - last) / steps) return false;
        last += steps * desc->strides[i];
    }
    return last < storage_count;
}

/* _rebuild_tensor(storage, offset, size, stride) and _v2 with (requires_grad, hooks) behind. */
static kin_status rebuild_tensor(kin_pickle *file, const pickle_node *function,
                                 const pickle_node *arguments, pickle_node **out_node) {
    size_t given = arguments->value.as.list.count;
    if (function->parameter == 1 ? given != 4 : given < 6 || given > 7)
        return fail_call(file, function, "wrong number of arguments");
    const pickle_node *storage = argument(arguments, 0);
    const pickle_node *offset = argument(arguments, 1);
    const pickle_node *size = argument(arguments, 2);
    const pickle_node *stride = argument(arguments, 3);
    if (storage->storage == NULL) return fail_call(file, function, "the storage is none");
    if (!has_kind(offset, KIN_PICKLE_INT) || offset->value.as.integer < 0)
        return fail_call(file, function, "the storage offset is no integer >= 0");
    if (!has_kind(size, KIN_PICKLE_TUPLE) || !has_kind(stride, KIN_PICKLE_TUPLE) ||
        size->value.as.list.count != stride->value.as.list.count)
        return fail_call(file, function, "size and stride are not two tuples of one length");
    size_t rank = size->value.as.list.count;
    if (rank > KIN_MAX_RANK)
        return kin_fail(file->context, KIN_UNSUPPORTED,
                        "%s: a tensor has %zu axes; %d are possible", file->path, rank,
                        KIN_MAX_RANK);
    kin_desc desc = {.dtype = kin_pickle_types[storage->storage->type].dtype, .rank = (int)rank};
    if (!read_sizes(size, desc.dims) || !read_sizes(stride, desc.strides))
        return fail_call(file, function, "size or stride is no tuple of integers >= 0");
    if (!fits_storage(&desc, offset->value.as.integer, storage->storage->count))
        return fail_call(file, function, "the tensor lies outside its storage");
    pickle_tensor *tensor = kin_pickle_alloc(file, sizeof *tensor);
    pickle_node *node = kin_pickle_node(file, KIN_PICKLE_TENSOR);
    if (tensor == NULL || node == NULL) return KIN_OUT_OF_MEMORY;
    *tensor = (pickle_tensor){.tensor.desc = desc,
                              .next = file->tensors,
                              .storage = storage->storage,
                              .type = storage->storage->type,
                              .offset = offset->value.as.integer};
    file->tensors = tensor;
    node->value.as.tensor = &tensor->tensor;
    *out_node = node;
    return KIN_OK;
}

/* ---- the rest ---- */

/* OrderedDict(), OrderedDict([(k, v), ...]), defaultdict(type), Counter({...}). */
static kin_status make_dict(kin_pickle *file, const pickle_node *function,
                            const pickle_node *arguments, pickle_node **out_node) {
    size_t given = arguments->value.as.list.count;
    const pickle_node *source = argument(arguments, given > 0 ? given - 1 : 0);
    pickle_node *dict = kin_pickle_node(file, KIN_PICKLE_DICT);
    if (dict == NULL) return KIN_OUT_OF_MEMORY;
    *out_node = dict;
    if (given > 2) return fail_call(file, function, "wrong number of arguments");
    if (source == NULL || source->value.kind == KIN_PICKLE_NONE ||
        source->value.kind == KIN_PICKLE_OPAQUE)
        return KIN_OK;
    bool is_dict = has_kind(source, KIN_PICKLE_DICT);
    if (!is_dict && !has_kind(source, KIN_PICKLE_LIST))
        return fail_call(file, function, "the argument is neither a dict nor a list of pairs");
    kin_status status = KIN_OK;
    for (size_t i = 0; i < source->value.as.list.count && status == KIN_OK; i++) {
        pickle_node *item = argument(source, i);
        if (is_dict) {
            status = kin_pickle_append(file, dict, item);
            continue;
        }
        if ((!has_kind(item, KIN_PICKLE_TUPLE) && !has_kind(item, KIN_PICKLE_LIST)) ||
            item->value.as.list.count != 2)
            return fail_call(file, function, "an item is no pair");
        status = kin_pickle_append(file, dict, argument(item, 0));
        if (status == KIN_OK) status = kin_pickle_append(file, dict, argument(item, 1));
    }
    return status;
}

/* UTF-8 of U+0000 to U+00FF back to one byte each. */
static kin_status encode_latin1(kin_pickle *file, const pickle_node *function,
                                const pickle_node *arguments, pickle_node **out_node) {
    const pickle_node *text = argument(arguments, 0);
    const pickle_node *encoding = argument(arguments, 1);
    if (!has_kind(text, KIN_PICKLE_STRING) || !has_kind(encoding, KIN_PICKLE_STRING) ||
        !is_text(encoding->value.as.text.data, encoding->value.as.text.size, "latin1"))
        return fail_call(file, function, "the arguments are not a text and 'latin1'");
    const unsigned char *source = (const unsigned char *)text->value.as.text.data;
    size_t size = text->value.as.text.size;
    char *bytes = kin_pickle_text(file, source, size);
    pickle_node *node = kin_pickle_node(file, KIN_PICKLE_BYTES);
    if (bytes == NULL || node == NULL) return KIN_OUT_OF_MEMORY;
    size_t count = 0;
    for (size_t i = 0; i < size; i++) {
        unsigned byte = source[i];
        if (byte >= 0xC4) return fail_call(file, function, "a letter that latin1 has not");
        /* Two bytes 110000xx 10yyyyyy: the text is valid UTF-8, so the second is there. */
        if (byte >= 0x80) byte = (byte & 3u) << 6 | (source[++i] & 0x3Fu);
        bytes[count++] = (char)(unsigned char)byte;
    }
    bytes[count] = '\0';
    node->value.as.text.data = bytes;
    node->value.as.text.size = count;
    *out_node = node;
    return KIN_OK;
}

static kin_status make_opaque(kin_pickle *file, const pickle_node *function,
                              pickle_node **out_node) {
    pickle_node *node = kin_pickle_node(file, KIN_PICKLE_OPAQUE);
    if (node == NULL) return KIN_OUT_OF_MEMORY;
    node->value.as.text = function->value.as.text;
    *out_node = node;
    return KIN_OK;
}

kin_status kin_pickle_reduce(kin_pickle *file, pickle_node *function, pickle_node *arguments,
                             pickle_node **out_node) {
    pickle_node *first = argument(arguments, 0);
    switch ((action)function->action) {
    case ACTION_CLASS:
        return make_opaque(file, function, out_node);
    case ACTION_DICT:
        return make_dict(file, function, arguments, out_node);
    case ACTION_TENSOR:
        return rebuild_tensor(file, function, arguments, out_node);
    case ACTION_ENCODE:
        return encode_latin1(file, function, arguments, out_node);
    case ACTION_PARAMETER:
        if (!has_kind(first, KIN_PICKLE_TENSOR)) break;
        *out_node = first;
        return KIN_OK;
    case ACTION_SIZE:
        if (!has_kind(first, KIN_PICKLE_TUPLE)) break;
        *out_node = first;
        return KIN_OK;
    case ACTION_NONE:
    case ACTION_CONSTANT:
    case ACTION_STORAGE:
        return fail_call(file, function, "must not be called");
    }
    return fail_call(file, function, "wrong arguments");
}
