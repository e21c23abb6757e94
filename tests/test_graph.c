/* Graphs: sticky errors, names, views, dead code, rules of updates, gradients, evaluation.
 *
 * Values are whole numbers or small fractions that f32 holds exactly, so that all comparisons are
 * for equality, except the gradient of an exponential (1e-12 in double).
 */
#define _POSIX_C_SOURCE 200809L

#include "tests/runtime_support.h"

#include <math.h>

#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/matmul.h"
#include "ops/optimizer.h"
#include "ops/reduce.h"
#include "ops/softmax.h"
#include "ops/split.h"
#include "ops/views.h"
#include "runtime/evaluate.h"
#include "runtime/plan.h"

#define DIMS(...) ((const int64_t[]){__VA_ARGS__})

typedef struct fixture {
    kin_context *context;
    kin_backends *backends;
    kin_device *null_device, *cpu;
    kin_graph *graph;
} fixture;

static int setup(void **state) {
    static fixture f;
    f = (fixture){.context = NULL};
    if (kin_context_create(NULL, &f.context) != KIN_OK ||
        kin_backends_load(f.context, NULL, &f.backends) != KIN_OK ||
        kin_device_open(f.backends, "null", &f.null_device) != KIN_OK ||
        kin_device_open(f.backends, "cpu", &f.cpu) != KIN_OK ||
        kin_graph_create(f.context, &f.graph) != KIN_OK)
        return -1;
    *state = &f;
    return 0;
}

static int teardown(void **state) {
    fixture *f = *state;
    kin_graph_destroy(f->graph);
    kin_device_close(f->cpu);
    kin_device_close(f->null_device);
    kin_backends_free(f->backends);
    kin_context_destroy(f->context);
    return 0;
}

static kin_tensor input(fixture *f, const char *name, int rank, const int64_t *dims) {
    return kin_input(f->graph, name, KIN_F32, rank, dims);
}

static kin_tensor weight(fixture *f, const char *name, int rank, const int64_t *dims) {
    return kin_variable(f->graph, name, KIN_VARIABLE_WEIGHT, KIN_F32, rank, dims,
                        (kin_init){KIN_INIT_ONE, 1});
}

/* The graph's first error must be of this status and its message hold the part. */
static void assert_refused(fixture *f, kin_status status, const char *part) {
    assert_int_equal(kin_graph_status(f->graph), status);
    assert_message(f->context, part);
}

/* ---- errors ---- */

static void test_errors_are_sticky(void **state) {
    fixture *f = *state;
    kin_tensor a = input(f, "a", 2, DIMS(2, 3)), b = input(f, "b", 2, DIMS(4, 5));
    kin_scope_push(f->graph, "blocks.%d", 3);
    kin_scope_push(f->graph, "attn");
    kin_tensor bad = kin_matmul(f->graph, a, b);
    assert_int_equal(bad.id, 0);
    kin_tensor next = kin_add(f->graph, bad, a);
    assert_int_equal(next.id, 0);
    assert_int_equal(kin_softmax(f->graph, a).id, 0);
    kin_matmul(f->graph, b, b); /* a second mistake does not replace the first */
    kin_output(f->graph, "out", next);
    kin_scope_pop(f->graph);
    kin_scope_pop(f->graph);
    assert_refused(f, KIN_INVALID, "blocks.3.attn");
    assert_message(f->context, "matmul(f32[2, 3], f32[4, 5])");
    kin_plan *plan = NULL;
    assert_int_equal(kin_plan_build(f->graph, f->null_device, NULL, &plan), KIN_INVALID);
    assert_null(plan);
    assert_message(f->context, "blocks.3.attn: matmul(f32[2, 3], f32[4, 5])");
}

static void test_missing_input(void **state) {
    fixture *f = *state;
    kin_add(f->graph, input(f, "a", 1, DIMS(3)), KIN_NONE);
    assert_refused(f, KIN_INVALID, "add: input 1 is missing");
}

