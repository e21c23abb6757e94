/* Attributes of attention and attention_grad. */
#ifndef KIN_OPS_ATTENTION_ATTRS_H
#define KIN_OPS_ATTENTION_ATTRS_H

#include "runtime/tensor.h"

typedef struct kin_attention_attrs {
    double scale;          /* of the scores, D^-0.5 as a rule */
    int64_t bias_gradient; /* attention_grad: 1 if it has the output dbias */
} kin_attention_attrs;

#endif
