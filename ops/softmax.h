/* Softmax over the last axis. */
#ifndef KIN_OPS_SOFTMAX_H
#define KIN_OPS_SOFTMAX_H

#include "runtime/op.h"

#ifdef __cplusplus
extern "C" {
#endif

extern const kin_op kin_op_softmax;
extern const kin_op kin_op_softmax_grad;

/* exp(x - max) / sum(exp(x - max)) over the last axis. -inf gives 0; a row of nothing but -inf
 * gives NaN. */
KIN_API kin_tensor kin_softmax(kin_graph *graph, kin_tensor x);

#ifdef __cplusplus
}
#endif
#endif
