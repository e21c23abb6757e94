/* What the files of the heavy kernels (matmul, attention, conv) share. */
#ifndef KIN_BACKENDS_VULKAN_HEAVY_H
#define KIN_BACKENDS_VULKAN_HEAVY_H

#include "backends/vulkan/vulkan.h"

enum { KIN_VULKAN_NO_DTYPE = 0xFF }; /* a specialisation constant: the operand is absent */

/* The tile of a product through shared memory: product.glsl. */
typedef struct kin_vulkan_tile {
    uint32_t m, n, k, part_m, part_n;
} kin_vulkan_tile;

/* The tile for a product of m x n, and empty work with the constants 0 to 7 that product.glsl
 * wants. a_along_k: neighbours along k of a are neighbours in memory. */
kin_vulkan_tile kin_vulkan_tile_for(const kin_device *device, int64_t m, int64_t n);
kin_vulkan_work kin_vulkan_tile_work(const char *shader, const kin_vulkan_tile *tile,
                                     bool a_along_k, bool b_along_k);

/* True if rows of an output of this dtype cannot be stored by different invocations: 16-bit values
 * and an odd row. Kernels then write f32 to scratch memory, and kin_vulkan_narrow converts. */
static inline bool kin_vulkan_is_odd(kin_dtype dtype, int64_t row) {
    return dtype != KIN_F32 && row % 2 != 0;
}

/* Converts f32 in the call's scratch memory, `offset` bytes in, to a dense f16 or bf16 operand. */
kin_status kin_vulkan_narrow(kin_device *device, kin_commands *commands, const kin_call *call,
                             size_t offset, const kin_operand *out);

/* Bytes of `count` f32 in scratch memory, rounded up so that what follows is aligned. */
static inline size_t kin_vulkan_scratch_bytes(int64_t count) {
    return ((size_t)count * 4 + 255) / 256 * 256;
}

/* The dtype of an operand as a specialisation constant. */
static inline uint32_t kin_vulkan_dtype_spec(const kin_operand *operand) {
    return operand->desc.rank < 0 ? (uint32_t)KIN_VULKAN_NO_DTYPE : (uint32_t)operand->desc.dtype;
}

#endif
