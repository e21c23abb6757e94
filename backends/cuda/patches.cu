/* conv_patches and its gradient: what a convolution is lowered to, beside a product. */
#include "backends/cuda/launch.cuh"
#include "ops/conv_attrs.h"

namespace {

enum { THREADS = 256 };

struct patches_shape {
    int64_t in[3], kernel[3], out[3], stride[3], before[3], count;
    bool causal; /* the padding in front of time repeats the first frame */
};

/* y[plane, tap, p]: the element of the plane that tap sees from p, or 0. */
static __global__ void __launch_bounds__(THREADS) patches(kin_ref x, kin_ref y, patches_shape s) {
    const int64_t index = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    int64_t rest = index, at[3], tap[3], place;
    bool inside = true;
    if (index >= s.count) return;
    for (int a = 2; a >= 0; a--) {
        at[a] = rest % s.out[a];
        rest /= s.out[a];
    }
    for (int a = 2; a >= 0; a--) {
        tap[a] = rest % s.kernel[a];
        rest /= s.kernel[a];
    }
    place = rest;
    for (int a = 0; a < 3; a++) {
        int64_t i = at[a] * s.stride[a] + tap[a] - s.before[a];
        if (a == 0 && i < 0 && s.causal) i = 0;
        inside = inside && i >= 0 && i < s.in[a];
        place = place * s.in[a] + i;
    }
    kin_put(y, index, inside ? kin_get(x, place) : 0.0f);
}

/* x[plane, q]: the sum of what all taps that saw q got. */
static __global__ void __launch_bounds__(THREADS)
    patches_grad(kin_ref y, kin_ref x, patches_shape s) {
    const int64_t index = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    const int64_t taps = s.kernel[0] * s.kernel[1] * s.kernel[2];
    const int64_t positions = s.out[0] * s.out[1] * s.out[2];
    int64_t rest = index, q[3];
    float sum = 0;
    if (index >= s.count) return;
    for (int a = 2; a >= 0; a--) {
        q[a] = rest % s.in[a];
        rest /= s.in[a];
    }
    const int64_t start = rest * taps * positions;
    for (int64_t tap = 0; tap < taps; tap++) {
        const int64_t frame_tap = tap / s.kernel[2] / s.kernel[1];
        const int64_t row = q[1] + s.before[1] - tap / s.kernel[2] % s.kernel[1];
        const int64_t column = q[2] + s.before[2] - tap % s.kernel[2];
        const int64_t py = row / s.stride[1], px = column / s.stride[2];
        if (row < 0 || column < 0 || row % s.stride[1] != 0 || column % s.stride[2] != 0 ||
            py >= s.out[1] || px >= s.out[2])
            continue;
        /* Frames that read frame q[0] with this tap: one, or for the first all that reach before.
         */
        const int64_t reach = q[0] + s.before[0] - frame_tap;
        const bool first = s.causal && q[0] == 0;
        if (reach < 0 || (!first && reach % s.stride[0] != 0)) continue;
        const int64_t last = reach / s.stride[0];
        for (int64_t pt = first ? 0 : last; pt <= last && pt < s.out[0]; pt++)
            sum += kin_get(y, start + tap * positions + (pt * s.out[1] + py) * s.out[2] + px);
    }
    kin_put(x, index, sum);
}

static patches_shape shape_of(const kin_conv_attrs *attrs, const int64_t *kernel,
                              const kin_desc *image, const kin_desc *result) {
    patches_shape s = {};
    s.causal = attrs->causal != 0;
    s.count = kin_desc_count(result);
    for (int a = 0; a < 3; a++) {
        const int axis = image->rank - 3 + a;
        s.in[a] = axis < 2 ? 1 : image->dims[axis];
        s.kernel[a] = kernel[a];
        s.stride[a] = attrs->stride[a];
        s.before[a] = attrs->before[a];
        s.out[a] = (s.in[a] + attrs->before[a] + attrs->after[a] - kernel[a]) / s.stride[a] + 1;
    }
    return s;
}

static kin_status launch_patches(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_conv_size_attrs *attrs = static_cast<const kin_conv_size_attrs *>(call->attrs);
    const patches_shape s =
        shape_of(&attrs->conv, attrs->size, &call->in[0].desc, &call->out[0].desc);
    return kin_cuda_launch(device, commands, patches, dim3(kin_cuda_blocks(s.count, THREADS)),
                           dim3(THREADS), 0, kin_ref_of(&call->in[0]), kin_ref_of(&call->out[0]),
                           s);
}

static kin_status launch_patches_grad(kin_device *device, kin_commands *commands,
                                      const kin_call *call) {
    const kin_conv_patches_grad_attrs *attrs =
        static_cast<const kin_conv_patches_grad_attrs *>(call->attrs);
    const patches_shape s =
        shape_of(&attrs->conv, attrs->kernel, &call->out[0].desc, &call->out[0].desc);
    return kin_cuda_launch(device, commands, patches_grad, dim3(kin_cuda_blocks(s.count, THREADS)),
                           dim3(THREADS), 0, kin_ref_of(&call->in[0]), kin_ref_of(&call->out[0]),
                           s);
}

} // namespace

KIN_CUDA_ROWS(patches) = {
    {"conv_patches", "cuda_conv_patches", 0, 0, kin_cuda_can_real, nullptr, launch_patches},
    {"conv_patches_grad", "cuda_conv_patches_grad", 0, 0, kin_cuda_can_real, nullptr,
     launch_patches_grad},
    {},
};
