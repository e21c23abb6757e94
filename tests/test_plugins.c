/* Plug-ins that cannot serve, or fail: each is named and refused, or its error is reported, and
 * nothing else comes to harm. KINORA_FAULTY is the folder with one folder for each fault of
 * plugin_faulty.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ops/elementwise.h"
#include "ops/views.h"
#include "runtime/device.h"
#include "runtime/plan.h"
#include "tests/counted_memory.h"

/* Memory of the context is counted, so that nothing is left behind after a failure. */
typedef struct bench {
    counter memory;
    kin_context *context;
    kin_backends *backends;
} bench;

static void open_bench(bench *b, const char *fault) {
    char folder[512];
    *b = (bench){.context = NULL};
    kin_context_options options = {.struct_size = sizeof options,
                                   .allocator = {counted_resize, &b->memory}};
    assert_int_equal(kin_context_create(&options, &b->context), KIN_OK);
    snprintf(folder, sizeof folder, "%s/%s", KINORA_FAULTY, fault);
    assert_int_equal(kin_backends_load(b->context, folder, &b->backends), KIN_OK);
    assert_int_equal(kin_backends_file_count(b->backends), 1);
}

static void close_bench(bench *b) {
    kin_backends_free(b->backends);
    kin_context_destroy(b->context);
    assert_int_equal(b->memory.blocks, 0);
}

static void expect_text(const char *text, const char *part) {
    if (!strstr(text, part)) fail_msg("no \"%s\" in \"%s\"", part, text);
}

/* y = x + x on a device: writes, runs, times and reads it. */
static kin_status use(kin_device *device) {
    const float x[3] = {1, 2, 4};
    const int64_t dims[1] = {3};
    float y[3] = {0, 0, 0};
    kin_graph *graph = NULL;
    kin_plan *plan = NULL;
    kin_status status = kin_graph_create(device->context, &graph);
    if (status != KIN_OK) return status;
    kin_tensor in = kin_input(graph, "x", KIN_F32, 1, dims);
    kin_output(graph, "y", kin_add(graph, in, in));
    status = kin_plan_build(graph, device, NULL, &plan);
    if (status == KIN_OK) status = kin_plan_prepare(plan, NULL, NULL);
    if (status == KIN_OK) status = kin_plan_write(plan, "x", KIN_F32, x);
    if (status == KIN_OK) status = kin_plan_run(plan);
    if (status == KIN_OK) status = kin_plan_profile(plan);
    if (status == KIN_OK) status = kin_plan_read(plan, "y", KIN_F32, y);
    if (status == KIN_OK) {
        assert_true(y[0] == 2 && y[1] == 4 && y[2] == 8);
        assert_true(kin_plan_node_at(plan, 0).seconds == 1);
    }
    kin_plan_free(plan);
    kin_graph_destroy(graph);
    return status;
}

/* The same node by node, where other code allocates and records. */
static kin_status use_steps(kin_device *device) {
    const float x[3] = {1, 2, 4};
    const int64_t dims[1] = {3};
    float y[3];
    kin_graph *graph = NULL;
    kin_status status = kin_graph_create_step(device, &graph);
    if (status != KIN_OK) return status;
    kin_tensor in = kin_input(graph, "x", KIN_F32, 1, dims);
    status = kin_graph_write(graph, in, x);
    kin_tensor out = kin_add(graph, in, in);
    if (status == KIN_OK) status = kin_graph_status(graph);
    if (status == KIN_OK) status = kin_graph_read(graph, out, KIN_F32, y);
    kin_graph_destroy(graph);
    return status;
}

/* The control: the same source without a fault loads, opens and computes. */
static void test_sound(void **unused) {
    static const char *const sound[] = {"no_fault", "old_table"};
    (void)unused;
    for (int i = 0; i < 2; i++) {
        bench b;
        kin_device *device;
        open_bench(&b, sound[i]);
        const kin_backend_file *file = kin_backends_file_at(b.backends, 0);
        assert_true(file->loaded);
        expect_text(file->verdict, "loaded: faulty");
        assert_int_equal(kin_device_open(b.backends, "faulty", &device), KIN_OK);
        assert_int_equal(use(device), KIN_OK);
        assert_int_equal(use_steps(device), KIN_OK);
        kin_device_close(device);
        close_bench(&b);
    }
}

