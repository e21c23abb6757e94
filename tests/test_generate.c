/* Generating: repeatable files, stages on disk, batches, bad input. Files and latents are compared
 * bit for bit; clips of a batch with those made alone within BATCH_TOLERANCE, since products of
 * other sizes may sum in another order. */
#define _XOPEN_SOURCE 700
#include "tests/train_helper.h"

#include "runtime/video.h"
#include "tools/generate/pipeline.h"

#if defined KIN_HAVE_FFMPEG && defined KIN_HAVE_SENTENCEPIECE

#define BATCH_TOLERANCE 1e-4f /* of frames in -1..1 */
#define PROMPT "a red circle moving to the left"

static const char transformer_file[] = "transformer/diffusion_pytorch_model.safetensors";
static const char vae_file[] = "vae/diffusion_pytorch_model.safetensors";

/* Three steps of PROMPT, if there is no other, from FOLDER/MODEL into FOLDER/OUTPUT. */
static int generate_from(const media *m, const char *model, const char *output,
                         const char *const *more, size_t file_limit) {
    const char *list[TRAIN_ARGUMENTS] = {
        "-m", media_path(m, model), "-o", media_path(m, output), "--steps", "3"};
    int count = 6;
    bool asked = false;
    while (*more) {
        asked = asked || strcmp(*more, "-p") == 0;
        list[count++] = *more++;
    }
    if (!asked) {
        list[count++] = "-p";
        list[count++] = PROMPT;
    }
    list[count] = NULL;
    return train_limited(m, kin_verb_generate, list, file_limit);
}

#define GENERATE(output, ...)                                                                      \
    generate_from(m, "start/model", output, ARGUMENTS("-v", __VA_ARGS__), 0)
#define GENERATE_FROM(model, ...) generate_from(m, model, "x.mp4", ARGUMENTS("-v", __VA_ARGS__), 0)

static bool exists(const media *m, const char *name) {
    return kin_file_exists(media_path(m, name));
}

/* A model that listens: longer and faster training than train_setup's. */
static int setup(void **state) {
    if (train_setup(state) != 0) return -1;
    media *m = *state;
    int code =
        train_run(m, kin_verb_train,
                  ARGUMENTS(media_path(m, "video.json"), "-q", "--set",
                            train_set_path(m, "output", "start"), "--set", "steps=60", "--set",
                            "learning_rate=0.02", "--set", "checkpoint_every=1000"));
    if (code != 0) fprintf(stderr, "%s", train_told);
    return code == 0 ? 0 : -1;
}

