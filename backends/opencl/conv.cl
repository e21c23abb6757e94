/* What convolutions need beside a product: padded copies, tables of offsets, and patches.
 * Options: TX, ROWWISE (1: a work-item does a row, 0: an element). */

/* to[plane, t, y, x] = x[plane, t - front, ...] in floats, 0 outside. Causal: what lies before the
 * first frame is the first frame. Then `extra` frames, for the gradient of that: frame k holds the
 * sum of the frames p with p * stride + k <= front, whose tap k read it. */
typedef struct {
    int planes, in[3], size[3], front[3];
    int causal, extra, stride, reach;
} pad_shape;

float padded_sum(__global const TYPE(TX) *x, size_t at, int frames, int step) {
    float sum = 0.0f;
    for (int f = 0; f < frames; f++) sum += LOAD(TX, x, at + (size_t)f * step);
    return sum;
}

__kernel void conv_pad(__global const TYPE(TX) *restrict x, ulong x_at, __global float *restrict to,
                       ulong to_at, pad_shape shape) {
    const int frames = shape.size[0] + shape.extra, width = shape.size[2];
#if ROWWISE
    const int row = get_global_id(0), from = 0, end = width;
#else
    const int row = get_global_id(0) / width, from = get_global_id(0) % width, end = from + 1;
#endif
    const int y = row % shape.size[1] - shape.front[1];
    const int frame = row / shape.size[1] % frames, plane = row / shape.size[1] / frames;
    if (plane >= shape.planes) return;
    const int step = shape.in[1] * shape.in[2];
    int t = frame - shape.front[0], count = 1;
    if (frame >= shape.size[0]) {
        const int tap = frame - shape.size[0];
        t = 0;
        count = tap > shape.reach ? 0 : min(shape.in[0], (shape.reach - tap) / shape.stride + 1);
    } else if (shape.causal && t < 0) {
        t = 0;
    }
    const bool inside = t >= 0 && t < shape.in[0] && y >= 0 && y < shape.in[1];
    const size_t source =
        x_at + (((size_t)plane * shape.in[0] + t) * shape.in[1] + y) * shape.in[2];
    to += to_at + (size_t)row * width;
    int i = from;
    for (; i < end && (!inside || i < shape.front[2]); i++) to[i] = 0.0f;
    const int last = min(end, shape.front[2] + shape.in[2]);
    if (count == 1) {
        for (; i + V <= last; i += V)
            VSTORE(LOAD_V(TX, x, source + (i - shape.front[2])), 0, to + i);
        for (; i < last; i++) to[i] = LOAD(TX, x, source + (i - shape.front[2]));
    } else {
        for (; i < last; i++) to[i] = padded_sum(x, source + (i - shape.front[2]), count, step);
    }
    for (; i < end; i++) to[i] = 0.0f;
}

/* Entry (o, a, b, c) of a grid is base + o * outer + a * step[0] + b * step[1] + c * step[2],
 * twice: the first `count` numbers, then the second. The grid of rows comes first, then that of the
 * sum. */
typedef struct {
    int count, n[3];
    int base[2], outer[2], step[2][3];
} table_grid;

typedef struct {
    table_grid rows, depth;
} table_shape;

int grid_entry(const table_grid *grid, int which, int index) {
    const int c = index % grid->n[2], b = index / grid->n[2] % grid->n[1];
    const int rest = index / grid->n[2] / grid->n[1];
    const int a = rest % grid->n[0], o = rest / grid->n[0];
    return grid->base[which] + o * grid->outer[which] + a * grid->step[which][0] +
           b * grid->step[which][1] + c * grid->step[which][2];
}

