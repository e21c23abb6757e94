/* Kernels that give each row a work group, and results of 16 bits whose rows do not end on words.
 */
#ifndef KIN_BACKENDS_VULKAN_ROWS_H
#define KIN_BACKENDS_VULKAN_ROWS_H

#include "backends/vulkan/vulkan.h"

/* True if the device can sum over subgroups. */
bool vulkan_rows_can(const kin_device *device);
/* Work for rows of a width: the group's width, and as specs[1] whether it is one subgroup. */
kin_vulkan_work vulkan_rows_work(const kin_device *device, const char *shader, int64_t width);

/* Where a kernel writes a result: straight to it, or, where units (rows, say) of `unit` elements
 * would share words, as f32 to scratch memory from which it is converted. */
typedef struct vulkan_target {
    kin_operand write; /* what the kernel writes */
    kin_operand result;
    bool converts;
} vulkan_target;

/* Bytes of scratch that the target needs, a multiple of 64. */
size_t vulkan_target_bytes(const kin_operand *result, int64_t unit);
vulkan_target vulkan_target_of(const kin_operand *result, int64_t unit, kin_buffer *scratch,
                               size_t scratch_offset);
kin_status vulkan_target_finish(kin_device *device, kin_commands *commands,
                                const vulkan_target *target);

/* A dense tensor of floats in scratch memory. */
kin_operand vulkan_floats(kin_buffer *buffer, size_t offset, int64_t count);
/* Rounds bytes up to a multiple of 64. */
size_t vulkan_round_up(size_t bytes);

#endif
