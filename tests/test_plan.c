/* Plans: places in the arena, in-place reuse, shared workspaces, inputs and outputs, memory that
 * runs out, and checks node by node. test_plan_memory.c has what they need of it.
 *
 * Tolerances: random programs of 40 ops in f32 against double, 1e-5 (their values are of order
 * one); runs in a shared workspace: the same bits.
 */
#define _POSIX_C_SOURCE 200809L
#include "tests/plan_helper.h"

#include <math.h>

#include "backends/cpu/cpu.h"
#include "models/training.h"
#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/matmul.h"
#include "ops/optimizer.h"
#include "ops/reduce.h"
#include "ops/softmax.h"
#include "ops/views.h"
#include "runtime/evaluate.h"
#include "runtime/philox.h"

static uint32_t draw(uint64_t seed, uint64_t index, uint32_t below) {
    return kin_philox_element(seed, 0, 0, index) % below;
}

/* ---- the arena ---- */

static void assert_no_overlap(const kin_storage *s, int32_t count, uint64_t size) {
    for (int32_t i = 0; i < count; i++) {
        assert_true(s[i].offset + s[i].size <= size);
        for (int32_t k = 0; k < i; k++) {
            bool together = s[i].first <= s[k].last && s[k].first <= s[i].last;
            bool apart = s[i].offset + s[i].size <= s[k].offset ||
                         s[k].offset + s[k].size <= s[i].offset || !s[i].size || !s[k].size;
            if (together && !apart)
                fail_msg("storages %d and %d live at the same time and overlap", (int)i, (int)k);
        }
    }
}

/* Random sizes and lifetimes, with and without a largest allocation. */
static void test_arena_places(void **state) {
    fixture *f = *state;
    enum { COUNT = 120, STEPS = 60, ALIGNMENT = 64, LIMIT = 1 << 16 };
    for (uint64_t round = 0; round < 40; round++) {
        kin_storage s[COUNT];
        uint64_t size, bound, live = 0;
        int32_t peak, count = 1 + (int32_t)draw(round, 0, COUNT);
        for (int32_t i = 0; i < count; i++) {
            int32_t first = (int32_t)draw(round, 3 * (uint64_t)i + 1, STEPS);
            s[i] = (kin_storage){draw(round, 3 * (uint64_t)i + 2, 1 << 16), first,
                                 first + (int32_t)draw(round, 3 * (uint64_t)i + 3, 20), 0};
            if (s[i].last > STEPS) s[i].last = STEPS;
        }
        uint64_t limit = round % 2 ? LIMIT : 0;
        must(f,
             kin_arena_place(f->context, s, count, STEPS, ALIGNMENT, limit, &size, &bound, &peak));
        assert_no_overlap(s, count, size);
        for (int32_t i = 0; i < count; i++) {
            assert_int_equal(s[i].offset % ALIGNMENT, 0);
            if (limit && s[i].size)
                assert_int_equal(s[i].offset / limit, (s[i].offset + s[i].size - 1) / limit);
            if (s[i].first <= peak && peak <= s[i].last) live += s[i].size;
        }
        assert_int_equal(live, bound);
        assert_true(size >= bound);
    }
}

static void test_arena_limit(void **state) {
    fixture *f = *state;
    kin_storage s = {1000, 0, 1, 0};
    uint64_t size, bound;
    int32_t peak;
    assert_int_equal(kin_arena_place(f->context, &s, 1, 2, 64, 512, &size, &bound, &peak),
                     KIN_OUT_OF_MEMORY);
    assert_message(f->context, "at most 512");
}

enum { PROGRAM = 40, ROWS = 6, COLUMNS = 10 };

