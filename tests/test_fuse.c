/* Fusing while planning: what becomes one node, what must not, and that results stay.
 *
 * Tolerances: f32 results have the bits of the plan with plan.fuse=off; kin_plan_check holds every
 * fused node to the rule of runtime/check.h, in f32 and bf16. Negative controls: another activation
 * has other bits, and a kernel that forgets the residual does not pass the check.
 */
#define _POSIX_C_SOURCE 200809L
#include "tests/plan_helper.h"
#include "tests/wrapped_device.h"

#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/matmul.h"
#include "ops/matmul_fused.h"
#include "ops/modulate.h"
#include "ops/optimizer.h"
#include "ops/reduce.h"
#include "ops/views.h"

/* Large enough for OpenBLAS, where the CPU backend takes it. */
enum { B = 2, N = 96, K = 136, M = 128, MOST = B * N * K };

/* ---- graphs: x [B, N, K] times w [M, K]; r [B, N, M]; g [B, 1, M] ---- */

typedef struct parts {
    kin_graph *graph;
    kin_tensor x, w, b, r, g, y;
} parts;

static parts parts_of(kin_graph *graph, kin_dtype dtype) {
    parts p = {.graph = graph};
    p.x = kin_cast(graph, kin_input(graph, "x", KIN_F32, 3, DIMS(B, N, K)), dtype);
    p.w = kin_cast(graph, kin_input(graph, "w", KIN_F32, 2, DIMS(M, K)), dtype);
    p.b = kin_cast(graph, kin_input(graph, "b", KIN_F32, 1, DIMS(M)), dtype);
    p.r = kin_cast(graph, kin_input(graph, "r", KIN_F32, 3, DIMS(B, N, M)), dtype);
    p.g = kin_cast(graph, kin_input(graph, "g", KIN_F32, 3, DIMS(B, 1, M)), dtype);
    return p;
}

static kin_tensor product(const parts *p) {
    return kin_linear(p->graph, p->x, p->w, p->b);
}

static void gelu(parts *p) {
    p->y = kin_gelu_tanh(p->graph, product(p));
}

static void gelu_by_erf_and_sum(parts *p) {
    p->y = kin_add(p->graph, kin_gelu(p->graph, product(p)), p->r);
}

static void silu_and_gate(parts *p) {
    p->y = kin_gated_add(p->graph, p->r, p->g, kin_silu(p->graph, product(p)));
}

static void gate_of_another_shape(parts *p) {
    kin_graph *g = p->graph;
    p->x = kin_reshape(g, p->x, 4, DIMS(B, 4, N / 4, K));
    kin_tensor y = kin_reshape(g, product(p), 3, DIMS(B, N, M));
    p->y = kin_cast(g, kin_gated_add(g, p->r, p->g, y), KIN_F16);
}

static void batch_and_sum(parts *p) {
    kin_tensor w = kin_transpose(p->graph, p->w, 0, 1);
    p->y = kin_add(p->graph, p->r, kin_matmul(p->graph, p->x, w));
}

static void cast_behind_a_view(parts *p) {
    kin_tensor y = kin_reshape(p->graph, product(p), 2, DIMS(B * N, M));
    p->y = kin_cast(p->graph, y, KIN_BF16);
}

/* x is the residual, too, and must not be overwritten while it is read. */
static void own_residual(parts *p) {
    kin_graph *g = p->graph;
    kin_tensor x = kin_scale(g, p->x, 0.5, 0.25);
    kin_tensor w = kin_matmul(g, kin_transpose(g, p->w, 0, 1), p->w);
    p->y = kin_silu(g, kin_add(g, x, kin_linear(g, x, w, KIN_NONE)));
}

/* A residual that nobody else reads is overwritten. */
static void spare_residual(parts *p) {
    kin_graph *g = p->graph;
    kin_tensor r = kin_scale(g, p->r, 0.5, 0.25);
    p->y = kin_gated_add(g, r, p->g, kin_gelu_tanh(g, product(p)));
}

static void spare_summand(parts *p) {
    kin_tensor r = kin_scale(p->graph, p->r, 0.5, 0.25);
    p->y = kin_add(p->graph, r, product(p));
}

static void two_sums(parts *p) {
    kin_tensor a = product(p), b = product(p);
    p->y = kin_add(p->graph, a, b);
}

/* ---- what must stay apart ---- */

static void two_readers(parts *p) {
    kin_tensor z = product(p);
    p->y = kin_add(p->graph, kin_gelu_tanh(p->graph, z), z);
}

