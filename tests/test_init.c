/* Folders with random weights: names, shapes and numbers of parameters are the published ones, the
 * values have the statistics they should, and what is written opens as the system it is for. */
#define _GNU_SOURCE

#include "tests/folder_fixture.h"

#include "runtime/checkpoint.h"
#include "runtime/safetensors.h"
#include "tools/system/init.h"
#include "tools/system/random_weights.h"
#include "tools/system/weight_files.h"

#include <math.h>
#include <sys/stat.h>

#define CHECK(status)                                                                              \
    do {                                                                                           \
        if ((status) != KIN_OK) fail_msg("%s", kin_context_error(context));                        \
    } while (0)

/* ---- names, shapes, parameters ---- */

static int64_t parameters(const kin_random_weights *w) {
    int64_t count = 0;
    for (size_t i = 0; i < w->count; i++) count += kin_desc_count(&w->tensors[i].desc);
    return count;
}

static void expect_parameters(const char *model, int64_t wanted) {
    kin_model_choice choice;
    kin_random_weights weights;
    CHECK(kin_model_choose(context, model, &choice));
    CHECK(kin_random_weights_create(context, &choice, KIN_F32, 0, false, &weights));
    if (parameters(&weights) != wanted)
        fail_msg("%s has %lld parameters, not %lld", model, (long long)parameters(&weights),
                 (long long)wanted);
    kin_random_weights_free(&weights);
}

/* The published numbers; those of STDiT are without the null caption, and without rope.freqs. */
static void test_parameters(void **state) {
    (void)state;
    expect_parameters("STDiT-XL/2", 759620768 + 120 * 4096);
    expect_parameters("STDiT2-XL/2", 767452064 + 200 * 4096 + 36);
    expect_parameters("Latte-1", 1057246880);
    expect_parameters("PixArt-XL-2-512x512", 610856096);
    expect_parameters("PixArt-XL-2-1024-MS", 611349152);
    expect_parameters("OpenSoraT2V-ROPE-L/122", 2771907856);
    expect_parameters("sd-vae", 83653863);
    expect_parameters("causal-vae-1.2", 239189991);
    expect_parameters("t5-v1_1-xxl", 4762310656);
    expect_parameters("mt5-xxl", 5655173120);
}

static const kin_named_tensor *find(const kin_random_weights *w, const char *name) {
    for (size_t i = 0; i < w->count; i++)
        if (strcmp(w->tensors[i].name, name) == 0) return &w->tensors[i];
    return NULL;
}

/* Buffers that the originals' loaders drop. */
static bool is_dropped(const char *name) {
    return strcmp(name, "pos_embed") == 0 || strcmp(name, "pos_embed_temporal") == 0;
}

/* What a model of the case's configuration gets, against what the original's code saved. */
static void expect_names(const char *name, bool whole) {
    const char *path = reference_folder(name);
    kin_safetensors *file = NULL;
    kin_model_choice choice;
    kin_random_weights weights;
    if (!path) return;
    CHECK(kin_model_choose(context, path, &choice));
    CHECK(kin_random_weights_create(context, &choice, KIN_F32, 0, false, &weights));
    CHECK(kin_safetensors_open(context, path_in(path, "weights.safetensors"), &file));
    size_t found = 0;
    for (size_t i = 0; i < kin_safetensors_count(file); i++) {
        const kin_named_tensor *wanted = kin_safetensors_at(file, i);
        /* T5's table has two names; a file may hold either, or both. */
        bool second = strcmp(wanted->name, "encoder.embed_tokens.weight") == 0;
        const kin_named_tensor *have = find(&weights, second ? "shared.weight" : wanted->name);
        if (is_dropped(wanted->name)) continue;
        if (second && kin_safetensors_find(file, "shared.weight")) continue;
        if (!have) fail_msg("%s: \"%s\" is missing", name, wanted->name);
        if (!kin_desc_same_shape(&have->desc, &wanted->desc))
            fail_msg("%s: \"%s\" has another shape", name, wanted->name);
        found++;
    }
    if (whole) assert_int_equal(found, weights.count);
    kin_safetensors_close(file);
    kin_random_weights_free(&weights);
}

