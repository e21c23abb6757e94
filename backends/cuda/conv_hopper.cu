/* conv and conv_grad_input on Hopper: f16 and bf16, images and videos, stride 1 along rows and
 * columns, from 48 channels on, columns a multiple of 8. What is left goes to conv.cu's rows.
 *
 * UNCHECKED on a GPU: the emulator runs it (hopper_conv.cuh), no Hopper has yet. So it serves only
 * if the setting cuda.hopper is "on". To check it:
 *
 *     KINORA_BACKEND_PATH=... plugin_cuda_conv cuda0 cuda.hopper=on
 *
 * y[row, position] = sum over tap and channel of w[row, channel] x[channel, position + tap], by
 * wgmma. A tile is 128 rows and 256 positions (128 where there are few tiles): panels of 64, 32 or
 * 16 neighbouring columns from that many rows of the image. Positions lie side by side in memory,
 * so x is wgmma's operand "by row": a panel is 64 channels with W columns each, and the copy engine
 * brings all panels of a tile at once, box {W columns, 64 channels, rows}, from the place that the
 * tap says. Padding is what lies outside of the tensor, and comes as zeros; the repeated first
 * frame of a causal video is a clamped place. A tap along rows moves a tile by whole panels. So for
 * kernels with 3 rows a box has two panels more, and serves three taps.
 *
 * A block has three warpgroups and stays for many tiles. One thread of the first feeds the copy
 * engine, a ring of boxes and a ring of tiles of weights; the others multiply, 64 rows each with
 * 128 (64) sums in registers, while the boxes of their next tile arrive. Results leave by 16-byte
 * stores; four lanes exchange words for that.
 *
 *   positions   boxes        weights      shared memory   registers (ptxas of CUDA 13.0; no spills)
 *   256         3 x 48 KB    5 x 16 KB    225 KB          168 at the start, 24 for the producer,
 *   128         4 x 32 KB    6 x 16 KB    225 KB          240 for consumers
 *
 * Why not channels last, as cuDNN has it: there a tap along columns, too, moves by whole rows of
 * the operand, and one box serves all 9 taps. Counted in bytes from L2 for each clock of wgmma,
 * with 256 positions: a box for each tap 48, this 32, one box for 9 taps 21. An H100's L2 gives
 * about 32 to each multiprocessor (660 TFLOP/s are published for products with 48, without
 * clusters), so this is enough; and tensors that change their order on the way cost 45 us each way
 * at 128 x 512 x 512, where the convolution itself takes 110.
 *
 * Ladder (predicted; nothing is measured yet). A step of 128 x 256 x 64 is 1024 clocks; an H100 at
 * 1.7 GHz does 920 TFLOP/s so.
 *
 *   mma      conv_mma.cu: 200 to 300 TFLOP/s
 *   this     256 positions: 32 bytes a clock from L2, 8 % for the stores of 128 channels, 2 % of
 *            512, and the last wave; 128 positions: 53 bytes, so 560 TFLOP/s
 *
 *              layer (3 x 3 or 3 x 3 x 3)         GFLOP   tiles           us      TFLOP/s
 *              SD VAE 512 at 64 x 64              19.3    128 of 128      34      570
 *              SD VAE 512 at 128 x 128            77.3    256 of 256      125     620
 *              SD VAE 256 at 256 x 256            77.3    512 of 256      120     640
 *              SD VAE 128 at 512 x 512            77.3    1024 of 256     110     700
 *              causal VAE 512 at 9 x 32 x 32      130     144 of 256      265     490
 *              causal VAE 256 at 17 x 64 x 64     246     544 of 256      410     600
 *
 * Packing the weights is a launch of its own, 2 to 5 us. SD's decoder, 2.5 TFLOP a frame: 4.0 ms.
 *
 *   next     pairs of blocks that share a box or weights (multicast): 24 bytes; 128 positions come
 *            to 650 TFLOP/s; stride 2 by panels of even and odd columns; nearest upsampling folded
 *            into four 2 x 2 convolutions */
#include "backends/cuda/conv.cuh"
#include "backends/cuda/hopper_conv.cuh"

