/* Line charts. */
#include "tools/report/plot.h"

#include "runtime/image.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Around the field in which the lines are drawn. */
enum { LEFT = 92, RIGHT = 24, TOP = 44, BOTTOM = 52, TEXT_SCALE = 2, MAX_TICKS = 24 };

static const uint8_t ink[3] = {40, 44, 52}, pale[3] = {226, 229, 234}, paper[3] = {255, 255, 255};

typedef struct canvas {
    uint8_t *pixels;
    int height; /* of all; the width is KIN_PLOT_WIDTH */
} canvas;

/* The field of one chart: pixels, and the values at its edges (logarithms on a log axis). */
typedef struct field {
    int x0, x1, y0, y1; /* y0 is the upper edge */
    double x_low, x_high, y_low, y_high;
    bool log_y;
} field;

/* ---- marks ---- */

static void blend(canvas *c, int x, int y, const uint8_t rgb[3], double cover) {
    if (x < 0 || y < 0 || x >= KIN_PLOT_WIDTH || y >= c->height || cover <= 0) return;
    uint8_t *pixel = c->pixels + ((size_t)y * KIN_PLOT_WIDTH + (size_t)x) * 3;
    if (cover > 1) cover = 1;
    for (int i = 0; i < 3; i++) pixel[i] = (uint8_t)lrint(pixel[i] + (rgb[i] - pixel[i]) * cover);
}

static void fill(canvas *c, int x, int y, int width, int height, const uint8_t rgb[3]) {
    for (int j = 0; j < height; j++)
        for (int i = 0; i < width; i++) blend(c, x + i, y + j, rgb, 1);
}

static int text_width(const char *text) {
    return (int)strlen(text) * 6 * TEXT_SCALE - TEXT_SCALE;
}

static void draw_text(canvas *c, int x, int y, const char *text, const uint8_t rgb[3]) {
    for (; *text; text++, x += 6 * TEXT_SCALE) {
        const uint8_t *rows = kin_plot_glyph(*text);
        for (int j = 0; j < 7; j++)
            for (int i = 0; i < 5; i++)
                if (rows[j] >> (4 - i) & 1)
                    fill(c, x + i * TEXT_SCALE, y + j * TEXT_SCALE, TEXT_SCALE, TEXT_SCALE, rgb);
    }
}

/* A pixel is covered as far as its centre lies within half the thickness of the segment, with a
 * soft edge of one pixel. Stays in the field. */
static void draw_segment(canvas *c, const field *f, const double from[2], const double to[2],
                         const kin_plot_series *s) {
    double dx = to[0] - from[0], dy = to[1] - from[1], length = dx * dx + dy * dy;
    double reach = s->thickness / 2 + 1;
    int left = (int)floor(fmax(fmin(from[0], to[0]) - reach, f->x0));
    int right = (int)ceil(fmin(fmax(from[0], to[0]) + reach, f->x1));
    int top = (int)floor(fmax(fmin(from[1], to[1]) - reach, f->y0));
    int bottom = (int)ceil(fmin(fmax(from[1], to[1]) + reach, f->y1));
    for (int y = top; y <= bottom; y++)
        for (int x = left; x <= right; x++) {
            double px = x - from[0], py = y - from[1];
            double along = length > 0 ? (px * dx + py * dy) / length : 0;
            along = along < 0 ? 0 : along > 1 ? 1 : along;
            double distance = hypot(px - along * dx, py - along * dy);
            blend(c, x, y, s->rgb, s->thickness / 2 + 0.5 - distance);
        }
}

/* ---- values ---- */

static bool usable(const kin_plot_series *s, size_t i, bool log_y) {
    return isfinite(s->x[i]) && isfinite(s->y[i]) && (!log_y || s->y[i] > 0);
}

