/* kinora bench ops: every op's cases, timed. */
#include "bench/bench.h"
#include "ops/views.h"
#include "runtime/check.h"
#include "runtime/file.h"
#include "runtime/op.h"
#include "tools/check/one_op.h"
#include "tools/verbs.h"

#include <string.h>

static const char verb[] = "bench ops";

/* Of the table: name of op and case. */
enum { NAME_WIDTH = 58, PAD_BEFORE = 3, PAD_AFTER = 2, MAX_NAME = 256 };

typedef struct request {
    kin_bench bench;
    const char *only_op, *only_case, *dtype_name;
    kin_dtype dtype;
    bool large;
    int timed, skipped;
} request;

/* One case made into a plan. */
typedef struct op_run {
    request *r;
    const kin_op *op;
    const kin_case *test;
    kin_desc descs[KIN_MAX_CASE_INPUTS];   /* what the op sees, dense; rank -1: absent */
    kin_desc storage[KIN_MAX_CASE_INPUTS]; /* what is written */
    bool variable[KIN_MAX_CASE_INPUTS];
    kin_desc out[KIN_MAX_OUTPUTS];
    int out_count;
    kin_graph *graph;
    kin_store *store;
    kin_plan *plan;
} op_run;

static bool is_alias(const kin_op *op, int input) {
    for (int j = 0; (op->flags & KIN_OP_UPDATE) && j < op->outputs; j++)
        if (op->aliases[j] == input + 1) return true;
    return false;
}

static void input_name(char name[16], int index) {
    snprintf(name, 16, "in%d", index);
}

/* Shapes of an input, dense and as it lies in memory. */
static kin_case_layout lay_out(op_run *run, int i) {
    const kin_case_input *spec = &run->test->inputs[i];
    kin_dtype dtype = spec->dtype == KIN_F32 && !spec->fixed ? run->r->dtype : spec->dtype;
    kin_case_layout layout = spec->layout;
    int64_t dims[KIN_MAX_RANK] = {0};
    run->descs[i].rank = spec->rank;
    if (spec->rank < 0) return KIN_LAYOUT_DENSE;
    run->descs[i] = kin_desc_dense(dtype, spec->rank, spec->dims);
    if (run->variable[i] || dtype == KIN_Q8_0 || spec->rank == 0 ||
        (layout == KIN_LAYOUT_TRANSPOSED && spec->rank < 2))
        layout = KIN_LAYOUT_DENSE;
    for (int a = 0; a < spec->rank; a++) dims[a] = spec->dims[a];
    if (layout == KIN_LAYOUT_TRANSPOSED) {
        dims[0] = spec->dims[1];
        dims[1] = spec->dims[0];
    } else if (layout == KIN_LAYOUT_PADDED) {
        dims[spec->rank - 1] += PAD_BEFORE + PAD_AFTER;
    }
    run->storage[i] = kin_desc_dense(dtype, spec->rank, dims);
    return layout;
}

static kin_tensor append_input(op_run *run, int i) {
    kin_graph *g = run->graph;
    const kin_desc *s = &run->storage[i];
    char name[16];
    input_name(name, i);
    run->variable[i] = is_alias(run->op, i);
    kin_case_layout layout = lay_out(run, i);
    if (run->descs[i].rank < 0) return KIN_NONE;
    if (run->variable[i])
        return kin_variable(g, name, KIN_VARIABLE_STATE, s->dtype, s->rank, s->dims,
                            (kin_init){KIN_INIT_ZERO, 0});
    kin_tensor in = kin_input(g, name, s->dtype, s->rank, s->dims);
    if (layout == KIN_LAYOUT_TRANSPOSED) return kin_transpose(g, in, 0, 1);
    if (layout == KIN_LAYOUT_PADDED)
        return kin_slice(g, in, s->rank - 1, PAD_BEFORE, run->descs[i].dims[s->rank - 1]);
    return in;
}

static kin_status append_case(op_run *run) {
    kin_tensor in[KIN_MAX_CASE_INPUTS] = {{0}}, out[KIN_MAX_OUTPUTS] = {{0}};
    for (int i = 0; i < run->test->input_count; i++) in[i] = append_input(run, i);
    kin_append(run->graph, run->op, run->test->attrs, in, run->test->input_count, out);
    for (int j = 0; j < KIN_MAX_OUTPUTS && out[j].id; j++) {
        char name[16];
        const kin_desc *desc = kin_tensor_desc(run->graph, out[j]);
        run->out[run->out_count++] = kin_desc_dense(desc->dtype, desc->rank, desc->dims);
        snprintf(name, sizeof name, "out%d", j);
        kin_output(run->graph, name, out[j]);
    }
    return kin_graph_status(run->graph);
}