/* A random program over [ROWS, COLUMNS] tensors whose values stay of order one. */
static void append_program(kin_graph *graph, uint64_t seed) {
    kin_tensor values[PROGRAM + 2];
    int count = 0;
    values[count++] = kin_input(graph, "x", KIN_F32, 2, DIMS(ROWS, COLUMNS));
    values[count++] = kin_input(graph, "y", KIN_F32, 2, DIMS(ROWS, COLUMNS));
    for (uint64_t i = 0; i < PROGRAM; i++) {
        /* mostly recent values, so that chains with in-place reuse appear */
        uint32_t back = draw(seed, 4 * i, 4) ? 3 : (uint32_t)count;
        kin_tensor a =
            values[count - 1 -
                   (int)draw(seed, 4 * i + 1, back < (uint32_t)count ? back : (uint32_t)count)];
        kin_tensor b = values[draw(seed, 4 * i + 2, (uint32_t)count)], made = a, parts[2];
        switch (draw(seed, 4 * i + 3, 9)) {
        case 0:
            made = kin_scale(graph, kin_add(graph, a, b), 0.5, 0);
            break;
        case 1:
            made = kin_tanh(graph, a);
            break;
        case 2:
            made = kin_maximum(graph, a, b);
            break;
        case 3:
            made = kin_neg(graph, a);
            break;
        case 4:
            made = kin_transpose(graph, kin_softmax(graph, kin_transpose(graph, a, 0, 1)), 0, 1);
            break;
        case 5: {
            parts[0] = kin_slice(graph, a, 0, 0, ROWS / 2);
            parts[1] = kin_slice(graph, b, 0, ROWS / 2, ROWS / 2);
            made = kin_concat(graph, parts, 2, 0);
            break;
        }
        case 6: {
            kin_tensor scores = kin_matmul(graph, a, kin_transpose(graph, b, 0, 1));
            made = kin_matmul(graph, kin_softmax(graph, scores), b);
            break;
        }
        case 7:
            made = kin_sub(graph, a, kin_mean(graph, a, 2, true));
            break;
        default:
            made = kin_reshape(graph, kin_reshape(graph, a, 1, DIMS(-1)), 2, DIMS(ROWS, COLUMNS));
        }
        values[count++] = made;
    }
    kin_output(graph, "last", values[count - 1]);
    kin_output(graph, "middle", values[count / 2]);
}

/* The lifetimes of a plan again, from the steps alone: whatever a step reads was written by the
 * last step that wrote these bytes. */
static void assert_reads_are_intact(const kin_plan *plan) {
    enum { UNIT = 4 };
    size_t units = (size_t)(plan->summary.arena / UNIT) + 1;
    int32_t *writer = malloc(units * sizeof *writer); /* storage's value that wrote last */
    assert_non_null(writer);
    for (size_t u = 0; u < units; u++) writer[u] = -1;
    for (int32_t s = 0; s < plan->step_count; s++) {
        const kin_node *node = &plan->graph->nodes[plan->steps[s].node];
        for (int i = 0; i < node->in_count; i++) {
            if (!node->in[i]) continue;
            int32_t base = plan->graph->values[node->in[i]].base;
            const kin_location *at = &plan->locations[base];
            if (at->place != KIN_PLACE_ARENA) continue;
            size_t first = (size_t)(plan->storages[at->storage].offset / UNIT);
            size_t size = kin_desc_bytes(&plan->graph->values[base].desc) / UNIT;
            for (size_t u = first; u < first + size; u++)
                if (writer[u] != base) fail_msg("step %d reads what is gone", (int)s);
        }
        for (int j = 0; j < node->out_count; j++) {
            int32_t base = plan->graph->values[node->out[j]].base;
            const kin_location *at = &plan->locations[base];
            if (at->place != KIN_PLACE_ARENA) continue;
            size_t first = (size_t)(plan->storages[at->storage].offset / UNIT);
            size_t size = kin_desc_bytes(&plan->graph->values[base].desc) / UNIT;
            for (size_t u = first; u < first + size; u++) writer[u] = base;
        }
    }
    for (int32_t i = 0; i < plan->graph->output_count; i++) {
        int32_t base = plan->graph->values[plan->graph->outputs[i].value].base;
        const kin_location *at = &plan->locations[base];
        if (at->place != KIN_PLACE_ARENA) continue;
        if (writer[plan->storages[at->storage].offset / UNIT] != base)
            fail_msg("an output is gone");
    }
    free(writer);
}

