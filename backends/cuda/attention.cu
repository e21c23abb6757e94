/* Rows of attention and attention_grad: which variant a call gets, and its arguments.
 *
 *   short  f16, bf16; at most 128 queries and keys    attention_short.cu
 *   mma    f16, bf16; heads up to 128                 attention_mma_forward.cu,
 * attention_mma_grad.cu plain  everything else up to heads of 512         attention_plain.cu
 *
 * The first two need heads of a multiple of 8 elements and rows at multiples of 16 bytes, which is
 * known when a call is recorded, not when it is planned. So there is one row for each op, and
 * scratch memory is what any variant needs. attention_hopper.cu stands in front, where it is asked
 * for. */
#include "backends/cuda/attention.cuh"
#include "ops/attention_attrs.h"

/* ---- a call taken apart ---- */

static attention_rows rows_of(const kin_operand *x) {
    const kin_desc *desc = &x->desc;
    const int64_t *tail = desc->strides + desc->rank - 3;
    attention_rows rows = {
        kin_cuda_address(x),
        {desc->strides[0], desc->rank == 5 ? desc->strides[1] : 0, tail[0], tail[1]}};
    return rows;
}

/* Steps and sizes of batch, batch, head, query and key; steps are 0 where the bias repeats. */
static void bias_axes(const kin_desc *desc, int64_t out_steps[5], int out_dims[5]) {
    for (int a = 0; a < 5; a++) {
        const int own = desc->rank == 5 || a == 0 ? a : a - 1;
        const bool absent = desc->rank == 4 && a == 1;
        out_dims[a] = absent ? 1 : (int)desc->dims[own];
        out_steps[a] = out_dims[a] == 1 ? 0 : desc->strides[own];
    }
}

static attention_args take_apart(const kin_call *call, int lengths, int bias) {
    const kin_attention_attrs *attrs = static_cast<const kin_attention_attrs *>(call->attrs);
    const kin_desc *q = &call->in[ATTENTION_Q].desc, *k = &call->in[ATTENTION_K].desc;
    attention_args args = {};
    int dims[5];
    args.b0 = (int)q->dims[0];
    args.b1 = q->rank == 5 ? (int)q->dims[1] : 1;
    args.queries = (int)q->dims[q->rank - 3];
    args.heads = (int)q->dims[q->rank - 2];
    args.size = (int)q->dims[q->rank - 1];
    args.keys = (int)k->dims[k->rank - 3];
    args.scale = (float)attrs->scale;
    args.q = rows_of(&call->in[ATTENTION_Q]);
    args.k = rows_of(&call->in[ATTENTION_K]);
    args.v = rows_of(&call->in[ATTENTION_V]);
    if (kin_cuda_has(call, lengths))
        args.lengths = static_cast<const int *>(kin_cuda_address(&call->in[lengths]));
    if (kin_cuda_has(call, bias)) {
        args.bias = kin_cuda_address(&call->in[bias]);
        args.bias_dtype = call->in[bias].desc.dtype;
        bias_axes(&call->in[bias].desc, args.bias_steps, dims);
    }
    return args;
}

/* Elements of a head lie side by side, and all operands have one storage. Numbers of rows and heads
 * fit into an int. */
static bool can_take(const kin_call *call, const int *operands, int operand_count, int lengths,
                     int bias) {
    const kin_desc *q = &call->in[ATTENTION_Q].desc;
    if (!kin_cuda_is_real(q->dtype) || q->dims[q->rank - 1] > ATTENTION_PLAIN_MOST) return false;
    for (int i = 0; i < operand_count; i++) {
        const kin_desc *desc = &call->in[operands[i]].desc;
        if (desc->dtype != q->dtype || desc->strides[desc->rank - 1] != 1) return false;
        for (int a = 0; a < desc->rank; a++)
            if (desc->dims[a] > INT32_MAX) return false;
    }
    if (kin_cuda_has(call, bias) && !kin_cuda_is_real(call->in[bias].desc.dtype)) return false;
    return !kin_cuda_has(call, lengths) || call->in[lengths].desc.strides[0] == 1;
}

/* True if every row begins at a multiple of 16 bytes. */
static bool is_aligned(const attention_rows *rows) {
    bool aligned = (uintptr_t)rows->data % 16 == 0;
    for (int i = 0; i < 4; i++) aligned = aligned && rows->steps[i] % 8 == 0;
    return aligned;
}

bool attention_is_aligned(const attention_args *args, kin_dtype dtype) {
    const attention_rows *const all[] = {&args->q,   &args->k,   &args->v,   &args->o,
                                         &args->d_o, &args->d_q, &args->d_k, &args->d_v};
    if (dtype == KIN_F32 || args->size > ATTENTION_MMA_MOST || args->size % 8 != 0) return false;
    for (int i = 0; i < 8; i++)
        if (!is_aligned(all[i])) return false;
    return args->scale > 0;
}

