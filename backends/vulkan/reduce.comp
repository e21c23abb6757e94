#version 450
#extension GL_GOOGLE_include_directive : require
// Sum or maximum of strided terms for each result. The terms of a result may be dealt out to several
// invocations ("parts"), whose partial results a second dispatch reduces. Each sum is taken in one
// order, with the rounding errors carried along (Kahan 1965).
#include "backends/vulkan/common.glsl"
#include "backends/vulkan/math.glsl"

layout(constant_id = 1) const uint TYPE = 0;
layout(constant_id = 2) const uint OUT_TYPE = 0;
layout(constant_id = 3) const uint MAXIMUM = 0; // 1: maximum, NaN if there is one
layout(constant_id = 4) const uint SQUARE = 0;  // 1: the terms are squared
layout(constant_id = 5) const uint ROOT = 0;    // 1: the square root of the sum
layout(constant_id = 6) const uint KEPT_RANK = 1;
layout(constant_id = 7) const uint REDUCED_RANK = 1;
layout(constant_id = 8) const uint PARTS_INNER = 0; // 1: neighbours share a result, else a part

const uint MAX_RANK = 5;

layout(push_constant) uniform push_block {
    uint count, terms, parts; // results, terms of each, parts that share them
    uint x_first, y_first;    // y: partial results [result, part] or [part, result]
    float scale;
    uint kept_dims[MAX_RANK], kept_strides[MAX_RANK];
    uint reduced_dims[MAX_RANK], reduced_strides[MAX_RANK];
};

KIN_READS(0, x)
KIN_WRITES(1, y)

uint start_of(uint i) {
    uint at = x_first;
    for (uint axis = KEPT_RANK; axis-- > 1u;) {
        uint rest = i / kept_dims[axis];
        at += (i - rest * kept_dims[axis]) * kept_strides[axis];
        i = rest;
    }
    return KEPT_RANK == 0u ? at : at + i * kept_strides[0];
}

uint offset_of(uint term) {
    uint at = 0u;
    for (uint axis = REDUCED_RANK; axis-- > 1u;) {
        uint rest = term / reduced_dims[axis];
        at += (term - rest * reduced_dims[axis]) * reduced_strides[axis];
        term = rest;
    }
    return REDUCED_RANK == 0u ? at : at + term * reduced_strides[0];
}

float value_of(uint result, uint part) {
    uint start = start_of(result);
    float total = MAXIMUM == 1u ? -kin_inf() : 0.0, plain = 0.0;
    precise float sum = 0.0, lost = 0.0;
    for (uint term = part; term < terms; term += parts) {
        float v = x_real(TYPE, start + offset_of(term));
        if (MAXIMUM == 1u) {
            total = v > total || kin_is_nan(v) ? v : total;
        } else {
            float term_value = SQUARE == 1u ? v * v : v;
            precise float next = term_value - lost, more = sum + next;
            plain += term_value;
            lost = (more - sum) - next;
            sum = more;
        }
    }
    // What is lost to infinity is no number.
    if (MAXIMUM == 0u) total = kin_is_nan(sum) ? plain : sum;
    return ROOT == 1u ? sqrt(total) : total * scale;
}

void main() {
    uint i = kin_thread();
    if (parts > 1u) {
        if (i >= count * parts) return;
        uint result = PARTS_INNER == 1u ? i / parts : i % count;
        uint part = PARTS_INNER == 1u ? i % parts : i / count;
        y_words[y_first + i] = floatBitsToUint(value_of(result, part));
        return;
    }
    i *= kin_per_word(OUT_TYPE);
    if (i >= count) return;
    bool both = OUT_TYPE != KIN_F32 && i + 1u < count;
    y_store2(OUT_TYPE, y_first + i, value_of(i, 0u), both ? value_of(i + 1u, 0u) : 0.0, both);
}
