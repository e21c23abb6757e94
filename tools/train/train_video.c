/* Training a denoiser, and its text encoder if wanted, on latents of clips. */
#include "tools/train/train_video.h"

#include "models/stdit_start.h"
#include "runtime/file.h"
#include "runtime/philox.h"
#include "runtime/weights.h"

#include <string.h>

enum { STREAM_NULL_TEXT = 0x4E554C4C, PICTURE_FPS = 120, DEFAULT_FPS = 24 };

/* ---- shapes ---- */

static int64_t latent_frames(const kin_video_task *t, int shape) {
    return kin_vae_latent_frames(&t->parts.vae,
                                 kin_train_order_shape(t->order, shape)->clip.frames);
}

/* Batches are of all ranks together, who take as many samples each, in their order. */
static int64_t samples_of_rank(const kin_video_task *t, int shape) {
    return kin_train_order_shape(t->order, shape)->batch / kin_train_ranks(t->config);
}

/* This rank's first sample of a batch. */
static int64_t first_sample(const kin_video_task *t, int shape) {
    return samples_of_rank(t, shape) * kin_train_rank(t->config);
}

/* Frame masks are of videos. */
static bool has_masks(const kin_video_task *t, int shape) {
    return t->config->frame_masks && latent_frames(t, shape) > 1;
}

static bool has_null_caption(const kin_video_task *t) {
    return kin_denoiser_shape_of(&t->parts.denoiser).own_null_caption;
}

static kin_tensor video_loss(void *user, int shape, kin_graph *graph) {
    const kin_video_task *t = user;
    const kin_train_config *config = t->config;
    const kin_train_shape *s = kin_train_order_shape(t->order, shape);
    kin_vae_shape vae = kin_vae_shape_of(&t->parts.vae);
    int64_t images = config->order.images;
    bool told = t->parts.denoiser.kind == KIN_DENOISER_STDIT2;
    kin_video_training training = {
        .model = &t->parts.denoiser,
        .images = (int)images,
        .frame_masks = has_masks(t, shape),
        .padded = s->padded,
        .height = s->clip.height,
        .width = s->clip.width,
        /* the original trains with width / height, and samples with height / width */
        .aspect_ratio = told ? (double)s->clip.width / s->clip.height : 0,
        .each_fps = told,
        .text_encoder = config->train_text_encoder ? &t->parts.text : NULL,
        .whole_captions = t->attend_padding,
        .schedule = t->schedule,
        .scaling_factor = vae.scale,
        .posterior_mean = config->posterior_mean,
        .caption_dropout = has_null_caption(t) ? t->null_share : 0,
        .timesteps = config->timesteps,
        .plan_loss = t->plan_loss,
        .plan = t->plan,
        .precision = config->precision,
        .batch = samples_of_rank(t, shape),
        .part = {first_sample(t, shape), s->batch},
        .frames = latent_frames(t, shape) + images,
        .latent_height = s->clip.height / vae.space_factor,
        .latent_width = s->clip.width / vae.space_factor,
        .text_length = t->captions.length};
    return kin_video_training_loss(graph, &training);
}

static kin_status shape_of(void *user, int64_t index, int *out_shape) {
    kin_video_task *t = user;
    kin_train_batch batch;
    kin_status status = kin_train_order_batch(t->order, index, &batch);
    *out_shape = status == KIN_OK ? batch.shape : 0;
    return status;
}

static void shape_name(void *user, int shape, char *name, size_t size) {
    const kin_video_task *t = user;
    const kin_train_shape *s = kin_train_order_shape(t->order, shape);
    if (kin_train_order_shapes(t->order) < 2) return;
    snprintf(name, size, "%lld clips of %lldx%dx%d", (long long)s->batch, (long long)s->clip.frames,
             s->clip.height, s->clip.width);
}

/* ---- weights to begin with ---- */

