/* attention, forward, on Hopper: f16 and bf16, heads of 64, 72 (80 in shared memory), 96 and 128,
 * from 64 queries and keys on, with lengths, without bias.
 *
 * UNCHECKED on a GPU: the emulator runs it (hopper_emulated.cuh), no Hopper has yet. So it serves
 * only if the setting cuda.hopper is "on"; attention.cu does otherwise, and every call that this
 * row declines. To check it:
 *
 *     KINORA_BACKEND_PATH=... plugin_cuda_kernels cuda0 cuda.hopper=on attention
 *
 * A block has two or three warpgroups with 64 queries each of one head, and one more, of which one
 * thread keeps the copy engine some tiles of keys ahead. There are as many blocks as
 * multiprocessors, and each goes on to the next tile of queries, for which the copies have begun
 * long before. Queries go fastest, so that all blocks read the keys and values of one head, or of
 * a few, from the L2 cache at one time.
 *
 * A group issues the scores of tile j and, right behind them, the product of the weights of tile
 * j - 1 with its values; it makes tile j's weights while the latter runs (Shah et al. 2024,
 * arXiv:2407.08608). The groups issue in turns (an mbarrier each), so that while one makes weights
 * the products of the others are under way. Scores, weights and the result stay in registers. The
 * result is rescaled only where a row has met a larger score. Values beyond a sample's length
 * become zeros in shared memory, in the last tile alone.
 *
 *   DP    groups  keys  stages  panels   shared memory   registers (ptxas of CUDA 13.0; no spills)
 *   64    3       128   4       1 of 64  204 KB          32 for the producer, 160
 *   64    2       128   4       1 of 64  179 KB          24, 240
 *   80    3       112   3       5 of 16  199 KB          32, 160
 *   80    2       128   4       5 of 16  223 KB          24, 240
 *   96    3       96    3       3 of 32  220 KB          32, 160
 *   96    2       128   3       3 of 32  219 KB          24, 240
 *   128   2       128   2       2 of 64  227 KB          24, 240
 *
 * ptxas serialises no wgmma (C7510, C7513, C7514); the loop has 6 HGMMA of scores and 6 of values
 * in a row at DP 96.
 *
 * Clocks of a multiprocessor for 64 queries and 128 keys: wgmma does 2048 multiply-adds in one, the
 * special function unit 16 exponents, and 4 warp instructions are issued; each element of the
 * scores takes 4.5 (maximum, fma, exponent, sum, half a conversion).
 *
 *   DP    wgmma   exponents   issue   most that useful work can have of the wgmma rate
 *   64    512     512         290     1
 *   80    640     512         290     72 / 80
 *   96    768     512         290     1
 *   128   1024    512         290     1
 *
 * A quarter of the exponents as polynomials (7 instructions each) would bring them from 512 clocks
 * to 385, where issue meets them. wgmma is longer than exponents but for DP 64, so there are none
 * yet. Keys and values take 4096 / rows bytes of L2 a clock at the full rate of wgmma: 32 for 128
 * queries, which is more than the cache gives (published: 5.6 TB/s, 25 a clock), 21 for 192.
 *
 * Ladder (predicted, TFLOP/s of useful work; nothing is measured yet)
 *
 *   mma.sync, attention_mma_forward.cu                        96: 300
 *   wgmma, 128 queries, 2 stages, a block for each tile       96: 500
 *   turns, 192 queries, blocks that go on, 3 or 4 stages      64: 490, 72: 520, 96: 590, 128: 640
 *
 * and at 256 tokens with heads of 72: 17 us for 4,096 tokens and 16 heads, of which memory alone
 * takes 12.6. Next: panels of 64 + 16 for 72, if the copy engine is slow at rows of 32 bytes (5
 * requests for a row, not 2); 72 columns of values, not 80; pairs of blocks that share keys by
 * multicast. */
#include "backends/cuda/attention_hopper.cuh"

/* Queries and keys, both at least LEAST and not both at most SHORT: attention_short.cu has those.
 */
enum { LEAST = 64, SHORT = 128 };

