/* Training every published system from folders in its layout: it learns, resumes bit for bit, and
 * what it writes has the names and shapes of the original's files and generates; batches of several
 * shapes, stages, recipes. Comparisons of files are bit for bit. */
#define _XOPEN_SOURCE 700
#include "tests/train_helper.h"

#include <jansson.h>

#include "tools/train/train.h"

#if defined KIN_HAVE_FFMPEG && defined KIN_HAVE_SENTENCEPIECE

/* Losses of these models start near 1, the variance of the noise; a model that has learned nothing
 * stays there (negative_control_learns_nothing). */
#define LEARNED 0.85
#define NOT_LEARNED 0.93

enum { CONFIG_SIZE = 8192, METRIC_STEPS = 4096 };

static const char *const systems[] = {"open-sora-1.0", "open-sora-1.1", "latte", "pixart-alpha",
                                      "open-sora-plan-1.2"};
enum { OPEN_SORA_1_0, OPEN_SORA_1_1, LATTE, PIXART, OPEN_SORA_PLAN, SYSTEMS };

/* What each trains on. */
static const char *const data_of[SYSTEMS] = {"\"num_frames\": 4", "\"num_frames\": 4",
                                             "\"num_frames\": 4, \"images\": 1",
                                             "\"num_frames\": 1", "\"num_frames\": 5"};

/* ---- the folder ---- */

static void write_picture(const media *m, const char *name, int height, int width, float value) {
    int64_t dims[4] = {3, 1, height, width};
    kin_host_tensor picture;
    assert_int_equal(kin_host_tensor_create(m->context, KIN_F32, 4, dims, &picture), KIN_OK);
    float *pixels = picture.data;
    for (int i = 0; i < 3 * height * width; i++) pixels[i] = i % width < width / 2 ? value : -value;
    assert_int_equal(kin_video_write(m->context, media_path(m, name), &picture, NULL), KIN_OK);
    kin_host_tensor_free(m->context, &picture);
}

/* Clips of 9 and of 6 frames, and three pictures: with the columns that buckets read, and without.
 */
static void write_tables(const media *m) {
    char text[4096], *at = text, *end = text + sizeof text;
    write_picture(m, "wide.png", 32, 48, 0.5f);
    write_picture(m, "square.png", 40, 40, 0.8f);
    write_picture(m, "tall.png", 48, 32, -0.5f);
    at += snprintf(at, (size_t)(end - at), "path,text,num_frames,height,width,fps\n");
    for (int i = 0; i < 4; i++)
        at += snprintf(at, (size_t)(end - at), "long/clips/%06d.mp4,a long clip,9,32,32,8\n", i);
    for (int i = 0; i < 3; i++)
        at += snprintf(at, (size_t)(end - at), "short/clips/%06d.mp4,a short one,6,32,32,12\n", i);
    at += snprintf(at, (size_t)(end - at),
                   "wide.png,a wide picture,1,32,48,0\nsquare.png,a square,1,40,40,0\n"
                   "tall.png,a tall picture,1,48,32,0\n");
    media_write(media_path(m, "mixed.csv"), text, (size_t)(at - text));
    static const char bare[] = "video_file_name,prompt\nlong/clips/000000.mp4,a long clip\n"
                               "short/clips/000001.mp4,a short one\nwide.png,a wide picture\n"
                               "square.png,a square\n";
    media_write(media_path(m, "bare.csv"), bare, sizeof bare - 1);
    static const char two[] = "long/clips/000000.mp4,one,9\nlong/clips/000001.mp4,another,9\n";
    media_write(media_path(m, "two.csv"), two, sizeof two - 1); /* without a header */
}

/* An object from its members. */
static json_t *members(const char *text) {
    char object[2 * CONFIG_SIZE];
    json_error_t error;
    snprintf(object, sizeof object, "{%s}", text);
    json_t *json = json_loads(object, JSON_REJECT_DUPLICATES, &error);
    if (!json) fail_msg("%s: %s", error.text, text);
    return json;
}

/* FOLDER/NAME.json: a training of a system into run-NAME; `data` and `more` are members of "data"
 * and of the whole. */
