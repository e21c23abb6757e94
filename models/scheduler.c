/* What all schedulers share: noise levels, timesteps, sigmas and the table itself. */
#include "models/scheduler_internal.h"

#include <math.h>
#include <string.h>

static const double pi = 3.14159265358979323846;

kin_mix kin_scheduler_x0(kin_prediction prediction, double a, double s) {
    if (prediction == KIN_PREDICT_SAMPLE) return (kin_mix){0, 1};
    if (prediction == KIN_PREDICT_V) return (kin_mix){a, -s};
    return (kin_mix){1 / a, -s / a};
}

kin_mix kin_scheduler_epsilon(kin_prediction prediction, double a, double s) {
    if (prediction == KIN_PREDICT_SAMPLE) return (kin_mix){1 / s, -a / s};
    if (prediction == KIN_PREDICT_V) return (kin_mix){s, a};
    return (kin_mix){0, 1};
}

double *kin_scheduler_row(const kin_scheduler *s, int call, int row) {
    return s->coefficients + ((size_t)call * (size_t)s->rows + (size_t)row) * (size_t)s->columns;
}

int kin_scheduler_column(const kin_scheduler *s, int to, int from) {
    int source = from >= 0 ? from : s->slots + from - KIN_FROM_OUTPUT;
    return KIN_COEF_NEXT + to * (s->slots + 3) + source;
}

void kin_scheduler_set(kin_scheduler *s, int call, int to, int from, double value) {
    kin_scheduler_row(s, call, 0)[kin_scheduler_column(s, to, from)] = value;
}

void kin_scheduler_add(kin_scheduler *s, int call, int to, int from, double value) {
    kin_scheduler_row(s, call, 0)[kin_scheduler_column(s, to, from)] += value;
}

double kin_scheduler_alpha(const kin_scheduler *s, int t, double first) {
    return t < 0 ? first : s->alphas_cumprod[t];
}

kin_status kin_scheduler_allocate(kin_scheduler *s, int calls, int slots) {
    s->calls = calls;
    s->slots = slots;
    s->columns = KIN_COEF_NEXT + slots * (slots + 3);
    size_t cells = (size_t)calls * (size_t)s->rows;
    s->timesteps = kin_calloc(s->context, cells, sizeof *s->timesteps);
    s->coefficients = kin_calloc(s->context, cells * (size_t)s->columns, sizeof *s->coefficients);
    s->draws = kin_calloc(s->context, (size_t)calls, sizeof *s->draws);
    if (!s->timesteps || !s->coefficients || !s->draws) return KIN_OUT_OF_MEMORY;
    for (size_t i = 0; i < cells; i++) s->coefficients[i * (size_t)s->columns + KIN_COEF_INPUT] = 1;
    return KIN_OK;
}

/* ---- noise levels ------------------------------------------------------------------------- */

/* The cosine schedule's product at u of 0..1, Nichol and Dhariwal 2021, eq. 17. */
static double cosine_level(double u) {
    double c = cos((u + 0.008) / 1.008 * pi / 2);
    return c * c;
}

static double beta_at(const kin_scheduler_config *c, int t) {
    double steps = c->train_steps, fraction = steps > 1 ? t / (steps - 1) : 0;
    double low = c->beta_start, high = c->beta_end;
    switch (c->beta_schedule) {
    case KIN_BETAS_SCALED_LINEAR: {
        double root = sqrt(low) + (sqrt(high) - sqrt(low)) * fraction;
        return root * root;
    }
    case KIN_BETAS_COSINE:
        return fmin(1 - cosine_level((t + 1) / steps) / cosine_level(t / steps), 0.999);
    case KIN_BETAS_SIGMOID:
        return (high - low) / (1 + exp(6 - 12 * fraction)) + low;
    default:
        return low + (high - low) * fraction;
    }
}

static bool has_sigmas(kin_scheduler_kind kind) {
    return kind == KIN_SCHEDULER_EULER || kind == KIN_SCHEDULER_EULER_ANCESTRAL ||
           kind == KIN_SCHEDULER_DPM_MULTISTEP || kind == KIN_SCHEDULER_UNIPC;
}

