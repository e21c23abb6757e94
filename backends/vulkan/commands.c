/* Lists of work: one command buffer each, recorded once and submitted as often as wanted. */
#include "backends/vulkan/core.h"

#include <string.h>

enum {
    POOL_SETS = 256,
    POOL_BUFFERS = 4 * POOL_SETS,
    POOL_TEXELS = 2 * POOL_SETS,
    POOL_QUERIES = 256,
    TOUCHED = 64
};

/* Bytes that dispatches since the last barrier read or write. */
typedef struct touched_range {
    VkBuffer buffer;
    VkDeviceSize begin, end;
    bool write;
} touched_range;

struct kin_commands {
    VkCommandBuffer buffer, timed; /* timed: the same with timestamps, made when first wanted */
    VkCommandBuffer target;        /* what is being recorded */
    bool is_timed;                 /* submits take the timed one */
    struct recorded_call {
        const kin_kernel *kernel;
        const kin_call *call;
    } * calls;
    size_t call_count, call_capacity;
    VkDescriptorPool *set_pools; /* the last one has room */
    int set_pool_count;
    VkBufferView *views; /* of texel buffers */
    size_t view_count;
    VkQueryPool *query_pools; /* query q: pool q / POOL_QUERIES */
    int query_pool_count;
    uint32_t query_count; /* one at the start and one behind each call */
    touched_range touched[TOUCHED];
    int touched_count;
};

void kin_vulkan_full_barrier(const kin_vulkan_state *state, VkCommandBuffer commands) {
    VkMemoryBarrier barrier = {
        .sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER,
        .srcAccessMask = VK_ACCESS_MEMORY_WRITE_BIT,
        .dstAccessMask = VK_ACCESS_MEMORY_READ_BIT | VK_ACCESS_MEMORY_WRITE_BIT,
    };
    state->vk.CmdPipelineBarrier(commands, VK_PIPELINE_STAGE_ALL_COMMANDS_BIT,
                                 VK_PIPELINE_STAGE_ALL_COMMANDS_BIT | VK_PIPELINE_STAGE_HOST_BIT, 0,
                                 1, &barrier, 0, NULL, 0, NULL);
}

/* ---- growing lists ---- */

static kin_status add_set_pool(kin_device *device, kin_commands *commands) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    size_t count = (size_t)commands->set_pool_count + 1;
    VkDescriptorPool *pools =
        kin_realloc(device->context, commands->set_pools, count * sizeof *pools);
    if (pools == NULL) return KIN_OUT_OF_MEMORY;
    commands->set_pools = pools;
    VkDescriptorPoolSize sizes[2] = {{VK_DESCRIPTOR_TYPE_STORAGE_BUFFER, POOL_BUFFERS},
                                     {VK_DESCRIPTOR_TYPE_UNIFORM_TEXEL_BUFFER, POOL_TEXELS}};
    VkDescriptorPoolCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO,
        .maxSets = POOL_SETS,
        .poolSizeCount = 2,
        .pPoolSizes = sizes,
    };
    kin_status status = kin_vulkan_check(
        device, state->vk.CreateDescriptorPool(state->device, &info, NULL, &pools[count - 1]),
        "making a descriptor pool");
    if (status == KIN_OK) commands->set_pool_count++;
    return status;
}

static kin_status take_set(kin_device *device, kin_commands *commands, const kin_vulkan_work *work,
                           VkDescriptorSet *out_set) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    for (int attempt = 0; attempt < 2; attempt++) {
        if (attempt > 0 || commands->set_pool_count == 0) {
            kin_status status = add_set_pool(device, commands);
            if (status != KIN_OK) return status;
        }
        VkDescriptorSetAllocateInfo info = {
            .sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_ALLOCATE_INFO,
            .descriptorPool = commands->set_pools[commands->set_pool_count - 1],
            .descriptorSetCount = 1,
            .pSetLayouts = &state->set_layouts[work->texel_count][work->binding_count],
        };
        VkResult result = state->vk.AllocateDescriptorSets(state->device, &info, out_set);
        bool full = result == VK_ERROR_OUT_OF_POOL_MEMORY || result == VK_ERROR_FRAGMENTED_POOL;
        if (!full || attempt > 0) return kin_vulkan_check(device, result, "a descriptor set");
    }
    return KIN_OK;
}

