/* Matrix products: matmul and linear. */
#include "ops/matmul.h"

#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/matmul_fused.h"
#include "ops/reduce.h"
#include "ops/views.h"
#include "ops/walk.h"
#include "runtime/op.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define DIMS(r, ...) .rank = (r), .dims = {__VA_ARGS__}

/* f32, f16, bf16 or q8_0 */
static kin_status infer_weight_dtype(kin_infer *infer, int input) {
    if (infer->in[input]->dtype == KIN_Q8_0) return KIN_OK;
    return kin_infer_float(infer, input);
}

static double product_flops(const kin_desc *out, int64_t k) {
    return 2.0 * (double)kin_desc_count(out) * (double)k;
}

/* ---- matmul ---- */

static kin_status matmul_infer(kin_infer *infer) {
    kin_status status = kin_infer_inputs(infer, 2, 2);
    if (status == KIN_OK) status = kin_infer_float(infer, 0);
    if (status == KIN_OK) status = infer_weight_dtype(infer, 1);
    if (status == KIN_OK) status = kin_infer_rank(infer, 0, 2, KIN_MAX_RANK);
    if (status == KIN_OK) status = kin_infer_rank(infer, 1, 2, KIN_MAX_RANK);
    if (status != KIN_OK) return status;
    const kin_desc *a = infer->in[0], *b = infer->in[1];
    if (a->dims[a->rank - 1] != b->dims[b->rank - 2])
        return kin_infer_fail(infer, "the columns of a (%lld) are not the rows of b (%lld)",
                              (long long)a->dims[a->rank - 1], (long long)b->dims[b->rank - 2]);
    int rank = 0;
    int64_t dims[KIN_MAX_RANK];
    if (!kin_broadcast_shape(&rank, dims, a->rank - 2, a->dims) ||
        !kin_broadcast_shape(&rank, dims, b->rank - 2, b->dims))
        return kin_infer_fail(infer, "the leading axes cannot be broadcast to one shape");
    dims[rank] = a->dims[a->rank - 2];
    dims[rank + 1] = b->dims[b->rank - 1];
    infer->out[0] = kin_desc_dense(a->dtype, rank + 2, dims);
    return KIN_OK;
}

static void matmul_reference(const kin_reference *call) {
    const kin_desc *out = &call->out_desc[0];
    kin_desc lead[2] = {call->in_desc[0], call->in_desc[1]};
    int64_t m = out->dims[out->rank - 2], n = out->dims[out->rank - 1];
    int64_t k = lead[0].dims[lead[0].rank - 1];
    for (int j = 0; j < 2; j++) lead[j].rank -= 2;
    kin_walk a = kin_walk_start(&lead[0], out->rank - 2, out->dims);
    kin_walk b = kin_walk_start(&lead[1], out->rank - 2, out->dims);
    int64_t count = m * n > 0 ? kin_desc_count(out) / (m * n) : 0;
    double *target = call->out[0];
    for (int64_t batch = 0; batch < count; batch++) {
        const double *left = call->in[0] + a.offset, *right = call->in[1] + b.offset;
        for (int64_t i = 0; i < m; i++) {
            for (int64_t j = 0; j < n; j++) {
                double sum = 0;
                for (int64_t l = 0; l < k; l++) sum += left[i * k + l] * right[l * n + j];
                *target++ = sum;
            }
        }
        kin_walk_next(&a);
        kin_walk_next(&b);
    }
}

/* Sums over broadcast leading axes and gives the dtype of the input. */
static kin_tensor like_input(kin_gradient_call *call, kin_tensor gradient, int input) {
    const kin_desc desc = *kin_tensor_desc(call->graph, call->in[input]);
    gradient = kin_sum_to(call->graph, gradient, desc.rank, desc.dims);
    return kin_cast(call->graph, gradient, desc.dtype);
}

