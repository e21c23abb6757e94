/* The backward pass of attention for one instruction set. */
#include "backends/cpu/attention_common.h"

enum { KEY_TILE = 64 }; /* keys per tile of scores; there are two tiles */

/* dk and dv of a stretch of keys add up in the cache while all queries pass by, block by block:
 *
 *   P^T = exp2(S^T - lse)    dP^T = V dO^T    dS^T = P^T (dP^T - delta)    delta = o . do - dlse
 *   dV += P^T dO             dK += dS^T Q     dQ^T += K^T dS^T
 *
 * One task owns one head, so that every sum has one order whatever the number of threads. */
typedef struct backward_scratch {
    float *q_columns, *do_columns; /* [D][BLOCK]: q scale log2(e), do */
    float *q_rows, *do_rows;       /* [BLOCK][padded] */
    float *dq;                     /* [D][BLOCK] */
    float *lse, *delta;            /* [BLOCK] */
    float *s, *ds;                 /* [KEY_TILE][BLOCK]: P^T and dS^T */
    float *k, *v;                  /* [chunk][D] */
    float *dk, *dv;                /* [chunk][padded] */
    int64_t padded, chunk;
} backward_scratch;

/* Keys per pass over the queries: k, v, dk and dv stay in the second-level cache. */
static int64_t backward_chunk(const cpu_attention_args *p) {
    int64_t chunk = 163840 / (4 * p->head_size) / KEY_TILE * KEY_TILE;
    if (chunk < KEY_TILE) chunk = KEY_TILE;
    return smaller(chunk, p->keys);
}

int64_t KIN_ISA_NAME(cpu_attention_backward_floats)(const cpu_attention_args *p) {
    const int64_t d = p->head_size, padded = divide_up(d, W) * W;
    return 3 * d * BLOCK + 2 * BLOCK * padded + 2 * BLOCK + 2 * KEY_TILE * BLOCK +
           4 * divide_up(backward_chunk(p), W) * W * padded + 16;
}

static backward_scratch backward_layout(const cpu_attention_args *p, float *at) {
    const int64_t d = p->head_size;
    backward_scratch w;
    w.padded = divide_up(d, W) * W;
    w.chunk = backward_chunk(p);
    w.q_columns = at;
    w.do_columns = w.q_columns + d * BLOCK;
    w.dq = w.do_columns + d * BLOCK;
    w.q_rows = w.dq + d * BLOCK;
    w.do_rows = w.q_rows + BLOCK * w.padded;
    w.lse = w.do_rows + BLOCK * w.padded;
    w.delta = w.lse + BLOCK;
    w.s = w.delta + BLOCK;
    w.ds = w.s + KEY_TILE * BLOCK;
    w.dk = w.ds + KEY_TILE * BLOCK;
    w.dv = w.dk + w.chunk * w.padded;
    w.k = w.dv + w.chunk * w.padded;
    w.v = w.k + w.chunk * d;
    return w;
}

/* One head of every operand. */
typedef struct backward_head {
    const float *q, *k, *v, *o, *d_o, *lse, *d_lse, *bias;
    float *dq, *dk, *dv;
    int64_t keys;
} backward_head;

static backward_head backward_operands(const cpu_attention_args *p, int64_t i0, int64_t i1,
                                       int64_t h) {
    backward_head x;
    x.q = input_head(&p->q, i0, i1, h);
    x.k = input_head(&p->k, i0, i1, h);
    x.v = input_head(&p->v, i0, i1, h);
    x.o = input_head(&p->saved_o, i0, i1, h);
    x.d_o = input_head(&p->d_o, i0, i1, h);
    const int64_t head = (i0 * p->b1 + i1) * p->heads + h;
    x.lse = p->saved_lse + head * p->queries;
    x.d_lse = p->d_lse ? p->d_lse + head * p->queries : NULL;
    x.bias = p->bias.data;
    if (x.bias) x.bias += i0 * p->bias.b0 + i1 * p->bias.b1 + h * p->bias.h;
    x.dq = output_head(&p->dq, i0, i1, h);
    x.dk = output_head(&p->dk, i0, i1, h);
    x.dv = output_head(&p->dv, i0, i1, h);
    x.keys = key_count(p, i0);
    return x;
}

