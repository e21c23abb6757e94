/* What the kernels of attention share: their arguments, and where rows and biases lie. */
#ifndef KIN_BACKENDS_CUDA_ATTENTION_CUH
#define KIN_BACKENDS_CUDA_ATTENTION_CUH

#include "backends/cuda/device.cuh"
#include "backends/cuda/launch.cuh"

/* Inputs of attention and of attention_grad. */
enum { ATTENTION_Q, ATTENTION_K, ATTENTION_V, ATTENTION_LENGTHS, ATTENTION_BIAS };
enum {
    ATTENTION_O = 3,
    ATTENTION_LSE,
    ATTENTION_D_O,
    ATTENTION_D_LSE,
    ATTENTION_GRAD_LENGTHS,
    ATTENTION_GRAD_BIAS
};

#define ATTENTION_LOG2_E 1.44269504088896341f

/* A tensor of rows [B0, B1, N, H] of `size` adjacent elements. Steps in elements: batch, batch,
 * token, head. */
struct attention_rows {
    void *data;
    int64_t steps[4];
};

/* One call. Rows that an op does not have are left empty. */
struct attention_args {
    int b0, b1, heads, queries, keys, size;
    float scale;
    attention_rows q, k, v, o, d_o, d_q, d_k, d_v;
    float *lse;         /* [B0, B1, H, Nq], in powers of 2; -infinity where no key takes
                           part */
    const float *d_lse; /* of the same shape, or NULL */
    float *delta;       /* of the same shape: sum o d_o - d_lse log2(e) */
    const int *lengths; /* [B0] or NULL */
    const void *bias;   /* NULL: none */
    int bias_dtype;
    int64_t bias_steps[5]; /* batch, batch, head, query, key; 0 where the bias
                              repeats */
};

/* One head of one sample. Heads go fastest: neighbouring blocks read neighbouring memory. */
struct attention_place {
    int i0, i1, h;
};

static __device__ __forceinline__ attention_place attention_place_of(const attention_args &a,
                                                                     int64_t index) {
    attention_place at;
    at.h = (int)(index % a.heads);
    index /= a.heads;
    at.i1 = (int)(index % a.b1);
    at.i0 = (int)(index / a.b1);
    return at;
}

/* Row 0 of a head. */
template <typename T>
static __device__ __forceinline__ T *attention_start(const attention_rows &rows,
                                                     attention_place at) {
    return static_cast<T *>(rows.data) + at.i0 * rows.steps[0] + at.i1 * rows.steps[1] +
           at.h * rows.steps[3];
}

/* Keys that take part. */
static __device__ __forceinline__ int attention_limit(const attention_args &a, attention_place at) {
    return a.lengths == nullptr ? a.keys : max(0, min(a.lengths[at.i0], a.keys));
}

/* Element 0 of a head in lse and its like. */
static __device__ __forceinline__ int64_t attention_lse_at(const attention_args &a,
                                                           attention_place at) {
    return (((int64_t)at.i0 * a.b1 + at.i1) * a.heads + at.h) * a.queries;
}

static __device__ __forceinline__ int64_t attention_bias_start(const attention_args &a,
                                                               attention_place at) {
    return at.i0 * a.bias_steps[0] + at.i1 * a.bias_steps[1] + at.h * a.bias_steps[2];
}

static __device__ __forceinline__ float attention_bias_value(const attention_args &a, int64_t at) {
    if (a.bias_dtype == KIN_F32) return static_cast<const float *>(a.bias)[at];
    if (a.bias_dtype == KIN_BF16) return kin_value(static_cast<const kin_bf16 *>(a.bias)[at]);
    return kin_value(static_cast<const kin_f16 *>(a.bias)[at]);
}

/* The bias of a score that counts in powers of 2. `start` is attention_bias_start. */
static __device__ __forceinline__ float attention_bias_of(const attention_args &a, int64_t start,
                                                          int query, int key) {
    return attention_bias_value(a, start + query * a.bias_steps[3] + key * a.bias_steps[4]) *
           ATTENTION_LOG2_E;
}

/* Where no key takes part the sum is 0 and its logarithm -infinity; scores there are -infinity too,
 * and must give the weight 0. */
static __device__ __forceinline__ float attention_base(float top) {
    return top == -INFINITY ? 0.0f : top;
}

/* ---- a call of attention (attention.cu), for rows that stand in front of its own ---- */

bool attention_can_forward(const kin_device *device, const kin_call *call);
attention_args attention_forward_args(const kin_call *call);
/* True if the kernels with mma take it: f16 or bf16, heads up to ATTENTION_MMA_MOST that are a
 * multiple of 8, every row at a multiple of 16 bytes, a positive scale. */
bool attention_is_aligned(const attention_args *args, kin_dtype dtype);
kin_status attention_launch_forward(kin_device *device, kin_commands *commands,
                                    const kin_call *call);

/* ---- variants: each records a call, or says KIN_UNSUPPORTED where it cannot serve ---- */

/* attention_plain.cu: any storage, head sizes up to 512, in f32. */
enum { ATTENTION_PLAIN_MOST = 512 };
kin_status attention_plain_forward(kin_device *device, kin_commands *commands, kin_dtype dtype,
                                   const attention_args *args);
kin_status attention_plain_delta(kin_device *device, kin_commands *commands, kin_dtype dtype,
                                 const attention_args *args);
kin_status attention_plain_grad(kin_device *device, kin_commands *commands, kin_dtype dtype,
                                const attention_args *args);
/* The gradient of the bias, whose sizes are `dims` (batch, batch, head, query, key), to out. */
kin_status attention_plain_bias(kin_device *device, kin_commands *commands, kin_dtype dtype,
                                const attention_args *args, const int dims[5], void *out);

/* attention_mma_*.cu: f16 and bf16, head sizes up to 128 that are multiples of 8, rows at multiples
 * of 16 bytes, a positive scale. The gradient takes delta. */
enum { ATTENTION_MMA_MOST = 128 };
kin_status attention_mma_forward(kin_device *device, kin_commands *commands, kin_dtype dtype,
                                 const attention_args *args);
kin_status attention_mma_grad(kin_device *device, kin_commands *commands, kin_dtype dtype,
                              const attention_args *args);

/* What self_attention does to q and k before their products. Empty: nothing. */
struct attention_prepare {
    kin_ref q_gain, k_gain; /* [size], at multiples of 16 bytes; or without data: no norms */
    float eps;
    const float *turns; /* [tokens][size]: cosine and sine of each pair (2i, 2i + 1); or NULL */
    float *gain_parts;  /* gradient with norms: [attention_short_blocks][2][size] */
};

/* attention_short.cu: as the former, for at most 128 queries and keys whose tiles fit into shared
 * memory; and q and k may be prepared, if there are as many of one as of the other and no lengths.
 * The gradient makes its own delta. */
enum { ATTENTION_SHORT_MOST = 128 };
bool attention_short_takes(const kin_device *device, const attention_args *args, bool grad);
int64_t attention_short_blocks(const attention_args *args);
kin_status attention_short_forward(kin_device *device, kin_commands *commands, kin_dtype dtype,
                                   const attention_args *args, const attention_prepare *prepare);
kin_status attention_short_grad(kin_device *device, kin_commands *commands, kin_dtype dtype,
                                const attention_args *args, const attention_prepare *prepare);

#endif
