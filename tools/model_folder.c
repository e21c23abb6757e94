/* Configuration files of model folders. */
#define _POSIX_C_SOURCE 200809L
#include "tools/model_folder.h"

#include "runtime/file.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

kin_status kin_write_json(kin_context *context, const char *folder, const char *name,
                          json_t *object) {
    kin_status status = kin_make_folders(context, folder);
    char *path = kin_path_join(context, folder, name);
    char *text = json_dumps(object, JSON_INDENT(2) | JSON_REAL_PRECISION(17));
    if (status == KIN_OK)
        status = path && text ? kin_file_write_atomic(context, path, text, strlen(text))
                              : KIN_OUT_OF_MEMORY;
    kin_free(context, path);
    free(text);
    json_decref(object);
    return status;
}

kin_status kin_copy_file(kin_context *context, const char *source, const char *target) {
    kin_mapping mapping;
    kin_status status = kin_file_map(context, source, &mapping);
    if (status != KIN_OK) return status;
    status = kin_file_write_atomic(context, target, mapping.data, mapping.size);
    kin_file_unmap(&mapping);
    return status;
}

kin_status kin_copy_weights(kin_context *context, const char *source, const char *target) {
    static const char *const endings[] = {".safetensors", ".bin", ".index.json"};
    size_t found = 0;
    kin_status status = KIN_OK;
    DIR *folder = opendir(source);
    if (!folder) return kin_fail(context, KIN_NOT_FOUND, "%s: there is no such folder", source);
    for (struct dirent *entry; status == KIN_OK && (entry = readdir(folder));) {
        bool wanted = false;
        for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
            wanted = wanted || kin_path_ends_with(entry->d_name, endings[i]);
        if (!wanted || entry->d_name[0] == '.') continue;
        char *from = kin_path_join(context, source, entry->d_name);
        char *to = kin_path_join(context, target, entry->d_name);
        if (!from || !to) status = KIN_OUT_OF_MEMORY;
        else status = kin_copy_file(context, from, to);
        kin_free(context, from);
        kin_free(context, to);
        found++;
    }
    closedir(folder);
    if (status == KIN_OK && !found)
        status = kin_fail(context, KIN_NOT_FOUND, "%s: no weights in it", source);
    return status;
}

kin_status kin_write_vae_config(kin_context *context, const char *folder,
                                const kin_sd_vae_config *config) {
    json_t *channels = json_array(), *down = json_array(), *up = json_array();
    for (int i = 0; i < config->levels; i++) {
        json_array_append_new(channels, json_integer(config->block_out_channels[i]));
        json_array_append_new(down, json_string("DownEncoderBlock2D"));
        json_array_append_new(up, json_string("UpDecoderBlock2D"));
    }
    json_t *object = json_pack(
        "{s:s, s:i, s:i, s:o, s:o, s:o, s:i, s:s, s:i, s:i, s:i, s:f}", "_class_name",
        "AutoencoderKL", "in_channels", config->in_channels, "out_channels", config->out_channels,
        "block_out_channels", channels, "down_block_types", down, "up_block_types", up,
        "layers_per_block", config->layers_per_block, "act_fn", "silu", "latent_channels",
        config->latent_channels, "norm_num_groups", config->norm_num_groups, "sample_size",
        config->sample_size, "scaling_factor", config->scaling_factor);
    if (!object) return kin_fail(context, KIN_OUT_OF_MEMORY, "no memory for %s", folder);
    return kin_write_json(context, folder, "config.json", object);
}

kin_status kin_write_stdit_config(kin_context *context, const char *folder,
                                  const kin_stdit_config *c) {
    json_t *object = json_pack(
        "{s:s, s:[i,i,i], s:i, s:[i,i,i], s:i, s:i, s:i, s:f, s:f, s:b, s:i, s:i, s:f, s:f, s:b}",
        "_class_name", "STDiT", "input_size", c->input_size[0], c->input_size[1], c->input_size[2],
        "in_channels", c->in_channels, "patch_size", c->patch_size[0], c->patch_size[1],
        c->patch_size[2], "hidden_size", c->hidden_size, "depth", c->depth, "num_heads",
        c->num_heads, "mlp_ratio", c->mlp_ratio, "class_dropout_prob", c->class_dropout_prob,
        "pred_sigma", (int)c->pred_sigma, "caption_channels", c->caption_channels,
        "model_max_length", c->model_max_length, "space_scale", c->space_scale, "time_scale",
        c->time_scale, "train_y_embedding", (int)c->train_y_embedding);
    if (!object) return kin_fail(context, KIN_OUT_OF_MEMORY, "no memory for %s", folder);
    return kin_write_json(context, folder, "config.json", object);
}

kin_status kin_write_t5_config(kin_context *context, const char *folder, const kin_t5_config *c) {
    json_t *object = json_pack(
        "{s:[s], s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:s, s:f, s:i, s:i, s:f}", "architectures",
        "T5EncoderModel", "model_type", "t5", "vocab_size", c->vocab_size, "d_model", c->d_model,
        "num_heads", c->num_heads, "d_kv", c->d_kv, "d_ff", c->d_ff, "num_layers", c->num_layers,
        "feed_forward_proj", c->gated ? "gated-gelu" : "relu", "layer_norm_epsilon",
        c->layer_norm_epsilon, "relative_attention_num_buckets", c->relative_attention_num_buckets,
        "relative_attention_max_distance", c->relative_attention_max_distance, "initializer_factor",
        c->initializer_factor);
    if (!object) return kin_fail(context, KIN_OUT_OF_MEMORY, "no memory for %s", folder);
    return kin_write_json(context, folder, "config.json", object);
}