static void same_seed_same_file(void **state) {
    media *m = *state;
    static const char *const variants[][6] = {
        {"--sampling-method", "iddpm", "--cfg-scale", "4", "--eta", "0"},
        {"--sampling-method", "ddim", "--cfg-scale", "4", "--eta", "0"},
        {"--sampling-method", "ddim", "--cfg-scale", "4", "--eta", "1"},
        {"--sampling-method", "ddim", "--cfg-scale", "1", "--eta", "0"},
        {"--sampling-method", "ddim", "--cfg-scale", "4", "-n", "a blue square moving up"},
        {"--sampling-method", "iddpm", "--cfg-scale", "4", "--cfg-channels", "1"},
    };
    enum { VARIANTS = sizeof variants / sizeof *variants };
    char latents[VARIANTS][64];
    for (int i = 0; i < VARIANTS; i++) {
        const char *const *v = variants[i];
        char names[3][64];
        for (int k = 0; k < 3; k++) {
            snprintf(names[k], sizeof names[k], "same%d-%d.mp4", i, k);
            assert_exit(0, GENERATE(names[k], "--keep-stages", "-s", k < 2 ? "5" : "6", v[0], v[1],
                                    v[2], v[3], v[4], v[5]));
            assert_told(names[k]);
        }
        assert_true(same_file(m, names[0], names[1]));
        assert_false(same_file(m, names[0], names[2]));
        snprintf(latents[i], sizeof latents[i], "same%d-0.mp4.stages/latents.safetensors", i);
        char other[64];
        snprintf(other, sizeof other, "same%d-2.mp4.stages/latents.safetensors", i);
        assert_true(train_difference(m, media_path(m, latents[i]), media_path(m, other))[0]);
        for (int j = 0; j < i; j++) /* and every variant does something else */
            assert_true(
                train_difference(m, media_path(m, latents[i]), media_path(m, latents[j]))[0]);
    }
    /* the prompt too, and the defaults are those of the model's index */
    assert_exit(0, GENERATE("prompt.mp4", "--keep-stages", "-s", "5", "-p", "a blue square"));
    assert_true(train_difference(m, media_path(m, "prompt.mp4.stages/latents.safetensors"),
                                 media_path(m, latents[1]))[0]);
    assert_exit(0, GENERATE("default.mp4", "-s", "5"));
    assert_true(same_file(m, "default.mp4", "same0-0.mp4"));
    assert_false(exists(m, "default.mp4.stages"));
    /* a seed of -1 is drawn, told, and can be repeated */
    assert_exit(0, GENERATE("drawn.mp4", "-s", "-1"));
    const char *told = strstr(train_told, "seed ");
    assert_non_null(told);
    char seed[32];
    snprintf(seed, sizeof seed, "%lld", strtoll(told + 5, NULL, 10));
    assert_exit(0, GENERATE("again.mp4", "-s", seed));
    assert_true(same_file(m, "drawn.mp4", "again.mp4"));
}

static void parameters_are_in_the_file(void **state) {
    media *m = *state;
    static const char *const names[] = {"told.mp4", "told.mkv", "told_%02d.png"};
    static const char *const files[] = {"told.mp4", "told.mkv", "told_01.png"};
    static const char *const parts[] = {
        "prompt: " PROMPT, "negative: a blue square", "size: 2x16x16", "steps: 3",
        "cfg_scale: 2.5",  "sampling_method: iddpm",  "seed: 77",      "fps: 4",
        "/start/model"};
    for (int i = 0; i < 3; i++) {
        char *comment = NULL;
        kin_video_info info;
        assert_exit(0, GENERATE(names[i], "-s", "77", "--cfg-scale", "2.5", "-n", "a blue square",
                                "--sampling_method", "iddpm", "--fps", "4"));
        assert_int_equal(kin_video_comment(m->context, media_path(m, files[i]), &comment), KIN_OK);
        for (size_t k = 0; k < sizeof parts / sizeof *parts; k++)
            if (!strstr(comment, parts[k])) fail_msg("'%s' is not in:\n%s", parts[k], comment);
        kin_free(m->context, comment);
        assert_int_equal(kin_video_probe(m->context, media_path(m, files[i]), &info), KIN_OK);
        assert_true(info.height == 16 && info.width == 16);
        if (i == 0) assert_true(info.frames == 2 && fabs(info.fps - 4) < 1e-9);
    }
    /* other sizes than those of the training */
    kin_video_info info;
    assert_exit(0, GENERATE("wide.mp4", "-W", "24", "-H", "8", "--video-frames", "5"));
    assert_int_equal(kin_video_probe(m->context, media_path(m, "wide.mp4"), &info), KIN_OK);
    assert_true(info.height == 8 && info.width == 24 && info.frames == 5);
}

/* ---- stages ---- */

