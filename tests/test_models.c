/* The models as graphs: names, sizes, parameter counts, plans; the schedule; the loss and the steps
 * of the samplers against the published formulas in double.
 *
 * Tolerances, relative to the largest wanted value: 1e-5 for the loss and for sampler steps (f32
 * against double). Negative controls: a changed weight and a wrong number of guided channels must
 * miss the tolerance.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "models/diffusion.h"
#include "models/sd_vae.h"
#include "models/stdit.h"
#include "models/t5.h"
#include "ops/elementwise.h"
#include "ops/reduce.h"
#include "runtime/json.h"
#include "runtime/philox.h"
#include "runtime/weights.h"

static const double tolerance = 1e-5;
static const kin_precision f32 = {KIN_F32, KIN_F32};

/* A context with an open device and an empty graph. */
typedef struct bench {
    kin_context *context;
    kin_backends *backends;
    kin_device *device;
    kin_graph *graph;
    kin_store *store;
    kin_plan *plan;
} bench;

static bench bench_open(const char *device) {
    bench b = {0};
    assert_int_equal(kin_context_create(NULL, &b.context), KIN_OK);
    assert_int_equal(kin_backends_load(b.context, NULL, &b.backends), KIN_OK);
    assert_int_equal(kin_device_open(b.backends, device, &b.device), KIN_OK);
    assert_int_equal(kin_graph_create(b.context, &b.graph), KIN_OK);
    return b;
}

static void bench_close(bench *b) {
    kin_plan_free(b->plan);
    kin_store_free(b->store);
    kin_graph_destroy(b->graph);
    kin_device_close(b->device);
    kin_backends_free(b->backends);
    kin_context_destroy(b->context);
}

static void must(const bench *b, kin_status status) {
    if (status != KIN_OK) fail_msg("%s", kin_context_error(b->context));
}

static void bench_plan(bench *b) {
    must(b, kin_plan_build(b->graph, b->device, NULL, &b->plan));
}

static void bench_prepare(bench *b) {
    bench_plan(b);
    must(b, kin_store_create(b->device, &b->store));
    must(b, kin_store_add_graph(b->store, b->graph, 7));
    must(b, kin_plan_prepare(b->plan, b->store, NULL));
}

static double count_weights(kin_graph *g) {
    double total = 0;
    for (int i = 0; i < kin_variable_count(g); i++) {
        kin_tensor variable = kin_variable_at(g, i);
        if (kin_variable_kind_of(g, variable) == KIN_VARIABLE_WEIGHT)
            total += (double)kin_desc_count(kin_tensor_desc(g, variable));
    }
    return total;
}

static kin_stdit_config tiny_stdit(void) {
    kin_stdit_config c = kin_stdit_config_default();
    c.hidden_size = 24;
    c.depth = 2;
    c.num_heads = 2;
    c.caption_channels = 12;
    c.model_max_length = 6;
    return c;
}

static kin_sd_vae_config tiny_vae(void) {
    return (kin_sd_vae_config){.in_channels = 3,
                               .out_channels = 3,
                               .levels = 3,
                               .block_out_channels = {8, 8, 16},
                               .layers_per_block = 1,
                               .latent_channels = 4,
                               .norm_num_groups = 4,
                               .sample_size = 32,
                               .scaling_factor = 0.18215};
}

/* Latents of `sizes` frames, rows, columns, and captions of L tokens. */
static kin_tensor build_stdit(bench *b, const kin_stdit_config *c, const int64_t sizes[3],
                              int64_t batch, int64_t words, bool drop) {
    kin_graph *g = b->graph;
    kin_stdit_inputs in = {
        .x = kin_input(g, "x", KIN_F32, 5,
                       (int64_t[]){batch, c->in_channels, sizes[0], sizes[1], sizes[2]}),
        .timestep = kin_input(g, "timestep", KIN_F32, 1, &batch),
        .y = kin_input(g, "y", KIN_F32, 3, (int64_t[]){batch, words, c->caption_channels}),
        .y_lengths = kin_input(g, "lengths", KIN_I32, 1, &batch)};
    if (drop) in.drop = kin_input(g, "drop", KIN_F32, 1, &batch);
    kin_tensor out = kin_stdit(g, c, &f32, &in);
    must(b, kin_graph_status(g));
    return out;
}

