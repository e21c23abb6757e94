/* What the kernel files of the Vulkan backend share: the device's features, and how work is
 * recorded.
 *
 * A family of kernels is one file backends/vulkan/<family>.c that exports
 *     const kin_kernel kin_vulkan_<family>_kernels[];    ended by an empty row
 * and is named in the list of vulkan.c. `launch` only records: it fills a kin_vulkan_work (shader,
 * specialisation constants, bindings, push constants, grid) and hands it to kin_vulkan_launch, once
 * for each dispatch. Barriers are put in where a dispatch touches bytes that an earlier one wrote,
 * or writes bytes that an earlier one read; within one call as between calls.
 *
 * Shaders are backends/vulkan/<name>.comp; <name> is what kin_vulkan_work.shader says. A file with
 * lines
 *     // variant: NAME -DFLAG=1 ...
 *     // optional variant: NAME -DFLAG=1 ...     (left out where this glslc cannot compile it)
 * is compiled once for each of them instead, under those names. common.glsl has the loads and
 * stores.
 */
#ifndef KIN_BACKENDS_VULKAN_VULKAN_H
#define KIN_BACKENDS_VULKAN_VULKAN_H

#include "runtime/backend.h"

enum {
    KIN_VULKAN_BINDINGS = 16,    /* of one dispatch */
    KIN_VULKAN_TEXELS = 5,       /* those of them that may be texel buffers */
    KIN_VULKAN_SPECS = 24,       /* specialisation constants */
    KIN_VULKAN_PUSH_BYTES = 128, /* of push constants: what every device has */
    KIN_VULKAN_MATRICES = 16     /* shapes of cooperative matrices that are kept */
};

/* A shape of the driver's cooperative matrices (VK_NV_cooperative_matrix), subgroup scope. Types
 * are VkComponentTypeNV: 0 f16, 1 f32. */
typedef struct kin_vulkan_matrix {
    uint32_t m, n, k;
    uint32_t a_type, b_type, c_type, d_type;
} kin_vulkan_matrix;

typedef struct kin_vulkan_features {
    bool is_cpu;                         /* a software driver, such as lavapipe */
    uint32_t vendor;                     /* PCI vendor, 0x10DE and so on */
    uint32_t subgroup_size;              /* what a pipeline gets if it asks for nothing */
    uint32_t subgroup_min, subgroup_max; /* what it may ask for; both 0 if it may not */
    uint32_t subgroup_operations;        /* VkSubgroupFeatureFlags that compute shaders have */
    bool storage16; /* 16-bit values in storage buffers (16-bit types in the block) */
    bool storage8;  /* 8-bit values in storage buffers */
    bool float16;   /* arithmetic in f16 */
    bool int16, int8, int64;
    bool memory_model; /* the Vulkan memory model, which cooperative matrices need */
    uint32_t max_group_invocations, max_group_size[3], max_groups[3];
    uint32_t shared_bytes;      /* shared memory of a work group */
    uint32_t max_bindings;      /* storage buffers of a shader, KIN_VULKAN_BINDINGS at most */
    uint64_t max_range;         /* bytes of the largest binding */
    uint32_t binding_alignment; /* of a binding's offset, at least 16, a power of two */
    uint32_t texel_alignment;   /* of a texel buffer's offset, at least 16, a power of two */
    uint64_t max_texels;        /* of a texel buffer */
    int matrix_count;
    kin_vulkan_matrix matrices[KIN_VULKAN_MATRICES];
} kin_vulkan_features;

const kin_vulkan_features *kin_vulkan_features_of(const kin_device *device);

/* ---- one dispatch ---- */

typedef struct kin_vulkan_binding {
    kin_buffer *buffer;
    size_t offset, size; /* bytes; the offset is aligned to binding_alignment */
    bool write;          /* the shader writes it (and may read it) */
    uint32_t format;     /* VkFormat of a texel buffer; 0: a storage buffer */
} kin_vulkan_binding;