static void test_foreign_tensor(void **state) {
    fixture *f = *state;
    kin_neg(f->graph, (kin_tensor){77});
    assert_refused(f, KIN_INVALID, "no tensor of this graph");
}

static void test_two_inputs_of_one_name(void **state) {
    fixture *f = *state;
    input(f, "x", 1, DIMS(3));
    input(f, "x", 1, DIMS(3));
    assert_refused(f, KIN_INVALID, "two inputs named \"x\"");
}

static void test_two_outputs_of_one_name(void **state) {
    fixture *f = *state;
    kin_tensor x = input(f, "x", 1, DIMS(3));
    kin_output(f->graph, "y", kin_neg(f->graph, x));
    kin_output(f->graph, "y", x);
    assert_refused(f, KIN_INVALID, "two outputs named \"y\"");
}

static void test_output_of_nothing(void **state) {
    fixture *f = *state;
    kin_output(f->graph, "y", KIN_NONE);
    assert_refused(f, KIN_INVALID, "output \"y\" is no tensor");
}

static void test_impossible_shape(void **state) {
    fixture *f = *state;
    input(f, "x", 2, DIMS(3, 0));
    assert_refused(f, KIN_INVALID, "\"x\" has an impossible shape");
}

static void test_shape_too_large(void **state) {
    fixture *f = *state;
    input(f, "x", 3, DIMS(INT64_C(1) << 31, INT64_C(1) << 31, 4));
    assert_refused(f, KIN_INVALID, "\"x\" has an impossible shape");
}

static void test_scopes_and_variables(void **state) {
    fixture *f = *state;
    kin_scope_push(f->graph, "a");
    kin_tensor w = weight(f, "w", 1, DIMS(4)), again = weight(f, "w", 1, DIMS(4));
    kin_scope_pop(f->graph);
    kin_tensor other = weight(f, "w", 1, DIMS(4));
    assert_int_equal(w.id, again.id);
    assert_int_not_equal(w.id, other.id);
    assert_string_equal(kin_variable_name(f->graph, w), "a.w");
    assert_string_equal(kin_variable_name(f->graph, other), "w");
    assert_int_equal(kin_variable_count(f->graph), 2);
    assert_int_equal(kin_variable_at(f->graph, 0).id, w.id);
    assert_int_equal(kin_graph_status(f->graph), KIN_OK);
    weight(f, "w", 1, DIMS(5));
    assert_refused(f, KIN_INVALID, "\"w\" is asked for with two shapes");
}

static void test_scope_pop_without_push(void **state) {
    fixture *f = *state;
    kin_scope_pop(f->graph);
    assert_refused(f, KIN_INVALID, "without a push");
}

static void test_nested_segments(void **state) {
    fixture *f = *state;
    kin_segment_begin(f->graph);
    kin_segment_begin(f->graph);
    assert_refused(f, KIN_INVALID, "do not nest");
}

/* ---- views ---- */

/* The output "y" of the graph, given that "x" counts 0, 1, 2, ...: in double, and on the CPU. */
static void assert_view(fixture *f, int64_t count, int64_t result_count, const double *want) {
    double given[256], got[256];
    float host[256], result[256];
    kin_plan *plan = NULL;
    for (int64_t i = 0; i < count; i++) given[i] = host[i] = (float)i;
    kin_evaluate_value in = {"x", given}, out = {"y", got};
    assert_int_equal(kin_graph_evaluate(f->graph, &in, 1, &out, 1, KIN_ROUND_NOTHING, NULL),
                     KIN_OK);
    assert_int_equal(kin_plan_build(f->graph, f->cpu, NULL, &plan), KIN_OK);
    assert_int_equal(kin_plan_prepare(plan, NULL, NULL), KIN_OK);
    assert_int_equal(kin_plan_write(plan, "x", KIN_F32, host), KIN_OK);
    assert_int_equal(kin_plan_run(plan), KIN_OK);
    assert_int_equal(kin_plan_read(plan, "y", KIN_F32, result), KIN_OK);
    kin_plan_free(plan);
    for (int64_t i = 0; i < result_count; i++) {
        if (got[i] != want[i] || (double)result[i] != want[i])
            fail_msg("element %d: %g in double, %g on the CPU, wanted %g", (int)i, got[i],
                     (double)result[i], want[i]);
    }
}

