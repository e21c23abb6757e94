/* What convolutions need of Hopper beyond hopper.cuh: wgmma with both operands in shared memory,
 * and panels whose width is known when the kernel runs. Real bodies and the emulator's, as there.
 *
 * A box of the axes {element, row of a panel, panel} fills panels one behind the other. */
#ifndef KIN_BACKENDS_CUDA_HOPPER_CONV_CUH
#define KIN_BACKENDS_CUDA_HOPPER_CONV_CUH

#include "backends/cuda/conv.cuh"
#include "backends/cuda/hopper.cuh"

#include <string.h>

#ifdef KIN_CUDA_EMULATED

/* ---- wgmma ---- */

template <typename T, bool BY_ROW, int N>
static inline void hopper_conv_add(float (&c)[N][4], uint64_t left, uint64_t right) {
    const int thread = (int)kin_emulated_now.number % 128;
    const int row = thread / 32 * 16 + thread % 32 / 4, t = thread % 4;
    float a[2][16];
    for (int k = 0; k < 16; k++)
        for (int half = 0; half < 2; half++)
            a[half][k] = hopper_element<T>(left, row + half * 8, k);
    for (int n = 0; n < N; n++)
        for (int i = 0; i < 2; i++) {
            const int column = n * 8 + 2 * t + i;
            for (int k = 0; k < 16; k++) {
                const float b = BY_ROW ? hopper_element<T>(right, k, column)
                                       : hopper_element<T>(right, column, k);
                c[n][i] += a[0][k] * b;
                c[n][2 + i] += a[1][k] * b;
            }
        }
}

#else /* on a GPU */

#define HOPPER_CONV_LIST64                                                                         \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                       \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "             \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "             \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define HOPPER_CONV_LIST128                                                                        \
    HOPPER_CONV_LIST64                                                                             \
    ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "           \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "             \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, "   \
    "%127"
#define HOPPER_CONV_C4(c, n)                                                                       \
    "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3]), "+f"(c[n + 1][0]),                 \
        "+f"(c[n + 1][1]), "+f"(c[n + 1][2]), "+f"(c[n + 1][3]), "+f"(c[n + 2][0]),                \
        "+f"(c[n + 2][1]), "+f"(c[n + 2][2]), "+f"(c[n + 2][3]), "+f"(c[n + 3][0]),                \
        "+f"(c[n + 3][1]), "+f"(c[n + 3][2]), "+f"(c[n + 3][3])
#define HOPPER_CONV_C16(c, n)                                                                      \
    HOPPER_CONV_C4(c, n), HOPPER_CONV_C4(c, n + 4), HOPPER_CONV_C4(c, n + 8),                      \
        HOPPER_CONV_C4(c, n + 12)
#define HOPPER_CONV_WGMMA(type, columns, list, by_row, left, right, ...)                           \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" columns "k16.f32." type "." type " {" list    \
                 "}, " left ", " right ", 1, 1, 1, 0, " by_row ";"                                 \
                 : __VA_ARGS__                                                                     \
                 : "l"(a), "l"(b))
#define HOPPER_CONV_BOTH(type, columns, list, left, right, ...)                                    \
    do {                                                                                           \
        if (BY_ROW) HOPPER_CONV_WGMMA(type, columns, list, "1", left, right, __VA_ARGS__);         \
        else HOPPER_CONV_WGMMA(type, columns, list, "0", left, right, __VA_ARGS__);                \
    } while (0)

/* c (64 x 8 N) += left right. k goes along the rows of left; BY_ROW: and down those of right (whose
 * panels follow one another along the columns), else along them, too. */
