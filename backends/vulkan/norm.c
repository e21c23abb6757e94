/* Kernels of layer norm, its modulated form, RMS norm, and their gradients. */
#include "backends/vulkan/reduce.h"
#include "backends/vulkan/rows.h"
#include "ops/norm_attrs.h"

enum { COLUMN_WIDTH = 64, MIN_CHUNK = 16, WANTED_INVOCATIONS = 8192 };

/* One op: x as rows, and the vectors that its rows, or those of a sample, share. */
typedef struct norm_job {
    bool centred, plus_one;
    int64_t width, rows, sample_rows;
    kin_operand x, weight, bias; /* the last is dy in gradients */
    int64_t weight_step, bias_step;
    float eps;
} norm_job;

typedef struct norm_push {
    uint32_t width, rows, sample_rows, x_row, dy_row;
    uint32_t x_first, w_first, b_first, y_first, s_first;
    uint32_t w_step, b_step;
    float eps;
} norm_push;

/* Elements from row to row of a tensor whose rows lie evenly, each dense; -1 if they do not. */
static int64_t row_step(const kin_desc *desc) {
    int last = desc->rank - 1;
    int64_t step = desc->dims[last], count = 1;
    if (desc->dims[last] != 1 && desc->strides[last] != 1) return -1;
    for (int axis = last - 1; axis >= 0; axis--) {
        if (desc->dims[axis] == 1) continue;
        if (count == 1) step = desc->strides[axis];
        else if (desc->strides[axis] != step * count) return -1;
        count *= desc->dims[axis];
    }
    return step;
}

static bool is_row_like(const kin_operand *operand) {
    return kin_vulkan_is_absent(operand) || row_step(&operand->desc) >= 0;
}

static bool can(const kin_device *device, const kin_call *call) {
    if (!vulkan_rows_can(device) || !kin_vulkan_fits_real(device, call)) return false;
    for (int i = 0; i < call->in_count; i++)
        if (!is_row_like(&call->in[i])) return false;
    return kin_desc_count(&call->out[0].desc) > 0;
}

static norm_job job_of(const kin_call *call, int x, bool centred) {
    const kin_norm_attrs *attrs = call->attrs;
    const kin_desc *desc = &call->in[x].desc;
    norm_job job = {.centred = centred, .x = call->in[x], .eps = (float)attrs->eps};
    job.width = desc->dims[desc->rank - 1];
    job.rows = kin_desc_count(desc) / job.width;
    job.sample_rows = job.rows;
    job.weight = job.bias = (kin_operand){.desc = {.rank = -1}};
    return job;
}

static int64_t sample_step(const kin_operand *operand) {
    return operand->desc.dims[0] == 1 ? 0 : operand->desc.strides[0];
}

/* The rows [B, N] have a shift and a scale for each sample. */
static void split_samples(norm_job *job, const kin_operand *scale) {
    job->sample_rows = job->x.desc.dims[1];
    job->plus_one = true;
    job->weight = *scale;
    job->weight_step = sample_step(scale);
}

static uint32_t type_of(const kin_operand *operand) {
    return kin_vulkan_is_absent(operand) ? KIN_F32 : operand->desc.dtype;
}

/* y, and in gradients the rows' statistics. */
static kin_status launch_rows(kin_device *device, kin_commands *commands, const norm_job *job,
                              const kin_operand *y, const kin_operand *stats) {
    bool has_bias = !kin_vulkan_is_absent(&job->bias);
    kin_vulkan_work work = vulkan_rows_work(device, stats ? "norm_grad" : "norm", job->width);
    norm_push push = {.width = (uint32_t)job->width,
                      .rows = (uint32_t)job->rows,
                      .sample_rows = (uint32_t)job->sample_rows,
                      .x_row = (uint32_t)row_step(&job->x.desc),
                      .w_step = (uint32_t)job->weight_step,
                      .b_step = (uint32_t)job->bias_step,
                      .eps = job->eps};
    if (stats) push.dy_row = (uint32_t)row_step(&job->bias.desc);
    kin_vulkan_spec(&work, job->centred);
    kin_vulkan_spec(&work, job->x.desc.dtype);
    kin_vulkan_spec(&work, type_of(&job->weight));
    kin_vulkan_spec(&work, !kin_vulkan_is_absent(&job->weight));
    kin_vulkan_spec(&work, job->plus_one);
    kin_vulkan_spec(&work, type_of(&job->bias));
    kin_vulkan_spec(&work, has_bias);
    kin_vulkan_spec(&work, y->desc.dtype);
    push.x_first = kin_vulkan_read(device, &work, &job->x);
    push.w_first = kin_vulkan_read(device, &work, &job->weight);
    push.b_first = kin_vulkan_read(device, &work, &job->bias);
    push.y_first = kin_vulkan_write(device, &work, y);
    if (stats) push.s_first = kin_vulkan_write(device, &work, stats);
    kin_vulkan_push(&work, &push, sizeof push);
    work.groups[0] = (uint64_t)job->rows;
    return kin_vulkan_launch(device, commands, &work);
}

