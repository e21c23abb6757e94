/* Reductions over any set of axes. The order of the terms is fixed by the shape alone. */
#ifndef KIN_OPS_REDUCE_H
#define KIN_OPS_REDUCE_H

#include "ops/reduce_attrs.h"
#include "runtime/op.h"

#ifdef __cplusplus
extern "C" {
#endif

extern const kin_op kin_op_sum;
extern const kin_op kin_op_sum_cast;
extern const kin_op kin_op_mean;
extern const kin_op kin_op_max;

/* Bit i of axes: axis i is reduced; keep: it stays, with size 1. No axes: a copy. */
KIN_API kin_tensor kin_sum(kin_graph *graph, kin_tensor x, uint32_t axes, bool keep);
/* The sum as f32, f16 or bf16, rounded once. What planning makes of a sum and a cast behind it. */
KIN_API kin_tensor kin_sum_cast(kin_graph *graph, kin_tensor x, uint32_t axes, bool keep,
                                kin_dtype dtype);
KIN_API kin_tensor kin_mean(kin_graph *graph, kin_tensor x, uint32_t axes, bool keep);
/* The largest element; not differentiable. */
KIN_API kin_tensor kin_max(kin_graph *graph, kin_tensor x, uint32_t axes, bool keep);
/* Over everything: a scalar. */
KIN_API kin_tensor kin_sum_all(kin_graph *graph, kin_tensor x);
KIN_API kin_tensor kin_mean_all(kin_graph *graph, kin_tensor x);
/* The reverse of broadcasting: sums x over the axes that `dims` (aligned at the end) lacks or has
 * as 1. x itself if the shapes agree. */
KIN_API kin_tensor kin_sum_to(kin_graph *graph, kin_tensor x, int rank, const int64_t *dims);

#ifdef __cplusplus
}
#endif
#endif
