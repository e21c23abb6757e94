/* The parts that kinora generate is made of: prompts and files of them, references and how they are
 * resized, shorthands and the strategies they stand for, passes of long videos, sizes by name, the
 * list of clips. Bytes of resized pictures are Pillow's, all else is exact. */
#define _POSIX_C_SOURCE 200809L
#include "tests/media_helper.h"

#include <fcntl.h>
#include <math.h>

#include "runtime/image.h"
#include "runtime/video.h"
#include "tools/generate/conditions.h"
#include "tools/generate/generate.h"
#include "tools/generate/generate_job.h"
#include "tools/generate/picture_resize.h"
#include "tools/generate/prompts.h"
#include "tools/generate/references.h"
#include "tools/generate/resolution.h"

static void told(const media *m, const char *part) {
    if (!strstr(kin_context_error(m->context), part))
        fail_msg("'%s' is not in '%s'", part, kin_context_error(m->context));
}

/* ---- prompts --------------------------------------------------------------------------------- */

static void read_text(const media *m, const char *name, const char *text, kin_prompt_form form,
                      kin_status want, kin_prompts *out) {
    const char *path = media_path(m, name);
    media_write(path, text, strlen(text));
    *out = (kin_prompts){NULL, 0, 0};
    kin_status status = kin_prompts_read(m->context, out, path, form);
    if (status != want) fail_msg("%s: %s", name, kin_context_error(m->context));
}

static void prompts_of_lines(void **state) {
    const media *m = *state;
    kin_prompts p;
    read_text(m, "p.txt",
              "\xef\xbb\xbf"
              "a red circle\r\n\n  two words\t\n"
              "a wave.{\"reference_path\": \"a.png;b.mp4\", \"mask_strategy\": \"0\"}\nlast",
              KIN_PROMPT_JSON, KIN_OK, &p);
    assert_int_equal(p.count, 4);
    assert_string_equal(p.list[0].text, "a red circle");
    assert_string_equal(p.list[1].text, "two words");
    assert_string_equal(p.list[2].text, "a wave.");
    assert_string_equal(p.list[2].reference_path, "a.png;b.mp4");
    assert_string_equal(p.list[2].mask_strategy, "0");
    assert_string_equal(p.list[3].text, "last");
    assert_null(p.list[3].reference_path);
    assert_int_equal(p.list[3].seed, -1);
    kin_prompts_free(m->context, &p);
    /* brackets mean nothing to other systems, unless they would have been obeyed */
    read_text(m, "p.txt", "a [sic] cat {here}\n", KIN_PROMPT_PLAIN, KIN_OK, &p);
    assert_string_equal(p.list[0].text, "a [sic] cat {here}");
    kin_prompts_free(m->context, &p);
    read_text(m, "p.txt", "x\na wave.{\"mask_strategy\": \"0\"}\n", KIN_PROMPT_PLAIN, KIN_INVALID,
              &p);
    told(m, "p.txt: line 2");
    told(m, "Open-Sora 1.1");
    kin_prompts_free(m->context, &p);
    static const struct {
        const char *text, *told;
        kin_status status;
    } wrong[] = {{"\n \n", "no prompt", KIN_INVALID},
                 {"a [cat]", "bracket", KIN_FORMAT},
                 {"a [1]", "object", KIN_INVALID},
                 {"a {cat", "bracket", KIN_FORMAT},
                 {"a {\"mask_stratgy\": \"0\"}", "mask_strategy", KIN_INVALID},
                 {"a {\"prompt\": \"b\"}", "prompt", KIN_INVALID},
                 {"a {\"name\": \"x/y\"}", "x/y", KIN_INVALID},
                 {"good\n\xff\xfe\n", "line 2", KIN_FORMAT}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        read_text(m, "p.txt", wrong[i].text, KIN_PROMPT_JSON, wrong[i].status, &p);
        told(m, wrong[i].told);
        kin_prompts_free(m->context, &p);
    }
    assert_int_equal(kin_prompts_read(m->context, &p, media_path(m, "none.txt"), KIN_PROMPT_JSON),
                     KIN_NOT_FOUND);
}

