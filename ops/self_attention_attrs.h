/* Attributes of self_attention and self_attention_grad. */
#ifndef KIN_OPS_SELF_ATTENTION_ATTRS_H
#define KIN_OPS_SELF_ATTENTION_ATTRS_H

#include "ops/rope_attrs.h"

enum { KIN_SELF_ATTENTION_HEAD = 1024 }; /* the largest head size */

typedef struct kin_self_attention_attrs {
    double scale;        /* of the scores, D^-0.5 as a rule */
    double eps;          /* of the norms; read if there are gains */
    kin_rope_attrs rope; /* read if there are positions */
    int64_t axis;        /* the axis of [B, T, S, ..] along which tokens see one another: 1 or 2 */
} kin_self_attention_attrs;

/* Inputs of both ops. The gradient's go on behind them. */
enum {
    KIN_SELF_Q, /* or the packed q, k, v */
    KIN_SELF_K,
    KIN_SELF_V,
    KIN_SELF_Q_GAIN,
    KIN_SELF_K_GAIN,
    KIN_SELF_POSITIONS,
    KIN_SELF_INPUTS,
    KIN_SELF_O = KIN_SELF_INPUTS,
    KIN_SELF_LSE,
    KIN_SELF_D_O,
    KIN_SELF_D_LSE,
    KIN_SELF_GRAD_INPUTS
};

#endif
