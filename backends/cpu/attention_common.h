/* What attention_simd.c and attention_grad_simd.c share: exponentials, packing, the bias, scratch.
 *
 * Scores are kept transposed, S^T[key][query], with queries in the lanes: row maxima, sums and
 * the rescaling of o need no shuffles, K and V are read by broadcast as they lie, and any head
 * size is free of padding. Exponentials are powers of 2: q is packed times scale * log2(e).
 */
#ifndef KIN_BACKENDS_CPU_ATTENTION_COMMON_H
#define KIN_BACKENDS_CPU_ATTENTION_COMMON_H

#include "backends/cpu/attention.h"

#include "backends/cpu/attention_tile.h"
#include "backends/cpu/simd_transpose.h"

#if defined(_OPENMP)
#include <omp.h>
#endif

#define W VF_WIDTH
#define BLOCK (TILE_QUERY_VECTORS * W) /* queries whose scores are in work at once */

#define LOG2_E 1.44269504f

/* 2^x for x <= 0 to 1.5 units in the last place, 0 below -126; NaN stays NaN. */
KIN_INLINE vf exp2_below(vf x) {
#if defined(KIN_SIMD_AVX512)
    /* the second operand passes if either is NaN */
    vf y = vf_max(vf_set1(-150.0f), x);
    vf n = (vf)_mm512_roundscale_ps((__m512)y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
    const vf magic = vf_set1(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    vf y = vf_max(vf_set1(-126.0f), x);
    vf shifted = y + magic;
    vf n = shifted - magic;
#endif
    vf r = y - n;
    vf p = vf_set1(1.3276472e-3f);
    p = vf_fma(p, r, vf_set1(9.6755413e-3f));
    p = vf_fma(p, r, vf_set1(5.5507133e-2f));
    p = vf_fma(p, r, vf_set1(2.4022120e-1f));
    p = vf_fma(p, r, vf_set1(6.9314697e-1f));
    p = vf_fma(p, r, vf_set1(1.0f));
#if defined(KIN_SIMD_AVX512)
    return (vf)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
    /* the low bits of `shifted` are n; a NaN of p survives the select below */
    vf result = (vf)((vi)p + ((vi)shifted << 23));
    result = vf_select(x < vf_set1(-126.0f), vf_zero(), result);
    return vf_select(x != x, x, result);
#endif
}

static inline int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static inline int64_t divide_up(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

static inline int64_t key_count(const cpu_attention_args *p, int64_t i0) {
    if (!p->lengths || p->lengths[i0] > p->keys) return p->keys;
    return p->lengths[i0] < 0 ? 0 : p->lengths[i0];
}

/* The rows of one head. */
static inline const float *input_head(const cpu_attention_input *x, int64_t i0, int64_t i1,
                                      int64_t h) {
    return x->data + i0 * x->b0 + i1 * x->b1 + h * x->h;
}

static inline float *output_head(const cpu_attention_output *x, int64_t i0, int64_t i1, int64_t h) {
    return x->data + i0 * x->b0 + i1 * x->b1 + h * x->h;
}

static inline void pack_queries(const float *source, int64_t stride, int64_t count, int64_t columns,
                                float factor, int vectors, float *out) {
    for (int j = 0; j < vectors; j++)
        pack_columns(source + j * W * stride, stride, (int)smaller(count - j * W, W), columns,
                     factor, out + j * W, vectors * W);
}

static inline void copy_rows(const float *source, int64_t source_stride, int64_t rows,
                             int64_t columns, float *target, int64_t target_stride) {
    const int rest = (int)(columns % W);
    for (int64_t i = 0; i < rows; i++) {
        const float *s = source + i * source_stride;
        float *t = target + i * target_stride;
        for (int64_t c = 0; c + W <= columns; c += W) vf_store(t + c, vf_load(s + c));
        if (rest) vf_store_n(t + columns - rest, vf_load_n(s + columns - rest, rest), rest);
    }
}

/* s[key][query] += log2(e) bias for `keys` keys from k0 and `count` queries from q0. */
static inline void add_bias(const cpu_attention_args *p, const float *bias, int64_t q0,
                            int64_t count, int64_t k0, int64_t keys, int vectors, float *s) {
    const cpu_attention_bias *b = &p->bias;
    const float *first = bias + q0 * b->q + k0 * b->k;
    const int64_t ld = vectors * W;
    const vf factor = vf_set1(LOG2_E);
    if (b->q == 0) {
        for (int64_t k = 0; k < keys; k++) {
            const vf x = vf_set1(first[k * b->k]);
            for (int j = 0; j < vectors; j++) {
                float *at = s + k * ld + j * W;
                vf_store(at, vf_fma(x, factor, vf_load(at)));
            }
        }
        return;
    }
    for (int j = 0; j < vectors; j++) {
        const int rows = (int)smaller(count - j * W, W);
        const float *from = first + j * W * b->q;
        for (int64_t k = 0; k < keys; k += W) {
            const int64_t width = smaller(keys - k, W);
            vf part[W];
            if (b->k == 1) {
                pack_columns(from + k, b->q, rows, width, 1.0f, (float *)part, W);
            } else {
                for (int64_t c = 0; c < width; c++)
                    for (int i = 0; i < W; i++)
                        part[c][i] = i < rows ? from[i * b->q + (k + c) * b->k] : 0.0f;
            }
            for (int64_t c = 0; c < width; c++) {
                float *at = s + (k + c) * ld + j * W;
                vf_store(at, vf_fma(part[c], factor, vf_load(at)));
            }
        }
    }
}

static inline float *thread_scratch(const cpu_attention_args *p, int64_t floats) {
#if defined(_OPENMP)
    const int64_t thread = omp_get_thread_num();
#else
    const int64_t thread = 0;
#endif
    const uintptr_t start = ((uintptr_t)p->scratch + 63) & ~(uintptr_t)63;
    return (float *)start + thread * (divide_up(floats, 16) * 16);
}

static inline int thread_count(const cpu_attention_args *p) {
    return p->threads < 1 ? 1 : p->threads;
}

/* Tasks that a thread takes at once: neighbours in memory go to one thread. */
static inline int task_group(int64_t work) {
    return (int)smaller(64, (1 << 20) / (work + 1) + 1);
}

/* attention_grad_simd.c */
int64_t KIN_ISA_NAME(cpu_attention_backward_floats)(const cpu_attention_args *args);
void KIN_ISA_NAME(cpu_attention_backward)(const cpu_attention_args *args);

/* attention_prepare_simd.c. A row of q (which 0) or k (1) of token n; y may be x. */
void KIN_ISA_NAME(cpu_attention_prepare_row)(const cpu_attention_prepare *prepare, int which,
                                             int64_t n, const float *x, int64_t size, float *y);
void KIN_ISA_NAME(cpu_attention_prepare_all)(cpu_attention_args *args,
                                             const cpu_attention_prepare *prepare, float *to);
void KIN_ISA_NAME(cpu_attention_back)(const cpu_attention_args *args,
                                      const cpu_attention_prepare *prepare, float *parts);

#endif
