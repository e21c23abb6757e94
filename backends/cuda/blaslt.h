/* Products by cuBLASLt, which is loaded when a device is opened, and only if it is there. */
#ifndef KIN_BACKENDS_CUDA_BLASLT_H
#define KIN_BACKENDS_CUDA_BLASLT_H

#include "backends/cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* d = act(op(a) op(b) + c + a bias for each row of d): column-major, as the library counts. a is
 * stored m x k, or k x m if it is across; b k x n, or n x k. Steps (from product to product of a
 * batch) and leading dimensions are in elements. */
typedef struct kin_cuda_blaslt_shape {
    kin_dtype operands, result; /* of a and b: f32, f16, bf16; of d: the same or f32 */
    bool a_across, b_across;
    bool bias; /* of the result's dtype */
    bool adds; /* c, which lies as d does, or is d */
    bool gelu; /* act: GELU in the form with tanh, which the library's is; not together with adds */
    int64_t m, n, k, batch;
    int64_t a_lead, b_lead, d_lead;
    int64_t a_step, b_step, d_step;
    /* bytes; filled in by kin_cuda_blaslt_add */
    uint32_t a_alignment, b_alignment, c_alignment, d_alignment, bias_alignment;
    size_t workspace; /* bytes that it may use */
} kin_cuda_blaslt_shape;

/* Addresses; c, bias and workspace may be NULL if the shape does not ask for them. */
typedef struct kin_cuda_blaslt_data {
    const void *a, *b, *c;
    void *d;
    const void *bias;
    void *workspace;
} kin_cuda_blaslt_data;

/* Opens the library for the device. That it is not there is no error: state->blaslt stays NULL and
 * the log says so. The setting cuda.products=own leaves it alone; cuda.cublaslt=FILE says which
 * file it is. */
kin_status kin_cuda_blaslt_open(kin_device *device);
void kin_cuda_blaslt_close(kin_device *device);

/* Appends the product, if the library has a way to do it: *out_taken. Without `commands` the
 * library is asked and nothing appended; then addresses stand for their alignment alone. */
kin_status kin_cuda_blaslt_add(kin_device *device, kin_commands *commands,
                               const kin_cuda_blaslt_shape *shape, const kin_cuda_blaslt_data *data,
                               bool *out_taken);

/* ---- the library's functions and numbers, as its header has them (blaslt_library.c compares) ----
 */

enum {
    KIN_LT_R_32F = 0,
    KIN_LT_R_16F = 2,
    KIN_LT_R_16BF = 14,
    KIN_LT_COMPUTE_32F = 68,
    KIN_LT_COMPUTE_32F_FAST_TF32 = 77,
    KIN_LT_OP_N = 0,
    KIN_LT_OP_T = 1,
    KIN_LT_LAYOUT_BATCH_COUNT = 5,
    KIN_LT_LAYOUT_STRIDED_BATCH_OFFSET = 6,
    KIN_LT_DESC_TRANSA = 3,
    KIN_LT_DESC_TRANSB = 4,
    KIN_LT_DESC_EPILOGUE = 7,
    KIN_LT_DESC_BIAS_POINTER = 8,
    KIN_LT_DESC_BIAS_DATA_TYPE = 26,
    KIN_LT_EPILOGUE_DEFAULT = 1,
    KIN_LT_EPILOGUE_BIAS = 4,
    KIN_LT_EPILOGUE_GELU = 32,
    KIN_LT_EPILOGUE_GELU_BIAS = 36,
    KIN_LT_PREF_MAX_WORKSPACE_BYTES = 1,
    KIN_LT_PREF_REDUCTION_SCHEME_MASK = 3,
    KIN_LT_PREF_MIN_ALIGNMENT_A_BYTES = 5,
    KIN_LT_PREF_MIN_ALIGNMENT_B_BYTES = 6,
    KIN_LT_PREF_MIN_ALIGNMENT_C_BYTES = 7,
    KIN_LT_PREF_MIN_ALIGNMENT_D_BYTES = 8,
    KIN_LT_REDUCTION_COMPUTE_TYPE = 2
};

typedef struct kin_lt_algo {
    uint64_t data[8];
} kin_lt_algo;

typedef struct kin_lt_heuristic {
    kin_lt_algo algo;
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
} kin_lt_heuristic;

typedef struct kin_lt_functions {
    int (*create)(void **out_handle);
    int (*destroy)(void *handle);
    const char *(*status_name)(int status);
    int (*layout_create)(void **out, int type, uint64_t rows, uint64_t columns, int64_t lead);
    int (*layout_destroy)(void *layout);
    int (*layout_set)(void *layout, int attribute, const void *value, size_t size);
    int (*desc_create)(void **out, int compute, int scale_type);
    int (*desc_destroy)(void *desc);
    int (*desc_set)(void *desc, int attribute, const void *value, size_t size);
    int (*preference_create)(void **out);
    int (*preference_destroy)(void *preference);
    int (*preference_set)(void *preference, int attribute, const void *value, size_t size);
    int (*heuristic)(void *handle, void *desc, void *a, void *b, void *c, void *d, void *preference,
                     int wanted, kin_lt_heuristic *out, int *out_count);
    int (*matmul)(void *handle, void *desc, const void *alpha, const void *a, void *a_layout,
                  const void *b, void *b_layout, const void *beta, const void *c, void *c_layout,
                  void *d, void *d_layout, const kin_lt_algo *algo, void *workspace,
                  size_t workspace_size, void *stream);
} kin_lt_functions;

/* Loads the functions (blaslt_library.c, or emulator_blaslt.c): file may be NULL for the usual
 * ones. False if they are not to be had, with why. *out_library is what kin_lt_unload takes. */
bool kin_lt_load(const char *file, kin_lt_functions *out, void **out_library, const char **out_why);
void kin_lt_unload(void *library);

#ifdef __cplusplus
}
#endif
#endif