/* Names of a checkpoint: those under one prefix, which is `config`. */
static bool checkpoint_rename(const void *config, const char *file_name, char *out_name,
                              size_t size) {
    const char *prefix = config;
    size_t skip = strlen(prefix);
    if (strncmp(file_name, prefix, skip) != 0 || file_name[skip] != '.') return false;
    snprintf(out_name, size, "%s", file_name + skip + 1);
    return true;
}

/* The denoiser's own beginning; layers that the file lacks keep their start. */
static kin_status load_start(kin_video_task *t, kin_store *store) {
    const kin_part *start = &t->parts.start;
    kin_weights_report report;
    kin_weights_options options = {.prefix = "denoiser",
                                   .rename = kin_denoiser_rename,
                                   .config = &t->parts.denoiser,
                                   .allow_missing = true,
                                   .entry = start->entry};
    if (t->parts.start_is_run) options.rename = checkpoint_rename, options.config = "denoiser";
    kin_status status = kin_weights_load(store, start->path, &options, &report);
    if (status == KIN_OK)
        kin_log(t->context, KIN_LOG_INFO, "%s: %zu tensors taken, %zu start anew", start->path,
                report.loaded, report.missing);
    return status;
}

static kin_status video_load(void *user, kin_store *store) {
    kin_video_task *t = user;
    const kin_train_config *config = t->config;
    const kin_part *start = &t->parts.start, *text = &t->parts.text_files;
    kin_status status = KIN_OK;
    if (config->from_scratch)
        status = kin_stdit_start_from_nothing(store, "denoiser", &t->parts.denoiser.stdit,
                                              (uint64_t)config->seed);
    if (status == KIN_OK && start->path) status = load_start(t, store);
    if (status == KIN_OK && config->train_text_encoder && text->path) {
        kin_weights_options options = {.prefix = "text_encoder",
                                       .rename = kin_t5_rename,
                                       .config = &t->parts.text,
                                       .entry = text->entry};
        status = kin_weights_load(store, text->path, &options, NULL);
    }
    if (status == KIN_OK && config->train_text_encoder && t->parts.start_is_run) {
        kin_weights_options options = {.prefix = "text_encoder",
                                       .rename = checkpoint_rename,
                                       .config = "text_encoder",
                                       .allow_missing = true};
        status = kin_weights_load(store, start->path, &options, NULL);
    }
    return status;
}

/* ---- batches ---- */

/* The latents of this rank's sample `b`: its clip, then its pictures, channel by channel. texts:
 * whose captions they are. */
static void put_latents(kin_video_task *t, const kin_train_batch *batch, int64_t b,
                        int64_t *texts) {
    int64_t images = t->config->order.images, pictures = kin_train_order_shapes(t->order);
    int64_t sample = first_sample(t, batch->shape) + b;
    size_t clip = kin_latent_cache_values(t->latents, batch->shape);
    const float *from =
        kin_latent_cache_clip(t->latents, batch->shape, batch->rows[sample], &texts[0]);
    if (images == 0) {
        memcpy(t->moments + (size_t)b * clip, from, clip * sizeof *from);
        return;
    }
    size_t image = kin_latent_cache_values(t->latents, (int)pictures);
    size_t channels = 2 * (size_t)kin_vae_shape_of(&t->parts.vae).channels;
    size_t part = clip / channels, plane = image / channels;
    size_t row = part + (size_t)images * plane;
    float *to = t->moments + (size_t)b * channels * row;
    for (size_t c = 0; c < channels; c++) memcpy(to + c * row, from + c * part, part * sizeof *to);
    for (int64_t i = 0; i < images; i++) {
        from = kin_latent_cache_clip(t->latents, (int)pictures, batch->images[sample * images + i],
                                     &texts[1 + i]);
        for (size_t c = 0; c < channels; c++)
            memcpy(to + c * row + part + (size_t)i * plane, from + c * plane, plane * sizeof *to);
    }
}

