/* In front of every program: storage types. T is a macro that the options define as f32, f16, bf16,
 * i32, i64, u8, bool or q8_0.
 *     TYPE(T)                  the element type behind a pointer
 *     LOAD(T, p, i)            element i as float
 *     STORE(T, p, i, v)        element i = v, rounded to nearest even
 *     LOAD_V(T, p, i)          elements i .. i+V-1 as floatV; p + i need not be aligned
 *     STORE_V(T, p, i, v)
 * V is 4, 8 or 16: what the device loads at once.
 */
#define CAT_(a, b) a##b
#define CAT(a, b) CAT_(a, b)

#define TYPE_f32 float
#define TYPE_f16 half
#define TYPE_bf16 ushort
#define TYPE_i32 int
#define TYPE_i64 long
#define TYPE_u8 uchar
#define TYPE_bool uchar
#define TYPE_q8_0 uchar
#define TYPE(t) CAT(TYPE_, t)

#define FV CAT(float, V)
#define UV CAT(uint, V)
#define IV CAT(int, V)
#define SV CAT(ushort, V)

float bf16_to_float(ushort bits) {
    return as_float((uint)bits << 16);
}

ushort float_to_bf16(float value) {
    uint bits = as_uint(value);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return (ushort)(bits >> 16 | 64);
    return (ushort)((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

FV bf16_to_vector(SV bits) {
    return CAT(as_, FV)(CAT(convert_, UV)(bits) << 16);
}

SV vector_to_bf16(FV value) {
    UV bits = CAT(as_, UV)(value);
    UV rounded = (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
    UV nan = bits >> 16 | 64u;
    return CAT(convert_, SV)(
        select(rounded, nan, CAT(as_, UV)((bits & 0x7FFFFFFFu) > (UV)0x7F800000u)));
}

#define LOAD_f32(p, i) ((p)[i])
#define LOAD_f16(p, i) vload_half(i, p)
#define LOAD_bf16(p, i) bf16_to_float((p)[i])
#define LOAD_i32(p, i) ((float)(p)[i])
#define LOAD_i64(p, i) ((float)(p)[i])
#define LOAD_u8(p, i) ((float)(p)[i])
#define LOAD_bool(p, i) ((p)[i] != 0 ? 1.0f : 0.0f)
#define LOAD(t, p, i) CAT(LOAD_, t)(p, i)

#define STORE_f32(p, i, v) ((p)[i] = (v))
#define STORE_f16(p, i, v) vstore_half_rte(v, i, p)
#define STORE_bf16(p, i, v) ((p)[i] = float_to_bf16(v))
#define STORE(t, p, i, v) CAT(STORE_, t)(p, i, v)

#define VLOAD CAT(vload, V)
#define VSTORE CAT(vstore, V)
#define LOAD_V_f32(p, i) VLOAD(0, (p) + (i))
#define LOAD_V_f16(p, i) CAT(vload_half, V)(0, (p) + (i))
#define LOAD_V_bf16(p, i) bf16_to_vector(VLOAD(0, (p) + (i)))
#define LOAD_V(t, p, i) CAT(LOAD_V_, t)(p, i)

#define STORE_V_f32(p, i, v) VSTORE(v, 0, (p) + (i))
#define STORE_V_f16(p, i, v) CAT(CAT(vstore_half, V), _rte)(v, 0, (p) + (i))
#define STORE_V_bf16(p, i, v) VSTORE(vector_to_bf16(v), 0, (p) + (i))
#define STORE_V(t, p, i, v) CAT(STORE_V_, t)(p, i, v)

#define SUM_4(v) (((v).s0 + (v).s1) + ((v).s2 + (v).s3))
#define SUM_8(v) (SUM_4((v).lo) + SUM_4((v).hi))
#define SUM_16(v) (SUM_8((v).lo) + SUM_8((v).hi))
#define SUM_V(v) CAT(SUM_, V)(v)
#define MAX_4(v) fmax(fmax((v).s0, (v).s1), fmax((v).s2, (v).s3))
#define MAX_8(v) fmax(MAX_4((v).lo), MAX_4((v).hi))
#define MAX_16(v) fmax(MAX_8((v).lo), MAX_8((v).hi))
#define MAX_V(v) CAT(MAX_, V)(v)

/* For elementwise_expr.h. */
#define KX_C(c) (c##f)
#define KX_EXP(v) exp(v)
#define KX_LOG(v) log(v)
#define KX_SQRT(v) sqrt(v)
#define KX_SIN(v) sin(v)
#define KX_COS(v) cos(v)
/* Beyond 9.02 it rounds to 1, and slopes count on that; OpenCL allows 5 units. */
float full_tanh(float v) {
    return fabs(v) > 9.02f ? copysign(1.0f, v) : tanh(v);
}
#define KX_TANH(v) full_tanh(v)
#define KX_ERF(v) erf(v)
#define KX_SELECT(cond, v, w) ((cond) ? (v) : (w))

/* Up to 4 operands over one set of axes: opencl_map_shape of shape.h. */
typedef struct map_shape {
    int dims[8];
    int strides[4][8];
    int count;
} map_shape;

/* Where element `index` of the axes lies in operand `j`; rank is a number or a macro that is one.
 * Written out, because PoCL keeps an array that a loop indexes in memory, once for each work-item. */
#define PLACE_STEP(shape, j, axis, place)                                                          \
    next_ = rest_ / (shape).dims[axis];                                                            \
    (place) += (rest_ - next_ * (shape).dims[axis]) * (shape).strides[j][axis];                    \
    rest_ = next_;
#define PLACE_0(shape, j, place)
#define PLACE_1(shape, j, place) (place) += rest_ * (shape).strides[j][0];
#define PLACE_2(shape, j, place) PLACE_STEP(shape, j, 1, place) PLACE_1(shape, j, place)
#define PLACE_3(shape, j, place) PLACE_STEP(shape, j, 2, place) PLACE_2(shape, j, place)
#define PLACE_4(shape, j, place) PLACE_STEP(shape, j, 3, place) PLACE_3(shape, j, place)
#define PLACE_5(shape, j, place) PLACE_STEP(shape, j, 4, place) PLACE_4(shape, j, place)
#define PLACE_6(shape, j, place) PLACE_STEP(shape, j, 5, place) PLACE_5(shape, j, place)
#define PLACE_7(shape, j, place) PLACE_STEP(shape, j, 6, place) PLACE_6(shape, j, place)
#define PLACE_8(shape, j, place) PLACE_STEP(shape, j, 7, place) PLACE_7(shape, j, place)
#define PLACE(shape, rank, index, j, place)                                                        \
    do {                                                                                           \
        int rest_ = (index), next_ = 0;                                                            \
        (place) = 0;                                                                               \
        CAT(PLACE_, rank)(shape, j, place)                                                         \
    } while (0)

/* Work on every element of a map_shape, in one of three ways that opencl_map_defines of shape.c
 * chooses: RANK 0: all operands lie densely; ROWS 1: the last two axes are dimensions 0 and 1 of the
 * launch and all others dimension 2, so that up to three axes need no divisions; else one dimension
 * for all.
 *     MAP_START(shape)              i = the element's number in dense order
 *     MAP_PLACE(shape, j, place)    where it lies in operand j
 *     MAP_LEAVE(shape)              leaves if there is no such element
 * in this order: what stands behind a condition would stay in the loop that a CPU's driver makes of a
 * row. Places are long, so that the driver sees which elements follow one another. INNER_j: the step
 * of operand j along the last axis; 2 means any. LAST, BEFORE and REST are RANK - 1, RANK - 2 and the
 * number of axes in front of them, at least 0. */
#if RANK > 0 && ROWS
#define MAP_START(shape)                                                                           \
    long column_ = get_global_id(0), row_ = get_global_id(1), plane_ = get_global_id(2);           \
    long rows_ = RANK > 1 ? (shape).dims[BEFORE] : 1;                                              \
    long i = (plane_ * rows_ + row_) * (shape).dims[LAST] + column_
#define MAP_LEAVE(shape)                                                                           \
    if (column_ >= (shape).dims[LAST] || row_ >= rows_) return
#define MAP_PLACE(shape, j, place)                                                                 \
    do {                                                                                           \
        PLACE(shape, REST, (int)plane_, j, place);                                                 \
        if (RANK > 1) (place) += row_ * (shape).strides[j][BEFORE];                                \
        (place) += INNER_##j < 2 ? INNER_##j * column_ : column_ * (shape).strides[j][LAST];       \
    } while (0)
#else
#define MAP_START(shape) long i = get_global_id(0)
#define MAP_LEAVE(shape)                                                                           \
    if (i >= (shape).count) return
#if RANK > 0
#define MAP_PLACE(shape, j, place) PLACE(shape, RANK, (int)i, j, place)
#else
#define MAP_PLACE(shape, j, place) (place) = i
#endif
#endif
