/* Sine and cosine tables that tell a transformer's tokens their places. They depend on nothing but
 * sizes, so they are computed on the host, in double, and are constants of the graph. */
#ifndef KIN_MODELS_POSITIONS_H
#define KIN_MODELS_POSITIONS_H

#include "models/layers.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A grid of places: [1, 1, rows * columns, width], the sines and then the cosines of
 * column * column_step * w_k, then those of row * row_step * w_k; w_k = 10000^(-k / (width / 4)),
 * k < width / 4. The column comes first, as in DiT's and PixArt's code. */
KIN_API kin_tensor kin_positions_grid(kin_graph *graph, const kin_precision *precision,
                                      int64_t width, int64_t rows, int64_t columns, double row_step,
                                      double column_step);
/* Frames: [1, frames, 1, width], the sines and then the cosines of frame * step * w_k with
 * w_k = 10000^(-k / (width / 2)). */
KIN_API kin_tensor kin_positions_frames(kin_graph *graph, const kin_precision *precision,
                                        int64_t width, int64_t frames, double step);
/* 0, 1, .., frames - 1 in f32 [frames], for kin_rope. */
KIN_API kin_tensor kin_positions_index(kin_graph *graph, int64_t frames);

#ifdef __cplusplus
}
#endif
#endif
