/* Open-Sora-Plan 1.2 beyond the reference cases: sizes of the published models, configurations,
 * joint batches of a video and images, tiling of what fits into one tile, causality in time.
 *
 * Joint batches and single tiles must give what the separate calls give, within 1e-5 of the largest
 * value; negative controls: another caption, and tiles that do cut.
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

#include "models/causal_vae.h"
#include "models/opensora_plan.h"
#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/reduce.h"
#include "ops/views.h"
#include "runtime/json.h"
#include "runtime/philox.h"
#include "runtime/plan.h"

static const kin_precision f32 = {KIN_F32, KIN_F32};

static kin_context *open_context(void) {
    kin_context *context = NULL;
    assert_int_equal(kin_context_create(NULL, &context), KIN_OK);
    return context;
}

static int64_t count_weights(const kin_graph *g) {
    int64_t total = 0;
    for (int i = 0; i < kin_variable_count(g); i++)
        total += kin_desc_count(kin_tensor_desc(g, kin_variable_at(g, i)));
    return total;
}

/* Runs an empty graph that `build` fills with one output "difference"; weights are random ones. */
static double run(void (*build)(kin_graph *g, int variant), int variant) {
    kin_context *context = open_context();
    kin_backends *backends = NULL;
    kin_device *device = NULL;
    kin_graph *graph = NULL;
    kin_plan *plan = NULL;
    kin_store *store = NULL;
    float difference = NAN;
    assert_int_equal(kin_backends_load(context, NULL, &backends), KIN_OK);
    assert_int_equal(kin_device_open(backends, "cpu", &device), KIN_OK);
    assert_int_equal(kin_graph_create(context, &graph), KIN_OK);
    build(graph, variant);
    if (kin_plan_build(graph, device, NULL, &plan) != KIN_OK)
        fail_msg("%s", kin_context_error(context));
    assert_int_equal(kin_store_create(device, &store), KIN_OK);
    assert_int_equal(kin_store_add_graph(store, graph, 3), KIN_OK);
    /* Nothing may hide behind weights that start at zero. */
    for (size_t i = 0; i < kin_store_count(store); i++) {
        kin_store_entry *entry = kin_store_at(store, i);
        size_t count = (size_t)kin_desc_count(&entry->desc);
        float *values = malloc(count * sizeof *values);
        kin_philox_fill_normal(9, (uint32_t)i, 0, 0, count, values);
        for (size_t k = 0; k < count; k++) values[k] *= 0.2f;
        assert_int_equal(kin_store_write(store, entry->name, KIN_F32, values), KIN_OK);
        free(values);
    }
    assert_int_equal(kin_plan_prepare(plan, store, NULL), KIN_OK);
    if (kin_plan_run(plan) != KIN_OK) fail_msg("%s", kin_context_error(context));
    assert_int_equal(kin_plan_read(plan, "difference", KIN_F32, &difference), KIN_OK);
    kin_plan_free(plan);
    kin_store_free(store);
    kin_graph_destroy(graph);
    kin_device_close(device);
    kin_backends_free(backends);
    kin_context_destroy(context);
    return difference;
}

static kin_tensor random_tensor(kin_graph *g, uint32_t stream, int rank, const int64_t *dims) {
    kin_desc desc = kin_desc_dense(KIN_F32, rank, dims);
    float *values = malloc(kin_desc_bytes(&desc));
    kin_philox_fill_normal(1, stream, 0, 0, (size_t)kin_desc_count(&desc), values);
    kin_tensor constant = kin_constant(g, KIN_F32, rank, dims, values);
    free(values);
    return constant;
}

/* max |a - b| / max |b| as the output. */
static void compare(kin_graph *g, kin_tensor a, kin_tensor b) {
    uint32_t all = (1u << kin_rank(g, a)) - 1;
    kin_tensor gap = kin_max(g, kin_abs(g, kin_sub(g, a, b)), all, false);
    kin_tensor size = kin_max(g, kin_abs(g, b), all, false);
    kin_output(g, "difference", kin_div(g, gap, size));
}

