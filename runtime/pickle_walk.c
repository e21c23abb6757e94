/* Lists the tensors of a pickled file under flat names. */
#define _POSIX_C_SOURCE 200809L

#include "runtime/pickle_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_LIMIT = 4096 };

typedef struct walk {
    kin_pickle *file;
    char separator;
    kin_named_tensor *tensors; /* NULL while they are counted */
    size_t count;
    char name[NAME_LIMIT];
} walk;

static kin_status fail_name(const walk *w, const char *what) {
    char shown[100];
    return kin_fail(w->file->context, KIN_FORMAT, "%s: below '%s': %s", w->file->path,
                    kin_pickle_printable(w->name, strlen(w->name), shown, sizeof shown), what);
}

static kin_status visit_tensor(walk *w, const kin_pickle_value *value) {
    if (w->tensors != NULL) {
        kin_named_tensor *tensor = &w->tensors[w->count];
        tensor->name = kin_pickle_text(w->file, w->name, strlen(w->name));
        if (tensor->name == NULL) return KIN_OUT_OF_MEMORY;
        tensor->desc = value->as.tensor->desc;
        tensor->data = value->as.tensor->data;
    }
    w->count++;
    return KIN_OK;
}

/* Adds a key or an index at `length`; false if it can be no part of a name. */
static bool add_key(walk *w, size_t length, const kin_pickle_value *key, size_t index,
                    size_t *out_length) {
    char number[32];
    const char *text = number;
    size_t size;
    if (key != NULL && key->kind == KIN_PICKLE_STRING) {
        text = key->as.text.data;
        size = key->as.text.size;
        if (memchr(text, '\0', size) != NULL) return false;
    } else if (key == NULL || key->kind == KIN_PICKLE_INT) {
        long long value = key != NULL ? (long long)key->as.integer : (long long)index;
        size = (size_t)snprintf(number, sizeof number, "%lld", value);
    } else {
        return false;
    }
    if (size > NAME_LIMIT - 2 - length) return false;
    if (length > 0) w->name[length++] = w->separator;
    memcpy(w->name + length, text, size);
    w->name[length + size] = '\0';
    *out_length = length + size;
    return true;
}

static bool holds_tensor(const kin_pickle_value *value) {
    if (value->kind == KIN_PICKLE_TENSOR) return true;
    if (value->kind != KIN_PICKLE_LIST && value->kind != KIN_PICKLE_TUPLE &&
        value->kind != KIN_PICKLE_DICT)
        return false;
    for (size_t i = 0; i < value->as.list.count; i++)
        if (holds_tensor(value->as.list.items[i])) return true;
    return false;
}

/* Recursion is at most KIN_PICKLE_DEPTH deep: the file was checked when it was opened. */
static kin_status visit(walk *w, const kin_pickle_value *value, size_t length) {
    if (value->kind == KIN_PICKLE_TENSOR) return visit_tensor(w, value);
    bool is_dict = value->kind == KIN_PICKLE_DICT;
    if (!is_dict && value->kind != KIN_PICKLE_LIST && value->kind != KIN_PICKLE_TUPLE)
        return KIN_OK;
    size_t step = is_dict ? 2 : 1;
    for (size_t i = 0; i < value->as.list.count; i += step) {
        const kin_pickle_value *key = is_dict ? value->as.list.items[i] : NULL;
        const kin_pickle_value *child = value->as.list.items[i + step - 1];
        size_t next = length;
        if (!add_key(w, length, key, i, &next)) {
            /* Training states hold such keys; only a tensor below one would be lost. */
            if (holds_tensor(child))
                return fail_name(w, "a tensor under a key that is neither text nor an integer, or "
                                    "too long");
            continue;
        }
        kin_status status = visit(w, child, next);
        w->name[length] = '\0';
        if (status != KIN_OK) return status;
    }
    return KIN_OK;
}

static int compare_names(const void *a, const void *b) {
    const char *const *x = a;
    const char *const *y = b;
    return strcmp(*x, *y);
}

static kin_status check_unique(kin_pickle *file, const kin_named_tensor *tensors, size_t count) {
    const char **names = kin_alloc(file->context, count * sizeof *names);
    if (names == NULL) return KIN_OUT_OF_MEMORY;
    for (size_t i = 0; i < count; i++) names[i] = tensors[i].name;
    if (count > 0) qsort(names, count, sizeof *names, compare_names);
    kin_status status = KIN_OK;
    for (size_t i = 1; i < count && status == KIN_OK; i++) {
        char shown[100];
        if (strcmp(names[i - 1], names[i]) == 0)
            status = kin_fail(
                file->context, KIN_FORMAT, "%s: two tensors have the name '%s'", file->path,
                kin_pickle_printable(names[i], strlen(names[i]), shown, sizeof shown));
    }
    kin_free(file->context, names);
    return status;
}

kin_status kin_pickle_flatten(kin_pickle *file, const kin_pickle_value *value, char separator,
                              const kin_named_tensor **out_tensors, size_t *out_count) {
    *out_tensors = NULL;
    *out_count = 0;
    walk *w = kin_calloc(file->context, 1, sizeof *w);
    if (w == NULL) return KIN_OUT_OF_MEMORY;
    w->file = file;
    w->separator = separator;
    kin_status status = visit(w, value, 0);
    size_t count = w->count;
    kin_named_tensor *tensors = NULL;
    if (status == KIN_OK) {
        tensors = kin_pickle_alloc(file, count * sizeof *tensors);
        if (tensors == NULL) status = KIN_OUT_OF_MEMORY;
    }
    if (status == KIN_OK) {
        w->tensors = tensors;
        w->count = 0;
        status = visit(w, value, 0);
    }
    kin_free(file->context, w);
    if (status == KIN_OK) status = check_unique(file, tensors, count);
    if (status == KIN_OUT_OF_MEMORY) return kin_fail_in(file->context, status, "%s", file->path);
    if (status != KIN_OK) return status;
    *out_tensors = tensors;
    *out_count = count;
    return KIN_OK;
}

static const kin_pickle_value *find_entry(const kin_pickle *file, const char *entry,
                                          const char **out_name) {
    static const char *const usual[] = {"ema", "ema_state_dict", "state_dict", "model", "module"};
    if (entry != NULL) {
        *out_name = entry;
        return kin_pickle_lookup(file->root, entry);
    }
    for (size_t i = 0; i < sizeof usual / sizeof usual[0]; i++) {
        const kin_pickle_value *value = kin_pickle_lookup(file->root, usual[i]);
        *out_name = usual[i];
        if (value != NULL && value->kind == KIN_PICKLE_DICT && holds_tensor(value)) return value;
    }
    *out_name = "";
    return file->root;
}

kin_status kin_pickle_state_dict(kin_pickle *file, const char *entry,
                                 const kin_named_tensor **out_tensors, size_t *out_count,
                                 const char **out_entry) {
    const char *name = "";
    *out_tensors = NULL;
    *out_count = 0;
    const kin_pickle_value *value = find_entry(file, entry, &name);
    if (value == NULL)
        return kin_fail(file->context, KIN_NOT_FOUND, "%s: there is no entry '%s'", file->path,
                        name);
    kin_status status = kin_pickle_flatten(file, value, '.', out_tensors, out_count);
    if (status == KIN_OK && *out_count == 0)
        return kin_fail(file->context, KIN_NOT_FOUND, "%s: %s%s%s holds no tensor", file->path,
                        name[0] != '\0' ? "the entry '" : "the file", name,
                        name[0] != '\0' ? "'" : "");
    if (out_entry != NULL) *out_entry = name;
    return status;
}
