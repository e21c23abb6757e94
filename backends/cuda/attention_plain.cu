/* attention and attention_grad in f32, for any storage: f32 models, heads that are no multiple of
 * 8 or larger than 128, and rows that do not lie at multiples of 16 bytes.
 *
 * A block of 16 x 16 threads has TILE = 16 R rows (queries; keys in grad_key) of one head, and
 * walks over the other side TILE columns at a time: scores of a tile into shared memory, then
 * their product with rows that are read where they lie. A thread has R x R scores and R x D / 16
 * results. */
#include "backends/cuda/attention.cuh"

enum { SIDE = 16, THREADS = SIDE * SIDE, CHUNK = 16 };

static __device__ __forceinline__ float element(const void *data, int64_t at, int dtype) {
    if (dtype == KIN_F32) return static_cast<const float *>(data)[at];
    if (dtype == KIN_BF16) return kin_value(static_cast<const kin_bf16 *>(data)[at]);
    return kin_value(static_cast<const kin_f16 *>(data)[at]);
}

static __device__ __forceinline__ void put(void *data, int64_t at, int dtype, float value) {
    if (dtype == KIN_F32) static_cast<float *>(data)[at] = value;
    else if (dtype == KIN_BF16) static_cast<kin_bf16 *>(data)[at] = kin_rounded<kin_bf16>(value);
    else static_cast<kin_f16 *>(data)[at] = kin_rounded<kin_f16>(value);
}

/* Rows of one head from `first` on: element c of row r is data[start + r step + c]. */
struct head_rows {
    void *data;
    int64_t start, step;
};

static __device__ __forceinline__ head_rows head_of(const attention_rows &rows, attention_place at,
                                                    int first) {
    head_rows head;
    head.data = rows.data;
    head.step = rows.steps[2];
    head.start = at.i0 * rows.steps[0] + at.i1 * rows.steps[1] + at.h * rows.steps[3] +
                 first * rows.steps[2];
    return head;
}

template <int R> struct plain_shared {
    float left[CHUNK][SIDE * R + 1], right[CHUNK][SIDE * R + 1], p[SIDE * R][SIDE * R + 1];
    float top[SIDE * R], total[SIDE * R], factor[SIDE * R];
};

/* sum[i][j] = product of row y + i SIDE of `left` and row x + j SIDE of `right`; rows from the
 * count on are 0. */
template <int R>
static __device__ __forceinline__ void dot_tile(plain_shared<R> &shared, float (&sum)[R][R],
                                                head_rows left, int left_count, head_rows right,
                                                int right_count, int size, int dtype) {
    const int thread = (int)threadIdx.x, x = thread % SIDE, y = thread / SIDE;
#pragma unroll
    for (int i = 0; i < R; i++)
#pragma unroll
        for (int j = 0; j < R; j++) sum[i][j] = 0.0f;
    for (int d = 0; d < size; d += CHUNK) {
        for (int at = thread; at < SIDE * R * CHUNK; at += THREADS) {
            const int row = at / CHUNK, c = at % CHUNK;
            const bool inside = d + c < size;
            shared.left[c][row] =
                inside && row < left_count
                    ? element(left.data, left.start + row * left.step + d + c, dtype)
                    : 0.0f;
            shared.right[c][row] =
                inside && row < right_count
                    ? element(right.data, right.start + row * right.step + d + c, dtype)
                    : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int c = 0; c < CHUNK; c++)
#pragma unroll
            for (int i = 0; i < R; i++)
#pragma unroll
                for (int j = 0; j < R; j++)
                    sum[i][j] = fmaf(shared.left[c][y + i * SIDE], shared.right[c][x + j * SIDE],
                                     sum[i][j]);
        __syncthreads();
    }
}

