/* The OpenCL backend's table: devices and their limits, buffers, the list of kernels. */
#include "backends/opencl/commands.h"
#include "backends/opencl/tuning.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PLATFORMS = 32, MAX_DEVICES = 64 };

/* ---- errors ---- */

typedef struct error_name {
    cl_int code;
    const char *name;
} error_name;

static const error_name error_names[] = {
    {CL_DEVICE_NOT_FOUND, "no such device"},
    {CL_DEVICE_NOT_AVAILABLE, "the device is not available"},
    {CL_COMPILER_NOT_AVAILABLE, "the driver has no compiler"},
    {CL_MEM_OBJECT_ALLOCATION_FAILURE, "no device memory"},
    {CL_OUT_OF_RESOURCES, "out of resources"},
    {CL_OUT_OF_HOST_MEMORY, "the driver has no host memory"},
    {CL_BUILD_PROGRAM_FAILURE, "a program does not compile"},
    {CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST, "an earlier command failed"},
    {CL_INVALID_VALUE, "invalid value"},
    {CL_INVALID_DEVICE, "invalid device"},
    {CL_INVALID_COMMAND_QUEUE, "invalid queue"},
    {CL_INVALID_MEM_OBJECT, "invalid buffer"},
    {CL_INVALID_BINARY, "invalid binary"},
    {CL_INVALID_KERNEL_NAME, "no such kernel in the program"},
    {CL_INVALID_ARG_INDEX, "the kernel has no such argument"},
    {CL_INVALID_ARG_VALUE, "invalid argument"},
    {CL_INVALID_ARG_SIZE, "an argument of another size"},
    {CL_INVALID_KERNEL_ARGS, "arguments are missing"},
    {CL_INVALID_WORK_GROUP_SIZE, "invalid work-group size"},
    {CL_INVALID_WORK_ITEM_SIZE, "invalid work-item size"},
    {CL_INVALID_BUFFER_SIZE, "invalid buffer size"},
    {CL_PROFILING_INFO_NOT_AVAILABLE, "no profiling information"},
    {-1001, "no driver (ICD) is installed"}, /* CL_PLATFORM_NOT_FOUND_KHR */
};

const char *kin_opencl_error_name(cl_int code) {
    for (size_t i = 0; i < sizeof error_names / sizeof *error_names; i++)
        if (error_names[i].code == code) return error_names[i].name;
    return "OpenCL error";
}

kin_status kin_opencl_fail(kin_device *device, cl_int code, const char *what) {
    bool memory = code == CL_MEM_OBJECT_ALLOCATION_FAILURE || code == CL_OUT_OF_HOST_MEMORY;
    return kin_fail(device->context, memory ? KIN_OUT_OF_MEMORY : KIN_DEVICE, "opencl: %s: %s (%d)",
                    what, kin_opencl_error_name(code), (int)code);
}

/* ---- finding devices ---- */

typedef struct found_device {
    cl_platform_id platform;
    cl_device_id id;
} found_device;

/* "OpenCL 1.2 ...": at least 1.2. */
static bool is_new_enough(cl_device_id id) {
    char version[256] = "";
    int major = 0, minor = 0;
    if (clGetDeviceInfo(id, CL_DEVICE_VERSION, sizeof version, version, NULL) != CL_SUCCESS ||
        sscanf(version, "OpenCL %d.%d", &major, &minor) != 2)
        return false;
    return major > 1 || minor >= 2;
}

static cl_bool flag_of(cl_device_id id, cl_device_info name) {
    cl_bool value = CL_FALSE;
    return clGetDeviceInfo(id, name, sizeof value, &value, NULL) == CL_SUCCESS ? value : CL_FALSE;
}

static bool can_serve(cl_device_id id) {
    return flag_of(id, CL_DEVICE_AVAILABLE) && flag_of(id, CL_DEVICE_COMPILER_AVAILABLE) &&
           flag_of(id, CL_DEVICE_ENDIAN_LITTLE) && is_new_enough(id);
}

