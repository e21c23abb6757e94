/* Parts of the attention kernels that use mma: tiles of rows in shared memory, products of tiles,
 * and results back to memory. A warp has MT x 16 rows of the result, and walks over the other
 * side.
 *
 * Heads are padded with zeros to DP elements in shared memory only; rows there are DP + 8 elements
 * apart, an odd number of 16-byte pieces, so that the eight rows that ldmatrix reads lie in
 * different banks. */
#ifndef KIN_BACKENDS_CUDA_ATTENTION_MMA_CUH
#define KIN_BACKENDS_CUDA_ATTENTION_MMA_CUH

#include "backends/cuda/attention.cuh"
#include "backends/cuda/mma.cuh"

template <int DP> struct attention_tile {
    enum { PITCH = DP + 8, STEPS = DP / 16, COLUMNS = DP / 8 };
};

/* Begins to copy ROWS rows of which `count` exist; the others become zeros. THREADS threads take
 * part, this one is `thread`. */
template <int DP, int ROWS, int THREADS>
static __device__ __forceinline__ void attention_fetch(uint16_t *tile, const uint16_t *from,
                                                       int64_t step, int count, int size,
                                                       int thread) {
    enum { PIECES = DP / 8 };
#pragma unroll 2
    for (int i = thread; i < ROWS * PIECES; i += THREADS) {
        const int row = i / PIECES, column = i % PIECES * 8;
        const bool inside = row < count && column < size;
        kin_copy16(tile + row * attention_tile<DP>::PITCH + column,
                   inside ? from + row * step + column : from, inside);
    }
}

/* s = rows columns^T, for MT x 16 rows and NT x 8 columns, both of DP elements. */
template <typename T, int DP, int MT, int NT>
static __device__ __forceinline__ void attention_scores(float (&s)[MT][NT][4], const uint16_t *rows,
                                                        const uint16_t *columns, int lane) {
    enum { PITCH = attention_tile<DP>::PITCH };
    kin_mma_clear(s);
#pragma unroll
    for (int k = 0; k < DP / 16; k++) {
        uint32_t left[MT][4];
#pragma unroll
        for (int m = 0; m < MT; m++)
            kin_load_a<PITCH>(left[m], rows + m * 16 * PITCH + k * 16, lane);
#pragma unroll
        for (int n = 0; n < NT; n += 2) {
            uint32_t right[4];
            kin_load_b<PITCH>(right, columns + n * 8 * PITCH + k * 16, lane);
#pragma unroll
            for (int m = 0; m < MT; m++) {
                kin_mma<T>(s[m][n], left[m], right[0], right[1]);
                kin_mma<T>(s[m][n + 1], left[m], right[2], right[3]);
            }
        }
    }
}

/* out += p rows, where p (MT x 16 by NT x 8) is a result of attention_scores, rounded to T here. */
template <typename T, int DP, int MT, int NT>
static __device__ __forceinline__ void attention_add(float (&out)[MT][DP / 8][4],
                                                     const float (&p)[MT][NT][4],
                                                     const uint16_t *rows, int lane) {
    enum { PITCH = attention_tile<DP>::PITCH };
#pragma unroll
    for (int k = 0; k < NT / 2; k++) {
        uint32_t left[MT][4];
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                left[m][i] =
                    kin_pair<T>(p[m][2 * k + i / 2][i % 2 * 2], p[m][2 * k + i / 2][i % 2 * 2 + 1]);
#pragma unroll
        for (int n = 0; n < DP / 8; n += 2) {
            uint32_t right[4];
            kin_load_b_rows<PITCH>(right, rows + k * 16 * PITCH + n * 8, lane);
#pragma unroll
            for (int m = 0; m < MT; m++) {
                kin_mma<T>(out[m][n], left[m], right[0], right[1]);
                kin_mma<T>(out[m][n + 1], left[m], right[2], right[3]);
            }
        }
    }
}

/* The warp's rows times factor[m][0] (rows g) and factor[m][1] (rows g + 8), rounded to T, to
 * `tile`: MT x 16 rows of shared memory that are the warp's own. */
template <typename T, int DP, int MT>
static __device__ __forceinline__ void attention_keep(uint16_t *tile,
                                                      const float (&x)[MT][DP / 8][4],
                                                      const float (&factor)[MT][2], int lane) {
    enum { PITCH = attention_tile<DP>::PITCH };
    const int g = lane / 4, t = lane % 4;
    __syncwarp();
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < DP / 8; n++)
#pragma unroll
            for (int half = 0; half < 2; half++)
                *reinterpret_cast<uint32_t *>(tile + (m * 16 + g + half * 8) * PITCH + n * 8 +
                                              2 * t) =
                    kin_pair<T>(x[m][n][2 * half] * factor[m][half],
                                x[m][n][2 * half + 1] * factor[m][half]);
    __syncwarp();
}

