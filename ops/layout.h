/* Ops that move or make elements: copy, cast, fill, one, concat, and the patches of a video. */
#ifndef KIN_OPS_LAYOUT_H
#define KIN_OPS_LAYOUT_H

#include "runtime/graph.h"
#include "ops/layout_attrs.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A dense copy in row-major order. */
KIN_API kin_tensor kin_copy(kin_graph *graph, kin_tensor x);
/* x in another dtype, rounded to nearest even; to integers: cut towards zero, saturated, NaN gives
 * 0. x itself if it has the dtype. Nothing is cast to Q8_0. */
KIN_API kin_tensor kin_cast(kin_graph *graph, kin_tensor x, kin_dtype dtype);
/* A tensor of one value. */
KIN_API kin_tensor kin_fill(kin_graph *graph, kin_dtype dtype, int rank, const int64_t *dims,
                            double value);
/* The parts (1 or more, one dtype) one after the other along an axis; the other axes agree. */
KIN_API kin_tensor kin_concat(kin_graph *graph, const kin_tensor *parts, int count, int axis);

/* x [B, C, T, Y, X] cut into patches of pt * py * px: [B, N, C * pt * py * px]. Tokens run over
 * (T / pt, Y / py, X / px), row-major; the entries of a token are ordered (channel, dt, dy, dx). */
KIN_API kin_tensor kin_patchify(kin_graph *graph, kin_tensor x, int64_t pt, int64_t py, int64_t px);
/* x [B, N, pt * py * px * C], entries of a token ordered (dt, dy, dx, channel), put together to
 * [B, C, T, Y, X]; N = (T / pt) * (Y / py) * (X / px). */
KIN_API kin_tensor kin_unpatchify(kin_graph *graph, kin_tensor x, int64_t channels, int64_t frames,
                                  int64_t rows, int64_t columns, int64_t pt, int64_t py,
                                  int64_t px);

/* The ops behind them, for ops/list.c. */
extern const struct kin_op kin_op_copy;
extern const struct kin_op kin_op_cast;
extern const struct kin_op kin_op_fill;
extern const struct kin_op kin_op_one;
extern const struct kin_op kin_op_concat;

#ifdef __cplusplus
}
#endif
#endif
