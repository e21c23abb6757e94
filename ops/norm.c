/* Layer norm, its modulated form, RMS norm, and their gradients. */
#include "ops/norm.h"

#include <math.h>

#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/modulate.h"
#include "ops/reduce.h"

/* ---- shape rules --------------------------------------------------------------------------- */

static kin_status check_eps(kin_infer *infer) {
    const kin_norm_attrs *attrs = infer->attrs;
    if (attrs->eps >= 0 && isfinite(attrs->eps)) return KIN_OK;
    return kin_infer_fail(infer, "eps must be finite and not negative, not %g", attrs->eps);
}

/* Input `index`, if it is there, must be a vector as wide as the rows of x. */
static kin_status check_vector(kin_infer *infer, int index, const kin_desc *x) {
    if (!infer->in[index]) return KIN_OK;
    kin_status status = kin_infer_float(infer, index);
    if (status != KIN_OK) return status;
    int64_t width = x->dims[x->rank - 1];
    if (infer->in[index]->rank == 1 && infer->in[index]->dims[0] == width) return KIN_OK;
    return kin_infer_fail(infer, "input %d must have shape [%lld], as the last axis of x", index,
                          (long long)width);
}

/* x with vectors behind it gives one tensor like x. */
static kin_status norm_infer(kin_infer *infer, int inputs) {
    kin_status status = kin_infer_inputs(infer, inputs, inputs);
    if (status == KIN_OK) status = check_eps(infer);
    if (status == KIN_OK) status = kin_infer_float(infer, 0);
    if (status == KIN_OK) status = kin_infer_rank(infer, 0, 1, KIN_MAX_RANK);
    for (int i = 1; i < inputs && status == KIN_OK; i++)
        status = check_vector(infer, i, infer->in[0]);
    if (status == KIN_OK) kin_infer_like(infer, 0, 0, infer->in[0]->dtype);
    return status;
}

static kin_status layer_norm_infer(kin_infer *infer) {
    return norm_infer(infer, 3);
}

static kin_status rms_norm_infer(kin_infer *infer) {
    return norm_infer(infer, 2);
}

/* dy, x and the weight give dx, and vectors in the weight's dtype. */
static kin_status norm_grad_infer(kin_infer *infer) {
    kin_status status = kin_infer_inputs(infer, 3, 3);
    if (status == KIN_OK) status = check_eps(infer);
    if (status == KIN_OK) status = kin_infer_float(infer, 0);
    if (status == KIN_OK) status = kin_infer_float(infer, 1);
    if (status == KIN_OK) status = kin_infer_rank(infer, 1, 1, KIN_MAX_RANK);
    if (status == KIN_OK) status = kin_infer_same_shape(infer, 0, 1);
    if (status == KIN_OK) status = check_vector(infer, 2, infer->in[1]);
    if (status != KIN_OK) return status;
    const kin_desc *x = infer->in[1];
    kin_infer_like(infer, 0, 1, x->dtype);
    for (int j = 1; j < infer->out_count; j++)
        infer->out[j] =
            kin_desc_dense(infer->in[2] ? infer->in[2]->dtype : x->dtype, 1, &x->dims[x->rank - 1]);
    return KIN_OK;
}

/* Input `index` must be [B or 1, 1, C] for x [B, N, C]. */
static kin_status check_sample_vector(kin_infer *infer, int index, const kin_desc *x) {
    kin_status status = kin_infer_float(infer, index);
    if (status != KIN_OK) return status;
    const kin_desc *v = infer->in[index];
    if (v->rank == 3 && (v->dims[0] == 1 || v->dims[0] == x->dims[0]) && v->dims[1] == 1 &&
        v->dims[2] == x->dims[2])
        return KIN_OK;
    return kin_infer_fail(infer, "input %d must have shape [%lld or 1, 1, %lld]", index,
                          (long long)x->dims[0], (long long)x->dims[2]);
}

