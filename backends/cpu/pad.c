/* pad and pad_grad, row by row of the result. */
#include <string.h>

#include "backends/cpu/cpu.h"
#include "ops/pad_attrs.h"

/* Coordinates of the first element of row `row` (all axes but the last). */
static void row_split(const kin_desc *desc, int64_t row, int64_t at[KIN_MAX_RANK]) {
    for (int a = desc->rank - 2; a >= 0; a--) {
        at[a] = row % desc->dims[a];
        row /= desc->dims[a];
    }
}

static void row_pad(const kin_pad_attrs *attrs, const kin_desc *small, const float *from,
                    const int64_t at[KIN_MAX_RANK], float *out) {
    int last = small->rank - 1;
    int64_t width = small->dims[last], before = attrs->before[last], after = attrs->after[last];
    int64_t row = 0;
    for (int a = 0; a < last; a++) {
        int64_t i = at[a] - attrs->before[a], end = small->dims[a] - 1;
        if ((i < 0 || i > end) && !attrs->replicate) {
            memset(out, 0, sizeof *out * (size_t)(before + width + after));
            return;
        }
        row = row * small->dims[a] + (i < 0 ? 0 : i > end ? end : i);
    }
    from += row * width;
    float first = attrs->replicate ? from[0] : 0, final = attrs->replicate ? from[width - 1] : 0;
    for (int64_t i = 0; i < before; i++) out[i] = first;
    memcpy(out + before, from, sizeof *out * (size_t)width);
    for (int64_t i = 0; i < after; i++) out[before + width + i] = final;
}

/* Adds one row of the padded tensor to a row of the small one. */
static void row_add(const kin_pad_attrs *attrs, int last, const float *from, int64_t width,
                    float *out) {
    int64_t before = attrs->before[last], after = attrs->after[last];
    for (int64_t i = 0; i < width; i++) out[i] += from[before + i];
    if (!attrs->replicate) return;
    for (int64_t i = 0; i < before; i++) out[0] += from[i];
    for (int64_t i = 0; i < after; i++) out[width - 1] += from[before + width + i];
}

/* A row of the small tensor is the sum of a box of rows of the padded one: single rows inside, the
 * whole margin at an edge that was repeated. */
static void row_fold(const kin_pad_attrs *attrs, const kin_desc *small, const kin_desc *padded,
                     const float *from, const int64_t at[KIN_MAX_RANK], float *out) {
    int last = small->rank - 1;
    int64_t low[KIN_MAX_RANK], count[KIN_MAX_RANK], boxes = 1, width = small->dims[last];
    for (int a = 0; a < last; a++) {
        bool first = attrs->replicate && at[a] == 0;
        bool final = attrs->replicate && at[a] == small->dims[a] - 1;
        low[a] = first ? 0 : at[a] + attrs->before[a];
        int64_t high = at[a] + attrs->before[a] + (final ? attrs->after[a] : 0);
        count[a] = high - low[a] + 1;
        boxes *= count[a];
    }
    memset(out, 0, sizeof *out * (size_t)width);
    for (int64_t box = 0; box < boxes; box++) {
        int64_t rest = box, row = 0, step = 1;
        for (int a = last - 1; a >= 0; a--) {
            row += (low[a] + rest % count[a]) * step;
            rest /= count[a];
            step *= padded->dims[a];
        }
        row_add(attrs, last, from + row * padded->dims[last], width, out);
    }
}

static kin_status run(kin_device *device, const kin_call *call, bool back) {
    const kin_desc *in = &call->in[0].desc, *out = &call->out[0].desc;
    const kin_pad_attrs *attrs = call->attrs;
    const float *from = cpu_data(&call->in[0]);
    float *to = cpu_data(&call->out[0]);
    int64_t width = out->dims[out->rank - 1], rows = kin_desc_count(out) / width;
#pragma omp parallel for num_threads(cpu_threads_for(device, rows *width)) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        int64_t at[KIN_MAX_RANK];
        row_split(out, row, at);
        if (back) row_fold(attrs, out, in, from, at, to + row * width);
        else row_pad(attrs, in, from, at, to + row * width);
    }
    return KIN_OK;
}

static kin_status pad_launch(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)commands;
    return run(device, call, false);
}

static kin_status grad_launch(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)commands;
    return run(device, call, true);
}

const kin_kernel cpu_pad_kernels[] = {
    {.op = "pad", .name = "cpu_pad", .launch = pad_launch},
    {.op = "pad_grad", .name = "cpu_pad_grad", .launch = grad_launch},
    {0},
};
