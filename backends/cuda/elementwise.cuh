/* The functions of ops/elementwise_expr.h in CUDA's f32. */
#ifndef KIN_BACKENDS_CUDA_ELEMENTWISE_CUH
#define KIN_BACKENDS_CUDA_ELEMENTWISE_CUH

#include "backends/cuda/device.cuh"

/* Beyond 9.02 it rounds to 1, and slopes count on that; CUDA allows 2 units. */
static __device__ __forceinline__ float full_tanh(float v) {
    return fabsf(v) > 9.02f ? copysignf(1.0f, v) : tanhf(v);
}
#define KX_C(c) (c##f)
#define KX_EXP(v) expf(v)
#define KX_LOG(v) logf(v)
#define KX_SQRT(v) sqrtf(v)
#define KX_SIN(v) sinf(v)
#define KX_COS(v) cosf(v)
#define KX_TANH(v) full_tanh(v)
#define KX_ERF(v) erff(v)
#define KX_SELECT(cond, v, w) ((cond) ? (v) : (w))
#include "ops/elementwise_expr.h"

#endif
