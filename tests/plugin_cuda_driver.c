/* The emulated driver refuses what CUDA refuses: what passes over it has a chance on a GPU. Each
 * test does the right thing, which must work, and then wrong ones, which must be refused with
 * CUDA's code. Runs with KINORA_BACKEND_PATH naming the folder of cuda-emulated. */
#define _POSIX_C_SOURCE 200809L
#include <dlfcn.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backends/cuda/emulator.h"

static const kin_cuda_api *api;
static kin_emulator_control *control;
static void *library;

static int load(void **state) {
    (void)state;
    char path[4096], *end;
    const kin_cuda_api *(*get_api)(void) = NULL;
    kin_emulator_control *(*get_control)(void) = NULL;
    snprintf(path, sizeof path, "%s", getenv("KINORA_BACKEND_PATH"));
    for (char *at = path; library == NULL && at != NULL; at = end) {
        char file[5000];
        end = strchr(at, ':');
        if (end != NULL) *end++ = '\0';
        snprintf(file, sizeof file, "%s/libkinora-cuda-emulated.so", at);
        library = dlopen(file, RTLD_NOW);
    }
    if (library == NULL) return -1;
    *(void **)&get_api = dlsym(library, "kin_emulator_api_get");
    *(void **)&get_control = dlsym(library, "kin_emulator_control_get");
    if (get_api == NULL || get_control == NULL) return -1;
    api = get_api();
    control = get_control();
    return 0;
}

static int unload(void **state) {
    (void)state;
    return dlclose(library);
}

static void *stream;

static int start(void **state) {
    (void)state;
    *control = (kin_emulator_control){.devices = 2, .capability = 80, .memory = 1 << 24};
    return api->choose(0) != 0 || api->stream_create(&stream) != 0;
}

static int stop(void **state) {
    (void)state;
    const int code = api->choose(0) != 0 ? 1 : api->stream_destroy(stream);
    const kin_emulator_counts c = control->counts;
    return code != 0 || c.bytes != 0 || c.streams != 0 || c.events != 0 || c.graphs != 0 ||
           c.pinned != 0;
}

static void works(int code) {
    if (code != 0) {
        const char *why = api->error_detail(code);
        fail_msg("%s: %s", api->error_name(code), why != NULL ? why : "no reason");
    }
}

/* The code, its name, and a count of misuses. */
#define REFUSED(call, name)                                                                        \
    do {                                                                                           \
        const uint64_t misuses_before = control->counts.misuses;                                   \
        assert_string_equal(api->error_name(call), name);                                          \
        assert_true(control->counts.misuses > misuses_before);                                     \
    } while (0)

/* ---- launches ---- */

static int runs;

static void kernel(void) {
}

static void run_kernel(const void *which, void *const *arguments) {
    (void)which;
    (void)arguments;
    runs++;
}

static kin_cuda_launch_record record_of(unsigned x, unsigned y, unsigned z, unsigned threads) {
    kin_cuda_launch_record record = {.name = "a test's kernel",
                                     .emulated = run_kernel,
                                     .grid = {x, y, z},
                                     .block = {threads, 1, 1}};
    void (*function)(void) = kernel;
    memcpy(&record.kernel, &function, sizeof record.kernel);
    return record;
}

static const char configuration[] = "cudaErrorInvalidConfiguration";
static const char invalid[] = "cudaErrorInvalidValue";

static void test_launches(void **state) {
    (void)state;
    kin_cuda_launch_record one = record_of(1, 1, 1, 32);
    runs = 0;
    works(api->prepare(one.kernel, 0, 32));
    works(api->launch(&one, stream));
    assert_int_equal(runs, 0); /* it is only queued */
    works(api->stream_wait(stream));
    assert_int_equal(runs, 32);
    static const unsigned wrong[][4] = {{0, 1, 1, 32},        {1, 0, 1, 32},     {1, 1, 0, 32},
                                        {1, 1, 1, 0},         {1, 65536, 1, 32}, {1, 1, 65536, 32},
                                        {1u << 31, 1, 1, 32}, {1, 1, 1, 1025}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        const kin_cuda_launch_record bad =
            record_of(wrong[i][0], wrong[i][1], wrong[i][2], wrong[i][3]);
        REFUSED(api->launch(&bad, stream), configuration);
    }
    kin_cuda_launch_record deep = one;
    deep.block[0] = 1, deep.block[2] = 65;
    REFUSED(api->launch(&deep, stream), configuration);
    kin_cuda_launch_record wide = one;
    static char values[4104];
    wide.values = values, wide.value_bytes = sizeof values;
    REFUSED(api->launch(&wide, stream), invalid);
    wide.value_bytes = 4096;
    works(api->launch(&wide, stream));
    kin_cuda_launch_record unknown = one;
    unknown.kernel = &values;
    REFUSED(api->launch(&unknown, stream), invalid);
    REFUSED(api->launch(&one, NULL), "cudaErrorInvalidResourceHandle");
    REFUSED(api->prepare(one.kernel, 0, 1025), "cudaErrorLaunchOutOfResources");
}

