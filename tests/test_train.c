/* Training: resuming, kills, interruption, full disks, values that are not finite, bad clips, bad
 * configurations. All comparisons are bit for bit: no tolerance. */
#define _XOPEN_SOURCE 700
#include "tests/train_helper.h"

#include <jansson.h>

#include "runtime/events.h"
#include "runtime/philox.h"
#include "tools/train/train.h"

#if defined KIN_HAVE_FFMPEG && defined KIN_HAVE_SENTENCEPIECE

enum { MAX_STEPS = 4096 };

/* FOLDER/NAME/checkpoint-STEP.safetensors; lives until the fourth call after this one. */
static const char *checkpoint(const media *m, const char *name, int64_t step) {
    char file[MEDIA_PATH];
    snprintf(file, sizeof file, "%s/checkpoint-%08lld.safetensors", name, (long long)step);
    return media_path(m, file);
}

static void assert_same(const media *m, const char *one, const char *two, int64_t step) {
    const char *where = train_difference(m, checkpoint(m, one, step), checkpoint(m, two, step));
    if (where[0]) fail_msg("%s and %s differ in %s", one, two, where);
}

/* Trains FOLDER/CONFIG into FOLDER/NAME for `steps` steps. */
static int train_into(const media *m, const char *config, const char *name, int64_t steps,
                      const char *const *more, size_t file_limit) {
    const char *list[TRAIN_ARGUMENTS];
    char text[32];
    int count = 0;
    snprintf(text, sizeof text, "steps=%lld", (long long)steps);
    list[count++] = media_path(m, config);
    list[count++] = "--set";
    list[count++] = train_set_path(m, "output", name);
    list[count++] = "--set";
    list[count++] = text;
    while (*more) list[count++] = *more++;
    list[count] = NULL;
    return train_limited(m, kin_verb_train, list, file_limit);
}

#define TRAIN(config, name, steps, ...)                                                            \
    train_into(m, config, name, steps, ARGUMENTS("--quiet", __VA_ARGS__), 0)
#define TRAIN_TOLD(config, name, steps, ...)                                                       \
    train_into(m, config, name, steps, ARGUMENTS("--verbose", __VA_ARGS__), 0)

/* Names in a folder that begin and end so. */
static int count_files(const media *m, const char *name, const char *begin, const char *end) {
    int count = 0;
    DIR *folder = opendir(media_path(m, name));
    assert_non_null(folder);
    for (struct dirent *entry; (entry = readdir(folder));)
        count += strncmp(entry->d_name, begin, strlen(begin)) == 0 &&
                 kin_path_ends_with(entry->d_name, end);
    closedir(folder);
    return count;
}

/* ---- metrics ---- */

static kin_status note_scalar(void *user, const kin_event_scalar *scalar) {
    unsigned char *seen = user;
    if (strcmp(scalar->tag, "loss") != 0) return KIN_OK;
    assert_in_range(scalar->step, 1, MAX_STEPS - 1);
    seen[scalar->step]++;
    return KIN_OK;
}

/* Every step from 1 to `steps` once, in both files; the lines must be JSON objects. */
static void check_metrics(const media *m, const char *name, int64_t steps) {
    char path[MEDIA_PATH];
    unsigned char seen[MAX_STEPS] = {0};
    size_t size = 0;
    int64_t last = 0;
    snprintf(path, sizeof path, "%s/metrics.jsonl", name);
    char *text = (char *)media_read(media_path(m, path), &size);
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        json_t *object = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
        assert_true(json_is_object(object));
        assert_int_equal(json_integer_value(json_object_get(object, "step")), last + 1);
        assert_true(json_is_number(json_object_get(object, "loss")) ||
                    json_is_null(json_object_get(object, "loss")));
        assert_true(json_is_number(json_object_get(object, "learning_rate")));
        json_decref(object);
        last++;
    }
    free(text);
    assert_int_equal(last, steps);
    assert_int_equal(count_files(m, name, "events.out.tfevents.", ""), 1);
    DIR *folder = opendir(media_path(m, name));
    assert_non_null(folder);
    for (struct dirent *entry; (entry = readdir(folder));) {
        if (strncmp(entry->d_name, "events.out.tfevents.", 20) != 0) continue;
        snprintf(path, sizeof path, "%s/%.256s", name, entry->d_name);
        assert_int_equal(kin_event_read(m->context, media_path(m, path), note_scalar, seen),
                         KIN_OK);
    }
    closedir(folder);
    for (int64_t i = 1; i <= steps; i++) assert_int_equal(seen[i], 1);
    assert_int_equal(seen[steps + 1], 0);
}

