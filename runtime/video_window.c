#include "runtime/video_private.h"

#include <math.h>

kin_video_window kin_video_window_make(int source_height, int source_width, int height, int width,
                                       kin_video_resize resize) {
    kin_video_window window = {source_height, source_width, 1.0, 1.0, 0, 0,
                               source_height, source_width};
    if (height <= 0 || width <= 0) return window;
    int short_side = source_height < source_width ? source_height : source_width;
    double down = (double)height / source_height, across = (double)width / source_width;
    double cover = down > across ? down : across;
    double scale = (double)(height < width ? height : width) / short_side;
    /* A clip that is not square cannot always be cut from the scaled one: cover it then. */
    if (resize == KIN_VIDEO_RESIZE_CROP || scale < cover) scale = cover;
    bool fill = resize == KIN_VIDEO_RESIZE_CROP;
    int scaled_height =
        (int)(fill ? rint(source_height * scale) : floor(source_height * scale + 1e-6));
    int scaled_width =
        (int)(fill ? rint(source_width * scale) : floor(source_width * scale + 1e-6));
    if (scaled_height < height) scaled_height = height;
    if (scaled_width < width) scaled_width = width;
    window.scale = fill ? (double)scaled_height / source_height : scale;
    window.scale_across = fill ? (double)scaled_width / source_width : scale;
    window.top = (scaled_height - height) / 2;
    window.left = (scaled_width - width) / 2;
    if (!fill) { /* halves go to the even side */
        window.top = (int)lrint((scaled_height - height) / 2.0);
        window.left = (int)lrint((scaled_width - width) / 2.0);
    }
    window.height = height;
    window.width = width;
    return window;
}

/* The two neighbours of position `index` along an axis and the weight of the second one. */
static void neighbours(int index, double scale, int size, int *out_first, int *out_second,
                       float *out_weight) {
    double place = (index + 0.5) / scale - 0.5;
    if (place < 0) place = 0;
    int first = (int)place;
    if (first > size - 1) first = size - 1;
    *out_first = first;
    *out_second = first + 1 < size ? first + 1 : first;
    *out_weight = (float)(place - first);
}

void kin_video_window_apply(const kin_video_window *window, const uint8_t *source, ptrdiff_t stride,
                            float *target) {
    const ptrdiff_t plane = (ptrdiff_t)window->height * window->width;
    for (int y = 0; y < window->height; ++y) {
        int up, below;
        float weight_y;
        neighbours(y + window->top, window->scale, window->source_height, &up, &below, &weight_y);
        const uint8_t *row_0 = source + up * stride, *row_1 = source + below * stride;
        float *out = target + (ptrdiff_t)y * window->width;
        for (int x = 0; x < window->width; ++x) {
            int left, right;
            float weight_x;
            neighbours(x + window->left, window->scale_across, window->source_width, &left, &right,
                       &weight_x);
            for (int c = 0; c < 3; ++c) {
                float a = row_0[3 * left + c], b = row_0[3 * right + c];
                float d = row_1[3 * left + c], e = row_1[3 * right + c];
                float top = a + (b - a) * weight_x, bottom = d + (e - d) * weight_x;
                float value = top + (bottom - top) * weight_y;
                out[c * plane + x] = (value / 255.0f - 0.5f) / 0.5f;
            }
        }
    }
}