static kin_status modulate_infer(kin_infer *infer) {
    kin_status status = kin_infer_inputs(infer, 3, 3);
    if (status == KIN_OK) status = check_eps(infer);
    if (status == KIN_OK) status = kin_infer_float(infer, 0);
    if (status == KIN_OK) status = kin_infer_rank(infer, 0, 3, 3);
    if (status == KIN_OK) status = check_sample_vector(infer, 1, infer->in[0]);
    if (status == KIN_OK) status = check_sample_vector(infer, 2, infer->in[0]);
    if (status == KIN_OK) status = kin_infer_same_shape(infer, 1, 2);
    if (status == KIN_OK) kin_infer_like(infer, 0, 0, infer->in[0]->dtype);
    return status;
}

static kin_status modulate_grad_infer(kin_infer *infer) {
    kin_status status = kin_infer_inputs(infer, 3, 3);
    if (status == KIN_OK) status = check_eps(infer);
    if (status == KIN_OK) status = kin_infer_float(infer, 0);
    if (status == KIN_OK) status = kin_infer_float(infer, 1);
    if (status == KIN_OK) status = kin_infer_rank(infer, 1, 3, 3);
    if (status == KIN_OK) status = kin_infer_same_shape(infer, 0, 1);
    if (status == KIN_OK) status = check_sample_vector(infer, 2, infer->in[1]);
    if (status != KIN_OK) return status;
    kin_infer_like(infer, 0, 1, infer->in[1]->dtype);
    kin_infer_like(infer, 1, 2, infer->in[2]->dtype);
    kin_infer_like(infer, 2, 2, infer->in[2]->dtype);
    return KIN_OK;
}

/* ---- references ---------------------------------------------------------------------------- */

static int64_t width_of(const kin_desc *x) {
    return x->dims[x->rank - 1];
}

static double mean_of(const double *x, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i];
    return sum / (double)n;
}

/* hat = (x - mean) / sqrt(var + eps), or x / sqrt(mean(x^2) + eps); returns the factor. */
static double normalize_row(const double *x, int64_t n, double eps, bool centred, double *hat) {
    double mean = centred ? mean_of(x, n) : 0, square = 0;
    for (int64_t i = 0; i < n; i++) square += (x[i] - mean) * (x[i] - mean);
    double scale = 1 / sqrt(square / (double)n + eps);
    for (int64_t i = 0; i < n; i++) hat[i] = (x[i] - mean) * scale;
    return scale;
}

static double at_or(const double *values, int64_t index, double other) {
    return values ? values[index] : other;
}

static void norm_reference(const kin_reference *call, const double *weight, const double *bias,
                           bool centred) {
    const kin_norm_attrs *attrs = call->attrs;
    int64_t width = width_of(&call->in_desc[0]), count = kin_desc_count(&call->in_desc[0]);
    for (int64_t start = 0; start < count; start += width) {
        double *y = call->out[0] + start;
        normalize_row(call->in[0] + start, width, attrs->eps, centred, y);
        for (int64_t i = 0; i < width; i++) y[i] = y[i] * at_or(weight, i, 1) + at_or(bias, i, 0);
    }
}

static void layer_norm_reference(const kin_reference *call) {
    norm_reference(call, call->in[1], call->in[2], true);
}

static void rms_norm_reference(const kin_reference *call) {
    norm_reference(call, call->in[1], NULL, false);
}

static void modulate_reference(const kin_reference *call) {
    const kin_norm_attrs *attrs = call->attrs;
    const int64_t *dims = call->in_desc[0].dims;
    int64_t width = dims[2];
    for (int64_t row = 0; row < dims[0] * dims[1]; row++) {
        int64_t vector = call->in_desc[1].dims[0] == 1 ? 0 : row / dims[1] * width;
        double *y = call->out[0] + row * width;
        normalize_row(call->in[0] + row * width, width, attrs->eps, true, y);
        for (int64_t i = 0; i < width; i++)
            y[i] = y[i] * (1 + call->in[2][vector + i]) + call->in[1][vector + i];
    }
}

