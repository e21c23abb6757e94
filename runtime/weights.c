/* Weights between files and stores. */
#include "runtime/weights.h"

#include "runtime/checkpoint.h"
#include "runtime/safetensors.h"

#include <stdio.h>
#include <string.h>

enum { MAX_NAME = 1024, MAX_TOLD = 4 };

enum { WHOLE = 0xFF, MAX_PARTS = 7 }; /* of a variable: parts that were loaded, one bit each */

bool kin_weights_target_at(const char *renamed, int index, kin_weights_target *out_target) {
    kin_weights_target t = {.source_part = index, .source_parts = 1, .parts = 1};
    for (const char *c = renamed; *c; c++) t.source_parts += *c == '|';
    if (index >= t.source_parts) return false;
    for (int i = 0; i < index; i++) renamed = strchr(renamed, '|') + 1;
    size_t length = strcspn(renamed, "|{");
    if (length == 0 || length >= sizeof t.name) return false;
    memcpy(t.name, renamed, length);
    t.name[length] = 0;
    renamed += length;
    if (strncmp(renamed, "{*}", 3) == 0) t.any_rows = true;
    else if (*renamed == '{' && sscanf(renamed, "{%d/%d}", &t.part, &t.parts) != 2) return false;
    if (t.part < 0 || t.part >= t.parts || t.parts > MAX_PARTS) return false;
    *out_target = t;
    return true;
}

/* Cuts the first axis down to one of `parts` equal parts; false if that does not go. */
static bool cut(kin_desc *desc, int parts) {
    if (parts == 1) return true;
    if (desc->rank < 1 || desc->dims[0] % parts != 0) return false;
    desc->dims[0] /= parts;
    *desc = kin_desc_dense(desc->dtype, desc->rank, desc->dims);
    return true;
}

bool kin_weights_target_fits(const kin_weights_target *target, const kin_desc *file,
                             const kin_desc *variable) {
    kin_desc a = *file, b = *variable;
    if (!cut(&a, target->source_parts) || !cut(&b, target->parts)) return false;
    if (target->any_rows && a.rank > 0 && b.rank > 0 && a.dims[0] > 0) a.dims[0] = b.dims[0];
    int i = 0, j = 0; /* axes of size 1 may differ */
    while (i < a.rank || j < b.rank) {
        if (i < a.rank && a.dims[i] == 1) i++;
        else if (j < b.rank && b.dims[j] == 1) j++;
        else if (i < a.rank && j < b.rank && a.dims[i] == b.dims[j]) i++, j++;
        else return false;
    }
    return true;
}

/* Writes dense values, of as many rows as they have, over a part of a variable. */
static kin_status write_part(kin_store *store, const kin_store_entry *entry,
                             const kin_weights_target *target, const kin_desc *desc,
                             const void *values) {
    kin_context *context = kin_store_device(store)->context;
    int64_t count = kin_desc_count(&entry->desc), room = count / target->parts;
    int64_t given = kin_desc_count(desc), row = given / desc->dims[0];
    float *all = kin_alloc(context, (size_t)count * sizeof *all);
    float *from = kin_alloc(context, (size_t)given * sizeof *from);
    kin_status status = all && from ? KIN_OK : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK) status = kin_store_read(store, entry->name, KIN_F32, all);
    if (status == KIN_OK) {
        float *to = all + target->part * room;
        kin_convert(values, desc->dtype, from, KIN_F32, given);
        for (int64_t at = 0; at < room; at += row) {
            int64_t source = at < given ? at : given - row;
            memcpy(to + at, from + source, (size_t)row * sizeof *to);
        }
        status = kin_store_write(store, entry->name, KIN_F32, all);
    }
    kin_free(context, from);
    kin_free(context, all);
    return status;
}

