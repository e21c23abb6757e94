/* Sampling where some frames are given, as Open-Sora 1.1 does it for image to video, video to
 * video, loops and extension: each frame has an edit ratio m in 0..1. With N steps, counted down
 * from N - 1 to 0, a frame stays as it is until step int(m N), is then noised to that step's level,
 * and is denoised from there on; frames of ratio 1 are generated from noise. */
#ifndef KIN_MODELS_DIFFUSION_MASKED_H
#define KIN_MODELS_DIFFUSION_MASKED_H

#include "models/diffusion.h"

#ifdef __cplusplus
extern "C" {
#endif

/* int(ratio * steps) in f32 arithmetic, for each of `count` ratios: the step at which a frame
 * begins to change. Of ratio 1: `steps`, above all of them. */
KIN_API void kin_masked_frame_steps(const float *ratios, size_t count, int steps,
                                    float *out_frame_steps);

/* As kin_denoiser_fn; frame_mask f32 [samples, T] is 1 where a frame is denoised at this step, 0
 * where it is taken as given. With guidance x has twice as many samples as the mask. */
typedef kin_tensor (*kin_masked_denoiser_fn)(void *user, kin_graph *graph, kin_tensor x,
                                             kin_tensor timestep, kin_tensor frame_mask);

/* A step as a graph: inputs "latents" [B, C, T, Y, X], "step" i32 [1], "frame_steps" f32 [B, T],
 * "noise_given" (as latents: re-noises the frames whose step this is) and, if the method needs it,
 * "noise"; outputs "next" and "frame_mask". dims: the five sizes. */
KIN_API void kin_masked_sampler_graph(kin_graph *graph, const kin_schedule *schedule,
                                      const kin_sampler_options *options, const int64_t dims[5],
                                      kin_masked_denoiser_fn denoiser, void *user);

/* Runs a prepared plan of that graph `schedule->steps` times. latents (dense f32, `count` elements)
 * holds noise and, at given frames, their latents; it receives the result. Noise is drawn twice a
 * step, for call numbers 2 k (re-noising, at every step) and 2 k + 1 (the step's own; not drawn if
 * the method needs none). ratios: dense f32 [B, T]. */
KIN_API kin_status kin_masked_sampler_run(kin_plan *plan, kin_context *context,
                                          const kin_schedule *schedule,
                                          const kin_sampler_options *options,
                                          const kin_sampler_loop *loop, const float *ratios,
                                          size_t ratio_count, float *latents, size_t count);

#ifdef __cplusplus
}
#endif
#endif
