/* Hopper's own instructions (sm_90a), behind small functions: barriers in shared memory that count
 * bytes, the bulk copy engine (TMA), and wgmma. After the PTX ISA 8.x, sections "mbarrier",
 * "cp.async.bulk.tensor" and "wgmma.mma_async". As in mma.cuh, each has a second body for the
 * emulator (hopper_emulated.cuh), so that panels, descriptions and phases are tried without a GPU.
 *
 * Tiles lie in panels of W elements of 2 bytes (W 16, 32 or 64): rows of 2 W bytes one after the
 * other, with the 16-byte pieces of a row exchanged as the copy engine's swizzle of 2 W bytes does.
 * A panel begins at a multiple of 8 rows (1024, 512 or 256 bytes), where the swizzle begins anew.
 * The same panels serve wgmma in both directions:
 *
 *   k goes along a row   rows are A's rows or B's columns        hopper_panel_by_column
 *   k goes down          rows are B's, panels follow along n     hopper_panel_by_row */
#ifndef KIN_BACKENDS_CUDA_HOPPER_CUH
#define KIN_BACKENDS_CUDA_HOPPER_CUH

#include "backends/cuda/device.cuh"
#include "backends/cuda/mma.cuh"

/* A tensor of 5 axes for the copy engine, the innermost one first; strides, of the other axes, in
 * bytes. `box` is copied at once; its first axis has `width` elements, W of the panels. */
struct hopper_tensor {
    kin_dtype dtype; /* f16 or bf16 */
    void *data;
    uint64_t dims[5], strides[4];
    uint32_t box[5];
};

#ifdef KIN_CUDA_EMULATED
#include "backends/cuda/hopper_emulated.cuh"
#else
#include <cuda.h>

typedef CUtensorMap hopper_map;

/* False if the driver lacks the function or the tensor is not one for the copy engine: addresses
 * and strides are multiples of 16 bytes. */
static inline bool hopper_describe(hopper_map *map, const hopper_tensor *x) {
    typedef CUresult (*encode_fn)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *,
                                  const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                                  const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                                  CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
    const cuuint32_t ones[5] = {1, 1, 1, 1, 1};
    cuuint64_t dims[5], strides[4];
    void *found = nullptr;
    cudaDriverEntryPointQueryResult result;
#if CUDART_VERSION >= 12050
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found,
                                                               12000, cudaEnableDefault, &result);
#else
    const cudaError_t error =
        cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &found, cudaEnableDefault, &result);
#endif
    if (error != cudaSuccess || result != cudaDriverEntryPointSuccess) return false;
    for (int i = 0; i < 5; i++) dims[i] = x->dims[i];
    for (int i = 0; i < 4; i++) strides[i] = x->strides[i];
    return ((encode_fn)found)(map,
                              x->dtype == KIN_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                                   : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
                              5, x->data, dims, strides, x->box, ones,
                              CU_TENSOR_MAP_INTERLEAVE_NONE,
                              x->box[0] == 64   ? CU_TENSOR_MAP_SWIZZLE_128B
                              : x->box[0] == 32 ? CU_TENSOR_MAP_SWIZZLE_64B
                                                : CU_TENSOR_MAP_SWIZZLE_32B,
                              CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                              CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

static __device__ __forceinline__ uint32_t hopper_address(const void *shared) {
    return (uint32_t)__cvta_generic_to_shared(shared);
}

/* ---- barriers ---- */

static __device__ __forceinline__ void hopper_barrier_init(uint64_t *barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(hopper_address(barrier)),
                 "r"(arrivals)
                 : "memory");
}
/* After the inits, by the thread that made them and before the block's barrier. */
static __device__ __forceinline__ void hopper_barrier_publish() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
/* What this thread stored in shared memory is seen by wgmma and the copy engine after a barrier. */
static __device__ __forceinline__ void hopper_publish() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
static __device__ __forceinline__ void hopper_arrive(uint64_t *barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(hopper_address(barrier))
                 : "memory");
}
/* An arrival, and so many bytes that must come before the phase ends. */
static __device__ __forceinline__ void hopper_expect(uint64_t *barrier, int bytes) {
    asm volatile(
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(hopper_address(barrier)),
        "r"(bytes)
        : "memory");
}
/* Waits for the end of the phase of this parity: 0 for the first one, 1, 0, ... */
static __device__ __forceinline__ void hopper_wait(uint64_t *barrier, int parity) {
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n"
                 "}\n" ::"r"(hopper_address(barrier)),
                 "r"(parity)
                 : "memory");
}

