/* The forward pass of attention for one instruction set, and the table of both passes.
 *
 * What was tried. Shares are of the 512-bit FMA rate of one Zen 5 core, measured in the same run
 * (250-275 GFLOP/s); f32, head size 72, CPU time, minima over repetitions, beside other work.
 *
 * - Queries in the lanes, K and V read by broadcast, 6 x 4 vectors of sums. Predicted 80 %;
 *   measured 81-83 % at n 1024-4096; n 256: 85 % in the cache, 70 % from a packed qkv in memory.
 * - The same for the products of backward, dk and dv with head elements in the lanes. Predicted
 *   85 %; measured 79 % at n 1024, 71 % at n 256 from memory.
 * - Keys per tile 48, 64, 96, 128, 192, 256. Predicted best: 64-128; all equal within noise.
 * - Blocks per packing of K and V: 1, 2, 4, 8. Predicted: 4 costs 2 % of packing and saves misses;
 *   all equal within noise (2 slightly worse): 4.
 * - Rows of q and o copied before they are transposed. Predicted: helps where rows lie whole pages
 *   apart; 75 -> 82 % there (stride 3072, in the cache), 70 -> 67 % at n 256 from memory: left out.
 * - Prefetch of the next head's or sample's rows. Predicted up to 1.3x at n 256 and 2x at n 16;
 *   nothing at n 256, 0-10 % at n 16: left out.
 * - n 16 (256 x 16 problems): rows of each head copied together. 0.30 -> 0.21 ms for 16 x 16
 *   problems from the third-level cache, but 7.3 -> 9.0 ms from memory: left out.
 * - n 16: all heads of a token gathered at once. Predicted 4.1 ms from memory; measured
 *   7.1 -> 7.2-7.9 ms, with huge pages 7.0 -> 6.5 ms, from the third-level cache 0.30 -> 0.22 ms:
 *   kept. One problem in the first-level cache takes 0.5 us (54 %), a third of it packing.
 */
#include "backends/cpu/attention_common.h"

enum {
    KEY_TILE = 128,  /* keys per tile of scores */
    CHUNK_BLOCKS = 4 /* blocks of queries that share one packing of K and V */
};

/* log2 of a positive normal number to 2 units in the last place; -infinity of 0; NaN stays. */
KIN_INLINE vf log2_positive(vf x) {
    vi bits = (vi)x;
    vi exponent = (bits - 0x3f3504f3) >> 23; /* of x relative to sqrt(1/2) */
    vf t = (vf)(bits - (exponent << 23)) - vf_set1(1.0f);
    vf e = __builtin_convertvector(exponent, vf);
    vf p = vf_set1(1.2926430e-1f);
    p = vf_fma(p, t, vf_set1(-2.0893381e-1f));
    p = vf_fma(p, t, vf_set1(2.1521225e-1f));
    p = vf_fma(p, t, vf_set1(-2.3867568e-1f));
    p = vf_fma(p, t, vf_set1(2.8793909e-1f));
    p = vf_fma(p, t, vf_set1(-3.6071626e-1f));
    p = vf_fma(p, t, vf_set1(4.8091028e-1f));
    p = vf_fma(p, t, vf_set1(-7.2134720e-1f));
    p = vf_fma(p, t, vf_set1(1.4426950f));
    vf result = vf_fma(p, t, e);
    result = vf_select(x == vf_zero(), vf_set1(-INFINITY), result);
    return vf_select(x != x, x, result);
}

/* Turns a tile of scores into exp2(score - max), updates max and sum, and leaves in `factor` what
 * the sums so far must be multiplied with. */
KIN_INLINE void softmax_body(const int vectors, int64_t keys, float *s, float *max, float *sum,
                             float *factor) {
    vf top[TILE_QUERY_VECTORS], total[TILE_QUERY_VECTORS];
    TILE_UNROLL for (int j = 0; j < vectors; j++) top[j] = vf_load(max + j * W);
    for (int64_t k = 0; k < keys; k++)
        TILE_UNROLL for (int j = 0; j < vectors; j++) top[j] =
            vf_max(top[j], vf_load(s + (k * vectors + j) * W));
    TILE_UNROLL for (int j = 0; j < vectors; j++) {
        const vf old = vf_load(max + j * W);
        vf_store(max + j * W, top[j]);
        /* no key so far: subtract 0, so that exp2 gives 0 and not NaN */
        top[j] = vf_select(top[j] == vf_set1(-INFINITY), vf_zero(), top[j]);
        const vf f = exp2_below(old - top[j]);
        vf_store(factor + j * W, f);
        total[j] = vf_load(sum + j * W) * f;
    }
    for (int64_t k = 0; k < keys; k++) TILE_UNROLL for (int j = 0; j < vectors; j++) {
            float *at = s + (k * vectors + j) * W;
            const vf e = exp2_below(vf_load(at) - top[j]);
            total[j] += e;
            vf_store(at, e);
        }
    TILE_UNROLL for (int j = 0; j < vectors; j++) vf_store(sum + j * W, total[j]);
}

