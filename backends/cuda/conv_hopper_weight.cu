/* conv_grad_weight on Hopper: f16 and bf16, stride 1 along rows and columns.
 *
 * UNCHECKED on a GPU, as conv_hopper.cu; it serves if the setting cuda.hopper is "on".
 *
 * dw[row, channel] = sum over positions of dy[row, position] x[channel, position + tap], for each
 * tap. Positions lie side by side in both, so both are wgmma's operands "by column". A block has
 * 128 rows, 256 channels (128 where there are no more), one tap, and a part of the positions: steps
 * of 64, which are one panel of 64 columns or rows of 2 panels of 32, or 4 of 16. What lies outside
 * of an image is zeros in dy. The parts go to scratch memory, and are added up in their order by
 * conv_join.
 *
 *   channels    stages       shared memory   registers (ptxas of CUDA 13.0; no spills)
 *   256         4 x 48 KB    193 KB          168 at the start, 24 for the producer, 240 for
 *   128         6 x 32 KB    193 KB          consumers
 *
 * Ladder (predicted; nothing is measured yet; clocks and L2 as in conv_hopper.cu)
 *
 *   mma     conv_mma_weight.cu: 200 TFLOP/s
 *   this    256 channels: 48 bytes a clock from L2, 600 TFLOP/s; 128 channels: 64 bytes, 450.
 *           512 by 512 at 8 x 64 x 64: 155 GFLOP, 260 us, and 20 us for 3 parts
 *   next    three taps along rows at one time: lines of x stay for the next ones, 21 bytes a
 *           clock, 192 sums in registers */
#include "backends/cuda/hopper_conv.cuh"

namespace {

enum {
    GROUP = 128,
    THREADS = 3 * GROUP,
    BM = 128,
    BK = 64,            /* positions of a step */
    LEAST_CHANNELS = 48 /* below that too much of a tile is padding */
};

struct hopper_conv_weight {
    float *parts; /* [split][tap][row][channel] */
    int batch, rows, channels;
    int size[3], frames; /* of dy; along time, of x */
    int kernel[3], before[3], time_stride;
    bool causal;
    int width, lines; /* a panel's columns, panels of a step */
    int x_groups, y_groups, steps, splits;
    int row_tiles, column_tiles, taps;
};

template <int BN> struct alignas(1024) hopper_conv_weight_shared {
    enum { STAGES = BN == 256 ? 4 : 6 };
    uint16_t dy[STAGES][BM * BK], x[STAGES][BN * BK];
    uint64_t full[STAGES], empty[STAGES];
};

/* What a block has: a tile of one tap's weights, and a part of the steps. */
struct hopper_conv_share {
    int row, column, tap, part, begin, end;
};
template <int BN>
static __device__ __forceinline__ hopper_conv_share share_of(const hopper_conv_weight &a) {
    hopper_conv_share share;
    int block = (int)blockIdx.x;
    share.row = block % a.row_tiles * BM;
    block /= a.row_tiles;
    share.column = block % a.column_tiles * BN;
    block /= a.column_tiles;
    share.tap = block % a.taps;
    share.part = block / a.taps;
    share.begin = (int)((int64_t)a.steps * share.part / a.splits);
    share.end = (int)((int64_t)a.steps * (share.part + 1) / a.splits);
    return share;
}

/* The frame of x that goes with step's frame of dy. */
static __device__ __forceinline__ conv_frames frames_of(const hopper_conv_weight &a, int step,
                                                        int tap) {
    const int time = step / (a.x_groups * a.y_groups) % a.size[0];
    return conv_frames_from(time, tap, a.before[0], a.time_stride, a.frames, a.causal);
}

template <int BN>
static __device__ __forceinline__ void
produce(hopper_conv_weight_shared<BN> &shared, const hopper_map *dy_map, const hopper_map *x_map,
        const hopper_conv_weight &a, const hopper_conv_share &share) {
    typedef hopper_conv_weight_shared<BN> memory;
    hopper_conv_ring<memory::STAGES> ring = {0, 0};
    const int kx = share.tap % a.kernel[2], ky = share.tap / a.kernel[2] % a.kernel[1];
    const int kt = share.tap / a.kernel[2] / a.kernel[1];
    for (int step = share.begin; step < share.end; step++) {
        const conv_frames frames = frames_of(a, step, kt);
        if (frames.count == 0) continue;
        const int x = step % a.x_groups * a.width, rest = step / a.x_groups;
        const int y = rest % a.y_groups * a.lines, time = rest / a.y_groups % a.size[0];
        const int sample = rest / a.y_groups / a.size[0];
        uint64_t *full = &shared.full[ring.slot];
        hopper_wait(&shared.empty[ring.slot], ring.parity ^ 1);
        hopper_expect(full, (BM + BN) * BK * 2);
        hopper_copy(shared.dy[ring.slot], dy_map, full, x, share.row, y, time, sample);
        hopper_copy(shared.x[ring.slot], x_map, full, x + kx - a.before[2], share.column,
                    y + ky - a.before[1], frames.first, sample);
        ring.next();
    }
}

/* A warp's 16 rows from `row` on, to its part. */
template <int BN>
static __device__ __forceinline__ void store(const hopper_conv_weight &a,
                                             const hopper_conv_share &share, int row,
                                             const float (&acc)[BN / 8][4], int lane) {
    float *part =
        a.parts + ((int64_t)share.part * a.taps + share.tap) * ((int64_t)a.rows * a.channels);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int r = row + half * 8 + lane / 4;
        if (r >= a.rows) continue;
#pragma unroll
        for (int n = 0; n < BN / 8; n++) {
            const int c = share.column + n * 8 + lane % 4 * 2;
            float *to = part + (int64_t)r * a.channels + c;
            if (a.channels % 2 == 0) {
                if (c < a.channels)
                    *reinterpret_cast<float2 *>(to) =
                        make_float2(acc[n][2 * half], acc[n][2 * half + 1]);
                continue;
            }
            if (c < a.channels) to[0] = acc[n][2 * half];
            if (c + 1 < a.channels) to[1] = acc[n][2 * half + 1];
        }
    }
}

