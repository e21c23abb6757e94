/* Kernels on the host: what CUDA C++ has beyond C++, so that the host's compiler takes the .cu
 * files as they are (g++ -x c++ -DKIN_CUDA_EMULATED). The plug-in `cuda-emulated` is made so. It
 * runs every thread of every block of a launch and is slow; it is there for tests: kinora check ops
 * --device cuda-emulated0
 *
 * How to write a kernel that runs on both:
 *   - include "backends/cuda/device.cuh" (this file or the toolkit's headers), never
 *     <cuda_runtime.h>; launch with kin_cuda_launch() (launch.cuh), never with <<< >>>;
 *   - __shared__ arrays of fixed size as always. Of dynamic size: KIN_DYNAMIC_SHARED(float, name).
 *     They are one per kernel here, since blocks run one after the other;
 *   - f16 and bf16 are kin_f16 and kin_bf16 of device.cuh, not __half;
 *   - what only a GPU has (inline PTX: mma, ldmatrix, cp.async) is put into small __device__
 *     functions with a second body under #ifdef KIN_CUDA_EMULATED. For instructions of a whole warp
 *     that body is made from kin_emulated_exchange(), which gives each lane what all lanes brought;
 *   - files named *_hopper*.cu are compiled for sm_90a alone; hopper.cuh has their instructions.
 *
 * What it has: threadIdx and its kin, __syncthreads and its forms that count, named barriers
 * (kin_barrier of device.cuh), __syncwarp, __shfl*_sync, votes, atomics, the math functions, and
 * int4-like vectors. The threads of a block are fibers: each runs until it waits. Those that wait
 * for a barrier that not all threads reach, or for lanes that have ended, are an error of the
 * launch, with the kernel's name. Dynamic shared memory starts as NaN in each block. The setting
 * cuda.order=reverse or =shuffled runs the threads between two barriers in another order: a kernel
 * that lacks a barrier gives another result then. */
#ifndef KIN_BACKENDS_CUDA_EMULATION_H
#define KIN_BACKENDS_CUDA_EMULATION_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __shared__ static
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)
#ifndef __restrict__
#define __restrict__ __restrict
#endif

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {
    }
};

#define KIN_EMULATED_VECTOR(type, name, bytes)                                                     \
    struct alignas(2 * sizeof(type)) name##2 {                                                     \
        type x, y;                                                                                 \
    };                                                                                             \
    struct alignas(bytes) name##4 {                                                                \
        type x, y, z, w;                                                                           \
    };                                                                                             \
    static inline name##2 make_##name##2(type x, type y) {                                         \
        return name##2 {x, y};                                                                     \
    }                                                                                              \
    static inline name##4 make_##name##4(type x, type y, type z, type w) {                         \
        return name##4 {x, y, z, w};                                                               \
    }
KIN_EMULATED_VECTOR(float, float, 16)
KIN_EMULATED_VECTOR(int, int, 16)
KIN_EMULATED_VECTOR(unsigned, uint, 16)
KIN_EMULATED_VECTOR(unsigned short, ushort, 8)
#undef KIN_EMULATED_VECTOR

/* Where the running thread is. */
struct kin_emulated_place {
    uint3 thread, block;
    dim3 block_dim, grid_dim;
    unsigned number; /* of the thread in its block */
};
extern kin_emulated_place kin_emulated_now;
#define threadIdx (kin_emulated_now.thread)
#define blockIdx (kin_emulated_now.block)
#define blockDim (kin_emulated_now.block_dim)
#define gridDim (kin_emulated_now.grid_dim)
static const int warpSize = 32;

/* ---- waiting (emulator.cc) ---- */

/* Waits until `count` threads of the block have come to barrier `id` (0 .. 15), and gives the
 * number of those that came with `vote` true. count 0: all threads of the block. */
int kin_emulated_barrier(int id, int count, bool vote);
/* Waits for the lanes of the warp that `mask` names, and copies what each brought, `size` bytes (at
 * most 64), to out[lane * size]; the places of other lanes are left as they are. */
void kin_emulated_exchange(unsigned mask, const void *mine, size_t size, void *out);
/* Lets all other threads run on, in a loop that waits for what they write; `turns` is how often it
 * has come by. An error of the launch after a million. */
void kin_emulated_pause(unsigned turns);
/* Dynamic shared memory of the block. */
void *kin_emulated_shared();
/* False, after which the launch fails, if an access of several elements at once would be misaligned
 * on the device. */
bool kin_emulated_is_aligned(const void *address, size_t alignment);

static inline void __syncthreads() {
    kin_emulated_barrier(0, 0, false);
}
static inline int __syncthreads_count(int vote) {
    return kin_emulated_barrier(0, 0, vote != 0);
}
static inline int __syncthreads_or(int vote) {
    return kin_emulated_barrier(0, 0, vote != 0) != 0;
}
static inline int __syncthreads_and(int vote) {
    return kin_emulated_barrier(0, 0, vote == 0) == 0;
}
static inline void __threadfence() {
}
static inline void __threadfence_block() {
}
static inline unsigned kin_emulated_lane() {
    return kin_emulated_now.number % 32;
}