/* Masks, rates and captions of one batch beside its latents. */
static void put_masks(kin_video_task *t, const kin_train_batch *batch, int64_t index) {
    const kin_train_shape *s = kin_train_order_shape(t->order, batch->shape);
    kin_vae_shape vae = kin_vae_shape_of(&t->parts.vae);
    int64_t frames = latent_frames(t, batch->shape), images = t->config->order.images;
    int64_t captions = 1 + images;
    size_t plane =
        (size_t)(s->clip.height / vae.space_factor) * (size_t)(s->clip.width / vae.space_factor);
    for (int64_t b = 0; b < samples_of_rank(t, batch->shape); b++) {
        int64_t row = t->texts[b * captions];
        kin_dataset_row facts = {0};
        if (has_masks(t, batch->shape))
            kin_frame_mask_draw(t->config->mask_ratios, (uint64_t)t->config->seed, index,
                                first_sample(t, batch->shape) + b, frames, t->masks + b * frames);
        if (t->fps) {
            bool known = kin_dataset_measure(t->data, row, &facts) == KIN_OK;
            t->fps[b] = s->clip.frames == 1      ? PICTURE_FPS
                        : known && facts.fps > 0 ? (float)facts.fps
                                                 : DEFAULT_FPS;
        }
        if (!s->padded) continue;
        int64_t real = kin_train_order_real_frames(t->order, batch->shape, row);
        int64_t kept = (real - 1) / vae.time_factor + 1;
        float *mask = t->real + (size_t)(b * (frames + images)) * plane;
        for (int64_t f = 0; f < frames + images; f++)
            for (size_t i = 0; i < plane; i++)
                mask[(size_t)f * plane + i] = f < kept || f >= frames;
    }
}

/* Captions that are left out, for models without a null caption of their own, become the empty
 * text. first: number of the first of them in the batch of all ranks. */
static void put_texts(kin_video_task *t, int64_t first, int64_t captions, int64_t index) {
    int64_t length = t->captions.length;
    bool drop = t->null_share > 0 && !has_null_caption(t);
    for (int64_t i = 0; i < captions; i++) {
        if (drop && (double)kin_philox_element_uniform((uint64_t)t->config->seed, STREAM_NULL_TEXT,
                                                       (uint64_t)index + 1,
                                                       (uint64_t)(first + i)) < t->null_share)
            t->texts[i] = t->captions.count;
        memcpy(t->ids + i * length, t->captions.ids + t->texts[i] * length,
               (size_t)length * sizeof *t->ids);
        t->lengths[i] = t->captions.lengths[t->texts[i]];
    }
}

static kin_status video_write(void *user, kin_plan *plan, int64_t index) {
    kin_video_task *t = user;
    const kin_train_config *config = t->config;
    int64_t each = 1 + config->order.images;
    kin_train_batch batch;
    kin_status status = kin_train_order_batch(t->order, index, &batch);
    if (status != KIN_OK) return status;
    const kin_train_shape *s = kin_train_order_shape(t->order, batch.shape);
    int64_t samples = samples_of_rank(t, batch.shape);
    for (int64_t b = 0; b < samples; b++) put_latents(t, &batch, b, t->texts + b * each);
    put_masks(t, &batch, index);
    put_texts(t, first_sample(t, batch.shape) * each, samples * each, index);
    int64_t key[2] = {config->seed, index + 1};
    status = kin_plan_write(plan, "moments", KIN_F32, t->moments);
    if (status == KIN_OK) status = kin_plan_write(plan, "seed", KIN_I64, key);
    if (status == KIN_OK && has_masks(t, batch.shape))
        status = kin_plan_write(plan, "frame_mask", KIN_F32, t->masks);
    if (status == KIN_OK && s->padded) status = kin_plan_write(plan, "real", KIN_F32, t->real);
    if (status == KIN_OK && t->fps) status = kin_plan_write(plan, "fps", KIN_F32, t->fps);
    if (status == KIN_OK && (config->train_text_encoder || !t->attend_padding))
        status = kin_plan_write(plan, "lengths", KIN_I32, t->lengths);
    if (status == KIN_OK && config->train_text_encoder)
        return kin_plan_write(plan, "ids", KIN_I32, t->ids);
    if (status == KIN_OK)
        status = kin_text_source_read(t->text, t->texts, samples * each, t->features);
    return status == KIN_OK ? kin_plan_write(plan, "features", KIN_F32, t->features) : status;
}

