#version 450
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
// Products without shared memory and barriers, for software drivers: what they do well is arithmetic in
// registers and reads of whole texels. Each invocation keeps ROWS x 4 GROUPS sums; LANES_X invocations
// lie side by side along n, the others of the work group along m.
// variant: matmul_texels
// variant: matmul_texels_a16 -DA_BF16
// variant: matmul_texels_b16 -DB_BF16
// variant: matmul_texels_16 -DA_BF16 -DB_BF16
#include "backends/vulkan/common.glsl"

layout(constant_id = 1) const uint ROWS = 8; // a multiple of 4
layout(constant_id = 2) const uint GROUPS = 2;
layout(constant_id = 3) const uint LANES_X = 4;
layout(constant_id = 4) const uint A_ALONG_K = 1; // a texel is four elements of a row, else of a column
layout(constant_id = 5) const uint B_ALONG_K = 0;
layout(constant_id = 6) const uint C_DTYPE = 0;
layout(constant_id = 7) const uint BIAS_DTYPE = 0xFFu;

// As in matmul_tiles.comp, but a, b and their strides count texels where it says so.
layout(push_constant) uniform push_block {
    uint m, n, k;
    uint tiles_m, tiles_n, batches;
    uint a, a_step; // texels: the beginning; from row to row, or from k to k + 1
    uint b, b_step;
    uint c, bias, bias_step;
    uint dims[2];
    uint a_steps[3], b_steps[3]; // texels
};

#ifdef A_BF16
layout(set = 0, binding = 0) uniform usamplerBuffer a_texels;
#define A_AT(i) uintBitsToFloat(texelFetch(a_texels, int(i)) << 16)
#else
layout(set = 0, binding = 0) uniform samplerBuffer a_texels;
#define A_AT(i) texelFetch(a_texels, int(i))
#endif
#ifdef B_BF16
layout(set = 0, binding = 1) uniform usamplerBuffer b_texels;
#define B_AT(i) uintBitsToFloat(texelFetch(b_texels, int(i)) << 16)
#else
layout(set = 0, binding = 1) uniform samplerBuffer b_texels;
#define B_AT(i) texelFetch(b_texels, int(i))
#endif
KIN_READS(2, v)
KIN_WRITES(3, y)

vec4 sums[ROWS * GROUPS];

void main() {
    uint tile = kin_group(), batch = tile / (tiles_m * tiles_n);
    uint lane = gl_LocalInvocationID.x, lanes_y = gl_WorkGroupSize.x / LANES_X;
    if (batch >= batches) return;
    uint i2 = batch % dims[1], i1 = batch / dims[1] % dims[0], i0 = batch / dims[1] / dims[0];
    uint row0 = (tile / tiles_n % tiles_m * lanes_y + lane / LANES_X) * ROWS;
    uint column0 = (tile % tiles_n * GROUPS * LANES_X + lane % LANES_X) * 4u;
    uint a_begin = a + i0 * a_steps[0] + i1 * a_steps[1] + i2 * a_steps[2];
    uint b_begin = b + i0 * b_steps[0] + i1 * b_steps[1] + i2 * b_steps[2];
    // What is read outside of the matrices is read at their edge, and not stored.
    uint a_at[ROWS], b_at[4u * GROUPS];
    if (A_ALONG_K == 1) {
        [[unroll]] for (uint p = 0; p < ROWS; p++)
            a_at[p] = a_begin + min(row0 + p, m - 1u) * a_step;
    } else {
        [[unroll]] for (uint p = 0; p < ROWS / 4u; p++)
            a_at[p] = a_begin + min(row0 / 4u + p, (m - 1u) / 4u);
    }
    if (B_ALONG_K == 1) {
        [[unroll]] for (uint q = 0; q < 4u * GROUPS; q++)
            b_at[q] = b_begin +
                      min(column0 + q / 4u * LANES_X * 4u + q % 4u, n - 1u) * b_step;
    } else {
        [[unroll]] for (uint q = 0; q < GROUPS; q++)
            b_at[q] = b_begin + min(column0 / 4u + q * LANES_X, (n - 1u) / 4u);
    }
    [[unroll]] for (uint p = 0; p < ROWS * GROUPS; p++) sums[p] = vec4(0);
    for (uint k0 = 0; k0 < k; k0 += 4u) {
        vec4 right[4u * GROUPS]; // [4 of k][GROUPS of 4 columns]
        [[unroll]] for (uint q = 0; q < GROUPS; q++) {
            if (B_ALONG_K == 1) {
                uint at = k0 / 4u;
                vec4 z0 = B_AT(b_at[4u * q] + at), z1 = B_AT(b_at[4u * q + 1u] + at);
                vec4 z2 = B_AT(b_at[4u * q + 2u] + at), z3 = B_AT(b_at[4u * q + 3u] + at);
                right[q] = vec4(z0.x, z1.x, z2.x, z3.x);
                right[GROUPS + q] = vec4(z0.y, z1.y, z2.y, z3.y);
                right[2u * GROUPS + q] = vec4(z0.z, z1.z, z2.z, z3.z);
                right[3u * GROUPS + q] = vec4(z0.w, z1.w, z2.w, z3.w);
            } else {
                [[unroll]] for (uint l = 0; l < 4u; l++)
                    right[l * GROUPS + q] = B_AT(b_at[q] + (k0 + l) * b_step);
            }
        }
        [[unroll]] for (uint p = 0; p < ROWS; p += 4u) {
            vec4 left[4];
            if (A_ALONG_K == 1) {
                [[unroll]] for (uint l = 0; l < 4u; l++) left[l] = A_AT(a_at[p + l] + k0 / 4u);
            } else {
                uint at = a_at[p / 4u] + k0 * a_step;
                vec4 z0 = A_AT(at), z1 = A_AT(at + a_step);
                vec4 z2 = A_AT(at + 2u * a_step), z3 = A_AT(at + 3u * a_step);
                left[0] = vec4(z0.x, z1.x, z2.x, z3.x);
                left[1] = vec4(z0.y, z1.y, z2.y, z3.y);
                left[2] = vec4(z0.z, z1.z, z2.z, z3.z);
                left[3] = vec4(z0.w, z1.w, z2.w, z3.w);
            }
            [[unroll]] for (uint l = 0; l < 4u; l++)
                [[unroll]] for (uint q = 0; q < GROUPS; q++) {
                    vec4 sum = sums[(p + l) * GROUPS + q];
                    sum += left[l].x * right[q];
                    sum += left[l].y * right[GROUPS + q];
                    sum += left[l].z * right[2u * GROUPS + q];
                    sum += left[l].w * right[3u * GROUPS + q];
                    sums[(p + l) * GROUPS + q] = sum;
                }
        }
    }
    [[unroll]] for (uint q = 0; q < GROUPS; q++) {
        uint j = column0 + q * LANES_X * 4u;
        if (j < n) {
            vec4 add = vec4(0);
            if (BIAS_DTYPE != 0xFFu)
                [[unroll]] for (uint l = 0; l < 4u; l++)
                    add[l] = v_real(BIAS_DTYPE, bias + min(j + l, n - 1u) * bias_step);
            [[unroll]] for (uint p = 0; p < ROWS; p++) {
                if (row0 + p < m) {
                    uint at = c + (batch * m + row0 + p) * n + j;
                    vec4 sum = sums[p * GROUPS + q] + add;
                    y_store2(C_DTYPE, at, sum.x, sum.y, j + 1u < n);
                    if (j + 2u < n) y_store2(C_DTYPE, at + 2u, sum.z, sum.w, j + 3u < n);
                }
            }
        }
    }
}
