/* The end of a training step: norm of the gradients, AdamW, averages. Limited by memory bandwidth.
 * A scale of 0, or one that is not finite, skips the step.
 *
 * What it should take, of the count of bytes (unchecked): AdamW reads p, gradient, m, v and writes
 * p, m, v, 28 bytes a weight; with the average in the same pass 36, against 28 + 12 by two kernels.
 * Of STDiT-XL/2's 7.3e8 weights that is 26 GB, 8.0 ms at the 3.3 TB/s of an H100 or 8.8 at the 90 %
 * that kernels reach, against 9.8 for the two. Its 547 tensors are one launch (joined.cuh): one for
 * each, some 2 us, would add 1 ms, and two kernels 2; the norm's squares are one launch, too,
 * 2.9 GB, 1 ms. Arithmetic, with a root and two divisions for each weight, is a fifth of that.
 *
 *   version                                                     predicted, of both | measured
 *   1: two kernels, a launch for each tensor, 4 elements a
 *      thread, dtypes looked at for each access                 12 ms              | -
 *   2: this: one pass, f32 without a look at dtypes, joined     9 ms               | -
 */
#include "backends/cuda/joined.cuh"
#include "ops/optimizer_attrs.h"

#include <math.h>

namespace {

enum { THREADS = 256, PACK = 4, BLOCK_ELEMENTS = 8192 };

static __device__ __forceinline__ bool is_finite(float v) {
    return v - v == 0.0f;
}
static __device__ __forceinline__ bool skips(float scale) {
    return scale == 0 || !is_finite(scale);
}

/* ---- adamw, and with an average ---- */

/* Logarithms of the betas as a high and a low float, so that 1 - beta^step is exact enough for the
 * first steps. */
struct adamw_job {
    kin_ref p, g, m, v, average; /* average: may be absent */
    kin_ref p_out, m_out, v_out, average_out;
    const float *lr, *scale; /* scale: may be absent */
    const int64_t *step;
    float beta1, rest1, beta2, rest2, high1, low1, high2, low2, eps, weight_decay;
    float weight; /* of p in the average */
    int64_t count;
};

struct adamw_rates {
    float scale, keep, rate, root_of;
    bool skipped;
};

static __device__ __forceinline__ float correction(float step, float high, float low) {
    return -expm1f(step * high + step * low);
}

static __device__ __forceinline__ adamw_rates rates_of(const adamw_job &job) {
    const float lr = job.lr[0], step = (float)job.step[0];
    adamw_rates rates;
    rates.scale = job.scale != nullptr ? job.scale[0] : 1.0f;
    rates.skipped = skips(rates.scale);
    rates.keep = 1.0f - lr * job.weight_decay;
    rates.rate = lr / correction(step, job.high1, job.low1);
    rates.root_of = sqrtf(correction(step, job.high2, job.low2));
    return rates;
}

static __device__ __forceinline__ void step_one(const adamw_job &job, const adamw_rates &rates,
                                                float g, float &p, float &m, float &v) {
    const float d = g * rates.scale;
    m = job.beta1 * m + job.rest1 * d;
    v = job.beta2 * v + job.rest2 * d * d;
    p = p * rates.keep - rates.rate * m / (sqrtf(v) / rates.root_of + job.eps);
}

/* Elements i .. i + N - 1 of f32. */
template <int N>
static __device__ __forceinline__ void step_f32(const adamw_job &job, const adamw_rates &rates,
                                                int64_t i) {
    const bool averages = job.average.data != nullptr;
    float p[N], g[N], m[N], v[N], a[N] = {};
    kin_load<N>(kin_joined_pointer<float>(job.p.data) + i, p);
    kin_load<N>(kin_joined_pointer<float>(job.g.data) + i, g);
    kin_load<N>(kin_joined_pointer<float>(job.m.data) + i, m);
    kin_load<N>(kin_joined_pointer<float>(job.v.data) + i, v);
    if (averages) kin_load<N>(kin_joined_pointer<float>(job.average.data) + i, a);
    if (!rates.skipped) {
#pragma unroll
        for (int j = 0; j < N; j++) step_one(job, rates, g[j], p[j], m[j], v[j]);
        if (averages) {
#pragma unroll
            for (int j = 0; j < N; j++) a[j] = a[j] + job.weight * (p[j] - a[j]);
        }
    }
    kin_store<N>(kin_joined_pointer<float>(job.p_out.data) + i, p);
    kin_store<N>(kin_joined_pointer<float>(job.m_out.data) + i, m);
    kin_store<N>(kin_joined_pointer<float>(job.v_out.data) + i, v);
    if (averages) kin_store<N>(kin_joined_pointer<float>(job.average_out.data) + i, a);
}

static __device__ __forceinline__ void adamw_block(const adamw_job &job, int64_t block) {
    const int64_t first = block * BLOCK_ELEMENTS, rest = job.count - first;
    const int count = rest < BLOCK_ELEMENTS ? (int)rest : (int)BLOCK_ELEMENTS;
    const adamw_rates rates = rates_of(job);
    int i = (int)threadIdx.x * PACK;
    for (; i + PACK <= count; i += THREADS * PACK) step_f32<PACK>(job, rates, first + i);
    for (; i < count; i++) step_f32<1>(job, rates, first + i);
}

static __global__ void __launch_bounds__(THREADS) adamw(adamw_job job) {
    adamw_block(job, blockIdx.x);
}

/* The item goes to shared memory: read once, and there without registers. */
static __global__ void __launch_bounds__(THREADS)
    adamw_joined(const adamw_job *__restrict__ jobs, const unsigned *__restrict__ first,
                 int count) {
    __shared__ adamw_job job;
    const kin_joined_place at = kin_joined_find(first, count);
    const int *from = reinterpret_cast<const int *>(jobs + at.item);
    for (int i = (int)threadIdx.x; i < (int)(sizeof job / 4); i += THREADS)
        reinterpret_cast<int *>(&job)[i] = from[i];
    __syncthreads();
    adamw_block(job, at.block);
}

/* v as it is when it has been stored. */
static __device__ __forceinline__ float as_stored(const kin_ref &ref, float v) {
    return ref.dtype == KIN_F16    ? kin_value(kin_rounded<kin_f16>(v))
           : ref.dtype == KIN_BF16 ? kin_value(kin_rounded<kin_bf16>(v))
                                   : v;
}

/* Any dtypes. */
static __global__ void __launch_bounds__(THREADS) adamw_any(adamw_job job) {
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= job.count) return;
    const bool averages = job.average.data != nullptr;
    const adamw_rates rates = rates_of(job);
    float p = kin_get(job.p, i), m = kin_get(job.m, i), v = kin_get(job.v, i), a = 0;
    if (averages) a = kin_get(job.average, i);
    if (!rates.skipped) {
        step_one(job, rates, kin_get(job.g, i), p, m, v);
        if (averages) a = a + job.weight * (as_stored(job.p_out, p) - a);
    }
    kin_put(job.p_out, i, p);
    kin_put(job.m_out, i, m);
    kin_put(job.v_out, i, v);
    if (averages) kin_put(job.average_out, i, a);
}

