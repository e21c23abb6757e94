/* attention_grad with mma: f16 and bf16, sm_80 and later. Two kernels, neither with atomics: each
 * result is one warp's sum in a fixed order, at the price of the scores and their gradients
 * computed twice (7 products of tiles instead of 5).
 *
 *   query  64 queries of one head walk over BN keys at a time:    s, dp = do v^T, dq += ds k
 *   key    64 keys walk over BN queries, all transposed:          s, dv += p do, dp, dk += ds q
 *
 * with p = 2^(s - lse) and ds = p (dp - delta).
 *
 *   DP    BN   shared memory   registers sm_80, sm_90a: query; key (ptxas of CUDA 13.0; no spills)
 *   64    64   55 KB           166, 166; 170, 176
 *   80    64   68 KB           166, 166; 231, 226
 *   96    32   53 KB           126, 126; 176, 175
 *   128   32   70 KB           168, 164; 246, 241
 *
 * Ladder (predicted; nothing is measured yet): 16 rows for each warp, so that shared memory is as
 * busy as mma: about 45 % of the rate of mma.sync, of which 5 / 7 counts. Next: 32 rows for each
 * warp of the query kernel, then wgmma. */
#include "backends/cuda/attention_mma.cuh"

enum { WARPS = 4, THREADS = WARPS * 32, BM = WARPS * 16 };

template <typename T, int DP, int BN>
static __global__ void __launch_bounds__(THREADS) attention_grad_query_mma(attention_args a) {
    enum { PITCH = attention_tile<DP>::PITCH, NT = BN / 8, STAGE = 2 * BN };
    KIN_DYNAMIC_SHARED(uint16_t, shared);
    uint16_t *const stages = shared + 2 * BM * PITCH;
    const int thread = (int)threadIdx.x, lane = thread % 32, warp = thread / 32;
    const int tiles = (a.queries + BM - 1) / BM;
    const int first = (int)(blockIdx.x % tiles) * BM;
    const attention_place at = attention_place_of(a, blockIdx.x / tiles);
    const int limit = attention_limit(a, at);
    const int64_t bias_start = attention_bias_start(a, at);
    const uint16_t *k = attention_start<const uint16_t>(a.k, at);
    const uint16_t *v = attention_start<const uint16_t>(a.v, at);

    attention_fetch<DP, BM, THREADS>(
        shared, attention_start<const uint16_t>(a.q, at) + first * a.q.steps[2], a.q.steps[2],
        a.queries - first, a.size, thread);
    attention_fetch<DP, BM, THREADS>(
        shared + BM * PITCH, attention_start<const uint16_t>(a.d_o, at) + first * a.d_o.steps[2],
        a.d_o.steps[2], a.queries - first, a.size, thread);
    const auto fetch = [&](int key) {
        uint16_t *stage = stages + key / BN % 2 * (STAGE * PITCH);
        attention_fetch<DP, BN, THREADS>(stage, k + key * a.k.steps[2], a.k.steps[2], limit - key,
                                         a.size, thread);
        attention_fetch<DP, BN, THREADS>(stage + BN * PITCH, v + key * a.v.steps[2], a.v.steps[2],
                                         limit - key, a.size, thread);
    };
    if (limit > 0) fetch(0);
    kin_copy_close();

    uint16_t *const own = shared + warp * 16 * PITCH;
    const int row = first + warp * 16;
    float out[1][DP / 8][4], s[1][NT][4], d_s[1][NT][4], base[2], delta[2];
    kin_mma_clear(out);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int query = row + half * 8 + lane / 4;
        const int64_t place = attention_lse_at(a, at) + min(query, a.queries - 1);
        base[half] = attention_base(a.lse[place]);
        delta[half] = a.delta[place];
    }
    for (int key = 0; key < limit; key += BN) {
        if (key + BN < limit) fetch(key + BN);
        kin_copy_close();
        kin_copy_wait<1>();
        __syncthreads();
        const uint16_t *stage = stages + key / BN % 2 * (STAGE * PITCH);
        attention_scores<T, DP>(s, own, stage, lane);
        attention_scores<T, DP>(d_s, own + BM * PITCH, stage + BN * PITCH, lane);
        float scale = a.scale * ATTENTION_LOG2_E;
        if (a.bias != nullptr || key + BN > limit)
            attention_mask(a, s, bias_start, row, key, limit, false, lane);
        if (a.bias != nullptr) scale = 1.0f;
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                d_s[0][n][i] =
                    kin_exp2(fmaf(s[0][n][i], scale, -base[i / 2])) * (d_s[0][n][i] - delta[i / 2]);
        attention_add<T, DP>(out, d_s, stage, lane);
        __syncthreads();
    }
    kin_copy_wait<0>();
    __syncthreads();
    const float factor[1][2] = {{a.scale, a.scale}};
    attention_store<T, DP>(attention_start<uint16_t>(a.d_q, at) + row * a.d_q.steps[2],
                           a.d_q.steps[2], a.queries - row, a.size, out, factor, own, lane);
}