/* A view of a texel buffer, which lives as long as the list. */
static kin_status add_view(kin_device *device, kin_commands *commands,
                           const kin_vulkan_binding *binding, VkBufferView *out_view) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    VkBufferView *views =
        kin_realloc(device->context, commands->views, (commands->view_count + 1) * sizeof *views);
    if (views == NULL) return KIN_OUT_OF_MEMORY;
    commands->views = views;
    VkBufferViewCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_BUFFER_VIEW_CREATE_INFO,
        .buffer = binding->buffer->handle,
        .format = (VkFormat)binding->format,
        .offset = binding->offset,
        .range = binding->size,
    };
    kin_status status =
        kin_vulkan_check(device, state->vk.CreateBufferView(state->device, &info, NULL, out_view),
                         "making a view of a buffer");
    if (status == KIN_OK) views[commands->view_count++] = *out_view;
    return status;
}

/* Writes the next timestamp. */
static kin_status stamp(kin_device *device, kin_commands *commands) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    if (commands->query_count % POOL_QUERIES == 0) {
        size_t count = (size_t)commands->query_pool_count + 1;
        VkQueryPool *pools =
            kin_realloc(device->context, commands->query_pools, count * sizeof *pools);
        if (pools == NULL) return KIN_OUT_OF_MEMORY;
        commands->query_pools = pools;
        VkQueryPoolCreateInfo info = {
            .sType = VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO,
            .queryType = VK_QUERY_TYPE_TIMESTAMP,
            .queryCount = POOL_QUERIES,
        };
        kin_status status = kin_vulkan_check(
            device, state->vk.CreateQueryPool(state->device, &info, NULL, &pools[count - 1]),
            "making a query pool");
        if (status != KIN_OK) return status;
        commands->query_pool_count++;
        state->vk.CmdResetQueryPool(commands->target, pools[count - 1], 0, POOL_QUERIES);
    }
    state->vk.CmdWriteTimestamp(commands->target, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT,
                                commands->query_pools[commands->query_count / POOL_QUERIES],
                                commands->query_count % POOL_QUERIES);
    commands->query_count++;
    return KIN_OK;
}

/* ---- the list ---- */

static kin_status open_buffer(kin_device *device, kin_commands *commands,
                              VkCommandBuffer *out_buffer) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    VkCommandBufferAllocateInfo one = {
        .sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
        .commandPool = state->pool,
        .level = VK_COMMAND_BUFFER_LEVEL_PRIMARY,
        .commandBufferCount = 1,
    };
    VkCommandBufferBeginInfo info = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO,
                                     .flags = VK_COMMAND_BUFFER_USAGE_SIMULTANEOUS_USE_BIT};
    VkResult result = state->vk.AllocateCommandBuffers(state->device, &one, out_buffer);
    if (result == VK_SUCCESS) result = state->vk.BeginCommandBuffer(*out_buffer, &info);
    kin_status status = kin_vulkan_check(device, result, "making a command buffer");
    if (status != KIN_OK) return status;
    commands->target = *out_buffer;
    commands->touched_count = 0;
    kin_vulkan_full_barrier(state, commands->target);
    return KIN_OK;
}

kin_status kin_vulkan_begin(kin_device *device, kin_commands **out_commands) {
    *out_commands = NULL;
    kin_status status = kin_vulkan_alive(device);
    if (status != KIN_OK) return status;
    kin_commands *commands = kin_calloc(device->context, 1, sizeof *commands);
    if (commands == NULL) return KIN_OUT_OF_MEMORY;
    status = open_buffer(device, commands, &commands->buffer);
    if (status == KIN_OK) *out_commands = commands;
    else kin_vulkan_discard(device, commands);
    return status;
}

