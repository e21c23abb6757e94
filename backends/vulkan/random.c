/* Kernels of random draws. */
#include "backends/vulkan/vulkan.h"
#include "ops/random_attrs.h"

enum { WIDTH = 64 };

static kin_status draw(kin_device *device, kin_commands *commands, const kin_call *call,
                       bool normal) {
    const kin_random_attrs *attrs = call->attrs;
    struct {
        uint32_t count, stream, seed_first, y_first;
    } push = {.count = (uint32_t)kin_desc_count(&call->out[0].desc), .stream = attrs->stream};
    kin_vulkan_work work = kin_vulkan_work_of("random", WIDTH);
    kin_vulkan_spec(&work, normal);
    push.seed_first = kin_vulkan_read(device, &work, &call->in[0]);
    push.y_first = kin_vulkan_write(device, &work, &call->out[0]);
    kin_vulkan_push(&work, &push, sizeof push);
    work.groups[0] = kin_vulkan_groups(push.count, 4 * WIDTH);
    return kin_vulkan_launch(device, commands, &work);
}

static kin_status random_normal(kin_device *device, kin_commands *commands, const kin_call *call) {
    return draw(device, commands, call, true);
}

static kin_status random_uniform(kin_device *device, kin_commands *commands, const kin_call *call) {
    return draw(device, commands, call, false);
}

const kin_kernel kin_vulkan_random_kernels[] = {
    {"random_normal", "vulkan_random_normal", 0, 0, kin_vulkan_fits, NULL, random_normal},
    {"random_uniform", "vulkan_random_uniform", 0, 0, kin_vulkan_fits, NULL, random_uniform},
    {0},
};