static void softmax_tile(int vectors, int64_t keys, float *s, float *max, float *sum,
                         float *factor) {
    switch (vectors) {
    case 1:
        softmax_body(1, keys, s, max, sum, factor);
        break;
    case 2:
        softmax_body(2, keys, s, max, sum, factor);
        break;
#if TILE_QUERY_VECTORS == 4
    case 3:
        softmax_body(3, keys, s, max, sum, factor);
        break;
    default:
        softmax_body(4, keys, s, max, sum, factor);
        break;
#else
    default:
        break;
#endif
    }
}

/* What one task of the forward pass works on. */
typedef struct forward_scratch {
    float *q;         /* [block][D][BLOCK] */
    float *o;         /* [block][D][BLOCK] */
    float *max, *sum; /* [block][BLOCK] */
    float *factor;    /* [BLOCK] */
    float *s;         /* [KEY_TILE][BLOCK] */
    float *k, *v;     /* [KEY_TILE][D] */
    float *gathered;  /* q, k, v, o of all heads, where is_gathered */
} forward_scratch;

/* Blocks per task: as many as keep q and o in the cache, one where K and V are used but once. */
static int64_t forward_blocks(const cpu_attention_args *p) {
    int64_t blocks = smaller(CHUNK_BLOCKS, divide_up(p->queries, BLOCK));
    while (blocks > 1 && blocks * BLOCK * p->head_size > 65536) blocks--;
    return blocks;
}

/* Short sequences of tokens that lie far apart, as in attention over frames: the heads of a token
 * are neighbours, so all of them are brought close at once, each token in one read. */
static int64_t gather_stride(const cpu_attention_args *p) {
    return divide_up(p->heads * p->head_size, W) * W + W; /* never a multiple of the page size */
}

static int64_t gather_floats(const cpu_attention_args *p) {
    return 2 * (p->queries + p->keys) * gather_stride(p);
}

static bool is_gathered(const cpu_attention_args *p) {
    const int64_t d = p->head_size, width = p->heads * d;
    const bool adjacent = p->q.h == d && p->k.h == d && p->v.h == d && p->o.h == d;
    const bool far = p->q.n > width || p->k.n > width || p->v.n > width || p->o.n > width;
    return p->heads > 1 && p->queries <= BLOCK && p->keys <= BLOCK && adjacent && far &&
           gather_floats(p) <= 163840;
}

static int64_t forward_floats(const cpu_attention_args *p) {
    const int64_t d = p->head_size, blocks = forward_blocks(p);
    return 2 * blocks * d * BLOCK + 2 * blocks * BLOCK + BLOCK + KEY_TILE * BLOCK +
           2 * KEY_TILE * d + 16 + (is_gathered(p) ? gather_floats(p) : 0);
}

static forward_scratch forward_layout(const cpu_attention_args *p, float *at) {
    const int64_t d = p->head_size, blocks = forward_blocks(p);
    forward_scratch w;
    w.q = at;
    w.o = w.q + blocks * d * BLOCK;
    w.s = w.o + blocks * d * BLOCK;
    w.max = w.s + KEY_TILE * BLOCK;
    w.sum = w.max + blocks * BLOCK;
    w.factor = w.sum + blocks * BLOCK;
    w.k = w.factor + BLOCK;
    w.v = w.k + KEY_TILE * d;
    w.gathered = w.v + KEY_TILE * d;
    return w;
}

