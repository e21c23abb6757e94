/* The Vulkan backend: the validation layer's messages, a lost device, small limits, wrong settings,
 * and replay that allocates nothing. Runs with KINORA_BACKEND_PATH; without a device it is skipped
 * (77). plugin_vulkan time: prints what a launch costs instead. */
#define _POSIX_C_SOURCE 200809L
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "backends/vulkan/core.h"
#include "ops/elementwise.h"
#include "ops/reduce.h"
#include "ops/softmax.h"
#include "runtime/device.h"
#include "runtime/plan.h"
#include "tests/plugin_fixture.h"

enum { SKIP = 77, LENGTH = 4096 };

static const char *const checked = "vulkan.validation=on";

static kin_status open_bench(bench *b, const char *settings) {
    return open_device(b, "vulkan0", settings);
}

/* ---- the validation layer ---- */

/* A wrong use of Vulkan comes out of wait, so that the tests that pass have been looked at. */
static void test_validation_is_on(void **state) {
    (void)state;
    bench b;
    kin_buffer *buffer = NULL;
    succeed(&b, open_bench(&b, checked));
    const kin_backend *backend = b.device->backend;
    kin_vulkan_state *vulkan = b.device->state;
    succeed(&b, backend->allocate(b.device, 64, &buffer));
    succeed(&b, backend->wait(b.device));
    VkCommandBufferBeginInfo info = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO};
    vulkan->vk.BeginCommandBuffer(vulkan->staging.commands, &info);
    VkBufferCopy region = {0, 1024, 4096}; /* behind the end of the buffer */
    vulkan->vk.CmdCopyBuffer(vulkan->staging.commands, vulkan->staging.buffer, buffer->handle, 1,
                             &region);
    vulkan->vk.EndCommandBuffer(vulkan->staging.commands);
    expect_error(&b, backend->wait(b.device), KIN_DEVICE, "a Vulkan layer says");
    succeed(&b, backend->wait(b.device)); /* it is said once */
    assert_true(b.layer_messages > 0);
    b.layer_messages = 0;
    backend->release(b.device, buffer);
    close_bench(&b);
}

/* ---- a lost device ---- */

static PFN_vkQueueWaitIdle real_wait;

/* The work itself is let finish, so that what it uses can be freed. */
static VKAPI_ATTR VkResult VKAPI_CALL lose(VkQueue queue) {
    real_wait(queue);
    return VK_ERROR_DEVICE_LOST;
}

static kin_plan *chain_plan(bench *b, int nodes, int64_t length) {
    kin_graph *graph = NULL;
    kin_plan *plan = NULL;
    succeed(b, kin_graph_create(b->context, &graph));
    kin_tensor x = kin_input(graph, "x", KIN_F32, 1, &length);
    for (int i = 0; i < nodes; i++) x = kin_scale(graph, x, 1, 1);
    kin_output(graph, "y", x);
    succeed(b, kin_plan_build(graph, b->device, NULL, &plan));
    kin_graph_destroy(graph);
    return plan;
}

static void test_lost_device(void **state) {
    (void)state;
    bench b;
    kin_buffer *buffer = NULL;
    float x[16] = {0};
    succeed(&b, open_bench(&b, checked));
    kin_vulkan_state *vulkan = b.device->state;
    kin_plan *plan = chain_plan(&b, 3, 16);
    succeed(&b, kin_plan_prepare(plan, NULL, NULL));
    succeed(&b, kin_plan_write(plan, "x", KIN_F32, x));
    real_wait = vulkan->vk.QueueWaitIdle;
    vulkan->vk.QueueWaitIdle = lose;
    expect_error(&b, kin_plan_run(plan), KIN_DEVICE, "the device was lost");
    vulkan->vk.QueueWaitIdle = real_wait;
    /* from now on nothing works, and everything says why */
    expect_error(&b, kin_plan_run(plan), KIN_DEVICE, "the device was lost");
    expect_error(&b, kin_plan_write(plan, "x", KIN_F32, x), KIN_DEVICE, "the device was lost");
    expect_error(&b, b.device->backend->allocate(b.device, 16, &buffer), KIN_DEVICE,
                 "the device was lost");
    assert_null(buffer);
    kin_plan_free(plan);
    close_bench(&b);
}

/* ---- settings and limits ---- */

static void refuse_setting(const char *settings, const char *part) {
    bench b;
    kin_status status = open_bench(&b, settings);
    expect_error(&b, status, KIN_INVALID, part);
    close_bench(&b);
}

static void test_settings(void **state) {
    (void)state;
    refuse_setting("vulkan.max_range=100", "vulkan.max_range=100");
    refuse_setting("vulkan.max_groups=many", "vulkan.max_groups=many");
    refuse_setting("vulkan.max_allocation=-1", "vulkan.max_allocation=-1");
    refuse_setting("vulkan.kind=npu", "neither cpu nor gpu");
    refuse_setting("vulkan.validation=yes", "neither on nor off");
}

