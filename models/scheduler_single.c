/* Tables of the samplers that remember nothing but the sample. */
#include <math.h>

#include "models/scheduler_internal.h"

static void set_estimate(kin_scheduler *s, int call, kin_mix mix) {
    kin_scheduler_row(s, call, 0)[KIN_COEF_ESTIMATE_X] = mix.x;
    kin_scheduler_row(s, call, 0)[KIN_COEF_ESTIMATE_M] = mix.m;
}

/* Adds factor * mix to the next sample. */
static void add_mix(kin_scheduler *s, int call, double factor, kin_mix mix) {
    kin_scheduler_add(s, call, 0, 0, factor * mix.x);
    kin_scheduler_add(s, call, 0, KIN_FROM_OUTPUT, factor * mix.m);
}

/* Adds factor * x0, which is clamped where the configuration says so. */
static void add_x0(kin_scheduler *s, int call, double factor, kin_mix x0) {
    if (!s->config.clip_sample) {
        add_mix(s, call, factor, x0);
        return;
    }
    s->clip = s->config.clip_sample_range;
    set_estimate(s, call, x0);
    kin_scheduler_add(s, call, 0, KIN_FROM_ESTIMATE, factor);
}

/* Falling timesteps of the run, one for each call. */
static kin_status space_calls(kin_scheduler *s, bool fractions) {
    kin_status status = kin_scheduler_allocate(s, s->steps, 1);
    if (status == KIN_OK) status = kin_scheduler_space(s, false, fractions, s->steps, s->timesteps);
    if (status != KIN_OK) return status;
    for (int low = 0, high = s->steps - 1; low < high; low++, high--) {
        double t = s->timesteps[low];
        s->timesteps[low] = s->timesteps[high];
        s->timesteps[high] = t;
    }
    return KIN_OK;
}

static void ddpm_variance(kin_scheduler *s, int call, double beta, double variance) {
    double *row = kin_scheduler_row(s, call, 0);
    double *noise = row + kin_scheduler_column(s, 0, KIN_FROM_NOISE);
    switch (s->config.variance) {
    case KIN_VARIANCE_FIXED_LARGE:
        *noise = sqrt(beta);
        return;
    case KIN_VARIANCE_LEARNED_RANGE: /* exp(0.5 (f ln beta + (1 - f) ln variance)), f = (v + 1)/2 */
        *noise = 1;
        row[KIN_COEF_LOG_A] = 0.25 * (log(beta) + log(variance));
        row[KIN_COEF_LOG_B] = 0.25 * (log(beta) - log(variance));
        return;
    default:
        *noise = sqrt(variance);
    }
}

kin_status kin_scheduler_fill_ddpm(kin_scheduler *s) {
    kin_status status = space_calls(s, false);
    for (int i = 0; status == KIN_OK && i < s->calls; i++) {
        int t = (int)s->timesteps[i], p = t - s->config.train_steps / s->steps;
        double level = s->alphas_cumprod[t], before = kin_scheduler_alpha(s, p, 1);
        double alpha = level / before, beta = 1 - alpha;
        kin_mix x0 = kin_scheduler_x0(s->config.prediction, sqrt(level), sqrt(1 - level));
        add_x0(s, i, sqrt(before) * beta / (1 - level), x0);
        kin_scheduler_add(s, i, 0, 0, sqrt(alpha) * (1 - before) / (1 - level));
        s->draws[i] = t > 0;
        if (t > 0) ddpm_variance(s, i, beta, fmax((1 - before) / (1 - level) * beta, 1e-20));
    }
    return status;
}

kin_status kin_scheduler_fill_ddim(kin_scheduler *s, double eta) {
    kin_status status = space_calls(s, false);
    if (status == KIN_OK && !(eta >= 0))
        return kin_fail(s->context, KIN_INVALID, "DDIMScheduler: eta must be at least 0");
    double end = s->config.set_alpha_to_one ? 1 : s->alphas_cumprod[0];
    for (int i = 0; status == KIN_OK && i < s->calls; i++) {
        int t = (int)s->timesteps[i], p = t - s->config.train_steps / s->steps;
        double level = s->alphas_cumprod[t], before = kin_scheduler_alpha(s, p, end);
        double a = sqrt(level), b = sqrt(1 - level);
        double variance = (1 - before) / (1 - level) * (1 - level / before);
        double sigma = eta * sqrt(fmax(variance, 0));
        add_x0(s, i, sqrt(before), kin_scheduler_x0(s->config.prediction, a, b));
        /* The direction keeps the output's own noise, also where x0 was clamped. */
        add_mix(s, i, sqrt(fmax(1 - before - sigma * sigma, 0)),
                kin_scheduler_epsilon(s->config.prediction, a, b));
        kin_scheduler_set(s, i, 0, KIN_FROM_NOISE, sigma);
        s->draws[i] = eta > 0;
    }
    return status;
}

/* x0 from the unscaled sample x = x0 + sigma noise; the model saw x / sqrt(sigma^2 + 1). */
static kin_mix euler_x0(kin_prediction prediction, double sigma) {
    if (prediction == KIN_PREDICT_SAMPLE) return (kin_mix){0, 1};
    double square = sigma * sigma + 1;
    if (prediction == KIN_PREDICT_V) return (kin_mix){1 / square, -sigma / sqrt(square)};
    return (kin_mix){1, -sigma};
}

