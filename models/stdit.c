#include "models/stdit.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "ops/attention.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/layout.h"
#include "ops/matmul.h"
#include "ops/modulate.h"
#include "ops/norm.h"
#include "ops/pad.h"
#include "ops/split.h"
#include "ops/views.h"

static const double norm_eps = 1e-6;
enum { TIMESTEP_FEATURES = 256 };

/* Sizes of one call, in tokens. */
typedef struct stdit_call {
    kin_graph *graph;
    const kin_stdit_config *config;
    const kin_precision *precision;
    int64_t batch, frames, rows, columns; /* the grid of patches */
    int64_t sites;                        /* rows * columns: S */
    kin_tensor text, text_lengths;
} stdit_call;

static kin_tensor self_attention(kin_graph *g, const kin_precision *p, const char *prefix,
                                 kin_tensor x, kin_tensor position, int heads, bool over_time,
                                 bool start_zero) {
    int64_t batch = kin_dim(g, x, 0), frames = kin_dim(g, x, 1), sites = kin_dim(g, x, 2);
    int64_t width = kin_dim(g, x, 3), size = width / heads;
    kin_scope_push(g, "%s", prefix);
    if (position.id) x = kin_add(g, x, position);
    kin_tensor qkv = kin_layer_linear(g, p, "qkv", x, 3 * width, KIN_START_XAVIER);
    kin_tensor part[3];
    kin_split(g, qkv, -1, 3, part);
    for (int i = 0; i < 3; i++) {
        part[i] = kin_reshape(g, part[i], 5, (int64_t[]){batch, frames, sites, heads, size});
        /* The other axis of the grid becomes a batch axis: strides, no copies. */
        if (over_time) part[i] = kin_permute(g, part[i], (int[]){0, 2, 1, 3, 4});
    }
    kin_tensor y =
        kin_attention(g, part[0], part[1], part[2], KIN_NONE, KIN_NONE, 1.0 / sqrt((double)size));
    if (over_time) y = kin_permute(g, y, (int[]){0, 2, 1, 3, 4});
    y = kin_reshape(g, y, 4, (int64_t[]){batch, frames, sites, width});
    y = kin_layer_linear(g, p, "proj", y, width, start_zero ? KIN_START_ZERO : KIN_START_XAVIER);
    kin_scope_pop(g);
    return y;
}

kin_tensor kin_stdit_self_attention(kin_graph *graph, const kin_precision *precision,
                                    const char *prefix, kin_tensor x, int heads, bool over_time,
                                    bool start_zero) {
    return self_attention(graph, precision, prefix, x, KIN_NONE, heads, over_time, start_zero);
}

kin_tensor kin_stdit_cross_attention(kin_graph *graph, const kin_precision *precision,
                                     const char *prefix, kin_tensor x, kin_tensor text,
                                     kin_tensor lengths, int heads) {
    kin_graph *g = graph;
    int64_t batch = kin_dim(g, x, 0), tokens = kin_dim(g, x, 1), words = kin_dim(g, text, 1);
    int64_t width = kin_dim(g, x, 2), size = width / heads;
    kin_scope_push(g, "%s", prefix);
    kin_tensor q = kin_layer_linear(g, precision, "q_linear", x, width, KIN_START_XAVIER);
    kin_tensor kv = kin_layer_linear(g, precision, "kv_linear", text, 2 * width, KIN_START_XAVIER);
    q = kin_reshape(g, q, 4, (int64_t[]){batch, tokens, heads, size});
    kin_tensor part[2];
    kin_split(g, kv, -1, 2, part);
    for (int i = 0; i < 2; i++)
        part[i] = kin_reshape(g, part[i], 4, (int64_t[]){batch, words, heads, size});
    kin_tensor y =
        kin_attention(g, q, part[0], part[1], lengths, KIN_NONE, 1.0 / sqrt((double)size));
    y = kin_reshape(g, y, 3, (int64_t[]){batch, tokens, width});
    y = kin_layer_linear(g, precision, "proj", y, width, KIN_START_ZERO);
    kin_scope_pop(g);
    return y;
}

/* Writes [sin(position w_k)], [cos(position w_k)], w_k = 10000^(-k / count), k < count. */
static void sinusoid(float *out, double position, int64_t count) {
    for (int64_t k = 0; k < count; k++) {
        double angle = position * pow(10000.0, -(double)k / (double)count);
        out[k] = (float)sin(angle);
        out[count + k] = (float)cos(angle);
    }
}

