/* attention: softmax(scale q k^T + bias) v. Its gradient is attention_grad.c. */
#include "ops/attention.h"

#include <math.h>

#include "ops/attention_shape.h"
#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/matmul.h"
#include "ops/reduce.h"
#include "ops/views.h"

enum { Q, K, V, LENGTHS, BIAS, INPUTS };

kin_status attention_check(kin_infer *infer, int lengths, int bias) {
    kin_status status = kin_infer_rank(infer, Q, 4, 5);
    for (int i = Q; i <= V && status == KIN_OK; i++) status = kin_infer_float(infer, i);
    if (status != KIN_OK) return status;
    const kin_desc *q = infer->in[Q], *k = infer->in[K];
    status = kin_infer_rank(infer, K, q->rank, q->rank);
    if (status == KIN_OK) status = kin_infer_same_shape(infer, K, V);
    if (status != KIN_OK) return status;
    if (q->dtype != k->dtype || q->dtype != infer->in[V]->dtype)
        return kin_infer_fail(infer, "q, k and v must have the same dtype");
    for (int i = 0; i < q->rank; i++) {
        if (i != q->rank - 3 && q->dims[i] != k->dims[i])
            return kin_infer_fail(infer, "q and k differ in axis %d; only the tokens may", i);
        if (q->dims[i] < 1 || k->dims[i] < 1) return kin_infer_fail(infer, "axis %d is empty", i);
    }
    if (lengths < infer->in_count && infer->in[lengths] != NULL) {
        const kin_desc *x = infer->in[lengths];
        if (x->dtype != KIN_I32 || x->rank != 1 || x->dims[0] != q->dims[0])
            return kin_infer_fail(infer, "lengths must be i32 [%lld]", (long long)q->dims[0]);
    }
    if (bias < infer->in_count && infer->in[bias] != NULL) {
        const attention_shape s = attention_shape_of(q, k);
        const int64_t full5[5] = {s.b0, s.b1, s.heads, s.queries, s.keys};
        const int64_t full4[4] = {s.b0, s.heads, s.queries, s.keys};
        const int64_t *full = q->rank == 5 ? full5 : full4;
        const kin_desc *x = infer->in[bias];
        status = kin_infer_rank(infer, bias, q->rank, q->rank);
        if (status == KIN_OK) status = kin_infer_float(infer, bias);
        for (int i = 0; i < x->rank && status == KIN_OK; i++)
            if (x->dims[i] != 1 && x->dims[i] != full[i])
                status = kin_infer_fail(infer, "axis %d of the bias must be 1 or %lld", i,
                                        (long long)full[i]);
    }
    return status;
}

static kin_status infer(kin_infer *infer) {
    kin_status status = kin_infer_inputs(infer, 3, INPUTS);
    if (status == KIN_OK) status = attention_check(infer, LENGTHS, BIAS);
    if (status != KIN_OK) return status;
    const kin_desc *q = infer->in[Q];
    const attention_shape s = attention_shape_of(q, infer->in[K]);
    const int64_t rows5[4] = {s.b0, s.b1, s.heads, s.queries};
    const int64_t rows4[3] = {s.b0, s.heads, s.queries};
    kin_infer_like(infer, 0, Q, q->dtype);
    infer->out[1] = kin_desc_dense(KIN_F32, q->rank - 1, q->rank == 5 ? rows5 : rows4);
    return KIN_OK;
}

int64_t attention_keys(const attention_values *x, int64_t i0) {
    if (x->lengths == NULL || x->lengths[i0] >= (double)x->shape.keys) return x->shape.keys;
    return x->lengths[i0] < 0 ? 0 : (int64_t)x->lengths[i0];
}

int64_t attention_bias_index(const kin_desc *bias, int64_t i0, int64_t i1, int64_t h, int64_t query,
                             int64_t key) {
    const int64_t at5[5] = {i0, i1, h, query, key}, at4[4] = {i0, h, query, key};
    const int64_t *at = bias->rank == 5 ? at5 : at4;
    int64_t index = 0;
    for (int i = 0; i < bias->rank; i++)
        index = index * bias->dims[i] + (bias->dims[i] == 1 ? 0 : at[i]);
    return index;
}

