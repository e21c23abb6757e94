/* Splitting a tensor into equal parts, and stopping gradients. */
#ifndef KIN_OPS_SPLIT_H
#define KIN_OPS_SPLIT_H

#include "runtime/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Cuts x along `axis` (negative from the end) into `count` (2 to KIN_MAX_OUTPUTS) equal parts, all
 * views of x. The gradient of x is the parts' gradients side by side: one concat. */
KIN_API void kin_split(kin_graph *graph, kin_tensor x, int axis, int count,
                       kin_tensor *out_tensors);
/* The same values; no gradient flows back. A view. */
KIN_API kin_tensor kin_detach(kin_graph *graph, kin_tensor x);

#ifdef __cplusplus
}
#endif
#endif