/* One row of dx, and its share of the vectors' gradients. With g = dy * factor:
 * dx = scale (g - mean(g) - hat mean(g hat)); dx first holds hat. */
static void grad_row(const double *dy, const double *x, const double *weight, double plus,
                     int64_t n, double eps, bool centred, double *dx, double *dweight,
                     double *dbias) {
    double scale = normalize_row(x, n, eps, centred, dx), g_mean = 0, gh_mean = 0;
    for (int64_t i = 0; i < n; i++) {
        double g = dy[i] * (at_or(weight, i, 1) + plus);
        g_mean += centred ? g / (double)n : 0;
        gh_mean += g * dx[i] / (double)n;
    }
    for (int64_t i = 0; i < n; i++) {
        double hat = dx[i];
        dx[i] = scale * (dy[i] * (at_or(weight, i, 1) + plus) - g_mean - hat * gh_mean);
        dweight[i] += dy[i] * hat;
        if (dbias) dbias[i] += dy[i];
    }
}

static void clear(double *values, int64_t count) {
    for (int64_t i = 0; i < count; i++) values[i] = 0;
}

static void norm_grad_reference(const kin_reference *call, bool centred) {
    const kin_norm_attrs *attrs = call->attrs;
    int64_t width = width_of(&call->in_desc[1]), count = kin_desc_count(&call->in_desc[1]);
    for (int j = 1; j < call->out_count; j++) clear(call->out[j], width);
    for (int64_t start = 0; start < count; start += width)
        grad_row(call->in[0] + start, call->in[1] + start, call->in[2], 0, width, attrs->eps,
                 centred, call->out[0] + start, call->out[1], centred ? call->out[2] : NULL);
}

static void layer_norm_grad_reference(const kin_reference *call) {
    norm_grad_reference(call, true);
}

static void rms_norm_grad_reference(const kin_reference *call) {
    norm_grad_reference(call, false);
}

static void modulate_grad_reference(const kin_reference *call) {
    const kin_norm_attrs *attrs = call->attrs;
    const int64_t *dims = call->in_desc[1].dims;
    int64_t width = dims[2];
    clear(call->out[1], kin_desc_count(&call->out_desc[1]));
    clear(call->out[2], kin_desc_count(&call->out_desc[2]));
    for (int64_t row = 0; row < dims[0] * dims[1]; row++) {
        int64_t vector = call->in_desc[2].dims[0] == 1 ? 0 : row / dims[1] * width;
        grad_row(call->in[0] + row * width, call->in[1] + row * width, call->in[2] + vector, 1,
                 width, attrs->eps, true, call->out[0] + row * width, call->out[2] + vector,
                 call->out[1] + vector);
    }
}

/* ---- gradients ----------------------------------------------------------------------------- */

/* Sets in_grad[input], if wanted, in the dtype of the input. */
static void give(kin_gradient_call *call, int input, kin_tensor gradient) {
    if (!call->wanted[input]) return;
    kin_dtype dtype = kin_dtype_of(call->graph, call->in[input]);
    call->in_grad[input] = kin_cast(call->graph, gradient, dtype);
}

static void layer_norm_gradient(kin_gradient_call *call) {
    kin_tensor inputs[] = {call->out_grad[0], call->in[0], call->in[1]}, grads[KIN_MAX_OUTPUTS];
    kin_append(call->graph, &kin_op_layer_norm_grad, call->attrs, inputs, 3, grads);
    for (int i = 0; i < 3; i++) give(call, i, grads[i]);
}

static void rms_norm_gradient(kin_gradient_call *call) {
    kin_tensor inputs[] = {call->out_grad[0], call->in[0], call->in[1]}, grads[KIN_MAX_OUTPUTS];
    kin_append(call->graph, &kin_op_rms_norm_grad, call->attrs, inputs, 3, grads);
    for (int i = 0; i < 2; i++) give(call, i, grads[i]);
}