static void test_random_programs(void **state) {
    fixture *f = *state;
    enum { ELEMENTS = ROWS * COLUMNS };
    for (uint64_t seed = 1; seed <= 60; seed++) {
        float x[ELEMENTS], y[ELEMENTS], got[2][ELEMENTS];
        double x64[ELEMENTS], y64[ELEMENTS], want[2][ELEMENTS];
        kin_philox_fill_normal(seed, 1, 0, 0, ELEMENTS, x);
        kin_philox_fill_normal(seed, 2, 0, 0, ELEMENTS, y);
        kin_convert(x, KIN_F32, x64, KIN_F64, ELEMENTS);
        kin_convert(y, KIN_F32, y64, KIN_F64, ELEMENTS);
        fresh_graph(f);
        append_program(f->graph, seed);
        must(f, kin_plan_build(f->graph, f->cpu, NULL, &f->plan));
        assert_no_overlap(f->plan->storages, f->plan->storage_count, f->plan->summary.arena);
        assert_reads_are_intact(f->plan);
        assert_true(f->plan->summary.arena >= f->plan->summary.lower_bound);
        must(f, kin_plan_prepare(f->plan, NULL, NULL));
        if (kin_plan_input_desc(f->plan, "x")) must(f, kin_plan_write(f->plan, "x", KIN_F32, x));
        if (kin_plan_input_desc(f->plan, "y")) must(f, kin_plan_write(f->plan, "y", KIN_F32, y));
        must(f, kin_plan_run(f->plan));
        must(f, kin_plan_read(f->plan, "last", KIN_F32, got[0]));
        must(f, kin_plan_read(f->plan, "middle", KIN_F32, got[1]));
        kin_evaluate_value given[2] = {{"x", x64}, {"y", y64}};
        kin_evaluate_value wanted[2] = {{"last", want[0]}, {"middle", want[1]}};
        must(f, kin_graph_evaluate(f->graph, given, 2, wanted, 2, KIN_ROUND_NOTHING, NULL));
        for (int j = 0; j < 2; j++) {
            double largest = 0, error = 0;
            for (int i = 0; i < ELEMENTS; i++) {
                largest = fmax(largest, fabs(want[j][i]));
                error = fmax(error, fabs((double)got[j][i] - want[j][i]));
            }
            if (!(error <= 1e-5 * fmax(largest, 1)))
                fail_msg("program %d is off by %g of %g", (int)seed, error, largest);
        }
    }
}

/* In a chain of element-wise ops each result takes the place of the one before. */
static void test_in_place_reuse(void **state) {
    fixture *f = *state;
    kin_tensor x = kin_input(f->graph, "x", KIN_F32, 1, DIMS(1024));
    for (int i = 0; i < 10; i++) x = kin_neg(f->graph, x);
    kin_output(f->graph, "y", x);
    must(f, kin_plan_build(f->graph, f->cpu, NULL, &f->plan));
    assert_int_equal(kin_plan_summarize(f->plan)->nodes, 10);
    assert_int_equal(kin_plan_summarize(f->plan)->arena, 4096);
}

/* ---- workspaces ---- */

static kin_plan *plan_of_size(fixture *f, int64_t count, kin_workspace *workspace) {
    kin_plan *plan = NULL;
    kin_graph *graph = NULL;
    must(f, kin_graph_create(f->context, &graph));
    kin_tensor x = kin_input(graph, "x", KIN_F32, 1, &count);
    kin_output(graph, "y", kin_add(graph, kin_square(graph, x), kin_exp(graph, x)));
    must(f, kin_plan_build(graph, f->cpu, NULL, &plan));
    must(f, kin_plan_prepare(plan, NULL, workspace));
    kin_graph_destroy(graph);
    return plan;
}

