/* A model as kinora plan and kinora check compare build it: a forward pass, or a training step. */
#include "tools/plan_graph.h"

#include "models/training.h"
#include "models/vae_temporal.h"
#include <stdio.h>
#include <string.h>

/* "16x256x256" (frames, rows, columns) or "256x256" (one frame). */
static bool parse_size(const char *text, kin_plan_request *r) {
    long long t = 1, y = 0, x = 0;
    int used = 0;
    bool good = sscanf(text, "%lldx%lldx%lld%n", &t, &y, &x, &used) == 3 && !text[used];
    if (!good) {
        t = 1;
        good = sscanf(text, "%lldx%lld%n", &y, &x, &used) == 2 && !text[used];
    }
    r->frames = t;
    r->height = y;
    r->width = x;
    return good && t >= 1 && y >= 1 && x >= 1 && t <= 1 << 20 && y <= 1 << 20 && x <= 1 << 20;
}

static bool parse_dtype(const char *text, kin_dtype *out) {
    return kin_dtype_from_name(text, out) &&
           (*out == KIN_F32 || *out == KIN_F16 || *out == KIN_BF16);
}

kin_plan_request kin_plan_request_default(void) {
    return (kin_plan_request){
        .compute = "f32", .weights = "f32", .batch = 1, .frames = 16, .height = 256, .width = 256};
}

int kin_plan_request_check(kin_plan_request *r, const char *verb) {
    if (r->size && !parse_size(r->size, r))
        return kin_usage_error(verb, "--size wants FRAMESxROWSxCOLUMNS, not \"%s\"", r->size);
    bool packed = strcmp(r->weights, "q8_0") == 0;
    if (packed) r->precision.weights = KIN_Q8_0;
    if (!parse_dtype(r->compute, &r->precision.compute) ||
        (!packed && !parse_dtype(r->weights, &r->precision.weights)))
        return kin_usage_error(verb, "--compute and --weights want f32, bf16 or f16, and the "
                                     "weights of a forward pass q8_0, too");
    if (packed && r->train)
        return kin_usage_error(verb, "weights in q8_0 cannot be trained: --weights f32 or bf16");
    if (r->part && strcmp(r->part, "encoder") != 0 && strcmp(r->part, "decoder") != 0)
        return kin_usage_error(verb, "--part wants encoder or decoder, not \"%s\"", r->part);
    if (r->batch < 1 || r->batch > 1 << 20)
        return kin_usage_error(verb, "--batch must be at least 1");
    return -1;
}

/* The optimizer of Open-Sora's training, as kinora train uses it. */
static const kin_optimizer_options optimizer = {
    .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .max_grad_norm = 1, .ema_decay = 0.9999};

enum { VAE_FACTOR = 8 }; /* of the published autoencoder, in front of every published denoiser */

int64_t kin_plan_text_length(const kin_plan_request *r) {
    if (r->text_length > 0) return r->text_length;
    if (r->choice.kind != KIN_MODEL_DENOISER) return 120;
    return kin_denoiser_shape_of(&r->choice.denoiser).text_length;
}

/* The smallest whole number of latents for so many pixels or frames. */
static int64_t latents_of(int64_t size, int64_t factor) {
    return (size + factor - 1) / factor;
}

/* Frames of the latents: an odd number of frames begins with one that stands alone. */
static int64_t latent_frames(int64_t frames, int64_t factor) {
    return frames % 2 ? latents_of(frames - 1, factor) + 1 : latents_of(frames, factor);
}

/* A training step of the denoiser, as published. x: sizes of the latents. */
static kin_status append_step(kin_graph *graph, const kin_plan_request *r, const int64_t x[5]) {
    const kin_denoiser_config *c = &r->choice.denoiser;
    kin_denoiser_shape shape = kin_denoiser_shape_of(c);
    kin_schedule *schedule = NULL;
    kin_status status = kin_schedule_create(kin_graph_context(graph), 1000, NULL, &schedule);
    if (status != KIN_OK) return status;
    kin_video_training training = {.model = c,
                                   .schedule = schedule,
                                   .scaling_factor = 0.18215,
                                   .caption_dropout = shape.null_captions,
                                   .frame_masks = shape.frame_masks,
                                   .plan_loss = c->kind == KIN_DENOISER_OPENSORA_PLAN,
                                   .plan = {.noise_offset = 0.02, .snr_gamma = 5},
                                   .precision = r->precision,
                                   .batch = r->batch,
                                   .frames = x[2],
                                   .latent_height = x[3],
                                   .latent_width = x[4],
                                   .text_length = kin_plan_text_length(r)};
    kin_training_update(graph, kin_video_training_loss(graph, &training), &optimizer);
    kin_schedule_free(schedule);
    return kin_graph_status(graph);
}

