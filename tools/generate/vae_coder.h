/* Coding whole videos within a memory budget: an autoencoder with its weights and as many plans as
 * it takes. When all at once does not fit, the video is cut in stretches of time and bands of rows
 * with halos, norms take their statistics over the whole, and the result equals the uncut one
 * within rounding. */
#ifndef KIN_TOOLS_VAE_CODER_H
#define KIN_TOOLS_VAE_CODER_H

#include "models/vae.h"
#include "runtime/device.h"
#include "runtime/plan.h"

typedef struct kin_vae_coder kin_vae_coder;

/* How a video is cut. */
typedef enum kin_vae_cut {
    KIN_VAE_CUT_AS_NEEDED, /* not at all if it fits into the budget, else without loss */
    KIN_VAE_CUT_NEVER,     /* KIN_OUT_OF_MEMORY, with the numbers, if it does not fit */
    KIN_VAE_CUT_PUBLISHED /* the original's lossy tiling (causal VAE only): kin_causal_vae_tiling */
} kin_vae_cut;

typedef struct kin_vae_coder_options {
    kin_precision precision;
    /* Bytes of device memory that the weights of a half (encoder or decoder) and the plans may
     * take; where the device is in host memory, what the host keeps between pieces counts, too. 0:
     * no limit, frames that are independent still go one by one. */
    uint64_t memory;
    kin_vae_cut cut;
    kin_causal_vae_tiling tiling; /* of KIN_VAE_CUT_PUBLISHED */
    /* Sees finished parts; false: KIN_CANCELLED. May be NULL. */
    bool (*progress)(void *user, int64_t done, int64_t all);
    void *progress_user;
} kin_vae_coder_options;

/* Weights are read from `path` (kin_weights_load) when the first video comes. The coder keeps its
 * own copies of all but the device and the progress user. */
kin_status kin_vae_coder_open(kin_device *device, const kin_vae_config *config, const char *path,
                              const kin_vae_coder_options *options, kin_vae_coder **out_coder);
void kin_vae_coder_close(kin_vae_coder *coder);
/* videos: dense f32 [B, 3, T, Y, X] in -1..1 -> moments f32 [B, 2C, T', Y', X'] in fresh host
 * memory (kin_host_tensor_free). */
kin_status kin_vae_coder_encode(kin_vae_coder *coder, const kin_host_tensor *videos,
                                kin_host_tensor *out_moments);
/* latents: dense f32 [B, C, T', Y', X'] of the diffusion -> videos f32 [B, 3, T, Y, X], not
 * clamped, in fresh host memory. */
kin_status kin_vae_coder_decode(kin_vae_coder *coder, const kin_host_tensor *latents,
                                kin_host_tensor *out_videos);
/* The peak of device memory that coding a video of these sizes (of pixels) takes as the coder would
 * cut it, weights included, and how many plan runs that is; nothing is loaded. */
kin_status kin_vae_coder_memory(kin_vae_coder *coder, bool encode, int64_t batch, int64_t frames,
                                int64_t height, int64_t width, uint64_t *out_bytes,
                                int64_t *out_runs);

#endif
