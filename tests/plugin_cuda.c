/* The host side of the CUDA backend over the emulator, which is also a driver that fails when it is
 * told to: lists and graphs, times, transfers, memory that does not suffice, and every call failing
 * once. Runs with KINORA_BACKEND_PATH naming the folder of cuda-emulated. */
#define _POSIX_C_SOURCE 200809L
#include <dlfcn.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backends/cuda/emulator.h"
#include "ops/elementwise.h"
#include "ops/matmul.h"
#include "ops/optimizer.h"
#include "ops/reduce.h"
#include "ops/softmax.h"
#include "runtime/device.h"
#include "runtime/plan.h"
#include "runtime/store.h"
#include "tests/counted_memory.h"

enum { ROWS = 6, WIDTH = 40 };

typedef struct bench {
    counter memory;
    kin_context *context;
    kin_backends *backends;
    kin_device *device;
    void *library;
    kin_emulator_control *control;
} bench;

/* Finds the plug-in and its control, and sets the control to how it starts. */
static void find(bench *b, const char *settings) {
    *b = (bench){.context = NULL};
    kin_context_options options = {.struct_size = sizeof options,
                                   .allocator = {counted_resize, &b->memory},
                                   .settings = settings};
    kin_emulator_control *(*get)(void) = NULL;
    assert_int_equal(kin_context_create(&options, &b->context), KIN_OK);
    assert_int_equal(kin_backends_load(b->context, getenv("KINORA_BACKEND_PATH"), &b->backends),
                     KIN_OK);
    for (size_t i = 0; i < kin_backends_file_count(b->backends); i++) {
        const kin_backend_file *file = kin_backends_file_at(b->backends, i);
        if (strstr(file->path, "cuda-emulated") != NULL && file->loaded)
            b->library = dlopen(file->path, RTLD_NOW);
    }
    if (b->library == NULL) fail_msg("cuda-emulated was not loaded");
    *(void **)&get = dlsym(b->library, "kin_emulator_control_get");
    assert_non_null(get);
    b->control = get();
    *b->control =
        (kin_emulator_control){.devices = 1, .capability = 80, .memory = UINT64_C(1) << 30};
}

static kin_status open_device(bench *b) {
    return kin_device_open(b->backends, "cuda-emulated0", &b->device);
}

/* Nothing may be left, and nothing may have been asked that CUDA refuses. */
static void close_bench(bench *b) {
    kin_device_close(b->device);
    const kin_emulator_counts c = b->control->counts;
    assert_int_equal(c.bytes, 0);
    assert_int_equal(c.allocations, c.releases);
    assert_int_equal(c.streams, 0);
    assert_int_equal(c.events, 0);
    assert_int_equal(c.graphs, 0);
    assert_int_equal(c.pinned, 0);
    assert_int_equal(c.misuses, 0);
    kin_backends_free(b->backends);
    kin_context_destroy(b->context);
    dlclose(b->library);
    assert_int_equal(b->memory.blocks, 0);
}

static void succeed(bench *b, kin_status status) {
    if (status != KIN_OK) fail_msg("%s", kin_context_error(b->context));
}

static void begin(bench *b, const char *settings) {
    find(b, settings);
    succeed(b, open_device(b));
}

/* ---- a plan with launches, a product and scratch memory: softmax(x w), and the sum of its rows
 * ---- */

static float x_at(int i) {
    return (float)((i * 7919) % 1000) / 250.0f - 2.0f;
}

static kin_status build(bench *b, kin_plan **out_plan) {
    kin_graph *graph = NULL;
    *out_plan = NULL;
    kin_status status = kin_graph_create(b->context, &graph);
    if (status != KIN_OK) return status;
    kin_tensor x = kin_input(graph, "x", KIN_F32, 2, (int64_t[]){ROWS, WIDTH});
    kin_tensor w = kin_input(graph, "w", KIN_F32, 2, (int64_t[]){WIDTH, WIDTH});
    kin_tensor y = kin_softmax(graph, kin_matmul(graph, x, w));
    kin_output(graph, "y", y);
    kin_output(graph, "sum", kin_sum(graph, y, 1u << 1, false));
    status = kin_plan_build(graph, b->device, NULL, out_plan);
    kin_graph_destroy(graph);
    if (status == KIN_OK) status = kin_plan_prepare(*out_plan, NULL, NULL);
    return status;
}

