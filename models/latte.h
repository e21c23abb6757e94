/* LatteT2V, the denoiser of Latte-1 and of train_your_own_sora: PixArt's blocks on every frame,
 * each followed by a block over time. Key names are those of diffusers' LatteTransformer3DModel,
 * which are those of the original. Ma et al. 2024, arXiv:2401.03048. */
#ifndef KIN_MODELS_LATTE_H
#define KIN_MODELS_LATTE_H

#include "models/pixart.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Latte-1: 1,057,246,880 parameters. The configuration is PixArt's (without micro-conditions and
 * with interpolation_scale given by sample_size) and video_length. */
KIN_API kin_pixart_config kin_latte_config_default(void);
/* As kin_pixart_config_parse, for config.json of Latte's class. */
KIN_API kin_status kin_latte_config_parse(kin_context *context, const struct json_t *json,
                                          const char *where, kin_unknown_keys unknown,
                                          kin_pixart_config *out_config);
/* Drops the buffer caption_projection.y_embedding, which nothing reads. Takes PixArt's names, too,
 * for a start from its weights. */
KIN_API bool kin_latte_rename(const void *config, const char *file_name, char *out_name,
                              size_t size);

/* What a call of the model reads. With I > 0 images the last I frames of x are single pictures that
 * see no other frame, each with its own caption; the first caption is the video's. */
typedef struct kin_latte_inputs {
    kin_tensor x;               /* [B, in_channels, F + I, Y, X] */
    kin_tensor timestep;        /* f32 [B] */
    kin_tensor text;            /* [B, 1 + I, L, caption_channels], or [B, L, caption_channels] */
    kin_tensor text_lengths;    /* i32 [B, 1 + I] or [B]; KIN_NONE: all L */
    kin_tensor text_mask;       /* f32 [B, 1 + I, L] or [B, L], 1 = keep, as kin_pixart_inputs */
    int images;                 /* I */
    bool no_temporal_blocks;    /* frames see each other nowhere: image mode */
    bool no_temporal_positions; /* as the original without gradient checkpointing in joint training:
                                   a slip, here for comparisons */
    bool name_hidden; /* outputs "hidden.N": space block 0, time block 0, space block 1, .. */
} kin_latte_inputs;

/* -> [B, out_channels, F + I, Y, X] in f32, as kin_pixart. */
KIN_API kin_tensor kin_latte(kin_graph *graph, const kin_pixart_config *config,
                             const kin_precision *precision, const kin_latte_inputs *inputs);

#ifdef __cplusplus
}
#endif
#endif