static void test_view_of_view(void **state) {
    fixture *f = *state;
    kin_tensor x = input(f, "x", 3, DIMS(2, 3, 4));
    kin_tensor y = kin_slice(f->graph, kin_transpose(f->graph, x, 0, 2), 0, 1, 2); /* [2, 3, 2] */
    const kin_desc *desc = kin_tensor_desc(f->graph, y);
    assert_int_equal(desc->strides[0], 1);
    assert_int_equal(desc->strides[1], 4);
    assert_int_equal(desc->strides[2], 12);
    kin_output(f->graph, "y", y);
    assert_view(f, 24, 12, (const double[]){1, 13, 5, 17, 9, 21, 2, 14, 6, 18, 10, 22});
}

static void test_reshape_copies_only_where_strides_forbid(void **state) {
    fixture *f = *state;
    kin_tensor x = input(f, "x", 2, DIMS(4, 3));
    kin_tensor rows = kin_slice(f->graph, x, 0, 1, 2);
    kin_tensor flat = kin_reshape(f->graph, rows, 1, DIMS(6));
    assert_int_equal(kin_tensor_desc(f->graph, flat)->strides[0], 1);
    kin_tensor turned = kin_reshape(f->graph, kin_transpose(f->graph, rows, 0, 1), 1, DIMS(-1));
    kin_output(f->graph, "flat", flat);
    kin_output(f->graph, "y", turned);
    assert_view(f, 12, 6, (const double[]){3, 6, 4, 7, 5, 8});
    kin_plan *plan = NULL;
    assert_int_equal(kin_plan_build(f->graph, f->cpu, NULL, &plan), KIN_OK);
    assert_int_equal(kin_plan_node_count(plan), 1); /* the copy for `turned`, none for `flat` */
    assert_string_equal(kin_plan_node_at(plan, 0).op, "copy");
    kin_plan_free(plan);
}

static void test_expand_and_split(void **state) {
    fixture *f = *state;
    kin_tensor x = input(f, "x", 2, DIMS(1, 4)), parts[2];
    kin_split(f->graph, kin_expand(f->graph, x, 2, DIMS(3, 4)), 1, 2, parts);
    kin_output(f->graph, "y", kin_sub(f->graph, parts[1], parts[0]));
    assert_view(f, 4, 6, (const double[]){2, 2, 2, 2, 2, 2});
}

static void test_eight_dimensions(void **state) {
    fixture *f = *state;
    kin_tensor x = input(f, "x", 8, DIMS(1, 2, 1, 2, 1, 2, 1, 2));
    const int axes[8] = {7, 6, 5, 4, 3, 2, 1, 0};
    kin_output(f->graph, "y", kin_permute(f->graph, x, axes));
    assert_view(f, 16, 16, (const double[]){0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15});
}

static void test_constants_are_copied(void **state) {
    fixture *f = *state;
    float data[4] = {1, 2, 3, 4};
    kin_tensor c = kin_constant(f->graph, KIN_F32, 1, DIMS(4), data);
    memset(data, 0, sizeof data);
    kin_output(f->graph, "y", kin_mul(f->graph, input(f, "x", 1, DIMS(4)), c));
    assert_view(f, 4, 4, (const double[]){0, 2, 6, 12});
}

/* ---- dead code ---- */

static int planned_nodes(fixture *f) {
    kin_plan *plan = NULL;
    assert_int_equal(kin_plan_build(f->graph, f->cpu, NULL, &plan), KIN_OK);
    int count = kin_plan_node_count(plan);
    kin_plan_free(plan);
    return count;
}

