/* Latents on disk. */
#include "tools/train/latent_cache.h"

#include "runtime/file.h"
#include "runtime/safetensors.h"
#include "tools/tool.h"
#include "tools/train/fingerprint.h"
#include "tools/train/latent_encoder.h"
#include "tools/train/train_share.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_UNREADABLE = 10, ROW_NAME = 24 };

/* The latents of one form. */
typedef struct form_file {
    kin_safetensors *file;
    size_t values;
    const float **clips; /* [rows]; NULL: not needed in this form */
} form_file;

struct kin_latent_cache {
    kin_context *context;
    form_file *forms;
    int form_count;
    int64_t rows;
};

/* Making one file: the clips of a form, one after the other, as the writer asks for them. */
typedef struct encoder {
    kin_context *context;
    kin_device *device;
    const kin_train_config *config;
    const kin_latent_source *source;
    kin_dataset *data;
    const kin_train_order *order;
    int form;
    kin_latent_encoder *encoder;
    const kin_safetensors *old; /* has some of them already; or NULL */
    const int64_t *rows;        /* of the file's tensors */
    int64_t *missing;           /* rows that are to be encoded, in the file's order */
    kin_share share;
    kin_host_tensor clip;
    kin_progress progress;
    bool quiet;
    int unreadable; /* in a row */
} encoder;

static void row_name(int64_t row, char out_name[ROW_NAME]) {
    snprintf(out_name, ROW_NAME, "%010lld", (long long)row);
}

/* Moments [2C, T', Y', X'] of a clip. */
static void moment_dims(const kin_vae_config *vae, const kin_clip_shape *clip, int64_t dims[4]) {
    kin_vae_shape shape = kin_vae_shape_of(vae);
    dims[0] = 2 * shape.channels;
    dims[1] = kin_vae_latent_frames(vae, clip->frames);
    dims[2] = clip->height / shape.space_factor;
    dims[3] = clip->width / shape.space_factor;
}

/* A clip that cannot be read is kept as NaN: see kin_latent_cache_clip. */
static kin_status give_up(encoder *e, kin_status why, int64_t row, float *values, size_t count) {
    if (why == KIN_OUT_OF_MEMORY) return why;
    kin_log(e->context, KIN_LOG_WARN, "%s; the next clip takes its place",
            kin_context_error(e->context));
    if (++e->unreadable >= MAX_UNREADABLE)
        return kin_fail(e->context, KIN_FORMAT,
                        "%s: %d clips in a row cannot be read, up to row %lld", e->config->data.csv,
                        MAX_UNREADABLE, (long long)row + 1);
    for (size_t i = 0; i < count; i++) values[i] = NAN;
    return KIN_OK;
}

static kin_status encode_clip(void *user, int64_t item, void *bytes) {
    encoder *e = user;
    int64_t row = e->missing[item];
    size_t size = e->share.size;
    kin_clip_shape shape = kin_train_order_form(e->order, e->form);
    kin_host_tensor moments = {0};
    kin_status status =
        kin_dataset_read(e->data, row, (uint64_t)e->config->seed, &shape,
                         kin_train_order_real_frames(e->order, e->form, row), e->clip.data);
    if (status != KIN_OK) return give_up(e, status, row, bytes, size / sizeof(float));
    e->unreadable = 0;
    status = kin_latent_encoder_run(e->encoder, &e->clip, &moments);
    if (status == KIN_OK && kin_desc_bytes(&moments.desc) != size)
        status = kin_fail(e->context, KIN_FORMAT, "moments of an unexpected size");
    if (status == KIN_OK) memcpy(bytes, moments.data, size);
    kin_host_tensor_free(e->context, &moments);
    return status;
}

/* What the writer asks for. */
static kin_status give_clip(void *user, size_t index, void *bytes, size_t size) {
    encoder *e = user;
    char name[ROW_NAME];
    row_name(e->rows[index], name);
    const kin_named_tensor *have = e->old ? kin_safetensors_find(e->old, name) : NULL;
    if (have && kin_desc_bytes(&have->desc) == size) {
        memcpy(bytes, have->data, size);
        return KIN_OK;
    }
    kin_status status = kin_share_take(&e->share, bytes);
    kin_progress_show(&e->progress, e->share.taken, NULL);
    return status;
}

static kin_status open_encoder(encoder *e) {
    kin_clip_shape shape = kin_train_order_form(e->order, e->form);
    int64_t video[5] = {1, 3, shape.frames, shape.height, shape.width};
    kin_latent_encoder_options options = {.vae = e->source->vae,
                                          .path = e->source->path,
                                          .precision = e->config->precision,
                                          .memory = e->config->memory,
                                          .frames = shape.frames,
                                          .height = shape.height,
                                          .width = shape.width};
    kin_status status = kin_latent_encoder_open(e->device, &options, &e->encoder);
    if (status != KIN_OK) return status;
    return kin_host_tensor_create(e->context, KIN_F32, 5, video, &e->clip);
}

