/* What self_attention.c and self_attention_grad.c share. */
#ifndef KIN_OPS_SELF_ATTENTION_SHAPE_H
#define KIN_OPS_SELF_ATTENTION_SHAPE_H

#include "ops/attention_shape.h"
#include "ops/self_attention_attrs.h"
#include "runtime/op.h"

/* [B, T, S, (3,) H, D], and the same as batches of sequences: b1 is T or S, tokens the other. */
typedef struct self_shape {
    int64_t batch, frames, sites, heads, size, b1, tokens;
    bool packed, over_frames;
} self_shape;

self_shape self_shape_of(const kin_self_attention_attrs *attrs, const kin_desc *q);

/* Checks inputs KIN_SELF_Q .. KIN_SELF_POSITIONS and the attributes. */
kin_status self_check(kin_infer *infer);
/* True if input i is there. */
static inline bool self_has(int in_count, const kin_tensor *in, int i) {
    return i < in_count && in[i].id != 0;
}

/* ---- references: dense operands in double ---- */

typedef struct self_values {
    self_shape shape;
    const kin_self_attention_attrs *attrs;
    const double *part[3], *gain[2], *positions; /* gains and positions may be NULL */
} self_values;

self_values self_values_of(const kin_reference *call);
/* Element 0 of head h of token n of sequence (i0, i1), in a tensor like o, and in part 0, 1 or 2 of
 * q, k, v: from part[p], or from a gradient like it. */
int64_t self_token(const self_shape *s, int64_t i0, int64_t i1, int64_t n, int64_t h);
int64_t self_row(const self_shape *s, int part, int64_t i0, int64_t i1, int64_t n, int64_t h);
/* Row of q (part 0) or k (part 1), turned and normed, to out[D]: with the gain, or without; the
 * latter returns the factor of the norm, 1 / sqrt(mean(x^2) + eps). */
void self_prepare(const self_values *x, int part, const double *row, int64_t n, double *out);
double self_hat(const self_values *x, int part, const double *row, int64_t n, double *out);

/* ---- as simpler ops ---- */

/* q, k or v (part 0, 1, 2) of the inputs as [B, b1, N, H, D]: a view. */
kin_tensor self_part(kin_graph *graph, const self_shape *shape, const kin_tensor *in, int part);
/* The axes T and S of [B, T, S, H, D] swapped if attention goes over frames: a view. */
kin_tensor self_swap(kin_graph *graph, const self_shape *shape, kin_tensor x);
/* q or k as self_part gives it: turned, and then normed. Either may be no change. */
kin_tensor self_turn(kin_graph *graph, const kin_self_attention_attrs *attrs, kin_tensor x,
                     kin_tensor positions, bool back);
kin_tensor self_norm(kin_graph *graph, const kin_self_attention_attrs *attrs, kin_tensor x,
                     kin_tensor gain);

#endif
