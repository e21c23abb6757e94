/* Video in and out. Tolerances: lossless files and PNG are exact to the byte; H.264 at crf 1 of a
 * smooth clip within 8 of 255 (chroma is stored at half size); scaling 1e-5 against plain formulas.
 */
#define _POSIX_C_SOURCE 200809L
#include "tests/media_helper.h"

#include <math.h>

#include "runtime/video.h"
#include "runtime/video_private.h"

#ifdef KIN_HAVE_FFMPEG

enum { T = 9, Y = 32, X = 48 };

/* A smooth clip whose frames differ in every pixel by more than the tolerance. */
static kin_host_tensor make_clip(media *m, int frames, int height, int width) {
    const int64_t dims[4] = {3, frames, height, width};
    kin_host_tensor clip;
    assert_int_equal(kin_host_tensor_create(m->context, KIN_F32, 4, dims, &clip), KIN_OK);
    float *out = clip.data;
    for (int c = 0; c < 3; ++c)
        for (int t = 0; t < frames; ++t)
            for (int y = 0; y < height; ++y)
                for (int x = 0; x < width; ++x) {
                    int byte = 30 + t * 20 + (x + 2 * y) / 4 + c * (t % 2 ? 9 : 3);
                    *out++ = (float)(byte > 255 ? 255 : byte) / 127.5f - 1.0f;
                }
    return clip;
}

/* The largest difference in bytes between frame `a` of one clip and frame `b` of another. */
static double frame_error(const kin_host_tensor *first, int64_t a, const kin_host_tensor *second,
                          int64_t b) {
    const int64_t plane = first->desc.dims[2] * first->desc.dims[3];
    double error = 0;
    for (int64_t c = 0; c < 3; ++c)
        for (int64_t i = 0; i < plane; ++i) {
            float u = ((float *)first->data)[(c * first->desc.dims[1] + a) * plane + i];
            float v = ((float *)second->data)[(c * second->desc.dims[1] + b) * plane + i];
            error = fmax(error, fabs((double)u - v) * 127.5);
        }
    return error;
}

static void write_clip(media *m, const char *path, const kin_host_tensor *clip,
                       const kin_video_write_options *options) {
    kin_status status = kin_video_write(m->context, path, clip, options);
    if (status != KIN_OK) print_error("%s\n", kin_context_error(m->context));
    assert_int_equal(status, KIN_OK);
}

static void round_trip(void **state) {
    media *m = *state;
    static const struct {
        const char *name;
        double tolerance;
    } files[] = {{"a.mp4", 8}, {"a.mkv", 1e-3}};
    kin_host_tensor clip = make_clip(m, T, Y, X), back;
    for (int i = 0; i < 2; ++i) {
        const char *path = media_path(m, files[i].name);
        const kin_video_write_options options = {
            .fps = 8, .crf = 1, .comment = "seed=1 caf\xC3\xA9"};
        write_clip(m, path, &clip, &options);
        assert_int_equal(kin_video_read(m->context, path, NULL, &back), KIN_OK);
        assert_true(kin_desc_same_shape(&clip.desc, &back.desc));
        for (int t = 0; t < T; ++t) {
            assert_true(frame_error(&clip, t, &back, t) <= files[i].tolerance);
            /* Negative control: the neighbouring frame is not this one. */
            assert_true(frame_error(&clip, t, &back, t ? t - 1 : 1) > files[i].tolerance);
        }
        kin_host_tensor_free(m->context, &back);
        kin_video_info info;
        assert_int_equal(kin_video_probe(m->context, path, &info), KIN_OK);
        assert_int_equal(info.frames, T);
        assert_true(info.height == Y && info.width == X);
        assert_true(fabs(info.fps - 8) < 1e-6 && fabs(info.duration - T / 8.0) < 1e-6);
        char *comment = NULL;
        assert_int_equal(kin_video_comment(m->context, path, &comment), KIN_OK);
        assert_string_equal(comment, options.comment);
        kin_free(m->context, comment);
    }
    kin_host_tensor_free(m->context, &clip);
}

