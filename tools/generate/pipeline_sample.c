/* Sampling latents: the denoiser within a sampler's step, planned for as many clips as fit. */
#include <string.h>

#include "models/diffusion_masked.h"
#include "ops/layout.h"
#include "ops/views.h"
#include "tools/generate/pipeline_internal.h"
#include "tools/generate/pipeline_noise.h"
#include "tools/tool.h"

static const char scope[] = "denoiser";

typedef struct sampler {
    kin_pipeline *pipeline;
    const kin_generation *generation;
    const kin_text *text, *negative; /* negative NULL: the model's null caption, or no guidance */
    bool guided, masked;
    bool apart;              /* captions and null captions pass the model one after the other */
    int64_t dims[5];         /* of a group's latents */
    size_t each;             /* values of a clip's latents */
    kin_precision precision; /* of the plan, as the file has the weights */
    kin_sampler_options options;
    kin_schedule *schedule;   /* Open-Sora's, */
    kin_scheduler *scheduler; /* or this */
    kin_pipeline_stage stage;
    kin_progress progress;
    int64_t finished; /* steps of groups before this one */
} sampler;

/* ---- the graph ---- */

static const kin_denoiser_config *model_of(const sampler *s) {
    return &s->pipeline->system.denoiser;
}

/* One side's text, as inputs of the graph. */
static kin_tensor features_input(const sampler *s, kin_graph *g, const char *name) {
    const int64_t *d = s->text->features.desc.dims;
    return kin_input(g, name, KIN_F32, 3, (int64_t[]){s->dims[0], d[1], d[2]});
}

/* Captions, or null captions, of the guidance: x has one sample for each clip. */
static kin_tensor denoise_side(const sampler *s, kin_graph *g, const kin_denoiser_sampling *text,
                               bool null, kin_denoiser_inputs in) {
    in.y = null && text->null_y.id ? text->null_y : text->y;
    in.y_lengths = null && text->null_lengths.id ? text->null_lengths : text->y_lengths;
    if (null && !text->null_y.id) in.drop = kin_fill(g, KIN_F32, 1, s->dims, 1);
    kin_scope_push(g, "%s", scope);
    kin_tensor out = kin_denoiser(g, model_of(s), &s->precision, &in);
    kin_scope_pop(g);
    return out;
}

/* Both, with the memory of one. */
static kin_tensor denoise_apart(const sampler *s, kin_graph *g, const kin_denoiser_sampling *text,
                                const kin_denoiser_inputs *both) {
    kin_tensor out[2];
    for (int half = 0; half < 2; half++) {
        kin_denoiser_inputs in = *both;
        in.x = kin_slice(g, both->x, 0, half * s->dims[0], s->dims[0]);
        in.timestep = kin_slice(g, both->timestep, 0, half * s->dims[0], s->dims[0]);
        out[half] = denoise_side(s, g, text, (half == 0) == text->null_first, in);
    }
    return kin_concat(g, out, 2, 0);
}

static kin_tensor denoise_masked(void *user, kin_graph *g, kin_tensor x, kin_tensor timestep,
                                 kin_tensor frame_mask) {
    const sampler *s = user;
    const kin_generation *generation = s->generation;
    bool own_null = kin_denoiser_shape_of(model_of(s)).own_null_caption;
    kin_denoiser_sampling sampling = {.config = model_of(s),
                                      .scope = scope,
                                      .precision = &s->precision,
                                      .guided = s->guided,
                                      .null_first = s->scheduler != NULL,
                                      .height = (double)generation->height,
                                      .width = (double)generation->width};
    /* A picture's rate is not a video's. */
    if (generation->frames > 1) sampling.fps = generation->fps;
    sampling.y = features_input(s, g, "features");
    sampling.y_lengths = kin_input(g, "lengths", KIN_I32, 1, s->dims);
    if (s->guided && s->negative) {
        sampling.null_y = features_input(s, g, "negative");
        /* Latte cuts the negative prompt's features to the prompt's length. */
        if (s->pipeline->system.kind != KIN_SYSTEM_LATTE)
            sampling.null_lengths = kin_input(g, "negative_lengths", KIN_I32, 1, s->dims);
    }
    if (own_null && (!s->guided || s->negative)) { /* unused here, but the file has it */
        kin_scope_push(g, "%s", scope);
        kin_denoiser_keep_null_caption(g, model_of(s), &s->precision, sampling.y);
        kin_scope_pop(g);
    }
    if (!s->apart) return kin_denoiser_sample_masked(&sampling, g, x, timestep, frame_mask);
    kin_denoiser_inputs in = {.x = x,
                              .timestep = timestep,
                              .frame_mask = frame_mask,
                              .height = sampling.height,
                              .width = sampling.width,
                              .fps = sampling.fps};
    return denoise_apart(s, g, &sampling, &in);
}

