/* Convolutions of f16 and bf16 by mma, sm_80 and later: products of tiles of BM rows and 128
 * columns, 32 deep, by 8 warps; two tiles of each operand in shared memory. The left one, packed
 * weights or dy, is copied by cp.async; the right one is gathered into registers while the previous
 * step is computed. Columns are positions of all samples in a row, so that small images fill a
 * tile.
 *
 *   BM                   shared memory   registers sm_80: conv, conv_grad_input (ptxas of
 * CUDA 13.0) 32                   23 KB           77, 80 (4 bytes spilled) 64                   28
 * KB           95, 125 128                  38 KB           126, 128 (16 bytes spilled)
 *   conv_grad_weight     41 KB           163
 *
 * Ladder (predicted; nothing is measured yet): a step of 128 x 128 x 32 is 512 clocks of mma, 256
 * of shared memory, and 128 loads and 64 stores of a warp for the gather, which go on beside it
 * with two blocks on a multiprocessor: about half of the rate of mma.sync. Elements of 2 bytes make
 * the gather the next limit: positions that follow one another could come in words. */
#include "backends/cuda/conv.cuh"
#include "backends/cuda/mma.cuh"

enum {
    THREADS = 256,
    WARPS = THREADS / 32,
    BN = 128,
    BK = CONV_CHUNK,
    A_PITCH = BK + 8, /* both an odd number of 16-byte pieces */
    B_PITCH = BN + 8
};

/* ---- parts ---- */

/* Elements `count` x 2 of the right operand in flight: pairs, the first one in the lower half. */
template <int N> struct conv_pairs { uint32_t at[N]; };

template <typename T>
static __device__ __forceinline__ uint32_t gather_one(const uint16_t *channel, conv_source source) {
    if (source.count == 0) return 0;
    if (source.count == 1) return channel[source.first];
    float sum = 0.0f;
    for (int i = 0; i < source.count; i++)
        sum += kin_value(T{channel[source.first + (int64_t)i * source.jump]});
    return kin_rounded<T>(sum).bits;
}

/* acc += left right^T of one step; the warp's rows of the left tile begin at `left`, its columns of
 * the right one at `right`. BY_ROW: the right tile is [k][column], else [column][k]. */
template <typename T, int MT, int NT, bool BY_ROW>
static __device__ __forceinline__ void multiply(float (&acc)[MT][NT][4], const uint16_t *left,
                                                const uint16_t *right, int lane) {
#pragma unroll
    for (int k = 0; k < BK; k += 16) {
        uint32_t a[MT][4];
#pragma unroll
        for (int m = 0; m < MT; m++) kin_load_a<A_PITCH>(a[m], left + m * 16 * A_PITCH + k, lane);
#pragma unroll
        for (int n = 0; n < NT; n += 2) {
            uint32_t b[4];
            if (BY_ROW) kin_load_b_rows<B_PITCH>(b, right + k * B_PITCH + n * 8, lane);
            else kin_load_b<A_PITCH>(b, right + n * 8 * A_PITCH + k, lane);
#pragma unroll
            for (int m = 0; m < MT; m++) {
                kin_mma<T>(acc[m][n], a[m], b[0], b[1]);
                kin_mma<T>(acc[m][n + 1], a[m], b[2], b[3]);
            }
        }
    }
}

/* ---- conv and conv_grad_input ---- */

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

