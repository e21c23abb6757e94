/* self_attention: attention of tokens of a video with one another, along one axis, from q, k and v
 * where the projections left them. Its gradient is self_attention_grad.c. */
#include "ops/self_attention.h"

#include <math.h>
#include <string.h>

#include "ops/attention.h"
#include "ops/layout.h"
#include "ops/norm.h"
#include "ops/rope.h"
#include "ops/rope_turn.h"
#include "ops/self_attention_shape.h"
#include "ops/split.h"
#include "ops/views.h"

/* ---- shapes ---- */

self_shape self_shape_of(const kin_self_attention_attrs *attrs, const kin_desc *q) {
    self_shape s = {.batch = q->dims[0],
                    .frames = q->dims[1],
                    .sites = q->dims[2],
                    .heads = q->dims[q->rank - 2],
                    .size = q->dims[q->rank - 1],
                    .packed = q->rank == 6,
                    .over_frames = attrs->axis == 1};
    s.b1 = s.over_frames ? s.sites : s.frames;
    s.tokens = s.over_frames ? s.frames : s.sites;
    return s;
}

static bool is_there(const kin_infer *infer, int input) {
    return input < infer->in_count && infer->in[input] != NULL;
}

static kin_status check_parts(kin_infer *infer) {
    const bool packed = !is_there(infer, KIN_SELF_K);
    const kin_desc *q = infer->in[KIN_SELF_Q];
    kin_status status = kin_infer_float(infer, KIN_SELF_Q);
    if (status == KIN_OK)
        status = kin_infer_rank(infer, KIN_SELF_Q, packed ? 6 : 5, packed ? 6 : 5);
    if (status != KIN_OK) return status;
    if (packed != !is_there(infer, KIN_SELF_V))
        return kin_infer_fail(infer, "k and v must both be there, or neither");
    if (packed && q->dims[3] != 3)
        return kin_infer_fail(infer, "axis 3 of packed q, k, v must be 3, not %lld",
                              (long long)q->dims[3]);
    for (int i = KIN_SELF_K; i <= KIN_SELF_V && !packed; i++) {
        status = kin_infer_same_shape(infer, KIN_SELF_Q, i);
        if (status != KIN_OK) return status;
        if (infer->in[i]->dtype != q->dtype)
            return kin_infer_fail(infer, "q, k and v must have the same dtype");
    }
    for (int i = 0; i < q->rank; i++)
        if (q->dims[i] < 1) return kin_infer_fail(infer, "axis %d is empty", i);
    if (q->dims[q->rank - 1] > KIN_SELF_ATTENTION_HEAD)
        return kin_infer_fail(infer, "heads have at most %d elements", KIN_SELF_ATTENTION_HEAD);
    return KIN_OK;
}

static kin_status check_gains(kin_infer *infer, const self_shape *shape) {
    const kin_self_attention_attrs *attrs = infer->attrs;
    if (is_there(infer, KIN_SELF_Q_GAIN) != is_there(infer, KIN_SELF_K_GAIN))
        return kin_infer_fail(infer, "the gains of q and k must both be there, or neither");
    if (!is_there(infer, KIN_SELF_Q_GAIN)) return KIN_OK;
    if (!(attrs->eps >= 0) || !isfinite(attrs->eps))
        return kin_infer_fail(infer, "eps must be finite and not negative, not %g", attrs->eps);
    for (int i = KIN_SELF_Q_GAIN; i <= KIN_SELF_K_GAIN; i++) {
        kin_status status = kin_infer_float(infer, i);
        if (status != KIN_OK) return status;
        if (infer->in[i]->rank != 1 || infer->in[i]->dims[0] != shape->size)
            return kin_infer_fail(infer, "the gains must be [%lld]", (long long)shape->size);
    }
    if (infer->in[KIN_SELF_Q_GAIN]->dtype != infer->in[KIN_SELF_K_GAIN]->dtype)
        return kin_infer_fail(infer, "the gains must have the same dtype");
    return KIN_OK;
}

