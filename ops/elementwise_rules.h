/* What the files of the element-wise ops share: the expressions in double, and shape rules. */
#ifndef KIN_OPS_ELEMENTWISE_RULES_H
#define KIN_OPS_ELEMENTWISE_RULES_H

#include <math.h>

#include "ops/walk.h"
#include "runtime/op.h"

#define KX_C(c) (c)
#define KX_EXP(v) exp(v)
#define KX_LOG(v) log(v)
#define KX_SQRT(v) sqrt(v)
#define KX_SIN(v) sin(v)
#define KX_COS(v) cos(v)
#define KX_TANH(v) tanh(v)
#define KX_ERF(v) erf(v)
#define KX_SELECT(cond, v, w) ((cond) ? (v) : (w))
#include "ops/elementwise_expr.h"

#define APPLY(macro, ...) macro(__VA_ARGS__)
#define COUNT(array) (sizeof(array) / sizeof *(array))
#define DIMS(r, ...) .rank = (r), .dims = {__VA_ARGS__}

static inline void elementwise_cost(const kin_cost_call *call, kin_cost *cost) {
    for (int i = 0; i < call->out_count; i++) cost->flops += (double)kin_desc_count(&call->out[i]);
}

/* All operands float, of one dtype, starting with input `first`. */
static inline kin_status one_float_dtype(kin_infer *infer, int first) {
    kin_status status = kin_infer_float(infer, first);
    for (int i = first + 1; i < infer->in_count && status == KIN_OK; i++)
        if (infer->in[i]->dtype != infer->in[first]->dtype)
            status = kin_infer_fail(infer, "operands of different dtypes; cast one of them");
    return status;
}

/* The operands have one shape and one dtype, and so have all results. */
static inline kin_status same_shape_infer(kin_infer *infer, int in_count) {
    kin_status status = kin_infer_inputs(infer, in_count, in_count);
    if (status == KIN_OK) status = one_float_dtype(infer, 0);
    for (int i = 1; i < in_count && status == KIN_OK; i++)
        status = kin_infer_same_shape(infer, 0, i);
    for (int i = 0; i < infer->out_count && status == KIN_OK; i++)
        kin_infer_like(infer, i, 0, infer->in[0]->dtype);
    return status;
}

#endif
