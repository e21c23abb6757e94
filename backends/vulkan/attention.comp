#version 450
#extension GL_GOOGLE_include_directive : require
// o = softmax(scale q k^T + bias) v and lse = log2 of the sum of the exponentials. Each invocation keeps
// OWN queries and their outputs in registers and walks over the keys, four at a time; what was summed is
// rescaled when the largest score grows (Milakov and Gimelshein 2018, arXiv:1805.02867), so that no
// scores are stored.
// variant: attention
// variant: attention_texels -DTEXELS
// variant: attention_texels_16 -DTEXELS -DBF16
#include "backends/vulkan/attention.glsl"

FOURS_OF(0, q)
FOURS_OF(1, k)
FOURS_OF(2, v)
KIN_READS(3, bias)
KIN_READS(4, lengths)
KIN_WRITES(5, o)
KIN_WRITES(6, lse)

const uint KEYS = 4;

vec4 own[OWN * FOURS], sums[OWN * FOURS];
float top[OWN], sum_of[OWN], score[OWN * KEYS];

void main() {
    uint blocks = (queries + OWN * gl_WorkGroupSize.x - 1u) / (OWN * gl_WorkGroupSize.x);
    uint group = kin_group();
    if (!find_head(group / blocks)) return;
    uint query0 = group % blocks * OWN * gl_WorkGroupSize.x + gl_LocalInvocationID.x;
    uint q_row = first_row(q), k_row = first_row(k), v_row = first_row(v);
    uint last = keys;
    if (HAS_LENGTHS == 1) last = uint(clamp(int(lengths_words[lengths + b0_index]), 0, int(keys)));
    [[unroll]] for (uint t = 0; t < OWN; t++) {
        uint query = min(query0 + t * gl_WorkGroupSize.x, queries - 1u);
        top[t] = LEAST;
        sum_of[t] = 0.0;
        [[unroll]] for (uint i = 0; i < FOURS; i++) {
            own[t * FOURS + i] = q_four(q_row + query * q.n, i) * (scale * LOG2_E);
            sums[t * FOURS + i] = vec4(0);
        }
    }
    for (uint key0 = 0; key0 < last; key0 += KEYS) {
        uint k_at[KEYS], v_at[KEYS];
        [[unroll]] for (uint j = 0; j < KEYS; j++) {
            k_at[j] = k_row + min(key0 + j, last - 1u) * k.n;
            v_at[j] = v_row + min(key0 + j, last - 1u) * v.n;
        }
        [[unroll]] for (uint e = 0; e < OWN * KEYS; e++) score[e] = 0.0;
        [[unroll]] for (uint i = 0; i < FOURS; i++)
            [[unroll]] for (uint j = 0; j < KEYS; j++) {
                vec4 other = k_four(k_at[j], i);
                [[unroll]] for (uint t = 0; t < OWN; t++) {
                    vec4 product = own[t * FOURS + i] * other;
                    score[t * KEYS + j] += (product.x + product.y) + (product.z + product.w);
                }
            }
        float rescale[OWN];
        [[unroll]] for (uint t = 0; t < OWN; t++) {
            uint query = min(query0 + t * gl_WorkGroupSize.x, queries - 1u);
            float most = top[t];
            [[unroll]] for (uint j = 0; j < KEYS; j++) {
                float s = score[t * KEYS + j];
                if (BIAS_DTYPE != 0xFFu)
                    s += LOG2_E * bias_real(BIAS_DTYPE, bias_index(query, min(key0 + j, last - 1u)));
                s = key0 + j < last ? max(s, LEAST) : LEAST;
                score[t * KEYS + j] = s;
                most = max(most, s);
            }
            rescale[t] = power_of_2(top[t] - most);
            top[t] = most;
            float sum = 0.0;
            [[unroll]] for (uint j = 0; j < KEYS; j++) {
                float s = score[t * KEYS + j];
                float p = s > LEAST ? power_of_2(s - most) : 0.0;
                score[t * KEYS + j] = p;
                sum += p;
            }
            sum_of[t] = sum_of[t] * rescale[t] + sum;
        }
        [[unroll]] for (uint i = 0; i < FOURS; i++) {
            vec4 value[KEYS];
            [[unroll]] for (uint j = 0; j < KEYS; j++) value[j] = v_four(v_at[j], i);
            [[unroll]] for (uint t = 0; t < OWN; t++) {
                vec4 sum = sums[t * FOURS + i] * rescale[t];
                [[unroll]] for (uint j = 0; j < KEYS; j++) sum += score[t * KEYS + j] * value[j];
                sums[t * FOURS + i] = sum;
            }
        }
    }
    [[unroll]] for (uint t = 0; t < OWN; t++) {
        uint query = query0 + t * gl_WorkGroupSize.x;
        if (query < queries) {
            bool any = sum_of[t] > 0.0;
            float factor = any ? 1.0 / sum_of[t] : 0.0;
            uint at = out0 + dense_row(queries, query);
            [[unroll]] for (uint i = 0; i < FOURS; i++) {
                vec4 four = sums[t * FOURS + i] * factor;
                STORE_FOUR(o, at, i, four)
            }
            uint bits = any ? floatBitsToUint(top[t] + log_2(sum_of[t])) : 0xFF800000u;
            lse_words[lse + row_number(query)] = bits;
        }
    }
}
