#include "models/vae.h"

#include <string.h>

#include "models/vae_temporal.h"
#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/views.h"
#include "runtime/json.h"

static const char *const kind_names[] = {
    [KIN_VAE_SD] = "AutoencoderKL",
    [KIN_VAE_TEMPORAL] = "AutoencoderKLTemporalDecoder",
    [KIN_VAE_CAUSAL] = "CausalVAEModel",
};
enum { KINDS = sizeof kind_names / sizeof *kind_names };

const char *kin_vae_kind_name(kin_vae_kind kind) {
    return kind_names[kind];
}

/* ---- configurations ------------------------------------------------------------------------- */

static kin_status find_kind(kin_context *context, const json_t *json, const char *where,
                            kin_vae_kind *out_kind) {
    const char *name = json_string_value(json_object_get(json, "_class_name"));
    for (int i = 0; name && i < KINDS; i++)
        if (strcmp(name, kind_names[i]) == 0) {
            *out_kind = (kin_vae_kind)i;
            return KIN_OK;
        }
    if (name)
        return kin_fail(context, KIN_UNSUPPORTED,
                        "%s: the autoencoder %s is not known; there are %s, %s and %s", where, name,
                        kind_names[0], kind_names[1], kind_names[2]);
    /* Files without the name: only the decoder over time has no list of its blocks. */
    if (json_object_get(json, "hidden_size_mult") || json_object_get(json, "z_channels"))
        *out_kind = KIN_VAE_CAUSAL;
    else if (json_object_get(json, "down_block_types") && !json_object_get(json, "up_block_types"))
        *out_kind = KIN_VAE_TEMPORAL;
    else *out_kind = KIN_VAE_SD;
    return KIN_OK;
}

kin_status kin_vae_config_parse(kin_context *context, const json_t *json, const char *where,
                                kin_unknown_keys unknown, kin_vae_config *out_config) {
    kin_vae_config c = {.sd = kin_sd_vae_config_default(),
                        .causal = kin_causal_vae_config_default()};
    kin_status status = find_kind(context, json, where, &c.kind);
    if (status == KIN_OK && c.kind == KIN_VAE_CAUSAL)
        status = kin_causal_vae_config_parse(context, json, where, unknown, &c.causal);
    else if (status == KIN_OK)
        status = kin_sd_vae_config_parse(context, json, where, unknown, &c.sd);
    if (status == KIN_OK) *out_config = c;
    return status;
}

