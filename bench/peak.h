/* What the processor can do at most: the yardstick that benchmarks are held against. */
#ifndef KIN_BENCH_PEAK_H
#define KIN_BENCH_PEAK_H

#include "runtime/context.h"

typedef struct kin_bench_peak {
    const char *isa; /* "generic", "avx2", "avx512" */
    int threads;     /* that took part */
    double flops;    /* f32 operations per second of a loop of multiply-adds in registers */
    double bytes;    /* per second, read and written, of a copy of memory */
} kin_bench_peak;

/* Measures both for about `seconds` each, in slices of a few milliseconds, and takes the fastest
 * slice: others on the machine only ever make one slower. The copy is of 128 MiB. KIN_OUT_OF_MEMORY
 * if there is no room for it. */
kin_status kin_bench_peak_measure(kin_context *context, int threads, double seconds,
                                  kin_bench_peak *out_peak);

#endif
