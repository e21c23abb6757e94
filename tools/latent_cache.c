/* Latents and text features on disk. */
#include "tools/latent_cache.h"

#include "runtime/file.h"
#include "runtime/safetensors.h"
#include "runtime/weights.h"
#include "tools/fingerprint.h"
#include "tools/tool.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define FINGERPRINT_KEY "kinora.made_from"

struct kin_latent_cache {
    kin_context *context;
    kin_safetensors *file;
    size_t values;
    int64_t count;
    const float **clips;
};

/* Opens the cache at `path` if it was made from the same things. */
static bool open_same(kin_context *context, const char *path, const char *fingerprint,
                      kin_safetensors **out_file) {
    *out_file = NULL;
    if (!kin_file_exists(path) || kin_safetensors_open(context, path, out_file) != KIN_OK)
        return false;
    const char *made_from = kin_safetensors_metadata(*out_file, FINGERPRINT_KEY);
    if (made_from && strcmp(made_from, fingerprint) == 0) return true;
    kin_safetensors_close(*out_file);
    *out_file = NULL;
    return false;
}

/* Encoding one clip after the other, as the writer asks for them. */
typedef struct encoder {
    kin_context *context;
    const kin_train_config *config;
    kin_dataset *data;
    kin_plan *plan;
    kin_store *store;
    float *clip, *images, *moments;
    int64_t channels, plane; /* 2C; latent pixels of a frame */
    kin_progress progress;
    int64_t done;
} encoder;

static kin_status encode_clip(void *user, size_t index, void *bytes, size_t size) {
    encoder *e = user;
    const kin_dataset_options *data = &e->config->data;
    size_t pixels = (size_t)data->height * (size_t)data->width;
    if (kin_interrupted())
        return kin_fail(e->context, KIN_CANCELLED, "interrupted while encoding the clips");
    int64_t read;
    kin_status status =
        kin_dataset_clip(e->data, (int64_t)index, (uint64_t)e->config->seed, e->clip, &read);
    if (status != KIN_OK) return status;
    if (read != (int64_t)index) { /* not with this caption: see kin_latent_cache_row */
        float *values = bytes;
        for (size_t i = 0; i < size / sizeof *values; i++) values[i] = NAN;
        kin_progress_show(&e->progress, ++e->done, NULL);
        return KIN_OK;
    }
    for (int64_t f = 0; f < data->frames; f++)
        for (int64_t c = 0; c < 3; c++)
            memcpy(e->images + (size_t)(f * 3 + c) * pixels,
                   e->clip + (size_t)(c * data->frames + f) * pixels, pixels * sizeof(float));
    status = kin_plan_write(e->plan, "images", KIN_F32, e->images);
    if (status == KIN_OK) status = kin_plan_run(e->plan);
    if (status == KIN_OK) status = kin_plan_read(e->plan, "moments", KIN_F32, e->moments);
    float *out = bytes;
    size_t plane = (size_t)e->plane;
    for (int64_t c = 0; status == KIN_OK && c < e->channels; c++)
        for (int64_t f = 0; f < data->frames; f++)
            memcpy(out + (size_t)(c * data->frames + f) * plane,
                   e->moments + (size_t)(f * e->channels + c) * plane, plane * sizeof(float));
    kin_progress_show(&e->progress, ++e->done, NULL);
    return status;
}

static kin_status encoder_open(encoder *e, kin_device *device, const kin_sd_vae_config *vae) {
    const kin_dataset_options *data = &e->config->data;
    int64_t dims[4] = {data->frames, 3, data->height, data->width};
    size_t values = (size_t)(3 * data->frames) * (size_t)data->height * (size_t)data->width;
    kin_weights_options load = {.prefix = "vae",
                                .rename = kin_sd_vae_rename,
                                .config = vae,
                                .allow_unexpected = true}; /* the decoder's half of the file */
    kin_graph *graph;
    kin_status status = kin_graph_create(e->context, &graph);
    if (status != KIN_OK) return status;
    kin_tensor images = kin_input(graph, "images", KIN_F32, 4, dims);
    kin_scope_push(graph, "vae");
    kin_tensor moments = kin_sd_vae_encode(graph, vae, &e->config->precision, images, false);
    kin_scope_pop(graph);
    kin_output(graph, "moments", moments);
    status = kin_plan_build(graph, device, NULL, &e->plan);
    if (status == KIN_OK) status = kin_store_create(device, &e->store);
    if (status == KIN_OK) status = kin_store_add_graph(e->store, graph, 0);
    if (status == KIN_OK) status = kin_weights_load(e->store, e->config->vae_path, &load, NULL);
    if (status == KIN_OK) status = kin_plan_prepare(e->plan, e->store, NULL);
    kin_graph_destroy(graph);
    e->clip = kin_alloc(e->context, values * sizeof(float));
    e->images = kin_alloc(e->context, values * sizeof(float));
    e->moments =
        kin_alloc(e->context, (size_t)(data->frames * e->channels * e->plane) * sizeof(float));
    if (status == KIN_OK && (!e->clip || !e->images || !e->moments)) status = KIN_OUT_OF_MEMORY;
    return status;
}

