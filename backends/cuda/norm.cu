/* Layer norm, its modulated form, RMS norm, and their gradients. All but the gradients of the
 * vectors are limited by memory bandwidth: a row is read from memory once and from cache again. */
#include "backends/cuda/rows.cuh"
#include "ops/norm_attrs.h"

namespace {

enum { KEPT = 5, CHUNK_ROWS = 64, MOST_CHUNKS = 128, COLUMN_THREADS = 128 };

/* What the ops of the family have in common, by value. A factor (w) and what is added (b) may be
 * absent; they repeat after `w_stride` and `b_stride` elements for each sample. */
struct norm_job {
    kin_ref dy, x, w, b;
    kin_cuda_rows dy_rows, x_rows;
    int64_t width, rows, sample_rows; /* rows of one sample */
    int64_t w_stride, b_stride;
    float eps;
    bool centred, plus_one; /* the mean is taken off; the factor is 1 + w */
};

template <int N>
static __device__ __forceinline__ void factors(const norm_job &job, int64_t at, float (&out)[N]) {
    if (job.w.data == nullptr) {
#pragma unroll
        for (int j = 0; j < N; j++) out[j] = 1.0f;
        return;
    }
    kin_get_pack<N>(job.w, at, out);
    if (job.plus_one) {
#pragma unroll
        for (int j = 0; j < N; j++) out[j] += 1.0f;
    }
}

template <int GROUP, int N>
static __device__ __forceinline__ kin_row_statistics statistics(const norm_job &job, int64_t from) {
    kin_row_statistics s = {0, 0, 0};
    float v[N], sum = 0, square = 0;
    if (job.centred) {
        KIN_FOR_ROW(GROUP, N, job.width) {
            kin_get_pack<N>(job.x, from + i, v);
            sum += kin_pack_sum<N>(v);
        }
        s.mean = kin_row_sum<GROUP>(sum) / (float)job.width;
        sum = 0;
    }
    KIN_FOR_ROW(GROUP, N, job.width) {
        kin_get_pack<N>(job.x, from + i, v);
#pragma unroll
        for (int j = 0; j < N; j++) {
            const float d = v[j] - s.mean;
            sum += d;
            square += d * d;
        }
    }
    float variance = kin_row_sum<GROUP>(square) / (float)job.width;
    if (job.centred) {
        s.rest = kin_row_sum<GROUP>(sum) / (float)job.width;
        variance = fmaxf(variance - s.rest * s.rest, 0.0f);
    }
    s.scale = 1.0f / sqrtf(variance + job.eps);
    return s;
}

template <int GROUP, int N>
static __global__ void __launch_bounds__(KIN_ROW_THREADS) norm(norm_job job, kin_ref y) {
    bool there;
    const int64_t row = kin_row_there<GROUP>(job.rows, &there), sample = row / job.sample_rows;
    const int64_t from = kin_row_place(job.x_rows, row), to = row * job.width;
    const kin_row_statistics s = statistics<GROUP, N>(job, from);
    float v[N], w[N], b[N] = {};
    if (!there) return;
    KIN_FOR_ROW(GROUP, N, job.width) {
        kin_get_pack<N>(job.x, from + i, v);
        factors<N>(job, sample * job.w_stride + i, w);
        if (job.b.data != nullptr) kin_get_pack<N>(job.b, sample * job.b_stride + i, b);
#pragma unroll
        for (int j = 0; j < N; j++) v[j] = kin_hat(v[j], s) * w[j] + b[j];
        kin_put_pack<N>(y, to + i, v);
    }
}

/* ---- backward: g is dy times the factor ---- */

/* A row's statistics as they lie in scratch memory: mean, rest, scale, mean of g, mean of g hat. */
template <int GROUP, int N>
static __global__ void __launch_bounds__(KIN_ROW_THREADS) norm_means(norm_job job, float *kept) {
    bool there;
    const int64_t row = kin_row_there<GROUP>(job.rows, &there), sample = row / job.sample_rows;
    const int64_t from = kin_row_place(job.x_rows, row);
    const int64_t d_from = kin_row_place(job.dy_rows, row);
    const kin_row_statistics s = statistics<GROUP, N>(job, from);
    float v[N], w[N], d[N], sum = 0, dot = 0;
    KIN_FOR_ROW(GROUP, N, job.width) {
        kin_get_pack<N>(job.x, from + i, v);
        kin_get_pack<N>(job.dy, d_from + i, d);
        factors<N>(job, sample * job.w_stride + i, w);
#pragma unroll
        for (int j = 0; j < N; j++) {
            const float g = d[j] * w[j];
            sum += g;
            dot += g * kin_hat(v[j], s);
        }
    }
    const float g_mean = kin_row_sum<GROUP>(sum) / (float)job.width;
    const float dot_mean = kin_row_sum<GROUP>(dot) / (float)job.width;
    if (!there || kin_row_item<GROUP>() != 0) return;
    kept[row * KEPT + 0] = s.mean;
    kept[row * KEPT + 1] = s.rest;
    kept[row * KEPT + 2] = s.scale;
    kept[row * KEPT + 3] = job.centred ? g_mean : 0.0f;
    kept[row * KEPT + 4] = dot_mean;
}

/* dx = scale (g - mean(g) - hat mean(g hat)); dx may lie on dy or x. */
template <int GROUP, int N>
static __global__ void __launch_bounds__(KIN_ROW_THREADS)
    norm_dx(norm_job job, const float *__restrict__ kept, kin_ref dx) {
    const int64_t row = kin_row<GROUP>();
    if (row >= job.rows) return;
    const int64_t sample = row / job.sample_rows;
    const int64_t from = kin_row_place(job.x_rows, row), to = row * job.width;
    const int64_t d_from = kin_row_place(job.dy_rows, row);
    const float *mine = kept + row * KEPT;
    const kin_row_statistics s = {mine[0], mine[1], mine[2]};
    const float g_mean = mine[3], dot_mean = mine[4];
    float v[N], w[N], d[N];
    KIN_FOR_ROW(GROUP, N, job.width) {
        kin_get_pack<N>(job.x, from + i, v);
        kin_get_pack<N>(job.dy, d_from + i, d);
        factors<N>(job, sample * job.w_stride + i, w);
#pragma unroll
        for (int j = 0; j < N; j++)
            v[j] = s.scale * (d[j] * w[j] - g_mean - kin_hat(v[j], s) * dot_mean);
        kin_put_pack<N>(dx, to + i, v);
    }
}

/* Sums of dy hat and of dy over a chunk of rows of one range, a column for each thread:
 * partial [range, chunk, 2, width]. */
static __global__ void __launch_bounds__(COLUMN_THREADS)
    norm_columns(norm_job job, const float *__restrict__ kept, float *__restrict__ partial,
                 int64_t range_rows, int64_t chunks) {
    const int64_t blocks = (job.width + COLUMN_THREADS - 1) / COLUMN_THREADS;
    const int64_t column = blockIdx.x % blocks * COLUMN_THREADS + threadIdx.x;
    const int64_t part = blockIdx.x / blocks, chunk = part % chunks, range = part / chunks;
    const int64_t first = range_rows * chunk / chunks, last = range_rows * (chunk + 1) / chunks;
    float dot = 0, sum = 0;
    if (column >= job.width) return;
    for (int64_t r = first; r < last; r++) {
        const int64_t row = range * range_rows + r;
        const kin_row_statistics s = {kept[row * KEPT], kept[row * KEPT + 1], kept[row * KEPT + 2]};
        const float g = kin_get(job.dy, kin_row_place(job.dy_rows, row) + column);
        dot += g * kin_hat(kin_get(job.x, kin_row_place(job.x_rows, row) + column), s);
        sum += g;
    }
    partial[part * 2 * job.width + column] = dot;
    partial[part * 2 * job.width + job.width + column] = sum;
}

/* Adds up the chunks of one range and column. The sum may be absent. */
static __global__ void __launch_bounds__(COLUMN_THREADS)
    norm_vectors(const float *__restrict__ partial, kin_ref dot_out, kin_ref sum_out, int64_t width,
                 int64_t chunks, int64_t count) {
    const int64_t i = (int64_t)blockIdx.x * COLUMN_THREADS + threadIdx.x;
    if (i >= count) return;
    const float *mine = partial + i / width * chunks * 2 * width + i % width;
    float dot = 0, sum = 0;
    for (int64_t chunk = 0; chunk < chunks; chunk++) {
        dot += mine[chunk * 2 * width];
        sum += mine[chunk * 2 * width + width];
    }
    kin_put(dot_out, i, dot);
    if (sum_out.data != nullptr) kin_put(sum_out, i, sum);
}

/* ---- host ---- */

static bool rows_are_dense(const kin_device *device, const kin_call *call) {
    if (!kin_cuda_can_real(device, call)) return false;
    for (int i = 0; i < call->in_count; i++)
        if (kin_cuda_has(call, i) && !kin_cuda_rows_are_dense(&call->in[i].desc)) return false;
    return true;
}

/* The job, and the operands that packs depend on. */
struct norm_call {
    norm_job job;
    const kin_operand *dy, *x, *w, *b;
    int64_t samples;
};

static const kin_operand *operand_or_null(const kin_call *call, int index) {
    return kin_cuda_has(call, index) ? &call->in[index] : nullptr;
}

/* Element 0 has no address while planning, so what is there is told by the operands. */
static norm_call call_of(const kin_call *call, int x_index, int w_index, int b_index,
                         bool centred) {
    norm_call c = {};
    c.x = &call->in[x_index];
    c.dy = x_index > 0 ? &call->in[0] : nullptr;
    c.w = w_index >= 0 ? operand_or_null(call, w_index) : nullptr;
    c.b = b_index >= 0 ? operand_or_null(call, b_index) : nullptr;
    c.samples = 1;
    c.job.x = kin_ref_of(c.x);
    c.job.x_rows = kin_cuda_rows_of(&c.x->desc);
    c.job.dy = c.dy != nullptr ? kin_ref_of(c.dy) : kin_no_ref();
    if (c.dy != nullptr) c.job.dy_rows = kin_cuda_rows_of(&c.dy->desc);
    c.job.w = c.w != nullptr ? kin_ref_of(c.w) : kin_no_ref();
    c.job.b = c.b != nullptr ? kin_ref_of(c.b) : kin_no_ref();
    c.job.width = kin_cuda_row_width(&c.x->desc);
    c.job.rows = c.job.sample_rows = kin_cuda_row_count(&c.x->desc);
    c.job.eps = (float)static_cast<const kin_norm_attrs *>(call->attrs)->eps;
    c.job.centred = centred;
    return c;
}

static int64_t sample_stride(const kin_operand *operand) {
    return operand == nullptr || operand->desc.dims[0] == 1 ? 0 : operand->desc.strides[0];
}

/* x [B, N, C] with a factor (and a shift) for each sample, or one for all. */
static norm_call modulated(const kin_call *call, int x_index, int w_index, int b_index) {
    norm_call c = call_of(call, x_index, w_index, b_index, true);
    c.job.plus_one = true;
    c.job.sample_rows = c.x->desc.dims[1];
    c.samples = c.x->desc.dims[0];
    c.job.w_stride = sample_stride(c.w);
    c.job.b_stride = sample_stride(c.b);
    return c;
}

static bool has_packs(const norm_call *c, const kin_operand *out) {
    const kin_operand *all[] = {c->x, c->dy, c->w, c->b, out};
    for (const kin_operand *operand : all)
        if (operand != nullptr && !kin_cuda_row_packs(operand)) return false;
    return c->job.w_stride % 8 == 0 && c->job.b_stride % 8 == 0;
}

static kin_status forward(kin_device *device, kin_commands *commands, const kin_call *call,
                          const norm_call &c) {
    if (c.job.width == 0 || c.job.rows == 0) return KIN_OK;
    return KIN_LAUNCH_ROWS(norm, has_packs(&c, &call->out[0]), c.job.width, c.job.rows, c.job,
                           kin_ref_of(&call->out[0]));
}

static kin_status layer_norm(kin_device *device, kin_commands *commands, const kin_call *call) {
    return forward(device, commands, call, call_of(call, 0, 1, 2, true));
}

static kin_status rms_norm(kin_device *device, kin_commands *commands, const kin_call *call) {
    return forward(device, commands, call, call_of(call, 0, 1, -1, false));
}

static kin_status modulate(kin_device *device, kin_commands *commands, const kin_call *call) {
    return forward(device, commands, call, modulated(call, 0, 2, 1));
}

/* Vectors' gradients are summed over the rows of a sample, or over all rows. */
static void ranges_of(const norm_call &c, int64_t *out_ranges, int64_t *out_rows,
                      int64_t *out_chunks) {
    const bool apart = c.job.plus_one && c.w->desc.dims[0] != 1;
    *out_ranges = apart ? c.samples : 1;
    *out_rows = *out_ranges > 0 ? c.job.rows / *out_ranges : 0;
    *out_chunks = (*out_rows + CHUNK_ROWS - 1) / CHUNK_ROWS;
    if (*out_chunks > MOST_CHUNKS) *out_chunks = MOST_CHUNKS;
    if (*out_chunks < 1) *out_chunks = 1;
}

static size_t kept_bytes(const norm_call &c) {
    return ((size_t)c.job.rows * KEPT * sizeof(float) + 255) / 256 * 256;
}

static size_t scratch_of(const norm_call &c) {
    int64_t ranges, rows, chunks;
    ranges_of(c, &ranges, &rows, &chunks);
    return kept_bytes(c) + (size_t)(ranges * chunks * 2 * c.job.width) * sizeof(float);
}

/* dot: the gradient of the factor; sum: that of what is added, or NULL. dx may lie on dy or x, so
 * it is written after the columns have been summed. */
static kin_status backward(kin_device *device, kin_commands *commands, const kin_call *call,
                           const norm_call &c, const kin_operand *dot, const kin_operand *sum) {
    const norm_job &job = c.job;
    const bool packs = has_packs(&c, &call->out[0]);
    float *kept = static_cast<float *>(kin_cuda_scratch(call, 0));
    float *partial = static_cast<float *>(kin_cuda_scratch(call, kept_bytes(c)));
    int64_t ranges, rows, chunks;
    ranges_of(c, &ranges, &rows, &chunks);
    if (job.width == 0) return KIN_OK;
    const int64_t column_blocks = (job.width + COLUMN_THREADS - 1) / COLUMN_THREADS;
    kin_status status = KIN_LAUNCH_ROWS(norm_means, packs, job.width, job.rows, job, kept);
    if (status == KIN_OK)
        status = kin_cuda_launch(device, commands, norm_columns,
                                 dim3(kin_cuda_blocks(column_blocks * ranges * chunks, 1)),
                                 dim3(COLUMN_THREADS), 0, job, static_cast<const float *>(kept),
                                 partial, rows, chunks);
    if (status == KIN_OK)
        status = KIN_LAUNCH_ROWS(norm_dx, packs, job.width, job.rows, job,
                                 static_cast<const float *>(kept), kin_ref_of(&call->out[0]));
    if (status != KIN_OK) return status;
    const int64_t count = ranges * job.width;
    return kin_cuda_launch(
        device, commands, norm_vectors, dim3(kin_cuda_blocks(count, COLUMN_THREADS)),
        dim3(COLUMN_THREADS), 0, static_cast<const float *>(partial), kin_ref_of(dot),
        sum != nullptr ? kin_ref_of(sum) : kin_no_ref(), job.width, chunks, count);
}

static size_t layer_norm_scratch(const kin_device *device, const kin_call *call) {
    (void)device;
    return scratch_of(call_of(call, 1, 2, -1, true));
}

static size_t modulate_scratch(const kin_device *device, const kin_call *call) {
    (void)device;
    return scratch_of(modulated(call, 1, 2, -1));
}

static kin_status layer_norm_grad(kin_device *device, kin_commands *commands,
                                  const kin_call *call) {
    return backward(device, commands, call, call_of(call, 1, 2, -1, true), &call->out[1],
                    &call->out[2]);
}

static kin_status rms_norm_grad(kin_device *device, kin_commands *commands, const kin_call *call) {
    return backward(device, commands, call, call_of(call, 1, 2, -1, false), &call->out[1], nullptr);
}

static kin_status modulate_grad(kin_device *device, kin_commands *commands, const kin_call *call) {
    return backward(device, commands, call, modulated(call, 1, 2, -1), &call->out[2],
                    &call->out[1]);
}

} // namespace

KIN_CUDA_ROWS(norm) = {
    {"layer_norm", "cuda_layer_norm", 1, 1, rows_are_dense, nullptr, layer_norm},
    {"layer_norm_grad", "cuda_layer_norm_grad", 3, 3, rows_are_dense, layer_norm_scratch,
     layer_norm_grad},
    {"layer_norm_modulate", "cuda_layer_norm_modulate", 7, 1, rows_are_dense, nullptr, modulate},
    {"layer_norm_modulate_grad", "cuda_layer_norm_modulate_grad", 7, 3, rows_are_dense,
     modulate_scratch, modulate_grad},
    {"rms_norm", "cuda_rms_norm", 1, 1, rows_are_dense, nullptr, rms_norm},
    {"rms_norm_grad", "cuda_rms_norm_grad", 3, 3, rows_are_dense, layer_norm_scratch,
     rms_norm_grad},
    {},
};