static kin_status check_positions(kin_infer *infer, const self_shape *shape) {
    const kin_self_attention_attrs *attrs = infer->attrs;
    const kin_rope_attrs *rope = &attrs->rope;
    if (!is_there(infer, KIN_SELF_POSITIONS)) return KIN_OK;
    const kin_desc *positions = infer->in[KIN_SELF_POSITIONS];
    kin_status status = kin_infer_dtype(infer, KIN_SELF_POSITIONS, KIN_F32);
    if (status != KIN_OK) return status;
    if (rope->axes != 1 && rope->axes != KIN_ROPE_AXES)
        return kin_infer_fail(infer, "axes of rope must be 1 or 3");
    if (!(rope->theta > 0)) return kin_infer_fail(infer, "theta must be positive");
    for (int a = 0; a < rope->axes; a++)
        if (!(rope->scales[a] != 0)) return kin_infer_fail(infer, "scales must not be 0");
    if (shape->size % (2 * rope->axes) != 0)
        return kin_infer_fail(infer, "the head size must be a multiple of %lld",
                              (long long)(2 * rope->axes));
    if (positions->rank != (rope->axes == 1 ? 1 : 2) ||
        positions->dims[positions->rank - 1] != shape->tokens ||
        (rope->axes > 1 && positions->dims[0] != rope->axes))
        return kin_infer_fail(infer, "positions must be [%s%lld]", rope->axes == 1 ? "" : "3, ",
                              (long long)shape->tokens);
    return KIN_OK;
}

kin_status self_check(kin_infer *infer) {
    const kin_self_attention_attrs *attrs = infer->attrs;
    if (attrs->axis != 1 && attrs->axis != 2) return kin_infer_fail(infer, "axis must be 1 or 2");
    kin_status status = check_parts(infer);
    if (status != KIN_OK) return status;
    const self_shape shape = self_shape_of(attrs, infer->in[KIN_SELF_Q]);
    status = check_gains(infer, &shape);
    return status == KIN_OK ? check_positions(infer, &shape) : status;
}

static kin_status infer(kin_infer *infer) {
    kin_status status = kin_infer_inputs(infer, 1, KIN_SELF_INPUTS);
    if (status == KIN_OK) status = self_check(infer);
    if (status != KIN_OK) return status;
    const kin_desc *q = infer->in[KIN_SELF_Q];
    const self_shape s = self_shape_of(infer->attrs, q);
    infer->out[0] =
        kin_desc_dense(q->dtype, 5, (int64_t[]){s.batch, s.frames, s.sites, s.heads, s.size});
    infer->out[1] = kin_desc_dense(KIN_F32, 4, (int64_t[]){s.batch, s.b1, s.heads, s.tokens});
    return KIN_OK;
}

/* ---- reference ---- */

self_values self_values_of(const kin_reference *call) {
    self_values x = {.shape = self_shape_of(call->attrs, &call->in_desc[KIN_SELF_Q]),
                     .attrs = call->attrs};
    for (int i = 0; i < 3; i++) x.part[i] = call->in[x.shape.packed ? KIN_SELF_Q : i];
    for (int i = 0; i < 2; i++)
        if (call->in_count > KIN_SELF_Q_GAIN + i) x.gain[i] = call->in[KIN_SELF_Q_GAIN + i];
    if (call->in_count > KIN_SELF_POSITIONS) x.positions = call->in[KIN_SELF_POSITIONS];
    return x;
}

static int64_t place_of(const self_shape *s, int64_t i0, int64_t i1, int64_t n) {
    const int64_t frame = s->over_frames ? n : i1, site = s->over_frames ? i1 : n;
    return (i0 * s->frames + frame) * s->sites + site;
}

int64_t self_token(const self_shape *s, int64_t i0, int64_t i1, int64_t n, int64_t h) {
    return (place_of(s, i0, i1, n) * s->heads + h) * s->size;
}

int64_t self_row(const self_shape *s, int part, int64_t i0, int64_t i1, int64_t n, int64_t h) {
    if (!s->packed) return self_token(s, i0, i1, n, h);
    return ((place_of(s, i0, i1, n) * 3 + part) * s->heads + h) * s->size;
}

