/* The conformance kit on devices that are wrong, or lack something, on purpose: what it must find,
 * and that it finds nothing on the CPU. Tolerances are those of tools/check/op_suite.h,
 * tools/check/check_model_run.h and tools/check/compare.h; each test of a verdict has its counterpart on a
 * device that is right. */
#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backends/cpu/cpu.h"
#include "ops/elementwise.h"
#include "ops/reduce_attrs.h"
#include "ops/softmax.h"
#include "ops/views.h"
#include "runtime/evaluate.h"
#include "runtime/file.h"
#include "runtime/inspect.h"
#include "tests/wrapped_device.h"
#include "tools/check/case.h"
#include "tools/check/check_model_run.h"
#include "tools/check/check_models.h"
#include "tools/check/compare.h"
#include "tools/check/guard_device.h"
#include "tools/check/op_suite.h"
#include "tools/plan_report.h"
#include "tools/verbs.h"

static const kin_precision f32 = {KIN_F32, KIN_F32};
static const kin_check_limits limits = {KIN_CHECK_VOCABULARY, KIN_CHECK_TEXT_LENGTH};

/* Memory that is asked for is counted. */
static size_t allocations;

static void *count_allocation(void *user, void *ptr, size_t size) {
    (void)user;
    if (size == 0) {
        free(ptr);
        return NULL;
    }
    allocations++;
    return realloc(ptr, size);
}

typedef struct fixture {
    kin_context *context;
    kin_backends *backends;
    kin_device *cpu;
    wrapped_device wrapped;
} fixture;

static int open_fixture(void **state) {
    static fixture made;
    kin_context_options options = {
        .struct_size = sizeof options, .threads = 2, .allocator = {count_allocation, NULL}};
    memset(&made, 0, sizeof made);
    if (kin_context_create(&options, &made.context) != KIN_OK ||
        kin_backends_load(made.context, NULL, &made.backends) != KIN_OK ||
        kin_device_open(made.backends, "cpu", &made.cpu) != KIN_OK)
        return -1;
    wrap_device(&made.wrapped, made.cpu);
    *state = &made;
    return 0;
}

static int close_fixture(void **state) {
    fixture *made = *state;
    kin_device_close(made->cpu);
    kin_backends_free(made->backends);
    kin_context_destroy(made->context);
    return 0;
}

static void expect(const char *text, const char *part) {
    if (!strstr(text, part)) fail_msg("no \"%s\" in \"%s\"", part, text);
}

static kin_graph *new_graph(fixture *made) {
    kin_graph *graph = NULL;
    assert_int_equal(kin_graph_create(made->context, &graph), KIN_OK);
    return graph;
}

/* ---- wrong kernels ---- */

static float silu(float x) {
    return x / (1 + expf(-x));
}

/* silu, up to the last element, which is off by a thousandth. */
static kin_status launch_rough_silu(kin_device *device, kin_commands *commands,
                                    const kin_call *call) {
    (void)device;
    (void)commands;
    int64_t count = kin_desc_count(&call->out[0].desc);
    const float *x = cpu_data(&call->in[0]);
    float *y = cpu_data(&call->out[0]);
    for (int64_t i = 0; i < count; i++) y[i] = silu(x[i]);
    y[count - 1] += 0.001f;
    return KIN_OK;
}

/* silu, but it reads an input again after it has written there: right unless it works in place. */
static kin_status launch_careless_silu(kin_device *device, kin_commands *commands,
                                       const kin_call *call) {
    (void)device;
    (void)commands;
    int64_t count = kin_desc_count(&call->out[0].desc);
    const float *x = cpu_data(&call->in[0]);
    float *y = cpu_data(&call->out[0]);
    for (int64_t i = 0; i < count; i++) {
        float value = silu(x[i]);
        y[i] = 0;
        y[i] += x[i] == 0 ? 0 : value;
    }
    return KIN_OK;
}

static void use_silu(wrapped_device *wrapped,
                     kin_status (*launch)(kin_device *, kin_commands *, const kin_call *),
                     uint64_t in_place) {
    wrapped->own[0] =
        (kin_kernel){.op = "silu", .name = "own_silu", .in_place = in_place, .launch = launch};
    wrapped->own_count = 1;
}

/* ---- the op suite ---- */

