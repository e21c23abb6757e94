/* Cases of Latte and PixArt. */
#include "tools/check/case_run.h"

#include "models/diffusion.h"
#include "models/latte.h"
#include "models/vae_temporal.h"
#include "ops/views.h"

static const kin_precision precision = {KIN_F32, KIN_F32};

static bool latte_config(kin_case_run *run, kin_pixart_config *out_config) {
    return kin_case_ok(run, "config.json",
                       kin_latte_config_parse(run->context, run->config, "config.json",
                                              KIN_UNKNOWN_KEYS_FAIL, out_config));
}

static kin_tensor input(kin_case_graph *graph, const char *name) {
    return kin_case_feed_input(graph, name, KIN_F32);
}

/* KIN_NONE if the case does not have it. */
static kin_tensor optional_input(kin_case_graph *graph, const char *name) {
    return kin_case_input_tensor(graph->run, name) ? input(graph, name) : KIN_NONE;
}

void kin_case_pixart(kin_case_run *run) {
    kin_pixart_config config;
    kin_case_graph graph;
    if (!kin_case_ok(run, "config.json",
                     kin_pixart_config_parse(run->context, run->config, "config.json",
                                             KIN_UNKNOWN_KEYS_FAIL, &config)) ||
        !kin_case_begin(run, &graph))
        return;
    kin_pixart_inputs in = {.x = input(&graph, "hidden_states"),
                            .timestep = input(&graph, "timestep"),
                            .text = input(&graph, "encoder_hidden_states"),
                            .text_mask = optional_input(&graph, "encoder_attention_mask"),
                            .resolution = optional_input(&graph, "resolution"),
                            .aspect_ratio = optional_input(&graph, "aspect_ratio"),
                            .name_hidden = true};
    kin_tensor out = kin_pixart(graph.graph, &config, &precision, &in);
    kin_case_watch_all(&graph, "hidden", config.num_layers);
    kin_case_output(&graph, "out", out);
    if (kin_case_wants_gradients(run))
        kin_case_gradients(&graph, kin_case_dot(&graph, out, "cotangent"));
    if (kin_case_prepare(&graph, kin_pixart_rename, &config)) kin_case_run_and_compare(&graph);
    kin_case_end(&graph);
}

/* Compares "hidden.N" where the case has it. */
static void watch_hidden(kin_case_graph *graph, int count) {
    char name[KIN_CASE_NAME];
    for (int i = 0; i < count; i++) {
        snprintf(name, sizeof name, "hidden.%d", i);
        if (kin_case_output_tensor(graph->run, name)) kin_case_watch(graph, name);
    }
}

/* With use_image_num the call of joint training. */
void kin_case_latte(kin_case_run *run) {
    const json_t *arguments = json_object_get(run->info, "call");
    kin_pixart_config config;
    kin_case_graph graph;
    if (!latte_config(run, &config) || !kin_case_begin(run, &graph)) return;
    kin_latte_inputs in = {.x = input(&graph, "hidden_states"),
                           .timestep = input(&graph, "timestep"),
                           .text = input(&graph, "encoder_hidden_states"),
                           .text_mask = optional_input(&graph, "encoder_attention_mask"),
                           .images = (int)kin_case_number(arguments, "use_image_num", 0),
                           .no_temporal_blocks = json_is_false(
                               json_object_get(arguments, "enable_temporal_attentions")),
                           .name_hidden = true};
    kin_tensor out = kin_latte(graph.graph, &config, &precision, &in);
    watch_hidden(&graph, 2 * config.num_layers);
    kin_case_output(&graph, "out", out);
    in.name_hidden = false;
    if (kin_case_output_tensor(run, "out_no_temp_pos")) {
        in.no_temporal_positions = true;
        kin_case_output(&graph, "out_no_temp_pos",
                        kin_latte(graph.graph, &config, &precision, &in));
        in.no_temporal_positions = false;
    }
    if (kin_case_output_tensor(run, "out_nomask")) {
        in.text_mask = KIN_NONE;
        kin_case_output(&graph, "out_nomask", kin_latte(graph.graph, &config, &precision, &in));
    }
    if (kin_case_wants_gradients(run))
        kin_case_gradients(&graph, kin_case_dot(&graph, out, "cotangent"));
    if (kin_case_prepare(&graph, kin_latte_rename, &config)) kin_case_run_and_compare(&graph);
    kin_case_end(&graph);
}

void kin_case_latte_loss(kin_case_run *run) {
    const json_t *arguments = json_object_get(run->info, "call");
    kin_schedule *schedule = NULL;
    kin_case_graph graph;
    const char *respacing = json_string_value(json_object_get(arguments, "timestep_respacing"));
    int steps = (int)kin_case_number(run->config, "diffusion_steps", 1000);
    if (!kin_case_ok(run, "schedule",
                     kin_schedule_create(run->context, steps, respacing, &schedule)))
        return;
    if (kin_case_begin(run, &graph)) {
        kin_graph *g = graph.graph;
        kin_tensor x0 = input(&graph, "x_start"), noise = input(&graph, "noise");
        kin_tensor t = kin_case_feed_input(&graph, "timestep", KIN_I32);
        kin_diffusion_losses losses;
        kin_diffusion_loss(g, schedule, x0, noise, t, input(&graph, "model_output"), &losses);
        kin_case_output(&graph, "x_t", kin_diffusion_noise(g, schedule, x0, t, noise));
        kin_case_output(&graph, "mse", losses.mse);
        kin_case_output(&graph, "vb", losses.vb);
        kin_case_output(&graph, "out", losses.per_sample);
        kin_case_gradients(&graph, kin_case_dot(&graph, losses.per_sample, "cotangent"));
        if (kin_case_prepare(&graph, NULL, NULL)) kin_case_run_and_compare(&graph);
        kin_case_end(&graph);
    }
    kin_schedule_free(schedule);
}

void kin_case_vae_temporal(kin_case_run *run) {
    int64_t frames = (int64_t)kin_case_number(json_object_get(run->info, "call"), "num_frames", 1);
    kin_sd_vae_config config;
    kin_case_graph graph;
    if (!kin_case_ok(run, "config.json",
                     kin_sd_vae_config_parse(run->context, run->config, "config.json",
                                             KIN_UNKNOWN_KEYS_FAIL, &config)) ||
        !kin_case_begin(run, &graph))
        return;
    kin_tensor out = kin_vae_temporal_decode(graph.graph, &config, &precision,
                                             input(&graph, "latent"), frames, true);
    kin_case_watch_all(&graph, "hidden", config.levels + 3);
    kin_case_output(&graph, "out", out);
    if (kin_case_wants_gradients(run))
        kin_case_gradients(&graph, kin_case_dot(&graph, out, "cotangent"));
    if (kin_case_prepare(&graph, kin_sd_vae_rename, &config)) kin_case_run_and_compare(&graph);
    kin_case_end(&graph);
}
