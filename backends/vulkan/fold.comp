#version 450
#extension GL_GOOGLE_include_directive : require
// The transpose of a pad that repeats the outermost elements: each of them is the sum of the margin
// beside it, the others are single elements of the padded tensor.
#include "backends/vulkan/common.glsl"

layout(constant_id = 1) const uint RANK = 1;
layout(constant_id = 2) const uint X_TYPE = 0;
layout(constant_id = 3) const uint Y_TYPE = 0;

const uint MAX_RANK = 8;

layout(push_constant) uniform push_block {
    uint count, x_first, y_first, unused;
    uint size[MAX_RANK], before[MAX_RANK], padded[MAX_RANK];
};

KIN_READS(0, x)
KIN_WRITES(1, y)

float value_of(uint i) {
    uint first[MAX_RANK], length[MAX_RANK], boxes = 1u;
    for (uint axis = RANK; axis-- > 0u;) {
        uint rest = i / size[axis], k = i - rest * size[axis];
        uint end = k + 1u == size[axis] ? padded[axis] : k + before[axis] + 1u;
        first[axis] = k == 0u ? 0u : k + before[axis];
        length[axis] = end - first[axis];
        boxes *= length[axis];
        i = rest;
    }
    float total = 0.0;
    for (uint box = 0u; box < boxes; box++) {
        uint rest = box, place = 0u, step = 1u;
        for (uint axis = RANK; axis-- > 0u;) {
            uint next = rest / length[axis];
            place += (first[axis] + rest - next * length[axis]) * step;
            step *= padded[axis];
            rest = next;
        }
        total += x_real(X_TYPE, x_first + place);
    }
    return total;
}

void main() {
    uint i = kin_thread() * kin_per_word(Y_TYPE);
    if (i >= count) return;
    bool both = Y_TYPE != KIN_F32 && i + 1u < count;
    y_store2(Y_TYPE, y_first + i, value_of(i), both ? value_of(i + 1u) : 0.0, both);
}
