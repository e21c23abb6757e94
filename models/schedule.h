/* The noise schedule of IDDPM (Nichol and Dhariwal 2021, arXiv:2102.09672) as Open-Sora, Latte and
 * DiT use it: linear betas, all tables in double, and respacing to fewer steps. */
#ifndef KIN_MODELS_SCHEDULE_H
#define KIN_MODELS_SCHEDULE_H

#include "runtime/context.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Tables of `steps` entries each; entry i belongs to step i, step 0 is the last of a generation.
 * a = 1 - beta; A = alphas_cumprod; A_prev = A of the step before, 1 at step 0. */
typedef struct kin_schedule {
    kin_context *context;
    int steps;
    bool single;    /* the tables hold numbers of f32: see kin_schedule_use_single */
    int *timesteps; /* what the model is told: the step of the full schedule */
    double *betas, *alphas_cumprod, *alphas_cumprod_prev;
    double *sqrt_alphas_cumprod, *sqrt_one_minus_alphas_cumprod;
    double *sqrt_recip_alphas_cumprod;      /* sqrt(1 / A) */
    double *sqrt_recipm1_alphas_cumprod;    /* sqrt(1 / A - 1) */
    double *posterior_variance;             /* beta (1 - A_prev) / (1 - A) */
    double *posterior_log_variance_clipped; /* its logarithm, entry 0 taken from entry 1 */
    double *posterior_mean_coef1;           /* beta sqrt(A_prev) / (1 - A): of x_0 */
    double *posterior_mean_coef2;           /* (1 - A_prev) sqrt(a) / (1 - A): of x_t */
} kin_schedule;

/* diffusion_steps betas from 1e-4 to 0.02, both times 1000 / diffusion_steps, then respaced:
 *     "" or NULL     all steps
 *     "100"          one section: round(k * 999 / 99), k = 0 .. 99
 *     "10,10,20"     equal sections of the schedule, with so many steps each
 *     "ddim50"       the stride that gives exactly so many steps, from step 0
 * KIN_INVALID if the text is none of these or asks for more steps than there are. */
KIN_API kin_status kin_schedule_create(kin_context *context, int diffusion_steps,
                                       const char *respacing, kin_schedule **out_schedule);
/* The same, with the kept steps given: rising, within 0 .. diffusion_steps - 1. */
KIN_API kin_status kin_schedule_create_steps(kin_context *context, int diffusion_steps,
                                             const int *kept, int count,
                                             kin_schedule **out_schedule);
/* Rounds the betas to f32 and computes every other table anew in f32 arithmetic. Open-Sora 1.1
 * works with such tables; 1.0, Latte and DiT with tables in double. It shows at small steps: the
 * posterior's coefficient of x_0 at step 0 is 0.999834, not 1. */
KIN_API void kin_schedule_use_single(kin_schedule *schedule);
KIN_API void kin_schedule_free(kin_schedule *schedule);

#ifdef __cplusplus
}
#endif
#endif
