/* STDiT2, the denoiser of Open-Sora 1.1: STDiT for any size and number of frames, told the size,
 * the aspect ratio, the number of frames and the frame rate, and able to take frames as given. Key
 * names are those of the published checkpoints. */
#ifndef KIN_MODELS_STDIT2_H
#define KIN_MODELS_STDIT2_H

#include "models/stdit.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The configuration's keys; those that STDiT has, too, are in `common` (whose input_size,
 * space_scale and time_scale mean nothing here). */
typedef struct kin_stdit2_config {
    kin_stdit_config common;
    int input_sq_size; /* pixels of the side of the square at which positions count as 0, 1, 2 .. */
    bool qk_norm;      /* RMS norms of queries and keys in both self-attentions */
} kin_stdit2_config;

/* STDiT2-XL/2 as published: 767,452,064 parameters, positions for 512 pixels. */
KIN_API kin_stdit2_config kin_stdit2_config_default(void);
/* "STDiT2-XL/2" (published), "STDiT2-B/2", "STDiT2-S/2". KIN_NOT_FOUND names what
 * there is. */
KIN_API kin_status kin_stdit2_config_named(kin_context *context, const char *name,
                                           kin_stdit2_config *out_config);
/* Reads a parsed config.json over the defaults and checks it. A key that is missing takes the
 * original class's default; without `qk_norm` that is false, without `input_sq_size` 32, and
 * without `model_max_length` 120. `where` names the object in messages. */
KIN_API kin_status kin_stdit2_config_parse(kin_context *context, const struct json_t *json,
                                           const char *where, kin_unknown_keys unknown,
                                           kin_stdit2_config *out_config);
/* KIN_INVALID, with a message, unless a graph can be built from it. */
KIN_API kin_status kin_stdit2_config_check(kin_context *context, const kin_stdit2_config *config);

/* As kin_stdit_rename, and skips rope.freqs. A null caption of fewer rows (PixArt's) has its last
 * one repeated. config: kin_stdit2_config. */
KIN_API bool kin_stdit2_rename(const void *config, const char *file_name, char *out_name,
                               size_t size);

/* What a call of the model reads. The numbers about the video may have fewer rows than x: they are
 * repeated as a whole, as guidance needs it. */
typedef struct kin_stdit2_inputs {
    kin_tensor x;          /* [B, in_channels, T, Y, X]; padded to whole patches inside */
    kin_tensor timestep;   /* f32 [B]: 0..999 */
    kin_tensor y;          /* [B, L, caption_channels]: T5's features */
    kin_tensor y_lengths;  /* i32 [B]: real tokens of each caption; KIN_NONE: all L */
    kin_tensor drop;       /* as kin_stdit_inputs */
    kin_tensor frame_mask; /* f32 [B or a part of it, T]: 1 = to be denoised, 0 = given, and
                              treated as of given_timestep; or KIN_NONE: all 1. Needs patches of one
                              frame */
    kin_tensor
        given_timestep; /* f32 [B]: of the frames whose mask is 0; KIN_NONE: 0, as published */
    kin_tensor height, width; /* f32 [B]: of the video in pixels */
    kin_tensor ar;            /* f32 [B]: width / height in Open-Sora 1.1's training, height / width
                                 in its inference */
    kin_tensor num_frames;    /* f32 [B] */
    kin_tensor fps;           /* f32 [B]: 120 for images */
    double pixels[2];         /* height and width of the first sample: they scale the positions */
    bool name_hidden; /* outputs "embed.tokens", "embed.t", "embed.t_mlp", "embed.y", "hidden.N" */
} kin_stdit2_inputs;

/* -> [B, out_channels, T, Y, X] in f32, as kin_stdit. For guided text kin_stdit_guided_text takes
 * &config->common. */
KIN_API kin_tensor kin_stdit2(kin_graph *graph, const kin_stdit2_config *config,
                              const kin_precision *precision, const kin_stdit2_inputs *inputs);

#ifdef __cplusplus
}
#endif
#endif
