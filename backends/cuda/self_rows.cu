/* Turns and RMS norms of q and k in memory, the way back for their gradients, the table of turns
 * and the sums of the gains' gradients: parts of self_attention.cu's calls. Bound by memory; rows
 * of at most 128 elements have 16 lanes, 8 elements each, others a warp that reads them again. */
#include "backends/cuda/self_attention.cuh"

#include <math.h>

namespace {

struct turn_args {
    int tokens, size, axes, inverse, bf16_table;
    double log2_theta, scales[KIN_ROPE_AXES];
};

enum { THREADS = 256, PACK_LANES = 16, PACK_MOST = PACK_LANES * 8 };

} // namespace

/* ---- the table of turns ---- */

static __device__ __forceinline__ double table_value(const turn_args &a, double value) {
    return a.bf16_table ? (double)kin_value(kin_rounded<kin_bf16>((float)value)) : value;
}

/* table[token][pair] = cosine, sine. */
static __global__ void self_turns(const float *positions, float *table, turn_args a) {
    const int index = (int)(blockIdx.x * blockDim.x + threadIdx.x), pairs = a.size / 2;
    if (index >= a.tokens * pairs) return;
    const int part = a.size / a.axes, half = part / 2;
    const int token = index / pairs, axis = index % pairs / half, i = index % pairs % half;
    const double position = positions[axis * a.tokens + token] / a.scales[axis];
    const double angle = table_value(a, position * exp2(-2.0 * i / part * a.log2_theta));
    const float s = (float)table_value(a, sin(angle));
    table[2 * index] = (float)table_value(a, cos(angle));
    table[2 * index + 1] = a.inverse ? -s : s;
}

/* ---- rows of q and k, and of their gradients ---- */

/* Row `index` of q (which 0) or k, heads going fastest, and its token. */
template <typename T>
static __device__ __forceinline__ T *row_of(const self_task &a, const attention_rows &rows,
                                            int64_t index, int *out_token) {
    const int h = (int)(index % a.heads);
    index /= a.heads;
    *out_token = (int)(index % a.tokens);
    index /= a.tokens;
    return static_cast<T *>(rows.data) + index / a.b1 * rows.steps[0] +
           index % a.b1 * rows.steps[1] + *out_token * rows.steps[2] + h * rows.steps[3];
}

static __device__ __forceinline__ const float *turns_of(const self_task &a, int token) {
    return a.prepare.turns == nullptr ? nullptr : a.prepare.turns + (int64_t)token * a.size;
}

/* Over 16 lanes. */
static __device__ __forceinline__ float half_warp_sum(float v) {
    for (int flip = 8; flip > 0; flip /= 2) v += __shfl_xor_sync(0xffffffffu, v, flip);
    return v;
}

/* Rows of at most 128 elements, a multiple of 8: 16 lanes have one, 8 elements each. */
template <typename T>
static __global__ void __launch_bounds__(THREADS) self_prepare_packs(self_task a) {
    const int which = (int)blockIdx.y, column = (int)threadIdx.x % PACK_LANES * 8;
    const int64_t row =
        (int64_t)blockIdx.x * (THREADS / PACK_LANES) + (int)threadIdx.x / PACK_LANES;
    const kin_ref gain = which == 0 ? a.prepare.q_gain : a.prepare.k_gain;
    const bool there = row < a.rows && column < a.size;
    int token = 0;
    float v[8] = {}, square = 0.0f;
    if (there) {
        kin_load<8>(row_of<const T>(a, a.from[which], row, &token) + column, v);
        const float *turns = turns_of(a, token);
        if (turns != nullptr) attention_turn_pack(v, turns, column);
    }
    if (gain.data != nullptr) {
#pragma unroll
        for (int i = 0; i < 8; i++) square = fmaf(v[i], v[i], square);
        const float factor = attention_factor(half_warp_sum(square), a.size, a.prepare.eps);
        float by[8] = {};
        if (there) kin_get_pack<8>(gain, column, by);
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] *= factor * by[i];
    }
    if (there) kin_store<8>(row_of<T>(a, a.to[which], row, &token) + column, v);
}

