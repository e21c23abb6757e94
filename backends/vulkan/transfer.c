/* Bytes between host and device, in pieces through a buffer that stays mapped. */
#include "backends/vulkan/core.h"

#include <string.h>

enum { STAGING_BYTES = 8 << 20 };

/* Coherent memory, cached by the host where there is such: reading back is slow otherwise. */
static uint32_t choose_host_type(const kin_vulkan_state *state, uint32_t allowed) {
    const VkMemoryPropertyFlags need =
        VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
    for (int cached = 1; cached >= 0; cached--)
        for (uint32_t i = 0; i < state->memory.memoryTypeCount; i++) {
            VkMemoryPropertyFlags want = need | (cached ? VK_MEMORY_PROPERTY_HOST_CACHED_BIT : 0);
            VkMemoryPropertyFlags flags = state->memory.memoryTypes[i].propertyFlags;
            if ((allowed >> i & 1) != 0 && (flags & want) == want) return i;
        }
    return UINT32_MAX;
}

kin_status kin_vulkan_staging_open(kin_device *device) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    kin_vulkan_staging *staging = &state->staging;
    VkMemoryRequirements needs;
    staging->size = STAGING_BYTES;
    VkBufferCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO,
        .size = STAGING_BYTES,
        .usage = VK_BUFFER_USAGE_TRANSFER_SRC_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT,
        .sharingMode = VK_SHARING_MODE_EXCLUSIVE,
    };
    VkCommandBufferAllocateInfo one = {
        .sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
        .commandPool = state->pool,
        .level = VK_COMMAND_BUFFER_LEVEL_PRIMARY,
        .commandBufferCount = 1,
    };
    VkResult result = state->vk.CreateBuffer(state->device, &info, NULL, &staging->buffer);
    if (result == VK_SUCCESS) {
        state->vk.GetBufferMemoryRequirements(state->device, staging->buffer, &needs);
        VkMemoryAllocateInfo memory = {
            .sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO,
            .allocationSize = needs.size,
            .memoryTypeIndex = choose_host_type(state, needs.memoryTypeBits),
        };
        if (memory.memoryTypeIndex == UINT32_MAX)
            return kin_fail(device->context, KIN_DEVICE, "%s: no memory that the host can write",
                            device->info.name);
        result = state->vk.AllocateMemory(state->device, &memory, NULL, &staging->memory);
    }
    if (result == VK_SUCCESS)
        result = state->vk.BindBufferMemory(state->device, staging->buffer, staging->memory, 0);
    if (result == VK_SUCCESS)
        result = state->vk.MapMemory(state->device, staging->memory, 0, VK_WHOLE_SIZE, 0,
                                     (void **)&staging->data);
    if (result == VK_SUCCESS)
        result = state->vk.AllocateCommandBuffers(state->device, &one, &staging->commands);
    return kin_vulkan_check(device, result, "making the buffer for transfers");
}

void kin_vulkan_staging_close(kin_device *device) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    kin_vulkan_staging *staging = &state->staging;
    if (staging->buffer != VK_NULL_HANDLE)
        state->vk.DestroyBuffer(state->device, staging->buffer, NULL);
    if (staging->memory != VK_NULL_HANDLE)
        state->vk.FreeMemory(state->device, staging->memory, NULL);
    memset(staging, 0, sizeof *staging);
}

/* ---- one short list of transfer commands, run at once ---- */

static kin_status begin_transfer(kin_device *device) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    VkCommandBufferBeginInfo info = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO,
                                     .flags = VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT};
    kin_status status = kin_vulkan_alive(device);
    if (status == KIN_OK)
        status =
            kin_vulkan_check(device, state->vk.BeginCommandBuffer(state->staging.commands, &info),
                             "recording a transfer");
    if (status == KIN_OK) kin_vulkan_full_barrier(state, state->staging.commands);
    return status;
}

static kin_status run_transfer(kin_device *device) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    kin_vulkan_full_barrier(state, state->staging.commands);
    VkSubmitInfo info = {.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO,
                         .commandBufferCount = 1,
                         .pCommandBuffers = &state->staging.commands};
    VkResult result = state->vk.EndCommandBuffer(state->staging.commands);
    if (result == VK_SUCCESS)
        result = state->vk.QueueSubmit(state->queue, 1, &info, VK_NULL_HANDLE);
    if (result == VK_SUCCESS) result = state->vk.QueueWaitIdle(state->queue);
    return kin_vulkan_check(device, result, "a transfer");
}

