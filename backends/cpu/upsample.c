/* upsample and upsample_grad. Every mode is separable with two taps per axis: a row of the result
 * is up to four rows of the source, weighted and added, then stretched along the columns. */
#include <string.h>

#include "backends/cpu/cpu.h"
#include "ops/upsample_attrs.h"

#if defined(_OPENMP)
#include <omp.h>
#endif

/* The taps of one axis in single precision. */
typedef struct axis_tap {
    int32_t low, high;
    float weight;
} axis_tap;

/* small is the input of upsample, large its result. */
typedef struct job {
    int64_t planes, small[3], large[3];
    int64_t mode;
    axis_tap *taps[3];
    float *rows; /* one row of the small tensor per thread */
} job;

static void axes(const kin_desc *desc, int64_t out_size[3]) {
    for (int a = 0; a < 3; a++) {
        int axis = desc->rank - 3 + a;
        out_size[a] = axis < 2 ? 1 : desc->dims[axis];
    }
}

static size_t round_up(size_t bytes) {
    return (bytes + 63) / 64 * 64;
}

static size_t taps_bytes(const int64_t large[3]) {
    return round_up(sizeof(axis_tap) * (size_t)(large[0] + large[1] + large[2]));
}

static size_t scratch_for(const kin_device *device, const kin_desc *small, const kin_desc *large) {
    int64_t s[3], l[3];
    axes(small, s);
    axes(large, l);
    return taps_bytes(l) + (size_t)cpu_threads(device) * round_up(sizeof(float) * (size_t)s[2]);
}

static job job_make(const kin_call *call, const kin_desc *small, const kin_desc *large) {
    const kin_upsample_attrs *attrs = call->attrs;
    job j = {.planes = small->dims[0] * small->dims[1], .mode = attrs->mode};
    axes(small, j.small);
    axes(large, j.large);
    axis_tap *tap = cpu_scratch(call);
    for (int a = 0; a < 3; a++) {
        j.taps[a] = tap;
        for (int64_t i = 0; i < j.large[a]; i++, tap++) {
            kin_upsample_tap t = kin_upsample_tap_at(j.mode, j.small[a], j.large[a], i);
            *tap = (axis_tap){(int32_t)t.low, (int32_t)t.high, (float)t.weight};
        }
    }
    j.rows = (float *)((char *)cpu_scratch(call) + taps_bytes(j.large));
    return j;
}

static float *thread_row(const job *j) {
#if defined(_OPENMP)
    int thread = omp_get_thread_num();
#else
    int thread = 0;
#endif
    return j->rows + (size_t)thread * round_up(sizeof(float) * (size_t)j->small[2]) / sizeof(float);
}

/* The rows of a small plane behind row (t, y) of the large one, and their weights; returns how many
 * there are. */
static int source_rows(const job *j, int64_t t, int64_t y, int64_t place[4], float weight[4]) {
    axis_tap at = j->taps[0][t], ay = j->taps[1][y];
    int count = 0;
    for (int corner = 0; corner < 4; corner++) {
        float wt = corner & 2 ? at.weight : 1 - at.weight;
        float wy = corner & 1 ? ay.weight : 1 - ay.weight;
        if (wt * wy == 0) continue;
        int64_t it = corner & 2 ? at.high : at.low, iy = corner & 1 ? ay.high : ay.low;
        place[count] = (it * j->small[1] + iy) * j->small[2];
        weight[count++] = wt * wy;
    }
    return count;
}

static void stretch(const job *j, const float *row, float *out) {
    const axis_tap *tap = j->taps[2];
    int64_t in = j->small[2], count = j->large[2];
    if (j->mode == KIN_UPSAMPLE_NEAREST && count == 2 * in)
        for (int64_t x = 0; x < in; x++) out[2 * x] = out[2 * x + 1] = row[x];
    else if (in == count) memcpy(out, row, sizeof *out * (size_t)count);
    else if (j->mode == KIN_UPSAMPLE_NEAREST)
        for (int64_t x = 0; x < count; x++) out[x] = row[tap[x].low];
    else
        for (int64_t x = 0; x < count; x++)
            out[x] = (1 - tap[x].weight) * row[tap[x].low] + tap[x].weight * row[tap[x].high];
}

