/* What the kernels of convolution share. All are products of matrices whose right operand is
 * gathered from a tensor of channels where it lies, channels first:
 *
 *   conv              y[o, p]  = sum over tap, c of w[o, c, tap] x[c, source(p, tap)]
 *   conv_grad_input   dx[c, q] = sum over tap, o of w[o, c, tap] dy[o, p with source(p, tap) = q]
 *   conv_grad_weight  dw[o, c] = sum over sample, p of dy[o, p] x[c, source(p, tap)], for each tap
 *
 * Weights are packed first, to [tap][row][channel] with channels padded to CONV_CHUNK, so that one
 * step of the sum has one tap, and its left operand lies densely. */
#ifndef KIN_BACKENDS_CUDA_CONV_CUH
#define KIN_BACKENDS_CUDA_CONV_CUH

#include "backends/cuda/device.cuh"
#include "backends/cuda/launch.cuh"

enum { CONV_CHUNK = 32 };

struct conv_args {
    const void *x;    /* gathered: [batch, channels, from] */
    const void *w;    /* packed weights; conv_grad_weight: dy [batch, rows, size] */
    const void *bias; /* [rows] or NULL */
    void *y;          /* [batch, rows, size]; conv_grad_weight: f32
                         [splits][taps][rows][channels] */
    int bias_dtype;
    int batch, rows, channels;
    int padded;           /* channels as a multiple of CONV_CHUNK */
    int size[3], from[3]; /* positions along time, rows, columns: of y, of x */
    int kernel[3], stride[3], before[3];
    int causal;
    int positions, plane, taps; /* products of size, from and kernel */
    int splits, steps;          /* conv_grad_weight: parts of the sum, and all its steps */
};

/* Positions along the axes of a number below the product of `size`. */
static __device__ __forceinline__ void conv_split(int index, const int (&size)[3], int (&at)[3]) {
    at[2] = index % size[2];
    index /= size[2];
    at[1] = index % size[1];
    at[0] = index / size[1];
}

/* Where an element of the right operand comes from: `count` elements of one channel, `jump` apart,
 * that are added up; 0: padding. */
struct conv_source {
    int first, count, jump;
};

/* What position `at` reads at a tap. */
static __device__ __forceinline__ conv_source conv_source_of(const conv_args &a, const int (&at)[3],
                                                             const int (&tap)[3]) {
    conv_source source = {0, 1, 0};
#pragma unroll
    for (int i = 0; i < 3; i++) {
        int place = at[i] * a.stride[i] + tap[i] - a.before[i];
        if (i == 0 && a.causal && place < 0) place = 0;
        if (place < 0 || place >= a.from[i]) source.count = 0;
        source.first = source.first * a.from[i] + place;
    }
    return source;
}

/* The results that read position `at` at a tap. With causal padding, which repeats the first frame,
 * several results in time read that. */
static __device__ __forceinline__ conv_source conv_target_of(const conv_args &a, const int (&at)[3],
                                                             const int (&tap)[3]) {
    conv_source source = {0, 1, a.from[1] * a.from[2]};
#pragma unroll
    for (int i = 0; i < 3; i++) {
        const int place = at[i] + a.before[i] - tap[i];
        int result = place / a.stride[i];
        if (i == 0 && a.causal && at[0] == 0) {
            if (place < 0) source.count = 0;
            else source.count = min(result + 1, a.from[0]);
            result = 0;
        } else if (place < 0 || result >= a.from[i] || result * a.stride[i] != place) {
            source.count = 0;
        }
        source.first = source.first * a.from[i] + result;
    }
    return source;
}

/* The axis of time alone: the frames that result `time` reads at a tap (conv_source_of), and the
 * results that read frame `time` (conv_target_of), which follow one another. */
struct conv_frames {
    int first, count;
};
static __device__ __forceinline__ conv_frames conv_frames_from(int time, int tap, int before,
                                                               int stride, int frames,
                                                               bool causal) {
    const int place = time * stride + tap - before;
    if (causal && place < 0) return conv_frames{0, 1};
    return conv_frames{place, place >= 0 && place < frames};
}
static __device__ __forceinline__ conv_frames conv_frames_to(int time, int tap, int before,
                                                             int stride, int frames, bool causal) {
    const int place = time + before - tap, result = place / stride;
    if (causal && time == 0) return conv_frames{0, place < 0 ? 0 : min(result + 1, frames)};
    return conv_frames{result, place >= 0 && result < frames && result * stride == place};
}

template <bool INPUT>
static __device__ __forceinline__ conv_source conv_place_of(const conv_args &a, const int (&at)[3],
                                                            int tap) {
    int taps[3];
    conv_split(tap, a.kernel, taps);
    return INPUT ? conv_target_of(a, at, taps) : conv_source_of(a, at, taps);
}

static __device__ __forceinline__ float conv_bias_of(const conv_args &a, int row) {
    if (a.bias == nullptr) return 0.0f;
    if (a.bias_dtype == KIN_F32) return static_cast<const float *>(a.bias)[row];
    if (a.bias_dtype == KIN_BF16) return kin_value(static_cast<const kin_bf16 *>(a.bias)[row]);
    return kin_value(static_cast<const kin_f16 *>(a.bias)[row]);
}

/* ---- rows of conv.cu, which those for Hopper share and hand their calls on to ---- */

/* The shapes of a call; pointers are not set. */
conv_args conv_forward_shape(const kin_call *call);
conv_args conv_input_shape(const kin_call *call);
conv_args conv_weight_shape(const kin_call *call);

bool conv_can_forward(const kin_device *device, const kin_call *call);
bool conv_can_input(const kin_device *device, const kin_call *call);
bool conv_can_weight(const kin_device *device, const kin_call *call);
size_t conv_forward_scratch(const kin_device *device, const kin_call *call);
size_t conv_input_scratch(const kin_device *device, const kin_call *call);
size_t conv_weight_scratch(const kin_device *device, const kin_call *call);
kin_status conv_launch_forward(kin_device *device, kin_commands *commands, const kin_call *call);
kin_status conv_launch_input(kin_device *device, kin_commands *commands, const kin_call *call);
kin_status conv_launch_weight(kin_device *device, kin_commands *commands, const kin_call *call);

/* w as [tap][row][padded channel] of the dtype, which lies at `packed`; by_input: rows are input
 * channels. */
kin_status conv_pack_weights(kin_device *device, kin_commands *commands, const kin_operand *w,
                             kin_dtype dtype, const conv_args *a, bool by_input, void *packed);
/* The splits at a->y, [split][tap][row][channel], added up in their order into the call's dw. */
kin_status conv_join_parts(kin_device *device, kin_commands *commands, const kin_call *call,
                           const conv_args *a);

/* ---- variants (x and w are of the dtype) ---- */

/* conv_plain.cu: f32. conv_mma.cu: f16 and bf16. input: conv_grad_input. */
kin_status conv_plain(kin_device *device, kin_commands *commands, const conv_args *args,
                      bool input);
kin_status conv_plain_weight(kin_device *device, kin_commands *commands, const conv_args *args);
kin_status conv_mma(kin_device *device, kin_commands *commands, kin_dtype dtype,
                    const conv_args *args, bool input);
kin_status conv_mma_weight(kin_device *device, kin_commands *commands, kin_dtype dtype,
                           const conv_args *args);

#endif
