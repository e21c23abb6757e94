/* Element-wise ops of two and three operands, made from the expression list. */
#include "ops/elementwise.h"

#include "ops/elementwise_rules.h"
#include "ops/layout.h"
#include "ops/reduce.h"

typedef double (*binary_fn)(double a, double b);

static kin_status broadcast_infer(kin_infer *infer, int in_count, int first_float) {
    kin_status status = kin_infer_inputs(infer, in_count, in_count);
    if (status == KIN_OK) status = one_float_dtype(infer, first_float);
    if (status != KIN_OK) return status;
    int rank = 0;
    int64_t dims[KIN_MAX_RANK];
    for (int i = 0; i < in_count; i++)
        if (!kin_broadcast_shape(&rank, dims, infer->in[i]->rank, infer->in[i]->dims))
            return kin_infer_fail(infer, "the shapes cannot be broadcast to one");
    infer->out[0] = kin_desc_dense(infer->in[first_float]->dtype, rank, dims);
    return KIN_OK;
}

static kin_status binary_infer(kin_infer *infer) {
    return broadcast_infer(infer, 2, 0);
}

static void binary_reference(const kin_reference *call, binary_fn value) {
    const kin_desc *out = &call->out_desc[0];
    int64_t count = kin_desc_count(out);
    kin_walk a = kin_walk_start(&call->in_desc[0], out->rank, out->dims);
    kin_walk b = kin_walk_start(&call->in_desc[1], out->rank, out->dims);
    for (int64_t i = 0; i < count; i++) {
        call->out[0][i] = value(call->in[0][a.offset], call->in[1][b.offset]);
        kin_walk_next(&a);
        kin_walk_next(&b);
    }
}

/* ---- binary functions ---- */

/* Brings the gradient of a broadcast result back to the shape of an input. */
static kin_tensor sum_like(kin_gradient_call *call, kin_tensor gradient, int input) {
    const kin_desc desc = *kin_tensor_desc(call->graph, call->in[input]);
    return kin_sum_to(call->graph, gradient, desc.rank, desc.dims);
}

static void add_gradient(kin_gradient_call *call) {
    for (int i = 0; i < 2; i++)
        if (call->wanted[i]) call->in_grad[i] = sum_like(call, call->out_grad[0], i);
}

static void sub_gradient(kin_gradient_call *call) {
    if (call->wanted[0]) call->in_grad[0] = sum_like(call, call->out_grad[0], 0);
    if (call->wanted[1])
        call->in_grad[1] = kin_neg(call->graph, sum_like(call, call->out_grad[0], 1));
}

static void mul_gradient(kin_gradient_call *call) {
    for (int i = 0; i < 2; i++)
        if (call->wanted[i])
            call->in_grad[i] =
                sum_like(call, kin_mul(call->graph, call->out_grad[0], call->in[1 - i]), i);
}

/* y = a / b: da = dy / b, db = -dy y / b. */
static void div_gradient(kin_gradient_call *call) {
    kin_graph *graph = call->graph;
    kin_tensor over_b = kin_div(graph, call->out_grad[0], call->in[1]);
    if (call->wanted[0]) call->in_grad[0] = sum_like(call, over_b, 0);
    if (call->wanted[1])
        call->in_grad[1] = kin_neg(graph, sum_like(call, kin_mul(graph, over_b, call->out[0]), 1));
}

/* The gradient goes to the operand that was chosen; equal operands get a half each. */
static void choice_gradient(kin_gradient_call *call, int winner_of_greater) {
    kin_graph *graph = call->graph;
    kin_tensor sign = kin_sub(graph, kin_greater(graph, call->in[0], call->in[1]),
                              kin_less(graph, call->in[0], call->in[1]));
    for (int i = 0; i < 2; i++) {
        if (!call->wanted[i]) continue;
        kin_tensor share = kin_scale(graph, sign, i == winner_of_greater ? 0.5 : -0.5, 0.5);
        call->in_grad[i] = sum_like(call, kin_mul(graph, call->out_grad[0], share), i);
    }
}

static void maximum_gradient(kin_gradient_call *call) {
    choice_gradient(call, 0);
}

static void minimum_gradient(kin_gradient_call *call) {
    choice_gradient(call, 1);
}

