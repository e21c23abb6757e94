/* Kernels of upsample and its transpose. */
#include "backends/vulkan/vulkan.h"
#include "ops/upsample_attrs.h"

enum { WIDTH = 64, MAX_SIZE = 32768 };

/* Time, rows and columns; time is 1 on images. */
static void axes_of(const kin_desc *desc, int64_t out_size[3]) {
    for (int a = 0; a < 3; a++) {
        int axis = desc->rank - 3 + a;
        out_size[a] = axis < 2 ? 1 : desc->dims[axis];
    }
}

/* Products of two sizes are taken in 32 bits. */
static bool can(const kin_device *device, const kin_call *call) {
    int64_t in[3], out[3];
    axes_of(&call->in[0].desc, in);
    axes_of(&call->out[0].desc, out);
    for (int a = 0; a < 3; a++)
        if (in[a] < 1 || out[a] < 1 || in[a] > MAX_SIZE || out[a] > MAX_SIZE) return false;
    return kin_vulkan_fits_real(device, call) && call->in[0].desc.dtype == call->out[0].desc.dtype;
}

static kin_status launch(kin_device *device, kin_commands *commands, const kin_call *call,
                         bool back) {
    const kin_upsample_attrs *attrs = call->attrs;
    struct {
        uint32_t count, x_first, y_first, unused, small[3], large[3];
    } push = {.count = (uint32_t)kin_desc_count(&call->out[0].desc)};
    int64_t in[3], out[3];
    axes_of(&call->in[0].desc, in);
    axes_of(&call->out[0].desc, out);
    for (int a = 0; a < 3; a++) {
        push.small[a] = (uint32_t)(back ? out[a] : in[a]);
        push.large[a] = (uint32_t)(back ? in[a] : out[a]);
    }
    kin_dtype dtype = call->out[0].desc.dtype;
    kin_vulkan_work work = kin_vulkan_work_of("upsample", WIDTH);
    kin_vulkan_spec(&work, back);
    kin_vulkan_spec(&work, (uint32_t)attrs->mode);
    kin_vulkan_spec(&work, dtype);
    push.x_first = kin_vulkan_read(device, &work, &call->in[0]);
    push.y_first = kin_vulkan_write(device, &work, &call->out[0]);
    kin_vulkan_push(&work, &push, sizeof push);
    work.groups[0] = kin_vulkan_groups(push.count, WIDTH * (dtype == KIN_F32 ? 1 : 2));
    return kin_vulkan_launch(device, commands, &work);
}

static kin_status upsample(kin_device *device, kin_commands *commands, const kin_call *call) {
    return launch(device, commands, call, false);
}

static kin_status upsample_grad(kin_device *device, kin_commands *commands, const kin_call *call) {
    return launch(device, commands, call, true);
}

const kin_kernel kin_vulkan_upsample_kernels[] = {
    {"upsample", "vulkan_upsample", 0, 0, can, NULL, upsample},
    {"upsample_grad", "vulkan_upsample_grad", 0, 0, can, NULL, upsample_grad},
    {0},
};
