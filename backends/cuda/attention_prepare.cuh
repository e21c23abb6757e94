/* What self_attention does to q and k before their products: pairs are turned by a table of cosines
 * and sines, then rows are normed; and the way back for their gradients. The table is made by
 * self_attention.cu, in the same call. */
#ifndef KIN_BACKENDS_CUDA_ATTENTION_PREPARE_CUH
#define KIN_BACKENDS_CUDA_ATTENTION_PREPARE_CUH

#include "backends/cuda/attention_mma.cuh"

/* Two neighbouring elements turned, and turned back. */
static __device__ __forceinline__ void attention_turn(float &x, float &y, float c, float s) {
    const float u = x;
    x = u * c - y * s;
    y = y * c + u * s;
}
static __device__ __forceinline__ void attention_turn_back(float &x, float &y, float c, float s) {
    attention_turn(x, y, c, -s);
}

/* 1 / sqrt(mean(x^2) + eps). */
static __device__ __forceinline__ float attention_factor(float square, int size, float eps) {
    return rsqrtf(square / (float)size + eps);
}

/* Elements column .. column + 7 of a row, turned in place. */
static __device__ __forceinline__ void attention_turn_pack(float (&v)[8], const float *turns,
                                                           int column) {
    float by[8];
    kin_load<8>(turns + column, by);
#pragma unroll
    for (int i = 0; i < 8; i += 2) attention_turn(v[i], v[i + 1], by[i], by[i + 1]);
}

/* Both gains as f32 in shared memory, [2][DP], with zeros behind `size`; by all threads of the
 * block, which wait afterwards. */
template <int DP>
static __device__ __forceinline__ void attention_fetch_gains(float *to, const attention_prepare &p,
                                                             int size) {
    for (int i = (int)threadIdx.x; i < DP; i += (int)blockDim.x) {
        to[i] = i < size ? kin_get(p.q_gain, i) : 0.0f;
        to[DP + i] = i < size ? kin_get(p.k_gain, i) : 0.0f;
    }
}

/* What tiles of rows need: by value, since both functions below are called, not put in place. That
 * keeps their registers out of the kernels' account. */
struct attention_tile_rows {
    int count, size; /* rows of the 16 that exist, and their elements */
    float eps;
    const float *gain;  /* [DP] in shared memory; NULL: no norm */
    const float *turns; /* of the first row, `size` for each; NULL: no turns */
};

/* The rows of a tile in shared memory: turned, normed, rounded to T again. Two lanes for each. */
template <typename T, int DP>
static __device__ __noinline__ void attention_prepare_tile(uint16_t *tile, attention_tile_rows rows,
                                                           int lane) {
    enum { PITCH = attention_tile<DP>::PITCH };
    const int row = lane / 2, size = rows.size;
    const bool turned = rows.turns != nullptr && row < rows.count;
    T *const own = reinterpret_cast<T *>(tile) + row * PITCH;
    const float *turns = rows.turns + (turned ? (int64_t)row * size : 0);
    float v[DP / 16][8], square = 0.0f;
#pragma unroll
    for (int j = 0; j < DP / 16; j++) {
        const int column = (2 * j + lane % 2) * 8;
        kin_load<8>(own + column, v[j]);
        if (turned && column < size) attention_turn_pack(v[j], turns, column);
#pragma unroll
        for (int i = 0; i < 8; i++) square = fmaf(v[j][i], v[j][i], square);
    }
    square += __shfl_xor_sync(0xffffffffu, square, 1);
    const float factor = attention_factor(square, size, rows.eps);
    if (row >= rows.count) return;
#pragma unroll
    for (int j = 0; j < DP / 16; j++) {
        const int column = (2 * j + lane % 2) * 8;
        if (rows.gain != nullptr) {
            float by[8];
            kin_load<8>(rows.gain + column, by);
#pragma unroll
            for (int i = 0; i < 8; i++) v[j][i] *= factor * by[i];
        }
        kin_store<8>(own + column, v[j]);
    }
}

