/* rope. A thread has one pair of elements of a token, and turns it in every head: one sine and
 * cosine for all of them, formed in double as the op says. Moves each element once in and once
 * out; bound by bandwidth. */
#include "backends/cuda/launch.cuh"
#include "ops/rope_attrs.h"

#include <math.h>

struct rope_args {
    int64_t count; /* threads: batches, tokens, pairs */
    int b1, tokens, heads, size, axes;
    int interleaved, inverse, bf16_table;
    double log2_theta, scales[KIN_ROPE_AXES];
    int64_t x_steps[5], y_steps[4]; /* batch, batch, token, head, element */
};

static __device__ __forceinline__ double table_value(const rope_args &a, double value) {
    return a.bf16_table ? (double)kin_value(kin_rounded<kin_bf16>((float)value)) : value;
}

template <typename T>
static __global__ void rope(const T *x, const float *positions, T *y, rope_args a) {
    const int64_t index = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= a.count) return;
    const int pairs = a.size / 2, part = a.size / a.axes, half = part / 2;
    const int pair = (int)(index % pairs), axis = pair / half, i = pair % half;
    int64_t rest = index / pairs;
    const int token = (int)(rest % a.tokens);
    rest /= a.tokens;
    const int64_t i0 = rest / a.b1, i1 = rest % a.b1;
    const double position = positions[axis * a.tokens + token] / a.scales[axis];
    const double angle = table_value(a, position * exp2(-2.0 * i / part * a.log2_theta));
    const float c = (float)table_value(a, cos(angle));
    const float turned = (float)table_value(a, sin(angle)), s = a.inverse ? -turned : turned;
    const int first = axis * part + (a.interleaved ? 2 * i : i);
    const int second = first + (a.interleaved ? 1 : half);
    x += i0 * a.x_steps[0] + i1 * a.x_steps[1] + token * a.x_steps[2];
    y += i0 * a.y_steps[0] + i1 * a.y_steps[1] + token * a.y_steps[2];
    for (int h = 0; h < a.heads; h++) {
        const float u = kin_value(x[h * a.x_steps[3] + first * a.x_steps[4]]);
        const float v = kin_value(x[h * a.x_steps[3] + second * a.x_steps[4]]);
        y[h * a.y_steps[3] + first] = kin_rounded<T>(u * c - v * s);
        y[h * a.y_steps[3] + second] = kin_rounded<T>(v * c + u * s);
    }
}

/* Steps of batch, batch, token and head. */
static void steps_of(const kin_desc *desc, int64_t *out_steps) {
    const int64_t *tail = desc->strides + desc->rank - 3;
    out_steps[0] = desc->strides[0];
    out_steps[1] = desc->rank == 5 ? desc->strides[1] : 0;
    out_steps[2] = tail[0];
    out_steps[3] = tail[1];
}

static bool can_rope(const kin_device *device, const kin_call *call) {
    for (int a = 0; a < call->in[0].desc.rank; a++)
        if (call->in[0].desc.dims[a] > INT32_MAX) return false;
    return kin_cuda_can_real(device, call) && call->in[1].desc.dtype == KIN_F32 &&
           call->in[0].desc.dtype == call->out[0].desc.dtype;
}

static kin_status launch(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_rope_attrs *attrs = static_cast<const kin_rope_attrs *>(call->attrs);
    const kin_desc *x = &call->in[0].desc;
    const int64_t *tail = x->dims + x->rank - 3;
    rope_args a = {};
    a.b1 = x->rank == 5 ? (int)x->dims[1] : 1;
    a.tokens = (int)tail[0];
    a.heads = (int)tail[1];
    a.size = (int)tail[2];
    a.axes = (int)attrs->axes;
    a.interleaved = (int)attrs->interleaved;
    a.inverse = (int)attrs->inverse;
    a.bf16_table = (int)attrs->bf16_table;
    a.log2_theta = log2(attrs->theta);
    for (int i = 0; i < KIN_ROPE_AXES; i++) a.scales[i] = attrs->scales[i];
    a.count = x->dims[0] * a.b1 * a.tokens * (a.size / 2);
    steps_of(x, a.x_steps);
    a.x_steps[4] = x->strides[x->rank - 1];
    steps_of(&call->out[0].desc, a.y_steps);
    return kin_with_real(x->dtype, [&](auto zero) {
        using T = decltype(zero);
        return kin_cuda_launch(device, commands, rope<T>, dim3(kin_cuda_blocks(a.count, 128)),
                               dim3(128), 0, kin_cuda_address(&call->in[0]),
                               kin_cuda_address(&call->in[1]), kin_cuda_address(&call->out[0]), a);
    });
}

/* Input 0 may be any view, or lie where the result goes: a pair is read before it is written. */
KIN_CUDA_ROWS(rope) = {
    {"rope", "cuda_rope", 1, 1, can_rope, NULL, launch},
    {},
};