/* ---- forward ---- */

static size_t forward_scratch(const kin_device *device, const kin_call *call) {
    const kin_desc *x = &call->in[0].desc;
    (void)device;
    return vulkan_target_bytes(&call->out[0], x->dims[x->rank - 1]);
}

static kin_status forward(kin_device *device, kin_commands *commands, const kin_call *call,
                          const norm_job *job) {
    vulkan_target y =
        vulkan_target_of(&call->out[0], job->width, call->scratch, call->scratch_offset);
    kin_status status = launch_rows(device, commands, job, &y.write, NULL);
    return status == KIN_OK ? vulkan_target_finish(device, commands, &y) : status;
}

static kin_status layer_norm(kin_device *device, kin_commands *commands, const kin_call *call) {
    norm_job job = job_of(call, 0, true);
    job.weight = call->in[1];
    job.bias = call->in[2];
    return forward(device, commands, call, &job);
}

static kin_status rms_norm(kin_device *device, kin_commands *commands, const kin_call *call) {
    norm_job job = job_of(call, 0, false);
    job.weight = call->in[1];
    return forward(device, commands, call, &job);
}

static kin_status modulate(kin_device *device, kin_commands *commands, const kin_call *call) {
    norm_job job = job_of(call, 0, true);
    split_samples(&job, &call->in[2]);
    job.bias = call->in[1];
    job.bias_step = sample_step(&call->in[1]);
    return forward(device, commands, call, &job);
}

/* ---- gradients ---- */

/* Scratch: the rows' statistics, shares of the two vectors' gradients, dx if it is converted. */
typedef struct grad_plan {
    int64_t samples, sample_rows, chunks, chunk_rows; /* samples whose vectors are apart */
    size_t share_bytes, stats_at, hat_at, dy_at, dx_at, total;
} grad_plan;

static grad_plan plan_of(const kin_call *call, int64_t samples) {
    const kin_desc *x = &call->in[1].desc;
    int64_t width = x->dims[x->rank - 1], rows = kin_desc_count(x) / width;
    grad_plan plan = {.samples = samples, .sample_rows = rows / samples};
    plan.chunks = WANTED_INVOCATIONS / (width * samples);
    if (plan.chunks > plan.sample_rows / MIN_CHUNK) plan.chunks = plan.sample_rows / MIN_CHUNK;
    if (plan.chunks < 1) plan.chunks = 1;
    plan.chunk_rows = (plan.sample_rows + plan.chunks - 1) / plan.chunks;
    plan.share_bytes = vulkan_round_up((size_t)(samples * plan.chunks * width) * sizeof(float));
    plan.hat_at = vulkan_round_up((size_t)rows * 3 * sizeof(float));
    plan.dy_at = plan.hat_at + plan.share_bytes;
    plan.dx_at = plan.dy_at + plan.share_bytes;
    plan.total = plan.dx_at + vulkan_target_bytes(&call->out[0], width);
    return plan;
}

static kin_status launch_columns(kin_device *device, kin_commands *commands, const norm_job *job,
                                 const grad_plan *plan, const kin_call *call) {
    struct {
        uint32_t width, count, chunks, rows, sample_rows, x_row, dy_row;
        uint32_t x_first, dy_first, s_first, hat_first, dy_sum_first;
    } push = {.width = (uint32_t)job->width,
              .count = (uint32_t)(plan->samples * plan->chunks * job->width),
              .chunks = (uint32_t)plan->chunks,
              .rows = (uint32_t)plan->chunk_rows,
              .sample_rows = (uint32_t)plan->sample_rows,
              .x_row = (uint32_t)row_step(&job->x.desc),
              .dy_row = (uint32_t)row_step(&job->bias.desc)};
    size_t base = call->scratch_offset;
    kin_operand stats = vulkan_floats(call->scratch, base + plan->stats_at, 3 * job->rows);
    kin_vulkan_work work = kin_vulkan_work_of("norm_columns", COLUMN_WIDTH);
    kin_vulkan_spec(&work, job->x.desc.dtype);
    kin_vulkan_spec(&work, job->bias.desc.dtype);
    push.x_first = kin_vulkan_read(device, &work, &job->x);
    push.dy_first = kin_vulkan_read(device, &work, &job->bias);
    push.s_first = kin_vulkan_read(device, &work, &stats);
    push.hat_first = kin_vulkan_bytes(device, &work, call->scratch, base + plan->hat_at,
                                      2 * plan->share_bytes, true);
    push.dy_sum_first = push.hat_first + (uint32_t)(plan->share_bytes / sizeof(float));
    kin_vulkan_push(&work, &push, sizeof push);
    work.groups[0] = kin_vulkan_groups(push.count, COLUMN_WIDTH);
    return kin_vulkan_launch(device, commands, &work);
}

