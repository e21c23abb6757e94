#include "models/diffusion.h"

#include <math.h>

#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/layout.h"
#include "ops/reduce.h"
#include "ops/split.h"
#include "ops/views.h"
#include "runtime/philox.h"

static const double half_bin = 1.0 / 255.0, floor_probability = 1e-12;

/* values[t] as [B, 1, 1, 1, 1] f32; t i32 [B]. */
static kin_tensor pick(kin_graph *g, const kin_schedule *s, const double *values, kin_tensor t) {
    kin_context *context = kin_graph_context(g);
    float *table = kin_alloc(context, (size_t)s->steps * sizeof *table);
    if (!table) return kin_graph_fail(g, KIN_OUT_OF_MEMORY, "no host memory for a schedule");
    for (int i = 0; i < s->steps; i++) table[i] = (float)values[i];
    int64_t dims[] = {s->steps};
    kin_tensor row = kin_gather_rows(g, kin_constant(g, KIN_F32, 1, dims, table), t);
    kin_free(context, table);
    return kin_reshape(g, row, 5, (int64_t[]){kin_dim(g, t, 0), 1, 1, 1, 1});
}

/* The same for a function of the step. */
static kin_tensor pick_computed(kin_graph *g, const kin_schedule *s, kin_tensor t,
                                double (*value)(const kin_schedule *s, int i, double parameter),
                                double parameter) {
    kin_context *context = kin_graph_context(g);
    double *values = kin_alloc(context, (size_t)s->steps * sizeof *values);
    if (!values) return kin_graph_fail(g, KIN_OUT_OF_MEMORY, "no host memory for a schedule");
    for (int i = 0; i < s->steps; i++) values[i] = value(s, i, parameter);
    kin_tensor row = pick(g, s, values, t);
    kin_free(context, values);
    return row;
}

/* A mask [B, T] as [B, 1, T, 1, 1]. */
static kin_tensor frames_of(kin_graph *g, kin_tensor mask) {
    int64_t dims[] = {kin_dim(g, mask, 0), 1, kin_dim(g, mask, 1), 1, 1};
    return kin_reshape(g, mask, 5, dims);
}

static double timestep_of(const kin_schedule *s, int i, double unused) {
    (void)unused;
    return s->timesteps[i];
}

static double log_beta(const kin_schedule *s, int i, double unused) {
    (void)unused;
    return log(s->betas[i]);
}

static double is_last(const kin_schedule *s, int i, double unused) {
    (void)s;
    (void)unused;
    return i == 0 ? 1 : 0;
}

static double is_not_last(const kin_schedule *s, int i, double unused) {
    return 1 - is_last(s, i, unused);
}

/* The posterior mean is c1 x0 + c2 x_t, and the predicted one the same with the predicted x0, which
 * is off by sqrt(1/A - 1) times the error of the noise. */
static double mean_of_noise(const kin_schedule *s, int i, double unused) {
    (void)unused;
    return s->posterior_mean_coef1[i] * s->sqrt_recipm1_alphas_cumprod[i];
}

/* Predicted mean = this * x_t - mean_of_noise * noise. */
static double mean_of_x(const kin_schedule *s, int i, double unused) {
    (void)unused;
    return s->posterior_mean_coef1[i] * s->sqrt_recip_alphas_cumprod[i] +
           s->posterior_mean_coef2[i];
}

/* What rounded tables leave of x0 and of the noise in the true minus the predicted mean, whose main
 * part is mean_of_noise times the error of the noise. 0, but for rounding, with tables in double.
 */
static double mean_left_of_x0(const kin_schedule *s, int i, double unused) {
    double x0 = i == 0 ? 1 : s->posterior_mean_coef1[i];
    double xt = i == 0 ? 0 : s->posterior_mean_coef2[i];
    return x0 - (mean_of_x(s, i, unused) - xt) * s->sqrt_alphas_cumprod[i];
}

