/* Convolution on the CPU: the raw kernels, one table of functions per instruction set.
 *
 * One engine serves conv2d and conv3d (2-D is a depth of 1). Tensors are dense f32 in PyTorch's
 * order: x [N, Cin, T, Y, X], w [Cout, Cin, kt, ky, kx], bias [Cout], out [N, Cout, To, Yo, Xo].
 * Dilation and groups are 1. The kernels allocate nothing: the caller hands over scratch memory of
 * the size that the matching function tells for the same number of threads. Results do not depend
 * on the number of threads.
 */
#ifndef KIN_BACKENDS_CPU_CONV_H
#define KIN_BACKENDS_CPU_CONV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Axes are in the order time, rows, columns. The padding behind an axis follows from `out`: reads
 * beyond the input give zero. */
typedef struct cpu_conv_shape {
    int64_t batch, cin, cout;
    int64_t in[3], kernel[3], out[3];
    int64_t stride[3];
    int64_t pad[3]; /* in front of each axis */
    bool causal;    /* the padding in front of time repeats the first frame instead of zeros */
} cpu_conv_shape;

typedef struct cpu_conv_functions {
    const char *isa;
    /* Bytes of scratch for the three passes; scratch must be aligned to 64 bytes. */
    size_t (*forward_scratch)(const cpu_conv_shape *shape, int threads);
    size_t (*backward_input_scratch)(const cpu_conv_shape *shape, int threads);
    size_t (*backward_weight_scratch)(const cpu_conv_shape *shape, int threads);
    /* out = conv(x, w) + bias; bias may be NULL. */
    void (*forward)(const cpu_conv_shape *shape, const float *x, const float *w, const float *bias,
                    float *out, void *scratch, int threads);
    /* dx from the gradient dy of out. */
    void (*backward_input)(const cpu_conv_shape *shape, const float *dy, const float *w, float *dx,
                           void *scratch, int threads);
    /* dw from x and dy. */
    void (*backward_weight)(const cpu_conv_shape *shape, const float *x, const float *dy, float *dw,
                            void *scratch, int threads);
    /* dbias[c] = sum of dy over all but channels; needs no scratch. */
    void (*backward_bias)(const cpu_conv_shape *shape, const float *dy, float *dbias, int threads);
} cpu_conv_functions;

extern const cpu_conv_functions cpu_conv_functions_generic;
extern const cpu_conv_functions cpu_conv_functions_avx2;
extern const cpu_conv_functions cpu_conv_functions_avx512;

#endif
