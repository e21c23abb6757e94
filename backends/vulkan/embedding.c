/* Kernels of table look-ups, their gradient, and the timestep features. */
#include "backends/vulkan/map.h"
#include "backends/vulkan/rows.h"
#include "ops/embedding_attrs.h"

#include <math.h>

enum { WIDTH = 64, TIME_BITS = 12 };

typedef struct embedding_push {
    uint32_t width, ids, rows, x_first, id_first, y_first;
} embedding_push;

static bool is_id(kin_dtype dtype) {
    return dtype == KIN_I32 || dtype == KIN_I64;
}

static kin_status launch_stage(kin_device *device, kin_commands *commands, uint32_t stage,
                               const kin_operand *x, const kin_operand *ids, const kin_operand *y,
                               int64_t rows, int64_t width) {
    embedding_push push = {.width = (uint32_t)width,
                           .ids = (uint32_t)kin_desc_count(&ids->desc),
                           .rows = (uint32_t)rows};
    int64_t count = stage == 0 ? kin_desc_count(&y->desc) : width;
    kin_vulkan_work work = kin_vulkan_work_of("embedding", WIDTH);
    kin_vulkan_spec(&work, stage);
    kin_vulkan_spec(&work, x->desc.dtype);
    kin_vulkan_spec(&work, ids->desc.dtype);
    kin_vulkan_spec(&work, y->desc.dtype);
    push.x_first = kin_vulkan_read(device, &work, x);
    push.id_first = kin_vulkan_read(device, &work, ids);
    push.y_first = kin_vulkan_write(device, &work, y);
    kin_vulkan_push(&work, &push, sizeof push);
    work.groups[0] = kin_vulkan_groups(count, WIDTH * (y->desc.dtype == KIN_F32 ? 1 : 2));
    return kin_vulkan_launch(device, commands, &work);
}

/* ---- embedding ---- */

static bool can_embed(const kin_device *device, const kin_call *call) {
    kin_dtype table = call->in[0].desc.dtype;
    return kin_vulkan_fits(device, call) && is_id(call->in[1].desc.dtype) &&
           (kin_vulkan_is_real(table) || table == KIN_Q8_0) &&
           kin_vulkan_is_real(call->out[0].desc.dtype);
}

static kin_status embedding(kin_device *device, kin_commands *commands, const kin_call *call) {
    const int64_t *dims = call->in[0].desc.dims;
    return launch_stage(device, commands, 0, &call->in[0], &call->in[1], &call->out[0], dims[0],
                        dims[1]);
}

static bool can_add(const kin_device *device, const kin_call *call) {
    return kin_vulkan_fits(device, call) && is_id(call->in[1].desc.dtype) &&
           kin_vulkan_is_real(call->in[0].desc.dtype) &&
           kin_vulkan_is_real(call->out[0].desc.dtype) &&
           (uint64_t)kin_desc_count(&call->out[0].desc) * sizeof(float) + 512 <=
               kin_vulkan_features_of(device)->max_range;
}

/* Sums are taken in f32: an odd unit makes the target one of scratch for 16-bit results. */
static size_t add_scratch(const kin_device *device, const kin_call *call) {
    (void)device;
    return vulkan_target_bytes(&call->out[0], 1);
}

static kin_status embedding_grad(kin_device *device, kin_commands *commands, const kin_call *call) {
    const int64_t *dims = call->out[0].desc.dims;
    vulkan_target table = vulkan_target_of(&call->out[0], 1, call->scratch, call->scratch_offset);
    kin_status status = vulkan_fill(device, commands, &table.write, 0);
    if (status == KIN_OK)
        status = launch_stage(device, commands, 1, &call->in[0], &call->in[1], &table.write,
                              dims[0], dims[1]);
    return status == KIN_OK ? vulkan_target_finish(device, commands, &table) : status;
}

/* ---- timestep_embedding ---- */

typedef struct time_push {
    uint32_t count, half, dim, t_first, y_first, unused;
    float high[TIME_BITS], low[TIME_BITS];
} time_push;

static bool can_time(const kin_device *device, const kin_call *call) {
    const kin_timestep_embedding_attrs *attrs = call->attrs;
    return kin_vulkan_fits(device, call) && attrs->dim / 2 <= 1 << TIME_BITS;
}

static kin_status timestep_embedding(kin_device *device, kin_commands *commands,
                                     const kin_call *call) {
    const kin_timestep_embedding_attrs *attrs = call->attrs;
    int64_t half = attrs->dim / 2;
    time_push push = {.count = (uint32_t)kin_desc_count(&call->out[0].desc),
                      .half = (uint32_t)half,
                      .dim = (uint32_t)attrs->dim};
    for (int bit = 0; bit < TIME_BITS && 1 << bit < half; bit++) {
        double ratio = exp(-log(attrs->max_period) * (double)(1 << bit) / (double)half);
        push.high[bit] = (float)ratio;
        push.low[bit] = (float)(ratio - push.high[bit]);
    }
    kin_vulkan_work work = kin_vulkan_work_of("timestep", WIDTH);
    kin_vulkan_spec(&work, call->in[0].desc.dtype);
    push.t_first = kin_vulkan_read(device, &work, &call->in[0]);
    push.y_first = kin_vulkan_write(device, &work, &call->out[0]);
    kin_vulkan_push(&work, &push, sizeof push);
    work.groups[0] = kin_vulkan_groups(push.count, WIDTH);
    return kin_vulkan_launch(device, commands, &work);
}

const kin_kernel kin_vulkan_embedding_kernels[] = {
    {"embedding", "vulkan_embedding", 0, 0, can_embed, NULL, embedding},
    {"embedding_grad", "vulkan_embedding_grad", 0, 0, can_add, add_scratch, embedding_grad},
    {"timestep_embedding", "vulkan_timestep_embedding", 0, 0, can_time, NULL, timestep_embedding},
    {0},
};
