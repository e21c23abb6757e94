/* What a training step computes again instead of keeping it: the smallest cut behind the choice,
 * the choice on small graphs, the levels that a budget goes through, and that results stay the
 * same.
 *
 * Tolerances: none. Recomputation gives the same bits on the CPU in f32; cuts are compared with all
 * cuts of small graphs.
 */
#define _POSIX_C_SOURCE 200809L
#include "tests/plan_helper.h"

#include "models/training.h"
#include "ops/elementwise.h"
#include "ops/matmul.h"
#include "ops/norm.h"
#include "ops/optimizer.h"
#include "ops/random.h"
#include "ops/reduce.h"
#include "runtime/cut.h"
#include "runtime/philox.h"

static uint32_t draw(uint64_t seed, uint64_t index, uint32_t below) {
    return kin_philox_element(seed, 0, 0, index) % below;
}

/* ---- the smallest cut ---- */

enum { CUT_NODES = 9, CUT_EDGES = 18, CUT_ROUNDS = 200 };

typedef struct cut_edge {
    int32_t from, to;
    uint64_t cost;
} cut_edge;

static uint64_t cost_of(const cut_edge *edges, uint32_t after) {
    uint64_t cost = 0;
    for (int e = 0; e < CUT_EDGES; e++)
        if (!(after >> edges[e].from & 1) && (after >> edges[e].to & 1)) cost += edges[e].cost;
    return cost;
}

/* Against every cut of random graphs: the cost is the least, and of the cuts that cost as much no
 * other has fewer nodes on the sink's side. */
static void test_cut_is_the_smallest(void **state) {
    fixture *f = *state;
    int ties = 0;
    for (uint64_t round = 0; round < CUT_ROUNDS; round++) {
        cut_edge edges[CUT_EDGES];
        kin_cut *cut = NULL;
        bool after[CUT_NODES];
        uint32_t got = 0;
        must(f, kin_cut_create(f->context, CUT_NODES, &cut));
        for (uint64_t e = 0; e < CUT_EDGES; e++) {
            int32_t a = (int32_t)draw(round, 3 * e, CUT_NODES);
            int32_t b = (int32_t)draw(round, 3 * e + 1, CUT_NODES);
            edges[e] = (cut_edge){a, b, draw(round, 3 * e + 2, 6)};
            must(f, kin_cut_add(cut, a, b, edges[e].cost));
        }
        kin_cut_solve(cut, 0, CUT_NODES - 1, after);
        kin_cut_free(cut);
        for (int n = 0; n < CUT_NODES; n++) got |= (uint32_t)after[n] << n;
        assert_false(after[0]);
        assert_true(after[CUT_NODES - 1]);
        uint64_t cost = cost_of(edges, got);
        for (uint32_t other = 0; other < 1u << CUT_NODES; other++) {
            if ((other & 1) || !(other >> (CUT_NODES - 1) & 1)) continue;
            assert_true(cost_of(edges, other) >= cost);
            if (cost_of(edges, other) != cost || other == got) continue;
            ties++;
            assert_int_equal(got & ~other, 0);
        }
    }
    assert_true(ties > 0);
}

static void test_cut_that_must_not_be(void **state) {
    fixture *f = *state;
    kin_cut *cut = NULL;
    bool after[4];
    must(f, kin_cut_create(f->context, 4, &cut));
    must(f, kin_cut_add(cut, 0, 1, KIN_CUT_NEVER));
    must(f, kin_cut_add(cut, 1, 2, UINT64_C(1) << 40));
    must(f, kin_cut_add(cut, 2, 3, KIN_CUT_NEVER));
    kin_cut_solve(cut, 0, 3, after);
    assert_false(after[0] || after[1]);
    assert_true(after[2] && after[3]);
    kin_cut_free(cut);
}

/* ---- the choice on small graphs ---- */

enum { ROWS = 512, WIDTH = 96, WIDER = 384 };

static kin_tensor weight(kin_graph *g, const char *name, int64_t out, int64_t in) {
    return kin_variable(g, name, KIN_VARIABLE_WEIGHT, KIN_F32, 2, DIMS(out, in),
                        (kin_init){KIN_INIT_XAVIER_UNIFORM, 1});
}

static void update(fixture *f, kin_tensor loss) {
    kin_optimizer_options optimizer = {
        .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .max_grad_norm = 1};
    kin_training_update(f->graph, loss, &optimizer);
    must(f, kin_graph_status(f->graph));
}

static kin_tensor mean_square(kin_graph *g, kin_tensor x) {
    return kin_mean(g, kin_mul(g, x, x), (1u << kin_rank(g, x)) - 1, false);
}

