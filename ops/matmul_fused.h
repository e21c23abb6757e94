/* Products with what is done to their results: what planning makes of a product and the
 * element-wise nodes behind it, where the device has a kernel for both. Models call kin_linear and
 * kin_matmul. */
#ifndef KIN_OPS_MATMUL_FUSED_H
#define KIN_OPS_MATMUL_FUSED_H

#include "ops/product_attrs.h"
#include "runtime/op.h"

#ifdef __cplusplus
extern "C" {
#endif

/* residual + gate * activation(x w^T + bias), which is rounded once, to the result's dtype (attrs).
 * x, w and bias as for kin_linear. residual is KIN_NONE or has the result's elements: its number of
 * rows and their length, in any shape of that last axis, which is the result's shape then, too.
 * gate is KIN_NONE or can be broadcast to that shape, and goes with a residual. Both are f32, f16
 * or bf16.
 */
KIN_API kin_tensor kin_linear_fused(kin_graph *graph, kin_tensor x, kin_tensor w, kin_tensor bias,
                                    kin_tensor residual, kin_tensor gate,
                                    const kin_product_attrs *attrs);
/* The same of a b, as kin_matmul multiplies them. */
KIN_API kin_tensor kin_matmul_fused(kin_graph *graph, kin_tensor a, kin_tensor b,
                                    kin_tensor residual, kin_tensor gate,
                                    const kin_product_attrs *attrs);

/* kin_op.absorb of matmul, linear and the two here: an activation, a sum with a tensor of the same
 * shape, gated_add, and a cast. */
bool kin_product_absorb(kin_absorb_call *call);

/* The ops behind them, for ops/list.c. */
extern const kin_op kin_op_linear_fused;
extern const kin_op kin_op_matmul_fused;

#ifdef __cplusplus
}
#endif
#endif