/* Calls are kept, so that they can be recorded again with timestamps. */
kin_status kin_vulkan_record(kin_device *device, kin_commands *commands, const kin_kernel *kernel,
                             const kin_call *call) {
    if (commands->call_count == commands->call_capacity) {
        size_t capacity = commands->call_capacity > 0 ? 2 * commands->call_capacity : 64;
        struct recorded_call *calls =
            kin_realloc(device->context, commands->calls, capacity * sizeof *calls);
        if (calls == NULL) return KIN_OUT_OF_MEMORY;
        commands->calls = calls;
        commands->call_capacity = capacity;
    }
    kin_status status = kernel->launch(device, commands, call);
    if (status == KIN_OK)
        commands->calls[commands->call_count++] = (struct recorded_call){kernel, call};
    return status;
}

kin_status kin_vulkan_end(kin_device *device, kin_commands *commands) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    return kin_vulkan_check(device, state->vk.EndCommandBuffer(commands->target),
                            "closing a command buffer");
}

static kin_status record_timed(kin_device *device, kin_commands *commands) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    kin_status status = open_buffer(device, commands, &commands->timed);
    if (status == KIN_OK) status = stamp(device, commands);
    for (size_t i = 0; i < commands->call_count && status == KIN_OK; i++) {
        const struct recorded_call *one = &commands->calls[i];
        status = one->kernel->launch(device, commands, one->call);
        if (status == KIN_OK) status = stamp(device, commands);
    }
    if (status == KIN_OK) status = kin_vulkan_end(device, commands);
    if (status == KIN_OK) return KIN_OK;
    if (commands->timed != VK_NULL_HANDLE)
        state->vk.FreeCommandBuffers(state->device, state->pool, 1, &commands->timed);
    commands->timed = VK_NULL_HANDLE;
    return status;
}

kin_status kin_vulkan_set_timed(kin_device *device, kin_commands *commands, bool timed) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    kin_status status = KIN_OK;
    if (state->timestamp_bits == 0) return KIN_OK;
    if (timed && commands->timed == VK_NULL_HANDLE) status = record_timed(device, commands);
    if (status == KIN_OK) commands->is_timed = timed;
    return status;
}

kin_status kin_vulkan_submit(kin_device *device, kin_commands *commands) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    VkSubmitInfo info = {.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO,
                         .commandBufferCount = 1,
                         .pCommandBuffers =
                             commands->is_timed ? &commands->timed : &commands->buffer};
    kin_status status = kin_vulkan_alive(device);
    if (status != KIN_OK) return status;
    state->pending = true;
    return kin_vulkan_check(device, state->vk.QueueSubmit(state->queue, 1, &info, VK_NULL_HANDLE),
                            "submitting work");
}

void kin_vulkan_discard(kin_device *device, kin_commands *commands) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    if (commands == NULL) return;
    kin_vulkan_settle(device);
    for (int i = 0; i < commands->set_pool_count; i++)
        state->vk.DestroyDescriptorPool(state->device, commands->set_pools[i], NULL);
    for (size_t i = 0; i < commands->view_count; i++)
        state->vk.DestroyBufferView(state->device, commands->views[i], NULL);
    for (int i = 0; i < commands->query_pool_count; i++)
        state->vk.DestroyQueryPool(state->device, commands->query_pools[i], NULL);
    if (commands->buffer != VK_NULL_HANDLE)
        state->vk.FreeCommandBuffers(state->device, state->pool, 1, &commands->buffer);
    if (commands->timed != VK_NULL_HANDLE)
        state->vk.FreeCommandBuffers(state->device, state->pool, 1, &commands->timed);
    kin_free(device->context, commands->calls);
    kin_free(device->context, commands->set_pools);
    kin_free(device->context, commands->views);
    kin_free(device->context, commands->query_pools);
    kin_free(device->context, commands);
}

