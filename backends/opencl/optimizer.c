/* Kernels of the end of a training step: norm of the gradients, AdamW, averages, assignments. */
#include "backends/opencl/reduce.h"
#include "ops/optimizer_attrs.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* All real, or integers that are scalars (the number of the step). */
static bool can_update(const kin_device *device, const kin_call *call) {
    (void)device;
    for (int i = 0; i < call->in_count; i++) {
        const kin_desc *in = &call->in[i].desc;
        if (in->rank > 0 && !kin_opencl_is_real(in->dtype)) return false;
    }
    return kin_opencl_is_real(call->out[0].desc.dtype) && kin_opencl_fits(call);
}

/* ---- adamw ---- */

static void set_logarithm(kin_opencl_launch *launch, double beta) {
    double value = log(beta); /* -inf for 0: the correction is then 1 */
    cl_float2 pair = {{(cl_float)value, 0}};
    if (isfinite(value)) pair.s[1] = (cl_float)(value - (double)pair.s[0]);
    kin_opencl_set_bytes(launch, &pair, sizeof pair);
}

static kin_status adamw(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_adamw_attrs *attrs = call->attrs;
    int64_t count = kin_desc_count(&call->out[0].desc);
    int inputs = kin_opencl_has(call, 6) ? 7 : 6;
    char defines[96];
    snprintf(defines, sizeof defines, "-DADAMW -DP=%s -DG=%s -DM=%s -DW=%s -DSCALED=%d",
             kin_opencl_type(&call->in[0]), kin_opencl_type(&call->in[1]),
             kin_opencl_type(&call->in[2]), kin_opencl_type(&call->in[3]), inputs == 7);
    kin_opencl_launch launch = kin_opencl_start(device, commands, "optimizer", defines, "adamw");
    for (int i = 0; i < inputs; i++) kin_opencl_set_operand(&launch, &call->in[i]);
    for (int j = 0; j < 3; j++) kin_opencl_set_operand(&launch, &call->out[j]);
    kin_opencl_set_float(&launch, attrs->beta1);
    kin_opencl_set_float(&launch, 1 - attrs->beta1);
    kin_opencl_set_float(&launch, attrs->beta2);
    kin_opencl_set_float(&launch, 1 - attrs->beta2);
    set_logarithm(&launch, attrs->beta1);
    set_logarithm(&launch, attrs->beta2);
    kin_opencl_set_float(&launch, attrs->eps);
    kin_opencl_set_float(&launch, attrs->weight_decay);
    kin_opencl_set_int(&launch, count);
    return kin_opencl_finish_items(&launch, count);
}

/* ---- ema, accumulate, assign ---- */

static kin_status ema(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_ema_attrs *attrs = call->attrs;
    int64_t count = kin_desc_count(&call->out[0].desc);
    int inputs = kin_opencl_has(call, 2) ? 3 : 2;
    char defines[96];
    snprintf(defines, sizeof defines, "-DBLEND -DA=%s -DB=%s -DY=%s -DSCALED=%d",
             kin_opencl_type(&call->in[0]), kin_opencl_type(&call->in[1]),
             kin_opencl_type(&call->out[0]), inputs == 3);
    kin_opencl_launch launch = kin_opencl_start(device, commands, "optimizer", defines, "blend");
    for (int i = 0; i < inputs; i++) kin_opencl_set_operand(&launch, &call->in[i]);
    kin_opencl_set_operand(&launch, &call->out[0]);
    kin_opencl_set_float(&launch, 1 - attrs->decay);
    kin_opencl_set_int(&launch, count);
    return kin_opencl_finish_items(&launch, count);
}

static kin_status accumulate(kin_device *device, kin_commands *commands, const kin_call *call) {
    int64_t count = kin_desc_count(&call->out[0].desc);
    const kin_desc *in[2] = {&call->in[0].desc, &call->in[1].desc};
    opencl_shape shape = opencl_shape_of(1, &count, 0, in);
    char defines[96];
    snprintf(defines, sizeof defines, "-DF=f_add -DINPUTS=2 -DRANK=0 -DA=%s -DB=%s -DY=%s",
             kin_opencl_type(&call->in[0]), kin_opencl_type(&call->in[1]),
             kin_opencl_type(&call->out[0]));
    kin_opencl_launch launch =
        kin_opencl_start(device, commands, "elementwise_expr elementwise", defines, "map");
    for (int i = 0; i < 2; i++) kin_opencl_set_operand(&launch, &call->in[i]);
    kin_opencl_set_operand(&launch, &call->out[0]);
    kin_opencl_set_float(&launch, 0);
    kin_opencl_set_float(&launch, 0);
    opencl_set_shape(&launch, &shape);
    return kin_opencl_finish_items(&launch, count);
}

