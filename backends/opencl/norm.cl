/* Layer norm, its modulated form, RMS norm, and their gradients. X, D, W, B, Y: types of x, dy, the
 * factor, what is added, and the result. CENTRED: the mean is taken off. FACTOR: 0 none, 1 weight,
 * 2 one more than the weight. ADDED: 1 if something is added. */
#if FACTOR == 2
#define FACTOR_OF(w) (1.0f + (w))
#else
#define FACTOR_OF(w) (w)
#endif

row_statistics statistics_of(__global const TYPE(X) *x, int width, float eps ROW_MEMORY) {
    row_statistics s = {0, 0, 0};
    FV sum = 0, square = 0;
    float one_sum = 0, one_square = 0;
#if CENTRED
    FOR_ROW(width, sum += LOAD_V(X, x, i), one_sum += LOAD(X, x, i));
    s.mean = GROUP_SUM(SUM_V(sum) + one_sum) / width;
    sum = 0;
    one_sum = 0;
#endif
    FOR_ROW(width, FV d = LOAD_V(X, x, i) - s.mean; sum += d; square += d * d,
            float d = LOAD(X, x, i) - s.mean; one_sum += d; one_square += d * d);
    float variance = GROUP_SUM(SUM_V(square) + one_square) / width;
#if CENTRED
    s.rest = GROUP_SUM(SUM_V(sum) + one_sum) / width;
    variance = fmax(variance - s.rest * s.rest, 0.0f);
#endif
    s.scale = 1.0f / sqrt(variance + eps);
    return s;
}

#define HAT(x, s) (((x) - (s).mean - (s).rest) * (s).scale)

#ifdef FORWARD
__kernel void norm(__global const TYPE(X) *x_data, ulong x_at, row_shape x_rows,
                   __global const TYPE(W) *w_data, ulong w_at, int w_stride,
                   __global const TYPE(B) *b_data, ulong b_at, int b_stride,
                   __global TYPE(Y) *y_data, ulong y_at, int width, int sample_rows, float eps) {
    ROW_LOCAL;
    int row = get_group_id(0), sample = row / sample_rows;
    __global const TYPE(X) *x = x_data + x_at + row_place(&x_rows, row);
    __global const TYPE(W) *w = w_data + w_at + sample * w_stride;
    __global const TYPE(B) *b = b_data + b_at + sample * b_stride;
    __global TYPE(Y) *y = y_data + y_at + (ulong)row * width;
    row_statistics s = statistics_of(x, width, eps ROW_PASS);
#if FACTOR
#define TIMES(load, v) (v) * FACTOR_OF(load(W, w, i))
#else
#define TIMES(load, v) (v)
#endif
#if ADDED
#define PLUS(load, v) (v) + load(B, b, i)
#else
#define PLUS(load, v) (v)
#endif
    FOR_ROW(width, FV v = HAT(LOAD_V(X, x, i), s); v = PLUS(LOAD_V, TIMES(LOAD_V, v));
            STORE_V(Y, y, i, v), float v = HAT(LOAD(X, x, i), s); v = PLUS(LOAD, TIMES(LOAD, v));
            STORE(Y, y, i, v));
}
#endif

#ifdef BACKWARD
#if FACTOR
#define GRADIENT(load) (load(D, dy, i) * FACTOR_OF(load(W, w, i)))
#else
#define GRADIENT(load) load(D, dy, i)
#endif
/* A row's statistics as they lie in scratch memory: mean, rest, scale, mean of g, mean of g hat,
 * where g is dy times the factor. */
#define KEPT 5

__kernel void norm_means(__global const TYPE(D) *dy_data, ulong dy_at, row_shape dy_rows,
                         __global const TYPE(X) *x_data, ulong x_at, row_shape x_rows,
                         __global const TYPE(W) *w_data, ulong w_at, int w_stride,
                         __global float *kept_data, ulong kept_at, int width, int sample_rows,
                         float eps) {
    ROW_LOCAL;
    int row = get_group_id(0), sample = row / sample_rows;
    __global const TYPE(D) *dy = dy_data + dy_at + row_place(&dy_rows, row);
    __global const TYPE(X) *x = x_data + x_at + row_place(&x_rows, row);
    __global const TYPE(W) *w = w_data + w_at + sample * w_stride;
    row_statistics s = statistics_of(x, width, eps ROW_PASS);
    FV sum = 0, dot = 0;
    float one_sum = 0, one_dot = 0;
    FOR_ROW(width, FV g = GRADIENT(LOAD_V); sum += g; dot += g * HAT(LOAD_V(X, x, i), s),
            float g = GRADIENT(LOAD); one_sum += g; one_dot += g * HAT(LOAD(X, x, i), s));
    float g_mean = GROUP_SUM(SUM_V(sum) + one_sum) / width;
    float dot_mean = GROUP_SUM(SUM_V(dot) + one_dot) / width;
    if (ROW_ITEM == 0) {
        __global float *kept = kept_data + kept_at + (ulong)row * KEPT;
        kept[0] = s.mean;
        kept[1] = s.rest;
        kept[2] = s.scale;
        kept[3] = CENTRED ? g_mean : 0.0f;
        kept[4] = dot_mean;
    }
}

