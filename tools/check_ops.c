/* kinora check ops, kinora check gradients: the op suite over all ops. */
#include "tools/op_suite.h"
#include "tools/tool.h"
#include "tools/verbs.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

typedef void run_fn(kin_suite *suite, const kin_op *op, const kin_case *test, kin_dtype dtype,
                    kin_suite_result *out_result);

static const kin_dtype tested[] = {KIN_F32, KIN_BF16, KIN_F16};

typedef struct check {
    const char *verb;
    run_fn *run;
    const char *only_op; /* NULL: all */
    bool dtypes[3];      /* of tested[] */
    bool json, quiet;
    kin_suite *suite;
    json_t *rows; /* --json: one object for each case that ran */
} check;

/* "f32,bf16"; false if it names something else. */
static bool parse_dtypes(check *c, const char *text) {
    for (int d = 0; d < 3; d++) c->dtypes[d] = !text;
    while (text && *text) {
        size_t length = strcspn(text, ",");
        bool known = false;
        for (int d = 0; d < 3; d++) {
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
    return result->verdict == KIN_SUITE_FAILED ? "failed" : result->lowered ? "lowered" : "passed";
}

static void note(check *c, const kin_op *op, const kin_case *test, kin_dtype dtype,
                 const kin_suite_result *result) {
    if (c->json) {
        double worst = result->worst > 1e300 ? 1e300 : result->worst;
        json_array_append_new(c->rows, json_pack("{s:s, s:s, s:s, s:s, s:f, s:s}", "op", op->name,
                                                 "case", test->name, "dtype", kin_dtype_name(dtype),
                                                 "verdict", verdict_text(result), "worst", worst,
                                                 "message", result->message));
    } else if (result->verdict == KIN_SUITE_FAILED) {
        printf("FAILED %s, %s, %s: %s\n", op->name, test->name, kin_dtype_name(dtype),
               result->message);
        fflush(stdout);
    }
}

/* One row of the table: the counts and the worst error of an op in one dtype. */
static kin_suite_counts check_op(check *c, const kin_op *op, int d, double *out_worst) {
    kin_suite_counts counts = {0};
    for (size_t i = 0; i < op->case_count && !kin_interrupted(); i++) {
        kin_suite_result result;
        c->run(c->suite, op, &op->cases[i], tested[d], &result);
        kin_suite_count(&counts, &result);
        if (result.verdict == KIN_SUITE_SKIPPED) continue;
        if (result.worst > *out_worst) *out_worst = result.worst;
        note(c, op, &op->cases[i], tested[d], &result);
    }
    return counts;
}

static int walk(check *c) {
    kin_suite_counts total = {0};
    if (!c->json)
        printf("%-26s %-5s %7s %7s %8s %6s\n", "op", "dtype", "passed", "failed", "lowered",
               "worst");
    for (const kin_op *const *op = kin_op_list; *op && !kin_interrupted(); op++) {
        if (c->only_op && strcmp((*op)->name, c->only_op) != 0) continue;
        for (int d = 0; d < 3; d++) {
            double worst = 0;
            if (!c->dtypes[d]) continue;
            kin_suite_counts counts = check_op(c, *op, d, &worst);
            total.passed += counts.passed;
            total.failed += counts.failed;
            total.lowered += counts.lowered;
            if (c->json || counts.passed + counts.failed == 0) continue;
            printf("%-26s %-5s %7d %7d %8d %6.2f\n", (*op)->name, kin_dtype_name(tested[d]),
                   counts.passed, counts.failed, counts.lowered, worst);
            fflush(stdout);
        }
    }
    if (c->json) {
        json_t *root = json_pack("{s:s, s:s, s:i, s:i, s:i, s:O}", "version", kin_version(), "verb",
                                 c->verb, "passed", total.passed, "failed", total.failed, "lowered",
                                 total.lowered, "cases", c->rows);
        json_dumpf(root, stdout, JSON_INDENT(1));
        putchar('\n');
        json_decref(root);
    } else {
        printf("%-26s %-5s %7d %7d %8d\n", "total", "", total.passed, total.failed, total.lowered);
        if (!c->quiet)
            printf(
                "worst: largest error as a fraction of what is allowed; lowered: passed without a "
                "kernel of the op's own\n");
    }
    if (kin_interrupted()) return KIN_EXIT_FAILED;
    return total.failed || total.passed == 0 ? KIN_EXIT_FAILED : KIN_EXIT_OK;
}

/* The op's name is checked before anything runs. */
static int unknown_op(const char *verb, const char *name) {
    const char *names[512];
    size_t count = 0;
    for (const kin_op *const *op = kin_op_list; *op && count < 512; op++)
        names[count++] = (*op)->name;
    const char *near = kin_nearest_name(name, names, count);
    return near ? kin_usage_error(verb, "no op \"%s\"; did you mean %s?", name, near)
                : kin_usage_error(verb, "no op \"%s\"", name);
}

static int run_check(const char *verb, run_fn *run, int count, char **arguments) {
    kin_common common = {0};
    check c = {.verb = verb, .run = run};
    const char *dtypes = NULL;
    int left = 0;
    const kin_flag flags[] = {
        {.name = "op", .argument = "NAME", .text = &c.only_op, .help = "this op only"},
        {.name = "dtype",
         .argument = "LIST",
         .text = &dtypes,
         .help = "f32, bf16, f16, or several with commas; default all"},
        {.name = "json", .on = &c.json, .help = "one JSON object on standard output"},
        KIN_COMMON_FLAGS(&common),
    };
    int status =
        kin_parse_flags(verb, flags, sizeof flags / sizeof *flags, count, arguments, 0, 0, &left);
    if (status >= 0) return status;
    if (!parse_dtypes(&c, dtypes))
        return kin_usage_error(verb, "--dtype wants f32, bf16 or f16, not \"%s\"", dtypes);
    if (c.only_op && !kin_op_find(c.only_op)) return unknown_op(verb, c.only_op);
    kin_catch_interrupts();
    status = kin_common_open(&common, true);
    if (status >= 0) return status;
    c.quiet = common.quiet;
    c.rows = json_array();
    kin_status opened = kin_suite_open(common.handle, &c.suite);
    status = opened == KIN_OK ? walk(&c) : kin_report(common.context, verb, opened);
    kin_suite_close(c.suite);
    json_decref(c.rows);
    kin_common_close(&common);
    return status;
}

int kin_verb_check_ops(int count, char **arguments) {
    return run_check("check ops", kin_suite_run_results, count, arguments);
}

int kin_verb_check_gradients(int count, char **arguments) {
    return run_check("check gradients", kin_suite_run_gradient, count, arguments);
}
