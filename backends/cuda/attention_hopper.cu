/* attention, forward, on Hopper: f16 and bf16, heads of 64, 72 (80 in shared memory), 96 and 128,
 * from 512 keys on, without lengths and bias.
 *
 * UNCHECKED on a GPU: the emulator runs it (hopper_emulated.cuh), no Hopper has yet. So it serves
 * only if the setting cuda.hopper is "on"; attention_mma_forward.cu does otherwise, and every call
 * that this row declines. To check it:
 *
 *     KINORA_BACKEND_PATH=... plugin_cuda_kernels cuda0 cuda.hopper=on attention
 *
 * A block has 128 queries of one head and three warpgroups. One thread of the first keeps the copy
 * engine two tiles of 128 keys ahead; the others have 64 queries each. A consumer issues the scores
 * of tile j and, right behind them, the product of the weights of tile j - 1 with its values; it
 * makes tile j's weights while the latter runs (Shah et al. 2024, arXiv:2407.08608). Scores and
 * weights stay in registers: 64 for scores, 32 for packed weights, DP / 2 for the result.
 *
 *   DP    panels     shared memory   registers (ptxas of CUDA 13.0; no spills)
 *   64    1 of 64    99 KB           168 at the start, 24 for the producer, 240 for consumers
 *   80    5 of 16    122 KB          the same
 *   96    3 of 32    146 KB          the same
 *   128   2 of 64    194 KB          the same
 *
 * Ladder (predicted; nothing is measured yet). A multiprocessor does 2048 multiply-adds with wgmma
 * or 16 exponents in a clock, so a score of a head of 96 costs 0.094 clocks of products and 0.063
 * of exponents; with mma.sync 0.19 of products.
 *
 *   mma    attention_mma_forward.cu: 300 TFLOP/s
 *   this   exponents behind the other consumer's products and its own second one: 500 to 550
 *   next   the two consumers in turns by named barriers; blocks that go on to the next tile of
 *          queries, which hides the first copies (below 2,000 keys); some exponents as polynomials
 */
#include "backends/cuda/attention_mma.cuh"
#include "backends/cuda/hopper.cuh"

#include <string.h>

enum { GROUP = 128, THREADS = 3 * GROUP, BM = 128, BN = 128, STAGES = 2, LEAST_KEYS = 512 };

/* Panels of a head of DP elements. */
template <int DP> struct hopper_head {
    enum { W = DP % 64 == 0 ? 64 : DP % 32 == 0 ? 32 : 16, PANELS = DP / W };
    enum { TILE = BN * DP, OWN = 64 * DP }; /* elements of a tile of keys, of 64 queries */
};

template <int DP> struct alignas(1024) hopper_shared {
    uint16_t k[STAGES][BN * DP], v[STAGES][BN * DP], q[2][64 * DP];
    uint16_t result[BM * (DP + 8)];
    uint64_t k_full[STAGES], k_empty[STAGES], v_full[STAGES], v_empty[STAGES], q_full;
};

/* The thread that feeds the copy engine. */
template <int DP>
static __device__ __forceinline__ void produce(hopper_shared<DP> &shared, const hopper_map *q_map,
                                               const hopper_map *k_map, const hopper_map *v_map,
                                               attention_place at, int first, int tiles) {
    typedef hopper_head<DP> head;
    const auto copy = [&](uint16_t *to, const hopper_map *map, uint64_t *barrier, int row,
                          int rows) {
        for (int p = 0; p < head::PANELS; p++)
            hopper_copy(to + p * rows * head::W, map, barrier, p * head::W, row, at.h, at.i1,
                        at.i0);
    };
    hopper_expect(&shared.q_full, (int)sizeof shared.q);
    for (int i = 0; i < 2; i++) copy(shared.q[i], q_map, &shared.q_full, first + i * 64, 64);
    for (int j = 0; j < tiles; j++) {
        const int stage = j % STAGES, parity = j / STAGES % 2 ^ 1;
        if (j >= STAGES) hopper_wait(&shared.k_empty[stage], parity);
        hopper_expect(&shared.k_full[stage], (int)sizeof shared.k[0]);
        copy(shared.k[stage], k_map, &shared.k_full[stage], j * BN, BN);
        if (j >= STAGES) hopper_wait(&shared.v_empty[stage], parity);
        hopper_expect(&shared.v_full[stage], (int)sizeof shared.v[0]);
        copy(shared.v[stage], v_map, &shared.v_full[stage], j * BN, BN);
    }
}

/* s = q k^T of 64 queries and a tile of keys; issued, not waited for. */
template <typename T, int DP>
static __device__ __forceinline__ void issue_scores(float (&s)[16][4], const uint16_t *q,
                                                    const uint16_t *k) {
    enum { W = hopper_head<DP>::W };
#pragma unroll
    for (int step = 0; step < DP / 16; step++) {
        const int panel = step * 16 / W, column = step * 16 % W;
        hopper_scores<T>(s, hopper_panel_by_column<W>(q + panel * 64 * W + column),
                         hopper_panel_by_column<W>(k + panel * BN * W + column), step > 0);
    }
    hopper_close();
}