static void prompts_of_lists(void **state) {
    const media *m = *state;
    kin_prompts p;
    read_text(m, "p.json",
              "[\"one\", {\"prompt\": \"two\", \"seed\": 7, \"negative_prompt\": \"blur\","
              "\"name\": \"second\", \"reference_path\": \"a.png\", \"mask_strategy\": \"0\"},"
              "\"|0|three|2|four{\\\"seed\\\": 9}\"]",
              KIN_PROMPT_JSON, KIN_OK, &p);
    assert_int_equal(p.count, 3);
    assert_string_equal(p.list[1].text, "two");
    assert_string_equal(p.list[1].negative, "blur");
    assert_string_equal(p.list[1].name, "second");
    assert_string_equal(p.list[1].reference_path, "a.png");
    assert_int_equal(p.list[1].seed, 7);
    assert_string_equal(p.list[2].text, "|0|three|2|four");
    assert_int_equal(p.list[2].seed, 9);
    kin_prompts_free(m->context, &p);
    read_text(m, "p.json", "[{\"prompt\": \"a\", \"mask_strategy\": \"0\"}]", KIN_PROMPT_PLAIN,
              KIN_INVALID, &p);
    told(m, "entry 0");
    kin_prompts_free(m->context, &p);
    static const char *const wrong[] = {"{}", "[3]", "[{\"text\": \"a\"}]", "[{\"prompt\": 3}]",
                                        "[{\"prompt\": \"a\", \"seed\": -7}]"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        const char *path = media_path(m, "p.json");
        media_write(path, wrong[i], strlen(wrong[i]));
        p = (kin_prompts){NULL, 0, 0};
        assert_int_not_equal(kin_prompts_read(m->context, &p, path, KIN_PROMPT_JSON), KIN_OK);
        told(m, "p.json");
        kin_prompts_free(m->context, &p);
    }
    read_text(m, "p.csv", "path,text,seed\na.mp4,\"one, two\",3\nb.mp4,three,\n", KIN_PROMPT_PLAIN,
              KIN_OK, &p);
    assert_int_equal(p.count, 2);
    assert_string_equal(p.list[0].text, "one, two");
    assert_int_equal(p.list[0].seed, 3);
    assert_string_equal(p.list[1].text, "three");
    assert_int_equal(p.list[1].seed, -1);
    kin_prompts_free(m->context, &p);
    read_text(m, "p.csv", "path,txet\na.mp4,one\n", KIN_PROMPT_PLAIN, KIN_INVALID, &p);
    told(m, "no column");
    kin_prompts_free(m->context, &p);
}

/* ---- pictures and videos --------------------------------------------------------------------- */

enum { SOURCE_HEIGHT = 5, SOURCE_WIDTH = 7, SOURCE_SIZE = SOURCE_HEIGHT * SOURCE_WIDTH * 3 };

static void make_source(uint8_t *out) {
    for (int i = 0; i < SOURCE_SIZE; i++) out[i] = (uint8_t)(i * 37 + i / 5 * 11 + (i * i) % 19);
}

/* Pillow 9.4's Image.resize((4, 3), Image.BICUBIC) and the first bytes of ((8, 9), ..). */
static const uint8_t pillow_down[] = {77,  118, 103, 152, 111, 124, 120, 88,  131, 165, 139, 97,
                                      145, 118, 136, 124, 138, 128, 116, 151, 120, 142, 122, 101,
                                      143, 100, 140, 113, 165, 119, 118, 130, 92,  139, 130, 168};
static const uint8_t pillow_up[] = {0,   29, 68,  89,  148, 206, 243, 55,  94,  161, 90,  125,
                                    147, 82, 115, 205, 21,  55,  94,  143, 136, 187, 243, 8,
                                    13,  49, 92,  110, 178, 143, 183, 74,  82,  142, 106, 154};