static void run_square(fixture *f, kin_plan *plan, int count, float value) {
    float data[5000] = {0}, got[5000];
    for (int i = 0; i < count; i++) data[i] = value;
    must(f, kin_plan_write(plan, "x", KIN_F32, data));
    must(f, kin_plan_run(plan));
    must(f, kin_plan_read(plan, "y", KIN_F32, got));
    float want = value * value + expf(value);
    for (int i = 0; i < count; i++) assert_true(fabsf(got[i] - want) <= 1e-5f * want);
}

static void test_shared_workspace(void **state) {
    fixture *f = *state;
    kin_workspace *workspace = NULL;
    must(f, kin_workspace_create(f->cpu, &workspace));
    kin_plan *small = plan_of_size(f, 100, workspace);
    run_square(f, small, 100, 2);
    uint64_t size = workspace->size;
    kin_plan *large = plan_of_size(f, 5000, workspace); /* the arena moves */
    assert_true(workspace->size > size);
    assert_int_equal(workspace->size, kin_plan_summarize(large)->arena);
    run_square(f, small, 100, 3);
    run_square(f, large, 5000, 1);
    run_square(f, small, 100, 0.5f);
    size = workspace->size;
    kin_plan *third = plan_of_size(f, 100, workspace);
    assert_int_equal(workspace->size, size);
    run_square(f, third, 100, 4);
    kin_plan_free(small);
    kin_plan_free(large);
    kin_plan_free(third);
    kin_workspace_free(workspace);
}

/* ---- inputs, outputs, variables ---- */

static void test_names_and_states(void **state) {
    fixture *f = *state;
    float data[4] = {1, 2, 3, 4};
    kin_tensor x = kin_input(f->graph, "x", KIN_F32, 1, DIMS(4));
    kin_tensor w = kin_variable(f->graph, "w", KIN_VARIABLE_WEIGHT, KIN_F32, 1, DIMS(4),
                                (kin_init){KIN_INIT_ONE, 0});
    kin_output(f->graph, "y", kin_mul(f->graph, x, w));
    must(f, kin_plan_build(f->graph, f->cpu, NULL, &f->plan));
    assert_int_equal(kin_plan_run(f->plan), KIN_INVALID);
    assert_message(f->context, "not prepared");
    assert_int_equal(kin_plan_write(f->plan, "x", KIN_F32, data), KIN_INVALID);
    assert_int_equal(kin_plan_read(f->plan, "y", KIN_F32, data), KIN_INVALID);
    assert_int_equal(kin_plan_prepare(f->plan, NULL, NULL), KIN_NOT_FOUND);
    assert_message(f->context, "\"w\"");

    must(f, kin_store_create(f->cpu, &f->store));
    assert_int_equal(kin_plan_prepare(f->plan, f->store, NULL), KIN_NOT_FOUND);
    kin_graph *other = NULL;
    must(f, kin_graph_create(f->context, &other));
    kin_variable(other, "w", KIN_VARIABLE_WEIGHT, KIN_F32, 1, DIMS(5), (kin_init){KIN_INIT_ONE, 0});
    must(f, kin_store_add_graph(f->store, other, 1));
    kin_graph_destroy(other);
    assert_int_equal(kin_plan_prepare(f->plan, f->store, NULL), KIN_INVALID);
    assert_message(f->context, "[5] in the store, but the model wants [4]");

    kin_store_free(f->store);
    must(f, kin_store_create(f->cpu, &f->store));
    must(f, kin_store_add_graph(f->store, f->graph, 1));
    must(f, kin_plan_prepare(f->plan, f->store, NULL));
    assert_int_equal(kin_plan_write(f->plan, "z", KIN_F32, data), KIN_NOT_FOUND);
    assert_message(f->context, "no input \"z\"");
    assert_int_equal(kin_plan_read(f->plan, "x", KIN_F32, data), KIN_NOT_FOUND);
    assert_message(f->context, "no output \"x\"");
    const double wide[4] = {1, 2, 3, 4};
    uint16_t half[4];
    must(f, kin_plan_write(f->plan, "x", KIN_F64, wide));
    must(f, kin_plan_run(f->plan));
    must(f, kin_plan_read(f->plan, "y", KIN_F16, half));
    for (int i = 0; i < 4; i++) assert_true(kin_f16_to_f32(half[i]) == (float)wide[i]);
    assert_null(kin_plan_input_desc(f->plan, "y"));
    assert_int_equal(kin_plan_input_desc(f->plan, "x")->dims[0], 4);
    assert_int_equal(kin_plan_output_desc(f->plan, "y")->dims[0], 4);
}