static void stages_are_used_again(void **state) {
    media *m = *state;
    assert_exit(0, GENERATE("undisturbed.mp4", "-q"));
    assert_exit(0, GENERATE("stage.mp4", "--keep-stages"));
    assert_true(same_file(m, "stage.mp4", "undisturbed.mp4"));
    assert_true(exists(m, "stage.mp4.stages/embeddings.safetensors"));
    unlink(media_path(m, "stage.mp4"));
    assert_exit(0, GENERATE("stage.mp4", "--keep-stages"));
    assert_told("using frames.safetensors");
    assert_null(strstr(train_told, "decoding"));
    assert_true(same_file(m, "stage.mp4", "undisturbed.mp4"));
    unlink(media_path(m, "stage.mp4.stages/frames.safetensors"));
    /* what is finished is left alone */
    assert_exit(0, GENERATE("stage.mp4", "--keep-stages"));
    assert_told("is finished");
    assert_null(strstr(train_told, "decoding"));
    assert_exit(0, GENERATE("stage.mp4", "--keep-stages", "--overwrite"));
    assert_told("using latents.safetensors");
    assert_null(strstr(train_told, "sampling"));
    assert_true(same_file(m, "stage.mp4", "undisturbed.mp4"));
    /* negative control: it is the stage that is used */
    train_plant(m, media_path(m, "stage.mp4.stages/latents.safetensors"), "latents", 3, 9);
    unlink(media_path(m, "stage.mp4.stages/frames.safetensors"));
    assert_exit(0, GENERATE("stage.mp4", "--keep-stages", "--overwrite"));
    assert_false(same_file(m, "stage.mp4", "undisturbed.mp4"));
    /* not with other parameters, and not if it is broken */
    assert_exit(0, GENERATE("stage.mp4", "--keep-stages", "-s", "43"));
    assert_null(strstr(train_told, "using latents"));
    assert_exit(0, GENERATE("stage.mp4", "--keep-stages"));
    assert_null(strstr(train_told, "using latents"));
    assert_int_equal(truncate(media_path(m, "stage.mp4.stages/latents.safetensors"), 300), 0);
    assert_int_equal(truncate(media_path(m, "stage.mp4.stages/frames.safetensors"), 300), 0);
    assert_exit(0, GENERATE("stage.mp4", "--keep-stages", "--overwrite"));
    assert_null(strstr(train_told, "using latents"));
    assert_told("using embeddings.safetensors");
    assert_true(same_file(m, "stage.mp4", "undisturbed.mp4"));
    /* nor after the model has changed */
    train_plant(m, media_path(m, "start/model/text_encoder/model.safetensors"), "shared.weight", 0,
                0.5f);
    assert_exit(0, GENERATE("stage.mp4", "-s", "42"));
    assert_null(strstr(train_told, "using "));
    assert_false(exists(m, "stage.mp4.stages"));
}

static void killed_runs_go_on(void **state) {
    media *m = *state;
    const char *output = "killed.mp4";
    static const int signals[2] = {SIGKILL, SIGINT};
    assert_exit(0, GENERATE("straight.mp4", "--steps", "1000"));
    for (int i = 0; i < 2; i++) {
        pid_t child = train_start(m, kin_verb_generate,
                                  ARGUMENTS("-m", media_path(m, "start/model"), "-p", PROMPT, "-o",
                                            media_path(m, output), "--steps", "1000"),
                                  0);
        for (int k = 0; !exists(m, "killed.mp4.stages/embeddings.safetensors"); k++) {
            if (k > 3000) fail_msg("nothing happens");
            train_sleep(0.01);
        }
        kill(child, signals[i]);
        int code = train_wait(m, child);
        if (code != 0) { /* not so late that it was done */
            assert_exit(i ? 1 : 1000 + SIGKILL, code);
            assert_false(exists(m, output));
            if (i) assert_told("stopped at step");
            assert_exit(0, GENERATE(output, "--steps", "1000"));
            assert_told("safetensors of an earlier run");
        }
        assert_true(same_file(m, output, "straight.mp4"));
        assert_false(exists(m, "killed.mp4.stages"));
        unlink(media_path(m, output));
    }
}

