/* What people do with kinora generate, on tiny random models: conditioning on images and videos,
 * long videos, jobs of many clips, resuming. Latents and files are compared bit for bit. */
#define _XOPEN_SOURCE 700
#include "tests/train_helper.h"

#include "runtime/image.h"
#include "runtime/video.h"

#if defined KIN_HAVE_FFMPEG && defined KIN_HAVE_SENTENCEPIECE && defined KIN_HAVE_PNG

enum { SIDE = 32, FRAMES = 8, OVERLAP = 2, VIDEO_FRAMES = 6 };

/* Two steps of MODEL with small clips, and what is given in addition. */
static int make(const media *m, const char *model, const char *output, const char *const *more) {
    const char *list[TRAIN_ARGUMENTS] = {"-m",      media_path(m, model),
                                         "-o",      media_path(m, output),
                                         "--steps", "2",
                                         "-H",      "32",
                                         "-W",      "32",
                                         "-v"};
    int count = 11;
    while (*more) list[count++] = *more++;
    list[count] = NULL;
    return train_run(m, kin_verb_generate, list);
}

#define MAKE(output, ...)                                                                          \
    make(m, "sora", output, ARGUMENTS("--num-frames", "8", "-p", "a red circle", __VA_ARGS__))
#define MAKE_OF(model, output, ...) make(m, model, output, ARGUMENTS(__VA_ARGS__))

static const char *const systems[][2] = {{"open-sora-1.1", "sora"},
                                         {"open-sora-1.0", "first"},
                                         {"latte", "latte"},
                                         {"pixart-alpha", "pixart"},
                                         {"open-sora-plan-1.2", "plan"}};
enum { SYSTEMS = sizeof systems / sizeof *systems };

static void write_image(const media *m, const char *name, int height, int width, unsigned seed) {
    uint8_t pixels[3 * 64 * 64];
    for (int i = 0; i < 3 * height * width; i++)
        pixels[i] = (uint8_t)(((unsigned)i * seed >> 3) ^ ((unsigned)i / 97 * 29));
    assert_int_equal(
        kin_image_write_png(m->context, media_path(m, name), pixels, height, width, NULL, 0),
        KIN_OK);
}

static void write_video(const media *m, const char *name) {
    const int64_t dims[4] = {3, VIDEO_FRAMES, 40, 48};
    kin_host_tensor clip;
    assert_int_equal(kin_host_tensor_create(m->context, KIN_F32, 4, dims, &clip), KIN_OK);
    for (int64_t i = 0; i < 3 * VIDEO_FRAMES * 40 * 48; i++)
        ((float *)clip.data)[i] = (float)((i / 7 * 31 + i / (40 * 48) * 57) % 200) / 100 - 1;
    assert_int_equal(kin_video_write(m->context, media_path(m, name), &clip, NULL), KIN_OK);
    kin_host_tensor_free(m->context, &clip);
}

static int setup(void **state) {
    if (access("/dev/shm", W_OK | X_OK) == 0) setenv("TMPDIR", "/dev/shm", 0);
    if (media_setup(state) != 0) return -1;
    media *m = *state;
    for (int i = 0; i < SYSTEMS; i++) {
        int code = train_run(
            m, kin_verb_init,
            ARGUMENTS(systems[i][0], media_path(m, systems[i][1]), "--size", "tiny", "-q"));
        if (code == 0) continue;
        fprintf(stderr, "%s", train_told);
        return -1;
    }
    write_image(m, "a.png", 48, 40, 5);
    write_image(m, "b.png", 32, 64, 11);
    write_video(m, "v.mkv");
    return 0;
}

static bool exists(const media *m, const char *name) {
    return kin_file_exists(media_path(m, name));
}

static int64_t frames_of(const media *m, const char *name) {
    kin_video_info info;
    assert_int_equal(kin_video_probe(m->context, media_path(m, name), &info), KIN_OK);
    assert_true(info.height == SIDE && info.width == SIDE);
    return info.frames;
}