double self_hat(const self_values *x, int part, const double *row, int64_t n, double *out) {
    const int64_t size = x->shape.size;
    double square = 0;
    memcpy(out, row, (size_t)size * sizeof *out);
    for (int64_t i = 0; x->positions != NULL && i < size / 2; i++) {
        const rope_turn turn =
            rope_turn_of(&x->attrs->rope, x->positions, x->shape.tokens, n, size, i);
        const double a = row[turn.at[0]], b = row[turn.at[1]];
        out[turn.at[0]] = a * turn.c - b * turn.s;
        out[turn.at[1]] = b * turn.c + a * turn.s;
    }
    if (x->gain[part] == NULL) return 1;
    for (int64_t i = 0; i < size; i++) square += out[i] * out[i];
    const double factor = 1 / sqrt(square / (double)size + x->attrs->eps);
    for (int64_t i = 0; i < size; i++) out[i] *= factor;
    return factor;
}

void self_prepare(const self_values *x, int part, const double *row, int64_t n, double *out) {
    self_hat(x, part, row, n, out);
    for (int64_t i = 0; x->gain[part] != NULL && i < x->shape.size; i++) out[i] *= x->gain[part][i];
}

/* One query: o is rescaled whenever the largest score so far grows. Returns lse. */
static double reference_row(const self_values *x, int64_t i0, int64_t i1, int64_t h, int64_t query,
                            double *o) {
    const self_shape *s = &x->shape;
    double q[KIN_SELF_ATTENTION_HEAD], k[KIN_SELF_ATTENTION_HEAD], top = -INFINITY, total = 0;
    self_prepare(x, 0, x->part[0] + self_row(s, 0, i0, i1, query, h), query, q);
    for (int64_t c = 0; c < s->size; c++) o[c] = 0;
    for (int64_t j = 0; j < s->tokens; j++) {
        const double *v = x->part[2] + self_row(s, 2, i0, i1, j, h);
        double score = 0;
        self_prepare(x, 1, x->part[1] + self_row(s, 1, i0, i1, j, h), j, k);
        for (int64_t c = 0; c < s->size; c++) score += q[c] * k[c];
        score *= x->attrs->scale;
        if (score > top) {
            for (int64_t c = 0; c < s->size; c++) o[c] *= exp(top - score);
            total *= exp(top - score);
            top = score;
        }
        const double weight = exp(score - top);
        total += weight;
        for (int64_t c = 0; c < s->size; c++) o[c] += weight * v[c];
    }
    for (int64_t c = 0; c < s->size; c++) o[c] /= total;
    return (top + log(total)) * attention_log2_e;
}

static void reference(const kin_reference *call) {
    const self_values x = self_values_of(call);
    const self_shape *s = &x.shape;
    double *lse = call->out[1];
    for (int64_t i0 = 0; i0 < s->batch; i0++)
        for (int64_t i1 = 0; i1 < s->b1; i1++)
            for (int64_t h = 0; h < s->heads; h++)
                for (int64_t i = 0; i < s->tokens; i++)
                    *lse++ =
                        reference_row(&x, i0, i1, h, i, call->out[0] + self_token(s, i0, i1, i, h));
}

/* ---- gradient ---- */

/* The softmax over one token is 1 whatever its score: exactly no gradient for q and k, not one of
 * rounding. `grad` has the gradients from kin_op_self_attention_grad. */
static void clear_scores(kin_gradient_call *call, const self_shape *shape, kin_tensor *grad) {
    kin_graph *g = call->graph;
    const kin_desc q = *kin_tensor_desc(g, call->in[KIN_SELF_Q]);
    if (!shape->packed) {
        for (int i = 0; i < 2; i++) grad[i] = kin_fill(g, q.dtype, q.rank, q.dims, 0);
        return;
    }
    int64_t dims[KIN_MAX_RANK];
    memcpy(dims, q.dims, sizeof dims);
    dims[3] = 2;
    kin_tensor parts[2] = {kin_fill(g, q.dtype, q.rank, dims, 0), kin_slice(g, grad[0], 3, 2, 1)};
    grad[0] = kin_concat(g, parts, 2, 3);
}

