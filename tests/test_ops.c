/* Every case of every op on the CPU, in f32, bf16 and f16: results, gradients, and that wrong ones
 * are seen. The tolerances are those of tools/check/op_suite.h; central differences must agree with
 * gradients in double to 1e-6 of the largest element.
 *
 * KINORA_TEST_OP=NAME runs one op only. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backends/cpu/cpu.h"
#include "ops/elementwise.h"
#include "tools/check/op_suite.h"

static const kin_dtype dtypes[] = {KIN_F32, KIN_BF16, KIN_F16};

typedef struct fixture {
    kin_context *context;
    kin_backends *backends;
    kin_device *device;
    kin_suite *suite;
} fixture;

static int open_fixture(void **state) {
    static fixture made;
    made = (fixture){NULL, NULL, NULL, NULL};
    kin_context_options options = {.struct_size = sizeof options, .threads = 2};
    if (kin_context_create(&options, &made.context) != KIN_OK ||
        kin_backends_load(made.context, NULL, &made.backends) != KIN_OK ||
        kin_device_open(made.backends, "cpu", &made.device) != KIN_OK ||
        kin_suite_open(made.device, &made.suite) != KIN_OK)
        return -1;
    *state = &made;
    return 0;
}

static int close_fixture(void **state) {
    fixture *made = *state;
    kin_suite_close(made->suite);
    kin_device_close(made->device);
    kin_backends_free(made->backends);
    kin_context_destroy(made->context);
    return 0;
}

typedef void run_fn(kin_suite *suite, const kin_op *op, const kin_case *test, kin_dtype dtype,
                    kin_suite_result *out_result);

static kin_suite_counts walk(fixture *made, run_fn *run, const char *what) {
    const char *only = getenv("KINORA_TEST_OP");
    kin_suite_counts counts = {0};
    for (const kin_op *const *op = kin_op_list; *op; op++) {
        if (only && strcmp((*op)->name, only) != 0) continue;
        for (size_t i = 0; i < (*op)->case_count; i++) {
            for (size_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++) {
                kin_suite_result result;
                run(made->suite, *op, &(*op)->cases[i], dtypes[d], &result);
                kin_suite_count(&counts, &result);
                if (result.verdict == KIN_SUITE_FAILED)
                    print_message("%s, %s, %s, %s: %s\n", what, (*op)->name, (*op)->cases[i].name,
                                  kin_dtype_name(dtypes[d]), result.message);
            }
        }
    }
    print_message("%s: %d passed (%d of them lowered), %d failed\n", what, counts.passed,
                  counts.lowered, counts.failed);
    return counts;
}

static void test_results(void **state) {
    kin_suite_counts counts = walk(*state, kin_suite_run_results, "results");
    assert_int_equal(counts.failed, 0);
    assert_true(counts.passed > 0);
}

static void test_gradients(void **state) {
    kin_suite_counts counts = walk(*state, kin_suite_run_gradient, "gradients");
    assert_int_equal(counts.failed, 0);
}

/* The same from inputs that are views. */
static void test_views(void **state) {
    kin_suite_counts counts = walk(*state, kin_suite_run_views, "views");
    assert_int_equal(counts.failed, 0);
    assert_true(counts.passed > 0);
}

/* A device whose results are changed is refused in every op, unless nothing runs: some views. */
static void test_spoiled(void **state) {
    fixture *made = *state;
    for (const kin_op *const *op = kin_op_list; *op; op++) {
        kin_suite_counts counts = {0};
        for (size_t i = 0; i < (*op)->case_count && counts.controls == 0; i++) {
            kin_suite_result result;
            kin_suite_run_spoiled(made->suite, *op, &(*op)->cases[i], KIN_F32, &result);
            kin_suite_count(&counts, &result);
            if (result.verdict == KIN_SUITE_FAILED) fail_msg("%s: %s", (*op)->name, result.message);
        }
        if (counts.controls == 0 && !((*op)->flags & KIN_OP_VIEW))
            fail_msg("%s: no wrong device was refused", (*op)->name);
    }
}

