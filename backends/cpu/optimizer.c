/* Kernels of the end of a training step. */
#include "backends/cpu/cpu.h"
#include "backends/cpu/optimizer_table.h"
#include "ops/optimizer_attrs.h"

#include <math.h>
#include <string.h>

enum { PART = 16384, NORM_PART = 65536 }; /* elements of one task */

static int64_t min_of(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t count_of(const kin_operand *operand) {
    return kin_desc_count(&operand->desc);
}

/* The optional scalar input `index`; 1 if it is absent. */
static float scale_of(const kin_call *call, int index) {
    if (index >= call->in_count || cpu_is_absent(&call->in[index])) return 1.0f;
    return *(const float *)cpu_data(&call->in[index]);
}

static bool skips(float scale) {
    return scale == 0.0f || !isfinite(scale);
}

/* out = in; nothing to do where they are the same memory. */
static void keep(const kin_operand *in, const kin_operand *out) {
    if (cpu_data(in) != cpu_data(out))
        memcpy(cpu_data(out), cpu_data(in), kin_desc_bytes(&out->desc));
}

/* lr, step and scale are inputs lr_at and the two behind it; what `data` lacks is filled in. */
static kin_status step_of(kin_device *device, const kin_call *call, const kin_adamw_attrs *attrs,
                          int lr_at, cpu_adamw_data data) {
    double lr = *(const float *)cpu_data(&call->in[lr_at]);
    int64_t number = *(const int64_t *)cpu_data(&call->in[lr_at + 1]);
    float scale = scale_of(call, lr_at + 2);
    if (skips(scale)) {
        for (int j = 0; j < call->out_count; j++)
            keep(&call->in[j == 0 ? 0 : j + 1], &call->out[j]);
        return KIN_OK;
    }
    if (number < 1)
        return kin_fail(device->context, KIN_INVALID, "%s: step %lld; steps are counted from 1",
                        call->op, (long long)number);
    data.p = cpu_data(&call->in[0]), data.p_out = cpu_data(&call->out[0]);
    data.gradient = cpu_data(&call->in[1]);
    data.m = cpu_data(&call->in[2]), data.m_out = cpu_data(&call->out[1]);
    data.v = cpu_data(&call->in[3]), data.v_out = cpu_data(&call->out[2]);
    cpu_adamw_step step = {
        .gradient_scale = scale,
        .decay = (float)(1 - lr * attrs->weight_decay),
        .keep1 = (float)attrs->beta1,
        .take1 = (float)(1 - attrs->beta1),
        .keep2 = (float)attrs->beta2,
        .take2 = (float)(1 - attrs->beta2),
        .rate = (float)(lr / (1 - pow(attrs->beta1, (double)number))),
        .root_scale = (float)(1 / sqrt(1 - pow(attrs->beta2, (double)number))),
        .eps = (float)attrs->eps,
    };
    int64_t count = count_of(&call->out[0]);
    const cpu_optimizer_table *table = &CPU_PICK(cpu_optimizer);
#pragma omp parallel for schedule(static) num_threads(cpu_threads_for(device, count))
    for (int64_t i = 0; i < count; i += PART)
        table->adamw(&step, &data, i, min_of(i + PART, count));
    return KIN_OK;
}

static kin_status adamw(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)commands;
    return step_of(device, call, call->attrs, 4, (cpu_adamw_data){.average = NULL});
}

static kin_status adamw_ema(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)commands;
    const kin_adamw_ema_attrs *attrs = call->attrs;
    return step_of(device, call, &attrs->adamw, 5,
                   (cpu_adamw_data){.average = cpu_data(&call->in[4]),
                                    .average_out = cpu_data(&call->out[3]),
                                    .average_weight = (float)(1 - attrs->decay)});
}

static kin_status ema(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)device;
    (void)commands;
    const kin_ema_attrs *attrs = call->attrs;
    const float *average = cpu_data(&call->in[0]), *p = cpu_data(&call->in[1]);
    float *out = cpu_data(&call->out[0]);
    int64_t count = count_of(&call->out[0]);
    if (skips(scale_of(call, 2))) {
        keep(&call->in[0], &call->out[0]);
        return KIN_OK;
    }
    const cpu_optimizer_table *table = &CPU_PICK(cpu_optimizer);