/* Packs queries q0 to q0 + count, and their lse and delta. Without `rows` no row-major copies. */
static void backward_pack(const cpu_attention_args *p, const backward_scratch *w,
                          const backward_head *x, int64_t q0, int64_t count, bool rows) {
    const int64_t d = p->head_size;
    const int vectors = (int)divide_up(count, W), rest = (int)(d % W);
    const float *q = x->q + q0 * p->q.n, *d_o = x->d_o + q0 * p->d_o.n;
    pack_queries(q, p->q.n, count, d, p->scale * LOG2_E, vectors, w->q_columns);
    pack_queries(d_o, p->d_o.n, count, d, 1.0f, vectors, w->do_columns);
    if (rows) {
        copy_rows(q, p->q.n, count, d, w->q_rows, w->padded);
        copy_rows(d_o, p->d_o.n, count, d, w->do_rows, w->padded);
    }
    for (int64_t i = 0; i < vectors * W; i++) {
        /* beyond the last query, and where no key took part: P = exp2(s - inf) = 0 */
        w->lse[i] = INFINITY;
        w->delta[i] = 0;
        if (i >= count) continue;
        if (x->lse[q0 + i] != -INFINITY) w->lse[i] = x->lse[q0 + i];
        const float *a = x->o + (q0 + i) * p->saved_o.n, *b = d_o + i * p->d_o.n;
        vf sum = vf_zero();
        for (int64_t c = 0; c + W <= d; c += W) sum = vf_fma(vf_load(a + c), vf_load(b + c), sum);
        if (rest) sum = vf_fma(vf_load_n(a + d - rest, rest), vf_load_n(b + d - rest, rest), sum);
        w->delta[i] = vf_sum(sum) - (x->d_lse ? x->d_lse[q0 + i] * LOG2_E : 0.0f);
    }
}

/* s = P^T and ds = dS^T for `keys` keys from k0 and the packed queries. */
static void backward_scores(const cpu_attention_args *p, const backward_scratch *w,
                            const backward_head *x, const float *k, int64_t k_stride,
                            const float *v, int64_t v_stride, int64_t k0, int64_t keys, int64_t q0,
                            int64_t count) {
    const int vectors = (int)divide_up(count, W);
    tile_product product = {.steps = p->head_size,
                            .a = k,
                            .a_stride = k_stride,
                            .b = w->q_columns,
                            .b_stride = vectors * W,
                            .c = w->s,
                            .c_stride = vectors * W,
                            .clear = true,
                            .rows = keys,
                            .vectors = vectors};
    tile_multiply(&product);
    if (x->bias) add_bias(p, x->bias, q0, count, k0, keys, vectors, w->s);
    product.a = v;
    product.a_stride = v_stride;
    product.b = w->do_columns;
    product.c = w->ds;
    tile_multiply(&product);
    for (int j = 0; j < vectors; j++) {
        const vf lse = vf_load(w->lse + j * W), delta = vf_load(w->delta + j * W);
        for (int64_t i = 0; i < keys; i++) {
            const int64_t at = (i * vectors + j) * W;
            const vf e = exp2_below(vf_load(w->s + at) - lse);
            vf_store(w->s + at, e);
            vf_store(w->ds + at, e * (vf_load(w->ds + at) - delta));
        }
    }
}

/* target[key][d] += sum over the queries of weights^T[key][query] rows[query][d]. */
static void add_weighted_rows(const float *weights, int64_t ld, const float *rows, int64_t padded,
                              int64_t keys, int64_t count, bool clear, float *target) {
    const int64_t total = padded / W, parts = divide_up(total, TILE_VECTORS);
    int64_t done = 0;
    for (int64_t i = 0; i < parts; i++) {
        const int64_t vectors = total / parts + (i < total % parts);
        const tile_product product = {.steps = count,
                                      .a = weights,
                                      .a_stride = ld,
                                      .b = rows + done * W,
                                      .b_stride = padded,
                                      .c = target + done * W,
                                      .c_stride = padded,
                                      .clear = clear,
                                      .rows = keys,
                                      .vectors = (int)vectors};
        tile_multiply(&product);
        done += vectors;
    }
}

