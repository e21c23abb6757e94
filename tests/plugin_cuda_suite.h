/* What the tests share that run the op suite on cases of their own: the device with its settings,
 * one case, and which row of the device's list serves a call. */
#ifndef KIN_TESTS_PLUGIN_CUDA_SUITE_H
#define KIN_TESTS_PLUGIN_CUDA_SUITE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/device.h"
#include "runtime/op.h"
#include "tools/check/op_suite.h"

typedef struct fixture {
    const char *device_name;
    char settings[256]; /* lines */
    kin_context *context;
    kin_backends *backends;
    kin_device *device;
    kin_suite *suite;
} fixture;

/* Of main's arguments: the device, and settings with commas between them. */
static inline void take_arguments(fixture *made, int argc, char **argv) {
    made->device_name = argc > 1 ? argv[1] : "cuda-emulated0";
    if (argc > 2) snprintf(made->settings, sizeof made->settings, "%s", argv[2]);
    for (char *c = made->settings; *c != 0; c++)
        if (*c == ',') *c = '\n';
}

/* *state is the fixture, with its arguments. */
static inline int open_fixture(fixture *made) {
    const kin_context_options options = {.struct_size = sizeof options, .settings = made->settings};
    if (kin_context_create(&options, &made->context) != KIN_OK) return -1;
    kin_status status =
        kin_backends_load(made->context, getenv("KINORA_BACKEND_PATH"), &made->backends);
    if (status == KIN_OK)
        status = kin_device_open(made->backends, made->device_name, &made->device);
    if (status == KIN_OK) status = kin_suite_open(made->device, &made->suite);
    if (status != KIN_OK) print_message("%s\n", kin_context_error(made->context));
    return status == KIN_OK ? 0 : -1;
}

static inline int close_fixture(fixture *made) {
    kin_suite_close(made->suite);
    kin_device_close(made->device);
    kin_backends_free(made->backends);
    kin_context_destroy(made->context);
    return 0;
}

static inline bool asks_for_hopper(const fixture *made) {
    return strstr(made->settings, "cuda.hopper=on") != NULL;
}

/* Runs a case; says what is wrong with it. */
static inline bool is_right(fixture *made, const char *op, const kin_case *test, kin_dtype dtype) {
    kin_suite_result result = {0};
    kin_suite_run_results(made->suite, kin_op_find(op), test, dtype, &result);
    if (result.verdict == KIN_SUITE_PASSED && !result.lowered) return true;
    print_message("%s, %s, %s: %s\n", op, test->name, kin_dtype_name(dtype),
                  result.lowered ? "has no kernel" : result.message);
    return false;
}

/* The same comparison refuses a result with one element changed after the run. */
static inline void refuse_wrong(fixture *made, const char *op, const kin_case *test) {
    kin_suite_result result = {0};
    kin_suite_run_spoiled(made->suite, kin_op_find(op), test, KIN_BF16, &result);
    assert_int_equal(result.verdict, KIN_SUITE_PASSED);
    assert_int_equal(result.controls, 1);
}

/* The name of the row that serves a call. */
static inline const char *row_for(const kin_device *device, const kin_call *call) {
    for (size_t i = 0; device->backend->kernel(device, i) != NULL; i++) {
        const kin_kernel *row = device->backend->kernel(device, i);
        if (strcmp(row->op, call->op) == 0 && row->can(device, call)) return row->name;
    }
    return "none";
}

#endif
