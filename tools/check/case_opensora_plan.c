/* Cases of Open-Sora-Plan 1.2: rotary positions, the denoiser, sampling and the training loss. */
#include "tools/check/case_run.h"

#include <string.h>

#include "models/opensora_plan.h"
#include "models/scheduler.h"
#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/rope.h"
#include "ops/views.h"

static const kin_precision precision = {KIN_F32, KIN_F32};

static bool parse(kin_case_run *run, kin_opensora_plan_config *config) {
    return kin_case_ok(run, "config.json",
                       kin_opensora_plan_config_parse(run->context, run->config, "config.json",
                                                      KIN_UNKNOWN_KEYS_FAIL, config));
}

/* The input `name` as f32, whatever the case holds it as. */
static kin_tensor feed_f32(kin_case_graph *graph, const char *name) {
    const kin_named_tensor *tensor = kin_case_input_tensor(graph->run, name);
    float *values = tensor ? kin_case_values(graph->run, tensor, KIN_F32) : NULL;
    if (!values)
        return kin_graph_fail(graph->graph, KIN_NOT_FOUND, "the case has no input \"%s\"", name);
    kin_tensor fed =
        kin_case_feed_values(graph, name, KIN_F32, tensor->desc.rank, tensor->desc.dims, values);
    kin_free(graph->run->context, values);
    return fed;
}

void kin_case_plan_denoiser(kin_case_run *run) {
    kin_opensora_plan_config config;
    kin_case_graph graph;
    if (!parse(run, &config) || !kin_case_begin(run, &graph)) return;
    kin_opensora_plan_inputs in = {.x = kin_case_feed_input(&graph, "x", KIN_F32),
                                   .timestep = feed_f32(&graph, "timestep"),
                                   .text = feed_f32(&graph, "encoder_hidden_states"),
                                   .text_mask = feed_f32(&graph, "encoder_attention_mask"),
                                   .mask = feed_f32(&graph, "attention_mask"),
                                   .name_hidden = true};
    kin_tensor out = kin_opensora_plan(graph.graph, &config, &precision, &in);
    if (kin_case_output_tensor(run, "hidden.0"))
        kin_case_watch_all(&graph, "hidden", config.num_layers);
    kin_case_output(&graph, "out", out);
    if (kin_case_wants_gradients(run))
        kin_case_gradients(&graph, kin_case_dot(&graph, out, "cotangent"));
    if (kin_case_prepare(&graph, kin_opensora_plan_rename, &config))
        kin_case_run_and_compare(&graph);
    kin_case_end(&graph);
}

/* ---- rotary positions ----------------------------------------------------------------------- */

/* q or k [B, H, N, D] turned at the places of a grid. */
static kin_tensor turn(kin_graph *g, kin_tensor x, const int64_t counts[3],
                       const kin_rope_attrs *attrs) {
    enum { MAX_TOKENS = 1024 };
    float places[3 * MAX_TOKENS];
    int64_t tokens = counts[0] * counts[1] * counts[2];
    if (tokens < 1 || tokens > MAX_TOKENS) return kin_graph_fail(g, KIN_INVALID, "too many tokens");
    for (int64_t i = 0; i < tokens; i++) {
        places[i] = (float)(i / (counts[1] * counts[2]));
        places[tokens + i] = (float)(i / counts[2] % counts[1]);
        places[2 * tokens + i] = (float)(i % counts[2]);
    }
    kin_tensor positions = kin_constant(g, KIN_F32, 2, (int64_t[]){attrs->axes, tokens}, places);
    if (attrs->axes == 1) positions = kin_reshape(g, positions, 1, &tokens);
    const int swap[] = {0, 2, 1, 3};
    return kin_permute(g, kin_rope(g, kin_permute(g, x, swap), positions, attrs), swap);
}

