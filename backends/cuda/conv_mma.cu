/* conv and conv_grad_input of f16 and bf16 by mma, sm_80 and later: products of tiles of BM rows
 * and 128 columns, 32 deep, by 8 warps; two tiles of each operand in shared memory. The left one,
 * packed weights, is copied by cp.async; the right one is gathered into registers while the step
 * before is computed (conv_gather.cuh). Columns are positions of all samples in a row, so that
 * small images fill a tile.
 *
 *   BM    shared    registers (sm_80, ptxas of CUDA 13.0; no spills)
 *         memory    by words   stride 2   by elements   conv_grad_input by elements
 *   32    23 KB     86         93         89            96
 *   64    28 KB     110        117        113           124
 *   128   38 KB     126        161        126           164
 *
 * Up to 128 registers two blocks share a multiprocessor, above it has one.
 *
 * Ladder (predicted; nothing is measured yet). A step of 128 x 128 x 32 is 512 clocks of mma on an
 * A100, and of the pipe of shared memory and L1 384 for ldmatrix and 128 for what is written there.
 *
 *   elements   256 loads and 64 stores of a warp for the gather, 16 sectors of 4 bytes each: 1,100
 *              clocks in all, 150 TFLOP/s
 *   words      32 loads of 16 bytes, 32 of a word beside them, 16 stores: 700 clocks, 70 % of the
 *              rate of mma: 215 TFLOP/s, 250 to 300 on an H100
 *   next       three stages, so that one barrier in two steps is enough */
#include "backends/cuda/conv_gather.cuh"

enum {
    THREADS = 256,
    WARPS = THREADS / 32,
    BN = 128,
    BK = CONV_CHUNK,
    A_PITCH = BK + 8, /* both an odd number of 16-byte pieces */
    B_PITCH = BN + 8
};

/* Shared memory of a block; the result passes through it on its way out. */
template <int BM> union alignas(16) conv_shared {
    struct {
        uint16_t left[2][BM * A_PITCH], right[2][BK * B_PITCH];
    } tiles;
    uint16_t result[BM * B_PITCH];
};

/* A tile of the result to memory, 8 columns at once where rows allow it. */
template <int BM>
static __device__ __forceinline__ void store_result(const conv_args &a, const uint16_t *result,
                                                    int row, int64_t column) {
    uint16_t *y = static_cast<uint16_t *>(a.y);
    const int64_t columns = (int64_t)a.batch * a.positions;
    if (a.positions % 8 == 0) {
        for (int i = (int)threadIdx.x; i < BM * (BN / 8); i += THREADS) {
            const int r = i / (BN / 8), c = i % (BN / 8) * 8;
            if (row + r >= a.rows || column + c >= columns) continue;
            const int64_t sample = (column + c) / a.positions;
            const int64_t at =
                (sample * a.rows + row + r) * a.positions + (column + c) % a.positions;
            *reinterpret_cast<uint4 *>(y + at) =
                *reinterpret_cast<const uint4 *>(result + r * B_PITCH + c);
        }
        return;
    }
    for (int i = (int)threadIdx.x; i < BM * BN; i += THREADS) {
        const int r = i / BN, c = i % BN;
        if (row + r >= a.rows || column + c >= columns) continue;
        const int64_t sample = (column + c) / a.positions;
        y[(sample * a.rows + row + r) * a.positions + (column + c) % a.positions] =
            result[r * B_PITCH + c];
    }
}

