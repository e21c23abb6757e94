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

/* An operand of the epilogue, broadcast to the result: element (row, column) lies column *
 * column_step elements behind the sum of the steps of the row's places on its axes, last axis
 * first. Rows are counted through the whole batch. */
typedef struct kin_cuda_rows {
    const void *data;
    kin_dtype dtype;
    int rank;
    int64_t dims[KIN_MAX_RANK], steps[KIN_MAX_RANK];
    int64_t column_step;
} kin_cuda_rows;

/* c [rows, columns] = residual + gate * activation(a [rows, depth] b [depth, columns] + bias
 * [columns]), for each product of the batch, whose axes are in the order last to first. c may lie
 * on a residual of its dtype that is dense. a is f32, f16 or bf16; b may be q8_0, too, if one of
 * its steps is 1 and rows are whole blocks. c is dense, the products one after the other. */
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
    int activation; /* kin_activation */
    bool has_residual, has_gate;
    kin_cuda_rows residual, gate;
} kin_cuda_product;

/* Scratch memory that the product wants: cuBLASLt's workspace. It follows from the shape alone. */
size_t kin_cuda_product_scratch(const kin_device *device, const kin_cuda_product *product);
/* While planning: true if the product runs at the speed that it has without activation, gate and
 * residual and with a result of a's dtype. What cuBLASLt does then, it must do with them, too, with
 * operands at `offsets` (a, b, bias, residual; bytes) from the start of their memory. */
bool kin_cuda_product_pays(const kin_device *device, const kin_cuda_product *product,
                           const size_t offsets[4]);
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
