#version 450
#extension GL_GOOGLE_include_directive : require
// conv_patches, or its transpose: two neighbouring elements of the result for each invocation.
// variant: conv_patches
// variant: conv_patches_grad -DGRAD
#include "backends/vulkan/common.glsl"
#include "backends/vulkan/conv.glsl"

KIN_READS(0, x)
KIN_WRITES(1, y)

#ifdef GRAD
float value_at(uint index) {
    uint plane = in_t * in_y * in_x, frame = out_y * out_x, positions = out_t * frame;
    uint channel = index / plane; // of all samples
    float sum = 0.0;
    for (uint tap = 0; tap < TAPS; tap++) {
        ivec3 readers = conv_readers(index % plane, tap);
        uint at = a + (channel * TAPS + tap) * positions;
        for (int i = 0; i < readers.y; i++)
            sum += x_real(A_DTYPE, at + uint(readers.x + i) * frame + uint(readers.z));
    }
    return sum;
}
#else
float value_at(uint index) {
    uint positions = out_t * out_y * out_x, row = index / positions;
    int source = conv_source(index % positions, row % TAPS);
    if (source < 0) return 0.0;
    return x_real(A_DTYPE, a + row / TAPS * in_t * in_y * in_x + uint(source));
}
#endif

void main() {
    uint index = 2u * kin_thread(), count = batch * cin;
#ifdef GRAD
    count *= in_t * in_y * in_x;
#else
    count *= TAPS * out_t * out_y * out_x;
#endif
    if (index >= count) return;
    bool both = index + 1u < count;
    float second = 0.0;
    if (both) second = value_at(index + 1u);
    y_store2(C_DTYPE, c + index, value_at(index), second, both);
}
