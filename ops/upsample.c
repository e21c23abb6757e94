/* upsample and its gradient. Every mode is separable: along each axis an output is a weighted sum
 * of two inputs. */
#include "ops/upsample.h"

#include "ops/conv_shape.h"
#include "ops/layout.h"
#include "ops/matmul.h"
#include "ops/views.h"
#include "runtime/graph.h"

static kin_status infer(kin_infer *infer) {
    const kin_upsample_attrs *attrs = infer->attrs;
    kin_status status = kin_infer_inputs(infer, 1, 1);
    if (status == KIN_OK) status = kin_infer_rank(infer, 0, 4, 5);
    if (status == KIN_OK) status = kin_infer_float(infer, 0);
    if (status != KIN_OK) return status;
    const kin_desc *x = infer->in[0];
    if (attrs->mode < KIN_UPSAMPLE_NEAREST || attrs->mode > KIN_UPSAMPLE_LINEAR_CORNERS)
        return kin_infer_fail(infer, "no mode %lld", (long long)attrs->mode);
    if (attrs->size[0] < 1 || attrs->size[1] < 1 || attrs->size[2] < 1)
        return kin_infer_fail(infer, "sizes must be at least 1");
    if (x->rank == 4 && attrs->size[0] != 1)
        return kin_infer_fail(infer, "an image has no time axis");
    infer->out[0] = conv_desc(x->dtype, x->rank, x->dims[0], x->dims[1], attrs->size);
    return KIN_OK;
}

/* Walks over all (large element, small element, weight) triples of one plane: large is the result
 * of upsample, small its input. Calls back as large += weight * small, or the reverse if `back`. */
static void plane_walk(int64_t mode, const int64_t small[3], const int64_t large[3],
                       const double *from, double *to, bool back) {
    int64_t at[3];
    for (int64_t i = 0; i < conv_count(large); i++) {
        kin_upsample_tap tap[3];
        conv_split(i, large, at);
        for (int a = 0; a < 3; a++) tap[a] = kin_upsample_tap_at(mode, small[a], large[a], at[a]);
        for (int corner = 0; corner < 8; corner++) {
            double weight = 1;
            int64_t place = 0;
            for (int a = 0; a < 3; a++) {
                bool high = corner >> a & 1;
                weight *= high ? tap[a].weight : 1 - tap[a].weight;
                place = place * small[a] + (high ? tap[a].high : tap[a].low);
            }
            if (back) to[place] += weight * from[i];
            else to[i] += weight * from[place];
        }
    }
}

static void reference(const kin_reference *call) {
    const kin_upsample_attrs *attrs = call->attrs;
    bool back = call->op == &kin_op_upsample_grad;
    int64_t in[3], out[3];
    conv_axes(&call->in_desc[0], in);
    conv_axes(&call->out_desc[0], out);
    int64_t planes = call->in_desc[0].dims[0] * call->in_desc[0].dims[1];
    for (int64_t i = 0; i < planes * conv_count(out); i++) call->out[0][i] = 0;
    for (int64_t c = 0; c < planes; c++)
        plane_walk(attrs->mode, back ? out : in, back ? in : out, call->in[0] + c * conv_count(in),
                   call->out[0] + c * conv_count(out), back);
}

static void gradient(kin_gradient_call *call) {
    kin_graph *g = call->graph;
    const kin_upsample_attrs *attrs = call->attrs;
    int64_t size[3];
    conv_axes(kin_tensor_desc(g, call->in[0]), size);
    call->in_grad[0] = call->op == &kin_op_upsample_grad
                           ? kin_upsample(g, call->out_grad[0], attrs->mode, size)
                           : kin_upsample_grad(g, call->out_grad[0], attrs->mode, size);
}

/* The matrix [to, from] of one axis, or its transpose for the gradient. */
static kin_tensor axis_matrix(kin_graph *g, int64_t mode, int64_t from, int64_t to, bool back,
                              kin_dtype dtype) {
    int64_t small = back ? to : from, large = back ? from : to, dims[2] = {to, from};
    kin_context *context = kin_graph_context(g);
    float *m = kin_calloc(context, (size_t)(from * to), sizeof *m);
    if (m == NULL)
        return kin_graph_fail(g, KIN_OUT_OF_MEMORY,
                              "upsample: no memory for a matrix of %lld x %lld", (long long)to,
                              (long long)from);
    for (int64_t i = 0; i < large; i++) {
        kin_upsample_tap tap = kin_upsample_tap_at(mode, small, large, i);
        float *low = back ? m + tap.low * from + i : m + i * from + tap.low;
        float *high = back ? m + tap.high * from + i : m + i * from + tap.high;
        *low += (float)(1 - tap.weight);
        *high += (float)tap.weight;
    }
    kin_tensor matrix = kin_constant(g, KIN_F32, 2, dims, m);
    kin_free(context, m);
    return kin_cast(g, matrix, dtype);
}

