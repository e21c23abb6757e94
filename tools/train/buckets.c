#include "tools/train/buckets.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/json.h"

typedef struct entry {
    int resolution, frames, batch_size;
    double keep;
    int64_t pixels; /* of the resolution, for sorting */
} entry;

/* A resolution that is no name of the table but one size: "64x96". */
typedef struct own_size {
    kin_bucket_size size;
    kin_bucket_resolution resolution;
} own_size;

struct kin_buckets {
    kin_context *context;
    entry *entries; /* most pixels first, then most frames */
    size_t count;
    own_size *own;
    int own_count;
};

void kin_buckets_free(kin_buckets *buckets) {
    if (!buckets) return;
    kin_free(buckets->context, buckets->entries);
    kin_free(buckets->context, buckets->own);
    kin_free(buckets->context, buckets);
}

static int compare(const void *a, const void *b) {
    const entry *x = a, *y = b;
    if (x->pixels != y->pixels) return x->pixels < y->pixels ? 1 : -1;
    if (x->resolution != y->resolution) return x->resolution < y->resolution ? -1 : 1;
    return (y->frames > x->frames) - (y->frames < x->frames);
}

static const kin_bucket_resolution *resolution_at(const kin_buckets *b, int index) {
    int known = kin_bucket_resolution_count;
    return index < known ? &kin_bucket_resolutions[index] : &b->own[index - known].resolution;
}

/* "HEIGHTxWIDTH" */
static bool parse_size(const char *name, int *out_height, int *out_width) {
    enum { MAX_SIDE = 1 << 15 };
    char *end;
    long height = strtol(name, &end, 10);
    if (*end != 'x' || end[1] < '0' || end[1] > '9') return false;
    long width = strtol(end + 1, &end, 10);
    if (*end || height < 1 || width < 1 || height > MAX_SIDE || width > MAX_SIDE) return false;
    *out_height = (int)height;
    *out_width = (int)width;
    return true;
}

/* Index of a resolution by its name; -1: unknown. b->own has room for one more. */
static int find_resolution(kin_buckets *b, const char *name) {
    int height, width;
    for (int i = 0; i < kin_bucket_resolution_count; i++)
        if (strcmp(kin_bucket_resolutions[i].name, name) == 0) return i;
    if (!parse_size(name, &height, &width)) return -1;
    own_size *own = &b->own[b->own_count];
    own->size = (kin_bucket_size){(double)height / width, height, width};
    own->resolution = (kin_bucket_resolution){name, (int64_t)height * width, &own->size, 1};
    return kin_bucket_resolution_count + b->own_count++;
}

static kin_status unknown_resolution(kin_context *context, const char *where, const char *name) {
    const char *names[16];
    size_t count = 0;
    for (int i = 0; i < kin_bucket_resolution_count && count < 16; i++)
        names[count++] = kin_bucket_resolutions[i].name;
    const char *nearest = kin_nearest_name(name, names, count);
    return kin_fail(context, KIN_INVALID,
                    "%s: unknown resolution '%s'; did you mean '%s'? (or a size of one's own, "
                    "such as \"256x448\", height first)",
                    where, name, nearest ? nearest : names[0]);
}

static kin_status add(kin_buckets *b, const char *where, int resolution, const char *frames,
                      const json_t *pair) {
    enum { MAX_FRAMES = 1 << 20 };
    const kin_bucket_resolution *r = resolution_at(b, resolution);
    const char *name = r->name;
    char *end;
    long count = strtol(frames, &end, 10);
    const json_t *keep = json_array_get(pair, 0), *batch = json_array_get(pair, 1);
    if (*end || count < 1 || count > MAX_FRAMES)
        return kin_fail(b->context, KIN_INVALID, "%s: %s: '%s' is no number of frames", where, name,
                        frames);
    if (json_array_size(pair) != 2 || !json_is_number(keep) ||
        !(json_is_null(batch) || json_is_integer(batch)))
        return kin_fail(b->context, KIN_INVALID,
                        "%s: %s: %s must be [probability, batch size or null]", where, name,
                        frames);
    double probability = json_number_value(keep);
    json_int_t size = json_is_null(batch) ? 0 : json_integer_value(batch);
    if (!(probability >= 0 && probability <= 1) || size < 0 || size > 1 << 20)
        return kin_fail(b->context, KIN_INVALID, "%s: %s: %s: values out of range", where, name,
                        frames);
    b->entries[b->count++] = (entry){resolution, (int)count, (int)size, probability, r->pixels};
    return KIN_OK;
}

