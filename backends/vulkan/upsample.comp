#version 450
#extension GL_GOOGLE_include_directive : require
// Nearest and linear resampling of planes [time, rows, columns], and its transpose. The place that an
// output reads is a fraction of whole numbers, so that no weight suffers from rounding.
#include "backends/vulkan/common.glsl"

layout(constant_id = 1) const uint BACK = 0;
layout(constant_id = 2) const uint MODE = 0; // kin_upsample_attrs.mode
layout(constant_id = 3) const uint TYPE = 0;

const uint NEAREST = 0u, LINEAR = 1u, CORNERS = 2u;

layout(push_constant) uniform push_block {
    uint count; // elements of the result
    uint x_first, y_first, unused;
    uint small[3], large[3];
};

KIN_READS(0, x)
KIN_WRITES(1, y)

struct tap {
    uint low, high;
    float weight; // of high; low counts 1 - weight
};

tap tap_at(uint axis, uint i) {
    uint from = small[axis], to = large[axis], over, under;
    if (MODE == NEAREST) {
        uint place = i * from / to;
        return tap(place, place, 0.0);
    }
    if (MODE == LINEAR) {
        over = (2u * i + 1u) * from;
        over = over > to ? over - to : 0u;
        under = 2u * to;
    } else {
        over = i * (from - 1u);
        under = max(to, 2u) - 1u;
    }
    uint low = min(over / under, from - 1u);
    return tap(low, min(low + 1u, from - 1u), float(over - low * under) / float(under));
}

float forward(uint i) {
    uint plane = i / (large[0] * large[1] * large[2]);
    tap at[3];
    for (uint axis = 3u; axis-- > 0u;) {
        at[axis] = tap_at(axis, i % large[axis]);
        i /= large[axis];
    }
    uint start = x_first + plane * small[0] * small[1] * small[2];
    float total = 0.0;
    for (uint corner = 0u; corner < 8u; corner++) {
        bvec3 up = bvec3((corner & 4u) != 0u, (corner & 2u) != 0u, (corner & 1u) != 0u);
        float weight = (up.x ? at[0].weight : 1.0 - at[0].weight) *
                       (up.y ? at[1].weight : 1.0 - at[1].weight) *
                       (up.z ? at[2].weight : 1.0 - at[2].weight);
        if (weight == 0.0) continue;
        uint place = (up.x ? at[0].high : at[0].low) * small[1] + (up.y ? at[1].high : at[1].low);
        total += weight * x_real(TYPE, start + place * small[2] + (up.z ? at[2].high : at[2].low));
    }
    return total;
}

// The outputs of an axis that may read element s of the small tensor: first and last.
uvec2 readers(uint axis, uint s) {
    uint from = small[axis], to = large[axis];
    if (from == 1u) return uvec2(0u, to - 1u);
    uint over = MODE == CORNERS ? max(to, 2u) - 1u : to, under = MODE == CORNERS ? from - 1u : from;
    uint first = s > 0u ? (s - 1u) * over / under : 0u, last = (s + 2u) * over / under + 1u;
    first = first > 1u ? first - 2u : 0u;
    return uvec2(first, min(last, to - 1u));
}

float weight_of(uint axis, uint i, uint s) {
    tap at = tap_at(axis, i);
    return (at.low == s ? 1.0 - at.weight : 0.0) + (at.high == s ? at.weight : 0.0);
}

float backward(uint i) {
    uint plane = i / (small[0] * small[1] * small[2]), place[3];
    uvec2 range[3];
    for (uint axis = 3u; axis-- > 0u;) {
        place[axis] = i % small[axis];
        range[axis] = readers(axis, place[axis]);
        i /= small[axis];
    }
    uint start = x_first + plane * large[0] * large[1] * large[2];
    float total = 0.0;
    for (uint t = range[0].x; t <= range[0].y; t++) {
        float time = weight_of(0u, t, place[0]);
        if (time == 0.0) continue;
        for (uint r = range[1].x; r <= range[1].y; r++) {
            float both = time * weight_of(1u, r, place[1]);
            if (both == 0.0) continue;
            uint row = start + (t * large[1] + r) * large[2];
            for (uint c = range[2].x; c <= range[2].y; c++)
                total += both * weight_of(2u, c, place[2]) * x_real(TYPE, row + c);
        }
    }
    return total;
}

float value_of(uint i) {
    return BACK == 1u ? backward(i) : forward(i);
}

void main() {
    uint i = kin_thread() * kin_per_word(TYPE);
    if (i >= count) return;
    bool both = TYPE != KIN_F32 && i + 1u < count;
    y_store2(TYPE, y_first + i, value_of(i), both ? value_of(i + 1u) : 0.0, both);
}
