/* The kernel list: the primitives and the updates of docs/ops.md, and nothing else. */
#include "npu.h"

#include <string.h>

/* What is stored: f32, bf16 and the integers. */
static bool is_stored(const kin_operand *operand) {
    switch (operand->desc.dtype) {
    case KIN_F32:
    case KIN_BF16:
    case KIN_I32:
    case KIN_I64:
    case KIN_U8:
    case KIN_BOOL:
        return true;
    default:
        return operand->desc.rank < 0;
    }
}

static bool can(const kin_device *device, const kin_call *call) {
    (void)device;
    for (int i = 0; i < call->in_count; i++)
        if (!is_stored(&call->in[i])) return false;
    for (int j = 0; j < call->out_count; j++)
        if (!is_stored(&call->out[j])) return false;
    return true;
}

/* Rows: op, inputs that may be views, inputs that output 0 may lie on. The DMA engine reads any
 * view; tables, ids and what updates write are dense. */
#define ROW(op, strided, in_place, build, function)                                                \
    { {#op, "npu_" #op, strided, in_place, can, NULL, NULL}, build, function }
#define MOVE(op, strided, build) ROW(op, strided, 0, build, NPU_FN_COUNT)
#define MAP(op, strided, in_place) ROW(op, strided, in_place, npu_build_map, NPU_FN_##op)
#define UNARY_ROWS(op, ...) MAP(op, 1, 1), MAP(op##_grad, 3, 3),

static const npu_row rows[] = {
    MOVE(copy, 1, npu_build_copy),
    MOVE(cast, 1, npu_build_cast),
    MOVE(fill, 0, npu_build_fill),
    MOVE(one, 0, npu_build_one),
    MOVE(concat, ~UINT64_C(0), npu_build_concat),
    MOVE(slice_grad, 1, npu_build_slice_grad),
    MOVE(matmul, 3, npu_build_matmul),
    MOVE(sum, 1, npu_build_sum),
    MOVE(max, 1, npu_build_max),
    MOVE(conv_patches, 1, npu_build_patches),
    MOVE(conv_patches_grad, 1, npu_build_patches_grad),
    MOVE(embedding, 0, npu_build_embedding),
    MOVE(embedding_grad, 0, npu_build_embedding_grad),
    MOVE(timestep_embedding, 1, npu_build_timestep),
    MOVE(random_normal, 1, npu_build_random),
    MOVE(random_uniform, 1, npu_build_random),
    MOVE(adamw, 0, npu_build_adamw),
    MOVE(ema, 0, npu_build_ema),
    MOVE(assign, 2, npu_build_assign),
    ROW(accumulate, 2, 0, npu_build_map, NPU_FN_add),
    MAP(where, 7, 6),
    KX_UNARY(UNARY_ROWS) /* exp, exp_grad, log, ... */
    MAP(neg, 1, 1),
    MAP(scale, 1, 1),
    MAP(add, 3, 3),
    MAP(sub, 3, 3),
    MAP(mul, 3, 3),
    MAP(div, 3, 3),
    MAP(maximum, 3, 3),
    MAP(minimum, 3, 3),
    MAP(less, 3, 3),
    MAP(greater, 3, 3),
};

enum { ROWS = sizeof rows / sizeof *rows };

const npu_row *npu_row_at(size_t index) {
    return index < ROWS ? &rows[index] : NULL;
}

npu_function npu_function_of(const char *op) {
    for (size_t i = 0; i < ROWS; i++)
        if (strcmp(rows[i].kernel.op, op) == 0) return rows[i].function;
    return NPU_FN_COUNT;
}
