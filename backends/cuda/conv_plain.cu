/* Convolutions of f32: products of tiles of 16 R rows and 128 columns, 16 deep, by 16 x 16 threads
 * with R x 8 sums each. conv.cuh says which product it is; columns are positions of all samples in
 * a row (conv, conv_grad_input), or channels (conv_grad_weight). */
#include "backends/cuda/conv.cuh"

enum { SIDE = 16, THREADS = SIDE * SIDE, BN = 128, BK = 16, OWN = BN / SIDE };

template <int R> struct plain_tiles { float left[2][BK][SIDE * R + 4], right[2][BK][BN + 4]; };

/* Sums are of rows y + 16 i and columns x + 16 j. */
template <int R>
static __device__ __forceinline__ void multiply(float (&acc)[R][OWN], const plain_tiles<R> &tiles,
                                                int stage) {
    const int x = (int)threadIdx.x % SIDE, y = (int)threadIdx.x / SIDE;
#pragma unroll 4
    for (int k = 0; k < BK; k++) {
        float left[R], right[OWN];
#pragma unroll
        for (int i = 0; i < R; i++) left[i] = tiles.left[stage][k][y + i * SIDE];
#pragma unroll
        for (int j = 0; j < OWN; j++) right[j] = tiles.right[stage][k][x + j * SIDE];
#pragma unroll
        for (int i = 0; i < R; i++)
#pragma unroll
            for (int j = 0; j < OWN; j++) acc[i][j] = fmaf(left[i], right[j], acc[i][j]);
    }
}

template <int R> static __device__ __forceinline__ void clear(float (&acc)[R][OWN]) {
#pragma unroll
    for (int i = 0; i < R; i++)
#pragma unroll
        for (int j = 0; j < OWN; j++) acc[i][j] = 0.0f;
}

static __device__ __forceinline__ float gather_one(const float *channel, conv_source source) {
    float sum = 0.0f;
    for (int i = 0; i < source.count; i++) sum += channel[source.first + (int64_t)i * source.jump];
    return sum;
}

template <int R, bool INPUT>
static __global__ void __launch_bounds__(THREADS) conv_tiles_plain(conv_args a) {
    enum { BM = SIDE * R, CHANNELS = BK / (THREADS / BN), LEFT = BM * BK / THREADS };
    __shared__ plain_tiles<R> tiles;
    const int thread = (int)threadIdx.x, x = thread % SIDE, y = thread / SIDE;
    const int row_tiles = (a.rows + BM - 1) / BM;
    const int row = (int)(blockIdx.x % row_tiles) * BM;
    const int64_t column = (int64_t)(blockIdx.x / row_tiles) * BN;
    const int64_t columns = (int64_t)a.batch * a.positions;

    /* This thread gathers one column of every second channel. */
    const int64_t mine = min(column + thread % BN, columns - 1);
    const int first_channel = thread / BN;
    const float *sample =
        static_cast<const float *>(a.x) + mine / a.positions * ((int64_t)a.channels * a.plane);
    int at[3];
    conv_split((int)(mine % a.positions), a.size, at);
    conv_source source = {0, 0, 0};
    const int chunks = a.padded / BK, steps = chunks * a.taps;
    float left[LEFT], right[CHANNELS];
    const auto gather = [&](int step) {
        const int tap = step / chunks, channel = step % chunks * BK;
        const float *w =
            static_cast<const float *>(a.w) + ((int64_t)tap * a.rows + row) * a.padded + channel;
        if (step % chunks == 0) source = conv_place_of<INPUT>(a, at, tap);
#pragma unroll
        for (int i = 0; i < LEFT; i++) {
            const int r = thread / BK + i * (THREADS / BK), c = thread % BK;
            left[i] = row + r < a.rows ? w[(int64_t)r * a.padded + c] : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < CHANNELS; i++) {
            const int c = channel + first_channel + i * (THREADS / BN);
            right[i] = c < a.channels ? gather_one(sample + (int64_t)c * a.plane, source) : 0.0f;
        }
    };
    const auto put = [&](int stage) {
#pragma unroll
        for (int i = 0; i < LEFT; i++)
            tiles.left[stage][thread % BK][thread / BK + i * (THREADS / BK)] = left[i];
#pragma unroll
        for (int i = 0; i < CHANNELS; i++)
            tiles.right[stage][first_channel + i * (THREADS / BN)][thread % BN] = right[i];
    };

    float acc[R][OWN];
    clear(acc);
    gather(0);
    put(0);
    for (int step = 0; step < steps; step++) {
        __syncthreads();
        if (step + 1 < steps) gather(step + 1);
        multiply(acc, tiles, step % 2);
        if (step + 1 < steps) put((step + 1) % 2);
    }
    float *out = static_cast<float *>(a.y);
#pragma unroll
    for (int j = 0; j < OWN; j++) {
        const int64_t c = column + x + j * SIDE, of = c / a.positions;
        if (c >= columns) continue;
#pragma unroll
        for (int i = 0; i < R; i++) {
            const int r = row + y + i * SIDE;
            if (r < a.rows)
                out[(of * a.rows + r) * a.positions + c % a.positions] =
                    acc[i][j] + conv_bias_of(a, r);
        }
    }
}

