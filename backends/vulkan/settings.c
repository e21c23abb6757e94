/* Settings of the context (runtime/context.h) that narrow what a device offers, for tests, and that
 * switch on the validation layer. docs/vulkan.md lists them. */
#include "backends/vulkan/core.h"

#include <stdlib.h>
#include <string.h>

/* The smaller of a limit and the setting of its name, a whole number from `least`. */
static kin_status narrow(kin_device *device, const char *name, uint64_t least, uint64_t *limit) {
    const char *text = kin_context_setting(device->context, name);
    char *end = NULL;
    if (text == NULL) return KIN_OK;
    unsigned long long value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || value < least)
        return kin_fail(device->context, KIN_INVALID,
                        "the setting %s=%s is no whole number from %llu", name, text,
                        (unsigned long long)least);
    if (*limit == 0 || value < *limit) *limit = value;
    return KIN_OK;
}

/* One of two words; *out_first says whether it is the first. Unset: *out_first stays. */
static kin_status choose(kin_device *device, const char *name, const char *first,
                         const char *second, bool *out_first) {
    const char *text = kin_context_setting(device->context, name);
    if (text == NULL) return KIN_OK;
    if (strcmp(text, first) != 0 && strcmp(text, second) != 0)
        return kin_fail(device->context, KIN_INVALID, "the setting %s=%s is neither %s nor %s",
                        name, text, first, second);
    *out_first = strcmp(text, first) == 0;
    return KIN_OK;
}

kin_status kin_vulkan_wants_validation(kin_device *device, bool *out_wanted) {
    *out_wanted = false;
    return choose(device, "vulkan.validation", "on", "off", out_wanted);
}

kin_status kin_vulkan_apply_settings(kin_device *device) {
    kin_vulkan_features *features = &kin_vulkan_state_of(device)->features;
    uint64_t groups = features->max_groups[0], unit = device->info.alignment;
    bool subgroups = true;
    kin_status status = narrow(device, "vulkan.max_range", 4096, &features->max_range);
    if (status == KIN_OK)
        status = narrow(device, "vulkan.max_allocation", unit, &device->info.max_allocation);
    if (status == KIN_OK) status = narrow(device, "vulkan.max_groups", 16, &groups);
    if (status == KIN_OK) status = choose(device, "vulkan.kind", "cpu", "gpu", &features->is_cpu);
    if (status == KIN_OK) status = choose(device, "vulkan.subgroups", "on", "off", &subgroups);
    if (status != KIN_OK) return status;
    for (int i = 0; i < 3; i++)
        if (groups < features->max_groups[i]) features->max_groups[i] = (uint32_t)groups;
    if (!subgroups) features->subgroup_operations = 0;
    return KIN_OK;
}
