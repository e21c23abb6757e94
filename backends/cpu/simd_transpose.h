/* Transposes between rows in memory and vectors whose lanes are rows, four columns at a time. */
#ifndef KIN_BACKENDS_CPU_SIMD_TRANSPOSE_H
#define KIN_BACKENDS_CPU_SIMD_TRANSPOSE_H

#include "backends/cpu/simd.h"

/* Four floats of each of the rows r, r + 4, r + 8, ... side by side. */
KIN_INLINE vf vf_load_quads(const float *const *rows, int64_t column, int r) {
#if defined(KIN_SIMD_AVX512)
    __m512 v = _mm512_castps128_ps512(_mm_loadu_ps(rows[r] + column));
    v = _mm512_insertf32x4(v, _mm_loadu_ps(rows[r + 4] + column), 1);
    v = _mm512_insertf32x4(v, _mm_loadu_ps(rows[r + 8] + column), 2);
    return (vf)_mm512_insertf32x4(v, _mm_loadu_ps(rows[r + 12] + column), 3);
#elif defined(KIN_SIMD_AVX2)
    __m256 v = _mm256_castps128_ps256(_mm_loadu_ps(rows[r] + column));
    return (vf)_mm256_insertf128_ps(v, _mm_loadu_ps(rows[r + 4] + column), 1);
#else
    return vf_load(rows[r] + column);
#endif
}

/* Stores what vf_load_quads loads; rows from `count` on are left alone. */
KIN_INLINE void vf_store_quads(float *const *rows, int64_t column, int r, int count, vf v) {
#if defined(KIN_SIMD_AVX512)
    if (r < count) _mm_storeu_ps(rows[r] + column, _mm512_castps512_ps128((__m512)v));
    if (r + 4 < count) _mm_storeu_ps(rows[r + 4] + column, _mm512_extractf32x4_ps((__m512)v, 1));
    if (r + 8 < count) _mm_storeu_ps(rows[r + 8] + column, _mm512_extractf32x4_ps((__m512)v, 2));
    if (r + 12 < count) _mm_storeu_ps(rows[r + 12] + column, _mm512_extractf32x4_ps((__m512)v, 3));
#elif defined(KIN_SIMD_AVX2)
    if (r < count) _mm_storeu_ps(rows[r] + column, _mm256_castps256_ps128((__m256)v));
    if (r + 4 < count) _mm_storeu_ps(rows[r + 4] + column, _mm256_extractf128_ps((__m256)v, 1));
#else
    if (r < count) vf_store(rows[r] + column, v);
#endif
}

/* Transposes each 4 x 4 block of 128-bit lanes; its own inverse. */
KIN_INLINE void vf_transpose4(vf v[4]) {
#if defined(KIN_SIMD_AVX512)
    __m512 a = _mm512_unpacklo_ps((__m512)v[0], (__m512)v[1]);
    __m512 b = _mm512_unpackhi_ps((__m512)v[0], (__m512)v[1]);
    __m512 c = _mm512_unpacklo_ps((__m512)v[2], (__m512)v[3]);
    __m512 d = _mm512_unpackhi_ps((__m512)v[2], (__m512)v[3]);
    v[0] = (vf)_mm512_shuffle_ps(a, c, 0x44);
    v[1] = (vf)_mm512_shuffle_ps(a, c, 0xee);
    v[2] = (vf)_mm512_shuffle_ps(b, d, 0x44);
    v[3] = (vf)_mm512_shuffle_ps(b, d, 0xee);
#elif defined(KIN_SIMD_AVX2)
    __m256 a = _mm256_unpacklo_ps((__m256)v[0], (__m256)v[1]);
    __m256 b = _mm256_unpackhi_ps((__m256)v[0], (__m256)v[1]);
    __m256 c = _mm256_unpacklo_ps((__m256)v[2], (__m256)v[3]);
    __m256 d = _mm256_unpackhi_ps((__m256)v[2], (__m256)v[3]);
    v[0] = (vf)_mm256_shuffle_ps(a, c, 0x44);
    v[1] = (vf)_mm256_shuffle_ps(a, c, 0xee);
    v[2] = (vf)_mm256_shuffle_ps(b, d, 0x44);
    v[3] = (vf)_mm256_shuffle_ps(b, d, 0xee);
#else
    vf t[4];
    for (int i = 0; i < 4; i++) t[i] = (vf){v[0][i], v[1][i], v[2][i], v[3][i]};
    for (int i = 0; i < 4; i++) v[i] = t[i];
#endif
}

/* out[c * out_stride + lane] = factor * row[lane][c] for VF_WIDTH lanes, of which `count` (at least
 * 1) exist; the others repeat the last. */
static inline void pack_columns(const float *source, int64_t row_stride, int count, int64_t columns,
                                float factor, float *out, int64_t out_stride) {
    const float *rows[VF_WIDTH];
    for (int i = 0; i < VF_WIDTH; i++) rows[i] = source + (i < count ? i : count - 1) * row_stride;
    const vf f = vf_set1(factor);
    int64_t c = 0;
    for (; c + 4 <= columns; c += 4) {
        vf v[4];
        for (int r = 0; r < 4; r++) v[r] = vf_load_quads(rows, c, r);
        vf_transpose4(v);
        for (int r = 0; r < 4; r++) vf_store(out + (c + r) * out_stride, v[r] * f);
    }
    for (; c < columns; c++)
        for (int i = 0; i < VF_WIDTH; i++) out[c * out_stride + i] = rows[i][c] * factor;
}

/* row[lane][c] = factor[lane] * in[c * in_stride + lane], plus what is there if `add`, for the
 * first `count` lanes. */
static inline void unpack_columns(const float *in, int64_t in_stride, int count, int64_t columns,
                                  vf factor, int add, float *target, int64_t row_stride) {
    float *rows[VF_WIDTH];
    for (int i = 0; i < VF_WIDTH; i++) rows[i] = target + (i < count ? i : count - 1) * row_stride;
    int64_t c = 0;
    for (; c + 4 <= columns; c += 4) {
        vf v[4];
        for (int r = 0; r < 4; r++) v[r] = vf_load(in + (c + r) * in_stride) * factor;
        vf_transpose4(v);
        if (add)
            for (int r = 0; r < 4; r++) v[r] += vf_load_quads((const float *const *)rows, c, r);
        for (int r = 0; r < 4; r++) vf_store_quads(rows, c, r, count, v[r]);
    }
    for (; c < columns; c++)
        for (int i = 0; i < count; i++) {
            float x = in[c * in_stride + i] * factor[i];
            rows[i][c] = add ? rows[i][c] + x : x;
        }
}

#endif
