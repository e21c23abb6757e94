/* Padding along any axes. */
#ifndef KIN_OPS_PAD_H
#define KIN_OPS_PAD_H

#include "runtime/graph.h"
#include "ops/pad_attrs.h"

#ifdef __cplusplus
extern "C" {
#endif

/* x with zeros around it: before[a] in front of axis a, after[a] behind; one entry per axis, both
 * at least 0. */
KIN_API kin_tensor kin_pad(kin_graph *graph, kin_tensor x, const int64_t *before,
                           const int64_t *after);
/* x with its outermost elements repeated. */
KIN_API kin_tensor kin_pad_replicate(kin_graph *graph, kin_tensor x, const int64_t *before,
                                     const int64_t *after);

/* The ops behind them, for ops/list.c. pad_grad is the transpose of pad. */
extern const struct kin_op kin_op_pad;
extern const struct kin_op kin_op_pad_grad;

#ifdef __cplusplus
}
#endif
#endif