/* WM: warps along the rows. WORDS: the stride, if the right operand comes in words, else 0. */
template <typename T, int BM, int WM, bool INPUT, int WORDS>
static __global__ void __launch_bounds__(THREADS,
                                         BM == 128 && (WORDS == 2 || (WORDS == 0 && INPUT)) ? 1 : 2)
    conv_tiles_mma(conv_args a) {
    enum { WN = WARPS / WM, MT = BM / WM / 16, NT = BN / WN / 8 };
    typedef std::conditional_t<(WORDS > 0),
                               conv_gather_words<WORDS, INPUT, BK, BN, THREADS, B_PITCH>,
                               conv_gather_elements<T, INPUT, BK, BN, THREADS, B_PITCH>>
        gather_type;
    __shared__ conv_shared<BM> shared;
    const int thread = (int)threadIdx.x, lane = thread % 32, warp = thread / 32;
    const int row_tiles = (a.rows + BM - 1) / BM;
    const int row = (int)(blockIdx.x % row_tiles) * BM;
    const int64_t column = (int64_t)(blockIdx.x / row_tiles) * BN;

    const int chunks = a.padded / BK, steps = chunks * a.taps;
    const auto fetch_left = [&](int step) {
        const int tap = step / chunks, channel = step % chunks * BK;
        const uint16_t *w =
            static_cast<const uint16_t *>(a.w) + ((int64_t)tap * a.rows + row) * a.padded + channel;
        for (int i = thread; i < BM * (BK / 8); i += THREADS) {
            const int r = i / (BK / 8), c = i % (BK / 8) * 8;
            const bool inside = row + r < a.rows;
            kin_copy16(shared.tiles.left[step % 2] + r * A_PITCH + c,
                       inside ? w + (int64_t)r * a.padded + c : w, inside);
        }
        kin_copy_close();
    };
    gather_type right;
    right.begin(a, column);
    const auto gather = [&](int step) {
        if (step % chunks == 0) right.turn_to(a, step / chunks);
        right.fetch(a, step % chunks * BK);
    };

    const int warp_row = warp / WN * (MT * 16), warp_column = warp % WN * (NT * 8);
    float acc[MT][NT][4];
    kin_mma_clear(acc);
    fetch_left(0);
    gather(0);
    right.put(shared.tiles.right[0]);
    for (int step = 0; step < steps; step++) {
        const bool more = step + 1 < steps;
        kin_copy_wait<0>();
        __syncthreads();
        if (more) {
            fetch_left(step + 1);
            gather(step + 1);
        }
        conv_multiply<T, MT, NT, BK, A_PITCH, B_PITCH, true>(
            acc, shared.tiles.left[step % 2] + warp_row * A_PITCH,
            shared.tiles.right[step % 2] + warp_column, lane);
        if (more) right.put(shared.tiles.right[(step + 1) % 2]);
    }
    __syncthreads();
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int r = warp_row + m * 16 + half * 8 + lane / 4;
            const float bias = conv_bias_of(a, min(row + r, a.rows - 1));
#pragma unroll
            for (int n = 0; n < NT; n++)
                *reinterpret_cast<uint32_t *>(shared.result + r * B_PITCH + warp_column + n * 8 +
                                              lane % 4 * 2) =
                    kin_pair<T>(acc[m][n][2 * half] + bias, acc[m][n][2 * half + 1] + bias);
        }
    __syncthreads();
    store_result<BM>(a, shared.result, row, column);
}

/* ---- launches ---- */

template <typename T, int BM, int WM>
static kin_status tiles(kin_device *device, kin_commands *commands, const conv_args *args,
                        bool input) {
    const int64_t columns = (int64_t)args->batch * args->positions;
    const int64_t blocks = (args->rows + BM - 1) / BM * ((columns + BN - 1) / BN);
    const dim3 grid(kin_cuda_blocks(blocks, 1)), block(THREADS);
    const int words = conv_has_words(args, input);
    auto *kernel = input        ? conv_tiles_mma<T, BM, WM, true, 0>
                   : words == 1 ? conv_tiles_mma<T, BM, WM, false, 1>
                   : words == 2 ? conv_tiles_mma<T, BM, WM, false, 2>
                                : conv_tiles_mma<T, BM, WM, false, 0>;
    if (input && words == 1) kernel = conv_tiles_mma<T, BM, WM, true, 1>;
    return kin_cuda_launch(device, commands, kernel, grid, block, 0, *args);
}

template <typename T>
static kin_status by_rows(kin_device *device, kin_commands *commands, const conv_args *args,
                          bool input) {
    if (args->rows <= 32) return tiles<T, 32, 1>(device, commands, args, input);
    if (args->rows <= 64) return tiles<T, 64, 2>(device, commands, args, input);
    return tiles<T, 128, 2>(device, commands, args, input);
}

kin_status conv_mma(kin_device *device, kin_commands *commands, kin_dtype dtype,
                    const conv_args *args, bool input) {
    return dtype == KIN_BF16 ? by_rows<kin_bf16>(device, commands, args, input)
                             : by_rows<kin_f16>(device, commands, args, input);
}
