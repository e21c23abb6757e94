/* Shapes as kernels walk them: axes of several operands joined where they follow one another. */
#ifndef KIN_BACKENDS_CUDA_SHAPE_H
#define KIN_BACKENDS_CUDA_SHAPE_H

#include "backends/cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { KIN_CUDA_SHAPE_OPERANDS = 4 };

/* `operands` operands over one set of axes; strides in elements, 0 where an operand is broadcast.
 * Kernels take it by value. */
typedef struct kin_cuda_shape {
    int rank, operands;
    int64_t count; /* elements */
    int64_t dims[KIN_MAX_RANK];
    int64_t strides[KIN_CUDA_SHAPE_OPERANDS][KIN_MAX_RANK];
} kin_cuda_shape;

/* Operands are broadcast to dims. Axes of size 1 are dropped, and axes joined that follow one
 * another without a gap in every operand. */
kin_cuda_shape kin_cuda_shape_of(int rank, const int64_t *dims, int operands,
                                 const kin_desc *const *in);

/* True if the last axis comes in packs of 8 elements, which lie side by side or are one element
 * repeated, in every operand, aligned to 8 elements if element 0 is. */
bool kin_cuda_shape_has_packs(const kin_cuda_shape *shape);
/* The shape counted in packs of 8 along the last axis; strides stay in elements. */
kin_cuda_shape kin_cuda_shape_in_packs(const kin_cuda_shape *shape);

/* The rows of a view whose last axis is dense: all other axes, joined. */
typedef struct kin_cuda_rows {
    int rank;
    int64_t dims[KIN_MAX_RANK];
    int64_t strides[KIN_MAX_RANK];
} kin_cuda_rows;

kin_cuda_rows kin_cuda_rows_of(const kin_desc *desc);
/* True if the elements of each row lie side by side. */
bool kin_cuda_rows_are_dense(const kin_desc *desc);
/* True if every row starts at a multiple of 8 elements from element 0. */
bool kin_cuda_rows_have_packs(const kin_desc *desc);
static inline int64_t kin_cuda_row_width(const kin_desc *desc) {
    return desc->rank > 0 ? desc->dims[desc->rank - 1] : 1;
}
int64_t kin_cuda_row_count(const kin_desc *desc);

#ifdef __cplusplus
}
#endif
#endif
