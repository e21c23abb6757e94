/* attention_grad on Hopper: f16 and bf16, heads of 64, 72 (80 in shared memory), 96 and 128, from
 * 64 queries and keys on, with lengths, without bias.
 *
 * UNCHECKED on a GPU, as attention_hopper.cu is, and asked for in the same way. To check it:
 *
 *     KINORA_BACKEND_PATH=... plugin_cuda_kernels cuda0 cuda.hopper=on attention_grad
 *
 * Two kernels, neither with atomics, so that each result is one warpgroup's sum in a fixed order:
 *
 *   query  128 queries of one head walk over N keys at a time:     s, dp = do v^T, dq += ds k
 *   key    128 keys walk over N queries, all transposed:           s, dp, dv += p do, dk += ds q
 *
 * with p = 2^(s - lse) and ds = p (dp - delta). Left operands that were computed stay in registers;
 * nothing is exchanged between warps. Blocks go on to the next tile as in attention_hopper.cu. A
 * group's products of tile j - 1 with ds (and p) are issued behind the scores of tile j and run
 * while it makes that tile's, and while the other group makes its own, so that the key kernel needs
 * no turns; at DP 128 it has no registers for that, and relies on the other group. lse and delta of
 * a tile's queries are put into shared memory by warps beside the one that feeds the copy engine.
 *
 *   DP    kernel  N    stages  shared memory   registers (ptxas of CUDA 13.0; no spills)
 *   64    query   128  4       197 KB          40 for the producers, 232
 *   80    query   128  3       204 KB          the same
 *   96    query   96   3       207 KB
 *   128   query   96   3       211 KB
 *   64    key     80   4       147 KB
 *   80    key     80   4       183 KB
 *   96    key     64   4       195 KB
 *   128   key     64   4       195 KB
 *
 * One kernel for all would need five products of tiles, not seven. It was weighed and not taken:
 *   - ds has to go through shared memory to become a left operand by rows of queries. At DP 96 a
 *     tile of 128 keys and 64 queries then takes 1,920 clocks of wgmma, and 2,300 of shared memory
 *     (128 bytes a clock: 770 for s and dp, 380 for dv and dk, 450 for dq, 130 to store ds, 190 for
 *     copies, 380 for dq on its way out). The two kernels take 2,690 of wgmma and 2,250 of memory.
 *   - dq is summed over blocks: f32 scratch of 265 MB at 28,800 tokens of 24 heads of 96 (800 MB at
 *     86,400), and an order of additions, for which blocks would wait for one another. Such a wait
 *     has to be seen on a GPU before it may be trusted.
 * So it can win at most a sixth, 2,300 clocks against 2,690.
 *
 * Ladder (predicted, TFLOP/s that count five products; nothing is measured yet)
 *
 *   mma.sync, attention_mma_grad.cu                 96: 140
 *   this: 5 / 7 of two thirds of the wgmma rate     64: 400, 72: 410, 96: 460, 128: 470
 *
 * delta comes from a pass of its own, bound by memory: 6 us of some 35 for 4,096 tokens of 16 heads
 * of 72 in sequences of 256. Next: delta in the query kernel; v in registers of the key kernel (s
 * and dp at N 64 take all 128 bytes a clock of shared memory); the one kernel. */
#include "backends/cuda/attention_hopper.cuh"

/* ---- what both kernels share ---- */

enum { GROUPS = 2, BLOCK = GROUPS * HOPPER_ROWS, COMPUTE = GROUPS * HOPPER_GROUP };
enum { THREADS = COMPUTE + HOPPER_GROUP };
enum { FEW = 40, MANY = 232 }; /* registers */

/* A block has 128 rows of a side of its own, OWN times in shared memory so that those of the next
 * tile arrive early, and walks over the other side, N rows at a time. */
template <int DP_, int N_, int STAGES_, int OWN_> struct grad_shape {
    enum { DP = DP_, N = N_, STAGES = STAGES_, OWN = OWN_ };
};