static void write_config(const media *m, const char *name, int system, const char *csv,
                         const char *data, const char *more) {
    char text[CONFIG_SIZE], file[MEDIA_PATH];
    snprintf(text, sizeof text,
             "\"task\": \"text-to-video\", \"model\": \"%s/%s\", \"output\": \"%s/run-%s\","
             "\"data\": {\"csv\": \"%s/%s\", \"height\": 32, \"width\": 32}, \"steps\": 3,"
             "\"batch_size\": 2, \"learning_rate\": 0.003, \"log_every\": 1, \"ema_decay\": 0.5,"
             "\"checkpoint_every\": 1000, \"posterior\": \"mean\"",
             m->folder, systems[system], m->folder, name, m->folder, csv);
    json_t *config = members(text), *changes = members(more), *clips = members(data);
    json_object_update(json_object_get(config, "data"), clips);
    json_object_update(config, changes);
    char *whole = json_dumps(config, JSON_INDENT(1));
    snprintf(file, sizeof file, "%s.json", name);
    media_write(media_path(m, file), whole, strlen(whole));
    free(whole);
    json_decref(config);
    json_decref(changes);
    json_decref(clips);
}

static int setup(void **state) {
    if (access("/dev/shm", W_OK | X_OK) == 0) setenv("TMPDIR", "/dev/shm", 0);
    if (media_setup(state) != 0) return -1;
    media *m = *state;
    int failed = 0;
    for (int i = 0; i < SYSTEMS; i++)
        failed |=
            train_run(m, kin_verb_init,
                      ARGUMENTS(systems[i], media_path(m, systems[i]), "--size", "tiny", "-q"));
    failed |= train_run(m, kin_verb_data_synth,
                        ARGUMENTS(media_path(m, "long"), "--clips", "4", "--heldout-clips", "0",
                                  "--video-frames", "9", "--size", "32", "-q"));
    failed |= train_run(m, kin_verb_data_synth,
                        ARGUMENTS(media_path(m, "short"), "--clips", "3", "--heldout-clips", "0",
                                  "--video-frames", "6", "--size", "32", "--seed", "7", "-q"));
    if (failed) {
        fprintf(stderr, "%s", train_told);
        return -1;
    }
    write_tables(m);
    return 0;
}

/* ---- runs ---- */

static int train_config(const media *m, const char *name, const char *const *more) {
    const char *list[TRAIN_ARGUMENTS];
    char file[MEDIA_PATH];
    int count = 0;
    snprintf(file, sizeof file, "%s.json", name);
    list[count++] = media_path(m, file);
    while (*more) list[count++] = *more++;
    list[count] = NULL;
    return train_run(m, kin_verb_train, list);
}

#define TRAIN(name, ...) train_config(m, name, ARGUMENTS("-v", __VA_ARGS__))

/* kinora check resume of FOLDER/NAME.json. */
static void check_resume(const media *m, const char *name) {
    char file[MEDIA_PATH];
    snprintf(file, sizeof file, "%s.json", name);
    assert_exit(0, train_run(m, kin_verb_check_resume,
                             ARGUMENTS(media_path(m, file), "--steps", "2", "--more", "3", "-q")));
    assert_told("the same bits in all");
}

/* Losses of a run's steps; returns how many. */
static int read_losses(const media *m, const char *name, double losses[METRIC_STEPS]) {
    char path[MEDIA_PATH];
    size_t size = 0;
    int count = 0;
    snprintf(path, sizeof path, "run-%s/metrics.jsonl", name);
    char *text = (char *)media_read(media_path(m, path), &size);
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        json_t *object = json_loads(line, 0, NULL);
        assert_in_range(count, 0, METRIC_STEPS - 1);
        losses[count++] = json_real_value(json_object_get(object, "loss"));
        json_decref(object);
    }
    free(text);
    return count;
}

/* The mean over the last quarter of a run's steps. */
static double last_losses(const media *m, const char *name) {
    static double losses[METRIC_STEPS];
    int count = read_losses(m, name, losses), first = count - count / 4;
    double sum = 0;
    for (int i = first; i < count; i++) sum += losses[i];
    return sum / (count - first);
}

/* The file of the denoiser that a run of a system exports. */
static const char *exported(const media *m, const char *name, int system) {
    char path[MEDIA_PATH];
    snprintf(path, sizeof path, "run-%s/model/transformer/%s.safetensors", name,
             system == OPEN_SORA_1_1 ? "model" : "diffusion_pytorch_model");
    return media_path(m, path);
}

