/* Sum, mean and maximum over axes. */
#include "ops/reduce.h"

#include <math.h>

#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/views.h"

#include <string.h>

/* ---- shape rule and references ------------------------------------------------------------- */

static bool is_reduced(const kin_reduce_attrs *attrs, int axis) {
    return attrs->axes >> axis & 1u;
}

static kin_status infer(kin_infer *call) {
    const kin_reduce_attrs *attrs = call->attrs;
    kin_status status = kin_infer_inputs(call, 1, 1);
    if (status == KIN_OK) status = kin_infer_float(call, 0);
    if (status != KIN_OK) return status;
    const kin_desc *x = call->in[0];
    if (attrs->axes >> x->rank != 0)
        return kin_infer_fail(call, "axes 0x%x name an axis that a tensor of rank %d has not",
                              (unsigned)attrs->axes, x->rank);
    int rank = 0;
    int64_t dims[KIN_MAX_RANK];
    for (int axis = 0; axis < x->rank; axis++) {
        if (!is_reduced(attrs, axis)) dims[rank++] = x->dims[axis];
        else if (attrs->keep) dims[rank++] = 1;
    }
    call->out[0] = kin_desc_dense(x->dtype, rank, dims);
    return KIN_OK;
}

static kin_status infer_sum_cast(kin_infer *call) {
    const kin_sum_cast_attrs *attrs = call->attrs;
    kin_infer sum = *call;
    sum.attrs = &attrs->sum;
    kin_status status = infer(&sum);
    if (status != KIN_OK) return status;
    if (attrs->dtype != KIN_F32 && attrs->dtype != KIN_F16 && attrs->dtype != KIN_BF16)
        return kin_infer_fail(call, "the result must be f32, f16 or bf16");
    call->out[0] = sum.out[0];
    call->out[0].dtype = (kin_dtype)attrs->dtype;
    return KIN_OK;
}

/* Where element `index` of x goes in the result. */
static int64_t target_of(const kin_reduce_attrs *attrs, const kin_desc *x, int64_t index) {
    int64_t target = 0, stride = 1;
    for (int axis = x->rank - 1; axis >= 0; axis--) {
        if (!is_reduced(attrs, axis)) {
            target += index % x->dims[axis] * stride;
            stride *= x->dims[axis];
        }
        index /= x->dims[axis];
    }
    return target;
}

static void reference_sum(const kin_reference *call) {
    int64_t count = kin_desc_count(&call->in_desc[0]), results = kin_desc_count(&call->out_desc[0]);
    for (int64_t i = 0; i < results; i++) call->out[0][i] = 0;
    for (int64_t i = 0; i < count; i++)
        call->out[0][target_of(call->attrs, &call->in_desc[0], i)] += call->in[0][i];
}

static void reference_sum_cast(const kin_reference *call) {
    const kin_sum_cast_attrs *attrs = call->attrs;
    kin_reference sum = *call;
    sum.attrs = &attrs->sum;
    reference_sum(&sum);
}

static void reference_mean(const kin_reference *call) {
    int64_t count = kin_desc_count(&call->in_desc[0]), results = kin_desc_count(&call->out_desc[0]);
    reference_sum(call);
    for (int64_t i = 0; i < results; i++) call->out[0][i] *= (double)results / (double)count;
}

static void reference_max(const kin_reference *call) {
    int64_t count = kin_desc_count(&call->in_desc[0]), results = kin_desc_count(&call->out_desc[0]);
    for (int64_t i = 0; i < results; i++) call->out[0][i] = -INFINITY;
    for (int64_t i = 0; i < count; i++) {
        double *max = &call->out[0][target_of(call->attrs, &call->in_desc[0], i)];
        double x = call->in[0][i];
        if (x > *max || x != x) *max = x;
    }
}

/* ---- gradients and lowering ---------------------------------------------------------------- */

