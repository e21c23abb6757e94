/* Two records of benchmarks against each other. */
#ifndef KIN_BENCH_COMPARE_H
#define KIN_BENCH_COMPARE_H

#include <jansson.h>

typedef enum kin_bench_verdict {
    KIN_BENCH_SAME,
    KIN_BENCH_FASTER,
    KIN_BENCH_SLOWER
} kin_bench_verdict;

/* How the second stands to the first. ratio: the first's median over the second's, so that 2 means
 * that the second takes half the time. low and high: what the ratio is if each takes the worse or
 * the better of its quartiles. Faster or slower only if that range leaves out 1. */
typedef struct kin_bench_ratio {
    double ratio, low, high;
    kin_bench_verdict verdict;
} kin_bench_ratio;

kin_bench_ratio kin_bench_compare(const double *first, int first_count, const double *second,
                                  int second_count);
/* "faster", "slower", "same within noise" */
const char *kin_bench_verdict_text(kin_bench_verdict verdict);

#endif