typedef struct values {
    float x[ROWS * WIDTH], w[WIDTH * WIDTH], y[ROWS * WIDTH], sum[ROWS];
} values;
static values v;

static kin_status give(kin_plan *plan) {
    for (int i = 0; i < ROWS * WIDTH; i++) v.x[i] = x_at(i);
    for (int i = 0; i < WIDTH * WIDTH; i++) v.w[i] = x_at(3 * i + 1) / 8;
    kin_status status = kin_plan_write(plan, "x", KIN_F32, v.x);
    return status == KIN_OK ? kin_plan_write(plan, "w", KIN_F32, v.w) : status;
}

static kin_status take(kin_plan *plan) {
    memset(v.y, 0, sizeof v.y);
    kin_status status = kin_plan_read(plan, "y", KIN_F32, v.y);
    return status == KIN_OK ? kin_plan_read(plan, "sum", KIN_F32, v.sum) : status;
}

/* The largest error of what was read. */
static double error_of_y(void) {
    double worst = 0;
    for (int row = 0; row < ROWS; row++) {
        double z[WIDTH], most = -INFINITY, total = 0;
        for (int j = 0; j < WIDTH; j++) {
            z[j] = 0;
            for (int k = 0; k < WIDTH; k++)
                z[j] += (double)v.x[row * WIDTH + k] * (double)v.w[k * WIDTH + j];
            most = fmax(most, z[j]);
        }
        for (int j = 0; j < WIDTH; j++) total += exp(z[j] - most);
        for (int j = 0; j < WIDTH; j++)
            worst = fmax(worst, fabs((double)v.y[row * WIDTH + j] - exp(z[j] - most) / total));
        worst = fmax(worst, fabs((double)v.sum[row] - 1));
    }
    return worst;
}

static void expect_right(kin_plan *plan, bench *b) {
    succeed(b, take(plan));
    const double error = error_of_y();
    if (!(error < 2e-6)) fail_msg("off by %g", error);
    v.y[7] += 1e-4f; /* a wrong element is noticed */
    assert_true(error_of_y() > 2e-6);
}

/* ---- lists and graphs ---- */

/* One run, and what it asked for. */
static kin_emulator_counts run(bench *b, kin_plan *plan, long *out_host_calls) {
    const kin_emulator_counts before = b->control->counts;
    const long calls = b->memory.calls;
    succeed(b, kin_plan_run(plan));
    kin_emulator_counts now = b->control->counts;
    *out_host_calls = b->memory.calls - calls;
    now.allocations -= before.allocations;
    now.launches -= before.launches;
    now.graph_launches -= before.graph_launches;
    now.waits -= before.waits;
    return now;
}

/* The first run queues step by step, the second makes a graph, the later ones launch it; none
 * allocates, and each waits once. */
static void test_replay(void **state) {
    (void)state;
    bench b;
    kin_plan *plan = NULL;
    begin(&b, NULL);
    succeed(&b, build(&b, &plan));
    succeed(&b, give(plan));
    uint64_t launches = 0;
    for (int i = 0; i < 4; i++) {
        long host_calls;
        const kin_emulator_counts c = run(&b, plan, &host_calls);
        if (i == 0) launches = c.launches;
        assert_true(c.launches > 0);
        assert_int_equal(c.launches, launches);
        assert_int_equal(c.graph_launches, i > 0 ? 1 : 0);
        assert_int_equal(c.graphs, i > 0 ? 1 : 0);
        assert_int_equal(c.waits, 1);
        assert_int_equal(c.allocations, 0);
        assert_int_equal(host_calls, 0);
        expect_right(plan, &b);
    }
    kin_plan_free(plan);
    close_bench(&b);
}

static void test_without_graphs(void **state) {
    (void)state;
    bench b;
    kin_plan *plan = NULL;
    begin(&b, "cuda.graphs=off\ncuda.products=own");
    succeed(&b, build(&b, &plan));
    succeed(&b, give(plan));
    for (int i = 0; i < 3; i++) {
        long host_calls;
        const kin_emulator_counts c = run(&b, plan, &host_calls);
        assert_int_equal(c.graph_launches, 0);
        assert_int_equal(c.graphs, 0);
        expect_right(plan, &b);
    }
    kin_plan_free(plan);
    close_bench(&b);
}

