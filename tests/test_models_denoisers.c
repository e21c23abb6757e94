/* STDiT2, PixArt, Latte and the temporal decoder where the reference cases do not reach: published
 * sizes, configurations and names; what must be refused. Nothing is computed, so there is no
 * tolerance but that of the schedule's tables: 1e-7.
 */
#include "tests/denoiser_helper.h"

#include "models/diffusion_masked.h"
#include "models/vae_temporal.h"
#include "runtime/json.h"
#include "runtime/weights.h"

static double count_weights(kin_graph *g) {
    double total = 0;
    for (int i = 0; i < kin_variable_count(g); i++) {
        kin_tensor variable = kin_variable_at(g, i);
        if (kin_variable_kind_of(g, variable) == KIN_VARIABLE_WEIGHT)
            total += (double)kin_desc_count(kin_tensor_desc(g, variable));
    }
    return total;
}

/* ---- published sizes ---- */

static void test_published_sizes(void **state) {
    (void)state;
    static const struct {
        const char *name;
        double parameters;
    } sizes[] = {{"STDiT2-XL/2", 767452064},
                 {"PixArt-XL-2-256x256", 610856096},
                 {"PixArt-XL-2-512x512", 610856096},
                 {"PixArt-XL-2-1024-MS", 611349152},
                 {"Latte-1", 1057246880},
                 {"OpenSoraT2V-ROPE-L/122", 2771907856},
                 {"OpenSoraT2V-ROPE-L/122-480p", 2771907856}};
    size_t found = 0;
    bench b = bench_open("null");
    for (int i = 0; i < kin_denoiser_named_count(); i++) {
        const char *name;
        kin_denoiser_config config;
        assert_true(kin_denoiser_named_at(b.context, i, &name, &config));
        for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
            if (strcmp(name, sizes[k].name) != 0) continue;
            bench one = bench_open("null");
            kin_graph *g = one.graph;
            kin_denoiser_shape shape = kin_denoiser_shape_of(&config);
            int64_t batch = 1, frames = shape.pictures ? 1 : 16;
            kin_denoiser_inputs in = {
                .x = kin_input(g, "x", KIN_F32, 5, (int64_t[]){1, 4, frames, 64, 64}),
                .timestep = kin_input(g, "timestep", KIN_F32, 1, &batch),
                .y = kin_input(g, "y", KIN_F32, 3,
                               (int64_t[]){1, shape.text_length, shape.caption_channels}),
                .y_lengths = kin_input(g, "lengths", KIN_I32, 1, &batch)};
            kin_output(g, "out", kin_denoiser(g, &config, &f32, &in));
            must(&one, kin_graph_status(g));
            assert_true(count_weights(g) == sizes[k].parameters);
            bench_plan(&one);
            assert_int_equal(kin_plan_summarize(one.plan)->kernels_missing, 0);
            bench_close(&one);
            found++;
        }
    }
    assert_int_equal(found, sizeof sizes / sizeof *sizes);
    const char *name;
    kin_denoiser_config config;
    assert_false(kin_denoiser_named_at(b.context, kin_denoiser_named_count(), &name, &config));
    bench_close(&b);
}

static void test_temporal_vae_size(void **state) {
    (void)state;
    bench b = bench_open("null");
    kin_graph *g = b.graph;
    kin_sd_vae_config vae = kin_sd_vae_config_default();
    kin_tensor latents = kin_input(g, "latents", KIN_F32, 4, (int64_t[]){14, 4, 64, 64});
    kin_tensor images = kin_input(g, "images", KIN_F32, 4, (int64_t[]){1, 3, 64, 64});
    kin_tensor out = kin_vae_temporal_decode(g, &vae, &f32, latents, KIN_VAE_TEMPORAL_CHUNK, false);
    assert_int_equal(kin_dim(g, out, 0), 14);
    assert_int_equal(kin_dim(g, out, 2), 512);
    kin_output(g, "out", out);
    kin_output(g, "moments", kin_sd_vae_encode(g, &vae, &f32, images, false));
    must(&b, kin_graph_status(g));
    assert_true(count_weights(g) == 97742847); /* Stable Video Diffusion's */
    bench_plan(&b);
    bench_close(&b);

    b = bench_open("null");
    latents = kin_input(b.graph, "latents", KIN_F32, 4, (int64_t[]){5, 4, 8, 8});
    kin_vae_temporal_decode(b.graph, &vae, &f32, latents, 3, false); /* 5 is no multiple of 3 */
    assert_int_equal(kin_graph_status(b.graph), KIN_INVALID);
    bench_close(&b);
}

