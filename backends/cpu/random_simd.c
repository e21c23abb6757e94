/* Philox4x32-10 with one block per lane, and Box-Muller in float. */
#include "backends/cpu/random_table.h"
#include "backends/cpu/simd.h"

typedef uint32_t vu KIN_VECTOR(4 * VF_WIDTH);

KIN_INLINE vu vu_set1(uint32_t x) {
    return x - (vu){0};
}

/* The two halves of the 64-bit products a * b. */
KIN_INLINE void multiply(vu a, uint32_t b, vu *high, vu *low) {
#if defined(KIN_SIMD_AVX512)
    __m512i factor = _mm512_set1_epi32((int)b);
    __m512i even = _mm512_mul_epu32((__m512i)a, factor);
    __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64((__m512i)a, 32), factor);
    *low = (vu)_mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
    *high = (vu)_mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 32), odd);
#elif defined(KIN_SIMD_AVX2)
    __m256i factor = _mm256_set1_epi32((int)b);
    __m256i even = _mm256_mul_epu32((__m256i)a, factor);
    __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64((__m256i)a, 32), factor);
    *low = (vu)_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
    *high = (vu)_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
#else
    for (int i = 0; i < VF_WIDTH; ++i) {
        uint64_t product = (uint64_t)a[i] * b;
        (*high)[i] = (uint32_t)(product >> 32);
        (*low)[i] = (uint32_t)product;
    }
#endif
}

typedef struct draw {
    uint32_t key[2];
    uint32_t stream;
    uint64_t step;
} draw;

