/* From prompts to clips. */
#include "tools/pipeline.h"

#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/split.h"
#include "ops/views.h"
#include "runtime/file.h"
#include "runtime/json.h"
#include "runtime/philox.h"
#include "runtime/weights.h"
#include "tools/model_folder.h"
#include "tools/tool.h"

#include <string.h>

enum { STREAM_INITIAL = 100, STREAM_STEPS = 101, MAX_FRAMES = 4096, MAX_SIDE = 8192 };

static const char *const index_keys[] = {
    "_class_name",  "_diffusers_version", "transformer", "vae",       "text_encoder",
    "tokenizer",    "scheduler",          "num_frames",  "height",    "width",
    "num_sampling_steps", "fps",          "cfg_scale",   "cfg_channels", "sampling_method"};

static kin_status read_index(kin_context *context, const char *folder,
                             kin_pipeline_defaults *out) {
    *out = (kin_pipeline_defaults){16, 256, 256, 50, 8, 7, 3, KIN_SAMPLER_IDDPM};
    json_t *root = NULL;
    char *path = kin_path_join(context, folder, "model_index.json");
    kin_status status = path ? kin_json_load(context, path, &root) : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK)
        status = kin_json_check_keys(context, root, path, index_keys,
                                     sizeof index_keys / sizeof *index_keys);
    struct {
        const char *key;
        int64_t low, high, *value;
    } ints[] = {{"num_frames", 1, 4096, &out->frames},
                {"height", 8, 8192, &out->height},
                {"width", 8, 8192, &out->width},
                {"num_sampling_steps", 1, 1000, &out->steps},
                {"cfg_channels", 0, 64, &out->cfg_channels}};
    for (size_t i = 0; status == KIN_OK && i < sizeof ints / sizeof *ints; i++)
        status = kin_json_get_int_between(context, root, path, ints[i].key, ints[i].low,
                                          ints[i].high, *ints[i].value, ints[i].value);
    const char *method = "iddpm";
    if (status == KIN_OK) status = kin_json_get_double(context, root, path, "fps", out->fps, &out->fps);
    if (status == KIN_OK)
        status = kin_json_get_double(context, root, path, "cfg_scale", out->cfg_scale,
                                     &out->cfg_scale);
    if (status == KIN_OK)
        status = kin_json_get_string(context, root, path, "sampling_method", method, &method);
    if (status == KIN_OK && strcmp(method, "ddim") == 0) out->method = KIN_SAMPLER_DDIM;
    else if (status == KIN_OK && strcmp(method, "iddpm") != 0)
        status = kin_fail(context, KIN_INVALID,
                          "%s: sampling_method must be \"ddim\" or \"iddpm\", not \"%s\"", path,
                          method);
    json_decref(root);
    kin_free(context, path);
    return status;
}

kin_status kin_pipeline_write_index(kin_context *context, const char *folder,
                                    const kin_pipeline_defaults *d) {
    json_t *object = json_pack(
        "{s:s, s:[s,s], s:[s,s], s:[s,s], s:[s,s], s:I, s:I, s:I, s:I, s:f, s:f, s:I, s:s}",
        "_class_name", "OpenSoraPipeline", "transformer", "kinora", "STDiT", "vae", "diffusers",
        "AutoencoderKL", "text_encoder", "transformers", "T5EncoderModel", "tokenizer",
        "transformers", "T5Tokenizer", "num_frames", (json_int_t)d->frames, "height",
        (json_int_t)d->height, "width", (json_int_t)d->width, "num_sampling_steps",
        (json_int_t)d->steps, "fps", d->fps, "cfg_scale", d->cfg_scale, "cfg_channels",
        (json_int_t)d->cfg_channels, "sampling_method",
        d->method == KIN_SAMPLER_DDIM ? "ddim" : "iddpm");
    if (!object) return kin_fail(context, KIN_OUT_OF_MEMORY, "no memory for %s", folder);
    return kin_write_json(context, folder, "model_index.json", object);
}