static void encoder_close(encoder *e) {
    kin_plan_free(e->plan);
    kin_store_free(e->store);
    kin_free(e->context, e->clip);
    kin_free(e->context, e->images);
    kin_free(e->context, e->moments);
}

static kin_status make_latents(kin_context *context, kin_device *device,
                               const kin_train_config *config, const kin_sd_vae_config *vae,
                               kin_dataset *data, bool quiet, const char *path,
                               const char *fingerprint) {
    int64_t count = kin_dataset_count(data), factor = kin_sd_vae_factor(vae);
    int64_t height = config->data.height / factor, width = config->data.width / factor;
    int64_t dims[4] = {2 * vae->latent_channels, config->data.frames, height, width};
    encoder e = {.context = context,
                 .config = config,
                 .data = data,
                 .channels = dims[0],
                 .plane = height * width,
                 .progress = kin_progress_begin("encoding clips", 0, count, quiet)};
    kin_named_tensor *tensors = kin_calloc(context, (size_t)count, sizeof *tensors);
    char(*names)[24] = kin_calloc(context, (size_t)count, sizeof *names);
    kin_status status = tensors && names ? KIN_OK : KIN_OUT_OF_MEMORY;
    for (int64_t i = 0; status == KIN_OK && i < count; i++) {
        snprintf(names[i], sizeof names[i], "%010lld", (long long)i);
        tensors[i] = (kin_named_tensor){names[i], kin_desc_dense(KIN_F32, 4, dims), NULL};
    }
    if (status == KIN_OK) status = encoder_open(&e, device, vae);
    if (status == KIN_OK) {
        kin_metadata made_from = {FINGERPRINT_KEY, fingerprint};
        status = kin_safetensors_write(context, path, tensors, (size_t)count, &made_from, 1,
                                       encode_clip, &e);
        kin_progress_end(&e.progress);
    }
    encoder_close(&e);
    kin_free(context, tensors);
    kin_free(context, names);
    return status;
}

kin_status kin_latent_cache_open(kin_context *context, kin_device *device,
                                 const kin_train_config *config, const kin_sd_vae_config *vae,
                                 kin_dataset *data, bool quiet, kin_latent_cache **out_cache) {
    *out_cache = NULL;
    kin_latent_cache *cache = kin_calloc(context, 1, sizeof *cache);
    char *path = kin_path_join(context, config->output, "latents.safetensors");
    int64_t count = kin_dataset_count(data);
    kin_status status =
        cache && path ? kin_make_folders(context, config->output) : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK) {
        const kin_dataset_options *o = &config->data;
        int64_t facts[] = {count,    o->frames, o->interval,  o->height,
                           o->width, o->resize, config->seed, (int64_t)config->precision.compute};
        uint64_t hash = kin_fingerprint_bytes(KIN_FINGERPRINT_START, facts, sizeof facts);
        hash = kin_fingerprint_path(kin_fingerprint_path(hash, config->vae_path), o->csv);
        for (int64_t i = 0; i < count; i++)
            hash = kin_fingerprint_path(hash, kin_dataset_path(data, i));
        char fingerprint[KIN_FINGERPRINT_TEXT];
        kin_fingerprint_text(hash, fingerprint);
        cache->context = context;
        if (!open_same(context, path, fingerprint, &cache->file)) {
            status = make_latents(context, device, config, vae, data, quiet, path, fingerprint);
            if (status == KIN_OK) status = kin_safetensors_open(context, path, &cache->file);
        } else {
            kin_log(context, KIN_LOG_INFO, "latents: using %s", path);
        }
    }
    if (status == KIN_OK) {
        cache->count = count;
        cache->clips = kin_calloc(context, (size_t)count, sizeof *cache->clips);
        if (!cache->clips) status = KIN_OUT_OF_MEMORY;
    }
    for (int64_t i = 0; status == KIN_OK && i < count; i++) {
        char name[24];
        const kin_named_tensor *tensor;
        snprintf(name, sizeof name, "%010lld", (long long)i);
        status = kin_safetensors_get(cache->file, name, &tensor);
        if (status != KIN_OK) break;
        cache->clips[i] = tensor->data;
        cache->values = (size_t)kin_desc_count(&tensor->desc);
    }
    kin_free(context, path);
    if (status == KIN_OK) *out_cache = cache;
    else kin_latent_cache_close(cache);
    return status;
}

void kin_latent_cache_close(kin_latent_cache *cache) {
    if (!cache) return;
    if (cache->file) kin_safetensors_close(cache->file);
    kin_free(cache->context, (void *)cache->clips);
    kin_free(cache->context, cache);
}

