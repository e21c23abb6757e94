#include "tools/generate/vae_coder.h"

#include <string.h>

#include "models/vae_temporal.h"
#include "ops/elementwise.h"
#include "runtime/weights.h"
#include "tools/generate/vae_cut.h"

/* How units (a frame, a chunk of frames, a whole video) of one length are coded. */
typedef struct unit_way {
    int64_t frames;      /* of the input; 0: there is none of this length */
    kin_plan *plan;      /* all at once, or NULL */
    kin_vae_cutter *cut; /* in pieces, or NULL */
    bool prepared;
} unit_way;

enum { LENGTHS = 2 }; /* the last unit of a video may be shorter than the others */

typedef struct video_size {
    int64_t channels, frames, rows, columns;
} video_size;

/* Encoder or decoder. */
typedef struct half {
    kin_store *store;         /* NULL: not loaded */
    kin_workspace *workspace; /* of the plans */
    unit_way ways[LENGTHS];
    video_size size; /* of the input that the ways are for */
    uint64_t bytes;  /* that they take, weights included */
} half;

struct kin_vae_coder {
    kin_context *context;
    kin_device *device;
    kin_vae_config config;
    kin_vae_shape shape;
    char *path;
    kin_vae_coder_options options;
    half halves[2]; /* decoder, encoder */
};

/* Coding of one batch of videos: [B, in.channels, in.frames, in.rows, in.columns] to out. */
typedef struct task {
    kin_vae_coder *coder;
    half *half;
    bool encode;
    int64_t batch;
    video_size in, out;
    int64_t unit;      /* frames of the input that are coded together */
    int64_t given;     /* frames that the input has; those behind in.frames are left out */
    int64_t done, all; /* plan runs */
    float *staged[2];  /* input and result of one unit */
} task;

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* ---- tasks ---------------------------------------------------------------------------------- */

/* `pixels` is the size of the video. */
static void describe(kin_vae_coder *coder, bool encode, int64_t batch, int64_t frames, int64_t rows,
                     int64_t columns, task *out_task) {
    const kin_vae_config *config = &coder->config;
    const kin_vae_shape *shape = &coder->shape;
    int64_t latent_frames = kin_vae_latent_frames(config, frames);
    video_size video = {3, kin_vae_video_frames(config, latent_frames), rows, columns};
    video_size latent = {shape->channels * (encode ? 2 : 1), latent_frames,
                         rows / shape->space_factor, columns / shape->space_factor};
    if (config->kind != KIN_VAE_CAUSAL)
        video.channels = encode ? config->sd.in_channels : config->sd.out_channels;
    task t = {.coder = coder,
              .half = &coder->halves[encode],
              .encode = encode,
              .batch = batch,
              .in = encode ? video : latent,
              .out = encode ? latent : video,
              .given = encode ? frames : latent_frames};
    t.unit = 1;
    if (config->kind == KIN_VAE_CAUSAL) t.unit = t.in.frames;
    else if (config->kind == KIN_VAE_TEMPORAL && !encode)
        t.unit = least(t.in.frames, KIN_VAE_TEMPORAL_CHUNK);
    *out_task = t;
}

/* Videos of any size can be encoded: what is left over at a halving is lost, as in the originals.
 */
static kin_status check_size(kin_vae_coder *coder, bool encode, int64_t batch, int64_t frames,
                             int64_t rows, int64_t columns) {
    int64_t factor = coder->shape.space_factor;
    bool whole = rows % factor == 0 && columns % factor == 0;
    if (batch >= 1 && frames >= 1 && rows >= factor && columns >= factor && (encode || whole))
        return KIN_OK;
    return kin_fail(coder->context, KIN_INVALID,
                    "%s cannot code %lld videos of %lld frames of %lldx%lld: rows and columns must "
                    "be %s %lld",
                    kin_vae_kind_name(coder->config.kind), (long long)batch, (long long)frames,
                    (long long)rows, (long long)columns, encode ? "at least" : "multiples of",
                    (long long)factor);
}