/* Tiles of two operands. A group's own rows are adjacent: it writes its results through them. */
template <typename S> struct alignas(1024) grad_shared {
    uint16_t own[S::OWN][GROUPS][2][HOPPER_ROWS * S::DP];
    uint16_t other[S::STAGES][2][S::N * S::DP];
    float sums[S::STAGES][2][S::N]; /* lse and delta of queries, if those are the other side */
    uint64_t own_full[S::OWN], own_empty[S::OWN], full[S::STAGES], empty[S::STAGES], turn[GROUPS];
};

struct grad_tile {
    attention_place at;
    int first, limit, steps; /* row of its own, keys that take part, tiles of the other side */
};

/* The operands of the side of its own and of the other one: k, v and q, d_o, or the reverse. */
struct grad_maps {
    const hopper_map *own[2], *other[2];
};

template <typename S>
static __device__ __forceinline__ grad_tile tile_of(const attention_args &a, bool by_key,
                                                    int tile) {
    const int tiles = ((by_key ? a.keys : a.queries) + BLOCK - 1) / BLOCK;
    grad_tile x;
    x.first = tile % tiles * BLOCK;
    x.at = attention_place_of(a, tile / tiles);
    x.limit = attention_limit(a, x.at);
    const int rows = by_key ? (x.first < x.limit ? a.queries : 0) : x.limit;
    x.steps = (rows + S::N - 1) / S::N;
    return x;
}

template <typename S>
static __device__ __forceinline__ void begin(grad_shared<S> &shared, int writers) {
    if (threadIdx.x == 0) {
        for (int i = 0; i < S::OWN; i++) {
            hopper_barrier_init(&shared.own_full[i], 1);
            hopper_barrier_init(&shared.own_empty[i], 4 * GROUPS);
        }
        for (int i = 0; i < S::STAGES; i++) {
            hopper_barrier_init(&shared.full[i], 1 + writers);
            hopper_barrier_init(&shared.empty[i], 4 * GROUPS);
        }
        for (int i = 0; i < GROUPS; i++) hopper_barrier_init(&shared.turn[i], 4);
        hopper_barrier_publish();
    }
    __syncthreads();
}

/* The thread that feeds the copy engine. */
template <typename S>
static __device__ __forceinline__ void produce(grad_shared<S> &shared, const grad_maps &maps,
                                               const attention_args &a, bool by_key, int tiles) {
    hopper_ring<S::STAGES> ring = {0, 0};
    hopper_ring<S::OWN> own = {0, 0};
    for (int tile = (int)blockIdx.x; tile < tiles; tile += (int)gridDim.x) {
        const grad_tile x = tile_of<S>(a, by_key, tile);
        uint64_t *barrier = &shared.own_full[own.stage];
        hopper_wait(&shared.own_empty[own.stage], own.parity ^ 1);
        hopper_expect(barrier, (int)sizeof shared.own[0]);
        for (int i = 0; i < GROUPS; i++)
#pragma unroll
            for (int o = 0; o < 2; o++)
                hopper_fetch<S::DP, HOPPER_ROWS>(shared.own[own.stage][i][o], maps.own[o], barrier,
                                                 x.at, x.first + i * HOPPER_ROWS);
        hopper_next(own);
#pragma unroll 1
        for (int j = 0; j < x.steps; j++) {
            barrier = &shared.full[ring.stage];
            hopper_wait(&shared.empty[ring.stage], ring.parity ^ 1);
            hopper_expect(barrier, (int)sizeof shared.other[0]);
#pragma unroll
            for (int o = 0; o < 2; o++)
                hopper_fetch<S::DP, S::N>(shared.other[ring.stage][o], maps.other[o], barrier, x.at,
                                          j * S::N);
            hopper_next(ring);
        }
    }
}

/* ---- delta ---- */

enum { DELTA_THREADS = 256, DELTA_LANES = 4, DELTA_ROWS = DELTA_THREADS / DELTA_LANES };

