/* Attributes of linear_fused and matmul_fused. */
#ifndef KIN_OPS_PRODUCT_ATTRS_H
#define KIN_OPS_PRODUCT_ATTRS_H

#include "runtime/tensor.h"

/* The functions of elementwise_expr.h by these names. */
typedef enum kin_activation {
    KIN_ACTIVATION_NONE,
    KIN_ACTIVATION_GELU_TANH,
    KIN_ACTIVATION_GELU,
    KIN_ACTIVATION_SILU,
    KIN_ACTIVATION_COUNT
} kin_activation;

/* out = residual + gate * activation(product + bias) */
typedef struct kin_product_attrs {
    int32_t activation; /* kin_activation */
    int32_t result;     /* 0: the dtype of the first operand; else 1 + kin_dtype */
} kin_product_attrs;

#endif
