/* The op suite: results of one case. */
#include "tools/check/op_suite.h"

#include "tools/check/op_suite_case.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

kin_status kin_suite_open(kin_device *device, kin_suite **out_suite) {
    *out_suite = NULL;
    kin_suite *suite = kin_calloc(device->context, 1, sizeof *suite);
    if (!suite) return KIN_OUT_OF_MEMORY;
    suite->context = device->context;
    suite->device = device;
    kin_status status = kin_guard_open(device, &suite->guard);
    if (status == KIN_OK) *out_suite = suite;
    else kin_free(device->context, suite);
    return status;
}

void kin_suite_close(kin_suite *suite) {
    if (!suite) return;
    kin_guard_close(suite->guard);
    kin_free(suite->context, suite);
}

void kin_suite_count(kin_suite_counts *counts, const kin_suite_result *result) {
    switch (result->verdict) {
    case KIN_SUITE_PASSED:
        counts->passed++;
        break;
    case KIN_SUITE_FAILED:
        counts->failed++;
        break;
    case KIN_SUITE_MISSING:
        counts->missing++;
        break;
    case KIN_SUITE_SKIPPED:
        counts->skipped++;
        break;
    }
    counts->left_out += result->left_out;
    counts->controls += result->controls;
    if (result->verdict == KIN_SUITE_PASSED && result->lowered) counts->lowered++;
}

static const char *const out_names[KIN_MAX_OUTPUTS] = {"out0", "out1", "out2", "out3"};

/* Results as the device stores them, in memory of the context; NULL where there are none. */
typedef struct raw_results {
    void *bytes[KIN_MAX_OUTPUTS];
} raw_results;

static bool new_results(suite_case *sc, raw_results *raw) {
    for (int j = 0; j < sc->out_count; j++) {
        raw->bytes[j] = kin_calloc(sc->context, 1, kin_desc_bytes(&sc->out_desc[j]));
        if (!raw->bytes[j]) return suite_ok(sc, "results", KIN_OUT_OF_MEMORY);
    }
    return true;
}

static void free_results(suite_case *sc, raw_results *raw) {
    for (int j = 0; j < sc->out_count; j++) kin_free(sc->context, raw->bytes[j]);
}

static bool same_bits(suite_case *sc, const char *what, const raw_results *a,
                      const raw_results *b) {
    for (int j = 0; j < sc->out_count; j++)
        if (memcmp(a->bytes[j], b->bytes[j], kin_desc_bytes(&sc->out_desc[j])) != 0)
            return suite_fail(sc, "%s: result %d has other bits than the first run's", what, j);
    return true;
}

/* A plan of the case on the guard's device, with its store. */
typedef struct case_plan {
    kin_plan *plan;
    kin_store *store;
} case_plan;

static void close_plan(case_plan *made) {
    kin_plan_free(made->plan);
    kin_store_free(made->store);
}

static bool open_plan(suite_case *sc, const char *what, case_plan *out) {
    kin_device *device = kin_guard_device(sc->suite->guard);
    kin_graph *graph = NULL;
    kin_tensor results[KIN_MAX_OUTPUTS];
    *out = (case_plan){NULL, NULL};
    if (!suite_ok(sc, what, kin_graph_create(sc->context, &graph))) return false;
    suite_append(sc, graph, false, NULL, results);
    for (int j = 0; j < sc->out_count; j++) kin_output(graph, out_names[j], results[j]);
    kin_status status = kin_store_create(device, &out->store);
    if (status == KIN_OK) status = kin_store_add_graph(out->store, graph, 1);
    bool planned = status == KIN_OK && suite_plan(sc, what, graph, &out->plan);
    if (planned) status = kin_plan_prepare(out->plan, out->store, NULL);
    kin_graph_destroy(graph);
    if (suite_ok(sc, what, status) && planned) return true;
    close_plan(out);
    return false;
}

/* Inputs are written before the first run only: a kernel that changes them is seen in the second.
 * What updates write is written anew. */
static bool run_plan(suite_case *sc, const char *what, case_plan *made, bool first,
                     raw_results *out) {
    kin_status status = KIN_OK;
    for (int i = 0; status == KIN_OK && i < sc->input_count; i++) {
        const suite_input *input = &sc->inputs[i];
        if (input->absent) continue;
        if (input->variable)
            status = kin_store_write(made->store, input->name, input->storage.dtype, input->bytes);
        else if (first && kin_plan_input_desc(made->plan, input->name))
            status = kin_plan_write(made->plan, input->name, input->storage.dtype, input->bytes);
    }
    if (status == KIN_OK) status = kin_plan_run(made->plan);
    for (int j = 0; status == KIN_OK && j < sc->out_count; j++)
        status = kin_plan_read(made->plan, out_names[j], sc->out_desc[j].dtype, out->bytes[j]);
    if (status == KIN_OK) status = kin_guard_check(sc->suite->guard);
    return suite_ok(sc, what, status);
}

