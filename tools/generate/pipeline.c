/* From prompts to clips: opening, sizes, and all stages one after the other. */
#include "tools/generate/pipeline.h"

#include <math.h>
#include <string.h>

#include "runtime/checkpoint.h"
#include "tools/generate/pipeline_internal.h"
#include "tools/train/buckets.h"

enum { MAX_CLIPS = 1 << 16, MAX_FRAMES = 4096, MAX_SIDE = 8192, MAX_STEPS = 1000 };

kin_status kin_pipeline_open(kin_context *context, kin_device *device, const char *path,
                             const kin_system_overrides *overrides, kin_pipeline *out_pipeline) {
    static const kin_part_kind needed[] = {KIN_PART_DENOISER, KIN_PART_VAE, KIN_PART_TEXT_ENCODER,
                                           KIN_PART_TOKENIZER};
    kin_pipeline *p = out_pipeline;
    *p = (kin_pipeline){.context = context,
                        .device = device,
                        .tiling = kin_causal_vae_tiling_default(),
                        .clean_text = true};
    kin_status status = kin_system_open(context, path, overrides, &p->system);
    if (status != KIN_OK) return status;
    for (size_t i = 0; status == KIN_OK && i < sizeof needed / sizeof *needed; i++)
        status = kin_system_need(&p->system, needed[i]);
    if (status != KIN_OK) kin_pipeline_close(p);
    return status;
}

void kin_pipeline_close(kin_pipeline *pipeline) {
    kin_pipeline_drop_denoiser(pipeline);
    kin_system_close(&pipeline->system);
}

/* ---- stages ---- */

kin_status kin_pipeline_part_precision(const kin_pipeline *pipeline, kin_part_kind part,
                                       kin_precision *out_precision) {
    const kin_part *from = &pipeline->system.parts[part];
    kin_checkpoint *file;
    *out_precision = pipeline->precision;
    kin_status status = kin_checkpoint_open(pipeline->context, from->path, from->entry, &file);
    if (status != KIN_OK) return status;
    for (size_t i = 0; i < kin_checkpoint_count(file); i++)
        if (kin_checkpoint_at(file, i)->desc.dtype == KIN_Q8_0) out_precision->weights = KIN_Q8_0;
    kin_checkpoint_close(file);
    return KIN_OK;
}

void kin_pipeline_free_stage(kin_pipeline_stage *stage) {
    kin_plan_free(stage->plan);
    kin_store_free(stage->store);
    *stage = (kin_pipeline_stage){0};
}

kin_status kin_pipeline_plan_stage(const kin_pipeline *pipeline, kin_graph *graph,
                                   kin_pipeline_stage *stage) {
    kin_plan_options options = {.struct_size = sizeof options, .memory_budget = pipeline->memory};
    return kin_plan_build(graph, pipeline->device, &options, &stage->plan);
}

kin_status kin_pipeline_load_stage(const kin_pipeline *pipeline, const kin_graph *graph,
                                   kin_part_kind part, const char *prefix,
                                   kin_weights_rename rename, const void *config,
                                   kin_pipeline_stage *stage) {
    const kin_part *from = &pipeline->system.parts[part];
    kin_weights_options load = {
        .prefix = prefix, .rename = rename, .config = config, .entry = from->entry};
    kin_status status = kin_store_create(pipeline->device, &stage->store);
    if (status == KIN_OK) status = kin_store_reserve_graph(stage->store, graph);
    if (status == KIN_OK) status = kin_weights_load(stage->store, from->path, &load, NULL);
    if (status == KIN_OK) status = kin_plan_prepare(stage->plan, stage->store, NULL);
    return status;
}

/* ---- sizes ---- */

/* Rows and columns of pixels that latents and patches of the system divide. */
static int64_t size_multiple(const kin_pipeline *p) {
    int64_t factor = kin_vae_shape_of(&p->system.vae).space_factor;
    return factor * kin_denoiser_shape_of(&p->system.denoiser).size_multiple;
}