/* ---- attention ---- */

bool attention_can_forward(const kin_device *device, const kin_call *call) {
    static const int operands[] = {ATTENTION_Q, ATTENTION_K, ATTENTION_V};
    (void)device;
    return can_take(call, operands, 3, ATTENTION_LENGTHS, ATTENTION_BIAS);
}

attention_args attention_forward_args(const kin_call *call) {
    attention_args args = take_apart(call, ATTENTION_LENGTHS, ATTENTION_BIAS);
    args.o = rows_of(&call->out[0]);
    args.lse = static_cast<float *>(kin_cuda_address(&call->out[1]));
    return args;
}

kin_status attention_launch_forward(kin_device *device, kin_commands *commands,
                                    const kin_call *call) {
    const kin_dtype dtype = call->in[ATTENTION_Q].desc.dtype;
    const attention_args args = attention_forward_args(call);
    if (!attention_is_aligned(&args, dtype))
        return attention_plain_forward(device, commands, dtype, &args);
    if (!attention_short_takes(device, &args, false))
        return attention_mma_forward(device, commands, dtype, &args);
    const attention_prepare nothing = {};
    return attention_short_forward(device, commands, dtype, &args, &nothing);
}

/* ---- attention_grad ---- */

static bool can_grad(const kin_device *device, const kin_call *call) {
    static const int operands[] = {ATTENTION_Q, ATTENTION_K, ATTENTION_V, ATTENTION_O,
                                   ATTENTION_D_O};
    (void)device;
    if (!kin_desc_is_dense(&call->in[ATTENTION_LSE].desc)) return false;
    if (kin_cuda_has(call, ATTENTION_D_LSE) && !kin_desc_is_dense(&call->in[ATTENTION_D_LSE].desc))
        return false;
    return can_take(call, operands, 5, ATTENTION_GRAD_LENGTHS, ATTENTION_GRAD_BIAS);
}

/* delta. */
static size_t grad_scratch(const kin_device *device, const kin_call *call) {
    (void)device;
    return (size_t)kin_desc_count(&call->in[ATTENTION_LSE].desc) * sizeof(float);
}

static kin_status grad_bias(kin_device *device, kin_commands *commands, const kin_call *call,
                            const attention_args *args) {
    int64_t steps[5];
    int dims[5];
    bias_axes(&call->in[ATTENTION_GRAD_BIAS].desc, steps, dims);
    return attention_plain_bias(device, commands, call->in[ATTENTION_Q].desc.dtype, args, dims,
                                kin_cuda_address(&call->out[3]));
}

static kin_status launch_grad(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_dtype dtype = call->in[ATTENTION_Q].desc.dtype;
    const bool with_bias = call->out_count == 4;
    kin_status status = KIN_OK;
    attention_args args = take_apart(call, ATTENTION_GRAD_LENGTHS, ATTENTION_GRAD_BIAS);
    args.o = rows_of(&call->in[ATTENTION_O]);
    args.d_o = rows_of(&call->in[ATTENTION_D_O]);
    args.d_q = rows_of(&call->out[0]);
    args.d_k = rows_of(&call->out[1]);
    args.d_v = rows_of(&call->out[2]);
    args.lse = static_cast<float *>(kin_cuda_address(&call->in[ATTENTION_LSE]));
    if (kin_cuda_has(call, ATTENTION_D_LSE))
        args.d_lse = static_cast<const float *>(kin_cuda_address(&call->in[ATTENTION_D_LSE]));
    args.delta = static_cast<float *>(kin_cuda_scratch(call, 0));
    const bool mma = attention_is_aligned(&args, dtype);
    const bool alone = mma && attention_short_takes(device, &args, true);
    const attention_prepare nothing = {};
    if (!alone || with_bias) status = attention_plain_delta(device, commands, dtype, &args);
    if (status == KIN_OK) {
        if (alone) status = attention_short_grad(device, commands, dtype, &args, &nothing);
        else if (mma) status = attention_mma_grad(device, commands, dtype, &args);
        else status = attention_plain_grad(device, commands, dtype, &args);
    }
    return status == KIN_OK && with_bias ? grad_bias(device, commands, call, &args) : status;
}

KIN_CUDA_ROWS(attention) = {
    {"attention", "cuda_attention",
     1u << ATTENTION_Q | 1u << ATTENTION_K | 1u << ATTENTION_V | 1u << ATTENTION_BIAS, 0,
     attention_can_forward, NULL, attention_launch_forward},
    {"attention_grad", "cuda_attention_grad",
     1u << ATTENTION_Q | 1u << ATTENTION_K | 1u << ATTENTION_V | 1u << ATTENTION_O |
         1u << ATTENTION_D_O | 1u << ATTENTION_GRAD_BIAS,
     0, can_grad, grad_scratch, launch_grad},
    {},
};
