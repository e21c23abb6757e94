/* Kernels of group norm and its gradient: the stages of group_norm.comp one after the other. */
#include "backends/vulkan/reduce.h"
#include "backends/vulkan/rows.h"
#include "ops/norm_attrs.h"

enum { WIDTH = 64, EACH = 4, MIN_STRETCH = 4096, MAX_STRETCHES = 64 };

/* As in group_norm.comp. */
enum { STAGE_MOMENTS, STAGE_JOIN, STAGE_APPLY, STAGE_CHANNELS, STAGE_GROUPS, STAGE_GRADIENT };

typedef struct group_push {
    uint32_t batch, channels, positions, groups, stretches, stretch;
    uint32_t x_first, w_first, b_first, dy_first, y_first;
    uint32_t parts_first, stats_first, hat_first, dz_first, means_first;
    float eps;
} group_push;

typedef struct group_job {
    int64_t batch, channels, positions, groups, stretches, stretch;
    size_t parts_at, stats_at, hat_at, dz_at, means_at, total; /* bytes in scratch */
    bool silu;
    float eps;
    kin_operand x, weight, bias, dy, y;
    kin_buffer *scratch;
    size_t scratch_offset;
} group_job;

static group_job job_of(const kin_call *call, int x) {
    const kin_desc *desc = &call->in[x].desc;
    const kin_group_norm_attrs *attrs = call->attrs;
    group_job job = {.batch = desc->dims[0],
                     .channels = desc->dims[1],
                     .positions = 1,
                     .groups = attrs->groups,
                     .silu = attrs->silu != 0,
                     .eps = (float)attrs->eps,
                     .x = call->in[x],
                     .weight = call->in[x + 1],
                     .bias = call->in[x + 2],
                     .dy = {.desc = {.rank = -1}},
                     .y = call->out[0],
                     .scratch = call->scratch,
                     .scratch_offset = call->scratch_offset};
    for (int axis = 2; axis < desc->rank; axis++) job.positions *= desc->dims[axis];
    int64_t size = job.channels / job.groups * job.positions;
    job.stretches = size / MIN_STRETCH < 1 ? 1 : size / MIN_STRETCH;
    if (job.stretches > MAX_STRETCHES) job.stretches = MAX_STRETCHES;
    job.stretch = (size + job.stretches - 1) / job.stretches;
    if (job.stretch > 0) job.stretches = (size + job.stretch - 1) / job.stretch;
    size_t groups = (size_t)(job.batch * job.groups), channels = (size_t)(job.batch * job.channels);
    job.stats_at = vulkan_round_up(groups * (size_t)job.stretches * 3 * sizeof(float));
    job.hat_at = job.stats_at + vulkan_round_up(groups * 3 * sizeof(float));
    job.dz_at = job.hat_at + vulkan_round_up(channels * sizeof(float));
    job.means_at = job.dz_at + vulkan_round_up(channels * sizeof(float));
    job.total = job.means_at + vulkan_round_up(groups * 2 * sizeof(float));
    return job;
}

static uint32_t type_of(const kin_operand *operand) {
    return kin_vulkan_is_absent(operand) ? KIN_F32 : operand->desc.dtype;
}

static uint64_t groups_of(const group_job *job, int stage) {
    int64_t count = job->batch * job->channels * job->positions;
    switch (stage) {
    case STAGE_MOMENTS:
        return (uint64_t)(job->batch * job->groups * job->stretches);
    case STAGE_CHANNELS:
        return (uint64_t)(job->batch * job->channels);
    case STAGE_JOIN:
    case STAGE_GROUPS:
        return kin_vulkan_groups(job->batch * job->groups, WIDTH);
    default:
        return kin_vulkan_groups(count, WIDTH * EACH * (job->y.desc.dtype == KIN_F32 ? 1 : 2));
    }
}