/* All devices that can serve, in the order of the platforms. */
static int find_devices(found_device *devices, const char **out_why) {
    cl_platform_id platforms[MAX_PLATFORMS];
    cl_uint platform_count = 0;
    int count = 0, seen = 0;
    cl_int code = clGetPlatformIDs(MAX_PLATFORMS, platforms, &platform_count);
    *out_why = NULL;
    if (code != CL_SUCCESS || platform_count == 0) {
        *out_why =
            code == CL_SUCCESS ? "no driver (ICD) is installed" : kin_opencl_error_name(code);
        return 0;
    }
    if (platform_count > MAX_PLATFORMS) platform_count = MAX_PLATFORMS;
    for (cl_uint p = 0; p < platform_count; p++) {
        cl_device_id ids[MAX_DEVICES];
        cl_uint id_count = 0;
        code = clGetDeviceIDs(platforms[p], CL_DEVICE_TYPE_ALL, MAX_DEVICES, ids, &id_count);
        if (code != CL_SUCCESS) continue;
        for (cl_uint i = 0; i < id_count && i < MAX_DEVICES && count < MAX_DEVICES; i++, seen++)
            if (can_serve(ids[i])) devices[count++] = (found_device){platforms[p], ids[i]};
    }
    if (count == 0)
        *out_why = seen > 0 ? "no device has OpenCL 1.2, little-endian memory and a compiler"
                            : "the drivers that are installed find no device";
    return count;
}

static int opencl_count(kin_context *context, const char **out_why) {
    found_device devices[MAX_DEVICES];
    const char *why = NULL;
    (void)context;
    int count = find_devices(devices, &why);
    if (out_why != NULL) *out_why = why;
    return count;
}

/* ---- opening ---- */

static uint64_t number_of(cl_device_id id, cl_device_info name) {
    cl_ulong value = 0; /* little-endian: a shorter number leaves the upper bytes 0 */
    return clGetDeviceInfo(id, name, sizeof value, &value, NULL) == CL_SUCCESS ? value : 0;
}

static void device_text(cl_device_id id, cl_device_info name, char *text, size_t size) {
    size_t length = 0;
    text[0] = '\0';
    if (clGetDeviceInfo(id, name, 0, NULL, &length) != CL_SUCCESS || length == 0 || length > size ||
        clGetDeviceInfo(id, name, size, text, NULL) != CL_SUCCESS)
        snprintf(text, size, "unknown");
    while (text[0] == ' ') memmove(text, text + 1, strlen(text));
}

static void platform_text(cl_platform_id id, cl_platform_info name, char *text, size_t size) {
    text[0] = '\0';
    if (clGetPlatformInfo(id, name, size, text, NULL) != CL_SUCCESS)
        snprintf(text, size, "unknown");
}

/* The smaller of a limit and the setting of its name, which is a whole number from 1. */
static kin_status limited(kin_device *device, const char *name, uint64_t limit, uint64_t *out) {
    const char *text = kin_context_setting(device->context, name);
    char *end = NULL;
    *out = limit;
    if (text == NULL) return KIN_OK;
    unsigned long long value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || value < 1)
        return kin_fail(device->context, KIN_INVALID, "the setting %s=%s is no number from 1", name,
                        text);
    if (limit == 0 || value < limit) *out = value;
    return KIN_OK;
}

/* How rows are spread: "items" (CPUs) or "groups". */
static kin_status choose_rows(kin_device *device, kin_opencl_device *state) {
    const char *text = kin_context_setting(device->context, "opencl.rows");
    state->is_cpu = (number_of(state->id, CL_DEVICE_TYPE) & CL_DEVICE_TYPE_CPU) != 0;
    if (text == NULL) return KIN_OK;
    if (strcmp(text, "items") != 0 && strcmp(text, "groups") != 0)
        return kin_fail(device->context, KIN_INVALID,
                        "the setting opencl.rows=%s is neither items nor groups", text);
    state->is_cpu = strcmp(text, "items") == 0;
    return KIN_OK;
}

