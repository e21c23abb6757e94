/* Ops that move or make elements. */
#include "ops/layout.h"

#include "ops/views.h"
#include "ops/walk.h"
#include "runtime/op.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define DIMS(r, ...) .rank = (r), .dims = {__VA_ARGS__}

static void identity_reference(const kin_reference *call) {
    size_t count = (size_t)kin_desc_count(&call->out_desc[0]);
    memcpy(call->out[0], call->in[0], count * sizeof(double));
}

/* ---- copy ---- */

static kin_status copy_infer(kin_infer *infer) {
    kin_status status = kin_infer_inputs(infer, 1, 1);
    if (status == KIN_OK) kin_infer_like(infer, 0, 0, infer->in[0]->dtype);
    return status;
}

static void copy_gradient(kin_gradient_call *call) {
    call->in_grad[0] = call->out_grad[0];
}

static const kin_case copy_cases[] = {
    {"scalar", NULL, 1, {{.dtype = KIN_F32, DIMS(0, 0)}}, false},
    {"transposed",
     NULL,
     1,
     {{.dtype = KIN_F32, DIMS(2, 67, 45), .layout = KIN_LAYOUT_TRANSPOSED}},
     false},
    {"padded", NULL, 1, {{.dtype = KIN_F32, DIMS(3, 3, 1, 5), .layout = KIN_LAYOUT_PADDED}}, false},
    {"rank_8_transposed",
     NULL,
     1,
     {{.dtype = KIN_F32, DIMS(8, 2, 3, 1, 2, 2, 1, 3, 2), .layout = KIN_LAYOUT_TRANSPOSED}},
     false},
    {"bytes",
     NULL,
     1,
     {{.dtype = KIN_U8,
       DIMS(2, 33, 5),
       .fill = KIN_FILL_INDEX,
       .limit = 256,
       .layout = KIN_LAYOUT_TRANSPOSED}},
     false},
    {"long_integers", NULL, 1, {{.dtype = KIN_I64, DIMS(1, 9), .fill = KIN_FILL_COUNT}}, false},
    {"bench_transposed",
     NULL,
     1,
     {{.dtype = KIN_F32, DIMS(2, 1152, 4096), .layout = KIN_LAYOUT_TRANSPOSED}},
     true},
};

const kin_op kin_op_copy = {
    .name = "copy",
    .summary = "y = x, dense in row-major order",
    .flags = KIN_OP_ROLE_COPY,
    .outputs = 1,
    .infer = copy_infer,
    .reference = identity_reference,
    .gradient = copy_gradient,
    .cases = copy_cases,
    .case_count = COUNT(copy_cases),
};

kin_tensor kin_copy(kin_graph *graph, kin_tensor x) {
    return kin_append1(graph, &kin_op_copy, NULL, &x, 1);
}

/* ---- cast ---- */

static kin_status cast_infer(kin_infer *infer) {
    const kin_cast_attrs *attrs = infer->attrs;
    kin_status status = kin_infer_inputs(infer, 1, 1);
    if (status != KIN_OK) return status;
    if (attrs->dtype < 0 || attrs->dtype >= KIN_DTYPE_COUNT || attrs->dtype == KIN_Q8_0 ||
        attrs->dtype == KIN_F64)
        return kin_infer_fail(infer, "to %s; possible are f32, f16, bf16, i32, i64, u8 and bool",
                              kin_dtype_name((kin_dtype)attrs->dtype));
    kin_infer_like(infer, 0, 0, (kin_dtype)attrs->dtype);
    return KIN_OK;
}

/* Integers are cut towards zero and saturated, as kin_element_set does. Floats stay as they are:
 * they are rounded when they are stored, and a reference in double can be differentiated. */
static void cast_reference(const kin_reference *call) {
    kin_dtype to = call->out_desc[0].dtype;
    int64_t count = kin_desc_count(&call->out_desc[0]);
    for (int64_t i = 0; i < count; i++) {
        unsigned char bytes[8];
        call->out[0][i] = call->in[0][i];
        if (kin_dtype_is_float(to)) continue;
        kin_element_set(bytes, to, 0, call->in[0][i]);
        call->out[0][i] = kin_element_get(bytes, to, 0);
    }
}

static void cast_gradient(kin_gradient_call *call) {
    kin_dtype from = kin_dtype_of(call->graph, call->in[0]);
    kin_dtype to = kin_dtype_of(call->graph, call->out[0]);
    if (from == KIN_Q8_0 || !kin_dtype_is_float(from) || !kin_dtype_is_float(to)) return;
    call->in_grad[0] = kin_cast(call->graph, call->out_grad[0], from);
}