/* [1, 1, S, C]: the column's sines and cosines, then the row's. */
static kin_tensor spatial_positions(const stdit_call *call) {
    kin_context *context = kin_graph_context(call->graph);
    int64_t width = call->config->hidden_size;
    float *table = kin_alloc(context, (size_t)(call->sites * width) * sizeof *table);
    if (!table)
        return kin_graph_fail(call->graph, KIN_OUT_OF_MEMORY, "no host memory for positions");
    for (int64_t row = 0; row < call->rows; row++)
        for (int64_t column = 0; column < call->columns; column++) {
            float *entry = table + (row * call->columns + column) * width;
            sinusoid(entry, (double)column / call->config->space_scale, width / 4);
            sinusoid(entry + width / 2, (double)row / call->config->space_scale, width / 4);
        }
    kin_tensor result = kin_layer_table(call->graph, call->precision, 4,
                                        (int64_t[]){1, 1, call->sites, width}, table);
    kin_free(context, table);
    return result;
}

/* [1, T, 1, C] */
static kin_tensor temporal_positions(const stdit_call *call) {
    kin_context *context = kin_graph_context(call->graph);
    int64_t width = call->config->hidden_size;
    float *table = kin_alloc(context, (size_t)(call->frames * width) * sizeof *table);
    if (!table)
        return kin_graph_fail(call->graph, KIN_OUT_OF_MEMORY, "no host memory for positions");
    for (int64_t t = 0; t < call->frames; t++)
        sinusoid(table + t * width, (double)t / call->config->time_scale, width / 2);
    kin_tensor result = kin_layer_table(call->graph, call->precision, 4,
                                        (int64_t[]){1, call->frames, 1, width}, table);
    kin_free(context, table);
    return result;
}

/* x padded at the ends to whole patches -> tokens [B, T, S, C] with the spatial positions. */
static kin_tensor embed_patches(const stdit_call *call, kin_tensor x) {
    kin_graph *g = call->graph;
    const kin_stdit_config *c = call->config;
    const int *patch = c->patch_size;
    int64_t grid[] = {call->frames, call->rows, call->columns};
    int64_t before[5] = {0}, after[5] = {0};
    bool pad = false;
    for (int i = 0; i < 3; i++) {
        after[2 + i] = grid[i] * patch[i] - kin_dim(g, x, 2 + i);
        pad = pad || after[2 + i] > 0;
    }
    if (pad) x = kin_pad(g, x, before, after);
    x = kin_patchify(g, x, patch[0], patch[1], patch[2]);

    int64_t width = c->hidden_size;
    int64_t fan_in = (int64_t)c->in_channels * patch[0] * patch[1] * patch[2];
    int64_t kernel[] = {width, c->in_channels, patch[0], patch[1], patch[2]};
    kin_scope_push(g, "x_embedder.proj");
    kin_init start = {KIN_INIT_UNIFORM, sqrt(6.0 / (double)(fan_in + width))};
    kin_tensor weight = kin_layer_weight(g, call->precision, "weight", 5, kernel, start);
    start.scale = 1.0 / sqrt((double)fan_in);
    kin_tensor bias = kin_layer_weight(g, call->precision, "bias", 1, &width, start);
    x = kin_linear(g, x, kin_reshape(g, weight, 2, (int64_t[]){width, fan_in}), bias);
    kin_scope_pop(g);
    x = kin_reshape(g, x, 4, (int64_t[]){call->batch, call->frames, call->sites, width});
    return kin_add(g, x, spatial_positions(call));
}

static kin_tensor embed_timestep(const stdit_call *call, kin_tensor timestep) {
    kin_graph *g = call->graph;
    int64_t width = call->config->hidden_size;
    kin_tensor t = kin_timestep_embedding(g, timestep, TIMESTEP_FEATURES, 10000);
    t = kin_cast(g, t, call->precision->compute);
    kin_scope_push(g, "t_embedder.mlp");
    t = kin_layer_linear(g, call->precision, "0", t, width, KIN_START_NORMAL_02);
    t = kin_layer_linear(g, call->precision, "2", kin_silu(g, t), width, KIN_START_NORMAL_02);
    kin_scope_pop(g);
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
                                p->weights, 2, dims, start);
    y = kin_cast(g, y, p->compute);
    if (length != dims[0]) y = kin_slice(g, y, 0, 0, length);
    y = kin_reshape(g, y, 3, (int64_t[]){1, length, dims[1]});
    kin_scope_pop(g);
    return y;
}