static void modulate_gradient(kin_gradient_call *call) {
    kin_tensor inputs[] = {call->out_grad[0], call->in[0], call->in[2]}, grads[KIN_MAX_OUTPUTS];
    kin_append(call->graph, &kin_op_layer_norm_modulate_grad, call->attrs, inputs, 3, grads);
    for (int i = 0; i < 3; i++) give(call, i, grads[i]);
}

/* ---- lowerings ----------------------------------------------------------------------------- */

static kin_tensor as_f32(kin_graph *graph, kin_tensor x) {
    return kin_cast(graph, x, KIN_F32);
}

/* The mean over the last axis, kept with size 1. */
static kin_tensor row_mean(kin_graph *graph, kin_tensor x) {
    return kin_mean(graph, x, 1u << (kin_rank(graph, x) - 1), true);
}

/* 1 / sqrt(mean(x^2) + eps) */
static kin_tensor row_scale(kin_graph *graph, kin_tensor x, double eps) {
    kin_tensor square = row_mean(graph, kin_square(graph, x));
    return kin_rsqrt(graph, kin_scale(graph, square, 1, eps));
}

/* x in f32, without its mean. It is taken off twice: what rounding left of a large one goes too. */
static kin_tensor centre(kin_graph *graph, kin_tensor x, bool centred) {
    x = as_f32(graph, x);
    for (int i = 0; centred && i < 2; i++) x = kin_sub(graph, x, row_mean(graph, x));
    return x;
}

static kin_tensor times(kin_graph *graph, kin_tensor x, kin_tensor weight) {
    return weight.id ? kin_mul(graph, x, as_f32(graph, weight)) : x;
}

static void norm_lower(kin_lower_call *call, kin_tensor weight, kin_tensor bias, bool centred) {
    kin_graph *graph = call->graph;
    const kin_norm_attrs *attrs = call->attrs;
    kin_tensor x = centre(graph, call->in[0], centred);
    kin_tensor y = times(graph, kin_mul(graph, x, row_scale(graph, x, attrs->eps)), weight);
    if (bias.id) y = kin_add(graph, y, as_f32(graph, bias));
    call->out[0] = kin_cast(graph, y, kin_dtype_of(graph, call->in[0]));
}

static void layer_norm_lower(kin_lower_call *call) {
    norm_lower(call, call->in[1], call->in[2], true);
}

static void rms_norm_lower(kin_lower_call *call) {
    norm_lower(call, call->in[1], KIN_NONE, false);
}

static void modulate_lower(kin_lower_call *call) {
    kin_graph *graph = call->graph;
    const kin_norm_attrs *attrs = call->attrs;
    kin_tensor x = as_f32(graph, call->in[0]);
    kin_tensor y = kin_modulate(graph, kin_layer_norm(graph, x, KIN_NONE, KIN_NONE, attrs->eps),
                                as_f32(graph, call->in[1]), as_f32(graph, call->in[2]));
    call->out[0] = kin_cast(graph, y, kin_dtype_of(graph, call->in[0]));
}

/* dx from dy, x and the factor (which may be KIN_NONE), and dy * hat. */
static void lower_dx(kin_lower_call *call, kin_tensor factor, bool centred, kin_tensor *out_dy,
                     kin_tensor *out_dy_hat) {
    kin_graph *graph = call->graph;
    const kin_norm_attrs *attrs = call->attrs;
    kin_tensor dy = as_f32(graph, call->in[0]), x = centre(graph, call->in[1], centred);
    kin_tensor scale = row_scale(graph, x, attrs->eps), hat = kin_mul(graph, x, scale);
    kin_tensor g = times(graph, dy, factor);
    kin_tensor dx = kin_sub(graph, g, kin_mul(graph, hat, row_mean(graph, kin_mul(graph, g, hat))));
    if (centred) dx = kin_sub(graph, dx, row_mean(graph, g));
    dx = kin_mul(graph, dx, scale);
    call->out[0] = kin_cast(graph, dx, kin_dtype_of(graph, call->in[1]));
    *out_dy = dy;
    *out_dy_hat = kin_mul(graph, dy, hat);
}