/* The last whole line's step; 0 if there is none. */
static int64_t last_logged(const media *m, const char *name) {
    char path[MEDIA_PATH];
    int64_t last = 0;
    size_t size = 0;
    snprintf(path, sizeof path, "%s/metrics.jsonl", name);
    if (!kin_file_exists(media_path(m, path))) return 0;
    char *text = (char *)media_read(media_path(m, path), &size);
    for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1) {
        json_t *object = json_loadb(line, (size_t)(end - line), 0, NULL);
        last = json_integer_value(json_object_get(object, "step"));
        json_decref(object);
    }
    free(text);
    return last;
}

/* ---- resuming ---- */

/* By hand: 6 steps, and 3 steps, then 3 more in another process. */
static void resume_gives_the_same_bits(void **state) {
    media *m = *state;
    static const char *const configs[2] = {"vae.json", "video.json"};
    for (int i = 0; i < 2; i++) {
        char once[16], twice[16];
        snprintf(once, sizeof once, "once%d", i);
        snprintf(twice, sizeof twice, "twice%d", i);
        assert_exit(0, TRAIN(configs[i], once, 6, "--set", "warmup_steps=4"));
        assert_exit(0, TRAIN(configs[i], twice, 3, "--set", "warmup_steps=4"));
        assert_exit(0, TRAIN_TOLD(configs[i], twice, 6, "--set", "warmup_steps=4", "--resume"));
        assert_told("resuming from");
        assert_same(m, once, twice, 6);
        check_metrics(m, once, 6);
        check_metrics(m, twice, 6);
        /* negative control: another seed gives other bits */
        assert_exit(0, TRAIN(configs[i], "other", 6, "--set", "warmup_steps=4", "--set", "seed=7"));
        assert_true(train_difference(m, checkpoint(m, once, 6), checkpoint(m, "other", 6))[0]);
        media_remove(media_path(m, "other"));
    }
    /* without --resume a run is not written over */
    assert_exit(2, TRAIN("video.json", "once1", 6, "-q"));
    assert_told("add --resume");
}

/* The verb, over precisions, accumulation, and both ways with the text encoder; a cosine makes the
 * rate depend on the length of the run. */
static void check_resume_verb(void **state) {
    media *m = *state;
    static const char *const precisions[2] = {"precision=f32", "precision=bf16"};
    static const char *const counts[2] = {"accumulate_steps=1", "accumulate_steps=2"};
    for (int i = 0; i < 8; i++) {
        bool frozen = i & 1;
        assert_exit(
            0, train_run(m, kin_verb_check_resume,
                         ARGUMENTS(media_path(m, "video.json"), "--steps", "2", "--more", "3", "-q",
                                   "--set", precisions[i >> 1 & 1], "--set", counts[i >> 2],
                                   "--set", "lr_schedule=cosine", "--set",
                                   frozen ? "train_text_encoder=false" : "train_text_encoder=true",
                                   "--set",
                                   frozen ? train_set_path(m, "text_encoder_path",
                                                           "video/model/text_encoder")
                                          : "seed=42",
                                   "--set",
                                   frozen ? train_set_path(m, "tokenizer.path",
                                                           "video/model/tokenizer/spiece.model")
                                          : "seed=42")));
        assert_told("the same bits in all");
    }
    for (int i = 0; i < 4; i++) {
        assert_exit(
            0, train_run(m, kin_verb_check_resume,
                         ARGUMENTS(media_path(m, "vae.json"), "--steps", "1", "--more", "2", "-q",
                                   "--set", precisions[i & 1], "--set", counts[i >> 1])));
        assert_told("the same bits in all");
    }
    assert_exit(2, train_run(m, kin_verb_check_resume,
                             ARGUMENTS(media_path(m, "vae.json"), "--steps", "0")));
    assert_exit(1, train_run(m, kin_verb_check_resume, ARGUMENTS(media_path(m, "missing.json"))));
}