static void test_parameter_counts(void **state) {
    (void)state;
    bench b = bench_open("null");
    kin_stdit_config xl;
    must(&b, kin_stdit_config_named(b.context, "STDiT-XL/2", &xl));
    build_stdit(&b, &xl, (int64_t[]){16, 32, 32}, 1, 120, true);
    assert_true(count_weights(b.graph) == 759620768);
    bench_close(&b);

    b = bench_open("null");
    kin_t5_config xxl;
    must(&b, kin_t5_config_named(b.context, "t5-v1_1-xxl", &xxl));
    kin_tensor ids = kin_input(b.graph, "ids", KIN_I32, 2, (int64_t[]){1, 120});
    kin_t5_encode(b.graph, &xxl, &f32, ids, KIN_NONE, false);
    must(&b, kin_graph_status(b.graph));
    assert_true(count_weights(b.graph) == 4762310656.0);
    bench_close(&b);

    b = bench_open("null");
    kin_sd_vae_config vae = kin_sd_vae_config_default();
    kin_tensor images = kin_input(b.graph, "images", KIN_F32, 4, (int64_t[]){1, 3, 64, 64});
    kin_tensor moments = kin_sd_vae_encode(b.graph, &vae, &f32, images, false), mean, logvar;
    kin_sd_vae_posterior(b.graph, moments, &mean, &logvar);
    kin_sd_vae_decode(b.graph, &vae, &f32, mean, false);
    must(&b, kin_graph_status(b.graph));
    assert_true(count_weights(b.graph) == 83653863);
    bench_close(&b);
}

static void expect_shape(kin_graph *g, kin_tensor x, const char *want) {
    char text[96];
    assert_string_equal(kin_desc_shape_text(kin_tensor_desc(g, x), text, sizeof text), want);
}

static void test_shapes(void **state) {
    (void)state;
    bench b = bench_open("null");
    kin_stdit_config c = tiny_stdit();
    c.pred_sigma = true;
    /* Odd sizes are padded to whole patches and cropped again. */
    kin_tensor out = build_stdit(&b, &c, (int64_t[]){3, 5, 7}, 2, 4, true);
    expect_shape(b.graph, out, "[2, 8, 3, 5, 7]");
    bench_close(&b);

    b = bench_open("null");
    kin_sd_vae_config vae = tiny_vae();
    kin_tensor images = kin_input(b.graph, "images", KIN_F32, 4, (int64_t[]){2, 3, 32, 16});
    kin_tensor moments = kin_sd_vae_encode(b.graph, &vae, &f32, images, false), mean, logvar;
    expect_shape(b.graph, moments, "[2, 8, 8, 4]");
    kin_sd_vae_posterior(b.graph, moments, &mean, &logvar);
    kin_tensor back = kin_sd_vae_decode(b.graph, &vae, &f32, mean, false);
    expect_shape(b.graph, back, "[2, 3, 32, 16]");
    must(&b, kin_graph_status(b.graph));
    bench_close(&b);

    b = bench_open("null");
    kin_tensor x = kin_input(b.graph, "x", KIN_F32, 5, (int64_t[]){1, 3, 2, 4, 4});
    kin_stdit_inputs in = {.x = x, .y = x, .timestep = x};
    kin_stdit(b.graph, &c, &f32, &in); /* three channels, not four */
    assert_int_equal(kin_graph_status(b.graph), KIN_INVALID);
    assert_non_null(strstr(kin_context_error(b.context), "[1, 3, 2, 4, 4]"));
    bench_close(&b);
}