/* Whether frame t of OUTPUT's stage `one` is frame u of its stage `two`: [1, C, T, Y, X] each. */
static bool same_frame(const media *m, const char *output, const char *one, int64_t t,
                       const char *two, int64_t u) {
    const char *const stages[2] = {one, two};
    const int64_t frame[2] = {t, u};
    kin_safetensors *file[2];
    const kin_named_tensor *tensor[2];
    for (int i = 0; i < 2; i++) {
        char name[256];
        snprintf(name, sizeof name, "%s.stages/%s.safetensors", output, stages[i]);
        if (kin_safetensors_open(m->context, media_path(m, name), &file[i]) != KIN_OK)
            fail_msg("%s", kin_context_error(m->context));
        tensor[i] = kin_safetensors_find(file[i], "latents");
        assert_non_null(tensor[i]);
        assert_true(frame[i] < tensor[i]->desc.dims[2]);
    }
    bool same = true;
    const int64_t *a = tensor[0]->desc.dims, *b = tensor[1]->desc.dims;
    size_t area = (size_t)(a[3] * a[4]);
    assert_true(a[1] == b[1] && a[3] == b[3] && a[4] == b[4]);
    for (int64_t c = 0; c < a[1]; c++)
        same = same && memcmp((const float *)tensor[0]->data + (size_t)(c * a[2] + t) * area,
                              (const float *)tensor[1]->data + (size_t)(c * b[2] + u) * area,
                              area * sizeof(float)) == 0;
    for (int i = 0; i < 2; i++) kin_safetensors_close(file[i]);
    return same;
}

/* ---- given frames ---------------------------------------------------------------------------- */