/* Loads FOLDER/PART/config.json and keeps the part's path. */
static kin_status open_part(kin_pipeline *p, const char *folder, const char *part, char **out_path,
                            json_t **out_config, char **out_file) {
    *out_path = kin_path_join(p->context, folder, part);
    *out_file = *out_path ? kin_path_join(p->context, *out_path, "config.json") : NULL;
    if (!*out_file) return KIN_OUT_OF_MEMORY;
    return kin_json_load(p->context, *out_file, out_config);
}

kin_status kin_pipeline_open(kin_context *context, kin_device *device, const char *folder,
                             kin_pipeline *out_pipeline) {
    kin_pipeline *p = out_pipeline;
    memset(p, 0, sizeof *p);
    p->context = context;
    p->device = device;
    if (!kin_file_is_folder(folder))
        return kin_fail(context, KIN_NOT_FOUND, "%s: there is no such folder", folder);
    json_t *config[3] = {NULL};
    char *file[3] = {NULL};
    kin_status status = read_index(context, folder, &p->defaults);
    if (status == KIN_OK)
        status = open_part(p, folder, "transformer", &p->denoiser_path, &config[0], &file[0]);
    if (status == KIN_OK)
        status = kin_stdit_config_parse(context, config[0], file[0], KIN_UNKNOWN_KEYS_WARN,
                                        &p->denoiser);
    if (status == KIN_OK) status = open_part(p, folder, "vae", &p->vae_path, &config[1], &file[1]);
    if (status == KIN_OK)
        status =
            kin_sd_vae_config_parse(context, config[1], file[1], KIN_UNKNOWN_KEYS_WARN, &p->vae);
    if (status == KIN_OK)
        status = open_part(p, folder, "text_encoder", &p->text_encoder_path, &config[2], &file[2]);
    if (status == KIN_OK)
        status = kin_t5_config_parse(context, config[2], file[2], KIN_UNKNOWN_KEYS_WARN,
                                     &p->text_encoder);
    if (status == KIN_OK) {
        p->tokenizer_path = kin_path_join(context, folder, "tokenizer/spiece.model");
        if (!p->tokenizer_path) status = KIN_OUT_OF_MEMORY;
    }
    if (status == KIN_OK && p->denoiser.caption_channels != p->text_encoder.d_model)
        status = kin_fail(context, KIN_INVALID,
                          "%s: the denoiser wants captions of %d channels, the text encoder makes %d",
                          folder, p->denoiser.caption_channels, p->text_encoder.d_model);
    if (status == KIN_OK && p->denoiser.in_channels != p->vae.latent_channels)
        status = kin_fail(context, KIN_INVALID,
                          "%s: the denoiser wants latents of %d channels, the vae makes %d", folder,
                          p->denoiser.in_channels, p->vae.latent_channels);
    for (int i = 0; i < 3; i++) {
        json_decref(config[i]);
        kin_free(context, file[i]);
    }
    if (status != KIN_OK) kin_pipeline_close(p);
    return status;
}

void kin_pipeline_close(kin_pipeline *p) {
    kin_free(p->context, p->denoiser_path);
    kin_free(p->context, p->vae_path);
    kin_free(p->context, p->text_encoder_path);
    kin_free(p->context, p->tokenizer_path);
    p->denoiser_path = p->vae_path = p->text_encoder_path = p->tokenizer_path = NULL;
}

/* A planned graph with its weights loaded. */
typedef struct stage {
    kin_store *store;
    kin_plan *plan;
} stage;

static void stage_free(stage *stage_) {
    kin_plan_free(stage_->plan);
    kin_store_free(stage_->store);
    *stage_ = (stage){0};
}

/* Plans the graph (and frees it), and loads weights for the variables under `prefix`. */
static kin_status stage_open(kin_pipeline *p, kin_graph *graph, const char *path,
                             const char *prefix, kin_weights_rename rename, const void *config,
                             stage *out_stage) {
    kin_plan_options options = {.struct_size = sizeof options, .memory_budget = p->memory};
    kin_weights_options load = {.prefix = prefix, .rename = rename, .config = config};
    *out_stage = (stage){0};
    kin_status status = kin_plan_build(graph, p->device, &options, &out_stage->plan);
    if (status == KIN_OK) status = kin_store_create(p->device, &out_stage->store);
    if (status == KIN_OK) status = kin_store_add_graph(out_stage->store, graph, 0);
    if (status == KIN_OK) status = kin_weights_load(out_stage->store, path, &load, NULL);
    if (status == KIN_OK) status = kin_plan_prepare(out_stage->plan, out_stage->store, NULL);
    kin_graph_destroy(graph);
    if (status != KIN_OK) stage_free(out_stage);
    return status;
}