static void test_training_plans(void **state) {
    (void)state;
    bench b = bench_open("null");
    kin_stdit_config c = tiny_stdit();
    kin_tensor out = build_stdit(&b, &c, (int64_t[]){2, 4, 4}, 2, 4, true);
    kin_tensor loss = kin_mean_all(b.graph, kin_square(b.graph, out));
    kin_backward(b.graph, loss);
    kin_output(b.graph, "loss", loss);
    int trained = 0;
    for (int i = 0; i < kin_variable_count(b.graph); i++) {
        kin_tensor variable = kin_variable_at(b.graph, i);
        kin_tensor gradient = kin_gradient(b.graph, variable);
        bool weight = kin_variable_kind_of(b.graph, variable) == KIN_VARIABLE_WEIGHT;
        if (weight != (gradient.id != 0))
            fail_msg("%s: %s", kin_variable_name(b.graph, variable),
                     weight ? "has no gradient" : "has a gradient");
        if (!weight) continue;
        char name[160];
        snprintf(name, sizeof name, "grad.%d", trained++);
        kin_output(b.graph, name, gradient);
    }
    bench_plan(&b);
    const kin_plan_summary *summary = kin_plan_summarize(b.plan);
    assert_int_equal(summary->segments, c.depth);
    assert_true(summary->weights > 0 && summary->activations > 0);
    bench_close(&b);

    b = bench_open("null");
    kin_sd_vae_config vae = tiny_vae();
    kin_sd_vae_losses losses;
    kin_sd_vae_loss_options options = {.l1 = 1, .kl = 1e-6};
    kin_sd_vae_train(b.graph, &vae, &f32, &options,
                     kin_input(b.graph, "images", KIN_F32, 4, (int64_t[]){2, 3, 16, 16}),
                     kin_input(b.graph, "noise", KIN_F32, 4, (int64_t[]){2, 4, 4, 4}), &losses);
    kin_backward(b.graph, losses.loss);
    kin_output(b.graph, "loss", losses.loss);
    bench_plan(&b);
    assert_true(kin_plan_summarize(b.plan)->segments > 0);
    bench_close(&b);
}

static void test_half_precision_builds(void **state) {
    (void)state;
    bench b = bench_open("null");
    kin_precision mixed = {.weights = KIN_F32, .compute = KIN_BF16};
    kin_stdit_config c = tiny_stdit();
    kin_graph *g = b.graph;
    kin_stdit_inputs in = {
        .x = kin_input(g, "x", KIN_F32, 5, (int64_t[]){1, 4, 2, 4, 4}),
        .timestep = kin_input(g, "timestep", KIN_F32, 1, (int64_t[]){1}),
        .y = kin_input(g, "y", KIN_F32, 3, (int64_t[]){1, 6, c.caption_channels})};
    kin_tensor out = kin_stdit(g, &c, &mixed, &in);
    assert_int_equal(kin_dtype_of(g, out), KIN_F32);
    kin_backward(g, kin_mean_all(g, kin_square(g, out)));
    must(&b, kin_graph_status(g));
    for (int i = 0; i < kin_variable_count(g); i++)
        assert_int_equal(kin_dtype_of(g, kin_gradient(g, kin_variable_at(g, i))), KIN_F32);
    bench_close(&b);
}

static void test_freezing(void **state) {
    (void)state;
    bench b = bench_open("null");
    kin_stdit_config c = tiny_stdit();
    c.freeze = KIN_STDIT_FREEZE_NOT_TEMPORAL;
    kin_tensor out = build_stdit(&b, &c, (int64_t[]){2, 4, 4}, 1, 4, false);
    kin_backward(b.graph, kin_mean_all(b.graph, kin_square(b.graph, out)));
    must(&b, kin_graph_status(b.graph));
    for (int i = 0; i < kin_variable_count(b.graph); i++) {
        kin_tensor variable = kin_variable_at(b.graph, i);
        bool temporal = strstr(kin_variable_name(b.graph, variable), "attn_temp") != NULL;
        assert_int_equal(kin_gradient(b.graph, variable).id != 0, temporal);
    }
    bench_close(&b);
}

static void expect_name(kin_weights_rename rename, const void *config, const char *from,
                        const char *to) {
    char name[256] = "";
    bool kept = rename(config, from, name, sizeof name);
    assert_int_equal(kept, to != NULL);
    if (to) assert_string_equal(name, to);
}

