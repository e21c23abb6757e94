#version 450
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
// A convolution, or the gradient of its input, from the copies of conv_pack.comp and the weights of
// conv_pack_weight.comp, for software drivers: as matmul_texels.comp, without shared memory. Each
// invocation keeps ROWS channels x GROUPS times four neighbouring columns.
#include "backends/vulkan/common.glsl"

layout(constant_id = 1) const uint ROWS = 8; // a multiple of 4
layout(constant_id = 2) const uint GROUPS = 2;
layout(constant_id = 3) const uint LANES_X = 4;
layout(constant_id = 4) const uint BACKWARD = 0;
layout(constant_id = 5) const uint C_DTYPE = 0;
layout(constant_id = 6) const uint BIAS_DTYPE = 0xFFu;
layout(constant_id = 7) const uint CAUSAL = 0;
// Channels and taps of a row between two visits of the sums: divisors of both numbers.
layout(constant_id = 8) const uint CHANNELS_EACH = 1;
layout(constant_id = 9) const uint TAPS_EACH = 1;

const uint STEPS = CHANNELS_EACH * TAPS_EACH;

layout(push_constant) uniform push_block {
    uint samples, first_sample;
    uint m, channels;              // rows of the result, and channels that are summed over
    uint out_t, out_y, out_x;      // of the result
    uint begin_y, band;            // its rows that are made here
    uint in_t, in_y;               // of the source
    uint first_row, rows, frames;  // of the copies
    uint fours, four_step;         // texels of a row of the copies, and from one to the next
    uint tiles_m, tiles_n;
    uint x, w, c, bias;
    uint kernel_t, kernel_y, kernel_x;
    uint stride_t, stride_y, before_t, before_y;
};

layout(set = 0, binding = 0) uniform samplerBuffer w_texels;
layout(set = 0, binding = 1) uniform samplerBuffer x_texels;
KIN_READS(2, v)
KIN_WRITES(3, y)

vec4 sums[ROWS * GROUPS];

// Where output `at` reads tap k along an axis; -1: nowhere.
int source_of(uint at, uint k, uint before, uint stride, uint size) {
    int place = int(at * stride + k) - int(before);
    if (BACKWARD == 1) {
        place = int(at + before) - int(k);
        if (place < 0 || place % int(stride) != 0) return -1;
        place /= int(stride);
    }
    return place < int(size) ? place : -1;
}

int frame_of(uint t, uint k) {
    if (CAUSAL == 1 && BACKWARD == 0 && t * stride_t + k < before_t) return 0;
    // The first frame was read by several outputs: their sum is one of the frames behind the last.
    if (CAUSAL == 1 && BACKWARD == 1 && t == 0u)
        return k > before_t ? -1 : int(in_t + min((before_t - k) / stride_t, in_t - 1u));
    return source_of(t, k, before_t, stride_t, in_t);
}

