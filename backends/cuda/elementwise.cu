/* Element-wise ops: each function of ops/elementwise_expr.h over up to three operands of any dtype
 * and strides. A thread takes 8 elements that lie side by side where the shape allows it, else one.
 * The limit is memory bandwidth. */
#include "backends/cuda/elementwise.cuh"
#include "backends/cuda/launch.cuh"
#include "backends/cuda/places.cuh"
#include "ops/elementwise_attrs.h"

#include <string.h>

namespace {

/* A function, and how it reads its operands a, b, c and the attributes p, q. */
#define MAPPED(type, names, value_of)                                                              \
    struct type {                                                                                  \
        static __device__ __forceinline__ float value(float a, float b, float c, float p,          \
                                                      float q) {                                   \
            (void)a, (void)b, (void)c, (void)p, (void)q;                                           \
            names;                                                                                 \
            return value_of;                                                                       \
        }                                                                                          \
    };
#define UNARY(name, value_of, slope)                                                               \
    MAPPED(f_##name, const float x = a, value_of)                                                  \
    MAPPED(f_##name##_grad, const float x = a, b * (slope))
#define AFFINE(name, value_of) MAPPED(f_##name, const float x = a, value_of)
#define DIRECT(name, value_of) MAPPED(f_##name, , value_of)
#define PAIR(name, first, second)                                                                  \
    MAPPED(f_##name, , first)                                                                      \
    MAPPED(f_##name##_second, , second)

KX_UNARY(UNARY)
KX_AFFINE(AFFINE)
KX_BINARY(DIRECT)
KX_TERNARY(DIRECT)
KX_TERNARY_PAIR(PAIR)
struct f_none {};

enum { THREADS = 256, PACK = 8 };

struct map_operands {
    kin_ref in[3], out[2];
    float p, q;
};

/* N elements from `place`, or one that is repeated. */
template <int N>
static __device__ __forceinline__ void fetch(const kin_ref &ref, int64_t place, bool repeated,
                                             float (&out)[N]) {
    if (N > 1 && repeated) {
        const float one = kin_get(ref, place);
#pragma unroll
        for (int i = 0; i < N; i++) out[i] = one;
    } else {
        kin_get_pack_of_any<N>(ref, place, out);
    }
}

/* The shape counts in packs of N. */
template <typename F, typename SECOND, int INPUTS, int N>
static __global__ void __launch_bounds__(THREADS) map(map_operands o, kin_cuda_shape shape) {
    const int64_t index = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (index >= shape.count) return;
    int64_t places[INPUTS];
    float in[3][N] = {}, out[N];
    kin_places(shape, index, places);
#pragma unroll
    for (int j = 0; j < INPUTS; j++)
        fetch<N>(o.in[j], places[j], shape.rank > 0 && shape.strides[j][shape.rank - 1] == 0,
                 in[j]);
#pragma unroll
    for (int i = 0; i < N; i++) out[i] = F::value(in[0][i], in[1][i], in[2][i], o.p, o.q);
    kin_put_pack<N>(o.out[0], index * N, out);
    if constexpr (!std::is_same_v<SECOND, f_none>) {
#pragma unroll
        for (int i = 0; i < N; i++) out[i] = SECOND::value(in[0][i], in[1][i], in[2][i], o.p, o.q);
        kin_put_pack<N>(o.out[1], index * N, out);
    }
}

static bool is_read(kin_dtype dtype) {
    return kin_cuda_is_real(dtype) || dtype == KIN_I32 || dtype == KIN_I64 || dtype == KIN_U8 ||
           dtype == KIN_BOOL;
}

static bool can_map(const kin_device *device, const kin_call *call) {
    (void)device;
    for (int i = 0; i < call->in_count; i++)
        if (kin_cuda_is_absent(&call->in[i]) || !is_read(call->in[i].desc.dtype)) return false;
    return kin_cuda_is_real(call->out[0].desc.dtype);
}

static bool has_attrs(const char *name) {
    return strcmp(name, "scale") == 0 || strncmp(name, "clamp", 5) == 0;
}

static bool all_aligned(const kin_call *call) {
    for (int i = 0; i < call->in_count; i++)
        if (!kin_cuda_is_aligned(&call->in[i])) return false;
    for (int j = 0; j < call->out_count; j++)
        if (!kin_cuda_is_aligned(&call->out[j])) return false;
    return true;
}

template <typename F, typename SECOND, int INPUTS>
static kin_status launch_map(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_desc *in[KIN_CUDA_SHAPE_OPERANDS] = {};
    map_operands o = {};
    for (int i = 0; i < INPUTS; i++) {
        in[i] = &call->in[i].desc;
        o.in[i] = kin_ref_of(&call->in[i]);
    }
    for (int j = 0; j < call->out_count; j++) o.out[j] = kin_ref_of(&call->out[j]);
    if (has_attrs(call->op)) {
        const kin_elementwise_attrs *attrs =
            static_cast<const kin_elementwise_attrs *>(call->attrs);
        o.p = (float)attrs->p;
        o.q = (float)attrs->q;
    }
    const kin_desc *out = &call->out[0].desc;
    const kin_cuda_shape shape = kin_cuda_shape_of(out->rank, out->dims, INPUTS, in);
    if (!all_aligned(call) || !kin_cuda_shape_has_packs(&shape))
        return kin_cuda_launch(device, commands, map<F, SECOND, INPUTS, 1>,
                               dim3(kin_cuda_blocks(shape.count, THREADS)), dim3(THREADS), 0, o,
                               shape);
    const kin_cuda_shape packs = kin_cuda_shape_in_packs(&shape);
    return kin_cuda_launch(device, commands, map<F, SECOND, INPUTS, PACK>,
                           dim3(kin_cuda_blocks(packs.count, THREADS)), dim3(THREADS), 0, o, packs);
}

/* sum + x of the dtypes of a training step: the same as add, on variables. */
static kin_status accumulate(kin_device *device, kin_commands *commands, const kin_call *call) {
    return launch_map<f_add, f_none, 2>(device, commands, call);
}

/* The result may lie on any operand of its size: an element is read before it is written. */
#define ROW(name, inputs, second)                                                                  \
    {#name, "cuda_" #name, 7, 7, can_map, nullptr, launch_map<f_##name, second, inputs>},
#define ROW_UNARY(name, ...) ROW(name, 1, f_none)
#define ROW_GRAD(name, ...) ROW(name##_grad, 2, f_none)
#define ROW_BINARY(name, ...) ROW(name, 2, f_none)
#define ROW_TERNARY(name, ...) ROW(name, 3, f_none)
#define ROW_PAIR(name, ...) ROW(name, 3, f_##name##_second)

} // namespace

KIN_CUDA_ROWS(elementwise) = {
    KX_UNARY(ROW_UNARY) KX_UNARY(ROW_GRAD) KX_AFFINE(ROW_UNARY) KX_BINARY(ROW_BINARY)
        KX_TERNARY(ROW_TERNARY) KX_TERNARY_PAIR(ROW_PAIR){"accumulate", "cuda_accumulate", 0, 1,
                                                          can_map, nullptr, accumulate},
    {},
};