static void test_times(void **state) {
    (void)state;
    bench b;
    kin_plan *plan = NULL;
    begin(&b, NULL);
    succeed(&b, build(&b, &plan));
    succeed(&b, give(plan));
    for (int i = 0; i < 3; i++) {
        succeed(&b, kin_plan_profile(plan));
        expect_right(plan, &b);
        succeed(&b, kin_plan_run(plan));
        expect_right(plan, &b);
    }
    double total = 0;
    for (int i = 0; i < kin_plan_node_count(plan); i++) {
        const double seconds = kin_plan_node_at(plan, i).seconds;
        assert_true(seconds >= 0 && seconds < 60);
        total += seconds;
    }
    assert_true(total > 0);
    kin_plan_free(plan);
    close_bench(&b);
}

/* ---- every call fails once ---- */

/* All that a user does. The results are right unless a status says that something failed. */
static kin_status whole(bench *b) {
    kin_plan *plan = NULL;
    kin_status status = open_device(b);
    if (status == KIN_OK) status = build(b, &plan);
    if (status == KIN_OK) status = give(plan);
    for (int i = 0; i < 3 && status == KIN_OK; i++) status = kin_plan_run(plan);
    if (status == KIN_OK) status = kin_plan_profile(plan);
    if (status == KIN_OK) status = take(plan);
    if (status == KIN_OK) assert_true(error_of_y() < 2e-6);
    else assert_true(strlen(kin_context_error(b->context)) > 10);
    kin_plan_free(plan);
    return status;
}

static void test_failures(void **state) {
    (void)state;
    bench b;
    uint64_t calls = 0, failed = 0, borne = 0;
    find(&b, NULL);
    succeed(&b, whole(&b));
    calls = b.control->calls;
    close_bench(&b);
    assert_true(calls > 40);
    for (uint64_t at = 1; at <= calls; at++) {
        find(&b, NULL);
        b.control->fail_at = at;
        if (whole(&b) == KIN_OK) borne++;
        else failed++;
        b.control->fail_at = 0;
        close_bench(&b);
    }
    /* A graph that cannot be made, and errors while closing, do no harm. */
    assert_true(failed > calls / 2);
    assert_true(borne >= 2);
}

static void test_no_device(void **state) {
    (void)state;
    bench b;
    find(&b, NULL);
    b.control->devices = 0;
    assert_int_equal(open_device(&b), KIN_NOT_FOUND);
    assert_non_null(strstr(kin_context_error(b.context), "was told to have no device"));
    close_bench(&b);
}

static void test_settings(void **state) {
    (void)state;
    static const char *const wrong[] = {"cuda.graphs=maybe", "cuda.tf32=yes", "cuda.products=blas",
                                        "cuda.order=random", "cuda.capability=81"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        bench b;
        find(&b, wrong[i]);
        assert_int_equal(open_device(&b), KIN_INVALID);
        assert_non_null(strstr(kin_context_error(b.context), wrong[i]));
        close_bench(&b);
    }
    bench b;
    find(&b, "cuda.capability=75");
    assert_int_equal(open_device(&b), KIN_UNSUPPORTED);
    assert_non_null(strstr(kin_context_error(b.context), "7.5"));
    close_bench(&b);
    begin(&b, "cuda.tf32=on");
    assert_int_equal(b.device->info.product_dtype, KIN_BF16);
    close_bench(&b);
}

/* ---- memory ---- */

static void test_out_of_memory(void **state) {
    (void)state;
    bench b;
    kin_buffer *buffer = NULL;
    find(&b, NULL);
    b.control->memory = 100000;
    succeed(&b, open_device(&b));
    assert_int_equal(b.device->backend->allocate(b.device, 100001, &buffer), KIN_OUT_OF_MEMORY);
    assert_null(buffer);
    assert_non_null(
        strstr(kin_context_error(b.context), "100001 bytes: 100000 of 100000 are free"));
    succeed(&b, b.device->backend->allocate(b.device, 60000, &buffer));
    kin_buffer *second = NULL;
    assert_int_equal(b.device->backend->allocate(b.device, 60000, &second), KIN_OUT_OF_MEMORY);
    assert_non_null(strstr(kin_context_error(b.context), "60000 bytes: 40000 of 100000 are free"));
    b.device->backend->release(b.device, buffer);
    close_bench(&b);
}

