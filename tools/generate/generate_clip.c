/* One clip: what it is made from, and the texts by which that is known again. */
#include "tools/generate/generate.h"

#include "runtime/video.h"
#include "tools/train/fingerprint.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

bool kin_clip_masked(const kin_generate *g, const kin_clip_work *work) {
    return g->passes.count > 1 || work->conditions.count > 0;
}

static const char *of_list(const char *const *list, int count, size_t index) {
    return count == 0 ? NULL : count == 1 ? list[0] : list[index];
}

static int64_t latents_of(void *user, int64_t frames) {
    const kin_generate *g = user;
    return kin_vae_latent_frames(&g->pipeline.system.vae, frames);
}

static kin_status find_conditions(kin_generate *g, kin_clip_work *w) {
    const kin_generate_request *r = g->request;
    const kin_prompt *p = w->clip->prompt;
    size_t index = (size_t)(p - g->prompts.list);
    const char *path = of_list(r->reference_paths, r->reference_count, index);
    const char *strategy = of_list(r->mask_strategies, r->strategy_count, index);
    if (!path) path = g->task_path;
    if (!strategy) strategy = g->task_strategy;
    w->reference_path = p->reference_path ? p->reference_path : path;
    w->mask_strategy = p->mask_strategy ? p->mask_strategy : strategy;
    bool extends = g->request->join && w->reference_path == g->task_path &&
                   w->mask_strategy == g->task_strategy;
    w->negative = !kin_generate_guided(g) ? NULL : p->negative ? p->negative : g->negative;
    kin_status status =
        kin_conditions_make(g->context, w->reference_path, w->mask_strategy, r->interval,
                            &g->passes, g->latent_frames, latents_of, g, &w->conditions);
    if (status == KIN_OK && extends)
        w->joined = w->conditions.references.list[0].frames - w->conditions.tuples[0].length;
    return status;
}

/* Puts a formatted line behind *text; *text becomes NULL when there is no memory. */
static void add_line(kin_context *context, char **text, const char *format, ...) KIN_PRINTF(3, 4);
static void add_line(kin_context *context, char **text, const char *format, ...) {
    char buffer[512];
    va_list list;
    if (!*text) return;
    va_start(list, format);
    vsnprintf(buffer, sizeof buffer, format, list);
    va_end(list);
    char *joined = kin_format(context, "%s\n%s", *text, buffer);
    kin_free(context, *text);
    *text = joined;
}

/* The same for a value of any length. */
static void add_value(kin_context *context, char **text, const char *key, const char *value) {
    if (!*text) return;
    char *joined = kin_format(context, "%s\n%s: %s", *text, key, value);
    kin_free(context, *text);
    *text = joined;
}

/* All that decides the latents but the files. */
static char *describe(kin_generate *g, const kin_clip_work *w) {
    const kin_sampling *s = &g->shape.sampling;
    const kin_precision *precision = &g->pipeline.precision;
    kin_context *context = g->context;
    char *text = kin_format(context, "prompt: %s", w->clip->prompt->text);
    add_value(context, &text, "negative",
              w->negative              ? w->negative
              : kin_generate_guided(g) ? "(learned null caption)"
                                       : "(none: no guidance)");
    add_value(context, &text, "model", g->request->model);
    add_value(context, &text, "system", kin_system_name(g->pipeline.system.kind));
    add_line(context, &text, "size: %lldx%lldx%lld", (long long)g->shape.frames,
             (long long)g->shape.height, (long long)g->shape.width);
    add_line(context, &text, "steps: %lld\ncfg_scale: %g\ncfg_channels: %lld", (long long)s->steps,
             s->cfg_scale, (long long)s->cfg_channels);
    add_line(context, &text, "sampling_method: %s\neta: %g\nseed: %llu", g->sampler, s->eta,
             (unsigned long long)w->clip->seed);
    if (s->noise != KIN_NOISE_PHILOX) add_line(context, &text, "noise: %s", g->request->noise);
    if (g->request->model_fps > 0) add_line(context, &text, "model_fps: %g", g->shape.fps);
    if (precision->compute != KIN_F32)
        add_line(context, &text, "dtype: %s", kin_dtype_name(precision->compute));
    if (!g->pipeline.clean_text) add_line(context, &text, "clean: no");
    if (w->reference_path) add_value(context, &text, "reference_path", w->reference_path);
    if (w->mask_strategy) add_value(context, &text, "mask_strategy", w->mask_strategy);
    if (w->reference_path && g->request->interval > 1)
        add_line(context, &text, "reference_interval: %lld", (long long)g->request->interval);
    if (g->shape.keep_given && kin_clip_masked(g, w)) add_line(context, &text, "keep_given: yes");
    if (g->file_height != g->out_height || g->file_width != g->out_width)
        add_line(context, &text, "scaled_to: %lldx%lld", (long long)g->file_height,
                 (long long)g->file_width);
    if (w->joined > 0) add_line(context, &text, "join: %lld frames", (long long)w->joined);
    if (g->passes.count > 1)
        add_line(context, &text, "loop: %d%s%s\ncondition_frame_length: %lld", g->passes.count,
                 g->passes.backward ? ", backward" : "", g->passes.closed ? ", closed" : "",
                 (long long)g->passes.overlap);
    return text;
}

