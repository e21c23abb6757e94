/* Attention for devices whose work-groups share local memory (GPUs).
 *
 * A group of SIDE x SIDE work-items has TILE = 2 SIDE rows (queries; keys in grad_key) of one head,
 * and walks over the other side TILE columns at a time: scores of a tile into local memory, then
 * their product with rows that are read where they lie. Scores count in powers of 2.
 *
 * Options: D, SIDE, TQ (storage of all operands but the bias), TBIAS.
 */
#define TILE (2 * SIDE)
#define ITEMS (SIDE * SIDE)
#define CHUNK 16
#define OWN ((D + SIDE - 1) / SIDE) /* elements of the head in a work-item's result rows */
#define LOG2_E 1.44269504088896341f

/* sum[a][b] = product of row y + a SIDE of `left` and row x + b SIDE of `right`; rows past the
 * count are 0. */
void dot_tile(__global const TYPE(TQ) *left, int left_step, int left_count,
              __global const TYPE(TQ) *right, int right_step, int right_count,
              __local float (*l)[TILE + 1], __local float (*r)[TILE + 1], float sum[2][2]) {
    const int x = get_local_id(0), y = get_local_id(1), item = y * SIDE + x;
    for (int a = 0; a < 2; a++)
        for (int b = 0; b < 2; b++) sum[a][b] = 0.0f;
    for (int d = 0; d < D; d += CHUNK) {
        for (int at = item; at < TILE * CHUNK; at += ITEMS) {
            const int row = at / CHUNK, c = at % CHUNK;
            const bool inside = d + c < D;
            l[c][row] =
                inside && row < left_count ? LOAD(TQ, left, (size_t)row * left_step + d + c) : 0.0f;
            r[c][row] = inside && row < right_count
                            ? LOAD(TQ, right, (size_t)row * right_step + d + c)
                            : 0.0f;
        }
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int c = 0; c < CHUNK; c++)
            for (int a = 0; a < 2; a++)
                for (int b = 0; b < 2; b++)
                    sum[a][b] = fma(l[c][y + a * SIDE], r[c][x + b * SIDE], sum[a][b]);
        barrier(CLK_LOCAL_MEM_FENCE);
    }
}

/* out[a][e] += sum over c < count of p[y + a SIDE][c] x[c][x + e SIDE]. */
void add_tile(__local const float (*p)[TILE + 1], __global const TYPE(TQ) *from, int step,
              int count, float out[2][OWN]) {
    const int x = get_local_id(0), y = get_local_id(1);
    for (int c = 0; c < count; c++) {
        const float p0 = p[y][c], p1 = p[y + SIDE][c];
#pragma unroll
        for (int e = 0; e < OWN; e++) {
            const int d = x + e * SIDE;
            const float value = d < D ? LOAD(TQ, from, (size_t)c * step + d) : 0.0f;
            out[0][e] = fma(p0, value, out[0][e]);
            out[1][e] = fma(p1, value, out[1][e]);
        }
    }
}

void clear(float out[2][OWN]) {
    for (int a = 0; a < 2; a++)
        for (int e = 0; e < OWN; e++) out[a][e] = 0.0f;
}

void store_tile(__global TYPE(TQ) *y, int step, int count, const float out[2][OWN],
                const float factor[2]) {
    const int x = get_local_id(0), row = get_local_id(1);
    for (int a = 0; a < 2; a++)
        for (int e = 0; e < OWN; e++)
            if (row + a * SIDE < count && x + e * SIDE < D)
                STORE(TQ, y, (size_t)(row + a * SIDE) * step + x + e * SIDE, out[a][e] * factor[a]);
}

/* Keys of sample i0 that take part. */
int key_limit(__global const int *lengths, int i0, const attention_shape *s) {
    return s->has_lengths ? clamp(lengths[i0], 0, s->keys) : s->keys;
}

/* Scores in powers of 2, with the bias of a row and a column. */
float scaled(float product, const attention_shape *s, __global const TYPE(TBIAS) *bias,
             size_t at) {
    return (product * s->scale + (s->has_bias ? LOAD(TBIAS, bias, at) : 0.0f)) * LOG2_E;
}

float based(float lse) {
    return lse == -INFINITY ? 0.0f : lse;
}

