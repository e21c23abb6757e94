/* PNG files: pixels and texts read back with libpng, exactly. */
#define _POSIX_C_SOURCE 200809L
#include "tests/media_helper.h"

#include "runtime/image.h"

#ifdef KIN_HAVE_PNG

#include <png.h>

enum { HEIGHT = 5, WIDTH = 7 };

static void fill(uint8_t *pixels) {
    for (int i = 0; i < HEIGHT * WIDTH * 3; ++i) pixels[i] = (uint8_t)(i * 37 + 11);
}

static void round_trip(void **state) {
    media *m = *state;
    const char *path = media_path(m, "a.png");
    uint8_t pixels[HEIGHT * WIDTH * 3];
    fill(pixels);
    const kin_image_text texts[] = {{"parameters", "steps: 20, seed: 1"}, {"title", "caf\xC3\xA9"}};
    assert_int_equal(kin_image_write_png(m->context, path, pixels, HEIGHT, WIDTH, texts, 2),
                     KIN_OK);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png_create_info_struct(png);
    png_init_io(png, file);
    png_read_png(png, info, PNG_TRANSFORM_IDENTITY, NULL);
    assert_int_equal(png_get_image_height(png, info), HEIGHT);
    assert_int_equal(png_get_image_width(png, info), WIDTH);
    png_bytepp rows = png_get_rows(png, info);
    for (int y = 0; y < HEIGHT; ++y)
        assert_memory_equal(rows[y], pixels + y * WIDTH * 3, WIDTH * 3);
    pixels[0] ^= 1;
    assert_memory_not_equal(rows[0], pixels, WIDTH * 3); /* negative control */
    png_textp found = NULL;
    assert_int_equal(png_get_text(png, info, &found, NULL), 2);
    for (int i = 0; i < 2; ++i) {
        assert_string_equal(found[i].key, texts[i].key);
        assert_string_equal(found[i].text, texts[i].value);
    }
    png_destroy_read_struct(&png, &info, NULL);
    fclose(file);
}

static void same_bytes(void **state) {
    media *m = *state;
    uint8_t pixels[HEIGHT * WIDTH * 3];
    fill(pixels);
    size_t size[2];
    unsigned char *data[2];
    for (int i = 0; i < 2; ++i) {
        const char *path = media_path(m, i ? "c.png" : "b.png");
        assert_int_equal(kin_image_write_png(m->context, path, pixels, HEIGHT, WIDTH, NULL, 0),
                         KIN_OK);
        data[i] = media_read(path, &size[i]);
    }
    assert_int_equal(size[0], size[1]);
    assert_memory_equal(data[0], data[1], size[0]);
    free(data[0]), free(data[1]);
}

static void refusals(void **state) {
    media *m = *state;
    uint8_t pixels[3] = {0};
    char key[90];
    memset(key, 'k', sizeof key - 1);
    key[sizeof key - 1] = 0;
    const kin_image_text bad = {key, "x"}, empty = {"", "x"};
    const char *path = media_path(m, "never.png");
    assert_int_equal(kin_image_write_png(m->context, path, pixels, 0, 1, NULL, 0), KIN_INVALID);
    assert_int_equal(kin_image_write_png(m->context, path, pixels, 1, 70000, NULL, 0), KIN_INVALID);
    assert_int_equal(kin_image_write_png(m->context, path, pixels, 1, 1, &bad, 1), KIN_INVALID);
    assert_int_equal(kin_image_write_png(m->context, path, pixels, 1, 1, &empty, 1), KIN_INVALID);
    assert_int_not_equal(access(path, F_OK), 0);
    assert_int_not_equal(
        kin_image_write_png(m->context, media_path(m, "no/folder.png"), pixels, 1, 1, NULL, 0),
        KIN_OK);
    assert_non_null(strstr(kin_context_error(m->context), "folder"));
}

static kin_status write_one(kin_context *context, const media *m) {
    uint8_t pixels[HEIGHT * WIDTH * 3];
    fill(pixels);
    const kin_image_text text = {"parameters", "x"};
    return kin_image_write_png(context, media_path(m, "memory.png"), pixels, HEIGHT, WIDTH, &text,
                               1);
}

static void out_of_memory(void **state) {
    assert_true(media_starve(write_one, *state) > 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(round_trip), cmocka_unit_test(same_bytes),
                                       cmocka_unit_test(refusals), cmocka_unit_test(out_of_memory)};
    return cmocka_run_group_tests(tests, media_setup, media_teardown);
}

#else

static void says_unsupported(void **state) {
    media *m = *state;
    uint8_t pixels[3] = {0};
    assert_int_equal(kin_image_write_png(m->context, "x.png", pixels, 1, 1, NULL, 0),
                     KIN_UNSUPPORTED);
    assert_non_null(strstr(kin_context_error(m->context), "libpng-dev"));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(says_unsupported)};
    return cmocka_run_group_tests(tests, media_setup, media_teardown);
}

#endif