/* out [samples, width] from shares [samples, chunks, width]. */
static kin_status join_shares(kin_device *device, kin_commands *commands, const norm_job *job,
                              const grad_plan *plan, const kin_call *call, size_t at,
                              const kin_operand *out) {
    vulkan_reduction sum = {.scale = 1, .parts = 1, .out = *out};
    sum.x = vulkan_floats(call->scratch, call->scratch_offset + at, 1);
    vulkan_reduce_add(&sum.kept, plan->samples, plan->chunks * job->width);
    vulkan_reduce_add(&sum.kept, job->width, 1);
    vulkan_reduce_add(&sum.reduced, plan->chunks, job->width);
    return vulkan_reduce(device, commands, &sum, NULL, 0);
}

/* dweight and dbias may be NULL. */
static kin_status backward(kin_device *device, kin_commands *commands, const kin_call *call,
                           norm_job *job, int64_t samples, const kin_operand *dweight,
                           const kin_operand *dbias) {
    grad_plan plan = plan_of(call, samples);
    size_t base = call->scratch_offset;
    kin_operand stats = vulkan_floats(call->scratch, base + plan.stats_at, 3 * job->rows);
    vulkan_target dx =
        vulkan_target_of(&call->out[0], job->width, call->scratch, base + plan.dx_at);
    job->bias = call->in[0];
    kin_status status = launch_rows(device, commands, job, &dx.write, &stats);
    if (status == KIN_OK) status = launch_columns(device, commands, job, &plan, call);
    if (status == KIN_OK) status = vulkan_target_finish(device, commands, &dx);
    if (status == KIN_OK && dweight != NULL)
        status = join_shares(device, commands, job, &plan, call, plan.hat_at, dweight);
    if (status == KIN_OK && dbias != NULL)
        status = join_shares(device, commands, job, &plan, call, plan.dy_at, dbias);
    return status;
}

static size_t row_grad_scratch(const kin_device *device, const kin_call *call) {
    (void)device;
    return plan_of(call, 1).total;
}

static int64_t modulate_samples(const kin_call *call) {
    return call->in[2].desc.dims[0] == 1 ? 1 : call->in[1].desc.dims[0];
}

static size_t modulate_grad_scratch(const kin_device *device, const kin_call *call) {
    (void)device;
    return plan_of(call, modulate_samples(call)).total;
}

static kin_status layer_norm_grad(kin_device *device, kin_commands *commands,
                                  const kin_call *call) {
    norm_job job = job_of(call, 1, true);
    job.weight = call->in[2];
    return backward(device, commands, call, &job, 1, &call->out[1], &call->out[2]);
}

static kin_status rms_norm_grad(kin_device *device, kin_commands *commands, const kin_call *call) {
    norm_job job = job_of(call, 1, false);
    job.weight = call->in[2];
    return backward(device, commands, call, &job, 1, &call->out[1], NULL);
}

static kin_status modulate_grad(kin_device *device, kin_commands *commands, const kin_call *call) {
    norm_job job = job_of(call, 1, true);
    split_samples(&job, &call->in[2]);
    return backward(device, commands, call, &job, modulate_samples(call), &call->out[2],
                    &call->out[1]);
}

const kin_kernel kin_vulkan_norm_kernels[] = {
    {"layer_norm", "vulkan_layer_norm", 1, 1, can, forward_scratch, layer_norm},
    {"rms_norm", "vulkan_rms_norm", 1, 1, can, forward_scratch, rms_norm},
    {"layer_norm_modulate", "vulkan_layer_norm_modulate", 7, 1, can, forward_scratch, modulate},
    {"layer_norm_grad", "vulkan_layer_norm_grad", 3, 0, can, row_grad_scratch, layer_norm_grad},
    {"rms_norm_grad", "vulkan_rms_norm_grad", 3, 0, can, row_grad_scratch, rms_norm_grad},
    {"layer_norm_modulate_grad", "vulkan_layer_norm_modulate_grad", 7, 0, can,
     modulate_grad_scratch, modulate_grad},
    {0},
};