static void test_dead_code_goes(void **state) {
    fixture *f = *state;
    kin_tensor x = input(f, "x", 1, DIMS(8));
    kin_tensor dead = kin_exp(f->graph, kin_neg(f->graph, x));
    kin_output(f->graph, "y", kin_square(f->graph, x));
    assert_int_equal(planned_nodes(f), 1);
    kin_output(f->graph, "z", dead);
    assert_int_equal(planned_nodes(f), 3);
}

static void test_updates_live(void **state) {
    fixture *f = *state;
    kin_tensor x = input(f, "x", 1, DIMS(8));
    kin_accumulate(f->graph, weight(f, "sum", 1, DIMS(8)), kin_square(f->graph, x));
    kin_exp(f->graph, x); /* dead */
    assert_int_equal(planned_nodes(f), 2);
}

/* ---- updates ---- */

static void test_update_returns_the_new_value(void **state) {
    fixture *f = *state;
    kin_tensor w = weight(f, "w", 1, DIMS(4)), x = input(f, "x", 1, DIMS(4));
    kin_tensor before = kin_scale(f->graph, w, 10, 0);
    kin_tensor updated = kin_accumulate(f->graph, w, x);
    kin_output(f->graph, "before", before);
    kin_output(f->graph, "after", kin_add(f->graph, updated, x));
    assert_int_equal(kin_graph_status(f->graph), KIN_OK);
    kin_store *store = NULL;
    kin_plan *plan = NULL;
    assert_int_equal(kin_store_create(f->cpu, &store), KIN_OK);
    assert_int_equal(kin_store_add_graph(store, f->graph, 1), KIN_OK);
    assert_int_equal(kin_plan_build(f->graph, f->cpu, NULL, &plan), KIN_OK);
    assert_int_equal(kin_plan_prepare(plan, store, NULL), KIN_OK);
    const float data[4] = {1, 2, 3, 4};
    assert_int_equal(kin_plan_write(plan, "x", KIN_F32, data), KIN_OK);
    for (int run = 0; run < 3; run++) {
        float old[4], new[4], kept[4];
        assert_int_equal(kin_plan_run(plan), KIN_OK);
        assert_int_equal(kin_plan_read(plan, "before", KIN_F32, old), KIN_OK);
        assert_int_equal(kin_plan_read(plan, "after", KIN_F32, new), KIN_OK);
        assert_int_equal(kin_store_read(store, "w", KIN_F32, kept), KIN_OK);
        for (int i = 0; i < 4; i++) {
            float w_before = 1 + (float)run * data[i];
            assert_true(old[i] == 10 * w_before);
            assert_true(kept[i] == w_before + data[i]);
            assert_true(new[i] == w_before + 2 * data[i]);
        }
    }
    kin_plan_free(plan);
    kin_store_free(store);
}

static void test_reading_after_update(void **state) {
    fixture *f = *state;
    kin_tensor w = weight(f, "layer.w", 1, DIMS(4)), x = input(f, "x", 1, DIMS(4));
    kin_accumulate(f->graph, w, x);
    kin_neg(f->graph, w);
    assert_refused(f, KIN_INVALID, "\"layer.w\" as it was before an update");
}

static void test_reading_a_view_after_update(void **state) {
    fixture *f = *state;
    kin_tensor w = weight(f, "w", 1, DIMS(4)), x = input(f, "x", 1, DIMS(4));
    kin_tensor view = kin_slice(f->graph, w, 0, 1, 2);
    kin_accumulate(f->graph, w, x);
    kin_neg(f->graph, view);
    assert_refused(f, KIN_INVALID, "before an update");
}

static void test_update_of_a_value(void **state) {
    fixture *f = *state;
    kin_tensor x = input(f, "x", 1, DIMS(4));
    kin_accumulate(f->graph, kin_neg(f->graph, x), x);
    assert_refused(f, KIN_INVALID, "is not a variable");
}

static void test_update_of_an_input(void **state) {
    fixture *f = *state;
    kin_tensor x = input(f, "x", 1, DIMS(4));
    kin_assign(f->graph, x, kin_neg(f->graph, x));
    assert_refused(f, KIN_INVALID, "is not a variable");
}