/* x summed to a shape, in a dtype. */
static kin_tensor sum_like(kin_graph *graph, kin_tensor x, int rank, const int64_t *dims,
                           kin_dtype dtype) {
    return kin_cast(graph, kin_sum_to(graph, x, rank, dims), dtype);
}

static void norm_grad_lower(kin_lower_call *call, bool centred) {
    kin_graph *graph = call->graph;
    kin_tensor dy, dy_hat, source = call->in[2].id ? call->in[2] : call->in[1];
    kin_dtype dtype = kin_dtype_of(graph, source);
    int64_t width = kin_dim(graph, call->in[1], -1);
    lower_dx(call, call->in[2], centred, &dy, &dy_hat);
    call->out[1] = sum_like(graph, dy_hat, 1, &width, dtype);
    if (centred) call->out[2] = sum_like(graph, dy, 1, &width, dtype);
}

static void layer_norm_grad_lower(kin_lower_call *call) {
    norm_grad_lower(call, true);
}

static void rms_norm_grad_lower(kin_lower_call *call) {
    norm_grad_lower(call, false);
}

static void modulate_grad_lower(kin_lower_call *call) {
    kin_graph *graph = call->graph;
    kin_desc vector = *kin_tensor_desc(graph, call->in[2]);
    kin_tensor dy, dy_hat, factor = kin_scale(graph, as_f32(graph, call->in[2]), 1, 1);
    lower_dx(call, factor, true, &dy, &dy_hat);
    call->out[1] = sum_like(graph, dy, vector.rank, vector.dims, vector.dtype);
    call->out[2] = sum_like(graph, dy_hat, vector.rank, vector.dims, vector.dtype);
}

/* ---- cost ---------------------------------------------------------------------------------- */

static void norm_cost(const kin_cost_call *call, kin_cost *cost) {
    cost->flops = 8 * (double)kin_desc_count(&call->out[0]);
    cost->reduction = (double)width_of(&call->in[0]);
}

static void norm_grad_cost(const kin_cost_call *call, kin_cost *cost) {
    double count = (double)kin_desc_count(&call->out[0]), width = (double)width_of(&call->in[1]);
    cost->flops = 20 * count;
    cost->reduction = width > count / width ? width : count / width;
}

/* ---- cases --------------------------------------------------------------------------------- */

/* With one channel dx of the layer norms is exactly 0, which rounding keeps only where the factor
 * is 1; hence no weights there. */

#define IN(r, ...)                                                                                 \
    {                                                                                              \
        .dtype = KIN_F32, .rank = (r), .dims = { __VA_ARGS__ }                                     \
    }
#define AS(how, r, ...)                                                                            \
    { .dtype = KIN_F32, .rank = (r), .dims = {__VA_ARGS__}, .layout = (how) }
#define LARGE_MEAN(r, ...)                                                                         \
    {                                                                                              \
        .dtype = KIN_F32, .rank = (r), .dims = {__VA_ARGS__}, .fill = KIN_FILL_POSITIVE,           \
        .scale = 1000                                                                              \
    }
#define SMALL(r, ...)                                                                              \
    { .dtype = KIN_F32, .rank = (r), .dims = {__VA_ARGS__}, .scale = 1e-3 }
#define ZERO(r, ...)                                                                               \
    {                                                                                              \
        .dtype = KIN_F32, .rank = (r), .dims = {__VA_ARGS__}, .fill = KIN_FILL_ZERO,               \
        .constant = true                                                                           \
    }
#define ABSENT                                                                                     \
    { .rank = -1 }
#define CASE(title, attributes, count, ...)                                                        \
    {                                                                                              \
        .name = title, .attrs = &(attributes), .input_count = count, .inputs = { __VA_ARGS__ }     \
    }
#define BENCH(title, attributes, count, ...)                                                       \
    {                                                                                              \
        .name = title, .attrs = &(attributes), .input_count = count, .inputs = {__VA_ARGS__},      \
        .bench = true                                                                              \
    }