/* One tile of keys for one block of queries: `vectors` vectors from query q0 of `count`. */
static void forward_tile(const cpu_attention_args *p, const forward_scratch *w, int64_t block,
                         const float *bias, int64_t q0, int64_t count, const float *k,
                         int64_t k_stride, const float *v, int64_t v_stride, int64_t k0,
                         int64_t keys) {
    const int64_t d = p->head_size;
    const int vectors = (int)divide_up(count, W);
    float *max = w->max + block * BLOCK, *sum = w->sum + block * BLOCK;
    const tile_product scores = {.steps = d,
                                 .a = k,
                                 .a_stride = k_stride,
                                 .b = w->q + block * d * BLOCK,
                                 .b_stride = vectors * W,
                                 .c = w->s,
                                 .c_stride = vectors * W,
                                 .clear = true,
                                 .rows = keys,
                                 .vectors = vectors};
    tile_multiply(&scores);
    if (bias) add_bias(p, bias, q0, count, k0, keys, vectors, w->s);
    softmax_tile(vectors, keys, w->s, max, sum, w->factor);
    const tile_product values = {.steps = keys,
                                 .a = v,
                                 .a_stride = v_stride,
                                 .b = w->s,
                                 .b_stride = vectors * W,
                                 .c = w->o + block * d * BLOCK,
                                 .c_stride = vectors * W,
                                 .factor = w->factor,
                                 .clear = k0 == 0,
                                 .rows_adjacent = true,
                                 .rows = d,
                                 .vectors = vectors};
    tile_multiply(&values);
}

static void forward_store(const cpu_attention_args *p, const forward_scratch *w, int64_t block,
                          int64_t count, float *o, float *lse) {
    const int vectors = (int)divide_up(count, W);
    for (int j = 0; j < vectors; j++) {
        const int rows = (int)smaller(count - j * W, W);
        const vf max = vf_load(w->max + block * BLOCK + j * W);
        const vf sum = vf_load(w->sum + block * BLOCK + j * W);
        const vf empty = (vf)(sum == vf_zero());
        const vf inverse = vf_select((vi)empty, vf_zero(), vf_set1(1.0f) / sum);
        unpack_columns(w->o + block * p->head_size * BLOCK + j * W, vectors * W, rows, p->head_size,
                       inverse, 0, o + j * W * p->o.n, p->o.n);
        const vf total = vf_select((vi)empty, vf_set1(-INFINITY), max + log2_positive(sum));
        if (lse) vf_store_n(lse + j * W, total, rows);
    }
}

/* The queries from q0 to q0 + count of one head. */
static void forward_task(const cpu_attention_args *p, const forward_scratch *w, int64_t i0,
                         int64_t i1, int64_t h, int64_t q0, int64_t count) {
    const int64_t d = p->head_size, keys = key_count(p, i0);
    const float *q = input_head(&p->q, i0, i1, h) + q0 * p->q.n;
    const float *k = input_head(&p->k, i0, i1, h), *v = input_head(&p->v, i0, i1, h);
    const float *bias = p->bias.data;
    if (bias) bias += i0 * p->bias.b0 + i1 * p->bias.b1 + h * p->bias.h;
    float *o = output_head(&p->o, i0, i1, h) + q0 * p->o.n;
    const int64_t head = (i0 * p->b1 + i1) * p->heads + h;
    float *lse = p->lse ? p->lse + head * p->queries + q0 : NULL;
    if (keys == 0) {
        for (int64_t i = 0; i < count; i++) {
            memset(o + i * p->o.n, 0, (size_t)d * sizeof *o);
            if (lse) lse[i] = -INFINITY;
        }
        return;
    }
    const int64_t blocks = divide_up(count, BLOCK);
    for (int64_t i = 0; i < blocks; i++) {
        const int64_t rows = smaller(count - i * BLOCK, BLOCK);
        pack_queries(q + i * BLOCK * p->q.n, p->q.n, rows, d, p->scale * LOG2_E,
                     (int)divide_up(rows, W), w->q + i * d * BLOCK);
        for (int64_t j = 0; j < BLOCK; j++) {
            w->max[i * BLOCK + j] = -INFINITY;
            w->sum[i * BLOCK + j] = 0;
        }
    }
    const int64_t tile = divide_up(keys, divide_up(keys, KEY_TILE));
    for (int64_t k0 = 0; k0 < keys; k0 += tile) {
        const int64_t n = smaller(keys - k0, tile);
        const float *tile_k = k + k0 * p->k.n, *tile_v = v + k0 * p->v.n;
        int64_t k_stride = p->k.n, v_stride = p->v.n;
        if (blocks > 1) {
            copy_rows(tile_k, k_stride, n, d, w->k, d);
            copy_rows(tile_v, v_stride, n, d, w->v, d);
            tile_k = w->k;
            tile_v = w->v;
            k_stride = v_stride = d;
        }
        for (int64_t i = 0; i < blocks; i++)
            forward_tile(p, w, i, bias, q0 + i * BLOCK, smaller(count - i * BLOCK, BLOCK), tile_k,
                         k_stride, tile_v, v_stride, k0, n);
    }
    for (int64_t i = 0; i < blocks; i++)
        forward_store(p, w, i, smaller(count - i * BLOCK, BLOCK), o + i * BLOCK * p->o.n,
                      lse ? lse + i * BLOCK : NULL);
}