#define CAST(d) (&(const kin_cast_attrs){.dtype = (d)})
static const kin_case cast_cases[] = {
    {"to_bf16", CAST(KIN_BF16), 1, {{.dtype = KIN_F32, DIMS(2, 3, 37), .fixed = true}}, false},
    {"to_f16", CAST(KIN_F16), 1, {{.dtype = KIN_F32, DIMS(2, 3, 37), .fixed = true}}, false},
    {"bf16_to_f32", CAST(KIN_F32), 1, {{.dtype = KIN_BF16, DIMS(1, 131), .fixed = true}}, false},
    {"f16_to_f32_transposed",
     CAST(KIN_F32),
     1,
     {{.dtype = KIN_F16, DIMS(2, 17, 9), .fixed = true, .layout = KIN_LAYOUT_TRANSPOSED}},
     false},
    {"scalar_to_i64",
     CAST(KIN_I64),
     1,
     {{.dtype = KIN_F32, DIMS(0, 0), .scale = 100, .fixed = true}},
     false},
    {"to_u8_saturated",
     CAST(KIN_U8),
     1,
     {{.dtype = KIN_F32, DIMS(1, 77), .scale = 200, .fixed = true}},
     false},
    {"bool_to_f32",
     CAST(KIN_F32),
     1,
     {{.dtype = KIN_BOOL, DIMS(2, 5, 7), .fill = KIN_FILL_INDEX, .limit = 2}},
     false},
    {"i64_to_i32_padded",
     CAST(KIN_I32),
     1,
     {{.dtype = KIN_I64,
       DIMS(2, 3, 5),
       .fill = KIN_FILL_INDEX,
       .limit = 1000,
       .layout = KIN_LAYOUT_PADDED}},
     false},
    {"q8_0_to_f32", CAST(KIN_F32), 1, {{.dtype = KIN_Q8_0, DIMS(2, 3, 64), .fixed = true}}, false},
};

const kin_op kin_op_cast = {
    .name = "cast",
    .summary = "x in another dtype: to nearest even; integers cut towards zero and saturated",
    .attrs_size = sizeof(kin_cast_attrs),
    .outputs = 1,
    .infer = cast_infer,
    .reference = cast_reference,
    .gradient = cast_gradient,
    .cases = cast_cases,
    .case_count = COUNT(cast_cases),
};

kin_tensor kin_cast(kin_graph *graph, kin_tensor x, kin_dtype dtype) {
    if (kin_graph_status(graph) != KIN_OK) return KIN_NONE;
    if (kin_dtype_of(graph, x) == dtype) return x;
    kin_cast_attrs attrs = {.dtype = dtype};
    return kin_append1(graph, &kin_op_cast, &attrs, &x, 1);
}

/* ---- fill and one ---- */

static kin_status filled_infer(kin_infer *infer, int64_t dtype, int64_t rank, const int64_t *dims) {
    kin_status status = kin_infer_inputs(infer, 0, 0);
    if (status != KIN_OK) return status;
    if (dtype < 0 || dtype >= KIN_DTYPE_COUNT || dtype == KIN_Q8_0 || dtype == KIN_F64)
        return kin_infer_fail(infer, "of dtype %s; possible are f32, f16, bf16 and integers",
                              kin_dtype_name((kin_dtype)dtype));
    if (rank < 0 || rank > KIN_MAX_RANK)
        return kin_infer_fail(infer, "of rank %lld; 0 to %d are possible", (long long)rank,
                              KIN_MAX_RANK);
    for (int64_t i = 0; i < rank; i++)
        if (dims[i] < 0) return kin_infer_fail(infer, "of a negative size");
    infer->out[0] = kin_desc_dense((kin_dtype)dtype, (int)rank, dims);
    return KIN_OK;
}

static void filled_reference(const kin_reference *call, double value) {
    int64_t count = kin_desc_count(&call->out_desc[0]);
    for (int64_t i = 0; i < count; i++) call->out[0][i] = value;
}

static kin_status fill_infer(kin_infer *infer) {
    const kin_fill_attrs *attrs = infer->attrs;
    return filled_infer(infer, attrs->dtype, attrs->rank, attrs->dims);
}

static void fill_reference(const kin_reference *call) {
    filled_reference(call, ((const kin_fill_attrs *)call->attrs)->value);
}

#define FILL(d, v, r, ...)                                                                         \
    (&(const kin_fill_attrs){.dtype = (d), .value = (v), .rank = (r), .dims = {__VA_ARGS__}})
static const kin_case fill_cases[] = {
    {"scalar", FILL(KIN_F32, 0.1, 0, 0), 0, {{.rank = 0}}, false},
    {"bf16", FILL(KIN_BF16, -2.5, 2, 3, 5), 0, {{.rank = 0}}, false},
    {"f16", FILL(KIN_F16, 0.75, 1, 33), 0, {{.rank = 0}}, false},
    {"i64", FILL(KIN_I64, 7, 3, 2, 1, 3), 0, {{.rank = 0}}, false},
    {"bool", FILL(KIN_BOOL, 1, 1, 19), 0, {{.rank = 0}}, false},
};

