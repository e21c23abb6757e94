/* Losses, composed of simpler ops. */
#ifndef KIN_OPS_LOSS_H
#define KIN_OPS_LOSS_H

#include "runtime/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* mean((a - b)^2) over everything: a scalar. a and b have one shape. */
KIN_API kin_tensor kin_mse(kin_graph *graph, kin_tensor a, kin_tensor b);
/* mean((a - b)^2) over all axes but the first: [B]. */
KIN_API kin_tensor kin_mse_per_sample(kin_graph *graph, kin_tensor a, kin_tensor b);

#ifdef __cplusplus
}
#endif
#endif