namespace {

enum {
    GROUP = 128,
    THREADS = 3 * GROUP,
    BM = 128,
    BK = 64,            /* channels of a step */
    WEIGHTS = BM * BK,  /* elements of a tile of weights */
    LEAST_CHANNELS = 48 /* below that too much of a tile is padding */
};

struct hopper_conv {
    const void *bias;
    void *y; /* [batch, rows, size] */
    int bias_dtype;
    int batch, rows, chunks;
    int size[3], frames;      /* of y; along time, of x */
    int kernel[3], origin[3]; /* what tap 0 adds to a position (time: its padding) */
    int time_stride;
    bool causal, input;
    int width, lines, shared; /* a panel's columns, panels of a tile, rows of taps that
                                 share a box */
    int row_tiles, x_tiles, y_tiles, tiles;
};

template <int BN> struct alignas(1024) hopper_conv_shared {
    enum { ACT = (BN == 256 ? 384 : 256) * BK, ACTS = BN == 256 ? 3 : 4, WS = BN == 256 ? 5 : 6 };
    uint16_t act[ACTS][ACT], weights[WS][WEIGHTS];
    uint64_t act_full[ACTS], act_empty[ACTS], w_full[WS], w_empty[WS];
};

/* ---- tiles ---- */

struct hopper_conv_tile {
    int row, x, y, time, sample;
};

/* Rows first, so that blocks which run at one time read the same positions. */
static __device__ __forceinline__ hopper_conv_tile tile_of(const hopper_conv &a, int index) {
    hopper_conv_tile tile;
    tile.row = index % a.row_tiles * BM;
    index /= a.row_tiles;
    tile.x = index % a.x_tiles * a.width;
    index /= a.x_tiles;
    tile.y = index % a.y_tiles * a.lines;
    index /= a.y_tiles;
    tile.time = index % a.size[0];
    tile.sample = index / a.size[0];
    return tile;
}

static __device__ __forceinline__ conv_frames frames_of(const hopper_conv &a, int time, int tap) {
    return a.input ? conv_frames_to(time, tap, a.origin[0], a.time_stride, a.frames, a.causal)
                   : conv_frames_from(time, tap, a.origin[0], a.time_stride, a.frames, a.causal);
}

/* ---- the thread that feeds the copy engine ---- */

template <int BN>
static __device__ __forceinline__ void produce(hopper_conv_shared<BN> &shared,
                                               const hopper_map *x_map, const hopper_map *w_map,
                                               const hopper_conv &a) {
    typedef hopper_conv_shared<BN> memory;
    const int bytes = (a.lines + a.shared - 1) * a.width * BK * 2;
    hopper_conv_ring<memory::ACTS> act = {0, 0};
    hopper_conv_ring<memory::WS> w = {0, 0};
    const auto step = [&](const hopper_conv_tile &tile, int frame, int kt, int chunk, int kx,
                          int ky) {
        hopper_wait(&shared.act_empty[act.slot], act.parity ^ 1);
        hopper_expect(&shared.act_full[act.slot], bytes);
        hopper_copy(shared.act[act.slot], x_map, &shared.act_full[act.slot],
                    tile.x + a.origin[2] + kx, chunk * BK, tile.y + a.origin[1] + ky, frame,
                    tile.sample);
        act.next();
        const int column = a.input ? a.kernel[2] - 1 - kx : kx;
        for (int i = ky; i < ky + a.shared; i++) {
            const int line = a.input ? a.kernel[1] - 1 - i : i;
            hopper_wait(&shared.w_empty[w.slot], w.parity ^ 1);
            hopper_expect(&shared.w_full[w.slot], WEIGHTS * 2);
            hopper_copy(shared.weights[w.slot], w_map, &shared.w_full[w.slot], chunk * BK, tile.row,
                        (kt * a.kernel[1] + line) * a.kernel[2] + column, 0, 0);
            w.next();
        }
    };
    for (int index = (int)blockIdx.x; index < a.tiles; index += (int)gridDim.x) {
        const hopper_conv_tile tile = tile_of(a, index);
        for (int kt = 0; kt < a.kernel[0]; kt++) {
            const conv_frames frames = frames_of(a, tile.time, kt);
            for (int i = 0; i < frames.count; i++)
                for (int chunk = 0; chunk < a.chunks; chunk++)
                    for (int kx = 0; kx < a.kernel[2]; kx++)
                        for (int ky = 0; ky < a.kernel[1]; ky += a.shared)
                            step(tile, frames.first + i, kt, chunk, kx, ky);
        }
    }
}

/* ---- the two groups that multiply, 64 rows each ---- */

/* Of the words of four lanes side by side: lane i gets word i of each of them, in their order. */
static __device__ __forceinline__ void turn(uint32_t (&word)[4], int lane) {
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
        const uint32_t other =
            __shfl_xor_sync(0xffffffffu, lane % 2 != 0 ? word[i] : word[i + 1], 1);
        if (lane % 2 != 0) word[i] = other;
        else word[i + 1] = other;
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const uint32_t other =
            __shfl_xor_sync(0xffffffffu, lane % 4 / 2 != 0 ? word[i] : word[i + 2], 2);
        if (lane % 4 / 2 != 0) word[i] = other;
        else word[i + 2] = other;
    }
}

