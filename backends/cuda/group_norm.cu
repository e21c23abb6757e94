/* Group norm with an optional SiLU, and its gradient. x lies densely: [B, C, positions]. A "plane"
 * is one channel of one sample. Groups can be long, so several blocks share one: three passes over
 * x in all, limited by memory bandwidth. */
#include "backends/cuda/rows.cuh"
#include "ops/norm_attrs.h"

namespace {

enum { PART_ELEMENTS = 8192, MOST_PARTS = 128, PLANE_ELEMENTS = 8192, SMALL_THREADS = 128 };

struct group_job {
    kin_ref dy, x, weight, bias;
    int64_t samples, channels, positions, group_channels;
    int64_t groups;        /* of all samples */
    int64_t length, parts; /* of a group */
    int64_t cuts;          /* blocks that share a plane, in `apply` and `dx` */
    float eps;
    bool silu;
};

static __device__ __forceinline__ float sigmoid(float z) {
    return 1.0f / (1.0f + expf(-z));
}
static __device__ __forceinline__ float slope(const group_job &job, float z) {
    if (!job.silu) return 1.0f;
    const float s = sigmoid(z);
    return s * (1.0f + z * (1.0f - s));
}

/* Sum and sum of squares of a part of a group less its mean of the first pass, if there is one:
 * partial [group, part, 2]. Parts start at multiples of N. */
template <int N>
static __global__ void __launch_bounds__(KIN_ROW_THREADS)
    group_sums(group_job job, const float *__restrict__ means, float *__restrict__ partial) {
    const int64_t part = blockIdx.x % job.parts, group = blockIdx.x / job.parts;
    const int64_t packs = job.length / N;
    const int64_t first = packs * part / job.parts * N, last = packs * (part + 1) / job.parts * N;
    const float mean = means != nullptr ? means[group] : 0.0f;
    float v[N], sum = 0, square = 0;
    for (int64_t i = first + (int64_t)threadIdx.x * N; i < last; i += KIN_ROW_THREADS * N) {
        kin_get_pack<N>(job.x, group * job.length + i, v);
#pragma unroll
        for (int j = 0; j < N; j++) {
            const float d = v[j] - mean;
            sum += d;
            square += d * d;
        }
    }
    sum = kin_block_sum<KIN_ROW_THREADS>(sum);
    square = kin_block_sum<KIN_ROW_THREADS>(square);
    if (threadIdx.x != 0) return;
    partial[2 * (int64_t)blockIdx.x] = sum;
    partial[2 * (int64_t)blockIdx.x + 1] = square;
}

/* After the first pass: means [group]. After the second: kept [group, 3], mean, rest, scale. */
static __global__ void __launch_bounds__(SMALL_THREADS)
    group_finish(group_job job, const float *__restrict__ partial, float *__restrict__ means,
                 float *__restrict__ kept, bool second) {
    const int64_t group = (int64_t)blockIdx.x * SMALL_THREADS + threadIdx.x;
    float sum = 0, square = 0;
    if (group >= job.groups) return;
    for (int64_t part = 0; part < job.parts; part++) {
        sum += partial[2 * (group * job.parts + part)];
        square += partial[2 * (group * job.parts + part) + 1];
    }
    if (!second) {
        means[group] = sum / (float)job.length;
        return;
    }
    const float rest = sum / (float)job.length;
    kept[3 * group] = means[group];
    kept[3 * group + 1] = rest;
    kept[3 * group + 2] =
        1.0f / sqrtf(fmaxf(square / (float)job.length - rest * rest, 0.0f) + job.eps);
}

static __device__ __forceinline__ kin_row_statistics kept_of(const float *kept, int64_t group) {
    return kin_row_statistics{kept[3 * group], kept[3 * group + 1], kept[3 * group + 2]};
}

/* The elements of this block's cut of its plane: a plane and the range first .. last-1 of it. */
template <int N>
static __device__ __forceinline__ int64_t cut_of(const group_job &job, int64_t *first,
                                                 int64_t *last) {
    const int64_t cut = blockIdx.x % job.cuts, packs = job.positions / N;
    *first = packs * cut / job.cuts * N;
    *last = packs * (cut + 1) / job.cuts * N;
    return blockIdx.x / job.cuts;
}

template <int N>
static __global__ void __launch_bounds__(KIN_ROW_THREADS)
    group_apply(group_job job, const float *__restrict__ kept, kin_ref y) {
    int64_t first, last;
    const int64_t plane = cut_of<N>(job, &first, &last), channel = plane % job.channels;
    const kin_row_statistics s = kept_of(kept, plane / job.group_channels);
    const float w = kin_get(job.weight, channel), b = kin_get(job.bias, channel);
    float v[N];
    for (int64_t i = first + (int64_t)threadIdx.x * N; i < last; i += KIN_ROW_THREADS * N) {
        kin_get_pack<N>(job.x, plane * job.positions + i, v);
#pragma unroll
        for (int j = 0; j < N; j++) {
            const float z = kin_hat(v[j], s) * w + b;
            v[j] = job.silu ? z * sigmoid(z) : z;
        }
        kin_put_pack<N>(y, plane * job.positions + i, v);
    }
}

/* planes [plane, 2]: sums of dz hat and of dz, dz being the gradient before weight and bias. */
template <int N>
static __global__ void __launch_bounds__(KIN_ROW_THREADS)
    plane_sums(group_job job, const float *__restrict__ kept, float *__restrict__ planes) {
    const int64_t plane = blockIdx.x, channel = plane % job.channels;
    const kin_row_statistics s = kept_of(kept, plane / job.group_channels);
    const float w = kin_get(job.weight, channel), b = kin_get(job.bias, channel);
    float v[N], d[N], sum = 0, dot = 0;
    for (int64_t i = (int64_t)threadIdx.x * N; i < job.positions; i += KIN_ROW_THREADS * N) {
        kin_get_pack<N>(job.x, plane * job.positions + i, v);
        kin_get_pack<N>(job.dy, plane * job.positions + i, d);
#pragma unroll
        for (int j = 0; j < N; j++) {
            const float h = kin_hat(v[j], s), dz = d[j] * slope(job, h * w + b);
            sum += dz;
            dot += dz * h;
        }
    }
    sum = kin_block_sum<KIN_ROW_THREADS>(sum);
    dot = kin_block_sum<KIN_ROW_THREADS>(dot);
    if (threadIdx.x != 0) return;
    planes[2 * plane] = dot;
    planes[2 * plane + 1] = sum;
}

/* dx = scale (dz w - mean(dz w) - hat mean(dz w hat)); dx may lie on dy or x. */
template <int N>
static __global__ void __launch_bounds__(KIN_ROW_THREADS)
    group_dx(group_job job, const float *__restrict__ kept, const float *__restrict__ planes,
             kin_ref dx) {
    int64_t first, last;
    const int64_t plane = cut_of<N>(job, &first, &last), channel = plane % job.channels;
    const int64_t group = plane / job.group_channels;
    const kin_row_statistics s = kept_of(kept, group);
    const float w = kin_get(job.weight, channel), b = kin_get(job.bias, channel);
    float mean = 0, hat_mean = 0, v[N], d[N];
    for (int64_t p = group * job.group_channels; p < (group + 1) * job.group_channels; p++) {
        const float factor = kin_get(job.weight, p % job.channels);
        hat_mean += factor * planes[2 * p];
        mean += factor * planes[2 * p + 1];
    }
    mean /= (float)job.length;
    hat_mean /= (float)job.length;
    for (int64_t i = first + (int64_t)threadIdx.x * N; i < last; i += KIN_ROW_THREADS * N) {
        kin_get_pack<N>(job.x, plane * job.positions + i, v);
        kin_get_pack<N>(job.dy, plane * job.positions + i, d);
#pragma unroll
        for (int j = 0; j < N; j++) {
            const float h = kin_hat(v[j], s), dz = d[j] * slope(job, h * w + b);
            v[j] = s.scale * (dz * w - mean - h * hat_mean);
        }
        kin_put_pack<N>(dx, plane * job.positions + i, v);
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
    size_t means, kept, partial, planes, bytes;
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
    job.parts = between(job.length / PART_ELEMENTS, MOST_PARTS);
    job.cuts = between(job.positions / PLANE_ELEMENTS, MOST_PARTS);
    *out_memory = group_memory{};
    out_memory->means = placed(&out_memory->bytes, job.groups);
    out_memory->kept = placed(&out_memory->bytes, 3 * job.groups);
    out_memory->partial = placed(&out_memory->bytes, 2 * job.groups * job.parts);
    if (x_index > 0)
        out_memory->planes = placed(&out_memory->bytes, 2 * job.samples * job.channels);
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

/* One pass over x: the means, then the rest of the mean and the scale. */
static kin_status pass(kin_device *device, kin_commands *commands, const kin_call *call,
                       const group_job &job, const group_memory &memory, bool packs, bool second) {
    float *means = floats_at(call, memory.means), *partial = floats_at(call, memory.partial);
    kin_status status = LAUNCH(
        group_sums, packs, job.groups * job.parts, job,
        second ? static_cast<const float *>(means) : static_cast<const float *>(nullptr), partial);
    if (status != KIN_OK) return status;
    return kin_cuda_launch(device, commands, group_finish,
                           dim3(kin_cuda_blocks(job.groups, SMALL_THREADS)), dim3(SMALL_THREADS), 0,
                           job, static_cast<const float *>(partial), means,
                           floats_at(call, memory.kept), second);
}

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
    kin_status status = pass(device, commands, call, job, memory, packs, false);
    if (status == KIN_OK) status = pass(device, commands, call, job, memory, packs, true);
    if (status != KIN_OK) return status;
    return LAUNCH(group_apply, packs, job.samples * job.channels * job.cuts, job,
                  static_cast<const float *>(floats_at(call, memory.kept)),
                  kin_ref_of(&call->out[0]));
}

static kin_status group_norm_grad(kin_device *device, kin_commands *commands,
                                  const kin_call *call) {
    group_memory memory;
    const group_job job = job_of(call, 1, &memory);
    const bool packs = has_packs(call, job);
    if (job.length == 0 || job.groups == 0) return KIN_OK;
    const float *kept = floats_at(call, memory.kept);
    float *planes = floats_at(call, memory.planes);
    kin_status status = pass(device, commands, call, job, memory, packs, false);
    if (status == KIN_OK) status = pass(device, commands, call, job, memory, packs, true);
    if (status == KIN_OK)
        status = LAUNCH(plane_sums, packs, job.samples * job.channels, job, kept, planes);
    if (status == KIN_OK)
        status = LAUNCH(group_dx, packs, job.samples * job.channels * job.cuts, job, kept,
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