static void twice_the_same(parts *p) {
    kin_tensor z = product(p);
    p->y = kin_add(p->graph, z, z);
}

static void an_output(parts *p) {
    kin_tensor z = product(p);
    kin_output(p->graph, "z", z);
    p->y = kin_gelu_tanh(p->graph, z);
}

static void a_segment_ends(parts *p) {
    kin_segment_begin(p->graph);
    kin_tensor z = product(p);
    kin_segment_end(p->graph);
    p->y = kin_gelu_tanh(p->graph, z);
}

static void a_smaller_summand(parts *p) {
    p->y = kin_add(p->graph, product(p), p->g);
}

static void a_wider_sum(parts *p) {
    kin_tensor r = kin_reshape(p->graph, p->r, 4, DIMS(B, 1, N, M));
    p->y = kin_add(p->graph, r, product(p)); /* [B, B, N, M] */
}

static void another_order(parts *p) {
    kin_graph *g = p->graph;
    kin_tensor square = kin_matmul(g, kin_transpose(g, p->w, 0, 1), p->w);
    kin_tensor other = kin_matmul(g, kin_scale(g, kin_transpose(g, p->w, 0, 1), 2, 0), p->w);
    p->y = kin_add(g, kin_scale(g, square, 1, 1), kin_transpose(g, other, 0, 1));
}

static void a_part(parts *p) {
    p->y = kin_gelu_tanh(p->graph, kin_slice(p->graph, product(p), 1, 3, 5));
}

static void the_gate_itself(parts *p) {
    p->y = kin_gated_add(p->graph, p->r, product(p), p->r);
}

/* To wait for the other summand, the product's operands would have to live on. */
static void work_between(parts *p) {
    kin_tensor z = product(p);
    kin_tensor late = kin_silu(p->graph, p->r);
    p->y = kin_add(p->graph, z, late);
}

static void another_function(parts *p) {
    p->y = kin_tanh(p->graph, product(p));
}

typedef struct example {
    const char *name;
    void (*build)(parts *p);
    const char *want; /* nodes but casts of inputs: "op", or "op(what it took on)" */
} example;

#define EXAMPLE(function, want)                                                                    \
    { #function, function, want }
static const example together[] = {
    EXAMPLE(gelu, "linear_fused(gelu_tanh)"),
    EXAMPLE(gelu_by_erf_and_sum, "linear_fused(gelu, add)"),
    EXAMPLE(silu_and_gate, "linear_fused(silu, gated_add)"),
    EXAMPLE(gate_of_another_shape, "linear_fused(gated_add, cast)"),
    EXAMPLE(batch_and_sum, "matmul_fused(add)"),
    EXAMPLE(cast_behind_a_view, "linear_fused(cast)"),
    EXAMPLE(own_residual, "scale matmul linear_fused(add) silu"),
    EXAMPLE(spare_residual, "scale linear_fused(gelu_tanh, gated_add)"),
    EXAMPLE(spare_summand, "scale linear_fused(add)"),
    EXAMPLE(two_sums, "linear linear_fused(add)"),
};
static const example apart[] = {
    EXAMPLE(two_readers, "linear gelu_tanh add"),
    EXAMPLE(twice_the_same, "linear add"),
    EXAMPLE(an_output, "linear gelu_tanh"),
    EXAMPLE(a_segment_ends, "linear gelu_tanh"),
    EXAMPLE(a_smaller_summand, "linear add"),
    EXAMPLE(a_wider_sum, "linear add"),
    EXAMPLE(another_order, "matmul scale matmul scale add"),
    EXAMPLE(a_part, "linear gelu_tanh"),
    EXAMPLE(the_gate_itself, "linear gated_add"),
    EXAMPLE(work_between, "linear silu add"),
    EXAMPLE(another_function, "linear tanh"),
};

/* ---- worlds: a context that fuses, and one that does not ---- */

typedef struct world {
    kin_context *context;
    kin_backends *backends;
    kin_device *cpu;
} world;

static world worlds[2];

static int open_worlds(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        kin_context_options options = {.struct_size = sizeof options,
                                       .threads = 2,
                                       .settings = i == 0 ? NULL : "plan.fuse=off"};
        if (kin_context_create(&options, &worlds[i].context) != KIN_OK ||
            kin_backends_load(worlds[i].context, NULL, &worlds[i].backends) != KIN_OK ||
            kin_device_open(worlds[i].backends, "cpu", &worlds[i].cpu) != KIN_OK)
            return -1;
    }
    return 0;
}

static int close_worlds(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        kin_device_close(worlds[i].cpu);
        kin_backends_free(worlds[i].backends);
        kin_context_destroy(worlds[i].context);
    }
    return 0;
}

