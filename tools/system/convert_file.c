/* kinora convert: one checkpoint. */
#include "tools/system/convert.h"

#include "runtime/checkpoint.h"
#include "tools/system/weight_files.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    PART = 1 << 14, /* elements converted at a time: they stay in the cache */
    BLOCK = 32,
    BLOCK_BYTES = 34
};

static const double f16_largest = 65504;

typedef struct job {
    kin_context *context;
    const char *source;
    kin_checkpoint *file;
    const kin_named_tensor **from; /* of tensor i */
    kin_named_tensor *tensors;     /* as they are written: no data */
    size_t count;
    kin_pickle_alias *aliases; /* second names of tensors that share their bytes */
    size_t alias_count;
    void *dense; /* of the strided tensor `dense_index` */
    size_t dense_index;
    bool *told; /* that a tensor is not finite */
    bool watch; /* for such values while writing: they were not looked for before */
} job;

static size_t bytes_of(kin_dtype dtype, int64_t elements) {
    if (dtype == KIN_Q8_0) return (size_t)(elements / BLOCK) * BLOCK_BYTES;
    return (size_t)elements * kin_dtype_size(dtype);
}

static int64_t elements_of(kin_dtype dtype, size_t bytes) {
    if (dtype == KIN_Q8_0) return (int64_t)(bytes / BLOCK_BYTES * BLOCK);
    return (int64_t)(bytes / kin_dtype_size(dtype));
}

/* ---- values ---- */

/* The dense bytes of tensor `index`; a view is copied and kept until another one is asked for. */
static kin_status dense_bytes(job *j, size_t index, const unsigned char **out_bytes) {
    const kin_named_tensor *tensor = j->from[index];
    *out_bytes = tensor->data;
    if (kin_desc_is_dense(&tensor->desc)) return KIN_OK;
    if (!j->dense || j->dense_index != index) {
        kin_desc dense = kin_desc_dense(tensor->desc.dtype, tensor->desc.rank, tensor->desc.dims);
        kin_free(j->context, j->dense);
        j->dense = kin_alloc(j->context, kin_desc_bytes(&dense));
        if (!j->dense) return kin_fail_in(j->context, KIN_OUT_OF_MEMORY, "%s", tensor->name);
        kin_copy_dense(&tensor->desc, tensor->data, j->dense);
        j->dense_index = index;
    }
    *out_bytes = j->dense;
    return KIN_OK;
}

/* What is in `count` elements. */
typedef struct extent {
    double largest; /* of the finite ones */
    int64_t not_finite;
} extent;

static extent look(kin_context *context, const unsigned char *bytes, kin_dtype dtype,
                   int64_t count) {
    double largest = 0;
    int64_t not_finite = 0;
    (void)context; /* without OpenMP */
#pragma omp parallel for num_threads(kin_context_threads(context)) schedule(static)                \
    reduction(max : largest) reduction(+ : not_finite)
    for (int64_t at = 0; at < count; at += PART) {
        float values[PART];
        int64_t part = count - at < PART ? count - at : PART;
        kin_convert(bytes + bytes_of(dtype, at), dtype, values, KIN_F32, part);
        float most = 0;
        for (int64_t i = 0; i < part; i++) {
            float size = fabsf(values[i]);
            if (!isfinite(size)) not_finite++;
            else if (size > most) most = size;
        }
        if (most > largest) largest = most;
    }
    return (extent){largest, not_finite};
}

static void tell_not_finite(job *j, size_t index, int64_t count) {
    if (count == 0 || j->told[index]) return;
    j->told[index] = true;
    kin_log(j->context, KIN_LOG_WARN, "%s: \"%s\" holds values that are not finite (NaN, infinity)",
            j->source, j->tensors[index].name);
}