/* The sums over the 16 rows of a tile of eight values for each row, of which two lanes have one
 * each: element `at` of out[at] is left in the lanes whose bits 4, 3, 2 spell `at`, the same in
 * both that differ in bit 1. Eight exchanges instead of 32, since each halves what goes on. */
static __device__ __forceinline__ float attention_sum_rows(const float (&v)[8], int lane) {
    float four[4], two[2];
    const bool b4 = (lane & 16) != 0, b3 = (lane & 8) != 0, b2 = (lane & 4) != 0;
#pragma unroll
    for (int i = 0; i < 4; i++)
        four[i] = (b4 ? v[4 + i] : v[i]) + __shfl_xor_sync(0xffffffffu, b4 ? v[i] : v[4 + i], 16);
#pragma unroll
    for (int i = 0; i < 2; i++)
        two[i] = (b3 ? four[2 + i] : four[i]) +
                 __shfl_xor_sync(0xffffffffu, b3 ? four[i] : four[2 + i], 8);
    float one = (b2 ? two[1] : two[0]) + __shfl_xor_sync(0xffffffffu, b2 ? two[0] : two[1], 4);
    return one + __shfl_xor_sync(0xffffffffu, one, 2);
}

/* The tile holds the gradient of prepared rows, and gets that of the rows x as they lie in memory.
 * With y = gain hat, hat = x factor: dx = factor (gain dy - hat mean(gain dy hat)). With a gain,
 * `sums` [DP] becomes the sum of dy hat over the rows: the tile's part of the gain's gradient. */
template <typename T, int DP>
static __device__ __noinline__ void attention_unprepare_tile(uint16_t *tile, const T *x,
                                                             int64_t step, attention_tile_rows rows,
                                                             float *sums, int lane) {
    enum { PITCH = attention_tile<DP>::PITCH };
    const int row = lane / 2, size = rows.size;
    const bool there = row < rows.count, turned = rows.turns != nullptr && there;
    T *const own = reinterpret_cast<T *>(tile) + row * PITCH;
    const T *const at = x + (there ? row * step : 0);
    const float *turns = rows.turns + (turned ? (int64_t)row * size : 0), *gain = rows.gain;
    float hat[DP / 16][8], factor = 1.0f, mean = 0.0f;
    if (gain != nullptr) {
        float square = 0.0f, dot = 0.0f;
#pragma unroll
        for (int j = 0; j < DP / 16; j++) {
            const int column = (2 * j + lane % 2) * 8;
            float d[8], by[8];
#pragma unroll
            for (int i = 0; i < 8; i++) hat[j][i] = 0.0f;
            if (there && column < size) kin_load<8>(at + column, hat[j]);
            if (turned && column < size) attention_turn_pack(hat[j], turns, column);
            kin_load<8>(own + column, d);
            kin_load<8>(gain + column, by);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                square = fmaf(hat[j][i], hat[j][i], square);
                dot = fmaf(d[i] * by[i], hat[j][i], dot);
            }
        }
        square += __shfl_xor_sync(0xffffffffu, square, 1);
        dot += __shfl_xor_sync(0xffffffffu, dot, 1);
        factor = there ? attention_factor(square, size, rows.eps) : 0.0f;
        mean = dot * factor * factor / (float)size;
    }
#pragma unroll
    for (int j = 0; j < DP / 16; j++) {
        const int column = (2 * j + lane % 2) * 8;
        float d[8];
        kin_load<8>(own + column, d);
        if (gain != nullptr) {
            float by[8], d_gain[8];
            kin_load<8>(gain + column, by);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                d_gain[i] = d[i] * factor * hat[j][i];
                d[i] = factor * (d[i] * by[i] - hat[j][i] * mean);
            }
            const float sum = attention_sum_rows(d_gain, lane);
            if ((lane & 2) == 0)
                sums[column + (lane & 16) / 4 + (lane & 8) / 4 + (lane & 4) / 4] = sum;
        }
        if (turned && column < size) {
            float by[8];
            kin_load<8>(turns + column, by);
#pragma unroll
            for (int i = 0; i < 8; i += 2) attention_turn_back(d[i], d[i + 1], by[i], by[i + 1]);
        }
        if (there) kin_store<8>(own + column, d);
    }
}

#endif