/* Refused while loading, with a reason; the built-in backends are there all the same. */
static void test_refused_files(void **unused) {
    static const char *const faults[][2] = {
        {"wrong_abi", "ABI version is another one"},
        {"other_version", "does not serve this ABI version"},
        {"small_table", "size that cannot be"},
        {"large_table", "size that cannot be"},
        {"null_entry", "a required function is NULL"},
        {"no_name", "its name is missing"},
        {"number_name", "not of letters"},
        {"no_symbol", "does not export kin_backend_get"},
    };
    (void)unused;
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        bench b;
        kin_device *device;
        open_bench(&b, faults[i][0]);
        const kin_backend_file *file = kin_backends_file_at(b.backends, 0);
        assert_false(file->loaded);
        expect_text(file->path, "libkinora-faulty.so");
        expect_text(file->verdict, faults[i][1]);
        assert_int_equal(kin_device_open(b.backends, "faulty", &device), KIN_NOT_FOUND);
        assert_int_equal(kin_device_open(b.backends, "cpu", &device), KIN_OK);
        kin_device_close(device);
        close_bench(&b);
    }
}

/* Loaded, but a device is not opened: its name and the reason are told. */
static void test_refused_devices(void **unused) {
    static const char *const faults[][2] = {
        {"negative_count", "counts -3 devices"},
        {"large_count", "counts 2000000000 devices"},
        {"odd_alignment", "not a power of two"},
        {"large_allocation", "larger than can be"},
        {"endless_name", "has no end"},
        {"unknown_dtype", "dtypes are not known"},
        {"row_without_op", "no op or no name"},
        {"row_without_launch", "no launch"},
        {"endless_kernels", "kernel list has no end"},
    };
    (void)unused;
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        bench b;
        kin_device *device = NULL;
        open_bench(&b, faults[i][0]);
        assert_true(kin_backends_file_at(b.backends, 0)->loaded);
        assert_int_equal(kin_device_open(b.backends, "faulty", &device), KIN_DEVICE);
        assert_null(device);
        expect_text(kin_context_error(b.context), "faulty");
        expect_text(kin_context_error(b.context), faults[i][1]);
        close_bench(&b);
    }
}

/* Garbage that shows later. */
static void test_late_garbage(void **unused) {
    static const char *const faults[][2] = {
        {"large_scratch", "bytes of scratch memory"},
        {"no_buffer", "gave no buffer"},
    };
    (void)unused;
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        bench b;
        kin_device *device;
        open_bench(&b, faults[i][0]);
        assert_int_equal(kin_device_open(b.backends, "faulty", &device), KIN_OK);
        assert_int_equal(use(device), KIN_DEVICE);
        expect_text(kin_context_error(b.context), faults[i][1]);
        kin_device_close(device);
        close_bench(&b);
    }
}

/* Each call fails once, on a device of its own, and leaves rubbish where its result belongs: the
 * error arrives with its message, and nothing is left behind. */
static void test_failing_calls(void **unused) {
    static const char *const calls[] = {"open",   "allocate", "upload",    "download",
                                        "fill",   "begin",    "record",    "end",
                                        "submit", "wait",     "timestamps"};
    (void)unused;
    for (int i = 0; i < (int)(sizeof calls / sizeof *calls); i++) {
        bench b;
        kin_device *device = NULL;
        char name[32], message[64];
        open_bench(&b, "fails_calls");
        snprintf(name, sizeof name, "faulty%d", i + 1);
        snprintf(message, sizeof message, "faulty: %s failed", calls[i]);
        kin_status status = kin_device_open(b.backends, name, &device);
        assert_int_equal(status, i == 0 ? KIN_DEVICE : KIN_OK);
        if (status == KIN_OK) assert_int_equal(use(device), KIN_DEVICE);
        expect_text(kin_context_error(b.context), message);
        bool in_steps = i > 0 && i < 10; /* no timer there */
        if (in_steps) {
            assert_int_equal(use_steps(device), KIN_DEVICE);
            expect_text(kin_context_error(b.context), message);
        }
        kin_device_close(device);
        close_bench(&b);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sound),           cmocka_unit_test(test_refused_files),
        cmocka_unit_test(test_refused_devices), cmocka_unit_test(test_late_garbage),
        cmocka_unit_test(test_failing_calls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
