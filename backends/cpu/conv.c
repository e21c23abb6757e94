/* Kernel rows of the convolutions; the kernels are in conv_simd.c, conv_weight_simd.c. */
#include <string.h>

#include "backends/cpu/conv.h"
#include "backends/cpu/cpu.h"
#include "ops/conv_attrs.h"

static void axes(const kin_desc *desc, int64_t out_size[3]) {
    for (int a = 0; a < 3; a++) {
        int axis = desc->rank - 3 + a;
        out_size[a] = axis < 2 ? 1 : desc->dims[axis];
    }
}

static cpu_conv_shape shape_make(const kin_conv_attrs *attrs, const kin_desc *x, const kin_desc *y,
                                 const int64_t kernel[3]) {
    cpu_conv_shape s = {.batch = x->dims[0], .cin = x->dims[1], .cout = y->dims[1]};
    axes(x, s.in);
    axes(y, s.out);
    for (int a = 0; a < 3; a++) {
        s.kernel[a] = kernel[a];
        s.stride[a] = attrs->stride[a];
        s.pad[a] = attrs->before[a];
    }
    s.causal = attrs->causal != 0;
    return s;
}

static cpu_conv_shape forward_shape(const kin_call *call) {
    int64_t kernel[3];
    axes(&call->in[1].desc, kernel);
    return shape_make(call->attrs, &call->in[0].desc, &call->out[0].desc, kernel);
}

static cpu_conv_shape input_shape(const kin_call *call) {
    const kin_conv_size_attrs *attrs = call->attrs;
    int64_t kernel[3];
    axes(&call->in[1].desc, kernel);
    return shape_make(&attrs->conv, &call->out[0].desc, &call->in[0].desc, kernel);
}

static cpu_conv_shape weight_shape(const kin_call *call) {
    const kin_conv_size_attrs *attrs = call->attrs;
    return shape_make(&attrs->conv, &call->in[0].desc, &call->in[1].desc, attrs->size);
}

static size_t forward_scratch(const kin_device *device, const kin_call *call) {
    cpu_conv_shape s = forward_shape(call);
    return CPU_PICK(cpu_conv_functions).forward_scratch(&s, cpu_threads(device));
}

static size_t input_scratch(const kin_device *device, const kin_call *call) {
    cpu_conv_shape s = input_shape(call);
    return CPU_PICK(cpu_conv_functions).backward_input_scratch(&s, cpu_threads(device));
}

static size_t weight_scratch(const kin_device *device, const kin_call *call) {
    cpu_conv_shape s = weight_shape(call);
    return CPU_PICK(cpu_conv_functions).backward_weight_scratch(&s, cpu_threads(device));
}

/* Threads for the work of a convolution: 1 where it is small. */
static int threads_for(const kin_device *device, const cpu_conv_shape *s) {
    int64_t work = s->batch * s->cout * s->cin;
    for (int a = 0; a < 3; a++) work *= s->kernel[a] * s->out[a];
    return cpu_threads_for(device, work / 16);
}

static kin_status forward_launch(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)commands;
    cpu_conv_shape s = forward_shape(call);
    const float *bias = call->in_count == 3 ? cpu_data(&call->in[2]) : NULL;
    CPU_PICK(cpu_conv_functions)
        .forward(&s, cpu_data(&call->in[0]), cpu_data(&call->in[1]), bias, cpu_data(&call->out[0]),
                 cpu_scratch(call), threads_for(device, &s));
    return KIN_OK;
}

static kin_status input_launch(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)commands;
    cpu_conv_shape s = input_shape(call);
    CPU_PICK(cpu_conv_functions)
        .backward_input(&s, cpu_data(&call->in[0]), cpu_data(&call->in[1]), cpu_data(&call->out[0]),
                        cpu_scratch(call), threads_for(device, &s));
    return KIN_OK;
}

static kin_status weight_launch(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)commands;
    cpu_conv_shape s = weight_shape(call);
    CPU_PICK(cpu_conv_functions)
        .backward_weight(&s, cpu_data(&call->in[0]), cpu_data(&call->in[1]),
                         cpu_data(&call->out[0]), cpu_scratch(call), threads_for(device, &s));
    return KIN_OK;
}

/* ---- patches ------------------------------------------------------------------------------- */

/* One line of positions (fixed time and row) of one tap: the element of the plane that the first
 * position reads, and the positions [low, high) that exist. */
typedef struct line {
    int64_t source, low, high;
} line;