void main() {
    uint lane = gl_LocalInvocationID.x, lanes_y = gl_WorkGroupSize.x / LANES_X;
    uint tile = kin_group(), s = tile / (tiles_m * tiles_n);
    if (s >= samples) return;
    uint row0 = (tile % tiles_m * lanes_y + lane / LANES_X) * ROWS;
    uint quads = out_t * band * ((out_x + 3u) / 4u), across = (out_x + 3u) / 4u;
    uint quad0 = tile / tiles_m % tiles_n * GROUPS * LANES_X + lane % LANES_X;
    // Channels are neighbours: what an invocation reads one after the other lies so.
    uint copy = four_step * frames * rows * fours, sample_at = x + s * kernel_x * copy;
    uint zeros = x + samples * kernel_x * copy;
    uint length = channels * kernel_t * kernel_y * kernel_x;
    uint w_at = w + min(row0, m - 1u) / ROWS * length * (ROWS / 4u);
    uint at_t[GROUPS], at_y[GROUPS], at_q[GROUPS];
    [[unroll]] for (uint g = 0; g < GROUPS; g++) {
        uint quad = min(quad0 + g * LANES_X, quads - 1u);
        at_q[g] = quad % across;
        at_y[g] = begin_y + quad / across % band;
        at_t[g] = quad / across / band;
    }
    [[unroll]] for (uint p = 0; p < ROWS * GROUPS; p++) sums[p] = vec4(0);
    for (uint kt = 0; kt < kernel_t; kt++)
        for (uint ky = 0; ky < kernel_y; ky++) {
            // Rows outside of the source are read from the texel of zeros.
            uint from[GROUPS], step[GROUPS], copy_step[GROUPS];
            [[unroll]] for (uint g = 0; g < GROUPS; g++) {
                int t = frame_of(at_t[g], kt);
                int line = source_of(at_y[g], ky, before_y, stride_y, in_y);
                bool there = t >= 0 && line >= 0;
                uint place = ((uint(t) * rows + uint(line) - first_row) * fours + at_q[g]) * four_step;
                from[g] = there ? sample_at + place : zeros;
                step[g] = there ? 1u : 0u;
                copy_step[g] = there ? copy : 0u;
            }
            // One loop over channels and taps of a row: drivers copy all sums at the end of each loop.
            uint channel = 0u, kx = 0u, row_step = kernel_t * kernel_y * kernel_x;
            while (channel < channels) {
                uint row = channel * row_step + (kt * kernel_y + ky) * kernel_x + kx;
                vec4 right[STEPS * GROUPS];
                [[unroll]] for (uint e = 0; e < STEPS; e++)
                    [[unroll]] for (uint g = 0; g < GROUPS; g++)
                        right[e * GROUPS + g] =
                            texelFetch(x_texels, int(from[g] + e / TAPS_EACH * step[g] +
                                                     (kx + e % TAPS_EACH) * copy_step[g]));
                [[unroll]] for (uint p = 0; p < ROWS / 4u; p++) {
                    vec4 left[STEPS];
                    [[unroll]] for (uint e = 0; e < STEPS; e++) {
                        uint l = row + e / TAPS_EACH * row_step + e % TAPS_EACH;
                        left[e] = texelFetch(w_texels, int(w_at + l * (ROWS / 4u) + p));
                    }
                    [[unroll]] for (uint l = 0; l < 4u; l++)
                        [[unroll]] for (uint g = 0; g < GROUPS; g++) {
                            vec4 sum = sums[(4u * p + l) * GROUPS + g];
                            [[unroll]] for (uint e = 0; e < STEPS; e++)
                                sum += left[e][l] * right[e * GROUPS + g];
                            sums[(4u * p + l) * GROUPS + g] = sum;
                        }
                }
                kx += TAPS_EACH;
                bool next = kx == kernel_x;
                kx = next ? 0u : kx;
                channel += next ? CHANNELS_EACH : 0u;
                [[unroll]] for (uint g = 0; g < GROUPS; g++)
                    from[g] += next ? CHANNELS_EACH * step[g] : 0u;
            }
        }
    uint positions = out_t * out_y * out_x;
    [[unroll]] for (uint g = 0; g < GROUPS; g++) {
        uint column = 4u * at_q[g];
        if (quad0 + g * LANES_X < quads) {
            [[unroll]] for (uint p = 0; p < ROWS; p++) {
                if (row0 + p < m) {
                    uint at = c + ((first_sample + s) * m + row0 + p) * positions +
                              (at_t[g] * out_y + at_y[g]) * out_x + column;
                    vec4 sum = sums[p * GROUPS + g];
                    if (BIAS_DTYPE != 0xFFu) sum += v_real(BIAS_DTYPE, bias + row0 + p);
                    y_store2(C_DTYPE, at, sum.x, sum.y, column + 1u < out_x);
                    if (column + 2u < out_x)
                        y_store2(C_DTYPE, at + 2u, sum.z, sum.w, column + 3u < out_x);
                }
            }
        }
    }
}
