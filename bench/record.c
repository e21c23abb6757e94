/* The record of a benchmark: the machine, its peak, and the rows, as a table and as JSON. */
#define _POSIX_C_SOURCE 200809L
#include "bench/bench.h"

#include "runtime/file.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Seconds for each half of the peak, in front and at the end. */
static const double peak_seconds = 0.25;
/* Between the peak in front and that at the end: above it the machine was shared. */
static const double steady = 0.1;

int kin_bench_open(kin_bench *bench) {
    if (!(bench->min_time >= 0 && bench->min_time <= 3600))
        return kin_usage_error(bench->verb, "--min-time must lie within 0 and 3600 seconds");
    kin_catch_interrupts();
    int code = kin_common_open(&bench->common, true);
    if (code >= 0) return code;
    kin_status status = KIN_OK;
    const char *device = bench->common.handle->info.name;
    if (strcmp(device, "null") == 0)
        status = kin_fail(bench->common.context, KIN_UNSUPPORTED,
                          "the device null computes nothing, so there is nothing to time");
    bench->has_peak = strcmp(device, "cpu") == 0;
    bench->counts = bench->common.handle->backend->counters != NULL;
    double seconds = bench->min_time < peak_seconds ? bench->min_time : peak_seconds;
    if (status == KIN_OK && bench->has_peak)
        status = kin_bench_peak_measure(bench->common.context, bench->common.handle->info.threads,
                                        seconds, &bench->peak);
    bench->rows = json_array();
    if (status == KIN_OK && !bench->rows) status = KIN_OUT_OF_MEMORY;
    if (status == KIN_OK) return -1;
    return kin_bench_close(bench, status);
}

double kin_bench_fraction(const kin_bench *bench, const kin_bench_row *row, bool *out_memory) {
    double seconds = row->times->median;
    double compute = bench->has_peak ? row->flops / seconds / bench->peak.flops : 0;
    double memory = bench->has_peak ? row->bytes / seconds / bench->peak.bytes : 0;
    if (out_memory) *out_memory = memory > compute;
    return memory > compute ? memory : compute;
}

void kin_bench_print_header(const kin_bench *bench, int name_width) {
    const kin_device_info *info = &bench->common.handle->info;
    printf("%s: %s, %d thread%s\n", info->name, info->description, info->threads,
           info->threads == 1 ? "" : "s");
    if (bench->has_peak)
        printf("peak of this run: %.0f GFLOP/s f32 (%s, multiply-adds in registers), %.1f GB/s "
               "(copy, read and written)\n",
               bench->peak.flops * 1e-9, bench->peak.isa, bench->peak.bytes * 1e-9);
    if (info->simulated) printf("times are those of the device's own model, not of a clock\n");
    printf("%-*s %-5s %11s %9s %9s %8s %7s  ", name_width, "case", "dtype", "median", "spread",
           "GFLOP/s", "GB/s", "of peak");
    if (bench->counts) printf("%12s %10s %10s  ", "cycles", "MB moved", "KiB on it");
    printf("kernel\n");
    fflush(stdout);
}

static const char *seconds_text(double seconds, char *text, size_t size) {
    if (seconds < 1e-3) snprintf(text, size, "%.2f us", seconds * 1e6);
    else if (seconds < 1) snprintf(text, size, "%.3f ms", seconds * 1e3);
    else snprintf(text, size, "%.3f s", seconds);
    return text;
}

void kin_bench_print_row(const kin_bench *bench, const kin_bench_row *row, int name_width) {
    const kin_bench_times *t = row->times;
    char median[32], spread[32], share[32] = "-";
    bool memory = false;
    double fraction = kin_bench_fraction(bench, row, &memory);
    snprintf(spread, sizeof spread, "+-%.1f%%", 50 * (t->high - t->low) / t->median);
    if (bench->has_peak)
        snprintf(share, sizeof share, "%.0f%% %c", 100 * fraction, memory ? 'm' : 'f');
    printf("%-*s %-5s %11s %9s %9.2f %8.2f %7s  ", name_width, row->name, row->dtype,
           seconds_text(t->median, median, sizeof median), spread, row->flops / t->median * 1e-9,
           row->bytes / t->median * 1e-9, share);
    if (bench->counts)
        printf("%12.0f %10.3f %10.1f  ", row->counters.cycles,
               (double)row->counters.bytes_moved * 1e-6, (double)row->counters.scratchpad / 1024);
    printf("%s\n", row->kernel);
    fflush(stdout);
}

