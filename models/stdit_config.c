/* STDiT's configuration and the names in its files. */
#include "models/pixart_parts.h"
#include "models/stdit_parts.h"

#include <stdio.h>
#include <string.h>

#include "runtime/json.h"

/* Depths and widths of the DiT family; the models are called STDiT-XL/2 and so on. */
typedef struct named_size {
    const char *name;
    int depth, hidden_size, num_heads;
} named_size;

static const named_size sizes[] = {
    {"XL/2", 28, 1152, 16}, {"L/2", 24, 1024, 16}, {"B/2", 12, 768, 12}, {"S/2", 12, 384, 6}};

kin_stdit_config kin_stdit_config_default(void) {
    return (kin_stdit_config){.input_size = {16, 32, 32},
                              .in_channels = 4,
                              .patch_size = {1, 2, 2},
                              .hidden_size = 1152,
                              .depth = 28,
                              .num_heads = 16,
                              .mlp_ratio = 4,
                              .class_dropout_prob = 0.1,
                              .pred_sigma = true,
                              .caption_channels = 4096,
                              .model_max_length = 120,
                              .space_scale = 1,
                              .time_scale = 1};
}

int kin_stdit_out_channels(const kin_stdit_config *config) {
    return config->pred_sigma ? 2 * config->in_channels : config->in_channels;
}

kin_status kin_stdit_apply_size(kin_context *context, const char *prefix, int multiple,
                                const char *name, kin_stdit_config *config) {
    size_t length = strlen(prefix);
    bool ours = strncmp(name, prefix, length) == 0 && name[length] == '-';
    char known[160] = "";
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        if (sizes[i].hidden_size % multiple != 0) continue;
        size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s-%s", used ? ", " : "", prefix,
                 sizes[i].name);
        if (!ours || strcmp(name + length + 1, sizes[i].name) != 0) continue;
        config->depth = sizes[i].depth;
        config->hidden_size = sizes[i].hidden_size;
        config->num_heads = sizes[i].num_heads;
        return KIN_OK;
    }
    return kin_fail(context, KIN_NOT_FOUND, "no model '%s'; there are %s", name, known);
}

kin_status kin_stdit_config_named(kin_context *context, const char *name,
                                  kin_stdit_config *out_config) {
    kin_stdit_config config = kin_stdit_config_default();
    kin_status status = kin_stdit_apply_size(context, "STDiT", 1, name, &config);
    if (status == KIN_OK) *out_config = config;
    return status;
}

kin_status kin_stdit_config_check(kin_context *context, const kin_stdit_config *c) {
    if (c->in_channels < 1 || c->depth < 1 || c->num_heads < 1 || c->caption_channels < 1 ||
        c->model_max_length < 1)
        return kin_fail(context, KIN_INVALID,
                        "STDiT: in_channels, depth, num_heads, caption_channels and "
                        "model_max_length must be at least 1");
    if (c->hidden_size < 4 || c->hidden_size % 4 != 0 || c->hidden_size % c->num_heads != 0)
        return kin_fail(context, KIN_INVALID,
                        "STDiT: hidden_size %d must be a multiple of 4 (position tables) and of "
                        "num_heads %d",
                        c->hidden_size, c->num_heads);
    for (int i = 0; i < 3; i++)
        if (c->patch_size[i] < 1 || c->input_size[i] < 0)
            return kin_fail(context, KIN_INVALID,
                            "STDiT: patch_size must be at least 1 and input_size at least 0");
    double inner = c->hidden_size * c->mlp_ratio;
    if (!(inner >= 1 && inner <= 1 << 24) || !(c->space_scale > 0) || !(c->time_scale > 0))
        return kin_fail(context, KIN_INVALID,
                        "STDiT: space_scale and time_scale must be above 0, and mlp_ratio times "
                        "hidden_size must lie within 1..16777216");
    if (!(c->class_dropout_prob >= 0 && c->class_dropout_prob <= 1))
        return kin_fail(context, KIN_INVALID, "STDiT: class_dropout_prob must lie within 0..1");
    return KIN_OK;
}

/* Three whole numbers; null in place of one, or of the list, leaves 0 where `nullable`. */
static kin_status read_triple(kin_context *context, const json_t *json, const char *where,
                              const char *key, bool nullable, int *values) {
    json_t *list = NULL;
    kin_status status = kin_json_get_child(context, json, where, key, JSON_ARRAY, &list);
    if (status != KIN_OK || !list) return status;
    if (json_array_size(list) != 3)
        return kin_fail(context, KIN_INVALID, "%s: %s must have 3 entries (frames, rows, columns)",
                        where, key);
    for (size_t i = 0; i < 3; i++) {
        const json_t *item = json_array_get(list, i);
        bool null = nullable && json_is_null(item);
        json_int_t value = null ? 0 : json_integer_value(item);
        if (!null && (!json_is_integer(item) || value < 1 || value > 1 << 20))
            return kin_fail(context, KIN_INVALID,
                            "%s: %s[%zu] is no whole number from 1 to 1048576", where, key, i);
        values[i] = (int)value;
    }
    return KIN_OK;
}