template <typename T, int DP, int BN>
static __global__ void __launch_bounds__(THREADS) attention_grad_key_mma(attention_args a) {
    enum { PITCH = attention_tile<DP>::PITCH, NT = BN / 8, STAGE = 2 * BN };
    KIN_DYNAMIC_SHARED(uint16_t, shared);
    uint16_t *const stages = shared + 2 * BM * PITCH;
    float *const sums = reinterpret_cast<float *>(stages + 2 * STAGE * PITCH); /* lse, delta */
    const int thread = (int)threadIdx.x, lane = thread % 32, warp = thread / 32;
    const int tiles = (a.keys + BM - 1) / BM;
    const int first = (int)(blockIdx.x % tiles) * BM;
    const attention_place at = attention_place_of(a, blockIdx.x / tiles);
    const int limit = attention_limit(a, at), queries = first < limit ? a.queries : 0;
    const int64_t bias_start = attention_bias_start(a, at), lse_at = attention_lse_at(a, at);
    const uint16_t *q = attention_start<const uint16_t>(a.q, at);
    const uint16_t *d_o = attention_start<const uint16_t>(a.d_o, at);

    if (queries > 0) {
        attention_fetch<DP, BM, THREADS>(
            shared, attention_start<const uint16_t>(a.k, at) + first * a.k.steps[2], a.k.steps[2],
            limit - first, a.size, thread);
        attention_fetch<DP, BM, THREADS>(
            shared + BM * PITCH, attention_start<const uint16_t>(a.v, at) + first * a.v.steps[2],
            a.v.steps[2], limit - first, a.size, thread);
    }
    const auto fetch = [&](int query) {
        uint16_t *stage = stages + query / BN % 2 * (STAGE * PITCH);
        attention_fetch<DP, BN, THREADS>(stage, q + query * a.q.steps[2], a.q.steps[2],
                                         queries - query, a.size, thread);
        attention_fetch<DP, BN, THREADS>(stage + BN * PITCH, d_o + query * a.d_o.steps[2],
                                         a.d_o.steps[2], queries - query, a.size, thread);
    };
    /* Queries that do not exist get the weight 2^-infinity. */
    const auto fetch_sum = [&](int query) {
        const bool is_delta = thread >= BN;
        const int at_query = query + thread % BN;
        if (thread >= 2 * BN) return 0.0f;
        if (at_query >= queries) return is_delta ? 0.0f : INFINITY;
        return is_delta ? a.delta[lse_at + at_query] : attention_base(a.lse[lse_at + at_query]);
    };
    const auto keep_sum = [&](int query, float value) {
        if (thread < 2 * BN) sums[query / BN % 2 * (2 * BN) + thread] = value;
    };
    if (queries > 0) {
        fetch(0);
        keep_sum(0, fetch_sum(0));
    }
    kin_copy_close();

    uint16_t *const own = shared + warp * 16 * PITCH;
    const int row = first + warp * 16;
    float d_k[1][DP / 8][4], d_v[1][DP / 8][4], s[1][NT][4], d_s[1][NT][4];
    kin_mma_clear(d_k);
    kin_mma_clear(d_v);
    for (int query = 0; query < queries; query += BN) {
        const bool more = query + BN < queries;
        float next = 0.0f;
        if (more) {
            fetch(query + BN);
            next = fetch_sum(query + BN);
        }
        kin_copy_close();
        kin_copy_wait<1>();
        __syncthreads();
        const uint16_t *stage = stages + query / BN % 2 * (STAGE * PITCH);
        const float *sum = sums + query / BN % 2 * (2 * BN) + lane % 4 * 2;
        attention_scores<T, DP>(s, own, stage, lane);
        float scale = a.scale * ATTENTION_LOG2_E;
        if (a.bias != nullptr || first + BM > limit)
            attention_mask(a, s, bias_start, row, query, limit, true, lane);
        if (a.bias != nullptr) scale = 1.0f;
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                s[0][n][i] = kin_exp2(fmaf(s[0][n][i], scale, -sum[n * 8 + i % 2]));
        attention_add<T, DP>(d_v, s, stage + BN * PITCH, lane);
        attention_scores<T, DP>(d_s, own + BM * PITCH, stage + BN * PITCH, lane);
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                d_s[0][n][i] = s[0][n][i] * (d_s[0][n][i] - sum[BN + n * 8 + i % 2]);
        attention_add<T, DP>(d_k, d_s, stage, lane);
        if (more) keep_sum(query + BN, next);
        __syncthreads();
    }
    kin_copy_wait<0>();
    __syncthreads();
    const float by_scale[1][2] = {{a.scale, a.scale}}, by_one[1][2] = {{1.0f, 1.0f}};
    attention_store<T, DP>(attention_start<uint16_t>(a.d_k, at) + row * a.d_k.steps[2],
                           a.d_k.steps[2], a.keys - row, a.size, d_k, by_scale, own, lane);
    attention_store<T, DP>(attention_start<uint16_t>(a.d_v, at) + row * a.d_v.steps[2],
                           a.d_v.steps[2], a.keys - row, a.size, d_v, by_one, own, lane);
}