/* delta = sum o d_o - d_lse log2(e), by 4 lanes for each query of each head, 16 bytes at a time.
 * Heads go fastest: neighbouring lanes read neighbouring memory. */
template <typename T>
static __global__ void __launch_bounds__(DELTA_THREADS)
    attention_hopper_delta(attention_args a, unsigned rows) {
    const unsigned index = blockIdx.x * DELTA_ROWS + threadIdx.x / DELTA_LANES;
    const unsigned row = min(index, rows - 1);
    const int lane = (int)(threadIdx.x % DELTA_LANES);
    const unsigned token = row / (unsigned)a.heads, batch = token / (unsigned)a.queries;
    const int query = (int)(token % (unsigned)a.queries);
    const attention_place at = {(int)(batch / (unsigned)a.b1), (int)(batch % (unsigned)a.b1),
                                (int)(row % (unsigned)a.heads)};
    const T *o = attention_start<const T>(a.o, at) + query * a.o.steps[2];
    const T *d_o = attention_start<const T>(a.d_o, at) + query * a.d_o.steps[2];
    float sum = 0.0f;
#pragma unroll 4
    for (int d = lane * 8; d < a.size; d += DELTA_LANES * 8) {
        float left[8], right[8];
        kin_load<8>(o + d, left);
        kin_load<8>(d_o + d, right);
#pragma unroll
        for (int i = 0; i < 8; i++) sum = fmaf(left[i], right[i], sum);
    }
    sum = attention_row_sum(sum);
    if (lane != 0 || index >= rows) return;
    const int64_t place = attention_lse_at(a, at) + query;
    a.delta[place] = a.d_lse == nullptr ? sum : sum - a.d_lse[place] * ATTENTION_LOG2_E;
}

/* ---- d_q: 128 queries walk over keys ---- */