static kin_tensor add_set(kin_case_graph *graph, const char *name, const json_t *set) {
    kin_graph *g = graph->graph;
    const json_t *sizes = json_object_get(set, "thw");
    const json_t *scales = json_object_get(set, "interpolation_scale_thw");
    char label[KIN_CASE_NAME];
    int64_t counts[3];
    for (size_t i = 0; i < 3; i++) counts[i] = json_integer_value(json_array_get(sizes, i));
    kin_opensora_plan_config config = {
        .interpolation_scale_t = json_number_value(json_array_get(scales, 0)),
        .interpolation_scale_h = json_number_value(json_array_get(scales, 1)),
        .interpolation_scale_w = json_number_value(json_array_get(scales, 2))};
    kin_rope_attrs attrs = {.theta = kin_case_number(graph->run->config, "freq", 10000), .axes = 3};
    kin_opensora_plan_rope_scales(&config, counts, attrs.scales);
    kin_tensor out[2];
    for (int i = 0; i < 2; i++) {
        snprintf(label, sizeof label, "%s.%s", name, i ? "k" : "q");
        out[i] = turn(g, kin_case_feed_input(graph, label, KIN_F32), counts, &attrs);
        snprintf(label, sizeof label, "%s.%s_out", name, i ? "k" : "q");
        kin_case_output(graph, label, out[i]);
    }
    snprintf(label, sizeof label, "%s.cotangent", name);
    return kin_case_dot(graph, out[0], label);
}

/* The tables themselves: (1, 0) turned by an angle is (cos, sin). */
static void add_table(kin_case_graph *graph, const char *name, bool bf16) {
    enum { PLACES = 80, SIZE = 32 };
    kin_graph *g = graph->graph;
    char label[KIN_CASE_NAME];
    float ones[SIZE] = {0};
    for (int i = 0; i < SIZE / 2; i++) ones[i] = 1;
    kin_rope_attrs attrs = {.theta = kin_case_number(graph->run->config, "freq", 10000),
                            .scales = {2, 1, 1},
                            .axes = 1,
                            .bf16_table = bf16};
    kin_tensor unit = kin_constant(g, KIN_F32, 4, (int64_t[]){1, 1, 1, SIZE}, ones);
    unit = kin_copy(g, kin_expand(g, unit, 4, (int64_t[]){1, 1, PLACES, SIZE}));
    kin_tensor turned = turn(g, unit, (int64_t[]){PLACES, 1, 1}, &attrs);
    for (int i = 0; i < 2; i++) {
        kin_tensor part = kin_slice(g, turned, 3, i * (SIZE / 2), SIZE / 2);
        part = kin_concat(g, (kin_tensor[]){part, part}, 2, 3);
        snprintf(label, sizeof label, "%s.%s", name, i ? "sin" : "cos");
        if (kin_case_output_tensor(graph->run, label)) kin_case_output(graph, label, part);
    }
}

void kin_case_plan_rope(kin_case_run *run) {
    const json_t *sets = json_object_get(json_object_get(run->info, "call"), "sets"), *set;
    const char *name;
    kin_case_graph graph;
    if (!kin_case_begin(run, &graph)) return;
    kin_tensor loss = KIN_NONE;
    json_object_foreach((json_t *)sets, name, set) {
        kin_tensor part = add_set(&graph, name, set);
        loss = loss.id ? kin_add(graph.graph, loss, part) : part;
    }
    add_table(&graph, "table", false);
    add_table(&graph, "table_bf16", true);
    kin_case_gradients(&graph, loss);
    if (kin_case_prepare(&graph, NULL, NULL)) kin_case_run_and_compare(&graph);
    kin_case_end(&graph);
}

/* ---- sampling ------------------------------------------------------------------------------- */

/* What the denoiser within the sampler's graph reads, and what the loop compares. */
typedef struct guided_plan {
    kin_case_graph *graph;
    const kin_opensora_plan_config *config;
    kin_tensor text, mask; /* [2B, 1, L, C], [2B, 1, L]: negative, then positive */
} guided_plan;

static kin_tensor denoise(void *user, kin_graph *g, kin_tensor x, kin_tensor timestep) {
    const guided_plan *model = user;
    kin_opensora_plan_inputs in = {
        .x = x, .timestep = timestep, .text = model->text, .text_mask = model->mask};
    return kin_opensora_plan(g, model->config, &precision, &in);
}

static bool give_noise(void *user, int draw, float *noise, size_t count) {
    const guided_plan *model = user;
    char name[32];
    snprintf(name, sizeof name, "noise.%d", draw);
    const kin_named_tensor *tensor = kin_case_input_tensor(model->graph->run, name);
    if (!tensor || kin_desc_count(&tensor->desc) != (int64_t)count) return false;
    kin_convert(tensor->data, tensor->desc.dtype, noise, KIN_F32, (int64_t)count);
    return true;
}