/* ---- configurations ---- */

static kin_status parse(kin_context *context, const char *text, kin_denoiser_config *config) {
    json_t *json;
    assert_int_equal(kin_json_parse(context, "config.json", text, strlen(text), &json), KIN_OK);
    kin_status status =
        kin_denoiser_config_parse(context, json, "config.json", KIN_UNKNOWN_KEYS_FAIL, config);
    json_decref(json);
    return status;
}

static void expect_error(kin_context *context, const char *text, kin_status status,
                         const char *part) {
    kin_denoiser_config c;
    assert_int_equal(parse(context, text, &c), status);
    if (!strstr(kin_context_error(context), part))
        fail_msg("\"%s\" does not say \"%s\"", kin_context_error(context), part);
}

static void test_configs(void **state) {
    (void)state;
    bench b = bench_open("null");
    kin_denoiser_config c;
    must(&b, parse(b.context,
                   "{\"model_type\": \"STDiT2\", \"input_sq_size\": 512, \"qk_norm\": true, "
                   "\"qk_norm_legacy\": true, \"model_max_length\": 200, \"depth\": 3}",
                   &c));
    assert_int_equal(c.kind, KIN_DENOISER_STDIT2);
    assert_true(c.stdit2.qk_norm);
    assert_int_equal(c.stdit2.input_sq_size, 512);
    assert_int_equal(c.stdit2.common.depth, 3);
    assert_int_equal(kin_denoiser_shape_of(&c).text_length, 200);
    must(&b, parse(b.context, "{\"type\": \"STDiT2-B/2\"}", &c));
    assert_int_equal(c.stdit2.common.hidden_size, 768);
    assert_int_equal(c.stdit2.input_sq_size, 32); /* the class's, not the published one */
    assert_false(c.stdit2.qk_norm);
    must(&b, parse(b.context, "{\"type\": \"STDiT-B/2\"}", &c));
    assert_int_equal(c.kind, KIN_DENOISER_STDIT);
    must(&b, parse(b.context, "{\"_class_name\": \"LatteTransformer3DModel\"}", &c));
    assert_int_equal(c.kind, KIN_DENOISER_LATTE);
    assert_int_equal(c.pixart.video_length, 16);
    must(&b, parse(b.context,
                   "{\"_class_name\": \"Transformer2DModel\", \"norm_type\": \"ada_norm_single\", "
                   "\"sample_size\": 128, \"out_channels\": null}",
                   &c));
    assert_int_equal(c.kind, KIN_DENOISER_PIXART);
    assert_true(c.pixart.use_additional_conditions);
    assert_true(c.pixart.interpolation_scale == 2);
    assert_int_equal(c.pixart.out_channels, 4);

    must(&b, parse(b.context, "{\"interpolation_scale_t\": 1, \"attention_head_dim\": 24}", &c));
    assert_int_equal(c.kind, KIN_DENOISER_OPENSORA_PLAN);
    assert_int_equal(kin_denoiser_shape_of(&c).text_length, 512);
    must(&b, parse(b.context, "{\"_class_name\": \"OpenSoraT2V\", \"patch_size_t\": 2}", &c));
    assert_int_equal(c.kind, KIN_DENOISER_OPENSORA_PLAN);
    assert_int_equal(kin_denoiser_shape_of(&c).frame_multiple, 2);

    expect_error(b.context, "{\"model_type\": \"STDiT2\", \"qk_nrom\": true}", KIN_INVALID,
                 "qk_norm");
    expect_error(b.context, "{\"model_type\": \"STDiT2\", \"hidden_size\": 40, \"num_heads\": 4}",
                 KIN_INVALID, "multiple of 3");
    expect_error(b.context,
                 "{\"model_type\": \"STDiT2\", \"qk_norm\": true, \"qk_norm_legacy\": false}",
                 KIN_UNSUPPORTED, "qk_norm_legacy");
    expect_error(b.context, "{\"model_type\": \"STDiT2\", \"space_scale\": 2}", KIN_INVALID,
                 "space_scale");
    expect_error(b.context, "{\"attention_head_dims\": 72, \"_class_name\": \"PixArt\"}",
                 KIN_INVALID, "attention_head_dim");
    expect_error(b.context, "{\"attention_head_dim\": 72, \"activation_fn\": \"geglu\"}",
                 KIN_UNSUPPORTED, "geglu");
    expect_error(b.context, "{\"attention_head_dim\": 72, \"attention_bias\": false}",
                 KIN_UNSUPPORTED, "attention_bias");
    expect_error(b.context, "{\"attention_head_dim\": 72, \"cross_attention_dim\": 64}",
                 KIN_UNSUPPORTED, "cross_attention_dim");
    expect_error(b.context, "{\"_class_name\": \"Latte\", \"interpolation_scale\": 2}", KIN_INVALID,
                 "interpolation_scale");
    kin_stdit2_config stdit2;
    kin_pixart_config pixart;
    assert_int_equal(kin_stdit2_config_named(b.context, "STDiT-XL/2", &stdit2), KIN_NOT_FOUND);
    assert_int_equal(kin_pixart_config_named(b.context, "PixArt", &pixart), KIN_NOT_FOUND);
    bench_close(&b);
}

