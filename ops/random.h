/* Random numbers that depend on the seed, a counter and a stream number alone (runtime/philox.h):
 * the same on every device up to rounding, and the same again when recomputed. */
#ifndef KIN_OPS_RANDOM_H
#define KIN_OPS_RANDOM_H

#include "ops/random_attrs.h"
#include "runtime/op.h"

#ifdef __cplusplus
extern "C" {
#endif

extern const kin_op kin_op_random_normal;
extern const kin_op kin_op_random_uniform;

/* f32 [dims], N(0, 1). seed i64 [2]: {seed, counter}; a counter that rises by one each step gives
 * fresh numbers. Every node of a graph takes a stream of its own. */
KIN_API kin_tensor kin_random_normal(kin_graph *graph, kin_tensor seed, uint32_t stream, int rank,
                                     const int64_t *dims);
/* The same, uniform in [0, 1). */
KIN_API kin_tensor kin_random_uniform(kin_graph *graph, kin_tensor seed, uint32_t stream, int rank,
                                      const int64_t *dims);

#ifdef __cplusplus
}
#endif
#endif