__kernel __attribute__((reqd_work_group_size(SIDE, SIDE, 1))) void attention_forward(
    __global const TYPE(TQ) *restrict q, ulong q_at, __global const TYPE(TQ) *restrict k,
    ulong k_at, __global const TYPE(TQ) *restrict v, ulong v_at,
    __global const int *restrict lengths, ulong lengths_at,
    __global const TYPE(TBIAS) *restrict bias, ulong bias_at, __global TYPE(TQ) *restrict o,
    ulong o_at, __global float *restrict lse, ulong lse_at, attention_shape s) {
    __local float left[CHUNK][TILE + 1], right[CHUNK][TILE + 1], p[TILE][TILE + 1];
    __local float tops[TILE], totals[TILE], factors[TILE];
    const int x = get_local_id(0), y = get_local_id(1), item = y * SIDE + x;
    const int first = get_group_id(0) * TILE, index = get_group_id(1);
    const attention_place at = place_of(index, &s);
    const int keys = key_limit(lengths + lengths_at, at.i0, &s);
    const int rows = min(TILE, s.queries - first);
    float out[2][OWN];
    clear(out);
    for (int r = item; r < TILE; r += ITEMS) {
        tops[r] = -INFINITY;
        totals[r] = 0.0f;
    }
    q += q_at + start_of(s.q, at) + (size_t)first * s.q[2];
    k += k_at + start_of(s.k, at);
    v += v_at + start_of(s.v, at);
    bias += bias_start(&s, at, bias_at) + (size_t)first * s.bias[3];
    for (int key = 0; key < keys; key += TILE) {
        const int count = min(TILE, keys - key);
        float sum[2][2];
        dot_tile(q, s.q[2], rows, k + (size_t)key * s.k[2], s.k[2], count, left, right, sum);
        for (int a = 0; a < 2; a++)
            for (int b = 0; b < 2; b++) {
                const int row = y + a * SIDE, column = x + b * SIDE;
                if (row < rows && column < count)
                    sum[a][b] =
                        scaled(sum[a][b], &s, bias,
                               (size_t)row * s.bias[3] + (size_t)(key + column) * s.bias[4]);
                p[row][column] = column < count ? sum[a][b] : -INFINITY;
            }
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int r = item; r < TILE; r += ITEMS) {
            float top = tops[r];
            for (int c = 0; c < TILE; c++) top = fmax(top, p[r][c]);
            const float base = top == -INFINITY ? 0.0f : top, factor = exp2(tops[r] - base);
            float total = totals[r] * factor;
            for (int c = 0; c < TILE; c++) {
                p[r][c] = exp2(p[r][c] - base);
                total += p[r][c];
            }
            tops[r] = top;
            totals[r] = total;
            factors[r] = factor;
        }
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int a = 0; a < 2; a++)
            for (int e = 0; e < OWN; e++) out[a][e] *= factors[y + a * SIDE];
        add_tile(p, v + (size_t)key * s.v[2], s.v[2], count, out);
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    float factor[2];
    for (int a = 0; a < 2; a++) {
        const float total = totals[y + a * SIDE];
        factor[a] = total == 0.0f ? 0.0f : 1.0f / total;
    }
    store_tile(o + o_at + start_of(s.o, at) + (size_t)first * s.o[2], s.o[2], rows, out, factor);
    for (int r = item; r < rows; r += ITEMS)
        lse[lse_at + (size_t)index * s.queries + first + r] = tops[r] + log2(totals[r]);
}

