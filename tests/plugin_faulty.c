/* A plug-in that is wrong in one way, which FAULT names when it is built; FAULT 0 is a device that
 * works, slowly: `add` on f32. tests/test_plugins.c says what must become of each. */
#include <stdlib.h>
#include <string.h>

#include "runtime/backend.h"

enum {
    NO_FAULT,
    WRONG_ABI,
    OTHER_VERSION, /* kin_backend_get knows no such ABI */
    SMALL_TABLE,
    LARGE_TABLE,
    NULL_ENTRY,
    NO_NAME,
    NUMBER_NAME,
    NEGATIVE_COUNT,
    LARGE_COUNT,
    ODD_ALIGNMENT,
    LARGE_ALLOCATION,
    ENDLESS_NAME,
    UNKNOWN_DTYPE,
    ROW_WITHOUT_OP,
    ROW_WITHOUT_LAUNCH,
    ENDLESS_KERNELS,
    LARGE_SCRATCH,
    NO_BUFFER,
    NO_SYMBOL,
    OLD_TABLE,  /* fine: ends where version 1 did, and junk follows */
    FAILS_CALLS /* device N fails at call N of `calls`, and leaves rubbish where a result belongs */
};

/* The calls that may fail, in the order of FAILS_CALLS' devices, from 1. */
enum {
    AT_OPEN = 1,
    AT_ALLOCATE,
    AT_UPLOAD,
    AT_DOWNLOAD,
    AT_FILL,
    AT_BEGIN,
    AT_RECORD,
    AT_END,
    AT_SUBMIT,
    AT_WAIT,
    AT_TIMESTAMPS
};

struct kin_buffer {
    unsigned char *bytes;
};

struct kin_commands {
    const kin_call *calls[8];
    int count;
};

typedef struct state {
    int failing;
} state;

#define RUBBISH ((void *)(uintptr_t)64)

static bool fails(kin_device *device, int call, kin_status *out_status) {
    static const char *const names[] = {"",         "open",   "allocate", "upload",
                                        "download", "fill",   "begin",    "record",
                                        "end",      "submit", "wait",     "timestamps"};
    const state *s = device->state;
    if (!s || s->failing != call) return false;
    *out_status = kin_fail(device->context, KIN_DEVICE, "faulty: %s failed", names[call]);
    return true;
}

static int count_devices(kin_context *context, const char **out_why) {
    (void)context;
    *out_why = NULL;
    return FAULT == NEGATIVE_COUNT ? -3 : FAULT == LARGE_COUNT ? 2000000000 : AT_TIMESTAMPS + 1;
}

static void close_device(kin_device *device) {
    kin_free(device->context, device->state);
}

static kin_status open_device(kin_device *device, int index) {
    kin_status status;
    state *s = kin_calloc(device->context, 1, sizeof *s);
    if (!s) return KIN_OUT_OF_MEMORY;
    s->failing = FAULT == FAILS_CALLS ? index : 0;
    device->state = s;
    strcpy(device->info.name, "faulty");
    strcpy(device->info.description, "a test");
    device->info.dtypes = 1u << KIN_F32;
    if (FAULT == ODD_ALIGNMENT) device->info.alignment = 48;
    if (FAULT == LARGE_ALLOCATION) device->info.max_allocation = UINT64_MAX - 5;
    if (FAULT == ENDLESS_NAME) memset(device->info.name, 'x', sizeof device->info.name);
    if (FAULT == UNKNOWN_DTYPE) device->info.dtypes = 0xFFFFFFFFu;
    if (!fails(device, AT_OPEN, &status)) return KIN_OK;
    close_device(device);
    return status;
}

static kin_status launch(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)device, (void)commands;
    const float *a = (const float *)(void *)(call->in[0].buffer->bytes + call->in[0].offset);
    const float *b = (const float *)(void *)(call->in[1].buffer->bytes + call->in[1].offset);
    float *out = (float *)(void *)(call->out[0].buffer->bytes + call->out[0].offset);
    for (int64_t i = 0; i < kin_desc_count(&call->out[0].desc); i++) out[i] = a[i] + b[i];
    return KIN_OK;
}

static size_t scratch(const kin_device *device, const kin_call *call) {
    (void)device, (void)call;
    return FAULT == LARGE_SCRATCH ? SIZE_MAX - 100 : 0;
}

static const kin_kernel *kernel_at(const kin_device *device, size_t index) {
    static const kin_kernel rows[] = {{FAULT == ROW_WITHOUT_OP ? NULL : "add", "faulty_add", 0, 0,
                                       NULL, scratch, FAULT == ROW_WITHOUT_LAUNCH ? NULL : launch}};
    (void)device;
    return index == 0 || FAULT == ENDLESS_KERNELS ? &rows[0] : NULL;
}

