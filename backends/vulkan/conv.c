/* Kernels of the convolutions and of their patches. */
#include "backends/vulkan/conv.h"

#include "backends/vulkan/heavy.h"

static void axes(const kin_desc *desc, int64_t out_size[3]) {
    for (int a = 0; a < 3; a++) {
        int axis = desc->rank - 3 + a;
        out_size[a] = axis < 2 ? 1 : desc->dims[axis];
    }
}

static int64_t volume(const int64_t size[3]) {
    return size[0] * size[1] * size[2];
}

static void sizes_of(kin_vulkan_conv *conv, const kin_desc *x, const kin_desc *y) {
    conv->batch = x->dims[0];
    conv->cin = x->dims[1];
    conv->cout = y->dims[1];
    axes(x, conv->in);
    axes(y, conv->out);
}

kin_vulkan_conv kin_vulkan_conv_of(const kin_call *call, kin_vulkan_conv_kind kind) {
    const kin_conv_size_attrs *attrs = call->attrs; /* of the gradients */
    kin_vulkan_conv conv = {.kind = kind};
    if (kind == KIN_VULKAN_CONV_FORWARD) {
        conv.attrs = call->attrs;
        sizes_of(&conv, &call->in[0].desc, &call->out[0].desc);
        axes(&call->in[1].desc, conv.kernel);
    } else if (kind == KIN_VULKAN_CONV_INPUT) {
        conv.attrs = &attrs->conv;
        sizes_of(&conv, &call->out[0].desc, &call->in[0].desc);
        axes(&call->in[1].desc, conv.kernel);
    } else {
        conv.attrs = &attrs->conv;
        sizes_of(&conv, &call->in[0].desc, &call->in[1].desc);
        for (int a = 0; a < 3; a++) conv.kernel[a] = attrs->size[a];
    }
    return conv;
}

/* The push constants of conv.glsl. */
typedef struct conv_push {
    uint32_t batch, cin, cout, in[3], out[3];
    uint32_t a, b, c, bias, tiles_m, tiles_n;
} conv_push;

static conv_push push_of(const kin_vulkan_conv *conv) {
    conv_push push = {
        .batch = (uint32_t)conv->batch, .cin = (uint32_t)conv->cin, .cout = (uint32_t)conv->cout};
    for (int a = 0; a < 3; a++) {
        push.in[a] = (uint32_t)conv->in[a];
        push.out[a] = (uint32_t)conv->out[a];
    }
    return push;
}

/* Appends the constants 8 to 17 of conv.glsl. */
static void add_specs(kin_vulkan_work *work, const int64_t kernel[3], const kin_conv_attrs *attrs) {
    for (int a = 0; a < 3; a++) kin_vulkan_spec(work, (uint32_t)kernel[a]);
    for (int a = 0; a < 3; a++) kin_vulkan_spec(work, (uint32_t)attrs->stride[a]);
    for (int a = 0; a < 3; a++) kin_vulkan_spec(work, (uint32_t)attrs->before[a]);
    kin_vulkan_spec(work, attrs->causal != 0);
}

/* ---- convolution and its gradients ---- */

static bool can(const kin_device *device, const kin_call *call) {
    return kin_vulkan_fits_real(device, call);
}

static int64_t row_of(const kin_vulkan_conv *conv) {
    if (conv->kind == KIN_VULKAN_CONV_FORWARD) return volume(conv->out);
    if (conv->kind == KIN_VULKAN_CONV_INPUT) return volume(conv->in);
    return conv->cin * volume(conv->kernel);
}

static size_t scratch_of(const kin_call *call, kin_vulkan_conv_kind kind) {
    const kin_vulkan_conv conv = kin_vulkan_conv_of(call, kind);
    if (!kin_vulkan_is_odd(call->out[0].desc.dtype, row_of(&conv))) return 0;
    return kin_vulkan_scratch_bytes(kin_desc_count(&call->out[0].desc));
}

static kin_status launch(kin_device *device, kin_commands *commands, const kin_call *call,
                         kin_vulkan_conv_kind kind) {
    static const char *const shaders[] = {"conv_tiles", "conv_tiles_input", "conv_tiles_weight"};
    static const kin_operand absent = {.desc = {.rank = -1}};
    const kin_vulkan_conv conv = kin_vulkan_conv_of(call, kind);
    const bool forward = kind == KIN_VULKAN_CONV_FORWARD, weight = kind == KIN_VULKAN_CONV_WEIGHT;
    /* The left operand is w, or dy; the right one is gathered from x, or dy. */
    const kin_operand *left = &call->in[1], *right = &call->in[0], *out = &call->out[0];
    const kin_operand *bias = forward && call->in_count == 3 ? &call->in[2] : &absent;
    const size_t narrow = scratch_of(call, kind);
    const int64_t rows = kind == KIN_VULKAN_CONV_INPUT ? conv.cin : conv.cout;
    const kin_vulkan_tile tile = kin_vulkan_tile_for(device, rows, row_of(&conv));
    conv_push push = push_of(&conv);
    if (kin_desc_count(&out->desc) == 0) return KIN_OK;
    kin_vulkan_work work = kin_vulkan_tile_work(shaders[kind], &tile, true, weight);
    add_specs(&work, conv.kernel, conv.attrs);
    kin_vulkan_spec(&work, kin_vulkan_dtype_spec(left));
    kin_vulkan_spec(&work, kin_vulkan_dtype_spec(right));
    kin_vulkan_spec(&work, narrow > 0 ? (uint32_t)KIN_F32 : (uint32_t)out->desc.dtype);
    kin_vulkan_spec(&work, kin_vulkan_dtype_spec(bias));
    push.a = kin_vulkan_read(device, &work, left);
    push.b = kin_vulkan_read(device, &work, right);
    push.bias = kin_vulkan_read(device, &work, bias);
    push.c = narrow > 0 ? kin_vulkan_bytes(device, &work, call->scratch, call->scratch_offset,
                                           narrow, true)
                        : kin_vulkan_write(device, &work, out);
    push.tiles_m = (uint32_t)kin_vulkan_groups(rows, tile.m);
    push.tiles_n = (uint32_t)kin_vulkan_groups(row_of(&conv), tile.n);
    kin_vulkan_push(&work, &push, sizeof push);
    work.groups[0] = (uint64_t)push.tiles_m * push.tiles_n * (weight ? 1 : push.batch);
    kin_status status = kin_vulkan_launch(device, commands, &work);
    if (status == KIN_OK && narrow > 0) status = kin_vulkan_narrow(device, commands, call, 0, out);
    return status;
}

