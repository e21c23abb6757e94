#version 450
#extension GL_GOOGLE_include_directive : require
// Convolution and its gradients as products whose right operand is gathered while it is read:
//   forward  y[o, p]    = sum over (c, k) of w[o, (c, k)] x[c, p * stride + k - before]
//   input    dx[c, q]   = sum over (o, k) of w[o, c, k] dy[o, those p that read q at k]
//   weight   dw[o, (c, k)] = sum over (sample, p) of dy[o, p] x[c, p * stride + k - before]
// variant: conv_tiles -DFORWARD
// variant: conv_tiles_input -DGRAD_INPUT
// variant: conv_tiles_weight -DGRAD_WEIGHT
#include "backends/vulkan/common.glsl"
#include "backends/vulkan/product.glsl"
#include "backends/vulkan/conv.glsl"

KIN_READS(0, x)
KIN_READS(1, w)
KIN_READS(2, v)
KIN_WRITES(3, y)

uint sample_index;

#if defined(FORWARD)
float product_a(uint o, uint l) {
    return x_real(A_DTYPE, a + o * cin * TAPS + l);
}
float product_b(uint l, uint position) {
    int source = conv_source(position, l % TAPS);
    uint plane = in_t * in_y * in_x;
    if (source < 0) return 0.0;
    return w_real(B_DTYPE, b + (sample_index * cin + l / TAPS) * plane + uint(source));
}
#elif defined(GRAD_INPUT)
float product_a(uint channel, uint l) {
    return x_real(A_DTYPE, a + (l / TAPS * cin + channel) * TAPS + l % TAPS);
}
float product_b(uint l, uint position) {
    ivec3 readers = conv_readers(position, l % TAPS);
    uint frame = out_y * out_x, plane = b + (sample_index * cout + l / TAPS) * out_t * frame;
    float sum = 0.0;
    for (int i = 0; i < readers.y; i++)
        sum += w_real(B_DTYPE, plane + uint(readers.x + i) * frame + uint(readers.z));
    return sum;
}
#else
float product_a(uint o, uint l) {
    uint positions = out_t * out_y * out_x;
    return x_real(A_DTYPE, a + (l / positions * cout + o) * positions + l % positions);
}
float product_b(uint l, uint column) {
    uint positions = out_t * out_y * out_x, plane = in_t * in_y * in_x;
    int source = conv_source(l % positions, column % TAPS);
    if (source < 0) return 0.0;
    return w_real(B_DTYPE, b + (l / positions * cin + column / TAPS) * plane + uint(source));
}
#endif

void main() {
    uint tile = kin_group();
    uint row0 = tile / tiles_n % tiles_m * TILE_M, column0 = tile % tiles_n * TILE_N;
    sample_index = tile / (tiles_m * tiles_n);
#if defined(FORWARD)
    uint rows = cout, columns = out_t * out_y * out_x, length = cin * TAPS, samples = batch;
#elif defined(GRAD_INPUT)
    uint rows = cin, columns = in_t * in_y * in_x, length = cout * TAPS, samples = batch;
#else
    uint rows = cout, columns = cin * TAPS, length = batch * out_t * out_y * out_x, samples = 1u;
#endif
    if (sample_index >= samples) return;
    product_sums(row0, column0, rows, columns, 0u, length);
    for (uint p = 0; p < PART_M; p++)
        for (uint q = 0; q < PART_N; q += 2u) {
            uint i = product_row(row0, p), j = product_column(column0, q);
            if (i >= rows || j >= columns) continue;
            float add = 0.0;
            if (BIAS_DTYPE != 0xFFu) add = v_real(BIAS_DTYPE, bias + i);
            y_store2(C_DTYPE, c + (sample_index * rows + i) * columns + j, sums[p * PART_N + q] + add,
                     sums[p * PART_N + q + 1u] + add, j + 1u < columns);
        }
}
