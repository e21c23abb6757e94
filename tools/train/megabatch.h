/* Open-Sora-Plan 1.2's order of training samples: every step's batches, one a rank, hold samples of
 * like length. */
#ifndef KIN_TOOLS_MEGABATCH_H
#define KIN_TOOLS_MEGABATCH_H

#include "runtime/context.h"

typedef struct kin_megabatch_options {
    int64_t batch_size, world_size; /* samples in a batch; batches, one a rank, in a step */
    bool group_frame;               /* sort by length, and one length in each batch */
    uint64_t seed;                  /* of PyTorch's CPU generator; 42 in the original */
} kin_megabatch_options;

/* A number below `count`. The original takes Python's random.choice, unseeded. */
typedef size_t (*kin_megabatch_choose)(void *user, size_t count);

/* The order in which `count` samples of the given lengths (frames) are trained; batch_size of them
 * in a row are one batch, world_size batches one step. The last step is filled up with repeats, so
 * *out_count is a multiple of batch_size * world_size. The caller frees *out_indices with kin_free.
 */
kin_status kin_megabatch_order(kin_context *context, const int64_t *lengths, size_t count,
                               const kin_megabatch_options *options, kin_megabatch_choose choose,
                               void *user, int64_t **out_indices, size_t *out_count);

#endif