static kin_tensor denoise(void *user, kin_graph *g, kin_tensor x, kin_tensor timestep) {
    return denoise_masked(user, g, x, timestep, KIN_NONE);
}

static void append_step(sampler *s, kin_graph *graph) {
    const kin_sampling *sampling = &s->generation->sampling;
    if (s->scheduler) {
        kin_scheduler_graph_options options = {
            .rank = 5,
            .dims = s->dims,
            .guidance = {sampling->cfg_scale, (int)sampling->cfg_channels, true}};
        kin_scheduler_graph(graph, s->scheduler, &options, denoise, s);
    } else if (s->masked) {
        kin_masked_sampler_graph(graph, s->schedule, &s->options, s->dims, denoise_masked, s);
    } else {
        kin_sampler_graph(graph, s->schedule, &s->options, s->dims, denoise, s);
    }
}

/* ---- planning ---- */

/* The plan's peak is beyond the device's memory, where that is known. */
static bool too_large(const sampler *s) {
    uint64_t total = s->pipeline->device->info.memory_total;
    return total && kin_plan_summarize(s->stage.plan)->peak > total;
}

/* Plans a step for as many clips as are wanted together, or for as many as the memory allows; if
 * not even one goes with both sides of the guidance, these follow one another. */
static kin_status plan_groups(sampler *s, kin_graph **out_graph) {
    kin_context *context = s->pipeline->context;
    kin_status status = kin_pipeline_part_precision(s->pipeline, KIN_PART_DENOISER, &s->precision);
    *out_graph = NULL;
    if (status != KIN_OK) return status;
    int64_t most = s->generation->count, together = s->generation->together;
    if (together > 0 && together < most) most = together;
    s->dims[0] = most;
    for (;;) {
        status = kin_graph_create(context, out_graph);
        if (status != KIN_OK) return status;
        append_step(s, *out_graph);
        status = kin_pipeline_plan_stage(s->pipeline, *out_graph, &s->stage);
        bool large = status == KIN_OK ? too_large(s) : status == KIN_OUT_OF_MEMORY;
        if (!large || (s->dims[0] == 1 && (s->apart || !s->guided))) break;
        if (s->dims[0] == 1) s->apart = true;
        else s->dims[0] = (s->dims[0] + 1) / 2;
        kin_pipeline_free_stage(&s->stage);
        kin_graph_destroy(*out_graph);
        *out_graph = NULL;
    }
    if (status == KIN_OUT_OF_MEMORY)
        return kin_fail_in(context, status, "sampling one clip of %lldx%lldx%lld",
                           (long long)s->generation->frames, (long long)s->generation->height,
                           (long long)s->generation->width);
    if (status == KIN_OK && s->dims[0] < most)
        kin_log(context, KIN_LOG_INFO,
                "sampling %lld of %lld clips at a time to keep to the memory",
                (long long)s->dims[0], (long long)most);
    if (status == KIN_OK && s->apart)
        kin_log(context, KIN_LOG_INFO,
                "sampling with and without the caption in turn to keep to the memory");
    return status;
}

/* ---- a denoiser that stays ---- */

/* All that the plan of a step depends on, beside the system and the device. */
typedef struct plan_key {
    int64_t count, together, frames, height, width, tokens;
    double fps;
    kin_sampling sampling;
    kin_precision precision;
    uint64_t memory;
    bool masked, negative;
} plan_key;