static const kin_norm_attrs eps5 = {1e-5}, eps6 = {1e-6}, eps_one = {1};

static const kin_case layer_norm_cases[] = {
    CASE("one channel", eps5, 3, IN(2, 3, 1), ABSENT, IN(1, 1)),
    CASE("rank 1", eps6, 3, IN(1, 7), ABSENT, ABSENT),
    CASE("odd channels", eps5, 3, IN(3, 2, 3, 37), IN(1, 37), IN(1, 37)),
    CASE("large mean", eps5, 3, LARGE_MEAN(2, 4, 129), IN(1, 129), IN(1, 129)),
    CASE("zeros", eps5, 3, ZERO(2, 3, 20), IN(1, 20), IN(1, 20)),
    CASE("no weight", eps6, 3, IN(2, 5, 72), ABSENT, IN(1, 72)),
    CASE("padded rows", eps6, 3, AS(KIN_LAYOUT_PADDED, 3, 2, 5, 33), IN(1, 33), ABSENT),
    CASE("swapped axes", eps6, 3, AS(KIN_LAYOUT_TRANSPOSED, 3, 4, 3, 48), IN(1, 48), IN(1, 48)),
    CASE("transposed matrix", eps6, 3, AS(KIN_LAYOUT_TRANSPOSED, 2, 9, 17), ABSENT, ABSENT),
    CASE("wide rows", eps6, 3, IN(2, 3, 4100), IN(1, 4100), IN(1, 4100)),
    BENCH("16384 x 1152", eps6, 3, IN(2, 16384, 1152), IN(1, 1152), IN(1, 1152)),
};

static const kin_case layer_norm_grad_cases[] = {
    CASE("one channel", eps5, 3, IN(2, 3, 1), IN(2, 3, 1), ABSENT),
    CASE("rank 1", eps6, 3, IN(1, 7), IN(1, 7), ABSENT),
    CASE("odd channels", eps5, 3, IN(3, 2, 3, 37), IN(3, 2, 3, 37), IN(1, 37)),
    CASE("large mean", eps5, 3, IN(2, 4, 129), LARGE_MEAN(2, 4, 129), IN(1, 129)),
    CASE("views", eps6, 3, AS(KIN_LAYOUT_PADDED, 3, 2, 5, 33),
         AS(KIN_LAYOUT_TRANSPOSED, 3, 2, 5, 33), IN(1, 33)),
    CASE("many rows", eps6, 3, IN(2, 333, 40), IN(2, 333, 40), IN(1, 40)),
    BENCH("16384 x 1152", eps6, 3, IN(2, 16384, 1152), IN(2, 16384, 1152), IN(1, 1152)),
};

static const kin_case modulate_cases[] = {
    CASE("one channel", eps6, 3, IN(3, 2, 3, 1), IN(3, 2, 1, 1), ZERO(3, 2, 1, 1)),
    CASE("odd channels", eps6, 3, IN(3, 2, 3, 37), IN(3, 2, 1, 37), IN(3, 2, 1, 37)),
    CASE("shared by the samples", eps6, 3, IN(3, 3, 4, 24), IN(3, 1, 1, 24), IN(3, 1, 1, 24)),
    CASE("one token", eps5, 3, IN(3, 4, 1, 16), IN(3, 4, 1, 16), IN(3, 4, 1, 16)),
    CASE("large mean", eps6, 3, LARGE_MEAN(3, 2, 3, 65), IN(3, 2, 1, 65), IN(3, 2, 1, 65)),
    CASE("views", eps6, 3, AS(KIN_LAYOUT_TRANSPOSED, 3, 2, 5, 33),
         AS(KIN_LAYOUT_PADDED, 3, 2, 1, 33), AS(KIN_LAYOUT_PADDED, 3, 2, 1, 33)),
    BENCH("16 frames of 512 x 512", eps6, 3, IN(3, 1, 16384, 1152), IN(3, 1, 1, 1152),
          IN(3, 1, 1, 1152)),
};