static double mean_left_of_noise(const kin_schedule *s, int i, double unused) {
    double xt = i == 0 ? 0 : s->posterior_mean_coef2[i];
    return mean_of_noise(s, i, unused) -
           (mean_of_x(s, i, unused) - xt) * s->sqrt_one_minus_alphas_cumprod[i];
}

/* Noise that DDIM adds: eta sqrt((1 - A_prev) / (1 - A) (1 - A / A_prev)), 0 at the last step. */
static double ddim_sigma(const kin_schedule *s, int i, double eta) {
    double a = s->alphas_cumprod[i], before = s->alphas_cumprod_prev[i];
    return i == 0 ? 0 : eta * sqrt((1 - before) / (1 - a) * (1 - a / before));
}

/* DDIM's mean is sqrt(A_prev) x0 + sqrt(1 - A_prev - sigma^2) noise; with the predicted x0 that is
 * ddim_of_x * x_t + ddim_of_noise * noise. */
static double ddim_of_x(const kin_schedule *s, int i, double unused) {
    (void)unused;
    return sqrt(s->alphas_cumprod_prev[i]) * s->sqrt_recip_alphas_cumprod[i];
}

static double ddim_of_noise(const kin_schedule *s, int i, double eta) {
    double before = s->alphas_cumprod_prev[i], sigma = eta == 0 ? 0 : ddim_sigma(s, i, eta);
    double rest = 1 - before - sigma * sigma;
    return sqrt(rest > 0 ? rest : 0) - sqrt(before) * s->sqrt_recipm1_alphas_cumprod[i];
}

kin_tensor kin_diffusion_noise(kin_graph *graph, const kin_schedule *schedule, kin_tensor x0,
                               kin_tensor t, kin_tensor noise) {
    kin_tensor signal = pick(graph, schedule, schedule->sqrt_alphas_cumprod, t);
    kin_tensor level = pick(graph, schedule, schedule->sqrt_one_minus_alphas_cumprod, t);
    return kin_add(graph, kin_mul(graph, signal, x0), kin_mul(graph, level, noise));
}

kin_tensor kin_diffusion_noise_masked(kin_graph *graph, const kin_schedule *schedule, kin_tensor x0,
                                      kin_tensor t, kin_tensor noise, kin_tensor mask) {
    kin_graph *g = graph;
    int64_t batch = kin_dim(g, x0, 0);
    kin_tensor first = kin_fill(g, KIN_I32, 1, &batch, 0);
    return kin_where(g, frames_of(g, mask), kin_diffusion_noise(g, schedule, x0, t, noise),
                     kin_diffusion_noise(g, schedule, x0, first, noise));
}

kin_tensor kin_diffusion_timesteps(kin_graph *graph, const kin_schedule *schedule, kin_tensor t) {
    kin_tensor row = pick_computed(graph, schedule, t, timestep_of, 0);
    return kin_reshape(graph, row, 1, (int64_t[]){kin_dim(graph, t, 0)});
}

/* f log(beta) + (1 - f) log(posterior variance), f = (v + 1) / 2. */
static kin_tensor learned_log_variance(kin_graph *g, const kin_schedule *s, kin_tensor v,
                                       kin_tensor t) {
    kin_tensor high = pick_computed(g, s, t, log_beta, 0);
    kin_tensor low = pick(g, s, s->posterior_log_variance_clipped, t);
    kin_tensor f = kin_scale(g, v, 0.5, 0.5);
    return kin_add(g, kin_mul(g, f, kin_sub(g, high, low)), low);
}

/* The normal distribution function, by the approximation that the original uses. */
static kin_tensor normal_cdf(kin_graph *g, kin_tensor x) {
    double a = sqrt(2 / 3.14159265358979323846);
    kin_tensor factor = kin_scale(g, kin_square(g, x), 0.044715 * a, a);
    return kin_scale(g, kin_tanh(g, kin_mul(g, x, factor)), 0.5, 0.5);
}