static bool compare_call(void *user, int call, int calls, const float *latents) {
    const guided_plan *model = user;
    kin_case_run *run = model->graph->run;
    int64_t count = kin_desc_count(&kin_case_input_tensor(run, "latents")->desc);
    char name[32];
    float *guided = kin_case_read(model->graph, "model_output");
    snprintf(name, sizeof name, "model_output.%d", call);
    if (guided) kin_case_compare(run, name, KIN_F32, guided, count);
    kin_free(run->context, guided);
    snprintf(name, sizeof name, "latents.%d", call);
    kin_case_compare(run, name, KIN_F32, latents, count);
    if (call == calls - 1) kin_case_compare(run, "out", KIN_F32, latents, count);
    return true;
}

/* [negative; positive] with an axis for the captions: [2B, 1, ...]. */
static kin_tensor both(kin_case_graph *graph, const char *negative, const char *positive) {
    kin_graph *g = graph->graph;
    kin_tensor x =
        kin_concat(g, (kin_tensor[]){feed_f32(graph, negative), feed_f32(graph, positive)}, 2, 0);
    int64_t dims[] = {kin_dim(g, x, 0), 1, kin_dim(g, x, 1), kin_dim(g, x, 2)};
    return kin_reshape(g, x, kin_rank(g, x) + 1, dims);
}

static void sample(kin_case_run *run, const kin_opensora_plan_config *config,
                   const kin_scheduler *scheduler) {
    const kin_named_tensor *start = kin_case_input_tensor(run, "latents");
    kin_case_graph graph;
    if (!start || !kin_case_begin(run, &graph)) return;
    guided_plan model = {.graph = &graph, .config = config};
    model.text = both(&graph, "negative_prompt_embeds", "prompt_embeds");
    model.mask = both(&graph, "negative_prompt_attention_mask", "prompt_attention_mask");
    kin_scheduler_graph_options options = {.rank = start->desc.rank, .dims = start->desc.dims};
    options.guidance.scale =
        kin_case_number(json_object_get(run->info, "call"), "guidance_scale", 1);
    options.guidance.null_first = true;
    kin_scheduler_graph(graph.graph, scheduler, &options, denoise, &model);
    kin_sampler_loop loop = {.noise = give_noise,
                             .noise_user = &model,
                             .progress = compare_call,
                             .progress_user = &model};
    float *latents = kin_case_values(run, start, KIN_F32);
    if (latents && kin_case_prepare(&graph, kin_opensora_plan_rename, config))
        kin_case_ok(run, "sampler",
                    kin_scheduler_run(graph.plan, graph.store, scheduler, &loop, latents,
                                      (size_t)kin_desc_count(&start->desc)));
    kin_free(run->context, latents);
    kin_case_end(&graph);
}

void kin_case_plan_sample(kin_case_run *run) {
    const json_t *call = json_object_get(run->info, "call");
    const char *name = json_string_value(json_object_get(call, "scheduler"));
    kin_opensora_plan_config config;
    kin_scheduler_config schedule;
    kin_scheduler *scheduler = NULL;
    if (!parse(run, &config)) return;
    char class_name[64];
    snprintf(class_name, sizeof class_name, "%sScheduler", name ? name : "");
    /* The sampling scripts switch off the clipping that DDIM and DDPM have by default. */
    json_t *json = json_pack("{s:s, s:b}", "_class_name", class_name, "clip_sample", 0);
    kin_scheduler_options options = {.steps = (int)kin_case_number(call, "num_inference_steps", 0)};
    kin_status status =
        kin_scheduler_config_parse(run->context, json, "case.json: scheduler", &schedule);
    json_decref(json);
    if (status == KIN_OK)
        status = kin_scheduler_create(run->context, &schedule, &options, &scheduler);
    if (kin_case_ok(run, "scheduler", status)) {
        kin_case_compare(run, "timesteps", KIN_F64, scheduler->timesteps, scheduler->calls);
        if (kin_case_output_tensor(run, "sigmas") && scheduler->sigmas)
            kin_case_compare(run, "sigmas", KIN_F64, scheduler->sigmas, scheduler->sigma_count);
        sample(run, &config, scheduler);
    }
    kin_scheduler_free(scheduler);
}

/* ---- the training loss ---------------------------------------------------------------------- */

/* What all variants read. */
typedef struct loss_inputs {
    const kin_schedule *schedule;
    kin_tensor latents, noise, t, mask;
    double noise_offset;
} loss_inputs;

