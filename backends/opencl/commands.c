/* Launches, and the lists of them: recorded once with all arguments, submitted often. */
#include "backends/opencl/commands.h"

#include <string.h>

/* ---- rows ---- */

static bool fits(const kin_operand *operand) {
    int64_t last = 0;
    if (operand->desc.rank < 0) return true;
    for (int a = 0; a < operand->desc.rank; a++) {
        if (operand->desc.dims[a] > INT32_MAX) return false;
        last += (operand->desc.dims[a] - 1) * operand->desc.strides[a];
    }
    int64_t count = kin_desc_count(&operand->desc);
    return last < INT32_MAX - 65536 && count < INT32_MAX - 65536;
}

bool kin_opencl_fits(const kin_call *call) {
    for (int i = 0; i < call->in_count; i++)
        if (!fits(&call->in[i])) return false;
    for (int j = 0; j < call->out_count; j++)
        if (!fits(&call->out[j])) return false;
    return true;
}

bool kin_opencl_can_real(const kin_device *device, const kin_call *call) {
    (void)device;
    for (int i = 0; i < call->in_count; i++)
        if (!kin_opencl_is_absent(&call->in[i]) && !kin_opencl_is_real(call->in[i].desc.dtype))
            return false;
    for (int j = 0; j < call->out_count; j++)
        if (!kin_opencl_is_real(call->out[j].desc.dtype)) return false;
    return kin_opencl_fits(call);
}

static bool is_plain(kin_dtype dtype) {
    return dtype != KIN_F16 && dtype != KIN_BF16 && dtype != KIN_Q8_0 && dtype != KIN_F64;
}

bool kin_opencl_can_plain(const kin_device *device, const kin_call *call) {
    (void)device;
    for (int i = 0; i < call->in_count; i++)
        if (!kin_opencl_is_absent(&call->in[i]) && !is_plain(call->in[i].desc.dtype)) return false;
    for (int j = 0; j < call->out_count; j++)
        if (!is_plain(call->out[j].desc.dtype)) return false;
    return kin_opencl_fits(call);
}

const char *kin_opencl_type(const kin_operand *operand) {
    return kin_opencl_is_absent(operand) ? "f32" : kin_dtype_name(operand->desc.dtype);
}

/* ---- launches ---- */

kin_opencl_launch kin_opencl_start(kin_device *device, kin_commands *commands, const char *parts,
                                   const char *defines, const char *kernel) {
    kin_opencl_launch launch = {.device = device, .commands = commands};
    launch.status = kin_opencl_kernel(device, parts, defines, kernel, &launch.kernel);
    return launch;
}

static void set(kin_opencl_launch *launch, size_t size, const void *value) {
    if (launch->status != KIN_OK) return;
    cl_int code = clSetKernelArg(launch->kernel, launch->arguments, size, value);
    if (code != CL_SUCCESS) launch->status = kin_opencl_fail(launch->device, code, "an argument");
    launch->arguments++;
}

void kin_opencl_set_memory(kin_opencl_launch *launch, const kin_buffer *buffer, size_t offset,
                           size_t element_size) {
    cl_ulong elements = buffer != NULL ? offset / (element_size > 0 ? element_size : 1) : 0;
    set(launch, sizeof(cl_mem), buffer != NULL ? &buffer->memory : NULL);
    set(launch, sizeof elements, &elements);
}

void kin_opencl_set_operand(kin_opencl_launch *launch, const kin_operand *operand) {
    size_t size = kin_opencl_is_absent(operand) ? 1 : kin_dtype_size(operand->desc.dtype);
    kin_opencl_set_memory(launch, operand->buffer, operand->offset, size);
}

void kin_opencl_set_scratch(kin_opencl_launch *launch, const kin_call *call, size_t skip,
                            size_t element_size) {
    kin_opencl_set_memory(launch, call->scratch, call->scratch_offset + skip, element_size);
}

