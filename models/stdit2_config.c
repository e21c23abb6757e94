/* STDiT2's configuration and the names in its files. */
#include "models/stdit2.h"

#include <stdio.h>
#include <string.h>

#include "models/stdit_parts.h"
#include "runtime/json.h"

enum { THIRDS = 3 }; /* height, width and aspect ratio share the channels */

/* What the original's class takes where a file says nothing. */
static kin_stdit2_config class_default(void) {
    kin_stdit2_config config = {.common = kin_stdit_config_default(), .input_sq_size = 32};
    memset(config.common.input_size, 0, sizeof config.common.input_size);
    return config;
}

kin_stdit2_config kin_stdit2_config_default(void) {
    kin_stdit2_config config = class_default();
    config.common.model_max_length = 200;
    config.input_sq_size = 512;
    config.qk_norm = true;
    return config;
}

kin_status kin_stdit2_config_named(kin_context *context, const char *name,
                                   kin_stdit2_config *out_config) {
    kin_stdit2_config config = kin_stdit2_config_default();
    kin_status status = kin_stdit_apply_size(context, "STDiT2", THIRDS, name, &config.common);
    if (status == KIN_OK) *out_config = config;
    return status;
}

kin_status kin_stdit2_config_check(kin_context *context, const kin_stdit2_config *config) {
    const kin_stdit_config *c = &config->common;
    kin_status status = kin_stdit_config_check(context, c);
    if (status != KIN_OK) return status;
    if (c->hidden_size % 3 != 0)
        return kin_fail(context, KIN_INVALID,
                        "STDiT2: hidden_size %d must be a multiple of 3 (height, width and aspect "
                        "ratio share it)",
                        c->hidden_size);
    if (c->hidden_size / c->num_heads % 2 != 0)
        return kin_fail(context, KIN_INVALID,
                        "STDiT2: hidden_size / num_heads is %d, but rotary embedding needs pairs",
                        c->hidden_size / c->num_heads);
    if (config->input_sq_size < 1)
        return kin_fail(context, KIN_INVALID, "STDiT2: input_sq_size must be at least 1");
    return KIN_OK;
}

kin_status kin_stdit2_config_parse(kin_context *context, const json_t *json, const char *where,
                                   kin_unknown_keys unknown, kin_stdit2_config *out_config) {
    /* From drop_path on they choose implementations, are never read by the original, or are what a
     * published file carries besides. */
    static const char *const known[] = {"type",
                                        "input_size",
                                        "in_channels",
                                        "patch_size",
                                        "hidden_size",
                                        "depth",
                                        "num_heads",
                                        "mlp_ratio",
                                        "class_dropout_prob",
                                        "pred_sigma",
                                        "caption_channels",
                                        "model_max_length",
                                        "input_sq_size",
                                        "qk_norm",
                                        "qk_norm_legacy",
                                        "freeze",
                                        "train_y_embedding",
                                        "drop_path",
                                        "no_temporal_pos_emb",
                                        "dtype",
                                        "enable_flash_attn",
                                        "enable_flashattn",
                                        "enable_layernorm_kernel",
                                        "enable_sequence_parallelism",
                                        "from_pretrained",
                                        "model_type",
                                        "architectures",
                                        "auto_map",
                                        "torch_dtype",
                                        "transformers_version",
                                        "_name_or_path",
                                        "_class_name",
                                        "_diffusers_version"};
    kin_stdit2_config c = class_default();
    const char *type = NULL;
    bool rotary_first = true;
    kin_status s =
        kin_config_check_keys(context, json, where, known, sizeof known / sizeof *known, unknown);
    if (s == KIN_OK) s = kin_json_get_string(context, json, where, "type", NULL, &type);
    if (s == KIN_OK && type) s = kin_stdit_apply_size(context, "STDiT2", THIRDS, type, &c.common);
    if (s == KIN_OK) s = kin_stdit_read_common(context, json, where, &c.common);
    if (s == KIN_OK)
        s = kin_config_get_int(context, json, where, "input_sq_size", 1, 1 << 20, &c.input_sq_size);
    if (s == KIN_OK) s = kin_json_get_bool(context, json, where, "qk_norm", false, &c.qk_norm);
    if (s == KIN_OK)
        s = kin_json_get_bool(context, json, where, "qk_norm_legacy", true, &rotary_first);
    if (s == KIN_OK && c.qk_norm && !rotary_first)
        s = kin_fail(context, KIN_UNSUPPORTED,
                     "%s: qk_norm_legacy is false: a model whose q/k norms come before the rotary "
                     "embedding is not Open-Sora 1.1's",
                     where);
    if (s == KIN_OK) s = kin_stdit2_config_check(context, &c);
    if (s == KIN_OK) *out_config = c;
    return s;
}

bool kin_stdit2_rename(const void *config, const char *file_name, char *out_name, size_t size) {
    if (strcmp(file_name, "rope.freqs") == 0) return false;
    if (strcmp(file_name, "y_embedder.y_embedding") == 0) {
        snprintf(out_name, size, "%s{*}", file_name);
        return true;
    }
    return kin_stdit_rename(config, file_name, out_name, size);
}