static void test_names(void **state) {
    (void)state;
    kin_sd_vae_config vae = kin_sd_vae_config_default();
    static const char *const pairs[][2] = {
        {"encoder.conv_in.weight", "encoder.conv_in.weight"},
        {"encoder.mid_block.attentions.0.to_q.bias", "encoder.mid_block.attentions.0.to_q.bias"},
        {"encoder.mid_block.attentions.0.query.bias", "encoder.mid_block.attentions.0.to_q.bias"},
        {"decoder.mid_block.attentions.0.proj_attn.weight",
         "decoder.mid_block.attentions.0.to_out.0.weight"},
        {"first_stage_model.encoder.down.1.block.0.nin_shortcut.weight",
         "encoder.down_blocks.1.resnets.0.conv_shortcut.weight"},
        {"encoder.down.0.downsample.conv.bias", "encoder.down_blocks.0.downsamplers.0.conv.bias"},
        {"decoder.up.0.block.2.norm1.weight", "decoder.up_blocks.3.resnets.2.norm1.weight"},
        {"decoder.up.3.upsample.conv.weight", "decoder.up_blocks.0.upsamplers.0.conv.weight"},
        {"decoder.mid.block_2.conv1.bias", "decoder.mid_block.resnets.1.conv1.bias"},
        {"decoder.mid.attn_1.norm.bias", "decoder.mid_block.attentions.0.group_norm.bias"},
        {"encoder.norm_out.weight", "encoder.conv_norm_out.weight"},
        {"first_stage_model.quant_conv.weight", "quant_conv.weight"},
        {"something.else", "something.else"},
        {"loss.discriminator.main.0.weight", NULL},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        expect_name(kin_sd_vae_rename, &vae, pairs[i][0], pairs[i][1]);
    expect_name(kin_t5_rename, NULL, "encoder.embed_tokens.weight", "shared.weight");
    expect_name(kin_t5_rename, NULL, "encoder.final_layer_norm.weight",
                "encoder.final_layer_norm.weight");
    expect_name(kin_t5_rename, NULL, "decoder.block.0.layer.0.layer_norm.weight", NULL);
    expect_name(kin_t5_rename, NULL, "lm_head.weight", NULL);
    assert_string_equal(kin_t5_aliases("shared.weight")[1], "encoder.embed_tokens.weight");
    assert_null(kin_t5_aliases("encoder.final_layer_norm.weight")[0]);
    expect_name(kin_stdit_rename, NULL, "pos_embed_temporal", NULL);
    expect_name(kin_stdit_rename, NULL, "y_embedder.y_embedding", "y_embedder.y_embedding");
}

static kin_status parse_stdit(kin_context *context, const char *text, kin_stdit_config *config) {
    json_t *json;
    assert_int_equal(kin_json_parse(context, "config.json", text, strlen(text), &json), KIN_OK);
    kin_status status =
        kin_stdit_config_parse(context, json, "config.json", KIN_UNKNOWN_KEYS_FAIL, config);
    json_decref(json);
    return status;
}

static void test_configs(void **state) {
    (void)state;
    bench b = bench_open("null");
    kin_stdit_config c = {0};
    must(&b, parse_stdit(b.context,
                         "{\"type\": \"STDiT-B/2\", \"depth\": 3, \"input_size\": [null, 8, 8], "
                         "\"freeze\": \"text\", \"space_scale\": 0.5}",
                         &c));
    assert_int_equal(c.hidden_size, 768);
    assert_int_equal(c.depth, 3);
    assert_int_equal(c.input_size[0], 0);
    assert_int_equal(c.input_size[2], 8);
    assert_int_equal(c.freeze, KIN_STDIT_FREEZE_TEXT);
    assert_int_equal(parse_stdit(b.context, "{\"dept\": 3}", &c), KIN_INVALID);
    assert_non_null(strstr(kin_context_error(b.context), "depth"));
    assert_int_equal(parse_stdit(b.context, "{\"num_heads\": 5}", &c), KIN_INVALID);
    assert_int_equal(parse_stdit(b.context, "{\"patch_size\": [1, 2]}", &c), KIN_INVALID);
    assert_int_equal(parse_stdit(b.context, "{\"depth\": 1e30}", &c), KIN_INVALID);
    assert_int_equal(parse_stdit(b.context, "{\"mlp_ratio\": 1e300}", &c), KIN_INVALID);
    assert_int_equal(kin_stdit_config_named(b.context, "STDiT-XXL", &c), KIN_NOT_FOUND);
    kin_sd_vae_config vae = tiny_vae();
    vae.norm_num_groups = 3;
    assert_int_equal(kin_sd_vae_config_check(b.context, &vae), KIN_INVALID);
    kin_t5_config t5;
    must(&b, kin_t5_config_named(b.context, "t5-v1_1-small", &t5));
    t5.relative_attention_num_buckets = 30;
    assert_int_equal(kin_t5_config_check(b.context, &t5), KIN_INVALID);
    bench_close(&b);
}

static void test_t5_buckets(void **state) {
    (void)state;
    bench b = bench_open("null");
    kin_t5_config t5;
    must(&b, kin_t5_config_named(b.context, "t5-v1_1-xxl", &t5));
    /* The first distance of each bucket, as the original's logarithm in float32 gives it. */
    static const int first[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91};
    for (int bucket = 0; bucket < 16; bucket++) {
        assert_int_equal(kin_t5_bucket(&t5, -first[bucket]), bucket);
        if (bucket > 0) {
            assert_int_equal(kin_t5_bucket(&t5, 1 - first[bucket]), bucket - 1);
            assert_int_equal(kin_t5_bucket(&t5, first[bucket]), 16 + bucket);
        }
    }
    assert_int_equal(kin_t5_bucket(&t5, 100000), 31);
    bench_close(&b);
}

static void expect_steps(kin_context *context, const char *respacing, int count, const int *steps,
                         int known) {
    kin_schedule *s;
    assert_int_equal(kin_schedule_create(context, 1000, respacing, &s), KIN_OK);
    assert_int_equal(s->steps, count);
    for (int i = 0; i < known; i++) assert_int_equal(s->timesteps[i], steps[i]);
    for (int i = 1; i < count; i++) assert_true(s->timesteps[i] > s->timesteps[i - 1]);
    kin_schedule_free(s);
}

static void test_schedule(void **state) {
    (void)state;
    bench b = bench_open("null");
    expect_steps(b.context, "", 1000, (int[]){0, 1, 2}, 3);
    expect_steps(b.context, "100", 100, (int[]){0, 10, 20, 30, 40, 50, 61}, 7);
    expect_steps(b.context, "10", 10, (int[]){0, 111, 222, 333, 444, 555, 666, 777, 888, 999}, 10);
    expect_steps(b.context, "ddim50", 50, (int[]){0, 20, 40, 60}, 4);
    expect_steps(b.context, "2,1,3", 6, (int[]){0, 333, 334, 667, 833, 999}, 6);
    expect_steps(b.context, "1", 1, (int[]){0}, 1);
    static const char *const bad[] = {"0",    "1001", "ddim",    "ddim999",  "ten", "10,",
                                      "5,,5", "-3",   "600,600", "ddim10,5", "10 "};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        kin_schedule *s;
        if (kin_schedule_create(b.context, 1000, bad[i], &s) != KIN_INVALID)
            fail_msg("'%s' was taken for a schedule", bad[i]);
    }
    kin_schedule *s;
    must(&b, kin_schedule_create(b.context, 1000, NULL, &s));
    assert_true(fabs(s->betas[0] - 1e-4) < 1e-12 && fabs(s->betas[999] - 0.02) < 1e-12);
    assert_true(fabs(s->alphas_cumprod[999] - 4.035829765375e-5) < 1e-12);
    assert_true(s->posterior_variance[0] == 0);
    assert_true(s->posterior_log_variance_clipped[0] == s->posterior_log_variance_clipped[1]);
    assert_true(fabs(s->posterior_mean_coef1[0] - 1) < 1e-12 && s->posterior_mean_coef2[0] == 0);
    kin_schedule_free(s);
    bench_close(&b);
}