static void gated_gelu_gradient(kin_gradient_call *call) {
    const kin_tensor in[3] = {call->in[0], call->in[1], call->out_grad[0]};
    kin_tensor out[2] = {KIN_NONE, KIN_NONE};
    kin_append(call->graph, &kin_op_gated_gelu_grad, NULL, in, 3, out);
    for (int i = 0; i < 2; i++)
        if (call->wanted[i]) call->in_grad[i] = out[i];
}

static void gated_gelu_lower(kin_lower_call *call) {
    call->out[0] = kin_mul(call->graph, kin_gelu_tanh(call->graph, call->in[0]), call->in[1]);
}

static kin_status gated_gelu_infer(kin_infer *infer) {
    return same_shape_infer(infer, 2);
}

static const kin_case binary_cases[] = {
    {"scalars", NULL, 2, {{.dtype = KIN_F32, DIMS(0, 0)}, {.dtype = KIN_F32, DIMS(0, 0)}}, false},
    {"both_broadcast",
     NULL,
     2,
     {{.dtype = KIN_F32, DIMS(4, 3, 1, 5, 1)}, {.dtype = KIN_F32, DIMS(3, 4, 1, 7)}},
     false},
    {"bias_of_transposed",
     NULL,
     2,
     {{.dtype = KIN_F32, DIMS(3, 5, 3, 37), .layout = KIN_LAYOUT_TRANSPOSED},
      {.dtype = KIN_F32, DIMS(1, 37)}},
     false},
    {"scalar_first",
     NULL,
     2,
     {{.dtype = KIN_F32, DIMS(0, 0)}, {.dtype = KIN_F32, DIMS(2, 3, 35)}},
     false},
    {"rank_8",
     NULL,
     2,
     {{.dtype = KIN_F32, DIMS(8, 2, 1, 3, 1, 2, 1, 2, 3)},
      {.dtype = KIN_F32, DIMS(8, 1, 2, 1, 2, 1, 2, 2, 1)}},
     false},
    {"same_shape",
     NULL,
     2,
     {{.dtype = KIN_F32, DIMS(2, 7, 19), .layout = KIN_LAYOUT_PADDED},
      {.dtype = KIN_F32, DIMS(2, 7, 19)}},
     false},
    {"bench",
     NULL,
     2,
     {{.dtype = KIN_F32, DIMS(2, 4096, 1152)}, {.dtype = KIN_F32, DIMS(2, 4096, 1152)}},
     true},
};

/* Divisors away from 0. */
static const kin_case div_cases[] = {
    {"scalars",
     NULL,
     2,
     {{.dtype = KIN_F32, DIMS(0, 0)}, {.dtype = KIN_F32, DIMS(0, 0), .fill = KIN_FILL_POSITIVE}},
     false},
    {"both_broadcast",
     NULL,
     2,
     {{.dtype = KIN_F32, DIMS(4, 3, 1, 5, 1)},
      {.dtype = KIN_F32, DIMS(3, 4, 1, 7), .fill = KIN_FILL_POSITIVE}},
     false},
    {"views",
     NULL,
     2,
     {{.dtype = KIN_F32, DIMS(2, 9, 37), .layout = KIN_LAYOUT_TRANSPOSED},
      {.dtype = KIN_F32, DIMS(2, 9, 37), .fill = KIN_FILL_POSITIVE, .layout = KIN_LAYOUT_PADDED}},
     false},
};

static const kin_case gated_gelu_cases[] = {
    {"scalars", NULL, 2, {{.dtype = KIN_F32, DIMS(0, 0)}, {.dtype = KIN_F32, DIMS(0, 0)}}, false},
    {"odd",
     NULL,
     2,
     {{.dtype = KIN_F32, DIMS(3, 2, 3, 21)}, {.dtype = KIN_F32, DIMS(3, 2, 3, 21)}},
     false},
    {"views",
     NULL,
     2,
     {{.dtype = KIN_F32, DIMS(2, 9, 37), .layout = KIN_LAYOUT_TRANSPOSED},
      {.dtype = KIN_F32, DIMS(2, 9, 37), .layout = KIN_LAYOUT_PADDED}},
     false},
    {"bench_t5_xxl",
     NULL,
     2,
     {{.dtype = KIN_F32, DIMS(2, 300, 10240)}, {.dtype = KIN_F32, DIMS(2, 300, 10240)}},
     true},
};

