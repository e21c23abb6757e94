/* kinora check model: what a device can do of a text-to-video system, tried on tiny models. */
#include "ops/random.h"
#include "runtime/check.h"
#include "runtime/philox.h"
#include "tools/check/check_model_run.h"
#include "tools/check/check_models.h"
#include "tools/plan_report.h"
#include "tools/tool.h"
#include "tools/verbs.h"

#include <jansson.h>
#include <math.h>
#include <string.h>

static const char verb[] = "check model";

enum { STEPS = 10, SAMPLING_STEPS = 4, NOISE = 4096, SEED = 11, MAX_MODELS = 32 };

typedef enum stage { STAGE_BLOCK, STAGE_WHOLE, STAGE_TRAINING, STAGE_SAMPLING, STAGES } stage;

static const char *const stage_names[STAGES] = {"one block", "whole model", "ten training steps",
                                                "sampling"};

/* Names with a reason each, without repetition. */
typedef struct name_list {
    const char *names[64]; /* of ops: constants of the library */
    char reasons[64][200]; /* the first reason */
    int count;
} name_list;

typedef struct check {
    kin_common common;
    const char *only, *compute_name;
    bool json;
    kin_precision precision;
    const kin_check_model *model; /* at work */
    name_list lowered, missing;
    bool good[MAX_MODELS][STAGES], tried[MAX_MODELS][STAGES], noise_good;
    json_t *rows;
} check;

/* ---- what the plans say ---- */

static void add_name(name_list *list, const char *name, const char *reason) {
    for (int i = 0; i < list->count; i++)
        if (strcmp(list->names[i], name) == 0) return;
    if (list->count == (int)(sizeof list->names / sizeof *list->names)) return;
    snprintf(list->reasons[list->count], sizeof list->reasons[0], "%s", reason ? reason : "");
    list->names[list->count++] = name;
}

/* Names that a plan has in its own memory are those of ops, which last. */
static void note_plan(check *c, const kin_plan *plan) {
    for (int i = 0; i < kin_plan_node_count(plan); i++) {
        kin_plan_node node = kin_plan_node_at(plan, i);
        kin_placement placement = kin_plan_placement(&node);
        const kin_op *origin = node.origin ? kin_op_find(node.origin) : NULL;
        const kin_op *op = kin_op_find(node.op);
        bool lowered = placement == KIN_PLACED_LOWERED, host = placement == KIN_PLACED_HOST;
        if (origin && (lowered || host))
            add_name(&c->lowered, origin->name, lowered ? node.why : "");
        if (op && host) add_name(&c->missing, op->name, node.why);
    }
}

static bool needs_host(const kin_plan *plan) {
    for (int i = 0; i < kin_plan_node_count(plan); i++) {
        kin_plan_node node = kin_plan_node_at(plan, i);
        if (kin_plan_placement(&node) == KIN_PLACED_HOST) return true;
    }
    return false;
}

/* ---- stages ---- */

static kin_status append_stage(check *c, kin_graph *graph, stage at) {
    if (at == STAGE_TRAINING) return kin_check_append_training(graph, c->model, &c->precision);
    if (at == STAGE_SAMPLING)
        return kin_check_append_sampling(graph, c->model, &c->precision, SAMPLING_STEPS);
    int blocks = at == STAGE_BLOCK ? 1 : KIN_CHECK_BLOCKS;
    return kin_check_append_forward(graph, c->model, &c->precision, blocks, true);
}

/* Noise, step and seed of step `step`. */
static kin_status set_step(check *c, kin_model_run *run, stage at, int step) {
    double number = at == STAGE_SAMPLING ? SAMPLING_STEPS - 1 - step : step + 1;
    double seed[2] = {SEED, step};
    kin_status status = KIN_OK;
    if (at == STAGE_TRAINING) status = kin_model_run_set(run, "seed", seed);
    if (status == KIN_OK && at >= STAGE_TRAINING) status = kin_model_run_set(run, "step", &number);
    if (status != KIN_OK || at != STAGE_SAMPLING) return status;
    size_t count = 1;
    for (int a = 0; a < c->model->rank; a++) count *= (size_t)c->model->dims[a];
    double *noise = kin_alloc(c->common.context, count * sizeof *noise);
    if (!noise) return KIN_OUT_OF_MEMORY;
    for (size_t i = 0; i < count; i++)
        noise[i] = kin_philox_element_normal(SEED, 0, (uint64_t)step + 1, i);
    status = kin_model_run_set(run, "noise", noise);
    kin_free(c->common.context, noise);
    return status;
}

