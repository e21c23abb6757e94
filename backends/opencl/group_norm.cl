/* Group norm with an optional SiLU, and its gradient. x lies densely: [B, C, positions]. X, D, W, B,
 * Y: types of x, dy, weight, bias and the result. SILU: 1 if SiLU follows. A "plane" is one channel
 * of one sample. */
#if SILU
#define VALUE(z) ((z)*KX_SIGMOID(z))
#define SLOPE(z) (KX_SIGMOID(z) * (KX_C(1.0) + (z) * (KX_C(1.0) - KX_SIGMOID(z))))
#else
#define VALUE(z) (z)
#define SLOPE(z) KX_C(1.0)
#endif

/* Sum and sum of squares of a part of a group less `mean`, which must be near its mean: groups can
 * be long, so several work-groups share one. partials [group, part, 2]. */
__kernel void group_sums(__global const TYPE(X) *x_data, ulong x_at,
                         __global const float *means_data, ulong means_at,
                         __global float *partial_data, ulong partial_at, int length, int parts,
                         int has_means) {
    ROW_LOCAL;
    int unit = get_group_id(0), part = unit % parts, norm_group = unit / parts;
    int first = (int)((long)length * part / parts);
    int width = (int)((long)length * (part + 1) / parts) - first;
    __global const TYPE(X) *x = x_data + x_at + (ulong)norm_group * length + first;
    float mean = has_means ? means_data[means_at + norm_group] : 0.0f;
    FV sum = 0, square = 0;
    float one_sum = 0, one_square = 0;
    FOR_ROW(width, FV d = LOAD_V(X, x, i) - mean; sum += d; square += d * d,
            float d = LOAD(X, x, i) - mean; one_sum += d; one_square += d * d);
    float total = GROUP_SUM(SUM_V(sum) + one_sum);
    float total_square = GROUP_SUM(SUM_V(square) + one_square);
    if (ROW_ITEM == 0) {
        partial_data[partial_at + 2 * unit] = total;
        partial_data[partial_at + 2 * unit + 1] = total_square;
    }
}

/* After the first pass: means [group]. After the second: statistics [group, 3], mean, rest, scale
 * as in rows.cl. */
__kernel void group_finish(__global const float *partial_data, ulong partial_at,
                           __global float *means_data, ulong means_at,
                           __global float *kept_data, ulong kept_at, int length, int parts,
                           int second, float eps, int groups) {
    int norm_group = get_global_id(0);
    if (norm_group >= groups) return;
    __global const float *partial = partial_data + partial_at + 2 * norm_group * parts;
    float sum = 0, square = 0;
    for (int part = 0; part < parts; part++) {
        sum += partial[2 * part];
        square += partial[2 * part + 1];
    }
    if (!second) {
        means_data[means_at + norm_group] = sum / length;
        return;
    }
    __global float *kept = kept_data + kept_at + 3 * norm_group;
    float rest = sum / length;
    kept[0] = means_data[means_at + norm_group];
    kept[1] = rest;
    kept[2] = 1.0f / sqrt(fmax(square / length - rest * rest, 0.0f) + eps);
}

#define HAT(x, s) (((x) - (s).mean - (s).rest) * (s).scale)

row_statistics kept_of(__global const float *kept_data, ulong kept_at, int norm_group) {
    __global const float *kept = kept_data + kept_at + 3 * norm_group;
    row_statistics s = {kept[0], kept[1], kept[2]};
    return s;
}

__kernel void group_apply(__global const TYPE(X) *x_data, ulong x_at,
                          __global const TYPE(W) *w_data, ulong w_at,
                          __global const TYPE(B) *b_data, ulong b_at,
                          __global const float *kept_data, ulong kept_at,
                          __global TYPE(Y) *y_data, ulong y_at, int channels, int group_channels,
                          int positions) {
    int plane = get_group_id(0), channel = plane % channels;
    row_statistics s = kept_of(kept_data, kept_at, plane / group_channels);
    float w = LOAD(W, w_data + w_at, channel), b = LOAD(B, b_data + b_at, channel);
    __global const TYPE(X) *x = x_data + x_at + (ulong)plane * positions;
    __global TYPE(Y) *y = y_data + y_at + (ulong)plane * positions;
    FOR_ROW(positions, FV z = HAT(LOAD_V(X, x, i), s) * w + b; STORE_V(Y, y, i, VALUE(z)),
            float z = HAT(LOAD(X, x, i), s) * w + b; STORE(Y, y, i, VALUE(z)));
}

