/* attention and attention_grad of sequences of at most 128 tokens (attention over frames), and
 * self_attention of such: f16 and bf16, sm_80 and later.
 *
 * The warps of one head of one sequence have 16 queries and 16 keys each; the sequence's rows are
 * copied to shared memory once, from where they lie, padded there to DP elements. So no
 * permutation is written to memory, and q and k may be turned and normed on the way (two lanes a
 * row, in f32). Scores stay in registers. The backward pass needs neither delta nor a second
 * kernel: what is transposed is computed a second time, and the rows of q and k that the norm's
 * gradient needs are read again, from the second-level cache. Neighbouring warps or blocks do
 * neighbouring heads, whose rows are neighbours in memory.
 *
 *   tokens     warps of a block         keys (queries, backward) in work at once
 *   to 16      4, each with its own head  16
 *   17 to 32   4: 2 heads of 2            32 (backward, heads above 80: 16)
 *   33 to 128  3 to 8: 1 head             32 (the same)
 *
 *   DP    shared memory of a block, forward; backward    registers sm_90a, ptxas of CUDA 13.0
 *         to 16 tokens     128 tokens                    to 16      more
 *   64    28 KB; 47 KB     55 KB; 93 KB                  71; 157    111; 250
 *   80    34 KB; 57 KB     68 KB; 114 KB                 79; 164    119; 255, 28 bytes spilled
 *   96    40 KB; 67 KB     80 KB; 134 KB                 95; 206    128; 255
 *   128   52 KB; 88 KB     104 KB; 175 KB                119; 250   127; 255, 72 bytes spilled
 *
 * sm_80: 77 to 120 and 116 to 159 forward, 152 to 243 and 243 to 255 backward, there with a stack of
 * at most 144 bytes, for DP 128 of 200. What does not fit into shared memory goes to
 * attention_mma_*.cu.
 *
 * Bound by bandwidth: at head size 72 and 16 tokens 9.2 KB for 20 mma forward, 18 KB for 70
 * backward. Predicted, nothing is measured: the floor of 12.6 us of STDiT at 16x256x256 on an H100
 * within 1.3 forward, since 24 warps of a multiprocessor have 160 KB of copies under way; the same
 * with turns and norms, which are some 450 of about 1,000 instructions of a warp: 5 of the 12.6 us
 * if nothing of them hid behind the copies. Backward 25 us (151 MB at batch 2: 50) within 1.6: 12
 * warps of a multiprocessor. At 128 tokens backward one block is there at a time, whose copies and
 * products do not overlap: within 2.5 of its floor; a second one needs half of the registers. */
#include "backends/cuda/attention_prepare.cuh"

namespace {

/* How heads fall on warps. */
struct short_plan {
    int64_t count; /* heads of all sequences */
    int warps;     /* of one head */
    int heads;     /* of one block */
    int rows;      /* of a tile of one head in shared memory */
};

} // namespace

/* This warp's part of a launch. */
template <bool SOLO> struct short_place {
    int lane, slot, tile; /* the head within the block, and the warp within the head */
    int thread, threads;  /* within the head */
    bool there;
    attention_place at;

    __device__ __forceinline__ short_place(const attention_args &a, const short_plan &plan) {
        const int warp = (int)threadIdx.x / 32;
        const int warps = SOLO ? 1 : plan.warps;
        lane = (int)threadIdx.x % 32;
        slot = warp / warps;
        tile = warp % warps;
        thread = tile * 32 + lane;
        threads = warps * 32;
        const int64_t index = (int64_t)blockIdx.x * plan.heads + slot;
        there = index < plan.count;
        at = attention_place_of(a, there ? index : 0);
    }
    /* Waits for the threads of the head: a warp of its own, or the block. */
    __device__ __forceinline__ void wait() const {
        if (SOLO) __syncwarp();
        else __syncthreads();
    }
};

/* Begins to copy `count` rows of the head; the rest of the tile's `rows` become zeros. */
template <int DP, bool SOLO>
static __device__ __forceinline__ void short_fetch(uint16_t *tile, const attention_rows &from,
                                                   const short_place<SOLO> &own, int rows,
                                                   int count, int size) {
    enum { PIECES = DP / 8 };
    const uint16_t *const start = attention_start<const uint16_t>(from, own.at);
    const int all = SOLO ? 16 : rows, threads = SOLO ? 32 : own.threads;
#pragma unroll 2
    for (int i = own.thread; i < all * PIECES; i += threads) {
        const int row = i / PIECES, column = i % PIECES * 8;
        const bool inside = row < count && column < size;
        kin_copy16(tile + row * attention_tile<DP>::PITCH + column,
                   inside ? start + row * from.steps[2] + column : start, inside);
    }
}

