/* Kernels of sum, mean and max. */
#include "backends/opencl/reduce.h"
#include "ops/reduce_attrs.h"

#include <stdio.h>
#include <string.h>

enum {
    ENOUGH_WORK = 4096,  /* work-items that fill a device */
    PART_ELEMENTS = 512, /* what a part has at least */
    MOST_PARTS = 256
};

/* The shape of the axes in `axes`. */
static opencl_shape chosen(const kin_desc *x, uint32_t axes) {
    kin_desc view = {.dtype = x->dtype};
    for (int a = 0; a < x->rank; a++) {
        if ((axes >> a & 1) == 0) continue;
        view.dims[view.rank] = x->dims[a];
        view.strides[view.rank++] = x->strides[a];
    }
    const kin_desc *list[1] = {&view};
    return opencl_shape_of(view.rank, view.dims, 1, list);
}

static int64_t count_of(const opencl_shape *s) {
    int64_t count = 1;
    for (int a = 0; a < s->rank; a++) count *= s->dims[a];
    return count;
}

static bool is_wide(const opencl_reduction *r) {
    return r->inner > 1 && r->inner_stride == 1;
}

static int64_t parts_of(const opencl_reduction *r) {
    int64_t outer = count_of(&r->outer), elements = outer * r->inner;
    int64_t workers = r->results * (is_wide(r) ? 32 : 1);
    int64_t parts = workers >= ENOUGH_WORK || workers < 1 ? 1 : ENOUGH_WORK / workers;
    if (parts > elements / PART_ELEMENTS) parts = elements / PART_ELEMENTS;
    if (outer > 1 && parts > outer) parts = outer;
    if (parts > MOST_PARTS) parts = MOST_PARTS;
    return parts < 1 ? 1 : parts;
}

opencl_reduction opencl_reduction_of(const kin_desc *x, uint32_t axes) {
    opencl_reduction r = {.kept = chosen(x, ~axes), .outer = chosen(x, axes), .inner = 1};
    r.results = count_of(&r.kept);
    if (r.outer.rank > 0) {
        int last = --r.outer.rank;
        r.inner = r.outer.dims[last];
        r.inner_stride = r.outer.strides[0][last];
    }
    r.parts = parts_of(&r);
    return r;
}

static void set_defines(char *text, size_t size, opencl_reduce_kind kind, const opencl_reduction *r,
                        const kin_operand *x, const kin_operand *target) {
    snprintf(text, size, "-DX=%s -DY=%s -DKIND=%d -DKEPT=%d -DOUTER=%d -DWIDE=%d",
             kin_opencl_type(x), kin_opencl_type(target), (int)kind, r->kept.rank, r->outer.rank,
             is_wide(r));
}

kin_status opencl_reduce(kin_device *device, kin_commands *commands, opencl_reduce_kind kind,
                         const opencl_reduction *r, const kin_operand *x, const kin_operand *target,
                         double factor) {
    char defines[128];
    size_t group = 1;
    kin_opencl_launch launch;
    set_defines(defines, sizeof defines, kind, r, x, target);
    if (is_wide(r)) {
        launch = opencl_start_rows(device, commands, "rows reduce", defines, "reduce", r->inner, 1,
                                   &group);
    } else {
        strcat(defines, " -DGROUP=1");
        launch = kin_opencl_start(device, commands, "rows reduce", defines, "reduce");
    }
    kin_opencl_set_operand(&launch, x);
    kin_opencl_set_operand(&launch, target);
    opencl_set_shape(&launch, &r->kept);
    opencl_set_shape(&launch, &r->outer);
    kin_opencl_set_int(&launch, r->inner);
    if (!is_wide(r)) kin_opencl_set_int(&launch, r->inner_stride);
    kin_opencl_set_int(&launch, r->parts);
    kin_opencl_set_float(&launch, factor);
    if (is_wide(r)) return opencl_finish_rows(&launch, r->results * r->parts, group);
    kin_opencl_set_int(&launch, r->results * r->parts);
    return kin_opencl_finish_items(&launch, r->results * r->parts);
}

kin_status opencl_join(kin_device *device, kin_commands *commands, opencl_reduce_kind kind,
                       const kin_operand *partial, int64_t parts, const kin_operand *out,
                       double factor, bool root) {
    char defines[128];
    int64_t results = kin_desc_count(&out->desc);
    snprintf(defines, sizeof defines,
             "-DX=f32 -DY=%s -DKIND=%d -DKEPT=0 -DOUTER=0 -DWIDE=0 -DGROUP=1 -DROOT=%d",
             kin_opencl_type(out), (int)kind, root);
    kin_opencl_launch launch = kin_opencl_start(device, commands, "rows reduce", defines, "join");
    kin_opencl_set_operand(&launch, partial);
    kin_opencl_set_operand(&launch, out);
    kin_opencl_set_int(&launch, parts);
    kin_opencl_set_int(&launch, results);
    kin_opencl_set_float(&launch, factor);
    return kin_opencl_finish_items(&launch, results);
}

static size_t scratch(const kin_device *device, const kin_call *call) {
    (void)device;
    const kin_reduce_attrs *attrs = call->attrs;
    opencl_reduction r = opencl_reduction_of(&call->in[0].desc, attrs->axes);
    return r.parts > 1 ? (size_t)(r.parts * r.results) * sizeof(float) : 0;
}

static kin_status run(kin_device *device, kin_commands *commands, const kin_call *call,
                      opencl_reduce_kind kind, bool mean) {
    const kin_reduce_attrs *attrs = call->attrs;
    const kin_operand *x = &call->in[0], *y = &call->out[0];
    opencl_reduction r = opencl_reduction_of(&x->desc, attrs->axes);
    double factor = mean ? (double)r.results / (double)kin_desc_count(&x->desc) : 1;
    if (r.parts == 1) return opencl_reduce(device, commands, kind, &r, x, y, factor);
    int64_t dims[2] = {r.parts, r.results};
    kin_operand partial = {.desc = kin_desc_dense(KIN_F32, 2, dims),
                           .buffer = call->scratch,
                           .offset = call->scratch_offset};
    kin_status status = opencl_reduce(device, commands, kind, &r, x, &partial, 1);
    return status == KIN_OK
               ? opencl_join(device, commands, kind, &partial, r.parts, y, factor, false)
               : status;
}

static kin_status sum(kin_device *device, kin_commands *commands, const kin_call *call) {
    return run(device, commands, call, OPENCL_SUM, false);
}

static kin_status mean(kin_device *device, kin_commands *commands, const kin_call *call) {
    return run(device, commands, call, OPENCL_SUM, true);
}

static kin_status max(kin_device *device, kin_commands *commands, const kin_call *call) {
    return run(device, commands, call, OPENCL_MAX, false);
}

const kin_kernel kin_opencl_reduce_kernels[] = {
    {"sum", "opencl_sum", 1, 0, kin_opencl_can_real, scratch, sum},
    {"mean", "opencl_mean", 1, 0, kin_opencl_can_real, scratch, mean},
    {"max", "opencl_max", 1, 0, kin_opencl_can_real, scratch, max},
    {0},
};