/* A warp has 16 rows of the tile from `row` on; each lane stores 8 columns at once. */
template <typename T, int BN>
static __device__ __forceinline__ void store(const hopper_conv &a, const hopper_conv_tile &tile,
                                             int row, const float (&acc)[BN / 8][4], int lane) {
    const int64_t plane = (int64_t)a.size[1] * a.size[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int r = row + half * 8 + lane / 4;
        const bool there = r < a.rows;
        float bias = 0.0f;
        if (there && a.bias != nullptr) {
            const kin_ref ref = {const_cast<void *>(a.bias), a.bias_dtype};
            bias = kin_get(ref, r);
        }
        uint16_t *y = static_cast<uint16_t *>(a.y) +
                      (((int64_t)tile.sample * a.rows + r) * a.size[0] + tile.time) * plane;
#pragma unroll
        for (int n = 0; n < BN / 8; n += 4) {
            uint32_t word[4];
#pragma unroll
            for (int i = 0; i < 4; i++)
                word[i] = kin_pair<T>(acc[n + i][2 * half] + bias, acc[n + i][2 * half + 1] + bias);
            turn(word, lane);
            const int column = (n + lane % 4) * 8, line = tile.y + column / a.width;
            const int x = tile.x + column % a.width;
            if (there && line < a.size[1] && x < a.size[2])
                *reinterpret_cast<uint4 *>(y + (int64_t)line * a.size[2] + x) =
                    make_uint4(word[0], word[1], word[2], word[3]);
        }
    }
}

template <typename T, int BN>
static __device__ __forceinline__ void consume(hopper_conv_shared<BN> &shared, const hopper_conv &a,
                                               int group) {
    typedef hopper_conv_shared<BN> memory;
    const int thread = (int)threadIdx.x % GROUP, lane = thread % 32, warp = thread / 32;
    const int panel = a.width * BK * 2;
    hopper_conv_ring<memory::ACTS> act = {0, 0};
    hopper_conv_ring<memory::WS> w = {0, 0};
    float acc[BN / 8][4];
    const auto release = [&](uint64_t *barrier) {
        if (lane == 0) hopper_arrive(barrier);
    };
    for (int index = (int)blockIdx.x; index < a.tiles; index += (int)gridDim.x) {
        const hopper_conv_tile tile = tile_of(a, index);
        int steps = 0;
        for (int kt = 0; kt < a.kernel[0]; kt++) steps += frames_of(a, tile.time, kt).count;
        steps *= a.chunks * a.kernel[2] * (a.kernel[1] / a.shared);
#pragma unroll
        for (int n = 0; n < BN / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) acc[n][i] = 0.0f;
        hopper_pin(acc);
        uint64_t *done_act = nullptr, *done_w = nullptr;
        for (int step = 0; step < steps; step++) {
            hopper_wait(&shared.act_full[act.slot], act.parity);
            for (int i = 0; i < a.shared; i++) {
                hopper_wait(&shared.w_full[w.slot], w.parity);
                const uint64_t left =
                    hopper_conv_panel(shared.weights[w.slot] + group * 64 * BK, BK, 16);
                const uint64_t right =
                    hopper_conv_panel(shared.act[act.slot] + i * a.width * BK, a.width, panel);
                hopper_begin();
#pragma unroll
                for (int k = 0; k < BK / 16; k++)
                    hopper_conv_add<T, true>(acc, left + 2 * k, right + 2 * k * a.width);
                hopper_close();
                hopper_join<1>();
                __syncwarp();
                if (done_w != nullptr) release(done_w);
                if (done_act != nullptr) release(done_act);
                done_w = &shared.w_empty[w.slot];
                done_act = i + 1 == a.shared ? &shared.act_empty[act.slot] : nullptr;
                w.next();
            }
            act.next();
        }
        hopper_join<0>();
        hopper_pin(acc);
        __syncwarp();
        if (done_w != nullptr) release(done_w);
        if (done_act != nullptr) release(done_act);
        store<T, BN>(a, tile, tile.row + group * 64 + warp * 16, acc, lane);
    }
}

