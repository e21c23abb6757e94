/* Attributes of pad and of its gradient. */
#ifndef KIN_OPS_PAD_ATTRS_H
#define KIN_OPS_PAD_ATTRS_H

#include "runtime/tensor.h"

/* Elements added in front of and behind each axis: zeros, or copies of the outermost element. */
typedef struct kin_pad_attrs {
    int64_t before[KIN_MAX_RANK], after[KIN_MAX_RANK];
    int64_t replicate;
} kin_pad_attrs;

#endif
