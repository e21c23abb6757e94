/* self_attention_grad: the gradients of self_attention for q, k and v, packed if they are, and for
 * both gains, one row each. */
#include <math.h>

#include "ops/attention.h"
#include "ops/layout.h"
#include "ops/norm.h"
#include "ops/rope_turn.h"
#include "ops/self_attention.h"
#include "ops/self_attention_shape.h"
#include "ops/views.h"

static bool has_gains(const kin_infer *infer) {
    return infer->in[KIN_SELF_Q_GAIN] != NULL;
}

static kin_status infer(kin_infer *infer) {
    kin_status status = kin_infer_inputs(infer, KIN_SELF_D_O + 1, KIN_SELF_GRAD_INPUTS);
    if (status == KIN_OK) status = self_check(infer);
    if (status != KIN_OK) return status;
    const kin_desc *q = infer->in[KIN_SELF_Q];
    const self_shape s = self_shape_of(infer->attrs, q);
    const int64_t rows[5] = {s.batch, s.frames, s.sites, s.heads, s.size};
    const int64_t sums[4] = {s.batch, s.b1, s.heads, s.tokens};
    for (int i = KIN_SELF_O; i < infer->in_count; i++) {
        const bool is_sum = i == KIN_SELF_LSE || i == KIN_SELF_D_LSE;
        const kin_desc *x = infer->in[i];
        if (i == KIN_SELF_D_LSE && x == NULL) continue;
        status = is_sum ? kin_infer_dtype(infer, i, KIN_F32) : kin_infer_float(infer, i);
        if (status == KIN_OK) status = kin_infer_rank(infer, i, is_sum ? 4 : 5, is_sum ? 4 : 5);
        if (status != KIN_OK) return status;
        for (int a = 0; a < x->rank; a++)
            if (x->dims[a] != (is_sum ? sums[a] : rows[a]))
                return kin_infer_fail(infer, "input %d does not have the shape of its result", i);
    }
    int count = 0;
    if (s.packed) infer->out[count++] = kin_desc_dense(q->dtype, q->rank, q->dims);
    else
        while (count < 3) infer->out[count++] = kin_desc_dense(q->dtype, 5, rows);
    if (has_gains(infer))
        infer->out[count++] =
            kin_desc_dense(infer->in[KIN_SELF_Q_GAIN]->dtype, 2, (int64_t[]){2, s.size});
    infer->out_count = count;
    return KIN_OK;
}

/* Where the gradients lie: of q, k, v, and of the gains (NULL: none). */
typedef struct self_gradients {
    double *part[3], *gains;
} self_gradients;

/* One query: p = exp(score) / 2^lse, ds = p (do . v - do . o + dlse log2(e)). What arrives in d_q
 * and d_k is the gradient of the prepared rows. */
static void reference_row(const kin_reference *call, const self_values *x,
                          const self_gradients *grads, int64_t i0, int64_t i1, int64_t h,
                          int64_t query) {
    const self_shape *s = &x->shape;
    const int64_t row = self_row(s, 0, i0, i1, query, h), token = self_token(s, i0, i1, query, h);
    const int64_t at = ((i0 * s->b1 + i1) * s->heads + h) * s->tokens + query;
    const double *o = call->in[KIN_SELF_O] + token, *d_o = call->in[KIN_SELF_D_O] + token;
    double q[KIN_SELF_ATTENTION_HEAD], k[KIN_SELF_ATTENTION_HEAD], delta = 0;
    self_prepare(x, 0, x->part[0] + row, query, q);
    for (int64_t c = 0; c < s->size; c++) delta += o[c] * d_o[c];
    if (call->in_count > KIN_SELF_D_LSE && call->in[KIN_SELF_D_LSE] != NULL)
        delta -= call->in[KIN_SELF_D_LSE][at] * attention_log2_e;
    for (int64_t j = 0; j < s->tokens; j++) {
        const int64_t key = self_row(s, 1, i0, i1, j, h), value = self_row(s, 2, i0, i1, j, h);
        double score = 0, ds = -delta;
        self_prepare(x, 1, x->part[1] + key, j, k);
        for (int64_t c = 0; c < s->size; c++) score += q[c] * k[c];
        for (int64_t c = 0; c < s->size; c++) ds += d_o[c] * x->part[2][value + c];
        const double p =
            exp(x->attrs->scale * score - call->in[KIN_SELF_LSE][at] / attention_log2_e);
        ds *= p;
        for (int64_t c = 0; c < s->size; c++) {
            grads->part[0][row + c] += x->attrs->scale * ds * k[c];
            grads->part[1][key + c] += x->attrs->scale * ds * q[c];
            grads->part[2][value + c] += p * d_o[c];
        }
    }
}

