#version 450
#extension GL_GOOGLE_include_directive : require
// For the gradient: delta = o . do - log2(e) dlse of each query. o takes the places of q.
#include "backends/vulkan/attention.glsl"

FOURS_OF(0, q)
KIN_READS(1, dlse)
KIN_WRITES(2, delta)
FOURS_OF(3, g)

layout(constant_id = 14) const uint HAS_DLSE = 0;

void main() {
    uint at = kin_thread(), query = at % queries;
    if (!find_head(at / queries)) return;
    uint o_row = first_row(q) + query * q.n, g_row = first_row(g) + query * g.n;
    vec4 sums = vec4(0);
    for (uint i = 0; i < FOURS; i++) sums += q_four(o_row, i) * g_four(g_row, i);
    float sum = (sums.x + sums.y) + (sums.z + sums.w);
    if (HAS_DLSE == 1) sum -= LOG2_E * dlse_real(KIN_F32, lse + at);
    delta_words[delta + at] = floatBitsToUint(sum);
}
