/* Weights between files and stores. */
#include "runtime/weights.h"

#include "runtime/checkpoint.h"
#include "runtime/safetensors.h"

#include <stdio.h>
#include <string.h>

enum { MAX_NAME = 1024, MAX_TOLD = 4 };

/* True if the shapes agree once axes of size 1 are dropped. */
static bool fits(const kin_desc *a, const kin_desc *b) {
    int i = 0, j = 0;
    while (i < a->rank || j < b->rank) {
        if (i < a->rank && a->dims[i] == 1) i++;
        else if (j < b->rank && b->dims[j] == 1) j++;
        else if (i < a->rank && j < b->rank && a->dims[i] == b->dims[j]) i++, j++;
        else return false;
    }
    return true;
}

static kin_status load_tensor(kin_store *store, const char *path, kin_store_entry *entry,
                              const kin_named_tensor *tensor) {
    kin_context *context = kin_store_device(store)->context;
    if (!fits(&tensor->desc, &entry->desc)) {
        char have[128], want[128];
        return kin_fail(context, KIN_INVALID, "%s: \"%s\" has shape %s, but the model wants %s",
                        path, tensor->name, kin_desc_shape_text(&tensor->desc, have, sizeof have),
                        kin_desc_shape_text(&entry->desc, want, sizeof want));
    }
    if (kin_desc_is_dense(&tensor->desc))
        return kin_store_write(store, entry->name, tensor->desc.dtype, tensor->data);
    void *dense = kin_alloc(context, kin_desc_bytes(&tensor->desc));
    if (!dense) return KIN_OUT_OF_MEMORY;
    kin_copy_dense(&tensor->desc, tensor->data, dense);
    kin_status status = kin_store_write(store, entry->name, tensor->desc.dtype, dense);
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
        if (is_ours(entry, prefix, length)) names[count++] = entry->name + (prefix ? length + 1 : 0);
    }
    const char *found = kin_nearest_name(name, names, count);
    kin_free(context, (void *)names);
    return found;
}

static kin_status load_all(kin_store *store, const char *path, const kin_checkpoint *file,
                           const kin_weights_options *options, bool *seen,
                           kin_weights_report *report) {
    kin_context *context = kin_store_device(store)->context;
    char list[900] = "";
    for (size_t i = 0; i < kin_checkpoint_count(file); i++) {
        const kin_named_tensor *tensor = kin_checkpoint_at(file, i);
        char name[MAX_NAME], full[MAX_NAME];
        if (!options->rename) snprintf(name, sizeof name, "%s", tensor->name);
        else if (!options->rename(options->config, tensor->name, name, sizeof name)) continue;
        int length = snprintf(full, sizeof full, "%s%s%s", options->prefix ? options->prefix : "",
                              options->prefix ? "." : "", name);
        kin_store_entry *entry =
            length > 0 && length < MAX_NAME ? kin_store_find(store, full) : NULL;
        if (!entry || entry->kind == KIN_VARIABLE_STATE) {
            tell(list, sizeof list, report->unexpected++, tensor->name);
            continue;
        }
        kin_status status = load_tensor(store, path, entry, tensor);
        if (status != KIN_OK) return status;
        seen[entry - kin_store_at(store, 0)] = true;
        report->loaded++;
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
                               const kin_weights_options *options, const bool *seen,
                               kin_weights_report *report) {
    size_t length = options->prefix ? strlen(options->prefix) : 0;
    char list[900] = "";
    for (size_t i = 0; i < kin_store_count(store); i++) {
        const kin_store_entry *entry = kin_store_at(store, i);
        if (!is_ours(entry, options->prefix, length) || seen[i]) continue;
        tell(list, sizeof list, report->missing++, entry->name + (options->prefix ? length + 1 : 0));
    }
    if (!report->missing || options->allow_missing) return KIN_OK;
    return kin_fail(kin_store_device(store)->context, KIN_NOT_FOUND,
                    "%s: %zu tensors of the model are missing: %s (%zu were found): another model's "
                    "file, or another size in the configuration?",
                    path, report->missing, list, report->loaded);
}

kin_status kin_weights_load(kin_store *store, const char *path, const kin_weights_options *options,
                            kin_weights_report *out_report) {
    kin_context *context = kin_store_device(store)->context;
    kin_weights_report report = {0};
    kin_checkpoint *file;
    kin_status status = kin_checkpoint_open(context, path, NULL, &file);
    if (status != KIN_OK) return status;
    bool *seen = kin_calloc(context, kin_store_count(store) + 1, sizeof *seen);
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
        w.tensors[count++] = (kin_named_tensor){
            .name = entry->name + (prefix ? length + 1 : 0),
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
            status = kin_fail(context, KIN_INVALID,
                              "%s: \"%s\" has another shape or dtype than the run's", path,
                              entry->name);
        else status = kin_store_write(store, entry->name, tensor->desc.dtype, tensor->data);
    }
    kin_safetensors_close(file);
    return status;
}
