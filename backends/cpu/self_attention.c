/* Kernels of self_attention and its gradient: attention.c's, over q, k and v where they lie. Short
 * sequences are turned and normed where forward gathers them, in the cache; others once, into
 * scratch memory. */
#include "ops/self_attention_attrs.h"

#include <math.h>

#include "backends/cpu/attention.h"
#include "backends/cpu/cpu.h"

static bool is_there(const kin_call *call, int input) {
    return input < call->in_count && !cpu_is_absent(&call->in[input]);
}

/* What a call is, and where things lie in its scratch memory, counted in floats; the attention's
 * own comes first. */
typedef struct self_call {
    const kin_self_attention_attrs *attrs;
    cpu_attention_args args;
    cpu_attention_prepare prepare;
    bool prepared, gathered;
    size_t own; /* bytes of the attention's */
    int64_t turns, rows, parts, total;
} self_call;

/* Part 0, 1 or 2 of [B, T, S, 3, H, D], or all of [B, T, S, H, D], as sequences. */
static cpu_attention_output part_of(const self_call *x, const kin_operand *operand, int part) {
    const kin_desc *desc = &operand->desc;
    const int64_t *s = desc->strides;
    const bool over_frames = x->attrs->axis == 1;
    const int64_t offset = desc->rank == 6 ? part * s[3] : 0;
    return (cpu_attention_output){operand->buffer ? (float *)cpu_data(operand) + offset : NULL,
                                  s[0], s[over_frames ? 2 : 1], s[over_frames ? 1 : 2],
                                  s[desc->rank - 2]};
}

static cpu_attention_input input_of(const self_call *x, const kin_operand *operand, int part) {
    const cpu_attention_output y = part_of(x, operand, part);
    return (cpu_attention_input){y.data, y.b0, y.b1, y.n, y.h};
}

static int64_t up(int64_t floats) {
    return (floats + 15) / 16 * 16;
}

static self_call take_apart(const kin_device *device, const kin_call *call, bool backward) {
    const kin_desc *q = &call->in[KIN_SELF_Q].desc;
    self_call x = {.attrs = call->attrs};
    const bool over_frames = x.attrs->axis == 1, packed = q->rank == 6;
    cpu_attention_args *a = &x.args;
    a->b0 = q->dims[0];
    a->b1 = q->dims[over_frames ? 2 : 1];
    a->queries = a->keys = q->dims[over_frames ? 1 : 2];
    a->heads = q->dims[q->rank - 2];
    a->head_size = q->dims[q->rank - 1];
    a->scale = (float)x.attrs->scale;
    a->threads = cpu_threads_for(device, a->b0 * a->b1 * a->heads * a->queries * a->keys);
    a->q = input_of(&x, &call->in[KIN_SELF_Q], 0);
    a->k = input_of(&x, &call->in[packed ? KIN_SELF_Q : KIN_SELF_K], 1);
    a->v = input_of(&x, &call->in[packed ? KIN_SELF_Q : KIN_SELF_V], 2);
    if (!backward) {
        a->o = part_of(&x, &call->out[0], 0); /* its strides decide how the kernel works */
    } else {
        a->saved_o = input_of(&x, &call->in[KIN_SELF_O], 0);
        a->d_o = input_of(&x, &call->in[KIN_SELF_D_O], 0);
        a->dq = part_of(&x, &call->out[0], 0);
        a->dk = part_of(&x, &call->out[packed ? 0 : 1], 1);
        a->dv = part_of(&x, &call->out[packed ? 0 : 2], 2);
    }
    const bool turned = is_there(call, KIN_SELF_POSITIONS);
    const bool normed = is_there(call, KIN_SELF_Q_GAIN);
    const int64_t tokens = a->b0 * a->b1 * a->queries, size = a->head_size;
    x.prepared = turned || normed;
    x.gathered = !backward && CPU_PICK(cpu_attention_functions).gathers(a);
    x.prepare.axes = turned ? x.attrs->rope.axes : 1;
    x.prepare.interleaved = x.attrs->rope.interleaved;
    x.prepare.eps = (float)x.attrs->eps;
    cpu_attention_args inner = *a;
    if (x.prepared && !x.gathered) {
        const int64_t row = a->heads * size, sequence = a->queries * row;
        inner.q = inner.k = (cpu_attention_input){NULL, a->b1 * sequence, sequence, row, size};
    }
    x.own = CPU_PICK(cpu_attention_functions).scratch_bytes(&inner, backward);
    x.rows = turned ? up(2 * a->queries * size) : 0;
    x.parts = x.rows + (x.prepared && !x.gathered ? up(2 * tokens * a->heads * size) : 0);
    x.total = x.parts + (backward && x.prepared ? up(3 * cpu_attention_back_parts(a) * size) : 0);
    return x;
}

static size_t scratch_of(const self_call *x) {
    return x->own + 64 + (size_t)x->total * sizeof(float);
}

static size_t forward_scratch(const kin_device *device, const kin_call *call) {
    const self_call x = take_apart(device, call, false);
    return scratch_of(&x);
}

static size_t backward_scratch(const kin_device *device, const kin_call *call) {
    const self_call x = take_apart(device, call, true);
    return scratch_of(&x);
}

static double table_value(const kin_rope_attrs *rope, double value) {
    return rope->bf16_table ? kin_bf16_to_f32(kin_f32_to_bf16((float)value)) : value;
}

