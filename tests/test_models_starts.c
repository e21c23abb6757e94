/* STDiT2, PixArt, Latte and Open-Sora-Plan at work where the reference cases do not reach: weights
 * of one model as the start of another, masks of frames, training steps and samplers.
 *
 * Tolerance, relative to the largest wanted value: 2e-5 (f32; two models do the same arithmetic in
 * another order). Negative controls: a temporal branch that does not start at zero, and a given
 * frame, must miss it.
 */
#define _DEFAULT_SOURCE
#include "tests/denoiser_helper.h"

#include <unistd.h>

#include "models/diffusion_masked.h"
#include "models/training.h"
#include "ops/layout.h"
#include "ops/split.h"
#include "ops/views.h"
#include "runtime/philox.h"
#include "runtime/weights.h"

static const double tolerance = 2e-5;

/* The last layers of the sizes' embeddings. */
static bool is_size(const char *name) {
    return strstr(name, "resolution_embedder.linear_2") ||
           strstr(name, "ratio_embedder.linear_2") || strstr(name, "csize_embedder.mlp.2") ||
           strstr(name, "ar_embedder.mlp.2");
}

/* 0.2 N(0, 1) for every weight: nothing hides behind a zero. Only what is known of sizes is kept at
 * zero: PixArt adds it in its last layer, too, and STDiT2 does not. */
static void randomise(bench *b) {
    for (size_t i = 0; i < kin_store_count(b->store); i++) {
        kin_store_entry *entry = kin_store_at(b->store, i);
        size_t count = (size_t)kin_desc_count(&entry->desc);
        float *values = calloc(count, sizeof *values);
        kin_philox_fill_normal(3, (uint32_t)i, 1, 0, count, values);
        for (size_t k = 0; k < count; k++) values[k] *= is_size(entry->name) ? 0 : 0.2f;
        must(b, kin_store_write(b->store, entry->name, KIN_F32, values));
        free(values);
    }
}

/* ---- one model's weights as another's start ---- */

/* The video as one clip of FRAMES, or as FRAMES pictures. */
static const int64_t clip[5] = {1, 4, FRAMES, SIDE, SIDE}, pictures[5] = {FRAMES, 4, 1, SIDE, SIDE};
enum { VALUES = OUT * FRAMES * SIDE * SIDE, PLANE = SIDE * SIDE };

/* [B, C, T, Y, X] of one clip as of FRAMES pictures, or back. */
static void swap_frames(const float *from, float *to, int channels, bool to_pictures) {
    for (int c = 0; c < channels; c++)
        for (int t = 0; t < FRAMES; t++) {
            const int a = (c * FRAMES + t) * PLANE, b = (t * channels + c) * PLANE;
            memcpy(to + (to_pictures ? b : a), from + (to_pictures ? a : b), PLANE * sizeof *to);
        }
}

/* Appends the denoiser on latents of `dims`; returns the output. */
static kin_tensor append(bench *b, const kin_denoiser_config *c, const int64_t dims[5]) {
    kin_graph *g = b->graph;
    kin_denoiser_inputs in = {
        .x = kin_input(g, "x", KIN_F32, 5, dims),
        .timestep = kin_input(g, "timestep", KIN_F32, 1, dims),
        .y = kin_input(g, "y", KIN_F32, 3, (int64_t[]){dims[0], WORDS, CAPTION}),
        .y_lengths = kin_input(g, "lengths", KIN_I32, 1, dims)};
    if (c->kind != KIN_DENOISER_LATTE) return kin_denoiser(g, c, &f32, &in);
    kin_latte_inputs latte = {.x = in.x,
                              .timestep = in.timestep,
                              .text = in.y,
                              .text_lengths = in.y_lengths,
                              .no_temporal_positions = true};
    return kin_latte(g, &c->pixart, &f32, &latte);
}

