/* Rows of a table by their numbers, its gradient, and the features of timesteps. I: type of the
 * numbers; X: type of the table or of dy; Y: type of the result. */
#ifdef LOOKUP
#if QUANTISED
/* Blocks of 34 bytes: an f16 scale and 32 signed bytes. */
float element(__global const uchar *p, int i) {
    __global const uchar *block = p + (ulong)(i / 32) * 34;
    return vload_half(0, (__global const half *)block) * (float)as_char(block[2 + i % 32]);
}
#else
#define element(p, i) LOAD(X, p, i)
#endif

__kernel void lookup(__global const TYPE(X) *table_data, ulong table_at,
                     __global const TYPE(I) *ids_data, ulong ids_at, __global TYPE(Y) *y_data,
                     ulong y_at, int rows, int width, int count) {
    int i = get_global_id(0);
    if (i >= count) return;
    TYPE(I) id = ids_data[ids_at + i / width];
    bool there = id >= 0 && id < rows;
    float value = there ? element(table_data + table_at, (int)id * width + i % width) : NAN;
    STORE(Y, y_data + y_at, i, value);
}
#endif

#ifdef GRADIENT
/* A work-item has BLOCK columns of one row of the table, and adds in the order of the numbers. */
#define BLOCK 32
__kernel void scatter(__global const TYPE(X) *dy_data, ulong dy_at,
                      __global const TYPE(I) *ids_data, ulong ids_at, __global TYPE(Y) *y_data,
                      ulong y_at, int width, int ids, int items) {
    int item = get_global_id(0), blocks = (width + BLOCK - 1) / BLOCK;
    if (item >= items) return;
    int row = item / blocks, first = item % blocks * BLOCK;
    int count = min(BLOCK, width - first);
    float sums[BLOCK];
    for (int c = 0; c < BLOCK; c++) sums[c] = 0;
    for (int i = 0; i < ids; i++) {
        if (ids_data[ids_at + i] != row) continue;
        __global const TYPE(X) *dy = dy_data + dy_at + (ulong)i * width + first;
        for (int c = 0; c < count; c++) sums[c] += LOAD(X, dy, c);
    }
    for (int c = 0; c < count; c++) STORE(Y, y_data + y_at, row * width + first + c, sums[c]);
}
#endif

#ifdef FEATURES
/* t [B] -> cos and sin of t f_i. turns holds f_i / (2 pi) as two floats, high and low, and the
 * product is formed with its rounding error, so that whole turns fall off exactly. */
__kernel void features(__global const TYPE(I) *t_data, ulong t_at, __global const float *turns_data,
                       ulong turns_at, __global float *y_data, ulong y_at, int dim, int count) {
    int i = get_global_id(0), half_dim = dim / 2;
    if (i >= count) return;
    int column = i % dim, k = column % half_dim;
    if (column >= 2 * half_dim) {
        y_data[y_at + i] = 0;
        return;
    }
    TYPE(I) given = t_data[t_at + i / dim];
    float t = convert_float(given), t_low = (float)(given - CAT(convert_, TYPE(I))(t));
    float high = turns_data[turns_at + 2 * k], low = turns_data[turns_at + 2 * k + 1];
    float product = t * high;
    float error = fma(t, high, -product) + t * low + t_low * high;
    float turn = (product - rint(product)) + error;
    turn -= rint(turn);
    y_data[y_at + i] = column < half_dim ? cospi(2.0f * turn) : sinpi(2.0f * turn);
}
#endif