/* The dtype for tensor `index`, after a look at its values where the wanted one has limits. */
static kin_status choose_dtype(job *j, size_t index, kin_dtype wanted) {
    const kin_named_tensor *tensor = j->from[index];
    kin_desc *desc = &j->tensors[index].desc;
    kin_dtype dtype = kin_weight_dtype(j->tensors[index].name, &tensor->desc, wanted);
    bool limited = (dtype == KIN_F16 || dtype == KIN_Q8_0) && tensor->desc.dtype != dtype;
    const unsigned char *bytes = NULL;
    kin_status status = KIN_OK;
    if (limited && kin_interrupted()) status = kin_fail(j->context, KIN_CANCELLED, "interrupted");
    else if (limited) status = dense_bytes(j, index, &bytes);
    if (status != KIN_OK) return status;
    if (limited) {
        int64_t count = kin_desc_count(&tensor->desc);
        extent found = look(j->context, bytes, tensor->desc.dtype, count);
        kin_checkpoint_forget(j->file, bytes, bytes_of(tensor->desc.dtype, count));
        tell_not_finite(j, index, found.not_finite);
        /* A block of q8_0 with such a value would be lost as a whole. */
        if (dtype == KIN_Q8_0 && (found.not_finite || found.largest / 127 > f16_largest))
            dtype = KIN_F16;
        if (dtype == KIN_F16 && found.largest > f16_largest) {
            dtype = tensor->desc.dtype == KIN_BF16 ? KIN_BF16 : KIN_F32;
            kin_log(j->context, KIN_LOG_WARN,
                    "%s: \"%s\" has values up to %g, beyond the range of f16: it stays %s",
                    j->source, j->tensors[index].name, found.largest, kin_dtype_name(dtype));
        }
    }
    *desc = kin_desc_dense(dtype, tensor->desc.rank, tensor->desc.dims);
    return KIN_OK;
}

/* A kin_fill_piece. */
static kin_status fill(void *user, size_t index, size_t offset, void *bytes, size_t size) {
    job *j = user;
    const kin_dtype from = j->from[index]->desc.dtype, to = j->tensors[index].desc.dtype;
    const int64_t first = elements_of(to, offset), count = elements_of(to, size);
    const unsigned char *source;
    unsigned char *target = bytes;
    kin_status status = dense_bytes(j, index, &source);
    if (status != KIN_OK) return status;
    source += bytes_of(from, first);
#pragma omp parallel for num_threads(kin_context_threads(j->context)) schedule(static)
    for (int64_t at = 0; at < count; at += PART) {
        int64_t part = count - at < PART ? count - at : PART;
        kin_convert(source + bytes_of(from, at), from, target + bytes_of(to, at), to, part);
    }
    if (j->watch && kin_dtype_is_float(to))
        tell_not_finite(j, index, look(j->context, target, to, count).not_finite);
    kin_checkpoint_forget(j->file, source, bytes_of(from, count));
    return KIN_OK;
}

/* ---- the list ---- */

/* What DistributedDataParallel puts in front of every name. */
static bool is_wrapped(const kin_checkpoint *file) {
    for (size_t i = 0; i < kin_checkpoint_count(file); i++)
        if (strncmp(kin_checkpoint_at(file, i)->name, "module.", 7) != 0) return false;
    return true;
}

/* A tensor of the list whose very bytes these are, as T5's table is stored under two names. */
static bool find_same(const job *j, const kin_named_tensor *tensor, size_t *out_index) {
    const kin_desc *desc = &tensor->desc;
    for (size_t i = 0; i < j->count; i++) {
        const kin_desc *other = &j->from[i]->desc;
        if (j->from[i]->data != tensor->data || other->dtype != desc->dtype ||
            kin_desc_count(desc) == 0 || !kin_desc_same_shape(other, desc) ||
            memcmp(other->strides, desc->strides, (size_t)desc->rank * sizeof *desc->strides) != 0)
            continue;
        *out_index = i;
        return true;
    }
    return false;
}

