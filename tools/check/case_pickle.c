/* The case of torch.save files: good ones that must load bit by bit, and hostile ones that must be
 * refused without harm. */
#include "tools/check/case_memory.h"
#include "tools/check/case_run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/pickle.h"

static const char mark_of_harm[] = "/tmp/torch-pickle-was-executed";

/* A reader of small files must not take much memory, whatever a file claims. */
enum { MEMORY_FACTOR = 64, MEMORY_FLOOR = 4 << 20 };

static const kin_named_tensor *find_tensor(const kin_named_tensor *list, size_t count,
                                           const char *name) {
    for (size_t i = 0; i < count; i++)
        if (strcmp(list[i].name, name) == 0) return &list[i];
    return NULL;
}

/* True if shape, dtype and all bytes agree. */
static bool same_tensor(kin_context *context, const kin_named_tensor *got,
                        const kin_named_tensor *want) {
    if (got->desc.dtype != want->desc.dtype || !kin_desc_same_shape(&got->desc, &want->desc))
        return false;
    size_t size = kin_desc_bytes(&want->desc);
    void *dense = kin_alloc(context, size + 1);
    if (!dense) return false;
    kin_copy_dense(&got->desc, got->data, dense);
    bool same = memcmp(dense, want->data, size) == 0;
    kin_free(context, dense);
    return same;
}

/* Fills `why` and returns false at the first tensor that differs. */
static bool same_tensors(kin_context *context, const kin_named_tensor *got, size_t count,
                         const kin_safetensors *want, char *why, size_t size) {
    if (count != kin_safetensors_count(want)) {
        snprintf(why, size, "%zu tensors, not %zu", count, kin_safetensors_count(want));
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        const kin_named_tensor *expected = kin_safetensors_at(want, i);
        const kin_named_tensor *tensor = find_tensor(got, count, expected->name);
        if (tensor && same_tensor(context, tensor, expected)) continue;
        snprintf(why, size, "tensor \"%s\" %s", expected->name, tensor ? "differs" : "is missing");
        return false;
    }
    return true;
}

static bool compare_tensors(kin_context *context, kin_pickle *file, const char *folder,
                            const char *tensors, char *why, size_t size) {
    const kin_named_tensor *list = NULL;
    size_t count = 0;
    kin_safetensors *want = NULL;
    char *path = kin_path_join(context, folder, tensors);
    kin_status status = path ? KIN_OK : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK)
        status = kin_pickle_flatten(file, kin_pickle_root(file), '/', &list, &count);
    if (status == KIN_OK) status = kin_safetensors_open(context, path, &want);
    bool same = false;
    if (status == KIN_OK) same = same_tensors(context, list, count, want, why, size);
    else snprintf(why, size, "%s", kin_context_error(context));
    kin_safetensors_close(want);
    kin_free(context, path);
    return same;
}

/* The value at "betas/0": keys of dicts and indices of lists, joined with '/'. */
static const kin_pickle_value *walk(const kin_pickle_value *value, const char *path) {
    while (value && *path) {
        size_t length = strcspn(path, "/");
        const kin_pickle_value *next = NULL;
        bool list = value->kind == KIN_PICKLE_LIST || value->kind == KIN_PICKLE_TUPLE;
        if (list) {
            size_t index = strtoul(path, NULL, 10);
            if (index < value->as.list.count) next = value->as.list.items[index];
        } else if (value->kind == KIN_PICKLE_DICT) {
            for (size_t i = 0; i + 1 < value->as.list.count; i += 2) {
                const kin_pickle_value *key = value->as.list.items[i];
                if (key->kind == KIN_PICKLE_STRING && key->as.text.size == length &&
                    memcmp(key->as.text.data, path, length) == 0)
                    next = value->as.list.items[i + 1];
                if (key->kind == KIN_PICKLE_INT && key->as.integer == strtoll(path, NULL, 10) &&
                    *path >= '0' && *path <= '9')
                    next = value->as.list.items[i + 1];
            }
        }
        value = next;
        path += length + (path[length] == '/');
    }
    return value;
}

/* Little-endian two's complement of any length. */
static double big_number(const char *bytes, size_t size) {
    double value = 0;
    bool negative = size > 0 && ((unsigned char)bytes[size - 1] & 0x80);
    for (size_t i = size; i-- > 0;) value = value * 256 + (unsigned char)bytes[i];
    return negative ? value - ldexp(1, (int)(8 * size)) : value;
}

static bool same_scalar(const kin_pickle_value *got, const json_t *want) {
    if (!got) return false;
    switch (got->kind) {
    case KIN_PICKLE_NONE:
        return json_is_null(want);
    case KIN_PICKLE_BOOL:
        return json_is_boolean(want) && json_is_true(want) == got->as.boolean;
    case KIN_PICKLE_INT:
        return json_is_number(want) && json_number_value(want) == (double)got->as.integer;
    case KIN_PICKLE_BIG_INT:
        return json_is_number(want) &&
               json_number_value(want) == big_number(got->as.text.data, got->as.text.size);
    case KIN_PICKLE_FLOAT:
        return json_is_number(want) && json_number_value(want) == got->as.number;
    case KIN_PICKLE_STRING:
    case KIN_PICKLE_BYTES:
        return json_is_string(want) && json_string_length(want) == got->as.text.size &&
               memcmp(json_string_value(want), got->as.text.data, got->as.text.size) == 0;
    default:
        return false;
    }
}

