/* attention, forward, with mma: f16 and bf16, sm_80 and later.
 *
 * A block has 4 warps and MT x 64 queries of one head, and walks over BN keys at a time. Scores
 * stay in registers, and become the left operand of the product with v there. Keys and values are
 * copied two tiles deep by cp.async.
 *
 *   DP    MT  BN   shared memory   registers sm_80, sm_90a (ptxas of CUDA 13.0; no others spill)
 *   64    1   64   46 KB           123, 128
 *   64    2   64   55 KB           231, 231
 *   80    1   64   56 KB           143, 135
 *   80    2   64   68 KB           247, 255 (12 bytes spilled)
 *   96    1   64   67 KB           161, 158
 *   96    2   48   67 KB           236, 237
 *   128   1   64   87 KB           160, 165
 *   128   2   32   70 KB           247, 255 (28 bytes spilled)
 *
 * Ladder (predicted; nothing is measured yet). A multiprocessor does an mma (16 x 8 x 16) in 2
 * clocks and reads 128 bytes of shared memory in one.
 *
 *   MT 1   each fragment of k and v serves one mma, 2 clocks of shared memory for 2 of mma: about
 *          45 % of the rate of mma.sync; for sequences up to 64, and where blocks are few
 *   MT 2   each serves two, 1.25 clocks for 2: about 60 %, 190 TFLOP/s on an A100 and 300 on an
 *          H100, where exponents (16 a clock) are the next limit; attention_hopper.cu goes on */
#include "backends/cuda/attention_mma.cuh"

enum { WARPS = 4, THREADS = WARPS * 32 };

template <typename T, int DP, int MT, int BN>
static __global__ void __launch_bounds__(THREADS) attention_forward_mma(attention_args a) {
    enum { PITCH = attention_tile<DP>::PITCH, BM = WARPS * MT * 16, NT = BN / 8, STAGE = 2 * BN };
    KIN_DYNAMIC_SHARED(uint16_t, shared);
    uint16_t *const stages = shared + BM * PITCH;
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
    const auto fetch = [&](int key) {
        uint16_t *stage = stages + key / BN % 2 * (STAGE * PITCH);
        attention_fetch<DP, BN, THREADS>(stage, k + key * a.k.steps[2], a.k.steps[2], limit - key,
                                         a.size, thread);
        attention_fetch<DP, BN, THREADS>(stage + BN * PITCH, v + key * a.v.steps[2], a.v.steps[2],
                                         limit - key, a.size, thread);
    };
    if (limit > 0) fetch(0);
    kin_copy_close();

    uint16_t *const own = shared + warp * MT * 16 * PITCH;
    const int row = first + warp * MT * 16;
    attention_softmax<MT> softmax;
    float out[MT][DP / 8][4], s[MT][NT][4];
    attention_begin(softmax);
    kin_mma_clear(out);
    for (int key = 0; key < limit; key += BN) {
        if (key + BN < limit) fetch(key + BN);
        kin_copy_close();
        kin_copy_wait<1>();
        __syncthreads();
        const uint16_t *stage = stages + key / BN % 2 * (STAGE * PITCH);
        attention_scores<T, DP>(s, own, stage, lane);
        float scale = a.scale * ATTENTION_LOG2_E;
        if (a.bias != nullptr || key + BN > limit)
            attention_mask(a, s, bias_start, row, key, limit, false, lane);
        if (a.bias != nullptr) scale = 1.0f;
        attention_weigh<DP>(softmax, s, scale, out);
        attention_add<T, DP>(out, s, stage + BN * PITCH, lane);
        __syncthreads();
    }
    kin_copy_wait<0>();
    __syncthreads();

    float factor[MT][2];
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const float total = attention_row_sum(softmax.total[m][half]);
            const int query = row + m * 16 + half * 8 + lane / 4;
            factor[m][half] = total > 0.0f ? 1.0f / total : 0.0f;
            if (lane % 4 == 0 && query < a.queries)
                a.lse[attention_lse_at(a, at) + query] =
                    total > 0.0f ? softmax.top[m][half] + log2f(total) : -INFINITY;
        }
    attention_store<T, DP>(attention_start<uint16_t>(a.o, at) + row * a.o.steps[2], a.o.steps[2],
                           a.queries - row, a.size, out, factor, own, lane);
}

template <typename T, int DP, int MT, int BN>
static kin_status launch(kin_device *device, kin_commands *commands, const attention_args *args) {
    enum { BM = WARPS * MT * 16, PITCH = attention_tile<DP>::PITCH };
    const int64_t heads = (int64_t)args->b0 * args->b1 * args->heads;
    const int64_t tiles = (args->queries + BM - 1) / BM;
    return kin_cuda_launch(device, commands, attention_forward_mma<T, DP, MT, BN>,
                           dim3(kin_cuda_blocks(heads * tiles, 1)), dim3(THREADS),
                           (size_t)(BM + 4 * BN) * PITCH * sizeof(uint16_t), *args);
}

/* Long sequences get the larger tiles, as long as there are enough of them to fill the device. */
template <typename T, int DP>
static kin_status choose(kin_device *device, kin_commands *commands, const attention_args *args) {
    const int64_t heads = (int64_t)args->b0 * args->b1 * args->heads;
    const int64_t large = heads * ((args->queries + 127) / 128);
    if (args->queries > 64 && large >= 2 * kin_cuda_of(device)->properties.units)
        return launch < T, DP, 2, DP == 128 ? 32 : DP == 96 ? 48 : 64 > (device, commands, args);
    return launch<T, DP, 1, 64>(device, commands, args);
}

template <typename T>
static kin_status pad(kin_device *device, kin_commands *commands, const attention_args *args) {
    if (args->size <= 64) return choose<T, 64>(device, commands, args);
    if (args->size <= 80) return choose<T, 80>(device, commands, args);
    if (args->size <= 96) return choose<T, 96>(device, commands, args);
    return choose<T, 128>(device, commands, args);
}

kin_status attention_mma_forward(kin_device *device, kin_commands *commands, kin_dtype dtype,
                                 const attention_args *args) {
    return dtype == KIN_BF16 ? pad<kin_bf16>(device, commands, args)
                             : pad<kin_f16>(device, commands, args);
}
