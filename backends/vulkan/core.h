/* The host side of the Vulkan backend, as its own files see it: the functions of Vulkan, the
 * device's state, memory, pipelines. Kernel files need vulkan.h only.
 */
#ifndef KIN_BACKENDS_VULKAN_CORE_H
#define KIN_BACKENDS_VULKAN_CORE_H

#include "backends/vulkan/vulkan.h"

#define VK_NO_PROTOTYPES
#include <vulkan/vulkan.h>

/* ---- functions of Vulkan, found at run time ---- */

#define KIN_VULKAN_GLOBALS(X)                                                                      \
    X(CreateInstance)                                                                              \
    X(EnumerateInstanceVersion)                                                                    \
    X(EnumerateInstanceExtensionProperties)

#define KIN_VULKAN_INSTANCE(X)                                                                     \
    X(DestroyInstance)                                                                             \
    X(EnumeratePhysicalDevices)                                                                    \
    X(GetPhysicalDeviceProperties2)                                                                \
    X(GetPhysicalDeviceFeatures2)                                                                  \
    X(GetPhysicalDeviceMemoryProperties2)                                                          \
    X(GetPhysicalDeviceQueueFamilyProperties)                                                      \
    X(EnumerateDeviceExtensionProperties)                                                          \
    X(CreateDevice)                                                                                \
    X(GetDeviceProcAddr)

/* Present only with the extension of that name: may be NULL. */
#define KIN_VULKAN_INSTANCE_OPTIONAL(X)                                                            \
    X(CreateDebugUtilsMessengerEXT)                                                                \
    X(DestroyDebugUtilsMessengerEXT)                                                               \
    X(GetPhysicalDeviceCooperativeMatrixPropertiesNV)

#define KIN_VULKAN_DEVICE(X)                                                                       \
    X(DestroyDevice)                                                                               \
    X(GetDeviceQueue)                                                                              \
    X(DeviceWaitIdle)                                                                              \
    X(QueueSubmit)                                                                                 \
    X(QueueWaitIdle)                                                                               \
    X(AllocateMemory)                                                                              \
    X(FreeMemory)                                                                                  \
    X(MapMemory)                                                                                   \
    X(CreateBuffer)                                                                                \
    X(DestroyBuffer)                                                                               \
    X(CreateBufferView)                                                                            \
    X(DestroyBufferView)                                                                           \
    X(BindBufferMemory)                                                                            \
    X(GetBufferMemoryRequirements)                                                                 \
    X(CreateShaderModule)                                                                          \
    X(DestroyShaderModule)                                                                         \
    X(CreateDescriptorSetLayout)                                                                   \
    X(DestroyDescriptorSetLayout)                                                                  \
    X(CreatePipelineLayout)                                                                        \
    X(DestroyPipelineLayout)                                                                       \
    X(CreateComputePipelines)                                                                      \
    X(DestroyPipeline)                                                                             \
    X(CreateDescriptorPool)                                                                        \
    X(DestroyDescriptorPool)                                                                       \
    X(AllocateDescriptorSets)                                                                      \
    X(UpdateDescriptorSets)                                                                        \
    X(CreateCommandPool)                                                                           \
    X(DestroyCommandPool)                                                                          \
    X(AllocateCommandBuffers)                                                                      \
    X(FreeCommandBuffers)                                                                          \
    X(BeginCommandBuffer)                                                                          \
    X(EndCommandBuffer)                                                                            \
    X(CreateQueryPool)                                                                             \
    X(DestroyQueryPool)                                                                            \
    X(GetQueryPoolResults)                                                                         \
    X(CmdBindPipeline)                                                                             \
    X(CmdBindDescriptorSets)                                                                       \
    X(CmdPushConstants)                                                                            \
    X(CmdDispatch)                                                                                 \
    X(CmdPipelineBarrier)                                                                          \
    X(CmdCopyBuffer)                                                                               \
    X(CmdFillBuffer)                                                                               \
    X(CmdResetQueryPool)                                                                           \
    X(CmdWriteTimestamp)

#define KIN_VULKAN_MEMBER(name) PFN_vk##name name;

typedef struct kin_vulkan_loader {
    void *library;
    PFN_vkGetInstanceProcAddr GetInstanceProcAddr;
    KIN_VULKAN_GLOBALS(KIN_VULKAN_MEMBER)
    KIN_VULKAN_INSTANCE(KIN_VULKAN_MEMBER)
    KIN_VULKAN_INSTANCE_OPTIONAL(KIN_VULKAN_MEMBER)
    VkInstance instance;
    bool has_debug; /* VK_EXT_debug_utils was asked for */
} kin_vulkan_loader;

typedef struct kin_vulkan_calls {
    KIN_VULKAN_DEVICE(KIN_VULKAN_MEMBER)
} kin_vulkan_calls;

/* Opens libvulkan.so.1 and makes an instance, with the Khronos validation layer if that is wanted.
 * On failure everything is closed again and *out_why says why, a constant text. */
bool kin_vulkan_load(kin_vulkan_loader *loader, bool validation, const char **out_why);
void kin_vulkan_unload(kin_vulkan_loader *loader);
/* The functions of a device; false if one is missing. */
bool kin_vulkan_load_device(const kin_vulkan_loader *loader, VkDevice device,
                            kin_vulkan_calls *out_calls);

/* ---- embedded shaders ---- */

typedef struct kin_vulkan_module {
    const char *name;
    const uint32_t *words;
    size_t size; /* bytes */
} kin_vulkan_module;

extern const kin_vulkan_module kin_vulkan_modules[]; /* ended by an empty entry */

/* ---- memory ---- */

