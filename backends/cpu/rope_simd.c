/* Rotary position embedding for one instruction set; see rope.h.
 *
 * Cosines and sines are computed once per token, into scratch, and used by all samples and heads.
 * For interleaved pairs the table repeats each cosine and has each sine with both signs, so that a
 * vector is turned by one swap of neighbours, one product and one fused product.
 */
#include "backends/cpu/rope.h"

#include "backends/cpu/simd.h"

#define W VF_WIDTH

typedef double vd KIN_VECTOR(8 * VF_WIDTH);
typedef int64_t vl KIN_VECTOR(8 * VF_WIDTH);

/* Entries of the table per token: cosines and sines. */
static int64_t table_width(const cpu_rope_args *p) {
    return p->attrs->interleaved ? p->head_size : p->head_size / 2;
}

/* cos and sin of an angle below 2^31 in size. It is brought to +-pi/4 in double; there polynomials
 * in float err by less than 1 unit in the last place. */
KIN_INLINE void cos_sin(vd angle, vf *out_cos, vf *out_sin) {
    const double magic = 6755399441055744.0; /* 1.5 * 2^52: adding it rounds to an integer */
    const vd shifted = angle * 0.63661977236758134308 + magic;
    const vd turns = shifted - magic;
    const vd reduced =
        (angle - turns * 1.57079632679489655800) - turns * 6.12323399573676603587e-17;
    const vi quarter = __builtin_convertvector((vl)shifted, vi);
    const vf r = __builtin_convertvector(reduced, vf), r2 = r * r;
    vf s = vf_set1(2.7183132e-6f);
    s = vf_fma(s, r2, vf_set1(-1.9839336e-4f));
    s = vf_fma(s, r2, vf_set1(8.3333294e-3f));
    s = vf_fma(s, r2, vf_set1(-1.6666667e-1f));
    s = vf_fma(s * r2, r, r);
    vf c = vf_set1(2.4439121e-5f);
    c = vf_fma(c, r2, vf_set1(-1.3887375e-3f));
    c = vf_fma(c, r2, vf_set1(4.1666647e-2f));
    c = vf_fma(c * r2, r2, vf_fma(r2, vf_set1(-0.5f), vf_set1(1.0f)));
    const vi odd = (quarter & 1) != 0;
    const vf cosine = vf_select(odd, s, c), sine = vf_select(odd, c, s);
    *out_cos = (vf)((vi)cosine ^ (((quarter + 1) & 2) << 30));
    *out_sin = (vf)((vi)sine ^ ((quarter & 2) << 30));
}

static float rounded_to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (x == x) bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* The table's rows of one token; `frequency` is theta^(-2i/P), padded to whole vectors. */
static void fill_token(const cpu_rope_args *p, int64_t token, const double *frequency,
                       float *cosine, float *sine) {
    const kin_rope_attrs *attrs = p->attrs;
    const int64_t half = p->head_size / attrs->axes / 2;
    const float sign = attrs->inverse ? -1.0f : 1.0f;
    for (int64_t a = 0; a < attrs->axes; a++) {
        const double position = p->positions[a * p->tokens + token] / attrs->scales[a];
        for (int64_t i = 0; i < half; i += W) {
            vd angle;
            vf c, s;
            memcpy(&angle, frequency + i, sizeof angle);
            angle *= position;
            if (attrs->bf16_table)
                for (int j = 0; j < W; j++) angle[j] = rounded_to_bf16((float)angle[j]);
            cos_sin(angle, &c, &s);
            for (int64_t j = 0; j < W && i + j < half; j++) {
                const float cj = attrs->bf16_table ? rounded_to_bf16(c[j]) : c[j];
                const float sj = (attrs->bf16_table ? rounded_to_bf16(s[j]) : s[j]) * sign;
                const int64_t at = a * half + i + j;
                if (attrs->interleaved) {
                    cosine[2 * at] = cosine[2 * at + 1] = cj;
                    sine[2 * at] = -sj;
                    sine[2 * at + 1] = sj;
                } else {
                    cosine[at] = cj;
                    sine[at] = sj;
                }
            }
        }
    }
}

