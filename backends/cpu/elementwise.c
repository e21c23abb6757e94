/* Kernels of the element-wise ops, of modulate and of gated_add. */
#include "backends/cpu/cpu.h"
#include "backends/cpu/map.h"
#include "ops/elementwise_attrs.h"

#include <string.h>

bool cpu_map_reads(kin_dtype dtype) {
    return cpu_is_real(dtype) || dtype == KIN_I32 || dtype == KIN_U8 || dtype == KIN_BOOL;
}

/* True if axis can be joined with the one that was last added (axes go from the last to the
 * first). */
static bool joins(const cpu_map *map, int top, const int64_t strides[CPU_MAP_INPUTS]) {
    for (int j = 0; j < map->in_count; j++)
        if (strides[j] != map->in[j].strides[top] * map->dims[top]) return false;
    return true;
}

static void reverse(int64_t *values, int count) {
    for (int i = 0; i < count / 2; i++) {
        int64_t value = values[i];
        values[i] = values[count - 1 - i];
        values[count - 1 - i] = value;
    }
}

void cpu_map_shape(cpu_map *map, int rank, const int64_t *dims, const kin_desc *const *in) {
    map->rank = 0;
    for (int axis = rank - 1; axis >= 0; axis--) {
        if (dims[axis] == 1) continue;
        int64_t strides[CPU_MAP_INPUTS] = {0};
        for (int j = 0; j < map->in_count; j++) {
            int own = axis - (rank - in[j]->rank);
            strides[j] = own < 0 || in[j]->dims[own] == 1 ? 0 : in[j]->strides[own];
        }
        if (map->rank > 0 && joins(map, map->rank - 1, strides)) {
            map->dims[map->rank - 1] *= dims[axis];
            continue;
        }
        map->dims[map->rank] = dims[axis];
        for (int j = 0; j < map->in_count; j++) map->in[j].strides[map->rank] = strides[j];
        map->rank++;
    }
    reverse(map->dims, map->rank);
    for (int j = 0; j < map->in_count; j++) reverse(map->in[j].strides, map->rank);
}

void cpu_map_to_f32(const kin_desc *desc, const void *data, float *out, int threads) {
    cpu_map map = {.function = CPU_MAP_identity, .in_count = 1, .out_count = 1};
    map.in[0] = (cpu_map_operand){.data = data, .dtype = desc->dtype};
    map.out[0] = out;
    map.out_dtype = KIN_F32;
    cpu_map_shape(&map, desc->rank, desc->dims, &desc);
    if (kin_desc_count(desc) > 0) CPU_PICK(cpu_map).run(&map, threads);
}

static bool can_map(const kin_device *device, const kin_call *call) {
    (void)device;
    for (int i = 0; i < call->in_count; i++)
        if (cpu_is_absent(&call->in[i]) || !cpu_map_reads(call->in[i].desc.dtype)) return false;
    return cpu_is_real(call->out[0].desc.dtype);
}

static bool has_attrs(cpu_map_function function) {
    return function == CPU_MAP_scale || function == CPU_MAP_clamp || function == CPU_MAP_clamp_grad;
}

static kin_status launch_map(const kin_device *device, const kin_call *call,
                             cpu_map_function function) {
    cpu_map map = {.function = function, .in_count = call->in_count, .out_count = call->out_count};
    const kin_desc *in[CPU_MAP_INPUTS] = {NULL};
    for (int i = 0; i < call->in_count; i++) {
        in[i] = &call->in[i].desc;
        map.in[i] = (cpu_map_operand){.data = cpu_data(&call->in[i]), .dtype = in[i]->dtype};
    }
    for (int i = 0; i < call->out_count; i++) map.out[i] = cpu_data(&call->out[i]);
    map.out_dtype = call->out[0].desc.dtype;
    if (has_attrs(function)) {
        const kin_elementwise_attrs *attrs = call->attrs;
        map.p = (float)attrs->p;
        map.q = (float)attrs->q;
    }
    const kin_desc *out = &call->out[0].desc;
    int64_t count = kin_desc_count(out);
    cpu_map_shape(&map, out->rank, out->dims, in);
    if (count > 0) CPU_PICK(cpu_map).run(&map, cpu_threads_for(device, count));
    return KIN_OK;
}

#define LAUNCH(name, ...)                                                                          \
    static kin_status launch_##name(kin_device *device, kin_commands *commands,                    \
                                    const kin_call *call) {                                        \
        (void)commands;                                                                            \
        return launch_map(device, call, CPU_MAP_##name);                                           \
    }
#define LAUNCH_GRAD(name, ...) LAUNCH(name##_grad)

KX_UNARY(LAUNCH)
KX_UNARY(LAUNCH_GRAD)
KX_AFFINE(LAUNCH)
KX_BINARY(LAUNCH)
KX_TERNARY(LAUNCH)
KX_TERNARY_PAIR(LAUNCH)

/* The result may lie on any operand of its size: each chunk is read before it is written. */
#define ROW(name, ...) {#name, "cpu_" #name, 7, 7, can_map, NULL, launch_##name},
#define ROW_GRAD(name, ...)                                                                        \
    {#name "_grad", "cpu_" #name "_grad", 7, 7, can_map, NULL, launch_##name##_grad},

const kin_kernel cpu_elementwise_kernels[] = {
    KX_UNARY(ROW) KX_UNARY(ROW_GRAD) KX_AFFINE(ROW) KX_BINARY(ROW) KX_TERNARY(ROW)
        KX_TERNARY_PAIR(ROW){0},
};