/* Reserved: states start, weights wait for a file. */
static void test_reserved_variables(void **state) {
    fixture *f = *state;
    float got[4], data[4] = {1, 2, 3, 4};
    kin_init one = {KIN_INIT_ONE, 0};
    kin_tensor w = kin_variable(f->graph, "w", KIN_VARIABLE_WEIGHT, KIN_F32, 1, DIMS(4), one);
    kin_tensor s = kin_variable(f->graph, "s", KIN_VARIABLE_STATE, KIN_F32, 1, DIMS(4), one);
    kin_output(f->graph, "y", kin_mul(f->graph, s, w));
    must(f, kin_plan_build(f->graph, f->cpu, NULL, &f->plan));
    must(f, kin_store_create(f->cpu, &f->store));
    must(f, kin_store_reserve_graph(f->store, f->graph));
    assert_int_equal(kin_store_count(f->store), 2);
    must(f, kin_store_read(f->store, "s", KIN_F32, got));
    for (int i = 0; i < 4; i++) assert_true(got[i] == 1);
    must(f, kin_store_write(f->store, "w", KIN_F32, data));
    must(f, kin_store_reserve_graph(f->store, f->graph)); /* what is there stays */
    must(f, kin_plan_prepare(f->plan, f->store, NULL));
    must(f, kin_plan_run(f->plan));
    must(f, kin_plan_read(f->plan, "y", KIN_F32, got));
    for (int i = 0; i < 4; i++) assert_true(got[i] == data[i]);
}

static void test_null_device_plans_only(void **state) {
    fixture *f = *state;
    kin_output(f->graph, "y", kin_neg(f->graph, kin_input(f->graph, "x", KIN_F32, 1, DIMS(4))));
    must(f, kin_plan_build(f->graph, f->null_device, NULL, &f->plan));
    assert_int_equal(kin_plan_summarize(f->plan)->nodes, 1);
    assert_int_not_equal(kin_plan_prepare(f->plan, NULL, NULL), KIN_OK);
}

/* ---- memory that runs out ---- */