static void same_bytes(void **state) {
    media *m = *state;
    kin_host_tensor clip = make_clip(m, T, Y, X);
    static const char *const names[2][2] = {{"s1.mp4", "s2.mp4"}, {"s1.mkv", "s2.mkv"}};
    for (int kind = 0; kind < 2; ++kind) {
        size_t size[2];
        unsigned char *data[2];
        for (int i = 0; i < 2; ++i) {
            const char *path = media_path(m, names[kind][i]);
            write_clip(m, path, &clip, NULL);
            data[i] = media_read(path, &size[i]);
        }
        assert_int_equal(size[0], size[1]);
        assert_memory_equal(data[0], data[1], size[0]);
        free(data[0]), free(data[1]);
    }
    kin_host_tensor_free(m->context, &clip);
}

/* Textured clips, written while the heap grows: the bytes do not depend on where buffers lie. */
static void same_bytes_anywhere(void **state) {
    enum { WRITES = 12, FRAMES = 7, SIDE = 32 };
    media *m = *state;
    const char *path = media_path(m, "again.mp4");
    kin_host_tensor clip = make_clip(m, FRAMES, SIDE, SIDE);
    float *value = clip.data;
    for (int i = 0; i < 3 * FRAMES * SIDE * SIDE; ++i) {
        int c = i / (FRAMES * SIDE * SIDE), t = i / (SIDE * SIDE) % FRAMES;
        uint32_t hash = (uint32_t)i * 2654435761u;
        hash = (hash ^ hash >> 13) * 1274126177u;
        double noise = ((hash ^ hash >> 16) & 1023) / 1023.0 * 2 - 1;
        double wave = sin((i % SIDE + 2 * t + c) * 0.35) * cos((i / SIDE % SIDE - t) * 0.27 + c);
        value[i] = (float)(0.6 * wave + 0.4 * noise);
    }
    void *held[WRITES];
    unsigned char *first = NULL;
    size_t first_size = 0;
    for (int k = 0; k < WRITES; ++k) {
        size_t size = 0;
        held[k] = malloc((size_t)(1000 + k * 7777));
        write_clip(m, path, &clip, NULL);
        unsigned char *bytes = media_read(path, &size);
        if (first) {
            assert_int_equal(size, first_size);
            assert_memory_equal(bytes, first, size);
            free(bytes);
        } else first = bytes, first_size = size;
    }
    value[5] = -value[5] - 0.5f; /* negative control */
    write_clip(m, path, &clip, NULL);
    size_t size = 0;
    unsigned char *bytes = media_read(path, &size);
    assert_true(size != first_size || memcmp(bytes, first, size) != 0);
    free(bytes);
    free(first);
    for (int k = 0; k < WRITES; ++k) free(held[k]);
    kin_host_tensor_free(m->context, &clip);
}

