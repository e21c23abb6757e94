/* Matrix products of any strides and storage types, one or a batch of them. */
#ifndef KIN_BACKENDS_CUDA_PRODUCT_H
#define KIN_BACKENDS_CUDA_PRODUCT_H

#include "backends/cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { KIN_CUDA_BATCH_AXES = 6 };

/* Element (i, j) of product p lies row_step i + column_step j elements, and for each axis of the
 * batch its step, from the operand's element 0. */
typedef struct kin_cuda_matrix {
    const void *data; /* NULL while planning */
    kin_dtype dtype;
    int64_t row_step, column_step;
    int64_t steps[KIN_CUDA_BATCH_AXES];
} kin_cuda_matrix;

/* c [rows, columns] = a [rows, depth] b [depth, columns] + bias [columns], for each product of the
 * batch, whose axes are in the order last to first. a is f32, f16 or bf16; b may be q8_0, too, if
 * one of its steps is 1 and rows are whole blocks. c is dense, the products one after the other. */
typedef struct kin_cuda_product {
    int64_t rows, columns, depth;
    kin_cuda_matrix a, b;
    void *c;
    kin_dtype c_dtype;
    const void *bias; /* its elements side by side */
    kin_dtype bias_dtype;
    bool has_bias;
    int rank;
    int64_t dims[KIN_CUDA_BATCH_AXES];
} kin_cuda_product;

/* Scratch memory that the product wants: cuBLASLt's workspace. It follows from the shape alone. */
size_t kin_cuda_product_scratch(const kin_device *device, const kin_cuda_product *product);
/* Records the product, with `scratch` of that size. */
kin_status kin_cuda_product_add(kin_device *device, kin_commands *commands,
                                const kin_cuda_product *product, void *scratch);

/* The plain kernel that takes everything (tiles.cu). */
kin_status kin_cuda_tiles(kin_device *device, kin_commands *commands,
                          const kin_cuda_product *product);

#ifdef __cplusplus
}
#endif
#endif
