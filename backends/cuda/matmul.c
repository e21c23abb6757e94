/* Rows of matmul and linear, plain and fused. */
#include "backends/cuda/product.h"
#include "ops/product_attrs.h"

/* f32, f16, bf16; for the second operand q8_0 of whole blocks, too. */
static bool is_operand(const kin_operand *operand, bool may_be_q8_0) {
    const kin_desc *desc = &operand->desc;
    if (desc->dtype != KIN_Q8_0) return kin_cuda_is_real(desc->dtype);
    if (!may_be_q8_0 || desc->rank < 2 || desc->strides[desc->rank - 1] != 1) return false;
    for (int a = 0; a < desc->rank - 1; a++)
        if (desc->strides[a] % 32 != 0) return false;
    return desc->dims[desc->rank - 1] % 32 == 0;
}

static kin_cuda_matrix matrix_of(const kin_operand *operand, int64_t row_step,
                                 int64_t column_step) {
    return (kin_cuda_matrix){.data = kin_cuda_address(operand),
                             .dtype = operand->desc.dtype,
                             .row_step = row_step,
                             .column_step = column_step};
}

static void *scratch_of(const kin_call *call) {
    return call->scratch != NULL && call->scratch_size > 0 ? kin_cuda_scratch(call, 0) : NULL;
}

/* ---- epilogues ---- */

/* Where an operand that is broadcast to the result `out` has its rows. */
static kin_cuda_rows broadcast_rows(const kin_operand *operand, const kin_desc *out) {
    const kin_desc *desc = &operand->desc;
    kin_cuda_rows rows = {.data = kin_cuda_address(operand), .dtype = desc->dtype};
    for (int axis = out->rank - 1; axis >= 0; axis--) {
        const int own = axis - (out->rank - desc->rank);
        const int64_t step = own < 0 || desc->dims[own] == 1 ? 0 : desc->strides[own];
        if (axis == out->rank - 1) {
            rows.column_step = step;
            continue;
        }
        if (out->dims[axis] == 1) continue;
        const int last = rows.rank - 1;
        if (last >= 0 && step == rows.steps[last] * rows.dims[last]) {
            rows.dims[last] *= out->dims[axis];
            continue;
        }
        rows.dims[rows.rank] = out->dims[axis];
        rows.steps[rows.rank++] = step;
    }
    return rows;
}

/* Adds what inputs `first` (residual) and the one behind it (gate), and the attributes say. */
static void add_epilogue(const kin_call *call, int first, kin_cuda_product *p) {
    const kin_desc *out = &call->out[0].desc;
    p->activation = ((const kin_product_attrs *)call->attrs)->activation;
    p->has_residual = kin_cuda_has(call, first);
    p->has_gate = kin_cuda_has(call, first + 1);
    if (p->has_residual) p->residual = broadcast_rows(&call->in[first], out);
    if (p->has_gate) p->gate = broadcast_rows(&call->in[first + 1], out);
}

/* A fused product is taken where it is no slower than the plain one; elsewhere its nodes stay. */
static bool can_finish(const kin_device *device, const kin_call *call, int first,
                       const kin_cuda_product *p) {
    const int bias = first > 2 ? 2 : first;
    const size_t offsets[4] = {call->in[0].offset, call->in[1].offset, call->in[bias].offset,
                               call->in[first].offset};
    for (int i = first; i < first + 2; i++)
        if (kin_cuda_has(call, i) && !kin_cuda_is_real(call->in[i].desc.dtype)) return false;
    if (p->activation < 0 || p->activation >= KIN_ACTIVATION_COUNT) return false;
    return kin_cuda_product_pays(device, p, offsets);
}

/* ---- linear ---- */

/* Leading axes that can be counted through with one stride: the rows of x. */
static bool rows_of(const kin_desc *x, int64_t *out_rows, int64_t *out_stride) {
    *out_rows = 1;
    *out_stride = x->rank > 0 ? x->dims[x->rank - 1] : 1;
    for (int axis = x->rank - 2; axis >= 0; axis--) {
        if (x->dims[axis] == 1) continue;
        if (*out_rows == 1) *out_stride = x->strides[axis];
        else if (x->strides[axis] != *out_rows * *out_stride) return false;
        *out_rows *= x->dims[axis];
    }
    return true;
}