static kin_status tokenize(kin_pipeline *p, const char *const *prompts, int64_t count,
                           int max_length, int32_t *ids, int32_t *lengths) {
    kin_tokenizer *tokenizer;
    kin_status status = kin_tokenizer_load(p->context, p->tokenizer_path, &tokenizer);
    if (status != KIN_OK) return status;
    if (kin_tokenizer_size(tokenizer) > p->text_encoder.vocab_size)
        status = kin_fail(p->context, KIN_INVALID,
                          "%s has %d pieces, but the text encoder knows %d", p->tokenizer_path,
                          kin_tokenizer_size(tokenizer), p->text_encoder.vocab_size);
    for (int64_t i = 0; status == KIN_OK && i < count; i++) {
        int length;
        status = kin_tokenizer_encode_padded(tokenizer, prompts[i], strlen(prompts[i]), max_length,
                                             ids + i * max_length, &length);
        lengths[i] = length;
    }
    kin_tokenizer_destroy(tokenizer);
    return status;
}

kin_status kin_pipeline_encode(kin_pipeline *p, const char *const *prompts, int64_t count,
                               kin_host_tensor *out_features, kin_host_tensor *out_lengths) {
    int64_t length = p->denoiser.model_max_length, channels = p->text_encoder.d_model;
    int64_t dims[3] = {count, length, channels}, one[2] = {1, length}, single = 1;
    kin_graph *graph = NULL;
    stage text = {0};
    int32_t *ids = kin_alloc(p->context, (size_t)(count * length) * sizeof *ids);
    kin_status status = ids ? KIN_OK : KIN_OUT_OF_MEMORY;
    *out_features = *out_lengths = (kin_host_tensor){.data = NULL};
    if (status == KIN_OK)
        status = kin_host_tensor_create(p->context, KIN_F32, 3, dims, out_features);
    if (status == KIN_OK)
        status = kin_host_tensor_create(p->context, KIN_I32, 1, &count, out_lengths);
    if (status == KIN_OK)
        status = tokenize(p, prompts, count, (int)length, ids, out_lengths->data);
    if (status == KIN_OK) status = kin_graph_create(p->context, &graph);
    if (status == KIN_OK) {
        kin_tensor tokens = kin_input(graph, "ids", KIN_I32, 2, one);
        kin_tensor lengths = kin_input(graph, "lengths", KIN_I32, 1, &single);
        kin_scope_push(graph, "text_encoder");
        kin_tensor features =
            kin_t5_encode(graph, &p->text_encoder, &p->precision, tokens, lengths, false);
        kin_scope_pop(graph);
        kin_output(graph, "features", features);
        status = stage_open(p, graph, p->text_encoder_path, "text_encoder", kin_t5_rename,
                            &p->text_encoder, &text);
    }
    for (int64_t i = 0; status == KIN_OK && i < count; i++) {
        int32_t *size = (int32_t *)out_lengths->data + i;
        float *row = (float *)out_features->data + i * length * channels;
        status = kin_plan_write(text.plan, "ids", KIN_I32, ids + i * length);
        if (status == KIN_OK) status = kin_plan_write(text.plan, "lengths", KIN_I32, size);
        if (status == KIN_OK) status = kin_plan_run(text.plan);
        if (status == KIN_OK) status = kin_plan_read(text.plan, "features", KIN_F32, row);
    }
    stage_free(&text);
    kin_free(p->context, ids);
    if (status != KIN_OK) {
        kin_host_tensor_free(p->context, out_features);
        kin_host_tensor_free(p->context, out_lengths);
    }
    return status;
}

/* The denoiser within a sampling step. */
typedef struct guided_denoiser {
    kin_pipeline *pipeline;
    int64_t count;
    bool guided, negative;
} guided_denoiser;

