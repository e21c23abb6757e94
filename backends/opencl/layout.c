/* Kernels that move or make elements: copy, cast, fill, one, concat, slice_grad. */
#include "backends/opencl/shape.h"
#include "ops/layout_attrs.h"
#include "ops/views_attrs.h"

#include <stdio.h>
#include <string.h>

static const char *unsigned_type(size_t size) {
    return size == 1 ? "uchar" : size == 2 ? "ushort" : size == 4 ? "uint" : "ulong";
}

static size_t size_of(const kin_operand *operand) {
    return kin_dtype_size(operand->desc.dtype);
}

/* ---- copy, concat ---- */

static bool can_move(const kin_device *device, const kin_call *call) {
    (void)device;
    return size_of(&call->out[0]) > 0 && kin_opencl_fits(call);
}

/* Copies `in` to `out`, which has its shape and any strides, from element `out_skip`. */
static kin_status move(kin_device *device, kin_commands *commands, const kin_operand *in,
                       const kin_operand *out, const kin_desc *target, int64_t out_skip) {
    const kin_desc *both[2] = {&in->desc, target};
    opencl_shape shape = opencl_shape_of(in->desc.rank, in->desc.dims, 2, both);
    size_t size = size_of(in);
    char defines[128], map[OPENCL_MAP_DEFINES];
    opencl_map_defines(&shape, map);
    snprintf(defines, sizeof defines, "-DE=%s%s", unsigned_type(size), map);
    kin_opencl_launch launch = kin_opencl_start(device, commands, "layout", defines, "move");
    kin_opencl_set_operand(&launch, in);
    kin_opencl_set_memory(&launch, out->buffer, out->offset + (size_t)out_skip * size, size);
    opencl_set_shape(&launch, &shape);
    return opencl_finish_map(&launch, &shape);
}

static kin_status launch_copy(kin_device *device, kin_commands *commands, const kin_call *call) {
    return move(device, commands, &call->in[0], &call->out[0], &call->out[0].desc, 0);
}

static kin_status launch_concat(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_concat_attrs *attrs = call->attrs;
    const kin_desc *out = &call->out[0].desc;
    int64_t start = 0;
    for (int i = 0; i < call->in_count; i++) {
        kin_desc target = call->in[i].desc;
        memcpy(target.strides, out->strides, sizeof target.strides);
        kin_status status = move(device, commands, &call->in[i], &call->out[0], &target,
                                 start * out->strides[attrs->axis]);
        if (status != KIN_OK) return status;
        start += call->in[i].desc.dims[attrs->axis];
    }
    return KIN_OK;
}

static bool can_copy_blocks(const kin_device *device, const kin_call *call) {
    (void)device;
    return call->in[0].desc.dtype == KIN_Q8_0 && kin_desc_is_dense(&call->in[0].desc) &&
           kin_desc_bytes(&call->in[0].desc) < INT32_MAX;
}

static kin_status launch_copy_blocks(kin_device *device, kin_commands *commands,
                                     const kin_call *call) {
    int64_t bytes = (int64_t)kin_desc_bytes(&call->in[0].desc);
    kin_desc desc = kin_desc_dense(KIN_U8, 1, &bytes);
    kin_operand in = call->in[0], out = call->out[0];
    in.desc = out.desc = desc;
    return move(device, commands, &in, &out, &desc, 0);
}

/* ---- cast ---- */

static bool is_castable(kin_dtype dtype) {
    return dtype != KIN_F64;
}

/* Rows of q8_0 are whole blocks only where the last axis is a multiple of 32. */
static bool can_cast(const kin_device *device, const kin_call *call) {
    (void)device;
    const kin_desc *in = &call->in[0].desc;
    if (in->dtype == KIN_Q8_0 &&
        (!kin_desc_is_dense(in) || in->rank == 0 || in->dims[in->rank - 1] % 32 != 0))
        return false;
    return is_castable(in->dtype) && call->out[0].desc.dtype != KIN_Q8_0 && kin_opencl_fits(call);
}