/* [..., M, K] as one matrix [rows, K]: a view where the strides allow it. */
static kin_tensor as_matrix(kin_graph *graph, kin_tensor x) {
    int64_t columns = kin_dim(graph, x, -1);
    const kin_desc *desc = kin_tensor_desc(graph, x);
    const int64_t dims[2] = {columns > 0 ? kin_desc_count(desc) / columns : 0, columns};
    return kin_reshape(graph, x, 2, dims);
}

/* Q8_0 matrices cannot be transposed: they are unpacked first. */
static kin_tensor transposed(kin_graph *graph, kin_tensor matrix, kin_dtype unpacked) {
    if (kin_dtype_of(graph, matrix) == KIN_Q8_0) matrix = kin_cast(graph, matrix, unpacked);
    return kin_transpose(graph, matrix, -1, -2);
}

/* da = dy b^T, db = a^T dy. A b without leading axes sees all of a as one tall matrix, so that its
 * gradient is one product instead of a sum of many. */
static void matmul_gradient(kin_gradient_call *call) {
    kin_graph *graph = call->graph;
    kin_tensor a = call->in[0], b = call->in[1], dy = call->out_grad[0];
    if (call->wanted[0]) {
        kin_tensor right = transposed(graph, b, kin_dtype_of(graph, dy));
        call->in_grad[0] = like_input(call, kin_matmul(graph, dy, right), 0);
    }
    if (!call->wanted[1]) return;
    if (kin_rank(graph, b) == 2) {
        a = as_matrix(graph, a);
        dy = as_matrix(graph, dy);
    }
    call->in_grad[1] = like_input(call, kin_matmul(graph, kin_transpose(graph, a, -1, -2), dy), 1);
}

static void matmul_cost(const kin_cost_call *call, kin_cost *cost) {
    int64_t k = call->in[0].dims[call->in[0].rank - 1];
    cost->flops = product_flops(&call->out[0], k);
    cost->reduction = (double)k;
}

static const kin_case matmul_cases[] = {
    {"one_by_one",
     NULL,
     2,
     {{.dtype = KIN_F32, DIMS(2, 1, 1)}, {.dtype = KIN_F32, DIMS(2, 1, 1)}},
     false},
    {"odd",
     NULL,
     2,
     {{.dtype = KIN_F32, DIMS(2, 7, 13)}, {.dtype = KIN_F32, DIMS(2, 13, 5)}},
     false},
    {"transposed_both",
     NULL,
     2,
     {{.dtype = KIN_F32, DIMS(2, 19, 33), .layout = KIN_LAYOUT_TRANSPOSED},
      {.dtype = KIN_F32, DIMS(2, 33, 35), .layout = KIN_LAYOUT_TRANSPOSED}},
     false},
    {"transposed_second",
     NULL,
     2,
     {{.dtype = KIN_F32, DIMS(2, 5, 40), .layout = KIN_LAYOUT_PADDED},
      {.dtype = KIN_F32, DIMS(2, 40, 18), .layout = KIN_LAYOUT_TRANSPOSED}},
     false},
    {"both_broadcast",
     NULL,
     2,
     {{.dtype = KIN_F32, DIMS(4, 2, 1, 3, 5)}, {.dtype = KIN_F32, DIMS(3, 4, 5, 2)}},
     false},
    {"one_matrix_for_a_batch",
     NULL,
     2,
     {{.dtype = KIN_F32, DIMS(3, 3, 4, 9)}, {.dtype = KIN_F32, DIMS(2, 9, 6)}},
     false},
    {"strided_batch",
     NULL,
     2,
     {{.dtype = KIN_F32, DIMS(3, 5, 3, 8), .layout = KIN_LAYOUT_TRANSPOSED},
      {.dtype = KIN_F32, DIMS(3, 5, 8, 4), .layout = KIN_LAYOUT_TRANSPOSED}},
     false},
    {"bench_heads",
     NULL,
     2,
     {{.dtype = KIN_F32, DIMS(3, 64, 256, 72)}, {.dtype = KIN_F32, DIMS(3, 64, 72, 256)}},
     true},
};