static kin_status load_tensor(kin_store *store, const char *path, kin_store_entry *entry,
                              const kin_weights_target *target, const kin_named_tensor *tensor) {
    kin_context *context = kin_store_device(store)->context;
    if (!kin_weights_target_fits(target, &tensor->desc, &entry->desc)) {
        char have[128], want[128];
        return kin_fail(context, KIN_INVALID, "%s: \"%s\" has shape %s, but the model wants %s%s",
                        path, tensor->name, kin_desc_shape_text(&tensor->desc, have, sizeof have),
                        kin_desc_shape_text(&entry->desc, want, sizeof want),
                        target->parts > 1          ? " of all its parts together"
                        : target->source_parts > 1 ? " of each part of it"
                                                   : "");
    }
    const unsigned char *values = tensor->data;
    void *dense = NULL;
    if (!kin_desc_is_dense(&tensor->desc)) {
        dense = kin_alloc(context, kin_desc_bytes(&tensor->desc));
        if (!dense) return KIN_OUT_OF_MEMORY;
        kin_copy_dense(&tensor->desc, tensor->data, dense);
        values = dense;
    }
    kin_desc part = tensor->desc;
    cut(&part, target->source_parts);
    values += (size_t)target->source_part * kin_desc_bytes(&part);
    bool whole = target->parts == 1 && kin_desc_count(&part) == kin_desc_count(&entry->desc);
    kin_status status = whole ? kin_store_write(store, entry->name, part.dtype, values)
                              : write_part(store, entry, target, &part, values);
    kin_free(context, dense);
    return status;
}

/* Adds a name to a list for a message, "and others" after the first few. */
static void tell(char *list, size_t size, size_t index, const char *name) {
    size_t used = strlen(list);
    if (index < MAX_TOLD) snprintf(list + used, size - used, "%s\"%s\"", index ? ", " : "", name);
    else if (index == MAX_TOLD) snprintf(list + used, size - used, " and others");
}

static bool is_ours(const kin_store_entry *entry, const char *prefix, size_t prefix_length) {
    if (entry->kind == KIN_VARIABLE_STATE) return false;
    return !prefix ||
           (strncmp(entry->name, prefix, prefix_length) == 0 && entry->name[prefix_length] == '.');
}

/* Names of the store's variables under the prefix, without it; for the nearest-name message. */
static const char *nearest(kin_store *store, const char *prefix, const char *name) {
    kin_context *context = kin_store_device(store)->context;
    size_t length = prefix ? strlen(prefix) : 0, count = 0;
    const char **names = kin_alloc(context, (kin_store_count(store) + 1) * sizeof *names);
    if (!names) return NULL;
    for (size_t i = 0; i < kin_store_count(store); i++) {
        const kin_store_entry *entry = kin_store_at(store, i);
        if (is_ours(entry, prefix, length))
            names[count++] = entry->name + (prefix ? length + 1 : 0);
    }
    const char *found = kin_nearest_name(name, names, count);
    kin_free(context, (void *)names);
    return found;
}

/* Loads what a name of the file stands for; counts variables that are filled by it. */
static kin_status load_targets(kin_store *store, const char *path,
                               const kin_weights_options *options, const kin_named_tensor *tensor,
                               const char *renamed, unsigned char *seen, bool *out_known,
                               size_t *loaded) {
    kin_weights_target target;
    *out_known = false;
    for (int k = 0; kin_weights_target_at(renamed, k, &target); k++) {
        char full[2 * MAX_NAME];
        int length = snprintf(full, sizeof full, "%s%s%s", options->prefix ? options->prefix : "",
                              options->prefix ? "." : "", target.name);
        kin_store_entry *entry = length < (int)sizeof full ? kin_store_find(store, full) : NULL;
        if (!entry || entry->kind == KIN_VARIABLE_STATE) continue;
        kin_status status = load_tensor(store, path, entry, &target, tensor);
        if (status != KIN_OK) return status;
        unsigned char *parts = &seen[entry - kin_store_at(store, 0)];
        *parts |= (unsigned char)(1u << target.part);
        if (*parts == (1u << target.parts) - 1) *parts = WHOLE;
        *loaded += *parts == WHOLE;
        *out_known = true;
    }
    return KIN_OK;
}

