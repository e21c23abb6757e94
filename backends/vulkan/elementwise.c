/* Kernels of the element-wise ops, of modulate and of gated_add. */
#include "backends/vulkan/map.h"
#include "ops/elementwise_attrs.h"

#include <string.h>

/* The operands over the axes of the result, joined where every operand allows it. */
typedef struct map_job {
    vulkan_map_function function;
    float p, q;
    int rank, in_count, out_count;
    int64_t dims[KIN_MAX_RANK];
    int64_t strides[VULKAN_MAP_INPUTS][KIN_MAX_RANK];
    kin_operand in[VULKAN_MAP_INPUTS]; /* the offset is used, and dtype and buffer */
    kin_operand out[VULKAN_MAP_OUTPUTS];
} map_job;

typedef struct map_push {
    uint32_t count;
    uint32_t in_first[VULKAN_MAP_INPUTS], out_first[VULKAN_MAP_OUTPUTS];
    float p, q;
    uint32_t dims[VULKAN_MAP_RANK];
    uint32_t strides[VULKAN_MAP_INPUTS][VULKAN_MAP_RANK];
} map_push;

static bool is_read(kin_dtype dtype) {
    return kin_vulkan_is_real(dtype) || dtype == KIN_I32 || dtype == KIN_U8 || dtype == KIN_BOOL;
}

static bool joins(const map_job *job, int top, const int64_t strides[VULKAN_MAP_INPUTS]) {
    for (int j = 0; j < job->in_count; j++)
        if (strides[j] != job->strides[j][top] * job->dims[top]) return false;
    return true;
}

static void reverse(int64_t *values, int count) {
    for (int i = 0; i < count / 2; i++) {
        int64_t value = values[i];
        values[i] = values[count - 1 - i];
        values[count - 1 - i] = value;
    }
}

/* Fills rank, dims and strides. A scalar gets one axis. */
static void shape_job(map_job *job) {
    const kin_desc *out = &job->out[0].desc;
    job->rank = 0;
    for (int axis = out->rank - 1; axis >= 0; axis--) {
        if (out->dims[axis] == 1) continue;
        int64_t strides[VULKAN_MAP_INPUTS] = {0};
        for (int j = 0; j < job->in_count; j++) {
            const kin_desc *in = &job->in[j].desc;
            int own = axis - (out->rank - in->rank);
            strides[j] = own < 0 || in->dims[own] == 1 ? 0 : in->strides[own];
        }
        if (job->rank > 0 && joins(job, job->rank - 1, strides)) {
            job->dims[job->rank - 1] *= out->dims[axis];
            continue;
        }
        job->dims[job->rank] = out->dims[axis];
        for (int j = 0; j < job->in_count; j++) job->strides[j][job->rank] = strides[j];
        job->rank++;
    }
    if (job->rank == 0) {
        job->dims[0] = 1;
        for (int j = 0; j < job->in_count; j++) job->strides[j][0] = 0;
        job->rank = 1;
    }
    reverse(job->dims, job->rank);
    for (int j = 0; j < job->in_count; j++) reverse(job->strides[j], job->rank);
}

static map_job job_of(vulkan_map_function function, int in_count, const kin_operand *in,
                      int out_count, const kin_operand *out) {
    map_job job = {.function = function, .in_count = in_count, .out_count = out_count};
    for (int j = 0; j < in_count; j++) job.in[j] = in[j];
    for (int j = 0; j < out_count; j++) job.out[j] = out[j];
    shape_job(&job);
    return job;
}

static int64_t count_from(const map_job *job, int first) {
    int64_t count = 1;
    for (int axis = first; axis < job->rank; axis++) count *= job->dims[axis];
    return count;
}

/* The operand as the axes of the job see it. */
static kin_operand view_of(const map_job *job, const kin_operand *operand, const int64_t *strides) {
    kin_operand view = *operand;
    int64_t stride = 1;
    view.desc.rank = job->rank;
    for (int axis = job->rank - 1; axis >= 0; axis--) {
        view.desc.dims[axis] = job->dims[axis];
        view.desc.strides[axis] = strides != NULL ? strides[axis] : stride;
        stride *= job->dims[axis];
    }
    return view;
}

static bool span_fits(const kin_vulkan_features *features, const kin_operand *view) {
    uint64_t room = features->max_range - features->binding_alignment - 8;
    return (uint64_t)kin_vulkan_span(&view->desc) <=
           room / (uint64_t)kin_dtype_size(view->desc.dtype);
}