static line line_make(const kin_conv_attrs *attrs, const int64_t in[3], const int64_t out[3],
                      const int64_t tap[3], int64_t t, int64_t y) {
    line l = {0, 0, 0};
    int64_t it = t * attrs->stride[0] + tap[0] - attrs->before[0];
    int64_t iy = y * attrs->stride[1] + tap[1] - attrs->before[1];
    int64_t ix = tap[2] - attrs->before[2], step = attrs->stride[2];
    if (it < 0 && attrs->causal) it = 0;
    if (it < 0 || it >= in[0] || iy < 0 || iy >= in[1] || ix >= in[2]) return l;
    l.source = (it * in[1] + iy) * in[2] + ix;
    l.low = ix < 0 ? (-ix + step - 1) / step : 0;
    l.high = (in[2] - ix + step - 1) / step;
    if (l.high > out[2]) l.high = out[2];
    if (l.high < l.low) l.low = l.high = 0;
    return l;
}

/* Rows of patches of one plane: rows[tap][position] = plane[...], or, backwards, added to it. */
static void plane_patches(const kin_conv_attrs *attrs, const int64_t in[3], const int64_t out[3],
                          const int64_t kernel[3], float *plane, float *rows, bool back) {
    int64_t tap[3], step = attrs->stride[2];
    for (tap[0] = 0; tap[0] < kernel[0]; tap[0]++)
        for (tap[1] = 0; tap[1] < kernel[1]; tap[1]++)
            for (tap[2] = 0; tap[2] < kernel[2]; tap[2]++)
                for (int64_t ty = 0; ty < out[0] * out[1]; ty++, rows += out[2]) {
                    line l = line_make(attrs, in, out, tap, ty / out[1], ty % out[1]);
                    if (back) {
                        for (int64_t i = l.low; i < l.high; i++)
                            plane[l.source + i * step] += rows[i];
                        continue;
                    }
                    for (int64_t i = 0; i < l.low; i++) rows[i] = 0;
                    for (int64_t i = l.low; i < l.high; i++) rows[i] = plane[l.source + i * step];
                    for (int64_t i = l.high; i < out[2]; i++) rows[i] = 0;
                }
}

static void out_size(const kin_conv_attrs *attrs, const int64_t in[3], const int64_t kernel[3],
                     int64_t out[3]) {
    for (int a = 0; a < 3; a++)
        out[a] = (in[a] + attrs->before[a] + attrs->after[a] - kernel[a]) / attrs->stride[a] + 1;
}

static kin_status patches_launch(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)commands;
    const kin_conv_size_attrs *attrs = call->attrs;
    int64_t in[3], out[3];
    axes(&call->in[0].desc, in);
    out_size(&attrs->conv, in, attrs->size, out);
    int64_t planes = call->in[0].desc.dims[0] * call->in[0].desc.dims[1];
    int64_t plane = in[0] * in[1] * in[2];
    int64_t rows = attrs->size[0] * attrs->size[1] * attrs->size[2] * out[0] * out[1] * out[2];
    float *x = cpu_data(&call->in[0]), *patches = cpu_data(&call->out[0]);
#pragma omp parallel for num_threads(cpu_threads_for(device, planes *rows)) schedule(static)
    for (int64_t c = 0; c < planes; c++)
        plane_patches(&attrs->conv, in, out, attrs->size, x + c * plane, patches + c * rows, false);
    return KIN_OK;
}

static kin_status patches_grad_launch(kin_device *device, kin_commands *commands,
                                      const kin_call *call) {
    (void)commands;
    const kin_conv_patches_grad_attrs *attrs = call->attrs;
    int64_t in[3], out[3];
    axes(&call->out[0].desc, in);
    out_size(&attrs->conv, in, attrs->kernel, out);
    int64_t planes = call->out[0].desc.dims[0] * call->out[0].desc.dims[1];
    int64_t plane = in[0] * in[1] * in[2];
    int64_t rows =
        attrs->kernel[0] * attrs->kernel[1] * attrs->kernel[2] * out[0] * out[1] * out[2];
    float *patches = cpu_data(&call->in[0]), *x = cpu_data(&call->out[0]);
#pragma omp parallel for num_threads(cpu_threads_for(device, planes *rows)) schedule(static)
    for (int64_t c = 0; c < planes; c++) {
        memset(x + c * plane, 0, sizeof *x * (size_t)plane);
        plane_patches(&attrs->conv, in, out, attrs->kernel, x + c * plane, patches + c * rows,
                      true);
    }
    return KIN_OK;
}

const kin_kernel cpu_conv_kernels[] = {
    {.op = "conv", .name = "cpu_conv", .scratch = forward_scratch, .launch = forward_launch},
    {.op = "conv_grad_input",
     .name = "cpu_conv_grad_input",
     .scratch = input_scratch,
     .launch = input_launch},
    {.op = "conv_grad_weight",
     .name = "cpu_conv_grad_weight",
     .scratch = weight_scratch,
     .launch = weight_launch},
    {.op = "conv_patches", .name = "cpu_conv_patches", .launch = patches_launch},
    {.op = "conv_patches_grad", .name = "cpu_conv_patches_grad", .launch = patches_grad_launch},
    {0},
};