/* The gradient of prepared rows, `to`, becomes that of the rows `from`, in place; and the block's
 * part of the gain's gradient. */
template <typename T>
static __global__ void __launch_bounds__(THREADS) self_back_packs(self_task a) {
    __shared__ float sums[THREADS / PACK_LANES][PACK_MOST];
    const int which = (int)blockIdx.y, column = (int)threadIdx.x % PACK_LANES * 8;
    const int group = (int)threadIdx.x / PACK_LANES;
    const kin_ref gain = which == 0 ? a.prepare.q_gain : a.prepare.k_gain;
    float by[8] = {}, d_gain[8] = {};
    if (gain.data != nullptr && column < a.size) kin_get_pack<8>(gain, column, by);
    for (int i = group; i < SELF_BACK_ROWS; i += THREADS / PACK_LANES) {
        const int64_t row = (int64_t)blockIdx.x * SELF_BACK_ROWS + i;
        const bool there = row < a.rows && column < a.size;
        int token = 0;
        float hat[8] = {}, d[8] = {}, square = 0.0f, dot = 0.0f;
        T *const at = row_of<T>(a, a.to[which], there ? row : 0, &token);
        const float *turns = turns_of(a, token);
        if (there) kin_load<8>(at + column, d);
        if (gain.data != nullptr) {
            if (there) {
                kin_load<8>(row_of<const T>(a, a.from[which], row, &token) + column, hat);
                if (turns != nullptr) attention_turn_pack(hat, turns, column);
            }
#pragma unroll
            for (int j = 0; j < 8; j++) {
                square = fmaf(hat[j], hat[j], square);
                dot = fmaf(d[j] * by[j], hat[j], dot);
            }
            square = half_warp_sum(square);
            dot = half_warp_sum(dot);
            const float factor = there ? attention_factor(square, a.size, a.prepare.eps) : 0.0f;
            const float mean = dot * factor * factor / (float)a.size;
#pragma unroll
            for (int j = 0; j < 8; j++) {
                d_gain[j] = fmaf(d[j] * factor, hat[j], d_gain[j]);
                d[j] = factor * (d[j] * by[j] - hat[j] * mean);
            }
        }
        if (!there) continue;
        if (turns != nullptr) {
            float turn[8];
            kin_load<8>(turns + column, turn);
#pragma unroll
            for (int j = 0; j < 8; j += 2)
                attention_turn_back(d[j], d[j + 1], turn[j], turn[j + 1]);
        }
        kin_store<8>(at + column, d);
    }
    if (gain.data == nullptr) return;
#pragma unroll
    for (int j = 0; j < 8; j++) sums[group][column + j] = d_gain[j];
    __syncthreads();
    for (int i = (int)threadIdx.x; i < a.size; i += THREADS) {
        float sum = 0.0f;
        for (int g = 0; g < THREADS / PACK_LANES; g++) sum += sums[g][i];
        a.prepare.gain_parts[((int64_t)blockIdx.x * 2 + which) * a.size + i] = sum;
    }
}

/* Any rows: a warp has one, and reads it again where it needs it again. Elements come in pairs as
 * they are turned; without turns each is a pair with nothing. */
struct self_pair {
    int first, second; /* second -1: none */
    float c, s;
};

static __device__ __forceinline__ int pairs_of(const self_task &a) {
    return a.prepare.turns == nullptr ? a.size : a.size / 2;
}

static __device__ __forceinline__ self_pair pair_of(const self_task &a, int token, int i) {
    self_pair pair = {i, -1, 1.0f, 0.0f};
    if (a.prepare.turns == nullptr) return pair;
    const int half = a.part / 2, axis = i / half, rest = i % half;
    const float *turn = turns_of(a, token) + 2 * i;
    pair.first = axis * a.part + (a.interleaved ? 2 * rest : rest);
    pair.second = pair.first + (a.interleaved ? 1 : half);
    pair.c = turn[0];
    pair.s = turn[1];
    return pair;
}

/* The pair of a row, turned. */
template <typename T>
static __device__ __forceinline__ void load_pair(const T *row, const self_pair &pair, float *u,
                                                 float *v) {
    *u = kin_value(row[pair.first]);
    *v = pair.second < 0 ? 0.0f : kin_value(row[pair.second]);
    attention_turn(*u, *v, pair.c, pair.s);
}