enum { BATCH = 4, CHANNELS = 4, SITES = 24, ELEMENTS = CHANNELS * SITES };

static float *normals(uint32_t stream, size_t count, double scale) {
    float *values = malloc(count * sizeof *values);
    assert_non_null(values);
    kin_philox_fill_normal(11, stream, 0, 0, count, values);
    for (size_t i = 0; i < count; i++) values[i] *= (float)scale;
    return values;
}

static double cdf(double x) {
    return 0.5 * (1 + tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x)));
}

/* One element of the bound, in bits, written as the formulas are published. */
static double bound(const kin_schedule *s, int t, double x0, double noise, double eps, double v) {
    double x_t = s->sqrt_alphas_cumprod[t] * x0 + s->sqrt_one_minus_alphas_cumprod[t] * noise;
    double f = (v + 1) / 2;
    double logvar = f * log(s->betas[t]) + (1 - f) * s->posterior_log_variance_clipped[t];
    double guess = s->sqrt_recip_alphas_cumprod[t] * x_t - s->sqrt_recipm1_alphas_cumprod[t] * eps;
    double mean = s->posterior_mean_coef1[t] * guess + s->posterior_mean_coef2[t] * x_t;
    double truth = s->posterior_mean_coef1[t] * x0 + s->posterior_mean_coef2[t] * x_t;
    if (t > 0) {
        double low = s->posterior_log_variance_clipped[t], d = truth - mean;
        return 0.5 * (logvar - low - 1 + exp(low - logvar) + d * d * exp(-logvar)) / log(2);
    }
    double scale = exp(-0.5 * logvar);
    double above = cdf(scale * (x0 - mean + 1.0 / 255)),
           below = cdf(scale * (x0 - mean - 1.0 / 255));
    double p = x0 < -0.999 ? above : x0 > 0.999 ? 1 - below : above - below;
    return -log(p > 1e-12 ? p : 1e-12) / log(2);
}

