/* Rows of tables, the features of timesteps, and random numbers. */
#include "npu.h"

#include "ops/embedding_attrs.h"
#include "ops/random_attrs.h"

#include <math.h>
#include <string.h>

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* A dense tensor as rows of `width` elements. */
static npu_tensor as_rows(const kin_operand *operand, int64_t width) {
    return (npu_tensor){operand->buffer, operand->offset, operand->desc.dtype, {width, 1}};
}

/* ---- embedding ---- */

void npu_build_embedding(npu_compiler *compiler, const kin_call *call) {
    enum { GATHERED = 32768 };
    const kin_desc *table = &call->in[0].desc;
    const int64_t width = table->dims[1], count = kin_desc_count(&call->in[1].desc);
    const int64_t columns = smaller(width, GATHERED);
    const int64_t rows =
        count < GATHERED / (columns ? columns : 1) + 1 ? count : GATHERED / (columns ? columns : 1);
    npu_tensor from = as_rows(&call->in[0], width), to = as_rows(&call->out[0], width);
    npu_tensor ids = {call->in[1].buffer, call->in[1].offset, call->in[1].desc.dtype, {1}};
    if (width == 0 || count == 0) return;
    int id_slots[2], tiles[2], turn = 0;
    for (int i = 0; i < 2; i++) {
        id_slots[i] = npu_take(compiler, (uint64_t)rows * kin_dtype_size(ids.dtype));
        tiles[i] = npu_take(compiler, (uint64_t)(rows * columns) * kin_dtype_size(from.dtype));
    }
    for (int64_t row = 0; row < count; row += rows)
        for (int64_t column = 0; column < width && compiler->status == KIN_OK; column += columns) {
            int64_t n = smaller(rows, count - row), c = smaller(columns, width - column);
            npu_box some = {.rank = 1, .start = {row}, .size = {n}};
            npu_box box = {.rank = 2, .start = {row, column}, .size = {n, c}};
            npu_ref wanted = {id_slots[turn], 0, ids.dtype, 0};
            npu_load(compiler, &ids, &some, wanted.slot, 0, NULL);
            npu_emit_gather(compiler, &from, table->dims[0], column, c, wanted, n, tiles[turn]);
            npu_store(compiler, &to, &box, tiles[turn], 0, NULL);
            turn = !turn;
        }
}

/* Adds to a tile of the table all rows whose ids fall into it, in their order. */
static void sum_rows(npu_compiler *compiler, const npu_tensor *dy, const npu_tensor *ids,
                     int64_t count, const npu_box *part, const int slots[4], npu_ref sum) {
    enum { AT_ONCE = 256 };
    int turn = 0;
    npu_emit_fill(compiler, sum, npu_box_count(part), 0);
    for (int64_t row = 0; row < count; row += AT_ONCE, turn = !turn) {
        int64_t n = smaller(AT_ONCE, count - row);
        npu_box some = {.rank = 1, .start = {row}, .size = {n}};
        npu_box rows = {.rank = 2, .start = {row, part->start[1]}, .size = {n, part->size[1]}};
        npu_ref in[2] = {{slots[turn], 0, dy->dtype, 0}, {slots[2 + turn], 0, ids->dtype, 0}};
        npu_vector add = {.function = NPU_FN_scatter,
                          .count = n * part->size[1],
                          .x = part->size[0],
                          .y = part->size[1],
                          .z = part->start[0]};
        npu_load(compiler, dy, &rows, in[0].slot, 0, NULL);
        npu_load(compiler, ids, &some, in[1].slot, 0, NULL);
        npu_emit_vector(compiler, add, in, 2, &sum, 1);
    }
}

void npu_build_embedding_grad(npu_compiler *compiler, const kin_call *call) {
    enum { ROWS = 256, COLUMNS = 256 };
    const kin_desc *out = &call->out[0].desc;
    const int64_t count = kin_desc_count(&call->in[1].desc), width = out->dims[1];
    const int64_t sizes[2] = {smaller(out->dims[0], ROWS), smaller(width, COLUMNS)};
    npu_tensor dy = as_rows(&call->in[0], width), to = as_rows(&call->out[0], width);
    npu_tensor ids = {call->in[1].buffer, call->in[1].offset, call->in[1].desc.dtype, {1}};
    const uint64_t tile = (uint64_t)(sizes[0] * sizes[1]);
    int slots[4];
    npu_ref sum = {npu_take(compiler, tile * sizeof(float)), 0, KIN_F32, 0};
    npu_ref narrow = {-1, 0, to.dtype, 0};
    npu_box part = {.rank = 0};
    for (int i = 0; i < 2; i++) {
        slots[i] = npu_take(compiler, 256 * (uint64_t)sizes[1] * kin_dtype_size(dy.dtype));
        slots[2 + i] = npu_take(compiler, 256 * kin_dtype_size(ids.dtype));
    }
    if (to.dtype != KIN_F32) narrow.slot = npu_take(compiler, tile * kin_dtype_size(to.dtype));
    while (compiler->status == KIN_OK && npu_box_next(2, out->dims, sizes, &part)) {
        sum_rows(compiler, &dy, &ids, count, &part, slots, sum);
        if (narrow.slot >= 0) npu_emit_convert(compiler, sum, narrow, npu_box_count(&part));
        npu_store(compiler, &to, &part, narrow.slot >= 0 ? narrow.slot : sum.slot, 0, NULL);
    }
}

