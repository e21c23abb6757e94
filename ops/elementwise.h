/* Element-wise ops. Operands are f32, f16 or bf16, and of one dtype; views of any strides are read
 * without a copy. The functions are defined in elementwise_expr.h. */
#ifndef KIN_OPS_ELEMENTWISE_H
#define KIN_OPS_ELEMENTWISE_H

#include "runtime/graph.h"
#include "ops/elementwise_attrs.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Of one operand; the result has its shape. */
KIN_API kin_tensor kin_neg(kin_graph *graph, kin_tensor x);
KIN_API kin_tensor kin_exp(kin_graph *graph, kin_tensor x);
KIN_API kin_tensor kin_ln(kin_graph *graph,
                          kin_tensor x); /* op "log"; kin_log is the log callback */
KIN_API kin_tensor kin_sqrt(kin_graph *graph, kin_tensor x);
KIN_API kin_tensor kin_rsqrt(kin_graph *graph, kin_tensor x); /* 1 / sqrt(x) */
KIN_API kin_tensor kin_square(kin_graph *graph, kin_tensor x);
KIN_API kin_tensor kin_abs(kin_graph *graph, kin_tensor x);
KIN_API kin_tensor kin_sin(kin_graph *graph, kin_tensor x);
KIN_API kin_tensor kin_cos(kin_graph *graph, kin_tensor x);
KIN_API kin_tensor kin_tanh(kin_graph *graph, kin_tensor x);
KIN_API kin_tensor kin_sigmoid(kin_graph *graph, kin_tensor x);
KIN_API kin_tensor kin_relu(kin_graph *graph, kin_tensor x);
KIN_API kin_tensor kin_silu(kin_graph *graph, kin_tensor x);      /* x * sigmoid(x) */
KIN_API kin_tensor kin_gelu(kin_graph *graph, kin_tensor x);      /* by erf */
KIN_API kin_tensor kin_gelu_tanh(kin_graph *graph, kin_tensor x); /* PyTorch's approximate='tanh' */
KIN_API kin_tensor kin_clamp(kin_graph *graph, kin_tensor x, double low, double high);
/* a * x + b */
KIN_API kin_tensor kin_scale(kin_graph *graph, kin_tensor x, double a, double b);

/* Of two operands, with numpy's broadcasting: axes are aligned at the end, and axes of size 1 or
 * missing leading axes repeat. */
KIN_API kin_tensor kin_add(kin_graph *graph, kin_tensor a, kin_tensor b);
KIN_API kin_tensor kin_sub(kin_graph *graph, kin_tensor a, kin_tensor b);
KIN_API kin_tensor kin_mul(kin_graph *graph, kin_tensor a, kin_tensor b);
KIN_API kin_tensor kin_div(kin_graph *graph, kin_tensor a, kin_tensor b);
KIN_API kin_tensor kin_maximum(kin_graph *graph, kin_tensor a, kin_tensor b);
KIN_API kin_tensor kin_minimum(kin_graph *graph, kin_tensor a, kin_tensor b);
/* 1 where true, else 0, in the operands' dtype; no gradient. */
KIN_API kin_tensor kin_less(kin_graph *graph, kin_tensor a, kin_tensor b);
KIN_API kin_tensor kin_greater(kin_graph *graph, kin_tensor a, kin_tensor b);
/* gelu_tanh(a) * b, the gate of T5's feed-forward layers; a and b of one shape. */
KIN_API kin_tensor kin_gated_gelu(kin_graph *graph, kin_tensor a, kin_tensor b);

/* a where condition is not 0, else b, with broadcasting. condition is f32, f16, bf16, i32, u8 or
 * bool, and has no gradient. */
KIN_API kin_tensor kin_where(kin_graph *graph, kin_tensor condition, kin_tensor a, kin_tensor b);

/* The ops behind them, for ops/list.c. */
extern const struct kin_op kin_op_neg;
extern const struct kin_op kin_op_scale;
extern const struct kin_op kin_op_exp;
extern const struct kin_op kin_op_log;
extern const struct kin_op kin_op_sqrt;
extern const struct kin_op kin_op_rsqrt;
extern const struct kin_op kin_op_square;
extern const struct kin_op kin_op_abs;
extern const struct kin_op kin_op_sin;
extern const struct kin_op kin_op_cos;
extern const struct kin_op kin_op_tanh;
extern const struct kin_op kin_op_sigmoid;
extern const struct kin_op kin_op_relu;
extern const struct kin_op kin_op_silu;
extern const struct kin_op kin_op_gelu;
extern const struct kin_op kin_op_gelu_tanh;
extern const struct kin_op kin_op_clamp;
extern const struct kin_op kin_op_exp_grad;
extern const struct kin_op kin_op_log_grad;
extern const struct kin_op kin_op_sqrt_grad;
extern const struct kin_op kin_op_rsqrt_grad;
extern const struct kin_op kin_op_square_grad;
extern const struct kin_op kin_op_abs_grad;
extern const struct kin_op kin_op_sin_grad;
extern const struct kin_op kin_op_cos_grad;
extern const struct kin_op kin_op_tanh_grad;
extern const struct kin_op kin_op_sigmoid_grad;
extern const struct kin_op kin_op_relu_grad;
extern const struct kin_op kin_op_silu_grad;
extern const struct kin_op kin_op_gelu_grad;
extern const struct kin_op kin_op_gelu_tanh_grad;
extern const struct kin_op kin_op_clamp_grad;
extern const struct kin_op kin_op_add;
extern const struct kin_op kin_op_sub;
extern const struct kin_op kin_op_mul;
extern const struct kin_op kin_op_div;
extern const struct kin_op kin_op_maximum;
extern const struct kin_op kin_op_minimum;
extern const struct kin_op kin_op_less;
extern const struct kin_op kin_op_greater;
extern const struct kin_op kin_op_where;
extern const struct kin_op kin_op_gated_gelu;
extern const struct kin_op kin_op_gated_gelu_grad;

#ifdef __cplusplus
}
#endif
#endif
