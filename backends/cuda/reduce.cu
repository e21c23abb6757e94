/* sum, mean, max: one result for each place on the kept axes. If the last reduced axis is dense, a
 * block works on a result (or on a part of it); else a thread does, and neighbouring threads have
 * neighbouring results. The reduced axes are `outer` (any number of them) and the innermost one. If
 * there are several parts, each takes an equal share of the outer axes, or of the inner one if
 * there is but one place on the outer ones; their results are reduced again by `join`. The number
 * of parts follows from the shape alone, so every run adds in one order. */
#include "backends/cuda/launch.cuh"
#include "backends/cuda/places.cuh"
#include "ops/reduce_attrs.h"

namespace {

enum { THREADS = 256, ENOUGH_BLOCKS = 1024, PART_ELEMENTS = 512, MOST_PARTS = 256 };

struct reduction {
    kin_cuda_shape kept, outer; /* of the input, one operand each */
    int64_t inner, inner_stride;
    int64_t results, parts;
};

/* Sums carry what rounding took off (Kahan 1965), so that long ones stay exact enough in f32. */
template <bool MAX> struct running {
    float value, lost;
    __device__ __forceinline__ running() : value(MAX ? -INFINITY : 0.0f), lost(0.0f) {
    }
    __device__ __forceinline__ void take(float v) {
        if (MAX) {
            value = kin_larger(value, v);
            return;
        }
        const float exact = v - lost, next = value + exact, off = (next - value) - exact;
        lost = off == off ? off : 0.0f; /* an infinite sum stays infinite */
        value = next;
    }
};

/* The share of part `part`: outer places first .. last-1, inner elements from .. to-1. */
static __device__ __forceinline__ void share_of(const reduction &r, int64_t part, int64_t *first,
                                                int64_t *last, int64_t *from, int64_t *to) {
    const bool outside = r.outer.count > 1;
    *first = outside ? r.outer.count * part / r.parts : 0;
    *last = outside ? r.outer.count * (part + 1) / r.parts : r.outer.count;
    *from = outside ? 0 : r.inner * part / r.parts;
    *to = outside ? r.inner : r.inner * (part + 1) / r.parts;
}

template <bool MAX>
static __global__ void __launch_bounds__(THREADS)
    reduce_wide(kin_ref x, kin_ref y, reduction r, float factor) {
    const int64_t result = blockIdx.x / r.parts, part = blockIdx.x % r.parts;
    int64_t start[1], place[1], first, last, from, to;
    running<MAX> total;
    kin_places(r.kept, result, start);
    share_of(r, part, &first, &last, &from, &to);
    /* The threads of the block share outer places where rows are short. */
    const int lanes = r.inner >= THREADS ? THREADS : 32;
    const int row = (int)threadIdx.x / lanes, lane = (int)threadIdx.x % lanes;
    for (int64_t o = first + row; o < last; o += THREADS / lanes) {
        kin_places(r.outer, o, place);
        for (int64_t i = from + lane; i < to; i += lanes)
            total.take(kin_get(x, start[0] + place[0] + i));
    }
    const float value = kin_block_join<THREADS, MAX>(total.value);
    if (threadIdx.x == 0) kin_put(y, part * r.results + result, value * factor);
}

template <bool MAX>
static __global__ void __launch_bounds__(THREADS)
    reduce_narrow(kin_ref x, kin_ref y, reduction r, float factor) {
    const int64_t item = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    int64_t start[1], place[1], first, last, from, to;
    running<MAX> total;
    if (item >= r.results * r.parts) return;
    kin_places(r.kept, item % r.results, start);
    share_of(r, item / r.results, &first, &last, &from, &to);
    for (int64_t o = first; o < last; o++) {
        kin_places(r.outer, o, place);
        for (int64_t i = from; i < to; i++)
            total.take(kin_get(x, start[0] + place[0] + i * r.inner_stride));
    }
    kin_put(y, item, total.value * factor);
}

/* y[i] = all partial[part, i] reduced, times factor. */
template <bool MAX>
static __global__ void __launch_bounds__(THREADS)
    join(const float *__restrict__ partial, kin_ref y, int64_t parts, int64_t results,
         float factor) {
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    running<MAX> total;
    if (i >= results) return;
    for (int64_t part = 0; part < parts; part++) total.take(partial[part * results + i]);
    kin_put(y, i, total.value * factor);
}

/* ---- host ---- */

/* The shape of the axes in `axes`. */
static kin_cuda_shape chosen(const kin_desc *x, uint32_t axes) {
    kin_desc view = {};
    view.dtype = x->dtype;
    for (int a = 0; a < x->rank; a++) {
        if ((axes >> a & 1) == 0) continue;
        view.dims[view.rank] = x->dims[a];
        view.strides[view.rank++] = x->strides[a];
    }
    const kin_desc *list[1] = {&view};
    return kin_cuda_shape_of(view.rank, view.dims, 1, list);
}

static bool is_wide(const reduction *r) {
    return r->inner > 1 && r->inner_stride == 1;
}

static int64_t parts_of(const reduction *r) {
    const int64_t outer = r->outer.count, elements = outer * r->inner;
    const int64_t blocks = is_wide(r) ? r->results : (r->results + THREADS - 1) / THREADS;
    int64_t parts = blocks >= ENOUGH_BLOCKS || blocks < 1 ? 1 : ENOUGH_BLOCKS / blocks;
    if (parts > elements / PART_ELEMENTS) parts = elements / PART_ELEMENTS;
    if (outer > 1 && parts > outer) parts = outer;
    if (parts > MOST_PARTS) parts = MOST_PARTS;
    return parts < 1 ? 1 : parts;
}

static reduction reduction_of(const kin_call *call) {
    const uint32_t axes = static_cast<const kin_reduce_attrs *>(call->attrs)->axes;
    const kin_desc *x = &call->in[0].desc;
    reduction r = {};
    r.kept = chosen(x, ~axes);
    r.outer = chosen(x, axes);
    r.inner = 1;
    r.results = r.kept.count;
    if (r.outer.rank > 0) {
        const int last = --r.outer.rank;
        r.inner = r.outer.dims[last];
        r.inner_stride = r.outer.strides[0][last];
        r.outer.count = 1;
        for (int a = 0; a < last; a++) r.outer.count *= r.outer.dims[a];
    }
    r.parts = parts_of(&r);
    return r;
}

template <bool MAX>
static kin_status run(kin_device *device, kin_commands *commands, const kin_call *call, bool mean) {
    const kin_operand *x = &call->in[0], *y = &call->out[0];
    const reduction r = reduction_of(call);
    const double count = (double)kin_desc_count(&x->desc);
    const float factor = mean ? (float)((double)r.results / count) : 1.0f;
    const bool split = r.parts > 1;
    const kin_ref target = split ? kin_ref{kin_cuda_scratch(call, 0), KIN_F32} : kin_ref_of(y);
    const float first_factor = split ? 1.0f : factor;
    kin_status status =
        is_wide(&r) ? kin_cuda_launch(device, commands, reduce_wide<MAX>,
                                      dim3(kin_cuda_blocks(r.results * r.parts, 1)), dim3(THREADS),
                                      0, kin_ref_of(x), target, r, first_factor)
                    : kin_cuda_launch(device, commands, reduce_narrow<MAX>,
                                      dim3(kin_cuda_blocks(r.results * r.parts, THREADS)),
                                      dim3(THREADS), 0, kin_ref_of(x), target, r, first_factor);
    if (status != KIN_OK || !split) return status;
    return kin_cuda_launch(device, commands, join<MAX>, dim3(kin_cuda_blocks(r.results, THREADS)),
                           dim3(THREADS), 0, static_cast<const float *>(target.data), kin_ref_of(y),
                           r.parts, r.results, factor);
}

static size_t scratch(const kin_device *device, const kin_call *call) {
    (void)device;
    const reduction r = reduction_of(call);
    return r.parts > 1 ? (size_t)(r.parts * r.results) * sizeof(float) : 0;
}

static kin_status sum(kin_device *device, kin_commands *commands, const kin_call *call) {
    return run<false>(device, commands, call, false);
}

static kin_status mean(kin_device *device, kin_commands *commands, const kin_call *call) {
    return run<false>(device, commands, call, true);
}

static kin_status largest(kin_device *device, kin_commands *commands, const kin_call *call) {
    return run<true>(device, commands, call, false);
}

} // namespace

KIN_CUDA_ROWS(reduce) = {
    {"sum", "cuda_sum", 1, 0, kin_cuda_can_real, scratch, sum},
    {"sum_cast", "cuda_sum_cast", 1, 0, kin_cuda_can_real, scratch, sum},
    {"mean", "cuda_mean", 1, 0, kin_cuda_can_real, scratch, mean},
    {"max", "cuda_max", 1, 0, kin_cuda_can_real, scratch, largest},
    {},
};
