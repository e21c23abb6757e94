/* The op suite: gradients of one case. */
#include "tools/check/op_suite_case.h"

#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/reduce.h"
#include "ops/walk.h"
#include "runtime/philox.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { DIRECTIONS = 2, MAX_ELEMENTS = 16, MAX_GIVEN = KIN_MAX_CASE_INPUTS + KIN_MAX_OUTPUTS };

/* Central differences in double err by the square of the step and by rounding over the step. */
static const double relative_step = 1e-5, difference_tolerance = 1e-6;

/* d sum(results * cotangents) / d input, in the storage's shape. */
typedef struct gradients {
    kin_graph *graph;
    kin_plan *plan;
    char names[KIN_MAX_CASE_INPUTS][16]; /* "" where there is none */
    bool flows[KIN_MAX_CASE_INPUTS];
    double *exact[KIN_MAX_CASE_INPUTS];    /* of the graph as it was made */
    double *planned[KIN_MAX_CASE_INPUTS];  /* of the plan's program; the same up to its constants */
    double *rounded[KIN_MAX_CASE_INPUTS];  /* of that, each node's results rounded */
    double *products[KIN_MAX_CASE_INPUTS]; /* of that, operands of products rounded */
} gradients;

static const char *const cotangent_names[KIN_MAX_OUTPUTS] = {"cot0", "cot1", "cot2", "cot3"};

static bool is_float_result(const suite_case *sc, int j) {
    return kin_dtype_is_float(sc->out_desc[j].dtype);
}

static kin_tensor append_loss(suite_case *sc, kin_graph *graph, const kin_tensor *results) {
    kin_tensor loss = KIN_NONE;
    for (int j = 0; j < sc->out_count; j++) {
        const kin_desc *desc = &sc->out_desc[j];
        if (!is_float_result(sc, j)) continue;
        kin_tensor cotangent =
            kin_input(graph, cotangent_names[j], KIN_F32, desc->rank, desc->dims);
        kin_tensor part = kin_mul(graph, kin_cast(graph, results[j], KIN_F32), cotangent);
        if (desc->rank) part = kin_sum_all(graph, part);
        loss = loss.id ? kin_add(graph, loss, part) : part;
    }
    return loss;
}

static bool build(suite_case *sc, gradients *made) {
    kin_tensor in[KIN_MAX_CASE_INPUTS], results[KIN_MAX_OUTPUTS];
    if (!suite_ok(sc, "gradient", kin_graph_create(sc->context, &made->graph))) return false;
    suite_append(sc, made->graph, false, in, results);
    for (int i = 0; i < sc->input_count; i++)
        if (sc->inputs[i].wants_gradient) kin_want_gradient(made->graph, in[i]);
    kin_backward(made->graph, append_loss(sc, made->graph, results));
    if (!suite_ok(sc, "gradient", kin_graph_status(made->graph))) return false;
    for (int i = 0; i < sc->input_count; i++) {
        kin_tensor gradient =
            sc->inputs[i].wants_gradient ? kin_gradient(made->graph, in[i]) : KIN_NONE;
        made->flows[i] = gradient.id != 0;
        snprintf(made->names[i], sizeof made->names[i], "grad%d", i);
        if (made->flows[i]) kin_output(made->graph, made->names[i], gradient);
    }
    return suite_ok(sc, "gradient", kin_graph_status(made->graph));
}

static int all_given(const suite_case *sc, kin_evaluate_value *given) {
    int count = suite_given(sc, given);
    for (int j = 0; j < sc->out_count; j++)
        if (is_float_result(sc, j))
            given[count++] = (kin_evaluate_value){cotangent_names[j], sc->cotangent[j]};
    return count;
}