static kin_tensor denoise(void *user, kin_graph *graph, kin_tensor x, kin_tensor timestep) {
    const guided_denoiser *d = user;
    const kin_stdit_config *config = &d->pipeline->denoiser;
    int64_t dims[3] = {d->count, config->model_max_length, config->caption_channels};
    kin_stdit_inputs inputs = {.x = x, .timestep = timestep};
    inputs.y = kin_input(graph, "features", KIN_F32, 3, dims);
    inputs.y_lengths = kin_input(graph, "lengths", KIN_I32, 1, &d->count);
    kin_scope_push(graph, "denoiser");
    if (d->guided && d->negative) {
        kin_tensor y[2] = {inputs.y, kin_input(graph, "negative", KIN_F32, 3, dims)};
        kin_tensor n[2] = {inputs.y_lengths,
                           kin_input(graph, "negative_lengths", KIN_I32, 1, &d->count)};
        inputs.y = kin_concat(graph, y, 2, 0);
        inputs.y_lengths = kin_concat(graph, n, 2, 0);
    } else if (d->guided) {
        kin_stdit_guided_text(graph, config, &d->pipeline->precision, inputs.y, inputs.y_lengths,
                              &inputs.y, &inputs.y_lengths);
    }
    if (!d->guided || d->negative) { /* unused here, but the file has the null caption */
        kin_tensor y, lengths;
        kin_stdit_guided_text(graph, config, &d->pipeline->precision, inputs.y, inputs.y_lengths,
                              &y, &lengths);
    }
    kin_tensor out = kin_stdit(graph, config, &d->pipeline->precision, &inputs);
    kin_scope_pop(graph);
    return out;
}

/* Noise of each clip from its own seed. */
typedef struct noise_source {
    const uint64_t *seeds;
    int64_t count;
    kin_progress progress;
} noise_source;

static bool step_noise(void *user, int call, float *noise, size_t count) {
    const noise_source *source = user;
    size_t each = count / (size_t)source->count;
    for (int64_t i = 0; i < source->count; i++)
        kin_philox_fill_normal(source->seeds[i], STREAM_STEPS, (uint64_t)call, 0, each,
                               noise + (size_t)i * each);
    return true;
}

static bool step_done(void *user, int call, int calls, const float *latents) {
    noise_source *source = user;
    (void)calls;
    (void)latents;
    kin_progress_show(&source->progress, call + 1, NULL);
    return !kin_interrupted();
}

static kin_status check_sizes(const kin_pipeline *p, const kin_generation *g) {
    int64_t factor = kin_sd_vae_factor(&p->vae);
    if (g->frames >= 1 && g->frames <= MAX_FRAMES && g->steps >= 1 && g->steps <= 1000 &&
        g->count >= 1 && g->height >= factor && g->height <= MAX_SIDE && g->width >= factor &&
        g->width <= MAX_SIDE && g->height % factor == 0 && g->width % factor == 0)
        return KIN_OK;
    return kin_fail(p->context, KIN_INVALID,
                    "%lld frames of %lldx%lld in %lld steps cannot be made: height and width must "
                    "be multiples of %lld up to 8192, frames 1 to 4096, steps 1 to 1000",
                    (long long)g->frames, (long long)g->height, (long long)g->width,
                    (long long)g->steps, (long long)factor);
}