/* One product per axis that changes: from the left for time and rows, from the right for columns.
 */
static void lower(kin_lower_call *call) {
    kin_graph *g = call->graph;
    const kin_upsample_attrs *attrs = call->attrs;
    bool back = call->op == &kin_op_upsample_grad;
    kin_tensor x = call->in[0];
    kin_dtype dtype = kin_dtype_of(g, x);
    kin_desc desc = *kin_tensor_desc(g, x);
    int64_t in[3], planes = desc.dims[0] * desc.dims[1];
    const int64_t *out = attrs->size;
    conv_axes(&desc, in);
    if (in[2] != out[2]) {
        kin_tensor m = axis_matrix(g, attrs->mode, in[2], out[2], back, dtype);
        x = kin_reshape(g, x, 2, (int64_t[]){planes * in[0] * in[1], in[2]});
        x = kin_matmul(g, x, kin_transpose(g, m, 0, 1));
    }
    if (in[1] != out[1]) {
        kin_tensor m = axis_matrix(g, attrs->mode, in[1], out[1], back, dtype);
        x = kin_reshape(g, x, 3, (int64_t[]){planes * in[0], in[1], out[2]});
        x = kin_matmul(g, kin_reshape(g, m, 3, (int64_t[]){1, out[1], in[1]}), x);
    }
    if (in[0] != out[0]) {
        kin_tensor m = axis_matrix(g, attrs->mode, in[0], out[0], back, dtype);
        x = kin_reshape(g, x, 3, (int64_t[]){planes, in[0], out[1] * out[2]});
        x = kin_matmul(g, kin_reshape(g, m, 3, (int64_t[]){1, out[0], in[0]}), x);
    }
    kin_desc wanted = conv_desc(dtype, desc.rank, desc.dims[0], desc.dims[1], out);
    x = kin_reshape(g, x, desc.rank, wanted.dims);
    call->out[0] = x.id == call->in[0].id ? kin_copy(g, x) : x;
}

static void cost(const kin_cost_call *call, kin_cost *cost) {
    double in = (double)kin_desc_count(&call->in[0]), out = (double)kin_desc_count(&call->out[0]);
    cost->reduction = in > out ? 8 * in / out : 8;
    cost->flops = 2 * (in > out ? in : out);
}

#define X4 KIN_CONV_INPUT4
#define X5 KIN_CONV_INPUT5
#define CASE(title, attributes, ...)                                                               \
    {                                                                                              \
        .name = title, .attrs = &(attributes), .input_count = 1, .inputs = { __VA_ARGS__ }         \
    }

typedef kin_upsample_attrs attrs_of;
static const attrs_of near_2 = {KIN_UPSAMPLE_NEAREST, {1, 6, 10}};
static const attrs_of near_odd = {KIN_UPSAMPLE_NEAREST, {5, 4, 19}};
static const attrs_of near_less = {KIN_UPSAMPLE_NEAREST, {1, 3, 4}};
static const attrs_of linear_2 = {KIN_UPSAMPLE_LINEAR, {4, 6, 10}};
static const attrs_of linear_1 = {KIN_UPSAMPLE_LINEAR, {1, 8, 2}};
static const attrs_of linear_odd = {KIN_UPSAMPLE_LINEAR, {1, 5, 17}};
static const attrs_of linear_less = {KIN_UPSAMPLE_LINEAR, {1, 3, 4}};
static const attrs_of corners = {KIN_UPSAMPLE_LINEAR_CORNERS, {3, 7, 18}};
static const attrs_of corner_1 = {KIN_UPSAMPLE_LINEAR_CORNERS, {1, 1, 5}};
static const attrs_of near_big = {KIN_UPSAMPLE_NEAREST, {1, 256, 256}};
static const attrs_of linear_big = {KIN_UPSAMPLE_LINEAR, {16, 64, 64}};

static const kin_case cases[] = {
    CASE("nearest, images by 2", near_2, X4(2, 3, 3, 5)),
    CASE("nearest, any size", near_odd, X5(1, 3, 2, 3, 7)),
    CASE("nearest, smaller", near_less, X4(1, 2, 7, 9)),
    CASE("linear, video by 2", linear_2, X5(2, 3, 2, 3, 5)),
    CASE("linear, one pixel", linear_1, X5(1, 2, 1, 4, 1)),
    CASE("linear, any size", linear_odd, X4(2, 2, 3, 6)),
    CASE("linear, smaller", linear_less, X4(1, 2, 7, 9)),
    CASE("linear, corners aligned", corners, X5(1, 2, 2, 4, 7)),
    CASE("linear, corners aligned, to one row", corner_1, X4(1, 2, 3, 2)),
    {.name = "nearest, 128 channels of 128x128 by 2",
     .attrs = &near_big,
     .input_count = 1,
     .inputs = {X4(1, 128, 128, 128)},
     .bench = true},
    {.name = "linear, 64 channels of 8x32x32 by 2",
     .attrs = &linear_big,
     .input_count = 1,
     .inputs = {X5(1, 64, 8, 32, 32)},
     .bench = true},
};

