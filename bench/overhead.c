/* kinora bench overhead: what a node costs beside its work. A chain of nodes of four elements each
 * is planned, prepared, run and run again; and the memory that a run takes is counted. */
#include "bench/bench.h"
#include "ops/elementwise.h"
#include "tools/check/check_models.h"
#include "tools/check/check_values.h"
#include "tools/check/guard_device.h"
#include "tools/verbs.h"

#include <stdlib.h>
#include <string.h>

static const char verb[] = "bench overhead";

enum { ELEMENTS = 4, REPEATS = 5, COUNTED_RUNS = 5, NAME_WIDTH = 24 };

/* An allocator that counts what is asked of it. */
typedef struct counter {
    size_t calls;
} counter;

static void *count_call(void *user, void *ptr, size_t size) {
    counter *c = user;
    if (size == 0) {
        free(ptr);
        return NULL;
    }
    c->calls++;
    return realloc(ptr, size);
}

typedef struct request {
    kin_bench bench;
    int64_t nodes;
    counter counted;
    bool allocates;
} request;

/* A chain that no device can shorten: every node needs the one before. */
static kin_status append_chain(kin_graph *graph, int64_t nodes) {
    int64_t dims = ELEMENTS;
    kin_tensor x = kin_input(graph, "x", KIN_F32, 1, &dims);
    for (int64_t i = 0; i < nodes; i++) x = kin_scale(graph, x, 0.999, 0.001);
    kin_output(graph, "out", x);
    return kin_graph_status(graph);
}

/* ---- times ---- */

typedef enum part { PART_PLAN, PART_PREPARE, PART_FIRST_RUN, PARTS } part;

/* One plan from nothing, with a clock on each part. */
static kin_status time_once(request *r, kin_graph *graph, int repeat, kin_bench_times *times) {
    kin_plan *plan = NULL;
    double start = kin_seconds();
    kin_status status = kin_plan_build(graph, r->bench.common.handle, NULL, &plan);
    double planned = kin_seconds();
    if (status == KIN_OK) status = kin_plan_prepare(plan, NULL, NULL);
    double prepared = kin_seconds();
    if (status == KIN_OK) status = kin_plan_run(plan);
    times[PART_PLAN].seconds[repeat] = planned - start;
    times[PART_PREPARE].seconds[repeat] = prepared - planned;
    times[PART_FIRST_RUN].seconds[repeat] = kin_seconds() - prepared;
    kin_plan_free(plan);
    return status;
}

static kin_status report(request *r, const char *name, const kin_bench_times *times, int nodes,
                         const char *kernel) {
    kin_bench_row row = {.name = name,
                         .op = "overhead",
                         .test = name,
                         .dtype = "f32",
                         .flops = (double)nodes * ELEMENTS * 2,
                         .bytes = (double)nodes * ELEMENTS * 8,
                         .times = times};
    snprintf(row.kernel, sizeof row.kernel, "%s", kernel);
    printf("%-*s %9.3f us a node  +-%.1f%%\n", NAME_WIDTH, name, times->median / nodes * 1e6,
           50 * (times->high - times->low) / times->median);
    fflush(stdout);
    return kin_bench_keep(&r->bench, &row);
}

static kin_status time_parts(request *r, kin_graph *graph, kin_bench_times *times, int *out_nodes,
                             char kernel[64]) {
    static const char *const names[PARTS] = {"plan", "prepare", "first run"};
    kin_context *context = r->bench.common.context;
    kin_plan *plan = NULL;
    kin_status status = KIN_OK;
    for (int i = 0; status == KIN_OK && i < REPEATS; i++) status = time_once(r, graph, i, times);
    if (status == KIN_OK) status = kin_plan_build(graph, r->bench.common.handle, NULL, &plan);
    if (status == KIN_OK) {
        *out_nodes = kin_plan_node_count(plan);
        snprintf(kernel, 64, "%s", kin_plan_node_at(plan, 0).kernel);
    }
    for (int p = 0; status == KIN_OK && p < PARTS; p++) {
        times[p].count = REPEATS;
        times[p].runs = 1;
        kin_bench_quartiles(times[p].seconds, REPEATS, &times[p].low, &times[p].median,
                            &times[p].high);
        status = report(r, names[p], &times[p], *out_nodes, kernel);
    }
    if (status == KIN_OK) status = kin_plan_prepare(plan, NULL, NULL);
    if (status == KIN_OK) status = kin_bench_time_plan(context, plan, r->bench.min_time, times);
    if (status == KIN_OK) status = report(r, "run again", times, *out_nodes, kernel);
    kin_plan_free(plan);
    return status;
}

