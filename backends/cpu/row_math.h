/* Sums and moments of rows of floats. Included after simd.h, once per instruction set. */
#ifndef KIN_BACKENDS_CPU_ROW_MATH_H
#define KIN_BACKENDS_CPU_ROW_MATH_H

#include "backends/cpu/simd.h"

/* Elements that are summed in float before the sum goes to double. A block stays in the first
 * cache. */
enum { ROW_BLOCK = 2048 };

KIN_INLINE int64_t row_min(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* Loads and stores of k lanes; the test vanishes where k is a constant. */
KIN_INLINE vf row_load(const float *p, int k) {
    return k == VF_WIDTH ? vf_load(p) : vf_load_n(p, k);
}

KIN_INLINE void row_store(float *p, vf v, int k) {
    if (k == VF_WIDTH) vf_store(p, v);
    else vf_store_n(p, v, k);
}

/* v with the lanes from k on replaced. */
KIN_INLINE vf row_keep_or(vf v, int k, float other) {
    if (k == VF_WIDTH) return v;
    vi lanes = {0};
    for (int i = 0; i < VF_WIDTH; ++i) lanes[i] = i < k ? -1 : 0;
    return vf_select(lanes, v, vf_set1(other));
}

/* v with the lanes from k on set to 0. */
KIN_INLINE vf row_keep(vf v, int k) {
    return row_keep_or(v, k, 0.0f);
}

/* Sum of up to ROW_BLOCK elements. */
KIN_INLINE float row_block_sum(const float *x, int64_t n) {
    vf a = vf_zero(), b = vf_zero(), c = vf_zero(), d = vf_zero();
    int64_t i = 0;
    for (; i + 4 * VF_WIDTH <= n; i += 4 * VF_WIDTH) {
        a += vf_load(x + i);
        b += vf_load(x + i + VF_WIDTH);
        c += vf_load(x + i + 2 * VF_WIDTH);
        d += vf_load(x + i + 3 * VF_WIDTH);
    }
    for (; i + VF_WIDTH <= n; i += VF_WIDTH) a += vf_load(x + i);
    if (i < n) b += vf_load_n(x + i, (int)(n - i));
    return vf_sum((a + b) + (c + d));
}

/* Sum of the squares of up to ROW_BLOCK elements. */
KIN_INLINE float row_block_squares(const float *x, int64_t n) {
    vf a = vf_zero(), b = vf_zero(), c = vf_zero(), d = vf_zero();
    int64_t i = 0;
    for (; i + 4 * VF_WIDTH <= n; i += 4 * VF_WIDTH) {
        vf x0 = vf_load(x + i), x1 = vf_load(x + i + VF_WIDTH);
        vf x2 = vf_load(x + i + 2 * VF_WIDTH), x3 = vf_load(x + i + 3 * VF_WIDTH);
        a = vf_fma(x0, x0, a);
        b = vf_fma(x1, x1, b);
        c = vf_fma(x2, x2, c);
        d = vf_fma(x3, x3, d);
    }
    for (; i < n; i += VF_WIDTH) {
        vf v = row_load(x + i, (int)row_min(n - i, VF_WIDTH));
        a = vf_fma(v, v, a);
    }
    return vf_sum((a + b) + (c + d));
}

KIN_INLINE double row_sum(const float *x, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i += ROW_BLOCK)
        sum += row_block_sum(x + i, row_min(n - i, ROW_BLOCK));
    return sum;
}

KIN_INLINE double row_squares(const float *x, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i += ROW_BLOCK)
        sum += row_block_squares(x + i, row_min(n - i, ROW_BLOCK));
    return sum;
}

/* Mean, and the sum of the squared distances from it. */
typedef struct row_moments {
    double count, mean, squares;
} row_moments;

/* Moments of a block in two passes: the mean, rounded to float, is taken off before anything is
 * squared, and what the rounding lost is put right with the sum of the differences. */
KIN_INLINE row_moments row_block_moments(const float *x, int64_t n) {
    float near = (float)((double)row_block_sum(x, n) / (double)n);
    vf middle = vf_set1(near);
    vf a = vf_zero(), b = vf_zero(), aa = vf_zero(), bb = vf_zero();
    int64_t i = 0;
    for (; i + 2 * VF_WIDTH <= n; i += 2 * VF_WIDTH) {
        vf t = vf_load(x + i) - middle, u = vf_load(x + i + VF_WIDTH) - middle;
        a += t;
        b += u;
        aa = vf_fma(t, t, aa);
        bb = vf_fma(u, u, bb);
    }
    for (; i < n; i += VF_WIDTH) {
        int k = (int)row_min(n - i, VF_WIDTH);
        vf t = row_keep(row_load(x + i, k) - middle, k);
        a += t;
        aa = vf_fma(t, t, aa);
    }
    double sum = vf_sum(a + b), off = sum / (double)n;
    double squares = (double)vf_sum(aa + bb) - sum * off;
    return (row_moments){(double)n, near + off, squares < 0 ? 0 : squares};
}

/* Moments of two sets together (Chan, Golub and LeVeque 1979). */
KIN_INLINE row_moments row_moments_join(row_moments a, row_moments b) {
    double count = a.count + b.count, gap = b.mean - a.mean;
    return (row_moments){count, a.mean + gap * (b.count / count),
                         a.squares + b.squares + gap * gap * (a.count * b.count / count)};
}

KIN_INLINE row_moments row_moments_of(const float *x, int64_t n) {
    row_moments all = row_block_moments(x, row_min(n, ROW_BLOCK));
    for (int64_t i = ROW_BLOCK; i < n; i += ROW_BLOCK)
        all = row_moments_join(all, row_block_moments(x + i, row_min(n - i, ROW_BLOCK)));
    return all;
}

/* What turns x into (x - mean) / sqrt(var + eps): ((x - near) - rest) * scale, where near + rest is
 * the mean in more than float's precision. */
typedef struct row_normalizer {
    vf near, rest, scale;
} row_normalizer;

KIN_INLINE row_normalizer row_normalizer_of(row_moments moments, double eps) {
    float near = (float)moments.mean;
    return (row_normalizer){vf_set1(near), vf_set1((float)(moments.mean - near)),
                            vf_set1((float)(1.0 / sqrt(moments.squares / moments.count + eps)))};
}

KIN_INLINE vf row_normalize(const row_normalizer *n, vf x) {
    return ((x - n->near) - n->rest) * n->scale;
}

#endif
