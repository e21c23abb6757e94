/* Kernels of matmul and linear. Three products: through shared memory, for GPUs and for all layouts
 * (matmul_tiles.comp); by whole texels without shared memory, for software drivers
 * (matmul_texels.comp); and by cooperative matrices for f16 where the driver has them
 * (matmul_nv.comp). */
#include "backends/vulkan/heavy.h"

#include <string.h>

enum { LEADING = 3 }; /* axes that one dispatch counts through */

/* A batch of products: c[m, n] = a[m, k] b[k, n]. Strides in elements; leading axes first to last,
 * those that can be counted through as one joined. */
typedef struct product {
    int64_t m, n, k;
    int64_t a_m, a_k, b_k, b_n;
    int rank;
    int64_t dims[KIN_MAX_RANK], a_steps[KIN_MAX_RANK], b_steps[KIN_MAX_RANK];
} product;

static int64_t leading_stride(const kin_desc *desc, int tail, const kin_desc *out, int out_tail,
                              int axis) {
    int own = axis - (out->rank - out_tail) + (desc->rank - tail);
    return own < 0 || desc->dims[own] == 1 ? 0 : desc->strides[own];
}

/* Adds a leading axis, in the order last to first. */
static void add_axis(product *p, int64_t dim, int64_t a_step, int64_t b_step) {
    if (dim == 1) return;
    /* One b for many a that follow one another: one taller product. */
    if (p->rank == 0 && b_step == 0 && (p->m == 1 || a_step == p->m * p->a_m)) {
        if (p->m == 1) p->a_m = a_step;
        p->m *= dim;
        return;
    }
    int last = p->rank - 1;
    if (last >= 0 && a_step == p->dims[last] * p->a_steps[last] &&
        b_step == p->dims[last] * p->b_steps[last]) {
        p->dims[last] *= dim;
        return;
    }
    p->dims[p->rank] = dim;
    p->a_steps[p->rank] = a_step;
    p->b_steps[p->rank++] = b_step;
}

static void reverse(int64_t *list, int count) {
    for (int i = 0; i < count / 2; i++) {
        int64_t kept = list[i];
        list[i] = list[count - 1 - i];
        list[count - 1 - i] = kept;
    }
}

static product product_of(const kin_call *call) {
    const kin_desc *a = &call->in[0].desc, *b = &call->in[1].desc, *out = &call->out[0].desc;
    const bool linear = strcmp(call->op, "linear") == 0;
    product p = {.n = out->dims[out->rank - 1], .k = a->dims[a->rank - 1], .m = 1};
    p.a_k = a->strides[a->rank - 1];
    p.b_k = b->strides[b->rank - (linear ? 1 : 2)];
    p.b_n = b->strides[b->rank - (linear ? 2 : 1)];
    if (out->rank > 1) {
        p.m = out->dims[out->rank - 2];
        p.a_m = a->strides[a->rank - 2];
    }
    for (int axis = out->rank - 3; axis >= 0; axis--)
        add_axis(&p, out->dims[axis], leading_stride(a, 2, out, 2, axis),
                 linear ? 0 : leading_stride(b, 2, out, 2, axis));
    reverse(p.dims, p.rank);
    reverse(p.a_steps, p.rank);
    reverse(p.b_steps, p.rank);
    return p;
}

static const kin_operand *bias_of(const kin_call *call) {
    static const kin_operand absent = {.desc = {.rank = -1}};
    return call->in_count > 2 ? &call->in[2] : &absent;
}

/* by_texels: a and b are no storage buffers, and may be larger than one. */
static bool can_any(const kin_device *device, const kin_call *call, bool by_texels) {
    const kin_operand *bias = bias_of(call);
    const kin_dtype b = call->in[1].desc.dtype;
    if (!kin_vulkan_is_real(call->in[0].desc.dtype) || !kin_vulkan_is_real(call->out[0].desc.dtype))
        return false;
    if (!kin_vulkan_is_absent(bias) && !kin_vulkan_is_real(bias->desc.dtype)) return false;
    if (b == KIN_Q8_0 && !kin_desc_is_dense(&call->in[1].desc)) return false;
    const kin_call rest = {.in_count = 1, .in = bias, .out_count = 1, .out = call->out};
    return (kin_vulkan_is_real(b) || b == KIN_Q8_0) &&
           kin_vulkan_fits(device, by_texels ? &rest : call);
}

