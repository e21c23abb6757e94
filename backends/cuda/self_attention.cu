/* self_attention and its gradient: turns (RoPE) and RMS norms of q and k, and attention, from q, k
 * and v where the projections left them, to results in the order of the tokens.
 *
 *   to 128 tokens, f16 and bf16   attention_short.cu does all of it in one kernel
 *   else                          q and k are prepared once into scratch memory, and the device's
 *                                 first row of `attention` that takes them does the rest
 *
 * Cosines and sines of the turns are made by a kernel before, in double, into a table of
 * [tokens][D] that stays in the caches: 4.6 KB for 16 tokens, against 37 MB of q and k that use it.
 *
 * Counted, not measured (STDiT2 at 16x256x256, batch 2, bf16; 18.9 MB for each of q, k, v, o):
 *
 *   over frames, 16 tokens   read 3, write 1: 75 MB, the floor. As separate ops: rope and norm move
 *                            8, attention 4, the copy for the projection 2: 264 MB, 3.5 times that.
 *   backward                 read 5 (and q, k from the second-level cache), write 3: 151 MB. As
 *                            separate ops: attention 8, norms 6, rope 4, concat 6: 24, three times.
 *   over sites, 256 tokens   preparing reads and writes 2: 75 MB beside attention's 75. q in the
 *                            load instead would save 38 of them, and k would be prepared by each
 *                            block of 128 queries: twice at 256 tokens, 8 times at 1,024.
 *
 * Sums of the gains' gradients: each block writes its part, and a tree of sums of 256 follows. */
#include "backends/cuda/self_attention.cuh"
#include "ops/attention_attrs.h"

/* ---- a call taken apart ---- */

struct self_parts {
    const kin_self_attention_attrs *attrs;
    attention_args args; /* addresses count from the buffers' starts while planning */
    kin_dtype dtype;
    bool packed, over_frames, norms, turns;
};

static bool is_there(const kin_call *call, int i) {
    return kin_cuda_has(call, i);
}

/* Element 0; while planning, how far it lies from the start of its buffer, which is aligned. */
static char *place_of(const kin_operand *x) {
    char *const address = static_cast<char *>(kin_cuda_address(x));
    return address != nullptr ? address : reinterpret_cast<char *>(x->offset);
}

/* Part 0, 1 or 2 of a tensor [B, T, S, 3, H, D]; or all of one [B, T, S, H, D]. */
static attention_rows rows_of(const self_parts &p, const kin_operand *x, int part) {
    const int64_t *s = x->desc.strides;
    const int rank = x->desc.rank;
    attention_rows rows = {place_of(x),
                           {s[0], s[p.over_frames ? 2 : 1], s[p.over_frames ? 1 : 2], s[rank - 2]}};
    if (rank == 6)
        rows.data =
            place_of(x) + part * x->desc.strides[3] * (int64_t)kin_dtype_size(x->desc.dtype);
    return rows;
}

static self_parts take_apart(const kin_call *call, bool grad) {
    self_parts p = {};
    attention_args &a = p.args;
    const kin_desc *q = &call->in[KIN_SELF_Q].desc;
    p.attrs = static_cast<const kin_self_attention_attrs *>(call->attrs);
    p.dtype = q->dtype;
    p.packed = q->rank == 6;
    p.over_frames = p.attrs->axis == 1;
    p.norms = is_there(call, KIN_SELF_Q_GAIN);
    p.turns = is_there(call, KIN_SELF_POSITIONS);
    a.b0 = (int)q->dims[0];
    a.b1 = (int)q->dims[p.over_frames ? 2 : 1];
    a.queries = a.keys = (int)q->dims[p.over_frames ? 1 : 2];
    a.heads = (int)q->dims[q->rank - 2];
    a.size = (int)q->dims[q->rank - 1];
    a.scale = (float)p.attrs->scale;
    attention_rows *const in[] = {&a.q, &a.k, &a.v}, *const out[] = {&a.d_q, &a.d_k, &a.d_v};
    for (int i = 0; i < 3; i++) {
        *in[i] = rows_of(p, &call->in[p.packed ? KIN_SELF_Q : i], i);
        if (grad) *out[i] = rows_of(p, &call->out[p.packed ? 0 : i], i);
    }
    a.o = rows_of(p, grad ? &call->in[KIN_SELF_O] : &call->out[0], 0);
    a.lse = reinterpret_cast<float *>(place_of(grad ? &call->in[KIN_SELF_LSE] : &call->out[1]));
    if (!grad) return p;
    a.d_o = rows_of(p, &call->in[KIN_SELF_D_O], 0);
    if (is_there(call, KIN_SELF_D_LSE))
        a.d_lse = reinterpret_cast<const float *>(place_of(&call->in[KIN_SELF_D_LSE]));
    return p;
}

