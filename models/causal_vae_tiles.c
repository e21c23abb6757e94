/* The original's tiling of the video VAE. */
#include <math.h>

#include "models/causal_vae.h"
#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/views.h"

enum { MAX_TILES = 64, TIME = 2, ROWS = 3, COLUMNS = 4 };

/* One direction: encoding or decoding. */
typedef struct tile_job {
    kin_graph *graph;
    const kin_causal_vae_config *config;
    const kin_precision *precision;
    bool decode;
    int64_t tile, step;  /* of the input */
    int64_t blend, keep; /* of the output */
    int64_t stretch;     /* frames of the input in a stretch of time */
} tile_job;

kin_causal_vae_tiling kin_causal_vae_tiling_default(void) {
    return (kin_causal_vae_tiling){256, 32, 33, 16, 0.125};
}

static kin_tensor run_model(const tile_job *job, kin_tensor x) {
    return job->decode ? kin_causal_vae_decode(job->graph, job->config, job->precision, x)
                       : kin_causal_vae_encode(job->graph, job->config, job->precision, x);
}

/* The first rows (or columns) of `tile` fade in from the last ones of `before`. */
static kin_tensor fade(const tile_job *job, kin_tensor before, kin_tensor tile, int axis) {
    kin_graph *g = job->graph;
    int64_t size = kin_dim(g, tile, axis), other = kin_dim(g, before, axis), extent = job->blend;
    if (size < extent) extent = size;
    if (other < extent) extent = other;
    if (extent < 1) return tile;
    float weights[4096];
    if (extent > (int64_t)(sizeof weights / sizeof *weights))
        return kin_graph_fail(g, KIN_INVALID, "video VAE: tiles overlap by %lld",
                              (long long)extent);
    for (int64_t i = 0; i < extent; i++) weights[i] = (float)((double)i / (double)extent);
    int64_t dims[5] = {1, 1, 1, 1, 1};
    dims[axis] = extent;
    kin_tensor weight = kin_constant(g, KIN_F32, 5, dims, weights);
    kin_tensor a = kin_slice(g, before, axis, other - extent, extent);
    kin_tensor b = kin_slice(g, tile, axis, 0, extent);
    kin_tensor mixed = kin_add(g, a, kin_mul(g, kin_sub(g, b, a), weight));
    if (extent == size) return mixed;
    kin_tensor rest = kin_slice(g, tile, axis, extent, size - extent);
    return kin_concat(g, (kin_tensor[]){mixed, rest}, 2, axis);
}

/* No more than the first `keep` rows and columns. */
static kin_tensor crop(const tile_job *job, kin_tensor tile) {
    for (int axis = ROWS; axis <= COLUMNS; axis++)
        if (kin_dim(job->graph, tile, axis) > job->keep)
            tile = kin_slice(job->graph, tile, axis, 0, job->keep);
    return tile;
}

static kin_tensor cut(const tile_job *job, kin_tensor x, int axis, int64_t start) {
    int64_t left = kin_dim(job->graph, x, axis) - start;
    return kin_slice(job->graph, x, axis, start, left < job->tile ? left : job->tile);
}

/* One stretch of time: rows of tiles from left to right. A tile fades in from the one above and
 * then from the one to the left, both as they are after their own blending. */
static kin_tensor run_tiles(const tile_job *job, kin_tensor x) {
    kin_graph *g = job->graph;
    kin_tensor above[MAX_TILES], rows[MAX_TILES], cropped[MAX_TILES];
    int64_t height = kin_dim(g, x, ROWS), width = kin_dim(g, x, COLUMNS);
    int row_count = 0, columns = (int)((width + job->step - 1) / job->step);
    if ((height + job->step - 1) / job->step > MAX_TILES || columns > MAX_TILES)
        return kin_graph_fail(g, KIN_INVALID, "video VAE: more than %d tiles in a row", MAX_TILES);
    for (int64_t y = 0; y < height; y += job->step) {
        kin_tensor strip = cut(job, x, ROWS, y), left = KIN_NONE;
        for (int i = 0; i < columns; i++) {
            kin_tensor tile = run_model(job, cut(job, strip, COLUMNS, i * job->step));
            if (row_count > 0) tile = fade(job, above[i], tile, ROWS);
            if (i > 0) tile = fade(job, left, tile, COLUMNS);
            above[i] = left = tile;
            cropped[i] = crop(job, tile);
        }
        rows[row_count++] = kin_concat(g, cropped, columns, COLUMNS);
    }
    return kin_concat(g, rows, row_count, ROWS);
}

