/* The guarding device. Its buffers lie `margin` bytes into buffers of the inner device, so calls
 * are copied with shifted offsets before they are recorded there. */
#include "tools/check/guard_device.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { POISON = 0xFF, MARK = 0xA5 };

typedef struct guard_buffer guard_buffer;
struct guard_buffer {
    kin_buffer *inner;
    size_t size;
    guard_buffer *previous, *next;
};

struct kin_guard {
    kin_device device; /* first, so that a device of ours is a guard; state and info are inner's */
    kin_backend table;
    kin_device *inner;
    size_t margin; /* bytes on either side of a buffer; keeps the device's alignment */
    const char *hidden;
    bool spoils;
    size_t allocations;
    unsigned char *bytes; /* margin bytes, to look at */
    guard_buffer *buffers;
    char damage[160]; /* found when a buffer was released; "" if none */
};

typedef struct call_copy call_copy;
struct call_copy {
    call_copy *next;
    kin_call call;
    kin_operand operands[];
};

typedef struct guard_commands {
    kin_commands *inner;
    call_copy *calls;
} guard_commands;

static kin_guard *guard_of(const kin_device *device) {
    return (kin_guard *)(uintptr_t)device;
}

static kin_buffer *opaque(guard_buffer *buffer) {
    return (kin_buffer *)(void *)buffer;
}

static guard_buffer *buffer_of(kin_buffer *buffer) {
    return (guard_buffer *)(void *)buffer;
}

static int count_devices(kin_context *context, const char **out_why) {
    (void)context;
    (void)out_why;
    return 1;
}

static kin_status open_device(kin_device *device, int index) {
    (void)index;
    return kin_fail(device->context, KIN_INVALID, "a guard is opened by kin_guard_open");
}

static void close_device(kin_device *device) {
    (void)device;
}

static bool is_hidden(const char *op, const char *hidden) {
    const size_t length = strlen(hidden);
    return strncmp(op, hidden, length) == 0 &&
           (op[length] == 0 || strcmp(op + length, "_grad") == 0);
}

static const kin_kernel *kernel_at(const kin_device *device, size_t index) {
    const kin_guard *guard = guard_of(device);
    const kin_kernel *row;
    if (!guard->hidden) return guard->inner->backend->kernel(guard->inner, index);
    for (size_t i = 0; (row = guard->inner->backend->kernel(guard->inner, i)); i++) {
        if (is_hidden(row->op, guard->hidden)) continue;
        if (index-- == 0) return row;
    }
    return NULL;
}

/* ---- memory ---- */

static kin_status allocate(kin_device *device, size_t size, kin_buffer **out_buffer) {
    kin_guard *guard = guard_of(device);
    const kin_backend *backend = guard->inner->backend;
    guard_buffer *buffer = kin_calloc(device->context, 1, sizeof *buffer);
    if (!buffer) return KIN_OUT_OF_MEMORY;
    buffer->size = size;
    guard->allocations++;
    kin_status status = backend->allocate(guard->inner, size + 2 * guard->margin, &buffer->inner);
    if (status != KIN_OK) {
        kin_free(device->context, buffer);
        return status;
    }
    status = backend->fill(guard->inner, buffer->inner, 0, guard->margin, MARK);
    if (status == KIN_OK && size)
        status = backend->fill(guard->inner, buffer->inner, guard->margin, size, POISON);
    if (status == KIN_OK)
        status =
            backend->fill(guard->inner, buffer->inner, guard->margin + size, guard->margin, MARK);
    if (status != KIN_OK) {
        backend->release(guard->inner, buffer->inner);
        kin_free(device->context, buffer);
        return status;
    }
    buffer->next = guard->buffers;
    if (buffer->next) buffer->next->previous = buffer;
    guard->buffers = buffer;
    *out_buffer = opaque(buffer);
    return KIN_OK;
}

