/* The autoencoder whose decoder sees neighbouring frames: diffusers' AutoencoderKLTemporalDecoder,
 * of Stable Video Diffusion (Blattmann et al. 2023, arXiv:2311.15127), which Latte decodes with.
 * The encoder is kin_sd_vae_encode, the configuration kin_sd_vae_config (without norm_num_groups:
 * 32), and names in files are diffusers' (kin_sd_vae_rename). */
#ifndef KIN_MODELS_VAE_TEMPORAL_H
#define KIN_MODELS_VAE_TEMPORAL_H

#include "models/sd_vae.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Frames that Latte decodes at a time; chunks know nothing of each other. */
enum { KIN_VAE_TEMPORAL_CHUNK = 14 };

/* latents [B * frames, latent_channels, Y, X], the frames of a video together, already divided by
 * scaling_factor -> images [B * frames, out_channels, f*Y, f*X], not clamped, in f32. name_hidden:
 * outputs "hidden.N" after conv_in, the mid block, each up block, and conv_out. */
KIN_API kin_tensor kin_vae_temporal_decode(kin_graph *graph, const kin_sd_vae_config *config,
                                           const kin_precision *precision, kin_tensor latents,
                                           int64_t frames, bool name_hidden);

#ifdef __cplusplus
}
#endif
#endif
