/* kinora init: configurations of the systems in three sizes, and what --set changes in them. */
#include "tools/system/init.h"

#include "runtime/json.h"

#include <stdio.h>
#include <string.h>

/* ---- sizes ---- */

static kin_status denoiser_of(kin_context *context, const kin_init_options *options,
                              kin_denoiser_config *c) {
    static const kin_denoiser_kind kinds[KIN_SYSTEM_KINDS] = {
        [KIN_SYSTEM_OPEN_SORA_1_0] = KIN_DENOISER_STDIT,
        [KIN_SYSTEM_OPEN_SORA_1_1] = KIN_DENOISER_STDIT2,
        [KIN_SYSTEM_LATTE] = KIN_DENOISER_LATTE,
        [KIN_SYSTEM_PIXART] = KIN_DENOISER_PIXART,
        [KIN_SYSTEM_OPEN_SORA_PLAN] = KIN_DENOISER_OPENSORA_PLAN};
    *c = (kin_denoiser_config){.kind = kinds[options->system],
                               .stdit = kin_stdit_config_default(),
                               .stdit2 = kin_stdit2_config_default(),
                               .pixart = options->system == KIN_SYSTEM_LATTE
                                             ? kin_latte_config_default()
                                             : kin_pixart_config_default(),
                               .opensora_plan = kin_opensora_plan_config_default()};
    (void)context;
    if (options->size == KIN_INIT_SIZE_PUBLISHED) return KIN_OK;
    bool tiny = options->size == KIN_INIT_SIZE_TINY;
    int width = tiny ? 96 : 384, heads = tiny ? 4 : 6, layers = tiny ? 2 : 12;
    int channels = tiny ? 64 : 512; /* of captions */
    kin_stdit_config *stdits[] = {&c->stdit, &c->stdit2.common};
    for (int i = 0; i < 2; i++) {
        stdits[i]->hidden_size = width;
        stdits[i]->num_heads = heads;
        stdits[i]->depth = layers;
        stdits[i]->caption_channels = channels;
    }
    if (tiny) {
        for (int i = 0; i < 3; i++) c->stdit.input_size[i] = i ? 8 : 4;
        c->stdit2.input_sq_size = 64;
        c->pixart.sample_size = 8;
        c->pixart.video_length = options->system == KIN_SYSTEM_LATTE ? 4 : 1;
    }
    c->pixart.num_attention_heads = heads;
    c->pixart.attention_head_dim = width / heads;
    c->pixart.num_layers = layers;
    c->pixart.caption_channels = channels;
    kin_opensora_plan_config *plan = &c->opensora_plan;
    plan->num_attention_heads = 4;
    plan->attention_head_dim = width / 4;
    plan->num_layers = layers;
    plan->caption_channels = channels;
    plan->sample_size[0] = tiny ? 8 : 32;
    plan->sample_size[1] = tiny ? 8 : 32;
    plan->sample_size_t = tiny ? 3 : 5;
    plan->interpolation_scale_h = plan->interpolation_scale_w = 1;
    return KIN_OK;
}

static void vae_of(const kin_init_options *options, kin_init_configs *c) {
    c->vae.kind = options->system == KIN_SYSTEM_OPEN_SORA_PLAN ? KIN_VAE_CAUSAL : KIN_VAE_SD;
    c->vae.sd = kin_sd_vae_config_default();
    bool tiny = options->size == KIN_INIT_SIZE_TINY;
    for (int i = 0; options->size != KIN_INIT_SIZE_PUBLISHED && i < c->vae.sd.levels; i++)
        c->vae.sd.block_out_channels[i] = tiny ? 32 : i ? 128 : 64;
    if (tiny) c->vae.sd.layers_per_block = 1;
    for (int i = 0; options->size != KIN_INIT_SIZE_PUBLISHED && i < c->vae.causal.levels; i++)
        c->vae.causal.hidden_size_mult[i] = tiny || !i ? 1 : 2;
    if (options->size != KIN_INIT_SIZE_PUBLISHED) c->vae.causal.hidden_size = tiny ? 32 : 64;
    if (tiny) c->vae.causal.num_res_blocks = 1;
    c->temporal = c->vae;
    c->temporal.kind = KIN_VAE_TEMPORAL;
}

static kin_status t5_of(kin_context *context, const kin_init_options *options,
                        kin_init_configs *c) {
    c->mt5 = options->system == KIN_SYSTEM_OPEN_SORA_PLAN;
    bool published = options->size == KIN_INIT_SIZE_PUBLISHED;
    kin_status status = kin_t5_config_named(context,
                                            !published ? "t5-v1_1-small"
                                            : c->mt5   ? "mt5-xxl"
                                                       : "t5-v1_1-xxl",
                                            &c->t5);
    if (status != KIN_OK || options->size != KIN_INIT_SIZE_TINY) return status;
    c->t5.vocab_size = 1024;
    c->t5.d_model = 64;
    c->t5.num_heads = 4;
    c->t5.d_kv = 16;
    c->t5.d_ff = 128;
    c->t5.num_layers = 2;
    return KIN_OK;
}

/* ---- changes ---- */

