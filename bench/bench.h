/* What the benchmarks share: timing, the record of a run, and how a row is told. */
#ifndef KIN_BENCH_BENCH_H
#define KIN_BENCH_BENCH_H

#include "bench/peak.h"
#include "runtime/op.h"
#include "runtime/plan.h"
#include "tools/tool.h"

#include <jansson.h>

enum { KIN_BENCH_MAX_SAMPLES = 400, KIN_BENCH_MIN_SAMPLES = 3 };

/* ---- timing (timing.c) ---- */

/* Seconds of one run: samples in the order taken, each the mean of `runs` runs. */
typedef struct kin_bench_times {
    int count;
    int64_t runs;
    double seconds[KIN_BENCH_MAX_SAMPLES];
    double median, low, high; /* low and high: the quartiles */
} kin_bench_times;

/* On a simulated device, the time that its model gives. Else warms up, then runs the plan until
 * `min_time` seconds and KIN_BENCH_MIN_SAMPLES samples are there. Short programs run several times
 * a sample. KIN_CANCELLED after Ctrl-C. */
kin_status kin_bench_time_plan(kin_context *context, kin_plan *plan, double min_time,
                               kin_bench_times *out_times);
/* The quartiles of `count` >= 1 values, between neighbours by their distance, as numpy does it. */
void kin_bench_quartiles(const double *values, int count, double *out_low, double *out_median,
                         double *out_high);

/* ---- inputs (inputs.c) ---- */

/* Fills `count` elements of a dtype with what the case's fill asks for. Values repeat after a few
 * thousand elements, except those of KIN_FILL_COUNT. */
kin_status kin_bench_fill(kin_context *context, const kin_case_input *spec, kin_dtype dtype,
                          int64_t count, void *data);

/* ---- the record (record.c) ---- */

/* A row: what ran, how long it took, and what that comes to. */
typedef struct kin_bench_row {
    const char *name; /* the key that compare joins by */
    const char *op, *test, *dtype;
    char kernel[96];     /* the one that took longest, and how many others there were */
    double flops, bytes; /* of one run, by the ops' own cost */
    const kin_bench_times *times;
    kin_call_counters counters; /* of one run, where the device counts */
} kin_bench_row;

typedef struct kin_bench {
    kin_common common;
    const char *verb, *kind; /* kind: "ops" or "model", what the file says */
    const char *json_path, *commit;
    double min_time;
    bool has_peak; /* false on devices other than the host: there is no yardstick for them */
    bool counts;   /* the device has counters */
    kin_bench_peak peak;
    json_t *rows;
} kin_bench;

#define KIN_BENCH_FLAGS(bench)                                                                     \
    {.name = "min-time",                                                                           \
     .argument = "SECONDS",                                                                        \
     .number = &(bench)->min_time,                                                                 \
     .help = "to spend on each case at least"},                                                    \
        {.name = "json",                                                                           \
         .argument = "FILE",                                                                       \
         .text = &(bench)->json_path,                                                              \
         .help = "write everything, samples included, for kinora bench compare"},                  \
        {.name = "commit",                                                                         \
         .argument = "ID",                                                                         \
         .text = &(bench)->commit,                                                                 \
         .help = "to note in the file: which state of the source this is"},                        \
        KIN_COMMON_FLAGS(&(bench)->common)

/* After the flags are parsed: opens the device and measures the peak. Returns -1 to go on, or an
 * exit status. */
int kin_bench_open(kin_bench *bench);
/* Measures the peak again, says so if the machine was not steady, writes the file if `status` is
 * KIN_OK, and closes everything. Returns the exit status; an error is printed. */
int kin_bench_close(kin_bench *bench, kin_status status);
/* The share of the peak: of its operations or of its memory traffic, whichever is larger. 0 where
 * there is no peak. *out_memory (may be NULL): it is the traffic. */
double kin_bench_fraction(const kin_bench *bench, const kin_bench_row *row, bool *out_memory);
void kin_bench_print_header(const kin_bench *bench, int name_width);
void kin_bench_print_row(const kin_bench *bench, const kin_bench_row *row, int name_width);
/* Keeps the row for the file. */
kin_status kin_bench_keep(kin_bench *bench, const kin_bench_row *row);
/* Runs the plan once with a clock on every node; notes the kernel that took longest, and the
 * counters of all. */
kin_status kin_bench_look(kin_plan *plan, kin_bench_row *row);
/* Adds up cycles and bytes; of the scratchpad the most that one used. */
void kin_bench_add_counters(kin_call_counters *sum, const kin_call_counters *one);

#endif
