/* Ops that take elements one by one, and ops that only move them. */
#include "npu.h"

#include "ops/elementwise_attrs.h"
#include "ops/layout_attrs.h"
#include "ops/views_attrs.h"

enum { MAPPED = 8192 }; /* elements of a tile: 32 KiB of f32 */

/* One value for all of the tensor. */
static bool is_one_value(const npu_space *space, int tensor) {
    for (int axis = 0; axis < space->rank; axis++)
        if (space->tensors[tensor].steps[axis] != 0) return false;
    return true;
}

/* Loads a box. Where the tensor stands still along the last axis one element of each row is enough:
 * the vector unit repeats it. */
static void load_box(npu_compiler *compiler, const npu_space *space, int tensor, npu_box box,
                     npu_ref *ref) {
    const npu_tensor *from = &space->tensors[tensor];
    const int last = space->rank - 1;
    ref->repeat = 0;
    if (from->steps[last] == 0) {
        ref->repeat = box.size[last];
        box.size[last] = 1;
    }
    npu_load(compiler, from, &box, ref->slot, 0, NULL);
}

static void load_value(npu_compiler *compiler, const npu_tensor *from, int slot) {
    npu_box one = {.rank = 0};
    npu_load(compiler, from, &one, slot, 0, NULL);
}

/* Loads a box of every input, computes, stores a box of the output. Two sets of tiles alternate, so
 * that the next box is loaded while this one is computed. */
void npu_build_map(npu_compiler *compiler, const kin_call *call) {
    const kin_desc *shape = &call->out[0].desc;
    const kin_elementwise_attrs *attrs = call->attrs;
    npu_space space = npu_space_start(shape->rank, shape->dims);
    npu_vector vector = {.function = npu_function_of(call->op)};
    bool has_attrs = vector.function == NPU_FN_scale || vector.function == NPU_FN_clamp ||
                     vector.function == NPU_FN_clamp_grad;
    int64_t sizes[KIN_MAX_RANK];
    int count = call->in_count, turn = 0;
    npu_ref refs[2][NPU_IN], out[2];
    if (kin_desc_count(shape) == 0) return;
    if (has_attrs) vector.p = attrs->p, vector.q = attrs->q;
    for (int i = 0; i < count; i++) npu_space_add(&space, &call->in[i]);
    npu_space_add(&space, &call->out[0]);
    npu_space_join(&space);
    npu_box_sizes(space.rank, space.dims, MAPPED, sizes);
    uint64_t elements = (uint64_t)npu_count(space.rank, sizes);
    for (int set = 0; set < 2; set++) {
        for (int i = 0; i < count; i++) {
            kin_dtype dtype = space.tensors[i].dtype;
            bool one = is_one_value(&space, i);
            int slot = one && set
                           ? refs[0][i].slot
                           : npu_take(compiler, (one ? 1 : elements) * kin_dtype_size(dtype));
            refs[set][i] = (npu_ref){slot, 0, dtype, one ? NPU_ALL : 0};
            if (one && set == 0) load_value(compiler, &space.tensors[i], slot);
        }
        kin_dtype dtype = space.tensors[count].dtype;
        out[set] = (npu_ref){npu_take(compiler, elements * kin_dtype_size(dtype)), 0, dtype, 0};
    }
    npu_box box = {.rank = 0};
    while (compiler->status == KIN_OK && npu_box_next(space.rank, space.dims, sizes, &box)) {
        for (int i = 0; i < count; i++)
            if (refs[turn][i].repeat != NPU_ALL) load_box(compiler, &space, i, box, &refs[turn][i]);
        vector.count = npu_box_count(&box);
        npu_emit_vector(compiler, vector, refs[turn], count, &out[turn], 1);
        npu_store(compiler, &space.tensors[count], &box, out[turn].slot, 0, NULL);
        turn = !turn;
    }
}

void npu_build_cast(npu_compiler *compiler, const kin_call *call) {
    const kin_desc *shape = &call->out[0].desc;
    npu_space space = npu_space_start(shape->rank, shape->dims);
    int64_t sizes[KIN_MAX_RANK];
    npu_ref refs[2][2];
    int turn = 0;
    npu_space_add(&space, &call->in[0]);
    npu_space_add(&space, &call->out[0]);
    npu_space_join(&space);
    npu_box_sizes(space.rank, space.dims, MAPPED, sizes);
    uint64_t elements = (uint64_t)npu_count(space.rank, sizes);
    for (int set = 0; set < 2; set++)
        for (int side = 0; side < 2; side++) {
            kin_dtype dtype = space.tensors[side].dtype;
            int slot = npu_take(compiler, elements * kin_dtype_size(dtype));
            refs[set][side] = (npu_ref){slot, 0, dtype, 0};
        }
    npu_box box = {.rank = 0};
    while (compiler->status == KIN_OK && npu_box_next(space.rank, space.dims, sizes, &box)) {
        npu_load(compiler, &space.tensors[0], &box, refs[turn][0].slot, 0, NULL);
        npu_emit_convert(compiler, refs[turn][0], refs[turn][1], npu_box_count(&box));
        npu_store(compiler, &space.tensors[1], &box, refs[turn][1].slot, 0, NULL);
        turn = !turn;
    }
}

