/* kinora bench model: a forward pass, or a training step, of a model or a layer. */
#include "bench/bench.h"
#include "bench/graphs.h"
#include "runtime/op.h"
#include "tools/verbs.h"

#include <stdlib.h>
#include <string.h>

static const char verb[] = "bench model";

enum { NAME_WIDTH = 28, MAX_KERNELS = 128, PROFILED_RUNS = 3 };

typedef struct request {
    kin_bench bench;
    const char *models[64];
    int model_count;
    const char *dtype_name;
    kin_dtype dtype;
    bool train, profile, list;
} request;

/* ---- a model made into a plan ---- */

typedef struct model_run {
    kin_context *context;
    kin_graph *graph;
    kin_store *store;
    kin_plan *plan;
} model_run;

/* The inputs that kin_bench_graphs use, and what is put there. */
static const struct {
    const char *name;
    kin_case_fill fill;
    double scale;
    int64_t limit;
} inputs[] = {
    {"ids", KIN_FILL_INDEX, 0, KIN_BENCH_VOCABULARY},
    {"seed", KIN_FILL_COUNT, 0, 0},
    {"lr", KIN_FILL_POSITIVE, 1e-5, 0},
    {"timestep", KIN_FILL_INDEX, 0, 1000},
    {"x", KIN_FILL_NORMAL, 1, 0},
    {"qkv", KIN_FILL_NORMAL, 1, 0},
    {"y", KIN_FILL_NORMAL, 1, 0},
    {"q", KIN_FILL_NORMAL, 1, 0},
    {"k", KIN_FILL_NORMAL, 1, 0},
    {"v", KIN_FILL_NORMAL, 1, 0},
    {"moments", KIN_FILL_NORMAL, 1, 0},
    {"latents", KIN_FILL_NORMAL, 1, 0},
    {"cotangent", KIN_FILL_NORMAL, 1, 0},
    {"gradient.0", KIN_FILL_NORMAL, 1, 0},
    {"gradient.1", KIN_FILL_NORMAL, 1, 0},
    {"gradient.2", KIN_FILL_NORMAL, 1, 0},
    {"gradient.3", KIN_FILL_NORMAL, 1, 0},
};

static kin_status write_input(model_run *run, const char *name, const kin_case_input *spec) {
    const kin_desc *desc = kin_plan_input_desc(run->plan, name);
    if (!desc) return KIN_OK;
    void *data = kin_alloc(run->context, kin_desc_bytes(desc));
    if (!data) return KIN_OUT_OF_MEMORY;
    kin_status status = kin_bench_fill(run->context, spec, desc->dtype, kin_desc_count(desc), data);
    if (status == KIN_OK) status = kin_plan_write(run->plan, name, desc->dtype, data);
    kin_free(run->context, data);
    return status;
}

/* Every caption is as long as there is room: PyTorch computes all of it in any case. */
static kin_status write_lengths(model_run *run, int64_t text_length) {
    const kin_desc *desc = kin_plan_input_desc(run->plan, "lengths");
    int32_t lengths[64];
    int64_t count = desc ? kin_desc_count(desc) : 0;
    if (count > 64)
        return kin_fail(run->context, KIN_INVALID, "more than 64 captions in a benchmark");
    for (int64_t i = 0; i < count; i++) lengths[i] = (int32_t)text_length;
    return desc ? kin_plan_write(run->plan, "lengths", KIN_I32, lengths) : KIN_OK;
}

static kin_status write_inputs(model_run *run, const kin_bench_graph *model) {
    kin_status status = write_lengths(run, model->sizes[4]);
    for (size_t i = 0; status == KIN_OK && i < sizeof inputs / sizeof *inputs; i++) {
        kin_case_input spec = {
            .fill = inputs[i].fill, .scale = inputs[i].scale, .limit = inputs[i].limit};
        status = write_input(run, inputs[i].name, &spec);
    }
    int64_t first = 1;
    if (status == KIN_OK && kin_plan_input_desc(run->plan, "step"))
        status = kin_plan_write(run->plan, "step", KIN_I64, &first);
    return status;
}