#pragma omp parallel for schedule(static) num_threads(cpu_threads_for(device, count))
    for (int64_t i = 0; i < count; i += PART)
        table->blend(average, p, (float)(1 - attrs->decay), out, i, min_of(i + PART, count));
    return KIN_OK;
}

static kin_status accumulate(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)device;
    (void)commands;
    const float *sum = cpu_data(&call->in[0]), *x = cpu_data(&call->in[1]);
    float *out = cpu_data(&call->out[0]);
    int64_t count = count_of(&call->out[0]);
    const cpu_optimizer_table *table = &CPU_PICK(cpu_optimizer);
#pragma omp parallel for schedule(static) num_threads(cpu_threads_for(device, count))
    for (int64_t i = 0; i < count; i += PART) table->add(sum, x, out, i, min_of(i + PART, count));
    return KIN_OK;
}

/* Any storage type. */
static bool can_assign(const kin_device *device, const kin_call *call) {
    (void)device;
    return call->in[1].desc.dtype == call->out[0].desc.dtype;
}

static kin_status assign(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)device;
    (void)commands;
    const unsigned char *x = cpu_data(&call->in[1]);
    unsigned char *out = cpu_data(&call->out[0]);
    int64_t bytes = (int64_t)kin_desc_bytes(&call->out[0].desc);
    if (x == out) return KIN_OK;
#pragma omp parallel for schedule(static) num_threads(cpu_threads_for(device, bytes / 4))
    for (int64_t i = 0; i < bytes; i += PART)
        memcpy(out + i, x + i, (size_t)min_of(PART, bytes - i));
    return KIN_OK;
}

static int64_t norm_parts(const kin_operand *operand) {
    return (count_of(operand) + NORM_PART - 1) / NORM_PART;
}

static size_t norm_scratch(const kin_device *device, const kin_call *call) {
    (void)device;
    int64_t parts = 1;
    for (int i = 0; i < call->in_count; ++i)
        if (norm_parts(&call->in[i]) > parts) parts = norm_parts(&call->in[i]);
    return (size_t)parts * sizeof(double);
}

/* Each part is summed alone, and the parts in order, so that the number of threads does not
 * matter. */
static void norm_of_parts(const kin_operand *in, double *sums, int threads) {
    const cpu_optimizer_table *table = &CPU_PICK(cpu_optimizer);
    const float *x = cpu_data(in);
    int64_t count = count_of(in), parts = norm_parts(in);
    (void)threads; /* without OpenMP */
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t part = 0; part < parts; ++part) {
        int64_t first = part * NORM_PART;
        sums[part] = table->squares(x + first, min_of(NORM_PART, count - first));
    }
}

static kin_status global_norm(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)commands;
    double *sums = cpu_scratch(call), total = 0;
    for (int i = 0; i < call->in_count; ++i) {
        int64_t parts = norm_parts(&call->in[i]);
        norm_of_parts(&call->in[i], sums, parts > 1 ? cpu_threads(device) : 1);
        for (int64_t part = 0; part < parts; ++part) total += sums[part];
    }
    *(float *)cpu_data(&call->out[0]) = (float)sqrt(total);
    return KIN_OK;
}

static kin_status clip_scale(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)device;
    (void)commands;
    const kin_clip_scale_attrs *attrs = call->attrs;
    double norm = *(const float *)cpu_data(&call->in[0]);
    double scale = attrs->max_norm / (norm + 1e-6);
    *(float *)cpu_data(&call->out[0]) = !isfinite(norm) ? 0.0f : scale < 1 ? (float)scale : 1.0f;
    return KIN_OK;
}

const kin_kernel cpu_optimizer_kernels[] = {
    {"adamw", "cpu_adamw", 0, 1, NULL, NULL, adamw},
    {"adamw_ema", "cpu_adamw_ema", 0, 1, NULL, NULL, adamw_ema},
    {"ema", "cpu_ema", 0, 1, NULL, NULL, ema},
    {"accumulate", "cpu_accumulate", 0, 1, NULL, NULL, accumulate},
    {"assign", "cpu_assign", 0, 1, can_assign, NULL, assign},
    {"global_norm", "cpu_global_norm", 0, 0, NULL, norm_scratch, global_norm},
    {"clip_scale", "cpu_clip_scale", 0, 1, NULL, NULL, clip_scale},
    {0},
};
