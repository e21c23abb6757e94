/* The charts and the page of kinora report, on small inputs made here. Numbers are exact, but for
 * ticks: 1e-9 of their size. */
#define _POSIX_C_SOURCE 200809L
#include "tests/media_helper.h"

#include "tools/report/report.h"

#include <math.h>

#ifdef KIN_HAVE_PNG

static const char config[] = "{\"task\": \"vae\", \"steps\": 40, \"batch_size\": 4,"
                             " \"data\": {\"csv\": \"<nowhere>.csv\", \"num_frames\": 8}}";
static const char evaluation[] =
    "{\"model\": \"model\", \"prompts\": \"a<b>.txt\","
    " \"sampling\": {\"method\": \"ddim\", \"steps\": 20, \"cfg_scale\": 4.0},"
    " \"colour\": 1.0, \"both\": 1.0, \"each\": ["
    "{\"prompt\": \"a red circle moving up\", \"seed\": 1, \"colour\": \"red\","
    " \"direction\": \"up\", \"confidence\": 0.9},"
    "{\"prompt\": \"a blue square moving down\", \"seed\": 2, \"colour\": \"blue\","
    " \"direction\": \"none\", \"confidence\": 0.1},"
    "{\"prompt\": \"a <b>cyan</b> cyan circle & left\", \"seed\": 2, \"colour\": \"red\","
    " \"direction\": \"left\", \"confidence\": 0.5},"
    "{\"prompt\": \"a cyan circle sliding left\", \"seed\": 1, \"colour\": \"cyan\","
    " \"direction\": \"left\", \"confidence\": 0.5}]}";
static const char mp4[] = "\0\0\0\x18"
                          "ftypisom, and not more than that";

static void write_text(const char *path, const char *text) {
    media_write(path, text, strlen(text));
}

/* A run of 40 steps whose loss falls; one value is missing, and the last line is cut off. */
static void make_run(const media *m) {
    char lines[8192], *at = lines;
    mkdir(media_path(m, "run"), 0777);
    write_text(media_path(m, "run/config.json"), config);
    write_text(media_path(m, "run/train.log"), "vae 1/40\nplan: old\nplan: 12 nodes & more\nend\n");
    for (int step = 1; step <= 40; step++)
        at += step == 20 ? sprintf(at, "{\"step\": %d, \"loss\": null}\n", step)
                         : sprintf(at,
                                   "{\"step\": %d, \"loss\": %g, \"reconstruction\": %g, "
                                   "\"seconds_per_step\": 0.5}\n",
                                   step, 2.0 / step, 3.0 / step);
    sprintf(at, "{\"step\": 41, \"lo");
    write_text(media_path(m, "run/metrics.jsonl"), lines);
}