/* One VkDeviceMemory, in which buffers lie in ascending order of their offsets. */
typedef struct kin_vulkan_block kin_vulkan_block;
struct kin_vulkan_block {
    kin_vulkan_block *next;
    VkDeviceMemory memory;
    uint32_t type;
    VkDeviceSize size;
    kin_buffer *first;
};

struct kin_buffer {
    kin_vulkan_block *block;
    kin_buffer *next; /* in the block */
    VkBuffer handle;
    VkDeviceSize offset, room; /* in the block */
    size_t size;               /* asked for; the handle's is this rounded up */
};

/* The buffer through which the host's bytes go: always mapped, coherent. */
typedef struct kin_vulkan_staging {
    VkBuffer buffer;
    VkDeviceMemory memory;
    unsigned char *data;
    size_t size;
    VkCommandBuffer commands;
} kin_vulkan_staging;

/* ---- pipelines ---- */

typedef struct kin_vulkan_pipeline kin_vulkan_pipeline;
struct kin_vulkan_pipeline {
    kin_vulkan_pipeline *next;
    const char *shader; /* the module's own name */
    uint32_t specs[KIN_VULKAN_SPECS];
    int spec_count, binding_count, texel_count;
    uint32_t subgroup_size;
    VkPipeline handle;
};

enum { KIN_VULKAN_BUCKETS = 256 };

/* ---- the device ---- */

typedef struct kin_vulkan_state {
    kin_vulkan_loader loader;
    kin_vulkan_calls vk;
    VkDebugUtilsMessengerEXT messenger;
    char message[480]; /* of the validation layers: the first since the last wait; "" if none */
    VkPhysicalDevice physical;
    VkDevice device;
    VkQueue queue;
    uint32_t queue_family;
    uint32_t timestamp_bits;
    double timestamp_seconds; /* of one tick */
    VkPhysicalDeviceMemoryProperties memory;
    kin_vulkan_features features;
    bool pending; /* something was submitted that nobody waited for */
    bool lost;
    VkCommandPool pool;
    kin_vulkan_staging staging;
    kin_vulkan_block *blocks;
    kin_buffer *zeros; /* bound for absent inputs */
    /* of the numbers of texel buffers and of bindings */
    VkDescriptorSetLayout set_layouts[KIN_VULKAN_TEXELS + 1][KIN_VULKAN_BINDINGS + 1];
    VkPipelineLayout layouts[KIN_VULKAN_TEXELS + 1][KIN_VULKAN_BINDINGS + 1];
    VkShaderModule *modules; /* as kin_vulkan_modules, made when first used */
    kin_vulkan_pipeline *pipelines[KIN_VULKAN_BUCKETS];
} kin_vulkan_state;

static inline kin_vulkan_state *kin_vulkan_state_of(const kin_device *device) {
    return device->state;
}

/* KIN_OK for VK_SUCCESS; else the message says what was tried and what it means. A lost device is
 * remembered. */
kin_status kin_vulkan_check(kin_device *device, VkResult result, const char *what);
/* KIN_DEVICE if the device is lost. */
kin_status kin_vulkan_alive(kin_device *device);
/* Waits for everything submitted; the first error of the device or the validation layers. */
kin_status kin_vulkan_wait(kin_device *device);
/* Waits without asking for errors, which the next wait reports. */
void kin_vulkan_settle(kin_device *device);

/* device.c */
int kin_vulkan_count(kin_context *context, const char **out_why);
kin_status kin_vulkan_open(kin_device *device, int index);
void kin_vulkan_close(kin_device *device);

/* settings.c. The limits of the device are narrowed by what the context asks for. */
kin_status kin_vulkan_apply_settings(kin_device *device);
kin_status kin_vulkan_wants_validation(kin_device *device, bool *out_wanted);

/* memory.c */
kin_status kin_vulkan_allocate(kin_device *device, size_t size, kin_buffer **out_buffer);
void kin_vulkan_release(kin_device *device, kin_buffer *buffer);
/* The bytes that the handle of a buffer of this size has: whole words, and some behind. */
VkDeviceSize kin_vulkan_handle_size(size_t size);

/* transfer.c */
kin_status kin_vulkan_staging_open(kin_device *device);
void kin_vulkan_staging_close(kin_device *device);
kin_status kin_vulkan_upload(kin_device *device, const void *source, kin_buffer *buffer,
                             size_t offset, size_t size);
kin_status kin_vulkan_download(kin_device *device, kin_buffer *buffer, size_t offset, void *target,
                               size_t size);
kin_status kin_vulkan_copy(kin_device *device, kin_buffer *source, size_t source_offset,
                           kin_buffer *target, size_t target_offset, size_t size);
kin_status kin_vulkan_fill(kin_device *device, kin_buffer *buffer, size_t offset, size_t size,
                           uint8_t byte);

/* commands.c */
kin_status kin_vulkan_begin(kin_device *device, kin_commands **out_commands);
kin_status kin_vulkan_record(kin_device *device, kin_commands *commands, const kin_kernel *kernel,
                             const kin_call *call);
kin_status kin_vulkan_end(kin_device *device, kin_commands *commands);
kin_status kin_vulkan_submit(kin_device *device, kin_commands *commands);
kin_status kin_vulkan_set_timed(kin_device *device, kin_commands *commands, bool timed);
void kin_vulkan_discard(kin_device *device, kin_commands *commands);
kin_status kin_vulkan_timestamps(kin_device *device, kin_commands *commands, double *out_seconds,
                                 size_t count);
/* A barrier between everything before and everything after, transfers and the host included. */
void kin_vulkan_full_barrier(const kin_vulkan_state *state, VkCommandBuffer commands);

/* pipeline.c */
kin_status kin_vulkan_pipeline_for(kin_device *device, const kin_vulkan_work *work,
                                   VkPipeline *out_pipeline);
void kin_vulkan_free_pipelines(kin_device *device);

#endif