/* out[i][e] += sum over c < count of p[y + i SIDE][c] rows[c][x + e SIDE]. */
template <int R, int OWN>
static __device__ __forceinline__ void add_tile(float (&out)[R][OWN], const plain_shared<R> &shared,
                                                head_rows rows, int count, int size, int dtype) {
    const int x = (int)threadIdx.x % SIDE, y = (int)threadIdx.x / SIDE;
    for (int c = 0; c < count; c++) {
        float p[R];
#pragma unroll
        for (int i = 0; i < R; i++) p[i] = shared.p[y + i * SIDE][c];
#pragma unroll
        for (int e = 0; e < OWN; e++) {
            const int d = x + e * SIDE;
            const float value =
                d < size ? element(rows.data, rows.start + c * rows.step + d, dtype) : 0.0f;
#pragma unroll
            for (int i = 0; i < R; i++) out[i][e] = fmaf(p[i], value, out[i][e]);
        }
    }
}

template <int R, int OWN> static __device__ __forceinline__ void clear(float (&out)[R][OWN]) {
#pragma unroll
    for (int i = 0; i < R; i++)
#pragma unroll
        for (int e = 0; e < OWN; e++) out[i][e] = 0.0f;
}

template <int R, int OWN>
static __device__ __forceinline__ void store_tile(head_rows to, const float (&out)[R][OWN],
                                                  const float (&factor)[R], int count, int size,
                                                  int dtype) {
    const int x = (int)threadIdx.x % SIDE, y = (int)threadIdx.x / SIDE;
#pragma unroll
    for (int i = 0; i < R; i++)
#pragma unroll
        for (int e = 0; e < OWN; e++)
            if (y + i * SIDE < count && x + e * SIDE < size)
                put(to.data, to.start + (y + i * SIDE) * to.step + x + e * SIDE, dtype,
                    out[i][e] * factor[i]);
}

/* A score in powers of 2. */
static __device__ __forceinline__ float score_of(const attention_args &a, float product,
                                                 int64_t bias_start, int query, int key) {
    const float score = product * (a.scale * ATTENTION_LOG2_E);
    return a.bias == nullptr ? score : score + attention_bias_of(a, bias_start, query, key);
}

template <int DMAX, int R>
static __global__ void __launch_bounds__(THREADS)
    attention_forward_plain(attention_args a, int dtype) {
    enum { TILE = SIDE * R };
    __shared__ plain_shared<R> shared;
    const int thread = (int)threadIdx.x, x = thread % SIDE, y = thread / SIDE;
    const int tiles = (a.queries + TILE - 1) / TILE, first = (int)(blockIdx.x % tiles) * TILE;
    const attention_place at = attention_place_of(a, blockIdx.x / tiles);
    const int keys = attention_limit(a, at), rows = min((int)TILE, a.queries - first);
    const int64_t bias_start = attention_bias_start(a, at);
    const head_rows q = head_of(a.q, at, first);
    float out[R][DMAX / SIDE], sum[R][R], factor[R];
    clear(out);
    if (thread < TILE) {
        shared.top[thread] = -INFINITY;
        shared.total[thread] = 0.0f;
    }
    for (int key = 0; key < keys; key += TILE) {
        const int count = min((int)TILE, keys - key);
        dot_tile(shared, sum, q, rows, head_of(a.k, at, key), count, a.size, dtype);
#pragma unroll
        for (int i = 0; i < R; i++)
#pragma unroll
            for (int j = 0; j < R; j++) {
                const int row = y + i * SIDE, column = x + j * SIDE;
                shared.p[row][column] =
                    row < rows && column < count
                        ? score_of(a, sum[i][j], bias_start, first + row, key + column)
                        : -INFINITY;
            }
        __syncthreads();
        if (thread < TILE) {
            float top = shared.top[thread];
            for (int c = 0; c < TILE; c++) top = fmaxf(top, shared.p[thread][c]);
            const float base = attention_base(top), shrink = exp2f(shared.top[thread] - base);
            float total = shared.total[thread] * shrink;
            for (int c = 0; c < TILE; c++) {
                const float weight = exp2f(shared.p[thread][c] - base);
                shared.p[thread][c] = weight;
                total += weight;
            }
            shared.top[thread] = top;
            shared.total[thread] = total;
            shared.factor[thread] = shrink;
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < R; i++)
#pragma unroll
            for (int e = 0; e < DMAX / SIDE; e++) out[i][e] *= shared.factor[y + i * SIDE];
        add_tile(out, shared, head_of(a.v, at, key), count, a.size, dtype);
        __syncthreads();
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < R; i++) {
        const float total = shared.total[y + i * SIDE];
        factor[i] = total > 0.0f ? 1.0f / total : 0.0f;
    }
    store_tile(head_of(a.o, at, first), out, factor, rows, a.size, dtype);
    if (thread < rows)
        a.lse[attention_lse_at(a, at) + first + thread] =
            shared.total[thread] > 0.0f ? shared.top[thread] + log2f(shared.total[thread])
                                        : -INFINITY;
}

