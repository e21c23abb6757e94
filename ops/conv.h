/* Convolutions of images [B, C, Y, X] and videos [B, C, T, Y, X]. */
#ifndef KIN_OPS_CONV_H
#define KIN_OPS_CONV_H

#include "runtime/graph.h"
#include "ops/conv_attrs.h"

#ifdef __cplusplus
extern "C" {
#endif

/* x [B, Cin, Y, X] or [B, Cin, T, Y, X], w [Cout, Cin, kernel...] as PyTorch has it, bias [Cout] or
 * KIN_NONE; out [B, Cout, ...], (size + before + after - kernel) / stride + 1 along each axis. The
 * result has the dtype of x. */
KIN_API kin_tensor kin_conv(kin_graph *graph, kin_tensor x, kin_tensor w, kin_tensor bias,
                            const kin_conv_attrs *attrs);
/* On images, one stride and one padding for all sides. */
KIN_API kin_tensor kin_conv2d(kin_graph *graph, kin_tensor x, kin_tensor w, kin_tensor bias,
                              int64_t stride, int64_t pad);
/* On videos: stride and zero padding of each axis (time, rows, columns), the same on both sides. */
KIN_API kin_tensor kin_conv3d(kin_graph *graph, kin_tensor x, kin_tensor w, kin_tensor bias,
                              const int64_t stride[3], const int64_t pad[3]);
/* Causal in time: the first frame is repeated kernel - 1 times in front, and nothing follows the
 * last; `pad` zeros surround rows and columns. CausalConv3d of Open-Sora-Plan. */
KIN_API kin_tensor kin_conv3d_causal(kin_graph *graph, kin_tensor x, kin_tensor w, kin_tensor bias,
                                     const int64_t stride[3], int64_t pad);
/* PyTorch's conv_transpose2d: x [B, C, Y, X], w [C, Cout, ky, kx], bias [Cout] or KIN_NONE;
 * out (size - 1) * stride - 2 pad + kernel + output_pad along each axis. */
KIN_API kin_tensor kin_conv_transpose2d(kin_graph *graph, kin_tensor x, kin_tensor w,
                                        kin_tensor bias, int64_t stride, int64_t pad,
                                        int64_t output_pad);
/* Averages of `kernel` frames, every `stride` frames, without padding: x [B, C, T, Y, X]. */
KIN_API kin_tensor kin_avg_pool_time(kin_graph *graph, kin_tensor x, int64_t kernel,
                                     int64_t stride);

/* The gradient of conv to its input, of `size` (time, rows, columns), from that of its result. */
KIN_API kin_tensor kin_conv_grad_input(kin_graph *graph, kin_tensor dy, kin_tensor w,
                                       const kin_conv_attrs *attrs, const int64_t size[3]);
/* The gradient of conv to w, whose kernel is `size`. */
KIN_API kin_tensor kin_conv_grad_weight(kin_graph *graph, kin_tensor x, kin_tensor dy,
                                        const kin_conv_attrs *attrs, const int64_t size[3]);
/* All patches that a kernel of `size` sees: x [B, C, ...] gives [B, C * kernel, positions]. */
KIN_API kin_tensor kin_conv_patches(kin_graph *graph, kin_tensor x, const kin_conv_attrs *attrs,
                                    const int64_t size[3]);
/* Adds patches [B, C * kernel, positions] up at their places in [B, C, size]; rank (4 or 5) is that
 * of the result. */
KIN_API kin_tensor kin_conv_patches_grad(kin_graph *graph, kin_tensor patches,
                                         const kin_conv_attrs *attrs, const int64_t kernel[3],
                                         const int64_t size[3], int rank);

/* The ops behind them, for ops/list.c. */
extern const struct kin_op kin_op_conv;
extern const struct kin_op kin_op_conv_grad_input;
extern const struct kin_op kin_op_conv_grad_weight;
extern const struct kin_op kin_op_conv_patches;
extern const struct kin_op kin_op_conv_patches_grad;

#ifdef __cplusplus
}
#endif
#endif
