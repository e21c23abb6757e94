/* kinora eval prompts: generates for captions and decides from the pixels what was made. */
#include "runtime/file.h"
#include "runtime/json.h"
#include "tools/data/synth.h"
#include "tools/generate/pipeline.h"
#include "tools/report/contact_sheet.h"
#include "tools/report/eval_pixels.h"
#include "tools/tool.h"
#include "tools/verbs.h"

#include <stdlib.h>
#include <string.h>

static const char verb[] = "eval prompts";

enum { MAX_PROMPTS = 4096, BATCH = 12 };

typedef struct evaluation {
    const char *model, *prompts, *output, *sheet, *method;
    int64_t clips, seeds, first_seed, steps;
    double cfg_scale;
    kin_sampling sampling;
    /* lines of the file */
    char *text;
    const char *lines[MAX_PROMPTS];
    int64_t line_count;
    /* results, per clip */
    kin_pixel_verdict *verdicts;
} evaluation;

static kin_status read_prompts(kin_context *context, evaluation *e) {
    kin_status status = kin_file_read_all(context, e->prompts, 1 << 20, &e->text, NULL);
    if (status != KIN_OK) return status;
    for (char *line = strtok(e->text, "\r\n"); line; line = strtok(NULL, "\r\n")) {
        kin_synth_combination combination;
        if (e->line_count == MAX_PROMPTS)
            return kin_fail(context, KIN_INVALID, "%s: more than %d prompts", e->prompts,
                            MAX_PROMPTS);
        if (!kin_synth_parse_caption(line, &combination))
            return kin_fail(context, KIN_INVALID,
                            "%s: \"%s\" names no colour, shape and direction of the demo",
                            e->prompts, line);
        e->lines[e->line_count++] = line;
    }
    if (!e->line_count) return kin_fail(context, KIN_INVALID, "%s: no prompts", e->prompts);
    return KIN_OK;
}

/* The prompts are taken in strides, so that few clips see all kinds of prompts: the stride has no
 * common divisor with their number. */
static const char *prompt_of(const evaluation *e, int64_t clip) {
    int64_t stride = e->line_count * 5 / 13 + 1, a, b;
    do {
        stride++;
        for (a = stride, b = e->line_count; b;) {
            int64_t rest = a % b;
            a = b;
            b = rest;
        }
    } while (a != 1);
    return e->lines[clip * stride % e->line_count];
}

/* Which of the seeds a clip has: each prompt meets all of them in turn. */
static int64_t seed_of(const evaluation *e, int64_t clip) {
    return (clip + clip / e->line_count) % e->seeds;
}

static kin_status run_batch(kin_pipeline *pipeline, evaluation *e, int64_t first, int64_t count,
                            kin_contact_sheet *sheet) {
    const char *prompts[BATCH];
    uint64_t seeds[BATCH];
    kin_host_tensor frames = {.data = NULL};
    for (int64_t i = 0; i < count; i++) {
        int64_t n = first + i;
        prompts[i] = prompt_of(e, n);
        /* clips of one prompt and one seed would be equal: the round is part of the seed */
        seeds[i] = (uint64_t)(e->first_seed + seed_of(e, n)) * 1000003u + (uint64_t)n;
    }
    const kin_system_defaults *d = &pipeline->system.defaults;
    kin_generation generation = {.count = count,
                                 .seeds = seeds,
                                 .frames = d->frames,
                                 .height = d->height,
                                 .width = d->width,
                                 .sampling = e->sampling,
                                 .quiet = true};
    kin_status status = kin_pipeline_generate(pipeline, &generation, prompts, NULL, &frames);
    for (int64_t i = 0; status == KIN_OK && i < count; i++) {
        kin_host_tensor clip = kin_pipeline_clip(&frames, i);
        status = kin_eval_pixels(pipeline->context, &clip, &e->verdicts[first + i]);
        if (status == KIN_OK && sheet) status = kin_contact_sheet_add(sheet, &clip, prompts[i]);
    }
    kin_host_tensor_free(pipeline->context, &frames);
    return status;
}

/* One seed's share, or all for seed -1. */
static json_t *summary(const evaluation *e, int64_t seed) {
    int64_t total = 0, colour = 0, direction = 0, both = 0;
    for (int64_t n = 0; n < e->clips; n++) {
        kin_synth_combination want;
        const kin_pixel_verdict *got = &e->verdicts[n];
        if (seed >= 0 && seed_of(e, n) != seed) continue;
        if (!kin_synth_parse_caption(prompt_of(e, n), &want)) continue;
        bool c = got->colour == want.colour, d = got->direction == want.direction;
        total++;
        colour += c;
        direction += d;
        both += c && d;
    }
    double all = total ? (double)total : 1;
    return json_pack("{s:I, s:f, s:f, s:f}", "clips", (json_int_t)total, "colour",
                     (double)colour / all, "direction", (double)direction / all, "both",
                     (double)both / all);
}

