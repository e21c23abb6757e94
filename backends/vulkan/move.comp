#version 450
#extension GL_GOOGLE_include_directive : require
// Elements of any storage type from a strided tensor to a box within a dense one: copy, concat,
// slice_grad and pad. An invocation owns whole words of the result.
#include "backends/vulkan/common.glsl"

layout(constant_id = 1) const uint RANK = 1;
layout(constant_id = 2) const uint PER_WORD = 1; // elements of a word: 1, 2 or 4
layout(constant_id = 3) const uint MODE = 0;     // what lies outside of the box
layout(constant_id = 4) const uint BOX_RANK = 0; // axes, the last ones, that the box limits

const uint NOTHING = 0u, KEEP = 1u, ZERO = 2u, REPEAT = 3u;
const uint MAX_RANK = 8, MAX_BOX = 6, EACH = 4;

layout(push_constant) uniform push_block {
    uint count; // elements of the result
    uint x_first, y_first, empty; // empty 1: the box has no element
    uint dims[MAX_RANK], strides[MAX_RANK];
    uint low[MAX_BOX], size[MAX_BOX]; // of the last axes; the box is low .. low + size - 1
};

KIN_READS(0, x)
KIN_WRITES(1, y)

const uint ELEMENT_BITS = 32u / PER_WORD;
const uint MASK = PER_WORD == 1u ? 0xFFFFFFFFu : (1u << (32u / PER_WORD)) - 1u;

// Bits of element i of the result; `old` if it is not to be written.
uint element(uint i, uint old) {
    uint at = x_first;
    bool inside = empty == 0u;
    for (uint axis = RANK; axis-- > 0u;) {
        uint rest = axis > 0u ? i / dims[axis] : 0u, k = i - rest * dims[axis];
        if (axis + BOX_RANK >= RANK && MODE != NOTHING) {
            uint box = axis + BOX_RANK - RANK;
            if (MODE == REPEAT) {
                k = k < low[box] ? 0u : min(k - low[box], size[box] - 1u);
            } else {
                k -= low[box];
                inside = inside && k < size[box];
            }
        }
        at += k * strides[axis];
        i = rest;
    }
    if (!inside) return MODE == ZERO ? 0u : old;
    if (PER_WORD == 1u) return x_words[at];
    return (x_words[at / PER_WORD] >> (at % PER_WORD * ELEMENT_BITS)) & MASK;
}

void main() {
    uint width = gl_WorkGroupSize.x;
    uint start = kin_group() * width * EACH + gl_LocalInvocationID.x;
    for (uint k = 0u; k < EACH; k++) {
        uint i = (start + k * width) * PER_WORD;
        if (i >= count) return;
        uint word = (y_first + i) / PER_WORD, bits = 0u;
        uint old = MODE == KEEP || i + PER_WORD > count ? y_words[word] : 0u;
        for (uint e = 0u; e < PER_WORD; e++) {
            uint kept = (old >> (e * ELEMENT_BITS)) & MASK;
            bits |= (i + e < count ? element(i + e, kept) : kept) << (e * ELEMENT_BITS);
        }
        y_words[word] = bits;
    }
}