struct kin_kept_denoiser {
    plan_key key;
    int64_t group;
    kin_pipeline_stage stage;
};

/* Bytes between the members are 0, so that keys can be compared as bytes; what padding `sampling`
 * brings along can but make equal keys look different. */
static void make_key(const sampler *s, plan_key *out_key) {
    const kin_generation *g = s->generation;
    memset(out_key, 0, sizeof *out_key);
    out_key->count = g->count;
    out_key->together = g->together;
    out_key->frames = g->frames;
    out_key->height = g->height;
    out_key->width = g->width;
    out_key->tokens = s->text->features.desc.dims[1];
    out_key->fps = g->fps;
    memcpy(&out_key->sampling, &g->sampling, sizeof out_key->sampling);
    out_key->precision = s->pipeline->precision;
    out_key->memory = s->pipeline->memory;
    out_key->masked = s->masked;
    out_key->negative = s->negative != NULL;
}

void kin_pipeline_drop_denoiser(kin_pipeline *pipeline) {
    if (!pipeline->kept) return;
    kin_pipeline_free_stage(&pipeline->kept->stage);
    kin_free(pipeline->context, pipeline->kept);
    pipeline->kept = NULL;
}

/* Takes the kept denoiser's stage, if it is the one that is wanted; frees another. */
static bool take_kept(sampler *s) {
    struct kin_kept_denoiser *kept = s->pipeline->kept;
    plan_key key;
    make_key(s, &key);
    bool same = kept && memcmp(&kept->key, &key, sizeof key) == 0;
    if (same) {
        s->stage = kept->stage;
        s->dims[0] = kept->group;
        kept->stage = (kin_pipeline_stage){0};
    }
    kin_pipeline_drop_denoiser(s->pipeline);
    return same;
}

/* Without memory for it, it is not kept. */
static void keep(sampler *s) {
    struct kin_kept_denoiser *kept = kin_alloc(s->pipeline->context, sizeof *kept);
    if (!kept) return;
    *kept = (struct kin_kept_denoiser){.group = s->dims[0], .stage = s->stage};
    make_key(s, &kept->key);
    s->stage = (kin_pipeline_stage){0};
    s->pipeline->kept = kept;
}

static kin_status open_stage(sampler *s) {
    const kin_system *system = &s->pipeline->system;
    kin_graph *graph;
    if (take_kept(s)) return KIN_OK;
    kin_status status = plan_groups(s, &graph);
    if (status == KIN_OK)
        status = kin_pipeline_load_stage(s->pipeline, graph, KIN_PART_DENOISER, scope,
                                         kin_denoiser_rename, &system->denoiser, &s->stage);
    kin_graph_destroy(graph);
    return status;
}

/* Open-Sora's schedule, or a scheduler's table. */
static kin_status open_schedule(sampler *s) {
    const kin_sampling *sampling = &s->generation->sampling;
    const kin_pipeline *p = s->pipeline;
    if (sampling->iddpm) {
        char steps[24];
        snprintf(steps, sizeof steps, "%lld", (long long)sampling->steps);
        s->options =
            (kin_sampler_options){.method = sampling->ddim ? KIN_SAMPLER_DDIM : KIN_SAMPLER_IDDPM,
                                  .cfg_scale = sampling->cfg_scale,
                                  .cfg_channels = (int)sampling->cfg_channels,
                                  .eta = sampling->eta};
        kin_status status = kin_schedule_create(p->context, 1000, steps, &s->schedule);
        if (status == KIN_OK && p->system.kind == KIN_SYSTEM_OPEN_SORA_1_1)
            kin_schedule_use_single(s->schedule);
        return status;
    }
    double patch = kin_denoiser_shape_of(model_of(s)).patch;
    double height = (double)s->generation->height, width = (double)s->generation->width;
    double frames = (double)s->generation->frames;
    double tokens = (double)(s->dims[3] * s->dims[4]) / (patch * patch);
    kin_scheduler_options options = {.steps = (int)sampling->steps,
                                     .eta = sampling->eta,
                                     .mu = kin_scheduler_mu(&sampling->scheduler, tokens)};
    if (sampling->scheduler.kind == KIN_SCHEDULER_RECTIFIED_FLOW) {
        options.rows = 1;
        options.heights = &height;
        options.widths = &width;
        options.frames = &frames;
    }
    return kin_scheduler_create(p->context, &sampling->scheduler, &options, &s->scheduler);
}

