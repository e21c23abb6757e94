/* The end of a training step: clipping, AdamW, averages. The ops that write persistent tensors are
 * updates: their result is the tensor after the step. */
#ifndef KIN_OPS_OPTIMIZER_H
#define KIN_OPS_OPTIMIZER_H

#include "ops/optimizer_attrs.h"
#include "runtime/op.h"

#ifdef __cplusplus
extern "C" {
#endif

extern const kin_op kin_op_global_norm;
extern const kin_op kin_op_clip_scale;
extern const kin_op kin_op_adamw;
extern const kin_op kin_op_ema;
extern const kin_op kin_op_adamw_ema;
extern const kin_op kin_op_accumulate;
extern const kin_op kin_op_assign;

/* sqrt of the sum of the squares of all elements of `count` tensors of any shapes: a scalar f32. */
KIN_API kin_tensor kin_global_norm(kin_graph *graph, const kin_tensor *gradients, int count);
/* min(1, max_norm / (norm + 1e-6)), the factor of PyTorch's clip_grad_norm_; 0 if the norm is
 * infinite or NaN, which makes kin_adamw and kin_ema skip the step. */
KIN_API kin_tensor kin_clip_scale(kin_graph *graph, kin_tensor norm, double max_norm);
/* One step of AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) as PyTorch does it:
 *     g = grad * grad_scale;  p *= 1 - lr * weight_decay;
 *     m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;
 *     p -= lr / (1 - beta1^step) * m / (sqrt(v) / sqrt(1 - beta2^step) + eps)
 * p, m and v are variables of one shape; lr a scalar f32; step a scalar i64 that starts at 1;
 * grad_scale a scalar f32 or KIN_NONE. A grad_scale of 0, infinity or NaN skips the step: p, m and
 * v stay as they are. Returns p after the step. */
KIN_API kin_tensor kin_adamw(kin_graph *graph, kin_tensor p, kin_tensor gradient, kin_tensor m,
                             kin_tensor v, kin_tensor lr, kin_tensor step, kin_tensor grad_scale,
                             const kin_adamw_attrs *attrs);
/* average = decay * average + (1 - decay) * p; scale as in kin_adamw: 0 skips, KIN_NONE never. */
KIN_API kin_tensor kin_ema(kin_graph *graph, kin_tensor average, kin_tensor p, double decay,
                           kin_tensor scale);
/* kin_adamw, and kin_ema of p after it, in one pass over memory where the device has one; with the
 * same scale for both. Returns p after the step. */
KIN_API kin_tensor kin_adamw_ema(kin_graph *graph, kin_tensor p, kin_tensor gradient, kin_tensor m,
                                 kin_tensor v, kin_tensor average, kin_tensor lr, kin_tensor step,
                                 kin_tensor grad_scale, const kin_adamw_ema_attrs *attrs);
/* sum += x */
KIN_API kin_tensor kin_accumulate(kin_graph *graph, kin_tensor sum, kin_tensor x);
/* target = x */
KIN_API kin_tensor kin_assign(kin_graph *graph, kin_tensor target, kin_tensor x);

#ifdef __cplusplus
}
#endif
#endif
