/* Softmax over the last axis, and its gradient. */
#include "ops/softmax.h"

#include <math.h>

#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/reduce.h"

static kin_status infer_forward(kin_infer *infer) {
    kin_status status = kin_infer_inputs(infer, 1, 1);
    if (status == KIN_OK) status = kin_infer_float(infer, 0);
    if (status == KIN_OK) status = kin_infer_rank(infer, 0, 1, KIN_MAX_RANK);
    if (status == KIN_OK) kin_infer_like(infer, 0, 0, infer->in[0]->dtype);
    return status;
}

static kin_status infer_grad(kin_infer *infer) {
    kin_status status = kin_infer_inputs(infer, 2, 2);
    if (status == KIN_OK) status = kin_infer_float(infer, 0);
    if (status == KIN_OK) status = kin_infer_float(infer, 1);
    if (status == KIN_OK) status = kin_infer_rank(infer, 1, 1, KIN_MAX_RANK);
    if (status == KIN_OK) status = kin_infer_same_shape(infer, 0, 1);
    if (status == KIN_OK) kin_infer_like(infer, 0, 1, infer->in[1]->dtype);
    return status;
}

static int64_t width_of(const kin_desc *x) {
    return x->dims[x->rank - 1];
}

static void reference_forward(const kin_reference *call) {
    int64_t width = width_of(&call->in_desc[0]), count = kin_desc_count(&call->in_desc[0]);
    for (int64_t start = 0; start < count; start += width) {
        const double *x = call->in[0] + start;
        double *y = call->out[0] + start, max = -INFINITY, sum = 0;
        for (int64_t i = 0; i < width; i++) max = x[i] > max ? x[i] : max;
        for (int64_t i = 0; i < width; i++) sum += y[i] = exp(x[i] - max);
        for (int64_t i = 0; i < width; i++) y[i] /= sum;
    }
}

static void reference_grad(const kin_reference *call) {
    int64_t width = width_of(&call->in_desc[1]), count = kin_desc_count(&call->in_desc[1]);
    for (int64_t start = 0; start < count; start += width) {
        const double *dy = call->in[0] + start, *y = call->in[1] + start;
        double dot = 0;
        for (int64_t i = 0; i < width; i++) dot += dy[i] * y[i];
        for (int64_t i = 0; i < width; i++) call->out[0][start + i] = y[i] * (dy[i] - dot);
    }
}

static void gradient(kin_gradient_call *call) {
    kin_tensor inputs[] = {call->out_grad[0], call->out[0]};
    call->in_grad[0] = kin_append1(call->graph, &kin_op_softmax_grad, NULL, inputs, 2);
}

static uint32_t last_axis(kin_graph *graph, kin_tensor x) {
    return 1u << (kin_rank(graph, x) - 1);
}

static void lower_forward(kin_lower_call *call) {
    kin_graph *graph = call->graph;
    kin_tensor x = kin_cast(graph, call->in[0], KIN_F32);
    uint32_t axis = last_axis(graph, x);
    kin_tensor e = kin_exp(graph, kin_sub(graph, x, kin_max(graph, x, axis, true)));
    kin_tensor y = kin_div(graph, e, kin_sum(graph, e, axis, true));
    call->out[0] = kin_cast(graph, y, kin_dtype_of(graph, call->in[0]));
}

static void lower_grad(kin_lower_call *call) {
    kin_graph *graph = call->graph;
    kin_tensor dy = kin_cast(graph, call->in[0], KIN_F32);
    kin_tensor y = kin_cast(graph, call->in[1], KIN_F32);
    kin_tensor dot = kin_sum(graph, kin_mul(graph, dy, y), last_axis(graph, y), true);
    kin_tensor dx = kin_mul(graph, y, kin_sub(graph, dy, dot));
    call->out[0] = kin_cast(graph, dx, kin_dtype_of(graph, call->in[1]));
}

static void cost_forward(const kin_cost_call *call, kin_cost *cost) {
    cost->flops = 12 * (double)kin_desc_count(&call->out[0]);
    cost->reduction = (double)width_of(&call->in[0]);
}