/* What is written reads back as it was, key by key, and complains of none of its own keys. */
static void test_configs_round_trip(void **state) {
    (void)state;
    bench b = bench_open("null");
    for (int i = 0; i < kin_denoiser_named_count(); i++) {
        const char *name;
        kin_denoiser_config config, back;
        json_t *json, *again;
        assert_true(kin_denoiser_named_at(b.context, i, &name, &config));
        config.stdit2.common.freeze = KIN_STDIT_FREEZE_TEXT;
        config.stdit.input_size[0] = 0; /* any number of frames */
        must(&b, kin_denoiser_config_json(b.context, &config, &json));
        must(&b, kin_denoiser_config_parse(b.context, json, name, KIN_UNKNOWN_KEYS_FAIL, &back));
        assert_int_equal(back.kind, config.kind);
        must(&b, kin_denoiser_config_json(b.context, &back, &again));
        assert_true(json_equal(json, again));
        kin_denoiser_shape a = kin_denoiser_shape_of(&config), z = kin_denoiser_shape_of(&back);
        assert_int_equal(a.text_length, z.text_length);
        assert_int_equal(a.out_channels, z.out_channels);
        json_decref(json);
        json_decref(again);
    }
    bench_close(&b);
}

/* ---- names ---- */

static void expect_name(kin_weights_rename rename, const char *from, const char *to) {
    char name[256] = "";
    assert_int_equal(rename(NULL, from, name, sizeof name), to != NULL);
    if (to) assert_string_equal(name, to);
}

static void test_names(void **state) {
    (void)state;
    /* the original's, diffusers' */
    static const char *const pairs[][2] = {
        {"x_embedder.proj.weight", "pos_embed.proj.weight"},
        {"y_embedder.y_proj.fc2.bias", "caption_projection.linear_2.bias"},
        {"t_embedder.mlp.0.weight", "adaln_single.emb.timestep_embedder.linear_1.weight"},
        {"csize_embedder.mlp.2.bias", "adaln_single.emb.resolution_embedder.linear_2.bias"},
        {"ar_embedder.mlp.0.bias", "adaln_single.emb.aspect_ratio_embedder.linear_1.bias"},
        {"t_block.1.weight", "adaln_single.linear.weight"},
        {"blocks.27.scale_shift_table", "transformer_blocks.27.scale_shift_table"},
        {"blocks.3.attn.proj.bias", "transformer_blocks.3.attn1.to_out.0.bias"},
        {"blocks.3.cross_attn.q_linear.weight", "transformer_blocks.3.attn2.to_q.weight"},
        {"blocks.3.mlp.fc1.weight", "transformer_blocks.3.ff.net.0.proj.weight"},
        {"final_layer.linear.weight", "proj_out.weight"},
        {"final_layer.scale_shift_table", "scale_shift_table"}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        expect_name(kin_pixart_rename, pairs[i][0], pairs[i][1]);
        expect_name(kin_pixart_rename, pairs[i][1], pairs[i][1]);
        expect_name(kin_latte_rename, pairs[i][0], pairs[i][1]);
        expect_name(kin_stdit_rename, pairs[i][0], pairs[i][0]);
        expect_name(kin_stdit_rename, pairs[i][1], pairs[i][0]);
        expect_name(kin_stdit2_rename, pairs[i][1], pairs[i][0]);
    }
    expect_name(kin_pixart_rename, "blocks.0.attn.qkv.bias",
                "transformer_blocks.0.attn1.to_q.bias|transformer_blocks.0.attn1.to_k.bias|"
                "transformer_blocks.0.attn1.to_v.bias");
    expect_name(kin_stdit_rename, "transformer_blocks.0.attn1.to_v.bias",
                "blocks.0.attn.qkv.bias{2/3}");
    expect_name(kin_stdit2_rename, "transformer_blocks.1.attn2.to_k.weight",
                "blocks.1.cross_attn.kv_linear.weight{0/2}");
    expect_name(kin_stdit2_rename, "rope.freqs", NULL);
    expect_name(kin_stdit2_rename, "y_embedder.y_embedding", "y_embedder.y_embedding{*}");
    expect_name(kin_pixart_rename, "pos_embed", NULL);
    expect_name(kin_pixart_rename, "y_embedder.y_embedding", NULL);
    expect_name(kin_latte_rename, "caption_projection.y_embedding", NULL);
    expect_name(kin_latte_rename, "temporal_transformer_blocks.0.ff.net.2.bias",
                "temporal_transformer_blocks.0.ff.net.2.bias");

    kin_weights_target t;
    assert_true(kin_weights_target_at("a|b{1/2}", 1, &t));
    assert_string_equal(t.name, "b");
    assert_int_equal(t.part, 1);
    assert_int_equal(t.source_parts, 2);
    assert_false(kin_weights_target_at("a|b", 2, &t));
    assert_false(kin_weights_target_at("a{2/2}", 0, &t));
    assert_false(kin_weights_target_at("", 0, &t));
}