/* Writes a weights file anew without a tensor or, for NULL, with one more. */
static void change_keys(const media *m, const char *name, const char *left_out) {
    kin_safetensors *file;
    const char *path = media_path(m, name);
    static const int64_t two = 2;
    static const float values[2] = {1, 2};
    assert_int_equal(kin_safetensors_open(m->context, path, &file), KIN_OK);
    size_t count = kin_safetensors_count(file), used = 0;
    kin_named_tensor *list = calloc(count + 1, sizeof *list);
    assert_non_null(list);
    for (size_t i = 0; i < count; i++)
        if (!left_out || strcmp(kin_safetensors_at(file, i)->name, left_out) != 0)
            list[used++] = *kin_safetensors_at(file, i);
    assert_int_equal(used, left_out ? count - 1 : count);
    if (!left_out)
        list[used++] =
            (kin_named_tensor){"x_embedder.proj.wieght", kin_desc_dense(KIN_F32, 1, &two), values};
    assert_int_equal(kin_safetensors_write(m->context, path, list, used, NULL, 0, NULL, NULL),
                     KIN_OK);
    kin_safetensors_close(file);
    free(list);
}

static void failed_decodes_keep_the_latents(void **state) {
    media *m = *state;
    struct stat video, latents;
    char from[MEDIA_PATH], to[2 * MEDIA_PATH];
    assert_exit(0, GENERATE("good.mp4", "--keep-stages"));
    /* the autoencoder lacks a tensor */
    snprintf(from, sizeof from, "start/model/%s", vae_file);
    snprintf(to, sizeof to, "%s", media_path(m, "away"));
    assert_int_equal(rename(media_path(m, from), to), 0);
    train_copy(to, media_path(m, from));
    change_keys(m, from, "decoder.conv_in.weight");
    assert_exit(1, GENERATE("late.mp4", "-v"));
    assert_told("finished stages are kept");
    assert_told("/vae");
    assert_false(exists(m, "late.mp4"));
    assert_int_equal(rename(to, media_path(m, from)), 0);
    assert_exit(0, GENERATE("late.mp4", "-v"));
    assert_told("using latents.safetensors");
    assert_true(same_file(m, "late.mp4", "good.mp4"));
    /* a folder is in the way */
    assert_int_equal(mkdir(media_path(m, "way.mp4"), 0700), 0);
    assert_exit(1, GENERATE("way.mp4", "-v"));
    assert_told("is a folder");
    assert_int_equal(rmdir(media_path(m, "way.mp4")), 0);
    assert_exit(0, GENERATE("way.mp4", "-v"));
    assert_told("using frames.safetensors");
    assert_true(same_file(m, "way.mp4", "good.mp4"));
    /* the disk is full when the video is written */
    assert_int_equal(stat(media_path(m, "good.mp4"), &video), 0);
    assert_int_equal(stat(media_path(m, "good.mp4.stages/latents.safetensors"), &latents), 0);
    assert_true(latents.st_size < video.st_size);
    assert_exit(
        1, generate_from(m, "start/model", "full.mp4", ARGUMENTS("-v"), (size_t)video.st_size - 1));
    assert_told("finished stages are kept");
    assert_false(exists(m, "full.mp4"));
    assert_exit(0, GENERATE("full.mp4", "-v"));
    assert_told("using latents.safetensors");
    assert_true(same_file(m, "full.mp4", "good.mp4"));
    /* a folder that is not there is made; one that cannot be is told before anything is sampled */
    assert_exit(0, GENERATE("new/folder/x.mp4", "-v"));
    assert_true(same_file(m, "new/folder/x.mp4", "good.mp4"));
    assert_exit(1, GENERATE("good.mp4/x.mp4", "-v"));
    assert_told("good.mp4");
    assert_null(strstr(train_told, "sampling"));
}

/* ---- bad input ---- */