static kin_status fill_levels(kin_scheduler *s) {
    const kin_scheduler_config *c = &s->config;
    int steps = c->train_steps;
    double *levels = s->alphas_cumprod = kin_calloc(s->context, (size_t)steps, sizeof *levels);
    if (!levels) return KIN_OUT_OF_MEMORY;
    double product = 1;
    for (int t = 0; t < steps; t++) levels[t] = product *= 1 - beta_at(c, t);
    if (!c->zero_snr) return KIN_OK;
    double first = sqrt(levels[0]), last = sqrt(levels[steps - 1]);
    if (!(first > last))
        return kin_fail(s->context, KIN_INVALID,
                        "rescale_betas_zero_snr needs more than one training step");
    for (int t = 0; t < steps; t++) {
        double root = (sqrt(levels[t]) - last) * first / (first - last);
        levels[t] = root * root;
    }
    /* Where sigma = sqrt((1 - A) / A) is needed, the original keeps A above 0. */
    if (has_sigmas(c->kind)) levels[steps - 1] = ldexp(1, -24);
    return KIN_OK;
}

/* ---- timesteps ---------------------------------------------------------------------------- */

/* How many steps of the schedule the solver may use, from the end with little noise. */
static int usable_steps(const kin_scheduler *s) {
    int clipped = 0;
    if (s->config.kind == KIN_SCHEDULER_DPM_MULTISTEP)
        for (int t = 0; t < s->config.train_steps; t++) {
            double a = s->alphas_cumprod[t];
            if (0.5 * log(a / (1 - a)) < s->config.lambda_min_clipped) clipped++;
        }
    return s->config.train_steps - clipped;
}

kin_status kin_scheduler_space(const kin_scheduler *s, bool solver, bool fractions, int count,
                               double *out) {
    const kin_scheduler_config *c = &s->config;
    int last = solver ? usable_steps(s) : c->train_steps;
    int points = solver && c->spacing != KIN_SPACING_TRAILING ? count + 1 : count;
    int skipped = points - count; /* solvers leave out the lowest point */
    for (int k = 0; k < count; k++) {
        int i = k + skipped;
        double t;
        if (c->spacing == KIN_SPACING_LINSPACE) {
            t = points > 1 ? (double)i * ((last - 1.0) / (points - 1)) : 0;
            t = fractions ? (float)t : rint(t);
        } else if (c->spacing == KIN_SPACING_LEADING) {
            t = (double)i * (double)(last / points) + c->steps_offset;
        } else {
            t = rint(last - (count - 1 - k) * ((double)c->train_steps / count)) - 1;
        }
        if (!(t >= 0 && t <= c->train_steps - 1))
            return kin_fail(s->context, KIN_INVALID,
                            "%s: %d steps with steps_offset %d lead to timestep %g; the schedule "
                            "has 0 to %d",
                            kin_scheduler_name(c->kind), count, c->steps_offset, t,
                            c->train_steps - 1);
        out[k] = t;
    }
    return KIN_OK;
}

static double level_sigma(const kin_scheduler *s, int t) {
    double a = s->alphas_cumprod[t];
    return sqrt((1 - a) / a);
}

/* Linear between the whole timesteps. */
static double sigma_at(const kin_scheduler *s, double t) {
    int low = (int)floor(t), top = s->config.train_steps - 1;
    if (low >= top) return level_sigma(s, top);
    double a = level_sigma(s, low), b = level_sigma(s, low + 1);
    return a + (b - a) * (t - low);
}

/* The timestep whose ln sigma is that of `sigma`, linear between whole ones. */
static double timestep_of(const kin_scheduler *s, double sigma) {
    int top = s->config.train_steps - 1, low = 0;
    if (top < 1) return 0;
    double wanted = log(fmax(sigma, 1e-10));
    while (low < top - 1 && log(level_sigma(s, low + 1)) <= wanted) low++;
    double a = log(level_sigma(s, low)), b = log(level_sigma(s, low + 1));
    double w = fmin(fmax((a - wanted) / (a - b), 0), 1);
    return (1 - w) * low + w * (low + 1);
}

/* Sigmas along Karras' curve (rho 7) or evenly in ln sigma (Lu), from high to low. */
static void replace_sigmas(kin_scheduler *s, double high, double low, double *timesteps,
                           bool round) {
    double rho = 7, top = pow(high, 1 / rho), bottom = pow(low, 1 / rho);
    for (int i = 0; i < s->steps; i++) {
        double u = s->steps > 1 ? (double)i / (s->steps - 1) : 0;
        s->sigmas[i] = s->config.karras_sigmas ? pow(top + u * (bottom - top), rho)
                                               : exp(log(high) + u * (log(low) - log(high)));
        timesteps[i] = timestep_of(s, s->sigmas[i]);
        if (round) timesteps[i] = rint(timesteps[i]);
    }
}

