/* A CPU device changed on purpose: kernels hidden, refused in a dtype, or replaced by wrong ones.
 */
#ifndef KIN_TESTS_WRAPPED_DEVICE_H
#define KIN_TESTS_WRAPPED_DEVICE_H

#include "runtime/device.h"

#include <string.h>

enum { WRAPPED_ROWS = 4 };

typedef struct wrapped_device {
    kin_device device; /* first */
    kin_backend table;
    const char *hidden[WRAPPED_ROWS]; /* ops without a kernel */
    const char *f32_only;             /* an op whose kernels refuse other floats; NULL: none */
    kin_kernel own[WRAPPED_ROWS];     /* in front of the CPU's */
    int own_count;
    kin_kernel changed; /* the row that was asked for last, if it is f32_only's */
} wrapped_device;

static inline bool wrapped_can_f32(const kin_device *device, const kin_call *call) {
    const wrapped_device *wrapped = (const wrapped_device *)(const void *)device;
    for (int k = 0; k < call->in_count + call->out_count; k++) {
        const kin_desc *desc =
            k < call->in_count ? &call->in[k].desc : &call->out[k - call->in_count].desc;
        if (desc->rank >= 0 && kin_dtype_is_float(desc->dtype) && desc->dtype != KIN_F32)
            return false;
    }
    (void)wrapped;
    return true;
}

static inline const kin_kernel *wrapped_kernel(const kin_device *device, size_t index) {
    /* the table is asked in order, so the copy of a row lives long enough */
    wrapped_device *wrapped = (wrapped_device *)(uintptr_t)device;
    if (index < (size_t)wrapped->own_count) return &wrapped->own[index];
    index -= (size_t)wrapped->own_count;
    const kin_kernel *row;
    for (size_t i = 0; (row = kin_backend_cpu.kernel(device, i)); i++) {
        bool hidden = false;
        for (int h = 0; h < WRAPPED_ROWS; h++)
            hidden = hidden || (wrapped->hidden[h] && strcmp(wrapped->hidden[h], row->op) == 0);
        if (hidden || index-- > 0) continue;
        if (!wrapped->f32_only || strcmp(wrapped->f32_only, row->op) != 0) return row;
        wrapped->changed = *row;
        wrapped->changed.can = wrapped_can_f32;
        return &wrapped->changed;
    }
    return NULL;
}

static inline void wrap_device(wrapped_device *wrapped, kin_device *cpu) {
    memset(wrapped, 0, sizeof *wrapped);
    wrapped->device = *cpu;
    wrapped->table = kin_backend_cpu;
    wrapped->table.kernel = wrapped_kernel;
    wrapped->device.backend = &wrapped->table;
    strcpy(wrapped->device.info.name, "wrapped");
}

#endif