/* A block sums steps of 16 positions of one sample, for one tap and one part of the steps. */
template <int R> static __global__ void __launch_bounds__(THREADS) conv_weight_plain(conv_args a) {
    enum { BM = SIDE * R, LEFT = BM * BK / THREADS, RIGHT = BN * BK / THREADS };
    __shared__ plain_tiles<R> tiles;
    const int thread = (int)threadIdx.x, x = thread % SIDE, y = thread / SIDE;
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

    /* Sixteen threads side by side have the positions of a step. */
    const int first = thread / BK;
    float left[LEFT], right[RIGHT];
    const auto gather = [&](int step) {
        const int sample = step / of_sample, position = step % of_sample * BK + thread % BK;
        int at[3];
        conv_split(min(position, a.positions - 1), a.size, at);
        conv_source source = conv_place_of<false>(a, at, tap);
        const bool there = position < a.positions;
        if (!there) source.count = 0;
        const float *dy = static_cast<const float *>(a.w) +
                          ((int64_t)sample * a.rows + row) * a.positions + position;
        const float *from =
            static_cast<const float *>(a.x) + ((int64_t)sample * a.channels + column) * a.plane;
#pragma unroll
        for (int i = 0; i < LEFT; i++) {
            const int r = first + i * (THREADS / BK);
            left[i] = there && row + r < a.rows ? dy[(int64_t)r * a.positions] : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < RIGHT; i++) {
            const int c = first + i * (THREADS / BK);
            right[i] =
                column + c < a.channels ? gather_one(from + (int64_t)c * a.plane, source) : 0.0f;
        }
    };
    const auto put = [&](int stage) {
#pragma unroll
        for (int i = 0; i < LEFT; i++)
            tiles.left[stage][thread % BK][first + i * (THREADS / BK)] = left[i];
#pragma unroll
        for (int i = 0; i < RIGHT; i++)
            tiles.right[stage][thread % BK][first + i * (THREADS / BK)] = right[i];
    };

    float acc[R][OWN];
    clear(acc);
    if (begin < end) {
        gather(begin);
        put(begin % 2);
    }
    for (int step = begin; step < end; step++) {
        __syncthreads();
        if (step + 1 < end) gather(step + 1);
        multiply(acc, tiles, step % 2);
        if (step + 1 < end) put((step + 1) % 2);
    }
    float *out =
        static_cast<float *>(a.y) + ((int64_t)part * a.taps + tap) * ((int64_t)a.rows * a.channels);
#pragma unroll
    for (int i = 0; i < R; i++)
#pragma unroll
        for (int j = 0; j < OWN; j++) {
            const int r = row + y + i * SIDE, c = column + x + j * SIDE;
            if (r < a.rows && c < a.channels) out[(int64_t)r * a.channels + c] = acc[i][j];
        }
}

/* ---- launches ---- */

template <int R>
static kin_status tiles(kin_device *device, kin_commands *commands, const conv_args *args,
                        bool input) {
    const int64_t columns = (int64_t)args->batch * args->positions;
    const int64_t blocks =
        (int64_t)((args->rows + SIDE * R - 1) / (SIDE * R)) * ((columns + BN - 1) / BN);
    const dim3 grid(kin_cuda_blocks(blocks, 1)), block(THREADS);
    if (input)
        return kin_cuda_launch(device, commands, conv_tiles_plain<R, true>, grid, block, 0, *args);
    return kin_cuda_launch(device, commands, conv_tiles_plain<R, false>, grid, block, 0, *args);
}

kin_status conv_plain(kin_device *device, kin_commands *commands, const conv_args *args,
                      bool input) {
    return args->rows <= 2 * SIDE ? tiles<2>(device, commands, args, input)
                                  : tiles<8>(device, commands, args, input);
}

kin_status conv_plain_weight(kin_device *device, kin_commands *commands, const conv_args *args) {
    enum { R = 4 };
    conv_args a = *args;
    a.steps = a.batch * ((a.positions + BK - 1) / BK);
    const int64_t blocks = (int64_t)((a.rows + SIDE * R - 1) / (SIDE * R)) *
                           ((a.channels + BN - 1) / BN) * a.taps * a.splits;
    return kin_cuda_launch(device, commands, conv_weight_plain<R>, dim3(kin_cuda_blocks(blocks, 1)),
                           dim3(THREADS), 0, a);
}