/* The value to draw at point i: a logarithm on a log axis. */
static double value_at(const kin_plot_series *s, size_t i, bool log_y) {
    if (!s->smooth) return log_y ? log10(s->y[i]) : s->y[i];
    size_t span = (size_t)s->smooth, first = i > span ? i - span : 0;
    size_t last = s->count - i > span ? i + span : s->count - 1;
    double sum = 0, count = 0;
    for (size_t k = first; k <= last; k++)
        if (usable(s, k, log_y)) sum += log_y ? log10(s->y[k]) : s->y[k], count++;
    return sum / count; /* point i itself is usable */
}

static bool find_range(const kin_plot_panel *panel, field *f) {
    f->x_low = f->y_low = INFINITY;
    f->x_high = f->y_high = -INFINITY;
    for (size_t k = 0; k < panel->count; k++) {
        const kin_plot_series *s = &panel->series[k];
        for (size_t i = 0; i < s->count; i++) {
            if (!usable(s, i, panel->log_y)) continue;
            double y = panel->log_y ? log10(s->y[i]) : s->y[i];
            f->x_low = fmin(f->x_low, s->x[i]);
            f->x_high = fmax(f->x_high, s->x[i]);
            f->y_low = fmin(f->y_low, y);
            f->y_high = fmax(f->y_high, y);
        }
    }
    if (f->x_low > f->x_high) return false;
    if (f->x_low == f->x_high) f->x_low -= 0.5, f->x_high += 0.5;
    double room = 0.04 * (f->y_high - f->y_low);
    if (room == 0) room = f->log_y ? 0.1 : fabs(f->y_low) > 0 ? 0.1 * fabs(f->y_low) : 1;
    f->y_low -= room;
    f->y_high += room;
    return true;
}

static double place_x(const field *f, double x) {
    return f->x0 + (x - f->x_low) / (f->x_high - f->x_low) * (f->x1 - f->x0);
}

static double place_y(const field *f, double y) {
    return f->y1 - (y - f->y_low) / (f->y_high - f->y_low) * (f->y1 - f->y0);
}

/* ---- ticks ---- */

size_t kin_plot_ticks(double low, double high, bool log, double *out_ticks, size_t capacity) {
    size_t count = 0;
    if (log) {
        static const int folds[] = {1, 2, 5};
        double decades = log10(high) - log10(low);
        int step = decades > 8 ? (int)ceil(decades / 8) : 1, used = decades > 3 ? 1 : 3;
        for (int p = (int)floor(log10(low)); p <= log10(high); p += step)
            for (int k = 0; k < used; k++) {
                double tick = folds[k] * pow(10, p);
                if (tick >= low && tick <= high && count < capacity) out_ticks[count++] = tick;
            }
        if (count >= 2) return count;
        count = 0; /* less than a decade between: as on a linear axis */
    }
    double rough = (high - low) / 6, power = pow(10, floor(log10(rough))), part = rough / power;
    double step = power * (part <= 1 ? 1 : part <= 2 ? 2 : part <= 5 ? 5 : 10);
    for (double k = ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++)
        if (count < capacity) out_ticks[count++] = k == 0 ? 0 : k * step;
    return count;
}

