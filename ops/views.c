/* Views, and the gradient of a slice. */
#include "ops/views.h"

#include "ops/layout.h"
#include "ops/reduce.h"
#include "ops/walk.h"
#include "runtime/op.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define DIMS(r, ...) .rank = (r), .dims = {__VA_ARGS__}
#define SHAPE(r, ...) (&(const kin_shape_attrs){.rank = (r), .dims = {__VA_ARGS__}})

static kin_shape_attrs shape_attrs(int rank, const int64_t *dims) {
    kin_shape_attrs attrs;
    memset(&attrs, 0, sizeof attrs);
    attrs.rank = rank;
    for (int i = 0; i < rank; i++) attrs.dims[i] = dims[i];
    return attrs;
}

static bool shape_is_valid(const kin_shape_attrs *attrs) {
    if (attrs->rank < 0 || attrs->rank > KIN_MAX_RANK) return false;
    for (int64_t i = 0; i < attrs->rank; i++)
        if (attrs->dims[i] < 0) return false;
    return true;
}

/* The result of infer for a view that keeps rank, dims and strides of input 0, to be changed. */
static kin_desc *begin_view(kin_infer *infer) {
    infer->out[0] = *infer->in[0];
    infer->view_offset[0] = 0;
    return &infer->out[0];
}

/* Axis as given by a caller, negative from the end; -1 with a sticky error if there is none. */
static int checked_axis(kin_graph *graph, const char *op, kin_tensor x, int axis) {
    int rank = kin_rank(graph, x);
    if (axis >= -rank && axis < rank) return axis < 0 ? axis + rank : axis;
    char shape[256];
    kin_graph_fail(graph, KIN_INVALID, "%s: axis %d of a tensor %s", op, axis,
                   kin_desc_shape_text(kin_tensor_desc(graph, x), shape, sizeof shape));
    return -1;
}

static void copy_reference(const kin_reference *call) {
    size_t count = (size_t)kin_desc_count(&call->out_desc[0]);
    memcpy(call->out[0], call->in[0], count * sizeof(double));
}

/* ---- reshape ---- */

/* Strides of `in` under new dims (of the same count, none 0), if no copy is needed. Old and new
 * axes are matched in groups of equal size; a group of old axes must be evenly spaced. */
static bool reshape_strides(const kin_desc *in, int rank, const int64_t *dims,
                            int64_t *out_strides) {
    int64_t old_dims[KIN_MAX_RANK], old_strides[KIN_MAX_RANK];
    int old_rank = 0;
    for (int i = 0; i < in->rank; i++) {
        if (in->dims[i] == 1) continue;
        old_dims[old_rank] = in->dims[i];
        old_strides[old_rank++] = in->strides[i];
    }
    int from = 0, to = 0;
    while (from < old_rank && to < rank) {
        int from_end = from + 1, to_end = to + 1;
        int64_t old_size = old_dims[from], new_size = dims[to];
        while (old_size != new_size) {
            if (new_size < old_size) new_size *= dims[to_end++];
            else old_size *= old_dims[from_end++];
        }
        for (int i = from; i + 1 < from_end; i++)
            if (old_strides[i] != old_strides[i + 1] * old_dims[i + 1]) return false;
        int64_t stride = old_strides[from_end - 1];
        for (int i = to_end - 1; i >= to; i--) {
            out_strides[i] = stride;
            stride *= dims[i];
        }
        from = from_end;
        to = to_end;
    }
    for (; to < rank; to++) out_strides[to] = 1; /* only axes of size 1 are left */
    return true;
}

static bool reshape_is_view(const kin_desc *in, int rank, const int64_t *dims,
                            int64_t *out_strides) {
    if (kin_desc_count(in) == 0 || kin_desc_is_dense(in)) {
        kin_desc dense = kin_desc_dense(in->dtype, rank, dims);
        memcpy(out_strides, dense.strides, sizeof dense.strides);
        return true;
    }
    return reshape_strides(in, rank, dims, out_strides);
}

