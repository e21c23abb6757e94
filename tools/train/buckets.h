/* Open-Sora 1.1's buckets: which size, length and batch a video of any size is trained in. */
#ifndef KIN_TOOLS_BUCKETS_H
#define KIN_TOOLS_BUCKETS_H

#include <jansson.h>

#include "runtime/context.h"

typedef struct kin_bucket_size {
    double ratio; /* height / width, as the table's key rounds it */
    int height, width;
} kin_bucket_size;

typedef struct kin_bucket_resolution {
    const char *name; /* "144p", "512", ... */
    int64_t pixels;
    const kin_bucket_size *sizes;
    size_t size_count;
} kin_bucket_resolution;

/* In the original's order. */
extern const kin_bucket_resolution kin_bucket_resolutions[];
extern const int kin_bucket_resolution_count;

typedef struct kin_buckets kin_buckets;

/* Reads {resolution: {frames: [probability to keep, batch size or null]}}. A resolution is a name
 * of the table or, ours, one size of one's own, "256x448" (height first). KIN_INVALID for another
 * name (the nearest is told), and for values out of range. The object must live as long as the
 * buckets.
 */
kin_status kin_buckets_parse(kin_context *context, const json_t *json, const char *where,
                             kin_buckets **out_buckets);
void kin_buckets_free(kin_buckets *buckets);
/* Buckets: resolutions times frame counts times aspect ratios. */
size_t kin_buckets_count(const kin_buckets *buckets);

typedef struct kin_bucket {
    int resolution; /* index into kin_bucket_resolutions; from their count on: sizes of one's own */
    int frames;
    int ratio; /* index into the resolution's sizes */
    int height, width;
    int batch_size; /* 0: the configuration says null */
} kin_bucket;

/* A number in [0, 1) for the entry of that index: resolutions from most to fewest pixels, within
 * them frame counts from most to fewest. Asked for only where a probability is between 0 and 1. */
typedef double (*kin_bucket_draw)(void *user, size_t entry);

/* What the original's draw depends on; a kin_bucket_draw whose `user` is one of these gives the
 * original's numbers: numpy's default_rng(seed + epoch + sample * buckets + entry).random(). */
typedef struct kin_bucket_draws {
    uint64_t seed, epoch, sample, buckets; /* buckets: kin_buckets_count */
} kin_bucket_draws;

double kin_bucket_draw_numpy(void *user, size_t entry);
/* The first number of numpy's default_rng(seed): PCG64 (O'Neill 2014, pcg-random.org) from numpy's
 * SeedSequence. */
double kin_numpy_first_uniform(uint64_t seed);

/* The bucket of a video of `frames` x height x width, of which every frame_interval-th frame is
 * used; frames 1 is an image. false: it fits nowhere and is dropped. */
bool kin_buckets_find(const kin_buckets *buckets, int64_t frames, int64_t height, int64_t width,
                      int frame_interval, kin_bucket_draw draw, void *user, kin_bucket *out_bucket);

#endif
