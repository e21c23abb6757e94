/* Runs of elements that lie side by side, to floats and back. Included by *_simd.c files. */
#ifndef KIN_BACKENDS_CPU_SIMD_RUN_H
#define KIN_BACKENDS_CPU_SIMD_RUN_H

#include "backends/cpu/simd.h"
#include "runtime/tensor.h"

/* n elements of f32, f16 or bf16 from `index` on, as floats. */
KIN_INLINE void run_to_f32(const void *data, kin_dtype dtype, int64_t index, int64_t n, float *to) {
    const uint16_t *half = (const uint16_t *)data + index;
    int64_t i = 0;
    if (dtype == KIN_F32) {
        memcpy(to, (const float *)data + index, (size_t)n * sizeof *to);
    } else if (dtype == KIN_BF16) {
        for (; i + VF_WIDTH <= n; i += VF_WIDTH) {
            vh values;
            memcpy(&values, half + i, sizeof values);
            vf_store(to + i, vf_from_bf16(values));
        }
        for (; i < n; i++) to[i] = kin_bf16_to_f32(half[i]);
    } else {
#if defined(__F16C__)
        for (; i + 8 <= n; i += 8)
            _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(half + i))));
#endif
        for (; i < n; i++) to[i] = kin_f16_to_f32(half[i]);
    }
}

/* The way back, rounded to the nearest. */
KIN_INLINE void run_from_f32(const float *from, int64_t n, void *to, kin_dtype dtype,
                             int64_t index) {
    uint16_t *half = (uint16_t *)to + index;
    int64_t i = 0;
    if (dtype == KIN_F32) {
        memcpy((float *)to + index, from, (size_t)n * sizeof *from);
    } else if (dtype == KIN_BF16) {
        for (; i + VF_WIDTH <= n; i += VF_WIDTH) {
            vh values = vf_to_bf16(vf_load(from + i));
            memcpy(half + i, &values, sizeof values);
        }
        for (; i < n; i++) half[i] = kin_f32_to_bf16(from[i]);
    } else {
#if defined(__F16C__)
        for (; i + 8 <= n; i += 8)
            _mm_storeu_si128((__m128i *)(void *)(half + i),
                             _mm256_cvtps_ph(_mm256_loadu_ps(from + i), 0));
#endif
        for (; i < n; i++) half[i] = kin_f32_to_f16(from[i]);
    }
}

#endif