static kin_status prepare(model_run *run, kin_device *device, const kin_bench_graph *model,
                          kin_dtype dtype, bool train) {
    kin_plan_options options = {.struct_size = sizeof options};
    kin_status status = kin_graph_create(run->context, &run->graph);
    if (status == KIN_OK) status = model->append(run->graph, model->sizes, dtype, train);
    if (status == KIN_OK) status = kin_plan_build(run->graph, device, &options, &run->plan);
    if (status == KIN_OK) status = kin_store_create(device, &run->store);
    if (status == KIN_OK) status = kin_store_add_graph(run->store, run->graph, 1);
    if (status == KIN_OK) status = kin_plan_prepare(run->plan, run->store, NULL);
    return status == KIN_OK ? write_inputs(run, model) : status;
}

static void release(model_run *run) {
    kin_plan_free(run->plan);
    kin_store_free(run->store);
    kin_graph_destroy(run->graph);
}

/* ---- the profile ---- */

typedef struct kernel_share {
    const char *kernel;
    int calls;
    double seconds, flops, bytes;
    kin_call_counters counters;
} kernel_share;

static int add_shares(const kin_plan *plan, kernel_share *shares, int count) {
    for (int i = 0; i < kin_plan_node_count(plan); i++) {
        kin_plan_node node = kin_plan_node_at(plan, i);
        int s = 0;
        while (s < count && strcmp(shares[s].kernel, node.kernel) != 0) s++;
        if (s == count && count == MAX_KERNELS) continue;
        if (s == count) shares[count++] = (kernel_share){.kernel = node.kernel};
        shares[s].calls++;
        shares[s].seconds += node.seconds;
        shares[s].flops += node.flops;
        shares[s].bytes += node.bytes;
        kin_bench_add_counters(&shares[s].counters, &node.counters);
    }
    return count;
}

static int by_seconds(const void *a, const void *b) {
    double x = ((const kernel_share *)a)->seconds, y = ((const kernel_share *)b)->seconds;
    return (x < y) - (x > y);
}

/* counts: the device has counters, whose columns follow. */
static void print_shares(const kernel_share *shares, int count, bool counts) {
    double all = 0;
    for (int i = 0; i < count; i++) all += shares[i].seconds;
    printf("  %-34s %6s %7s %11s %9s %8s", "kernel", "calls", "share", "ms a run", "GFLOP/s",
           "GB/s");
    if (counts) printf(" %12s %10s %10s", "cycles", "MB moved", "KiB on it");
    putchar('\n');
    for (int i = 0; i < count; i++) {
        const kernel_share *s = &shares[i];
        double seconds = s->seconds > 0 ? s->seconds : 1e-12;
        printf("  %-34s %6d %6.1f%% %11.3f %9.2f %8.2f", s->kernel, s->calls / PROFILED_RUNS,
               100 * s->seconds / all, 1e3 * s->seconds / PROFILED_RUNS, s->flops / seconds * 1e-9,
               s->bytes / seconds * 1e-9);
        if (counts)
            printf(" %12.0f %10.3f %10.1f", s->counters.cycles / PROFILED_RUNS,
                   (double)s->counters.bytes_moved * 1e-6 / PROFILED_RUNS,
                   (double)s->counters.scratchpad / 1024);
        putchar('\n');
    }
}

static kin_status print_profile(model_run *run) {
    kernel_share shares[MAX_KERNELS];
    int count = 0;
    kin_status status = KIN_OK;
    for (int i = 0; status == KIN_OK && i < PROFILED_RUNS; i++) {
        status = kin_plan_profile(run->plan);
        if (status == KIN_OK) count = add_shares(run->plan, shares, count);
    }
    if (status != KIN_OK) return status;
    qsort(shares, (size_t)count, sizeof *shares, by_seconds);
    print_shares(shares, count, kin_plan_device(run->plan)->backend->counters != NULL);
    return KIN_OK;
}

/* ---- the verb ---- */

