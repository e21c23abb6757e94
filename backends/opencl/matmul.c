/* Kernels of matmul and linear. */
#include "backends/opencl/product.h"

/* f32, f16, bf16; for the second operand q8_0 of whole blocks, too. */
static bool is_operand(const kin_operand *operand, bool may_be_q8_0) {
    const kin_desc *desc = &operand->desc;
    if (desc->dtype != KIN_Q8_0) return kin_opencl_is_real(desc->dtype);
    if (!may_be_q8_0 || desc->rank < 2 || desc->strides[desc->rank - 1] != 1) return false;
    for (int a = 0; a < desc->rank - 1; a++)
        if (desc->strides[a] % 32 != 0) return false;
    return desc->dims[desc->rank - 1] % 32 == 0;
}

/* Sums that do not go to floats are not cut, and a panel of them is counted with 32 bits. */
static bool is_short(const kin_call *call, int64_t depth) {
    return call->out[0].desc.dtype == KIN_F32 || depth < 1 << 25;
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
    if (kin_opencl_has(call, 2) &&
        (!is_operand(&call->in[2], false) ||
         (call->in[2].desc.strides[0] != 1 && call->in[2].desc.dims[0] > 1)))
        return false;
    return kin_opencl_is_real(call->out[0].desc.dtype) && kin_opencl_fits(call) &&
           rows_of(&call->in[0].desc, &rows, &stride) && is_short(call, call->in[1].desc.dims[1]);
}

static kin_opencl_product linear_product(const kin_call *call) {
    const kin_desc *x = &call->in[0].desc, *w = &call->in[1].desc;
    int64_t rows, stride;
    rows_of(x, &rows, &stride);
    return (kin_opencl_product){.rows = (int)rows,
                                .columns = (int)w->dims[0],
                                .depth = (int)w->dims[1],
                                .a = {&call->in[0], (int)stride, (int)x->strides[x->rank - 1], {0}},
                                .b = {&call->in[1], (int)w->strides[1], (int)w->strides[0], {0}},
                                .c = &call->out[0],
                                .bias = kin_opencl_has(call, 2) ? &call->in[2] : NULL};
}

static size_t linear_scratch(const kin_device *device, const kin_call *call) {
    const kin_opencl_product product = linear_product(call);
    return kin_opencl_product_scratch(device, &product);
}

static kin_status launch_linear(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_opencl_product product = linear_product(call);
    return kin_opencl_product_launch(device, commands, call, &product);
}

/* ---- matmul ---- */

static bool can_matmul(const kin_device *device, const kin_call *call) {
    (void)device;
    return is_operand(&call->in[0], false) && is_operand(&call->in[1], true) &&
           kin_opencl_is_real(call->out[0].desc.dtype) && kin_opencl_fits(call) &&
           is_short(call, call->in[0].desc.dims[call->in[0].desc.rank - 1]);
}

static int leading_stride(const kin_desc *desc, const kin_desc *out, int axis) {
    int own = axis - (out->rank - desc->rank);
    return own < 0 || desc->dims[own] == 1 ? 0 : (int)desc->strides[own];
}

static kin_opencl_matrix matrix_of(const kin_operand *operand) {
    const kin_desc *desc = &operand->desc;
    return (kin_opencl_matrix){
        operand, (int)desc->strides[desc->rank - 2], (int)desc->strides[desc->rank - 1], {0}};
}

/* True if axis `axis` goes on where the axis before it ends, for both operands. */
static bool continues(const kin_opencl_product *p, int a_step, int b_step) {
    const int last = p->rank - 1;
    return a_step == p->a.steps[last] * p->dims[last] && b_step == p->b.steps[last] * p->dims[last];
}

static kin_opencl_product matmul_product(const kin_call *call) {
    const kin_desc *a = &call->in[0].desc, *b = &call->in[1].desc, *out = &call->out[0].desc;
    kin_opencl_product p = {.rows = (int)out->dims[out->rank - 2],
                            .columns = (int)out->dims[out->rank - 1],
                            .depth = (int)a->dims[a->rank - 1],
                            .a = matrix_of(&call->in[0]),
                            .b = matrix_of(&call->in[1]),
                            .c = &call->out[0]};
    for (int axis = out->rank - 3; axis >= 0; axis--) {
        const int dim = (int)out->dims[axis];
        const int a_step = leading_stride(a, out, axis), b_step = leading_stride(b, out, axis);
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
        p.dims[p.rank] = dim;
        p.a.steps[p.rank] = a_step;
        p.b.steps[p.rank++] = b_step;
    }
    return p;
}

static size_t matmul_scratch(const kin_device *device, const kin_call *call) {
    const kin_opencl_product product = matmul_product(call);
    return kin_opencl_product_scratch(device, &product);
}

static kin_status launch_matmul(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_opencl_product product = matmul_product(call);
    return kin_opencl_product_launch(device, commands, call, &product);
}

const kin_kernel kin_opencl_matmul_kernels[] = {
    {"linear", "opencl_linear", 3, 0, can_linear, linear_scratch, launch_linear},
    {"matmul", "opencl_matmul", 3, 0, can_matmul, matmul_scratch, launch_matmul},
    {0},
};