size_t kin_latent_cache_values(const kin_latent_cache *cache) {
    return cache->values;
}

int64_t kin_latent_cache_row(const kin_latent_cache *cache, int64_t index) {
    for (int64_t tries = 0; tries < cache->count; tries++) {
        int64_t row = (index + tries) % cache->count;
        if (!isnan(cache->clips[row][0])) return row;
    }
    return index;
}

const float *kin_latent_cache_clip(const kin_latent_cache *cache, int64_t index) {
    return cache->clips[index];
}

/* Features of all captions, one by one, into `features`. */
static kin_status make_features(kin_context *context, kin_device *device,
                                const kin_train_config *config, const kin_t5_config *text,
                                const int32_t *ids, const int32_t *lengths, int64_t count,
                                int64_t text_length, float *features) {
    int64_t one[2] = {1, text_length}, single = 1;
    kin_weights_options load = {.prefix = "text_encoder", .rename = kin_t5_rename, .config = text};
    kin_graph *graph;
    kin_plan *plan = NULL;
    kin_store *store = NULL;
    kin_status status = kin_graph_create(context, &graph);
    if (status != KIN_OK) return status;
    kin_tensor tokens = kin_input(graph, "ids", KIN_I32, 2, one);
    kin_tensor sizes = kin_input(graph, "lengths", KIN_I32, 1, &single);
    kin_scope_push(graph, "text_encoder");
    kin_tensor out = kin_t5_encode(graph, text, &config->precision, tokens, sizes, false);
    kin_scope_pop(graph);
    kin_output(graph, "features", out);
    status = kin_plan_build(graph, device, NULL, &plan);
    if (status == KIN_OK) status = kin_store_create(device, &store);
    if (status == KIN_OK) status = kin_store_add_graph(store, graph, 0);
    if (status == KIN_OK) status = kin_weights_load(store, config->text_encoder_path, &load, NULL);
    if (status == KIN_OK) status = kin_plan_prepare(plan, store, NULL);
    for (int64_t i = 0; status == KIN_OK && i < count; i++) {
        status = kin_plan_write(plan, "ids", KIN_I32, ids + i * text_length);
        if (status == KIN_OK) status = kin_plan_write(plan, "lengths", KIN_I32, lengths + i);
        if (status == KIN_OK) status = kin_plan_run(plan);
        if (status == KIN_OK)
            status = kin_plan_read(plan, "features", KIN_F32,
                                   features + i * text_length * text->d_model);
    }
    kin_graph_destroy(graph);
    kin_plan_free(plan);
    kin_store_free(store);
    return status;
}

kin_status kin_text_cache_open(kin_context *context, kin_device *device,
                               const kin_train_config *config, const kin_t5_config *text,
                               const int32_t *ids, const int32_t *lengths, int64_t count,
                               int64_t text_length, const char *tokenizer_path,
                               kin_host_tensor *out_features) {
    int64_t dims[3] = {count, text_length, text->d_model};
    char fingerprint[KIN_FINGERPRINT_TEXT];
    char *path = kin_path_join(context, config->output, "features.safetensors");
    kin_safetensors *file = NULL;
    if (!path) return KIN_OUT_OF_MEMORY;
    uint64_t hash = kin_fingerprint_bytes(KIN_FINGERPRINT_START, ids,
                                          (size_t)(count * text_length) * sizeof *ids);
    hash =
        kin_fingerprint_path(kin_fingerprint_path(hash, config->text_encoder_path), tokenizer_path);
    int64_t compute = (int64_t)config->precision.compute;
    hash = kin_fingerprint_bytes(hash, &compute, sizeof compute);
    kin_fingerprint_text(kin_fingerprint_bytes(hash, dims, sizeof dims), fingerprint);
    kin_status status = kin_host_tensor_create(context, KIN_F32, 3, dims, out_features);
    if (status == KIN_OK && open_same(context, path, fingerprint, &file)) {
        const kin_named_tensor *tensor;
        status = kin_safetensors_get(file, "features", &tensor);
        if (status == KIN_OK)
            memcpy(out_features->data, tensor->data, kin_desc_bytes(&out_features->desc));
        kin_safetensors_close(file);
        kin_log(context, KIN_LOG_INFO, "text features: using %s", path);
    } else if (status == KIN_OK) {
        status = make_features(context, device, config, text, ids, lengths, count, text_length,
                               out_features->data);
        kin_metadata made_from = {FINGERPRINT_KEY, fingerprint};
        kin_named_tensor tensor = {"features", out_features->desc, out_features->data};
        if (status == KIN_OK)
            status = kin_safetensors_write(context, path, &tensor, 1, &made_from, 1, NULL, NULL);
    }
    kin_free(context, path);
    if (status != KIN_OK) kin_host_tensor_free(context, out_features);
    return status;
}
