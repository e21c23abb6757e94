/* Latents of the frames that are given: of files, and of earlier passes. */
#include "tools/generate/generate.h"

#include <stdio.h>
#include <string.h>

/* Frames of a reference as it is in its latents; of files with a time factor all are needed. */
static kin_status find_needed(const kin_generate *g, const kin_clip_work *w, int reference,
                              int64_t frames, int64_t **out_list, int64_t *out_count) {
    bool *needed = kin_calloc(g->context, (size_t)frames, sizeof *needed);
    *out_list = kin_alloc(g->context, (size_t)frames * sizeof **out_list);
    *out_count = 0;
    if (!needed || !*out_list) {
        kin_free(g->context, needed);
        return KIN_OUT_OF_MEMORY;
    }
    kin_mask_strategy_needed(w->conditions.tuples, w->conditions.count, reference, frames,
                             g->latent_frames, needed);
    for (int64_t i = 0; i < frames; i++)
        if (needed[i]) (*out_list)[(*out_count)++] = i;
    if (*out_count > 0 && g->vae.time_factor > 1) {
        *out_count = frames;
        for (int64_t i = 0; i < frames; i++) (*out_list)[i] = i;
    }
    kin_free(g->context, needed);
    return KIN_OK;
}

/* Latents [1, C, n, Y', X'] of the frames in `list` into [1, C, frames, Y', X']; the others are 0
 * and not read. */
static kin_status spread(const kin_generate *g, const kin_host_tensor *some, const int64_t *list,
                         int64_t frames, kin_host_tensor *out) {
    int64_t dims[5];
    memcpy(dims, some->desc.dims, sizeof dims);
    int64_t count = dims[2], area = dims[3] * dims[4];
    dims[2] = frames;
    kin_status status = kin_host_tensor_create(g->context, KIN_F32, 5, dims, out);
    if (status != KIN_OK) return status;
    memset(out->data, 0, kin_desc_bytes(&out->desc));
    for (int64_t c = 0; c < dims[1]; c++)
        for (int64_t i = 0; i < count; i++)
            memcpy((float *)out->data + (c * frames + list[i]) * area,
                   (const float *)some->data + (c * count + i) * area,
                   (size_t)area * sizeof(float));
    return KIN_OK;
}

/* The stage of one reference's needed frames. */
static kin_status encode_stage(kin_generate *g, kin_clip_work *w, int reference, int64_t count,
                               const kin_host_tensor *video, kin_host_tensor *out_latents) {
    char name[64];
    uint64_t seed = w->clip->seed + 1 + (uint64_t)reference;
    snprintf(name, sizeof name, "references-%d", reference);
    kin_stage stage = {w->clip->stages, name, w->latent_key, 1, {"latents"}};
    kin_desc want = {.dtype = KIN_F32, .rank = 5};
    int64_t dims[5] = {1, g->vae.channels, count, g->out_height / g->vae.space_factor,
                       g->out_width / g->vae.space_factor};
    memcpy(want.dims, dims, sizeof dims);
    if (kin_stage_load(g->context, &stage, &want, out_latents)) return KIN_OK;
    kin_status status = kin_pipeline_encode_video(&g->pipeline, video, &seed, out_latents);
    if (status == KIN_OK) status = kin_stage_save(g->context, &stage, out_latents);
    return status;
}

/* The rows and columns that have latents: Open-Sora 1.1's sizes, such as 240x426, are cut at their
 * ends. */
static kin_status cut_ends(const kin_generate *g, kin_host_tensor *video) {
    int64_t dims[5], rows = video->desc.dims[3], columns = video->desc.dims[4];
    memcpy(dims, video->desc.dims, sizeof dims);
    dims[3] = g->out_height;
    dims[4] = g->out_width;
    if (dims[3] == rows && dims[4] == columns) return KIN_OK;
    kin_host_tensor cut;
    kin_status status = kin_host_tensor_create(g->context, KIN_F32, 5, dims, &cut);
    if (status != KIN_OK) return status;
    for (int64_t i = 0; i < dims[1] * dims[2]; i++)
        for (int64_t y = 0; y < dims[3]; y++)
            memcpy((float *)cut.data + (i * dims[3] + y) * dims[4],
                   (const float *)video->data + (i * rows + y) * columns,
                   (size_t)dims[4] * sizeof(float));
    kin_host_tensor_free(g->context, video);
    *video = cut;
    return KIN_OK;
}