template <typename T, int DP, int BN>
static kin_status launch(kin_device *device, kin_commands *commands, const attention_args *args) {
    const int64_t heads = (int64_t)args->b0 * args->b1 * args->heads;
    const size_t tiles = (size_t)(2 * BM + 4 * BN) * attention_tile<DP>::PITCH * sizeof(uint16_t);
    kin_status status =
        kin_cuda_launch(device, commands, attention_grad_query_mma<T, DP, BN>,
                        dim3(kin_cuda_blocks(heads * ((args->queries + BM - 1) / BM), 1)),
                        dim3(THREADS), tiles, *args);
    if (status != KIN_OK) return status;
    return kin_cuda_launch(device, commands, attention_grad_key_mma<T, DP, BN>,
                           dim3(kin_cuda_blocks(heads * ((args->keys + BM - 1) / BM), 1)),
                           dim3(THREADS), tiles + 4 * BN * sizeof(float), *args);
}

template <typename T>
static kin_status pad(kin_device *device, kin_commands *commands, const attention_args *args) {
    if (args->size <= 64) return launch<T, 64, 64>(device, commands, args);
    if (args->size <= 80) return launch<T, 80, 64>(device, commands, args);
    if (args->size <= 96) return launch<T, 96, 32>(device, commands, args);
    return launch<T, 128, 32>(device, commands, args);
}

kin_status attention_mma_grad(kin_device *device, kin_commands *commands, kin_dtype dtype,
                              const attention_args *args) {
    return dtype == KIN_BF16 ? pad<kin_bf16>(device, commands, args)
                             : pad<kin_f16>(device, commands, args);
}
