/* What is done to the results of a product while they are hot: an activation, a gate, a residual.
 */
#ifndef KIN_BACKENDS_CPU_EPILOGUE_H
#define KIN_BACKENDS_CPU_EPILOGUE_H

#include "runtime/tensor.h"

/* An operand as it is broadcast to the result: element (row, column) lies column * column_stride
 * elements behind the sum of the strides of the row's places on its axes, last axis first. */
typedef struct cpu_row_operand {
    const void *data;
    kin_dtype dtype; /* f32, f16, bf16 */
    int rank;
    int64_t dims[KIN_MAX_RANK], strides[KIN_MAX_RANK];
    int64_t column_stride;
} cpu_row_operand;

/* value = residual + gate * activation(value) */
typedef struct cpu_epilogue {
    int activation; /* kin_activation */
    bool has_residual, has_gate;
    cpu_row_operand residual, gate;
} cpu_epilogue;

/* Columns first .. first + n - 1 of a row, in place. One function for each instruction set. */
typedef void cpu_epilogue_row(const cpu_epilogue *epilogue, int64_t row, int64_t first, int64_t n,
                              float *values);

extern cpu_epilogue_row cpu_finish_row_generic;
extern cpu_epilogue_row cpu_finish_row_avx2;
extern cpu_epilogue_row cpu_finish_row_avx512;

#endif