static kin_tensor embed_caption(const stdit_call *call, kin_tensor y, kin_tensor drop) {
    kin_graph *g = call->graph;
    int64_t width = call->config->hidden_size;
    y = kin_cast(g, y, call->precision->compute);
    if (drop.id) {
        kin_tensor where = kin_reshape(g, drop, 3, (int64_t[]){call->batch, 1, 1});
        kin_tensor null = null_caption(g, call->config, call->precision, kin_dim(g, y, 1));
        y = kin_where(g, where, null, y);
    }
    kin_scope_push(g, "y_embedder.y_proj");
    y = kin_layer_linear(g, call->precision, "fc1", y, width, KIN_START_NORMAL_02);
    y = kin_layer_linear(g, call->precision, "fc2", kin_gelu_tanh(g, y), width,
                         KIN_START_NORMAL_02);
    kin_scope_pop(g);
    return y;
}

/* rows [count, C] of a table plus the timestep's part [B, count, C] (or [B, 1, C]). */
static kin_tensor scale_shift(const stdit_call *call, int count, kin_tensor t) {
    kin_graph *g = call->graph;
    int64_t width = call->config->hidden_size;
    kin_tensor table =
        kin_layer_weight(g, call->precision, "scale_shift_table", 2, (int64_t[]){count, width},
                         (kin_init){KIN_INIT_NORMAL, 1.0 / sqrt((double)width)});
    return kin_add(g, kin_reshape(g, table, 3, (int64_t[]){1, count, width}), t);
}

/* x [B, N, C]; t6 [B, 6, C]; position [1, T, 1, C] or KIN_NONE. */
static kin_tensor block(const stdit_call *call, kin_tensor x, kin_tensor t6, kin_tensor position) {
    kin_graph *g = call->graph;
    const kin_precision *p = call->precision;
    int heads = call->config->num_heads;
    int64_t width = call->config->hidden_size, tokens = call->frames * call->sites;
    int64_t flat[] = {call->batch, tokens, width};
    int64_t grid[] = {call->batch, call->frames, call->sites, width};

    kin_tensor half[2], attn[3], mlp[3]; /* shift, scale and gate of either, [B, 1, C] each */
    kin_split(g, scale_shift(call, 6, t6), 1, 2, half);
    kin_split(g, half[0], 1, 3, attn);
    kin_split(g, half[1], 1, 3, mlp);

    kin_tensor u = kin_layer_norm_modulate(g, x, attn[0], attn[1], norm_eps);
    u = self_attention(g, p, "attn", kin_reshape(g, u, 4, grid), KIN_NONE, heads, false, false);
    x = kin_gated_add(g, x, attn[2], kin_reshape(g, u, 3, flat));

    /* Over time: neither norm nor modulation, and the gate of the spatial attention again. */
    u = self_attention(g, p, "attn_temp", kin_reshape(g, x, 4, grid), position, heads, true, true);
    x = kin_gated_add(g, x, attn[2], kin_reshape(g, u, 3, flat));

    u = kin_stdit_cross_attention(g, p, "cross_attn", x, call->text, call->text_lengths, heads);
    x = kin_add(g, x, u);

    u = kin_layer_norm_modulate(g, x, mlp[0], mlp[1], norm_eps);
    kin_scope_push(g, "mlp");
    int64_t inner = (int64_t)((double)width * call->config->mlp_ratio);
    u = kin_layer_linear(g, p, "fc1", u, inner, KIN_START_XAVIER);
    u = kin_layer_linear(g, p, "fc2", kin_gelu_tanh(g, u), width, KIN_START_XAVIER);
    kin_scope_pop(g);
    return kin_gated_add(g, x, mlp[2], u);
}

/* tokens [B, N, C] -> [B, out, T, Y, X], cropped to the sizes of the input. */
static kin_tensor final_layer(const stdit_call *call, kin_tensor x, kin_tensor t,
                              const int64_t *sizes) {
    kin_graph *g = call->graph;
    const int *patch = call->config->patch_size;
    int64_t width = call->config->hidden_size, out = kin_stdit_out_channels(call->config);
    kin_scope_push(g, "final_layer");
    kin_tensor row[2];
    t = kin_reshape(g, t, 3, (int64_t[]){call->batch, 1, width});
    kin_split(g, scale_shift(call, 2, t), 1, 2, row);
    x = kin_layer_norm_modulate(g, x, row[0], row[1], norm_eps);
    x = kin_layer_linear(g, call->precision, "linear", x, out * patch[0] * patch[1] * patch[2],
                         KIN_START_ZERO);
    kin_scope_pop(g);
    int64_t grid[] = {call->frames, call->rows, call->columns};
    x = kin_unpatchify(g, x, out, grid[0] * patch[0], grid[1] * patch[1], grid[2] * patch[2],
                       patch[0], patch[1], patch[2]);
    for (int i = 0; i < 3; i++)
        if (grid[i] * patch[i] != sizes[i]) x = kin_slice(g, x, 2 + i, 0, sizes[i]);
    return kin_cast(g, x, KIN_F32);
}

