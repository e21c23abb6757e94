/* Finding the functions of Vulkan at run time. */
#include "backends/vulkan/core.h"

#include <dlfcn.h>
#include <string.h>

static bool load_globals(kin_vulkan_loader *loader) {
    bool all = true;
#define GLOBAL(name)                                                                               \
    loader->name = (PFN_vk##name)loader->GetInstanceProcAddr(NULL, "vk" #name);                    \
    all = all && loader->name != NULL;
    KIN_VULKAN_GLOBALS(GLOBAL)
    return all;
}

static bool load_instance(kin_vulkan_loader *loader) {
    bool all = true;
#define INSTANCE(name)                                                                             \
    loader->name = (PFN_vk##name)loader->GetInstanceProcAddr(loader->instance, "vk" #name);        \
    all = all && loader->name != NULL;
#define OPTIONAL(name)                                                                             \
    loader->name = (PFN_vk##name)loader->GetInstanceProcAddr(loader->instance, "vk" #name);
    KIN_VULKAN_INSTANCE(INSTANCE)
    KIN_VULKAN_INSTANCE_OPTIONAL(OPTIONAL)
    return all;
}

bool kin_vulkan_load_device(const kin_vulkan_loader *loader, VkDevice device,
                            kin_vulkan_calls *out_calls) {
    bool all = true;
#define DEVICE(name)                                                                               \
    out_calls->name = (PFN_vk##name)loader->GetDeviceProcAddr(device, "vk" #name);                 \
    all = all && out_calls->name != NULL;
    KIN_VULKAN_DEVICE(DEVICE)
    return all;
}

/* The loader knows this extension itself, without any layer. 64 entries are more than it lists; a
 * list that was cut is still good. */
static bool has_debug_utils(const kin_vulkan_loader *loader) {
    VkExtensionProperties list[64];
    uint32_t count = sizeof list / sizeof *list;
    VkResult result = loader->EnumerateInstanceExtensionProperties(NULL, &count, list);
    if (result != VK_SUCCESS && result != VK_INCOMPLETE) return false;
    for (uint32_t i = 0; i < count; i++)
        if (strcmp(list[i].extensionName, VK_EXT_DEBUG_UTILS_EXTENSION_NAME) == 0) return true;
    return false;
}

static VkResult make_instance(kin_vulkan_loader *loader, bool validation) {
    const char *layer = "VK_LAYER_KHRONOS_validation";
    const char *extension = VK_EXT_DEBUG_UTILS_EXTENSION_NAME;
    VkApplicationInfo application = {
        .sType = VK_STRUCTURE_TYPE_APPLICATION_INFO,
        .pApplicationName = "kinora",
        .pEngineName = "kinora",
        .apiVersion = VK_API_VERSION_1_2,
    };
    loader->has_debug = has_debug_utils(loader);
    VkInstanceCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO,
        .pApplicationInfo = &application,
        .enabledLayerCount = validation ? 1 : 0,
        .ppEnabledLayerNames = &layer,
        .enabledExtensionCount = loader->has_debug ? 1 : 0,
        .ppEnabledExtensionNames = &extension,
    };
    return loader->CreateInstance(&info, NULL, &loader->instance);
}

static const char *open_loader(kin_vulkan_loader *loader, bool validation) {
    loader->library = dlopen("libvulkan.so.1", RTLD_NOW | RTLD_LOCAL);
    if (loader->library == NULL) return "there is no Vulkan loader (Debian's package: libvulkan1)";
    *(void **)&loader->GetInstanceProcAddr = dlsym(loader->library, "vkGetInstanceProcAddr");
    if (loader->GetInstanceProcAddr == NULL || !load_globals(loader))
        return "the Vulkan loader is older than Vulkan 1.1";
    VkResult result = make_instance(loader, validation);
    if (result == VK_ERROR_INCOMPATIBLE_DRIVER)
        return "there is no Vulkan driver (Debian's package: mesa-vulkan-drivers)";
    if (result == VK_ERROR_LAYER_NOT_PRESENT)
        return "the Vulkan layer that was asked for is not installed (Debian's package: "
               "vulkan-validationlayers)";
    if (result != VK_SUCCESS) return "the Vulkan loader could not make an instance";
    if (!load_instance(loader)) return "the Vulkan loader lacks a function of Vulkan 1.1";
    return NULL;
}

bool kin_vulkan_load(kin_vulkan_loader *loader, bool validation, const char **out_why) {
    memset(loader, 0, sizeof *loader);
    const char *why = open_loader(loader, validation);
    if (why == NULL) return true;
    kin_vulkan_unload(loader);
    if (out_why != NULL) *out_why = why;
    return false;
}

void kin_vulkan_unload(kin_vulkan_loader *loader) {
    if (loader->instance != VK_NULL_HANDLE && loader->DestroyInstance != NULL)
        loader->DestroyInstance(loader->instance, NULL);
    if (loader->library != NULL) dlclose(loader->library);
    memset(loader, 0, sizeof *loader);
}