/* ---- every system ---- */

static void every_system_learns(void **state) {
    media *m = *state;
    for (int i = 0; i < SYSTEMS; i++) {
        char again[64];
        write_config(m, systems[i], i, "two.csv", data_of[i], "\"caption_dropout\": 0");
        assert_exit(0, TRAIN(systems[i], "--set", "steps=60"));
        assert_told("0 start anew");
        double loss = last_losses(m, systems[i]);
        if (!(loss < LEARNED)) fail_msg("%s: a loss of %g after 60 steps", systems[i], loss);
        /* what it wrote is a system again, whose weights a training without a rate leaves alone */
        snprintf(again, sizeof again, "%s-again", systems[i]);
        write_config(m, again, i, "two.csv", data_of[i], "\"learning_rate\": 0");
        char set[2 * MEDIA_PATH];
        snprintf(set, sizeof set, "model=%s/run-%s/model", m->folder, systems[i]);
        assert_exit(0, TRAIN(again, "--set", set));
        const char *where = train_difference(m, exported(m, systems[i], i), exported(m, again, i));
        if (where[0]) fail_msg("%s: %s is not what was exported", systems[i], where);
        /* and generates, the same from both */
        for (int k = 0; k < 2; k++) {
            char model[MEDIA_PATH], out[MEDIA_PATH];
            snprintf(model, sizeof model, "run-%s/model", k ? again : systems[i]);
            snprintf(out, sizeof out, "sample%d.%s", k, i == PIXART ? "png" : "mp4");
            assert_exit(0, train_run(m, kin_verb_generate,
                                     ARGUMENTS("-m", media_path(m, model), "-p", "one", "--steps",
                                               "2", "-q", "-o", media_path(m, out))));
        }
        kin_host_tensor clips[2];
        for (int k = 0; k < 2; k++) {
            char out[MEDIA_PATH];
            snprintf(out, sizeof out, "sample%d.%s", k, i == PIXART ? "png" : "mp4");
            assert_int_equal(kin_video_read(m->context, media_path(m, out), NULL, &clips[k]),
                             KIN_OK);
        }
        assert_true(kin_desc_same_shape(&clips[0].desc, &clips[1].desc));
        assert_memory_equal(clips[0].data, clips[1].data, kin_desc_bytes(&clips[0].desc));
        for (int k = 0; k < 2; k++) kin_host_tensor_free(m->context, &clips[k]);
    }
}

static void negative_control_learns_nothing(void **state) {
    media *m = *state;
    write_config(m, "still", OPEN_SORA_1_0, "two.csv", data_of[0], "\"caption_dropout\": 0");
    assert_exit(0, TRAIN("still", "--set", "steps=20", "--set", "learning_rate=0"));
    assert_true(last_losses(m, "still") > NOT_LEARNED);
}

static void every_system_resumes(void **state) {
    media *m = *state;
    static const struct {
        int system;
        const char *csv, *data, *more;
    } runs[] = {
        {OPEN_SORA_1_0, "two.csv", "\"num_frames\": 4, \"frame_choice\": \"linspace\"", ""},
        {OPEN_SORA_1_0, "bare.csv", "\"num_frames\": 2",
         "\"text_features\": \"each_batch\", \"clean_captions\": true"},
        {OPEN_SORA_1_1, "mixed.csv",
         "\"resize\": \"resize_crop\", \"buckets\": {\"29x35\": {\"1\": [0.5, 2], \"4\": [0.7, 2], "
         "\"8\": [0.9, 1]}, \"24x40\": {\"1\": [1, 1], \"2\": [1, 2]}}",
         "\"frame_masks\": {\"mask_quarter_head\": 0.3, \"mask_image_random\": 0.3}, "
         "\"accumulate_steps\": 2, \"timesteps\": {\"speed\": true}"},
        {LATTE, "mixed.csv", "\"num_frames\": 4, \"images\": 2", "\"caption_dropout\": 0.5"},
        {PIXART, "bare.csv", "\"num_frames\": 1", "\"attend_padding\": true"},
        {OPEN_SORA_PLAN, "mixed.csv",
         "\"num_frames\": 9, \"group_frame\": true, \"drop_short_ratio\": 0",
         "\"accumulate_steps\": 2, \"diffusion\": {\"prediction_type\": \"v_prediction\"}"},
        {OPEN_SORA_PLAN, "mixed.csv",
         "\"num_frames\": 9, \"variable_length\": true, \"drop_short_ratio\": 0, "
         "\"frame_choice\": \"rate\", \"fps\": 8",
         "\"batch_size\": 3"},
        {OPEN_SORA_PLAN, "mixed.csv", "\"num_frames\": 5, \"images\": 1",
         "\"diffusion\": {\"snr_gamma\": 0, \"prediction_type\": \"sample\"}"},
    };
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        write_config(m, "resumed", runs[i].system, runs[i].csv, runs[i].data, runs[i].more);
        check_resume(m, "resumed");
    }
}