static kin_status write_results(kin_context *context, const evaluation *e) {
    json_t *root = summary(e, -1), *seeds = json_array(), *clips = json_array();
    char method[32];
    kin_sampling_name(&e->sampling, method, sizeof method);
    json_object_set_new(root, "model", json_string(e->model));
    json_object_set_new(root, "prompts", json_string(e->prompts));
    json_object_set_new(root, "sampling",
                        json_pack("{s:s, s:I, s:f}", "method", method, "steps",
                                  (json_int_t)e->sampling.steps, "cfg_scale",
                                  e->sampling.cfg_scale));
    for (int64_t s = 0; s < e->seeds; s++) {
        json_t *part = summary(e, s);
        json_object_set_new(part, "seed", json_integer(e->first_seed + s));
        json_array_append_new(seeds, part);
    }
    for (int64_t n = 0; n < e->clips; n++) {
        const kin_pixel_verdict *v = &e->verdicts[n];
        json_array_append_new(
            clips, json_pack("{s:s, s:I, s:s, s:s, s:f}", "prompt", prompt_of(e, n), "seed",
                             (json_int_t)(e->first_seed + seed_of(e, n)), "colour",
                             v->colour < 0 ? "none" : kin_synth_colour_name(v->colour), "direction",
                             v->direction < 0 ? "none" : kin_synth_direction_name(v->direction),
                             "confidence", (double)v->confidence));
    }
    json_object_set_new(root, "by_seed", seeds);
    json_object_set_new(root, "each", clips);
    char *text = json_dumps(root, JSON_INDENT(1) | JSON_REAL_PRECISION(4));
    kin_status status = text ? KIN_OK : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK && e->output)
        status = kin_file_write_atomic(context, e->output, text, strlen(text));
    printf("%s: %lld clips, colour %.1f %%, direction %.1f %%, both %.1f %%\n", e->prompts,
           (long long)e->clips, 100 * json_real_value(json_object_get(root, "colour")),
           100 * json_real_value(json_object_get(root, "direction")),
           100 * json_real_value(json_object_get(root, "both")));
    free(text);
    json_decref(root);
    return status;
}

static kin_status evaluate(kin_common *common, evaluation *e) {
    kin_context *context = common->context;
    kin_pipeline pipeline;
    kin_contact_sheet *sheet = NULL;
    kin_status status = kin_pipeline_open(context, common->handle, e->model, NULL, &pipeline);
    if (status != KIN_OK) return status;
    pipeline.keep_denoiser = true;
    e->sampling = kin_pipeline_sampling(&pipeline);
    if (e->steps > 0) e->sampling.steps = e->steps;
    if (e->cfg_scale > 0) e->sampling.cfg_scale = e->cfg_scale;
    if (e->method) status = kin_pipeline_sampler(&pipeline, e->method, &e->sampling);
    if (status == KIN_OK) status = read_prompts(context, e);
    if (status == KIN_OK) {
        e->verdicts = kin_calloc(context, (size_t)e->clips, sizeof *e->verdicts);
        if (!e->verdicts) status = KIN_OUT_OF_MEMORY;
    }
    if (status == KIN_OK && e->sheet) status = kin_contact_sheet_create(context, &sheet);
    kin_progress progress = kin_progress_begin("evaluating", 0, e->clips, common->quiet);
    for (int64_t first = 0; status == KIN_OK && first < e->clips; first += BATCH) {
        int64_t count = e->clips - first < BATCH ? e->clips - first : BATCH;
        status = run_batch(&pipeline, e, first, count, first < 2 * BATCH ? sheet : NULL);
        kin_progress_show(&progress, first + count, NULL);
    }
    kin_progress_end(&progress);
    if (status == KIN_OK && sheet) status = kin_contact_sheet_write(sheet, e->sheet);
    if (status == KIN_OK) status = write_results(context, e);
    kin_contact_sheet_free(sheet);
    kin_free(context, e->verdicts);
    kin_free(context, e->text);
    kin_pipeline_close(&pipeline);
    return status;
}

int kin_verb_eval_prompts(int count, char **arguments) {
    kin_common common = {0};
    evaluation e = {.clips = 48, .seeds = 3, .first_seed = 1};
    int left = 0;
    const kin_flag flags[] = {
        {.name = "model",
         .letter = 'm',
         .argument = "DIR",
         .text = &e.model,
         .help = "model folder"},
        {.name = "prompts",
         .argument = "FILE",
         .text = &e.prompts,
         .help = "captions, one a line, with the demo's colours, shapes and directions"},
        {.name = "clips",
         .argument = "N",
         .integer = &e.clips,
         .help = "clips to generate: the prompts in turn, the seeds in turn; default 48"},
        {.name = "seeds",
         .argument = "N",
         .integer = &e.seeds,
         .help = "number of seeds; default 3"},
        {.name = "seed",
         .letter = 's',
         .argument = "N",
         .integer = &e.first_seed,
         .help = "the first seed"},
        {.name = "steps", .argument = "N", .integer = &e.steps, .help = "sampling steps"},
        {.name = "cfg-scale", .argument = "X", .number = &e.cfg_scale, .help = "guidance"},
        {.name = "sampling-method",
         .argument = "NAME",
         .text = &e.method,
         .help = "iddpm, ddim, euler-a, dpm++, .."},
        {.name = "output",
         .letter = 'o',
         .argument = "FILE",
         .text = &e.output,
         .help = "results as JSON"},
        {.name = "sheet",
         .argument = "FILE",
         .text = &e.sheet,
         .help = "a PNG of the first clips, one a row"},
        KIN_COMMON_FLAGS(&common),
    };
    int code =
        kin_parse_flags(verb, flags, sizeof flags / sizeof *flags, count, arguments, 0, 0, &left);
    if (code >= 0) return code;
    if (!e.model || !e.prompts) return kin_usage_error(verb, "--model and --prompts must be given");
    if (e.clips < 1 || e.clips > 100000 || e.seeds < 1 || e.seeds > e.clips || e.first_seed < 0)
        return kin_usage_error(verb, "clips, seeds or seed is out of range");
    code = kin_common_open(&common, true);
    if (code >= 0) return code;
    kin_catch_interrupts();
    kin_status status = evaluate(&common, &e);
    code = status == KIN_OK ? KIN_EXIT_OK : kin_report(common.context, verb, status);
    kin_common_close(&common);
    return code;
}