/* ---- moves ---- */

static void move(npu_compiler *compiler, const kin_operand *from, const npu_tensor *to) {
    npu_space space = npu_space_start(from->desc.rank, from->desc.dims);
    npu_space_add(&space, from);
    space.tensors[space.count++] = *to;
    npu_move(compiler, &space);
}

void npu_build_copy(npu_compiler *compiler, const kin_call *call) {
    npu_tensor to = npu_tensor_of(&call->out[0]);
    move(compiler, &call->in[0], &to);
}

void npu_build_assign(npu_compiler *compiler, const kin_call *call) {
    npu_tensor to = npu_tensor_of(&call->out[0]);
    move(compiler, &call->in[1], &to);
}

/* Stores one tile of a value over a tensor. */
static void fill_tensor(npu_compiler *compiler, const npu_tensor *to, int rank, const int64_t *dims,
                        double value) {
    enum { FILLED = 16384 };
    npu_space space = npu_space_start(rank, dims);
    int64_t sizes[KIN_MAX_RANK];
    npu_box box = {.rank = 0};
    space.tensors[space.count++] = *to;
    if (npu_count(rank, dims) == 0) return;
    npu_space_join(&space);
    npu_box_sizes(space.rank, space.dims, FILLED, sizes);
    int64_t elements = npu_count(space.rank, sizes);
    int slot = npu_take(compiler, (uint64_t)elements * kin_dtype_size(to->dtype));
    npu_emit_fill(compiler, (npu_ref){slot, 0, to->dtype, 0}, elements, value);
    while (compiler->status == KIN_OK && npu_box_next(space.rank, space.dims, sizes, &box))
        npu_store(compiler, &space.tensors[0], &box, slot, 0, NULL);
    npu_give(compiler, slot);
}

void npu_build_fill(npu_compiler *compiler, const kin_call *call) {
    npu_tensor to = npu_tensor_of(&call->out[0]);
    const kin_desc *desc = &call->out[0].desc;
    fill_tensor(compiler, &to, desc->rank, desc->dims,
                ((const kin_fill_attrs *)call->attrs)->value);
}

void npu_build_one(npu_compiler *compiler, const kin_call *call) {
    npu_tensor to = npu_tensor_of(&call->out[0]);
    fill_tensor(compiler, &to, call->out[0].desc.rank, call->out[0].desc.dims, 1);
}

/* The part of a tensor that starts at `start` of an axis. */
static npu_tensor part_of(const kin_operand *operand, int axis, int64_t start) {
    npu_tensor tensor = npu_tensor_of(operand);
    tensor.offset += (uint64_t)(start * tensor.steps[axis]) * kin_dtype_size(tensor.dtype);
    return tensor;
}

void npu_build_concat(npu_compiler *compiler, const kin_call *call) {
    const int axis = (int)((const kin_concat_attrs *)call->attrs)->axis;
    int64_t start = 0;
    for (int i = 0; i < call->in_count; i++) {
        npu_tensor to = part_of(&call->out[0], axis, start);
        move(compiler, &call->in[i], &to);
        start += call->in[i].desc.dims[axis];
    }
}

void npu_build_slice_grad(npu_compiler *compiler, const kin_call *call) {
    const kin_slice_grad_attrs *attrs = call->attrs;
    const int axis = (int)attrs->axis;
    const kin_desc *in = &call->in[0].desc;
    int64_t end = attrs->start + in->dims[axis], dims[KIN_MAX_RANK];
    for (int a = 0; a < in->rank; a++) dims[a] = in->dims[a];
    npu_tensor before = part_of(&call->out[0], axis, 0), behind = part_of(&call->out[0], axis, end);
    npu_tensor middle = part_of(&call->out[0], axis, attrs->start);
    dims[axis] = attrs->start;
    fill_tensor(compiler, &before, in->rank, dims, 0);
    dims[axis] = attrs->size - end;
    fill_tensor(compiler, &behind, in->rank, dims, 0);
    move(compiler, &call->in[0], &middle);
}
