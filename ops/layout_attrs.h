/* Attributes of cast, fill and concat. (one: a kin_desc; copy: none.) */
#ifndef KIN_OPS_LAYOUT_ATTRS_H
#define KIN_OPS_LAYOUT_ATTRS_H

#include "runtime/tensor.h"

/* cast: the result's kin_dtype. */
typedef struct kin_cast_attrs {
    int64_t dtype;
} kin_cast_attrs;

typedef struct kin_fill_attrs {
    int64_t dtype;
    int64_t rank;
    int64_t dims[KIN_MAX_RANK];
    double value;
} kin_fill_attrs;

typedef struct kin_concat_attrs {
    int64_t axis;
} kin_concat_attrs;

#endif