template <typename T, bool BY_ROW>
static __device__ __forceinline__ void hopper_conv_add(float (&c)[16][4], uint64_t a, uint64_t b) {
    if (kin_is_bf16<T>)
        HOPPER_CONV_BOTH("bf16", "128", HOPPER_CONV_LIST64, "%64", "%65", HOPPER_CONV_C16(c, 0));
    else HOPPER_CONV_BOTH("f16", "128", HOPPER_CONV_LIST64, "%64", "%65", HOPPER_CONV_C16(c, 0));
}
template <typename T, bool BY_ROW>
static __device__ __forceinline__ void hopper_conv_add(float (&c)[32][4], uint64_t a, uint64_t b) {
    if (kin_is_bf16<T>)
        HOPPER_CONV_BOTH("bf16", "256", HOPPER_CONV_LIST128, "%128", "%129", HOPPER_CONV_C16(c, 0),
                         HOPPER_CONV_C16(c, 16));
    else
        HOPPER_CONV_BOTH("f16", "256", HOPPER_CONV_LIST128, "%128", "%129", HOPPER_CONV_C16(c, 0),
                         HOPPER_CONV_C16(c, 16));
}

#endif /* KIN_CUDA_EMULATED */

/* The description of an operand whose panels have rows of `width` (16, 32, 64) elements; see
 * hopper_panel. */
static __device__ __forceinline__ uint64_t hopper_conv_panel(const uint16_t *at, int width,
                                                             int leading_bytes) {
    const uint64_t swizzle = width == 64 ? 1 : width == 32 ? 2 : 3;
    return (uint64_t)(hopper_address(at) >> 4 & 0x3fff) |
           (uint64_t)(leading_bytes >> 4 & 0x3fff) << 16 | (uint64_t)(width & 0x3fff) << 32 |
           swizzle << 62;
}

/* A ring of SLOTS: the place, and the parity of its barriers' phase. */
template <int SLOTS> struct hopper_conv_ring {
    int slot, parity;
    __device__ __forceinline__ void next() {
        if (++slot == SLOTS) {
            slot = 0;
            parity ^= 1;
        }
    }
};

/* ---- on the host ---- */

static inline int64_t hopper_conv_parts(int64_t count, int64_t size) {
    return (count + size - 1) / size;
}

/* Convolutions of single positions see a plane as rows of 64. */
static inline void hopper_conv_flatten(conv_args *a) {
    const auto is_point = [&](int axis) {
        return a->kernel[axis] == 1 && a->stride[axis] == 1 && a->before[axis] == 0 &&
               a->size[axis] == a->from[axis];
    };
    const int first = is_point(0) ? 0 : 1;
    int64_t plane = 1;
    if (!is_point(1) || !is_point(2)) return;
    for (int i = first; i < 3; i++) plane *= a->size[i];
    if (plane % 64 != 0) return;
    for (int i = first; i < 2; i++) a->size[i] = a->from[i] = 1;
    a->size[1] = a->from[1] = (int)(plane / 64);
    a->size[2] = a->from[2] = 64;
}

/* True if Hopper's kernels are asked for, the device has their instructions, and x is of 16 bits.
 */
static inline bool hopper_conv_asked_for(const kin_device *device, const kin_call *call) {
    const char *setting = kin_context_setting(device->context, "cuda.hopper");
    return setting != nullptr && strcmp(setting, "on") == 0 &&
           kin_cuda_of(device)->properties.capability == 90 && call->in[0].desc.dtype != KIN_F32;
}

/* Describes a tensor [batch, channels, size] as the axes column, channel, row, frame, sample. */
static inline bool hopper_conv_describe(hopper_map *map, kin_dtype dtype, const void *data,
                                        int batch, int channels, const int size[3], int width,
                                        int box_channels, int box_rows) {
    const uint64_t row = (uint64_t)size[2] * 2, frame = row * (uint64_t)size[1];
    const uint64_t channel = frame * (uint64_t)size[0];
    const hopper_tensor x = {dtype,
                             const_cast<void *>(data),
                             {(uint64_t)size[2], (uint64_t)channels, (uint64_t)size[1],
                              (uint64_t)size[0], (uint64_t)batch},
                             {channel, row, frame, channel * (uint64_t)channels},
                             {(uint32_t)width, (uint32_t)box_channels, (uint32_t)box_rows, 1, 1}};
    return hopper_describe(map, &x);
}

#endif
