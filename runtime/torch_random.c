#include "runtime/torch_random.h"

#include <math.h>

#include "runtime/philox.h"

static const double two_pi = 6.28318530717958647692;

/* ---- CPU ---------------------------------------------------------------------------------- */

void kin_torch_cpu_seed(kin_torch_cpu *generator, uint64_t seed) {
    uint32_t *words = generator->words;
    words[0] = (uint32_t)seed;
    for (uint32_t i = 1; i < KIN_TORCH_CPU_WORDS; i++)
        words[i] = 1812433253u * (words[i - 1] ^ (words[i - 1] >> 30)) + i;
    generator->used = KIN_TORCH_CPU_WORDS;
    generator->kept = false;
    generator->kept_normal = 0;
}

static void mix(uint32_t *words) {
    enum { N = KIN_TORCH_CPU_WORDS, M = 397 };
    for (int i = 0; i < N; i++) {
        uint32_t y = (words[i] & 0x80000000u) | (words[(i + 1) % N] & 0x7FFFFFFFu);
        words[i] = words[(i + M) % N] ^ (y >> 1) ^ (y & 1 ? 0x9908B0DFu : 0);
    }
}

uint32_t kin_torch_cpu_word(kin_torch_cpu *generator) {
    if (generator->used == KIN_TORCH_CPU_WORDS) {
        mix(generator->words);
        generator->used = 0;
    }
    uint32_t y = generator->words[generator->used++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9D2C5680u;
    y ^= (y << 15) & 0xEFC60000u;
    return y ^ (y >> 18);
}

uint64_t kin_torch_cpu_word64(kin_torch_cpu *generator) {
    uint64_t high = kin_torch_cpu_word(generator);
    return high << 32 | kin_torch_cpu_word(generator);
}

static double uniform_f64(kin_torch_cpu *generator) {
    return (double)(kin_torch_cpu_word64(generator) & ((1ull << 53) - 1)) * 0x1p-53;
}

/* As many bits as the type's significand holds. */
static double uniform_of(kin_torch_cpu *generator, kin_dtype dtype) {
    if (dtype == KIN_F64) return uniform_f64(generator);
    int bits = dtype == KIN_F32 ? 24 : dtype == KIN_F16 ? 11 : 8;
    uint32_t mask = (1u << bits) - 1;
    return ldexp(kin_torch_cpu_word(generator) & mask, -bits);
}

static bool is_drawn(kin_dtype dtype) {
    return dtype == KIN_F32 || dtype == KIN_F64 || dtype == KIN_F16 || dtype == KIN_BF16;
}

bool kin_torch_cpu_uniform(kin_torch_cpu *generator, kin_dtype dtype, size_t count,
                           void *out_values) {
    if (!is_drawn(dtype)) return false;
    for (size_t i = 0; i < count; i++)
        kin_element_set(out_values, dtype, (int64_t)i, uniform_of(generator, dtype));
    return true;
}

static double small_normal(kin_torch_cpu *generator) {
    if (generator->kept) {
        generator->kept = false;
        return generator->kept_normal;
    }
    double angle = two_pi * uniform_f64(generator);
    double radius = sqrt(-2 * log1p(-uniform_f64(generator)));
    generator->kept = true;
    generator->kept_normal = radius * sin(angle);
    return radius * cos(angle);
}

/* `value` as the type holds it. */
static double rounded(kin_dtype dtype, double value) {
    uint64_t cell = 0;
    kin_element_set(&cell, dtype, 0, value);
    return kin_element_get(&cell, dtype, 0);
}

/* Turns 16 uniforms into normals. Every operation rounds to the type. */
static void block_normal(kin_dtype dtype, void *values, size_t first) {
    for (int64_t i = (int64_t)first; i < (int64_t)first + 8; i++) {
        double u1 = rounded(dtype, 1 - kin_element_get(values, dtype, i));
        double u2 = kin_element_get(values, dtype, i + 8);
        double radius, angle = rounded(dtype, two_pi * u2), sine, cosine;
        if (dtype == KIN_F32) {
            radius = sqrtf(-2 * logf((float)u1));
            sine = sinf((float)angle);
            cosine = cosf((float)angle);
        } else {
            radius = rounded(dtype, sqrt(-2 * rounded(dtype, log(u1))));
            sine = rounded(dtype, sin(angle));
            cosine = rounded(dtype, cos(angle));
        }
        kin_element_set(values, dtype, i, radius * cosine);
        kin_element_set(values, dtype, i + 8, radius * sine);
    }
}

bool kin_torch_cpu_normal(kin_torch_cpu *generator, kin_dtype dtype, size_t count,
                          void *out_values) {
    enum { BLOCK = 16 };
    if (!is_drawn(dtype)) return false;
    if (count < BLOCK) {
        for (size_t i = 0; i < count; i++)
            kin_element_set(out_values, dtype, (int64_t)i, small_normal(generator));
        return true;
    }
    kin_torch_cpu_uniform(generator, dtype, count, out_values);
    for (size_t i = 0; i + BLOCK <= count; i += BLOCK) block_normal(dtype, out_values, i);
    if (count % BLOCK == 0) return true;
    /* The last 16 are drawn anew and overlap the block before. */
    for (size_t i = count - BLOCK; i < count; i++)
        kin_element_set(out_values, dtype, (int64_t)i, uniform_of(generator, dtype));
    block_normal(dtype, out_values, count - BLOCK);
    return true;
}

void kin_torch_cpu_integers(kin_torch_cpu *generator, int64_t low, int64_t high, size_t count,
                            int64_t *out_values) {
    uint64_t range = (uint64_t)high - (uint64_t)low;
    bool wide = range >= 1ull << 32;
    for (size_t i = 0; i < count; i++) {
        uint64_t word = wide ? kin_torch_cpu_word64(generator) : kin_torch_cpu_word(generator);
        out_values[i] = (int64_t)((uint64_t)low + word % range);
    }
}

void kin_torch_cpu_permutation(kin_torch_cpu *generator, size_t count, int64_t *out_values) {
    for (size_t i = 0; i < count; i++) out_values[i] = (int64_t)i;
    for (size_t i = 0; i + 1 < count; i++) {
        size_t other = i + kin_torch_cpu_word(generator) % (count - i);
        int64_t value = out_values[i];
        out_values[i] = out_values[other];
        out_values[other] = value;
    }
}

/* ---- CUDA --------------------------------------------------------------------------------- */

/* Threads of the launch that fills so many values. */
static uint64_t launch_threads(const kin_torch_cuda *generator, uint64_t count) {
    enum { BLOCK = 256 };
    uint64_t most =
        (uint64_t)generator->multiprocessors * (generator->threads_per_multiprocessor / BLOCK);
    uint64_t blocks = (count + BLOCK - 1) / BLOCK;
    return BLOCK * (blocks < most || most == 0 ? blocks : most);
}

/* Element e is value (e / threads) % 4 of round e / (4 threads) of thread e % threads. */
static void element_words(const kin_torch_cuda *generator, uint64_t threads, uint64_t element,
                          uint32_t words[4]) {
    const uint32_t key[2] = {(uint32_t)generator->seed, (uint32_t)(generator->seed >> 32)};
    uint64_t block = generator->offset / 4 + element / (4 * threads), thread = element % threads;
    const uint32_t counter[4] = {(uint32_t)block, (uint32_t)(block >> 32), (uint32_t)thread,
                                 (uint32_t)(thread >> 32)};
    kin_philox(counter, key, words);
}

static void move_on(kin_torch_cuda *generator, uint64_t threads, uint64_t count) {
    if (count) generator->offset += 4 * ((count - 1) / (4 * threads) + 1);
}

static bool is_drawn_on_cards(kin_dtype dtype) {
    return dtype == KIN_F32 || dtype == KIN_F16 || dtype == KIN_BF16;
}

bool kin_torch_cuda_uniform(kin_torch_cuda *generator, kin_dtype dtype, size_t count,
                            void *out_values) {
    uint64_t threads = launch_threads(generator, count);
    uint32_t words[4];
    if (!is_drawn_on_cards(dtype)) return false;
    for (size_t i = 0; i < count; i++) {
        element_words(generator, threads, i, words);
        double value = rounded(dtype, (double)kin_philox_uniform(words[i / threads % 4]));
        kin_element_set(out_values, dtype, (int64_t)i, value == 1 ? 0 : value);
    }
    move_on(generator, threads, count);
    return true;
}

bool kin_torch_cuda_normal(kin_torch_cuda *generator, kin_dtype dtype, size_t count,
                           void *out_values) {
    uint64_t threads = launch_threads(generator, count);
    uint32_t words[4];
    float pair[2];
    if (!is_drawn_on_cards(dtype)) return false;
    for (size_t i = 0; i < count; i++) {
        size_t which = i / threads % 4;
        element_words(generator, threads, i, words);
        kin_philox_normal_pair(words[which & 2], words[(which & 2) + 1], pair);
        kin_element_set(out_values, dtype, (int64_t)i, (double)pair[which & 1]);
    }
    move_on(generator, threads, count);
    return true;
}

void kin_torch_cuda_integers(kin_torch_cuda *generator, int64_t low, int64_t high, size_t count,
                             int64_t *out_values) {
    uint64_t range = (uint64_t)high - (uint64_t)low, threads = launch_threads(generator, count);
    uint32_t words[4];
    for (size_t i = 0; i < count; i++) {
        element_words(generator, threads, i, words);
        out_values[i] = (int64_t)((uint64_t)low + words[i / threads % 4] % range);
    }
    move_on(generator, threads, count);
}