/* All real, or integers that are scalars (the number of the step). */
static bool can_update(const kin_device *device, const kin_call *call) {
    (void)device;
    for (int i = 0; i < call->in_count; i++) {
        const kin_desc *in = &call->in[i].desc;
        if (in->rank > 0 && !kin_cuda_is_real(in->dtype)) return false;
    }
    return kin_cuda_is_real(call->out[0].desc.dtype);
}

/* lr and the step are the third- and second-last input. */
static bool can_adamw(const kin_device *device, const kin_call *call) {
    const kin_operand *lr = &call->in[call->in_count - 3];
    return can_update(device, call) && lr[0].desc.dtype == KIN_F32 && lr[1].desc.dtype == KIN_I64;
}

static void set_logarithm(double beta, float *out_high, float *out_low) {
    const double value = log(beta); /* -inf for 0: the correction is then 1 */
    *out_high = (float)value;
    *out_low = isfinite(value) ? (float)(value - (double)*out_high) : 0.0f;
}

/* True if the first `inputs` inputs and all outputs start where packs may. */
static bool is_aligned(const kin_call *call, int inputs) {
    for (int i = 0; i < inputs; i++)
        if (!kin_cuda_is_aligned(&call->in[i])) return false;
    for (int j = 0; j < call->out_count; j++)
        if (!kin_cuda_is_aligned(&call->out[j])) return false;
    return true;
}

static bool is_f32(const kin_call *call, int inputs) {
    for (int i = 0; i < inputs; i++)
        if (call->in[i].desc.dtype != KIN_F32) return false;
    return true; /* outputs have the dtypes of inputs */
}