kin_status kin_vulkan_timestamps(kin_device *device, kin_commands *commands, double *out_seconds,
                                 size_t count) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    uint64_t ticks[POOL_QUERIES], before = 0;
    if (count != commands->call_count)
        return kin_fail(device->context, KIN_INVALID, "%s: %zu timestamps asked for, %zu there",
                        device->info.name, count, commands->call_count);
    if (state->timestamp_bits == 0)
        return kin_fail(device->context, KIN_UNSUPPORTED, "%s: its queue has no timer",
                        device->info.name);
    if (!commands->is_timed || commands->query_count != commands->call_count + 1)
        return kin_fail(device->context, KIN_INVALID, "%s: the work was submitted without timing",
                        device->info.name);
    uint64_t mask =
        state->timestamp_bits >= 64 ? UINT64_MAX : ((uint64_t)1 << state->timestamp_bits) - 1;
    for (uint32_t q = 0; q < commands->query_count; q++) {
        uint32_t at = q % POOL_QUERIES, left = commands->query_count - q;
        if (at == 0) {
            uint32_t some = left < POOL_QUERIES ? left : POOL_QUERIES;
            VkResult result = state->vk.GetQueryPoolResults(
                state->device, commands->query_pools[q / POOL_QUERIES], 0, some,
                some * sizeof *ticks, ticks, sizeof *ticks,
                VK_QUERY_RESULT_64_BIT | VK_QUERY_RESULT_WAIT_BIT);
            kin_status status = kin_vulkan_check(device, result, "reading timestamps");
            if (status != KIN_OK) return status;
        }
        if (q > 0)
            out_seconds[q - 1] = (double)((ticks[at] - before) & mask) * state->timestamp_seconds;
        before = ticks[at];
    }
    return KIN_OK;
}

/* ---- one dispatch ---- */

/* A barrier if the work touches what was written, or writes what was touched, since the last. */
static void order(const kin_vulkan_state *state, kin_commands *commands,
                  const kin_vulkan_work *work) {
    bool conflict = commands->touched_count + work->binding_count > TOUCHED;
    for (int i = 0; i < work->binding_count && !conflict; i++) {
        const kin_vulkan_binding *binding = &work->bindings[i];
        for (int j = 0; j < commands->touched_count && !conflict; j++) {
            const touched_range *range = &commands->touched[j];
            conflict = range->buffer == binding->buffer->handle &&
                       (range->write || binding->write) && binding->offset < range->end &&
                       range->begin < binding->offset + binding->size;
        }
    }
    if (conflict) {
        VkMemoryBarrier barrier = {
            .sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER,
            .srcAccessMask = VK_ACCESS_SHADER_WRITE_BIT,
            .dstAccessMask = VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_SHADER_WRITE_BIT,
        };
        state->vk.CmdPipelineBarrier(commands->target, VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT,
                                     VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT, 0, 1, &barrier, 0, NULL,
                                     0, NULL);
        commands->touched_count = 0;
    }
    for (int i = 0; i < work->binding_count; i++) {
        const kin_vulkan_binding *binding = &work->bindings[i];
        commands->touched[commands->touched_count++] =
            (touched_range){binding->buffer->handle, binding->offset,
                            binding->offset + binding->size, binding->write};
    }
}

/* Folds a long row of groups to a grid within the device's limits. */
static bool fold(const kin_vulkan_features *features, const uint64_t groups[3], uint32_t out[3]) {
    uint64_t grid[3] = {groups[0], groups[1], groups[2]};
    const uint32_t *most = features->max_groups;
    if (grid[1] == 1 && grid[2] == 1 && grid[0] > most[0]) {
        grid[1] = (grid[0] + most[0] - 1) / most[0];
        if (grid[1] > most[1]) {
            grid[2] = (grid[1] + most[1] - 1) / most[1];
            grid[1] = (grid[1] + grid[2] - 1) / grid[2];
        }
        grid[0] = (grid[0] + grid[1] * grid[2] - 1) / (grid[1] * grid[2]);
    }
    for (int i = 0; i < 3; i++) {
        if (grid[i] > most[i]) return false;
        out[i] = (uint32_t)grid[i];
    }
    return true;
}