/* Writes the file with the rows that are needed and those that the old one has. */
static kin_status make_latents(encoder *e, const char *path, const char *fingerprint) {
    kin_clip_shape shape = kin_train_order_form(e->order, e->form);
    int64_t rows = kin_dataset_count(e->data), count = 0, missing = 0, dims[4];
    moment_dims(e->source->vae, &shape, dims);
    kin_desc desc = kin_desc_dense(KIN_F32, 4, dims);
    kin_named_tensor *tensors = kin_calloc(e->context, (size_t)rows, sizeof *tensors);
    char(*names)[ROW_NAME] = kin_calloc(e->context, (size_t)rows, sizeof *names);
    int64_t *list = kin_calloc(e->context, (size_t)rows, 2 * sizeof *list);
    kin_status status = tensors && names && list ? KIN_OK : KIN_OUT_OF_MEMORY;
    for (int64_t i = 0; status == KIN_OK && i < rows; i++) {
        char name[ROW_NAME];
        row_name(i, name);
        const kin_named_tensor *have = e->old ? kin_safetensors_find(e->old, name) : NULL;
        if (!have && !kin_train_order_needs(e->order, e->form, i)) continue;
        if (!have || kin_desc_bytes(&have->desc) != kin_desc_bytes(&desc))
            list[rows + missing++] = i;
        memcpy(names[count], name, sizeof name);
        tensors[count] = (kin_named_tensor){names[count], desc, NULL};
        list[count++] = i;
    }
    e->rows = list;
    e->missing = list ? list + rows : NULL;
    e->share = (kin_share){.context = e->context,
                           .ranks = e->config->ranks,
                           .count = missing,
                           .size = kin_desc_bytes(&desc),
                           .make = encode_clip,
                           .user = e,
                           .what = "the clips"};
    e->progress = kin_progress_begin("encoding clips", 0, missing, e->quiet);
    if (status == KIN_OK) status = open_encoder(e);
    status = kin_ranks_agree(e->config->ranks, status);
    if (status == KIN_OK) {
        kin_metadata made_from = {KIN_FINGERPRINT_KEY, fingerprint};
        status = kin_train_rank(e->config) == 0
                     ? kin_safetensors_write(e->context, path, tensors, (size_t)count, &made_from,
                                             1, give_clip, e)
                     : kin_share_serve(&e->share);
        status = kin_share_end(&e->share, status);
        kin_progress_end(&e->progress);
    }
    kin_latent_encoder_close(e->encoder);
    e->encoder = NULL;
    kin_host_tensor_free(e->context, &e->clip);
    kin_free(e->context, tensors);
    kin_free(e->context, names);
    kin_free(e->context, list);
    return status;
}

/* What the latents of a form are made from. */
static void fingerprint_of(const encoder *e, char out_text[KIN_FINGERPRINT_TEXT]) {
    const kin_dataset_options *o = &e->config->data;
    kin_clip_shape shape = kin_train_order_form(e->order, e->form);
    int64_t rows = kin_dataset_count(e->data);
    bool padded = e->form < kin_train_order_shapes(e->order) &&
                  kin_train_order_shape(e->order, e->form)->padded;
    int64_t facts[] = {rows,
                       shape.frames,
                       o->interval,
                       shape.height,
                       shape.width,
                       o->resize,
                       e->config->seed,
                       (int64_t)e->config->precision.compute,
                       o->choice,
                       padded,
                       (int64_t)(1000 * o->rate)};
    uint64_t hash = kin_fingerprint_bytes(KIN_FINGERPRINT_START, facts, sizeof facts);
    hash = kin_fingerprint_path(kin_fingerprint_path(hash, e->source->path), o->csv);
    for (int64_t i = 0; i < rows; i++) {
        const char *path = kin_dataset_path(e->data, i);
        hash = kin_fingerprint_path(kin_fingerprint_bytes(hash, path, strlen(path)), path);
    }
    kin_fingerprint_text(hash, out_text);
}

static bool has_all(const encoder *e, const kin_safetensors *file) {
    char name[ROW_NAME];
    for (int64_t i = 0; i < kin_dataset_count(e->data); i++) {
        row_name(i, name);
        if (kin_train_order_needs(e->order, e->form, i) && !kin_safetensors_find(file, name))
            return false;
    }
    return true;
}

static char *form_path(const encoder *e) {
    const char *output = e->config->output;
    kin_clip_shape shape = kin_train_order_form(e->order, e->form);
    bool padded = e->form < kin_train_order_shapes(e->order) &&
                  kin_train_order_shape(e->order, e->form)->padded;
    if (kin_train_order_is_plain(e->order))
        return kin_path_join(e->context, output, "latents.safetensors");
    return kin_format(e->context, "%s/latents-%lldx%dx%d%s.safetensors", output,
                      (long long)shape.frames, shape.height, shape.width, padded ? "-padded" : "");
}