kin_status kin_scheduler_sigmas(kin_scheduler *s, double *timesteps, bool round) {
    const kin_scheduler_config *c = &s->config;
    bool ancestral = c->kind == KIN_SCHEDULER_EULER_ANCESTRAL;
    bool euler = c->kind == KIN_SCHEDULER_EULER;
    s->sigma_count = s->steps + 1;
    s->sigmas = kin_calloc(s->context, (size_t)s->sigma_count, sizeof *s->sigmas);
    if (!s->sigmas) return KIN_OUT_OF_MEMORY;
    for (int i = 0; i < s->steps; i++) s->sigmas[i] = sigma_at(s, timesteps[i]);
    /* Euler's range is that of the steps taken, the solvers' that of the whole schedule. */
    double high = euler ? s->sigmas[0] : level_sigma(s, c->train_steps - 1);
    double low = euler ? s->sigmas[s->steps - 1] : level_sigma(s, 0);
    if (euler && c->sigma_max > 0) high = c->sigma_max;
    if (euler && c->sigma_min > 0) low = c->sigma_min;
    bool lu = c->lu_lambdas && c->kind == KIN_SCHEDULER_DPM_MULTISTEP;
    if ((c->karras_sigmas && !ancestral) || lu) replace_sigmas(s, high, low, timesteps, round);
    s->sigmas[s->steps] = c->final_sigma_min && !ancestral ? level_sigma(s, 0) : 0;
    return KIN_OK;
}

/* ---- the table ---------------------------------------------------------------------------- */

void kin_scheduler_free(kin_scheduler *s) {
    if (!s) return;
    kin_free(s->context, s->timesteps);
    kin_free(s->context, s->sigmas);
    kin_free(s->context, s->alphas_cumprod);
    kin_free(s->context, s->coefficients);
    kin_free(s->context, s->draws);
    kin_free(s->context, s);
}

static kin_status fill(kin_scheduler *s, const kin_scheduler_options *options) {
    switch (s->config.kind) {
    case KIN_SCHEDULER_DDPM:
        return kin_scheduler_fill_ddpm(s);
    case KIN_SCHEDULER_DDIM:
        return kin_scheduler_fill_ddim(s, options->eta);
    case KIN_SCHEDULER_PNDM:
        return kin_scheduler_fill_pndm(s);
    case KIN_SCHEDULER_EULER:
    case KIN_SCHEDULER_EULER_ANCESTRAL:
        return kin_scheduler_fill_euler(s);
    case KIN_SCHEDULER_DPM_MULTISTEP:
        return kin_scheduler_fill_dpm(s);
    case KIN_SCHEDULER_UNIPC:
        return kin_scheduler_fill_unipc(s);
    case KIN_SCHEDULER_FLOW_EULER:
        return kin_scheduler_fill_flow(s, options->mu);
    case KIN_SCHEDULER_RECTIFIED_FLOW:
        return kin_scheduler_fill_rectified(s, options);
    }
    return kin_fail(s->context, KIN_INVALID, "unknown kind of scheduler");
}

/* Writes the timesteps into the rows, and refuses what no sampler can use. */
static kin_status finish(kin_scheduler *s) {
    s->whole_timesteps = true;
    for (int i = 0; i < s->calls; i++)
        for (int row = 0; row < s->rows; row++) {
            double *c = kin_scheduler_row(s, i, row);
            double t = c[KIN_COEF_TIMESTEP] = s->timesteps[i * s->rows + row];
            if (t != rint(t)) s->whole_timesteps = false;
            for (int k = 0; k < s->columns; k++)
                if (!isfinite(c[k]))
                    return kin_fail(s->context, KIN_INVALID,
                                    "%s: call %d of %d at timestep %g has no finite step with this "
                                    "configuration%s",
                                    kin_scheduler_name(s->config.kind), i + 1, s->calls, t,
                                    s->config.zero_snr && s->config.prediction != KIN_PREDICT_V
                                        ? " (a terminal SNR of zero needs v_prediction)"
                                        : "");
        }
    return KIN_OK;
}

