/* In front of every kernel: CUDA's language or its emulation, storage types, loads and stores of
 * several elements at once, and sums over warps and blocks. All arithmetic is in f32. */
#ifndef KIN_BACKENDS_CUDA_DEVICE_CUH
#define KIN_BACKENDS_CUDA_DEVICE_CUH

#include "runtime/tensor.h"

#ifdef KIN_CUDA_EMULATED
#include "backends/cuda/emulation.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

/* ---- storage ---- */

struct kin_f16 {
    uint16_t bits;
};
struct kin_bf16 {
    uint16_t bits;
};

/* `N` elements that are loaded and stored at once, 16 bytes or less with each instruction; the
 * address is a multiple of their size or of 16. */
template <typename T, int N> struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) kin_pack {
    T at[N];
};

#ifdef KIN_CUDA_EMULATED
/* In place of an address that is not aligned, after which the launch fails. */
template <typename T, int N> static inline T *kin_emulated_elsewhere() {
    static kin_pack<T, N> nowhere;
    return nowhere.at;
}
#endif

static __device__ __forceinline__ float kin_value(float v) {
    return v;
}
static __device__ __forceinline__ float kin_value(kin_bf16 v) {
    return __uint_as_float((unsigned)v.bits << 16);
}
static __device__ __forceinline__ float kin_value(kin_f16 v) {
#ifdef KIN_CUDA_EMULATED
    return kin_f16_to_f32(v.bits);
#else
    return __half2float(__ushort_as_half(v.bits));
#endif
}

/* v rounded to nearest even. */
template <typename T> __device__ __forceinline__ T kin_rounded(float v);
template <> __device__ __forceinline__ float kin_rounded<float>(float v) {
    return v;
}
template <> __device__ __forceinline__ kin_bf16 kin_rounded<kin_bf16>(float v) {
#ifdef KIN_CUDA_EMULATED
    return kin_bf16{kin_f32_to_bf16(v)};
#else
    return kin_bf16{__bfloat16_as_ushort(__float2bfloat16_rn(v))};
#endif
}
template <> __device__ __forceinline__ kin_f16 kin_rounded<kin_f16>(float v) {
#ifdef KIN_CUDA_EMULATED
    return kin_f16{kin_f32_to_f16(v)};
#else
    return kin_f16{__half_as_ushort(__float2half_rn(v))};
#endif
}

/* Elements p[0 .. N-1] as floats, and back. `p` is aligned to N elements or
 * to 16 bytes. */
template <int N, typename T>
static __device__ __forceinline__ void kin_load(const T *p, float (&out)[N]) {
#ifdef KIN_CUDA_EMULATED
    if (!kin_emulated_is_aligned(p, alignof(kin_pack<T, N>))) p = kin_emulated_elsewhere<T, N>();
#endif
    kin_pack<T, N> pack = *reinterpret_cast<const kin_pack<T, N> *>(p);
#pragma unroll
    for (int i = 0; i < N; i++) out[i] = kin_value(pack.at[i]);
}
template <int N, typename T>
static __device__ __forceinline__ void kin_store(T *p, const float (&values)[N]) {
    kin_pack<T, N> pack;
#ifdef KIN_CUDA_EMULATED
    if (!kin_emulated_is_aligned(p, alignof(kin_pack<T, N>))) p = kin_emulated_elsewhere<T, N>();
#endif
#pragma unroll
    for (int i = 0; i < N; i++) pack.at[i] = kin_rounded<T>(values[i]);
    *reinterpret_cast<kin_pack<T, N> *>(p) = pack;
}

/* ---- operands whose dtype is known when the kernel runs ----
 * A look at the dtype is the same for all threads and costs little beside the access, so kernels
 * that wait for memory are made once for all dtypes. */

struct kin_ref {
    void *data; /* element 0; NULL: absent */
    int dtype;  /* kin_dtype */
};

/* Element i as float; of integers and booleans, too. Not of q8_0. */
static __device__ __forceinline__ float kin_get(const kin_ref &ref, int64_t i) {
    switch (ref.dtype) {
    case KIN_F16:
        return kin_value(static_cast<const kin_f16 *>(ref.data)[i]);
    case KIN_BF16:
        return kin_value(static_cast<const kin_bf16 *>(ref.data)[i]);
    case KIN_I32:
        return (float)static_cast<const int32_t *>(ref.data)[i];
    case KIN_I64:
        return (float)static_cast<const int64_t *>(ref.data)[i];
    case KIN_U8:
        return (float)static_cast<const uint8_t *>(ref.data)[i];
    case KIN_BOOL:
        return static_cast<const uint8_t *>(ref.data)[i] != 0 ? 1.0f : 0.0f;
    default:
        return static_cast<const float *>(ref.data)[i];
    }
}