/* (a, b) of `count` pairs, the b `count` elements after the a. */
KIN_INLINE void turn_halves(const float *x, const float *cosine, const float *sine, int64_t count,
                            float *y) {
    int64_t i = 0;
    for (; i + W <= count; i += W) {
        const vf a = vf_load(x + i), b = vf_load(x + count + i);
        const vf c = vf_load(cosine + i), s = vf_load(sine + i);
        vf_store(y + i, vf_fma(a, c, -(b * s)));
        vf_store(y + count + i, vf_fma(b, c, a * s));
    }
    if (i < count) {
        const int rest = (int)(count - i);
        const vf a = vf_load_n(x + i, rest), b = vf_load_n(x + count + i, rest);
        const vf c = vf_load_n(cosine + i, rest), s = vf_load_n(sine + i, rest);
        vf_store_n(y + i, vf_fma(a, c, -(b * s)), rest);
        vf_store_n(y + count + i, vf_fma(b, c, a * s), rest);
    }
}

KIN_INLINE vf swap_neighbours(vf x) {
#if defined(KIN_SIMD_AVX512)
    return (vf)_mm512_permute_ps((__m512)x, 0xb1);
#elif defined(KIN_SIMD_AVX2)
    return (vf)_mm256_permute_ps((__m256)x, 0xb1);
#else
    return (vf){x[1], x[0], x[3], x[2]};
#endif
}

KIN_INLINE void turn_pairs(const float *x, const float *cosine, const float *sine, int64_t size,
                           float *y) {
    int64_t i = 0;
    for (; i + W <= size; i += W) {
        const vf v = vf_load(x + i);
        vf_store(y + i, vf_fma(v, vf_load(cosine + i), swap_neighbours(v) * vf_load(sine + i)));
    }
    if (i < size) {
        const int rest = (int)(size - i);
        const vf v = vf_load_n(x + i, rest), c = vf_load_n(cosine + i, rest);
        const vf s = vf_load_n(sine + i, rest);
        vf_store_n(y + i, vf_fma(v, c, swap_neighbours(v) * s), rest);
    }
}

static void turn_token(const cpu_rope_args *p, const float *x, const float *cosine,
                       const float *sine, float *y) {
    const int64_t axes = p->attrs->axes, half = p->head_size / axes / 2;
    for (int64_t h = 0; h < p->heads; h++, x += p->x_h, y += p->y_h) {
        if (p->attrs->interleaved) {
            turn_pairs(x, cosine, sine, p->head_size, y);
            continue;
        }
        for (int64_t a = 0; a < axes; a++)
            turn_halves(x + 2 * a * half, cosine + a * half, sine + a * half, half,
                        y + 2 * a * half);
    }
}

static int64_t padded_half(const cpu_rope_args *p) {
    return (p->head_size / p->attrs->axes / 2 + W - 1) / W * W;
}

static size_t scratch_bytes(const cpu_rope_args *p) {
    return (size_t)padded_half(p) * sizeof(double) +
           (size_t)(2 * p->tokens * table_width(p)) * sizeof(float);
}

static void run(const cpu_rope_args *p) {
    const int64_t width = table_width(p), padded = padded_half(p);
    const int64_t part = p->head_size / p->attrs->axes, batches = p->b0 * p->b1;
    double *frequency = (double *)(void *)p->scratch;
    float *table = p->scratch + 2 * padded;
    for (int64_t i = 0; i < padded; i++)
        frequency[i] = pow(p->attrs->theta, -2.0 * (double)i / (double)part);
#if defined(_OPENMP)
#pragma omp parallel num_threads(p->threads)
#endif
    {
#if defined(_OPENMP)
#pragma omp for schedule(static)
#endif
        for (int64_t n = 0; n < p->tokens; n++)
            fill_token(p, n, frequency, table + 2 * n * width, table + (2 * n + 1) * width);
#if defined(_OPENMP)
#pragma omp for schedule(static)
#endif
        for (int64_t r = 0; r < batches * p->tokens; r++) {
            const int64_t n = r % p->tokens, i0 = r / p->tokens / p->b1, i1 = r / p->tokens % p->b1;
            turn_token(p, p->x + i0 * p->x_b0 + i1 * p->x_b1 + n * p->x_n, table + 2 * n * width,
                       table + (2 * n + 1) * width,
                       p->y + i0 * p->y_b0 + i1 * p->y_b1 + n * p->y_n);
        }
    }
}

const cpu_rope_functions KIN_ISA_NAME(cpu_rope_functions) = {scratch_bytes, run};
