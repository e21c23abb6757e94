/* attention_grad: the gradients of attention for q, k, v and, if asked for, the bias. */
#include <math.h>

#include "ops/attention.h"
#include "ops/attention_shape.h"
#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/matmul.h"
#include "ops/reduce.h"
#include "ops/views.h"

enum { Q, K, V, O, LSE, D_O, D_LSE, LENGTHS, BIAS, INPUTS };

static kin_status infer(kin_infer *infer) {
    const kin_attention_attrs *attrs = infer->attrs;
    kin_status status = kin_infer_inputs(infer, 6, INPUTS);
    if (status == KIN_OK) status = attention_check(infer, LENGTHS, BIAS);
    if (status == KIN_OK) status = kin_infer_same_shape(infer, Q, O);
    if (status == KIN_OK) status = kin_infer_same_shape(infer, Q, D_O);
    if (status == KIN_OK) status = kin_infer_float(infer, O);
    if (status == KIN_OK) status = kin_infer_float(infer, D_O);
    if (status == KIN_OK) status = kin_infer_dtype(infer, LSE, KIN_F32);
    if (status != KIN_OK) return status;
    const kin_desc *q = infer->in[Q];
    const attention_shape s = attention_shape_of(q, infer->in[K]);
    for (int i = LSE; i <= D_LSE && i < infer->in_count; i += D_LSE - LSE) {
        const kin_desc *x = infer->in[i];
        if (x == NULL) continue;
        if (x->dtype != KIN_F32 || x->rank != q->rank - 1 || x->dims[x->rank - 1] != s.queries ||
            kin_desc_count(x) != s.b0 * s.b1 * s.heads * s.queries)
            return kin_infer_fail(infer, "lse and its gradient must be f32 [.., H, Nq]");
    }
    for (int i = Q; i <= V; i++) kin_infer_like(infer, i, i, q->dtype);
    infer->out_count = 3;
    if (!attrs->bias_gradient) return KIN_OK;
    if (infer->in_count <= BIAS || infer->in[BIAS] == NULL)
        return kin_infer_fail(infer, "no bias whose gradient could be taken");
    kin_infer_like(infer, 3, BIAS, infer->in[BIAS]->dtype);
    infer->out_count = 4;
    return KIN_OK;
}

/* One query: p = exp(score) / 2^lse, ds = p (do . v - do . o + dlse log2(e)). */
static void reference_row(const kin_reference *call, const attention_values *x, int64_t i0,
                          int64_t i1, int64_t h, int64_t query) {
    const attention_shape *s = &x->shape;
    const int64_t row = attention_row(s, s->queries, i0, i1, query, h);
    const int64_t at = ((i0 * s->b1 + i1) * s->heads + h) * s->queries + query;
    const double *o = call->in[O] + row, *d_o = call->in[D_O] + row;
    double delta = 0;
    for (int64_t c = 0; c < s->size; c++) delta += o[c] * d_o[c];
    if (call->in_count > D_LSE && call->in[D_LSE] != NULL)
        delta -= call->in[D_LSE][at] * attention_log2_e;
    for (int64_t j = 0; j < attention_keys(x, i0); j++) {
        const int64_t key = attention_row(s, s->keys, i0, i1, j, h);
        const double score = attention_score(x, i0, i1, h, query, j);
        const double p = score == -INFINITY ? 0 : exp(score - call->in[LSE][at] / attention_log2_e);
        double ds = -delta;
        for (int64_t c = 0; c < s->size; c++) ds += d_o[c] * call->in[V][key + c];
        ds *= p;
        for (int64_t c = 0; c < s->size; c++) {
            call->out[0][row + c] += x->scale * ds * x->k[key + c];
            call->out[1][key + c] += x->scale * ds * x->q[row + c];
            call->out[2][key + c] += p * d_o[c];
        }
        if (call->out_count == 4)
            call->out[3][attention_bias_index(x->bias_desc, i0, i1, h, query, j)] += ds;
    }
}

