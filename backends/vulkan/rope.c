/* The kernel of rope: a table of cosines and sines of all tokens in scratch memory, then the turns.
 * The frequencies are computed here, in double, and reach the device as push constants. */
#include "backends/vulkan/heavy.h"
#include "ops/rope_attrs.h"

#include <math.h>

enum { WIDTH = 64, SOME = 8 }; /* frequencies of one dispatch */

typedef struct frequency {
    float first, second, rest; /* the first two have 12 bits */
} frequency;

typedef struct table_push {
    uint32_t tokens, count, positions, table, begin, width;
    float sign;
    frequency of[SOME];
} table_push;

typedef struct rope_push {
    uint32_t count, b1_size, tokens, heads, x, x_b0, x_b1, x_n, x_h, y, table;
} rope_push;

/* The first 12 bits of a number. */
static double leading(double x) {
    int exponent;
    const double mantissa = frexp(x, &exponent);
    return ldexp(nearbyint(mantissa * 4096), exponent - 12);
}

static frequency cut(double x) {
    const double first = leading(x), second = leading(x - first);
    return (frequency){(float)first, (float)second, (float)(x - first - second)};
}

static bool can(const kin_device *device, const kin_call *call) {
    const kin_desc *x = &call->in[0].desc;
    return x->strides[x->rank - 1] == 1 && kin_vulkan_fits_real(device, call);
}

static int64_t table_entries(const kin_call *call) {
    const kin_desc *x = &call->in[0].desc;
    return x->dims[x->rank - 3] * x->dims[x->rank - 1]; /* tokens x half a head x 2 */
}

static size_t scratch(const kin_device *device, const kin_call *call) {
    (void)device;
    return kin_vulkan_scratch_bytes(table_entries(call));
}

static uint32_t bind_table(const kin_device *device, kin_vulkan_work *work, const kin_call *call,
                           bool write) {
    return kin_vulkan_bytes(device, work, call->scratch, call->scratch_offset,
                            (size_t)table_entries(call) * 4, write);
}

/* The table of one axis, some frequencies at a time. */
static kin_status make_table(kin_device *device, kin_commands *commands, const kin_call *call,
                             int64_t axis) {
    const kin_rope_attrs *attrs = call->attrs;
    const kin_operand *positions = &call->in[1];
    const kin_desc *x = &call->in[0].desc;
    const int64_t tokens = x->dims[x->rank - 3], half = x->dims[x->rank - 1] / attrs->axes / 2;
    const double unit = attrs->bf16_table ? 1 : 0.15915494309189533577; /* turns of a radian */
    kin_status status = KIN_OK;
    for (int64_t i = 0; i < half && status == KIN_OK; i += SOME) {
        kin_vulkan_work work = kin_vulkan_work_of("rope_table", WIDTH);
        table_push push = {.tokens = (uint32_t)tokens,
                           .begin = (uint32_t)(axis * half + i),
                           .width = (uint32_t)(attrs->axes * half),
                           .sign = attrs->inverse ? -1.0f : 1.0f};
        push.count = (uint32_t)(half - i < SOME ? half - i : SOME);
        for (uint32_t j = 0; j < push.count; j++)
            push.of[j] = cut(pow(attrs->theta, -(double)(i + j) / (double)half) /
                             attrs->scales[axis] * unit);
        kin_vulkan_spec(&work, attrs->bf16_table != 0);
        push.positions = kin_vulkan_read(device, &work, positions) + (uint32_t)(axis * tokens);
        push.table = bind_table(device, &work, call, true);
        kin_vulkan_push(&work, &push, sizeof push);
        work.groups[0] = kin_vulkan_groups(tokens, WIDTH);
        status = kin_vulkan_launch(device, commands, &work);
    }
    return status;
}

static kin_status launch(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_rope_attrs *attrs = call->attrs;
    const kin_desc *x = &call->in[0].desc;
    const int64_t *tail = x->dims + x->rank - 3, *strides = x->strides + x->rank - 3;
    const bool two = x->rank == 5;
    kin_status status = KIN_OK;
    if (kin_desc_count(x) == 0) return KIN_OK;
    for (int64_t axis = 0; axis < attrs->axes && status == KIN_OK; axis++)
        status = make_table(device, commands, call, axis);
    if (status != KIN_OK) return status;
    rope_push push = {.count = (uint32_t)kin_desc_count(x),
                      .b1_size = two ? (uint32_t)x->dims[1] : 1,
                      .tokens = (uint32_t)tail[0],
                      .heads = (uint32_t)tail[1],
                      .x_b0 = (uint32_t)x->strides[0],
                      .x_b1 = two ? (uint32_t)x->strides[1] : 0,
                      .x_n = (uint32_t)strides[0],
                      .x_h = (uint32_t)strides[1]};
    kin_vulkan_work work = kin_vulkan_work_of("rope", WIDTH);
    kin_vulkan_spec(&work, (uint32_t)x->dtype);
    kin_vulkan_spec(&work, (uint32_t)(tail[2] / attrs->axes / 2));
    kin_vulkan_spec(&work, (uint32_t)attrs->axes);
    kin_vulkan_spec(&work, attrs->interleaved != 0);
    push.x = kin_vulkan_read(device, &work, &call->in[0]);
    push.table = bind_table(device, &work, call, false);
    push.y = kin_vulkan_write(device, &work, &call->out[0]);
    kin_vulkan_push(&work, &push, sizeof push);
    work.groups[0] = kin_vulkan_groups(kin_desc_count(x), 2 * WIDTH);
    return kin_vulkan_launch(device, commands, &work);
}

const kin_kernel kin_vulkan_rope_kernels[] = {
    {"rope", "vulkan_rope", 1, 0, can, scratch, launch},
    {0},
};