static kin_status reshape_infer(kin_infer *infer) {
    const kin_shape_attrs *attrs = infer->attrs;
    kin_status status = kin_infer_inputs(infer, 1, 1);
    if (status != KIN_OK) return status;
    const kin_desc *in = infer->in[0];
    char shape[256];
    if (!shape_is_valid(attrs)) return kin_infer_fail(infer, "to a shape that is not one");
    kin_desc out = kin_desc_dense(in->dtype, (int)attrs->rank, attrs->dims);
    kin_desc_shape_text(&out, shape, sizeof shape);
    if (kin_desc_count(in) != kin_desc_count(&out))
        return kin_infer_fail(infer, "to %s, which has another number of elements", shape);
    if (in->dtype == KIN_Q8_0 &&
        (in->rank == 0 || out.rank == 0 || in->dims[in->rank - 1] != out.dims[out.rank - 1]))
        return kin_infer_fail(infer, "to %s: the last axis of a q8_0 tensor must stay", shape);
    if (!reshape_is_view(in, out.rank, out.dims, out.strides))
        return kin_infer_fail(infer, "to %s: the strides need a copy first", shape);
    *begin_view(infer) = out;
    return KIN_OK;
}

/* The gradient of reshape, and of expand below, goes back to the input's own shape. */
static void reshape_gradient(kin_gradient_call *call) {
    const kin_desc x = *kin_tensor_desc(call->graph, call->in[0]);
    call->in_grad[0] = kin_reshape(call->graph, call->out_grad[0], x.rank, x.dims);
}

static const kin_case reshape_cases[] = {
    {"scalar", SHAPE(0, 0), 1, {{.dtype = KIN_F32, DIMS(3, 1, 1, 1)}}, false},
    {"from_scalar", SHAPE(2, 1, 1), 1, {{.dtype = KIN_F32, DIMS(0, 0)}}, false},
    {"split_and_join", SHAPE(4, 5, 3, 7, 2), 1, {{.dtype = KIN_F32, DIMS(3, 15, 7, 2)}}, false},
    {"rank_8", SHAPE(8, 1, 2, 1, 3, 2, 1, 2, 1), 1, {{.dtype = KIN_F32, DIMS(2, 6, 4)}}, false},
    {"strided",
     SHAPE(4, 4, 2, 3, 5),
     1,
     {{.dtype = KIN_F32, DIMS(3, 4, 6, 5), .layout = KIN_LAYOUT_TRANSPOSED}},
     false},
    {"padded",
     SHAPE(3, 2, 3, 5),
     1,
     {{.dtype = KIN_F32, DIMS(2, 6, 5), .layout = KIN_LAYOUT_PADDED}},
     false},
};

const kin_op kin_op_reshape = {
    .name = "reshape",
    .summary = "the same elements in row-major order under another shape (a view)",
    .flags = KIN_OP_VIEW,
    .attrs_size = sizeof(kin_shape_attrs),
    .outputs = 1,
    .infer = reshape_infer,
    .reference = copy_reference,
    .gradient = reshape_gradient,
    .cases = reshape_cases,
    .case_count = COUNT(reshape_cases),
};

/* Fills in the one dim that is -1. False if there are two, or no whole number fits. */
static bool complete_dims(int64_t count, kin_shape_attrs *attrs) {
    int64_t known = 1;
    int open = -1;
    for (int i = 0; i < attrs->rank; i++) {
        if (attrs->dims[i] != -1) {
            if (attrs->dims[i] < 0 || attrs->dims[i] > INT64_MAX / (known > 0 ? known : 1))
                return false;
            known *= attrs->dims[i];
        } else if (open >= 0) {
            return false;
        } else {
            open = i;
        }
    }
    if (open < 0) return true;
    if (known == 0 || count % known != 0) return false;
    attrs->dims[open] = count / known;
    return true;
}