/* ---- the task ---- */

static kin_status video_validate(void *user, kin_store *store, int64_t step) {
    return kin_train_validate(user, store, step);
}

static kin_status video_export(void *user, kin_store *store) {
    return kin_train_export(user, store);
}

/* What the configuration leaves open, as the system was published. */
static kin_status settle(kin_video_task *t) {
    const kin_train_config *config = t->config;
    kin_denoiser_shape shape = kin_denoiser_shape_of(&t->parts.denoiser);
    kin_denoiser_kind kind = t->parts.denoiser.kind;
    bool plan = config->objective == KIN_OBJECTIVE_PLAN ||
                (config->objective == KIN_OBJECTIVE_AUTO && kind == KIN_DENOISER_OPENSORA_PLAN);
    t->null_share = config->caption_dropout >= 0 ? config->caption_dropout
                    : shape.own_null_caption     ? shape.null_captions
                                                 : 0.1;
    t->attend_padding =
        config->attend_padding >= 0 ? config->attend_padding != 0 : kind == KIN_DENOISER_LATTE;
    t->plan_loss = plan;
    t->plan =
        (kin_plan_loss_options){config->noise_offset >= 0 ? config->noise_offset : 0.02,
                                config->snr_gamma >= 0 ? config->snr_gamma : 5, config->target};
    if (plan && shape.out_channels != shape.in_channels)
        return kin_fail(t->context, KIN_INVALID,
                        "diffusion.objective: %s learns its variance, which only \"iddpm\" trains",
                        kin_denoiser_kind_name(kind));
    if (plan && (config->timesteps.weight_power > 0 || config->timesteps.speed))
        return kin_fail(t->context, KIN_INVALID,
                        "timesteps.weight_power and speed are IDDPM's; this objective weights by "
                        "diffusion.snr_gamma");
    if (!plan && (config->noise_offset > 0 || config->snr_gamma > 0 ||
                  config->target != KIN_PLAN_TARGET_EPSILON))
        return kin_fail(t->context, KIN_INVALID,
                        "diffusion: noise_offset, snr_gamma and prediction_type are of the "
                        "objective \"open-sora-plan\"");
    return KIN_OK;
}

static kin_status open_order(kin_video_task *t) {
    const kin_train_config *config = t->config;
    const kin_dataset_options *d = &config->data;
    kin_train_order_options options = config->order;
    options.seed = (uint64_t)config->seed;
    options.ranks = kin_train_ranks(config);
    options.batch = config->batch_size * options.ranks;
    options.micro_steps = config->accumulate_steps;
    options.clip = (kin_clip_shape){d->frames, d->height, d->width};
    options.interval = d->interval;
    options.time_factor = kin_vae_shape_of(&t->parts.vae).time_factor;
    kin_status status = kin_train_order_open(t->context, t->data, &options,
                                             config->steps * config->accumulate_steps, &t->order);
    kin_denoiser_shape shape = kin_denoiser_shape_of(&t->parts.denoiser);
    for (int i = 0; status == KIN_OK && i < kin_train_order_shapes(t->order); i++) {
        kin_clip_shape clip = kin_train_order_shape(t->order, i)->clip;
        int factor = kin_vae_shape_of(&t->parts.vae).space_factor;
        int64_t frames = kin_vae_latent_frames(&t->parts.vae, clip.frames);
        if (shape.pictures && clip.frames > 1)
            status = kin_fail(t->context, KIN_INVALID, "%s makes pictures: buckets of 1 frame only",
                              kin_denoiser_kind_name(t->parts.denoiser.kind));
        else if (clip.height / factor % shape.size_multiple ||
                 clip.width / factor % shape.size_multiple || frames % shape.frame_multiple ||
                 kin_vae_video_frames(&t->parts.vae, frames) != clip.frames)
            status = kin_fail(t->context, KIN_INVALID,
                              "a clip of %lldx%dx%d does not fit %s and its autoencoder",
                              (long long)clip.frames, clip.height, clip.width,
                              kin_denoiser_kind_name(t->parts.denoiser.kind));
    }
    return status;
}