/* Runs on the same video, caption and timestep whatever the shape; `out` is as of one clip. */
static void run_on(bench *b, const int64_t dims[5], float *out) {
    float video[4 * FRAMES * PLANE], x[4 * FRAMES * PLANE], y[FRAMES * WORDS * CAPTION];
    float timestep[FRAMES], result[VALUES];
    int32_t lengths[FRAMES];
    bool split = dims[0] == FRAMES;
    kin_philox_fill_normal(1, 1, 1, 0, sizeof video / sizeof *video, video);
    memcpy(x, video, sizeof x);
    if (split) swap_frames(video, x, 4, true);
    for (int i = 0; i < FRAMES; i++) {
        kin_philox_fill_normal(1, 2, 1, 0, WORDS * CAPTION, y + i * WORDS * CAPTION);
        timestep[i] = 321;
        lengths[i] = WORDS - 1;
    }
    must(b, kin_plan_write(b->plan, "x", KIN_F32, x));
    must(b, kin_plan_write(b->plan, "y", KIN_F32, y));
    must(b, kin_plan_write(b->plan, "timestep", KIN_F32, timestep));
    must(b, kin_plan_write(b->plan, "lengths", KIN_I32, lengths));
    must(b, kin_plan_run(b->plan));
    must(b, kin_plan_read(b->plan, "out", KIN_F32, result));
    memcpy(out, result, sizeof result);
    if (split) swap_frames(result, out, OUT, false);
}

static double difference(const float *got, const float *want) {
    double worst = 0, largest = 0;
    for (int i = 0; i < VALUES; i++) {
        worst = fmax(worst, fabs((double)got[i] - want[i]));
        largest = fmax(largest, fabs((double)want[i]));
    }
    assert_true(largest > 0.01); /* something was computed */
    return worst / largest;
}

/* Builds and runs a model: with random weights, or with those of `load` over its own start; and
 * writes what it ran with to `save`. Either may be NULL. */
static void run_model(const kin_denoiser_config *c, const int64_t dims[5], const char *load,
                      const char *save, float *out) {
    bench b = bench_open("cpu");
    kin_output(b.graph, "out", append(&b, c, dims));
    must(&b, kin_graph_status(b.graph));
    bench_prepare(&b);
    if (load) {
        kin_weights_options options = {.rename = kin_denoiser_rename,
                                       .config = c,
                                       .allow_missing = true,
                                       .allow_unexpected = true};
        kin_weights_report report;
        must(&b, kin_weights_load(b.store, load, &options, &report));
        assert_true(report.loaded > 20);
    } else {
        randomise(&b);
    }
    if (save) must(&b, kin_weights_save(b.store, save, NULL, NULL, KIN_F32, NULL, 0));
    run_on(&b, dims, out);
    bench_close(&b);
}

/* From PixArt's files every video model computes at its start what PixArt does on each frame. The
 * first file is a video model's with all weights random: its names, but for the temporal ones, are
 * those of PixArt's original files, or of diffusers'. */
static void test_starts_from_pixart(void **state) {
    (void)state;
    static const kin_denoiser_kind kinds[] = {KIN_DENOISER_STDIT, KIN_DENOISER_STDIT2,
                                              KIN_DENOISER_LATTE};
    char folder[] = "/tmp/kinora-denoisers-XXXXXX", original[64], renamed[64];
    float *want = calloc(3 * VALUES, sizeof *want), *got = want + VALUES, *other = got + VALUES;
    assert_non_null(mkdtemp(folder));
    snprintf(original, sizeof original, "%s/original.safetensors", folder);
    snprintf(renamed, sizeof renamed, "%s/diffusers.safetensors", folder);
    for (int i = 0; i < 3; i++) {
        kin_denoiser_config pixart = tiny(KIN_DENOISER_PIXART), video = tiny(kinds[i]);
        pixart.pixart.use_additional_conditions = kinds[i] == KIN_DENOISER_STDIT2;
        run_model(&video, clip, NULL, original, other);
        run_model(&pixart, pictures, original, renamed, want);
        run_model(&video, clip, renamed, NULL, got);
        if (difference(got, want) > tolerance) fail_msg("start %d: %g", i, difference(got, want));
        /* With the random temporal branch it is another video. */
        assert_true(difference(other, want) > 0.01);
        unlink(original);
        unlink(renamed);
    }
    rmdir(folder);
    free(want);
}

