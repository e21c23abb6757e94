/* Group norm with an optional SiLU, and its gradient. x lies densely: [B, C, positions]. A "plane"
 * is one channel of one sample; a group's planes follow one another. Groups can be long
 * (Open-Sora's VAE: 5 million elements), so parts of one are summed by several blocks.
 *
 * Statistics take one read: a block takes the mean of its first 8,192 elements as a pivot, while
 * they are in registers, and sums what all of its elements and their squares differ from it. So a
 * large mean does no harm, and an outlier little. Whoever needs a group's mean joins its parts
 * again, at most 256, while its own elements are on their way. That pass begins with the elements
 * that were read last, which the L2 cache (50 MB) still has.
 *
 *   forward    x, x, y                         gradient    x, x, dy, x, dy, dx
 *
 * Predicted, nothing is measured yet: [1, 128, 20, 256, 256] in bf16 is 335 MB. Forward: 335 read,
 * some 305 read again, 335 written, 0.98 GB: 325 us at the H100's 3.0 TB/s, 227 us at the
 * H200's 4.3 (three reads, the version before: 430 and 300; the best published kernel, on an H200:
 * 260). Tensors below 30 MB take their second read from L2, and two launches of some 3 us are the
 * floor. The gradient moves 2.0 GB: 660 us and 460 us. Next: sums made by the convolution that
 * writes x, which saves the first read. */
#include "backends/cuda/rows.cuh"
#include "ops/norm_attrs.h"