template <typename T, int BN>
static __device__ __forceinline__ void consume(hopper_conv_weight_shared<BN> &shared,
                                               const hopper_conv_weight &a,
                                               const hopper_conv_share &share, int group) {
    typedef hopper_conv_weight_shared<BN> memory;
    const int thread = (int)threadIdx.x % GROUP, lane = thread % 32, warp = thread / 32;
    const int kt = share.tap / a.kernel[2] / a.kernel[1];
    hopper_conv_ring<memory::STAGES> ring = {0, 0};
    float acc[BN / 8][4];
    uint64_t *done = nullptr;
#pragma unroll
    for (int n = 0; n < BN / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) acc[n][i] = 0.0f;
    hopper_pin(acc);
    for (int step = share.begin; step < share.end; step++) {
        if (frames_of(a, step, kt).count == 0) continue;
        const uint64_t left =
            hopper_conv_panel(shared.dy[ring.slot] + group * 64 * a.width, a.width, 16);
        const uint64_t right = hopper_conv_panel(shared.x[ring.slot], a.width, 16);
        hopper_wait(&shared.full[ring.slot], ring.parity);
        hopper_begin();
#pragma unroll
        for (int k = 0; k < BK; k += 16) {
            /* in units of 16 bytes: panels of BM or BN rows, and 16 elements */
            const int panel = k / a.width * a.width / 8, column = k % a.width / 8;
            hopper_conv_add<T, false>(acc, left + panel * BM + column, right + panel * BN + column);
        }
        hopper_close();
        hopper_join<1>();
        __syncwarp();
        if (done != nullptr && lane == 0) hopper_arrive(done);
        done = &shared.empty[ring.slot];
        ring.next();
    }
    hopper_join<0>();
    hopper_pin(acc);
    store<BN>(a, share, share.row + group * 64 + warp * 16, acc, lane);
}

template <typename T, int BN>
static __global__ void __launch_bounds__(THREADS, 1)
    conv_weight_hopper(const __grid_constant__ hopper_map dy_map,
                       const __grid_constant__ hopper_map x_map, hopper_conv_weight a) {
    typedef hopper_conv_weight_shared<BN> memory;
    KIN_DYNAMIC_SHARED(memory, pointer);
    memory &shared = *pointer;
    const hopper_conv_share share = share_of<BN>(a);
    enum { RELEASES = 2 * GROUP / 32 };
    if (threadIdx.x == 0) {
        for (int i = 0; i < memory::STAGES; i++) {
            hopper_barrier_init(&shared.full[i], 1);
            hopper_barrier_init(&shared.empty[i], RELEASES);
        }
        hopper_barrier_publish();
    }
    __syncthreads();
    if (threadIdx.x < GROUP) {
        hopper_fewer_registers<24>();
        if (threadIdx.x == 0) produce<BN>(shared, &dy_map, &x_map, a, share);
    } else {
        hopper_more_registers<240>();
        consume<T, BN>(shared, a, share, (int)threadIdx.x / GROUP - 1);
    }
}

/* ---- on the host ---- */

/* Columns of a tile. */
static int columns_of(const conv_args *a) {
    return a->channels > 128 ? 256 : 128;
}

/* Parts of the sum: those with which an H100's 132 multiprocessors, of which each has one block,
 * need the least time, a part's own memory traffic counted in steps of 0.6 us at 3 TB/s. The shape
 * alone decides, so that the result is the same on every device. */
static int choose_splits(const hopper_conv_weight *job, int columns) {
    enum { UNITS = 132, MOST = 32, LEAST_STEPS = 8, STEP_BYTES = 1750000 };
    const int64_t tiles = (int64_t)job->row_tiles * job->column_tiles * job->taps;
    const int64_t bytes = (int64_t)job->rows * job->channels * job->taps * 8;
    const int64_t each = STEP_BYTES * columns / 256;
    int64_t least = INT64_MAX;
    int best = 1;
    for (int splits = 1; splits <= MOST && splits * LEAST_STEPS <= job->steps; splits++) {
        const int64_t cost =
            hopper_conv_parts(tiles * splits, UNITS) * hopper_conv_parts(job->steps, splits) +
            splits * bytes / each;
        if (cost >= least) continue;
        least = cost;
        best = splits;
    }
    return best;
}