static kin_plan *plan_on(const world *at, kin_device *device, void (*build)(parts *),
                         kin_dtype dtype) {
    kin_graph *graph;
    kin_plan *plan = NULL;
    assert_int_equal(kin_graph_create(at->context, &graph), KIN_OK);
    parts p = parts_of(graph, dtype);
    build(&p);
    kin_output(graph, "y", p.y);
    kin_status status = kin_plan_build(graph, device, NULL, &plan);
    kin_graph_destroy(graph);
    if (status != KIN_OK) fail_msg("%s", kin_context_error(at->context));
    return plan;
}

static void write_inputs(kin_plan *plan) {
    static const char *const names[] = {"x", "w", "b", "r", "g"};
    float values[B * N * K];
    for (int i = 0; i < 5; i++) {
        const kin_desc *desc = kin_plan_input_desc(plan, names[i]);
        if (!desc) continue; /* not read */
        for (int64_t k = 0; k < kin_desc_count(desc); k++)
            values[k] = (float)((k * 37 + 11 * i) % 101 - 50) / 40;
        assert_int_equal(kin_plan_write(plan, names[i], KIN_F32, values), KIN_OK);
    }
}

static int64_t run_on(const world *at, void (*build)(parts *), kin_dtype dtype, float *out) {
    kin_plan *plan = plan_on(at, at->cpu, build, dtype);
    assert_int_equal(kin_plan_prepare(plan, NULL, NULL), KIN_OK);
    write_inputs(plan);
    assert_int_equal(kin_plan_run(plan), KIN_OK);
    int64_t count = kin_desc_count(kin_plan_output_desc(plan, "y"));
    assert_true(count <= 2 * MOST);
    assert_int_equal(kin_plan_read(plan, "y", KIN_F32, out), KIN_OK);
    kin_plan_free(plan);
    return count;
}

/* The nodes in order; returns how many were taken on. */
static int nodes_of(const kin_plan *plan, char *text, size_t size) {
    size_t used = 0;
    text[0] = 0;
    for (int i = 0; i < kin_plan_node_count(plan); i++) {
        kin_plan_node node = kin_plan_node_at(plan, i);
        int length = snprintf(text + used, size - used, node.fused ? "%s%s(%s)" : "%s%s",
                              used ? " " : "", node.op, node.fused ? node.fused : "");
        assert_true(length > 0 && used + (size_t)length < size);
        used += (size_t)length;
    }
    return kin_plan_summarize(plan)->fused;
}

static void expect_nodes(const kin_plan *plan, const example *e, const char *want, int fused) {
    char text[400];
    int count = nodes_of(plan, text, sizeof text);
    if (strcmp(text, want) != 0) fail_msg("%s: \"%s\" instead of \"%s\"", e->name, text, want);
    assert_int_equal(count, fused);
}

static int taken_on(const char *want) {
    const char *open = strchr(want, '(');
    int count = open ? 1 : 0;
    for (; open && *open; open++) count += *open == ',';
    return count;
}

/* ---- tests ---- */

static void nodes_become_one(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof together / sizeof *together; i++) {
        const example *e = &together[i];
        kin_plan *plan = plan_on(&worlds[0], worlds[0].cpu, e->build, KIN_F32);
        expect_nodes(plan, e, e->want, taken_on(e->want));
        kin_plan_free(plan);
        plan = plan_on(&worlds[1], worlds[1].cpu, e->build, KIN_F32);
        assert_int_equal(kin_plan_summarize(plan)->fused, 0);
        kin_plan_free(plan);
    }
}

static void others_stay_apart(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof apart / sizeof *apart; i++) {
        kin_plan *plan = plan_on(&worlds[0], worlds[0].cpu, apart[i].build, KIN_F32);
        expect_nodes(plan, &apart[i], apart[i].want, 0);
        kin_plan_free(plan);
    }
}

static void results_keep_their_bits(void **state) {
    static float fused[2 * MOST], separate[2 * MOST];
    (void)state;
    for (size_t i = 0; i < sizeof together / sizeof *together; i++) {
        int64_t count = run_on(&worlds[0], together[i].build, KIN_F32, fused);
        assert_int_equal(run_on(&worlds[1], together[i].build, KIN_F32, separate), count);
        if (memcmp(fused, separate, (size_t)count * sizeof *fused) != 0)
            fail_msg("%s: other bits than with plan.fuse=off", together[i].name);
    }
    int64_t count = run_on(&worlds[0], gelu, KIN_F32, fused);
    run_on(&worlds[1], another_function, KIN_F32, separate);
    assert_memory_not_equal(fused, separate, (size_t)count * sizeof *fused);
}