/* More than the two pieces of pinned memory, and an end that is not whole. */
static void test_transfers(void **state) {
    (void)state;
    bench b;
    const size_t size = ((size_t)13 << 20) + 77;
    kin_buffer *one = NULL, *two = NULL;
    unsigned char *sent = malloc(size), *received = malloc(size);
    assert_non_null(sent);
    assert_non_null(received);
    begin(&b, NULL);
    const kin_backend *backend = b.device->backend;
    for (size_t i = 0; i < size; i++) sent[i] = (unsigned char)(i * 31 + (i >> 12));
    succeed(&b, backend->allocate(b.device, size + 300, &one));
    succeed(&b, backend->allocate(b.device, size + 300, &two));
    succeed(&b, backend->fill(b.device, one, 0, size + 300, 0xA5));
    succeed(&b, backend->upload(b.device, sent, one, 100, size));
    succeed(&b, backend->copy(b.device, one, 0, two, 0, size + 300));
    /* within one buffer, ranges that overlap, both ways */
    succeed(&b, backend->copy(b.device, two, 100, two, 160, size));
    succeed(&b, backend->copy(b.device, two, 160, two, 3, size));
    succeed(&b, backend->download(b.device, two, 3, received, size));
    assert_memory_equal(sent, received, size);
    succeed(&b, backend->download(b.device, one, 100 + size, received, 200));
    for (int i = 0; i < 200; i++) assert_int_equal(received[i], 0xA5);
    for (int i = 0; i < 100; i++) received[i] = 0;
    succeed(&b, backend->download(b.device, one, 0, received, 100));
    for (int i = 0; i < 100; i++) assert_int_equal(received[i], 0xA5);
    assert_int_equal(backend->upload(b.device, sent, one, 301, size), KIN_INVALID);
    assert_int_equal(backend->download(b.device, one, SIZE_MAX, received, 2), KIN_INVALID);
    assert_int_equal(backend->copy(b.device, one, 0, two, 400, size), KIN_INVALID);
    assert_int_equal(backend->fill(b.device, one, size + 300, 1, 0), KIN_INVALID);
    succeed(&b, backend->upload(b.device, sent, one, size + 300, 0));
    backend->release(b.device, one);
    backend->release(b.device, two);
    close_bench(&b);
    free(sent);
    free(received);
}

/* ---- updates of many tensors as one launch ---- */

enum { WEIGHTS = 5, MOST_ELEMENTS = 16387, STATES = 4 };
static const int64_t weight_sizes[WEIGHTS] = {1, 5, 8192, MOST_ELEMENTS, 1152};
static const char *const state_names[STATES] = {"p", "m", "v", "average"};

/* AdamW with averages of all weights, and of the last one again. */
static kin_status build_updates(bench *b, kin_device *device, kin_store **out_store,
                                kin_plan **out_plan) {
    static const int64_t none = 1;
    const kin_adamw_ema_attrs attrs = {{0.9, 0.999, 1e-8, 0.01}, 0.9};
    kin_graph *graph = NULL;
    char name[32];
    *out_store = NULL;
    *out_plan = NULL;
    kin_status status = kin_graph_create(b->context, &graph);
    if (status != KIN_OK) return status;
    kin_tensor lr = kin_input(graph, "lr", KIN_F32, 0, &none);
    kin_tensor step = kin_input(graph, "step", KIN_I64, 0, &none);
    for (int i = 0; i < WEIGHTS; i++) {
        kin_tensor s[STATES], out[KIN_MAX_OUTPUTS];
        for (int k = 0; k < STATES; k++) {
            snprintf(name, sizeof name, "%s.%d", state_names[k], i);
            s[k] = kin_variable(graph, name, KIN_VARIABLE_STATE, KIN_F32, 1, &weight_sizes[i],
                                (kin_init){KIN_INIT_ONE, 0});
        }
        snprintf(name, sizeof name, "g.%d", i);
        kin_tensor g = kin_input(graph, name, KIN_F32, 1, &weight_sizes[i]);
        for (int turn = 0; turn < (i == WEIGHTS - 1 ? 2 : 1); turn++) {
            kin_tensor in[] = {s[0], g, s[1], s[2], s[3], lr, step, KIN_NONE};
            kin_append(graph, kin_op_find("adamw_ema"), &attrs, in, 8, out);
            for (int k = 0; k < STATES; k++) s[k] = out[k];
        }
    }
    status = kin_store_create(device, out_store);
    if (status == KIN_OK) status = kin_plan_build(graph, device, NULL, out_plan);
    if (status == KIN_OK) status = kin_store_add_graph(*out_store, graph, 1);
    kin_graph_destroy(graph);
    if (status == KIN_OK) status = kin_plan_prepare(*out_plan, *out_store, NULL);
    return status;
}

