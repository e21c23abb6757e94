/* Views: the same elements under other shapes and strides. They cost nothing at run time.
 *
 * Negative axes count from the end. The dtype stays. Q8_0 tensors can be reshaped and sliced as
 * long as the last axis stays whole.
 */
#ifndef KIN_OPS_VIEWS_H
#define KIN_OPS_VIEWS_H

#include "runtime/graph.h"
#include "ops/views_attrs.h"

#ifdef __cplusplus
extern "C" {
#endif

/* x seen as another shape of as many elements, in row-major order. One of dims may be -1: it is
 * computed. Where the strides of x forbid a view, a dense copy is made first. */
KIN_API kin_tensor kin_reshape(kin_graph *graph, kin_tensor x, int rank, const int64_t *dims);
/* Axis i of the result is axis axes[i] of x; axes has as many entries as x has axes. */
KIN_API kin_tensor kin_permute(kin_graph *graph, kin_tensor x, const int *axes);
/* Swaps two axes. */
KIN_API kin_tensor kin_transpose(kin_graph *graph, kin_tensor x, int axis_a, int axis_b);
/* Elements start .. start + length - 1 of one axis; a negative start counts from the end. */
KIN_API kin_tensor kin_slice(kin_graph *graph, kin_tensor x, int axis, int64_t start,
                             int64_t length);
/* Repeats axes of size 1, and missing leading axes, up to dims (numpy's broadcasting). */
KIN_API kin_tensor kin_expand(kin_graph *graph, kin_tensor x, int rank, const int64_t *dims);
/* Axes first_axis .. last_axis become one, as kin_reshape. */
KIN_API kin_tensor kin_flatten(kin_graph *graph, kin_tensor x, int first_axis, int last_axis);

/* The gradient of a slice: x at `start` of an axis of `size` elements, zeros elsewhere. */
KIN_API kin_tensor kin_slice_grad(kin_graph *graph, kin_tensor x, int axis, int64_t start,
                                  int64_t size);

/* The ops behind them, for ops/list.c. */
extern const struct kin_op kin_op_reshape;
extern const struct kin_op kin_op_permute;
extern const struct kin_op kin_op_slice;
extern const struct kin_op kin_op_slice_grad;
extern const struct kin_op kin_op_expand;

#ifdef __cplusplus
}
#endif
#endif