static kin_status read_limits(kin_device *device, kin_opencl_device *state) {
    cl_device_id id = state->id;
    uint64_t group, local;
    size_t sizes[16] = {0};
    kin_status status =
        limited(device, "opencl.max_allocation", number_of(id, CL_DEVICE_MAX_MEM_ALLOC_SIZE),
                &device->info.max_allocation);
    if (status == KIN_OK)
        status = limited(device, "opencl.work_group", number_of(id, CL_DEVICE_MAX_WORK_GROUP_SIZE),
                         &group);
    if (status == KIN_OK)
        status =
            limited(device, "opencl.local_memory", number_of(id, CL_DEVICE_LOCAL_MEM_SIZE), &local);
    if (status == KIN_OK) status = choose_rows(device, state);
    if (status != KIN_OK) return status;
    if (clGetDeviceInfo(id, CL_DEVICE_MAX_WORK_ITEM_SIZES, sizeof sizes, sizes, NULL) != CL_SUCCESS)
        sizes[0] = sizes[1] = sizes[2] = 1;
    state->group_limit = group > 0 ? (size_t)group : 1;
    for (int d = 0; d < 3; d++) {
        state->group_limits[d] = sizes[d] > 0 ? sizes[d] : 1;
        if (state->group_limits[d] > state->group_limit)
            state->group_limits[d] = state->group_limit;
    }
    state->local_memory = (size_t)local;
    state->units = (int)number_of(id, CL_DEVICE_MAX_COMPUTE_UNITS);
    if (state->units < 1) state->units = 1;
    uint64_t native = number_of(id, CL_DEVICE_NATIVE_VECTOR_WIDTH_FLOAT);
    state->vector = !state->is_cpu || native < 8 ? 4 : native < 16 ? 8 : 16;
    return KIN_OK;
}

static kin_status describe(kin_device *device, kin_opencl_device *state, int index) {
    char name[128], driver[96], version[128], vendor[96], platform[96], platform_version[160];
    device_text(state->id, CL_DEVICE_NAME, name, sizeof name);
    device_text(state->id, CL_DRIVER_VERSION, driver, sizeof driver);
    device_text(state->id, CL_DEVICE_VERSION, version, sizeof version);
    device_text(state->id, CL_DEVICE_VENDOR, vendor, sizeof vendor);
    platform_text(state->platform, CL_PLATFORM_NAME, platform, sizeof platform);
    platform_text(state->platform, CL_PLATFORM_VERSION, platform_version, sizeof platform_version);
    snprintf(device->info.name, sizeof device->info.name, "opencl%d", index);
    snprintf(device->info.description, sizeof device->info.description,
             "%.72s, %.40s, driver %.32s", name, platform, driver);
    state->identity = kin_format(device->context, "%s\n%s\n%s\n%s\n%s\n%s\n%s", kin_version(),
                                 platform, platform_version, vendor, name, version, driver);
    if (state->identity == NULL) return KIN_OUT_OF_MEMORY;
    const char *cache = kin_context_setting(device->context, "cache");
    if (cache == NULL || cache[0] == '\0') return KIN_OK;
    state->cache = kin_format(device->context, "%s/opencl", cache);
    return state->cache != NULL ? KIN_OK : KIN_OUT_OF_MEMORY;
}

static void fill_info(kin_device *device, const kin_opencl_device *state) {
    uint64_t bits = number_of(state->id, CL_DEVICE_MEM_BASE_ADDR_ALIGN);
    device->info.memory_total = number_of(state->id, CL_DEVICE_GLOBAL_MEM_SIZE);
    device->info.alignment = 64;
    while (device->info.alignment < bits / 8 && device->info.alignment < 4096)
        device->info.alignment *= 2;
    if (device->info.max_allocation > 0 && device->info.max_allocation < device->info.alignment)
        device->info.max_allocation = device->info.alignment;
    device->info.threads = state->units;
    for (int dtype = 0; dtype < KIN_DTYPE_COUNT; dtype++)
        if (dtype != KIN_F64) device->info.dtypes |= 1u << dtype;
}

static kin_status open_queue(kin_device *device, kin_opencl_device *state) {
    cl_context_properties properties[] = {CL_CONTEXT_PLATFORM,
                                          (cl_context_properties)state->platform, 0};
    cl_int code = CL_SUCCESS;
    state->context = clCreateContext(properties, 1, &state->id, NULL, NULL, &code);
    if (code != CL_SUCCESS) return kin_opencl_fail(device, code, "a context");
    state->queue =
        clCreateCommandQueue(state->context, state->id, CL_QUEUE_PROFILING_ENABLE, &code);
    return code == CL_SUCCESS ? KIN_OK : kin_opencl_fail(device, code, "a queue");
}

