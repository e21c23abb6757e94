#include "models/sd_vae.h"

#include <string.h>

#include "models/vae_blocks.h"
#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/reduce.h"
#include "ops/split.h"
#include "ops/upsample.h"
#include "runtime/json.h"

static const double norm_eps = 1e-6;

/* What every block needs to know. */
typedef struct vae_call {
    kin_graph *graph;
    const kin_sd_vae_config *config;
    const kin_precision *precision;
} vae_call;

kin_sd_vae_config kin_sd_vae_config_default(void) {
    return (kin_sd_vae_config){.in_channels = 3,
                               .out_channels = 3,
                               .levels = 4,
                               .block_out_channels = {128, 256, 512, 512},
                               .layers_per_block = 2,
                               .latent_channels = 4,
                               .norm_num_groups = 32,
                               .sample_size = 256,
                               .scaling_factor = 0.18215};
}

int kin_sd_vae_factor(const kin_sd_vae_config *config) {
    return 1 << (config->levels - 1);
}

kin_status kin_sd_vae_config_check(kin_context *context, const kin_sd_vae_config *config) {
    if (config->levels < 1 || config->levels > KIN_SD_VAE_MAX_LEVELS)
        return kin_fail(context, KIN_INVALID,
                        "VAE: block_out_channels has %d entries; 1 to %d are possible",
                        config->levels, KIN_SD_VAE_MAX_LEVELS);
    if (config->in_channels < 1 || config->out_channels < 1 || config->latent_channels < 1 ||
        config->layers_per_block < 1 || config->norm_num_groups < 1)
        return kin_fail(context, KIN_INVALID,
                        "VAE: in_channels, out_channels, latent_channels, layers_per_block and "
                        "norm_num_groups must be at least 1");
    for (int i = 0; i < config->levels; i++) {
        int channels = config->block_out_channels[i];
        if (channels < 1 || channels % config->norm_num_groups != 0)
            return kin_fail(context, KIN_INVALID,
                            "VAE: block_out_channels[%d] = %d is no multiple of norm_num_groups %d",
                            i, channels, config->norm_num_groups);
    }
    if (!(config->scaling_factor > 0))
        return kin_fail(context, KIN_INVALID, "VAE: scaling_factor must be above 0");
    return KIN_OK;
}

/* Every entry of a list of block types must be the plain one, and there must be `levels` of them.
 */
static kin_status check_block_types(kin_context *context, const json_t *json, const char *where,
                                    const char *key, const char *plain, int levels) {
    json_t *list = NULL;
    kin_status status = kin_json_get_child(context, json, where, key, JSON_ARRAY, &list);
    if (status != KIN_OK || !list) return status;
    if ((int)json_array_size(list) != levels)
        return kin_fail(context, KIN_INVALID, "%s: %s has %zu entries, block_out_channels %d",
                        where, key, json_array_size(list), levels);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *type = json_string_value(json_array_get(list, i));
        if (!type || strcmp(type, plain) != 0)
            return kin_fail(context, KIN_UNSUPPORTED, "%s: %s[%zu] is %s; only %s is known", where,
                            key, i, type ? type : "no string", plain);
    }
    return KIN_OK;
}

kin_status kin_sd_vae_config_parse(kin_context *context, const json_t *json, const char *where,
                                   kin_unknown_keys unknown, kin_sd_vae_config *out_config) {
    static const char *const known[] = {"in_channels",
                                        "out_channels",
                                        "block_out_channels",
                                        "layers_per_block",
                                        "latent_channels",
                                        "norm_num_groups",
                                        "sample_size",
                                        "scaling_factor",
                                        "down_block_types",
                                        "up_block_types",
                                        "act_fn",
                                        "force_upcast",
                                        "_class_name",
                                        "_diffusers_version",
                                        "_name_or_path",
                                        "use_quant_conv",
                                        "use_post_quant_conv",
                                        "mid_block_add_attention",
                                        "shift_factor",
                                        "latents_mean",
                                        "latents_std"};
    kin_sd_vae_config c = kin_sd_vae_config_default();
    const char *act = "silu";
    bool quant = true, post_quant = true, attention = true;
    size_t levels = (size_t)c.levels;
    kin_status s =
        kin_config_check_keys(context, json, where, known, sizeof known / sizeof *known, unknown);
    if (s == KIN_OK)
        s = kin_json_get_int_list(context, json, where, "block_out_channels", 1, 1 << 20,
                                  c.block_out_channels, KIN_SD_VAE_MAX_LEVELS, &levels);
    c.levels = (int)levels;
    struct {
        const char *key;
        int *value;
    } ints[] = {{"in_channels", &c.in_channels},           {"out_channels", &c.out_channels},
                {"layers_per_block", &c.layers_per_block}, {"latent_channels", &c.latent_channels},
                {"norm_num_groups", &c.norm_num_groups},   {"sample_size", &c.sample_size}};
    for (size_t i = 0; s == KIN_OK && i < sizeof ints / sizeof *ints; i++)
        s = kin_config_get_int(context, json, where, ints[i].key, 1, 1 << 20, ints[i].value);
    if (s == KIN_OK)
        s = kin_json_get_double(context, json, where, "scaling_factor", c.scaling_factor,
                                &c.scaling_factor);
    if (s == KIN_OK) s = kin_json_get_string(context, json, where, "act_fn", act, &act);
    if (s == KIN_OK) s = kin_json_get_bool(context, json, where, "use_quant_conv", quant, &quant);
    if (s == KIN_OK)
        s = kin_json_get_bool(context, json, where, "use_post_quant_conv", post_quant, &post_quant);
    if (s == KIN_OK)
        s = kin_json_get_bool(context, json, where, "mid_block_add_attention", attention,
                              &attention);
    if (s != KIN_OK) return s;
    if (strcmp(act, "silu") != 0 || !quant || !post_quant || !attention)
        return kin_fail(context, KIN_UNSUPPORTED,
                        "%s: only VAEs with SiLU, quant_conv, post_quant_conv and attention in the "
                        "mid block are known",
                        where);
    s = check_block_types(context, json, where, "down_block_types", "DownEncoderBlock2D", c.levels);
    if (s == KIN_OK)
        s = check_block_types(context, json, where, "up_block_types", "UpDecoderBlock2D", c.levels);
    if (s == KIN_OK) s = kin_sd_vae_config_check(context, &c);
    if (s == KIN_OK) *out_config = c;
    return s;
}