static void reference(const kin_reference *call) {
    const kin_attention_attrs *attrs = call->attrs;
    attention_values x = {.shape = attention_shape_of(&call->in_desc[Q], &call->in_desc[K]),
                          .scale = attrs->scale,
                          .q = call->in[Q],
                          .k = call->in[K]};
    if (call->in_count > LENGTHS) x.lengths = call->in[LENGTHS];
    if (call->in_count > BIAS) {
        x.bias = call->in[BIAS];
        x.bias_desc = &call->in_desc[BIAS];
    }
    for (int i = 0; i < call->out_count; i++) {
        const int64_t count = kin_desc_count(&call->out_desc[i]);
        for (int64_t j = 0; j < count; j++) call->out[i][j] = 0;
    }
    const attention_shape *s = &x.shape;
    for (int64_t i0 = 0; i0 < s->b0; i0++)
        for (int64_t i1 = 0; i1 < s->b1; i1++)
            for (int64_t h = 0; h < s->heads; h++)
                for (int64_t i = 0; i < s->queries; i++) reference_row(call, &x, i0, i1, h, i);
}

/* [.., N, H] of token rows, or lse's [.., H, N], as [.., H, N, 1]. */
static kin_tensor as_column(kin_graph *graph, kin_tensor x, bool tokens_first) {
    int64_t dims[KIN_MAX_RANK] = {0};
    if (tokens_first) x = kin_transpose(graph, x, -2, -1);
    const kin_desc *desc = kin_tensor_desc(graph, x);
    const int rank = desc->rank + 1;
    for (int i = 0; i < desc->rank; i++) dims[i] = desc->dims[i];
    dims[rank - 1] = 1;
    return kin_reshape(graph, x, rank, dims);
}

static void lower(kin_lower_call *call) {
    kin_graph *g = call->graph;
    const kin_attention_attrs *attrs = call->attrs;
    const kin_dtype dtype = kin_dtype_of(g, call->in[Q]);
    const int rank = kin_rank(g, call->in[Q]);
    const float least = -1e30f;
    kin_tensor q = attention_heads_first(g, call->in[Q]), k = attention_heads_first(g, call->in[K]);
    kin_tensor v = attention_heads_first(g, call->in[V]);
    kin_tensor d_o = attention_heads_first(g, call->in[D_O]);
    kin_tensor bias = call->in_count > BIAS ? call->in[BIAS] : KIN_NONE;
    kin_tensor s = attention_scores(
        g, q, k, call->in_count > LENGTHS ? call->in[LENGTHS] : KIN_NONE, bias, attrs->scale);
    /* where no key took part lse is -infinity, and so are the scores: p must become 0 */
    kin_tensor lse = kin_maximum(g, as_column(g, call->in[LSE], false),
                                 kin_constant(g, KIN_F32, 0, NULL, &least));
    kin_tensor p = kin_exp(g, kin_sub(g, s, kin_scale(g, lse, 1 / attention_log2_e, 0)));
    kin_tensor both =
        kin_mul(g, kin_cast(g, call->in[O], KIN_F32), kin_cast(g, call->in[D_O], KIN_F32));
    kin_tensor delta = as_column(g, kin_sum(g, both, 1u << (rank - 1), false), true);
    if (call->in_count > D_LSE && call->in[D_LSE].id != 0)
        delta = kin_sub(g, delta,
                        kin_scale(g, as_column(g, call->in[D_LSE], false), attention_log2_e, 0));
    kin_tensor dp = kin_matmul(g, d_o, kin_transpose(g, v, -1, -2));
    kin_tensor ds = kin_mul(g, p, kin_sub(g, dp, delta));
    kin_tensor dq = kin_scale(g, kin_matmul(g, ds, k), attrs->scale, 0);
    kin_tensor dk = kin_scale(g, kin_matmul(g, kin_transpose(g, ds, -1, -2), q), attrs->scale, 0);
    kin_tensor dv = kin_matmul(g, kin_transpose(g, p, -1, -2), d_o);
    call->out[0] = attention_tokens_first(g, dq, dtype);
    call->out[1] = attention_tokens_first(g, dk, dtype);
    call->out[2] = attention_tokens_first(g, dv, dtype);
    if (call->out_count == 4) {
        const kin_desc desc = *kin_tensor_desc(g, bias);
        call->out[3] = kin_cast(g, kin_sum_to(g, ds, desc.rank, desc.dims), desc.dtype);
    }
}