static void bad_requests_are_told(void **state) {
    media *m = *state;
    static const struct {
        const char *flag, *value, *told;
        int code;
    } rows[] = {
        {"-W", "15", "multiples of 2", 2},
        {"-H", "-8", "negative", 2},
        {"-W", "999999", "999999", 2},
        {"--video-frames", "99999999", "frames", 2},
        {"--steps", "2000", "steps", 2},
        {"--steps", "many", "whole number", 2},
        {"--fps", "5000", "frames a second", 2},
        {"--sampling-method", "eular", "euler", 1},
        {"--sampling-method", "flow", "does not go with", 2},
        {"--cfg-channels", "9", "channels", 2},
        {"--eta", "7", "eta", 2},
        {"--karras", "--sde", "iddpm", 2},
        {"--dtype", "f64", "bf16", 2},
        {"--noise", "white", "torch-cpu", 2},
        {"--noise", "torch-cuda:108", "108x2048", 2},
        {"--vae-cut", "much", "as-needed", 2},
        {"--samples", "0", "samples", 2},
        {"--batch-size", "0", "batch-size", 2},
        {"--resolution", "408p", "480p", 2},
        {"--aspect-ratio", "9:16", "--resolution", 2},
        {"--image", "x.png", "Open-Sora 1.1", 2},
        {"--loop", "2", "Open-Sora 1.1", 2},
        {"--prompt-file", "/nowhere.txt", "/nowhere.txt", 1},
        {"--vae", "/nowhere", "/nowhere", 1},
        {"--memory", "little", "8G", 2},
        {"--memory", "20K", "memory", 1},
        {"-o", "x.avi", ".mp4", 2},
        {"-o", "x_%x.png", "%05d", 2},
        {"--stpes", "3", "--steps", 2},
        {"--device", "gpu9", "gpu9", 1},
        {"-m", "/nowhere", "/nowhere", 1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int code = GENERATE("bad.mp4", rows[i].flag, rows[i].value);
        if (code != rows[i].code || !strstr(train_told, rows[i].told))
            fail_msg("%s %s: exit status %d, not %d; '%s' wanted; it told:\n%s", rows[i].flag,
                     rows[i].value, code, rows[i].code, rows[i].told, train_told);
        assert_null(strstr(train_told, "sampling 1/"));
        assert_false(exists(m, "bad.mp4"));
    }
    assert_exit(2, GENERATE("bad.mkv", "-W", "15"));
    assert_told("multiples of 2");
    assert_exit(2, train_run(m, kin_verb_generate, ARGUMENTS("-p", PROMPT)));
    assert_told("--model and --prompt");
    /* nothing to say, and too much to say */
    char *longer = malloc(20001);
    assert_non_null(longer);
    for (int i = 0; i < 20000; i++) longer[i] = i % 7 ? 'a' : ' ';
    longer[20000] = 0;
    assert_exit(0, GENERATE("long.mkv", "-p", longer));
    assert_exit(0, GENERATE("empty.mkv", "-p", ""));
    free(longer);
}

static void copy_model(const media *m, const char *name) {
    static const char *const files[] = {"model_index.json",
                                        "transformer/config.json",
                                        "transformer/diffusion_pytorch_model.safetensors",
                                        "vae/config.json",
                                        "vae/diffusion_pytorch_model.safetensors",
                                        "text_encoder/config.json",
                                        "text_encoder/model.safetensors",
                                        "tokenizer/spiece.model"};
    static const char *const folders[] = {"", "/transformer", "/vae", "/text_encoder",
                                          "/tokenizer"};
    char from[MEDIA_PATH], to[MEDIA_PATH];
    media_remove(media_path(m, name));
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        snprintf(to, sizeof to, "%s%s", name, folders[i]);
        assert_int_equal(mkdir(media_path(m, to), 0700), 0);
    }
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(from, sizeof from, "start/model/%s", files[i]);
        snprintf(to, sizeof to, "%s/%s", name, files[i]);
        train_copy(media_path(m, from), media_path(m, to));
    }
}

