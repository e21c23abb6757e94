/* Device memory, and transfers by way of two pieces of pinned memory that alternate: while one is
 * under way, the host fills or empties the other. */
#include "backends/cuda/internal.h"

#include <string.h>

/* ---- buffers ---- */

kin_status cuda_allocate(kin_device *device, size_t size, kin_buffer **out_buffer) {
    kin_cuda_device *state = kin_cuda_of(device);
    void *address = NULL;
    *out_buffer = NULL;
    kin_status status = cuda_enter(device);
    if (status != KIN_OK) return status;
    kin_buffer *buffer = kin_calloc(device->context, 1, sizeof *buffer);
    if (buffer == NULL) return KIN_OUT_OF_MEMORY;
    int code = state->api->allocate(&address, size > 0 ? size : 1);
    if (code != 0) {
        size_t available = 0, total = 0;
        if (state->api->memory(&available, &total) != 0) available = total = 0;
        kin_free(device->context, buffer);
        return kin_fail(device->context, KIN_OUT_OF_MEMORY,
                        "%s: no memory for %zu bytes: %zu of %zu are free (%s); a smaller memory "
                        "budget lets plans keep less",
                        device->info.name, size, available, total, state->api->error_name(code));
    }
    buffer->address = address;
    buffer->size = size;
    *out_buffer = buffer;
    return KIN_OK;
}

void cuda_release(kin_device *device, kin_buffer *buffer) {
    if (buffer == NULL) return;
    if (cuda_enter(device) == KIN_OK) (void)kin_cuda_of(device)->api->release(buffer->address);
    kin_free(device->context, buffer);
}

static kin_status check_range(kin_device *device, const kin_buffer *buffer, size_t offset,
                              size_t size) {
    if (offset <= buffer->size && size <= buffer->size - offset) return cuda_enter(device);
    return kin_fail(device->context, KIN_INVALID,
                    "%s: bytes %zu to %zu of a buffer that has %zu bytes", device->info.name,
                    offset, offset + size, buffer->size);
}

/* ---- staging ---- */

kin_status cuda_open_staging(kin_device *device) {
    kin_cuda_device *state = kin_cuda_of(device);
    for (int i = 0; i < 2; i++) {
        void *memory = NULL;
        int code = state->api->allocate_pinned(&memory, CUDA_STAGING_BYTES);
        state->staging[i] = code == 0 ? memory : NULL;
        if (code == 0) code = state->api->event_create(&state->staged[i], false);
        if (code != 0) return kin_cuda_fail(device, code, "pinned memory for transfers");
    }
    return KIN_OK;
}

void cuda_close_staging(kin_device *device) {
    kin_cuda_device *state = kin_cuda_of(device);
    for (int i = 0; i < 2; i++) {
        if (state->staging[i] != NULL) (void)state->api->release_pinned(state->staging[i]);
        if (state->staged[i] != NULL) (void)state->api->event_destroy(state->staged[i]);
    }
}

static size_t piece(size_t done, size_t size) {
    return size - done < CUDA_STAGING_BYTES ? size - done : CUDA_STAGING_BYTES;
}

/* Queues one piece and marks its end. */
static int move(kin_cuda_device *state, int slot, void *target, const void *source, size_t size) {
    int code = state->api->copy(target, source, size, state->stream);
    return code == 0 ? state->api->event_record(state->staged[slot], state->stream) : code;
}

kin_status cuda_upload(kin_device *device, const void *source, kin_buffer *buffer, size_t offset,
                       size_t size) {
    kin_cuda_device *state = kin_cuda_of(device);
    kin_status status = check_range(device, buffer, offset, size);
    int code = 0, slot = 0;
    if (status != KIN_OK || size == 0) return status;
    for (size_t done = 0; done < size && code == 0; slot = 1 - slot) {
        size_t bytes = piece(done, size);
        if (done >= 2 * (size_t)CUDA_STAGING_BYTES)
            code = state->api->event_wait(state->staged[slot]);
        if (code != 0) break;
        memcpy(state->staging[slot], (const char *)source + done, bytes);
        code = move(state, slot, buffer->address + offset + done, state->staging[slot], bytes);
        done += bytes;
    }
    if (code == 0) code = state->api->stream_wait(state->stream);
    return cuda_checked(device, code, "an upload");
}

kin_status cuda_download(kin_device *device, kin_buffer *buffer, size_t offset, void *target,
                         size_t size) {
    kin_cuda_device *state = kin_cuda_of(device);
    kin_status status = check_range(device, buffer, offset, size);
    if (status != KIN_OK || size == 0) return status;
    const char *source = buffer->address + offset;
    size_t bytes = piece(0, size), next;
    int code = move(state, 0, state->staging[0], source, bytes);
    for (size_t done = 0, slot = 0; done < size && code == 0; slot = 1 - slot) {
        bytes = piece(done, size);
        next = done + bytes;
        if (next < size)
            code = move(state, 1 - (int)slot, state->staging[1 - slot], source + next,
                        piece(next, size));
        if (code == 0) code = state->api->event_wait(state->staged[slot]);
        if (code == 0) memcpy((char *)target + done, state->staging[slot], bytes);
        done = next;
    }
    if (code != 0) (void)state->api->stream_wait(state->stream);
    return cuda_checked(device, code, "a download");
}

/* Within one buffer the ranges may overlap, which CUDA does not allow: by way of other memory. */
static int copy_overlapping(kin_cuda_device *state, char *target, const char *source, size_t size) {
    void *between = NULL;
    int code = state->api->allocate(&between, size), released;
    if (code != 0) return code;
    code = state->api->copy(between, source, size, state->stream);
    if (code == 0) code = state->api->copy(target, between, size, state->stream);
    if (code == 0) code = state->api->stream_wait(state->stream);
    released = state->api->release(between);
    return code != 0 ? code : released;
}

kin_status cuda_copy(kin_device *device, kin_buffer *source, size_t source_offset,
                     kin_buffer *target, size_t target_offset, size_t size) {
    kin_cuda_device *state = kin_cuda_of(device);
    kin_status status = check_range(device, source, source_offset, size);
    if (status == KIN_OK) status = check_range(device, target, target_offset, size);
    if (status != KIN_OK || size == 0) return status;
    char *to = target->address + target_offset;
    const char *from = source->address + source_offset;
    int code;
    if (source == target && from < to + size && to < from + size) {
        code = copy_overlapping(state, to, from, size);
    } else {
        code = state->api->copy(to, from, size, state->stream);
        if (code == 0) code = state->api->stream_wait(state->stream);
    }
    return cuda_checked(device, code, "a copy");
}

kin_status cuda_fill(kin_device *device, kin_buffer *buffer, size_t offset, size_t size,
                     uint8_t byte) {
    kin_cuda_device *state = kin_cuda_of(device);
    kin_status status = check_range(device, buffer, offset, size);
    if (status != KIN_OK || size == 0) return status;
    int code = state->api->fill(buffer->address + offset, byte, size, state->stream);
    if (code == 0) code = state->api->stream_wait(state->stream);
    return cuda_checked(device, code, "a fill");
}
