/* Configurations of OpenSoraT2V. */
#include <string.h>

#include "models/opensora_plan.h"
#include "runtime/json.h"

kin_opensora_plan_config kin_opensora_plan_config_default(void) {
    return (kin_opensora_plan_config){.num_attention_heads = 24,
                                      .attention_head_dim = 96,
                                      .in_channels = 4,
                                      .out_channels = 4,
                                      .num_layers = 32,
                                      .sample_size = {90, 160},
                                      .sample_size_t = 24,
                                      .patch_size = 2,
                                      .patch_size_t = 1,
                                      .caption_channels = 4096,
                                      .norm_eps = 1e-6,
                                      .interpolation_scale_t = 1,
                                      .interpolation_scale_h = 1.5,
                                      .interpolation_scale_w = 2};
}

kin_status kin_opensora_plan_config_named(kin_context *context, const char *name,
                                          kin_opensora_plan_config *out_config) {
    kin_opensora_plan_config c = kin_opensora_plan_config_default();
    if (strcmp(name, "OpenSoraT2V-ROPE-L/122-480p") == 0) {
        c.sample_size[0] = 60;
        c.sample_size[1] = 80;
        c.sample_size_t = 8;
        c.interpolation_scale_h = c.interpolation_scale_w = 1;
    } else if (strcmp(name, "OpenSoraT2V-ROPE-L/122") != 0) {
        return kin_fail(context, KIN_NOT_FOUND,
                        "no model \"%s\"; there are OpenSoraT2V-ROPE-L/122 and "
                        "OpenSoraT2V-ROPE-L/122-480p",
                        name);
    }
    *out_config = c;
    return KIN_OK;
}

kin_status kin_opensora_plan_config_check(kin_context *context, const kin_opensora_plan_config *c) {
    if (c->num_attention_heads < 1 || c->num_layers < 1 || c->in_channels < 1 ||
        c->out_channels < 1 || c->patch_size < 1 || c->patch_size_t < 1 || c->caption_channels < 1)
        return kin_fail(context, KIN_INVALID,
                        "OpenSoraT2V: heads, layers, channels and patch sizes must be at least 1");
    if (c->attention_head_dim < 6 || c->attention_head_dim % 6 != 0)
        return kin_fail(context, KIN_INVALID,
                        "OpenSoraT2V: attention_head_dim %d is no multiple of 6: a third of a head "
                        "is rotated in pairs for each axis",
                        c->attention_head_dim);
    if (!(c->interpolation_scale_t > 0) || !(c->interpolation_scale_h > 0) ||
        !(c->interpolation_scale_w > 0) || !(c->norm_eps > 0))
        return kin_fail(context, KIN_INVALID,
                        "OpenSoraT2V: interpolation scales and norm_eps must be above 0");
    return KIN_OK;
}

/* What only unpublished variants say otherwise. */
static kin_status check_variant(kin_context *context, const json_t *json, const char *where) {
    static const struct {
        const char *key, *value;
    } texts[] = {{"activation_fn", "gelu-approximate"}, {"norm_type", "ada_norm_single"}};
    static const struct {
        const char *key;
        bool value;
    } flags[] = {{"attention_bias", true},           {"use_rope", true},
                 {"norm_elementwise_affine", false}, {"use_additional_conditions", false},
                 {"only_cross_attention", false},    {"double_self_attention", false},
                 {"use_linear_projection", false}};
    kin_status status = KIN_OK;
    for (size_t i = 0; status == KIN_OK && i < sizeof texts / sizeof *texts; i++) {
        const char *value = texts[i].value;
        status = kin_json_get_string(context, json, where, texts[i].key, value, &value);
        if (status == KIN_OK && strcmp(value, texts[i].value) != 0)
            status = kin_fail(context, KIN_UNSUPPORTED, "%s: %s is %s; only %s is known", where,
                              texts[i].key, value, texts[i].value);
    }
    for (size_t i = 0; status == KIN_OK && i < sizeof flags / sizeof *flags; i++) {
        bool value = flags[i].value;
        status = kin_json_get_bool(context, json, where, flags[i].key, value, &value);
        if (status == KIN_OK && value != flags[i].value)
            status = kin_fail(context, KIN_UNSUPPORTED, "%s: only models with %s %s are known",
                              where, flags[i].key, flags[i].value ? "true" : "false");
    }
    const json_t *downsampler = json_object_get(json, "downsampler");
    if (status == KIN_OK && downsampler && !json_is_null(downsampler))
        status = kin_fail(context, KIN_UNSUPPORTED, "%s: only models without downsampler are known",
                          where);
    return status;
}

