/* The training loss of Open-Sora-Plan 1.2. */
#include <math.h>

#include "models/opensora_plan.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/reduce.h"
#include "ops/views.h"

/* What a table holds of step i. */
typedef double (*table_fn)(const kin_schedule *schedule, int step,
                           const kin_plan_loss_options *options);

static double signal(const kin_schedule *s, int i, const kin_plan_loss_options *options) {
    (void)options;
    return s->sqrt_alphas_cumprod[i];
}

static double spread(const kin_schedule *s, int i, const kin_plan_loss_options *options) {
    (void)options;
    return s->sqrt_one_minus_alphas_cumprod[i];
}

static double weight(const kin_schedule *s, int i, const kin_plan_loss_options *options) {
    double snr = s->alphas_cumprod[i] / (1 - s->alphas_cumprod[i]);
    double least = fmin(snr, options->snr_gamma);
    if (options->target == KIN_PLAN_TARGET_EPSILON) return least / snr;
    return options->target == KIN_PLAN_TARGET_V ? least / (snr + 1) : least;
}

/* Entries of a table for t [B], as [B, 1, 1, 1, 1]. */
static kin_tensor pick(kin_graph *g, const kin_schedule *s, const kin_plan_loss_options *options,
                       table_fn entry, kin_tensor t) {
    int64_t steps = s->steps;
    float *values = kin_alloc(s->context, (size_t)steps * sizeof *values);
    if (!values) return kin_graph_fail(g, KIN_OUT_OF_MEMORY, "no host memory for a table");
    for (int i = 0; i < s->steps; i++) values[i] = (float)entry(s, i, options);
    kin_tensor table = kin_constant(g, KIN_F32, 1, &steps, values);
    kin_free(s->context, values);
    return kin_reshape(g, kin_gather_rows(g, table, t), 5,
                       (int64_t[]){kin_dim(g, t, 0), 1, 1, 1, 1});
}

kin_tensor kin_opensora_plan_noise(kin_graph *graph, const kin_plan_loss_options *options,
                                   kin_tensor noise, kin_tensor offset) {
    if (!offset.id || options->noise_offset == 0) return noise;
    return kin_add(graph, noise, kin_scale(graph, offset, options->noise_offset, 0));
}

kin_tensor kin_opensora_plan_velocity(kin_graph *graph, const kin_schedule *schedule,
                                      kin_tensor latents, kin_tensor noise, kin_tensor t) {
    kin_graph *g = graph;
    kin_tensor a = pick(g, schedule, NULL, signal, t), b = pick(g, schedule, NULL, spread, t);
    return kin_sub(g, kin_mul(g, a, noise), kin_mul(g, b, latents));
}

kin_tensor kin_opensora_plan_loss(kin_graph *graph, const kin_schedule *schedule,
                                  const kin_plan_loss_options *options, kin_tensor latents,
                                  kin_tensor noise, kin_tensor t, kin_tensor model_out,
                                  kin_tensor mask) {
    kin_graph *g = graph;
    kin_tensor target = noise, prediction = model_out;
    if (options->target == KIN_PLAN_TARGET_V)
        target = kin_opensora_plan_velocity(g, schedule, latents, noise, t);
    if (options->target == KIN_PLAN_TARGET_SAMPLE) {
        target = latents;
        prediction = kin_sub(g, model_out, noise);
    }
    kin_tensor error = kin_square(g, kin_sub(g, prediction, target));
    if (options->snr_gamma > 0) error = kin_mul(g, error, pick(g, schedule, options, weight, t));
    if (!mask.id) return kin_mean_all(g, error);
    int64_t channels = kin_dim(g, error, 1);
    int64_t dims[] = {kin_dim(g, mask, 0), 1, kin_dim(g, mask, 1), kin_dim(g, mask, 2),
                      kin_dim(g, mask, 3)};
    kin_tensor kept = kin_mul(g, error, kin_reshape(g, mask, 5, dims));
    kin_tensor count = kin_scale(g, kin_sum_all(g, mask), (double)channels, 0);
    return kin_div(g, kin_sum_all(g, kept), count);
}
