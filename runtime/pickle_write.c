/* Writing files of torch.save: the pickle. pickle_write_zip.c has the archive around it. */
#include "runtime/pickle_write.h"

#include "runtime/pickle_write_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Opcodes of pickle's protocol 2, as Python's pickletools names them. */
enum {
    PROTO = 0x80,
    STOP = '.',
    MARK = '(',
    GLOBAL = 'c',
    EMPTY_DICT = '}',
    SETITEMS = 'u',
    EMPTY_TUPLE = ')',
    TUPLE1 = 0x85,
    TUPLE = 't',
    REDUCE = 'R',
    BINUNICODE = 'X',
    BININT1 = 'K',
    BININT2 = 'M',
    BININT = 'J',
    LONG1 = 0x8a,
    NEWFALSE = 0x89,
    BINPERSID = 'Q',
    BINPUT = 'q',
    BINGET = 'h'
};

/* Values that are written in full once and then recalled by number. */
enum { MEMO_DICT, MEMO_REBUILD, MEMO_STORAGE, MEMO_CPU, MEMO_TYPES, MEMO_COUNT = MEMO_TYPES + 16 };

enum { MAX_DEPTH = 4, FIRST_CAPACITY = 1 << 16 };

typedef struct writer {
    kin_context *context;
    const char *path;
    unsigned char *bytes;
    size_t size, capacity;
    kin_status status; /* the first error stays */
    bool known[MEMO_COUNT];
} writer;

static void put(writer *w, const void *data, size_t size) {
    if (w->status != KIN_OK) return;
    if (w->capacity - w->size < size) {
        size_t capacity = w->capacity ? w->capacity : FIRST_CAPACITY;
        while (capacity - w->size < size) capacity *= 2;
        unsigned char *bytes = kin_realloc(w->context, w->bytes, capacity);
        if (bytes == NULL) {
            w->status = kin_fail_in(w->context, KIN_OUT_OF_MEMORY, "%s", w->path);
            return;
        }
        w->bytes = bytes;
        w->capacity = capacity;
    }
    memcpy(w->bytes + w->size, data, size);
    w->size += size;
}

static void put_byte(writer *w, int byte) {
    unsigned char one = (unsigned char)byte;
    put(w, &one, 1);
}

/* `size` bytes of a number, little-endian. */
static void put_number(writer *w, uint64_t value, int size) {
    for (int i = 0; i < size; i++) put_byte(w, (int)(value >> (8 * i) & 0xFF));
}

static void put_text(writer *w, const char *prefix, const char *text) {
    size_t before = strlen(prefix), length = strlen(text);
    put_byte(w, BINUNICODE);
    put_number(w, before + length, 4);
    put(w, prefix, before);
    put(w, text, length);
}

static void put_integer(writer *w, int64_t value) {
    if (value >= 0 && value < 256) {
        put_byte(w, BININT1);
        put_number(w, (uint64_t)value, 1);
    } else if (value >= 0 && value < 65536) {
        put_byte(w, BININT2);
        put_number(w, (uint64_t)value, 2);
    } else if (value >= INT32_MIN && value <= INT32_MAX) {
        put_byte(w, BININT);
        put_number(w, (uint64_t)value, 4);
    } else {
        put_byte(w, LONG1);
        put_number(w, 8, 1);
        put_number(w, (uint64_t)value, 8);
    }
}

/* True if the value was recalled; else the caller writes it and calls memorize. */
static bool recall(writer *w, int memo) {
    if (!w->known[memo]) return false;
    put_byte(w, BINGET);
    put_byte(w, memo);
    return true;
}

static void memorize(writer *w, int memo) {
    put_byte(w, BINPUT);
    put_byte(w, memo);
    w->known[memo] = true;
}

/* "module\nname\n" */
static void put_global(writer *w, int memo, const char *text) {
    if (recall(w, memo)) return;
    put_byte(w, GLOBAL);
    put(w, text, strlen(text));
    memorize(w, memo);
}

static void put_short_text(writer *w, int memo, const char *text) {
    if (recall(w, memo)) return;
    put_text(w, "", text);
    memorize(w, memo);
}

static void put_ordered_dict(writer *w) {
    put_global(w, MEMO_DICT, "collections\nOrderedDict\n");
    put_byte(w, EMPTY_TUPLE);
    put_byte(w, REDUCE);
}