/* One row of the gradient of q or k, from that of the prepared row that `d` has: through the norm,
 * dx = r (g dy - hat mean(g dy hat)), and turned back. */
static void reference_back(const self_values *x, const self_gradients *grads, int part,
                           const double *row, int64_t n, double *d) {
    const int64_t size = x->shape.size;
    if (x->gain[part] != NULL) {
        const double *gain = x->gain[part];
        double hat[KIN_SELF_ATTENTION_HEAD], mean = 0;
        const double factor = self_hat(x, part, row, n, hat);
        for (int64_t c = 0; c < size; c++) mean += gain[c] * d[c] * hat[c] / (double)size;
        for (int64_t c = 0; c < size; c++) {
            grads->gains[part * size + c] += d[c] * hat[c];
            d[c] = factor * (gain[c] * d[c] - hat[c] * mean);
        }
    }
    for (int64_t i = 0; x->positions != NULL && i < size / 2; i++) {
        const rope_turn turn =
            rope_turn_of(&x->attrs->rope, x->positions, x->shape.tokens, n, size, i);
        const double a = d[turn.at[0]], b = d[turn.at[1]];
        d[turn.at[0]] = a * turn.c + b * turn.s;
        d[turn.at[1]] = b * turn.c - a * turn.s;
    }
}

static void reference(const kin_reference *call) {
    const self_values x = self_values_of(call);
    const self_shape *s = &x.shape;
    self_gradients grads;
    for (int i = 0; i < 3; i++) grads.part[i] = call->out[s->packed ? 0 : i];
    grads.gains = call->out_count > (s->packed ? 1 : 3) ? call->out[call->out_count - 1] : NULL;
    for (int j = 0; j < call->out_count; j++) {
        const int64_t count = kin_desc_count(&call->out_desc[j]);
        for (int64_t i = 0; i < count; i++) call->out[j][i] = 0;
    }
    for (int64_t i0 = 0; i0 < s->batch; i0++)
        for (int64_t i1 = 0; i1 < s->b1; i1++)
            for (int64_t h = 0; h < s->heads; h++) {
                for (int64_t i = 0; i < s->tokens; i++)
                    reference_row(call, &x, &grads, i0, i1, h, i);
                for (int64_t i = 0; i < 2 * s->tokens; i++) {
                    const int64_t row = self_row(s, (int)(i % 2), i0, i1, i / 2, h);
                    reference_back(&x, &grads, (int)(i % 2), x.part[i % 2] + row, i / 2,
                                   grads.part[i % 2] + row);
                }
            }
}

static kin_tensor input_or_none(const kin_lower_call *call, int i) {
    return i < call->in_count ? call->in[i] : KIN_NONE;
}

