/* Element-wise ops of one operand, made from the expression list. */
#include "ops/elementwise.h"

#include "ops/elementwise_rules.h"

/* ---- rules and references that all of a kind share ---- */

typedef double (*unary_fn)(double x, double p, double q);

static const kin_elementwise_attrs no_attrs = {0, 0};

static const kin_elementwise_attrs *attrs_of(const kin_op *op, const void *attrs) {
    return op->attrs_size != 0 ? attrs : &no_attrs;
}

static kin_status unary_infer(kin_infer *infer) {
    kin_status status = kin_infer_inputs(infer, 1, 1);
    if (status == KIN_OK) status = kin_infer_float(infer, 0);
    if (status == KIN_OK) kin_infer_like(infer, 0, 0, infer->in[0]->dtype);
    return status;
}

static kin_status unary_grad_infer(kin_infer *infer) {
    return same_shape_infer(infer, 2);
}

static void unary_reference(const kin_reference *call, unary_fn value) {
    const kin_elementwise_attrs *attrs = attrs_of(call->op, call->attrs);
    int64_t count = kin_desc_count(&call->out_desc[0]);
    for (int64_t i = 0; i < count; i++) call->out[0][i] = value(call->in[0][i], attrs->p, attrs->q);
}

static void unary_grad_reference(const kin_reference *call, unary_fn slope) {
    const kin_elementwise_attrs *attrs = attrs_of(call->op, call->attrs);
    int64_t count = kin_desc_count(&call->out_desc[0]);
    for (int64_t i = 0; i < count; i++)
        call->out[0][i] = call->in[1][i] * slope(call->in[0][i], attrs->p, attrs->q);
}

/* ---- unary functions: cases ---- */

#define UNARY_CASES(kind)                                                                          \
    {"scalar", NULL, 1, {{.dtype = KIN_F32, DIMS(0, 0), .fill = kind}}, false},                    \
        {"odd", NULL, 1, {{.dtype = KIN_F32, DIMS(3, 3, 5, 7), .fill = kind}}, false},             \
        {"transposed",                                                                             \
         NULL,                                                                                     \
         1,                                                                                        \
         {{.dtype = KIN_F32, DIMS(3, 5, 3, 37), .fill = kind, .layout = KIN_LAYOUT_TRANSPOSED}},   \
         false},                                                                                   \
        {"padded",                                                                                 \
         NULL,                                                                                     \
         1,                                                                                        \
         {{.dtype = KIN_F32, DIMS(2, 3, 17), .fill = kind, .layout = KIN_LAYOUT_PADDED}},          \
         false},                                                                                   \
    {                                                                                              \
        "bench", NULL, 1, {{.dtype = KIN_F32, DIMS(2, 4096, 1152), .fill = kind}}, true            \
    }

#define GRAD_CASES(kind)                                                                           \
    {"scalar",                                                                                     \
     NULL,                                                                                         \
     2,                                                                                            \
     {{.dtype = KIN_F32, DIMS(0, 0), .fill = kind}, {.dtype = KIN_F32, DIMS(0, 0)}},               \
     false},                                                                                       \
    {                                                                                              \
        "views", NULL, 2,                                                                          \
            {{.dtype = KIN_F32, DIMS(2, 5, 37), .fill = kind, .layout = KIN_LAYOUT_TRANSPOSED},    \
             {.dtype = KIN_F32, DIMS(2, 5, 37), .layout = KIN_LAYOUT_PADDED}},                     \
            false                                                                                  \
    }

static const kin_case normal_cases[] = {
    UNARY_CASES(KIN_FILL_NORMAL),
    {"large", NULL, 1, {{.dtype = KIN_F32, DIMS(1, 99), .scale = 8}}, false},
};
static const kin_case positive_cases[] = {UNARY_CASES(KIN_FILL_POSITIVE)};
static const kin_case normal_grad_cases[] = {
    GRAD_CASES(KIN_FILL_NORMAL),
    {"large",
     NULL,
     2,
     {{.dtype = KIN_F32, DIMS(1, 99), .scale = 8}, {.dtype = KIN_F32, DIMS(1, 99)}},
     false},
};
static const kin_case positive_grad_cases[] = {GRAD_CASES(KIN_FILL_POSITIVE)};

