/* Attention on the CPU: o = softmax(scale q k^T + bias) v and its gradients, without the score
 * matrix. One set of functions per instruction set, in attention_*simd.c.
 *
 * Operands are strided: any stride for every axis but the head's own elements, which are adjacent.
 * Attention over the frames of tokens laid out [B,T,S,3,H,D] is b0 = B, b1 = S, n = T. Strides are
 * counted in elements; a stride of 0 repeats (inputs only).
 */
#ifndef KIN_BACKENDS_CPU_ATTENTION_H
#define KIN_BACKENDS_CPU_ATTENTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Element (i0, i1, n, h, d) of [B0,B1,N,H,D] is data[i0 b0 + i1 b1 + n n + h h + d]. */
typedef struct cpu_attention_input {
    const float *data;
    int64_t b0, b1, n, h;
} cpu_attention_input;

typedef struct cpu_attention_output {
    float *data;
    int64_t b0, b1, n, h;
} cpu_attention_output;

/* Strides of the additive bias [B0,B1,H,Nq,Nk]; 0 repeats it along an axis. */
typedef struct cpu_attention_bias {
    const float *data; /* NULL: none */
    int64_t b0, b1, h, q, k;
} cpu_attention_bias;

/* Its gradient; summed over the axes whose stride is 0. */
typedef struct cpu_attention_bias_gradient {
    float *data; /* NULL: not wanted */
    int64_t b0, b1, h, q, k;
} cpu_attention_bias_gradient;

/* What happens to q and k before their products (ops/self_attention.h). */
typedef struct cpu_attention_prepare {
    const float *turns;   /* [tokens][2][head_size]: for each element the cosine, and the sine that
                             its partner comes with (-s, s for a pair); NULL: not turned */
    int64_t axes;         /* of the turns: the head is cut in as many parts */
    bool interleaved;     /* pairs are neighbours, not half a part apart */
    const float *gain[2]; /* of q and k [head_size], adjacent; NULL: not normed */
    float eps;
} cpu_attention_prepare;

typedef struct cpu_attention_args {
    int64_t b0, b1, heads, queries, keys, head_size;
    float scale;
    const int32_t *lengths; /* [B0], or NULL: keys from lengths[i] on take no part in sample i */
    cpu_attention_input q, k, v;
    cpu_attention_bias bias;
    const cpu_attention_prepare *prepare; /* forward where it gathers; NULL: q and k as they are */

    /* Forward. A query without keys (length 0, or a bias of -infinity throughout) gives o = 0 and
     * lse = -infinity. */
    cpu_attention_output o;
    float *lse; /* [B0,B1,H,Nq], dense: log2 of the sum of exp(score) */

    /* Backward reads q, k, v, bias and these, and writes dq, dk, dv (all of them: 0 beyond the
     * length) and dbias. */
    cpu_attention_input saved_o, d_o;
    const float *saved_lse;
    const float *d_lse; /* gradient of lse, dense like it, or NULL: 0 */
    cpu_attention_output dq, dk, dv;
    cpu_attention_bias_gradient dbias;

    int threads;   /* at least 1; the results do not depend on it */
    void *scratch; /* as many bytes as scratch_bytes says */
} cpu_attention_args;

typedef struct cpu_attention_functions {
    /* Bytes of scratch for forward (backward 0) or backward (1); pointers are not looked at. */
    size_t (*scratch_bytes)(const cpu_attention_args *args, int backward);
    void (*forward)(const cpu_attention_args *args);
    void (*backward)(const cpu_attention_args *args);
    /* Whether forward brings all heads of a sequence together first: then it can prepare them. */
    bool (*gathers)(const cpu_attention_args *args);
    /* q and k prepared to to[2][B0][B1][N][H][D], which the arguments then name. */
    void (*prepare)(cpu_attention_args *args, const cpu_attention_prepare *prepare, float *to);
    /* dq and dk, of prepared rows, become those of q and k, in place. parts
     * [cpu_attention_back_parts][3][D] become shares of the gains' gradients, of q, of k; the
     * third row is room. */
    void (*back)(const cpu_attention_args *args, const cpu_attention_prepare *prepare,
                 float *parts);
} cpu_attention_functions;

/* Tokens whose share of the gains' gradients is summed by one task. */
enum { CPU_ATTENTION_BACK_TOKENS = 64 };
static inline int64_t cpu_attention_back_parts(const cpu_attention_args *args) {
    const int64_t tokens = args->b0 * args->b1 * args->queries;
    return (tokens + CPU_ATTENTION_BACK_TOKENS - 1) / CPU_ATTENTION_BACK_TOKENS;
}

extern const cpu_attention_functions cpu_attention_functions_avx512;
extern const cpu_attention_functions cpu_attention_functions_avx2;
extern const cpu_attention_functions cpu_attention_functions_generic;

#endif