static kin_status time_chain(request *r) {
    kin_context *context = r->bench.common.context;
    kin_graph *graph = NULL;
    kin_bench_times *times = kin_calloc(context, PARTS, sizeof *times);
    int nodes = 0;
    char kernel[64] = "";
    kin_status status = times ? kin_graph_create(context, &graph) : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK) status = append_chain(graph, r->nodes);
    if (status == KIN_OK) {
        printf("%s: %s\n%lld nodes of %d elements\n", r->bench.common.handle->info.name,
               r->bench.common.handle->info.description, (long long)r->nodes, ELEMENTS);
        status = time_parts(r, graph, times, &nodes, kernel);
    }
    if (status == KIN_OK)
        printf("%-*s %d nodes, kernel %s%s\n", NAME_WIDTH, "as planned", nodes, kernel,
               r->bench.common.handle->info.simulated
                   ? "; \"run again\" is the time of the device's own model, not of a clock"
                   : "");
    kin_graph_destroy(graph);
    kin_free(context, times);
    return status;
}

/* ---- memory ---- */

/* Counts what runs of a prepared plan ask for. The device is behind a guard, which counts buffers;
 * the context's allocator counts the rest. */
static kin_status count_runs(request *r, const char *name, kin_plan *plan, kin_guard *guard) {
    kin_status status = kin_plan_run(plan); /* what is made once, at the first run, is made now */
    size_t calls = r->counted.calls, buffers = kin_guard_allocations(guard);
    for (int i = 0; status == KIN_OK && i < COUNTED_RUNS; i++) status = kin_plan_run(plan);
    if (status != KIN_OK) return status;
    calls = r->counted.calls - calls;
    buffers = kin_guard_allocations(guard) - buffers;
    printf("%-*s %zu allocations and %zu buffers in %d runs\n", NAME_WIDTH, name, calls, buffers,
           COUNTED_RUNS);
    r->allocates = r->allocates || calls || buffers;
    return KIN_OK;
}

static kin_status count_graph(request *r, const char *name, kin_graph *graph, kin_guard *guard) {
    static const kin_check_limits limits = {KIN_CHECK_VOCABULARY, KIN_CHECK_TEXT_LENGTH};
    kin_device *device = kin_guard_device(guard);
    kin_check_values values = {0};
    kin_plan *plan = NULL;
    kin_store *store = NULL;
    kin_status status = kin_check_values_make(graph, device, &limits, 1, &values);
    if (status == KIN_OK) status = kin_plan_build(graph, device, NULL, &plan);
    if (status == KIN_OK) status = kin_store_create(device, &store);
    if (status == KIN_OK) status = kin_store_add_graph(store, graph, 1);
    if (status == KIN_OK) status = kin_plan_prepare(plan, store, NULL);
    if (status == KIN_OK) status = kin_check_values_write(&values, plan, store);
    if (status == KIN_OK) status = count_runs(r, name, plan, guard);
    kin_plan_free(plan);
    kin_store_free(store);
    kin_check_values_free(&values);
    return status;
}

/* The chain, and a training step of a tiny STDiT, which has most kinds of node. */
static kin_status count_memory(request *r) {
    static const kin_precision f32 = {KIN_F32, KIN_F32};
    kin_context *context = r->bench.common.context;
    kin_guard *guard = NULL;
    kin_status status = kin_guard_open(r->bench.common.handle, &guard);
    for (int i = 0; status == KIN_OK && i < 2; i++) {
        kin_graph *graph = NULL;
        status = kin_graph_create(context, &graph);
        if (status == KIN_OK)
            status = i == 0 ? append_chain(graph, r->nodes)
                            : kin_check_append_training(graph, kin_check_model_find("STDiT"), &f32);
        if (status == KIN_OK) status = count_graph(r, i ? "training step" : "chain", graph, guard);
        kin_graph_destroy(graph);
    }
    kin_guard_close(guard);
    if (status == KIN_OK && r->allocates)
        status =
            kin_fail(context, KIN_DEVICE, "runs of a prepared plan take memory: they must not");
    return status;
}

int kin_verb_bench_overhead(int count, char **arguments) {
    request r = {.bench = {.verb = verb, .kind = "overhead", .min_time = 1}, .nodes = 1000};
    int left = 0;
    const kin_flag flags[] = {
        {.name = "nodes",
         .argument = "N",
         .integer = &r.nodes,
         .help = "how many nodes the chain has; default 1000"},
        KIN_BENCH_FLAGS(&r.bench),
    };
    int status =
        kin_parse_flags(verb, flags, sizeof flags / sizeof *flags, count, arguments, 0, 0, &left);
    if (status >= 0) return status;
    if (r.nodes < 1 || r.nodes > 1000000)
        return kin_usage_error(verb, "--nodes must lie within 1 and 1000000");
    r.bench.common.allocator = (kin_allocator){count_call, &r.counted};
    status = kin_bench_open(&r.bench);
    if (status >= 0) return status;
    kin_status result = time_chain(&r);
    if (result == KIN_OK) result = count_memory(&r);
    return kin_bench_close(&r.bench, result);
}