/* `count` times the same text. */
static json_t *repeated(const char *text, int count) {
    json_t *list = json_array();
    for (int i = 0; i < count; i++) json_array_append_new(list, json_string(text));
    return list;
}

kin_status kin_sd_vae_config_json(kin_context *context, const kin_sd_vae_config *c,
                                  json_t **out_json) {
    json_t *channels = json_array();
    for (int i = 0; i < c->levels; i++)
        json_array_append_new(channels, json_integer(c->block_out_channels[i]));
    *out_json = json_pack(
        "{s:s, s:i, s:i, s:o, s:o, s:o, s:i, s:s, s:i, s:i, s:i, s:f}", "_class_name",
        "AutoencoderKL", "in_channels", c->in_channels, "out_channels", c->out_channels,
        "block_out_channels", channels, "down_block_types",
        repeated("DownEncoderBlock2D", c->levels), "up_block_types",
        repeated("UpDecoderBlock2D", c->levels), "layers_per_block", c->layers_per_block, "act_fn",
        "silu", "latent_channels", c->latent_channels, "norm_num_groups", c->norm_num_groups,
        "sample_size", c->sample_size, "scaling_factor", c->scaling_factor);
    if (!*out_json) return kin_fail(context, KIN_OUT_OF_MEMORY, "no memory for a config.json");
    return KIN_OK;
}

static kin_tensor resnet(const vae_call *call, const char *name, int index, kin_tensor x, int out) {
    kin_scope_push(call->graph, "%s.%d", name, index);
    kin_segment_begin(call->graph);
    x = kin_vae_resnet(call->graph, call->precision, x, out, call->config->norm_num_groups,
                       norm_eps);
    kin_segment_end(call->graph);
    kin_scope_pop(call->graph);
    return x;
}

static kin_tensor attention(const vae_call *call, kin_tensor x) {
    kin_scope_push(call->graph, "attentions.0");
    kin_segment_begin(call->graph);
    x = kin_vae_attention(call->graph, call->precision, x, call->config->norm_num_groups, norm_eps);
    kin_segment_end(call->graph);
    kin_scope_pop(call->graph);
    return x;
}

static kin_tensor mid_block(const vae_call *call, kin_tensor x, int channels) {
    kin_scope_push(call->graph, "mid_block");
    x = resnet(call, "resnets", 0, x, channels);
    x = attention(call, x);
    x = resnet(call, "resnets", 1, x, channels);
    kin_scope_pop(call->graph);
    return x;
}

static kin_tensor head(const vae_call *call, kin_tensor x, int out) {
    x = kin_layer_group_norm(call->graph, call->precision, "conv_norm_out", x,
                             call->config->norm_num_groups, norm_eps, true);
    return kin_layer_conv2d(call->graph, call->precision, "conv_out", x, out, 3, 1, 1, 1);
}

kin_tensor kin_sd_vae_encode(kin_graph *graph, const kin_sd_vae_config *config,
                             const kin_precision *precision, kin_tensor images, bool name_hidden) {
    vae_call call = {graph, config, precision};
    int levels = config->levels, deepest = config->block_out_channels[levels - 1];
    kin_scope_push(graph, "encoder");
    kin_tensor x = kin_cast(graph, images, precision->compute);
    x = kin_layer_conv2d(graph, precision, "conv_in", x, config->block_out_channels[0], 3, 1, 1, 1);
    kin_layer_tap(graph, name_hidden, "hidden", 0, x);
    for (int i = 0; i < levels; i++) {
        kin_scope_push(graph, "down_blocks.%d", i);
        for (int j = 0; j < config->layers_per_block; j++)
            x = resnet(&call, "resnets", j, x, config->block_out_channels[i]);
        /* Padded by one row and column at the far ends only. */
        if (i + 1 < levels)
            x = kin_layer_conv2d(graph, precision, "downsamplers.0.conv", x,
                                 config->block_out_channels[i], 3, 2, 0, 1);
        kin_scope_pop(graph);
        kin_layer_tap(graph, name_hidden, "hidden", 1 + i, x);
    }
    x = mid_block(&call, x, deepest);
    kin_layer_tap(graph, name_hidden, "hidden", 1 + levels, x);
    int moments = 2 * config->latent_channels;
    x = head(&call, x, moments);
    kin_scope_pop(graph);
    x = kin_layer_conv2d(graph, precision, "quant_conv", x, moments, 1, 1, 0, 0);
    return kin_cast(graph, x, KIN_F32);
}

