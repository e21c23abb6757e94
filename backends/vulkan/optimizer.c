/* Kernels of the end of a training step. */
#include "backends/vulkan/map.h"
#include "backends/vulkan/move.h"
#include "backends/vulkan/reduce.h"
#include "ops/optimizer_attrs.h"

#include <math.h>

enum { WIDTH = 64, NORM_PARTS = 1024, MIN_TERMS = 64 };

/* As in update.comp. */
enum { STAGE_ADAMW, STAGE_EMA, STAGE_CLIP };

typedef struct update_push {
    uint32_t count;
    uint32_t p_first, m_first, v_first, g_first, lr_first, step_first, scale_first;
    float take1, take2, log_beta1, log_beta2, keep1, keep2, eps, weight_decay, blend, max_norm;
} update_push;

/* p, m, v, g, lr, step and scale in this order; what a stage has not is absent. */
typedef struct update_job {
    int stage;
    int64_t count;
    kin_operand operands[7];
    update_push push;
} update_job;

static const kin_operand absent = {.desc = {.rank = -1}};

static uint32_t type_of(const kin_operand *operand) {
    return kin_vulkan_is_absent(operand) ? KIN_F32 : operand->desc.dtype;
}

static kin_status launch_update(kin_device *device, kin_commands *commands, update_job *job) {
    kin_vulkan_work work = kin_vulkan_work_of("update", WIDTH);
    uint32_t *first = &job->push.p_first;
    kin_vulkan_spec(&work, (uint32_t)job->stage);
    kin_vulkan_spec(&work, type_of(&job->operands[0]));
    kin_vulkan_spec(&work, type_of(&job->operands[3]));
    kin_vulkan_spec(&work, type_of(&job->operands[1]));
    kin_vulkan_spec(&work, type_of(&job->operands[2]));
    kin_vulkan_spec(&work, !kin_vulkan_is_absent(&job->operands[6]));
    for (int i = 0; i < 7; i++)
        first[i] = i < 3 ? kin_vulkan_write(device, &work, &job->operands[i])
                         : kin_vulkan_read(device, &work, &job->operands[i]);
    job->push.count = (uint32_t)job->count;
    kin_vulkan_push(&work, &job->push, sizeof job->push);
    work.groups[0] = kin_vulkan_groups(job->count, 2 * WIDTH);
    return kin_vulkan_launch(device, commands, &work);
}

/* In parts where a tensor is beyond the largest binding. */
static kin_status run_update(kin_device *device, kin_commands *commands, const update_job *job) {
    uint64_t most = (kin_vulkan_features_of(device)->max_range - 512) / sizeof(float);
    int64_t part = most < INT32_MAX / 2 ? (int64_t)(most / 2 * 2) : INT32_MAX / 2;
    kin_status status = KIN_OK;
    for (int64_t at = 0; at < job->count && status == KIN_OK; at += part) {
        update_job piece = *job;
        piece.count = job->count - at < part ? job->count - at : part;
        for (int i = 0; i < 4; i++) {
            kin_operand *operand = &piece.operands[i];
            if (kin_vulkan_is_absent(operand)) continue;
            operand->offset += (size_t)at * kin_dtype_size(operand->desc.dtype);
            operand->desc = kin_desc_dense(operand->desc.dtype, 1, &piece.count);
        }
        status = launch_update(device, commands, &piece);
    }
    return status;
}

/* The stages work in place: where an output is not its input, it is made equal to it first. */
static kin_status bring(kin_device *device, kin_commands *commands, const kin_operand *in,
                        const kin_operand *out) {
    if (in->buffer == out->buffer && in->offset == out->offset) return KIN_OK;
    return vulkan_move_bytes(device, commands, in, out, kin_desc_bytes(&out->desc));
}

static bool can_update(const kin_device *device, const kin_call *call) {
    (void)device;
    for (int i = 0; i < 2; i++)
        if (!kin_vulkan_is_real(call->in[i].desc.dtype)) return false;
    for (int i = 0; i < call->out_count; i++)
        if (!kin_vulkan_is_real(call->out[i].desc.dtype)) return false;
    return true;
}