/* What one unit of rounding at every node of the program does to each result: see op_suite.h. Also
 * holds what the lowering means, without any rounding, against the reference. */
static bool rounding_noise(suite_case *sc, const char *what, kin_plan *plan, double *out_extra) {
    kin_evaluate_value given[KIN_MAX_CASE_INPUTS], exact[KIN_MAX_OUTPUTS] = {{0}};
    kin_evaluate_value rounded[KIN_MAX_OUTPUTS] = {{0}}, products[KIN_MAX_OUTPUTS] = {{0}};
    int given_count = suite_given(sc, given), results = sc->out_count;
    double reduction = 1;
    kin_status status = KIN_OK;
    for (int j = 0; status == KIN_OK && j < results; j++) {
        size_t count = (size_t)kin_desc_count(&sc->out_desc[j]);
        exact[j].name = rounded[j].name = products[j].name = out_names[j];
        exact[j].data = kin_alloc(sc->context, count * sizeof(double));
        rounded[j].data = kin_alloc(sc->context, count * sizeof(double));
        products[j].data = kin_alloc(sc->context, count * sizeof(double));
        if (!exact[j].data || !rounded[j].data || !products[j].data) status = KIN_OUT_OF_MEMORY;
    }
    if (status == KIN_OK)
        status = kin_plan_evaluate(plan, given, given_count, exact, results, suite_exact(sc),
                                   &reduction);
    if (status == KIN_OK)
        status = kin_plan_evaluate(plan, given, given_count, rounded, results, KIN_ROUND_ALL,
                                   &reduction);
    if (status == KIN_OK)
        status = kin_plan_evaluate(plan, given, given_count, products, results,
                                   suite_exact(sc) | KIN_ROUND_PRODUCTS, &reduction);
    bool good = suite_ok(sc, what, status);
    for (int j = 0; good && j < results; j++) {
        out_extra[j] = suite_units(sc, reduction) *
                           suite_largest_change(&sc->out_desc[j], exact[j].data, rounded[j].data) +
                       suite_product_units(sc, reduction) *
                           suite_largest_change(&sc->out_desc[j], exact[j].data, products[j].data);
        good = sc->dtype != KIN_F32 ||
               suite_same_in_double(sc, &sc->out_desc[j], exact[j].data, sc->want[j]);
    }
    for (int j = 0; j < results; j++) {
        kin_free(sc->context, exact[j].data);
        kin_free(sc->context, rounded[j].data);
        kin_free(sc->context, products[j].data);
    }
    return good;
}

static bool compare_results(suite_case *sc, const char *what, const raw_results *raw,
                            const double *extra) {
    bool good = true;
    for (int j = 0; good && j < sc->out_count; j++) {
        int64_t count = kin_desc_count(&sc->out_desc[j]);
        double *got = kin_alloc(sc->context, (size_t)count * sizeof(double));
        if (!got) return suite_ok(sc, what, KIN_OUT_OF_MEMORY);
        kin_convert(raw->bytes[j], sc->out_desc[j].dtype, got, KIN_F64, count);
        char text[64];
        snprintf(text, sizeof text, "%s, result %d", what, j);
        good = suite_compare(sc, text, &sc->out_desc[j], got, sc->want[j], sc->reduction, extra[j]);
        kin_free(sc->context, got);
    }
    return good;
}

/* An op that rounds within (KIN_OP_ROUNDS) may err by what that does to its lowering. */
static bool noise_within(suite_case *sc, const char *what, double *out_extra) {
    case_plan made;
    if (!(sc->op->flags & KIN_OP_ROUNDS) || sc->dtype == KIN_F32) return true;
    kin_guard_hide(sc->suite->guard, sc->op->name);
    bool good = open_plan(sc, what, &made);
    kin_guard_hide(sc->suite->guard, NULL);
    if (!good) return false;
    good = rounding_noise(sc, what, made.plan, out_extra);
    close_plan(&made);
    return good;
}

/* Two runs of one plan. */
static bool check_plan(suite_case *sc, const char *what, raw_results *first, raw_results *scratch,
                       bool *out_lowered) {
    case_plan made;
    double extra[KIN_MAX_OUTPUTS] = {0};
    if (!open_plan(sc, what, &made)) return false;
    *out_lowered = kin_plan_summarize(made.plan)->kernels_missing > 0;
    sc->nodes = kin_plan_node_count(made.plan);
    bool good = run_plan(sc, what, &made, true, first) &&
                (*out_lowered ? rounding_noise(sc, what, made.plan, extra)
                              : noise_within(sc, what, extra)) &&
                compare_results(sc, what, first, extra) &&
                run_plan(sc, what, &made, false, scratch) &&
                same_bits(sc, "a second run", first, scratch);
    close_plan(&made);
    return good;
}