template <typename T, int BN>
static __global__ void __launch_bounds__(THREADS, 1)
    conv_tiles_hopper(const __grid_constant__ hopper_map x_map,
                      const __grid_constant__ hopper_map w_map, hopper_conv a) {
    typedef hopper_conv_shared<BN> memory;
    KIN_DYNAMIC_SHARED(memory, pointer);
    memory &shared = *pointer;
    enum { RELEASES = 2 * GROUP / 32 };
    if (threadIdx.x == 0) {
        for (int i = 0; i < memory::ACTS; i++) {
            hopper_barrier_init(&shared.act_full[i], 1);
            hopper_barrier_init(&shared.act_empty[i], RELEASES);
        }
        for (int i = 0; i < memory::WS; i++) {
            hopper_barrier_init(&shared.w_full[i], 1);
            hopper_barrier_init(&shared.w_empty[i], RELEASES);
        }
        hopper_barrier_publish();
    }
    __syncthreads();
    if (threadIdx.x < GROUP) {
        hopper_fewer_registers<24>();
        if (threadIdx.x == 0) produce<BN>(shared, &x_map, &w_map, a);
    } else {
        hopper_more_registers<240>();
        consume<T, BN>(shared, a, (int)threadIdx.x / GROUP - 1);
    }
}

/* ---- on the host ---- */

/* Panels of BN positions that cover the planes with the fewest left over. */
static void choose_panels(hopper_conv *out, int positions) {
    int64_t least = INT64_MAX;
    for (int width = 64; width >= 16; width /= 2) {
        const int lines = positions / width;
        const int64_t x = hopper_conv_parts(out->size[2], width),
                      y = hopper_conv_parts(out->size[1], lines);
        if (x * y >= least) continue;
        least = x * y;
        out->width = width;
        out->lines = lines;
        out->x_tiles = (int)x;
        out->y_tiles = (int)y;
    }
    out->tiles = (int)(least * out->row_tiles * out->batch * out->size[0]);
}

/* What the kernel is asked; returns the positions of a tile, 0 if it is not for this one. A tile of
 * 128 takes 0.7 of the time of one of 256, since it waits for the L2 cache. */
static int prepare(const kin_device *device, conv_args *a, bool input, hopper_conv *out) {
    hopper_conv made = {};
    hopper_conv_flatten(a);
    if (a->from[2] % 8 != 0 || a->size[2] % 8 != 0 || a->channels < LEAST_CHANNELS ||
        a->rows < LEAST_CHANNELS || a->stride[1] != 1 || a->stride[2] != 1)
        return 0;
    made.bias = a->bias;
    made.bias_dtype = a->bias_dtype;
    made.y = a->y;
    made.batch = a->batch;
    made.rows = a->rows;
    made.chunks = (int)hopper_conv_parts(a->channels, BK);
    made.frames = a->from[0];
    made.time_stride = a->stride[0];
    made.causal = a->causal != 0;
    made.input = input;
    for (int i = 0; i < 3; i++) {
        made.size[i] = a->size[i];
        made.kernel[i] = a->kernel[i];
        made.origin[i] = input ? a->before[i] - (a->kernel[i] - 1) : -a->before[i];
    }
    made.origin[0] = a->before[0];
    made.shared = a->kernel[1] == 3 ? 3 : 1;
    made.row_tiles = (int)hopper_conv_parts(a->rows, BM);
    const int64_t units = kin_cuda_of(device)->properties.units;
    hopper_conv large = made, small = made;
    choose_panels(&large, 256);
    choose_panels(&small, 128);
    const bool is_large =
        10 * hopper_conv_parts(large.tiles, units) <= 7 * hopper_conv_parts(small.tiles, units);
    *out = is_large ? large : small;
    const int positions = is_large ? 256 : 128;
    const int64_t covered = (int64_t)out->x_tiles * out->y_tiles * positions;
    return 2 * (int64_t)a->size[1] * a->size[2] < covered ? 0 : positions;
}

