/* What a training run takes from its data set: the order of batches, the frames of clips, the
 * frames that are given, the noise levels. */
#define _XOPEN_SOURCE 700
#include "tests/media_helper.h"

#include <jansson.h>
#include <math.h>

#include "models/training.h"
#include "runtime/philox.h"
#include "tests/denoiser_helper.h"
#include "tools/train/train.h"

/* A table of clips that no test opens: four of 9 frames, three of 6, three pictures. */
static void write_table(const media *m) {
    char text[4096], *at = text, *end = text + sizeof text;
    at += snprintf(at, (size_t)(end - at), "path,text,num_frames,height,width,fps\n");
    for (int i = 0; i < 10; i++)
        at += snprintf(at, (size_t)(end - at), "%d.mp4,clip %d,%d,32,%d,8\n", i, i,
                       i < 4   ? 9
                       : i < 7 ? 6
                               : 1,
                       i == 7 ? 48 : 32);
    media_write(media_path(m, "mixed.csv"), text, (size_t)(at - text));
}

/* ---- orders ---- */

static void order_options(kin_train_order_options *o) {
    *o = (kin_train_order_options){.seed = 3,
                                   .batch = 2,
                                   .micro_steps = 1,
                                   .clip = {4, 32, 32},
                                   .where = "test",
                                   .interval = 1,
                                   .time_factor = 4,
                                   .frame_multiple = 1};
}

static kin_train_order *open_order(const media *m, kin_dataset *data,
                                   const kin_train_order_options *options, int64_t total) {
    kin_train_order *order = NULL;
    if (kin_train_order_open(m->context, data, options, total, &order) != KIN_OK)
        fail_msg("%s", kin_context_error(m->context));
    return order;
}

/* Every batch is whole and of its shape, every needed row is known, and any batch alone is the same
 * as in order. */
static void walk(const media *m, kin_dataset *data, const kin_train_order_options *options,
                 int64_t total, int64_t seen[16]) {
    kin_train_order *order = open_order(m, data, options, total);
    kin_train_order *other = open_order(m, data, options, total);
    memset(seen, 0, 16 * sizeof *seen);
    for (int64_t i = 0; i < total; i++) {
        kin_train_batch a, b;
        int64_t j = total - 1 - i; /* backwards in the other one */
        assert_int_equal(kin_train_order_batch(order, i, &a), KIN_OK);
        const kin_train_shape *shape = kin_train_order_shape(order, a.shape);
        for (int64_t k = 0; k < shape->batch; k++) {
            kin_dataset_row row;
            assert_in_range(a.rows[k], 0, kin_dataset_count(data) - 1);
            assert_int_equal(kin_dataset_measure(data, a.rows[k], &row), KIN_OK);
            assert_true(kin_train_order_needs(order, a.shape, a.rows[k]));
            assert_true(row.frames >= kin_train_order_real_frames(order, a.shape, a.rows[k]));
            seen[a.rows[k]]++;
        }
        for (int64_t k = 0; a.images && k < shape->batch * options->images; k++)
            assert_true(kin_train_order_needs(order, kin_train_order_shapes(order), a.images[k]));
        assert_int_equal(kin_train_order_batch(other, j, &b), KIN_OK);
        int64_t backwards = b.rows[0];
        assert_int_equal(kin_train_order_batch(order, j, &a), KIN_OK);
        assert_int_equal(a.rows[0], backwards);
    }
    kin_train_order_close(order);
    kin_train_order_close(other);
}