double attention_score(const attention_values *x, int64_t i0, int64_t i1, int64_t h, int64_t query,
                       int64_t key) {
    const attention_shape *s = &x->shape;
    const double *q = x->q + attention_row(s, s->queries, i0, i1, query, h);
    const double *k = x->k + attention_row(s, s->keys, i0, i1, key, h);
    double sum = 0;
    for (int64_t c = 0; c < s->size; c++) sum += q[c] * k[c];
    sum *= x->scale;
    if (x->bias != NULL) sum += x->bias[attention_bias_index(x->bias_desc, i0, i1, h, query, key)];
    return sum;
}

/* One query: o is rescaled whenever the largest score so far grows, so that scores need no room. */
static double reference_row(const attention_values *x, const double *v, int64_t i0, int64_t i1,
                            int64_t h, int64_t query, double *o) {
    const attention_shape *s = &x->shape;
    double top = -INFINITY, total = 0;
    for (int64_t c = 0; c < s->size; c++) o[c] = 0;
    for (int64_t j = 0; j < attention_keys(x, i0); j++) {
        const double score = attention_score(x, i0, i1, h, query, j);
        const double *value = v + attention_row(s, s->keys, i0, i1, j, h);
        if (score == -INFINITY) continue;
        if (score > top) {
            for (int64_t c = 0; c < s->size; c++) o[c] *= exp(top - score);
            total *= exp(top - score);
            top = score;
        }
        const double weight = exp(score - top);
        total += weight;
        for (int64_t c = 0; c < s->size; c++) o[c] += weight * value[c];
    }
    for (int64_t c = 0; c < s->size && total > 0; c++) o[c] /= total;
    return total > 0 ? (top + log(total)) * attention_log2_e : -INFINITY;
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
    const attention_shape *s = &x.shape;
    double *lse = call->out[1];
    for (int64_t i0 = 0; i0 < s->b0; i0++)
        for (int64_t i1 = 0; i1 < s->b1; i1++)
            for (int64_t h = 0; h < s->heads; h++)
                for (int64_t i = 0; i < s->queries; i++)
                    *lse++ =
                        reference_row(&x, call->in[V], i0, i1, h, i,
                                      call->out[0] + attention_row(s, s->queries, i0, i1, i, h));
}

static void gradient(kin_gradient_call *call) {
    kin_graph *g = call->graph;
    kin_attention_attrs attrs = *(const kin_attention_attrs *)call->attrs;
    const kin_tensor lengths = call->in_count > LENGTHS ? call->in[LENGTHS] : KIN_NONE;
    const kin_tensor bias = call->in_count > BIAS ? call->in[BIAS] : KIN_NONE;
    kin_tensor d_o = call->out_grad[0];
    attrs.bias_gradient = bias.id != 0 && call->wanted[BIAS];
    if (d_o.id == 0) {
        const kin_desc o = *kin_tensor_desc(g, call->out[0]);
        d_o = kin_fill(g, o.dtype, o.rank, o.dims, 0);
    }
    const kin_tensor inputs[] = {call->in[Q],       call->in[K],  call->in[V],
                                 call->out[0],      call->out[1], d_o,
                                 call->out_grad[1], lengths,      bias};
    kin_tensor out[4] = {KIN_NONE, KIN_NONE, KIN_NONE, KIN_NONE};
    kin_append(g, &kin_op_attention_grad, &attrs, inputs, 9, out);
    for (int i = Q; i <= V; i++) call->in_grad[i] = out[i];
    if (attrs.bias_gradient) call->in_grad[BIAS] = out[3];
    if (kin_dim(g, call->in[K], -3) > 1 || call->out_grad[1].id != 0) return;
    /* The softmax over one key is 1 whatever its score: exactly no gradient, not one of rounding.
     */
    const int constant[] = {Q, K, BIAS};
    for (int i = 0; i < 3; i++) {
        const int input = constant[i];
        if (input >= call->in_count || call->in_grad[input].id == 0) continue;
        const kin_desc desc = *kin_tensor_desc(g, call->in[input]);
        call->in_grad[input] = kin_fill(g, desc.dtype, desc.rank, desc.dims, 0);
    }
}

kin_tensor attention_heads_first(kin_graph *graph, kin_tensor x) {
    return kin_transpose(graph, kin_cast(graph, x, KIN_F32), -3, -2);
}

kin_tensor attention_tokens_first(kin_graph *graph, kin_tensor x, kin_dtype dtype) {
    kin_tensor y = kin_copy(graph, kin_transpose(graph, x, -3, -2));
    return kin_cast(graph, y, dtype);
}