/* ---- gradients ---- */

static void test_gradient_of_a_sum(void **state) {
    fixture *f = *state;
    kin_tensor x = input(f, "x", 1, DIMS(3)), w = weight(f, "w", 1, DIMS(3));
    kin_tensor frozen = weight(f, "frozen", 1, DIMS(3)), unused = weight(f, "unused", 1, DIMS(3));
    kin_freeze(f->graph, frozen);
    kin_want_gradient(f->graph, x);
    /* loss = sum(w x^2 + exp(w) frozen): d/dx = 2 w x, d/dw = x^2 + exp(w) frozen */
    kin_tensor loss =
        kin_sum_all(f->graph, kin_add(f->graph, kin_mul(f->graph, w, kin_square(f->graph, x)),
                                      kin_mul(f->graph, kin_exp(f->graph, w), frozen)));
    kin_backward(f->graph, loss);
    kin_output(f->graph, "dx", kin_gradient(f->graph, x));
    kin_output(f->graph, "dw", kin_gradient(f->graph, w));
    assert_int_equal(kin_gradient(f->graph, frozen).id, 0);
    assert_int_equal(kin_gradient(f->graph, unused).id, 0);
    double x_data[3] = {1, -2, 3}, w_data[3] = {0.5, 1, -1}, frozen_data[3] = {2, 0, 1};
    double dx[3], dw[3];
    kin_evaluate_value given[3] = {{"x", x_data}, {"w", w_data}, {"frozen", frozen_data}};
    kin_evaluate_value wanted[2] = {{"dx", dx}, {"dw", dw}};
    assert_int_equal(kin_graph_evaluate(f->graph, given, 3, wanted, 2, KIN_ROUND_NOTHING, NULL),
                     KIN_OK);
    for (int i = 0; i < 3; i++) {
        assert_true(dx[i] == 2 * w_data[i] * x_data[i]);
        double want = x_data[i] * x_data[i] + exp(w_data[i]) * frozen_data[i];
        assert_true(fabs(dw[i] - want) < 1e-12);
    }
}

static void test_gradient_stops_at_detach(void **state) {
    fixture *f = *state;
    kin_tensor w = weight(f, "w", 1, DIMS(2));
    kin_tensor loss =
        kin_sum_all(f->graph, kin_mul(f->graph, w, kin_detach(f->graph, kin_square(f->graph, w))));
    kin_backward(f->graph, loss);
    kin_output(f->graph, "dw", kin_gradient(f->graph, w));
    double data[2] = {3, -2}, dw[2];
    kin_evaluate_value given = {"w", data}, wanted = {"dw", dw};
    assert_int_equal(kin_graph_evaluate(f->graph, &given, 1, &wanted, 1, KIN_ROUND_NOTHING, NULL),
                     KIN_OK);
    assert_true(dw[0] == 9 && dw[1] == 4); /* w^2, not 3 w^2 */
}

static void test_backward_twice(void **state) {
    fixture *f = *state;
    kin_tensor loss = kin_sum_all(f->graph, weight(f, "w", 1, DIMS(2)));
    kin_backward(f->graph, loss);
    assert_int_equal(kin_graph_status(f->graph), KIN_OK);
    kin_backward(f->graph, loss);
    assert_refused(f, KIN_INVALID, "called before");
}

static void test_backward_of_a_vector(void **state) {
    fixture *f = *state;
    kin_backward(f->graph, kin_neg(f->graph, weight(f, "w", 1, DIMS(2))));
    assert_refused(f, KIN_INVALID, "scalar");
}

static void test_backward_of_nothing(void **state) {
    fixture *f = *state;
    kin_backward(f->graph, kin_sum_all(f->graph, input(f, "x", 1, DIMS(2))));
    assert_refused(f, KIN_INVALID, "nothing that can be trained");
}

/* ---- evaluation and step mode ---- */

