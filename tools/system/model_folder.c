/* Configuration files of model folders. */
#include "tools/system/model_folder.h"

#include "runtime/file.h"

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

kin_status kin_write_vae_config(kin_context *context, const char *folder,
                                const kin_sd_vae_config *config) {
    json_t *object = NULL;
    kin_status status = kin_sd_vae_config_json(context, config, &object);
    return status == KIN_OK ? kin_write_json(context, folder, "config.json", object) : status;
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
