/* Attributes of the view ops and of slice_grad. */
#ifndef KIN_OPS_VIEWS_ATTRS_H
#define KIN_OPS_VIEWS_ATTRS_H

#include "runtime/tensor.h"

/* reshape, expand: the shape of the result. */
typedef struct kin_shape_attrs {
    int64_t rank;
    int64_t dims[KIN_MAX_RANK];
} kin_shape_attrs;

/* permute: axis i of the result is axis axes[i] of the input. */
typedef struct kin_permute_attrs {
    int64_t rank;
    int64_t axes[KIN_MAX_RANK];
} kin_permute_attrs;

/* slice: elements start .. start + length - 1 of one axis. */
typedef struct kin_slice_attrs {
    int64_t axis;
    int64_t start;
    int64_t length;
} kin_slice_attrs;

/* slice_grad: the input lies at start of an axis of `size` elements; zeros elsewhere. */
typedef struct kin_slice_grad_attrs {
    int64_t axis;
    int64_t start;
    int64_t size;
} kin_slice_grad_attrs;

#endif