static kin_status check_work(kin_device *device, const kin_vulkan_work *work) {
    const kin_vulkan_features *features = kin_vulkan_features_of(device);
    const char *fault = NULL;
    if (work->spec_count > KIN_VULKAN_SPECS) fault = "too many specialisation constants";
    else if (work->binding_count > (int)features->max_bindings) fault = "too many bindings";
    else if (work->texel_count > KIN_VULKAN_TEXELS) fault = "too many texel buffers";
    else if (work->push_size > KIN_VULKAN_PUSH_BYTES) fault = "too many push constants";
    for (int i = 0; fault == NULL && i < work->binding_count; i++) {
        const kin_vulkan_binding *binding = &work->bindings[i];
        if (binding->buffer == NULL) fault = "a binding without a buffer";
        else if (i >= work->texel_count && binding->size > features->max_range)
            fault = "a binding beyond the device's limit";
        else if (binding->offset + binding->size > kin_vulkan_handle_size(binding->buffer->size))
            fault = "a binding that ends behind its buffer";
    }
    if (fault == NULL) return KIN_OK;
    return kin_fail(device->context, KIN_INVALID, "%s: shader %s: %s", device->info.name,
                    work->shader, fault);
}

static kin_status bind_set(kin_device *device, kin_commands *commands,
                           const kin_vulkan_work *work) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    VkDescriptorBufferInfo buffers[KIN_VULKAN_BINDINGS];
    VkWriteDescriptorSet writes[KIN_VULKAN_BINDINGS];
    VkBufferView views[KIN_VULKAN_TEXELS];
    VkDescriptorSet set = VK_NULL_HANDLE;
    kin_status status = take_set(device, commands, work, &set);
    if (status != KIN_OK) return status;
    for (int i = 0; i < work->binding_count; i++) {
        const kin_vulkan_binding *binding = &work->bindings[i];
        buffers[i] =
            (VkDescriptorBufferInfo){binding->buffer->handle, binding->offset, binding->size};
        writes[i] = (VkWriteDescriptorSet){
            .sType = VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET,
            .dstSet = set,
            .dstBinding = (uint32_t)i,
            .descriptorCount = 1,
            .descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER,
            .pBufferInfo = &buffers[i],
        };
        if (i >= work->texel_count) continue;
        status = add_view(device, commands, binding, &views[i]);
        if (status != KIN_OK) return status;
        writes[i].descriptorType = VK_DESCRIPTOR_TYPE_UNIFORM_TEXEL_BUFFER;
        writes[i].pTexelBufferView = &views[i];
    }
    state->vk.UpdateDescriptorSets(state->device, (uint32_t)work->binding_count, writes, 0, NULL);
    state->vk.CmdBindDescriptorSets(commands->target, VK_PIPELINE_BIND_POINT_COMPUTE,
                                    state->layouts[work->texel_count][work->binding_count], 0, 1,
                                    &set, 0, NULL);
    return KIN_OK;
}

kin_status kin_vulkan_launch(kin_device *device, kin_commands *commands,
                             const kin_vulkan_work *work) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    uint32_t grid[3];
    VkPipeline pipeline = VK_NULL_HANDLE;
    if (work->groups[0] == 0 || work->groups[1] == 0 || work->groups[2] == 0) return KIN_OK;
    kin_status status = check_work(device, work);
    if (status == KIN_OK && !fold(&state->features, work->groups, grid))
        status = kin_fail(device->context, KIN_INVALID, "%s: shader %s: too many work groups",
                          device->info.name, work->shader);
    if (status == KIN_OK) status = kin_vulkan_pipeline_for(device, work, &pipeline);
    if (status != KIN_OK) return status;
    order(state, commands, work);
    state->vk.CmdBindPipeline(commands->target, VK_PIPELINE_BIND_POINT_COMPUTE, pipeline);
    status = bind_set(device, commands, work);
    if (status != KIN_OK) return status;
    if (work->push_size > 0)
        state->vk.CmdPushConstants(
            commands->target, state->layouts[work->texel_count][work->binding_count],
            VK_SHADER_STAGE_COMPUTE_BIT, 0, (uint32_t)work->push_size, work->push);
    state->vk.CmdDispatch(commands->target, grid[0], grid[1], grid[2]);
    return KIN_OK;
}