/* `states`: m, v, and the average where there is one. */
static kin_status launch_step(kin_device *device, kin_commands *commands, const kin_call *call,
                              const kin_adamw_attrs *attrs, int states, double decay) {
    const kin_operand *in = call->in, *scalars = in + 2 + states;
    adamw_job job = {};
    job.count = kin_desc_count(&call->out[0].desc);
    job.p = kin_ref_of(&in[0]), job.g = kin_ref_of(&in[1]);
    job.m = kin_ref_of(&in[2]), job.v = kin_ref_of(&in[3]);
    job.p_out = kin_ref_of(&call->out[0]), job.m_out = kin_ref_of(&call->out[1]);
    job.v_out = kin_ref_of(&call->out[2]);
    if (states > 2) job.average = kin_ref_of(&in[4]), job.average_out = kin_ref_of(&call->out[3]);
    job.weight = (float)(1 - decay);
    job.lr = static_cast<const float *>(kin_cuda_address(&scalars[0]));
    job.step = static_cast<const int64_t *>(kin_cuda_address(&scalars[1]));
    job.scale = static_cast<const float *>(kin_cuda_address(&scalars[2]));
    job.beta1 = (float)attrs->beta1, job.rest1 = (float)(1 - attrs->beta1);
    job.beta2 = (float)attrs->beta2, job.rest2 = (float)(1 - attrs->beta2);
    set_logarithm(attrs->beta1, &job.high1, &job.low1);
    set_logarithm(attrs->beta2, &job.high2, &job.low2);
    job.eps = (float)attrs->eps, job.weight_decay = (float)attrs->weight_decay;
    if (is_f32(call, 2 + states) && is_aligned(call, 2 + states))
        return kin_cuda_launch_joined(device, commands, adamw, adamw_joined,
                                      kin_cuda_blocks(job.count, BLOCK_ELEMENTS), THREADS, job);
    return kin_cuda_launch(device, commands, adamw_any, dim3(kin_cuda_blocks(job.count, THREADS)),
                           dim3(THREADS), 0, job);
}

static kin_status launch_adamw(kin_device *device, kin_commands *commands, const kin_call *call) {
    return launch_step(device, commands, call, static_cast<const kin_adamw_attrs *>(call->attrs), 2,
                       1);
}

static kin_status launch_adamw_ema(kin_device *device, kin_commands *commands,
                                   const kin_call *call) {
    const kin_adamw_ema_attrs *attrs = static_cast<const kin_adamw_ema_attrs *>(call->attrs);
    return launch_step(device, commands, call, &attrs->adamw, 3, attrs->decay);
}

/* ---- ema: y = a + weight (b - a) ---- */

template <int N>
static __global__ void __launch_bounds__(THREADS)
    blend(kin_ref a, kin_ref b, kin_ref scale, kin_ref y, float weight, int64_t count) {
    const int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * N;
    float va[N], vb[N];
    if (i >= count * N) return;
    const bool skipped = scale.data != nullptr && skips(kin_get(scale, 0));
    kin_get_pack<N>(a, i, va);
    kin_get_pack<N>(b, i, vb);
#pragma unroll
    for (int j = 0; j < N; j++) va[j] = skipped ? va[j] : va[j] + weight * (vb[j] - va[j]);
    kin_put_pack<N>(y, i, va);
}

static kin_status launch_ema(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_ema_attrs *attrs = static_cast<const kin_ema_attrs *>(call->attrs);
    const int64_t count = kin_desc_count(&call->out[0].desc);
    const kin_ref scale = kin_cuda_has(call, 2) ? kin_ref_of(&call->in[2]) : kin_no_ref();
    const kin_ref a = kin_ref_of(&call->in[0]), b = kin_ref_of(&call->in[1]);
    const kin_ref y = kin_ref_of(&call->out[0]);
    const float weight = (float)(1 - attrs->decay);
    if (count % PACK != 0 || !is_aligned(call, 2))
        return kin_cuda_launch(device, commands, blend<1>, dim3(kin_cuda_blocks(count, THREADS)),
                               dim3(THREADS), 0, a, b, scale, y, weight, count);
    return kin_cuda_launch(device, commands, blend<PACK>,
                           dim3(kin_cuda_blocks(count / PACK, THREADS)), dim3(THREADS), 0, a, b,
                           scale, y, weight, count / PACK);
}

/* ---- global_norm: squares in double, so that no gradient overflows; in one order ---- */

enum { PART_ELEMENTS = 16384, MOST_PARTS = 1024 };

/* One input; its parts are blocks of the launch. */
struct norm_job {
    kin_ref x;
    int64_t count;
    unsigned parts;
    int has_packs;
};

static __device__ __forceinline__ double block_sum(double v) {
    __shared__ double parts[THREADS];
    parts[threadIdx.x] = v;
    __syncthreads();
    for (int step = THREADS / 2; step > 0; step /= 2) {
        if ((int)threadIdx.x < step) parts[threadIdx.x] += parts[threadIdx.x + step];
        __syncthreads();
    }
    return parts[0];
}

