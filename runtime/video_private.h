/* What the two halves of runtime/video*.c share. Not installed. */
#ifndef KIN_RUNTIME_VIDEO_PRIVATE_H
#define KIN_RUNTIME_VIDEO_PRIVATE_H

#include "runtime/video.h"

/* One frame resampled: source is interleaved RGB bytes with `stride` bytes a row, target is
 * (3, height, width) in -1..1. Scaled by `scale` down and `scale_across`, of which the window at
 * (top, left) is made. */
typedef struct kin_video_window {
    int source_height, source_width;
    double scale, scale_across;
    int top, left, height, width;
} kin_video_window;

/* The window for the options; height and width 0 keep the source's. */
kin_video_window kin_video_window_make(int source_height, int source_width, int height, int width,
                                       kin_video_resize resize);
void kin_video_window_apply(const kin_video_window *window, const uint8_t *source, ptrdiff_t stride,
                            float *target);

#endif