/* Every op is tried: at least one case that is not for benchmarks, names that are unique. */
static void test_cases_exist(void **state) {
    (void)state;
    for (const kin_op *const *op = kin_op_list; *op; op++) {
        size_t tried = 0;
        for (size_t i = 0; i < (*op)->case_count; i++) {
            tried += !(*op)->cases[i].bench;
            for (size_t k = 0; k < i; k++)
                assert_string_not_equal((*op)->cases[i].name, (*op)->cases[k].name);
        }
        if (tried == 0) fail_msg("%s has no case", (*op)->name);
        if (!(*op)->reference) fail_msg("%s has no reference", (*op)->name);
        assert_ptr_equal(kin_op_find((*op)->name), *op);
    }
}

/* ---- ops that are wrong on purpose ---- */

static void twice_reference(const kin_reference *call) {
    int64_t count = kin_desc_count(&call->out_desc[0]);
    for (int64_t i = 0; i < count; i++) call->out[0][i] = 2.001 * call->in[0][i];
}

static void square_reference(const kin_reference *call) {
    int64_t count = kin_desc_count(&call->out_desc[0]);
    for (int64_t i = 0; i < count; i++) call->out[0][i] = call->in[0][i] * call->in[0][i];
}

static kin_status infer_same(kin_infer *infer) {
    kin_infer_like(infer, 0, 0, infer->in[0]->dtype);
    return KIN_OK;
}

static void twice_lower(kin_lower_call *call) {
    call->out[0] = kin_scale(call->graph, call->in[0], 2, 0);
}

static void square_lower(kin_lower_call *call) {
    call->out[0] = kin_mul(call->graph, call->in[0], call->in[0]);
}

/* Without the factor 2. */
static void wrong_square_gradient(kin_gradient_call *call) {
    call->in_grad[0] = kin_mul(call->graph, call->out_grad[0], call->in[0]);
}

static const kin_case one_case = {
    .name = "one", .input_count = 1, .inputs = {{.dtype = KIN_F32, .rank = 2, .dims = {3, 5}}}};

static void test_wrong_result_fails(void **state) {
    fixture *made = *state;
    const kin_op twice = {.name = "test_twice",
                          .outputs = 1,
                          .infer = infer_same,
                          .reference = twice_reference,
                          .lower = twice_lower};
    kin_suite_result result;
    kin_suite_run_results(made->suite, &twice, &one_case, KIN_F32, &result);
    assert_int_equal(result.verdict, KIN_SUITE_FAILED);
    assert_non_null(strstr(result.message, "element"));
}

static void test_wrong_gradient_fails(void **state) {
    fixture *made = *state;
    kin_op square = {.name = "test_square",
                     .outputs = 1,
                     .infer = infer_same,
                     .reference = square_reference,
                     .lower = square_lower,
                     .gradient = wrong_square_gradient};
    kin_suite_result result;
    kin_suite_run_results(made->suite, &square, &one_case, KIN_F32, &result);
    assert_int_equal(result.verdict, KIN_SUITE_PASSED);
    assert_true(result.lowered);
    kin_suite_run_gradient(made->suite, &square, &one_case, KIN_F32, &result);
    assert_int_equal(result.verdict, KIN_SUITE_FAILED);
    assert_non_null(strstr(result.message, "differences"));
}

/* ---- kernels that are wrong on purpose ---- */

static void square_elements(const kin_call *call, int64_t count) {
    const float *x = cpu_data(&call->in[0]);
    float *y = cpu_data(&call->out[0]);
    for (int64_t i = 0; i < count; i++) y[i] = x[i] * x[i];
}

static int64_t count_of(const kin_call *call) {
    return kin_desc_count(&call->out[0].desc);
}

static kin_status launch_right(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)device;
    (void)commands;
    square_elements(call, count_of(call));
    return KIN_OK;
}

static kin_status launch_behind(kin_device *device, kin_commands *commands, const kin_call *call) {
    ((float *)cpu_data(&call->out[0]))[count_of(call)] = 0;
    return launch_right(device, commands, call);
}