static void gradient(kin_gradient_call *call) {
    kin_graph *g = call->graph;
    const self_shape shape = self_shape_of(call->attrs, kin_tensor_desc(g, call->in[KIN_SELF_Q]));
    const bool gains = self_has(call->in_count, call->in, KIN_SELF_Q_GAIN);
    const int parts = shape.packed ? 1 : 3;
    kin_tensor in[KIN_SELF_GRAD_INPUTS] = {{0}}, out[KIN_MAX_OUTPUTS] = {{0}};
    for (int i = 0; i < call->in_count; i++) in[i] = call->in[i];
    in[KIN_SELF_O] = call->out[0];
    in[KIN_SELF_LSE] = call->out[1];
    in[KIN_SELF_D_O] = call->out_grad[0];
    in[KIN_SELF_D_LSE] = call->out_grad[1];
    if (in[KIN_SELF_D_O].id == 0) {
        const kin_desc o = *kin_tensor_desc(g, call->out[0]);
        in[KIN_SELF_D_O] = kin_fill(g, o.dtype, o.rank, o.dims, 0);
    }
    kin_append(g, &kin_op_self_attention_grad, call->attrs, in, KIN_SELF_GRAD_INPUTS, out);
    kin_tensor d_gains = out[parts];
    if (shape.tokens == 1 && call->out_grad[1].id == 0) {
        clear_scores(call, &shape, out);
        if (gains) {
            const kin_desc desc = *kin_tensor_desc(g, d_gains);
            d_gains = kin_fill(g, desc.dtype, desc.rank, desc.dims, 0);
        }
    }
    for (int i = 0; i < parts; i++) call->in_grad[KIN_SELF_Q + i] = out[i];
    for (int i = 0; i < 2 && gains; i++)
        call->in_grad[KIN_SELF_Q_GAIN + i] =
            kin_reshape(g, kin_slice(g, d_gains, 0, i, 1), 1, &shape.size);
}

/* ---- lowering ---- */

kin_tensor self_swap(kin_graph *graph, const self_shape *shape, kin_tensor x) {
    return shape->over_frames ? kin_permute(graph, x, (int[]){0, 2, 1, 3, 4}) : x;
}

kin_tensor self_part(kin_graph *graph, const self_shape *shape, const kin_tensor *in, int part) {
    kin_tensor x = in[shape->packed ? KIN_SELF_Q : part];
    if (shape->packed) {
        const int64_t dims[] = {shape->batch, shape->frames, shape->sites, shape->heads,
                                shape->size};
        x = kin_reshape(graph, kin_slice(graph, x, 3, part, 1), 5, dims);
    }
    return self_swap(graph, shape, x);
}

kin_tensor self_turn(kin_graph *graph, const kin_self_attention_attrs *attrs, kin_tensor x,
                     kin_tensor positions, bool back) {
    kin_rope_attrs rope = attrs->rope;
    if (positions.id == 0) return x;
    if (back) rope.inverse = !rope.inverse;
    return kin_rope(graph, x, positions, &rope);
}

kin_tensor self_norm(kin_graph *graph, const kin_self_attention_attrs *attrs, kin_tensor x,
                     kin_tensor gain) {
    return gain.id == 0 ? x : kin_rms_norm(graph, x, gain, attrs->eps);
}

static void lower(kin_lower_call *call) {
    kin_graph *g = call->graph;
    const kin_self_attention_attrs *attrs = call->attrs;
    const self_shape shape = self_shape_of(attrs, kin_tensor_desc(g, call->in[KIN_SELF_Q]));
    const kin_attention_attrs scores = {.scale = attrs->scale};
    const kin_tensor positions =
        call->in_count > KIN_SELF_POSITIONS ? call->in[KIN_SELF_POSITIONS] : KIN_NONE;
    kin_tensor part[3], out[2] = {{0}};
    for (int i = 0; i < 3; i++) {
        part[i] = self_part(g, &shape, call->in, i);
        if (i == 2) break;
        part[i] = self_turn(g, attrs, part[i], positions, false);
        if (self_has(call->in_count, call->in, KIN_SELF_Q_GAIN + i))
            part[i] = self_norm(g, attrs, part[i], call->in[KIN_SELF_Q_GAIN + i]);
    }
    kin_append(g, &kin_op_attention, &scores, part, 3, out);
    call->out[0] = shape.over_frames ? kin_copy(g, self_swap(g, &shape, out[0])) : out[0];
    call->out[1] = out[1];
}

