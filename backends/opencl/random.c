/* Kernels of random_normal and random_uniform. */
#include "backends/opencl/opencl.h"
#include "ops/random_attrs.h"

static bool can_draw(const kin_device *device, const kin_call *call) {
    (void)device;
    return call->out[0].desc.dtype == KIN_F32 && kin_opencl_fits(call);
}

static kin_status draw(kin_device *device, kin_commands *commands, const kin_call *call,
                       const char *defines) {
    const kin_random_attrs *attrs = call->attrs;
    int64_t count = kin_desc_count(&call->out[0].desc);
    kin_opencl_launch launch = kin_opencl_start(device, commands, "random", defines, "draw");
    kin_opencl_set_operand(&launch, &call->in[0]);
    kin_opencl_set_operand(&launch, &call->out[0]);
    kin_opencl_set_bytes(&launch, &attrs->stream, sizeof attrs->stream);
    kin_opencl_set_int(&launch, count);
    return kin_opencl_finish_items(&launch, (count + 3) / 4);
}

static kin_status normal(kin_device *device, kin_commands *commands, const kin_call *call) {
    return draw(device, commands, call, "-DNORMAL=1");
}

static kin_status uniform(kin_device *device, kin_commands *commands, const kin_call *call) {
    return draw(device, commands, call, "-DNORMAL=0");
}

const kin_kernel kin_opencl_random_kernels[] = {
    {"random_normal", "opencl_random_normal", 0, 0, can_draw, NULL, normal},
    {"random_uniform", "opencl_random_uniform", 0, 0, can_draw, NULL, uniform},
    {0},
};