static __device__ __forceinline__ bool is_prepared(const attention_prepare &p) {
    return p.q_gain.data != nullptr || p.turns != nullptr;
}

/* The gains in shared memory, [2][DP], by all threads of the block; NULL if there are none. */
template <int DP>
static __device__ __forceinline__ float *short_gains(void *shared, const attention_prepare &p,
                                                     int size) {
    float *const gains = static_cast<float *>(shared);
    if (p.q_gain.data == nullptr) return nullptr;
    attention_fetch_gains<DP>(gains, p, size);
    __syncthreads();
    return gains;
}

/* This warp's 16 rows of q or k, with a gain [DP] in shared memory or NULL. */
template <bool SOLO>
static __device__ __forceinline__ attention_tile_rows short_rows(const attention_args &a,
                                                                 const attention_prepare &p,
                                                                 const float *gain,
                                                                 const short_place<SOLO> &own) {
    const int first = own.tile * 16;
    attention_tile_rows rows = {own.there ? a.queries - first : 0, a.size, p.eps, gain, p.turns};
    if (p.turns != nullptr) rows.turns += (int64_t)first * a.size;
    return rows;
}

/* Turns and norms this warp's 16 rows of q and of k; gains: [2][DP] in shared memory, or NULL. */
template <typename T, int DP, bool SOLO>
static __device__ __forceinline__ void
short_prepare(uint16_t *q, uint16_t *k, const attention_args &a, const attention_prepare &p,
              const float *gains, const short_place<SOLO> &own) {
    const int at = own.tile * 16 * attention_tile<DP>::PITCH;
    const float *const k_gain = gains == nullptr ? nullptr : gains + DP;
    attention_prepare_tile<T, DP>(q + at, short_rows(a, p, gains, own), own.lane);
    attention_prepare_tile<T, DP>(k + at, short_rows(a, p, k_gain, own), own.lane);
}

template <typename T, int DP, bool SOLO>
static __global__ void __launch_bounds__(SOLO ? 128 : 256)
    attention_forward_short(attention_args a, attention_prepare p, short_plan plan) {
    enum { PITCH = attention_tile<DP>::PITCH, BN = SOLO ? 16 : 32, NT = BN / 8 };
    KIN_DYNAMIC_SHARED(uint16_t, shared);
    const short_place<SOLO> own(a, plan);
    const int rows = SOLO ? 16 : plan.rows, row = own.tile * 16, lane = own.lane;
    const int queries = own.there ? a.queries : 0;
    const int limit = own.there ? attention_limit(a, own.at) : 0;
    uint16_t *const q = shared + own.slot * 3 * rows * PITCH;
    uint16_t *const k = q + rows * PITCH, *const v = k + rows * PITCH;
    short_fetch<DP>(q, a.q, own, rows, queries, a.size);
    short_fetch<DP>(k, a.k, own, rows, limit, a.size);
    short_fetch<DP>(v, a.v, own, rows, limit, a.size);
    kin_copy_close();
    float *const gains = short_gains<DP>(shared + plan.heads * 3 * rows * PITCH, p, a.size);
    kin_copy_wait<0>();
    own.wait();
    if (is_prepared(p)) {
        short_prepare<T, DP>(q, k, a, p, gains, own);
        own.wait();
    }

    attention_softmax<1> softmax;
    float out[1][DP / 8][4], s[1][NT][4], factor[1][2];
    attention_begin(softmax);
    kin_mma_clear(out);
    const int end = row < queries ? limit : 0;
    for (int key = 0; key < (SOLO ? min(end, 1) : end); key += BN) {
        attention_scores<T, DP>(s, q + row * PITCH, k + key * PITCH, lane);
        if (a.bias != nullptr || key + BN > limit)
            attention_mask(a, s, attention_bias_start(a, own.at), row, key, limit, false, lane);
        attention_weigh<DP>(softmax, s, a.bias != nullptr ? 1.0f : a.scale * ATTENTION_LOG2_E, out);
        attention_add<T, DP>(out, s, v + key * PITCH, lane);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float total = attention_row_sum(softmax.total[0][half]);
        const int query = row + half * 8 + lane / 4;
        factor[0][half] = total > 0.0f ? 1.0f / total : 0.0f;
        if (lane % 4 == 0 && query < queries)
            a.lse[attention_lse_at(a, own.at) + query] =
                total > 0.0f ? softmax.top[0][half] + log2f(total) : -INFINITY;
    }
    attention_store<T, DP>(attention_start<uint16_t>(a.o, own.at) + row * a.o.steps[2],
                           a.o.steps[2], queries - row, a.size, out, factor, q + row * PITCH, lane);
}