static void frame_numbers(void **state) {
    media *m = *state;
    const char *path = media_path(m, "numbers.mp4");
    kin_host_tensor clip = make_clip(m, T, Y, X), back;
    const kin_video_write_options best = {.crf = 1};
    write_clip(m, path, &clip, &best);
    const kin_video_read_options some = {.start = 1, .count = 3, .interval = 3};
    assert_int_equal(kin_video_read(m->context, path, &some, &back), KIN_OK);
    assert_int_equal(back.desc.dims[1], 3);
    for (int i = 0; i < 3; ++i) assert_true(frame_error(&back, i, &clip, 1 + 3 * i) <= 8);
    kin_host_tensor_free(m->context, &back);
    const kin_video_read_options rest = {.start = 4, .interval = 2};
    assert_int_equal(kin_video_read(m->context, path, &rest, &back), KIN_OK);
    assert_int_equal(back.desc.dims[1], 3); /* 4, 6, 8 */
    assert_true(frame_error(&back, 2, &clip, 8) <= 8);
    kin_host_tensor_free(m->context, &back);
    const int64_t list[] = {0, 0, 5, 8}, descending[] = {3, 2};
    const kin_video_read_options listed = {.count = 4, .frames = list};
    assert_int_equal(kin_video_read(m->context, path, &listed, &back), KIN_OK);
    for (int i = 0; i < 4; ++i) assert_true(frame_error(&back, i, &clip, list[i]) <= 8);
    kin_host_tensor_free(m->context, &back);
    const kin_video_read_options wrong = {.count = 2, .frames = descending};
    assert_int_equal(kin_video_read(m->context, path, &wrong, &back), KIN_INVALID);
    const kin_video_read_options beyond = {.start = 2, .count = 4, .interval = 3};
    assert_int_equal(kin_video_read(m->context, path, &beyond, &back), KIN_FORMAT);
    assert_non_null(strstr(kin_context_error(m->context), "has 9 frames, but frame 11"));
    kin_host_tensor_free(m->context, &clip);
}

/* Bilinear scaling by the text-book formula, in double. */
static double sample(const uint8_t *rgb, int height, int width, int c, double y, double x) {
    y = fmin(fmax(y, 0), height - 1), x = fmin(fmax(x, 0), width - 1);
    int y0 = (int)y, x0 = (int)x, y1 = y0 + 1 < height ? y0 + 1 : y0,
        x1 = x0 + 1 < width ? x0 + 1 : x0;
    double v = y - y0, u = x - x0;
    return (1 - v) *
               ((1 - u) * rgb[(y0 * width + x0) * 3 + c] + u * rgb[(y0 * width + x1) * 3 + c]) +
           v * ((1 - u) * rgb[(y1 * width + x0) * 3 + c] + u * rgb[(y1 * width + x1) * 3 + c]);
}

static void scaling(void **state) {
    (void)state;
    static const struct {
        int source_height, source_width, height, width;
        kin_video_resize resize;
        double scale;
        int top, left;
        double across; /* 0: as scale */
    } cases[] = {
        {30, 40, 15, 15, KIN_VIDEO_CENTER, 0.5, 0, 2, 0}, /* 15 x 20, (20 - 15) / 2 = 2.5 -> 2 */
        {40, 30, 15, 15, KIN_VIDEO_RESIZE_CROP, 0.5, 2, 0, 0},
        {16, 16, 24, 24, KIN_VIDEO_CENTER, 1.5, 0, 0, 0},
        {20, 40, 10, 30, KIN_VIDEO_RESIZE_CROP, 0.75, 2, 0, 0}, /* 15 x 30, (15 - 10) / 2 -> 2 */
        {18, 32, 8, 8, KIN_VIDEO_RESIZE_CROP, 8 / 18.0, 0, 3, 14 / 32.0},    /* 14.2 -> 14 wide */
        {17, 40, 10, 17, KIN_VIDEO_RESIZE_CROP, 10 / 17.0, 0, 3, 24 / 40.0}, /* 23.5 -> 24; 3.5 */
        {17, 31, 17, 31, KIN_VIDEO_CENTER, 1, 0, 0, 0}};
    uint8_t rgb[40 * 40 * 3];
    float out[3 * 32 * 32];
    for (size_t i = 0; i < sizeof rgb; ++i) rgb[i] = (uint8_t)(i * 101 + i / 7);
    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; ++k) {
        int sh = cases[k].source_height, sw = cases[k].source_width;
        int h = cases[k].height, w = cases[k].width;
        kin_video_window window = kin_video_window_make(sh, sw, h, w, cases[k].resize);
        kin_video_window_apply(&window, rgb, sw * 3, out);
        double error = 0, shifted = 0;
        for (int c = 0; c < 3; ++c)
            for (int y = 0; y < h; ++y)
                for (int x = 0; x < w; ++x) {
                    double sy = (y + cases[k].top + 0.5) / cases[k].scale - 0.5;
                    double across = cases[k].across > 0 ? cases[k].across : cases[k].scale;
                    double sx = (x + cases[k].left + 0.5) / across - 0.5;
                    double got = out[(c * h + y) * w + x];
                    error = fmax(error, fabs(got - (sample(rgb, sh, sw, c, sy, sx) / 127.5 - 1)));
                    shifted = fmax(shifted,
                                   fabs(got - (sample(rgb, sh, sw, c, sy, sx + 0.5) / 127.5 - 1)));
                }
        assert_true(error < 1e-5);
        assert_true(shifted > 0.1); /* negative control: half a pixel off shows */
    }
}

