/* The Vulkan backend: its table of functions and the list of its kernels. */
#include "backends/vulkan/core.h"

/* Every family of kernels. */
#define VULKAN_FAMILIES(X)                                                                         \
    X(layout)                                                                                      \
    X(elementwise)                                                                                 \
    X(move)                                                                                        \
    X(reduce)                                                                                      \
    X(rows)                                                                                        \
    X(norm)                                                                                        \
    X(group_norm)                                                                                  \
    X(embedding)                                                                                   \
    X(random)                                                                                      \
    X(optimizer)                                                                                   \
    X(upsample)                                                                                    \
    X(matmul)                                                                                      \
    X(attention)                                                                                   \
    X(conv_texels)                                                                                 \
    X(conv)                                                                                        \
    X(rope)

#define DECLARE_FAMILY(name) extern const kin_kernel kin_vulkan_##name##_kernels[];
VULKAN_FAMILIES(DECLARE_FAMILY)

#define FAMILY_ENTRY(name) kin_vulkan_##name##_kernels,
static const kin_kernel *const families[] = {VULKAN_FAMILIES(FAMILY_ENTRY)};

static const kin_kernel *kernel_at(const kin_device *device, size_t index) {
    (void)device;
    for (size_t family = 0; family < sizeof families / sizeof *families; family++)
        for (const kin_kernel *row = families[family]; row->op != NULL; row++)
            if (index-- == 0) return row;
    return NULL;
}

static const kin_backend vulkan_backend = {
    .abi = KIN_BACKEND_ABI,
    .struct_size = sizeof(kin_backend),
    .name = "vulkan",
    .count = kin_vulkan_count,
    .open = kin_vulkan_open,
    .close = kin_vulkan_close,
    .kernel = kernel_at,
    .allocate = kin_vulkan_allocate,
    .release = kin_vulkan_release,
    .upload = kin_vulkan_upload,
    .download = kin_vulkan_download,
    .copy = kin_vulkan_copy,
    .fill = kin_vulkan_fill,
    .begin = kin_vulkan_begin,
    .record = kin_vulkan_record,
    .end = kin_vulkan_end,
    .submit = kin_vulkan_submit,
    .wait = kin_vulkan_wait,
    .discard = kin_vulkan_discard,
    .timestamps = kin_vulkan_timestamps,
    .set_timed = kin_vulkan_set_timed,
};

KIN_API const kin_backend *kin_backend_get(uint32_t abi);

KIN_API const kin_backend *kin_backend_get(uint32_t abi) {
    return abi == KIN_BACKEND_ABI ? &vulkan_backend : NULL;
}
