/* Helpers of the pipeline's tests: systems with random weights, and the same clips made by hand:
 * the model's graph called step by step, and the samplers' formulas on the host in double. */
#ifndef KIN_TESTS_PIPELINE_HELPER_H
#define KIN_TESTS_PIPELINE_HELPER_H

#include "tests/media_helper.h"

#include <math.h>

#include "models/stdit2.h"
#include "ops/layout.h"
#include "ops/views.h"
#include "runtime/philox.h"
#include "runtime/torch_random.h"
#include "runtime/weights.h"
#include "tools/generate/pipeline.h"
#include "tools/system/init.h"

enum { PIPELINE_STEPS = 5, PIPELINE_LOG = 4096 };

static const kin_precision pipeline_f32 = {KIN_F32, KIN_F32};

typedef struct pipeline_world {
    media *media;
    kin_context *context;
    kin_backends *backends;
    kin_device *device;
    char log[PIPELINE_LOG];
} pipeline_world;

static inline void pipeline_log(void *user, kin_log_level level, const char *text) {
    char *log = user;
    size_t used = strlen(log);
    (void)level;
    snprintf(log + used, PIPELINE_LOG - used, "%s\n", text);
}

/* A group setup: a folder for each system, named by its number. */
static inline int pipeline_setup(void **state) {
    if (media_setup(state) != 0) return -1;
    pipeline_world *w = calloc(1, sizeof *w);
    if (!w) return -1;
    const kin_context_options options = {
        .struct_size = sizeof options, .threads = 1, .log = pipeline_log, .log_user = w->log};
    w->media = *state;
    *state = w;
    if (kin_context_create(&options, &w->context) != KIN_OK ||
        kin_backends_load(w->context, NULL, &w->backends) != KIN_OK ||
        kin_device_open(w->backends, "cpu", &w->device) != KIN_OK)
        return -1;
    for (int kind = 0; kind < KIN_SYSTEM_KINDS; kind++) {
        static const char *const sets[] = {"transformer.use_additional_conditions=true"};
        kin_init_options init = {.system = (kin_system_kind)kind,
                                 .size = KIN_INIT_SIZE_TINY,
                                 .sets = sets,
                                 .set_count = kind == KIN_SYSTEM_PIXART,
                                 .dtype = "f32",
                                 .seed = 3,
                                 .quiet = true};
        char name[16];
        snprintf(name, sizeof name, "%d", kind);
        if (kin_init_folder(w->context, &init, media_path(w->media, name)) != KIN_OK) {
            fprintf(stderr, "%s\n", kin_context_error(w->context));
            return -1;
        }
    }
    return 0;
}

static inline int pipeline_teardown(void **state) {
    pipeline_world *w = *state;
    kin_device_close(w->device);
    kin_backends_free(w->backends);
    kin_context_destroy(w->context);
    *state = w->media;
    free(w);
    return media_teardown(state);
}

static inline void pipeline_must(const pipeline_world *w, kin_status status) {
    if (status != KIN_OK) fail_msg("%s", kin_context_error(w->context));
}

static inline void pipeline_refused(const pipeline_world *w, kin_status want, const char *told,
                                    kin_status status) {
    if (status != want || !strstr(kin_context_error(w->context), told))
        fail_msg("status %d, not %d; '%s' wanted; it told: %s", status, want, told,
                 kin_context_error(w->context));
}

static inline kin_pipeline pipeline_of(const pipeline_world *w, kin_system_kind kind) {
    kin_pipeline p;
    char name[16];
    snprintf(name, sizeof name, "%d", (int)kind);
    pipeline_must(w,
                  kin_pipeline_open(w->context, w->device, media_path(w->media, name), NULL, &p));
    return p;
}

/* Small clips: the model's frames and 32 x 48 pixels, a few steps of what the system does. */
static inline kin_generation pipeline_small(const kin_pipeline *p, int64_t count,
                                            const uint64_t *seeds) {
    static const int64_t frames[KIN_SYSTEM_KINDS] = {4, 5, 4, 1, 9};
    kin_generation g = {.count = count,
                        .seeds = seeds,
                        .frames = frames[p->system.kind],
                        .height = 32,
                        .width = 48,
                        .sampling = kin_pipeline_sampling(p),
                        .quiet = true};
    g.sampling.steps = PIPELINE_STEPS;
    return g;
}