static kin_tensor add_variant(kin_case_graph *graph, const char *name, const json_t *variant,
                              const loss_inputs *in) {
    const char *target = json_string_value(json_object_get(variant, "prediction_type"));
    kin_plan_loss_options options = {.noise_offset = in->noise_offset,
                                     .snr_gamma = kin_case_number(variant, "snr_gamma", 0)};
    if (target && strcmp(target, "v_prediction") == 0) options.target = KIN_PLAN_TARGET_V;
    if (target && strcmp(target, "sample") == 0) options.target = KIN_PLAN_TARGET_SAMPLE;
    bool masked = json_is_true(json_object_get(variant, "masked"));
    const kin_named_tensor *given = kin_case_input_tensor(graph->run, "model_output");
    char label[KIN_CASE_NAME];
    if (!given || given->desc.dtype != KIN_F32)
        return kin_graph_fail(graph->graph, KIN_NOT_FOUND, "the case has no model_output");
    /* An input of its own for each variant: its gradient is that of one loss. */
    snprintf(label, sizeof label, "model_output.%s", name);
    kin_tensor out = kin_case_feed_values(graph, label, KIN_F32, given->desc.rank, given->desc.dims,
                                          given->data);
    kin_tensor loss = kin_opensora_plan_loss(graph->graph, in->schedule, &options, in->latents,
                                             in->noise, in->t, out, masked ? in->mask : KIN_NONE);
    snprintf(label, sizeof label, "loss.%s", name);
    kin_case_output(graph, label, loss);
    return loss;
}

/* alphas_cumprod and the ratio of signal to noise at the case's timesteps. */
static void compare_levels(kin_case_run *run, const kin_schedule *schedule) {
    const kin_named_tensor *t = kin_case_input_tensor(run, "timestep");
    double levels[64], ratios[64];
    int64_t count = t ? kin_desc_count(&t->desc) : 0;
    if (count < 1 || count > 64) return;
    for (int64_t i = 0; i < count; i++) {
        int step = (int)kin_element_get(t->data, t->desc.dtype, i);
        if (step < 0 || step >= schedule->steps) return;
        levels[i] = schedule->alphas_cumprod[step];
        ratios[i] = levels[i] / (1 - levels[i]);
    }
    kin_case_compare(run, "alphas_cumprod", KIN_F64, levels, count);
    kin_case_compare(run, "snr", KIN_F64, ratios, count);
}

static void run_losses(kin_case_run *run, const kin_schedule *schedule) {
    const json_t *call = json_object_get(run->info, "call"), *variant;
    const char *name;
    kin_case_graph graph;
    if (!kin_case_begin(run, &graph)) return;
    kin_graph *g = graph.graph;
    kin_plan_loss_options options = {.noise_offset = kin_case_number(call, "noise_offset", 0)};
    loss_inputs in = {.schedule = schedule,
                      .latents = kin_case_feed_input(&graph, "latents", KIN_F32),
                      .t = kin_case_feed_input(&graph, "timestep", KIN_I32),
                      .mask = feed_f32(&graph, "attention_mask"),
                      .noise_offset = options.noise_offset};
    kin_tensor noise = kin_case_feed_input(&graph, "noise", KIN_F32);
    kin_tensor offset = kin_case_feed_input(&graph, "offset_noise", KIN_F32);
    in.noise = kin_opensora_plan_noise(g, &options, noise, offset);
    kin_case_output(&graph, "noisy", kin_diffusion_noise(g, schedule, in.latents, in.t, in.noise));
    kin_case_output(&graph, "velocity",
                    kin_opensora_plan_velocity(g, schedule, in.latents, in.noise, in.t));
    kin_tensor total = KIN_NONE;
    json_object_foreach(json_object_get(call, "variants"), name, variant) {
        kin_tensor loss = add_variant(&graph, name, variant, &in);
        total = total.id ? kin_add(g, total, loss) : loss;
    }
    kin_case_gradients(&graph, total);
    if (kin_case_prepare(&graph, NULL, NULL)) kin_case_run_and_compare(&graph);
    kin_case_end(&graph);
}

void kin_case_plan_loss(kin_case_run *run) {
    kin_schedule *schedule = NULL;
    int steps = (int)kin_case_number(run->config, "num_train_timesteps", 1000);
    if (!kin_case_ok(run, "schedule", kin_schedule_create(run->context, steps, NULL, &schedule)))
        return;
    compare_levels(run, schedule);
    run_losses(run, schedule);
    kin_schedule_free(schedule);
}