static inline void __syncwarp(unsigned mask = 0xffffffffu) {
    char nothing = 0, all[32];
    kin_emulated_exchange(mask, &nothing, 1, all);
}
/* A lane that the mask does not name gives what it has itself, as does one outside of the width. */
template <typename T> static inline T kin_emulated_from(unsigned mask, T value, int lane) {
    T all[32];
    for (int i = 0; i < 32; i++) all[i] = value;
    kin_emulated_exchange(mask, &value, sizeof value, all);
    return all[lane & 31];
}
template <typename T>
static inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
    int first = (int)kin_emulated_lane() & ~(width - 1);
    return kin_emulated_from(mask, value, first + (lane & (width - 1)));
}
template <typename T>
static inline T __shfl_xor_sync(unsigned mask, T value, int flip, int width = 32) {
    int mine = (int)kin_emulated_lane(), from = mine ^ flip;
    int end = (mine & ~(width - 1)) + width;
    return kin_emulated_from(mask, value, from < end ? from : mine);
}
template <typename T>
static inline T __shfl_down_sync(unsigned mask, T value, int step, int width = 32) {
    int mine = (int)kin_emulated_lane(), end = (mine & ~(width - 1)) + width;
    return kin_emulated_from(mask, value, mine + step < end ? mine + step : mine);
}
template <typename T>
static inline T __shfl_up_sync(unsigned mask, T value, int step, int width = 32) {
    int mine = (int)kin_emulated_lane(), first = mine & ~(width - 1);
    return kin_emulated_from(mask, value, mine - step >= first ? mine - step : mine);
}
static inline unsigned __ballot_sync(unsigned mask, int vote) {
    unsigned char mine = vote != 0, all[32] = {0};
    unsigned result = 0;
    kin_emulated_exchange(mask, &mine, 1, all);
    for (int i = 0; i < 32; i++) result |= (mask >> i & 1u) != 0 && all[i] ? 1u << i : 0;
    return result;
}
static inline int __any_sync(unsigned mask, int vote) {
    return __ballot_sync(mask, vote) != 0;
}
static inline int __all_sync(unsigned mask, int vote) {
    return __ballot_sync(mask, vote == 0) == 0;
}

/* ---- atomics: threads take turns, so plain updates are enough ---- */

template <typename T> static inline T atomicAdd(T *place, T value) {
    T old = *place;
    *place = old + value;
    return old;
}
template <typename T> static inline T atomicMax(T *place, T value) {
    T old = *place;
    if (value > old) *place = value;
    return old;
}
template <typename T> static inline T atomicExch(T *place, T value) {
    T old = *place;
    *place = value;
    return old;
}
template <typename T> static inline T atomicCAS(T *place, T expected, T value) {
    T old = *place;
    if (old == expected) *place = value;
    return old;
}

/* ---- arithmetic ---- */

template <typename T> static inline T __ldg(const T *place) {
    return *place;
}
template <typename T> static inline T min(T a, T b) {
    return b < a ? b : a;
}
template <typename T> static inline T max(T a, T b) {
    return a < b ? b : a;
}
static inline float rsqrtf(float v) {
    return 1.0f / sqrtf(v);
}
#define __expf(v) expf(v)
#define __logf(v) logf(v)
#define __sinf(v) sinf(v)
#define __cosf(v) cosf(v)
static inline float __fdividef(float a, float b) {
    return a / b;
}
static inline float __fmul_rn(float a, float b) {
    volatile float product = a * b;
    return product;
}
static inline float __fadd_rn(float a, float b) {
    volatile float sum = a + b;
    return sum;
}
static inline float __fmaf_rn(float a, float b, float c) {
    return fmaf(a, b, c);
}
static inline unsigned __umulhi(unsigned a, unsigned b) {
    return (unsigned)((uint64_t)a * b >> 32);
}
static inline int __popc(unsigned v) {
    return __builtin_popcount(v);
}
static inline int __ffs(int v) {
    return __builtin_ffs(v);
}
static inline int __clz(int v) {
    return v == 0 ? 32 : __builtin_clz((unsigned)v);
}
static inline unsigned __float_as_uint(float v) {
    unsigned bits;
    memcpy(&bits, &v, 4);
    return bits;
}
static inline float __uint_as_float(unsigned bits) {
    float v;
    memcpy(&v, &bits, 4);
    return v;
}
static inline int __float_as_int(float v) {
    return (int)__float_as_uint(v);
}
static inline float __int_as_float(int bits) {
    return __uint_as_float((unsigned)bits);
}

#endif