/* delta = sum o d_o - d_lse log2(e), one warp for each query of each head. */
static __global__ void attention_delta(attention_args a, int64_t count, int dtype) {
    const int lane = (int)threadIdx.x % 32;
    const int64_t index = (int64_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (index >= count) return;
    /* tokens outside, heads inside: neighbouring warps read neighbouring memory */
    const int h = (int)(index % a.heads);
    const int query = (int)(index / a.heads % a.queries);
    const int64_t batch = index / a.heads / a.queries;
    const attention_place at = {(int)(batch / a.b1), (int)(batch % a.b1), h};
    const head_rows o = head_of(a.o, at, query), d_o = head_of(a.d_o, at, query);
    float sum = 0.0f;
    for (int d = lane; d < a.size; d += 32)
        sum =
            fmaf(element(o.data, o.start + d, dtype), element(d_o.data, d_o.start + d, dtype), sum);
    sum = kin_warp_sum(sum);
    const int64_t place = attention_lse_at(a, at) + query;
    if (lane == 0)
        a.delta[place] = a.d_lse == nullptr ? sum : sum - a.d_lse[place] * ATTENTION_LOG2_E;
}

template <int DMAX, int R>
static __global__ void __launch_bounds__(THREADS)
    attention_grad_query_plain(attention_args a, int dtype) {
    enum { TILE = SIDE * R };
    __shared__ plain_shared<R> shared;
    const int x = (int)threadIdx.x % SIDE, y = (int)threadIdx.x / SIDE;
    const int tiles = (a.queries + TILE - 1) / TILE, first = (int)(blockIdx.x % tiles) * TILE;
    const attention_place at = attention_place_of(a, blockIdx.x / tiles);
    const int keys = attention_limit(a, at), rows = min((int)TILE, a.queries - first);
    const int64_t bias_start = attention_bias_start(a, at);
    const head_rows q = head_of(a.q, at, first), d_o = head_of(a.d_o, at, first);
    float out[R][DMAX / SIDE], s[R][R], d_p[R][R], base[R], delta[R], factor[R];
    clear(out);
#pragma unroll
    for (int i = 0; i < R; i++) {
        const int64_t place = attention_lse_at(a, at) + min(first + y + i * SIDE, a.queries - 1);
        base[i] = attention_base(a.lse[place]);
        delta[i] = a.delta[place];
        factor[i] = a.scale;
    }
    for (int key = 0; key < keys; key += TILE) {
        const int count = min((int)TILE, keys - key);
        const head_rows k = head_of(a.k, at, key);
        dot_tile(shared, s, q, rows, k, count, a.size, dtype);
        dot_tile(shared, d_p, d_o, rows, head_of(a.v, at, key), count, a.size, dtype);
#pragma unroll
        for (int i = 0; i < R; i++)
#pragma unroll
            for (int j = 0; j < R; j++) {
                const int row = y + i * SIDE, column = x + j * SIDE;
                float d_s = 0.0f;
                if (row < rows && column < count)
                    d_s = exp2f(score_of(a, s[i][j], bias_start, first + row, key + column) -
                                base[i]) *
                          (d_p[i][j] - delta[i]);
                shared.p[row][column] = d_s;
            }
        __syncthreads();
        add_tile(out, shared, k, count, a.size, dtype);
        __syncthreads();
    }
    store_tile(head_of(a.d_q, at, first), out, factor, rows, a.size, dtype);
}

template <int DMAX, int R>
static __global__ void __launch_bounds__(THREADS)
    attention_grad_key_plain(attention_args a, int dtype) {
    enum { TILE = SIDE * R };
    __shared__ plain_shared<R> shared;
    const int x = (int)threadIdx.x % SIDE, y = (int)threadIdx.x / SIDE;
    const int tiles = (a.keys + TILE - 1) / TILE, first = (int)(blockIdx.x % tiles) * TILE;
    const attention_place at = attention_place_of(a, blockIdx.x / tiles);
    const int limit = attention_limit(a, at), rows = min((int)TILE, a.keys - first);
    const int queries = first < limit ? a.queries : 0;
    const int64_t bias_start = attention_bias_start(a, at);
    const head_rows k = head_of(a.k, at, first), v = head_of(a.v, at, first);
    float d_k[R][DMAX / SIDE], d_v[R][DMAX / SIDE], s[R][R], d_p[R][R], by_scale[R], by_one[R];
    clear(d_k);
    clear(d_v);
#pragma unroll
    for (int i = 0; i < R; i++) {
        by_scale[i] = a.scale;
        by_one[i] = 1.0f;
    }
    for (int query = 0; query < queries; query += TILE) {
        const int count = min((int)TILE, queries - query);
        const head_rows q = head_of(a.q, at, query), d_o = head_of(a.d_o, at, query);
        dot_tile(shared, s, k, rows, q, count, a.size, dtype);
        dot_tile(shared, d_p, v, rows, d_o, count, a.size, dtype);
#pragma unroll
        for (int j = 0; j < R; j++) {
            const int column = x + j * SIDE;
            const int64_t place = attention_lse_at(a, at) + min(query + column, a.queries - 1);
            const float base = attention_base(a.lse[place]), delta = a.delta[place];
#pragma unroll
            for (int i = 0; i < R; i++) {
                const int row = y + i * SIDE;
                s[i][j] =
                    first + row < limit && column < count
                        ? exp2f(score_of(a, s[i][j], bias_start, query + column, first + row) -
                                base)
                        : 0.0f;
                d_p[i][j] = s[i][j] * (d_p[i][j] - delta);
                shared.p[row][column] = s[i][j];
            }
        }
        __syncthreads();
        add_tile(d_v, shared, d_o, count, a.size, dtype);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < R; i++)
#pragma unroll
            for (int j = 0; j < R; j++) shared.p[y + i * SIDE][x + j * SIDE] = d_p[i][j];
        __syncthreads();
        add_tile(d_k, shared, q, count, a.size, dtype);
        __syncthreads();
    }
    store_tile(head_of(a.d_k, at, first), d_k, by_scale, rows, a.size, dtype);
    store_tile(head_of(a.d_v, at, first), d_v, by_one, rows, a.size, dtype);
}