static void cost(const kin_cost_call *call, kin_cost *cost) {
    const attention_shape s = attention_shape_of(&call->in[Q], &call->in[K]);
    const double scores = (double)(s.b0 * s.b1 * s.heads) * (double)s.queries * (double)s.keys;
    cost->flops = scores * (10.0 * (double)s.size + 6);
    cost->reduction = (double)(s.size + (s.keys > s.queries ? s.keys : s.queries));
    if (call->out_count == 4) {
        const double terms = scores / (double)kin_desc_count(&call->out[3]);
        if (terms > cost->reduction) cost->reduction = terms;
    }
}

static const kin_attention_attrs scale_72 = {.scale = 0.11785113019775792};
static const kin_attention_attrs scale_half = {.scale = 0.5};
static const kin_attention_attrs with_bias = {.scale = 0.5, .bias_gradient = 1};

/* clang-format off */
#define F32_OF(rank_, ...) {.dtype = KIN_F32, .rank = (rank_), .dims = {__VA_ARGS__}}
#define ABSENT {.rank = -1}
#define LSE_OF(...) \
    {.dtype = KIN_F32, .rank = 4, .dims = {__VA_ARGS__}, .fixed = true, .fill = KIN_FILL_POSITIVE, .scale = 3}
#define LENGTHS_OF(samples, most) \
    {.dtype = KIN_I32, .rank = 1, .dims = {samples}, .fill = KIN_FILL_LENGTH, .limit = (most), .fixed = true, .constant = true}
/* q, k, v, o, lse, do of [b0, b1, n or m, h, d] */
#define OPERANDS(b0, b1, n, m, h, d)                                                               \
    F32_OF(5, b0, b1, n, h, d), F32_OF(5, b0, b1, m, h, d), F32_OF(5, b0, b1, m, h, d),            \
        F32_OF(5, b0, b1, n, h, d), LSE_OF(b0, b1, h, n), F32_OF(5, b0, b1, n, h, d)

static const kin_case cases[] = {
    {"one key", &scale_half, 6, {OPERANDS(2, 1, 3, 1, 2, 4)}, false},
    {"one query, odd head", &scale_half, 6, {OPERANDS(1, 2, 1, 7, 3, 5)}, false},
    {"lengths, with 0 and all", &scale_half, 8,
     {OPERANDS(3, 1, 5, 6, 2, 8), ABSENT, LENGTHS_OF(3, 6)}, false},
    {"gradient of lse", &scale_half, 7, {OPERANDS(2, 2, 5, 4, 2, 3), LSE_OF(2, 2, 2, 5)}, false},
    {"bias of every score", &with_bias, 9,
     {OPERANDS(2, 1, 4, 5, 2, 6), ABSENT, ABSENT, F32_OF(5, 2, 1, 2, 4, 5)}, false},
    {"bias of heads, lengths", &with_bias, 9,
     {OPERANDS(2, 2, 4, 5, 2, 3), ABSENT, LENGTHS_OF(2, 5), F32_OF(5, 1, 1, 2, 4, 5)}, false},
    {"bias of keys", &with_bias, 9,
     {OPERANDS(2, 1, 3, 6, 2, 4), ABSENT, ABSENT, F32_OF(5, 2, 1, 1, 1, 6)}, false},
    {"bias without a gradient", &scale_half, 9,
     {OPERANDS(2, 1, 3, 6, 2, 4), ABSENT, ABSENT, F32_OF(5, 1, 1, 1, 3, 1)}, false},
    {"head of 72", &scale_72, 6, {OPERANDS(1, 1, 17, 33, 2, 72)}, false},
    {"more than a tile", &scale_half, 6, {OPERANDS(1, 1, 150, 140, 1, 16)}, false},
    {"bench: spatial, 16 frames of 256 tokens", &scale_72, 6, {OPERANDS(1, 16, 256, 256, 16, 72)}, true},
};
/* clang-format on */

const kin_op kin_op_attention_grad = {
    .name = "attention_grad",
    .summary = "dq, dk, dv and, with bias_gradient, dbias of attention from q, k, v, o, lse, do, "
               "dlse, lengths, bias",
    .flags = KIN_OP_COMPOSITE | KIN_OP_PRODUCT,
    .attrs_size = sizeof(kin_attention_attrs),
    .outputs = 4,
    .optional = 1u << D_LSE | 1u << LENGTHS | 1u << BIAS,
    .infer = infer,
    .reference = reference,
    .lower = lower,
    .cost = cost,
    .cases = cases,
    .case_count = sizeof cases / sizeof *cases,
};