static kin_status build_and_plan(kin_context *context, void *user) {
    (void)user;
    kin_backends *backends = NULL;
    kin_device *device = NULL;
    kin_graph *graph = NULL;
    kin_plan *plan = NULL;
    kin_store *store = NULL;
    const float data[12] = {1}, lr = 1e-3f;
    const int64_t step = 1;
    kin_status status = kin_backends_load(context, NULL, &backends);
    if (status == KIN_OK) status = kin_device_open(backends, "cpu", &device);
    if (status == KIN_OK) status = kin_graph_create(context, &graph);
    if (status == KIN_OK) {
        kin_tensor x = kin_input(graph, "x", KIN_F32, 2, DIMS(3, 4));
        kin_tensor w = kin_variable(graph, "w", KIN_VARIABLE_WEIGHT, KIN_F32, 2, DIMS(5, 4),
                                    (kin_init){KIN_INIT_NORMAL, 1});
        kin_segment_begin(graph);
        kin_tensor y = kin_softmax(graph, kin_linear(graph, x, w, KIN_NONE));
        kin_segment_end(graph);
        y = kin_matmul(graph, kin_transpose(graph, y, 0, 1), x);
        kin_optimizer_options optimizer = {.beta1 = 0.9, .beta2 = 0.99, .epsilon = 1e-8};
        kin_tensor loss = kin_sum_all(graph, kin_square(graph, y));
        kin_training_update(graph, loss, &optimizer);
        kin_output(graph, "loss", loss);
        kin_plan_options options = {.struct_size = sizeof options,
                                    .recompute = KIN_RECOMPUTE_SEGMENTS};
        status = kin_plan_build(graph, device, &options, &plan);
    }
    if (status == KIN_OK) status = kin_store_create(device, &store);
    if (status == KIN_OK) status = kin_store_add_graph(store, graph, 1);
    if (status == KIN_OK) status = kin_plan_prepare(plan, store, NULL);
    if (status == KIN_OK) status = kin_plan_write(plan, "x", KIN_F32, data);
    if (status == KIN_OK) status = kin_plan_write(plan, "lr", KIN_F32, &lr);
    if (status == KIN_OK) status = kin_plan_write(plan, "step", KIN_I64, &step);
    if (status == KIN_OK) status = kin_plan_run(plan);
    kin_plan_free(plan);
    kin_store_free(store);
    kin_graph_destroy(graph);
    kin_device_close(device);
    kin_backends_free(backends);
    return status;
}

static void test_no_memory(void **state) {
    (void)state;
    sweep_allocations(build_and_plan, NULL);
}

/* ---- a run allocates nothing ---- */

static void test_replay_allocates_nothing(void **state) {
    (void)state;
    failing counter = {0};
    fixture f = {.context = failing_context(&counter)};
    must(&f, kin_backends_load(f.context, NULL, &f.backends));
    must(&f, kin_device_open(f.backends, "cpu", &f.cpu));
    must(&f, kin_graph_create(f.context, &f.graph));
    append_program(f.graph, 17);
    must(&f, kin_plan_build(f.graph, f.cpu, NULL, &f.plan));
    must(&f, kin_plan_prepare(f.plan, NULL, NULL));
    long before = counter.count;
    assert_true(before > 0);
    for (int run = 0; run < 3; run++) must(&f, kin_plan_run(f.plan));
    assert_int_equal(counter.count, before);
    kin_plan_free(f.plan);
    kin_graph_destroy(f.graph);
    kin_device_close(f.cpu);
    kin_backends_free(f.backends);
    kin_context_destroy(f.context);
    assert_int_equal(counter.live, 0);
}

/* ---- checks node by node ---- */

/* The CPU with a kernel for tanh that adds a thousandth to its element 7. */
static kin_status wrong_tanh(kin_device *device, kin_commands *commands, const kin_call *call) {
    for (size_t i = 0;; i++) {
        const kin_kernel *row = kin_backend_cpu.kernel(device, i);
        if (!row) return KIN_UNSUPPORTED;
        if (strcmp(row->op, "tanh") != 0) continue;
        kin_status status = row->launch(device, commands, call);
        ((float *)cpu_data(&call->out[0]))[7] += 1e-3f;
        return status;
    }
}

static const kin_kernel wrong_row = {.op = "tanh", .name = "wrong_tanh", .launch = wrong_tanh};

static const kin_kernel *wrong_kernels(const kin_device *device, size_t index) {
    return index == 0 ? &wrong_row : kin_backend_cpu.kernel(device, index - 1);
}

static void append_layers(kin_graph *graph) {
    kin_tensor x = kin_input(graph, "x", KIN_F32, 2, DIMS(4, 5));
    kin_scope_push(graph, "blocks.0");
    x = kin_add(graph, x, kin_sigmoid(graph, x));
    kin_scope_pop(graph);
    kin_scope_push(graph, "blocks.1");
    kin_scope_push(graph, "mlp");
    x = kin_add(graph, x, kin_tanh(graph, x));
    kin_scope_pop(graph);
    kin_scope_pop(graph);
    kin_output(graph, "y", kin_softmax(graph, x));
}