/* q and k are turned and normed a second time. */
static void lower(kin_lower_call *call) {
    kin_graph *g = call->graph;
    const kin_self_attention_attrs *attrs = call->attrs;
    const self_shape shape = self_shape_of(attrs, kin_tensor_desc(g, call->in[KIN_SELF_Q]));
    const kin_attention_attrs scores = {.scale = attrs->scale};
    const kin_norm_attrs norm = {.eps = attrs->eps};
    const kin_tensor positions = input_or_none(call, KIN_SELF_POSITIONS);
    const int parts = shape.packed ? 1 : 3;
    kin_tensor turned[2], part[3], grad[4] = {{0}}, d_gain[2];
    for (int i = 0; i < 3; i++) {
        part[i] = self_part(g, &shape, call->in, i);
        if (i == 2) break;
        turned[i] = self_turn(g, attrs, part[i], positions, false);
        part[i] = self_norm(g, attrs, turned[i], input_or_none(call, KIN_SELF_Q_GAIN + i));
    }
    const kin_tensor in[] = {part[0],
                             part[1],
                             part[2],
                             self_swap(g, &shape, call->in[KIN_SELF_O]),
                             call->in[KIN_SELF_LSE],
                             self_swap(g, &shape, call->in[KIN_SELF_D_O]),
                             input_or_none(call, KIN_SELF_D_LSE)};
    kin_append(g, &kin_op_attention_grad, &scores, in, 7, grad);
    for (int i = 0; i < 2; i++) {
        const kin_tensor gain = call->in[KIN_SELF_Q_GAIN + i];
        if (gain.id != 0) {
            const kin_tensor norm_in[] = {grad[i], turned[i], gain};
            kin_tensor out[2] = {{0}};
            kin_append(g, &kin_op_rms_norm_grad, &norm, norm_in, 3, out);
            grad[i] = out[0];
            d_gain[i] = kin_reshape(g, out[1], 2, (int64_t[]){1, shape.size});
        }
        grad[i] = self_turn(g, attrs, grad[i], positions, true);
    }
    const int64_t dims[] = {shape.batch, shape.frames, shape.sites, 1, shape.heads, shape.size};
    for (int i = 0; i < 3; i++) {
        grad[i] = self_swap(g, &shape, grad[i]);
        if (shape.packed) grad[i] = kin_reshape(g, grad[i], 6, dims);
        else call->out[i] = shape.over_frames ? kin_copy(g, grad[i]) : grad[i];
    }
    if (shape.packed) call->out[0] = kin_concat(g, grad, 3, 3);
    if (call->out_count > parts) call->out[parts] = kin_concat(g, d_gain, 2, 0);
}

static void cost(const kin_cost_call *call, kin_cost *cost) {
    const self_shape s = self_shape_of(call->attrs, &call->in[KIN_SELF_Q]);
    const double rows = (double)(s.batch * s.b1 * s.heads) * (double)s.tokens;
    const bool gains = call->in[KIN_SELF_Q_GAIN].rank >= 0;
    cost->flops = rows * ((double)s.tokens * (10.0 * (double)s.size + 6));
    if (gains) cost->flops += rows * 24.0 * (double)s.size;
    if (call->in[KIN_SELF_POSITIONS].rank >= 0) cost->flops += rows * 12.0 * (double)s.size;
    cost->reduction = (double)(s.size + s.tokens);
    if (gains && rows > cost->reduction) cost->reduction = rows; /* d_gain */
}

#define PAIRS                                                                                      \
    { .theta = 10000, .scales = {1, 1, 1}, .axes = 1, .interleaved = 1 }
static const kin_self_attention_attrs frames = {
    .scale = 0.15, .eps = 1e-6, .rope = PAIRS, .axis = 1};
static const kin_self_attention_attrs sites = {
    .scale = 0.15, .eps = 1e-6, .rope = PAIRS, .axis = 2};
static const kin_self_attention_attrs halves = {
    .scale = 0.15, .eps = 1e-5, .rope = {.theta = 500, .scales = {2, 1, 1}, .axes = 1}, .axis = 1};
static const kin_self_attention_attrs scaled = {
    .scale = 0.11785113019775792, .eps = 1e-6, .rope = PAIRS, .axis = 1};

/* clang-format off */
#define QKV(b, t, s, h, d) {.dtype = KIN_F32, .rank = 6, .dims = {b, t, s, 3, h, d}}
#define PART(b, t, s, h, d) {.dtype = KIN_F32, .rank = 5, .dims = {b, t, s, h, d}}
#define SWAPPED(rank_, ...) \
    {.dtype = KIN_F32, .rank = (rank_), .dims = {__VA_ARGS__}, .layout = KIN_LAYOUT_TRANSPOSED}
#define GAIN(d) {.dtype = KIN_F32, .rank = 1, .dims = {d}, .fill = KIN_FILL_POSITIVE}
#define GAINS(d) GAIN(d), GAIN(d)
#define POSITIONS(n) \
    {.dtype = KIN_F32, .rank = 1, .dims = {n}, .fill = KIN_FILL_COUNT, .fixed = true, .constant = true}
#define LSE(...) \
    {.dtype = KIN_F32, .rank = 4, .dims = {__VA_ARGS__}, .fixed = true, .fill = KIN_FILL_POSITIVE, .scale = 3}
