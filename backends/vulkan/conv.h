/* What the files of the convolution kernels share. */
#ifndef KIN_BACKENDS_VULKAN_CONV_H
#define KIN_BACKENDS_VULKAN_CONV_H

#include "ops/conv_attrs.h"
#include "runtime/backend.h"

typedef enum kin_vulkan_conv_kind {
    KIN_VULKAN_CONV_FORWARD, /* x, w -> y */
    KIN_VULKAN_CONV_INPUT,   /* dy, w -> dx */
    KIN_VULKAN_CONV_WEIGHT   /* x, dy -> dw */
} kin_vulkan_conv_kind;

/* Sizes of x (in), y (out) and the kernel: time, rows, columns. */
typedef struct kin_vulkan_conv {
    kin_vulkan_conv_kind kind;
    int64_t batch, cin, cout, in[3], out[3], kernel[3];
    const kin_conv_attrs *attrs;
} kin_vulkan_conv;

kin_vulkan_conv kin_vulkan_conv_of(const kin_call *call, kin_vulkan_conv_kind kind);

#endif