/* ---- timesteps ---- */

/* One instruction for each frequency: the cosines, or sines, of all timesteps at hand. The
 * frequency in turns is the sum of two floats. */
static void frequency(npu_compiler *compiler, const kin_timestep_embedding_attrs *attrs, int64_t k,
                      npu_ref t, int64_t count, npu_ref tile) {
    const double two_pi = 6.283185307179586477;
    int64_t half = attrs->dim / 2;
    double turns = pow(attrs->max_period, -(double)(k % half) / (double)half) / two_pi;
    npu_vector wave = {.function = k < half ? NPU_FN_cosine : NPU_FN_sine, .count = count};
    wave.p = (double)(float)turns;
    wave.q = turns - wave.p;
    npu_emit_vector(compiler, wave, &t, 1, &tile, 1);
}

void npu_build_timestep(npu_compiler *compiler, const kin_call *call) {
    enum { STEPS = 256, FEATURES = 128 };
    const kin_timestep_embedding_attrs *attrs = call->attrs;
    const int64_t total = call->in[0].desc.dims[0], steps = smaller(total, STEPS);
    npu_tensor from = npu_tensor_of(&call->in[0]), to = npu_tensor_of(&call->out[0]);
    npu_ref raw = {npu_take(compiler, (uint64_t)steps * kin_dtype_size(from.dtype)), 0, from.dtype,
                   0};
    npu_ref t = {npu_take(compiler, (uint64_t)steps * sizeof(float)), 0, KIN_F32, 0};
    int tile = npu_take(compiler, (uint64_t)(steps * FEATURES) * sizeof(float));
    for (int64_t at = 0; at < total; at += STEPS) {
        int64_t n = smaller(steps, total - at);
        npu_box some = {.rank = 1, .start = {at}, .size = {n}};
        npu_load(compiler, &from, &some, raw.slot, 0, NULL);
        npu_emit_convert(compiler, raw, t, n);
        for (int64_t k = 0; k < attrs->dim && compiler->status == KIN_OK; k += FEATURES) {
            int64_t features = smaller(FEATURES, attrs->dim - k);
            npu_box box = {.rank = 2, .start = {at, k}, .size = {n, features}};
            const int64_t tile_steps[2] = {1, n};
            for (int64_t i = 0; i < features; i++) {
                npu_ref row = {tile, (uint32_t)((size_t)(i * n) * sizeof(float)), KIN_F32, 0};
                if (k + i < attrs->dim / 2 * 2) frequency(compiler, attrs, k + i, t, n, row);
                else npu_emit_fill(compiler, row, n, 0);
            }
            npu_store(compiler, &to, &box, tile, 0, tile_steps);
        }
    }
}

/* ---- random numbers ---- */

void npu_build_random(npu_compiler *compiler, const kin_call *call) {
    enum { DRAWN = 16384 };
    const kin_random_attrs *attrs = call->attrs;
    const int64_t total = kin_desc_count(&call->out[0].desc);
    npu_tensor seed = npu_tensor_of(&call->in[0]);
    npu_tensor to = {call->out[0].buffer, call->out[0].offset, KIN_F32, {1}};
    npu_ref key = {npu_take(compiler, 2 * sizeof(int64_t)), 0, KIN_I64, 0};
    npu_box pair = {.rank = 1, .size = {2}};
    int tiles[2], turn = 0;
    for (int i = 0; i < 2; i++)
        tiles[i] = npu_take(compiler, (uint64_t)smaller(total, DRAWN) * sizeof(float));
    npu_load(compiler, &seed, &pair, key.slot, 0, NULL);
    for (int64_t at = 0; at < total && compiler->status == KIN_OK; at += DRAWN, turn = !turn) {
        npu_ref tile = {tiles[turn], 0, KIN_F32, 0};
        npu_vector draw = {.function = strcmp(call->op, "random_normal") == 0 ? NPU_FN_normal
                                                                              : NPU_FN_uniform,
                           .count = smaller(DRAWN, total - at),
                           .x = attrs->stream,
                           .y = at};
        npu_box box = {.rank = 1, .start = {at}, .size = {draw.count}};
        npu_emit_vector(compiler, draw, &key, 1, &tile, 1);
        npu_store(compiler, &to, &box, tile.slot, 0, NULL);
    }
}