/* Notes the first damaged byte around a buffer. */
static kin_status inspect(kin_guard *guard, guard_buffer *buffer) {
    unsigned char *bytes = guard->bytes;
    size_t margin = guard->margin;
    const kin_backend *backend = guard->inner->backend;
    for (int side = 0; side < 2 && !guard->damage[0]; side++) {
        size_t at = side ? margin + buffer->size : 0;
        kin_status status = backend->download(guard->inner, buffer->inner, at, bytes, margin);
        if (status != KIN_OK) return status;
        size_t reach = 0; /* bytes from the buffer to the farthest damaged one */
        for (size_t i = 0; i < margin; i++) {
            size_t distance = side ? i + 1 : margin - i;
            if (bytes[i] != MARK && distance > reach) reach = distance;
        }
        if (reach)
            snprintf(guard->damage, sizeof guard->damage,
                     "a kernel wrote up to %zu bytes %s a buffer of %zu bytes", reach,
                     side ? "behind" : "before", buffer->size);
    }
    return KIN_OK;
}

static void release(kin_device *device, kin_buffer *opaque_buffer) {
    kin_guard *guard = guard_of(device);
    guard_buffer *buffer = buffer_of(opaque_buffer);
    if (inspect(guard, buffer) != KIN_OK && !guard->damage[0])
        snprintf(guard->damage, sizeof guard->damage, "guard bytes cannot be read");
    if (buffer->previous) buffer->previous->next = buffer->next;
    else guard->buffers = buffer->next;
    if (buffer->next) buffer->next->previous = buffer->previous;
    guard->inner->backend->release(guard->inner, buffer->inner);
    kin_free(device->context, buffer);
}

static kin_status upload(kin_device *device, const void *source, kin_buffer *buffer, size_t offset,
                         size_t size) {
    kin_guard *guard = guard_of(device);
    return guard->inner->backend->upload(guard->inner, source, buffer_of(buffer)->inner,
                                         offset + guard->margin, size);
}

static kin_status download(kin_device *device, kin_buffer *buffer, size_t offset, void *target,
                           size_t size) {
    kin_guard *guard = guard_of(device);
    return guard->inner->backend->download(guard->inner, buffer_of(buffer)->inner,
                                           offset + guard->margin, target, size);
}

static kin_status copy(kin_device *device, kin_buffer *source, size_t source_offset,
                       kin_buffer *target, size_t target_offset, size_t size) {
    kin_guard *guard = guard_of(device);
    return guard->inner->backend->copy(guard->inner, buffer_of(source)->inner,
                                       source_offset + guard->margin, buffer_of(target)->inner,
                                       target_offset + guard->margin, size);
}

static kin_status fill(kin_device *device, kin_buffer *buffer, size_t offset, size_t size,
                       uint8_t byte) {
    kin_guard *guard = guard_of(device);
    return guard->inner->backend->fill(guard->inner, buffer_of(buffer)->inner,
                                       offset + guard->margin, size, byte);
}

/* ---- work ---- */

static guard_commands *commands_of(kin_commands *commands) {
    return (guard_commands *)(void *)commands;
}

static void discard(kin_device *device, kin_commands *opaque_commands) {
    guard_commands *commands = commands_of(opaque_commands);
    kin_device *inner = guard_of(device)->inner;
    if (commands->inner) inner->backend->discard(inner, commands->inner);
    while (commands->calls) {
        call_copy *next = commands->calls->next;
        kin_free(device->context, commands->calls);
        commands->calls = next;
    }
    kin_free(device->context, commands);
}

static kin_status begin(kin_device *device, kin_commands **out_commands) {
    kin_device *inner = guard_of(device)->inner;
    *out_commands = NULL;
    guard_commands *commands = kin_calloc(device->context, 1, sizeof *commands);
    if (!commands) return KIN_OUT_OF_MEMORY;
    kin_status status = inner->backend->begin(inner, &commands->inner);
    if (status == KIN_OK) *out_commands = (kin_commands *)(void *)commands;
    else kin_free(device->context, commands);
    return status;
}

