/* One vector type for all CPU kernels, as wide as the instruction set a file is compiled for.
 *
 * Kernel files named *_simd.c are compiled once per instruction set (see CMakeLists.txt), each time
 * with another KIN_ISA suffix, and the fitting set is chosen at run time (cpu_isa.h). They use the
 * compiler's vector types (GCC and Clang; NEON comes with them on Arm), and name their exported
 * functions KIN_ISA_NAME(base), e.g. cpu_attention_forward_avx512.
 */
#ifndef KIN_BACKENDS_CPU_SIMD_H
#define KIN_BACKENDS_CPU_SIMD_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#include <immintrin.h>
#define KIN_ISA avx512
#define KIN_SIMD_AVX512 1
#define VF_WIDTH 16
#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#define KIN_ISA avx2
#define KIN_SIMD_AVX2 1
#define VF_WIDTH 8
#else
#define KIN_ISA generic
#define VF_WIDTH 4
#endif

#define KIN_ISA_PASTE2(base, isa) base##_##isa
#define KIN_ISA_PASTE(base, isa) KIN_ISA_PASTE2(base, isa)
#define KIN_ISA_NAME(base) KIN_ISA_PASTE(base, KIN_ISA)

#if defined(__GNUC__)
#define KIN_VECTOR(bytes) __attribute__((vector_size(bytes)))
#define KIN_INLINE static inline __attribute__((always_inline, unused))
#else
#error "the CPU kernels need the vector types of GCC or Clang"
#endif

typedef float vf KIN_VECTOR(4 * VF_WIDTH);
typedef int32_t vi KIN_VECTOR(4 * VF_WIDTH);

KIN_INLINE vf vf_set1(float x) {
    return x - (vf){0};
}

KIN_INLINE vf vf_zero(void) {
    return (vf){0};
}

/* Unaligned. */
KIN_INLINE vf vf_load(const float *p) {
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}

KIN_INLINE void vf_store(float *p, vf v) {
    memcpy(p, &v, sizeof v);
}

/* The first n (0..VF_WIDTH) elements; the others read as 0 and are not touched. */
KIN_INLINE vf vf_load_n(const float *p, int n) {
#if defined(KIN_SIMD_AVX512)
    return (vf)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1u), p);
#else
    vf v = {0};
    for (int i = 0; i < n; i++) v[i] = p[i];
    return v;
#endif
}

KIN_INLINE void vf_store_n(float *p, vf v, int n) {
#if defined(KIN_SIMD_AVX512)
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1u), (__m512)v);
#else
    for (int i = 0; i < n; i++) p[i] = v[i];
#endif
}

