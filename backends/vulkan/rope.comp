#version 450
#extension GL_GOOGLE_include_directive : require
// Pairs turned by the table of rope_table.comp: two neighbouring elements for each invocation.
#include "backends/vulkan/common.glsl"

layout(constant_id = 1) const uint DTYPE = 0;
layout(constant_id = 2) const uint HALF = 1; // pairs of a part
layout(constant_id = 3) const uint AXES = 1;
layout(constant_id = 4) const uint INTERLEAVED = 0;

layout(push_constant) uniform push_block {
    uint count; // elements
    uint b1_size, tokens, heads;
    uint x, x_b0, x_b1, x_n, x_h; // element 0 and strides
    uint y, table;
};

KIN_READS(0, from)
KIN_READS(1, angles)
KIN_WRITES(2, to)

const uint PART = 2 * HALF, SIZE = AXES * PART;

float value_at(uint index) {
    uint place = index % SIZE, row = index / SIZE;
    uint h = row % heads, n = row / heads % tokens, batch = row / heads / tokens;
    uint at = x + batch / b1_size * x_b0 + batch % b1_size * x_b1 + n * x_n + h * x_h;
    uint axis = place / PART, within = place % PART;
    uint pair = INTERLEAVED == 1 ? within / 2u : within % HALF;
    bool second = INTERLEAVED == 1 ? (within & 1u) == 1u : within >= HALF;
    uint step = INTERLEAVED == 1 ? 1u : HALF;
    uint entry = table + 2u * ((n * AXES + axis) * HALF + pair);
    float c = angles_real(KIN_F32, entry), s = angles_real(KIN_F32, entry + 1u);
    float own = from_real(DTYPE, at + place);
    float other = from_real(DTYPE, second ? at + place - step : at + place + step);
    return second ? own * c + other * s : own * c - other * s;
}

void main() {
    uint index = 2u * kin_thread();
    if (index >= count) return;
    to_store2(DTYPE, y + index, value_at(index), value_at(index + 1u), true); // SIZE is even
}