kin_tensor kin_reshape(kin_graph *graph, kin_tensor x, int rank, const int64_t *dims) {
    if (kin_graph_status(graph) != KIN_OK) return KIN_NONE;
    if (rank < 0 || rank > KIN_MAX_RANK)
        return kin_graph_fail(graph, KIN_INVALID, "reshape: to rank %d; 0 to %d are possible", rank,
                              KIN_MAX_RANK);
    kin_shape_attrs attrs = shape_attrs(rank, dims);
    const kin_desc in = *kin_tensor_desc(graph, x);
    if (!complete_dims(kin_desc_count(&in), &attrs)) {
        kin_desc want = kin_desc_dense(in.dtype, rank, dims);
        char from[256], to[256];
        return kin_graph_fail(graph, KIN_INVALID, "reshape: %s does not go into %s",
                              kin_desc_shape_text(&in, from, sizeof from),
                              kin_desc_shape_text(&want, to, sizeof to));
    }
    kin_desc out = kin_desc_dense(in.dtype, rank, attrs.dims);
    if (kin_desc_same_shape(&in, &out)) return x;
    if (kin_desc_count(&in) == kin_desc_count(&out) &&
        !reshape_is_view(&in, rank, attrs.dims, out.strides))
        x = kin_copy(graph, x);
    return kin_append1(graph, &kin_op_reshape, &attrs, &x, 1);
}

kin_tensor kin_flatten(kin_graph *graph, kin_tensor x, int first_axis, int last_axis) {
    if (kin_graph_status(graph) != KIN_OK) return KIN_NONE;
    int first = checked_axis(graph, "flatten", x, first_axis);
    int last = checked_axis(graph, "flatten", x, last_axis);
    if (first < 0 || last < 0) return KIN_NONE;
    if (last < first)
        return kin_graph_fail(graph, KIN_INVALID, "flatten: axes %d to %d", first, last);
    const kin_desc in = *kin_tensor_desc(graph, x);
    int64_t dims[KIN_MAX_RANK];
    int rank = 0;
    for (int i = 0; i < in.rank; i++) {
        if (i <= first || i > last) dims[rank++] = in.dims[i];
        else dims[rank - 1] *= in.dims[i];
    }
    return kin_reshape(graph, x, rank, dims);
}

/* ---- permute ---- */

static kin_status permute_infer(kin_infer *infer) {
    const kin_permute_attrs *attrs = infer->attrs;
    kin_status status = kin_infer_inputs(infer, 1, 1);
    if (status != KIN_OK) return status;
    const kin_desc *in = infer->in[0];
    if (attrs->rank != in->rank)
        return kin_infer_fail(infer, "by %d axes, but the tensor has %d", (int)attrs->rank,
                              in->rank);
    kin_desc *out = begin_view(infer);
    unsigned seen = 0;
    for (int i = 0; i < in->rank; i++) {
        int64_t axis = attrs->axes[i];
        if (axis < 0 || axis >= in->rank || (seen >> axis & 1u) != 0)
            return kin_infer_fail(infer, "by axes that are no permutation: entry %d is %lld", i,
                                  (long long)axis);
        seen |= 1u << axis;
        out->dims[i] = in->dims[axis];
        out->strides[i] = in->strides[axis];
    }
    if (in->dtype == KIN_Q8_0 && in->rank > 0 && attrs->axes[in->rank - 1] != in->rank - 1)
        return kin_infer_fail(infer, "of a q8_0 tensor must keep the last axis; cast it first");
    return KIN_OK;
}

static void permute_reference(const kin_reference *call) {
    const kin_permute_attrs *attrs = call->attrs;
    const kin_desc *out = &call->out_desc[0];
    kin_desc view = *out;
    for (int i = 0; i < out->rank; i++) view.strides[i] = call->in_desc[0].strides[attrs->axes[i]];
    kin_walk walk = kin_walk_start(&view, out->rank, out->dims);
    int64_t count = kin_desc_count(out);
    for (int64_t i = 0; i < count; i++, kin_walk_next(&walk))
        call->out[0][i] = call->in[0][walk.offset];
}