kin_status kin_scheduler_fill_euler(kin_scheduler *s) {
    const kin_scheduler_config *c = &s->config;
    bool ancestral = c->kind == KIN_SCHEDULER_EULER_ANCESTRAL;
    kin_status status = space_calls(s, true);
    if (status == KIN_OK) status = kin_scheduler_sigmas(s, s->timesteps, false);
    if (status != KIN_OK) return status;
    double top = 0;
    for (int i = 0; i < s->sigma_count; i++) top = fmax(top, s->sigmas[i]);
    s->init_noise_sigma = c->spacing == KIN_SPACING_LEADING ? sqrt(top * top + 1) : top;
    for (int i = 0; i < s->calls; i++) {
        double sigma = s->sigmas[i], next = s->sigmas[i + 1], up = 0, down = next;
        if (ancestral) {
            up = sqrt(fmax(next * next * (sigma * sigma - next * next), 0)) / sigma;
            down = sqrt(fmax(next * next - up * up, 0));
        }
        kin_mix x0 = euler_x0(c->prediction, sigma);
        /* The derivative (x - x0) / sigma, times the change of sigma. */
        kin_mix slope = {(1 - x0.x) / sigma, -x0.m / sigma};
        kin_scheduler_row(s, i, 0)[KIN_COEF_INPUT] = 1 / sqrt(sigma * sigma + 1);
        kin_scheduler_set(s, i, 0, 0, 1);
        add_mix(s, i, down - sigma, slope);
        kin_scheduler_set(s, i, 0, KIN_FROM_NOISE, up);
        s->draws[i] = ancestral;
        if (!ancestral && c->continuous_timesteps && c->prediction == KIN_PREDICT_V)
            s->timesteps[i] = 0.25 * log(sigma);
    }
    return KIN_OK;
}

/* ---- flows ---------------------------------------------------------------------------------- */

static double shifted(double shift, double sigma) {
    return shift * sigma / (1 + (shift - 1) * sigma);
}

kin_status kin_scheduler_fill_flow(kin_scheduler *s, double mu) {
    const kin_scheduler_config *c = &s->config;
    kin_status status = kin_scheduler_allocate(s, s->steps, 1);
    s->sigma_count = s->steps + 1;
    if (status == KIN_OK) {
        s->sigmas = kin_calloc(s->context, (size_t)s->sigma_count, sizeof *s->sigmas);
        if (!s->sigmas) status = KIN_OUT_OF_MEMORY;
    }
    if (status != KIN_OK) return status;
    /* Without dynamic shifting the ends are shifted, and then the whole line between them again. */
    double steps = c->train_steps, high = 1, low = 1 / steps;
    if (!c->dynamic_shifting) high = shifted(c->shift, high), low = shifted(c->shift, low);
    for (int i = 0; i < s->steps; i++) {
        double u = s->steps > 1 ? (double)i / (s->steps - 1) : 0;
        double line = high + u * (low - high);
        s->sigmas[i] =
            c->dynamic_shifting ? exp(mu) / (exp(mu) + (1 / line - 1)) : shifted(c->shift, line);
        s->timesteps[i] = s->sigmas[i] * steps;
    }
    for (int i = 0; i < s->calls; i++) {
        kin_scheduler_set(s, i, 0, 0, 1);
        kin_scheduler_set(s, i, 0, KIN_FROM_OUTPUT, s->sigmas[i + 1] - s->sigmas[i]);
    }
    return KIN_OK;
}

/* The original's shift towards noise for larger videos: the ratio of its own measure of size to
 * that of 512 x 512 with one latent frame. */
static double rectified_ratio(const kin_scheduler_options *options, int row) {
    double frames = options->frames[0] == 1 ? 1 : floor(options->frames[row] / 17) * 5;
    return sqrt(options->heights[row] * options->widths[row] / (512.0 * 512.0)) * sqrt(frames);
}

kin_status kin_scheduler_fill_rectified(kin_scheduler *s, const kin_scheduler_options *options) {
    const kin_scheduler_config *c = &s->config;
    double steps = c->train_steps;
    if (c->timestep_transform && !(options->heights && options->widths && options->frames))
        return kin_fail(s->context, KIN_INVALID,
                        "rflow: use_timestep_transform needs the sizes of the samples");
    kin_status status = kin_scheduler_allocate(s, s->steps, 1);
    for (int i = 0; status == KIN_OK && i < s->calls; i++)
        for (int row = 0; row < s->rows; row++) {
            double t = (1 - (double)i / s->steps) * steps;
            if (c->discrete_timesteps) t = rint(t);
            if (c->timestep_transform)
                t = steps * shifted(rectified_ratio(options, row), t / steps);
            s->timesteps[i * s->rows + row] = t;
        }
    /* v points from noise to data: the sample moves along it as t falls. */
    for (int i = 0; status == KIN_OK && i < s->calls; i++)
        for (int row = 0; row < s->rows; row++) {
            double *cells = kin_scheduler_row(s, i, row);
            double t = s->timesteps[i * s->rows + row];
            double next = i + 1 < s->calls ? s->timesteps[(i + 1) * s->rows + row] : 0;
            cells[kin_scheduler_column(s, 0, 0)] = 1;
            cells[kin_scheduler_column(s, 0, KIN_FROM_OUTPUT)] = (t - next) / steps;
        }
    return status;
}
