/* What training reads over and over, made once and kept on disk: the posterior moments of clips, and
 * the text features of captions. Both know what they were made from, and are made anew when that
 * changed. */
#ifndef KIN_TOOLS_LATENT_CACHE_H
#define KIN_TOOLS_LATENT_CACHE_H

#include "tools/train.h"

typedef struct kin_latent_cache kin_latent_cache;

/* OUTPUT/latents.safetensors: "moments" [2C, T, Y, X] f32 of every clip of the data set, encoded by
 * the vae of config->vae_path; one tensor per clip, named by its row. */
kin_status kin_latent_cache_open(kin_context *context, kin_device *device,
                                 const kin_train_config *config, const kin_sd_vae_config *vae,
                                 kin_dataset *data, bool quiet, kin_latent_cache **out_cache);
void kin_latent_cache_close(kin_latent_cache *cache);
/* Floats of one clip's moments, and the moments (means, then log-variances). */
size_t kin_latent_cache_values(const kin_latent_cache *cache);
/* The clip to take for `index`: itself, or the next one that could be read when they were encoded. A
 * clip that could not is kept as NaN. */
int64_t kin_latent_cache_row(const kin_latent_cache *cache, int64_t index);
const float *kin_latent_cache_clip(const kin_latent_cache *cache, int64_t index);

/* OUTPUT/features.safetensors: features [count, L, C] f32 of captions, by the text encoder of
 * config->text_encoder_path. The caller frees *out_features. */
kin_status kin_text_cache_open(kin_context *context, kin_device *device,
                               const kin_train_config *config, const kin_t5_config *text,
                               const int32_t *ids, const int32_t *lengths, int64_t count,
                               int64_t text_length, const char *tokenizer_path,
                               kin_host_tensor *out_features);

#endif
