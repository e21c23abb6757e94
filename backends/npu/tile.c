/* Cutting shapes into boxes that fit a tile, and moving tensors box by box. */
#include "npu.h"

npu_tensor npu_tensor_of(const kin_operand *operand) {
    npu_tensor tensor = {operand->buffer, operand->offset, operand->desc.dtype, {0}};
    for (int axis = 0; axis < operand->desc.rank; axis++)
        tensor.steps[axis] = operand->desc.strides[axis];
    return tensor;
}

npu_space npu_space_start(int rank, const int64_t *dims) {
    npu_space space = {.rank = rank};
    for (int axis = 0; axis < rank; axis++) space.dims[axis] = dims[axis];
    return space;
}

void npu_space_add(npu_space *space, const kin_operand *operand) {
    npu_tensor *tensor = &space->tensors[space->count++];
    const kin_desc *desc = &operand->desc;
    *tensor = (npu_tensor){operand->buffer, operand->offset, desc->dtype, {0}};
    for (int axis = 0; axis < space->rank; axis++) {
        int own = axis - (space->rank - desc->rank);
        bool repeated = own < 0 || desc->dims[own] == 1;
        tensor->steps[axis] = repeated ? 0 : desc->strides[own];
    }
}

static bool joins(const npu_space *space, int outer, int inner) {
    for (int t = 0; t < space->count; t++)
        if (space->tensors[t].steps[outer] != space->tensors[t].steps[inner] * space->dims[inner])
            return false;
    return true;
}

void npu_space_join(npu_space *space) {
    int rank = 0;
    for (int axis = 0; axis < space->rank; axis++) {
        if (space->dims[axis] == 1) continue;
        int into = rank;
        space->dims[into] = space->dims[axis];
        for (int t = 0; t < space->count; t++)
            space->tensors[t].steps[into] = space->tensors[t].steps[axis];
        rank++;
        if (into == 0 || !joins(space, into - 1, into)) continue;
        space->dims[into - 1] *= space->dims[into];
        for (int t = 0; t < space->count; t++)
            space->tensors[t].steps[into - 1] = space->tensors[t].steps[into];
        rank--;
    }
    space->rank = rank;
}

int64_t npu_count(int rank, const int64_t *dims) {
    int64_t count = 1;
    for (int axis = 0; axis < rank; axis++) count *= dims[axis];
    return count;
}

void npu_box_sizes(int rank, const int64_t *dims, int64_t limit, int64_t *out_sizes) {
    int loops = 0;
    bool full = true; /* the axes behind are whole */
    for (int axis = rank - 1; axis >= 0; axis--) {
        int64_t size = full && loops < NPU_LEVELS ? dims[axis] : 1;
        if (size > limit) size = limit > 1 ? limit : 1;
        full = full && size == dims[axis];
        if (size > 1) loops++;
        out_sizes[axis] = size;
        if (size) limit /= size;
    }
}

static void clip(int64_t size, int64_t dim, npu_box *box, int axis) {
    int64_t left = dim - box->start[axis];
    box->size[axis] = size < left ? size : left;
}

bool npu_box_next(int rank, const int64_t *dims, const int64_t *sizes, npu_box *box) {
    if (!box->started) {
        box->started = true;
        box->rank = rank;
        for (int axis = 0; axis < rank; axis++) {
            box->start[axis] = 0;
            clip(sizes[axis], dims[axis], box, axis);
        }
        return npu_count(rank, dims) > 0;
    }
    for (int axis = rank - 1; axis >= 0; axis--) {
        box->start[axis] += sizes[axis];
        bool inside = box->start[axis] < dims[axis];
        if (!inside) box->start[axis] = 0;
        clip(sizes[axis], dims[axis], box, axis);
        if (inside) return true;
    }
    return false;
}

int64_t npu_box_count(const npu_box *box) {
    return npu_count(box->rank, box->size);
}

void npu_move(npu_compiler *compiler, npu_space *space) {
    enum { MOVED = 32768 };
    int64_t sizes[KIN_MAX_RANK];
    size_t size = kin_dtype_size(space->tensors[0].dtype);
    if (npu_count(space->rank, space->dims) == 0) return;
    npu_space_join(space);
    npu_box_sizes(space->rank, space->dims, MOVED, sizes);
    uint64_t bytes = (uint64_t)npu_count(space->rank, sizes) * size;
    int slots[2] = {npu_take(compiler, bytes), npu_take(compiler, bytes)}, turn = 0;
    npu_box box = {.rank = 0};
    while (compiler->status == KIN_OK && npu_box_next(space->rank, space->dims, sizes, &box)) {
        npu_load(compiler, &space->tensors[0], &box, slots[turn], 0, NULL);
        npu_store(compiler, &space->tensors[1], &box, slots[turn], 0, NULL);
        turn = !turn;
    }
    npu_give(compiler, slots[0]);
    npu_give(compiler, slots[1]);
}
