/* Line charts, drawn into an RGB buffer by code of our own and written as PNG. */
#ifndef KIN_TOOLS_PLOT_H
#define KIN_TOOLS_PLOT_H

#include "runtime/context.h"

enum { KIN_PLOT_WIDTH = 960, KIN_PLOT_PANEL_HEIGHT = 360 };

/* One line. Points that are not finite, or not above 0 on a log axis, are left out. x must not
 * descend. */
typedef struct kin_plot_series {
    const char *label; /* NULL: not in the legend */
    const double *x, *y;
    size_t count;
    uint8_t rgb[3];
    double thickness; /* pixels */
    int smooth;       /* 0: as it is; else each point is the mean (of logarithms on a log axis) of
                         up to so many points on either side */
} kin_plot_series;

/* One chart. Text is ASCII; small letters are drawn as capitals. */
typedef struct kin_plot_panel {
    const char *title, *x_label;
    bool log_y;
    const kin_plot_series *series; /* drawn in this order */
    size_t count;
} kin_plot_panel;

/* Writes the charts below each other: KIN_PLOT_WIDTH times count * KIN_PLOT_PANEL_HEIGHT pixels.
 * KIN_INVALID if a chart has no point that can be drawn; else as kin_image_write_png. */
kin_status kin_plot_write(kin_context *context, const char *path, const kin_plot_panel *panels,
                          size_t count);

/* Ticks within low..high (low < high) at round numbers, at most `capacity`: on a linear axis 1, 2
 * or 5 times a power of ten apart, on a log axis powers of ten, and their 2 and 5 fold where few
 * powers are in reach. */
size_t kin_plot_ticks(double low, double high, bool log, double *out_ticks, size_t capacity);

/* Rows of a glyph of 5 x 7 pixels, the uppermost first, bit 4 to the left (tools/report/plot_font.c).
 * Characters that the font lacks are a frame. */
const uint8_t *kin_plot_glyph(char character);

#endif
