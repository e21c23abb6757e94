/* What the heavy kernels share. */
#include "backends/vulkan/heavy.h"

/* 64 x 64 with 8 x 8 sums an invocation where the product is large and the device allows it (64
 * invocations, 8 KiB); 32 x 32 for small ones. Both keep within the least that Vulkan promises: 128
 * invocations and 16 KiB. Larger tiles only for large products on devices that have room for them.
 */
kin_vulkan_tile kin_vulkan_tile_for(const kin_device *device, int64_t m, int64_t n) {
    const kin_vulkan_features *features = kin_vulkan_features_of(device);
    const kin_vulkan_tile small = {32, 32, 16, 4, 4}, middle = {64, 64, 16, 8, 8};
    const kin_vulkan_tile large = {128, 128, 8, 8, 8};
    bool room = features->max_group_invocations >= 256 && features->max_group_size[0] >= 256;
    if (!features->is_cpu && room && m >= 512 && n >= 512) return large;
    return m >= 48 && n >= 48 ? middle : small;
}

kin_vulkan_work kin_vulkan_tile_work(const char *shader, const kin_vulkan_tile *tile,
                                     bool a_along_k, bool b_along_k) {
    kin_vulkan_work work =
        kin_vulkan_work_of(shader, tile->m / tile->part_m * (tile->n / tile->part_n));
    const uint32_t specs[] = {tile->m,      tile->n,   tile->k,  tile->part_m,
                              tile->part_n, a_along_k, b_along_k};
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) kin_vulkan_spec(&work, specs[i]);
    return work;
}

kin_status kin_vulkan_narrow(kin_device *device, kin_commands *commands, const kin_call *call,
                             size_t offset, const kin_operand *out) {
    enum { WIDTH = 64 };
    struct {
        uint32_t count, x, y;
    } push = {.count = (uint32_t)kin_desc_count(&out->desc)};
    kin_vulkan_work work = kin_vulkan_work_of("matmul_narrow", WIDTH);
    kin_vulkan_spec(&work, (uint32_t)out->desc.dtype);
    push.x = kin_vulkan_bytes(device, &work, call->scratch, call->scratch_offset + offset,
                              (size_t)push.count * 4, false);
    push.y = kin_vulkan_write(device, &work, out);
    kin_vulkan_push(&work, &push, sizeof push);
    work.groups[0] = kin_vulkan_groups((int64_t)push.count, 2 * WIDTH);
    return kin_vulkan_launch(device, commands, &work);
}