static kin_status check_range(kin_device *device, const kin_buffer *buffer, size_t offset,
                              size_t size) {
    if (offset <= buffer->size && size <= buffer->size - offset) return KIN_OK;
    return kin_fail(device->context, KIN_INVALID,
                    "%s: bytes %zu to %zu of a buffer that has %zu bytes", device->info.name,
                    offset, offset + size, buffer->size);
}

static size_t piece_of(const kin_vulkan_state *state, size_t left) {
    return left < state->staging.size ? left : state->staging.size;
}

kin_status kin_vulkan_upload(kin_device *device, const void *source, kin_buffer *buffer,
                             size_t offset, size_t size) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    kin_status status = check_range(device, buffer, offset, size);
    for (size_t done = 0; status == KIN_OK && done < size;) {
        size_t piece = piece_of(state, size - done);
        VkBufferCopy region = {0, offset + done, piece};
        memcpy(state->staging.data, (const unsigned char *)source + done, piece);
        status = begin_transfer(device);
        if (status != KIN_OK) break;
        state->vk.CmdCopyBuffer(state->staging.commands, state->staging.buffer, buffer->handle, 1,
                                &region);
        status = run_transfer(device);
        done += piece;
    }
    return status;
}

kin_status kin_vulkan_download(kin_device *device, kin_buffer *buffer, size_t offset, void *target,
                               size_t size) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    kin_status status = check_range(device, buffer, offset, size);
    for (size_t done = 0; status == KIN_OK && done < size;) {
        size_t piece = piece_of(state, size - done);
        VkBufferCopy region = {offset + done, 0, piece};
        status = begin_transfer(device);
        if (status != KIN_OK) break;
        state->vk.CmdCopyBuffer(state->staging.commands, buffer->handle, state->staging.buffer, 1,
                                &region);
        status = run_transfer(device);
        if (status == KIN_OK) memcpy((unsigned char *)target + done, state->staging.data, piece);
        done += piece;
    }
    return status;
}

/* Ranges of one buffer may overlap, as with memmove: then the bytes go by way of the staging
 * buffer, piece by piece from the side that is overwritten first. */
static kin_status copy_overlapping(kin_device *device, kin_buffer *buffer, size_t from, size_t to,
                                   size_t size) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    kin_status status = KIN_OK;
    for (size_t done = 0; status == KIN_OK && done < size;) {
        size_t piece = piece_of(state, size - done);
        size_t at = to < from ? done : size - done - piece;
        VkBufferCopy out = {from + at, 0, piece}, in = {0, to + at, piece};
        status = begin_transfer(device);
        if (status != KIN_OK) break;
        state->vk.CmdCopyBuffer(state->staging.commands, buffer->handle, state->staging.buffer, 1,
                                &out);
        kin_vulkan_full_barrier(state, state->staging.commands);
        state->vk.CmdCopyBuffer(state->staging.commands, state->staging.buffer, buffer->handle, 1,
                                &in);
        status = run_transfer(device);
        done += piece;
    }
    return status;
}

kin_status kin_vulkan_copy(kin_device *device, kin_buffer *source, size_t source_offset,
                           kin_buffer *target, size_t target_offset, size_t size) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    kin_status status = check_range(device, source, source_offset, size);
    if (status == KIN_OK) status = check_range(device, target, target_offset, size);
    if (status != KIN_OK || size == 0 || (source == target && source_offset == target_offset))
        return status;
    if (source == target && source_offset < target_offset + size &&
        target_offset < source_offset + size)
        return copy_overlapping(device, source, source_offset, target_offset, size);
    status = begin_transfer(device);
    if (status != KIN_OK) return status;
    VkBufferCopy region = {source_offset, target_offset, size};
    state->vk.CmdCopyBuffer(state->staging.commands, source->handle, target->handle, 1, &region);
    return run_transfer(device);
}

/* Vulkan fills whole words; the bytes before and behind them are uploaded. */
kin_status kin_vulkan_fill(kin_device *device, kin_buffer *buffer, size_t offset, size_t size,
                           uint8_t byte) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    unsigned char edge[4] = {byte, byte, byte, byte};
    kin_status status = check_range(device, buffer, offset, size);
    size_t before = (4 - offset % 4) % 4;
    if (before > size) before = size;
    size_t behind = (size - before) % 4, words = size - before - behind;
    if (status == KIN_OK && before > 0)
        status = kin_vulkan_upload(device, edge, buffer, offset, before);
    if (status == KIN_OK && behind > 0)
        status = kin_vulkan_upload(device, edge, buffer, offset + before + words, behind);
    if (status != KIN_OK || words == 0) return status;
    status = begin_transfer(device);
    if (status != KIN_OK) return status;
    state->vk.CmdFillBuffer(state->staging.commands, buffer->handle, offset + before, words,
                            byte * 0x01010101u);
    return run_transfer(device);
}