static void cost(const kin_cost_call *call, kin_cost *cost) {
    const self_shape s = self_shape_of(call->attrs, &call->in[KIN_SELF_Q]);
    const double rows = (double)(s.batch * s.b1 * s.heads) * (double)s.tokens;
    cost->flops = rows * ((double)s.tokens * (4.0 * (double)s.size + 5));
    if (call->in_count > KIN_SELF_Q_GAIN && call->in[KIN_SELF_Q_GAIN].rank >= 0)
        cost->flops += rows * 8.0 * (double)s.size;
    if (call->in_count > KIN_SELF_POSITIONS && call->in[KIN_SELF_POSITIONS].rank >= 0)
        cost->flops += rows * 6.0 * (double)s.size;
    cost->reduction = (double)(s.size + s.tokens);
}

/* ---- cases and builders ---- */

#define PAIRS                                                                                      \
    { .theta = 10000, .scales = {1, 1, 1}, .axes = 1, .interleaved = 1 }
static const kin_self_attention_attrs frames = {
    .scale = 0.15, .eps = 1e-6, .rope = PAIRS, .axis = 1};
static const kin_self_attention_attrs sites = {
    .scale = 0.15, .eps = 1e-6, .rope = PAIRS, .axis = 2};
static const kin_self_attention_attrs halves = {
    .scale = 0.15, .eps = 1e-5, .rope = {.theta = 500, .scales = {2, 1, 1}, .axes = 1}, .axis = 1};
static const kin_self_attention_attrs three_axes = {
    .scale = 0.15, .rope = {.theta = 10000, .scales = {1, 1.5, 2}, .axes = 3}, .axis = 2};
static const kin_self_attention_attrs scale_72 = {
    .scale = 0.11785113019775792, .eps = 1e-6, .rope = PAIRS, .axis = 1};

/* clang-format off */
#define QKV(b, t, s, h, d) {.dtype = KIN_F32, .rank = 6, .dims = {b, t, s, 3, h, d}}
#define PART(b, t, s, h, d) {.dtype = KIN_F32, .rank = 5, .dims = {b, t, s, h, d}}
#define SEEN(kind, rank_, ...) {.dtype = KIN_F32, .rank = (rank_), .dims = {__VA_ARGS__}, .layout = (kind)}
#define GAIN(d) {.dtype = KIN_F32, .rank = 1, .dims = {d}, .fill = KIN_FILL_POSITIVE}
#define GAINS(d) GAIN(d), GAIN(d)
#define POSITIONS(rank_, fill_, ...) \
    {.dtype = KIN_F32, .rank = (rank_), .dims = {__VA_ARGS__}, .fill = (fill_), .limit = 80, .scale = 3, \
     .fixed = true, .constant = true}
#define ABSENT {.rank = -1}