/* The task of coding a tensor [B, C, T, Y, X]. */
static kin_status describe_tensor(kin_vae_coder *coder, bool encode, const kin_host_tensor *x,
                                  task *out_task) {
    const int64_t *d = x->desc.dims;
    if (x->desc.rank != 5 || x->desc.dtype != KIN_F32 || !kin_desc_is_dense(&x->desc))
        return kin_fail(coder->context, KIN_INVALID,
                        "autoencoder: the input must be dense f32 [B, C, T, Y, X]");
    int64_t factor = encode ? 1 : coder->shape.space_factor;
    int64_t frames = encode ? d[2] : kin_vae_video_frames(&coder->config, d[2]);
    kin_status status = check_size(coder, encode, d[0], frames, d[3] * factor, d[4] * factor);
    if (status != KIN_OK) return status;
    describe(coder, encode, d[0], frames, d[3] * factor, d[4] * factor, out_task);
    if (d[1] != out_task->in.channels)
        return kin_fail(coder->context, KIN_INVALID,
                        "autoencoder: the input has %lld channels instead of %lld", (long long)d[1],
                        (long long)out_task->in.channels);
    return KIN_OK;
}

/* ---- graphs, plans, weights ----------------------------------------------------------------- */

static void forget_ways(half *h) {
    for (int i = 0; i < LENGTHS; i++) {
        kin_plan_free(h->ways[i].plan);
        kin_vae_cutter_free(h->ways[i].cut);
        h->ways[i] = (unit_way){0};
    }
    kin_workspace_free(h->workspace);
    h->workspace = NULL;
    h->size = (video_size){0};
}

static void unload(half *h) {
    forget_ways(h);
    kin_store_free(h->store);
    h->store = NULL;
}

static kin_tensor tiled(kin_graph *g, const kin_vae_coder *c, bool encode, kin_tensor x) {
    const kin_vae_coder_options *o = &c->options;
    if (encode)
        return kin_causal_vae_encode_tiled(g, &c->config.causal, &o->precision, &o->tiling, x);
    x = kin_scale(g, x, 1 / c->shape.scale, 0);
    return kin_causal_vae_decode_tiled(g, &c->config.causal, &o->precision, &o->tiling, x);
}

/* The graph of one unit, from input "x" to output "y". */
static kin_status build_graph(const task *t, int64_t frames, kin_graph **out_graph) {
    const kin_vae_coder *c = t->coder;
    const kin_precision *precision = &c->options.precision;
    int64_t dims[5] = {1, t->in.channels, frames, t->in.rows, t->in.columns};
    kin_status status = kin_graph_create(c->context, out_graph);
    if (status != KIN_OK) return status;
    kin_graph *g = *out_graph;
    kin_tensor x = kin_input(g, "x", KIN_F32, 5, dims), y;
    if (c->options.cut == KIN_VAE_CUT_PUBLISHED) y = tiled(g, c, t->encode, x);
    else if (t->encode) y = kin_vae_encode(g, &c->config, precision, x);
    else y = kin_vae_decode(g, &c->config, precision, x);
    kin_output(g, "y", y);
    return KIN_OK;
}

/* The weights of a half, from the file. With a limit of memory the other half's make room. */
static kin_status load(const task *t) {
    kin_vae_coder *c = t->coder;
    kin_weights_options options = {.rename = kin_vae_rename,
                                   .config = &c->config,
                                   .allow_unexpected = true}; /* the other half's */
    kin_graph *graph = NULL;
    if (c->options.memory) unload(&c->halves[!t->encode]);
    if (t->half->store) return KIN_OK;
    kin_status status = build_graph(t, t->unit, &graph);
    if (status == KIN_OK) status = kin_graph_status(graph);
    if (status == KIN_OK) status = kin_store_create(c->device, &t->half->store);
    if (status == KIN_OK) status = kin_store_add_graph(t->half->store, graph, 0);
    if (status == KIN_OK) status = kin_weights_load(t->half->store, c->path, &options, NULL);
    kin_graph_destroy(graph);
    if (status != KIN_OK) unload(t->half);
    return status;
}