/* The largest difference, relative to the largest value of `want`. */
static inline double pipeline_difference(const float *got, const float *want, int64_t count) {
    double largest = 0, off = 0;
    for (int64_t i = 0; i < count; i++) {
        if (!isfinite(got[i]) || !isfinite(want[i])) return HUGE_VAL;
        largest = fmax(largest, fabs((double)want[i]));
        off = fmax(off, fabs((double)got[i] - (double)want[i]));
    }
    return off / fmax(largest, 1e-30);
}

/* ---- the model by hand ---- */

/* A call for one clip twice: with its captions, then without. */
typedef struct hand {
    const pipeline_world *world;
    const kin_pipeline *pipeline;
    const kin_generation *generation;
    const float *frame_mask; /* [T], of the next call; NULL: the model is not told */
    bool masked;
    int64_t dims[5]; /* of the latents of one clip */
    int64_t each, frame;
    kin_store *store;
    kin_plan *plan;
    kin_torch_cpu cpu;
    float *scratch;
} hand;

static inline kin_tensor hand_pixart(kin_graph *g, const hand *h, kin_tensor x, kin_tensor t,
                                     kin_tensor text, kin_tensor lengths) {
    const kin_pixart_config *config = &h->pipeline->system.denoiser.pixart;
    int64_t plane[] = {2, h->dims[1], h->dims[3], h->dims[4]};
    float height = (float)h->generation->height, width = (float)h->generation->width;
    float sizes[] = {height, width, height, width}, ratios[] = {height / width, height / width};
    kin_pixart_inputs in = {.x = kin_reshape(g, x, 4, plane),
                            .timestep = t,
                            .text = text,
                            .text_lengths = lengths,
                            .resolution = kin_constant(g, KIN_F32, 2, (int64_t[]){2, 2}, sizes),
                            .aspect_ratio = kin_constant(g, KIN_F32, 2, (int64_t[]){2, 1}, ratios)};
    return kin_pixart(g, config, &pipeline_f32, &in);
}

static inline kin_tensor hand_stdit2(kin_graph *g, const hand *h, const kin_stdit_inputs *common) {
    const kin_generation *video = h->generation;
    float numbers[5] = {(float)video->height, (float)video->width,
                        (float)video->height / (float)video->width, (float)video->frames,
                        (float)video->fps};
    kin_tensor n[5];
    for (int i = 0; i < 5; i++)
        n[i] = kin_constant(g, KIN_F32, 1, (int64_t[]){2}, (float[]){numbers[i], numbers[i]});
    kin_stdit2_inputs in = {.x = common->x,
                            .timestep = common->timestep,
                            .y = common->y,
                            .y_lengths = common->y_lengths,
                            .height = n[0],
                            .width = n[1],
                            .ar = n[2],
                            .num_frames = n[3],
                            .fps = n[4],
                            .pixels = {numbers[0], numbers[1]}};
    if (h->masked)
        in.frame_mask = kin_input(g, "frame_mask", KIN_F32, 2, (int64_t[]){1, h->dims[2]});
    return kin_stdit2(g, &h->pipeline->system.denoiser.stdit2, &pipeline_f32, &in);
}

static inline kin_tensor hand_plan(kin_graph *g, const hand *h, kin_tensor x, kin_tensor t,
                                   kin_tensor text) {
    int64_t l = kin_dim(g, text, 1), c = kin_dim(g, text, 2);
    kin_opensora_plan_inputs in = {.x = x,
                                   .timestep = t,
                                   .text = kin_reshape(g, text, 4, (int64_t[]){2, 1, l, c}),
                                   .text_mask =
                                       kin_input(g, "text_mask", KIN_F32, 3, (int64_t[]){2, 1, l})};
    return kin_opensora_plan(g, &h->pipeline->system.denoiser.opensora_plan, &pipeline_f32, &in);
}

