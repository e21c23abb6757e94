/* Kernels of pad, upsample and their gradients. */
#include "backends/opencl/opencl.h"
#include "ops/pad_attrs.h"
#include "ops/upsample_attrs.h"

#include <stdio.h>
#include <string.h>

/* ---- pad ---- */

typedef struct pad_shape {
    cl_int rank, count;
    cl_int small[KIN_MAX_RANK], padded[KIN_MAX_RANK], before[KIN_MAX_RANK], after[KIN_MAX_RANK];
} pad_shape;

static kin_status run_pad(kin_device *device, kin_commands *commands, const kin_call *call,
                          bool back) {
    const kin_pad_attrs *attrs = call->attrs;
    const kin_operand *x = &call->in[0], *y = &call->out[0];
    const kin_desc *small = back ? &y->desc : &x->desc, *padded = back ? &x->desc : &y->desc;
    int64_t count = kin_desc_count(&y->desc);
    pad_shape s = {.rank = small->rank, .count = (cl_int)count};
    for (int a = 0; a < small->rank; a++) {
        s.small[a] = (cl_int)small->dims[a];
        s.padded[a] = (cl_int)padded->dims[a];
        s.before[a] = (cl_int)attrs->before[a];
        s.after[a] = (cl_int)attrs->after[a];
    }
    char defines[96];
    snprintf(defines, sizeof defines, "-DPAD -DX=%s -DY=%s -DREPLICATE=%d", kin_opencl_type(x),
             kin_opencl_type(y), attrs->replicate != 0);
    kin_opencl_launch launch =
        kin_opencl_start(device, commands, "resample", defines, back ? "pad_grad" : "pad");
    kin_opencl_set_operand(&launch, x);
    kin_opencl_set_operand(&launch, y);
    kin_opencl_set_bytes(&launch, &s, sizeof s);
    return kin_opencl_finish_items(&launch, count);
}

static kin_status pad(kin_device *device, kin_commands *commands, const kin_call *call) {
    return run_pad(device, commands, call, false);
}

static kin_status pad_grad(kin_device *device, kin_commands *commands, const kin_call *call) {
    return run_pad(device, commands, call, true);
}

/* ---- upsample ---- */

typedef struct tap {
    cl_int low, high;
    cl_float weight;
} tap;

/* small is the input of upsample, large its result. */
typedef struct upsample_job {
    int64_t small[3], large[3];
    const kin_buffer *taps, *ranges;
} upsample_job;

static void axes_of(const kin_desc *desc, int64_t out_size[3]) {
    for (int a = 0; a < 3; a++) {
        int axis = desc->rank - 3 + a;
        out_size[a] = axis < 2 ? 1 : desc->dims[axis];
    }
}

static void fill_axis(int64_t mode, int64_t small, int64_t large, tap *taps, cl_int2 *ranges) {
    for (int64_t i = 0; i < small; i++) ranges[i] = (cl_int2){{(cl_int)large, -1}};
    for (int64_t i = 0; i < large; i++) {
        kin_upsample_tap t = kin_upsample_tap_at(mode, small, large, i);
        const int64_t ends[2] = {t.low, t.high};
        taps[i] = (tap){(cl_int)t.low, (cl_int)t.high, (cl_float)t.weight};
        for (int e = 0; e < 2; e++) {
            cl_int2 *range = &ranges[ends[e]];
            if (i < range->s[0]) range->s[0] = (cl_int)i;
            if (i > range->s[1]) range->s[1] = (cl_int)i;
        }
    }
}

/* Tables of the three axes, one behind the other. */
static kin_status make_tables(kin_device *device, kin_commands *commands, int64_t mode,
                              upsample_job *job) {
    size_t large = (size_t)(job->large[0] + job->large[1] + job->large[2]);
    size_t small = (size_t)(job->small[0] + job->small[1] + job->small[2]);
    tap *taps = kin_calloc(device->context, large, sizeof *taps);
    cl_int2 *ranges = kin_calloc(device->context, small, sizeof *ranges);
    kin_status status = taps != NULL && ranges != NULL ? KIN_OK : KIN_OUT_OF_MEMORY;
    tap *next_tap = taps;
    cl_int2 *next_range = ranges;
    for (int a = 0; a < 3 && status == KIN_OK; a++) {
        fill_axis(mode, job->small[a], job->large[a], next_tap, next_range);
        next_tap += job->large[a];
        next_range += job->small[a];
    }
    if (status == KIN_OK)
        status = kin_opencl_table(device, commands, taps, large * sizeof *taps, &job->taps);
    if (status == KIN_OK)
        status = kin_opencl_table(device, commands, ranges, small * sizeof *ranges, &job->ranges);
    kin_free(device->context, taps);
    kin_free(device->context, ranges);
    return status;
}

static void set_sizes(kin_opencl_launch *launch, const int64_t size[3]) {
    cl_int4 sizes = {{(cl_int)size[0], (cl_int)size[1], (cl_int)size[2], 1}};
    kin_opencl_set_bytes(launch, &sizes, sizeof sizes);
}

static kin_status run_upsample(kin_device *device, kin_commands *commands, const kin_call *call,
                               bool back) {
    const kin_upsample_attrs *attrs = call->attrs;
    const kin_operand *x = &call->in[0], *y = &call->out[0];
    upsample_job job = {.taps = NULL};
    char defines[64];
    axes_of(back ? &y->desc : &x->desc, job.small);
    axes_of(back ? &x->desc : &y->desc, job.large);
    kin_status status = make_tables(device, commands, attrs->mode, &job);
    if (status != KIN_OK) return status;
    snprintf(defines, sizeof defines, "-DUPSAMPLE -DX=%s -DY=%s", kin_opencl_type(x),
             kin_opencl_type(y));
    kin_opencl_launch launch =
        kin_opencl_start(device, commands, "resample", defines, back ? "resize_grad" : "resize");
    kin_opencl_set_operand(&launch, x);
    kin_opencl_set_memory(&launch, job.taps, 0, sizeof(tap));
    if (back) kin_opencl_set_memory(&launch, job.ranges, 0, sizeof(cl_int2));
    kin_opencl_set_operand(&launch, y);
    set_sizes(&launch, job.small);
    set_sizes(&launch, job.large);
    kin_opencl_set_int(&launch, kin_desc_count(&y->desc));
    return kin_opencl_finish_items(&launch, kin_desc_count(&y->desc));
}

static kin_status upsample(kin_device *device, kin_commands *commands, const kin_call *call) {
    return run_upsample(device, commands, call, false);
}

static kin_status upsample_grad(kin_device *device, kin_commands *commands, const kin_call *call) {
    return run_upsample(device, commands, call, true);
}

const kin_kernel kin_opencl_resample_kernels[] = {
    {"pad", "opencl_pad", 0, 0, kin_opencl_can_real, NULL, pad},
    {"pad_grad", "opencl_pad_grad", 0, 0, kin_opencl_can_real, NULL, pad_grad},
    {"upsample", "opencl_upsample", 0, 0, kin_opencl_can_real, NULL, upsample},
    {"upsample_grad", "opencl_upsample_grad", 0, 0, kin_opencl_can_real, NULL, upsample_grad},
    {0},
};