static kin_status time_model(request *r, const kin_bench_graph *model) {
    kin_context *context = r->bench.common.context;
    model_run run = {.context = context};
    char name[64];
    const char *pass = r->train ? "train" : "forward";
    if (r->dtype == KIN_F32) snprintf(name, sizeof name, "%s, %s", model->name, pass);
    else snprintf(name, sizeof name, "%s, %s, %s", model->name, pass, kin_dtype_name(r->dtype));
    kin_bench_row row = {
        .name = name, .op = model->name, .test = pass, .dtype = kin_dtype_name(r->dtype)};
    kin_bench_times *times = kin_alloc(context, sizeof *times);
    kin_status status = times ? prepare(&run, r->bench.common.handle, model, r->dtype, r->train)
                              : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK) status = kin_bench_time_plan(context, run.plan, r->bench.min_time, times);
    if (status == KIN_OK) status = kin_bench_look(run.plan, &row);
    if (status == KIN_OK) {
        const kin_plan_summary *summary = kin_plan_summarize(run.plan);
        row.flops = summary->flops;
        row.bytes = summary->bytes;
        row.times = times;
        kin_bench_print_row(&r->bench, &row, NAME_WIDTH);
        status = kin_bench_keep(&r->bench, &row);
    }
    if (status == KIN_OK && r->profile) status = print_profile(&run);
    release(&run);
    kin_free(context, times);
    return status;
}

static const kin_bench_graph *find_model(const char *name) {
    for (const kin_bench_graph *model = kin_bench_graphs; model->name; model++)
        if (strcmp(model->name, name) == 0) return model;
    return NULL;
}

static int unknown_model(const char *name) {
    const char *names[64];
    size_t count = 0;
    for (const kin_bench_graph *model = kin_bench_graphs; model->name && count < 64; model++)
        names[count++] = model->name;
    const char *near = kin_nearest_name(name, names, count);
    return near ? kin_usage_error(verb, "no model \"%s\"; did you mean %s? See --list", name, near)
                : kin_usage_error(verb, "no model \"%s\"; see --list", name);
}

static int check_request(request *r) {
    if (r->model_count == 0) r->models[r->model_count++] = "demo";
    if (!kin_dtype_from_name(r->dtype_name, &r->dtype) ||
        (r->dtype != KIN_F32 && r->dtype != KIN_BF16 && r->dtype != KIN_F16))
        return kin_usage_error(verb, "--dtype wants f32, bf16 or f16, not \"%s\"", r->dtype_name);
    for (int i = 0; i < r->model_count; i++) {
        const kin_bench_graph *model = find_model(r->models[i]);
        if (!model) return unknown_model(r->models[i]);
        if (r->train && !model->trains)
            return kin_usage_error(verb, "%s is timed forward only", model->name);
    }
    return -1;
}

static int print_list(void) {
    for (const kin_bench_graph *model = kin_bench_graphs; model->name; model++)
        printf("%-20s %s%s\n", model->name, model->summary, model->trains ? "" : "; forward only");
    return KIN_EXIT_OK;
}

int kin_verb_bench_model(int count, char **arguments) {
    request r = {.bench = {.verb = verb, .kind = "model", .min_time = 2}, .dtype_name = "f32"};
    int left = 0;
    const kin_flag flags[] = {
        {.name = "model",
         .letter = 'm',
         .argument = "NAME",
         .list = r.models,
         .list_capacity = sizeof r.models / sizeof *r.models,
         .list_count = &r.model_count,
         .help = "what to time, several times if wanted; default demo"},
        {.name = "list", .on = &r.list, .help = "the names that --model takes"},
        {.name = "dtype",
         .argument = "DTYPE",
         .text = &r.dtype_name,
         .help = "f32 (default), bf16 or f16: operands; with --train a model's weights stay f32"},
        {.name = "train",
         .on = &r.train,
         .help = "with gradients; of the demo the whole step, AdamW and average included"},
        {.name = "profile", .on = &r.profile, .help = "the share of each kernel"},
        KIN_BENCH_FLAGS(&r.bench),
    };
    int status =
        kin_parse_flags(verb, flags, sizeof flags / sizeof *flags, count, arguments, 0, 0, &left);
    if (status < 0 && r.list) return print_list();
    if (status < 0) status = check_request(&r);
    if (status < 0) status = kin_bench_open(&r.bench);
    if (status >= 0) return status;
    kin_status result = KIN_OK;
    kin_bench_print_header(&r.bench, NAME_WIDTH);
    for (int i = 0; i < r.model_count && result == KIN_OK; i++)
        result = time_model(&r, find_model(r.models[i]));
    return kin_bench_close(&r.bench, result);
}
