/* Which product a device gets, and with which tiles: a small table filled by measurement
 * (docs/benchmarks.md), with default rows for what was not measured. */
#ifndef KIN_BACKENDS_OPENCL_TUNING_H
#define KIN_BACKENDS_OPENCL_TUNING_H

#include "backends/opencl/opencl.h"

typedef enum kin_opencl_product_kind {
    KIN_OPENCL_PANELS, /* panels.cl: register tiles, one work-item a group */
    KIN_OPENCL_TILES,  /* tiles.cl: tiles in local memory */
    KIN_OPENCL_CLBLAST /* CLBlast where it takes the operands, else tiles */
} kin_opencl_product_kind;

typedef struct kin_opencl_tuning {
    const char *device; /* part of the device's name; "" fits all */
    bool cpu;           /* the row is for devices of the type CPU, or for all others */
    kin_opencl_product_kind product;
    int panel_rows[3];         /* rows of a register tile where V is 4, 8, 16 */
    int side, each, depth;     /* of tiles.cl */
    double clblast_operations; /* multiplications from which on CLBlast is asked */
} kin_opencl_tuning;

/* Fails if the setting opencl.product names no product. */
kin_status kin_opencl_check_tuning(kin_device *device);

/* The device's row. The setting opencl.product=panels|tiles|clblast takes the place of its product,
 * and tiles become smaller where the device's work-groups or local memory ask for it. */
kin_opencl_tuning kin_opencl_tuning_of(const kin_device *device);

/* Rows of a register tile: panel_rows for the device's vectors. */
int kin_opencl_panel_rows(const kin_device *device);

#endif
