/* The noise of the clips of a batch, each from a generator of its own. */
#ifndef KIN_TOOLS_PIPELINE_NOISE_H
#define KIN_TOOLS_PIPELINE_NOISE_H

#include "tools/generate/pipeline.h"

typedef struct kin_clip_noise kin_clip_noise;

typedef struct kin_clip_noise_options {
    const kin_sampling *sampling;
    const uint64_t *seeds;
    int64_t count; /* clips, and seeds */
    size_t each;   /* values of a clip */
    int repeats;   /* a step of the original draws so many times that; the first are used */
    kin_dtype first, later; /* of PyTorch's draws: of the start and draw 0, of all others */
} kin_clip_noise_options;

/* Philox draws are (seed, 100, 0) for the start and (seed, 101, draw) for the steps. */
kin_status kin_clip_noise_open(kin_context *context, const kin_clip_noise_options *options,
                               kin_clip_noise **out_noise);
void kin_clip_noise_close(kin_clip_noise *noise);
/* N(0, 1) that the clips start from, f32 [count, each]; comes before any step. */
void kin_clip_noise_start(kin_clip_noise *noise, float *out_values);
/* A kin_sampler_noise_fn; user: kin_clip_noise. Draws are asked for in order. */
bool kin_clip_noise_step(void *user, int draw, float *out_values, size_t count);
/* Draws from the posterior moments f32 [2 C, area] of a clip of the autoencoder: (mean + deviation
 * * noise) * scale -> [C, area]; log-variances are clamped to -30..20. seed NULL: no noise. */
void kin_posterior_draw(const float *moments, size_t values, const uint64_t *seed, double scale,
                        float *out_latents);

#endif
