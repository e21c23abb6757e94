/* Matrix products of any strides and storage types, accumulated in f32; one table per instruction
 * set. Results do not depend on the number of threads.
 */
#ifndef KIN_BACKENDS_CPU_GEMM_H
#define KIN_BACKENDS_CPU_GEMM_H

#include "backends/cpu/cpu_isa.h"
#include "backends/cpu/epilogue.h"
#include "runtime/tensor.h"

/* Element (i, j) is data[i * row_stride + j * column_stride]; strides in elements. dtype is f32,
 * f16, bf16, or Q8_0 (then one stride is 1, and the other a multiple of 32). */
typedef struct cpu_matrix {
    const void *data;
    kin_dtype dtype;
    int64_t row_stride, column_stride;
} cpu_matrix;

/* c [m, n] = a [m, k] b [k, n] + bias [n], and then the epilogue, if there is one. Rows of c are
 * dense, c_stride apart. c may lie on a residual of its own dtype and strides. */
typedef struct cpu_gemm_call {
    int64_t m, n, k;
    cpu_matrix a, b;
    void *c;
    kin_dtype c_dtype; /* f32, f16 or bf16 */
    int64_t c_stride;
    const void *bias; /* NULL: none */
    kin_dtype bias_dtype;
    const cpu_epilogue *epilogue; /* NULL: none */
    int64_t first_row;            /* of c in the result that the epilogue's operands belong to */
} cpu_gemm_call;

typedef struct cpu_gemm_table {
    /* Bytes of scratch that one thread needs for products up to this size; aligned to 64. */
    size_t (*scratch)(int64_t m, int64_t n, int64_t k);
    /* One product on up to `threads` threads; scratch has `threads` times as many bytes. */
    void (*run)(const cpu_gemm_call *call, void *scratch, int threads);
    /* The epilogue alone, on a c of f32 that holds the product. */
    void (*finish)(const cpu_gemm_call *call, int threads);
} cpu_gemm_table;

extern const cpu_gemm_table cpu_gemm_generic;
extern const cpu_gemm_table cpu_gemm_avx2;
extern const cpu_gemm_table cpu_gemm_avx512;

#endif
