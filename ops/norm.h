/* Normalisations. Statistics are taken in at least f32 and centred before they are squared, so that
 * a mean that is large beside the spread does no harm. */
#ifndef KIN_OPS_NORM_H
#define KIN_OPS_NORM_H

#include "ops/norm_attrs.h"
#include "runtime/op.h"

#ifdef __cplusplus
extern "C" {
#endif

extern const kin_op kin_op_layer_norm;
extern const kin_op kin_op_layer_norm_grad;
extern const kin_op kin_op_layer_norm_modulate;
extern const kin_op kin_op_layer_norm_modulate_grad;
extern const kin_op kin_op_rms_norm;
extern const kin_op kin_op_rms_norm_grad;
extern const kin_op kin_op_group_norm;
extern const kin_op kin_op_group_norm_grad;

/* (x - mean) / sqrt(var + eps) * weight + bias over the last axis of x [..., C], with the biased
 * variance; weight and bias [C], each may be KIN_NONE (1 and 0). Ba, Kiros and Hinton 2016,
 * arXiv:1607.06450. */
KIN_API kin_tensor kin_layer_norm(kin_graph *graph, kin_tensor x, kin_tensor weight,
                                  kin_tensor bias, double eps);
/* layer_norm(x) * (1 + scale) + shift: x [B, N, C]; shift and scale of one shape, [B, 1, C] or
 * [1, 1, C]. The adaptive norm of DiT (Peebles and Xie 2022, arXiv:2212.09748). */
KIN_API kin_tensor kin_layer_norm_modulate(kin_graph *graph, kin_tensor x, kin_tensor shift,
                                           kin_tensor scale, double eps);
/* x / sqrt(mean(x^2) + eps) * weight over the last axis of x [..., C]; weight [C] or KIN_NONE.
 * Zhang and Sennrich 2019, arXiv:1910.07467. */
KIN_API kin_tensor kin_rms_norm(kin_graph *graph, kin_tensor x, kin_tensor weight, double eps);
/* x [B, C, ...]: each of `groups` runs of C / groups channels with all their positions is
 * normalised as in layer_norm, then scaled by weight [C] and moved by bias [C]; then SiLU if asked
 * for. Wu and He 2018, arXiv:1803.08494. */
KIN_API kin_tensor kin_group_norm(kin_graph *graph, kin_tensor x, kin_tensor weight,
                                  kin_tensor bias, int groups, double eps, bool silu);

#ifdef __cplusplus
}
#endif
#endif
