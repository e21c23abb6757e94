/* Kernels of conv_patches and its gradient: what a convolution is lowered to, beside a product. */
#include "backends/opencl/opencl.h"
#include "ops/conv_attrs.h"

#include <stdio.h>

static void axes_of(const kin_desc *desc, int out_size[3]) {
    for (int a = 0; a < 3; a++) {
        int axis = desc->rank - 3 + a;
        out_size[a] = axis < 2 ? 1 : (int)desc->dims[axis];
    }
}

/* As in conv.cl. */
typedef struct patches_shape {
    cl_int planes, in[3], kernel_size[3], out[3], stride[3], before[3], causal;
} patches_shape;

static patches_shape patches_of(const kin_conv_attrs *attrs, const int64_t kernel[3],
                                const int in[3]) {
    patches_shape s = {.causal = (int)attrs->causal};
    for (int a = 0; a < 3; a++) {
        s.in[a] = in[a];
        s.kernel_size[a] = (int)kernel[a];
        s.stride[a] = (int)attrs->stride[a];
        s.before[a] = (int)attrs->before[a];
        s.out[a] = (in[a] + (int)attrs->before[a] + (int)attrs->after[a] - s.kernel_size[a]) /
                       s.stride[a] +
                   1;
    }
    return s;
}

static kin_status launch_items(kin_device *device, kin_commands *commands, const kin_call *call,
                               const patches_shape *shape, const char *kernel) {
    const int64_t count = kin_desc_count(&call->out[0].desc);
    char defines[64];
    snprintf(defines, sizeof defines, "-DTX=%s -DROWWISE=0", kin_opencl_type(&call->in[0]));
    kin_opencl_launch launch = kin_opencl_start(device, commands, "conv", defines, kernel);
    kin_opencl_set_operand(&launch, &call->in[0]);
    kin_opencl_set_operand(&launch, &call->out[0]);
    kin_opencl_set_bytes(&launch, shape, sizeof *shape);
    kin_opencl_set_int(&launch, count);
    return kin_opencl_finish_items(&launch, count);
}

static kin_status launch_patches(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_conv_size_attrs *attrs = call->attrs;
    int in[3];
    axes_of(&call->in[0].desc, in);
    const patches_shape shape = patches_of(&attrs->conv, attrs->size, in);
    return launch_items(device, commands, call, &shape, "conv_patches");
}

static kin_status launch_patches_grad(kin_device *device, kin_commands *commands,
                                      const kin_call *call) {
    const kin_conv_patches_grad_attrs *attrs = call->attrs;
    int in[3];
    axes_of(&call->out[0].desc, in);
    const patches_shape shape = patches_of(&attrs->conv, attrs->kernel, in);
    return launch_items(device, commands, call, &shape, "conv_patches_grad");
}

const kin_kernel kin_opencl_conv_patches_kernels[] = {
    {"conv_patches", "opencl_conv_patches", 0, 0, kin_opencl_can_real, NULL, launch_patches},
    {"conv_patches_grad", "opencl_conv_patches_grad", 0, 0, kin_opencl_can_real, NULL,
     launch_patches_grad},
    {0},
};