/* a * b + c in one rounding where the machine has it. */
KIN_INLINE vf vf_fma(vf a, vf b, vf c) {
#if defined(KIN_SIMD_AVX512)
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(KIN_SIMD_AVX2)
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

KIN_INLINE vf vf_select(vi mask, vf yes, vf no) {
    return (vf)(((vi)yes & mask) | ((vi)no & ~mask));
}

KIN_INLINE vf vf_max(vf a, vf b) {
#if defined(KIN_SIMD_AVX512)
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(KIN_SIMD_AVX2)
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return vf_select(a > b, a, b);
#endif
}

KIN_INLINE vf vf_min(vf a, vf b) {
#if defined(KIN_SIMD_AVX512)
    return (vf)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(KIN_SIMD_AVX2)
    return (vf)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return vf_select(a < b, a, b);
#endif
}

/* Sums halves: a fixed order for each width. */
KIN_INLINE float vf_sum(vf v) {
    for (int half = VF_WIDTH / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) v[i] += v[i + half];
    return v[0];
}

KIN_INLINE float vf_max_of(vf v) {
    for (int half = VF_WIDTH / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) v[i] = v[i] > v[i + half] ? v[i] : v[i + half];
    return v[0];
}

KIN_INLINE vf vf_sqrt(vf v) {
#if defined(KIN_SIMD_AVX512)
    return (vf)_mm512_sqrt_ps((__m512)v);
#elif defined(KIN_SIMD_AVX2)
    return (vf)_mm256_sqrt_ps((__m256)v);
#else
    for (int i = 0; i < VF_WIDTH; i++) v[i] = sqrtf(v[i]);
    return v;
#endif
}

/* e^x to 2 units in the last place: x = n ln 2 + r, a polynomial of degree 6 in r, n into the
 * exponent. Below -87.3 the result is 0, above 88.7 it is that of 88.7; NaN stays NaN. */
KIN_INLINE vf vf_exp(vf x) {
    const vf magic = vf_set1(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    vf lo = vf_set1(-87.33654f);
    vf clamped = vf_select(x > vf_set1(88.72283f), vf_set1(88.72283f), x);
    clamped = vf_select(clamped < lo, lo, clamped);
    vf n = vf_fma(clamped, vf_set1(1.44269504f), magic) - magic;
    vf r = vf_fma(n, vf_set1(-0.693359375f), clamped);
    r = vf_fma(n, vf_set1(2.12194440e-4f), r);
    vf p = vf_set1(1.9875691500e-4f);
    p = vf_fma(p, r, vf_set1(1.3981999507e-3f));
    p = vf_fma(p, r, vf_set1(8.3334519073e-3f));
    p = vf_fma(p, r, vf_set1(4.1665795894e-2f));
    p = vf_fma(p, r, vf_set1(1.6666665459e-1f));
    p = vf_fma(p, r, vf_set1(5.0000001201e-1f));
    p = vf_fma(p * r, r, r) + vf_set1(1.0f);
    /* 2^n in two steps, so that n = 128 does not overflow the exponent field */
#if defined(KIN_SIMD_AVX512)
    vi whole = (vi)_mm512_cvtps_epi32((__m512)n);
#elif defined(KIN_SIMD_AVX2)
    vi whole = (vi)_mm256_cvtps_epi32((__m256)n);
#else
    vi whole;
    for (int i = 0; i < VF_WIDTH; i++) whole[i] = n[i] == n[i] ? (int32_t)n[i] : 0;
#endif
    vi half = whole >> 1;
    vf result = p * (vf)((half + 127) << 23) * (vf)((whole - half + 127) << 23);
    result = vf_select(x < lo, vf_zero(), result);
    return vf_select(x != x, x, result);
}

/* bfloat16 in memory: the upper half of a float. */
KIN_INLINE vf vf_load_bf16(const uint16_t *p) {
    vi wide;
    for (int i = 0; i < VF_WIDTH; i++) wide[i] = (int32_t)((uint32_t)p[i] << 16);
    return (vf)wide;
}

KIN_INLINE vf vf_abs(vf v) {
    return (vf)((vi)v & 0x7FFFFFFF);
}

/* The magnitude of `value` with the sign of `sign`. */
KIN_INLINE vf vf_copy_sign(vf value, vf sign) {
    return (vf)(((vi)value & 0x7FFFFFFF) | ((vi)sign & INT32_MIN));
}

/* True if any lane of a comparison's result is set. */
KIN_INLINE int vf_any(vi mask) {
#if defined(KIN_SIMD_AVX512)
    return _mm512_movepi32_mask((__m512i)mask) != 0;
#elif defined(KIN_SIMD_AVX2)
    return _mm256_movemask_ps((__m256)mask) != 0;
#else
    int any = 0;
    for (int i = 0; i < VF_WIDTH; i++) any |= mask[i] != 0;
    return any;
#endif
}

/* ln x: x = 2^n (1 + f), f in [sqrt(1/2) - 1, sqrt(2) - 1], a polynomial in f. Below 0 it is NaN,
 * at 0 -infinity. */
KIN_INLINE vf vf_log(vf x) {
    vi tiny = x < vf_set1(1.17549435e-38f);
    vf scaled = vf_select(tiny, x * vf_set1(8388608.0f), x);
    /* 0x3F3504F3 is sqrt(1/2): what lies above it in the bits counts whole powers of two. */
    vi bits = (vi)scaled - 0x3F3504F3;
    vi whole = bits >> 23;
    vf f = (vf)((bits & 0x007FFFFF) + 0x3F3504F3) - vf_set1(1.0f);
    vf n = __builtin_convertvector(whole, vf) - vf_select(tiny, vf_set1(23.0f), vf_zero());
    vf p = vf_set1(-7.661911264e-02f);
    p = vf_fma(p, f, vf_set1(1.278629495e-01f));
    p = vf_fma(p, f, vf_set1(-1.316112245e-01f));
    p = vf_fma(p, f, vf_set1(1.419784454e-01f));
    p = vf_fma(p, f, vf_set1(-1.662280569e-01f));
    p = vf_fma(p, f, vf_set1(2.000141633e-01f));
    p = vf_fma(p, f, vf_set1(-2.500084451e-01f));
    p = vf_fma(p, f, vf_set1(3.333332893e-01f));
    vf square = f * f;
    vf rest = vf_fma(p * f, square, vf_fma(n, vf_set1(-2.12194440e-4f), square * -0.5f));
    vf result = vf_fma(n, vf_set1(0.693359375f), f + rest);
    result = vf_select(x == vf_zero(), vf_set1(-INFINITY), result);
    result = vf_select(x == vf_set1(INFINITY), x, result);
    return vf_select((x < vf_zero()) | (x != x), vf_set1(NAN), result);
}

/* tanh x to 2 units in the last place: a polynomial below 0.625, else by e^(2|x|). */
KIN_INLINE vf vf_tanh(vf x) {
    vf a = vf_abs(x), t = x * x;
    vf p = vf_set1(2.144479687e-3f);
    p = vf_fma(p, t, vf_set1(-8.178865800e-3f));
    p = vf_fma(p, t, vf_set1(2.170119258e-2f));
    p = vf_fma(p, t, vf_set1(-5.394682481e-2f));
    p = vf_fma(p, t, vf_set1(1.333320615e-1f));
    p = vf_fma(p, t, vf_set1(-3.333333079e-1f));
    vf near = vf_fma(p * t, x, x);
    vf far = vf_set1(1.0f) - vf_set1(2.0f) / (vf_exp(a + a) + vf_set1(1.0f));
    return vf_select(a < vf_set1(0.625f), near, vf_copy_sign(far, x));
}

/* erf x: a polynomial below 1, else 1 - e^(a polynomial fitted to ln erfc) up to 4. */
KIN_INLINE vf vf_erf(vf x) {
    vf a = vf_abs(x), t = x * x;
    vf p = vf_set1(7.882497109e-5f);
    p = vf_fma(p, t, vf_set1(-8.018854993e-4f));
    p = vf_fma(p, t, vf_set1(5.189311943e-3f));
    p = vf_fma(p, t, vf_set1(-2.685432880e-2f));
    p = vf_fma(p, t, vf_set1(1.128359746e-1f));
    p = vf_fma(p, t, vf_set1(-3.761262690e-1f));
    p = vf_fma(p, t, vf_set1(1.128379166f));
    vf u = vf_select(a > vf_set1(4.0f), vf_set1(4.0f), a);
    vf q = vf_set1(9.424591145e-7f);
    q = vf_fma(q, u, vf_set1(-3.489870103e-5f));
    q = vf_fma(q, u, vf_set1(5.207602935e-4f));
    q = vf_fma(q, u, vf_set1(-4.472094909e-3f));
    q = vf_fma(q, u, vf_set1(2.576078922e-2f));
    q = vf_fma(q, u, vf_set1(-1.091354099e-1f));
    q = vf_fma(q, u, vf_set1(-6.326490629e-1f));
    q = vf_fma(q, u, vf_set1(-1.129833681f));
    q = vf_fma(q, u, vf_set1(2.371458136e-4f));
    vf far = vf_set1(1.0f) - vf_exp(q);
    return vf_select(a < vf_set1(1.0f), p * x, vf_copy_sign(far, x));
}

/* sin(x + quarter_turns * pi/2). Up to |x| = 8192 by quarter turns taken off in three parts; lanes
 * beyond go through the C library. */
KIN_INLINE vf vf_sin_turned(vf x, int quarter_turns) {
    const vf magic = vf_set1(12582912.0f);
    vf shifted = vf_fma(x, vf_set1(0.636619772f), magic);
    vi quadrant = (vi)shifted + quarter_turns; /* its low bits count quarter turns */
    vf n = shifted - magic;
    vf r = vf_fma(n, vf_set1(-1.5703125f), x);
    r = vf_fma(n, vf_set1(-4.837512969970703125e-4f), r);
    r = vf_fma(n, vf_set1(-7.549789948768648e-8f), r);
    vf t = r * r;
    vf s = vf_set1(2.718008334e-6f);
    s = vf_fma(s, t, vf_set1(-1.983930068e-4f));
    s = vf_fma(s, t, vf_set1(8.333329268e-3f));
    s = vf_fma(s, t, vf_set1(-1.666666664e-1f));
    s = vf_fma(s * t, r, r);
    vf c = vf_set1(2.443399882e-5f);
    c = vf_fma(c, t, vf_set1(-1.388732573e-3f));
    c = vf_fma(c, t, vf_set1(4.166664592e-2f));
    c = vf_fma(c, t * t, vf_fma(t, vf_set1(-0.5f), vf_set1(1.0f)));
    vf result = vf_select((quadrant & 1) != 0, c, s);
    result = vf_select((quadrant & 2) != 0, -result, result);
    vi large = (vf_abs(x) > vf_set1(8192.0f)) | (x != x);
    if (vf_any(large))
        for (int i = 0; i < VF_WIDTH; i++)
            if (large[i] != 0) result[i] = quarter_turns == 0 ? sinf(x[i]) : cosf(x[i]);
    return result;
}

KIN_INLINE vf vf_sin(vf x) {
    return vf_sin_turned(x, 0);
}

KIN_INLINE vf vf_cos(vf x) {
    return vf_sin_turned(x, 1);
}

/* 16-bit floats in memory, one per lane. */
typedef uint16_t vh KIN_VECTOR(2 * VF_WIDTH);

KIN_INLINE vf vf_from_bf16(vh half) {
    return (vf)(__builtin_convertvector(half, vi) << 16);
}

/* To nearest even; NaN stays NaN. */
KIN_INLINE vh vf_to_bf16(vf v) {
    vi bits = (vi)v;
    vi rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
    vi quiet = (bits >> 16) | 0x40;
    vi nan = v != v;
    return __builtin_convertvector((quiet & nan) | (rounded & ~nan), vh);
}

#endif