static const char *storage_class(kin_dtype dtype) {
    switch (dtype) {
    case KIN_F32:
        return "torch\nFloatStorage\n";
    case KIN_F16:
        return "torch\nHalfStorage\n";
    case KIN_BF16:
        return "torch\nBFloat16Storage\n";
    case KIN_I32:
        return "torch\nIntStorage\n";
    case KIN_I64:
        return "torch\nLongStorage\n";
    case KIN_U8:
        return "torch\nByteStorage\n";
    case KIN_BOOL:
        return "torch\nBoolStorage\n";
    case KIN_F64:
        return "torch\nDoubleStorage\n";
    case KIN_Q8_0:
    case KIN_DTYPE_COUNT:
        break;
    }
    return NULL;
}

static void put_tuple(writer *w, int rank, const int64_t *values) {
    if (rank == 0) {
        put_byte(w, EMPTY_TUPLE);
        return;
    }
    if (rank > 3) put_byte(w, MARK);
    for (int i = 0; i < rank; i++) put_integer(w, values[i]);
    put_byte(w, rank > 3 ? TUPLE : TUPLE1 + rank - 1);
}

/* torch._utils._rebuild_tensor_v2(storage, 0, size, stride, False, OrderedDict()) */
static void put_tensor(writer *w, const kin_named_tensor *tensor, size_t index) {
    const kin_desc *desc = &tensor->desc;
    kin_desc dense = kin_desc_dense(desc->dtype, desc->rank, desc->dims);
    char key[24];
    snprintf(key, sizeof key, "%zu", index);
    put_global(w, MEMO_REBUILD, "torch._utils\n_rebuild_tensor_v2\n");
    put_byte(w, MARK);
    put_byte(w, MARK);
    put_short_text(w, MEMO_STORAGE, "storage");
    put_global(w, MEMO_TYPES + (int)desc->dtype, storage_class(desc->dtype));
    put_text(w, "", key);
    put_short_text(w, MEMO_CPU, "cpu");
    put_integer(w, kin_desc_count(desc));
    put_byte(w, TUPLE);
    put_byte(w, BINPERSID);
    put_integer(w, 0);
    put_tuple(w, desc->rank, desc->dims);
    put_tuple(w, desc->rank, dense.strides);
    put_byte(w, NEWFALSE);
    put_ordered_dict(w);
    put_byte(w, TUPLE);
    put_byte(w, REDUCE);
}

static void put_items(writer *w, const kin_named_tensor *tensors, size_t count,
                      const kin_pickle_layout *layout, const char *prefix) {
    for (size_t i = 0; i < count; i++) {
        put_text(w, prefix, tensors[i].name);
        put_tensor(w, &tensors[i], i);
        for (size_t k = 0; k < layout->alias_count; k++) {
            if (layout->aliases[k].tensor != i) continue;
            put_text(w, prefix, layout->aliases[k].name);
            put_tensor(w, &tensors[i], i);
        }
    }
}

/* The part of `keys` behind the first `length` bytes of `base`, if it lies below that. */
static const char *below(const char *keys, const char *base, size_t length) {
    if (strncmp(keys, base, length) != 0) return NULL;
    if (length == 0) return keys;
    return keys[length] == '/' ? keys + length + 1 : NULL;
}

/* Writes the dict at the keys that are the first `length` bytes of `base`. */
static void put_dict(writer *w, const kin_named_tensor *tensors, size_t count,
                     const kin_pickle_layout *layout, const char *base, size_t length) {
    for (size_t i = 0; i < layout->place_count; i++) {
        const kin_pickle_place *place = &layout->places[i];
        if (strlen(place->keys) != length || strncmp(place->keys, base, length) != 0) continue;
        put_ordered_dict(w);
        put_byte(w, MARK);
        put_items(w, tensors, count, layout, place->prefix ? place->prefix : "");
        put_byte(w, SETITEMS);
        return;
    }
    put_byte(w, EMPTY_DICT);
    put_byte(w, MARK);
    for (size_t i = 0; length == 0 && i < layout->number_count; i++) {
        put_text(w, "", layout->numbers[i].key);
        put_integer(w, layout->numbers[i].value);
    }
    for (size_t i = 0; i < layout->place_count; i++) {
        const char *keys = layout->places[i].keys, *rest = below(keys, base, length);
        if (rest == NULL) continue;
        size_t own = strcspn(rest, "/"), full = (size_t)(rest - keys) + own;
        bool seen = false; /* an earlier place lies under the same key */
        for (size_t k = 0; k < i && !seen; k++) {
            const char *other = layout->places[k].keys;
            seen = strncmp(other, keys, full) == 0 && (other[full] == '/' || other[full] == 0);
        }
        if (seen) continue;
        put_byte(w, BINUNICODE);
        put_number(w, own, 4);
        put(w, rest, own);
        put_dict(w, tensors, count, layout, keys, full);
    }
    put_byte(w, SETITEMS);
}

