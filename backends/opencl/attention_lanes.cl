/* Attention for devices that run a work-item as a thread with vector registers (CPUs).
 *
 * The lanes of LANES vectors are LINE = LANES * V queries (forward and dq) or keys (dk and dv) of
 * one head. Rows of the other side are read element by element, where they lie, in tiles of ROWS
 * rows: so the head's size D costs no padding, a maximum needs no shuffles, and scores exist for
 * BLOCK rows at a time only. Scores count in powers of 2.
 *
 * Options: D, LANES, TQ (storage of the operands that become lanes, and of the results), TBIAS.
 */
#define LINE (LANES * V)
#define ROWS 8
#define BLOCK 64
#define LOG2_E 1.44269504088896341f

/* 2^x, 0 below 2^-126; NaN stays NaN. */
FV power_of_2(FV x) {
    const FV magic = (FV)(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    const FV bounded = fmin(fmax(x, (FV)(-127.0f)), (FV)(127.0f));
    const FV shifted = bounded + magic, f = bounded - (shifted - magic);
    FV y = fma((FV)(1.52527338e-5f), f, (FV)(1.54035304e-4f));
    y = fma(y, f, (FV)(1.33335581e-3f));
    y = fma(y, f, (FV)(9.61812911e-3f));
    y = fma(y, f, (FV)(5.55041087e-2f));
    y = fma(y, f, (FV)(2.40226507e-1f));
    y = fma(y, f, (FV)(6.93147181e-1f));
    y = fma(y, f, (FV)(1.0f));
    const IV exponent = (CAT(as_, IV)(shifted) - 0x4B400000 + 127) << 23;
    y *= CAT(as_, FV)(exponent);
    y = select(y, (FV)(0.0f), x < (FV)(-126.0f));
    return select(y, x, x != x);
}

/* to[d][lane] = scale * x[lane * step + d], lanes past `last` as lane `last`. */
void to_lanes(__global const TYPE(TQ) *x, int step, int last, float scale, FV to[D][LANES]) {
    for (int j = 0; j < LANES; j++) {
#if D >= V
        for (int c = 0; c < D; c += V) {
            const int d = min(c, D - V);
            FV part[V];
#pragma unroll
            for (int i = 0; i < V; i++)
                part[i] = LOAD_V(TQ, x, (size_t)min(j * V + i, last) * step + d);
            transpose(part);
#pragma unroll
            for (int i = 0; i < V; i++) to[d + i][j] = part[i] * scale;
        }
#else
        for (int d = 0; d < D; d++) {
            float part[V];
            for (int i = 0; i < V; i++)
                part[i] = LOAD(TQ, x, (size_t)min(j * V + i, last) * step + d) * scale;
            to[d][j] = VLOAD(0, part);
        }
#endif
    }
}

/* y[lane * step + d] = x[d][lane] * factor[lane], for lanes up to `last`. */
void from_lanes(FV x[D][LANES], FV factor[LANES], __global TYPE(TQ) *y, int step, int last) {
    for (int j = 0; j < LANES; j++) {
#if D >= V
        for (int c = 0; c < D; c += V) {
            const int d = min(c, D - V);
            FV part[V];
#pragma unroll
            for (int i = 0; i < V; i++) part[i] = x[d + i][j] * factor[j];
            transpose(part);
#pragma unroll
            for (int i = 0; i < V; i++)
                if (j * V + i <= last) STORE_V(TQ, y, (size_t)(j * V + i) * step + d, part[i]);
        }
#else
        for (int d = 0; d < D; d++) {
            float part[V];
            VSTORE(x[d][j] * factor[j], 0, part);
            for (int i = 0; i < V && j * V + i <= last; i++)
                STORE(TQ, y, (size_t)(j * V + i) * step + d, part[i]);
        }
#endif
    }
}

/* sum[i][lane] = sum over d of x[i * step + d] lanes[d][lane]; rows past `last` as row `last`. */
void dot_rows(__global const float *x, int step, int last, FV lanes[D][LANES],
              FV sum[ROWS][LANES]) {
    int row[ROWS];
    FV s[ROWS][LANES];
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        row[i] = min(i, last) * step;
#pragma unroll
        for (int j = 0; j < LANES; j++) s[i][j] = (FV)(0.0f);
    }
    for (int d = 0; d < D; d++)
#pragma unroll
        for (int i = 0; i < ROWS; i++)
#pragma unroll
            for (int j = 0; j < LANES; j++)
                s[i][j] = fma((FV)(x[row[i] + d]), lanes[d][j], s[i][j]);
#pragma unroll
    for (int i = 0; i < ROWS; i++)
#pragma unroll
        for (int j = 0; j < LANES; j++) sum[i][j] = s[i][j];
}