kin_tensor kin_sd_vae_decode(kin_graph *graph, const kin_sd_vae_config *config,
                             const kin_precision *precision, kin_tensor latents, bool name_hidden) {
    vae_call call = {graph, config, precision};
    int levels = config->levels, deepest = config->block_out_channels[levels - 1];
    kin_tensor x = kin_cast(graph, latents, precision->compute);
    x = kin_layer_conv2d(graph, precision, "post_quant_conv", x, config->latent_channels, 1, 1, 0,
                         0);
    kin_scope_push(graph, "decoder");
    x = kin_layer_conv2d(graph, precision, "conv_in", x, deepest, 3, 1, 1, 1);
    kin_layer_tap(graph, name_hidden, "hidden", 0, x);
    x = mid_block(&call, x, deepest);
    kin_layer_tap(graph, name_hidden, "hidden", 1, x);
    for (int i = 0; i < levels; i++) {
        int channels = config->block_out_channels[levels - 1 - i];
        kin_scope_push(graph, "up_blocks.%d", i);
        for (int j = 0; j <= config->layers_per_block; j++)
            x = resnet(&call, "resnets", j, x, channels);
        if (i + 1 < levels) {
            x = kin_upsample_nearest(graph, x, 1, 2, 2);
            x = kin_layer_conv2d(graph, precision, "upsamplers.0.conv", x, channels, 3, 1, 1, 1);
        }
        kin_scope_pop(graph);
        kin_layer_tap(graph, name_hidden, "hidden", 2 + i, x);
    }
    x = head(&call, x, config->out_channels);
    kin_scope_pop(graph);
    return kin_cast(graph, x, KIN_F32);
}

void kin_sd_vae_posterior(kin_graph *graph, kin_tensor moments, kin_tensor *out_mean,
                          kin_tensor *out_logvar) {
    kin_tensor half[2];
    kin_split(graph, moments, 1, 2, half);
    *out_mean = half[0];
    *out_logvar = kin_clamp(graph, half[1], -30, 20);
}

/* mean + exp(logvar / 2) * noise */
static kin_tensor draw(kin_graph *g, kin_tensor mean, kin_tensor logvar, kin_tensor noise) {
    kin_tensor deviation = kin_exp(g, kin_scale(g, logvar, 0.5, 0));
    return kin_add(g, mean, kin_mul(g, deviation, noise));
}

kin_tensor kin_sd_vae_sample(kin_graph *graph, kin_tensor moments, kin_tensor noise) {
    kin_tensor mean, logvar;
    kin_sd_vae_posterior(graph, moments, &mean, &logvar);
    return draw(graph, mean, logvar, noise);
}

void kin_sd_vae_train(kin_graph *graph, const kin_sd_vae_config *config,
                      const kin_precision *precision, const kin_sd_vae_loss_options *options,
                      kin_tensor images, kin_tensor noise, kin_sd_vae_losses *out_losses) {
    kin_graph *g = graph;
    kin_tensor mean, logvar;
    kin_sd_vae_posterior(g, kin_sd_vae_encode(g, config, precision, images, false), &mean, &logvar);
    kin_sd_vae_losses r = {.latent = draw(g, mean, logvar, noise)};
    r.reconstruction = kin_sd_vae_decode(g, config, precision, r.latent, false);

    double per_image = 1.0 / (double)kin_dim(g, images, 0);
    kin_tensor error = kin_sub(g, r.reconstruction, images);
    r.rec_l1 = kin_scale(g, kin_sum_all(g, kin_abs(g, error)), per_image, 0);
    r.rec_l2 = kin_scale(g, kin_sum_all(g, kin_square(g, error)), per_image, 0);

    /* mean^2 + var - 1 - logvar */
    kin_tensor terms = kin_add(g, kin_square(g, mean), kin_exp(g, logvar));
    terms = kin_sub(g, terms, kin_scale(g, logvar, 1, 1));
    r.kl = kin_scale(g, kin_sum(g, terms, 0xE, false), 0.5, 0);

    r.loss = kin_scale(g, kin_mean_all(g, r.kl), options->kl, 0);
    if (options->l1 != 0) r.loss = kin_add(g, r.loss, kin_scale(g, r.rec_l1, options->l1, 0));
    if (options->l2 != 0) r.loss = kin_add(g, r.loss, kin_scale(g, r.rec_l2, options->l2, 0));
    *out_losses = r;
}