/* Keeps the weights that the configuration does not train from being trained. */
static void freeze(kin_graph *g, const kin_stdit_config *c) {
    if (c->freeze == KIN_STDIT_FREEZE_NONE) return;
    for (int i = 0; i < kin_variable_count(g); i++) {
        kin_tensor variable = kin_variable_at(g, i);
        const char *name = kin_variable_name(g, variable);
        bool frozen = c->freeze == KIN_STDIT_FREEZE_TEXT ? strstr(name, "cross_attn") != NULL
                                                         : strstr(name, "attn_temp") == NULL;
        if (frozen && kin_variable_kind_of(g, variable) == KIN_VARIABLE_WEIGHT)
            kin_freeze(g, variable);
    }
}

kin_tensor kin_stdit(kin_graph *graph, const kin_stdit_config *config,
                     const kin_precision *precision, const kin_stdit_inputs *inputs) {
    kin_graph *g = graph;
    const int *patch = config->patch_size;
    if (kin_rank(g, inputs->x) != 5 || kin_dim(g, inputs->x, 1) != config->in_channels ||
        kin_rank(g, inputs->y) != 3 || kin_dim(g, inputs->y, 2) != config->caption_channels) {
        char x[96], y[96];
        return kin_graph_fail(
            g, KIN_INVALID, "STDiT: x %s must be [B, %d, T, Y, X] and y %s [B, L, %d]",
            kin_desc_shape_text(kin_tensor_desc(g, inputs->x), x, sizeof x), config->in_channels,
            kin_desc_shape_text(kin_tensor_desc(g, inputs->y), y, sizeof y),
            config->caption_channels);
    }
    int64_t sizes[3], grid[3];
    for (int i = 0; i < 3; i++) {
        sizes[i] = kin_dim(g, inputs->x, 2 + i);
        grid[i] = (sizes[i] + patch[i] - 1) / patch[i];
    }
    stdit_call call = {.graph = g,
                       .config = config,
                       .precision = precision,
                       .batch = kin_dim(g, inputs->x, 0),
                       .frames = grid[0],
                       .rows = grid[1],
                       .columns = grid[2],
                       .sites = grid[1] * grid[2],
                       .text_lengths = inputs->y_lengths};
    int64_t width = config->hidden_size;
    bool taps = inputs->name_hidden;

    kin_tensor x = embed_patches(&call, kin_cast(g, inputs->x, precision->compute));
    x = kin_reshape(g, x, 3, (int64_t[]){call.batch, call.frames * call.sites, width});
    kin_layer_tap(g, taps, "embed.tokens", -1, x);
    kin_tensor t = embed_timestep(&call, inputs->timestep);
    kin_layer_tap(g, taps, "embed.t", -1, t);
    kin_scope_push(g, "t_block");
    kin_tensor t6 =
        kin_layer_linear(g, precision, "1", kin_silu(g, t), 6 * width, KIN_START_NORMAL_02);
    kin_scope_pop(g);
    kin_layer_tap(g, taps, "embed.t_mlp", -1, t6);
    t6 = kin_reshape(g, t6, 3, (int64_t[]){call.batch, 6, width});
    call.text = embed_caption(&call, inputs->y, inputs->drop);
    kin_layer_tap(g, taps, "embed.y", -1, call.text);

    for (int i = 0; i < config->depth; i++) {
        kin_tensor position = i == 0 ? temporal_positions(&call) : KIN_NONE;
        kin_scope_push(g, "blocks.%d", i);
        kin_segment_begin(g);
        x = block(&call, x, t6, position);
        kin_segment_end(g);
        kin_scope_pop(g);
        kin_layer_tap(g, taps, "hidden", i, x);
    }
    x = final_layer(&call, x, t, sizes);
    freeze(g, config);
    return x;
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