#define ABSENT {.rank = -1}
#define NO_GAINS ABSENT, ABSENT
#define PACKED(...) QKV(__VA_ARGS__), ABSENT, ABSENT

static const kin_case cases[] = {
    {"one token", &frames, 9,
     {PACKED(2, 1, 3, 2, 4), NO_GAINS, ABSENT, PART(2, 1, 3, 2, 4), LSE(2, 3, 2, 1), PART(2, 1, 3, 2, 4)}, false},
    {"frames", &frames, 9,
     {PACKED(2, 5, 3, 2, 6), NO_GAINS, ABSENT, PART(2, 5, 3, 2, 6), LSE(2, 3, 2, 5), PART(2, 5, 3, 2, 6)}, false},
    {"sites, odd head, gradient of lse", &sites, 10,
     {PACKED(2, 3, 5, 2, 7), NO_GAINS, ABSENT, PART(2, 3, 5, 2, 7), LSE(2, 3, 2, 5), PART(2, 3, 5, 2, 7),
      LSE(2, 3, 2, 5)}, false},
    {"three tensors", &frames, 9,
     {PART(2, 4, 3, 2, 8), PART(2, 4, 3, 2, 8), PART(2, 4, 3, 2, 8), NO_GAINS, ABSENT, PART(2, 4, 3, 2, 8),
      LSE(2, 3, 2, 4), PART(2, 4, 3, 2, 8)}, false},
    {"rope and norms", &frames, 9,
     {PACKED(2, 4, 3, 2, 8), GAINS(8), POSITIONS(4), PART(2, 4, 3, 2, 8), LSE(2, 3, 2, 4), PART(2, 4, 3, 2, 8)}, false},
    {"rope and norms, sites", &sites, 9,
     {PACKED(2, 3, 4, 2, 8), GAINS(8), POSITIONS(4), PART(2, 3, 4, 2, 8), LSE(2, 3, 2, 4), PART(2, 3, 4, 2, 8)}, false},
    {"halves, norms, three tensors", &halves, 9,
     {PART(1, 5, 2, 3, 10), PART(1, 5, 2, 3, 10), PART(1, 5, 2, 3, 10), GAINS(10), POSITIONS(5),
      PART(1, 5, 2, 3, 10), LSE(1, 2, 3, 5), PART(1, 5, 2, 3, 10)}, false},
    {"swapped", &frames, 9,
     {SWAPPED(6, 2, 4, 3, 3, 2, 8), ABSENT, ABSENT, GAINS(8), POSITIONS(4), PART(2, 4, 3, 2, 8),
      LSE(2, 3, 2, 4), SWAPPED(5, 2, 4, 3, 2, 8)}, false},
    {"head of 72, 16 frames", &scaled, 9,
     {PACKED(1, 16, 3, 2, 72), GAINS(72), POSITIONS(16), PART(1, 16, 3, 2, 72), LSE(1, 3, 2, 16),
      PART(1, 16, 3, 2, 72)}, false},
    {"bench: 16 frames of 256 tokens, rope and norms", &scaled, 9,
     {PACKED(1, 16, 256, 16, 72), GAINS(72), POSITIONS(16), PART(1, 16, 256, 16, 72), LSE(1, 256, 16, 16),
      PART(1, 16, 256, 16, 72)}, true},
};
/* clang-format on */

const kin_op kin_op_self_attention_grad = {
    .name = "self_attention_grad",
    .summary = "dq, dk, dv of self_attention, packed if q, k, v are, and with gains theirs [2, D], "
               "from its inputs, o, lse, do, dlse",
    .flags = KIN_OP_COMPOSITE | KIN_OP_PRODUCT | KIN_OP_ROUNDS,
    .attrs_size = sizeof(kin_self_attention_attrs),
    .outputs = 4,
    .optional = 1u << KIN_SELF_K | 1u << KIN_SELF_V | 1u << KIN_SELF_Q_GAIN |
                1u << KIN_SELF_K_GAIN | 1u << KIN_SELF_POSITIONS | 1u << KIN_SELF_D_LSE,
    .infer = infer,
    .reference = reference,
    .lower = lower,
    .cost = cost,
    .cases = cases,
    .case_count = sizeof cases / sizeof *cases,
};