/* Open-Sora 1.1's own sizes, such as 240x426, are no multiples of 8: what is over is cut off. */
static bool cuts_sizes(const kin_pipeline *p) {
    return p->system.kind == KIN_SYSTEM_OPEN_SORA_1_1;
}

void kin_pipeline_sizes(const kin_pipeline *p, const kin_generation *g, int64_t out_latents[5],
                        int64_t out_frames[5]) {
    const kin_vae_config *vae = &p->system.vae;
    int64_t factor = kin_vae_shape_of(vae).space_factor;
    out_latents[0] = out_frames[0] = g->count;
    out_latents[1] = kin_denoiser_shape_of(&p->system.denoiser).in_channels;
    out_frames[1] = 3;
    out_latents[2] = kin_vae_latent_frames(vae, g->frames);
    out_frames[2] = kin_vae_video_frames(vae, out_latents[2]);
    out_latents[3] = g->height / factor;
    out_latents[4] = g->width / factor;
    for (int i = 3; i < 5; i++) out_frames[i] = out_latents[i] * factor;
}

static const kin_bucket_resolution *bins_of(const kin_pipeline *p) {
    static const struct {
        int sample_size;
        const char *name;
    } rows[] = {{32, "256"}, {64, "512"}, {128, "1024"}};
    for (size_t k = 0; k < sizeof rows / sizeof *rows; k++)
        for (int i = 0; i < kin_bucket_resolution_count; i++)
            if (p->system.kind == KIN_SYSTEM_PIXART &&
                p->system.denoiser.pixart.sample_size == rows[k].sample_size &&
                strcmp(kin_bucket_resolutions[i].name, rows[k].name) == 0)
                return &kin_bucket_resolutions[i];
    return NULL;
}

bool kin_pipeline_bin(const kin_pipeline *p, int64_t height, int64_t width, int64_t *out_height,
                      int64_t *out_width) {
    const kin_bucket_resolution *bins = bins_of(p);
    const kin_bucket_size *best = NULL;
    double ratio = (double)height / (double)width;
    for (size_t i = 0; bins && i < bins->size_count; i++)
        if (!best || fabs(bins->sizes[i].ratio - ratio) < fabs(best->ratio - ratio))
            best = &bins->sizes[i];
    if (!best) return false;
    *out_height = best->height;
    *out_width = best->width;
    return true;
}

/* "frames 1, 5, 9, ..", as the system has them. */
static const char *frames_text(const kin_pipeline *p, char *text, size_t size) {
    int factor = kin_vae_shape_of(&p->system.vae).time_factor;
    kin_denoiser_shape shape = kin_denoiser_shape_of(&p->system.denoiser);
    if (shape.pictures) snprintf(text, size, "1 frame");
    else if (factor > 1)
        snprintf(text, size, "frames %d k + 1: 1, %d, %d, .. up to %d", factor, factor + 1,
                 2 * factor + 1, MAX_FRAMES);
    else snprintf(text, size, "frames 1 to %d", MAX_FRAMES);
    return text;
}

static bool frames_fit(const kin_pipeline *p, int64_t frames) {
    const kin_vae_config *vae = &p->system.vae;
    kin_denoiser_shape shape = kin_denoiser_shape_of(&p->system.denoiser);
    if (frames < 1 || frames > MAX_FRAMES || (shape.pictures && frames != 1)) return false;
    int64_t latent = kin_vae_latent_frames(vae, frames);
    return latent > 0 && latent % shape.frame_multiple == 0 &&
           kin_vae_video_frames(vae, latent) == frames;
}

static bool side_fits(const kin_pipeline *p, int64_t side) {
    int64_t multiple = size_multiple(p);
    return side >= multiple && side <= MAX_SIDE && (cuts_sizes(p) || side % multiple == 0);
}