static void test_names(void **state) {
    (void)state;
    expect_names("open-sora-1.0-stdit", true);
    expect_names("open-sora-1.1-stdit2", true);
    expect_names("latte-t2v", true);
    expect_names("pixart-alpha-512", true);
    expect_names("pixart-alpha-1024", true);
    expect_names("open-sora-plan-1.2-dit", true);
    expect_names("t5-v1.1-encoder", true);
    expect_names("t5-relu-encoder", true);
    expect_names("sd-vae-encode", false); /* one half of an autoencoder */
    expect_names("sd-vae-decode", false);
    expect_names("open-sora-plan-1.2-vae-encode", false);
    expect_names("open-sora-plan-1.2-vae-decode", false);
}

static void test_old_names(void **state) {
    (void)state;
    kin_model_choice choice;
    kin_random_weights weights;
    CHECK(kin_model_choose(context, "sd-vae", &choice));
    CHECK(kin_random_weights_create(context, &choice, KIN_F32, 0, true, &weights));
    assert_non_null(find(&weights, "encoder.mid_block.attentions.0.query.weight"));
    assert_non_null(find(&weights, "decoder.mid_block.attentions.0.proj_attn.bias"));
    assert_null(find(&weights, "encoder.mid_block.attentions.0.to_q.weight"));
    kin_random_weights_free(&weights);
}

/* ---- folders ---- */

static kin_init_options tiny(kin_system_kind system) {
    return (kin_init_options){
        .system = system, .size = KIN_INIT_SIZE_TINY, .seed = 7, .quiet = true};
}

/* Root mean square of a tensor, which must be finite. */
static double rms(const kin_checkpoint *file, const char *name) {
    const kin_named_tensor *tensor = NULL;
    CHECK(kin_checkpoint_get(file, name, &tensor));
    int64_t count = kin_desc_count(&tensor->desc);
    double sum = 0;
    for (int64_t i = 0; i < count; i++) {
        double value = kin_element_get(tensor->data, tensor->desc.dtype, i);
        assert_true(isfinite(value));
        sum += value * value;
    }
    return sqrt(sum / (double)count);
}

static void expect_system(kin_system_kind kind) {
    kin_init_options options = tiny(kind);
    kin_system system;
    char path[1024];
    uint64_t bytes = 0;
    snprintf(path, sizeof path, "%s/%s", folder, kin_system_name(kind));
    CHECK(kin_init_bytes(context, &options, &bytes));
    assert_true(bytes > 1000000 && bytes < 20000000);
    CHECK(kin_init_folder(context, &options, path));
    CHECK(kin_system_open(context, path, NULL, &system));
    assert_int_equal(system.kind, kind);
    for (int part = 0; part < KIN_PART_SCHEDULER; part++)
        CHECK(kin_system_need(&system, (kin_part_kind)part));
    assert_int_equal(system.text_encoder.d_model, 64);
    assert_true(system.defaults.width == 64 && system.defaults.height == 64);
    kin_system_close(&system);
}

static void test_systems(void **state) {
    (void)state;
    for (int kind = 0; kind < KIN_SYSTEM_KINDS; kind++) expect_system((kin_system_kind)kind);
}