/* Node by node; every buffer is guarded there. */
static bool check_step_mode(suite_case *sc, const raw_results *first, raw_results *scratch) {
    kin_graph *graph = NULL;
    kin_tensor results[KIN_MAX_OUTPUTS];
    if (!suite_ok(sc, "step mode",
                  kin_graph_create_step(kin_guard_device(sc->suite->guard), &graph)))
        return false;
    suite_append(sc, graph, true, NULL, results);
    kin_status status = kin_graph_status(graph);
    for (int j = 0; status == KIN_OK && j < sc->out_count; j++)
        status = kin_graph_read(graph, results[j], sc->out_desc[j].dtype, scratch->bytes[j]);
    kin_graph_destroy(graph);
    if (status == KIN_OK) status = kin_guard_check(sc->suite->guard);
    return suite_ok(sc, "step mode", status) && same_bits(sc, "step mode", first, scratch);
}

/* Results only: two runs, with the same bits. */
static void run_plan_only(suite_case *sc) {
    raw_results first = {{0}}, scratch = {{0}};
    bool lowered = false;
    if (new_results(sc, &first) && new_results(sc, &scratch))
        check_plan(sc, "views", &first, &scratch, &lowered);
    sc->result->lowered = lowered;
    free_results(sc, &first);
    free_results(sc, &scratch);
}

static void run_spoiled(suite_case *sc) {
    kin_suite_result *result = sc->result;
    kin_guard_spoil(sc->suite->guard, true);
    run_plan_only(sc);
    kin_guard_spoil(sc->suite->guard, false);
    result->worst = 0;
    if (result->verdict == KIN_SUITE_FAILED && strstr(result->message, "allowed is")) {
        result->verdict = KIN_SUITE_PASSED;
        result->message[0] = 0;
        result->controls++;
    } else if (result->verdict == KIN_SUITE_PASSED && sc->nodes == 0) {
        result->verdict = KIN_SUITE_SKIPPED; /* the result is an input, seen otherwise */
    } else if (result->verdict == KIN_SUITE_PASSED) {
        suite_fail(sc, "a device that returns a wrong result was not refused");
    }
}

static void run_results(suite_case *sc) {
    raw_results first = {{0}}, scratch = {{0}};
    bool lowered = false, hidden_lowered = false;
    bool good = new_results(sc, &first) && new_results(sc, &scratch) &&
                check_plan(sc, "plan", &first, &scratch, &lowered) &&
                check_step_mode(sc, &first, &scratch);
    sc->result->lowered = lowered;
    if (good && sc->op->lower && !lowered) {
        kin_guard_hide(sc->suite->guard, sc->op->name);
        good = check_plan(sc, "lowered", &first, &scratch, &hidden_lowered);
        kin_guard_hide(sc->suite->guard, NULL);
        if (good && !hidden_lowered) suite_fail(sc, "lowered: the plan lowered nothing");
        /* a device with a kernel for the op may lack what the op would be lowered to */
        if (sc->result->verdict == KIN_SUITE_MISSING) {
            sc->result->verdict = KIN_SUITE_PASSED;
            sc->result->message[0] = sc->result->missing[0] = 0;
        }
    }
    free_results(sc, &first);
    free_results(sc, &scratch);
}

void kin_suite_run_results(kin_suite *suite, const kin_op *op, const kin_case *test,
                           kin_dtype dtype, kin_suite_result *out_result) {
    suite_case sc;
    if (suite_case_open(&sc, suite, op, test, dtype, out_result)) {
        if ((op->flags & KIN_OP_COMPOSITE) && !op->lower)
            suite_fail(&sc, "a composite op has no lowering");
        else run_results(&sc);
    }
    suite_case_close(&sc);
}

/* Lays every dense input out as a view; false if there is nothing to change. */
static bool change_layouts(const kin_op *op, const kin_case *test, kin_case *out) {
    bool changed = false;
    *out = *test;
    for (int i = 0; i < test->input_count && !(op->flags & KIN_OP_VIEW); i++) {
        kin_case_input *input = &out->inputs[i];
        bool free = input->rank > 0 && input->layout == KIN_LAYOUT_DENSE &&
                    input->dtype != KIN_Q8_0 && !suite_is_alias(op, i);
        if (!free) continue;
        input->layout = input->rank > 1 && i % 2 == 0 ? KIN_LAYOUT_TRANSPOSED : KIN_LAYOUT_PADDED;
        changed = true;
    }
    return changed;
}

void kin_suite_run_views(kin_suite *suite, const kin_op *op, const kin_case *test, kin_dtype dtype,
                         kin_suite_result *out_result) {
    kin_case views;
    suite_case sc;
    if (!change_layouts(op, test, &views)) {
        *out_result = (kin_suite_result){.verdict = KIN_SUITE_SKIPPED};
        return;
    }
    if (suite_case_open(&sc, suite, op, &views, dtype, out_result)) run_plan_only(&sc);
    suite_case_close(&sc);
}

void kin_suite_run_spoiled(kin_suite *suite, const kin_op *op, const kin_case *test,
                           kin_dtype dtype, kin_suite_result *out_result) {
    suite_case sc;
    if (suite_case_open(&sc, suite, op, test, dtype, out_result)) run_spoiled(&sc);
    suite_case_close(&sc);
}
