/* Parts of the attention kernels for Hopper: tiles of rows in the panels of hopper.cuh, their
 * products, and the rings of stages between the thread that feeds the copy engine and the
 * warpgroups that compute. A head of D elements has DP in shared memory only (72: 80). */
#ifndef KIN_BACKENDS_CUDA_ATTENTION_HOPPER_CUH
#define KIN_BACKENDS_CUDA_ATTENTION_HOPPER_CUH

#include "backends/cuda/attention_mma.cuh"
#include "backends/cuda/hopper.cuh"

#include <string.h>

enum { HOPPER_GROUP = 128, HOPPER_ROWS = 64 }; /* threads of a warpgroup, rows that it has */
enum { HOPPER_SHARED = 227 << 10 };            /* what a block may have */

/* Panels of a head of DP elements. */
template <int DP> struct hopper_head {
    enum { W = DP % 64 == 0 ? 64 : DP % 32 == 0 ? 32 : 16, PANELS = DP / W };
};

/* A place in a ring of STAGES buffers. The parity is that of the phase in which the buffer becomes
 * full; it becomes free for it in the phase before, which has the other one. */
template <int STAGES> struct hopper_ring { int stage, parity; };
template <int STAGES> static __device__ __forceinline__ void hopper_next(hopper_ring<STAGES> &x) {
    if (++x.stage == STAGES) {
        x.stage = 0;
        x.parity ^= 1;
    }
}

/* An arrival of a whole warp. */
static __device__ __forceinline__ void hopper_arrive_warp(uint64_t *barrier, int lane) {
    __syncwarp();
    if (lane == 0) hopper_arrive(barrier);
}

/* Asks for ROWS rows of a head from `row` on, by one thread. */
template <int DP, int ROWS>
static __device__ __forceinline__ void
hopper_fetch(uint16_t *to, const hopper_map *map, uint64_t *barrier, attention_place at, int row) {
    enum { W = hopper_head<DP>::W, PANELS = hopper_head<DP>::PANELS };
#pragma unroll
    for (int p = 0; p < PANELS; p++)
        hopper_copy(to + p * ROWS * W, map, barrier, p * W, row, at.h, at.i1, at.i0);
}

/* s = left right^T, of 64 and N rows of DP elements; issued as one group, not waited for. */
template <typename T, int DP, int NT>
static __device__ __forceinline__ void hopper_issue_scores(float (&s)[NT][4], const uint16_t *left,
                                                           const uint16_t *right) {
    enum { W = hopper_head<DP>::W, N = NT * 8 };
    const uint64_t a = hopper_panel_by_column<W>(left), b = hopper_panel_by_column<W>(right);
#pragma unroll
    for (int step = 0; step < DP / 16; step++) {
        const int panel = step * 16 / W, column = step * 16 % W;
        hopper_scores<T>(s, a + (panel * HOPPER_ROWS * W + column) / 8,
                         b + (panel * N * W + column) / 8, step > 0);
    }
    hopper_close();
}

/* out += p rows, with p of 64 x (16 STEPS); likewise. */
template <typename T, int DP, int STEPS>
static __device__ __forceinline__ void
hopper_issue_add(float (&out)[DP / 8][4], const uint32_t (&p)[STEPS][4], const uint16_t *rows) {
    enum { W = hopper_head<DP>::W, N = STEPS * 16 };
    const uint64_t b = hopper_panel_by_row<W>(rows, N * W * 2);
#pragma unroll
    for (int step = 0; step < STEPS; step++) hopper_add<T>(out, p[step], b + step * 2 * W);
    hopper_close();
}

/* A result of 64 x N rounded, as the left operand of hopper_issue_add. */
template <typename T, int STEPS>
static __device__ __forceinline__ void hopper_pack(uint32_t (&p)[STEPS][4],
                                                   const float (&s)[2 * STEPS][4]) {
#pragma unroll
    for (int k = 0; k < STEPS; k++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            p[k][i] = kin_pair<T>(s[2 * k + i / 2][i % 2 * 2], s[2 * k + i / 2][i % 2 * 2 + 1]);
}

/* Rows of a tile from `count` on become zeros, by all THREADS that compute: keys beyond a sample's
 * length have the weight 0, which a NaN there would not heed. */
template <int DP, int ROWS, int THREADS>
static __device__ __forceinline__ void hopper_clear_rows(uint16_t *tile, int count, int thread) {
    enum { W = hopper_head<DP>::W, PIECES = DP / 8, OF_PANEL = W / 8 };
    for (int i = thread; i < (ROWS - count) * PIECES; i += THREADS) {
        const int row = count + i / PIECES, piece = i % PIECES;
        *reinterpret_cast<uint4 *>(tile + piece / OF_PANEL * (ROWS * W) + row * W +
                                   piece % OF_PANEL * 8) = uint4{0, 0, 0, 0};
    }
    hopper_publish();
    kin_barrier(1, THREADS);
}

/* ---- the host's part ---- */

/* Rows as the axes element, token, head, batch, batch, of which `rows` are copied at a time. False
 * if the copy engine cannot take them. */
template <int DP>
static bool hopper_describe_rows(hopper_map *map, kin_dtype dtype, const attention_args *args,
                                 const attention_rows *x, int tokens, int rows) {
    const int64_t dims[5] = {args->size, tokens, args->heads, args->b1, args->b0};
    const int64_t steps[4] = {x->steps[2], x->steps[3], x->steps[1], x->steps[0]};
    hopper_tensor tensor = {
        dtype, x->data, {}, {}, {(uint32_t)hopper_head<DP>::W, (uint32_t)rows, 1, 1, 1}};
    for (int i = 0; i < 5; i++) tensor.dims[i] = (uint64_t)dims[i];
    /* The stride of an axis of 1 does not matter, but the driver looks at it. */
    uint64_t last = ((uint64_t)args->size * 2 + 15) / 16 * 16;
    for (int i = 0; i < 4; i++) {
        if (dims[i + 1] > 1 && steps[i] <= 0) return false;
        if (dims[i + 1] > 1) last = (uint64_t)steps[i] * 2;
        tensor.strides[i] = last;
    }
    return hopper_describe(map, &tensor);
}

/* Blocks of a launch whose blocks go on to the next tile: as many as the device has units. */
static inline unsigned hopper_blocks(const kin_device *device, int64_t tiles) {
    const int64_t units = kin_cuda_of(device)->properties.units;
    return kin_cuda_blocks(tiles < units ? tiles : units, 1);
}

/* attention_hopper.cu: what these kernels take, as far as it is known while planning. The call has
 * the inputs of attention. */
bool attention_hopper_can(const kin_device *device, const kin_call *call);

#endif