/* Replaces the first `old` in a text file. */
static void replace(const media *m, const char *name, const char *old, const char *with) {
    size_t size;
    char text[8192];
    char *data = (char *)media_read(media_path(m, name), &size);
    char *at = strstr(data, old);
    if (!at) fail_msg("%s has no %s", name, old);
    int length =
        snprintf(text, sizeof text, "%.*s%s%s", (int)(at - data), data, with, at + strlen(old));
    media_write(media_path(m, name), text, (size_t)length);
    free(data);
}

static void bad_models_are_told(void **state) {
    media *m = *state;
    char file[MEDIA_PATH];
    static const struct {
        const char *part, *missing, *cut; /* what is told then; NULL: it goes without */
    } parts[] = {
        {"model_index.json", NULL, "model_index.json"},
        {"transformer/config.json", "put its config.json beside it", "transformer/config.json"},
        {"transformer/diffusion_pytorch_model.safetensors", "transformer", "transformer"},
        {"vae/config.json", "their shapes are not", "vae/config.json"},
        {"text_encoder/model.safetensors", "text encoder", "text_encoder"},
        {"tokenizer/spiece.model", "tokenizer", "spiece.model"},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        for (int cut = 0; cut < 2; cut++) { /* not there; cut off */
            const char *told = cut ? parts[i].cut : parts[i].missing;
            copy_model(m, "ill");
            snprintf(file, sizeof file, "ill/%s", parts[i].part);
            if (cut) assert_int_equal(truncate(media_path(m, file), 20), 0);
            else assert_int_equal(unlink(media_path(m, file)), 0);
            int code = GENERATE_FROM("ill", "-v", "-W", "16", "-H", "16", "--video-frames", "2");
            if (code != (told ? 1 : 0) || (told && !strstr(train_told, told)))
                fail_msg("%s %s: exit status %d; '%s' wanted; it told:\n%s", parts[i].part,
                         cut ? "cut off" : "missing", code, told ? told : "", train_told);
            unlink(media_path(m, "x.mp4"));
        }
    }
    static const struct {
        const char *file, *old, *with, *told;
        int code;
    } changed[] = {
        {"transformer/config.json", "\"hidden_size\": 16", "\"hidden_size\": 32", "shape", 2},
        {"transformer/config.json", "\"depth\": 2", "\"depth\": 3", "missing", 1},
        {"transformer/config.json", "\"depth\": 2", "\"depth\": 1", "does not have", 2},
        {"transformer/config.json", "\"depth\": 2", "\"depth\": -2", "depth", 2},
        {"transformer/config.json", "\"depth\": 2", "\"depth\": \"two\"", "depth", 2},
        {"transformer/config.json", "\"caption_channels\": 8", "\"caption_channels\": 4",
         "captions of 4 channels", 2},
        {"text_encoder/config.json", "\"vocab_size\": 64", "\"vocab_size\": 16", "knows 16", 2},
        {"vae/config.json", "\"latent_channels\": 2", "\"latent_channels\": 3", "makes 3", 2},
        {"model_index.json", "\"iddpm\"", "\"euler\"", "sampling_method", 2},
        {"model_index.json", "\"num_frames\"", "\"num_farmes\"", "did you mean 'num_frames'", 0},
        {"model_index.json", "{", "", "model_index.json", 1},
    };
    for (size_t i = 0; i < sizeof changed / sizeof *changed; i++) {
        copy_model(m, "ill");
        snprintf(file, sizeof file, "ill/%s", changed[i].file);
        replace(m, file, changed[i].old, changed[i].with);
        int code = GENERATE_FROM("ill", "-v");
        if (code != changed[i].code || !strstr(train_told, changed[i].told))
            fail_msg("%s in %s: exit status %d, not %d; '%s' wanted; it told:\n%s", changed[i].with,
                     file, code, changed[i].code, changed[i].told, train_told);
        unlink(media_path(m, "x.mp4"));
    }
    snprintf(file, sizeof file, "ill/%s", transformer_file);
    copy_model(m, "ill");
    change_keys(m, file, "x_embedder.proj.weight");
    assert_exit(1, GENERATE_FROM("ill", "-v"));
    assert_told("1 tensors of the model are missing");
    copy_model(m, "ill");
    change_keys(m, file, NULL);
    assert_exit(2, GENERATE_FROM("ill", "-v"));
    assert_told("x_embedder.proj.wieght");
    assert_told("\"x_embedder.proj.weight\"");
    copy_model(m, "ill");
    train_plant(m, media_path(m, file), "x_embedder.proj.weight", 0, NAN);
    assert_exit(1, GENERATE_FROM("ill", "-v"));
    assert_told("NaN");
    assert_false(exists(m, "x.mp4"));
}

