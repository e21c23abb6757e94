/* STDiT, the denoiser of Open-Sora 1.0: a diffusion transformer with attention over space, over
 * time and over the caption in every block. Key names are those of the published checkpoints. */
#ifndef KIN_MODELS_STDIT_H
#define KIN_MODELS_STDIT_H

#include "models/layers.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum kin_stdit_freeze {
    KIN_STDIT_FREEZE_NONE,
    KIN_STDIT_FREEZE_NOT_TEMPORAL, /* "not_temporal": only keys with "attn_temp" are trained */
    KIN_STDIT_FREEZE_TEXT          /* "text": keys with "cross_attn" are not trained */
} kin_stdit_freeze;

/* The constructor's arguments, with the original's key names. */
typedef struct kin_stdit_config {
    int input_size[3]; /* latent frames, rows, columns; 0: not said. The graph follows its input */
    int in_channels;
    int patch_size[3];
    int hidden_size, depth, num_heads;
    double mlp_ratio;
    double class_dropout_prob; /* of captions, in training: for the trainer, see `drop` below */
    bool pred_sigma;           /* twice as many channels out as in */
    int caption_channels, model_max_length;
    double space_scale, time_scale;
    kin_stdit_freeze freeze;
    bool train_y_embedding; /* ours: the null caption is a weight, not a buffer (for runs from
                             * nothing)
                             */
} kin_stdit_config;

/* STDiT-XL/2 for 16x256x256: 759,620,768 parameters. */
KIN_API kin_stdit_config kin_stdit_config_default(void);
/* "STDiT-XL/2" (published), and the widths and depths of the DiT family: "STDiT-L/2", "STDiT-B/2",
 * "STDiT-S/2". KIN_NOT_FOUND names what there is. */
KIN_API kin_status kin_stdit_config_named(kin_context *context, const char *name,
                                          kin_stdit_config *out_config);
/* Reads parsed JSON over the defaults (or over the size that the key "type" names) and checks it.
 * `where` names the object in messages. */
KIN_API kin_status kin_stdit_config_parse(kin_context *context, const struct json_t *json,
                                          const char *where, kin_unknown_keys unknown,
                                          kin_stdit_config *out_config);
/* KIN_INVALID, with a message, unless a graph can be built from it. */
KIN_API kin_status kin_stdit_config_check(kin_context *context, const kin_stdit_config *config);
/* in_channels, or twice that with pred_sigma. */
KIN_API int kin_stdit_out_channels(const kin_stdit_config *config);

/* Skips pos_embed and pos_embed_temporal, which are computed here. Takes PixArt's names, the
 * original's (they are the same) and diffusers', for a start from its weights: what PixArt does not
 * have keeps its start, and the temporal attentions start at zero. config: kin_stdit_config. */
KIN_API bool kin_stdit_rename(const void *config, const char *file_name, char *out_name,
                              size_t size);

/* What a call of the model reads. */
typedef struct kin_stdit_inputs {
    kin_tensor x;         /* [B, in_channels, T, Y, X]; padded to whole patches inside */
    kin_tensor timestep;  /* f32 [B]: 0..999, the timestep of the 1000-step schedule */
    kin_tensor y;         /* [B, L, caption_channels]: T5's features */
    kin_tensor y_lengths; /* i32 [B]: real tokens of each caption; KIN_NONE: all L */
    kin_tensor drop;      /* f32 [B], or KIN_NONE: where 1, y is replaced by the null caption; the
                             length stays. Needs L <= model_max_length */
    bool name_hidden; /* outputs "embed.tokens", "embed.t", "embed.t_mlp", "embed.y", "hidden.N" */
} kin_stdit_inputs;

/* -> [B, out_channels, T, Y, X] in f32: predicted noise, then, with pred_sigma, where the
 * log-variance lies between its bounds. */
KIN_API kin_tensor kin_stdit(kin_graph *graph, const kin_stdit_config *config,
                             const kin_precision *precision, const kin_stdit_inputs *inputs);

/* Captions for a guided call: y [B, L, C] and lengths [B] become [2B, L, C] and [2B]: the captions,
 * then as many null captions, each cut to the length of its caption as the original does it. A
 * KIN_NONE length stays one. */
KIN_API void kin_stdit_guided_text(kin_graph *graph, const kin_stdit_config *config,
                                   const kin_precision *precision, kin_tensor y, kin_tensor lengths,
                                   kin_tensor *out_y, kin_tensor *out_lengths);

/* One self-attention and one cross-attention as the blocks use them, for checks of their own:
 * x [B, T, S, C], over S or, with over_time, over T; PREFIX.qkv and PREFIX.proj. start_zero: the
 * projection starts at zero. */
KIN_API kin_tensor kin_stdit_self_attention(kin_graph *graph, const kin_precision *precision,
                                            const char *prefix, kin_tensor x, int heads,
                                            bool over_time, bool start_zero);
/* x [B, N, C], text [B, L, C], lengths i32 [B] or KIN_NONE; PREFIX.q_linear, .kv_linear, .proj. */
KIN_API kin_tensor kin_stdit_cross_attention(kin_graph *graph, const kin_precision *precision,
                                             const char *prefix, kin_tensor x, kin_tensor text,
                                             kin_tensor lengths, int heads);

#ifdef __cplusplus
}
#endif
#endif
