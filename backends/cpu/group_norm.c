/* Kernels of group norm and its gradient. */
#include "backends/cpu/cpu.h"
#include "backends/cpu/norm_table.h"
#include "ops/norm_attrs.h"

static cpu_group_norm_call group_norm_call(const kin_call *call, int x_index) {
    const kin_desc *x = &call->in[x_index].desc;
    const kin_group_norm_attrs *attrs = call->attrs;
    cpu_group_norm_call c = {.batch = x->dims[0],
                             .channels = x->dims[1],
                             .positions = 1,
                             .groups = attrs->groups,
                             .eps = attrs->eps,
                             .silu = attrs->silu != 0,
                             .x = cpu_data(&call->in[x_index]),
                             .weight = cpu_data(&call->in[x_index + 1]),
                             .bias = cpu_data(&call->in[x_index + 2]),
                             .out = cpu_data(&call->out[0])};
    for (int axis = 2; axis < x->rank; ++axis) c.positions *= x->dims[axis];
    return c;
}

static int threads_of(const kin_device *device, const cpu_group_norm_call *c) {
    return cpu_threads_for(device, c->batch * c->channels * c->positions);
}

static size_t backward_scratch(const kin_device *device, const kin_call *call) {
    (void)device;
    const kin_desc *x = &call->in[1].desc;
    return (size_t)(x->dims[0] * x->dims[1] * 2) * sizeof(float);
}

static kin_status forward(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)commands;
    cpu_group_norm_call c = group_norm_call(call, 0);
    CPU_PICK(cpu_group_norm).forward(&c, threads_of(device, &c));
    return KIN_OK;
}

static kin_status backward(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)commands;
    cpu_group_norm_call c = group_norm_call(call, 1);
    c.dy = cpu_data(&call->in[0]);
    c.dweight = cpu_data(&call->out[1]);
    c.dbias = cpu_data(&call->out[2]);
    c.partials = cpu_scratch(call);
    CPU_PICK(cpu_group_norm).backward(&c, threads_of(device, &c));
    return KIN_OK;
}

const kin_kernel cpu_group_norm_kernels[] = {
    {"group_norm", "cpu_group_norm", 0, 1, NULL, NULL, forward},
    {"group_norm_grad", "cpu_group_norm_grad", 0, 1, NULL, backward_scratch, backward},
    {0},
};