static kin_status plan_whole(const task *t, unit_way *way) {
    kin_graph *graph = NULL;
    kin_status status = build_graph(t, way->frames, &graph);
    if (status == KIN_OK) status = kin_plan_build(graph, t->coder->device, NULL, &way->plan);
    kin_graph_destroy(graph);
    return status;
}

/* Device memory that the plans take, which share an arena; *out_weights: of this the weights. */
static uint64_t whole_bytes(const half *h, uint64_t *out_weights) {
    uint64_t arena = 0, others = 0;
    for (int i = 0; i < LENGTHS; i++) {
        if (!h->ways[i].plan) continue;
        const kin_plan_summary *s = kin_plan_summarize(h->ways[i].plan);
        if (s->arena > arena) arena = s->arena;
        others += s->inputs + s->constants;
        *out_weights = s->weights;
    }
    return *out_weights + arena + others;
}

/* In pieces, each length by itself. */
static kin_status cut_ways(const task *t, uint64_t weights) {
    const kin_vae_coder *c = t->coder;
    half *h = t->half;
    kin_status status = KIN_OK;
    h->bytes = 0;
    for (int i = 0; status == KIN_OK && i < LENGTHS; i++) {
        unit_way *way = &h->ways[i];
        if (!way->frames) continue;
        kin_plan_free(way->plan);
        way->plan = NULL;
        status = kin_vae_cutter_make(c->device, &c->config, &c->options.precision, t->encode,
                                     way->frames, t->in.rows, t->in.columns, c->options.memory,
                                     weights, &way->cut);
        if (status == KIN_OK && way->cut->peak > h->bytes) h->bytes = way->cut->peak;
    }
    return status;
}

/* Finds out how to code videos of this size, unless it is known from the last one. */
static kin_status find_ways(const task *t) {
    const kin_vae_coder *c = t->coder;
    half *h = t->half;
    uint64_t weights = 0;
    if (memcmp(&h->size, &t->in, sizeof h->size) == 0) return KIN_OK;
    forget_ways(h);
    h->ways[0].frames = t->unit;
    h->ways[1].frames = t->in.frames % t->unit;
    kin_status status = kin_workspace_create(c->device, &h->workspace);
    for (int i = 0; status == KIN_OK && i < LENGTHS; i++)
        if (h->ways[i].frames) status = plan_whole(t, &h->ways[i]);
    if (status == KIN_OK) h->bytes = whole_bytes(h, &weights);
    if (status == KIN_OK && c->options.memory && h->bytes > c->options.memory) {
        if (c->options.cut == KIN_VAE_CUT_AS_NEEDED) status = cut_ways(t, weights);
        else
            status = kin_fail(c->context, KIN_OUT_OF_MEMORY,
                              "%s %lld frames of %lldx%lld takes %.1f MiB at once, but %.1f MiB "
                              "are allowed",
                              t->encode ? "encoding" : "decoding", (long long)t->in.frames,
                              (long long)t->in.rows, (long long)t->in.columns,
                              (double)h->bytes / 1048576.0, (double)c->options.memory / 1048576.0);
    }
    if (status == KIN_OK) h->size = t->in;
    else forget_ways(h);
    return status;
}

/* Plan runs of all units. */
static int64_t count_runs(const task *t) {
    int64_t units[LENGTHS] = {t->in.frames / t->unit, 1}, runs = 0;
    for (int i = 0; i < LENGTHS; i++) {
        const unit_way *way = &t->half->ways[i];
        if (way->frames) runs += units[i] * (way->cut ? way->cut->runs : 1);
    }
    return t->batch * runs;
}