/* Where a dispatch begins: axes in front of the last LEADING are counted through by the host. */
typedef struct place {
    int64_t a, b, c;
} place;

static int64_t outer_count(const product *p) {
    int64_t count = 1;
    for (int i = 0; i < p->rank - LEADING; i++) count *= p->dims[i];
    return count;
}

static place place_of(const product *p, int64_t index) {
    place at = {0, 0, index * p->m * p->n};
    for (int i = p->rank - 1; i >= 0 && i >= p->rank - LEADING; i--) at.c *= p->dims[i];
    for (int i = p->rank - LEADING - 1; i >= 0; i--) {
        at.a += index % p->dims[i] * p->a_steps[i];
        at.b += index % p->dims[i] * p->b_steps[i];
        index /= p->dims[i];
    }
    return at;
}

/* The last LEADING axes, those that are not there of size 1. Returns the number of products. */
static uint32_t inner_axes(const product *p, uint32_t dims[2], uint32_t a_steps[3],
                           uint32_t b_steps[3], int64_t unit_a, int64_t unit_b) {
    uint32_t count = 1;
    for (int i = 0; i < LEADING; i++) {
        int axis = p->rank - LEADING + i;
        uint32_t dim = axis >= 0 ? (uint32_t)p->dims[axis] : 1;
        a_steps[i] = axis >= 0 ? (uint32_t)(p->a_steps[axis] / unit_a) : 0;
        b_steps[i] = axis >= 0 ? (uint32_t)(p->b_steps[axis] / unit_b) : 0;
        if (i > 0) dims[i - 1] = dim;
        count *= dim;
    }
    return count;
}

/* ---- through shared memory ---- */

static bool needs_narrow(const kin_call *call) {
    const kin_desc *out = &call->out[0].desc;
    return kin_vulkan_is_odd(out->dtype, out->dims[out->rank - 1]);
}

static size_t tiles_scratch(const kin_device *device, const kin_call *call) {
    (void)device;
    return needs_narrow(call) ? kin_vulkan_scratch_bytes(kin_desc_count(&call->out[0].desc)) : 0;
}

/* The push constants of matmul_tiles.comp. */
typedef struct tiles_push {
    uint32_t m, n, k, tiles_m, tiles_n, batches;
    uint32_t a, a_m, a_k, b, b_k, b_n, c, bias, bias_step;
    uint32_t dims[2], a_steps[3], b_steps[3];
} tiles_push;

static kin_status tiles_dispatch(kin_device *device, kin_commands *commands, const kin_call *call,
                                 const product *p, const place *at) {
    const kin_operand *bias = bias_of(call), *b = &call->in[1];
    const bool narrow = needs_narrow(call), blocks = b->desc.dtype == KIN_Q8_0;
    const kin_vulkan_tile tile = kin_vulkan_tile_for(device, p->m, p->n);
    kin_vulkan_work work =
        kin_vulkan_tile_work("matmul_tiles", &tile, p->a_k == 1 || p->a_m != 1, p->b_k == 1);
    tiles_push push = {.m = (uint32_t)p->m,
                       .n = (uint32_t)p->n,
                       .k = (uint32_t)p->k,
                       .a_m = (uint32_t)p->a_m,
                       .a_k = (uint32_t)p->a_k,
                       .b_k = (uint32_t)p->b_k,
                       .b_n = (uint32_t)p->b_n};
    kin_vulkan_spec(&work, kin_vulkan_dtype_spec(&call->in[0]));
    kin_vulkan_spec(&work, kin_vulkan_dtype_spec(b));
    kin_vulkan_spec(&work, narrow ? (uint32_t)KIN_F32 : (uint32_t)call->out[0].desc.dtype);
    kin_vulkan_spec(&work, kin_vulkan_dtype_spec(bias));
    push.tiles_m = (uint32_t)kin_vulkan_groups(p->m, tile.m);
    push.tiles_n = (uint32_t)kin_vulkan_groups(p->n, tile.n);
    push.batches = inner_axes(p, push.dims, push.a_steps, push.b_steps, 1, 1);
    push.a = kin_vulkan_read(device, &work, &call->in[0]) + (uint32_t)at->a;
    push.b = kin_vulkan_read(device, &work, b) * (blocks ? 2 : 1) + (blocks ? 0 : (uint32_t)at->b);
    push.bias = kin_vulkan_read(device, &work, bias);
    push.bias_step = kin_vulkan_is_absent(bias) ? 0 : (uint32_t)bias->desc.strides[0];
    push.c = narrow ? kin_vulkan_bytes(device, &work, call->scratch, call->scratch_offset,
                                       tiles_scratch(device, call), true)
                    : kin_vulkan_write(device, &work, &call->out[0]);
    push.c += (uint32_t)at->c;
    kin_vulkan_push(&work, &push, sizeof push);
    work.groups[0] = (uint64_t)push.tiles_m * push.tiles_n * push.batches;
    return kin_vulkan_launch(device, commands, &work);
}

