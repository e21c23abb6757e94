/* Matrix products. They accumulate in f32; the result has the dtype of the first operand. */
#ifndef KIN_OPS_MATMUL_H
#define KIN_OPS_MATMUL_H

#include "runtime/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* a [..., M, K] times b [..., K, N] gives [..., M, N]; leading axes broadcast. Operands are f32,
 * f16 or bf16 (b also Q8_0); transposed operands are views (kin_transpose), read without a copy. */
KIN_API kin_tensor kin_matmul(kin_graph *graph, kin_tensor a, kin_tensor b);
/* x [..., K] times w [N, K] transposed, plus bias [N] (or KIN_NONE) gives [..., N]: PyTorch's
 * nn.Linear. w is f32, f16, bf16 or Q8_0. */
KIN_API kin_tensor kin_linear(kin_graph *graph, kin_tensor x, kin_tensor w, kin_tensor bias);

/* The ops behind them, for ops/list.c. */
extern const struct kin_op kin_op_matmul;
extern const struct kin_op kin_op_linear;

#ifdef __cplusplus
}
#endif
#endif