/* ---- the denoiser --------------------------------------------------------------------------- */

static kin_opensora_plan_config small(void) {
    kin_opensora_plan_config c = kin_opensora_plan_config_default();
    c.num_attention_heads = 2;
    c.attention_head_dim = 12;
    c.num_layers = 2;
    c.caption_channels = 8;
    return c;
}

/* Three frames of video and two images with three captions, against three calls. Variant 1: the
 * first image is given the second one's caption. */
static void build_joint(kin_graph *g, int variant) {
    kin_opensora_plan_config c = small();
    kin_opensora_plan_inputs in = {
        .x = random_tensor(g, 0, 5, (int64_t[]){2, 4, 5, 4, 6}),
        .timestep = kin_constant(g, KIN_F32, 1, (int64_t[]){2}, (float[]){300, 20.5f}),
        .text = random_tensor(g, 1, 4, (int64_t[]){2, 3, 5, 8})};
    kin_tensor joint = kin_opensora_plan(g, &c, &f32, &in), part[3];
    static const int64_t first[3] = {0, 3, 4}, frames[3] = {3, 1, 1};
    for (int i = 0; i < 3; i++) {
        kin_opensora_plan_inputs one = {.timestep = in.timestep};
        one.x = kin_slice(g, in.x, 2, first[i], frames[i]);
        one.text = kin_slice(g, in.text, 1, variant && i == 1 ? 2 : i, 1);
        part[i] = kin_opensora_plan(g, &c, &f32, &one);
    }
    compare(g, joint, kin_concat(g, part, 3, 2));
}

static void joint_batches_are_separate(void **state) {
    (void)state;
    assert_true(run(build_joint, 0) < 1e-5);
    assert_true(run(build_joint, 1) > 1e-4);
}

/* A mask that hides nothing is no mask; one that hides a frame matters. */
static void build_masked(kin_graph *g, int variant) {
    kin_opensora_plan_config c = small();
    kin_opensora_plan_inputs in = {.x = random_tensor(g, 0, 5, (int64_t[]){1, 4, 2, 4, 4}),
                                   .timestep =
                                       kin_constant(g, KIN_F32, 1, (int64_t[]){1}, (float[]){300}),
                                   .text = random_tensor(g, 1, 4, (int64_t[]){1, 1, 5, 8})};
    kin_tensor plain = kin_opensora_plan(g, &c, &f32, &in);
    float ones[2 * 16], words[5] = {1, 1, 1, 1, 1};
    for (int i = 0; i < 2 * 16; i++) ones[i] = variant && i >= 16 ? 0 : 1;
    in.mask = kin_constant(g, KIN_F32, 4, (int64_t[]){1, 2, 4, 4}, ones);
    in.text_mask = kin_constant(g, KIN_F32, 3, (int64_t[]){1, 1, 5}, words);
    compare(g, kin_opensora_plan(g, &c, &f32, &in), plain);
}

static void full_masks_change_nothing(void **state) {
    (void)state;
    assert_true(run(build_masked, 0) < 1e-5);
    assert_true(run(build_masked, 1) > 1e-4);
}

static void equal_axes_share_the_first_scale(void **state) {
    (void)state;
    kin_opensora_plan_config c = kin_opensora_plan_config_default();
    double scales[3];
    kin_opensora_plan_rope_scales(&c, (int64_t[]){24, 45, 80}, scales);
    assert_true(scales[0] == 1 && scales[1] == 1.5 && scales[2] == 2);
    kin_opensora_plan_rope_scales(&c, (int64_t[]){24, 45, 45}, scales);
    assert_true(scales[1] == 1.5 && scales[2] == 1.5);
    kin_opensora_plan_rope_scales(&c, (int64_t[]){45, 24, 45}, scales);
    assert_true(scales[1] == 1.5 && scales[2] == 1);
}