/* sum[d][lane] = sum[d][lane] factor[lane] + sum over r < count of x[r * step + d] p[r][lane], for
 * `size` elements d; `size` is known to the compiler. */
#define ADD_ROWS(name, size)                                                                       \
    void name(__global const float *x, int step, int count, FV p[BLOCK][LANES],                    \
              const FV factor[LANES], FV *sum) {                                                   \
        FV s[size][LANES];                                                                         \
        _Pragma("unroll") for (int i = 0; i < size; i++)                                           \
            _Pragma("unroll") for (int j = 0; j < LANES; j++) s[i][j] =                            \
                sum[i * LANES + j] * factor[j];                                                    \
        for (int r = 0; r < count; r++) {                                                          \
            _Pragma("unroll") for (int i = 0; i < size; i++)                                       \
                _Pragma("unroll") for (int j = 0; j < LANES; j++) s[i][j] =                        \
                    fma((FV)(x[i]), p[r][j], s[i][j]);                                             \
            x += step;                                                                             \
        }                                                                                          \
        _Pragma("unroll") for (int i = 0; i < size; i++)                                           \
            _Pragma("unroll") for (int j = 0; j < LANES; j++) sum[i * LANES + j] = s[i][j];        \
    }
ADD_ROWS(add_eight, 8)
#if D % 8 != 0
ADD_ROWS(add_rest, (D % 8))
#endif

void add_rows(__global const float *x, int step, int count, FV p[BLOCK][LANES],
              const FV factor[LANES], FV sum[D][LANES]) {
    int d = 0;
    for (; d + 8 <= D; d += 8) add_eight(x + d, step, count, p, factor, &sum[d][0]);
#if D % 8 != 0
    add_rest(x + d, step, count, p, factor, &sum[d][0]);
#endif
}

/* Adds the bias of row i < ROWS (row_step apart) and the lanes (lane_step apart). */
void add_bias(__global const TYPE(TBIAS) *bias, int row_step, int last_row, int lane_step,
              int last_lane, FV sum[ROWS][LANES]) {
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        const size_t at = (size_t)min(i, last_row) * row_step;
        float part[LINE];
        if (lane_step == 0) {
            const float one = LOAD(TBIAS, bias, at) * LOG2_E;
#pragma unroll
            for (int j = 0; j < LANES; j++) sum[i][j] += one;
            continue;
        }
        for (int j = 0; j < LINE; j++)
            part[j] = LOAD(TBIAS, bias, at + (size_t)min(j, last_lane) * lane_step) * LOG2_E;
#pragma unroll
        for (int j = 0; j < LANES; j++) sum[i][j] += VLOAD(j, part);
    }
}

/* Keys of sample i0 that take part. */
int key_limit(__global const int *lengths, int i0, const attention_shape *s) {
    return s->has_lengths ? clamp(lengths[i0], 0, s->keys) : s->keys;
}

/* k and v are floats; q and o are TQ. lse is dense [b0, b1, h, query]. */
__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void
attention_forward(__global const TYPE(TQ) *restrict q, ulong q_at, __global const float *restrict k,
                  ulong k_at, __global const float *restrict v, ulong v_at,
                  __global const int *restrict lengths, ulong lengths_at,
                  __global const TYPE(TBIAS) *restrict bias, ulong bias_at,
                  __global TYPE(TQ) *restrict o, ulong o_at, __global float *restrict lse,
                  ulong lse_at, attention_shape s) {
    const int first = get_global_id(0) * LINE, last = min(LINE, s.queries - first) - 1;
    const int index = get_global_id(1);
    const attention_place at = place_of(index, &s);
    const int keys = key_limit(lengths + lengths_at, at.i0, &s);
    FV query[D][LANES], out[D][LANES], p[BLOCK][LANES], sum[ROWS][LANES];
    FV top[LANES], total[LANES];
    to_lanes(q + q_at + start_of(s.q, at) + (size_t)first * s.q[2], s.q[2], last, s.scale * LOG2_E,
             query);
    k += k_at + start_of(s.k, at);
    v += v_at + start_of(s.v, at);
    bias += bias_start(&s, at, bias_at) + (size_t)first * s.bias[3];
    for (int d = 0; d < D; d++)
        for (int j = 0; j < LANES; j++) out[d][j] = (FV)(0.0f);
    for (int j = 0; j < LANES; j++) {
        top[j] = (FV)(-INFINITY);
        total[j] = (FV)(0.0f);
    }
    for (int key = 0; key < keys; key += BLOCK) {
        const int count = min(BLOCK, keys - key);
        FV base[LANES], factor[LANES];
        for (int j = 0; j < LANES; j++) base[j] = top[j];
        for (int r = 0; r < count; r += ROWS) {
            const int last_row = min(ROWS, count - r) - 1;
            dot_rows(k + (size_t)(key + r) * s.k[2], s.k[2], last_row, query, sum);
            if (s.has_bias)
                add_bias(bias + (size_t)(key + r) * s.bias[4], s.bias[4], last_row, s.bias[3], last,
                         sum);
#pragma unroll
            for (int i = 0; i < ROWS; i++)
#pragma unroll
                for (int j = 0; j < LANES; j++) {
                    p[r + i][j] = sum[i][j];
                    base[j] = fmax(base[j], sum[i][j]);
                }
        }
        for (int j = 0; j < LANES; j++) {
            const FV finite = select(base[j], (FV)(0.0f), base[j] == (FV)(-INFINITY));
            factor[j] = power_of_2(top[j] - finite);
            top[j] = base[j];
            total[j] *= factor[j];
            for (int r = 0; r < count; r++) {
                p[r][j] = power_of_2(p[r][j] - finite);
                total[j] += p[r][j];
            }
        }
        add_rows(v + (size_t)key * s.v[2], s.v[2], count, p, factor, out);
    }
    float numbers[LINE];
    for (int j = 0; j < LANES; j++) {
        const FV none = (FV)(0.0f);
        VSTORE(top[j] + log2(total[j]), j, numbers);
        total[j] = select((FV)(1.0f) / total[j], none, total[j] == none);
    }
    lse += lse_at + (size_t)index * s.queries + first;
    for (int i = 0; i <= last; i++) lse[i] = numbers[i];
    from_lanes(out, total, o + o_at + start_of(s.o, at) + (size_t)first * s.o[2], s.o[2], last);
}