/* The name that stays is the one under which transformers saves the table. */
static void add_alias(job *j, size_t index, const char *name) {
    kin_named_tensor *first = &j->tensors[index];
    const char *second = name;
    if (strcmp(name, "shared.weight") == 0) {
        second = first->name;
        first->name = name;
    }
    j->aliases[j->alias_count++] = (kin_pickle_alias){second, index};
}

static kin_status make_list(job *j, const kin_convert_options *options) {
    bool wrapped = is_wrapped(j->file), keep = options->dtype == NULL;
    kin_dtype wanted = KIN_F32;
    size_t count = kin_checkpoint_count(j->file);
    if (!keep &&
        (!kin_dtype_from_name(options->dtype, &wanted) ||
         (wanted != KIN_F32 && wanted != KIN_F16 && wanted != KIN_BF16 && wanted != KIN_Q8_0)))
        return kin_fail(j->context, KIN_INVALID,
                        "weights are kept in f32, f16, bf16 or q8_0, not %s", options->dtype);
    j->from = kin_calloc(j->context, count + 1, sizeof *j->from);
    j->tensors = kin_calloc(j->context, count + 1, sizeof *j->tensors);
    j->told = kin_calloc(j->context, count + 1, sizeof *j->told);
    j->aliases = kin_calloc(j->context, count + 1, sizeof *j->aliases);
    if (!j->from || !j->tensors || !j->told || !j->aliases) return KIN_OUT_OF_MEMORY;
    j->watch = keep || wanted == KIN_F32 || wanted == KIN_BF16;
    for (size_t i = 0; i < count; i++) {
        const kin_named_tensor *tensor = kin_checkpoint_at(j->file, i);
        const kin_desc *desc = &tensor->desc;
        const char *name = tensor->name + (wrapped ? 7 : 0);
        size_t at = j->count;
        if (find_same(j, tensor, &at)) {
            add_alias(j, at, name);
            continue;
        }
        j->from[at] = tensor;
        j->tensors[at].name = name;
        j->count++;
        if (desc->dtype == KIN_Q8_0 && desc->dims[desc->rank - 1] % BLOCK != 0)
            return kin_fail(j->context, KIN_UNSUPPORTED,
                            "%s: \"%s\" is q8_0 with rows that are no whole blocks", j->source,
                            tensor->name);
        kin_status status = KIN_OK;
        if (keep) j->tensors[at].desc = kin_desc_dense(desc->dtype, desc->rank, desc->dims);
        else status = choose_dtype(j, at, wanted);
        if (status != KIN_OK) return status;
    }
    return count ? KIN_OK
                 : kin_fail(j->context, KIN_NOT_FOUND, "%s: there are no tensors in it", j->source);
}

/* ---- checks of what was written ---- */

static kin_status compare_values(job *j, size_t index, const kin_checkpoint *file,
                                 const kin_named_tensor *written, const char *path, void *buffer) {
    size_t bytes = kin_desc_bytes(&j->tensors[index].desc);
    const unsigned char *have = written->data;
    for (size_t done = 0; done < bytes; done += KIN_PIECE) {
        size_t part = bytes - done < KIN_PIECE ? bytes - done : KIN_PIECE;
        if (kin_interrupted()) return kin_fail(j->context, KIN_CANCELLED, "interrupted");
        kin_status status = fill(j, index, done, buffer, part);
        if (status != KIN_OK) return status;
        if (memcmp(buffer, have + done, part) != 0)
            return kin_fail(j->context, KIN_NUMERIC,
                            "%s: \"%s\" reads back with other values than were written; is the "
                            "disk or the memory damaged?",
                            path, written->name);
        kin_checkpoint_forget(file, have + done, part);
    }
    return KIN_OK;
}

