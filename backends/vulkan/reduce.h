/* Sums and maxima over axes. */
#ifndef KIN_BACKENDS_VULKAN_REDUCE_H
#define KIN_BACKENDS_VULKAN_REDUCE_H

#include "backends/vulkan/vulkan.h"

enum { VULKAN_REDUCE_RANK = 5, VULKAN_REDUCE_WIDTH = 64 };

typedef struct vulkan_reduce_axes {
    int rank;
    int64_t count;
    int64_t dims[VULKAN_REDUCE_RANK], strides[VULKAN_REDUCE_RANK];
} vulkan_reduce_axes;

/* One reduction: out[i] = scale * (sum or maximum over the reduced axes of x), out dense. */
typedef struct vulkan_reduction {
    vulkan_reduce_axes kept, reduced;
    bool maximum, square, root; /* square: of the squares; root: the sum's square root, no scale */
    float scale;
    kin_operand x; /* offset, dtype and buffer of element 0 */
    kin_operand out;
    /* Parts that share the terms of a result; their partial results (f32) lie in scratch. */
    int64_t parts;
    bool parts_inner;
} vulkan_reduction;

/* Appends an axis behind those that are there, joined to the last where that is possible; false if
 * there are too many. */
bool vulkan_reduce_add(vulkan_reduce_axes *axes, int64_t dim, int64_t stride);
/* Chooses parts from the sizes; returns the bytes of scratch that they need. */
size_t vulkan_reduce_choose(vulkan_reduction *reduction);
kin_status vulkan_reduce(kin_device *device, kin_commands *commands,
                         const vulkan_reduction *reduction, kin_buffer *scratch,
                         size_t scratch_offset);
/* One dispatch: with one part the results, with more their partial results, f32, in `out`. */
kin_status vulkan_reduce_pass(kin_device *device, kin_commands *commands,
                              const vulkan_reduction *reduction, int64_t parts,
                              const kin_operand *out);
/* out[c] = sum over r of x[r * columns + c], x f32 and dense at a byte offset of a buffer. One
 * dispatch, in the order of the rows. */
kin_status vulkan_reduce_columns(kin_device *device, kin_commands *commands, kin_buffer *x,
                                 size_t x_offset, int64_t rows, int64_t columns,
                                 const kin_operand *out);

#endif
