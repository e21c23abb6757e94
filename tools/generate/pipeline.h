/* From prompts to clips with any of the systems, stage by stage: tokens and text features, latents,
 * frames. Each stage holds only its own part of the model in memory. */
#ifndef KIN_TOOLS_PIPELINE_H
#define KIN_TOOLS_PIPELINE_H

#include "runtime/device.h"
#include "runtime/plan.h"
#include "runtime/tokenizer.h"
#include "tools/generate/vae_coder.h"
#include "tools/system/system.h"

typedef struct kin_pipeline {
    kin_context *context;
    kin_device *device;
    kin_system system;
    kin_precision precision;      /* of every stage; text encoders compute in f32 where it says f16,
                                     and weights that a file holds in q8_0 stay so */
    uint64_t memory;              /* budget of each stage; 0: none */
    kin_vae_cut cut;              /* how the autoencoder keeps to it */
    kin_causal_vae_tiling tiling; /* of KIN_VAE_CUT_PUBLISHED */
    bool clean_text; /* clean prompts as the system's scripts do; false: lower case, no space at the
                        ends. True after opening */
    bool keep_denoiser; /* stays loaded between calls of kin_pipeline_sample for the same sizes: no
                           weights are read again, but it takes its memory beside the other stages.
                           False after opening */
    struct kin_kept_denoiser *kept; /* the pipeline's own */
} kin_pipeline;

/* Reads configurations, not weights; KIN_NOT_FOUND if a part is missing that generating needs.
 * overrides may be NULL. */
kin_status kin_pipeline_open(kin_context *context, kin_device *device, const char *path,
                             const kin_system_overrides *overrides, kin_pipeline *out_pipeline);
void kin_pipeline_close(kin_pipeline *pipeline);
/* Frees the denoiser that keep_denoiser kept. */
void kin_pipeline_drop_denoiser(kin_pipeline *pipeline);

/* Where the noise of a clip comes from. The streams of PyTorch are drawn as the system's script
 * draws them, for one clip from one generator that was just seeded: in the same order, numbers and
 * dtype (that of the computation, where the script draws in the model's). */
typedef enum kin_noise_source {
    KIN_NOISE_PHILOX,    /* kinora's own stream: the same on every device */
    KIN_NOISE_TORCH_CPU, /* what torch.Generator("cpu") gives for the seed */
    KIN_NOISE_TORCH_CUDA /* what an NVIDIA card gives for it */
} kin_noise_source;

/* How the latents are drawn. */
typedef struct kin_sampling {
    bool iddpm;                     /* Open-Sora's respaced schedule: IDDPM or, */
    bool ddim;                      /* with both, DDIM; else */
    kin_scheduler_config scheduler; /* a scheduler of diffusers' kind */
    int64_t steps;
    double cfg_scale;     /* 1: no guidance */
    double eta;           /* of DDIM */
    int64_t cfg_channels; /* the first so many are guided; 0: all */
    kin_noise_source noise;
    uint32_t card_multiprocessors, card_threads; /* of KIN_NOISE_TORCH_CUDA, as
                                                    kin_torch_cuda; 0: an H100's */
} kin_sampling;

/* What to generate: clips of one size. */
typedef struct kin_generation {
    int64_t count;         /* clips */
    const uint64_t *seeds; /* count: clip i depends on its own seed alone */
    int64_t frames, height, width;
    double fps; /* that models are told which know it; 0: what the system's scripts say */
    kin_sampling sampling;
    /* Given frames, for systems with frame masks: latents of the diffusion f32 [count, C, T', Y',
     * X'] (what is not given is not read) and how much each frame is edited f32 [count, T'],
     * 0: kept, 1: made from noise. Both NULL: none. */
    const float *given, *ratios;
    int64_t together; /* clips that are sampled at a time, at most; 0: as many as fit */
    /* Sees latents [count, C, T', Y', X'] of clips from `first` on as soon as they are done; an
     * error ends the sampling. May be NULL. */
    kin_status (*finished)(void *user, int64_t first, int64_t count, const float *latents);
    void *finished_user;
    bool keep_given; /* frames of ratio 0 come out bit by bit as they were given; false: the last
                        step changes them a little, as it does in Open-Sora 1.1 */
    bool quiet;
} kin_generation;

/* The sampling that the system recommends. */
kin_sampling kin_pipeline_sampling(const kin_pipeline *pipeline);
/* Parses "iddpm", "ddim", "ddpm", "pndm", "plms", "euler", "euler-a", "dpm++", "dpm++-sde", "dpm",
 * "unipc", "flow", "rflow", the sigma samplers also with "-karras" behind, or the name of a class
 * ("DDIMScheduler", "EulerAncestralDiscrete") into what `sampling` takes, and keeps the betas of
 * the system's own schedule; what else the file of its scheduler says holds as it does in
 * diffusers. KIN_NOT_FOUND with the nearest name; KIN_INVALID for flows where the system is none,
 * and the reverse. */