static void test_rows_of_a_table(void **state) {
    (void)state;
    char path[] = "/tmp/kinora-rows-XXXXXX";
    int handle = mkstemp(path);
    assert_true(handle >= 0);
    close(handle);
    bench b = bench_open("cpu");
    int64_t narrow[] = {3, 2}, wide[] = {5, 2};
    kin_init zero = {KIN_INIT_ZERO, 0};
    float values[10] = {1, 2, 3, 4, 5, 6}, got[10];
    kin_variable(b.graph, "y_embedder.y_embedding", KIN_VARIABLE_BUFFER, KIN_F32, 2, narrow, zero);
    must(&b, kin_store_create(b.device, &b.store));
    must(&b, kin_store_add_graph(b.store, b.graph, 1));
    must(&b, kin_store_write(b.store, "y_embedder.y_embedding", KIN_F32, values));
    must(&b, kin_weights_save(b.store, path, NULL, NULL, KIN_F32, NULL, 0));
    kin_store_free(b.store);
    kin_graph_destroy(b.graph);

    must(&b, kin_graph_create(b.context, &b.graph));
    must(&b, kin_store_create(b.device, &b.store));
    kin_variable(b.graph, "y_embedder.y_embedding", KIN_VARIABLE_BUFFER, KIN_F32, 2, wide, zero);
    must(&b, kin_store_add_graph(b.store, b.graph, 1));
    kin_weights_options options = {.rename = kin_stdit2_rename};
    must(&b, kin_weights_load(b.store, path, &options, NULL));
    must(&b, kin_store_read(b.store, "y_embedder.y_embedding", KIN_F32, got));
    const float want[10] = {1, 2, 3, 4, 5, 6, 5, 6, 5, 6};
    assert_memory_equal(got, want, sizeof want);
    options.rename = kin_stdit_rename; /* Open-Sora 1.0: the shapes must agree */
    assert_int_equal(kin_weights_load(b.store, path, &options, NULL), KIN_INVALID);
    bench_close(&b);
    unlink(path);
}

/* A variable of which only some parts were in the file is missing. */
static void test_parts_of_a_variable(void **state) {
    (void)state;
    char path[] = "/tmp/kinora-parts-XXXXXX";
    int handle = mkstemp(path);
    assert_true(handle >= 0);
    close(handle);
    bench b = bench_open("cpu");
    static const char *const names[] = {"transformer_blocks.0.attn1.to_q.bias",
                                        "transformer_blocks.0.attn1.to_k.bias",
                                        "transformer_blocks.0.attn1.to_v.bias"};
    kin_init zero = {KIN_INIT_ZERO, 0};
    for (int count = 3; count >= 2; count--) {
        int64_t two = 2, six = 6;
        kin_graph *g;
        kin_store *store;
        must(&b, kin_graph_create(b.context, &g));
        must(&b, kin_store_create(b.device, &store));
        for (int i = 0; i < count; i++)
            kin_variable(g, names[i], KIN_VARIABLE_WEIGHT, KIN_F32, 1, &two, zero);
        must(&b, kin_store_add_graph(store, g, 1));
        for (int i = 0; i < count; i++) {
            float values[2] = {(float)(2 * i), (float)(2 * i + 1)};
            must(&b, kin_store_write(store, names[i], KIN_F32, values));
        }
        must(&b, kin_weights_save(store, path, NULL, NULL, KIN_F32, NULL, 0));
        kin_store_free(store);
        kin_graph_destroy(g);

        must(&b, kin_graph_create(b.context, &g));
        must(&b, kin_store_create(b.device, &store));
        kin_variable(g, "blocks.0.attn.qkv.bias", KIN_VARIABLE_WEIGHT, KIN_F32, 1, &six, zero);
        must(&b, kin_store_add_graph(store, g, 1));
        kin_weights_options options = {.rename = kin_stdit_rename};
        kin_status status = kin_weights_load(store, path, &options, NULL);
        if (count == 3) {
            float got[6];
            const float want[6] = {0, 1, 2, 3, 4, 5};
            must(&b, status);
            must(&b, kin_store_read(store, "blocks.0.attn.qkv.bias", KIN_F32, got));
            assert_memory_equal(got, want, sizeof want);
        } else {
            assert_int_equal(status, KIN_NOT_FOUND);
        }
        kin_store_free(store);
        kin_graph_destroy(g);
    }
    bench_close(&b);
    unlink(path);
}