/* ---- the copy engine ---- */

/* Begins to copy a box of a tensor of 5 axes; its bytes count at the barrier. What lies outside of
 * the tensor arrives as zeros. */
static __device__ __forceinline__ void hopper_copy(void *to, const hopper_map *map,
                                                   uint64_t *barrier, int c0, int c1, int c2,
                                                   int c3, int c4) {
    asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4, %5, %6, %7}], [%2];" ::"r"(hopper_address(to)),
                 "l"(map), "r"(hopper_address(barrier)), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
                 : "memory");
}

/* ---- registers ---- */

template <int N> static __device__ __forceinline__ void hopper_fewer_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N> static __device__ __forceinline__ void hopper_more_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

/* ---- wgmma ---- */

/* Before the first wgmma, and after registers that a wgmma takes were written. */
static __device__ __forceinline__ void hopper_begin() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
static __device__ __forceinline__ void hopper_close() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/* Until at most LEFT groups are under way. */
template <int LEFT> static __device__ __forceinline__ void hopper_join() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}
/* Keeps the compiler from moving uses of a result across a join. */
template <int N> static __device__ __forceinline__ void hopper_pin(float (&c)[N][4]) {
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) asm volatile("" : "+f"(c[n][i])::"memory");
}
template <int N> static __device__ __forceinline__ void hopper_pin(uint32_t (&a)[N][4]) {
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) asm volatile("" : "+r"(a[n][i])::"memory");
}

#define HOPPER_LIST32                                                                              \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                       \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define HOPPER_LIST40 HOPPER_LIST32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define HOPPER_LIST48 HOPPER_LIST40 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define HOPPER_LIST56 HOPPER_LIST48 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define HOPPER_LIST64 HOPPER_LIST56 ", %56, %57, %58, %59, %60, %61, %62, %63"
#define HOPPER_C1(c, n) "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])
#define HOPPER_C8(c)                                                                               \
    HOPPER_C1(c, 0), HOPPER_C1(c, 1), HOPPER_C1(c, 2), HOPPER_C1(c, 3), HOPPER_C1(c, 4),           \
        HOPPER_C1(c, 5), HOPPER_C1(c, 6), HOPPER_C1(c, 7)
#define HOPPER_C10(c) HOPPER_C8(c), HOPPER_C1(c, 8), HOPPER_C1(c, 9)
#define HOPPER_C12(c) HOPPER_C10(c), HOPPER_C1(c, 10), HOPPER_C1(c, 11)
#define HOPPER_C14(c) HOPPER_C12(c), HOPPER_C1(c, 12), HOPPER_C1(c, 13)
#define HOPPER_C16(c) HOPPER_C14(c), HOPPER_C1(c, 14), HOPPER_C1(c, 15)

/* c (64 x N) = left right^T, or += if `add`; both operands in shared memory, k along the rows. */
#define HOPPER_SCORES(type, n, list, columns, d0, d1, flag)                                        \
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, " flag ", 0;\n"                             \
                 "wgmma.mma_async.sync.aligned.m64n" n "k16.f32." type "." type " {" list "}, " d0 \
                 ", " d1 ", add, 1, 1, 0, 0;\n}\n"                                                 \
                 : columns(c)                                                                      \
                 : "l"(left), "l"(right), "r"(add))
