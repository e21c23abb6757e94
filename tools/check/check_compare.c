/* kinora check compare: one step of a model on two devices, or a reference case on one; names the
 * first node that differs, and writes it as a case. */
#include "runtime/file.h"
#include "tools/check/case.h"
#include "tools/check/check_models.h"
#include "tools/check/compare.h"
#include "tools/plan_graph.h"
#include "tools/tool.h"
#include "tools/verbs.h"

#include <jansson.h>
#include <math.h>
#include <string.h>

static const char verb[] = "check compare";

typedef struct request {
    kin_common common;
    kin_plan_request plan;
    const char *model, *folder;
    bool json;
    kin_device *first, *second;
    kin_comparison result;   /* of the last graph: a reference case may have several */
    int graphs, nodes, held; /* of all */
    double apart, reuse;     /* the worst of all outputs */
    char reuse_name[128];
    kin_status status; /* of the comparison within a reference case */
} request;

/* ---- the report ---- */

static const char *who_is_off(const kin_comparison *r, const char *first, const char *second) {
    if (r->first_off && r->second_off) return "both are off";
    if (r->second_off) return second;
    return r->first_off ? first : "neither by itself: together they are apart by too much";
}

static void print_side(const char *device, const char *kernels, bool lowered, double value) {
    printf("  %-12s %.9g  (%s%s)\n", device, value, lowered ? "lowered: " : "", kernels);
}

static void print_difference(const request *r) {
    const kin_comparison *c = &r->result;
    const char *first = r->first->info.name, *second = r->second->info.name;
    char shape[128];
    printf("differs: node %d, %s%s%s, output %d %s, element %lld\n", c->node, c->path,
           c->path[0] ? " " : "", c->op, c->output,
           kin_desc_shape_text(&c->desc, shape, sizeof shape), (long long)c->element);
    print_side(first, c->first_kernels, c->first_lowered, c->first);
    print_side(second, c->second_kernels, c->second_lowered, c->second);
    printf("  %-12s %.9g\n", "in double", c->reference);
    printf("  they are apart by %.3g, allowed is %.3g; off: %s\n", c->error, c->allowed,
           who_is_off(c, first, second));
    if (c->alone) printf("  %s gives the same when it does this node alone\n", second);
    else
        printf("  %s gives something else when it does this node alone: look at what runs before "
               "it, at barriers, and at memory in use twice\n",
               second);
    if (r->folder)
        printf("written: %s\n  kinora check case %s --device %s\n  kinora bench ops --case %s "
               "--device %s\n",
               r->folder, r->folder, second, r->folder, second);
}

/* Outputs of the plan that is used are held against those of the one that keeps everything, too.
 * Both run the same kernels, so only fusing and the reuse of memory can make a difference. */
static kin_status compare_graph(request *r, kin_graph *graph, const kin_check_values *values) {
    kin_comparison *c = &r->result;
    kin_status status = kin_compare_devices(graph, values, r->first, r->second, r->folder, c);
    r->graphs++;
    r->nodes += c->nodes;
    r->held += c->compared;
    for (int i = 0; i < c->output_count; i++) {
        r->apart = fmax(r->apart, c->outputs[i].relative);
        if (!(c->outputs[i].reuse > r->reuse)) continue;
        r->reuse = c->outputs[i].reuse;
        snprintf(r->reuse_name, sizeof r->reuse_name, "%s", c->outputs[i].name);
    }
    return status;
}

/* Beyond this the plan as it is computes something else than the plan that keeps everything. */
static double reuse_limit(const request *r) {
    bool narrow = r->plan.precision.compute != KIN_F32 || r->second->info.product_dtype != KIN_F32;
    return narrow ? 0.02 : 1e-3;
}

static bool reuse_differs(const request *r) {
    return r->reuse > reuse_limit(r);
}