/* ---- running -------------------------------------------------------------------------------- */

/* Frames first .. first + count - 1 of video b of a tensor [B, C, T, Y, X], to or from dense. */
static void move_frames(float *video, const video_size *size, int64_t frames, int64_t b,
                        int64_t first, int64_t count, float *dense, bool back) {
    int64_t plane = size->rows * size->columns;
    size_t bytes = (size_t)(count * plane) * sizeof *dense;
    for (int64_t c = 0; c < size->channels; c++) {
        float *at = video + ((b * size->channels + c) * frames + first) * plane;
        if (back) memcpy(at, dense + c * count * plane, bytes);
        else memcpy(dense + c * count * plane, at, bytes);
    }
}

/* Called after each run. user: the task. */
static bool report(void *user) {
    task *t = user;
    const kin_vae_coder_options *o = &t->coder->options;
    t->done++;
    return !o->progress || o->progress(o->progress_user, t->done, t->all);
}

/* A unit of frames: where it begins in the input, and what comes of it in the result. */
typedef struct unit_place {
    int64_t video, first, out_first, out_count;
} unit_place;

static kin_status run_whole(task *t, unit_way *way, const unit_place *u, float *x, float *y) {
    kin_status status = KIN_OK;
    if (!way->prepared) {
        status = kin_plan_prepare(way->plan, t->half->store, t->half->workspace);
        way->prepared = status == KIN_OK;
    }
    if (status != KIN_OK) return status;
    move_frames(x, &t->in, t->given, u->video, u->first, way->frames, t->staged[0], false);
    status = kin_plan_write(way->plan, "x", KIN_F32, t->staged[0]);
    if (status == KIN_OK) status = kin_plan_run(way->plan);
    if (status == KIN_OK) status = kin_plan_read(way->plan, "y", KIN_F32, t->staged[1]);
    if (status != KIN_OK) return status;
    move_frames(y, &t->out, t->out.frames, u->video, u->out_first, u->out_count, t->staged[1],
                true);
    if (report(t)) return KIN_OK;
    return kin_fail(t->coder->context, KIN_CANCELLED, "interrupted while coding a video");
}

static kin_vae_place place_of(float *video, const video_size *size, int64_t frames, int64_t b,
                              int64_t first) {
    int64_t plane = size->rows * size->columns;
    return (kin_vae_place){video + (b * size->channels * frames + first) * plane, frames * plane};
}

static kin_status run_unit(task *t, const unit_place *u, float *x, float *y) {
    int last = u->first + t->unit > t->in.frames;
    unit_way *way = &t->half->ways[last], *other = &t->half->ways[!last];
    if (!way->cut) return run_whole(t, way, u, x, y);
    if (other->cut) kin_vae_cutter_rest(other->cut); /* both would take too much */
    kin_vae_place in = place_of(x, &t->in, t->given, u->video, u->first);
    kin_vae_place out = place_of(y, &t->out, t->out.frames, u->video, u->out_first);
    return kin_vae_cutter_run(way->cut, t->half->store, &in, &out, report, t);
}

/* Room for one unit, where it is coded at once. */
static kin_status stage(task *t, int64_t out_unit) {
    const video_size *sizes[2] = {&t->in, &t->out};
    int64_t frames[2] = {t->unit, out_unit};
    for (int i = 0; i < 2 && !t->half->ways[0].cut; i++) {
        int64_t count = sizes[i]->channels * frames[i] * sizes[i]->rows * sizes[i]->columns;
        t->staged[i] = kin_alloc(t->coder->context, (size_t)count * sizeof(float));
        if (!t->staged[i]) return KIN_OUT_OF_MEMORY;
    }
    return KIN_OK;
}