static void read_scaled(void **state) {
    media *m = *state;
    const char *path = media_path(m, "scaled.mkv");
    kin_host_tensor clip = make_clip(m, 2, 20, 40), back;
    write_clip(m, path, &clip, NULL);
    const kin_video_read_options options = {.height = 10, .width = 10};
    assert_int_equal(kin_video_read(m->context, path, &options, &back), KIN_OK);
    assert_true(back.desc.dims[1] == 2 && back.desc.dims[2] == 10 && back.desc.dims[3] == 10);
    /* Halving takes the mean of 2 x 2 pixels; the crop begins at column 5 of 20. */
    for (int y = 0; y < 10; ++y)
        for (int x = 0; x < 10; ++x) {
            const float *in = (float *)clip.data + 2 * y * 40 + 2 * (x + 5);
            float mean = (in[0] + in[1] + in[40] + in[41]) / 4;
            assert_true(fabsf(((float *)back.data)[y * 10 + x] - mean) < 1e-5f);
        }
    kin_host_tensor_free(m->context, &back);
    const kin_video_read_options half = {.height = 10};
    assert_int_equal(kin_video_read(m->context, path, &half, &back), KIN_INVALID);
    kin_host_tensor_free(m->context, &clip);
}

static void images(void **state) {
    media *m = *state;
    kin_host_tensor clip = make_clip(m, 3, 11, 13), back;
    const kin_video_write_options options = {.comment = "prompt: a cat"};
    kin_status status = kin_video_write(m->context, media_path(m, "f%03d.png"), &clip, &options);
    if (status == KIN_UNSUPPORTED) { /* a build without libpng */
        kin_host_tensor_free(m->context, &clip);
        skip();
    }
    assert_int_equal(status, KIN_OK);
    for (int t = 0; t < 3; ++t) {
        char name[32];
        snprintf(name, sizeof name, "f%03d.png", t);
        assert_int_equal(kin_video_read(m->context, media_path(m, name), NULL, &back), KIN_OK);
        assert_int_equal(back.desc.dims[1], 1);
        assert_true(frame_error(&back, 0, &clip, t) <= 1e-3);
        assert_true(frame_error(&back, 0, &clip, (t + 1) % 3) > 1);
        kin_host_tensor_free(m->context, &back);
    }
    kin_video_info info;
    assert_int_equal(kin_video_probe(m->context, media_path(m, "f002.png"), &info), KIN_OK);
    assert_true(info.frames == 1 && info.height == 11 && info.width == 13 && info.fps == 0);
    char *comment = NULL;
    assert_int_equal(kin_video_comment(m->context, media_path(m, "f000.png"), &comment), KIN_OK);
    assert_string_equal(comment, "prompt: a cat");
    kin_free(m->context, comment);
    static const char *const bad[] = {"x.png", "x%s.png", "%d%d.png", "x%5d.png", "x%0999999d.png"};
    for (int i = 0; i < 5; ++i)
        assert_int_equal(kin_video_write(m->context, media_path(m, bad[i]), &clip, NULL),
                         KIN_INVALID);
    kin_host_tensor_free(m->context, &clip);
}

