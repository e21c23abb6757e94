/* The Winograd path of convolutions with 3 x 3 kernels: conv_winograd_simd.c. conv_simd.c asks
 * whether it fits a shape. */
#ifndef KIN_BACKENDS_CPU_CONV_WINOGRAD_H
#define KIN_BACKENDS_CPU_CONV_WINOGRAD_H

#include "backends/cpu/conv_pack.h"

enum { CONV_WINOGRAD_CHANNELS = 32 }; /* with fewer the transforms cost more than they save */

bool KIN_ISA_NAME(cpu_winograd_forward_fits)(const cpu_conv_shape *shape);
bool KIN_ISA_NAME(cpu_winograd_input_fits)(const cpu_conv_shape *shape);
bool KIN_ISA_NAME(cpu_winograd_weight_fits)(const cpu_conv_shape *shape);
size_t KIN_ISA_NAME(cpu_winograd_forward_scratch)(const cpu_conv_shape *shape, int threads);
size_t KIN_ISA_NAME(cpu_winograd_input_scratch)(const cpu_conv_shape *shape, int threads);
size_t KIN_ISA_NAME(cpu_winograd_weight_scratch)(const cpu_conv_shape *shape, int threads);
void KIN_ISA_NAME(cpu_winograd_forward)(const cpu_conv_shape *shape, const float *x, const float *w,
                                        const float *bias, float *out, void *scratch, int threads);
/* Leaves out what a causal front pad gives to frame 0. */
void KIN_ISA_NAME(cpu_winograd_input)(const cpu_conv_shape *shape, const float *dy, const float *w,
                                      float *dx, void *scratch, int threads);
void KIN_ISA_NAME(cpu_winograd_weight)(const cpu_conv_shape *shape, const float *x, const float *dy,
                                       float *dw, void *scratch, int threads);

#endif
