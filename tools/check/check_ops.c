/* kinora check ops, kinora check gradients: the op suite over all ops, in every dtype that the
 * device stores. */
#include "tools/check/op_suite.h"
#include "tools/tool.h"
#include "tools/verbs.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

typedef void run_fn(kin_suite *suite, const kin_op *op, const kin_case *test, kin_dtype dtype,
                    kin_suite_result *out_result);

static const kin_dtype tested[] = {KIN_F32, KIN_BF16, KIN_F16};

enum { DTYPES = 3, MAX_OPS = 512 };

/* What is tried on each case. */
typedef enum part { PART_RESULTS, PART_VIEWS, PART_GRADIENT, PART_SPOILED, PARTS } part;

static run_fn *const runs[PARTS] = {kin_suite_run_results, kin_suite_run_views,
                                    kin_suite_run_gradient, kin_suite_run_spoiled};
static const char *const part_names[PARTS] = {"results", "views", "gradient", "control"};

/* What came of an op. */
typedef struct op_record {
    const kin_op *op;
    kin_suite_counts total;
    int results, results_lowered; /* passed: results alone, in all dtypes */
    int spoiled;                  /* devices that were wrong on purpose, and refused */
    bool runs;                    /* there was something to spoil: views may be all input */
    char missing[128];            /* ops that it needs and the device lacks */
} op_record;

typedef struct check {
    const char *verb;
    bool parts[PARTS];
    const char *only_op; /* NULL: all */
    bool dtypes[DTYPES]; /* of tested[] */
    bool json, quiet;
    kin_suite *suite;
    const kin_device *device;
    op_record *records;
    int count;
    json_t *rows; /* --json: one object for each case that ran */
} check;

/* "f32,bf16"; NULL: what the device stores. False if it names something else. */
static bool parse_dtypes(check *c, const char *text) {
    for (int d = 0; d < DTYPES; d++) c->dtypes[d] = !text;
    while (text && *text) {
        size_t length = strcspn(text, ",");
        bool known = false;
        for (int d = 0; d < DTYPES; d++) {
            const char *name = kin_dtype_name(tested[d]);
            if (strlen(name) != length || strncmp(name, text, length) != 0) continue;
            c->dtypes[d] = known = true;
        }
        if (!known) return false;
        text += length;
        if (*text == ',') text++;
    }
    return true;
}

static const char *verdict_text(const kin_suite_result *result) {
    switch (result->verdict) {
    case KIN_SUITE_FAILED:
        return "failed";
    case KIN_SUITE_MISSING:
        return "not implemented";
    case KIN_SUITE_SKIPPED:
        return "left out";
    case KIN_SUITE_PASSED:
        break;
    }
    return result->lowered ? "lowered" : "passed";
}

static void note(check *c, const kin_op *op, const kin_case *test, kin_dtype dtype, part what,
                 const kin_suite_result *result) {
    if (c->json) {
        double worst = result->worst > 1e300 ? 1e300 : result->worst;
        json_array_append_new(
            c->rows, json_pack("{s:s, s:s, s:s, s:s, s:s, s:f, s:i, s:s}", "op", op->name, "case",
                               test->name, "dtype", kin_dtype_name(dtype), "part", part_names[what],
                               "verdict", verdict_text(result), "worst", worst, "controls",
                               result->controls, "message", result->message));
    } else if (result->verdict == KIN_SUITE_FAILED) {
        printf("FAILED %s, %s, %s, %s: %s\n", op->name, test->name, kin_dtype_name(dtype),
               part_names[what], result->message);
        fflush(stdout);
    }
}

static void add_counts(kin_suite_counts *total, const kin_suite_counts *more) {
    total->passed += more->passed;
    total->failed += more->failed;
    total->missing += more->missing;
    total->skipped += more->skipped;
    total->lowered += more->lowered;
    total->left_out += more->left_out;
    total->controls += more->controls;
}

static kin_suite_verdict try_part(check *c, op_record *record, const kin_case *test,
                                  kin_dtype dtype, part what, kin_suite_counts *counts,
                                  double *worst) {
    kin_suite_result result;
    runs[what](c->suite, record->op, test, dtype, &result);
    if (what == PART_SPOILED && result.verdict != KIN_SUITE_SKIPPED) {
        record->spoiled += result.controls;
        record->runs = true;
    }
    if (what == PART_RESULTS && result.verdict == KIN_SUITE_PASSED) {
        record->results++;
        record->results_lowered += result.lowered;
    }
    kin_suite_count(counts, &result);
    if (result.worst > *worst) *worst = result.worst;
    if (result.verdict == KIN_SUITE_MISSING)
        snprintf(record->missing, sizeof record->missing, "%s", result.missing);
    if (result.verdict != KIN_SUITE_SKIPPED || result.left_out)
        note(c, record->op, test, dtype, what, &result);
    return result.verdict;
}