static kin_status launch_cast(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_desc *in = &call->in[0].desc;
    opencl_shape shape = opencl_shape_of(in->rank, in->dims, 1, &in);
    char defines[192], map[OPENCL_MAP_DEFINES];
    opencl_map_defines(&shape, map);
    snprintf(defines, sizeof defines, "-DX=%s -DY=%s -DFROM_FLOAT=%d%s",
             kin_opencl_type(&call->in[0]), kin_opencl_type(&call->out[0]),
             kin_dtype_is_float(in->dtype), map);
    kin_opencl_launch launch = kin_opencl_start(device, commands, "layout", defines, "cast");
    kin_opencl_set_operand(&launch, &call->in[0]);
    kin_opencl_set_operand(&launch, &call->out[0]);
    opencl_set_shape(&launch, &shape);
    return opencl_finish_map(&launch, &shape);
}

/* ---- fill, one ---- */

static kin_status fill(kin_device *device, kin_commands *commands, const kin_operand *out,
                       double value) {
    unsigned char bytes[8] = {0};
    uint64_t bits = 0;
    char defines[32];
    kin_element_set(bytes, out->desc.dtype, 0, value);
    for (int i = 0; i < 8; i++) bits |= (uint64_t)bytes[i] << 8 * i;
    snprintf(defines, sizeof defines, "-DE=%s -DRANK=0", unsigned_type(size_of(out)));
    kin_opencl_launch launch = kin_opencl_start(device, commands, "layout", defines, "fill");
    int64_t count = kin_desc_count(&out->desc);
    kin_opencl_set_operand(&launch, out);
    kin_opencl_set_bytes(&launch, &bits, sizeof bits);
    kin_opencl_set_int(&launch, count);
    return kin_opencl_finish_items(&launch, count);
}

static kin_status launch_fill(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_fill_attrs *attrs = call->attrs;
    return fill(device, commands, &call->out[0], attrs->value);
}

static kin_status launch_one(kin_device *device, kin_commands *commands, const kin_call *call) {
    return fill(device, commands, &call->out[0], 1);
}

/* ---- slice_grad ---- */

static kin_status launch_slice_grad(kin_device *device, kin_commands *commands,
                                    const kin_call *call) {
    const kin_slice_grad_attrs *attrs = call->attrs;
    const kin_desc *in = &call->in[0].desc;
    opencl_shape shape = opencl_shape_of(in->rank, in->dims, 1, &in);
    char defines[64];
    snprintf(defines, sizeof defines, "-DE=%s -DRANK=%d", unsigned_type(size_of(&call->in[0])),
             shape.rank);
    int64_t count = kin_desc_count(&call->out[0].desc);
    kin_opencl_launch launch = kin_opencl_start(device, commands, "layout", defines, "place");
    kin_opencl_set_operand(&launch, &call->in[0]);
    kin_opencl_set_operand(&launch, &call->out[0]);
    kin_opencl_set_int(&launch, attrs->start);
    kin_opencl_set_int(&launch, in->dims[attrs->axis]);
    kin_opencl_set_int(&launch, attrs->size);
    kin_opencl_set_int(&launch, call->out[0].desc.strides[attrs->axis]);
    kin_opencl_set_int(&launch, count);
    opencl_set_shape(&launch, &shape);
    return kin_opencl_finish_items(&launch, count);
}

const kin_kernel kin_opencl_layout_kernels[] = {
    {"copy", "opencl_copy", 1, 0, can_move, NULL, launch_copy},
    {"copy", "opencl_copy_blocks", 0, 0, can_copy_blocks, NULL, launch_copy_blocks},
    {"cast", "opencl_cast", 1, 0, can_cast, NULL, launch_cast},
    {"fill", "opencl_fill", 0, 0, can_move, NULL, launch_fill},
    {"one", "opencl_one", 0, 0, can_move, NULL, launch_one},
    {"concat", "opencl_concat", ~UINT64_C(0), 0, can_move, NULL, launch_concat},
    {"slice_grad", "opencl_slice_grad", 1, 0, can_move, NULL, launch_slice_grad},
    {0},
};
