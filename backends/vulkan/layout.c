/* Kernels that make or convert elements: fill, one, cast. */
#include "backends/vulkan/map.h"
#include "ops/layout_attrs.h"

#include <string.h>

enum { WIDTH = 64 };

kin_status vulkan_fill(kin_device *device, kin_commands *commands, const kin_operand *out,
                       double value) {
    unsigned char pattern[8];
    size_t size = kin_dtype_size(out->desc.dtype);
    size_t bytes = (size_t)kin_desc_count(&out->desc) * size;
    struct {
        uint32_t first, count, low, high, tail_mask, tail;
    } push = {0};
    for (size_t at = 0; at < sizeof pattern; at += size)
        kin_element_set(pattern + at, out->desc.dtype, 0, value);
    memcpy(&push.low, pattern, 4);
    memcpy(&push.high, pattern + 4, 4);
    push.count = (uint32_t)(bytes / 4);
    if (bytes % 4 != 0) {
        push.tail_mask = UINT32_MAX << 8 * (bytes % 4);
        push.tail = push.low & ~push.tail_mask;
    }
    kin_vulkan_work work = kin_vulkan_work_of("fill", WIDTH);
    kin_vulkan_spec(&work, size == 8);
    push.first = kin_vulkan_bytes(device, &work, out->buffer, out->offset, bytes, true);
    kin_vulkan_push(&work, &push, sizeof push);
    work.groups[0] = bytes == 0 ? 0 : kin_vulkan_groups((int64_t)push.count + 1, WIDTH);
    return kin_vulkan_launch(device, commands, &work);
}

static bool can_fill(const kin_device *device, const kin_call *call) {
    return kin_vulkan_fits(device, call) && kin_dtype_size(call->out[0].desc.dtype) > 0;
}

static kin_status launch_fill(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_fill_attrs *attrs = call->attrs;
    return vulkan_fill(device, commands, &call->out[0], attrs->value);
}

static kin_status launch_one(kin_device *device, kin_commands *commands, const kin_call *call) {
    return vulkan_fill(device, commands, &call->out[0], 1);
}

/* ---- cast ---- */

/* Between the types that a map reads and writes: any strides, any size. */
static bool can_cast_views(const kin_device *device, const kin_call *call) {
    return vulkan_map_can(device, call);
}

static kin_status launch_cast_views(kin_device *device, kin_commands *commands,
                                    const kin_call *call) {
    return vulkan_map_convert(device, commands, &call->in[0], &call->out[0]);
}

/* Rows of q8_0 are whole blocks only where the last axis is a multiple of 32. */
static bool can_cast(const kin_device *device, const kin_call *call) {
    const kin_desc *in = &call->in[0].desc;
    if (in->dtype == KIN_Q8_0 && (in->rank == 0 || in->dims[in->rank - 1] % 32 != 0)) return false;
    return kin_vulkan_fits(device, call) && kin_dtype_size(call->out[0].desc.dtype) > 0;
}

static kin_status launch_cast(kin_device *device, kin_commands *commands, const kin_call *call) {
    struct {
        uint32_t count, x_first, y_first;
    } push = {.count = (uint32_t)kin_desc_count(&call->in[0].desc)};
    size_t size = kin_dtype_size(call->out[0].desc.dtype);
    kin_vulkan_work work = kin_vulkan_work_of("cast", WIDTH);
    kin_vulkan_spec(&work, call->in[0].desc.dtype);
    kin_vulkan_spec(&work, call->out[0].desc.dtype);
    push.x_first = kin_vulkan_read(device, &work, &call->in[0]);
    push.y_first = kin_vulkan_write(device, &work, &call->out[0]);
    kin_vulkan_push(&work, &push, sizeof push);
    work.groups[0] = kin_vulkan_groups(push.count, WIDTH * (size < 4 ? 4 / (int64_t)size : 1));
    return kin_vulkan_launch(device, commands, &work);
}

const kin_kernel kin_vulkan_layout_kernels[] = {
    {"cast", "vulkan_cast_views", 1, 0, can_cast_views, NULL, launch_cast_views},
    {"cast", "vulkan_cast", 0, 0, can_cast, NULL, launch_cast},
    {"fill", "vulkan_fill", 0, 0, can_fill, NULL, launch_fill},
    {"one", "vulkan_one", 0, 0, can_fill, NULL, launch_one},
    {0},
};