/* Lanes are queries. k and v are floats, q and d_o are TQ; lse and delta are dense. */
__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void attention_grad_query(
    __global const TYPE(TQ) *restrict q, ulong q_at, __global const float *restrict k, ulong k_at,
    __global const float *restrict v, ulong v_at, __global const int *restrict lengths,
    ulong lengths_at, __global const TYPE(TBIAS) *restrict bias, ulong bias_at,
    __global const TYPE(TQ) *restrict d_o, ulong d_o_at, __global const float *restrict lse,
    ulong lse_at, __global const float *restrict delta, ulong delta_at,
    __global TYPE(TQ) *restrict dq, ulong dq_at, attention_shape s) {
    const int first = get_global_id(0) * LINE, last = min(LINE, s.queries - first) - 1;
    const int index = get_global_id(1);
    const attention_place at = place_of(index, &s);
    const int keys = key_limit(lengths + lengths_at, at.i0, &s);
    FV query[D][LANES], d_out[D][LANES], d_query[D][LANES], p[BLOCK][LANES];
    FV sum[ROWS][LANES], more[ROWS][LANES], base[LANES], less[LANES], one[LANES], scale[LANES];
    to_lanes(q + q_at + start_of(s.q, at) + (size_t)first * s.q[2], s.q[2], last, s.scale * LOG2_E,
             query);
    to_lanes(d_o + d_o_at + start_of(s.d_o, at) + (size_t)first * s.d_o[2], s.d_o[2], last, 1.0f,
             d_out);
    k += k_at + start_of(s.k, at);
    v += v_at + start_of(s.v, at);
    bias += bias_start(&s, at, bias_at) + (size_t)first * s.bias[3];
    float bases[LINE], deltas[LINE];
    for (int i = 0; i < LINE; i++) {
        const size_t row = (size_t)index * s.queries + first + min(i, last);
        bases[i] = lse[lse_at + row] == -INFINITY ? 0.0f : lse[lse_at + row];
        deltas[i] = delta[delta_at + row];
    }
    for (int j = 0; j < LANES; j++) {
        base[j] = VLOAD(j, bases);
        less[j] = VLOAD(j, deltas);
        one[j] = (FV)(1.0f);
        scale[j] = (FV)(s.scale);
    }
    for (int d = 0; d < D; d++)
        for (int j = 0; j < LANES; j++) d_query[d][j] = (FV)(0.0f);
    for (int key = 0; key < keys; key += BLOCK) {
        const int count = min(BLOCK, keys - key);
        for (int r = 0; r < count; r += ROWS) {
            const int last_row = min(ROWS, count - r) - 1;
            dot_rows(k + (size_t)(key + r) * s.k[2], s.k[2], last_row, query, sum);
            if (s.has_bias)
                add_bias(bias + (size_t)(key + r) * s.bias[4], s.bias[4], last_row, s.bias[3], last,
                         sum);
            dot_rows(v + (size_t)(key + r) * s.v[2], s.v[2], last_row, d_out, more);
#pragma unroll
            for (int i = 0; i < ROWS; i++)
#pragma unroll
                for (int j = 0; j < LANES; j++)
                    p[r + i][j] = power_of_2(sum[i][j] - base[j]) * (more[i][j] - less[j]);
        }
        add_rows(k + (size_t)key * s.k[2], s.k[2], count, p, one, d_query);
    }
    from_lanes(d_query, scale, dq + dq_at + start_of(s.o, at) + (size_t)first * s.o[2], s.o[2],
               last);
}

