/* Softmax on the CPU: one table of functions per instruction set. */
#ifndef KIN_BACKENDS_CPU_SOFTMAX_TABLE_H
#define KIN_BACKENDS_CPU_SOFTMAX_TABLE_H

#include "backends/cpu/rows.h"

typedef struct cpu_softmax_table {
    /* out = softmax(x), row by row; x may lie on out. */
    void (*forward)(const cpu_rows *x, float *out, int64_t rows, int64_t width, int threads);
    /* out = y * (dy - sum(dy * y)); either may lie on out. */
    void (*backward)(const cpu_rows *dy, const cpu_rows *y, float *out, int64_t rows, int64_t width,
                     int threads);
} cpu_softmax_table;

extern const cpu_softmax_table cpu_softmax_generic;
extern const cpu_softmax_table cpu_softmax_avx2;
extern const cpu_softmax_table cpu_softmax_avx512;

#endif
