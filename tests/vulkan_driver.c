/* A Vulkan driver with one device that cannot serve, for tests/plugin_vulkan.sh: the words behind
 * KINORA_TEST_DRIVER say why ("old": Vulkan 1.1; "graphics": no queue that computes; "few": 4
 * storage buffers). It makes instances and describes its device, and does nothing else. */
#include <stdlib.h>
#include <string.h>

#include <vulkan/vulkan.h>

#include <vulkan/vk_icd.h>

/* What the loader hands out begins with a word that it sets. */
typedef struct handle {
    uintptr_t loader;
} handle;

static handle the_device = {ICD_LOADER_MAGIC};

static int is(const char *word) {
    const char *kind = getenv("KINORA_TEST_DRIVER");
    return kind != NULL && strcmp(kind, word) == 0;
}

static VKAPI_ATTR VkResult VKAPI_CALL create_instance(const VkInstanceCreateInfo *info,
                                                      const VkAllocationCallbacks *allocator,
                                                      VkInstance *instance) {
    (void)info, (void)allocator;
    handle *made = calloc(1, sizeof *made);
    if (made == NULL) return VK_ERROR_OUT_OF_HOST_MEMORY;
    made->loader = ICD_LOADER_MAGIC;
    *instance = (VkInstance)(void *)made;
    return VK_SUCCESS;
}

static VKAPI_ATTR void VKAPI_CALL destroy_instance(VkInstance instance,
                                                   const VkAllocationCallbacks *allocator) {
    (void)allocator;
    free((void *)instance);
}

static VKAPI_ATTR VkResult VKAPI_CALL list_devices(VkInstance instance, uint32_t *count,
                                                   VkPhysicalDevice *devices) {
    (void)instance;
    if (devices != NULL && *count > 0) devices[0] = (VkPhysicalDevice)(void *)&the_device;
    *count = 1;
    return VK_SUCCESS;
}

static VKAPI_ATTR VkResult VKAPI_CALL list_extensions(const char *layer, uint32_t *count,
                                                      VkExtensionProperties *properties) {
    (void)layer, (void)properties;
    *count = 0;
    return VK_SUCCESS;
}

static VKAPI_ATTR void VKAPI_CALL properties_of(VkPhysicalDevice device,
                                                VkPhysicalDeviceProperties *properties) {
    (void)device;
    memset(properties, 0, sizeof *properties);
    properties->apiVersion = is("old") ? VK_API_VERSION_1_1 : VK_API_VERSION_1_2;
    properties->limits.maxPerStageDescriptorStorageBuffers = is("few") ? 4 : 16;
    strcpy(properties->deviceName, "a device that cannot serve");
}

static VKAPI_ATTR void VKAPI_CALL properties2_of(VkPhysicalDevice device,
                                                 VkPhysicalDeviceProperties2 *properties) {
    properties_of(device, &properties->properties);
}

static VKAPI_ATTR void VKAPI_CALL queues_of(VkPhysicalDevice device, uint32_t *count,
                                            VkQueueFamilyProperties *families) {
    (void)device;
    if (families != NULL && *count > 0)
        families[0] = (VkQueueFamilyProperties){.queueFlags = is("graphics") ? VK_QUEUE_GRAPHICS_BIT
                                                                             : VK_QUEUE_COMPUTE_BIT,
                                                .queueCount = 1};
    *count = 1;
}

static VKAPI_ATTR VkResult VKAPI_CALL device_extensions(VkPhysicalDevice device, const char *layer,
                                                        uint32_t *count,
                                                        VkExtensionProperties *properties) {
    (void)device;
    return list_extensions(layer, count, properties);
}

static VKAPI_ATTR void VKAPI_CALL memory_of(VkPhysicalDevice device,
                                            VkPhysicalDeviceMemoryProperties *memory) {
    (void)device;
    memset(memory, 0, sizeof *memory);
}

static VKAPI_ATTR VkResult VKAPI_CALL refuse(void) {
    return VK_ERROR_INITIALIZATION_FAILED;
}

/* The loader wants some functions to be there, whether they are called or not. */
VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL vk_icdGetInstanceProcAddr(VkInstance instance,
                                                                   const char *name);

VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL vk_icdGetInstanceProcAddr(VkInstance instance,
                                                                   const char *name) {
    static const struct {
        const char *name;
        PFN_vkVoidFunction function;
    } list[] = {
        {"vkCreateInstance", (PFN_vkVoidFunction)create_instance},
        {"vkDestroyInstance", (PFN_vkVoidFunction)destroy_instance},
        {"vkEnumeratePhysicalDevices", (PFN_vkVoidFunction)list_devices},
        {"vkEnumerateInstanceExtensionProperties", (PFN_vkVoidFunction)list_extensions},
        {"vkGetPhysicalDeviceProperties", (PFN_vkVoidFunction)properties_of},
        {"vkGetPhysicalDeviceProperties2", (PFN_vkVoidFunction)properties2_of},
        {"vkGetPhysicalDeviceQueueFamilyProperties", (PFN_vkVoidFunction)queues_of},
        {"vkGetPhysicalDeviceFeatures", (PFN_vkVoidFunction)refuse},
        {"vkGetPhysicalDeviceFormatProperties", (PFN_vkVoidFunction)refuse},
        {"vkGetPhysicalDeviceImageFormatProperties", (PFN_vkVoidFunction)refuse},
        {"vkGetPhysicalDeviceMemoryProperties", (PFN_vkVoidFunction)memory_of},
        {"vkGetPhysicalDeviceSparseImageFormatProperties", (PFN_vkVoidFunction)refuse},
        {"vkEnumerateDeviceExtensionProperties", (PFN_vkVoidFunction)device_extensions},
        {"vkCreateDevice", (PFN_vkVoidFunction)refuse},
        {"vkGetDeviceProcAddr", (PFN_vkVoidFunction)refuse},
    };
    (void)instance;
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        if (strcmp(list[i].name, name) == 0) return list[i].function;
    return NULL;
}

VKAPI_ATTR VkResult VKAPI_CALL vk_icdNegotiateLoaderICDInterfaceVersion(uint32_t *version);

VKAPI_ATTR VkResult VKAPI_CALL vk_icdNegotiateLoaderICDInterfaceVersion(uint32_t *version) {
    if (*version > 5) *version = 5;
    return VK_SUCCESS;
}