/* dy, with the reduced axes put back as 1, repeated along them. */
static kin_tensor spread(kin_gradient_call *call, kin_tensor dy) {
    const kin_reduce_attrs *attrs = call->attrs;
    kin_desc x = *kin_tensor_desc(call->graph, call->in[0]);
    int64_t dims[KIN_MAX_RANK];
    for (int axis = 0; axis < x.rank; axis++)
        dims[axis] = is_reduced(attrs, axis) ? 1 : x.dims[axis];
    if (!attrs->keep) dy = kin_reshape(call->graph, dy, x.rank, dims);
    return kin_expand(call->graph, dy, x.rank, x.dims);
}

static double terms_of(kin_graph *graph, kin_tensor x, const kin_reduce_attrs *attrs) {
    double terms = 1;
    for (int axis = 0; axis < kin_rank(graph, x); axis++)
        if (is_reduced(attrs, axis)) terms *= (double)kin_dim(graph, x, axis);
    return terms;
}

static void gradient_sum(kin_gradient_call *call) {
    call->in_grad[0] = spread(call, call->out_grad[0]);
}

static void gradient_sum_cast(kin_gradient_call *call) {
    const kin_sum_cast_attrs *attrs = call->attrs;
    kin_gradient_call sum = *call;
    kin_tensor dy =
        kin_cast(call->graph, call->out_grad[0], kin_dtype_of(call->graph, call->in[0]));
    sum.attrs = &attrs->sum;
    call->in_grad[0] = spread(&sum, dy);
}

static void lower_sum_cast(kin_lower_call *call) {
    const kin_sum_cast_attrs *attrs = call->attrs;
    kin_tensor sum = kin_sum(call->graph, call->in[0], attrs->sum.axes, attrs->sum.keep != 0);
    call->out[0] = kin_cast(call->graph, sum, (kin_dtype)attrs->dtype);
}

/* A sum, and a cast to a type that has room for more digits than that of the terms. */
static bool absorb_sum(kin_absorb_call *call) {
    kin_sum_cast_attrs attrs = {.dtype = call->reader_out.dtype};
    if (call->reader != &kin_op_cast || attrs.dtype != KIN_F32) return false;
    attrs.sum = *(const kin_reduce_attrs *)call->attrs;
    call->out_op = &kin_op_sum_cast;
    call->out_in_count = 1;
    call->out_in[0] = 0;
    memcpy(call->out_attrs, &attrs, sizeof attrs);
    return true;
}

static void gradient_mean(kin_gradient_call *call) {
    double terms = terms_of(call->graph, call->in[0], call->attrs);
    call->in_grad[0] = spread(call, kin_scale(call->graph, call->out_grad[0], 1 / terms, 0));
}

static void lower_mean(kin_lower_call *call) {
    const kin_reduce_attrs *attrs = call->attrs;
    double terms = terms_of(call->graph, call->in[0], attrs);
    kin_tensor sum = kin_sum(call->graph, call->in[0], attrs->axes, attrs->keep != 0);
    call->out[0] = kin_scale(call->graph, sum, 1 / terms, 0);
}

/* ---- cost and cases ------------------------------------------------------------------------ */

static void cost(const kin_cost_call *call, kin_cost *result) {
    result->flops = (double)kin_desc_count(&call->in[0]);
    result->reduction = result->flops / (double)kin_desc_count(&call->out[0]);
}

static void cost_max(const kin_cost_call *call, kin_cost *result) {
    result->flops = (double)kin_desc_count(&call->in[0]); /* exact: reduction stays 1 */
}