static void orders_are_functions_of_the_seed(void **state) {
    media *m = *state;
    enum { LONG_CLIPS = 4, CLIPS = 7, ROWS = 10 };
    int64_t seen[16];
    kin_dataset *data;
    kin_train_order_options o;
    kin_dataset_options options = {.csv = media_path(m, "mixed.csv"),
                                   .frames = 4,
                                   .interval = 1,
                                   .height = 32,
                                   .width = 32,
                                   .any_length = true};
    write_table(m);
    assert_int_equal(kin_dataset_open(m->context, &options, &data), KIN_OK);
    /* clips with pictures: every clip once an epoch, no picture as a clip */
    order_options(&o);
    o.batch = 1;
    o.images = 2;
    walk(m, data, &o, 3 * CLIPS, seen);
    for (int i = 0; i < ROWS; i++) assert_int_equal(seen[i], i < CLIPS ? 3 : 0);
    /* lengths: 9 and 5 of 9 and 6 frames; one in each batch */
    order_options(&o);
    o.clip.frames = 9;
    o.lengths = o.group_frame = true;
    walk(m, data, &o, 40, seen);
    kin_train_order *order = open_order(m, data, &o, 40);
    assert_int_equal(kin_train_order_shapes(order), 3);
    kin_train_order_close(order);
    /* padded: one shape */
    o.group_frame = false;
    walk(m, data, &o, 40, seen);
    order = open_order(m, data, &o, 40);
    assert_int_equal(kin_train_order_shapes(order), 1);
    assert_true(kin_train_order_shape(order, 0)->padded);
    assert_int_equal(kin_train_order_real_frames(order, 0, 0), 9);
    assert_int_equal(kin_train_order_real_frames(order, 0, LONG_CLIPS), 5);
    assert_int_equal(kin_train_order_real_frames(order, 0, CLIPS), 1);
    kin_train_order_close(order);
    /* short clips are left out, and images kept */
    o.drop_short = 1;
    walk(m, data, &o, 40, seen);
    for (int i = LONG_CLIPS; i < CLIPS; i++) assert_int_equal(seen[i], 0);
    assert_true(seen[0] > 0 && seen[CLIPS] > 0);
    /* buckets: whole batches, and fill_buckets leaves no row out */
    order_options(&o);
    json_t *buckets = json_loads("{\"32x32\": {\"4\": [1, 3], \"1\": [1, 2]}}", 0, NULL);
    o.buckets = buckets;
    walk(m, data, &o, 30, seen);
    o.fill_buckets = true;
    walk(m, data, &o, 5, seen); /* an epoch: 7 clips by 3 and 3 pictures by 2 */
    for (int i = 0; i < ROWS; i++) assert_in_range(seen[i], 1, 3);
    /* another seed, another order */
    kin_train_order *one = open_order(m, data, &o, 30);
    o.seed = 4;
    kin_train_order *two = open_order(m, data, &o, 30);
    int different = 0;
    for (int64_t i = 0; i < 30; i++) {
        kin_train_batch a, b;
        assert_int_equal(kin_train_order_batch(one, i, &a), KIN_OK);
        assert_int_equal(kin_train_order_batch(two, i, &b), KIN_OK);
        different += a.rows[0] != b.rows[0];
    }
    assert_true(different > 5);
    kin_train_order_close(one);
    kin_train_order_close(two);
    json_decref(buckets);
    /* no bucket is filled */
    buckets = json_loads("{\"32x32\": {\"4\": [1, 30]}}", 0, NULL);
    o.buckets = buckets;
    o.fill_buckets = false;
    assert_int_equal(kin_train_order_open(m->context, data, &o, 30, &order), KIN_INVALID);
    assert_non_null(strstr(kin_context_error(m->context), "fill_buckets"));
    json_decref(buckets);
    kin_dataset_close(data);
}