/* Of one head: five tiles, and lse and delta of the queries. */
template <int DP> struct short_grad {
    uint16_t *q, *k, *v, *o, *d_o;
    float *base, *delta;

    static __host__ __device__ size_t bytes(int rows) {
        return (size_t)rows *
               (5 * attention_tile<DP>::PITCH * sizeof(uint16_t) + 2 * sizeof(float));
    }
    __device__ __forceinline__ short_grad(unsigned char *shared, int rows) {
        enum { PITCH = attention_tile<DP>::PITCH };
        q = reinterpret_cast<uint16_t *>(shared);
        k = q + rows * PITCH;
        v = k + rows * PITCH;
        o = v + rows * PITCH;
        d_o = o + rows * PITCH;
        base = reinterpret_cast<float *>(d_o + rows * PITCH);
        delta = base + rows;
    }
};

/* lse and delta of this warp's 16 queries, two lanes for each; of the tile's rows behind them, too,
 * where there are no queries. */
template <typename T, int DP, bool SOLO>
static __device__ __forceinline__ void short_delta(const attention_args &a,
                                                   const short_grad<DP> &tiles,
                                                   const short_place<SOLO> &own, int rows) {
    enum { PITCH = attention_tile<DP>::PITCH };
    const int row = own.tile * 16 + own.lane / 2;
    const T *o = reinterpret_cast<const T *>(tiles.o) + row * PITCH;
    const T *d_o = reinterpret_cast<const T *>(tiles.d_o) + row * PITCH;
    const int64_t at = attention_lse_at(a, own.at) + row;
    float sum = 0.0f;
    for (int d = own.lane % 2 * 8; d < DP; d += 16) {
        float left[8], right[8];
        kin_load<8>(o + d, left);
        kin_load<8>(d_o + d, right);
#pragma unroll
        for (int i = 0; i < 8; i++) sum = fmaf(left[i], right[i], sum);
    }
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    if (own.lane % 2 != 0) return;
    const bool there = own.there && row < a.queries;
    if (there && a.d_lse != nullptr) sum -= a.d_lse[at] * ATTENTION_LOG2_E;
    tiles.delta[row] = there ? sum : 0.0f;
    tiles.base[row] = there ? attention_base(a.lse[at]) : 0.0f;
    for (int rest = SOLO ? rows : row + own.threads / 2; rest < rows; rest += own.threads / 2)
        tiles.delta[rest] = tiles.base[rest] = 0.0f;
}