/* Two processes with half a batch each train as one with the whole: each kind of batch is shared
 * out sample by sample, with its masks, pictures, captions and noise. Losses agree to 1e-5; with
 * the ranks' samples mixed up they do not (negative control: another seed). */
static void ranks_share_every_kind_of_batch(void **state) {
    media *m = *state;
    enum { STEPS = 4 };
    static const struct {
        int system;
        const char *csv, *whole, *half, *more;
    } runs[] = {
        {OPEN_SORA_1_1, "mixed.csv",
         "\"resize\": \"resize_crop\", \"buckets\": {\"29x35\": {\"1\": [0.5, 2], \"4\": [1, 2]}}",
         "\"resize\": \"resize_crop\", \"buckets\": {\"29x35\": {\"1\": [0.5, 1], \"4\": [1, 1]}}",
         "\"frame_masks\": {\"mask_quarter_head\": 0.4, \"mask_image_random\": 0.4}, "
         "\"timesteps\": {\"speed\": true}"},
        {LATTE, "mixed.csv", "\"num_frames\": 4, \"images\": 2", "\"num_frames\": 4, \"images\": 2",
         "\"caption_dropout\": 0.5"},
        {OPEN_SORA_PLAN, "mixed.csv", "\"num_frames\": 9, \"group_frame\": true",
         "\"num_frames\": 9, \"group_frame\": true",
         "\"accumulate_steps\": 2, \"caption_dropout\": 0.5"},
    };
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        static double whole[METRIC_STEPS], half[METRIC_STEPS], other[METRIC_STEPS];
        double far = 0, farther = 0;
        char more[CONFIG_SIZE];
        snprintf(more, sizeof more, "%s, \"adam_epsilon\": 0.001, \"posterior\": \"sample\"",
                 runs[i].more);
        write_config(m, "whole", runs[i].system, runs[i].csv, runs[i].whole, more);
        write_config(m, "half", runs[i].system, runs[i].csv, runs[i].half, more);
        media_remove(media_path(m, "run-whole"));
        media_remove(media_path(m, "run-half"));
        media_remove(media_path(m, "run-other"));
        assert_exit(0, TRAIN("whole", "--set", "steps=4"));
        assert_exit(0, TRAIN("half", "--set", "steps=4", "--set", "batch_size=1", "--ranks", "2"));
        assert_exit(0,
                    TRAIN("half", "--set", "steps=4", "--set", "batch_size=1", "--ranks", "2",
                          "--set", "seed=43", "--set", train_set_path(m, "output", "run-other")));
        const char *features = "run-half/features.safetensors";
        assert_true(kin_file_exists(media_path(m, features)));
        assert_string_equal(train_difference(m, media_path(m, "run-whole/features.safetensors"),
                                             media_path(m, features)),
                            "");
        assert_int_equal(read_losses(m, "whole", whole), STEPS);
        assert_int_equal(read_losses(m, "half", half), STEPS);
        assert_int_equal(read_losses(m, "other", other), STEPS);
        for (int k = 0; k < STEPS; k++) {
            far = fmax(far, fabs(half[k] - whole[k]) / fabs(whole[k]));
            farther = fmax(farther, fabs(other[k] - whole[k]) / fabs(whole[k]));
        }
        if (!(far <= 1e-5)) fail_msg("%s: losses differ by %g", systems[runs[i].system], far);
        assert_true(farther > 1e-3);
    }
}