/* Where each row's moments lie in the file. */
static kin_status find_rows(const encoder *e, form_file *form) {
    int64_t rows = kin_dataset_count(e->data);
    char name[ROW_NAME];
    kin_status status = KIN_OK;
    form->clips = kin_calloc(e->context, (size_t)rows, sizeof *form->clips);
    if (!form->clips) return KIN_OUT_OF_MEMORY;
    for (int64_t i = 0; status == KIN_OK && i < rows; i++) {
        const kin_named_tensor *tensor;
        if (!kin_train_order_needs(e->order, e->form, i)) continue;
        row_name(i, name);
        status = kin_safetensors_get(form->file, name, &tensor);
        if (status != KIN_OK) break;
        form->clips[i] = tensor->data;
        form->values = (size_t)kin_desc_count(&tensor->desc);
    }
    return status;
}

/* Opens the file of a form, made or completed first where that must be. All ranks come here with
 * the same file before them: rank 0 writes it only when it has the others' clips. */
static kin_status open_form(encoder *e, form_file *out_form) {
    char fingerprint[KIN_FINGERPRINT_TEXT];
    char *path = form_path(e);
    kin_safetensors *old = NULL;
    bool same = true, all = false;
    fingerprint_of(e, fingerprint);
    if (path) all = kin_fingerprint_open(e->context, path, fingerprint, &old) && has_all(e, old);
    kin_status status = kin_ranks_agree(e->config->ranks, path ? KIN_OK : KIN_OUT_OF_MEMORY);
    if (status == KIN_OK) status = kin_ranks_same(e->config->ranks, all, &same);
    if (status == KIN_OK && !same)
        status = kin_fail(e->context, KIN_IO,
                          "%s is not the same for all ranks: output must be a folder that all see",
                          path);
    if (status == KIN_OK && all) {
        kin_log(e->context, KIN_LOG_INFO, "latents: using %s", path);
        out_form->file = old;
        old = NULL;
    } else if (status == KIN_OK) {
        e->old = old;
        status = make_latents(e, path, fingerprint);
        e->old = NULL;
        if (status == KIN_OK) status = kin_safetensors_open(e->context, path, &out_form->file);
    }
    if (old) kin_safetensors_close(old);
    if (status == KIN_OK) status = find_rows(e, out_form);
    kin_free(e->context, path);
    return kin_ranks_agree(e->config->ranks, status);
}

kin_status kin_latent_cache_open(kin_context *context, kin_device *device,
                                 const kin_train_config *config, const kin_latent_source *source,
                                 kin_dataset *data, const kin_train_order *order, bool quiet,
                                 kin_latent_cache **out_cache) {
    *out_cache = NULL;
    encoder e = {.context = context,
                 .device = device,
                 .config = config,
                 .source = source,
                 .data = data,
                 .order = order,
                 .quiet = quiet};
    kin_latent_cache *cache = kin_calloc(context, 1, sizeof *cache);
    kin_status status = kin_ranks_agree(config->ranks, cache ? KIN_OK : KIN_OUT_OF_MEMORY);
    if (status != KIN_OK) {
        kin_free(context, cache);
        return status;
    }
    cache->context = context;
    cache->rows = kin_dataset_count(data);
    cache->form_count = kin_train_order_forms(order);
    cache->forms = kin_calloc(context, (size_t)cache->form_count, sizeof *cache->forms);
    status = cache->forms ? kin_make_folders(context, config->output) : KIN_OUT_OF_MEMORY;
    status = kin_ranks_agree(config->ranks, status);
    for (e.form = 0; status == KIN_OK && e.form < cache->form_count; e.form++)
        status = open_form(&e, &cache->forms[e.form]);
    if (status == KIN_OK) *out_cache = cache;
    else kin_latent_cache_close(cache);
    return status;
}

void kin_latent_cache_close(kin_latent_cache *cache) {
    if (!cache) return;
    for (int i = 0; cache->forms && i < cache->form_count; i++) {
        if (cache->forms[i].file) kin_safetensors_close(cache->forms[i].file);
        kin_free(cache->context, (void *)cache->forms[i].clips);
    }
    kin_free(cache->context, cache->forms);
    kin_free(cache->context, cache);
}

size_t kin_latent_cache_values(const kin_latent_cache *cache, int form) {
    return cache->forms[form].values;
}

const float *kin_latent_cache_clip(const kin_latent_cache *cache, int form, int64_t row,
                                   int64_t *out_row) {
    const form_file *f = &cache->forms[form];
    int64_t found = row;
    for (int64_t tries = 0; tries < cache->rows; tries++) {
        int64_t next = (row + tries) % cache->rows;
        if (!f->clips[next] || isnan(f->clips[next][0])) continue;
        found = next;
        break;
    }
    if (out_row) *out_row = found;
    return f->clips[found];
}
