/* What kernels of rows share, and softmax. */
#include "backends/vulkan/rows.h"
#include "backends/vulkan/map.h"

#include <vulkan/vulkan.h>

bool vulkan_rows_can(const kin_device *device) {
    const uint32_t needs = VK_SUBGROUP_FEATURE_BASIC_BIT | VK_SUBGROUP_FEATURE_ARITHMETIC_BIT;
    const kin_vulkan_features *features = kin_vulkan_features_of(device);
    return (features->subgroup_operations & needs) == needs && features->subgroup_size >= 4;
}

kin_vulkan_work vulkan_rows_work(const kin_device *device, const char *shader, int64_t width) {
    const kin_vulkan_features *features = kin_vulkan_features_of(device);
    /* On processors a group of one subgroup is quickest, where its size does not vary. */
    bool one = features->is_cpu && features->subgroup_min == features->subgroup_max;
    uint32_t lanes = one ? features->subgroup_size : 64;
    while (!one && lanes < 256 && (int64_t)lanes * 8 <= width &&
           2 * lanes <= features->max_group_invocations && 2 * lanes <= features->max_group_size[0])
        lanes *= 2;
    kin_vulkan_work work = kin_vulkan_work_of(shader, lanes);
    kin_vulkan_spec(&work, one);
    return work;
}

size_t vulkan_round_up(size_t bytes) {
    return (bytes + 63) / 64 * 64;
}

static bool is_direct(const kin_operand *result, int64_t unit) {
    return result->desc.dtype == KIN_F32 || unit % 2 == 0;
}

size_t vulkan_target_bytes(const kin_operand *result, int64_t unit) {
    if (is_direct(result, unit)) return 0;
    return vulkan_round_up((size_t)kin_desc_count(&result->desc) * sizeof(float));
}

vulkan_target vulkan_target_of(const kin_operand *result, int64_t unit, kin_buffer *scratch,
                               size_t scratch_offset) {
    vulkan_target target = {.write = *result, .result = *result};
    if (is_direct(result, unit)) return target;
    target.write.desc.dtype = KIN_F32;
    target.write.buffer = scratch;
    target.write.offset = scratch_offset;
    target.converts = true;
    return target;
}

kin_status vulkan_target_finish(kin_device *device, kin_commands *commands,
                                const vulkan_target *target) {
    if (!target->converts) return KIN_OK;
    return vulkan_map_convert(device, commands, &target->write, &target->result);
}

kin_operand vulkan_floats(kin_buffer *buffer, size_t offset, int64_t count) {
    return (kin_operand){kin_desc_dense(KIN_F32, 1, &count), buffer, offset};
}

/* ---- softmax ---- */

static int64_t width_of(const kin_call *call) {
    const kin_desc *x = &call->in[0].desc;
    return x->rank > 0 ? x->dims[x->rank - 1] : 1;
}

static bool can(const kin_device *device, const kin_call *call) {
    return vulkan_rows_can(device) && kin_vulkan_fits_real(device, call);
}

static size_t scratch(const kin_device *device, const kin_call *call) {
    (void)device;
    return vulkan_target_bytes(&call->out[0], width_of(call));
}

static kin_status launch(kin_device *device, kin_commands *commands, const kin_call *call,
                         bool gradient) {
    struct {
        uint32_t width, rows, x_first, g_first, y_first;
    } push = {0};
    int64_t width = width_of(call), count = kin_desc_count(&call->out[0].desc);
    if (count == 0) return KIN_OK;
    vulkan_target target =
        vulkan_target_of(&call->out[0], width, call->scratch, call->scratch_offset);
    const kin_operand *x = &call->in[gradient ? 1 : 0], *g = &call->in[0];
    kin_vulkan_work work = vulkan_rows_work(device, "softmax", width);
    kin_vulkan_spec(&work, gradient);
    kin_vulkan_spec(&work, x->desc.dtype);
    kin_vulkan_spec(&work, g->desc.dtype);
    kin_vulkan_spec(&work, target.write.desc.dtype);
    push.width = (uint32_t)width;
    push.rows = (uint32_t)(count / width);
    push.x_first = kin_vulkan_read(device, &work, x);
    push.g_first = kin_vulkan_read(device, &work, g);
    push.y_first = kin_vulkan_write(device, &work, &target.write);
    kin_vulkan_push(&work, &push, sizeof push);
    work.groups[0] = push.rows;
    kin_status status = kin_vulkan_launch(device, commands, &work);
    return status == KIN_OK ? vulkan_target_finish(device, commands, &target) : status;
}

static kin_status launch_softmax(kin_device *device, kin_commands *commands, const kin_call *call) {
    return launch(device, commands, call, false);
}

static kin_status launch_softmax_grad(kin_device *device, kin_commands *commands,
                                      const kin_call *call) {
    return launch(device, commands, call, true);
}

const kin_kernel kin_vulkan_rows_kernels[] = {
    {"softmax", "vulkan_softmax", 0, 1, can, scratch, launch_softmax},
    {"softmax_grad", "vulkan_softmax_grad", 0, 3, can, scratch, launch_softmax_grad},
    {0},
};