/* Flags, gradient, lowering, rule, cases and summary of each. */
#define INFO_add KIN_OP_ROLE_ADD, add_gradient, NULL, binary_infer, binary, "y = a + b"
#define INFO_sub 0, sub_gradient, NULL, binary_infer, binary, "y = a - b"
#define INFO_mul 0, mul_gradient, NULL, binary_infer, binary, "y = a b"
#define INFO_div 0, div_gradient, NULL, binary_infer, div, "y = a / b"
#define INFO_maximum 0, maximum_gradient, NULL, binary_infer, binary, "y = max(a, b)"
#define INFO_minimum 0, minimum_gradient, NULL, binary_infer, binary, "y = min(a, b)"
#define INFO_less 0, NULL, NULL, binary_infer, binary, "y = 1 if a < b, else 0"
#define INFO_greater 0, NULL, NULL, binary_infer, binary, "y = 1 if a > b, else 0"
#define INFO_gated_gelu                                                                            \
    KIN_OP_COMPOSITE, gated_gelu_gradient, gated_gelu_lower, gated_gelu_infer, gated_gelu,         \
        "y = gelu_tanh(a) b (arXiv:2002.05202)"

#define BINARY_OP(op_name, value, op_flags, op_gradient, op_lower, op_infer, kind, text)           \
    static double op_name##_value(double a, double b) {                                            \
        return value;                                                                              \
    }                                                                                              \
    static void op_name##_reference(const kin_reference *call) {                                   \
        binary_reference(call, op_name##_value);                                                   \
    }                                                                                              \
    const kin_op kin_op_##op_name = {                                                              \
        .name = #op_name,                                                                          \
        .summary = text,                                                                           \
        .flags = op_flags,                                                                         \
        .outputs = 1,                                                                              \
        .infer = op_infer,                                                                         \
        .reference = op_name##_reference,                                                          \
        .gradient = op_gradient,                                                                   \
        .lower = op_lower,                                                                         \
        .cost = elementwise_cost,                                                                  \
        .cases = kind##_cases,                                                                     \
        .case_count = COUNT(kind##_cases),                                                         \
    };                                                                                             \
    kin_tensor kin_##op_name(kin_graph *graph, kin_tensor a, kin_tensor b) {                       \
        const kin_tensor in[2] = {a, b};                                                           \
        return kin_append1(graph, &kin_op_##op_name, NULL, in, 2);                                 \
    }

#define DEFINE_BINARY(name, value) APPLY(BINARY_OP, name, value, INFO_##name)

KX_BINARY(DEFINE_BINARY)

/* ---- gated_gelu_grad ---- */

static kin_status gated_gelu_grad_infer(kin_infer *infer) {
    return same_shape_infer(infer, 3);
}

#define PAIR_FUNCTIONS(name, first, second)                                                        \
    static double name##_first(double a, double b, double c) {                                     \
        return first;                                                                              \
    }                                                                                              \
    static double name##_second(double a, double b, double c) {                                    \
        (void)b;                                                                                   \
        return second;                                                                             \
    }

KX_TERNARY_PAIR(PAIR_FUNCTIONS)

static void gated_gelu_grad_reference(const kin_reference *call) {
    int64_t count = kin_desc_count(&call->out_desc[0]);
    for (int64_t i = 0; i < count; i++) {
        double a = call->in[0][i], b = call->in[1][i], dy = call->in[2][i];
        call->out[0][i] = gated_gelu_grad_first(a, b, dy);
        call->out[1][i] = gated_gelu_grad_second(a, b, dy);
    }
}

static void gated_gelu_grad_lower(kin_lower_call *call) {
    kin_graph *graph = call->graph;
    const kin_tensor a = call->in[0], b = call->in[1], dy = call->in[2];
    const kin_tensor in[2] = {a, kin_mul(graph, dy, b)};
    call->out[0] = kin_append1(graph, &kin_op_gelu_tanh_grad, NULL, in, 2);
    call->out[1] = kin_mul(graph, dy, kin_gelu_tanh(graph, a));
}

static const kin_case gated_gelu_grad_cases[] = {
    {"scalars",
     NULL,
     3,
     {{.dtype = KIN_F32, DIMS(0, 0)},
      {.dtype = KIN_F32, DIMS(0, 0)},
      {.dtype = KIN_F32, DIMS(0, 0)}},
     false},
    {"views",
     NULL,
     3,
     {{.dtype = KIN_F32, DIMS(2, 9, 37), .layout = KIN_LAYOUT_TRANSPOSED},
      {.dtype = KIN_F32, DIMS(2, 9, 37), .layout = KIN_LAYOUT_PADDED},
      {.dtype = KIN_F32, DIMS(2, 9, 37)}},
     false},
};