static bool is_small(const kin_device *device, const map_job *job) {
    const kin_vulkan_features *features = kin_vulkan_features_of(device);
    kin_operand out = view_of(job, &job->out[0], NULL);
    bool fits = job->rank <= VULKAN_MAP_RANK && span_fits(features, &out) &&
                count_from(job, 0) <= INT32_MAX;
    for (int j = 0; j < job->in_count && fits; j++) {
        kin_operand in = view_of(job, &job->in[j], job->strides[j]);
        fits = span_fits(features, &in);
    }
    return fits;
}

static kin_status launch_job(kin_device *device, kin_commands *commands, const map_job *job) {
    map_push push = {.count = (uint32_t)count_from(job, 0), .p = job->p, .q = job->q};
    const bool pair = job->out_count == 2;
    const kin_dtype out_type = job->out[0].desc.dtype;
    static const kin_operand absent = {.desc = {.rank = -1}};
    kin_vulkan_work work = kin_vulkan_work_of(pair ? "map_pair" : "map", VULKAN_MAP_WIDTH);
    kin_vulkan_spec(&work, pair ? job->function - VULKAN_MAP_gated_gelu_grad : job->function);
    kin_vulkan_spec(&work, (uint32_t)job->rank);
    kin_vulkan_spec(&work, out_type);
    for (int j = 0; j < VULKAN_MAP_INPUTS; j++) {
        bool there = j < job->in_count;
        kin_operand view = there ? view_of(job, &job->in[j], job->strides[j]) : absent;
        kin_vulkan_spec(&work, there ? view.desc.dtype : KIN_F32);
        push.in_first[j] = kin_vulkan_read(device, &work, &view);
        for (int axis = 0; there && axis < job->rank; axis++)
            push.strides[j][axis] = (uint32_t)job->strides[j][axis];
    }
    for (int j = 0; j < job->out_count; j++) {
        kin_operand view = view_of(job, &job->out[j], NULL);
        push.out_first[j] = kin_vulkan_write(device, &work, &view);
    }
    for (int axis = 0; axis < job->rank; axis++) push.dims[axis] = (uint32_t)job->dims[axis];
    kin_vulkan_push(&work, &push, sizeof push);
    work.groups[0] =
        kin_vulkan_groups(push.count, 4 * VULKAN_MAP_WIDTH * (out_type == KIN_F32 ? 1 : 2));
    return kin_vulkan_launch(device, commands, &work);
}

/* The rows first .. first + rows - 1 of the outermost axis. */
static map_job part_of(const map_job *job, int64_t first, int64_t rows) {
    map_job part = *job;
    int64_t inner = count_from(job, 1);
    part.dims[0] = rows;
    for (int j = 0; j < job->in_count; j++)
        part.in[j].offset +=
            (size_t)(first * job->strides[j][0]) * kin_dtype_size(job->in[j].desc.dtype);
    for (int j = 0; j < job->out_count; j++)
        part.out[j].offset += (size_t)(first * inner) * kin_dtype_size(job->out[j].desc.dtype);
    if (rows > 1 || job->rank == 1) return part;
    part.rank--;
    memmove(part.dims, part.dims + 1, (size_t)part.rank * sizeof *part.dims);
    for (int j = 0; j < job->in_count; j++)
        memmove(part.strides[j], part.strides[j] + 1, (size_t)part.rank * sizeof **part.strides);
    return part;
}

/* Rows of a part: half of them, even in number where a part of odd length would end within a word
 * of the result; single rows where there are too many axes. 0 if there is no way. */
static int64_t part_rows(const map_job *job) {
    bool even = job->out[0].desc.dtype == KIN_F32 || count_from(job, 1) % 2 == 0;
    if (job->rank > VULKAN_MAP_RANK) return even ? 1 : 0;
    int64_t rows = (job->dims[0] + 1) / 2;
    if (!even) rows += rows % 2;
    return rows < job->dims[0] ? rows : even && job->dims[0] == 1 ? 1 : 0;
}