/* A variant: GROUPS warpgroups with 64 queries each, BN keys at a time. */
template <int DP_, int GROUPS_, int BN_, int STAGES_> struct forward_shape {
    enum { DP = DP_, GROUPS = GROUPS_, BN = BN_, STAGES = STAGES_, OWN = 2 };
    enum { BM = GROUPS * HOPPER_ROWS, THREADS = (GROUPS + 1) * HOPPER_GROUP };
    enum { FEW = GROUPS == 3 ? 32 : 24, MANY = GROUPS == 3 ? 160 : 240 }; /* registers */
};

template <typename S> struct alignas(1024) forward_shared {
    uint16_t k[S::STAGES][S::BN * S::DP], v[S::STAGES][S::BN * S::DP];
    uint16_t q[S::OWN][S::GROUPS][HOPPER_ROWS * S::DP];
    uint16_t result[S::BM * (S::DP + 8)];
    uint64_t k_full[S::STAGES], k_empty[S::STAGES], v_full[S::STAGES], v_empty[S::STAGES];
    uint64_t q_full[S::OWN], q_empty[S::OWN], turn[S::GROUPS];
};

/* What a block does for one tile of queries. */
struct forward_tile {
    attention_place at;
    int first, limit, steps; /* query, keys that take part, tiles of them */
};

template <typename S>
static __device__ __forceinline__ forward_tile tile_of(const attention_args &a, int tile) {
    const int tiles = (a.queries + S::BM - 1) / S::BM;
    forward_tile x;
    x.first = tile % tiles * S::BM;
    x.at = attention_place_of(a, tile / tiles);
    x.limit = attention_limit(a, x.at);
    x.steps = (x.limit + S::BN - 1) / S::BN;
    return x;
}

/* The thread that feeds the copy engine. */
template <typename S>
static __device__ __forceinline__ void produce(forward_shared<S> &shared, const hopper_map *q_map,
                                               const hopper_map *k_map, const hopper_map *v_map,
                                               const attention_args &a, int tiles) {
    hopper_ring<S::STAGES> ring = {0, 0};
    hopper_ring<S::OWN> own = {0, 0};
    for (int tile = (int)blockIdx.x; tile < tiles; tile += (int)gridDim.x) {
        const forward_tile x = tile_of<S>(a, tile);
        hopper_wait(&shared.q_empty[own.stage], own.parity ^ 1);
        hopper_expect(&shared.q_full[own.stage], (int)sizeof shared.q[0]);
        for (int i = 0; i < S::GROUPS; i++)
            hopper_fetch<S::DP, HOPPER_ROWS>(shared.q[own.stage][i], q_map,
                                             &shared.q_full[own.stage], x.at,
                                             x.first + i * HOPPER_ROWS);
        hopper_next(own);
        for (int j = 0; j < x.steps; j++) {
            const int stage = ring.stage;
            hopper_wait(&shared.k_empty[stage], ring.parity ^ 1);
            hopper_expect(&shared.k_full[stage], (int)sizeof shared.k[0]);
            hopper_fetch<S::DP, S::BN>(shared.k[stage], k_map, &shared.k_full[stage], x.at,
                                       j * S::BN);
            hopper_wait(&shared.v_empty[stage], ring.parity ^ 1);
            hopper_expect(&shared.v_full[stage], (int)sizeof shared.v[0]);
            hopper_fetch<S::DP, S::BN>(shared.v[stage], v_map, &shared.v_full[stage], x.at,
                                       j * S::BN);
            hopper_next(ring);
        }
    }
}

/* Scores become weights; factor is what earlier weights shrink by. Keys from `count` on are out. */
template <int NT>
static __device__ __forceinline__ void weigh(attention_softmax<1> &x, float (&s)[NT][4],
                                             float scale, int count, float (&factor)[2], int lane) {
    if (count < NT * 8) {
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (n * 8 + lane % 4 * 2 + i % 2 >= count) s[n][i] = -INFINITY;
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float most[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f};
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int i = 0; i < 2; i++) most[i] = fmaxf(most[i], s[n][2 * half + i]);
        const float top = fmaxf(x.top[0][half], attention_row_max(fmaxf(most[0], most[1])) * scale);
        const float base = attention_base(top);
        factor[half] = kin_exp2(x.top[0][half] - base);
        x.top[0][half] = top;
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float &score = s[n][2 * half + i];
                score = kin_exp2(fmaf(score, scale, -base));
                sum[i] += score;
            }
        x.total[0][half] = x.total[0][half] * factor[half] + (sum[0] + sum[1]);
    }
}