/* The table of cpu_attention_prepare. */
static void fill_turns(const self_call *x, const float *positions, float *to) {
    const kin_rope_attrs *rope = &x->attrs->rope;
    const int64_t tokens = x->args.queries, size = x->args.head_size;
    const int64_t part = size / rope->axes, half = part / 2;
#if defined(_OPENMP)
#pragma omp parallel for schedule(static) num_threads(x->args.threads)
#endif
    for (int64_t n = 0; n < tokens; n++)
        for (int64_t i = 0; i < size / 2; i++) {
            const int64_t axis = i / half, rest = i % half;
            const int64_t first = axis * part + (rope->interleaved ? 2 * rest : rest);
            const int64_t second = first + (rope->interleaved ? 1 : half);
            const double position = positions[axis * tokens + n] / rope->scales[axis];
            const double turn = pow(rope->theta, -2.0 * (double)rest / (double)part);
            const double angle = table_value(rope, position * turn);
            const double s = table_value(rope, sin(angle)) * (rope->inverse ? -1 : 1);
            float *cosines = to + 2 * n * size, *sines = cosines + size;
            cosines[first] = cosines[second] = (float)table_value(rope, cos(angle));
            sines[first] = (float)-s;
            sines[second] = (float)s;
        }
}

/* Fills in what lies in memory; returns the start of what follows the attention's scratch. */
static float *begin(const kin_call *call, self_call *x) {
    char *scratch = cpu_scratch(call);
    float *more = (float *)(scratch + (x->own + 63) / 64 * 64);
    x->args.scratch = scratch;
    if (is_there(call, KIN_SELF_Q_GAIN))
        for (int i = 0; i < 2; i++) x->prepare.gain[i] = cpu_data(&call->in[KIN_SELF_Q_GAIN + i]);
    if (is_there(call, KIN_SELF_POSITIONS)) {
        fill_turns(x, cpu_data(&call->in[KIN_SELF_POSITIONS]), more);
        x->prepare.turns = more;
    }
    return more;
}

static kin_status forward(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)commands;
    self_call x = take_apart(device, call, false);
    float *more = begin(call, &x);
    x.args.lse = cpu_data(&call->out[1]);
    if (x.gathered && x.prepared) x.args.prepare = &x.prepare;
    else if (x.prepared)
        CPU_PICK(cpu_attention_functions).prepare(&x.args, &x.prepare, more + x.rows);
    CPU_PICK(cpu_attention_functions).forward(&x.args);
    return KIN_OK;
}

static void add_up(const self_call *x, const float *parts, float *gains) {
    const int64_t size = x->args.head_size, count = cpu_attention_back_parts(&x->args);
    for (int64_t i = 0; i < 2 * size; i++) {
        double sum = 0;
        for (int64_t part = 0; part < count; part++) sum += parts[part * 3 * size + i];
        gains[i] = (float)sum;
    }
}

static kin_status backward(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)commands;
    self_call x = take_apart(device, call, true);
    float *more = begin(call, &x);
    const cpu_attention_input q = x.args.q, k = x.args.k;
    x.args.saved_lse = cpu_data(&call->in[KIN_SELF_LSE]);
    if (is_there(call, KIN_SELF_D_LSE)) x.args.d_lse = cpu_data(&call->in[KIN_SELF_D_LSE]);
    if (x.prepared) CPU_PICK(cpu_attention_functions).prepare(&x.args, &x.prepare, more + x.rows);
    CPU_PICK(cpu_attention_functions).backward(&x.args);
    if (!x.prepared) return KIN_OK;
    x.args.q = q;
    x.args.k = k;
    CPU_PICK(cpu_attention_functions).back(&x.args, &x.prepare, more + x.parts);
    if (x.prepare.gain[0]) add_up(&x, more + x.parts, cpu_data(&call->out[call->out_count - 1]));
    return KIN_OK;
}

enum {
    FORWARD_VIEWS = 1 << KIN_SELF_Q | 1 << KIN_SELF_K | 1 << KIN_SELF_V,
    BACKWARD_VIEWS = FORWARD_VIEWS | 1 << KIN_SELF_O | 1 << KIN_SELF_D_O
};

/* f32, and the elements of each head adjacent in the inputs of the mask. */
static bool heads_are_dense(const kin_call *call, unsigned inputs) {
    for (int i = 0; i < call->in_count; i++) {
        const kin_desc *x = &call->in[i].desc;
        if (!is_there(call, i)) continue;
        if (x->dtype != KIN_F32) return false;
        if (!(inputs >> i & 1)) continue;
        if (x->strides[x->rank - 1] != 1 && x->dims[x->rank - 1] != 1) return false;
    }
    return true;
}

static bool forward_can(const kin_device *device, const kin_call *call) {
    (void)device;
    return heads_are_dense(call, FORWARD_VIEWS);
}

static bool backward_can(const kin_device *device, const kin_call *call) {
    (void)device;
    return heads_are_dense(call, BACKWARD_VIEWS);
}

const kin_kernel cpu_self_attention_kernels[] = {
    {"self_attention", "cpu_self_attention_views", FORWARD_VIEWS, 0, forward_can, forward_scratch,
     forward},
    {"self_attention", "cpu_self_attention", 0, 0, NULL, forward_scratch, forward},
    {"self_attention_grad", "cpu_self_attention_grad_views", BACKWARD_VIEWS, 0, backward_can,
     backward_scratch, backward},
    {"self_attention_grad", "cpu_self_attention_grad", 0, 0, NULL, backward_scratch, backward},
    {0},
};
