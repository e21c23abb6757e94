/* PixArt's configuration and the names in its files. */
#include <stdio.h>
#include <string.h>

#include "models/pixart_parts.h"
#include "runtime/json.h"

kin_pixart_config kin_pixart_config_default(void) {
    return (kin_pixart_config){.num_attention_heads = 16,
                               .attention_head_dim = 72,
                               .in_channels = 4,
                               .out_channels = 8,
                               .num_layers = 28,
                               .sample_size = 64,
                               .patch_size = 2,
                               .caption_channels = 4096,
                               .norm_eps = 1e-6,
                               .interpolation_scale = 1,
                               .video_length = 1};
}

kin_status kin_pixart_config_named(kin_context *context, const char *name,
                                   kin_pixart_config *out_config) {
    static const struct {
        const char *name;
        int sample_size;
        double interpolation_scale;
    } sizes[] = {{"PixArt-XL-2-256x256", 32, 0.5},
                 {"PixArt-XL-2-512x512", 64, 1},
                 {"PixArt-XL-2-1024-MS", 128, 2}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        if (strcmp(name, sizes[i].name) != 0) continue;
        *out_config = kin_pixart_config_default();
        out_config->sample_size = sizes[i].sample_size;
        out_config->interpolation_scale = sizes[i].interpolation_scale;
        out_config->use_additional_conditions = sizes[i].sample_size == 128;
        return KIN_OK;
    }
    return kin_fail(context, KIN_NOT_FOUND,
                    "no model '%s'; there are PixArt-XL-2-256x256, PixArt-XL-2-512x512 and "
                    "PixArt-XL-2-1024-MS",
                    name);
}

kin_status kin_pixart_config_check(kin_context *context, const kin_pixart_config *c) {
    if (c->num_attention_heads < 1 || c->attention_head_dim < 1 || c->in_channels < 1 ||
        c->out_channels < 1 || c->num_layers < 1 || c->sample_size < 1 || c->patch_size < 1 ||
        c->caption_channels < 1)
        return kin_fail(context, KIN_INVALID,
                        "PixArt: heads, head size, channels, layers and sizes must be at least 1");
    int64_t width = kin_pixart_width(c);
    if (width % 4 != 0 || (c->use_additional_conditions && width % 3 != 0))
        return kin_fail(context, KIN_INVALID,
                        "PixArt: num_attention_heads times attention_head_dim is %lld; it must be "
                        "a multiple of 4 (position tables) and, with use_additional_conditions, of "
                        "3",
                        (long long)width);
    if (c->patch_size > c->sample_size)
        return kin_fail(context, KIN_INVALID, "PixArt: patch_size %d is above sample_size %d",
                        c->patch_size, c->sample_size);
    if (!(c->interpolation_scale > 0) || !(c->norm_eps > 0))
        return kin_fail(context, KIN_INVALID,
                        "PixArt: interpolation_scale and norm_eps must be above 0");
    return KIN_OK;
}

/* What no published model has otherwise. */
static kin_status check_kind(kin_context *context, const json_t *json, const char *where) {
    static const struct {
        const char *key, *value;
    } texts[] = {{"activation_fn", "gelu-approximate"},
                 {"norm_type", "ada_norm_single"},
                 {"attention_type", "default"}};
    static const struct {
        const char *key;
        bool value;
    } flags[] = {{"attention_bias", true},
                 {"norm_elementwise_affine", false},
                 {"only_cross_attention", false},
                 {"double_self_attention", false}};
    kin_status s = KIN_OK;
    for (size_t i = 0; s == KIN_OK && i < sizeof texts / sizeof *texts; i++) {
        const char *found = NULL;
        s = kin_json_get_string(context, json, where, texts[i].key, texts[i].value, &found);
        if (s == KIN_OK && strcmp(found, texts[i].value) != 0)
            s = kin_fail(context, KIN_UNSUPPORTED, "%s: %s is '%s'; only '%s' is known", where,
                         texts[i].key, found, texts[i].value);
    }
    for (size_t i = 0; s == KIN_OK && i < sizeof flags / sizeof *flags; i++) {
        bool found = flags[i].value;
        s = kin_json_get_bool(context, json, where, flags[i].key, found, &found);
        if (s == KIN_OK && found != flags[i].value)
            s = kin_fail(context, KIN_UNSUPPORTED, "%s: %s must be %s", where, flags[i].key,
                         flags[i].value ? "true" : "false");
    }
    return s;
}

