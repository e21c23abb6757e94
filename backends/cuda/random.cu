/* random_normal and random_uniform: Philox4x32-10 and the draws made from it, as runtime/philox.h
 * has them. Uniform numbers are the host's to the bit, normal ones to rounding. */
#include "backends/cuda/launch.cuh"
#include "ops/random_attrs.h"

namespace {

enum { THREADS = 256 };

static __device__ __forceinline__ void philox(unsigned (&c)[4], unsigned k0, unsigned k1) {
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const unsigned high0 = __umulhi(c[0], 0xD2511F53u), low0 = c[0] * 0xD2511F53u;
        const unsigned high1 = __umulhi(c[2], 0xCD9E8D57u), low1 = c[2] * 0xCD9E8D57u;
        c[0] = high1 ^ c[1] ^ k0;
        c[1] = low1;
        c[2] = high0 ^ c[3] ^ k1;
        c[3] = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

static __device__ __forceinline__ void normal_pair(unsigned x, unsigned y, float *first,
                                                   float *second) {
    const float two_pi = 6.2831853071795864769f;
    const float u = (float)x * 0x1p-32f + 0x1p-33f;
    const float v = (float)y * (two_pi * 0x1p-32f) + two_pi * 0x1p-33f;
    const float s = sqrtf(-2.0f * logf(u));
    *first = s * sinf(v);
    *second = s * cosf(v);
}

/* The product is exact, so that fused and unfused sums round alike. */
static __device__ __forceinline__ float uniform_of(unsigned word) {
    const float value = (float)word * 0x1p-32f + 0x1p-33f;
    return value < 1.0f ? value : 0.0f;
}

/* A thread makes the four numbers of one block. */
template <bool NORMAL>
static __global__ void __launch_bounds__(THREADS)
    draw(const uint64_t *__restrict__ seed_and_step, float *__restrict__ y, unsigned stream,
         int64_t count) {
    const int64_t block = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (block * 4 >= count) return;
    const uint64_t seed = seed_and_step[0], step = seed_and_step[1];
    unsigned c[4] = {(unsigned)block, (unsigned)step, stream,
                     ((unsigned)((uint64_t)block >> 32) & 0xFFFFu) |
                         ((unsigned)(step >> 32) & 0xFFFFu) << 16};
    float values[4];
    philox(c, (unsigned)seed, (unsigned)(seed >> 32));
    if (NORMAL) {
        normal_pair(c[0], c[1], &values[0], &values[1]);
        normal_pair(c[2], c[3], &values[2], &values[3]);
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++) values[i] = uniform_of(c[i]);
    }
    for (int i = 0; i < 4 && block * 4 + i < count; i++) y[block * 4 + i] = values[i];
}

static bool can_draw(const kin_device *device, const kin_call *call) {
    (void)device;
    return call->in[0].desc.dtype == KIN_I64 && call->out[0].desc.dtype == KIN_F32;
}

template <bool NORMAL>
static kin_status launch_draw(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_random_attrs *attrs = static_cast<const kin_random_attrs *>(call->attrs);
    const int64_t count = kin_desc_count(&call->out[0].desc);
    return kin_cuda_launch(
        device, commands, draw<NORMAL>, dim3(kin_cuda_blocks((count + 3) / 4, THREADS)),
        dim3(THREADS), 0, static_cast<const uint64_t *>(kin_cuda_address(&call->in[0])),
        static_cast<float *>(kin_cuda_address(&call->out[0])), attrs->stream, count);
}

} // namespace

KIN_CUDA_ROWS(random) = {
    {"random_normal", "cuda_random_normal", 0, 0, can_draw, nullptr, launch_draw<true>},
    {"random_uniform", "cuda_random_uniform", 0, 0, can_draw, nullptr, launch_draw<false>},
    {},
};
