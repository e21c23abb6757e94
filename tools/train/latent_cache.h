/* What training reads over and over, made once and kept on disk: the posterior moments of clips.
 * The files know what they were made from, and are made anew when that changed. */
#ifndef KIN_TOOLS_LATENT_CACHE_H
#define KIN_TOOLS_LATENT_CACHE_H

#include "models/vae.h"
#include "tools/train/train.h"
#include "tools/train/train_order.h"

typedef struct kin_latent_cache kin_latent_cache;

/* The autoencoder that makes latents: its configuration and its weights. */
typedef struct kin_latent_source {
    const kin_vae_config *vae;
    const char *path;
} kin_latent_source;

/* OUTPUT/latents.safetensors, or OUTPUT/latents-FRAMESxHEIGHTxWIDTH.safetensors where clips have
 * several forms: the moments [2C, T', Y', X'] f32 of every clip that the order needs in a form, one
 * tensor per clip, named by its row. Clips that are there already are kept when more are needed. */
kin_status kin_latent_cache_open(kin_context *context, kin_device *device,
                                 const kin_train_config *config, const kin_latent_source *source,
                                 kin_dataset *data, const kin_train_order *order, bool quiet,
                                 kin_latent_cache **out_cache);
void kin_latent_cache_close(kin_latent_cache *cache);
/* Floats of one clip's moments in a form of the order. */
size_t kin_latent_cache_values(const kin_latent_cache *cache, int form);
/* The moments (means, then log-variances) of a row; of a row that could not be read those of the
 * next one that could, so that one broken file does not end a run. *out_row (may be NULL) tells
 * whose they are, for its caption. */
const float *kin_latent_cache_clip(const kin_latent_cache *cache, int form, int64_t row,
                                   int64_t *out_row);

#endif
