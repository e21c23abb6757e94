/* Diffusion as graphs: noising, the training loss with learned variance, and single steps of the
 * samplers, with the loop on the host that drives them. */
#ifndef KIN_MODELS_DIFFUSION_H
#define KIN_MODELS_DIFFUSION_H

#include "models/schedule.h"
#include "runtime/plan.h"

#ifdef __cplusplus
extern "C" {
#endif

/* sqrt(A_t) x0 + sqrt(1 - A_t) noise. x0, noise [B, C, T, Y, X] f32; t i32 [B]: steps. */
KIN_API kin_tensor kin_diffusion_noise(kin_graph *graph, const kin_schedule *schedule,
                                       kin_tensor x0, kin_tensor t, kin_tensor noise);
/* The same where each sample's frames may be given: mask f32 [B, T], 1 = noised to step t, 0 =
 * given, noised to step 0 with the same noise. Open-Sora 1.1. */
KIN_API kin_tensor kin_diffusion_noise_masked(kin_graph *graph, const kin_schedule *schedule,
                                              kin_tensor x0, kin_tensor t, kin_tensor noise,
                                              kin_tensor mask);
/* What the model is told for steps t i32 [B] (or [1]): f32 of the same shape. */
KIN_API kin_tensor kin_diffusion_timesteps(kin_graph *graph, const kin_schedule *schedule,
                                           kin_tensor t);

typedef struct kin_diffusion_losses {
    kin_tensor loss;       /* scalar: mean over the batch of mse + vb */
    kin_tensor per_sample; /* [B] */
    kin_tensor mse, vb;    /* [B]; vb in bits per element, KIN_NONE without learned variance */
} kin_diffusion_losses;

/* The loss of IDDPM with learned variance, unweighted: the mean squared error of the predicted
 * noise plus the variational bound, in which the predicted mean is detached, so that it trains the
 * variance alone; at step 0 the bound is the likelihood under a Gaussian discretised to bins of
 * 2/255. model_out [B, 2C, T, Y, X]: noise, then v, whose log-variance is
 * f log(beta) + (1 - f) log(posterior variance), f = (v + 1) / 2. With C channels only: the squared
 * error alone. x0, noise [B, C, T, Y, X] are what kin_diffusion_noise was given. */
KIN_API void kin_diffusion_loss(kin_graph *graph, const kin_schedule *schedule, kin_tensor x0,
                                kin_tensor noise, kin_tensor t, kin_tensor model_out,
                                kin_diffusion_losses *out_losses);
/* The same over the frames whose mask (f32 [B, T]) is 1: each term is its sum over them divided by
 * their number of elements. A sample without such a frame gives NaN. */
KIN_API void kin_diffusion_loss_masked(kin_graph *graph, const kin_schedule *schedule,
                                       kin_tensor x0, kin_tensor noise, kin_tensor t,
                                       kin_tensor mask, kin_tensor model_out,
                                       kin_diffusion_losses *out_losses);

/* Runs the denoiser within a step's graph: x [B, C, T, Y, X], timestep f32 [B] -> [B, C or 2C,
 * ...]. With guidance B is twice the number of samples: with the captions, then without. */
typedef kin_tensor (*kin_denoiser_fn)(void *user, kin_graph *graph, kin_tensor x,
                                      kin_tensor timestep);

typedef enum kin_sampler_method {
    KIN_SAMPLER_IDDPM, /* ancestral, with the learned variance (else the posterior's) */
    KIN_SAMPLER_DDIM   /* Song et al. 2020, arXiv:2010.02502; ignores a learned variance */
} kin_sampler_method;

typedef struct kin_sampler_options {
    kin_sampler_method method;
    double cfg_scale; /* 1: no guidance, one pass of the model */
    int cfg_channels; /* the first so many channels are guided, the others stay the conditional
                         ones; 3 of 4 in Open-Sora; 0: all */
    double eta;       /* DDIM: 0 draws no noise, 1 as much as DDPM */
} kin_sampler_options;

/* True if the steps read noise. */
KIN_API bool kin_sampler_needs_noise(const kin_sampler_options *options);

/* Guided noise and the variance channels: out [2B, C or 2C, ...] (captions, then null captions) ->
 * [B, C or 2C, ...]: uncond + scale * (cond - uncond) in the first cfg_channels. `channels` is C.
 */
KIN_API kin_tensor kin_sampler_guide(kin_graph *graph, const kin_sampler_options *options,
                                     kin_tensor out, int64_t channels);
/* One step from x and the (guided) model output: step i32 [1] counts down from steps - 1. noise as
 * x, or KIN_NONE where kin_sampler_needs_noise is false. */
KIN_API kin_tensor kin_sampler_step(kin_graph *graph, const kin_schedule *schedule,
                                    const kin_sampler_options *options, kin_tensor x,
                                    kin_tensor model_out, kin_tensor step, kin_tensor noise);

/* The whole step as a graph: inputs "latents" [B, C, T, Y, X], "step" i32 [1] and, if needed,
 * "noise"; output "next". dims: those five sizes. */
KIN_API void kin_sampler_graph(kin_graph *graph, const kin_schedule *schedule,
                               const kin_sampler_options *options, const int64_t dims[5],
                               kin_denoiser_fn denoiser, void *user);

/* Fills `noise` for call k (0 is the highest step); false: KIN_CANCELLED. */
typedef bool (*kin_sampler_noise_fn)(void *user, int call, float *noise, size_t count);
/* Sees the latents after call k of `calls`; false: KIN_CANCELLED. */
typedef bool (*kin_sampler_progress_fn)(void *user, int call, int calls, const float *latents);

typedef struct kin_sampler_loop {
    kin_sampler_noise_fn noise; /* NULL: Philox normals of (seed, stream, call + 1); the initial
                                   latents may be drawn as (seed, stream, 0) */
    void *noise_user;
    kin_sampler_progress_fn progress; /* may be NULL */
    void *progress_user;
    uint64_t seed;
    uint32_t stream;
} kin_sampler_loop;

/* Runs a prepared plan of kin_sampler_graph `schedule->steps` times. latents (dense f32, `count`
 * elements) holds the initial noise and receives the result. */
KIN_API kin_status kin_sampler_run(kin_plan *plan, kin_context *context,
                                   const kin_schedule *schedule, const kin_sampler_options *options,
                                   const kin_sampler_loop *loop, float *latents, size_t count);

#ifdef __cplusplus
}
#endif
#endif
