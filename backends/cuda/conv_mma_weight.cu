/* conv_grad_weight of f16 and bf16 by mma, sm_80 and later: products of tiles of 128 rows (o) and
 * 128 columns (c), 32 positions deep, for one tap and one part of the positions; by 8 warps, two
 * tiles of each operand in shared memory. dy is copied by cp.async, x gathered (conv_gather.cuh).
 *
 *   shared memory 41 KB; registers: 128 by words, 147 with stride 2, 160 by elements (ptxas of
 * CUDA 13.0; no spills)
 *
 * Ladder (predicted; nothing is measured yet): clocks of a step as in conv_mma.cu.
 *
 *   elements   128 loads and 128 stores of a warp for the gather, of 2 bytes: 900 clocks, 170
 *              TFLOP/s
 *   words      32 loads of 16 bytes, 32 of a word beside them, 16 stores: 700 clocks, 215
 *              TFLOP/s
 *   next       three taps along columns from one tile of x */
#include "backends/cuda/conv_gather.cuh"

enum {
    THREADS = 256,
    WARPS = THREADS / 32,
    BM = 128,
    BN = 128,
    BK = CONV_CHUNK,
    PITCH = BK + 8 /* an odd number of 16-byte pieces */
};

struct alignas(16) conv_weight_shared {
    uint16_t left[2][BM * PITCH], right[2][BN * PITCH];
};

/* A block sums steps of 32 positions of one sample. */
template <typename T, int WORDS>
static __global__ void __launch_bounds__(THREADS, WORDS == 1 ? 2 : 1) conv_weight_mma(conv_args a) {
    enum { WM = 2, WN = WARPS / WM, MT = BM / WM / 16, NT = BN / WN / 8 };
    typedef std::conditional_t<(WORDS > 0),
                               conv_gather_rows_of_words<WORDS, BN, BK, THREADS, PITCH>,
                               conv_gather_rows_of_elements<BN, BK, THREADS, PITCH>>
        gather_type;
    __shared__ conv_weight_shared shared;
    uint16_t(*const left)[BM * PITCH] = shared.left;
    uint16_t(*const right)[BN * PITCH] = shared.right;
    const int thread = (int)threadIdx.x, lane = thread % 32, warp = thread / 32;
    const int row_tiles = (a.rows + BM - 1) / BM, column_tiles = (a.channels + BN - 1) / BN;
    int block = (int)blockIdx.x;
    const int row = block % row_tiles * BM;
    block /= row_tiles;
    const int column = block % column_tiles * BN;
    block /= column_tiles;
    const int tap = block % a.taps, part = block / a.taps;
    const int begin = (int)((int64_t)a.steps * part / a.splits);
    const int end = (int)((int64_t)a.steps * (part + 1) / a.splits);
    const unsigned of_sample = (unsigned)(a.positions + BK - 1) / BK;
    const bool aligned = a.positions % 8 == 0 && (uintptr_t)a.w % 16 == 0;

    const auto fetch_left = [&](int step) {
        const int sample = (int)((unsigned)step / of_sample),
                  position = (int)((unsigned)step % of_sample) * BK;
        const uint16_t *dy = static_cast<const uint16_t *>(a.w) +
                             ((int64_t)sample * a.rows + row) * a.positions + position;
        uint16_t *tile = left[step % 2];
        if (aligned) {
#pragma unroll 1
            for (int i = thread; i < BM * (BK / 8); i += THREADS) {
                const int r = i / (BK / 8), c = i % (BK / 8) * 8;
                const bool inside = row + r < a.rows && position + c < a.positions;
                kin_copy16(tile + r * PITCH + c, inside ? dy + (int64_t)r * a.positions + c : dy,
                           inside);
            }
        } else {
#pragma unroll 1
            for (int i = thread; i < BM * BK; i += THREADS) {
                const int r = i / BK, c = i % BK;
                const bool inside = row + r < a.rows && position + c < a.positions;
                tile[r * PITCH + c] = inside ? dy[(int64_t)r * a.positions + c] : (uint16_t)0;
            }
        }
        kin_copy_close();
    };
    gather_type gathered;
    const auto gather = [&](int step) {
        gathered.fetch(a, tap, column, (int)((unsigned)step / of_sample),
                       (int)((unsigned)step % of_sample) * BK);
    };

    const int warp_row = warp / WN * (MT * 16), warp_column = warp % WN * (NT * 8);
    float acc[MT][NT][4];
    kin_mma_clear(acc);
    if (begin < end) {
        fetch_left(begin);
        gather(begin);
        gathered.put(right[begin % 2]);
    }
    for (int step = begin; step < end; step++) {
        const bool more = step + 1 < end;
        kin_copy_wait<0>();
        __syncthreads();
        if (more) {
            fetch_left(step + 1);
            gather(step + 1);
        }
        conv_multiply<T, MT, NT, BK, PITCH, PITCH, false>(
            acc, left[step % 2] + warp_row * PITCH, right[step % 2] + warp_column * PITCH, lane);
        if (more) gathered.put(right[(step + 1) % 2]);
    }
    float *y =
        static_cast<float *>(a.y) + ((int64_t)part * a.taps + tap) * ((int64_t)a.rows * a.channels);
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int r = row + warp_row + m * 16 + i / 2 * 8 + lane / 4;
                const int c = column + warp_column + n * 8 + lane % 4 * 2 + i % 2;
                if (r < a.rows && c < a.channels) y[(int64_t)r * a.channels + c] = acc[m][n][i];
            }
}

template <typename T> static auto weight_kernel(const conv_args *args) {
    const int words = conv_has_words(args, false);
    return words == 1   ? conv_weight_mma<T, 1>
           : words == 2 ? conv_weight_mma<T, 2>
                        : conv_weight_mma<T, 0>;
}

kin_status conv_mma_weight(kin_device *device, kin_commands *commands, kin_dtype dtype,
                           const conv_args *args) {
    const int64_t blocks = (int64_t)((args->rows + BM - 1) / BM) *
                           ((args->channels + BN - 1) / BN) * args->taps * args->splits;
    const dim3 grid(kin_cuda_blocks(blocks, 1)), block(THREADS);
    return dtype == KIN_BF16 ? kin_cuda_launch(device, commands, weight_kernel<kin_bf16>(args),
                                               grid, block, 0, *args)
                             : kin_cuda_launch(device, commands, weight_kernel<kin_f16>(args), grid,
                                               block, 0, *args);
}
