/* The table: memory and lists are the CPU backend's; rows for products and convolutions stand in
 * front of its own. */
#include "backends/onednn/onednn.h"

#include "runtime/device.h"

#include <stdio.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

/* A list of the CPU backend, with what is ours in it. */
struct kin_commands {
    kin_commands *inner;
    odn_step **steps;
    size_t step_count, step_room;
    const kin_buffer **written; /* by any call of the list; each once */
    size_t written_count, written_room;
};

static odn_state *state_of(const kin_device *device) {
    return device->state;
}

static int count_devices(kin_context *context, const char **out_why) {
    (void)context;
    if (out_why) *out_why = NULL;
    return 1;
}

static void close_device(kin_device *device) {
    odn_state *state = state_of(device);
    if (!state) return;
    if (state->stream) dnnl_stream_destroy(state->stream);
    if (state->engine) dnnl_engine_destroy(state->engine);
    if (state->cpu.state) kin_backend_cpu.close(&state->cpu);
    kin_free(device->context, state);
    device->state = NULL;
}

static kin_status open_device(kin_device *device, int index) {
    (void)index;
    odn_state *state = kin_calloc(device->context, 1, sizeof *state);
    if (!state) return KIN_OUT_OF_MEMORY;
    device->state = state;
    state->cpu.backend = &kin_backend_cpu;
    state->cpu.context = device->context;
    const char *all = kin_context_setting(device->context, "onednn.all");
    state->all = all && strcmp(all, "1") == 0;
    kin_status status = kin_backend_cpu.open(&state->cpu, 0);
    if (status == KIN_OK &&
        (dnnl_engine_create(&state->engine, dnnl_cpu, 0) != dnnl_success ||
         dnnl_stream_create(&state->stream, state->engine, dnnl_stream_in_order) != dnnl_success))
        status = kin_fail(device->context, KIN_DEVICE, "onednn: it makes no engine here");
    if (status != KIN_OK) {
        close_device(device);
        return status;
    }
    const dnnl_version_t *version = dnnl_version();
    device->info = state->cpu.info;
    snprintf(device->info.name, sizeof device->info.name, "onednn");
    snprintf(device->info.description, sizeof device->info.description, "oneDNN %d.%d.%d on %.120s",
             version->major, version->minor, version->patch, state->cpu.info.description);
    return KIN_OK;
}

/* ---- kernels ---- */

static bool can(const kin_device *device, const kin_call *call) {
    odn_mapping map;
    dnnl_primitive_desc_t described;
    if (!odn_map(state_of(device), call, false, &map)) return false;
    bool good = odn_describe(state_of(device)->engine, &map.request, &described);
    if (good) dnnl_primitive_desc_destroy(described);
    odn_mapping_free(&map);
    return good;
}

static size_t scratch(const kin_device *device, const kin_call *call) {
    return odn_scratch_size(state_of(device), call);
}

/* The CPU's list calls this with the step's own copy of the call. */
static kin_status launch(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)commands;
    odn_step *step = (odn_step *)(uintptr_t)call;
#ifdef _OPENMP
    const int before = omp_get_max_threads();
    const int threads = step->mapping.is_small ? 1 : device->info.threads;
    if (before != threads) omp_set_num_threads(threads);
#endif
    kin_status status = odn_step_run(step);
#ifdef _OPENMP
    if (before != threads) omp_set_num_threads(before);
#endif
    (void)device;
    return status;
}

/* ---- fused products that are left to the CPU: those whose plain product is no primitive ---- */

static bool is_fused(const char *op) {
    return strcmp(op, "linear_fused") == 0 || strcmp(op, "matmul_fused") == 0;
}

static bool takes_views(const kin_kernel *kernel, const kin_call *call) {
    for (int i = 0; i < call->in_count; i++)
        if (call->in[i].desc.rank >= 0 && !(kernel->strided >> i & 1) &&
            !kin_desc_is_dense(&call->in[i].desc))
            return false;
    return true;
}

/* The CPU's row for a call, or NULL. */
static const kin_kernel *cpu_row(const kin_device *device, const kin_call *call) {
    const kin_device *cpu = &state_of(device)->cpu;
    const kin_kernel *row;
    for (size_t i = 0; (row = kin_backend_cpu.kernel(cpu, i)) != NULL; i++)
        if (strcmp(row->op, call->op) == 0 && takes_views(row, call) && row->can &&
            row->can(cpu, call))
            return row;
    return NULL;
}