/* ---- running ---- */

/* Rows of the group that begins with clip `first`: past the last clip that one is repeated. A text
 * of one row is that of all. */
static kin_status write_rows(sampler *s, const char *input, const kin_host_tensor *rows,
                             int64_t first) {
    int64_t last = rows->desc.dims[0] - 1;
    size_t row = kin_desc_bytes(&rows->desc) / (size_t)(last + 1);
    unsigned char *group = kin_alloc(s->pipeline->context, (size_t)s->dims[0] * row);
    if (!group) return KIN_OUT_OF_MEMORY;
    for (int64_t i = 0; i < s->dims[0]; i++) {
        int64_t from = first + i < last ? first + i : last;
        memcpy(group + (size_t)i * row, (const unsigned char *)rows->data + (size_t)from * row,
               row);
    }
    kin_status status = kin_plan_write(s->stage.plan, input, rows->desc.dtype, group);
    kin_free(s->pipeline->context, group);
    return status;
}

static kin_status write_text(sampler *s, int64_t first) {
    kin_plan *plan = s->stage.plan;
    kin_status status = write_rows(s, "features", &s->text->features, first);
    if (status == KIN_OK) status = write_rows(s, "lengths", &s->text->lengths, first);
    if (status == KIN_OK && kin_plan_input_desc(plan, "negative"))
        status = write_rows(s, "negative", &s->negative->features, first);
    if (status == KIN_OK && kin_plan_input_desc(plan, "negative_lengths"))
        status = write_rows(s, "negative_lengths", &s->negative->lengths, first);
    return status;
}

static bool step_done(void *user, int call, int calls, const float *latents) {
    sampler *s = user;
    (void)calls;
    (void)latents;
    kin_progress_show(&s->progress, s->finished + call + 1, NULL);
    return !kin_interrupted();
}

/* Copies the given frames of a clip [C, T, Y, X]: those of a ratio below 1, or of ratio 0 alone. */
static void copy_given(const sampler *s, int64_t clip, bool kept_alone, float *latents) {
    size_t area = (size_t)(s->dims[3] * s->dims[4]), frames = (size_t)s->dims[2];
    const float *given = s->generation->given + (size_t)clip * s->each;
    const float *ratios = s->generation->ratios + (size_t)clip * frames;
    for (size_t i = 0; i < (size_t)s->dims[1] * frames; i++)
        if (kept_alone ? ratios[i % frames] == 0 : ratios[i % frames] < 1)
            memcpy(latents + i * area, given + i * area, area * sizeof *latents);
}

/* The clip of row `i` of the group that begins with `first`. */
static int64_t clip_at(const sampler *s, int64_t first, int64_t i) {
    return first + i < s->generation->count ? first + i : s->generation->count - 1;
}

static kin_status run_sampler(sampler *s, int64_t first, const kin_sampler_loop *loop,
                              float *latents) {
    kin_context *context = s->pipeline->context;
    size_t count = (size_t)s->dims[0] * s->each, frames = (size_t)s->dims[2];
    if (s->scheduler)
        return kin_scheduler_run(s->stage.plan, s->stage.store, s->scheduler, loop, latents, count);
    if (!s->masked)
        return kin_sampler_run(s->stage.plan, context, s->schedule, &s->options, loop, latents,
                               count);
    float *ratios = kin_alloc(context, (size_t)s->dims[0] * frames * sizeof *ratios);
    if (!ratios) return KIN_OUT_OF_MEMORY;
    for (int64_t i = 0; i < s->dims[0]; i++) {
        const float *from = s->generation->ratios + (size_t)clip_at(s, first, i) * frames;
        memcpy(ratios + (size_t)i * frames, from, frames * sizeof *ratios);
        copy_given(s, clip_at(s, first, i), false, latents + (size_t)i * s->each);
    }
    kin_status status =
        kin_masked_sampler_run(s->stage.plan, context, s->schedule, &s->options, loop, ratios,
                               (size_t)s->dims[0] * frames, latents, count);
    kin_free(context, ratios);
    return status;
}