static kin_suite_result run_case(kin_device *device, const char *op, kin_dtype dtype,
                                 void (*run)(kin_suite *, const kin_op *, const kin_case *,
                                             kin_dtype, kin_suite_result *)) {
    const kin_op *found = kin_op_find(op);
    kin_suite *suite = NULL;
    kin_suite_result result;
    assert_non_null(found);
    assert_int_equal(kin_suite_open(device, &suite), KIN_OK);
    for (size_t i = 0; i < found->case_count; i++) { /* the first that says something */
        run(suite, found, &found->cases[i], dtype, &result);
        if (result.verdict != KIN_SUITE_SKIPPED || result.left_out) break;
    }
    kin_suite_close(suite);
    return result;
}

/* An op without kernel and lowering is missing, not failed, and named; so is a composite op whose
 * lowering needs it. */
static void missing_ops_are_named(void **state) {
    fixture *made = *state;
    made->wrapped.hidden[0] = "max";
    made->wrapped.hidden[1] = "softmax";
    kin_suite_result result =
        run_case(&made->wrapped.device, "max", KIN_F32, kin_suite_run_results);
    assert_int_equal(result.verdict, KIN_SUITE_MISSING);
    assert_string_equal(result.missing, "max");
    result = run_case(&made->wrapped.device, "softmax", KIN_F32, kin_suite_run_results);
    assert_int_equal(result.verdict, KIN_SUITE_MISSING);
    assert_string_equal(result.missing, "max");
    result = run_case(&made->wrapped.device, "softmax", KIN_F32, kin_suite_run_gradient);
    assert_int_equal(result.verdict, KIN_SUITE_MISSING);
    made->wrapped.hidden[0] = NULL;
    result = run_case(&made->wrapped.device, "softmax", KIN_F32, kin_suite_run_results);
    assert_int_equal(result.verdict, KIN_SUITE_PASSED);
    assert_true(result.lowered);
    /* its kernel serves, though it could not be lowered */
    made->wrapped.hidden[0] = "max";
    made->wrapped.hidden[1] = NULL;
    result = run_case(&made->wrapped.device, "softmax", KIN_F32, kin_suite_run_results);
    assert_int_equal(result.verdict, KIN_SUITE_PASSED);
    assert_false(result.lowered);
}

static void dtypes_are_the_devices(void **state) {
    fixture *made = *state;
    made->wrapped.device.info.dtypes = 1u << KIN_F32 | 1u << KIN_I32;
    kin_suite_result result =
        run_case(&made->wrapped.device, "add", KIN_BF16, kin_suite_run_results);
    assert_int_equal(result.verdict, KIN_SUITE_SKIPPED);
    assert_true(result.left_out);
    result = run_case(&made->wrapped.device, "add", KIN_F32, kin_suite_run_results);
    assert_int_equal(result.verdict, KIN_SUITE_PASSED);
    assert_true(result.controls > 0);
}

/* The suite's own negative control, and that it is none where nothing runs. */
static void spoiled_results_are_refused(void **state) {
    fixture *made = *state;
    kin_suite_result result = run_case(made->cpu, "softmax", KIN_F32, kin_suite_run_spoiled);
    assert_int_equal(result.verdict, KIN_SUITE_PASSED);
    assert_int_equal(result.controls, 1);
    assert_int_equal(run_case(made->cpu, "detach", KIN_F32, kin_suite_run_spoiled).verdict,
                     KIN_SUITE_SKIPPED);
    /* guard bytes keep to what the device asks of offsets */
    made->wrapped.device.info.alignment = 4096;
    result = run_case(&made->wrapped.device, "softmax", KIN_F32, kin_suite_run_results);
    assert_int_equal(result.verdict, KIN_SUITE_PASSED);
}

/* A kernel that says it reads views, but does not look at strides, passes its dense case. */
static void views_are_tried(void **state) {
    fixture *made = *state;
    use_silu(&made->wrapped, launch_careless_silu, 0);
    kin_device *device = &made->wrapped.device;
    assert_int_equal(run_case(device, "silu", KIN_F32, kin_suite_run_views).verdict,
                     KIN_SUITE_PASSED);
    made->wrapped.own[0].strided = 1;
    assert_int_equal(run_case(device, "silu", KIN_F32, kin_suite_run_views).verdict,
                     KIN_SUITE_FAILED);
}

