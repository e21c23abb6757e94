/* A graph run for some steps on a device and, in double, by the host's evaluator: behind
 * `kinora check model`.
 *
 * The rule. An output may differ from the one in double by runtime/check.h's tolerance times its
 * largest element, plus, since every node on the way may err by as much, the units of rounding
 * that the rule allows times what one unit at every node does to the result. That is measured by
 * evaluating the device's program in double with rounded results, step after step beside the exact
 * one. A device that rounds the operands of products is measured in the same way. A single number
 * (a loss) is a small sample: it has the tolerance of the coarsest dtype in use, 2^-7 if products
 * or layers are bf16, and the largest change of all steps so far counts. */
#ifndef KIN_TOOLS_CHECK_MODEL_RUN_H
#define KIN_TOOLS_CHECK_MODEL_RUN_H

#include "tools/check/check_values.h"

enum { KIN_CHECK_MAX_OUTPUTS = 512 };

typedef struct kin_model_run kin_model_run;

typedef struct kin_model_verdict {
    bool passed;
    int compared;      /* outputs, over all steps */
    int controls;      /* wrong values that the comparison was given, and refused */
    double worst;      /* the largest error as a fraction of what is allowed */
    double relative;   /* the largest error relative to its output's largest element, of outputs
                          that are more than rounding */
    char message[400]; /* the first failure */
} kin_model_verdict;

/* Plans the graph on the device with the given values; ops that the device lacks run on the host
 * and show in the plan (kin_model_run_plan). Both graph and values stay the caller's. compute: the
 * dtype between the model's layers. Of an update's result in the graph the next step knows. */
kin_status kin_model_run_open(kin_graph *graph, kin_device *device, const kin_check_values *values,
                              kin_dtype compute, kin_model_run **out_run);
void kin_model_run_close(kin_model_run *run);
kin_plan *kin_model_run_plan(kin_model_run *run);
/* Writes an input, f32 or i64 or i32 as the graph has it, from doubles. */
kin_status kin_model_run_set(kin_model_run *run, const char *input, const double *data);
/* From now on the input starts each step as the output ended the one before. */
void kin_model_run_carry(kin_model_run *run, const char *output, const char *input);
/* One step on both, and compares every output whose name does not start with "after."; failures go
 * to the verdict, which goes on where it was. Not KIN_OK only if it could not run. */
kin_status kin_model_run_step(kin_model_run *run, kin_model_verdict *verdict);
/* A negative control: doubles the variable in the device's store, runs a step, and counts a control
 * if an output is then off; else it is a failure. */
kin_status kin_model_run_control(kin_model_run *run, const char *variable,
                                 kin_model_verdict *verdict);

#endif