static void plan(fixture *f, kin_recompute recompute, uint64_t budget) {
    kin_plan_options options = {
        .struct_size = sizeof options, .memory_budget = budget, .recompute = recompute};
    kin_plan_free(f->plan);
    f->plan = NULL;
    must(f, kin_plan_build(f->graph, f->cpu, &options, &f->plan));
}

/* Nodes that compute again, of an op or what it was fused to. */
static int again(const kin_plan *p, const char *op) {
    int count = 0;
    for (int i = 0; i < kin_plan_node_count(p); i++) {
        kin_plan_node node = kin_plan_node_at(p, i);
        if (node.again && strncmp(node.op, op, strlen(op)) == 0) count++;
        assert_true(!node.again || node.backward);
    }
    return count;
}

/* Of a feed-forward part the pre-activation is kept, its activation is not; the product that gave
 * it runs once. */
static void test_keeps_what_products_give(void **state) {
    fixture *f = *state;
    kin_tensor x = kin_input(f->graph, "x", KIN_F32, 2, DIMS(ROWS, WIDTH));
    kin_tensor h = kin_linear(f->graph, x, weight(f->graph, "a", WIDER, WIDTH), KIN_NONE);
    h = kin_linear(f->graph, kin_gelu_tanh(f->graph, h), weight(f->graph, "b", WIDTH, WIDER),
                   KIN_NONE);
    update(f, mean_square(f->graph, h));
    plan(f, KIN_RECOMPUTE_NOTHING, 0);
    uint64_t everything = f->plan->summary.arena;
    assert_int_equal(f->plan->summary.recomputed, 0);
    plan(f, KIN_RECOMPUTE_CHEAP, 0);
    assert_int_equal(again(f->plan, "gelu_tanh"), 1);
    assert_int_equal(again(f->plan, "linear"), 0);
    assert_int_equal(f->plan->summary.recomputed, 1);
    assert_true(f->plan->summary.recomputed_flops > 0);
    assert_true(f->plan->summary.recomputed_bytes >= 2.0 * 4 * ROWS * WIDER);
    assert_true(f->plan->summary.arena <= everything);
}

/* An update between the forward pass and the backward pass is not passed: what comes from the
 * variable before is kept. */
static void test_update_is_not_passed(void **state) {
    fixture *f = *state;
    kin_graph *g = f->graph;
    for (int updated = 0; updated < 2; updated++) {
        fresh_graph(f);
        g = f->graph;
        kin_tensor x = kin_input(g, "x", KIN_F32, 2, DIMS(ROWS, WIDTH));
        kin_tensor buffer = kin_variable(g, "buffer", KIN_VARIABLE_BUFFER, KIN_F32, 2,
                                         DIMS(ROWS, WIDTH), (kin_init){KIN_INIT_ONE, 1});
        kin_tensor w = weight(g, "w", ROWS, WIDTH);
        kin_tensor scaled = kin_mul(g, x, buffer);
        kin_tensor loss = mean_square(g, kin_mul(g, w, scaled));
        if (updated) kin_assign(g, buffer, x);
        kin_backward(g, loss);
        kin_output(g, "gradient", kin_gradient(g, w));
        must(f, kin_graph_status(g));
        plan(f, KIN_RECOMPUTE_CHEAP, 0);
        /* w * kept is computed again in both cases, x * buffer only where it may be */
        assert_int_equal(again(f->plan, "mul"), updated ? 1 : 2);
    }
}

/* ---- the same results ---- */

enum { BLOCKS = 12, STEPS = 2 };

/* Gated residual blocks, whose sums a cut alone would derive from each other down to the first,
 * with noise that comes from the seed. */
static kin_tensor append_blocks(kin_graph *g, int blocks) {
    kin_tensor x = kin_input(g, "x", KIN_F32, 2, DIMS(ROWS, WIDTH));
    kin_tensor seed = kin_input(g, "seed", KIN_I64, 1, DIMS(2));
    kin_tensor h = x;
    for (int b = 0; b < blocks; b++) {
        kin_scope_push(g, "blocks.%d", b);
        kin_segment_begin(g);
        kin_tensor gate = kin_variable(g, "gate", KIN_VARIABLE_WEIGHT, KIN_F32, 1, DIMS(WIDTH),
                                       (kin_init){KIN_INIT_ONE, 1});
        kin_tensor y = kin_layer_norm(g, h, KIN_NONE, KIN_NONE, 1e-6);
        kin_scope_push(g, "up");
        y = kin_gelu_tanh(g, kin_linear(g, y, weight(g, "w", WIDER, WIDTH), KIN_NONE));
        kin_scope_pop(g);
        kin_scope_push(g, "down");
        y = kin_linear(g, y, weight(g, "w", WIDTH, WIDER), KIN_NONE);
        kin_scope_pop(g);
        y = kin_mul(g, y, kin_random_normal(g, seed, (uint32_t)b, 2, DIMS(ROWS, WIDTH)));
        h = kin_add(g, h, kin_mul(g, y, gate));
        kin_segment_end(g);
        kin_scope_pop(g);
    }
    return h;
}

