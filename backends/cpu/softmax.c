/* Kernels of softmax and its gradient. */
#include "backends/cpu/cpu.h"
#include "backends/cpu/softmax_table.h"

static bool rows_are_dense(const kin_device *device, const kin_call *call) {
    (void)device;
    for (int i = 0; i < call->in_count; ++i) {
        const kin_desc *in = &call->in[i].desc;
        if (in->dtype != KIN_F32 || !cpu_row_is_dense(in)) return false;
    }
    return call->out[0].desc.dtype == KIN_F32;
}

static cpu_rows rows_of(const kin_operand *operand) {
    return cpu_rows_of(cpu_data(operand), &operand->desc);
}

static kin_status forward(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)commands;
    cpu_rows x = rows_of(&call->in[0]);
    int64_t count = cpu_row_count(&call->out[0].desc), width = cpu_row_width(&call->out[0].desc);
    CPU_PICK(cpu_softmax)
        .forward(&x, cpu_data(&call->out[0]), count, width, cpu_threads_for(device, count * width));
    return KIN_OK;
}

static kin_status backward(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)commands;
    cpu_rows dy = rows_of(&call->in[0]), y = rows_of(&call->in[1]);
    int64_t count = cpu_row_count(&call->out[0].desc), width = cpu_row_width(&call->out[0].desc);
    CPU_PICK(cpu_softmax)
        .backward(&dy, &y, cpu_data(&call->out[0]), count, width,
                  cpu_threads_for(device, count * width));
    return KIN_OK;
}

const kin_kernel cpu_softmax_kernels[] = {
    {"softmax", "cpu_softmax_rows", 1, 1, rows_are_dense, NULL, forward},
    {"softmax", "cpu_softmax", 0, 1, NULL, NULL, forward},
    {"softmax_grad", "cpu_softmax_grad_rows", 3, 3, rows_are_dense, NULL, backward},
    {"softmax_grad", "cpu_softmax_grad", 0, 3, NULL, NULL, backward},
    {0},
};
