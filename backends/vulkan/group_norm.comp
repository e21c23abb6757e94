#version 450
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
// Group norm of [batch, channels, positions] with weight, bias and SiLU, and its gradient, in stages
// that leave their results in scratch memory:
//   MOMENTS   a work group per stretch of a group: its mean (in two parts), sum of squared distances
//   JOIN      an invocation per group: mean and scale of all its stretches (Chan et al. 1979)
//   APPLY     y from x
//   CHANNELS  a work group per channel of a sample: sums of dz hat and of dz
//   GROUPS    an invocation per group: the means of dz w and of dz w hat
//   GRADIENT  dx = scale (dz w - mean(dz w) - hat mean(dz w hat))
// with hat = (x - mean) scale, z = hat w + bias and dz = dy silu'(z), or dy without SiLU.
#include "backends/vulkan/common.glsl"
#include "backends/vulkan/math.glsl"
#include "backends/vulkan/rows.glsl"

layout(constant_id = 2) const uint STAGE = 0;
layout(constant_id = 3) const uint SILU = 0;
layout(constant_id = 4) const uint X_TYPE = 0;
layout(constant_id = 5) const uint W_TYPE = 0;
layout(constant_id = 6) const uint B_TYPE = 0;
layout(constant_id = 7) const uint DY_TYPE = 0;
layout(constant_id = 8) const uint Y_TYPE = 0;

const uint MOMENTS = 0u, JOIN = 1u, APPLY = 2u, CHANNELS = 3u, GROUPS = 4u, GRADIENT = 5u;
const uint EACH = 4;

layout(push_constant) uniform push_block {
    uint batch, channels, positions, groups; // groups of a sample
    uint stretches, stretch;                 // of a group; elements of each but the last
    uint x_first, w_first, b_first, dy_first, y_first;
    uint parts_first, stats_first, hat_first, dz_first, means_first; // in scratch
    float eps;
};

KIN_READS(0, x)
KIN_READS(1, w)
KIN_READS(2, b)
KIN_READS(3, dy)
KIN_WRITES(4, scratch)
KIN_WRITES(5, y)

float kept(uint i) {
    return uintBitsToFloat(scratch_words[i]);
}

void keep(uint i, float v) {
    scratch_words[i] = floatBitsToUint(v);
}

uint group_size() {
    return channels / groups * positions;
}

void moments() {
    uint unit = kin_group();
    if (unit >= batch * groups * stretches) return;
    uint lane = gl_LocalInvocationID.x, lanes = gl_WorkGroupSize.x, size = group_size();
    uint group = unit / stretches, begin = unit % stretches * stretch;
    uint end = min(begin + stretch, size), from = x_first + group * size;
    float n = float(end - begin), total = 0.0, square = 0.0;
    for (uint i = begin + lane; i < end; i += lanes) total += x_real(X_TYPE, from + i);
    float near = kin_group_sum(total) / n;
    total = 0.0;
    for (uint i = begin + lane; i < end; i += lanes) {
        float d = x_real(X_TYPE, from + i) - near;
        total += d;
        square += d * d;
    }
    float rest = kin_group_sum(total) / n;
    square = kin_group_sum(square);
    if (lane != 0u) return;
    keep(parts_first + 3u * unit, near);
    keep(parts_first + 3u * unit + 1u, rest);
    keep(parts_first + 3u * unit + 2u, max(square - n * rest * rest, 0.0));
}

void join() {
    uint group = kin_thread();
    if (group >= batch * groups) return;
    uint at = parts_first + 3u * group * stretches, size = group_size();
    float near = kept(at), mean = 0.0, square = 0.0, n = 0.0;
    for (uint i = 0u; i < stretches; i++) {
        float count = float(min(stretch, size - i * stretch));
        float d = (kept(at + 3u * i) - near) + kept(at + 3u * i + 1u), gap = d - mean;
        n += count;
        mean += gap * (count / n);
        square += kept(at + 3u * i + 2u) + gap * gap * (count * (n - count) / n);
    }
    keep(stats_first + 3u * group, near);
    keep(stats_first + 3u * group + 1u, mean);
    keep(stats_first + 3u * group + 2u, 1.0 / sqrt(square / n + eps));
}

