/* Tables of the samplers that remember earlier samples and outputs. */
#include <math.h>

#include "models/scheduler_internal.h"

/* ---- PNDM ----------------------------------------------------------------------------------- */

enum { PNDM_X, PNDM_KEPT, PNDM_SUM, PNDM_E1, PNDM_E2, PNDM_E3, PNDM_SLOTS };

/* The next sample by eq. 11: from `sample` at time t to p, with the combination `weights` of this
 * output, the sum, and the outputs before. */
static kin_status pndm_move(kin_scheduler *s, int call, int sample, int t, int p,
                            const double weights[5]) {
    static const int sources[] = {KIN_FROM_OUTPUT, PNDM_E1, PNDM_E2, PNDM_E3, PNDM_SUM};
    if (t < 0 || t >= s->config.train_steps || p >= s->config.train_steps)
        return kin_fail(s->context, KIN_INVALID,
                        "PNDMScheduler: %d steps with steps_offset %d leave the schedule at "
                        "timestep %d",
                        s->steps, s->config.steps_offset, t);
    double end = s->config.set_alpha_to_one ? 1 : s->alphas_cumprod[0];
    double level = s->alphas_cumprod[t], next = kin_scheduler_alpha(s, p, end);
    double of_epsilon =
        -(next - level) / (level * sqrt(1 - next) + sqrt(level * (1 - level) * next));
    kin_mix epsilon = kin_scheduler_epsilon(
        s->config.prediction == KIN_PREDICT_V ? KIN_PREDICT_V : KIN_PREDICT_EPSILON, sqrt(level),
        sqrt(1 - level));
    kin_scheduler_add(s, call, PNDM_X, sample, sqrt(next / level) + of_epsilon * epsilon.x);
    for (int i = 0; i < 5; i++)
        kin_scheduler_add(s, call, PNDM_X, sources[i], of_epsilon * epsilon.m * weights[i]);
    return KIN_OK;
}

/* The output becomes the newest one remembered. */
static void pndm_store(kin_scheduler *s, int call) {
    kin_scheduler_set(s, call, PNDM_E1, KIN_FROM_OUTPUT, 1);
    kin_scheduler_set(s, call, PNDM_E2, PNDM_E1, 1);
    kin_scheduler_set(s, call, PNDM_E3, PNDM_E2, 1);
}

static void pndm_keep(kin_scheduler *s, int call, int to, int from) {
    kin_scheduler_set(s, call, to, from, 1);
}

/* Three steps of four evaluations each, which give the outputs that the multistep formula needs. */
static kin_status pndm_runge_kutta(kin_scheduler *s, const double *base) {
    int half = s->config.train_steps / s->steps / 2;
    kin_status status = KIN_OK;
    for (int call = 0; status == KIN_OK && call < 12; call++) {
        int step = call / 4, stage = call % 4;
        int high = (int)base[s->steps - 1 - step], low = (int)base[s->steps - 2 - step];
        int told = stage == 0 ? high : stage < 3 ? low + half : low;
        int to = stage % 2 == 0 ? told - half : told;
        double weights[5] = {stage == 3 ? 1.0 / 6 : 1, 0, 0, 0, stage == 3 ? 1 : 0};
        s->timesteps[call] = told;
        status = pndm_move(s, call, stage == 0 ? PNDM_X : PNDM_KEPT, high, to, weights);
        pndm_keep(s, call, PNDM_KEPT, stage == 0 ? PNDM_X : PNDM_KEPT);
        if (stage < 3)
            kin_scheduler_set(s, call, PNDM_SUM, KIN_FROM_OUTPUT, stage == 0 ? 1.0 / 6 : 1.0 / 3);
        if (stage == 1 || stage == 2) pndm_keep(s, call, PNDM_SUM, PNDM_SUM);
        if (stage == 0) {
            pndm_store(s, call);
            continue;
        }
        pndm_keep(s, call, PNDM_E1, PNDM_E1);
        pndm_keep(s, call, PNDM_E2, PNDM_E2);
        pndm_keep(s, call, PNDM_E3, PNDM_E3);
    }
    return status;
}

