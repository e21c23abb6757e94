/* Attributes of the normalisations. */
#ifndef KIN_OPS_NORM_ATTRS_H
#define KIN_OPS_NORM_ATTRS_H

#include <stdint.h>

/* layer_norm, layer_norm_modulate, rms_norm and their gradients. */
typedef struct kin_norm_attrs {
    double eps; /* added to the variance, or to the mean square */
} kin_norm_attrs;

/* group_norm, group_norm_grad. */
typedef struct kin_group_norm_attrs {
    double eps;
    int32_t groups; /* divides the channels */
    int32_t silu;   /* 1: y * sigmoid(y) follows */
} kin_group_norm_attrs;

#endif