/* ---- batches ---- */

/* In this process, with one thread: after everything that forks. */
static void clips_of_a_batch_stand_alone(void **state) {
    media *m = *state;
    static const char *const prompts[3] = {PROMPT, "a blue square moving up", "a green triangle"};
    static const uint64_t seeds[3] = {11, 12, 13};
    const kin_context_options options = {.struct_size = sizeof options, .threads = 1};
    kin_context *context;
    kin_backends *backends;
    kin_device *device;
    kin_pipeline pipeline;
    kin_host_tensor batch, alone, other;
    assert_int_equal(kin_context_create(&options, &context), KIN_OK);
    assert_int_equal(kin_backends_load(context, NULL, &backends), KIN_OK);
    assert_int_equal(kin_device_open(backends, "cpu", &device), KIN_OK);
    assert_int_equal(
        kin_pipeline_open(context, device, media_path(m, "start/model"), NULL, &pipeline), KIN_OK);
    for (int method = 0; method < 2; method++) {
        kin_generation g = {
            .count = 3,
            .seeds = seeds,
            .frames = 2,
            .height = 16,
            .width = 16,
            .sampling = {.iddpm = true, .ddim = method > 0, .steps = 4, .cfg_scale = 4},
            .quiet = true};
        assert_int_equal(kin_pipeline_generate(&pipeline, &g, prompts, NULL, &batch), KIN_OK);
        for (int64_t i = 0; i < 3; i++) {
            const uint64_t wrong = seeds[i] + 100;
            kin_host_tensor clip = kin_pipeline_clip(&batch, i);
            g.count = 1;
            g.seeds = seeds + i;
            assert_int_equal(kin_pipeline_generate(&pipeline, &g, prompts + i, NULL, &alone),
                             KIN_OK);
            g.seeds = &wrong;
            assert_int_equal(kin_pipeline_generate(&pipeline, &g, prompts + i, NULL, &other),
                             KIN_OK);
            const float *a = clip.data, *b = alone.data, *c = other.data;
            float difference = 0, control = 0;
            for (int64_t k = 0; k < kin_desc_count(&clip.desc); k++) {
                difference = fmaxf(difference, fabsf(a[k] - b[k]));
                control = fmaxf(control, fabsf(a[k] - c[k]));
            }
            assert_true(difference <= BATCH_TOLERANCE);
            assert_true(control > 100 * BATCH_TOLERANCE); /* negative control: another seed */
            kin_host_tensor_free(context, &alone);
            kin_host_tensor_free(context, &other);
        }
        kin_host_tensor_free(context, &batch);
    }
    kin_pipeline_close(&pipeline);
    kin_device_close(device);
    kin_backends_free(backends);
    kin_context_destroy(context);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_seed_same_file),
        cmocka_unit_test(parameters_are_in_the_file),
        cmocka_unit_test(stages_are_used_again),
        cmocka_unit_test(killed_runs_go_on),
        cmocka_unit_test(failed_decodes_keep_the_latents),
        cmocka_unit_test(bad_requests_are_told),
        cmocka_unit_test(bad_models_are_told),
        cmocka_unit_test(clips_of_a_batch_stand_alone),
    };
    return cmocka_run_group_tests(tests, setup, media_teardown);
}

#else

int main(void) {
    printf("skipped: generating needs FFmpeg and sentencepiece\n");
    return 0;
}

#endif