/* The numbers that both classes have. */
static kin_status read_numbers(kin_context *context, const json_t *json, const char *where,
                               kin_pixart_config *c) {
    struct {
        const char *key;
        int *value;
    } ints[] = {{"num_attention_heads", &c->num_attention_heads},
                {"attention_head_dim", &c->attention_head_dim},
                {"in_channels", &c->in_channels},
                {"num_layers", &c->num_layers},
                {"sample_size", &c->sample_size},
                {"patch_size", &c->patch_size},
                {"caption_channels", &c->caption_channels},
                {"video_length", &c->video_length}};
    kin_status s = KIN_OK;
    for (size_t i = 0; s == KIN_OK && i < sizeof ints / sizeof *ints; i++)
        s = kin_config_get_int(context, json, where, ints[i].key, 1, 1 << 20, ints[i].value);
    /* diffusers takes in_channels for null; the key has always been there in published files. */
    if (s == KIN_OK && json_is_null(json_object_get(json, "out_channels")))
        c->out_channels = c->in_channels;
    if (s == KIN_OK)
        s = kin_config_get_int(context, json, where, "out_channels", 1, 1 << 20, &c->out_channels);
    if (s == KIN_OK)
        s = kin_json_get_double(context, json, where, "norm_eps", c->norm_eps, &c->norm_eps);
    int cross = (int)kin_pixart_width(c);
    if (s == KIN_OK)
        s = kin_config_get_int(context, json, where, "cross_attention_dim", 1, 1 << 20, &cross);
    if (s == KIN_OK && cross != kin_pixart_width(c))
        s = kin_fail(context, KIN_UNSUPPORTED,
                     "%s: cross_attention_dim is %d, but the captions are projected to %lld", where,
                     cross, (long long)kin_pixart_width(c));
    return s;
}

kin_status kin_pixart_read_config(kin_context *context, const json_t *json, const char *where,
                                  kin_unknown_keys unknown, bool latte,
                                  kin_pixart_config *out_config) {
    /* From dropout on they are numbers that nothing reads, or choose implementations. */
    static const char *const known[] = {
        "num_attention_heads", "attention_head_dim", "in_channels", "out_channels", "num_layers",
        "sample_size", "patch_size", "caption_channels", "cross_attention_dim", "norm_eps",
        "activation_fn", "norm_type", "attention_type", "attention_bias", "norm_elementwise_affine",
        "dropout", "only_cross_attention", "double_self_attention", "norm_num_groups",
        "num_embeds_ada_norm", "num_vector_embeds", "upcast_attention", "use_linear_projection",
        "_class_name", "_diffusers_version", "_name_or_path",
        /* one of these by class */
        "interpolation_scale", "use_additional_conditions", "video_length"};
    enum { ALL = sizeof known / sizeof *known, BY_CLASS = 3 };
    const char *list[ALL];
    size_t count = ALL - BY_CLASS;
    memcpy(list, known, sizeof known);
    if (latte) list[count++] = "video_length";
    else {
        list[count++] = "interpolation_scale";
        list[count++] = "use_additional_conditions";
    }
    kin_pixart_config c = *out_config;
    kin_status s = kin_config_check_keys(context, json, where, list, count, unknown);
    if (s == KIN_OK) s = read_numbers(context, json, where, &c);
    if (s == KIN_OK) s = check_kind(context, json, where);
    c.interpolation_scale = c.sample_size >= 128 ? c.sample_size / 64 : 1;
    c.use_additional_conditions = !latte && c.sample_size == 128;
    if (s == KIN_OK && !latte)
        s = kin_json_get_double(context, json, where, "interpolation_scale", c.interpolation_scale,
                                &c.interpolation_scale);
    if (s == KIN_OK && !latte)
        s = kin_json_get_bool(context, json, where, "use_additional_conditions",
                              c.use_additional_conditions, &c.use_additional_conditions);
    if (s == KIN_OK) s = kin_pixart_config_check(context, &c);
    if (s == KIN_OK) *out_config = c;
    return s;
}

kin_status kin_pixart_config_parse(kin_context *context, const json_t *json, const char *where,
                                   kin_unknown_keys unknown, kin_pixart_config *out_config) {
    kin_pixart_config config = kin_pixart_config_default();
    kin_status status = kin_pixart_read_config(context, json, where, unknown, false, &config);
    if (status == KIN_OK) *out_config = config;
    return status;
}
