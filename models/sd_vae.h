/* The image autoencoder of Stable Diffusion (diffusers' AutoencoderKL), as Open-Sora, Latte and
 * PixArt use it on the frames of a video. Key names are those of diffusers' files. */
#ifndef KIN_MODELS_SD_VAE_H
#define KIN_MODELS_SD_VAE_H

#include "models/layers.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { KIN_SD_VAE_MAX_LEVELS = 8 };

/* diffusers' config.json, with its key names. */
typedef struct kin_sd_vae_config {
    int in_channels, out_channels;
    int levels; /* entries of block_out_channels: the image shrinks by 2^(levels - 1) */
    int block_out_channels[KIN_SD_VAE_MAX_LEVELS];
    int layers_per_block;
    int latent_channels;
    int norm_num_groups;
    int sample_size;
    double scaling_factor; /* latents of the diffusion = sample * scaling_factor */
} kin_sd_vae_config;

/* stabilityai/sd-vae-ft-mse and -ema: 83,653,863 parameters, 8x8 pixels to 4 channels. */
KIN_API kin_sd_vae_config kin_sd_vae_config_default(void);
/* Reads a parsed config.json over the defaults and checks it. A missing key keeps its default;
 * `where` names the object in messages. */
KIN_API kin_status kin_sd_vae_config_parse(kin_context *context, const struct json_t *json,
                                           const char *where, kin_unknown_keys unknown,
                                           kin_sd_vae_config *out_config);
/* The reverse, with diffusers' keys. The caller frees it with json_decref. */
KIN_API kin_status kin_sd_vae_config_json(kin_context *context, const kin_sd_vae_config *config,
                                          struct json_t **out_json);
/* KIN_INVALID, with a message, unless a graph can be built from it. */
KIN_API kin_status kin_sd_vae_config_check(kin_context *context, const kin_sd_vae_config *config);
/* Pixels per latent pixel, along each axis. */
KIN_API int kin_sd_vae_factor(const kin_sd_vae_config *config);

/* Accepts diffusers' names, those of its old files (query, key, value, proj_attn) and CompVis'
 * (encoder.down.0.block.0, with or without "first_stage_model."). CompVis keeps the attention's
 * weights as [C, C, 1, 1]: the loader drops axes of size 1. config: kin_sd_vae_config. */
KIN_API bool kin_sd_vae_rename(const void *config, const char *file_name, char *out_name,
                               size_t size);

/* images [B, in_channels, Y, X] in -1..1 -> moments [B, 2 * latent_channels, Y/f, X/f]: means, then
 * log-variances (not clamped), in f32. name_hidden: outputs "hidden.N" after conv_in, each down
 * block and the mid block. */
KIN_API kin_tensor kin_sd_vae_encode(kin_graph *graph, const kin_sd_vae_config *config,
                                     const kin_precision *precision, kin_tensor images,
                                     bool name_hidden);
/* latents [B, latent_channels, Y, X], already divided by scaling_factor -> images
 * [B, out_channels, f*Y, f*X], not clamped, in f32. name_hidden: outputs "hidden.N" after conv_in,
 * the mid block and each up block. */
KIN_API kin_tensor kin_sd_vae_decode(kin_graph *graph, const kin_sd_vae_config *config,
                                     const kin_precision *precision, kin_tensor latents,
                                     bool name_hidden);

/* moments [B, 2C, Y, X] -> means and log-variances clamped to -30..20, both [B, C, Y, X]. */
KIN_API void kin_sd_vae_posterior(kin_graph *graph, kin_tensor moments, kin_tensor *out_mean,
                                  kin_tensor *out_logvar);
/* mean + exp(logvar / 2) * noise, noise [B, C, Y, X]. */
KIN_API kin_tensor kin_sd_vae_sample(kin_graph *graph, kin_tensor moments, kin_tensor noise);

/* Weights of the terms of the training loss; all sums over the elements of an image, means over the
 * batch (CompVis' and diffusers' convention). */
typedef struct kin_sd_vae_loss_options {
    double l1, l2;
    double kl; /* CompVis: 1e-6 */
} kin_sd_vae_loss_options;

typedef struct kin_sd_vae_losses {
    kin_tensor loss;           /* scalar: l1 * rec_l1 + l2 * rec_l2 + kl * mean(kl) */
    kin_tensor rec_l1, rec_l2; /* scalars: sum of |.| and of squares, divided by B */
    kin_tensor kl;             /* [B]: 0.5 sum(mean^2 + var - 1 - logvar) */
    kin_tensor latent;         /* [B, C, Y/f, X/f]: the posterior's sample */
    kin_tensor reconstruction; /* as images */
} kin_sd_vae_losses;

/* Encodes, samples, decodes, and compares: images [B, 3, Y, X], noise [B, C, Y/f, X/f]. */
KIN_API void kin_sd_vae_train(kin_graph *graph, const kin_sd_vae_config *config,
                              const kin_precision *precision,
                              const kin_sd_vae_loss_options *options, kin_tensor images,
                              kin_tensor noise, kin_sd_vae_losses *out_losses);

#ifdef __cplusplus
}
#endif
#endif