static kin_status open_noise(const sampler *s, const uint64_t *seeds, kin_clip_noise **out_noise) {
    const kin_pipeline *p = s->pipeline;
    /* Open-Sora 1.0 draws in f32; 1.1 in the model's dtype until the first step makes f32 of it;
     * diffusers' pipelines always in the model's. */
    bool plain = p->system.kind == KIN_SYSTEM_OPEN_SORA_1_0;
    bool open_sora = plain || p->system.kind == KIN_SYSTEM_OPEN_SORA_1_1;
    kin_clip_noise_options options = {
        .sampling = &s->generation->sampling,
        .seeds = seeds,
        .count = s->dims[0],
        .each = s->each,
        .repeats = s->schedule ? 2 : 1, /* its samplers step captions and null captions */
        .first = plain ? KIN_F32 : p->precision.compute,
        .later = open_sora ? KIN_F32 : p->precision.compute};
    return kin_clip_noise_open(p->context, &options, out_noise);
}

/* Clips from `first` on, as many as the group has. */
static kin_status run_group(sampler *s, int64_t first, float *out_latents) {
    kin_context *context = s->pipeline->context;
    kin_clip_noise *noise = NULL;
    float *latents = kin_alloc(context, (size_t)s->dims[0] * s->each * sizeof *latents);
    uint64_t *seeds = kin_alloc(context, (size_t)s->dims[0] * sizeof *seeds);
    kin_status status = latents && seeds ? KIN_OK : KIN_OUT_OF_MEMORY;
    for (int64_t i = 0; status == KIN_OK && i < s->dims[0]; i++)
        seeds[i] = s->generation->seeds[clip_at(s, first, i)];
    if (status == KIN_OK) status = write_text(s, first);
    if (status == KIN_OK) status = open_noise(s, seeds, &noise);
    if (status == KIN_OK) {
        kin_sampler_loop loop = {.noise = kin_clip_noise_step,
                                 .noise_user = noise,
                                 .progress = step_done,
                                 .progress_user = s};
        kin_clip_noise_start(noise, latents);
        status = run_sampler(s, first, &loop, latents);
    }
    for (int64_t i = 0; status == KIN_OK && i < s->dims[0]; i++) {
        if (first + i >= s->generation->count) break;
        float *clip = latents + (size_t)i * s->each;
        if (s->masked && s->generation->keep_given) copy_given(s, first + i, true, clip);
        memcpy(out_latents + (size_t)(first + i) * s->each, clip, s->each * sizeof *clip);
    }
    kin_clip_noise_close(noise);
    kin_free(context, seeds);
    kin_free(context, latents);
    return status;
}

static kin_status run_groups(sampler *s, float *out_latents) {
    const kin_generation *g = s->generation;
    int64_t group = s->dims[0], groups = (g->count + group - 1) / group;
    int64_t calls = s->scheduler ? s->scheduler->calls : s->schedule->steps;
    kin_status status = KIN_OK;
    s->progress = kin_progress_begin("sampling", 0, groups * calls, g->quiet);
    for (int64_t i = 0; status == KIN_OK && i < groups; i++) {
        int64_t first = i * group, count = g->count - first < group ? g->count - first : group;
        s->finished = i * calls;
        status = run_group(s, first, out_latents);
        if (status == KIN_OK && g->finished)
            status =
                g->finished(g->finished_user, first, count, out_latents + (size_t)first * s->each);
    }
    kin_progress_end(&s->progress);
    return status;
}