static void print_report(const request *r) {
    if (r->result.differs) print_difference(r);
    else if (reuse_differs(r))
        printf(
            "no node differs, but \"%s\" does, by %.3g of its largest element, between %s's plan "
            "as it is and one that keeps every result: look at memory in use twice, kernels that "
            "work in place, and barriers\n",
            r->reuse_name, r->reuse, r->second->info.name);
    else
        printf("no node differs: %d of %d compared%s\n", r->held, r->nodes,
               r->held < r->nodes ? ", the others' operands are overwritten in the step" : "");
    if (!r->common.quiet)
        printf("outputs of the whole step: apart by %.3g of their largest element at most; memory "
               "reuse changes them by %.3g\n",
               r->apart, r->reuse);
}

static void print_json(const request *r) {
    const kin_comparison *c = &r->result;
    json_t *root =
        json_pack("{s:s, s:s, s:s, s:s, s:b, s:i, s:i, s:f, s:f}", "version", kin_version(), "verb",
                  verb, "first", r->first->info.name, "second", r->second->info.name, "differs",
                  c->differs || reuse_differs(r), "nodes", r->nodes, "compared", r->held,
                  "outputs_apart", fmin(r->apart, 1e300), "reuse_apart", fmin(r->reuse, 1e300));
    if (c->differs) {
        json_t *node = json_pack(
            "{s:i, s:s, s:s, s:i, s:I, s:s, s:s, s:s, s:b, s:b, s:b, s:s?}", "node", c->node, "op",
            c->op, "path", c->path, "output", c->output, "element", (json_int_t)c->element,
            "first_kernels", c->first_kernels, "second_kernels", c->second_kernels, "off",
            who_is_off(c, r->first->info.name, r->second->info.name), "first_off", c->first_off,
            "second_off", c->second_off, "alone", c->alone, "case", r->folder);
        const double values[] = {c->first, c->second, c->reference, c->error, c->allowed};
        static const char *const keys[] = {"first_value", "second_value", "in_double", "error",
                                           "allowed"};
        for (int i = 0; i < 5; i++) /* JSON has no NaN: null then */
            json_object_set_new(node, keys[i],
                                isfinite(values[i]) ? json_real(values[i]) : json_null());
        json_object_set_new(root, "difference", node);
    }
    json_dumpf(root, stdout, JSON_INDENT(1));
    putchar('\n');
    json_decref(root);
}

/* ---- a model ---- */

static kin_status append_model(request *r, kin_graph *graph, kin_check_limits *limits) {
    const kin_check_model *tiny = kin_check_model_find(r->model);
    *limits = (kin_check_limits){KIN_CHECK_VOCABULARY, KIN_CHECK_TEXT_LENGTH};
    if (tiny)
        return r->plan.train ? kin_check_append_training(graph, tiny, &r->plan.precision)
                             : kin_check_append_forward(graph, tiny, &r->plan.precision,
                                                        KIN_CHECK_BLOCKS, false);
    kin_status status = kin_model_choose(r->common.context, r->model, &r->plan.choice);
    if (status != KIN_OK) return status;
    limits->text_length = kin_plan_text_length(&r->plan);
    if (r->plan.choice.kind == KIN_MODEL_T5) limits->vocabulary = r->plan.choice.t5.vocab_size;
    return kin_plan_append(graph, &r->plan);
}

static kin_status compare_model(request *r) {
    kin_graph *graph = NULL;
    kin_check_values values = {0};
    kin_check_limits limits;
    kin_status status = kin_graph_create(r->common.context, &graph);
    if (status == KIN_OK) status = append_model(r, graph, &limits);
    if (status == KIN_OK) status = kin_check_values_make(graph, r->first, &limits, 1, &values);
    if (status == KIN_OK) status = compare_graph(r, graph, &values);
    kin_check_values_free(&values);
    kin_graph_destroy(graph);
    return status;
}

/* ---- a reference case ---- */

/* Called with every graph of the case before it runs, until one differs. */
static void compare_case_graph(void *user, kin_graph *graph, const kin_check_values *values) {
    request *r = user;
    if (r->status != KIN_OK || r->result.differs) return;
    r->status = compare_graph(r, graph, values);
}

