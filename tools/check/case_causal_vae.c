/* Cases of CausalVideoVAE: its blocks, both halves, and the original's tiling. */
#include "tools/check/case_run.h"

#include <string.h>

#include "models/causal_vae.h"
#include "models/sd_vae.h"
#include "ops/elementwise.h"
#include "ops/views.h"

static const kin_precision precision = {KIN_F32, KIN_F32};

static bool parse(kin_case_run *run, kin_causal_vae_config *config) {
    return kin_case_ok(run, "config.json",
                       kin_causal_vae_config_parse(run->context, run->config, "config.json",
                                                   KIN_UNKNOWN_KEYS_FAIL, config));
}

/* NAME.out, NAME.out_image; returns sum(NAME.out * NAME.cotangent). */
static kin_tensor add_block(kin_case_graph *graph, const char *name, const json_t *entry) {
    kin_graph *g = graph->graph;
    char label[KIN_CASE_NAME];
    kin_causal_block_kind kind = KIN_CAUSAL_NONE;
    const char *class_name = json_string_value(json_object_get(entry, "class"));
    if (!kin_case_ok(
            graph->run, name,
            kin_causal_block_named(graph->run->context, class_name ? class_name : "?", &kind)))
        return KIN_NONE;
    int64_t channels = (int64_t)kin_case_number(entry, "channels", 0);
    int64_t out = (int64_t)kin_case_number(entry, "out_channels", (double)channels);
    snprintf(label, sizeof label, "%s.x", name);
    kin_tensor x = kin_case_feed_input(graph, label, KIN_F32);
    kin_scope_push(g, "%s", name);
    kin_tensor y = kin_causal_block(g, &precision, kind, x, out);
    kin_tensor image = kin_causal_block(g, &precision, kind, kin_slice(g, x, 2, 0, 1), out);
    kin_scope_pop(g);
    snprintf(label, sizeof label, "%s.out", name);
    kin_case_output(graph, label, y);
    snprintf(label, sizeof label, "%s.out_image", name);
    kin_case_output(graph, label, image);
    snprintf(label, sizeof label, "%s.cotangent", name);
    return kin_case_dot(graph, y, label);
}

void kin_case_causal_blocks(kin_case_run *run) {
    kin_case_graph graph;
    if (!kin_case_begin(run, &graph)) return;
    kin_tensor loss = KIN_NONE;
    const char *name;
    const json_t *entry;
    json_object_foreach(run->config, name, entry) {
        kin_tensor part = add_block(&graph, name, entry);
        loss = loss.id ? kin_add(graph.graph, loss, part) : part;
    }
    kin_case_gradients(&graph, loss);
    if (kin_case_prepare(&graph, NULL, NULL)) kin_case_run_and_compare(&graph);
    kin_case_end(&graph);
}

static kin_tensor half(kin_graph *g, const kin_causal_vae_config *config, kin_tensor x,
                       bool decode) {
    return decode ? kin_causal_vae_decode(g, config, &precision, x)
                  : kin_causal_vae_encode(g, config, &precision, x);
}

/* One half on a video and on an image, with gradients and, of the encoder, the scaled sample. */
static void run_half(kin_case_run *run, const kin_causal_vae_config *config, const char *input,
                     const char *image, bool decode) {
    kin_case_graph graph;
    if (!kin_case_begin(run, &graph)) return;
    kin_graph *g = graph.graph;
    kin_tensor out = half(g, config, kin_case_feed_input(&graph, input, KIN_F32), decode);
    kin_case_output(&graph, "out", out);
    if (kin_case_input_tensor(run, image))
        kin_case_output(&graph, "out_image",
                        half(g, config, kin_case_feed_input(&graph, image, KIN_F32), decode));
    if (kin_case_input_tensor(run, "noise")) {
        kin_tensor noise = kin_case_feed_input(&graph, "noise", KIN_F32);
        double scale = kin_case_number(json_object_get(run->info, "call"), "scale_factor",
                                       KIN_CAUSAL_VAE_SCALE);
        kin_case_output(&graph, "latent", kin_scale(g, kin_sd_vae_sample(g, out, noise), scale, 0));
    }
    if (kin_case_wants_gradients(run))
        kin_case_gradients(&graph, kin_case_dot(&graph, out, "cotangent"));
    if (kin_case_prepare(&graph, kin_causal_vae_rename, config)) kin_case_run_and_compare(&graph);
    kin_case_end(&graph);
}

static void run_tiled(kin_case_run *run, const kin_causal_vae_config *config, const char *input,
                      bool decode) {
    const json_t *call = json_object_get(run->info, "call");
    kin_causal_vae_tiling t = kin_causal_vae_tiling_default();
    t.tile_sample_min_size =
        (int)kin_case_number(call, "tile_sample_min_size", t.tile_sample_min_size);
    t.tile_latent_min_size =
        (int)kin_case_number(call, "tile_latent_min_size", t.tile_latent_min_size);
    t.tile_sample_min_size_t =
        (int)kin_case_number(call, "tile_sample_min_size_t", t.tile_sample_min_size_t);
    t.tile_latent_min_size_t =
        (int)kin_case_number(call, "tile_latent_min_size_t", t.tile_latent_min_size_t);
    t.tile_overlap_factor = kin_case_number(call, "tile_overlap_factor", t.tile_overlap_factor);
    kin_case_graph graph;
    if (!kin_case_begin(run, &graph)) return;
    kin_graph *g = graph.graph;
    kin_tensor x = kin_case_feed_input(&graph, input, KIN_F32);
    kin_tensor out = decode ? kin_causal_vae_decode_tiled(g, config, &precision, &t, x)
                            : kin_causal_vae_encode_tiled(g, config, &precision, &t, x);
    kin_case_output(&graph, "out", out);
    if (kin_case_output_tensor(run, "chunk0"))
        kin_case_output(&graph, "chunk0", kin_slice(g, out, 2, 0, 1));
    if (kin_case_prepare(&graph, kin_causal_vae_rename, config)) kin_case_run_and_compare(&graph);
    kin_case_end(&graph);
}

static bool is_tiled(const kin_case_run *run) {
    return json_object_get(json_object_get(run->info, "call"), "tile_sample_min_size") != NULL;
}

void kin_case_causal_encode(kin_case_run *run) {
    kin_causal_vae_config config;
    if (!parse(run, &config)) return;
    if (is_tiled(run)) run_tiled(run, &config, "x", false);
    else run_half(run, &config, "x", "x_image", false);
}

void kin_case_causal_decode(kin_case_run *run) {
    kin_causal_vae_config config;
    if (!parse(run, &config)) return;
    if (is_tiled(run)) run_tiled(run, &config, "z", true);
    else run_half(run, &config, "z", "z_image", true);
}
