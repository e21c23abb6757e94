/* Finding, opening and closing devices. */
#include "backends/vulkan/core.h"

#include <stdio.h>
#include <string.h>

enum { MAX_DEVICES = 16, MIN_BINDINGS = 8, LARGEST_MARGIN = 65536 };

/* ---- errors ---- */

static const char *result_text(VkResult result) {
    switch (result) {
    case VK_ERROR_OUT_OF_HOST_MEMORY:
        return "the host's memory does not suffice";
    case VK_ERROR_OUT_OF_DEVICE_MEMORY:
        return "the device's memory does not suffice";
    case VK_ERROR_DEVICE_LOST:
        return "the device was lost (it hung, was reset or was unplugged); nothing on it can be "
               "used any more: close it and open it again";
    case VK_ERROR_INITIALIZATION_FAILED:
        return "the driver could not start";
    case VK_ERROR_TOO_MANY_OBJECTS:
        return "the driver allows no more objects of this kind";
    case VK_ERROR_FEATURE_NOT_PRESENT:
        return "the driver lacks a feature that it reported";
    case VK_ERROR_EXTENSION_NOT_PRESENT:
        return "the driver lacks an extension that it reported";
    default:
        return "the driver failed";
    }
}

kin_status kin_vulkan_check(kin_device *device, VkResult result, const char *what) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    if (result == VK_SUCCESS) return KIN_OK;
    if (result == VK_ERROR_DEVICE_LOST) state->lost = true;
    bool memory = result == VK_ERROR_OUT_OF_HOST_MEMORY || result == VK_ERROR_OUT_OF_DEVICE_MEMORY;
    return kin_fail(device->context, memory ? KIN_OUT_OF_MEMORY : KIN_DEVICE,
                    "%s: %s: %s (VkResult %d)", device->info.name, what, result_text(result),
                    (int)result);
}

kin_status kin_vulkan_alive(kin_device *device) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    if (!state->lost) return KIN_OK;
    return kin_vulkan_check(device, VK_ERROR_DEVICE_LOST, "using the device");
}

void kin_vulkan_settle(kin_device *device) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    if (!state->pending) return;
    VkResult result = state->vk.QueueWaitIdle(state->queue);
    if (result == VK_ERROR_DEVICE_LOST) state->lost = true;
    state->pending = false;
}

kin_status kin_vulkan_wait(kin_device *device) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    kin_status status = kin_vulkan_alive(device);
    if (status == KIN_OK && state->pending)
        status = kin_vulkan_check(device, state->vk.QueueWaitIdle(state->queue), "running work");
    state->pending = false;
    if (status != KIN_OK || state->message[0] == '\0') return status;
    status = kin_fail(device->context, KIN_DEVICE, "%s: a Vulkan layer says: %s", device->info.name,
                      state->message);
    state->message[0] = '\0';
    return status;
}

/* The layers' messages: the first goes to the next wait, each to the log. */
static VKAPI_ATTR VkBool32 VKAPI_CALL take_message(VkDebugUtilsMessageSeverityFlagBitsEXT severity,
                                                   VkDebugUtilsMessageTypeFlagsEXT types,
                                                   const VkDebugUtilsMessengerCallbackDataEXT *data,
                                                   void *user) {
    kin_device *device = user;
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    (void)severity, (void)types;
    if (state->message[0] == '\0')
        snprintf(state->message, sizeof state->message, "%s",
                 data->pMessage != NULL && data->pMessage[0] != '\0' ? data->pMessage : "?");
    kin_log(device->context, KIN_LOG_ERROR, "%s: Vulkan layer: %s", device->info.name,
            data->pMessage != NULL ? data->pMessage : "?");
    return VK_FALSE;
}

static void open_messenger(kin_device *device) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    if (!state->loader.has_debug || state->loader.CreateDebugUtilsMessengerEXT == NULL) return;
    VkDebugUtilsMessengerCreateInfoEXT info = {
        .sType = VK_STRUCTURE_TYPE_DEBUG_UTILS_MESSENGER_CREATE_INFO_EXT,
        .messageSeverity = VK_DEBUG_UTILS_MESSAGE_SEVERITY_WARNING_BIT_EXT |
                           VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT,
        .messageType = VK_DEBUG_UTILS_MESSAGE_TYPE_VALIDATION_BIT_EXT |
                       VK_DEBUG_UTILS_MESSAGE_TYPE_PERFORMANCE_BIT_EXT,
        .pfnUserCallback = take_message,
        .pUserData = device,
    };
    state->loader.CreateDebugUtilsMessengerEXT(state->loader.instance, &info, NULL,
                                               &state->messenger);
}

