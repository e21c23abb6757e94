/* Attributes of the convolutions. Axes are in the order time, rows, columns; on tensors of rank 4
 * (images) the entries of time are stride 1 and no padding, size 1. */
#ifndef KIN_OPS_CONV_ATTRS_H
#define KIN_OPS_CONV_ATTRS_H

#include <stdint.h>

/* conv. */
typedef struct kin_conv_attrs {
    int64_t stride[3];
    int64_t before[3], after[3]; /* padding in front of and behind each axis, at least 0 */
    int64_t causal;              /* 1: the padding in front of time repeats the first frame */
} kin_conv_attrs;

/* conv_grad_input: size is that of the input; conv_grad_weight and conv_patches: of the kernel. */
typedef struct kin_conv_size_attrs {
    kin_conv_attrs conv;
    int64_t size[3];
} kin_conv_size_attrs;

/* conv_patches_grad. size is that of the input of conv_patches; size[0] is 0 if it is an image. */
typedef struct kin_conv_patches_grad_attrs {
    kin_conv_attrs conv;
    int64_t kernel[3];
    int64_t size[3];
} kin_conv_patches_grad_attrs;

#endif