static void text_features_are_cached(void **state) {
    media *m = *state;
    const char *const frozen[] = {
        "-v",
        "--set",
        "train_text_encoder=false",
        "--set",
        train_set_path(m, "text_encoder_path", "video/model/text_encoder"),
        "--set",
        train_set_path(m, "tokenizer.path", "video/model/tokenizer/spiece.model"),
        "--resume",
        NULL};
    assert_exit(0, train_into(m, "video.json", "frozen", 3, frozen, 0));
    assert_null(strstr(train_told, "text features: using"));
    assert_exit(0, train_into(m, "video.json", "frozen", 6, frozen, 0));
    assert_told("text features: using");
    assert_told("latents: using");
    assert_true(kin_file_exists(media_path(m, "frozen/model/text_encoder/model.safetensors")));
    /* the exported encoder is the given one */
    assert_string_equal(
        train_difference(m, media_path(m, "frozen/model/text_encoder/model.safetensors"),
                         media_path(m, "video/model/text_encoder/model.safetensors")),
        "");
}

static void recomputing_gives_the_same_bits(void **state) {
    media *m = *state;
    assert_exit(0, TRAIN_TOLD("video.json", "kept", 4, "-v"));
    assert_told("plan: ");
    assert_told(", 0 of ");
    assert_exit(0, TRAIN_TOLD("video.json", "recomputed", 4, "--set", "recompute=true"));
    assert_null(strstr(train_told, ", 0 of "));
    assert_same(m, "kept", "recomputed", 4);
}

/* With a rate of 0 weights stay; with a decay of one half so do averages, exactly, if they began as
 * the weights. */
static void averages_begin_as_the_weights(void **state) {
    media *m = *state;
    for (int round = 0; round < 2; round++) {
        const char *name = round ? "average1" : "average0";
        kin_safetensors *file;
        int equal = 0, different = 0;
        assert_exit(0, TRAIN("video.json", name, 2, "--set", "ema_decay=0.5", "--set",
                             round ? "learning_rate=0.01" : "learning_rate=0"));
        assert_int_equal(kin_safetensors_open(m->context, checkpoint(m, name, 2), &file), KIN_OK);
        for (size_t i = 0; i < kin_safetensors_count(file); i++) {
            const kin_named_tensor *average = kin_safetensors_at(file, i);
            if (strncmp(average->name, KIN_EMA_PREFIX, strlen(KIN_EMA_PREFIX)) != 0) continue;
            const kin_named_tensor *weight =
                kin_safetensors_find(file, average->name + strlen(KIN_EMA_PREFIX));
            assert_non_null(weight);
            if (memcmp(average->data, weight->data, kin_desc_bytes(&weight->desc)) == 0) equal++;
            else different++;
        }
        kin_safetensors_close(file);
        assert_true(round ? different > 0 : equal > 0 && different == 0);
    }
}

/* ---- ends before the end ---- */

/* Every checkpoint that is there must be whole; returns the newest one's step, 0 if there is none.
 */
