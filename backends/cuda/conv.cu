/* Rows of the convolutions: shapes, packed weights, parts of the sum of conv_grad_weight,
 * launches. f32 goes to conv_plain.cu, f16 and bf16 to conv_mma.cu; weights of another storage are
 * converted as they are packed. */
#include "backends/cuda/conv.cuh"
#include "ops/conv_attrs.h"

/* ---- shapes ---- */

static void axes_of(const kin_desc *desc, int out_size[3]) {
    for (int a = 0; a < 3; a++) {
        const int axis = desc->rank - 3 + a;
        out_size[a] = axis < 2 ? 1 : (int)desc->dims[axis];
    }
}

static int count_of(const int size[3]) {
    return size[0] * size[1] * size[2];
}

/* from: the gathered tensor; size: the positions. */
static conv_args shape_of(const kin_conv_attrs *attrs, const kin_desc *from, const kin_desc *size,
                          const int kernel[3]) {
    conv_args a = {};
    a.batch = (int)from->dims[0];
    a.channels = (int)from->dims[1];
    a.padded = (a.channels + CONV_CHUNK - 1) / CONV_CHUNK * CONV_CHUNK;
    axes_of(from, a.from);
    axes_of(size, a.size);
    for (int i = 0; i < 3; i++) {
        a.kernel[i] = kernel[i];
        a.stride[i] = (int)attrs->stride[i];
        a.before[i] = (int)attrs->before[i];
    }
    a.causal = (int)attrs->causal;
    a.positions = count_of(a.size);
    a.plane = count_of(a.from);
    a.taps = count_of(kernel);
    return a;
}

static int64_t plane_of(const kin_desc *desc) {
    int64_t count = 1;
    for (int a = 2; a < desc->rank; a++) count *= desc->dims[a];
    return count;
}

/* Planes, and positions of a sample and of all samples, are counted with an int. */
static bool fits(const kin_desc *desc) {
    return desc->dims[0] <= INT32_MAX && desc->dims[1] < INT32_MAX - CONV_CHUNK &&
           desc->dims[0] * plane_of(desc) < INT32_MAX;
}

static bool attrs_fit(const kin_conv_attrs *attrs) {
    for (int a = 0; a < 3; a++)
        if (attrs->stride[a] > 32768 || attrs->before[a] > 32768) return false;
    return true;
}

/* x (or dy) and the result have one storage; w and the bias any. */
static bool can_take(const kin_device *device, const kin_call *call, const kin_conv_attrs *attrs) {
    return kin_cuda_can_real(device, call) && fits(&call->in[0].desc) && fits(&call->in[1].desc) &&
           fits(&call->out[0].desc) && attrs_fit(attrs) &&
           call->in[0].desc.dtype == call->out[0].desc.dtype;
}

/* ---- packed weights ---- */

/* PACK x PACK weights with TAPS taps, and the threads' second axis. */
enum { PACK = 32, PACK_ROWS = 8, TAPS = 9, PACK_PITCH = PACK * TAPS + 1 };

/* A block takes 32 outputs and 32 inputs, 9 taps at a time, by way of shared memory, so that both
 * sides are read and written in the order of memory. by_input: rows are input channels. Predicted:
 * 512 x 512 x 9 of bf16 is 9.4 MB, in a launch of 3 us. */
template <typename S, typename T>
static __global__ void __launch_bounds__(PACK *PACK_ROWS)
    conv_pack(const S *w, T *packed, int outputs, int inputs, int taps, int padded, bool by_input) {
    __shared__ float tile[PACK][PACK_PITCH];
    const int x = (int)threadIdx.x, y = (int)threadIdx.y;
    const int o = (int)blockIdx.y * PACK, c = (int)blockIdx.x * PACK;
    const int rows = by_input ? inputs : outputs, row = by_input ? c : o;
    const int channel = (by_input ? o : c) + x;
    for (int first = 0; first < taps; first += TAPS) {
        const int count = min(taps - first, (int)TAPS);
        for (int i = y; i < PACK; i += PACK_ROWS) {
            const S *from = w + ((int64_t)(o + i) * inputs + c) * taps + first;
            for (int e = x; e < PACK * count; e += PACK) {
                const int input = e / count;
                tile[i][e] = o + i < outputs && c + input < inputs
                                 ? kin_value(from[(int64_t)input * taps + e % count])
                                 : 0.0f;
            }
        }
        __syncthreads();
        for (int tap = 0; tap < count; tap++)
            for (int i = y; i < PACK; i += PACK_ROWS)
                if (row + i < rows && channel < padded)
                    packed[((int64_t)(first + tap) * rows + row + i) * padded + channel] =
                        kin_rounded<T>(by_input ? tile[x][i * count + tap]
                                                : tile[i][x * count + tap]);
        __syncthreads();
    }
}