/* 8 tensors of 16 KiB live at once, in chunks of at most 20,000 bytes, in bindings of 4 KiB. */
static void test_small_limits(void **state) {
    (void)state;
    bench b;
    kin_buffer *buffer = NULL;
    kin_graph *graph = NULL;
    kin_plan *plan = NULL;
    static float x[LENGTH], y[LENGTH];
    succeed(&b, open_bench(&b, "vulkan.validation=on\nvulkan.max_allocation=20000\n"
                               "vulkan.max_range=4096\nvulkan.max_groups=16"));
    assert_int_equal(b.device->info.max_allocation, 20000);
    expect_error(&b, b.device->backend->allocate(b.device, 20001, &buffer), KIN_OUT_OF_MEMORY,
                 "20001 bytes");
    assert_null(buffer);
    succeed(&b, kin_graph_create(b.context, &graph));
    kin_tensor in = kin_input(graph, "x", KIN_F32, 1, (int64_t[]){LENGTH}), parts[8];
    for (int i = 0; i < 8; i++) parts[i] = kin_scale(graph, in, i + 1, i);
    kin_tensor total = parts[7];
    for (int i = 6; i >= 0; i--) total = kin_add(graph, total, parts[i]);
    kin_output(graph, "y", total);
    succeed(&b, kin_plan_build(graph, b.device, NULL, &plan));
    assert_true(kin_plan_summarize(plan)->arena > 2 * 20000);
    succeed(&b, kin_plan_prepare(plan, NULL, NULL));
    for (int i = 0; i < LENGTH; i++) x[i] = (float)i;
    succeed(&b, kin_plan_write(plan, "x", KIN_F32, x));
    succeed(&b, kin_plan_run(plan));
    succeed(&b, kin_plan_read(plan, "y", KIN_F32, y));
    for (int i = 0; i < LENGTH; i++) assert_float_equal(y[i], 36.0f * x[i] + 28.0f, 0);
    kin_plan_free(plan);
    kin_graph_destroy(graph);
    close_bench(&b);
}

/* ---- memory ---- */

/* Odd offsets and lengths, overlapping copies, and ranges that are not there. */
static void test_transfers(void **state) {
    (void)state;
    bench b;
    kin_buffer *buffer = NULL;
    unsigned char bytes[256], got[256];
    succeed(&b, open_bench(&b, checked));
    const kin_backend *backend = b.device->backend;
    for (int i = 0; i < 256; i++) bytes[i] = (unsigned char)i;
    succeed(&b, backend->allocate(b.device, sizeof bytes, &buffer));
    succeed(&b, backend->upload(b.device, bytes, buffer, 0, sizeof bytes));
    succeed(&b, backend->copy(b.device, buffer, 0, buffer, 55, 200));
    memmove(bytes + 55, bytes, 200);
    succeed(&b, backend->copy(b.device, buffer, 33, buffer, 2, 99));
    memmove(bytes + 2, bytes + 33, 99);
    succeed(&b, backend->fill(b.device, buffer, 101, 2, 7));
    memset(bytes + 101, 7, 2);
    succeed(&b, backend->fill(b.device, buffer, 131, 58, 9));
    memset(bytes + 131, 9, 58);
    succeed(&b, backend->upload(b.device, bytes + 3, buffer, 249, 5));
    memcpy(bytes + 249, bytes + 3, 5);
    succeed(&b, backend->download(b.device, buffer, 0, got, sizeof got));
    assert_memory_equal(got, bytes, sizeof bytes);
    assert_int_equal(backend->fill(b.device, buffer, 250, 7, 1), KIN_INVALID);
    assert_int_equal(backend->upload(b.device, bytes, buffer, 256, 1), KIN_INVALID);
    assert_int_equal(backend->download(b.device, buffer, 257, got, 0), KIN_INVALID);
    backend->release(b.device, buffer);
    succeed(&b, backend->wait(b.device));
    close_bench(&b);
}

/* More bytes than the staging buffer has, and many buffers that share blocks of memory. */
static void test_many_and_large(void **state) {
    (void)state;
    enum { BYTES = 20 << 20, MANY = 300 };
    bench b;
    kin_buffer *buffers[MANY] = {NULL};
    succeed(&b, open_bench(&b, checked));
    const kin_backend *backend = b.device->backend;
    unsigned char *bytes = malloc(BYTES), *got = malloc(BYTES);
    assert_non_null(bytes);
    assert_non_null(got);
    for (size_t i = 0; i < BYTES; i++) bytes[i] = (unsigned char)(i * 31 + i / 4096);
    succeed(&b, backend->allocate(b.device, BYTES, &buffers[0]));
    succeed(&b, backend->upload(b.device, bytes, buffers[0], 0, BYTES));
    succeed(&b, backend->download(b.device, buffers[0], 0, got, BYTES));
    assert_memory_equal(got, bytes, BYTES);
    backend->release(b.device, buffers[0]);
    buffers[0] = NULL;
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < MANY; i++)
            if (!buffers[i])
                succeed(&b, backend->allocate(b.device, (size_t)(1 + i * 37), &buffers[i]));
        for (int i = 0; i < MANY; i++)
            succeed(&b, backend->fill(b.device, buffers[i], 0, (size_t)(1 + i * 37),
                                      (uint8_t)(i + round)));
        for (int i = 0; i < MANY; i++) {
            size_t size = (size_t)(1 + i * 37);
            succeed(&b, backend->download(b.device, buffers[i], 0, got, size));
            assert_int_equal(got[0], (uint8_t)(i + round));
            assert_int_equal(got[size - 1], (uint8_t)(i + round));
        }
        /* gaps first, which the second round fills; then all */
        for (int i = 0; i < MANY; i++)
            if (round == 1 || i % 3 != 0) {
                backend->release(b.device, buffers[i]);
                buffers[i] = NULL;
            }
    }
    free(bytes);
    free(got);
    close_bench(&b);
}