static kin_status write_inputs(op_run *run) {
    kin_context *context = run->r->bench.common.context;
    kin_status status = KIN_OK;
    for (int i = 0; status == KIN_OK && i < run->test->input_count; i++) {
        const kin_desc *s = &run->storage[i];
        char name[16];
        if (run->descs[i].rank < 0) continue;
        input_name(name, i);
        void *data = kin_alloc(context, kin_desc_bytes(s));
        if (!data) return KIN_OUT_OF_MEMORY;
        status = kin_bench_fill(context, &run->test->inputs[i], s->dtype, kin_desc_count(s), data);
        if (status == KIN_OK)
            status = run->variable[i] ? kin_store_write(run->store, name, s->dtype, data)
                                      : kin_plan_write(run->plan, name, s->dtype, data);
        kin_free(context, data);
    }
    return status;
}

/* KIN_UNSUPPORTED: the device cannot do this case. */
static kin_status prepare(op_run *run) {
    kin_device *device = run->r->bench.common.handle;
    kin_plan_options options = {.struct_size = sizeof options};
    kin_status status = kin_graph_create(run->r->bench.common.context, &run->graph);
    if (status == KIN_OK) status = append_case(run);
    if (status == KIN_OK) status = kin_plan_build(run->graph, device, &options, &run->plan);
    if (status == KIN_OK) status = kin_store_create(device, &run->store);
    if (status == KIN_OK) status = kin_store_add_graph(run->store, run->graph, 1);
    if (status == KIN_OK) status = kin_plan_prepare(run->plan, run->store, NULL);
    return status == KIN_OK ? write_inputs(run) : status;
}

static void release(op_run *run) {
    kin_plan_free(run->plan);
    kin_store_free(run->store);
    kin_graph_destroy(run->graph);
}

static kin_status time_case(request *r, const kin_op *op, const kin_case *test) {
    op_run run = {.r = r, .op = op, .test = test};
    kin_bench_times *times = kin_alloc(r->bench.common.context, sizeof *times);
    char name[MAX_NAME];
    snprintf(name, sizeof name, "%s / %s", op->name, test->name);
    kin_bench_row row = {
        .name = name, .op = op->name, .test = test->name, .dtype = kin_dtype_name(r->dtype)};
    kin_status status = times ? prepare(&run) : KIN_OUT_OF_MEMORY;
    bool cannot = status == KIN_UNSUPPORTED;
    if (status == KIN_OK)
        status = kin_bench_time_plan(r->bench.common.context, run.plan, r->bench.min_time, times);
    if (status == KIN_OK) status = kin_bench_look(run.plan, &row);
    if (status == KIN_OK) {
        kin_cost cost =
            kin_op_cost(op, test->attrs, test->input_count, run.descs, run.out_count, run.out);
        row.flops = cost.flops;
        row.bytes = cost.bytes;
        row.times = times;
        kin_bench_print_row(&r->bench, &row, NAME_WIDTH);
        status = kin_bench_keep(&r->bench, &row);
        r->timed++;
    }
    release(&run);
    kin_free(r->bench.common.context, times);
    if (!cannot) return status;
    r->skipped++;
    kin_log(r->bench.common.context, KIN_LOG_DEBUG, "%s: left out: %s", name,
            kin_context_error(r->bench.common.context));
    return KIN_OK;
}

/* True if the case has an input that takes the dtype under test, or the dtype is f32. */
static bool takes_dtype(const request *r, const kin_case *test) {
    if (r->dtype == KIN_F32) return true;
    for (int i = 0; i < test->input_count; i++)
        if (test->inputs[i].rank >= 0 && test->inputs[i].dtype == KIN_F32 && !test->inputs[i].fixed)
            return true;
    return false;
}

/* A folder of kinora check compare: one op as a model had it. */
static kin_status time_folder(request *r, const char *folder) {
    kin_context *context = r->bench.common.context;
    kin_device *device = r->bench.common.handle;
    kin_one_op *one = NULL;
    kin_graph *graph = NULL;
    kin_plan *plan = NULL;
    kin_store *store = NULL;
    kin_bench_times *times = kin_alloc(context, sizeof *times);
    kin_status status = times ? kin_one_op_load(context, folder, &one) : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK) status = kin_graph_create(context, &graph);
    if (status == KIN_OK) status = kin_one_op_append(one, graph);
    if (status == KIN_OK) status = kin_plan_build(graph, device, NULL, &plan);
    if (status == KIN_OK) status = kin_store_create(device, &store);
    if (status == KIN_OK) status = kin_store_add_graph(store, graph, 1);
    if (status == KIN_OK) status = kin_plan_prepare(plan, store, NULL);
    if (status == KIN_OK) status = kin_one_op_write(one, plan, store);
    if (status == KIN_OK) status = kin_bench_time_plan(context, plan, r->bench.min_time, times);
    if (status == KIN_OK) {
        char name[MAX_NAME];
        snprintf(name, sizeof name, "%s / %.*s", one->op->name, NAME_WIDTH, one->path);
        kin_bench_row row = {.name = name,
                             .op = one->op->name,
                             .test = folder,
                             .dtype = kin_dtype_name(one->out[0].dtype),
                             .flops = one->cost.flops,
                             .bytes = one->cost.bytes,
                             .times = times};
        status = kin_bench_look(plan, &row);
        if (status == KIN_UNSUPPORTED) { /* no timer: the first kernel then */
            snprintf(row.kernel, sizeof row.kernel, "%s", kin_plan_node_at(plan, 0).kernel);
            status = KIN_OK;
        }
        kin_bench_print_header(&r->bench, NAME_WIDTH);
        kin_bench_print_row(&r->bench, &row, NAME_WIDTH);
        if (status == KIN_OK) status = kin_bench_keep(&r->bench, &row);
    }
    kin_plan_free(plan);
    kin_store_free(store);
    kin_graph_destroy(graph);
    kin_one_op_free(one);
    kin_free(context, times);
    return status;
}