/* ---- masks and training ---- */

/* A mask of ones changes nothing; a given frame does. */
static void test_frame_mask(void **state) {
    (void)state;
    float *want = calloc(2 * VALUES, sizeof *want), *got = want + VALUES;
    kin_denoiser_config c = tiny(KIN_DENOISER_STDIT2);
    c.stdit2.qk_norm = true;
    for (int masked = 0; masked < 2; masked++) {
        bench b = bench_open("cpu");
        kin_graph *g = b.graph;
        kin_denoiser_inputs in = {.x = kin_input(g, "x", KIN_F32, 5, clip),
                                  .timestep = kin_input(g, "timestep", KIN_F32, 1, clip),
                                  .y =
                                      kin_input(g, "y", KIN_F32, 3, (int64_t[]){1, WORDS, CAPTION}),
                                  .y_lengths = kin_input(g, "lengths", KIN_I32, 1, clip)};
        if (masked) in.frame_mask = kin_input(g, "mask", KIN_F32, 2, (int64_t[]){1, FRAMES});
        kin_output(g, "out", kin_denoiser(g, &c, &f32, &in));
        must(&b, kin_graph_status(g));
        bench_prepare(&b);
        randomise(&b);
        if (!masked) {
            run_on(&b, clip, want);
        } else {
            float mask[FRAMES] = {1, 1, 1};
            must(&b, kin_plan_write(b.plan, "mask", KIN_F32, mask));
            run_on(&b, clip, got);
            assert_true(difference(got, want) < tolerance);
            mask[1] = 0;
            must(&b, kin_plan_write(b.plan, "mask", KIN_F32, mask));
            run_on(&b, clip, got);
            assert_true(difference(got, want) > 0.01);
        }
        bench_close(&b);
    }
    free(want);
}

/* A training step of each: every weight has a gradient, the loss is finite, and given frames and
 * pictures are where they belong. */