static void test_training_loss(void **state) {
    (void)state;
    bench b = bench_open("cpu");
    kin_graph *g = b.graph;
    kin_schedule *s;
    must(&b, kin_schedule_create(b.context, 1000, "", &s));
    int64_t dims[] = {BATCH, CHANNELS, 2, 3, 4}, out_dims[] = {BATCH, 2 * CHANNELS, 2, 3, 4};
    int64_t batch = BATCH;
    kin_diffusion_losses losses;
    kin_tensor out = kin_input(g, "out", KIN_F32, 5, out_dims);
    kin_tensor t = kin_input(g, "t", KIN_I32, 1, &batch);
    kin_diffusion_loss(g, s, kin_input(g, "x0", KIN_F32, 5, dims),
                       kin_input(g, "noise", KIN_F32, 5, dims), t, out, &losses);
    kin_want_gradient(g, out);
    kin_backward(g, kin_sum_all(g, losses.vb));
    kin_output(g, "mse", losses.mse);
    kin_output(g, "vb", losses.vb);
    kin_output(g, "gradient", kin_gradient(g, out));
    bench_prepare(&b);
    float *x0 = normals(0, BATCH * ELEMENTS, 0.8), *noise = normals(1, BATCH * ELEMENTS, 1);
    float *model = normals(2, 2 * BATCH * ELEMENTS, 0.5);
    int32_t steps[BATCH] = {0, 1, 500, 999};
    must(&b, kin_plan_write(b.plan, "x0", KIN_F32, x0));
    must(&b, kin_plan_write(b.plan, "noise", KIN_F32, noise));
    must(&b, kin_plan_write(b.plan, "out", KIN_F32, model));
    must(&b, kin_plan_write(b.plan, "t", KIN_I32, steps));
    must(&b, kin_plan_run(b.plan));
    float mse[BATCH], vb[BATCH], gradient[2 * BATCH * ELEMENTS];
    must(&b, kin_plan_read(b.plan, "mse", KIN_F32, mse));
    must(&b, kin_plan_read(b.plan, "vb", KIN_F32, vb));
    must(&b, kin_plan_read(b.plan, "gradient", KIN_F32, gradient));
    for (int i = 0; i < BATCH; i++) {
        double want_mse = 0, want_vb = 0;
        for (int k = 0; k < ELEMENTS; k++) {
            double eps = model[2 * ELEMENTS * i + k], v = model[2 * ELEMENTS * i + ELEMENTS + k];
            double e = noise[ELEMENTS * i + k];
            want_mse += (e - eps) * (e - eps) / ELEMENTS;
            want_vb += bound(s, steps[i], x0[ELEMENTS * i + k], e, eps, v) / ELEMENTS;
            /* The mean is detached: the bound trains nothing but v. */
            assert_true(gradient[2 * ELEMENTS * i + k] == 0);
        }
        assert_true(fabs(mse[i] - want_mse) <= tolerance * fabs(want_mse));
        assert_true(fabs(vb[i] - want_vb) <= 10 * tolerance * fabs(want_vb));
        assert_true(gradient[2 * ELEMENTS * i + ELEMENTS] != 0);
    }
    free(x0);
    free(noise);
    free(model);
    kin_schedule_free(s);
    bench_close(&b);
}

