/* kinora plan: what a model needs, without weights and without a device. */
#include "tools/plan_graph.h"
#include "tools/plan_report.h"
#include "tools/verbs.h"

#include <stdio.h>
#include <string.h>

static const char verb[] = "plan";

typedef struct request {
    kin_plan_request model;
    const char *memory, *recompute_text;
    uint64_t budget;
    kin_recompute recompute;
    bool nodes, allow_reference, json;
} request;

static int64_t count_parameters(const kin_graph *graph) {
    int64_t count = 0;
    for (int i = 0; i < kin_variable_count(graph); i++) {
        kin_tensor variable = kin_variable_at(graph, i);
        if (kin_variable_kind_of(graph, variable) == KIN_VARIABLE_WEIGHT)
            count += kin_desc_count(kin_tensor_desc(graph, variable));
    }
    return count;
}

static void print_bytes(const char *name, uint64_t bytes) {
    char text[32];
    printf("%-18s %15llu  %s\n", name, (unsigned long long)bytes,
           kin_bytes_text(bytes, text, sizeof text));
}

static void print_plan(const request *asked, const kin_plan *plan, int64_t parameters,
                       double seconds) {
    const kin_plan_request *r = &asked->model;
    const kin_plan_summary *s = kin_plan_summarize(plan);
    char size[96];
    if (r->choice.kind == KIN_MODEL_T5)
        snprintf(size, sizeof size, "%lld x %lld tokens", (long long)r->batch,
                 (long long)kin_plan_text_length(r));
    else
        snprintf(size, sizeof size, "%lld x %lldx%lldx%lld", (long long)r->batch,
                 (long long)r->frames, (long long)r->height, (long long)r->width);
    printf("%s, %s, %s, on %s: %lld parameters\n", r->choice.name,
           r->train ? "one training step" : "one forward pass", size,
           kin_plan_device(plan)->info.name, (long long)parameters);
    print_bytes("weights", s->weights);
    print_bytes("activations", s->activations);
    print_bytes("gradients", s->gradients);
    print_bytes("optimizer state", s->states);
    print_bytes("inputs", s->inputs);
    print_bytes("constants", s->constants);
    print_bytes("arena", s->arena);
    print_bytes("lower bound", s->lower_bound);
    print_bytes("peak", s->peak);
    printf("\nlargest at the peak\n");
    for (int i = 0; i < s->largest_count; i++) {
        char shape[128], bytes[32];
        printf("  %10s  %-5s %-26s %s\n", kin_bytes_text(s->largest[i].bytes, bytes, sizeof bytes),
               kin_dtype_name(s->largest[i].desc.dtype),
               kin_desc_shape_text(&s->largest[i].desc, shape, sizeof shape), s->largest[i].name);
    }
    printf("\n%d nodes, %d fused into them, %d lowered, %d copies, %d of %d segments recomputed, "
           "%.4g TFLOP, planned in "
           "%.0f ms\n",
           s->nodes, s->fused, s->kernels_missing, s->copies, s->segments_recomputed, s->segments,
           s->flops * 1e-12, 1e3 * seconds);
    if (s->recomputed)
        printf("%d nodes compute again what was not kept: %.4g TFLOP, %s moved\n", s->recomputed,
               s->recomputed_flops * 1e-12,
               kin_bytes_text((uint64_t)s->recomputed_bytes, size, sizeof size));
    kin_plan_report_placement(plan, stdout);
    if (asked->nodes) kin_plan_report_nodes(plan, stdout);
}