/* In double, into values[]: the program of `plan`, or, without one, the graph as it was made. */
static bool evaluate(suite_case *sc, gradients *made, kin_plan *plan,
                     kin_evaluate_rounding rounding, double **values, double *out_reduction) {
    kin_evaluate_value given[MAX_GIVEN], wanted[KIN_MAX_CASE_INPUTS];
    int given_count = all_given(sc, given), wanted_count = 0;
    for (int i = 0; i < sc->input_count; i++) {
        if (!sc->inputs[i].wants_gradient) continue;
        size_t count = (size_t)kin_desc_count(&sc->inputs[i].storage);
        values[i] = kin_calloc(sc->context, count, sizeof(double));
        if (!values[i]) return suite_ok(sc, "gradient", KIN_OUT_OF_MEMORY);
        if (made->flows[i])
            wanted[wanted_count++] = (kin_evaluate_value){made->names[i], values[i]};
    }
    if (wanted_count == 0) return true;
    kin_status status = plan ? kin_plan_evaluate(plan, given, given_count, wanted, wanted_count,
                                                 rounding, out_reduction)
                             : kin_graph_evaluate(made->graph, given, given_count, wanted,
                                                  wanted_count, rounding, out_reduction);
    return suite_ok(sc, "gradient by references", status);
}

/* ---- central differences ---- */

typedef struct differences {
    double *low[KIN_MAX_OUTPUTS], *high[KIN_MAX_OUTPUTS];
    double *moved; /* the input that varies */
    double *direction;
} differences;

static double largest_of(const double *values, int64_t count) {
    double largest = 0;
    for (int64_t i = 0; i < count; i++)
        if (fabs(values[i]) > largest) largest = fabs(values[i]);
    return largest;
}

/* The derivative of sum(results * cotangents) along `direction` of input `index`; *out_noise is
 * what rounding in double may do to it. */
static double along(suite_case *sc, differences *work, int index, double step, double *out_noise) {
    const suite_input *input = &sc->inputs[index];
    int64_t count = kin_desc_count(&input->logical);
    const double *in[KIN_MAX_CASE_INPUTS];
    for (int i = 0; i < sc->input_count; i++) in[i] = sc->inputs[i].values;
    in[index] = work->moved;
    for (int side = 0; side < 2; side++) {
        for (int64_t k = 0; k < count; k++)
            work->moved[k] = input->values[k] + (side ? step : -step) * work->direction[k];
        suite_reference(sc, in, side ? work->high : work->low);
    }
    double sum = 0, magnitude = 0;
    for (int j = 0; j < sc->out_count; j++) {
        int64_t results = kin_desc_count(&sc->out_desc[j]);
        for (int64_t k = 0; is_float_result(sc, j) && k < results; k++) {
            if (sc->cotangent[j][k] == 0) continue;
            sum += sc->cotangent[j][k] * (work->high[j][k] - work->low[j][k]);
            magnitude += fabs(sc->cotangent[j][k] * sc->want[j][k]);
        }
    }
    *out_noise = 1e-15 * magnitude / step;
    return sum / (2 * step);
}

static bool compare_derivative(suite_case *sc, int index, const char *where, int64_t element,
                               double difference, double gradient, double allowed) {
    double error = fabs(difference - gradient);
    if (error <= allowed) {
        double wrong = gradient + (allowed > 0 ? 10 * allowed : 1);
        bool seen = !(fabs(difference - wrong) <= allowed);
        sc->result->controls += seen;
        return seen || suite_fail(sc, "a wrong derivative would not be seen");
    }
    return suite_fail(sc,
                      "gradient of input %d, %s %lld: %.9g by references, %.9g by differences; "
                      "allowed is %.3g",
                      index, where, (long long)element, gradient, difference, allowed);
}

