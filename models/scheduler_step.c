/* A scheduler's table within graphs, and the loop that drives them. */
#include <math.h>
#include <stdio.h>

#include "models/scheduler_internal.h"
#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/optimizer.h"
#include "ops/random.h"
#include "ops/views.h"
#include "runtime/philox.h"

/* Whether a column holds nothing but `value`, in every call and row. */
static bool always(const kin_scheduler *s, int column, double value) {
    for (int i = 0; i < s->calls * s->rows; i++)
        if (s->coefficients[(size_t)i * (size_t)s->columns + (size_t)column] != value) return false;
    return true;
}

/* A column as [rows, 1, 1, ...] of the given rank. */
static kin_tensor pick(kin_graph *g, const kin_scheduler *s, kin_tensor coefficients, int column,
                       int rank) {
    int64_t dims[KIN_MAX_RANK] = {s->rows};
    for (int i = 1; i < rank; i++) dims[i] = 1;
    return kin_reshape(g, kin_slice(g, coefficients, 1, column, 1), rank, dims);
}

/* x times a column. */
static kin_tensor times(kin_graph *g, const kin_scheduler *s, kin_tensor coefficients, int column,
                        kin_tensor x) {
    if (always(s, column, 1)) return x;
    return kin_mul(g, pick(g, s, coefficients, column, kin_rank(g, x)), x);
}

static kin_tensor plus(kin_graph *g, kin_tensor sum, kin_tensor term) {
    return sum.id ? kin_add(g, sum, term) : term;
}

kin_tensor kin_scheduler_input(kin_graph *graph, const kin_scheduler *scheduler,
                               kin_tensor coefficients, kin_tensor x) {
    return times(graph, scheduler, coefficients, KIN_COEF_INPUT, x);
}

kin_tensor kin_scheduler_timestep(kin_graph *graph, const kin_scheduler *scheduler,
                                  kin_tensor coefficients) {
    return pick(graph, scheduler, coefficients, KIN_COEF_TIMESTEP, 1);
}

static kin_tensor estimate(kin_graph *g, const kin_scheduler *s, kin_tensor coefficients,
                           kin_tensor x, kin_tensor m) {
    kin_tensor sum = KIN_NONE;
    if (!always(s, KIN_COEF_ESTIMATE_X, 0)) sum = times(g, s, coefficients, KIN_COEF_ESTIMATE_X, x);
    if (!always(s, KIN_COEF_ESTIMATE_M, 0))
        sum = plus(g, sum, times(g, s, coefficients, KIN_COEF_ESTIMATE_M, m));
    return isfinite(s->clip) && sum.id ? kin_clamp(g, sum, -s->clip, s->clip) : sum;
}

/* The noise as the output's second half scales it. */
static kin_tensor scaled_noise(kin_graph *g, const kin_scheduler *s, kin_tensor coefficients,
                               kin_tensor noise, kin_tensor v) {
    if (always(s, KIN_COEF_LOG_A, 0) && always(s, KIN_COEF_LOG_B, 0)) return noise;
    if (!v.id)
        return kin_graph_fail(g, KIN_INVALID,
                              "variance_type learned_range needs a model with twice the channels");
    kin_tensor exponent = kin_add(g, times(g, s, coefficients, KIN_COEF_LOG_B, v),
                                  pick(g, s, coefficients, KIN_COEF_LOG_A, kin_rank(g, v)));
    return kin_mul(g, noise, kin_exp(g, exponent));
}

