/* Adaptive layer norm's modulation and gate: DiT (arXiv:2212.09748), section 3.2. */
#ifndef KIN_OPS_MODULATE_H
#define KIN_OPS_MODULATE_H

#include "runtime/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* x * (1 + scale) + shift. x [B, N, C]; shift and scale [B or 1, 1, C], or any shape that can be
 * broadcast to that of x; views of any strides are read without a copy. */
KIN_API kin_tensor kin_modulate(kin_graph *graph, kin_tensor x, kin_tensor shift, kin_tensor scale);
/* x + gate * y. x and y [B, N, C], of one shape; gate [B or 1, 1, C], or any shape that can be
 * broadcast to that of x. */
KIN_API kin_tensor kin_gated_add(kin_graph *graph, kin_tensor x, kin_tensor gate, kin_tensor y);

/* The ops behind them, for ops/list.c. */
extern const struct kin_op kin_op_modulate;
extern const struct kin_op kin_op_gated_add;

#ifdef __cplusplus
}
#endif
#endif