static void test_training(void **state) {
    (void)state;
    static const kin_denoiser_kind kinds[] = {KIN_DENOISER_STDIT, KIN_DENOISER_STDIT2,
                                              KIN_DENOISER_LATTE, KIN_DENOISER_PIXART};
    for (int i = 0; i < 4; i++) {
        bench b = bench_open("cpu");
        kin_denoiser_config c = tiny(kinds[i]);
        kin_denoiser_shape shape = kin_denoiser_shape_of(&c);
        kin_schedule *schedule;
        must(&b, kin_schedule_create(b.context, 1000, NULL, &schedule));
        if (shape.frame_masks) kin_schedule_use_single(schedule);
        int images = kinds[i] == KIN_DENOISER_LATTE ? 2 : 0, captions = 1 + images;
        kin_video_training training = {.model = &c,
                                       .images = images,
                                       .frame_masks = shape.frame_masks,
                                       .schedule = schedule,
                                       .scaling_factor = 0.18215,
                                       .caption_dropout = shape.null_captions,
                                       .batch = 2,
                                       .frames = shape.pictures ? 1 : FRAMES + images,
                                       .latent_height = SIDE,
                                       .latent_width = SIDE,
                                       .text_length = WORDS};
        kin_optimizer_options optimizer = {
            .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .max_grad_norm = 1};
        kin_training_update(b.graph, kin_video_training_loss(b.graph, &training), &optimizer);
        must(&b, kin_graph_status(b.graph));
        int weights = 0;
        for (int v = 0; v < kin_variable_count(b.graph); v++) {
            kin_tensor variable = kin_variable_at(b.graph, v);
            if (kin_variable_kind_of(b.graph, variable) != KIN_VARIABLE_WEIGHT) continue;
            assert_true(kin_gradient(b.graph, variable).id != 0);
            weights++;
        }
        assert_true(weights > 40);
        bench_prepare(&b);
        size_t count = (size_t)(2 * 8 * training.frames * PLANE);
        float *moments = calloc(count, sizeof *moments), *y = calloc(4096, sizeof *y);
        float mask[2 * FRAMES] = {0, 1, 1, 1, 1, 0}, rate = 1e-3f, loss;
        int32_t lengths[8];
        int64_t seed[2] = {5, 1}, step = 1;
        kin_philox_fill_normal(1, 1, 1, 0, count, moments);
        assert_true(2 * captions * WORDS * CAPTION <= 4096);
        kin_philox_fill_normal(1, 2, 1, 0, (size_t)(2 * captions * WORDS * CAPTION), y);
        for (int k = 0; k < 2 * captions; k++) lengths[k] = 1 + k % WORDS;
        must(&b, kin_plan_write(b.plan, "moments", KIN_F32, moments));
        must(&b, kin_plan_write(b.plan, "features", KIN_F32, y));
        must(&b, kin_plan_write(b.plan, "lengths", KIN_I32, lengths));
        must(&b, kin_plan_write(b.plan, "seed", KIN_I64, seed));
        must(&b, kin_plan_write(b.plan, "lr", KIN_F32, &rate));
        must(&b, kin_plan_write(b.plan, "step", KIN_I64, &step));
        if (shape.frame_masks) must(&b, kin_plan_write(b.plan, "frame_mask", KIN_F32, mask));
        must(&b, kin_plan_run(b.plan));
        must(&b, kin_plan_read(b.plan, "loss", KIN_F32, &loss));
        /* The last layer starts at zero, so the squared error is that of the noise, 1. */
        assert_true(isfinite(loss) && loss > 0.8);
        must(&b, kin_plan_read(b.plan, "mse", KIN_F32, &loss));
        if (fabs(loss - 1) > 0.15) fail_msg("%s: %g", kin_denoiser_kind_name(c.kind), loss);
        free(moments);
        free(y);
        kin_schedule_free(schedule);
        bench_close(&b);
    }
}