/* What the kernel is asked; false if the call is not for it. */
static bool prepare(conv_args *a, hopper_conv_weight *out) {
    hopper_conv_weight made = {};
    hopper_conv_flatten(a);
    if (a->from[2] % 8 != 0 || a->size[2] % 8 != 0 || a->channels < LEAST_CHANNELS ||
        a->rows < LEAST_CHANNELS || a->stride[1] != 1 || a->stride[2] != 1)
        return false;
    made.batch = a->batch;
    made.rows = a->rows;
    made.channels = a->channels;
    made.frames = a->from[0];
    made.time_stride = a->stride[0];
    made.causal = a->causal != 0;
    made.taps = a->taps;
    for (int i = 0; i < 3; i++) {
        made.size[i] = a->size[i];
        made.kernel[i] = a->kernel[i];
        made.before[i] = a->before[i];
    }
    int64_t least = INT64_MAX;
    for (int width = 64; width >= 16; width /= 2) {
        const int lines = BK / width;
        const int64_t x = hopper_conv_parts(a->size[2], width);
        const int64_t y = hopper_conv_parts(a->size[1], lines);
        if (x * y >= least) continue;
        least = x * y;
        made.width = width;
        made.lines = lines;
        made.x_groups = (int)x;
        made.y_groups = (int)y;
    }
    const int columns = columns_of(a);
    const int64_t steps = least * a->size[0] * a->batch;
    if (steps > INT32_MAX || 2 * (int64_t)a->size[1] * a->size[2] < least * BK) return false;
    made.steps = (int)steps;
    made.row_tiles = (int)hopper_conv_parts(a->rows, BM);
    made.column_tiles = (int)hopper_conv_parts(a->channels, columns);
    made.splits = a->splits = choose_splits(&made, columns);
    *out = made;
    return true;
}

static bool can_weight(const kin_device *device, const kin_call *call) {
    hopper_conv_weight job;
    if (!hopper_conv_asked_for(device, call) || !conv_can_weight(device, call)) return false;
    conv_args a = conv_weight_shape(call);
    return prepare(&a, &job);
}

static size_t weight_scratch(const kin_device *device, const kin_call *call) {
    conv_args a = conv_weight_shape(call);
    hopper_conv_weight job;
    const size_t other = conv_weight_scratch(device, call);
    if (!prepare(&a, &job)) return other;
    const size_t own = (size_t)a.splits * a.taps * a.rows * a.channels * sizeof(float);
    return own > other ? own : other;
}

template <typename T>
static kin_status launch(kin_device *device, kin_commands *commands, const hopper_map &dy,
                         const hopper_map &x, const hopper_conv_weight &job) {
    const int64_t blocks = (int64_t)job.row_tiles * job.column_tiles * job.taps * job.splits;
    const dim3 grid(kin_cuda_blocks(blocks, 1)), block(THREADS);
    if (job.channels > 128)
        return kin_cuda_launch(device, commands, conv_weight_hopper<T, 256>, grid, block,
                               sizeof(hopper_conv_weight_shared<256>), dy, x, job);
    return kin_cuda_launch(device, commands, conv_weight_hopper<T, 128>, grid, block,
                           sizeof(hopper_conv_weight_shared<128>), dy, x, job);
}

/* A tensor at an odd place, which is not known while planning, goes to the kernels of conv.cu. */
static kin_status launch_weight(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_dtype dtype = call->in[0].desc.dtype;
    conv_args a = conv_weight_shape(call);
    hopper_map dy, x;
    hopper_conv_weight job;
    if (!prepare(&a, &job) ||
        !hopper_conv_describe(&dy, dtype, kin_cuda_address(&call->in[1]), a.batch, a.rows, a.size,
                              job.width, BM, job.lines) ||
        !hopper_conv_describe(&x, dtype, kin_cuda_address(&call->in[0]), a.batch, a.channels,
                              a.from, job.width, columns_of(&a), job.lines))
        return conv_launch_weight(device, commands, call);
    job.parts = static_cast<float *>(kin_cuda_scratch(call, 0));
    a.y = job.parts;
    const kin_status status = dtype == KIN_BF16 ? launch<kin_bf16>(device, commands, dy, x, job)
                                                : launch<kin_f16>(device, commands, dy, x, job);
    return status == KIN_OK ? conv_join_parts(device, commands, call, &a) : status;
}

} // namespace

KIN_CUDA_ROWS(conv_hopper_weight) = {
    {"conv_grad_weight", "cuda_conv_grad_weight_hopper", 0, 0, can_weight, weight_scratch,
     launch_weight},
    {},
};
