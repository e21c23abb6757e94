/* Any of the video autoencoders behind one set of functions: the image VAE frame by frame, the same
 * with the temporal decoder, and the causal video VAE. */
#ifndef KIN_MODELS_VAE_H
#define KIN_MODELS_VAE_H

#include "models/causal_vae.h"
#include "models/sd_vae.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum kin_vae_kind {
    KIN_VAE_SD,       /* AutoencoderKL, on each frame */
    KIN_VAE_TEMPORAL, /* AutoencoderKLTemporalDecoder: decodes in chunks of 14 frames */
    KIN_VAE_CAUSAL    /* CausalVAEModel */
} kin_vae_kind;

/* Of the configurations the one of `kind` counts; `sd` is that of the temporal decoder, too. */
typedef struct kin_vae_config {
    kin_vae_kind kind;
    kin_sd_vae_config sd;
    kin_causal_vae_config causal;
} kin_vae_config;

/* "AutoencoderKL", "AutoencoderKLTemporalDecoder", "CausalVAEModel" */
KIN_API const char *kin_vae_kind_name(kin_vae_kind kind);
/* Reads a parsed config.json of whichever it is of, by "_class_name" and otherwise by the keys that
 * only one has. `where` names the object in messages. */
KIN_API kin_status kin_vae_config_parse(kin_context *context, const struct json_t *json,
                                        const char *where, kin_unknown_keys unknown,
                                        kin_vae_config *out_config);
/* The reverse, with the keys of the published files. The caller frees it with json_decref. */
KIN_API kin_status kin_vae_config_json(kin_context *context, const kin_vae_config *config,
                                       struct json_t **out_json);
/* The rename function of the kind. config: kin_vae_config. */
KIN_API bool kin_vae_rename(const void *config, const char *file_name, char *out_name, size_t size);

/* Numbers that every autoencoder has. */
typedef struct kin_vae_shape {
    int channels;     /* of latents: C */
    int space_factor; /* pixels for one latent pixel, along each axis */
    int time_factor;  /* frames for one latent frame; 1 where frames are coded one by one. Above
                         1 the first frame has a latent frame of its own */
    double scale;     /* latents of the diffusion = posterior's sample * this */
} kin_vae_shape;

KIN_API kin_vae_shape kin_vae_shape_of(const kin_vae_config *config);
/* Latent frames of a video of `frames`, and the frames that so many latent ones decode to. A number
 * of frames that the autoencoder cannot code (33 can, 32 cannot at a time factor of 4) is rounded
 * down. */
KIN_API int64_t kin_vae_latent_frames(const kin_vae_config *config, int64_t frames);
KIN_API int64_t kin_vae_video_frames(const kin_vae_config *config, int64_t latent_frames);

/* videos [B, 3, T, Y, X] in -1..1 -> moments [B, 2C, T', Y', X'] in f32: means, then log-variances
 * (not clamped). */
KIN_API kin_tensor kin_vae_encode(kin_graph *graph, const kin_vae_config *config,
                                  const kin_precision *precision, kin_tensor videos);
/* latents [B, C, T', Y', X'] of the diffusion (divided by `scale` in here) -> videos
 * [B, 3, T, Y, X], not clamped, in f32. */
KIN_API kin_tensor kin_vae_decode(kin_graph *graph, const kin_vae_config *config,
                                  const kin_precision *precision, kin_tensor latents);

#ifdef __cplusplus
}
#endif
#endif
