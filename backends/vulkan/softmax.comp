#version 450
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
// softmax over rows: exp(x - max) / sum exp(x - max); its gradient: y (dy - sum(dy y)), with y in x.
#include "backends/vulkan/common.glsl"
#include "backends/vulkan/math.glsl"
#include "backends/vulkan/rows.glsl"

layout(constant_id = 2) const uint GRADIENT = 0;
layout(constant_id = 3) const uint X_TYPE = 0;
layout(constant_id = 4) const uint G_TYPE = 0;
layout(constant_id = 5) const uint Y_TYPE = 0;

layout(push_constant) uniform push_block {
    uint width, rows, x_first, g_first, y_first;
};

KIN_READS(0, x)
KIN_READS(1, g)
KIN_WRITES(2, y)

void forward(uint row) {
    uint lane = gl_LocalInvocationID.x, lanes = gl_WorkGroupSize.x;
    uint from = x_first + row * width, to = y_first + row * width;
    float most = -kin_inf(), total = 0.0;
    for (uint i = lane; i < width; i += lanes) most = max(most, x_real(X_TYPE, from + i));
    most = kin_group_max(most);
    for (uint i = lane; i < width; i += lanes) total += kin_exp(x_real(X_TYPE, from + i) - most);
    float scale = 1.0 / kin_group_sum(total);
    for (uint i = 2u * lane; i < width; i += 2u * lanes) {
        bool both = i + 1u < width;
        float a = kin_exp(x_real(X_TYPE, from + i) - most) * scale;
        float b = both ? kin_exp(x_real(X_TYPE, from + i + 1u) - most) * scale : 0.0;
        y_store2(Y_TYPE, to + i, a, b, both);
    }
}

void backward(uint row) {
    uint lane = gl_LocalInvocationID.x, lanes = gl_WorkGroupSize.x;
    uint at = x_first + row * width, g_at = g_first + row * width, to = y_first + row * width;
    float total = 0.0;
    for (uint i = lane; i < width; i += lanes) total += x_real(X_TYPE, at + i) * g_real(G_TYPE, g_at + i);
    total = kin_group_sum(total);
    for (uint i = 2u * lane; i < width; i += 2u * lanes) {
        bool both = i + 1u < width;
        float a = x_real(X_TYPE, at + i) * (g_real(G_TYPE, g_at + i) - total), b = 0.0;
        if (both) b = x_real(X_TYPE, at + i + 1u) * (g_real(G_TYPE, g_at + i + 1u) - total);
        y_store2(Y_TYPE, to + i, a, b, both);
    }
}

void main() {
    uint row = kin_group();
    if (row >= rows) return;
    if (GRADIENT == 1u) backward(row);
    else forward(row);
}