static int64_t check_folder(const media *m, const char *name) {
    int64_t newest = 0;
    if (!kin_file_is_folder(media_path(m, name))) return 0;
    DIR *folder = opendir(media_path(m, name));
    assert_non_null(folder);
    for (struct dirent *entry; (entry = readdir(folder));) {
        char path[2 * MEDIA_PATH], step[32];
        kin_safetensors *file;
        if (strncmp(entry->d_name, "checkpoint-", 11) != 0) continue;
        snprintf(path, sizeof path, "%s/%s", media_path(m, name), entry->d_name);
        if (kin_safetensors_open(m->context, path, &file) != KIN_OK)
            fail_msg("%s", kin_context_error(m->context));
        int64_t number = strtoll(entry->d_name + 11, NULL, 10);
        snprintf(step, sizeof step, "%lld", (long long)number);
        assert_string_equal(kin_safetensors_metadata(file, "kinora.step"), step);
        kin_safetensors_close(file);
        if (number > newest) newest = number;
    }
    closedir(folder);
    return newest;
}

/* Waits until the run has logged `steps` steps. */
static void wait_for(const media *m, const char *name, int64_t steps) {
    for (int i = 0; last_logged(m, name) < steps; i++) {
        if (i > 30000) fail_msg("%s: nothing happens", name);
        train_sleep(0.002);
    }
}

/* Half of the kills come at a random moment from the start on, the others within the training. */
static void kill_at_random_moments(void **state) {
    enum { STEPS = 1000, EVERY = 10, KILLS = 14 };
    media *m = *state;
    int killed = 0, in_training = 0;
    int64_t newest = 0, logged = 0;
    char steps[32];
    snprintf(steps, sizeof steps, "steps=%d", STEPS);
    assert_exit(0, TRAIN("video.json", "undisturbed", STEPS, "--set", "checkpoint_every=1000"));
    for (uint64_t i = 0; i < KILLS; i++) {
        double delay = (double)kin_philox_element_uniform(2024, 1, 0, i);
        pid_t child = train_start(m, kin_verb_train,
                                  ARGUMENTS(media_path(m, "video.json"), "-q", "--resume", "--set",
                                            train_set_path(m, "output", "killed"), "--set", steps,
                                            "--set", "checkpoint_every=10"),
                                  0);
        if (i % 2) wait_for(m, "killed", logged < STEPS ? logged + 1 : STEPS);
        train_sleep(i % 2 ? 0.05 * delay : 0.15 * delay);
        kill(child, SIGKILL);
        int code = train_wait(m, child);
        assert_true(code == 0 || code == 1000 + SIGKILL);
        killed += code != 0;
        newest = check_folder(m, "killed");
        logged = last_logged(m, "killed");
        /* the step that was being saved was logged already */
        assert_true(logged - newest <= EVERY);
        in_training += code != 0 && i % 2;
        if (code != 0) continue;
        media_remove(media_path(m, "killed"));
        newest = logged = 0;
    }
    print_message("%d of %d runs were killed, %d of them in training\n", killed, KILLS,
                  in_training);
    assert_true(in_training > 0);
    assert_exit(0,
                TRAIN("video.json", "killed", STEPS, "--resume", "--set", "checkpoint_every=1000"));
    assert_same(m, "undisturbed", "killed", STEPS);
    assert_int_equal(count_files(m, "killed", ".kinora-", ".tmp"), 0);
    check_metrics(m, "killed", STEPS);
    assert_string_equal(train_difference(m,
                                         media_path(m, "killed/model/transformer/"
                                                       "diffusion_pytorch_model.safetensors"),
                                         media_path(m, "undisturbed/model/transformer/"
                                                       "diffusion_pytorch_model.safetensors")),
                        "");
}