/* ---- replay ---- */

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void test_replay_allocates_nothing(void **state) {
    (void)state;
    bench b;
    float x[16] = {0}, y[16];
    succeed(&b, open_bench(&b, NULL));
    kin_plan *plan = chain_plan(&b, 1000, 16);
    long before = b.memory.calls;
    succeed(&b, kin_plan_prepare(plan, NULL, NULL));
    assert_true(b.memory.calls > before); /* the counter counts */
    succeed(&b, kin_plan_write(plan, "x", KIN_F32, x));
    before = b.memory.calls;
    for (int run = 0; run < 3; run++) succeed(&b, kin_plan_run(plan));
    assert_int_equal(b.memory.calls, before);
    succeed(&b, kin_plan_read(plan, "y", KIN_F32, y));
    for (int i = 0; i < 16; i++) assert_float_equal(y[i], 1000.0f, 0);
    kin_plan_free(plan);
    close_bench(&b);
}

/* A profiled run gives the same results and a time for each node, and the runs behind it none. */
static void test_profile(void **state) {
    (void)state;
    bench b;
    float x[16] = {0}, y[16];
    double sum = 0;
    succeed(&b, open_bench(&b, checked));
    kin_plan *plan = chain_plan(&b, 300, 16);
    succeed(&b, kin_plan_prepare(plan, NULL, NULL));
    succeed(&b, kin_plan_write(plan, "x", KIN_F32, x));
    for (int run = 0; run < 2; run++) {
        double before = seconds();
        succeed(&b, kin_plan_profile(plan));
        double whole = seconds() - before;
        for (int i = 0; i < kin_plan_node_count(plan); i++)
            sum += kin_plan_node_at(plan, i).seconds;
        assert_true(sum > 0);
        if (run == 1) assert_true(sum <= 2 * whole);
        sum = 0;
        succeed(&b, kin_plan_run(plan));
        succeed(&b, kin_plan_read(plan, "y", KIN_F32, y));
        for (int i = 0; i < 16; i++) assert_float_equal(y[i], 300.0f, 0);
    }
    kin_plan_free(plan);
    close_bench(&b);
}

static int time_launches(const char *settings) {
    enum { NODES = 1000, RUNS = 20 };
    bench b;
    double least = 1e30, most = 0;
    if (open_bench(&b, settings) != KIN_OK) return SKIP;
    kin_plan *plan = chain_plan(&b, NODES, 16);
    succeed(&b, kin_plan_prepare(plan, NULL, NULL)); /* makes the pipelines */
    double start = seconds();
    succeed(&b, kin_plan_prepare(plan, NULL, NULL));
    double prepared = seconds();
    succeed(&b, kin_plan_run(plan));
    double first = seconds();
    for (int run = 0; run < RUNS; run++) {
        double before = seconds();
        succeed(&b, kin_plan_run(plan));
        double taken = seconds() - before;
        if (taken < least) least = taken;
        if (taken > most) most = taken;
    }
    printf("%s; %d nodes of 16 elements, microseconds per node: prepare %.1f, first run %.1f, run "
           "again %.1f to %.1f\n",
           b.device->info.description, NODES, 1e6 / NODES * (prepared - start),
           1e6 / NODES * (first - prepared), 1e6 / NODES * least, 1e6 / NODES * most);
    kin_plan_free(plan);
    close_bench(&b);
    return 0;
}

int main(int argc, char **argv) {
    bench b;
    if (argc > 1 && strcmp(argv[1], "time") == 0) return time_launches(argc > 2 ? argv[2] : NULL);
    kin_status status = open_bench(&b, checked);
    bool skip = status == KIN_NOT_FOUND;
    if (skip) printf("skipped: %s\n", kin_context_error(b.context));
    close_bench(&b);
    if (skip) return SKIP;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_validation_is_on),
        cmocka_unit_test(test_lost_device),
        cmocka_unit_test(test_settings),
        cmocka_unit_test(test_small_limits),
        cmocka_unit_test(test_transfers),
        cmocka_unit_test(test_many_and_large),
        cmocka_unit_test(test_replay_allocates_nothing),
        cmocka_unit_test(test_profile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