static kin_status tiles_launch(kin_device *device, kin_commands *commands, const kin_call *call) {
    const product p = product_of(call);
    kin_status status = KIN_OK;
    if (kin_desc_count(&call->out[0].desc) == 0) return KIN_OK;
    for (int64_t i = 0; i < outer_count(&p) && status == KIN_OK; i++) {
        const place at = place_of(&p, i);
        status = tiles_dispatch(device, commands, call, &p, &at);
    }
    if (status != KIN_OK || !needs_narrow(call)) return status;
    return kin_vulkan_narrow(device, commands, call, 0, &call->out[0]);
}

static bool tiles_can(const kin_device *device, const kin_call *call) {
    if (!can_any(device, call, false)) return false;
    const product p = product_of(call);
    return call->in[1].desc.dtype != KIN_Q8_0 || p.rank <= LEADING;
}

/* ---- by texels ---- */

/* True if the texels of an operand are four neighbours along k or along its other axis; says which.
 */
static bool lies_in_texels(const kin_device *device, const kin_operand *operand, const product *p,
                           int64_t k_stride, int64_t other_stride, int64_t other,
                           const int64_t *steps) {
    for (int i = 0; i < p->rank; i++)
        if (steps[i] % 4 != 0) return false;
    if (!kin_vulkan_texels_fit(device, operand)) return false;
    if (k_stride == 1) return other_stride % 4 == 0 || other == 1;
    return other_stride == 1 && k_stride % 4 == 0;
}

static bool texels_can(const kin_device *device, const kin_call *call) {
    if (!kin_vulkan_features_of(device)->is_cpu || !can_any(device, call, true) ||
        needs_narrow(call))
        return false;
    const product p = product_of(call);
    if (p.k % 4 != 0 || p.k == 0 || p.m * p.n < 64) return false;
    return lies_in_texels(device, &call->in[0], &p, p.a_k, p.a_m, p.m, p.a_steps) &&
           lies_in_texels(device, &call->in[1], &p, p.b_k, p.b_n, p.n, p.b_steps);
}

/* Sums of an invocation: rows x 4 groups; lanes_x invocations side by side. */
typedef struct texels_tile {
    uint32_t rows, groups, lanes_x;
} texels_tile;

enum { LANES = 8 };

/* The tile with the least work, counted in cycles of lavapipe for each 4 of k: a read of a texel by
 * eight invocations takes about 18, four sums about 2. */
static texels_tile texels_tile_for(int64_t m, int64_t n) {
    static const texels_tile tiles[] = {{16, 4, 2}, {16, 2, 4}, {8, 1, 8}, {4, 2, 8}, {4, 1, 2}};
    texels_tile best = tiles[0];
    double least = 0;
    for (size_t i = 0; i < sizeof tiles / sizeof *tiles; i++) {
        const texels_tile *t = &tiles[i];
        double count = (double)kin_vulkan_groups(m, t->rows * (LANES / t->lanes_x)) *
                       (double)kin_vulkan_groups(n, 4 * t->groups * t->lanes_x);
        double cost = count * (18.0 * (t->rows + 4 * t->groups) + 8.0 * t->rows * t->groups + 20);
        if (i == 0 || cost < least) {
            least = cost;
            best = *t;
        }
    }
    return best;
}

/* The push constants of matmul_texels.comp. */
typedef struct texels_push {
    uint32_t m, n, k, tiles_m, tiles_n, batches;
    uint32_t a, a_step, b, b_step, c, bias, bias_step;
    uint32_t dims[2], a_steps[3], b_steps[3];
} texels_push;

