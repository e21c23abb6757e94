/* Products in registers (panels.cl), for product.c and the convolutions. */
#ifndef KIN_BACKENDS_OPENCL_PANELS_H
#define KIN_BACKENDS_OPENCL_PANELS_H

#include "backends/opencl/product.h"

size_t kin_opencl_panels_scratch(const kin_device *device, const kin_opencl_product *product);
kin_status kin_opencl_panels_launch(kin_device *device, kin_commands *commands,
                                    const kin_call *call, const kin_opencl_product *product);

/* ---- the two kernels, which convolutions are made of, too ---- */

/* As in panels.cl. */
typedef struct kin_opencl_panels_shape {
    cl_int rows, columns, depth;
    cl_int first;
    cl_int s_tile, s_row, s_depth;
    cl_int c_row, c_column;
    cl_int row_tiles, column_tiles;
    cl_int bias;
    cl_int accumulate;
    cl_int batch, rank, dims[KIN_OPENCL_BATCH_AXES], s_steps[KIN_OPENCL_BATCH_AXES];
    cl_int v_tile;
    cl_int v_step, c_step;
} kin_opencl_panels_shape;

/* As in panels_pack.cl. */
typedef struct kin_opencl_pack_shape {
    cl_int columns, depth;
    cl_int column_step, depth_step;
    cl_int inner, outer_step;
    cl_int batch, rank, dims[KIN_OPENCL_BATCH_AXES], steps[KIN_OPENCL_BATCH_AXES];
    cl_int to_step;
} kin_opencl_pack_shape;

/* Packs `count` matrices into panels of `width` columns. table NULL: by inner and outer_step. */
kin_status kin_opencl_pack(kin_device *device, kin_commands *commands, kin_opencl_place from,
                           kin_opencl_place to, const kin_opencl_place *table, int width, int count,
                           const kin_opencl_pack_shape *shape);
/* Multiplies s with packed v, `count` products. The numbers of tiles are filled in. bias and table
 * may be NULL. */
kin_status kin_opencl_multiply(kin_device *device, kin_commands *commands, kin_opencl_place s,
                               kin_opencl_place v, kin_opencl_place c, const kin_operand *bias,
                               const kin_opencl_place *table, int count,
                               const kin_opencl_panels_shape *shape);
/* Columns of a panel of v. */
int kin_opencl_panel_width(const kin_device *device);

#endif