static int compare_case(request *r, const char *folder) {
    kin_case_options options = {
        .brief = r->common.quiet || r->json, .watch = compare_case_graph, .watch_user = r};
    kin_case_report report;
    FILE *out = r->json ? stderr : stdout;
    kin_status status =
        kin_tool_check_case(r->common.context, r->second, folder, &options, out, &report);
    if (status == KIN_OK) status = r->status;
    if (status == KIN_OK && r->graphs == 0)
        status = kin_fail(r->common.context, KIN_UNSUPPORTED,
                          "%s: no graph of a model is in this case to compare", folder);
    if (status != KIN_OK) return kin_report(r->common.context, verb, status);
    if (r->json) print_json(r);
    else print_report(r);
    return r->result.differs || reuse_differs(r) || report.verdict != KIN_CASE_PASSED
               ? KIN_EXIT_FAILED
               : KIN_EXIT_OK;
}

/* ---- the verb ---- */

/* A folder that is no case of ours must not be written into. */
static kin_status check_folder(request *r) {
    if (!kin_file_exists(r->folder)) return KIN_OK;
    char *info = kin_path_join(r->common.context, r->folder, "case.json");
    if (!info) return KIN_OUT_OF_MEMORY;
    bool is_case = kin_file_exists(info);
    kin_free(r->common.context, info);
    return is_case ? KIN_OK
                   : kin_fail(r->common.context, KIN_INVALID,
                              "%s is there and holds no case: choose another --output", r->folder);
}

static int run(request *r, const char *a, const char *b) {
    kin_backends *backends = r->common.backends;
    bool is_case = kin_file_is_folder(b);
    kin_status status = check_folder(r);
    if (status == KIN_OK) status = kin_device_open(backends, is_case ? "cpu" : a, &r->first);
    if (status == KIN_OK) status = kin_device_open(backends, is_case ? a : b, &r->second);
    int code = KIN_EXIT_OK;
    if (status == KIN_OK && is_case) {
        code = compare_case(r, b);
    } else {
        if (status == KIN_OK) status = compare_model(r);
        if (status != KIN_OK) code = kin_report(r->common.context, verb, status);
        else if (r->json) print_json(r);
        else print_report(r);
        if (status == KIN_OK && (r->result.differs || reuse_differs(r))) code = KIN_EXIT_FAILED;
    }
    kin_device_close(r->second);
    kin_device_close(r->first);
    return code;
}

int kin_verb_check_compare(int count, char **arguments) {
    request r = {
        .plan = kin_plan_request_default(), .model = "STDiT", .folder = "kinora-compare-case"};
    int left = 0;
    const kin_flag flags[] = {
        {.name = "model",
         .letter = 'm',
         .argument = "MODEL",
         .text = &r.model,
         .help = "a tiny one of kinora check model (default STDiT), or as kinora plan takes it"},
        KIN_PLAN_FLAGS(&r.plan),
        {.name = "output",
         .letter = 'o',
         .argument = "FOLDER",
         .text = &r.folder,
         .help = "where the node that differs is written; default kinora-compare-case"},
        {.name = "json", .on = &r.json, .help = "one JSON object on standard output"},
        {.name = "threads",
         .letter = 't',
         .argument = "N",
         .integer = &r.common.threads,
         .help = "threads for CPU work; default: all processors"},
        {.name = "quiet", .letter = 'q', .on = &r.common.quiet, .help = "the finding only"},
        {.name = "verbose", .letter = 'v', .on = &r.common.verbose, .help = "more of what happens"},
    };
    int status =
        kin_parse_flags(verb, flags, sizeof flags / sizeof *flags, count, arguments, 2, 2, &left);
    if (status < 0) status = kin_plan_request_check(&r.plan, verb);
    if (status >= 0) return status;
    kin_catch_interrupts();
    status = kin_common_open(&r.common, false);
    if (status >= 0) return status;
    status = run(&r, arguments[0], arguments[1]);
    kin_common_close(&r.common);
    return status;
}
