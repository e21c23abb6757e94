/* Rows of a table by their numbers, and the sinusoidal features of timesteps. */
#ifndef KIN_OPS_EMBEDDING_H
#define KIN_OPS_EMBEDDING_H

#include "ops/embedding_attrs.h"
#include "runtime/op.h"

#ifdef __cplusplus
extern "C" {
#endif

extern const kin_op kin_op_embedding;
extern const kin_op kin_op_embedding_grad;
extern const kin_op kin_op_timestep_embedding;

/* out[..., c] = table[ids[...], c]: table [V, C], ids i32 or i64 of any shape [...]. An id outside
 * 0 .. V-1 gives a row of NaN; the CPU reports it as an error. */
KIN_API kin_tensor kin_embedding(kin_graph *graph, kin_tensor table, kin_tensor ids);
/* The same for a table [V], which gives the shape of ids, or [V, C]: schedule tables. */
KIN_API kin_tensor kin_gather_rows(kin_graph *graph, kin_tensor table, kin_tensor ids);
/* t [B] (f32, i32 or i64) -> f32 [B, dim]: cos(t f_i) for i < dim / 2, then sin(t f_i), with
 * f_i = max_period^(-i / (dim / 2)); a last column of zeros if dim is odd. Angles are formed in
 * double. Vaswani et al. 2017, in the order of DiT: cosines first. */
KIN_API kin_tensor kin_timestep_embedding(kin_graph *graph, kin_tensor t, int dim,
                                          double max_period);

#ifdef __cplusplus
}
#endif
#endif