/* ---- choosing ---- */

/* A queue family that computes, one without graphics if there is such; UINT32_MAX if none. */
static uint32_t choose_queue(const kin_vulkan_loader *loader, VkPhysicalDevice physical,
                             uint32_t *out_timestamp_bits) {
    VkQueueFamilyProperties families[32];
    uint32_t count = sizeof families / sizeof *families, best = UINT32_MAX;
    loader->GetPhysicalDeviceQueueFamilyProperties(physical, &count, families);
    for (uint32_t i = 0; i < count; i++) {
        bool graphics = (families[i].queueFlags & VK_QUEUE_GRAPHICS_BIT) != 0;
        if ((families[i].queueFlags & VK_QUEUE_COMPUTE_BIT) == 0) continue;
        if (best == UINT32_MAX || !graphics) best = i;
        if (!graphics) break;
    }
    if (best != UINT32_MAX) *out_timestamp_bits = families[best].timestampValidBits;
    return best;
}

/* What keeps a device from serving; NULL if nothing does. */
static const char *unfit(const kin_vulkan_loader *loader, VkPhysicalDevice physical) {
    VkPhysicalDeviceProperties2 properties = {.sType =
                                                  VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2};
    uint32_t bits;
    loader->GetPhysicalDeviceProperties2(physical, &properties);
    if (properties.properties.apiVersion < VK_API_VERSION_1_2)
        return "the Vulkan driver is older than Vulkan 1.2";
    if (properties.properties.limits.maxPerStageDescriptorStorageBuffers < MIN_BINDINGS)
        return "the Vulkan driver has fewer than 8 storage buffers for a shader";
    if (choose_queue(loader, physical, &bits) == UINT32_MAX)
        return "the Vulkan driver has no queue that computes";
    return NULL;
}

/* The devices that serve, in the loader's order. */
static int list_devices(const kin_vulkan_loader *loader, VkPhysicalDevice out_list[MAX_DEVICES],
                        const char **out_why) {
    VkPhysicalDevice all[MAX_DEVICES];
    uint32_t count = MAX_DEVICES;
    int fit = 0;
    *out_why = "there is no Vulkan driver (Debian's package: mesa-vulkan-drivers)";
    VkResult result = loader->EnumeratePhysicalDevices(loader->instance, &count, all);
    if (result != VK_SUCCESS && result != VK_INCOMPLETE) return 0;
    for (uint32_t i = 0; i < count; i++) {
        const char *why = unfit(loader, all[i]);
        if (why == NULL) out_list[fit++] = all[i];
        else *out_why = why;
    }
    return fit;
}

int kin_vulkan_count(kin_context *context, const char **out_why) {
    kin_vulkan_loader loader;
    VkPhysicalDevice list[MAX_DEVICES];
    const char *why = NULL;
    int count = 0;
    (void)context;
    if (kin_vulkan_load(&loader, false, &why)) {
        count = list_devices(&loader, list, &why);
        kin_vulkan_unload(&loader);
    }
    if (out_why != NULL) *out_why = count > 0 ? NULL : why;
    return count;
}

/* ---- features ---- */

/* What is asked of the driver, and answered by it. The extensions' parts are chained only where the
 * extension is there. */
typedef struct feature_chain {
    VkPhysicalDeviceFeatures2 core;
    VkPhysicalDeviceVulkan11Features v11;
    VkPhysicalDeviceVulkan12Features v12;
    VkPhysicalDeviceSubgroupSizeControlFeatures subgroup;
    VkPhysicalDeviceCooperativeMatrixFeaturesNV matrix;
    bool has_subgroup, has_matrix, has_budget;
} feature_chain;

static void link_chain(feature_chain *chain) {
    void *next = NULL;
    chain->core.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2;
    chain->v11.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_FEATURES;
    chain->v12.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES;
    chain->subgroup.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_FEATURES;
    chain->matrix.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_NV;
    if (chain->has_matrix) {
        chain->matrix.pNext = next;
        next = &chain->matrix;
    }
    if (chain->has_subgroup) {
        chain->subgroup.pNext = next;
        next = &chain->subgroup;
    }
    chain->v12.pNext = next;
    chain->v11.pNext = &chain->v12;
    chain->core.pNext = &chain->v11;
}