/* Stretches overlap by one frame; of all but the first, the first frame of the result is dropped.
 */
static kin_tensor run_stretches(const tile_job *job, kin_tensor x) {
    kin_graph *g = job->graph;
    kin_tensor parts[MAX_TILES];
    int64_t frames = kin_dim(g, x, TIME), stride = job->stretch - 1;
    int count = 0;
    for (int64_t start = 0; start == 0 || start + 1 < frames; start += stride) {
        int64_t left = frames - start;
        if (count == MAX_TILES)
            return kin_graph_fail(g, KIN_INVALID, "video VAE: more than %d stretches of time",
                                  MAX_TILES);
        kin_tensor part = kin_slice(g, x, TIME, start, left < job->stretch ? left : job->stretch);
        part = run_tiles(job, part);
        if (start > 0) part = kin_slice(g, part, TIME, 1, kin_dim(g, part, TIME) - 1);
        parts[count++] = part;
    }
    return count == 1 ? parts[0] : kin_concat(g, parts, count, TIME);
}

static kin_tensor run_tiled(tile_job *job, const kin_causal_vae_tiling *t, kin_tensor x) {
    kin_graph *g = job->graph;
    int64_t in = job->decode ? t->tile_latent_min_size : t->tile_sample_min_size;
    int64_t out = job->decode ? t->tile_sample_min_size : t->tile_latent_min_size;
    job->tile = in;
    job->stretch = job->decode ? t->tile_latent_min_size_t : t->tile_sample_min_size_t;
    job->step = (int64_t)((double)in * (1 - t->tile_overlap_factor));
    job->blend = (int64_t)((double)out * t->tile_overlap_factor);
    job->keep = out - job->blend;
    if (kin_rank(g, x) != 5) return run_model(job, x);
    if (!(t->tile_overlap_factor >= 0) || job->step < 1 || job->keep < 1 || job->stretch < 2)
        return kin_graph_fail(
            g, KIN_INVALID,
            "video VAE: tiles of %lld with %lld frames and an overlap of %g leave "
            "nothing",
            (long long)in, (long long)job->stretch, t->tile_overlap_factor);
    int64_t factor = kin_causal_vae_space_factor(job->config);
    if (job->decode ? job->keep != job->step * factor : job->step != job->keep * factor)
        return kin_graph_fail(
            g, KIN_INVALID,
            "video VAE: tiles of %d pixels and %d latents with an overlap of %g do "
            "not meet: each step must be %lld pixels for a latent",
            t->tile_sample_min_size, t->tile_latent_min_size, t->tile_overlap_factor,
            (long long)factor);
    if (kin_dim(g, x, TIME) <= job->stretch && kin_dim(g, x, ROWS) <= in &&
        kin_dim(g, x, COLUMNS) <= in)
        return run_model(job, x);
    return run_stretches(job, x);
}

kin_tensor kin_causal_vae_encode_tiled(kin_graph *graph, const kin_causal_vae_config *config,
                                       const kin_precision *precision,
                                       const kin_causal_vae_tiling *tiling, kin_tensor videos) {
    tile_job job = {.graph = graph, .config = config, .precision = precision};
    return run_tiled(&job, tiling, videos);
}

kin_tensor kin_causal_vae_decode_tiled(kin_graph *graph, const kin_causal_vae_config *config,
                                       const kin_precision *precision,
                                       const kin_causal_vae_tiling *tiling, kin_tensor latents) {
    tile_job job = {.graph = graph, .config = config, .precision = precision, .decode = true};
    return run_tiled(&job, tiling, latents);
}
