/* Sums over the processes (ranks) of the device's group, runtime/collective.h. On a device without
 * a group they change nothing. All ranks run the same nodes in the same order. */
#ifndef KIN_OPS_COLLECTIVE_H
#define KIN_OPS_COLLECTIVE_H

#include "runtime/backend.h"
#include "runtime/op.h"

#ifdef __cplusplus
extern "C" {
#endif

extern const kin_op kin_op_all_reduce;
extern const kin_op kin_op_all_reduce_variable;

/* The sum, or the mean, of every rank's x (f32, f16 or bf16): the same on all ranks. It takes over
 * the memory of x where x is not read again. */
KIN_API kin_tensor kin_all_reduce(kin_graph *graph, kin_tensor x, kin_reduction_kind kind);
/* The same, written to the variable itself; returns its new content. */
KIN_API kin_tensor kin_all_reduce_variable(kin_graph *graph, kin_tensor variable,
                                           kin_reduction_kind kind);

#ifdef __cplusplus
}
#endif
#endif
