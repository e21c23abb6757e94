#include "tools/report/eval_pixels.h"

#include <math.h>
#include <string.h>

#include "tools/data/synth.h"

static const struct {
    float spread;   /* largest minus smallest channel of a colourful pixel, 0..255 */
    float distance; /* from the background, 0..255 per channel, Euclidean */
    float area;     /* smallest region, as a share of the picture: 12 of 32 x 32 pixels */
    float frames;   /* share of frames that need a region */
    float votes;    /* share of votes for a colour */
    float path;     /* shortest way, as a share of the picture's side */
    float ratio;    /* of the ways along the two axes */
} limits = {70, 60, 12.0f / 1024, 0.75f, 0.75f, 4.0f / 32, 1.5f};

typedef struct frame_work {
    int height, width;
    uint8_t *rgb;   /* (3, Y, X) of this frame */
    uint8_t *state; /* per pixel: 0 background, 1 coloured, 2 visited */
    int *stack; /* of the search; afterwards the largest region's pixels come first in `region` */
    int *region, *candidate;
} frame_work;

/* The `rank`-th smallest of the values that `counts` holds. */
static int from_histogram(const int counts[256], int rank) {
    int value = 0;
    for (int seen = counts[0]; seen <= rank && value < 255; seen += counts[value]) ++value;
    return value;
}

/* The median of channel c over the listed pixels, or over all if list is NULL. */
static int median(const frame_work *work, int c, const int *list, int count) {
    int counts[256] = {0};
    const uint8_t *plane = work->rgb + (size_t)c * (size_t)(work->height * work->width);
    for (int i = 0; i < count; ++i) ++counts[plane[list ? list[i] : i]];
    return from_histogram(counts, count / 2);
}

static bool load_frame(const kin_host_tensor *clip, int64_t t, frame_work *work) {
    const int64_t *strides = clip->desc.strides;
    const float *data = clip->data;
    uint8_t *out = work->rgb;
    bool finite = true;
    for (int64_t c = 0; c < 3; ++c)
        for (int64_t y = 0; y < work->height; ++y)
            for (int64_t x = 0; x < work->width; ++x) {
                float value =
                    data[c * strides[0] + t * strides[1] + y * strides[2] + x * strides[3]];
                finite = finite && isfinite(value);
                value = fminf(fmaxf(value, -1.0f), 1.0f); /* a NaN becomes -1 */
                *out++ = (uint8_t)lrintf(value * 127.5f + 127.5f);
            }
    return finite;
}

static void mark_coloured(frame_work *work) {
    const int pixels = work->height * work->width;
    const uint8_t *r = work->rgb, *g = r + pixels, *b = g + pixels;
    int back[3];
    for (int c = 0; c < 3; ++c) back[c] = median(work, c, NULL, pixels);
    for (int i = 0; i < pixels; ++i) {
        int high = r[i] > g[i] ? r[i] : g[i], low = r[i] < g[i] ? r[i] : g[i];
        if (b[i] > high) high = b[i];
        if (b[i] < low) low = b[i];
        float x = (float)(r[i] - back[0]), y = (float)(g[i] - back[1]), z = (float)(b[i] - back[2]);
        work->state[i] = (float)(high - low) > limits.spread &&
                         x * x + y * y + z * z > limits.distance * limits.distance;
    }
}

/* Fills work->candidate with the region of `start` and returns its size. */
static int flood(frame_work *work, int start) {
    int depth = 0, count = 0;
    work->stack[depth++] = start;
    work->state[start] = 2;
    while (depth > 0) {
        const int at = work->stack[--depth], x = at % work->width, y = at / work->width;
        const int next[4] = {x > 0 ? at - 1 : -1, x + 1 < work->width ? at + 1 : -1,
                             y > 0 ? at - work->width : -1,
                             y + 1 < work->height ? at + work->width : -1};
        work->candidate[count++] = at;
        for (int i = 0; i < 4; ++i) {
            if (next[i] < 0 || work->state[next[i]] != 1) continue;
            work->state[next[i]] = 2;
            work->stack[depth++] = next[i];
        }
    }
    return count;
}

/* The size of the largest region, whose pixels are then in work->region. */
static int largest_region(frame_work *work) {
    int best = 0;
    for (int i = 0; i < work->height * work->width; ++i) {
        if (work->state[i] != 1) continue;
        int count = flood(work, i);
        if (count <= best) continue;
        best = count;
        int *swap = work->region;
        work->region = work->candidate;
        work->candidate = swap;
    }
    return best;
}

static int nearest_colour(const frame_work *work, int count) {
    int best = 0, best_distance = 1 << 30;
    for (int k = 0; k < KIN_SYNTH_COLOURS; ++k) {
        int distance = 0;
        for (int c = 0; c < 3; ++c) {
            int off = median(work, c, work->region, count) - kin_synth_colour_rgb(k)[c];
            distance += off * off;
        }
        if (distance < best_distance) {
            best_distance = distance;
            best = k;
        }
    }
    return best;
}

/* Sums for two straight lines x(t), y(t). */
typedef struct line_fit {
    double n, t, tt, x, xx, tx, y, yy, ty;
} line_fit;

