/* CausalVideoVAE of Open-Sora-Plan 1.0 to 1.2: a video autoencoder that looks back in time only, so
 * that an image is a video of one frame. F = f k + 1 frames become k + 1 latent ones. Key names are
 * those of the published checkpoints; block kinds, too, are read from config.json, for the versions
 * differ in them. */
#ifndef KIN_MODELS_CAUSAL_VAE_H
#define KIN_MODELS_CAUSAL_VAE_H

#include "models/layers.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { KIN_CAUSAL_VAE_MAX_LEVELS = 8 };

/* The classes that a configuration names. Every convolution of kind CausalConv3d repeats the first
 * frame in front; norms have 32 groups, over all frames in 3D blocks and over each frame in 2D
 * ones.
 */
typedef enum kin_causal_block_kind {
    KIN_CAUSAL_NONE,            /* "" */
    KIN_CAUSAL_CONV_2D,         /* Conv2d, on each frame */
    KIN_CAUSAL_CONV_3D,         /* CausalConv3d */
    KIN_CAUSAL_RESNET_2D,       /* ResnetBlock2D */
    KIN_CAUSAL_RESNET_3D,       /* ResnetBlock3D */
    KIN_CAUSAL_ATTENTION,       /* AttnBlock3DFix: over the places of each frame */
    KIN_CAUSAL_ATTENTION_MIXED, /* AttnBlock3D: the same on a layout that mixes channels and frames,
                                   as the first weights were trained */
    KIN_CAUSAL_DOWN_2D,         /* Downsample: half the rows and columns of each frame */
    KIN_CAUSAL_DOWN_SPACE,      /* SpatialDownsample2x */
    KIN_CAUSAL_DOWN_BOTH,       /* Spatial2xTime2x3DDownsample */
    KIN_CAUSAL_DOWN_TIME,       /* TimeDownsample2x: averages, no weights */
    KIN_CAUSAL_DOWN_TIME_MIXED, /* TimeDownsampleRes2x: averages and a convolution */
    KIN_CAUSAL_UP_SPACE,        /* SpatialUpsample2x */
    KIN_CAUSAL_UP_BOTH,         /* Spatial2xTime2x3DUpsample */
    KIN_CAUSAL_UP_TIME,         /* TimeUpsample2x: interpolation, no weights */
    KIN_CAUSAL_UP_TIME_MIXED,   /* TimeUpsampleRes2x: interpolation and a convolution */
    KIN_CAUSAL_KINDS
} kin_causal_block_kind;

/* config.json, with the original's key names. */
typedef struct kin_causal_vae_config {
    int hidden_size, z_channels, embed_dim;
    int levels; /* entries of hidden_size_mult */
    int hidden_size_mult[KIN_CAUSAL_VAE_MAX_LEVELS];
    int num_res_blocks; /* a level of the encoder; the decoder's have one more */
    bool use_quant_layer;
    kin_causal_block_kind q_conv;
    kin_causal_block_kind encoder_conv_in, encoder_conv_out, decoder_conv_in, decoder_conv_out;
    kin_causal_block_kind encoder_attention, decoder_attention;
    kin_causal_block_kind encoder_mid_resnet, decoder_mid_resnet;
    kin_causal_block_kind encoder_resnet_blocks[KIN_CAUSAL_VAE_MAX_LEVELS];
    kin_causal_block_kind encoder_spatial_downsample[KIN_CAUSAL_VAE_MAX_LEVELS];
    kin_causal_block_kind encoder_temporal_downsample[KIN_CAUSAL_VAE_MAX_LEVELS];
    kin_causal_block_kind decoder_resnet_blocks[KIN_CAUSAL_VAE_MAX_LEVELS];
    kin_causal_block_kind decoder_spatial_upsample[KIN_CAUSAL_VAE_MAX_LEVELS];
    kin_causal_block_kind decoder_temporal_upsample[KIN_CAUSAL_VAE_MAX_LEVELS];
} kin_causal_vae_config;

/* Latents of the diffusion = posterior's sample * this. */
#define KIN_CAUSAL_VAE_SCALE 0.18215