/* out += p v, likewise. */
template <typename T, int DP>
static __device__ __forceinline__ void issue_add(float (&out)[DP / 8][4], const uint32_t (&p)[8][4],
                                                 const uint16_t *v) {
    enum { W = hopper_head<DP>::W };
#pragma unroll
    for (int step = 0; step < BN / 16; step++)
        hopper_add<T>(out, p[step], hopper_panel_by_row<W>(v + step * 16 * W, BN * W * 2));
    hopper_close();
}

/* Scores become weights; factor is what earlier weights shrink by. Keys from `count` on are out. */
static __device__ __forceinline__ void weigh(attention_softmax<1> &x, float (&s)[16][4],
                                             float scale, int count, float (&factor)[2], int lane) {
    if (count < BN) {
#pragma unroll
        for (int n = 0; n < 16; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (n * 8 + lane % 4 * 2 + i % 2 >= count) s[n][i] = -INFINITY;
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float most = -INFINITY, sum = 0.0f;
#pragma unroll
        for (int n = 0; n < 16; n++) most = fmaxf(most, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
        const float top = fmaxf(x.top[0][half], attention_row_max(most) * scale);
        const float base = attention_base(top);
        factor[half] = kin_exp2(x.top[0][half] - base);
        x.top[0][half] = top;
#pragma unroll
        for (int n = 0; n < 16; n++)
#pragma unroll
            for (int i = 2 * half; i < 2 * half + 2; i++) {
                s[n][i] = kin_exp2(fmaf(s[n][i], scale, -base));
                sum += s[n][i];
            }
        x.total[0][half] = x.total[0][half] * factor[half] + sum;
    }
}

template <typename T>
static __device__ __forceinline__ void pack_weights(uint32_t (&p)[8][4], const float (&s)[16][4]) {
#pragma unroll
    for (int k = 0; k < 8; k++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            p[k][i] = kin_pair<T>(s[2 * k + i / 2][i % 2 * 2], s[2 * k + i / 2][i % 2 * 2 + 1]);
}

template <typename T, int DP>
static __device__ __forceinline__ void consume(hopper_shared<DP> &shared, const attention_args &a,
                                               attention_place at, int first, int group,
                                               int tiles) {
    const int thread = (int)threadIdx.x % GROUP, lane = thread % 32, warp = thread / 32;
    const float scale = a.scale * ATTENTION_LOG2_E;
    attention_softmax<1> softmax;
    float out[1][DP / 8][4], s[16][4], factor[1][2];
    uint32_t p[8][4];
    attention_begin(softmax);
    kin_mma_clear(out);
    hopper_wait(&shared.q_full, 0);
    hopper_wait(&shared.k_full[0], 0);
    hopper_begin();
    issue_scores<T, DP>(s, shared.q[group], shared.k[0]);
    hopper_join<0>();
    hopper_pin(s);
    hopper_arrive(&shared.k_empty[0]);
    weigh(softmax, s, scale, a.keys, factor[0], lane);
    pack_weights<T>(p, s);
    for (int j = 1; j < tiles; j++) {
        const int stage = j % STAGES, before = (j - 1) % STAGES;
        hopper_wait(&shared.k_full[stage], j / STAGES % 2);
        hopper_pin(s);
        hopper_pin(p);
        hopper_pin(out[0]);
        hopper_begin();
        issue_scores<T, DP>(s, shared.q[group], shared.k[stage]);
        hopper_wait(&shared.v_full[before], (j - 1) / STAGES % 2);
        issue_add<T, DP>(out[0], p, shared.v[before]);
        hopper_join<1>();
        hopper_pin(s);
        hopper_arrive(&shared.k_empty[stage]);
        weigh(softmax, s, scale, a.keys - j * BN, factor[0], lane);
        hopper_join<0>();
        hopper_pin(out[0]);
        hopper_pin(p);
        hopper_arrive(&shared.v_empty[before]);
#pragma unroll
        for (int n = 0; n < DP / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) out[0][n][i] *= factor[0][i / 2];
        pack_weights<T>(p, s);
    }
    hopper_wait(&shared.v_full[(tiles - 1) % STAGES], (tiles - 1) / STAGES % 2);
    hopper_pin(p);
    hopper_pin(out[0]);
    hopper_begin();
    issue_add<T, DP>(out[0], p, shared.v[(tiles - 1) % STAGES]);
    hopper_join<0>();
    hopper_pin(out[0]);

    const int row = first + group * 64 + warp * 16;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float total = attention_row_sum(softmax.total[0][half]);
        const int query = row + half * 8 + lane / 4;
        factor[0][half] = total > 0.0f ? 1.0f / total : 0.0f;
        if (lane % 4 == 0 && query < a.queries)
            a.lse[attention_lse_at(a, at) + query] =
                total > 0.0f ? softmax.top[0][half] + log2f(total) : -INFINITY;
    }
    attention_store<T, DP>(attention_start<uint16_t>(a.o, at) + row * a.o.steps[2], a.o.steps[2],
                           a.queries - row, a.size, out, factor,
                           shared.result + (group * 64 + warp * 16) * attention_tile<DP>::PITCH,
                           lane);
}

template <typename T, int DP>
static __global__ void __launch_bounds__(THREADS, 1)
    attention_forward_hopper(const __grid_constant__ hopper_map q_map,
                             const __grid_constant__ hopper_map k_map,
                             const __grid_constant__ hopper_map v_map, attention_args a) {
    KIN_DYNAMIC_SHARED(hopper_shared<DP>, memory);
    hopper_shared<DP> &shared = *memory;
    const int blocks = (a.queries + BM - 1) / BM, tiles = (a.keys + BN - 1) / BN;
    const int first = (int)(blockIdx.x % blocks) * BM;
    const attention_place at = attention_place_of(a, blockIdx.x / blocks);
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            hopper_barrier_init(&shared.k_full[i], 1);
            hopper_barrier_init(&shared.v_full[i], 1);
            hopper_barrier_init(&shared.k_empty[i], 2 * GROUP);
            hopper_barrier_init(&shared.v_empty[i], 2 * GROUP);
        }
        hopper_barrier_init(&shared.q_full, 1);
        hopper_barrier_publish();
    }
    __syncthreads();
    if (threadIdx.x < GROUP) {
        hopper_fewer_registers<24>();
        if (threadIdx.x == 0) produce<DP>(shared, &q_map, &k_map, &v_map, at, first, tiles);
    } else {
        hopper_more_registers<240>();
        consume<T, DP>(shared, a, at, first, (int)threadIdx.x / GROUP - 1, tiles);
    }
}