static bool can_linear(const kin_device *device, const kin_call *call) {
    int64_t rows, stride;
    (void)device;
    if (!is_operand(&call->in[0], false) || !is_operand(&call->in[1], true)) return false;
    if (kin_cuda_has(call, 2) &&
        (!is_operand(&call->in[2], false) ||
         (call->in[2].desc.strides[0] != 1 && call->in[2].desc.dims[0] > 1)))
        return false;
    return kin_cuda_is_real(call->out[0].desc.dtype) && rows_of(&call->in[0].desc, &rows, &stride);
}

static kin_cuda_product linear_product(const kin_call *call) {
    const kin_desc *x = &call->in[0].desc, *w = &call->in[1].desc;
    int64_t rows, stride;
    (void)rows_of(x, &rows, &stride);
    kin_cuda_product p = {.rows = rows,
                          .columns = w->dims[0],
                          .depth = w->dims[1],
                          .a = matrix_of(&call->in[0], stride, x->strides[x->rank - 1]),
                          .b = matrix_of(&call->in[1], w->strides[1], w->strides[0]),
                          .c = kin_cuda_address(&call->out[0]),
                          .c_dtype = call->out[0].desc.dtype};
    if (kin_cuda_has(call, 2)) {
        p.has_bias = true;
        p.bias = kin_cuda_address(&call->in[2]);
        p.bias_dtype = call->in[2].desc.dtype;
    }
    return p;
}

static size_t linear_scratch(const kin_device *device, const kin_call *call) {
    const kin_cuda_product product = linear_product(call);
    return kin_cuda_product_scratch(device, &product);
}

static kin_status launch_linear(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_cuda_product product = linear_product(call);
    return kin_cuda_product_add(device, commands, &product, scratch_of(call));
}

enum { LINEAR_RESIDUAL = 3, MATMUL_RESIDUAL = 2 };

static bool can_linear_fused(const kin_device *device, const kin_call *call) {
    if (!can_linear(device, call)) return false;
    kin_cuda_product product = linear_product(call);
    add_epilogue(call, LINEAR_RESIDUAL, &product);
    return can_finish(device, call, LINEAR_RESIDUAL, &product);
}

static kin_status launch_linear_fused(kin_device *device, kin_commands *commands,
                                      const kin_call *call) {
    kin_cuda_product product = linear_product(call);
    add_epilogue(call, LINEAR_RESIDUAL, &product);
    return kin_cuda_product_add(device, commands, &product, scratch_of(call));
}

/* ---- matmul ---- */

static int64_t leading_stride(const kin_desc *desc, const kin_desc *out, int axis) {
    int own = axis - (out->rank - desc->rank);
    return own < 0 || desc->dims[own] == 1 ? 0 : desc->strides[own];
}

/* True if axis `axis` goes on where the axis before it ends, for both operands. */
static bool continues(const kin_cuda_product *p, int64_t a_step, int64_t b_step) {
    const int last = p->rank - 1;
    return a_step == p->a.steps[last] * p->dims[last] && b_step == p->b.steps[last] * p->dims[last];
}

/* The shape of a b; a fused product's result may have another, of the same rows. */
static kin_desc product_shape(const kin_call *call) {
    const kin_desc *a = &call->in[0].desc, *b = &call->in[1].desc;
    const int rank = a->rank > b->rank ? a->rank : b->rank;
    kin_desc shape = {.dtype = call->out[0].desc.dtype, .rank = rank};
    for (int axis = 0; axis < rank - 2; axis++) {
        const int in_a = axis - (rank - a->rank), in_b = axis - (rank - b->rank);
        const int64_t from_a = in_a < 0 ? 1 : a->dims[in_a], from_b = in_b < 0 ? 1 : b->dims[in_b];
        shape.dims[axis] = from_a == 1 ? from_b : from_a;
    }
    shape.dims[rank - 2] = a->dims[a->rank - 2];
    shape.dims[rank - 1] = b->dims[b->rank - 1];
    return shape;
}

