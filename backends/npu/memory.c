/* Device memory, the host's way to it, and the DMA engine's. No other file sees its bytes. */
#include "npu.h"

#include <math.h>
#include <string.h>

struct kin_buffer {
    uint64_t size;
    unsigned char *bytes;
};

kin_status npu_allocate(kin_device *device, size_t size, kin_buffer **out_buffer) {
    npu_state *state = device->state;
    *out_buffer = NULL;
    if (size > NPU_MAX_ALLOCATION)
        return kin_fail(device->context, KIN_OUT_OF_MEMORY,
                        "npu: one buffer of %zu bytes; the largest that it can have is %llu", size,
                        (unsigned long long)NPU_MAX_ALLOCATION);
    if (size > NPU_MEMORY - state->used)
        return kin_fail(device->context, KIN_OUT_OF_MEMORY,
                        "npu: %zu bytes more than the %llu in use; it has %llu", size,
                        (unsigned long long)state->used, (unsigned long long)NPU_MEMORY);
    kin_buffer *buffer = kin_calloc(device->context, 1, sizeof *buffer);
    if (buffer) buffer->bytes = kin_alloc(device->context, size);
    if (!buffer || !buffer->bytes) {
        kin_free(device->context, buffer);
        return kin_fail(device->context, KIN_OUT_OF_MEMORY,
                        "npu: the host has no %zu bytes to simulate a buffer with", size);
    }
    buffer->size = size;
    state->used += size;
    *out_buffer = buffer;
    return KIN_OK;
}

void npu_release(kin_device *device, kin_buffer *buffer) {
    npu_state *state = device->state;
    if (!buffer) return;
    state->used -= buffer->size;
    kin_free(device->context, buffer->bytes);
    kin_free(device->context, buffer);
}

bool npu_holds(const kin_buffer *buffer, uint64_t offset, uint64_t size) {
    return offset <= buffer->size && size <= buffer->size - offset;
}

static kin_status check(kin_device *device, const kin_buffer *buffer, uint64_t offset,
                        uint64_t size) {
    if (npu_holds(buffer, offset, size)) return KIN_OK;
    return kin_fail(
        device->context, KIN_INVALID, "npu: %llu bytes from byte %llu of a buffer that has %llu",
        (unsigned long long)size, (unsigned long long)offset, (unsigned long long)buffer->size);
}

kin_status npu_upload(kin_device *device, const void *source, kin_buffer *buffer, size_t offset,
                      size_t size) {
    kin_status status = check(device, buffer, offset, size);
    if (status == KIN_OK && size) memcpy(buffer->bytes + offset, source, size);
    return status;
}

kin_status npu_download(kin_device *device, kin_buffer *buffer, size_t offset, void *target,
                        size_t size) {
    kin_status status = check(device, buffer, offset, size);
    if (status == KIN_OK && size) memcpy(target, buffer->bytes + offset, size);
    return status;
}

kin_status npu_copy(kin_device *device, kin_buffer *source, size_t source_offset,
                    kin_buffer *target, size_t target_offset, size_t size) {
    kin_status status = check(device, source, source_offset, size);
    if (status == KIN_OK) status = check(device, target, target_offset, size);
    if (status == KIN_OK && size)
        memmove(target->bytes + target_offset, source->bytes + source_offset, size);
    return status;
}

kin_status npu_fill(kin_device *device, kin_buffer *buffer, size_t offset, size_t size,
                    uint8_t byte) {
    kin_status status = check(device, buffer, offset, size);
    if (status == KIN_OK && size) memset(buffer->bytes + offset, byte, size);
    return status;
}

/* ---- the DMA engine; its ranges were checked when the instruction was made ---- */

static void run_level(unsigned char *memory, unsigned char *scratch, const npu_dma *dma, int level,
                      bool store) {
    const npu_level *l = &dma->level[level];
    for (int64_t i = 0; i < l->count; i++, memory += l->memory, scratch += l->scratch) {
        if (level + 1 < NPU_LEVELS) run_level(memory, scratch, dma, level + 1, store);
        else if (store) memcpy(memory, scratch, dma->run);
        else memcpy(scratch, memory, dma->run);
    }
}

void npu_run_dma(unsigned char *scratchpad, const npu_dma *dma, bool store) {
    run_level(dma->buffer->bytes + dma->offset, scratchpad + dma->scratch, dma, 0, store);
}

static void fill_nan(unsigned char *to, uint32_t bytes, kin_dtype dtype) {
    for (int64_t i = 0; i < (int64_t)(bytes / kin_dtype_size(dtype)); i++)
        kin_element_set(to, dtype, i, NAN);
}

void npu_run_gather(unsigned char *scratchpad, const npu_gather *gather) {
    unsigned char *to = scratchpad + gather->scratch;
    for (int32_t i = 0; i < gather->count; i++, to += gather->run) {
        int64_t id = 0;
        kin_convert(scratchpad + gather->ids + (size_t)i * kin_dtype_size(gather->id_dtype),
                    gather->id_dtype, &id, KIN_I64, 1);
        if (id >= 0 && id < gather->rows)
            memcpy(to, gather->buffer->bytes + gather->offset + id * gather->row_step, gather->run);
        else fill_nan(to, gather->run, gather->dtype);
    }
}