static kin_tensor scalar(kin_graph *graph, float value) {
    return kin_constant(graph, KIN_F32, 0, NULL, &value);
}

/* 1 for the keys that take part, else 0: [B0, 1, .., 1, Nk]. */
static kin_tensor key_mask(kin_graph *graph, kin_tensor lengths, int rank, int64_t keys) {
    kin_context *context = kin_graph_context(graph);
    int64_t dims[5] = {kin_dim(graph, lengths, 0), 1, 1, 1, 1};
    float *numbers = kin_alloc(context, (size_t)keys * sizeof *numbers);
    if (numbers == NULL)
        return kin_graph_fail(graph, KIN_OUT_OF_MEMORY, "%s", kin_context_error(context));
    for (int64_t i = 0; i < keys; i++) numbers[i] = (float)i;
    kin_tensor index = kin_constant(graph, KIN_F32, 1, &keys, numbers);
    kin_free(context, numbers);
    kin_tensor ends = kin_reshape(graph, kin_cast(graph, lengths, KIN_F32), rank, dims);
    return kin_less(graph, index, ends);
}

kin_tensor attention_scores(kin_graph *graph, kin_tensor q, kin_tensor k, kin_tensor lengths,
                            kin_tensor bias, double scale) {
    kin_tensor s = kin_matmul(graph, q, kin_transpose(graph, k, -1, -2));
    s = kin_scale(graph, s, scale, 0);
    if (bias.id != 0) s = kin_add(graph, s, kin_cast(graph, bias, KIN_F32));
    if (lengths.id == 0) return s;
    kin_tensor mask = key_mask(graph, lengths, kin_rank(graph, s), kin_dim(graph, s, -1));
    return kin_where(graph, mask, s, scalar(graph, -INFINITY));
}

/* Not the op softmax: that gives NaN where no key takes part. */
static void lower(kin_lower_call *call) {
    kin_graph *g = call->graph;
    const kin_attention_attrs *attrs = call->attrs;
    kin_tensor q = attention_heads_first(g, call->in[Q]);
    kin_tensor k = attention_heads_first(g, call->in[K]);
    kin_tensor v = attention_heads_first(g, call->in[V]);
    kin_tensor s =
        attention_scores(g, q, k, call->in_count > LENGTHS ? call->in[LENGTHS] : KIN_NONE,
                         call->in_count > BIAS ? call->in[BIAS] : KIN_NONE, attrs->scale);
    const int rank = kin_rank(g, s);
    const uint32_t last = 1u << (rank - 1);
    kin_tensor top = kin_maximum(g, kin_max(g, s, last, true), scalar(g, -1e30f));
    kin_tensor e = kin_exp(g, kin_sub(g, s, top));
    kin_tensor total = kin_sum(g, e, last, true);
    kin_tensor o = kin_div(g, kin_matmul(g, e, v), kin_maximum(g, total, scalar(g, 1e-30f)));
    call->out[0] = attention_tokens_first(g, o, kin_dtype_of(g, call->in[Q]));
    kin_tensor lse = kin_scale(g, kin_add(g, top, kin_ln(g, total)), attention_log2_e, 0);
    call->out[1] = kin_reshape(g, lse, rank - 1, kin_tensor_desc(g, lse)->dims);
}

static void cost(const kin_cost_call *call, kin_cost *cost) {
    const attention_shape s = attention_shape_of(&call->in[Q], &call->in[K]);
    const double scores = (double)(s.b0 * s.b1 * s.heads) * (double)s.queries * (double)s.keys;
    cost->flops = scores * (4.0 * (double)s.size + 5);
    cost->reduction = (double)(s.size + s.keys);
}

static const kin_attention_attrs scale_72 = {.scale = 0.11785113019775792};
static const kin_attention_attrs scale_half = {.scale = 0.5};
static const kin_attention_attrs scale_one = {.scale = 1};

/* clang-format off */
#define F32_OF(rank_, ...) {.dtype = KIN_F32, .rank = (rank_), .dims = {__VA_ARGS__}}
#define VIEW_OF(kind, ...) {.dtype = KIN_F32, .rank = 5, .dims = {__VA_ARGS__}, .layout = (kind)}
#define LENGTHS_OF(samples, most) \
    {.dtype = KIN_I32, .rank = 1, .dims = {samples}, .fill = KIN_FILL_LENGTH, .limit = (most), \
     .fixed = true, .constant = true}
