/* The demo's clips and the judge of colours and directions. The judge must be right on every clip,
 * before and after H.264. */
#define _POSIX_C_SOURCE 200809L
#include "tests/media_helper.h"

#include <math.h>

#include "runtime/video.h"
#include "tools/data/synth.h"
#include "tools/report/eval_pixels.h"

static kin_synth_combination combination(int index) {
    return (kin_synth_combination){index % 6, index / 6 % 3, index / 18 % 4};
}

static void held_out_order(void **state) {
    (void)state;
    for (int held_out = 0; held_out <= KIN_SYNTH_MAX_HELD_OUT; ++held_out) {
        int count = 0, colours[6] = {0}, shapes[3] = {0}, pairs[6][3] = {{0}};
        for (int i = 0; i < KIN_SYNTH_COMBINATIONS; ++i) {
            kin_synth_combination k = combination(i);
            if (!kin_synth_is_held_out(k, held_out)) continue;
            ++count, ++colours[k.colour], ++shapes[k.shape], ++pairs[k.colour][k.shape];
        }
        assert_int_equal(count, held_out);
        for (int i = 0; i < 18; ++i) assert_in_range(pairs[i % 6][i / 6], 0, 2);
        if (held_out != 12) continue;
        for (int c = 0; c < 6; ++c) assert_int_equal(colours[c], 2);
        for (int s = 0; s < 3; ++s) assert_int_equal(shapes[s], 4);
    }
}

static void captions(void **state) {
    (void)state;
    char text[KIN_SYNTH_MAX_CAPTION], other[KIN_SYNTH_MAX_CAPTION];
    kin_synth_combination k = {0, 0, 0}, found;
    kin_synth_plain_caption(k, text);
    assert_string_equal(text, "a red circle moving to the left");
    int wordings = 0;
    for (uint32_t i = 0; i < 720; ++i) {
        k = combination((int)i);
        kin_synth_caption(k, 5, i, text);
        assert_true(kin_synth_parse_caption(text, &found));
        assert_memory_equal(&found, &k, sizeof k);
        kin_synth_plain_caption(k, other);
        wordings += strcmp(text, other) != 0;
    }
    assert_in_range(wordings, 360, 700);
    assert_true(kin_synth_parse_caption("The cyan triangle, upwards.\n", &found));
    assert_true(found.colour == 5 && found.shape == 2 && found.direction == 2);
    assert_false(kin_synth_parse_caption("a red circle", &found));
    assert_false(kin_synth_parse_caption("a reddish circle moving up", &found));
    assert_false(kin_synth_parse_caption("", &found));
}

static void reverse_in_time(kin_host_tensor *clip) {
    const int64_t frames = clip->desc.dims[1], plane = clip->desc.dims[2] * clip->desc.dims[3];
    float *data = clip->data;
    for (int64_t c = 0; c < 3; ++c)
        for (int64_t t = 0; t < frames / 2; ++t)
            for (int64_t i = 0; i < plane; ++i) {
                float *a = data + (c * frames + t) * plane + i;
                float *b = data + (c * frames + frames - 1 - t) * plane + i, swap = *a;
                *a = *b;
                *b = swap;
            }
}

static void judge_rendered(void **state) {
    media *m = *state;
    static const int sizes[3][2] = {{8, 32}, {16, 32}, {8, 64}};
    for (int round = 0; round < 3; ++round)
        for (int i = 0; i < KIN_SYNTH_COMBINATIONS; ++i) {
            kin_synth_combination k = combination(i);
            kin_host_tensor clip;
            kin_pixel_verdict verdict;
            assert_int_equal(kin_synth_render(m->context, k, 3, (uint32_t)i, sizes[round][0],
                                              sizes[round][1], &clip),
                             KIN_OK);
            assert_int_equal(kin_eval_pixels(m->context, &clip, &verdict), KIN_OK);
            assert_int_equal(verdict.colour, k.colour);
            assert_int_equal(verdict.direction, k.direction);
            assert_true(verdict.confidence > 0.7f && verdict.confidence <= 1.0f);
            reverse_in_time(&clip); /* negative control: the other way round */
            assert_int_equal(kin_eval_pixels(m->context, &clip, &verdict), KIN_OK);
            assert_int_equal(verdict.colour, k.colour);
            assert_int_equal(verdict.direction, k.direction ^ 1);
            kin_host_tensor_free(m->context, &clip);
        }
}

static void judge_doubts(void **state) {
    media *m = *state;
    kin_host_tensor clip;
    kin_pixel_verdict verdict;
    const kin_synth_combination k = {0, 1, 1};
    assert_int_equal(kin_synth_render(m->context, k, 3, 0, 8, 32, &clip), KIN_OK);
    float *data = clip.data;
    for (int c = 0; c < 3; ++c) /* frame 0 all the time: a colour, no direction */
        for (int t = 1; t < 8; ++t)
            memcpy(data + (c * 8 + t) * 1024, data + c * 8 * 1024, 1024 * sizeof *data);
    assert_int_equal(kin_eval_pixels(m->context, &clip, &verdict), KIN_OK);
    assert_int_equal(verdict.colour, 0);
    assert_int_equal(verdict.direction, -1);
    for (int i = 0; i < 3 * 8 * 1024; ++i) data[i] = -0.5f; /* grey: nothing at all */
    assert_int_equal(kin_eval_pixels(m->context, &clip, &verdict), KIN_OK);
    assert_true(verdict.colour == -1 && verdict.direction == -1 && verdict.confidence == 0);
    data[77] = NAN;
    assert_int_equal(kin_eval_pixels(m->context, &clip, &verdict), KIN_NUMERIC);
    clip.desc.dims[0] = 1;
    assert_int_equal(kin_eval_pixels(m->context, &clip, &verdict), KIN_INVALID);
    clip.desc.dims[0] = 3;
    kin_host_tensor_free(m->context, &clip);
}

