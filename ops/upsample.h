/* Enlarging (and shrinking by interpolation) of images [B, C, Y, X] and videos [B, C, T, Y, X]. */
#ifndef KIN_OPS_UPSAMPLE_H
#define KIN_OPS_UPSAMPLE_H

#include "runtime/graph.h"
#include "ops/upsample_attrs.h"

#ifdef __cplusplus
extern "C" {
#endif

/* x resampled to `size` (time, rows, columns; time is 1 on images) in one of the modes
 * KIN_UPSAMPLE_...: PyTorch's interpolate with nearest, bilinear or trilinear. */
KIN_API kin_tensor kin_upsample(kin_graph *graph, kin_tensor x, int64_t mode,
                                const int64_t size[3]);
/* Nearest neighbour by whole factors (time, rows, columns; time is 1 on images). */
KIN_API kin_tensor kin_upsample_nearest(kin_graph *graph, kin_tensor x, int64_t time, int64_t rows,
                                        int64_t columns);
/* Bilinear or trilinear by whole factors, with half-pixel centres (align_corners false). */
KIN_API kin_tensor kin_upsample_linear(kin_graph *graph, kin_tensor x, int64_t time, int64_t rows,
                                       int64_t columns);
/* The transpose of kin_upsample: gradient of its input of `size` from that of its result. */
KIN_API kin_tensor kin_upsample_grad(kin_graph *graph, kin_tensor dy, int64_t mode,
                                     const int64_t size[3]);

/* The ops behind them, for ops/list.c. */
extern const struct kin_op kin_op_upsample;
extern const struct kin_op kin_op_upsample_grad;

#ifdef __cplusplus
}
#endif
#endif