/* ---- the plan's report ---- */

/* softmax(silu(x)) with x transposed, in a dtype. */
static kin_plan *plan_softmax(fixture *made, kin_dtype dtype, bool allow_reference) {
    kin_graph *graph = new_graph(made);
    kin_plan *plan = NULL;
    kin_plan_options options = {.struct_size = sizeof options, .allow_reference = allow_reference};
    int64_t dims[2] = {6, 5};
    kin_tensor x = kin_input(graph, "x", dtype, 2, dims);
    kin_scope_push(graph, "part");
    kin_output(graph, "out", kin_softmax(graph, kin_silu(graph, kin_transpose(graph, x, 0, 1))));
    kin_scope_pop(graph);
    kin_status status = kin_plan_build(graph, &made->wrapped.device, &options, &plan);
    kin_graph_destroy(graph);
    return status == KIN_OK ? plan : NULL;
}

static const kin_plan_node *find_node(const kin_plan *plan, kin_placement placement) {
    static kin_plan_node node;
    for (int i = 0; i < kin_plan_node_count(plan); i++) {
        node = kin_plan_node_at(plan, i);
        if (kin_plan_placement(&node) == placement) return &node;
    }
    return NULL;
}

static void plans_say_why(void **state) {
    fixture *made = *state;
    kin_plan *plan = plan_softmax(made, KIN_F32, false);
    assert_null(find_node(plan, KIN_PLACED_LOWERED));
    assert_null(find_node(plan, KIN_PLACED_HOST));
    kin_plan_free(plan);

    made->wrapped.hidden[0] = "softmax";
    plan = plan_softmax(made, KIN_F32, false);
    const kin_plan_node *node = find_node(plan, KIN_PLACED_LOWERED);
    assert_string_equal(node->origin, "softmax");
    assert_string_equal(node->path, "part");
    assert_string_equal(node->why, "the device has no kernel for softmax");
    kin_plan_free(plan);

    made->wrapped.hidden[0] = NULL;
    made->wrapped.f32_only = "softmax";
    plan = plan_softmax(made, KIN_BF16, false);
    node = find_node(plan, KIN_PLACED_LOWERED);
    assert_string_equal(node->origin, "softmax");
    expect(node->why, "not in bf16");
    kin_plan_free(plan);

    made->wrapped.f32_only = NULL;
    made->wrapped.hidden[0] = "silu";
    assert_null(plan_softmax(made, KIN_F32, false));
    expect(kin_context_error(made->context), "the device has no kernel for silu");
    plan = plan_softmax(made, KIN_F32, true);
    node = find_node(plan, KIN_PLACED_HOST);
    assert_string_equal(node->op, "silu");
    assert_string_equal(node->why, "the device has no kernel for silu");
    kin_plan_free(plan);

    made->wrapped.hidden[0] = NULL;
    use_silu(&made->wrapped, launch_careless_silu, 0); /* reads no views */
    plan = plan_softmax(made, KIN_F32, false);
    node = find_node(plan, KIN_PLACED_COPY);
    assert_string_equal(node->origin, "silu");
    assert_string_equal(node->why, "own_silu does not read input 0 with these strides");
    json_t *report = kin_plan_report_json(plan, true);
    assert_int_equal(json_array_size(json_object_get(report, "placement")), 1);
    assert_int_equal(json_array_size(json_object_get(report, "plan")), kin_plan_node_count(plan));
    json_decref(report);
    kin_plan_free(plan);
}

/* ---- models ---- */

/* A pass and gradients of a tiny model; the verdict. */
static kin_model_verdict run_model(fixture *made, kin_device *device, const char *name) {
    kin_graph *graph = new_graph(made);
    kin_check_values values;
    kin_model_run *run = NULL;
    kin_model_verdict verdict = {.passed = true};
    const kin_check_model *model = kin_check_model_find(name);
    assert_non_null(model);
    assert_int_equal(kin_check_append_forward(graph, model, &f32, 1, true), KIN_OK);
    assert_int_equal(kin_check_values_make(graph, made->cpu, &limits, 5, &values), KIN_OK);
    assert_int_equal(kin_model_run_open(graph, device, &values, KIN_F32, &run), KIN_OK);
    assert_int_equal(kin_model_run_step(run, &verdict), KIN_OK);
    kin_model_run_close(run);
    kin_check_values_free(&values);
    kin_graph_destroy(graph);
    return verdict;
}