/* A grey 16 x 8 JPEG: the left half is 60, the right half 190. */
static void jpeg(void **state) {
    media *m = *state;
    static const unsigned char data[] = {
        0xFF, 0xD8, 0xFF, 0xDB, 0x00, 0x43, 0x00, 0x08, 0x06, 0x06, 0x07, 0x06, 0x05, 0x08, 0x07,
        0x07, 0x07, 0x09, 0x09, 0x08, 0x0A, 0x0C, 0x14, 0x0D, 0x0C, 0x0B, 0x0B, 0x0C, 0x19, 0x12,
        0x13, 0x0F, 0x14, 0x1D, 0x1A, 0x1F, 0x1E, 0x1D, 0x1A, 0x1C, 0x1C, 0x20, 0x24, 0x2E, 0x27,
        0x20, 0x22, 0x2C, 0x23, 0x1C, 0x1C, 0x28, 0x37, 0x29, 0x2C, 0x30, 0x31, 0x34, 0x34, 0x34,
        0x1F, 0x27, 0x39, 0x3D, 0x38, 0x32, 0x3C, 0x2E, 0x33, 0x34, 0x32, 0xFF, 0xC0, 0x00, 0x0B,
        0x08, 0x00, 0x08, 0x00, 0x10, 0x01, 0x01, 0x11, 0x00, 0xFF, 0xC4, 0x00, 0x15, 0x00, 0x01,
        0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x07, 0x08, 0xFF, 0xC4, 0x00, 0x14, 0x10, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xFF, 0xDA, 0x00, 0x08, 0x01, 0x01,
        0x00, 0x00, 0x3F, 0x00, 0x3B, 0x50, 0x4F, 0xFF, 0xD9};
    const char *path = media_path(m, "a.jpg");
    kin_host_tensor back;
    media_write(path, data, sizeof data);
    assert_int_equal(kin_video_read(m->context, path, NULL, &back), KIN_OK);
    assert_true(back.desc.dims[1] == 1 && back.desc.dims[2] == 8 && back.desc.dims[3] == 16);
    for (int c = 0; c < 3; ++c) {
        const float *row = (float *)back.data + c * 128;
        assert_true(fabsf(row[0] * 127.5f + 127.5f - 60) <= 2);
        assert_true(fabsf(row[15] * 127.5f + 127.5f - 190) <= 2);
    }
    kin_host_tensor_free(m->context, &back);
    for (size_t cut = 1; cut < sizeof data; ++cut) { /* a cut image is never painted over */
        media_write(path, data, sizeof data - cut);
        assert_int_equal(kin_video_read(m->context, path, NULL, &back), KIN_FORMAT);
    }
}

/* Names that FFmpeg would take for protocols, patterns or flags. */
static void odd_names(void **state) {
    media *m = *state;
    kin_host_tensor clip = make_clip(m, 1, 16, 16), back;
    static const char *const names[] = {"a:b.mp4", "100%d.mp4", "-x y.mkv", "#?.mkv"};
    for (int i = 0; i < 4; ++i) {
        const char *path = media_path(m, names[i]);
        write_clip(m, path, &clip, NULL);
        assert_int_equal(access(path, R_OK), 0);
        assert_int_equal(kin_video_read(m->context, path, NULL, &back), KIN_OK);
        assert_int_equal(back.desc.dims[1], 1);
        kin_host_tensor_free(m->context, &back);
    }
    kin_host_tensor_free(m->context, &clip);
}