static kin_tensor safe_log(kin_graph *g, kin_tensor x) {
    return kin_ln(g, kin_clamp(g, x, floor_probability, INFINITY));
}

/* -log of the probability of x0's bin; `centred` is x0 minus the mean. */
static kin_tensor discretised_nll(kin_graph *g, kin_tensor x0, kin_tensor centred,
                                  kin_tensor log_variance) {
    kin_tensor inverse = kin_exp(g, kin_scale(g, log_variance, -0.5, 0));
    kin_tensor above = normal_cdf(g, kin_mul(g, inverse, kin_scale(g, centred, 1, half_bin)));
    kin_tensor below = normal_cdf(g, kin_mul(g, inverse, kin_scale(g, centred, 1, -half_bin)));
    kin_tensor limit = kin_fill(g, KIN_F32, 0, NULL, 0.999);
    kin_tensor low = kin_less(g, x0, kin_neg(g, limit)), high = kin_greater(g, x0, limit);
    kin_tensor inside = safe_log(g, kin_sub(g, above, below));
    kin_tensor tail = safe_log(g, kin_scale(g, below, -1, 1));
    kin_tensor log_p = kin_where(g, low, safe_log(g, above), kin_where(g, high, tail, inside));
    return kin_neg(g, log_p);
}

/* KL of two Gaussians with log-variances p (true) and q (model) and means that differ by `error`.
 */
static kin_tensor normal_kl(kin_graph *g, kin_tensor p, kin_tensor q, kin_tensor error) {
    kin_tensor terms = kin_sub(g, q, p);
    terms = kin_add(g, terms, kin_exp(g, kin_sub(g, p, q)));
    kin_tensor far = kin_mul(g, kin_square(g, error), kin_exp(g, kin_neg(g, q)));
    return kin_scale(g, kin_add(g, terms, far), 0.5, -0.5);
}

/* True minus predicted mean of the posterior; at step 0 the true mean is x0 itself. */
static kin_tensor mean_error(kin_graph *g, const kin_schedule *s, kin_tensor x0, kin_tensor noise,
                             kin_tensor t, kin_tensor noise_error) {
    kin_tensor off = kin_mul(g, noise_error, pick_computed(g, s, t, mean_of_noise, 0));
    if (!s->single) return off;
    off = kin_add(g, off, kin_mul(g, x0, pick_computed(g, s, t, mean_left_of_x0, 0)));
    return kin_add(g, off, kin_mul(g, noise, pick_computed(g, s, t, mean_left_of_noise, 0)));
}

/* x [B, C, T, Y, X] -> [B]: the mean of each sample, over the frames of mask [B, T] if there is
 * one.
 */
static kin_tensor sample_mean(kin_graph *g, kin_tensor x, kin_tensor mask) {
    const uint32_t all_but_batch = 0x1E;
    if (!mask.id) return kin_mean(g, x, all_but_batch, false);
    double frame = (double)(kin_dim(g, x, 1) * kin_dim(g, x, 3) * kin_dim(g, x, 4));
    kin_tensor count = kin_scale(g, kin_sum(g, mask, 0x2, false), frame, 0);
    return kin_div(g, kin_sum(g, kin_mul(g, x, frames_of(g, mask)), all_but_batch, false), count);
}

