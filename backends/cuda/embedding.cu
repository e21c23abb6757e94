/* embedding, embedding_grad and timestep_embedding. */
#include "backends/cuda/launch.cuh"
#include "ops/embedding_attrs.h"

#include <math.h>

namespace {

enum { THREADS = 256, WARPS = THREADS / 32 };

static __device__ __forceinline__ int64_t id_of(const kin_ref &ids, int64_t i) {
    return ids.dtype == KIN_I64 ? static_cast<const int64_t *>(ids.data)[i]
                                : (int64_t) static_cast<const int32_t *>(ids.data)[i];
}

static __global__ void __launch_bounds__(THREADS)
    lookup(kin_ref table, kin_ref ids, kin_ref y, int64_t rows, int64_t width, int64_t count) {
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= count) return;
    const int64_t id = id_of(ids, i / width), at = id * width + i % width;
    float value = NAN;
    if (id >= 0 && id < rows)
        value = table.dtype == KIN_Q8_0 ? kin_get_q8_0(table.data, at) : kin_get(table, at);
    kin_put(y, i, value);
}

/* A warp has 32 columns of one row of the table. It goes through all ids, 32 at a time, and adds
 * the rows that have its id in their order. */
static __global__ void __launch_bounds__(THREADS)
    scatter(kin_ref dy, kin_ref ids, kin_ref y, int64_t rows, int64_t width, int64_t id_count) {
    const int64_t item = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    const int64_t blocks = (width + 31) / 32, row = item / blocks;
    const int lane = (int)threadIdx.x % 32;
    const int64_t column = item % blocks * 32 + lane;
    float sum = 0;
    if (row >= rows) return; /* the whole warp */
    for (int64_t first = 0; first < id_count; first += 32) {
        const bool mine = first + lane < id_count && id_of(ids, first + lane) == row;
        unsigned found = __ballot_sync(0xffffffffu, mine);
        while (found != 0) {
            const int64_t at = first + __ffs((int)found) - 1;
            found &= found - 1;
            if (column < width) sum += kin_get(dy, at * width + column);
        }
    }
    if (column < width) kin_put(y, row * width + column, sum);
}

/* t [B] -> cos and sin of t f_k. turns holds f_k / (2 pi) as two floats, high and low, and the
 * product is formed with its rounding error, so that whole turns fall off exactly. */
static __global__ void __launch_bounds__(THREADS)
    features(kin_ref t_in, const float *__restrict__ turns, float *__restrict__ y, int64_t dim,
             int64_t count) {
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, half_dim = dim / 2;
    if (i >= count) return;
    const int64_t column = i % dim, k = half_dim > 0 ? column % half_dim : 0;
    if (column >= 2 * half_dim) {
        y[i] = 0;
        return;
    }
    float t = kin_get(t_in, i / dim), t_low = 0;
    if (t_in.dtype == KIN_I64 || t_in.dtype == KIN_I32) {
        const int64_t given = id_of(t_in, i / dim);
        t_low = (float)(given - (int64_t)t);
    }
    const float high = turns[2 * k], low = turns[2 * k + 1];
    const float product = __fmul_rn(t, high);
    const float error = fmaf(t, high, -product) + t * low + t_low * high;
    float turn = (product - rintf(product)) + error;
    turn -= rintf(turn);
    y[i] =
        column < half_dim ? cosf(6.28318530717958648f * turn) : sinf(6.28318530717958648f * turn);
}

/* ---- host ---- */

static bool are_ids(const kin_operand *operand) {
    return operand->desc.dtype == KIN_I64 || operand->desc.dtype == KIN_I32;
}

static bool can_lookup(const kin_device *device, const kin_call *call) {
    (void)device;
    const kin_desc *table = &call->in[0].desc;
    if (table->dtype == KIN_Q8_0 && table->dims[1] % 32 != 0) return false;
    return (table->dtype == KIN_Q8_0 || kin_cuda_is_real(table->dtype)) && are_ids(&call->in[1]) &&
           kin_cuda_is_real(call->out[0].desc.dtype);
}

