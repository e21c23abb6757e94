/* Tensors' types: dtypes, shapes, strides, and tensors in host memory. */
#ifndef KIN_RUNTIME_TENSOR_H
#define KIN_RUNTIME_TENSOR_H

#include "runtime/context.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { KIN_MAX_RANK = 8 };

typedef enum kin_dtype {
    KIN_F32,
    KIN_F16,
    KIN_BF16,
    KIN_I32,
    KIN_I64,
    KIN_U8,
    KIN_BOOL,
    KIN_F64,  /* in files and in references only: no device kernel computes in it */
    KIN_Q8_0, /* blocks of 32 along the last axis: one f16 scale and 32 signed bytes, 34 bytes */
    KIN_DTYPE_COUNT
} kin_dtype;

/* Row-major in PyTorch's axis order. strides are in elements; 0 repeats an element (broadcast). */
typedef struct kin_desc {
    kin_dtype dtype;
    int rank; /* 0 is a scalar */
    int64_t dims[KIN_MAX_RANK];
    int64_t strides[KIN_MAX_RANK];
} kin_desc;

/* A tensor in host memory. data points at element 0 and belongs to whoever made it. */
typedef struct kin_host_tensor {
    kin_desc desc;
    void *data;
} kin_host_tensor;

/* A dense (contiguous, row-major) description. dims may be NULL for rank 0. */
KIN_API kin_desc kin_desc_dense(kin_dtype dtype, int rank, const int64_t *dims);
/* Number of elements; 1 for a scalar. */
KIN_API int64_t kin_desc_count(const kin_desc *desc);
/* Bytes of the dense form: for Q8_0 the last axis counts in blocks of 32, rounded up. */
KIN_API size_t kin_desc_bytes(const kin_desc *desc);
/* True if the elements lie densely in row-major order (axes of size 1 are ignored). */
KIN_API bool kin_desc_is_dense(const kin_desc *desc);
/* True if ranks and dims agree (dtype and strides are not looked at). */
KIN_API bool kin_desc_same_shape(const kin_desc *a, const kin_desc *b);
/* Writes "[2, 3, 4]" into text, cut to size, and returns text. */
KIN_API const char *kin_desc_shape_text(const kin_desc *desc, char *text, size_t size);

/* Bytes of one element; 0 for KIN_Q8_0. */
KIN_API size_t kin_dtype_size(kin_dtype dtype);
/* "f32", "bf16", ...; and back, false if there is no such dtype. */
KIN_API const char *kin_dtype_name(kin_dtype dtype);
KIN_API bool kin_dtype_from_name(const char *name, kin_dtype *out_dtype);
/* True for f32, f16, bf16, f64, q8_0. */
KIN_API bool kin_dtype_is_float(kin_dtype dtype);

/* Conversions of single values; rounding to nearest even, NaN stays NaN. */
KIN_API uint16_t kin_f32_to_bf16(float value);
KIN_API float kin_bf16_to_f32(uint16_t bits);
KIN_API uint16_t kin_f32_to_f16(float value);
KIN_API float kin_f16_to_f32(uint16_t bits);

/* Reads or writes element `index` (counted in memory from data, not by the strides) as a double. */
KIN_API double kin_element_get(const void *data, kin_dtype dtype, int64_t index);
KIN_API void kin_element_set(void *data, kin_dtype dtype, int64_t index, double value);

/* Converts `count` dense elements between any two dtypes but Q8_0, which is supported as a source
 * and as a target when the count is a multiple of 32. */
KIN_API void kin_convert(const void *source, kin_dtype source_dtype, void *target,
                         kin_dtype target_dtype, int64_t count);

/* A dense host tensor whose memory comes from the context; free with kin_host_tensor_free. */
KIN_API kin_status kin_host_tensor_create(kin_context *context, kin_dtype dtype, int rank,
                                          const int64_t *dims, kin_host_tensor *out_tensor);
KIN_API void kin_host_tensor_free(kin_context *context, kin_host_tensor *tensor);

#ifdef __cplusplus
}
#endif
#endif