void kin_diffusion_loss_masked(kin_graph *graph, const kin_schedule *schedule, kin_tensor x0,
                               kin_tensor noise, kin_tensor t, kin_tensor mask,
                               kin_tensor model_out, kin_diffusion_losses *out_losses) {
    kin_graph *g = graph;
    *out_losses = (kin_diffusion_losses){.loss = KIN_NONE};
    int64_t channels = kin_dim(g, x0, 1), found = kin_dim(g, model_out, 1);
    if (kin_rank(g, x0) != 5 || (found != channels && found != 2 * channels)) {
        kin_graph_fail(g, KIN_INVALID,
                       "the diffusion loss needs latents of rank 5, and a model output of as many "
                       "channels or twice as many (%lld, not %lld)",
                       (long long)channels, (long long)found);
        return;
    }
    kin_tensor part[2] = {model_out, KIN_NONE};
    if (found == 2 * channels) kin_split(g, model_out, 1, 2, part);
    kin_diffusion_losses r = {.loss = KIN_NONE};
    kin_tensor error = kin_sub(g, part[0], noise);
    r.per_sample = r.mse = sample_mean(g, kin_square(g, error), mask);
    if (part[1].id) {
        kin_tensor log_variance = learned_log_variance(g, schedule, part[1], t);
        kin_tensor posterior = pick(g, schedule, schedule->posterior_log_variance_clipped, t);
        kin_tensor off = mean_error(g, schedule, x0, noise, t, kin_detach(g, error));
        kin_tensor kl = normal_kl(g, posterior, log_variance, off);
        kin_tensor nll = discretised_nll(g, x0, off, log_variance);
        kin_tensor bits = kin_where(g, pick_computed(g, schedule, t, is_last, 0), nll, kl);
        r.vb = kin_scale(g, sample_mean(g, bits, mask), 1 / log(2.0), 0);
        r.per_sample = kin_add(g, r.mse, r.vb);
    }
    r.loss = kin_mean_all(g, r.per_sample);
    *out_losses = r;
}

void kin_diffusion_loss(kin_graph *graph, const kin_schedule *schedule, kin_tensor x0,
                        kin_tensor noise, kin_tensor t, kin_tensor model_out,
                        kin_diffusion_losses *out_losses) {
    kin_diffusion_loss_masked(graph, schedule, x0, noise, t, KIN_NONE, model_out, out_losses);
}

bool kin_sampler_needs_noise(const kin_sampler_options *options) {
    return options->method == KIN_SAMPLER_IDDPM || options->eta != 0;
}

kin_tensor kin_sampler_guide(kin_graph *graph, const kin_sampler_options *options, kin_tensor out,
                             int64_t channels) {
    kin_graph *g = graph;
    int64_t found = kin_dim(g, out, 1);
    int64_t guided = options->cfg_channels > 0 ? options->cfg_channels : channels;
    if (guided > channels || found < channels)
        return kin_graph_fail(g, KIN_INVALID, "guidance on %lld of %lld channels",
                              (long long)guided, (long long)channels);
    kin_tensor half[2]; /* with, without captions */
    kin_split(g, out, 0, 2, half);
    kin_tensor cond = kin_slice(g, half[0], 1, 0, guided);
    kin_tensor uncond = kin_slice(g, half[1], 1, 0, guided);
    kin_tensor step = kin_scale(g, kin_sub(g, cond, uncond), options->cfg_scale, 0);
    kin_tensor parts[2] = {kin_add(g, uncond, step), KIN_NONE};
    if (guided == found) return parts[0];
    parts[1] = kin_slice(g, half[0], 1, guided, found - guided);
    return kin_concat(g, parts, 2, 1);
}