json_t *kin_init_t5_json(const kin_init_configs *configs, const char *dtype) {
    const kin_t5_config *c = &configs->t5;
    json_t *object = json_pack(
        "{s:[s], s:i, s:i, s:i, s:i, s:f, s:i, s:s, s:f, s:b, s:f, s:s, s:i, s:i, s:b, s:i, s:i, "
        "s:i, s:b, s:s, s:b, s:i}",
        "architectures", configs->mt5 ? "MT5EncoderModel" : "T5EncoderModel", "d_ff", c->d_ff,
        "d_kv", c->d_kv, "d_model", c->d_model, "decoder_start_token_id", 0, "dropout_rate", 0.1,
        "eos_token_id", 1, "feed_forward_proj", c->gated ? "gated-gelu" : "relu",
        "initializer_factor", c->initializer_factor, "is_encoder_decoder", 1, "layer_norm_epsilon",
        c->layer_norm_epsilon, "model_type", configs->mt5 ? "mt5" : "t5", "num_decoder_layers",
        c->num_layers, "num_heads", c->num_heads, "output_past", 1, "num_layers", c->num_layers,
        "pad_token_id", 0, "relative_attention_num_buckets", c->relative_attention_num_buckets,
        "tie_word_embeddings", 0, "tokenizer_class", "T5Tokenizer", "use_cache", 1, "vocab_size",
        c->vocab_size);
    if (!object) return NULL;
    /* Older files lack the key; its default is what they were trained with. */
    if (c->relative_attention_max_distance != 128)
        json_object_set_new(object, "relative_attention_max_distance",
                            json_integer(c->relative_attention_max_distance));
    if (dtype) json_object_set_new(object, "torch_dtype", json_string(dtype));
    return object;
}

static kin_status add_json(kin_context *context, json_t *root, const char *name, kin_status status,
                           json_t *object) {
    if (status != KIN_OK) return status;
    if (object && json_object_set_new(root, name, object) == 0) return KIN_OK;
    return kin_fail(context, KIN_OUT_OF_MEMORY, "no memory for a configuration");
}

/* Applies the changes to the configurations as JSON, and reads them back. */
static kin_status change(kin_context *context, const kin_init_options *options,
                         kin_init_configs *c) {
    json_t *root = json_object(), *object = NULL;
    kin_status status =
        root ? kin_denoiser_config_json(context, &c->denoiser, &object) : KIN_OUT_OF_MEMORY;
    status = add_json(context, root, "transformer", status, object);
    if (status == KIN_OK) status = kin_vae_config_json(context, &c->vae, &object);
    status = add_json(context, root, "vae", status, object);
    if (status == KIN_OK) status = kin_vae_config_json(context, &c->temporal, &object);
    status = add_json(context, root, "vae_temporal_decoder", status, object);
    if (status == KIN_OK)
        status = add_json(context, root, "text_encoder", status, kin_init_t5_json(c, NULL));
    for (int i = 0; status == KIN_OK && i < options->set_count; i++) {
        const char *text = options->sets[i];
        size_t length = strcspn(text, ".=");
        char part[64];
        snprintf(part, sizeof part, "%.*s", (int)(length < 63 ? length : 63), text);
        if (text[length] != '.' || !json_object_get(root, part))
            status = kin_fail(context, KIN_INVALID,
                              "--set %s: begins with none of transformer., vae., "
                              "vae_temporal_decoder. and text_encoder.",
                              text);
        else status = kin_json_set(context, root, text);
    }
    if (status == KIN_OK)
        status = kin_denoiser_config_parse(context, json_object_get(root, "transformer"),
                                           "transformer", KIN_UNKNOWN_KEYS_FAIL, &c->denoiser);
    if (status == KIN_OK)
        status = kin_vae_config_parse(context, json_object_get(root, "vae"), "vae",
                                      KIN_UNKNOWN_KEYS_FAIL, &c->vae);
    if (status == KIN_OK)
        status = kin_vae_config_parse(context, json_object_get(root, "vae_temporal_decoder"),
                                      "vae_temporal_decoder", KIN_UNKNOWN_KEYS_FAIL, &c->temporal);
    if (status == KIN_OK)
        status = kin_t5_config_parse(context, json_object_get(root, "text_encoder"), "text_encoder",
                                     KIN_UNKNOWN_KEYS_FAIL, &c->t5);
    json_decref(root);
    return status;
}

static kin_status check_fit(kin_context *context, const kin_init_configs *c) {
    kin_denoiser_shape shape = kin_denoiser_shape_of(&c->denoiser);
    if (shape.caption_channels != c->t5.d_model)
        return kin_fail(
            context, KIN_INVALID,
            "the denoiser wants captions of %d channels, the text encoder makes %d: set "
            "transformer.caption_channels or text_encoder.d_model",
            shape.caption_channels, c->t5.d_model);
    if (shape.in_channels != kin_vae_shape_of(&c->vae).channels)
        return kin_fail(context, KIN_INVALID,
                        "the denoiser wants latents of %d channels, the autoencoder makes %d",
                        shape.in_channels, kin_vae_shape_of(&c->vae).channels);
    return KIN_OK;
}

kin_status kin_init_configure(kin_context *context, const kin_init_options *options,
                              kin_init_configs *c) {
    *c = (kin_init_configs){.mt5 = false};
    kin_status status = denoiser_of(context, options, &c->denoiser);
    if (status == KIN_OK)
        status = kin_causal_vae_config_named(context, "causal-vae-1.2", &c->vae.causal);
    if (status == KIN_OK) vae_of(options, c);
    if (status == KIN_OK) status = t5_of(context, options, c);
    if (status == KIN_OK) status = change(context, options, c);
    return status == KIN_OK ? check_fit(context, c) : status;
}