static bool left_can(const kin_device *device, const kin_call *call) {
    odn_mapping map;
    kin_call plain = *call;
    const bool linear = strcmp(call->op, "linear_fused") == 0;
    plain.op = linear ? "linear" : "matmul";
    plain.attrs = NULL;
    plain.in_count = linear ? 3 : 2;
    if (odn_map(state_of(device), &plain, false, &map)) {
        odn_mapping_free(&map);
        return false;
    }
    return cpu_row(device, call) != NULL;
}

static size_t left_scratch(const kin_device *device, const kin_call *call) {
    const kin_kernel *row = cpu_row(device, call);
    return row && row->scratch ? row->scratch(&state_of(device)->cpu, call) : 0;
}

/* `record` puts the CPU's row in the place of these. */
static kin_status left_launch(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)commands;
    return kin_fail(device->context, KIN_DEVICE, "onednn: %s is the CPU's to run", call->op);
}

static const kin_kernel left_rows[] = {
    {"linear_fused", "cpu_linear_fused", 27, 0, left_can, left_scratch, left_launch},
    {"matmul_fused", "cpu_matmul_fused", 15, 0, left_can, left_scratch, left_launch},
};

static const kin_kernel rows[] = {
    {"linear", "onednn_linear", 3, 0, can, scratch, launch},
    {"matmul", "onednn_matmul", 3, 0, can, scratch, launch},
    {"linear_fused", "onednn_linear_fused", 3, 0, can, scratch, launch},
    {"matmul_fused", "onednn_matmul_fused", 3, 0, can, scratch, launch},
    {"conv", "onednn_conv", 0, 0, can, scratch, launch},
    {"conv_grad_input", "onednn_conv_grad_input", 0, 0, can, scratch, launch},
    {"conv_grad_weight", "onednn_conv_grad_weight", 0, 0, can, scratch, launch},
};

enum { ROWS = sizeof rows / sizeof *rows };

static bool is_left(const kin_kernel *kernel) {
    return kernel == &left_rows[0] || kernel == &left_rows[1];
}

static bool is_ours(const kin_kernel *kernel) {
    return kernel >= rows && kernel < rows + ROWS;
}

static const kin_kernel *kernel_at(const kin_device *device, size_t index) {
    if (index < ROWS) return &rows[index];
    const kin_kernel *row = kin_backend_cpu.kernel(&state_of(device)->cpu, index - ROWS);
    if (row == NULL || !is_fused(row->op)) return row;
    return &left_rows[strcmp(row->op, "linear_fused") == 0 ? 0 : 1];
}

/* ---- memory ---- */

static kin_status allocate(kin_device *device, size_t size, kin_buffer **out_buffer) {
    return kin_backend_cpu.allocate(&state_of(device)->cpu, size, out_buffer);
}

static void release(kin_device *device, kin_buffer *buffer) {
    odn_forget(state_of(device), buffer); /* another buffer may get its address */
    kin_backend_cpu.release(&state_of(device)->cpu, buffer);
}

static kin_status upload(kin_device *device, const void *source, kin_buffer *buffer, size_t offset,
                         size_t size) {
    odn_forget(state_of(device), buffer);
    return kin_backend_cpu.upload(&state_of(device)->cpu, source, buffer, offset, size);
}

static kin_status download(kin_device *device, kin_buffer *buffer, size_t offset, void *target,
                           size_t size) {
    return kin_backend_cpu.download(&state_of(device)->cpu, buffer, offset, target, size);
}

static kin_status copy(kin_device *device, kin_buffer *source, size_t source_offset,
                       kin_buffer *target, size_t target_offset, size_t size) {
    odn_forget(state_of(device), target);
    return kin_backend_cpu.copy(&state_of(device)->cpu, source, source_offset, target,
                                target_offset, size);
}

static kin_status fill(kin_device *device, kin_buffer *buffer, size_t offset, size_t size,
                       uint8_t byte) {
    odn_forget(state_of(device), buffer);
    return kin_backend_cpu.fill(&state_of(device)->cpu, buffer, offset, size, byte);
}

static void *address(kin_device *device, kin_buffer *buffer) {
    return kin_backend_cpu.address(&state_of(device)->cpu, buffer);
}

/* ---- work ---- */

static void discard(kin_device *device, kin_commands *commands) {
    if (!commands) return;
    if (commands->inner) kin_backend_cpu.discard(&state_of(device)->cpu, commands->inner);
    for (size_t i = 0; i < commands->step_count; i++) odn_step_free(commands->steps[i]);
    kin_free(device->context, commands->steps);
    kin_free(device->context, (void *)commands->written);
    kin_free(device->context, commands);
}