static void cost_grad(const kin_cost_call *call, kin_cost *cost) {
    cost->flops = 4 * (double)kin_desc_count(&call->out[0]);
    cost->reduction = (double)width_of(&call->in[0]);
}

#define IN(r, ...)                                                                                 \
    {                                                                                              \
        .dtype = KIN_F32, .rank = (r), .dims = { __VA_ARGS__ }                                     \
    }
#define AS(how, r, ...)                                                                            \
    { .dtype = KIN_F32, .rank = (r), .dims = {__VA_ARGS__}, .layout = (how) }
#define SCALED(how_much, r, ...)                                                                   \
    { .dtype = KIN_F32, .rank = (r), .dims = {__VA_ARGS__}, .scale = (how_much) }

static const kin_case forward_cases[] = {
    {.name = "one element", .input_count = 1, .inputs = {IN(2, 4, 1)}},
    {.name = "rank 1", .input_count = 1, .inputs = {IN(1, 7)}},
    {.name = "odd rows", .input_count = 1, .inputs = {IN(3, 2, 3, 37)}},
    {.name = "large values",
     .input_count = 1,
     .inputs = {{.dtype = KIN_F32, .rank = 2, .dims = {4, 33}, .scale = 300, .constant = true}}},
    {.name = "small values", .input_count = 1, .inputs = {SCALED(1e-4, 2, 3, 20)}},
    {.name = "wide rows", .input_count = 1, .inputs = {IN(2, 2, 4133)}},
    {.name = "padded rows", .input_count = 1, .inputs = {AS(KIN_LAYOUT_PADDED, 3, 2, 5, 33)}},
    {.name = "swapped axes", .input_count = 1, .inputs = {AS(KIN_LAYOUT_TRANSPOSED, 3, 5, 6, 20)}},
    {.name = "transposed", .input_count = 1, .inputs = {AS(KIN_LAYOUT_TRANSPOSED, 2, 9, 17)}},
    {.name = "16 heads of 1024 x 1024",
     .input_count = 1,
     .inputs = {IN(3, 16, 1024, 1024)},
     .bench = true},
};

static const kin_case grad_cases[] = {
    {.name = "one element", .input_count = 2, .inputs = {IN(2, 4, 1), IN(2, 4, 1)}},
    {.name = "rank 1", .input_count = 2, .inputs = {IN(1, 7), IN(1, 7)}},
    {.name = "odd rows", .input_count = 2, .inputs = {IN(3, 2, 3, 37), IN(3, 2, 3, 37)}},
    {.name = "views",
     .input_count = 2,
     .inputs = {AS(KIN_LAYOUT_PADDED, 3, 2, 5, 33), AS(KIN_LAYOUT_TRANSPOSED, 3, 2, 5, 33)}},
    {.name = "16 heads of 1024 x 1024",
     .input_count = 2,
     .inputs = {IN(3, 16, 1024, 1024), IN(3, 16, 1024, 1024)},
     .bench = true},
};

const kin_op kin_op_softmax = {
    .name = "softmax",
    .summary = "exp(x - max) / sum(exp(x - max)) over the last axis",
    .flags = KIN_OP_COMPOSITE,
    .outputs = 1,
    .infer = infer_forward,
    .reference = reference_forward,
    .gradient = gradient,
    .lower = lower_forward,
    .cost = cost_forward,
    .cases = forward_cases,
    .case_count = sizeof forward_cases / sizeof *forward_cases,
};

const kin_op kin_op_softmax_grad = {
    .name = "softmax_grad",
    .summary = "dy, y -> y * (dy - sum(dy * y)) over the last axis, with y = softmax(x)",
    .flags = KIN_OP_COMPOSITE,
    .outputs = 1,
    .infer = infer_grad,
    .reference = reference_grad,
    .lower = lower_grad,
    .cost = cost_grad,
    .cases = grad_cases,
    .case_count = sizeof grad_cases / sizeof *grad_cases,
};

kin_tensor kin_softmax(kin_graph *graph, kin_tensor x) {
    return kin_append1(graph, &kin_op_softmax, NULL, &x, 1);
}