static void permute_gradient(kin_gradient_call *call) {
    const kin_permute_attrs *attrs = call->attrs;
    int inverse[KIN_MAX_RANK] = {0};
    for (int i = 0; i < attrs->rank; i++) inverse[attrs->axes[i]] = i;
    call->in_grad[0] = kin_permute(call->graph, call->out_grad[0], inverse);
}

#define AXES(r, ...) (&(const kin_permute_attrs){.rank = (r), .axes = {__VA_ARGS__}})
static const kin_case permute_cases[] = {
    {"rank_0", AXES(0, 0), 1, {{.dtype = KIN_F32, DIMS(0, 0)}}, false},
    {"rank_8",
     AXES(8, 0, 4, 1, 5, 2, 6, 3, 7),
     1,
     {{.dtype = KIN_F32, DIMS(8, 2, 3, 1, 2, 2, 1, 3, 2)}},
     false},
    {"unpatchify",
     AXES(8, 0, 7, 1, 4, 2, 5, 3, 6),
     1,
     {{.dtype = KIN_F32, DIMS(8, 1, 2, 3, 2, 1, 2, 2, 4)}},
     false},
    {"of_transposed",
     AXES(3, 2, 0, 1),
     1,
     {{.dtype = KIN_F32, DIMS(3, 5, 3, 7), .layout = KIN_LAYOUT_TRANSPOSED}},
     false},
    {"of_padded",
     AXES(2, 1, 0),
     1,
     {{.dtype = KIN_F32, DIMS(2, 5, 9), .layout = KIN_LAYOUT_PADDED}},
     false},
};

const kin_op kin_op_permute = {
    .name = "permute",
    .summary = "axis i of the result is axis axes[i] of the input (a view)",
    .flags = KIN_OP_VIEW,
    .attrs_size = sizeof(kin_permute_attrs),
    .outputs = 1,
    .infer = permute_infer,
    .reference = permute_reference,
    .gradient = permute_gradient,
    .cases = permute_cases,
    .case_count = COUNT(permute_cases),
};

kin_tensor kin_permute(kin_graph *graph, kin_tensor x, const int *axes) {
    if (kin_graph_status(graph) != KIN_OK) return KIN_NONE;
    kin_permute_attrs attrs;
    memset(&attrs, 0, sizeof attrs);
    attrs.rank = kin_rank(graph, x);
    for (int i = 0; i < attrs.rank; i++) attrs.axes[i] = axes[i];
    return kin_append1(graph, &kin_op_permute, &attrs, &x, 1);
}

kin_tensor kin_transpose(kin_graph *graph, kin_tensor x, int axis_a, int axis_b) {
    if (kin_graph_status(graph) != KIN_OK) return KIN_NONE;
    int a = checked_axis(graph, "transpose", x, axis_a);
    int b = checked_axis(graph, "transpose", x, axis_b);
    if (a < 0 || b < 0) return KIN_NONE;
    int axes[KIN_MAX_RANK];
    for (int i = 0; i < KIN_MAX_RANK; i++) axes[i] = i == a ? b : i == b ? a : i;
    return kin_permute(graph, x, axes);
}

/* ---- slice ---- */

static kin_status slice_infer(kin_infer *infer) {
    const kin_slice_attrs *attrs = infer->attrs;
    kin_status status = kin_infer_inputs(infer, 1, 1);
    if (status != KIN_OK) return status;
    const kin_desc *in = infer->in[0];
    if (attrs->axis < 0 || attrs->axis >= in->rank)
        return kin_infer_fail(infer, "of axis %lld, which is not there", (long long)attrs->axis);
    int64_t size = in->dims[attrs->axis];
    if (attrs->start < 0 || attrs->length < 0 || attrs->start > size ||
        attrs->length > size - attrs->start)
        return kin_infer_fail(infer, "of %lld elements from %lld on, but axis %lld has %lld",
                              (long long)attrs->length, (long long)attrs->start,
                              (long long)attrs->axis, (long long)size);
    if (in->dtype == KIN_Q8_0 && attrs->axis == in->rank - 1 && attrs->length != size)
        return kin_infer_fail(infer, "of the last axis of a q8_0 tensor; cast it first");
    kin_desc *out = begin_view(infer);
    out->dims[attrs->axis] = attrs->length;
    infer->view_offset[0] = attrs->start * in->strides[attrs->axis];
    return KIN_OK;
}