static kin_status check_places(kin_context *context, const char *path,
                               const kin_pickle_layout *layout) {
    for (size_t i = 0; i < layout->place_count; i++) {
        const char *keys = layout->places[i].keys;
        int depth = 1;
        for (const char *c = keys; *c; c++) depth += *c == '/';
        if (depth > MAX_DEPTH || !kin_utf8_is_valid(keys, strlen(keys)))
            return kin_fail(context, KIN_INVALID, "%s: the place '%s' in the file is impossible",
                            path, keys);
        for (size_t k = 0; k < layout->place_count; k++) {
            const char *other = layout->places[k].keys;
            bool within = below(other, keys, strlen(keys)) != NULL || strcmp(keys, other) == 0;
            if (k != i && within)
                return kin_fail(context, KIN_INVALID,
                                "%s: the place '%s' in the file lies within '%s'", path, other,
                                keys);
        }
    }
    return KIN_OK;
}

static int compare_texts(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static kin_status check_names(kin_context *context, const char *path, const char **names,
                              size_t count) {
    for (size_t i = 0; i < count; i++)
        if (names[i] == NULL || !kin_utf8_is_valid(names[i], strlen(names[i])))
            return kin_fail(context, KIN_INVALID, "%s: a tensor with an impossible name", path);
    if (count > 0) qsort(names, count, sizeof *names, compare_texts);
    for (size_t i = 1; i < count; i++)
        if (strcmp(names[i - 1], names[i]) == 0)
            return kin_fail(context, KIN_INVALID, "%s: the tensor name '%s' comes twice", path,
                            names[i]);
    return KIN_OK;
}

static kin_status check_tensors(kin_context *context, const char *path,
                                const kin_named_tensor *tensors, size_t count,
                                const kin_pickle_layout *layout, bool has_fill) {
    const char **names = kin_alloc(context, (count + layout->alias_count) * sizeof *names);
    if (names == NULL) return kin_fail_in(context, KIN_OUT_OF_MEMORY, "%s", path);
    kin_status status = KIN_OK;
    for (size_t i = 0; i < layout->alias_count && status == KIN_OK; i++) {
        names[count + i] = layout->aliases[i].name;
        if (layout->aliases[i].tensor >= count)
            status = kin_fail(context, KIN_INVALID, "%s: a second name for no tensor", path);
    }
    for (size_t i = 0; i < count && status == KIN_OK; i++) {
        const kin_desc *desc = &tensors[i].desc;
        const char *name = names[i] = tensors[i].name;
        if (storage_class(desc->dtype) == NULL)
            status = kin_fail(context, KIN_INVALID,
                              "%s: tensor '%s': torch.save has no dtype %s; write safetensors",
                              path, name ? name : "", kin_dtype_name(desc->dtype));
        else if (!kin_desc_is_dense(desc))
            status = kin_fail(context, KIN_INVALID, "%s: tensor '%s': must be dense to be written",
                              path, name ? name : "");
        else if (tensors[i].data == NULL && !has_fill && kin_desc_bytes(desc) > 0)
            status =
                kin_fail(context, KIN_INVALID, "%s: tensor '%s': no data", path, name ? name : "");
    }
    if (status == KIN_OK) status = check_names(context, path, names, count + layout->alias_count);
    kin_free(context, (void *)names);
    return status;
}

kin_status kin_pickle_write(kin_context *context, const char *path, const kin_named_tensor *tensors,
                            size_t count, const kin_pickle_layout *layout, kin_fill_piece fill,
                            void *fill_user) {
    static const kin_pickle_place root = {"", NULL};
    kin_pickle_layout all = layout ? *layout : (kin_pickle_layout){0};
    if (all.place_count == 0) {
        all.places = &root;
        all.place_count = 1;
    }
    if (all.number_count > 0 && all.places[0].keys[0] == 0)
        return kin_fail(context, KIN_INVALID, "%s: numbers beside tensors at the root", path);
    kin_status status = check_places(context, path, &all);
    if (status == KIN_OK) status = check_tensors(context, path, tensors, count, &all, fill != NULL);
    if (status != KIN_OK) return status;
    writer w = {.context = context, .path = path};
    put_byte(&w, PROTO);
    put_byte(&w, 2);
    put_dict(&w, tensors, count, &all, "", 0);
    put_byte(&w, STOP);
    status = w.status;
    if (status == KIN_OK)
        status =
            kin_pickle_write_zip(context, path, w.bytes, w.size, tensors, count, fill, fill_user);
    kin_free(context, w.bytes);
    return status;
}
