/* One pass of some clips: latents and frames, each in its stage before the next is begun. */
#include "tools/generate/generate.h"

#include <stdio.h>
#include <string.h>

enum { PASS_SEED = 1000003 }; /* what differs between the seeds of passes */

/* ---- stages of a pass ------------------------------------------------------------------------ */

typedef struct stage_of_pass {
    char name[64];
    kin_stage stage;
    kin_desc want;
} stage_of_pass;

static void pass_stage(const kin_generate *g, const kin_clip_work *w, int pass, bool frames,
                       stage_of_pass *out) {
    const char *name = frames ? "frames" : "latents";
    if (g->passes.count == 1) snprintf(out->name, sizeof out->name, "%s", name);
    else snprintf(out->name, sizeof out->name, "%s-%d", name, pass);
    int64_t factor = frames ? 1 : g->vae.space_factor;
    int64_t dims[5] = {1, frames ? 3 : g->vae.channels,
                       frames ? g->passes.frames : g->latent_frames, g->out_height / factor,
                       g->out_width / factor};
    out->want = kin_desc_dense(KIN_F32, 5, dims);
    out->stage =
        (kin_stage){w->clip->stages, out->name, frames ? w->frame_key : w->latent_key, 1, {name}};
}

static bool pass_there(const kin_generate *g, const kin_clip_work *w, int pass, bool frames) {
    stage_of_pass s;
    pass_stage(g, w, pass, frames, &s);
    return kin_stage_there(g->context, &s.stage, &s.want);
}

static bool pass_load(const kin_generate *g, const kin_clip_work *w, int pass, bool frames,
                      kin_host_tensor *out) {
    stage_of_pass s;
    pass_stage(g, w, pass, frames, &s);
    if (!kin_stage_load(g->context, &s.stage, &s.want, out)) return false;
    kin_stage_tell(g->context, &s.stage);
    return true;
}

static kin_status pass_save(const kin_generate *g, const kin_clip_work *w, int pass, bool frames,
                            const kin_host_tensor *tensor) {
    stage_of_pass s;
    pass_stage(g, w, pass, frames, &s);
    return kin_stage_save(g->context, &s.stage, tensor);
}

bool kin_batch_to_sample(const kin_clip_batch *batch, int first) {
    const kin_generate *g = batch->g;
    for (int pass = first; pass < g->passes.count; pass++)
        for (size_t i = 0; i < batch->count; i++)
            if (!pass_there(g, batch->work[i], pass, true) &&
                !pass_there(g, batch->work[i], pass, false))
                return true;
    return false;
}

static kin_status check_interrupt(const kin_generate *g) {
    if (!kin_interrupted()) return KIN_OK;
    return kin_fail(g->context, KIN_CANCELLED, "stopped");
}

/* Clip `index` of a tensor [B, ...], as [1, ...], without a copy. */
static kin_host_tensor one_of(const kin_host_tensor *all, size_t index) {
    int64_t dims[5];
    memcpy(dims, all->desc.dims, sizeof dims);
    dims[0] = 1;
    kin_host_tensor one = {.desc = kin_desc_dense(KIN_F32, 5, dims)};
    one.data = (float *)all->data + (int64_t)index * kin_desc_count(&one.desc);
    return one;
}

static kin_status copy_of(kin_context *context, const kin_host_tensor *from, kin_host_tensor *out) {
    kin_status status =
        kin_host_tensor_create(context, KIN_F32, from->desc.rank, from->desc.dims, out);
    if (status == KIN_OK) memcpy(out->data, from->data, kin_desc_bytes(&from->desc));
    return status;
}

/* ---- latents --------------------------------------------------------------------------------- */

/* What a clip's tuples put into its part of `given` and `ratios`. */
static kin_status place_given(kin_generate *g, kin_clip_work *w, int pass, float *given,
                              float *ratios) {
    size_t files = w->conditions.references.count, count = files + (size_t)pass;
    kin_mask_reference *references = kin_calloc(g->context, count + 1, sizeof *references);
    if (!references) return KIN_OUT_OF_MEMORY;
    for (size_t i = 0; i < count; i++) {
        references[i].latents = w->references[i].data;
        references[i].frames = i < files
                                   ? kin_vae_latent_frames(&g->pipeline.system.vae,
                                                           w->conditions.references.list[i].frames)
                                   : g->latent_frames;
    }
    kin_mask_sample sample = {.latents = given,
                              .mask = ratios,
                              .channels = g->vae.channels,
                              .frames = g->latent_frames,
                              .area = g->out_height / g->vae.space_factor *
                                      (g->out_width / g->vae.space_factor),
                              .references = references,
                              .reference_count = count};
    kin_status status = kin_mask_strategy_apply(g->context, w->conditions.tuples,
                                                w->conditions.count, pass, &sample);
    kin_free(g->context, references);
    return status;
}

