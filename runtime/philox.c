#include "runtime/philox.h"

#include <math.h>

static const uint32_t multiplier_0 = 0xD2511F53u;
static const uint32_t multiplier_1 = 0xCD9E8D57u;
static const uint32_t key_step_0 = 0x9E3779B9u;
static const uint32_t key_step_1 = 0xBB67AE85u;

void kin_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out_words[4]) {
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; ++round) {
        uint64_t product_0 = (uint64_t)c0 * multiplier_0;
        uint64_t product_1 = (uint64_t)c2 * multiplier_1;
        c0 = (uint32_t)(product_1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)product_1;
        c2 = (uint32_t)(product_0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)product_0;
        k0 += key_step_0;
        k1 += key_step_1;
    }
    out_words[0] = c0;
    out_words[1] = c1;
    out_words[2] = c2;
    out_words[3] = c3;
}

void kin_philox_block(uint64_t seed, uint32_t stream, uint64_t step, uint64_t block,
                      uint32_t out_words[4]) {
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    const uint32_t block_high = (uint32_t)(block >> 32) & 0xFFFFu;
    const uint32_t step_high = (uint32_t)(step >> 32) & 0xFFFFu;
    const uint32_t counter[4] = {(uint32_t)block, (uint32_t)step, stream,
                                 block_high | step_high << 16};
    kin_philox(counter, key, out_words);
}

float kin_philox_uniform(uint32_t word) {
    float value = (float)word * 0x1p-32f + 0x1p-33f;
    return value == 1.0f ? 0.0f : value;
}

void kin_philox_normal_pair(uint32_t x, uint32_t y, float out_values[2]) {
    const float two_pi = 6.2831853071795864769f;
    float u = (float)x * 0x1p-32f + 0x1p-33f;
    float v = (float)y * (two_pi * 0x1p-32f) + two_pi * 0x1p-33f;
    float s = sqrtf(-2.0f * logf(u));
    out_values[0] = s * sinf(v);
    out_values[1] = s * cosf(v);
}

uint32_t kin_philox_element(uint64_t seed, uint32_t stream, uint64_t step, uint64_t index) {
    uint32_t words[4];
    kin_philox_block(seed, stream, step, index / 4, words);
    return words[index % 4];
}

float kin_philox_element_uniform(uint64_t seed, uint32_t stream, uint64_t step, uint64_t index) {
    return kin_philox_uniform(kin_philox_element(seed, stream, step, index));
}

float kin_philox_element_normal(uint64_t seed, uint32_t stream, uint64_t step, uint64_t index) {
    uint32_t words[4];
    float pair[2];
    kin_philox_block(seed, stream, step, index / 4, words);
    const uint32_t *half = words + (index % 4 < 2 ? 0 : 2);
    kin_philox_normal_pair(half[0], half[1], pair);
    return pair[index % 2];
}

static void block_uniform(const uint32_t words[4], float values[4]) {
    for (int i = 0; i < 4; ++i) values[i] = kin_philox_uniform(words[i]);
}

static void block_normal(const uint32_t words[4], float values[4]) {
    kin_philox_normal_pair(words[0], words[1], values);
    kin_philox_normal_pair(words[2], words[3], values + 2);
}

static void fill(uint64_t seed, uint32_t stream, uint64_t step, uint64_t first, size_t count,
                 void (*convert)(const uint32_t *, float *), float *out_values) {
    uint32_t words[4];
    float values[4];
    uint64_t index = first;
    size_t done = 0;
    while (done < count) {
        kin_philox_block(seed, stream, step, index / 4, words);
        convert(words, values);
        for (; done < count; ++done) {
            out_values[done] = values[index % 4];
            if (++index % 4 == 0) {
                ++done;
                break;
            }
        }
    }
}

void kin_philox_fill_uniform(uint64_t seed, uint32_t stream, uint64_t step, uint64_t first,
                             size_t count, float *out_values) {
    fill(seed, stream, step, first, count, block_uniform, out_values);
}

void kin_philox_fill_normal(uint64_t seed, uint32_t stream, uint64_t step, uint64_t first,
                            size_t count, float *out_values) {
    fill(seed, stream, step, first, count, block_normal, out_values);
}
