/* pad, upsample and their gradients. Each result is gathered, so that sums have one order. */
#include "backends/cuda/launch.cuh"
#include "ops/pad_attrs.h"
#include "ops/upsample_attrs.h"

namespace {

enum { THREADS = 256 };

/* ---- pad ---- */

struct pad_shape {
    int rank;
    bool replicate; /* the outermost elements are repeated; else zeros */
    int64_t count;
    int64_t small[KIN_MAX_RANK], padded[KIN_MAX_RANK];
    int64_t before[KIN_MAX_RANK], after[KIN_MAX_RANK];
};

static __global__ void __launch_bounds__(THREADS) pad(kin_ref x, kin_ref y, pad_shape s) {
    const int64_t index = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    int64_t rest = index, place = 0, step = 1;
    bool outside = false;
    if (index >= s.count) return;
    for (int a = s.rank - 1; a >= 0; a--) {
        const int64_t i = rest % s.padded[a] - s.before[a];
        const int64_t inside = i < 0 ? 0 : i >= s.small[a] ? s.small[a] - 1 : i;
        rest /= s.padded[a];
        outside = outside || i != inside;
        place += inside * step;
        step *= s.small[a];
    }
    kin_put(y, index, outside && !s.replicate ? 0.0f : kin_get(x, place));
}

/* The sum of the box of padded elements behind each element: single ones inside, the whole margin
 * at an edge that was repeated. */
static __global__ void __launch_bounds__(THREADS) pad_grad(kin_ref x, kin_ref y, pad_shape s) {
    const int64_t index = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    int64_t rest = index, boxes = 1, low[KIN_MAX_RANK], size[KIN_MAX_RANK];
    float sum = 0;
    if (index >= s.count) return;
        /* Loops of a fixed length, so that the arrays are registers. */
#pragma unroll
    for (int a = KIN_MAX_RANK - 1; a >= 0; a--) {
        if (a >= s.rank) continue;
        const int64_t i = rest % s.small[a];
        int64_t first = i + s.before[a], last = first;
        rest /= s.small[a];
        if (s.replicate && i == 0) first = 0;
        if (s.replicate && i == s.small[a] - 1) last += s.after[a];
        low[a] = first;
        size[a] = last - first + 1;
        boxes *= size[a];
    }
    for (int64_t box = 0; box < boxes; box++) {
        int64_t left = box, place = 0, step = 1;
#pragma unroll
        for (int a = KIN_MAX_RANK - 1; a >= 0; a--) {
            if (a >= s.rank) continue;
            place += (low[a] + left % size[a]) * step;
            left /= size[a];
            step *= s.padded[a];
        }
        sum += kin_get(x, place);
    }
    kin_put(y, index, sum);
}

static kin_status run_pad(kin_device *device, kin_commands *commands, const kin_call *call,
                          bool back) {
    const kin_pad_attrs *attrs = static_cast<const kin_pad_attrs *>(call->attrs);
    const kin_operand *x = &call->in[0], *y = &call->out[0];
    const kin_desc *small = back ? &y->desc : &x->desc, *padded = back ? &x->desc : &y->desc;
    pad_shape s = {};
    s.rank = small->rank;
    s.replicate = attrs->replicate != 0;
    s.count = kin_desc_count(&y->desc);
    for (int a = 0; a < small->rank; a++) {
        s.small[a] = small->dims[a];
        s.padded[a] = padded->dims[a];
        s.before[a] = attrs->before[a];
        s.after[a] = attrs->after[a];
    }
    return kin_cuda_launch(device, commands, back ? pad_grad : pad,
                           dim3(kin_cuda_blocks(s.count, THREADS)), dim3(THREADS), 0, kin_ref_of(x),
                           kin_ref_of(y), s);
}

static kin_status launch_pad(kin_device *device, kin_commands *commands, const kin_call *call) {
    return run_pad(device, commands, call, false);
}

static kin_status launch_pad_grad(kin_device *device, kin_commands *commands,
                                  const kin_call *call) {
    return run_pad(device, commands, call, true);
}

/* ---- upsample: small is its input, large its result; axes time, rows, columns ---- */

/* What element i of an axis of the larger tensor reads: (1 - weight) low + weight high. */
struct tap {
    int low, high;
    float weight;
};
/* The first and the last element of the larger tensor that read an element of the smaller one. */
struct range {
    int first, last;
};
struct sizes {
    int64_t small[3], large[3], count;
    const tap *taps[3];
    const range *ranges[3];
};

/* Plane, t, y, x of an element of a tensor of `size`. */
static __device__ __forceinline__ int64_t place_of(int64_t index, const int64_t (&size)[3],
                                                   int64_t (&at)[3]) {
    at[2] = index % size[2];
    index /= size[2];
    at[1] = index % size[1];
    index /= size[1];
    at[0] = index % size[0];
    return index / size[0];
}

static __global__ void __launch_bounds__(THREADS) resize(kin_ref x, kin_ref y, sizes s) {
    const int64_t index = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    int64_t at[3];
    float sum = 0;
    if (index >= s.count) return;
    const int64_t plane = place_of(index, s.large, at);
    const tap t[3] = {s.taps[0][at[0]], s.taps[1][at[1]], s.taps[2][at[2]]};
    for (int corner = 0; corner < 8; corner++) {
        const bool upper[3] = {(corner & 4) != 0, (corner & 2) != 0, (corner & 1) != 0};
        float weight = 1;
        int64_t place = plane;
        for (int a = 0; a < 3; a++) {
            weight *= upper[a] ? t[a].weight : 1.0f - t[a].weight;
            place = place * s.small[a] + (upper[a] ? t[a].high : t[a].low);
        }
        if (weight != 0) sum += weight * kin_get(x, place);
    }
    kin_put(y, index, sum);
}

/* How much element i of the smaller tensor gets from a tap. */
static __device__ __forceinline__ float share(const tap &t, int64_t i) {
    return (t.low == i ? 1.0f - t.weight : 0.0f) + (t.high == i ? t.weight : 0.0f);
}

static __global__ void __launch_bounds__(THREADS) resize_grad(kin_ref x, kin_ref y, sizes s) {
    const int64_t index = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    int64_t at[3];
    float sum = 0;
    if (index >= s.count) return;
    const int64_t plane = place_of(index, s.small, at);
    const range rt = s.ranges[0][at[0]], ry = s.ranges[1][at[1]], rx = s.ranges[2][at[2]];
    for (int64_t lt = rt.first; lt <= rt.last; lt++)
        for (int64_t ly = ry.first; ly <= ry.last; ly++) {
            const float weight = share(s.taps[0][lt], at[0]) * share(s.taps[1][ly], at[1]);
            const int64_t row = ((plane * s.large[0] + lt) * s.large[1] + ly) * s.large[2];
            for (int64_t lx = rx.first; lx <= rx.last; lx++)
                sum += weight * share(s.taps[2][lx], at[2]) * kin_get(x, row + lx);
        }
    kin_put(y, index, sum);
}

static void axes_of(const kin_desc *desc, int64_t (&out_size)[3]) {
    for (int a = 0; a < 3; a++) {
        const int axis = desc->rank - 3 + a;
        out_size[a] = axis < 2 ? 1 : desc->dims[axis];
    }
}

/* The tables of one axis on the device. */
static kin_status make_axis(kin_device *device, kin_commands *commands, int64_t mode, sizes *s,
                            int axis) {
    const int64_t small = s->small[axis], large = s->large[axis];
    tap *taps = static_cast<tap *>(kin_calloc(device->context, (size_t)large, sizeof *taps));
    range *ranges =
        static_cast<range *>(kin_calloc(device->context, (size_t)small, sizeof *ranges));
    kin_status status = taps != nullptr && ranges != nullptr ? KIN_OK : KIN_OUT_OF_MEMORY;
    void *tap_table = nullptr, *range_table = nullptr;
    for (int64_t i = 0; i < small && status == KIN_OK; i++) ranges[i] = range{(int)large, -1};
    for (int64_t i = 0; i < large && status == KIN_OK; i++) {
        const kin_upsample_tap t = kin_upsample_tap_at(mode, small, large, i);
        taps[i] = tap{(int)t.low, (int)t.high, (float)t.weight};
        for (int64_t end : {t.low, t.high}) {
            if (i < ranges[end].first) ranges[end].first = (int)i;
            if (i > ranges[end].last) ranges[end].last = (int)i;
        }
    }
    if (status == KIN_OK)
        status = kin_cuda_table(device, commands, taps, (size_t)large * sizeof *taps, &tap_table);
    if (status == KIN_OK)
        status =
            kin_cuda_table(device, commands, ranges, (size_t)small * sizeof *ranges, &range_table);
    kin_free(device->context, taps);
    kin_free(device->context, ranges);
    s->taps[axis] = static_cast<const tap *>(tap_table);
    s->ranges[axis] = static_cast<const range *>(range_table);
    return status;
}

static bool can_resize(const kin_device *device, const kin_call *call) {
    int64_t in[3], out[3];
    axes_of(&call->in[0].desc, in);
    axes_of(&call->out[0].desc, out);
    for (int a = 0; a < 3; a++)
        if (in[a] > INT32_MAX || out[a] > INT32_MAX) return false;
    return kin_cuda_can_real(device, call);
}

static kin_status run_upsample(kin_device *device, kin_commands *commands, const kin_call *call,
                               bool back) {
    const kin_upsample_attrs *attrs = static_cast<const kin_upsample_attrs *>(call->attrs);
    const kin_operand *x = &call->in[0], *y = &call->out[0];
    sizes s = {};
    kin_status status = KIN_OK;
    axes_of(back ? &y->desc : &x->desc, s.small);
    axes_of(back ? &x->desc : &y->desc, s.large);
    s.count = kin_desc_count(&y->desc);
    for (int a = 0; a < 3 && status == KIN_OK; a++)
        status = make_axis(device, commands, attrs->mode, &s, a);
    if (status != KIN_OK) return status;
    return kin_cuda_launch(device, commands, back ? resize_grad : resize,
                           dim3(kin_cuda_blocks(s.count, THREADS)), dim3(THREADS), 0, kin_ref_of(x),
                           kin_ref_of(y), s);
}

static kin_status launch_upsample(kin_device *device, kin_commands *commands,
                                  const kin_call *call) {
    return run_upsample(device, commands, call, false);
}

static kin_status launch_upsample_grad(kin_device *device, kin_commands *commands,
                                       const kin_call *call) {
    return run_upsample(device, commands, call, true);
}

} // namespace

KIN_CUDA_ROWS(resample) = {
    {"pad", "cuda_pad", 0, 0, kin_cuda_can_real, nullptr, launch_pad},
    {"pad_grad", "cuda_pad_grad", 0, 0, kin_cuda_can_real, nullptr, launch_pad_grad},
    {"upsample", "cuda_upsample", 0, 0, can_resize, nullptr, launch_upsample},
    {"upsample_grad", "cuda_upsample_grad", 0, 0, can_resize, nullptr, launch_upsample_grad},
    {},
};