template <typename T>
static __global__ void __launch_bounds__(THREADS) self_prepare_rows(self_task a) {
    const int which = (int)blockIdx.y, lane = (int)threadIdx.x % 32;
    const int64_t row = (int64_t)blockIdx.x * (THREADS / 32) + (int)threadIdx.x / 32;
    const kin_ref gain = which == 0 ? a.prepare.q_gain : a.prepare.k_gain;
    if (row >= a.rows) return;
    int token;
    const T *const x = row_of<const T>(a, a.from[which], row, &token);
    T *const y = row_of<T>(a, a.to[which], row, &token);
    float factor = 1.0f, square = 0.0f, u, v;
    if (gain.data != nullptr) {
        for (int i = lane; i < pairs_of(a); i += 32) {
            load_pair(x, pair_of(a, token, i), &u, &v);
            square = fmaf(u, u, fmaf(v, v, square));
        }
        factor = attention_factor(kin_warp_sum(square), a.size, a.prepare.eps);
    }
    for (int i = lane; i < pairs_of(a); i += 32) {
        const self_pair pair = pair_of(a, token, i);
        load_pair(x, pair, &u, &v);
        if (gain.data != nullptr) {
            u *= factor * kin_get(gain, pair.first);
            if (pair.second >= 0) v *= factor * kin_get(gain, pair.second);
        }
        y[pair.first] = kin_rounded<T>(u);
        if (pair.second >= 0) y[pair.second] = kin_rounded<T>(v);
    }
}

template <typename T>
static __global__ void __launch_bounds__(THREADS) self_back_rows(self_task a) {
    KIN_DYNAMIC_SHARED(float, sums); /* [warps][size] */
    const int which = (int)blockIdx.y, lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    const kin_ref gain = which == 0 ? a.prepare.q_gain : a.prepare.k_gain;
    const bool normed = gain.data != nullptr;
    float *const own = sums + warp * a.size;
    for (int i = lane; normed && i < a.size; i += 32) own[i] = 0.0f;
    __syncwarp();
    for (int j = warp; j < SELF_BACK_ROWS; j += THREADS / 32) {
        const int64_t row = (int64_t)blockIdx.x * SELF_BACK_ROWS + j;
        if (row >= a.rows) break;
        int token;
        const T *const x = row_of<const T>(a, a.from[which], row, &token);
        T *const d = row_of<T>(a, a.to[which], row, &token);
        float factor = 1.0f, mean = 0.0f, square = 0.0f, dot = 0.0f, u = 0.0f, v = 0.0f;
        for (int i = lane; normed && i < pairs_of(a); i += 32) {
            const self_pair pair = pair_of(a, token, i);
            load_pair(x, pair, &u, &v);
            square = fmaf(u, u, fmaf(v, v, square));
            dot = fmaf(kin_value(d[pair.first]) * kin_get(gain, pair.first), u, dot);
            if (pair.second >= 0)
                dot = fmaf(kin_value(d[pair.second]) * kin_get(gain, pair.second), v, dot);
        }
        if (normed) {
            factor = attention_factor(kin_warp_sum(square), a.size, a.prepare.eps);
            mean = kin_warp_sum(dot) * factor * factor / (float)a.size;
        }
        for (int i = lane; i < pairs_of(a); i += 32) {
            const self_pair pair = pair_of(a, token, i);
            const bool two = pair.second >= 0;
            float d_u = kin_value(d[pair.first]), d_v = two ? kin_value(d[pair.second]) : 0.0f;
            if (normed) {
                load_pair(x, pair, &u, &v);
                own[pair.first] = fmaf(d_u * factor, u, own[pair.first]);
                d_u = factor * (d_u * kin_get(gain, pair.first) - u * mean);
                if (two) {
                    own[pair.second] = fmaf(d_v * factor, v, own[pair.second]);
                    d_v = factor * (d_v * kin_get(gain, pair.second) - v * mean);
                }
            }
            attention_turn_back(d_u, d_v, pair.c, pair.s);
            d[pair.first] = kin_rounded<T>(d_u);
            if (two) d[pair.second] = kin_rounded<T>(d_v);
        }
    }
    if (!normed) return;
    __syncthreads();
    for (int i = (int)threadIdx.x; i < a.size; i += THREADS) {
        float sum = 0.0f;
        for (int w = 0; w < THREADS / 32; w++) sum += sums[w * a.size + i];
        a.prepare.gain_parts[((int64_t)blockIdx.x * 2 + which) * a.size + i] = sum;
    }
}

