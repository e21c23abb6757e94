// What the attention shaders share: sizes, where rows lie, the reads of four neighbours, exp2.
//
// q, k, v and g (the gradient of the output) are [B0, B1, tokens, heads, SIZE], of any strides but the
// last, which is 1. With TEXELS they are texel buffers, their strides count texels, and SIZE is a
// multiple of 4; else they are words.
#extension GL_EXT_control_flow_attributes : require
#include "backends/vulkan/common.glsl"

layout(constant_id = 1) const uint SIZE = 64; // of a head
layout(constant_id = 2) const uint OWN = 1;   // rows that an invocation keeps
layout(constant_id = 3) const uint DTYPE = 0; // of q, k, v
layout(constant_id = 4) const uint G_DTYPE = 0;
layout(constant_id = 5) const uint OUT_DTYPE = 0;
layout(constant_id = 6) const uint BIAS_DTYPE = 0xFFu; // 0xFF: there is none
layout(constant_id = 7) const uint HAS_LENGTHS = 0;
layout(constant_id = 8) const uint NATIVE_EXP = 0; // 1: the device's own exp2
// Strides of the bias; 0 along axes that repeat.
layout(constant_id = 9) const uint BIAS_B0 = 0;
layout(constant_id = 10) const uint BIAS_B1 = 0;
layout(constant_id = 11) const uint BIAS_H = 0;
layout(constant_id = 12) const uint BIAS_Q = 0;
layout(constant_id = 13) const uint BIAS_K = 0;

const uint FOURS = (SIZE + 3u) / 4u;
const float LEAST = -1e30; // a score below it takes no part
const float LOG2_E = 1.4426950408889634;

struct rows {
    uint at, b0, b1, n, h; // element (or texel) 0, strides
};

layout(push_constant) uniform push_block {
    uint queries, keys, b1_size, heads, total; // total: B0 B1 heads
    rows q, k, v, g;
    uint bias, lengths, lse, delta, out0, out1;
    float scale;
};

#ifdef TEXELS
#ifdef BF16
#define FOURS_OF(NUMBER, NAME)                                                                     \
    layout(set = 0, binding = NUMBER) uniform usamplerBuffer NAME##_texels;                        \
    vec4 NAME##_four(uint at, uint i) {                                                            \
        return uintBitsToFloat(texelFetch(NAME##_texels, int(at + i)) << 16);                      \
    }
#else
#define FOURS_OF(NUMBER, NAME)                                                                     \
    layout(set = 0, binding = NUMBER) uniform samplerBuffer NAME##_texels;                         \
    vec4 NAME##_four(uint at, uint i) {                                                            \
        return texelFetch(NAME##_texels, int(at + i));                                             \
    }
#endif
#else
#define FOURS_OF(NUMBER, NAME)                                                                     \
    KIN_READS(NUMBER, NAME)                                                                        \
    vec4 NAME##_four(uint at, uint i) {                                                            \
        uint dtype = NUMBER == 3 ? G_DTYPE : DTYPE;                                                \
        vec4 four = vec4(0);                                                                       \
        [[unroll]] for (uint c = 0; c < 4u; c++)                                                   \
            if (4u * i + c < SIZE) four[c] = NAME##_real(dtype, at + 4u * i + c);                  \
        return four;                                                                               \
    }
#endif

// Which (sample, head) a work group serves, and the rows of an operand there.
uint head, b0_index, b1_index;

bool find_head(uint index) {
    if (index >= total) return false;
    head = index % heads;
    b1_index = index / heads % b1_size;
    b0_index = index / heads / b1_size;
    return true;
}

uint first_row(rows x) {
    return x.at + b0_index * x.b0 + b1_index * x.b1 + head * x.h;
}

// Row n of a dense output of `tokens` tokens; its number in lse and delta.
uint dense_row(uint tokens, uint n) {
    return (((b0_index * b1_size + b1_index) * tokens + n) * heads + head) * SIZE;
}

uint row_number(uint n) {
    return ((b0_index * b1_size + b1_index) * heads + head) * queries + n;
}

uint bias_index(uint query, uint key) {
    return bias + b0_index * BIAS_B0 + b1_index * BIAS_B1 + head * BIAS_H + query * BIAS_Q +
           key * BIAS_K;
}

// 2^x, as exact for all drivers: Taylor's series on [-1/2, 1/2], error below 1.3e-7.
float power_of_2(float x) {
    if (NATIVE_EXP == 1) return exp2(x);
    x = clamp(x, -126.0, 127.0);
    float whole = floor(x + 0.5), f = x - whole;
    float y = 1.5403530393e-4;
    y = y * f + 1.3333558146e-3;
    y = y * f + 9.6181291076e-3;
    y = y * f + 5.5504108665e-2;
    y = y * f + 2.4022650696e-1;
    y = y * f + 6.9314718056e-1;
    y = y * f + 1.0;
    return y * uintBitsToFloat(uint(int(whole) + 127) << 23);
}

// log2 of a positive number, by the series of atanh.
float log_2(float x) {
    uint bits = floatBitsToUint(x);
    int whole = int(bits >> 23) - 127;
    float m = uintBitsToFloat((bits & 0x7FFFFFu) | 0x3F800000u);
    if (m > 1.41421356) {
        m *= 0.5;
        whole += 1;
    }
    float s = (m - 1.0) / (m + 1.0), s2 = s * s;
    float y = 1.0 + s2 * (0.333333333 + s2 * (0.2 + s2 * (0.142857143 + s2 * 0.111111111)));
    return float(whole) + 2.8853900818 * s * y;
}

// Stores four neighbours of a row of SIZE elements.
#define STORE_FOUR(NAME, at, i, four)                                                              \
    {                                                                                              \
        uint place = (at) + 4u * (i);                                                              \
        if (SIZE % 4u == 0u || 4u * (i) + 3u < SIZE) {                                             \
            NAME##_store2(OUT_DTYPE, place, (four).x, (four).y, true);                             \
            NAME##_store2(OUT_DTYPE, place + 2u, (four).z, (four).w, true);                        \
        } else {                                                                                   \
            NAME##_store2(OUT_DTYPE, place, (four).x, (four).y, SIZE % 4u != 1u);                  \
            if (SIZE % 4u == 3u) NAME##_store2(OUT_DTYPE, place + 2u, (four).z, 0.0, false);       \
        }                                                                                          \
    }
