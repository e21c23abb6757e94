/* Attributes of the reductions. */
#ifndef KIN_OPS_REDUCE_ATTRS_H
#define KIN_OPS_REDUCE_ATTRS_H

#include <stdint.h>

/* sum, mean, max. */
typedef struct kin_reduce_attrs {
    uint32_t axes; /* bit i: axis i is reduced */
    uint32_t keep; /* 1: reduced axes stay, with size 1 */
} kin_reduce_attrs;

/* sum_cast: a sum, and the kin_dtype of its result. */
typedef struct kin_sum_cast_attrs {
    kin_reduce_attrs sum; /* first, so that kernels of sum read it */
    int64_t dtype;
} kin_sum_cast_attrs;

#endif
