/* Rotary position embedding. */
#ifndef KIN_OPS_ROPE_H
#define KIN_OPS_ROPE_H

#include "ops/rope_attrs.h"
#include "runtime/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Turns pairs of elements of each head of x [.., N, H, D] (rank 4 or 5) by angles that depend on
 * the token's position: angle i of a part of size P is position / scale * theta^(-2i / P),
 * i < P / 2, and (a, b) becomes (a cos - b sin, b cos + a sin). positions is f32 or an integer
 * type, [N] for one axis (P = D), [3, N] for three: the first third of the head turns by the first
 * row (t), and so on (y, x). Angles are formed in double.
 *
 * Su et al. 2021, arXiv:2104.09864. One axis, interleaved: Open-Sora 1.1; three axes, halves, and
 * bf16_table for weights that were trained with tables in bf16: Open-Sora-Plan 1.2. */
KIN_API kin_tensor kin_rope(kin_graph *graph, kin_tensor x, kin_tensor positions,
                            const kin_rope_attrs *attrs);
/* One axis, theta 10000, no scaling. */
KIN_API kin_rope_attrs kin_rope_defaults(void);

/* The op behind it, for ops/list.c. */
extern const struct kin_op kin_op_rope;

#ifdef __cplusplus
}
#endif
#endif