static inline kin_tensor hand_append(kin_graph *g, const hand *h, int64_t length) {
    const kin_denoiser_config *model = &h->pipeline->system.denoiser;
    int64_t channels = kin_denoiser_shape_of(model).caption_channels, one = 1, two = 2;
    int64_t both[5] = {2, h->dims[1], h->dims[2], h->dims[3], h->dims[4]};
    kin_tensor x = kin_input(g, "x", KIN_F32, 5, both);
    kin_tensor t = kin_input(g, "t", KIN_F32, 1, &two);
    kin_tensor text = kin_input(g, "text", KIN_F32, 3, (int64_t[]){1, length, channels});
    kin_tensor lengths = kin_input(g, "lengths", KIN_I32, 1, &one);
    if (model->kind == KIN_DENOISER_STDIT || model->kind == KIN_DENOISER_STDIT2) {
        const kin_stdit_config *config =
            model->kind == KIN_DENOISER_STDIT ? &model->stdit : &model->stdit2.common;
        kin_stdit_inputs in = {.x = x, .timestep = t};
        kin_stdit_guided_text(g, config, &pipeline_f32, text, lengths, &in.y, &in.y_lengths);
        return model->kind == KIN_DENOISER_STDIT ? kin_stdit(g, config, &pipeline_f32, &in)
                                                 : hand_stdit2(g, h, &in);
    }
    kin_tensor null = kin_input(g, "null", KIN_F32, 3, (int64_t[]){1, length, channels});
    kin_tensor null_lengths = kin_input(g, "null_lengths", KIN_I32, 1, &one);
    text = kin_concat(g, (kin_tensor[]){text, null}, 2, 0);
    lengths = kin_concat(g, (kin_tensor[]){lengths, null_lengths}, 2, 0);
    if (model->kind == KIN_DENOISER_OPENSORA_PLAN) return hand_plan(g, h, x, t, text);
    if (model->kind == KIN_DENOISER_PIXART) return hand_pixart(g, h, x, t, text, lengths);
    kin_latte_inputs in = {.x = x, .timestep = t, .text = text, .text_lengths = lengths};
    return kin_latte(g, &model->pixart, &pipeline_f32, &in);
}

/* text and null: of one clip each; null may be NULL for models with a null caption. */
static inline hand hand_open(const pipeline_world *w, const kin_pipeline *p,
                             const kin_generation *g, const kin_text *text, const kin_text *null) {
    hand h = {.world = w, .pipeline = p, .generation = g, .masked = g->ratios != NULL};
    int64_t frames[5], length = text->features.desc.dims[1];
    kin_graph *graph;
    kin_pipeline_sizes(p, g, h.dims, frames);
    h.dims[0] = 1;
    h.each = h.dims[1] * h.dims[2] * h.dims[3] * h.dims[4];
    h.frame = h.dims[3] * h.dims[4];
    h.scratch = malloc((size_t)h.each * 8 * sizeof *h.scratch);
    assert_non_null(h.scratch);
    pipeline_must(w, kin_graph_create(w->context, &graph));
    kin_output(graph, "out", hand_append(graph, &h, length));
    pipeline_must(w, kin_plan_build(graph, w->device, NULL, &h.plan));
    pipeline_must(w, kin_store_create(w->device, &h.store));
    pipeline_must(w, kin_store_add_graph(h.store, graph, 0));
    kin_weights_options load = {.rename = kin_denoiser_rename, .config = &p->system.denoiser};
    pipeline_must(w,
                  kin_weights_load(h.store, p->system.parts[KIN_PART_DENOISER].path, &load, NULL));
    pipeline_must(w, kin_plan_prepare(h.plan, h.store, NULL));
    kin_graph_destroy(graph);
    const int32_t *size = text->lengths.data;
    pipeline_must(w, kin_plan_write(h.plan, "text", KIN_F32, text->features.data));
    if (p->system.kind != KIN_SYSTEM_OPEN_SORA_PLAN)
        pipeline_must(w, kin_plan_write(h.plan, "lengths", KIN_I32, size));
    if (!kin_plan_input_desc(h.plan, "null")) return h;
    pipeline_must(w, kin_plan_write(h.plan, "null", KIN_F32, null->features.data));
    const int32_t *null_size = null->lengths.data;
    if (p->system.kind == KIN_SYSTEM_LATTE) null_size = size; /* cut to the caption's */
    if (p->system.kind != KIN_SYSTEM_OPEN_SORA_PLAN) {
        pipeline_must(w, kin_plan_write(h.plan, "null_lengths", KIN_I32, null_size));
        return h;
    }
    float *mask = calloc((size_t)(2 * length), sizeof *mask);
    for (int64_t i = 0; i < length; i++) {
        mask[i] = i < *size;
        mask[length + i] = i < *null_size;
    }
    pipeline_must(w, kin_plan_write(h.plan, "text_mask", KIN_F32, mask));
    free(mask);
    return h;
}

