/* What the attention kernels are told of a call; attention.c has the same fields. */
typedef struct {
    int b1, heads, queries, keys;
    /* of batch, batch, token, head; of the bias: batch, batch, head, query, key */
    int q[4], k[4], v[4], o[4], d_o[4], bias[5];
    float scale;
    int has_lengths, has_bias;
} attention_shape;

typedef struct {
    int i0, i1, h;
} attention_place;

attention_place place_of(int index, const attention_shape *s) {
    const attention_place at = {index / s->heads / s->b1, index / s->heads % s->b1,
                                index % s->heads};
    return at;
}

size_t start_of(const int *steps, attention_place at) {
    return (size_t)at.i0 * steps[0] + (size_t)at.i1 * steps[1] + (size_t)at.h * steps[3];
}

size_t bias_start(const attention_shape *s, attention_place at, ulong bias_at) {
    return bias_at + (size_t)at.i0 * s->bias[0] + (size_t)at.i1 * s->bias[1] +
           (size_t)at.h * s->bias[2];
}