static kin_status list_kernels(kin_device *device, kin_opencl_device *state) {
    size_t count = 0;
    for (size_t f = 0; kin_opencl_families[f] != NULL; f++)
        for (const kin_kernel *row = kin_opencl_families[f]; row->op != NULL; row++) count++;
    state->kernels = kin_calloc(device->context, count + 1, sizeof *state->kernels);
    if (state->kernels == NULL) return KIN_OUT_OF_MEMORY;
    for (size_t f = 0; kin_opencl_families[f] != NULL; f++)
        for (const kin_kernel *row = kin_opencl_families[f]; row->op != NULL; row++) {
            kin_kernel *mine = &state->kernels[state->kernel_count++];
            *mine = *row;
            if (mine->can == NULL) mine->can = kin_opencl_can_plain;
        }
    return KIN_OK;
}

static void opencl_close(kin_device *device) {
    kin_opencl_device *state = device->state;
    if (state == NULL) return;
    if (state->queue != NULL) clFinish(state->queue);
    kin_opencl_programs_free(device);
    if (state->queue != NULL) clReleaseCommandQueue(state->queue);
    if (state->context != NULL) clReleaseContext(state->context);
    kin_free(device->context, state->identity);
    kin_free(device->context, state->cache);
    kin_free(device->context, state->kernels);
    kin_free(device->context, state);
    device->state = NULL;
}

static kin_status opencl_open(kin_device *device, int index) {
    found_device devices[MAX_DEVICES];
    const char *why = NULL;
    int count = find_devices(devices, &why);
    if (index < 0 || index >= count)
        return kin_fail(device->context, KIN_NOT_FOUND, "opencl has no device %d: %s", index,
                        why != NULL ? why : "there are fewer");
    kin_opencl_device *state = kin_calloc(device->context, 1, sizeof *state);
    if (state == NULL) return KIN_OUT_OF_MEMORY;
    state->platform = devices[index].platform;
    state->id = devices[index].id;
    device->state = state;
    device->info = (kin_device_info){.memory_free = 0};
    kin_status status = read_limits(device, state);
    if (status == KIN_OK) status = kin_opencl_check_tuning(device);
    if (status == KIN_OK) status = describe(device, state, index);
    if (status == KIN_OK) status = open_queue(device, state);
    if (status == KIN_OK) status = list_kernels(device, state);
    if (status == KIN_OK) fill_info(device, state);
    else opencl_close(device);
    return status;
}

static const kin_kernel *opencl_kernel(const kin_device *device, size_t index) {
    const kin_opencl_device *state = device->state;
    return index < state->kernel_count ? &state->kernels[index] : NULL;
}

/* ---- memory ---- */

static kin_status opencl_allocate(kin_device *device, size_t size, kin_buffer **out_buffer) {
    kin_opencl_device *state = kin_opencl_of(device);
    cl_int code = CL_SUCCESS;
    *out_buffer = NULL;
    if (device->info.max_allocation > 0 && size > device->info.max_allocation)
        return kin_fail(device->context, KIN_OUT_OF_MEMORY,
                        "opencl: %zu bytes at once, but %s gives at most %llu", size,
                        device->info.name, (unsigned long long)device->info.max_allocation);
    kin_buffer *buffer = kin_calloc(device->context, 1, sizeof *buffer);
    if (buffer == NULL) return KIN_OUT_OF_MEMORY;
    buffer->size = size;
    buffer->memory =
        clCreateBuffer(state->context, CL_MEM_READ_WRITE, size > 0 ? size : 1, NULL, &code);
    /* Drivers may put the work off until the first use; errors are to show here. */
    if (code == CL_SUCCESS)
        code = clEnqueueMigrateMemObjects(state->queue, 1, &buffer->memory,
                                          CL_MIGRATE_MEM_OBJECT_CONTENT_UNDEFINED, 0, NULL, NULL);
    if (code == CL_SUCCESS) {
        *out_buffer = buffer;
        return KIN_OK;
    }
    if (buffer->memory != NULL) clReleaseMemObject(buffer->memory);
    kin_free(device->context, buffer);
    return kin_fail(device->context, KIN_OUT_OF_MEMORY, "opencl: no memory for %zu bytes: %s", size,
                    kin_opencl_error_name(code));
}

static void opencl_release(kin_device *device, kin_buffer *buffer) {
    if (buffer == NULL) return;
    clReleaseMemObject(buffer->memory);
    kin_free(device->context, buffer);
}

static kin_status check_range(kin_device *device, const kin_buffer *buffer, size_t offset,
                              size_t size) {
    if (offset <= buffer->size && size <= buffer->size - offset) return KIN_OK;
    return kin_fail(device->context, KIN_INVALID,
                    "opencl: bytes %zu to %zu of a buffer that has %zu bytes", offset,
                    offset + size, buffer->size);
}

