/* Models by name, by configuration file or by folder. */
#include "tools/model_choice.h"

#include "runtime/file.h"
#include "runtime/json.h"

#include <stdio.h>
#include <string.h>

static const char *const stdit_names[] = {"STDiT-XL/2", "STDiT-L/2", "STDiT-B/2", "STDiT-S/2"};
static const char *const t5_names[] = {"t5-v1_1-xxl",  "t5-v1_1-xl",    "t5-v1_1-large",
                                       "t5-v1_1-base", "t5-v1_1-small", "mt5-xxl"};

enum {
    STDIT_NAMES = sizeof stdit_names / sizeof *stdit_names,
    T5_NAMES = sizeof t5_names / sizeof *t5_names
};

bool kin_model_named_at(kin_context *context, int index, kin_model_choice *out) {
    memset(out, 0, sizeof *out);
    if (index < STDIT_NAMES) {
        out->kind = KIN_MODEL_STDIT;
        snprintf(out->name, sizeof out->name, "%s", stdit_names[index]);
        return kin_stdit_config_named(context, out->name, &out->stdit) == KIN_OK;
    }
    index -= STDIT_NAMES;
    if (index < T5_NAMES) {
        out->kind = KIN_MODEL_T5;
        snprintf(out->name, sizeof out->name, "%s", t5_names[index]);
        return kin_t5_config_named(context, out->name, &out->t5) == KIN_OK;
    }
    out->kind = KIN_MODEL_SD_VAE;
    snprintf(out->name, sizeof out->name, "sd-vae");
    out->vae = kin_sd_vae_config_default();
    return index == T5_NAMES;
}

/* What a configuration describes, by the keys that only one kind has. */
static kin_status parse(kin_context *context, const json_t *json, const char *path,
                        kin_model_choice *out) {
    if (json_object_get(json, "block_out_channels")) {
        out->kind = KIN_MODEL_SD_VAE;
        snprintf(out->name, sizeof out->name, "AutoencoderKL");
        return kin_sd_vae_config_parse(context, json, path, KIN_UNKNOWN_KEYS_WARN, &out->vae);
    }
    if (json_object_get(json, "d_model")) {
        out->kind = KIN_MODEL_T5;
        snprintf(out->name, sizeof out->name, "T5 encoder");
        return kin_t5_config_parse(context, json, path, KIN_UNKNOWN_KEYS_WARN, &out->t5);
    }
    if (json_object_get(json, "caption_channels") || json_object_get(json, "patch_size") ||
        json_object_get(json, "type")) {
        out->kind = KIN_MODEL_STDIT;
        snprintf(out->name, sizeof out->name, "STDiT");
        return kin_stdit_config_parse(context, json, path, KIN_UNKNOWN_KEYS_WARN, &out->stdit);
    }
    return kin_fail(
        context, KIN_UNSUPPORTED,
        "%s: neither a denoiser (caption_channels), a VAE (block_out_channels) nor a T5 "
        "encoder (d_model)",
        path);
}

static kin_status read_config(kin_context *context, const char *path, kin_model_choice *out) {
    json_t *json = NULL;
    kin_status status = kin_json_load(context, path, &json);
    if (status == KIN_OK) status = parse(context, json, path, out);
    json_decref(json);
    return status;
}

static kin_status unknown_model(kin_context *context, const char *text) {
    const char *names[STDIT_NAMES + T5_NAMES + 1];
    size_t count = 0;
    for (int i = 0; i < STDIT_NAMES; i++) names[count++] = stdit_names[i];
    for (int i = 0; i < T5_NAMES; i++) names[count++] = t5_names[i];
    names[count++] = "sd-vae";
    const char *near = kin_nearest_name(text, names, count);
    return kin_fail(context, KIN_NOT_FOUND,
                    "no model, configuration file or folder \"%s\"%s%s%s; models by name: "
                    "STDiT-{XL,L,B,S}/2, sd-vae, t5-v1_1-{xxl,xl,large,base,small}, mt5-xxl",
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

static void append_stdit(kin_graph *graph, const kin_stdit_config *c) {
    kin_precision precision = {0};
    int64_t one = 1, x[5] = {1, c->in_channels, 1, c->patch_size[1], c->patch_size[2]};
    int64_t y[3] = {1, 1, c->caption_channels};
    kin_stdit_inputs inputs = {.x = kin_input(graph, "x", KIN_F32, 5, x),
                               .timestep = kin_input(graph, "timestep", KIN_F32, 1, &one),
                               .y = kin_input(graph, "y", KIN_F32, 3, y),
                               .drop = kin_input(graph, "drop", KIN_F32, 1, &one)};
    kin_stdit(graph, c, &precision, &inputs);
}

void kin_model_append_any(kin_graph *graph, const kin_model_choice *choice) {
    kin_precision precision = {0};
    if (choice->kind == KIN_MODEL_STDIT) {
        append_stdit(graph, &choice->stdit);
    } else if (choice->kind == KIN_MODEL_T5) {
        kin_tensor ids = kin_input(graph, "ids", KIN_I32, 2, (int64_t[]){1, 1});
        kin_t5_encode(graph, &choice->t5, &precision, ids, KIN_NONE, false);
    } else {
        const kin_sd_vae_config *c = &choice->vae;
        int64_t f = kin_sd_vae_factor(c);
        kin_tensor images =
            kin_input(graph, "images", KIN_F32, 4, (int64_t[]){1, c->in_channels, f, f});
        kin_tensor latents =
            kin_input(graph, "latents", KIN_F32, 4, (int64_t[]){1, c->latent_channels, 1, 1});
        kin_sd_vae_encode(graph, c, &precision, images, false);
        kin_sd_vae_decode(graph, c, &precision, latents, false);
    }
}

bool kin_model_rename(const kin_model_choice *choice, const char *file_name, char *out_name,
                      size_t size) {
    switch (choice->kind) {
    case KIN_MODEL_STDIT:
        return kin_stdit_rename(&choice->stdit, file_name, out_name, size);
    case KIN_MODEL_SD_VAE:
        return kin_sd_vae_rename(&choice->vae, file_name, out_name, size);
    case KIN_MODEL_T5:
        return kin_t5_rename(&choice->t5, file_name, out_name, size);
    }
    return false;
}