#define PQ(a, b) (&(const kin_elementwise_attrs){(a), (b)})
static const kin_case scale_cases[] = {
    {"scalar", PQ(-0.5, 0.25), 1, {{.dtype = KIN_F32, DIMS(0, 0)}}, false},
    {"transposed",
     PQ(0.18215, 0),
     1,
     {{.dtype = KIN_F32, DIMS(3, 5, 3, 37), .layout = KIN_LAYOUT_TRANSPOSED}},
     false},
    {"padded",
     PQ(1, 1),
     1,
     {{.dtype = KIN_F32, DIMS(2, 3, 17), .layout = KIN_LAYOUT_PADDED}},
     false},
};
static const kin_case clamp_cases[] = {
    {"scalar", PQ(-1, 1), 1, {{.dtype = KIN_F32, DIMS(0, 0)}}, false},
    {"transposed",
     PQ(-0.5, 0.75),
     1,
     {{.dtype = KIN_F32, DIMS(3, 5, 3, 37), .layout = KIN_LAYOUT_TRANSPOSED}},
     false},
    {"one_sided", PQ(0, INFINITY), 1, {{.dtype = KIN_F32, DIMS(1, 33)}}, false},
};
static const kin_case clamp_grad_cases[] = {
    {"views",
     PQ(-0.5, 0.75),
     2,
     {{.dtype = KIN_F32, DIMS(2, 5, 37), .layout = KIN_LAYOUT_TRANSPOSED},
      {.dtype = KIN_F32, DIMS(2, 5, 37), .layout = KIN_LAYOUT_PADDED}},
     false},
};

/* ---- unary functions: one op each, and one for its gradient ---- */

/* Cases, attributes and summary of each. */
#define INFO_exp normal, 0, "y = e^x"
#define INFO_log positive, 0, "y = ln x"
#define INFO_sqrt positive, 0, "y = sqrt(x)"
#define INFO_rsqrt positive, 0, "y = 1 / sqrt(x)"
#define INFO_square normal, 0, "y = x^2"
#define INFO_abs normal, 0, "y = |x|"
#define INFO_sin normal, 0, "y = sin x"
#define INFO_cos normal, 0, "y = cos x"
#define INFO_tanh normal, 0, "y = tanh x"
#define INFO_sigmoid normal, 0, "y = 1 / (1 + e^-x)"
#define INFO_relu normal, 0, "y = max(x, 0)"
#define INFO_silu normal, 0, "y = x / (1 + e^-x) (arXiv:1702.03118)"
#define INFO_gelu normal, 0, "y = x/2 (1 + erf(x / sqrt 2)) (arXiv:1606.08415)"
#define INFO_gelu_tanh                                                                             \
    normal, 0, "y = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) (arXiv:1606.08415, section 2)"
#define INFO_clamp clamp, sizeof(kin_elementwise_attrs), "y = p if x < p, q if x > q, else x"
#define INFO_neg normal, 0, "y = -x"
#define INFO_scale scale, sizeof(kin_elementwise_attrs), "y = p x + q"

#define UNARY_OP(op_name, value, kind, size, text)                                                 \
    static double op_name##_value(double x, double p, double q) {                                  \
        (void)p, (void)q;                                                                          \
        return value;                                                                              \
    }                                                                                              \
    static void op_name##_reference(const kin_reference *call) {                                   \
        unary_reference(call, op_name##_value);                                                    \
    }                                                                                              \
    const kin_op kin_op_##op_name = {                                                              \
        .name = #op_name,                                                                          \
        .summary = text,                                                                           \
        .attrs_size = size,                                                                        \
        .outputs = 1,                                                                              \
        .infer = unary_infer,                                                                      \
        .reference = op_name##_reference,                                                          \
        .gradient = op_name##_gradient,                                                            \
        .cost = elementwise_cost,                                                                  \
        .cases = kind##_cases,                                                                     \
        .case_count = COUNT(kind##_cases),                                                         \
    };

