#version 450
#extension GL_GOOGLE_include_directive : require
// Draws of runtime/philox.h: one block of Philox4x32-10 gives four neighbours.
#include "backends/vulkan/common.glsl"
#include "backends/vulkan/math.glsl"

layout(constant_id = 1) const uint NORMAL = 0;

layout(push_constant) uniform push_block {
    uint count, stream, seed_first, y_first;
};

KIN_READS(0, seed)
KIN_WRITES(1, y)

uvec4 philox(uvec4 c, uvec2 k) {
    for (int round = 0; round < 10; round++) {
        uint high0, low0, high1, low1;
        umulExtended(c.x, 0xD2511F53u, high0, low0);
        umulExtended(c.z, 0xCD9E8D57u, high1, low1);
        c = uvec4(high1 ^ c.y ^ k.x, low1, high0 ^ c.w ^ k.y, low0);
        k += uvec2(0x9E3779B9u, 0xBB67AE85u);
    }
    return c;
}

// A word as a float, rounded once: both halves are exact.
float rounded(uint word) {
    precise float value = float(word & 0xFFFF0000u) + float(word & 0xFFFFu);
    return value;
}

vec2 normal_pair(uint a, uint b) {
    precise float u = rounded(a) * 2.3283064365386963e-10 + 1.1641532182693481e-10;
    precise float v = rounded(b) * 1.4629180792671596e-9 + 7.314590396335798e-10;
    float s = sqrt(-2.0 * kin_log(u));
    return vec2(s * kin_sin(v), s * kin_cos(v));
}

float uniform_of(uint word) {
    precise float value = rounded(word) * 2.3283064365386963e-10 + 1.1641532182693481e-10;
    return value < 1.0 ? value : 0.0;
}

void main() {
    uint block = kin_thread();
    if (4u * block >= count) return;
    uvec2 key = uvec2(seed_words[2u * seed_first], seed_words[2u * seed_first + 1u]);
    uvec2 counter = uvec2(seed_words[2u * seed_first + 2u], seed_words[2u * seed_first + 3u]);
    uvec4 words = philox(uvec4(block, counter.x, stream, (counter.y & 0xFFFFu) << 16), key);
    vec4 values;
    if (NORMAL == 1u) {
        values = vec4(normal_pair(words.x, words.y), normal_pair(words.z, words.w));
    } else {
        for (int e = 0; e < 4; e++) values[e] = uniform_of(words[e]);
    }
    for (uint e = 0u; e < 4u && 4u * block + e < count; e++)
        y_words[y_first + 4u * block + e] = floatBitsToUint(values[e]);
}
