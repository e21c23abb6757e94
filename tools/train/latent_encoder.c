#include "tools/train/latent_encoder.h"

#include <string.h>

#include "runtime/weights.h"

/* Where frames are coded together although nobody limits memory. */
#define ROOM ((uint64_t)4 << 30)

struct kin_latent_encoder {
    kin_context *context;
    kin_device *device;
    kin_latent_encoder_options options;
    kin_vae_config vae;
    kin_vae_coder *coder; /* or */
    kin_plan *plan;       /* of all frames as a batch: [T, 3, Y, X] -> [T, 2C, Y', X'] */
    kin_store *store;
    float *frames, *moments;
};

void kin_latent_encoder_close(kin_latent_encoder *encoder) {
    if (!encoder) return;
    kin_vae_coder_close(encoder->coder);
    kin_plan_free(encoder->plan);
    kin_store_free(encoder->store);
    kin_free(encoder->context, encoder->frames);
    kin_free(encoder->context, encoder->moments);
    kin_free(encoder->context, encoder);
}

/* Moments of a clip: 2C, T', Y', X'. */
static void moment_dims(const kin_latent_encoder *e, int64_t dims[4]) {
    kin_vae_shape shape = kin_vae_shape_of(&e->vae);
    dims[0] = 2 * shape.channels;
    dims[1] = kin_vae_latent_frames(&e->vae, e->options.frames);
    dims[2] = e->options.height / shape.space_factor;
    dims[3] = e->options.width / shape.space_factor;
}

/* Plans all frames together; *out_fits tells whether the plan is small enough to be used. */
static kin_status plan_frames(kin_latent_encoder *e, kin_graph **out_graph, bool *out_fits) {
    const kin_latent_encoder_options *o = &e->options;
    uint64_t most = o->memory > 0 ? o->memory : ROOM;
    int64_t dims[4] = {o->frames, 3, o->height, o->width};
    kin_graph *graph;
    kin_status status = kin_graph_create(e->context, &graph);
    if (status != KIN_OK) return status;
    kin_tensor images = kin_input(graph, "images", KIN_F32, 4, dims);
    kin_scope_push(graph, "vae");
    kin_tensor moments = kin_sd_vae_encode(graph, &e->vae.sd, &o->precision, images, false);
    kin_scope_pop(graph);
    kin_output(graph, "moments", moments);
    status = kin_plan_build(graph, e->device, NULL, &e->plan);
    *out_fits = status == KIN_OK && kin_plan_summarize(e->plan)->peak <= most;
    *out_graph = graph;
    return status;
}

static kin_status prepare_frames(kin_latent_encoder *e, const kin_graph *graph) {
    const kin_latent_encoder_options *o = &e->options;
    kin_weights_options load = {.prefix = "vae",
                                .rename = kin_vae_rename,
                                .config = &e->vae,
                                .allow_unexpected = true}; /* the decoder's half of the file */
    int64_t dims[4];
    moment_dims(e, dims);
    kin_status status = kin_store_create(e->device, &e->store);
    if (status == KIN_OK) status = kin_store_add_graph(e->store, graph, 0);
    if (status == KIN_OK) status = kin_weights_load(e->store, o->path, &load, NULL);
    if (status == KIN_OK) status = kin_plan_prepare(e->plan, e->store, NULL);
    if (status != KIN_OK) return status;
    e->frames = kin_alloc(e->context, (size_t)(3 * o->frames) * (size_t)o->height *
                                          (size_t)o->width * sizeof *e->frames);
    e->moments =
        kin_alloc(e->context, (size_t)(dims[0] * dims[1] * dims[2] * dims[3]) * sizeof *e->moments);
    return e->frames && e->moments ? KIN_OK : KIN_OUT_OF_MEMORY;
}

kin_status kin_latent_encoder_open(kin_device *device, const kin_latent_encoder_options *options,
                                   kin_latent_encoder **out_encoder) {
    *out_encoder = NULL;
    kin_latent_encoder *e = kin_calloc(device->context, 1, sizeof *e);
    if (!e) return KIN_OUT_OF_MEMORY;
    e->context = device->context;
    e->device = device;
    e->options = *options;
    e->vae = *options->vae;
    kin_status status = KIN_OK;
    bool together = false;
    if (e->vae.kind != KIN_VAE_CAUSAL) {
        kin_graph *graph = NULL;
        status = plan_frames(e, &graph, &together);
        if (status == KIN_OK && together) status = prepare_frames(e, graph);
        kin_graph_destroy(graph);
    }
    if (status == KIN_OK && !together) {
        kin_vae_coder_options coder = {.precision = options->precision, .memory = options->memory};
        kin_plan_free(e->plan);
        e->plan = NULL;
        status = kin_vae_coder_open(device, &e->vae, options->path, &coder, &e->coder);
    }
    if (status == KIN_OK) *out_encoder = e;
    else kin_latent_encoder_close(e);
    return status;
}

/* from [a, b, plane] -> to [b, a, plane] */
static void swap_axes(const float *from, int64_t a, int64_t b, size_t plane, float *to) {
    for (int64_t i = 0; i < a; i++)
        for (int64_t k = 0; k < b; k++)
            memcpy(to + (size_t)(k * a + i) * plane, from + (size_t)(i * b + k) * plane,
                   plane * sizeof *to);
}

kin_status kin_latent_encoder_run(kin_latent_encoder *encoder, const kin_host_tensor *clip,
                                  kin_host_tensor *out_moments) {
    kin_latent_encoder *e = encoder;
    const kin_latent_encoder_options *o = &e->options;
    int64_t m[4];
    if (e->coder) return kin_vae_coder_encode(e->coder, clip, out_moments);
    moment_dims(e, m);
    swap_axes(clip->data, 3, o->frames, (size_t)o->height * (size_t)o->width, e->frames);
    kin_status status = kin_plan_write(e->plan, "images", KIN_F32, e->frames);
    if (status == KIN_OK) status = kin_plan_run(e->plan);
    if (status == KIN_OK) status = kin_plan_read(e->plan, "moments", KIN_F32, e->moments);
    if (status == KIN_OK)
        status = kin_host_tensor_create(e->context, KIN_F32, 5,
                                        (int64_t[]){1, m[0], m[1], m[2], m[3]}, out_moments);
    if (status == KIN_OK)
        swap_axes(e->moments, m[1], m[0], (size_t)(m[2] * m[3]), out_moments->data);
    return status;
}