/* ---- on the host ---- */

/* Rows as the axes element, token, head, batch, batch, copied `rows` at a time. */
static bool describe(hopper_map *map, kin_dtype dtype, const attention_args *args,
                     const attention_rows *x, int tokens, int width, int rows) {
    const int64_t dims[5] = {args->size, tokens, args->heads, args->b1, args->b0};
    const int64_t steps[4] = {x->steps[2], x->steps[3], x->steps[1], x->steps[0]};
    hopper_tensor tensor = {dtype, x->data, {}, {}, {(uint32_t)width, (uint32_t)rows, 1, 1, 1}};
    for (int i = 0; i < 5; i++) tensor.dims[i] = (uint64_t)dims[i];
    for (int i = 0; i < 4; i++) {
        if (dims[i + 1] > 1 && steps[i] <= 0) return false;
        tensor.strides[i] = dims[i + 1] > 1 ? (uint64_t)steps[i] * 2 : 16;
    }
    return hopper_describe(map, &tensor);
}

template <typename T, int DP>
static kin_status launch(kin_device *device, kin_commands *commands, kin_dtype dtype,
                         const attention_args *args, bool *out_served) {
    hopper_map q, k, v;
    const int width = hopper_head<DP>::W;
    *out_served = describe(&q, dtype, args, &args->q, args->queries, width, 64) &&
                  describe(&k, dtype, args, &args->k, args->keys, width, BN) &&
                  describe(&v, dtype, args, &args->v, args->keys, width, BN);
    if (!*out_served) return KIN_OK;
    const int64_t heads = (int64_t)args->b0 * args->b1 * args->heads;
    return kin_cuda_launch(device, commands, attention_forward_hopper<T, DP>,
                           dim3(kin_cuda_blocks(heads * ((args->queries + BM - 1) / BM), 1)),
                           dim3(THREADS), sizeof(hopper_shared<DP>), q, k, v, *args);
}

template <typename T>
static kin_status pad(kin_device *device, kin_commands *commands, kin_dtype dtype,
                      const attention_args *args, bool *out_served) {
    switch (args->size) {
    case 64:
        return launch<T, 64>(device, commands, dtype, args, out_served);
    case 72:
        return launch<T, 80>(device, commands, dtype, args, out_served);
    case 96:
        return launch<T, 96>(device, commands, dtype, args, out_served);
    default:
        return launch<T, 128>(device, commands, dtype, args, out_served);
    }
}

static bool can(const kin_device *device, const kin_call *call) {
    const kin_desc *q = &call->in[ATTENTION_Q].desc, *k = &call->in[ATTENTION_K].desc;
    const char *setting = kin_context_setting(device->context, "cuda.hopper");
    const int64_t size = q->dims[q->rank - 1];
    return setting != nullptr && strcmp(setting, "on") == 0 &&
           kin_cuda_of(device)->properties.capability == 90 && q->dtype != KIN_F32 &&
           (size == 64 || size == 72 || size == 96 || size == 128) &&
           k->dims[k->rank - 3] >= LEAST_KEYS && !kin_cuda_has(call, ATTENTION_LENGTHS) &&
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
     1u << ATTENTION_Q | 1u << ATTENTION_K | 1u << ATTENTION_V, 0, can, NULL, launch_forward},
    {},
};