/* The features of the texts fit the model and the clips. */
static kin_status check_text(const sampler *s, const kin_text *text, bool may_be_one) {
    const kin_desc *features = &text->features.desc, *lengths = &text->lengths.desc;
    int64_t rows = features->dims[0],
            channels = kin_denoiser_shape_of(model_of(s)).caption_channels;
    bool same = !s->text || features->dims[1] == s->text->features.desc.dims[1];
    if (features->rank == 3 && features->dtype == KIN_F32 && lengths->dtype == KIN_I32 &&
        lengths->dims[0] == rows && features->dims[2] == channels && same &&
        (rows == s->generation->count || (may_be_one && rows == 1)))
        return KIN_OK;
    return kin_fail(s->pipeline->context, KIN_INVALID,
                    "text features do not fit %lld clips and captions of %lld channels",
                    (long long)s->generation->count, (long long)channels);
}

kin_status kin_pipeline_sample(kin_pipeline *p, const kin_generation *g, const kin_text *text,
                               const kin_text *negative, kin_host_tensor *out_latents) {
    static const char *const nothing = "";
    kin_text empty = {.features = {.data = NULL}};
    sampler s = {.pipeline = p,
                 .generation = g,
                 .text = text,
                 .guided = g->sampling.cfg_scale != 1,
                 .masked = g->given != NULL};
    int64_t frames[5];
    *out_latents = (kin_host_tensor){.data = NULL};
    kin_status status = kin_pipeline_check(p, g);
    if (status != KIN_OK) return status;
    if (s.guided && !negative && !kin_denoiser_shape_of(model_of(&s)).own_null_caption) {
        status = kin_pipeline_encode_negative(p, &nothing, 1, &empty);
        negative = &empty;
    }
    if (s.guided) s.negative = negative;
    kin_pipeline_sizes(p, g, s.dims, frames);
    s.each = (size_t)(s.dims[1] * s.dims[2] * s.dims[3] * s.dims[4]);
    if (status == KIN_OK) status = check_text(&s, text, false);
    if (status == KIN_OK && s.negative) status = check_text(&s, s.negative, true);
    if (status == KIN_OK)
        status = kin_host_tensor_create(p->context, KIN_F32, 5, s.dims, out_latents);
    if (status == KIN_OK) status = open_schedule(&s);
    if (status == KIN_OK) status = open_stage(&s);
    if (status == KIN_OK) status = run_groups(&s, out_latents->data);
    if (status == KIN_OK && p->keep_denoiser) keep(&s);
    kin_pipeline_free_stage(&s.stage);
    kin_scheduler_free(s.scheduler);
    kin_schedule_free(s.schedule);
    kin_text_free(p->context, &empty);
    if (status != KIN_OK) kin_host_tensor_free(p->context, out_latents);
    return status;
}

kin_status kin_pipeline_sample_memory(kin_pipeline *p, const kin_generation *g, bool negative,
                                      uint64_t *out_bytes, int64_t *out_group) {
    kin_denoiser_shape shape = kin_denoiser_shape_of(&p->system.denoiser);
    int64_t features[3] = {g->count, shape.text_length, shape.caption_channels}, frames[5];
    kin_text text = {.features = {.desc = kin_desc_dense(KIN_F32, 3, features)}};
    sampler s = {.pipeline = p,
                 .generation = g,
                 .text = &text,
                 .guided = g->sampling.cfg_scale != 1,
                 .masked = g->given != NULL};
    kin_graph *graph = NULL;
    kin_status status = kin_pipeline_check(p, g);
    if (status != KIN_OK) return status;
    if (s.guided && (negative || !shape.own_null_caption)) s.negative = &text;
    kin_pipeline_sizes(p, g, s.dims, frames);
    status = open_schedule(&s);
    if (status == KIN_OK) status = plan_groups(&s, &graph);
    if (status == KIN_OK) {
        *out_bytes = kin_plan_summarize(s.stage.plan)->peak;
        *out_group = s.dims[0];
    }
    kin_graph_destroy(graph);
    kin_pipeline_free_stage(&s.stage);
    kin_scheduler_free(s.scheduler);
    kin_schedule_free(s.schedule);
    return status;
}