__kernel void conv_tables(__global int *table, ulong table_at, table_shape shape) {
    const int id = get_global_id(0), total = shape.rows.count + shape.depth.count;
    if (id >= total) return;
    table += table_at;
    if (id < shape.rows.count) {
        table[id] = grid_entry(&shape.rows, 0, id);
        table[shape.rows.count + id] = grid_entry(&shape.rows, 1, id);
    } else {
        const int index = id - shape.rows.count;
        table += 2 * shape.rows.count;
        table[index] = grid_entry(&shape.depth, 0, index);
        table[shape.depth.count + index] = grid_entry(&shape.depth, 1, index);
    }
}

/* y = x in the dtype TX. */
__kernel void conv_store(__global const float *x, ulong x_at, __global TYPE(TX) *y, ulong y_at,
                         int count) {
    const int i = get_global_id(0);
    if (i < count) STORE(TX, y, y_at + i, x[x_at + i]);
}

/* ---- patches ---- */

typedef struct {
    int planes, in[3], kernel_size[3], out[3], stride[3], before[3], causal;
} patches_shape;

/* patches[plane, tap, p]: the element of the plane that tap sees from p, or 0. */
__kernel void conv_patches(__global const TYPE(TX) *x, ulong x_at, __global TYPE(TX) *y,
                           ulong y_at, patches_shape s, int count) {
    const int id = get_global_id(0);
    if (id >= count) return;
    int rest = id, at[3], tap[3], place = 0;
    bool inside = true;
    for (int a = 2; a >= 0; a--) {
        at[a] = rest % s.out[a];
        rest /= s.out[a];
    }
    for (int a = 2; a >= 0; a--) {
        tap[a] = rest % s.kernel_size[a];
        rest /= s.kernel_size[a];
    }
    for (int a = 0; a < 3; a++) {
        int i = at[a] * s.stride[a] + tap[a] - s.before[a];
        if (a == 0 && i < 0 && s.causal) i = 0;
        inside = inside && i >= 0 && i < s.in[a];
        place = place * s.in[a] + i;
    }
    const int plane = s.in[0] * s.in[1] * s.in[2];
    const float value = inside ? LOAD(TX, x, x_at + (size_t)rest * plane + place) : 0.0f;
    STORE(TX, y, y_at + id, value);
}

/* x[plane, q]: the sum of what all taps that saw q got. */
__kernel void conv_patches_grad(__global const TYPE(TX) *y, ulong y_at, __global TYPE(TX) *x,
                                ulong x_at, patches_shape s, int count) {
    const int id = get_global_id(0);
    if (id >= count) return;
    int rest = id, q[3];
    for (int a = 2; a >= 0; a--) {
        q[a] = rest % s.in[a];
        rest /= s.in[a];
    }
    const int taps = s.kernel_size[0] * s.kernel_size[1] * s.kernel_size[2];
    const int positions = s.out[0] * s.out[1] * s.out[2];
    y += y_at + (size_t)rest * taps * positions;
    float sum = 0.0f;
    for (int tap = 0; tap < taps; tap++) {
        const int kt = tap / s.kernel_size[2] / s.kernel_size[1];
        const int row = q[1] + s.before[1] - tap / s.kernel_size[2] % s.kernel_size[1];
        const int column = q[2] + s.before[2] - tap % s.kernel_size[2];
        const int py = row / s.stride[1], px = column / s.stride[2];
        if (row < 0 || column < 0 || row % s.stride[1] != 0 || column % s.stride[2] != 0 ||
            py >= s.out[1] || px >= s.out[2])
            continue;
        /* Frames that read frame q[0] with this tap: one, or for the first all that reach before.
         */
        const int reach = q[0] + s.before[0] - kt;
        const bool first = s.causal && q[0] == 0;
        if (reach < 0 || (!first && reach % s.stride[0] != 0)) continue;
        const int last = reach / s.stride[0];
        for (int pt = first ? 0 : last; pt <= last && pt < s.out[0]; pt++)
            sum += LOAD(TX, y, (size_t)tap * positions + (pt * s.out[1] + py) * s.out[2] + px);
    }
    STORE(TX, x, x_at + id, sum);
}