static void add_point(line_fit *fit, double t, double x, double y) {
    fit->n += 1;
    fit->t += t;
    fit->tt += t * t;
    fit->x += x;
    fit->xx += x * x;
    fit->tx += t * x;
    fit->y += y;
    fit->yy += y * y;
    fit->ty += t * y;
}

static double slope(const line_fit *fit, double sum, double product) {
    double spread = fit->n * fit->tt - fit->t * fit->t;
    return spread > 0 ? (fit->n * product - fit->t * sum) / spread : 0;
}

/* The share of the movement along one axis that the line explains. */
static double explained(const line_fit *fit, double sum, double square, double product) {
    double spread = fit->n * square - sum * sum;
    double line = slope(fit, sum, product);
    return spread > 0 ? line * line * (fit->n * fit->tt - fit->t * fit->t) / spread : 0;
}

static void decide(const line_fit *fit, const int *votes, int64_t frames, const frame_work *work,
                   kin_pixel_verdict *verdict) {
    const float share = (float)verdict->frames / (float)frames;
    if (verdict->frames == 0 || share < limits.frames) return;
    int best = 0;
    for (int k = 1; k < KIN_SYNTH_COLOURS; ++k)
        if (votes[k] > votes[best]) best = k;
    verdict->colour_confidence = (float)votes[best] / (float)verdict->frames * share;
    if ((float)votes[best] >= limits.votes * (float)verdict->frames) verdict->colour = best;
    const float path_x = (float)(slope(fit, fit->x, fit->tx) * (double)(frames - 1));
    const float path_y = (float)(slope(fit, fit->y, fit->ty) * (double)(frames - 1));
    verdict->path_x = path_x;
    verdict->path_y = path_y;
    const bool across = fabsf(path_x) > fabsf(path_y);
    const float big = across ? fabsf(path_x) : fabsf(path_y);
    const float small = across ? fabsf(path_y) : fabsf(path_x);
    const int side = across ? work->width : work->height;
    const double fits = across ? explained(fit, fit->x, fit->xx, fit->tx)
                               : explained(fit, fit->y, fit->yy, fit->ty);
    if (big > 0) verdict->direction_confidence = (float)fits * (1 - small / big) * share;
    if (big >= limits.path * (float)side && big >= limits.ratio * small)
        verdict->direction = across ? (path_x < 0 ? 0 : 1) : (path_y < 0 ? 2 : 3);
}

static kin_status judge(kin_context *context, const kin_host_tensor *clip, frame_work *work,
                        kin_pixel_verdict *verdict) {
    const int64_t frames = clip->desc.dims[1];
    const float smallest = limits.area * (float)(work->height * work->width);
    int votes[KIN_SYNTH_COLOURS] = {0};
    line_fit fit = {0};
    for (int64_t t = 0; t < frames; ++t) {
        if (!load_frame(clip, t, work))
            return kin_fail(context, KIN_NUMERIC,
                            "frame %lld of the clip has values that are not finite", (long long)t);
        mark_coloured(work);
        const int count = largest_region(work);
        if ((float)count < smallest || count == 0) continue;
        double x = 0, y = 0;
        for (int i = 0; i < count; ++i) {
            x += work->region[i] % work->width;
            y += work->region[i] / work->width;
        }
        add_point(&fit, (double)t, x / count, y / count);
        ++votes[nearest_colour(work, count)];
        ++verdict->frames;
        verdict->area += (float)count;
    }
    if (verdict->frames > 0) verdict->area /= (float)verdict->frames;
    decide(&fit, votes, frames, work, verdict);
    verdict->confidence = verdict->colour_confidence * verdict->direction_confidence;
    return KIN_OK;
}

kin_status kin_eval_pixels(kin_context *context, const kin_host_tensor *clip,
                           kin_pixel_verdict *out_verdict) {
    char shape[96];
    const kin_desc *desc = &clip->desc;
    *out_verdict = (kin_pixel_verdict){.colour = -1, .direction = -1};
    if (desc->rank != 4 || desc->dtype != KIN_F32 || desc->dims[0] != 3 || desc->dims[1] < 1 ||
        desc->dims[2] < 1 || desc->dims[3] < 1 || desc->dims[2] > 16384 || desc->dims[3] > 16384)
        return kin_fail(context, KIN_INVALID, "a clip is f32 (3, T, Y, X), not %s %s",
                        kin_dtype_name(desc->dtype),
                        kin_desc_shape_text(desc, shape, sizeof shape));
    frame_work work = {.height = (int)desc->dims[2], .width = (int)desc->dims[3]};
    const size_t pixels = (size_t)work.height * (size_t)work.width;
    work.rgb = kin_alloc(context, 4 * pixels);
    work.stack = kin_alloc(context, 3 * pixels * sizeof *work.stack);
    kin_status status = work.rgb && work.stack ? KIN_OK : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK) {
        work.state = work.rgb + 3 * pixels;
        work.region = work.stack + pixels;
        work.candidate = work.region + pixels;
        status = judge(context, clip, &work, out_verdict);
    }
    kin_free(context, work.stack);
    kin_free(context, work.rgb);
    return status;
}