const kin_op kin_op_matmul = {
    .name = "matmul",
    .summary = "out[..., m, n] = sum over k of a[..., m, k] b[..., k, n]",
    .flags = KIN_OP_PRODUCT,
    .outputs = 1,
    .infer = matmul_infer,
    .reference = matmul_reference,
    .gradient = matmul_gradient,
    .cost = matmul_cost,
    .cases = matmul_cases,
    .case_count = COUNT(matmul_cases),
    .absorb = kin_product_absorb,
};

kin_tensor kin_matmul(kin_graph *graph, kin_tensor a, kin_tensor b) {
    const kin_tensor in[2] = {a, b};
    return kin_append1(graph, &kin_op_matmul, NULL, in, 2);
}

/* ---- linear ---- */

static kin_status linear_infer(kin_infer *infer) {
    kin_status status = kin_infer_inputs(infer, 3, 3);
    if (status == KIN_OK) status = kin_infer_float(infer, 0);
    if (status == KIN_OK) status = kin_infer_rank(infer, 0, 1, KIN_MAX_RANK);
    if (status == KIN_OK) status = infer_weight_dtype(infer, 1);
    if (status == KIN_OK) status = kin_infer_rank(infer, 1, 2, 2);
    if (status != KIN_OK) return status;
    const kin_desc *x = infer->in[0], *w = infer->in[1], *bias = infer->in[2];
    if (x->dims[x->rank - 1] != w->dims[1])
        return kin_infer_fail(infer, "x has %lld features, w takes %lld",
                              (long long)x->dims[x->rank - 1], (long long)w->dims[1]);
    if (bias != NULL) {
        status = kin_infer_float(infer, 2);
        if (status != KIN_OK) return status;
        if (bias->rank != 1 || bias->dims[0] != w->dims[0])
            return kin_infer_fail(infer, "the bias is not of shape [%lld]", (long long)w->dims[0]);
    }
    int64_t dims[KIN_MAX_RANK];
    memcpy(dims, x->dims, sizeof dims);
    dims[x->rank - 1] = w->dims[0];
    infer->out[0] = kin_desc_dense(x->dtype, x->rank, dims);
    return KIN_OK;
}

static void linear_reference(const kin_reference *call) {
    int64_t n = call->in_desc[1].dims[0], k = call->in_desc[1].dims[1];
    int64_t rows = n > 0 ? kin_desc_count(&call->out_desc[0]) / n : 0;
    const double *x = call->in[0], *w = call->in[1], *bias = call->in[2];
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < n; j++) {
            double sum = bias != NULL ? bias[j] : 0;
            for (int64_t l = 0; l < k; l++) sum += x[i * k + l] * w[j * k + l];
            call->out[0][i * n + j] = sum;
        }
    }
}

/* dx = dy w, dw = dy^T x, dbias = sum of dy over all rows. */
static void linear_gradient(kin_gradient_call *call) {
    kin_graph *graph = call->graph;
    const kin_desc x = *kin_tensor_desc(graph, call->in[0]);
    kin_tensor dy = as_matrix(graph, call->out_grad[0]);
    if (call->wanted[0]) {
        kin_tensor dx = kin_matmul(graph, dy, call->in[1]);
        call->in_grad[0] = kin_reshape(graph, dx, x.rank, x.dims);
    }
    if (call->wanted[1]) {
        kin_tensor rows = as_matrix(graph, call->in[0]);
        call->in_grad[1] =
            like_input(call, kin_matmul(graph, kin_transpose(graph, dy, 0, 1), rows), 1);
    }
    if (call->wanted[2]) call->in_grad[2] = like_input(call, dy, 2);
}

