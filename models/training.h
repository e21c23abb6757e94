/* Training steps as graphs: gradients, clipping, AdamW, averages; and the two trainings of a
 * text-to-video model. Everything that varies from step to step is an input. */
#ifndef KIN_MODELS_TRAINING_H
#define KIN_MODELS_TRAINING_H

#include "models/denoiser.h"
#include "models/diffusion.h"
#include "models/opensora_plan.h"
#include "models/sd_vae.h"
#include "models/stdit.h"
#include "models/t5.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kin_optimizer_options {
    double beta1, beta2, epsilon, weight_decay; /* AdamW */
    double max_grad_norm;                       /* 0: no clipping */
    double ema_decay;                           /* 0: no average */
    bool over_ranks; /* gradients are averaged over the ranks of the device's group first */
} kin_optimizer_options;

/* Which samples of a batch that is shared out among ranks a graph computes. Random numbers are
 * those of the whole batch, so that it does not matter how many ranks there are. All zero: all of
 * them. */
typedef struct kin_batch_part {
    int64_t first; /* of the whole batch's samples */
    int64_t whole; /* 0: as many as the graph has */
} kin_batch_part;

/* Prefixes of the names of states in a store, before the weight's own name. */
#define KIN_MOMENT1_PREFIX "optimizer.exp_avg."
#define KIN_MOMENT2_PREFIX "optimizer.exp_avg_sq."
#define KIN_EMA_PREFIX "ema."
#define KIN_GRADIENT_PREFIX "gradient."

/* Appends the backward pass of `loss` and one AdamW step for every trainable variable that the loss
 * depends on. Adds inputs "lr" (scalar f32) and "step" (scalar i64, from 1) and the output
 * "grad_norm" (scalar f32, before clipping). A step whose gradient norm is not finite changes
 * nothing. Averages start as what the store holds: see kin_training_start_averages. */
KIN_API void kin_training_update(kin_graph *graph, kin_tensor loss,
                                 const kin_optimizer_options *options);
/* Gradient accumulation, part one: appends the backward pass and adds `scale` times the gradients
 * to the variables "gradient.NAME". */
KIN_API void kin_training_accumulate(kin_graph *graph, kin_tensor loss, double scale);
/* Part two, a graph of its own: the AdamW step from the sums of `accumulated`'s graph, which are
 * then set to zero. Inputs and outputs as kin_training_update. */
KIN_API void kin_training_apply(kin_graph *graph, const kin_graph *accumulated,
                                const kin_optimizer_options *options);
/* Makes each average that the graph has and that was not loaded equal to its weight. */
KIN_API kin_status kin_training_start_averages(kin_store *store);

/* Training of the image autoencoder. Inputs: "images" [B, 3, Y, X] in -1..1 and "seed" i64 [2]:
 * {seed, step}, from which the posterior's noise is drawn. Outputs: "loss", "reconstruction" (mean
 * absolute error per value) and "kl" (per latent value). */
typedef struct kin_vae_training {
    const kin_sd_vae_config *vae;
    kin_sd_vae_loss_options loss; /* of sums per image; divided here by the number of values */
    kin_precision precision;
    int64_t batch, height, width;
    kin_batch_part part;
} kin_vae_training;

/* Returns the loss; variables are named under "vae". */
KIN_API kin_tensor kin_vae_training_loss(kin_graph *graph, const kin_vae_training *training);

/* How training steps are spread over the noise levels. All zero: as published (uniform,
 * unweighted). The squared error of high noise levels is small, so what they decide (what moves
 * where) is learned last; these knobs give them more of the training. */
typedef struct kin_timestep_options {
    bool stratified;     /* sample j of B draws its level from the j-th B-th of the schedule */
    double shift;        /* s: t = 1000 s u / (1 + (s - 1) u) for u uniform; above 1 it favours high
                            noise; 0 reads as 1 */
    double weight_power; /* p: the squared error at level t is weighted by ((1 - A_t) / A_t)^p,
                            clamped to 1 / weight_cap .. weight_cap and divided by the schedule's
                            mean; 0: no weights */
    double weight_cap;   /* 0 reads as 10 */
    bool speed;          /* in place of all these: SpeeD's draw and weights, Open-Sora 1.1's
                            "iddpm-speed" (see training_video.c) */
} kin_timestep_options;

/* Draws i32 [batch], the noise level of each sample. seed: i64 [2]: {seed, step}. */
KIN_API kin_tensor kin_training_levels(kin_graph *graph, const kin_schedule *schedule,
                                       const kin_timestep_options *options, int64_t batch,
                                       kin_tensor seed);

/* The part of x [whole batch, ...] that the graph's `batch` samples are: x itself, or a view. */
KIN_API kin_tensor kin_batch_take(kin_graph *graph, const kin_batch_part *part, int64_t batch,
                                  kin_tensor x);
/* N(0, 1) for the graph's samples; dims[0] is their number. */
KIN_API kin_tensor kin_batch_normal(kin_graph *graph, const kin_batch_part *part, kin_tensor seed,
                                    uint32_t stream, int rank, const int64_t *dims);

/* Training of the denoiser, with or without its text encoder. Inputs: "moments" [B, 2C, T, Y, X] of
 * the posterior (means, then log-variances), "seed" i64 [2]: {seed, step}, from which posterior
 * noise, timesteps, diffusion noise and caption dropout are drawn; "ids" and "lengths" i32 [B, L]
 * and [B] if the text encoder is trained, else "features" [B, L, caption_channels] and "lengths"
 * (with `images` a caption for the video and for each: [B, 1 + I, L], [B, 1 + I] and
 * [B, 1 + I, L, caption_channels]); "frame_mask" f32 [B, T] with frame_masks, "real" f32
 * [B, T, Y, X] with padded, "fps" f32 [B] with each_fps.
 * Outputs: "loss" and, of IDDPM, "mse" and, with learned variance, "vb" (means over the batch). */
typedef struct kin_video_training {
    const kin_denoiser_config *model; /* any denoiser; or NULL, and */
    const kin_stdit_config *denoiser; /* STDiT */
    int images;       /* joint training: the last so many of `frames` are pictures */
    bool frame_masks; /* Open-Sora 1.1: frames whose mask is 0 are given, and not learned from */
    bool padded;      /* Open-Sora-Plan: latents whose mask is 0 are padding, not learned from */
    double height, width, aspect_ratio, fps; /* as kin_denoiser_inputs */
    bool each_fps;                           /* each sample has a frame rate of its own */
    const kin_t5_config *text_encoder;       /* NULL: features are given */
    bool whole_captions; /* padding of captions is looked at, too, as Latte trains: without a
                            trained text encoder there are no "lengths" */
    const kin_schedule *schedule;
    double scaling_factor;  /* latents = sample * scaling_factor */
    bool posterior_mean;    /* latents are the posterior's means, not samples of it */
    double caption_dropout; /* probability of the learned null caption; 0 for models without one */
    kin_timestep_options timesteps;
    bool plan_loss; /* Open-Sora-Plan's loss, with these options, in place of IDDPM's */
    kin_plan_loss_options plan;
    kin_precision precision;
    int64_t batch, frames, latent_height, latent_width, text_length;
    kin_batch_part part;
} kin_video_training;

/* Returns the loss; variables are named under "denoiser" and "text_encoder". */
KIN_API kin_tensor kin_video_training_loss(kin_graph *graph, const kin_video_training *training);

#ifdef __cplusplus
}
#endif
#endif