static void write_refusals(void **state) {
    media *m = *state;
    kin_host_tensor odd = make_clip(m, 1, 15, 16), clip = make_clip(m, 2, 16, 16);
    assert_int_equal(kin_video_write(m->context, media_path(m, "odd.mp4"), &odd, NULL),
                     KIN_INVALID);
    assert_non_null(strstr(kin_context_error(m->context), "even"));
    assert_int_equal(kin_video_write(m->context, media_path(m, "odd.mkv"), &odd, NULL), KIN_OK);
    assert_int_equal(kin_video_write(m->context, media_path(m, "x.avi"), &clip, NULL), KIN_INVALID);
    const kin_video_write_options slow = {.fps = -1}, rough = {.crf = 60};
    assert_int_equal(kin_video_write(m->context, media_path(m, "x.mp4"), &clip, &slow),
                     KIN_INVALID);
    assert_int_equal(kin_video_write(m->context, media_path(m, "x.mp4"), &clip, &rough),
                     KIN_INVALID);
    assert_int_not_equal(kin_video_write(m->context, media_path(m, "no/x.mp4"), &clip, NULL),
                         KIN_OK);
    ((float *)clip.data)[16 * 16 + 3] = NAN; /* frame 1 of red */
    const char *path = media_path(m, "nan.mp4");
    assert_int_equal(kin_video_write(m->context, path, &clip, NULL), KIN_NUMERIC);
    assert_non_null(strstr(kin_context_error(m->context), "frame 1"));
    assert_int_not_equal(access(path, F_OK), 0);
    clip.desc.rank = 3;
    assert_int_equal(kin_video_write(m->context, path, &clip, NULL), KIN_INVALID);
    clip.desc.rank = 4;
    kin_host_tensor_free(m->context, &clip);
    kin_host_tensor_free(m->context, &odd);
}

static void clamps(void **state) {
    media *m = *state;
    kin_host_tensor clip = make_clip(m, 1, 2, 2), back;
    static const float values[4] = {-7, 9, INFINITY, 0.2f};
    static const int bytes[4] = {0, 255, 255, 153};
    memcpy(clip.data, values, sizeof values);
    write_clip(m, media_path(m, "clamp.mkv"), &clip, NULL);
    assert_int_equal(kin_video_read(m->context, media_path(m, "clamp.mkv"), NULL, &back), KIN_OK);
    for (int i = 0; i < 4; ++i)
        assert_int_equal(lrintf(((float *)back.data)[i] * 127.5f + 127.5f), bytes[i]);
    kin_host_tensor_free(m->context, &back);
    kin_host_tensor_free(m->context, &clip);
}

/* Cut and damaged files: an error that names the file, or a result, but never a crash. All cuts of
 * a lossless stream must be found. */
static void damaged(void **state) {
    media *m = *state;
    static const char *const names[] = {"d.mp4", "d.mkv"};
    kin_host_tensor clip = make_clip(m, T, Y, X), back;
    for (int kind = 0; kind < 2; ++kind) {
        const char *path = media_path(m, names[kind]);
        write_clip(m, path, &clip, NULL);
        size_t size = 0;
        unsigned char *data = media_read(path, &size);
        for (int i = 0; i < 12; ++i) {
            media_write(path, data, size * (size_t)i / 12);
            kin_status status = kin_video_read(m->context, path, NULL, &back);
            assert_int_equal(status, KIN_FORMAT);
            assert_non_null(strstr(kin_context_error(m->context), names[kind]));
        }
        for (size_t i = 0; i < 60; ++i) {
            size_t at = (i * 2654435761u) % size;
            data[at] ^= 0x55;
            media_write(path, data, size);
            kin_status status = kin_video_read(m->context, path, NULL, &back);
            if (status == KIN_OK) kin_host_tensor_free(m->context, &back);
            assert_true(status == KIN_OK || status == KIN_FORMAT || status == KIN_UNSUPPORTED);
            data[at] ^= 0x55;
        }
        free(data);
    }
    kin_host_tensor_free(m->context, &clip);
}