static int64_t packed_count(const conv_args *a) {
    return (int64_t)a->taps * a->rows * a->padded;
}

kin_status conv_pack_weights(kin_device *device, kin_commands *commands, const kin_operand *w,
                             kin_dtype dtype, const conv_args *a, bool by_input, void *packed) {
    const int64_t outputs = w->desc.dims[0], inputs = w->desc.dims[1];
    const dim3 grid(kin_cuda_blocks(inputs, PACK), kin_cuda_blocks(outputs, PACK));
    return kin_with_real(w->desc.dtype, [&](auto source) {
        return kin_with_real(dtype, [&](auto target) {
            return kin_cuda_launch(device, commands, conv_pack<decltype(source), decltype(target)>,
                                   grid, dim3(PACK, PACK_ROWS), 0, kin_cuda_address(w), packed,
                                   outputs, inputs, a->taps, a->padded, by_input);
        });
    });
}

/* ---- conv and conv_grad_input ---- */

conv_args conv_forward_shape(const kin_call *call) {
    int kernel[3];
    axes_of(&call->in[1].desc, kernel);
    conv_args a = shape_of(static_cast<const kin_conv_attrs *>(call->attrs), &call->in[0].desc,
                           &call->out[0].desc, kernel);
    a.rows = (int)call->in[1].desc.dims[0];
    return a;
}

conv_args conv_input_shape(const kin_call *call) {
    const kin_conv_size_attrs *attrs = static_cast<const kin_conv_size_attrs *>(call->attrs);
    int kernel[3];
    axes_of(&call->in[1].desc, kernel);
    conv_args a = shape_of(&attrs->conv, &call->in[0].desc, &call->out[0].desc, kernel);
    a.rows = (int)call->in[1].desc.dims[1];
    return a;
}

bool conv_can_forward(const kin_device *device, const kin_call *call) {
    return can_take(device, call, static_cast<const kin_conv_attrs *>(call->attrs));
}

bool conv_can_input(const kin_device *device, const kin_call *call) {
    return can_take(device, call, &static_cast<const kin_conv_size_attrs *>(call->attrs)->conv);
}

static size_t packed_bytes(const kin_call *call, const conv_args *a) {
    return (size_t)packed_count(a) * kin_dtype_size(call->in[0].desc.dtype);
}

size_t conv_forward_scratch(const kin_device *device, const kin_call *call) {
    (void)device;
    const conv_args a = conv_forward_shape(call);
    return packed_bytes(call, &a);
}

size_t conv_input_scratch(const kin_device *device, const kin_call *call) {
    (void)device;
    const conv_args a = conv_input_shape(call);
    return packed_bytes(call, &a);
}

static kin_status run(kin_device *device, kin_commands *commands, const kin_call *call,
                      conv_args *a, bool input) {
    const kin_dtype dtype = call->in[0].desc.dtype;
    kin_status status = conv_pack_weights(device, commands, &call->in[1], dtype, a, input,
                                          kin_cuda_scratch(call, 0));
    a->x = kin_cuda_address(&call->in[0]);
    a->w = kin_cuda_scratch(call, 0);
    a->y = kin_cuda_address(&call->out[0]);
    if (status != KIN_OK) return status;
    return dtype == KIN_F32 ? conv_plain(device, commands, a, input)
                            : conv_mma(device, commands, dtype, a, input);
}

