#include "tools/generate/picture_resize.h"

#include <math.h>
#include <string.h>

enum { WEIGHT_BITS = 22, CHANNELS = 3 };

/* What one place along the new axis takes: `count` neighbours from `first` on. */
typedef struct stretch {
    int first, count;
} stretch;

/* The weights of all places of an axis: `room` numbers for each. */
typedef struct axis {
    int size, new_size, room;
    stretch *places;
    int32_t *weights;
} axis;

static double cubic(double x) {
    const double a = -0.5;
    x = fabs(x);
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    return x < 2 ? ((x - 5) * x + 8) * x * a - 4 * a : 0;
}

static void axis_free(kin_context *context, axis *a) {
    kin_free(context, a->places);
    kin_free(context, a->weights);
}

static kin_status axis_make(kin_context *context, int size, int new_size, axis *out) {
    const double step = (double)size / new_size, wide = step > 1 ? step : 1, support = 2 * wide;
    *out = (axis){size, new_size, 2 * (int)ceil(support) + 1, NULL, NULL};
    size_t count = (size_t)out->room;
    double *row = kin_alloc(context, count * sizeof *row);
    out->places = kin_alloc(context, (size_t)new_size * sizeof *out->places);
    out->weights = kin_calloc(context, (size_t)new_size * count, sizeof *out->weights);
    bool good = row && out->places && out->weights;
    for (int i = 0; good && i < new_size; i++) {
        double centre = (i + 0.5) * step, sum = 0;
        int first = (int)(centre - support + 0.5), end = (int)(centre + support + 0.5);
        if (first < 0) first = 0;
        if (end > size) end = size;
        for (int k = first; k < end; k++) {
            row[k - first] = cubic((k - centre + 0.5) / wide);
            sum += row[k - first];
        }
        out->places[i] = (stretch){first, end - first};
        for (int k = 0; k < end - first; k++) {
            double weight = (sum != 0 ? row[k] / sum : row[k]) * (1 << WEIGHT_BITS);
            out->weights[(size_t)i * count + (size_t)k] = (int32_t)(weight + copysign(0.5, weight));
        }
    }
    kin_free(context, row);
    if (good) return KIN_OK;
    axis_free(context, out);
    return KIN_OUT_OF_MEMORY;
}

/* One byte from neighbours that lie `stride` bytes apart. */
static uint8_t blend(const uint8_t *from, size_t stride, const int32_t *weights, int count) {
    int64_t sum = INT64_C(1) << (WEIGHT_BITS - 1);
    for (int k = 0; k < count; k++) sum += (int64_t)from[(size_t)k * stride] * weights[k];
    sum >>= WEIGHT_BITS;
    return (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

static void across(const axis *a, const uint8_t *pixels, int height, uint8_t *out) {
    for (int y = 0; y < height; y++)
        for (int x = 0; x < a->new_size; x++) {
            const uint8_t *from =
                pixels + ((size_t)y * (size_t)a->size + (size_t)a->places[x].first) * CHANNELS;
            for (int c = 0; c < CHANNELS; c++)
                *out++ = blend(from + c, CHANNELS, a->weights + (size_t)x * (size_t)a->room,
                               a->places[x].count);
        }
}

static void down(const axis *a, const uint8_t *pixels, int width, uint8_t *out) {
    const size_t row = (size_t)width * CHANNELS;
    for (int y = 0; y < a->new_size; y++) {
        const uint8_t *from = pixels + (size_t)a->places[y].first * row;
        for (size_t x = 0; x < row; x++)
            *out++ =
                blend(from + x, row, a->weights + (size_t)y * (size_t)a->room, a->places[y].count);
    }
}

kin_status kin_picture_resize(kin_context *context, const uint8_t *pixels, int height, int width,
                              int new_height, int new_width, uint8_t *out_pixels) {
    axis columns = {0}, rows = {0};
    uint8_t *between = kin_alloc(context, (size_t)height * (size_t)new_width * CHANNELS);
    kin_status status = between ? KIN_OK : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK) status = axis_make(context, width, new_width, &columns);
    if (status == KIN_OK) status = axis_make(context, height, new_height, &rows);
    if (status == KIN_OK) { /* an axis that keeps its size is copied: its weights are 1 and 0 */
        across(&columns, pixels, height, between);
        down(&rows, between, new_width, out_pixels);
    }
    axis_free(context, &columns);
    axis_free(context, &rows);
    kin_free(context, between);
    return status;
}
