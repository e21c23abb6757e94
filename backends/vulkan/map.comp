#version 450
#extension GL_GOOGLE_include_directive : require
// variant: map
// variant: map_pair -DPAIR=1
// One function of ops/elementwise_expr.h over operands with strides, broadcast to a dense result.
// The functions are numbered in the order of the lists, as in elementwise.c.
#include "backends/vulkan/common.glsl"
#include "backends/vulkan/math.glsl"

layout(constant_id = 1) const uint FUNCTION = 0;
layout(constant_id = 2) const uint RANK = 1;
layout(constant_id = 3) const uint OUT_TYPE = 0;
layout(constant_id = 4) const uint A_TYPE = 0;
layout(constant_id = 5) const uint B_TYPE = 0;
layout(constant_id = 6) const uint C_TYPE = 0;

const uint MAX_RANK = 6, EACH = 4; // words of the result that an invocation writes

layout(push_constant) uniform push_block {
    uint count; // elements of the result
    uint a_first, b_first, c_first, y_first, z_first;
    float p, q;
    uint dims[MAX_RANK];
    uint a_strides[MAX_RANK], b_strides[MAX_RANK], c_strides[MAX_RANK];
};

KIN_READS(0, a)
KIN_READS(1, b)
KIN_READS(2, c)
KIN_WRITES(3, y)
#ifdef PAIR
KIN_WRITES(4, z)
#endif

#define KX_C(v) v
#define KX_EXP(v) kin_exp(v)
#define KX_LOG(v) kin_log(v)
#define KX_SQRT(v) kin_sqrt(v)
#define KX_SIN(v) kin_sin(v)
#define KX_COS(v) kin_cos(v)
#define KX_TANH(v) kin_tanh(v)
#define KX_ERF(v) kin_erf(v)
#define KX_SELECT(cond, v, w) ((cond) ? (v) : (w))
#include "ops/elementwise_expr.h"

#ifdef PAIR
vec2 value_of(float a, float b, float c) {
    uint n = 0u;
#define PAIR_VALUE(name, first, second)                                                            \
    if (FUNCTION == n++) return vec2(first, second);
    KX_TERNARY_PAIR(PAIR_VALUE)
    return vec2(0.0);
}
#else
float value_of(float a, float b, float c) {
    float x = a;
    uint n = 1u;
    if (FUNCTION == 0u) return x;
#define VALUE(name, value)                                                                         \
    if (FUNCTION == n++) return value;
#define UNARY_VALUE(name, value, slope)                                                            \
    if (FUNCTION == n++) return value;
#define UNARY_SLOPE(name, value, slope)                                                            \
    if (FUNCTION == n++) return b * (slope);
    KX_UNARY(UNARY_VALUE)
    KX_UNARY(UNARY_SLOPE)
    KX_AFFINE(VALUE)
    KX_BINARY(VALUE)
    KX_TERNARY(VALUE)
    return 0.0;
}
#endif

uvec3 places_of(uint i) {
    uvec3 at = uvec3(a_first, b_first, c_first);
    for (uint axis = RANK; axis-- > 1u;) {
        uint rest = i / dims[axis], k = i - rest * dims[axis];
        at += k * uvec3(a_strides[axis], b_strides[axis], c_strides[axis]);
        i = rest;
    }
    return at + i * uvec3(a_strides[0], b_strides[0], c_strides[0]);
}

float a_at(uvec3 at) { return a_real(A_TYPE, at.x); }
float b_at(uvec3 at) { return b_real(B_TYPE, at.y); }
float c_at(uvec3 at) { return c_real(C_TYPE, at.z); }

void main() {
    const uint per_word = OUT_TYPE == KIN_F32 ? 1u : 2u;
    uint width = gl_WorkGroupSize.x;
    uint start = kin_group() * width * EACH + gl_LocalInvocationID.x;
    for (uint k = 0u; k < EACH; k++) {
        uint i = (start + k * width) * per_word;
        if (i >= count) return;
        bool both = per_word == 2u && i + 1u < count;
        uvec3 at = places_of(i), next = both ? places_of(i + 1u) : at;
#ifdef PAIR
        vec2 v = value_of(a_at(at), b_at(at), c_at(at)), w = v;
        if (both) w = value_of(a_at(next), b_at(next), c_at(next));
        y_store2(OUT_TYPE, y_first + i, v.x, w.x, both);
        z_store2(OUT_TYPE, z_first + i, v.y, w.y, both);
#else
        float v = value_of(a_at(at), b_at(at), c_at(at)), w = v;
        if (both) w = value_of(a_at(next), b_at(next), c_at(next));
        y_store2(OUT_TYPE, y_first + i, v, w, both);
#endif
    }
}
