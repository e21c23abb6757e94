#version 450
#extension GL_GOOGLE_include_directive : require
// dq: each invocation keeps OWN queries, their output gradients and dq, and walks over the keys.
// variant: attention_grad_q
// variant: attention_grad_q_texels -DTEXELS
// variant: attention_grad_q_texels_16 -DTEXELS -DBF16
#include "backends/vulkan/attention.glsl"

FOURS_OF(0, q)
FOURS_OF(1, k)
FOURS_OF(2, v)
FOURS_OF(3, g)
KIN_READS(4, bias)
KIN_READS(5, lengths)
KIN_READS(6, lse)
KIN_READS(7, delta)
KIN_WRITES(8, dq)

vec4 own_q[OWN * FOURS], own_g[OWN * FOURS], sums[OWN * FOURS];

void main() {
    uint blocks = (queries + OWN * gl_WorkGroupSize.x - 1u) / (OWN * gl_WorkGroupSize.x);
    uint group = kin_group();
    if (!find_head(group / blocks)) return;
    uint query0 = group % blocks * OWN * gl_WorkGroupSize.x + gl_LocalInvocationID.x;
    uint q_row = first_row(q), k_row = first_row(k), v_row = first_row(v), g_row = first_row(g);
    float own_lse[OWN], own_delta[OWN];
    uint last = keys;
    if (HAS_LENGTHS == 1) last = uint(clamp(int(lengths_words[lengths + b0_index]), 0, int(keys)));
    [[unroll]] for (uint t = 0; t < OWN; t++) {
        uint query = min(query0 + t * gl_WorkGroupSize.x, queries - 1u);
        own_lse[t] = lse_real(KIN_F32, lse + row_number(query));
        own_delta[t] = delta_real(KIN_F32, delta + row_number(query));
        [[unroll]] for (uint i = 0; i < FOURS; i++) {
            own_q[t * FOURS + i] = q_four(q_row + query * q.n, i) * (scale * LOG2_E);
            own_g[t * FOURS + i] = g_four(g_row + query * g.n, i);
            sums[t * FOURS + i] = vec4(0);
        }
    }
    for (uint key = 0; key < last; key++) {
        vec4 other[FOURS];
        float score[OWN], dp[OWN];
        [[unroll]] for (uint t = 0; t < OWN; t++) score[t] = dp[t] = 0.0;
        [[unroll]] for (uint i = 0; i < FOURS; i++) {
            other[i] = k_four(k_row + key * k.n, i);
            vec4 value = v_four(v_row + key * v.n, i);
            [[unroll]] for (uint t = 0; t < OWN; t++) {
                vec4 a = own_q[t * FOURS + i] * other[i], b = own_g[t * FOURS + i] * value;
                score[t] += (a.x + a.y) + (a.z + a.w);
                dp[t] += (b.x + b.y) + (b.z + b.w);
            }
        }
        [[unroll]] for (uint t = 0; t < OWN; t++) {
            uint query = min(query0 + t * gl_WorkGroupSize.x, queries - 1u);
            if (BIAS_DTYPE != 0xFFu)
                score[t] += LOG2_E * bias_real(BIAS_DTYPE, bias_index(query, key));
            bool part = own_lse[t] > LEAST && score[t] > LEAST;
            float p = part ? power_of_2(score[t] - own_lse[t]) : 0.0;
            float ds = p * (dp[t] - own_delta[t]) * scale;
            [[unroll]] for (uint i = 0; i < FOURS; i++) sums[t * FOURS + i] += ds * other[i];
        }
    }
    [[unroll]] for (uint t = 0; t < OWN; t++) {
        uint query = query0 + t * gl_WorkGroupSize.x;
        if (query < queries) {
            uint at = out0 + dense_row(queries, query);
            [[unroll]] for (uint i = 0; i < FOURS; i++) STORE_FOUR(dq, at, i, sums[t * FOURS + i])
        }
    }
}