/* Features of the text encoder are the same from the cache and batch by batch. */
static void features_do_not_depend_on_when(void **state) {
    media *m = *state;
    write_config(m, "features", LATTE, "mixed.csv", data_of[LATTE], "\"caption_dropout\": 0.5");
    assert_exit(0, TRAIN("features", "--set", "steps=4"));
    assert_true(kin_file_exists(media_path(m, "run-features/features.safetensors")));
    assert_exit(0, TRAIN("features", "--set", "steps=4", "--set", "text_features=each_batch",
                         "--set", train_set_path(m, "output", "run-batch")));
    assert_false(kin_file_exists(media_path(m, "run-batch/features.safetensors")));
    assert_string_equal(
        train_difference(m, media_path(m, "run-features/checkpoint-00000004.safetensors"),
                         media_path(m, "run-batch/checkpoint-00000004.safetensors")),
        "");
    /* its memory counts */
    assert_exit(1, TRAIN("features", "--set", "text_features=each_batch", "--set", "memory=600K",
                         "--set", train_set_path(m, "output", "run-tiny")));
    assert_told("memory");
}

/* ---- the originals' files ---- */

/* A training of a reference case's weights that changes nothing: what is exported has the case's
 * names, shapes, dtype and values, tables of positions too. */
static void exports_are_the_originals(void **state) {
    media *m = *state;
    static const struct {
        int system;
        const char *name, *data;
        int captions;
    } cases[] = {
        {OPEN_SORA_1_0, "open-sora-1.0-stdit", "\"num_frames\": 4, \"height\": 64, \"width\": 64",
         20},
        {OPEN_SORA_1_1, "open-sora-1.1-stdit2", "\"num_frames\": 4", 16},
        {LATTE, "latte-t2v", "\"num_frames\": 4", 32},
        {PIXART, "pixart-alpha-1024", "\"num_frames\": 1", 0},
        {OPEN_SORA_PLAN, "open-sora-plan-1.2-dit", "\"num_frames\": 5", 32},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char folder[MEDIA_PATH], more[CONFIG_SIZE], path[2 * MEDIA_PATH];
        json_error_t error;
        if (!media_reference(cases[i].name, folder)) return;
        snprintf(path, sizeof path, "%s/config.json", folder);
        json_t *config = json_load_file(path, 0, &error);
        assert_non_null(config);
        char *text = json_dumps(config, JSON_COMPACT);
        int captions = cases[i].captions
                           ? cases[i].captions
                           : (int)json_integer_value(json_object_get(config, "caption_channels"));
        int length = snprintf(
            more, sizeof more,
            "\"denoiser\": %s, \"init_path\": \"%s/weights.safetensors\", \"learning_rate\": 0, "
            "\"train_text_encoder\": true, \"caption_dropout\": 0, \"tokenizer\": {\"vocab_size\": "
            "32}, "
            "\"text_encoder\": {\"vocab_size\": 32, \"d_model\": %d, \"num_heads\": 2, \"d_kv\": 4,"
            "\"d_ff\": 16, \"num_layers\": 1}",
            text, folder, captions);
        assert_in_range(length, 1, sizeof more - 1);
        free(text);
        json_decref(config);
        write_config(m, "witness", cases[i].system, "mixed.csv", cases[i].data, more);
        assert_exit(0, TRAIN("witness", "--set", "steps=1"));
        kin_safetensors *want, *got;
        snprintf(path, sizeof path, "%s/weights.safetensors", folder);
        assert_int_equal(kin_safetensors_open(m->context, path, &want), KIN_OK);
        assert_int_equal(
            kin_safetensors_open(m->context, exported(m, "witness", cases[i].system), &got),
            KIN_OK);
        assert_int_equal(kin_safetensors_count(got), kin_safetensors_count(want));
        for (size_t k = 0; k < kin_safetensors_count(want); k++) {
            const kin_named_tensor *x = kin_safetensors_at(want, k);
            const kin_named_tensor *y = kin_safetensors_find(got, x->name);
            if (!y) fail_msg("%s: no %s was exported", cases[i].name, x->name);
            assert_int_equal(x->desc.dtype, y->desc.dtype);
            assert_int_equal(x->desc.rank, y->desc.rank);
            if (!kin_desc_same_shape(&x->desc, &y->desc))
                fail_msg("%s: %s has another shape", cases[i].name, x->name);
            for (int64_t e = 0; e < kin_desc_count(&x->desc); e++) {
                double a = kin_element_get(x->data, KIN_F32, e);
                double b = kin_element_get(y->data, KIN_F32, e);
                if (!(fabs(a - b) <= 1e-6)) /* tables are computed; weights are equal */
                    fail_msg("%s: %s[%lld] is %g, not %g", cases[i].name, x->name, (long long)e, b,
                             a);
            }
        }
        kin_safetensors_close(want);
        kin_safetensors_close(got);
        media_remove(media_path(m, "run-witness"));
    }
}