static void tasks_keep_what_is_given(void **state) {
    const media *m = *state;
    char a[2 * MEDIA_PATH], v[2 * MEDIA_PATH], both[4 * MEDIA_PATH];
    snprintf(a, sizeof a, "%s", media_path(m, "a.png"));
    snprintf(v, sizeof v, "%s", media_path(m, "v.mkv"));
    snprintf(both, sizeof both, "%s,%s", a, media_path(m, "b.png"));
    const struct {
        const char *flags[4];
        const char *strategy;
        int given[FRAMES]; /* of each frame: 10 times the reference + its frame + 1; 0: made */
    } rows[] = {
        {{"--image", a}, "mask_strategy \"0\"", {1}},
        {{"--image", a, "--loop-video"}, "\"0;0,0,0,-1,1\"", {1, 0, 0, 0, 0, 0, 0, 1}},
        {{"--interpolate", both}, "\"0;0,1,0,-1,1\"", {1, 0, 0, 0, 0, 0, 0, 11}},
        {{"--video", v, "--extend", "forward"}, "\"0,0,-2,0,2\"", {1, 2}},
        {{"--video", v, "--extend", "backward"}, "\"0,0,0,-2,2\"", {0, 0, 0, 0, 0, 0, 1, 2}},
        {{"--video", v, "--edit", "0"}, "\"0,0,0,0,6,0\"", {1, 2, 3, 4, 5, 6}},
        {{"--video", v, "--edit", "0.5"}, "\"0,0,0,0,6,0.5\"", {0}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char output[64], comment[64];
        const char *const *f = rows[i].flags;
        snprintf(output, sizeof output, "task%zu.mkv", i);
        assert_exit(
            0, f[2] ? f[3] ? MAKE(output, f[0], f[1], f[2], f[3], "--keep-given", "--keep-stages")
                           : MAKE(output, f[0], f[1], f[2], "--keep-given", "--keep-stages")
                    : MAKE(output, f[0], f[1], "--keep-given", "--keep-stages"));
        assert_told(rows[i].strategy);
        assert_int_equal(frames_of(m, output), FRAMES);
        for (int t = 0; t < FRAMES; t++) {
            int given = rows[i].given[t];
            char stage[64];
            snprintf(stage, sizeof stage, "references-%d", given / 10);
            bool same = same_frame(m, output, "latents", t, stage, given ? given % 10 - 1 : 0);
            if (same != (given > 0)) fail_msg("row %zu, frame %d", i, t);
        }
        char *text = NULL;
        snprintf(comment, sizeof comment, "mask_strategy: ");
        assert_int_equal(kin_video_comment(m->context, media_path(m, output), &text), KIN_OK);
        assert_non_null(strstr(text, comment));
        kin_free(m->context, text);
    }
    /* the whole video: what it began with, but for the frames that were given, and the clip */
    kin_host_tensor whole, clip;
    assert_exit(0,
                MAKE("joined.mkv", "--video", v, "--extend", "forward", "--keep-given", "--join"));
    assert_int_equal(frames_of(m, "joined.mkv"), VIDEO_FRAMES - OVERLAP + FRAMES);
    assert_int_equal(kin_video_read(m->context, media_path(m, "joined.mkv"), NULL, &whole), KIN_OK);
    assert_int_equal(kin_video_read(m->context, media_path(m, "task3.mkv"), NULL, &clip), KIN_OK);
    assert_memory_equal((float *)whole.data + (VIDEO_FRAMES - OVERLAP) * SIDE * SIDE, clip.data,
                        FRAMES * SIDE * SIDE * sizeof(float));
    kin_host_tensor_free(m->context, &whole);
    kin_host_tensor_free(m->context, &clip);
    assert_exit(0, MAKE("ahead.mkv", "--video", v, "--extend", "backward", "--join"));
    assert_int_equal(frames_of(m, "ahead.mkv"), VIDEO_FRAMES - OVERLAP + FRAMES);
    /* as published, the last step changes given frames too */
    assert_exit(0, MAKE("task.mkv", "--image", a, "--keep-stages"));
    assert_false(same_frame(m, "task.mkv", "latents", 0, "references-0", 0));
    assert_false(same_file(m, "task.mkv", "task0.mkv"));
}

static void published_forms_are_the_same(void **state) {
    const media *m = *state;
    char a[2 * MEDIA_PATH], json[4 * MEDIA_PATH];
    snprintf(a, sizeof a, "%s", media_path(m, "a.png"));
    snprintf(json, sizeof json,
             "a red circle{\"reference_path\": \"%s\", \"mask_strategy\": \"0\"}", a);
    assert_exit(0, MAKE("short.mkv", "--image", a));
    assert_exit(0, MAKE("flags.mkv", "--reference-path", a, "--mask-strategy", "0"));
    assert_exit(0, MAKE_OF("sora", "json.mkv", "--num-frames", "8", "-p", json));
    assert_true(same_file(m, "short.mkv", "flags.mkv"));
    assert_true(same_file(m, "short.mkv", "json.mkv"));
    assert_exit(0, MAKE("other.mkv", "--reference-path", a, "--mask-strategy", "0,0,0,1"));
    assert_false(same_file(m, "short.mkv", "other.mkv"));
    assert_exit(0, MAKE("none.mkv", "-q"));
    assert_false(same_file(m, "short.mkv", "none.mkv"));
}

static void passes_make_long_videos(void **state) {
    const media *m = *state;
    char a[2 * MEDIA_PATH];
    snprintf(a, sizeof a, "%s", media_path(m, "a.png"));
    assert_exit(0, MAKE("long.mkv", "--image", a, "--loop", "3", "--keep-given", "--keep-stages"));
    assert_int_equal(frames_of(m, "long.mkv"), 3 * (FRAMES - OVERLAP) + OVERLAP);
    assert_true(same_frame(m, "long.mkv", "latents-0", 0, "references-0", 0));
    for (int k = 0; k < OVERLAP; k++) {
        assert_true(same_frame(m, "long.mkv", "latents-1", k, "references-1", k));
        assert_true(same_frame(m, "long.mkv", "latents-2", k, "references-2", k));
        assert_false(same_frame(m, "long.mkv", "latents-2", k, "references-1", k));
    }
    assert_false(same_frame(m, "long.mkv", "latents-1", OVERLAP, "references-1", OVERLAP - 1));
    /* more of the last clip; backwards; and a loop, whose end is its beginning */
    assert_exit(0, MAKE("three.mkv", "--loop", "2", "--condition-frame-length", "3"));
    assert_int_equal(frames_of(m, "three.mkv"), 2 * (FRAMES - 3) + 3);
    assert_exit(0, MAKE("before.mkv", "--video", media_path(m, "v.mkv"), "--extend", "backward",
                        "--loop", "2", "--keep-given", "--keep-stages"));
    assert_int_equal(frames_of(m, "before.mkv"), 2 * (FRAMES - OVERLAP) + OVERLAP);
    for (int k = 0; k < OVERLAP; k++)
        assert_true(
            same_frame(m, "before.mkv", "latents-1", FRAMES - OVERLAP + k, "references-1", k));
    assert_exit(0, MAKE("circle.mkv", "--loop-video", "--keep-given", "--keep-stages"));
    assert_int_equal(frames_of(m, "circle.mkv"), 2 * (FRAMES - OVERLAP));
    for (int k = 0; k < OVERLAP; k++) /* the reference's needed frames are its first and last two */
        assert_true(
            same_frame(m, "circle.mkv", "latents-1", FRAMES - OVERLAP + k, "references-0", k) &&
            same_frame(m, "circle.mkv", "latents-1", k, "references-0", OVERLAP + k));
    /* a long edit: the last pass has what is left of the video */
    assert_exit(0, MAKE("edited.mkv", "--video", media_path(m, "v.mkv"), "--edit", "0", "--loop",
                        "2", "--condition-frame-length", "4", "--keep-given", "--keep-stages"));
    assert_int_equal(frames_of(m, "edited.mkv"), 12);
    assert_true(same_frame(m, "edited.mkv", "latents-0", 5, "references-0", 5));
    assert_true(same_frame(m, "edited.mkv", "latents-1", 3, "references-1", 3));
    assert_false(same_frame(m, "edited.mkv", "latents-1", 1, "references-0", 5));
    /* passes with texts of their own */
    assert_exit(0, MAKE_OF("sora", "text.mkv", "--num-frames", "8", "--loop", "2", "--keep-stages",
                           "-p", "|0|a red circle|1|a blue square"));
    assert_exit(0, MAKE_OF("sora", "same.mkv", "--num-frames", "8", "--loop", "2", "--keep-stages",
                           "-p", "|0|a red circle|1|a red circle"));
    assert_string_equal(train_difference(m, media_path(m, "text.mkv.stages/latents-0.safetensors"),
                                         media_path(m, "same.mkv.stages/latents-0.safetensors")),
                        "");
    assert_string_not_equal(
        train_difference(m, media_path(m, "text.mkv.stages/latents-1.safetensors"),
                         media_path(m, "same.mkv.stages/latents-1.safetensors")),
        "");
}

/* ---- jobs ------------------------------------------------------------------------------------ */

static void write_prompts(const media *m) {
    char text[4 * MEDIA_PATH];
    int length = snprintf(text, sizeof text,
                          "a red circle\na wave{\"reference_path\": \"%s\", \"mask_strategy\": "
                          "\"0\"}\n\na green square\n",
                          media_path(m, "a.png"));
    media_write(media_path(m, "prompts.txt"), text, (size_t)length);
}

static void jobs_make_many_clips(void **state) {
    const media *m = *state;
    static const char *const names[] = {"sample_0-0.mkv", "sample_0-1.mkv", "sample_1-0.mkv",
                                        "sample_1-1.mkv", "sample_2-0.mkv", "sample_2-1.mkv"};
    char name[128], other[128];
    write_prompts(m);
    assert_exit(0, MAKE_OF("sora", "sample.mkv", "--num-frames", "4", "--prompt-file",
                           media_path(m, "prompts.txt"), "--samples", "2", "-s", "7"));
    assert_told("about");
    for (int i = 0; i < 6; i++) assert_int_equal(frames_of(m, names[i]), 4);
    assert_false(same_file(m, names[0], names[1]));
    assert_false(exists(m, "sample_0-0.mkv.stages"));
    /* a clip is the same whatever stands beside it */
    assert_exit(
        0, MAKE_OF("sora", "alone.mkv", "--num-frames", "4", "-p", "a green square", "-s", "8"));
    assert_true(same_file(m, "alone.mkv", names[5]));
    /* only what is missing is made */
    assert_int_equal(unlink(media_path(m, names[2])), 0);
    assert_exit(0, MAKE_OF("sora", "sample.mkv", "--num-frames", "4", "--prompt-file",
                           media_path(m, "prompts.txt"), "--samples", "2", "-s", "7"));
    assert_int_equal(train_count_told("is finished"), 5);
    assert_int_equal(train_count_told("sampling 2/2"), 1);
    /* together, within rounding: another size of products sums in another order */
    assert_exit(0, MAKE_OF("sora", "batch/", "--num-frames", "4", "--prompt-file",
                           media_path(m, "prompts.txt"), "--samples", "2", "-s", "7",
                           "--batch-size", "2"));
    for (int i = 0; i < 6; i++) {
        snprintf(name, sizeof name, "batch/sample_%d-%d.mp4", i / 2, i % 2);
        assert_int_equal(frames_of(m, name), 4);
    }
    /* pictures */
    assert_exit(0, MAKE_OF("sora", "pictures/", "--num-frames", "1", "-p", "one", "-p", "two"));
    for (int i = 0; i < 2; i++) {
        snprintf(other, sizeof other, "pictures/sample_%d.png", i);
        assert_int_equal(frames_of(m, other), 1);
    }
    assert_exit(0, MAKE_OF("sora", "picture.png", "-p", "one"));
    assert_true(same_file(m, "picture.png", "pictures/sample_0.png"));
}

static void killed_jobs_go_on(void **state) {
    const media *m = *state;
    static const char *const where[] = {
        "/sample_0.mp4.stages/latents-0.safetensors", "/sample_1.mp4.stages/frames-0.safetensors",
        "/sample_1.mp4.stages/references-1.safetensors", "/sample_0.mp4"};
    static const int signals[] = {SIGKILL, SIGINT, SIGKILL, SIGKILL};
    char name[128], other[128], folder[64], output[2 * MEDIA_PATH];
    char model[2 * MEDIA_PATH], prompts[2 * MEDIA_PATH];
    write_prompts(m);
    snprintf(model, sizeof model, "%s", media_path(m, "sora"));
    snprintf(prompts, sizeof prompts, "%s", media_path(m, "prompts.txt"));
    for (int i = -1; i < 4; i++) { /* -1: without a stop */
        snprintf(folder, sizeof folder, "killed%d/", i);
        snprintf(output, sizeof output, "%s", media_path(m, folder));
        const char *const arguments[] = {"-m",    model,          "-o", output,    "--prompt-file",
                                         prompts, "--num-frames", "4",  "--steps", "30",
                                         "-H",    "32",           "-W", "32",      "--loop",
                                         "2",     "--batch-size", "2",  "-v",      NULL};
        pid_t child = train_start(m, kin_verb_generate, arguments, 0);
        if (i >= 0) {
            snprintf(name, sizeof name, "killed%d%s", i, where[i]);
            for (int k = 0; !exists(m, name); k++) {
                if (k > 6000) fail_msg("nothing happens");
                train_sleep(0.005);
            }
            kill(child, signals[i]);
        }
        int code = train_wait(m, child);
        if (i < 0) assert_exit(0, code);
        if (i >= 0 && code != 0) assert_exit(0, train_run(m, kin_verb_generate, arguments));
        for (int k = 0; i >= 0 && k < 3; k++) {
            snprintf(name, sizeof name, "killed%d/sample_%d.mp4", i, k);
            snprintf(other, sizeof other, "killed-1/sample_%d.mp4", k);
            if (!same_file(m, name, other)) fail_msg("%s is another one", name);
            snprintf(name, sizeof name, "killed%d/sample_%d.mp4.stages", i, k);
            assert_false(exists(m, name));
        }
    }
}

static void dry_runs_make_nothing(void **state) {
    const media *m = *state;
    write_prompts(m);
    assert_exit(0, MAKE_OF("sora", "dry/", "--num-frames", "8", "--resolution", "144p",
                           "--aspect-ratio", "16:9", "-H", "0", "-W", "0", "--prompt-file",
                           media_path(m, "prompts.txt"), "--loop", "3", "--dry-run"));
    static const char *const parts[] = {
        "open-sora-1.1", "256x144", "iddpm, 2 steps", "3 of 8 frames", "sample_2.mp4",
        "strategy 0",    "text",    "references",     "sampling",      "frames"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) assert_told(parts[i]);
    assert_false(exists(m, "dry"));
    assert_exit(0, MAKE_OF("sora", "dry/", "-p", "x", "--dry-run", "--memory", "100K"));
    assert_told("does not fit");
}

/* ---- the other systems ----------------------------------------------------------------------- */

static void every_system_generates(void **state) {
    const media *m = *state;
    for (int i = 0; i < SYSTEMS; i++) {
        char output[64], picture[64], negative[64];
        const char *system = systems[i][1];
        snprintf(output, sizeof output, "of-%s.mkv", system);
        snprintf(picture, sizeof picture, "of-%s.png", system);
        snprintf(negative, sizeof negative, "not-%s.png", system);
        assert_exit(0, MAKE_OF(system, picture, "-p", "a red circle"));
        assert_exit(0, MAKE_OF(system, negative, "-p", "a red circle", "-n", "blur"));
        assert_false(same_file(m, picture, negative));
        if (strcmp(system, "pixart") == 0) continue;
        const char *frames = strcmp(system, "plan") == 0 ? "5" : "4";
        assert_exit(0, MAKE_OF(system, output, "-p", "a red circle", "--num-frames", frames));
        assert_int_equal(frames_of(m, output), atoi(frames));
        if (i == 0) continue;
        assert_exit(2, MAKE_OF(system, "x.mkv", "-p", "a", "--image", media_path(m, "a.png")));
        assert_told("STDiT2");
        assert_exit(2, MAKE_OF(system, "x.mkv", "-p", "a{\"mask_strategy\": \"0\"}"));
        assert_told("frame masks");
    }
    /* a size that PixArt does not know is made of one that it does */
    kin_video_info info;
    assert_exit(0, train_run(m, kin_verb_init,
                             ARGUMENTS("pixart-alpha", media_path(m, "bins"), "--size", "tiny",
                                       "-q", "--set", "transformer.sample_size=32")));
    assert_exit(0, MAKE_OF("bins", "bin.png", "-p", "a", "-H", "200", "-W", "300"));
    assert_int_equal(kin_video_probe(m->context, media_path(m, "bin.png"), &info), KIN_OK);
    assert_true(info.height == 200 && info.width == 300);
    assert_exit(0, MAKE_OF("bins", "bin.png", "-p", "a", "-H", "200", "-W", "300", "--dry-run"));
    assert_told("208x304");
    assert_told("scaled to 200x300");
    /* samplers and noise */
    static const char *const variants[][3] = {
        {"--sampler", "dpm++", "--karras"}, {"--sampler", "dpm++", "--sde"},
        {"--sampler", "euler-a", "-q"},     {"--noise", "torch-cpu", "-q"},
        {"--noise", "torch-cuda", "-q"},    {"--noise", "torch-cuda:2x1024", "-q"},
        {"--dtype", "bf16", "-q"},          {"--no-clean", "-q", "-v"}};
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
        char output[64];
        const char *const *v = variants[i];
        snprintf(output, sizeof output, "variant%zu.png", i);
        assert_exit(0, MAKE_OF("latte", output, "-p", "A (Red) Circle", v[0], v[1], v[2]));
        if (i == 0) assert_exit(0, MAKE_OF("latte", "variant.png", "-p", "A (Red) Circle"));
        assert_false(same_file(m, output, "variant.png"));
    }
}