static void models_are_held(void **state) {
    fixture *made = *state;
    kin_model_verdict verdict = run_model(made, made->cpu, "STDiT");
    assert_true(verdict.passed);
    assert_true(verdict.compared > 10);
    assert_int_equal(verdict.controls, verdict.compared);
    made->wrapped.hidden[0] = "attention";
    made->wrapped.hidden[1] = "layer_norm_modulate";
    assert_true(run_model(made, &made->wrapped.device, "STDiT").passed);
    use_silu(&made->wrapped, launch_rough_silu, 0);
    verdict = run_model(made, &made->wrapped.device, "STDiT");
    assert_false(verdict.passed);
    expect(verdict.message, "allowed is");
}

/* The table has what a text-to-video system needs, and names that are unique. */
static void every_role_has_a_model(void **state) {
    (void)state;
    int roles[KIN_CHECK_ROLES] = {0};
    for (const kin_check_model *model = kin_check_models; model->name; model++) {
        roles[model->role]++;
        assert_ptr_equal(kin_check_model_find(model->name), model);
    }
    for (int r = 0; r < KIN_CHECK_ROLES; r++) assert_true(roles[r] > 0);
    assert_null(kin_check_model_find("no such model"));
}

/* ---- two devices ---- */

static kin_comparison compare(fixture *made, kin_device *second, const char *name, bool train,
                              const char *folder) {
    kin_graph *graph = new_graph(made);
    kin_check_values values;
    kin_comparison result;
    const kin_check_model *model = kin_check_model_find(name);
    kin_status status = train ? kin_check_append_training(graph, model, &f32)
                              : kin_check_append_forward(graph, model, &f32, 1, false);
    assert_int_equal(status, KIN_OK);
    assert_int_equal(kin_check_values_make(graph, made->cpu, &limits, 5, &values), KIN_OK);
    assert_int_equal(kin_compare_devices(graph, &values, made->cpu, second, folder, &result),
                     KIN_OK);
    kin_check_values_free(&values);
    kin_graph_destroy(graph);
    return result;
}

static void right_devices_do_not_differ(void **state) {
    fixture *made = *state;
    made->wrapped.hidden[0] = "attention";
    made->wrapped.hidden[1] = "layer_norm_modulate";
    made->wrapped.hidden[2] = "gelu_tanh_grad";
    kin_comparison result = compare(made, &made->wrapped.device, "STDiT", true, NULL);
    assert_false(result.differs);
    assert_true(result.nodes > 100);
    assert_int_equal(result.compared, result.nodes);
    for (int i = 0; i < result.output_count; i++) assert_true(result.outputs[i].reuse == 0);
}

static kin_case_report replay(fixture *made, kin_device *device, const char *folder) {
    kin_case_options brief = {.brief = true};
    kin_case_report report;
    FILE *sink = tmpfile();
    assert_non_null(sink);
    assert_int_equal(kin_tool_check_case(made->context, device, folder, &brief, sink, &report),
                     KIN_OK);
    fclose(sink);
    return report;
}

/* The first node that differs is the first of the op whose kernel is wrong; the folder that is
 * written fails there and passes elsewhere. */
static void the_first_wrong_node_is_named(void **state) {
    fixture *made = *state;
    char folder[] = "/tmp/kinora-conformance-XXXXXX";
    assert_non_null(mkdtemp(folder));
    use_silu(&made->wrapped, launch_rough_silu, 0);
    for (int train = 0; train < 2; train++) {
        kin_comparison result = compare(made, &made->wrapped.device, "STDiT", train == 1, folder);
        assert_true(result.differs);
        assert_string_equal(result.op, "silu");
        assert_string_equal(result.second_kernels, "own_silu");
        assert_false(result.first_off);
        assert_true(result.second_off);
        assert_true(result.alone);
        assert_true(result.error > 0.0009 && result.error < 0.0011);
        assert_true(result.element == kin_desc_count(&result.desc) - 1);
        assert_int_equal(replay(made, made->cpu, folder).verdict, KIN_CASE_PASSED);
        kin_case_report report = replay(made, &made->wrapped.device, folder);
        assert_int_equal(report.verdict, KIN_CASE_FAILED);
        assert_string_equal(report.first_off, "out0");
    }
    char command[256];
    snprintf(command, sizeof command, "rm -r %s", folder);
    assert_int_equal(system(command), 0);
}

