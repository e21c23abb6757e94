/* Reductions over a set of axes: reduce.c's, for its own ops and for the norm of gradients. */
#ifndef KIN_BACKENDS_OPENCL_REDUCE_H
#define KIN_BACKENDS_OPENCL_REDUCE_H

#include "backends/opencl/shape.h"

typedef enum opencl_reduce_kind { OPENCL_SUM, OPENCL_MAX, OPENCL_SQUARES } opencl_reduce_kind;

typedef struct opencl_reduction {
    opencl_shape kept, outer; /* of the input, one operand each */
    int64_t inner, inner_stride;
    int64_t results, parts;
} opencl_reduction;

/* bit i of axes: axis i is reduced. The number of parts follows from the shape alone. */
opencl_reduction opencl_reduction_of(const kin_desc *x, uint32_t axes);

/* The partial results [parts, results], or the results if there is one part, times factor, to
 * `target`, which is f32 if there are several parts. */
kin_status opencl_reduce(kin_device *device, kin_commands *commands, opencl_reduce_kind kind,
                         const opencl_reduction *r, const kin_operand *x, const kin_operand *target,
                         double factor);
/* Results from `parts` partial results of each, f32, times factor; root: their square root. */
kin_status opencl_join(kin_device *device, kin_commands *commands, opencl_reduce_kind kind,
                       const kin_operand *partial, int64_t parts, const kin_operand *out,
                       double factor, bool root);

#endif