/* The first trained matrix of the model: the one that a control doubles. */
static const char *some_weight(const kin_check_values *values) {
    for (int i = 0; i < values->count; i++)
        if (values->list[i].variable && values->list[i].desc.rank >= 2 &&
            kin_dtype_is_float(values->list[i].desc.dtype))
            return values->list[i].name;
    return NULL;
}

static kin_status run_steps(check *c, kin_model_run *run, const kin_check_values *values, stage at,
                            kin_model_verdict *verdict) {
    int steps = at == STAGE_TRAINING ? STEPS : at == STAGE_SAMPLING ? SAMPLING_STEPS : 1;
    const char *weight = at <= STAGE_WHOLE ? some_weight(values) : NULL;
    kin_status status = KIN_OK;
    if (at == STAGE_SAMPLING) kin_model_run_carry(run, "next", "latents");
    for (int step = 0; status == KIN_OK && step < steps && verdict->passed; step++) {
        if (kin_interrupted()) return kin_fail(c->common.context, KIN_CANCELLED, "interrupted");
        status = set_step(c, run, at, step);
        if (status == KIN_OK) status = kin_model_run_step(run, verdict);
        if (status == KIN_OK && !verdict->passed && steps > 1) {
            char first[sizeof verdict->message];
            snprintf(first, sizeof first, "%s", verdict->message);
            snprintf(verdict->message, sizeof verdict->message, "step %d: %.380s", step + 1, first);
        }
    }
    if (status == KIN_OK && weight && verdict->passed)
        status = kin_model_run_control(run, weight, verdict);
    return status;
}

static kin_model_verdict run_stage(check *c, stage at, bool *out_host) {
    static const kin_check_limits limits = {KIN_CHECK_VOCABULARY, KIN_CHECK_TEXT_LENGTH};
    kin_model_verdict verdict = {.passed = true};
    kin_graph *graph = NULL;
    kin_model_run *run = NULL;
    kin_check_values values = {0};
    kin_device *device = c->common.handle;
    *out_host = false;
    kin_status status = kin_graph_create(c->common.context, &graph);
    if (status == KIN_OK) status = append_stage(c, graph, at);
    if (status == KIN_OK) status = kin_check_values_make(graph, device, &limits, SEED, &values);
    if (status == KIN_OK)
        status = kin_model_run_open(graph, device, &values, c->precision.compute, &run);
    if (status == KIN_OK) {
        note_plan(c, kin_model_run_plan(run));
        *out_host = needs_host(kin_model_run_plan(run));
        status = run_steps(c, run, &values, at, &verdict);
    }
    if (status != KIN_OK) {
        verdict.passed = false;
        snprintf(verdict.message, sizeof verdict.message, "%s: %.380s", kin_status_text(status),
                 kin_context_error(c->common.context));
    }
    kin_model_run_close(run);
    kin_check_values_free(&values);
    kin_graph_destroy(graph);
    return verdict;
}

/* ---- noise ---- */

/* The device's random numbers against the host's: uniform ones have the same bits, normal ones
 * differ by rounding. */
static kin_model_verdict check_noise(check *c) {
    kin_model_verdict verdict = {.passed = true};
    kin_context *context = c->common.context;
    kin_graph *graph = NULL;
    kin_plan *plan = NULL;
    int64_t two = 2, dims = NOISE, seed[2] = {SEED, 3};
    float *got = kin_alloc(context, 2 * NOISE * sizeof *got), want[2], *normal = got + NOISE;
    double worst = 0, allowed = kin_tolerance(KIN_F32, 1);
    int different = 0;
    kin_status status = got ? kin_graph_create(context, &graph) : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK) {
        kin_tensor numbers = kin_input(graph, "seed", KIN_I64, 1, &two);
        kin_output(graph, "uniform", kin_random_uniform(graph, numbers, 5, 1, &dims));
        kin_output(graph, "normal", kin_random_normal(graph, numbers, 5, 1, &dims));
        status = kin_plan_build(graph, c->common.handle, NULL, &plan);
    }
    if (status == KIN_OK) status = kin_plan_prepare(plan, NULL, NULL);
    if (status == KIN_OK) status = kin_plan_write(plan, "seed", KIN_I64, seed);
    if (status == KIN_OK) status = kin_plan_run(plan);
    if (status == KIN_OK) status = kin_plan_read(plan, "uniform", KIN_F32, got);
    if (status == KIN_OK) status = kin_plan_read(plan, "normal", KIN_F32, normal);
    for (uint64_t i = 0; status == KIN_OK && i < NOISE; i++) {
        want[0] = kin_philox_element_uniform(SEED, 5, 3, i);
        want[1] = kin_philox_element_normal(SEED, 5, 3, i);
        different += memcmp(&want[0], &got[i], sizeof want[0]) != 0;
        double error = fabs((double)normal[i] - want[1]);
        if (!(error <= worst)) worst = error;
    }
    verdict.compared = 2;
    verdict.worst = worst / (4 * allowed);
    verdict.relative = worst / 4;
    /* the largest of 4096 normal numbers is near 4 */
    verdict.passed = status == KIN_OK && different == 0 && worst <= 4 * allowed;
    if (status != KIN_OK)
        snprintf(verdict.message, sizeof verdict.message, "%.390s", kin_context_error(context));
    else if (!verdict.passed)
        snprintf(verdict.message, sizeof verdict.message,
                 "%d of %d uniform numbers have other bits; normal ones are off by up to %.3g, "
                 "allowed is %.3g",
                 different, NOISE, worst, 4 * allowed);
    kin_plan_free(plan);
    kin_graph_destroy(graph);
    kin_free(context, got);
    return verdict;
}

