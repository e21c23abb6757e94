/* The op suite: one case of one op on a device, held against the double reference. Behind
 * `kinora check ops` and `kinora check gradients`, and what a port must pass.
 *
 * The rules. Inputs come from Philox, keyed by the names of op and case, rounded to their dtype. A
 * result may differ from the reference by runtime/check.h's tolerance times the largest |wanted| of
 * the tensor. Where a result comes from several nodes (an op that was lowered, a gradient), each of
 * them may err by that, so that this is added: the units of rounding that the rule allows, times
 * what one unit at every node does to the result, which is measured by evaluating the same nodes in
 * double with rounded results. The same goes for an op that rounds within (KIN_OP_ROUNDS), by the
 * nodes of its lowering. On a device that rounds the operands of products, likewise:
 * kin_device_tolerance, and the units of that dtype times what the rounding of operands does.
 */
#ifndef KIN_TOOLS_OP_SUITE_H
#define KIN_TOOLS_OP_SUITE_H

#include "runtime/device.h"
#include "runtime/op.h"

typedef struct kin_suite kin_suite;

typedef enum kin_suite_verdict {
    KIN_SUITE_PASSED,
    KIN_SUITE_FAILED,
    KIN_SUITE_MISSING, /* the device has no kernel, and there is no lowering: see `missing` */
    KIN_SUITE_SKIPPED  /* nothing to try: a benchmark's case, another dtype, no gradient */
} kin_suite_verdict;

typedef struct kin_suite_result {
    kin_suite_verdict verdict;
    bool lowered;      /* the device has no kernel for the op itself */
    bool left_out;     /* skipped because the device does not store a dtype of the case */
    int controls;      /* wrong results that the comparison was given, and refused */
    double worst;      /* the largest error as a fraction of what is allowed */
    char missing[128]; /* the ops without a kernel, "softmax, sum" */
    char message[400]; /* why it failed or was skipped */
} kin_suite_result;

/* The device stays the caller's; it is used through a guard (guard_device.h). */
kin_status kin_suite_open(kin_device *device, kin_suite **out_suite);
void kin_suite_close(kin_suite *suite);

/* The results of an op: in a plan, twice, with the same bits; node by node (step mode), with the
 * same bits; and, if the op can be lowered, with its kernels hidden. Memory starts as NaN and is
 * guarded. A result with one element off by ten times what is allowed must be seen as wrong. dtype:
 * f32, f16 or bf16, for inputs that are not fixed. */
void kin_suite_run_results(kin_suite *suite, const kin_op *op, const kin_case *test,
                           kin_dtype dtype, kin_suite_result *out_result);
/* The same results from inputs that lie otherwise: dense ones are transposed views, or slices with
 * an offset of wider tensors. In a plan, twice. Skipped for views and where all inputs are scalars,
 * or such views already. */
void kin_suite_run_views(kin_suite *suite, const kin_op *op, const kin_case *test, kin_dtype dtype,
                         kin_suite_result *out_result);
/* A negative control through the device: its results are changed after the run, one element each,
 * and the case passes if it is then refused. */
void kin_suite_run_spoiled(kin_suite *suite, const kin_op *op, const kin_case *test,
                           kin_dtype dtype, kin_suite_result *out_result);
/* The gradient of sum(results * cotangents): in double, made of references, against central
 * differences of the reference (for f32 only); then the device's against that in double. */
void kin_suite_run_gradient(kin_suite *suite, const kin_op *op, const kin_case *test,
                            kin_dtype dtype, kin_suite_result *out_result);

/* What a walk over many cases came to. */
typedef struct kin_suite_counts {
    int passed, failed, missing, skipped;
    int lowered;  /* of those passed */
    int left_out; /* of those skipped: a dtype that the device does not store */
    int controls;
} kin_suite_counts;

void kin_suite_count(kin_suite_counts *counts, const kin_suite_result *result);

#endif