static kin_status check_given(const kin_pipeline *p, const kin_generation *g) {
    if (!g->given && !g->ratios) return KIN_OK;
    if (!g->given || !g->ratios)
        return kin_fail(p->context, KIN_INVALID, "given frames need both latents and edit ratios");
    if (!kin_denoiser_shape_of(&p->system.denoiser).frame_masks)
        return kin_fail(p->context, KIN_INVALID,
                        "%s was not trained with given frames; Open-Sora 1.1 was",
                        kin_system_name(p->system.kind));
    if (!g->sampling.iddpm)
        return kin_fail(p->context, KIN_INVALID, "given frames need the sampler iddpm or ddim");
    return KIN_OK;
}

kin_status kin_pipeline_check(const kin_pipeline *p, const kin_generation *g) {
    const kin_sampling *s = &g->sampling;
    int channels = kin_denoiser_shape_of(&p->system.denoiser).in_channels;
    char frames[96];
    if (!frames_fit(p, g->frames) || !side_fits(p, g->height) || !side_fits(p, g->width) ||
        s->steps < 1 || s->steps > MAX_STEPS || g->count < 1 || g->count > MAX_CLIPS)
        return kin_fail(p->context, KIN_INVALID,
                        "%lld frames of %lldx%lld in %lld steps cannot be made by %s: height and "
                        "width must be %s%lld up to %d, %s, steps 1 to %d",
                        (long long)g->frames, (long long)g->height, (long long)g->width,
                        (long long)s->steps, kin_system_name(p->system.kind),
                        cuts_sizes(p) ? "from " : "multiples of ", (long long)size_multiple(p),
                        MAX_SIDE, frames_text(p, frames, sizeof frames), MAX_STEPS);
    if (s->cfg_channels < 0 || s->cfg_channels > channels)
        return kin_fail(p->context, KIN_INVALID,
                        "guidance of %lld channels: the latents have %d channels; 0 is all",
                        (long long)s->cfg_channels, channels);
    if (!isfinite(s->cfg_scale) || !(s->eta >= 0 && s->eta <= 1) || !isfinite(g->fps) || g->fps < 0)
        return kin_fail(p->context, KIN_INVALID,
                        "a guidance of %g, eta %g (0 to 1) and %g frames a second do not go",
                        s->cfg_scale, s->eta, g->fps);
    return check_given(p, g);
}

/* ---- all stages ---- */

kin_status kin_pipeline_generate(kin_pipeline *p, const kin_generation *g,
                                 const char *const *prompts, const char *const *negative,
                                 kin_host_tensor *out_frames) {
    const char *const *against = negative;
    int64_t against_count = g->count;
    kin_text text = {0}, against_text = {0};
    kin_host_tensor latents = {.data = NULL};
    *out_frames = (kin_host_tensor){.data = NULL};
    kin_status status = kin_pipeline_check(p, g);
    if (!negative && p->system.defaults.negative) {
        against = &p->system.defaults.negative;
        against_count = 1;
    }
    if (g->sampling.cfg_scale == 1) against = NULL;
    if (status == KIN_OK) status = kin_pipeline_encode(p, prompts, g->count, &text);
    if (status == KIN_OK && against)
        status = kin_pipeline_encode_negative(p, against, against_count, &against_text);
    if (status == KIN_OK)
        status = kin_pipeline_sample(p, g, &text, against ? &against_text : NULL, &latents);
    if (status == KIN_OK) status = kin_pipeline_decode(p, &latents, g->quiet, out_frames);
    kin_text_free(p->context, &text);
    kin_text_free(p->context, &against_text);
    kin_host_tensor_free(p->context, &latents);
    return status;
}

kin_host_tensor kin_pipeline_clip(const kin_host_tensor *frames, int64_t index) {
    const int64_t *d = frames->desc.dims;
    kin_host_tensor clip = {.desc = kin_desc_dense(KIN_F32, 4, d + 1)};
    clip.data = (float *)frames->data + index * kin_desc_count(&clip.desc);
    return clip;
}
