/* Putting a dispatch together. */
#include "backends/vulkan/core.h"

#include <string.h>

kin_vulkan_work kin_vulkan_work_of(const char *shader, uint32_t group_width) {
    return (kin_vulkan_work){
        .shader = shader, .specs = {group_width}, .spec_count = 1, .groups = {1, 1, 1}};
}

void kin_vulkan_spec(kin_vulkan_work *work, uint32_t value) {
    if (work->spec_count < KIN_VULKAN_SPECS) work->specs[work->spec_count] = value;
    work->spec_count++;
}

void kin_vulkan_push(kin_vulkan_work *work, const void *data, size_t size) {
    if (size <= sizeof work->push) memcpy(work->push, data, size);
    work->push_size = size;
}

int64_t kin_vulkan_span(const kin_desc *desc) {
    int64_t span = 1;
    for (int i = 0; i < desc->rank; i++) {
        if (desc->dims[i] == 0) return 0;
        span += (desc->dims[i] - 1) * desc->strides[i];
    }
    return span;
}

/* Bytes from the first to the last element. Rows of q8_0 are whole blocks; its tensors are dense.
 */
static size_t span_bytes(const kin_desc *desc) {
    if (desc->dtype == KIN_Q8_0) return kin_desc_bytes(desc);
    return (size_t)kin_vulkan_span(desc) * kin_dtype_size(desc->dtype);
}

/* Appends a binding whose offset is rounded down to what the device wants, and whose end is rounded
 * up to whole words; returns the bytes in front of `offset`. */
static size_t append(const kin_device *device, kin_vulkan_work *work, kin_buffer *buffer,
                     size_t offset, size_t size, bool write) {
    size_t alignment = kin_vulkan_features_of(device)->binding_alignment;
    size_t start = offset - offset % alignment, end = (offset + size + 3) / 4 * 4;
    if (end < start + 4) end = start + 4;
    if (work->binding_count < KIN_VULKAN_BINDINGS)
        work->bindings[work->binding_count] =
            (kin_vulkan_binding){buffer, start, end - start, write, 0};
    work->binding_count++;
    return offset - start;
}

static uint32_t bind(const kin_device *device, kin_vulkan_work *work, const kin_operand *operand,
                     bool write) {
    if (kin_vulkan_is_absent(operand)) {
        append(device, work, kin_vulkan_state_of(device)->zeros, 0, 4, false);
        return 0;
    }
    size_t size = kin_dtype_size(operand->desc.dtype);
    size_t before =
        append(device, work, operand->buffer, operand->offset, span_bytes(&operand->desc), write);
    return (uint32_t)(size > 0 ? before / size : before / 2);
}

uint32_t kin_vulkan_read(const kin_device *device, kin_vulkan_work *work,
                         const kin_operand *operand) {
    return bind(device, work, operand, false);
}

uint32_t kin_vulkan_write(const kin_device *device, kin_vulkan_work *work,
                          const kin_operand *operand) {
    return bind(device, work, operand, true);
}

uint32_t kin_vulkan_bytes(const kin_device *device, kin_vulkan_work *work, kin_buffer *buffer,
                          size_t offset, size_t size, bool write) {
    return (uint32_t)(append(device, work, buffer, offset, size, write) / 4);
}

/* Four elements of a dtype. */
static VkFormat texel_format(kin_dtype dtype) {
    return dtype == KIN_F32   ? VK_FORMAT_R32G32B32A32_SFLOAT
           : dtype == KIN_F16 ? VK_FORMAT_R16G16B16A16_SFLOAT
                              : VK_FORMAT_R16G16B16A16_UINT;
}

static uint32_t append_texels(const kin_device *device, kin_vulkan_work *work, kin_buffer *buffer,
                              size_t offset, size_t size, kin_dtype dtype) {
    size_t alignment = kin_vulkan_features_of(device)->texel_alignment;
    size_t start = offset - offset % alignment, texel = 4 * kin_dtype_size(dtype);
    size_t whole = (offset + size - start + texel - 1) / texel * texel;
    if (work->binding_count < KIN_VULKAN_BINDINGS)
        work->bindings[work->binding_count] = (kin_vulkan_binding){
            buffer, start, whole > 0 ? whole : texel, false, texel_format(dtype)};
    work->binding_count++;
    work->texel_count++;
    return (uint32_t)((offset - start) / texel);
}

uint32_t kin_vulkan_texels(const kin_device *device, kin_vulkan_work *work,
                           const kin_operand *operand) {
    return append_texels(device, work, operand->buffer, operand->offset, span_bytes(&operand->desc),
                         operand->desc.dtype);
}

uint32_t kin_vulkan_texel_bytes(const kin_device *device, kin_vulkan_work *work, kin_buffer *buffer,
                                size_t offset, size_t size) {
    return append_texels(device, work, buffer, offset, size, KIN_F32);
}

bool kin_vulkan_texels_fit(const kin_device *device, const kin_operand *operand) {
    const kin_vulkan_features *features = kin_vulkan_features_of(device);
    const kin_desc *desc = &operand->desc;
    if (!kin_vulkan_is_real(desc->dtype)) return false;
    for (int i = 0; i < desc->rank; i++)
        if (desc->strides[i] < 0) return false;
    size_t texel = 4 * kin_dtype_size(desc->dtype);
    /* A view may begin up to one alignment in front of the operand. */
    return operand->offset % texel == 0 &&
           span_bytes(desc) / texel + features->texel_alignment / texel + 1 <= features->max_texels;
}

static bool operand_fits(const kin_vulkan_features *features, const kin_operand *operand) {
    if (kin_vulkan_is_absent(operand)) return true;
    for (int i = 0; i < operand->desc.rank; i++)
        if (operand->desc.strides[i] < 0) return false;
    /* A binding may begin up to one alignment in front of the operand. */
    return span_bytes(&operand->desc) + features->binding_alignment + 4 <= features->max_range &&
           kin_vulkan_span(&operand->desc) <= UINT32_MAX / 2 &&
           kin_desc_count(&operand->desc) <= UINT32_MAX / 2;
}

bool kin_vulkan_fits(const kin_device *device, const kin_call *call) {
    const kin_vulkan_features *features = kin_vulkan_features_of(device);
    for (int i = 0; i < call->in_count; i++)
        if (!operand_fits(features, &call->in[i])) return false;
    for (int i = 0; i < call->out_count; i++)
        if (!operand_fits(features, &call->out[i])) return false;
    return true;
}

bool kin_vulkan_fits_real(const kin_device *device, const kin_call *call) {
    for (int i = 0; i < call->in_count; i++)
        if (!kin_vulkan_is_absent(&call->in[i]) && !kin_vulkan_is_real(call->in[i].desc.dtype))
            return false;
    for (int i = 0; i < call->out_count; i++)
        if (!kin_vulkan_is_real(call->out[i].desc.dtype)) return false;
    return kin_vulkan_fits(device, call);
}