static kin_status make_keys(kin_generate *g, kin_clip_work *w) {
    static const char *const cuts[] = {"as-needed", "never", "published"};
    kin_context *context = g->context;
    char files[KIN_FINGERPRINT_TEXT];
    uint64_t hash = KIN_FINGERPRINT_START;
    for (size_t i = 0; i < w->conditions.references.count; i++)
        hash = kin_fingerprint_path(hash, w->conditions.references.list[i].path);
    kin_fingerprint_text(hash, files);
    char *text = describe(g, w);
    if (!text) return KIN_OUT_OF_MEMORY;
    const char *published = g->pipeline.cut == KIN_VAE_CUT_PUBLISHED ? "\nvae_cut: published" : "";
    w->parameters =
        kin_format(context, "%s\nfps: %g%s\nkinora: %s", text, g->fps, published, kin_version());
    /* references pass through the autoencoder too */
    w->latent_key = kin_format(context, "%s\nkinora: %s\nfiles: %s, %s", text, kin_version(),
                               kin_clip_masked(g, w) ? g->frame_files : g->latent_files, files);
    kin_free(context, text);
    if (w->latent_key)
        w->frame_key = kin_format(context, "%s\ndecoded: %s, %s", w->latent_key, g->frame_files,
                                  cuts[g->pipeline.cut]);
    w->text_key =
        kin_format(context, "%s\n%s\n%s, %s, %s\nkinora: %s\nfiles: %s", w->clip->prompt->text,
                   w->negative ? w->negative : "(none)", kin_system_name(g->pipeline.system.kind),
                   g->pipeline.clean_text ? "cleaned" : "as it is",
                   kin_dtype_name(g->pipeline.precision.compute), kin_version(), g->text_files);
    return w->parameters && w->frame_key && w->text_key ? KIN_OK : KIN_OUT_OF_MEMORY;
}

/* The file is one of those that the clip is made from. */
static bool is_source(const kin_generate *g, const kin_clip_work *w) {
    for (size_t i = 0; i < w->conditions.references.count; i++)
        if (kin_job_same_file(w->conditions.references.list[i].path, w->clip->output)) return true;
    return g->request->prompt_file && kin_job_same_file(g->request->prompt_file, w->clip->output);
}

static kin_status look(kin_generate *g, kin_clip_work *w) {
    size_t count = 0;
    const char **sources = kin_alloc(
        g->context, (KIN_PART_KINDS + w->conditions.references.count + 1) * sizeof *sources);
    if (!sources) return KIN_OUT_OF_MEMORY;
    for (int i = 0; i < KIN_PART_KINDS; i++)
        if (g->pipeline.system.parts[i].path) sources[count++] = g->pipeline.system.parts[i].path;
    for (size_t i = 0; i < w->conditions.references.count; i++)
        sources[count++] = w->conditions.references.list[i].path;
    sources[count] = NULL;
    w->state = kin_job_look(g->context, w->clip, w->parameters, sources);
    kin_free(g->context, sources);
    if (is_source(g, w))
        return kin_fail(g->context, KIN_INVALID, "%s is read: it cannot be written too",
                        w->clip->output);
    if (g->request->overwrite) w->state = KIN_JOB_TO_DO;
    if (w->state == KIN_JOB_FOREIGN)
        return kin_fail(g->context, KIN_INVALID,
                        "%s is there and was not made by kinora generate: --overwrite replaces it",
                        w->clip->output);
    return KIN_OK;
}

/* The sampler has to know masks. */
static kin_status check_masked(const kin_generate *g, const kin_clip_work *w) {
    static const float none = 1;
    kin_generation shape = g->shape;
    if (!kin_clip_masked(g, w)) return KIN_OK;
    shape.given = shape.ratios = &none;
    return kin_pipeline_check(&g->pipeline, &shape);
}

kin_status kin_clip_open(kin_generate *g, size_t index, kin_clip_work *out_work) {
    kin_clip_work *w = out_work;
    *w = (kin_clip_work){.clip = &g->job.clips[index]};
    kin_video_write_options options = {.fps = g->fps};
    kin_status status = find_conditions(g, w);
    if (status == KIN_OK) status = check_masked(g, w);
    if (status == KIN_OK) status = make_keys(g, w);
    if (status == KIN_OK)
        status = kin_video_check_write(g->context, w->clip->output, g->out_frames + w->joined,
                                       g->file_height, g->file_width, &options);
    if (status == KIN_OK) status = look(g, w);
    if (status == KIN_OK) return KIN_OK;
    if (status != KIN_OUT_OF_MEMORY && g->job.count > 1)
        status = kin_fail_in(g->context, status, "clip %zu, %s", index + 1, w->clip->output);
    kin_clip_close(g, w);
    return status;
}

void kin_clip_close(kin_generate *g, kin_clip_work *work) {
    kin_context *context = g->context;
    size_t references =
        work->references ? work->conditions.references.count + (size_t)g->passes.count : 0;
    for (size_t i = 0; i < references; i++) kin_host_tensor_free(context, &work->references[i]);
    kin_free(context, work->references);
    kin_text_free(context, &work->text);
    kin_text_free(context, &work->negative_text);
    kin_host_tensor_free(context, &work->video);
    kin_conditions_free(context, &work->conditions);
    kin_free(context, work->parameters);
    kin_free(context, work->text_key);
    kin_free(context, work->latent_key);
    kin_free(context, work->frame_key);
    *work = (kin_clip_work){.clip = NULL};
}
