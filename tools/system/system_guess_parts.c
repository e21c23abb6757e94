/* Configurations of autoencoders and text encoders from the names and shapes of their tensors. */
#include "tools/system/system_internal.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

enum { MAX_NAME = 256, MAX_BLOCKS = 4096 };

/* Of "FORMAT" with a number in it. */
static int64_t size_at(const kin_guess_tensors *t, const char *format, int index, const char *rest,
                       int axis) {
    char name[2 * MAX_NAME];
    snprintf(name, sizeof name, "%s%d%s", format, index, rest);
    return kin_guess_size(t, name, axis);
}

static bool to_int(int64_t value, int *out) {
    *out = (int)value;
    return value >= 1 && value <= INT_MAX;
}

static kin_status fail_shapes(const kin_guess_tensors *t, const char *what) {
    return kin_fail(t->context, KIN_UNSUPPORTED,
                    "%s: the tensors are named as those of %s, but their shapes are not its",
                    t->path, what);
}

/* The first of `names` that some prefix leads to. */
static bool open_tensors(kin_context *context, const kin_checkpoint *file, const char *path,
                         const char *const *names, size_t name_count, kin_guess_tensors *out) {
    static const char *const prefixes[] = {"", "first_stage_model.", "module.", "gen_model.",
                                           "module.gen_model."};
    *out = (kin_guess_tensors){.context = context, .file = file, .path = path};
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        snprintf(out->prefix, sizeof out->prefix, "%s", prefixes[i]);
        for (size_t k = 0; k < name_count; k++)
            if (kin_guess_find(out, names[k])) return true;
    }
    return false;
}

/* ---- autoencoders ------------------------------------------------------------------------- */

/* Of every kind and every layout. */
static const char *const vae_names[] = {"encoder.conv_in.weight", "encoder.conv_in.conv.weight",
                                        "decoder.conv_in.weight", "decoder.conv_in.conv.weight"};
enum { VAE_NAMES = sizeof vae_names / sizeof *vae_names };

/* diffusers' and CompVis' names for what tells the sizes. */
typedef struct image_names {
    const char *level, *first, *block, *conv; /* "LEVEL0FIRST", "LEVEL0BLOCK0CONV" */
} image_names;

static kin_status guess_image_vae(const kin_guess_tensors *t, bool compvis, kin_sd_vae_config *c) {
    static const image_names both[] = {
        {"encoder.down_blocks.", ".resnets.0.conv1.weight", ".resnets.", ".conv1.weight"},
        {"encoder.down.", ".block.0.conv1.weight", ".block.", ".conv1.weight"}};
    enum { PUBLISHED_GROUPS = 32 };
    const image_names *n = &both[compvis];
    char first[MAX_NAME];
    int64_t moments = kin_guess_size(t, "encoder.conv_out.weight", 0);
    bool good = moments % 2 == 0 && to_int(moments / 2, &c->latent_channels) &&
                to_int(kin_guess_size(t, "encoder.conv_in.weight", 1), &c->in_channels) &&
                to_int(kin_guess_size(t, "decoder.conv_out.weight", 0), &c->out_channels);
    c->levels = 0;
    while (good && c->levels < KIN_SD_VAE_MAX_LEVELS) {
        int64_t width = size_at(t, n->level, c->levels, n->first, 0);
        if (!width) break;
        good = to_int(width, &c->block_out_channels[c->levels++]) && width % PUBLISHED_GROUPS == 0;
    }
    snprintf(first, sizeof first, "%s0%s", n->level, n->block);
    c->layers_per_block = 0;
    while (good && c->layers_per_block < MAX_BLOCKS &&
           size_at(t, first, c->layers_per_block, n->conv, 0))
        c->layers_per_block++;
    if (!good || c->levels < 1 || c->layers_per_block < 1)
        return fail_shapes(t, "Stable Diffusion's autoencoder");
    return kin_sd_vae_config_check(t->context, c);
}

/* The released versions differ in how they shrink time: together with space, by a convolution of
 * its own, or by means, which have no weights. */
static const char *causal_version(const kin_guess_tensors *t) {
    for (int i = 0; i < KIN_CAUSAL_VAE_MAX_LEVELS; i++) {
        if (size_at(t, "encoder.down.", i, ".downsample.conv.conv.weight", 2) == 3)
            return "causal-vae-1.2";
        if (size_at(t, "encoder.down.", i, ".time_downsample.conv.weight", 0))
            return "causal-vae-1.1";
    }
    return NULL;
}

