/* The rows of a view: all axes but the last counted through, the last one with stride 1. */
#ifndef KIN_BACKENDS_CPU_ROWS_H
#define KIN_BACKENDS_CPU_ROWS_H

#include "runtime/tensor.h"

/* Axes that follow one another without a gap are merged: dense tensors have rank 1 or 0. */
typedef struct cpu_rows {
    const float *data;
    int rank;
    int64_t dims[KIN_MAX_RANK];
    int64_t strides[KIN_MAX_RANK];
} cpu_rows;

static inline cpu_rows cpu_rows_of(const void *data, const kin_desc *desc) {
    cpu_rows rows = {.data = data};
    for (int axis = 0; axis < desc->rank - 1; ++axis) {
        int64_t dim = desc->dims[axis], stride = desc->strides[axis];
        if (dim == 1) continue;
        int last = rows.rank - 1;
        if (last >= 0 && rows.strides[last] == dim * stride) {
            rows.dims[last] *= dim;
            rows.strides[last] = stride;
        } else {
            rows.dims[rows.rank] = dim;
            rows.strides[rows.rank++] = stride;
        }
    }
    return rows;
}

static inline const float *cpu_row(const cpu_rows *rows, int64_t index) {
    int64_t offset = 0;
    for (int axis = rows->rank - 1; axis > 0; --axis) {
        offset += index % rows->dims[axis] * rows->strides[axis];
        index /= rows->dims[axis];
    }
    if (rows->rank > 0) offset += index * rows->strides[0];
    return rows->data + offset;
}

/* Width of a row, and the number of rows. A scalar is one row of one element. */
static inline int64_t cpu_row_width(const kin_desc *desc) {
    return desc->rank > 0 ? desc->dims[desc->rank - 1] : 1;
}

static inline int64_t cpu_row_count(const kin_desc *desc) {
    int64_t count = 1;
    for (int axis = 0; axis < desc->rank - 1; ++axis) count *= desc->dims[axis];
    return count;
}

/* True if the elements of a row lie side by side. */
static inline bool cpu_row_is_dense(const kin_desc *desc) {
    return cpu_row_width(desc) == 1 || desc->strides[desc->rank - 1] == 1;
}

#endif
