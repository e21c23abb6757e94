/* Kernels of layer norm, its modulated form, RMS norm, and their gradients. */
#include "backends/cpu/cpu.h"
#include "backends/cpu/norm_table.h"
#include "ops/norm_attrs.h"

static bool is_f32(const kin_operand *operand) {
    return cpu_is_absent(operand) || operand->desc.dtype == KIN_F32;
}

/* All f32, and the elements of each row side by side. */
static bool rows_are_dense(const kin_device *device, const kin_call *call) {
    (void)device;
    for (int i = 0; i < call->in_count; ++i) {
        const kin_operand *in = &call->in[i];
        if (!is_f32(in) || (!cpu_is_absent(in) && !cpu_row_is_dense(&in->desc))) return false;
    }
    return is_f32(&call->out[0]);
}

/* The call with x as input `x_index`, all rows in one sample. */
static cpu_norm_call norm_call(const kin_call *call, int x_index) {
    const kin_operand *x = &call->in[x_index];
    const kin_norm_attrs *attrs = call->attrs;
    return (cpu_norm_call){.samples = 1,
                           .rows = cpu_row_count(&x->desc),
                           .width = cpu_row_width(&x->desc),
                           .eps = attrs->eps,
                           .x = cpu_rows_of(cpu_data(x), &x->desc),
                           .out = cpu_data(&call->out[0])};
}

static int threads_of(const kin_device *device, const cpu_norm_call *c) {
    return cpu_threads_for(device, c->samples * c->rows * c->width);
}

/* Splits the rows [B, N] into samples that have a shift and scale of their own. */
static void split_samples(cpu_norm_call *c, const kin_desc *x) {
    c->samples = x->dims[0];
    c->rows = x->dims[1];
    c->plus_one = true;
}

static int64_t sample_stride(const kin_operand *operand) {
    return operand->desc.dims[0] == 1 ? 0 : operand->desc.strides[0];
}

static void finish_grad(cpu_norm_call *c, const kin_call *call) {
    c->dy = cpu_rows_of(cpu_data(&call->in[0]), &call->in[0].desc);
    c->chunks = cpu_norm_chunks(c->samples, c->rows);
    c->partials = cpu_scratch(call);
}

static size_t partials_size(int64_t samples, int64_t rows, int64_t width) {
    return (size_t)(samples * cpu_norm_chunks(samples, rows) * 2 * width) * sizeof(float);
}

static size_t row_grad_scratch(const kin_device *device, const kin_call *call) {
    (void)device;
    const kin_desc *x = &call->in[1].desc;
    return partials_size(1, cpu_row_count(x), cpu_row_width(x));
}

static size_t modulate_grad_scratch(const kin_device *device, const kin_call *call) {
    (void)device;
    const kin_desc *x = &call->in[1].desc;
    return partials_size(x->dims[0], x->dims[1], x->dims[2]);
}

static kin_status layer_norm(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)commands;
    cpu_norm_call c = norm_call(call, 0);
    c.weight = cpu_data(&call->in[1]);
    c.bias = cpu_data(&call->in[2]);
    CPU_PICK(cpu_norm).layer_norm(&c, threads_of(device, &c));
    return KIN_OK;
}

static kin_status layer_norm_grad(kin_device *device, kin_commands *commands,
                                  const kin_call *call) {
    (void)commands;
    cpu_norm_call c = norm_call(call, 1);
    c.weight = cpu_data(&call->in[2]);
    c.dweight = cpu_data(&call->out[1]);
    c.dbias = cpu_data(&call->out[2]);
    finish_grad(&c, call);
    CPU_PICK(cpu_norm).layer_norm_grad(&c, threads_of(device, &c));
    return KIN_OK;
}

static kin_status modulate(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)commands;
    cpu_norm_call c = norm_call(call, 0);
    split_samples(&c, &call->in[0].desc);
    c.bias = cpu_data(&call->in[1]);
    c.bias_stride = sample_stride(&call->in[1]);
    c.weight = cpu_data(&call->in[2]);
    c.weight_stride = sample_stride(&call->in[2]);
    CPU_PICK(cpu_norm).layer_norm(&c, threads_of(device, &c));
    return KIN_OK;
}

static kin_status modulate_grad(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)commands;
    cpu_norm_call c = norm_call(call, 1);
    split_samples(&c, &call->in[1].desc);
    c.weight = cpu_data(&call->in[2]);
    c.weight_stride = sample_stride(&call->in[2]);
    c.shared = call->in[2].desc.dims[0] == 1;
    c.dbias = cpu_data(&call->out[1]);
    c.dweight = cpu_data(&call->out[2]);
    finish_grad(&c, call);
    CPU_PICK(cpu_norm).layer_norm_grad(&c, threads_of(device, &c));
    return KIN_OK;
}

static kin_status rms_norm(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)commands;
    cpu_norm_call c = norm_call(call, 0);
    c.weight = cpu_data(&call->in[1]);
    CPU_PICK(cpu_norm).rms_norm(&c, threads_of(device, &c));
    return KIN_OK;
}

static kin_status rms_norm_grad(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)commands;
    cpu_norm_call c = norm_call(call, 1);
    c.weight = cpu_data(&call->in[2]);
    c.dweight = cpu_data(&call->out[1]);
    finish_grad(&c, call);
    CPU_PICK(cpu_norm).rms_norm_grad(&c, threads_of(device, &c));
    return KIN_OK;
}

/* Each op twice: views with dense rows, and anything else after a copy. */
const kin_kernel cpu_norm_kernels[] = {
    {"layer_norm", "cpu_layer_norm_rows", 1, 1, rows_are_dense, NULL, layer_norm},
    {"layer_norm", "cpu_layer_norm", 0, 1, NULL, NULL, layer_norm},
    {"layer_norm_grad", "cpu_layer_norm_grad_rows", 3, 3, rows_are_dense, row_grad_scratch,
     layer_norm_grad},
    {"layer_norm_grad", "cpu_layer_norm_grad", 0, 3, NULL, row_grad_scratch, layer_norm_grad},
    {"layer_norm_modulate", "cpu_layer_norm_modulate_rows", 7, 1, rows_are_dense, NULL, modulate},
    {"layer_norm_modulate", "cpu_layer_norm_modulate", 0, 1, NULL, NULL, modulate},
    {"layer_norm_modulate_grad", "cpu_layer_norm_modulate_grad_rows", 7, 3, rows_are_dense,
     modulate_grad_scratch, modulate_grad},
    {"layer_norm_modulate_grad", "cpu_layer_norm_modulate_grad", 0, 3, NULL, modulate_grad_scratch,
     modulate_grad},
    {"rms_norm", "cpu_rms_norm_rows", 1, 1, rows_are_dense, NULL, rms_norm},
    {"rms_norm", "cpu_rms_norm", 0, 1, NULL, NULL, rms_norm},
    {"rms_norm_grad", "cpu_rms_norm_grad_rows", 3, 3, rows_are_dense, row_grad_scratch,
     rms_norm_grad},
    {"rms_norm_grad", "cpu_rms_norm_grad", 0, 3, NULL, row_grad_scratch, rms_norm_grad},
    {0},
};
