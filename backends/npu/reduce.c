/* Sums and maxima over axes. */
#include "npu.h"

#include "ops/reduce_attrs.h"

#include <math.h>

enum { REDUCED = 16384 }; /* elements of a tile */

/* A tensor's axes in three groups: kept ones in front, reduced ones, and the kept ones at the end,
 * which lie side by side in memory where the tensor is dense. */
typedef struct groups {
    npu_space part[3];
    int64_t sizes[KIN_MAX_RANK]; /* of boxes, over all groups */
} groups;

static void add_axis(npu_space *space, int64_t dim, int64_t in_step, int64_t out_step) {
    space->dims[space->rank] = dim;
    space->tensors[0].steps[space->rank] = in_step;
    space->tensors[1].steps[space->rank++] = out_step;
}

static groups group_axes(const kin_call *call) {
    const kin_reduce_attrs *attrs = call->attrs;
    const kin_desc *in = &call->in[0].desc, *out = &call->out[0].desc;
    groups g = {.sizes = {0}};
    int last = -1, at = 0; /* the last reduced axis that is longer than 1 */
    for (int axis = 0; axis < in->rank; axis++)
        if ((attrs->axes >> axis & 1) && in->dims[axis] > 1) last = axis;
    for (int i = 0; i < 3; i++) g.part[i].count = 2;
    for (int axis = 0; axis < in->rank; axis++) {
        bool reduced = attrs->axes >> axis & 1;
        int64_t out_step = reduced ? 0 : out->strides[at];
        if (!reduced || attrs->keep) at++;
        add_axis(&g.part[reduced       ? 1
                         : axis > last ? 2
                                       : 0],
                 in->dims[axis], in->strides[axis], out_step);
    }
    for (int i = 0; i < 3; i++) npu_space_join(&g.part[i]);
    return g;
}

/* All axes in one row, and the sizes of boxes; returns the rank. */
static int line_up(groups *g, int64_t *out_dims, npu_tensor *in, npu_tensor *out) {
    int rank = 0;
    for (int i = 0; i < 3; i++)
        for (int axis = 0; axis < g->part[i].rank; axis++, rank++) {
            out_dims[rank] = g->part[i].dims[axis];
            in->steps[rank] = g->part[i].tensors[0].steps[axis];
            out->steps[rank] = g->part[i].tensors[1].steps[axis];
        }
    npu_box_sizes(rank, out_dims, REDUCED, g->sizes);
    return rank;
}

static void place(npu_box *all, const npu_box *part, int first) {
    for (int axis = 0; axis < part->rank; axis++) {
        all->start[first + axis] = part->start[axis];
        all->size[first + axis] = part->size[axis];
    }
}

static void reduce(npu_compiler *compiler, const kin_call *call, npu_function function) {
    groups g = group_axes(call);
    npu_tensor in = npu_tensor_of(&call->in[0]), out = npu_tensor_of(&call->out[0]);
    int64_t dims[KIN_MAX_RANK];
    if (kin_desc_count(&call->out[0].desc) == 0) return;
    const int rank = line_up(&g, dims, &in, &out);
    const int first[3] = {0, g.part[0].rank, g.part[0].rank + g.part[1].rank};
    const int64_t *sizes[3] = {g.sizes, g.sizes + first[1], g.sizes + first[2]};
    uint64_t elements = (uint64_t)npu_count(rank, g.sizes);
    int tiles[2], sums[2], narrow = -1, turn = 0, sum_turn = 0;
    for (int i = 0; i < 2; i++) {
        tiles[i] = npu_take(compiler, elements * kin_dtype_size(in.dtype));
        sums[i] = npu_take(compiler, elements * sizeof(float));
    }
    if (out.dtype != KIN_F32) narrow = npu_take(compiler, elements * kin_dtype_size(out.dtype));
    npu_box outer = {.rank = 0};
    while (compiler->status == KIN_OK &&
           npu_box_next(g.part[0].rank, g.part[0].dims, sizes[0], &outer)) {
        npu_box inner = {.rank = 0};
        while (npu_box_next(g.part[2].rank, g.part[2].dims, sizes[2], &inner)) {
            npu_box terms = {.rank = 0}, all = {.rank = rank};
            npu_ref sum = {sums[sum_turn], 0, KIN_F32, 0};
            place(&all, &outer, first[0]);
            place(&all, &inner, first[2]);
            npu_vector vector = {
                .function = function, .x = npu_box_count(&outer), .z = npu_box_count(&inner)};
            if (npu_count(g.part[1].rank, g.part[1].dims) == 0)
                npu_emit_fill(compiler, sum, vector.x * vector.z,
                              function == NPU_FN_sum ? 0 : -INFINITY);
            while (npu_box_next(g.part[1].rank, g.part[1].dims, sizes[1], &terms)) {
                npu_ref tile = {tiles[turn], 0, in.dtype, 0};
                place(&all, &terms, first[1]);
                npu_load(compiler, &in, &all, tile.slot, 0, NULL);
                vector.y = npu_box_count(&terms);
                vector.count = vector.x * vector.y * vector.z;
                npu_emit_vector(compiler, vector, &tile, 1, &sum, 1);
                vector.q = 1;
                turn = !turn;
            }
            for (int axis = first[1]; axis < first[2]; axis++)
                all.start[axis] = 0, all.size[axis] = 1;
            if (narrow >= 0) {
                npu_ref to = {narrow, 0, out.dtype, 0};
                npu_emit_convert(compiler, sum, to, vector.x * vector.z);
                sum = to;
            }
            npu_store(compiler, &out, &all, sum.slot, 0, NULL);
            sum_turn = !sum_turn;
        }
    }
}

void npu_build_sum(npu_compiler *compiler, const kin_call *call) {
    reduce(compiler, call, NPU_FN_sum);
}

void npu_build_max(npu_compiler *compiler, const kin_call *call) {
    reduce(compiler, call, NPU_FN_max);
}
