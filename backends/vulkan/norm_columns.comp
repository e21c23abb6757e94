#version 450
#extension GL_GOOGLE_include_directive : require
// Shares of the gradients of a norm's vectors: for each column and each stretch of rows the sums of
// dy hat and of dy. What norm_grad wrote for each row says how hat is made.
#include "backends/vulkan/common.glsl"

layout(constant_id = 1) const uint X_TYPE = 0;
layout(constant_id = 2) const uint DY_TYPE = 0;

layout(push_constant) uniform push_block {
    uint width, count;               // columns; columns times chunks times samples
    uint chunks, rows, sample_rows;  // chunks of a sample, rows of a chunk, rows of a sample
    uint x_row, dy_row;
    uint x_first, dy_first, s_first;
    uint hat_first, dy_sum_first; // results: [sample, chunk, column]
};

KIN_READS(0, x)
KIN_READS(1, dy)
KIN_READS(2, stats)
KIN_WRITES(3, sums)

void main() {
    uint i = kin_thread();
    if (i >= count) return;
    uint column = i % width, chunk = i / width % chunks, sample_index = i / width / chunks;
    uint row = sample_index * sample_rows + chunk * rows;
    uint end = sample_index * sample_rows + min((chunk + 1u) * rows, sample_rows);
    float hat_sum = 0.0, dy_sum = 0.0;
    for (; row < end; row++) {
        float near = stats_real(KIN_F32, s_first + 3u * row);
        float rest = stats_real(KIN_F32, s_first + 3u * row + 1u);
        float scale = stats_real(KIN_F32, s_first + 3u * row + 2u);
        float g = dy_real(DY_TYPE, dy_first + row * dy_row + column);
        float v = x_real(X_TYPE, x_first + row * x_row + column);
        hat_sum += g * (((v - near) - rest) * scale);
        dy_sum += g;
    }
    sums_words[hat_first + i] = floatBitsToUint(hat_sum);
    sums_words[dy_sum_first + i] = floatBitsToUint(dy_sum);
}