static uint32_t big_endian(const unsigned char *b) {
    return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

static void ticks(void **state) {
    (void)state;
    double out[24];
    assert_int_equal(kin_plot_ticks(0, 1000, false, out, 24), 6);
    for (int i = 0; i < 6; i++) assert_true(fabs(out[i] - 200.0 * i) < 1e-9);
    assert_int_equal(kin_plot_ticks(0.009, 1.1, true, out, 24), 7);
    static const double decades[] = {0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1};
    for (int i = 0; i < 7; i++) assert_true(fabs(out[i] / decades[i] - 1) < 1e-9);
    assert_int_equal(kin_plot_ticks(1e-6, 1, true, out, 24), 7);
    assert_true(kin_plot_ticks(0.31, 0.34, true, out, 24) >= 3); /* no power within */
    assert_true(out[0] >= 0.31 - 1e-9 && out[0] < out[1]);
    assert_int_equal(kin_plot_ticks(0, 1000, false, out, 2), 2);
}

static void glyphs(void **state) {
    (void)state;
    static const char known[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ .,:-+=/()%_*'";
    const uint8_t *unknown = kin_plot_glyph('\x7f');
    assert_ptr_equal(kin_plot_glyph('a'), kin_plot_glyph('A'));
    for (size_t i = 0; known[i]; i++) {
        const uint8_t *rows = kin_plot_glyph(known[i]);
        assert_ptr_not_equal(rows, unknown);
        for (int r = 0; r < 7; r++) assert_true(rows[r] < 32);
        for (size_t k = 0; k < i; k++) assert_memory_not_equal(rows, kin_plot_glyph(known[k]), 7);
    }
}

static kin_status draw(kin_context *context, const char *path, double factor) {
    double x[30], y[30];
    for (int i = 0; i < 30; i++) x[i] = i, y[i] = factor * exp(-0.1 * i);
    y[3] = NAN;
    y[7] = -1; /* not on a log axis */
    const kin_plot_series series[] = {{"raw", x, y, 30, {200, 0, 0}, 1, 0},
                                      {"smooth", x, y, 30, {0, 0, 200}, 2, 3}};
    const kin_plot_panel panels[] = {{"title", "step", true, series, 2},
                                     {"other", "step", false, series, 1}};
    return kin_plot_write(context, path, panels, 2);
}

static void chart(void **state) {
    media *m = *state;
    size_t size[2];
    unsigned char *data[2];
    assert_int_equal(draw(m->context, media_path(m, "a.png"), 1), KIN_OK);
    assert_int_equal(draw(m->context, media_path(m, "b.png"), 0), KIN_INVALID);
    assert_non_null(strstr(kin_context_error(m->context), "title"));
    assert_int_not_equal(access(media_path(m, "b.png"), F_OK), 0);
    assert_int_equal(draw(m->context, media_path(m, "c.png"), 100), KIN_OK);
    data[0] = media_read(media_path(m, "a.png"), &size[0]);
    data[1] = media_read(media_path(m, "c.png"), &size[1]);
    assert_memory_equal(data[0], "\x89PNG\r\n\x1a\n", 8);
    assert_int_equal(big_endian(data[0] + 16), KIN_PLOT_WIDTH);
    assert_int_equal(big_endian(data[0] + 20), 2 * KIN_PLOT_PANEL_HEIGHT);
    assert_memory_equal(data[0] + size[0] - 8, "IEND", 4);
    /* the numbers at the axis differ, so the pictures do */
    assert_true(size[0] != size[1] || memcmp(data[0], data[1], size[0]) != 0);
    free(data[0]), free(data[1]);
}

static void escaping(void **state) {
    media *m = *state;
    kin_html page = {.context = m->context, .status = KIN_OK};
    kin_html_text(&page, "<a href='x'>\"&\xc3\xa9\x01</a>");
    assert_string_equal(page.data, "&lt;a href=&#39;x&#39;&gt;&quot;&amp;\xc3\xa9?&lt;/a&gt;");
    kin_html_free(&page);
    page = (kin_html){.context = m->context, .status = KIN_OK};
    kin_html_text(&page, "\xff<");
    kin_html_format(&page, "%s", ">");
    assert_string_equal(page.data, "?&lt;&gt;");
    kin_html_free(&page);
    /* the examples of RFC 4648, section 10 */
    static const char *const plain[] = {"", "f", "fo", "foo", "foob", "fooba", "foobar"};
    static const char *const coded[] = {"",         "Zg==",     "Zm8=",    "Zm9v",
                                        "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"};
    for (int i = 0; i < 7; i++) {
        page = (kin_html){.context = m->context, .status = KIN_OK};
        kin_html_data_uri(&page, "text/plain", plain[i], strlen(plain[i]));
        assert_memory_equal(page.data, "data:text/plain;base64,", 23);
        assert_string_equal(page.data + 23, coded[i]);
        kin_html_free(&page);
    }
}

/* Paths live as long as the next call. */
static kin_report_options all_parts(const media *m, char paths[6][2 * MEDIA_PATH]) {
    static const char *const names[] = {"report.html", "run",   "seen.json",
                                        "a.png",       "c.mp4", "none"};
    for (int i = 0; i < 6; i++) snprintf(paths[i], 2 * MEDIA_PATH, "%s/%s", m->folder, names[i]);
    return (kin_report_options){.title = "T <1> & \"2\"",
                                .output = paths[0],
                                .machine = "processor\t<fast>\nsystem\tx",
                                .notes = {{"a <note>"}, 1},
                                .runs = {{paths[1]}, 1},
                                .evals = {{paths[2]}, 1},
                                .sheets = {{paths[3]}, 1},
                                .videos = {{paths[4]}, 1}};
}

static void make_parts(const media *m) {
    make_run(m);
    assert_int_equal(draw(m->context, media_path(m, "a.png"), 1), KIN_OK);
    write_text(media_path(m, "seen.json"), evaluation);
    media_write(media_path(m, "c.mp4"), mp4, sizeof mp4);
}

static void page_of_all(void **state) {
    media *m = *state;
    char paths[6][2 * MEDIA_PATH];
    size_t size;
    make_parts(m);
    kin_report_options o = all_parts(m, paths);
    assert_int_equal(kin_report_write(m->context, &o), KIN_OK);
    assert_int_equal(access(media_path(m, "loss.png"), F_OK), 0);
    char *page = (char *)media_read(paths[0], &size);
    static const char *const present[] = {
        "<title>T &lt;1&gt; &amp; &quot;2&quot;</title>", "a &lt;note&gt;", "&lt;fast&gt;",
        "plan of a step</th><td>12 nodes &amp; more", "&lt;nowhere&gt;.csv",
        /* 4 clips: 3 colours, 3 directions, 2 both, whatever the file's totals say */
        "<tr><th>all</th><td>4</td><td>75.0 %<small>3</small></td><td>75.0 %<small>3</small></td>"
        "<td>50.0 %<small>2</small></td></tr>",
        "<tr><th>seed 1</th><td>2</td><td>100.0 %",
        "<tr><th>seed 2</th><td>2</td><td>50.0 %<small>1</small></td><td>50.0 %<small>1</small>"
        "</td><td>0.0 %",
        "2 of 4 clips went wrong",
        "a blue square moving down</td><td>blue</td><td class=\"wrong\">none",
        "a &lt;b&gt;cyan&lt;/b&gt; cyan circle &amp; left</td><td class=\"wrong\">red",
        "Sampler: ddim, 20 steps, guidance 4.", "src=\"data:video/mp4;base64,AAAAGGZ0eXBpc29t",
        "src=\"data:image/png;base64,iVBORw0KGgo", "40 steps in 0:19 minutes", "</html>"};
    for (size_t i = 0; i < sizeof present / sizeof *present; i++)
        if (!strstr(page, present[i])) fail_msg("the page lacks: %s", present[i]);
    /* nothing from outside, no tag from the inputs, nothing left out by halves */
    static const char *const absent[] = {"http:",     "https:", "src=\"/",   "<script", "<b>cyan",
                                         "<nowhere>", "<fast>", "plan: old", "nan"};
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++)
        if (strstr(page, absent[i])) fail_msg("the page has: %s", absent[i]);
    free(page);
}

/* Each part missing or wrong in turn: an error that names it, and no page. */
static void bad_inputs(void **state) {
    media *m = *state;
    char paths[6][2 * MEDIA_PATH];
    make_parts(m);
    for (int part = 0; part < 4; part++) {
        kin_report_options o = all_parts(m, paths);
        kin_report_list *lists[] = {&o.runs, &o.evals, &o.sheets, &o.videos};
        unlink(paths[0]);
        lists[part]->items[0] = paths[5];
        kin_status status = kin_report_write(m->context, &o);
        assert_int_not_equal(status, KIN_OK);
        assert_non_null(strstr(kin_context_error(m->context), "none"));
        assert_int_not_equal(access(paths[0], F_OK), 0);
        if (part == 0) continue;
        lists[part]->items[0] = part == 1 ? "run/config.json" : paths[2]; /* of another kind */
        if (part == 1) lists[part]->items[0] = media_path(m, "run/config.json");
        assert_int_equal(kin_report_write(m->context, &o), KIN_FORMAT);
        assert_int_not_equal(access(paths[0], F_OK), 0);
    }
    kin_report_options o = all_parts(m, paths);
    write_text(media_path(m, "run/metrics.jsonl"), "{\"step\": 2, \"loss\": 1}\n{\"loss\": 1}\n");
    assert_int_equal(kin_report_write(m->context, &o), KIN_FORMAT);
    assert_non_null(strstr(kin_context_error(m->context), "line 2"));
    write_text(media_path(m, "run/metrics.jsonl"), "");
    assert_int_equal(kin_report_write(m->context, &o), KIN_FORMAT);
    write_text(media_path(m, "run/metrics.jsonl"), "{\"step\": 2, \"loss\": null}\n");
    assert_int_equal(kin_report_write(m->context, &o), KIN_INVALID);
}

static kin_status write_page(kin_context *context, const media *m) {
    char paths[6][2 * MEDIA_PATH];
    kin_report_options o = all_parts(m, paths);
    o.runs.count = o.videos.count =
        0; /* the curve is starved by itself; FFmpeg has its own memory */
    return kin_report_write(context, &o);
}

static kin_status write_chart(kin_context *context, const media *m) {
    return draw(context, media_path(m, "memory.png"), 1);
}

static void out_of_memory(void **state) {
    make_parts(*state);
    assert_true(media_starve(write_page, *state) > 5);
    assert_true(media_starve(write_chart, *state) > 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(ticks),        cmocka_unit_test(glyphs),
                                       cmocka_unit_test(chart),        cmocka_unit_test(escaping),
                                       cmocka_unit_test(page_of_all),  cmocka_unit_test(bad_inputs),
                                       cmocka_unit_test(out_of_memory)};
    return cmocka_run_group_tests(tests, media_setup, media_teardown);
}

#else

static void says_unsupported(void **state) {
    media *m = *state;
    double one = 1;
    const kin_plot_series series = {"x", &one, &one, 1, {0, 0, 0}, 1, 0};
    const kin_plot_panel panel = {"x", "x", false, &series, 1};
    assert_int_equal(kin_plot_write(m->context, "x.png", &panel, 1), KIN_UNSUPPORTED);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(says_unsupported)};
    return cmocka_run_group_tests(tests, media_setup, media_teardown);
}

#endif