static bool can_assign(const kin_device *device, const kin_call *call) {
    (void)device;
    return call->in[1].desc.dtype == call->out[0].desc.dtype &&
           kin_dtype_size(call->out[0].desc.dtype) > 0 && kin_opencl_fits(call);
}

static kin_status assign(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_operand *x = &call->in[1], *out = &call->out[0];
    static const char *const types[] = {"uchar", "ushort", "", "uint"};
    size_t size = kin_dtype_size(out->desc.dtype);
    int64_t count = kin_desc_count(&out->desc);
    opencl_shape shape = opencl_shape_of(1, &count, 0, NULL);
    char defines[32];
    if (x->buffer == out->buffer && x->offset == out->offset) return KIN_OK;
    snprintf(defines, sizeof defines, "-DE=%s -DRANK=0", size == 8 ? "ulong" : types[size - 1]);
    kin_opencl_launch launch = kin_opencl_start(device, commands, "layout", defines, "move");
    kin_opencl_set_operand(&launch, x);
    kin_opencl_set_operand(&launch, out);
    opencl_set_shape(&launch, &shape);
    return kin_opencl_finish_items(&launch, count);
}

/* ---- global_norm, clip_scale ---- */

static opencl_reduction all_of(const kin_operand *x) {
    kin_desc flat = x->desc;
    if (flat.rank == 0) {
        flat.rank = 1;
        flat.dims[0] = flat.strides[0] = 1;
    }
    return opencl_reduction_of(&flat, 0xFFu);
}

static int64_t norm_parts(const kin_call *call) {
    int64_t parts = 0;
    for (int i = 0; i < call->in_count; i++) parts += all_of(&call->in[i]).parts;
    return parts;
}

static size_t norm_scratch(const kin_device *device, const kin_call *call) {
    (void)device;
    return (size_t)norm_parts(call) * sizeof(float);
}

/* The squares of each input in parts, and all parts in order. */
static kin_status global_norm(kin_device *device, kin_commands *commands, const kin_call *call) {
    kin_operand partial = {.buffer = call->scratch, .offset = call->scratch_offset};
    kin_status status = KIN_OK;
    for (int i = 0; i < call->in_count && status == KIN_OK; i++) {
        opencl_reduction r = all_of(&call->in[i]);
        partial.desc = kin_desc_dense(KIN_F32, 1, &r.parts);
        status = opencl_reduce(device, commands, OPENCL_SQUARES, &r, &call->in[i], &partial, 1);
        partial.offset += (size_t)r.parts * sizeof(float);
    }
    partial.offset = call->scratch_offset;
    return status == KIN_OK ? opencl_join(device, commands, OPENCL_SUM, &partial, norm_parts(call),
                                          &call->out[0], 1, true)
                            : status;
}

static kin_status clip_scale(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_clip_scale_attrs *attrs = call->attrs;
    kin_opencl_launch launch =
        kin_opencl_start(device, commands, "optimizer", "-DCLIP", "clip_scale");
    kin_opencl_set_operand(&launch, &call->in[0]);
    kin_opencl_set_operand(&launch, &call->out[0]);
    kin_opencl_set_float(&launch, attrs->max_norm);
    return kin_opencl_finish_items(&launch, 1);
}

const kin_kernel kin_opencl_optimizer_kernels[] = {
    {"adamw", "opencl_adamw", 0, 1, can_update, NULL, adamw},
    {"ema", "opencl_ema", 0, 1, can_update, NULL, ema},
    {"accumulate", "opencl_accumulate", 0, 1, kin_opencl_can_real, NULL, accumulate},
    {"assign", "opencl_assign", 0, 1, can_assign, NULL, assign},
    {"global_norm", "opencl_global_norm", 0, 0, kin_opencl_can_real, norm_scratch, global_norm},
    {"clip_scale", "opencl_clip_scale", 0, 1, NULL, NULL, clip_scale},
    {0},
};