/* Some steps with the plan of the fixture: the store, the loss and the norm at the end. */
static unsigned char *train(fixture *f, float seed_shift, size_t *out_size) {
    kin_store *store = NULL;
    static float x[ROWS * WIDTH];
    must(f, kin_store_create(f->cpu, &store));
    must(f, kin_store_add_graph(store, f->graph, 5));
    must(f, kin_plan_prepare(f->plan, store, NULL));
    kin_philox_fill_normal(9, 0, 0, 0, ROWS * WIDTH, x);
    x[0] += seed_shift;
    const float lr = 1e-3f;
    must(f, kin_plan_write(f->plan, "x", KIN_F32, x));
    must(f, kin_plan_write(f->plan, "lr", KIN_F32, &lr));
    for (int64_t step = 1; step <= STEPS; step++) {
        const int64_t seed[2] = {3, step};
        must(f, kin_plan_write(f->plan, "seed", KIN_I64, seed));
        must(f, kin_plan_write(f->plan, "step", KIN_I64, &step));
        must(f, kin_plan_run(f->plan));
    }
    size_t size = sizeof(float) + kin_store_bytes(store), used = sizeof(float);
    unsigned char *bytes = calloc(1, size);
    assert_non_null(bytes);
    must(f, kin_plan_read(f->plan, "grad_norm", KIN_F32, bytes));
    for (size_t i = 0; i < kin_store_count(store); i++) {
        kin_store_entry *entry = kin_store_at(store, i);
        must(f, kin_store_read(store, entry->name, entry->desc.dtype, bytes + used));
        used += kin_desc_bytes(&entry->desc);
    }
    assert_int_equal(used, size);
    kin_plan_free(f->plan);
    f->plan = NULL;
    kin_store_free(store);
    *out_size = size;
    return bytes;
}

static void test_keeps_the_bits(void **state) {
    fixture *f = *state;
    size_t size, other;
    update(f, mean_square(f->graph, append_blocks(f->graph, BLOCKS)));
    plan(f, KIN_RECOMPUTE_NOTHING, 0);
    uint64_t everything = f->plan->summary.arena, peak = f->plan->summary.peak;
    unsigned char *want = train(f, 0, &size);

    plan(f, KIN_RECOMPUTE_CHEAP, 0);
    assert_true(again(f->plan, "random_normal") > 0);
    assert_true(again(f->plan, "add") > 0);
    assert_int_equal(again(f->plan, "linear"), 0);
    /* the pre-activations, both products of a block and the ends of chains, of all that was kept */
    assert_true(f->plan->summary.arena < everything / 10 * 6);
    uint64_t cheap_peak = f->plan->summary.peak;
    unsigned char *got = train(f, 0, &other);
    assert_int_equal(size, other);
    assert_memory_equal(got, want, size);
    free(got);

    plan(f, KIN_RECOMPUTE_SEGMENTS, 0);
    uint64_t least = f->plan->summary.peak;
    double flops = f->plan->summary.recomputed_flops;
    assert_true(least < cheap_peak && cheap_peak < peak);
    assert_int_equal(f->plan->summary.segments_recomputed, BLOCKS);
    got = train(f, 0, &other);
    assert_memory_equal(got, want, size);
    free(got);

    plan(f, KIN_RECOMPUTE_AUTO, (least + cheap_peak) / 2);
    assert_true(f->plan->summary.peak <= (least + cheap_peak) / 2);
    assert_true(f->plan->summary.recomputed_flops < flops);
    assert_true(again(f->plan, "linear") > 0);
    got = train(f, 0, &other);
    assert_memory_equal(got, want, size);
    free(got);

    /* negative control: one changed input changes the bits */
    plan(f, KIN_RECOMPUTE_CHEAP, 0);
    got = train(f, 1, &other);
    assert_true(memcmp(got, want, size) != 0);
    free(got);
    free(want);
}