/* A thread adds up packs of neighbours, whether they are read at once or not. */
static __global__ void __launch_bounds__(THREADS)
    squares(const norm_job *__restrict__ jobs, const unsigned *__restrict__ firsts, int count,
            double *__restrict__ out) {
    const kin_joined_place at = kin_joined_find(firsts, count);
    norm_job job = jobs[at.item];
    job.x.data = kin_joined_pointer<void>(job.x.data);
    const int64_t packs = (job.count + PACK - 1) / PACK;
    const int64_t last = packs * (at.block + 1) / job.parts;
    double sum = 0;
    for (int64_t i = packs * at.block / job.parts + threadIdx.x; i < last; i += THREADS) {
        float x[PACK];
        if (job.has_packs != 0 && (i + 1) * PACK <= job.count) {
            kin_get_pack<PACK>(job.x, i * PACK, x);
        } else {
#pragma unroll
            for (int j = 0; j < PACK; j++)
                x[j] = i * PACK + j < job.count ? kin_get(job.x, i * PACK + j) : 0.0f;
        }
#pragma unroll
        for (int j = 0; j < PACK; j++) sum += (double)x[j] * (double)x[j];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

static __global__ void __launch_bounds__(THREADS)
    root(const double *__restrict__ partial, kin_ref y, int64_t parts) {
    double sum = 0;
    for (int64_t i = threadIdx.x; i < parts; i += THREADS) sum += partial[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) kin_put(y, 0, (float)sqrt(sum));
}

static unsigned parts_of(const kin_operand *x) {
    const int64_t parts = (kin_desc_count(&x->desc) + PART_ELEMENTS - 1) / PART_ELEMENTS;
    return parts > MOST_PARTS ? (unsigned)MOST_PARTS : (unsigned)parts;
}

static size_t norm_scratch(const kin_device *device, const kin_call *call) {
    size_t parts = 0;
    (void)device;
    for (int i = 0; i < call->in_count; i++) parts += parts_of(&call->in[i]);
    return (parts > 0 ? parts : 1) * sizeof(double);
}

/* The squares of each input in parts, and all parts in order. */
static kin_status launch_norm(kin_device *device, kin_commands *commands, const kin_call *call) {
    const size_t most = (size_t)call->in_count;
    const size_t jobs_bytes = most * sizeof(norm_job), bytes = jobs_bytes + (most + 1) * 4;
    norm_job *jobs = static_cast<norm_job *>(kin_calloc(device->context, 1, bytes));
    if (jobs == nullptr) return KIN_OUT_OF_MEMORY;
    unsigned *firsts = reinterpret_cast<unsigned *>(reinterpret_cast<char *>(jobs) + jobs_bytes);
    double *partial = static_cast<double *>(kin_cuda_scratch(call, 0));
    int count = 0;
    for (int i = 0; i < call->in_count; i++) {
        const kin_operand *x = &call->in[i];
        const unsigned parts = parts_of(x);
        if (parts == 0) continue;
        jobs[count] = {kin_ref_of(x), kin_desc_count(&x->desc), parts, kin_cuda_is_aligned(x)};
        firsts[count + 1] = firsts[count] + parts;
        count++;
    }
    const unsigned parts = firsts[count];
    void *table = nullptr;
    kin_status status = kin_cuda_table(device, commands, jobs, bytes, &table);
    kin_free(device->context, jobs);
    if (status != KIN_OK) return status;
    char *at = static_cast<char *>(table);
    status = kin_cuda_launch(device, commands, squares, dim3(parts), dim3(THREADS), 0,
                             static_cast<void *>(at), static_cast<void *>(at + jobs_bytes), count,
                             partial);
    if (status != KIN_OK) return status;
    return kin_cuda_launch(device, commands, root, dim3(1), dim3(THREADS), 0,
                           static_cast<const double *>(partial), kin_ref_of(&call->out[0]),
                           (int64_t)parts);
}

static __global__ void __launch_bounds__(32)
    clip_scale(kin_ref norm_in, kin_ref y, float max_norm) {
    const float norm = kin_get(norm_in, 0), scale = max_norm / (norm + 1e-6f);
    kin_put(y, 0, !is_finite(norm) ? 0.0f : scale < 1.0f ? scale : 1.0f);
}

static kin_status launch_clip(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_clip_scale_attrs *attrs = static_cast<const kin_clip_scale_attrs *>(call->attrs);
    return kin_cuda_launch(device, commands, clip_scale, dim3(1), dim3(1), 0,
                           kin_ref_of(&call->in[0]), kin_ref_of(&call->out[0]),
                           (float)attrs->max_norm);
}

} // namespace

KIN_CUDA_ROWS(optimizer) = {
    {"adamw", "cuda_adamw", 0, 1, can_adamw, nullptr, launch_adamw},
    {"adamw_ema", "cuda_adamw_ema", 0, 1, can_adamw, nullptr, launch_adamw_ema},
    {"ema", "cuda_ema", 0, 1, can_update, nullptr, launch_ema},
    {"global_norm", "cuda_global_norm", 0, 0, kin_cuda_can_real, norm_scratch, launch_norm},
    {"clip_scale", "cuda_clip_scale", 0, 1, kin_cuda_can_real, nullptr, launch_clip},
    {},
};
