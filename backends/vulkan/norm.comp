#version 450
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
// variant: norm
// variant: norm_grad -DGRADIENT=1
// Layer norm and RMS norm of rows, times a factor, plus a bias. The factor is a weight, or 1 + scale
// of the row's sample. The gradient with hat = (x - mean) scale and g = dy factor:
//     dx = scale (g - mean(g) - hat mean(g hat)),
// and each row's mean (in two parts) and scale for norm_columns.comp.
#include "backends/vulkan/common.glsl"
#include "backends/vulkan/math.glsl"
#include "backends/vulkan/rows.glsl"

layout(constant_id = 2) const uint CENTRED = 1;
layout(constant_id = 3) const uint X_TYPE = 0;
layout(constant_id = 4) const uint W_TYPE = 0;
layout(constant_id = 5) const uint HAS_WEIGHT = 0;
layout(constant_id = 6) const uint PLUS_ONE = 0; // the factor is 1 + weight
layout(constant_id = 7) const uint B_TYPE = 0;   // of the bias, or of dy
layout(constant_id = 8) const uint HAS_BIAS = 0;
layout(constant_id = 9) const uint Y_TYPE = 0;

layout(push_constant) uniform push_block {
    uint width, rows, sample_rows; // rows that share a weight and a bias
    uint x_row, dy_row;            // elements from row to row
    uint x_first, w_first, b_first, y_first, s_first;
    uint w_step, b_step; // elements from sample to sample
    float eps;
};

KIN_READS(0, x)
KIN_READS(1, w)
KIN_READS(2, b)
KIN_WRITES(3, y)
#ifdef GRADIENT
KIN_WRITES(4, stats)
#endif

// The mean is near + rest, so that a mean far from 0 costs no digits.
float near, rest, scale;

void measure(uint from) {
    uint lane = gl_LocalInvocationID.x, lanes = gl_WorkGroupSize.x;
    float n = float(width), total = 0.0, square = 0.0;
    near = rest = 0.0;
    if (CENTRED == 1u) {
        for (uint i = lane; i < width; i += lanes) total += x_real(X_TYPE, from + i);
        near = kin_group_sum(total) / n;
        total = 0.0;
    }
    for (uint i = lane; i < width; i += lanes) {
        float d = x_real(X_TYPE, from + i) - near;
        total += d;
        square += d * d;
    }
    square = kin_group_sum(square) / n;
    if (CENTRED == 1u) {
        rest = kin_group_sum(total) / n;
        square = max(square - rest * rest, 0.0);
    }
    scale = 1.0 / sqrt(square + eps);
}

float hat_of(uint place) {
    return ((x_real(X_TYPE, place) - near) - rest) * scale;
}

float factor_of(uint place) {
    if (HAS_WEIGHT == 0u) return 1.0;
    float v = w_real(W_TYPE, place);
    return PLUS_ONE == 1u ? 1.0 + v : v;
}

#ifdef GRADIENT
void main() {
    uint row = kin_group();
    if (row >= rows) return;
    uint lane = gl_LocalInvocationID.x, lanes = gl_WorkGroupSize.x;
    uint from = x_first + row * x_row, dy_from = b_first + row * dy_row;
    uint w = w_first + row / sample_rows * w_step, to = y_first + row * width;
    float g_mean = 0.0, gh_mean = 0.0;
    measure(from);
    for (uint i = lane; i < width; i += lanes) {
        float g = b_real(B_TYPE, dy_from + i) * factor_of(w + i);
        g_mean += g;
        gh_mean += g * hat_of(from + i);
    }
    g_mean = CENTRED == 1u ? kin_group_sum(g_mean) / float(width) : 0.0;
    gh_mean = kin_group_sum(gh_mean) / float(width);
    if (lane == 0u) {
        stats_words[s_first + 3u * row] = floatBitsToUint(near);
        stats_words[s_first + 3u * row + 1u] = floatBitsToUint(rest);
        stats_words[s_first + 3u * row + 2u] = floatBitsToUint(scale);
    }
    for (uint i = 2u * lane; i < width; i += 2u * lanes) {
        float v[2] = float[2](0.0, 0.0);
        bool both = i + 1u < width;
        for (uint e = 0u; e < (both ? 2u : 1u); e++) {
            float g = b_real(B_TYPE, dy_from + i + e) * factor_of(w + i + e);
            v[e] = scale * (g - g_mean - hat_of(from + i + e) * gh_mean);
        }
        y_store2(Y_TYPE, to + i, v[0], v[1], both);
    }
}
#else
float value_of(uint place, uint w, uint b) {
    float v = hat_of(place) * factor_of(w);
    return HAS_BIAS == 1u ? v + b_real(B_TYPE, b) : v;
}

void main() {
    uint row = kin_group();
    if (row >= rows) return;
    uint lane = gl_LocalInvocationID.x, lanes = gl_WorkGroupSize.x;
    uint from = x_first + row * x_row, to = y_first + row * width;
    uint w = w_first + row / sample_rows * w_step, b = b_first + row / sample_rows * b_step;
    measure(from);
    for (uint i = 2u * lane; i < width; i += 2u * lanes) {
        bool both = i + 1u < width;
        float first = value_of(from + i, w + i, b + i);
        float second = both ? value_of(from + i + 1u, w + i + 1u, b + i + 1u) : 0.0;
        y_store2(Y_TYPE, to + i, first, second, both);
    }
}
#endif