static kin_status encode_file(kin_generate *g, kin_clip_work *w, int index) {
    const kin_reference *r = &w->conditions.references.list[index];
    int64_t frames = kin_vae_latent_frames(&g->pipeline.system.vae, r->frames), *list, count;
    kin_host_tensor video = {.data = NULL}, some = {.data = NULL};
    kin_status status = find_needed(g, w, index, frames, &list, &count);
    bool all = g->vae.time_factor > 1; /* the list is of latent frames then */
    if (status == KIN_OK && count > 0)
        status = kin_reference_read(g->context, r, all ? NULL : list, count, g->shape.height,
                                    g->shape.width, &video);
    if (status == KIN_OK && count > 0) status = cut_ends(g, &video);
    if (status == KIN_OK && count > 0) status = encode_stage(g, w, index, count, &video, &some);
    if (status == KIN_OK && count > 0)
        status = spread(g, &some, list, frames, &w->references[index]);
    kin_host_tensor_free(g->context, &some);
    kin_host_tensor_free(g->context, &video);
    kin_free(g->context, list);
    return status;
}

kin_status kin_clip_join(kin_generate *g, const kin_clip_work *work, kin_host_tensor *out_video) {
    const kin_reference *r = work->conditions.references.list;
    int64_t more = work->joined, frames = g->out_frames, area = g->out_height * g->out_width;
    int64_t dims[4] = {3, frames + more, g->out_height, g->out_width};
    bool before = !g->passes.backward;
    kin_host_tensor video = {.data = NULL};
    *out_video = (kin_host_tensor){.data = NULL};
    int64_t *list = kin_alloc(g->context, (size_t)(more + 1) * sizeof *list);
    kin_status status = list ? KIN_OK : KIN_OUT_OF_MEMORY;
    for (int64_t i = 0; status == KIN_OK && i < more; i++)
        list[i] = before ? i : r->frames - more + i;
    if (status == KIN_OK)
        status =
            kin_reference_read(g->context, r, list, more, g->shape.height, g->shape.width, &video);
    if (status == KIN_OK) status = cut_ends(g, &video);
    if (status == KIN_OK) status = kin_host_tensor_create(g->context, KIN_F32, 4, dims, out_video);
    for (int64_t c = 0; status == KIN_OK && c < 3; c++) {
        float *out = (float *)out_video->data + c * dims[1] * area;
        memcpy(out + (before ? 0 : frames) * area, (const float *)video.data + c * more * area,
               (size_t)(more * area) * sizeof *out);
        memcpy(out + (before ? more : 0) * area,
               (const float *)work->video.data + c * frames * area,
               (size_t)(frames * area) * sizeof *out);
    }
    kin_host_tensor_free(g->context, &video);
    kin_free(g->context, list);
    return status;
}

static kin_status make_room(kin_generate *g, kin_clip_work *w) {
    size_t count = w->conditions.references.count + (size_t)g->passes.count;
    if (!w->references) w->references = kin_calloc(g->context, count, sizeof *w->references);
    return w->references ? KIN_OK : KIN_OUT_OF_MEMORY;
}

kin_status kin_clip_encode_files(kin_generate *g, kin_clip_work *work) {
    kin_status status = make_room(g, work);
    for (size_t i = 0; status == KIN_OK && i < work->conditions.references.count; i++)
        if (!work->references[i].data) status = encode_file(g, work, (int)i);
    return status;
}

/* Frames `list` of [1, 3, T, Y, X]. */
static kin_status pick_frames(kin_generate *g, const kin_host_tensor *video, const int64_t *list,
                              int64_t count, kin_host_tensor *out) {
    int64_t dims[5];
    memcpy(dims, video->desc.dims, sizeof dims);
    int64_t frames = dims[2], area = dims[3] * dims[4];
    dims[2] = count;
    kin_status status = kin_host_tensor_create(g->context, KIN_F32, 5, dims, out);
    for (int64_t c = 0; status == KIN_OK && c < dims[1]; c++)
        for (int64_t i = 0; i < count; i++)
            memcpy((float *)out->data + (c * count + i) * area,
                   (const float *)video->data + (c * frames + list[i]) * area,
                   (size_t)area * sizeof(float));
    return status;
}

kin_status kin_clip_encode_pass(kin_generate *g, kin_clip_work *work, int pass,
                                const kin_host_tensor *frames) {
    int index = (int)work->conditions.references.count + pass;
    int64_t *list, count;
    kin_host_tensor video = {.data = NULL}, some = {.data = NULL};
    kin_status status = make_room(g, work);
    if (status != KIN_OK || work->references[index].data) return status;
    status = find_needed(g, work, index, g->latent_frames, &list, &count);
    bool all = g->vae.time_factor > 1;
    if (status == KIN_OK && count > 0 && !all) status = pick_frames(g, frames, list, count, &video);
    if (status == KIN_OK && count > 0)
        status = encode_stage(g, work, index, count, all ? frames : &video, &some);
    if (status == KIN_OK && count > 0)
        status = spread(g, &some, list, g->latent_frames, &work->references[index]);
    kin_host_tensor_free(g->context, &some);
    kin_host_tensor_free(g->context, &video);
    kin_free(g->context, list);
    return status;
}
