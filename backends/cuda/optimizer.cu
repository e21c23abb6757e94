/* The end of a training step: norm of the gradients, AdamW, averages. Limited by memory bandwidth.
 * A scale of 0, or one that is not finite, skips the step. */
#include "backends/cuda/launch.cuh"
#include "ops/optimizer_attrs.h"

#include <math.h>

namespace {

enum { THREADS = 256, PACK = 4 };

static __device__ __forceinline__ bool is_finite(float v) {
    return v - v == 0.0f;
}
static __device__ __forceinline__ bool skips(float scale) {
    return scale == 0 || !is_finite(scale);
}

/* ---- adamw ---- */

/* Logarithms of the betas as a high and a low float, so that 1 - beta^step is exact enough for the
 * first steps. */
struct adamw_job {
    kin_ref p, g, m, v, p_out, m_out, v_out, scale;
    const float *lr;
    const int64_t *step;
    float beta1, rest1, beta2, rest2, high1, low1, high2, low2, eps, weight_decay;
    int64_t count; /* in packs of N */
};

static __device__ __forceinline__ float correction(float step, float high, float low) {
    return -expm1f(step * high + step * low);
}

template <int N> static __global__ void __launch_bounds__(THREADS) adamw(adamw_job job) {
    const int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * N;
    float p[N], g[N], m[N], v[N];
    if (i >= job.count * N) return;
    const float scale = job.scale.data != nullptr ? kin_get(job.scale, 0) : 1.0f;
    kin_get_pack<N>(job.p, i, p);
    kin_get_pack<N>(job.g, i, g);
    kin_get_pack<N>(job.m, i, m);
    kin_get_pack<N>(job.v, i, v);
    if (!skips(scale)) {
        const float lr = job.lr[0], step = (float)job.step[0];
        const float rate = lr / correction(step, job.high1, job.low1);
        const float root_of = sqrtf(correction(step, job.high2, job.low2));
#pragma unroll
        for (int j = 0; j < N; j++) {
            const float d = g[j] * scale;
            m[j] = job.beta1 * m[j] + job.rest1 * d;
            v[j] = job.beta2 * v[j] + job.rest2 * d * d;
            p[j] = p[j] * (1.0f - lr * job.weight_decay) -
                   rate * m[j] / (sqrtf(v[j]) / root_of + job.eps);
        }
    }
    kin_put_pack<N>(job.p_out, i, p);
    kin_put_pack<N>(job.m_out, i, m);
    kin_put_pack<N>(job.v_out, i, v);
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

static bool can_adamw(const kin_device *device, const kin_call *call) {
    return can_update(device, call) && call->in[4].desc.dtype == KIN_F32 &&
           call->in[5].desc.dtype == KIN_I64;
}

static void set_logarithm(double beta, float *out_high, float *out_low) {
    const double value = log(beta); /* -inf for 0: the correction is then 1 */
    *out_high = (float)value;
    *out_low = isfinite(value) ? (float)(value - (double)*out_high) : 0.0f;
}

/* True if packs may be taken from the first `inputs` inputs and all outputs. */
static bool has_packs(const kin_call *call, int inputs) {
    if (kin_desc_count(&call->out[0].desc) % PACK != 0) return false;
    for (int i = 0; i < inputs; i++)
        if (!kin_cuda_is_aligned(&call->in[i])) return false;
    for (int j = 0; j < call->out_count; j++)
        if (!kin_cuda_is_aligned(&call->out[j])) return false;
    return true;
}

static kin_status launch_adamw(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_adamw_attrs *attrs = static_cast<const kin_adamw_attrs *>(call->attrs);
    const int64_t count = kin_desc_count(&call->out[0].desc);
    adamw_job job = {};
    job.p = kin_ref_of(&call->in[0]), job.g = kin_ref_of(&call->in[1]);
    job.m = kin_ref_of(&call->in[2]), job.v = kin_ref_of(&call->in[3]);
    job.lr = static_cast<const float *>(kin_cuda_address(&call->in[4]));
    job.step = static_cast<const int64_t *>(kin_cuda_address(&call->in[5]));
    job.scale = kin_cuda_has(call, 6) ? kin_ref_of(&call->in[6]) : kin_no_ref();
    job.p_out = kin_ref_of(&call->out[0]), job.m_out = kin_ref_of(&call->out[1]);
    job.v_out = kin_ref_of(&call->out[2]);
    job.beta1 = (float)attrs->beta1, job.rest1 = (float)(1 - attrs->beta1);
    job.beta2 = (float)attrs->beta2, job.rest2 = (float)(1 - attrs->beta2);
    set_logarithm(attrs->beta1, &job.high1, &job.low1);
    set_logarithm(attrs->beta2, &job.high2, &job.low2);
    job.eps = (float)attrs->eps, job.weight_decay = (float)attrs->weight_decay;
    if (!has_packs(call, 4)) {
        job.count = count;
        return kin_cuda_launch(device, commands, adamw<1>, dim3(kin_cuda_blocks(count, THREADS)),
                               dim3(THREADS), 0, job);
    }
    job.count = count / PACK;
    return kin_cuda_launch(device, commands, adamw<PACK>, dim3(kin_cuda_blocks(job.count, THREADS)),
                           dim3(THREADS), 0, job);
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
    if (!has_packs(call, 2))
        return kin_cuda_launch(device, commands, blend<1>, dim3(kin_cuda_blocks(count, THREADS)),
                               dim3(THREADS), 0, a, b, scale, y, weight, count);
    return kin_cuda_launch(device, commands, blend<PACK>,
                           dim3(kin_cuda_blocks(count / PACK, THREADS)), dim3(THREADS), 0, a, b,
                           scale, y, weight, count / PACK);
}

/* ---- global_norm: squares in double, so that no gradient overflows; in one order ---- */

enum { PART_ELEMENTS = 16384, MOST_PARTS = 1024 };

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

static __global__ void __launch_bounds__(THREADS)
    squares(kin_ref x, double *__restrict__ out, int64_t count, int64_t parts) {
    const int64_t first = count * blockIdx.x / parts, last = count * (blockIdx.x + 1) / parts;
    double sum = 0;
    for (int64_t i = first + threadIdx.x; i < last; i += THREADS) {
        const double v = (double)kin_get(x, i);
        sum += v * v;
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

static int64_t parts_of(const kin_operand *x) {
    const int64_t parts = (kin_desc_count(&x->desc) + PART_ELEMENTS - 1) / PART_ELEMENTS;
    return parts > MOST_PARTS ? (int64_t)MOST_PARTS : parts;
}

static size_t norm_scratch(const kin_device *device, const kin_call *call) {
    int64_t parts = 0;
    (void)device;
    for (int i = 0; i < call->in_count; i++) parts += parts_of(&call->in[i]);
    return (size_t)(parts > 0 ? parts : 1) * sizeof(double);
}

/* The squares of each input in parts, and all parts in order. */
static kin_status launch_norm(kin_device *device, kin_commands *commands, const kin_call *call) {
    double *partial = static_cast<double *>(kin_cuda_scratch(call, 0));
    int64_t parts = 0;
    for (int i = 0; i < call->in_count; i++) {
        const kin_operand *x = &call->in[i];
        const int64_t mine = parts_of(x);
        kin_status status = kin_cuda_launch(
            device, commands, squares, dim3(kin_cuda_blocks(mine, 1)), dim3(THREADS), 0,
            kin_ref_of(x), partial + parts, kin_desc_count(&x->desc), mine);
        if (status != KIN_OK) return status;
        parts += mine;
    }
    return kin_cuda_launch(device, commands, root, dim3(1), dim3(THREADS), 0,
                           static_cast<const double *>(partial), kin_ref_of(&call->out[0]), parts);
}

static __global__ void clip_scale(kin_ref norm_in, kin_ref y, float max_norm) {
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
    {"ema", "cuda_ema", 0, 1, can_update, nullptr, launch_ema},
    {"global_norm", "cuda_global_norm", 0, 0, kin_cuda_can_real, norm_scratch, launch_norm},
    {"clip_scale", "cuda_clip_scale", 0, 1, kin_cuda_can_real, nullptr, launch_clip},
    {},
};