/* One row of the table: an op in one dtype. */
static void check_op(check *c, op_record *record, int d) {
    const kin_op *op = record->op;
    kin_suite_counts counts = {0};
    double worst = 0;
    for (size_t i = 0; i < op->case_count && !kin_interrupted(); i++)
        for (int what = 0; what < PART_SPOILED; what++)
            if (c->parts[what])
                try_part(c, record, &op->cases[i], tested[d], (part)what, &counts, &worst);
    /* One wrong device for each op and dtype will do; a right one must be there to be spoiled. */
    for (size_t i = 0; c->parts[PART_SPOILED] && i < op->case_count && !kin_interrupted(); i++) {
        if (counts.failed || counts.missing || !counts.passed) break;
        if (try_part(c, record, &op->cases[i], tested[d], PART_SPOILED, &counts, &worst) !=
            KIN_SUITE_SKIPPED)
            break;
    }
    add_counts(&record->total, &counts);
    if (c->json || counts.passed + counts.failed + counts.missing == 0) return;
    printf("%-26s %-5s %7d %7d %8d %8d %6.2f\n", op->name, kin_dtype_name(tested[d]), counts.passed,
           counts.failed, counts.missing, counts.lowered, worst);
    fflush(stdout);
}

/* ---- the end of the table ---- */

typedef enum fate { FATE_KERNEL, FATE_SOME_LOWERED, FATE_LOWERED, FATE_MISSING, FATE_FAILED } fate;

static const struct {
    const char *key, *text;
} fates[] = {
    {"kernels", "by kernels of their own"},
    {"partly_lowered", "lowered for some shapes or dtypes"},
    {"lowered", "lowered"},
    {"missing", "not implemented: neither a kernel nor a lowering that the device can run"},
    {"failed", "failed"},
};

enum { FATES = sizeof fates / sizeof *fates };

static bool was_tried(const op_record *record) {
    return record->total.passed + record->total.failed + record->total.missing > 0;
}

/* Gradients pass through other ops, so only results tell whether the op itself has a kernel. */
static fate fate_of(const op_record *record) {
    const kin_suite_counts *t = &record->total;
    if (t->failed) return FATE_FAILED;
    if (t->missing) return FATE_MISSING;
    if (record->results_lowered == 0) return FATE_KERNEL;
    return record->results_lowered == record->results ? FATE_LOWERED : FATE_SOME_LOWERED;
}

/* "softmax, mean", wrapped at 100 columns. */
static void print_names(const check *c, fate wanted) {
    int width = 0;
    for (int i = 0; i < c->count; i++) {
        const op_record *record = &c->records[i];
        if (!was_tried(record) || fate_of(record) != wanted) continue;
        int length = (int)strlen(record->op->name);
        if (width && width + length > 94) {
            printf(",\n    ");
            width = 0;
        } else {
            printf(width ? ", " : "    ");
        }
        width += length + 2;
        printf("%s", record->op->name);
        if (wanted == FATE_MISSING && record->missing[0]) printf(" (%s)", record->missing);
    }
    printf("\n");
}

static int count_fate(const check *c, fate wanted) {
    int count = 0;
    for (int i = 0; i < c->count; i++)
        count += was_tried(&c->records[i]) && fate_of(&c->records[i]) == wanted;
    return count;
}

/* Ops for which a device that is wrong was refused, of those for which there was one. */
static int count_controlled(const check *c, int *out_tried) {
    int controlled = 0;
    *out_tried = 0;
    for (int i = 0; i < c->count; i++) {
        const op_record *record = &c->records[i];
        *out_tried += record->runs;
        controlled += record->runs && record->spoiled > 0;
    }
    return controlled;
}

static void print_end(const check *c, const kin_suite_counts *total) {
    int tried, controlled = count_controlled(c, &tried);
    printf("%-26s %-5s %7d %7d %8d %8d\n", "total", "", total->passed, total->failed,
           total->missing, total->lowered);
    if (c->quiet) return;
    printf(
        "worst: largest error as a fraction of what is allowed; lowered: passed without a kernel "
        "of the op's own\n\n");
    for (int f = 0; c->parts[PART_RESULTS] && f < FATES; f++) {
        int count = count_fate(c, (fate)f);
        if (count == 0) continue;
        printf("  %d op%s %s:\n", count, count == 1 ? "" : "s", fates[f].text);
        print_names(c, (fate)f);
    }
    printf("  wrong results: %d were given to the comparison, and refused", total->controls);
    if (c->parts[PART_SPOILED])
        printf("; a device that is wrong was refused for %d of %d ops", controlled, tried);
    printf("\n");
    if (total->left_out)
        printf("  left out: %d, whose dtypes %s does not store\n", total->left_out,
               c->device->info.name);
}