/* Every node is right when all results are kept, but the plan as it is works in place. */
static void memory_used_twice_is_seen(void **state) {
    fixture *made = *state;
    use_silu(&made->wrapped, launch_careless_silu, 0);
    made->wrapped.hidden[0] = "linear_fused"; /* which would do the SiLU in another kernel */
    kin_comparison result = compare(made, &made->wrapped.device, "STDiT", false, NULL);
    assert_false(result.differs);
    assert_true(result.outputs[0].reuse == 0);
    made->wrapped.own[0].in_place = 1;
    result = compare(made, &made->wrapped.device, "STDiT", false, NULL);
    assert_false(result.differs);
    assert_true(result.outputs[0].reuse > 0.01);
}

/* ---- one op in a folder ---- */

/* matmul of a transposed slice, with an offset, and a dense matrix. */
static kin_one_op *make_one_op(fixture *made) {
    kin_one_op *one = NULL;
    float data[40];
    for (int i = 0; i < 40; i++) data[i] = (float)(i % 7) - 3;
    kin_desc base = kin_desc_dense(KIN_F32, 2, (int64_t[]){4, 5}), view = base;
    view.dims[0] = 3; /* columns 1 .. 3 of the first 3 rows, transposed */
    view.dims[1] = 3;
    view.strides[0] = 1;
    view.strides[1] = 5;
    kin_desc other = kin_desc_dense(KIN_F32, 2, (int64_t[]){3, 2});
    assert_int_equal(kin_one_op_create(made->context, kin_op_find("matmul"), NULL, 2, "a.b", &one),
                     KIN_OK);
    assert_int_equal(kin_one_op_set(one, 0, &base, data, &view, 1), KIN_OK);
    assert_int_equal(kin_one_op_set(one, 1, &other, data + 20, &other, 0), KIN_OK);
    assert_int_equal(kin_one_op_finish(one), KIN_OK);
    /* what lies behind the view is left out: 1 + 2 * 1 + 2 * 5 + 1 elements */
    assert_int_equal(one->in[0].storage.dims[0], 14);
    return one;
}

static void check_product(const kin_one_op *one, const double *got) {
    const float *a = one->in[0].data, *b = one->in[1].data;
    for (int m = 0; m < 3; m++)
        for (int n = 0; n < 2; n++) {
            double want = 0;
            for (int k = 0; k < 3; k++) want += (double)a[1 + m + 5 * k] * b[2 * k + n];
            assert_true(got[2 * m + n] == want); /* small whole numbers */
        }
}

