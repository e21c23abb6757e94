/* What attention needs beside its main kernels. Options: D, TQ, TBIAS. */
#define LOG2_E 1.44269504088896341f

/* A dense copy in floats of x [b0, b1, tokens, heads, D], one row of D an item. */
typedef struct {
    int b1, tokens, heads, steps[4], count;
} rows_shape;

__kernel void attention_rows(__global const TYPE(TQ) *x, ulong x_at, __global float *y, ulong y_at,
                             rows_shape s) {
    const int id = get_global_id(0);
    if (id >= s.count) return;
    const int h = id % s.heads, n = id / s.heads % s.tokens, b = id / s.heads / s.tokens;
    x += x_at + (size_t)(b / s.b1) * s.steps[0] + (size_t)(b % s.b1) * s.steps[1] +
         (size_t)n * s.steps[2] + (size_t)h * s.steps[3];
    y += y_at + (size_t)id * D;
    for (int d = 0; d < D; d++) y[d] = LOAD(TQ, x, d);
}

/* delta [b0, b1, h, query] = o . d_o - d_lse log2(e). */
typedef struct {
    int b1, queries, heads, o[4], d_o[4], count, has_d_lse;
} delta_shape;

__kernel void attention_delta(__global const TYPE(TQ) *o, ulong o_at,
                              __global const TYPE(TQ) *d_o, ulong d_o_at,
                              __global const float *d_lse, ulong d_lse_at, __global float *delta,
                              ulong delta_at, delta_shape s) {
    const int id = get_global_id(0);
    if (id >= s.count) return;
    const int n = id % s.queries, h = id / s.queries % s.heads, b = id / s.queries / s.heads;
    const int i0 = b / s.b1, i1 = b % s.b1;
    o += o_at + (size_t)i0 * s.o[0] + (size_t)i1 * s.o[1] + (size_t)n * s.o[2] + (size_t)h * s.o[3];
    d_o += d_o_at + (size_t)i0 * s.d_o[0] + (size_t)i1 * s.d_o[1] + (size_t)n * s.d_o[2] +
           (size_t)h * s.d_o[3];
    float sum = 0.0f;
    for (int d = 0; d < D; d++) sum = fma(LOAD(TQ, o, d), LOAD(TQ, d_o, d), sum);
    if (s.has_d_lse) sum -= d_lse[d_lse_at + id] * LOG2_E;
    delta[delta_at + id] = sum;
}

/* The gradient of the bias: one element an item, which sums over the axes along which the bias
 * repeats, in their order. dims: of the bias; steps: of q, k, v, d_o (batch, batch, token, head)
 * and of the bias. */
typedef struct {
    int b0, b1, heads, queries, keys;
    int q[4], k[4], v[4], d_o[4], bias[5], dims[5];
    int count;
    float scale;
    int has_lengths;
} bias_shape;

size_t row_at(const int *steps, int i0, int i1, int n, int h) {
    return (size_t)i0 * steps[0] + (size_t)i1 * steps[1] + (size_t)n * steps[2] +
           (size_t)h * steps[3];
}

__kernel void attention_grad_bias(
    __global const TYPE(TQ) *q, ulong q_at, __global const TYPE(TQ) *k, ulong k_at,
    __global const TYPE(TQ) *v, ulong v_at, __global const int *lengths, ulong lengths_at,
    __global const TYPE(TBIAS) *bias, ulong bias_at, __global const TYPE(TQ) *d_o, ulong d_o_at,
    __global const float *lse, ulong lse_at, __global const float *delta, ulong delta_at,
    __global TYPE(TBIAS) *d_bias, ulong d_bias_at, bias_shape s) {
    const int id = get_global_id(0);
    if (id >= s.count) return;
    const int full[5] = {s.b0, s.b1, s.heads, s.queries, s.keys};
    int from[5], end[5], rest = id;
    for (int a = 4; a >= 0; a--) {
        from[a] = rest % s.dims[a];
        rest /= s.dims[a];
        end[a] = s.dims[a] == 1 ? full[a] : from[a] + 1;
    }
    float total = 0.0f;
    for (int i0 = from[0]; i0 < end[0]; i0++)
        for (int i1 = from[1]; i1 < end[1]; i1++)
            for (int h = from[2]; h < end[2]; h++)
                for (int n = from[3]; n < end[3]; n++) {
                    const size_t row = (((size_t)i0 * s.b1 + i1) * s.heads + h) * s.queries + n;
                    const size_t q_row = q_at + row_at(s.q, i0, i1, n, h);
                    const size_t d_o_row = d_o_at + row_at(s.d_o, i0, i1, n, h);
                    const float base = lse[lse_at + row], less = delta[delta_at + row];
                    const int limit =
                        s.has_lengths ? min(end[4], lengths[lengths_at + i0]) : end[4];
                    float sum = 0.0f;
                    for (int j = from[4]; j < limit; j++) {
                        const size_t k_row = k_at + row_at(s.k, i0, i1, j, h);
                        const size_t v_row = v_at + row_at(s.v, i0, i1, j, h);
                        float score = 0.0f, more = -less;
                        for (int d = 0; d < D; d++) {
                            score = fma(LOAD(TQ, q, q_row + d), LOAD(TQ, k, k_row + d), score);
                            more = fma(LOAD(TQ, d_o, d_o_row + d), LOAD(TQ, v, v_row + d), more);
                        }
                        const size_t at = (size_t)i0 * s.bias[0] + (size_t)i1 * s.bias[1] +
                                          (size_t)h * s.bias[2] + (size_t)n * s.bias[3] +
                                          (size_t)j * s.bias[4];
                        score = (score * s.scale + LOAD(TBIAS, bias, bias_at + at)) * LOG2_E;
                        sum += exp2(score - (base == -INFINITY ? 0.0f : base)) * more;
                    }
                    total += sum;
                }
    STORE(TBIAS, d_bias, d_bias_at + id, total);
}