/* ---- the report ---- */

static void report(check *c, const char *model, const char *what, const kin_model_verdict *v,
                   bool host) {
    if (c->json) {
        json_array_append_new(
            c->rows, json_pack("{s:s, s:s, s:b, s:b, s:i, s:i, s:f, s:f, s:s}", "model", model,
                               "stage", what, "passed", v->passed, "host", host, "compared",
                               v->compared, "controls", v->controls, "worst", fmin(v->worst, 1e300),
                               "relative", fmin(v->relative, 1e300), "message", v->message));
        return;
    }
    printf("%-16s %-20s %8d %10.2g %7.2f  %s%s%s\n", model, what, v->compared, v->relative,
           v->worst, v->passed ? "passed" : "FAILED: ", v->message,
           host ? ", with the host's help" : "");
    fflush(stdout);
}

static void check_one(check *c, int index) {
    c->model = &kin_check_models[index];
    for (int at = 0; at < STAGES && !kin_interrupted(); at++) {
        bool host;
        if (at == STAGE_SAMPLING && c->model->role != KIN_CHECK_DENOISER) continue;
        kin_model_verdict verdict = run_stage(c, (stage)at, &host);
        c->tried[index][at] = true;
        c->good[index][at] = verdict.passed && !host;
        report(c, c->model->name, stage_names[at], &verdict, host);
    }
}

static bool all_good(const check *c, int index, stage last) {
    bool good = true;
    for (int at = 0; at <= (int)last; at++)
        good = good && (c->good[index][at] || !c->tried[index][at]);
    return good && c->tried[index][STAGE_BLOCK];
}

/* A system needs a text encoder, a denoiser that can be sampled and a decoder; to train one, also
 * all of their gradients, and the encoder. */
static bool can_do(const check *c, bool training) {
    bool have[KIN_CHECK_ROLES] = {false};
    for (int i = 0; kin_check_models[i].name; i++) {
        bool good = c->good[i][STAGE_WHOLE];
        if (kin_check_models[i].role == KIN_CHECK_DENOISER)
            good = good && c->good[i][STAGE_SAMPLING];
        if (training) good = good && c->good[i][STAGE_TRAINING];
        have[kin_check_models[i].role] = have[kin_check_models[i].role] || good;
    }
    bool can = have[KIN_CHECK_TEXT_ENCODER] && have[KIN_CHECK_DENOISER] && have[KIN_CHECK_DECODER];
    return can && c->noise_good && (!training || have[KIN_CHECK_ENCODER]);
}

/* "yes", or "yes, but not Latte", or "no" with what failed. */
static const char *answer(const check *c, bool training, char *text, size_t size) {
    bool can = can_do(c, training);
    size_t used = (size_t)snprintf(text, size, "%s", can ? "yes" : "no");
    int named = 0;
    for (int i = 0; kin_check_models[i].name; i++) {
        bool good = training ? all_good(c, i, STAGE_TRAINING)
                             : c->good[i][STAGE_WHOLE] &&
                                   (c->good[i][STAGE_SAMPLING] || !c->tried[i][STAGE_SAMPLING]);
        if (good || !c->tried[i][STAGE_BLOCK] || used >= size) continue;
        used += (size_t)snprintf(text + used, size - used, "%s%s",
                                 named++ ? ", "
                                 : can   ? ", but not with "
                                         : " (not right, or not by "
                                           "the device alone: ",
                                 kin_check_models[i].name);
    }
    if (named && !can && used < size) snprintf(text + used, size - used, ")");
    return text;
}