static void write_text(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void one_op_comes_back(void **state) {
    fixture *made = *state;
    char folder[] = "/tmp/kinora-one-op-XXXXXX", path[128], command[256];
    assert_non_null(mkdtemp(folder));
    kin_one_op *one = make_one_op(made), *read = NULL;
    kin_one_result result;
    assert_int_equal(kin_one_op_save(one, folder, "a test"), KIN_OK);
    assert_int_equal(kin_one_op_load(made->context, folder, &read), KIN_OK);
    assert_string_equal(read->path, "a.b");
    assert_int_equal(kin_one_op_run(read, made->cpu, true, &result), KIN_OK);
    check_product(one, result.out[0]);
    kin_one_result_free(made->context, &result);
    assert_int_equal(kin_one_op_reference(read, &result), KIN_OK);
    check_product(one, result.out[0]);
    kin_one_result_free(made->context, &result);
    kin_one_op_free(read);
    kin_one_op_free(one);
    char words[4][64] = {"--case", "", "--min-time", "0"};
    char *arguments[4] = {words[0], words[1], words[2], words[3]};
    snprintf(words[1], sizeof words[1], "%s", folder);
    assert_int_equal(kin_verb_bench_ops(4, arguments), 0);

    static const char *const bad[] = {
        "{}",
        "{\"op\": \"no_such_op\", \"attributes\": \"\", \"inputs\": []}",
        "{\"op\": \"matmul\", \"attributes\": \"00\", \"inputs\": []}",
        "{\"op\": \"matmul\", \"attributes\": \"\", \"inputs\": []}",
        "{\"op\": \"matmul\", \"attributes\": \"\", \"inputs\": [null, null]}",
        "{\"op\": \"matmul\", \"attributes\": \"\", \"inputs\": [{}, null]}",
        /* beyond the data, by an offset, a stride, and a size that would overflow */
        "{\"op\": \"silu\", \"attributes\": \"\", \"inputs\": [{\"dtype\": \"f32\", \"dims\": [2], "
        "\"strides\": [1], \"offset\": 13}]}",
        "{\"op\": \"silu\", \"attributes\": \"\", \"inputs\": [{\"dtype\": \"f32\", \"dims\": [3], "
        "\"strides\": [7], \"offset\": 0}]}",
        "{\"op\": \"silu\", \"attributes\": \"\", \"inputs\": [{\"dtype\": \"f32\", \"dims\": "
        "[1000000000000, 1000000000000], \"strides\": [1000000000000, 1], \"offset\": 0}]}",
        "{\"op\": \"silu\", \"attributes\": \"\", \"inputs\": [{\"dtype\": \"f32\", \"dims\": "
        "[-1], "
        "\"strides\": [1], \"offset\": 0}]}",
        "{\"op\": \"silu\", \"attributes\": \"\", \"inputs\": [{\"dtype\": \"f16\", \"dims\": [1], "
        "\"strides\": [1], \"offset\": 0}]}",
    };
    snprintf(path, sizeof path, "%s/config.json", folder);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_text(path, bad[i]);
        if (kin_one_op_load(made->context, folder, &read) == KIN_OK) fail_msg("taken: %s", bad[i]);
        assert_null(read);
    }
    write_text(path, "{\"op\": \"silu\", \"attributes\": \"\", \"inputs\": [{\"dtype\": \"f32\", "
                     "\"dims\": [2], \"strides\": [1], \"offset\": 12}]}");
    assert_int_equal(kin_one_op_load(made->context, folder, &read), KIN_OK);
    kin_one_op_free(read);
    snprintf(command, sizeof command, "rm -r %s", folder);
    assert_int_equal(system(command), 0);
}

/* Large terms of both signs leave a small sum: what a device may err by is the rounding of the
 * terms, not of the rest; a term that is missing is seen all the same. */
static void cancelling_sums_are_allowed(void **state) {
    enum { TERMS = 500 };
    fixture *made = *state;
    kin_one_op *one = NULL;
    kin_one_result got, want;
    kin_reduce_attrs attrs = {.axes = 1};
    static float data[TERMS];
    for (int i = 0; i < TERMS; i++)
        data[i] = (i % 2 ? 1.f : -1.f) * (1 + 0.37f * (float)(i / 2)) + (i == 77 ? 1e-5f : 0);
    kin_desc desc = kin_desc_dense(KIN_F32, 1, (int64_t[]){TERMS});
    assert_int_equal(kin_one_op_create(made->context, kin_op_find("sum"), &attrs, 1, "", &one),
                     KIN_OK);
    assert_int_equal(kin_one_op_set(one, 0, &desc, data, &desc, 0), KIN_OK);
    assert_int_equal(kin_one_op_finish(one), KIN_OK);
    assert_int_equal(kin_one_op_run(one, made->cpu, true, &got), KIN_OK);
    assert_int_equal(kin_one_op_reference(one, &want), KIN_OK);
    kin_one_difference d = kin_one_op_compare(one, 0, got.out[0], want.out[0]);
    double usual = kin_one_op_tolerance(one, made->cpu, 0) * d.largest;
    assert_true(got.extra[0] > 1e-5 && got.extra[0] < 0.5); /* terms are 0.6 to 93 */
    assert_true(d.error <= usual + got.extra[0]);
    got.out[0][0] += 0.63; /* without the first term */
    d = kin_one_op_compare(one, 0, got.out[0], want.out[0]);
    assert_true(d.error > usual + got.extra[0]);
    kin_one_result_free(made->context, &got);
    kin_one_result_free(made->context, &want);
    kin_one_op_free(one);
}

/* ---- memory of a run ---- */