/* The graphs that generate and train: a guided step of each model with its usual sampler. */
static void test_sampling_graphs(void **state) {
    (void)state;
    static const kin_denoiser_kind kinds[] = {KIN_DENOISER_STDIT, KIN_DENOISER_STDIT2,
                                              KIN_DENOISER_LATTE, KIN_DENOISER_PIXART,
                                              KIN_DENOISER_OPENSORA_PLAN};
    for (int i = 0; i < 5; i++) {
        bench b = bench_open("cpu");
        kin_graph *g = b.graph;
        kin_denoiser_config c = tiny(kinds[i]);
        kin_denoiser_shape shape = kin_denoiser_shape_of(&c);
        int64_t dims[5] = {1, 4, shape.pictures ? 1 : FRAMES, SIDE, SIDE};
        int64_t text[3] = {1, WORDS, CAPTION};
        kin_denoiser_sampling sampling = {.config = &c,
                                          .precision = &f32,
                                          .scope = "denoiser",
                                          .y = kin_input(g, "y", KIN_F32, 3, text),
                                          .y_lengths = kin_input(g, "lengths", KIN_I32, 1, text),
                                          .guided = true,
                                          .null_first = i % 2};
        if (!shape.own_null_caption) sampling.null_y = kin_input(g, "null_y", KIN_F32, 3, text);
        kin_schedule *schedule;
        must(&b, kin_schedule_create(b.context, 1000, "10", &schedule));
        kin_sampler_options options = {.method = KIN_SAMPLER_IDDPM, .cfg_scale = 7};
        if (shape.frame_masks)
            kin_masked_sampler_graph(g, schedule, &options, dims, kin_denoiser_sample_masked,
                                     &sampling);
        else kin_sampler_graph(g, schedule, &options, dims, kin_denoiser_sample, &sampling);
        must(&b, kin_graph_status(g));
        bench_prepare(&b);
        for (size_t k = 0; k < kin_store_count(b.store); k++)
            assert_true(strncmp(kin_store_at(b.store, k)->name, "denoiser.", 9) == 0);
        float latents[4 * FRAMES * PLANE], y[WORDS * CAPTION], ratios[FRAMES] = {0, 1, 1};
        float given[PLANE];
        size_t count = (size_t)(4 * dims[2] * PLANE);
        int32_t length = WORDS;
        kin_philox_fill_normal(1, 2, 1, 0, WORDS * CAPTION, y);
        kin_philox_fill_normal(1, 3, 1, 0, count, latents);
        memcpy(given, latents, sizeof given);
        must(&b, kin_plan_write(b.plan, "y", KIN_F32, y));
        must(&b, kin_plan_write(b.plan, "lengths", KIN_I32, &length));
        if (!shape.own_null_caption) must(&b, kin_plan_write(b.plan, "null_y", KIN_F32, y));
        kin_sampler_loop loop = {.seed = 4};
        must(&b, shape.frame_masks ? kin_masked_sampler_run(b.plan, b.context, schedule, &options,
                                                            &loop, ratios, FRAMES, latents, count)
                                   : kin_sampler_run(b.plan, b.context, schedule, &options, &loop,
                                                     latents, count));
        double moved = 0;
        for (size_t k = 0; k < count; k++) assert_true(isfinite(latents[k]));
        for (size_t k = 0; k < PLANE; k++) moved = fmax(moved, fabs(latents[k] - given[k]));
        /* A given frame is denoised once, from the lowest noise level; the others come from noise.
         */
        assert_true(shape.frame_masks ? moved < 0.2 : moved > 0.5);
        kin_schedule_free(schedule);
        bench_close(&b);
    }
    /* Latte has no null caption of its own. */
    bench b = bench_open("null");
    kin_denoiser_config c = tiny(KIN_DENOISER_LATTE);
    int64_t text[3] = {1, WORDS, CAPTION};
    kin_denoiser_sampling sampling = {.config = &c,
                                      .precision = &f32,
                                      .y = kin_input(b.graph, "y", KIN_F32, 3, text),
                                      .guided = true};
    int64_t dims[5] = {2, 4, FRAMES, SIDE, SIDE};
    kin_denoiser_sample(&sampling, b.graph, kin_input(b.graph, "x", KIN_F32, 5, dims),
                        kin_input(b.graph, "timestep", KIN_F32, 1, dims));
    assert_int_equal(kin_graph_status(b.graph), KIN_INVALID);
    assert_non_null(strstr(kin_context_error(b.context), "negative prompt"));
    bench_close(&b);
}

/* The front of Open-Sora-Plan against the model: a guided pass with prompts of different lengths,
 * and a video with a picture, equal what masks made by hand give. Within 1e-5 of the largest value.
 */
static double largest_difference(const float *a, const float *b, size_t count,
                                 double *out_largest) {
    double worst = 0;
    *out_largest = 0;
    for (size_t i = 0; i < count; i++) {
        worst = fmax(worst, fabs(a[i] - b[i]));
        *out_largest = fmax(*out_largest, fabs(b[i]));
    }
    return worst;
}