static kin_status open_text(kin_video_task *t) {
    const kin_train_config *config = t->config;
    char *cache = kin_path_join(t->context, config->output, "features.safetensors");
    if (!cache) return KIN_OUT_OF_MEMORY;
    kin_text_source_options options = {
        .config = &t->parts.text,
        .precision = {.weights = config->text_dtype, .compute = config->precision.compute},
        .path = t->parts.text_files.path,
        .entry = t->parts.text_files.entry,
        .tokenizer_path = t->parts.tokenizer,
        .ids = t->captions.ids,
        .lengths = t->captions.lengths,
        .count = t->captions.count + 1,
        .length = t->captions.length,
        .whole = t->attend_padding,
        .cache = config->features_each_batch ? NULL : cache,
        .quiet = t->quiet,
        .ranks = config->ranks};
    kin_status status = kin_text_source_open(t->context, t->device, &options, &t->text);
    kin_free(t->context, cache);
    return status;
}

static kin_status allocate_batch(kin_video_task *t) {
    kin_context *context = t->context;
    kin_vae_shape vae = kin_vae_shape_of(&t->parts.vae);
    size_t images = (size_t)t->config->order.images, captions = 0, values = 0, frames = 0, all = 0;
    size_t image =
        images ? kin_latent_cache_values(t->latents, kin_train_order_shapes(t->order)) : 0;
    for (int i = 0; i < kin_train_order_shapes(t->order); i++) {
        const kin_train_shape *s = kin_train_order_shape(t->order, i);
        size_t batch = (size_t)samples_of_rank(t, i);
        size_t clip = kin_latent_cache_values(t->latents, i) + images * image;
        if (batch * (1 + images) > captions) captions = batch * (1 + images);
        if (batch * clip > values) values = batch * clip;
        if (batch * (size_t)latent_frames(t, i) > frames)
            frames = batch * (size_t)latent_frames(t, i);
        if (s->padded) all = batch * clip / (2 * (size_t)vae.channels);
    }
    size_t length = (size_t)t->captions.length, width = (size_t)t->parts.text.d_model;
    t->texts = kin_alloc(context, captions * sizeof *t->texts);
    t->moments = kin_alloc(context, values * sizeof *t->moments);
    t->masks = kin_alloc(context, frames * sizeof *t->masks);
    t->real = kin_alloc(context, (all + 1) * sizeof *t->real);
    t->ids = kin_alloc(context, captions * length * sizeof *t->ids);
    t->lengths = kin_alloc(context, captions * sizeof *t->lengths);
    if (t->text) t->features = kin_alloc(context, captions * length * width * sizeof(float));
    bool told = t->parts.denoiser.kind == KIN_DENOISER_STDIT2;
    if (told) t->fps = kin_alloc(context, captions * sizeof *t->fps);
    return t->texts && t->moments && t->masks && t->real && t->ids && t->lengths &&
                   (!t->text || t->features) && (!told || t->fps)
               ? KIN_OK
               : KIN_OUT_OF_MEMORY;
}

static kin_status open_captions(void *user) {
    kin_video_task *t = user;
    return kin_train_captions_open(t->context, t->config, &t->parts, t->data, &t->captions);
}