static void interruption_saves_and_stops(void **state) {
    media *m = *state;
    static const int signals[2] = {SIGINT, SIGTERM};
    for (int i = 0; i < 2; i++) {
        const char *name = i ? "stopped1" : "stopped0";
        pid_t child = train_start(
            m, kin_verb_train,
            ARGUMENTS(media_path(m, "video.json"), "--set", train_set_path(m, "output", name),
                      "--set", "steps=100000000", "--set", "checkpoint_every=100000000"),
            0);
        wait_for(m, name, 5);
        if (i == 0) { /* meanwhile nobody else may write there */
            char told[sizeof "told.txt.first"] = "told.txt.first";
            rename(media_path(m, "told.txt"), media_path(m, told));
            assert_exit(1, TRAIN("video.json", name, 10, "--resume"));
            assert_told("in use by another kinora train");
            rename(media_path(m, told), media_path(m, "told.txt"));
        }
        kill(child, signals[i]);
        assert_exit(1, train_wait(m, child));
        assert_told("interrupted at step");
        assert_told("--resume");
        int64_t step = check_folder(m, name);
        assert_true(step >= 5);
        assert_int_equal(last_logged(m, name), step);
        if (step + 3 >= MAX_STEPS) fail_msg("interrupted as late as step %lld", (long long)step);
        assert_exit(0, TRAIN("video.json", name, step + 3, "--resume"));
        assert_exit(0, TRAIN("video.json", "straight", step + 3, "-q"));
        assert_same(m, name, "straight", step + 3);
        check_metrics(m, name, step + 3);
        media_remove(media_path(m, "straight"));
    }
}

static void full_disk_keeps_the_last_checkpoint(void **state) {
    media *m = *state;
    struct stat info;
    const char *const more[] = {"--resume", NULL};
    assert_exit(0, TRAIN("video.json", "full", 4, "-q"));
    assert_int_equal(stat(checkpoint(m, "full", 4), &info), 0);
    /* enough for all but checkpoints */
    assert_exit(1, train_into(m, "video.json", "full", 9, more, (size_t)info.st_size / 2));
    assert_told("step 6 is not saved");
    assert_told("the last good checkpoint is kept");
    assert_told("free some space");
    assert_int_equal(check_folder(m, "full"), 4);
    assert_int_equal(count_files(m, "full", ".kinora-", ".tmp"), 0);
    assert_exit(0, train_into(m, "video.json", "full", 9, more, 0));
    assert_exit(0, TRAIN("video.json", "roomy", 9, "-q"));
    assert_same(m, "full", "roomy", 9);
    check_metrics(m, "full", 9);
    /* no room for anything: told at once */
    assert_exit(1, train_into(m, "video.json", "roomless", 9, more, 256));
    assert_told("free some space");
}

static void broken_checkpoint_falls_back(void **state) {
    media *m = *state;
    assert_exit(0, TRAIN("video.json", "broken", 4, "-q"));
    assert_int_equal(truncate(checkpoint(m, "broken", 4), 5000), 0);
    media_write(media_path(m, "broken/.kinora-1-0.tmp"), "left", 4);
    assert_exit(0, TRAIN_TOLD("video.json", "broken", 6, "--resume"));
    assert_told("trying an older checkpoint");
    assert_told("checkpoint-00000002.safetensors");
    assert_false(kin_file_exists(media_path(m, "broken/.kinora-1-0.tmp")));
    assert_same(m, "broken", "video", 6);
    /* a checkpoint of another configuration is refused */
    assert_exit(2, TRAIN("video.json", "broken", 8, "--resume", "--set", "denoiser.depth=1"));
    assert_told("another configuration?");
    assert_exit(2,
                TRAIN("video.json", "broken", 8, "--resume", "--set", "denoiser.hidden_size=32"));
    assert_told("another shape");
}

/* ---- values that are not finite ---- */

#define SICK "denoiser.blocks.1.attn.qkv.weight"