kin_status kin_pipeline_sample(kin_pipeline *p, const kin_generation *g,
                               const kin_host_tensor *features, const kin_host_tensor *lengths,
                               const kin_host_tensor *negative,
                               const kin_host_tensor *negative_lengths,
                               kin_host_tensor *out_latents) {
    int64_t factor = kin_sd_vae_factor(&p->vae);
    int64_t dims[5] = {g->count, p->denoiser.in_channels, g->frames, g->height / factor,
                       g->width / factor};
    guided_denoiser denoiser = {p, g->count, g->cfg_scale != 1, negative != NULL};
    kin_sampler_options options = {g->method, g->cfg_scale, (int)g->cfg_channels, g->eta};
    kin_schedule *schedule = NULL;
    kin_graph *graph = NULL;
    stage model = {0};
    char steps[16];
    snprintf(steps, sizeof steps, "%lld", (long long)g->steps);
    *out_latents = (kin_host_tensor){.data = NULL};
    kin_status status = check_sizes(p, g);
    if (status == KIN_OK) status = kin_schedule_create(p->context, 1000, steps, &schedule);
    if (status == KIN_OK) status = kin_host_tensor_create(p->context, KIN_F32, 5, dims, out_latents);
    if (status == KIN_OK) status = kin_graph_create(p->context, &graph);
    if (status == KIN_OK) {
        kin_sampler_graph(graph, schedule, &options, dims, denoise, &denoiser);
        status = stage_open(p, graph, p->denoiser_path, "denoiser", kin_stdit_rename, &p->denoiser,
                            &model);
    }
    if (status == KIN_OK)
        status = kin_plan_write(model.plan, "features", KIN_F32, features->data);
    if (status == KIN_OK) status = kin_plan_write(model.plan, "lengths", KIN_I32, lengths->data);
    if (status == KIN_OK && denoiser.guided && negative)
        status = kin_plan_write(model.plan, "negative", KIN_F32, negative->data);
    if (status == KIN_OK && denoiser.guided && negative)
        status = kin_plan_write(model.plan, "negative_lengths", KIN_I32, negative_lengths->data);
    if (status == KIN_OK) {
        size_t total = (size_t)kin_desc_count(&out_latents->desc);
        size_t each = total / (size_t)g->count;
        float *latents = out_latents->data;
        noise_source source = {g->seeds, g->count,
                               kin_progress_begin("sampling", 0, g->steps, g->quiet)};
        for (int64_t i = 0; i < g->count; i++)
            kin_philox_fill_normal(g->seeds[i], STREAM_INITIAL, 0, 0, each,
                                   latents + (size_t)i * each);
        kin_sampler_loop loop = {step_noise, &source, step_done, &source, 0, STREAM_STEPS};
        status = kin_sampler_run(model.plan, p->context, schedule, &options, &loop, latents, total);
        kin_progress_end(&source.progress);
    }
    stage_free(&model);
    kin_schedule_free(schedule);
    if (status != KIN_OK) kin_host_tensor_free(p->context, out_latents);
    return status;
}

/* Frame f of clip i: (C, T, Y, X) planes to or from (C, Y, X). */
static void gather_frame(const kin_host_tensor *clips, int64_t clip, int64_t frame, float *out) {
    const int64_t *d = clips->desc.dims;
    size_t plane = (size_t)(d[3] * d[4]);
    const float *data = clips->data;
    for (int64_t c = 0; c < d[1]; c++)
        memcpy(out + (size_t)c * plane,
               data + (size_t)((clip * d[1] + c) * d[2] + frame) * plane, plane * sizeof *out);
}

static void scatter_frame(const float *image, int64_t clip, int64_t frame, kin_host_tensor *clips) {
    const int64_t *d = clips->desc.dims;
    size_t plane = (size_t)(d[3] * d[4]);
    float *data = clips->data;
    for (int64_t c = 0; c < d[1]; c++) {
        float *target = data + (size_t)((clip * d[1] + c) * d[2] + frame) * plane;
        for (size_t i = 0; i < plane; i++) {
            float v = image[(size_t)c * plane + i];
            target[i] = v < -1 ? -1 : v > 1 ? 1 : v;
        }
    }
}