/* Everything but what is computed from the data. */
static kin_status open_model(kin_video_task *t) {
    const kin_train_config *config = t->config;
    kin_context *context = t->context;
    kin_status status = kin_train_parts_open(context, config, &t->parts);
    if (status == KIN_OK) status = settle(t);
    if (status == KIN_OK) status = kin_dataset_open(context, &config->data, &t->data);
    status = kin_train_in_turn(config, status, open_captions, t);
    if (status != KIN_OK) return status;
    status = kin_schedule_create(context, 1000, "", &t->schedule);
    if (status == KIN_OK && t->parts.denoiser.kind == KIN_DENOISER_STDIT2)
        kin_schedule_use_single(t->schedule); /* as Open-Sora 1.1 */
    return status == KIN_OK ? open_order(t) : status;
}

/* A budget that does not do is told before hours of encoding. */
static kin_status check_memory(kin_video_task *t, const kin_train_task_ops *ops) {
    kin_train_plans *plans = NULL;
    if (t->config->memory == 0) return KIN_OK;
    kin_status status =
        kin_train_plans_open(t->context, t->device, t->config, ops, t, NULL, &plans);
    kin_train_plans_close(plans);
    return status;
}

/* Encodes what is not encoded yet. All ranks take part, and get one status. */
static kin_status open_features(kin_video_task *t) {
    kin_latent_source source = {&t->parts.vae, t->parts.vae_files.path};
    kin_status status = kin_latent_cache_open(t->context, t->device, t->config, &source, t->data,
                                              t->order, t->quiet, &t->latents);
    if (status == KIN_OK && !t->config->train_text_encoder) status = open_text(t);
    if (status == KIN_OK) status = allocate_batch(t);
    return kin_ranks_agree(t->config->ranks, status);
}

static void close_task(kin_video_task *t) {
    kin_context *context = t->context;
    kin_text_source_close(t->text);
    kin_latent_cache_close(t->latents);
    kin_train_order_close(t->order);
    kin_schedule_free(t->schedule);
    kin_dataset_close(t->data);
    kin_train_captions_close(context, &t->captions);
    kin_train_parts_close(&t->parts);
    kin_free(context, t->texts);
    kin_free(context, t->moments);
    kin_free(context, t->masks);
    kin_free(context, t->real);
    kin_free(context, t->fps);
    kin_free(context, t->ids);
    kin_free(context, t->lengths);
    kin_free(context, t->features);
}

kin_status kin_train_video(kin_context *context, kin_device *device, const kin_train_config *config,
                           bool resume, bool quiet) {
    static const char *const none[] = {NULL};
    static const char *const metrics[] = {"mse", "vb", NULL};
    static const char *const plain_metrics[] = {"mse", NULL};
    kin_train_task_ops ops = {.shape_of = shape_of,
                              .loss = video_loss,
                              .shape_name = shape_name,
                              .load = video_load,
                              .write = video_write,
                              .validate = video_validate,
                              .export = video_export};
    kin_video_task task = {.context = context, .device = device, .config = config, .quiet = quiet};
    kin_status status = open_model(&task);
    if (status == KIN_OK) {
        kin_denoiser_shape shape = kin_denoiser_shape_of(&task.parts.denoiser);
        ops.shapes = kin_train_order_shapes(task.order);
        ops.metrics = task.plan_loss                            ? none
                      : shape.out_channels != shape.in_channels ? metrics
                                                                : plain_metrics;
        status = check_memory(&task, &ops);
    }
    status = kin_ranks_agree(config->ranks, status);
    if (status == KIN_OK) status = open_features(&task);
    if (status == KIN_OK) {
        ops.memory = task.text ? kin_text_source_memory(task.text) : 0;
        status = kin_train_run(context, device, config, &ops, &task, resume, quiet);
    }
    close_task(&task);
    return status;
}