kin_status kin_vae_config_json(kin_context *context, const kin_vae_config *config,
                               json_t **out_json) {
    if (config->kind == KIN_VAE_CAUSAL)
        return kin_causal_vae_config_json(context, &config->causal, out_json);
    kin_status status = kin_sd_vae_config_json(context, &config->sd, out_json);
    if (status != KIN_OK || config->kind == KIN_VAE_SD) return status;
    static const char *const others[] = {"up_block_types", "act_fn", "norm_num_groups"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        json_object_del(*out_json, others[i]);
    if (json_object_set_new(*out_json, "_class_name", json_string(kind_names[config->kind])) == 0 &&
        json_object_set_new(*out_json, "force_upcast", json_true()) == 0)
        return KIN_OK;
    json_decref(*out_json);
    *out_json = NULL;
    return kin_fail(context, KIN_OUT_OF_MEMORY, "no memory for a config.json");
}

bool kin_vae_rename(const void *config, const char *file_name, char *out_name, size_t size) {
    const kin_vae_config *c = config;
    if (c->kind == KIN_VAE_CAUSAL)
        return kin_causal_vae_rename(&c->causal, file_name, out_name, size);
    return kin_sd_vae_rename(&c->sd, file_name, out_name, size);
}

/* ---- sizes ---------------------------------------------------------------------------------- */

kin_vae_shape kin_vae_shape_of(const kin_vae_config *config) {
    if (config->kind == KIN_VAE_CAUSAL)
        return (kin_vae_shape){.channels = config->causal.embed_dim,
                               .space_factor = kin_causal_vae_space_factor(&config->causal),
                               .time_factor = kin_causal_vae_time_factor(&config->causal),
                               .scale = KIN_CAUSAL_VAE_SCALE};
    return (kin_vae_shape){.channels = config->sd.latent_channels,
                           .space_factor = kin_sd_vae_factor(&config->sd),
                           .time_factor = 1,
                           .scale = config->sd.scaling_factor};
}

int64_t kin_vae_latent_frames(const kin_vae_config *config, int64_t frames) {
    int64_t factor = kin_vae_shape_of(config).time_factor;
    return frames < 1 ? 0 : (frames - 1) / factor + 1;
}

int64_t kin_vae_video_frames(const kin_vae_config *config, int64_t latent_frames) {
    int64_t factor = kin_vae_shape_of(config).time_factor;
    return latent_frames < 1 ? 0 : (latent_frames - 1) * factor + 1;
}

/* ---- graphs --------------------------------------------------------------------------------- */

/* [B, C, T, Y, X] -> [B T, C, Y, X] */
static kin_tensor to_images(kin_graph *g, kin_tensor x) {
    int64_t dims[4] = {kin_dim(g, x, 0) * kin_dim(g, x, 2), kin_dim(g, x, 1), kin_dim(g, x, 3),
                       kin_dim(g, x, 4)};
    if (kin_dim(g, x, 2) > 1) x = kin_transpose(g, x, 1, 2);
    return kin_reshape(g, x, 4, dims);
}

/* The reverse. */
static kin_tensor to_video(kin_graph *g, kin_tensor x, int64_t batch) {
    int64_t frames = kin_dim(g, x, 0) / batch, c = kin_dim(g, x, 1), y = kin_dim(g, x, 2);
    int64_t columns = kin_dim(g, x, 3);
    if (frames == 1) return kin_reshape(g, x, 5, (int64_t[]){batch, c, 1, y, columns});
    x = kin_reshape(g, x, 5, (int64_t[]){batch, frames, c, y, columns});
    return kin_transpose(g, x, 1, 2);
}

static bool is_video(kin_graph *g, kin_tensor x, int64_t channels, const char *what) {
    if (kin_rank(g, x) == 5 && kin_dim(g, x, 1) == channels) return true;
    kin_graph_fail(g, KIN_INVALID, "autoencoder: %s must be [B, %lld, T, Y, X]", what,
                   (long long)channels);
    return false;
}

kin_tensor kin_vae_encode(kin_graph *graph, const kin_vae_config *config,
                          const kin_precision *precision, kin_tensor videos) {
    kin_graph *g = graph;
    if (config->kind == KIN_VAE_CAUSAL)
        return kin_causal_vae_encode(g, &config->causal, precision, videos);
    if (!is_video(g, videos, config->sd.in_channels, "videos")) return KIN_NONE;
    kin_tensor moments = kin_sd_vae_encode(g, &config->sd, precision, to_images(g, videos), false);
    return to_video(g, moments, kin_dim(g, videos, 0));
}

/* As Latte does it: 14 frames at a time. */
static kin_tensor decode_chunks(kin_graph *g, const kin_vae_config *config,
                                const kin_precision *precision, kin_tensor latents) {
    int64_t batch = kin_dim(g, latents, 0), frames = kin_dim(g, latents, 2);
    kin_tensor done = KIN_NONE;
    for (int64_t start = 0; start < frames; start += KIN_VAE_TEMPORAL_CHUNK) {
        int64_t left = frames - start;
        int64_t count = left < KIN_VAE_TEMPORAL_CHUNK ? left : KIN_VAE_TEMPORAL_CHUNK;
        kin_tensor part = to_images(g, kin_slice(g, latents, 2, start, count));
        part = kin_vae_temporal_decode(g, &config->sd, precision, part, count, false);
        part = to_video(g, part, batch);
        done = start == 0 ? part : kin_concat(g, (kin_tensor[]){done, part}, 2, 2);
    }
    return done;
}

kin_tensor kin_vae_decode(kin_graph *graph, const kin_vae_config *config,
                          const kin_precision *precision, kin_tensor latents) {
    kin_graph *g = graph;
    kin_vae_shape shape = kin_vae_shape_of(config);
    if (!is_video(g, latents, shape.channels, "latents")) return KIN_NONE;
    kin_tensor x = kin_scale(g, latents, 1 / shape.scale, 0);
    if (config->kind == KIN_VAE_CAUSAL)
        return kin_causal_vae_decode(g, &config->causal, precision, x);
    if (config->kind == KIN_VAE_TEMPORAL) return decode_chunks(g, config, precision, x);
    kin_tensor images = kin_sd_vae_decode(g, &config->sd, precision, to_images(g, x), false);
    return to_video(g, images, kin_dim(g, latents, 0));
}
