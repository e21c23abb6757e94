#version 450
#extension GL_GOOGLE_include_directive : require
// cos(t f) and sin(t f) with f = ratio^k. The angle is kept in two floats (Dekker 1971), so that
// thousands of turns leave as many digits as a float has: f is made from ratio^(2^bit), which the
// host gives in two parts each.
#include "backends/vulkan/common.glsl"
#include "backends/vulkan/math.glsl"

layout(constant_id = 1) const uint T_TYPE = 0;

const uint BITS = 12;

layout(push_constant) uniform push_block {
    uint count, half_dim, dim; // count: of all results
    uint t_first, y_first, unused;
    float high[BITS], low[BITS]; // of ratio^(2^bit)
};

KIN_READS(0, t)
KIN_WRITES(1, y)

// a b = product + error, exactly.
vec2 two_product(float a, float b) {
    precise float p = a * b;
    precise float ca = 4097.0 * a, cb = 4097.0 * b;
    precise float a1 = ca - (ca - a), b1 = cb - (cb - b);
    precise float a2 = a - a1, b2 = b - b1;
    precise float e = ((a1 * b1 - p) + a1 * b2 + a2 * b1) + a2 * b2;
    return vec2(p, e);
}

vec2 two_sum(float a, float b) {
    precise float s = a + b, v = s - a;
    precise float e = (a - (s - v)) + (b - v);
    return vec2(s, e);
}

vec2 product(vec2 a, vec2 b) {
    vec2 p = two_product(a.x, b.x);
    precise float low_part = p.y + (a.x * b.y + a.y * b.x);
    return two_sum(p.x, low_part);
}

vec2 sum(vec2 a, vec2 b) {
    vec2 s = two_sum(a.x, b.x);
    precise float low_part = s.y + (a.y + b.y);
    return two_sum(s.x, low_part);
}

// t as two floats: integers beyond 2^24 do not fit into one.
vec2 time_of(uint i) {
    if (T_TYPE != KIN_I32 && T_TYPE != KIN_I64) return vec2(t_real(T_TYPE, t_first + i), 0.0);
    uint lo = t_bits(T_TYPE, t_first + i);
    uint hi = T_TYPE == KIN_I64 ? t_words[2u * (t_first + i) + 1u] : int(lo) < 0 ? ~0u : 0u;
    bool negative = int(hi) < 0;
    if (negative) {
        lo = ~lo + 1u;
        hi = ~hi + (lo == 0u ? 1u : 0u);
    }
    vec2 value = two_sum(float(lo & 0xFFFF0000u), float(lo & 0xFFFFu));
    value = sum(vec2(float(hi) * 4294967296.0, 0.0), value);
    return negative ? -value : value;
}

void main() {
    uint i = kin_thread();
    if (i >= count) return;
    uint k = i % dim, which = k / half_dim;
    if (which > 1u) {
        y_words[y_first + i] = 0u;
        return;
    }
    k %= half_dim;
    vec2 angle = time_of(i / dim);
    for (uint bit = 0u; bit < BITS; bit++)
        if ((k >> bit & 1u) != 0u) angle = product(angle, vec2(high[bit], low[bit]));
    // Quarter turns off: pi / 2 in two floats.
    precise float n = roundEven(angle.x * 0.636619772);
    vec2 r = sum(angle, -product(vec2(n, 0.0), vec2(1.57079637, -4.37113883e-8)));
    uint quarter = uint(int(n - 4.0 * floor(n * 0.25)));
    y_words[y_first + i] =
        floatBitsToUint(kin_sin_near(r.x + r.y, quarter + (which == 0u ? 1u : 0u)));
}