typedef struct kin_vulkan_work {
    const char *shader;
    uint32_t specs[KIN_VULKAN_SPECS]; /* constant_id i is specs[i]; specs[0] is the group's width */
    int spec_count;
    kin_vulkan_binding bindings[KIN_VULKAN_BINDINGS]; /* binding i of set 0 */
    int binding_count, texel_count; /* the first texel_count bindings are texel buffers */
    unsigned char push[KIN_VULKAN_PUSH_BYTES];
    size_t push_size;
    uint32_t subgroup_size; /* asked for; 0: any. Only within subgroup_min .. subgroup_max */
    /* Work groups. With groups[1] = groups[2] = 1 any number is fine: it is folded to a grid, and
     * the shader takes kin_group() of common.glsl, which may come out above the number asked for.
     */
    uint64_t groups[3];
} kin_vulkan_work;

/* Empty work with groups {1, 1, 1}; group_width becomes specs[0]. */
kin_vulkan_work kin_vulkan_work_of(const char *shader, uint32_t group_width);
/* Appends a specialisation constant. */
void kin_vulkan_spec(kin_vulkan_work *work, uint32_t value);
/* Appends the next binding: the bytes from the operand's first element to its last. Returns the
 * index, within the binding and in elements, of the operand's element 0. An absent input gets four
 * bytes of zeros. The operand's strides must not be negative. */
uint32_t kin_vulkan_read(const kin_device *device, kin_vulkan_work *work,
                         const kin_operand *operand);
uint32_t kin_vulkan_write(const kin_device *device, kin_vulkan_work *work,
                          const kin_operand *operand);
/* The same for plain bytes, as of scratch memory; returns the index in 32-bit words. The offset
 * must be a multiple of 4. */
uint32_t kin_vulkan_bytes(const kin_device *device, kin_vulkan_work *work, kin_buffer *buffer,
                          size_t offset, size_t size, bool write);
/* The same as texel buffers of four elements a texel, which are read with texelFetch and which
 * software drivers read several times faster than storage buffers. They come before all other
 * bindings. f32 and f16 arrive as floats, bf16 as the upper halves of floats (usamplerBuffer).
 * Returns the texel in which the operand begins; kin_vulkan_texels_fit says whether it begins at
 * the start of one. */
uint32_t kin_vulkan_texels(const kin_device *device, kin_vulkan_work *work,
                           const kin_operand *operand);
/* f32 in scratch memory, whose offset must be a multiple of 64. */
uint32_t kin_vulkan_texel_bytes(const kin_device *device, kin_vulkan_work *work, kin_buffer *buffer,
                                size_t offset, size_t size);
/* True if the operand is f32, f16 or bf16, begins on a texel and is not too large. What lies behind
 * its last whole texel can be read too: buffers end on whole texels. */
bool kin_vulkan_texels_fit(const kin_device *device, const kin_operand *operand);
/* Copies the push constants; a struct of 32-bit members, of up to KIN_VULKAN_PUSH_BYTES. */
void kin_vulkan_push(kin_vulkan_work *work, const void *data, size_t size);
/* Records the dispatch. The pipeline is made at the first use of (shader, specs, number of
 * bindings, subgroup size) and kept until the device is closed. Work with too many constants,
 * bindings or groups, or a binding beyond max_range, is KIN_INVALID. A grid with a 0 records
 * nothing. */
kin_status kin_vulkan_launch(kin_device *device, kin_commands *commands,
                             const kin_vulkan_work *work);
/* True if the shader is in this build (an optional variant may not be). */
bool kin_vulkan_has_shader(const char *name);

/* ---- helpers for `can` and `launch` ---- */

static inline bool kin_vulkan_is_absent(const kin_operand *operand) {
    return operand->desc.rank < 0;
}

/* f32, f16 and bf16: what every kernel of this backend reads and writes. */
static inline bool kin_vulkan_is_real(kin_dtype dtype) {
    return dtype == KIN_F32 || dtype == KIN_F16 || dtype == KIN_BF16;
}

/* Elements from the first to the last of an operand, both included; 0 if it has none. */
int64_t kin_vulkan_span(const kin_desc *desc);
/* True if each operand fits in one binding and its elements can be counted in 32 bits. */
bool kin_vulkan_fits(const kin_device *device, const kin_call *call);
/* kin_vulkan_fits, and all operands that are there are f32, f16 or bf16. */
bool kin_vulkan_fits_real(const kin_device *device, const kin_call *call);

/* The work groups that `count` elements need if a group does `each`. */
static inline uint64_t kin_vulkan_groups(int64_t count, int64_t each) {
    return count <= 0 ? 0 : ((uint64_t)count + (uint64_t)each - 1) / (uint64_t)each;
}

#endif
