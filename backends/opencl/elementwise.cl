/* Element-wise work: one function of the expression list over strided operands. The options give
 *     F                   its name, f_exp; SECOND that of its second result, if it has two
 *     INPUTS              1, 2 or 3; A, B, C: their types; Y: the type of the results
 *     RANK, ROWS, INNER_j as in common.cl
 */
#define UNARY(name, value, slope)                                                                  \
    static float f_##name(float x, float p, float q) {                                             \
        return value;                                                                              \
    }                                                                                              \
    static float f_##name##_grad(float x, float dy, float p, float q) {                            \
        return dy * (slope);                                                                       \
    }
#define AFFINE(name, value)                                                                        \
    static float f_##name(float x, float p, float q) {                                             \
        return value;                                                                              \
    }
#define BINARY(name, value)                                                                        \
    static float f_##name(float a, float b, float p, float q) {                                    \
        return value;                                                                              \
    }
#define TERNARY(name, value)                                                                       \
    static float f_##name(float a, float b, float c, float p, float q) {                           \
        return value;                                                                              \
    }
#define TERNARY_PAIR(name, first, second)                                                          \
    TERNARY(name, first)                                                                           \
    TERNARY(name##_second, second)

KX_UNARY(UNARY)
KX_AFFINE(AFFINE)
KX_BINARY(BINARY)
KX_TERNARY(TERNARY)
KX_TERNARY_PAIR(TERNARY_PAIR)

__kernel void map(__global const TYPE(A) *a_data, ulong a_at,
#if INPUTS > 1
                  __global const TYPE(B) *b_data, ulong b_at,
#endif
#if INPUTS > 2
                  __global const TYPE(C) *c_data, ulong c_at,
#endif
                  __global TYPE(Y) *y_data, ulong y_at,
#ifdef SECOND
                  __global TYPE(Y) *z_data, ulong z_at,
#endif
                  float p, float q, map_shape shape) {
    long a_place, b_place, c_place;
    MAP_START(shape);
    MAP_PLACE(shape, 0, a_place);
#if INPUTS > 1
    MAP_PLACE(shape, 1, b_place);
#endif
#if INPUTS > 2
    MAP_PLACE(shape, 2, c_place);
#endif
    MAP_LEAVE(shape);
    float a = LOAD(A, a_data + a_at, a_place);
#if INPUTS > 1
    float b = LOAD(B, b_data + b_at, b_place);
#endif
#if INPUTS > 2
    float c = LOAD(C, c_data + c_at, c_place);
#endif
#if INPUTS == 1
    float y = F(a, p, q);
#elif INPUTS == 2
    float y = F(a, b, p, q);
#else
    float y = F(a, b, c, p, q);
#endif
#ifdef SECOND
    float z = SECOND(a, b, c, p, q);
    STORE(Y, z_data + z_at, i, z);
#endif
    STORE(Y, y_data + y_at, i, y);
}