/* WM: warps along the rows. */
template <typename T, int BM, int WM, bool INPUT>
static __global__ void __launch_bounds__(THREADS) conv_tiles_mma(conv_args a) {
    enum { WN = WARPS / WM, MT = BM / WM / 16, NT = BN / WN / 8, CHANNELS = BK / 4 };
    __shared__ conv_shared<BM> shared;
    const int thread = (int)threadIdx.x, lane = thread % 32, warp = thread / 32;
    const int row_tiles = (a.rows + BM - 1) / BM;
    const int row = (int)(blockIdx.x % row_tiles) * BM;
    const int64_t column = (int64_t)(blockIdx.x / row_tiles) * BN;
    const int64_t columns = (int64_t)a.batch * a.positions;

    /* This thread gathers two columns of every fourth channel. */
    const int pair = thread % (BN / 2), first_channel = thread / (BN / 2);
    const uint16_t *sample[2];
    int at[2][3];
    conv_source source[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int64_t mine = min(column + 2 * pair + i, columns - 1);
        conv_split((int)(mine % a.positions), a.size, at[i]);
        sample[i] = static_cast<const uint16_t *>(a.x) +
                    mine / a.positions * ((int64_t)a.channels * a.plane);
    }
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
    conv_pairs<CHANNELS> pairs;
    const auto gather = [&](int step) {
        const int tap = step / chunks, channel = step % chunks * BK + first_channel;
        if (step % chunks == 0) {
            source[0] = conv_place_of<INPUT>(a, at[0], tap);
            source[1] = conv_place_of<INPUT>(a, at[1], tap);
        }
#pragma unroll
        for (int c = 0; c < CHANNELS; c++) {
            pairs.at[c] = 0;
            if (channel + c * 4 < a.channels) {
                const int64_t skip = (int64_t)(channel + c * 4) * a.plane;
                pairs.at[c] = gather_one<T>(sample[0] + skip, source[0]) |
                              gather_one<T>(sample[1] + skip, source[1]) << 16;
            }
        }
    };
    const auto put = [&](int step) {
#pragma unroll
        for (int c = 0; c < CHANNELS; c++)
            *reinterpret_cast<uint32_t *>(shared.tiles.right[step % 2] +
                                          (first_channel + c * 4) * B_PITCH + 2 * pair) =
                pairs.at[c];
    };

    const int warp_row = warp / WN * (MT * 16), warp_column = warp % WN * (NT * 8);
    float acc[MT][NT][4];
    kin_mma_clear(acc);
    fetch_left(0);
    gather(0);
    put(0);
    for (int step = 0; step < steps; step++) {
        const bool more = step + 1 < steps;
        kin_copy_wait<0>();
        __syncthreads();
        if (more) {
            fetch_left(step + 1);
            gather(step + 1);
        }
        multiply<T, MT, NT, true>(acc, shared.tiles.left[step % 2] + warp_row * A_PITCH,
                                  shared.tiles.right[step % 2] + warp_column, lane);
        if (more) put(step + 1);
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

/* ---- conv_grad_weight ---- */

struct alignas(16) conv_weight_shared {
    uint16_t left[2][128 * A_PITCH], right[2][BN * A_PITCH];
};

/* A block sums steps of 32 positions of one sample; it has 128 rows (o), 128 columns (c), one tap
 * and one part of the steps. */
template <typename T>
static __global__ void __launch_bounds__(THREADS) conv_weight_mma(conv_args a) {
    enum { BM = 128, WM = 2, WN = WARPS / WM, MT = BM / WM / 16, NT = BN / WN / 8, HALF = BN / 16 };
    __shared__ conv_weight_shared shared;
    uint16_t(*const left)[BM * A_PITCH] = shared.left;
    uint16_t(*const right)[BN * A_PITCH] = shared.right;
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
    const int of_sample = (a.positions + BK - 1) / BK;
    const bool aligned = a.positions % 8 == 0;

    const auto fetch_left = [&](int step) {
        const int sample = step / of_sample, position = step % of_sample * BK;
        const uint16_t *dy = static_cast<const uint16_t *>(a.w) +
                             ((int64_t)sample * a.rows + row) * a.positions + position;
        uint16_t *tile = left[step % 2];
        if (aligned) {
            for (int i = thread; i < BM * (BK / 8); i += THREADS) {
                const int r = i / (BK / 8), c = i % (BK / 8) * 8;
                const bool inside = row + r < a.rows && position + c < a.positions;
                kin_copy16(tile + r * A_PITCH + c, inside ? dy + (int64_t)r * a.positions + c : dy,
                           inside);
            }
        } else {
            for (int i = thread; i < BM * BK; i += THREADS) {
                const int r = i / BK, c = i % BK;
                const bool inside = row + r < a.rows && position + c < a.positions;
                tile[r * A_PITCH + c] = inside ? dy[(int64_t)r * a.positions + c] : (uint16_t)0;
            }
        }
        kin_copy_close();
    };
    /* Each lane has one position; each warp every eighth channel. */
    uint32_t values[HALF]; /* channels warp + 8 i and warp + 8 (i + HALF) */
    const auto gather = [&](int step) {
        const int sample = step / of_sample, position = step % of_sample * BK + lane;
        int at[3];
        conv_split(min(position, a.positions - 1), a.size, at);
        conv_source source = conv_place_of<false>(a, at, tap);
        if (position >= a.positions) source.count = 0;
        const uint16_t *x = static_cast<const uint16_t *>(a.x) +
                            ((int64_t)sample * a.channels + column + warp) * a.plane + source.first;
        const bool there = source.count > 0;
#pragma unroll
        for (int i = 0; i < HALF; i++) {
            const int c = column + warp + 8 * i, d = c + 8 * HALF;
            uint32_t low = 0, high = 0;
            if (there && c < a.channels) low = x[(int64_t)(8 * i) * a.plane];
            if (there && d < a.channels) high = x[(int64_t)(8 * (i + HALF)) * a.plane];
            values[i] = low | high << 16;
        }
    };
    const auto put = [&](int step) {
#pragma unroll
        for (int i = 0; i < HALF; i++) {
            right[step % 2][(warp + 8 * i) * A_PITCH + lane] = (uint16_t)values[i];
            right[step % 2][(warp + 8 * (i + HALF)) * A_PITCH + lane] = (uint16_t)(values[i] >> 16);
        }
    };

    const int warp_row = warp / WN * (MT * 16), warp_column = warp % WN * (NT * 8);
    float acc[MT][NT][4];
    kin_mma_clear(acc);
    if (begin < end) {
        fetch_left(begin);
        gather(begin);
        put(begin);
    }
    for (int step = begin; step < end; step++) {
        const bool more = step + 1 < end;
        kin_copy_wait<0>();
        __syncthreads();
        if (more) {
            fetch_left(step + 1);
            gather(step + 1);
        }
        multiply<T, MT, NT, false>(acc, left[step % 2] + warp_row * A_PITCH,
                                   right[step % 2] + warp_column * A_PITCH, lane);
        if (more) put(step + 1);
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

/* ---- launches ---- */

template <typename T, int BM, int WM>
static kin_status tiles(kin_device *device, kin_commands *commands, const conv_args *args,
                        bool input) {
    const int64_t columns = (int64_t)args->batch * args->positions;
    const int64_t blocks = (args->rows + BM - 1) / BM * ((columns + BN - 1) / BN);
    const dim3 grid(kin_cuda_blocks(blocks, 1)), block(THREADS);
    if (input)
        return kin_cuda_launch(device, commands, conv_tiles_mma<T, BM, WM, true>, grid, block, 0,
                               *args);
    return kin_cuda_launch(device, commands, conv_tiles_mma<T, BM, WM, false>, grid, block, 0,
                           *args);
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

kin_status conv_mma_weight(kin_device *device, kin_commands *commands, kin_dtype dtype,
                           const conv_args *args) {
    const int64_t blocks = (int64_t)((args->rows + 127) / 128) * ((args->channels + BN - 1) / BN) *
                           args->taps * args->splits;
    const dim3 grid(kin_cuda_blocks(blocks, 1)), block(THREADS);
    if (dtype == KIN_BF16)
        return kin_cuda_launch(device, commands, conv_weight_mma<kin_bf16>, grid, block, 0, *args);
    return kin_cuda_launch(device, commands, conv_weight_mma<kin_f16>, grid, block, 0, *args);
}