/* ln beta, finite for 0: e^(n ln beta) is then 0 for every step n. */
static float log_of(double beta) {
    return beta > 0 ? (float)log(beta) : -1e6f;
}

static kin_status adamw(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_adamw_attrs *attrs = call->attrs;
    const kin_operand *in = call->in, *out = call->out;
    kin_operand scale = call->in_count > 6 ? in[6] : absent;
    update_job job = {.stage = STAGE_ADAMW,
                      .count = kin_desc_count(&out[0].desc),
                      .operands = {out[0], out[1], out[2], in[1], in[4], in[5], scale},
                      .push = {.take1 = (float)(1 - attrs->beta1),
                               .take2 = (float)(1 - attrs->beta2),
                               .log_beta1 = log_of(attrs->beta1),
                               .log_beta2 = log_of(attrs->beta2),
                               .keep1 = (float)attrs->beta1,
                               .keep2 = (float)attrs->beta2,
                               .eps = (float)attrs->eps,
                               .weight_decay = (float)attrs->weight_decay}};
    kin_status status = bring(device, commands, &in[0], &out[0]);
    if (status == KIN_OK) status = bring(device, commands, &in[2], &out[1]);
    if (status == KIN_OK) status = bring(device, commands, &in[3], &out[2]);
    return status == KIN_OK ? run_update(device, commands, &job) : status;
}

static kin_status ema(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_ema_attrs *attrs = call->attrs;
    kin_operand scale = call->in_count > 2 ? call->in[2] : absent;
    update_job job = {
        .stage = STAGE_EMA,
        .count = kin_desc_count(&call->out[0].desc),
        .operands = {call->out[0], absent, absent, call->in[1], absent, absent, scale},
        .push = {.blend = (float)(1 - attrs->decay)}};
    kin_status status = bring(device, commands, &call->in[0], &call->out[0]);
    return status == KIN_OK ? run_update(device, commands, &job) : status;
}

static bool can_add(const kin_device *device, const kin_call *call) {
    return vulkan_map_can(device, call);
}

static kin_status accumulate(kin_device *device, kin_commands *commands, const kin_call *call) {
    return vulkan_map_run(device, commands, VULKAN_MAP_add, 0, 0, 2, call->in, 1, call->out);
}

static bool can_assign(const kin_device *device, const kin_call *call) {
    (void)device;
    return call->in[1].desc.dtype == call->out[0].desc.dtype;
}

static kin_status assign(kin_device *device, kin_commands *commands, const kin_call *call) {
    return bring(device, commands, &call->in[1], &call->out[0]);
}

static bool can_clip(const kin_device *device, const kin_call *call) {
    (void)device;
    return call->in[0].desc.dtype == KIN_F32;
}

static kin_status clip_scale(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_clip_scale_attrs *attrs = call->attrs;
    update_job job = {
        .stage = STAGE_CLIP,
        .count = 1,
        .operands = {call->out[0], absent, absent, call->in[0], absent, absent, absent},
        .push = {.max_norm = (float)attrs->max_norm}};
    return run_update(device, commands, &job);
}

/* ---- global_norm ---- */

/* Elements of one dispatch: what a binding takes. */
static int64_t norm_piece(const kin_device *device) {
    uint64_t most = (kin_vulkan_features_of(device)->max_range - 512) / sizeof(float);
    return most < INT32_MAX / 2 ? (int64_t)(most / 2 * 2) : INT32_MAX / 2;
}

static int64_t norm_parts(int64_t count) {
    int64_t parts = count / MIN_TERMS;
    return parts < 1 ? 1 : parts > NORM_PARTS ? NORM_PARTS : parts;
}

/* Partial sums of `count` squares, or of `count` partial sums. */
static int64_t norm_partials(const kin_device *device, int64_t count) {
    int64_t piece = norm_piece(device), total = count / piece * norm_parts(piece);
    return count % piece > 0 ? total + norm_parts(count % piece) : total;
}