/* What the class takes for keys that a file lacks. */
KIN_API kin_causal_vae_config kin_causal_vae_config_default(void);
/* "causal-vae-1.2" (CausalVAEModel_D4_4x8x8, 239,189,991 parameters) or "causal-vae-1.1";
 * KIN_NOT_FOUND names them. */
KIN_API kin_status kin_causal_vae_config_named(kin_context *context, const char *name,
                                               kin_causal_vae_config *out_config);
/* Reads a parsed config.json over the defaults and checks it; `where` names the object. */
KIN_API kin_status kin_causal_vae_config_parse(kin_context *context, const struct json_t *json,
                                               const char *where, kin_unknown_keys unknown,
                                               kin_causal_vae_config *out_config);
/* The reverse, with the published keys. The caller frees it with json_decref. */
KIN_API kin_status kin_causal_vae_config_json(kin_context *context,
                                              const kin_causal_vae_config *config,
                                              struct json_t **out_json);
/* KIN_INVALID, with a message, unless a graph can be built from it. */
KIN_API kin_status kin_causal_vae_config_check(kin_context *context,
                                               const kin_causal_vae_config *config);
/* The class of that name; KIN_NOT_FOUND with the nearest one. */
KIN_API kin_status kin_causal_block_named(kin_context *context, const char *name,
                                          kin_causal_block_kind *out_kind);
/* Pixels (and frames) for one latent pixel (and frame but the first). */
KIN_API int kin_causal_vae_space_factor(const kin_causal_vae_config *config);
KIN_API int kin_causal_vae_time_factor(const kin_causal_vae_config *config);

/* Takes "module." and "gen_model." off the names of training checkpoints, and skips the
 * discriminator and the loss. config: not used. */
KIN_API bool kin_causal_vae_rename(const void *config, const char *file_name, char *out_name,
                                   size_t size);

/* One block other than a convolution, under the names that follow the graph's scope:
 * x [B, C, T, Y, X] -> [B, out, ...]. out is C for all but the residual blocks. */
KIN_API kin_tensor kin_causal_block(kin_graph *graph, const kin_precision *precision,
                                    kin_causal_block_kind kind, kin_tensor x, int64_t out);

/* videos [B, 3, T, Y, X] in -1..1 -> moments [B, 2 * embed_dim, ...] in f32: means, then
 * log-variances (not clamped); kin_sd_vae_sample draws from them. */
KIN_API kin_tensor kin_causal_vae_encode(kin_graph *graph, const kin_causal_vae_config *config,
                                         const kin_precision *precision, kin_tensor videos);
/* latents [B, embed_dim, T, Y, X], already divided by the scale -> videos [B, 3, ...], not clamped,
 * in f32. */
KIN_API kin_tensor kin_causal_vae_decode(kin_graph *graph, const kin_causal_vae_config *config,
                                         const kin_precision *precision, kin_tensor latents);

/* The original's tiling, for results equal to its own: videos are cut in stretches of time and
 * overlapping tiles, each tile goes through the model by itself, and seams are blended. It changes
 * the result, for norms and the first frame of each stretch see the tile alone. */
typedef struct kin_causal_vae_tiling {
    int tile_sample_min_size, tile_latent_min_size; /* rows and columns */
    int tile_sample_min_size_t, tile_latent_min_size_t;
    double tile_overlap_factor;
} kin_causal_vae_tiling;

/* 256/32 pixels, 33/16 frames, overlap 0.125: the class's own; the sampling scripts take 512/64,
 * 29/8. */
KIN_API kin_causal_vae_tiling kin_causal_vae_tiling_default(void);
/* As kin_causal_vae_encode and _decode; input that fits into one tile is not tiled. KIN_INVALID in
 * the graph for sizes that leave nothing of a tile, or whose steps of pixels and latents differ. */
KIN_API kin_tensor kin_causal_vae_encode_tiled(kin_graph *graph,
                                               const kin_causal_vae_config *config,
                                               const kin_precision *precision,
                                               const kin_causal_vae_tiling *tiling,
                                               kin_tensor videos);
KIN_API kin_tensor kin_causal_vae_decode_tiled(kin_graph *graph,
                                               const kin_causal_vae_config *config,
                                               const kin_precision *precision,
                                               const kin_causal_vae_tiling *tiling,
                                               kin_tensor latents);

#ifdef __cplusplus
}
#endif
#endif
