#version 450
#extension GL_GOOGLE_include_directive : require
// Rows of a table by their numbers, and the sums of rows at their numbers.
//   GATHER  y[i, c] = table[ids[i], c]; NaN for a number outside of the table
//   ADD     y[ids[i], c] += x[i, c], one invocation per column, in the order of the ids; y is zeros
#include "backends/vulkan/common.glsl"

layout(constant_id = 1) const uint STAGE = 0;
layout(constant_id = 2) const uint X_TYPE = 0;
layout(constant_id = 3) const uint ID_TYPE = 3;
layout(constant_id = 4) const uint Y_TYPE = 0;

layout(push_constant) uniform push_block {
    uint width, ids, rows; // rows of the table
    uint x_first, id_first, y_first; // x of q8_0: in units of 16 bits
};

KIN_READS(0, x)
KIN_READS(1, id)
KIN_WRITES(2, y)

// The row that is meant, or `rows` if there is no such row.
uint row_of(uint i) {
    uint at = id_first + i, low = id_bits(ID_TYPE, at);
    uint high = ID_TYPE == KIN_I64 ? id_words[2u * at + 1u] : 0u;
    return high != 0u || low >= rows ? rows : low;
}

uint x_half(uint i) {
    return (x_words[i >> 1] >> ((i & 1u) << 4)) & 0xFFFFu;
}

float table_at(uint row, uint column) {
    if (row >= rows) return uintBitsToFloat(0x7FC00000u);
    if (X_TYPE != KIN_Q8_0) return x_real(X_TYPE, x_first + row * width + column);
    uint block = x_first + (row * ((width + 31u) / 32u) + column / 32u) * 17u, k = column % 32u;
    int value = int(x_half(block + 1u + k / 2u) << (24u - (k & 1u) * 8u)) >> 24;
    return kin_from_f16(x_half(block)) * float(value);
}

void main() {
    uint i = kin_thread();
    if (STAGE == 0u) {
        i *= kin_per_word(Y_TYPE);
        if (i >= ids * width) return;
        bool both = Y_TYPE != KIN_F32 && i + 1u < ids * width;
        float first = table_at(row_of(i / width), i % width), second = 0.0;
        if (both) second = table_at(row_of((i + 1u) / width), (i + 1u) % width);
        y_store2(Y_TYPE, y_first + i, first, second, both);
        return;
    }
    if (i >= width) return;
    for (uint k = 0u; k < ids; k++) {
        uint row = row_of(k);
        if (row >= rows) continue;
        uint at = y_first + row * width + i;
        float sum = y_real(KIN_F32, at) + x_real(X_TYPE, x_first + k * width + i);
        y_words[at] = floatBitsToUint(sum);
    }
}