static const kin_case modulate_grad_cases[] = {
    CASE("one channel", eps6, 3, IN(3, 2, 3, 1), IN(3, 2, 3, 1), ZERO(3, 2, 1, 1)),
    CASE("odd channels", eps6, 3, IN(3, 2, 3, 37), IN(3, 2, 3, 37), IN(3, 2, 1, 37)),
    CASE("shared by the samples", eps6, 3, IN(3, 3, 70, 24), IN(3, 3, 70, 24), IN(3, 1, 1, 24)),
    CASE("one token", eps5, 3, IN(3, 4, 1, 16), IN(3, 4, 1, 16), IN(3, 4, 1, 16)),
    CASE("views", eps6, 3, AS(KIN_LAYOUT_PADDED, 3, 2, 5, 33),
         AS(KIN_LAYOUT_TRANSPOSED, 3, 2, 5, 33), AS(KIN_LAYOUT_PADDED, 3, 2, 1, 33)),
    BENCH("16 frames of 512 x 512", eps6, 3, IN(3, 1, 16384, 1152), IN(3, 1, 16384, 1152),
          IN(3, 1, 1, 1152)),
};

static const kin_case rms_norm_cases[] = {
    CASE("one channel", eps_one, 2, IN(2, 3, 1), IN(1, 1)),
    CASE("rank 1", eps6, 2, IN(1, 7), ABSENT),
    CASE("odd channels", eps6, 2, IN(3, 2, 3, 37), IN(1, 37)),
    CASE("small values", eps6, 2, SMALL(2, 3, 40), IN(1, 40)),
    CASE("large values", eps6, 2, LARGE_MEAN(2, 3, 72), IN(1, 72)),
    CASE("zeros", eps6, 2, ZERO(2, 2, 19), IN(1, 19)),
    CASE("swapped axes", eps6, 2, AS(KIN_LAYOUT_TRANSPOSED, 4, 4, 3, 2, 72), IN(1, 72)),
    CASE("padded rows", eps6, 2, AS(KIN_LAYOUT_PADDED, 3, 2, 5, 33), ABSENT),
    BENCH("heads of 72", eps6, 2, IN(3, 16384, 16, 72), IN(1, 72)),
};

static const kin_case rms_norm_grad_cases[] = {
    CASE("one channel", eps_one, 3, IN(2, 3, 1), IN(2, 3, 1), IN(1, 1)),
    CASE("rank 1", eps6, 3, IN(1, 7), IN(1, 7), ABSENT),
    CASE("odd channels", eps6, 3, IN(3, 2, 3, 37), IN(3, 2, 3, 37), IN(1, 37)),
    CASE("small values", eps6, 3, IN(2, 3, 40), SMALL(2, 3, 40), IN(1, 40)),
    CASE("views", eps6, 3, AS(KIN_LAYOUT_PADDED, 3, 2, 5, 33),
         AS(KIN_LAYOUT_TRANSPOSED, 3, 2, 5, 33), IN(1, 33)),
    CASE("many rows", eps6, 3, IN(3, 111, 3, 72), IN(3, 111, 3, 72), IN(1, 72)),
    BENCH("heads of 72", eps6, 3, IN(3, 16384, 16, 72), IN(3, 16384, 16, 72), IN(1, 72)),
};

#define CASES(list) .cases = list, .case_count = sizeof list / sizeof *list

/* ---- ops ----------------------------------------------------------------------------------- */

const kin_op kin_op_layer_norm = {
    .name = "layer_norm",
    .summary = "(x - mean) / sqrt(var + eps) * weight + bias over the last axis "
               "(arXiv:1607.06450)",
    .flags = KIN_OP_COMPOSITE,
    .attrs_size = sizeof(kin_norm_attrs),
    .outputs = 1,
    .optional = 1u << 1 | 1u << 2,
    .infer = layer_norm_infer,
    .reference = layer_norm_reference,
    .gradient = layer_norm_gradient,
    .lower = layer_norm_lower,
    .cost = norm_cost,
    CASES(layer_norm_cases),
};

