/* Kernels of group norm and of its gradient. */
#include "backends/opencl/shape.h"
#include "ops/norm_attrs.h"

#include <stdio.h>

enum { PART_ELEMENTS = 4096, MOST_PARTS = 64 };

typedef struct group_job {
    const kin_operand *dy, *x, *weight, *bias;
    int64_t samples, channels, positions, group_channels, groups; /* groups: of all samples */
    int64_t length, parts;                                        /* of a group */
    size_t means_at, kept_at, partial_at, plane_at, bytes;        /* scratch memory */
    double eps;
    bool silu;
} group_job;

static size_t placed(size_t *bytes, int64_t floats) {
    size_t at = *bytes;
    *bytes += ((size_t)floats * sizeof(float) + 63) / 64 * 64;
    return at;
}

static group_job job_of(const kin_call *call, int x_index) {
    const kin_group_norm_attrs *attrs = call->attrs;
    group_job job = {.x = &call->in[x_index], .eps = attrs->eps, .silu = attrs->silu != 0};
    const kin_desc *x = &job.x->desc;
    job.dy = x_index > 0 ? &call->in[0] : NULL;
    job.weight = &call->in[x_index + 1];
    job.bias = &call->in[x_index + 2];
    job.samples = x->dims[0];
    job.channels = x->dims[1];
    job.positions = 1;
    for (int a = 2; a < x->rank; a++) job.positions *= x->dims[a];
    job.group_channels = job.channels / attrs->groups;
    job.groups = job.samples * attrs->groups;
    job.length = job.group_channels * job.positions;
    job.parts = job.length / PART_ELEMENTS;
    if (job.parts > MOST_PARTS) job.parts = MOST_PARTS;
    if (job.parts < 1) job.parts = 1;
    job.means_at = placed(&job.bytes, job.groups);
    job.kept_at = placed(&job.bytes, 3 * job.groups);
    job.partial_at = placed(&job.bytes, 2 * job.groups * job.parts);
    if (job.dy != NULL) job.plane_at = placed(&job.bytes, 2 * job.samples * job.channels);
    return job;
}

static void set_defines(const group_job *job, const kin_operand *out, char *text, size_t size) {
    snprintf(text, size, "-DX=%s -DD=%s -DW=%s -DB=%s -DY=%s -DSILU=%d%s", kin_opencl_type(job->x),
             job->dy != NULL ? kin_opencl_type(job->dy) : "f32", kin_opencl_type(job->weight),
             kin_opencl_type(job->bias), kin_opencl_type(out), job->silu,
             job->dy != NULL ? " -DBACKWARD" : "");
}

static void set_floats(kin_opencl_launch *launch, const kin_call *call, size_t at) {
    kin_opencl_set_scratch(launch, call, at, sizeof(float));
}

#define PARTS "rows elementwise_expr group_norm"

/* One pass over x: the means, then the rest of the mean and the scale. */
static kin_status pass(kin_device *device, kin_commands *commands, const kin_call *call,
                       const group_job *job, const char *defines, bool second) {
    size_t group;
    char options[256];
    kin_opencl_launch launch = opencl_start_rows(device, commands, PARTS, defines, "group_sums",
                                                 job->length / job->parts, 1, &group);
    kin_opencl_set_operand(&launch, job->x);
    set_floats(&launch, call, job->means_at);
    set_floats(&launch, call, job->partial_at);
    kin_opencl_set_int(&launch, job->length);
    kin_opencl_set_int(&launch, job->parts);
    kin_opencl_set_int(&launch, second);
    kin_status status = opencl_finish_rows(&launch, job->groups * job->parts, group);
    if (status != KIN_OK) return status;
    snprintf(options, sizeof options, "%s -DGROUP=%zu", defines, group);
    launch = kin_opencl_start(device, commands, PARTS, options, "group_finish");
    set_floats(&launch, call, job->partial_at);
    set_floats(&launch, call, job->means_at);
    set_floats(&launch, call, job->kept_at);
    kin_opencl_set_int(&launch, job->length);
    kin_opencl_set_int(&launch, job->parts);
    kin_opencl_set_int(&launch, second);
    kin_opencl_set_float(&launch, job->eps);
    kin_opencl_set_int(&launch, job->groups);
    return kin_opencl_finish_items(&launch, job->groups);
}