static kin_status begin(kin_device *device, kin_commands **out_commands) {
    kin_commands *commands = kin_calloc(device->context, 1, sizeof *commands);
    *out_commands = NULL;
    if (!commands) return KIN_OUT_OF_MEMORY;
    kin_status status = kin_backend_cpu.begin(&state_of(device)->cpu, &commands->inner);
    if (status == KIN_OK) *out_commands = commands;
    else kin_free(device->context, commands);
    return status;
}

static bool is_written(const kin_commands *commands, const kin_buffer *buffer) {
    for (size_t i = 0; i < commands->written_count; i++)
        if (commands->written[i] == buffer) return true;
    return false;
}

static kin_status note_written(kin_device *device, kin_commands *commands, const kin_call *call) {
    for (int j = 0; j <= call->out_count; j++) {
        const kin_buffer *buffer = j < call->out_count ? call->out[j].buffer : call->scratch;
        if (!buffer || is_written(commands, buffer)) continue;
        if (commands->written_count == commands->written_room) {
            size_t room = commands->written_room ? 2 * commands->written_room : 16;
            const kin_buffer **larger = kin_realloc(device->context, (void *)commands->written,
                                                    room * sizeof *commands->written);
            if (!larger) return KIN_OUT_OF_MEMORY;
            commands->written = larger;
            commands->written_room = room;
        }
        commands->written[commands->written_count++] = buffer;
    }
    return KIN_OK;
}

static kin_status add_step(kin_device *device, kin_commands *commands, const kin_call *call,
                           odn_step **out_step) {
    if (commands->step_count == commands->step_room) {
        size_t room = commands->step_room ? 2 * commands->step_room : 16;
        odn_step **larger = kin_realloc(device->context, commands->steps, room * sizeof *larger);
        if (!larger) return KIN_OUT_OF_MEMORY;
        commands->steps = larger;
        commands->step_room = room;
    }
    kin_status status =
        odn_step_make(state_of(device), call, is_written(commands, call->in[1].buffer), out_step);
    if (status == KIN_OK) commands->steps[commands->step_count++] = *out_step;
    return status;
}

static kin_status record(kin_device *device, kin_commands *commands, const kin_kernel *kernel,
                         const kin_call *call) {
    odn_step *step = NULL;
    kin_status status = KIN_OK;
    if (is_left(kernel)) kernel = cpu_row(device, call);
    if (!kernel) return kin_fail(device->context, KIN_UNSUPPORTED, "%s: no kernel", call->op);
    if (is_ours(kernel)) {
        status = add_step(device, commands, call, &step);
        if (status == KIN_OK) call = &step->call;
    }
    if (status == KIN_OK) status = note_written(device, commands, call);
    if (status != KIN_OK) return status;
    return kin_backend_cpu.record(&state_of(device)->cpu, commands->inner, kernel, call);
}

static kin_status end(kin_device *device, kin_commands *commands) {
    return kin_backend_cpu.end(&state_of(device)->cpu, commands->inner);
}

static kin_status submit(kin_device *device, kin_commands *commands) {
    kin_status status = kin_backend_cpu.submit(&state_of(device)->cpu, commands->inner);
    for (size_t i = 0; i < commands->written_count; i++)
        odn_forget(state_of(device), commands->written[i]);
    return status;
}

static kin_status wait_for(kin_device *device) {
    return kin_backend_cpu.wait(&state_of(device)->cpu);
}

static kin_status timestamps(kin_device *device, kin_commands *commands, double *out_seconds,
                             size_t count) {
    return kin_backend_cpu.timestamps(&state_of(device)->cpu, commands->inner, out_seconds, count);
}

static const kin_backend backend = {
    .abi = KIN_BACKEND_ABI,
    .struct_size = sizeof(kin_backend),
    .name = "onednn",
    .count = count_devices,
    .open = open_device,
    .close = close_device,
    .kernel = kernel_at,
    .allocate = allocate,
    .release = release,
    .upload = upload,
    .download = download,
    .copy = copy,
    .fill = fill,
    .begin = begin,
    .record = record,
    .end = end,
    .submit = submit,
    .wait = wait_for,
    .discard = discard,
    .timestamps = timestamps,
    .address = address,
};

KIN_API const kin_backend *kin_backend_get(uint32_t abi);

const kin_backend *kin_backend_get(uint32_t abi) {
    return abi == KIN_BACKEND_ABI ? &backend : NULL;
}