static bool describe(hopper_map *x_map, hopper_map *w_map, kin_dtype dtype, const conv_args *a,
                     const hopper_conv *job) {
    const uint64_t weights = (uint64_t)a->padded * 2, tap = weights * (uint64_t)a->rows;
    const uint64_t all = tap * (uint64_t)a->taps;
    const hopper_tensor w = {dtype,
                             const_cast<void *>(a->w),
                             {(uint64_t)a->padded, (uint64_t)a->rows, (uint64_t)a->taps, 1, 1},
                             {weights, tap, all, all},
                             {BK, BM, 1, 1, 1}};
    return hopper_conv_describe(x_map, dtype, a->x, a->batch, a->channels, a->from, job->width, BK,
                                job->lines + job->shared - 1) &&
           hopper_describe(w_map, &w);
}

template <typename T>
static kin_status launch(kin_device *device, kin_commands *commands, int positions,
                         const hopper_map &x, const hopper_map &w, const hopper_conv &job) {
    const int units = kin_cuda_of(device)->properties.units;
    const dim3 grid((unsigned)(job.tiles < units ? job.tiles : units)), block(THREADS);
    if (positions == 256)
        return kin_cuda_launch(device, commands, conv_tiles_hopper<T, 256>, grid, block,
                               sizeof(hopper_conv_shared<256>), x, w, job);
    return kin_cuda_launch(device, commands, conv_tiles_hopper<T, 128>, grid, block,
                           sizeof(hopper_conv_shared<128>), x, w, job);
}

static bool can(const kin_device *device, const kin_call *call, bool input) {
    hopper_conv job;
    if (!hopper_conv_asked_for(device, call) ||
        !(input ? conv_can_input(device, call) : conv_can_forward(device, call)))
        return false;
    conv_args a = input ? conv_input_shape(call) : conv_forward_shape(call);
    return prepare(device, &a, input, &job) != 0;
}

static bool can_forward(const kin_device *device, const kin_call *call) {
    return can(device, call, false);
}

static bool can_input(const kin_device *device, const kin_call *call) {
    return can(device, call, true);
}

/* A tensor at an odd place, which is not known while planning, goes to the kernels of conv.cu. */
static kin_status run(kin_device *device, kin_commands *commands, const kin_call *call,
                      bool input) {
    const kin_dtype dtype = call->in[0].desc.dtype;
    conv_args a = input ? conv_input_shape(call) : conv_forward_shape(call);
    hopper_map x, w;
    hopper_conv job;
    a.x = kin_cuda_address(&call->in[0]);
    a.w = kin_cuda_scratch(call, 0);
    a.y = kin_cuda_address(&call->out[0]);
    if (!input && kin_cuda_has(call, 2)) {
        a.bias = kin_cuda_address(&call->in[2]);
        a.bias_dtype = call->in[2].desc.dtype;
    }
    const int positions = prepare(device, &a, input, &job);
    if (positions == 0 || (uintptr_t)a.y % 16 != 0 || !describe(&x, &w, dtype, &a, &job))
        return input ? conv_launch_input(device, commands, call)
                     : conv_launch_forward(device, commands, call);
    const kin_status status = conv_pack_weights(device, commands, &call->in[1], dtype, &a, input,
                                                kin_cuda_scratch(call, 0));
    if (status != KIN_OK) return status;
    return dtype == KIN_BF16 ? launch<kin_bf16>(device, commands, positions, x, w, job)
                             : launch<kin_f16>(device, commands, positions, x, w, job);
}

static kin_status launch_forward(kin_device *device, kin_commands *commands, const kin_call *call) {
    return run(device, commands, call, false);
}

static kin_status launch_input(kin_device *device, kin_commands *commands, const kin_call *call) {
    return run(device, commands, call, true);
}

} // namespace

KIN_CUDA_ROWS(conv_hopper) = {
    {"conv", "cuda_conv_hopper", 0, 0, can_forward, conv_forward_scratch, launch_forward},
    {"conv_grad_input", "cuda_conv_grad_input_hopper", 0, 0, can_input, conv_input_scratch,
     launch_input},
    {},
};