#define IN(how, r, ...)                                                                            \
    { .dtype = KIN_F32, .rank = (r), .dims = {__VA_ARGS__}, .layout = KIN_LAYOUT_##how }
#define CASE(title, attributes, ...)                                                               \
    {                                                                                              \
        .name = title, .attrs = &(attributes), .input_count = 1, .inputs = { __VA_ARGS__ }         \
    }
#define BENCH(title, attributes, ...)                                                              \
    {                                                                                              \
        .name = title, .attrs = &(attributes), .input_count = 1, .inputs = {__VA_ARGS__},          \
        .bench = true                                                                              \
    }

static const kin_reduce_attrs nothing = {0, 0}, axis0 = {1, 0}, axis0_kept = {1, 1};
static const kin_reduce_attrs axis1 = {2, 0}, axis1_kept = {2, 1}, axis2 = {4, 0};
static const kin_reduce_attrs outer2 = {3, 0}, ends = {5, 0}, ends_kept = {5, 1}, all3 = {7, 0};
static const kin_reduce_attrs image = {13, 0}, odd_axes = {0x15, 1};

#define REDUCE_CASES                                                                               \
    CASE("scalar", nothing, IN(DENSE, 0, 0)), CASE("no axes", nothing, IN(TRANSPOSED, 2, 3, 5)),   \
        CASE("one element", all3, IN(DENSE, 3, 1, 1, 1)), CASE("rank 1", axis0, IN(DENSE, 1, 19)), \
        CASE("rank 1, kept", axis0_kept, IN(DENSE, 1, 7)),                                         \
        CASE("rows", axis1, IN(DENSE, 2, 5, 37)), CASE("columns", axis0, IN(DENSE, 2, 301, 37)),   \
        CASE("one column", axis0, IN(DENSE, 2, 301, 1)),                                           \
        CASE("middle axis", axis1_kept, IN(DENSE, 3, 3, 41, 17)),                                  \
        CASE("both ends", ends, IN(DENSE, 3, 4, 5, 23)),                                           \
        CASE("both ends, kept", ends_kept, IN(PADDED, 3, 4, 5, 23)),                               \
        CASE("everything", all3, IN(DENSE, 3, 17, 33, 129)),                                       \
        CASE("outer axes", outer2, IN(DENSE, 3, 40, 50, 65)),                                      \
        CASE("transposed rows", axis1, IN(TRANSPOSED, 2, 37, 45)),                                 \
        CASE("transposed columns", axis0, IN(TRANSPOSED, 2, 37, 45)),                              \
        CASE("padded rows", axis2, IN(PADDED, 3, 3, 4, 35)),                                       \
        CASE("padded, everything", all3, IN(PADDED, 3, 3, 4, 35)),                                 \
        CASE("every other axis", odd_axes, IN(TRANSPOSED, 5, 3, 4, 5, 2, 6)),                      \
        CASE("channels of images", image, IN(DENSE, 4, 3, 5, 7, 9)),                               \
        BENCH("everything, large", all3, IN(DENSE, 3, 16, 1024, 1152)),                            \
        BENCH("outer axes, large", outer2, IN(DENSE, 3, 16, 1024, 1152)),                          \
        BENCH("rows, large", axis2, IN(DENSE, 3, 16, 1024, 1152)),                                 \
        BENCH("channels of images, large", image, IN(DENSE, 4, 128, 64, 32, 32))

static const kin_case cases[] = {REDUCE_CASES};

static const kin_sum_cast_attrs columns_to_f32 = {{1, 0}, KIN_F32};
static const kin_sum_cast_attrs ends_to_f32 = {{5, 1}, KIN_F32}, rows_to_f32 = {{2, 0}, KIN_F32};

static const kin_case cast_cases[] = {
    CASE("columns to f32", columns_to_f32, IN(DENSE, 2, 301, 37)),
    CASE("both ends, kept, to f32", ends_to_f32, IN(PADDED, 3, 4, 5, 23)),
    CASE("transposed columns to f32", columns_to_f32, IN(TRANSPOSED, 2, 37, 45)),
    CASE("rows to f32", rows_to_f32, IN(DENSE, 2, 5, 37)),
    BENCH("columns to f32, large", columns_to_f32, IN(DENSE, 2, 16384, 1152)),
};

const kin_op kin_op_sum = {
    .name = "sum",
    .summary = "the sum over a set of axes",
    .attrs_size = sizeof(kin_reduce_attrs),
    .outputs = 1,
    .infer = infer,
    .reference = reference_sum,
    .gradient = gradient_sum,
    .cost = cost,
    .cases = cases,
    .case_count = sizeof cases / sizeof *cases,
    .absorb = absorb_sum,
};

const kin_op kin_op_sum_cast = {
    .name = "sum_cast",
    .summary = "the sum over a set of axes in another dtype; made by planning from sum and cast",
    .flags = KIN_OP_COMPOSITE,
    .attrs_size = sizeof(kin_sum_cast_attrs),
    .outputs = 1,
    .infer = infer_sum_cast,
    .reference = reference_sum_cast,
    .gradient = gradient_sum_cast,
    .lower = lower_sum_cast,
    .cost = cost,
    .cases = cast_cases,
    .case_count = sizeof cast_cases / sizeof *cast_cases,
};

const kin_op kin_op_mean = {
    .name = "mean",
    .summary = "the mean over a set of axes",
    .flags = KIN_OP_COMPOSITE,
    .attrs_size = sizeof(kin_reduce_attrs),
    .outputs = 1,
    .infer = infer,
    .reference = reference_mean,
    .gradient = gradient_mean,
    .lower = lower_mean,
    .cost = cost,
    .cases = cases,
    .case_count = sizeof cases / sizeof *cases,
};

const kin_op kin_op_max = {
    .name = "max",
    .summary = "the largest element over a set of axes; NaN if there is one",
    .attrs_size = sizeof(kin_reduce_attrs),
    .outputs = 1,
    .infer = infer,
    .reference = reference_max,
    .cost = cost_max,
    .cases = cases,
    .case_count = sizeof cases / sizeof *cases,
};

/* ---- builders ------------------------------------------------------------------------------ */

static kin_tensor reduce(kin_graph *graph, const kin_op *op, kin_tensor x, uint32_t axes,
                         bool keep) {
    return kin_append1(graph, op, &(kin_reduce_attrs){axes, keep ? 1u : 0u}, &x, 1);
}

static uint32_t all_axes(kin_graph *graph, kin_tensor x) {
    return (1u << kin_rank(graph, x)) - 1u;
}

kin_tensor kin_sum(kin_graph *graph, kin_tensor x, uint32_t axes, bool keep) {
    return reduce(graph, &kin_op_sum, x, axes, keep);
}

kin_tensor kin_sum_cast(kin_graph *graph, kin_tensor x, uint32_t axes, bool keep, kin_dtype dtype) {
    const kin_sum_cast_attrs attrs = {{axes, keep ? 1u : 0u}, dtype};
    return kin_append1(graph, &kin_op_sum_cast, &attrs, &x, 1);
}

kin_tensor kin_mean(kin_graph *graph, kin_tensor x, uint32_t axes, bool keep) {
    return reduce(graph, &kin_op_mean, x, axes, keep);
}

kin_tensor kin_max(kin_graph *graph, kin_tensor x, uint32_t axes, bool keep) {
    return reduce(graph, &kin_op_max, x, axes, keep);
}

kin_tensor kin_sum_all(kin_graph *graph, kin_tensor x) {
    return reduce(graph, &kin_op_sum, x, all_axes(graph, x), false);
}

kin_tensor kin_mean_all(kin_graph *graph, kin_tensor x) {
    return reduce(graph, &kin_op_mean, x, all_axes(graph, x), false);
}

kin_tensor kin_sum_to(kin_graph *graph, kin_tensor x, int rank, const int64_t *dims) {
    int extra = kin_rank(graph, x) - rank;
    if (kin_graph_status(graph) != KIN_OK) return KIN_NONE;
    uint32_t axes = 0;
    for (int axis = 0; axis < extra + rank; axis++) {
        int64_t have = kin_dim(graph, x, axis), want = axis < extra ? 1 : dims[axis - extra];
        if (axis < extra || (want == 1 && have != 1)) axes |= 1u << axis;
        else if (extra < 0 || have != want) extra = -1;
        if (extra < 0) break;
    }
    if (extra < 0)
        return kin_graph_fail(graph, KIN_INVALID,
                              "sum_to: the shape cannot be broadcast to that "
                              "of x");
    if (extra > 0 && axes == (1u << extra) - 1u) return kin_sum(graph, x, axes, false);
    if (axes != 0) x = kin_sum(graph, x, axes, true);
    return extra == 0 ? x : kin_reshape(graph, x, rank, dims);
}
