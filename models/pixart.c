#include "models/pixart.h"

#include "models/pixart_parts.h"
#include "models/positions.h"
#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/modulate.h"
#include "ops/norm.h"
#include "ops/split.h"
#include "ops/views.h"

static const double final_eps = 1e-6, masked_score = -10000;

int64_t kin_pixart_width(const kin_pixart_config *config) {
    return (int64_t)config->num_attention_heads * config->attention_head_dim;
}

/* NAME.linear_1 and .linear_2 of f32 [n]: [n, width]. */
static kin_tensor embed_number(const pixart_call *call, const char *name, kin_tensor numbers,
                               int64_t width) {
    kin_scope_push(call->graph, "%s", name);
    kin_tensor e = kin_block_embed_number(call->graph, call->precision, "linear_1", "linear_2",
                                          numbers, width, KIN_START_NORMAL_02);
    kin_scope_pop(call->graph);
    return e;
}

/* [B, C]: height, width and aspect ratio, a third of the channels each. */
static kin_tensor embed_sizes(const pixart_call *call, const kin_pixart_inputs *in) {
    kin_graph *g = call->graph;
    int64_t batch = call->grid.batch, third = kin_pixart_width(call->config) / 3, both = 2 * batch;
    kin_tensor resolution = kin_reshape(g, in->resolution, 1, &both);
    kin_tensor ratio = kin_reshape(g, in->aspect_ratio, 1, &batch);
    kin_tensor parts[2];
    parts[0] = embed_number(call, "resolution_embedder", resolution, third);
    parts[0] = kin_reshape(g, parts[0], 2, (int64_t[]){batch, 2 * third});
    parts[1] = embed_number(call, "aspect_ratio_embedder", ratio, third);
    return kin_concat(g, parts, 2, 1);
}

/* The embedding of the timestep, and the six rows that are the same for all blocks. */
static void embed_condition(pixart_call *call, const kin_pixart_inputs *in) {
    kin_graph *g = call->graph;
    int64_t width = kin_pixart_width(call->config);
    kin_scope_push(g, "adaln_single");
    kin_scope_push(g, "emb");
    call->e = embed_number(call, "timestep_embedder", in->timestep, width);
    if (call->config->use_additional_conditions)
        call->e = kin_add(g, call->e, embed_sizes(call, in));
    kin_scope_pop(g);
    kin_tensor rows = kin_layer_linear(g, call->precision, "linear", kin_silu(g, call->e),
                                       6 * width, KIN_START_NORMAL_02);
    call->rows = kin_reshape(g, rows, 3, (int64_t[]){call->grid.batch, 6, width});
    kin_scope_pop(g);
}

static kin_block_text embed_text(const pixart_call *call, kin_tensor text,
                                 const kin_pixart_inputs *in) {
    kin_graph *g = call->graph;
    int64_t width = kin_pixart_width(call->config);
    int64_t dims[] = {kin_dim(g, text, 0), kin_dim(g, text, 1), kin_dim(g, text, 2)};
    kin_scope_push(g, "caption_projection");
    kin_block_text result = {.states =
                                 kin_block_mlp(g, call->precision, "linear_1", "linear_2",
                                               kin_cast(g, text, call->precision->compute), width,
                                               width, KIN_START_NORMAL_02, KIN_START_NORMAL_02)};
    kin_scope_pop(g);
    if (in->text_lengths.id) result.lengths = kin_reshape(g, in->text_lengths, 2, dims);
    if (in->text_mask.id)
        result.bias =
            kin_scale(g, kin_reshape(g, in->text_mask, 3, dims), -masked_score, masked_score);
    return result;
}

