/* attention and attention_grad of sequences of at most 16 tokens (attention over frames): f16 and
 * bf16, sm_80 and later.
 *
 * One warp does one head of one sequence, from its rows where they lie, so that no permutation is
 * written to memory: it copies them to shared memory (padded to 16 rows and DP elements there), and
 * everything else happens in registers. The backward pass reads every operand once and needs
 * neither delta nor a second kernel: what is transposed is computed a second time. Neighbouring
 * warps do neighbouring heads, whose rows are neighbours in memory.
 *
 *   DP    shared memory of a block of 4 warps: forward, backward    registers sm_80 (no spills)
 *   64    28, 46 KB                                                 63, 55
 *   80    34, 57 KB                                                 71, 56
 *   96    40, 67 KB                                                 79, 63
 *   128   52, 88 KB                                                 95, 71
 *
 * Bound by bandwidth: at head size 72 and 16 tokens 9.2 KB for 20 mma forward, 18 KB for 70
 * backward. Predicted, not measured: the 12.6 us of STDiT at 16x256x256 on an H100 within 1.3,
 * since 24 warps of a multiprocessor have 160 KB of copies under way. */
#include "backends/cuda/attention_mma.cuh"

enum { WARPS = 4, THREADS = WARPS * 32, ROWS = ATTENTION_SHORT_MOST };

template <typename T, int DP>
static __global__ void __launch_bounds__(THREADS)
    attention_forward_short(attention_args a, int64_t heads) {
    enum { PITCH = attention_tile<DP>::PITCH, TILE = ROWS * PITCH };
    KIN_DYNAMIC_SHARED(uint16_t, shared);
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    const int64_t index = (int64_t)blockIdx.x * WARPS + warp;
    if (index >= heads) return;
    const attention_place at = attention_place_of(a, index);
    const int limit = attention_limit(a, at);
    uint16_t *const q = shared + warp * 3 * TILE, *const k = q + TILE, *const v = k + TILE;
    attention_fetch<DP, ROWS, 32>(q, attention_start<const uint16_t>(a.q, at), a.q.steps[2],
                                  a.queries, a.size, lane);
    attention_fetch<DP, ROWS, 32>(k, attention_start<const uint16_t>(a.k, at), a.k.steps[2], limit,
                                  a.size, lane);
    attention_fetch<DP, ROWS, 32>(v, attention_start<const uint16_t>(a.v, at), a.v.steps[2], limit,
                                  a.size, lane);
    kin_copy_close();
    kin_copy_wait<0>();
    __syncwarp();

    attention_softmax<1> softmax;
    float out[1][DP / 8][4], s[1][2][4], factor[1][2];
    attention_begin(softmax);
    kin_mma_clear(out);
    attention_scores<T, DP>(s, q, k, lane);
    attention_mask(a, s, attention_bias_start(a, at), 0, 0, limit, false, lane);
    attention_weigh<DP>(softmax, s, a.bias != nullptr ? 1.0f : a.scale * ATTENTION_LOG2_E, out);
    attention_add<T, DP>(out, s, v, lane);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float total = attention_row_sum(softmax.total[0][half]);
        const int query = half * 8 + lane / 4;
        factor[0][half] = total > 0.0f ? 1.0f / total : 0.0f;
        if (lane % 4 == 0 && query < a.queries)
            a.lse[attention_lse_at(a, at) + query] =
                total > 0.0f ? softmax.top[0][half] + log2f(total) : -INFINITY;
    }
    attention_store<T, DP>(attention_start<uint16_t>(a.o, at), a.o.steps[2], a.queries, a.size, out,
                           factor, q, lane);
}

/* Five tiles, and lse and delta of 16 queries. */
template <int DP> struct short_grad {
    uint16_t q[ROWS * (DP + 8)], k[ROWS * (DP + 8)], v[ROWS * (DP + 8)], o[ROWS * (DP + 8)],
        d_o[ROWS * (DP + 8)];
    float base[ROWS], delta[ROWS];
};

/* Two lanes for each query. */
template <typename T, int DP>
static __device__ __forceinline__ void short_delta(const attention_args &a, short_grad<DP> &own,
                                                   int64_t lse_at, int lane) {
    enum { PITCH = attention_tile<DP>::PITCH };
    const int row = lane / 2;
    const T *o = reinterpret_cast<const T *>(own.o) + row * PITCH;
    const T *d_o = reinterpret_cast<const T *>(own.d_o) + row * PITCH;
    float sum = 0.0f;
    for (int d = lane % 2 * 2; d < DP; d += 4) {
        float left[2], right[2];
        kin_load<2>(o + d, left);
        kin_load<2>(d_o + d, right);
        sum = fmaf(left[0], right[0], fmaf(left[1], right[1], sum));
    }
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    if (lane % 2 != 0) return;
    const bool there = row < a.queries;
    if (there && a.d_lse != nullptr) sum -= a.d_lse[lse_at + row] * ATTENTION_LOG2_E;
    own.delta[row] = there ? sum : 0.0f;
    own.base[row] = there ? attention_base(a.lse[lse_at + row]) : 0.0f;
}