static void published_sizes(void **state) {
    (void)state;
    kin_context *context = open_context();
    kin_graph *g = NULL;
    kin_opensora_plan_config c;
    assert_int_equal(kin_opensora_plan_config_named(context, "OpenSoraT2V-ROPE-L/122", &c), KIN_OK);
    assert_int_equal(kin_graph_create(context, &g), KIN_OK);
    kin_opensora_plan_inputs in = {.x = kin_input(g, "x", KIN_F32, 5, (int64_t[]){1, 4, 1, 2, 2}),
                                   .timestep = kin_input(g, "t", KIN_F32, 1, (int64_t[]){1}),
                                   .text =
                                       kin_input(g, "y", KIN_F32, 4, (int64_t[]){1, 1, 1, 4096})};
    kin_opensora_plan(g, &c, &f32, &in);
    assert_int_equal(kin_graph_status(g), KIN_OK);
    assert_true(count_weights(g) == 2771907856);
    kin_graph_destroy(g);

    kin_causal_vae_config vae;
    assert_int_equal(kin_causal_vae_config_named(context, "causal-vae-1.2", &vae), KIN_OK);
    assert_int_equal(kin_causal_vae_space_factor(&vae), 8);
    assert_int_equal(kin_causal_vae_time_factor(&vae), 4);
    assert_int_equal(kin_graph_create(context, &g), KIN_OK);
    kin_tensor videos = kin_input(g, "videos", KIN_F32, 5, (int64_t[]){1, 3, 9, 24, 16});
    kin_tensor moments = kin_causal_vae_encode(g, &vae, &f32, videos);
    assert_true(count_weights(g) == 94399368 + 72);
    assert_int_equal(kin_dim(g, moments, 2), 3);
    kin_tensor back = kin_causal_vae_decode(g, &vae, &f32, kin_slice(g, moments, 1, 0, 4));
    assert_int_equal(kin_dim(g, back, 2), 9);
    assert_int_equal(kin_dim(g, back, 3), 24);
    assert_true(count_weights(g) == 239189991);
    kin_graph_destroy(g);
    kin_context_destroy(context);
}

/* ---- configurations ------------------------------------------------------------------------- */

static void bad_configurations(void **state) {
    (void)state;
    static const struct {
        const char *text, *message;
        bool vae;
    } files[] = {
        {"{\"num_headz\": 3}", "num_headz", false},
        {"{\"attention_head_dim\": 16}", "multiple of 6", false},
        {"{\"use_rope\": false}", "use_rope", false},
        {"{\"norm_type\": \"layer_norm\"}", "norm_type", false},
        {"{\"sample_size\": [1, 2, 3]}", "sample_size", false},
        {"{\"downsampler\": \"k333_s222\"}", "downsampler", false},
        {"{\"cross_attention_dim\": 5}", "cross_attention_dim", false},
        {"{\"interpolation_scale_h\": 0}", "interpolation", false},
        {"{\"hidden_size\": 48}", "32 groups", true},
        {"{\"encoder_resnet_blocks\": [\"ResnetBlock2D\"]}", "entries", true},
        {"{\"encoder_conv_in\": \"CausalConv3D\"}", "CausalConv3d", true},
        {"{\"encoder_conv_in\": \"ResnetBlock2D\"}", "encoder_conv_in", true},
        {"{\"attn_resolutions\": [16]}", "attn_resolutions", true},
        {"{\"hidden_size_mult\": []}", "hidden_size_mult", true},
        {"{\"use_quant_layer\": false, \"embed_dim\": 8}", "use_quant_layer", true},
    };
    kin_context *context = open_context();
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        json_t *json = json_loads(files[i].text, 0, NULL);
        kin_opensora_plan_config c;
        kin_causal_vae_config vae;
        kin_status status =
            files[i].vae
                ? kin_causal_vae_config_parse(context, json, "config", KIN_UNKNOWN_KEYS_FAIL, &vae)
                : kin_opensora_plan_config_parse(context, json, "config", KIN_UNKNOWN_KEYS_FAIL,
                                                 &c);
        if (status == KIN_OK || !strstr(kin_context_error(context), files[i].message))
            fail_msg("%s: status %d, %s", files[i].text, (int)status, kin_context_error(context));
        json_decref(json);
    }
    kin_context_destroy(context);
}