/* Lanes are keys. q and d_o are floats, k and v are TQ. dk and dv lie alike, in steps s.o. */
__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void attention_grad_key(
    __global const float *restrict q, ulong q_at, __global const TYPE(TQ) *restrict k, ulong k_at,
    __global const TYPE(TQ) *restrict v, ulong v_at, __global const int *restrict lengths,
    ulong lengths_at, __global const TYPE(TBIAS) *restrict bias, ulong bias_at,
    __global const float *restrict d_o, ulong d_o_at, __global const float *restrict lse,
    ulong lse_at, __global const float *restrict delta, ulong delta_at,
    __global TYPE(TQ) *restrict dk, ulong dk_at, __global TYPE(TQ) *restrict dv, ulong dv_at,
    attention_shape s) {
    const int first = get_global_id(0) * LINE, last = min(LINE, s.keys - first) - 1;
    const int index = get_global_id(1);
    const attention_place at = place_of(index, &s);
    const int keys = key_limit(lengths + lengths_at, at.i0, &s);
    FV key[D][LANES], value[D][LANES], d_key[D][LANES], d_value[D][LANES];
    FV p[BLOCK][LANES], ds[BLOCK][LANES], sum[ROWS][LANES], more[ROWS][LANES];
    FV keep[LANES], one[LANES], scale[LANES];
    to_lanes(k + k_at + start_of(s.k, at) + (size_t)first * s.k[2], s.k[2], last, s.scale * LOG2_E,
             key);
    to_lanes(v + v_at + start_of(s.v, at) + (size_t)first * s.v[2], s.v[2], last, 1.0f, value);
    q += q_at + start_of(s.q, at);
    d_o += d_o_at + start_of(s.d_o, at);
    bias += bias_start(&s, at, bias_at) + (size_t)first * s.bias[4];
    lse += lse_at + (size_t)index * s.queries;
    delta += delta_at + (size_t)index * s.queries;
    float numbers[LINE];
    for (int i = 0; i < LINE; i++) numbers[i] = first + i < keys ? 1.0f : 0.0f;
    for (int j = 0; j < LANES; j++) {
        keep[j] = VLOAD(j, numbers);
        one[j] = (FV)(1.0f);
        scale[j] = (FV)(s.scale);
    }
    for (int d = 0; d < D; d++)
        for (int j = 0; j < LANES; j++) d_key[d][j] = d_value[d][j] = (FV)(0.0f);
    for (int query = 0; first < keys && query < s.queries; query += BLOCK) {
        const int count = min(BLOCK, s.queries - query);
        for (int r = 0; r < count; r += ROWS) {
            const int last_row = min(ROWS, count - r) - 1;
            dot_rows(q + (size_t)(query + r) * s.q[2], s.q[2], last_row, key, sum);
            if (s.has_bias)
                add_bias(bias + (size_t)(query + r) * s.bias[3], s.bias[3], last_row, s.bias[4],
                         last, sum);
            dot_rows(d_o + (size_t)(query + r) * s.d_o[2], s.d_o[2], last_row, value, more);
#pragma unroll
            for (int i = 0; i < ROWS; i++) {
                const int row = query + r + min(i, last_row);
                const float base = lse[row] == -INFINITY ? 0.0f : lse[row], less = delta[row];
#pragma unroll
                for (int j = 0; j < LANES; j++) {
                    /* Keys past the length: their products may be anything, their part is 0. */
                    const FV e =
                        select((FV)(0.0f), power_of_2(sum[i][j] - base), keep[j] != (FV)(0.0f));
                    p[r + i][j] = e;
                    ds[r + i][j] =
                        select((FV)(0.0f), e * (more[i][j] - less), keep[j] != (FV)(0.0f));
                }
            }
        }
        add_rows(d_o + (size_t)query * s.d_o[2], s.d_o[2], count, p, one, d_value);
        add_rows(q + (size_t)query * s.q[2], s.q[2], count, ds, one, d_key);
    }
    const size_t to = start_of(s.o, at) + (size_t)first * s.o[2];
    from_lanes(d_value, one, dv + dv_at + to, s.o[2], last);
    from_lanes(d_key, scale, dk + dk_at + to, s.o[2], last);
}
