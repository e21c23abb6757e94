/* Turns and RMS norms of q and k for self_attention, and the way back for their gradients, one row
 * at a time in the first-level cache. */
#include "backends/cpu/attention_common.h"
#include "ops/self_attention_attrs.h"

KIN_INLINE vf take(const float *p, int64_t n) {
    return n == W ? vf_load(p) : vf_load_n(p, (int)n);
}

KIN_INLINE void give(float *p, vf v, int64_t n) {
    if (n == W) vf_store(p, v);
    else vf_store_n(p, v, (int)n);
}

/* Neighbours change places. */
KIN_INLINE vf swap_pairs(vf v) {
    vi from;
    for (int i = 0; i < W; i++) from[i] = i ^ 1;
    return __builtin_shuffle(v, from);
}

/* The pairs of one row turned, whose elements lie apart; back: by the opposite angle. y may be x.
 */
static void turn_row(const cpu_attention_prepare *p, int64_t token, const float *x, int64_t size,
                     bool back, float *y) {
    const float *cosines = p->turns + 2 * token * size, *sines = cosines + size;
    const int64_t part = size / p->axes, half = part / 2;
    for (int64_t axis = 0; axis < p->axes; axis++)
        for (int64_t i = 0; i < half; i++) {
            const int64_t at = axis * part + i;
            const float a = x[at], b = x[at + half], c = cosines[at];
            const float s = back ? -sines[at + half] : sines[at + half];
            y[at] = a * c - b * s;
            y[at + half] = b * c + a * s;
        }
}

/* Elements of vector j of a row of `vectors`. */
#define PART(size, vectors, j) ((j) + 1 < (vectors) ? W : (size) - ((vectors)-1) * W)

/* A row turned, in v. Neighbours only. */
KIN_INLINE void turned_vectors(const int vectors, const cpu_attention_prepare *p, int64_t token,
                               const float *x, int64_t size, vf *v) {
    const float *cosines = p->turns ? p->turns + 2 * token * size : NULL;
    const float *sines = p->turns ? cosines + size : NULL;
    TILE_UNROLL for (int j = 0; j < vectors; j++) {
        const int64_t n = PART(size, vectors, j);
        v[j] = take(x + j * W, n);
        if (p->turns)
            v[j] =
                vf_fma(swap_pairs(v[j]), take(sines + j * W, n), v[j] * take(cosines + j * W, n));
    }
}

KIN_INLINE vf norm_factor(const int vectors, const cpu_attention_prepare *p, int64_t size,
                          const vf *v) {
    vf sum = vf_zero();
    TILE_UNROLL for (int j = 0; j < vectors; j++) sum = vf_fma(v[j], v[j], sum);
    return vf_set1(1.0f / sqrtf(vf_sum(sum) / (float)size + p->eps));
}

KIN_INLINE void prepare_body(const int vectors, const cpu_attention_prepare *p, int which,
                             int64_t token, const float *x, int64_t size, float *y) {
    const float *gain = p->gain[which];
    vf v[KIN_SELF_ATTENTION_HEAD / W];
    turned_vectors(vectors, p, token, x, size, v);
    const vf factor = gain ? norm_factor(vectors, p, size, v) : vf_set1(1.0f);
    TILE_UNROLL for (int j = 0; j < vectors; j++) {
        const int64_t n = PART(size, vectors, j);
        give(y + j * W, gain ? v[j] * factor * take(gain + j * W, n) : v[j], n);
    }
}

/* With y = gain hat, hat = x factor, dx = factor (gain dy - hat mean(gain dy hat)); and the row's
 * share of the gain's gradient, dy hat. */
KIN_INLINE void back_body(const int vectors, const cpu_attention_prepare *p, int which,
                          int64_t token, const float *x, int64_t size, float *d, float *d_gain) {
    const float *cosines = p->turns ? p->turns + 2 * token * size : NULL;
    const float *sines = p->turns ? cosines + size : NULL;
    const float *gain = p->gain[which];
    vf hat[KIN_SELF_ATTENTION_HEAD / W], factor = vf_set1(1.0f), mean = vf_zero();
    TILE_UNROLL for (int j = 0; j < vectors; j++) hat[j] = vf_zero();
    if (gain) {
        vf dot = vf_zero();
        turned_vectors(vectors, p, token, x, size, hat);
        factor = norm_factor(vectors, p, size, hat);
        TILE_UNROLL for (int j = 0; j < vectors; j++) {
            const int64_t n = PART(size, vectors, j);
            const vf dy = take(d + j * W, n);
            hat[j] *= factor;
            dot = vf_fma(hat[j] * dy, take(gain + j * W, n), dot);
            give(d_gain + j * W, vf_fma(dy, hat[j], take(d_gain + j * W, n)), n);
        }
        mean = vf_set1(vf_sum(dot) / (float)size);
    }
    TILE_UNROLL for (int j = 0; j < vectors; j++) {
        const int64_t n = PART(size, vectors, j);
        vf dx = take(d + j * W, n);
        if (gain) dx = factor * (dx * take(gain + j * W, n) - hat[j] * mean);
        if (p->turns) dx = dx * take(cosines + j * W, n) - swap_pairs(dx) * take(sines + j * W, n);
        give(d + j * W, dx, n);
    }
}