static kin_status guess_causal_vae(const kin_guess_tensors *t, kin_causal_vae_config *c) {
    const char *version = causal_version(t);
    *c = kin_causal_vae_config_default();
    kin_status status = KIN_OK;
    if (version) status = kin_causal_vae_config_named(t->context, version, c);
    if (status != KIN_OK) return status;
    int64_t width = kin_guess_size(t, "encoder.conv_in.weight", 0);
    if (!width) width = kin_guess_size(t, "encoder.conv_in.conv.weight", 0);
    int64_t embedded = kin_guess_size(t, "post_quant_conv.conv.weight", 1);
    int64_t latents = kin_guess_size(t, "decoder.conv_in.conv.weight", 1);
    c->use_quant_layer = embedded > 0;
    bool good = to_int(width, &c->hidden_size) && to_int(latents, &c->z_channels) &&
                to_int(embedded ? embedded : latents, &c->embed_dim);
    int levels = 0;
    while (good && levels < KIN_CAUSAL_VAE_MAX_LEVELS) {
        int64_t out = size_at(t, "encoder.down.", levels, ".block.0.conv1.conv.weight", 0);
        if (!out) out = size_at(t, "encoder.down.", levels, ".block.0.conv1.weight", 0);
        if (!out) break;
        good = out % width == 0 && to_int(out / width, &c->hidden_size_mult[levels++]);
    }
    c->num_res_blocks = 0;
    while (good && c->num_res_blocks < MAX_BLOCKS &&
           (size_at(t, "encoder.down.0.block.", c->num_res_blocks, ".conv1.weight", 0) ||
            size_at(t, "encoder.down.0.block.", c->num_res_blocks, ".conv1.conv.weight", 0)))
        c->num_res_blocks++;
    /* The kinds of blocks are those of the released files, which have four levels. */
    if (!good || levels != c->levels || c->num_res_blocks < 1)
        return fail_shapes(t, "a released causal video autoencoder");
    return kin_causal_vae_config_check(t->context, c);
}

kin_status kin_guess_vae(kin_context *context, const kin_checkpoint *file, const char *path,
                         kin_vae_config *out_config) {
    kin_guess_tensors t;
    kin_vae_config c = {.sd = kin_sd_vae_config_default(),
                        .causal = kin_causal_vae_config_default()};
    kin_status status;
    if (!open_tensors(context, file, path, vae_names, VAE_NAMES, &t))
        return kin_fail(context, KIN_UNSUPPORTED, "%s: no autoencoder that is known", path);
    bool compvis = kin_guess_find(&t, "encoder.down.0.block.0.conv1.weight") != NULL;
    if (kin_guess_find(&t, "encoder.mid.block_1.conv1.conv.weight")) {
        c.kind = KIN_VAE_CAUSAL;
        status = guess_causal_vae(&t, &c.causal);
    } else {
        c.kind = kin_guess_find(&t, "decoder.time_conv_out.weight") ? KIN_VAE_TEMPORAL : KIN_VAE_SD;
        status = guess_image_vae(&t, compvis, &c.sd);
    }
    if (status == KIN_OK) *out_config = c;
    return status;
}

/* ---- text encoders ------------------------------------------------------------------------- */

static const char *const t5_names[] = {"encoder.block.0.layer.0.SelfAttention.q.weight"};

kin_status kin_guess_t5(kin_context *context, const kin_checkpoint *file, const char *path,
                        kin_t5_config *out_config) {
    kin_guess_tensors t;
    kin_t5_config c = {.layer_norm_epsilon = 1e-6,
                       .relative_attention_max_distance = 128,
                       .initializer_factor = 1};
    if (!open_tensors(context, file, path, t5_names, 1, &t))
        return kin_fail(context, KIN_UNSUPPORTED, "%s: no T5 encoder", path);
    const char *table = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
    int64_t inner = kin_guess_size(&t, t5_names[0], 0), heads = kin_guess_size(&t, table, 1);
    int64_t feed = kin_guess_size(&t, "encoder.block.0.layer.1.DenseReluDense.wi_0.weight", 0);
    int64_t words = kin_guess_size(&t, "shared.weight", 0);
    if (!words) words = kin_guess_size(&t, "encoder.embed_tokens.weight", 0);
    c.gated = feed > 0;
    if (!feed) feed = kin_guess_size(&t, "encoder.block.0.layer.1.DenseReluDense.wi.weight", 0);
    while (c.num_layers < MAX_BLOCKS &&
           size_at(&t, "encoder.block.", c.num_layers, ".layer.0.SelfAttention.q.weight", 0))
        c.num_layers++;
    if (heads < 1 || inner % heads != 0 || !to_int(heads, &c.num_heads) ||
        !to_int(inner / heads, &c.d_kv) || !to_int(feed, &c.d_ff) ||
        !to_int(words, &c.vocab_size) || !to_int(kin_guess_size(&t, t5_names[0], 1), &c.d_model) ||
        !to_int(kin_guess_size(&t, table, 0), &c.relative_attention_num_buckets))
        return fail_shapes(&t, "a T5 encoder");
    kin_status status = kin_t5_config_check(context, &c);
    if (status == KIN_OK) *out_config = c;
    return status;
}

kin_part_kind kin_guess_part(const kin_checkpoint *file) {
    static const char *const denoisers[] = {"x_embedder.proj.weight", "pos_embed.proj.weight"};
    kin_guess_tensors t;
    if (open_tensors(NULL, file, "", denoisers, 2, &t)) return KIN_PART_DENOISER;
    if (open_tensors(NULL, file, "", t5_names, 1, &t)) return KIN_PART_TEXT_ENCODER;
    if (open_tensors(NULL, file, "", vae_names, VAE_NAMES, &t)) return KIN_PART_VAE;
    return KIN_PART_KINDS;
}
