/* Kernels of rope. */
#include "backends/opencl/opencl.h"
#include "ops/rope_attrs.h"

#include <math.h>
#include <stdio.h>

enum { RATIO_BITS = 10 }; /* rope.cl */

/* As in rope.cl. */
typedef struct rope_shape {
    cl_int b0, b1, tokens, heads, size;
    cl_int x_steps[5], y_steps[4];
    cl_int axes, interleaved, inverse, bf16_table;
    cl_float base[KIN_ROPE_AXES][2], ratio[RATIO_BITS][2];
} rope_shape;

static void split(double value, cl_float out_parts[2]) {
    out_parts[0] = (cl_float)value;
    out_parts[1] = (cl_float)(value - (double)out_parts[0]);
}

/* Steps of batch, batch, token and head. */
static void steps_of(const kin_desc *desc, cl_int *out_steps) {
    const int64_t *tail = desc->strides + desc->rank - 3;
    out_steps[0] = (cl_int)desc->strides[0];
    out_steps[1] = desc->rank == 5 ? (cl_int)desc->strides[1] : 0;
    out_steps[2] = (cl_int)tail[0];
    out_steps[3] = (cl_int)tail[1];
}

static bool can_rope(const kin_device *device, const kin_call *call) {
    const kin_rope_attrs *attrs = call->attrs;
    const kin_desc *x = &call->in[0].desc;
    return kin_opencl_can_real(device, call) &&
           x->dims[x->rank - 1] / attrs->axes / 2 <= (1 << RATIO_BITS);
}

static kin_status launch(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_rope_attrs *attrs = call->attrs;
    const kin_desc *x = &call->in[0].desc;
    const int64_t *tail = x->dims + x->rank - 3;
    rope_shape s = {.b0 = (cl_int)x->dims[0],
                    .b1 = x->rank == 5 ? (cl_int)x->dims[1] : 1,
                    .tokens = (cl_int)tail[0],
                    .heads = (cl_int)tail[1],
                    .size = (cl_int)tail[2],
                    .axes = (cl_int)attrs->axes,
                    .interleaved = (cl_int)attrs->interleaved,
                    .inverse = (cl_int)attrs->inverse,
                    .bf16_table = (cl_int)attrs->bf16_table};
    char defines[32];
    const double part = (double)(tail[2] / attrs->axes);
    steps_of(x, s.x_steps);
    s.x_steps[4] = (cl_int)x->strides[x->rank - 1];
    steps_of(&call->out[0].desc, s.y_steps);
    for (int a = 0; a < (int)attrs->axes; a++) split(1 / attrs->scales[a], s.base[a]);
    for (int j = 0; j < RATIO_BITS; j++)
        split(pow(attrs->theta, -2.0 * (double)(1 << j) / part), s.ratio[j]);
    snprintf(defines, sizeof defines, "-DTX=%s", kin_opencl_type(&call->in[0]));
    kin_opencl_launch rope = kin_opencl_start(device, commands, "rope", defines, "rope");
    kin_opencl_set_operand(&rope, &call->in[0]);
    kin_opencl_set_operand(&rope, &call->in[1]);
    kin_opencl_set_operand(&rope, &call->out[0]);
    kin_opencl_set_bytes(&rope, &s, sizeof s);
    return kin_opencl_finish_items(&rope, (int64_t)s.b0 * s.b1 * s.tokens * (s.size / 2));
}

/* Input 0 may be any view, or lie where the result goes; not both at once. */
const kin_kernel kin_opencl_rope_kernels[] = {
    {"rope", "opencl_rope", 1, 1, can_rope, NULL, launch},
    {0},
};
