/* Configurations of CausalVideoVAE. */
#include <string.h>

#include "models/causal_vae.h"
#include "runtime/json.h"

static const char *const kind_names[KIN_CAUSAL_KINDS] = {
    [KIN_CAUSAL_NONE] = "",
    [KIN_CAUSAL_CONV_2D] = "Conv2d",
    [KIN_CAUSAL_CONV_3D] = "CausalConv3d",
    [KIN_CAUSAL_RESNET_2D] = "ResnetBlock2D",
    [KIN_CAUSAL_RESNET_3D] = "ResnetBlock3D",
    [KIN_CAUSAL_ATTENTION] = "AttnBlock3DFix",
    [KIN_CAUSAL_ATTENTION_MIXED] = "AttnBlock3D",
    [KIN_CAUSAL_DOWN_2D] = "Downsample",
    [KIN_CAUSAL_DOWN_SPACE] = "SpatialDownsample2x",
    [KIN_CAUSAL_DOWN_BOTH] = "Spatial2xTime2x3DDownsample",
    [KIN_CAUSAL_DOWN_TIME] = "TimeDownsample2x",
    [KIN_CAUSAL_DOWN_TIME_MIXED] = "TimeDownsampleRes2x",
    [KIN_CAUSAL_UP_SPACE] = "SpatialUpsample2x",
    [KIN_CAUSAL_UP_BOTH] = "Spatial2xTime2x3DUpsample",
    [KIN_CAUSAL_UP_TIME] = "TimeUpsample2x",
    [KIN_CAUSAL_UP_TIME_MIXED] = "TimeUpsampleRes2x",
};

kin_causal_vae_config kin_causal_vae_config_default(void) {
    const kin_causal_block_kind r3 = KIN_CAUSAL_RESNET_3D, down = KIN_CAUSAL_DOWN_SPACE,
                                up = KIN_CAUSAL_UP_SPACE, td = KIN_CAUSAL_DOWN_TIME,
                                tu = KIN_CAUSAL_UP_TIME, none = KIN_CAUSAL_NONE;
    return (kin_causal_vae_config){.hidden_size = 128,
                                   .z_channels = 4,
                                   .embed_dim = 4,
                                   .levels = 4,
                                   .hidden_size_mult = {1, 2, 4, 4},
                                   .num_res_blocks = 2,
                                   .use_quant_layer = true,
                                   .q_conv = KIN_CAUSAL_CONV_3D,
                                   .encoder_conv_in = KIN_CAUSAL_CONV_3D,
                                   .encoder_conv_out = KIN_CAUSAL_CONV_3D,
                                   .decoder_conv_in = KIN_CAUSAL_CONV_3D,
                                   .decoder_conv_out = KIN_CAUSAL_CONV_3D,
                                   .encoder_attention = KIN_CAUSAL_ATTENTION_MIXED,
                                   .decoder_attention = KIN_CAUSAL_ATTENTION_MIXED,
                                   .encoder_mid_resnet = r3,
                                   .decoder_mid_resnet = r3,
                                   .encoder_resnet_blocks = {r3, r3, r3, r3},
                                   .encoder_spatial_downsample = {down, down, down, none},
                                   .encoder_temporal_downsample = {none, td, td, none},
                                   .decoder_resnet_blocks = {r3, r3, r3, r3},
                                   .decoder_spatial_upsample = {none, up, up, up},
                                   .decoder_temporal_upsample = {none, none, tu, tu}};
}

/* What both released versions have in common. */
static kin_causal_vae_config released(void) {
    kin_causal_vae_config c = kin_causal_vae_config_default();
    c.encoder_conv_in = KIN_CAUSAL_CONV_2D;
    c.encoder_attention = c.decoder_attention = KIN_CAUSAL_ATTENTION;
    c.encoder_resnet_blocks[0] = c.encoder_resnet_blocks[1] = KIN_CAUSAL_RESNET_2D;
    for (int i = 0; i < 3; i++) c.encoder_spatial_downsample[i] = KIN_CAUSAL_DOWN_2D;
    return c;
}