void kin_scheduler_step(kin_graph *graph, const kin_scheduler *scheduler, kin_tensor coefficients,
                        const kin_tensor *slots, kin_tensor model_out, kin_tensor noise,
                        kin_tensor *out_slots) {
    kin_graph *g = graph;
    const kin_scheduler *s = scheduler;
    int64_t channels = kin_dim(g, slots[0], 1), given = kin_dim(g, model_out, 1);
    kin_tensor m = model_out, v = KIN_NONE;
    if (given == 2 * channels) {
        m = kin_slice(g, model_out, 1, 0, channels);
        v = kin_slice(g, model_out, 1, channels, channels);
    } else if (given != channels) {
        kin_graph_fail(g, KIN_INVALID, "the model gives %lld channels for a sample of %lld",
                       (long long)given, (long long)channels);
    }
    kin_tensor sources[KIN_SCHEDULER_MAX_SLOTS + 3];
    for (int i = 0; i < s->slots; i++) sources[i] = slots[i];
    sources[s->slots] = m;
    sources[s->slots + 1] = estimate(g, s, coefficients, slots[0], m);
    sources[s->slots + 2] = noise.id ? scaled_noise(g, s, coefficients, noise, v) : KIN_NONE;
    for (int to = 0; to < s->slots; to++) {
        kin_tensor sum = KIN_NONE;
        for (int i = 0; i < s->slots + 3; i++) {
            int column = kin_scheduler_column(s, to, 0) + i;
            if (!always(s, column, 0))
                sum = plus(g, sum, times(g, s, coefficients, column, sources[i]));
        }
        out_slots[to] = sum.id ? sum : slots[to];
    }
}

/* [null; cond] or [cond; null] to one batch. */
static kin_tensor guide(kin_graph *g, const kin_guidance *guidance, kin_tensor out,
                        int64_t channels) {
    int64_t batch = kin_dim(g, out, 0) / 2, given = kin_dim(g, out, 1);
    int64_t count = guidance->channels ? guidance->channels : channels;
    kin_tensor first = kin_slice(g, out, 0, 0, batch), second = kin_slice(g, out, 0, batch, batch);
    kin_tensor null = guidance->null_first ? first : second;
    kin_tensor cond = guidance->null_first ? second : first;
    kin_tensor a = kin_slice(g, cond, 1, 0, count), b = kin_slice(g, null, 1, 0, count);
    kin_tensor guided = kin_add(g, b, kin_scale(g, kin_sub(g, a, b), guidance->scale, 0));
    if (count == given) return guided;
    kin_tensor rest = kin_slice(g, cond, 1, count, given - count);
    return kin_concat(g, (kin_tensor[]){guided, rest}, 2, 1);
}

void kin_scheduler_graph(kin_graph *graph, const kin_scheduler *scheduler,
                         const kin_scheduler_graph_options *options, kin_denoiser_fn denoiser,
                         void *user) {
    kin_graph *g = graph;
    const kin_scheduler *s = scheduler;
    const kin_guidance *guidance = &options->guidance;
    bool guided = guidance->scale != 1;
    kin_tensor slots[KIN_SCHEDULER_MAX_SLOTS], next[KIN_SCHEDULER_MAX_SLOTS], noise = KIN_NONE;
    for (int i = 0; i < s->slots; i++) {
        char name[32];
        snprintf(name, sizeof name, "sampler.%d", i);
        slots[i] = kin_variable(g, name, KIN_VARIABLE_STATE, KIN_F32, options->rank, options->dims,
                                (kin_init){KIN_INIT_ZERO, 0});
    }
    kin_tensor coefficients =
        kin_input(g, "coefficients", KIN_F32, 2, (int64_t[]){s->rows, s->columns});
    if (kin_scheduler_needs_noise(s) && options->device_noise) {
        kin_tensor seed = kin_input(g, "seed", KIN_I64, 1, (int64_t[]){2});
        noise = kin_random_normal(g, seed, options->stream, options->rank, options->dims);
    } else if (kin_scheduler_needs_noise(s)) {
        noise = kin_input(g, "noise", KIN_F32, options->rank, options->dims);
    }
    int64_t batch = options->dims[0];
    kin_tensor x = kin_scheduler_input(g, s, coefficients, slots[0]);
    kin_tensor t = kin_scheduler_timestep(g, s, coefficients);
    if (s->rows == 1) t = kin_expand(g, t, 1, &batch);
    if (guided) {
        x = kin_concat(g, (kin_tensor[]){x, x}, 2, 0);
        t = kin_concat(g, (kin_tensor[]){t, t}, 2, 0);
    }
    kin_tensor out = denoiser(user, g, x, t);
    if (guided) out = guide(g, guidance, out, options->dims[1]);
    kin_scheduler_step(g, s, coefficients, slots, out, noise, next);
    /* From the oldest on: a slot may take over what a newer one still holds. */
    for (int i = s->slots - 1; i >= 0; i--)
        if (next[i].id != slots[i].id) next[i] = kin_assign(g, slots[i], next[i]);
    kin_output(g, "latents", next[0]);
    kin_output(g, "model_output", out);
}

