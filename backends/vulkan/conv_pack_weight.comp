#version 450
#extension GL_GOOGLE_include_directive : require
// Weights [outer, inner, taps] in f32, with the rows of the product in fours: for a convolution
// [block of outer][(inner, tap)][outer], for the gradient of its input [block of inner]
// [(outer, tap)][inner].
#include "backends/vulkan/common.glsl"

layout(constant_id = 1) const uint DTYPE = 0;
layout(constant_id = 2) const uint BACKWARD = 0;

layout(push_constant) uniform push_block {
    uint outer, inner, taps, fours; // fours: of all rows, filled up to whole blocks
    uint block;                     // fours of a block, which are neighbours
    uint x, y;
};

KIN_READS(0, from)
KIN_WRITES(1, to)

void main() {
    uint index = kin_thread(), l = index / fours, four = index % fours;
    uint rows = BACKWARD == 1 ? inner : outer, length = (BACKWARD == 1 ? outer : inner) * taps;
    if (l >= length) return;
    uint target = y + 4u * ((four / block * length + l) * block + four % block);
    for (uint i = 0; i < 4u; i++) {
        uint row = four * 4u + i;
        uint o = BACKWARD == 1 ? l / taps : row, c = BACKWARD == 1 ? row : l / taps;
        float value = 0.0;
        if (row < rows) value = from_real(DTYPE, x + (o * inner + c) * taps + l % taps);
        to_words[target + i] = floatBitsToUint(value);
    }
}