/* The result's rows shrink by `factor`, which is 1 unless a row has met a larger score. */
template <int N>
static __device__ __forceinline__ void shrink(float (&out)[N][4], const float (&factor)[2]) {
    if (!__any_sync(0xffffffffu, factor[0] != 1.0f || factor[1] != 1.0f)) return;
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) out[n][i] *= factor[i / 2];
}

/* A warpgroup's part. The groups issue products in turns: while one waits for its own and makes
 * weights, the others' are under way. */
template <typename T, typename S>
static __device__ __forceinline__ void consume(forward_shared<S> &shared, const attention_args &a,
                                               int tiles) {
    enum { DP = S::DP, BN = S::BN };
    const int group = __shfl_sync(0xffffffffu, (int)threadIdx.x / HOPPER_GROUP - 1, 0);
    const int thread = (int)threadIdx.x % HOPPER_GROUP, lane = thread % 32, warp = thread / 32;
    const float scale = a.scale * ATTENTION_LOG2_E;
    hopper_ring<S::STAGES> k = {0, 0}, v = {0, 0};
    hopper_ring<S::OWN> own = {0, 0};
    int turn = group == 0; /* the first one need not wait for its first turn */
    const auto take_turn = [&]() {
        hopper_wait(&shared.turn[group], turn);
        turn ^= 1;
    };
    const auto pass_turn = [&]() {
        hopper_arrive_warp(&shared.turn[group + 1 < S::GROUPS ? group + 1 : 0], lane);
    };
    for (int tile = (int)blockIdx.x; tile < tiles; tile += (int)gridDim.x) {
        const forward_tile x = tile_of<S>(a, tile);
        const uint16_t *q = shared.q[own.stage][group];
        attention_softmax<1> softmax;
        float out[1][DP / 8][4], s[BN / 8][4], factor[1][2];
        uint32_t p[BN / 16][4];
        attention_begin(softmax);
        kin_mma_clear(out);
        hopper_wait(&shared.q_full[own.stage], own.parity);
        if (x.steps > 0) {
            hopper_wait(&shared.k_full[k.stage], k.parity);
            take_turn();
            hopper_pin(s);
            hopper_begin();
            hopper_issue_scores<T, DP>(s, q, shared.k[k.stage]);
            pass_turn();
            hopper_join<0>();
            hopper_pin(s);
            hopper_arrive_warp(&shared.k_empty[k.stage], lane);
            hopper_next(k);
            weigh(softmax, s, scale, x.limit, factor[0], lane);
            hopper_pack<T>(p, s);
            for (int j = 1; j < x.steps; j++) {
                hopper_wait(&shared.k_full[k.stage], k.parity);
                take_turn();
                hopper_pin(s);
                hopper_pin(p);
                hopper_pin(out[0]);
                hopper_begin();
                hopper_issue_scores<T, DP>(s, q, shared.k[k.stage]);
                hopper_wait(&shared.v_full[v.stage], v.parity);
                hopper_begin();
                hopper_issue_add<T, DP>(out[0], p, shared.v[v.stage]);
                pass_turn();
                hopper_join<1>();
                hopper_pin(s);
                hopper_arrive_warp(&shared.k_empty[k.stage], lane);
                hopper_next(k);
                weigh(softmax, s, scale, x.limit - j * BN, factor[0], lane);
                hopper_join<0>();
                hopper_pin(out[0]);
                hopper_pin(p);
                hopper_arrive_warp(&shared.v_empty[v.stage], lane);
                hopper_next(v);
                shrink(out[0], factor[0]);
                hopper_pack<T>(p, s);
            }
        }
        hopper_arrive_warp(&shared.q_empty[own.stage], lane);
        hopper_next(own);
        if (x.steps > 0) {
            hopper_wait(&shared.v_full[v.stage], v.parity);
            if (x.limit < a.keys && x.limit % BN != 0)
                hopper_clear_rows<DP, BN, S::GROUPS * HOPPER_GROUP>(
                    shared.v[v.stage], x.limit % BN, (int)threadIdx.x - HOPPER_GROUP);
            take_turn();
            hopper_pin(p);
            hopper_pin(out[0]);
            hopper_begin();
            hopper_issue_add<T, DP>(out[0], p, shared.v[v.stage]);
            pass_turn();
            hopper_join<0>();
            hopper_pin(out[0]);
            hopper_arrive_warp(&shared.v_empty[v.stage], lane);
            hopper_next(v);
        }
        const int row = x.first + group * HOPPER_ROWS + warp * 16;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const float total = attention_row_sum(softmax.total[0][half]);
            const int query = row + half * 8 + lane / 4;
            factor[0][half] = total > 0.0f ? 1.0f / total : 0.0f;
            if (lane % 4 == 0 && query < a.queries)
                a.lse[attention_lse_at(a, x.at) + query] =
                    total > 0.0f ? softmax.top[0][half] + log2f(total) : -INFINITY;
        }
        attention_store<T, DP>(
            attention_start<uint16_t>(a.o, x.at) + row * a.o.steps[2], a.o.steps[2],
            a.queries - row, a.size, out, factor,
            shared.result + (group * HOPPER_ROWS + warp * 16) * attention_tile<DP>::PITCH, lane);
    }
}