static bool is_aligned(const kin_operand *x) {
    return reinterpret_cast<uintptr_t>(place_of(x)) % 16 == 0;
}

/* True if the kernels that take 8 elements at once may have the rows: known while planning. */
static bool has_packs(const kin_call *call, const self_parts &p) {
    if (p.turns && !p.attrs->rope.interleaved) return false;
    if (p.norms &&
        !(is_aligned(&call->in[KIN_SELF_Q_GAIN]) && is_aligned(&call->in[KIN_SELF_K_GAIN])))
        return false;
    attention_args positive = p.args;
    positive.scale = 1.0f;
    return attention_is_aligned(&positive, p.dtype);
}

static bool is_short(const kin_device *device, const kin_call *call, const self_parts &p,
                     bool grad) {
    return p.args.scale > 0 && has_packs(call, p) && attention_short_takes(device, &p.args, grad);
}

/* ---- the attention of a long sequence, as a call of its own ---- */

/* The operands and the call that the device's rows get. */
struct inner_call {
    kin_operand in[7], out[3];
    kin_attention_attrs attrs;
    kin_call call;
};

/* As [B, b1, N, H, D] or, of sums, as it is. */
static kin_operand inner_operand(const self_parts &p, const kin_operand *x, int part) {
    kin_operand y = *x;
    const attention_args &a = p.args;
    const kin_desc *desc = &x->desc;
    const attention_rows rows = rows_of(p, x, 0);
    const int64_t dims[5] = {a.b0, a.b1, a.queries, a.heads, a.size};
    y.desc = kin_desc_dense(desc->dtype, 5, dims);
    for (int i = 0; i < 4; i++) y.desc.strides[i] = rows.steps[i];
    y.desc.strides[4] = desc->strides[desc->rank - 1];
    if (desc->rank == 6)
        y.offset += (size_t)(part * desc->strides[3]) * kin_dtype_size(desc->dtype);
    return y;
}

/* Where the prepared q (0) and k (1) lie in scratch memory: dense, in the order of the tokens. */
static kin_operand prepared_operand(const kin_call *call, const self_parts &p, int which,
                                    size_t at) {
    const attention_args &a = p.args;
    const int64_t dims[5] = {a.b0, p.over_frames ? a.queries : a.b1,
                             p.over_frames ? a.b1 : a.queries, a.heads, a.size};
    kin_operand x = {};
    x.desc = kin_desc_dense(p.dtype, 5, dims);
    x.buffer = call->scratch;
    x.offset = call->scratch_offset + at + which * kin_desc_bytes(&x.desc);
    return x;
}

/* What lies where in scratch memory, in bytes; each part begins at a multiple of 256. */
struct self_scratch {
    size_t turns, prepared, inner, parts, more, total;
    int64_t blocks; /* that write parts of the gains' gradients */
};

static void make_inner(const kin_call *call, const self_parts &p, bool grad, size_t prepared,
                       inner_call *out) {
    *out = {};
    for (int i = 0; i < 3; i++) {
        const kin_operand *x = &call->in[p.packed ? KIN_SELF_Q : i];
        out->in[i] = inner_operand(p, x, i);
        if (i < 2 && (p.norms || p.turns)) {
            const kin_operand own = prepared_operand(call, p, i, prepared);
            out->in[i] = inner_operand(p, &own, 0);
        }
        if (grad) out->out[i] = inner_operand(p, &call->out[p.packed ? 0 : i], i);
    }
    if (grad) {
        out->in[ATTENTION_O] = inner_operand(p, &call->in[KIN_SELF_O], 0);
        out->in[ATTENTION_LSE] = call->in[KIN_SELF_LSE];
        out->in[ATTENTION_D_O] = inner_operand(p, &call->in[KIN_SELF_D_O], 0);
        if (is_there(call, KIN_SELF_D_LSE)) out->in[ATTENTION_D_LSE] = call->in[KIN_SELF_D_LSE];
        else out->in[ATTENTION_D_LSE].desc.rank = -1;
    } else {
        out->out[0] = inner_operand(p, &call->out[0], 0);
        out->out[1] = call->out[1];
    }
    out->attrs.scale = p.attrs->scale;
    out->call.op = grad ? "attention_grad" : "attention";
    out->call.attrs = &out->attrs;
    out->call.in_count = grad ? 7 : 3;
    out->call.out_count = grad ? 3 : 2;
    out->call.in = out->in;
    out->call.out = out->out;
}

