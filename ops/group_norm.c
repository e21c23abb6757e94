/* Group norm, with an optional SiLU behind it, and its gradient. */
#include <math.h>

#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/norm.h"
#include "ops/reduce.h"
#include "ops/views.h"

/* x [B, C, ...] is input `x`; vectors [C] follow it. */
static kin_status check_operands(kin_infer *infer, int x, int inputs) {
    const kin_group_norm_attrs *attrs = infer->attrs;
    kin_status status = kin_infer_inputs(infer, inputs, inputs);
    if (status == KIN_OK) status = kin_infer_float(infer, x);
    if (status == KIN_OK) status = kin_infer_rank(infer, x, 2, KIN_MAX_RANK);
    if (status != KIN_OK) return status;
    int64_t channels = infer->in[x]->dims[1];
    if (attrs->groups < 1 || channels % attrs->groups != 0)
        return kin_infer_fail(infer, "%lld channels cannot be split into %d groups",
                              (long long)channels, attrs->groups);
    if (!(attrs->eps >= 0) || !isfinite(attrs->eps))
        return kin_infer_fail(infer, "eps must be finite and not negative, not %g", attrs->eps);
    for (int i = x + 1; i < inputs; i++) {
        status = kin_infer_float(infer, i);
        if (status != KIN_OK) return status;
        if (infer->in[i]->rank != 1 || infer->in[i]->dims[0] != channels)
            return kin_infer_fail(infer, "input %d must have shape [%lld], as axis 1 of x", i,
                                  (long long)channels);
    }
    return KIN_OK;
}

static kin_status infer_forward(kin_infer *infer) {
    kin_status status = check_operands(infer, 0, 3);
    if (status == KIN_OK) kin_infer_like(infer, 0, 0, infer->in[0]->dtype);
    return status;
}

static kin_status infer_grad(kin_infer *infer) {
    kin_status status = check_operands(infer, 1, 4);
    if (status == KIN_OK) status = kin_infer_float(infer, 0);
    if (status == KIN_OK) status = kin_infer_same_shape(infer, 0, 1);
    if (status != KIN_OK) return status;
    for (int i = 0; i < 3; i++) kin_infer_like(infer, i, i + 1, infer->in[i + 1]->dtype);
    return KIN_OK;
}

/* ---- references ---------------------------------------------------------------------------- */

typedef struct shape {
    int64_t batch, channels, positions, width; /* channels of a group */
} shape;

static shape shape_of(const kin_desc *x, int groups) {
    shape s = {x->dims[0], x->dims[1], 1, x->dims[1] / groups};
    for (int axis = 2; axis < x->rank; axis++) s.positions *= x->dims[axis];
    return s;
}

/* hat = (x - mean) / sqrt(var + eps); returns the factor. */
static double normalize(const double *x, int64_t n, double eps, double *hat) {
    double mean = 0, square = 0;
    for (int64_t i = 0; i < n; i++) mean += x[i] / (double)n;
    for (int64_t i = 0; i < n; i++) square += (x[i] - mean) * (x[i] - mean);
    double scale = 1 / sqrt(square / (double)n + eps);
    for (int64_t i = 0; i < n; i++) hat[i] = (x[i] - mean) * scale;
    return scale;
}

static double sigmoid(double x) {
    return 1 / (1 + exp(-x));
}

static void reference_forward(const kin_reference *call) {
    const kin_group_norm_attrs *attrs = call->attrs;
    shape s = shape_of(&call->in_desc[0], attrs->groups);
    int64_t n = s.width * s.positions;
    for (int64_t start = 0; start < s.batch * s.channels * s.positions; start += n) {
        double *y = call->out[0] + start;
        normalize(call->in[0] + start, n, attrs->eps, y);
        for (int64_t i = 0; i < n; i++) {
            int64_t channel = (start + i) / s.positions % s.channels;
            double z = y[i] * call->in[1][channel] + call->in[2][channel];
            y[i] = attrs->silu ? z * sigmoid(z) : z;
        }
    }
}

/* The slope of what follows the normalisation, without the weight. */
static double slope(const kin_group_norm_attrs *attrs, double z) {
    double s = sigmoid(z);
    return attrs->silu ? s * (1 + z * (1 - s)) : 1;
}

