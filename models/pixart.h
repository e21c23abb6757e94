/* PixArt-alpha, the text-to-image diffusion transformer that Open-Sora and Latte start from. Key
 * names are those of diffusers' PixArtTransformer2DModel. Chen et al. 2023, arXiv:2310.00426. */
#ifndef KIN_MODELS_PIXART_H
#define KIN_MODELS_PIXART_H

#include "models/layers.h"

#ifdef __cplusplus
extern "C" {
#endif

/* diffusers' config.json, with its key names. Latte's is the same and has video_length besides. */
typedef struct kin_pixart_config {
    int num_attention_heads, attention_head_dim; /* their product is the width: C */
    int in_channels, out_channels;
    int num_layers;
    int sample_size, patch_size; /* of the latents the model was trained for */
    int caption_channels;
    double norm_eps;
    double interpolation_scale;     /* positions are divided by it */
    bool use_additional_conditions; /* resolution and aspect ratio */
    int video_length;               /* Latte: frames (it computes for any number); 1 for pictures */
} kin_pixart_config;

/* PixArt-XL-2-512x512: 610,856,096 parameters. */
KIN_API kin_pixart_config kin_pixart_config_default(void);
/* "PixArt-XL-2-256x256", "PixArt-XL-2-512x512", "PixArt-XL-2-1024-MS" (611,349,152 parameters).
 * KIN_NOT_FOUND names what there is. */
KIN_API kin_status kin_pixart_config_named(kin_context *context, const char *name,
                                           kin_pixart_config *out_config);
/* Reads a parsed config.json over the defaults of the published models and checks it. A missing
 * interpolation_scale is max(sample_size / 64, 1) in whole numbers; a missing
 * use_additional_conditions is true for a sample_size of 128. `where` names the object in
 * messages. */
KIN_API kin_status kin_pixart_config_parse(kin_context *context, const struct json_t *json,
                                           const char *where, kin_unknown_keys unknown,
                                           kin_pixart_config *out_config);
/* KIN_INVALID, with a message, unless a graph can be built from it. */
KIN_API kin_status kin_pixart_config_check(kin_context *context, const kin_pixart_config *config);

/* Accepts diffusers' names and those of the original files; drops the position table and the null
 * caption, which diffusers' model does not have. The original's fused attn.qkv and kv_linear become
 * several names, joined by '|' as kin_weights_rename has it. config: kin_pixart_config. */
KIN_API bool kin_pixart_rename(const void *config, const char *file_name, char *out_name,
                               size_t size);

/* What a call of the model reads. */
typedef struct kin_pixart_inputs {
    kin_tensor x;            /* [B, in_channels, Y, X]; padded to whole patches inside */
    kin_tensor timestep;     /* f32 [B]: 0..999 */
    kin_tensor text;         /* [B, L, caption_channels]: T5's features */
    kin_tensor text_lengths; /* i32 [B]: real tokens of each caption; KIN_NONE: all L */
    kin_tensor text_mask;    /* f32 [B, L]: 1 = keep; the others get -10000 added to their scores.
                                KIN_NONE: keep all */
    kin_tensor resolution;   /* f32 [B, 2]: height and width in pixels; KIN_NONE without
                                use_additional_conditions */
    kin_tensor aspect_ratio; /* f32 [B, 1]: height / width; the same */
    bool name_hidden;        /* outputs "hidden.N": the tokens after block N */
} kin_pixart_inputs;

/* -> [B, out_channels, Y, X] in f32: predicted noise, then where the log-variance lies between its
 * bounds. */
KIN_API kin_tensor kin_pixart(kin_graph *graph, const kin_pixart_config *config,
                              const kin_precision *precision, const kin_pixart_inputs *inputs);

#ifdef __cplusplus
}
#endif
#endif