/* Words 0..3 of the blocks block + 0 .. block + VF_WIDTH - 1, which share their upper 32 bits. */
KIN_INLINE void philox(const draw *d, uint64_t block, vu words[4]) {
    uint32_t high_bits = ((uint32_t)(block >> 32) & 0xFFFFu) | ((uint32_t)(d->step >> 32) & 0xFFFFu)
                                                                   << 16;
    vu c0 = vu_set1((uint32_t)block), c1 = vu_set1((uint32_t)d->step);
    vu c2 = vu_set1(d->stream), c3 = vu_set1(high_bits);
    for (int i = 0; i < VF_WIDTH; ++i) c0[i] += (uint32_t)i;
    uint32_t k0 = d->key[0], k1 = d->key[1];
    for (int round = 0; round < 10; ++round) {
        vu high0 = {0}, low0 = {0}, high1 = {0}, low1 = {0};
        multiply(c0, 0xD2511F53u, &high0, &low0);
        multiply(c2, 0xCD9E8D57u, &high1, &low1);
        c0 = high1 ^ c1 ^ vu_set1(k0);
        c1 = low1;
        c2 = high0 ^ c3 ^ vu_set1(k1);
        c3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    words[0] = c0;
    words[1] = c1;
    words[2] = c2;
    words[3] = c3;
}

/* Rounded to nearest: both halves are exact, their sum is rounded once. */
KIN_INLINE vf to_float(vu word) {
    vf high = __builtin_convertvector((vi)(word >> 16), vf);
    vf low = __builtin_convertvector((vi)(word & 0xFFFFu), vf);
    return high * vf_set1(65536.0f) + low;
}

/* ln x for normal x > 0, to about one unit in the last place, also near 1: x = 2^e m with m in
 * [sqrt(1/2), sqrt(2)), and the polynomial of the Cephes library in m - 1. */
KIN_INLINE vf log_of(vf x) {
    vi bits = (vi)x;
    vi e = ((bits - 0x3F3504F3) >> 23);
    vf m = (vf)(bits - (e << 23));
    vf exponent = __builtin_convertvector(e, vf);
    vf f = m - vf_set1(1.0f), ff = f * f;
    vf p = vf_set1(7.0376836292e-2f);
    p = vf_fma(p, f, vf_set1(-1.1514610310e-1f));
    p = vf_fma(p, f, vf_set1(1.1676998740e-1f));
    p = vf_fma(p, f, vf_set1(-1.2420140846e-1f));
    p = vf_fma(p, f, vf_set1(1.4249322787e-1f));
    p = vf_fma(p, f, vf_set1(-1.6668057665e-1f));
    p = vf_fma(p, f, vf_set1(2.0000714765e-1f));
    p = vf_fma(p, f, vf_set1(-2.4999993993e-1f));
    p = vf_fma(p, f, vf_set1(3.3333331174e-1f));
    vf y = f * ff * p;
    y = vf_fma(exponent, vf_set1(-2.12194440e-4f), y);
    y = vf_fma(ff, vf_set1(-0.5f), y);
    return vf_fma(exponent, vf_set1(0.693359375f), f + y);
}

/* sin v and cos v for v in [0, 2 pi], to about one unit in the last place of 1: v less the nearest
 * multiple of pi / 2, and the polynomials of the Cephes library. */
KIN_INLINE void sin_cos(vf v, vf *sin_v, vf *cos_v) {
    const vf magic = vf_set1(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    vf shifted = vf_fma(v, vf_set1(0.636619772f), magic);
    vi quarter = (vi)shifted;
    vf n = shifted - magic;
    vf r = vf_fma(n, vf_set1(-1.5703125f), v);
    r = vf_fma(n, vf_set1(-4.837512969970703125e-4f), r);
    r = vf_fma(n, vf_set1(-7.5497899548918821e-8f), r);
    vf rr = r * r;
    vf s = vf_fma(vf_set1(-1.9515295891e-4f), rr, vf_set1(8.3321608736e-3f));
    s = vf_fma(s, rr, vf_set1(-1.6666654611e-1f));
    s = vf_fma(s * rr, r, r);
    vf c = vf_fma(vf_set1(2.443315711809948e-5f), rr, vf_set1(-1.388731625493765e-3f));
    c = vf_fma(c, rr, vf_set1(4.166664568298827e-2f));
    c = vf_fma(c * rr, rr, vf_fma(rr, vf_set1(-0.5f), vf_set1(1.0f)));
    vi odd = -(quarter & 1);
    vf sine = vf_select(odd, c, s), cosine = vf_select(odd, s, c);
    *sin_v = (vf)((vi)sine ^ (quarter & 2) << 30);
    *cos_v = (vf)((vi)cosine ^ ((quarter + 1) & 2) << 30);
}

KIN_INLINE void normal_pair(vu x, vu y, vf *first, vf *second) {
    const float two_pi = 6.2831853071795864769f;
    vf u = to_float(x) * vf_set1(0x1p-32f) + vf_set1(0x1p-33f);
    vf v = to_float(y) * vf_set1(two_pi * 0x1p-32f) + vf_set1(two_pi * 0x1p-33f);
    vf s = vf_sqrt(vf_set1(-2.0f) * log_of(u)), sine, cosine;
    sin_cos(v, &sine, &cosine);
    *first = s * sine;
    *second = s * cosine;
}

KIN_INLINE vf uniform_of(vu word) {
    vf one = vf_set1(1.0f);
    vf value = to_float(word) * vf_set1(0x1p-32f) + vf_set1(0x1p-33f);
    return vf_select(value < one, value, vf_zero());
}

/* Four values of each lane, in the order of memory: lane, then word. */
KIN_INLINE void write_lanes(const vf values[4], float *out) {
    for (int i = 0; i < VF_WIDTH; ++i)
        for (int word = 0; word < 4; ++word) out[i * 4 + word] = values[word][i];
}

KIN_INLINE void fill(uint64_t seed, uint32_t stream, uint64_t step, uint64_t first, int64_t count,
                     float *out, int normal) {
    draw d = {{(uint32_t)seed, (uint32_t)(seed >> 32)}, stream, step};
    float buffer[4 * VF_WIDTH];
    for (int64_t i = 0; i < count; i += 4 * VF_WIDTH) {
        vu words[4];
        vf values[4];
        philox(&d, (first + (uint64_t)i) / 4, words);
        if (normal) {
            normal_pair(words[0], words[1], &values[0], &values[1]);
            normal_pair(words[2], words[3], &values[2], &values[3]);
        } else {
            for (int word = 0; word < 4; ++word) values[word] = uniform_of(words[word]);
        }
        if (i + 4 * VF_WIDTH <= count) {
            write_lanes(values, out + i);
        } else {
            write_lanes(values, buffer);
            memcpy(out + i, buffer, (size_t)(count - i) * sizeof(float));
        }
    }
}

static void normal(uint64_t seed, uint32_t stream, uint64_t step, uint64_t first, int64_t count,
                   float *out) {
    fill(seed, stream, step, first, count, out, 1);
}

static void uniform(uint64_t seed, uint32_t stream, uint64_t step, uint64_t first, int64_t count,
                    float *out) {
    fill(seed, stream, step, first, count, out, 0);
}

const cpu_random_table KIN_ISA_NAME(cpu_random) = {.normal = normal, .uniform = uniform};