float hat_of(uint i, uint group) {
    uint at = stats_first + 3u * group;
    return ((x_real(X_TYPE, x_first + i) - kept(at)) - kept(at + 1u)) * kept(at + 2u);
}

float sigmoid(float z) {
    return 1.0 / (1.0 + kin_exp(-z));
}

float value_of(uint i) {
    uint plane = i / positions, channel = plane % channels;
    float z = hat_of(i, plane / (channels / groups)) * w_real(W_TYPE, w_first + channel) +
              b_real(B_TYPE, b_first + channel);
    return SILU == 1u ? z * sigmoid(z) : z;
}

// dy times the slope of what follows the normalisation.
float dz_of(uint i, uint channel, float hat) {
    float g = dy_real(DY_TYPE, dy_first + i);
    if (SILU == 0u) return g;
    float z = hat * w_real(W_TYPE, w_first + channel) + b_real(B_TYPE, b_first + channel);
    float s = sigmoid(z);
    return g * s * (1.0 + z * (1.0 - s));
}

void channel_sums() {
    uint unit = kin_group();
    if (unit >= batch * channels) return;
    uint lane = gl_LocalInvocationID.x, lanes = gl_WorkGroupSize.x;
    uint channel = unit % channels, group = unit * positions / group_size();
    float hats = 0.0, plain = 0.0;
    for (uint k = lane; k < positions; k += lanes) {
        uint i = unit * positions + k;
        float hat = hat_of(i, group), dz = dz_of(i, channel, hat);
        hats += dz * hat;
        plain += dz;
    }
    hats = kin_group_sum(hats);
    plain = kin_group_sum(plain);
    if (lane != 0u) return;
    keep(hat_first + unit, hats);
    keep(dz_first + unit, plain);
}

void group_means() {
    uint group = kin_thread();
    if (group >= batch * groups) return;
    uint width = channels / groups;
    float mean = 0.0, hat_mean = 0.0;
    for (uint k = 0u; k < width; k++) {
        uint unit = group * width + k;
        float factor = w_real(W_TYPE, w_first + unit % channels);
        mean += factor * kept(dz_first + unit);
        hat_mean += factor * kept(hat_first + unit);
    }
    keep(means_first + 2u * group, mean / float(group_size()));
    keep(means_first + 2u * group + 1u, hat_mean / float(group_size()));
}

float dx_of(uint i) {
    uint plane = i / positions, channel = plane % channels, group = plane / (channels / groups);
    float hat = hat_of(i, group), dz = dz_of(i, channel, hat);
    return kept(stats_first + 3u * group + 2u) *
           (dz * w_real(W_TYPE, w_first + channel) - kept(means_first + 2u * group) -
            hat * kept(means_first + 2u * group + 1u));
}

void elements() {
    const uint per_word = Y_TYPE == KIN_F32 ? 1u : 2u;
    uint width = gl_WorkGroupSize.x, count = batch * channels * positions;
    uint start = kin_group() * width * EACH + gl_LocalInvocationID.x;
    for (uint k = 0u; k < EACH; k++) {
        uint i = (start + k * width) * per_word;
        if (i >= count) return;
        bool both = per_word == 2u && i + 1u < count;
        float first = STAGE == APPLY ? value_of(i) : dx_of(i), second = 0.0;
        if (both) second = STAGE == APPLY ? value_of(i + 1u) : dx_of(i + 1u);
        y_store2(Y_TYPE, y_first + i, first, second, both);
    }
}

void main() {
    if (STAGE == MOMENTS) moments();
    else if (STAGE == JOIN) join();
    else if (STAGE == CHANNELS) channel_sums();
    else if (STAGE == GROUPS) group_means();
    else elements();
}
