/* How a small STDiT starts when no published weights are there to start from. */
#ifndef KIN_MODELS_STDIT_START_H
#define KIN_MODELS_STDIT_START_H

#include "models/stdit.h"
#include "runtime/store.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The published start closes the temporal and caption branches (zero projections, gates near zero),
 * because it begins from an image model. From nothing that wastes the first thousands of steps.
 * This opens them, in the weights "PREFIX.*" of a store that has them all:
 *   - Xavier-uniform projections of temporal and cross-attention, of the caption MLP and of the
 *     timestep MLP;
 *   - gates of both branches start at 1;
 *   - in block 0's temporal attention keys equal queries (times KEY_GAIN) and values are larger
 *     (VALUE_GAIN), so that a frame attends to itself: that is the only way by which a token learns
 *     which frame it belongs to;
 *   - captions are louder (CAPTION_GAIN). */
KIN_API kin_status kin_stdit_start_from_nothing(kin_store *store, const char *prefix,
                                                const kin_stdit_config *config, uint64_t seed);

#ifdef __cplusplus
}
#endif
#endif