/* A video model from an image model's folder: what PixArt has is taken, temporal layers are zero.
 */
static void starts_from_pixart(void **state) {
    media *m = *state;
    char more[CONFIG_SIZE], path[MEDIA_PATH];
    for (int i = OPEN_SORA_1_0; i <= LATTE; i++) {
        json_error_t error;
        snprintf(path, sizeof path, "%s/transformer/config.json", systems[i]);
        json_t *config = json_load_file(media_path(m, path), 0, &error);
        assert_non_null(config);
        char *text = json_dumps(config, JSON_COMPACT);
        snprintf(more, sizeof more, "\"denoiser\": %s, \"learning_rate\": 0", text);
        free(text);
        json_decref(config);
        write_config(m, "frompixart", PIXART, "two.csv", "\"num_frames\": 4", more);
        assert_exit(0, TRAIN("frompixart", "--set", "steps=1"));
        assert_told("start anew");
        static const char *const zero[] = {"blocks.1.attn_temp.proj.weight",
                                           "blocks.1.attn_temp.proj.weight",
                                           "temporal_transformer_blocks.1.attn1.to_out.0.weight"};
        kin_safetensors *file;
        assert_int_equal(kin_safetensors_open(m->context, exported(m, "frompixart", i), &file),
                         KIN_OK);
        const kin_named_tensor *t = kin_safetensors_find(file, zero[i]);
        assert_non_null(t);
        for (int64_t e = 0; e < kin_desc_count(&t->desc); e++)
            assert_true(kin_element_get(t->data, KIN_F32, e) == 0);
        kin_safetensors_close(file);
        media_remove(media_path(m, "run-frompixart"));
    }
}

/* ---- shapes ---- */

#define BUCKETS                                                                                    \
    "\"resize\": \"resize_crop\", \"buckets\": {\"32x32\": {\"1\": [0.5, 1], \"4\": [1, 2], "      \
    "\"8\": [0.5, 2]}, \"24x40\": {\"1\": [1, 1], \"2\": [1, 2]}}"

/* Many shapes over one set of weights; a budget that allows one plan at a time changes no bit, nor
 * do samples in between, one that the largest shape does not keep is refused before anything is
 * encoded. */
static void shapes_share_weights_and_memory(void **state) {
    media *m = *state;
    write_config(m, "shapes", OPEN_SORA_1_1, "mixed.csv", BUCKETS, "");
    assert_exit(0, TRAIN("shapes", "--set", "steps=12"));
    assert_told("2 clips of 8x32x32: arena");
    assert_told("2 clips of 4x32x32: arena");
    assert_told("shapes of batches, peak memory");
    assert_true(kin_file_exists(media_path(m, "run-shapes/latents-8x32x32.safetensors")));
    assert_false(kin_file_exists(media_path(m, "run-shapes/latents.safetensors")));
    /* the peak that was told, as a budget, in bytes */
    double peak = 0;
    const char *at = strstr(train_told, "peak memory ");
    assert_non_null(at);
    peak = strtod(at + strlen("peak memory "), NULL) * 1024 * 1024;
    assert_true(peak > 1e6);
    char set[64];
    snprintf(set, sizeof set, "memory=%.0fK", peak * 1.01 / 1024);
    assert_exit(0, TRAIN("shapes", "--set", "steps=12", "--set", set, "--set", "validate_every=5",
                         "--set", "validation={\"prompts\": [\"a\"], \"steps\": 1, \"frames\": 2}",
                         "--set", train_set_path(m, "output", "run-tight")));
    assert_true(kin_file_exists(media_path(m, "run-tight/validation/00000005-0.mp4")));
    assert_string_equal(
        train_difference(m, media_path(m, "run-shapes/checkpoint-00000012.safetensors"),
                         media_path(m, "run-tight/checkpoint-00000012.safetensors")),
        "");
    snprintf(set, sizeof set, "memory=%.0fK", peak * 0.7 / 1024);
    assert_exit(1, TRAIN("shapes", "--set", "steps=12", "--set", set, "--set",
                         train_set_path(m, "output", "run-small")));
    assert_told("memory");
    assert_told("clips of");
    assert_false(kin_file_exists(media_path(m, "run-small/latents-8x32x32.safetensors")));
    /* with accumulation the optimizer's states are the update's, but they count */
    write_config(m, "summed", OPEN_SORA_1_0, "two.csv", data_of[0], "\"accumulate_steps\": 2");
    assert_exit(1, TRAIN("summed", "--set", "memory=8M"));
    assert_told("for the optimizer");
    assert_exit(0, TRAIN("summed", "--set", "memory=16M"));
    /* a longer run finds what is there and adds what is missing */
    assert_exit(0, TRAIN("shapes", "--set", "steps=40", "--resume"));
    assert_told("resuming from");
}