static bool check_input(suite_case *sc, differences *work, const double *gradient, int index) {
    const suite_input *input = &sc->inputs[index];
    int64_t count = kin_desc_count(&input->logical);
    double largest = 0, total = 0, noise;
    double scale = largest_of(input->values, count);
    double step = relative_step * (scale > 0 ? scale : 1);
    uint64_t seed = 0x9E3779B97F4A7C15u + (uint64_t)index;
    double *logical = work->direction + count; /* the gradient without the storage's padding */
    kin_walk walk = kin_walk_start(&input->view, input->view.rank, input->view.dims);
    for (int64_t k = 0; k < count; k++, kin_walk_next(&walk)) {
        logical[k] = gradient[input->offset + walk.offset];
        total += fabs(logical[k]);
    }
    largest = largest_of(logical, count);
    int samples = (int)fmin(MAX_ELEMENTS, fmax(2, 1e7 / (sc->flops + 1)));
    for (int s = 0; s < samples && s < count; s++) {
        uint64_t word = kin_philox_element(seed, 1, 0, (uint64_t)s);
        int64_t at = samples >= count ? s : (int64_t)(word % (uint64_t)count);
        memset(work->direction, 0, (size_t)count * sizeof(double));
        work->direction[at] = 1;
        double difference = along(sc, work, index, step, &noise);
        if (!compare_derivative(sc, index, "element", at, difference, logical[at],
                                difference_tolerance * largest + noise))
            return false;
    }
    for (int d = 0; d < DIRECTIONS; d++) {
        double dot = 0;
        for (int64_t k = 0; k < count; k++) {
            uint32_t word = kin_philox_element(seed, 2 + (uint32_t)d, 0, (uint64_t)k);
            work->direction[k] = word & 1 ? 1 : -1;
            dot += work->direction[k] * logical[k];
        }
        double difference = along(sc, work, index, step, &noise);
        if (!compare_derivative(sc, index, "direction", d, difference, dot,
                                difference_tolerance * total + noise))
            return false;
    }
    return true;
}

static bool check_differences(suite_case *sc, const gradients *made) {
    differences work = {{0}, {0}, NULL, NULL};
    bool good = true;
    for (int j = 0; good && j < sc->out_count; j++) {
        size_t count = (size_t)kin_desc_count(&sc->out_desc[j]);
        work.low[j] = kin_calloc(sc->context, count, sizeof(double));
        work.high[j] = kin_calloc(sc->context, count, sizeof(double));
        good = work.low[j] && work.high[j];
    }
    for (int i = 0; good && i < sc->input_count; i++) {
        if (!sc->inputs[i].wants_gradient) continue;
        size_t count = (size_t)kin_desc_count(&sc->inputs[i].logical);
        work.moved = kin_calloc(sc->context, count, sizeof(double));
        work.direction = kin_calloc(sc->context, 2 * count, sizeof(double));
        good = work.moved && work.direction && check_input(sc, &work, made->exact[i], i);
        kin_free(sc->context, work.moved);
        kin_free(sc->context, work.direction);
    }
    for (int j = 0; j < sc->out_count; j++) {
        kin_free(sc->context, work.low[j]);
        kin_free(sc->context, work.high[j]);
    }
    return good || suite_fail(sc, "no memory for differences");
}

/* ---- on the device ---- */

static kin_status run_on_device(suite_case *sc, gradients *made) {
    kin_status status = kin_plan_prepare(made->plan, NULL, NULL);
    for (int i = 0; status == KIN_OK && i < sc->input_count; i++) {
        const suite_input *input = &sc->inputs[i];
        if (!input->absent && kin_plan_input_desc(made->plan, input->name))
            status = kin_plan_write(made->plan, input->name, input->storage.dtype, input->bytes);
    }
    for (int j = 0; status == KIN_OK && j < sc->out_count; j++)
        if (is_float_result(sc, j) && kin_plan_input_desc(made->plan, cotangent_names[j]))
            status = kin_plan_write(made->plan, cotangent_names[j], KIN_F64, sc->cotangent[j]);
    if (status == KIN_OK) status = kin_plan_run(made->plan);
    return status;
}