kin_status kin_causal_vae_config_named(kin_context *context, const char *name,
                                       kin_causal_vae_config *out_config) {
    kin_causal_vae_config c = released();
    if (strcmp(name, "causal-vae-1.2") == 0) {
        for (int i = 1; i < 3; i++) {
            c.encoder_spatial_downsample[i] = KIN_CAUSAL_DOWN_BOTH;
            c.encoder_temporal_downsample[i] = KIN_CAUSAL_NONE;
            c.decoder_spatial_upsample[i + 1] = KIN_CAUSAL_UP_BOTH;
            c.decoder_temporal_upsample[i + 1] = KIN_CAUSAL_NONE;
        }
    } else if (strcmp(name, "causal-vae-1.1") == 0) {
        for (int i = 1; i < 3; i++) {
            c.encoder_temporal_downsample[i] = KIN_CAUSAL_DOWN_TIME_MIXED;
            c.decoder_temporal_upsample[i + 1] = KIN_CAUSAL_UP_TIME_MIXED;
        }
    } else {
        return kin_fail(context, KIN_NOT_FOUND,
                        "no video VAE \"%s\"; there are causal-vae-1.2 and causal-vae-1.1", name);
    }
    *out_config = c;
    return KIN_OK;
}

kin_status kin_causal_block_named(kin_context *context, const char *name,
                                  kin_causal_block_kind *out_kind) {
    for (int i = 0; i < KIN_CAUSAL_KINDS; i++)
        if (strcmp(kind_names[i], name) == 0) {
            *out_kind = (kin_causal_block_kind)i;
            return KIN_OK;
        }
    const char *near = kin_nearest_name(name, kind_names, KIN_CAUSAL_KINDS);
    return kin_fail(context, KIN_NOT_FOUND, "no block class \"%s\"%s%s%s", name,
                    near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
}

/* Sets of kinds that a key may name, as bits. */
#define BIT(kind) (1u << (kind))
static const unsigned convs = BIT(KIN_CAUSAL_CONV_2D) | BIT(KIN_CAUSAL_CONV_3D);
static const unsigned resnets = BIT(KIN_CAUSAL_RESNET_2D) | BIT(KIN_CAUSAL_RESNET_3D);
static const unsigned attentions = BIT(KIN_CAUSAL_ATTENTION) | BIT(KIN_CAUSAL_ATTENTION_MIXED);
static const unsigned spatial_down = BIT(KIN_CAUSAL_NONE) | BIT(KIN_CAUSAL_DOWN_2D) |
                                     BIT(KIN_CAUSAL_DOWN_SPACE) | BIT(KIN_CAUSAL_DOWN_BOTH);
static const unsigned temporal_down =
    BIT(KIN_CAUSAL_NONE) | BIT(KIN_CAUSAL_DOWN_TIME) | BIT(KIN_CAUSAL_DOWN_TIME_MIXED);
static const unsigned spatial_up =
    BIT(KIN_CAUSAL_NONE) | BIT(KIN_CAUSAL_UP_SPACE) | BIT(KIN_CAUSAL_UP_BOTH);
static const unsigned temporal_up =
    BIT(KIN_CAUSAL_NONE) | BIT(KIN_CAUSAL_UP_TIME) | BIT(KIN_CAUSAL_UP_TIME_MIXED);

/* The keys whose values are kinds: one, or one for each level. */
typedef struct kind_key {
    const char *key;
    kin_causal_block_kind *values;
    bool list;
    unsigned allowed;
} kind_key;

enum { KIND_KEYS = 15 };

static void list_kinds(kin_causal_vae_config *c, kind_key out_keys[KIND_KEYS]) {
    const kind_key keys[KIND_KEYS] = {
        {"q_conv", &c->q_conv, false, convs},
        {"encoder_conv_in", &c->encoder_conv_in, false, convs},
        {"encoder_conv_out", &c->encoder_conv_out, false, convs},
        {"decoder_conv_in", &c->decoder_conv_in, false, convs},
        {"decoder_conv_out", &c->decoder_conv_out, false, convs},
        {"encoder_attention", &c->encoder_attention, false, attentions},
        {"decoder_attention", &c->decoder_attention, false, attentions},
        {"encoder_mid_resnet", &c->encoder_mid_resnet, false, resnets},
        {"decoder_mid_resnet", &c->decoder_mid_resnet, false, resnets},
        {"encoder_resnet_blocks", c->encoder_resnet_blocks, true, resnets},
        {"encoder_spatial_downsample", c->encoder_spatial_downsample, true, spatial_down},
        {"encoder_temporal_downsample", c->encoder_temporal_downsample, true, temporal_down},
        {"decoder_resnet_blocks", c->decoder_resnet_blocks, true, resnets},
        {"decoder_spatial_upsample", c->decoder_spatial_upsample, true, spatial_up},
        {"decoder_temporal_upsample", c->decoder_temporal_upsample, true, temporal_up},
    };
    memcpy(out_keys, keys, sizeof keys);
}

static kin_status read_kind(kin_context *context, const json_t *value, const char *where,
                            const kind_key *key, kin_causal_block_kind *out_kind) {
    const char *name = json_string_value(value);
    if (!name)
        return kin_fail(context, KIN_INVALID, "%s: %s must name block classes", where, key->key);
    kin_status status = kin_causal_block_named(context, name, out_kind);
    if (status != KIN_OK) return kin_fail_in(context, KIN_INVALID, "%s: %s", where, key->key);
    return KIN_OK;
}

static kin_status read_kinds(kin_context *context, const json_t *json, const char *where,
                             kin_causal_vae_config *c) {
    kind_key keys[KIND_KEYS];
    list_kinds(c, keys);
    kin_status status = KIN_OK;
    for (int i = 0; status == KIN_OK && i < KIND_KEYS; i++) {
        const json_t *value = json_object_get(json, keys[i].key);
        if (!value || json_is_null(value)) continue;
        if (!keys[i].list) {
            status = read_kind(context, value, where, &keys[i], keys[i].values);
            continue;
        }
        if ((int)json_array_size(value) != c->levels)
            return kin_fail(context, KIN_INVALID, "%s: %s has %zu entries, hidden_size_mult %d",
                            where, keys[i].key, json_array_size(value), c->levels);
        for (int level = 0; status == KIN_OK && level < c->levels; level++)
            status = read_kind(context, json_array_get(value, (size_t)level), where, &keys[i],
                               &keys[i].values[level]);
    }
    return status;
}

kin_status kin_causal_vae_config_check(kin_context *context, const kin_causal_vae_config *config) {
    enum { GROUPS = 32 };
    kin_causal_vae_config copy = *config;
    kind_key keys[KIND_KEYS];
    list_kinds(&copy, keys);
    if (config->levels < 1 || config->levels > KIN_CAUSAL_VAE_MAX_LEVELS)
        return kin_fail(context, KIN_INVALID,
                        "video VAE: hidden_size_mult has %d entries; 1 to %d are possible",
                        config->levels, KIN_CAUSAL_VAE_MAX_LEVELS);
    if (config->z_channels < 1 || config->embed_dim < 1 || config->num_res_blocks < 1)
        return kin_fail(context, KIN_INVALID,
                        "video VAE: z_channels, embed_dim and num_res_blocks must be at least 1");
    if (config->hidden_size < 1 || config->hidden_size % GROUPS != 0)
        return kin_fail(context, KIN_INVALID,
                        "video VAE: hidden_size %d is no multiple of the %d groups of its norms",
                        config->hidden_size, GROUPS);
    if (!config->use_quant_layer && config->embed_dim != config->z_channels)
        return kin_fail(context, KIN_INVALID,
                        "video VAE: embed_dim and z_channels differ, but use_quant_layer is false");
    for (int i = 0; i < KIND_KEYS; i++)
        for (int level = 0; level < (keys[i].list ? config->levels : 1); level++) {
            kin_causal_block_kind kind = keys[i].values[level];
            if (kind < KIN_CAUSAL_KINDS && (keys[i].allowed & BIT(kind))) continue;
            return kin_fail(context, KIN_INVALID, "video VAE: %s cannot be \"%s\"", keys[i].key,
                            kind < KIN_CAUSAL_KINDS ? kind_names[kind] : "?");
        }
    return KIN_OK;
}

kin_status kin_causal_vae_config_parse(kin_context *context, const json_t *json, const char *where,
                                       kin_unknown_keys unknown,
                                       kin_causal_vae_config *out_config) {
    static const char *const known[] = {"hidden_size",
                                        "z_channels",
                                        "embed_dim",
                                        "hidden_size_mult",
                                        "num_res_blocks",
                                        "use_quant_layer",
                                        "q_conv",
                                        "encoder_conv_in",
                                        "encoder_conv_out",
                                        "decoder_conv_in",
                                        "decoder_conv_out",
                                        "encoder_attention",
                                        "decoder_attention",
                                        "encoder_mid_resnet",
                                        "decoder_mid_resnet",
                                        "encoder_resnet_blocks",
                                        "encoder_spatial_downsample",
                                        "encoder_temporal_downsample",
                                        "decoder_resnet_blocks",
                                        "decoder_spatial_upsample",
                                        "decoder_temporal_upsample",
                                        "attn_resolutions",
                                        "dropout",
                                        "resolution",
                                        "double_z",
                                        "lr",
                                        "loss_type",
                                        "loss_params",
                                        "in_channels",
                                        "_class_name",
                                        "_diffusers_version",
                                        "_name_or_path"};
    kin_causal_vae_config c = kin_causal_vae_config_default();
    bool double_z = true;
    size_t levels = (size_t)c.levels;
    json_t *attended = NULL;
    kin_status s =
        kin_config_check_keys(context, json, where, known, sizeof known / sizeof *known, unknown);
    if (s == KIN_OK)
        s = kin_json_get_int_list(context, json, where, "hidden_size_mult", 1, 1 << 10,
                                  c.hidden_size_mult, KIN_CAUSAL_VAE_MAX_LEVELS, &levels);
    c.levels = (int)levels;
    struct {
        const char *key;
        int *value;
    } ints[] = {{"hidden_size", &c.hidden_size},
                {"z_channels", &c.z_channels},
                {"embed_dim", &c.embed_dim},
                {"num_res_blocks", &c.num_res_blocks}};
    for (size_t i = 0; s == KIN_OK && i < sizeof ints / sizeof *ints; i++)
        s = kin_config_get_int(context, json, where, ints[i].key, 1, 1 << 16, ints[i].value);
    if (s == KIN_OK)
        s = kin_json_get_bool(context, json, where, "use_quant_layer", true, &c.use_quant_layer);
    if (s == KIN_OK) s = kin_json_get_bool(context, json, where, "double_z", true, &double_z);
    if (s == KIN_OK)
        s = kin_json_get_child(context, json, where, "attn_resolutions", JSON_ARRAY, &attended);
    if (s == KIN_OK && (!double_z || json_array_size(attended) > 0))
        s = kin_fail(context, KIN_UNSUPPORTED,
                     "%s: only video VAEs with double_z and without attn_resolutions are known",
                     where);
    if (s == KIN_OK) s = read_kinds(context, json, where, &c);
    if (s == KIN_OK) s = kin_causal_vae_config_check(context, &c);
    if (s == KIN_OK) *out_config = c;
    return s;
}

kin_status kin_causal_vae_config_json(kin_context *context, const kin_causal_vae_config *config,
                                      json_t **out_json) {
    kin_causal_vae_config copy = *config;
    kind_key keys[KIND_KEYS];
    list_kinds(&copy, keys);
    json_t *widths = json_array();
    for (int i = 0; i < config->levels; i++)
        json_array_append_new(widths, json_integer(config->hidden_size_mult[i]));
    json_t *json = json_pack("{s:s, s:i, s:i, s:i, s:o, s:i, s:b, s:[], s:f, s:i, s:b}",
                             "_class_name", "CausalVAEModel", "hidden_size", config->hidden_size,
                             "z_channels", config->z_channels, "embed_dim", config->embed_dim,
                             "hidden_size_mult", widths, "num_res_blocks", config->num_res_blocks,
                             "use_quant_layer", (int)config->use_quant_layer, "attn_resolutions",
                             "dropout", 0.0, "resolution", 256, "double_z", 1);
    bool whole = json != NULL;
    for (int i = 0; whole && i < KIND_KEYS; i++) {
        json_t *value = keys[i].list ? json_array() : json_string(kind_names[keys[i].values[0]]);
        for (int level = 0; keys[i].list && level < config->levels; level++)
            json_array_append_new(value, json_string(kind_names[keys[i].values[level]]));
        whole = json_object_set_new(json, keys[i].key, value) == 0;
    }
    if (!whole) {
        json_decref(json);
        return kin_fail(context, KIN_OUT_OF_MEMORY, "no memory for a config.json");
    }
    *out_json = json;
    return KIN_OK;
}

int kin_causal_vae_space_factor(const kin_causal_vae_config *config) {
    int factor = 1;
    for (int i = 0; i + 1 < config->levels; i++)
        if (config->encoder_spatial_downsample[i] != KIN_CAUSAL_NONE) factor *= 2;
    return factor;
}

int kin_causal_vae_time_factor(const kin_causal_vae_config *config) {
    int factor = 1;
    for (int i = 0; i + 1 < config->levels; i++) {
        if (config->encoder_spatial_downsample[i] == KIN_CAUSAL_DOWN_BOTH) factor *= 2;
        if (config->encoder_temporal_downsample[i] != KIN_CAUSAL_NONE) factor *= 2;
    }
    return factor;
}