static int print_json(const request *asked, const kin_plan *plan, int64_t parameters,
                      double seconds) {
    const kin_plan_request *r = &asked->model;
    const kin_plan_summary *s = kin_plan_summarize(plan);
    json_t *largest = json_array(), *size = json_pack("[I,I,I]", (json_int_t)r->frames,
                                                      (json_int_t)r->height, (json_int_t)r->width);
    for (int i = 0; i < s->largest_count; i++) {
        json_t *dims = json_array();
        for (int a = 0; a < s->largest[i].desc.rank; a++)
            json_array_append_new(dims, json_integer((json_int_t)s->largest[i].desc.dims[a]));
        json_array_append_new(largest,
                              json_pack("{s:s, s:I, s:s, s:o}", "name", s->largest[i].name, "bytes",
                                        (json_int_t)s->largest[i].bytes, "dtype",
                                        kin_dtype_name(s->largest[i].desc.dtype), "shape", dims));
    }
    json_t *root = json_pack(
        "{s:s, s:s, s:b, s:I, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "model",
        r->choice.name, "device", kin_plan_device(plan)->info.name, "train", r->train, "batch",
        (json_int_t)r->batch, "size", size, "parameters", (json_int_t)parameters, "weights",
        (json_int_t)s->weights, "activations", (json_int_t)s->activations, "gradients",
        (json_int_t)s->gradients, "optimizer_state", (json_int_t)s->states, "inputs",
        (json_int_t)s->inputs, "constants", (json_int_t)s->constants, "arena", (json_int_t)s->arena,
        "lower_bound", (json_int_t)s->lower_bound, "peak", (json_int_t)s->peak);
    json_t *more = json_pack(
        "{s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:f, s:f, s:f, s:o}", "nodes", s->nodes, "fused",
        s->fused, "lowered", s->kernels_missing, "copies", s->copies, "segments", s->segments,
        "segments_recomputed", s->segments_recomputed, "recomputed", s->recomputed,
        "recomputed_flops", s->recomputed_flops, "recomputed_bytes", s->recomputed_bytes, "flops",
        s->flops, "planning_seconds", seconds, "largest", largest);
    json_t *placement = kin_plan_report_json(plan, asked->nodes);
    int failed = !root || !more || !placement || json_object_update(root, placement) != 0 ||
                 json_object_update(root, more) != 0 ||
                 json_dumpf(root, stdout, JSON_INDENT(1)) != 0;
    putchar('\n');
    json_decref(root);
    json_decref(more);
    json_decref(placement);
    return failed ? KIN_EXIT_FAILED : KIN_EXIT_OK;
}

static int run(kin_common *common, const request *r) {
    kin_graph *graph = NULL;
    kin_plan *plan = NULL;
    kin_plan_options options = {.struct_size = sizeof options,
                                .memory_budget = r->budget,
                                .recompute = r->recompute,
                                .allow_reference = r->allow_reference};
    kin_status status = kin_graph_create(common->context, &graph);
    double start = kin_seconds();
    if (status == KIN_OK) status = kin_plan_append(graph, &r->model);
    if (status == KIN_OK) status = kin_plan_build(graph, common->handle, &options, &plan);
    double seconds = kin_seconds() - start;
    int code = KIN_EXIT_OK;
    if (status != KIN_OK) code = kin_report(common->context, verb, status);
    else if (r->json) code = print_json(r, plan, count_parameters(graph), seconds);
    else print_plan(r, plan, count_parameters(graph), seconds);
    kin_plan_free(plan);
    kin_graph_destroy(graph);
    return code;
}

static int check_request(request *r) {
    if (r->memory && !kin_parse_bytes(r->memory, &r->budget))
        return kin_usage_error(verb, "--memory wants bytes such as 8G, not \"%s\"", r->memory);
    static const char *const levels[] = {"auto", "nothing", "cheap", "segments"};
    int level = 0;
    while (r->recompute_text && level < 4 && strcmp(r->recompute_text, levels[level]) != 0) level++;
    if (level == 4)
        return kin_usage_error(verb, "--recompute wants nothing, cheap or segments, not \"%s\"",
                               r->recompute_text);
    r->recompute = (kin_recompute)level;
    return kin_plan_request_check(&r->model, verb);
}

int kin_verb_plan(int count, char **arguments) {
    kin_common common = {.device = "null"};
    request r = {.model = kin_plan_request_default()};
    int left = 0;
    const kin_flag flags[] = {
        KIN_PLAN_FLAGS(&r.model),
        {.name = "memory",
         .argument = "BYTES",
         .text = &r.memory,
         .help = "budget for everything, such as 8G: what is needed to keep it is recomputed"},
        {.name = "recompute",
         .argument = "WHAT",
         .text = &r.recompute_text,
         .help = "in a training step: nothing, cheap or segments; default: cheap, or the least "
                 "that keeps --memory"},
        {.name = "nodes",
         .on = &r.nodes,
         .help = "every node: its kernel, and why it is not as the model has it"},
        {.name = "allow-reference",
         .on = &r.allow_reference,
         .help = "ops that the device lacks run on the host (slow)"},
        {.name = "json", .on = &r.json, .help = "one JSON object on standard output"},
        KIN_COMMON_FLAGS(&common),
    };
    int status =
        kin_parse_flags(verb, flags, sizeof flags / sizeof *flags, count, arguments, 1, 1, &left);
    if (status < 0) status = check_request(&r);
    if (status < 0) status = kin_common_open(&common, true);
    if (status >= 0) return status;
    kin_status chosen = kin_model_choose(common.context, arguments[0], &r.model.choice);
    if (chosen == KIN_OK && r.model.choice.kind == KIN_MODEL_DENOISER &&
        kin_denoiser_shape_of(&r.model.choice.denoiser).pictures)
        r.model.frames = 1;
    status = chosen == KIN_OK ? run(&common, &r) : kin_report(common.context, verb, chosen);
    kin_common_close(&common);
    return status;
}
