/* Kernels of sum, mean and max over axes. */
#include "backends/vulkan/reduce.h"
#include "ops/reduce_attrs.h"

/* Enough invocations to fill a large device; parts are not made shorter than MIN_TERMS. */
enum { WANTED_INVOCATIONS = 16384, MIN_TERMS = 64, MAX_PARTS = 1024 };

typedef struct reduce_push {
    uint32_t count, terms, parts, x_first, y_first;
    float scale;
    uint32_t kept_dims[VULKAN_REDUCE_RANK], kept_strides[VULKAN_REDUCE_RANK];
    uint32_t reduced_dims[VULKAN_REDUCE_RANK], reduced_strides[VULKAN_REDUCE_RANK];
} reduce_push;

bool vulkan_reduce_add(vulkan_reduce_axes *axes, int64_t dim, int64_t stride) {
    if (axes->rank == 0 && axes->count == 0) axes->count = 1;
    axes->count *= dim;
    if (dim == 1) return true;
    int last = axes->rank - 1;
    if (last >= 0 && axes->strides[last] == dim * stride) {
        axes->dims[last] *= dim;
        axes->strides[last] = stride;
        return true;
    }
    if (axes->rank == VULKAN_REDUCE_RANK) return false;
    axes->dims[axes->rank] = dim;
    axes->strides[axes->rank++] = stride;
    return true;
}

static int64_t last_stride(const vulkan_reduce_axes *axes) {
    return axes->rank > 0 ? axes->strides[axes->rank - 1] : INT64_MAX;
}

size_t vulkan_reduce_choose(vulkan_reduction *reduction) {
    int64_t results = reduction->kept.count, terms = reduction->reduced.count;
    int64_t parts = results > 0 ? WANTED_INVOCATIONS / results : 1;
    if (parts > terms / MIN_TERMS) parts = terms / MIN_TERMS;
    if (parts > MAX_PARTS) parts = MAX_PARTS;
    reduction->parts = parts < 1 ? 1 : parts;
    reduction->parts_inner = last_stride(&reduction->reduced) < last_stride(&reduction->kept);
    return reduction->parts > 1 ? (size_t)(results * reduction->parts) * sizeof(float) : 0;
}

/* The elements behind x that the axes reach. */
static kin_operand spanned(const vulkan_reduction *reduction) {
    kin_operand view = reduction->x;
    const vulkan_reduce_axes *lists[2] = {&reduction->kept, &reduction->reduced};
    int64_t span = 1;
    for (int list = 0; list < 2; list++)
        for (int i = 0; i < lists[list]->rank; i++)
            span += (lists[list]->dims[i] - 1) * lists[list]->strides[i];
    if (reduction->kept.count == 0 || reduction->reduced.count == 0) span = 0;
    view.desc = kin_desc_dense(view.desc.dtype, 1, &span);
    return view;
}

kin_status vulkan_reduce_pass(kin_device *device, kin_commands *commands,
                              const vulkan_reduction *reduction, int64_t parts,
                              const kin_operand *out) {
    reduce_push push = {.count = (uint32_t)reduction->kept.count,
                        .terms = (uint32_t)reduction->reduced.count,
                        .parts = (uint32_t)parts,
                        .scale = reduction->scale};
    bool final = parts == 1;
    kin_operand x = spanned(reduction);
    kin_vulkan_work work = kin_vulkan_work_of("reduce", VULKAN_REDUCE_WIDTH);
    kin_vulkan_spec(&work, x.desc.dtype);
    kin_vulkan_spec(&work, out->desc.dtype);
    kin_vulkan_spec(&work, reduction->maximum);
    kin_vulkan_spec(&work, reduction->square);
    kin_vulkan_spec(&work, final && reduction->root);
    kin_vulkan_spec(&work, (uint32_t)reduction->kept.rank);
    kin_vulkan_spec(&work, (uint32_t)reduction->reduced.rank);
    kin_vulkan_spec(&work, reduction->parts_inner);
    if (!final) push.scale = 1;
    for (int i = 0; i < reduction->kept.rank; i++) {
        push.kept_dims[i] = (uint32_t)reduction->kept.dims[i];
        push.kept_strides[i] = (uint32_t)reduction->kept.strides[i];
    }
    for (int i = 0; i < reduction->reduced.rank; i++) {
        push.reduced_dims[i] = (uint32_t)reduction->reduced.dims[i];
        push.reduced_strides[i] = (uint32_t)reduction->reduced.strides[i];
    }
    push.x_first = kin_vulkan_read(device, &work, &x);
    push.y_first = kin_vulkan_write(device, &work, out);
    kin_vulkan_push(&work, &push, sizeof push);
    int64_t each = out->desc.dtype == KIN_F32 ? 1 : 2;
    work.groups[0] = kin_vulkan_groups(reduction->kept.count * parts, each * VULKAN_REDUCE_WIDTH);
    return kin_vulkan_launch(device, commands, &work);
}

