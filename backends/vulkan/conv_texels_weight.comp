#version 450
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
// The gradient of a convolution's weights from copies (conv_pack.comp) of dy and x, for software drivers.
// Each invocation keeps ROWS output channels x COLUMNS pairs of an input channel and a tap, and sums over
// samples, frames, rows and columns, four columns at a time; adds to what is there if ADD is 1.
#include "backends/vulkan/common.glsl"

layout(constant_id = 1) const uint ROWS = 8;
layout(constant_id = 2) const uint COLUMNS = 8;
layout(constant_id = 3) const uint LANES_X = 4;
layout(constant_id = 4) const uint ADD = 0;
layout(constant_id = 5) const uint CAUSAL = 0;

layout(push_constant) uniform push_block {
    uint samples, m, channels;
    uint in_t, in_y, out_t;
    uint begin_y, band;    // rows of dy that are summed here
    uint first_row, rows;  // of the copies of x
    uint fours;            // texels of a row of both
    uint tiles_m, tiles_n;
    uint dy, x, c;
    uint kernel_t, kernel_y, kernel_x;
    uint stride_t, stride_y, before_t, before_y;
};

layout(set = 0, binding = 0) uniform samplerBuffer dy_texels;
layout(set = 0, binding = 1) uniform samplerBuffer x_texels;
KIN_WRITES(2, y)

float sums[ROWS * COLUMNS];

void main() {
    uint taps = kernel_t * kernel_y * kernel_x;
    uint lane = gl_LocalInvocationID.x, lanes_y = gl_WorkGroupSize.x / LANES_X;
    uint tile = kin_group(), n = channels * taps;
    if (tile >= tiles_m * tiles_n) return;
    uint row0 = (tile / tiles_n * lanes_y + lane / LANES_X) * ROWS;
    uint column0 = (tile % tiles_n * LANES_X + lane % LANES_X) * COLUMNS;
    uint plane = in_t * rows * fours, copy = channels * plane;
    uint zeros = x + samples * kernel_x * copy, dy_plane = out_t * band * fours;
    uint base[COLUMNS], tap_t[COLUMNS], tap_y[COLUMNS];
    [[unroll]] for (uint q = 0; q < COLUMNS; q++) {
        uint column = min(column0 + q, n - 1u), tap = column % taps;
        base[q] = x + tap % kernel_x * copy + column / taps * plane;
        tap_t[q] = tap / (kernel_y * kernel_x);
        tap_y[q] = tap / kernel_x % kernel_y;
    }
    [[unroll]] for (uint p = 0; p < ROWS * COLUMNS; p++) sums[p] = 0.0;
    for (uint s = 0; s < samples; s++)
        for (uint t = 0; t < out_t; t++)
            for (uint line = 0; line < band; line++) {
                uint left_at[ROWS], from[COLUMNS], step[COLUMNS];
                [[unroll]] for (uint p = 0; p < ROWS; p++)
                    left_at[p] = dy + (s * m + min(row0 + p, m - 1u)) * dy_plane +
                                 (t * band + line) * fours;
                [[unroll]] for (uint q = 0; q < COLUMNS; q++) {
                    int frame = int(t * stride_t + tap_t[q]) - int(before_t);
                    int source = int((begin_y + line) * stride_y + tap_y[q]) - int(before_y);
                    if (CAUSAL == 1) frame = max(frame, 0);
                    bool there = frame >= 0 && frame < int(in_t) && source >= 0 &&
                                 source < int(in_y);
                    uint place = (uint(frame) * rows + uint(source) - first_row) * fours;
                    from[q] = there ? base[q] + s * kernel_x * copy + place : zeros;
                    step[q] = there ? 1u : 0u;
                }
                for (uint four = 0; four < fours; four++) {
                    vec4 right[COLUMNS];
                    [[unroll]] for (uint q = 0; q < COLUMNS; q++)
                        right[q] = texelFetch(x_texels, int(from[q] + four * step[q]));
                    [[unroll]] for (uint p = 0; p < ROWS; p++) {
                        vec4 left = texelFetch(dy_texels, int(left_at[p] + four));
                        [[unroll]] for (uint q = 0; q < COLUMNS; q++) {
                            vec4 product = left * right[q];
                            sums[p * COLUMNS + q] +=
                                (product.x + product.y) + (product.z + product.w);
                        }
                    }
                }
            }
    [[unroll]] for (uint p = 0; p < ROWS; p++)
        [[unroll]] for (uint q = 0; q < COLUMNS; q++) {
            if (row0 + p < m && column0 + q < n) {
                uint at = c + (row0 + p) * n + column0 + q;
                float sum = sums[p * COLUMNS + q];
                if (ADD == 1) sum += y_real(KIN_F32, at);
                y_words[at] = floatBitsToUint(sum);
            }
        }
}