static const kin_case cases[] = {
    {"one token", &frames, 1, {QKV(2, 1, 3, 2, 4)}, false},
    {"frames", &frames, 1, {QKV(2, 5, 3, 2, 6)}, false},
    {"sites, odd head", &sites, 1, {QKV(2, 3, 5, 2, 7)}, false},
    {"three tensors", &frames, 3, {PART(2, 4, 3, 2, 8), PART(2, 4, 3, 2, 8), PART(2, 4, 3, 2, 8)}, false},
    {"norms", &frames, 5, {QKV(1, 4, 3, 2, 8), ABSENT, ABSENT, GAINS(8)}, false},
    {"rope", &frames, 6,
     {QKV(1, 4, 3, 2, 8), ABSENT, ABSENT, ABSENT, ABSENT, POSITIONS(1, KIN_FILL_COUNT, 4)}, false},
    {"rope and norms", &frames, 6,
     {QKV(2, 4, 3, 2, 8), ABSENT, ABSENT, GAINS(8), POSITIONS(1, KIN_FILL_COUNT, 4)}, false},
    {"rope and norms, sites", &sites, 6,
     {QKV(2, 3, 4, 2, 8), ABSENT, ABSENT, GAINS(8), POSITIONS(1, KIN_FILL_POSITIVE, 4)}, false},
    {"halves, norms, three tensors", &halves, 6,
     {PART(1, 5, 2, 3, 10), PART(1, 5, 2, 3, 10), PART(1, 5, 2, 3, 10), GAINS(10),
      POSITIONS(1, KIN_FILL_COUNT, 5)}, false},
    {"three axes", &three_axes, 6,
     {QKV(1, 2, 5, 2, 12), ABSENT, ABSENT, ABSENT, ABSENT, POSITIONS(2, KIN_FILL_INDEX, 3, 5)}, false},
    {"swapped", &frames, 6,
     {SEEN(KIN_LAYOUT_TRANSPOSED, 6, 2, 4, 3, 3, 2, 8), ABSENT, ABSENT, GAINS(8),
      POSITIONS(1, KIN_FILL_COUNT, 4)}, false},
    {"a slice", &sites, 5,
     {SEEN(KIN_LAYOUT_PADDED, 6, 2, 3, 4, 3, 2, 8), ABSENT, ABSENT, GAINS(8)}, false},
    {"head of 72, 16 frames", &scale_72, 6,
     {QKV(1, 16, 3, 2, 72), ABSENT, ABSENT, GAINS(72), POSITIONS(1, KIN_FILL_COUNT, 16)}, false},
    {"bench: 16 frames of 256 tokens", &scale_72, 1, {QKV(1, 16, 256, 16, 72)}, true},
    {"bench: 16 frames of 256 tokens, rope and norms", &scale_72, 6,
     {QKV(1, 16, 256, 16, 72), ABSENT, ABSENT, GAINS(72), POSITIONS(1, KIN_FILL_COUNT, 16)}, true},
};
/* clang-format on */

static kin_tensor append(kin_graph *graph, kin_tensor q, kin_tensor k, kin_tensor v,
                         const kin_self_attention_options *options) {
    kin_self_attention_attrs attrs;
    memset(&attrs, 0, sizeof attrs); /* padding is compared */
    attrs.scale = options->scale;
    attrs.axis = options->over_frames ? 1 : 2;
    if (options->q_gain.id != 0) attrs.eps = options->eps;
    if (options->positions.id != 0) attrs.rope = options->rope;
    kin_tensor in[KIN_SELF_INPUTS] =
        {q, k, v, options->q_gain, options->k_gain, options->positions},
               out[2] = {{0}};
    if (options->positions.id != 0)
        in[KIN_SELF_POSITIONS] = kin_cast(graph, options->positions, KIN_F32);
    kin_append(graph, &kin_op_self_attention, &attrs, in, KIN_SELF_INPUTS, out);
    return out[0];
}

kin_tensor kin_self_attention_packed(kin_graph *graph, kin_tensor qkv,
                                     const kin_self_attention_options *options) {
    return append(graph, qkv, KIN_NONE, KIN_NONE, options);
}

kin_tensor kin_self_attention(kin_graph *graph, kin_tensor q, kin_tensor k, kin_tensor v,
                              const kin_self_attention_options *options) {
    return append(graph, q, k, v, options);
}

const kin_op kin_op_self_attention = {
    .name = "self_attention",
    .summary =
        "attention of tokens [B, T, S] with those of their site or of their frame, from q, k "
        "and v, packed or not; rope and RMS norms of q and k on the way; o and lse",
    .flags = KIN_OP_COMPOSITE | KIN_OP_PRODUCT | KIN_OP_ROUNDS,
    .attrs_size = sizeof(kin_self_attention_attrs),
    .outputs = 2,
    .optional = 1u << KIN_SELF_K | 1u << KIN_SELF_V | 1u << KIN_SELF_Q_GAIN |
                1u << KIN_SELF_K_GAIN | 1u << KIN_SELF_POSITIONS,
    .infer = infer,
    .reference = reference,
    .gradient = gradient,
    .lower = lower,
    .cost = cost,
    .cases = cases,
    .case_count = sizeof cases / sizeof *cases,
};