/* One NaN in a weight: three steps are skipped, the run stops, nothing else has changed. */
static void nan_in_a_weight_stops(void **state) {
    media *m = *state;
    static const char *const counts[2] = {"accumulate_steps=1", "accumulate_steps=2"};
    for (int i = 0; i < 2; i++) {
        const char *name = i ? "sick1" : "sick0";
        assert_exit(0, TRAIN("video.json", name, 2, "--set", counts[i]));
        train_plant(m, checkpoint(m, name, 2), SICK, 3, NAN);
        assert_exit(1, TRAIN_TOLD("video.json", name, 20, "--resume", "--set", counts[i]));
        assert_int_equal(train_count_told("the step is skipped"), 3);
        assert_told("3 steps in a row are not finite");
        assert_told("denoiser.blocks.1.attn");
        assert_told("learning rate");
        int64_t step = check_folder(m, name);
        assert_true(step >= 4);
        const char *where = train_difference(m, checkpoint(m, name, 2), checkpoint(m, name, step));
        if (where[0]) fail_msg("%s has changed", where);
        /* healed, it goes on: sums of gradients hold nothing of the failure */
        train_plant(m, checkpoint(m, name, step), SICK, 3, 0.01f);
        assert_exit(0, TRAIN_TOLD("video.json", name, 20, "--resume", "--set", counts[i]));
        assert_int_equal(train_count_told("the step is skipped"), 0);
    }
}

/* One NaN in the data: the steps that meet it are skipped and told, the others go on. */
static void nan_in_the_data_is_skipped(void **state) {
    media *m = *state;
    kin_safetensors *file;
    assert_exit(0, TRAIN("video.json", "nan", 1, "--set", "batch_size=1"));
    train_plant(m, media_path(m, "nan/latents.safetensors"), "0000000005", 9, NAN);
    assert_exit(0, TRAIN_TOLD("video.json", "nan", 24, "--set", "batch_size=1", "--resume"));
    assert_told("latents: using");
    assert_in_range(train_count_told("the step is skipped (1 in a row)"), 2, 3);
    assert_int_equal(kin_safetensors_open(m->context, checkpoint(m, "nan", 24), &file), KIN_OK);
    for (size_t i = 0; i < kin_safetensors_count(file); i++) {
        const kin_named_tensor *t = kin_safetensors_at(file, i);
        for (int64_t j = 0; j < kin_desc_count(&t->desc); j++)
            assert_true(isfinite(kin_element_get(t->data, t->desc.dtype, j)));
    }
    kin_safetensors_close(file);
    check_metrics(m, "nan", 24);
}

/* ---- bad data and configurations ---- */

static void corrupt_clips_are_replaced(void **state) {
    media *m = *state;
    char name[64];
    assert_exit(0, train_run(m, kin_verb_data_synth,
                             ARGUMENTS(media_path(m, "bad"), "--clips", "12", "--heldout-clips",
                                       "0", "--video-frames", "2", "--size", "16", "-q")));
    const char *const more[] = {"-v", "--set", train_set_path(m, "data.csv", "bad/train.csv"),
                                "--resume", NULL};
    media_write(media_path(m, "bad/clips/000003.mp4"), "this is no video", 16);
    for (int round = 0; round < 2; round++) { /* the latents, made and read again */
        assert_exit(0, train_into(m, "video.json", "replaced", 20 + 20 * round, more, 0));
        assert_int_equal(train_count_told("the next clip takes its place"), 1 - round);
        assert_int_equal(train_count_told("skipped"), 0);
        if (round == 0) assert_told("000003.mp4");
    }
    assert_exit(0, train_into(m, "vae.json", "replaced-vae", 8, more, 0));
    assert_int_equal(train_count_told("the next clip takes its place"), 1);
    assert_int_equal(unlink(media_path(m, "bad/clips/000004.mp4")), 0);
    assert_exit(0, train_into(m, "video.json", "replaced", 44, more, 0)); /* encoded anew */
    assert_int_equal(train_count_told("the next clip takes its place"), 2);
    for (int i = 0; i < 10; i++) {
        snprintf(name, sizeof name, "bad/clips/%06d.mp4", i);
        media_write(media_path(m, name), "this is no video", 16);
    }
    assert_exit(1, train_into(m, "video.json", "none", 4, more, 0));
    assert_told("10 clips in a row cannot be read");
    media_write(media_path(m, "bad/train.csv"), "path,text\n", 10);
    assert_exit(1, train_into(m, "video.json", "none", 4, more, 0));
    assert_told("no usable clip");
    media_write(media_path(m, "bad/train.csv"), "file,text\na.mp4,a\n", 18);
    assert_exit(1, train_into(m, "video.json", "none", 4, more, 0));
    assert_told("path");
}