static void plane_forward(const job *j, const float *small, float *large) {
    float *mixed = thread_row(j);
    int64_t width = j->small[2], previous = -1, place[4];
    float weight[4];
    for (int64_t ty = 0; ty < j->large[0] * j->large[1]; ty++, large += j->large[2]) {
        int count = source_rows(j, ty / j->large[1], ty % j->large[1], place, weight);
        const float *row = small + place[0];
        if (count == 1 && weight[0] == 1 && place[0] == previous) {
            memcpy(large, large - j->large[2], sizeof *large * (size_t)j->large[2]);
            continue;
        }
        previous = count == 1 && weight[0] == 1 ? place[0] : -1;
        if (previous < 0) {
            for (int64_t x = 0; x < width; x++) mixed[x] = weight[0] * row[x];
            for (int i = 1; i < count; i++)
                for (int64_t x = 0; x < width; x++) mixed[x] += weight[i] * small[place[i] + x];
            row = mixed;
        }
        stretch(j, row, large);
    }
}

static void plane_backward(const job *j, const float *large, float *small) {
    float *folded = thread_row(j);
    const axis_tap *tap = j->taps[2];
    int64_t width = j->small[2], place[4];
    float weight[4];
    memset(small, 0, sizeof *small * (size_t)(j->small[0] * j->small[1] * width));
    for (int64_t ty = 0; ty < j->large[0] * j->large[1]; ty++, large += j->large[2]) {
        memset(folded, 0, sizeof *folded * (size_t)width);
        if (j->mode == KIN_UPSAMPLE_NEAREST && j->large[2] == 2 * width)
            for (int64_t x = 0; x < width; x++) folded[x] = large[2 * x] + large[2 * x + 1];
        else
            for (int64_t x = 0; x < j->large[2]; x++) {
                folded[tap[x].low] += (1 - tap[x].weight) * large[x];
                folded[tap[x].high] += tap[x].weight * large[x];
            }
        int count = source_rows(j, ty / j->large[1], ty % j->large[1], place, weight);
        for (int i = 0; i < count; i++)
            for (int64_t x = 0; x < width; x++) small[place[i] + x] += weight[i] * folded[x];
    }
}

static size_t forward_scratch(const kin_device *device, const kin_call *call) {
    return scratch_for(device, &call->in[0].desc, &call->out[0].desc);
}

static size_t backward_scratch(const kin_device *device, const kin_call *call) {
    return scratch_for(device, &call->out[0].desc, &call->in[0].desc);
}

static kin_status run(kin_device *device, const kin_call *call, bool back) {
    const kin_operand *in = &call->in[0], *out = &call->out[0];
    job j = job_make(call, back ? &out->desc : &in->desc, back ? &in->desc : &out->desc);
    const float *from = cpu_data(in);
    float *to = cpu_data(out);
    int64_t small = j.small[0] * j.small[1] * j.small[2];
    int64_t large = j.large[0] * j.large[1] * j.large[2];
    int threads = cpu_threads_for(device, j.planes * (small + large));
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t c = 0; c < j.planes; c++) {
        if (back) plane_backward(&j, from + c * large, to + c * small);
        else plane_forward(&j, from + c * small, to + c * large);
    }
    return KIN_OK;
}

static kin_status forward_launch(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)commands;
    return run(device, call, false);
}

static kin_status backward_launch(kin_device *device, kin_commands *commands,
                                  const kin_call *call) {
    (void)commands;
    return run(device, call, true);
}

const kin_kernel cpu_upsample_kernels[] = {
    {.op = "upsample",
     .name = "cpu_upsample",
     .scratch = forward_scratch,
     .launch = forward_launch},
    {.op = "upsample_grad",
     .name = "cpu_upsample_grad",
     .scratch = backward_scratch,
     .launch = backward_launch},
    {0},
};
