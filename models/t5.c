#include "models/t5.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "ops/attention.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/layout.h"
#include "ops/norm.h"
#include "ops/views.h"
#include "runtime/json.h"

typedef struct named_size {
    const char *name;
    int vocab_size, d_model, num_heads, d_ff, num_layers;
} named_size;

/* d_kv is 64 in all of them. */
static const named_size sizes[] = {
    {"t5-v1_1-xxl", 32128, 4096, 64, 10240, 24},  {"t5-v1_1-xl", 32128, 2048, 32, 5120, 24},
    {"t5-v1_1-large", 32128, 1024, 16, 2816, 24}, {"t5-v1_1-base", 32128, 768, 12, 2048, 12},
    {"t5-v1_1-small", 32128, 512, 6, 1024, 8},    {"mt5-xxl", 250112, 4096, 64, 10240, 24},
};

/* What config.json means by the keys that it leaves out. */
static const kin_t5_config defaults = {.layer_norm_epsilon = 1e-6,
                                       .relative_attention_num_buckets = 32,
                                       .relative_attention_max_distance = 128,
                                       .initializer_factor = 1};

kin_status kin_t5_config_named(kin_context *context, const char *name, kin_t5_config *out_config) {
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const named_size *s = &sizes[i];
        if (strcmp(name, s->name) != 0) continue;
        kin_t5_config config = defaults;
        config.vocab_size = s->vocab_size;
        config.d_model = s->d_model;
        config.num_heads = s->num_heads;
        config.d_kv = 64;
        config.d_ff = s->d_ff;
        config.num_layers = s->num_layers;
        config.gated = true;
        *out_config = config;
        return KIN_OK;
    }
    return kin_fail(context, KIN_NOT_FOUND,
                    "no text encoder '%s'; there are t5-v1_1-xxl, -xl, -large, -base, -small and "
                    "mt5-xxl",
                    name);
}

kin_status kin_t5_config_check(kin_context *context, const kin_t5_config *c) {
    if (c->vocab_size < 1 || c->d_model < 1 || c->num_heads < 1 || c->d_kv < 1 || c->d_ff < 1 ||
        c->num_layers < 1)
        return kin_fail(context, KIN_INVALID,
                        "T5: vocab_size, d_model, num_heads, d_kv, d_ff and num_layers must be at "
                        "least 1");
    int buckets = c->relative_attention_num_buckets;
    if (buckets < 4 || buckets % 4 != 0 || c->relative_attention_max_distance <= buckets / 4)
        return kin_fail(context, KIN_INVALID,
                        "T5: relative_attention_num_buckets must be a multiple of 4, and "
                        "relative_attention_max_distance above a quarter of it");
    if (!(c->layer_norm_epsilon > 0))
        return kin_fail(context, KIN_INVALID, "T5: layer_norm_epsilon must be above 0");
    return KIN_OK;
}

kin_status kin_t5_config_parse(kin_context *context, const json_t *json, const char *where,
                               kin_unknown_keys unknown, kin_t5_config *out_config) {
    static const char *const known[] = {"vocab_size",
                                        "d_model",
                                        "num_heads",
                                        "d_kv",
                                        "d_ff",
                                        "num_layers",
                                        "feed_forward_proj",
                                        "dense_act_fn",
                                        "is_gated_act",
                                        "layer_norm_epsilon",
                                        "relative_attention_num_buckets",
                                        "relative_attention_max_distance",
                                        "initializer_factor",
                                        "architectures",
                                        "_name_or_path",
                                        "classifier_dropout",
                                        "decoder_start_token_id",
                                        "dropout_rate",
                                        "eos_token_id",
                                        "is_encoder_decoder",
                                        "model_type",
                                        "n_positions",
                                        "num_decoder_layers",
                                        "output_past",
                                        "pad_token_id",
                                        "task_specific_params",
                                        "tie_word_embeddings",
                                        "tokenizer_class",
                                        "torch_dtype",
                                        "dtype",
                                        "transformers_version",
                                        "use_cache"};
    kin_t5_config c = defaults;
    const char *activation = "relu";
    kin_status s =
        kin_config_check_keys(context, json, where, known, sizeof known / sizeof *known, unknown);
    struct {
        const char *key;
        int *value;
        bool required;
    } ints[] = {{"vocab_size", &c.vocab_size, true},
                {"d_model", &c.d_model, true},
                {"num_heads", &c.num_heads, true},
                {"d_kv", &c.d_kv, true},
                {"d_ff", &c.d_ff, true},
                {"num_layers", &c.num_layers, true},
                {"relative_attention_num_buckets", &c.relative_attention_num_buckets, false},
                {"relative_attention_max_distance", &c.relative_attention_max_distance, false}};
    for (size_t i = 0; s == KIN_OK && i < sizeof ints / sizeof *ints; i++) {
        if (ints[i].required) s = kin_json_require(context, json, where, ints[i].key);
        if (s == KIN_OK)
            s = kin_config_get_int(context, json, where, ints[i].key, 1, 1 << 24, ints[i].value);
    }
    if (s == KIN_OK)
        s = kin_json_get_double(context, json, where, "layer_norm_epsilon", c.layer_norm_epsilon,
                                &c.layer_norm_epsilon);
    if (s == KIN_OK)
        s = kin_json_get_double(context, json, where, "initializer_factor", c.initializer_factor,
                                &c.initializer_factor);
    if (s == KIN_OK)
        s = kin_json_get_string(context, json, where, "feed_forward_proj", activation, &activation);
    if (s != KIN_OK) return s;
    c.gated = strcmp(activation, "gated-gelu") == 0;
    if (!c.gated && strcmp(activation, "relu") != 0)
        return kin_fail(context, KIN_UNSUPPORTED,
                        "%s: feed_forward_proj '%s'; known are \"relu\" and \"gated-gelu\"", where,
                        activation);
    s = kin_t5_config_check(context, &c);
    if (s == KIN_OK) *out_config = c;
    return s;
}