kin_status kin_pipeline_decode(kin_pipeline *p, const kin_host_tensor *latents, bool quiet,
                               kin_host_tensor *out_frames) {
    int64_t factor = kin_sd_vae_factor(&p->vae);
    const int64_t *d = latents->desc.dims;
    int64_t dims[5] = {d[0], p->vae.out_channels, d[2], d[3] * factor, d[4] * factor};
    int64_t one[4] = {1, d[1], d[3], d[4]};
    stage vae = {0};
    kin_graph *graph = NULL;
    float *latent = kin_alloc(p->context, (size_t)(d[1] * d[3] * d[4]) * sizeof *latent);
    float *image = kin_alloc(p->context, (size_t)(dims[1] * dims[3] * dims[4]) * sizeof *image);
    kin_status status = latent && image ? KIN_OK : KIN_OUT_OF_MEMORY;
    *out_frames = (kin_host_tensor){.data = NULL};
    if (status == KIN_OK) status = kin_host_tensor_create(p->context, KIN_F32, 5, dims, out_frames);
    if (status == KIN_OK) status = kin_graph_create(p->context, &graph);
    if (status == KIN_OK) {
        kin_tensor input = kin_input(graph, "latent", KIN_F32, 4, one);
        kin_tensor scaled = kin_scale(graph, input, 1 / p->vae.scaling_factor, 0);
        kin_scope_push(graph, "vae");
        kin_tensor out = kin_sd_vae_decode(graph, &p->vae, &p->precision, scaled, false);
        kin_scope_pop(graph);
        kin_output(graph, "image", out);
        kin_plan_options plan = {.struct_size = sizeof plan, .memory_budget = p->memory};
        kin_weights_options load = {
            .prefix = "vae", .rename = kin_sd_vae_rename, .config = &p->vae,
            .allow_unexpected = true}; /* the encoder's half of the file */
        status = kin_plan_build(graph, p->device, &plan, &vae.plan);
        if (status == KIN_OK) status = kin_store_create(p->device, &vae.store);
        if (status == KIN_OK) status = kin_store_add_graph(vae.store, graph, 0);
        if (status == KIN_OK) status = kin_weights_load(vae.store, p->vae_path, &load, NULL);
        if (status == KIN_OK) status = kin_plan_prepare(vae.plan, vae.store, NULL);
        kin_graph_destroy(graph);
    }
    kin_progress progress = kin_progress_begin("decoding", 0, d[0] * d[2], quiet);
    for (int64_t i = 0; status == KIN_OK && i < d[0] * d[2]; i++) {
        gather_frame(latents, i / d[2], i % d[2], latent);
        status = kin_plan_write(vae.plan, "latent", KIN_F32, latent);
        if (status == KIN_OK) status = kin_plan_run(vae.plan);
        if (status == KIN_OK) status = kin_plan_read(vae.plan, "image", KIN_F32, image);
        if (status == KIN_OK) scatter_frame(image, i / d[2], i % d[2], out_frames);
        if (status == KIN_OK && kin_interrupted())
            status = kin_fail(p->context, KIN_CANCELLED, "interrupted while decoding");
        kin_progress_show(&progress, i + 1, NULL);
    }
    kin_progress_end(&progress);
    stage_free(&vae);
    kin_free(p->context, latent);
    kin_free(p->context, image);
    if (status != KIN_OK) kin_host_tensor_free(p->context, out_frames);
    return status;
}

kin_status kin_pipeline_generate(kin_pipeline *p, const kin_generation *g,
                                 kin_host_tensor *out_frames) {
    kin_host_tensor features = {0}, lengths = {0}, none = {0}, none_lengths = {0}, latents = {0};
    *out_frames = (kin_host_tensor){.data = NULL};
    kin_status status = kin_pipeline_encode(p, g->prompts, g->count, &features, &lengths);
    if (status == KIN_OK && g->negative)
        status = kin_pipeline_encode(p, g->negative, g->count, &none, &none_lengths);
    if (status == KIN_OK)
        status = kin_pipeline_sample(p, g, &features, &lengths, g->negative ? &none : NULL,
                                     g->negative ? &none_lengths : NULL, &latents);
    if (status == KIN_OK) status = kin_pipeline_decode(p, &latents, g->quiet, out_frames);
    kin_host_tensor_free(p->context, &features);
    kin_host_tensor_free(p->context, &lengths);
    kin_host_tensor_free(p->context, &none);
    kin_host_tensor_free(p->context, &none_lengths);
    kin_host_tensor_free(p->context, &latents);
    return status;
}

kin_host_tensor kin_pipeline_clip(const kin_host_tensor *frames, int64_t index) {
    const int64_t *d = frames->desc.dims;
    kin_host_tensor clip = {.desc = kin_desc_dense(KIN_F32, 4, d + 1)};
    clip.data = (float *)frames->data + index * kin_desc_count(&clip.desc);
    return clip;
}
