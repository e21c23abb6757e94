/* How close an op's result must be to its double-precision reference. */
#ifndef KIN_RUNTIME_CHECK_H
#define KIN_RUNTIME_CHECK_H

#include "runtime/backend.h"
#include "runtime/op.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The allowed max |got - want| relative to max |want| of a tensor: a sum of K terms in f32 errs by
 * about sqrt(K) units of rounding; storage in f16 or bf16 rounds inputs and outputs once each.
 *     f32: 2^-24 * (16 + 4 sqrt(K));  f16: + 2^-10;  bf16: + 2^-7
 * K is kin_cost.reduction. Integers must be equal. */
KIN_API double kin_tolerance(kin_dtype dtype, double reduction);
/* The same for a result of an op on a device. On one that rounds the operands of products
 * (KIN_OP_PRODUCT) float results of those ops get the tolerance of the dtype that operands are
 * rounded to, if that is larger; so do those of ops that round within (KIN_OP_ROUNDS) to
 * `operands`, the dtype of input 0. */
KIN_API double kin_device_tolerance(const kin_device_info *info, const kin_op *op,
                                    kin_dtype operands, kin_dtype dtype, double reduction);

/* The cost of a node: kin_op.cost over its presets. */
KIN_API kin_cost kin_op_cost(const kin_op *op, const void *attrs, int in_count, const kin_desc *in,
                             int out_count, const kin_desc *out);

/* Runs op->reference on dense host tensors of any dtype: converts to double and back (out tensors
 * are allocated by the caller, dense). */
KIN_API kin_status kin_reference_run(kin_context *context, const kin_op *op, const void *attrs,
                                     int in_count, const kin_host_tensor *in, int out_count,
                                     kin_host_tensor *out);

#ifdef __cplusplus
}
#endif
#endif