static size_t forward_scratch(const kin_device *device, const kin_call *call) {
    (void)device;
    return scratch_of(call, KIN_VULKAN_CONV_FORWARD);
}

static size_t input_scratch(const kin_device *device, const kin_call *call) {
    (void)device;
    return scratch_of(call, KIN_VULKAN_CONV_INPUT);
}

static size_t weight_scratch(const kin_device *device, const kin_call *call) {
    (void)device;
    return scratch_of(call, KIN_VULKAN_CONV_WEIGHT);
}

static kin_status launch_forward(kin_device *device, kin_commands *commands, const kin_call *call) {
    return launch(device, commands, call, KIN_VULKAN_CONV_FORWARD);
}

static kin_status launch_input(kin_device *device, kin_commands *commands, const kin_call *call) {
    return launch(device, commands, call, KIN_VULKAN_CONV_INPUT);
}

static kin_status launch_weight(kin_device *device, kin_commands *commands, const kin_call *call) {
    return launch(device, commands, call, KIN_VULKAN_CONV_WEIGHT);
}

/* ---- patches ---- */

static kin_status dispatch_patches(kin_device *device, kin_commands *commands, const kin_call *call,
                                   const char *shader, const kin_vulkan_conv *conv) {
    enum { WIDTH = 64 };
    conv_push push = push_of(conv);
    kin_vulkan_work work = kin_vulkan_work_of(shader, WIDTH);
    for (int i = 1; i < 8; i++) kin_vulkan_spec(&work, 0);
    add_specs(&work, conv->kernel, conv->attrs);
    kin_vulkan_spec(&work, kin_vulkan_dtype_spec(&call->in[0]));
    kin_vulkan_spec(&work, 0);
    kin_vulkan_spec(&work, kin_vulkan_dtype_spec(&call->out[0]));
    push.a = kin_vulkan_read(device, &work, &call->in[0]);
    push.c = kin_vulkan_write(device, &work, &call->out[0]);
    kin_vulkan_push(&work, &push, sizeof push);
    work.groups[0] = kin_vulkan_groups(kin_desc_count(&call->out[0].desc), 2 * WIDTH);
    return kin_vulkan_launch(device, commands, &work);
}

static void out_size(kin_vulkan_conv *conv) {
    for (int a = 0; a < 3; a++)
        conv->out[a] =
            (conv->in[a] + conv->attrs->before[a] + conv->attrs->after[a] - conv->kernel[a]) /
                conv->attrs->stride[a] +
            1;
}

static kin_status launch_patches(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_conv_size_attrs *attrs = call->attrs;
    const kin_desc *x = &call->in[0].desc;
    kin_vulkan_conv conv = {.attrs = &attrs->conv, .batch = x->dims[0], .cin = x->dims[1]};
    axes(x, conv.in);
    for (int a = 0; a < 3; a++) conv.kernel[a] = attrs->size[a];
    out_size(&conv);
    return dispatch_patches(device, commands, call, "conv_patches", &conv);
}

static kin_status launch_patches_grad(kin_device *device, kin_commands *commands,
                                      const kin_call *call) {
    const kin_conv_patches_grad_attrs *attrs = call->attrs;
    const kin_desc *x = &call->out[0].desc;
    kin_vulkan_conv conv = {.attrs = &attrs->conv, .batch = x->dims[0], .cin = x->dims[1]};
    axes(x, conv.in);
    for (int a = 0; a < 3; a++) conv.kernel[a] = attrs->kernel[a];
    out_size(&conv);
    return dispatch_patches(device, commands, call, "conv_patches_grad", &conv);
}

const kin_kernel kin_vulkan_conv_kernels[] = {
    {"conv", "vulkan_conv_tiles", 0, 0, can, forward_scratch, launch_forward},
    {"conv_grad_input", "vulkan_conv_grad_input_tiles", 0, 0, can, input_scratch, launch_input},
    {"conv_grad_weight", "vulkan_conv_grad_weight_tiles", 0, 0, can, weight_scratch, launch_weight},
    {"conv_patches", "vulkan_conv_patches", 0, 0, can, NULL, launch_patches},
    {"conv_patches_grad", "vulkan_conv_patches_grad", 0, 0, can, NULL, launch_patches_grad},
    {0},
};