/* Stores ROWS rows of the warp's tile, of which `count` exist; `to` is the first. */
template <int DP, int ROWS>
static __device__ __forceinline__ void attention_send(uint16_t *to, int64_t step, int count,
                                                      int size, const uint16_t *tile, int lane) {
    enum { PITCH = attention_tile<DP>::PITCH, PIECES = DP / 8 };
    for (int i = lane; i < ROWS * PIECES; i += 32) {
        const int row = i / PIECES, column = i % PIECES * 8;
        if (row < count && column < size)
            *reinterpret_cast<uint4 *>(to + row * step + column) =
                *reinterpret_cast<const uint4 *>(tile + row * PITCH + column);
    }
}

/* Both. */
template <typename T, int DP, int MT>
static __device__ __forceinline__ void
attention_store(uint16_t *to, int64_t step, int count, int size, const float (&x)[MT][DP / 8][4],
                const float (&factor)[MT][2], uint16_t *tile, int lane) {
    attention_keep<T, DP>(tile, x, factor, lane);
    attention_send<DP, MT * 16>(to, step, count, size, tile, lane);
}

/* The sum and the largest over the four lanes that share a row. */
static __device__ __forceinline__ float attention_row_sum(float v) {
    v += __shfl_xor_sync(0xffffffffu, v, 1);
    return v + __shfl_xor_sync(0xffffffffu, v, 2);
}
static __device__ __forceinline__ float attention_row_max(float v) {
    v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 1));
    return fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 2));
}

/* A running softmax of MT x 16 rows. */
template <int MT> struct attention_softmax {
    float top[MT][2];   /* the largest score so far, in powers of 2 */
    float total[MT][2]; /* this lane's part of the sum of 2^(score - top) */
};

template <int MT> static __device__ __forceinline__ void attention_begin(attention_softmax<MT> &x) {
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            x.top[m][half] = -INFINITY;
            x.total[m][half] = 0.0f;
        }
}

/* s becomes 2^(scale s - top), and `out` is rescaled where the top has grown. scale is positive. */
template <int DP, int MT, int NT>
static __device__ __forceinline__ void attention_weigh(attention_softmax<MT> &x,
                                                       float (&s)[MT][NT][4], float scale,
                                                       float (&out)[MT][DP / 8][4]) {
#pragma unroll
    for (int m = 0; m < MT; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float most = -INFINITY, sum = 0.0f;
#pragma unroll
            for (int n = 0; n < NT; n++)
                most = fmaxf(most, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
            const float top = fmaxf(x.top[m][half], attention_row_max(most) * scale);
            const float base = attention_base(top);
            const float factor = kin_exp2(x.top[m][half] - base);
            x.top[m][half] = top;
#pragma unroll
            for (int n = 0; n < NT; n++)
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; i++) {
                    s[m][n][i] = kin_exp2(fmaf(s[m][n][i], scale, -base));
                    sum += s[m][n][i];
                }
            x.total[m][half] = x.total[m][half] * factor + sum;
#pragma unroll
            for (int n = 0; n < DP / 8; n++) {
                out[m][n][2 * half] *= factor;
                out[m][n][2 * half + 1] *= factor;
            }
        }
    }
}

/* Adds the bias to scores of rows from `row` on and columns from `column` on, after which they
 * count in powers of 2, and takes out columns from `limit` on. by_key: rows are keys and columns
 * queries; then the bias is asked for at [column][row], and rows from `limit` on are taken out. */
template <int MT, int NT>
static __device__ __forceinline__ void
attention_mask(const attention_args &a, float (&s)[MT][NT][4], int64_t bias_start, int row,
               int column, int limit, bool by_key, int lane) {
    const int g = lane / 4, t = lane % 4;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int r = row + m * 16 + g + i / 2 * 8, c = column + n * 8 + 2 * t + i % 2;
                const int query = by_key ? c : r, key = by_key ? r : c;
                if (key >= limit || query >= a.queries) s[m][n][i] = -INFINITY;
                else if (a.bias != nullptr)
                    s[m][n][i] = fmaf(s[m][n][i], a.scale * ATTENTION_LOG2_E,
                                      attention_bias_of(a, bias_start, query, key));
            }
}

#endif