bool kin_t5_rename(const void *config, const char *file_name, char *out_name, size_t size) {
    (void)config;
    if (strncmp(file_name, "decoder.", 8) == 0 || strcmp(file_name, "lm_head.weight") == 0)
        return false;
    bool table = strcmp(file_name, "encoder.embed_tokens.weight") == 0;
    snprintf(out_name, size, "%s", table ? "shared.weight" : file_name);
    return true;
}

const char *const *kin_t5_aliases(const char *variable_name) {
    static const char *const table[] = {"shared.weight", "encoder.embed_tokens.weight", NULL};
    return strcmp(variable_name, table[0]) == 0 ? table : table + 2;
}

int kin_t5_bucket(const kin_t5_config *config, int distance) {
    int half = config->relative_attention_num_buckets / 2, exact = half / 2;
    int base = distance > 0 ? half : 0, far = distance < 0 ? -distance : distance;
    if (far < exact) return base + far;
    /* Distance d is in bucket exact + k once (d / exact)^(half - exact) reaches (max / exact)^k.
     * The logarithms of powers can come out a rounding too low, which the small addend makes good:
     * the nearest true fraction below a whole number is further away. */
    double fraction =
        log((double)far / exact) / log((double)config->relative_attention_max_distance / exact);
    int step = (int)floor(fraction * (half - exact) + 1e-9);
    int bucket = exact + step;
    return base + (bucket < half - 1 ? bucket : half - 1);
}

/* bias [1, H, L, L] from the table of block 0; its gradient flows back to the table. */
static kin_tensor position_bias(kin_graph *g, const kin_t5_config *c, const kin_precision *p,
                                int64_t length) {
    kin_context *context = kin_graph_context(g);
    int32_t *buckets = kin_alloc(context, (size_t)(length * length) * sizeof *buckets);
    if (!buckets)
        return kin_graph_fail(g, KIN_OUT_OF_MEMORY, "no host memory for the position buckets");
    for (int64_t query = 0; query < length; query++)
        for (int64_t key = 0; key < length; key++)
            buckets[query * length + key] = kin_t5_bucket(c, (int)(key - query));
    kin_tensor ids = kin_constant(g, KIN_I32, 2, (int64_t[]){length, length}, buckets);
    kin_free(context, buckets);

    kin_scope_push(g, "encoder.block.0.layer.0.SelfAttention.relative_attention_bias");
    kin_init init = {KIN_INIT_NORMAL, c->initializer_factor / sqrt(c->d_model)};
    kin_tensor table = kin_layer_weight(
        g, p, "weight", 2, (int64_t[]){c->relative_attention_num_buckets, c->num_heads}, init);
    kin_tensor bias = kin_permute(g, kin_embedding(g, table, ids), (int[]){2, 0, 1});
    bias = kin_reshape(g, bias, 4, (int64_t[]){1, c->num_heads, length, length});
    kin_scope_pop(g);
    return bias;
}