/* Adams-Bashforth with as many outputs as there are, of `known` before this one. */
static kin_status pndm_multistep(kin_scheduler *s, int call, int t, int known) {
    static const double weights[4][5] = {{1, 0, 0, 0, 0},
                                         {3.0 / 2, -1.0 / 2, 0, 0, 0},
                                         {23.0 / 12, -16.0 / 12, 5.0 / 12, 0, 0},
                                         {55.0 / 24, -59.0 / 24, 37.0 / 24, -9.0 / 24, 0}};
    s->timesteps[call] = t;
    pndm_store(s, call);
    return pndm_move(s, call, PNDM_X, t, t - s->config.train_steps / s->steps,
                     weights[known < 3 ? known : 3]);
}

/* Without Runge-Kutta: the first step is done twice, the second time with the mean of both outputs.
 */
static kin_status pndm_skipping(kin_scheduler *s, const double *base) {
    int stride = s->config.train_steps / s->steps, n = s->steps;
    kin_status status = pndm_multistep(s, 0, (int)base[n - 1], 0);
    if (n == 1 || status != KIN_OK) return status;
    static const double mean[5] = {0.5, 0.5, 0, 0, 0};
    int t = (int)base[n - 2];
    pndm_keep(s, 0, PNDM_KEPT, PNDM_X);
    s->timesteps[1] = t;
    status = pndm_move(s, 1, PNDM_KEPT, t + stride, t, mean);
    pndm_keep(s, 1, PNDM_E1, PNDM_E1);
    for (int call = 2; status == KIN_OK && call < s->calls; call++)
        status = pndm_multistep(s, call, (int)base[n - call], call - 1);
    return status;
}

kin_status kin_scheduler_fill_pndm(kin_scheduler *s) {
    int n = s->steps;
    bool skip = s->config.skip_prk_steps;
    if (s->config.prediction == KIN_PREDICT_SAMPLE)
        return kin_fail(s->context, KIN_INVALID,
                        "PNDMScheduler: prediction_type is epsilon or v_prediction");
    if (!skip && n < 4)
        return kin_fail(s->context, KIN_INVALID,
                        "PNDMScheduler needs at least 4 steps unless skip_prk_steps is true");
    double *base = kin_calloc(s->context, (size_t)n + 1, sizeof *base);
    if (!base) return KIN_OUT_OF_MEMORY;
    int calls = skip ? (n > 1 ? n + 1 : 1) : n + 9;
    kin_status status = kin_scheduler_allocate(s, calls, PNDM_SLOTS);
    if (status == KIN_OK) status = kin_scheduler_space(s, false, false, n, base);
    if (status == KIN_OK) status = skip ? pndm_skipping(s, base) : pndm_runge_kutta(s, base);
    for (int call = 12; status == KIN_OK && !skip && call < calls; call++)
        status = pndm_multistep(s, call, (int)base[n - 4 - (call - 12)], 3);
    kin_free(s->context, base);
    return status;
}

/* ---- solvers of the exponential integrator ----------------------------------------------------
 */

/* A point of the run: the sample there is alpha x0 + sigma noise, lambda = ln(alpha / sigma). */
typedef struct point {
    double alpha, sigma, lambda;
} point;

static point point_at(const kin_scheduler *s, int i) {
    double sigma = s->sigmas[i], alpha = 1 / sqrt(1 + sigma * sigma);
    return (point){alpha, sigma * alpha, -log(sigma)}; /* infinite at sigma 0 */
}

static kin_status space_solver(kin_scheduler *s, int slots) {
    kin_status status = kin_scheduler_allocate(s, s->steps, slots);
    if (status == KIN_OK) status = kin_scheduler_space(s, true, false, s->steps, s->timesteps);
    if (status != KIN_OK) return status;
    for (int low = 0, high = s->steps - 1; low < high; low++, high--) {
        double t = s->timesteps[low];
        s->timesteps[low] = s->timesteps[high];
        s->timesteps[high] = t;
    }
    return kin_scheduler_sigmas(s, s->timesteps, true);
}