static kin_status load_all(kin_store *store, const char *path, const kin_checkpoint *file,
                           const kin_weights_options *options, unsigned char *seen,
                           kin_weights_report *report) {
    kin_context *context = kin_store_device(store)->context;
    char list[900] = "";
    for (size_t i = 0; i < kin_checkpoint_count(file); i++) {
        const kin_named_tensor *tensor = kin_checkpoint_at(file, i);
        char name[MAX_NAME];
        bool known = false;
        if (strpbrk(tensor->name, "|{")) { /* signs of kin_weights_rename: in no file's name */
            tell(list, sizeof list, report->unexpected++, tensor->name);
            continue;
        }
        if (!options->rename) snprintf(name, sizeof name, "%s", tensor->name);
        else if (!options->rename(options->config, tensor->name, name, sizeof name)) continue;
        kin_status status =
            load_targets(store, path, options, tensor, name, seen, &known, &report->loaded);
        if (status != KIN_OK) return status;
        if (kin_desc_is_dense(&tensor->desc))
            kin_checkpoint_forget(file, tensor->data, kin_desc_bytes(&tensor->desc));
        if (!known) tell(list, sizeof list, report->unexpected++, tensor->name);
    }
    if (report->unexpected && !options->allow_unexpected) {
        char first[MAX_NAME];
        snprintf(first, sizeof first, "%.*s", (int)strcspn(list + 1, "\""), list + 1);
        const char *near = nearest(store, options->prefix, first);
        return kin_fail(context, KIN_INVALID,
                        "%s: %zu tensors that the model does not have: %s%s%s%s", path,
                        report->unexpected, list, near ? "; nearest to the first is \"" : "",
                        near ? near : "", near ? "\"" : "");
    }
    return KIN_OK;
}

static kin_status tell_missing(kin_store *store, const char *path,
                               const kin_weights_options *options, const unsigned char *seen,
                               kin_weights_report *report) {
    size_t length = options->prefix ? strlen(options->prefix) : 0;
    char list[900] = "";
    for (size_t i = 0; i < kin_store_count(store); i++) {
        const kin_store_entry *entry = kin_store_at(store, i);
        if (!is_ours(entry, options->prefix, length) || seen[i] == WHOLE) continue;
        tell(list, sizeof list, report->missing++,
             entry->name + (options->prefix ? length + 1 : 0));
    }
    if (!report->missing || options->allow_missing) return KIN_OK;
    return kin_fail(
        kin_store_device(store)->context, KIN_NOT_FOUND,
        "%s: %zu tensors of the model are missing: %s (%zu were found): another model's "
        "file, or another size in the configuration?",
        path, report->missing, list, report->loaded);
}

kin_status kin_weights_load(kin_store *store, const char *path, const kin_weights_options *options,
                            kin_weights_report *out_report) {
    kin_context *context = kin_store_device(store)->context;
    kin_weights_report report = {0};
    kin_checkpoint *file;
    kin_status status = kin_checkpoint_open(context, path, options->entry, &file);
    if (status != KIN_OK) return status;
    unsigned char *seen = kin_calloc(context, kin_store_count(store) + 1, sizeof *seen);
    if (!seen) status = KIN_OUT_OF_MEMORY;
    else status = load_all(store, path, file, options, seen, &report);
    if (status == KIN_OK) status = tell_missing(store, path, options, seen, &report);
    kin_free(context, seen);
    kin_checkpoint_close(file);
    if (out_report) *out_report = report;
    return status;
}

/* What the writer's callback needs: which store tensor each file tensor is. */
typedef struct writing {
    kin_store *store;
    const char **store_names;
    kin_named_tensor *tensors;
} writing;

static kin_status fill(void *user, size_t index, void *bytes, size_t size) {
    writing *w = user;
    (void)size;
    return kin_store_read(w->store, w->store_names[index], w->tensors[index].desc.dtype, bytes);
}

static kin_status write_store(kin_store *store, const char *path, writing *w, size_t count,
                              const kin_metadata *metadata, size_t metadata_count) {
    return kin_safetensors_write(kin_store_device(store)->context, path, w->tensors, count,
                                 metadata, metadata_count, fill, w);
}