kin_status kin_scheduler_create(kin_context *context, const kin_scheduler_config *config,
                                const kin_scheduler_options *options,
                                kin_scheduler **out_scheduler) {
    *out_scheduler = NULL;
    int steps = options->steps ? options->steps : config->sampling_steps;
    if (steps < 1 || steps > config->train_steps)
        return kin_fail(context, KIN_INVALID, "%s: %d steps of sampling; 1 to %d are possible",
                        kin_scheduler_name(config->kind), steps, config->train_steps);
    bool flow =
        config->kind == KIN_SCHEDULER_FLOW_EULER || config->kind == KIN_SCHEDULER_RECTIFIED_FLOW;
    int rows = options->rows > 1 ? options->rows : 1;
    if (rows > 1 && config->kind != KIN_SCHEDULER_RECTIFIED_FLOW)
        return kin_fail(context, KIN_INVALID, "%s: all samples share one row of coefficients",
                        kin_scheduler_name(config->kind));
    kin_scheduler *s = kin_calloc(context, 1, sizeof *s);
    if (!s) return KIN_OUT_OF_MEMORY;
    *s = (kin_scheduler){.context = context,
                         .config = *config,
                         .steps = steps,
                         .rows = rows,
                         .init_noise_sigma = 1,
                         .clip = HUGE_VAL};
    kin_status status = flow ? KIN_OK : fill_levels(s);
    if (status == KIN_OK) status = fill(s, options);
    if (status == KIN_OK) status = finish(s);
    if (status != KIN_OK) {
        kin_scheduler_free(s);
        return status;
    }
    *out_scheduler = s;
    return KIN_OK;
}

double kin_scheduler_mu(const kin_scheduler_config *config, double tokens) {
    double slope = (config->max_shift - config->base_shift) /
                   (config->max_image_seq_len - config->base_image_seq_len);
    return config->base_shift + slope * (tokens - config->base_image_seq_len);
}

bool kin_scheduler_needs_noise(const kin_scheduler *s) {
    for (int i = 0; i < s->calls; i++)
        for (int slot = 0; slot < s->slots; slot++)
            if (kin_scheduler_row(s, i, 0)[kin_scheduler_column(s, slot, KIN_FROM_NOISE)] != 0)
                return true;
    return false;
}

/* The call whose timestep it is; where two have it, the second, as the original takes it; -1 if
 * none has. */
static int call_at(const kin_scheduler *s, double timestep) {
    int found = -1;
    for (int i = 0, matches = 0; i < s->calls; i++)
        if ((float)s->timesteps[i * s->rows] == (float)timestep && ++matches <= 2) found = i;
    return found;
}

kin_status kin_scheduler_noise_factors(const kin_scheduler *s, double timestep, double *of_x0,
                                       double *of_noise) {
    kin_scheduler_kind kind = s->config.kind;
    double steps = s->config.train_steps;
    if (kind == KIN_SCHEDULER_RECTIFIED_FLOW) {
        *of_noise = timestep / steps;
        *of_x0 = 1 - *of_noise;
        return KIN_OK;
    }
    int call = s->sigmas ? call_at(s, timestep) : -1;
    double sigma = call >= 0 ? s->sigmas[call] : 0;
    switch (kind) {
    case KIN_SCHEDULER_EULER:
    case KIN_SCHEDULER_EULER_ANCESTRAL:
    case KIN_SCHEDULER_FLOW_EULER:
        if (call < 0)
            return kin_fail(s->context, KIN_INVALID, "%s: timestep %g is none of this run's",
                            kin_scheduler_name(kind), timestep);
        *of_noise = sigma;
        *of_x0 = kind == KIN_SCHEDULER_FLOW_EULER ? 1 - sigma : 1;
        return KIN_OK;
    default:
        break;
    }
    if (call >= 0) {
        *of_x0 = 1 / sqrt(1 + sigma * sigma);
        *of_noise = sigma * *of_x0;
        return KIN_OK;
    }
    if (!(timestep >= 0 && timestep < steps) || timestep != rint(timestep))
        return kin_fail(s->context, KIN_INVALID, "%s: timestep %g is not within 0 to %g",
                        kin_scheduler_name(kind), timestep, steps - 1);
    double a = s->alphas_cumprod[(int)timestep];
    *of_x0 = sqrt(a);
    *of_noise = sqrt(1 - a);
    return KIN_OK;
}
