/* Kernels of the element-wise ops, of where, modulate, gated_add and gated_gelu. */
#include "backends/opencl/shape.h"
#include "ops/elementwise_attrs.h"
#include "ops/elementwise_expr.h"

#include <stdio.h>
#include <string.h>

static bool is_read(kin_dtype dtype) {
    return kin_opencl_is_real(dtype) || dtype == KIN_I32 || dtype == KIN_I64 || dtype == KIN_U8 ||
           dtype == KIN_BOOL;
}

static bool can_map(const kin_device *device, const kin_call *call) {
    (void)device;
    for (int i = 0; i < call->in_count; i++)
        if (kin_opencl_is_absent(&call->in[i]) || !is_read(call->in[i].desc.dtype)) return false;
    return kin_opencl_is_real(call->out[0].desc.dtype) && kin_opencl_fits(call);
}

static bool has_attrs(const char *name) {
    return strcmp(name, "scale") == 0 || strncmp(name, "clamp", 5) == 0;
}

static opencl_shape shape_of(const kin_call *call) {
    const kin_desc *in[OPENCL_SHAPE_OPERANDS] = {NULL};
    for (int i = 0; i < call->in_count; i++) in[i] = &call->in[i].desc;
    return opencl_shape_of(call->out[0].desc.rank, call->out[0].desc.dims, call->in_count, in);
}

static void set_defines(const kin_call *call, const opencl_shape *shape, char *text, size_t size) {
    static const char letters[] = "ABC";
    char map[OPENCL_MAP_DEFINES];
    opencl_map_defines(shape, map);
    int used = snprintf(text, size, "-DF=f_%s -DINPUTS=%d -DY=%s%s", call->op, call->in_count,
                        kin_opencl_type(&call->out[0]), map);
    for (int i = 0; i < call->in_count; i++)
        used += snprintf(text + used, size - (size_t)used, " -D%c=%s", letters[i],
                         kin_opencl_type(&call->in[i]));
    if (call->out_count > 1)
        snprintf(text + used, size - (size_t)used, " -DSECOND=f_%s_second", call->op);
}

static kin_status launch_map(kin_device *device, kin_commands *commands, const kin_call *call) {
    opencl_shape shape = shape_of(call);
    char defines[256];
    set_defines(call, &shape, defines, sizeof defines);
    kin_opencl_launch launch =
        kin_opencl_start(device, commands, "elementwise_expr elementwise", defines, "map");
    for (int i = 0; i < call->in_count; i++) kin_opencl_set_operand(&launch, &call->in[i]);
    for (int j = 0; j < call->out_count; j++) kin_opencl_set_operand(&launch, &call->out[j]);
    const kin_elementwise_attrs none = {0, 0};
    const kin_elementwise_attrs *attrs = has_attrs(call->op) ? call->attrs : &none;
    kin_opencl_set_float(&launch, attrs->p);
    kin_opencl_set_float(&launch, attrs->q);
    opencl_set_shape(&launch, &shape);
    return opencl_finish_map(&launch, &shape);
}

/* The result may lie on any operand of its size: an element is read before it is written. */
#define ROW(name, ...) {#name, "opencl_" #name, 7, 7, can_map, NULL, launch_map},
#define ROW_GRAD(name, ...)                                                                        \
    {#name "_grad", "opencl_" #name "_grad", 7, 7, can_map, NULL, launch_map},

const kin_kernel kin_opencl_elementwise_kernels[] = {
    KX_UNARY(ROW) KX_UNARY(ROW_GRAD) KX_AFFINE(ROW) KX_BINARY(ROW) KX_TERNARY(ROW)
        KX_TERNARY_PAIR(ROW){0},
};