static bool compare_gradient(suite_case *sc, gradients *made, int index, double reduction) {
    const suite_input *input = &sc->inputs[index];
    int64_t count = kin_desc_count(&input->storage);
    double noise =
        suite_units(sc, reduction) *
            suite_largest_change(&input->storage, made->planned[index], made->rounded[index]) +
        suite_product_units(sc, reduction) *
            suite_largest_change(&input->storage, made->planned[index], made->products[index]);
    double *got = kin_alloc(sc->context, (size_t)count * sizeof(double));
    if (!got) return suite_ok(sc, "gradient", KIN_OUT_OF_MEMORY);
    char text[64];
    snprintf(text, sizeof text, "gradient of input %d", index);
    bool good = suite_ok(sc, text, kin_plan_read(made->plan, made->names[index], KIN_F64, got)) &&
                suite_compare(sc, text, &input->storage, got, made->exact[index], reduction, noise);
    kin_free(sc->context, got);
    return good;
}

/* What rounding does to the gradients: in the nodes of the plan; or, of an op that rounds within
 * (KIN_OP_ROUNDS), in those that it and its gradient are lowered to. */
static bool measure(suite_case *sc, gradients *made, double *out_reduction) {
    const bool within = (sc->op->flags & KIN_OP_ROUNDS) && sc->dtype != KIN_F32;
    kin_plan *plan = made->plan;
    bool good = true;
    if (within) {
        plan = NULL;
        kin_guard_hide(sc->suite->guard, sc->op->name);
        good = suite_plan(sc, "gradient", made->graph, &plan);
        kin_guard_hide(sc->suite->guard, NULL);
    }
    good = good && evaluate(sc, made, plan, suite_exact(sc), made->planned, out_reduction) &&
           evaluate(sc, made, plan, KIN_ROUND_ALL, made->rounded, out_reduction) &&
           evaluate(sc, made, plan, suite_exact(sc) | KIN_ROUND_PRODUCTS, made->products,
                    out_reduction);
    if (within) kin_plan_free(plan);
    return good;
}

static bool check_device(suite_case *sc, gradients *made) {
    double reduction = 1;
    bool any = false;
    for (int i = 0; i < sc->input_count; i++) any = any || made->flows[i];
    if (!any) return true;
    if (!suite_plan(sc, "gradient", made->graph, &made->plan) || !measure(sc, made, &reduction) ||
        !suite_ok(sc, "gradient", run_on_device(sc, made)))
        return false;
    sc->result->lowered = kin_plan_summarize(made->plan)->kernels_missing > 0;
    for (int i = 0; i < sc->input_count; i++)
        if (made->flows[i] && !compare_gradient(sc, made, i, reduction)) return false;
    return suite_ok(sc, "gradient", kin_guard_check(sc->suite->guard));
}

static void run_gradient(suite_case *sc) {
    gradients made = {.graph = NULL};
    double reduction = 1;
    if (build(sc, &made) && evaluate(sc, &made, NULL, KIN_ROUND_NOTHING, made.exact, &reduction) &&
        (sc->dtype != KIN_F32 || check_differences(sc, &made)))
        check_device(sc, &made);
    kin_plan_free(made.plan);
    kin_graph_destroy(made.graph);
    for (int i = 0; i < sc->input_count; i++) {
        kin_free(sc->context, made.exact[i]);
        kin_free(sc->context, made.planned[i]);
        kin_free(sc->context, made.rounded[i]);
        kin_free(sc->context, made.products[i]);
    }
}

void kin_suite_run_gradient(kin_suite *suite, const kin_op *op, const kin_case *test,
                            kin_dtype dtype, kin_suite_result *out_result) {
    suite_case sc;
    bool opened = suite_case_open(&sc, suite, op, test, dtype, out_result);
    bool from = false, to = false;
    for (int i = 0; opened && i < sc.input_count; i++)
        from = from || (op->gradient && sc.inputs[i].wants_gradient);
    for (int j = 0; opened && j < sc.out_count; j++) to = to || is_float_result(&sc, j);
    if (opened && from && to) run_gradient(&sc);
    else if (opened) out_result->verdict = KIN_SUITE_SKIPPED;
    suite_case_close(&sc);
}