static void slice_reference(const kin_reference *call) {
    const kin_slice_attrs *attrs = call->attrs;
    const kin_desc *out = &call->out_desc[0];
    kin_desc view = *out;
    for (int i = 0; i < out->rank; i++) view.strides[i] = call->in_desc[0].strides[i];
    const double *in = call->in[0] + attrs->start * view.strides[attrs->axis];
    kin_walk walk = kin_walk_start(&view, out->rank, out->dims);
    int64_t count = kin_desc_count(out);
    for (int64_t i = 0; i < count; i++, kin_walk_next(&walk)) call->out[0][i] = in[walk.offset];
}

static void slice_gradient(kin_gradient_call *call) {
    const kin_slice_attrs *attrs = call->attrs;
    int axis = (int)attrs->axis;
    call->in_grad[0] = kin_slice_grad(call->graph, call->out_grad[0], axis, attrs->start,
                                      kin_dim(call->graph, call->in[0], axis));
}

#define SLICE(a, s, l) (&(const kin_slice_attrs){.axis = (a), .start = (s), .length = (l)})
static const kin_case slice_cases[] = {
    {"one_of_one", SLICE(0, 0, 1), 1, {{.dtype = KIN_F32, DIMS(1, 1)}}, false},
    {"last_axis", SLICE(2, 2, 3), 1, {{.dtype = KIN_F32, DIMS(3, 2, 3, 7)}}, false},
    {"middle_of_transposed",
     SLICE(1, 1, 2),
     1,
     {{.dtype = KIN_F32, DIMS(3, 4, 5, 3), .layout = KIN_LAYOUT_TRANSPOSED}},
     false},
    {"first_axis_of_padded",
     SLICE(0, 3, 2),
     1,
     {{.dtype = KIN_F32, DIMS(2, 5, 6), .layout = KIN_LAYOUT_PADDED}},
     false},
    {"integers",
     SLICE(0, 2, 3),
     1,
     {{.dtype = KIN_I64, DIMS(1, 7), .fill = KIN_FILL_COUNT}},
     false},
};

const kin_op kin_op_slice = {
    .name = "slice",
    .summary = "elements start .. start + length - 1 of one axis (a view)",
    .flags = KIN_OP_VIEW,
    .attrs_size = sizeof(kin_slice_attrs),
    .outputs = 1,
    .infer = slice_infer,
    .reference = slice_reference,
    .gradient = slice_gradient,
    .cases = slice_cases,
    .case_count = COUNT(slice_cases),
};

kin_tensor kin_slice(kin_graph *graph, kin_tensor x, int axis, int64_t start, int64_t length) {
    if (kin_graph_status(graph) != KIN_OK) return KIN_NONE;
    int at = checked_axis(graph, "slice", x, axis);
    if (at < 0) return KIN_NONE;
    int64_t size = kin_dim(graph, x, at);
    kin_slice_attrs attrs = {
        .axis = at, .start = start < 0 ? start + size : start, .length = length};
    return kin_append1(graph, &kin_op_slice, &attrs, &x, 1);
}

/* ---- slice_grad ---- */

static kin_status slice_grad_infer(kin_infer *infer) {
    const kin_slice_grad_attrs *attrs = infer->attrs;
    kin_status status = kin_infer_inputs(infer, 1, 1);
    if (status != KIN_OK) return status;
    const kin_desc *in = infer->in[0];
    if (attrs->axis < 0 || attrs->axis >= in->rank)
        return kin_infer_fail(infer, "along axis %lld, which is not there", (long long)attrs->axis);
    int64_t length = in->dims[attrs->axis];
    if (attrs->start < 0 || attrs->start > attrs->size || length > attrs->size - attrs->start)
        return kin_infer_fail(infer, "at %lld of %lld", (long long)attrs->start,
                              (long long)attrs->size);
    if (in->dtype == KIN_Q8_0) return kin_infer_fail(infer, "of a q8_0 tensor; cast it first");
    int64_t dims[KIN_MAX_RANK];
    for (int i = 0; i < in->rank; i++) dims[i] = i == attrs->axis ? attrs->size : in->dims[i];
    infer->out[0] = kin_desc_dense(in->dtype, in->rank, dims);
    return KIN_OK;
}

