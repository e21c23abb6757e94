/* Frames to latents and back. */
#include <string.h>

#include "tools/generate/pipeline_internal.h"
#include "tools/generate/pipeline_noise.h"
#include "tools/tool.h"

/* What the coder's progress is shown by. */
typedef struct coding {
    kin_progress progress;
    const char *label;
    bool quiet, begun;
} coding;

static bool show(void *user, int64_t done, int64_t all) {
    coding *c = user;
    if (!c->begun) c->progress = kin_progress_begin(c->label, 0, all, c->quiet);
    c->begun = true;
    kin_progress_show(&c->progress, done, NULL);
    return !kin_interrupted();
}

static kin_status open_coder(kin_pipeline *p, coding *c, kin_vae_coder **out_coder) {
    kin_vae_coder_options options = {.precision = p->precision,
                                     .memory = p->memory,
                                     .cut = p->cut,
                                     .tiling = p->tiling,
                                     .progress = show,
                                     .progress_user = c};
    return kin_vae_coder_open(p->device, &p->system.vae, p->system.parts[KIN_PART_VAE].path,
                              &options, out_coder);
}

kin_status kin_pipeline_encode_video(kin_pipeline *p, const kin_host_tensor *video,
                                     const uint64_t *seeds, kin_host_tensor *out_latents) {
    double scale = kin_vae_shape_of(&p->system.vae).scale;
    coding c = {.label = "encoding", .quiet = true};
    kin_vae_coder *coder = NULL;
    kin_host_tensor moments = {.data = NULL};
    *out_latents = (kin_host_tensor){.data = NULL};
    kin_status status = open_coder(p, &c, &coder);
    if (status == KIN_OK) status = kin_vae_coder_encode(coder, video, &moments);
    if (status == KIN_OK) {
        int64_t dims[5];
        memcpy(dims, moments.desc.dims, sizeof dims);
        dims[1] /= 2;
        status = kin_host_tensor_create(p->context, KIN_F32, 5, dims, out_latents);
        size_t values = (size_t)(dims[1] * dims[2] * dims[3] * dims[4]);
        for (int64_t i = 0; status == KIN_OK && i < dims[0]; i++)
            kin_posterior_draw((const float *)moments.data + (size_t)i * 2 * values, values,
                               seeds ? seeds + i : NULL, scale,
                               (float *)out_latents->data + (size_t)i * values);
    }
    kin_vae_coder_close(coder);
    kin_host_tensor_free(p->context, &moments);
    return status;
}

kin_status kin_pipeline_decode(kin_pipeline *p, const kin_host_tensor *latents, bool quiet,
                               kin_host_tensor *out_frames) {
    coding c = {.label = "decoding", .quiet = quiet};
    kin_vae_coder *coder = NULL;
    *out_frames = (kin_host_tensor){.data = NULL};
    kin_status status = open_coder(p, &c, &coder);
    if (status == KIN_OK) status = kin_vae_coder_decode(coder, latents, out_frames);
    kin_vae_coder_close(coder);
    if (c.begun) kin_progress_end(&c.progress);
    if (status != KIN_OK) return status;
    float *values = out_frames->data;
    for (int64_t i = 0, count = kin_desc_count(&out_frames->desc); i < count; i++) {
        float v = values[i];
        values[i] = v < -1 ? -1 : v > 1 ? 1 : v;
    }
    return KIN_OK;
}

kin_status kin_pipeline_video_memory(kin_pipeline *p, bool encode, int64_t frames, int64_t height,
                                     int64_t width, uint64_t *out_bytes, int64_t *out_runs) {
    coding c = {.quiet = true};
    kin_vae_coder *coder = NULL;
    kin_status status = open_coder(p, &c, &coder);
    if (status == KIN_OK)
        status = kin_vae_coder_memory(coder, encode, 1, frames, height, width, out_bytes, out_runs);
    kin_vae_coder_close(coder);
    return status;
}