template <typename T, typename S>
static __global__ void __launch_bounds__(S::THREADS, 1)
    attention_forward_hopper(const __grid_constant__ hopper_map q_map,
                             const __grid_constant__ hopper_map k_map,
                             const __grid_constant__ hopper_map v_map, attention_args a,
                             int tiles) {
    KIN_DYNAMIC_SHARED(forward_shared<S>, memory);
    forward_shared<S> &shared = *memory;
    if (threadIdx.x == 0) {
        for (int i = 0; i < S::STAGES; i++) {
            hopper_barrier_init(&shared.k_full[i], 1);
            hopper_barrier_init(&shared.v_full[i], 1);
            hopper_barrier_init(&shared.k_empty[i], 4 * S::GROUPS);
            hopper_barrier_init(&shared.v_empty[i], 4 * S::GROUPS);
        }
        for (int i = 0; i < S::OWN; i++) {
            hopper_barrier_init(&shared.q_full[i], 1);
            hopper_barrier_init(&shared.q_empty[i], 4 * S::GROUPS);
        }
        for (int i = 0; i < S::GROUPS; i++) hopper_barrier_init(&shared.turn[i], 4);
        hopper_barrier_publish();
    }
    __syncthreads();
    if (threadIdx.x < HOPPER_GROUP) {
        hopper_fewer_registers<S::FEW>();
        if (threadIdx.x == 0) produce<S>(shared, &q_map, &k_map, &v_map, a, tiles);
    } else {
        hopper_more_registers<S::MANY>();
        consume<T, S>(shared, a, tiles);
    }
}

/* ---- on the host ---- */

template <typename T, typename S>
static kin_status launch(kin_device *device, kin_commands *commands, kin_dtype dtype,
                         const attention_args *args, bool *out_served) {
    static_assert(sizeof(forward_shared<S>) <= HOPPER_SHARED, "more shared memory than there is");
    hopper_map q, k, v;
    const int64_t heads = (int64_t)args->b0 * args->b1 * args->heads;
    const int64_t tiles = heads * ((args->queries + S::BM - 1) / S::BM);
    *out_served =
        tiles <= INT32_MAX / 2 &&
        hopper_describe_rows<S::DP>(&q, dtype, args, &args->q, args->queries, HOPPER_ROWS) &&
        hopper_describe_rows<S::DP>(&k, dtype, args, &args->k, args->keys, S::BN) &&
        hopper_describe_rows<S::DP>(&v, dtype, args, &args->v, args->keys, S::BN);
    if (!*out_served) return KIN_OK;
    return kin_cuda_launch(device, commands, attention_forward_hopper<T, S>,
                           dim3(hopper_blocks(device, tiles)), dim3(S::THREADS),
                           sizeof(forward_shared<S>), q, k, v, *args, tiles);
}