/* False, with an error in the graph, if something does not fit the configuration. */
static bool fits(const pixart_call *call, const char *model, kin_tensor x, kin_tensor text,
                 const kin_pixart_inputs *in) {
    kin_graph *g = call->graph;
    const kin_pixart_config *c = call->config;
    if (kin_graph_status(g) != KIN_OK) return false;
    if (kin_rank(g, x) != 5 || kin_dim(g, x, 1) != c->in_channels || kin_rank(g, text) != 4 ||
        kin_dim(g, text, 3) != c->caption_channels || kin_dim(g, text, 0) != kin_dim(g, x, 0)) {
        char x_text[96], y_text[96];
        kin_graph_fail(g, KIN_INVALID,
                       "%s: latents %s must have %d channels, and text %s as many samples and "
                       "features of %d numbers",
                       model, kin_desc_shape_text(kin_tensor_desc(g, x), x_text, sizeof x_text),
                       c->in_channels,
                       kin_desc_shape_text(kin_tensor_desc(g, text), y_text, sizeof y_text),
                       c->caption_channels);
        return false;
    }
    if (c->use_additional_conditions && !(in->resolution.id && in->aspect_ratio.id)) {
        kin_graph_fail(g, KIN_INVALID, "%s: this model wants the resolution and the aspect ratio",
                       model);
        return false;
    }
    return true;
}

kin_tensor kin_pixart_begin(pixart_call *call, const char *model, kin_tensor x, kin_tensor text,
                            const kin_pixart_inputs *inputs) {
    kin_graph *g = call->graph;
    const kin_pixart_config *c = call->config;
    if (!fits(call, model, x, text, inputs)) return KIN_NONE;
    int64_t width = kin_pixart_width(c);
    call->grid = kin_patch_grid_of(g, x, (int[]){1, c->patch_size, c->patch_size});
    const int64_t *count = call->grid.count;
    /* Whatever its grid, a picture spans the positions of the one that the model was made for. */
    double base = (double)(c->sample_size / c->patch_size) / c->interpolation_scale;
    x = kin_cast(g, x, call->precision->compute);
    x = kin_block_embed_patches(g, call->precision, "pos_embed.proj", x, &call->grid, width, 4);
    x = kin_add(g, x,
                kin_positions_grid(g, call->precision, width, count[1], count[2],
                                   base / (double)count[1], base / (double)count[2]));
    embed_condition(call, inputs);
    call->text = embed_text(call, text, inputs);
    return x;
}

/* A block of either kind within its scope; text: with cross-attention. */
static kin_tensor block(const pixart_call *call, kin_tensor x, bool over_time) {
    kin_graph *g = call->graph;
    const kin_precision *p = call->precision;
    int heads = call->config->num_attention_heads;
    int64_t grid[] = {kin_dim(g, x, 0), kin_dim(g, x, 1), kin_dim(g, x, 2), kin_dim(g, x, 3)};
    int64_t flat[] = {grid[0], grid[1] * grid[2], grid[3]};
    double eps = call->config->norm_eps;
    kin_tensor half[2], attn[3], ff[3]; /* shift, scale and gate of either */
    kin_split(g, kin_block_scale_shift(g, p, "scale_shift_table", 6, call->rows), 1, 2, half);
    kin_split(g, half[0], 1, 3, attn);
    kin_split(g, half[1], 1, 3, ff);

    x = kin_reshape(g, x, 3, flat);
    kin_layer_start out_start = over_time ? KIN_START_ZERO : KIN_START_XAVIER;
    kin_self_attention_block options = {
        .heads = heads, .over_time = over_time, .separate = true, .out_start = out_start};
    kin_tensor u = kin_layer_norm_modulate(g, x, attn[0], attn[1], eps);
    u = kin_block_self_attention(g, p, "attn1", kin_reshape(g, u, 4, grid), &options);
    x = kin_gated_add(g, x, attn[2], kin_reshape(g, u, 3, flat));
    if (!over_time) {
        u = kin_block_cross_attention(g, p, "attn2", kin_reshape(g, x, 4, grid), &call->text, heads,
                                      true);
        x = kin_add(g, x, kin_reshape(g, u, 3, flat));
    }
    u = kin_layer_norm_modulate(g, x, ff[0], ff[1], eps);
    kin_scope_push(g, "ff");
    u = kin_block_mlp(g, p, "net.0.proj", "net.2", u, 4 * grid[3], grid[3], KIN_START_XAVIER,
                      out_start);
    kin_scope_pop(g);
    return kin_reshape(g, kin_gated_add(g, x, ff[2], u), 4, grid);
}