template <typename T, typename S>
static __device__ __forceinline__ void consume_keys(grad_shared<S> &shared, const attention_args &a,
                                                    int tiles) {
    enum { DP = S::DP, N = S::N };
    const int group = __shfl_sync(0xffffffffu, (int)threadIdx.x / HOPPER_GROUP - 1, 0);
    const int thread = (int)threadIdx.x % HOPPER_GROUP, lane = thread % 32, warp = thread / 32;
    const float scale = a.scale * ATTENTION_LOG2_E;
    hopper_ring<S::STAGES> now = {0, 0}, before = {0, 0};
    hopper_ring<S::OWN> own = {0, 0};
    int turn = group == 0; /* the first one need not wait for its first turn */
    const auto take_turn = [&]() {
        hopper_wait(&shared.turn[group], turn);
        turn ^= 1;
    };
    const auto pass_turn = [&]() { hopper_arrive_warp(&shared.turn[group ^ 1], lane); };
    for (int tile = (int)blockIdx.x; tile < tiles; tile += (int)gridDim.x) {
        const grad_tile x = tile_of<S>(a, false, tile);
        const int row = x.first + group * HOPPER_ROWS + warp * 16;
        uint16_t *q = shared.own[own.stage][group][0], *d_o = shared.own[own.stage][group][1];
        float out[1][DP / 8][4], s[N / 8][4], d_s[N / 8][4], base[2], delta[2];
        uint32_t p[N / 16][4];
        kin_mma_clear(out);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int query = row + half * 8 + lane / 4;
            const int64_t place = attention_lse_at(a, x.at) + min(query, a.queries - 1);
            base[half] = attention_base(a.lse[place]);
            delta[half] = a.delta[place];
        }
        /* d_s = p (d_p - delta), from the scores and d_p. */
        const auto slope = [&](int count) {
#pragma unroll
            for (int n = 0; n < N / 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    d_s[n][i] =
                        kin_exp2(fmaf(s[n][i], scale, -base[i / 2])) * (d_s[n][i] - delta[i / 2]);
            if (count >= N) return;
#pragma unroll
            for (int n = 0; n < N / 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    if (n * 8 + lane % 4 * 2 + i % 2 >= count) d_s[n][i] = 0.0f;
        };
        hopper_wait(&shared.own_full[own.stage], own.parity);
        for (int j = 0; j < x.steps; j++) {
            hopper_wait(&shared.full[now.stage], now.parity);
            if (x.limit - j * N < N && x.limit < a.keys)
                hopper_clear_rows<DP, N, COMPUTE>(shared.other[now.stage][0], x.limit - j * N,
                                                  (int)threadIdx.x - HOPPER_GROUP);
            take_turn();
            hopper_pin(s);
            hopper_pin(d_s);
            hopper_pin(p);
            hopper_pin(out[0]);
            hopper_begin();
            hopper_issue_scores<T, DP>(s, q, shared.other[now.stage][0]);
            hopper_issue_scores<T, DP>(d_s, d_o, shared.other[now.stage][1]);
            if (j > 0) {
                hopper_begin();
                hopper_issue_add<T, DP>(out[0], p, shared.other[before.stage][0]);
                pass_turn();
                hopper_join<1>();
            } else {
                pass_turn();
                hopper_join<0>();
            }
            hopper_pin(s);
            hopper_pin(d_s);
            slope(x.limit - j * N);
            hopper_join<0>();
            hopper_pin(out[0]);
            hopper_pin(p);
            if (j > 0) {
                hopper_arrive_warp(&shared.empty[before.stage], lane);
                hopper_next(before);
            }
            hopper_next(now);
            hopper_pack<T>(p, d_s);
        }
        if (x.steps > 0) {
            take_turn();
            hopper_pin(p);
            hopper_pin(out[0]);
            hopper_begin();
            hopper_issue_add<T, DP>(out[0], p, shared.other[before.stage][0]);
            pass_turn();
            hopper_join<0>();
            hopper_pin(out[0]);
            hopper_arrive_warp(&shared.empty[before.stage], lane);
            hopper_next(before);
        }
        const float factor[1][2] = {{a.scale, a.scale}};
        /* A warp's 16 rows of the result take the place of its group's rows of d_o. */
        kin_barrier(2 + group, HOPPER_GROUP);
        attention_store<T, DP>(attention_start<uint16_t>(a.d_q, x.at) + row * a.d_q.steps[2],
                               a.d_q.steps[2], a.queries - row, a.size, out, factor,
                               q + warp * 16 * attention_tile<DP>::PITCH, lane);
        hopper_publish();
        hopper_arrive_warp(&shared.own_empty[own.stage], lane);
        hopper_next(own);
    }
}

template <typename T, typename S>
static __global__ void __launch_bounds__(THREADS, 1)
    attention_grad_query_hopper(const __grid_constant__ hopper_map q_map,
                                const __grid_constant__ hopper_map k_map,
                                const __grid_constant__ hopper_map v_map,
                                const __grid_constant__ hopper_map d_o_map, attention_args a,
                                int tiles) {
    KIN_DYNAMIC_SHARED(grad_shared<S>, shared);
    begin(*shared, 0);
    if (threadIdx.x < HOPPER_GROUP) {
        hopper_fewer_registers<FEW>();
        if (threadIdx.x == 0)
            produce<S>(*shared, {{&q_map, &d_o_map}, {&k_map, &v_map}}, a, false, tiles);
    } else {
        hopper_more_registers<MANY>();
        consume_keys<T, S>(*shared, a, tiles);
    }
}

/* ---- d_k and d_v: 128 keys walk over queries, all transposed ---- */

/* lse and delta of the queries of each stage, by warps beside the one that feeds the copy engine. A
 * query that does not exist gets the weight 2^-infinity. */
template <typename S>
static __device__ __forceinline__ void produce_sums(grad_shared<S> &shared, const attention_args &a,
                                                    int tiles, int thread) {
    hopper_ring<S::STAGES> ring = {0, 0};
    for (int tile = (int)blockIdx.x; tile < tiles; tile += (int)gridDim.x) {
        const grad_tile x = tile_of<S>(a, true, tile);
        const int64_t lse_at = attention_lse_at(a, x.at);
#pragma unroll 1
        for (int j = 0; j < x.steps; j++) {
            const int query = j * S::N + thread;
            const bool there = query < a.queries;
            const float lse = there ? attention_base(a.lse[lse_at + query]) : INFINITY;
            const float delta = there ? a.delta[lse_at + query] : 0.0f;
            hopper_wait(&shared.empty[ring.stage], ring.parity ^ 1);
            if (thread < S::N) {
                shared.sums[ring.stage][0][thread] = lse;
                shared.sums[ring.stage][1][thread] = delta;
            }
            hopper_arrive_warp(&shared.full[ring.stage], thread % 32);
            hopper_next(ring);
        }
    }
}

template <typename T, typename S>
static __device__ __forceinline__ void consume_queries(grad_shared<S> &shared,
                                                       const attention_args &a, int tiles) {
    enum { DP = S::DP, N = S::N };
    enum { ALONE = DP == 128 }; /* no registers for the next scores beside the weights */
    const int group = __shfl_sync(0xffffffffu, (int)threadIdx.x / HOPPER_GROUP - 1, 0);
    const int thread = (int)threadIdx.x % HOPPER_GROUP, lane = thread % 32, warp = thread / 32;
    const float scale = a.scale * ATTENTION_LOG2_E;
    hopper_ring<S::STAGES> now = {0, 0}, before = {0, 0};
    hopper_ring<S::OWN> own = {0, 0};
    for (int tile = (int)blockIdx.x; tile < tiles; tile += (int)gridDim.x) {
        const grad_tile x = tile_of<S>(a, true, tile);
        const int row = x.first + group * HOPPER_ROWS + warp * 16;
        uint16_t *k = shared.own[own.stage][group][0], *v = shared.own[own.stage][group][1];
        float d_k[1][DP / 8][4], d_v[1][DP / 8][4], s[N / 8][4], d_s[N / 8][4];
        uint32_t p[N / 16][4], d_p[N / 16][4];
        kin_mma_clear(d_k);
        kin_mma_clear(d_v);
        /* Rows from the limit on are out. */
        const auto mask = [&](float(&values)[N / 8][4]) {
#pragma unroll
            for (int n = 0; n < N / 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    if (row + lane / 4 + i / 2 * 8 >= x.limit) values[n][i] = 0.0f;
        };
        const auto add = [&](const uint16_t(*tiles_before)[N * DP]) {
            hopper_issue_add<T, DP>(d_v[0], p, tiles_before[1]);
            hopper_issue_add<T, DP>(d_k[0], d_p, tiles_before[0]);
        };
        hopper_wait(&shared.own_full[own.stage], own.parity);
        for (int j = 0; j < x.steps; j++) {
            const float *sums = shared.sums[now.stage][0] + lane % 4 * 2;
            hopper_wait(&shared.full[now.stage], now.parity);
            hopper_pin(s);
            hopper_pin(d_s);
            hopper_pin(p);
            hopper_pin(d_p);
            hopper_pin(d_v[0]);
            hopper_pin(d_k[0]);
            hopper_begin();
            hopper_issue_scores<T, DP>(s, k, shared.other[now.stage][0]);
            hopper_issue_scores<T, DP>(d_s, v, shared.other[now.stage][1]);
            if (!ALONE && j > 0) {
                hopper_begin();
                add(shared.other[before.stage]);
                hopper_join<2>();
            } else {
                hopper_join<0>();
            }
            hopper_pin(s);
            hopper_pin(d_s);
#pragma unroll
            for (int n = 0; n < N / 8; n++) {
                const float2 base = *reinterpret_cast<const float2 *>(sums + n * 8);
                const float2 delta = *reinterpret_cast<const float2 *>(sums + N + n * 8);
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    s[n][i] = kin_exp2(fmaf(s[n][i], scale, -(i % 2 != 0 ? base.y : base.x)));
                    d_s[n][i] = s[n][i] * (d_s[n][i] - (i % 2 != 0 ? delta.y : delta.x));
                }
            }
            if (x.first + BLOCK > x.limit) {
                mask(s);
                mask(d_s);
            }
            hopper_join<0>();
            hopper_pin(d_k[0]);
            hopper_pin(d_v[0]);
            hopper_pin(p);
            hopper_pin(d_p);
            if (!ALONE && j > 0) {
                hopper_arrive_warp(&shared.empty[before.stage], lane);
                hopper_next(before);
            }
            hopper_pack<T>(p, s);
            hopper_pack<T>(d_p, d_s);
            if (ALONE) {
                hopper_pin(p);
                hopper_pin(d_p);
                hopper_begin();
                add(shared.other[now.stage]);
                hopper_join<0>();
                hopper_pin(d_k[0]);
                hopper_pin(d_v[0]);
                hopper_arrive_warp(&shared.empty[now.stage], lane);
            }
            hopper_next(now);
        }
        if (!ALONE && x.steps > 0) {
            hopper_pin(p);
            hopper_pin(d_p);
            hopper_pin(d_k[0]);
            hopper_pin(d_v[0]);
            hopper_begin();
            add(shared.other[before.stage]);
            hopper_join<0>();
            hopper_pin(d_k[0]);
            hopper_pin(d_v[0]);
            hopper_arrive_warp(&shared.empty[before.stage], lane);
            hopper_next(before);
        }
        const float by_scale[1][2] = {{a.scale, a.scale}}, by_one[1][2] = {{1.0f, 1.0f}};
        uint16_t *tile_of_warp = k + warp * 16 * attention_tile<DP>::PITCH;
        kin_barrier(2 + group, HOPPER_GROUP);
        attention_store<T, DP>(attention_start<uint16_t>(a.d_k, x.at) + row * a.d_k.steps[2],
                               a.d_k.steps[2], a.keys - row, a.size, d_k, by_scale, tile_of_warp,
                               lane);
        attention_store<T, DP>(attention_start<uint16_t>(a.d_v, x.at) + row * a.d_v.steps[2],
                               a.d_v.steps[2], a.keys - row, a.size, d_v, by_one, tile_of_warp,
                               lane);
        hopper_publish();
        hopper_arrive_warp(&shared.own_empty[own.stage], lane);
        hopper_next(own);
    }
}

template <typename T, typename S>
static __global__ void __launch_bounds__(THREADS, 1)
    attention_grad_key_hopper(const __grid_constant__ hopper_map q_map,
                              const __grid_constant__ hopper_map k_map,
                              const __grid_constant__ hopper_map v_map,
                              const __grid_constant__ hopper_map d_o_map, attention_args a,
                              int tiles) {
    enum { WRITERS = (S::N + 31) / 32 };
    KIN_DYNAMIC_SHARED(grad_shared<S>, shared);
    begin(*shared, WRITERS);
    if (threadIdx.x < HOPPER_GROUP) {
        hopper_fewer_registers<FEW>();
        if (threadIdx.x == 0)
            produce<S>(*shared, {{&k_map, &v_map}, {&q_map, &d_o_map}}, a, true, tiles);
        else if (threadIdx.x >= 32 && threadIdx.x < 32 + WRITERS * 32)
            produce_sums<S>(*shared, a, tiles, (int)threadIdx.x - 32);
    } else {
        hopper_more_registers<MANY>();
        consume_queries<T, S>(*shared, a, tiles);
    }
}

/* ---- on the host ---- */

/* One kernel; `own` and `other` are the rows of its boxes. */
template <typename S>
static kin_status launch_one(kin_device *device, kin_commands *commands,
                             void (*kernel)(const hopper_map, const hopper_map, const hopper_map,
                                            const hopper_map, attention_args, int),
                             kin_dtype dtype, const attention_args *args, bool by_key,
                             bool *out_served) {
    static_assert(sizeof(grad_shared<S>) <= HOPPER_SHARED, "more shared memory than there is");
    hopper_map q, k, v, d_o;
    const int query_box = by_key ? (int)S::N : (int)HOPPER_ROWS;
    const int key_box = by_key ? (int)HOPPER_ROWS : (int)S::N;
    const int64_t heads = (int64_t)args->b0 * args->b1 * args->heads;
    const int64_t tiles = heads * (((by_key ? args->keys : args->queries) + BLOCK - 1) / BLOCK);
    *out_served =
        tiles <= INT32_MAX / 2 &&
        hopper_describe_rows<S::DP>(&q, dtype, args, &args->q, args->queries, query_box) &&
        hopper_describe_rows<S::DP>(&k, dtype, args, &args->k, args->keys, key_box) &&
        hopper_describe_rows<S::DP>(&v, dtype, args, &args->v, args->keys, key_box) &&
        hopper_describe_rows<S::DP>(&d_o, dtype, args, &args->d_o, args->queries, query_box);
    if (!*out_served) return KIN_OK;
    return kin_cuda_launch(device, commands, kernel, dim3(hopper_blocks(device, tiles)),
                           dim3(THREADS), sizeof(grad_shared<S>), q, k, v, d_o, *args, tiles);
}

template <typename T>
static kin_status launch_delta(kin_device *device, kin_commands *commands, kin_dtype dtype,
                               const attention_args *args) {
    const int64_t rows = (int64_t)args->b0 * args->b1 * args->heads * args->queries;
    if (rows > INT32_MAX) return attention_plain_delta(device, commands, dtype, args);
    return kin_cuda_launch(device, commands, attention_hopper_delta<T>,
                           dim3(kin_cuda_blocks(rows, DELTA_ROWS)), dim3(DELTA_THREADS), 0, *args,
                           rows);
}

template <typename T, typename QUERY, typename KEY>
static kin_status launch(kin_device *device, kin_commands *commands, kin_dtype dtype,
                         const attention_args *args, bool *out_served) {
    kin_status status = launch_one<QUERY>(device, commands, attention_grad_query_hopper<T, QUERY>,
                                          dtype, args, false, out_served);
    if (status != KIN_OK || !*out_served) return status;
    return launch_one<KEY>(device, commands, attention_grad_key_hopper<T, KEY>, dtype, args, true,
                           out_served);
}

template <typename T>
static kin_status pad(kin_device *device, kin_commands *commands, kin_dtype dtype,
                      const attention_args *args, bool *out_served) {
    typedef grad_shape<64, 128, 4, 2> query_64;
    typedef grad_shape<80, 128, 3, 2> query_80;
    typedef grad_shape<96, 96, 3, 2> query_96;
    typedef grad_shape<128, 96, 3, 1> query_128;
    typedef grad_shape<64, 80, 4, 2> key_64;
    typedef grad_shape<80, 80, 4, 2> key_80;
    typedef grad_shape<96, 64, 4, 2> key_96;
    typedef grad_shape<128, 64, 4, 1> key_128;
    switch (args->size) {
    case 64:
        return launch<T, query_64, key_64>(device, commands, dtype, args, out_served);
    case 72:
        return launch<T, query_80, key_80>(device, commands, dtype, args, out_served);
    case 96:
        return launch<T, query_96, key_96>(device, commands, dtype, args, out_served);
    default:
        return launch<T, query_128, key_128>(device, commands, dtype, args, out_served);
    }
}

/* ---- a call taken apart ---- */

/* The call of attention that this one is the gradient of: its inputs, and d_q and lse as outputs.
 */
struct forward_call {
    kin_operand in[5], out[2];
    kin_call call;
};

static void forward_of(const kin_call *call, forward_call *out) {
    const kin_operand absent = {{}, nullptr, 0};
    for (int i = 0; i < 3; i++) out->in[i] = call->in[i];
    out->in[ATTENTION_LENGTHS] = out->in[ATTENTION_BIAS] = absent;
    out->in[ATTENTION_LENGTHS].desc.rank = out->in[ATTENTION_BIAS].desc.rank = -1;
    if (kin_cuda_has(call, ATTENTION_GRAD_LENGTHS))
        out->in[ATTENTION_LENGTHS] = call->in[ATTENTION_GRAD_LENGTHS];
    out->out[0] = call->out[0];
    out->out[1] = call->in[ATTENTION_LSE];
    out->call = *call;
    out->call.in = out->in;
    out->call.out = out->out;
    out->call.in_count = 5;
    out->call.out_count = 2;
}

static attention_rows rows_of(const kin_operand *x) {
    const int rank = x->desc.rank;
    const int64_t *strides = x->desc.strides;
    return {kin_cuda_address(x),
            {strides[0], rank == 5 ? strides[1] : 0, strides[rank - 3], strides[rank - 2]}};
}

static bool can(const kin_device *device, const kin_call *call) {
    const kin_desc *q = &call->in[ATTENTION_Q].desc;
    forward_call forward;
    forward_of(call, &forward);
    if (kin_cuda_has(call, ATTENTION_GRAD_BIAS) ||
        !kin_desc_is_dense(&call->in[ATTENTION_LSE].desc) ||
        (kin_cuda_has(call, ATTENTION_D_LSE) &&
         !kin_desc_is_dense(&call->in[ATTENTION_D_LSE].desc)))
        return false;
    for (int i = ATTENTION_O; i <= ATTENTION_D_O; i += ATTENTION_D_O - ATTENTION_O) {
        const kin_desc *desc = &call->in[i].desc;
        if (desc->dtype != q->dtype || desc->strides[desc->rank - 1] != 1) return false;
    }
    return attention_hopper_can(device, &forward.call);
}

/* delta. */
static size_t scratch(const kin_device *device, const kin_call *call) {
    (void)device;
    return (size_t)kin_desc_count(&call->in[ATTENTION_LSE].desc) * sizeof(float);
}

static kin_status launch_grad(kin_device *device, kin_commands *commands, const kin_call *call) {
    const kin_dtype dtype = call->in[ATTENTION_Q].desc.dtype;
    forward_call forward;
    bool served = false;
    forward_of(call, &forward);
    attention_args args = attention_forward_args(&forward.call);
    args.d_q = args.o;
    args.d_k = rows_of(&call->out[1]);
    args.d_v = rows_of(&call->out[2]);
    args.o = rows_of(&call->in[ATTENTION_O]);
    args.d_o = rows_of(&call->in[ATTENTION_D_O]);
    if (kin_cuda_has(call, ATTENTION_D_LSE))
        args.d_lse = static_cast<const float *>(kin_cuda_address(&call->in[ATTENTION_D_LSE]));
    args.delta = static_cast<float *>(kin_cuda_scratch(call, 0));
    const bool aligned = attention_is_aligned(&args, dtype);
    kin_status status = !aligned            ? attention_plain_delta(device, commands, dtype, &args)
                        : dtype == KIN_BF16 ? launch_delta<kin_bf16>(device, commands, dtype, &args)
                                            : launch_delta<kin_f16>(device, commands, dtype, &args);
    if (status != KIN_OK) return status;
    if (!aligned) return attention_plain_grad(device, commands, dtype, &args);
    status = dtype == KIN_BF16 ? pad<kin_bf16>(device, commands, dtype, &args, &served)
                               : pad<kin_f16>(device, commands, dtype, &args, &served);
    if (status != KIN_OK || served) return status;
    return attention_mma_grad(device, commands, dtype, &args);
}

KIN_CUDA_ROWS(attention_grad_hopper) = {
    {"attention_grad", "cuda_attention_grad_hopper",
     1u << ATTENTION_Q | 1u << ATTENTION_K | 1u << ATTENTION_V | 1u << ATTENTION_O |
         1u << ATTENTION_D_O,
     0, can, scratch, launch_grad},
    {},
};
