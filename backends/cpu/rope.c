/* Kernels of rope. */
#include "backends/cpu/rope.h"

#include "backends/cpu/cpu.h"

static cpu_rope_args args_of(const kin_device *device, const kin_call *call) {
    const kin_desc *x = &call->in[0].desc, *y = &call->out[0].desc;
    const int64_t *tail = x->dims + x->rank - 3, *from = x->strides + x->rank - 3;
    const int64_t *to = y->strides + y->rank - 3;
    const bool two = x->rank == 5;
    return (cpu_rope_args){.attrs = call->attrs,
                           .b0 = x->dims[0],
                           .b1 = two ? x->dims[1] : 1,
                           .tokens = tail[0],
                           .heads = tail[1],
                           .head_size = tail[2],
                           .x = cpu_data(&call->in[0]),
                           .x_b0 = x->strides[0],
                           .x_b1 = two ? x->strides[1] : 0,
                           .x_n = from[0],
                           .x_h = from[1],
                           .y = cpu_data(&call->out[0]),
                           .y_b0 = y->strides[0],
                           .y_b1 = two ? y->strides[1] : 0,
                           .y_n = to[0],
                           .y_h = to[1],
                           .positions = cpu_data(&call->in[1]),
                           .threads = cpu_threads_for(device, kin_desc_count(x)),
                           .scratch = cpu_scratch(call)};
}

static size_t scratch(const kin_device *device, const kin_call *call) {
    const cpu_rope_args args = args_of(device, call);
    return CPU_PICK(cpu_rope_functions).scratch_bytes(&args);
}

static kin_status launch(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)commands;
    const cpu_rope_args args = args_of(device, call);
    CPU_PICK(cpu_rope_functions).run(&args);
    return KIN_OK;
}

static bool heads_are_dense(const kin_device *device, const kin_call *call) {
    (void)device;
    const kin_desc *x = &call->in[0].desc;
    return x->dtype == KIN_F32 && x->strides[x->rank - 1] == 1;
}

const kin_kernel cpu_rope_kernels[] = {
    {"rope", "cpu_rope_views", 1, 0, heads_are_dense, scratch, launch},
    {"rope", "cpu_rope", 0, 1, NULL, scratch, launch},
    {0},
};