static const attrs_of g_near_2 = {KIN_UPSAMPLE_NEAREST, {1, 3, 5}};
static const attrs_of g_near_odd = {KIN_UPSAMPLE_NEAREST, {2, 3, 7}};
static const attrs_of g_near_less = {KIN_UPSAMPLE_NEAREST, {1, 7, 9}};
static const attrs_of g_linear_2 = {KIN_UPSAMPLE_LINEAR, {2, 3, 5}};
static const attrs_of g_linear_odd = {KIN_UPSAMPLE_LINEAR, {1, 3, 6}};
static const attrs_of g_linear_less = {KIN_UPSAMPLE_LINEAR, {1, 7, 9}};
static const attrs_of g_corners = {KIN_UPSAMPLE_LINEAR_CORNERS, {2, 4, 7}};

static const kin_case grad_cases[] = {
    CASE("nearest, images by 2", g_near_2, X4(2, 3, 6, 10)),
    CASE("nearest, any size", g_near_odd, X5(1, 3, 5, 4, 19)),
    CASE("nearest, smaller", g_near_less, X4(1, 2, 3, 4)),
    CASE("linear, video by 2", g_linear_2, X5(2, 3, 4, 6, 10)),
    CASE("linear, any size", g_linear_odd, X4(2, 2, 5, 17)),
    CASE("linear, smaller", g_linear_less, X4(1, 2, 3, 4)),
    CASE("linear, corners aligned", g_corners, X5(1, 2, 3, 7, 18)),
};

const kin_op kin_op_upsample = {
    .name = "upsample",
    .summary = "nearest, bilinear or trilinear resampling to a given size: PyTorch's interpolate",
    .flags = KIN_OP_COMPOSITE,
    .attrs_size = sizeof(kin_upsample_attrs),
    .outputs = 1,
    .infer = infer,
    .reference = reference,
    .gradient = gradient,
    .lower = lower,
    .cost = cost,
    .cases = cases,
    .case_count = sizeof cases / sizeof *cases,
};

const kin_op kin_op_upsample_grad = {
    .name = "upsample_grad",
    .summary = "the transpose of upsample",
    .flags = KIN_OP_COMPOSITE,
    .attrs_size = sizeof(kin_upsample_attrs),
    .outputs = 1,
    .infer = infer,
    .reference = reference,
    .gradient = gradient,
    .lower = lower,
    .cost = cost,
    .cases = grad_cases,
    .case_count = sizeof grad_cases / sizeof *grad_cases,
};

kin_tensor kin_upsample(kin_graph *graph, kin_tensor x, int64_t mode, const int64_t size[3]) {
    kin_upsample_attrs attrs = {mode, {size[0], size[1], size[2]}};
    return kin_append1(graph, &kin_op_upsample, &attrs, &x, 1);
}

kin_tensor kin_upsample_grad(kin_graph *graph, kin_tensor dy, int64_t mode, const int64_t size[3]) {
    kin_upsample_attrs attrs = {mode, {size[0], size[1], size[2]}};
    return kin_append1(graph, &kin_op_upsample_grad, &attrs, &dy, 1);
}

static kin_tensor by_factors(kin_graph *graph, kin_tensor x, int64_t mode, int64_t time,
                             int64_t rows, int64_t columns) {
    int64_t size[3] = {1, 1, 1};
    int rank = kin_rank(graph, x);
    if (rank == 4 || rank == 5) conv_axes(kin_tensor_desc(graph, x), size);
    size[0] *= time;
    size[1] *= rows;
    size[2] *= columns;
    return kin_upsample(graph, x, mode, size);
}

kin_tensor kin_upsample_nearest(kin_graph *graph, kin_tensor x, int64_t time, int64_t rows,
                                int64_t columns) {
    return by_factors(graph, x, KIN_UPSAMPLE_NEAREST, time, rows, columns);
}

kin_tensor kin_upsample_linear(kin_graph *graph, kin_tensor x, int64_t time, int64_t rows,
                               int64_t columns) {
    return by_factors(graph, x, KIN_UPSAMPLE_LINEAR, time, rows, columns);
}