static kin_status launch_lookup(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_desc *table = &call->in[0].desc;
    const int64_t count = kin_desc_count(&call->out[0].desc);
    return kin_cuda_launch(device, commands, lookup, dim3(kin_cuda_blocks(count, THREADS)),
                           dim3(THREADS), 0, kin_ref_of(&call->in[0]), kin_ref_of(&call->in[1]),
                           kin_ref_of(&call->out[0]), table->dims[0], table->dims[1], count);
}

static bool can_scatter(const kin_device *device, const kin_call *call) {
    (void)device;
    return kin_cuda_is_real(call->in[0].desc.dtype) && are_ids(&call->in[1]) &&
           kin_cuda_is_real(call->out[0].desc.dtype);
}

static kin_status launch_scatter(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_desc *out = &call->out[0].desc;
    const int64_t items = out->dims[0] * ((out->dims[1] + 31) / 32);
    return kin_cuda_launch(device, commands, scatter, dim3(kin_cuda_blocks(items, WARPS)),
                           dim3(THREADS), 0, kin_ref_of(&call->in[0]), kin_ref_of(&call->in[1]),
                           kin_ref_of(&call->out[0]), out->dims[0], out->dims[1],
                           kin_desc_count(&call->in[1].desc));
}

/* f_k / (2 pi), f_k = max_period^(-k / half), as pairs of floats. */
static kin_status make_turns(kin_device *device, kin_commands *commands,
                             const kin_timestep_embedding_attrs *attrs, void **out_table) {
    const int64_t half_dim = attrs->dim / 2;
    const size_t bytes = (size_t)half_dim * 2 * sizeof(float);
    float *turns = static_cast<float *>(kin_alloc(device->context, bytes));
    if (turns == nullptr) return KIN_OUT_OF_MEMORY;
    for (int64_t k = 0; k < half_dim; k++) {
        const double turn =
            pow(attrs->max_period, -(double)k / (double)half_dim) / 6.283185307179586;
        turns[2 * k] = (float)turn;
        turns[2 * k + 1] = (float)(turn - (double)turns[2 * k]);
    }
    kin_status status = kin_cuda_table(device, commands, turns, bytes, out_table);
    kin_free(device->context, turns);
    return status;
}

static bool can_features(const kin_device *device, const kin_call *call) {
    (void)device;
    const kin_dtype dtype = call->in[0].desc.dtype;
    return (kin_cuda_is_real(dtype) || dtype == KIN_I32 || dtype == KIN_I64) &&
           call->out[0].desc.dtype == KIN_F32;
}

static kin_status launch_features(kin_device *device, kin_commands *commands,
                                  const kin_call *call) {
    const kin_timestep_embedding_attrs *attrs =
        static_cast<const kin_timestep_embedding_attrs *>(call->attrs);
    const int64_t count = kin_desc_count(&call->out[0].desc);
    void *turns = nullptr;
    kin_status status = make_turns(device, commands, attrs, &turns);
    if (status != KIN_OK) return status;
    return kin_cuda_launch(
        device, commands, features, dim3(kin_cuda_blocks(count, THREADS)), dim3(THREADS), 0,
        kin_ref_of(&call->in[0]), static_cast<const float *>(turns),
        static_cast<float *>(kin_cuda_address(&call->out[0])), attrs->dim, count);
}

} // namespace

KIN_CUDA_ROWS(embedding) = {
    {"embedding", "cuda_embedding", 0, 0, can_lookup, nullptr, launch_lookup},
    {"embedding_grad", "cuda_embedding_grad", 0, 0, can_scatter, nullptr, launch_scatter},
    {"timestep_embedding", "cuda_timestep_embedding", 0, 0, can_features, nullptr, launch_features},
    {},
};