kin_status vulkan_reduce(kin_device *device, kin_commands *commands,
                         const vulkan_reduction *reduction, kin_buffer *scratch,
                         size_t scratch_offset) {
    int64_t results = reduction->kept.count, parts = reduction->parts, count = results * parts;
    if (parts <= 1) return vulkan_reduce_pass(device, commands, reduction, 1, &reduction->out);
    kin_operand partial = {kin_desc_dense(KIN_F32, 1, &count), scratch, scratch_offset};
    kin_status status = vulkan_reduce_pass(device, commands, reduction, parts, &partial);
    if (status != KIN_OK) return status;
    bool inner = reduction->parts_inner;
    vulkan_reduction rest = {.maximum = reduction->maximum,
                             .root = reduction->root,
                             .scale = reduction->scale,
                             .x = partial,
                             .out = reduction->out};
    vulkan_reduce_add(&rest.kept, results, inner ? parts : 1);
    vulkan_reduce_add(&rest.reduced, parts, inner ? 1 : results);
    return vulkan_reduce_pass(device, commands, &rest, 1, &reduction->out);
}

kin_status vulkan_reduce_columns(kin_device *device, kin_commands *commands, kin_buffer *x,
                                 size_t x_offset, int64_t rows, int64_t columns,
                                 const kin_operand *out) {
    vulkan_reduction sum = {.scale = 1, .parts = 1, .out = *out};
    sum.x = (kin_operand){kin_desc_dense(KIN_F32, 1, &columns), x, x_offset};
    vulkan_reduce_add(&sum.kept, columns, 1);
    vulkan_reduce_add(&sum.reduced, rows, columns);
    return vulkan_reduce(device, commands, &sum, NULL, 0);
}

/* ---- the rows ---- */

/* False if the axes cannot be joined to few enough. */
static bool reduction_of(const kin_call *call, bool maximum, bool mean,
                         vulkan_reduction *out_reduction) {
    const kin_reduce_attrs *attrs = call->attrs;
    const kin_desc *x = &call->in[0].desc;
    *out_reduction =
        (vulkan_reduction){.maximum = maximum, .scale = 1, .x = call->in[0], .out = call->out[0]};
    vulkan_reduce_add(&out_reduction->kept, 1, 0);
    vulkan_reduce_add(&out_reduction->reduced, 1, 0);
    for (int axis = 0; axis < x->rank; axis++) {
        bool reduced = (attrs->axes >> axis & 1u) != 0;
        if (!vulkan_reduce_add(reduced ? &out_reduction->reduced : &out_reduction->kept,
                               x->dims[axis], x->strides[axis]))
            return false;
    }
    if (mean) out_reduction->scale = (float)(1.0 / (double)out_reduction->reduced.count);
    return true;
}

static bool can(const kin_device *device, const kin_call *call) {
    vulkan_reduction reduction;
    return kin_vulkan_fits_real(device, call) && reduction_of(call, false, false, &reduction);
}

static size_t scratch(const kin_device *device, const kin_call *call) {
    vulkan_reduction reduction;
    (void)device;
    return reduction_of(call, false, false, &reduction) ? vulkan_reduce_choose(&reduction) : 0;
}

static kin_status launch(kin_device *device, kin_commands *commands, const kin_call *call,
                         bool maximum, bool mean) {
    vulkan_reduction reduction;
    reduction_of(call, maximum, mean, &reduction);
    vulkan_reduce_choose(&reduction);
    return vulkan_reduce(device, commands, &reduction, call->scratch, call->scratch_offset);
}

static kin_status launch_sum(kin_device *device, kin_commands *commands, const kin_call *call) {
    return launch(device, commands, call, false, false);
}

static kin_status launch_mean(kin_device *device, kin_commands *commands, const kin_call *call) {
    return launch(device, commands, call, false, true);
}

static kin_status launch_max(kin_device *device, kin_commands *commands, const kin_call *call) {
    return launch(device, commands, call, true, false);
}

const kin_kernel kin_vulkan_reduce_kernels[] = {
    {"sum", "vulkan_sum", 1, 0, can, scratch, launch_sum},
    {"mean", "vulkan_mean", 1, 0, can, scratch, launch_mean},
    {"max", "vulkan_max", 1, 0, can, scratch, launch_max},
    {0},
};