static void pictures_are_resized_as_pillow_does(void **state) {
    const media *m = *state;
    uint8_t source[SOURCE_SIZE], out[9 * 8 * 3];
    make_source(source);
    assert_int_equal(kin_picture_resize(m->context, source, 5, 7, 3, 4, out), KIN_OK);
    assert_memory_equal(out, pillow_down, sizeof pillow_down);
    assert_int_equal(kin_picture_resize(m->context, source, 5, 7, 9, 8, out), KIN_OK);
    assert_memory_equal(out, pillow_up, sizeof pillow_up);
    assert_int_equal(kin_picture_resize(m->context, source, 5, 7, 5, 7, out), KIN_OK);
    assert_memory_equal(out, source, sizeof source);
    source[16] ^= 64; /* negative control: one byte shows */
    assert_int_equal(kin_picture_resize(m->context, source, 5, 7, 3, 4, out), KIN_OK);
    assert_memory_not_equal(out, pillow_down, sizeof pillow_down);
}

/* PyTorch 1.13 gave these: columns 1 to 6 of interpolate(x, (7, 8), mode="bilinear",
 * align_corners=False). */
static void clips_are_fitted(void **state) {
    const media *m = *state;
    static const float want[7 * 6] = {
        -0.19374999f, 0.18125001f,  -0.00625000f, -0.19375001f, -0.38124999f, -0.00625000f,
        -0.17142856f, 0.02499998f,  0.06071429f,  -0.01517854f, -0.20267856f, -0.02857143f,
        -0.13571428f, -0.22500002f, 0.16785714f,  0.27053574f,  0.08303573f,  -0.06428572f,
        -0.16250000f, -0.03749995f, 0.08749997f,  0.05624994f,  -0.13125007f, -0.03750000f,
        -0.18928573f, 0.14999995f,  0.00714288f,  -0.15803567f, -0.34553567f, -0.01071429f,
        -0.15357141f, -0.10000008f, 0.11428574f,  0.12767865f,  -0.05982135f, -0.04642859f,
        -0.13125001f, -0.25625002f, 0.18125001f,  0.30625001f,  0.11875001f,  -0.06875000f};
    const int64_t dims[4] = {3, 2, 4, 5};
    kin_host_tensor video, fitted;
    assert_int_equal(kin_host_tensor_create(m->context, KIN_F32, 4, dims, &video), KIN_OK);
    for (int i = 0; i < 3 * 2 * 20; i++)
        ((float *)video.data)[i] = (float)(i % 20 * 7 % 10) / 10 - 0.5f + (float)(i / 20);
    assert_int_equal(kin_generate_fit(m->context, &video, 7, 6, &fitted), KIN_OK);
    double worst = 0, control = 0;
    for (int i = 0; i < 3 * 2 * 42; i++) {
        float got = ((const float *)fitted.data)[i];
        worst = fmax(worst, fabs(got - want[i % 42] - i / 42));
        control = fmax(control, fabs(got - want[(i + 1) % 42] - i / 42)); /* a column further */
    }
    assert_true(worst < 2e-6);
    assert_true(control > 0.1);
    kin_host_tensor_free(m->context, &fitted);
    kin_host_tensor_free(m->context, &video);
}

#if defined KIN_HAVE_FFMPEG && defined KIN_HAVE_PNG

static float value_at(const kin_host_tensor *clip, int64_t c, int64_t t, int64_t y, int64_t x) {
    const int64_t *d = clip->desc.dims;
    return ((const float *)clip->data)[((c * d[2] + t) * d[3] + y) * d[4] + x];
}

static void picture_references(void **state) {
    const media *m = *state;
    uint8_t source[SOURCE_SIZE], wide[3 * 4 * 3];
    kin_references r;
    kin_host_tensor clip;
    char paths[4 * MEDIA_PATH];
    make_source(source);
    assert_int_equal(kin_image_write_png(m->context, media_path(m, "a.png"), source, SOURCE_HEIGHT,
                                         SOURCE_WIDTH, NULL, 0),
                     KIN_OK);
    snprintf(paths, sizeof paths, " %s;%s", media_path(m, "a.png"), media_path(m, "a.png"));
    assert_int_equal(kin_references_probe(m->context, paths, 3, &r), KIN_OK);
    assert_int_equal(r.count, 2);
    assert_true(r.list[1].picture && r.list[1].frames == 1);
    /* 3 x 3 is covered by 3 x 4 (4.2 rounded), of which the middle begins at column 0 (0.5) */
    assert_int_equal(kin_reference_read(m->context, &r.list[0], NULL, 0, 3, 3, &clip), KIN_OK);
    assert_true(clip.desc.rank == 5 && clip.desc.dims[1] == 3 && clip.desc.dims[2] == 1 &&
                clip.desc.dims[3] == 3 && clip.desc.dims[4] == 3);
    memcpy(wide, pillow_down, sizeof wide);
    for (int y = 0; y < 3; y++)
        for (int x = 0; x < 3; x++)
            for (int c = 0; c < 3; c++) {
                float want = (wide[(y * 4 + x) * 3 + c] / 255.0f - 0.5f) / 0.5f;
                assert_true(value_at(&clip, c, 0, y, x) == want);
            }
    kin_host_tensor_free(m->context, &clip);
    kin_references_free(m->context, &r);
    assert_int_equal(kin_references_probe(m->context, "a.png;", 1, &r), KIN_NOT_FOUND);
    assert_int_equal(kin_references_probe(m->context, ";", 1, &r), KIN_INVALID);
    assert_int_equal(kin_references_probe(m->context, NULL, 1, &r), KIN_OK);
    assert_int_equal(r.count, 0);
}