static kin_status give_updates(kin_plan *plan) {
    static float g[MOST_ELEMENTS];
    const float lr = 1e-2f;
    const int64_t step = 1;
    char name[32];
    kin_status status = kin_plan_write(plan, "lr", KIN_F32, &lr);
    if (status == KIN_OK) status = kin_plan_write(plan, "step", KIN_I64, &step);
    for (int i = 0; i < WEIGHTS && status == KIN_OK; i++) {
        for (int k = 0; k < MOST_ELEMENTS; k++) g[k] = x_at(k + i);
        snprintf(name, sizeof name, "g.%d", i);
        status = kin_plan_write(plan, name, KIN_F32, g);
    }
    return status;
}

/* The states after three runs; by the profiler, which launches each update by itself. */
static void updated(bench *b, kin_device *device, bool profiled, uint64_t launches, float *out) {
    kin_plan *plan = NULL;
    kin_store *store = NULL;
    char name[32];
    succeed(b, build_updates(b, device, &store, &plan));
    succeed(b, give_updates(plan));
    for (int i = 0; i < 3; i++) {
        const uint64_t before = b->control->counts.launches;
        succeed(b, profiled ? kin_plan_profile(plan) : kin_plan_run(plan));
        assert_int_equal(b->control->counts.launches - before, launches);
    }
    for (int i = 0; i < WEIGHTS; i++)
        for (int k = 0; k < STATES; k++, out += MOST_ELEMENTS) {
            snprintf(name, sizeof name, "%s.%d", state_names[k], i);
            succeed(b, kin_store_read(store, name, KIN_F32, out));
        }
    kin_plan_free(plan);
    kin_store_free(store);
}

/* The largest difference of what weights and states have. */
static double difference(const float *a, const float *b) {
    double worst = 0;
    for (int i = 0; i < WEIGHTS * STATES; i++)
        for (int64_t k = 0; k < weight_sizes[i / STATES]; k++) {
            const int64_t at = (int64_t)i * MOST_ELEMENTS + k;
            worst = fmax(worst, fabs((double)a[at] - (double)b[at]));
        }
    return worst;
}

/* All updates but the second of the last weight are one launch, which gives the bits of single
 * ones. */
static void test_joined(void **state) {
    (void)state;
    bench b;
    kin_device *cpu = NULL;
    const size_t size = (size_t)WEIGHTS * STATES * MOST_ELEMENTS;
    float *joined = calloc(3 * size, sizeof *joined), *single = joined + size;
    float *host = single + size;
    assert_non_null(joined);
    begin(&b, NULL);
    updated(&b, b.device, false, 2, joined);
    updated(&b, b.device, true, WEIGHTS + 1, single);
    succeed(&b, kin_device_open(b.backends, "cpu", &cpu));
    updated(&b, cpu, false, 0, host);
    assert_memory_equal(joined, single, size * sizeof *joined);
    assert_true(difference(joined, host) < 1e-6);
    joined[(size - 1) - MOST_ELEMENTS + 1152] += 1e-4f; /* a wrong element is noticed */
    assert_true(difference(joined, host) > 1e-6);
    kin_device_close(cpu);
    close_bench(&b);
    free(joined);
}