static kin_status make_given(kin_generate *g, kin_clip_work *const *work, size_t count, int pass,
                             float **out_given, float **out_ratios) {
    int64_t factor = g->vae.space_factor;
    size_t frames = (size_t)g->latent_frames;
    size_t each = (size_t)g->vae.channels * frames *
                  (size_t)(g->out_height / factor * (g->out_width / factor));
    *out_given = kin_calloc(g->context, count * each, sizeof **out_given);
    *out_ratios = kin_calloc(g->context, count * frames, sizeof **out_ratios);
    kin_status status = *out_given && *out_ratios ? KIN_OK : KIN_OUT_OF_MEMORY;
    for (size_t i = 0; status == KIN_OK && i < count; i++) {
        status = kin_clip_encode_files(g, work[i]);
        if (status == KIN_OK)
            status = place_given(g, work[i], pass, *out_given + i * each, *out_ratios + i * frames);
    }
    return status;
}

/* The clips that are sampled, and where their latents go. */
typedef struct sampled {
    kin_generate *g;
    kin_clip_work **work;
    kin_host_tensor **latents; /* NULL for a clip that has its latents */
    size_t count;
    int pass;
} sampled;

/* Latents are on disk as soon as they are there. */
static kin_status keep_latents(void *user, int64_t first, int64_t count, const float *latents) {
    const sampled *s = user;
    const kin_generate *g = s->g;
    int64_t factor = g->vae.space_factor;
    int64_t dims[5] = {count, g->vae.channels, g->latent_frames, g->out_height / factor,
                       g->out_width / factor};
    kin_host_tensor all = {.desc = kin_desc_dense(KIN_F32, 5, dims), .data = (void *)latents};
    kin_status status = KIN_OK;
    for (int64_t i = 0; status == KIN_OK && i < count; i++) {
        kin_host_tensor one = one_of(&all, (size_t)i), *out = s->latents[first + i];
        if (!out) continue;
        status = pass_save(g, s->work[first + i], s->pass, false, &one);
        if (status == KIN_OK) status = copy_of(g->context, &one, out);
    }
    return status;
}

static kin_status sample(sampled *s, size_t together) {
    kin_generate *g = s->g;
    kin_text text = {{.data = NULL}, {.data = NULL}}, negative = text;
    kin_host_tensor latents = {.data = NULL};
    float *given = NULL, *ratios = NULL;
    uint64_t *seeds = kin_alloc(g->context, s->count * sizeof *seeds);
    kin_status status = seeds ? KIN_OK : KIN_OUT_OF_MEMORY;
    for (size_t i = 0; status == KIN_OK && i < s->count; i++) {
        seeds[i] = s->work[i]->clip->seed + (uint64_t)s->pass * PASS_SEED;
        status = kin_clip_load_text(g, s->work[i]);
    }
    bool has_negative = s->work[0]->negative != NULL;
    if (status == KIN_OK) status = kin_generate_gather(g, s->work, s->count, s->pass, false, &text);
    if (status == KIN_OK && has_negative)
        status = kin_generate_gather(g, s->work, s->count, s->pass, true, &negative);
    if (status == KIN_OK && kin_clip_masked(g, s->work[0]))
        status = make_given(g, s->work, s->count, s->pass, &given, &ratios);
    if (status == KIN_OK) {
        kin_generation generation = g->shape;
        generation.count = (int64_t)s->count;
        generation.together = (int64_t)together;
        generation.seeds = seeds;
        generation.given = given;
        generation.ratios = ratios;
        generation.finished = keep_latents;
        generation.finished_user = s;
        status = kin_pipeline_sample(&g->pipeline, &generation, &text,
                                     has_negative ? &negative : NULL, &latents);
    }
    kin_host_tensor_free(g->context, &latents);
    kin_text_free(g->context, &text);
    kin_text_free(g->context, &negative);
    kin_free(g->context, given);
    kin_free(g->context, ratios);
    kin_free(g->context, seeds);
    return status;
}

/* Latents of the clips that have no frames. */
static kin_status make_latents(const kin_clip_batch *b, int pass, const kin_host_tensor *frames,
                               kin_host_tensor *latents) {
    kin_context *context = b->g->context;
    sampled s = {.g = b->g, .pass = pass};
    s.work = kin_alloc(context, b->count * sizeof *s.work);
    s.latents = kin_alloc(context, b->count * sizeof *s.latents);
    kin_status status = s.work && s.latents ? KIN_OK : KIN_OUT_OF_MEMORY;
    for (size_t first = 0; status == KIN_OK && first < b->count; first += b->together) {
        bool missing = false;
        size_t end = first + b->together;
        for (size_t i = first; i < end; i++)
            if (!frames[i].data && !pass_load(b->g, b->work[i], pass, false, &latents[i]))
                missing = true;
        for (size_t i = first; missing && i < end; i++) {
            s.work[s.count] = b->work[i];
            s.latents[s.count++] = frames[i].data || latents[i].data ? NULL : &latents[i];
        }
    }
    if (status == KIN_OK && s.count > 0) status = sample(&s, b->together);
    kin_free(context, s.work);
    kin_free(context, s.latents);
    return status;
}

