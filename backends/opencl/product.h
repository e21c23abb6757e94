/* Matrix products of any strides and storage types, one or a batch of them. */
#ifndef KIN_BACKENDS_OPENCL_PRODUCT_H
#define KIN_BACKENDS_OPENCL_PRODUCT_H

#include "backends/opencl/tuning.h"

enum { KIN_OPENCL_BATCH_AXES = 6 };

/* Element (i, j) of product b lies row_step i + column_step j elements, and for each axis of the
 * batch its step, from the operand's element 0. */
typedef struct kin_opencl_matrix {
    const kin_operand *operand;
    int row_step, column_step;
    int steps[KIN_OPENCL_BATCH_AXES];
} kin_opencl_matrix;

/* c [rows, columns] = a [rows, depth] b [depth, columns] + bias [columns], for each product of the
 * batch, whose axes are in the order last to first. a is f32, f16 or bf16; b may be q8_0, too, if
 * one of its steps is 1 and rows are whole blocks. c is dense, the products one after the other. */
typedef struct kin_opencl_product {
    int rows, columns, depth;
    kin_opencl_matrix a, b;
    const kin_operand *c;
    const kin_operand *bias; /* NULL: none */
    int rank;
    int dims[KIN_OPENCL_BATCH_AXES];
} kin_opencl_product;

size_t kin_opencl_product_scratch(const kin_device *device, const kin_opencl_product *product);
/* Records the product; the call has the scratch memory. */
kin_status kin_opencl_product_launch(kin_device *device, kin_commands *commands,
                                     const kin_call *call, const kin_opencl_product *product);

/* ---- the parts that convolutions are made of, too ---- */

/* Memory for a kernel's argument. */
typedef struct kin_opencl_place {
    const kin_buffer *buffer;
    size_t offset; /* bytes */
    kin_dtype dtype;
} kin_opencl_place;

/* `skip` elements behind an operand's element 0. */
kin_opencl_place kin_opencl_place_of(const kin_operand *operand, int64_t skip);
/* `skip` bytes behind the call's scratch memory. */
kin_opencl_place kin_opencl_scratch_place(const kin_call *call, size_t skip, kin_dtype dtype);

void kin_opencl_set_place(kin_opencl_launch *launch, const kin_opencl_place *place);

/* As in tiles.cl. */
typedef struct kin_opencl_tiles_shape {
    cl_int rows, columns, depth;
    cl_int a_row, a_depth, b_depth, b_column, c_row, c_column;
    cl_int bias;
    cl_int accumulate;
    cl_int rank, dims[KIN_OPENCL_BATCH_AXES];
    cl_int a_steps[KIN_OPENCL_BATCH_AXES], b_steps[KIN_OPENCL_BATCH_AXES];
    cl_int c_step;
} kin_opencl_tiles_shape;

/* `count` products by tiles in local memory. bias and table may be NULL. */
kin_status kin_opencl_tiles(kin_device *device, kin_commands *commands, kin_opencl_place a,
                            kin_opencl_place b, kin_opencl_place c, const kin_operand *bias,
                            const kin_opencl_place *table, int count,
                            const kin_opencl_tiles_shape *shape);

#endif