/* A call as the inner device sees it; it belongs to the commands. NULL without memory. */
static const kin_call *translate(kin_device *device, guard_commands *commands,
                                 const kin_call *call) {
    size_t count = (size_t)(call->in_count + call->out_count);
    call_copy *made = kin_alloc(device->context, sizeof *made + count * sizeof(kin_operand));
    if (!made) return NULL;
    made->next = commands->calls;
    commands->calls = made;
    made->call = *call;
    for (int i = 0; i < call->in_count; i++) made->operands[i] = call->in[i];
    for (int j = 0; j < call->out_count; j++) made->operands[call->in_count + j] = call->out[j];
    for (size_t k = 0; k < count; k++) {
        if (!made->operands[k].buffer) continue;
        made->operands[k].buffer = buffer_of(made->operands[k].buffer)->inner;
        made->operands[k].offset += guard_of(device)->margin;
    }
    made->call.in = made->operands;
    made->call.out = made->operands + call->in_count;
    if (call->scratch) {
        made->call.scratch = buffer_of(call->scratch)->inner;
        made->call.scratch_offset += guard_of(device)->margin;
    }
    return &made->call;
}

static kin_status record(kin_device *device, kin_commands *opaque_commands,
                         const kin_kernel *kernel, const kin_call *call) {
    guard_commands *commands = commands_of(opaque_commands);
    kin_device *inner = guard_of(device)->inner;
    const kin_call *shifted = translate(device, commands, call);
    if (!shifted) return KIN_OUT_OF_MEMORY;
    return inner->backend->record(inner, commands->inner, kernel, shifted);
}

static kin_status compile(kin_device *device, kin_commands *opaque_commands,
                          const kin_kernel *const *kernels, const kin_call *calls, size_t count) {
    guard_commands *commands = commands_of(opaque_commands);
    kin_device *inner = guard_of(device)->inner;
    kin_call *shifted = kin_calloc(device->context, count, sizeof *shifted);
    kin_status status = shifted ? KIN_OK : KIN_OUT_OF_MEMORY;
    for (size_t i = 0; status == KIN_OK && i < count; i++) {
        const kin_call *one = translate(device, commands, &calls[i]);
        if (one) shifted[i] = *one;
        else status = KIN_OUT_OF_MEMORY;
    }
    if (status == KIN_OK)
        status = inner->backend->compile(inner, commands->inner, kernels, shifted, count);
    kin_free(device->context, shifted);
    return status;
}

static kin_status end(kin_device *device, kin_commands *commands) {
    kin_device *inner = guard_of(device)->inner;
    return inner->backend->end(inner, commands_of(commands)->inner);
}

/* Changes the middle element by more than the largest one. */
static void change_element(void *data, const kin_desc *desc) {
    int64_t count = kin_desc_count(desc), at = count / 2;
    double largest = 0, value = kin_element_get(data, desc->dtype, at);
    for (int64_t i = 0; i < count; i++) {
        double size = fabs(kin_element_get(data, desc->dtype, i));
        if (isfinite(size) && size > largest) largest = size;
    }
    if (desc->dtype == KIN_BOOL) value = value == 0;
    else if (!kin_dtype_is_float(desc->dtype)) value = value > 0 ? value - 1 : value + 1;
    else value = isfinite(value) ? value + (value < 0 ? -1 : 1) * (1 + largest) : 0;
    kin_element_set(data, desc->dtype, at, value);
}