namespace {

enum {
    ONE = 4, /* packs of a thread that are under way at one time, of one tensor */
    TWO = 2, /* of each of two */
    CUT = 8 * ONE * KIN_ROW_THREADS,
    MOST_PARTS = KIN_ROW_THREADS,
    SMALL_THREADS = 128
};

struct group_job {
    kin_ref dy, x, weight, bias;
    int64_t samples, channels, positions, group_channels;
    int64_t groups;        /* of all samples */
    int64_t length, parts; /* of a group */
    int64_t cuts;          /* blocks that share a group */
    int64_t plane_cuts;    /* blocks that share a plane */
    float eps;
    bool silu;
};

/* To 2 units of the last place; 0 below -87. */
static __device__ __forceinline__ float sigmoid(float z) {
    return __fdividef(1.0f, 1.0f + expf(-z));
}
static __device__ __forceinline__ float slope(const group_job &job, float z) {
    if (!job.silu) return 1.0f;
    const float s = sigmoid(z);
    return s * (1.0f + z * (1.0f - s));
}

/* Range `index` of `count` of `length` elements; ranges start at multiples of N. */
template <int N>
static __device__ __forceinline__ void range_of(int64_t length, int64_t count, int64_t index,
                                                int64_t *first, int64_t *last) {
    const int64_t packs = length / N;
    *first = packs * index / count * N;
    *last = packs * (index + 1) / count * N;
}

/* Packs from this thread's place `i` on, below `last`; returns how many there are. All are asked
 * for before the first is used; those beyond `last` are the last one again. */
template <int N, int AHEAD, typename T>
static __device__ __forceinline__ void load_as(const void *data, int64_t start, int64_t i,
                                               int64_t last, float (&v)[AHEAD][N]) {
    const T *from = static_cast<const T *>(data) + start;
    kin_pack<T, N> pack[AHEAD];
#pragma unroll
    for (int u = 0; u < AHEAD; u++)
        pack[u] = *reinterpret_cast<const kin_pack<T, N> *>(
            from + min(i + u * (KIN_ROW_THREADS * N), last - N));
#pragma unroll
    for (int u = 0; u < AHEAD; u++)
#pragma unroll
        for (int j = 0; j < N; j++) v[u][j] = kin_value(pack[u].at[j]);
}
template <int N, int AHEAD>
static __device__ __forceinline__ int load(const kin_ref &ref, int64_t start, int64_t i,
                                           int64_t last, float (&v)[AHEAD][N]) {
    const int64_t left = last - i, step = KIN_ROW_THREADS * N;
    if (left <= 0) return 0;
    if (ref.dtype == KIN_F32) load_as<N, AHEAD, float>(ref.data, start, i, last, v);
    else if (ref.dtype == KIN_BF16) load_as<N, AHEAD, kin_bf16>(ref.data, start, i, last, v);
    else load_as<N, AHEAD, kin_f16>(ref.data, start, i, last, v);
    return left > AHEAD * step ? AHEAD : (int)((left + step - 1) / step);
}

/* The plane of a group's element, from the group's first one on. */
static __device__ __forceinline__ int64_t plane_in(const group_job &job, int64_t element) {
    return job.length <= INT32_MAX ? (int64_t)((unsigned)element / (unsigned)job.positions)
                                   : element / job.positions;
}

/* ---- statistics ---- */

/* partial [group, part, 3]: pivot, mean less pivot, squared differences from the mean. */
template <int N>
static __global__ void __launch_bounds__(KIN_ROW_THREADS)
    group_parts(group_job job, float *__restrict__ partial) {
    const int64_t part = blockIdx.x % job.parts, group = blockIdx.x / job.parts;
    const int64_t start = group * job.length;
    int64_t first, last;
    range_of<N>(job.length, job.parts, part, &first, &last);
    float v[ONE][N], sum = 0, square = 0;
    int64_t i = first + (int64_t)threadIdx.x * N;
    int there = load<N>(job.x, start, i, last, v);
#pragma unroll
    for (int u = 0; u < ONE; u++)
        if (u < there) sum += kin_pack_sum<N>(v[u]);
    const float early = (float)min(last - first, (int64_t)KIN_ROW_THREADS * N * ONE);
    const float pivot = kin_block_sum<KIN_ROW_THREADS>(sum) / early;
    sum = 0;
    while (there > 0) {
#pragma unroll
        for (int u = 0; u < ONE; u++)
            if (u < there) {
#pragma unroll
                for (int j = 0; j < N; j++) {
                    const float d = v[u][j] - pivot;
                    sum += d;
                    square += d * d;
                }
            }
        i += KIN_ROW_THREADS * N * ONE;
        there = load<N>(job.x, start, i, last, v);
    }
    sum = kin_block_sum<KIN_ROW_THREADS>(sum);
    square = kin_block_sum<KIN_ROW_THREADS>(square);
    if (threadIdx.x != 0) return;
    const float rest = sum / (float)(last - first);
    partial += 3 * (int64_t)blockIdx.x;
    partial[0] = pivot;
    partial[1] = rest;
    partial[2] = fmaxf(square - sum * rest, 0.0f);
}

/* What a thread knows of its group: one part, asked for before its own elements are. */
struct group_share {
    float pivot, first, mean, square; /* the group's first pivot; the part's */
};
static __device__ __forceinline__ group_share share_of(const group_job &job,
                                                       const float *__restrict__ partial,
                                                       int64_t group) {
    partial += 3 * group * job.parts;
    const int64_t part = min((int64_t)threadIdx.x, job.parts - 1);
    return group_share{partial[0], partial[3 * part], partial[3 * part + 1], partial[3 * part + 2]};
}

/* The whole group's, for all threads of a block. */
template <int N>
static __device__ __forceinline__ kin_row_statistics statistics_of(const group_job &job,
                                                                   const group_share &share) {
    float count = 0, square = 0;
    if (threadIdx.x < job.parts) {
        int64_t first, last;
        range_of<N>(job.length, job.parts, threadIdx.x, &first, &last);
        count = (float)(last - first);
        square = share.square;
    }
    const float mean = share.first - share.pivot + share.mean;
    const float rest = kin_block_sum<KIN_ROW_THREADS>(count * mean) / (float)job.length;
    const float off = mean - rest, whole = share.pivot + rest;
    square = kin_block_sum<KIN_ROW_THREADS>(square + count * off * off);
    return kin_row_statistics{whole, rest - (whole - share.pivot),
                              1.0f / sqrtf(square / (float)job.length + job.eps)};
}

/* ---- forward ---- */

/* Blocks in the reverse order of group_parts: see above. */
template <int N>
static __global__ void __launch_bounds__(KIN_ROW_THREADS)
    group_apply(group_job job, const float *__restrict__ partial, kin_ref y) {
    const int64_t block = (int64_t)gridDim.x - 1 - blockIdx.x;
    const int64_t cut = block % job.cuts, group = block / job.cuts, start = group * job.length;
    const int64_t channel = group * job.group_channels % job.channels;
    int64_t first, last;
    const group_share share = share_of(job, partial, group);
    range_of<N>(job.length, job.cuts, cut, &first, &last);
    float v[ONE][N];
    int64_t i = first + (int64_t)threadIdx.x * N;
    int there = load<N>(job.x, start, i, last, v);
    const kin_row_statistics s = statistics_of<N>(job, share);
    while (there > 0) {
#pragma unroll
        for (int u = 0; u < ONE; u++) {
            const int64_t at = i + u * (KIN_ROW_THREADS * N);
            if (u >= there) continue;
            const int64_t c = channel + plane_in(job, at);
            const float w = kin_get(job.weight, c), b = kin_get(job.bias, c);
#pragma unroll
            for (int j = 0; j < N; j++) {
                const float z = kin_hat(v[u][j], s) * w + b;
                v[u][j] = job.silu ? z * sigmoid(z) : z;
            }
            kin_put_pack<N>(y, start + at, v[u]);
        }
        i += KIN_ROW_THREADS * N * ONE;
        there = load<N>(job.x, start, i, last, v);
    }
}

/* ---- gradient ---- */

/* partial planes [plane, cut, 2]: sums of dz hat and of dz, dz being the gradient before weight and
 * bias. */
template <int N>
static __global__ void __launch_bounds__(KIN_ROW_THREADS, 3)
    plane_parts(group_job job, const float *__restrict__ partial, float *__restrict__ planes) {
    const int64_t cut = blockIdx.x % job.plane_cuts, plane = blockIdx.x / job.plane_cuts;
    const int64_t channel = plane % job.channels, start = plane * job.positions;
    int64_t first, last;
    const group_share share = share_of(job, partial, plane / job.group_channels);
    range_of<N>(job.positions, job.plane_cuts, cut, &first, &last);
    const float w = kin_get(job.weight, channel), b = kin_get(job.bias, channel);
    float v[TWO][N], d[TWO][N], sum = 0, dot = 0;
    int64_t i = first + (int64_t)threadIdx.x * N;
    int there = load<N>(job.x, start, i, last, v);
    load<N>(job.dy, start, i, last, d);
    const kin_row_statistics s = statistics_of<N>(job, share);
    while (there > 0) {
#pragma unroll
        for (int u = 0; u < TWO; u++)
            if (u < there) {
#pragma unroll
                for (int j = 0; j < N; j++) {
                    const float h = kin_hat(v[u][j], s), dz = d[u][j] * slope(job, h * w + b);
                    sum += dz;
                    dot += dz * h;
                }
            }
        i += KIN_ROW_THREADS * N * TWO;
        there = load<N>(job.x, start, i, last, v);
        load<N>(job.dy, start, i, last, d);
    }
    sum = kin_block_sum<KIN_ROW_THREADS>(sum);
    dot = kin_block_sum<KIN_ROW_THREADS>(dot);
    if (threadIdx.x != 0) return;
    planes[2 * (int64_t)blockIdx.x] = dot;
    planes[2 * (int64_t)blockIdx.x + 1] = sum;
}

/* A warp joins the cuts of a plane: planes [plane, 2]. */
static __global__ void __launch_bounds__(KIN_ROW_THREADS)
    plane_join(const float *__restrict__ parts, float *__restrict__ planes, int64_t count,
               int64_t cuts) {
    bool there;
    const int64_t plane = kin_row_there<32>(count, &there);
    float dot = 0, sum = 0;
    for (int64_t i = kin_row_item<32>(); i < cuts; i += 32) {
        dot += parts[2 * (plane * cuts + i)];
        sum += parts[2 * (plane * cuts + i) + 1];
    }
    dot = kin_warp_sum(dot);
    sum = kin_warp_sum(sum);
    if (!there || kin_row_item<32>() != 0) return;
    planes[2 * plane] = dot;
    planes[2 * plane + 1] = sum;
}

/* dx = scale (dz w - mean(dz w) - hat mean(dz w hat)); dx may lie on dy or x. */
template <int N>
static __global__ void __launch_bounds__(KIN_ROW_THREADS)
    group_dx(group_job job, const float *__restrict__ partial, const float *__restrict__ planes,
             kin_ref dx) {
    const int64_t block = (int64_t)gridDim.x - 1 - blockIdx.x;
    const int64_t cut = block % job.cuts, group = block / job.cuts, start = group * job.length;
    const int64_t channel = group * job.group_channels % job.channels;
    int64_t first, last;
    const group_share share = share_of(job, partial, group);
    range_of<N>(job.length, job.cuts, cut, &first, &last);
    float v[TWO][N], d[TWO][N], mean = 0, hat_mean = 0;
    int64_t i = first + (int64_t)threadIdx.x * N;
    int there = load<N>(job.x, start, i, last, v);
    load<N>(job.dy, start, i, last, d);
    const kin_row_statistics s = statistics_of<N>(job, share);
    for (int64_t p = threadIdx.x; p < job.group_channels; p += KIN_ROW_THREADS) {
        const float factor = kin_get(job.weight, channel + p);
        hat_mean += factor * planes[2 * (group * job.group_channels + p)];
        mean += factor * planes[2 * (group * job.group_channels + p) + 1];
    }
    mean = kin_block_sum<KIN_ROW_THREADS>(mean) / (float)job.length;
    hat_mean = kin_block_sum<KIN_ROW_THREADS>(hat_mean) / (float)job.length;
    while (there > 0) {
#pragma unroll
        for (int u = 0; u < TWO; u++) {
            const int64_t at = i + u * (KIN_ROW_THREADS * N);
            if (u >= there) continue;
            const int64_t c = channel + plane_in(job, at);
            const float w = kin_get(job.weight, c), b = kin_get(job.bias, c);
#pragma unroll
            for (int j = 0; j < N; j++) {
                const float h = kin_hat(v[u][j], s), dz = d[u][j] * slope(job, h * w + b);
                v[u][j] = s.scale * (dz * w - mean - h * hat_mean);
            }
            kin_put_pack<N>(dx, start + at, v[u]);
        }
        i += KIN_ROW_THREADS * N * TWO;
        there = load<N>(job.x, start, i, last, v);
        load<N>(job.dy, start, i, last, d);
    }
}

static __global__ void __launch_bounds__(SMALL_THREADS)
    channel_sums(const float *__restrict__ planes, kin_ref dw, kin_ref db, int64_t channels,
                 int64_t samples) {
    const int64_t channel = (int64_t)blockIdx.x * SMALL_THREADS + threadIdx.x;
    float dot = 0, sum = 0;
    if (channel >= channels) return;
    for (int64_t sample = 0; sample < samples; sample++) {
        dot += planes[2 * (sample * channels + channel)];
        sum += planes[2 * (sample * channels + channel) + 1];
    }
    kin_put(dw, channel, dot);
    kin_put(db, channel, sum);
}

/* ---- host ---- */

/* Places in scratch memory, bytes. */
struct group_memory {
    size_t partial, plane_parts, planes, bytes;
};

static size_t placed(size_t *bytes, int64_t floats) {
    const size_t at = *bytes;
    *bytes += ((size_t)floats * sizeof(float) + 255) / 256 * 256;
    return at;
}

static int64_t between(int64_t value, int64_t most) {
    return value > most ? most : value < 1 ? 1 : value;
}

static group_job job_of(const kin_call *call, int x_index, group_memory *out_memory) {
    const kin_group_norm_attrs *attrs = static_cast<const kin_group_norm_attrs *>(call->attrs);
    const kin_desc *x = &call->in[x_index].desc;
    group_job job = {};
    job.x = kin_ref_of(&call->in[x_index]);
    job.dy = x_index > 0 ? kin_ref_of(&call->in[0]) : kin_no_ref();
    job.weight = kin_ref_of(&call->in[x_index + 1]);
    job.bias = kin_ref_of(&call->in[x_index + 2]);
    job.eps = (float)attrs->eps;
    job.silu = attrs->silu != 0;
    job.samples = x->dims[0];
    job.channels = x->dims[1];
    job.positions = 1;
    for (int a = 2; a < x->rank; a++) job.positions *= x->dims[a];
    job.group_channels = job.channels / attrs->groups;
    job.groups = job.samples * attrs->groups;
    job.length = job.group_channels * job.positions;
    job.parts = between(job.length / CUT, MOST_PARTS);
    job.cuts = between((job.length + CUT - 1) / CUT, INT32_MAX);
    job.plane_cuts = between(job.positions / CUT, MOST_PARTS);
    *out_memory = group_memory{};
    out_memory->partial = placed(&out_memory->bytes, 3 * job.groups * job.parts);
    if (x_index == 0) return job;
    const int64_t planes = 2 * job.samples * job.channels;
    out_memory->plane_parts = placed(&out_memory->bytes, planes * job.plane_cuts);
    out_memory->planes =
        job.plane_cuts > 1 ? placed(&out_memory->bytes, planes) : out_memory->plane_parts;
    return job;
}

static float *floats_at(const kin_call *call, size_t at) {
    return static_cast<float *>(kin_cuda_scratch(call, at));
}

/* Launches KERNEL<8> or KERNEL<1>. */
#define LAUNCH(kernel, packs, blocks, ...)                                                         \
    ((packs) ? kin_cuda_launch(device, commands, kernel<8>, dim3(kin_cuda_blocks(blocks, 1)),      \
                               dim3(KIN_ROW_THREADS), 0, __VA_ARGS__)                              \
             : kin_cuda_launch(device, commands, kernel<1>, dim3(kin_cuda_blocks(blocks, 1)),      \
                               dim3(KIN_ROW_THREADS), 0, __VA_ARGS__))

static bool has_packs(const kin_call *call, const group_job &job) {
    const bool back = call->out_count > 1;
    return job.positions % 8 == 0 && kin_cuda_is_aligned(&call->in[0]) &&
           (!back || kin_cuda_is_aligned(&call->in[1])) && kin_cuda_is_aligned(&call->out[0]);
}

static kin_status group_norm(kin_device *device, kin_commands *commands, const kin_call *call) {
    group_memory memory;
    const group_job job = job_of(call, 0, &memory);
    const bool packs = has_packs(call, job);
    if (job.length == 0 || job.groups == 0) return KIN_OK;
    float *partial = floats_at(call, memory.partial);
    const kin_status status = LAUNCH(group_parts, packs, job.groups * job.parts, job, partial);
    if (status != KIN_OK) return status;
    return LAUNCH(group_apply, packs, job.groups * job.cuts, job,
                  static_cast<const float *>(partial), kin_ref_of(&call->out[0]));
}

static kin_status group_norm_grad(kin_device *device, kin_commands *commands,
                                  const kin_call *call) {
    group_memory memory;
    const group_job job = job_of(call, 1, &memory);
    const bool packs = has_packs(call, job);
    if (job.length == 0 || job.groups == 0) return KIN_OK;
    float *made = floats_at(call, memory.partial);
    const float *partial = made;
    float *parts = floats_at(call, memory.plane_parts), *planes = floats_at(call, memory.planes);
    const int64_t count = job.samples * job.channels;
    kin_status status = LAUNCH(group_parts, packs, job.groups * job.parts, job, made);
    if (status == KIN_OK)
        status = LAUNCH(plane_parts, packs, count * job.plane_cuts, job, partial, parts);
    if (status == KIN_OK && job.plane_cuts > 1)
        status = kin_cuda_launch(device, commands, plane_join, dim3(kin_row_blocks(count, 32)),
                                 dim3(KIN_ROW_THREADS), 0, static_cast<const float *>(parts),
                                 planes, count, job.plane_cuts);
    if (status == KIN_OK)
        status = LAUNCH(group_dx, packs, job.groups * job.cuts, job, partial,
                        static_cast<const float *>(planes), kin_ref_of(&call->out[0]));
    if (status != KIN_OK) return status;
    return kin_cuda_launch(device, commands, channel_sums,
                           dim3(kin_cuda_blocks(job.channels, SMALL_THREADS)), dim3(SMALL_THREADS),
                           0, static_cast<const float *>(planes), kin_ref_of(&call->out[1]),
                           kin_ref_of(&call->out[2]), job.channels, job.samples);
}

static size_t forward_scratch(const kin_device *device, const kin_call *call) {
    group_memory memory;
    (void)device;
    (void)job_of(call, 0, &memory);
    return memory.bytes;
}

static size_t backward_scratch(const kin_device *device, const kin_call *call) {
    group_memory memory;
    (void)device;
    (void)job_of(call, 1, &memory);
    return memory.bytes;
}

} // namespace

KIN_CUDA_ROWS(group_norm) = {
    {"group_norm", "cuda_group_norm", 0, 1, kin_cuda_can_real, forward_scratch, group_norm},
    {"group_norm_grad", "cuda_group_norm_grad", 0, 3, kin_cuda_can_real, backward_scratch,
     group_norm_grad},
    {},
};