/* Open-Sora-Plan's lists. */
static void annotations_are_read(void **state) {
    media *m = *state;
    kin_dataset *data;
    kin_dataset_row row;
    static const char list[] =
        "[{\"path\": \"a.mp4\", \"cap\": [\"one, \\\"two\\\"\", \"other\"], \"resolution\": "
        "{\"height\": 36, \"width\": 64}, \"fps\": 24, \"duration\": 2.5},"
        "{\"path\": \"/b.jpg\", \"cap\": \"a picture\", \"resolution\": {\"height\": 8, \"width\": "
        "9}}]";
    media_write(media_path(m, "list.json"), list, sizeof list - 1);
    media_write(media_path(m, "list.txt"), "clips,list.json\n\n", 17);
    for (int i = 0; i < 2; i++) {
        kin_dataset_options o = {.csv = media_path(m, i ? "list.txt" : "list.json"),
                                 .folder = i ? NULL : "/data",
                                 .frames = 16,
                                 .interval = 1,
                                 .height = 8,
                                 .width = 8,
                                 .any_length = true};
        if (kin_dataset_open(m->context, &o, &data) != KIN_OK)
            fail_msg("%s", kin_context_error(m->context));
        assert_int_equal(kin_dataset_count(data), 2);
        assert_string_equal(kin_dataset_path(data, 0),
                            i ? media_path(m, "clips/a.mp4") : "/data/a.mp4");
        assert_string_equal(kin_dataset_path(data, 1), "/b.jpg");
        assert_string_equal(kin_dataset_text(data, 0), "one, \"two\"");
        assert_int_equal(kin_dataset_measure(data, 0, &row), KIN_OK);
        assert_true(row.frames == 60 && row.height == 36 && row.width == 64 && row.fps == 24);
        assert_int_equal(kin_dataset_measure(data, 1, &row), KIN_OK);
        assert_true(row.frames == 1 && row.height == 8 && row.width == 9);
        kin_dataset_close(data);
    }
    kin_dataset_options o = {
        .csv = media_path(m, "bad.json"), .frames = 1, .interval = 1, .height = 8, .width = 8};
    media_write(media_path(m, "bad.json"), "[{\"path\": 3}]", 13);
    assert_int_equal(kin_dataset_open(m->context, &o, &data), KIN_FORMAT);
    assert_non_null(strstr(kin_context_error(m->context), "entry 1"));
}

/* ---- frames ---- */

#ifdef KIN_HAVE_FFMPEG

enum { FILE_FRAMES = 60, SIDE_PIXELS = 16 };

/* A lossless video whose frame f has byte 4 f. */
static void write_counting(const media *m, const char *name, double fps) {
    int64_t dims[4] = {3, FILE_FRAMES, SIDE_PIXELS, SIDE_PIXELS};
    kin_host_tensor clip;
    kin_video_write_options options = {.fps = fps};
    assert_int_equal(kin_host_tensor_create(m->context, KIN_F32, 4, dims, &clip), KIN_OK);
    float *values = clip.data;
    for (int64_t i = 0; i < kin_desc_count(&clip.desc); i++)
        values[i] = (float)(i / (SIDE_PIXELS * SIDE_PIXELS) % FILE_FRAMES * 4) / 127.5f - 1;
    assert_int_equal(kin_video_write(m->context, media_path(m, name), &clip, &options), KIN_OK);
    kin_host_tensor_free(m->context, &clip);
}

/* The numbers of the frames that a clip of so many is made of. */
static void clip_frames(kin_dataset *data, uint64_t seed, int64_t count, int64_t real,
                        int64_t *out_frames) {
    kin_clip_shape shape = {count, SIDE_PIXELS, SIDE_PIXELS};
    float values[3 * 16 * SIDE_PIXELS * SIDE_PIXELS];
    assert_in_range(count, 1, 16);
    assert_int_equal(kin_dataset_read(data, 0, seed, &shape, real, values), KIN_OK);
    for (int64_t i = 0; i < count; i++) {
        float value = values[i * SIDE_PIXELS * SIDE_PIXELS];
        out_frames[i] = value == 0 ? -1 : lrintf((value + 1) * 127.5f / 4);
    }
}