kin_tensor kin_pixart_space_block(const pixart_call *call, int index, kin_tensor x) {
    kin_scope_push(call->graph, "transformer_blocks.%d", index);
    kin_segment_begin(call->graph);
    x = block(call, x, false);
    kin_segment_end(call->graph);
    kin_scope_pop(call->graph);
    return x;
}

kin_tensor kin_pixart_time_block(const pixart_call *call, int index, kin_tensor x) {
    kin_scope_push(call->graph, "temporal_transformer_blocks.%d", index);
    kin_segment_begin(call->graph);
    x = block(call, x, true);
    kin_segment_end(call->graph);
    kin_scope_pop(call->graph);
    return x;
}

kin_tensor kin_pixart_end(const pixart_call *call, kin_tensor x) {
    kin_graph *g = call->graph;
    const kin_patch_grid *grid = &call->grid;
    int64_t width = kin_pixart_width(call->config), out = call->config->out_channels;
    kin_tensor row[2];
    kin_tensor e = kin_reshape(g, call->e, 3, (int64_t[]){grid->batch, 1, width});
    kin_split(g, kin_block_scale_shift(g, call->precision, "scale_shift_table", 2, e), 1, 2, row);
    x = kin_reshape(g, x, 3, (int64_t[]){grid->batch, grid->count[0] * grid->sites, width});
    x = kin_layer_norm_modulate(g, x, row[0], row[1], final_eps);
    x = kin_layer_linear(g, call->precision, "proj_out", x, out * grid->patch[1] * grid->patch[2],
                         KIN_START_ZERO);
    return kin_block_unpatchify(g, x, grid, out);
}

/* [B, a, b, ..] -> [B, 1, a, b, ..]; KIN_NONE stays. */
static kin_tensor with_axis(kin_graph *g, kin_tensor x, int axis) {
    if (!x.id) return x;
    int rank = kin_rank(g, x);
    int64_t dims[KIN_MAX_RANK + 1];
    for (int i = 0; i < rank; i++) dims[i + (i >= axis)] = kin_dim(g, x, i);
    dims[axis] = 1;
    return kin_reshape(g, x, rank + 1, dims);
}

kin_tensor kin_pixart(kin_graph *graph, const kin_pixart_config *config,
                      const kin_precision *precision, const kin_pixart_inputs *inputs) {
    kin_graph *g = graph;
    if (kin_rank(g, inputs->x) != 4 || kin_rank(g, inputs->text) != 3)
        return kin_graph_fail(g, KIN_INVALID,
                              "PixArt: latents must be [B, C, Y, X] and text [B, L, C]");
    pixart_call call = {.graph = g, .config = config, .precision = precision};
    kin_tensor x = kin_pixart_begin(&call, "PixArt", with_axis(g, inputs->x, 2),
                                    with_axis(g, inputs->text, 1), inputs);
    if (!x.id) return KIN_NONE;
    int64_t tokens[] = {call.grid.batch, call.grid.sites, kin_pixart_width(config)};
    for (int i = 0; i < config->num_layers; i++) {
        x = kin_pixart_space_block(&call, i, x);
        kin_layer_tap(g, inputs->name_hidden, "hidden", i, kin_reshape(g, x, 3, tokens));
    }
    x = kin_pixart_end(&call, x);
    int64_t dims[] = {call.grid.batch, config->out_channels, call.grid.size[1], call.grid.size[2]};
    return kin_reshape(g, x, 4, dims);
}