static void test_misuse(void **state) {
    (void)state;
    static const struct {
        kin_denoiser_kind kind;
        int64_t frames;
        bool drop, mask;
        int images;
        const char *says;
    } cases[] = {{KIN_DENOISER_STDIT, 2, false, true, 0, "given frames"},
                 {KIN_DENOISER_LATTE, 2, true, false, 0, "null caption"},
                 {KIN_DENOISER_STDIT2, 2, false, false, 1, "pictures"},
                 {KIN_DENOISER_PIXART, 2, false, false, 0, "one frame"},
                 {KIN_DENOISER_LATTE, 2, false, false, 1, "captions"},
                 {KIN_DENOISER_OPENSORA_PLAN, 2, true, false, 0, "null caption"},
                 {KIN_DENOISER_OPENSORA_PLAN, 2, false, true, 0, "given frames"},
                 {KIN_DENOISER_OPENSORA_PLAN, 2, false, false, 1, "captions"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bench b = bench_open("null");
        kin_graph *g = b.graph;
        kin_denoiser_config c = tiny(cases[i].kind);
        int64_t dims[5] = {1, 4, cases[i].frames, SIDE, SIDE}, mask[2] = {1, cases[i].frames};
        kin_denoiser_inputs in = {.x = kin_input(g, "x", KIN_F32, 5, dims),
                                  .timestep = kin_input(g, "timestep", KIN_F32, 1, dims),
                                  .y =
                                      kin_input(g, "y", KIN_F32, 3, (int64_t[]){1, WORDS, CAPTION}),
                                  .images = cases[i].images};
        if (cases[i].drop) in.drop = kin_input(g, "drop", KIN_F32, 1, dims);
        if (cases[i].mask) in.frame_mask = kin_input(g, "mask", KIN_F32, 2, mask);
        kin_denoiser(g, &c, &f32, &in);
        assert_int_equal(kin_graph_status(g), KIN_INVALID);
        if (!strstr(kin_context_error(b.context), cases[i].says))
            fail_msg("%s", kin_context_error(b.context));
        bench_close(&b);
    }
}

static void test_schedule_in_single(void **state) {
    (void)state;
    bench b = bench_open("null");
    kin_schedule *s;
    must(&b, kin_schedule_create(b.context, 1000, NULL, &s));
    assert_true(fabs(s->posterior_mean_coef1[0] - 1) < 1e-12);
    kin_schedule_use_single(s);
    assert_true(fabs(s->posterior_mean_coef1[0] - 0.99983406) < 1e-7);
    for (int i = 0; i < s->steps; i++)
        assert_true(s->alphas_cumprod[i] == (double)(float)s->alphas_cumprod[i]);
    kin_schedule_free(s);

    /* int(0.4f * 30) is 12 in f32, and 11 where the product is formed in double. */
    const float ratios[] = {0, 0.4f, 0.99f, 1};
    float steps[4];
    kin_masked_frame_steps(ratios, 4, 30, steps);
    assert_true(steps[0] == 0 && steps[1] == 12 && steps[2] == 29 && steps[3] == 30);
    bench_close(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published_sizes),
        cmocka_unit_test(test_temporal_vae_size),
        cmocka_unit_test(test_configs),
        cmocka_unit_test(test_configs_round_trip),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_misuse),
        cmocka_unit_test(test_schedule_in_single),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