/* ---- wrong input ----------------------------------------------------------------------------- */

static void wrong_input_is_named(void **state) {
    const media *m = *state;
    char a[2 * MEDIA_PATH], notes[2 * MEDIA_PATH];
    snprintf(a, sizeof a, "%s", media_path(m, "a.png"));
    snprintf(notes, sizeof notes, "%s", media_path(m, "notes.png"));
    media_write(notes, "hello", 5);
    const struct {
        const char *flags[4], *told;
        int code;
    } rows[] = {
        {{"--image", "/nowhere.png", "-v", "-v"}, "/nowhere.png", 1},
        {{"--image", notes, "-v", "-v"}, "notes.png", 1},
        {{"--video", a, "-v", "-v"}, "--edit", 2},
        {{"--video", a, "--edit", "1.5"}, "1.5", 2},
        {{"--video", a, "--extend", "sideways"}, "sideways", 2},
        {{"--reference-path", a, "-v", "-v"}, "mask_strategy", 2},
        {{"--reference-path", a, "--mask-strategy", "0,1"}, "reference 1 of 1", 2},
        {{"--reference-path", a, "--mask-strategy", "x"}, "mask strategy", 2},
        {{"--mask-strategy", "0", "-v", "-v"}, "reference_path", 2},
        {{"--image", a, "--sampler", "euler-a"}, "iddpm", 2},
        {{"--loop", "2", "--condition-frame-length", "8"}, "condition-frame-length", 2},
        {{"--interpolate", a, "-v", "-v"}, "2 to 8", 2},
        {{"--image", a, "--join", "-v"}, "--extend", 2},
        {{"--reference-interval", "0", "-v", "-v"}, "reference-interval", 2},
        {{"-p", "a {\"mask_stratgy\": \"0\"}", "-v", "-v"}, "mask_strategy", 2},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *const *f = rows[i].flags;
        int code = MAKE("wrong.mkv", f[0], f[1], f[2], f[3]);
        if (code != rows[i].code || !strstr(train_told, rows[i].told))
            fail_msg("%s %s: exit status %d, not %d; '%s' wanted; it told:\n%s", f[0], f[1], code,
                     rows[i].code, rows[i].told, train_told);
        assert_null(strstr(train_told, "sampling 1/"));
        assert_false(exists(m, "wrong.mkv"));
    }
    /* files that are not ours, and those that are read */
    train_copy(media_path(m, "v.mkv"), media_path(m, "holiday.mkv"));
    assert_exit(2, MAKE("holiday.mkv", "-v"));
    assert_told("--overwrite");
    assert_true(same_file(m, "holiday.mkv", "v.mkv"));
    assert_exit(2, MAKE("holiday.mkv", "--video", media_path(m, "holiday.mkv"), "--edit", "0.5",
                        "--overwrite"));
    assert_told("is read");
    assert_true(same_file(m, "holiday.mkv", "v.mkv"));
    assert_exit(0, MAKE("holiday.mkv", "--overwrite"));
    assert_false(same_file(m, "holiday.mkv", "v.mkv"));
    /* made by us, and otherwise: replaced */
    assert_exit(0, MAKE("holiday.mkv", "-s", "5"));
    assert_told("is replaced");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tasks_keep_what_is_given), cmocka_unit_test(published_forms_are_the_same),
        cmocka_unit_test(passes_make_long_videos),  cmocka_unit_test(jobs_make_many_clips),
        cmocka_unit_test(killed_jobs_go_on),        cmocka_unit_test(dry_runs_make_nothing),
        cmocka_unit_test(every_system_generates),   cmocka_unit_test(wrong_input_is_named),
    };
    return cmocka_run_group_tests(tests, setup, media_teardown);
}

#else

int main(void) {
    printf("skipped: generating needs FFmpeg, libpng and sentencepiece\n");
    return 0;
}

#endif
