/* Sums over the ranks of a group. What the ops mean here is what they mean for one rank; the
 * runtime does the rest (runtime/collective.c). */
#include "ops/collective.h"

#include <string.h>

#include "ops/layout.h"
#include "ops/optimizer.h"

static kin_status infer(kin_infer *infer) {
    const kin_reduction *attrs = infer->attrs;
    kin_status status = kin_infer_inputs(infer, 1, 1);
    if (status == KIN_OK) status = kin_infer_float(infer, 0);
    if (status != KIN_OK) return status;
    if (attrs->kind != KIN_REDUCTION_SUM && attrs->kind != KIN_REDUCTION_MEAN)
        return kin_infer_fail(infer, "the kind is neither sum nor mean");
    kin_infer_like(infer, 0, 0, infer->in[0]->dtype);
    return KIN_OK;
}

static void reference(const kin_reference *call) {
    memcpy(call->out[0], call->in[0],
           (size_t)kin_desc_count(&call->out_desc[0]) * sizeof **call->out);
}

/* Each rank's loss reads the result, and what is asked for is the slope of the sum of the losses.
 */
static void gradient(kin_gradient_call *call) {
    const kin_reduction *attrs = call->attrs;
    if (call->wanted[0])
        call->in_grad[0] = kin_all_reduce(call->graph, call->out_grad[0], attrs->kind);
}

static void lower(kin_lower_call *call) {
    call->out[0] = kin_copy(call->graph, call->in[0]);
}

static void lower_variable(kin_lower_call *call) {
    call->out[0] = kin_assign(call->graph, call->in[0], kin_copy(call->graph, call->in[0]));
}

static const kin_reduction sum = {KIN_REDUCTION_SUM}, mean = {KIN_REDUCTION_MEAN};

#define IN(...)                                                                                    \
    {                                                                                              \
        { .dtype = KIN_F32, __VA_ARGS__ }                                                          \
    }

static const kin_case cases[] = {
    {.name = "a number", .attrs = &sum, .input_count = 1, .inputs = IN(.rank = 0)},
    {.name = "sum", .attrs = &sum, .input_count = 1, .inputs = IN(.rank = 2, .dims = {3, 37})},
    {.name = "mean", .attrs = &mean, .input_count = 1, .inputs = IN(.rank = 1, .dims = {1031})},
    {.name = "transposed",
     .attrs = &mean,
     .input_count = 1,
     .inputs = IN(.rank = 2, .dims = {5, 8}, .layout = KIN_LAYOUT_TRANSPOSED)},
};

static const kin_case variable_cases[] = {
    {.name = "sum",
     .attrs = &sum,
     .input_count = 1,
     .inputs = IN(.rank = 2, .dims = {3, 37}, .fixed = true)},
    {.name = "mean",
     .attrs = &mean,
     .input_count = 1,
     .inputs = IN(.rank = 1, .dims = {1031}, .fixed = true)},
};

const kin_op kin_op_all_reduce = {
    .name = "all_reduce",
    .summary = "sum or mean of x over the ranks of the device's group; of one rank: x",
    .flags = KIN_OP_COLLECTIVE | KIN_OP_COMPOSITE,
    .attrs_size = sizeof(kin_reduction),
    .outputs = 1,
    .infer = infer,
    .reference = reference,
    .gradient = gradient,
    .lower = lower,
    .cases = cases,
    .case_count = sizeof cases / sizeof *cases,
};

const kin_op kin_op_all_reduce_variable = {
    .name = "all_reduce_variable",
    .summary = "the same, which takes the place of the variable x",
    .flags = KIN_OP_COLLECTIVE | KIN_OP_COMPOSITE | KIN_OP_UPDATE,
    .attrs_size = sizeof(kin_reduction),
    .outputs = 1,
    .aliases = {1},
    .infer = infer,
    .reference = reference,
    .lower = lower_variable,
    .cases = variable_cases,
    .case_count = sizeof variable_cases / sizeof *variable_cases,
};

kin_tensor kin_all_reduce(kin_graph *graph, kin_tensor x, kin_reduction_kind kind) {
    kin_reduction attrs = {kind};
    return kin_append1(graph, &kin_op_all_reduce, &attrs, &x, 1);
}

kin_tensor kin_all_reduce_variable(kin_graph *graph, kin_tensor variable, kin_reduction_kind kind) {
    kin_reduction attrs = {kind};
    return kin_append1(graph, &kin_op_all_reduce_variable, &attrs, &variable, 1);
}