static void frames_are_chosen_as_published(void **state) {
    media *m = *state;
    /* truncated linspace(0, 47, 16) of a window of 16 x 3 */
    static const int64_t spread[16] = {0, 3, 6, 9, 12, 15, 18, 21, 25, 28, 31, 34, 37, 40, 43, 47};
    int64_t frames[16], starts[8];
    kin_dataset *data;
    write_counting(m, "count.mkv", 24);
    static const char table[] = "path,text\ncount.mkv,counting\n";
    media_write(media_path(m, "count.csv"), table, sizeof table - 1);
    kin_dataset_options o = {.csv = media_path(m, "count.csv"),
                             .frames = 16,
                             .interval = 3,
                             .choice = KIN_FRAMES_LINSPACE,
                             .height = SIDE_PIXELS,
                             .width = SIDE_PIXELS,
                             .rate = 10,
                             .any_length = true};
    assert_int_equal(kin_dataset_open(m->context, &o, &data), KIN_OK);
    int different = 0;
    for (int s = 0; s < 8; s++) {
        clip_frames(data, (uint64_t)s, 16, 16, frames);
        starts[s] = frames[0];
        assert_in_range(frames[0], 0, FILE_FRAMES - 48);
        for (int i = 0; i < 16; i++) assert_int_equal(frames[i] - frames[0], spread[i]);
        different += starts[s] != starts[0];
    }
    assert_true(different > 0);
    kin_dataset_close(data);
    /* every third; one frame of anywhere; the rest zero */
    o.choice = KIN_FRAMES_INTERVAL;
    assert_int_equal(kin_dataset_open(m->context, &o, &data), KIN_OK);
    clip_frames(data, 1, 16, 12, frames);
    for (int i = 0; i < 12; i++) assert_int_equal(frames[i] - frames[0], 3 * i);
    for (int i = 12; i < 16; i++) assert_int_equal(frames[i], -1);
    int64_t highest = 0;
    for (int s = 0; s < 8; s++) {
        clip_frames(data, (uint64_t)s, 1, 1, frames);
        if (frames[0] > highest) highest = frames[0];
    }
    assert_true(highest > FILE_FRAMES - 48);
    kin_dataset_close(data);
    /* 10 a second of 24: numbers i * 2.4, rounded down; 25 in all */
    o.choice = KIN_FRAMES_RATE;
    kin_dataset_row row;
    assert_int_equal(kin_dataset_open(m->context, &o, &data), KIN_OK);
    assert_int_equal(kin_dataset_measure(data, 0, &row), KIN_OK);
    assert_int_equal(row.frames, FILE_FRAMES);
    assert_int_equal(kin_dataset_clip_frames(data, &row), 25);
    for (int s = 0; s < 8; s++) {
        clip_frames(data, (uint64_t)s, 16, 16, frames);
        int64_t first = (int64_t)ceil((double)frames[0] / 2.4);
        assert_in_range(first, 0, 25 - 16);
        for (int i = 0; i < 16; i++)
            assert_int_equal(frames[i], (int64_t)((double)(first + i) * 2.4));
    }
    kin_dataset_close(data);
}

#endif

/* ---- masks ---- */

static void masks_are_as_published(void **state) {
    (void)state;
    enum { DRAWS = 20000, CLIP = 16 };
    const double ratios[KIN_MASK_KINDS] = {0.75,  0.025, 0.025, 0.025, 0.05,
                                           0.025, 0.025, 0.025, 0.05};
    int whole = 0, head = 0, tail = 0, both = 0;
    for (int i = 0; i < DRAWS; i++) {
        float mask[CLIP], again[CLIP];
        int given = 0;
        kin_frame_mask_draw(ratios, 9, i, 1, CLIP, mask);
        kin_frame_mask_draw(ratios, 9, i, 1, CLIP, again);
        assert_memory_equal(mask, again, sizeof mask);
        for (int f = 0; f < CLIP; f++) given += mask[f] == 0;
        assert_in_range(given, 0, 2 * CLIP / 4);
        whole += given == 0;
        both += mask[0] == 0 && mask[CLIP - 1] == 0;
        head += mask[0] == 0 && mask[CLIP - 1] != 0;
        tail += mask[0] != 0 && mask[CLIP - 1] == 0;
    }
    /* five deviations of the binomials: 0.015 of 0.75, 0.011 of 0.1 */
    assert_true(fabs((double)whole / DRAWS - 0.75) < 0.015);
    assert_true(fabs((double)both / DRAWS - 0.1) < 0.011);
    /* "head" also begins a random run now and then: 0.05 and a little of 0.05 */
    assert_true((double)head / DRAWS > 0.05 - 0.008 && (double)head / DRAWS < 0.065);
    assert_true((double)tail / DRAWS > 0.05 - 0.008 && (double)tail / DRAWS < 0.065);
    float one = 0, few[3];
    const double always[KIN_MASK_KINDS] = {[KIN_MASK_IMAGE_HEAD_TAIL] = 1};
    kin_frame_mask_draw(always, 9, 0, 0, 1, &one);
    assert_true(one == 1);
    for (int frames = 2; frames <= 3; frames++) { /* something is left to learn */
        float sum = 0;
        kin_frame_mask_draw(always, 9, 0, 0, frames, few);
        for (int f = 0; f < frames; f++) sum += few[f];
        assert_true(sum == 1);
    }
}

