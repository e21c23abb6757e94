/* Which clips make up each batch of a training run, and in which shape. Everything is a function of
 * the seed, the data set and the number of the batch, so that a resumed run needs no state; and all
 * of it is known before the first step: every shape, and every clip that is needed in it. */
#ifndef KIN_TOOLS_TRAIN_ORDER_H
#define KIN_TOOLS_TRAIN_ORDER_H

#include <jansson.h>

#include "tools/data/dataset.h"

typedef struct kin_train_order_options {
    uint64_t seed;
    int64_t batch; /* clips of a batch, of all ranks together */
    int64_t ranks; /* that batch sizes of buckets are multiplied by; 0: 1 */
    int64_t
        micro_steps; /* batches of an optimizer step: the ranks of Open-Sora-Plan's megabatches */
    kin_clip_shape clip; /* of every clip, unless there are buckets */
    int64_t images;      /* pictures beside each clip, from image rows or else from other clips */
    /* Open-Sora 1.1: {resolution: {frames: [probability, batch size]}}; NULL: none */
    const json_t *buckets;
    const char *where; /* names the buckets in messages */
    int64_t interval;  /* frames of a file per frame of a clip, which decides the bucket */
    bool fill_buckets; /* short last batches are filled with repeats, not left out */
    /* Open-Sora-Plan: clips have lengths of their own, up to clip.frames */
    bool lengths;
    int64_t time_factor;    /* frames for a latent frame */
    int64_t frame_multiple; /* of which numbers of latent frames are multiples */
    bool group_frame;       /* one length in each batch; else batches of several are padded */
    double drop_short;      /* probability that a row with fewer frames is left out */
} kin_train_order_options;

/* A batch's sizes. */
typedef struct kin_train_shape {
    kin_clip_shape clip;
    int64_t batch;
    bool padded; /* clips may be shorter than clip.frames */
} kin_train_shape;

typedef struct kin_train_batch {
    int shape;
    const int64_t *rows;   /* [batch] of the data set */
    const int64_t *images; /* [batch * images]; NULL without */
} kin_train_batch;

typedef struct kin_train_order kin_train_order;

/* Plans the first `total` batches. Files whose size the CSV does not say are looked at; those that
 * cannot be read are told and left out. KIN_INVALID if no whole batch can be made. */
kin_status kin_train_order_open(kin_context *context, kin_dataset *dataset,
                                const kin_train_order_options *options, int64_t total,
                                kin_train_order **out_order);
void kin_train_order_close(kin_train_order *order);
int kin_train_order_shapes(const kin_train_order *order);
const kin_train_shape *kin_train_order_shape(const kin_train_order *order, int shape);
/* Batch number `index`, below `total`; valid until the next call. */
kin_status kin_train_order_batch(kin_train_order *order, int64_t index, kin_train_batch *out_batch);

/* Forms in which clips are needed: one for each shape and, with images, a last one of pictures. */
int kin_train_order_forms(const kin_train_order *order);
kin_clip_shape kin_train_order_form(const kin_train_order *order, int form);
/* True if some batch needs the row in that form. */
bool kin_train_order_needs(const kin_train_order *order, int form, int64_t row);
/* Frames of the row that are no padding. */
int64_t kin_train_order_real_frames(const kin_train_order *order, int form, int64_t row);
/* True where all rows have one form, whatever the run's length. */
bool kin_train_order_is_plain(const kin_train_order *order);

#endif