/* The sizes that models have, with rows in registers. */
#define BY_VECTORS(size, body, ...)                                                                \
    switch (divide_up(size, W)) {                                                                  \
    case 4:                                                                                        \
        body(4, __VA_ARGS__);                                                                      \
        break;                                                                                     \
    case 5:                                                                                        \
        body(5, __VA_ARGS__);                                                                      \
        break;                                                                                     \
    case 8:                                                                                        \
        body(8, __VA_ARGS__);                                                                      \
        break;                                                                                     \
    case 9:                                                                                        \
        body(9, __VA_ARGS__);                                                                      \
        break;                                                                                     \
    default:                                                                                       \
        body((int)divide_up(size, W), __VA_ARGS__);                                                \
        break;                                                                                     \
    }

/* Halves and several parts: turned in memory, and then as if there were no turns. */
void KIN_ISA_NAME(cpu_attention_prepare_row)(const cpu_attention_prepare *p, int which,
                                             int64_t token, const float *x, int64_t size,
                                             float *y) {
    cpu_attention_prepare plain = *p;
    if (p->turns && !p->interleaved) {
        turn_row(p, token, x, size, false, y);
        plain.turns = NULL;
        x = y;
    }
    BY_VECTORS(size, prepare_body, &plain, which, token, x, size, y)
}

static void back_row(const cpu_attention_prepare *p, int which, int64_t token, const float *x,
                     int64_t size, float *room, float *d, float *d_gain) {
    cpu_attention_prepare plain = *p;
    if (p->turns && !p->interleaved) {
        turn_row(p, token, x, size, false, room);
        plain.turns = NULL;
        x = room;
    }
    BY_VECTORS(size, back_body, &plain, which, token, x, size, d, d_gain)
    if (p->turns && !p->interleaved) turn_row(p, token, d, size, true, d);
}

/* Calls of both ways go over the tokens of all sequences. */
typedef struct token_place {
    int64_t i0, i1, n;
} token_place;

static token_place place_of(const cpu_attention_args *a, int64_t token) {
    const token_place at = {token / a->queries / a->b1, token / a->queries % a->b1,
                            token % a->queries};
    return at;
}

void KIN_ISA_NAME(cpu_attention_prepare_all)(cpu_attention_args *a, const cpu_attention_prepare *p,
                                             float *to) {
    const int64_t d = a->head_size, row = a->heads * d, tokens = a->b0 * a->b1 * a->queries;
#if defined(_OPENMP)
#pragma omp parallel for schedule(static) num_threads(thread_count(a))
#endif
    for (int64_t t = 0; t < tokens; t++) {
        const token_place at = place_of(a, t);
        for (int64_t h = 0; h < a->heads; h++) {
            const float *q = input_head(&a->q, at.i0, at.i1, h) + at.n * a->q.n;
            const float *k = input_head(&a->k, at.i0, at.i1, h) + at.n * a->k.n;
            float *y = to + t * row + h * d;
            KIN_ISA_NAME(cpu_attention_prepare_row)(p, 0, at.n, q, d, y);
            KIN_ISA_NAME(cpu_attention_prepare_row)(p, 1, at.n, k, d, y + tokens * row);
        }
    }
    a->q = (cpu_attention_input){to, a->b1 * a->queries * row, a->queries * row, row, d};
    a->k = a->q;
    a->k.data = to + tokens * row;
}

void KIN_ISA_NAME(cpu_attention_back)(const cpu_attention_args *a, const cpu_attention_prepare *p,
                                      float *parts) {
    const int64_t d = a->head_size, tokens = a->b0 * a->b1 * a->queries;
    const int64_t tasks = cpu_attention_back_parts(a);
#if defined(_OPENMP)
#pragma omp parallel for schedule(static) num_threads(thread_count(a))
#endif
    for (int64_t task = 0; task < tasks; task++) {
        /* three rows of the task: both sums and room for a row */
        float *sums = parts + task * 3 * d, *hat = sums + 2 * d;
        const int64_t first = task * CPU_ATTENTION_BACK_TOKENS;
        const int64_t end = smaller(first + CPU_ATTENTION_BACK_TOKENS, tokens);
        for (int64_t i = 0; i < 2 * d; i++) sums[i] = 0;
        for (int64_t t = first; t < end; t++) {
            const token_place at = place_of(a, t);
            for (int64_t h = 0; h < a->heads; h++) {
                back_row(p, 0, at.n, input_head(&a->q, at.i0, at.i1, h) + at.n * a->q.n, d, hat,
                         output_head(&a->dq, at.i0, at.i1, h) + at.n * a->dq.n, sums);
                back_row(p, 1, at.n, input_head(&a->k, at.i0, at.i1, h) + at.n * a->k.n, d, hat,
                         output_head(&a->dk, at.i0, at.i1, h) + at.n * a->dk.n, sums + d);
            }
        }
    }
}