/* ---- frames ---------------------------------------------------------------------------------- */

/* Puts a pass's frames [1, 3, T, Y, X] where they belong in the whole video. */
static void place_frames(const kin_generate *g, kin_clip_work *w, int pass,
                         const kin_host_tensor *frames) {
    int64_t first, count, at = kin_passes_place(&g->passes, pass, &first, &count);
    int64_t area = g->out_height * g->out_width;
    for (int64_t c = 0; c < 3; c++)
        memcpy((float *)w->video.data + (c * g->out_frames + at + first) * area,
               (const float *)frames->data + (c * g->passes.frames + first) * area,
               (size_t)(count * area) * sizeof(float));
}

/* Decodes the latents that are there, in one go. Frames that cannot be kept are no reason to stop:
 * the video comes next. */
static kin_status decode(const kin_clip_batch *b, int pass, const kin_host_tensor *latents,
                         kin_host_tensor *frames) {
    kin_generate *g = b->g;
    kin_host_tensor all = {.data = NULL}, decoded = {.data = NULL};
    int64_t count = 0, dims[5] = {0};
    for (size_t i = 0; i < b->count; i++) {
        if (!latents[i].data) continue;
        memcpy(dims, latents[i].desc.dims, sizeof dims);
        count++;
    }
    if (count == 0) return KIN_OK;
    dims[0] = count;
    kin_status status = kin_host_tensor_create(g->context, KIN_F32, 5, dims, &all);
    for (size_t i = 0, k = 0; status == KIN_OK && i < b->count; i++) {
        if (!latents[i].data) continue;
        kin_host_tensor one = one_of(&all, k++);
        memcpy(one.data, latents[i].data, kin_desc_bytes(&one.desc));
    }
    if (status == KIN_OK) status = check_interrupt(g);
    if (status == KIN_OK) status = kin_pipeline_decode(&g->pipeline, &all, g->quiet, &decoded);
    for (size_t i = 0, k = 0; status == KIN_OK && i < b->count; i++) {
        if (!latents[i].data) continue;
        kin_host_tensor one = one_of(&decoded, k++);
        status = copy_of(g->context, &one, &frames[i]);
        if (status == KIN_OK && pass_save(g, b->work[i], pass, true, &one) != KIN_OK)
            kin_log(g->context, KIN_LOG_WARN, "frames are not kept: %s",
                    kin_context_error(g->context));
    }
    kin_host_tensor_free(g->context, &all);
    kin_host_tensor_free(g->context, &decoded);
    return status;
}

static kin_status make_frames(const kin_clip_batch *b, int pass, kin_host_tensor *frames) {
    kin_generate *g = b->g;
    kin_host_tensor *latents = kin_calloc(g->context, b->count, sizeof *latents);
    bool missing = false;
    if (!latents) return KIN_OUT_OF_MEMORY;
    for (size_t i = 0; i < b->count; i++)
        if (!pass_load(g, b->work[i], pass, true, &frames[i])) missing = true;
    kin_status status = missing ? make_latents(b, pass, frames, latents) : KIN_OK;
    if (status == KIN_OK) status = decode(b, pass, latents, frames);
    for (size_t i = 0; i < b->count; i++) kin_host_tensor_free(g->context, &latents[i]);
    kin_free(g->context, latents);
    return status;
}

kin_status kin_batch_make_pass(const kin_clip_batch *batch, int pass) {
    kin_generate *g = batch->g;
    kin_host_tensor *frames = kin_calloc(g->context, batch->count, sizeof *frames);
    kin_status status = frames ? check_interrupt(g) : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK && g->passes.count > 1)
        kin_log(g->context, KIN_LOG_INFO, "pass %d of %d", pass + 1, g->passes.count);
    if (status == KIN_OK) status = make_frames(batch, pass, frames);
    bool more =
        status == KIN_OK && pass + 1 < g->passes.count && kin_batch_to_sample(batch, pass + 1);
    for (size_t i = 0; status == KIN_OK && i < batch->count; i++) {
        place_frames(g, batch->work[i], pass, &frames[i]);
        if (more) status = kin_clip_encode_pass(g, batch->work[i], pass, &frames[i]);
    }
    for (size_t i = 0; frames && i < batch->count; i++)
        kin_host_tensor_free(g->context, &frames[i]);
    kin_free(g->context, frames);
    return status;
}