static kin_status walk(request *r) {
    kin_status status = KIN_OK;
    if (r->only_case && kin_file_is_folder(r->only_case)) return time_folder(r, r->only_case);
    kin_bench_print_header(&r->bench, NAME_WIDTH);
    for (const kin_op *const *op = kin_op_list; *op && status == KIN_OK; op++) {
        /* A view moves nothing: its result would be timed as the copy that an output needs. */
        if ((r->only_op && strcmp((*op)->name, r->only_op) != 0) || ((*op)->flags & KIN_OP_VIEW))
            continue;
        for (size_t i = 0; i < (*op)->case_count && status == KIN_OK; i++) {
            const kin_case *test = &(*op)->cases[i];
            if ((r->large && !test->bench) || !takes_dtype(r, test) ||
                (r->only_case && !strstr(test->name, r->only_case)))
                continue;
            status = time_case(r, *op, test);
        }
    }
    if (status == KIN_OK && r->timed == 0)
        status = kin_fail(r->bench.common.context, KIN_NOT_FOUND,
                          "there is no such case, or the device has no kernel for it%s",
                          r->skipped ? " (see --verbose)" : "");
    if (status == KIN_OK && !r->bench.common.quiet) {
        printf("%d cases", r->timed);
        if (r->skipped) printf(", %d left out: the device cannot", r->skipped);
        printf(
            "; of peak: f of its operations, m of its memory traffic (above 100%%: in caches)\n");
    }
    return status;
}

static int unknown_op(const char *name) {
    const char *names[512];
    size_t count = 0;
    for (const kin_op *const *op = kin_op_list; *op && count < 512; op++)
        names[count++] = (*op)->name;
    const char *near = kin_nearest_name(name, names, count);
    return near ? kin_usage_error(verb, "no op \"%s\"; did you mean %s?", name, near)
                : kin_usage_error(verb, "no op \"%s\"", name);
}

int kin_verb_bench_ops(int count, char **arguments) {
    request r = {.bench = {.verb = verb, .kind = "ops", .min_time = 0.2}, .dtype_name = "f32"};
    int left = 0;
    const kin_flag flags[] = {
        {.name = "op", .argument = "NAME", .text = &r.only_op, .help = "this op only"},
        {.name = "case",
         .argument = "TEXT",
         .text = &r.only_case,
         .help = "only cases with this in their name; or a folder that kinora check compare wrote"},
        {.name = "large",
         .on = &r.large,
         .help = "only the cases made for benchmarks, of the models' sizes"},
        {.name = "dtype",
         .argument = "DTYPE",
         .text = &r.dtype_name,
         .help = "f32 (default), bf16 or f16, of inputs that may have any"},
        KIN_BENCH_FLAGS(&r.bench),
    };
    int status =
        kin_parse_flags(verb, flags, sizeof flags / sizeof *flags, count, arguments, 0, 0, &left);
    if (status >= 0) return status;
    if (!kin_dtype_from_name(r.dtype_name, &r.dtype) ||
        (r.dtype != KIN_F32 && r.dtype != KIN_BF16 && r.dtype != KIN_F16))
        return kin_usage_error(verb, "--dtype wants f32, bf16 or f16, not \"%s\"", r.dtype_name);
    const kin_op *op = r.only_op ? kin_op_find(r.only_op) : NULL;
    if (r.only_op && !op) return unknown_op(r.only_op);
    if (op && (op->flags & KIN_OP_VIEW))
        return kin_usage_error(verb, "%s is a view: it takes no time", op->name);
    status = kin_bench_open(&r.bench);
    if (status >= 0) return status;
    return kin_bench_close(&r.bench, walk(&r));
}
