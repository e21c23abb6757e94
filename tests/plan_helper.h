/* What the tests of plans stand on: a context with the null and the CPU device, and a graph. */
#ifndef KIN_TESTS_PLAN_HELPER_H
#define KIN_TESTS_PLAN_HELPER_H

#include "tests/runtime_support.h"

#include "runtime/plan_internal.h"
#include "runtime/store.h"

#define DIMS(...) ((const int64_t[]){__VA_ARGS__})
#define MIB (1024 * 1024)
/* A test that gets the fixture. */
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

typedef struct fixture {
    kin_context *context;
    kin_backends *backends;
    kin_device *null_device, *cpu;
    kin_graph *graph;
    kin_plan *plan;
    kin_store *store;
} fixture;

static inline int setup(void **state) {
    static fixture f;
    kin_context_options options = {.struct_size = sizeof options, .threads = 2};
    f = (fixture){.context = NULL};
    if (kin_context_create(&options, &f.context) != KIN_OK ||
        kin_backends_load(f.context, NULL, &f.backends) != KIN_OK ||
        kin_device_open(f.backends, "null", &f.null_device) != KIN_OK ||
        kin_device_open(f.backends, "cpu", &f.cpu) != KIN_OK ||
        kin_graph_create(f.context, &f.graph) != KIN_OK)
        return -1;
    *state = &f;
    return 0;
}

static inline int teardown(void **state) {
    fixture *f = *state;
    kin_plan_free(f->plan);
    kin_store_free(f->store);
    kin_graph_destroy(f->graph);
    kin_device_close(f->cpu);
    kin_device_close(f->null_device);
    kin_backends_free(f->backends);
    kin_context_destroy(f->context);
    return 0;
}

static inline void must(const fixture *f, kin_status status) {
    if (status != KIN_OK) fail_msg("%s", kin_context_error(f->context));
}

static inline void fresh_graph(fixture *f) {
    kin_plan_free(f->plan);
    f->plan = NULL;
    kin_graph_destroy(f->graph);
    f->graph = NULL;
    must(f, kin_graph_create(f->context, &f->graph));
}

#endif
