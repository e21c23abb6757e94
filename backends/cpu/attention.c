/* Kernels of attention and its gradient. */
#include "backends/cpu/attention.h"

#include "backends/cpu/cpu.h"
#include "ops/attention_attrs.h"

/* Strides of [B0, B1, N, H, D] or [B0, N, H, D]. */
static cpu_attention_input input_of(const kin_operand *operand) {
    const kin_desc *desc = &operand->desc;
    const int64_t *s = desc->strides, *tail = s + desc->rank - 3;
    return (cpu_attention_input){cpu_data(operand), s[0], desc->rank == 5 ? s[1] : 0, tail[0],
                                 tail[1]};
}

static cpu_attention_output output_of(const kin_operand *operand) {
    const cpu_attention_input x = input_of(operand);
    return (cpu_attention_output){cpu_data(operand), x.b0, x.b1, x.n, x.h};
}

/* Strides of [B0, B1, H, Nq, Nk] or [B0, H, Nq, Nk]; 0 along axes of size 1. */
static void bias_strides(const kin_desc *desc, int64_t out_strides[5]) {
    for (int i = 0; i < 5; i++) {
        const int axis = desc->rank == 5 ? i : i == 0 ? 0 : i - 1;
        const bool repeats = (desc->rank == 4 && i == 1) || desc->dims[axis] == 1;
        out_strides[i] = repeats ? 0 : desc->strides[axis];
    }
}

static bool is_there(const kin_call *call, int input) {
    return input < call->in_count && !cpu_is_absent(&call->in[input]);
}

/* What forward and backward have in common; the places of lengths and bias differ. */
static cpu_attention_args args_of(const kin_device *device, const kin_call *call, int lengths,
                                  int bias) {
    const kin_attention_attrs *attrs = call->attrs;
    const kin_desc *q = &call->in[0].desc, *k = &call->in[1].desc;
    const int64_t *tail = q->dims + q->rank - 3;
    cpu_attention_args a = {.b0 = q->dims[0],
                            .b1 = q->rank == 5 ? q->dims[1] : 1,
                            .heads = tail[1],
                            .queries = tail[0],
                            .keys = k->dims[k->rank - 3],
                            .head_size = tail[2],
                            .scale = (float)attrs->scale,
                            .q = input_of(&call->in[0]),
                            .k = input_of(&call->in[1]),
                            .v = input_of(&call->in[2]),
                            .scratch = cpu_scratch(call)};
    if (is_there(call, lengths)) a.lengths = cpu_data(&call->in[lengths]);
    if (is_there(call, bias)) {
        int64_t s[5];
        bias_strides(&call->in[bias].desc, s);
        a.bias = (cpu_attention_bias){cpu_data(&call->in[bias]), s[0], s[1], s[2], s[3], s[4]};
    }
    a.threads = cpu_threads_for(device, a.b0 * a.b1 * a.heads * a.queries * a.keys);
    return a;
}

enum { FORWARD_LENGTHS = 3, FORWARD_BIAS = 4 };
enum { SAVED_O = 3, SAVED_LSE, D_O, D_LSE, BACKWARD_LENGTHS, BACKWARD_BIAS };

static size_t forward_scratch(const kin_device *device, const kin_call *call) {
    cpu_attention_args a = args_of(device, call, FORWARD_LENGTHS, FORWARD_BIAS);
    a.o = output_of(&call->out[0]); /* its strides decide how the kernel works */
    return CPU_PICK(cpu_attention_functions).scratch_bytes(&a, 0);
}

static size_t backward_scratch(const kin_device *device, const kin_call *call) {
    const cpu_attention_args a = args_of(device, call, BACKWARD_LENGTHS, BACKWARD_BIAS);
    return CPU_PICK(cpu_attention_functions).scratch_bytes(&a, 1);
}

static kin_status forward(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)commands;
    cpu_attention_args a = args_of(device, call, FORWARD_LENGTHS, FORWARD_BIAS);
    a.o = output_of(&call->out[0]);
    a.lse = cpu_data(&call->out[1]);
    CPU_PICK(cpu_attention_functions).forward(&a);
    return KIN_OK;
}

static kin_status backward(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)commands;
    cpu_attention_args a = args_of(device, call, BACKWARD_LENGTHS, BACKWARD_BIAS);
    a.saved_o = input_of(&call->in[SAVED_O]);
    a.saved_lse = cpu_data(&call->in[SAVED_LSE]);
    a.d_o = input_of(&call->in[D_O]);
    if (is_there(call, D_LSE)) a.d_lse = cpu_data(&call->in[D_LSE]);
    a.dq = output_of(&call->out[0]);
    a.dk = output_of(&call->out[1]);
    a.dv = output_of(&call->out[2]);
    if (call->out_count == 4) {
        int64_t s[5];
        bias_strides(&call->out[3].desc, s);
        a.dbias =
            (cpu_attention_bias_gradient){cpu_data(&call->out[3]), s[0], s[1], s[2], s[3], s[4]};
    }
    CPU_PICK(cpu_attention_functions).backward(&a);
    return KIN_OK;
}

/* f32, and the elements of each head adjacent, in the inputs of the mask. */
static bool heads_are_dense(const kin_call *call, unsigned inputs) {
    for (int i = 0; i < call->in_count; i++) {
        if (!(inputs >> i & 1)) continue;
        const kin_desc *x = &call->in[i].desc;
        if (x->dtype != KIN_F32) return false;
        if (x->strides[x->rank - 1] != 1 && x->dims[x->rank - 1] != 1) return false;
    }
    return true;
}

enum {
    FORWARD_HEADS = 7,                                 /* q, k, v */
    BACKWARD_HEADS = 7 | 1 << SAVED_O | 1 << D_O,      /* q, k, v, o, do */
    FORWARD_VIEWS = FORWARD_HEADS | 1 << FORWARD_BIAS, /* may be views of any kind */
    BACKWARD_VIEWS = BACKWARD_HEADS | 1 << BACKWARD_BIAS
};

static bool bias_is_f32(const kin_call *call, int bias) {
    return !is_there(call, bias) || call->in[bias].desc.dtype == KIN_F32;
}

static bool forward_can(const kin_device *device, const kin_call *call) {
    (void)device;
    return heads_are_dense(call, FORWARD_HEADS) && bias_is_f32(call, FORWARD_BIAS);
}

static bool backward_can(const kin_device *device, const kin_call *call) {
    (void)device;
    return heads_are_dense(call, BACKWARD_HEADS) && bias_is_f32(call, BACKWARD_BIAS);
}

const kin_kernel cpu_attention_kernels[] = {
    {"attention", "cpu_attention_views", FORWARD_VIEWS, 0, forward_can, forward_scratch, forward},
    {"attention", "cpu_attention", 0, 0, NULL, forward_scratch, forward},
    {"attention_grad", "cpu_attention_grad_views", BACKWARD_VIEWS, 0, backward_can,
     backward_scratch, backward},
    {"attention_grad", "cpu_attention_grad", 0, 0, NULL, backward_scratch, backward},
    {0},
};