/* The largest gap to `want`, relative to its largest value. */
static double gap(const float *got, const double *want, size_t count) {
    double worst = 0, largest = 0;
    for (size_t i = 0; i < count; i++) {
        worst = fmax(worst, fabs(got[i] - want[i]));
        largest = fmax(largest, fabs(want[i]));
    }
    return worst / largest;
}

/* One element of a step, as the formulas are published. */
static double sampled(const kin_schedule *s, const kin_sampler_options *o, int t, double x,
                      double eps, double v, double noise) {
    double guess = s->sqrt_recip_alphas_cumprod[t] * x - s->sqrt_recipm1_alphas_cumprod[t] * eps;
    if (o->method == KIN_SAMPLER_IDDPM) {
        double f = (v + 1) / 2;
        double logvar = f * log(s->betas[t]) + (1 - f) * s->posterior_log_variance_clipped[t];
        return s->posterior_mean_coef1[t] * guess + s->posterior_mean_coef2[t] * x +
               (t > 0 ? exp(0.5 * logvar) * noise : 0);
    }
    double a = s->alphas_cumprod[t], before = s->alphas_cumprod_prev[t];
    double sigma = o->eta * sqrt((1 - before) / (1 - a)) * sqrt(1 - a / before);
    return sqrt(before) * guess + sqrt(1 - before - sigma * sigma) * eps +
           (t > 0 ? sigma * noise : 0);
}

static double step_gap(const kin_sampler_options *options, int step, int wanted_guided) {
    bench b = bench_open("cpu");
    kin_graph *g = b.graph;
    kin_schedule *s;
    must(&b, kin_schedule_create(b.context, 1000, "10", &s));
    int64_t dims[] = {1, CHANNELS, 2, 3, 4}, two[] = {2, 2 * CHANNELS, 2, 3, 4}, one = 1;
    kin_tensor noise = KIN_NONE, x = kin_input(g, "x", KIN_F32, 5, dims);
    if (kin_sampler_needs_noise(options)) noise = kin_input(g, "noise", KIN_F32, 5, dims);
    kin_tensor out = kin_sampler_guide(g, options, kin_input(g, "out", KIN_F32, 5, two), CHANNELS);
    kin_tensor index = kin_input(g, "step", KIN_I32, 1, &one);
    kin_output(g, "next", kin_sampler_step(g, s, options, x, out, index, noise));
    bench_prepare(&b);
    float *start = normals(3, ELEMENTS, 1), *draw = normals(4, ELEMENTS, 1);
    float *model = normals(5, 4 * ELEMENTS, 0.7), next[ELEMENTS];
    int32_t step32 = step;
    must(&b, kin_plan_write(b.plan, "x", KIN_F32, start));
    must(&b, kin_plan_write(b.plan, "step", KIN_I32, &step32));
    if (noise.id) must(&b, kin_plan_write(b.plan, "noise", KIN_F32, draw));
    must(&b, kin_plan_write(b.plan, "out", KIN_F32, model));
    must(&b, kin_plan_run(b.plan));
    must(&b, kin_plan_read(b.plan, "next", KIN_F32, next));
    double want[ELEMENTS];
    for (int k = 0; k < ELEMENTS; k++) {
        double cond = model[k], uncond = model[2 * ELEMENTS + k];
        bool guided = k / SITES < wanted_guided;
        double eps = guided ? uncond + options->cfg_scale * (cond - uncond) : cond;
        want[k] = sampled(s, options, step, start[k], eps, model[ELEMENTS + k], draw[k]);
    }
    double result = gap(next, want, ELEMENTS);
    free(start);
    free(draw);
    free(model);
    kin_schedule_free(s);
    bench_close(&b);
    return result;
}

static void test_sampler_steps(void **state) {
    (void)state;
    kin_sampler_options options = {KIN_SAMPLER_IDDPM, .cfg_scale = 7, .cfg_channels = 3};
    for (int step = 0; step < 10; step += 3) assert_true(step_gap(&options, step, 3) <= tolerance);
    assert_true(step_gap(&options, 5, 4) > 100 * tolerance); /* negative control */
    options.cfg_channels = 0;
    assert_true(step_gap(&options, 5, 4) <= tolerance);
    options.method = KIN_SAMPLER_DDIM;
    for (int step = 0; step < 10; step += 3) assert_true(step_gap(&options, step, 4) <= tolerance);
    options.eta = 1;
    assert_true(step_gap(&options, 0, 4) <= tolerance);
    assert_true(step_gap(&options, 6, 4) <= tolerance);
}

