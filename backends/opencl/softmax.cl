/* Softmax over rows, and its gradient. X, Y: types; D: that of dy. */
#ifdef FORWARD
__kernel void softmax(__global const TYPE(X) *x_data, ulong x_at, row_shape x_rows,
                      __global TYPE(Y) *y_data, ulong y_at, int width) {
    ROW_LOCAL;
    int row = get_group_id(0);
    __global const TYPE(X) *x = x_data + x_at + row_place(&x_rows, row);
    __global TYPE(Y) *y = y_data + y_at + (ulong)row * width;
    FV most = -INFINITY, sum = 0;
    float one_most = -INFINITY, one_sum = 0;
    FOR_ROW(width, most = fmax(most, LOAD_V(X, x, i)), one_most = fmax(one_most, LOAD(X, x, i)));
    float top = GROUP_MAX(fmax(MAX_V(most), one_most));
    FOR_ROW(width, sum += exp(LOAD_V(X, x, i) - top), one_sum += exp(LOAD(X, x, i) - top));
    float share = 1.0f / GROUP_SUM(SUM_V(sum) + one_sum);
    FOR_ROW(width, STORE_V(Y, y, i, exp(LOAD_V(X, x, i) - top) * share),
            STORE(Y, y, i, exp(LOAD(X, x, i) - top) * share));
}
#else
/* dx = y (dy - sum(dy y)); dx may lie on dy or y. */
__kernel void softmax_grad(__global const TYPE(D) *dy_data, ulong dy_at, row_shape dy_rows,
                           __global const TYPE(X) *y_data, ulong y_at, row_shape y_rows,
                           __global TYPE(Y) *dx_data, ulong dx_at, int width) {
    ROW_LOCAL;
    int row = get_group_id(0);
    __global const TYPE(D) *dy = dy_data + dy_at + row_place(&dy_rows, row);
    __global const TYPE(X) *y = y_data + y_at + row_place(&y_rows, row);
    __global TYPE(Y) *dx = dx_data + dx_at + (ulong)row * width;
    FV sum = 0;
    float one_sum = 0;
    FOR_ROW(width, sum += LOAD_V(D, dy, i) * LOAD_V(X, y, i),
            one_sum += LOAD(D, dy, i) * LOAD(X, y, i));
    float dot = GROUP_SUM(SUM_V(sum) + one_sum);
    FOR_ROW(width, FV v = LOAD_V(X, y, i) * (LOAD_V(D, dy, i) - dot); STORE_V(Y, dx, i, v),
            float v = LOAD(X, y, i) * (LOAD(D, dy, i) - dot); STORE(Y, dx, i, v));
}
#endif