/* out[block][column] = the sum of SELF_SUM_ROWS rows: 32 columns and 8 rows at once. */
static __global__ void __launch_bounds__(THREADS)
    self_gain_sums(const float *parts, int64_t rows, int columns, kin_ref out) {
    __shared__ float sums[THREADS / 32][32];
    const int x = (int)threadIdx.x % 32, y = (int)threadIdx.x / 32;
    const int column = (int)blockIdx.x * 32 + x;
    const int64_t first = (int64_t)blockIdx.y * SELF_SUM_ROWS;
    const int64_t end = first + SELF_SUM_ROWS < rows ? first + SELF_SUM_ROWS : rows;
    float sum = 0.0f;
    if (column < columns)
        for (int64_t row = first + y; row < end; row += THREADS / 32)
            sum += parts[row * columns + column];
    sums[y][x] = sum;
    __syncthreads();
    if (y != 0 || column >= columns) return;
    for (int i = 1; i < THREADS / 32; i++) sum += sums[i][x];
    kin_put(out, (int64_t)blockIdx.y * columns + column, sum);
}

/* ---- launches ---- */

kin_status self_make_turns(kin_device *device, kin_commands *commands, const void *positions,
                           const kin_rope_attrs *rope, int tokens, int size, float *table) {
    turn_args a = {};
    a.tokens = tokens;
    a.size = size;
    a.axes = (int)rope->axes;
    a.inverse = (int)rope->inverse;
    a.bf16_table = (int)rope->bf16_table;
    a.log2_theta = log2(rope->theta);
    for (int i = 0; i < KIN_ROPE_AXES; i++) a.scales[i] = rope->scales[i];
    return kin_cuda_launch(device, commands, self_turns,
                           dim3(kin_cuda_blocks((int64_t)tokens * (size / 2), 128)), dim3(128), 0,
                           positions, table, a);
}

kin_status self_run_rows(kin_device *device, kin_commands *commands, kin_dtype dtype,
                         const self_task *task, bool packs, bool back) {
    const int64_t rows = back ? SELF_BACK_ROWS : packs ? THREADS / PACK_LANES : THREADS / 32;
    const dim3 grid(kin_cuda_blocks(task->rows, rows), 2), block(THREADS);
    return kin_with_real(dtype, [&](auto zero) {
        using T = decltype(zero);
        if (!back)
            return kin_cuda_launch(device, commands,
                                   packs ? self_prepare_packs<T> : self_prepare_rows<T>, grid,
                                   block, 0, *task);
        if (packs)
            return kin_cuda_launch(device, commands, self_back_packs<T>, grid, block, 0, *task);
        return kin_cuda_launch(device, commands, self_back_rows<T>, grid, block,
                               (size_t)(THREADS / 32) * task->size * sizeof(float), *task);
    });
}

kin_status self_sum_gains(kin_device *device, kin_commands *commands, float *parts, float *more,
                          int64_t rows, int columns, kin_ref out) {
    float *const places[2] = {parts, more};
    for (int i = 0;; i++) {
        const int64_t next = (rows + SELF_SUM_ROWS - 1) / SELF_SUM_ROWS;
        const kin_ref to = next == 1 ? out : kin_ref{places[1 - i % 2], KIN_F32};
        kin_status status = kin_cuda_launch(
            device, commands, self_gain_sums,
            dim3(kin_cuda_blocks(columns, 32), kin_cuda_blocks(rows, SELF_SUM_ROWS)), dim3(THREADS),
            0, places[i % 2], rows, columns, to);
        if (status != KIN_OK || next == 1) return status;
        rows = next;
    }
}
