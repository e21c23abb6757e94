/* Attention: softmax(scale q k^T + bias) v. */
#ifndef KIN_OPS_ATTENTION_H
#define KIN_OPS_ATTENTION_H

#include "ops/attention_attrs.h"
#include "runtime/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* q [B0, B1, Nq, H, D] with k and v [B0, B1, Nk, H, D] gives [B0, B1, Nq, H, D]; or all without the
 * axis B1. They may be views: the parts of a packed qkv [.., N, 3, H, D], or tokens [B, T, S, H, D]
 * permuted to [B, S, T, H, D] for attention over frames, are read where they lie as long as the
 * elements of a head are adjacent.
 *
 * lengths: i32 [B0], or KIN_NONE: in sample i only the first lengths[i] keys take part (values
 * outside 0 .. Nk are cut to it). bias: added to the scores, [B0, B1, H, Nq, Nk] (without B1 if q
 * has none) with any of its axes 1, or [H, Nq, Nk], or KIN_NONE. A query for which no key takes
 * part, because the length is 0 or its biases are all -infinity, gives 0.
 *
 * Products accumulate in f32. Vaswani et al. 2017, arXiv:1706.03762; computed without the matrix of
 * scores after Dao et al. 2022, arXiv:2205.14135. */
KIN_API kin_tensor kin_attention(kin_graph *graph, kin_tensor q, kin_tensor k, kin_tensor v,
                                 kin_tensor lengths, kin_tensor bias, double scale);

/* The ops behind it, for ops/list.c. */
extern const struct kin_op kin_op_attention;
extern const struct kin_op kin_op_attention_grad;

#ifdef __cplusplus
}
#endif
#endif