static void reference_group(const kin_reference *call, const shape *s, int64_t start) {
    const kin_group_norm_attrs *attrs = call->attrs;
    const double *dy = call->in[0] + start, *weight = call->in[2], *bias = call->in[3];
    double *dx = call->out[0] + start, mean = 0, hat_mean = 0;
    int64_t n = s->width * s->positions;
    double scale = normalize(call->in[1] + start, n, attrs->eps, dx);
    for (int64_t i = 0; i < n; i++) {
        int64_t channel = (start + i) / s->positions % s->channels;
        double dz = dy[i] * slope(attrs, dx[i] * weight[channel] + bias[channel]);
        mean += dz * weight[channel] / (double)n;
        hat_mean += dz * weight[channel] * dx[i] / (double)n;
        call->out[1][channel] += dz * dx[i];
        call->out[2][channel] += dz;
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t channel = (start + i) / s->positions % s->channels;
        double dz = dy[i] * slope(attrs, dx[i] * weight[channel] + bias[channel]);
        dx[i] = scale * (dz * weight[channel] - mean - dx[i] * hat_mean);
    }
}

static void reference_grad(const kin_reference *call) {
    const kin_group_norm_attrs *attrs = call->attrs;
    shape s = shape_of(&call->in_desc[1], attrs->groups);
    for (int64_t i = 0; i < s.channels; i++) call->out[1][i] = call->out[2][i] = 0;
    for (int64_t start = 0; start < s.batch * s.channels * s.positions;
         start += s.width * s.positions)
        reference_group(call, &s, start);
}

/* ---- gradient and lowerings ---------------------------------------------------------------- */

static void gradient(kin_gradient_call *call) {
    kin_tensor inputs[] = {call->out_grad[0], call->in[0], call->in[1], call->in[2]};
    kin_tensor grads[KIN_MAX_OUTPUTS];
    kin_append(call->graph, &kin_op_group_norm_grad, call->attrs, inputs, 4, grads);
    for (int i = 0; i < 3; i++)
        if (call->wanted[i]) call->in_grad[i] = grads[i];
}

static kin_tensor as_f32(kin_graph *graph, kin_tensor x) {
    return kin_cast(graph, x, KIN_F32);
}

/* [B, C, ...] seen as [B, G, elements of a group], and as [B, C, positions]. */
static kin_tensor by_group(kin_graph *graph, kin_tensor x, int groups) {
    return kin_reshape(graph, x, 3, (int64_t[]){kin_dim(graph, x, 0), groups, -1});
}

static kin_tensor by_channel(kin_graph *graph, kin_tensor x, int64_t channels) {
    return kin_reshape(graph, x, 3, (int64_t[]){kin_dim(graph, x, 0), channels, -1});
}

/* A vector [C] as [C, 1], in f32. */
static kin_tensor column(kin_graph *graph, kin_tensor vector) {
    return kin_reshape(graph, as_f32(graph, vector), 2, (int64_t[]){-1, 1});
}

static kin_tensor group_mean(kin_graph *graph, kin_tensor x) {
    return kin_mean(graph, x, 1u << 2, true);
}

/* The normalised x [B, G, ...] and its factor [B, G, 1]. The mean is taken off twice: what rounding
 * left of a large one goes too. */
static kin_tensor lower_hat(kin_graph *graph, kin_tensor x, const kin_group_norm_attrs *attrs,
                            kin_tensor *out_scale) {
    x = by_group(graph, as_f32(graph, x), attrs->groups);
    for (int i = 0; i < 2; i++) x = kin_sub(graph, x, group_mean(graph, x));
    kin_tensor variance = group_mean(graph, kin_square(graph, x));
    *out_scale = kin_rsqrt(graph, kin_scale(graph, variance, 1, attrs->eps));
    return kin_mul(graph, x, *out_scale);
}

/* hat * weight + bias, all [B, C, positions]. */
static kin_tensor lower_affine(kin_graph *graph, kin_tensor hat, kin_tensor weight,
                               kin_tensor bias) {
    kin_tensor y = kin_mul(graph, hat, column(graph, weight));
    return kin_add(graph, y, column(graph, bias));
}

static kin_tensor restore(kin_graph *graph, kin_tensor y, kin_tensor like) {
    kin_desc desc = *kin_tensor_desc(graph, like);
    return kin_cast(graph, kin_reshape(graph, y, desc.rank, desc.dims), desc.dtype);
}