struct bias_dims {
    int at[5]; /* batch, batch, head, query, key: 1 where the bias repeats */
};

/* One warp for each element of the bias: the sum of ds over all scores that it was added to. */
static __global__ void attention_grad_bias(attention_args a, bias_dims dims, void *out,
                                           int64_t count, int dtype) {
    const int lane = (int)threadIdx.x % 32;
    const int64_t index = (int64_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (index >= count) return;
    const int full[5] = {a.b0, a.b1, a.heads, a.queries, a.keys};
    int first[5];
    int64_t rest = index, terms = 1;
    for (int i = 4; i >= 0; i--) {
        first[i] = (int)(rest % dims.at[i]);
        rest /= dims.at[i];
        if (dims.at[i] == 1) terms *= full[i];
    }
    float sum = 0.0f;
    for (int64_t term = lane; term < terms; term += 32) {
        int place[5];
        rest = term;
        for (int i = 4; i >= 0; i--) {
            place[i] = first[i];
            if (dims.at[i] != 1) continue;
            place[i] = (int)(rest % full[i]);
            rest /= full[i];
        }
        const attention_place at = {place[0], place[1], place[2]};
        if (place[4] >= attention_limit(a, at)) continue;
        const head_rows q = head_of(a.q, at, place[3]), d_o = head_of(a.d_o, at, place[3]);
        const head_rows k = head_of(a.k, at, place[4]), v = head_of(a.v, at, place[4]);
        float s = 0.0f, d_p = 0.0f;
        for (int d = 0; d < a.size; d++) {
            s = fmaf(element(q.data, q.start + d, dtype), element(k.data, k.start + d, dtype), s);
            d_p = fmaf(element(d_o.data, d_o.start + d, dtype), element(v.data, v.start + d, dtype),
                       d_p);
        }
        const int64_t row = attention_lse_at(a, at) + place[3];
        const float score = score_of(a, s, attention_bias_start(a, at), place[3], place[4]);
        sum += exp2f(score - attention_base(a.lse[row])) * (d_p - a.delta[row]);
    }
    sum = kin_warp_sum(sum);
    if (lane == 0) put(out, index, a.bias_dtype, sum);
}

/* ---- launches ---- */

static int64_t heads_of(const attention_args *args) {
    return (int64_t)args->b0 * args->b1 * args->heads;
}

typedef void (*plain_kernel)(attention_args, int);

/* By the size of a head: the rows of a block, and the three kernels. */
static const struct {
    int most, tile;
    plain_kernel forward, query, key;
} plain_variants[] = {
#define VARIANT(most, r)                                                                           \
    {                                                                                              \
        most, SIDE *r, attention_forward_plain<most, r>, attention_grad_query_plain<most, r>,      \
            attention_grad_key_plain<most, r>                                                      \
    }
    VARIANT(64, 4), VARIANT(80, 4), VARIANT(128, 4), VARIANT(256, 2), VARIANT(512, 2),
#undef VARIANT
};

static int variant_of(const attention_args *args) {
    int i = 0;
    while (plain_variants[i].most < args->size) i++;
    return i;
}

static kin_status start(kin_device *device, kin_commands *commands, plain_kernel kernel,
                        const attention_args *args, int rows, int tile, kin_dtype dtype) {
    const int64_t blocks = heads_of(args) * ((rows + tile - 1) / tile);
    return kin_cuda_launch(device, commands, kernel, dim3(kin_cuda_blocks(blocks, 1)),
                           dim3(THREADS), 0, *args, (int)dtype);
}

kin_status attention_plain_forward(kin_device *device, kin_commands *commands, kin_dtype dtype,
                                   const attention_args *args) {
    const int i = variant_of(args);
    return start(device, commands, plain_variants[i].forward, args, args->queries,
                 plain_variants[i].tile, dtype);
}

kin_status attention_plain_delta(kin_device *device, kin_commands *commands, kin_dtype dtype,
                                 const attention_args *args) {
    const int64_t count = heads_of(args) * args->queries;
    return kin_cuda_launch(device, commands, attention_delta,
                           dim3(kin_cuda_blocks(count, THREADS / 32)), dim3(THREADS), 0, *args,
                           count, (int)dtype);
}

kin_status attention_plain_grad(kin_device *device, kin_commands *commands, kin_dtype dtype,
                                const attention_args *args) {
    const int i = variant_of(args);
    kin_status status = start(device, commands, plain_variants[i].query, args, args->queries,
                              plain_variants[i].tile, dtype);
    if (status != KIN_OK) return status;
    return start(device, commands, plain_variants[i].key, args, args->keys, plain_variants[i].tile,
                 dtype);
}

kin_status attention_plain_bias(kin_device *device, kin_commands *commands, kin_dtype dtype,
                                const attention_args *args, const int dims[5], void *out) {
    bias_dims sizes;
    int64_t count = 1;
    for (int i = 0; i < 5; i++) {
        sizes.at[i] = dims[i];
        count *= dims[i];
    }
    return kin_cuda_launch(device, commands, attention_grad_bias,
                           dim3(kin_cuda_blocks(count, THREADS / 32)), dim3(THREADS), 0, *args,
                           sizes, out, count, (int)dtype);
}
