#include "models/stdit_parts.h"

#include <math.h>
#include <string.h>

#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/split.h"
#include "ops/views.h"

bool kin_stdit_inputs_fit(kin_graph *graph, const char *model, const kin_stdit_config *config,
                          kin_tensor x, kin_tensor y) {
    if (kin_rank(graph, x) == 5 && kin_dim(graph, x, 1) == config->in_channels &&
        kin_rank(graph, y) == 3 && kin_dim(graph, y, 2) == config->caption_channels)
        return kin_graph_status(graph) == KIN_OK;
    char x_text[96], y_text[96];
    kin_graph_fail(graph, KIN_INVALID, "%s: x %s must be [B, %d, T, Y, X] and y %s [B, L, %d]",
                   model, kin_desc_shape_text(kin_tensor_desc(graph, x), x_text, sizeof x_text),
                   config->in_channels,
                   kin_desc_shape_text(kin_tensor_desc(graph, y), y_text, sizeof y_text),
                   config->caption_channels);
    return false;
}

kin_tensor kin_stdit_embed_timestep(kin_graph *graph, const kin_stdit_config *config,
                                    const kin_precision *precision, kin_tensor timestep) {
    kin_scope_push(graph, "t_embedder.mlp");
    kin_tensor t = kin_block_embed_number(graph, precision, "0", "2", timestep, config->hidden_size,
                                          KIN_START_NORMAL_02);
    kin_scope_pop(graph);
    return t;
}

kin_tensor kin_stdit_time_rows(kin_graph *graph, const kin_precision *precision, const char *name,
                               kin_tensor t, int count) {
    int64_t width = kin_dim(graph, t, -1);
    kin_scope_push(graph, "%s", name);
    t = kin_layer_linear(graph, precision, "1", kin_silu(graph, t), count * width,
                         KIN_START_NORMAL_02);
    kin_scope_pop(graph);
    return t;
}

/* The first `length` rows of the null caption: [1, length, caption_channels]. */
static kin_tensor null_caption(kin_graph *g, const kin_stdit_config *c, const kin_precision *p,
                               int64_t length) {
    int64_t dims[] = {c->model_max_length, c->caption_channels};
    kin_init start = {KIN_INIT_NORMAL, 1.0 / sqrt(c->caption_channels)};
    kin_scope_push(g, "y_embedder");
    kin_tensor y = kin_variable(g, "y_embedding",
                                c->train_y_embedding ? KIN_VARIABLE_WEIGHT : KIN_VARIABLE_BUFFER,
                                kin_layer_dtype(p, 2, dims), 2, dims, start);
    y = kin_cast(g, y, p->compute);
    if (length != dims[0]) y = kin_slice(g, y, 0, 0, length);
    y = kin_reshape(g, y, 3, (int64_t[]){1, length, dims[1]});
    kin_scope_pop(g);
    return y;
}

kin_tensor kin_stdit_embed_caption(kin_graph *graph, const kin_stdit_config *config,
                                   const kin_precision *precision, kin_tensor y, kin_tensor drop) {
    int64_t width = config->hidden_size;
    y = kin_cast(graph, y, precision->compute);
    if (drop.id) {
        kin_tensor where = kin_reshape(graph, drop, 3, (int64_t[]){kin_dim(graph, y, 0), 1, 1});
        y = kin_where(graph, where, null_caption(graph, config, precision, kin_dim(graph, y, 1)),
                      y);
    }
    kin_scope_push(graph, "y_embedder.y_proj");
    y = kin_block_mlp(graph, precision, "fc1", "fc2", y, width, width, KIN_START_NORMAL_02,
                      KIN_START_NORMAL_02);
    kin_scope_pop(graph);
    return y;
}

kin_block_text kin_stdit_text(kin_graph *graph, kin_tensor states, kin_tensor lengths) {
    int64_t batch = kin_dim(graph, states, 0);
    int64_t dims[] = {batch, 1, kin_dim(graph, states, 1), kin_dim(graph, states, 2)};
    kin_block_text text = {.states = kin_reshape(graph, states, 4, dims)};
    if (lengths.id) text.lengths = kin_reshape(graph, lengths, 2, dims);
    return text;
}

kin_tensor kin_stdit_feed_forward(kin_graph *graph, const kin_stdit_config *config,
                                  const kin_precision *precision, kin_tensor x) {
    int64_t width = config->hidden_size;
    int64_t inner = (int64_t)((double)width * config->mlp_ratio);
    kin_scope_push(graph, "mlp");
    x = kin_block_mlp(graph, precision, "fc1", "fc2", x, inner, width, KIN_START_XAVIER,
                      KIN_START_XAVIER);
    kin_scope_pop(graph);
    return x;
}

void kin_stdit_split_rows(kin_graph *graph, kin_tensor rows, kin_tensor attn[3],
                          kin_tensor mlp[3]) {
    kin_tensor half[2];
    kin_split(graph, rows, 1, 2, half);
    kin_split(graph, half[0], 1, 3, attn);
    kin_split(graph, half[1], 1, 3, mlp);
}

void kin_stdit_freeze_weights(kin_graph *graph, const kin_stdit_config *config) {
    if (config->freeze == KIN_STDIT_FREEZE_NONE) return;
    for (int i = 0; i < kin_variable_count(graph); i++) {
        kin_tensor variable = kin_variable_at(graph, i);
        const char *name = kin_variable_name(graph, variable);
        bool frozen = config->freeze == KIN_STDIT_FREEZE_TEXT ? strstr(name, "cross_attn") != NULL
                                                              : strstr(name, "attn_temp") == NULL;
        if (frozen && kin_variable_kind_of(graph, variable) == KIN_VARIABLE_WEIGHT)
            kin_freeze(graph, variable);
    }
}

void kin_stdit_guided_text(kin_graph *graph, const kin_stdit_config *config,
                           const kin_precision *precision, kin_tensor y, kin_tensor lengths,
                           kin_tensor *out_y, kin_tensor *out_lengths) {
    int64_t dims[] = {kin_dim(graph, y, 0), kin_dim(graph, y, 1), kin_dim(graph, y, 2)};
    kin_tensor null = null_caption(graph, config, precision, dims[1]);
    kin_tensor parts[] = {kin_cast(graph, y, precision->compute), kin_expand(graph, null, 3, dims)};
    *out_y = kin_concat(graph, parts, 2, 0);
    *out_lengths = lengths;
    if (lengths.id) *out_lengths = kin_concat(graph, (kin_tensor[]){lengths, lengths}, 2, 0);
}
