/* Kernels of random draws. */
#include "backends/cpu/cpu.h"
#include "backends/cpu/random_table.h"
#include "ops/random_attrs.h"

static kin_status draw(kin_device *device, const kin_call *call, cpu_random_fill *fill) {
    (void)device; /* without OpenMP */
    const kin_random_attrs *attrs = call->attrs;
    const int64_t *seed = cpu_data(&call->in[0]);
    float *out = cpu_data(&call->out[0]);
    int64_t count = kin_desc_count(&call->out[0].desc);
#pragma omp parallel for schedule(static) num_threads(cpu_threads_for(device, count))
    for (int64_t first = 0; first < count; first += CPU_RANDOM_STEP) {
        int64_t part = count - first < CPU_RANDOM_STEP ? count - first : CPU_RANDOM_STEP;
        fill((uint64_t)seed[0], attrs->stream, (uint64_t)seed[1], (uint64_t)first, part,
             out + first);
    }
    return KIN_OK;
}

static kin_status random_normal(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)commands;
    return draw(device, call, CPU_PICK(cpu_random).normal);
}

static kin_status random_uniform(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)commands;
    return draw(device, call, CPU_PICK(cpu_random).uniform);
}

const kin_kernel cpu_random_kernels[] = {
    {"random_normal", "cpu_random_normal", 0, 0, NULL, NULL, random_normal},
    {"random_uniform", "cpu_random_uniform", 0, 0, NULL, NULL, random_uniform},
    {0},
};
