/* From prompts to clips, stage by stage: tokens and text features, latents, frames. Each stage holds
 * only its own part of the model in memory. */
#ifndef KIN_TOOLS_PIPELINE_H
#define KIN_TOOLS_PIPELINE_H

#include "models/diffusion.h"
#include "models/sd_vae.h"
#include "models/stdit.h"
#include "models/t5.h"
#include "runtime/device.h"
#include "runtime/plan.h"
#include "runtime/tokenizer.h"

/* Sizes and settings that a model folder recommends. */
typedef struct kin_pipeline_defaults {
    int64_t frames, height, width, steps;
    double fps, cfg_scale;
    int64_t cfg_channels; /* 0: all */
    kin_sampler_method method;
} kin_pipeline_defaults;

/* A model folder in diffusers' layout: model_index.json, transformer, vae, text_encoder, tokenizer. */
typedef struct kin_pipeline {
    kin_context *context;
    kin_device *device;
    char *denoiser_path, *vae_path, *text_encoder_path, *tokenizer_path;
    kin_stdit_config denoiser;
    kin_sd_vae_config vae;
    kin_t5_config text_encoder;
    kin_pipeline_defaults defaults;
    kin_precision precision;
    uint64_t memory; /* budget of each stage; 0: none */
} kin_pipeline;

/* Reads the configurations, not the weights. */
kin_status kin_pipeline_open(kin_context *context, kin_device *device, const char *folder,
                             kin_pipeline *out_pipeline);
void kin_pipeline_close(kin_pipeline *pipeline);
/* Writes FOLDER/model_index.json with the recommended settings. */
kin_status kin_pipeline_write_index(kin_context *context, const char *folder,
                                    const kin_pipeline_defaults *defaults);

/* What to generate. */
typedef struct kin_generation {
    int64_t count;               /* clips */
    const char *const *prompts;  /* count */
    const char *const *negative; /* count, or NULL: the learned null caption */
    const uint64_t *seeds;       /* count: clip i depends on its own seed alone */
    int64_t frames, height, width, steps;
    double cfg_scale, eta;
    int64_t cfg_channels;
    kin_sampler_method method;
    bool quiet;
} kin_generation;

/* Text features: host tensors [count, L, C] f32 and lengths i32 [count], both freed by the caller. */
kin_status kin_pipeline_encode(kin_pipeline *pipeline, const char *const *prompts, int64_t count,
                               kin_host_tensor *out_features, kin_host_tensor *out_lengths);
/* Latents [count, C, T, Y, X] f32. negative and negative_lengths may be NULL. KIN_CANCELLED after
 * Ctrl-C. */
kin_status kin_pipeline_sample(kin_pipeline *pipeline, const kin_generation *generation,
                               const kin_host_tensor *features, const kin_host_tensor *lengths,
                               const kin_host_tensor *negative,
                               const kin_host_tensor *negative_lengths,
                               kin_host_tensor *out_latents);
/* Frames [count, 3, T, Y, X] f32, clamped to -1..1; decoded frame by frame. */
kin_status kin_pipeline_decode(kin_pipeline *pipeline, const kin_host_tensor *latents, bool quiet,
                               kin_host_tensor *out_frames);
/* All three. */
kin_status kin_pipeline_generate(kin_pipeline *pipeline, const kin_generation *generation,
                                 kin_host_tensor *out_frames);
/* Clip `index` of out_frames, without a copy. */
kin_host_tensor kin_pipeline_clip(const kin_host_tensor *frames, int64_t index);

#endif