const kin_op kin_op_layer_norm_grad = {
    .name = "layer_norm_grad",
    .summary = "dy, x, weight -> dx, dweight, dbias of layer_norm (an absent weight counts as 1)",
    .flags = KIN_OP_COMPOSITE,
    .attrs_size = sizeof(kin_norm_attrs),
    .outputs = 3,
    .optional = 1u << 2,
    .infer = norm_grad_infer,
    .reference = layer_norm_grad_reference,
    .lower = layer_norm_grad_lower,
    .cost = norm_grad_cost,
    CASES(layer_norm_grad_cases),
};

const kin_op kin_op_layer_norm_modulate = {
    .name = "layer_norm_modulate",
    .summary = "x, shift, scale -> layer_norm(x) * (1 + scale) + shift (DiT, arXiv:2212.09748)",
    .flags = KIN_OP_COMPOSITE,
    .attrs_size = sizeof(kin_norm_attrs),
    .outputs = 1,
    .infer = modulate_infer,
    .reference = modulate_reference,
    .gradient = modulate_gradient,
    .lower = modulate_lower,
    .cost = norm_cost,
    CASES(modulate_cases),
};

const kin_op kin_op_layer_norm_modulate_grad = {
    .name = "layer_norm_modulate_grad",
    .summary = "dy, x, scale -> dx, dshift, dscale of layer_norm_modulate",
    .flags = KIN_OP_COMPOSITE,
    .attrs_size = sizeof(kin_norm_attrs),
    .outputs = 3,
    .infer = modulate_grad_infer,
    .reference = modulate_grad_reference,
    .lower = modulate_grad_lower,
    .cost = norm_grad_cost,
    CASES(modulate_grad_cases),
};

const kin_op kin_op_rms_norm = {
    .name = "rms_norm",
    .summary = "x / sqrt(mean(x^2) + eps) * weight over the last axis (arXiv:1910.07467)",
    .flags = KIN_OP_COMPOSITE,
    .attrs_size = sizeof(kin_norm_attrs),
    .outputs = 1,
    .optional = 1u << 1,
    .infer = rms_norm_infer,
    .reference = rms_norm_reference,
    .gradient = rms_norm_gradient,
    .lower = rms_norm_lower,
    .cost = norm_cost,
    CASES(rms_norm_cases),
};

const kin_op kin_op_rms_norm_grad = {
    .name = "rms_norm_grad",
    .summary = "dy, x, weight -> dx, dweight of rms_norm (an absent weight counts as 1)",
    .flags = KIN_OP_COMPOSITE,
    .attrs_size = sizeof(kin_norm_attrs),
    .outputs = 2,
    .optional = 1u << 2,
    .infer = norm_grad_infer,
    .reference = rms_norm_grad_reference,
    .lower = rms_norm_grad_lower,
    .cost = norm_grad_cost,
    CASES(rms_norm_grad_cases),
};

/* ---- builders ------------------------------------------------------------------------------ */

kin_tensor kin_layer_norm(kin_graph *graph, kin_tensor x, kin_tensor weight, kin_tensor bias,
                          double eps) {
    kin_tensor inputs[] = {x, weight, bias};
    return kin_append1(graph, &kin_op_layer_norm, &(kin_norm_attrs){eps}, inputs, 3);
}

kin_tensor kin_layer_norm_modulate(kin_graph *graph, kin_tensor x, kin_tensor shift,
                                   kin_tensor scale, double eps) {
    kin_tensor inputs[] = {x, shift, scale};
    return kin_append1(graph, &kin_op_layer_norm_modulate, &(kin_norm_attrs){eps}, inputs, 3);
}

kin_tensor kin_rms_norm(kin_graph *graph, kin_tensor x, kin_tensor weight, double eps) {
    kin_tensor inputs[] = {x, weight};
    return kin_append1(graph, &kin_op_rms_norm, &(kin_norm_attrs){eps}, inputs, 2);
}
