/* The backend table: one device, and ranges of calls that become streams of instructions. */
#include "npu.h"

#include <stdio.h>

/* What the device says of its products. A test lies here, and must be refused. */
#ifndef NPU_PRODUCTS
#define NPU_PRODUCTS KIN_BF16
#endif

static int count_devices(kin_context *context, const char **out_why) {
    (void)context;
    if (out_why) *out_why = NULL;
    return 1;
}

static void close_device(kin_device *device) {
    npu_state *state = device->state;
    if (!state) return;
    kin_free(device->context, state->scratchpad);
    kin_free(device->context, state->work);
    kin_free(device->context, state);
    device->state = NULL;
}

static kin_status open_device(kin_device *device, int index) {
    (void)index;
    npu_state *state = kin_calloc(device->context, 1, sizeof *state);
    if (!state) return KIN_OUT_OF_MEMORY;
    device->state = state;
    state->scratchpad = kin_calloc(device->context, 1, NPU_SCRATCHPAD);
    state->work = kin_alloc(device->context,
                            sizeof(float) * NPU_BLOCK_K * (size_t)(NPU_BLOCK_M + NPU_BLOCK_N));
    if (!state->scratchpad || !state->work) {
        close_device(device);
        return KIN_OUT_OF_MEMORY;
    }
    kin_device_info *info = &device->info;
    snprintf(info->name, sizeof info->name, "npu");
    snprintf(info->description, sizeof info->description,
             "simulated NPU: %dx%dx%d bf16 matrix unit, %d f32 lanes, %d KiB scratchpad, 1 GHz",
             NPU_TILE, NPU_TILE, NPU_TILE, NPU_LANES, NPU_SCRATCHPAD / 1024);
    info->memory_total = info->memory_free = NPU_MEMORY;
    info->max_allocation = NPU_MAX_ALLOCATION;
    info->alignment = NPU_ALIGNMENT;
    info->dtypes = 1u << KIN_F32 | 1u << KIN_BF16 | 1u << KIN_I32 | 1u << KIN_I64 | 1u << KIN_U8 |
                   1u << KIN_BOOL;
    info->threads = 1;
    info->product_dtype = NPU_PRODUCTS;
    info->simulated = true;
    return KIN_OK;
}

static const kin_kernel *kernel_at(const kin_device *device, size_t index) {
    (void)device;
    const npu_row *row = npu_row_at(index);
    return row ? &row->kernel : NULL;
}

/* ---- work ---- */

static kin_status begin(kin_device *device, kin_commands **out_commands) {
    *out_commands = kin_calloc(device->context, 1, sizeof **out_commands);
    return *out_commands ? KIN_OK : KIN_OUT_OF_MEMORY;
}

static kin_status record(kin_device *device, kin_commands *commands, const kin_kernel *kernel,
                         const kin_call *call) {
    (void)commands, (void)kernel;
    return kin_fail(device->context, KIN_UNSUPPORTED,
                    "npu: %s alone: this device takes ranges that are compiled", call->op);
}

static kin_status compile(kin_device *device, kin_commands *commands,
                          const kin_kernel *const *kernels, const kin_call *calls, size_t count) {
    kin_call_counters *all = kin_realloc(device->context, commands->calls,
                                         (commands->call_count + count + 1) * sizeof *all);
    if (!all) return KIN_OUT_OF_MEMORY;
    commands->calls = all;
    npu_compiler compiler = {.device = device, .commands = commands};
    for (size_t i = 0; i < count && compiler.status == KIN_OK; i++) {
        compiler.report = &all[commands->call_count++];
        *compiler.report = (kin_call_counters){.cycles = 0};
        ((const npu_row *)kernels[i])->build(&compiler, &calls[i]);
        npu_end_call(&compiler);
    }
    return compiler.status;
}

static kin_status end(kin_device *device, kin_commands *commands) {
    (void)device, (void)commands;
    return KIN_OK;
}

/* The simulation runs at once. */
static kin_status submit(kin_device *device, kin_commands *commands) {
    npu_interpret(device->state, commands);
    return KIN_OK;
}

static kin_status wait_for(kin_device *device) {
    (void)device;
    return KIN_OK;
}

static void discard(kin_device *device, kin_commands *commands) {
    if (!commands) return;
    kin_free(device->context, commands->list);
    kin_free(device->context, commands->calls);
    kin_free(device->context, commands);
}

static kin_status counters(kin_device *device, kin_commands *commands,
                           kin_call_counters *out_counters, size_t count) {
    if (count != commands->call_count)
        return kin_fail(device->context, KIN_INVALID, "npu: counters of %zu calls, there are %zu",
                        count, commands->call_count);
    for (size_t i = 0; i < count; i++) out_counters[i] = commands->calls[i];
    return KIN_OK;
}

static kin_status timestamps(kin_device *device, kin_commands *commands, double *out_seconds,
                             size_t count) {
    if (count != commands->call_count)
        return kin_fail(device->context, KIN_INVALID, "npu: times of %zu calls, there are %zu",
                        count, commands->call_count);
    for (size_t i = 0; i < count; i++) out_seconds[i] = commands->calls[i].cycles / NPU_HERTZ;
    return KIN_OK;
}

static const kin_backend npu_backend = {
    .abi = KIN_BACKEND_ABI,
    .struct_size = sizeof(kin_backend),
    .name = "npu",
    .count = count_devices,
    .open = open_device,
    .close = close_device,
    .kernel = kernel_at,
    .allocate = npu_allocate,
    .release = npu_release,
    .upload = npu_upload,
    .download = npu_download,
    .copy = npu_copy,
    .fill = npu_fill,
    .begin = begin,
    .record = record,
    .end = end,
    .submit = submit,
    .wait = wait_for,
    .discard = discard,
    .timestamps = timestamps,
    .compile = compile,
    .counters = counters,
};

KIN_API const kin_backend *kin_backend_get(uint32_t abi);

const kin_backend *kin_backend_get(uint32_t abi) {
    return abi == KIN_BACKEND_ABI ? &npu_backend : NULL;
}
