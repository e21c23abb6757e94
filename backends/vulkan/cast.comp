#version 450
#extension GL_GOOGLE_include_directive : require
// Dense elements from any storage type to any but q8_0: floats are cut towards zero and saturated
// where integers are wanted, integers are saturated. An invocation owns whole words of the result.
#include "backends/vulkan/common.glsl"
#include "backends/vulkan/math.glsl"

layout(constant_id = 1) const uint FROM = 0;
layout(constant_id = 2) const uint TO = 0;

layout(push_constant) uniform push_block {
    uint count;
    uint x_first, y_first; // elements; 16-bit units for x of q8_0
};

KIN_READS(0, x)
KIN_WRITES(1, y)

const bool FROM_REAL = FROM == KIN_F32 || FROM == KIN_F16 || FROM == KIN_BF16 || FROM == KIN_Q8_0;

uint x_half(uint i) {
    return (x_words[i >> 1] >> ((i & 1u) << 4)) & 0xFFFFu;
}

// Blocks of 32: an f16 scale and 32 signed bytes, 17 units of 16 bits.
float from_q8_0(uint i) {
    uint block = x_first + i / 32u * 17u, k = i % 32u;
    int value = int(x_half(block + 1u + k / 2u) << (24u - (k & 1u) * 8u)) >> 24;
    return kin_from_f16(x_half(block)) * float(value);
}

// The integer nearest to zero from x, in 64 bits: low and high word.
uvec2 cut(float x) {
    if (kin_is_nan(x)) return uvec2(0u);
    if (x >= 9223372036854775808.0) return uvec2(0xFFFFFFFFu, 0x7FFFFFFFu);
    if (x <= -9223372036854775808.0) return uvec2(0u, 0x80000000u);
    float size = trunc(abs(x)), high = floor(size * 2.3283064365386963e-10);
    uvec2 value = uvec2(uint(size - high * 4294967296.0), uint(high));
    return x < 0.0 ? uvec2(~value.x + 1u, ~value.y + (value.x == 0u ? 1u : 0u)) : value;
}

uvec2 integer(uint i) {
    if (FROM_REAL) return cut(FROM == KIN_Q8_0 ? from_q8_0(i) : x_real(FROM, x_first + i));
    if (FROM == KIN_I64)
        return uvec2(x_words[2u * (x_first + i)], x_words[2u * (x_first + i) + 1u]);
    uint bits = x_bits(FROM, x_first + i);
    return uvec2(bits, FROM == KIN_I32 && int(bits) < 0 ? 0xFFFFFFFFu : 0u);
}

float real(uint i) {
    if (FROM == KIN_Q8_0) return from_q8_0(i);
    if (FROM != KIN_I64) return x_real(FROM, x_first + i);
    uvec2 value = integer(i);
    bool negative = int(value.y) < 0;
    if (negative) value = uvec2(~value.x + 1u, ~value.y + (value.x == 0u ? 1u : 0u));
    float size = float(value.y) * 4294967296.0 + float(value.x);
    return negative ? -size : size;
}

uint narrow(uint i) {
    if (TO == KIN_BOOL && FROM_REAL)
        return (FROM == KIN_Q8_0 ? from_q8_0(i) : x_real(FROM, x_first + i)) != 0.0 ? 1u : 0u;
    uvec2 value = integer(i);
    bool negative = int(value.y) < 0;
    if (TO == KIN_BOOL) return (value.x | value.y) != 0u ? 1u : 0u;
    if (TO == KIN_U8) return negative ? 0u : value.y != 0u || value.x > 255u ? 255u : value.x;
    if (negative) return value.y == 0xFFFFFFFFu && int(value.x) < 0 ? value.x : 0x80000000u;
    return value.y != 0u || int(value.x) < 0 ? 0x7FFFFFFFu : value.x;
}

void main() {
    uint i = kin_thread() * kin_per_word(TO);
    if (i >= count) return;
    if (TO == KIN_F32 || TO == KIN_F16 || TO == KIN_BF16) {
        bool both = TO != KIN_F32 && i + 1u < count;
        y_store2(TO, y_first + i, real(i), both ? real(i + 1u) : 0.0, both);
    } else if (TO == KIN_I64) {
        uvec2 value = integer(i);
        y_words[2u * (y_first + i)] = value.x;
        y_words[2u * (y_first + i) + 1u] = value.y;
    } else if (TO == KIN_I32) {
        y_words[y_first + i] = narrow(i);
    } else {
        uint word = (y_first + i) / 4u, bits = y_words[word];
        for (uint e = 0u; e < 4u && i + e < count; e++) {
            bits &= ~(255u << (8u * e));
            bits |= narrow(i + e) << (8u * e);
        }
        y_words[word] = bits;
    }
}