kin_status kin_buckets_parse(kin_context *context, const json_t *json, const char *where,
                             kin_buckets **out_buckets) {
    *out_buckets = NULL;
    size_t total = 0;
    const char *name, *frames;
    const json_t *lengths, *pair;
    json_object_foreach((json_t *)json, name, lengths) total += json_object_size(lengths);
    if (total == 0)
        return kin_fail(context, KIN_INVALID,
                        "%s: buckets are {resolution: {frames: [probability, batch size]}}", where);
    kin_buckets *b = kin_calloc(context, 1, sizeof *b);
    if (!b) return KIN_OUT_OF_MEMORY;
    b->context = context;
    b->entries = kin_calloc(context, total, sizeof *b->entries);
    b->own = kin_calloc(context, json_object_size(json) + 1, sizeof *b->own);
    kin_status status = b->entries && b->own ? KIN_OK : KIN_OUT_OF_MEMORY;
    json_object_foreach((json_t *)json, name, lengths) {
        int resolution = status == KIN_OK ? find_resolution(b, name) : -1;
        if (status == KIN_OK && resolution < 0) status = unknown_resolution(context, where, name);
        json_object_foreach((json_t *)lengths, frames, pair) {
            if (status == KIN_OK) status = add(b, where, resolution, frames, pair);
        }
    }
    if (status != KIN_OK) {
        kin_buckets_free(b);
        return status;
    }
    qsort(b->entries, b->count, sizeof *b->entries, compare);
    *out_buckets = b;
    return KIN_OK;
}

size_t kin_buckets_count(const kin_buckets *buckets) {
    size_t count = 0;
    for (size_t i = 0; i < buckets->count; i++)
        count += resolution_at(buckets, buckets->entries[i].resolution)->size_count;
    return count;
}

/* The first size whose ratio is nearest. */
static int nearest_size(const kin_bucket_resolution *resolution, double ratio) {
    int best = 0;
    for (size_t i = 1; i < resolution->size_count; i++)
        if (fabs(resolution->sizes[i].ratio - ratio) < fabs(resolution->sizes[best].ratio - ratio))
            best = (int)i;
    return best;
}

static bool keeps(const kin_buckets *b, size_t index, kin_bucket_draw draw, void *user) {
    double keep = b->entries[index].keep;
    if (keep <= 0 || keep >= 1) return keep >= 1;
    return draw(user, index) < keep;
}

bool kin_buckets_find(const kin_buckets *buckets, int64_t frames, int64_t height, int64_t width,
                      int frame_interval, kin_bucket_draw draw, void *user,
                      kin_bucket *out_bucket) {
    int done = -1; /* the resolution that had its chance: fewer frames in it are not tried */
    for (size_t i = 0; i < buckets->count; i++) {
        const entry *e = &buckets->entries[i];
        const kin_bucket_resolution *r = resolution_at(buckets, e->resolution);
        if (e->resolution == done || (double)(height * width) < (double)r->pixels * 0.8) continue;
        bool image = frames == 1;
        bool fits =
            image ? e->frames == 1 : e->frames != 1 && frames > (int64_t)e->frames * frame_interval;
        if (!fits) continue;
        done = e->resolution;
        if (!keeps(buckets, i, draw, user)) continue;
        int ratio = nearest_size(r, (double)height / (double)width);
        *out_bucket =
            (kin_bucket){e->resolution,         e->frames,    ratio, r->sizes[ratio].height,
                         r->sizes[ratio].width, e->batch_size};
        return true;
    }
    return false;
}