static kin_status find_extensions(kin_device *device, feature_chain *chain) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    uint32_t count = 0;
    state->loader.EnumerateDeviceExtensionProperties(state->physical, NULL, &count, NULL);
    VkExtensionProperties *list = kin_calloc(device->context, (size_t)count + 1, sizeof *list);
    if (list == NULL) return KIN_OUT_OF_MEMORY;
    state->loader.EnumerateDeviceExtensionProperties(state->physical, NULL, &count, list);
    for (uint32_t i = 0; i < count; i++) {
        const char *name = list[i].extensionName;
        if (strcmp(name, VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME) == 0)
            chain->has_subgroup = true;
        if (strcmp(name, VK_NV_COOPERATIVE_MATRIX_EXTENSION_NAME) == 0) chain->has_matrix = true;
        if (strcmp(name, VK_EXT_MEMORY_BUDGET_EXTENSION_NAME) == 0) chain->has_budget = true;
    }
    kin_free(device->context, list);
    return KIN_OK;
}

/* Keeps of what the driver offers what kernels may use. */
static void choose_features(const feature_chain *offered, feature_chain *wanted) {
    const VkPhysicalDeviceFeatures *core = &offered->core.features;
    *wanted = (feature_chain){.has_subgroup = offered->has_subgroup,
                              .has_matrix = offered->has_matrix,
                              .has_budget = offered->has_budget};
    wanted->core.features.shaderInt16 = core->shaderInt16;
    wanted->core.features.shaderInt64 = core->shaderInt64;
    wanted->v11.storageBuffer16BitAccess = offered->v11.storageBuffer16BitAccess;
    wanted->v12.storageBuffer8BitAccess = offered->v12.storageBuffer8BitAccess;
    wanted->v12.shaderFloat16 = offered->v12.shaderFloat16;
    wanted->v12.shaderInt8 = offered->v12.shaderInt8;
    wanted->v12.shaderSubgroupExtendedTypes = offered->v12.shaderSubgroupExtendedTypes;
    wanted->v12.vulkanMemoryModel = offered->v12.vulkanMemoryModel;
    wanted->v12.vulkanMemoryModelDeviceScope =
        offered->v12.vulkanMemoryModel && offered->v12.vulkanMemoryModelDeviceScope;
    wanted->subgroup.subgroupSizeControl = offered->subgroup.subgroupSizeControl;
    wanted->subgroup.computeFullSubgroups = offered->subgroup.computeFullSubgroups;
    wanted->matrix.cooperativeMatrix = offered->matrix.cooperativeMatrix;
    link_chain(wanted);
}

static void list_matrices(kin_vulkan_state *state) {
    kin_vulkan_features *features = &state->features;
    VkCooperativeMatrixPropertiesNV list[64];
    uint32_t count = sizeof list / sizeof *list;
    if (state->loader.GetPhysicalDeviceCooperativeMatrixPropertiesNV == NULL) return;
    for (uint32_t i = 0; i < count; i++)
        list[i] = (VkCooperativeMatrixPropertiesNV){
            .sType = VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_PROPERTIES_NV};
    VkResult result =
        state->loader.GetPhysicalDeviceCooperativeMatrixPropertiesNV(state->physical, &count, list);
    if (result != VK_SUCCESS && result != VK_INCOMPLETE) return;
    for (uint32_t i = 0; i < count && features->matrix_count < KIN_VULKAN_MATRICES; i++) {
        const VkCooperativeMatrixPropertiesNV *p = &list[i];
        bool floats = (uint32_t)p->AType < 2 && (uint32_t)p->BType < 2 && (uint32_t)p->CType < 2;
        if (p->scope != VK_SCOPE_SUBGROUP_NV || !floats) continue;
        features->matrices[features->matrix_count++] = (kin_vulkan_matrix){
            p->MSize,           p->NSize,           p->KSize,          (uint32_t)p->AType,
            (uint32_t)p->BType, (uint32_t)p->CType, (uint32_t)p->DType};
    }
}