static void test_evaluate_names_what_is_missing(void **state) {
    fixture *f = *state;
    double y[2];
    kin_output(f->graph, "y", kin_neg(f->graph, input(f, "x", 1, DIMS(2))));
    kin_evaluate_value wanted = {"y", y}, other = {"z", y};
    assert_int_equal(kin_graph_evaluate(f->graph, NULL, 0, &wanted, 1, KIN_ROUND_NOTHING, NULL),
                     KIN_NOT_FOUND);
    assert_message(f->context, "\"x\"");
    assert_int_equal(kin_graph_evaluate(f->graph, NULL, 0, &other, 1, KIN_ROUND_NOTHING, NULL),
                     KIN_NOT_FOUND);
    assert_message(f->context, "\"z\"");
}

static void test_evaluate_rounds_when_asked(void **state) {
    fixture *f = *state;
    double x[1] = {1.0 / 3}, y[1];
    kin_output(f->graph, "y", kin_neg(f->graph, input(f, "x", 1, DIMS(1))));
    kin_evaluate_value given = {"x", x}, wanted = {"y", y};
    assert_int_equal(kin_graph_evaluate(f->graph, &given, 1, &wanted, 1, KIN_ROUND_NOTHING, NULL),
                     KIN_OK);
    assert_true(y[0] == -1.0 / 3);
    assert_int_equal(kin_graph_evaluate(f->graph, &given, 1, &wanted, 1, KIN_ROUND_ALL, NULL),
                     KIN_OK);
    assert_true(y[0] == (double)(float)(-1.0 / 3));
}

static void test_step_mode(void **state) {
    fixture *f = *state;
    kin_graph *graph = NULL;
    const float data[4] = {1, 2, 3, 4};
    float got[4];
    assert_int_equal(kin_graph_create_step(f->cpu, &graph), KIN_OK);
    kin_tensor x = kin_input(graph, "x", KIN_F32, 2, DIMS(2, 2));
    assert_int_equal(kin_graph_write(graph, x, data), KIN_OK);
    kin_tensor square = kin_square(graph, x), turned = kin_transpose(graph, square, 0, 1);
    assert_int_equal(kin_graph_read(graph, turned, KIN_F32, got), KIN_OK);
    assert_true(got[0] == 1 && got[1] == 9 && got[2] == 4 && got[3] == 16);
    kin_tensor product = kin_matmul(graph, x, turned);
    assert_int_equal(kin_graph_read(graph, product, KIN_F32, got), KIN_OK);
    assert_true(got[0] == 1 + 2 * 4 && got[1] == 9 + 2 * 16);
    assert_int_equal(kin_graph_write(graph, square, data), KIN_INVALID);
    assert_int_equal(kin_graph_read(f->graph, x, KIN_F32, got), KIN_INVALID);
    kin_graph_destroy(graph);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_errors_are_sticky),
        TEST(test_missing_input),
        TEST(test_foreign_tensor),
        TEST(test_two_inputs_of_one_name),
        TEST(test_two_outputs_of_one_name),
        TEST(test_output_of_nothing),
        TEST(test_impossible_shape),
        TEST(test_shape_too_large),
        TEST(test_scopes_and_variables),
        TEST(test_scope_pop_without_push),
        TEST(test_nested_segments),
        TEST(test_view_of_view),
        TEST(test_reshape_copies_only_where_strides_forbid),
        TEST(test_expand_and_split),
        TEST(test_eight_dimensions),
        TEST(test_constants_are_copied),
        TEST(test_dead_code_goes),
        TEST(test_updates_live),
        TEST(test_update_returns_the_new_value),
        TEST(test_reading_after_update),
        TEST(test_reading_a_view_after_update),
        TEST(test_update_of_a_value),
        TEST(test_update_of_an_input),
        TEST(test_gradient_of_a_sum),
        TEST(test_gradient_stops_at_detach),
        TEST(test_backward_twice),
        TEST(test_backward_of_a_vector),
        TEST(test_backward_of_nothing),
        TEST(test_evaluate_names_what_is_missing),
        TEST(test_evaluate_rounds_when_asked),
        TEST(test_step_mode),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
