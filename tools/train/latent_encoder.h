/* Encoding the clips of one form: the frames of an image autoencoder all at once where that is
 * small, everything else as the autoencoder's coder cuts it. */
#ifndef KIN_TOOLS_LATENT_ENCODER_H
#define KIN_TOOLS_LATENT_ENCODER_H

#include "tools/generate/vae_coder.h"

typedef struct kin_latent_encoder kin_latent_encoder;

typedef struct kin_latent_encoder_options {
    const kin_vae_config *vae;
    const char *path; /* of the weights */
    kin_precision precision;
    uint64_t memory; /* device memory, in bytes; 0: no limit */
    int64_t frames, height, width;
} kin_latent_encoder_options;

kin_status kin_latent_encoder_open(kin_device *device, const kin_latent_encoder_options *options,
                                   kin_latent_encoder **out_encoder);
void kin_latent_encoder_close(kin_latent_encoder *encoder);
/* A clip f32 [1, 3, T, Y, X] -> moments f32 [1, 2C, T', Y', X'] in fresh host memory. */
kin_status kin_latent_encoder_run(kin_latent_encoder *encoder, const kin_host_tensor *clip,
                                  kin_host_tensor *out_moments);

#endif
