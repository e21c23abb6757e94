/* OpenSoraT2V, the denoiser of Open-Sora-Plan 1.2: full attention over all latents of a video with
 * rotary positions on three axes. Key names are those of the published checkpoints. */
#ifndef KIN_MODELS_OPENSORA_PLAN_H
#define KIN_MODELS_OPENSORA_PLAN_H

#include "models/layers.h"
#include "models/schedule.h"

#ifdef __cplusplus
extern "C" {
#endif

/* config.json, with its key names. */
typedef struct kin_opensora_plan_config {
    int num_attention_heads, attention_head_dim; /* their product is the width: C */
    int in_channels, out_channels;
    int num_layers;
    int sample_size[2], sample_size_t; /* latent rows, columns, frames of training */
    int patch_size, patch_size_t;
    int caption_channels;
    double norm_eps;
    double interpolation_scale_t, interpolation_scale_h, interpolation_scale_w;
    bool bf16_rope; /* ours: angles rounded to bf16 in f32 computation, too, as the published
                       weights were trained and are sampled */
} kin_opensora_plan_config;

/* OpenSoraT2V-ROPE-L/122 for 93x720p: 2,771,907,856 parameters. */
KIN_API kin_opensora_plan_config kin_opensora_plan_config_default(void);
/* "OpenSoraT2V-ROPE-L/122" (93x720p) and "OpenSoraT2V-ROPE-L/122-480p" (29x480p). KIN_NOT_FOUND
 * names them. */
KIN_API kin_status kin_opensora_plan_config_named(kin_context *context, const char *name,
                                                  kin_opensora_plan_config *out_config);
/* Reads a parsed config.json over the defaults and checks it; `where` names the object.
 * KIN_UNSUPPORTED for variants that were not published: absolute positions, a downsampler, other
 * norms. */
KIN_API kin_status kin_opensora_plan_config_parse(kin_context *context, const struct json_t *json,
                                                  const char *where, kin_unknown_keys unknown,
                                                  kin_opensora_plan_config *out_config);
/* KIN_INVALID, with a message, unless a graph can be built from it. */
KIN_API kin_status kin_opensora_plan_config_check(kin_context *context,
                                                  const kin_opensora_plan_config *config);
/* Names are equal; position tables are skipped. config: not used. */
KIN_API bool kin_opensora_plan_rename(const void *config, const char *file_name, char *out_name,
                                      size_t size);

/* The scales of the axes t, h, w for so many positions on each. The original looks its tables up by
 * the number of positions alone, so an axis with as many as an earlier one takes that one's scale.
 */
KIN_API void kin_opensora_plan_rope_scales(const kin_opensora_plan_config *config,
                                           const int64_t counts[3], double out_scales[3]);

/* What a call of the model reads. With 1 + I captions the last I frames of x are images, each with
 * its own caption and seen by nothing else; the timestep is the sample's. */
typedef struct kin_opensora_plan_inputs {
    kin_tensor x;         /* [B, in_channels, T, Y, X]; Y and X multiples of patch_size */
    kin_tensor timestep;  /* f32 [B]: 0..999, whole or not */
    kin_tensor text;      /* [B, 1 + I, L, caption_channels]: mT5's features */
    kin_tensor text_mask; /* f32 [B, 1 + I, L]: 1 = keep, the others get -10000 added to their
                             scores; KIN_NONE: keep all */
    kin_tensor mask;      /* f32 [B, T, Y, X]: 1 = a real latent; patches of none are hidden as keys
                             in the same way. KIN_NONE: all are real */
    bool name_hidden; /* outputs "hidden.N": the tokens [B, N, C] after block N; not with I > 0 */
} kin_opensora_plan_inputs;

/* -> [B, out_channels, T, Y, X] in f32: the predicted noise. */
KIN_API kin_tensor kin_opensora_plan(kin_graph *graph, const kin_opensora_plan_config *config,
                                     const kin_precision *precision,
                                     const kin_opensora_plan_inputs *inputs);

/* The training loss. */
typedef enum kin_plan_target {
    KIN_PLAN_TARGET_EPSILON, /* the noise, with its offset */
    KIN_PLAN_TARGET_V,
    KIN_PLAN_TARGET_SAMPLE /* the noise is taken off the model's output first */
} kin_plan_target;

typedef struct kin_plan_loss_options {
    double noise_offset; /* 0.02 in the published runs */
    double snr_gamma;    /* 5; 0: unweighted */
    kin_plan_target target;
} kin_plan_loss_options;

/* noise [B, C, T, Y, X] + noise_offset * offset [B, C, 1, 1, 1]; offset may be KIN_NONE. */
KIN_API kin_tensor kin_opensora_plan_noise(kin_graph *graph, const kin_plan_loss_options *options,
                                           kin_tensor noise, kin_tensor offset);
/* Mean of the squared error, weighted by min(snr, gamma) / snr (v: / (snr + 1); Hang et al. 2023,
 * arXiv:2303.09556); over the latents that mask f32 [B, T, Y, X] keeps, if there is one. latents,
 * noise (with its offset) and model_out [B, C, T, Y, X]; t i32 [B]: steps of the schedule. A
 * scalar.
 */
KIN_API kin_tensor kin_opensora_plan_loss(kin_graph *graph, const kin_schedule *schedule,
                                          const kin_plan_loss_options *options, kin_tensor latents,
                                          kin_tensor noise, kin_tensor t, kin_tensor model_out,
                                          kin_tensor mask);
/* sqrt(A) noise - sqrt(1 - A) latents, the target of v prediction. */
KIN_API kin_tensor kin_opensora_plan_velocity(kin_graph *graph, const kin_schedule *schedule,
                                              kin_tensor latents, kin_tensor noise, kin_tensor t);

#ifdef __cplusplus
}
#endif
#endif
