#include "models/stdit.h"

#include "models/positions.h"
#include "models/stdit_parts.h"
#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/modulate.h"
#include "ops/norm.h"
#include "ops/split.h"
#include "ops/views.h"

static const double norm_eps = 1e-6;

/* One call: its grid of tokens, and what every block looks at. */
typedef struct stdit_call {
    kin_graph *graph;
    const kin_stdit_config *config;
    const kin_precision *precision;
    kin_patch_grid grid;
    kin_block_text text;
} stdit_call;

kin_tensor kin_stdit_self_attention(kin_graph *graph, const kin_precision *precision,
                                    const char *prefix, kin_tensor x, int heads, bool over_time,
                                    bool start_zero) {
    kin_self_attention_block options = {.heads = heads,
                                        .over_time = over_time,
                                        .out_start =
                                            start_zero ? KIN_START_ZERO : KIN_START_XAVIER};
    return kin_block_self_attention(graph, precision, prefix, x, &options);
}

kin_tensor kin_stdit_cross_attention(kin_graph *graph, const kin_precision *precision,
                                     const char *prefix, kin_tensor x, kin_tensor text,
                                     kin_tensor lengths, int heads) {
    int64_t dims[] = {kin_dim(graph, x, 0), kin_dim(graph, x, 1), kin_dim(graph, x, 2)};
    kin_block_text captions = kin_stdit_text(graph, text, lengths);
    x = kin_reshape(graph, x, 4, (int64_t[]){dims[0], 1, dims[1], dims[2]});
    x = kin_block_cross_attention(graph, precision, prefix, x, &captions, heads, false);
    return kin_reshape(graph, x, 3, dims);
}

/* x [B, N, C]; t6 [B, 6, C]; position [1, T, 1, C] or KIN_NONE. */
static kin_tensor block(const stdit_call *call, kin_tensor x, kin_tensor t6, kin_tensor position) {
    kin_graph *g = call->graph;
    const kin_precision *p = call->precision;
    int heads = call->config->num_heads;
    int64_t width = call->config->hidden_size, frames = call->grid.count[0];
    int64_t flat[] = {call->grid.batch, frames * call->grid.sites, width};
    int64_t grid[] = {call->grid.batch, frames, call->grid.sites, width};

    kin_tensor attn[3], mlp[3]; /* shift, scale and gate of either */
    kin_stdit_split_rows(g, kin_block_scale_shift(g, p, "scale_shift_table", 6, t6), attn, mlp);

    kin_tensor u = kin_layer_norm_modulate(g, x, attn[0], attn[1], norm_eps);
    u = kin_stdit_self_attention(g, p, "attn", kin_reshape(g, u, 4, grid), heads, false, false);
    x = kin_gated_add(g, x, attn[2], kin_reshape(g, u, 3, flat));

    /* Over time: neither norm nor modulation, and the gate of the spatial attention again. */
    u = kin_reshape(g, x, 4, grid);
    if (position.id) u = kin_add(g, u, position);
    u = kin_stdit_self_attention(g, p, "attn_temp", u, heads, true, true);
    x = kin_gated_add(g, x, attn[2], kin_reshape(g, u, 3, flat));

    u = kin_reshape(g, x, 4, grid);
    u = kin_block_cross_attention(g, p, "cross_attn", u, &call->text, heads, false);
    x = kin_add(g, x, kin_reshape(g, u, 3, flat));

    u = kin_layer_norm_modulate(g, x, mlp[0], mlp[1], norm_eps);
    return kin_gated_add(g, x, mlp[2], kin_stdit_feed_forward(g, call->config, p, u));
}

/* tokens [B, N, C] -> [B, out, T, Y, X], cropped to the sizes of the input. */
static kin_tensor final_layer(const stdit_call *call, kin_tensor x, kin_tensor t) {
    kin_graph *g = call->graph;
    const kin_patch_grid *grid = &call->grid;
    int64_t width = call->config->hidden_size, out = kin_stdit_out_channels(call->config);
    kin_scope_push(g, "final_layer");
    kin_tensor row[2];
    t = kin_reshape(g, t, 3, (int64_t[]){grid->batch, 1, width});
    kin_split(g, kin_block_scale_shift(g, call->precision, "scale_shift_table", 2, t), 1, 2, row);
    x = kin_layer_norm_modulate(g, x, row[0], row[1], norm_eps);
    x = kin_layer_linear(g, call->precision, "linear", x,
                         out * grid->patch[0] * grid->patch[1] * grid->patch[2], KIN_START_ZERO);
    kin_scope_pop(g);
    return kin_block_unpatchify(g, x, grid, out);
}

kin_tensor kin_stdit(kin_graph *graph, const kin_stdit_config *config,
                     const kin_precision *precision, const kin_stdit_inputs *inputs) {
    kin_graph *g = graph;
    if (!kin_stdit_inputs_fit(g, "STDiT", config, inputs->x, inputs->y)) return KIN_NONE;
    stdit_call call = {.graph = g,
                       .config = config,
                       .precision = precision,
                       .grid = kin_patch_grid_of(g, inputs->x, config->patch_size)};
    const kin_patch_grid *grid = &call.grid;
    int64_t width = config->hidden_size, frames = grid->count[0];
    bool taps = inputs->name_hidden;

    kin_tensor x = kin_cast(g, inputs->x, precision->compute);
    x = kin_block_embed_patches(g, precision, "x_embedder.proj", x, grid, width, 5);
    x = kin_add(g, x,
                kin_positions_grid(g, precision, width, grid->count[1], grid->count[2],
                                   1 / config->space_scale, 1 / config->space_scale));
    x = kin_reshape(g, x, 3, (int64_t[]){grid->batch, frames * grid->sites, width});
    kin_layer_tap(g, taps, "embed.tokens", -1, x);
    kin_tensor t = kin_stdit_embed_timestep(g, config, precision, inputs->timestep);
    kin_layer_tap(g, taps, "embed.t", -1, t);
    kin_tensor t6 = kin_stdit_time_rows(g, precision, "t_block", t, 6);
    kin_layer_tap(g, taps, "embed.t_mlp", -1, t6);
    t6 = kin_reshape(g, t6, 3, (int64_t[]){grid->batch, 6, width});
    kin_tensor y = kin_stdit_embed_caption(g, config, precision, inputs->y, inputs->drop);
    kin_layer_tap(g, taps, "embed.y", -1, y);
    call.text = kin_stdit_text(g, y, inputs->y_lengths);

    for (int i = 0; i < config->depth; i++) {
        kin_tensor position = KIN_NONE;
        if (i == 0)
            position = kin_positions_frames(g, precision, width, frames, 1 / config->time_scale);
        kin_scope_push(g, "blocks.%d", i);
        kin_segment_begin(g);
        x = block(&call, x, t6, position);
        kin_segment_end(g);
        kin_scope_pop(g);
        kin_layer_tap(g, taps, "hidden", i, x);
    }
    x = final_layer(&call, x, t);
    kin_stdit_freeze_weights(g, config);
    return x;
}