/* Frame t of the video is of one colour: -1 + t / 4. */
static void write_video(const media *m, const char *name, int64_t frames) {
    const int64_t dims[4] = {3, frames, 16, 16};
    kin_host_tensor clip;
    assert_int_equal(kin_host_tensor_create(m->context, KIN_F32, 4, dims, &clip), KIN_OK);
    for (int64_t i = 0; i < 3 * frames * 256; i++)
        ((float *)clip.data)[i] = -1 + (float)(i / 256 % frames) / 4;
    assert_int_equal(kin_video_write(m->context, media_path(m, name), &clip, NULL), KIN_OK);
    kin_host_tensor_free(m->context, &clip);
}

static void video_references(void **state) {
    const media *m = *state;
    kin_references r;
    kin_host_tensor clip;
    write_video(m, "v.mkv", 7);
    assert_int_equal(kin_references_probe(m->context, media_path(m, "v.mkv"), 3, &r), KIN_OK);
    assert_true(!r.list[0].picture && r.list[0].frames == 3); /* 0, 3, 6 */
    assert_true(r.list[0].fps > 0);
    const int64_t wanted[2] = {0, 2};
    assert_int_equal(kin_reference_read(m->context, &r.list[0], wanted, 2, 8, 12, &clip), KIN_OK);
    assert_true(clip.desc.dims[2] == 2 && clip.desc.dims[3] == 8 && clip.desc.dims[4] == 12);
    assert_float_equal(value_at(&clip, 0, 0, 3, 5), -1, 0.01);
    assert_float_equal(value_at(&clip, 2, 1, 7, 11), -1 + 6 / 4.0, 0.01);
    kin_host_tensor_free(m->context, &clip);
    assert_int_equal(kin_reference_read(m->context, &r.list[0], NULL, 0, 8, 8, &clip), KIN_OK);
    assert_int_equal(clip.desc.dims[2], 3);
    kin_host_tensor_free(m->context, &clip);
    kin_references_free(m->context, &r);
}

/* ---- tasks ----------------------------------------------------------------------------------- */