static kin_status code(task *t, float *x, float *y) {
    /* Frames of the result are those of the input, or a unit is all. */
    int64_t out_unit = t->unit == t->in.frames ? t->out.frames : t->unit;
    kin_status status = find_ways(t);
    if (status == KIN_OK) status = load(t);
    if (status == KIN_OK) status = stage(t, out_unit);
    t->all = count_runs(t);
    for (int64_t b = 0; b < t->batch; b++)
        for (int64_t first = 0; status == KIN_OK && first < t->in.frames; first += t->unit) {
            unit_place u = {b, first, first, least(out_unit, t->out.frames - first)};
            status = run_unit(t, &u, x, y);
        }
    for (int i = 0; i < 2; i++) kin_free(t->coder->context, t->staged[i]);
    for (int i = 0; i < LENGTHS; i++)
        if (t->half->ways[i].cut) kin_vae_cutter_rest(t->half->ways[i].cut);
    return status;
}

static kin_status code_tensor(kin_vae_coder *coder, bool encode, const kin_host_tensor *x,
                              kin_host_tensor *out_tensor) {
    task t;
    *out_tensor = (kin_host_tensor){.data = NULL};
    kin_status status = describe_tensor(coder, encode, x, &t);
    if (status != KIN_OK) return status;
    int64_t dims[5] = {t.batch, t.out.channels, t.out.frames, t.out.rows, t.out.columns};
    status = kin_host_tensor_create(coder->context, KIN_F32, 5, dims, out_tensor);
    if (status == KIN_OK) status = code(&t, x->data, out_tensor->data);
    if (status != KIN_OK) kin_host_tensor_free(coder->context, out_tensor);
    return status;
}

kin_status kin_vae_coder_encode(kin_vae_coder *coder, const kin_host_tensor *videos,
                                kin_host_tensor *out_moments) {
    return code_tensor(coder, true, videos, out_moments);
}

kin_status kin_vae_coder_decode(kin_vae_coder *coder, const kin_host_tensor *latents,
                                kin_host_tensor *out_videos) {
    return code_tensor(coder, false, latents, out_videos);
}

kin_status kin_vae_coder_memory(kin_vae_coder *coder, bool encode, int64_t batch, int64_t frames,
                                int64_t height, int64_t width, uint64_t *out_bytes,
                                int64_t *out_runs) {
    task t;
    kin_status status = check_size(coder, encode, batch, frames, height, width);
    if (status != KIN_OK) return status;
    describe(coder, encode, batch, frames, height, width, &t);
    status = find_ways(&t);
    if (status != KIN_OK) return status;
    *out_bytes = t.half->bytes;
    *out_runs = count_runs(&t);
    return KIN_OK;
}

/* ---- opening -------------------------------------------------------------------------------- */

kin_status kin_vae_coder_open(kin_device *device, const kin_vae_config *config, const char *path,
                              const kin_vae_coder_options *options, kin_vae_coder **out_coder) {
    kin_context *context = device->context;
    *out_coder = NULL;
    if (options->cut == KIN_VAE_CUT_PUBLISHED && config->kind != KIN_VAE_CAUSAL)
        return kin_fail(context, KIN_INVALID, "%s has no tiling of its own: only %s has",
                        kin_vae_kind_name(config->kind), kin_vae_kind_name(KIN_VAE_CAUSAL));
    kin_vae_coder *coder = kin_calloc(context, 1, sizeof *coder);
    if (!coder) return KIN_OUT_OF_MEMORY;
    coder->context = context;
    coder->device = device;
    coder->config = *config;
    coder->shape = kin_vae_shape_of(config);
    coder->options = *options;
    coder->path = kin_strdup(context, path);
    if (!coder->path) {
        kin_free(context, coder);
        return KIN_OUT_OF_MEMORY;
    }
    *out_coder = coder;
    return KIN_OK;
}

void kin_vae_coder_close(kin_vae_coder *coder) {
    if (!coder) return;
    unload(&coder->halves[0]);
    unload(&coder->halves[1]);
    kin_free(coder->context, coder->path);
    kin_free(coder->context, coder);
}