/* One block of queries against `chunk` keys from k0, of which k and v are the rows. */
static void backward_block(const cpu_attention_args *p, const backward_scratch *w,
                           const backward_head *x, const float *k, int64_t k_stride, const float *v,
                           int64_t v_stride, int64_t k0, int64_t chunk, int64_t q0, int64_t count) {
    const int64_t d = p->head_size;
    const int vectors = (int)divide_up(count, W);
    const int64_t tile = divide_up(chunk, divide_up(chunk, KEY_TILE));
    backward_pack(p, w, x, q0, count, true);
    for (int64_t i = 0; i < chunk; i += tile) {
        const int64_t keys = smaller(chunk - i, tile);
        backward_scores(p, w, x, k + i * k_stride, k_stride, v + i * v_stride, v_stride, k0 + i,
                        keys, q0, count);
        add_weighted_rows(w->s, vectors * W, w->do_rows, w->padded, keys, count, q0 == 0,
                          w->dv + i * w->padded);
        add_weighted_rows(w->ds, vectors * W, w->q_rows, w->padded, keys, count, q0 == 0,
                          w->dk + i * w->padded);
        const tile_product product = {.steps = keys,
                                      .a = k + i * k_stride,
                                      .a_stride = k_stride,
                                      .b = w->ds,
                                      .b_stride = vectors * W,
                                      .c = w->dq,
                                      .c_stride = vectors * W,
                                      .clear = i == 0,
                                      .rows_adjacent = true,
                                      .rows = d,
                                      .vectors = vectors};
        tile_multiply(&product);
    }
    for (int j = 0; j < vectors; j++)
        unpack_columns(w->dq + j * W, vectors * W, (int)smaller(count - j * W, W), d,
                       vf_set1(p->scale), k0 > 0, x->dq + (q0 + j * W) * p->dq.n, p->dq.n);
}

static void clear_rows(float *rows, int64_t stride, int64_t count, int64_t columns) {
    for (int64_t i = 0; i < count; i++)
        memset(rows + i * stride, 0, (size_t)columns * sizeof *rows);
}

static void scale_rows(const float *source, int64_t source_stride, int64_t rows, int64_t columns,
                       float factor, float *target, int64_t target_stride) {
    const int rest = (int)(columns % W);
    const vf f = vf_set1(factor);
    for (int64_t i = 0; i < rows; i++) {
        const float *s = source + i * source_stride;
        float *t = target + i * target_stride;
        for (int64_t c = 0; c + W <= columns; c += W) vf_store(t + c, vf_load(s + c) * f);
        if (rest) vf_store_n(t + columns - rest, vf_load(s + columns - rest) * f, rest);
    }
}

static void backward_task(const cpu_attention_args *p, const backward_scratch *w, int64_t i0,
                          int64_t i1, int64_t h) {
    const int64_t d = p->head_size;
    const backward_head x = backward_operands(p, i0, i1, h);
    for (int64_t k0 = 0; k0 < x.keys; k0 += w->chunk) {
        const int64_t chunk = smaller(x.keys - k0, w->chunk);
        const float *k = x.k + k0 * p->k.n, *v = x.v + k0 * p->v.n;
        int64_t k_stride = p->k.n, v_stride = p->v.n;
        if (p->queries > BLOCK) {
            copy_rows(k, k_stride, chunk, d, w->k, d);
            copy_rows(v, v_stride, chunk, d, w->v, d);
            k = w->k;
            v = w->v;
            k_stride = v_stride = d;
        }
        for (int64_t q0 = 0; q0 < p->queries; q0 += BLOCK)
            backward_block(p, w, &x, k, k_stride, v, v_stride, k0, chunk, q0,
                           smaller(p->queries - q0, BLOCK));
        scale_rows(w->dk, w->padded, chunk, d, p->scale, x.dk + k0 * p->dk.n, p->dk.n);
        copy_rows(w->dv, w->padded, chunk, d, x.dv + k0 * p->dv.n, p->dv.n);
    }
    if (x.keys == 0) clear_rows(x.dq, p->dq.n, p->queries, d);
    clear_rows(x.dk + x.keys * p->dk.n, p->dk.n, p->keys - x.keys, d);
    clear_rows(x.dv + x.keys * p->dv.n, p->dv.n, p->keys - x.keys, d);
}

/* Adds one tile of dS^T to the gradient of the bias, one element after the other. */
static void bias_gradient_tile(const cpu_attention_bias_gradient *b, const float *ds, int64_t ld,
                               int64_t keys, int64_t count, float *target) {
    for (int64_t k = 0; k < keys; k++) {
        const float *row = ds + k * ld;
        float *to = target + k * b->k;
        if (b->q == 0) {
            float sum = 0;
            for (int64_t i = 0; i < count; i++) sum += row[i];
            *to += sum;
        } else {
            for (int64_t i = 0; i < count; i++) to[i * b->q] += row[i];
        }
    }
}

/* Along one axis of the bias: tasks where it has elements, terms of the sum where it repeats. */
typedef struct bias_axis {
    int64_t tasks, terms, stride;
} bias_axis;