/* d_q of this warp's queries; or, by_key, d_k and d_v of its keys, with everything transposed. */
template <typename T, int DP, bool SOLO>
static __device__ __forceinline__ void
short_grad_side(const attention_args &a, const attention_prepare &p, const short_grad<DP> &tiles,
                const short_place<SOLO> &own, int limit, bool by_key, const float *gain,
                float *sums) {
    enum { PITCH = attention_tile<DP>::PITCH, BN = SOLO || DP > 80 ? 16 : 32, NT = BN / 8 };
    const int row = own.tile * 16, lane = own.lane, queries = own.there ? a.queries : 0;
    const int count = (by_key ? own.there ? a.keys : 0 : queries) - row;
    const int end = row < (by_key ? limit : queries) ? by_key ? queries : limit : 0;
    const uint16_t *left = (by_key ? tiles.k : tiles.q) + row * PITCH;
    const uint16_t *d_left = (by_key ? tiles.v : tiles.d_o) + row * PITCH;
    const uint16_t *right = by_key ? tiles.q : tiles.k, *d_right = by_key ? tiles.d_o : tiles.v;
    const attention_rows &from = by_key ? a.k : a.q, &to = by_key ? a.d_k : a.d_q;
    const float scale = a.bias != nullptr ? 1.0f : a.scale * ATTENTION_LOG2_E;
    const float one[1][2] = {{1.0f, 1.0f}}, by_scale[1][2] = {{a.scale, a.scale}};
    uint16_t *const tile = tiles.o + row * PITCH;
    float out[1][DP / 8][4], d_v[1][DP / 8][4], s[1][NT][4], d_s[1][NT][4];
    kin_mma_clear(out);
    kin_mma_clear(d_v);
    for (int at = 0; at < (SOLO ? 1 : end); at += BN) {
        attention_scores<T, DP>(s, left, right + at * PITCH, lane);
        attention_scores<T, DP>(d_s, d_left, d_right + at * PITCH, lane);
        const bool edge = by_key ? row + 16 > limit || at + BN > queries : at + BN > limit;
        if (a.bias != nullptr || edge)
            attention_mask(a, s, attention_bias_start(a, own.at), row, at, limit, by_key, lane);
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int query =
                    by_key ? at + n * 8 + lane % 4 * 2 + i % 2 : row + lane / 4 + i / 2 * 8;
                s[0][n][i] = kin_exp2(fmaf(s[0][n][i], scale, -tiles.base[query]));
                d_s[0][n][i] = s[0][n][i] * (d_s[0][n][i] - tiles.delta[query]);
            }
        if (by_key) attention_add<T, DP>(d_v, s, d_right + at * PITCH, lane);
        attention_add<T, DP>(out, d_s, right + at * PITCH, lane);
    }
    if (by_key)
        attention_store<T, DP>(attention_start<uint16_t>(a.d_v, own.at) + row * a.d_v.steps[2],
                               a.d_v.steps[2], count, a.size, d_v, one, tile, lane);
    attention_keep<T, DP>(tile, out, by_scale, lane);
    if (is_prepared(p)) {
        attention_unprepare_tile<T, DP>(
            tile, attention_start<const T>(from, own.at) + row * from.steps[2], from.steps[2],
            short_rows(a, p, gain, own), sums, lane);
        __syncwarp();
    }
    attention_send<DP, 16>(attention_start<uint16_t>(to, own.at) + row * to.steps[2], to.steps[2],
                           count, a.size, tile, lane);
}

template <typename T, int DP, bool SOLO>
static __global__ void __launch_bounds__(SOLO ? 128 : 256)
    attention_grad_short(attention_args a, attention_prepare p, short_plan plan) {
    KIN_DYNAMIC_SHARED(unsigned char, shared);
    const short_place<SOLO> own(a, plan);
    const int rows = SOLO ? 16 : plan.rows, warp = (int)threadIdx.x / 32;
    const int queries = own.there ? a.queries : 0;
    const int limit = own.there ? attention_limit(a, own.at) : 0;
    const short_grad<DP> tiles(shared + own.slot * short_grad<DP>::bytes(rows), rows);
    short_fetch<DP>(tiles.q, a.q, own, rows, queries, a.size);
    short_fetch<DP>(tiles.k, a.k, own, rows, limit, a.size);
    short_fetch<DP>(tiles.v, a.v, own, rows, limit, a.size);
    short_fetch<DP>(tiles.o, a.o, own, rows, queries, a.size);
    short_fetch<DP>(tiles.d_o, a.d_o, own, rows, queries, a.size);
    kin_copy_close();
    unsigned char *const behind = shared + plan.heads * short_grad<DP>::bytes(rows);
    float *const gains = short_gains<DP>(behind, p, a.size);
    /* parts of the gains' gradients: [warp][q, k][DP] */
    float *const all = reinterpret_cast<float *>(behind) + 2 * DP;
    kin_copy_wait<0>();
    own.wait();
    short_delta<T>(a, tiles, own, rows);
    if (is_prepared(p)) short_prepare<T, DP>(tiles.q, tiles.k, a, p, gains, own);
    own.wait();
#pragma unroll 1
    for (int side = 0; side < 2; side++)
        short_grad_side<T>(a, p, tiles, own, limit, side == 1,
                           gains == nullptr ? nullptr : gains + side * DP,
                           all + (warp * 2 + side) * DP);
    if (gains == nullptr) return;
    __syncthreads();
    const int warps = (int)blockDim.x / 32;
    for (int i = (int)threadIdx.x; i < 2 * a.size; i += (int)blockDim.x) {
        const int at = i < a.size ? i : DP + i - a.size;
        float sum = 0.0f;
        for (int w = 0; w < warps; w++) sum += all[w * 2 * DP + at];
        p.gain_parts[(int64_t)blockIdx.x * 2 * a.size + i] = sum;
    }
}