/* Nothing while the budget allows it, then what is cheap, then segments. */
static void test_levels(void **state) {
    fixture *f = *state;
    update(f, mean_square(f->graph, append_blocks(f->graph, BLOCKS)));
    plan(f, KIN_RECOMPUTE_NOTHING, 0);
    uint64_t nothing = f->plan->summary.peak;
    plan(f, KIN_RECOMPUTE_AUTO, 0);
    uint64_t cheap = f->plan->summary.peak;
    int cheap_nodes = f->plan->summary.recomputed;
    assert_true(cheap < nothing && cheap_nodes > 0);
    plan(f, KIN_RECOMPUTE_AUTO, nothing);
    assert_int_equal(f->plan->summary.recomputed, 0);
    plan(f, KIN_RECOMPUTE_AUTO, nothing - 1);
    assert_int_equal(f->plan->summary.recomputed, cheap_nodes);
    assert_int_equal(f->plan->summary.segments_recomputed, 0);
    plan(f, KIN_RECOMPUTE_AUTO, cheap - 1);
    assert_true(f->plan->summary.peak < cheap);
    assert_true(f->plan->summary.segments_recomputed > 0);
    plan(f, KIN_RECOMPUTE_SEGMENTS, 0);
    uint64_t least = f->plan->summary.peak;
    kin_plan_options options = {.struct_size = sizeof options, .memory_budget = least - 1};
    kin_plan *none = NULL;
    assert_int_equal(kin_plan_build(f->graph, f->cpu, &options, &none), KIN_OUT_OF_MEMORY);
    options.recompute = KIN_RECOMPUTE_SEGMENTS;
    assert_int_equal(kin_plan_build(f->graph, f->cpu, &options, &none), KIN_OUT_OF_MEMORY);
    assert_null(none);
}

/* Within a budget the products that cost most operations for a byte are kept ("down", WIDER / 2),
 * the others computed again ("up", WIDTH / 2). */
static void test_dearest_products_are_kept(void **state) {
    fixture *f = *state;
    enum { BUDGETS = 8 };
    update(f, mean_square(f->graph, append_blocks(f->graph, BLOCKS)));
    plan(f, KIN_RECOMPUTE_CHEAP, 0);
    uint64_t cheap = f->plan->summary.peak;
    plan(f, KIN_RECOMPUTE_SEGMENTS, 0);
    uint64_t least = f->plan->summary.peak;
    int some = 0;
    for (uint64_t b = 0; b < BUDGETS; b++) {
        plan(f, KIN_RECOMPUTE_AUTO, least + (cheap - least) * b / BUDGETS);
        int up = 0, down = 0;
        for (int i = 0; i < kin_plan_node_count(f->plan); i++) {
            kin_plan_node node = kin_plan_node_at(f->plan, i);
            if (!node.again || strncmp(node.op, "linear", 6) != 0) continue;
            up += strstr(node.path, ".up") != NULL;
            down += strstr(node.path, ".down") != NULL;
        }
        assert_true(up == BLOCKS || down == 0);
        some += up > 0 && up < BLOCKS;
    }
    assert_true(some > 0);
}

/* No chain and no clone lives through the backward pass: the lower bound stays near what is kept.
 */
static void test_chains_end(void **state) {
    fixture *f = *state;
    update(f, mean_square(f->graph, append_blocks(f->graph, 4 * BLOCKS)));
    plan(f, KIN_RECOMPUTE_CHEAP, 0);
    int longest = 0, run = 0;
    for (int i = 0; i < kin_plan_node_count(f->plan); i++) {
        run = kin_plan_node_at(f->plan, i).again ? run + 1 : 0;
        if (run > longest) longest = run;
    }
    print_message("the longest run of clones: %d\n", longest);
    assert_true(longest > 0 && longest <= 24);
}

static void test_graph_without_backward(void **state) {
    fixture *f = *state;
    kin_output(f->graph, "y", append_blocks(f->graph, 2));
    plan(f, KIN_RECOMPUTE_CHEAP, 0);
    assert_int_equal(f->plan->summary.recomputed, 0);
    plan(f, KIN_RECOMPUTE_SEGMENTS, 0);
    assert_int_equal(f->plan->summary.recomputed, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_cut_is_the_smallest),
        TEST(test_cut_that_must_not_be),
        TEST(test_keeps_what_products_give),
        TEST(test_update_is_not_passed),
        TEST(test_keeps_the_bits),
        TEST(test_levels),
        TEST(test_dearest_products_are_kept),
        TEST(test_chains_end),
        TEST(test_graph_without_backward),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