static void slice_grad_reference(const kin_reference *call) {
    const kin_slice_grad_attrs *attrs = call->attrs;
    const kin_desc *in = &call->in_desc[0], *out = &call->out_desc[0];
    kin_desc view = *in;
    for (int i = 0; i < in->rank; i++) view.strides[i] = out->strides[i];
    int64_t total = kin_desc_count(out), count = kin_desc_count(in);
    for (int64_t i = 0; i < total; i++) call->out[0][i] = 0;
    double *target = call->out[0] + attrs->start * out->strides[attrs->axis];
    kin_walk walk = kin_walk_start(&view, in->rank, in->dims);
    for (int64_t i = 0; i < count; i++, kin_walk_next(&walk)) target[walk.offset] = call->in[0][i];
}

static void slice_grad_gradient(kin_gradient_call *call) {
    const kin_slice_grad_attrs *attrs = call->attrs;
    int axis = (int)attrs->axis;
    call->in_grad[0] = kin_slice(call->graph, call->out_grad[0], axis, attrs->start,
                                 kin_dim(call->graph, call->in[0], axis));
}

#define SLICE_GRAD(a, s, n) (&(const kin_slice_grad_attrs){.axis = (a), .start = (s), .size = (n)})
static const kin_case slice_grad_cases[] = {
    {"vector", SLICE_GRAD(0, 2, 6), 1, {{.dtype = KIN_F32, DIMS(1, 3)}}, false},
    {"whole", SLICE_GRAD(1, 0, 5), 1, {{.dtype = KIN_F32, DIMS(2, 3, 5)}}, false},
    {"last_axis_of_transposed",
     SLICE_GRAD(2, 4, 11),
     1,
     {{.dtype = KIN_F32, DIMS(3, 5, 3, 7), .layout = KIN_LAYOUT_TRANSPOSED}},
     false},
    {"middle", SLICE_GRAD(1, 1, 4), 1, {{.dtype = KIN_F32, DIMS(3, 2, 3, 5)}}, false},
    {"first_axis_of_padded",
     SLICE_GRAD(0, 1, 3),
     1,
     {{.dtype = KIN_F32, DIMS(2, 2, 19), .layout = KIN_LAYOUT_PADDED}},
     false},
};

const kin_op kin_op_slice_grad = {
    .name = "slice_grad",
    .summary = "the input at `start` of a longer axis, zeros elsewhere: the gradient of slice",
    .attrs_size = sizeof(kin_slice_grad_attrs),
    .outputs = 1,
    .infer = slice_grad_infer,
    .reference = slice_grad_reference,
    .gradient = slice_grad_gradient,
    .cases = slice_grad_cases,
    .case_count = COUNT(slice_grad_cases),
};

kin_tensor kin_slice_grad(kin_graph *graph, kin_tensor x, int axis, int64_t start, int64_t size) {
    if (kin_graph_status(graph) != KIN_OK) return KIN_NONE;
    int at = checked_axis(graph, "slice_grad", x, axis);
    if (at < 0) return KIN_NONE;
    kin_slice_grad_attrs attrs = {.axis = at, .start = start, .size = size};
    return kin_append1(graph, &kin_op_slice_grad, &attrs, &x, 1);
}

/* ---- expand ---- */