static void test_opensora_plan_front(void **state) {
    (void)state;
    for (int joint = 0; joint < 2; joint++) {
        bench b = bench_open("cpu");
        kin_graph *g = b.graph;
        kin_denoiser_config c = tiny(KIN_DENOISER_OPENSORA_PLAN);
        int64_t two = 2, dims[5] = {2, 4, FRAMES, SIDE, SIDE};
        int64_t text[4] = {2, 1, WORDS, CAPTION};
        kin_tensor x = kin_input(g, "x", KIN_F32, 5, dims), half[2];
        kin_tensor timestep = kin_input(g, "timestep", KIN_F32, 1, &two);
        kin_tensor y = kin_input(g, "y", KIN_F32, 4, text);
        kin_tensor lengths = kin_input(g, "lengths", KIN_I32, 1, &two);
        kin_tensor mask = kin_input(g, "y_mask", KIN_F32, 3, text), front;
        kin_opensora_plan_inputs direct = {
            .x = x, .timestep = timestep, .text = y, .text_mask = mask};
        if (joint) { /* one video of two frames and a picture, each with a caption */
            direct.x = kin_slice(g, x, 0, 0, 1);
            direct.timestep = kin_slice(g, timestep, 0, 0, 1);
            direct.text = kin_reshape(g, y, 4, (int64_t[]){1, 2, WORDS, CAPTION});
            direct.text_mask = kin_reshape(g, mask, 3, (int64_t[]){1, 2, WORDS});
            kin_denoiser_inputs in = {.x = direct.x,
                                      .timestep = direct.timestep,
                                      .y = direct.text,
                                      .y_lengths = kin_reshape(g, lengths, 2, (int64_t[]){1, 2}),
                                      .images = 1};
            front = kin_denoiser(g, &c, &f32, &in);
        } else { /* a prompt, then the negative one */
            kin_tensor length[2];
            kin_split(g, kin_reshape(g, y, 3, (int64_t[]){2, WORDS, CAPTION}), 0, 2, half);
            kin_split(g, lengths, 0, 2, length);
            kin_denoiser_sampling sampling = {.config = &c,
                                              .precision = &f32,
                                              .y = half[1],
                                              .y_lengths = length[1],
                                              .null_y = half[0],
                                              .null_lengths = length[0],
                                              .guided = true,
                                              .null_first = true};
            front = kin_denoiser_sample(&sampling, g, x, timestep);
        }
        kin_output(g, "front", front);
        kin_output(g, "model", kin_opensora_plan(g, &c.opensora_plan, &f32, &direct));
        must(&b, kin_graph_status(g));
        bench_prepare(&b);
        enum { COUNT = 2 * 4 * FRAMES * PLANE };
        static float latents[COUNT], got[COUNT], want[COUNT];
        float captions[2 * WORDS * CAPTION], times[] = {37, 901}, kept[2 * WORDS] = {0};
        int32_t count[2] = {2, WORDS};
        for (int i = 0; i < 2 * WORDS; i++) kept[i] = i % WORDS < count[i / WORDS];
        kin_philox_fill_normal(1, 2, 1, 0, COUNT, latents);
        kin_philox_fill_normal(1, 3, 1, 0, 2 * WORDS * CAPTION, captions);
        randomise(&b);
        must(&b, kin_plan_write(b.plan, "x", KIN_F32, latents));
        must(&b, kin_plan_write(b.plan, "timestep", KIN_F32, times));
        must(&b, kin_plan_write(b.plan, "y", KIN_F32, captions));
        must(&b, kin_plan_write(b.plan, "lengths", KIN_I32, count));
        must(&b, kin_plan_write(b.plan, "y_mask", KIN_F32, kept));
        size_t values = joint ? COUNT / 2 : COUNT;
        double largest;
        for (int lengths_equal = 1; lengths_equal >= 0; lengths_equal--) {
            if (!lengths_equal) { /* negative control: another length must show */
                count[0] = 4;
                must(&b, kin_plan_write(b.plan, "lengths", KIN_I32, count));
            }
            must(&b, kin_plan_run(b.plan));
            must(&b, kin_plan_read(b.plan, "front", KIN_F32, got));
            must(&b, kin_plan_read(b.plan, "model", KIN_F32, want));
            double worst = largest_difference(got, want, values, &largest);
            assert_true(largest > 0.1);
            assert_true(lengths_equal ? worst < 1e-5 * largest : worst > 1e-3 * largest);
        }
        bench_close(&b);
    }
}

/* A negative prompt takes the place of STDiT's own null caption, with its own length; the control
 * is the null caption, which must give something else. */