static void run_model(bench *b, float *out) {
    must(b, kin_plan_run(b->plan));
    must(b, kin_plan_read(b->plan, "out", KIN_F32, out));
}

static void test_changed_weight_shows(void **state) {
    (void)state;
    bench b = bench_open("cpu");
    kin_stdit_config c = tiny_stdit();
    enum { COUNT = 2 * 8 * 2 * 4 * 4 };
    kin_output(b.graph, "out", build_stdit(&b, &c, (int64_t[]){2, 4, 4}, 2, 4, true));
    bench_prepare(&b);
    /* Layers that start at zero would hide those before them. */
    for (size_t i = 0; i < kin_store_count(b.store); i++) {
        kin_store_entry *entry = kin_store_at(b.store, i);
        float *values = normals((uint32_t)i, (size_t)kin_desc_count(&entry->desc), 0.2);
        must(&b, kin_store_write(b.store, entry->name, KIN_F32, values));
        free(values);
    }
    float *x = normals(100, COUNT / 2, 1), *y = normals(101, 2 * 4 * 12, 1);
    must(&b, kin_plan_write(b.plan, "x", KIN_F32, x));
    must(&b, kin_plan_write(b.plan, "y", KIN_F32, y));
    must(&b, kin_plan_write(b.plan, "timestep", KIN_F32, (float[]){3, 700}));
    must(&b, kin_plan_write(b.plan, "lengths", KIN_I32, (int32_t[]){4, 2}));
    must(&b, kin_plan_write(b.plan, "drop", KIN_F32, (float[]){0, 1}));
    float first[COUNT], second[COUNT];
    double want[COUNT];
    run_model(&b, first);
    run_model(&b, second);
    assert_memory_equal(first, second, sizeof first);
    for (int i = 0; i < COUNT; i++) want[i] = first[i];

    /* The dropped caption of sample 1 must not matter, that of sample 0 must. */
    y[4 * 12 + 5] += 1;
    must(&b, kin_plan_write(b.plan, "y", KIN_F32, y));
    run_model(&b, second);
    assert_memory_equal(first, second, sizeof first);
    y[5] += 1;
    must(&b, kin_plan_write(b.plan, "y", KIN_F32, y));
    run_model(&b, second);
    assert_true(gap(second, want, COUNT / 2) > tolerance);
    assert_memory_equal(first + COUNT / 2, second + COUNT / 2, sizeof first / 2);
    y[5] -= 1;
    must(&b, kin_plan_write(b.plan, "y", KIN_F32, y));

    for (size_t i = 0; i < kin_store_count(b.store); i++) {
        kin_store_entry *entry = kin_store_at(b.store, i);
        size_t count = (size_t)kin_desc_count(&entry->desc);
        float *values = malloc(count * sizeof *values);
        must(&b, kin_store_read(b.store, entry->name, KIN_F32, values));
        for (size_t k = 0; k < count; k++) values[k] *= 1.1f;
        must(&b, kin_store_write(b.store, entry->name, KIN_F32, values));
        run_model(&b, second);
        if (gap(second, want, COUNT) <= tolerance)
            fail_msg("%s can be changed unnoticed", entry->name);
        for (size_t k = 0; k < count; k++) values[k] /= 1.1f;
        must(&b, kin_store_write(b.store, entry->name, KIN_F32, values));
        free(values);
    }
    free(x);
    free(y);
    bench_close(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parameter_counts), cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_training_plans),   cmocka_unit_test(test_half_precision_builds),
        cmocka_unit_test(test_freezing),         cmocka_unit_test(test_names),
        cmocka_unit_test(test_configs),          cmocka_unit_test(test_t5_buckets),
        cmocka_unit_test(test_schedule),         cmocka_unit_test(test_training_loss),
        cmocka_unit_test(test_sampler_steps),    cmocka_unit_test(test_changed_weight_shows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
