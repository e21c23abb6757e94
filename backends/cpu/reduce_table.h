/* Sums and maxima over axes on the CPU: one table of functions per instruction set. */
#ifndef KIN_BACKENDS_CPU_REDUCE_TABLE_H
#define KIN_BACKENDS_CPU_REDUCE_TABLE_H

#include "runtime/tensor.h"

/* Axes that are walked through one element at a time. */
typedef struct cpu_reduce_axes {
    int rank;
    int64_t count; /* product of dims */
    int64_t dims[KIN_MAX_RANK];
    int64_t strides[KIN_MAX_RANK];     /* in x */
    int64_t out_strides[KIN_MAX_RANK]; /* in out */
} cpu_reduce_axes;

/* One axis of x, if possible one of stride 1, is the run. Either it is reduced ("along"), or it is
 * kept and each of its elements is a column. Chunks split what one output sums; their number is a
 * function of the shape alone, so that results do not depend on the number of threads. */
typedef struct cpu_reduce_plan {
    bool along;
    int64_t run, run_stride, run_out_stride;
    cpu_reduce_axes kept, reduced; /* without the run */
    int64_t chunks;
    double scale; /* the sum is multiplied by it */
} cpu_reduce_plan;

enum {
    CPU_REDUCE_PIECE = 16384, /* elements of a run that are not split further */
    CPU_REDUCE_TILE = 512     /* columns that are summed side by side */
};

typedef struct cpu_reduce_table {
    /* partials: kept.count * chunks doubles if along, else kept.count * chunks * run floats; not
     * used with one chunk. */
    void (*sum)(const cpu_reduce_plan *plan, const float *x, float *out, void *partials,
                int threads);
    void (*max)(const cpu_reduce_plan *plan, const float *x, float *out, void *partials,
                int threads);
} cpu_reduce_table;

extern const cpu_reduce_table cpu_reduce_generic;
extern const cpu_reduce_table cpu_reduce_avx2;
extern const cpu_reduce_table cpu_reduce_avx512;

#endif
