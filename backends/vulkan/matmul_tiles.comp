#version 450
#extension GL_GOOGLE_include_directive : require
// Products of any strides and dtypes through shared memory, for devices that have some.
#include "backends/vulkan/common.glsl"
#include "backends/vulkan/product.glsl"

layout(constant_id = 8) const uint A_DTYPE = 0;
layout(constant_id = 9) const uint B_DTYPE = 0;
layout(constant_id = 10) const uint C_DTYPE = 0;
layout(constant_id = 11) const uint BIAS_DTYPE = 0xFFu; // 0xFF: there is none

layout(push_constant) uniform push_block {
    uint m, n, k;
    uint tiles_m, tiles_n, batches;
    uint a, a_m, a_k; // element 0 and strides; q8_0: a byte, and elements
    uint b, b_k, b_n;
    uint c, bias, bias_step;
    uint dims[2];                   // of the last two of three leading axes
    uint a_steps[3], b_steps[3];    // strides of the leading axes
};

KIN_READS(0, x)
KIN_READS(1, w)
KIN_READS(2, v)
KIN_WRITES(3, y)

uint a_begin, b_begin;

float product_a(uint i, uint l) {
    return x_real(A_DTYPE, a_begin + i * a_m + l * a_k);
}

uint byte_at(uint at) {
    return (w_words[at >> 2] >> ((at & 3u) << 3)) & 0xFFu;
}

// A block of 32 is an f16 scale and 32 signed bytes: 34 bytes.
float q8_0_at(uint element) {
    uint block = b + element / 32u * 34u;
    uint bits = byte_at(block) | (byte_at(block + 1u) << 8);
    int value = int(byte_at(block + 2u + element % 32u) << 24) >> 24;
    return kin_from_f16(bits) * float(value);
}

float product_b(uint l, uint j) {
    uint at = b_begin + l * b_k + j * b_n;
    if (B_DTYPE == KIN_Q8_0) return q8_0_at(at);
    return w_real(B_DTYPE, b + at);
}

void main() {
    uint tile = kin_group(), batch = tile / (tiles_m * tiles_n);
    if (batch >= batches) return;
    uint i2 = batch % dims[1], i1 = batch / dims[1] % dims[0], i0 = batch / dims[1] / dims[0];
    uint row0 = tile / tiles_n % tiles_m * TILE_M, column0 = tile % tiles_n * TILE_N;
    a_begin = a + i0 * a_steps[0] + i1 * a_steps[1] + i2 * a_steps[2];
    b_begin = i0 * b_steps[0] + i1 * b_steps[1] + i2 * b_steps[2];
    product_sums(row0, column0, m, n, 0u, k);
    for (uint p = 0; p < PART_M; p++)
        for (uint q = 0; q < PART_N; q += 2u) {
            uint i = product_row(row0, p), j = product_column(column0, q);
            if (i >= m || j >= n) continue;
            bool both = j + 1u < n;
            vec2 sum = vec2(sums[p * PART_N + q], sums[p * PART_N + q + 1u]);
            if (BIAS_DTYPE != 0xFFu) {
                sum.x += v_real(BIAS_DTYPE, bias + j * bias_step);
                if (both) sum.y += v_real(BIAS_DTYPE, bias + (j + 1u) * bias_step);
            }
            y_store2(C_DTYPE, c + (batch * m + i) * n + j, sum.x, sum.y, both);
        }
}