/* The first row of the device that takes the call, as the planner chooses. */
static const kin_kernel *row_for(const kin_device *device, const kin_call *call) {
    for (size_t i = 0; device->backend->kernel(device, i) != NULL; i++) {
        const kin_kernel *row = device->backend->kernel(device, i);
        if (strcmp(row->op, call->op) == 0 && row->can != NULL && row->can(device, call))
            return row;
    }
    return NULL;
}

static size_t up(size_t size) {
    return (size + 255) / 256 * 256;
}

static int64_t row_count(const self_parts &p) {
    return (int64_t)p.args.b0 * p.args.b1 * p.args.queries * p.args.heads;
}

static self_scratch scratch_of(const kin_device *device, const kin_call *call, const self_parts &p,
                               bool grad) {
    const bool alone = is_short(device, call, p, grad);
    self_scratch s = {};
    s.prepared = p.turns ? up((size_t)p.args.queries * p.args.size * sizeof(float)) : 0;
    s.inner = s.prepared;
    if (!alone && (p.norms || p.turns))
        s.inner += up(2 * (size_t)row_count(p) * p.args.size * kin_dtype_size(p.dtype));
    s.parts = s.inner;
    if (!alone) {
        inner_call inner;
        make_inner(call, p, grad, s.prepared, &inner);
        const kin_kernel *row = row_for(device, &inner.call);
        if (row != NULL && row->scratch != NULL) s.parts += up(row->scratch(device, &inner.call));
    }
    s.more = s.total = s.parts;
    if (!grad || !p.norms) return s;
    s.blocks = alone ? attention_short_blocks(&p.args)
                     : (row_count(p) + SELF_BACK_ROWS - 1) / SELF_BACK_ROWS;
    const size_t row_bytes = 2 * (size_t)p.args.size * sizeof(float);
    s.more += up(s.blocks * row_bytes);
    s.total = s.more + up((s.blocks + SELF_SUM_ROWS - 1) / SELF_SUM_ROWS * row_bytes);
    return s;
}

/* ---- launches ---- */

static attention_prepare preparing(const kin_call *call, const self_parts &p,
                                   const self_scratch &s) {
    attention_prepare prepare = {kin_no_ref(), kin_no_ref(), (float)p.attrs->eps, nullptr, nullptr};
    if (p.norms) {
        prepare.q_gain = kin_ref_of(&call->in[KIN_SELF_Q_GAIN]);
        prepare.k_gain = kin_ref_of(&call->in[KIN_SELF_K_GAIN]);
    }
    if (p.turns) prepare.turns = static_cast<float *>(kin_cuda_scratch(call, s.turns));
    if (s.blocks > 0) prepare.gain_parts = static_cast<float *>(kin_cuda_scratch(call, s.parts));
    return prepare;
}

/* Prepares q and k into scratch memory, or takes the gradients of both back. */
static kin_status run_rows(kin_device *device, kin_commands *commands, const kin_call *call,
                           const self_parts &p, const self_scratch &s,
                           const attention_prepare &prepare, bool back) {
    self_task a = {};
    a.from[0] = p.args.q;
    a.from[1] = p.args.k;
    for (int i = 0; i < 2; i++) {
        const kin_operand own = prepared_operand(call, p, i, s.prepared);
        a.to[i] = back ? (i == 0 ? p.args.d_q : p.args.d_k) : rows_of(p, &own, 0);
    }
    a.b1 = p.args.b1;
    a.heads = p.args.heads;
    a.tokens = p.args.queries;
    a.size = p.args.size;
    a.part = p.turns ? (int)(a.size / p.attrs->rope.axes) : a.size;
    a.interleaved = (int)p.attrs->rope.interleaved;
    a.rows = row_count(p);
    a.prepare = prepare;
    return self_run_rows(device, commands, p.dtype, &a, has_packs(call, p), back);
}

/* The long way: prepared rows, and a call of attention. */
static kin_status run_inner(kin_device *device, kin_commands *commands, const kin_call *call,
                            const self_parts &p, const self_scratch &s,
                            const attention_prepare &prepare, bool grad) {
    const bool prepared = p.norms || p.turns;
    inner_call inner;
    make_inner(call, p, grad, s.prepared, &inner);
    const kin_kernel *row = row_for(device, &inner.call);
    if (row == NULL)
        return kin_fail(device->context, KIN_UNSUPPORTED, "cuda: no kernel of %s takes this call",
                        inner.call.op);
    inner.call.scratch = call->scratch;
    inner.call.scratch_offset = call->scratch_offset + s.inner;
    inner.call.scratch_size = s.parts - s.inner;
    kin_status status = KIN_OK;
    if (prepared) status = run_rows(device, commands, call, p, s, prepare, false);
    if (status == KIN_OK) status = row->launch(device, commands, &inner.call);
    if (status == KIN_OK && grad && prepared)
        status = run_rows(device, commands, call, p, s, prepare, true);
    return status;
}