kin_status conv_launch_forward(kin_device *device, kin_commands *commands, const kin_call *call) {
    conv_args a = conv_forward_shape(call);
    if (kin_cuda_has(call, 2)) {
        a.bias = kin_cuda_address(&call->in[2]);
        a.bias_dtype = call->in[2].desc.dtype;
    }
    return run(device, commands, call, &a, false);
}

kin_status conv_launch_input(kin_device *device, kin_commands *commands, const kin_call *call) {
    conv_args a = conv_input_shape(call);
    return run(device, commands, call, &a, true);
}

/* ---- conv_grad_weight ---- */

/* Blocks for every tile and tap are few, so the sum is cut into parts, each of 8 steps or more,
 * until there are about 512; as the shape alone says, so that the result is the same on every
 * device. */
conv_args conv_weight_shape(const kin_call *call) {
    enum { BLOCKS = 512, LEAST = 8, TILE = 128 };
    const kin_conv_size_attrs *attrs = static_cast<const kin_conv_size_attrs *>(call->attrs);
    int kernel[3];
    axes_of(&call->out[0].desc, kernel);
    conv_args a = shape_of(&attrs->conv, &call->in[0].desc, &call->in[1].desc, kernel);
    a.rows = (int)call->in[1].desc.dims[1];
    const int64_t tiles =
        (int64_t)((a.rows + TILE - 1) / TILE) * ((a.channels + TILE - 1) / TILE) * a.taps;
    a.steps = a.batch * ((a.positions + CONV_CHUNK - 1) / CONV_CHUNK);
    int64_t splits = (BLOCKS + tiles - 1) / tiles;
    if (splits > a.steps / LEAST) splits = a.steps / LEAST;
    a.splits = splits < 1 ? 1 : (int)splits;
    return a;
}

/* The parts added up in their order, and from [tap][row][channel] to [row][channel][tap]. */
template <typename T>
static __global__ void conv_join(const float *parts, T *dw, int splits, int taps, int64_t plane) {
    const int64_t index = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= plane * taps) return;
    const int64_t count = plane * taps;
    float sum = 0.0f;
    for (int i = 0; i < splits; i++) sum += parts[i * count + index];
    dw[index % plane * taps + index / plane] = kin_rounded<T>(sum);
}

kin_status conv_join_parts(kin_device *device, kin_commands *commands, const kin_call *call,
                           const conv_args *a) {
    const int64_t plane = (int64_t)a->rows * a->channels;
    return kin_with_real(call->out[0].desc.dtype, [&](auto target) {
        return kin_cuda_launch(device, commands, conv_join<decltype(target)>,
                               dim3(kin_cuda_blocks(plane * a->taps, 256)), dim3(256), 0, a->y,
                               kin_cuda_address(&call->out[0]), a->splits, a->taps, plane);
    });
}

size_t conv_weight_scratch(const kin_device *device, const kin_call *call) {
    (void)device;
    const conv_args a = conv_weight_shape(call);
    return (size_t)a.splits * a.taps * a.rows * a.channels * sizeof(float);
}

/* dy has the storage of x. */
bool conv_can_weight(const kin_device *device, const kin_call *call) {
    return conv_can_input(device, call) && call->in[0].desc.dtype == call->in[1].desc.dtype;
}

kin_status conv_launch_weight(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_dtype dtype = call->in[0].desc.dtype;
    conv_args a = conv_weight_shape(call);
    a.x = kin_cuda_address(&call->in[0]);
    a.w = kin_cuda_address(&call->in[1]);
    a.y = kin_cuda_scratch(call, 0);
    kin_status status = dtype == KIN_F32 ? conv_plain_weight(device, commands, &a)
                                         : conv_mma_weight(device, commands, dtype, &a);
    return status == KIN_OK ? conv_join_parts(device, commands, call, &a) : status;
}

KIN_CUDA_ROWS(conv) = {
    {"conv", "cuda_conv", 0, 0, conv_can_forward, conv_forward_scratch, conv_launch_forward},
    {"conv_grad_input", "cuda_conv_grad_input", 0, 0, conv_can_input, conv_input_scratch,
     conv_launch_input},
    {"conv_grad_weight", "cuda_conv_grad_weight", 0, 0, conv_can_weight, conv_weight_scratch,
     conv_launch_weight},
    {},
};