static kin_status read_freeze(kin_context *context, const json_t *json, const char *where,
                              kin_stdit_freeze *out_freeze) {
    const char *text = NULL;
    kin_status status = kin_json_get_string(context, json, where, "freeze", NULL, &text);
    if (status != KIN_OK) return status;
    if (!text) *out_freeze = KIN_STDIT_FREEZE_NONE;
    else if (strcmp(text, "not_temporal") == 0) *out_freeze = KIN_STDIT_FREEZE_NOT_TEMPORAL;
    else if (strcmp(text, "text") == 0) *out_freeze = KIN_STDIT_FREEZE_TEXT;
    else
        return kin_fail(context, KIN_INVALID,
                        "%s: freeze is '%s'; known are \"not_temporal\" and \"text\"", where, text);
    return KIN_OK;
}

kin_status kin_stdit_read_common(kin_context *context, const json_t *json, const char *where,
                                 kin_stdit_config *config) {
    kin_stdit_config *c = config;
    struct {
        const char *key;
        int *value;
    } ints[] = {{"in_channels", &c->in_channels},
                {"hidden_size", &c->hidden_size},
                {"depth", &c->depth},
                {"num_heads", &c->num_heads},
                {"caption_channels", &c->caption_channels},
                {"model_max_length", &c->model_max_length}};
    struct {
        const char *key;
        double *value;
    } doubles[] = {{"mlp_ratio", &c->mlp_ratio}, {"class_dropout_prob", &c->class_dropout_prob}};
    double drop_path = 0;
    kin_status s = read_triple(context, json, where, "input_size", true, c->input_size);
    if (s == KIN_OK) s = read_triple(context, json, where, "patch_size", false, c->patch_size);
    for (size_t i = 0; s == KIN_OK && i < sizeof ints / sizeof *ints; i++)
        s = kin_config_get_int(context, json, where, ints[i].key, 1, 1 << 20, ints[i].value);
    for (size_t i = 0; s == KIN_OK && i < sizeof doubles / sizeof *doubles; i++)
        s = kin_json_get_double(context, json, where, doubles[i].key, *doubles[i].value,
                                doubles[i].value);
    if (s == KIN_OK)
        s = kin_json_get_bool(context, json, where, "pred_sigma", c->pred_sigma, &c->pred_sigma);
    if (s == KIN_OK)
        s = kin_json_get_bool(context, json, where, "train_y_embedding", c->train_y_embedding,
                              &c->train_y_embedding);
    if (s == KIN_OK) s = read_freeze(context, json, where, &c->freeze);
    if (s == KIN_OK) s = kin_json_get_double(context, json, where, "drop_path", 0, &drop_path);
    if (s == KIN_OK && drop_path != 0)
        s = kin_fail(context, KIN_UNSUPPORTED, "%s: drop_path must be 0", where);
    return s;
}

kin_status kin_stdit_config_parse(kin_context *context, const json_t *json, const char *where,
                                  kin_unknown_keys unknown, kin_stdit_config *out_config) {
    /* The last ones choose implementations or are never read by the original. */
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
                                        "space_scale",
                                        "time_scale",
                                        "freeze",
                                        "train_y_embedding",
                                        "drop_path",
                                        "no_temporal_pos_emb",
                                        "dtype",
                                        "enable_flashattn",
                                        "enable_layernorm_kernel",
                                        "enable_sequence_parallelism",
                                        "from_pretrained",
                                        "model_type",
                                        "_class_name",
                                        "_diffusers_version"};
    kin_stdit_config c = kin_stdit_config_default();
    const char *type = NULL;
    kin_status s =
        kin_config_check_keys(context, json, where, known, sizeof known / sizeof *known, unknown);
    if (s == KIN_OK) s = kin_json_get_string(context, json, where, "type", NULL, &type);
    if (s == KIN_OK && type) s = kin_stdit_apply_size(context, "STDiT", 1, type, &c);
    if (s == KIN_OK) s = kin_stdit_read_common(context, json, where, &c);
    if (s == KIN_OK)
        s = kin_json_get_double(context, json, where, "space_scale", c.space_scale, &c.space_scale);
    if (s == KIN_OK)
        s = kin_json_get_double(context, json, where, "time_scale", c.time_scale, &c.time_scale);
    if (s == KIN_OK) s = kin_stdit_config_check(context, &c);
    if (s == KIN_OK) *out_config = c;
    return s;
}

bool kin_stdit_rename(const void *config, const char *file_name, char *out_name, size_t size) {
    (void)config;
    if (strcmp(file_name, "pos_embed") == 0 || strcmp(file_name, "pos_embed_temporal") == 0)
        return false;
    if (!kin_pixart_original_name(file_name, out_name, size))
        snprintf(out_name, size, "%s", file_name);
    return true;
}