/* [rows, columns], or one number for both. */
static kin_status read_size(kin_context *context, const json_t *json, const char *where,
                            kin_opensora_plan_config *c) {
    const json_t *value = json_object_get(json, "sample_size");
    int64_t sizes[2] = {c->sample_size[0], c->sample_size[1]};
    size_t count = 2;
    kin_status status = KIN_OK;
    if (json_is_integer(value)) sizes[0] = sizes[1] = json_integer_value(value);
    else status = kin_json_get_ints(context, json, where, "sample_size", sizes, 2, &count);
    if (status != KIN_OK) return status;
    for (int i = 0; i < 2; i++) {
        if (count != 2 || sizes[i] < 1 || sizes[i] > 1 << 16)
            return kin_fail(context, KIN_INVALID, "%s: sample_size must be [rows, columns]", where);
        c->sample_size[i] = (int)sizes[i];
    }
    return KIN_OK;
}

kin_status kin_opensora_plan_config_parse(kin_context *context, const json_t *json,
                                          const char *where, kin_unknown_keys unknown,
                                          kin_opensora_plan_config *out_config) {
    static const char *const known[] = {"num_attention_heads",
                                        "attention_head_dim",
                                        "in_channels",
                                        "out_channels",
                                        "num_layers",
                                        "sample_size",
                                        "sample_size_t",
                                        "patch_size",
                                        "patch_size_t",
                                        "caption_channels",
                                        "cross_attention_dim",
                                        "norm_eps",
                                        "interpolation_scale_t",
                                        "interpolation_scale_h",
                                        "interpolation_scale_w",
                                        "bf16_rope",
                                        "dropout",
                                        "norm_num_groups",
                                        "attention_bias",
                                        "num_vector_embeds",
                                        "activation_fn",
                                        "num_embeds_ada_norm",
                                        "use_linear_projection",
                                        "only_cross_attention",
                                        "double_self_attention",
                                        "upcast_attention",
                                        "norm_type",
                                        "norm_elementwise_affine",
                                        "attention_type",
                                        "use_additional_conditions",
                                        "attention_mode",
                                        "downsampler",
                                        "use_rope",
                                        "use_stable_fp32",
                                        "_class_name",
                                        "_diffusers_version",
                                        "_name_or_path"};
    kin_opensora_plan_config c = kin_opensora_plan_config_default();
    c.interpolation_scale_h = c.interpolation_scale_w = 1;
    kin_status s =
        kin_config_check_keys(context, json, where, known, sizeof known / sizeof *known, unknown);
    struct {
        const char *key;
        int *value;
    } ints[] = {{"num_attention_heads", &c.num_attention_heads},
                {"attention_head_dim", &c.attention_head_dim},
                {"in_channels", &c.in_channels},
                {"out_channels", &c.out_channels},
                {"num_layers", &c.num_layers},
                {"sample_size_t", &c.sample_size_t},
                {"patch_size", &c.patch_size},
                {"patch_size_t", &c.patch_size_t},
                {"caption_channels", &c.caption_channels}};
    struct {
        const char *key;
        double *value;
    } doubles[] = {{"norm_eps", &c.norm_eps},
                   {"interpolation_scale_t", &c.interpolation_scale_t},
                   {"interpolation_scale_h", &c.interpolation_scale_h},
                   {"interpolation_scale_w", &c.interpolation_scale_w}};
    for (size_t i = 0; s == KIN_OK && i < sizeof ints / sizeof *ints; i++)
        s = kin_config_get_int(context, json, where, ints[i].key, 1, 1 << 20, ints[i].value);
    for (size_t i = 0; s == KIN_OK && i < sizeof doubles / sizeof *doubles; i++)
        s = kin_json_get_double(context, json, where, doubles[i].key, *doubles[i].value,
                                doubles[i].value);
    if (s == KIN_OK) s = kin_json_get_bool(context, json, where, "bf16_rope", false, &c.bf16_rope);
    if (s == KIN_OK) s = read_size(context, json, where, &c);
    int width = c.num_attention_heads * c.attention_head_dim, text_width = width;
    if (s == KIN_OK)
        s = kin_config_get_int(context, json, where, "cross_attention_dim", 1, 1 << 20,
                               &text_width);
    if (s == KIN_OK && text_width != width)
        s = kin_fail(context, KIN_INVALID,
                     "%s: cross_attention_dim %d must be num_attention_heads * attention_head_dim",
                     where, text_width);
    if (s == KIN_OK) s = check_variant(context, json, where);
    if (s == KIN_OK) s = kin_opensora_plan_config_check(context, &c);
    if (s == KIN_OK) *out_config = c;
    return s;
}