static kin_status texels_dispatch(kin_device *device, kin_commands *commands, const kin_call *call,
                                  const product *p, const place *at) {
    static const char *const shaders[2][2] = {{"matmul_texels", "matmul_texels_b16"},
                                              {"matmul_texels_a16", "matmul_texels_16"}};
    const kin_operand *bias = bias_of(call), *a = &call->in[0], *b = &call->in[1];
    const texels_tile tile = texels_tile_for(p->m, p->n);
    const bool a_along_k = p->a_k == 1, b_along_k = p->b_k == 1;
    kin_vulkan_work work =
        kin_vulkan_work_of(shaders[a->desc.dtype == KIN_BF16][b->desc.dtype == KIN_BF16], LANES);
    const uint32_t specs[] = {tile.rows, tile.groups, tile.lanes_x, a_along_k, b_along_k};
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) kin_vulkan_spec(&work, specs[i]);
    kin_vulkan_spec(&work, (uint32_t)call->out[0].desc.dtype);
    kin_vulkan_spec(&work, kin_vulkan_dtype_spec(bias));
    texels_push push = {.m = (uint32_t)p->m, .n = (uint32_t)p->n, .k = (uint32_t)p->k};
    push.tiles_m = (uint32_t)kin_vulkan_groups(p->m, tile.rows * (LANES / tile.lanes_x));
    push.tiles_n = (uint32_t)kin_vulkan_groups(p->n, 4 * tile.groups * tile.lanes_x);
    push.batches = inner_axes(p, push.dims, push.a_steps, push.b_steps, 4, 4);
    push.a_step = (uint32_t)((a_along_k ? p->a_m : p->a_k) / 4);
    push.b_step = (uint32_t)((b_along_k ? p->b_n : p->b_k) / 4);
    push.a = kin_vulkan_texels(device, &work, a) + (uint32_t)(at->a / 4);
    push.b = kin_vulkan_texels(device, &work, b) + (uint32_t)(at->b / 4);
    push.bias = kin_vulkan_read(device, &work, bias);
    push.bias_step = kin_vulkan_is_absent(bias) ? 0 : (uint32_t)bias->desc.strides[0];
    push.c = kin_vulkan_write(device, &work, &call->out[0]) + (uint32_t)at->c;
    kin_vulkan_push(&work, &push, sizeof push);
    work.groups[0] = (uint64_t)push.tiles_m * push.tiles_n * push.batches;
    return kin_vulkan_launch(device, commands, &work);
}

static kin_status texels_launch(kin_device *device, kin_commands *commands, const kin_call *call) {
    const product p = product_of(call);
    kin_status status = KIN_OK;
    for (int64_t i = 0; i < outer_count(&p) && status == KIN_OK; i++) {
        const place at = place_of(&p, i);
        status = texels_dispatch(device, commands, call, &p, &at);
    }
    return status;
}

/* ---- by cooperative matrices ---- */

enum { NV_SUBGROUPS = 4, NV_PARTS = 2, NV_F16 = 0, NV_F32 = 1 };

/* A shape of f16 matrices with f32 sums that divides the product; NULL: none. */
static const kin_vulkan_matrix *matrix_for(const kin_device *device, const product *p) {
    const kin_vulkan_features *features = kin_vulkan_features_of(device);
    for (int i = 0; i < features->matrix_count; i++) {
        const kin_vulkan_matrix *x = &features->matrices[i];
        const bool types = x->a_type == NV_F16 && x->b_type == NV_F16 && x->c_type == NV_F32 &&
                           x->d_type == NV_F32;
        const size_t shared = sizeof(float) * NV_SUBGROUPS * x->m * x->n;
        if (types && p->m % x->m == 0 && p->n % x->n == 0 && p->k % x->k == 0 &&
            shared <= features->shared_bytes)
            return x;
    }
    return NULL;
}

/* Rows, or columns, of whole 16 bytes. */
static bool is_aligned(const kin_operand *operand, const product *p, int64_t k_stride,
                       int64_t other_stride, const int64_t *steps) {
    for (int i = 0; i < p->rank; i++)
        if (steps[i] % 8 != 0) return false;
    if (operand->desc.dtype != KIN_F16 || operand->offset % 16 != 0) return false;
    return k_stride == 1 ? other_stride % 8 == 0 : other_stride == 1 && k_stride % 8 == 0;
}