/* ---- the loop ---------------------------------------------------------------------------------
 */

static kin_status start(kin_store *store, const kin_scheduler *s, float *latents, size_t count) {
    float *zeros = kin_calloc(s->context, count, sizeof *zeros);
    if (!zeros) return KIN_OUT_OF_MEMORY;
    for (size_t i = 0; i < count; i++) latents[i] = (float)(latents[i] * s->init_noise_sigma);
    kin_status status = kin_store_write(store, "sampler.0", KIN_F32, latents);
    for (int i = 1; status == KIN_OK && i < s->slots; i++) {
        char name[32];
        snprintf(name, sizeof name, "sampler.%d", i);
        status = kin_store_write(store, name, KIN_F32, zeros);
    }
    kin_free(s->context, zeros);
    return status;
}

/* Coefficients of the call, and its noise. */
static kin_status write_call(kin_plan *plan, const kin_scheduler *s, const kin_sampler_loop *loop,
                             int call, int draw, float *noise, size_t count, bool *go) {
    kin_status status =
        kin_plan_write(plan, "coefficients", KIN_F64, kin_scheduler_row(s, call, 0));
    bool on_device = kin_plan_input_desc(plan, "seed") != NULL;
    if (status == KIN_OK && on_device)
        status = kin_plan_write(plan, "seed", KIN_I64,
                                (int64_t[]){(int64_t)loop->seed, (int64_t)draw + 1});
    if (status != KIN_OK || !noise || !s->draws[call]) return status;
    if (loop->noise) *go = loop->noise(loop->noise_user, draw, noise, count);
    else kin_philox_fill_normal(loop->seed, loop->stream, (uint64_t)draw + 1, 0, count, noise);
    return *go ? kin_plan_write(plan, "noise", KIN_F32, noise) : KIN_OK;
}

kin_status kin_scheduler_run(kin_plan *plan, kin_store *store, const kin_scheduler *scheduler,
                             const kin_sampler_loop *loop, float *latents, size_t count) {
    const kin_scheduler *s = scheduler;
    float *noise = NULL;
    if (kin_plan_input_desc(plan, "noise")) {
        noise = kin_calloc(s->context, count, sizeof *noise);
        if (!noise) return KIN_OUT_OF_MEMORY;
    }
    kin_status status = start(store, s, latents, count);
    if (status == KIN_OK && noise) status = kin_plan_write(plan, "noise", KIN_F32, noise);
    for (int call = 0, draw = 0; status == KIN_OK && call < s->calls; call++) {
        bool go = true, last = call == s->calls - 1;
        status = write_call(plan, s, loop, call, draw, noise, count, &go);
        if (s->draws[call]) draw++;
        if (go && status == KIN_OK) status = kin_plan_run(plan);
        if (go && status == KIN_OK && (last || loop->progress))
            status = kin_plan_read(plan, "latents", KIN_F32, latents);
        if (go && status == KIN_OK && loop->progress)
            go = loop->progress(loop->progress_user, call, s->calls, latents);
        if (!go && status == KIN_OK)
            status = kin_fail(s->context, KIN_CANCELLED, "sampling was stopped at call %d of %d",
                              call + 1, s->calls);
    }
    kin_free(s->context, noise);
    return status;
}