/* ---- launches ---- */

static short_plan plan_of(const attention_args *args) {
    const int tokens = args->queries > args->keys ? args->queries : args->keys;
    short_plan plan;
    plan.count = (int64_t)args->b0 * args->b1 * args->heads;
    plan.warps = (tokens + 15) / 16;
    plan.heads = plan.warps == 1 ? 4 : plan.warps == 2 ? 2 : 1;
    plan.rows = plan.warps == 1 ? 16 : (tokens + 31) / 32 * 32;
    return plan;
}

int64_t attention_short_blocks(const attention_args *args) {
    const short_plan plan = plan_of(args);
    return (plan.count + plan.heads - 1) / plan.heads;
}

/* Tiles, and with norms the gains and, backward, each warp's part of their gradients. */
template <int DP> static size_t shared_of(const short_plan &plan, bool grad, bool normed) {
    const size_t gains = 2 * DP * sizeof(float) * (grad ? 1 + plan.heads * plan.warps : 1);
    const size_t tiles = grad ? short_grad<DP>::bytes(plan.rows)
                              : (size_t)3 * plan.rows * attention_tile<DP>::PITCH * 2;
    return plan.heads * tiles + (normed ? gains : 0);
}

/* Calls body<DP>(). */
#define FOR_SIZE(size, body)                                                                       \
    ((size) <= 64 ? body<64> : (size) <= 80 ? body<80> : (size) <= 96 ? body<96> : body<128>)

bool attention_short_takes(const kin_device *device, const attention_args *args, bool grad) {
    if (args->queries > ATTENTION_SHORT_MOST || args->keys > ATTENTION_SHORT_MOST) return false;
    const size_t bytes = FOR_SIZE(args->size, shared_of)(plan_of(args), grad, true);
    return bytes <= kin_cuda_of(device)->properties.shared_limit;
}

template <typename T, int DP, bool SOLO>
static kin_status launch(kin_device *device, kin_commands *commands, const attention_args *args,
                         const attention_prepare *prepare, const short_plan &plan, bool grad) {
    const dim3 grid(kin_cuda_blocks(plan.count, plan.heads)), block(plan.heads * plan.warps * 32);
    const size_t shared = shared_of<DP>(plan, grad, prepare->q_gain.data != nullptr);
    return kin_cuda_launch(device, commands,
                           grad ? attention_grad_short<T, DP, SOLO>
                                : attention_forward_short<T, DP, SOLO>,
                           grid, block, shared, *args, *prepare, plan);
}

template <typename T, int DP>
static kin_status choose(kin_device *device, kin_commands *commands, const attention_args *args,
                         const attention_prepare *prepare, bool grad) {
    const short_plan plan = plan_of(args);
    return plan.warps == 1 ? launch<T, DP, true>(device, commands, args, prepare, plan, grad)
                           : launch<T, DP, false>(device, commands, args, prepare, plan, grad);
}

template <typename T>
static kin_status pad(kin_device *device, kin_commands *commands, const attention_args *args,
                      const attention_prepare *prepare, bool grad) {
    if (args->size <= 64) return choose<T, 64>(device, commands, args, prepare, grad);
    if (args->size <= 80) return choose<T, 80>(device, commands, args, prepare, grad);
    if (args->size <= 96) return choose<T, 96>(device, commands, args, prepare, grad);
    return choose<T, 128>(device, commands, args, prepare, grad);
}

kin_status attention_short_forward(kin_device *device, kin_commands *commands, kin_dtype dtype,
                                   const attention_args *args, const attention_prepare *prepare) {
    return dtype == KIN_BF16 ? pad<kin_bf16>(device, commands, args, prepare, false)
                             : pad<kin_f16>(device, commands, args, prepare, false);
}

kin_status attention_short_grad(kin_device *device, kin_commands *commands, kin_dtype dtype,
                                const attention_args *args, const attention_prepare *prepare) {
    return dtype == KIN_BF16 ? pad<kin_bf16>(device, commands, args, prepare, true)
                             : pad<kin_f16>(device, commands, args, prepare, true);
}