static void test_negative_prompt(void **state) {
    (void)state;
    bench b = bench_open("cpu");
    kin_graph *g = b.graph;
    kin_denoiser_config c = tiny(KIN_DENOISER_STDIT);
    int64_t two = 2, one = 1, dims[5] = {2, 4, FRAMES, SIDE, SIDE}, text[3] = {1, WORDS, CAPTION};
    kin_tensor x = kin_input(g, "x", KIN_F32, 5, dims);
    kin_tensor timestep = kin_input(g, "timestep", KIN_F32, 1, &two);
    kin_tensor y[2] = {kin_input(g, "y", KIN_F32, 3, text), kin_input(g, "n", KIN_F32, 3, text)};
    kin_tensor lengths[2] = {kin_input(g, "lengths", KIN_I32, 1, &one),
                             kin_input(g, "n_lengths", KIN_I32, 1, &one)};
    kin_denoiser_sampling own = {
        .config = &c, .precision = &f32, .y = y[0], .y_lengths = lengths[0], .guided = true};
    kin_denoiser_sampling negative = own;
    negative.null_y = y[1];
    negative.null_lengths = lengths[1];
    kin_denoiser_inputs direct = {.x = x,
                                  .timestep = timestep,
                                  .y = kin_concat(g, y, 2, 0),
                                  .y_lengths = kin_concat(g, lengths, 2, 0)};
    kin_output(g, "negative", kin_denoiser_sample(&negative, g, x, timestep));
    kin_output(g, "direct", kin_denoiser(g, &c, &f32, &direct));
    kin_output(g, "own", kin_denoiser_sample(&own, g, x, timestep));
    must(&b, kin_graph_status(g));
    bench_prepare(&b);
    randomise(&b);
    enum { OUTPUTS = 2 * OUT * FRAMES * PLANE };
    static float latents[2 * 4 * FRAMES * PLANE], got[OUTPUTS], want[OUTPUTS], null[OUTPUTS];
    float captions[2 * WORDS * CAPTION], times[] = {500, 500};
    int32_t count[2] = {WORDS, 2};
    kin_philox_fill_normal(1, 2, 1, 0, sizeof latents / sizeof *latents, latents);
    kin_philox_fill_normal(1, 3, 1, 0, 2 * WORDS * CAPTION, captions);
    must(&b, kin_plan_write(b.plan, "x", KIN_F32, latents));
    must(&b, kin_plan_write(b.plan, "timestep", KIN_F32, times));
    must(&b, kin_plan_write(b.plan, "y", KIN_F32, captions));
    must(&b, kin_plan_write(b.plan, "n", KIN_F32, captions + WORDS * CAPTION));
    must(&b, kin_plan_write(b.plan, "lengths", KIN_I32, count));
    must(&b, kin_plan_write(b.plan, "n_lengths", KIN_I32, count + 1));
    must(&b, kin_plan_run(b.plan));
    must(&b, kin_plan_read(b.plan, "negative", KIN_F32, got));
    must(&b, kin_plan_read(b.plan, "direct", KIN_F32, want));
    must(&b, kin_plan_read(b.plan, "own", KIN_F32, null));
    double largest, worst = largest_difference(got, want, OUTPUTS, &largest);
    assert_true(largest > 0.1 && worst < 1e-5 * largest);
    assert_true(largest_difference(null, want, OUTPUTS, &largest) > 1e-3 * largest);
    /* The captions' half is the same. */
    assert_true(largest_difference(null, want, OUTPUTS / 2, &largest) < 1e-5 * largest);
    bench_close(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_starts_from_pixart),
        cmocka_unit_test(test_rows_of_a_table),
        cmocka_unit_test(test_parts_of_a_variable),
        cmocka_unit_test(test_frame_mask),
        cmocka_unit_test(test_training),
        cmocka_unit_test(test_sampling_graphs),
        cmocka_unit_test(test_opensora_plan_front),
        cmocka_unit_test(test_negative_prompt),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