static void little_memory_is_told_before(void **state) {
    media *m = *state;
    assert_exit(1, TRAIN("video.json", "narrow", 4, "--set", "memory=100K"));
    assert_told("memory");
    assert_told("largest");
    assert_told("denoiser.");
    assert_int_equal(check_folder(m, "narrow"), 0);
    assert_exit(0, TRAIN("video.json", "narrow", 4, "--set", "memory=1G"));
}

static void bad_configurations_are_told(void **state) {
    media *m = *state;
    static const struct {
        const char *set, *told;
        int code;
    } rows[] = {
        {"lerning_rate=1", "learning_rate", 2},
        {"data.hieght=32", "height", 2},
        {"denoiser.hiden_size=32", "hidden_size", 2},
        {"text_encoder.d_modle=32", "d_model", 2},
        {"validation.prompt=[]", "prompts", 2},
        {"timesteps.stratfied=true", "stratified", 2},
        {"learning_rate=-1", "learning_rate", 2},
        {"learning_rate=fast", "learning_rate", 2},
        {"batch_size=0", "batch_size", 2},
        {"steps=1.5", "steps", 2},
        {"precision=f16", "precision", 2},
        {"memory=plenty", "memory", 2},
        {"task=audio", "task", 2},
        {"output=null", "output", 1},
        {"data.csv=null", "csv", 1},
        {"data.csv=/nowhere/train.csv", "/nowhere/train.csv", 1},
        {"data.height=15", "multiples of 2", 2},
        {"vae_path=/nowhere", "/nowhere", 1},
        {"denoiser.caption_channels=16", "caption_channels", 2},
        {"denoiser.in_channels=4", "in_channels", 2},
        {"train_text_encoder=false", "text_encoder_path", 2},
        {"text_encoder.vocab_size=16", "the tokenizer has", 2},
        {"tokenizer.path=/nowhere/spiece.model", "/nowhere/spiece.model", 1},
        {"init_path=/nowhere", "/nowhere", 1},
        {"steps", "=", 2},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int code = TRAIN("video.json", "wrong", 2, "--set", rows[i].set);
        if (code != rows[i].code || !strstr(train_told, rows[i].told))
            fail_msg("%s: exit status %d, not %d; '%s' wanted; it told:\n%s", rows[i].set, code,
                     rows[i].code, rows[i].told, train_told);
        assert_int_equal(check_folder(m, "wrong"), 0);
    }
    media_write(media_path(m, "cut.json"), "{\"task\": \"vae\",", 15);
    assert_exit(1, TRAIN("cut.json", "wrong", 2, "-q"));
    assert_told("cut.json");
    assert_exit(1, TRAIN("missing.json", "wrong", 2, "-q"));
    assert_told("missing.json");
    assert_exit(2, TRAIN("video.json", "wrong", 2, "--resmue"));
    assert_told("--resume");
    assert_exit(2, train_run(m, kin_verb_train, ARGUMENTS("-q")));
}

