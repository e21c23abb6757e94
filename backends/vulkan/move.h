/* Elements that move unchanged: a strided tensor to a box within a dense one. */
#ifndef KIN_BACKENDS_VULKAN_MOVE_H
#define KIN_BACKENDS_VULKAN_MOVE_H

#include "backends/vulkan/vulkan.h"

/* What becomes of the result outside of the box. */
typedef enum vulkan_move_mode {
    VULKAN_MOVE_ALL,   /* the box is all of it */
    VULKAN_MOVE_KEEP,  /* it stays */
    VULKAN_MOVE_ZERO,  /* zeros */
    VULKAN_MOVE_REPEAT /* the outermost elements of the box */
} vulkan_move_mode;

/* True if the axes can be joined to few enough, for dtypes with elements. low[i]: where the input
 * begins on axis i of the result; NULL: 0 everywhere. */
bool vulkan_move_can(const kin_desc *in, const kin_desc *out, const int64_t *low,
                     vulkan_move_mode mode);
/* Writes `in` to the box of `out` that begins at low. Both have one rank and dtype; out is dense
 * and begins on a word. Tensors of any size. */
kin_status vulkan_move(kin_device *device, kin_commands *commands, const kin_operand *in,
                       const kin_operand *out, const int64_t *low, vulkan_move_mode mode);
/* A dense copy of n bytes. */
kin_status vulkan_move_bytes(kin_device *device, kin_commands *commands, const kin_operand *in,
                             const kin_operand *out, size_t bytes);

#endif