static kin_status check_on(kin_device *device, void (*build)(parts *), kin_dtype dtype) {
    kin_divergence divergence;
    kin_plan *plan = plan_on(&worlds[0], device, build, dtype);
    assert_true(kin_plan_summarize(plan)->fused > 0);
    assert_int_equal(kin_plan_prepare(plan, NULL, NULL), KIN_OK);
    write_inputs(plan);
    kin_status status = kin_plan_check(plan, 1, &divergence);
    kin_plan_free(plan);
    return status;
}

/* The row of the CPU for an op. */
static const kin_kernel *row_of(const char *op) {
    const kin_kernel *row;
    for (size_t i = 0; (row = kin_backend_cpu.kernel(worlds[0].cpu, i)); i++)
        if (strcmp(row->op, op) == 0) return row;
    return NULL;
}

static kin_status launch_forgetful(kin_device *device, kin_commands *commands,
                                   const kin_call *call) {
    kin_operand in[5];
    kin_call without = *call;
    memcpy(in, call->in, sizeof in);
    in[3].desc.rank = in[4].desc.rank = -1; /* no residual, no gate */
    in[3].buffer = in[4].buffer = NULL;
    without.in = in;
    return row_of("linear_fused")->launch(device, commands, &without);
}

static void checks_hold_fused_nodes(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof together / sizeof *together; i++) {
        assert_int_equal(check_on(worlds[0].cpu, together[i].build, KIN_F32), KIN_OK);
        if (together[i].build == cast_behind_a_view) continue; /* nothing to cast */
        assert_int_equal(check_on(worlds[0].cpu, together[i].build, KIN_BF16), KIN_OK);
    }
    wrapped_device wrapped;
    wrap_device(&wrapped, worlds[0].cpu);
    wrapped.own[0] = *row_of("linear_fused");
    wrapped.own[0].launch = launch_forgetful;
    wrapped.own_count = 1;
    assert_int_equal(check_on(&wrapped.device, silu_and_gate, KIN_F32), KIN_NUMERIC);
    assert_int_equal(check_on(&wrapped.device, gelu, KIN_F32), KIN_OK);
}

static void devices_are_asked(void **state) {
    (void)state;
    wrapped_device wrapped;
    wrap_device(&wrapped, worlds[0].cpu);
    wrapped.hidden[0] = "linear_fused";
    kin_plan *plan = plan_on(&worlds[0], &wrapped.device, silu_and_gate, KIN_F32);
    expect_nodes(plan, &together[2], "linear silu gated_add", 0);
    kin_plan_free(plan);
    /* it takes no view as a residual: a copy would cost what is saved */
    wrap_device(&wrapped, worlds[0].cpu);
    wrapped.own[0] = *row_of("linear_fused");
    wrapped.own[0].strided = 3;
    wrapped.own_count = 1;
    wrapped.hidden[0] = "linear_fused";
    plan = plan_on(&worlds[0], &wrapped.device, silu_and_gate, KIN_F32);
    expect_nodes(plan, &together[2], "linear_fused(silu, gated_add)", 2);
    kin_plan_free(plan);
}

/* dw leaves its product as f32; dx takes in the gradient that is there; forward, what the backward
 * pass reads stays. */
static void append_training(parts *p) {
    kin_graph *g = p->graph;
    kin_tensor w = kin_variable(g, "w2", KIN_VARIABLE_WEIGHT, KIN_F32, 2, DIMS(K, K),
                                (kin_init){KIN_INIT_NORMAL, 0.1});
    kin_tensor b = kin_variable(g, "b2", KIN_VARIABLE_WEIGHT, KIN_F32, 1, DIMS(K),
                                (kin_init){KIN_INIT_ZERO, 0});
    kin_tensor x = kin_input(g, "tokens", KIN_BF16, 3, DIMS(B, N, K));
    kin_want_gradient(g, x);
    kin_tensor y = kin_linear(g, x, kin_cast(g, w, KIN_BF16), kin_cast(g, b, KIN_BF16));
    y = kin_add(g, x, kin_gelu_tanh(g, y));
    kin_tensor loss = kin_mean_all(g, kin_square(g, kin_cast(g, y, KIN_F32)));
    kin_backward(g, loss);
    kin_output(g, "dw", kin_gradient(g, w));
    kin_output(g, "db", kin_gradient(g, b));
    p->y = kin_gradient(g, x);
}

