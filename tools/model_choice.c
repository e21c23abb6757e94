/* Models by name, by configuration file or by folder. */
#include "tools/model_choice.h"

#include "runtime/file.h"
#include "runtime/json.h"

#include <stdio.h>
#include <string.h>

static const char *const t5_names[] = {"t5-v1_1-xxl",  "t5-v1_1-xl",    "t5-v1_1-large",
                                       "t5-v1_1-base", "t5-v1_1-small", "mt5-xxl"};

static const char *const causal_names[] = {"causal-vae-1.2", "causal-vae-1.1"};

enum {
    T5_NAMES = sizeof t5_names / sizeof *t5_names,
    CAUSAL_NAMES = sizeof causal_names / sizeof *causal_names
};

bool kin_model_named_at(kin_context *context, int index, kin_model_choice *out) {
    const char *name;
    memset(out, 0, sizeof *out);
    if (kin_denoiser_named_at(context, index, &name, &out->denoiser)) {
        out->kind = KIN_MODEL_DENOISER;
        snprintf(out->name, sizeof out->name, "%s", name);
        return true;
    }
    index -= kin_denoiser_named_count();
    if (index < T5_NAMES) {
        out->kind = KIN_MODEL_T5;
        snprintf(out->name, sizeof out->name, "%s", t5_names[index]);
        return kin_t5_config_named(context, out->name, &out->t5) == KIN_OK;
    }
    index -= T5_NAMES;
    out->kind = KIN_MODEL_VAE;
    out->vae.sd = kin_sd_vae_config_default();
    if (index < CAUSAL_NAMES) {
        out->vae.kind = KIN_VAE_CAUSAL;
        snprintf(out->name, sizeof out->name, "%s", causal_names[index]);
        return kin_causal_vae_config_named(context, out->name, &out->vae.causal) == KIN_OK;
    }
    index -= CAUSAL_NAMES;
    out->vae.kind = index ? KIN_VAE_TEMPORAL : KIN_VAE_SD;
    snprintf(out->name, sizeof out->name, "%s", index ? "vae-temporal" : "sd-vae");
    return index < 2;
}

kin_status kin_model_parse(kin_context *context, const json_t *json, const char *path,
                           kin_model_choice *out) {
    kin_status status;
    if (json_object_get(json, "block_out_channels") || json_object_get(json, "hidden_size_mult")) {
        out->kind = KIN_MODEL_VAE;
        status = kin_vae_config_parse(context, json, path, KIN_UNKNOWN_KEYS_WARN, &out->vae);
        if (status == KIN_OK)
            snprintf(out->name, sizeof out->name, "%s", kin_vae_kind_name(out->vae.kind));
        return status;
    }
    if (json_object_get(json, "d_model")) {
        out->kind = KIN_MODEL_T5;
        snprintf(out->name, sizeof out->name, "T5 encoder");
        return kin_t5_config_parse(context, json, path, KIN_UNKNOWN_KEYS_WARN, &out->t5);
    }
    if (json_object_get(json, "caption_channels") || json_object_get(json, "patch_size") ||
        json_object_get(json, "type") || json_object_get(json, "attention_head_dim")) {
        out->kind = KIN_MODEL_DENOISER;
        status =
            kin_denoiser_config_parse(context, json, path, KIN_UNKNOWN_KEYS_WARN, &out->denoiser);
        snprintf(out->name, sizeof out->name, "%s", kin_denoiser_kind_name(out->denoiser.kind));
        return status;
    }
    return kin_fail(
        context, KIN_UNSUPPORTED,
        "%s: neither a denoiser (caption_channels), a VAE (block_out_channels, hidden_size_mult) "
        "nor a T5 encoder (d_model)",
        path);
}

static kin_status read_config(kin_context *context, const char *path, kin_model_choice *out) {
    json_t *json = NULL;
    kin_status status = kin_json_load(context, path, &json);
    if (status == KIN_OK) status = kin_model_parse(context, json, path, out);
    json_decref(json);
    return status;
}