/* The index is whole and the frames' bytes are not. */
static void damaged_frames(void **state) {
    media *m = *state;
    const char *path = media_path(m, "frames.mp4");
    kin_host_tensor clip = make_clip(m, T, Y, X), back;
    write_clip(m, path, &clip, NULL);
    size_t size = 0, at = 0;
    unsigned char *data = media_read(path, &size);
    while (at + 1204 < size && memcmp(data + at, "mdat", 4) != 0) ++at;
    assert_memory_equal(data + at, "mdat", 4);
    memset(data + at + 704, 0xA5, 300);
    media_write(path, data, size);
    assert_int_equal(kin_video_read(m->context, path, NULL, &back), KIN_FORMAT);
    assert_non_null(strstr(kin_context_error(m->context), "frames.mp4: frame "));
    free(data);
    kin_host_tensor_free(m->context, &clip);
}

static void not_videos(void **state) {
    media *m = *state;
    kin_host_tensor back;
    kin_video_info info;
    char *comment = NULL;
    const char *path = media_path(m, "list.m3u8");
    static const char playlist[] = "#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n";
    assert_int_equal(kin_video_read(m->context, media_path(m, "gone.mp4"), NULL, &back),
                     KIN_NOT_FOUND);
    assert_int_equal(kin_video_probe(m->context, m->folder, &info), KIN_IO);
    media_write(path, playlist, sizeof playlist - 1);
    assert_int_equal(kin_video_read(m->context, path, NULL, &back), KIN_FORMAT);
    media_write(path, "", 0);
    assert_int_equal(kin_video_probe(m->context, path, &info), KIN_FORMAT);
    media_write(path, "hello, world", 12);
    assert_int_equal(kin_video_comment(m->context, path, &comment), KIN_FORMAT);
    kin_host_tensor clip = make_clip(m, 1, 16, 16);
    write_clip(m, media_path(m, "plain.mkv"), &clip, NULL);
    assert_int_equal(kin_video_comment(m->context, media_path(m, "plain.mkv"), &comment),
                     KIN_NOT_FOUND);
    kin_host_tensor_free(m->context, &clip);
}

static kin_status write_and_read(kin_context *context, const media *m) {
    const char *path = media_path(m, "memory.mp4");
    const int64_t dims[4] = {3, 2, 16, 16};
    kin_host_tensor clip, back;
    kin_status status = kin_host_tensor_create(context, KIN_F32, 4, dims, &clip);
    if (status != KIN_OK) return status;
    memset(clip.data, 0, 3 * 2 * 256 * sizeof(float));
    status = kin_video_write(context, path, &clip, NULL);
    kin_host_tensor_free(context, &clip);
    if (status == KIN_OK) status = kin_video_read(context, path, NULL, &back);
    if (status == KIN_OK) kin_host_tensor_free(context, &back);
    return status;
}

static void out_of_memory(void **state) {
    assert_true(media_starve(write_and_read, *state) > 5);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(round_trip),
                                       cmocka_unit_test(same_bytes),
                                       cmocka_unit_test(same_bytes_anywhere),
                                       cmocka_unit_test(frame_numbers),
                                       cmocka_unit_test(scaling),
                                       cmocka_unit_test(read_scaled),
                                       cmocka_unit_test(images),
                                       cmocka_unit_test(jpeg),
                                       cmocka_unit_test(odd_names),
                                       cmocka_unit_test(write_refusals),
                                       cmocka_unit_test(clamps),
                                       cmocka_unit_test(damaged),
                                       cmocka_unit_test(damaged_frames),
                                       cmocka_unit_test(not_videos),
                                       cmocka_unit_test(out_of_memory)};
    return cmocka_run_group_tests(tests, media_setup, media_teardown);
}

#else

static void says_unsupported(void **state) {
    media *m = *state;
    kin_video_info info;
    assert_int_equal(kin_video_probe(m->context, "x.mp4", &info), KIN_UNSUPPORTED);
    assert_non_null(strstr(kin_context_error(m->context), "libavformat-dev"));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(says_unsupported)};
    return cmocka_run_group_tests(tests, media_setup, media_teardown);
}

#endif
