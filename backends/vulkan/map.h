/* Element-wise work: one function of the expression list over strided operands. */
#ifndef KIN_BACKENDS_VULKAN_MAP_H
#define KIN_BACKENDS_VULKAN_MAP_H

#include "backends/vulkan/vulkan.h"
#include "ops/elementwise_expr.h"

#define VULKAN_MAP_ENTRY(name, ...) VULKAN_MAP_##name,
#define VULKAN_MAP_ENTRY_GRAD(name, ...) VULKAN_MAP_##name##_grad,
/* The order is that of map.comp, which counts pairs apart. */
typedef enum vulkan_map_function {
    VULKAN_MAP_identity,
    KX_UNARY(VULKAN_MAP_ENTRY) KX_UNARY(VULKAN_MAP_ENTRY_GRAD) KX_AFFINE(VULKAN_MAP_ENTRY)
        KX_BINARY(VULKAN_MAP_ENTRY) KX_TERNARY(VULKAN_MAP_ENTRY) KX_TERNARY_PAIR(VULKAN_MAP_ENTRY)
} vulkan_map_function;
#undef VULKAN_MAP_ENTRY
#undef VULKAN_MAP_ENTRY_GRAD

enum { VULKAN_MAP_INPUTS = 3, VULKAN_MAP_OUTPUTS = 2, VULKAN_MAP_RANK = 6, VULKAN_MAP_WIDTH = 64 };

/* True if all inputs are f32, f16, bf16, i32, u8 or bool, all results f32, f16 or bf16, and the
 * axes can be joined to few enough. Tensors of any size: large ones are worked off in parts. */
bool vulkan_map_can(const kin_device *device, const kin_call *call);

/* out[0] (and out[1] of a pair) = function(in...), with p and q of kin_elementwise_attrs. */
kin_status vulkan_map_run(kin_device *device, kin_commands *commands, vulkan_map_function function,
                          float p, float q, int in_count, const kin_operand *in, int out_count,
                          const kin_operand *out);

/* out = in in another dtype, both of one shape; out is f32, f16 or bf16. */
kin_status vulkan_map_convert(kin_device *device, kin_commands *commands, const kin_operand *in,
                              const kin_operand *out);

/* Fills a dense tensor with a value. (layout.c) */
kin_status vulkan_fill(kin_device *device, kin_commands *commands, const kin_operand *out,
                       double value);

#endif