static kin_status unknown_model(kin_context *context, const char *text) {
    enum { MOST = 64 };
    kin_model_choice choice;
    char texts[MOST][sizeof choice.name];
    const char *names[MOST];
    size_t count = 0;
    while (count < MOST && kin_model_named_at(context, (int)count, &choice)) {
        memcpy(texts[count], choice.name, sizeof choice.name);
        names[count] = texts[count];
        count++;
    }
    const char *near = kin_nearest_name(text, names, count);
    return kin_fail(context, KIN_NOT_FOUND,
                    "no model, configuration file or folder \"%s\"%s%s%s; models by name: "
                    "STDiT-{XL,L,B,S}/2, STDiT2-{XL,B,S}/2, Latte-1, "
                    "PixArt-XL-2-{256x256,512x512,1024-MS}, OpenSoraT2V-ROPE-L/122[-480p], sd-vae, "
                    "vae-temporal, causal-vae-1.{2,1}, t5-v1_1-{xxl,xl,large,base,small}, mt5-xxl",
                    text, near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
}

kin_status kin_model_choose(kin_context *context, const char *text, kin_model_choice *out) {
    for (int i = 0; kin_model_named_at(context, i, out); i++)
        if (strcmp(out->name, text) == 0) return KIN_OK;
    memset(out, 0, sizeof *out);
    if (!kin_file_exists(text)) return unknown_model(context, text);
    if (!kin_file_is_folder(text)) return read_config(context, text, out);
    char *path = kin_path_join(context, text, "config.json");
    if (!path) return KIN_OUT_OF_MEMORY;
    kin_status status = KIN_OK;
    if (kin_file_exists(path)) status = read_config(context, path, out);
    else
        status =
            kin_fail(context, KIN_NOT_FOUND,
                     "%s: no config.json in it; of a model folder name a part: %s/transformer, "
                     "%s/vae, %s/text_encoder",
                     text, text, text, text);
    kin_free(context, path);
    return status;
}

/* One patch of one frame. The null caption is a variable, too. */
static void append_denoiser(kin_graph *graph, const kin_denoiser_config *c) {
    kin_precision precision = {0};
    kin_denoiser_shape shape = kin_denoiser_shape_of(c);
    int64_t one = 1, side = shape.patch;
    int64_t x[5] = {1, shape.in_channels, shape.patch_t, side, side};
    int64_t y[3] = {1, 1, shape.caption_channels};
    kin_denoiser_inputs inputs = {.x = kin_input(graph, "x", KIN_F32, 5, x),
                                  .timestep = kin_input(graph, "timestep", KIN_F32, 1, &one),
                                  .y = kin_input(graph, "y", KIN_F32, 3, y)};
    if (shape.own_null_caption) inputs.drop = kin_input(graph, "drop", KIN_F32, 1, &one);
    kin_denoiser(graph, c, &precision, &inputs);
}

/* The smallest video and the smallest latents. */
static void append_vae(kin_graph *graph, const kin_vae_config *c) {
    kin_precision precision = {0};
    kin_vae_shape shape = kin_vae_shape_of(c);
    int64_t side = shape.space_factor, videos[5] = {1, 3, 1, side, side};
    int64_t latents[5] = {1, shape.channels, 1, 1, 1};
    kin_vae_encode(graph, c, &precision, kin_input(graph, "videos", KIN_F32, 5, videos));
    kin_vae_decode(graph, c, &precision, kin_input(graph, "latents", KIN_F32, 5, latents));
}

void kin_model_append_any(kin_graph *graph, const kin_model_choice *choice) {
    kin_precision precision = {0};
    if (choice->kind == KIN_MODEL_DENOISER) {
        append_denoiser(graph, &choice->denoiser);
    } else if (choice->kind == KIN_MODEL_VAE) {
        append_vae(graph, &choice->vae);
    } else {
        kin_tensor ids = kin_input(graph, "ids", KIN_I32, 2, (int64_t[]){1, 1});
        kin_t5_encode(graph, &choice->t5, &precision, ids, KIN_NONE, false);
    }
}

bool kin_model_rename(const kin_model_choice *choice, const char *file_name, char *out_name,
                      size_t size) {
    switch (choice->kind) {
    case KIN_MODEL_DENOISER:
        return kin_denoiser_rename(&choice->denoiser, file_name, out_name, size);
    case KIN_MODEL_VAE:
        return kin_vae_rename(&choice->vae, file_name, out_name, size);
    case KIN_MODEL_T5:
        return kin_t5_rename(&choice->t5, file_name, out_name, size);
    }
    return false;
}
