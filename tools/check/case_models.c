/* Cases of STDiT, T5 and the image VAE. */
#include "tools/check/case_run.h"

#include <string.h>

#include "models/sd_vae.h"
#include "models/stdit.h"
#include "models/t5.h"
#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/pad.h"
#include "ops/reduce.h"
#include "ops/views.h"

static const kin_precision precision = {KIN_F32, KIN_F32};

bool kin_case_wants_gradients(const kin_case_run *run) {
    return json_is_true(json_object_get(run->info, "gradients"));
}

kin_tensor kin_case_caption(kin_case_graph *graph) {
    kin_tensor y = kin_case_feed_input(graph, "y", KIN_F32);
    kin_graph *g = graph->graph;
    return kin_reshape(g, y, 3, (int64_t[]){kin_dim(g, y, 0), kin_dim(g, y, 2), kin_dim(g, y, 3)});
}

void kin_case_compare_packed(kin_case_graph *graph, const char *name, const char *mask_name) {
    kin_case_run *run = graph->run;
    const kin_named_tensor *mask = kin_case_input_tensor(run, mask_name);
    const kin_desc *desc = kin_plan_output_desc(graph->plan, name);
    float *padded = mask ? kin_case_read(graph, name) : NULL;
    if (!padded) return;
    int64_t rows = desc->dims[0] * desc->dims[1], width = desc->dims[2], kept = 0;
    for (int64_t i = 0; i < rows; i++) {
        if (kin_element_get(mask->data, mask->desc.dtype, i) == 0) continue;
        memmove(padded + kept++ * width, padded + i * width, (size_t)width * sizeof *padded);
    }
    const double usual = run->tolerance;
    run->tolerance += graph->noise;
    kin_case_compare(run, name, KIN_F32, padded, kept * width);
    run->tolerance = usual;
    kin_free(run->context, padded);
}

void kin_case_stdit(kin_case_run *run) {
    kin_stdit_config config;
    if (!kin_case_ok(run, "config.json",
                     kin_stdit_config_parse(run->context, run->config, "config.json",
                                            KIN_UNKNOWN_KEYS_FAIL, &config)))
        return;
    kin_case_graph graph;
    if (!kin_case_begin(run, &graph)) return;
    kin_stdit_inputs in = {.x = kin_case_feed_input(&graph, "x", KIN_F32),
                           .timestep = kin_case_feed_input(&graph, "timestep", KIN_F32),
                           .y = kin_case_caption(&graph),
                           .y_lengths = kin_case_lengths(&graph, "mask"),
                           .name_hidden = true};
    kin_tensor out = kin_stdit(graph.graph, &config, &precision, &in);
    kin_case_watch(&graph, "embed.t");
    kin_case_watch(&graph, "embed.t_mlp");
    kin_case_watch(&graph, "embed.tokens");
    kin_case_watch_all(&graph, "hidden", config.depth);
    kin_case_output(&graph, "out", out);
    if (kin_case_wants_gradients(run))
        kin_case_gradients(&graph, kin_case_dot(&graph, out, "cotangent"));
    if (kin_case_prepare(&graph, kin_stdit_rename, &config) && kin_case_run_and_compare(&graph))
        kin_case_compare_packed(&graph, "embed.y", "mask");
    kin_case_end(&graph);
}

/* cond [1, sum of lengths, C] -> [B, longest, C], zeros behind each. */
static kin_tensor unpack(kin_graph *g, kin_tensor cond, const int32_t *lengths, int64_t batch) {
    enum { MAX_BATCH = 16 };
    kin_tensor parts[MAX_BATCH];
    int64_t start = 0, longest = 0;
    if (batch > MAX_BATCH) return kin_graph_fail(g, KIN_INVALID, "too many captions");
    for (int64_t i = 0; i < batch; i++)
        if (lengths[i] > longest) longest = lengths[i];
    for (int64_t i = 0; i < batch; i++) {
        int64_t before[3] = {0}, after[3] = {0, longest - lengths[i], 0};
        parts[i] = kin_pad(g, kin_slice(g, cond, 1, start, lengths[i]), before, after);
        start += lengths[i];
    }
    return kin_concat(g, parts, (int)batch, 0);
}

void kin_case_stdit_attention(kin_case_run *run) {
    const json_t *list = json_object_get(json_object_get(run->info, "call"), "y_lens");
    int heads = (int)kin_case_number(run->config, "num_heads", 0);
    int32_t lengths[16] = {0};
    int64_t batch = (int64_t)json_array_size(list);
    kin_case_expect(run, "call.y_lens", batch > 0 && batch <= 16 && heads > 0, "");
    if (batch < 1 || batch > 16 || heads < 1) return;
    for (int64_t i = 0; i < batch; i++)
        lengths[i] = (int32_t)json_integer_value(json_array_get(list, (size_t)i));
    kin_case_graph graph;
    if (!kin_case_begin(run, &graph)) return;
    kin_graph *g = graph.graph;
    kin_tensor x = kin_case_feed_input(&graph, "x", KIN_F32);
    kin_tensor cond = kin_case_feed_input(&graph, "cond", KIN_F32);
    kin_tensor lens = kin_case_feed_values(&graph, "y_lens", KIN_I32, 1, &batch, lengths);
    int64_t tokens = kin_dim(g, x, 1), width = kin_dim(g, x, 2);
    kin_tensor grid = kin_reshape(g, x, 4, (int64_t[]){batch, 1, tokens, width});
    kin_tensor self = kin_stdit_self_attention(g, &precision, "attn", grid, heads, false, false);
    self = kin_reshape(g, self, 3, (int64_t[]){batch, tokens, width});
    kin_tensor text = unpack(g, cond, lengths, batch);
    kin_tensor cross = kin_stdit_cross_attention(g, &precision, "cross_attn", x, text, lens, heads);
    kin_case_output(&graph, "out.attn", self);
    kin_case_output(&graph, "out.cross_attn", cross);
    kin_case_gradients(&graph, kin_add(g, kin_case_dot(&graph, self, "cotangent.attn"),
                                       kin_case_dot(&graph, cross, "cotangent.cross_attn")));
    if (kin_case_prepare(&graph, NULL, NULL)) kin_case_run_and_compare(&graph);
    kin_case_end(&graph);
}

