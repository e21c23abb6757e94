/* Device memory: buffers side by side in blocks, since drivers limit the number of allocations. */
#include "backends/vulkan/core.h"

enum { ROOM_UNIT = 256 };

static const VkDeviceSize block_size = 32u << 20;

/* Kernels address words, and the last may be partly behind the tensor. */
VkDeviceSize kin_vulkan_handle_size(size_t size) {
    return ((VkDeviceSize)size + 16 + 15) / 16 * 16;
}

static VkDeviceSize round_up(VkDeviceSize value, VkDeviceSize unit) {
    return (value + unit - 1) / unit * unit;
}

/* The first type of the device's own memory, else any; UINT32_MAX if none is allowed. */
static uint32_t choose_type(const kin_vulkan_state *state, uint32_t allowed) {
    for (int own = 1; own >= 0; own--)
        for (uint32_t i = 0; i < state->memory.memoryTypeCount; i++) {
            VkMemoryPropertyFlags flags = state->memory.memoryTypes[i].propertyFlags;
            if ((allowed >> i & 1) == 0) continue;
            if (own == 0 || (flags & VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT) != 0) return i;
        }
    return UINT32_MAX;
}

static kin_status add_block(kin_device *device, uint32_t type, VkDeviceSize size,
                            kin_vulkan_block **out_block) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    kin_vulkan_block *block = kin_calloc(device->context, 1, sizeof *block);
    if (block == NULL) return KIN_OUT_OF_MEMORY;
    VkMemoryAllocateInfo info = {.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO,
                                 .allocationSize = size,
                                 .memoryTypeIndex = type};
    VkResult result = state->vk.AllocateMemory(state->device, &info, NULL, &block->memory);
    if (result != VK_SUCCESS) {
        kin_free(device->context, block);
        return kin_vulkan_check(device, result, "allocating device memory");
    }
    block->type = type;
    block->size = size;
    block->next = state->blocks;
    state->blocks = block;
    *out_block = block;
    return KIN_OK;
}

static void drop_block(kin_device *device, kin_vulkan_block *block) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    kin_vulkan_block **link = &state->blocks;
    while (*link != block) link = &(*link)->next;
    *link = block->next;
    state->vk.FreeMemory(state->device, block->memory, NULL);
    kin_free(device->context, block);
}

/* Puts the buffer into the first gap of the block that has room. */
static bool place(kin_vulkan_block *block, kin_buffer *buffer) {
    VkDeviceSize at = 0;
    kin_buffer **link = &block->first;
    while (*link != NULL && (*link)->offset - at < buffer->room) {
        at = (*link)->offset + (*link)->room;
        link = &(*link)->next;
    }
    if (*link == NULL && (at > block->size || block->size - at < buffer->room)) return false;
    buffer->block = block;
    buffer->offset = at;
    buffer->next = *link;
    *link = buffer;
    return true;
}

static void unplace(kin_buffer *buffer) {
    kin_buffer **link = &buffer->block->first;
    while (*link != buffer) link = &(*link)->next;
    *link = buffer->next;
}

static kin_status place_somewhere(kin_device *device, kin_buffer *buffer, uint32_t type) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    kin_vulkan_block *block = NULL;
    bool small = buffer->room <= block_size / 8;
    for (block = state->blocks; small && block != NULL; block = block->next)
        if (block->type == type && block->size == block_size && place(block, buffer)) return KIN_OK;
    kin_status status = add_block(device, type, small ? block_size : buffer->room, &block);
    if (status == KIN_OK) place(block, buffer);
    return status;
}

kin_status kin_vulkan_allocate(kin_device *device, size_t size, kin_buffer **out_buffer) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    *out_buffer = NULL;
    kin_status status = kin_vulkan_alive(device);
    if (status != KIN_OK) return status;
    if (device->info.max_allocation > 0 && size > device->info.max_allocation)
        return kin_fail(device->context, KIN_OUT_OF_MEMORY,
                        "%s: a buffer of %zu bytes; the largest of this device has %llu",
                        device->info.name, size, (unsigned long long)device->info.max_allocation);
    kin_buffer *buffer = kin_calloc(device->context, 1, sizeof *buffer);
    if (buffer == NULL) return KIN_OUT_OF_MEMORY;
    buffer->size = size;
    VkBufferCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO,
        .size = kin_vulkan_handle_size(size),
        .usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_UNIFORM_TEXEL_BUFFER_BIT |
                 VK_BUFFER_USAGE_TRANSFER_SRC_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT,
        .sharingMode = VK_SHARING_MODE_EXCLUSIVE,
    };
    status = kin_vulkan_check(device,
                              state->vk.CreateBuffer(state->device, &info, NULL, &buffer->handle),
                              "making a buffer");
    if (status == KIN_OK) {
        VkMemoryRequirements needs;
        state->vk.GetBufferMemoryRequirements(state->device, buffer->handle, &needs);
        buffer->room = round_up(needs.size, ROOM_UNIT);
        uint32_t type = choose_type(state, needs.memoryTypeBits);
        if (type == UINT32_MAX || needs.alignment > ROOM_UNIT)
            status = kin_fail(device->context, KIN_DEVICE,
                              "%s: no memory type of the driver serves storage buffers",
                              device->info.name);
        else status = place_somewhere(device, buffer, type);
    }
    if (status == KIN_OK)
        status = kin_vulkan_check(device,
                                  state->vk.BindBufferMemory(state->device, buffer->handle,
                                                             buffer->block->memory, buffer->offset),
                                  "binding a buffer's memory");
    if (status == KIN_OK) *out_buffer = buffer;
    else kin_vulkan_release(device, buffer);
    return status;
}

void kin_vulkan_release(kin_device *device, kin_buffer *buffer) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    if (buffer == NULL) return;
    if (state->pending) kin_vulkan_settle(device);
    if (buffer->handle != VK_NULL_HANDLE)
        state->vk.DestroyBuffer(state->device, buffer->handle, NULL);
    if (buffer->block != NULL) {
        unplace(buffer);
        if (buffer->block->first == NULL) drop_block(device, buffer->block);
    }
    kin_free(device->context, buffer);
}