/* ---- stages ---- */

static void stages_follow_each_other(void **state) {
    media *m = *state;
    write_config(
        m, "stages", OPEN_SORA_1_1, "mixed.csv", "\"num_frames\": 4",
        "\"stages\": [{\"steps\": 4}, {\"name\": \"second\", \"data\": {\"num_frames\": 2}, "
        "\"learning_rate\": 0, \"steps\": 2}]");
    check_resume(m, "stages");
    assert_exit(1, TRAIN("stages", "--stage", "2"));
    assert_told("run the stage before first");
    assert_exit(0, TRAIN("stages", "--stage", "1"));
    assert_told("stage 1 of 2");
    assert_exit(2, TRAIN("stages", "-q"));
    assert_told("add --resume");
    assert_exit(0, TRAIN("stages", "--resume"));
    assert_told("stage 1 of 2 is done");
    assert_told("stage 2 of 2");
    /* without a rate the second stage leaves the first one's weights as they were: those of its
     * checkpoint, not the averages that it exports */
    kin_safetensors *first, *second, *averages;
    char model[3][MEDIA_PATH];
    snprintf(model[0], MEDIA_PATH, "%s",
             media_path(m, "run-stages/stage-1/checkpoint-00000004.safetensors"));
    snprintf(model[1], MEDIA_PATH, "%s",
             media_path(m, "run-stages/second/model/transformer/model.safetensors"));
    snprintf(model[2], MEDIA_PATH, "%s",
             media_path(m, "run-stages/stage-1/model/transformer/model.safetensors"));
    assert_int_equal(kin_safetensors_open(m->context, model[0], &first), KIN_OK);
    assert_int_equal(kin_safetensors_open(m->context, model[1], &second), KIN_OK);
    assert_int_equal(kin_safetensors_open(m->context, model[2], &averages), KIN_OK);
    static const char weight[] = "blocks.1.attn_temp.qkv.weight";
    char whole[sizeof weight + 16];
    snprintf(whole, sizeof whole, "denoiser.%s", weight);
    const kin_named_tensor *x = kin_safetensors_find(first, whole);
    const kin_named_tensor *y = kin_safetensors_find(second, weight);
    const kin_named_tensor *z = kin_safetensors_find(averages, weight);
    assert_true(x && y && z);
    assert_memory_equal(x->data, y->data, kin_desc_bytes(&x->desc));
    assert_true(memcmp(x->data, z->data, kin_desc_bytes(&x->desc)) != 0);
    kin_safetensors_close(first);
    kin_safetensors_close(second);
    kin_safetensors_close(averages);
    assert_exit(0, TRAIN("stages", "--resume"));
    assert_told("stage 2 of 2 is done");
    /* a text encoder that is trained goes with it */
    write_config(m, "texts", OPEN_SORA_1_0, "two.csv", "\"num_frames\": 2",
                 "\"train_text_encoder\": true, \"stages\": [{\"steps\": 2}, {\"steps\": 2}]");
    check_resume(m, "texts");
    assert_exit(2, TRAIN("stages", "--stage", "3"));
    assert_exit(2, TRAIN("stages", "--set", "stages.0.name=../x"));
    assert_exit(2, TRAIN("stages", "--set", "stages.1.output=x"));
    assert_exit(2, TRAIN("stages", "--set", "stages.1.lerning_rate=1"));
    assert_told("stage 2");
    assert_told("learning_rate");
    assert_exit(2, TRAIN("shapes", "--stage", "1"));
    assert_told("has no stages");
}

