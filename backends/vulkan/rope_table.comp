#version 450
#extension GL_GOOGLE_include_directive : require
// Cosines and sines for COUNT frequencies and all tokens. Angles are counted in turns: the products of a
// position, cut in two pieces of 12 bits, and a frequency, cut in three, are exact, and so is the removal
// of whole turns from them.
#include "backends/vulkan/common.glsl"

layout(constant_id = 1) const uint BF16 = 0; // 1: the angle (then in radians), cosine and sine are rounded

struct frequency {
    float first, second, rest;
};

layout(push_constant) uniform push_block {
    uint tokens, count, positions, table;
    uint begin, width; // the first frequency's place in a token's row of `width`
    float sign;        // of the sine
    frequency of[8];
};

KIN_READS(0, p)
KIN_WRITES(1, y)

float whole_removed(float x) {
    return x - floor(x + 0.5);
}

float leading(float x) {
    return uintBitsToFloat(floatBitsToUint(x) & 0xFFFFF000u);
}

// position times frequency, without whole turns.
float turns(float position, frequency f) {
    float high = leading(position), low = position - high;
    float sum = whole_removed(high * f.first) + whole_removed(low * f.first) +
                whole_removed(high * f.second);
    return whole_removed(sum + whole_removed(low * f.second + position * f.rest));
}

float rounded(float x) {
    return kin_from_bf16(kin_to_bf16(x));
}

void main() {
    uint token = kin_thread();
    if (token >= tokens) return;
    float position = p_real(KIN_F32, positions + token);
    for (uint i = 0; i < count; i++) {
        float turn;
        if (BF16 == 1) {
            float angle = rounded(position * of[i].first +
                                  (position * of[i].second + position * of[i].rest));
            // 1 / (2 pi)
            turn = turns(angle,
                         frequency(0.1591796875, -2.4743378162384033e-5, -1.0299422703585748e-9));
        } else {
            turn = turns(position, of[i]);
        }
        // A quarter, and what is left of it: at most an eighth of a turn.
        float quarter = floor(4.0 * turn + 0.5), x = (turn - 0.25 * quarter) * 6.283185307;
        float x2 = x * x;
        float s = 2.7557319e-6, c = 2.4801587e-5; // Taylor's series, errors below 3e-8
        s = s * x2 - 1.9841270e-4;
        c = c * x2 - 1.3888889e-3;
        s = s * x2 + 8.3333333e-3;
        c = c * x2 + 4.1666667e-2;
        s = s * x2 - 1.6666667e-1;
        c = c * x2 - 0.5;
        s = s * x2 * x + x;
        c = c * x2 + 1.0;
        uint turned = uint(int(quarter)) & 3u;
        float cosine = (turned & 1u) == 0u ? c : s, sine = (turned & 1u) == 0u ? s : c;
        if (turned == 1u || turned == 2u) cosine = -cosine;
        if (turned >= 2u) sine = -sine;
        if (BF16 == 1) {
            cosine = rounded(cosine);
            sine = rounded(sine);
        }
        uint at = table + 2u * (token * width + begin + i);
        y_words[at] = floatBitsToUint(cosine);
        y_words[at + 1u] = floatBitsToUint(sign * sine);
    }
}
