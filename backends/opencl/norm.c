/* Kernels of layer norm, its modulated form, RMS norm, and their gradients. */
#include "backends/opencl/shape.h"
#include "ops/norm_attrs.h"

#include <stdio.h>
#include <string.h>

enum { KEPT = 5, CHUNK_ROWS = 32, MOST_CHUNKS = 64 };

/* What the ops of the family have in common. Absent operands are NULL. */
typedef struct norm_job {
    const kin_operand *dy, *x, *factor, *added;
    int64_t width, rows, samples, sample_rows; /* rows = samples * sample_rows */
    int64_t factor_stride, added_stride;       /* from sample to sample */
    bool centred, plus_one;
    double eps;
} norm_job;

static bool rows_are_dense(const kin_device *device, const kin_call *call) {
    if (!kin_opencl_can_real(device, call)) return false;
    for (int i = 0; i < call->in_count; i++)
        if (kin_opencl_has(call, i) && !opencl_rows_are_dense(&call->in[i].desc)) return false;
    return true;
}

static const kin_operand *operand_or_null(const kin_call *call, int index) {
    return kin_opencl_has(call, index) ? &call->in[index] : NULL;
}

static norm_job job_of(const kin_call *call, int x_index, bool centred) {
    const kin_norm_attrs *attrs = call->attrs;
    const kin_operand *x = &call->in[x_index];
    norm_job job = {.x = x, .samples = 1, .centred = centred, .eps = attrs->eps};
    job.width = opencl_row_width(&x->desc);
    job.rows = job.sample_rows = opencl_row_count(&x->desc);
    job.dy = x_index > 0 ? &call->in[0] : NULL;
    return job;
}

static int64_t sample_stride(const kin_operand *operand) {
    return operand->desc.dims[0] == 1 ? 0 : operand->desc.strides[0];
}

/* x [B, N, C] with a factor (and a shift) for each sample, or one for all. */
static void modulated(norm_job *job, const kin_operand *factor, const kin_operand *added) {
    job->plus_one = true;
    job->factor = factor;
    job->added = added;
    job->sample_rows = job->x->desc.dims[1];
    job->samples = job->x->desc.dims[0];
    job->factor_stride = sample_stride(factor);
    if (added != NULL) job->added_stride = sample_stride(added);
}

static const char *type_or(const kin_operand *operand) {
    return operand != NULL ? kin_opencl_type(operand) : "f32";
}

static void set_defines(const norm_job *job, const kin_operand *out, const char *more, char *text,
                        size_t size) {
    snprintf(text, size,
             "-DX=%s -DD=%s -DW=%s -DB=%s -DY=%s -DCENTRED=%d -DFACTOR=%d -DADDED=%d %s",
             type_or(job->x), type_or(job->dy), type_or(job->factor), type_or(job->added),
             type_or(out), job->centred,
             job->factor == NULL ? 0
             : job->plus_one     ? 2
                                 : 1,
             job->added != NULL, more);
}

static void set_vector(kin_opencl_launch *launch, const kin_operand *vector, int64_t stride) {
    static const kin_operand none = {.desc = {.rank = -1}};
    kin_opencl_set_operand(launch, vector != NULL ? vector : &none);
    kin_opencl_set_int(launch, stride);
}

static void set_view(kin_opencl_launch *launch, const kin_operand *operand) {
    kin_opencl_set_operand(launch, operand);
    opencl_set_rows(launch, &operand->desc);
}

/* ---- forward ---- */

static kin_status forward(kin_device *device, kin_commands *commands, const kin_call *call,
                          const norm_job *job) {
    char defines[256];
    size_t group;
    set_defines(job, &call->out[0], "-DFORWARD", defines, sizeof defines);
    kin_opencl_launch launch =
        opencl_start_rows(device, commands, "rows norm", defines, "norm", job->width, 1, &group);
    set_view(&launch, job->x);
    set_vector(&launch, job->factor, job->factor_stride);
    set_vector(&launch, job->added, job->added_stride);
    kin_opencl_set_operand(&launch, &call->out[0]);
    kin_opencl_set_int(&launch, job->width);
    kin_opencl_set_int(&launch, job->sample_rows);
    kin_opencl_set_float(&launch, job->eps);
    return opencl_finish_rows(&launch, job->rows, group);
}

