#include "backends/cuda/shape.h"

enum { PACK = 8 };

static bool joins(const kin_cuda_shape *s, int axis, const int64_t *strides) {
    for (int j = 0; j < s->operands; j++)
        if (s->strides[j][axis] != strides[j]) return false;
    return true;
}

kin_cuda_shape kin_cuda_shape_of(int rank, const int64_t *dims, int operands,
                                 const kin_desc *const *in) {
    kin_cuda_shape s = {.operands = operands, .count = 1};
    for (int axis = 0; axis < rank; axis++) {
        int64_t strides[KIN_CUDA_SHAPE_OPERANDS] = {0}, outer[KIN_CUDA_SHAPE_OPERANDS] = {0};
        s.count *= dims[axis];
        if (dims[axis] == 1) continue;
        for (int j = 0; j < operands; j++) {
            int own = axis - (rank - in[j]->rank);
            strides[j] = own < 0 || in[j]->dims[own] == 1 ? 0 : in[j]->strides[own];
            outer[j] = strides[j] * dims[axis];
        }
        int last = s.rank - 1;
        bool join = last >= 0 && joins(&s, last, outer);
        if (!join) last = s.rank++;
        s.dims[last] = join ? s.dims[last] * dims[axis] : dims[axis];
        for (int j = 0; j < operands; j++) s.strides[j][last] = strides[j];
    }
    return s;
}

bool kin_cuda_shape_has_packs(const kin_cuda_shape *s) {
    const int last = s->rank - 1;
    if (s->rank == 0 || s->dims[last] % PACK != 0) return false;
    for (int j = 0; j < s->operands; j++) {
        if (s->strides[j][last] == 0) continue;
        if (s->strides[j][last] != 1) return false;
        for (int axis = 0; axis < last; axis++)
            if (s->strides[j][axis] % PACK != 0) return false;
    }
    return true;
}

kin_cuda_shape kin_cuda_shape_in_packs(const kin_cuda_shape *shape) {
    kin_cuda_shape s = *shape;
    s.dims[s.rank - 1] /= PACK;
    s.count /= PACK;
    for (int j = 0; j < s.operands; j++) s.strides[j][s.rank - 1] *= PACK;
    return s;
}

kin_cuda_rows kin_cuda_rows_of(const kin_desc *desc) {
    kin_cuda_rows rows = {.rank = 0};
    for (int axis = 0; axis < desc->rank - 1; axis++) {
        int64_t dim = desc->dims[axis], stride = desc->strides[axis];
        int last = rows.rank - 1;
        if (dim == 1) continue;
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

bool kin_cuda_rows_are_dense(const kin_desc *desc) {
    return kin_cuda_row_width(desc) == 1 || desc->strides[desc->rank - 1] == 1;
}

bool kin_cuda_rows_have_packs(const kin_desc *desc) {
    if (kin_cuda_row_width(desc) % PACK != 0) return false;
    for (int axis = 0; axis < desc->rank - 1; axis++)
        if (desc->dims[axis] > 1 && desc->strides[axis] % PACK != 0) return false;
    return true;
}

int64_t kin_cuda_row_count(const kin_desc *desc) {
    int64_t count = 1;
    for (int axis = 0; axis < desc->rank - 1; axis++) count *= desc->dims[axis];
    return count;
}