kin_status kin_bench_keep(kin_bench *bench, const kin_bench_row *row) {
    const kin_bench_times *t = row->times;
    json_t *samples = json_array();
    int failed = !samples;
    for (int i = 0; !failed && i < t->count; i++)
        failed = json_array_append_new(samples, json_real(t->seconds[i])) != 0;
    json_t *object = json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:I, s:o}", "name",
        row->name, "op", row->op, "case", row->test, "dtype", row->dtype, "kernel", row->kernel,
        "flops", row->flops, "bytes", row->bytes, "median", t->median, "low", t->low, "high",
        t->high, "gflops", row->flops / t->median * 1e-9, "gbytes", row->bytes / t->median * 1e-9,
        "fraction", kin_bench_fraction(bench, row, NULL), "runs_per_sample", (json_int_t)t->runs,
        "samples", samples);
    if (object && bench->counts)
        failed = failed ||
                 json_object_set_new(object, "cycles", json_real(row->counters.cycles)) != 0 ||
                 json_object_set_new(object, "bytes_moved",
                                     json_integer((json_int_t)row->counters.bytes_moved)) != 0 ||
                 json_object_set_new(object, "scratchpad",
                                     json_integer((json_int_t)row->counters.scratchpad)) != 0;
    if (failed || !object || json_array_append_new(bench->rows, object) != 0)
        return kin_fail(bench->common.context, KIN_OUT_OF_MEMORY, "no memory for the record");
    return KIN_OK;
}

void kin_bench_add_counters(kin_call_counters *sum, const kin_call_counters *one) {
    sum->cycles += one->cycles;
    sum->bytes_moved += one->bytes_moved;
    if (one->scratchpad > sum->scratchpad) sum->scratchpad = one->scratchpad;
}

kin_status kin_bench_look(kin_plan *plan, kin_bench_row *row) {
    int count = kin_plan_node_count(plan), longest = -1;
    char *text = row->kernel;
    size_t size = sizeof row->kernel;
    kin_status status = kin_plan_profile(plan);
    row->counters = (kin_call_counters){0};
    for (int i = 0; i < count; i++) {
        kin_plan_node node = kin_plan_node_at(plan, i);
        kin_bench_add_counters(&row->counters, &node.counters);
        if (longest < 0 || node.seconds > kin_plan_node_at(plan, longest).seconds) longest = i;
    }
    if (longest < 0) snprintf(text, size, "none");
    else if (count == 1) snprintf(text, size, "%s", kin_plan_node_at(plan, longest).kernel);
    else snprintf(text, size, "%s + %d", kin_plan_node_at(plan, longest).kernel, count - 1);
    return status;
}

/* ---- the file ---- */

static json_t *peak_json(const kin_bench_peak *peak) {
    return json_pack("{s:f, s:f, s:i}", "gflops", peak->flops * 1e-9, "gbytes", peak->bytes * 1e-9,
                     "threads", peak->threads);
}

static kin_status write_file(const kin_bench *bench, const kin_bench_peak *at_end) {
    const kin_device_info *info = &bench->common.handle->info;
    char date[32] = "";
    time_t now = (time_t)kin_wall_time();
    struct tm broken;
    if (gmtime_r(&now, &broken)) strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", &broken);
    json_t *root =
        json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:f, s:O}", "format", "kinora-bench-1",
                  "kind", bench->kind, "version", kin_version(), "date", date, "device", info->name,
                  "description", info->description, "threads", info->threads, "min_time",
                  bench->min_time, "cases", bench->rows);
    int failed = !root;
    if (!failed && bench->commit)
        failed = json_object_set_new(root, "commit", json_string(bench->commit)) != 0;
    if (!failed && bench->has_peak)
        failed = json_object_set_new(root, "isa", json_string(bench->peak.isa)) != 0 ||
                 json_object_set_new(root, "peak", peak_json(&bench->peak)) != 0 ||
                 json_object_set_new(root, "peak_at_end", peak_json(at_end)) != 0;
    char *text = failed ? NULL : json_dumps(root, JSON_INDENT(1));
    kin_status status =
        text ? kin_file_write_atomic(bench->common.context, bench->json_path, text, strlen(text))
             : kin_fail(bench->common.context, KIN_OUT_OF_MEMORY, "no memory for the record");
    free(text);
    json_decref(root);
    return status;
}

int kin_bench_close(kin_bench *bench, kin_status status) {
    kin_bench_peak at_end = {0};
    bool done = status == KIN_OK;
    if (done && bench->has_peak)
        status = kin_bench_peak_measure(
            bench->common.context, bench->peak.threads,
            bench->min_time < peak_seconds ? bench->min_time : peak_seconds, &at_end);
    if (done && status == KIN_OK && bench->has_peak) {
        double change = at_end.flops / bench->peak.flops - 1;
        if ((change > steady || change < -steady) && !bench->common.quiet)
            fprintf(stderr,
                    "warning: the peak is %.0f GFLOP/s now and was %.0f: the machine was not "
                    "steady\n",
                    at_end.flops * 1e-9, bench->peak.flops * 1e-9);
    }
    if (done && status == KIN_OK && bench->json_path) status = write_file(bench, &at_end);
    int code = KIN_EXIT_OK;
    if (status != KIN_OK) code = kin_report(bench->common.context, bench->verb, status);
    json_decref(bench->rows);
    bench->rows = NULL;
    kin_common_close(&bench->common);
    return code;
}
