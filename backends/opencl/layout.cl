/* Kernels that move or make elements. E is an unsigned type of the element's size. */
#ifdef E
/* Element i of the axes, from place to place: operand 0 is the source, operand 1 the target. */
__kernel void move(__global const E *x_data, ulong x_at, __global E *y_data, ulong y_at,
                   map_shape shape) {
    long from, to;
    MAP_START(shape);
    MAP_PLACE(shape, 0, from);
    MAP_PLACE(shape, 1, to);
    MAP_LEAVE(shape);
    y_data[y_at + to] = x_data[x_at + from];
}

__kernel void fill(__global E *y_data, ulong y_at, ulong value, int count) {
    int i = get_global_id(0);
    if (i < count) y_data[y_at + i] = (E)value;
}

/* y [outer, size, inner]: x [outer, length, inner], in any strides, at start; zeros elsewhere. */
__kernel void place(__global const E *x_data, ulong x_at, __global E *y_data, ulong y_at, int start,
                    int length, int size, int inner, int count, map_shape shape) {
    int i = get_global_id(0), from;
    if (i >= count) return;
    int column = i % inner, rest = i / inner;
    int at = rest % size - start, outer = rest / size;
    E value = 0;
    if (at >= 0 && at < length) {
        PLACE(shape, RANK, (outer * length + at) * inner + column, 0, from);
        value = x_data[x_at + from];
    }
    y_data[y_at + i] = value;
}
#endif

#ifdef X
/* To floats through float; to integers cut towards zero and saturated. */
#define TO_f32(p, i, v) STORE_f32(p, i, convert_float(v))
#define TO_f16(p, i, v) STORE_f16(p, i, convert_float(v))
#define TO_bf16(p, i, v) STORE_bf16(p, i, convert_float(v))
#define TO_i32(p, i, v) ((p)[i] = CUT(convert_int_sat, v))
#define TO_i64(p, i, v) ((p)[i] = CUT(convert_long_sat, v))
#define TO_u8(p, i, v) ((p)[i] = CUT(convert_uchar_sat, v))
#define TO_bool(p, i, v) ((p)[i] = (v) != 0)
#if FROM_FLOAT
/* NaN gives 0. */
#define CUT(convert, v) CAT(convert, _rtz)((v) == (v) ? (v) : 0.0f)
#else
#define CUT(convert, v) convert(v)
#endif

#define RAW_f32(p, i) LOAD_f32(p, i)
#define RAW_f16(p, i) LOAD_f16(p, i)
#define RAW_bf16(p, i) LOAD_bf16(p, i)
#define RAW_i32(p, i) ((p)[i])
#define RAW_i64(p, i) ((p)[i])
#define RAW_u8(p, i) ((p)[i])
#define RAW_bool(p, i) ((int)((p)[i] != 0))
/* Blocks of 34 bytes: an f16 scale and 32 signed bytes. */
#define RAW_q8_0(p, i)                                                                             \
    (vload_half(0, (__global const half *)((p) + (i) / 32 * 34)) *                                 \
     (float)as_char((p)[(i) / 32 * 34 + 2 + (i) % 32]))

__kernel void cast(__global const TYPE(X) *x_data, ulong x_at, __global TYPE(Y) *y_data, ulong y_at,
                   map_shape shape) {
    long from;
    MAP_START(shape);
    MAP_PLACE(shape, 0, from);
    MAP_LEAVE(shape);
    CAT(TO_, Y)(y_data + y_at, i, CAT(RAW_, X)(x_data + x_at, from));
}
#endif