#define ABSENT {.rank = -1}
/* q, k, v of [b0, b1, n or m, h, d] */
#define OPERANDS(b0, b1, n, m, h, d) \
    F32_OF(5, b0, b1, n, h, d), F32_OF(5, b0, b1, m, h, d), F32_OF(5, b0, b1, m, h, d)

static const kin_case cases[] = {
    {"one key", &scale_half, 3, {OPERANDS(2, 1, 3, 1, 2, 4)}, false},
    {"one query, odd head", &scale_half, 3, {OPERANDS(1, 2, 1, 7, 3, 5)}, false},
    {"head of 1", &scale_one, 3, {OPERANDS(1, 1, 3, 3, 1, 1)}, false},
    {"lengths, with 0 and all", &scale_half, 4,
     {OPERANDS(3, 1, 5, 6, 2, 8), LENGTHS_OF(3, 6)}, false},
    {"no axis B1, bias of every score", &scale_one, 5,
     {F32_OF(4, 2, 4, 2, 6), F32_OF(4, 2, 5, 2, 6), F32_OF(4, 2, 5, 2, 6), ABSENT,
      F32_OF(4, 2, 2, 4, 5)}, false},
    {"bias of heads, lengths", &scale_half, 5,
     {OPERANDS(2, 2, 4, 5, 2, 3), LENGTHS_OF(2, 5), F32_OF(5, 1, 1, 2, 4, 5)}, false},
    {"bias of keys", &scale_half, 5,
     {OPERANDS(2, 1, 3, 6, 2, 4), ABSENT, F32_OF(5, 2, 1, 1, 1, 6)}, false},
    {"views", &scale_72, 3,
     {VIEW_OF(KIN_LAYOUT_TRANSPOSED, 2, 3, 4, 2, 8), VIEW_OF(KIN_LAYOUT_PADDED, 2, 3, 4, 2, 8),
      VIEW_OF(KIN_LAYOUT_TRANSPOSED, 2, 3, 4, 2, 8)}, false},
    {"head of 72", &scale_72, 3, {OPERANDS(1, 1, 17, 33, 2, 72)}, false},
    {"more than a tile", &scale_half, 3, {OPERANDS(1, 1, 70, 300, 1, 16)}, false},
    {"bench: spatial, 16 frames of 256 tokens", &scale_72, 3,
     {OPERANDS(1, 16, 256, 256, 16, 72)}, true},
    {"bench: temporal, 16 frames of 256 tokens", &scale_72, 3,
     {OPERANDS(1, 256, 16, 16, 16, 72)}, true},
};
/* clang-format on */

kin_tensor kin_attention(kin_graph *graph, kin_tensor q, kin_tensor k, kin_tensor v,
                         kin_tensor lengths, kin_tensor bias, double scale) {
    const kin_attention_attrs attrs = {.scale = scale};
    const int rank = kin_rank(graph, q);
    if (bias.id != 0 && kin_rank(graph, bias) == 3 && rank >= 4 && rank <= 5) {
        int64_t dims[5] = {1, 1, 1, 1, 1};
        for (int i = 0; i < 3; i++) dims[rank - 3 + i] = kin_dim(graph, bias, i);
        bias = kin_reshape(graph, bias, rank, dims);
    }
    const kin_tensor inputs[INPUTS] = {q, k, v, lengths, bias};
    kin_tensor out[2] = {KIN_NONE, KIN_NONE};
    kin_append(graph, &kin_op_attention, &attrs, inputs, INPUTS, out);
    return out[0];
}

const kin_op kin_op_attention = {
    .name = "attention",
    .summary =
        "o = softmax(scale q k^T + bias) v, and lse = log2 sum exp of the scores; keys up to "
        "lengths[sample] (Vaswani et al. 2017, arXiv:1706.03762)",
    .flags = KIN_OP_COMPOSITE | KIN_OP_PRODUCT,
    .attrs_size = sizeof(kin_attention_attrs),
    .outputs = 2,
    .optional = 1u << LENGTHS | 1u << BIAS,
    .infer = infer,
    .reference = reference,
    .gradient = gradient,
    .lower = lower,
    .cost = cost,
    .cases = cases,
    .case_count = sizeof cases / sizeof *cases,
};