static void runs_allocate_nothing(void **state) {
    fixture *made = *state;
    kin_guard *guard = NULL;
    kin_graph *graph = new_graph(made);
    kin_check_values values;
    kin_store *store = NULL;
    kin_plan *plan = NULL;
    assert_int_equal(kin_guard_open(made->cpu, &guard), KIN_OK);
    kin_device *device = kin_guard_device(guard);
    assert_int_equal(kin_check_append_training(graph, kin_check_model_find("STDiT"), &f32), KIN_OK);
    assert_int_equal(kin_check_values_make(graph, device, &limits, 5, &values), KIN_OK);
    assert_int_equal(kin_plan_build(graph, device, NULL, &plan), KIN_OK);
    assert_int_equal(kin_store_create(device, &store), KIN_OK);
    assert_int_equal(kin_store_add_graph(store, graph, 1), KIN_OK);
    assert_int_equal(kin_plan_prepare(plan, store, NULL), KIN_OK);
    assert_int_equal(kin_check_values_write(&values, plan, store), KIN_OK);
    size_t before = allocations, buffers = kin_guard_allocations(guard);
    for (int i = 0; i < 3; i++) assert_int_equal(kin_plan_run(plan), KIN_OK);
    assert_int_equal(allocations, before);
    assert_int_equal(kin_guard_allocations(guard), buffers);
    /* the counters count */
    const char *where;
    assert_int_equal(kin_plan_find_nonfinite(plan, &where), KIN_OK);
    assert_true(allocations > before);
    assert_int_equal(kin_plan_prepare(plan, store, NULL), KIN_OK);
    assert_true(kin_guard_allocations(guard) > buffers);
    kin_plan_free(plan);
    kin_store_free(store);
    kin_check_values_free(&values);
    kin_graph_destroy(graph);
    kin_guard_close(guard);
}

/* ---- looking at a graph ---- */

static void graphs_can_be_read(void **state) {
    fixture *made = *state;
    kin_graph *graph = new_graph(made);
    int64_t dims[2] = {4, 3};
    kin_tensor x = kin_input(graph, "x", KIN_F32, 2, dims), found;
    kin_tensor part = kin_slice(graph, kin_transpose(graph, x, 0, 1), 0, 1, 2);
    kin_scope_push(graph, "here");
    kin_tensor y = kin_silu(graph, part);
    kin_scope_pop(graph);
    kin_neg(graph, x); /* nobody wants it */
    kin_output(graph, "y", y);
    bool live[4];
    assert_int_equal(kin_graph_node_count(graph), 4);
    assert_int_equal(kin_graph_find_live(graph, live), KIN_OK);
    assert_true(live[0] && live[1] && live[2] && !live[3]);
    kin_node_info node = kin_graph_node_at(graph, 2);
    assert_string_equal(node.op->name, "silu");
    assert_string_equal(node.path, "here");
    assert_int_equal(node.in[0].id, part.id);
    kin_value_info value = kin_graph_value_at(graph, part);
    assert_int_equal(value.kind, KIN_VALUE_INPUT);
    assert_int_equal(value.base.id, x.id);
    assert_int_equal(value.offset, 1);
    assert_int_equal(value.desc.strides[0], 1);
    assert_int_equal(value.desc.strides[1], 3);
    assert_string_equal(value.name, "x");
    assert_int_equal(kin_graph_value_at(graph, y).kind, KIN_VALUE_NODE);
    assert_string_equal(kin_graph_output_at(graph, 0, &found), "y");
    assert_int_equal(found.id, y.id);
    assert_null(kin_graph_output_at(graph, 1, &found));
    assert_string_equal(kin_graph_input_at(graph, 0, &found), "x");
    assert_null(kin_graph_input_at(graph, 1, &found));
    kin_graph_destroy(graph);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, open_fixture, close_fixture)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(missing_ops_are_named),
        TEST(dtypes_are_the_devices),
        TEST(spoiled_results_are_refused),
        TEST(views_are_tried),
        TEST(plans_say_why),
        TEST(models_are_held),
        TEST(every_role_has_a_model),
        TEST(right_devices_do_not_differ),
        TEST(the_first_wrong_node_is_named),
        TEST(memory_used_twice_is_seen),
        TEST(one_op_comes_back),
        TEST(cancelling_sums_are_allowed),
        TEST(runs_allocate_nothing),
        TEST(graphs_can_be_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
