/* Configurations as the originals' files have them. */
#include "models/denoiser.h"

#include <math.h>

#include "runtime/json.h"

/* Sizes of latents, null where they are not said. */
static json_t *triple(const int values[3]) {
    json_t *list = json_array();
    for (int i = 0; i < 3; i++)
        json_array_append_new(list, values[i] > 0 ? json_integer(values[i]) : json_null());
    return list;
}

/* The keys of both; NULL if there is no memory. */
static json_t *stdit_common(const kin_stdit_config *c) {
    static const char *const freezes[] = {NULL, "not_temporal", "text"};
    json_t *object = json_pack(
        "{s:o, s:i, s:o, s:i, s:i, s:i, s:f, s:f, s:b, s:f, s:b, s:s?, s:i, s:i}", "input_size",
        triple(c->input_size), "in_channels", c->in_channels, "patch_size", triple(c->patch_size),
        "hidden_size", c->hidden_size, "depth", c->depth, "num_heads", c->num_heads, "mlp_ratio",
        c->mlp_ratio, "class_dropout_prob", c->class_dropout_prob, "pred_sigma", (int)c->pred_sigma,
        "drop_path", 0.0, "no_temporal_pos_emb", 0, "freeze", freezes[c->freeze],
        "caption_channels", c->caption_channels, "model_max_length", c->model_max_length);
    if (object && c->train_y_embedding)
        json_object_set_new(object, "train_y_embedding", json_true());
    return object;
}

static json_t *stdit_json(const kin_stdit_config *c) {
    json_t *object = stdit_common(c);
    json_t *own = json_pack("{s:s, s:f, s:f}", "_class_name", "STDiT", "space_scale",
                            c->space_scale, "time_scale", c->time_scale);
    json_object_update_missing(own, object);
    json_decref(object);
    return own;
}

static json_t *stdit2_json(const kin_stdit2_config *c) {
    json_t *object = stdit_common(&c->common);
    json_t *own =
        json_pack("{s:[s], s:s, s:i, s:b}", "architectures", "STDiT2", "model_type", "STDiT2",
                  "input_sq_size", c->input_sq_size, "qk_norm", (int)c->qk_norm);
    json_object_update_missing(own, object);
    json_decref(object);
    return own;
}

/* Whole numbers as such: diffusers' signature says int. */
static json_t *number(double value) {
    return value == floor(value) ? json_integer((json_int_t)value) : json_real(value);
}

static json_t *pixart_json(const kin_pixart_config *c, bool latte) {
    int width = c->num_attention_heads * c->attention_head_dim;
    json_t *object = json_pack(
        "{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:b, s:i, s:i, s:s, s:i, s:s, s:b, s:f, s:i, s:f}",
        "_class_name", latte ? "LatteTransformer3DModel" : "PixArtTransformer2DModel",
        "num_attention_heads", c->num_attention_heads, "attention_head_dim", c->attention_head_dim,
        "in_channels", c->in_channels, "out_channels", c->out_channels, "num_layers", c->num_layers,
        "cross_attention_dim", width, "attention_bias", 1, "sample_size", c->sample_size,
        "patch_size", c->patch_size, "activation_fn", "gelu-approximate", "num_embeds_ada_norm",
        1000, "norm_type", "ada_norm_single", "norm_elementwise_affine", 0, "norm_eps", c->norm_eps,
        "caption_channels", c->caption_channels, "dropout", 0.0);
    if (!object) return NULL;
    if (latte) {
        json_object_set_new(object, "video_length", json_integer(c->video_length));
    } else {
        json_object_set_new(object, "interpolation_scale", number(c->interpolation_scale));
        json_object_set_new(object, "use_additional_conditions",
                            json_boolean(c->use_additional_conditions));
    }
    return object;
}

static json_t *opensora_plan_json(const kin_opensora_plan_config *c) {
    int width = c->num_attention_heads * c->attention_head_dim;
    json_t *object = json_pack(
        "{s:s, s:s, s:b, s:i, s:s, s:s, s:i, s:i, s:b, s:n, s:f, s:i, s:o, s:o, s:o, s:b}",
        "_class_name", "OpenSoraT2V", "activation_fn", "gelu-approximate", "attention_bias", 1,
        "attention_head_dim", c->attention_head_dim, "attention_mode", "xformers", "attention_type",
        "default", "caption_channels", c->caption_channels, "cross_attention_dim", width,
        "double_self_attention", 0, "downsampler", "dropout", 0.0, "in_channels", c->in_channels,
        "interpolation_scale_h", number(c->interpolation_scale_h), "interpolation_scale_t",
        number(c->interpolation_scale_t), "interpolation_scale_w", number(c->interpolation_scale_w),
        "norm_elementwise_affine", 0);
    json_t *more = json_pack(
        "{s:f, s:i, s:s, s:i, s:i, s:i, s:n, s:b, s:i, s:i, s:i, s:[i,i], s:i, s:b, s:b, s:b, s:b, "
        "s:b}",
        "norm_eps", c->norm_eps, "norm_num_groups", 32, "norm_type", "ada_norm_single",
        "num_attention_heads", c->num_attention_heads, "num_embeds_ada_norm", 1000, "num_layers",
        c->num_layers, "num_vector_embeds", "only_cross_attention", 0, "out_channels",
        c->out_channels, "patch_size", c->patch_size, "patch_size_t", c->patch_size_t,
        "sample_size", c->sample_size[0], c->sample_size[1], "sample_size_t", c->sample_size_t,
        "upcast_attention", 0, "use_additional_conditions", 0, "use_linear_projection", 0,
        "use_rope", 1, "use_stable_fp32", 0);
    if (object && c->bf16_rope) json_object_set_new(object, "bf16_rope", json_true());
    bool good = object && more && json_object_update_missing(object, more) == 0;
    json_decref(more);
    if (good) return object;
    json_decref(object);
    return NULL;
}

kin_status kin_denoiser_config_json(kin_context *context, const kin_denoiser_config *config,
                                    json_t **out_json) {
    json_t *object = NULL;
    switch (config->kind) {
    case KIN_DENOISER_STDIT:
        object = stdit_json(&config->stdit);
        break;
    case KIN_DENOISER_STDIT2:
        object = stdit2_json(&config->stdit2);
        break;
    case KIN_DENOISER_LATTE:
    case KIN_DENOISER_PIXART:
        object = pixart_json(&config->pixart, config->kind == KIN_DENOISER_LATTE);
        break;
    case KIN_DENOISER_OPENSORA_PLAN:
        object = opensora_plan_json(&config->opensora_plan);
        break;
    }
    *out_json = object;
    return object ? KIN_OK : kin_fail(context, KIN_OUT_OF_MEMORY, "no memory for a configuration");
}
