/* Cases of Latte's sampling: the model with guidance, and a scheduler from its configuration. */
#include "tools/check/case_run.h"

#include <string.h>

#include "models/denoiser.h"
#include "models/scheduler.h"
#include "runtime/json.h"

/* What one sampling compares. */
typedef struct latte_sampling {
    kin_case_run *run;
    const char *prefix;
    int64_t count; /* elements of the latents */
} latte_sampling;

static bool give_noise(void *user, int draw, float *noise, size_t count) {
    const latte_sampling *s = user;
    const kin_named_tensor *tensor = kin_case_input_tensor(s->run, "step_noise");
    if (!tensor || tensor->desc.dtype != KIN_F32 ||
        kin_desc_count(&tensor->desc) < (int64_t)count * (draw + 1))
        return false;
    memcpy(noise, (const float *)tensor->data + (size_t)draw * count, count * sizeof *noise);
    return true;
}

static bool compare_call(void *user, int call, int calls, const float *latents) {
    const latte_sampling *s = user;
    char name[KIN_CASE_NAME];
    (void)calls;
    snprintf(name, sizeof name, "%slatents.%d", s->prefix, call);
    kin_case_compare(s->run, name, KIN_F32, latents, s->count);
    return true;
}

/* One sampling from the recorded noise; without a prefix its result is "out". */
static void sample(kin_case_run *run, const kin_pixart_config *config,
                   const kin_scheduler *scheduler, double scale, const char *prefix) {
    const kin_named_tensor *start = kin_case_input_tensor(run, "initial_noise");
    kin_case_graph graph;
    if (!start || !kin_case_begin(run, &graph)) return;
    kin_guidance guidance = {.scale = scale, .null_first = true};
    kin_scheduler_graph_options options = {
        .rank = start->desc.rank, .dims = start->desc.dims, .guidance = guidance};
    latte_sampling s = {.run = run, .prefix = prefix, .count = kin_desc_count(&start->desc)};
    kin_precision precision = {0};
    kin_denoiser_config denoiser = {.kind = KIN_DENOISER_LATTE, .pixart = *config};
    kin_denoiser_sampling sampling = {
        .config = &denoiser, .precision = &precision, .guided = scale != 1, .null_first = true};
    sampling.y = kin_case_feed_input(&graph, "prompt_embeds", KIN_F32);
    if (sampling.guided)
        sampling.null_y = kin_case_feed_input(&graph, "negative_prompt_embeds", KIN_F32);
    kin_scheduler_graph(graph.graph, scheduler, &options, kin_denoiser_sample, &sampling);
    kin_sampler_loop loop = {
        .noise = give_noise, .noise_user = &s, .progress = compare_call, .progress_user = &s};
    float *latents = kin_case_values(run, start, KIN_F32);
    if (latents && kin_case_prepare(&graph, kin_latte_rename, config)) {
        kin_case_widen_loop(run);
        kin_status status =
            kin_scheduler_run(graph.plan, graph.store, scheduler, &loop, latents, (size_t)s.count);
        if (kin_case_ok(run, "sampler", status) && !*prefix)
            kin_case_compare(run, "out", KIN_F32, latents, s.count);
    }
    kin_free(run->context, latents);
    kin_case_end(&graph);
}

/* config.json is the model's, with the scheduler's in it. */
static kin_status read_configs(kin_case_run *run, kin_pixart_config *out_model,
                               kin_scheduler_config *out_scheduler) {
    json_t *model = json_copy(run->config);
    if (!model) return KIN_OUT_OF_MEMORY;
    json_object_del(model, "scheduler");
    kin_status status = kin_latte_config_parse(run->context, model, "config.json",
                                               KIN_UNKNOWN_KEYS_FAIL, out_model);
    json_decref(model);
    if (status == KIN_OK)
        status = kin_scheduler_config_parse(run->context, json_object_get(run->config, "scheduler"),
                                            "config.json: scheduler", out_scheduler);
    return status;
}

void kin_case_latte_sample(kin_case_run *run) {
    const json_t *call = json_object_get(run->info, "call");
    double scale = kin_case_number(call, "guidance_scale", 1),
           eta = kin_case_number(call, "eta", 0);
    kin_pixart_config model;
    kin_scheduler_config config;
    if (!kin_case_ok(run, "config.json", read_configs(run, &model, &config))) return;
    /* The pipeline's own run has eta 0; the case's eta belongs to a second one. */
    for (int i = 0; i < (eta != 0 ? 2 : 1); i++) {
        kin_scheduler *scheduler = NULL;
        kin_scheduler_options options = {
            .steps = (int)kin_case_number(call, "num_inference_steps", 0), .eta = i ? eta : 0};
        if (!kin_case_ok(run, "scheduler",
                         kin_scheduler_create(run->context, &config, &options, &scheduler)))
            return;
        if (i == 0)
            kin_case_compare(run, "timesteps", KIN_F64, scheduler->timesteps, scheduler->calls);
        sample(run, &model, scheduler, scale, i ? "eta." : "");
        kin_scheduler_free(scheduler);
    }
}
