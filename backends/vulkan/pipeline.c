/* Shader modules, layouts and pipelines: made when first used, kept until the device is closed. */
#include "backends/vulkan/core.h"

#include <string.h>

/* Index of a shader in kin_vulkan_modules, or -1. */
static int find_module(const char *name) {
    for (int i = 0; kin_vulkan_modules[i].name != NULL; i++)
        if (strcmp(kin_vulkan_modules[i].name, name) == 0) return i;
    return -1;
}

static int count_modules(void) {
    int count = 0;
    while (kin_vulkan_modules[count].name != NULL) count++;
    return count;
}

bool kin_vulkan_has_shader(const char *name) {
    return find_module(name) >= 0;
}

static kin_status module_at(kin_device *device, int index, VkShaderModule *out_module) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    if (state->modules == NULL) {
        state->modules =
            kin_calloc(device->context, (size_t)count_modules() + 1, sizeof *state->modules);
        if (state->modules == NULL) return KIN_OUT_OF_MEMORY;
    }
    VkResult result = VK_SUCCESS;
    if (state->modules[index] == VK_NULL_HANDLE) {
        VkShaderModuleCreateInfo info = {
            .sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO,
            .codeSize = kin_vulkan_modules[index].size,
            .pCode = kin_vulkan_modules[index].words,
        };
        result = state->vk.CreateShaderModule(state->device, &info, NULL, &state->modules[index]);
    }
    *out_module = state->modules[index];
    return kin_vulkan_check(device, result, "making a shader module");
}

/* The layouts for `texels` texel buffers and, up to `count`, storage buffers in set 0, and all push
 * constants. */
static kin_status make_layouts(kin_device *device, int texels, int count) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    VkDescriptorSetLayout *set_layout = &state->set_layouts[texels][count];
    VkPipelineLayout *pipeline_layout = &state->layouts[texels][count];
    if (*pipeline_layout != VK_NULL_HANDLE) return KIN_OK;
    VkDescriptorSetLayoutBinding bindings[KIN_VULKAN_BINDINGS];
    for (int i = 0; i < count; i++)
        bindings[i] = (VkDescriptorSetLayoutBinding){
            .binding = (uint32_t)i,
            .descriptorType = i < texels ? VK_DESCRIPTOR_TYPE_UNIFORM_TEXEL_BUFFER
                                         : VK_DESCRIPTOR_TYPE_STORAGE_BUFFER,
            .descriptorCount = 1,
            .stageFlags = VK_SHADER_STAGE_COMPUTE_BIT,
        };
    VkDescriptorSetLayoutCreateInfo set = {
        .sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO,
        .bindingCount = (uint32_t)count,
        .pBindings = bindings,
    };
    VkPushConstantRange push = {VK_SHADER_STAGE_COMPUTE_BIT, 0, KIN_VULKAN_PUSH_BYTES};
    VkPipelineLayoutCreateInfo layout = {
        .sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO,
        .setLayoutCount = 1,
        .pSetLayouts = set_layout,
        .pushConstantRangeCount = 1,
        .pPushConstantRanges = &push,
    };
    VkResult result = VK_SUCCESS;
    if (*set_layout == VK_NULL_HANDLE)
        result = state->vk.CreateDescriptorSetLayout(state->device, &set, NULL, set_layout);
    if (result == VK_SUCCESS)
        result = state->vk.CreatePipelineLayout(state->device, &layout, NULL, pipeline_layout);
    return kin_vulkan_check(device, result, "making a pipeline layout");
}

static kin_status make_pipeline(kin_device *device, kin_vulkan_pipeline *entry, int module_index) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    VkSpecializationMapEntry map[KIN_VULKAN_SPECS];
    for (int i = 0; i < entry->spec_count; i++)
        map[i] = (VkSpecializationMapEntry){(uint32_t)i, (uint32_t)i * 4, 4};
    VkSpecializationInfo specs = {(uint32_t)entry->spec_count, map, (size_t)entry->spec_count * 4,
                                  entry->specs};
    VkPipelineShaderStageRequiredSubgroupSizeCreateInfo subgroup = {
        .sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_REQUIRED_SUBGROUP_SIZE_CREATE_INFO,
        .requiredSubgroupSize = entry->subgroup_size,
    };
    VkShaderModule module = VK_NULL_HANDLE;
    kin_status status = module_at(device, module_index, &module);
    if (status == KIN_OK) status = make_layouts(device, entry->texel_count, entry->binding_count);
    if (status != KIN_OK) return status;
    VkComputePipelineCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO,
        .stage = {.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO,
                  .pNext = entry->subgroup_size > 0 ? &subgroup : NULL,
                  .stage = VK_SHADER_STAGE_COMPUTE_BIT,
                  .module = module,
                  .pName = "main",
                  .pSpecializationInfo = &specs},
        .layout = state->layouts[entry->texel_count][entry->binding_count],
    };
    VkResult result = state->vk.CreateComputePipelines(state->device, VK_NULL_HANDLE, 1, &info,
                                                       NULL, &entry->handle);
    if (result != VK_SUCCESS)
        return kin_fail_in(device->context, kin_vulkan_check(device, result, "making a pipeline"),
                           "shader %s", entry->shader);
    return KIN_OK;
}