#define HOPPER_SCORER(n, n_text, list, columns, d0, d1, flag)                                      \
    template <typename T>                                                                          \
    static __device__ __forceinline__ void hopper_scores(float(&c)[n / 8][4], uint64_t left,       \
                                                         uint64_t right, int add) {                \
        if (kin_is_bf16<T>) HOPPER_SCORES("bf16", n_text, list, columns, d0, d1, flag);            \
        else HOPPER_SCORES("f16", n_text, list, columns, d0, d1, flag);                            \
    }
HOPPER_SCORER(64, "64", HOPPER_LIST32, HOPPER_C8, "%32", "%33", "%34")
HOPPER_SCORER(80, "80", HOPPER_LIST40, HOPPER_C10, "%40", "%41", "%42")
HOPPER_SCORER(96, "96", HOPPER_LIST48, HOPPER_C12, "%48", "%49", "%50")
HOPPER_SCORER(112, "112", HOPPER_LIST56, HOPPER_C14, "%56", "%57", "%58")
HOPPER_SCORER(128, "128", HOPPER_LIST64, HOPPER_C16, "%64", "%65", "%66")

/* c (64 x N) += a right, with a in registers and k down the rows of right. */
#define HOPPER_ADD(type, n, list, columns, a0, a1, a2, a3, desc)                                   \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" n "k16.f32." type "." type " {" list          \
                 "}, {" a0 ", " a1 ", " a2 ", " a3 "}, " desc ", 1, 1, 1, 1;\n"                    \
                 : columns(c)                                                                      \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(right))
#define HOPPER_ADDER(n, n_text, list, columns, a0, a1, a2, a3, desc)                               \
    template <typename T>                                                                          \
    static __device__ __forceinline__ void hopper_add(float(&c)[n / 8][4], const uint32_t(&a)[4],  \
                                                      uint64_t right) {                            \
        if (kin_is_bf16<T>) HOPPER_ADD("bf16", n_text, list, columns, a0, a1, a2, a3, desc);       \
        else HOPPER_ADD("f16", n_text, list, columns, a0, a1, a2, a3, desc);                       \
    }
HOPPER_ADDER(64, "64", HOPPER_LIST32, HOPPER_C8, "%32", "%33", "%34", "%35", "%36")
HOPPER_ADDER(80, "80", HOPPER_LIST40, HOPPER_C10, "%40", "%41", "%42", "%43", "%44")
HOPPER_ADDER(96, "96", HOPPER_LIST48, HOPPER_C12, "%48", "%49", "%50", "%51", "%52")
HOPPER_ADDER(128, "128", HOPPER_LIST64, HOPPER_C16, "%64", "%65", "%66", "%67", "%68")

#endif /* KIN_CUDA_EMULATED */

/* The description of an operand in shared memory: address, the two distances (in 16 bytes) and the
 * swizzle, 1: 128, 2: 64, 3: 32 bytes. */
template <int W>
static __device__ __forceinline__ uint64_t hopper_panel(const uint16_t *at, int leading_bytes,
                                                        int stride_bytes) {
    const uint64_t swizzle = W == 64 ? 1 : W == 32 ? 2 : 3;
    return (uint64_t)(hopper_address(at) >> 4 & 0x3fff) |
           (uint64_t)(leading_bytes >> 4 & 0x3fff) << 16 |
           (uint64_t)(stride_bytes >> 4 & 0x3fff) << 32 | swizzle << 62;
}
template <int W>
static __device__ __forceinline__ uint64_t hopper_panel_by_column(const uint16_t *at) {
    return hopper_panel<W>(at, 16, 16 * W);
}
template <int W>
static __device__ __forceinline__ uint64_t hopper_panel_by_row(const uint16_t *at,
                                                               int panel_bytes) {
    return hopper_panel<W>(at, panel_bytes, 16 * W);
}

#endif
