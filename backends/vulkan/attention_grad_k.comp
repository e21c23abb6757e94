#version 450
#extension GL_GOOGLE_include_directive : require
// dk and dv: each invocation keeps OWN keys, values and their gradients, and walks over the queries.
// variant: attention_grad_k
// variant: attention_grad_k_texels -DTEXELS
// variant: attention_grad_k_texels_16 -DTEXELS -DBF16
#include "backends/vulkan/attention.glsl"

FOURS_OF(0, q)
FOURS_OF(1, k)
FOURS_OF(2, v)
FOURS_OF(3, g)
KIN_READS(4, bias)
KIN_READS(5, lengths)
KIN_READS(6, lse)
KIN_READS(7, delta)
KIN_WRITES(8, dk)
KIN_WRITES(9, dv)

vec4 own_k[OWN * FOURS], own_v[OWN * FOURS], sums_k[OWN * FOURS], sums_v[OWN * FOURS];

void main() {
    uint blocks = (keys + OWN * gl_WorkGroupSize.x - 1u) / (OWN * gl_WorkGroupSize.x);
    uint group = kin_group();
    if (!find_head(group / blocks)) return;
    uint key0 = group % blocks * OWN * gl_WorkGroupSize.x + gl_LocalInvocationID.x;
    uint q_row = first_row(q), k_row = first_row(k), v_row = first_row(v), g_row = first_row(g);
    uint last = keys;
    if (HAS_LENGTHS == 1) last = uint(clamp(int(lengths_words[lengths + b0_index]), 0, int(keys)));
    [[unroll]] for (uint t = 0; t < OWN; t++) {
        uint key = min(key0 + t * gl_WorkGroupSize.x, keys - 1u);
        [[unroll]] for (uint i = 0; i < FOURS; i++) {
            own_k[t * FOURS + i] = k_four(k_row + key * k.n, i) * (scale * LOG2_E);
            own_v[t * FOURS + i] = v_four(v_row + key * v.n, i);
            sums_k[t * FOURS + i] = sums_v[t * FOURS + i] = vec4(0);
        }
    }
    for (uint query = 0; query < queries; query++) {
        float row_lse = lse_real(KIN_F32, lse + row_number(query));
        float row_delta = delta_real(KIN_F32, delta + row_number(query));
        vec4 other[FOURS], gradient[FOURS];
        float score[OWN], dp[OWN];
        [[unroll]] for (uint t = 0; t < OWN; t++) score[t] = dp[t] = 0.0;
        [[unroll]] for (uint i = 0; i < FOURS; i++) {
            other[i] = q_four(q_row + query * q.n, i);
            gradient[i] = g_four(g_row + query * g.n, i);
            [[unroll]] for (uint t = 0; t < OWN; t++) {
                vec4 a = own_k[t * FOURS + i] * other[i], b = own_v[t * FOURS + i] * gradient[i];
                score[t] += (a.x + a.y) + (a.z + a.w);
                dp[t] += (b.x + b.y) + (b.z + b.w);
            }
        }
        [[unroll]] for (uint t = 0; t < OWN; t++) {
            uint key = min(key0 + t * gl_WorkGroupSize.x, keys - 1u);
            if (BIAS_DTYPE != 0xFFu)
                score[t] += LOG2_E * bias_real(BIAS_DTYPE, bias_index(query, key));
            bool part = row_lse > LEAST && score[t] > LEAST &&
                        key0 + t * gl_WorkGroupSize.x < last;
            float p = part ? power_of_2(score[t] - row_lse) : 0.0;
            float ds = p * (dp[t] - row_delta) * scale;
            [[unroll]] for (uint i = 0; i < FOURS; i++) {
                sums_k[t * FOURS + i] += ds * other[i];
                sums_v[t * FOURS + i] += p * gradient[i];
            }
        }
    }
    [[unroll]] for (uint t = 0; t < OWN; t++) {
        uint key = key0 + t * gl_WorkGroupSize.x;
        if (key < keys) {
            uint at = dense_row(keys, key);
            [[unroll]] for (uint i = 0; i < FOURS; i++) {
                STORE_FOUR(dk, out0 + at, i, sums_k[t * FOURS + i])
                STORE_FOUR(dv, out1 + at, i, sums_v[t * FOURS + i])
            }
        }
    }
}
