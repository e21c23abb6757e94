/* Self-attention from the projections to where its result is wanted, with what models do to q and k
 * on the way. */
#ifndef KIN_OPS_SELF_ATTENTION_H
#define KIN_OPS_SELF_ATTENTION_H

#include "ops/self_attention_attrs.h"
#include "runtime/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What happens to q and k before their products: rope first, then the norm. */
typedef struct kin_self_attention_options {
    double scale;              /* of the scores, D^-0.5 as a rule */
    bool over_frames;          /* tokens see those of their site in all frames (axis T), not
                                  those of their frame (axis S) */
    kin_tensor positions;      /* of the tokens of a sequence, as kin_rope takes them; or
                                  KIN_NONE: no rope */
    kin_rope_attrs rope;       /* read if there are positions */
    kin_tensor q_gain, k_gain; /* [D], of one dtype: x / sqrt(mean(x^2) + eps) * gain over each
                                  head of q and k; or KIN_NONE, both */
    double eps;
} kin_self_attention_options;

/* qkv [B, T, S, 3, H, D], the packed product of tokens [B, T, S, C], gives [B, T, S, H, D], dense:
 * T frames of S tokens, H heads of at most 1024 elements. Its gradient is packed like it and dense,
 * so that neither way needs a copy, a permutation or a concatenation. Backward, q and k are turned
 * and normed again; nothing is kept of them but qkv. */
KIN_API kin_tensor kin_self_attention_packed(kin_graph *graph, kin_tensor qkv,
                                             const kin_self_attention_options *options);
/* The same of three tensors [B, T, S, H, D]. */
KIN_API kin_tensor kin_self_attention(kin_graph *graph, kin_tensor q, kin_tensor k, kin_tensor v,
                                      const kin_self_attention_options *options);

/* The ops behind them, for ops/list.c. */
extern const struct kin_op kin_op_self_attention;
extern const struct kin_op kin_op_self_attention_grad;

#ifdef __cplusplus
}
#endif
#endif