const kin_op kin_op_fill = {
    .name = "fill",
    .summary = "a tensor of one value",
    .attrs_size = sizeof(kin_fill_attrs),
    .outputs = 1,
    .infer = fill_infer,
    .reference = fill_reference,
    .cases = fill_cases,
    .case_count = COUNT(fill_cases),
};

kin_tensor kin_fill(kin_graph *graph, kin_dtype dtype, int rank, const int64_t *dims,
                    double value) {
    if (kin_graph_status(graph) != KIN_OK) return KIN_NONE;
    kin_fill_attrs attrs;
    memset(&attrs, 0, sizeof attrs);
    attrs.dtype = dtype;
    attrs.rank = rank;
    attrs.value = value;
    for (int i = 0; i < rank && i < KIN_MAX_RANK; i++) attrs.dims[i] = dims[i];
    return kin_append1(graph, &kin_op_fill, &attrs, NULL, 0);
}

static kin_status one_infer(kin_infer *infer) {
    const kin_desc *attrs = infer->attrs;
    return filled_infer(infer, attrs->dtype, attrs->rank, attrs->dims);
}

static void one_reference(const kin_reference *call) {
    filled_reference(call, 1.0);
}

static const kin_case one_cases[] = {
    {"scalar", &(const kin_desc){.dtype = KIN_F32}, 0, {{.rank = 0}}, false},
    {"matrix",
     &(const kin_desc){.dtype = KIN_BF16, .rank = 2, .dims = {3, 7}, .strides = {7, 1}},
     0,
     {{.rank = 0}},
     false},
};

const kin_op kin_op_one = {
    .name = "one",
    .summary = "a tensor of ones: the gradient of the loss",
    .flags = KIN_OP_ROLE_ONE,
    .attrs_size = sizeof(kin_desc),
    .outputs = 1,
    .infer = one_infer,
    .reference = one_reference,
    .cases = one_cases,
    .case_count = COUNT(one_cases),
};

/* ---- concat ---- */

static kin_status concat_infer(kin_infer *infer) {
    const kin_concat_attrs *attrs = infer->attrs;
    if (infer->in_count < 1) return kin_infer_fail(infer, "of nothing");
    const kin_desc *first = infer->in[0];
    if (attrs->axis < 0 || attrs->axis >= first->rank)
        return kin_infer_fail(infer, "along axis %lld, which is not there", (long long)attrs->axis);
    if (first->dtype == KIN_Q8_0) return kin_infer_fail(infer, "of q8_0 tensors; cast them first");
    int64_t dims[KIN_MAX_RANK];
    memcpy(dims, first->dims, sizeof dims);
    for (int i = 1; i < infer->in_count; i++) {
        const kin_desc *part = infer->in[i];
        bool fits = part->rank == first->rank && part->dtype == first->dtype;
        for (int j = 0; fits && j < first->rank; j++)
            fits = j == attrs->axis || part->dims[j] == first->dims[j];
        if (!fits)
            return kin_infer_fail(infer, "along axis %lld: part %d does not fit to part 0",
                                  (long long)attrs->axis, i);
        if (part->dims[attrs->axis] > INT64_MAX - dims[attrs->axis])
            return kin_infer_fail(infer, "is too large");
        dims[attrs->axis] += part->dims[attrs->axis];
    }
    infer->out[0] = kin_desc_dense(first->dtype, first->rank, dims);
    return KIN_OK;
}

static void concat_reference(const kin_reference *call) {
    const kin_concat_attrs *attrs = call->attrs;
    const kin_desc *out = &call->out_desc[0];
    int64_t start = 0;
    for (int part = 0; part < call->in_count; part++) {
        const kin_desc *in = &call->in_desc[part];
        kin_desc view = *in;
        for (int i = 0; i < in->rank; i++) view.strides[i] = out->strides[i];
        double *target = call->out[0] + start * out->strides[attrs->axis];
        int64_t count = kin_desc_count(in);
        kin_walk walk = kin_walk_start(&view, in->rank, in->dims);
        for (int64_t i = 0; i < count; i++, kin_walk_next(&walk))
            target[walk.offset] = call->in[part][i];
        start += in->dims[attrs->axis];
    }
}

static void concat_gradient(kin_gradient_call *call) {
    const kin_concat_attrs *attrs = call->attrs;
    int64_t start = 0;
    for (int i = 0; i < call->in_count; i++) {
        int64_t length = kin_dim(call->graph, call->in[i], (int)attrs->axis);
        if (call->wanted[i])
            call->in_grad[i] =
                kin_slice(call->graph, call->out_grad[0], (int)attrs->axis, start, length);
        start += length;
    }
}