static void print_json(const check *c, const kin_suite_counts *total) {
    int tried, controlled = count_controlled(c, &tried);
    json_t *root = json_pack(
        "{s:s, s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i}", "version", kin_version(), "verb",
        c->verb, "device", c->device->info.name, "passed", total->passed, "failed", total->failed,
        "not_implemented", total->missing, "lowered", total->lowered, "left_out", total->left_out,
        "controls", total->controls, "ops_tried", tried, "ops_controlled", controlled);
    json_t *ops = json_object();
    for (int f = 0; f < FATES; f++) {
        json_t *names = json_array();
        for (int i = 0; i < c->count; i++)
            if (was_tried(&c->records[i]) && fate_of(&c->records[i]) == (fate)f)
                json_array_append_new(names, json_string(c->records[i].op->name));
        json_object_set_new(ops, fates[f].key, names);
    }
    json_object_set_new(root, "ops", ops);
    json_object_set(root, "cases", c->rows);
    json_dumpf(root, stdout, JSON_INDENT(1));
    putchar('\n');
    json_decref(root);
}

static int walk(check *c) {
    kin_suite_counts total = {0};
    int tried, controlled;
    if (!c->json)
        printf("%-26s %-5s %7s %7s %8s %8s %6s\n", "op", "dtype", "passed", "failed", "missing",
               "lowered", "worst");
    for (const kin_op *const *op = kin_op_list; *op && !kin_interrupted(); op++) {
        if (c->only_op && strcmp((*op)->name, c->only_op) != 0) continue;
        op_record *record = &c->records[c->count++];
        record->op = *op;
        for (int d = 0; d < DTYPES; d++)
            if (c->dtypes[d]) check_op(c, record, d);
        add_counts(&total, &record->total);
    }
    if (c->json) print_json(c, &total);
    else print_end(c, &total);
    if (kin_interrupted()) return KIN_EXIT_FAILED;
    controlled = count_controlled(c, &tried);
    bool bad = total.failed || total.missing || total.passed == 0 ||
               (c->parts[PART_SPOILED] && controlled < tried);
    return bad ? KIN_EXIT_FAILED : KIN_EXIT_OK;
}

/* The op's name is checked before anything runs. */
static int unknown_op(const char *verb, const char *name) {
    const char *names[MAX_OPS];
    size_t count = 0;
    for (const kin_op *const *op = kin_op_list; *op && count < MAX_OPS; op++)
        names[count++] = (*op)->name;
    const char *near = kin_nearest_name(name, names, count);
    return near ? kin_usage_error(verb, "no op \"%s\"; did you mean %s?", name, near)
                : kin_usage_error(verb, "no op \"%s\"", name);
}

static kin_status open_check(check *c, kin_common *common) {
    size_t ops = 0;
    while (kin_op_list[ops]) ops++;
    c->quiet = common->quiet;
    c->device = common->handle;
    c->rows = json_array();
    c->records = kin_calloc(common->context, ops, sizeof *c->records);
    if (!c->rows || !c->records) return KIN_OUT_OF_MEMORY;
    /* Cases in a dtype that the device lacks would all be left out: the row is not printed. */
    for (int d = 0; d < DTYPES; d++)
        if (c->dtypes[d] && !(common->handle->info.dtypes >> tested[d] & 1)) {
            kin_log(common->context, KIN_LOG_INFO, "%s does not store %s: left out",
                    common->handle->info.name, kin_dtype_name(tested[d]));
            c->dtypes[d] = false;
        }
    return kin_suite_open(common->handle, &c->suite);
}

static int run_check(check *c, int count, char **arguments) {
    kin_common common = {0};
    const char *dtypes = NULL;
    int left = 0;
    const kin_flag flags[] = {
        {.name = "op", .argument = "NAME", .text = &c->only_op, .help = "this op only"},
        {.name = "dtype",
         .argument = "LIST",
         .text = &dtypes,
         .help = "f32, bf16, f16, or several with commas; default: all that the device stores"},
        {.name = "json", .on = &c->json, .help = "one JSON object on standard output"},
        KIN_COMMON_FLAGS(&common),
    };
    int status = kin_parse_flags(c->verb, flags, sizeof flags / sizeof *flags, count, arguments, 0,
                                 0, &left);
    if (status >= 0) return status;
    if (!parse_dtypes(c, dtypes))
        return kin_usage_error(c->verb, "--dtype wants f32, bf16 or f16, not \"%s\"", dtypes);
    if (c->only_op && !kin_op_find(c->only_op)) return unknown_op(c->verb, c->only_op);
    kin_catch_interrupts();
    status = kin_common_open(&common, true);
    if (status >= 0) return status;
    kin_status opened = open_check(c, &common);
    status = opened == KIN_OK ? walk(c) : kin_report(common.context, c->verb, opened);
    kin_suite_close(c->suite);
    json_decref(c->rows);
    kin_free(common.context, c->records);
    kin_common_close(&common);
    return status;
}

int kin_verb_check_ops(int count, char **arguments) {
    check c = {.verb = "check ops", .parts = {true, true, true, true}};
    return run_check(&c, count, arguments);
}

int kin_verb_check_gradients(int count, char **arguments) {
    check c = {.verb = "check gradients", .parts = {[PART_GRADIENT] = true}};
    return run_check(&c, count, arguments);
}