__kernel __attribute__((reqd_work_group_size(SIDE, SIDE, 1))) void attention_grad_query(
    __global const TYPE(TQ) *restrict q, ulong q_at, __global const TYPE(TQ) *restrict k,
    ulong k_at, __global const TYPE(TQ) *restrict v, ulong v_at,
    __global const int *restrict lengths, ulong lengths_at,
    __global const TYPE(TBIAS) *restrict bias, ulong bias_at, __global const TYPE(TQ) *restrict d_o,
    ulong d_o_at, __global const float *restrict lse, ulong lse_at,
    __global const float *restrict delta, ulong delta_at, __global TYPE(TQ) *restrict dq,
    ulong dq_at, attention_shape s) {
    __local float left[CHUNK][TILE + 1], right[CHUNK][TILE + 1], p[TILE][TILE + 1];
    const int x = get_local_id(0), y = get_local_id(1);
    const int first = get_group_id(0) * TILE, index = get_group_id(1);
    const attention_place at = place_of(index, &s);
    const int keys = key_limit(lengths + lengths_at, at.i0, &s);
    const int rows = min(TILE, s.queries - first);
    const float factor[2] = {s.scale, s.scale};
    float out[2][OWN];
    clear(out);
    q += q_at + start_of(s.q, at) + (size_t)first * s.q[2];
    k += k_at + start_of(s.k, at);
    v += v_at + start_of(s.v, at);
    d_o += d_o_at + start_of(s.d_o, at) + (size_t)first * s.d_o[2];
    lse += lse_at + (size_t)index * s.queries + first;
    delta += delta_at + (size_t)index * s.queries + first;
    bias += bias_start(&s, at, bias_at) + (size_t)first * s.bias[3];
    for (int key = 0; key < keys; key += TILE) {
        const int count = min(TILE, keys - key);
        float sum[2][2], more[2][2];
        dot_tile(q, s.q[2], rows, k + (size_t)key * s.k[2], s.k[2], count, left, right, sum);
        dot_tile(d_o, s.d_o[2], rows, v + (size_t)key * s.v[2], s.v[2], count, left, right, more);
        for (int a = 0; a < 2; a++)
            for (int b = 0; b < 2; b++) {
                const int row = y + a * SIDE, column = x + b * SIDE;
                float ds = 0.0f;
                if (row < rows && column < count) {
                    const float score =
                        scaled(sum[a][b], &s, bias,
                               (size_t)row * s.bias[3] + (size_t)(key + column) * s.bias[4]);
                    ds = exp2(score - based(lse[row])) * (more[a][b] - delta[row]);
                }
                p[row][column] = ds;
            }
        barrier(CLK_LOCAL_MEM_FENCE);
        add_tile(p, k + (size_t)key * s.k[2], s.k[2], count, out);
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    store_tile(dq + dq_at + start_of(s.o, at) + (size_t)first * s.o[2], s.o[2], rows, out, factor);
}

/* dk and dv lie alike, in steps s.o. */
__kernel __attribute__((reqd_work_group_size(SIDE, SIDE, 1))) void attention_grad_key(
    __global const TYPE(TQ) *restrict q, ulong q_at, __global const TYPE(TQ) *restrict k,
    ulong k_at, __global const TYPE(TQ) *restrict v, ulong v_at,
    __global const int *restrict lengths, ulong lengths_at,
    __global const TYPE(TBIAS) *restrict bias, ulong bias_at, __global const TYPE(TQ) *restrict d_o,
    ulong d_o_at, __global const float *restrict lse, ulong lse_at,
    __global const float *restrict delta, ulong delta_at, __global TYPE(TQ) *restrict dk,
    ulong dk_at, __global TYPE(TQ) *restrict dv, ulong dv_at, attention_shape s) {
    __local float left[CHUNK][TILE + 1], right[CHUNK][TILE + 1];
    __local float p[TILE][TILE + 1], d_score[TILE][TILE + 1];
    const int x = get_local_id(0), y = get_local_id(1);
    const int first = get_group_id(0) * TILE, index = get_group_id(1);
    const attention_place at = place_of(index, &s);
    const int keys = key_limit(lengths + lengths_at, at.i0, &s);
    const int rows = min(TILE, s.keys - first);
    const float one[2] = {1.0f, 1.0f}, factor[2] = {s.scale, s.scale};
    float d_key[2][OWN], d_value[2][OWN];
    clear(d_key);
    clear(d_value);
    q += q_at + start_of(s.q, at);
    k += k_at + start_of(s.k, at) + (size_t)first * s.k[2];
    v += v_at + start_of(s.v, at) + (size_t)first * s.v[2];
    d_o += d_o_at + start_of(s.d_o, at);
    lse += lse_at + (size_t)index * s.queries;
    delta += delta_at + (size_t)index * s.queries;
    bias += bias_start(&s, at, bias_at) + (size_t)first * s.bias[4];
    for (int query = 0; query < s.queries; query += TILE) {
        const int count = min(TILE, s.queries - query);
        float sum[2][2], more[2][2];
        dot_tile(k, s.k[2], rows, q + (size_t)query * s.q[2], s.q[2], count, left, right, sum);
        dot_tile(v, s.v[2], rows, d_o + (size_t)query * s.d_o[2], s.d_o[2], count, left, right,
                 more);
        for (int a = 0; a < 2; a++)
            for (int b = 0; b < 2; b++) {
                const int row = y + a * SIDE, column = x + b * SIDE;
                float e = 0.0f, ds = 0.0f;
                if (first + row < keys && column < count) {
                    const float score =
                        scaled(sum[a][b], &s, bias,
                               (size_t)(query + column) * s.bias[3] + (size_t)row * s.bias[4]);
                    e = exp2(score - based(lse[query + column]));
                    ds = e * (more[a][b] - delta[query + column]);
                }
                p[row][column] = e;
                d_score[row][column] = ds;
            }
        barrier(CLK_LOCAL_MEM_FENCE);
        add_tile(p, d_o + (size_t)query * s.d_o[2], s.d_o[2], count, d_value);
        add_tile(d_score, q + (size_t)query * s.q[2], s.q[2], count, d_key);
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    const size_t to = start_of(s.o, at) + (size_t)first * s.o[2];
    store_tile(dv + dv_at + to, s.o[2], rows, d_value, one);
    store_tile(dk + dk_at + to, s.o[2], rows, d_key, factor);
}