static kin_status append_denoiser(kin_graph *graph, const kin_plan_request *r) {
    enum { PLAN_TIME_FACTOR = 4 };
    const kin_denoiser_config *c = &r->choice.denoiser;
    kin_denoiser_shape shape = kin_denoiser_shape_of(c);
    int64_t x[5] = {r->batch, shape.in_channels, shape.pictures ? 1 : r->frames,
                    r->height / VAE_FACTOR, r->width / VAE_FACTOR};
    if (c->kind == KIN_DENOISER_OPENSORA_PLAN) x[2] = latent_frames(r->frames, PLAN_TIME_FACTOR);
    if (x[3] < 1 || x[4] < 1 || r->height % VAE_FACTOR || r->width % VAE_FACTOR)
        return kin_fail(kin_graph_context(graph), KIN_INVALID,
                        "--size %s: rows and columns must be multiples of %d, the autoencoder's "
                        "factor",
                        r->size, VAE_FACTOR);
    if (r->train) return append_step(graph, r, x);
    int64_t y[3] = {r->batch, kin_plan_text_length(r), shape.caption_channels};
    kin_denoiser_inputs inputs = {.x = kin_input(graph, "x", KIN_F32, 5, x),
                                  .timestep = kin_input(graph, "timestep", KIN_F32, 1, &r->batch),
                                  .y = kin_input(graph, "y", KIN_F32, 3, y),
                                  .y_lengths =
                                      kin_input(graph, "y_lengths", KIN_I32, 1, &r->batch)};
    kin_output(graph, "out", kin_denoiser(graph, c, &r->precision, &inputs));
    return kin_graph_status(graph);
}

static kin_status append_vae(kin_graph *graph, const kin_plan_request *r) {
    const kin_sd_vae_config *c = &r->choice.vae.sd;
    int64_t factor = kin_sd_vae_factor(c), images = r->batch * r->frames;
    if (r->height % factor || r->width % factor)
        return kin_fail(kin_graph_context(graph), KIN_INVALID,
                        "--size %s: rows and columns must be multiples of %lld, the autoencoder's "
                        "factor",
                        r->size, (long long)factor);
    bool temporal = r->choice.vae.kind == KIN_VAE_TEMPORAL;
    if (r->train && temporal)
        return kin_fail(kin_graph_context(graph), KIN_UNSUPPORTED,
                        "the temporal decoder is not trained here; plan it without --train");
    if (r->train) {
        kin_vae_training training = {.vae = c,
                                     .loss = {.l1 = 1, .kl = 1e-6},
                                     .precision = r->precision,
                                     .batch = images,
                                     .height = r->height,
                                     .width = r->width};
        kin_training_update(graph, kin_vae_training_loss(graph, &training), &optimizer);
    } else if (r->part && strcmp(r->part, "encoder") == 0) {
        int64_t dims[4] = {images, c->in_channels, r->height, r->width};
        kin_tensor x = kin_input(graph, "images", KIN_F32, 4, dims);
        kin_output(graph, "moments", kin_sd_vae_encode(graph, c, &r->precision, x, false));
    } else {
        int64_t dims[4] = {images, c->latent_channels, r->height / factor, r->width / factor};
        kin_tensor x = kin_input(graph, "latents", KIN_F32, 4, dims);
        if (temporal) x = kin_vae_temporal_decode(graph, c, &r->precision, x, r->frames, false);
        else x = kin_sd_vae_decode(graph, c, &r->precision, x, false);
        kin_output(graph, "images", x);
    }
    return kin_graph_status(graph);
}

static kin_status append_t5(kin_graph *graph, const kin_plan_request *r) {
    int64_t dims[2] = {r->batch, kin_plan_text_length(r)};
    if (r->train)
        return kin_fail(kin_graph_context(graph), KIN_INVALID,
                        "a text encoder is not trained alone: plan the denoiser with --train");
    kin_tensor ids = kin_input(graph, "ids", KIN_I32, 2, dims);
    kin_tensor lengths = kin_input(graph, "lengths", KIN_I32, 1, dims);
    kin_output(graph, "features",
               kin_t5_encode(graph, &r->choice.t5, &r->precision, ids, lengths, false));
    return kin_graph_status(graph);
}

static kin_status append_causal_vae(kin_graph *graph, const kin_plan_request *r) {
    const kin_causal_vae_config *c = &r->choice.vae.causal;
    int64_t space = kin_causal_vae_space_factor(c), time = kin_causal_vae_time_factor(c);
    if (r->train)
        return kin_fail(kin_graph_context(graph), KIN_UNSUPPORTED,
                        "the training of a video VAE against a discriminator is not here; plan "
                        "--part encoder or decoder without --train");
    if (r->part && strcmp(r->part, "encoder") == 0) {
        int64_t dims[5] = {r->batch, 3, r->frames, r->height, r->width};
        kin_tensor x = kin_input(graph, "images", KIN_F32, 5, dims);
        kin_output(graph, "moments", kin_causal_vae_encode(graph, c, &r->precision, x));
    } else {
        int64_t dims[5] = {r->batch, c->embed_dim, latent_frames(r->frames, time),
                           latents_of(r->height, space), latents_of(r->width, space)};
        kin_tensor x = kin_input(graph, "latents", KIN_F32, 5, dims);
        kin_output(graph, "images", kin_causal_vae_decode(graph, c, &r->precision, x));
    }
    return kin_graph_status(graph);
}

kin_status kin_plan_append(kin_graph *graph, const kin_plan_request *r) {
    switch (r->choice.kind) {
    case KIN_MODEL_DENOISER:
        return append_denoiser(graph, r);
    case KIN_MODEL_VAE:
        return r->choice.vae.kind == KIN_VAE_CAUSAL ? append_causal_vae(graph, r)
                                                    : append_vae(graph, r);
    case KIN_MODEL_T5:
        return append_t5(graph, r);
    }
    return KIN_INVALID;
}