static bool nv_can(const kin_device *device, const kin_call *call) {
    const kin_vulkan_features *features = kin_vulkan_features_of(device);
    const kin_operand *bias = bias_of(call);
    const kin_dtype out = call->out[0].desc.dtype;
    if (features->matrix_count == 0 || !features->storage16 || !features->float16 ||
        !features->memory_model || !can_any(device, call, false))
        return false;
    if ((out != KIN_F16 && out != KIN_F32) ||
        (!kin_vulkan_is_absent(bias) && bias->desc.dtype == KIN_BF16) ||
        NV_SUBGROUPS * features->subgroup_size > features->max_group_invocations)
        return false;
    const product p = product_of(call);
    return p.m > 0 && p.n > 0 && p.k > 0 && matrix_for(device, &p) != NULL &&
           is_aligned(&call->in[0], &p, p.a_k, p.a_m, p.a_steps) &&
           is_aligned(&call->in[1], &p, p.b_k, p.b_n, p.b_steps) &&
           kin_vulkan_has_shader(out == KIN_F16 ? "matmul_nv" : "matmul_nv_f32");
}

static kin_status nv_dispatch(kin_device *device, kin_commands *commands, const kin_call *call,
                              const product *p, const place *at) {
    const kin_vulkan_features *features = kin_vulkan_features_of(device);
    const kin_vulkan_matrix *matrix = matrix_for(device, p);
    const kin_operand *bias = bias_of(call), *out = &call->out[0];
    const bool a_along_k = p->a_k == 1, b_along_k = p->b_k == 1;
    kin_vulkan_work work =
        kin_vulkan_work_of(out->desc.dtype == KIN_F16 ? "matmul_nv" : "matmul_nv_f32",
                           NV_SUBGROUPS * features->subgroup_size);
    const uint32_t specs[] = {matrix->m,
                              matrix->n,
                              matrix->k,
                              NV_SUBGROUPS,
                              a_along_k,
                              b_along_k,
                              kin_vulkan_is_absent(bias)    ? 0
                              : bias->desc.dtype == KIN_F16 ? 1
                                                            : 2};
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) kin_vulkan_spec(&work, specs[i]);
    if (features->subgroup_max > 0) work.subgroup_size = features->subgroup_size;
    texels_push push = {.m = (uint32_t)p->m, .n = (uint32_t)p->n, .k = (uint32_t)p->k};
    push.tiles_m = (uint32_t)kin_vulkan_groups(p->m, NV_PARTS * matrix->m);
    push.tiles_n = (uint32_t)kin_vulkan_groups(p->n, NV_SUBGROUPS * NV_PARTS * matrix->n);
    push.batches = inner_axes(p, push.dims, push.a_steps, push.b_steps, 1, 1);
    push.a_step = (uint32_t)(a_along_k ? p->a_m : p->a_k);
    push.b_step = (uint32_t)(b_along_k ? p->b_n : p->b_k);
    push.a = kin_vulkan_read(device, &work, &call->in[0]) + (uint32_t)at->a;
    push.b = kin_vulkan_read(device, &work, &call->in[1]) + (uint32_t)at->b;
    push.bias = kin_vulkan_read(device, &work, bias);
    push.bias_step = kin_vulkan_is_absent(bias) ? 0 : (uint32_t)bias->desc.strides[0];
    push.c = kin_vulkan_write(device, &work, out) + (uint32_t)at->c;
    kin_vulkan_push(&work, &push, sizeof push);
    work.groups[0] = (uint64_t)push.tiles_m * push.tiles_n * push.batches;
    return kin_vulkan_launch(device, commands, &work);
}

static kin_status nv_launch(kin_device *device, kin_commands *commands, const kin_call *call) {
    const product p = product_of(call);
    kin_status status = KIN_OK;
    for (int64_t i = 0; i < outer_count(&p) && status == KIN_OK; i++) {
        const place at = place_of(&p, i);
        status = nv_dispatch(device, commands, call, &p, &at);
    }
    return status;
}

const kin_kernel kin_vulkan_matmul_kernels[] = {
    {"linear", "vulkan_linear_nv", 3, 0, nv_can, NULL, nv_launch},
    {"linear", "vulkan_linear_texels", 3, 0, texels_can, NULL, texels_launch},
    {"linear", "vulkan_linear_tiles", 3, 0, tiles_can, tiles_scratch, tiles_launch},
    {"matmul", "vulkan_matmul_nv", 3, 0, nv_can, NULL, nv_launch},
    {"matmul", "vulkan_matmul_texels", 3, 0, texels_can, NULL, texels_launch},
    {"matmul", "vulkan_matmul_tiles", 3, 0, tiles_can, tiles_scratch, tiles_launch},
    {0},
};