kin_tensor kin_sampler_step(kin_graph *graph, const kin_schedule *schedule,
                            const kin_sampler_options *options, kin_tensor x, kin_tensor model_out,
                            kin_tensor step, kin_tensor noise) {
    kin_graph *g = graph;
    const kin_schedule *s = schedule;
    kin_tensor part[2] = {model_out, KIN_NONE};
    if (kin_dim(g, model_out, 1) == 2 * kin_dim(g, x, 1)) kin_split(g, model_out, 1, 2, part);
    double eta = options->eta;
    bool ancestral = options->method == KIN_SAMPLER_IDDPM;
    kin_tensor of_x = pick_computed(g, s, step, ancestral ? mean_of_x : ddim_of_x, 0);
    kin_tensor of_noise = ancestral ? kin_neg(g, pick_computed(g, s, step, mean_of_noise, 0))
                                    : pick_computed(g, s, step, ddim_of_noise, eta);
    kin_tensor next = kin_add(g, kin_mul(g, of_x, x), kin_mul(g, of_noise, part[0]));
    if (!kin_sampler_needs_noise(options)) return next;
    kin_tensor spread;
    if (!ancestral) {
        spread = pick_computed(g, s, step, ddim_sigma, eta);
    } else {
        kin_tensor log_variance = part[1].id ? learned_log_variance(g, s, part[1], step)
                                             : pick(g, s, s->posterior_log_variance_clipped, step);
        spread = kin_exp(g, kin_scale(g, log_variance, 0.5, 0));
        spread = kin_mul(g, spread, pick_computed(g, s, step, is_not_last, 0));
    }
    return kin_add(g, next, kin_mul(g, spread, noise));
}

void kin_sampler_graph(kin_graph *graph, const kin_schedule *schedule,
                       const kin_sampler_options *options, const int64_t dims[5],
                       kin_denoiser_fn denoiser, void *user) {
    kin_graph *g = graph;
    bool guided = options->cfg_scale != 1;
    kin_tensor x = kin_input(g, "latents", KIN_F32, 5, dims);
    kin_tensor step = kin_input(g, "step", KIN_I32, 1, (int64_t[]){1});
    kin_tensor noise = KIN_NONE;
    if (kin_sampler_needs_noise(options)) noise = kin_input(g, "noise", KIN_F32, 5, dims);

    kin_tensor timestep = kin_diffusion_timesteps(g, schedule, step);
    timestep = kin_expand(g, timestep, 1, (int64_t[]){guided ? 2 * dims[0] : dims[0]});
    kin_tensor both = guided ? kin_concat(g, (kin_tensor[]){x, x}, 2, 0) : x;
    kin_tensor out = denoiser(user, g, both, timestep);
    if (guided) out = kin_sampler_guide(g, options, out, dims[1]);
    kin_output(g, "next", kin_sampler_step(g, schedule, options, x, out, step, noise));
}

static kin_status run_step(kin_plan *plan, int step, const float *noise, float *latents) {
    int32_t index = step;
    kin_status status = kin_plan_write(plan, "latents", KIN_F32, latents);
    if (status == KIN_OK) status = kin_plan_write(plan, "step", KIN_I32, &index);
    if (status == KIN_OK && noise) status = kin_plan_write(plan, "noise", KIN_F32, noise);
    if (status == KIN_OK) status = kin_plan_run(plan);
    if (status == KIN_OK) status = kin_plan_read(plan, "next", KIN_F32, latents);
    return status;
}

kin_status kin_sampler_run(kin_plan *plan, kin_context *context, const kin_schedule *schedule,
                           const kin_sampler_options *options, const kin_sampler_loop *loop,
                           float *latents, size_t count) {
    float *noise = NULL;
    if (kin_sampler_needs_noise(options)) {
        noise = kin_alloc(context, count * sizeof *noise);
        if (!noise) return KIN_OUT_OF_MEMORY;
    }
    kin_status status = KIN_OK;
    for (int call = 0; status == KIN_OK && call < schedule->steps; call++) {
        bool go = true;
        if (noise && loop->noise) go = loop->noise(loop->noise_user, call, noise, count);
        else if (noise)
            kin_philox_fill_normal(loop->seed, loop->stream, (uint64_t)call + 1, 0, count, noise);
        if (go) status = run_step(plan, schedule->steps - 1 - call, noise, latents);
        if (go && status == KIN_OK && loop->progress)
            go = loop->progress(loop->progress_user, call, schedule->steps, latents);
        if (!go && status == KIN_OK)
            status = kin_fail(context, KIN_CANCELLED, "sampling was stopped at step %d of %d",
                              call + 1, schedule->steps);
    }
    kin_free(context, noise);
    return status;
}