static void prepare_layers(fixture *f, kin_device *device) {
    float x[20];
    kin_philox_fill_normal(1, 0, 0, 0, 20, x);
    fresh_graph(f);
    append_layers(f->graph);
    must(f, kin_plan_build(f->graph, device, NULL, &f->plan));
    must(f, kin_plan_prepare(f->plan, NULL, NULL));
    must(f, kin_plan_write(f->plan, "x", KIN_F32, x));
}

static void test_check_names_the_wrong_node(void **state) {
    fixture *f = *state;
    kin_divergence divergence;
    prepare_layers(f, f->cpu);
    assert_int_equal(kin_plan_check(f->plan, 1, &divergence), KIN_OK);

    kin_backend table = kin_backend_cpu;
    table.kernel = wrong_kernels;
    kin_device wrong = *f->cpu;
    wrong.backend = &table;
    prepare_layers(f, &wrong);
    assert_int_equal(kin_plan_check(f->plan, 1, &divergence), KIN_NUMERIC);
    assert_message(f->context, "blocks.1.mlp tanh");
    assert_message(f->context, "wrong_tanh");
    kin_plan_node node = kin_plan_node_at(f->plan, divergence.node);
    assert_string_equal(node.op, "tanh");
    assert_string_equal(node.path, "blocks.1.mlp");
    assert_int_equal(divergence.element, 7);
    assert_true(fabs(divergence.got - divergence.want - 1e-3) < 1e-5);
    assert_true(divergence.error > divergence.tolerance);
    assert_int_equal(kin_plan_check(f->plan, 1e6, &divergence), KIN_OK);
    kin_plan_free(f->plan); /* before its device goes */
    f->plan = NULL;
}

static void test_first_nonfinite_is_named(void **state) {
    fixture *f = *state;
    const char *where = "";
    float data[3] = {1, 2, 3};
    kin_tensor x = kin_input(f->graph, "x", KIN_F32, 1, DIMS(3));
    kin_scope_push(f->graph, "decoder.norm");
    kin_tensor y = kin_sqrt(f->graph, kin_scale(f->graph, x, 1, -2));
    kin_scope_pop(f->graph);
    kin_output(f->graph, "y", kin_square(f->graph, y));
    must(f, kin_plan_build(f->graph, f->cpu, NULL, &f->plan));
    must(f, kin_plan_prepare(f->plan, NULL, NULL));
    must(f, kin_plan_write(f->plan, "x", KIN_F32, data));
    must(f, kin_plan_find_nonfinite(f->plan, &where));
    assert_string_equal(where, "decoder.norm sqrt");
    data[0] = 2;
    must(f, kin_plan_write(f->plan, "x", KIN_F32, data));
    must(f, kin_plan_find_nonfinite(f->plan, &where));
    assert_null(where);
}

static void test_profile(void **state) {
    fixture *f = *state;
    prepare_layers(f, f->cpu);
    must(f, kin_plan_profile(f->plan));
    double total = 0;
    for (int i = 0; i < kin_plan_node_count(f->plan); i++) {
        kin_plan_node node = kin_plan_node_at(f->plan, i);
        assert_non_null(node.kernel);
        assert_true(node.seconds >= 0 && node.bytes > 0);
        total += node.seconds;
    }
    assert_true(total > 0 && total < 10);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_arena_places),
        TEST(test_arena_limit),
        TEST(test_random_programs),
        TEST(test_in_place_reuse),
        TEST(test_shared_workspace),
        TEST(test_names_and_states),
        TEST(test_reserved_variables),
        TEST(test_null_device_plans_only),
        TEST(test_check_names_the_wrong_node),
        TEST(test_first_nonfinite_is_named),
        TEST(test_profile),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_replay_allocates_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