static kin_status layer_norm(kin_device *device, kin_commands *commands, const kin_call *call) {
    norm_job job = job_of(call, 0, true);
    job.factor = operand_or_null(call, 1);
    job.added = operand_or_null(call, 2);
    return forward(device, commands, call, &job);
}

static kin_status rms_norm(kin_device *device, kin_commands *commands, const kin_call *call) {
    norm_job job = job_of(call, 0, false);
    job.factor = operand_or_null(call, 1);
    return forward(device, commands, call, &job);
}

static kin_status modulate(kin_device *device, kin_commands *commands, const kin_call *call) {
    norm_job job = job_of(call, 0, true);
    modulated(&job, &call->in[2], &call->in[1]);
    return forward(device, commands, call, &job);
}

/* ---- backward ---- */

/* Vectors' gradients are summed over the rows of a sample, or over all rows. */
static void sum_ranges(const norm_job *job, int64_t *out_samples, int64_t *out_rows,
                       int64_t *out_chunks) {
    bool apart = job->plus_one && job->factor->desc.dims[0] != 1;
    *out_samples = apart ? job->samples : 1;
    *out_rows = job->rows / *out_samples;
    *out_chunks = (*out_rows + CHUNK_ROWS - 1) / CHUNK_ROWS;
    if (*out_chunks > MOST_CHUNKS) *out_chunks = MOST_CHUNKS;
}

static size_t kept_bytes(const norm_job *job) {
    return ((size_t)job->rows * KEPT * sizeof(float) + 63) / 64 * 64;
}

static size_t scratch_of(const norm_job *job) {
    int64_t samples, rows, chunks;
    sum_ranges(job, &samples, &rows, &chunks);
    return kept_bytes(job) + (size_t)(samples * chunks * 2 * job->width) * sizeof(float);
}

static kin_status row_means(kin_device *device, kin_commands *commands, const kin_call *call,
                            const norm_job *job, const char *defines) {
    size_t group;
    kin_opencl_launch launch = opencl_start_rows(device, commands, "rows norm", defines,
                                                 "norm_means", job->width, 1, &group);
    set_view(&launch, job->dy);
    set_view(&launch, job->x);
    set_vector(&launch, job->factor, job->factor_stride);
    kin_opencl_set_scratch(&launch, call, 0, sizeof(float));
    kin_opencl_set_int(&launch, job->width);
    kin_opencl_set_int(&launch, job->sample_rows);
    kin_opencl_set_float(&launch, job->eps);
    return opencl_finish_rows(&launch, job->rows, group);
}

static kin_status column_sums(kin_device *device, kin_commands *commands, const kin_call *call,
                              const norm_job *job, const char *defines) {
    const int64_t v = kin_opencl_of(device)->vector;
    int64_t samples, rows, chunks;
    char options[288];
    sum_ranges(job, &samples, &rows, &chunks);
    int64_t items = samples * chunks * ((job->width + v - 1) / v);
    snprintf(options, sizeof options, "%s -DGROUP=1", defines);
    kin_opencl_launch launch =
        kin_opencl_start(device, commands, "rows norm", options, "norm_columns");
    set_view(&launch, job->dy);
    set_view(&launch, job->x);
    kin_opencl_set_scratch(&launch, call, 0, sizeof(float));
    kin_opencl_set_scratch(&launch, call, kept_bytes(job), sizeof(float));
    kin_opencl_set_int(&launch, job->width);
    kin_opencl_set_int(&launch, rows);
    kin_opencl_set_int(&launch, chunks);
    kin_opencl_set_int(&launch, items);
    return kin_opencl_finish_items(&launch, items);
}

static kin_status row_gradients(kin_device *device, kin_commands *commands, const kin_call *call,
                                const norm_job *job, const char *defines) {
    size_t group;
    kin_opencl_launch launch =
        opencl_start_rows(device, commands, "rows norm", defines, "norm_dx", job->width, 1, &group);
    set_view(&launch, job->dy);
    set_view(&launch, job->x);
    set_vector(&launch, job->factor, job->factor_stride);
    kin_opencl_set_scratch(&launch, call, 0, sizeof(float));
    kin_opencl_set_operand(&launch, &call->out[0]);
    kin_opencl_set_int(&launch, job->width);
    kin_opencl_set_int(&launch, job->sample_rows);
    return opencl_finish_rows(&launch, job->rows, group);
}