#ifdef BACKWARD
/* planes [plane, 2]: sums of dz hat and of dz, dz being the gradient before weight and bias. */
__kernel void plane_sums(__global const TYPE(D) *dy_data, ulong dy_at,
                         __global const TYPE(X) *x_data, ulong x_at,
                         __global const TYPE(W) *w_data, ulong w_at,
                         __global const TYPE(B) *b_data, ulong b_at,
                         __global const float *kept_data, ulong kept_at, __global float *plane_data,
                         ulong plane_at, int channels, int group_channels, int positions) {
    ROW_LOCAL;
    int plane = get_group_id(0), channel = plane % channels;
    row_statistics s = kept_of(kept_data, kept_at, plane / group_channels);
    float w = LOAD(W, w_data + w_at, channel), b = LOAD(B, b_data + b_at, channel);
    __global const TYPE(D) *dy = dy_data + dy_at + (ulong)plane * positions;
    __global const TYPE(X) *x = x_data + x_at + (ulong)plane * positions;
    FV sum = 0, dot = 0;
    float one_sum = 0, one_dot = 0;
    FOR_ROW(positions, FV h = HAT(LOAD_V(X, x, i), s);
            FV dz = LOAD_V(D, dy, i) * SLOPE(h * w + b); sum += dz; dot += dz * h,
            float h = HAT(LOAD(X, x, i), s); float dz = LOAD(D, dy, i) * SLOPE(h * w + b);
            one_sum += dz; one_dot += dz * h);
    float total = GROUP_SUM(SUM_V(sum) + one_sum), total_dot = GROUP_SUM(SUM_V(dot) + one_dot);
    if (ROW_ITEM == 0) {
        plane_data[plane_at + 2 * plane] = total_dot;
        plane_data[plane_at + 2 * plane + 1] = total;
    }
}

/* dx = scale (dz w - mean(dz w) - hat mean(dz w hat)); dx may lie on dy or x. */
__kernel void group_dx(__global const TYPE(D) *dy_data, ulong dy_at,
                       __global const TYPE(X) *x_data, ulong x_at,
                       __global const TYPE(W) *w_data, ulong w_at,
                       __global const TYPE(B) *b_data, ulong b_at,
                       __global const float *kept_data, ulong kept_at,
                       __global const float *plane_data, ulong plane_at,
                       __global TYPE(Y) *dx_data, ulong dx_at, int channels, int group_channels,
                       int positions) {
    int plane = get_group_id(0), channel = plane % channels, norm_group = plane / group_channels;
    row_statistics s = kept_of(kept_data, kept_at, norm_group);
    float w = LOAD(W, w_data + w_at, channel), b = LOAD(B, b_data + b_at, channel);
    float mean = 0, hat_mean = 0;
    for (int p = norm_group * group_channels; p < (norm_group + 1) * group_channels; p++) {
        float factor = LOAD(W, w_data + w_at, p % channels);
        hat_mean += factor * plane_data[plane_at + 2 * p];
        mean += factor * plane_data[plane_at + 2 * p + 1];
    }
    float share = 1.0f / ((float)group_channels * (float)positions);
    mean *= share;
    hat_mean *= share;
    __global const TYPE(D) *dy = dy_data + dy_at + (ulong)plane * positions;
    __global const TYPE(X) *x = x_data + x_at + (ulong)plane * positions;
    __global TYPE(Y) *dx = dx_data + dx_at + (ulong)plane * positions;
    FOR_ROW(positions, FV h = HAT(LOAD_V(X, x, i), s);
            FV dz = LOAD_V(D, dy, i) * SLOPE(h * w + b);
            STORE_V(Y, dx, i, s.scale * (dz * w - mean - h * hat_mean)),
            float h = HAT(LOAD(X, x, i), s); float dz = LOAD(D, dy, i) * SLOPE(h * w + b);
            STORE(Y, dx, i, s.scale * (dz * w - mean - h * hat_mean)));
}

__kernel void channel_sums(__global const float *plane_data, ulong plane_at,
                           __global TYPE(W) *dw_data, ulong dw_at, __global TYPE(B) *db_data,
                           ulong db_at, int channels, int samples) {
    int channel = get_global_id(0);
    if (channel >= channels) return;
    float dot = 0, sum = 0;
    for (int sample = 0; sample < samples; sample++) {
        dot += plane_data[plane_at + 2 * (sample * channels + channel)];
        sum += plane_data[plane_at + 2 * (sample * channels + channel) + 1];
    }
    STORE(W, dw_data + dw_at, channel, dot);
    STORE(B, db_data + db_at, channel, sum);
}
#endif
