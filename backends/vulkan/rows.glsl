// Sums and maxima over a work group, for shaders that give a group one row. Included behind
// common.glsl by a shader that enables GL_KHR_shader_subgroup_arithmetic.

#ifndef KIN_ROWS_GLSL
#define KIN_ROWS_GLSL

// 1: the group is known to be one subgroup, so that no barrier is needed.
layout(constant_id = 1) const uint ONE_SUBGROUP = 0;

const uint MOST_SUBGROUPS = 64;
shared float kin_parts[MOST_SUBGROUPS];

float kin_group_sum(float v) {
    v = subgroupAdd(v);
    if (ONE_SUBGROUP == 1u) return v;
    if (subgroupElect()) kin_parts[gl_SubgroupID] = v;
    barrier();
    float total = 0.0;
    for (uint i = 0u; i < gl_NumSubgroups; i++) total += kin_parts[i];
    barrier();
    return total;
}

float kin_group_max(float v) {
    v = subgroupMax(v);
    if (ONE_SUBGROUP == 1u) return v;
    if (subgroupElect()) kin_parts[gl_SubgroupID] = v;
    barrier();
    float total = kin_parts[0];
    for (uint i = 1u; i < gl_NumSubgroups; i++) total = max(total, kin_parts[i]);
    barrier();
    return total;
}

#endif