/* Element i of f32, f16 or bf16 becomes v. */
static __device__ __forceinline__ void kin_put(const kin_ref &ref, int64_t i, float v) {
    switch (ref.dtype) {
    case KIN_F16:
        static_cast<kin_f16 *>(ref.data)[i] = kin_rounded<kin_f16>(v);
        return;
    case KIN_BF16:
        static_cast<kin_bf16 *>(ref.data)[i] = kin_rounded<kin_bf16>(v);
        return;
    default:
        static_cast<float *>(ref.data)[i] = v;
    }
}

/* Elements i .. i+N-1 of f32, f16 or bf16, which are read at once: they are aligned to N elements
 * or to 16 bytes. N 1 takes any place. */
template <int N>
static __device__ __forceinline__ void kin_get_pack(const kin_ref &ref, int64_t i,
                                                    float (&out)[N]) {
    if (ref.dtype == KIN_F32) kin_load<N>(static_cast<const float *>(ref.data) + i, out);
    else if (ref.dtype == KIN_BF16) kin_load<N>(static_cast<const kin_bf16 *>(ref.data) + i, out);
    else kin_load<N>(static_cast<const kin_f16 *>(ref.data) + i, out);
}
/* The same of any dtype that kin_get takes; integers are read one by one. */
template <int N>
static __device__ __forceinline__ void kin_get_pack_of_any(const kin_ref &ref, int64_t i,
                                                           float (&out)[N]) {
    if (ref.dtype == KIN_F32 || ref.dtype == KIN_BF16 || ref.dtype == KIN_F16) {
        kin_get_pack<N>(ref, i, out);
    } else {
#pragma unroll
        for (int j = 0; j < N; j++) out[j] = kin_get(ref, i + j);
    }
}
template <int N>
static __device__ __forceinline__ void kin_put_pack(const kin_ref &ref, int64_t i,
                                                    const float (&values)[N]) {
    if (ref.dtype == KIN_F32) kin_store<N>(static_cast<float *>(ref.data) + i, values);
    else if (ref.dtype == KIN_BF16) kin_store<N>(static_cast<kin_bf16 *>(ref.data) + i, values);
    else kin_store<N>(static_cast<kin_f16 *>(ref.data) + i, values);
}

/* Element i of q8_0: blocks of 34 bytes, an f16 scale and 32 signed bytes. */
static __device__ __forceinline__ float kin_get_q8_0(const void *data, int64_t i) {
    const unsigned char *block = static_cast<const unsigned char *>(data) + i / 32 * 34;
    const kin_f16 scale = {(uint16_t)(block[0] | block[1] << 8)};
    return kin_value(scale) * (float)(signed char)block[2 + i % 32];
}

/* ---- shared memory of dynamic size ---- */

#ifdef KIN_CUDA_EMULATED
#define KIN_DYNAMIC_SHARED(type, name) type *name = static_cast<type *>(kin_emulated_shared())
#else
#define KIN_DYNAMIC_SHARED(type, name)                                                             \
    extern __shared__ __align__(1024) unsigned char kin_dynamic_shared[];                          \
    type *name = reinterpret_cast<type *>(kin_dynamic_shared)
#endif

/* Waits for `count` threads (a multiple of 32) at barrier `id`, 1 .. 15. */
static __device__ __forceinline__ void kin_barrier(int id, int count) {
#ifdef KIN_CUDA_EMULATED
    kin_emulated_barrier(id, count, false);
#else
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(count) : "memory");
#endif
}

/* ---- sums over lanes: pairs in a fixed order, so that every run gives the same bits ---- */

/* The larger one; NaN if one of them is. */
static __device__ __forceinline__ float kin_larger(float a, float b) {
    return a != a ? a : a > b ? a : b;
}

/* Over groups of WIDTH lanes (a power of two); every lane gets the result. */
template <int WIDTH = 32> static __device__ __forceinline__ float kin_warp_sum(float v) {
#pragma unroll
    for (int step = WIDTH / 2; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
    return v;
}
template <int WIDTH = 32> static __device__ __forceinline__ float kin_warp_max(float v) {
#pragma unroll
    for (int step = WIDTH / 2; step > 0; step /= 2)
        v = kin_larger(v, __shfl_xor_sync(0xffffffffu, v, step));
    return v;
}

/* Over a block of THREADS (a multiple of 32, at most 1024); every thread gets the result, and all
 * threads of the block must call. May be called again at once. */
template <int THREADS, bool MAX> static __device__ __forceinline__ float kin_block_join(float v) {
    __shared__ float parts[THREADS / 32];
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    v = MAX ? kin_warp_max(v) : kin_warp_sum(v);
    if (THREADS == 32) return v;
    if (lane == 0) parts[warp] = v;
    __syncthreads();
    v = parts[0];
    for (int i = 1; i < THREADS / 32; i++) v = MAX ? kin_larger(v, parts[i]) : v + parts[i];
    __syncthreads();
    return v;
}
template <int THREADS> static __device__ __forceinline__ float kin_block_sum(float v) {
    return kin_block_join<THREADS, false>(v);
}
template <int THREADS> static __device__ __forceinline__ float kin_block_max(float v) {
    return kin_block_join<THREADS, true>(v);
}

#endif