void kin_case_t5(kin_case_run *run) {
    kin_t5_config config;
    if (!kin_case_ok(run, "config.json",
                     kin_t5_config_parse(run->context, run->config, "config.json",
                                         KIN_UNKNOWN_KEYS_FAIL, &config)))
        return;
    kin_case_graph graph;
    if (!kin_case_begin(run, &graph)) return;
    kin_tensor ids = kin_case_feed_input(&graph, "input_ids", KIN_I32);
    kin_tensor lengths = kin_case_lengths(&graph, "attention_mask");
    kin_tensor out = kin_t5_encode(graph.graph, &config, &precision, ids, lengths, true);
    kin_case_watch_all(&graph, "hidden", config.num_layers);
    kin_case_output(&graph, "out", out);
    if (kin_case_wants_gradients(run))
        kin_case_gradients(&graph, kin_case_dot(&graph, out, "cotangent"));
    if (kin_case_prepare(&graph, kin_t5_rename, &config)) kin_case_run_and_compare(&graph);
    kin_case_end(&graph);
}

static bool vae_config(kin_case_run *run, kin_sd_vae_config *out_config) {
    return kin_case_ok(run, "config.json",
                       kin_sd_vae_config_parse(run->context, run->config, "config.json",
                                               KIN_UNKNOWN_KEYS_FAIL, out_config));
}

void kin_case_vae_encode(kin_case_run *run) {
    kin_sd_vae_config config;
    kin_case_graph graph;
    if (!vae_config(run, &config) || !kin_case_begin(run, &graph)) return;
    kin_graph *g = graph.graph;
    kin_tensor sample = kin_case_feed_input(&graph, "sample", KIN_F32), mean, logvar;
    kin_tensor out = kin_sd_vae_encode(g, &config, &precision, sample, true);
    kin_sd_vae_posterior(g, out, &mean, &logvar);
    kin_case_watch_all(&graph, "hidden", config.levels + 2);
    kin_case_output(&graph, "out", out);
    kin_case_output(&graph, "mean", mean);
    kin_case_output(&graph, "logvar", logvar);
    if (kin_case_wants_gradients(run))
        kin_case_gradients(&graph, kin_case_dot(&graph, out, "cotangent"));
    if (kin_case_prepare(&graph, kin_sd_vae_rename, &config)) kin_case_run_and_compare(&graph);
    kin_case_end(&graph);
}

void kin_case_vae_decode(kin_case_run *run) {
    kin_sd_vae_config config;
    kin_case_graph graph;
    if (!vae_config(run, &config) || !kin_case_begin(run, &graph)) return;
    kin_tensor latent = kin_case_feed_input(&graph, "latent", KIN_F32);
    kin_tensor out = kin_sd_vae_decode(graph.graph, &config, &precision, latent, true);
    kin_case_watch_all(&graph, "hidden", config.levels + 2);
    kin_case_output(&graph, "out", out);
    if (kin_case_wants_gradients(run))
        kin_case_gradients(&graph, kin_case_dot(&graph, out, "cotangent"));
    if (kin_case_prepare(&graph, kin_sd_vae_rename, &config)) kin_case_run_and_compare(&graph);
    kin_case_end(&graph);
}

void kin_case_vae_loss(kin_case_run *run) {
    kin_sd_vae_config config;
    kin_case_graph graph;
    if (!vae_config(run, &config) || !kin_case_begin(run, &graph)) return;
    double kl = kin_case_number(json_object_get(run->info, "call"), "kl_scale", 0);
    kin_sd_vae_loss_options options = {.l1 = 0, .l2 = 1, .kl = kl};
    kin_sd_vae_losses losses;
    kin_sd_vae_train(graph.graph, &config, &precision, &options,
                     kin_case_feed_input(&graph, "sample", KIN_F32),
                     kin_case_feed_input(&graph, "posterior_noise", KIN_F32), &losses);
    kin_case_output(&graph, "latent", losses.latent);
    kin_case_output(&graph, "reconstruction", losses.reconstruction);
    kin_case_output(&graph, "rec_l1", losses.rec_l1);
    kin_case_output(&graph, "rec_l2", losses.rec_l2);
    kin_case_output(&graph, "kl", losses.kl);
    kin_case_output(&graph, "out", losses.loss);
    kin_case_gradients(&graph, kin_case_dot(&graph, losses.loss, "cotangent"));
    if (kin_case_prepare(&graph, kin_sd_vae_rename, &config)) kin_case_run_and_compare(&graph);
    kin_case_end(&graph);
}
