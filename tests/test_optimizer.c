/* adamw_ema is adamw and ema in one pass: the same bits as the two on the CPU, whether a device has
 * a kernel for it or not, and the states of a training step keep their names. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "models/training.h"
#include "ops/elementwise.h"
#include "ops/optimizer.h"
#include "ops/reduce.h"
#include "runtime/device.h"
#include "runtime/plan.h"
#include "runtime/store.h"

enum { COUNT = 40000 + 7, STATES = 4, STEPS = 3 };

static const char *const names[STATES] = {"p", "m", "v", "average"};
static const kin_adamw_ema_attrs attrs = {{0.9, 0.999, 1e-8, 0.01}, 0.75};

typedef struct states {
    float at[STATES][COUNT];
} states;

static void ok(kin_context *context, kin_status status) {
    if (status != KIN_OK) fail_msg("%s", kin_context_error(context));
}

/* `decay` of the average; `fused` by one node. */
static void append(kin_graph *graph, bool fused, double decay) {
    const int64_t count = COUNT, none = 1;
    kin_tensor s[STATES], g = kin_input(graph, "g", KIN_F32, 1, &count);
    kin_tensor lr = kin_input(graph, "lr", KIN_F32, 0, &none);
    kin_tensor step = kin_input(graph, "step", KIN_I64, 0, &none);
    kin_tensor scale = kin_input(graph, "scale", KIN_F32, 0, &none);
    kin_adamw_ema_attrs mine = attrs;
    mine.decay = decay;
    for (int k = 0; k < STATES; k++)
        s[k] = kin_variable(graph, names[k], KIN_VARIABLE_STATE, KIN_F32, 1, &count,
                            (kin_init){KIN_INIT_ZERO, 0});
    if (fused) {
        kin_adamw_ema(graph, s[0], g, s[1], s[2], s[3], lr, step, scale, &mine);
    } else {
        kin_tensor p = kin_adamw(graph, s[0], g, s[1], s[2], lr, step, scale, &mine.adamw);
        kin_ema(graph, s[3], p, decay, scale);
    }
}

static float gradient_at(int i, int step) {
    return (float)((i * 7919 + step * 31) % 1000 - 500) / 311.0f;
}

/* The states after some steps, the last of which has the gradients' factor `last_scale`. */
static void run(bool fused, double decay, float last_scale, states *out) {
    static float g[COUNT];
    kin_context *context = NULL;
    kin_backends *backends = NULL;
    kin_device *device = NULL;
    kin_graph *graph = NULL;
    kin_store *store = NULL;
    kin_plan *plan = NULL;
    ok(NULL, kin_context_create(NULL, &context));
    ok(context, kin_backends_load(context, NULL, &backends));
    ok(context, kin_device_open(backends, "cpu", &device));
    ok(context, kin_graph_create(context, &graph));
    append(graph, fused, decay);
    ok(context, kin_plan_build(graph, device, NULL, &plan));
    ok(context, kin_store_create(device, &store));
    ok(context, kin_store_add_graph(store, graph, 1));
    for (int i = 0; i < COUNT; i++) g[i] = gradient_at(3 * i, 5);
    ok(context, kin_store_write(store, "p", KIN_F32, g));
    ok(context, kin_store_write(store, "average", KIN_F32, g));
    ok(context, kin_plan_prepare(plan, store, NULL));
    for (int64_t step = 1; step <= STEPS; step++) {
        const float lr = 1e-2f, scale = step == STEPS ? last_scale : 0.5f;
        for (int i = 0; i < COUNT; i++) g[i] = gradient_at(i, (int)step);
        ok(context, kin_plan_write(plan, "g", KIN_F32, g));
        ok(context, kin_plan_write(plan, "lr", KIN_F32, &lr));
        ok(context, kin_plan_write(plan, "step", KIN_I64, &step));
        ok(context, kin_plan_write(plan, "scale", KIN_F32, &scale));
        ok(context, kin_plan_run(plan));
    }
    for (int k = 0; k < STATES; k++)
        ok(context, kin_store_read(store, names[k], KIN_F32, out->at[k]));
    kin_plan_free(plan);
    kin_store_free(store);
    kin_graph_destroy(graph);
    kin_device_close(device);
    kin_backends_free(backends);
    kin_context_destroy(context);
}

static states one, two;

static void test_same_bits(void **state) {
    (void)state;
    static const float scales[] = {0.5f, 0.0f}; /* 0: the step is skipped */
    for (int i = 0; i < 2; i++) {
        run(true, 0.75, scales[i], &one);
        run(false, 0.75, scales[i], &two);
        assert_memory_equal(&one, &two, sizeof one);
    }
    run(false, 0.5, 0.0f, &two);
    assert_memory_equal(one.at[0], two.at[0], sizeof one.at[0]);
    assert_true(memcmp(one.at[3], two.at[3], sizeof one.at[3]) != 0);
}

/* What checkpoints hold: the same names, in the same order, whatever the nodes are. */
static void test_names(void **state) {
    (void)state;
    static const char *const expected[] = {"w", KIN_MOMENT1_PREFIX "w", KIN_MOMENT2_PREFIX "w",
                                           KIN_EMA_PREFIX "w"};
    const int64_t count = 5;
    for (int averages = 0; averages < 2; averages++) {
        kin_context *context = NULL;
        kin_graph *graph = NULL;
        ok(NULL, kin_context_create(NULL, &context));
        ok(context, kin_graph_create(context, &graph));
        kin_tensor w = kin_variable(graph, "w", KIN_VARIABLE_WEIGHT, KIN_F32, 1, &count,
                                    (kin_init){KIN_INIT_ONE, 0});
        kin_optimizer_options options = {
            .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .ema_decay = averages ? 0.99 : 0};
        kin_training_update(graph, kin_mean_all(graph, kin_square(graph, w)), &options);
        ok(context, kin_graph_status(graph));
        assert_int_equal(kin_variable_count(graph), 3 + averages);
        for (int i = 0; i < 3 + averages; i++)
            assert_string_equal(kin_variable_name(graph, kin_variable_at(graph, i)), expected[i]);
        kin_graph_destroy(graph);
        kin_context_destroy(context);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_same_bits),
                                       cmocka_unit_test(test_names)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
