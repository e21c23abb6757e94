/* Kernels of softmax and of its gradient. */
#include "backends/opencl/shape.h"

#include <stdio.h>

static bool rows_are_dense(const kin_device *device, const kin_call *call) {
    if (!kin_opencl_can_real(device, call)) return false;
    for (int i = 0; i < call->in_count; i++)
        if (!opencl_rows_are_dense(&call->in[i].desc)) return false;
    return true;
}

static kin_status run(kin_device *device, kin_commands *commands, const kin_call *call) {
    bool back = call->in_count > 1;
    const kin_operand *x = &call->in[back ? 1 : 0];
    int64_t width = opencl_row_width(&x->desc);
    char defines[96];
    size_t group;
    snprintf(defines, sizeof defines, "%s -DX=%s -DD=%s -DY=%s", back ? "-DBACKWARD" : "-DFORWARD",
             kin_opencl_type(x), kin_opencl_type(&call->in[0]), kin_opencl_type(&call->out[0]));
    kin_opencl_launch launch =
        opencl_start_rows(device, commands, "rows softmax", defines,
                          back ? "softmax_grad" : "softmax", width, 1, &group);
    for (int i = 0; i < call->in_count; i++) {
        kin_opencl_set_operand(&launch, &call->in[i]);
        opencl_set_rows(&launch, &call->in[i].desc);
    }
    kin_opencl_set_operand(&launch, &call->out[0]);
    kin_opencl_set_int(&launch, width);
    return opencl_finish_rows(&launch, opencl_row_count(&x->desc), group);
}

const kin_kernel kin_opencl_softmax_kernels[] = {
    {"softmax", "opencl_softmax", 1, 1, rows_are_dense, NULL, run},
    {"softmax_grad", "opencl_softmax_grad", 3, 3, rows_are_dense, NULL, run},
    {0},
};