static void training_sums_in_f32(void **state) {
    (void)state;
    kin_plan *plan = plan_on(&worlds[0], worlds[0].cpu, append_training, KIN_BF16);
    bool to_f32 = false, bias = false, joined = false, gelu_alone = false;
    for (int i = 0; i < kin_plan_node_count(plan); i++) {
        kin_plan_node node = kin_plan_node_at(plan, i);
        const char *fused = node.fused ? node.fused : "";
        to_f32 = to_f32 || (strcmp(node.op, "matmul_fused") == 0 && strcmp(fused, "cast") == 0);
        bias = bias || (strcmp(node.op, "sum_cast") == 0 && strcmp(fused, "cast") == 0);
        joined = joined || (strcmp(node.op, "matmul_fused") == 0 && strcmp(fused, "add") == 0);
        gelu_alone = gelu_alone || (strcmp(node.op, "gelu_tanh") == 0 && !node.backward);
    }
    assert_true(to_f32 && bias && joined && gelu_alone);
    assert_int_equal(kin_plan_output_desc(plan, "dw")->dtype, KIN_F32);
    kin_plan_free(plan);
}

/* The product reads the variable as it is before the update, wherever its reader stands. */
static void updates_keep_their_order(void **state) {
    (void)state;
    float results[2][N * M];
    for (int i = 0; i < 2; i++) {
        const world *at = &worlds[i];
        kin_graph *graph;
        kin_plan *plan;
        kin_store *store;
        assert_int_equal(kin_graph_create(at->context, &graph), KIN_OK);
        parts p = parts_of(graph, KIN_F32);
        kin_tensor v = kin_variable(graph, "v", KIN_VARIABLE_BUFFER, KIN_F32, 2, DIMS(M, K),
                                    (kin_init){KIN_INIT_ONE, 0});
        kin_tensor x = kin_reshape(graph, kin_slice(graph, p.x, 0, 0, 1), 2, DIMS(N, K));
        kin_tensor z = kin_linear(graph, x, v, p.b);
        kin_tensor after = kin_assign(graph, v, p.w);
        kin_tensor y = kin_gelu_tanh(graph, z);
        kin_output(graph, "y", kin_add(graph, y, kin_linear(graph, x, after, KIN_NONE)));
        assert_int_equal(kin_plan_build(graph, at->cpu, NULL, &plan), KIN_OK);
        assert_int_equal(kin_plan_summarize(plan)->fused, i == 0 ? 2 : 0);
        assert_int_equal(kin_store_create(at->cpu, &store), KIN_OK);
        assert_int_equal(kin_store_add_graph(store, graph, 7), KIN_OK);
        assert_int_equal(kin_plan_prepare(plan, store, NULL), KIN_OK);
        write_inputs(plan);
        assert_int_equal(kin_plan_run(plan), KIN_OK);
        assert_int_equal(kin_plan_read(plan, "y", KIN_F32, results[i]), KIN_OK);
        kin_plan_free(plan);
        kin_store_free(store);
        kin_graph_destroy(graph);
    }
    assert_memory_equal(results[0], results[1], sizeof results[0]);
}

static void settings_are_read(void **state) {
    (void)state;
    kin_context_options options = {.struct_size = sizeof options, .settings = "plan.fuse=of"};
    world at;
    kin_graph *graph;
    kin_plan *plan;
    assert_int_equal(kin_context_create(&options, &at.context), KIN_OK);
    assert_int_equal(kin_backends_load(at.context, NULL, &at.backends), KIN_OK);
    assert_int_equal(kin_device_open(at.backends, "cpu", &at.cpu), KIN_OK);
    assert_int_equal(kin_graph_create(at.context, &graph), KIN_OK);
    parts p = parts_of(graph, KIN_F32);
    gelu(&p);
    kin_output(graph, "y", p.y);
    assert_int_equal(kin_plan_build(graph, at.cpu, NULL, &plan), KIN_INVALID);
    assert_non_null(strstr(kin_context_error(at.context), "plan.fuse=of"));
    kin_graph_destroy(graph);
    kin_device_close(at.cpu);
    kin_backends_free(at.backends);
    kin_context_destroy(at.context);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nodes_become_one),         cmocka_unit_test(others_stay_apart),
        cmocka_unit_test(results_keep_their_bits),  cmocka_unit_test(checks_hold_fused_nodes),
        cmocka_unit_test(devices_are_asked),        cmocka_unit_test(training_sums_in_f32),
        cmocka_unit_test(updates_keep_their_order), cmocka_unit_test(settings_are_read),
    };
    return cmocka_run_group_tests(tests, open_worlds, close_worlds);
}
