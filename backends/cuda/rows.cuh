/* Rows: a warp, or a block of 256 threads, has a row; each thread takes packs of N elements. */
#ifndef KIN_BACKENDS_CUDA_ROWS_CUH
#define KIN_BACKENDS_CUDA_ROWS_CUH

#include "backends/cuda/launch.cuh"
#include "backends/cuda/places.cuh"

enum { KIN_ROW_THREADS = 256 };

/* GROUP is 32 (a warp for a row, 8 rows for a block) or KIN_ROW_THREADS. */
template <int GROUP> static __device__ __forceinline__ int64_t kin_row() {
    return (int64_t)blockIdx.x * (KIN_ROW_THREADS / GROUP) + threadIdx.x / GROUP;
}
template <int GROUP> static __device__ __forceinline__ int kin_row_item() {
    return (int)threadIdx.x % GROUP;
}
/* Over the threads of a row, in one order; all threads of the block call. */
template <int GROUP> static __device__ __forceinline__ float kin_row_sum(float v) {
    return GROUP == 32 ? kin_warp_sum(v) : kin_block_sum<KIN_ROW_THREADS>(v);
}
template <int GROUP> static __device__ __forceinline__ float kin_row_max(float v) {
    return GROUP == 32 ? kin_warp_max(v) : kin_block_max<KIN_ROW_THREADS>(v);
}

/* Runs `body` with i = each start of N elements of `width`, a multiple of N, that is this thread's.
 */
#define KIN_FOR_ROW(GROUP, N, width)                                                               \
    for (int64_t i = (int64_t)kin_row_item<GROUP>() * N; i < (width); i += (int64_t)(GROUP)*N)

/* Sum of the elements of a pack, in pairs. */
template <int N> static __device__ __forceinline__ float kin_pack_sum(const float (&v)[N]) {
    float sum = v[0];
#pragma unroll
    for (int j = 1; j < N; j++) sum += v[j];
    return sum;
}

/* Mean and spread of a row, taken in two passes so that a large mean does no harm: the mean is
 * `mean + rest`, of which rest is what rounding left of the first pass; scale is
 * 1 / sqrt(variance + eps). */
struct kin_row_statistics {
    float mean, rest, scale;
};
static __device__ __forceinline__ float kin_hat(float x, const kin_row_statistics &s) {
    return (x - s.mean - s.rest) * s.scale;
}

/* Rows that the last block has not got do no harm: they are the first row again, and are not
 * written. */
template <int GROUP>
static __device__ __forceinline__ int64_t kin_row_there(int64_t rows, bool *out_there) {
    const int64_t row = kin_row<GROUP>();
    *out_there = row < rows;
    return *out_there ? row : 0;
}

static inline unsigned kin_row_blocks(int64_t rows, int group) {
    return kin_cuda_blocks(rows, KIN_ROW_THREADS / group);
}
/* A warp is enough for such rows: short ones, and longer ones if they are many. */
static inline bool kin_row_is_short(int64_t width, int64_t rows) {
    return width <= 1024 || (width <= 4096 && rows >= 4096);
}

/* Launches KERNEL<GROUP, N> for rows of `width`: a macro, since a template's name is no value. */
#define KIN_LAUNCH_ROWS(kernel, packs, width, rows, ...)                                           \
    (kin_row_is_short(width, rows)                                                                 \
         ? ((packs)                                                                                \
                ? kin_cuda_launch(device, commands, kernel<32, 8>, dim3(kin_row_blocks(rows, 32)), \
                                  dim3(KIN_ROW_THREADS), 0, __VA_ARGS__)                           \
                : kin_cuda_launch(device, commands, kernel<32, 1>, dim3(kin_row_blocks(rows, 32)), \
                                  dim3(KIN_ROW_THREADS), 0, __VA_ARGS__))                          \
         : ((packs) ? kin_cuda_launch(device, commands, kernel<KIN_ROW_THREADS, 8>,                \
                                      dim3(kin_row_blocks(rows, KIN_ROW_THREADS)),                 \
                                      dim3(KIN_ROW_THREADS), 0, __VA_ARGS__)                       \
                    : kin_cuda_launch(device, commands, kernel<KIN_ROW_THREADS, 1>,                \
                                      dim3(kin_row_blocks(rows, KIN_ROW_THREADS)),                 \
                                      dim3(KIN_ROW_THREADS), 0, __VA_ARGS__)))

/* True if packs of 8 may be taken from the rows of this operand. */
static inline bool kin_cuda_row_packs(const kin_operand *operand) {
    return kin_cuda_rows_have_packs(&operand->desc) && kin_cuda_is_aligned(operand);
}

#endif