/* What is remembered of this call's output: x0, or the noise. */
static void set_estimate(kin_scheduler *s, int call, bool x0) {
    point at = point_at(s, call);
    kin_prediction prediction = s->config.prediction;
    kin_mix mix = x0 ? kin_scheduler_x0(prediction, at.alpha, at.sigma)
                     : kin_scheduler_epsilon(prediction, at.alpha, at.sigma);
    kin_scheduler_row(s, call, 0)[KIN_COEF_ESTIMATE_X] = mix.x;
    kin_scheduler_row(s, call, 0)[KIN_COEF_ESTIMATE_M] = mix.m;
}

enum { DPM_X, DPM_H1, DPM_H2, DPM_SLOTS };

/* Factors of the sample and of the differences D0, D1 and D2 of one step of size h. */
typedef struct dpm_factors {
    double x, d0, d1, d2, noise;
} dpm_factors;

static dpm_factors dpm_step(const kin_scheduler *s, point from, point to, double h, int order) {
    bool heun = s->config.second_order_heun;
    double e = expm1(-h), up = expm1(h), twice = -expm1(-2 * h);
    switch (s->config.algorithm) {
    case KIN_DPM_PLUS_PLUS: {
        dpm_factors f = {.x = to.sigma / from.sigma, .d0 = -to.alpha * e};
        if (order == 2 && !heun) f.d1 = -0.5 * to.alpha * e;
        if (order == 3 || (order == 2 && heun)) f.d1 = to.alpha * (e / h + 1);
        if (order == 3) f.d2 = -to.alpha * ((e + h) / (h * h) - 0.5);
        return f;
    }
    case KIN_DPM_PLAIN: {
        dpm_factors f = {.x = to.alpha / from.alpha, .d0 = -to.sigma * up};
        if (order == 2 && !heun) f.d1 = -0.5 * to.sigma * up;
        if (order == 3 || (order == 2 && heun)) f.d1 = -to.sigma * (up / h - 1);
        if (order == 3) f.d2 = -to.sigma * ((up - h) / (h * h) - 0.5);
        return f;
    }
    case KIN_DPM_SDE_PLUS_PLUS: {
        dpm_factors f = {.x = to.sigma / from.sigma * exp(-h),
                         .d0 = to.alpha * twice,
                         .noise = to.sigma * sqrt(twice)};
        if (order == 2) f.d1 = heun ? to.alpha * (twice / (-2 * h) + 1) : 0.5 * to.alpha * twice;
        return f;
    }
    default: {
        dpm_factors f = {.x = to.alpha / from.alpha,
                         .d0 = -2 * to.sigma * up,
                         .noise = to.sigma * sqrt(expm1(2 * h))};
        if (order == 2) f.d1 = heun ? -2 * to.sigma * (up / h - 1) : -to.sigma * up;
        return f;
    }
    }
}

static int dpm_order(const kin_scheduler *s, int call) {
    const kin_scheduler_config *c = &s->config;
    bool few = c->lower_order_final && s->steps < 15;
    bool last = call == s->steps - 1 && (c->euler_at_final || few || !c->final_sigma_min);
    int order = last ? 1 : call == s->steps - 2 && few ? 2 : 3;
    if (order > c->solver_order) order = c->solver_order;
    return order > call + 1 ? call + 1 : order;
}

/* D0 = m0, D1 and D2 the divided differences of m0, m1, m2 over steps of lambda. */
static void dpm_call(kin_scheduler *s, int call) {
    point from = point_at(s, call), to = point_at(s, call + 1);
    int order = dpm_order(s, call);
    double h = to.lambda - from.lambda;
    dpm_factors f = dpm_step(s, from, to, h, order);
    double m0 = f.d0, m1 = 0, m2 = 0;
    if (order >= 2) {
        double r0 = (from.lambda - point_at(s, call - 1).lambda) / h;
        if (order == 2) {
            m0 += f.d1 / r0;
            m1 -= f.d1 / r0;
        } else {
            double r1 = (point_at(s, call - 1).lambda - point_at(s, call - 2).lambda) / h;
            double outer = (f.d1 * r0 + f.d2) / (r0 + r1), inner = f.d1 + outer;
            m0 += inner / r0;
            m1 -= inner / r0 + outer / r1;
            m2 += outer / r1;
        }
    }
    kin_scheduler_set(s, call, DPM_X, DPM_X, f.x);
    kin_scheduler_set(s, call, DPM_X, KIN_FROM_ESTIMATE, m0);
    if (order >= 2) kin_scheduler_set(s, call, DPM_X, DPM_H1, m1);
    if (order >= 3) kin_scheduler_set(s, call, DPM_X, DPM_H2, m2);
    kin_scheduler_set(s, call, DPM_X, KIN_FROM_NOISE, f.noise);
}