static void lower_forward(kin_lower_call *call) {
    kin_graph *graph = call->graph;
    const kin_group_norm_attrs *attrs = call->attrs;
    kin_tensor scale, hat = lower_hat(graph, call->in[0], attrs, &scale);
    kin_tensor y = by_channel(graph, hat, kin_dim(graph, call->in[0], 1));
    y = lower_affine(graph, y, call->in[1], call->in[2]);
    if (attrs->silu) y = kin_silu(graph, y);
    call->out[0] = restore(graph, y, call->in[0]);
}

static void lower_grad(kin_lower_call *call) {
    kin_graph *graph = call->graph;
    const kin_group_norm_attrs *attrs = call->attrs;
    int64_t channels = kin_dim(graph, call->in[1], 1);
    kin_tensor scale, hat = lower_hat(graph, call->in[1], attrs, &scale);
    kin_tensor channel_hat = by_channel(graph, hat, channels);
    kin_tensor dz = by_channel(graph, as_f32(graph, call->in[0]), channels);
    if (attrs->silu) {
        kin_tensor z = lower_affine(graph, channel_hat, call->in[2], call->in[3]);
        kin_tensor s = kin_sigmoid(graph, z);
        kin_tensor rest = kin_mul(graph, z, kin_scale(graph, s, -1, 1));
        dz = kin_mul(graph, dz, kin_mul(graph, s, kin_scale(graph, rest, 1, 1)));
    }
    kin_tensor g = kin_mul(graph, dz, column(graph, call->in[2]));
    g = by_group(graph, g, attrs->groups);
    kin_tensor along = group_mean(graph, kin_mul(graph, g, hat));
    kin_tensor dx = kin_sub(graph, g, group_mean(graph, g));
    dx = kin_mul(graph, kin_sub(graph, dx, kin_mul(graph, hat, along)), scale);
    call->out[0] = restore(graph, dx, call->in[1]);
    kin_tensor dweight = kin_sum(graph, kin_mul(graph, dz, channel_hat), 5u, false);
    call->out[1] = restore(graph, dweight, call->in[2]);
    call->out[2] = restore(graph, kin_sum(graph, dz, 5u, false), call->in[3]);
}

/* ---- cost and cases ------------------------------------------------------------------------ */

static double group_size(const kin_cost_call *call, const kin_desc *x) {
    const kin_group_norm_attrs *attrs = call->attrs;
    return (double)kin_desc_count(x) / (double)(x->dims[0] * attrs->groups);
}

static void cost_forward(const kin_cost_call *call, kin_cost *cost) {
    const kin_group_norm_attrs *attrs = call->attrs;
    cost->flops = (attrs->silu ? 14 : 8) * (double)kin_desc_count(&call->out[0]);
    cost->reduction = group_size(call, &call->in[0]);
}

static void cost_grad(const kin_cost_call *call, kin_cost *cost) {
    const kin_group_norm_attrs *attrs = call->attrs;
    double count = (double)kin_desc_count(&call->out[0]), size = group_size(call, &call->in[1]);
    double of_channel = count / (double)call->in[1].dims[1];
    cost->flops = (attrs->silu ? 30 : 20) * count;
    cost->reduction = size > of_channel ? size : of_channel;
}

#define IN(r, ...)                                                                                 \
    {                                                                                              \
        .dtype = KIN_F32, .rank = (r), .dims = { __VA_ARGS__ }                                     \
    }
#define SWAPPED(r, ...)                                                                            \
    { .dtype = KIN_F32, .rank = (r), .dims = {__VA_ARGS__}, .layout = KIN_LAYOUT_TRANSPOSED }
/* No gradient check: that of one element is 0 but for rounding. */
#define FIXED(r, ...)                                                                              \
    { .dtype = KIN_F32, .rank = (r), .dims = {__VA_ARGS__}, .constant = true }
#define LARGE_MEAN(r, ...)                                                                         \
    {                                                                                              \
        .dtype = KIN_F32, .rank = (r), .dims = {__VA_ARGS__}, .fill = KIN_FILL_POSITIVE,           \
        .scale = 1000                                                                              \
    }
#define FORWARD(title, attributes, c, x)                                                           \
    {                                                                                              \
        .name = title, .attrs = &(attributes), .input_count = 3, .inputs = {                       \
            x,                                                                                     \
            IN(1, c),                                                                              \
            IN(1, c)                                                                               \
        }                                                                                          \
    }
#define GRAD(title, attributes, c, dy, x)                                                          \
    {                                                                                              \
        .name = title, .attrs = &(attributes), .input_count = 4, .inputs = {                       \
            dy,                                                                                    \
            x,                                                                                     \
            IN(1, c),                                                                              \
            IN(1, c)                                                                               \
        }                                                                                          \
    }