/* Weights that do not fit the model that takes them. */
static void wrong_weights_are_told(void **state) {
    media *m = *state;
    assert_exit(
        0, TRAIN("video.json", "start", 2, "--set", train_set_path(m, "init_path", "video/model")));
    assert_exit(2, TRAIN("video.json", "start6", 2, "--set",
                         train_set_path(m, "init_path", "video/model"), "--set",
                         "denoiser.hidden_size=32"));
    assert_told("shape");
    /* the text encoder and its tokenizer are those of the model folder */
    assert_exit(0, TRAIN("video.json", "start2", 2, "--set",
                         train_set_path(m, "init_path", "video/model"), "--set",
                         "text_encoder=null", "--set", "train_text_encoder=false"));
    assert_string_equal(
        train_difference(m, media_path(m, "start2/model/text_encoder/model.safetensors"),
                         media_path(m, "video/model/text_encoder/model.safetensors")),
        "");
    assert_exit(1, TRAIN("video.json", "start5", 2, "--set",
                         train_set_path(m, "text_encoder_path", "vae/vae")));
    /* without dropout the null caption is kept as it is, and exported */
    assert_exit(0, TRAIN("video.json", "start1", 2, "--set", "caption_dropout=0", "--set",
                         train_set_path(m, "init_path", "video/model")));
    assert_exit(0, train_run(m, kin_verb_generate,
                             ARGUMENTS("-m", media_path(m, "start1/model"), "-p", "a", "--steps",
                                       "1", "-o", media_path(m, "x.mp4"))));
    assert_exit(2, TRAIN("video.json", "start3", 2, "--set",
                         train_set_path(m, "init_path", "video/model/vae")));
    assert_told("does not have");
    media_write(media_path(m, "video/model/model.safetensors"), "\x10\0\0\0\0\0\0\0{}", 10);
    assert_exit(1, TRAIN("video.json", "start4", 2, "--set",
                         train_set_path(m, "init_path", "video/model/model.safetensors")));
    assert_told("model.safetensors");
}

/* Clips of 12 frames a second, every second frame of them: 6. */
static void the_rate_is_that_of_the_clips(void **state) {
    media *m = *state;
    char *index = NULL;
    assert_exit(0,
                train_run(m, kin_verb_data_synth,
                          ARGUMENTS(media_path(m, "rate"), "--clips", "4", "--heldout-clips", "0",
                                    "--video-frames", "3", "--size", "16", "--fps", "12", "-q")));
    assert_exit(0, TRAIN("video.json", "rated", 1, "--set",
                         train_set_path(m, "data.csv", "rate/train.csv"), "--set",
                         "data.frame_interval=2"));
    assert_int_equal(kin_file_read_all(m->context, media_path(m, "rated/model/model_index.json"),
                                       1 << 16, &index, NULL),
                     KIN_OK);
    if (!strstr(index, "\"fps\": 6.0")) fail_msg("no rate of 6 in %s", index);
    kin_free(m->context, index);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(resume_gives_the_same_bits),
        cmocka_unit_test(check_resume_verb),
        cmocka_unit_test(text_features_are_cached),
        cmocka_unit_test(recomputing_gives_the_same_bits),
        cmocka_unit_test(averages_begin_as_the_weights),
        cmocka_unit_test(kill_at_random_moments),
        cmocka_unit_test(interruption_saves_and_stops),
        cmocka_unit_test(full_disk_keeps_the_last_checkpoint),
        cmocka_unit_test(broken_checkpoint_falls_back),
        cmocka_unit_test(nan_in_a_weight_stops),
        cmocka_unit_test(nan_in_the_data_is_skipped),
        cmocka_unit_test(corrupt_clips_are_replaced),
        cmocka_unit_test(little_memory_is_told_before),
        cmocka_unit_test(bad_configurations_are_told),
        cmocka_unit_test(wrong_weights_are_told),
        cmocka_unit_test(the_rate_is_that_of_the_clips),
    };
    return cmocka_run_group_tests(tests, train_setup, media_teardown);
}

#else

int main(void) {
    printf("skipped: training needs FFmpeg and sentencepiece\n");
    return 0;
}

#endif