#define CONCAT(a) (&(const kin_concat_attrs){.axis = (a)})
static const kin_case concat_cases[] = {
    {"one_part", CONCAT(0), 1, {{.dtype = KIN_F32, DIMS(1, 3)}}, false},
    {"last_axis",
     CONCAT(2),
     3,
     {{.dtype = KIN_F32, DIMS(3, 2, 3, 5)},
      {.dtype = KIN_F32, DIMS(3, 2, 3, 1)},
      {.dtype = KIN_F32, DIMS(3, 2, 3, 7)}},
     false},
    {"views",
     CONCAT(1),
     2,
     {{.dtype = KIN_F32, DIMS(3, 4, 3, 5), .layout = KIN_LAYOUT_TRANSPOSED},
      {.dtype = KIN_F32, DIMS(3, 4, 2, 5), .layout = KIN_LAYOUT_PADDED}},
     false},
    {"first_axis",
     CONCAT(0),
     2,
     {{.dtype = KIN_F32, DIMS(2, 1, 33)}, {.dtype = KIN_F32, DIMS(2, 4, 33)}},
     false},
};

const kin_op kin_op_concat = {
    .name = "concat",
    .summary = "the inputs one after the other along an axis",
    .attrs_size = sizeof(kin_concat_attrs),
    .outputs = 1,
    .infer = concat_infer,
    .reference = concat_reference,
    .gradient = concat_gradient,
    .cases = concat_cases,
    .case_count = COUNT(concat_cases),
};

kin_tensor kin_concat(kin_graph *graph, const kin_tensor *parts, int count, int axis) {
    if (kin_graph_status(graph) != KIN_OK) return KIN_NONE;
    if (count < 1) return kin_graph_fail(graph, KIN_INVALID, "concat: of %d parts", count);
    int rank = kin_rank(graph, parts[0]);
    kin_concat_attrs attrs = {.axis = axis < 0 ? axis + rank : axis};
    return kin_append1(graph, &kin_op_concat, &attrs, parts, count);
}

/* ---- patches ---- */

static bool patches_fit(kin_graph *graph, const char *what, const int64_t size[3],
                        const int64_t patch[3]) {
    bool fits = true;
    for (int i = 0; i < 3; i++) fits = fits && patch[i] > 0 && size[i] % patch[i] == 0;
    if (!fits)
        kin_graph_fail(graph, KIN_INVALID,
                       "%s: frames, rows and columns (%lld, %lld, %lld) are no multiples of the "
                       "patch (%lld, %lld, %lld); pad them first",
                       what, (long long)size[0], (long long)size[1], (long long)size[2],
                       (long long)patch[0], (long long)patch[1], (long long)patch[2]);
    return fits;
}

kin_tensor kin_patchify(kin_graph *graph, kin_tensor x, int64_t pt, int64_t py, int64_t px) {
    if (kin_graph_status(graph) != KIN_OK) return KIN_NONE;
    const kin_desc in = *kin_tensor_desc(graph, x);
    if (in.rank != 5)
        return kin_graph_fail(graph, KIN_INVALID, "patchify: takes [B, C, T, Y, X], not rank %d",
                              in.rank);
    const int64_t *d = in.dims;
    if (!patches_fit(graph, "patchify", d + 2, (const int64_t[3]){pt, py, px})) return KIN_NONE;
    int64_t cut[8] = {d[0], d[1], d[2] / pt, pt, d[3] / py, py, d[4] / px, px};
    int64_t joined[3] = {d[0], cut[2] * cut[4] * cut[6], d[1] * pt * py * px};
    x = kin_reshape(graph, x, 8, cut);
    x = kin_permute(graph, x, (const int[8]){0, 2, 4, 6, 1, 3, 5, 7});
    return kin_reshape(graph, x, 3, joined);
}

kin_tensor kin_unpatchify(kin_graph *graph, kin_tensor x, int64_t channels, int64_t frames,
                          int64_t rows, int64_t columns, int64_t pt, int64_t py, int64_t px) {
    if (kin_graph_status(graph) != KIN_OK) return KIN_NONE;
    const int64_t size[3] = {frames, rows, columns}, patch[3] = {pt, py, px};
    if (kin_rank(graph, x) != 3)
        return kin_graph_fail(graph, KIN_INVALID, "unpatchify: takes [B, N, C], not rank %d",
                              kin_rank(graph, x));
    if (!patches_fit(graph, "unpatchify", size, patch)) return KIN_NONE;
    int64_t batch = kin_dim(graph, x, 0);
    int64_t cut[8] = {batch, frames / pt, rows / py, columns / px, pt, py, px, channels};
    int64_t joined[5] = {batch, channels, frames, rows, columns};
    x = kin_reshape(graph, x, 8, cut);
    x = kin_permute(graph, x, (const int[8]){0, 7, 1, 4, 2, 5, 3, 6});
    return kin_reshape(graph, x, 5, joined);
}