/* ---- noise levels ---- */

/* Open-Sora 1.1's "iddpm-speed": probabilities by the slope of the noise, mirrored pairs. */
static void speedy_levels_are_as_published(void **state) {
    (void)state;
    enum { DRAWS = 40000, HALF = DRAWS / 2 + 1, STEPS = 1000 };
    bench b = bench_open("cpu");
    kin_schedule *schedule;
    must(&b, kin_schedule_create(b.context, STEPS, NULL, &schedule));
    const double *s = schedule->sqrt_one_minus_alphas_cumprod;
    int fast = 0, meaningful = 0;
    for (int i = STEPS - 1; i >= 0; i--) { /* numpy.gradient: differences at the ends, else half */
        double slope = i == 0           ? s[1] - s[0]
                       : i == STEPS - 1 ? s[i] - s[i - 1]
                                        : (s[i + 1] - s[i - 1]) / 2;
        if (slope > 1e-4 && fast == 0) fast = i + 1;
        if (slope < 5e-5) meaningful = i + 1;
    }
    assert_in_range(fast, 100, STEPS - 1);
    kin_timestep_options options = {.speed = true};
    kin_tensor seed = kin_input(b.graph, "seed", KIN_I64, 1, (int64_t[]){2});
    kin_output(b.graph, "levels", kin_training_levels(b.graph, schedule, &options, DRAWS, seed));
    bench_prepare(&b);
    int64_t key[2] = {11, 1};
    int32_t *levels = calloc(DRAWS, sizeof *levels);
    must(&b, kin_plan_write(b.plan, "seed", KIN_I64, key));
    must(&b, kin_plan_run(b.plan));
    must(&b, kin_plan_read(b.plan, "levels", KIN_I32, levels));
    int low = 0, middle = 0;
    for (int i = 0; i < HALF; i++) {
        assert_in_range(levels[i], 0, STEPS - 1);
        low += levels[i] < fast;
        middle += levels[i] < fast / 2;
    }
    double all = 2.5 * fast + 0.5 * (STEPS - fast), share = 2.5 * fast / all;
    /* five deviations of the binomial */
    assert_true(fabs((double)low / HALF - share) < 5 * sqrt(share * (1 - share) / HALF));
    assert_true(fabs((double)middle / HALF - share / 2) < 5 * sqrt(0.25 / HALF));
    for (int i = 0; i < DRAWS - HALF; i++) {
        int32_t want = levels[i] < meaningful ? meaningful - levels[i] : levels[i] - meaningful;
        assert_int_equal(levels[HALF + i], want < STEPS ? want : STEPS - 1);
    }
    free(levels);
    kin_schedule_free(schedule);
    bench_close(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(orders_are_functions_of_the_seed),
        cmocka_unit_test(annotations_are_read),
#ifdef KIN_HAVE_FFMPEG
        cmocka_unit_test(frames_are_chosen_as_published),
#endif
        cmocka_unit_test(masks_are_as_published),
        cmocka_unit_test(speedy_levels_are_as_published),
    };
    return cmocka_run_group_tests(tests, media_setup, media_teardown);
}