static void fill_features(kin_vulkan_state *state, const feature_chain *chosen,
                          const VkPhysicalDeviceProperties *properties,
                          const VkPhysicalDeviceVulkan11Properties *v11,
                          const VkPhysicalDeviceSubgroupSizeControlProperties *sizes) {
    const VkPhysicalDeviceLimits *limits = &properties->limits;
    kin_vulkan_features *features = &state->features;
    *features = (kin_vulkan_features){
        .is_cpu = properties->deviceType == VK_PHYSICAL_DEVICE_TYPE_CPU,
        .vendor = properties->vendorID,
        .subgroup_size = v11->subgroupSize,
        .storage16 = chosen->v11.storageBuffer16BitAccess,
        .storage8 = chosen->v12.storageBuffer8BitAccess,
        .float16 = chosen->v12.shaderFloat16,
        .int16 = chosen->core.features.shaderInt16,
        .int8 = chosen->v12.shaderInt8,
        .int64 = chosen->core.features.shaderInt64,
        .memory_model = chosen->v12.vulkanMemoryModel,
        .max_group_invocations = limits->maxComputeWorkGroupInvocations,
        .shared_bytes = limits->maxComputeSharedMemorySize,
        .max_bindings = limits->maxPerStageDescriptorStorageBuffers,
        .max_range = limits->maxStorageBufferRange,
        .binding_alignment = (uint32_t)limits->minStorageBufferOffsetAlignment,
        .texel_alignment = (uint32_t)limits->minTexelBufferOffsetAlignment,
        .max_texels = limits->maxTexelBufferElements,
    };
    if ((v11->subgroupSupportedStages & VK_SHADER_STAGE_COMPUTE_BIT) != 0)
        features->subgroup_operations = v11->subgroupSupportedOperations;
    if (chosen->subgroup.subgroupSizeControl &&
        (sizes->requiredSubgroupSizeStages & VK_SHADER_STAGE_COMPUTE_BIT) != 0) {
        features->subgroup_min = sizes->minSubgroupSize;
        features->subgroup_max = sizes->maxSubgroupSize;
    }
    for (int i = 0; i < 3; i++) {
        features->max_group_size[i] = limits->maxComputeWorkGroupSize[i];
        features->max_groups[i] = limits->maxComputeWorkGroupCount[i];
    }
    if (features->max_bindings > KIN_VULKAN_BINDINGS) features->max_bindings = KIN_VULKAN_BINDINGS;
    if (features->binding_alignment < 16) features->binding_alignment = 16;
    if (features->texel_alignment < 16) features->texel_alignment = 16;
    if (chosen->matrix.cooperativeMatrix) list_matrices(state);
}

const kin_vulkan_features *kin_vulkan_features_of(const kin_device *device) {
    return &kin_vulkan_state_of(device)->features;
}

/* ---- opening ---- */

static kin_status make_device(kin_device *device, const feature_chain *chosen) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    const char *extensions[3];
    float priority = 1;
    uint32_t count = 0;
    if (chosen->has_subgroup) extensions[count++] = VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME;
    if (chosen->has_matrix) extensions[count++] = VK_NV_COOPERATIVE_MATRIX_EXTENSION_NAME;
    if (chosen->has_budget) extensions[count++] = VK_EXT_MEMORY_BUDGET_EXTENSION_NAME;
    VkDeviceQueueCreateInfo queue = {
        .sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO,
        .queueFamilyIndex = state->queue_family,
        .queueCount = 1,
        .pQueuePriorities = &priority,
    };
    VkDeviceCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
        .pNext = &chosen->core,
        .queueCreateInfoCount = 1,
        .pQueueCreateInfos = &queue,
        .enabledExtensionCount = count,
        .ppEnabledExtensionNames = extensions,
    };
    kin_status status = kin_vulkan_check(
        device, state->loader.CreateDevice(state->physical, &info, NULL, &state->device),
        "opening the device");
    if (status != KIN_OK) return status;
    if (!kin_vulkan_load_device(&state->loader, state->device, &state->vk)) {
        if (state->vk.DestroyDevice != NULL) state->vk.DestroyDevice(state->device, NULL);
        state->device = VK_NULL_HANDLE;
        return kin_fail(device->context, KIN_DEVICE,
                        "%s: the driver lacks a function of Vulkan 1.1", device->info.name);
    }
    state->vk.GetDeviceQueue(state->device, state->queue_family, 0, &state->queue);
    VkCommandPoolCreateInfo pool = {
        .sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO,
        .flags = VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT,
        .queueFamilyIndex = state->queue_family,
    };
    return kin_vulkan_check(device,
                            state->vk.CreateCommandPool(state->device, &pool, NULL, &state->pool),
                            "making a command pool");
}

/* Sizes of the largest heap of the device's own memory. */
static void describe_memory(kin_device *device, bool has_budget) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    VkPhysicalDeviceMemoryBudgetPropertiesEXT budget = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_BUDGET_PROPERTIES_EXT};
    VkPhysicalDeviceMemoryProperties2 memory = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PROPERTIES_2,
        .pNext = has_budget ? &budget : NULL};
    state->loader.GetPhysicalDeviceMemoryProperties2(state->physical, &memory);
    state->memory = memory.memoryProperties;
    for (uint32_t i = 0; i < state->memory.memoryHeapCount; i++) {
        const VkMemoryHeap *heap = &state->memory.memoryHeaps[i];
        if ((heap->flags & VK_MEMORY_HEAP_DEVICE_LOCAL_BIT) == 0 ||
            heap->size <= device->info.memory_total)
            continue;
        device->info.memory_total = heap->size;
        if (has_budget && budget.heapBudget[i] > budget.heapUsage[i])
            device->info.memory_free = budget.heapBudget[i] - budget.heapUsage[i];
    }
}