static kin_status checked(kin_device *device, cl_int code, const char *what) {
    return code == CL_SUCCESS ? KIN_OK : kin_opencl_fail(device, code, what);
}

static kin_status opencl_upload(kin_device *device, const void *source, kin_buffer *buffer,
                                size_t offset, size_t size) {
    kin_status status = check_range(device, buffer, offset, size);
    if (status != KIN_OK || size == 0) return status;
    return checked(device,
                   clEnqueueWriteBuffer(kin_opencl_of(device)->queue, buffer->memory, CL_TRUE,
                                        offset, size, source, 0, NULL, NULL),
                   "an upload");
}

static kin_status opencl_download(kin_device *device, kin_buffer *buffer, size_t offset,
                                  void *target, size_t size) {
    kin_status status = check_range(device, buffer, offset, size);
    if (status != KIN_OK || size == 0) return status;
    return checked(device,
                   clEnqueueReadBuffer(kin_opencl_of(device)->queue, buffer->memory, CL_TRUE,
                                       offset, size, target, 0, NULL, NULL),
                   "a download");
}

/* Within one buffer the ranges may overlap, which OpenCL refuses: by way of another buffer. */
static cl_int copy_overlapping(kin_opencl_device *state, kin_buffer *buffer, size_t from, size_t to,
                               size_t size) {
    cl_int code = CL_SUCCESS;
    cl_mem between = clCreateBuffer(state->context, CL_MEM_READ_WRITE, size, NULL, &code);
    if (code == CL_SUCCESS)
        code = clEnqueueCopyBuffer(state->queue, buffer->memory, between, from, 0, size, 0, NULL,
                                   NULL);
    if (code == CL_SUCCESS)
        code =
            clEnqueueCopyBuffer(state->queue, between, buffer->memory, 0, to, size, 0, NULL, NULL);
    if (code == CL_SUCCESS) code = clFinish(state->queue);
    if (between != NULL) clReleaseMemObject(between);
    return code;
}

static kin_status opencl_copy(kin_device *device, kin_buffer *source, size_t source_offset,
                              kin_buffer *target, size_t target_offset, size_t size) {
    kin_opencl_device *state = kin_opencl_of(device);
    kin_status status = check_range(device, source, source_offset, size);
    if (status == KIN_OK) status = check_range(device, target, target_offset, size);
    if (status != KIN_OK || size == 0) return status;
    cl_int code;
    if (source == target && source_offset < target_offset + size &&
        target_offset < source_offset + size) {
        code = copy_overlapping(state, source, source_offset, target_offset, size);
    } else {
        code = clEnqueueCopyBuffer(state->queue, source->memory, target->memory, source_offset,
                                   target_offset, size, 0, NULL, NULL);
        if (code == CL_SUCCESS) code = clFinish(state->queue);
    }
    return checked(device, code, "a copy");
}

static kin_status opencl_fill(kin_device *device, kin_buffer *buffer, size_t offset, size_t size,
                              uint8_t byte) {
    kin_opencl_device *state = kin_opencl_of(device);
    kin_status status = check_range(device, buffer, offset, size);
    if (status != KIN_OK || size == 0) return status;
    cl_int code =
        clEnqueueFillBuffer(state->queue, buffer->memory, &byte, 1, offset, size, 0, NULL, NULL);
    if (code == CL_SUCCESS) code = clFinish(state->queue);
    return checked(device, code, "a fill");
}

static const kin_backend backend = {
    .abi = KIN_BACKEND_ABI,
    .struct_size = sizeof(kin_backend),
    .name = "opencl",
    .count = opencl_count,
    .open = opencl_open,
    .close = opencl_close,
    .kernel = opencl_kernel,
    .allocate = opencl_allocate,
    .release = opencl_release,
    .upload = opencl_upload,
    .download = opencl_download,
    .copy = opencl_copy,
    .fill = opencl_fill,
    .begin = opencl_begin,
    .record = opencl_record,
    .end = opencl_end,
    .submit = opencl_submit,
    .wait = opencl_wait,
    .discard = opencl_discard,
    .timestamps = opencl_timestamps,
};

KIN_API const kin_backend *kin_backend_get(uint32_t abi);

KIN_API const kin_backend *kin_backend_get(uint32_t abi) {
    return abi == KIN_BACKEND_ABI ? &backend : NULL;
}
