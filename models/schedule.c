#include "models/schedule.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TABLE_COUNT = 11, MAX_STEPS = 1 << 20 };

void kin_schedule_free(kin_schedule *schedule) {
    if (!schedule) return;
    kin_free(schedule->context, schedule->betas);
    kin_free(schedule->context, schedule->timesteps);
    kin_free(schedule->context, schedule);
}

/* All tables in one block, `betas` first. */
static kin_status allocate(kin_context *context, int steps, kin_schedule **out_schedule) {
    kin_schedule *s = kin_calloc(context, 1, sizeof *s);
    if (!s) return KIN_OUT_OF_MEMORY;
    size_t n = (size_t)steps;
    s->context = context;
    s->steps = steps;
    s->timesteps = kin_calloc(context, n, sizeof *s->timesteps);
    double *block = s->betas = kin_calloc(context, TABLE_COUNT * n, sizeof *s->betas);
    if (!s->timesteps || !block) {
        kin_schedule_free(s);
        return KIN_OUT_OF_MEMORY;
    }
    double **tables[TABLE_COUNT] = {&s->betas,
                                    &s->alphas_cumprod,
                                    &s->alphas_cumprod_prev,
                                    &s->sqrt_alphas_cumprod,
                                    &s->sqrt_one_minus_alphas_cumprod,
                                    &s->sqrt_recip_alphas_cumprod,
                                    &s->sqrt_recipm1_alphas_cumprod,
                                    &s->posterior_variance,
                                    &s->posterior_log_variance_clipped,
                                    &s->posterior_mean_coef1,
                                    &s->posterior_mean_coef2};
    for (size_t i = 0; i < TABLE_COUNT; i++) *tables[i] = block + i * n;
    *out_schedule = s;
    return KIN_OK;
}

/* x in the precision of the tables. A basic operation on two floats, done in double and rounded to
 * f32, is the one that f32 arithmetic gives. */
static double in_table(const kin_schedule *s, double x) {
    return s->single ? (double)(float)x : x;
}

/* Everything else follows from the betas. The running product stays in double, as PyTorch's cumprod
 * on a CPU keeps it. */
static void fill_tables(kin_schedule *s) {
    double product = 1, before = 1;
    for (int i = 0; i < s->steps; i++) {
        double beta = s->betas[i], alpha = in_table(s, 1 - beta);
        product *= alpha;
        double now = in_table(s, product);
        double rest = in_table(s, 1 - now), rest_before = in_table(s, 1 - before);
        double inverse = in_table(s, 1 / now);
        s->alphas_cumprod[i] = now;
        s->alphas_cumprod_prev[i] = before;
        s->sqrt_alphas_cumprod[i] = in_table(s, sqrt(now));
        s->sqrt_one_minus_alphas_cumprod[i] = in_table(s, sqrt(rest));
        s->sqrt_recip_alphas_cumprod[i] = in_table(s, sqrt(inverse));
        s->sqrt_recipm1_alphas_cumprod[i] = in_table(s, sqrt(in_table(s, inverse - 1)));
        s->posterior_variance[i] = in_table(s, in_table(s, beta * rest_before) / rest);
        s->posterior_log_variance_clipped[i] = in_table(s, log(s->posterior_variance[i]));
        s->posterior_mean_coef1[i] =
            in_table(s, in_table(s, beta * in_table(s, sqrt(before))) / rest);
        s->posterior_mean_coef2[i] =
            in_table(s, in_table(s, rest_before * in_table(s, sqrt(alpha))) / rest);
        before = now;
    }
    /* Entry 0 would be log 0. A schedule of one step has no entry 1: its beta serves. */
    s->posterior_log_variance_clipped[0] =
        s->steps > 1 ? s->posterior_log_variance_clipped[1] : in_table(s, log(s->betas[0]));
}

void kin_schedule_use_single(kin_schedule *schedule) {
    schedule->single = true;
    for (int i = 0; i < schedule->steps; i++) schedule->betas[i] = (float)schedule->betas[i];
    fill_tables(schedule);
}