static bias_axis bias_split(int64_t size, int64_t stride) {
    const bias_axis axis = {stride ? size : 1, stride ? 1 : size, stride};
    return axis;
}

/* dS once more, for as long as it takes to sum it: a pass of its own keeps the order of the sums
 * and costs nothing to those who want no gradient of the bias. Task (t0, t1, th, tq) owns the
 * elements of the bias at (t0, t1, th) and a block of queries. */
static void bias_gradient_task(const cpu_attention_args *p, const backward_scratch *w,
                               const bias_axis axes[3], const int64_t task[3], int64_t q_begin,
                               int64_t q_end) {
    const cpu_attention_bias_gradient *b = &p->dbias;
    float *target = b->data + task[0] * b->b0 + task[1] * b->b1 + task[2] * b->h;
    for (int64_t q = 0; q < (b->q ? q_end - q_begin : 1); q++)
        for (int64_t k = 0; k < (b->k ? p->keys : 1); k++)
            target[(q_begin + q) * b->q + k * b->k] = 0;
    const int64_t terms = axes[0].terms * axes[1].terms * axes[2].terms;
    for (int64_t t = 0; t < terms; t++) {
        const backward_head x = backward_operands(p, task[0] + t / (axes[1].terms * axes[2].terms),
                                                  task[1] + t / axes[2].terms % axes[1].terms,
                                                  task[2] + t % axes[2].terms);
        for (int64_t q0 = q_begin; q0 < q_end && x.keys > 0; q0 += BLOCK) {
            const int64_t count = smaller(q_end - q0, BLOCK);
            backward_pack(p, w, &x, q0, count, false);
            for (int64_t k0 = 0; k0 < x.keys; k0 += KEY_TILE) {
                const int64_t keys = smaller(x.keys - k0, KEY_TILE);
                backward_scores(p, w, &x, x.k + k0 * p->k.n, p->k.n, x.v + k0 * p->v.n, p->v.n, k0,
                                keys, q0, count);
                bias_gradient_tile(b, w->ds, divide_up(count, W) * W, keys, count,
                                   target + q0 * b->q + k0 * b->k);
            }
        }
    }
}

static void bias_gradient(const cpu_attention_args *p) {
    const cpu_attention_bias_gradient *b = &p->dbias;
    const bias_axis axes[3] = {bias_split(p->b0, b->b0), bias_split(p->b1, b->b1),
                               bias_split(p->heads, b->h)};
    const int64_t parts = b->q ? divide_up(p->queries, BLOCK) : 1;
    const int64_t floats = KIN_ISA_NAME(cpu_attention_backward_floats)(p);
    const int64_t tasks = axes[0].tasks * axes[1].tasks * axes[2].tasks * parts;
#if defined(_OPENMP)
#pragma omp parallel num_threads(thread_count(p))
#endif
    {
        const backward_scratch w = backward_layout(p, thread_scratch(p, floats));
#if defined(_OPENMP)
#pragma omp for schedule(dynamic, 1)
#endif
        for (int64_t t = 0; t < tasks; t++) {
            const int64_t head = t / parts, part = t % parts;
            const int64_t task[3] = {head / (axes[1].tasks * axes[2].tasks),
                                     head / axes[2].tasks % axes[1].tasks, head % axes[2].tasks};
            const int64_t begin = part * BLOCK;
            bias_gradient_task(p, &w, axes, task, begin,
                               b->q ? smaller(begin + BLOCK, p->queries) : p->queries);
        }
    }
}

void KIN_ISA_NAME(cpu_attention_backward)(const cpu_attention_args *p) {
    const int64_t tasks = p->b0 * p->b1 * p->heads;
    const int64_t floats = KIN_ISA_NAME(cpu_attention_backward_floats)(p);
    const int group = task_group(p->queries * p->keys * p->head_size);
#if defined(_OPENMP)
#pragma omp parallel num_threads(thread_count(p))
#endif
    {
        const backward_scratch w = backward_layout(p, thread_scratch(p, floats));
#if defined(_OPENMP)
#pragma omp for schedule(dynamic, group)
#endif
        for (int64_t t = 0; t < tasks; t++) {
            const int64_t batch = t / p->heads;
            backward_task(p, &w, batch / p->b1, batch % p->b1, t % p->heads);
        }
    }
    (void)group;
    if (p->bias.data && p->dbias.data) bias_gradient(p);
}