static kin_status expand_infer(kin_infer *infer) {
    const kin_shape_attrs *attrs = infer->attrs;
    kin_status status = kin_infer_inputs(infer, 1, 1);
    if (status != KIN_OK) return status;
    const kin_desc *in = infer->in[0];
    char shape[256];
    if (!shape_is_valid(attrs)) return kin_infer_fail(infer, "to a shape that is not one");
    kin_desc out = kin_desc_dense(in->dtype, (int)attrs->rank, attrs->dims);
    kin_desc_shape_text(&out, shape, sizeof shape);
    if (in->dtype == KIN_Q8_0) return kin_infer_fail(infer, "of a q8_0 tensor; cast it first");
    if (out.rank < in->rank) return kin_infer_fail(infer, "to %s, which has fewer axes", shape);
    for (int i = 0; i < out.rank; i++) {
        int axis = i - (out.rank - in->rank);
        bool repeats = axis < 0 || (in->dims[axis] == 1 && out.dims[i] != 1);
        if (!repeats && in->dims[axis] != out.dims[i])
            return kin_infer_fail(infer, "to %s: only axes of size 1 repeat", shape);
        out.strides[i] = repeats ? 0 : in->strides[axis];
    }
    *begin_view(infer) = out;
    return KIN_OK;
}

static void expand_reference(const kin_reference *call) {
    const kin_desc *out = &call->out_desc[0];
    kin_walk walk = kin_walk_start(&call->in_desc[0], out->rank, out->dims);
    int64_t count = kin_desc_count(out);
    for (int64_t i = 0; i < count; i++, kin_walk_next(&walk))
        call->out[0][i] = call->in[0][walk.offset];
}

static void expand_gradient(kin_gradient_call *call) {
    const kin_desc x = *kin_tensor_desc(call->graph, call->in[0]);
    call->in_grad[0] = kin_sum_to(call->graph, call->out_grad[0], x.rank, x.dims);
}

/* Sums of the gradient check run over the repeated elements. */
static const kin_case expand_cases[] = {
    {"scalar", SHAPE(2, 3, 4), 1, {{.dtype = KIN_F32, DIMS(0, 0)}}, false},
    {"leading", SHAPE(3, 3, 2, 5), 1, {{.dtype = KIN_F32, DIMS(2, 2, 5)}}, false},
    {"middle_of_transposed",
     SHAPE(4, 2, 3, 4, 5),
     1,
     {{.dtype = KIN_F32, DIMS(4, 2, 3, 1, 5), .layout = KIN_LAYOUT_TRANSPOSED}},
     false},
    {"last_of_padded",
     SHAPE(2, 4, 6),
     1,
     {{.dtype = KIN_F32, DIMS(2, 4, 1), .layout = KIN_LAYOUT_PADDED}},
     false},
    {"rank_8",
     SHAPE(8, 2, 1, 2, 1, 3, 1, 2, 2),
     1,
     {{.dtype = KIN_F32, DIMS(4, 3, 1, 1, 2)}},
     false},
};

const kin_op kin_op_expand = {
    .name = "expand",
    .summary = "repeats axes of size 1 and missing leading axes (a view of stride 0)",
    .flags = KIN_OP_VIEW,
    .attrs_size = sizeof(kin_shape_attrs),
    .outputs = 1,
    .infer = expand_infer,
    .reference = expand_reference,
    .gradient = expand_gradient,
    .cases = expand_cases,
    .case_count = COUNT(expand_cases),
};

kin_tensor kin_expand(kin_graph *graph, kin_tensor x, int rank, const int64_t *dims) {
    if (kin_graph_status(graph) != KIN_OK) return KIN_NONE;
    if (rank < 0 || rank > KIN_MAX_RANK)
        return kin_graph_fail(graph, KIN_INVALID, "expand: to rank %d; 0 to %d are possible", rank,
                              KIN_MAX_RANK);
    kin_shape_attrs attrs = shape_attrs(rank, dims);
    kin_desc out = kin_desc_dense(KIN_F32, rank, attrs.dims);
    if (kin_desc_same_shape(kin_tensor_desc(graph, x), &out)) return x;
    return kin_append1(graph, &kin_op_expand, &attrs, &x, 1);
}