#ifdef KIN_HAVE_FFMPEG

/* Reads a CSV that we wrote (no quotes in it), judges every clip, and returns the number of rows.
 */
static int judge_csv(media *m, const char *csv, int held_out, bool want_held_out) {
    char line[256], name[128], text[128];
    int rows = 0, frames = 0, height = 0, width = 0;
    double aspect = 0, fps = 0;
    FILE *file = fopen(media_path(m, csv), "r");
    assert_non_null(file);
    assert_non_null(fgets(line, sizeof line, file));
    assert_string_equal(line, "path,text,num_frames,height,width,aspect_ratio,fps\n");
    while (fgets(line, sizeof line, file)) {
        kin_synth_combination k;
        kin_host_tensor clip;
        kin_pixel_verdict verdict;
        assert_int_equal(sscanf(line, "%127[^,],%127[^,],%d,%d,%d,%lf,%lf", name, text, &frames,
                                &height, &width, &aspect, &fps),
                         7);
        assert_true(frames == 8 && height == 32 && width == 32 && aspect == 1 && fps == 8);
        assert_true(kin_synth_parse_caption(text, &k));
        assert_int_equal(kin_synth_is_held_out(k, held_out), want_held_out);
        assert_int_equal(kin_video_read(m->context, media_path(m, name), NULL, &clip), KIN_OK);
        assert_int_equal(clip.desc.dims[1], 8);
        assert_int_equal(kin_eval_pixels(m->context, &clip, &verdict), KIN_OK);
        assert_int_equal(verdict.colour, k.colour);
        assert_int_equal(verdict.direction, k.direction);
        kin_host_tensor_free(m->context, &clip);
        ++rows;
    }
    fclose(file);
    return rows;
}

static int count_lines(media *m, const char *name) {
    size_t size = 0;
    unsigned char *data = media_read(media_path(m, name), &size);
    int lines = 0;
    for (size_t i = 0; i < size; ++i) lines += data[i] == '\n';
    free(data);
    return lines;
}

static bool count_progress(void *user, int done, int total) {
    assert_in_range(done, 1, total);
    return ++*(int *)user < 100000;
}

static bool stop_at_once(void *user, int done, int total) {
    (void)user, (void)done, (void)total;
    return false;
}

static void data_set(void **state) {
    media *m = *state;
    int calls = 0;
    kin_synth_options options = kin_synth_defaults();
    options.folder = m->folder;
    options.count = 120;
    options.held_out_clips = 24;
    options.progress = count_progress;
    options.progress_user = &calls;
    assert_int_equal(kin_synth_write(m->context, &options), KIN_OK);
    assert_int_equal(calls, 144);
    assert_int_equal(judge_csv(m, "train.csv", 12, false), 120);
    assert_int_equal(judge_csv(m, "heldout.csv", 12, true), 24);
    assert_int_equal(count_lines(m, "prompts_seen.txt"), 60);
    assert_int_equal(count_lines(m, "prompts_heldout.txt"), 12);
    size_t size = 0, again = 0, other = 0;
    unsigned char *first = media_read(media_path(m, "clips/000007.mp4"), &size);
    options.count = 8;
    options.progress = NULL;
    assert_int_equal(kin_synth_write(m->context, &options), KIN_OK); /* the same clip again */
    unsigned char *second = media_read(media_path(m, "clips/000007.mp4"), &again);
    assert_int_equal(size, again);
    assert_memory_equal(first, second, size);
    options.seed = 2; /* another seed, another clip */
    assert_int_equal(kin_synth_write(m->context, &options), KIN_OK);
    unsigned char *third = media_read(media_path(m, "clips/000007.mp4"), &other);
    assert_true(size != other || memcmp(first, third, size) != 0);
    free(first), free(second), free(third);
}

static void refusals(void **state) {
    media *m = *state;
    kin_synth_options options = kin_synth_defaults();
    options.folder = m->folder;
    options.size = 33;
    assert_int_equal(kin_synth_write(m->context, &options), KIN_INVALID);
    options.size = 32;
    options.held_out = 37;
    assert_int_equal(kin_synth_write(m->context, &options), KIN_INVALID);
    options.held_out = 12;
    options.progress = stop_at_once;
    assert_int_equal(kin_synth_write(m->context, &options), KIN_CANCELLED);
    media_write(media_path(m, "file"), "x", 1);
    options.folder = media_path(m, "file");
    assert_int_not_equal(kin_synth_write(m->context, &options), KIN_OK);
}

#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(held_out_order), cmocka_unit_test(captions),
        cmocka_unit_test(judge_rendered), cmocka_unit_test(judge_doubts),
#ifdef KIN_HAVE_FFMPEG
        cmocka_unit_test(data_set),       cmocka_unit_test(refusals),
#endif
    };
    return cmocka_run_group_tests(tests, media_setup, media_teardown);
}