kin_status kin_pipeline_sampler(const kin_pipeline *pipeline, const char *name,
                                kin_sampling *sampling);
/* The names, one after the other; NULL past the last. */
const char *kin_sampler_name_at(int index);
/* The name that gives a sampling, written into text. */
const char *kin_sampling_name(const kin_sampling *sampling, char *text, size_t size);
/* KIN_INVALID, saying which sizes there are, unless the system can make clips of this size. */
kin_status kin_pipeline_check(const kin_pipeline *pipeline, const kin_generation *generation);
/* The sizes [count, C, T', Y', X'] of latents and [count, 3, T, Y, X] of frames. Open-Sora 1.1 cuts
 * rows and columns that are no multiple of the autoencoder's factor, as its scripts do: there
 * frames may be a little smaller than asked for. */
void kin_pipeline_sizes(const kin_pipeline *pipeline, const kin_generation *generation,
                        int64_t out_latents[5], int64_t out_frames[5]);
/* PixArt's models know one number of pixels in 40 aspect ratios. Gives the size of the nearest
 * ratio (of height / width), in which diffusers generates before it scales and crops; false for
 * other systems, and for a sample_size other than 32, 64 and 128. */
bool kin_pipeline_bin(const kin_pipeline *pipeline, int64_t height, int64_t width,
                      int64_t *out_height, int64_t *out_width);

/* Text of one side of the guidance: host tensors f32 [count, L, C], i32 [count]. */
typedef struct kin_text {
    kin_host_tensor features, lengths;
} kin_text;

void kin_text_free(kin_context *context, kin_text *text);
/* Cleans (if asked), puts into the system's template, tokenizes and encodes. Texts are padded to
 * the system's length. */
kin_status kin_pipeline_encode(kin_pipeline *pipeline, const char *const *prompts, int64_t count,
                               kin_text *out_text);
/* The same for negative prompts, which no template is for. */
kin_status kin_pipeline_encode_negative(kin_pipeline *pipeline, const char *const *prompts,
                                        int64_t count, kin_text *out_text);
/* A video f32 [B, 3, T, Y, X] in -1..1 -> latents of the diffusion [B, C, T', Y', X'], drawn from
 * the posterior with each sample's seed; NULL: its mean. */
kin_status kin_pipeline_encode_video(kin_pipeline *pipeline, const kin_host_tensor *video,
                                     const uint64_t *seeds, kin_host_tensor *out_latents);
/* Latents [count, C, T', Y', X'] f32. negative: a row for each clip, or one for all; NULL: the
 * model's own null caption, or the empty text's features which this function then makes. Clips that
 * together need more than the budget are sampled in smaller groups, and a clip that alone does with
 * the two sides of its guidance one after the other; KIN_OUT_OF_MEMORY, with the numbers and before
 * any weights are read, if that does not fit either. KIN_CANCELLED after Ctrl-C. */
kin_status kin_pipeline_sample(kin_pipeline *pipeline, const kin_generation *generation,
                               const kin_text *text, const kin_text *negative,
                               kin_host_tensor *out_latents);
/* Frames [count, 3, T, Y, X] f32, clamped to -1..1. */
kin_status kin_pipeline_decode(kin_pipeline *pipeline, const kin_host_tensor *latents, bool quiet,
                               kin_host_tensor *out_frames);
/* All three. negative NULL: the negative prompt of the system's scripts, if they have one, else as
 * in kin_pipeline_sample. */
kin_status kin_pipeline_generate(kin_pipeline *pipeline, const kin_generation *generation,
                                 const char *const *prompts, const char *const *negative,
                                 kin_host_tensor *out_frames);
/* The peaks of device memory that the stages take, weights included, as they are planned; nothing
 * is loaded. KIN_OUT_OF_MEMORY if a stage cannot keep to the budget. Text: one prompt at a time. */
kin_status kin_pipeline_text_memory(const kin_pipeline *pipeline, uint64_t *out_bytes);
/* A step of `out_group` clips at a time. negative: there is a negative prompt. */
kin_status kin_pipeline_sample_memory(kin_pipeline *pipeline, const kin_generation *generation,
                                      bool negative, uint64_t *out_bytes, int64_t *out_group);
/* Encoding or decoding a clip of so many pixels, in `out_runs` parts. */
kin_status kin_pipeline_video_memory(kin_pipeline *pipeline, bool encode, int64_t frames,
                                     int64_t height, int64_t width, uint64_t *out_bytes,
                                     int64_t *out_runs);
/* Clip `index` of out_frames, without a copy. */
kin_host_tensor kin_pipeline_clip(const kin_host_tensor *frames, int64_t index);

#endif