static void print_list(const char *what, const name_list *list, bool reasons) {
    printf("%s", what);
    for (int i = 0; i < list->count; i++) {
        printf("%s%s", i ? (reasons ? "; " : ", ") : "", list->names[i]);
        if (reasons && list->reasons[i][0]) printf(" (%s)", list->reasons[i]);
    }
    printf("%s", list->count ? "" : "none");
}

static json_t *list_json(const name_list *list) {
    json_t *array = json_array();
    for (int i = 0; i < list->count; i++)
        json_array_append_new(
            array, json_pack("{s:s, s:s}", "op", list->names[i], "why", list->reasons[i]));
    return array;
}

static void conclude(check *c, bool whole) {
    char inference[400], training[400];
    answer(c, false, inference, sizeof inference);
    answer(c, true, training, sizeof training);
    if (c->json) {
        json_t *root =
            json_pack("{s:s, s:s, s:s, s:b, s:b, s:o, s:o, s:O}", "version", kin_version(), "verb",
                      verb, "device", c->common.handle->info.name, "inference", can_do(c, false),
                      "training", can_do(c, true), "lowered", list_json(&c->lowered), "would_need",
                      list_json(&c->missing), "stages", c->rows);
        json_dumpf(root, stdout, JSON_INDENT(1));
        putchar('\n');
        json_decref(root);
        return;
    }
    if (!c->common.quiet)
        printf(
            "worst: largest error as a fraction of what is allowed (see docs/add-a-backend.md)\n");
    if (whole) printf("\ntext-to-video inference: %s; training: %s; ", inference, training);
    else printf("\nof %s alone: ", c->only);
    print_list("lowered ops: ", &c->lowered, false);
    print_list("; would need: ", &c->missing, true);
    printf("\n");
}

static int walk(check *c) {
    bool good = true;
    kin_model_verdict noise = check_noise(c);
    c->noise_good = noise.passed;
    c->rows = json_array();
    if (!c->json)
        printf("%-16s %-20s %8s %10s %7s\n", "model", "what", "compared", "error", "worst");
    report(c, "random numbers", "as the host's", &noise, false);
    for (int i = 0; kin_check_models[i].name && i < MAX_MODELS; i++) {
        if (c->only && strcmp(kin_check_models[i].name, c->only) != 0) continue;
        check_one(c, i);
        good = good && all_good(c, i, STAGE_SAMPLING);
    }
    conclude(c, !c->only);
    json_decref(c->rows);
    return good && noise.passed && !kin_interrupted() ? KIN_EXIT_OK : KIN_EXIT_FAILED;
}

static int unknown_model(const char *name) {
    const char *names[MAX_MODELS];
    size_t count = 0;
    for (; kin_check_models[count].name && count < MAX_MODELS; count++)
        names[count] = kin_check_models[count].name;
    const char *near = kin_nearest_name(name, names, count);
    return near ? kin_usage_error(verb, "no model \"%s\"; did you mean \"%s\"?", name, near)
                : kin_usage_error(verb, "no model \"%s\"", name);
}

static int check_request(check *c) {
    c->precision = (kin_precision){KIN_F32, KIN_F32};
    if (!kin_dtype_from_name(c->compute_name, &c->precision.compute) ||
        (c->precision.compute != KIN_F32 && c->precision.compute != KIN_BF16))
        return kin_usage_error(verb, "--compute wants f32 or bf16, not \"%s\"", c->compute_name);
    return c->only && !kin_check_model_find(c->only) ? unknown_model(c->only) : -1;
}

int kin_verb_check_model(int count, char **arguments) {
    check c = {.compute_name = "f32"};
    int left = 0;
    const kin_flag flags[] = {
        {.name = "model",
         .letter = 'm',
         .argument = "NAME",
         .text = &c.only,
         .help = "this model only, as the table names it"},
        {.name = "compute",
         .argument = "DTYPE",
         .text = &c.compute_name,
         .help = "f32 (default) or bf16, between the layers"},
        {.name = "json", .on = &c.json, .help = "one JSON object on standard output"},
        KIN_COMMON_FLAGS(&c.common),
    };
    int status =
        kin_parse_flags(verb, flags, sizeof flags / sizeof *flags, count, arguments, 0, 0, &left);
    if (status < 0) status = check_request(&c);
    if (status >= 0) return status;
    kin_catch_interrupts();
    status = kin_common_open(&c.common, true);
    if (status >= 0) return status;
    status = walk(&c);
    kin_common_close(&c.common);
    return status;
}
