/* Normalisations on the CPU: one table of functions per instruction set. */
#ifndef KIN_BACKENDS_CPU_NORM_TABLE_H
#define KIN_BACKENDS_CPU_NORM_TABLE_H

#include "backends/cpu/rows.h"

/* Normalisations of rows. layer_norm is the modulated form with one sample. */
typedef struct cpu_norm_call {
    int64_t samples, rows, width; /* rows of each sample */
    double eps;
    cpu_rows x, dy;
    /* Of sample s at weight + s * weight_stride; NULL: 1 and 0. */
    const float *weight, *bias;
    int64_t weight_stride, bias_stride;
    bool plus_one; /* the factor is 1 + weight */
    float *out;    /* y, or dx */
    float *dweight, *dbias;
    bool shared;     /* dweight and dbias are sums over the samples */
    int64_t chunks;  /* of the rows of a sample, from cpu_norm_chunks */
    float *partials; /* samples * chunks * 2 * width */
} cpu_norm_call;

/* Parts in which the rows of a sample are summed: a function of the shape alone, so that results
 * do not depend on the number of threads. */
static inline int64_t cpu_norm_chunks(int64_t samples, int64_t rows) {
    int64_t wanted = (64 + samples - 1) / samples, possible = (rows + 31) / 32;
    return wanted < possible ? wanted : possible;
}

typedef struct cpu_norm_table {
    void (*layer_norm)(const cpu_norm_call *call, int threads);
    void (*layer_norm_grad)(const cpu_norm_call *call, int threads);
    void (*rms_norm)(const cpu_norm_call *call, int threads);
    void (*rms_norm_grad)(const cpu_norm_call *call, int threads);
} cpu_norm_table;

extern const cpu_norm_table cpu_norm_generic;
extern const cpu_norm_table cpu_norm_avx2;
extern const cpu_norm_table cpu_norm_avx512;

/* x, dy, out: dense [batch, channels, positions]. */
typedef struct cpu_group_norm_call {
    int64_t batch, channels, positions, groups;
    double eps;
    bool silu;
    const float *x, *dy, *weight, *bias;
    float *out;
    float *dweight, *dbias;
    float *partials; /* batch * channels * 2 */
} cpu_group_norm_call;

typedef struct cpu_group_norm_table {
    void (*forward)(const cpu_group_norm_call *call, int threads);
    void (*backward)(const cpu_group_norm_call *call, int threads);
} cpu_group_norm_table;

extern const cpu_group_norm_table cpu_group_norm_generic;
extern const cpu_group_norm_table cpu_group_norm_avx2;
extern const cpu_group_norm_table cpu_group_norm_avx512;

#endif