/* Changes the results of the list's last call, which is the first of the copies. */
static kin_status spoil(kin_guard *guard, const guard_commands *commands) {
    const kin_backend *backend = guard->inner->backend;
    const kin_call *call = commands->calls ? &commands->calls->call : NULL;
    kin_status status = backend->wait(guard->inner);
    for (int j = 0; call && status == KIN_OK && j < call->out_count; j++) {
        const kin_operand *out = &call->out[j];
        size_t size = kin_desc_bytes(&out->desc);
        if (kin_dtype_size(out->desc.dtype) == 0) continue;
        void *data = kin_alloc(guard->inner->context, size);
        if (!data) return KIN_OUT_OF_MEMORY;
        status = backend->download(guard->inner, out->buffer, out->offset, data, size);
        if (status == KIN_OK) {
            change_element(data, &out->desc);
            status = backend->upload(guard->inner, data, out->buffer, out->offset, size);
        }
        kin_free(guard->inner->context, data);
    }
    return status;
}

static kin_status submit(kin_device *device, kin_commands *commands) {
    kin_guard *guard = guard_of(device);
    kin_status status = guard->inner->backend->submit(guard->inner, commands_of(commands)->inner);
    if (status == KIN_OK && guard->spoils) status = spoil(guard, commands_of(commands));
    return status;
}

static kin_status wait_device(kin_device *device) {
    kin_device *inner = guard_of(device)->inner;
    return inner->backend->wait(inner);
}

static kin_status timestamps(kin_device *device, kin_commands *commands, double *out_seconds,
                             size_t count) {
    kin_device *inner = guard_of(device)->inner;
    return inner->backend->timestamps(inner, commands_of(commands)->inner, out_seconds, count);
}

static kin_status set_timed(kin_device *device, kin_commands *commands, bool timed) {
    kin_device *inner = guard_of(device)->inner;
    return inner->backend->set_timed(inner, commands_of(commands)->inner, timed);
}

/* ---- the guard ---- */

kin_status kin_guard_open(kin_device *inner, kin_guard **out_guard) {
    *out_guard = NULL;
    kin_guard *guard = kin_calloc(inner->context, 1, sizeof *guard);
    if (!guard) return KIN_OUT_OF_MEMORY;
    guard->inner = inner;
    guard->margin = inner->info.alignment > 256 ? inner->info.alignment : 256;
    guard->bytes = kin_alloc(inner->context, guard->margin);
    if (!guard->bytes) {
        kin_free(inner->context, guard);
        return KIN_OUT_OF_MEMORY;
    }
    guard->table = (kin_backend){.abi = KIN_BACKEND_ABI,
                                 .struct_size = sizeof(kin_backend),
                                 .name = "guard",
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
                                 .wait = wait_device,
                                 .discard = discard,
                                 .timestamps = inner->backend->timestamps ? timestamps : NULL,
                                 .compile = inner->backend->compile ? compile : NULL,
                                 .set_timed = inner->backend->set_timed ? set_timed : NULL};
    guard->device = *inner;
    guard->device.backend = &guard->table;
    guard->device.info.granularity = 0; /* each tensor has margins of its own */
    if (guard->device.info.max_allocation > 2 * guard->margin)
        guard->device.info.max_allocation -= 2 * guard->margin;
    *out_guard = guard;
    return KIN_OK;
}

void kin_guard_close(kin_guard *guard) {
    if (!guard) return;
    kin_free(guard->inner->context, guard->bytes);
    kin_free(guard->inner->context, guard);
}

kin_device *kin_guard_device(kin_guard *guard) {
    return &guard->device;
}

void kin_guard_hide(kin_guard *guard, const char *op) {
    guard->hidden = op;
}

void kin_guard_spoil(kin_guard *guard, bool on) {
    guard->spoils = on;
}

size_t kin_guard_allocations(const kin_guard *guard) {
    return guard->allocations;
}

kin_status kin_guard_check(kin_guard *guard) {
    kin_status status = KIN_OK;
    for (guard_buffer *b = guard->buffers; status == KIN_OK && b; b = b->next)
        status = inspect(guard, b);
    if (status == KIN_OK && guard->damage[0])
        status = kin_fail(guard->inner->context, KIN_NUMERIC, "%s", guard->damage);
    guard->damage[0] = 0;
    return status;
}