static void names_of_training_checkpoints(void **state) {
    (void)state;
    char name[64];
    assert_true(kin_causal_vae_rename(NULL, "module.encoder.conv_in.weight", name, sizeof name));
    assert_string_equal(name, "encoder.conv_in.weight");
    assert_true(kin_causal_vae_rename(NULL, "gen_model.decoder.x", name, sizeof name));
    assert_string_equal(name, "decoder.x");
    assert_false(kin_causal_vae_rename(NULL, "dics_model.main.0.weight", name, sizeof name));
    assert_false(kin_causal_vae_rename(NULL, "loss.logvar", name, sizeof name));
}

/* ---- tiling --------------------------------------------------------------------------------- */

static kin_causal_vae_config small_vae(void) {
    kin_context *context = open_context();
    kin_causal_vae_config c;
    assert_int_equal(kin_causal_vae_config_named(context, "causal-vae-1.2", &c), KIN_OK);
    kin_context_destroy(context);
    c.hidden_size = 32;
    c.levels = 2; /* one halving, of rows and columns, and of frames in the decoder */
    c.hidden_size_mult[1] = 1;
    c.num_res_blocks = 1;
    return c;
}

/* Variant 1: tiles smaller than the input. */
static void build_tiled(kin_graph *g, int variant) {
    kin_causal_vae_config c = small_vae();
    kin_causal_vae_tiling tiling = {16, 8, 9, 3, 0.25};
    if (variant) tiling.tile_sample_min_size = 8, tiling.tile_latent_min_size = 4;
    kin_tensor x = random_tensor(g, 2, 5, (int64_t[]){1, 3, 2, 16, 16});
    compare(g, kin_causal_vae_encode_tiled(g, &c, &f32, &tiling, x),
            kin_causal_vae_encode(g, &c, &f32, x));
}

static void one_tile_is_no_tiling(void **state) {
    (void)state;
    assert_true(run(build_tiled, 0) == 0);
    assert_true(run(build_tiled, 1) > 1e-4);
}

static void hopeless_tiles_are_refused(void **state) {
    (void)state;
    static const kin_causal_vae_tiling tilings[] = {{8, 4, 1, 1, 0.25},
                                                    {8, 4, 9, 3, 1},
                                                    {8, 4, 9, 3, -0.1},
                                                    {8, 0, 9, 3, 0.5},
                                                    {8, 4, 9, 3, 0.2}};
    kin_causal_vae_config c = small_vae();
    kin_context *context = open_context();
    for (size_t i = 0; i < sizeof tilings / sizeof *tilings; i++) {
        kin_graph *g = NULL;
        assert_int_equal(kin_graph_create(context, &g), KIN_OK);
        kin_tensor x = kin_input(g, "x", KIN_F32, 5, (int64_t[]){1, 3, 2, 16, 16});
        kin_causal_vae_encode_tiled(g, &c, &f32, &tilings[i], x);
        assert_int_equal(kin_graph_status(g), KIN_INVALID);
        kin_graph_destroy(g);
    }
    kin_context_destroy(context);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(joint_batches_are_separate),
        cmocka_unit_test(full_masks_change_nothing),
        cmocka_unit_test(equal_axes_share_the_first_scale),
        cmocka_unit_test(published_sizes),
        cmocka_unit_test(bad_configurations),
        cmocka_unit_test(names_of_training_checkpoints),
        cmocka_unit_test(one_tile_is_no_tiling),
        cmocka_unit_test(hopeless_tiles_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