/* False if the batch has more axes than a product takes. */
static bool matmul_product(const kin_call *call, kin_cuda_product *out) {
    const kin_desc *a = &call->in[0].desc, *b = &call->in[1].desc;
    const kin_desc shape = product_shape(call), *c = &shape;
    kin_cuda_product p = {
        .rows = c->dims[c->rank - 2],
        .columns = c->dims[c->rank - 1],
        .depth = a->dims[a->rank - 1],
        .a = matrix_of(&call->in[0], a->strides[a->rank - 2], a->strides[a->rank - 1]),
        .b = matrix_of(&call->in[1], b->strides[b->rank - 2], b->strides[b->rank - 1]),
        .c = kin_cuda_address(&call->out[0]),
        .c_dtype = c->dtype};
    for (int axis = c->rank - 3; axis >= 0; axis--) {
        const int64_t dim = c->dims[axis];
        const int64_t a_step = leading_stride(a, c, axis), b_step = leading_stride(b, c, axis);
        if (dim == 1) continue;
        /* One b for many a that follow one another: one taller product. */
        if (p.rank == 0 && b_step == 0 && a_step == p.rows * p.a.row_step) {
            p.rows *= dim;
            continue;
        }
        if (p.rank > 0 && continues(&p, a_step, b_step)) {
            p.dims[p.rank - 1] *= dim;
            continue;
        }
        if (p.rank == KIN_CUDA_BATCH_AXES) return false;
        p.dims[p.rank] = dim;
        p.a.steps[p.rank] = a_step;
        p.b.steps[p.rank++] = b_step;
    }
    *out = p;
    return true;
}

static bool can_matmul(const kin_device *device, const kin_call *call) {
    kin_cuda_product product;
    (void)device;
    return is_operand(&call->in[0], false) && is_operand(&call->in[1], true) &&
           kin_cuda_is_real(call->out[0].desc.dtype) && matmul_product(call, &product);
}

static size_t matmul_scratch(const kin_device *device, const kin_call *call) {
    kin_cuda_product product;
    return matmul_product(call, &product) ? kin_cuda_product_scratch(device, &product) : 0;
}

static kin_status launch_matmul(kin_device *device, kin_commands *commands, const kin_call *call) {
    kin_cuda_product product;
    if (!matmul_product(call, &product))
        return kin_fail(device->context, KIN_UNSUPPORTED, "a batch of too many axes");
    return kin_cuda_product_add(device, commands, &product, scratch_of(call));
}

static bool can_matmul_fused(const kin_device *device, const kin_call *call) {
    kin_cuda_product product;
    if (!can_matmul(device, call) || !matmul_product(call, &product)) return false;
    add_epilogue(call, MATMUL_RESIDUAL, &product);
    return can_finish(device, call, MATMUL_RESIDUAL, &product);
}

static kin_status launch_matmul_fused(kin_device *device, kin_commands *commands,
                                      const kin_call *call) {
    kin_cuda_product product;
    if (!matmul_product(call, &product))
        return kin_fail(device->context, KIN_UNSUPPORTED, "a batch of too many axes");
    add_epilogue(call, MATMUL_RESIDUAL, &product);
    return kin_cuda_product_add(device, commands, &product, scratch_of(call));
}

KIN_CUDA_ROWS(matmul) = {
    {"linear_fused", "cuda_linear_fused", 27, 1 << LINEAR_RESIDUAL, can_linear_fused,
     linear_scratch, launch_linear_fused},
    {"matmul_fused", "cuda_matmul_fused", 15, 1 << MATMUL_RESIDUAL, can_matmul_fused,
     matmul_scratch, launch_matmul_fused},
    {"linear", "cuda_linear", 3, 0, can_linear, linear_scratch, launch_linear},
    {"matmul", "cuda_matmul", 3, 0, can_matmul, matmul_scratch, launch_matmul},
    {0},
};