template <typename T, int DP>
static __global__ void __launch_bounds__(THREADS)
    attention_grad_short(attention_args a, int64_t heads) {
    KIN_DYNAMIC_SHARED(short_grad<DP>, shared);
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, g = lane / 4;
    const int64_t index = (int64_t)blockIdx.x * WARPS + warp;
    if (index >= heads) return;
    short_grad<DP> &own = shared[warp];
    const attention_place at = attention_place_of(a, index);
    const int limit = attention_limit(a, at), size = a.size;
    const int64_t bias_start = attention_bias_start(a, at);
    const auto fetch = [&](uint16_t *tile, const attention_rows &rows, int count) {
        attention_fetch<DP, ROWS, 32>(tile, attention_start<const uint16_t>(rows, at),
                                      rows.steps[2], count, size, lane);
    };
    fetch(own.q, a.q, a.queries);
    fetch(own.k, a.k, limit);
    fetch(own.v, a.v, limit);
    fetch(own.o, a.o, a.queries);
    fetch(own.d_o, a.d_o, a.queries);
    kin_copy_close();
    kin_copy_wait<0>();
    __syncwarp();
    short_delta<T>(a, own, attention_lse_at(a, at), lane);
    __syncwarp();

    const float scale = a.bias != nullptr ? 1.0f : a.scale * ATTENTION_LOG2_E;
    const float by_scale[1][2] = {{a.scale, a.scale}}, by_one[1][2] = {{1.0f, 1.0f}};
    float out[1][DP / 8][4], s[1][2][4], d_s[1][2][4];
    attention_scores<T, DP>(s, own.q, own.k, lane);
    attention_scores<T, DP>(d_s, own.d_o, own.v, lane);
    attention_mask(a, s, bias_start, 0, 0, limit, false, lane);
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int row = g + i / 2 * 8;
            d_s[0][n][i] =
                kin_exp2(fmaf(s[0][n][i], scale, -own.base[row])) * (d_s[0][n][i] - own.delta[row]);
        }
    kin_mma_clear(out);
    attention_add<T, DP>(out, d_s, own.k, lane);
    attention_store<T, DP>(attention_start<uint16_t>(a.d_q, at), a.d_q.steps[2], a.queries, size,
                           out, by_scale, own.o, lane);

    attention_scores<T, DP>(s, own.k, own.q, lane);
    attention_scores<T, DP>(d_s, own.v, own.d_o, lane);
    attention_mask(a, s, bias_start, 0, 0, limit, true, lane);
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int column = n * 8 + lane % 4 * 2 + i % 2;
            s[0][n][i] = kin_exp2(fmaf(s[0][n][i], scale, -own.base[column]));
            d_s[0][n][i] = s[0][n][i] * (d_s[0][n][i] - own.delta[column]);
        }
    kin_mma_clear(out);
    attention_add<T, DP>(out, s, own.d_o, lane);
    attention_store<T, DP>(attention_start<uint16_t>(a.d_v, at), a.d_v.steps[2], a.keys, size, out,
                           by_one, own.o, lane);
    kin_mma_clear(out);
    attention_add<T, DP>(out, d_s, own.q, lane);
    attention_store<T, DP>(attention_start<uint16_t>(a.d_k, at), a.d_k.steps[2], a.keys, size, out,
                           by_scale, own.o, lane);
}

template <typename T, int DP>
static kin_status launch(kin_device *device, kin_commands *commands, const attention_args *args,
                         bool grad) {
    const int64_t heads = (int64_t)args->b0 * args->b1 * args->heads;
    const dim3 grid(kin_cuda_blocks(heads, WARPS)), block(THREADS);
    if (grad)
        return kin_cuda_launch(device, commands, attention_grad_short<T, DP>, grid, block,
                               WARPS * sizeof(short_grad<DP>), *args, heads);
    return kin_cuda_launch(device, commands, attention_forward_short<T, DP>, grid, block,
                           WARPS * 3 * ROWS * attention_tile<DP>::PITCH * sizeof(uint16_t), *args,
                           heads);
}

template <typename T>
static kin_status pad(kin_device *device, kin_commands *commands, const attention_args *args,
                      bool grad) {
    if (args->size <= 64) return launch<T, 64>(device, commands, args, grad);
    if (args->size <= 80) return launch<T, 80>(device, commands, args, grad);
    if (args->size <= 96) return launch<T, 96>(device, commands, args, grad);
    return launch<T, 128>(device, commands, args, grad);
}

kin_status attention_short_forward(kin_device *device, kin_commands *commands, kin_dtype dtype,
                                   const attention_args *args) {
    return dtype == KIN_BF16 ? pad<kin_bf16>(device, commands, args, false)
                             : pad<kin_f16>(device, commands, args, false);
}

kin_status attention_short_grad(kin_device *device, kin_commands *commands, kin_dtype dtype,
                                const attention_args *args) {
    return dtype == KIN_BF16 ? pad<kin_bf16>(device, commands, args, true)
                             : pad<kin_f16>(device, commands, args, true);
}