kin_status kin_schedule_create_steps(kin_context *context, int diffusion_steps, const int *kept,
                                     int count, kin_schedule **out_schedule) {
    *out_schedule = NULL;
    if (diffusion_steps < 1 || diffusion_steps > MAX_STEPS || count < 1 || count > diffusion_steps)
        return kin_fail(context, KIN_INVALID,
                        "a schedule of %d steps cannot be respaced to %d steps", diffusion_steps,
                        count);
    for (int i = 0; i < count; i++)
        if (kept[i] < 0 || kept[i] >= diffusion_steps || (i > 0 && kept[i] <= kept[i - 1]))
            return kin_fail(context, KIN_INVALID,
                            "the kept steps of a schedule must rise within 0..%d",
                            diffusion_steps - 1);
    kin_schedule *s;
    kin_status status = allocate(context, count, &s);
    if (status != KIN_OK) return status;
    double scale = 1000.0 / diffusion_steps, first = scale * 1e-4, last = scale * 0.02;
    double product = 1, product_kept = 1;
    for (int t = 0, k = 0; t < diffusion_steps && k < count; t++) {
        double fraction = diffusion_steps > 1 ? (double)t / (diffusion_steps - 1) : 0;
        double beta = first + (last - first) * fraction;
        product *= 1 - beta;
        if (t != kept[k]) continue;
        s->timesteps[k] = t;
        s->betas[k++] = 1 - product / product_kept;
        product_kept = product;
    }
    fill_tables(s);
    *out_schedule = s;
    return KIN_OK;
}

/* Reads a positive number up to ',' or the end. */
static bool read_count(const char **text, int *out_count) {
    char *end;
    if (**text < '0' || **text > '9') return false;
    long value = strtol(*text, &end, 10);
    if (value < 1 || value > MAX_STEPS || (*end != 0 && *end != ',')) return false;
    *text = *end ? end + 1 : end;
    *out_count = (int)value;
    return *end == 0 || **text != 0;
}

/* The smallest stride that gives exactly `wanted` steps. */
static int spaced_evenly(int steps, int wanted, int *kept) {
    for (int stride = 1; stride < steps || stride == 1; stride++) {
        if ((steps + stride - 1) / stride != wanted) continue;
        for (int i = 0; i < wanted; i++) kept[i] = i * stride;
        return wanted;
    }
    return 0;
}

/* Equal sections with `counts` steps each, the first and the last of a section always kept. */
static int spaced_sections(int steps, const int *counts, int sections, int *kept) {
    int size = steps / sections, extra = steps % sections, start = 0, taken = 0;
    for (int i = 0; i < sections; i++) {
        int length = size + (i < extra ? 1 : 0);
        if (length < counts[i]) return 0;
        double stride = counts[i] > 1 ? (double)(length - 1) / (counts[i] - 1) : 1, at = 0;
        for (int k = 0; k < counts[i]; k++) {
            kept[taken++] = start + (int)rint(at);
            at += stride; /* a running sum, as in the original: its rounding decides ties */
        }
        start += length;
    }
    return taken;
}

/* Returns how many steps are kept, 0 if the text makes no sense. counts and kept hold `steps`. */
static int parse_respacing(int steps, const char *text, int *counts, int *kept) {
    int count = 0, sections = 0;
    if (!text || !*text) {
        counts[0] = steps;
        return spaced_sections(steps, counts, 1, kept);
    }
    if (strncmp(text, "ddim", 4) == 0) {
        text += 4;
        if (strchr(text, ',') || !read_count(&text, &count) || count > steps) return 0;
        return spaced_evenly(steps, count, kept);
    }
    while (*text) {
        if (sections == steps || !read_count(&text, &counts[sections++])) return 0;
    }
    return spaced_sections(steps, counts, sections, kept);
}

kin_status kin_schedule_create(kin_context *context, int diffusion_steps, const char *respacing,
                               kin_schedule **out_schedule) {
    *out_schedule = NULL;
    if (diffusion_steps < 1 || diffusion_steps > MAX_STEPS)
        return kin_fail(context, KIN_INVALID, "diffusion_steps is %d; 1 to %d are possible",
                        diffusion_steps, MAX_STEPS);
    size_t room = (size_t)diffusion_steps;
    int *kept = kin_calloc(context, 2 * room, sizeof *kept);
    if (!kept) return KIN_OUT_OF_MEMORY;
    int count = parse_respacing(diffusion_steps, respacing, kept + room, kept);
    kin_status status;
    if (count == 0)
        status = kin_fail(context, KIN_INVALID,
                          "cannot respace %d steps to '%s': write a number of steps (\"100\"), a "
                          "list of sections (\"10,10,20\") or \"ddim\" and a number that a whole "
                          "stride gives (\"ddim50\")",
                          diffusion_steps, respacing);
    else status = kin_schedule_create_steps(context, diffusion_steps, kept, count, out_schedule);
    kin_free(context, kept);
    return status;
}