void kin_opencl_set_int(kin_opencl_launch *launch, int64_t value) {
    cl_int narrow = (cl_int)value;
    if (launch->status == KIN_OK && narrow != value)
        launch->status = kin_fail(launch->device->context, KIN_UNSUPPORTED,
                                  "opencl: %lld does not fit into 32 bits", (long long)value);
    set(launch, sizeof narrow, &narrow);
}

void kin_opencl_set_long(kin_opencl_launch *launch, int64_t value) {
    cl_long wide = value;
    set(launch, sizeof wide, &wide);
}

void kin_opencl_set_float(kin_opencl_launch *launch, double value) {
    cl_float single = (cl_float)value;
    set(launch, sizeof single, &single);
}

void kin_opencl_set_bytes(kin_opencl_launch *launch, const void *value, size_t size) {
    set(launch, size, value);
}

void kin_opencl_set_local(kin_opencl_launch *launch, size_t size) {
    set(launch, size, NULL);
}

/* What this kernel takes on the device. */
static size_t kernel_limit(kin_opencl_launch *launch) {
    const kin_opencl_device *state = kin_opencl_of(launch->device);
    size_t limit = 0;
    cl_int code = clGetKernelWorkGroupInfo(launch->kernel, state->id, CL_KERNEL_WORK_GROUP_SIZE,
                                           sizeof limit, &limit, NULL);
    if (code != CL_SUCCESS || limit == 0) limit = 1;
    return limit < state->group_limit ? limit : state->group_limit;
}

size_t kin_opencl_group(kin_opencl_launch *launch, size_t wanted, size_t local_each) {
    const kin_opencl_device *state = kin_opencl_of(launch->device);
    if (launch->status != KIN_OK) return 1;
    size_t limit = kernel_limit(launch), size = 1;
    if (limit > state->group_limits[0]) limit = state->group_limits[0];
    if (local_each > 0 && limit > state->local_memory / local_each)
        limit = state->local_memory / local_each;
    if (limit > wanted) limit = wanted;
    while (2 * size <= limit) size *= 2;
    return size;
}

static kin_status check_sizes(kin_opencl_launch *launch, cl_uint dims, const size_t *local) {
    const kin_opencl_device *state = kin_opencl_of(launch->device);
    size_t items = 1;
    bool fine = dims >= 1 && dims <= 3;
    for (cl_uint d = 0; fine && d < dims; d++) {
        items *= local[d];
        fine = local[d] > 0 && local[d] <= state->group_limits[d];
    }
    if (fine && items <= kernel_limit(launch)) return KIN_OK;
    return kin_fail(launch->device->context, KIN_UNSUPPORTED,
                    "opencl: %s takes no work-groups of %zu items", launch->device->info.name,
                    items);
}

static void *grown(kin_context *context, void *list, size_t count, size_t *capacity, size_t size) {
    if (count < *capacity) return list;
    size_t wanted = *capacity > 0 ? 2 * *capacity : 64;
    void *larger = kin_realloc(context, list, wanted * size);
    if (larger != NULL) *capacity = wanted;
    return larger;
}

static kin_status append(kin_commands *commands, const opencl_step *step) {
    opencl_step *list = grown(commands->context, commands->steps, commands->step_count,
                              &commands->step_capacity, sizeof *list);
    if (list == NULL) return KIN_OUT_OF_MEMORY;
    commands->steps = list;
    list[commands->step_count++] = *step;
    return KIN_OK;
}

kin_status kin_opencl_finish(kin_opencl_launch *launch, cl_uint dims, const size_t *global,
                             const size_t *local) {
    opencl_step step = {.kernel = launch->kernel, .dims = dims};
    bool empty = false;
    if (launch->status == KIN_OK) launch->status = check_sizes(launch, dims, local);
    for (cl_uint d = 0; launch->status == KIN_OK && d < dims; d++) {
        empty = empty || global[d] == 0;
        step.local[d] = local[d];
        step.global[d] = (global[d] + local[d] - 1) / local[d] * local[d];
    }
    if (launch->status == KIN_OK && !empty) launch->status = append(launch->commands, &step);
    if (launch->kernel != NULL && (launch->status != KIN_OK || empty))
        clReleaseKernel(launch->kernel);
    launch->kernel = NULL;
    return launch->status;
}

