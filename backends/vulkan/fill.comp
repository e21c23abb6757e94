#version 450
#extension GL_GOOGLE_include_directive : require
// One value everywhere: whole words, a 64-bit value in two.
#include "backends/vulkan/common.glsl"

layout(constant_id = 1) const uint WIDE = 0; // 1: elements of two words

layout(push_constant) uniform push_block {
    uint first, count; // words
    uint low, high;
    uint tail_mask, tail; // of the word behind: bits to keep, and bits to set; 0 bits: no such word
};

KIN_WRITES(0, y)

void main() {
    uint i = kin_thread();
    if (i < count) y_words[first + i] = WIDE == 1u && (i & 1u) == 1u ? high : low;
    else if (i == count && tail_mask != 0u)
        y_words[first + i] = (y_words[first + i] & tail_mask) | tail;
}