/* ---- configurations ---- */

static void mistakes_are_told(void **state) {
    media *m = *state;
    write_config(m, "wrong", OPEN_SORA_1_1, "mixed.csv", "\"num_frames\": 4", "");
    static const struct {
        const char *set, *told;
        int code;
    } rows[] = {
        {"frame_masks.mask_quater_head=1", "mask_quarter_head", 2},
        {"frame_masks.mask_no=0.5", "add up to 0.5", 2},
        {"diffusion.objective=open-sora-pla", "open-sora-plan", 2},
        {"diffusion.noise_offset=0.1", "open-sora-plan", 2},
        {"diffusion.objective=open-sora-plan", "variance", 2},
        {"data.images=2", "data.images", 2},
        {"data.frame_choice=linspce", "linspace", 2},
        {"data.buckets={\"144\": {\"1\": [1, 1]}}", "144p", 2},
        {"data.height=36", "multiples", 2},
        {"denoiser=STDiT2-XL", "STDiT2-XL/2", 2},
        {"denoiser=3", "denoiser", 2},
        {"text_features=batch", "each_batch", 2},
        {"from_scratch=true", "from_scratch", 2},
        {"timesteps={\"speed\": true, \"shift\": 3}", "speed", 2},
        {"attend_padding=1", "attend_padding", 2},
        {"model=/nowhere", "/nowhere", 1},
        {"vae_path=/nowhere", "/nowhere", 1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int code = TRAIN("wrong", "--set", rows[i].set);
        if (code != rows[i].code || !strstr(train_told, rows[i].told))
            fail_msg("%s: exit status %d, not %d; '%s' wanted; it told:\n%s", rows[i].set, code,
                     rows[i].code, rows[i].told, train_told);
    }
    write_config(m, "odd", OPEN_SORA_PLAN, "mixed.csv", "\"num_frames\": 4", "");
    assert_exit(2, TRAIN("odd", "-q"));
    assert_told("1 would do");
    write_config(m, "moving", PIXART, "mixed.csv", "\"num_frames\": 4", "");
    assert_exit(2, TRAIN("moving", "-q"));
    assert_told("makes pictures");
}

/* Every recipe is read, with all its stages. */
static void recipes_are_read(void **state) {
    media *m = *state;
    int count = 0;
    const char *file = __FILE__, *end = strstr(file, "tests/test_train_systems.c");
    char folder[MEDIA_PATH];
    assert_non_null(end);
    snprintf(folder, sizeof folder, "%.*stools/recipes", (int)(end - file), file);
    DIR *list = opendir(folder);
    assert_non_null(list);
    for (struct dirent *entry; (entry = readdir(list));) {
        char path[3 * MEDIA_PATH];
        kin_train_config config;
        if (!kin_path_ends_with(entry->d_name, ".json")) continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        if (kin_train_config_load(m->context, path, NULL, 0, &config) != KIN_OK)
            fail_msg("%s", kin_context_error(m->context));
        const kin_train_config *first = config.stage_count ? &config.stages[0] : &config;
        assert_int_equal(first->task, KIN_TRAIN_VIDEO);
        assert_string_equal(first->model_path, "PATH");
        assert_true(first->steps >= 3000);
        if (strstr(entry->d_name, "all-stages")) assert_int_equal(config.stage_count, 3);
        kin_train_config_free(&config);
        count++;
    }
    closedir(list);
    assert_true(count >= 9);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_system_learns),
        cmocka_unit_test(negative_control_learns_nothing),
        cmocka_unit_test(every_system_resumes),
        cmocka_unit_test(ranks_share_every_kind_of_batch),
        cmocka_unit_test(features_do_not_depend_on_when),
        cmocka_unit_test(exports_are_the_originals),
        cmocka_unit_test(starts_from_pixart),
        cmocka_unit_test(shapes_share_weights_and_memory),
        cmocka_unit_test(stages_follow_each_other),
        cmocka_unit_test(mistakes_are_told),
        cmocka_unit_test(recipes_are_read),
    };
    return cmocka_run_group_tests(tests, setup, media_teardown);
}

#else

int main(void) {
    printf("skipped: training needs FFmpeg and sentencepiece\n");
    return 0;
}

#endif