static void draw_axes(canvas *c, const field *f, const kin_plot_panel *panel) {
    double ticks[MAX_TICKS];
    char text[32];
    double low = panel->log_y ? pow(10, f->y_low) : f->y_low;
    double high = panel->log_y ? pow(10, f->y_high) : f->y_high;
    size_t count = kin_plot_ticks(low, high, panel->log_y, ticks, MAX_TICKS);
    for (size_t i = 0; i < count; i++) {
        int y = (int)lrint(place_y(f, panel->log_y ? log10(ticks[i]) : ticks[i]));
        fill(c, f->x0, y, f->x1 - f->x0, 1, pale);
        snprintf(text, sizeof text, "%.4g", ticks[i]);
        draw_text(c, f->x0 - 8 - text_width(text), y - 7, text, ink);
    }
    count = kin_plot_ticks(f->x_low, f->x_high, false, ticks, MAX_TICKS);
    for (size_t i = 0; i < count; i++) {
        int x = (int)lrint(place_x(f, ticks[i])), from = 0;
        fill(c, x, f->y0, 1, f->y1 - f->y0, pale);
        fill(c, x, f->y1, 1, 5, ink);
        snprintf(text, sizeof text, "%.7g", ticks[i]);
        from = x - text_width(text) / 2;
        if (from + text_width(text) > KIN_PLOT_WIDTH - 4)
            from = KIN_PLOT_WIDTH - 4 - text_width(text);
        draw_text(c, from, f->y1 + 9, text, ink);
    }
    fill(c, f->x0, f->y0, 1, f->y1 - f->y0, ink);
    fill(c, f->x0, f->y1, f->x1 - f->x0, 1, ink);
    draw_text(c, f->x0, f->y0 - 28, panel->title, ink);
    draw_text(c, (f->x0 + f->x1 - text_width(panel->x_label)) / 2, f->y1 + 31, panel->x_label, ink);
}

/* From the right, on the title's line. */
static void draw_legend(canvas *c, const field *f, const kin_plot_panel *panel) {
    int x = f->x1;
    for (size_t k = panel->count; k-- > 0;) {
        const kin_plot_series *s = &panel->series[k];
        if (!s->label) continue;
        x -= text_width(s->label);
        draw_text(c, x, f->y0 - 28, s->label, ink);
        x -= 26;
        fill(c, x, f->y0 - 23, 18, 4, s->rgb);
        x -= 20;
    }
}

static void draw_series(canvas *c, const field *f, const kin_plot_series *s) {
    double before[2] = {0, 0};
    bool joined = false; /* a point that is left out breaks the line */
    for (size_t i = 0; i < s->count; i++) {
        if (!usable(s, i, f->log_y)) {
            joined = false;
            continue;
        }
        double now[2] = {place_x(f, s->x[i]), place_y(f, value_at(s, i, f->log_y))};
        draw_segment(c, f, joined ? before : now, now, s);
        memcpy(before, now, sizeof before);
        joined = true;
    }
}

static kin_status draw_panel(kin_context *context, canvas *c, const kin_plot_panel *panel,
                             int top) {
    field f = {.x0 = LEFT,
               .x1 = KIN_PLOT_WIDTH - RIGHT,
               .y0 = top + TOP,
               .y1 = top + KIN_PLOT_PANEL_HEIGHT - BOTTOM,
               .log_y = panel->log_y};
    if (!find_range(panel, &f))
        return kin_fail(context, KIN_INVALID, "chart \"%s\": no value that can be drawn",
                        panel->title);
    draw_axes(c, &f, panel);
    draw_legend(c, &f, panel);
    for (size_t k = 0; k < panel->count; k++) draw_series(c, &f, &panel->series[k]);
    return KIN_OK;
}

kin_status kin_plot_write(kin_context *context, const char *path, const kin_plot_panel *panels,
                          size_t count) {
    if (count < 1 || count > 64)
        return kin_fail(context, KIN_INVALID, "%s: %zu charts; 1 to 64 are possible", path, count);
    canvas c = {.height = (int)count * KIN_PLOT_PANEL_HEIGHT};
    c.pixels = kin_alloc(context, (size_t)KIN_PLOT_WIDTH * (size_t)c.height * 3);
    if (!c.pixels) return KIN_OUT_OF_MEMORY;
    fill(&c, 0, 0, KIN_PLOT_WIDTH, c.height, paper);
    kin_status status = KIN_OK;
    for (size_t i = 0; status == KIN_OK && i < count; i++)
        status = draw_panel(context, &c, &panels[i], (int)i * KIN_PLOT_PANEL_HEIGHT);
    if (status == KIN_OK)
        status = kin_image_write_png(context, path, c.pixels, c.height, KIN_PLOT_WIDTH, NULL, 0);
    kin_free(context, c.pixels);
    return status;
}
