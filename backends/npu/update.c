/* The updates of a training step. (accumulate is a sum like add, assign a copy.) */
#include "npu.h"

#include "ops/optimizer_attrs.h"

enum { UPDATED = 8192 };

/* A scalar in a tile of its own, or nothing if the operand is absent. */
static npu_ref load_scalar(npu_compiler *compiler, const kin_operand *operand) {
    npu_tensor from = npu_tensor_of(operand);
    npu_box one = {.rank = 0};
    npu_ref ref = {-1, 0, operand->desc.dtype, NPU_ALL};
    if (operand->desc.rank < 0) return ref;
    ref.slot = npu_take(compiler, kin_dtype_size(from.dtype));
    npu_load(compiler, &from, &one, ref.slot, 0, NULL);
    return ref;
}

static npu_tensor flat(const kin_operand *operand) {
    return (npu_tensor){operand->buffer, operand->offset, operand->desc.dtype, {1}};
}

/* Runs an element-wise update over dense tensors of `total` elements: refs in[count] and behind are
 * there already. */
static void run_parts(npu_compiler *compiler, npu_vector vector, int64_t total,
                      const kin_operand *const *operands, int count, npu_ref *in, int in_count,
                      const kin_operand *out, int out_count) {
    npu_ref tiles[2][NPU_IN], results[2][NPU_OUT];
    int turn = 0;
    uint64_t elements = (uint64_t)(total < UPDATED ? total : UPDATED);
    for (int set = 0; set < 2; set++) {
        for (int i = 0; i < in_count; i++) {
            if (i >= count) {
                tiles[set][i] = in[i];
                continue;
            }
            kin_dtype dtype = operands[i]->desc.dtype;
            tiles[set][i] =
                (npu_ref){npu_take(compiler, elements * kin_dtype_size(dtype)), 0, dtype, 0};
        }
        for (int j = 0; j < out_count; j++) {
            kin_dtype dtype = out[j].desc.dtype;
            results[set][j] =
                (npu_ref){npu_take(compiler, elements * kin_dtype_size(dtype)), 0, dtype, 0};
        }
    }
    for (int64_t at = 0; at < total && compiler->status == KIN_OK; at += UPDATED, turn = !turn) {
        vector.count = total - at < UPDATED ? total - at : UPDATED;
        npu_box box = {.rank = 1, .start = {at}, .size = {vector.count}};
        for (int i = 0; i < count; i++) {
            npu_tensor from = flat(operands[i]);
            npu_load(compiler, &from, &box, tiles[turn][i].slot, 0, NULL);
        }
        npu_emit_vector(compiler, vector, tiles[turn], in_count, results[turn], out_count);
        for (int j = 0; j < out_count; j++) {
            npu_tensor to = flat(&out[j]);
            npu_store(compiler, &to, &box, results[turn][j].slot, 0, NULL);
        }
    }
}

void npu_build_adamw(npu_compiler *compiler, const kin_call *call) {
    const kin_operand *operands[4] = {&call->in[0], &call->in[1], &call->in[2], &call->in[3]};
    npu_ref scalars[3], in[NPU_IN];
    for (int i = 0; i < 3; i++) scalars[i] = load_scalar(compiler, &call->in[4 + i]);
    in[4] = (npu_ref){npu_take(compiler, NPU_ALIGNMENT), 0, KIN_F32, NPU_ALL};
    npu_vector rates = {.function = NPU_FN_adamw_rate, .count = 5, .attrs = call->attrs};
    npu_emit_vector(compiler, rates, scalars, 3, &in[4], 1);
    npu_vector step = {.function = NPU_FN_adamw, .attrs = call->attrs};
    run_parts(compiler, step, kin_desc_count(&call->out[0].desc), operands, 4, in, 5, call->out, 3);
}

void npu_build_ema(npu_compiler *compiler, const kin_call *call) {
    const kin_operand *operands[2] = {&call->in[0], &call->in[1]};
    const kin_ema_attrs *attrs = call->attrs;
    npu_ref in[3];
    in[2] = load_scalar(compiler, &call->in[2]);
    npu_vector step = {.function = NPU_FN_ema, .p = attrs->decay};
    run_parts(compiler, step, kin_desc_count(&call->out[0].desc), operands, 2, in, 3, call->out, 1);
}