/* Opens what was written: names, dtypes and shapes, and with `values` every bit. */
static kin_status check_written(job *j, const char *path, const char *into, bool values) {
    kin_checkpoint *file = NULL;
    void *buffer = values ? kin_alloc(j->context, KIN_PIECE) : NULL;
    kin_status status =
        values && !buffer ? KIN_OUT_OF_MEMORY : kin_checkpoint_open(j->context, path, into, &file);
    size_t wanted_count = j->count + (kin_path_ends_with(path, ".safetensors") ||
                                              kin_path_ends_with(path, ".safetensors.index.json")
                                          ? 0
                                          : j->alias_count);
    if (status == KIN_OK && kin_checkpoint_count(file) != wanted_count)
        status = kin_fail(j->context, KIN_NUMERIC, "%s: %zu tensors were written, %zu read back",
                          path, wanted_count, kin_checkpoint_count(file));
    for (size_t i = 0; status == KIN_OK && i < j->count; i++) {
        const kin_desc *wanted = &j->tensors[i].desc;
        const kin_named_tensor *tensor = NULL;
        status = kin_checkpoint_get(file, j->tensors[i].name, &tensor);
        if (status == KIN_OK &&
            (tensor->desc.dtype != wanted->dtype || !kin_desc_same_shape(&tensor->desc, wanted)))
            status = kin_fail(j->context, KIN_NUMERIC, "%s: \"%s\" reads back otherwise", path,
                              tensor->name);
        if (status == KIN_OK && values) status = compare_values(j, i, file, tensor, path, buffer);
    }
    kin_checkpoint_close(file);
    kin_free(j->context, buffer);
    return status;
}

/* ---- all of it ---- */

static void tell_done(const job *j, const char *path, const kin_convert_options *options) {
    char line[2048], bytes[32];
    if (!options->told) return;
    snprintf(line, sizeof line, "%s\t%s\t%zu tensors\t%s", j->source, path, j->count,
             kin_bytes_text(kin_weight_bytes(j->tensors, j->count), bytes, sizeof bytes));
    options->told(options->told_user, line);
}

static kin_status write_list(job *j, const char *folder, const char *base, const char *ending,
                             const kin_convert_options *options) {
    uint64_t bytes = kin_weight_bytes(j->tensors, j->count);
    bool sharded = options->shard_bytes && bytes > options->shard_bytes && j->count > 1;
    kin_pickle_place place = {options->into ? options->into : "", NULL};
    kin_pickle_layout layout = {.places = &place, .place_count = 1};
    if (strcmp(ending, ".safetensors") != 0) { /* its tensors have one name each */
        layout.aliases = j->aliases;
        layout.alias_count = j->alias_count;
    }
    kin_weight_form form = {
        .base = base, .ending = ending, .shard_bytes = options->shard_bytes, .layout = &layout};
    char *path =
        kin_format(j->context, "%s/%s%s%s", folder, base, ending, sharded ? ".index.json" : "");
    if (!path) return KIN_OUT_OF_MEMORY;
    kin_progress progress = kin_weight_progress(base, bytes, options->quiet);
    kin_status status = kin_need_disk(j->context, folder, bytes);
    if (status == KIN_OK)
        status = kin_weight_files_write(j->context, folder, &form, j->tensors, j->count, fill, j,
                                        &progress);
    kin_progress_end(&progress);
    if (status == KIN_OK) status = check_written(j, path, options->into, options->verify);
    if (status == KIN_OK) tell_done(j, path, options);
    kin_free(j->context, path);
    return status;
}

kin_status kin_convert_checkpoint(kin_context *context, const char *source, const char *folder,
                                  const char *base, const char *ending,
                                  const kin_convert_options *options) {
    job j = {.context = context, .source = source};
    kin_status status = kin_checkpoint_open(context, source, options->entry, &j.file);
    if (status == KIN_OK) status = make_list(&j, options);
    if (status == KIN_OK) status = write_list(&j, folder, base, ending, options);
    kin_free(context, j.dense);
    kin_free(context, (void *)j.from);
    kin_free(context, j.tensors);
    kin_free(context, j.told);
    kin_free(context, j.aliases);
    kin_checkpoint_close(j.file);
    return status;
}
