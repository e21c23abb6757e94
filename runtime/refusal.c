/* Why a device has no kernel for a call: the planner's report says it for every node that was
 * lowered. The rows of a backend say only yes or no, so the call is changed until one says yes. */
#include "runtime/device.h"
#include "runtime/graph_internal.h"

#include <stdio.h>
#include <string.h>

enum { NAMED_ROWS = 3 };

/* Names of the rows that the op has, cut to size; returns how many there are. */
static int name_rows(const kin_device *device, const char *op, char *text, size_t size) {
    int rows = 0;
    size_t used = 0;
    const kin_kernel *row;
    text[0] = 0;
    for (size_t i = 0; (row = device->backend->kernel(device, i)); i++) {
        if (strcmp(row->op, op) != 0) continue;
        if (rows < NAMED_ROWS && used < size)
            used += (size_t)snprintf(text + used, size - used, "%s%s", rows ? ", " : "", row->name);
        rows++;
    }
    return rows;
}

static bool is_narrow(const kin_operand *operand) {
    return operand->desc.rank >= 0 && kin_dtype_is_float(operand->desc.dtype) &&
           operand->desc.dtype != KIN_F32;
}

/* True if a kernel takes the call once input i is f32; the operand is put back. */
static bool taken_with_f32(const kin_device *device, const kin_call *call, kin_operand *operand) {
    kin_desc kept = operand->desc;
    operand->desc = kin_desc_dense(KIN_F32, kept.rank, kept.dims);
    bool taken = kin_device_kernel(device, call) != NULL;
    operand->desc = kept;
    return taken;
}

/* The same with all operands in f32; *out_dtype: what one of them was. */
static bool taken_all_f32(const kin_device *device, const kin_call *call, kin_operand *in,
                          kin_operand *out, kin_dtype *out_dtype) {
    kin_dtype kept[KIN_MAX_CASE_INPUTS + KIN_MAX_OUTPUTS];
    int count = call->in_count + call->out_count, narrow = 0;
    if (call->in_count > KIN_MAX_CASE_INPUTS) return false;
    for (int k = 0; k < count; k++) {
        kin_operand *operand = k < call->in_count ? &in[k] : &out[k - call->in_count];
        kept[k] = operand->desc.dtype;
        if (!is_narrow(operand)) continue;
        *out_dtype = operand->desc.dtype;
        operand->desc.dtype = KIN_F32;
        narrow++;
    }
    bool taken = narrow && kin_device_kernel(device, call);
    for (int k = 0; k < count; k++)
        (k < call->in_count ? &in[k] : &out[k - call->in_count])->desc.dtype = kept[k];
    return taken;
}

static void tell_shapes(const kin_call *call, const char *rows, char *text, size_t size) {
    size_t used = (size_t)snprintf(text, size, "%s: not for these shapes or attributes:", rows);
    for (int i = 0; i < call->in_count && used < size; i++) {
        char shape[96];
        if (call->in[i].desc.rank < 0) continue;
        used += (size_t)snprintf(text + used, size - used, "%s %s%s", i ? "," : "",
                                 kin_dtype_name(call->in[i].desc.dtype),
                                 kin_desc_shape_text(&call->in[i].desc, shape, sizeof shape));
    }
}

void kin_device_refusal(const kin_device *device, const kin_call *call, kin_operand *in,
                        kin_operand *out, char *text, size_t size) {
    char rows[160];
    kin_dtype dtype = KIN_F32;
    if (name_rows(device, call->op, rows, sizeof rows) == 0) {
        snprintf(text, size, "the device has no kernel for %s", call->op);
        return;
    }
    for (int i = 0; i < call->in_count; i++)
        if (is_narrow(&in[i]) && taken_with_f32(device, call, &in[i])) {
            snprintf(text, size, "%s: not with input %d in %s", rows, i,
                     kin_dtype_name(in[i].desc.dtype));
            return;
        }
    if (taken_all_f32(device, call, in, out, &dtype))
        snprintf(text, size, "%s: not in %s", rows, kin_dtype_name(dtype));
    else tell_shapes(call, rows, text, size);
}