static kin_status launch_before(kin_device *device, kin_commands *commands, const kin_call *call) {
    ((float *)cpu_data(&call->out[0]))[-1] = 0;
    return launch_right(device, commands, call);
}

static kin_status launch_short(kin_device *device, kin_commands *commands, const kin_call *call) {
    (void)device;
    (void)commands;
    square_elements(call, count_of(call) - 1);
    return KIN_OK;
}

static kin_status launch_changing(kin_device *device, kin_commands *commands,
                                  const kin_call *call) {
    kin_status status = launch_right(device, commands, call);
    ((float *)cpu_data(&call->in[0]))[0] += 1;
    return status;
}

static kin_status launch_rough(kin_device *device, kin_commands *commands, const kin_call *call) {
    kin_status status = launch_right(device, commands, call);
    ((float *)cpu_data(&call->out[0]))[2] *= 1 + 1e-5f;
    return status;
}

/* One row for "square" before the CPU's own. */
typedef struct wrong_device {
    kin_device device; /* first */
    kin_backend table;
    kin_kernel row;
} wrong_device;

static const kin_kernel *wrong_kernel(const kin_device *device, size_t index) {
    const wrong_device *wrong = (const wrong_device *)device;
    return index == 0 ? &wrong->row : kin_backend_cpu.kernel(device, index - 1);
}

/* Runs a case of square with the given kernel. */
static kin_suite_result run_square(fixture *made, const kin_kernel *row, const kin_case *test) {
    wrong_device wrong = {.device = *made->device, .table = kin_backend_cpu, .row = *row};
    wrong.device.backend = &wrong.table;
    wrong.table.kernel = wrong_kernel;
    kin_suite *suite = NULL;
    kin_suite_result result;
    assert_int_equal(kin_suite_open(&wrong.device, &suite), KIN_OK);
    kin_suite_run_results(suite, kin_op_find("square"), test, KIN_F32, &result);
    kin_suite_close(suite);
    return result;
}

static void test_wrong_kernels_fail(void **state) {
    static const struct {
        kin_status (*launch)(kin_device *, kin_commands *, const kin_call *);
        const char *message;
    } wrong[] = {
        {launch_behind, "4 bytes behind a buffer"},
        {launch_before, "bytes before a buffer"},
        {launch_short, "element 14: got"},
        {launch_changing, "a second run: result 0 has other bits"},
        {launch_rough, "element 2: got"},
    };
    fixture *made = *state;
    kin_kernel row = {.op = "square", .name = "test_square", .launch = launch_right};
    assert_int_equal(run_square(made, &row, &one_case).verdict, KIN_SUITE_PASSED);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        row.launch = wrong[i].launch;
        kin_suite_result result = run_square(made, &row, &one_case);
        assert_int_equal(result.verdict, KIN_SUITE_FAILED);
        if (!strstr(result.message, wrong[i].message))
            fail_msg("\"%s\" is not in \"%s\"", wrong[i].message, result.message);
    }
    /* says that it takes any strides, but does not look at them */
    kin_case views = one_case;
    views.inputs[0].layout = KIN_LAYOUT_TRANSPOSED;
    row.launch = launch_right;
    assert_int_equal(run_square(made, &row, &views).verdict, KIN_SUITE_PASSED);
    row.strided = 1;
    assert_int_equal(run_square(made, &row, &views).verdict, KIN_SUITE_FAILED);
    views.inputs[0].layout = KIN_LAYOUT_PADDED;
    assert_int_equal(run_square(made, &row, &views).verdict, KIN_SUITE_FAILED);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases_exist),
        cmocka_unit_test(test_wrong_result_fails),
        cmocka_unit_test(test_wrong_gradient_fails),
        cmocka_unit_test(test_wrong_kernels_fail),
        cmocka_unit_test(test_results),
        cmocka_unit_test(test_views),
        cmocka_unit_test(test_spoiled),
        cmocka_unit_test(test_gradients),
    };
    return cmocka_run_group_tests(tests, open_fixture, close_fixture);
}
