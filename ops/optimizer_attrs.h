/* Attributes of the ops of a training step. */
#ifndef KIN_OPS_OPTIMIZER_ATTRS_H
#define KIN_OPS_OPTIMIZER_ATTRS_H

typedef struct kin_adamw_attrs {
    double beta1, beta2, eps, weight_decay;
} kin_adamw_attrs;

typedef struct kin_ema_attrs {
    double decay;
} kin_ema_attrs;

typedef struct kin_adamw_ema_attrs {
    kin_adamw_attrs adamw;
    double decay;
} kin_adamw_ema_attrs;

typedef struct kin_clip_scale_attrs {
    double max_norm;
} kin_clip_scale_attrs;

#endif