/* 48 KB, and more where the kernel was allowed it: as much as a block of that GPU has. */
static void test_shared_memory(void **state) {
    (void)state;
    static const struct {
        int capability;
        size_t most;
    } rows[] = {{80, 166912}, {86, 101376},  {89, 101376},
                {90, 232448}, {100, 232448}, {120, 101376}};
    kin_cuda_launch_record record = record_of(1, 1, 1, 32);
    static const char names[sizeof rows / sizeof *rows][2];
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        kin_cuda_properties properties;
        control->capability = rows[i].capability;
        works(api->describe(0, &properties));
        assert_int_equal(properties.shared_limit, rows[i].most);
        record.kernel = &names[i]; /* another kernel */
        works(api->prepare(record.kernel, 49152, 32));
        record.shared = 49152;
        works(api->launch(&record, stream));
        record.shared = 49153;
        REFUSED(api->launch(&record, stream), invalid);
        works(api->prepare(record.kernel, rows[i].most, 32));
        record.shared = rows[i].most;
        works(api->launch(&record, stream));
        REFUSED(api->prepare(record.kernel, rows[i].most + 1, 32), invalid);
    }
    works(api->stream_wait(stream));
}

/* ---- memory ---- */

static void test_memory(void **state) {
    (void)state;
    char *one, *two;
    works(api->allocate((void **)&one, 1000));
    works(api->allocate_pinned((void **)&two, 1000));
    works(api->fill(one, 7, 1000, stream));
    works(api->copy(two, one, 1000, stream));
    works(api->stream_wait(stream));
    assert_int_equal(two[999], 7);
    REFUSED(api->fill(one + 1, 0, 1000, stream), invalid);
    REFUSED(api->copy(one + 500, two, 501, stream), invalid);
    REFUSED(api->copy(one, two + 999, 2, stream), invalid);
    REFUSED(api->copy(one, one + 10, 11, stream), invalid);
    char outside[8];
    REFUSED(api->copy(one, outside, sizeof outside, stream), invalid);
    REFUSED(api->release(two), invalid);
    REFUSED(api->release_pinned(one), invalid);
    REFUSED(api->release(one + 256), invalid);
    kin_cuda_launch_record record = record_of(1, 1, 1, 32);
    const void *values[2] = {NULL, one + 999};
    record.values = values, record.value_bytes = sizeof values;
    works(api->prepare(record.kernel, 0, 32));
    works(api->launch(&record, stream));
    works(api->release(one));
    REFUSED(api->launch(&record, stream), "cudaErrorIllegalAddress");
    REFUSED(api->fill(one, 0, 1, stream), invalid);
    REFUSED(api->release(one), invalid);
    works(api->release_pinned(two));
    void *none;
    assert_string_equal(api->error_name(api->allocate(&none, (1 << 24) + 1)),
                        "cudaErrorMemoryAllocation");
}

static void test_devices(void **state) {
    (void)state;
    void *there = NULL, *event = NULL, *other = NULL;
    assert_string_equal(api->error_name(api->choose(2)), "cudaErrorInvalidDevice");
    works(api->choose(1));
    works(api->allocate(&there, 100));
    works(api->event_create(&event, false));
    REFUSED(api->fill(there, 0, 100, stream), "cudaErrorInvalidResourceHandle");
    REFUSED(api->stream_wait(stream), "cudaErrorInvalidResourceHandle");
    works(api->stream_create(&other));
    works(api->fill(there, 0, 100, other));
    works(api->choose(0));
    REFUSED(api->fill(there, 0, 100, stream), invalid);
    REFUSED(api->event_record(event, stream), "cudaErrorInvalidResourceHandle");
    kin_cuda_launch_record record = record_of(1, 1, 1, 32);
    record.values = &there, record.value_bytes = sizeof there;
    works(api->prepare(record.kernel, 0, 32));
    REFUSED(api->launch(&record, stream), "cudaErrorIllegalAddress");
    works(api->choose(1));
    works(api->stream_destroy(other));
    works(api->event_destroy(event));
    works(api->release(there));
}