static kin_status describe(kin_device *device, feature_chain *offered, feature_chain *chosen) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    VkPhysicalDeviceSubgroupSizeControlProperties sizes = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_PROPERTIES};
    VkPhysicalDeviceVulkan11Properties v11 = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_PROPERTIES};
    VkPhysicalDeviceVulkan12Properties v12 = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_PROPERTIES, .pNext = &v11};
    VkPhysicalDeviceProperties2 properties = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2, .pNext = &v12};
    kin_status status = find_extensions(device, offered);
    if (status != KIN_OK) return status;
    if (offered->has_subgroup) v11.pNext = &sizes;
    state->loader.GetPhysicalDeviceProperties2(state->physical, &properties);
    link_chain(offered);
    state->loader.GetPhysicalDeviceFeatures2(state->physical, &offered->core);
    choose_features(offered, chosen);
    fill_features(state, chosen, &properties.properties, &v11, &sizes);
    state->timestamp_seconds = 1e-9 * (double)properties.properties.limits.timestampPeriod;
    snprintf(device->info.description, sizeof device->info.description, "%.80s, %.30s %.40s",
             properties.properties.deviceName, v12.driverName, v12.driverInfo);
    /* Less what is added behind each buffer. */
    device->info.max_allocation = v11.maxMemoryAllocationSize - LARGEST_MARGIN;
    device->info.alignment =
        state->features.binding_alignment > 64 ? state->features.binding_alignment : 64;
    device->info.dtypes = 1u << KIN_F32 | 1u << KIN_F16 | 1u << KIN_BF16 | 1u << KIN_I32 |
                          1u << KIN_I64 | 1u << KIN_U8 | 1u << KIN_BOOL | 1u << KIN_Q8_0;
    device->info.threads = 1;
    describe_memory(device, offered->has_budget);
    return KIN_OK;
}

static kin_status open_index(kin_device *device, int index) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    VkPhysicalDevice list[MAX_DEVICES];
    feature_chain offered = {0}, chosen = {0};
    const char *why = NULL;
    snprintf(device->info.name, sizeof device->info.name, "vulkan%d", index);
    bool validation;
    kin_status status = kin_vulkan_wants_validation(device, &validation);
    if (status != KIN_OK) return status;
    if (!kin_vulkan_load(&state->loader, validation, &why))
        return kin_fail(device->context, KIN_NOT_FOUND, "vulkan: %s", why);
    int count = list_devices(&state->loader, list, &why);
    if (count == 0) return kin_fail(device->context, KIN_NOT_FOUND, "vulkan: %s", why);
    if (index < 0 || index >= count)
        return kin_fail(device->context, KIN_NOT_FOUND, "vulkan: no device %d; there are %d", index,
                        count);
    state->physical = list[index];
    state->queue_family = choose_queue(&state->loader, state->physical, &state->timestamp_bits);
    open_messenger(device);
    status = describe(device, &offered, &chosen);
    if (status == KIN_OK) status = kin_vulkan_apply_settings(device);
    if (status == KIN_OK) status = make_device(device, &chosen);
    if (status == KIN_OK) status = kin_vulkan_staging_open(device);
    if (status == KIN_OK) status = kin_vulkan_allocate(device, 4, &state->zeros);
    if (status == KIN_OK) status = kin_vulkan_fill(device, state->zeros, 0, 4, 0);
    return status;
}

kin_status kin_vulkan_open(kin_device *device, int index) {
    kin_vulkan_state *state = kin_calloc(device->context, 1, sizeof *state);
    if (state == NULL) return KIN_OUT_OF_MEMORY;
    device->state = state;
    device->info = (kin_device_info){0};
    kin_status status = open_index(device, index);
    if (status != KIN_OK) kin_vulkan_close(device);
    return status;
}

void kin_vulkan_close(kin_device *device) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    if (state == NULL) return;
    if (state->device != VK_NULL_HANDLE) {
        state->vk.DeviceWaitIdle(state->device);
        kin_vulkan_release(device, state->zeros);
        kin_vulkan_staging_close(device);
        kin_vulkan_free_pipelines(device);
        state->vk.DestroyCommandPool(state->device, state->pool, NULL);
        state->vk.DestroyDevice(state->device, NULL);
    }
    if (state->messenger != VK_NULL_HANDLE)
        state->loader.DestroyDebugUtilsMessengerEXT(state->loader.instance, state->messenger, NULL);
    kin_vulkan_unload(&state->loader);
    kin_free(device->context, state);
    device->state = NULL;
}