static kin_status run_stage(kin_device *device, kin_commands *commands, const group_job *job,
                            int stage) {
    group_push push = {.batch = (uint32_t)job->batch,
                       .channels = (uint32_t)job->channels,
                       .positions = (uint32_t)job->positions,
                       .groups = (uint32_t)job->groups,
                       .stretches = (uint32_t)job->stretches,
                       .stretch = (uint32_t)job->stretch,
                       .eps = job->eps};
    bool rows = stage == STAGE_MOMENTS || stage == STAGE_CHANNELS;
    int64_t width = stage == STAGE_MOMENTS ? job->stretch : job->positions;
    kin_vulkan_work work = vulkan_rows_work(device, "group_norm", width);
    if (!rows) work.specs[0] = WIDTH;
    kin_vulkan_spec(&work, (uint32_t)stage);
    kin_vulkan_spec(&work, job->silu);
    kin_vulkan_spec(&work, job->x.desc.dtype);
    kin_vulkan_spec(&work, job->weight.desc.dtype);
    kin_vulkan_spec(&work, job->bias.desc.dtype);
    kin_vulkan_spec(&work, type_of(&job->dy));
    kin_vulkan_spec(&work, job->y.desc.dtype);
    push.x_first = kin_vulkan_read(device, &work, &job->x);
    push.w_first = kin_vulkan_read(device, &work, &job->weight);
    push.b_first = kin_vulkan_read(device, &work, &job->bias);
    push.dy_first = kin_vulkan_read(device, &work, &job->dy);
    uint32_t scratch =
        kin_vulkan_bytes(device, &work, job->scratch, job->scratch_offset, job->total, true);
    push.y_first = kin_vulkan_write(device, &work, &job->y);
    push.parts_first = scratch;
    push.stats_first = scratch + (uint32_t)(job->stats_at / 4);
    push.hat_first = scratch + (uint32_t)(job->hat_at / 4);
    push.dz_first = scratch + (uint32_t)(job->dz_at / 4);
    push.means_first = scratch + (uint32_t)(job->means_at / 4);
    kin_vulkan_push(&work, &push, sizeof push);
    work.groups[0] = groups_of(job, stage);
    return kin_vulkan_launch(device, commands, &work);
}

static kin_status run_stages(kin_device *device, kin_commands *commands, const group_job *job,
                             const int *stages, int count) {
    kin_status status = KIN_OK;
    for (int i = 0; i < count && status == KIN_OK; i++)
        status = run_stage(device, commands, job, stages[i]);
    return status;
}

static bool can(const kin_device *device, const kin_call *call) {
    return vulkan_rows_can(device) && kin_vulkan_fits_real(device, call) &&
           kin_desc_count(&call->out[0].desc) > 0;
}

static size_t forward_scratch(const kin_device *device, const kin_call *call) {
    (void)device;
    return job_of(call, 0).total;
}

static size_t backward_scratch(const kin_device *device, const kin_call *call) {
    (void)device;
    return job_of(call, 1).total;
}

static kin_status forward(kin_device *device, kin_commands *commands, const kin_call *call) {
    static const int stages[] = {STAGE_MOMENTS, STAGE_JOIN, STAGE_APPLY};
    group_job job = job_of(call, 0);
    return run_stages(device, commands, &job, stages, 3);
}

/* out[channel] = the sum over samples of what CHANNELS left at `at`. */
static kin_status sum_samples(kin_device *device, kin_commands *commands, const group_job *job,
                              size_t at, const kin_operand *out) {
    return vulkan_reduce_columns(device, commands, job->scratch, job->scratch_offset + at,
                                 job->batch, job->channels, out);
}

static kin_status backward(kin_device *device, kin_commands *commands, const kin_call *call) {
    static const int stages[] = {STAGE_MOMENTS, STAGE_JOIN, STAGE_CHANNELS, STAGE_GROUPS,
                                 STAGE_GRADIENT};
    group_job job = job_of(call, 1);
    job.dy = call->in[0];
    kin_status status = run_stages(device, commands, &job, stages, 5);
    if (status == KIN_OK) status = sum_samples(device, commands, &job, job.hat_at, &call->out[1]);
    if (status == KIN_OK) status = sum_samples(device, commands, &job, job.dz_at, &call->out[2]);
    return status;
}

const kin_kernel kin_vulkan_group_norm_kernels[] = {
    {"group_norm", "vulkan_group_norm", 0, 1, can, forward_scratch, forward},
    {"group_norm_grad", "vulkan_group_norm_grad", 0, 3, can, backward_scratch, backward},
    {0},
};
