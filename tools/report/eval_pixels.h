/* Decides from a clip's pixels alone which of the demo's colours moves in which direction. */
#ifndef KIN_TOOLS_EVAL_PIXELS_H
#define KIN_TOOLS_EVAL_PIXELS_H

#include "runtime/context.h"
#include "runtime/tensor.h"

typedef struct kin_pixel_verdict {
    int colour;    /* index as in tools/data/synth.h, or -1: no clear colour */
    int direction; /* the same, or -1: no clear way along one axis */
    float colour_confidence, direction_confidence; /* 0..1 */
    float confidence;                              /* their product */
    int frames;                                    /* with a coloured region */
    float area;                                    /* its mean size in pixels */
    float path_x, path_y; /* fitted way from the first to the last frame, pixels; y is down */
} kin_pixel_verdict;

/* clip is (3, T, Y, X) f32 in -1..1. In each frame the largest 4-connected region counts whose
 * pixels are colourful and far from the background (the frame's median colour). Its median colour
 * votes for the nearest palette colour: three quarters of the votes decide. A line is fitted
 * through its centroids by least squares: the direction is the axis along which it goes at least an
 * eighth of the picture and 1.5 times as far as along the other. Three quarters of the frames must
 * have a region. */
kin_status kin_eval_pixels(kin_context *context, const kin_host_tensor *clip,
                           kin_pixel_verdict *out_verdict);

#endif