/* dx = scale (g - mean(g) - hat mean(g hat)); dx may lie on dy or x. */
__kernel void norm_dx(__global const TYPE(D) *dy_data, ulong dy_at, row_shape dy_rows,
                      __global const TYPE(X) *x_data, ulong x_at, row_shape x_rows,
                      __global const TYPE(W) *w_data, ulong w_at, int w_stride,
                      __global const float *kept_data, ulong kept_at, __global TYPE(Y) *dx_data,
                      ulong dx_at, int width, int sample_rows) {
    int row = get_group_id(0), sample = row / sample_rows;
    __global const TYPE(D) *dy = dy_data + dy_at + row_place(&dy_rows, row);
    __global const TYPE(X) *x = x_data + x_at + row_place(&x_rows, row);
    __global const TYPE(W) *w = w_data + w_at + sample * w_stride;
    __global const float *kept = kept_data + kept_at + (ulong)row * KEPT;
    __global TYPE(Y) *dx = dx_data + dx_at + (ulong)row * width;
    row_statistics s = {kept[0], kept[1], kept[2]};
    float g_mean = kept[3], dot_mean = kept[4];
    FOR_ROW(width,
            FV v = s.scale * (GRADIENT(LOAD_V) - g_mean - HAT(LOAD_V(X, x, i), s) * dot_mean);
            STORE_V(Y, dx, i, v),
            float v = s.scale * (GRADIENT(LOAD) - g_mean - HAT(LOAD(X, x, i), s) * dot_mean);
            STORE(Y, dx, i, v));
}

/* Sums of dy hat and of dy over a chunk of rows of one sample, V columns for each work-item:
 * partials [sample, chunk, 2, width]. */
__kernel void norm_columns(__global const TYPE(D) *dy_data, ulong dy_at, row_shape dy_rows,
                           __global const TYPE(X) *x_data, ulong x_at, row_shape x_rows,
                           __global const float *kept_data, ulong kept_at,
                           __global float *partial_data, ulong partial_at, int width,
                           int sample_rows, int chunks, int items) {
    int item = get_global_id(0), blocks = (width + V - 1) / V;
    if (item >= items) return;
    int column = item % blocks * V, part = item / blocks;
    int chunk = part % chunks, sample = part / chunks;
    int first = (int)((long)sample_rows * chunk / chunks);
    int last = (int)((long)sample_rows * (chunk + 1) / chunks);
    __global float *partial = partial_data + partial_at + (ulong)part * 2 * width + column;
    if (column + V <= width) {
        FV dot = 0, sum = 0;
        for (int r = first; r < last; r++) {
            int row = sample * sample_rows + r;
            __global const float *kept = kept_data + kept_at + (ulong)row * KEPT;
            row_statistics s = {kept[0], kept[1], kept[2]};
            FV g = LOAD_V(D, dy_data + dy_at, row_place(&dy_rows, row) + column);
            dot += g * HAT(LOAD_V(X, x_data + x_at, row_place(&x_rows, row) + column), s);
            sum += g;
        }
        VSTORE(dot, 0, partial);
        VSTORE(sum, 0, partial + width);
        return;
    }
    for (int c = 0; column + c < width; c++) {
        float dot = 0, sum = 0;
        for (int r = first; r < last; r++) {
            int row = sample * sample_rows + r;
            __global const float *kept = kept_data + kept_at + (ulong)row * KEPT;
            row_statistics s = {kept[0], kept[1], kept[2]};
            float g = LOAD(D, dy_data + dy_at, row_place(&dy_rows, row) + column + c);
            dot += g * HAT(LOAD(X, x_data + x_at, row_place(&x_rows, row) + column + c), s);
            sum += g;
        }
        partial[c] = dot;
        partial[width + c] = sum;
    }
}
#endif
