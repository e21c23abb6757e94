/* Timing a plan: warm-up, samples, quartiles. */
#include "bench/bench.h"

#include <stdlib.h>
#include <string.h>

/* A sample lasts this long at least, so that the clock's resolution and one interruption do not
 * show. */
static const double shortest_sample = 5e-4;

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(const double *sorted, int count, double q) {
    double place = q * (count - 1);
    int below = (int)place;
    if (below + 1 >= count) return sorted[count - 1];
    return sorted[below] + (place - below) * (sorted[below + 1] - sorted[below]);
}

void kin_bench_quartiles(const double *values, int count, double *out_low, double *out_median,
                         double *out_high) {
    double sorted[KIN_BENCH_MAX_SAMPLES];
    if (count > KIN_BENCH_MAX_SAMPLES) count = KIN_BENCH_MAX_SAMPLES;
    memcpy(sorted, values, (size_t)count * sizeof *sorted);
    qsort(sorted, (size_t)count, sizeof *sorted, compare_doubles);
    *out_low = quantile(sorted, count, 0.25);
    *out_median = quantile(sorted, count, 0.5);
    *out_high = quantile(sorted, count, 0.75);
}

static kin_status run_many(kin_plan *plan, int64_t runs, double *out_seconds) {
    kin_status status = KIN_OK;
    double start = kin_seconds();
    for (int64_t i = 0; status == KIN_OK && i < runs; i++) status = kin_plan_run(plan);
    *out_seconds = (kin_seconds() - start) / (double)runs;
    return status;
}

/* Runs until a tenth of the time is spent, twice at least unless one run is longer than that. */
static kin_status warm_up(kin_plan *plan, double min_time, double *out_seconds) {
    double spent = 0, best = 0;
    kin_status status = KIN_OK;
    for (int i = 0; status == KIN_OK && (i == 0 || spent < 0.1 * min_time); i++) {
        double one = 0;
        status = run_many(plan, 1, &one);
        spent += one;
        if (i == 0 || one < best) best = one;
    }
    *out_seconds = best > 1e-9 ? best : 1e-9;
    return status;
}

static kin_status simulated_time(kin_plan *plan, kin_bench_times *times) {
    kin_status status = kin_plan_profile(plan);
    times->count = 1;
    times->runs = 1;
    times->seconds[0] = 0;
    for (int i = 0; i < kin_plan_node_count(plan); i++)
        times->seconds[0] += kin_plan_node_at(plan, i).seconds;
    times->median = times->low = times->high = times->seconds[0];
    return status;
}

kin_status kin_bench_time_plan(kin_context *context, kin_plan *plan, double min_time,
                               kin_bench_times *out_times) {
    kin_bench_times *times = out_times;
    double one = 0, spent = 0;
    if (kin_plan_device(plan)->info.simulated) return simulated_time(plan, times);
    kin_status status = warm_up(plan, min_time, &one);
    double sample = min_time / (KIN_BENCH_MAX_SAMPLES / 2);
    if (sample < shortest_sample) sample = shortest_sample;
    times->count = 0;
    times->runs = 1 + (int64_t)(sample / one);
    while (status == KIN_OK && times->count < KIN_BENCH_MAX_SAMPLES &&
           (times->count < KIN_BENCH_MIN_SAMPLES || spent < min_time)) {
        double *seconds = &times->seconds[times->count];
        status = run_many(plan, times->runs, seconds);
        spent += *seconds * (double)times->runs;
        times->count++;
        if (status == KIN_OK && kin_interrupted())
            status = kin_fail(context, KIN_CANCELLED, "interrupted");
    }
    if (status == KIN_OK)
        kin_bench_quartiles(times->seconds, times->count, &times->low, &times->median,
                            &times->high);
    return status;
}
