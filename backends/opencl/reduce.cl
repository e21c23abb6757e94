/* sum, mean, max and the norm of gradients: one result for each set of places, in two ways.
 *   WIDE 1: the last reduced axis is dense: a group of GROUP work-items for each result and part.
 *   WIDE 0: a work-item for each result and part, side by side along the kept axes.
 * The reduced axes are `outer` (any number of them) and the innermost one. If there are several
 * parts, each takes an equal share of the outer axes, or of the inner one if there is but one place
 * on the outer ones; their results are reduced again by `join`. X, Y: types. KIND: 0 sum, 1 max,
 * 2 sum of squares. KEPT, OUTER: ranks. */
#if KIND == 1
#define START (-INFINITY)
#define JOIN(a, b) larger(a, b)
#define JOIN_V(a, b) larger_v(a, b)
#define TAKE(v) (v)
#define ACROSS_V(v) most_of(v)
#else
#define START 0
#define JOIN(a, b) ((a) + (b))
#define JOIN_V(a, b) ((a) + (b))
#define ACROSS_V(v) SUM_V(v)
#if KIND == 2
#define TAKE(v) ((v) * (v))
#else
#define TAKE(v) (v)
#endif
#endif

/* The larger one; NaN if one of them is. */
float larger(float a, float b) {
    return a != a ? a : a > b ? a : b;
}

FV larger_v(FV a, FV b) {
    return select(select(b, a, a > b), a, a != a);
}

float most_of(FV v) {
    float values[V], most = -INFINITY;
    VSTORE(v, 0, values);
    for (int i = 0; i < V; i++) most = larger(most, values[i]);
    return most;
}

/* Sums carry what rounding took off (Kahan 1965), so that long ones stay exact enough in f32. */
typedef struct running {
    float value, lost;
} running;

running add(running r, float v) {
#if KIND == 1
    r.value = larger(r.value, v);
#else
    float exact = v - r.lost, next = r.value + exact, lost = (next - r.value) - exact;
    r.lost = lost == lost ? lost : 0; /* an infinite sum stays infinite */
    r.value = next;
#endif
    return r;
}

#if WIDE
ROW_REDUCE(group_join, JOIN(a, b))

__kernel void reduce(__global const TYPE(X) *x_data, ulong x_at, __global TYPE(Y) *y_data,
                     ulong y_at, map_shape kept, map_shape outer, int inner, int parts,
                     float factor) {
    ROW_LOCAL;
    int result = get_group_id(0) / parts, part = get_group_id(0) % parts, place;
    PLACE(kept, KEPT, result, 0, place);
    __global const TYPE(X) *x = x_data + x_at + place;
    int first = 0, last = outer.count, from = 0, to = inner;
    if (outer.count > 1) {
        first = (int)((long)outer.count * part / parts);
        last = (int)((long)outer.count * (part + 1) / parts);
    } else {
        from = (int)((long)inner * part / parts);
        to = (int)((long)inner * (part + 1) / parts);
    }
    running total = {START, 0};
    for (int o = first; o < last; o++) {
        PLACE(outer, OUTER, o, 0, place);
        __global const TYPE(X) *row = x + place + from;
        FV sum = START;
        float one = START;
        FOR_ROW(to - from, sum = JOIN_V(sum, TAKE(LOAD_V(X, row, i))),
                one = JOIN(one, TAKE(LOAD(X, row, i))));
        total = add(total, JOIN(ACROSS_V(sum), one));
    }
    float value = group_join(total.value ROW_PASS);
    if (ROW_ITEM == 0) STORE(Y, y_data + y_at, part * kept.count + result, value * factor);
}
#else
__kernel void reduce(__global const TYPE(X) *x_data, ulong x_at, __global TYPE(Y) *y_data,
                     ulong y_at, map_shape kept, map_shape outer, int inner, int inner_stride,
                     int parts, float factor, int items) {
    int item = get_global_id(0), place;
    if (item >= items) return;
    int result = item % kept.count, part = item / kept.count;
    PLACE(kept, KEPT, result, 0, place);
    __global const TYPE(X) *x = x_data + x_at + place;
    int first = 0, last = outer.count, from = 0, to = inner;
    if (outer.count > 1) {
        first = (int)((long)outer.count * part / parts);
        last = (int)((long)outer.count * (part + 1) / parts);
    } else {
        from = (int)((long)inner * part / parts);
        to = (int)((long)inner * (part + 1) / parts);
    }
    running total = {START, 0};
    for (int o = first; o < last; o++) {
        PLACE(outer, OUTER, o, 0, place);
        __global const TYPE(X) *row = x + place;
        for (int i = from; i < to; i++)
            total = add(total, TAKE(LOAD(X, row, i * inner_stride)));
    }
    STORE(Y, y_data + y_at, item, total.value * factor);
}
#endif

/* y[i] = all x[part, i] reduced, times factor, and its root if ROOT. */
__kernel void join(__global const float *x_data, ulong x_at, __global TYPE(Y) *y_data, ulong y_at,
                   int parts, int results, float factor) {
    int i = get_global_id(0);
    if (i >= results) return;
    running total = {START, 0};
    for (int part = 0; part < parts; part++)
        total = add(total, x_data[x_at + (ulong)part * results + i]);
#if ROOT
    total.value = sqrt(total.value);
#endif
    STORE(Y, y_data + y_at, i, total.value * factor);
}