/* ---- events ---- */

static void test_events(void **state) {
    (void)state;
    void *first, *last, *untimed;
    float milliseconds;
    works(api->event_create(&first, true));
    works(api->event_create(&last, true));
    works(api->event_create(&untimed, false));
    REFUSED(api->event_wait(first), invalid);
    works(api->event_record(first, stream));
    works(api->event_record(untimed, stream));
    works(api->event_wait(first));
    REFUSED(api->event_milliseconds(&milliseconds, first, last), "cudaErrorInvalidResourceHandle");
    works(api->event_record(last, stream));
    REFUSED(api->event_milliseconds(&milliseconds, first, last), "cudaErrorNotReady");
    works(api->event_wait(last));
    works(api->event_milliseconds(&milliseconds, first, last));
    assert_true(milliseconds >= 0);
    REFUSED(api->event_milliseconds(&milliseconds, first, untimed),
            "cudaErrorInvalidResourceHandle");
    works(api->event_destroy(first));
    works(api->event_destroy(last));
    works(api->event_destroy(untimed));
}

/* ---- captures ---- */

static const char unsupported[] = "cudaErrorStreamCaptureUnsupported";
static const char invalidated[] = "cudaErrorStreamCaptureInvalidated";
static void *memory, *pinned, *event, *graph;

typedef int (*forbidden)(void);
static int wait_for_stream(void) {
    return api->stream_wait(stream);
}
static int wait_for_event(void) {
    return api->event_wait(event);
}
static int look_at_events(void) {
    float milliseconds;
    return api->event_milliseconds(&milliseconds, event, event);
}
static int ask_for_memory(void) {
    void *more;
    return api->allocate(&more, 10);
}
static int ask_for_pinned(void) {
    void *more;
    return api->allocate_pinned(&more, 10);
}
static int give_memory(void) {
    return api->release(memory);
}
static int give_pinned(void) {
    return api->release_pinned(pinned);
}
static int load_kernel(void) {
    return api->prepare(record_of(1, 1, 1, 1).kernel, 0, 1);
}

static void test_captures(void **state) {
    (void)state;
    static const forbidden calls[] = {wait_for_stream, wait_for_event, look_at_events,
                                      ask_for_memory,  ask_for_pinned, give_memory,
                                      give_pinned,     load_kernel};
    kin_cuda_launch_record record = record_of(2, 1, 1, 32);
    works(api->allocate(&memory, 100));
    works(api->allocate_pinned(&pinned, 100));
    works(api->event_create(&event, true));
    works(api->event_record(event, stream));
    works(api->prepare(record.kernel, 0, 32));
    record.values = &memory, record.value_bytes = sizeof memory;
    runs = 0;
    works(api->capture_begin(stream));
    works(api->launch(&record, stream));
    works(api->fill(memory, 3, 100, stream));
    works(api->copy(pinned, memory, 100, stream));
    REFUSED(api->capture_begin(stream), invalid);
    works(api->capture_end(stream, &graph));
    assert_int_equal(runs, 0);
    works(api->graph_launch(graph, stream));
    works(api->graph_launch(graph, stream));
    works(api->stream_wait(stream));
    assert_int_equal(runs, 2 * 64);
    assert_int_equal(((char *)pinned)[99], 3);
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        void *broken = NULL;
        works(api->capture_begin(stream));
        works(api->launch(&record, stream));
        REFUSED(calls[i](), unsupported);
        assert_string_equal(api->error_name(api->capture_end(stream, &broken)), invalidated);
        assert_null(broken);
        works(api->stream_wait(stream)); /* the stream goes on */
    }
    assert_int_equal(runs, 2 * 64);
    void *unused;
    REFUSED(api->capture_end(stream, &unused), invalid);
    works(api->release(memory));
    REFUSED(api->graph_launch(graph, stream), "cudaErrorIllegalAddress");
    works(api->graph_destroy(graph));
    works(api->release_pinned(pinned));
    works(api->event_destroy(event));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_launches, start, stop),
        cmocka_unit_test_setup_teardown(test_shared_memory, start, stop),
        cmocka_unit_test_setup_teardown(test_memory, start, stop),
        cmocka_unit_test_setup_teardown(test_devices, start, stop),
        cmocka_unit_test_setup_teardown(test_events, start, stop),
        cmocka_unit_test_setup_teardown(test_captures, start, stop),
    };
    return cmocka_run_group_tests(tests, load, unload);
}
