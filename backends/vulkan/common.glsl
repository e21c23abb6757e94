// Shared by the shaders: the dtypes, loads and stores of every storage type by 32-bit words, the
// index of a work group in a folded grid.
//
// Buffers are arrays of words, so that neither 16-bit nor 8-bit storage is asked of the device. A
// store of a type below 32 bits must therefore come from the one invocation that owns the whole word:
// elements 2w and 2w + 1 of f16 and bf16 (their outputs begin on a word). The last word of an odd
// number of elements may end behind the tensor, and keeps those bytes.

#ifndef KIN_COMMON_GLSL
#define KIN_COMMON_GLSL

// kin_dtype of runtime/tensor.h.
#define KIN_F32 0u
#define KIN_F16 1u
#define KIN_BF16 2u
#define KIN_I32 3u
#define KIN_I64 4u
#define KIN_U8 5u
#define KIN_BOOL 6u
#define KIN_Q8_0 8u

layout(local_size_x_id = 0) in;

// The number of this work group in a grid that kin_vulkan_launch may have folded.
uint kin_group() {
    return gl_WorkGroupID.x +
           gl_NumWorkGroups.x * (gl_WorkGroupID.y + gl_NumWorkGroups.y * gl_WorkGroupID.z);
}

// The number of this invocation in such a grid.
uint kin_thread() {
    return kin_group() * gl_WorkGroupSize.x + gl_LocalInvocationID.x;
}

// By integer arithmetic, so that subnormal numbers and rounding are the same on every device.
float kin_from_f16(uint bits) {
    uint exponent = (bits >> 10) & 31u, fraction = bits & 1023u;
    uint value = exponent == 31u  ? 0x7F800000u | (fraction << 13)
                 : exponent == 0u ? floatBitsToUint(float(fraction) * 5.9604644775390625e-8)
                                  : ((exponent + 112u) << 23) | (fraction << 13);
    return uintBitsToFloat(value | ((bits & 0x8000u) << 16));
}

float kin_from_bf16(uint bits) {
    return uintBitsToFloat(bits << 16);
}

// To nearest even; overflow gives infinity, NaN stays NaN.
uint kin_to_f16(float value) {
    uint bits = floatBitsToUint(value), sign = (bits >> 16) & 0x8000u, size = bits & 0x7FFFFFFFu;
    if (size > 0x7F800000u) return sign | 0x7E00u;
    if (size >= 0x477FF000u) return sign | 0x7C00u;
    if (size < 0x38800000u) return sign | uint(roundEven(uintBitsToFloat(size) * 16777216.0));
    return sign | ((size - 0x38000000u + 0xFFFu + ((size >> 13) & 1u)) >> 13);
}

uint kin_to_bf16(float value) {
    uint bits = floatBitsToUint(value);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return (bits >> 16) | 0x40u;
    return (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
}

// Elements of a type that share one word: 1 for the types of 32 bits (and for i64, which takes two).
uint kin_per_word(uint dtype) {
    return dtype == KIN_F16 || dtype == KIN_BF16  ? 2u
           : dtype == KIN_U8 || dtype == KIN_BOOL ? 4u
                                                  : 1u;
}

// A binding of words and its functions: NAME_real(dtype, i) is element i as a float,
// NAME_bits(dtype, i) its low 32 bits as an integer. dtype should be a constant.
#define KIN_READS(NUMBER, NAME)                                                                    \
    layout(set = 0, binding = NUMBER) readonly buffer NAME##_block { uint NAME##_words[]; };       \
    KIN_LOADS(NAME)

// The same for a binding that is written.
#define KIN_WRITES(NUMBER, NAME)                                                                   \
    layout(set = 0, binding = NUMBER) buffer NAME##_block { uint NAME##_words[]; };                \
    KIN_LOADS(NAME)                                                                                \
    KIN_STORES(NAME)

#define KIN_LOADS(NAME)                                                                            \
    uint NAME##_bits(uint dtype, uint i) {                                                         \
        if (dtype == KIN_F16 || dtype == KIN_BF16)                                                 \
            return (NAME##_words[i >> 1] >> ((i & 1u) << 4)) & 0xFFFFu;                            \
        if (dtype == KIN_U8 || dtype == KIN_BOOL)                                                  \
            return (NAME##_words[i >> 2] >> ((i & 3u) << 3)) & 0xFFu;                              \
        return NAME##_words[dtype == KIN_I64 ? 2u * i : i];                                        \
    }                                                                                              \
    float NAME##_real(uint dtype, uint i) {                                                        \
        uint bits = NAME##_bits(dtype, i);                                                         \
        if (dtype == KIN_F16) return kin_from_f16(bits);                                           \
        if (dtype == KIN_BF16) return kin_from_bf16(bits);                                         \
        if (dtype == KIN_I32) return float(int(bits));                                             \
        if (dtype == KIN_U8 || dtype == KIN_BOOL) return float(bits);                              \
        return uintBitsToFloat(bits);                                                              \
    }

// Stores of floats. NAME_store(dtype, i, x) is for f32 only where another invocation may store the
// neighbour. NAME_store2(dtype, i, x, y, both): elements i and i + 1, with i even for f16 and bf16;
// without `both` only element i.
#define KIN_STORES(NAME)                                                                           \
    void NAME##_store2(uint dtype, uint i, float x, float y, bool both) {                          \
        if (dtype == KIN_F32) {                                                                    \
            NAME##_words[i] = floatBitsToUint(x);                                                  \
            if (both) NAME##_words[i + 1u] = floatBitsToUint(y);                                   \
            return;                                                                                \
        }                                                                                          \
        uint low = dtype == KIN_F16 ? kin_to_f16(x) : kin_to_bf16(x);                              \
        uint high = dtype == KIN_F16 ? kin_to_f16(y) : kin_to_bf16(y);                             \
        if (!both) high = NAME##_words[i >> 1] >> 16;                                              \
        NAME##_words[i >> 1] = low | (high << 16);                                                 \
    }                                                                                              \
    void NAME##_store(uint dtype, uint i, float x) {                                               \
        if (dtype == KIN_F32) {                                                                    \
            NAME##_words[i] = floatBitsToUint(x);                                                  \
            return;                                                                                \
        }                                                                                          \
        uint bits = dtype == KIN_F16 ? kin_to_f16(x) : kin_to_bf16(x), shift = (i & 1u) << 4;      \
        uint other = NAME##_words[i >> 1] & ~(0xFFFFu << shift);                                   \
        NAME##_words[i >> 1] = other | (bits << shift);                                            \
    }

#endif