static void forward_gathered(const cpu_attention_args *p, const forward_scratch *w, int64_t i0,
                             int64_t i1) {
    const int64_t d = p->head_size, ld = gather_stride(p), width = p->heads * d;
    cpu_attention_args near = *p;
    float *q = w->gathered, *k = q + p->queries * ld, *v = k + p->keys * ld, *o = v + p->keys * ld;
    copy_rows(input_head(&p->q, i0, i1, 0), p->q.n, p->queries, width, q, ld);
    copy_rows(input_head(&p->k, i0, i1, 0), p->k.n, p->keys, width, k, ld);
    copy_rows(input_head(&p->v, i0, i1, 0), p->v.n, p->keys, width, v, ld);
    for (int64_t i = 0; p->prepare && i < p->queries * p->heads; i++) {
        const int64_t n = i / p->heads, at = n * ld + i % p->heads * d;
        KIN_ISA_NAME(cpu_attention_prepare_row)(p->prepare, 0, n, q + at, d, q + at);
        KIN_ISA_NAME(cpu_attention_prepare_row)(p->prepare, 1, n, k + at, d, k + at);
    }
    near.q = (cpu_attention_input){q, 0, 0, ld, d};
    near.k = (cpu_attention_input){k, 0, 0, ld, d};
    near.v = (cpu_attention_input){v, 0, 0, ld, d};
    near.o = (cpu_attention_output){o, 0, 0, ld, d};
    for (int64_t h = 0; h < p->heads; h++) forward_task(&near, w, i0, i1, h, 0, p->queries);
    copy_rows(o, ld, p->queries, width, output_head(&p->o, i0, i1, 0), p->o.n);
}

static void forward(const cpu_attention_args *p) {
    const bool gathered = is_gathered(p);
    const int64_t size = forward_blocks(p) * BLOCK, parts = divide_up(p->queries, size);
    const int64_t tasks = p->b0 * p->b1 * (gathered ? 1 : p->heads * parts);
    const int group =
        task_group(smaller(size, p->queries) * p->keys * p->head_size * (gathered ? p->heads : 1));
#if defined(_OPENMP)
#pragma omp parallel num_threads(thread_count(p))
#endif
    {
        const forward_scratch w = forward_layout(p, thread_scratch(p, forward_floats(p)));
#if defined(_OPENMP)
#pragma omp for schedule(dynamic, group)
#endif
        for (int64_t t = 0; t < tasks; t++) {
            if (gathered) {
                forward_gathered(p, &w, t / p->b1, t % p->b1);
                continue;
            }
            const int64_t head = t / parts, q0 = t % parts * size;
            const int64_t batch = head / p->heads;
            forward_task(p, &w, batch / p->b1, batch % p->b1, head % p->heads, q0,
                         smaller(p->queries - q0, size));
        }
    }
    (void)group;
}

static size_t scratch_bytes(const cpu_attention_args *p, int backward) {
    const int64_t floats =
        backward ? KIN_ISA_NAME(cpu_attention_backward_floats)(p) : forward_floats(p);
    return (size_t)(divide_up(floats, 16) * 16 * thread_count(p)) * sizeof(float) + 64;
}

const cpu_attention_functions KIN_ISA_NAME(cpu_attention_functions) = {
    scratch_bytes,
    forward,
    KIN_ISA_NAME(cpu_attention_backward),
    is_gathered,
    KIN_ISA_NAME(cpu_attention_prepare_all),
    KIN_ISA_NAME(cpu_attention_back)};
