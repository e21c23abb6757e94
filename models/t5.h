/* The encoder of T5, T5 v1.1 and mT5 (Hugging Face's T5EncoderModel). Key names are those of the
 * published files. */
#ifndef KIN_MODELS_T5_H
#define KIN_MODELS_T5_H

#include "models/layers.h"

#ifdef __cplusplus
extern "C" {
#endif

/* config.json, with its key names. */
typedef struct kin_t5_config {
    int vocab_size, d_model, num_heads, d_kv, d_ff, num_layers;
    bool gated; /* feed_forward_proj "gated-gelu" (T5 v1.1, mT5); false: "relu" (T5) */
    double layer_norm_epsilon;
    int relative_attention_num_buckets;
    int relative_attention_max_distance;
    double initializer_factor;
} kin_t5_config;

/* "t5-v1_1-xxl", "-xl", "-large", "-base", "-small", "mt5-xxl"; KIN_NOT_FOUND names what there is.
 */
KIN_API kin_status kin_t5_config_named(kin_context *context, const char *name,
                                       kin_t5_config *out_config);
/* Reads a parsed config.json: vocab_size, d_model, num_heads, d_kv, d_ff and num_layers must be
 * there, the other keys have the defaults of the original T5. */
KIN_API kin_status kin_t5_config_parse(kin_context *context, const struct json_t *json,
                                       const char *where, kin_unknown_keys unknown,
                                       kin_t5_config *out_config);
/* KIN_INVALID, with a message, unless a graph can be built from it. */
KIN_API kin_status kin_t5_config_check(kin_context *context, const kin_t5_config *config);

/* Reads shared.weight or encoder.embed_tokens.weight as shared.weight; decoder.* and lm_head.* are
 * no part of the encoder. config: kin_t5_config. */
KIN_API bool kin_t5_rename(const void *config, const char *file_name, char *out_name, size_t size);
/* The names that a file may use for a variable, NULL at the end: two for the table of tokens, else
 * NULL at once (only the variable's own name). */
KIN_API const char *const *kin_t5_aliases(const char *variable_name);

/* The bucket of a distance key - query, both ways (an encoder's). */
KIN_API int kin_t5_bucket(const kin_t5_config *config, int distance);

/* ids i32 [B, L], lengths i32 [B] (real tokens, the end mark included) or KIN_NONE -> the last
 * hidden state [B, L, d_model] after the final norm, in f32. Keys past a length are hidden; rows
 * past it are computed like all others. name_hidden: outputs "hidden.N" after block N. */
KIN_API kin_tensor kin_t5_encode(kin_graph *graph, const kin_t5_config *config,
                                 const kin_precision *precision, kin_tensor ids, kin_tensor lengths,
                                 bool name_hidden);

#ifdef __cplusplus
}
#endif
#endif
