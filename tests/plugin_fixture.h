/* The fixture of a plug-in's tests: a context whose memory is counted, and a device of the backends
 * in KINORA_BACKEND_PATH. */
#ifndef KIN_TESTS_PLUGIN_FIXTURE_H
#define KIN_TESTS_PLUGIN_FIXTURE_H

#include <stdio.h>
#include <string.h>

#include "runtime/device.h"
#include "tests/counted_memory.h"

typedef struct bench {
    counter memory;
    int layer_messages; /* of Vulkan's layers; those of closing the device, too, which no call can
                           return */
    kin_context *context;
    kin_backends *backends;
    kin_device *device;
} bench;

static void count_messages(void *user, kin_log_level level, const char *text) {
    bench *b = user;
    (void)level;
    if (strstr(text, "Vulkan layer") == NULL) return;
    b->layer_messages++;
    printf("%s\n", text);
}

/* settings as for kin_context_options. */
static inline kin_status open_device(bench *b, const char *device, const char *settings) {
    *b = (bench){.context = NULL};
    kin_context_options options = {.struct_size = sizeof options,
                                   .allocator = {counted_resize, &b->memory},
                                   .log = count_messages,
                                   .log_user = b,
                                   .settings = settings};
    kin_status status = kin_context_create(&options, &b->context);
    if (status == KIN_OK)
        status = kin_backends_load(b->context, getenv("KINORA_BACKEND_PATH"), &b->backends);
    if (status == KIN_OK) status = kin_device_open(b->backends, device, &b->device);
    return status;
}

/* Nothing may be left, and no layer may have complained. */
static inline void close_bench(bench *b) {
    kin_device_close(b->device);
    kin_backends_free(b->backends);
    kin_context_destroy(b->context);
    assert_int_equal(b->memory.blocks, 0);
    assert_int_equal(b->layer_messages, 0);
}

static inline void succeed(bench *b, kin_status status) {
    if (status != KIN_OK) fail_msg("%s", kin_context_error(b->context));
}

static inline void expect_error(bench *b, kin_status status, kin_status wanted, const char *part) {
    assert_int_equal(status, wanted);
    if (!strstr(kin_context_error(b->context), part))
        fail_msg("no \"%s\" in \"%s\"", part, kin_context_error(b->context));
}

#endif