static inline void hand_close(hand *h) {
    kin_plan_free(h->plan);
    kin_store_free(h->store);
    free(h->scratch);
}

/* The model's output for x at a timestep, guided: [C or 2C, ...] in `out`. */
static inline void hand_call(hand *h, const double *x, double timestep, double *out) {
    const kin_sampling *s = &h->generation->sampling;
    int64_t outs = kin_denoiser_shape_of(&h->pipeline->system.denoiser).out_channels;
    int64_t total = outs * h->dims[2] * h->frame;
    int64_t guided = (s->cfg_channels ? s->cfg_channels : h->dims[1]) * h->dims[2] * h->frame;
    float t[2] = {(float)timestep, (float)timestep}, *values = h->scratch;
    for (int64_t i = 0; i < 2 * h->each; i++) values[i] = (float)x[i % h->each];
    pipeline_must(h->world, kin_plan_write(h->plan, "x", KIN_F32, values));
    pipeline_must(h->world, kin_plan_write(h->plan, "t", KIN_F32, t));
    if (h->masked)
        pipeline_must(h->world, kin_plan_write(h->plan, "frame_mask", KIN_F32, h->frame_mask));
    pipeline_must(h->world, kin_plan_run(h->plan));
    pipeline_must(h->world, kin_plan_read(h->plan, "out", KIN_F32, values));
    for (int64_t i = 0; i < total; i++) {
        double with = values[i], without = values[total + i];
        out[i] = i < guided ? without + s->cfg_scale * (with - without) : with;
    }
}

/* Noise of the start (draw -1) and of the steps. */
static inline void hand_noise(hand *h, int draw, double *out) {
    bool open_sora = h->pipeline->system.defaults.iddpm;
    size_t each = (size_t)h->each, drawn = draw >= 0 && open_sora ? 2 * each : each;
    uint64_t seed = h->generation->seeds[0];
    if (h->generation->sampling.noise == KIN_NOISE_TORCH_CPU) {
        if (draw < 0) kin_torch_cpu_seed(&h->cpu, seed);
        kin_torch_cpu_normal(&h->cpu, KIN_F32, drawn, h->scratch);
    } else if (draw < 0) {
        kin_philox_fill_normal(seed, 100, 0, 0, each, h->scratch);
    } else {
        kin_philox_fill_normal(seed, 101, (uint64_t)draw, 0, each, h->scratch);
    }
    for (size_t i = 0; i < each; i++) out[i] = h->scratch[i];
}

/* ---- samplers by hand: x [C, T, Y, X] starts as noise ---- */

/* One step of IDDPM with the learned variance. */
static inline void hand_iddpm_step(const hand *h, const kin_schedule *s, int i, const double *x,
                                   const double *out, const double *noise, double *next) {
    for (int64_t k = 0; k < h->each; k++) {
        double x0 =
            s->sqrt_recip_alphas_cumprod[i] * x[k] - s->sqrt_recipm1_alphas_cumprod[i] * out[k];
        double f = (out[h->each + k] + 1) / 2;
        double log_variance = f * log(s->betas[i]) + (1 - f) * s->posterior_log_variance_clipped[i];
        next[k] = s->posterior_mean_coef1[i] * x0 + s->posterior_mean_coef2[i] * x[k];
        if (i > 0) next[k] += exp(0.5 * log_variance) * noise[k];
    }
}

static inline void hand_iddpm(hand *h, double *x) {
    kin_schedule *s;
    int64_t n = h->each, frames = h->dims[2];
    double *out = malloc((size_t)n * 5 * sizeof *out), *noise = out + 2 * n, *again = noise + n;
    float mask[64];
    char steps[16];
    snprintf(steps, sizeof steps, "%d", PIPELINE_STEPS);
    assert_non_null(out);
    pipeline_must(h->world, kin_schedule_create(h->world->context, 1000, steps, &s));
    if (h->pipeline->system.kind == KIN_SYSTEM_OPEN_SORA_1_1) kin_schedule_use_single(s);
    const float *ratios = h->generation->ratios;
    for (int64_t k = 0; ratios && k < n; k++)
        if (ratios[k / h->frame % frames] < 1) x[k] = (double)h->generation->given[k];
    h->frame_mask = mask;
    for (int i = PIPELINE_STEPS - 1, draw = 0; i >= 0; i--) {
        if (ratios) hand_noise(h, draw++, again);
        hand_noise(h, draw++, noise);
        for (int64_t k = 0; ratios && k < n; k++) {
            int at = (int)(ratios[k / h->frame % frames] * (float)PIPELINE_STEPS);
            mask[k / h->frame % frames] = at > i;
            if (at == i)
                x[k] = s->sqrt_alphas_cumprod[i] * x[k] +
                       s->sqrt_one_minus_alphas_cumprod[i] * again[k];
        }
        hand_call(h, x, s->timesteps[i], out);
        hand_iddpm_step(h, s, i, x, out, noise, again);
        for (int64_t k = 0; k < n; k++)
            if (!ratios || (int)(ratios[k / h->frame % frames] * (float)PIPELINE_STEPS) >= i)
                x[k] = again[k];
    }
    kin_schedule_free(s);
    free(out);
}