kin_status kin_opencl_finish_items(kin_opencl_launch *launch, int64_t count) {
    const kin_opencl_device *state = launch->device->state;
    size_t global = (size_t)count;
    size_t local = kin_opencl_group(launch, state->is_cpu ? 256 : 128, 0);
    return kin_opencl_finish(launch, 1, &global, &local);
}

kin_status kin_opencl_step(kin_device *device, kin_commands *commands, kin_opencl_step_fn run,
                           void *data) {
    kin_status status = append(commands, &(opencl_step){.run = run, .data = data});
    if (status != KIN_OK) kin_free(device->context, data);
    return status;
}

kin_status kin_opencl_table(kin_device *device, kin_commands *commands, const void *data,
                            size_t size, const kin_buffer **out_buffer) {
    kin_opencl_device *state = kin_opencl_of(device);
    cl_int code = CL_SUCCESS;
    kin_buffer **tables = grown(device->context, commands->tables, commands->table_count,
                                &commands->table_capacity, sizeof *tables);
    if (tables == NULL) return KIN_OUT_OF_MEMORY;
    commands->tables = tables;
    kin_buffer *table = kin_calloc(device->context, 1, sizeof *table);
    if (table == NULL) return KIN_OUT_OF_MEMORY;
    table->size = size;
    table->memory = clCreateBuffer(state->context, CL_MEM_READ_ONLY | CL_MEM_COPY_HOST_PTR, size,
                                   (void *)(uintptr_t)data, &code);
    if (code != CL_SUCCESS) {
        kin_free(device->context, table);
        return kin_opencl_fail(device, code, "a table");
    }
    tables[commands->table_count++] = table;
    *out_buffer = table;
    return KIN_OK;
}

/* ---- lists ---- */

kin_status opencl_begin(kin_device *device, kin_commands **out_commands) {
    *out_commands = kin_calloc(device->context, 1, sizeof **out_commands);
    if (*out_commands == NULL) return KIN_OUT_OF_MEMORY;
    (*out_commands)->context = device->context;
    return KIN_OK;
}

kin_status opencl_record(kin_device *device, kin_commands *commands, const kin_kernel *kernel,
                         const kin_call *call) {
    size_t *ends = grown(device->context, commands->call_ends, commands->call_count,
                         &commands->call_capacity, sizeof *ends);
    if (ends == NULL) return KIN_OUT_OF_MEMORY;
    commands->call_ends = ends;
    kin_status status = kernel->launch(device, commands, call);
    if (status != KIN_OK) return kin_fail_in(device->context, status, "%s", kernel->name);
    ends[commands->call_count++] = commands->step_count;
    return KIN_OK;
}

kin_status opencl_end(kin_device *device, kin_commands *commands) {
    (void)device, (void)commands;
    return KIN_OK;
}

/* The first error among the events of a list that has run, and its events given back if asked. */
static void settle(kin_device *device, kin_commands *commands) {
    kin_opencl_device *state = kin_opencl_of(device);
    commands->is_submitted = false;
    for (size_t i = 0; i < commands->step_count && state->failed == KIN_OK; i++) {
        cl_int result = CL_COMPLETE;
        cl_event event = commands->steps[i].event;
        if (event == NULL) continue;
        cl_int code =
            clGetEventInfo(event, CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof result, &result, NULL);
        if (code == CL_SUCCESS && result < 0) code = result;
        if (code != CL_SUCCESS) state->failed = kin_opencl_fail(device, code, "a kernel");
    }
}

/* Waits for everything, and keeps the first error in state->failed. */
static void finish_all(kin_device *device) {
    kin_opencl_device *state = kin_opencl_of(device);
    cl_int code = clFinish(state->queue);
    while (state->submitted != NULL) {
        kin_commands *commands = state->submitted;
        state->submitted = commands->next;
        commands->next = NULL;
        settle(device, commands);
    }
    if (code != CL_SUCCESS && state->failed == KIN_OK)
        state->failed = kin_opencl_fail(device, code, "waiting");
}