/* Partial sums of all tensors. */
static int64_t norm_total(const kin_device *device, const kin_call *call) {
    int64_t total = 0;
    for (int i = 0; i < call->in_count; i++)
        total += norm_partials(device, kin_desc_count(&call->in[i].desc));
    return total;
}

static bool can_norm(const kin_device *device, const kin_call *call) {
    (void)device;
    for (int i = 0; i < call->in_count; i++)
        if (!kin_vulkan_is_real(call->in[i].desc.dtype)) return false;
    return true;
}

/* The partial sums, and sums of those. */
static size_t norm_scratch(const kin_device *device, const kin_call *call) {
    int64_t total = norm_total(device, call);
    return (size_t)(total + norm_partials(device, total) + 1) * sizeof(float);
}

/* Appends the partial sums of x, squared or as they are, to the floats from `at` on. */
static kin_status add_partials(kin_device *device, kin_commands *commands, const kin_call *call,
                               const kin_operand *x, bool square, int64_t *at) {
    int64_t piece = norm_piece(device), count = kin_desc_count(&x->desc);
    kin_status status = KIN_OK;
    for (int64_t first = 0; first < count && status == KIN_OK; first += piece) {
        int64_t terms = count - first < piece ? count - first : piece, parts = norm_parts(terms);
        vulkan_reduction sum = {.square = square, .scale = 1, .x = *x, .parts_inner = true};
        kin_operand partial = {kin_desc_dense(KIN_F32, 1, &parts), call->scratch,
                               call->scratch_offset + (size_t)*at * sizeof(float)};
        sum.x.offset += (size_t)first * kin_dtype_size(x->desc.dtype);
        vulkan_reduce_add(&sum.kept, 1, 0);
        vulkan_reduce_add(&sum.reduced, terms, 1);
        status = vulkan_reduce_pass(device, commands, &sum, parts, &partial);
        *at += parts;
    }
    return status;
}

/* `count` floats of scratch memory from the float `at` on. */
static kin_operand partials_at(const kin_call *call, int64_t at, int64_t count) {
    return (kin_operand){kin_desc_dense(KIN_F32, 1, &count), call->scratch,
                         call->scratch_offset + (size_t)at * sizeof(float)};
}

/* Partial sums of all tensors one after the other, sums of those until they are few, the root. */
static kin_status global_norm(kin_device *device, kin_commands *commands, const kin_call *call) {
    int64_t total = norm_total(device, call), begin = 0, end = 0;
    kin_status status = KIN_OK;
    for (int i = 0; i < call->in_count && status == KIN_OK; i++)
        status = add_partials(device, commands, call, &call->in[i], true, &end);
    /* From the first stretch of scratch memory to the second and back: each is shorter. */
    while (status == KIN_OK && (end - begin > NORM_PARTS || end - begin > norm_piece(device))) {
        kin_operand partials = partials_at(call, begin, end - begin);
        begin = end = begin == 0 ? total : 0;
        status = add_partials(device, commands, call, &partials, false, &end);
    }
    if (status != KIN_OK) return status;
    vulkan_reduction root = {.root = true, .scale = 1, .parts = 1};
    root.x = partials_at(call, begin, end - begin);
    vulkan_reduce_add(&root.kept, 1, 0);
    vulkan_reduce_add(&root.reduced, end - begin, 1);
    return vulkan_reduce_pass(device, commands, &root, 1, &call->out[0]);
}

const kin_kernel kin_vulkan_optimizer_kernels[] = {
    {"adamw", "vulkan_adamw", 0, 1, can_update, NULL, adamw},
    {"ema", "vulkan_ema", 0, 1, can_update, NULL, ema},
    {"accumulate", "vulkan_accumulate", 0, 1, can_add, NULL, accumulate},
    {"assign", "vulkan_assign", 0, 1, can_assign, NULL, assign},
    {"global_norm", "vulkan_global_norm", 0, 0, can_norm, norm_scratch, global_norm},
    {"clip_scale", "vulkan_clip_scale", 0, 1, can_clip, NULL, clip_scale},
    {0},
};