static void linear_lower(kin_lower_call *call) {
    kin_graph *graph = call->graph;
    const kin_desc out = *kin_tensor_desc(graph, call->in[0]);
    int64_t dims[KIN_MAX_RANK];
    memcpy(dims, out.dims, sizeof dims);
    dims[out.rank - 1] = kin_dim(graph, call->in[1], 0);
    kin_tensor w = transposed(graph, call->in[1], out.dtype);
    kin_tensor y = kin_matmul(graph, as_matrix(graph, call->in[0]), w);
    if (call->in[2].id != 0) y = kin_add(graph, y, kin_cast(graph, call->in[2], out.dtype));
    call->out[0] = kin_reshape(graph, y, out.rank, dims);
}

static void linear_cost(const kin_cost_call *call, kin_cost *cost) {
    int64_t k = call->in[1].dims[1];
    cost->flops = product_flops(&call->out[0], k);
    cost->reduction = (double)k;
}

static const kin_case linear_cases[] = {
    {"vector",
     NULL,
     3,
     {{.dtype = KIN_F32, DIMS(1, 5)}, {.dtype = KIN_F32, DIMS(2, 3, 5)}, {.rank = -1}},
     false},
    {"odd",
     NULL,
     3,
     {{.dtype = KIN_F32, DIMS(3, 2, 7, 13)},
      {.dtype = KIN_F32, DIMS(2, 19, 13)},
      {.dtype = KIN_F32, DIMS(1, 19)}},
     false},
    {"views",
     NULL,
     3,
     {{.dtype = KIN_F32, DIMS(3, 3, 5, 17), .layout = KIN_LAYOUT_TRANSPOSED},
      {.dtype = KIN_F32, DIMS(2, 33, 17), .layout = KIN_LAYOUT_TRANSPOSED},
      {.dtype = KIN_F32, DIMS(1, 33)}},
     false},
    {"padded",
     NULL,
     3,
     {{.dtype = KIN_F32, DIMS(2, 9, 40), .layout = KIN_LAYOUT_PADDED},
      {.dtype = KIN_F32, DIMS(2, 6, 40), .layout = KIN_LAYOUT_PADDED},
      {.rank = -1}},
     false},
    {"bf16_weights",
     NULL,
     3,
     {{.dtype = KIN_F32, DIMS(2, 4, 50)},
      {.dtype = KIN_BF16, DIMS(2, 21, 50), .fixed = true},
      {.dtype = KIN_BF16, DIMS(1, 21), .fixed = true}},
     false},
    {"q8_0_weights",
     NULL,
     3,
     {{.dtype = KIN_F32, DIMS(3, 2, 3, 64)},
      {.dtype = KIN_Q8_0, DIMS(2, 18, 64), .fixed = true, .constant = true},
      {.dtype = KIN_F32, DIMS(1, 18)}},
     false},
    {"bench_stdit_mlp",
     NULL,
     3,
     {{.dtype = KIN_F32, DIMS(2, 1024, 1152)},
      {.dtype = KIN_F32, DIMS(2, 4608, 1152)},
      {.dtype = KIN_F32, DIMS(1, 4608)}},
     true},
    {"bench_one_row",
     NULL,
     3,
     {{.dtype = KIN_F32, DIMS(2, 1, 1152)},
      {.dtype = KIN_F32, DIMS(2, 6912, 1152)},
      {.dtype = KIN_F32, DIMS(1, 6912)}},
     true},
};

const kin_op kin_op_linear = {
    .name = "linear",
    .summary = "y[..., n] = sum over k of x[..., k] w[n, k] + bias[n] (PyTorch's nn.Linear)",
    .flags = KIN_OP_COMPOSITE | KIN_OP_PRODUCT,
    .outputs = 1,
    .optional = 1u << 2,
    .infer = linear_infer,
    .reference = linear_reference,
    .gradient = linear_gradient,
    .lower = linear_lower,
    .cost = linear_cost,
    .cases = linear_cases,
    .case_count = COUNT(linear_cases),
    .absorb = kin_product_absorb,
};

kin_tensor kin_linear(kin_graph *graph, kin_tensor x, kin_tensor w, kin_tensor bias) {
    const kin_tensor in[3] = {x, w, bias};
    return kin_append1(graph, &kin_op_linear, NULL, in, 3);
}
