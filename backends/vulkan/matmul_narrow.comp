#version 450
#extension GL_GOOGLE_include_directive : require
// f32 to f16 or bf16, two neighbours at a time: the last step of kernels whose rows are of odd length,
// which cannot store 16-bit values without touching a neighbour's.
#include "backends/vulkan/common.glsl"

layout(constant_id = 1) const uint DTYPE = 1;

layout(push_constant) uniform push_block {
    uint count, x, y;
};

KIN_READS(0, from)
KIN_WRITES(1, to)

void main() {
    uint i = 2u * kin_thread();
    if (i >= count) return;
    bool both = i + 1u < count;
    float second = 0.0;
    if (both) second = from_real(KIN_F32, x + i + 1u);
    to_store2(DTYPE, y + i, from_real(KIN_F32, x + i), second, both);
}