const kin_op kin_op_gated_gelu_grad = {
    .name = "gated_gelu_grad",
    .summary = "of y = gelu_tanh(a) b: da = dy b gelu_tanh'(a), db = dy gelu_tanh(a)",
    .flags = KIN_OP_COMPOSITE,
    .outputs = 2,
    .infer = gated_gelu_grad_infer,
    .reference = gated_gelu_grad_reference,
    .lower = gated_gelu_grad_lower,
    .cost = elementwise_cost,
    .cases = gated_gelu_grad_cases,
    .case_count = COUNT(gated_gelu_grad_cases),
};

/* ---- where ---- */

static kin_status where_infer(kin_infer *infer) {
    kin_status status = broadcast_infer(infer, 3, 1);
    if (status != KIN_OK) return status;
    switch (infer->in[0]->dtype) {
    case KIN_F32:
    case KIN_F16:
    case KIN_BF16:
    case KIN_I32:
    case KIN_U8:
    case KIN_BOOL:
        return KIN_OK;
    default:
        return kin_infer_fail(infer, "the condition must be f32, f16, bf16, i32, u8 or bool");
    }
}

static void where_reference(const kin_reference *call) {
    const kin_desc *out = &call->out_desc[0];
    int64_t count = kin_desc_count(out);
    kin_walk walks[3];
    for (int j = 0; j < 3; j++) walks[j] = kin_walk_start(&call->in_desc[j], out->rank, out->dims);
    for (int64_t i = 0; i < count; i++) {
        int chosen = call->in[0][walks[0].offset] != 0 ? 1 : 2;
        call->out[0][i] = call->in[chosen][walks[chosen].offset];
        for (int j = 0; j < 3; j++) kin_walk_next(&walks[j]);
    }
}

static void where_gradient(kin_gradient_call *call) {
    kin_graph *graph = call->graph;
    kin_tensor dy = call->out_grad[0];
    kin_tensor zero = kin_fill(graph, kin_dtype_of(graph, dy), 0, NULL, 0);
    if (call->wanted[1])
        call->in_grad[1] = sum_like(call, kin_where(graph, call->in[0], dy, zero), 1);
    if (call->wanted[2])
        call->in_grad[2] = sum_like(call, kin_where(graph, call->in[0], zero, dy), 2);
}

#define CONDITION(type, ...)                                                                       \
    { .dtype = (type), .fill = KIN_FILL_INDEX, .limit = 2, .constant = true, __VA_ARGS__ }
static const kin_case where_cases[] = {
    {"scalars",
     NULL,
     3,
     {CONDITION(KIN_BOOL, DIMS(0, 0)),
      {.dtype = KIN_F32, DIMS(0, 0)},
      {.dtype = KIN_F32, DIMS(0, 0)}},
     false},
    {"frames_of_a_mask",
     NULL,
     3,
     {CONDITION(KIN_F32, DIMS(4, 2, 3, 1, 1)),
      {.dtype = KIN_F32, DIMS(4, 2, 3, 5, 17)},
      {.dtype = KIN_F32, DIMS(4, 2, 1, 5, 17)}},
     false},
    {"views",
     NULL,
     3,
     {CONDITION(KIN_U8, DIMS(2, 9, 37), .layout = KIN_LAYOUT_PADDED),
      {.dtype = KIN_F32, DIMS(2, 9, 37), .layout = KIN_LAYOUT_TRANSPOSED},
      {.dtype = KIN_F32, DIMS(1, 37)}},
     false},
    {"i32",
     NULL,
     3,
     {CONDITION(KIN_I32, DIMS(2, 3, 1)),
      {.dtype = KIN_F32, DIMS(1, 19)},
      {.dtype = KIN_F32, DIMS(2, 3, 19)}},
     false},
};

const kin_op kin_op_where = {
    .name = "where",
    .summary = "y = a where the condition is not 0, else b",
    .outputs = 1,
    .infer = where_infer,
    .reference = where_reference,
    .gradient = where_gradient,
    .cost = elementwise_cost,
    .cases = where_cases,
    .case_count = COUNT(where_cases),
};

kin_tensor kin_where(kin_graph *graph, kin_tensor condition, kin_tensor a, kin_tensor b) {
    const kin_tensor in[3] = {condition, a, b};
    return kin_append1(graph, &kin_op_where, NULL, in, 3);
}
