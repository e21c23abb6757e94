/* Helpers of references and shape rules: walking all elements of a tensor, and broadcasting. */
#ifndef KIN_OPS_WALK_H
#define KIN_OPS_WALK_H

#include <string.h>

#include "runtime/tensor.h"

/* An operand walked in the order of a shape that it is broadcast to. */
typedef struct kin_walk {
    int rank;
    int64_t dims[KIN_MAX_RANK];
    int64_t index[KIN_MAX_RANK];
    int64_t strides[KIN_MAX_RANK];
    int64_t offset; /* of the current element */
} kin_walk;

/* Starts at element 0. operand has at most `rank` axes, aligned at the end; those of size 1 repeat
 * where dims says more. */
static inline kin_walk kin_walk_start(const kin_desc *operand, int rank, const int64_t *dims) {
    kin_walk walk;
    memset(&walk, 0, sizeof walk);
    walk.rank = rank;
    for (int i = 0; i < rank; i++) {
        int axis = i - (rank - operand->rank);
        walk.dims[i] = dims[i];
        walk.strides[i] = axis < 0 || operand->dims[axis] == 1 ? 0 : operand->strides[axis];
    }
    return walk;
}

/* Goes on to the next element in row-major order; after the last one comes the first again. */
static inline void kin_walk_next(kin_walk *walk) {
    for (int i = walk->rank - 1; i >= 0; i--) {
        walk->offset += walk->strides[i];
        if (++walk->index[i] < walk->dims[i]) return;
        walk->offset -= walk->strides[i] * walk->dims[i];
        walk->index[i] = 0;
    }
}

/* Widens a shape (out_rank, out_dims; start with rank 0) by that of one more operand. False if
 * they do not go together. */
static inline bool kin_broadcast_shape(int *out_rank, int64_t *out_dims, int rank,
                                       const int64_t *dims) {
    int wide = *out_rank > rank ? *out_rank : rank;
    int64_t joined[KIN_MAX_RANK];
    for (int i = 0; i < wide; i++) {
        int have = i - (wide - *out_rank), more = i - (wide - rank);
        int64_t a = have < 0 ? 1 : out_dims[have], b = more < 0 ? 1 : dims[more];
        if (a != b && a != 1 && b != 1) return false;
        joined[i] = a == 1 ? b : a;
    }
    for (int i = 0; i < wide; i++) out_dims[i] = joined[i];
    *out_rank = wide;
    return true;
}

#endif