static kin_status allocate(kin_device *device, size_t size, kin_buffer **out_buffer) {
    kin_status status;
    *out_buffer = RUBBISH;
    if (fails(device, AT_ALLOCATE, &status)) return status;
    *out_buffer = NULL;
    if (FAULT == NO_BUFFER) return KIN_OK;
    kin_buffer *buffer = kin_calloc(device->context, 1, sizeof *buffer);
    if (!buffer) return KIN_OUT_OF_MEMORY;
    buffer->bytes = kin_calloc(device->context, 1, size);
    *out_buffer = buffer;
    return buffer->bytes ? KIN_OK : KIN_OUT_OF_MEMORY;
}

static void release(kin_device *device, kin_buffer *buffer) {
    kin_free(device->context, buffer->bytes);
    kin_free(device->context, buffer);
}

static kin_status upload(kin_device *device, const void *source, kin_buffer *buffer, size_t offset,
                         size_t size) {
    kin_status status;
    if (fails(device, AT_UPLOAD, &status)) return status;
    memcpy(buffer->bytes + offset, source, size);
    return KIN_OK;
}

static kin_status download(kin_device *device, kin_buffer *buffer, size_t offset, void *target,
                           size_t size) {
    kin_status status;
    if (fails(device, AT_DOWNLOAD, &status)) return status;
    memcpy(target, buffer->bytes + offset, size);
    return KIN_OK;
}

static kin_status copy(kin_device *device, kin_buffer *source, size_t source_offset,
                       kin_buffer *target, size_t target_offset, size_t size) {
    (void)device;
    memmove(target->bytes + target_offset, source->bytes + source_offset, size);
    return KIN_OK;
}

static kin_status fill(kin_device *device, kin_buffer *buffer, size_t offset, size_t size,
                       uint8_t byte) {
    kin_status status;
    if (fails(device, AT_FILL, &status)) return status;
    memset(buffer->bytes + offset, byte, size);
    return KIN_OK;
}

static kin_status begin(kin_device *device, kin_commands **out_commands) {
    kin_status status;
    *out_commands = RUBBISH;
    if (fails(device, AT_BEGIN, &status)) return status;
    *out_commands = kin_calloc(device->context, 1, sizeof **out_commands);
    return *out_commands ? KIN_OK : KIN_OUT_OF_MEMORY;
}

static kin_status record(kin_device *device, kin_commands *commands, const kin_kernel *kernel,
                         const kin_call *call) {
    kin_status status;
    (void)kernel;
    if (fails(device, AT_RECORD, &status)) return status;
    commands->calls[commands->count++] = call;
    return KIN_OK;
}

static kin_status end(kin_device *device, kin_commands *commands) {
    kin_status status;
    (void)commands;
    return fails(device, AT_END, &status) ? status : KIN_OK;
}

static kin_status submit(kin_device *device, kin_commands *commands) {
    kin_status status;
    if (fails(device, AT_SUBMIT, &status)) return status;
    for (int i = 0; i < commands->count; i++) launch(device, commands, commands->calls[i]);
    return KIN_OK;
}

static kin_status wait_for(kin_device *device) {
    kin_status status;
    return fails(device, AT_WAIT, &status) ? status : KIN_OK;
}

static void discard(kin_device *device, kin_commands *commands) {
    kin_free(device->context, commands);
}

static kin_status timestamps(kin_device *device, kin_commands *commands, double *out_seconds,
                             size_t count) {
    kin_status status;
    (void)commands;
    if (fails(device, AT_TIMESTAMPS, &status)) return status;
    for (size_t i = 0; i < count; i++) out_seconds[i] = 1;
    return KIN_OK;
}

static kin_status junk(kin_device *device, kin_commands *commands, kin_call_counters *out_counters,
                       size_t count) {
    (void)commands, (void)out_counters, (void)count;
    return kin_fail(device->context, KIN_DEVICE, "faulty: called what lies behind the table");
}

static const kin_backend backend = {
    .abi = FAULT == WRONG_ABI ? KIN_BACKEND_ABI + 1 : KIN_BACKEND_ABI,
    .struct_size = FAULT == SMALL_TABLE   ? 24
                   : FAULT == LARGE_TABLE ? 0xFFFFFFF0u
                   : FAULT == OLD_TABLE   ? offsetof(kin_backend, counters)
                                          : sizeof(kin_backend),
    .name = FAULT == NO_NAME       ? NULL
            : FAULT == NUMBER_NAME ? "faulty7"
                                   : "faulty",
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
    .submit = FAULT == NULL_ENTRY ? NULL : submit,
    .wait = wait_for,
    .discard = discard,
    .timestamps = timestamps,
    .counters = FAULT == OLD_TABLE ? junk : NULL,
};

KIN_API const kin_backend *kin_backend_get(uint32_t abi);
KIN_API const kin_backend *another_symbol(uint32_t abi);

#if FAULT_HAS_SYMBOL
const kin_backend *kin_backend_get(uint32_t abi) {
#else
const kin_backend *another_symbol(uint32_t abi) {
#endif
    return FAULT == OTHER_VERSION || abi != KIN_BACKEND_ABI ? NULL : &backend;
}
