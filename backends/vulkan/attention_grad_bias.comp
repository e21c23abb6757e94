#version 450
#extension GL_GOOGLE_include_directive : require
// dbias, in f32: each invocation sums, in a fixed order, over the axes along which its element repeats.
#include "backends/vulkan/attention.glsl"

FOURS_OF(0, q)
FOURS_OF(1, k)
FOURS_OF(2, v)
FOURS_OF(3, g)
KIN_READS(4, bias)
KIN_READS(5, lengths)
KIN_READS(6, lse)
KIN_READS(7, delta)
KIN_WRITES(8, dbias)

// Sizes of dbias [B0, B1, heads, queries, keys].
layout(constant_id = 14) const uint SIZE_B0 = 1;
layout(constant_id = 15) const uint SIZE_B1 = 1;
layout(constant_id = 16) const uint SIZE_H = 1;
layout(constant_id = 17) const uint SIZE_Q = 1;
layout(constant_id = 18) const uint SIZE_K = 1;

float ds_of(uint query, uint key) {
    uint q_row = first_row(q) + query * q.n, k_row = first_row(k) + key * k.n;
    uint v_row = first_row(v) + key * v.n, g_row = first_row(g) + query * g.n;
    float row_lse = lse_real(KIN_F32, lse + row_number(query));
    vec4 scores = vec4(0), dps = vec4(0);
    for (uint i = 0; i < FOURS; i++) {
        scores += q_four(q_row, i) * k_four(k_row, i);
        dps += g_four(g_row, i) * v_four(v_row, i);
    }
    float score = ((scores.x + scores.y) + (scores.z + scores.w)) * (scale * LOG2_E);
    score += LOG2_E * bias_real(BIAS_DTYPE, bias_index(query, key));
    if (!(row_lse > LEAST && score > LEAST)) return 0.0;
    float dp = (dps.x + dps.y) + (dps.z + dps.w);
    return power_of_2(score - row_lse) *
           (dp - delta_real(KIN_F32, delta + row_number(query)));
}

void main() {
    uint index = kin_thread(), at = index;
    if (index >= SIZE_B0 * SIZE_B1 * SIZE_H * SIZE_Q * SIZE_K) return;
    uint key0 = at % SIZE_K;
    at /= SIZE_K;
    uint query0 = at % SIZE_Q;
    at /= SIZE_Q;
    uint head0 = at % SIZE_H;
    at /= SIZE_H;
    uint b1_0 = at % SIZE_B1, b0_0 = at / SIZE_B1;
    uint b0_size = total / (b1_size * heads);
    float sum = 0.0;
    for (b0_index = b0_0; b0_index < (SIZE_B0 == 1 ? b0_size : b0_0 + 1u); b0_index++) {
        uint last = keys;
        if (HAS_LENGTHS == 1)
            last = uint(clamp(int(lengths_words[lengths + b0_index]), 0, int(keys)));
        for (b1_index = b1_0; b1_index < (SIZE_B1 == 1 ? b1_size : b1_0 + 1u); b1_index++)
            for (head = head0; head < (SIZE_H == 1 ? heads : head0 + 1u); head++)
                for (uint query = query0; query < (SIZE_Q == 1 ? queries : query0 + 1u); query++)
                    for (uint key = key0; key < min(last, SIZE_K == 1 ? keys : key0 + 1u); key++)
                        sum += ds_of(query, key);
    }
    dbias_words[out0 + index] = floatBitsToUint(sum);
}
