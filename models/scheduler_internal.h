/* Shared by the files that fill a scheduler's table. */
#ifndef KIN_MODELS_SCHEDULER_INTERNAL_H
#define KIN_MODELS_SCHEDULER_INTERNAL_H

#include "models/scheduler.h"

/* A combination of the sample and the model's output. */
typedef struct kin_mix {
    double x, m;
} kin_mix;

/* x0 and the noise, as the output says, at a level with signal a and noise s:
 * x = a x0 + s noise. */
kin_mix kin_scheduler_x0(kin_prediction prediction, double a, double s);
kin_mix kin_scheduler_epsilon(kin_prediction prediction, double a, double s);

/* Row of a call (and of a sample). */
double *kin_scheduler_row(const kin_scheduler *s, int call, int row);
/* Column of what slot `to` takes: a slot's number, or one of these. */
enum { KIN_FROM_OUTPUT = -3, KIN_FROM_ESTIMATE, KIN_FROM_NOISE };
int kin_scheduler_column(const kin_scheduler *s, int to, int from);
/* Sets, or adds to, a coefficient of row 0. */
void kin_scheduler_set(kin_scheduler *s, int call, int to, int from, double value);
void kin_scheduler_add(kin_scheduler *s, int call, int to, int from, double value);

/* Makes the arrays for so many calls and slots; call c's timestep is 0 until it is set. */
kin_status kin_scheduler_allocate(kin_scheduler *s, int calls, int slots);
/* Timesteps, rising, of `count` steps by the table of the first or (solver) the second kind; out
 * has room for count + 1. KIN_INVALID if they leave 0 .. train_steps - 1. */
kin_status kin_scheduler_space(const kin_scheduler *s, bool solver, bool fractions, int count,
                               double *out);
/* Sigmas of the run from falling timesteps [steps], which Karras' and Lu's sigmas replace, and the
 * final one: fills s->sigmas [steps + 1]. round: replaced timesteps are rounded. */
kin_status kin_scheduler_sigmas(kin_scheduler *s, double *timesteps, bool round);
/* alphas_cumprod before step 0 counts as `first`. */
double kin_scheduler_alpha(const kin_scheduler *s, int t, double first);

/* Each allocates and fills a table. */
kin_status kin_scheduler_fill_ddpm(kin_scheduler *s);
kin_status kin_scheduler_fill_ddim(kin_scheduler *s, double eta);
kin_status kin_scheduler_fill_euler(kin_scheduler *s);
kin_status kin_scheduler_fill_flow(kin_scheduler *s, double mu);
kin_status kin_scheduler_fill_rectified(kin_scheduler *s, const kin_scheduler_options *options);
kin_status kin_scheduler_fill_pndm(kin_scheduler *s);
kin_status kin_scheduler_fill_dpm(kin_scheduler *s);
kin_status kin_scheduler_fill_unipc(kin_scheduler *s);

#endif