static kin_status statistics(kin_device *device, kin_commands *commands, const kin_call *call,
                             const group_job *job, const char *defines) {
    kin_status status = pass(device, commands, call, job, defines, false);
    return status == KIN_OK ? pass(device, commands, call, job, defines, true) : status;
}

static void set_planes(kin_opencl_launch *launch, const group_job *job) {
    kin_opencl_set_int(launch, job->channels);
    kin_opencl_set_int(launch, job->group_channels);
    kin_opencl_set_int(launch, job->positions);
}

static kin_status group_norm(kin_device *device, kin_commands *commands, const kin_call *call) {
    group_job job = job_of(call, 0);
    char defines[192];
    size_t group;
    set_defines(&job, &call->out[0], defines, sizeof defines);
    kin_status status = statistics(device, commands, call, &job, defines);
    if (status != KIN_OK) return status;
    kin_opencl_launch launch = opencl_start_rows(device, commands, PARTS, defines, "group_apply",
                                                 job.positions, 1, &group);
    kin_opencl_set_operand(&launch, job.x);
    kin_opencl_set_operand(&launch, job.weight);
    kin_opencl_set_operand(&launch, job.bias);
    set_floats(&launch, call, job.kept_at);
    kin_opencl_set_operand(&launch, &call->out[0]);
    set_planes(&launch, &job);
    return opencl_finish_rows(&launch, job.samples * job.channels, group);
}

/* `planes` comes before the result where `out` is there, and is the result where it is not. */
static kin_status over_planes(kin_device *device, kin_commands *commands, const kin_call *call,
                              const group_job *job, const char *defines, const char *kernel,
                              const kin_operand *out) {
    size_t group;
    kin_opencl_launch launch =
        opencl_start_rows(device, commands, PARTS, defines, kernel, job->positions, 1, &group);
    kin_opencl_set_operand(&launch, job->dy);
    kin_opencl_set_operand(&launch, job->x);
    kin_opencl_set_operand(&launch, job->weight);
    kin_opencl_set_operand(&launch, job->bias);
    set_floats(&launch, call, job->kept_at);
    set_floats(&launch, call, job->plane_at);
    if (out != NULL) kin_opencl_set_operand(&launch, out);
    set_planes(&launch, job);
    return opencl_finish_rows(&launch, job->samples * job->channels, group);
}

static kin_status group_norm_grad(kin_device *device, kin_commands *commands,
                                  const kin_call *call) {
    group_job job = job_of(call, 1);
    char defines[192], options[224];
    set_defines(&job, &call->out[0], defines, sizeof defines);
    kin_status status = statistics(device, commands, call, &job, defines);
    if (status == KIN_OK)
        status = over_planes(device, commands, call, &job, defines, "plane_sums", NULL);
    if (status == KIN_OK)
        status = over_planes(device, commands, call, &job, defines, "group_dx", &call->out[0]);
    if (status != KIN_OK) return status;
    snprintf(options, sizeof options, "%s -DGROUP=1", defines);
    kin_opencl_launch launch = kin_opencl_start(device, commands, PARTS, options, "channel_sums");
    set_floats(&launch, call, job.plane_at);
    kin_opencl_set_operand(&launch, &call->out[1]);
    kin_opencl_set_operand(&launch, &call->out[2]);
    kin_opencl_set_int(&launch, job.channels);
    kin_opencl_set_int(&launch, job.samples);
    return kin_opencl_finish_items(&launch, job.channels);
}

static size_t forward_scratch(const kin_device *device, const kin_call *call) {
    (void)device;
    return job_of(call, 0).bytes;
}

static size_t backward_scratch(const kin_device *device, const kin_call *call) {
    (void)device;
    return job_of(call, 1).bytes;
}

const kin_kernel kin_opencl_group_norm_kernels[] = {
    {"group_norm", "opencl_group_norm", 0, 1, kin_opencl_can_real, forward_scratch, group_norm},
    {"group_norm_grad", "opencl_group_norm_grad", 0, 3, kin_opencl_can_real, backward_scratch,
     group_norm_grad},
    {0},
};