static void note_submitted(kin_opencl_device *state, kin_commands *commands) {
    kin_commands **end = &state->submitted;
    while (*end != NULL) end = &(*end)->next;
    *end = commands;
    commands->is_submitted = true;
}

static cl_int enqueue(kin_opencl_device *state, opencl_step *step) {
    return clEnqueueNDRangeKernel(state->queue, step->kernel, step->dims, NULL, step->global,
                                  step->local, 0, NULL, &step->event);
}

kin_status opencl_submit(kin_device *device, kin_commands *commands) {
    kin_opencl_device *state = kin_opencl_of(device);
    if (commands->is_submitted) finish_all(device);
    note_submitted(state, commands);
    kin_status status = KIN_OK;
    for (size_t i = 0; i < commands->step_count && status == KIN_OK; i++) {
        opencl_step *step = &commands->steps[i];
        if (step->event != NULL) clReleaseEvent(step->event);
        step->event = NULL;
        if (step->run != NULL) {
            status = step->run(device, step->data, &step->event);
            continue;
        }
        cl_int code = enqueue(state, step);
        if (code != CL_SUCCESS) status = kin_opencl_fail(device, code, "queuing a kernel");
    }
    cl_int code = clFlush(state->queue);
    if (status == KIN_OK && code != CL_SUCCESS) status = kin_opencl_fail(device, code, "a flush");
    return status;
}

kin_status opencl_wait(kin_device *device) {
    kin_opencl_device *state = kin_opencl_of(device);
    finish_all(device);
    kin_status status = state->failed;
    state->failed = KIN_OK;
    return status;
}

void opencl_discard(kin_device *device, kin_commands *commands) {
    if (commands == NULL) return;
    if (commands->is_submitted) finish_all(device);
    for (size_t i = 0; i < commands->step_count; i++) {
        opencl_step *step = &commands->steps[i];
        if (step->event != NULL) clReleaseEvent(step->event);
        if (step->kernel != NULL) clReleaseKernel(step->kernel);
        kin_free(commands->context, step->data);
    }
    for (size_t i = 0; i < commands->table_count; i++) {
        clReleaseMemObject(commands->tables[i]->memory);
        kin_free(commands->context, commands->tables[i]);
    }
    kin_free(commands->context, commands->tables);
    kin_free(commands->context, commands->steps);
    kin_free(commands->context, commands->call_ends);
    kin_free(commands->context, commands);
}

static cl_int seconds_of(cl_event event, double *out_seconds) {
    cl_ulong start = 0, end = 0;
    *out_seconds = 0;
    if (event == NULL) return CL_SUCCESS;
    cl_int code =
        clGetEventProfilingInfo(event, CL_PROFILING_COMMAND_START, sizeof start, &start, NULL);
    if (code == CL_SUCCESS)
        code = clGetEventProfilingInfo(event, CL_PROFILING_COMMAND_END, sizeof end, &end, NULL);
    if (code == CL_SUCCESS && end > start) *out_seconds = 1e-9 * (double)(end - start);
    return code;
}

kin_status opencl_timestamps(kin_device *device, kin_commands *commands, double *out_seconds,
                             size_t count) {
    if (count != commands->call_count)
        return kin_fail(device->context, KIN_INVALID, "opencl: %zu timestamps asked for, %zu there",
                        count, commands->call_count);
    for (size_t call = 0, step = 0; call < count; call++) {
        out_seconds[call] = 0;
        for (; step < commands->call_ends[call]; step++) {
            double seconds;
            cl_int code = seconds_of(commands->steps[step].event, &seconds);
            if (code != CL_SUCCESS) return kin_opencl_fail(device, code, "a time stamp");
            out_seconds[call] += seconds;
        }
    }
    return KIN_OK;
}
