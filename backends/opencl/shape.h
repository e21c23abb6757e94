/* Shapes as kernels walk them: axes of several operands joined where they follow one another. */
#ifndef KIN_BACKENDS_OPENCL_SHAPE_H
#define KIN_BACKENDS_OPENCL_SHAPE_H

#include "backends/opencl/opencl.h"

enum { OPENCL_SHAPE_OPERANDS = 4 };

/* `count` operands over one set of axes; strides in elements, 0 where an operand is broadcast. */
typedef struct opencl_shape {
    int rank, count;
    int64_t dims[KIN_MAX_RANK];
    int64_t strides[OPENCL_SHAPE_OPERANDS][KIN_MAX_RANK];
} opencl_shape;

/* Operands are broadcast to dims. Axes of size 1 are dropped, and axes joined that follow one
 * another without a gap in every operand. */
opencl_shape opencl_shape_of(int rank, const int64_t *dims, int count, const kin_desc *const *in);
/* True if every operand lies densely in the order of the axes. */
bool opencl_shape_is_dense(const opencl_shape *shape);

/* As kernels take it: `map_shape` of common.cl. */
typedef struct opencl_map_shape {
    cl_int dims[KIN_MAX_RANK];
    cl_int strides[OPENCL_SHAPE_OPERANDS][KIN_MAX_RANK];
    cl_int count; /* elements */
} opencl_map_shape;

void opencl_set_shape(kin_opencl_launch *launch, const opencl_shape *shape);

/* A launch with one work-item for each element: the options that say how (" -DRANK=... ...", at
 * most 112 characters), and its end. */
enum { OPENCL_MAP_DEFINES = 112 };
void opencl_map_defines(const opencl_shape *shape, char text[OPENCL_MAP_DEFINES]);
kin_status opencl_finish_map(kin_opencl_launch *launch, const opencl_shape *shape);

/* The rows of a view whose last axis is dense: all other axes. `row_shape` of rows.cl. */
typedef struct opencl_row_shape {
    cl_int rank;
    cl_int dims[KIN_MAX_RANK];
    cl_int strides[KIN_MAX_RANK];
} opencl_row_shape;

void opencl_set_rows(kin_opencl_launch *launch, const kin_desc *desc);
/* True if the elements of each row lie side by side. */
bool opencl_rows_are_dense(const kin_desc *desc);
static inline int64_t opencl_row_width(const kin_desc *desc) {
    return desc->rank > 0 ? desc->dims[desc->rank - 1] : 1;
}
int64_t opencl_row_count(const kin_desc *desc);

/* Starts a launch whose groups work on one row each: the options get -DGROUP=n, with n from 1
 * (CPUs) to 128, as the width, the limits and the kernel allow. `floats` of local memory per
 * work-item. */
kin_opencl_launch opencl_start_rows(kin_device *device, kin_commands *commands, const char *parts,
                                    const char *defines, const char *kernel, int64_t width,
                                    int floats, size_t *out_group);
/* Ends it: `rows` groups. */
kin_status opencl_finish_rows(kin_opencl_launch *launch, int64_t rows, size_t group);

#endif
