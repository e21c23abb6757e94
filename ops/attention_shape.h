/* What attention.c and attention_grad.c share: shapes, and the scores as simpler ops. */
#ifndef KIN_OPS_ATTENTION_SHAPE_H
#define KIN_OPS_ATTENTION_SHAPE_H

#include "ops/attention_attrs.h"
#include "runtime/op.h"

/* lse counts in powers of 2, as the kernels do inside: a sum that is stored in f32 and then
 * converted back loses digits where scores are large (a mask of -10000 on every key). */
static const double attention_log2_e = 1.4426950408889634;

typedef struct attention_shape {
    int64_t b0, b1, heads, queries, keys, size; /* b1 is 1 where there is no such axis */
} attention_shape;

static inline attention_shape attention_shape_of(const kin_desc *q, const kin_desc *k) {
    const int64_t *tail = q->dims + q->rank - 3;
    const attention_shape shape = {q->dims[0], q->rank == 5 ? q->dims[1] : 1, tail[1],
                                   tail[0],    k->dims[k->rank - 3],          tail[2]};
    return shape;
}

/* What a score is made of, dense and in double, for the references. */
typedef struct attention_values {
    attention_shape shape;
    double scale;
    const double *q, *k, *lengths, *bias; /* the last two may be NULL */
    const kin_desc *bias_desc;
} attention_values;

/* Element 0 of row (i0, i1, n, h) of [B0, B1, N, H, D]. */
static inline int64_t attention_row(const attention_shape *s, int64_t tokens, int64_t i0,
                                    int64_t i1, int64_t n, int64_t h) {
    return (((i0 * s->b1 + i1) * tokens + n) * s->heads + h) * s->size;
}

/* Keys of sample i0 that take part. */
int64_t attention_keys(const attention_values *x, int64_t i0);
/* scale q k + bias. */
double attention_score(const attention_values *x, int64_t i0, int64_t i1, int64_t h, int64_t query,
                       int64_t key);
/* Position of the bias of a score in a dense bias whose axes of size 1 repeat. */
int64_t attention_bias_index(const kin_desc *bias, int64_t i0, int64_t i1, int64_t h, int64_t query,
                             int64_t key);

/* Checks q, k, v (inputs 0, 1, 2), lengths and bias (inputs at the given places, if they are
 * there). */
kin_status attention_check(kin_infer *infer, int lengths, int bias);

/* x in f32 with the axes of tokens and heads swapped: [.., H, N, D]. */
kin_tensor attention_heads_first(kin_graph *graph, kin_tensor x);
/* Scores [.., H, Nq, Nk] in f32 of operands from attention_heads_first, -infinity where a key takes
 * no part. lengths and bias may be KIN_NONE. */
kin_tensor attention_scores(kin_graph *graph, kin_tensor q, kin_tensor k, kin_tensor lengths,
                            kin_tensor bias, double scale);
/* Back to [.., N, H, D], dense, in a dtype. */
kin_tensor attention_tokens_first(kin_graph *graph, kin_tensor x, kin_dtype dtype);

#endif