static bool compare_scalars(const kin_pickle *file, const json_t *scalars, char *why, size_t size) {
    const char *path;
    json_t *want;
    json_object_foreach((json_t *)scalars, path, want) {
        if (same_scalar(walk(kin_pickle_root(file), path), want)) continue;
        snprintf(why, size, "scalar \"%s\" differs", path);
        return false;
    }
    return true;
}

/* True if a file of the form before zips says of itself that its data is little-endian. The case's
 * file that stands for the other kind says so too: then there is nothing to swap or to refuse. */
static bool says_little_endian(const kin_mapping *file) {
    static const char key[] = "little_endian";
    enum { BINPUT = 'q', NEWTRUE = 0x88 };
    size_t length = sizeof key - 1;
    for (size_t i = 0; i + length + 3 <= file->size; i++) {
        const unsigned char *after = file->data + i + length;
        if (memcmp(file->data + i, key, length) == 0)
            return after[0] == BINPUT ? after[2] == NEWTRUE : after[0] == NEWTRUE;
    }
    return false;
}

/* One file in a context of its own. Returns whether it did what `entry` expects. */
static bool check_file(const char *folder, const char *name, const json_t *entry, char *why,
                       size_t size) {
    kin_case_memory memory = {0};
    kin_context *context = NULL;
    if (kin_case_memory_context(&memory, &context) != KIN_OK) return false;
    const char *expect = json_string_value(json_object_get(entry, "expect"));
    const char *tensors = json_string_value(json_object_get(entry, "tensors"));
    char *path = kin_path_join(context, folder, name);
    kin_pickle *file = NULL;
    kin_mapping mapping = {0};
    size_t limit = MEMORY_FLOOR;
    kin_status status = path ? kin_pickle_open(context, path, &file) : KIN_OUT_OF_MEMORY;
    if (status != KIN_OK) snprintf(why, size, "%s", kin_context_error(context));
    bool mapped = path && kin_file_map(context, path, &mapping) == KIN_OK;
    if (mapped) limit += MEMORY_FACTOR * mapping.size;
    bool good = false;
    if (!expect) snprintf(why, size, "config.json does not say what to expect");
    else if (status != KIN_OK) {
        good = strcmp(expect, "load") != 0 && strstr(why, name) != NULL;
    } else if (strcmp(expect, "refuse") == 0) {
        snprintf(why, size, "was not refused");
    } else if (strcmp(expect, "swap-or-refuse") == 0) {
        good = says_little_endian(&mapping);
        snprintf(why, size, good ? "says that it is little-endian" : "was not refused");
    } else {
        good = !tensors || compare_tensors(context, file, folder, tensors, why, size);
        good = good && compare_scalars(file, json_object_get(entry, "scalars"), why, size);
    }
    if (memory.peak > limit) {
        snprintf(why, size, "took %zu bytes of memory", memory.peak);
        good = false;
    }
    kin_pickle_close(file);
    if (mapped) kin_file_unmap(&mapping);
    kin_free(context, path);
    kin_context_destroy(context);
    if (memory.now != 0) {
        snprintf(why, size, "lost %zu bytes of memory", memory.now);
        good = false;
    }
    if (kin_file_exists(mark_of_harm)) {
        snprintf(why, size, "ran code: %s is there", mark_of_harm);
        good = false;
    }
    return good;
}

void kin_case_pickle(kin_case_run *run) {
    char *path = kin_path_join(run->context, run->folder, "config.json");
    if (!path) return;
    if (kin_file_exists(mark_of_harm)) {
        kin_case_expect(run, mark_of_harm, false, "is there already; remove it");
        kin_free(run->context, path);
        return;
    }
    /* The list holds an integer of 71 bits, which kin_json_load rightly refuses. */
    json_error_t error;
    json_t *root = json_load_file(path, JSON_DECODE_INT_AS_REAL | JSON_ALLOW_NUL, &error);
    const json_t *files = json_object_get(root, "files");
    kin_case_expect(run, "config.json", json_array_size(files) > 0, root ? "" : error.text);
    for (size_t i = 0; i < json_array_size(files); i++) {
        const json_t *entry = json_array_get(files, i);
        const char *name = json_string_value(json_object_get(entry, "file"));
        char why[512] = "";
        bool good = name && check_file(run->folder, name, entry, why, sizeof why);
        kin_case_expect(run, name ? name : "(no name)", good, why);
    }
    json_decref(root);
    kin_free(run->context, path);
}