/* Two devices in turn, each of which has its own memory, stream and events. */
static void test_two_devices(void **state) {
    (void)state;
    bench b;
    kin_device *devices[2] = {NULL, NULL};
    kin_plan *plans[2] = {NULL, NULL}, *updates[2] = {NULL, NULL};
    kin_store *stores[2] = {NULL, NULL};
    find(&b, NULL);
    b.control->devices = 2;
    succeed(&b, kin_device_open(b.backends, "cuda-emulated0", &devices[0]));
    succeed(&b, kin_device_open(b.backends, "cuda-emulated1", &devices[1]));
    for (int i = 0; i < 2; i++) {
        b.device = devices[i];
        succeed(&b, build(&b, &plans[i]));
        succeed(&b, build_updates(&b, devices[i], &stores[i], &updates[i]));
    }
    for (int i = 0; i < 2; i++) succeed(&b, give(plans[i]));
    for (int i = 0; i < 2; i++) succeed(&b, give_updates(updates[i]));
    for (int turn = 0; turn < 3; turn++) {
        for (int i = 0; i < 2; i++) succeed(&b, kin_plan_run(plans[i]));
        for (int i = 0; i < 2; i++) succeed(&b, kin_plan_run(updates[i]));
        for (int i = 0; i < 2; i++) expect_right(plans[i], &b);
        for (int i = 0; i < 2; i++) succeed(&b, kin_plan_profile(plans[i]));
    }
    for (int i = 0; i < 2; i++) {
        kin_plan_free(plans[i]);
        kin_plan_free(updates[i]);
        kin_store_free(stores[i]);
    }
    kin_device_close(devices[0]);
    b.device = devices[1];
    close_bench(&b);
}

static kin_status whole_updates(bench *b) {
    kin_plan *plan = NULL;
    kin_store *store = NULL;
    kin_status status = open_device(b);
    if (status == KIN_OK) status = build_updates(b, b->device, &store, &plan);
    if (status == KIN_OK) status = give_updates(plan);
    for (int i = 0; i < 2 && status == KIN_OK; i++) status = kin_plan_run(plan);
    kin_plan_free(plan);
    kin_store_free(store);
    return status;
}

static void test_joined_failures(void **state) {
    (void)state;
    bench b;
    find(&b, NULL);
    succeed(&b, whole_updates(&b));
    const uint64_t calls = b.control->calls;
    uint64_t failed = 0;
    close_bench(&b);
    for (uint64_t at = 1; at <= calls; at++) {
        find(&b, NULL);
        b.control->fail_at = at;
        failed += whole_updates(&b) != KIN_OK;
        b.control->fail_at = 0;
        close_bench(&b);
    }
    assert_true(failed > calls / 2);
}

/* Kernels for other GPUs than this one are a clear message. */
static void test_code(void **state) {
    (void)state;
    static const struct {
        const char *code;
        int capability;
        kin_status status;
    } rows[] = {{"90a", 90, KIN_OK},
                {"90a", 80, KIN_UNSUPPORTED},
                {"90a", 100, KIN_UNSUPPORTED},
                {"80", 89, KIN_OK},
                {"80", 90, KIN_UNSUPPORTED},
                {"80,90a,90-virtual", 120, KIN_OK},
                {"80,90a,90-virtual", 86, KIN_OK},
                {"86", 80, KIN_UNSUPPORTED},
                {"90-virtual", 80, KIN_UNSUPPORTED},
                {"90a-virtual", 100, KIN_UNSUPPORTED}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        bench b;
        find(&b, NULL);
        b.control->code = rows[i].code;
        b.control->capability = rows[i].capability;
        assert_int_equal(open_device(&b), rows[i].status);
        if (rows[i].status != KIN_OK)
            assert_non_null(strstr(kin_context_error(b.context), "KINORA_CUDA_ARCHS"));
        close_bench(&b);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_replay),        cmocka_unit_test(test_without_graphs),
        cmocka_unit_test(test_times),         cmocka_unit_test(test_failures),
        cmocka_unit_test(test_no_device),     cmocka_unit_test(test_settings),
        cmocka_unit_test(test_out_of_memory), cmocka_unit_test(test_transfers),
        cmocka_unit_test(test_joined),        cmocka_unit_test(test_joined_failures),
        cmocka_unit_test(test_two_devices),   cmocka_unit_test(test_code),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