static kin_status run_parts(kin_device *device, kin_commands *commands, const map_job *job) {
    if (is_small(device, job)) return launch_job(device, commands, job);
    int64_t rows = part_rows(job);
    kin_status status = KIN_OK;
    if (rows == 0 || (rows == job->dims[0] && job->rank == 1))
        return kin_fail(device->context, KIN_UNSUPPORTED,
                        "%s: a tensor that cannot be split to the device's limits",
                        device->info.name);
    for (int64_t first = 0; first < job->dims[0] && status == KIN_OK; first += rows) {
        int64_t left = job->dims[0] - first;
        map_job part = part_of(job, first, left < rows ? left : rows);
        status = run_parts(device, commands, &part);
    }
    return status;
}

bool vulkan_map_can(const kin_device *device, const kin_call *call) {
    const kin_vulkan_features *features = kin_vulkan_features_of(device);
    for (int i = 0; i < call->in_count; i++)
        if (kin_vulkan_is_absent(&call->in[i]) || !is_read(call->in[i].desc.dtype)) return false;
    for (int i = 0; i < call->out_count; i++)
        if (!kin_vulkan_is_real(call->out[i].desc.dtype)) return false;
    map_job job = job_of(VULKAN_MAP_identity, call->in_count, call->in, call->out_count, call->out);
    /* A view that reaches too far need not shrink where the result is cut; a dense copy does. */
    for (int j = 0; j < job.in_count; j++) {
        kin_operand view = view_of(&job, &job.in[j], job.strides[j]);
        if (!kin_desc_is_dense(&call->in[j].desc) && !span_fits(features, &view)) return false;
    }
    for (; job.rank > VULKAN_MAP_RANK; job = part_of(&job, 0, 1))
        if (part_rows(&job) == 0) return false;
    return true;
}

kin_status vulkan_map_run(kin_device *device, kin_commands *commands, vulkan_map_function function,
                          float p, float q, int in_count, const kin_operand *in, int out_count,
                          const kin_operand *out) {
    map_job job = job_of(function, in_count, in, out_count, out);
    job.p = p;
    job.q = q;
    return count_from(&job, 0) == 0 ? KIN_OK : run_parts(device, commands, &job);
}

kin_status vulkan_map_convert(kin_device *device, kin_commands *commands, const kin_operand *in,
                              const kin_operand *out) {
    return vulkan_map_run(device, commands, VULKAN_MAP_identity, 0, 0, 1, in, 1, out);
}

/* ---- the rows ---- */

static bool can_map(const kin_device *device, const kin_call *call) {
    return vulkan_map_can(device, call);
}

static bool has_attrs(vulkan_map_function function) {
    return function == VULKAN_MAP_scale || function == VULKAN_MAP_clamp ||
           function == VULKAN_MAP_clamp_grad;
}

static kin_status launch_map(kin_device *device, kin_commands *commands, const kin_call *call,
                             vulkan_map_function function) {
    const kin_elementwise_attrs *attrs = has_attrs(function) ? call->attrs : NULL;
    return vulkan_map_run(device, commands, function, attrs != NULL ? (float)attrs->p : 0,
                          attrs != NULL ? (float)attrs->q : 0, call->in_count, call->in,
                          call->out_count, call->out);
}

#define LAUNCH(name, ...)                                                                          \
    static kin_status launch_##name(kin_device *device, kin_commands *commands,                    \
                                    const kin_call *call) {                                        \
        return launch_map(device, commands, call, VULKAN_MAP_##name);                              \
    }
#define LAUNCH_GRAD(name, ...) LAUNCH(name##_grad)

KX_UNARY(LAUNCH)
KX_UNARY(LAUNCH_GRAD)
KX_AFFINE(LAUNCH)
KX_BINARY(LAUNCH)
KX_TERNARY(LAUNCH)
KX_TERNARY_PAIR(LAUNCH)

/* The result may lie on any operand of its size: an invocation reads its elements before it writes
 * them. */
#define ROW(name, ...) {#name, "vulkan_" #name, 7, 7, can_map, NULL, launch_##name},
#define ROW_GRAD(name, ...)                                                                        \
    {#name "_grad", "vulkan_" #name "_grad", 7, 7, can_map, NULL, launch_##name##_grad},

const kin_kernel kin_vulkan_elementwise_kernels[] = {
    KX_UNARY(ROW) KX_UNARY(ROW_GRAD) KX_AFFINE(ROW) KX_BINARY(ROW) KX_TERNARY(ROW)
        KX_TERNARY_PAIR(ROW){0},
};
