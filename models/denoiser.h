/* Any of the denoisers behind one set of functions, for code that samples with it, trains it or
 * plans it without caring which it is. */
#ifndef KIN_MODELS_DENOISER_H
#define KIN_MODELS_DENOISER_H

#include "models/latte.h"
#include "models/opensora_plan.h"
#include "models/stdit2.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum kin_denoiser_kind {
    KIN_DENOISER_STDIT,
    KIN_DENOISER_STDIT2,
    KIN_DENOISER_LATTE,
    KIN_DENOISER_PIXART,
    KIN_DENOISER_OPENSORA_PLAN
} kin_denoiser_kind;

/* Of the configurations the one of `kind` counts. */
typedef struct kin_denoiser_config {
    kin_denoiser_kind kind;
    kin_stdit_config stdit;
    kin_stdit2_config stdit2;
    kin_pixart_config pixart; /* of Latte, too */
    kin_opensora_plan_config opensora_plan;
} kin_denoiser_config;

/* "STDiT", "STDiT2", "Latte", "PixArt", "OpenSoraT2V" */
KIN_API const char *kin_denoiser_kind_name(kin_denoiser_kind kind);
/* A published size by its name: number `index` of all; false past the last. */
KIN_API bool kin_denoiser_named_at(kin_context *context, int index, const char **out_name,
                                   kin_denoiser_config *out_config);
/* How many there are. */
KIN_API int kin_denoiser_named_count(void);
/* Reads a parsed config.json of whichever denoiser it is of, by "_class_name", "model_type" or
 * "type" and otherwise by the keys that only one has. `where` names the object in messages. */
KIN_API kin_status kin_denoiser_config_parse(kin_context *context, const struct json_t *json,
                                             const char *where, kin_unknown_keys unknown,
                                             kin_denoiser_config *out_config);
/* The reverse, with the keys of the published files. The caller frees it with json_decref. Latte's
 * class has no key for an interpolation_scale other than that of its sample_size. */
KIN_API kin_status kin_denoiser_config_json(kin_context *context, const kin_denoiser_config *config,
                                            struct json_t **out_json);
/* The rename function of the kind, which takes "module.", "model." and "_orig_mod." off the front.
 * config: kin_denoiser_config. */
KIN_API bool kin_denoiser_rename(const void *config, const char *file_name, char *out_name,
                                 size_t size);

/* Numbers that every denoiser has. */
typedef struct kin_denoiser_shape {
    int in_channels, out_channels;
    int patch;          /* the side of a patch of latents */
    int patch_t;        /* its frames */
    int size_multiple;  /* of which rows and columns of latents must be multiples; 1 for models that
                           pad */
    int frame_multiple; /* and their frames */
    int caption_channels;
    int text_length; /* tokens that captions are padded to; where the configuration does not say:
                        512 for Open-Sora-Plan, else 120 */
    double null_captions;  /* share of captions replaced in training by the learned null caption; 0
                              for models without one, whose null caption is the empty text's */
    bool own_null_caption; /* guidance uses the model's null caption */
    bool frame_masks;      /* frames may be given */
    bool pictures;         /* one frame only */
    bool joint_pictures;   /* pictures with captions of their own may follow a video's frames */
} kin_denoiser_shape;

KIN_API kin_denoiser_shape kin_denoiser_shape_of(const kin_denoiser_config *config);

/* What a call reads; what a kind does not know must be KIN_NONE. */
typedef struct kin_denoiser_inputs {
    kin_tensor x;          /* [B, in_channels, T, Y, X]; PixArt: T is 1 */
    kin_tensor timestep;   /* f32 [B] */
    kin_tensor y;          /* [B, L, caption_channels] or, with images, [B, 1 + I, L, ..] */
    kin_tensor y_lengths;  /* i32 [B] or [B, 1 + I]; KIN_NONE: all L */
    kin_tensor drop;       /* f32 [B]: where 1, the learned null caption */
    kin_tensor frame_mask; /* f32 [B or a part of it, T]: STDiT2 */
    kin_tensor real;       /* f32 [B, T, Y, X], 1 where latents are no padding: Open-Sora-Plan */
    kin_tensor each_fps;   /* f32 [B]: in place of `fps`, for STDiT2; others do not look at it */
    int images;            /* of the T frames, single pictures at the end: Latte, Open-Sora-Plan */
    double height, width;  /* of the video in pixels; 0: 8 for each of the latents */
    double aspect_ratio;   /* 0: height / width; Open-Sora 1.1 trains with width / height */
    double fps;            /* 0: 24, and 120 for one frame, as Open-Sora 1.1's scripts have it */
} kin_denoiser_inputs;

/* -> [B, out_channels, T, Y, X] in f32. */
KIN_API kin_tensor kin_denoiser(kin_graph *graph, const kin_denoiser_config *config,
                                const kin_precision *precision, const kin_denoiser_inputs *inputs);
/* Makes the null caption a variable of the graph though nothing reads it, so that files that are
 * written have it. Nothing for models without one. y as in the inputs. */
KIN_API void kin_denoiser_keep_null_caption(kin_graph *graph, const kin_denoiser_config *config,
                                            const kin_precision *precision, kin_tensor y);

/* A denoiser within the step of a sampler: what its calls read beside the latents and the timestep.
 */
typedef struct kin_denoiser_sampling {
    const kin_denoiser_config *config;
    const char *scope; /* weights are named under it; NULL: by their names alone */
    const kin_precision *precision;
    kin_tensor y, y_lengths; /* of the captions: [B, L, caption_channels], i32 [B] or KIN_NONE */
    kin_tensor null_y; /* [B, L, caption_channels]: the negative prompt's. KIN_NONE: the model's own
                          null caption, which not all have */
    kin_tensor null_lengths; /* i32 [B], of null_y; KIN_NONE: as y_lengths, as Latte's pipeline cuts
                                it */
    bool guided;             /* the sampler gives twice B samples */
    bool null_first;         /* and the null captions belong to the first half, as in diffusers */
    double height, width, aspect_ratio, fps; /* as kin_denoiser_inputs */
} kin_denoiser_sampling;

/* For kin_sampler_graph and kin_scheduler_graph: user is a kin_denoiser_sampling. */
KIN_API kin_tensor kin_denoiser_sample(void *user, kin_graph *graph, kin_tensor x,
                                       kin_tensor timestep);
/* For kin_masked_sampler_graph. */
KIN_API kin_tensor kin_denoiser_sample_masked(void *user, kin_graph *graph, kin_tensor x,
                                              kin_tensor timestep, kin_tensor frame_mask);

#ifdef __cplusplus
}
#endif
#endif