#define PASS(...) __VA_ARGS__

static const kin_group_norm_attrs one = {1e-5, 1, 0}, two = {1e-6, 2, 0}, three = {1e-5, 3, 0};
static const kin_group_norm_attrs four_silu = {1e-6, 4, 1}, all = {1e-6, 32, 1};

static const kin_case forward_cases[] = {
    FORWARD("one element", one, 1, PASS(FIXED(2, 3, 1))),
    FORWARD("no positions, one group", one, 5, PASS(IN(2, 3, 5))),
    FORWARD("one group", one, 3, PASS(IN(4, 2, 3, 5, 7))),
    FORWARD("a group per channel", three, 3, PASS(IN(3, 2, 3, 37))),
    FORWARD("large mean", two, 8, PASS(LARGE_MEAN(4, 2, 8, 7, 5))),
    FORWARD("video, SiLU", four_silu, 12, PASS(IN(5, 1, 12, 3, 5, 2))),
    FORWARD("channels last in memory", four_silu, 8, PASS(SWAPPED(3, 8, 8, 19))),
    FORWARD("32 groups, SiLU", all, 64, PASS(IN(4, 2, 64, 9, 11))),
    {.name = "128 images, 64 x 32 x 32",
     .attrs = &all,
     .input_count = 3,
     .inputs = {IN(4, 128, 64, 32, 32), IN(1, 64), IN(1, 64)},
     .bench = true},
    {.name = "128 x 17 x 128 x 128",
     .attrs = &all,
     .input_count = 3,
     .inputs = {IN(5, 1, 128, 17, 128, 128), IN(1, 128), IN(1, 128)},
     .bench = true},
};

static const kin_case grad_cases[] = {
    GRAD("no positions, one group", one, 5, PASS(IN(2, 3, 5)), PASS(IN(2, 3, 5))),
    GRAD("a group per channel", three, 3, PASS(IN(3, 2, 3, 37)), PASS(IN(3, 2, 3, 37))),
    GRAD("large mean", two, 8, PASS(IN(4, 2, 8, 7, 5)), PASS(LARGE_MEAN(4, 2, 8, 7, 5))),
    GRAD("video, SiLU", four_silu, 12, PASS(IN(5, 1, 12, 3, 5, 2)), PASS(IN(5, 1, 12, 3, 5, 2))),
    GRAD("views", four_silu, 8, PASS(SWAPPED(3, 8, 8, 19)), PASS(SWAPPED(3, 8, 8, 19))),
    {.name = "128 images, 64 x 32 x 32",
     .attrs = &all,
     .input_count = 4,
     .inputs = {IN(4, 128, 64, 32, 32), IN(4, 128, 64, 32, 32), IN(1, 64), IN(1, 64)},
     .bench = true},
};

const kin_op kin_op_group_norm = {
    .name = "group_norm",
    .summary = "x [B, C, ...]: each group of channels normalised, * weight + bias, then SiLU if "
               "asked for (arXiv:1803.08494)",
    .flags = KIN_OP_COMPOSITE,
    .attrs_size = sizeof(kin_group_norm_attrs),
    .outputs = 1,
    .infer = infer_forward,
    .reference = reference_forward,
    .gradient = gradient,
    .lower = lower_forward,
    .cost = cost_forward,
    .cases = forward_cases,
    .case_count = sizeof forward_cases / sizeof *forward_cases,
};

const kin_op kin_op_group_norm_grad = {
    .name = "group_norm_grad",
    .summary = "dy, x, weight, bias -> dx, dweight, dbias of group_norm; the SiLU is recomputed",
    .flags = KIN_OP_COMPOSITE,
    .attrs_size = sizeof(kin_group_norm_attrs),
    .outputs = 3,
    .infer = infer_grad,
    .reference = reference_grad,
    .lower = lower_grad,
    .cost = cost_grad,
    .cases = grad_cases,
    .case_count = sizeof grad_cases / sizeof *grad_cases,
};

kin_tensor kin_group_norm(kin_graph *graph, kin_tensor x, kin_tensor weight, kin_tensor bias,
                          int groups, double eps, bool silu) {
    kin_group_norm_attrs attrs = {eps, groups, silu};
    kin_tensor inputs[] = {x, weight, bias};
    return kin_append1(graph, &kin_op_group_norm, &attrs, inputs, 3);
}