static kin_tensor norm(kin_graph *g, const kin_t5_config *c, const kin_precision *p,
                       const char *name, kin_tensor x) {
    int64_t width = c->d_model;
    kin_scope_push(g, "%s", name);
    kin_tensor weight = kin_layer_weight(g, p, "weight", 1, &width,
                                         (kin_init){KIN_INIT_ONE, c->initializer_factor});
    x = kin_rms_norm(g, x, weight, c->layer_norm_epsilon);
    kin_scope_pop(g);
    return x;
}

static kin_tensor self_attention(kin_graph *g, const kin_t5_config *c, const kin_precision *p,
                                 kin_tensor x, kin_tensor lengths, kin_tensor bias) {
    int64_t inner = (int64_t)c->num_heads * c->d_kv;
    int64_t heads[] = {kin_dim(g, x, 0), kin_dim(g, x, 1), c->num_heads, c->d_kv};
    double factor = c->initializer_factor;
    kin_scope_push(g, "layer.0");
    kin_tensor h = norm(g, c, p, "layer_norm", x);
    kin_scope_push(g, "SelfAttention");
    double query_std = factor / sqrt((double)c->d_model * c->d_kv);
    double std = factor / sqrt(c->d_model);
    kin_tensor q = kin_reshape(g, kin_layer_linear_plain(g, p, "q", h, inner, query_std), 4, heads);
    kin_tensor k = kin_reshape(g, kin_layer_linear_plain(g, p, "k", h, inner, std), 4, heads);
    kin_tensor v = kin_reshape(g, kin_layer_linear_plain(g, p, "v", h, inner, std), 4, heads);
    h = kin_attention(g, q, k, v, lengths, bias, 1.0);
    h = kin_reshape(g, h, 3, (int64_t[]){heads[0], heads[1], inner});
    h = kin_layer_linear_plain(g, p, "o", h, c->d_model, factor / sqrt((double)inner));
    kin_scope_pop(g);
    kin_scope_pop(g);
    return kin_add(g, x, h);
}

static kin_tensor feed_forward(kin_graph *g, const kin_t5_config *c, const kin_precision *p,
                               kin_tensor x) {
    double std = c->initializer_factor / sqrt(c->d_model);
    kin_scope_push(g, "layer.1");
    kin_tensor h = norm(g, c, p, "layer_norm", x);
    kin_scope_push(g, "DenseReluDense");
    if (c->gated) {
        kin_tensor gate = kin_layer_linear_plain(g, p, "wi_0", h, c->d_ff, std);
        kin_tensor value = kin_layer_linear_plain(g, p, "wi_1", h, c->d_ff, std);
        h = kin_gated_gelu(g, gate, value);
    } else {
        h = kin_relu(g, kin_layer_linear_plain(g, p, "wi", h, c->d_ff, std));
    }
    h = kin_layer_linear_plain(g, p, "wo", h, c->d_model, c->initializer_factor / sqrt(c->d_ff));
    kin_scope_pop(g);
    kin_scope_pop(g);
    return kin_add(g, x, h);
}

kin_tensor kin_t5_encode(kin_graph *graph, const kin_t5_config *config,
                         const kin_precision *precision, kin_tensor ids, kin_tensor lengths,
                         bool name_hidden) {
    kin_graph *g = graph;
    kin_scope_push(g, "shared");
    int64_t dims[] = {config->vocab_size, config->d_model};
    kin_tensor table =
        kin_variable(g, "weight", KIN_VARIABLE_WEIGHT, kin_layer_dtype(precision, 2, dims), 2, dims,
                     (kin_init){KIN_INIT_NORMAL, config->initializer_factor});
    /* The rows are cast, not the table. */
    kin_tensor x = kin_cast(g, kin_embedding(g, table, ids), precision->compute);
    kin_scope_pop(g);
    kin_tensor bias = position_bias(g, config, precision, kin_dim(g, ids, 1));
    for (int i = 0; i < config->num_layers; i++) {
        kin_scope_push(g, "encoder.block.%d", i);
        kin_segment_begin(g);
        x = self_attention(g, config, precision, x, lengths, bias);
        x = feed_forward(g, config, precision, x);
        kin_segment_end(g);
        kin_scope_pop(g);
        kin_layer_tap(g, name_hidden, "hidden", i, x);
    }
    kin_scope_push(g, "encoder");
    x = norm(g, config, precision, "final_layer_norm", x);
    kin_scope_pop(g);
    return kin_cast(g, x, KIN_F32);
}