/* The rows that the busiest block has with tiles of `rows`. */
static int64_t longest(const kin_device *device, const attention_args *args, int64_t rows) {
    const int64_t heads = (int64_t)args->b0 * args->b1 * args->heads;
    const int64_t tiles = heads * ((args->queries + rows - 1) / rows);
    const int64_t units = kin_cuda_of(device)->properties.units;
    return (tiles + units - 1) / units * rows;
}

/* Three groups need fewer bytes from the L2 cache for each product; two waste less where queries do
 * not fill tiles of 192, or tiles the device. */
static bool three_are_better(const kin_device *device, const attention_args *args) {
    return longest(device, args, 192) * 16 <= longest(device, args, 128) * 17;
}

template <typename T, typename THREE, typename TWO>
static kin_status choose(kin_device *device, kin_commands *commands, kin_dtype dtype,
                         const attention_args *args, bool *out_served) {
    return three_are_better(device, args)
               ? launch<T, THREE>(device, commands, dtype, args, out_served)
               : launch<T, TWO>(device, commands, dtype, args, out_served);
}

template <typename T>
static kin_status pad(kin_device *device, kin_commands *commands, kin_dtype dtype,
                      const attention_args *args, bool *out_served) {
    typedef forward_shape<64, 3, 128, 4> three_64;
    typedef forward_shape<64, 2, 128, 4> two_64;
    typedef forward_shape<80, 3, 112, 3> three_80;
    typedef forward_shape<80, 2, 128, 4> two_80;
    typedef forward_shape<96, 3, 96, 3> three_96;
    typedef forward_shape<96, 2, 128, 3> two_96;
    typedef forward_shape<128, 2, 128, 2> two_128;
    switch (args->size) {
    case 64:
        return choose<T, three_64, two_64>(device, commands, dtype, args, out_served);
    case 72:
        return choose<T, three_80, two_80>(device, commands, dtype, args, out_served);
    case 96:
        return choose<T, three_96, two_96>(device, commands, dtype, args, out_served);
    default:
        return launch<T, two_128>(device, commands, dtype, args, out_served);
    }
}

bool attention_hopper_can(const kin_device *device, const kin_call *call) {
    const kin_desc *q = &call->in[ATTENTION_Q].desc, *k = &call->in[ATTENTION_K].desc;
    const char *setting = kin_context_setting(device->context, "cuda.hopper");
    const int64_t size = q->dims[q->rank - 1];
    const int64_t queries = q->dims[q->rank - 3], keys = k->dims[k->rank - 3];
    return setting != nullptr && strcmp(setting, "on") == 0 &&
           kin_cuda_of(device)->properties.capability == 90 && q->dtype != KIN_F32 &&
           (size == 64 || size == 72 || size == 96 || size == 128) && queries >= LEAST &&
           keys >= LEAST && (queries > SHORT || keys > SHORT) &&
           !kin_cuda_has(call, ATTENTION_BIAS) && attention_can_forward(device, call);
}

/* Rows at odd places, which are not known while planning, go to the kernels of attention.cu. */
static kin_status launch_forward(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_dtype dtype = call->in[ATTENTION_Q].desc.dtype;
    const attention_args args = attention_forward_args(call);
    bool served = false;
    if (attention_is_aligned(&args, dtype)) {
        const kin_status status = dtype == KIN_BF16
                                      ? pad<kin_bf16>(device, commands, dtype, &args, &served)
                                      : pad<kin_f16>(device, commands, dtype, &args, &served);
        if (status != KIN_OK) return status;
    }
    return served ? KIN_OK : attention_launch_forward(device, commands, call);
}

KIN_CUDA_ROWS(attention_hopper) = {
    {"attention", "cuda_attention_hopper",
     1u << ATTENTION_Q | 1u << ATTENTION_K | 1u << ATTENTION_V, 0, attention_hopper_can, NULL,
     launch_forward},
    {},
};