static void test_files(void **state) {
    (void)state;
    static const char *const files[] = {
        "open-sora-1.0/transformer/OpenSora-v1-HQ-16x256x256.pth",
        "open-sora-1.0/vae/diffusion_pytorch_model.safetensors",
        "open-sora-1.0/text_encoder/spiece.model",
        "open-sora-1.1/transformer/config.json",
        "open-sora-1.1/transformer/model.safetensors",
        "latte/model_index.json",
        "latte/transformer/diffusion_pytorch_model.safetensors",
        "latte/vae_temporal_decoder/diffusion_pytorch_model.safetensors",
        "latte/tokenizer/spiece.model",
        "latte/scheduler/scheduler_config.json",
        "pixart-alpha/text_encoder/model.safetensors",
        "open-sora-plan-1.2/vae/checkpoint.ckpt",
        "open-sora-plan-1.2/text_encoder/pytorch_model.bin"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        if (!kin_file_exists(path_in(folder, files[i]))) fail_msg("no %s", files[i]);
}

/* Xavier's rule gives a variance of 2 / (in + out); a normal one its own; nothing is zero. Sampling
 * error of n values: 1 / sqrt(2 n), here below 1 %; tolerance 5 %. */
static void test_statistics(void **state) {
    (void)state;
    kin_checkpoint *file = NULL;
    CHECK(kin_checkpoint_open(
        context, path_in(folder, "open-sora-1.0/transformer/OpenSora-v1-HQ-16x256x256.pth"), NULL,
        &file));
    double mlp = rms(file, "blocks.1.mlp.fc1.weight") / sqrt(2.0 / (96 + 384));
    double zero = rms(file, "blocks.0.attn_temp.proj.weight") / 0.02;
    double table = rms(file, "y_embedder.y_embedding") * sqrt(64);
    assert_true(fabs(mlp - 1) < 0.05);
    assert_true(fabs(zero - 1) < 0.05);
    assert_true(fabs(table - 1) < 0.05);
    assert_true(rms(file, "blocks.0.mlp.fc1.bias") == 0);
    assert_false(fabs(rms(file, "blocks.1.mlp.fc2.weight") / 0.02 - 1) < 0.05);
    kin_checkpoint_close(file);
}

static char *read_part(const char *name, size_t *out_size) {
    char *bytes = NULL;
    CHECK(kin_file_read_all(context, path_in(folder, name), 1 << 26, &bytes, out_size));
    return bytes;
}

static void test_repeatable(void **state) {
    (void)state;
    static const char *const part = "transformer";
    static const char *const names[] = {"latte/transformer/diffusion_pytorch_model.safetensors",
                                        "again/transformer/diffusion_pytorch_model.safetensors",
                                        "other/transformer/diffusion_pytorch_model.safetensors"};
    kin_init_options options = tiny(KIN_SYSTEM_LATTE);
    options.parts = &part;
    options.part_count = 1;
    CHECK(kin_init_folder(context, &options, path_in(folder, "again")));
    assert_false(kin_file_exists(path_in(folder, "again/vae")));
    options.seed = 8;
    CHECK(kin_init_folder(context, &options, path_in(folder, "other")));
    size_t size[3];
    char *bytes[3];
    for (int i = 0; i < 3; i++) bytes[i] = read_part(names[i], &size[i]);
    assert_true(size[0] == size[1] && size[0] == size[2]);
    assert_memory_equal(bytes[0], bytes[1], size[0]);
    assert_memory_not_equal(bytes[0], bytes[2], size[0]);
    for (int i = 0; i < 3; i++) kin_free(context, bytes[i]);
}

static void test_sets_and_dtypes(void **state) {
    (void)state;
    static const char *const sets[] = {"transformer.depth=1", "text_encoder.num_layers=3",
                                       "vae.block_out_channels=[32,32,32,64]"};
    kin_init_options options = tiny(KIN_SYSTEM_OPEN_SORA_1_0);
    kin_system system;
    options.sets = sets;
    options.set_count = 3;
    options.dtype = "q8_0";
    CHECK(kin_init_folder(context, &options, path_in(folder, "set")));
    CHECK(kin_system_open(context, path_in(folder, "set"), NULL, &system));
    assert_int_equal(system.denoiser.stdit.depth, 1);
    assert_int_equal(system.text_encoder.num_layers, 3);
    assert_int_equal(system.vae.sd.block_out_channels[3], 64);
    kin_system_close(&system);
    kin_checkpoint *file = NULL;
    const kin_named_tensor *tensor = NULL;
    CHECK(kin_checkpoint_open(context, path_in(folder, "set/text_encoder"), NULL, &file));
    CHECK(kin_checkpoint_get(file, "encoder.block.2.layer.0.SelfAttention.q.weight", &tensor));
    assert_int_equal(tensor->desc.dtype, KIN_Q8_0);
    CHECK(kin_checkpoint_get(file, "shared.weight", &tensor));
    assert_int_equal(tensor->desc.dtype, KIN_F16);
    CHECK(kin_checkpoint_get(file, "encoder.final_layer_norm.weight", &tensor));
    assert_int_equal(tensor->desc.dtype, KIN_F32);
    kin_checkpoint_close(file);
}

static void expect_refusal(const kin_init_options *options, const char *name, const char *part) {
    assert_int_equal(kin_init_folder(context, options, path_in(folder, name)), KIN_INVALID);
    assert_message(context, part);
}

static void test_refusals(void **state) {
    (void)state;
    kin_init_options options = tiny(KIN_SYSTEM_LATTE);
    const char *text = "transformer.num_layer=3";
    expect_refusal(&options, "latte", "not, or an empty one");
    options.sets = &text;
    options.set_count = 1;
    expect_refusal(&options, "new", "num_layers");
    text = "decoder.num_layers=3";
    expect_refusal(&options, "new", "decoder.num_layers");
    text = "text_encoder.d_model=32";
    expect_refusal(&options, "new", "caption_channels");
    options.set_count = 0;
    options.parts = &text;
    options.part_count = 1;
    expect_refusal(&options, "new", "there is no part");
    options.part_count = 0;
    options.dtype = "i8";
    expect_refusal(&options, "new", "q8_0");
    assert_false(kin_file_exists(path_in(folder, "new")));
    assert_int_equal(kin_need_disk(context, path_in(folder, "not/there"), UINT64_MAX), KIN_IO);
    assert_message(context, "disk space");
    assert_int_equal(kin_need_disk(context, path_in(folder, "not/there"), 1), KIN_OK);
}

/* Shards of both forms open; only torch.save's have a second name for a tensor. */
static void test_shards(void **state) {
    (void)state;
    static const char *const endings[] = {".safetensors", ".bin"};
    kin_model_choice choice;
    kin_random_weights w;
    char path[2048];
    snprintf(path, sizeof path, "%s/latte/text_encoder", folder);
    CHECK(kin_model_choose(context, kin_file_exists(path) ? path : "t5-v1_1-small", &choice));
    CHECK(kin_random_weights_create(context, &choice, KIN_F32, 0, false, &w));
    kin_pickle_layout layout = {.aliases = &w.alias, .alias_count = 1};
    for (int i = 0; i < 2; i++) {
        kin_checkpoint *file = NULL;
        kin_weight_form form = {.base = "model",
                                .ending = endings[i],
                                .shard_bytes = kin_weight_bytes(w.tensors, w.count) / 3,
                                .layout = &layout};
        CHECK(kin_weight_files_write(context, folder, &form, w.tensors, w.count,
                                     kin_random_weights_fill, &w, NULL));
        snprintf(path, sizeof path, "%s/model%s.index.json", folder, endings[i]);
        CHECK(kin_checkpoint_open(context, path, NULL, &file));
        assert_int_equal(kin_checkpoint_count(file), w.count + (size_t)i);
        kin_checkpoint_close(file);
    }
    kin_random_weights_free(&w);
}

/* An empty folder is taken, and what is hidden beside it disappears. */
static void test_staging(void **state) {
    (void)state;
    kin_staging staging;
    char hidden[2048];
    assert_int_equal(mkdir(path_in(folder, "empty"), 0777), 0);
    CHECK(kin_staging_open(context, path_in(folder, "empty/"), &staging));
    snprintf(hidden, sizeof hidden, "%s", staging.folder);
    write_bytes(path_in(staging.folder, "file"), "x", 1);
    kin_staging_abandon(&staging);
    assert_false(kin_file_exists(hidden));
    CHECK(kin_staging_open(context, path_in(folder, "empty"), &staging));
    write_bytes(path_in(staging.folder, "file"), "x", 1);
    CHECK(kin_staging_commit(&staging));
    assert_true(kin_file_exists(path_in(folder, "empty/file")));
    assert_int_equal(kin_staging_open(context, path_in(folder, "empty"), &staging), KIN_INVALID);
}

int main(void) {
#ifdef KIN_HAVE_SENTENCEPIECE
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parameters), cmocka_unit_test(test_names),
        cmocka_unit_test(test_old_names),  cmocka_unit_test(test_systems),
        cmocka_unit_test(test_files),      cmocka_unit_test(test_statistics),
        cmocka_unit_test(test_repeatable), cmocka_unit_test(test_sets_and_dtypes),
        cmocka_unit_test(test_refusals),   cmocka_unit_test(test_shards),
        cmocka_unit_test(test_staging)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
#else
    (void)test_systems, (void)test_files, (void)test_statistics, (void)test_repeatable;
    (void)test_sets_and_dtypes, (void)test_refusals;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parameters), cmocka_unit_test(test_names),
        cmocka_unit_test(test_old_names), cmocka_unit_test(test_shards),
        cmocka_unit_test(test_staging)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
#endif
}