kin_status kin_scheduler_fill_dpm(kin_scheduler *s) {
    kin_dpm_algorithm algorithm = s->config.algorithm;
    bool sde = algorithm == KIN_DPM_SDE_PLUS_PLUS || algorithm == KIN_DPM_SDE;
    bool x0 = algorithm == KIN_DPM_PLUS_PLUS || algorithm == KIN_DPM_SDE_PLUS_PLUS;
    if (sde && s->config.solver_order > 2)
        return kin_fail(s->context, KIN_UNSUPPORTED,
                        "DPMSolverMultistepScheduler: the sde algorithms have solver_order 1 or 2");
    int order = s->config.solver_order;
    kin_status status = space_solver(s, order);
    for (int i = 0; status == KIN_OK && i < s->calls; i++) {
        set_estimate(s, i, x0);
        dpm_call(s, i);
        s->draws[i] = sde;
        if (order > 1) kin_scheduler_set(s, i, DPM_H1, KIN_FROM_ESTIMATE, 1);
        if (order > 2) kin_scheduler_set(s, i, DPM_H2, DPM_H1, 1);
    }
    return status;
}

/* ---- UniPC ---------------------------------------------------------------------------------- */

/* The sample, the corrected sample before the last prediction, and earlier estimates, newest first.
 */
enum { UNIPC_X, UNIPC_KEPT, UNIPC_M0 };

/* A combination of the corrected sample before, this call's estimate and earlier ones. */
typedef struct unipc_mix {
    double kept, estimate, m[KIN_SCHEDULER_MAX_ORDER];
} unipc_mix;

/* Solves the Vandermonde system sum_k r_k^i x_k = b_i, i = 0 .. n-1, by elimination. */
static void solve(const double *r, const double *b, int n, double *x) {
    double a[KIN_SCHEDULER_MAX_ORDER][KIN_SCHEDULER_MAX_ORDER + 1];
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < n; k++) a[i][k] = pow(r[k], i);
        a[i][n] = b[i];
    }
    for (int i = 0; i < n; i++) {
        int pivot = i;
        for (int k = i + 1; k < n; k++)
            if (fabs(a[k][i]) > fabs(a[pivot][i])) pivot = k;
        for (int k = 0; k <= n; k++) {
            double swapped = a[i][k];
            a[i][k] = a[pivot][k];
            a[pivot][k] = swapped;
        }
        for (int k = i + 1; k < n; k++)
            for (int j = n; j >= i; j--) a[k][j] -= a[k][i] / a[i][i] * a[i][j];
    }
    for (int i = n - 1; i >= 0; i--) {
        x[i] = a[i][n];
        for (int k = i + 1; k < n; k++) x[i] -= a[i][k] * x[k];
        x[i] /= a[i][i];
    }
}

/* A step from point `from` to `to` of the run, with estimates at `from` (weight index 0), before it
 * (1, 2), and, for a correction, at `to`. out_weights[order] is that of the last. */
typedef struct unipc_step {
    double of_sample;
    double weights[KIN_SCHEDULER_MAX_ORDER + 1];
} unipc_step;