/* dot: the gradient of the factor; sum: that of what is added, or NULL. */
static kin_status vector_gradients(kin_device *device, kin_commands *commands, const kin_call *call,
                                   const norm_job *job, const kin_operand *dot,
                                   const kin_operand *sum) {
    int64_t samples, rows, chunks;
    char defines[96];
    sum_ranges(job, &samples, &rows, &chunks);
    snprintf(defines, sizeof defines, "-DW=%s -DB=%s -DBOTH=%d", type_or(dot), type_or(sum),
             sum != NULL);
    kin_opencl_launch launch =
        kin_opencl_start(device, commands, "norm_vectors", defines, "norm_vectors");
    kin_opencl_set_scratch(&launch, call, kept_bytes(job), sizeof(float));
    kin_opencl_set_operand(&launch, dot);
    if (sum != NULL) kin_opencl_set_operand(&launch, sum);
    kin_opencl_set_int(&launch, job->width);
    kin_opencl_set_int(&launch, chunks);
    kin_opencl_set_int(&launch, samples * job->width);
    return kin_opencl_finish_items(&launch, samples * job->width);
}

/* dx may lie on dy or x, so it is written after the columns have been summed. */
static kin_status backward(kin_device *device, kin_commands *commands, const kin_call *call,
                           const norm_job *job, const kin_operand *dot, const kin_operand *sum) {
    char defines[256];
    set_defines(job, &call->out[0], "-DBACKWARD", defines, sizeof defines);
    kin_status status = row_means(device, commands, call, job, defines);
    if (status == KIN_OK) status = column_sums(device, commands, call, job, defines);
    if (status == KIN_OK) status = row_gradients(device, commands, call, job, defines);
    if (status == KIN_OK) status = vector_gradients(device, commands, call, job, dot, sum);
    return status;
}

static norm_job layer_norm_grad_job(const kin_call *call) {
    norm_job job = job_of(call, 1, true);
    job.factor = operand_or_null(call, 2);
    return job;
}

static norm_job rms_norm_grad_job(const kin_call *call) {
    norm_job job = job_of(call, 1, false);
    job.factor = operand_or_null(call, 2);
    return job;
}

static norm_job modulate_grad_job(const kin_call *call) {
    norm_job job = job_of(call, 1, true);
    modulated(&job, &call->in[2], NULL);
    return job;
}

static size_t layer_norm_scratch(const kin_device *device, const kin_call *call) {
    (void)device;
    norm_job job = layer_norm_grad_job(call);
    return scratch_of(&job);
}

static size_t modulate_scratch(const kin_device *device, const kin_call *call) {
    (void)device;
    norm_job job = modulate_grad_job(call);
    return scratch_of(&job);
}

static kin_status layer_norm_grad(kin_device *device, kin_commands *commands,
                                  const kin_call *call) {
    norm_job job = layer_norm_grad_job(call);
    return backward(device, commands, call, &job, &call->out[1], &call->out[2]);
}

static kin_status rms_norm_grad(kin_device *device, kin_commands *commands, const kin_call *call) {
    norm_job job = rms_norm_grad_job(call);
    return backward(device, commands, call, &job, &call->out[1], NULL);
}

static kin_status modulate_grad(kin_device *device, kin_commands *commands, const kin_call *call) {
    norm_job job = modulate_grad_job(call);
    return backward(device, commands, call, &job, &call->out[2], &call->out[1]);
}

const kin_kernel kin_opencl_norm_kernels[] = {
    {"layer_norm", "opencl_layer_norm", 1, 1, rows_are_dense, NULL, layer_norm},
    {"layer_norm_grad", "opencl_layer_norm_grad", 3, 3, rows_are_dense, layer_norm_scratch,
     layer_norm_grad},
    {"layer_norm_modulate", "opencl_layer_norm_modulate", 7, 1, rows_are_dense, NULL, modulate},
    {"layer_norm_modulate_grad", "opencl_layer_norm_modulate_grad", 7, 3, rows_are_dense,
     modulate_scratch, modulate_grad},
    {"rms_norm", "opencl_rms_norm", 1, 1, rows_are_dense, NULL, rms_norm},
    {"rms_norm_grad", "opencl_rms_norm_grad", 3, 3, rows_are_dense, layer_norm_scratch,
     rms_norm_grad},
    {0},
};