static kin_status launch(kin_device *device, kin_commands *commands, const kin_call *call,
                         bool grad) {
    const self_parts p = take_apart(call, grad);
    const self_scratch s = scratch_of(device, call, p, grad);
    const attention_prepare prepare = preparing(call, p, s);
    kin_status status = KIN_OK;
    if (p.turns)
        status = self_make_turns(device, commands, kin_cuda_address(&call->in[KIN_SELF_POSITIONS]),
                                 &p.attrs->rope, p.args.queries, p.args.size,
                                 static_cast<float *>(kin_cuda_scratch(call, s.turns)));
    if (status != KIN_OK) return status;
    if (!is_short(device, call, p, grad))
        status = run_inner(device, commands, call, p, s, prepare, grad);
    else
        status = grad ? attention_short_grad(device, commands, p.dtype, &p.args, &prepare)
                      : attention_short_forward(device, commands, p.dtype, &p.args, &prepare);
    if (status != KIN_OK || s.blocks == 0) return status;
    return self_sum_gains(device, commands, prepare.gain_parts,
                          static_cast<float *>(kin_cuda_scratch(call, s.more)), s.blocks,
                          2 * p.args.size, kin_ref_of(&call->out[call->out_count - 1]));
}

/* ---- rows ---- */

/* Elements of a head lie side by side; heads and tokens fit into an int, turns into 31 bits. */
static bool can_take(const kin_call *call, const int *operands, int count) {
    const kin_desc *q = &call->in[KIN_SELF_Q].desc;
    if (!kin_cuda_is_real(q->dtype) || q->dims[q->rank - 1] > ATTENTION_PLAIN_MOST) return false;
    for (int i = 0; i < count; i++) {
        if (!is_there(call, operands[i])) continue;
        const kin_desc *desc = &call->in[operands[i]].desc;
        if (desc->dtype != q->dtype || desc->strides[desc->rank - 1] != 1) return false;
        for (int a = 0; a < desc->rank; a++)
            if (desc->dims[a] > INT32_MAX / KIN_SELF_ATTENTION_HEAD) return false;
    }
    return !is_there(call, KIN_SELF_Q_GAIN) ||
           (kin_cuda_is_real(call->in[KIN_SELF_Q_GAIN].desc.dtype) &&
            kin_cuda_is_real(call->in[KIN_SELF_K_GAIN].desc.dtype));
}

/* The attention behind it must be taken, too. */
static bool has_inner(const kin_device *device, const kin_call *call, bool grad) {
    const self_parts p = take_apart(call, grad);
    inner_call inner;
    if (is_short(device, call, p, grad)) return true;
    make_inner(call, p, grad, 0, &inner);
    return row_for(device, &inner.call) != NULL;
}

static bool can_forward(const kin_device *device, const kin_call *call) {
    static const int operands[] = {KIN_SELF_Q, KIN_SELF_K, KIN_SELF_V};
    return can_take(call, operands, 3) && has_inner(device, call, false);
}

static bool can_grad(const kin_device *device, const kin_call *call) {
    static const int operands[] = {KIN_SELF_Q, KIN_SELF_K, KIN_SELF_V, KIN_SELF_O, KIN_SELF_D_O};
    return can_take(call, operands, 5) && has_inner(device, call, true);
}

static size_t forward_scratch(const kin_device *device, const kin_call *call) {
    return scratch_of(device, call, take_apart(call, false), false).total;
}

static size_t grad_scratch(const kin_device *device, const kin_call *call) {
    return scratch_of(device, call, take_apart(call, true), true).total;
}

static kin_status launch_forward(kin_device *device, kin_commands *commands, const kin_call *call) {
    return launch(device, commands, call, false);
}

static kin_status launch_grad(kin_device *device, kin_commands *commands, const kin_call *call) {
    return launch(device, commands, call, true);
}

KIN_CUDA_ROWS(self_attention) = {
    {"self_attention", "cuda_self_attention",
     1u << KIN_SELF_Q | 1u << KIN_SELF_K | 1u << KIN_SELF_V, 0, can_forward, forward_scratch,
     launch_forward},
    {"self_attention_grad", "cuda_self_attention_grad",
     1u << KIN_SELF_Q | 1u << KIN_SELF_K | 1u << KIN_SELF_V | 1u << KIN_SELF_O | 1u << KIN_SELF_D_O,
     0, can_grad, grad_scratch, launch_grad},
    {},
};
