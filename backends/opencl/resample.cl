/* pad, upsample and their gradients. X, Y: types. Each result is gathered, so that sums have one
 * order. */
#ifdef PAD
typedef struct pad_shape {
    int rank, count;
    int small[8], padded[8], before[8], after[8];
} pad_shape;

/* REPLICATE: the outermost elements are repeated; else zeros. */
__kernel void pad(__global const TYPE(X) *x_data, ulong x_at, __global TYPE(Y) *y_data, ulong y_at,
                  pad_shape s) {
    int index = get_global_id(0), rest = index, place = 0, step = 1;
    bool outside = false;
    if (index >= s.count) return;
    for (int a = s.rank - 1; a >= 0; a--) {
        int i = rest % s.padded[a] - s.before[a], inside = clamp(i, 0, s.small[a] - 1);
        rest /= s.padded[a];
        outside = outside || i != inside;
        place += inside * step;
        step *= s.small[a];
    }
    float value = outside && !REPLICATE ? 0.0f : LOAD(X, x_data + x_at, place);
    STORE(Y, y_data + y_at, index, value);
}

/* The sum of the box of padded elements behind each element: single ones inside, the whole margin at
 * an edge that was repeated. */
__kernel void pad_grad(__global const TYPE(X) *x_data, ulong x_at, __global TYPE(Y) *y_data,
                       ulong y_at, pad_shape s) {
    int index = get_global_id(0), rest = index, boxes = 1;
    int low[8], size[8];
    if (index >= s.count) return;
    for (int a = s.rank - 1; a >= 0; a--) {
        int i = rest % s.small[a], first = i + s.before[a], last = first;
        rest /= s.small[a];
        if (REPLICATE && i == 0) first = 0;
        if (REPLICATE && i == s.small[a] - 1) last += s.after[a];
        low[a] = first;
        size[a] = last - first + 1;
        boxes *= size[a];
    }
    float sum = 0;
    for (int box = 0; box < boxes; box++) {
        int left = box, place = 0, step = 1;
        for (int a = s.rank - 1; a >= 0; a--) {
            place += (low[a] + left % size[a]) * step;
            left /= size[a];
            step *= s.padded[a];
        }
        sum += LOAD(X, x_data + x_at, place);
    }
    STORE(Y, y_data + y_at, index, sum);
}
#endif

#ifdef UPSAMPLE
/* What element i of an axis of the larger tensor reads: (1 - weight) low + weight high. */
typedef struct tap {
    int low, high;
    float weight;
} tap;

/* taps of time, rows, columns one behind the other. */
__kernel void resize(__global const TYPE(X) *x_data, ulong x_at, __global const tap *taps,
                       ulong taps_at, __global TYPE(Y) *y_data, ulong y_at, int4 small, int4 large,
                       int count) {
    int index = get_global_id(0);
    if (index >= count) return;
    int x = index % large.z, rest = index / large.z, y = rest % large.y;
    rest /= large.y;
    int t = rest % large.x, plane = rest / large.x;
    tap at = taps[t], ay = taps[large.x + y], ax = taps[large.x + large.y + x];
    float sum = 0;
    for (int corner = 0; corner < 8; corner++) {
        float weight = (corner & 4 ? at.weight : 1.0f - at.weight) *
                       (corner & 2 ? ay.weight : 1.0f - ay.weight) *
                       (corner & 1 ? ax.weight : 1.0f - ax.weight);
        if (weight == 0) continue;
        int place = (plane * small.x + (corner & 4 ? at.high : at.low)) * small.y +
                    (corner & 2 ? ay.high : ay.low);
        place = place * small.z + (corner & 1 ? ax.high : ax.low);
        sum += weight * LOAD(X, x_data + x_at, place);
    }
    STORE(Y, y_data + y_at, index, sum);
}

/* How much element i of the smaller tensor gets from a tap. */
float share(tap t, int i) {
    return (t.low == i ? 1.0f - t.weight : 0.0f) + (t.high == i ? t.weight : 0.0f);
}

/* ranges: for each element of each axis of the smaller tensor the first and the last element of the
 * larger one that reads it. */
__kernel void resize_grad(__global const TYPE(X) *x_data, ulong x_at, __global const tap *taps,
                            ulong taps_at, __global const int2 *ranges, ulong ranges_at,
                            __global TYPE(Y) *y_data, ulong y_at, int4 small, int4 large,
                            int count) {
    int index = get_global_id(0);
    if (index >= count) return;
    int x = index % small.z, rest = index / small.z, y = rest % small.y;
    rest /= small.y;
    int t = rest % small.x, plane = rest / small.x;
    int2 rt = ranges[t], ry = ranges[small.x + y], rx = ranges[small.x + small.y + x];
    float sum = 0;
    for (int lt = rt.x; lt <= rt.y; lt++)
        for (int ly = ry.x; ly <= ry.y; ly++) {
            float weight = share(taps[lt], t) * share(taps[large.x + ly], y);
            int row = ((plane * large.x + lt) * large.y + ly) * large.z;
            for (int lx = rx.x; lx <= rx.y; lx++)
                sum += weight * share(taps[large.x + large.y + lx], x) *
                       LOAD(X, x_data + x_at, row + lx);
        }
    STORE(Y, y_data + y_at, index, sum);
}
#endif