static unipc_step unipc_weights(const kin_scheduler *s, int from, int order, bool correct) {
    bool x0 = s->config.predict_x0;
    point start = point_at(s, from), end = point_at(s, from + 1);
    double h = end.lambda - start.lambda, hh = x0 ? -h : h;
    double phi1 = expm1(hh), big = s->config.b1 ? hh : phi1, phi = phi1 / hh - 1, factorial = 1;
    double r[KIN_SCHEDULER_MAX_ORDER], b[KIN_SCHEDULER_MAX_ORDER], rho[KIN_SCHEDULER_MAX_ORDER];
    for (int i = 0; i < order; i++) {
        r[i] = i + 1 < order ? (point_at(s, from - 1 - i).lambda - start.lambda) / h : 1;
        b[i] = phi * factorial / big;
        factorial *= i + 2;
        phi = phi / hh - 1 / factorial;
    }
    int terms = correct ? order : order - 1;
    if (terms == 1 && order == (correct ? 1 : 2)) rho[0] = 0.5;
    else if (terms > 0) solve(r, b, terms, rho);
    double scale = x0 ? end.alpha : end.sigma;
    unipc_step step = {.of_sample = x0 ? end.sigma / start.sigma : end.alpha / start.alpha};
    step.weights[0] = -scale * phi1;
    for (int i = 0; i < terms; i++) {
        double weight = -scale * big * rho[i] / r[i];
        step.weights[i + 1 < order ? i + 1 : order] += weight;
        step.weights[0] -= weight;
    }
    return step;
}

static bool corrects(const kin_scheduler *s, int call) {
    for (int i = 0; i < s->config.disabled_correctors; i++)
        if (s->config.disable_corrector[i] == call - 1) return false;
    return call > 0;
}

/* How many outputs the prediction of this call uses. */
static int unipc_order(const kin_scheduler *s, int call) {
    int order = s->config.solver_order;
    if (s->config.lower_order_final && order > s->steps - call) order = s->steps - call;
    return order > call + 1 ? call + 1 : order;
}

static void unipc_write(kin_scheduler *s, int call, int to, const unipc_mix *mix) {
    kin_scheduler_add(s, call, to, UNIPC_KEPT, mix->kept);
    kin_scheduler_add(s, call, to, KIN_FROM_ESTIMATE, mix->estimate);
    for (int i = 0; i < s->config.solver_order; i++)
        kin_scheduler_add(s, call, to, UNIPC_M0 + i, mix->m[i]);
}

static void unipc_call(kin_scheduler *s, int call) {
    unipc_step next = unipc_weights(s, call, unipc_order(s, call), false);
    unipc_mix corrected = {0}, predicted = {0};
    bool correct = corrects(s, call);
    if (correct) {
        int order = unipc_order(s, call - 1);
        unipc_step step = unipc_weights(s, call - 1, order, true);
        corrected.kept = step.of_sample;
        for (int i = 0; i < order; i++) corrected.m[i] = step.weights[i];
        corrected.estimate = step.weights[order];
        unipc_write(s, call, UNIPC_KEPT, &corrected);
        predicted.kept = next.of_sample * corrected.kept;
        predicted.estimate = next.of_sample * corrected.estimate;
        for (int i = 0; i < order; i++) predicted.m[i] = next.of_sample * corrected.m[i];
    } else {
        kin_scheduler_set(s, call, UNIPC_KEPT, UNIPC_X, 1);
        kin_scheduler_set(s, call, UNIPC_X, UNIPC_X, next.of_sample);
    }
    predicted.estimate += next.weights[0];
    for (int i = 1; i < unipc_order(s, call); i++) predicted.m[i - 1] += next.weights[i];
    unipc_write(s, call, UNIPC_X, &predicted);
}

kin_status kin_scheduler_fill_unipc(kin_scheduler *s) {
    int order = s->config.solver_order;
    kin_status status = space_solver(s, UNIPC_M0 + order);
    for (int i = 0; status == KIN_OK && i < s->calls; i++) {
        set_estimate(s, i, s->config.predict_x0);
        unipc_call(s, i);
        kin_scheduler_set(s, i, UNIPC_M0, KIN_FROM_ESTIMATE, 1);
        for (int k = 1; k < order; k++) kin_scheduler_set(s, i, UNIPC_M0 + k, UNIPC_M0 + k - 1, 1);
    }
    return status;
}