static kin_status writing_create(kin_store *store, writing *out_writing) {
    kin_context *context = kin_store_device(store)->context;
    size_t count = kin_store_count(store) + 1;
    out_writing->store = store;
    out_writing->store_names = kin_calloc(context, count, sizeof *out_writing->store_names);
    out_writing->tensors = kin_calloc(context, count, sizeof *out_writing->tensors);
    return out_writing->store_names && out_writing->tensors ? KIN_OK : KIN_OUT_OF_MEMORY;
}

static void writing_free(writing *w) {
    kin_context *context = kin_store_device(w->store)->context;
    kin_free(context, (void *)w->store_names);
    kin_free(context, w->tensors);
}

kin_status kin_weights_save(kin_store *store, const char *path, const char *prefix,
                            const char *averages, kin_dtype dtype, const kin_metadata *metadata,
                            size_t metadata_count) {
    kin_context *context = kin_store_device(store)->context;
    size_t length = prefix ? strlen(prefix) : 0, count = 0;
    writing w;
    kin_status status = writing_create(store, &w);
    for (size_t i = 0; status == KIN_OK && i < kin_store_count(store); i++) {
        kin_store_entry *entry = kin_store_at(store, i);
        if (!is_ours(entry, prefix, length)) continue;
        char average[MAX_NAME];
        kin_store_entry *from = NULL;
        if (averages) {
            snprintf(average, sizeof average, "%s%s", averages, entry->name);
            from = kin_store_find(store, average);
        }
        kin_dtype as = kin_dtype_is_float(entry->desc.dtype) ? dtype : entry->desc.dtype;
        w.store_names[count] = from ? from->name : entry->name;
        w.tensors[count++] =
            (kin_named_tensor){.name = entry->name + (prefix ? length + 1 : 0),
                               .desc = kin_desc_dense(as, entry->desc.rank, entry->desc.dims)};
    }
    if (status == KIN_OK && count == 0)
        status = kin_fail(context, KIN_NOT_FOUND, "%s: the store holds no weights under \"%s\"",
                          path, prefix ? prefix : "");
    if (status == KIN_OK) status = write_store(store, path, &w, count, metadata, metadata_count);
    writing_free(&w);
    return status;
}

kin_status kin_store_save(kin_store *store, const char *path, const kin_metadata *metadata,
                          size_t metadata_count) {
    writing w;
    size_t count = kin_store_count(store);
    kin_status status = writing_create(store, &w);
    for (size_t i = 0; status == KIN_OK && i < count; i++) {
        kin_store_entry *entry = kin_store_at(store, i);
        w.store_names[i] = entry->name;
        w.tensors[i] = (kin_named_tensor){.name = entry->name, .desc = entry->desc};
    }
    if (status == KIN_OK) status = write_store(store, path, &w, count, metadata, metadata_count);
    writing_free(&w);
    return status;
}

kin_status kin_store_load(kin_store *store, const char *path) {
    kin_context *context = kin_store_device(store)->context;
    kin_safetensors *file;
    kin_status status = kin_safetensors_open(context, path, &file);
    if (status != KIN_OK) return status;
    if (kin_safetensors_count(file) != kin_store_count(store))
        status = kin_fail(context, KIN_INVALID,
                          "%s holds %zu tensors, but the run has %zu: another configuration?", path,
                          kin_safetensors_count(file), kin_store_count(store));
    for (size_t i = 0; status == KIN_OK && i < kin_store_count(store); i++) {
        kin_store_entry *entry = kin_store_at(store, i);
        const kin_named_tensor *tensor;
        status = kin_safetensors_get(file, entry->name, &tensor);
        if (status != KIN_OK) break;
        if (tensor->desc.dtype != entry->desc.dtype ||
            !kin_desc_same_shape(&tensor->desc, &entry->desc))
            status =
                kin_fail(context, KIN_INVALID,
                         "%s: \"%s\" has another shape or dtype than the run's", path, entry->name);
        else status = kin_store_write(store, entry->name, tensor->desc.dtype, tensor->data);
    }
    kin_safetensors_close(file);
    return status;
}