#define UNARY_GRAD_OP(op_name, slope, kind, size, text)                                            \
    static double op_name##_slope(double x, double p, double q) {                                  \
        (void)x, (void)p, (void)q;                                                                 \
        return slope;                                                                              \
    }                                                                                              \
    static void op_name##_grad_reference(const kin_reference *call) {                              \
        unary_grad_reference(call, op_name##_slope);                                               \
    }                                                                                              \
    const kin_op kin_op_##op_name##_grad = {                                                       \
        .name = #op_name "_grad",                                                                  \
        .summary = "dx = dy * dy/dx at x, for " text,                                              \
        .attrs_size = size,                                                                        \
        .outputs = 1,                                                                              \
        .infer = unary_grad_infer,                                                                 \
        .reference = op_name##_grad_reference,                                                     \
        .cost = elementwise_cost,                                                                  \
        .cases = kind##_grad_cases,                                                                \
        .case_count = COUNT(kind##_grad_cases),                                                    \
    };                                                                                             \
    static void op_name##_gradient(kin_gradient_call *call) {                                      \
        const kin_tensor in[2] = {call->in[0], call->out_grad[0]};                                 \
        call->in_grad[0] = kin_append1(call->graph, &kin_op_##op_name##_grad, call->attrs, in, 2); \
    }

#define DEFINE_UNARY(name, value, slope)                                                           \
    APPLY(UNARY_GRAD_OP, name, slope, INFO_##name)                                                 \
    APPLY(UNARY_OP, name, value, INFO_##name)

KX_UNARY(DEFINE_UNARY)

static void neg_gradient(kin_gradient_call *call) {
    call->in_grad[0] = kin_neg(call->graph, call->out_grad[0]);
}

static void scale_gradient(kin_gradient_call *call) {
    const kin_elementwise_attrs *attrs = call->attrs;
    call->in_grad[0] = kin_scale(call->graph, call->out_grad[0], attrs->p, 0);
}

#define DEFINE_AFFINE(name, value) APPLY(UNARY_OP, name, value, INFO_##name)

KX_AFFINE(DEFINE_AFFINE)

#define UNARY_BUILDER(function, op_name)                                                           \
    kin_tensor function(kin_graph *graph, kin_tensor x) {                                          \
        return kin_append1(graph, &kin_op_##op_name, NULL, &x, 1);                                 \
    }

UNARY_BUILDER(kin_neg, neg)
UNARY_BUILDER(kin_exp, exp)
UNARY_BUILDER(kin_ln, log)
UNARY_BUILDER(kin_sqrt, sqrt)
UNARY_BUILDER(kin_rsqrt, rsqrt)
UNARY_BUILDER(kin_square, square)
UNARY_BUILDER(kin_abs, abs)
UNARY_BUILDER(kin_sin, sin)
UNARY_BUILDER(kin_cos, cos)
UNARY_BUILDER(kin_tanh, tanh)
UNARY_BUILDER(kin_sigmoid, sigmoid)
UNARY_BUILDER(kin_relu, relu)
UNARY_BUILDER(kin_silu, silu)
UNARY_BUILDER(kin_gelu, gelu)
UNARY_BUILDER(kin_gelu_tanh, gelu_tanh)

kin_tensor kin_clamp(kin_graph *graph, kin_tensor x, double low, double high) {
    kin_elementwise_attrs attrs = {low, high};
    return kin_append1(graph, &kin_op_clamp, &attrs, &x, 1);
}

kin_tensor kin_scale(kin_graph *graph, kin_tensor x, double a, double b) {
    kin_elementwise_attrs attrs = {a, b};
    return kin_append1(graph, &kin_op_scale, &attrs, &x, 1);
}
