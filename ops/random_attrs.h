/* Attributes of random draws. */
#ifndef KIN_OPS_RANDOM_ATTRS_H
#define KIN_OPS_RANDOM_ATTRS_H

#include "runtime/tensor.h"

/* random_normal, random_uniform. */
typedef struct kin_random_attrs {
    uint32_t stream; /* tells the draws of one graph apart */
    int32_t rank;
    int64_t dims[KIN_MAX_RANK];
} kin_random_attrs;

#endif