static void shorthands_stand_for_strategies(void **state) {
    const media *m = *state;
    write_video(m, "v.mkv", 7);
    const char *video = media_path(m, "v.mkv");
    const struct {
        kin_condition_task task;
        int64_t frames, overlap;
        const char *path, *strategy;
    } rows[] = {
        {{.edit = -1}, 16, 0, NULL, NULL},
        {{.image = "a.png", .edit = -1}, 16, 0, "a.png", "0"},
        {{.image = "a.png", .loop_video = true, .edit = -1}, 16, 0, "a.png", "0;0,0,0,-1,1"},
        {{.interpolate = "a.png,b.png", .edit = -1}, 16, 0, "a.png;b.png", "0;0,1,0,-1,1"},
        {{.interpolate = "a,b,c", .edit = -1}, 17, 0, "a;b;c", "0;0,1,0,8,1;0,2,0,-1,1"},
        {{.video = video, .edit = 0.4}, 5, 0, video, "0,0,0,0,5,0.4"},
        {{.video = video, .edit = 0.4}, 32, 0, video, "0,0,0,0,7,0.4"}, /* it has no more */
        {{.video = video, .extend = "forward", .edit = -1}, 16, 0, video, "0,0,-4,0,4"},
        {{.video = video, .extend = "backward", .edit = -1}, 32, 5, video, "0,0,0,-5,5"},
        {{.video = video, .extend = "forward", .edit = -1}, 64, 0, video, "0,0,-7,0,7"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char *path = NULL, *strategy = NULL;
        kin_passes passes = {1, rows[i].frames, rows[i].overlap, false, false};
        kin_status status =
            kin_condition_task_resolve(m->context, &rows[i].task, 1, &passes, &path, &strategy);
        if (status != KIN_OK) fail_msg("row %zu: %s", i, kin_context_error(m->context));
        assert_true((path == NULL) == (rows[i].path == NULL));
        assert_true((strategy == NULL) == (rows[i].strategy == NULL));
        if (path) assert_string_equal(path, rows[i].path);
        if (strategy) assert_string_equal(strategy, rows[i].strategy);
        kin_free(m->context, path);
        kin_free(m->context, strategy);
    }
    /* every pass edits its stretch, as far as the video goes */
    char *edit_path = NULL, *edit_strategy = NULL;
    const kin_condition_task edit = {.video = video, .edit = 0.5};
    kin_passes four = {4, 4, 2, false, false};
    assert_int_equal(
        kin_condition_task_resolve(m->context, &edit, 1, &four, &edit_path, &edit_strategy),
        KIN_OK);
    assert_string_equal(edit_strategy, "0,0,0,0,4,0.5;1,0,2,0,4,0.5;2,0,4,0,3,0.5;3,0,6,0,1,0.5");
    kin_free(m->context, edit_path);
    kin_free(m->context, edit_strategy);
    const struct {
        kin_condition_task task;
        int64_t frames, overlap;
        const char *told;
    } wrong[] = {
        {{.image = "a", .interpolate = "a,b", .edit = -1}, 16, 0, "one of them"},
        {{.video = video, .edit = -1}, 16, 0, "--edit"},
        {{.video = video, .edit = 0.4, .extend = "forward"}, 16, 0, "either"},
        {{.edit = 0.4}, 16, 0, "--video"},
        {{.video = video, .edit = 1.5}, 16, 0, "1.5"},
        {{.video = video, .extend = "up", .edit = -1}, 16, 0, "\"up\""},
        {{.interpolate = "a", .edit = -1}, 16, 0, "2 to 16"},
        {{.video = video, .extend = "forward", .edit = -1}, 4, 4, "condition-frame-length"},
        {{.video = video, .loop_video = true, .edit = 0.1}, 16, 0, "--loop-video"},
        {{.loop_video = true, .edit = -1}, 8, 4, "condition-frame-length"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char *path = NULL, *strategy = NULL;
        kin_passes passes = {1, wrong[i].frames, wrong[i].overlap, false, false};
        assert_int_equal(
            kin_condition_task_resolve(m->context, &wrong[i].task, 1, &passes, &path, &strategy),
            KIN_INVALID);
        told(m, wrong[i].told);
        assert_null(path);
        assert_null(strategy);
    }
}

static int64_t same(void *user, int64_t frames) {
    (void)user;
    return frames;
}

static void conditions_are_tried(void **state) {
    const media *m = *state;
    uint8_t source[SOURCE_SIZE];
    kin_conditions c;
    make_source(source);
    const char *image = media_path(m, "a.png");
    assert_int_equal(
        kin_image_write_png(m->context, image, source, SOURCE_HEIGHT, SOURCE_WIDTH, NULL, 0),
        KIN_OK);
    kin_passes three = {3, 8, 2, false, false};
    assert_int_equal(kin_conditions_make(m->context, image, "0", 1, &three, 8, same, NULL, &c),
                     KIN_OK);
    static const kin_mask_tuple want[3] = {
        {0, 0, 0, 0, 1, 0}, {1, 1, -2, 0, 2, 0}, {2, 2, -2, 0, 2, 0}};
    assert_int_equal(c.count, 3);
    for (size_t i = 0; i < 3; i++) assert_memory_equal(&c.tuples[i], &want[i], sizeof want[i]);
    assert_true(kin_conditions_act(&c, 0) && kin_conditions_act(&c, 2));
    bool needed[8] = {false};
    kin_mask_strategy_needed(c.tuples, c.count, 1, 8, 8, needed);
    for (int i = 0; i < 8; i++) assert_int_equal(needed[i], i >= 6);
    kin_conditions_free(m->context, &c);
    /* backward, and closed: pass 2 ends as pass 0 begins */
    kin_passes back = {2, 8, 2, true, false}, closed = {3, 8, 2, false, true};
    assert_int_equal(kin_conditions_make(m->context, NULL, NULL, 1, &back, 8, same, NULL, &c),
                     KIN_OK);
    assert_true(c.count == 1 && c.tuples[0].target_start == -2 && c.tuples[0].reference_start == 0);
    assert_false(kin_conditions_act(&c, 0));
    kin_conditions_free(m->context, &c);
    assert_int_equal(kin_conditions_make(m->context, NULL, NULL, 1, &closed, 8, same, NULL, &c),
                     KIN_OK);
    assert_true(c.count == 3 && c.tuples[2].loop == 2 && c.tuples[2].reference == 0 &&
                c.tuples[2].target_start == -2);
    kin_conditions_free(m->context, &c);
    kin_passes one = {1, 8, 2, false, false};
    static const struct {
        const char *strategy, *told;
    } wrong[] = {{"0,1", "reference 1 of 1"},
                 {"0,0,0,0,2;0,0,0", NULL}, /* one frame is repeated */
                 {NULL, "mask_strategy"},
                 {"nothing", "mask strategy"},
                 {"", "mask strategy"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        kin_status status =
            kin_conditions_make(m->context, image, wrong[i].strategy, 1, &one, 8, same, NULL, &c);
        assert_int_equal(status, wrong[i].told ? KIN_INVALID : KIN_OK);
        if (wrong[i].told) told(m, wrong[i].told);
        else kin_conditions_free(m->context, &c);
    }
    assert_int_equal(kin_conditions_make(m->context, NULL, "0", 1, &one, 8, same, NULL, &c),
                     KIN_INVALID);
}

#endif

/* Every frame of the whole video is written once. */
static void passes_are_joined(void **state) {
    (void)state;
    for (int kind = 0; kind < 3; kind++)
        for (int count = 1; count <= 4; count++) {
            kin_passes p = {count, 8, 3, kind == 1, kind == 2};
            if (p.closed && count == 1) continue;
            int64_t total = kin_passes_frames(&p), seen[64] = {0};
            assert_int_equal(total, count == 1 ? 8 : count * 5 + (p.closed ? 0 : 3));
            for (int pass = 0; pass < count; pass++) {
                int64_t first, taken, at = kin_passes_place(&p, pass, &first, &taken);
                assert_true(first >= 0 && first + taken <= 8);
                for (int64_t i = 0; i < taken; i++) {
                    assert_true(at + first + i < total);
                    seen[at + first + i]++;
                }
            }
            for (int64_t i = 0; i < total; i++) assert_int_equal(seen[i], 1);
        }
}

/* ---- sizes and names ------------------------------------------------------------------------- */

static void sizes_by_name(void **state) {
    const media *m = *state;
    static const struct {
        const char *resolution, *ratio;
        int64_t multiple, height, width;
    } rows[] = {{"240p", NULL, 1, 240, 426},     {"240p", "16:9", 1, 426, 240},
                {"480p", "9:16", 1, 480, 854},   {"480p", "9:16", 16, 480, 848},
                {"512", NULL, 1, 512, 512},      {"720p", "0.56", 1, 720, 1280},
                {"1024", "1:1", 16, 1024, 1024}, {"256", "1:1", 300, 300, 300}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int64_t height, width;
        assert_int_equal(kin_resolution_size(m->context, rows[i].resolution, rows[i].ratio,
                                             rows[i].multiple, &height, &width),
                         KIN_OK);
        assert_int_equal(height, rows[i].height);
        assert_int_equal(width, rows[i].width);
    }
    int64_t height, width;
    assert_int_equal(kin_resolution_size(m->context, "408p", NULL, 1, &height, &width),
                     KIN_INVALID);
    told(m, "480p");
    static const char *const wrong[] = {"wide", "16:", "16:0", "9:16:2", "-1", ""};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(kin_resolution_size(m->context, "480p", wrong[i], 1, &height, &width),
                         KIN_INVALID);
        told(m, "HEIGHT:WIDTH");
    }
}

static void files_are_named(void **state) {
    const media *m = *state;
    assert_int_equal(mkdir(media_path(m, "folder.d"), 0700), 0);
    char folder[2 * MEDIA_PATH], want[2 * MEDIA_PATH];
    snprintf(folder, sizeof folder, "%s", media_path(m, "folder.d"));
    static const struct {
        const char *output;
        bool picture;
        size_t prompts;
        int64_t samples;
        const char *name, *want;
    } rows[] = {
        {NULL, false, 1, 1, NULL, "output.mp4"},
        {NULL, true, 1, 1, NULL, "output.png"},
        {"a/b.mkv", false, 1, 1, NULL, "a/b.mkv"},
        {"a.d/b", false, 1, 1, NULL, "a.d/b.mp4"},
        {"a.d/b", false, 3, 1, NULL, "a.d/b_2.mp4"},
        {"a/b.mkv", false, 3, 1, NULL, "a/b_2.mkv"},
        {"a/b.mkv", false, 3, 4, NULL, "a/b_2-1.mkv"},
        {"a/b.mkv", false, 1, 4, NULL, "a/b-1.mkv"},
        {"a/b.mkv", false, 3, 4, "wave", "a/wave-1.mkv"},
        {"new/", false, 3, 1, NULL, "new/sample_2.mp4"},
        {"new/", true, 1, 1, NULL, "new/sample_2.png"},
        {"new/", true, 3, 1, "wave", "new/wave.png"},
        {"shot_%03d.png", false, 1, 1, NULL, "shot_%03d.png"},
        {"shot_%03d.png", false, 3, 4, NULL, "shot_2-1_%03d.png"},
        {"a/%03d.png", false, 3, 1, NULL, "a/2_%03d.png"},
        {"a/%03d.png", false, 3, 1, "wave", "a/wave_%03d.png"},
        {"50%.mp4", false, 3, 1, NULL, "50%_2.mp4"},
        {"FOLDER", false, 3, 1, NULL, "FOLDER/sample_2.mp4"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        bool there = rows[i].output && strcmp(rows[i].output, "FOLDER") == 0;
        kin_job_names names = {there ? folder : rows[i].output, rows[i].picture, rows[i].prompts,
                               rows[i].samples};
        char *path = NULL;
        assert_int_equal(kin_job_path(m->context, &names, 2, 1, rows[i].name, &path), KIN_OK);
        snprintf(want, sizeof want, "%s%s", there ? folder : "",
                 rows[i].want + (there ? strlen("FOLDER") : 0));
        assert_string_equal(path, want);
        kin_free(m->context, path);
    }
}

static void jobs_list_clips(void **state) {
    const media *m = *state;
    kin_prompts p = {NULL, 0, 0};
    kin_job job;
    kin_job_names names = {"x.mp4", false, 2, 3};
    static const char *const texts[2] = {"one", "two{\"seed\": 50}"};
    for (int i = 0; i < 2; i++)
        assert_int_equal(kin_prompts_add(m->context, &p, texts[i], KIN_PROMPT_JSON, "--prompt"),
                         KIN_OK);
    assert_int_equal(kin_job_make(m->context, &p, &names, 7, &job), KIN_OK);
    assert_int_equal(job.count, 6);
    static const uint64_t seeds[6] = {7, 8, 9, 50, 51, 52};
    for (size_t i = 0; i < 6; i++) assert_int_equal(job.clips[i].seed, seeds[i]);
    assert_string_equal(job.clips[4].output, "x_1-1.mp4");
    assert_string_equal(job.clips[4].stages, "x_1-1.mp4.stages");
    assert_string_equal(job.clips[4].prompt->text, "two");
    kin_job_free(m->context, &job);
    assert_int_equal(
        kin_prompts_add(m->context, &p, "three{\"name\": \"x_0-1\"}", KIN_PROMPT_JSON, "--prompt"),
        KIN_OK);
    names.prompts = 3;
    names.samples = 1;
    assert_int_equal(kin_job_make(m->context, &p, &names, 7, &job), KIN_OK);
    kin_job_free(m->context, &job);
    kin_free(m->context, p.list[2].name);
    p.list[2].name = kin_strdup(m->context, "x_0"); /* as the first prompt's */
    assert_int_equal(kin_job_make(m->context, &p, &names, 7, &job), KIN_INVALID);
    told(m, "x_0.mp4");
    names.samples = 0;
    assert_int_equal(kin_job_make(m->context, &p, &names, 7, &job), KIN_INVALID);
    kin_prompts_free(m->context, &p);
}

#if defined KIN_HAVE_FFMPEG && defined KIN_HAVE_PNG

static void write_commented(const media *m, const char *path, const char *comment) {
    const int64_t dims[4] = {3, 1, 4, 4};
    kin_host_tensor clip;
    const kin_video_write_options options = {.comment = comment};
    assert_int_equal(kin_host_tensor_create(m->context, KIN_F32, 4, dims, &clip), KIN_OK);
    memset(clip.data, 0, kin_desc_bytes(&clip.desc));
    assert_int_equal(kin_video_write(m->context, path, &clip, &options), KIN_OK);
    kin_host_tensor_free(m->context, &clip);
}

static void set_time(const char *path, long seconds) {
    const struct timespec times[2] = {{seconds, 0}, {seconds, 0}};
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

static void finished_clips_are_known(void **state) {
    const media *m = *state;
    static const char mine[] = "prompt: x\nseed: 1\nkinora: 0.1.0";
    static const char *const outputs[] = {"clip.mkv", "clip.png", "clip_%02d.png"};
    static const char *const files[] = {"clip.mkv", "clip.png", "clip_00.png"};
    char model[2 * MEDIA_PATH], output[2 * MEDIA_PATH], file[2 * MEDIA_PATH];
    snprintf(model, sizeof model, "%s", media_path(m, "model.bin"));
    media_write(model, "x", 1);
    const char *const sources[] = {model, NULL};
    for (int i = 0; i < 3; i++) {
        snprintf(output, sizeof output, "%s", media_path(m, outputs[i]));
        snprintf(file, sizeof file, "%s", media_path(m, files[i]));
        const kin_job_clip clip = {.output = output};
        assert_int_equal(kin_job_look(m->context, &clip, mine, sources), KIN_JOB_TO_DO);
        write_commented(m, output, mine);
        set_time(model, 1000000);
        set_time(file, 1000001);
        assert_int_equal(kin_job_look(m->context, &clip, mine, sources), KIN_JOB_FINISHED);
        assert_int_equal(kin_job_look(m->context, &clip, "prompt: y\nkinora: 0.1.0", sources),
                         KIN_JOB_OTHER);
        set_time(model, 1000002); /* the model was changed since */
        assert_int_equal(kin_job_look(m->context, &clip, mine, sources), KIN_JOB_OTHER);
        write_commented(m, output, "holiday");
        assert_int_equal(kin_job_look(m->context, &clip, mine, sources), KIN_JOB_FOREIGN);
        write_commented(m, output, NULL);
        assert_int_equal(kin_job_look(m->context, &clip, mine, sources), KIN_JOB_FOREIGN);
    }
}

#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompts_of_lines),
        cmocka_unit_test(prompts_of_lists),
        cmocka_unit_test(pictures_are_resized_as_pillow_does),
        cmocka_unit_test(clips_are_fitted),
#if defined KIN_HAVE_FFMPEG && defined KIN_HAVE_PNG
        cmocka_unit_test(picture_references),
        cmocka_unit_test(video_references),
        cmocka_unit_test(shorthands_stand_for_strategies),
        cmocka_unit_test(conditions_are_tried),
        cmocka_unit_test(finished_clips_are_known),
#endif
        cmocka_unit_test(passes_are_joined),
        cmocka_unit_test(sizes_by_name),
        cmocka_unit_test(files_are_named),
        cmocka_unit_test(jobs_list_clips),
    };
    return cmocka_run_group_tests(tests, media_setup, media_teardown);
}