/* DDIM, Euler ancestral and DPM-Solver++ 2M on diffusers' tables. */
static inline void hand_scheduler(hand *h, double *x) {
    const kin_scheduler_config *config = &h->generation->sampling.scheduler;
    kin_scheduler_options options = {.steps = PIPELINE_STEPS};
    kin_scheduler *s;
    int64_t n = h->each;
    double *out = malloc((size_t)n * 5 * sizeof *out), *noise = out + 2 * n, *before = noise + n;
    assert_non_null(out);
    pipeline_must(h->world, kin_scheduler_create(h->world->context, config, &options, &s));
    bool euler = config->kind == KIN_SCHEDULER_EULER_ANCESTRAL;
    for (int64_t k = 0; euler && k < n; k++) x[k] *= s->sigmas[0];
    for (int i = 0; i < PIPELINE_STEPS; i++) {
        int t = (int)s->timesteps[i];
        if (config->kind == KIN_SCHEDULER_DDIM) {
            int to = t - 1000 / PIPELINE_STEPS;
            double a = s->alphas_cumprod[t], p = to < 0 ? 1 : s->alphas_cumprod[to];
            hand_call(h, x, t, out);
            for (int64_t k = 0; k < n; k++)
                x[k] = sqrt(p) * (x[k] - sqrt(1 - a) * out[k]) / sqrt(a) + sqrt(1 - p) * out[k];
            continue;
        }
        double now = s->sigmas[i], next = s->sigmas[i + 1];
        if (euler) {
            double up = sqrt(next * next * (now * now - next * next) / (now * now));
            double down = sqrt(next * next - up * up);
            for (int64_t k = 0; k < n; k++) before[k] = x[k] / sqrt(now * now + 1);
            hand_call(h, before, s->timesteps[i], out);
            hand_noise(h, i, noise);
            for (int64_t k = 0; k < n; k++) x[k] += out[k] * (down - now) + up * noise[k];
            continue;
        }
        /* x = a x0 + b eps; lambda = -ln sigma */
        double a = 1 / sqrt(1 + now * now), b = now * a;
        double a2 = 1 / sqrt(1 + next * next), b2 = next * a2;
        double step = next > 0 ? log(now) - log(next) : HUGE_VAL;
        bool first = i == 0 || i == PIPELINE_STEPS - 1;
        hand_call(h, x, t, out);
        for (int64_t k = 0; k < n; k++) {
            double x0 = (x[k] - b * out[k]) / a, d = x0;
            if (!first) d += (x0 - before[k]) * step / (2 * (log(s->sigmas[i - 1]) - log(now)));
            x[k] = b2 / b * x[k] - a2 * (exp(-step) - 1) * d;
            before[k] = x0;
        }
    }
    kin_scheduler_free(s);
    free(out);
}

/* The latents of one clip; malloc's memory. */
static inline float *hand_sample(const pipeline_world *w, const kin_pipeline *p,
                                 const kin_generation *g, const kin_text *text,
                                 const kin_text *null) {
    hand h = hand_open(w, p, g, text, null);
    double *x = malloc((size_t)h.each * sizeof *x);
    float *latents = malloc((size_t)h.each * sizeof *latents);
    assert_true(x && latents);
    hand_noise(&h, -1, x);
    if (g->sampling.iddpm) hand_iddpm(&h, x);
    else hand_scheduler(&h, x);
    for (int64_t k = 0; k < h.each; k++) latents[k] = (float)x[k];
    hand_close(&h);
    free(x);
    return latents;
}

#endif