static bool is_same(const kin_vulkan_pipeline *entry, const kin_vulkan_work *work,
                    const char *shader) {
    return entry->shader == shader && entry->spec_count == work->spec_count &&
           entry->binding_count == work->binding_count && entry->texel_count == work->texel_count &&
           entry->subgroup_size == work->subgroup_size &&
           memcmp(entry->specs, work->specs, (size_t)work->spec_count * 4) == 0;
}

/* FNV-1a over what tells pipelines apart. */
static uint32_t hash_of(const kin_vulkan_work *work, int module) {
    uint32_t hash = 2166136261u;
    uint32_t more[3] = {(uint32_t)module, (uint32_t)work->binding_count, work->subgroup_size};
    for (int i = 0; i < 3; i++) hash = (hash ^ more[i]) * 16777619u;
    for (int i = 0; i < work->spec_count; i++) hash = (hash ^ work->specs[i]) * 16777619u;
    return (hash ^ hash >> 16) % KIN_VULKAN_BUCKETS;
}

kin_status kin_vulkan_pipeline_for(kin_device *device, const kin_vulkan_work *work,
                                   VkPipeline *out_pipeline) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    int module = find_module(work->shader);
    if (module < 0)
        return kin_fail(device->context, KIN_INVALID, "vulkan: no shader \"%s\" in this build",
                        work->shader);
    const char *shader = kin_vulkan_modules[module].name;
    kin_vulkan_pipeline **bucket = &state->pipelines[hash_of(work, module)];
    for (kin_vulkan_pipeline *entry = *bucket; entry != NULL; entry = entry->next)
        if (is_same(entry, work, shader)) {
            *out_pipeline = entry->handle;
            return KIN_OK;
        }
    kin_vulkan_pipeline *entry = kin_calloc(device->context, 1, sizeof *entry);
    if (entry == NULL) return KIN_OUT_OF_MEMORY;
    entry->shader = shader;
    memcpy(entry->specs, work->specs, sizeof entry->specs);
    entry->spec_count = work->spec_count;
    entry->binding_count = work->binding_count;
    entry->texel_count = work->texel_count;
    entry->subgroup_size = work->subgroup_size;
    kin_status status = make_pipeline(device, entry, module);
    if (status != KIN_OK) {
        kin_free(device->context, entry);
        return status;
    }
    entry->next = *bucket;
    *bucket = entry;
    *out_pipeline = entry->handle;
    return KIN_OK;
}

void kin_vulkan_free_pipelines(kin_device *device) {
    kin_vulkan_state *state = kin_vulkan_state_of(device);
    for (int i = 0; i < KIN_VULKAN_BUCKETS; i++)
        for (kin_vulkan_pipeline *entry = state->pipelines[i]; entry != NULL;) {
            kin_vulkan_pipeline *next = entry->next;
            state->vk.DestroyPipeline(state->device, entry->handle, NULL);
            kin_free(device->context, entry);
            entry = next;
        }
    for (int t = 0; t <= KIN_VULKAN_TEXELS; t++)
        for (int i = 0; i <= KIN_VULKAN_BINDINGS; i++) {
            state->vk.DestroyPipelineLayout(state->device, state->layouts[t][i], NULL);
            state->vk.DestroyDescriptorSetLayout(state->device, state->set_layouts[t][i], NULL);
        }
    for (int i = 0; state->modules != NULL && i < count_modules(); i++)
        state->vk.DestroyShaderModule(state->device, state->modules[i], NULL);
    kin_free(device->context, state->modules);
    state->modules = NULL;
}
