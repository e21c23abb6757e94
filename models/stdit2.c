#include "models/stdit2.h"

#include <math.h>

#include "models/positions.h"
#include "models/stdit_parts.h"
#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/modulate.h"
#include "ops/norm.h"
#include "ops/split.h"
#include "ops/views.h"

static const double norm_eps = 1e-6;

/* One call. `rows` is how many sets of modulation there are: one a sample, or, where frames are
 * masked, one a frame. Between the attentions tokens are [rows, tokens, C]. */
typedef struct stdit2_call {
    kin_graph *graph;
    const kin_stdit2_config *config;
    const kin_precision *precision;
    const kin_stdit2_inputs *inputs;
    kin_patch_grid grid;
    kin_block_text text;
    kin_tensor frame_mask; /* [B, T, 1]; or KIN_NONE */
    int64_t rows, tokens;
} stdit2_call;

/* x [n, ..] repeated as a whole to [B, ..]. */
static kin_tensor repeat_rows(const stdit2_call *call, kin_tensor x) {
    kin_graph *g = call->graph;
    const kin_desc *desc = kin_tensor_desc(g, x);
    int64_t found = desc->dims[0], batch = call->grid.batch, dims[KIN_MAX_RANK + 1];
    int rank = desc->rank;
    if (found == batch) return x;
    if (found < 1 || batch % found != 0)
        return kin_graph_fail(g, KIN_INVALID, "STDiT2: %lld samples cannot share %lld rows",
                              (long long)batch, (long long)found);
    dims[0] = batch / found;
    for (int i = 0; i < rank; i++) dims[i + 1] = desc->dims[i];
    x = kin_expand(g, x, rank + 1, dims);
    dims[1] = batch;
    return kin_reshape(g, x, rank, dims + 1);
}

/* PREFIX.mlp.0 and .2 of f32 [B]: [B, width]. */
static kin_tensor embed_size(const stdit2_call *call, const char *prefix, kin_tensor numbers,
                             int64_t width) {
    kin_scope_push(call->graph, "%s.mlp", prefix);
    kin_tensor e = kin_block_embed_number(call->graph, call->precision, "0", "2",
                                          repeat_rows(call, numbers), width, KIN_START_XAVIER);
    kin_scope_pop(call->graph);
    return e;
}

/* [B, C]: height, width and aspect ratio, a third of the channels each. */
static kin_tensor embed_picture(const stdit2_call *call) {
    const kin_stdit2_inputs *in = call->inputs;
    int64_t third = call->config->common.hidden_size / 3;
    kin_tensor parts[] = {embed_size(call, "csize_embedder", in->height, third),
                          embed_size(call, "csize_embedder", in->width, third),
                          embed_size(call, "ar_embedder", in->ar, third)};
    return kin_concat(call->graph, parts, 3, 1);
}

/* [B, C]: the number of frames and their rate. */
static kin_tensor embed_clip(const stdit2_call *call) {
    int64_t width = call->config->common.hidden_size;
    return kin_add(call->graph, embed_size(call, "fl_embedder", call->inputs->num_frames, width),
                   embed_size(call, "fps_embedder", call->inputs->fps, width));
}

/* a [B, n] for frames to be denoised, b [B, n] for given ones: [rows, n / C, C]. */
static kin_tensor select_rows(const stdit2_call *call, kin_tensor a, kin_tensor b) {
    kin_graph *g = call->graph;
    int64_t batch = call->grid.batch, entries = kin_dim(g, a, 1);
    int64_t width = call->config->common.hidden_size;
    if (call->frame_mask.id) {
        int64_t each[] = {batch, 1, entries};
        a = kin_where(g, call->frame_mask, kin_reshape(g, a, 3, each), kin_reshape(g, b, 3, each));
    }
    return kin_reshape(g, a, 3, (int64_t[]){call->rows, entries / width, width});
}

/* One self-attention with its modulation: x [rows, tokens, C]; row: shift, scale, gate. */
static kin_tensor attend(const stdit2_call *call, const char *name, kin_tensor x,
                         const kin_tensor row[3], bool over_time) {
    kin_graph *g = call->graph;
    const kin_patch_grid *grid = &call->grid;
    int64_t width = call->config->common.hidden_size;
    kin_self_attention_block options = {.heads = call->config->common.num_heads,
                                        .over_time = over_time,
                                        .rotary = over_time,
                                        .qk_norm = call->config->qk_norm,
                                        .out_start = over_time ? KIN_START_ZERO : KIN_START_XAVIER};
    kin_tensor u = kin_layer_norm_modulate(g, x, row[0], row[1], norm_eps);
    u = kin_reshape(g, u, 4, (int64_t[]){grid->batch, grid->count[0], grid->sites, width});
    u = kin_block_self_attention(g, call->precision, name, u, &options);
    u = kin_reshape(g, u, 3, (int64_t[]){call->rows, call->tokens, width});
    return kin_gated_add(g, x, row[2], u);
}

/* x [rows, tokens, C]; space [rows, 6, C] and time [rows, 3, C]. */
static kin_tensor block(const stdit2_call *call, kin_tensor x, kin_tensor space, kin_tensor time) {
    kin_graph *g = call->graph;
    const kin_precision *p = call->precision;
    const kin_stdit_config *c = &call->config->common;
    int64_t flat[] = {call->rows, call->tokens, c->hidden_size};
    int64_t grid[] = {call->grid.batch, call->grid.count[0], call->grid.sites, c->hidden_size};
    kin_tensor attn[3], mlp[3], temporal[3];
    kin_stdit_split_rows(g, kin_block_scale_shift(g, p, "scale_shift_table", 6, space), attn, mlp);
    kin_split(g, kin_block_scale_shift(g, p, "scale_shift_table_temporal", 3, time), 1, 3,
              temporal);

    x = attend(call, "attn", x, attn, false);
    x = attend(call, "attn_temp", x, temporal, true);
    kin_tensor u = kin_reshape(g, x, 4, grid);
    u = kin_block_cross_attention(g, p, "cross_attn", u, &call->text, c->num_heads, false);
    x = kin_add(g, x, kin_reshape(g, u, 3, flat));
    u = kin_layer_norm_modulate(g, x, mlp[0], mlp[1], norm_eps);
    return kin_gated_add(g, x, mlp[2], kin_stdit_feed_forward(g, c, p, u));
}

/* The final norm with t [B, C] in every frame: [rows, tokens, C]. */
static kin_tensor final_norm(const stdit2_call *call, kin_tensor x, kin_tensor t) {
    kin_graph *g = call->graph;
    int64_t width = call->config->common.hidden_size, tokens = kin_dim(g, x, 1);
    int64_t each[] = {call->grid.batch, call->grid.count[0] * call->grid.sites, width};
    kin_tensor row[2];
    t = kin_reshape(g, t, 3, (int64_t[]){call->grid.batch, 1, width});
    kin_split(g, kin_block_scale_shift(g, call->precision, "scale_shift_table", 2, t), 1, 2, row);
    x = kin_layer_norm_modulate(g, kin_reshape(g, x, 3, each), row[0], row[1], norm_eps);
    return kin_reshape(g, x, 3, (int64_t[]){call->rows, tokens, width});
}

/* t [B, C] has no size in it, given_t [B, C], of the given frames, has. The given frames go through
 * the norm twice: a slip of the original that its weights were trained with. */
static kin_tensor final_layer(const stdit2_call *call, kin_tensor x, kin_tensor t,
                              kin_tensor given_t) {
    kin_graph *g = call->graph;
    const kin_patch_grid *grid = &call->grid;
    int64_t out = kin_stdit_out_channels(&call->config->common);
    kin_scope_push(g, "final_layer");
    x = final_norm(call, x, t);
    if (call->frame_mask.id) {
        kin_tensor each = kin_reshape(g, call->frame_mask, 3, (int64_t[]){call->rows, 1, 1});
        x = kin_where(g, each, x, final_norm(call, x, given_t));
    }
    x = kin_layer_linear(g, call->precision, "linear", x,
                         out * grid->patch[0] * grid->patch[1] * grid->patch[2], KIN_START_ZERO);
    kin_scope_pop(g);
    return kin_block_unpatchify(g, x, grid, out);
}

/* Tokens with their positions: [rows, tokens, C]. The square root of the pixels scales the grid,
 * and the grid is counted as if it were a square of as many tokens. */
static kin_tensor embed_tokens(const stdit2_call *call) {
    kin_graph *g = call->graph;
    const kin_patch_grid *grid = &call->grid;
    const double *pixels = call->inputs->pixels;
    int64_t width = call->config->common.hidden_size;
    double scale = sqrt(pixels[0] * pixels[1]) / call->config->input_sq_size;
    double base = rint(sqrt((double)grid->sites));
    kin_tensor x = kin_cast(g, call->inputs->x, call->precision->compute);
    x = kin_block_embed_patches(g, call->precision, "x_embedder.proj", x, grid, width, 5);
    x = kin_add(g, x,
                kin_positions_grid(g, call->precision, width, grid->count[1], grid->count[2],
                                   base / (scale * (double)grid->count[1]),
                                   base / (scale * (double)grid->count[2])));
    return kin_reshape(g, x, 3, (int64_t[]){call->rows, call->tokens, width});
}

/* Sets up masks and rows; false with an error in the graph if the inputs do not fit. */
static bool begin(stdit2_call *call) {
    kin_graph *g = call->graph;
    const kin_stdit2_inputs *in = call->inputs;
    if (!kin_stdit_inputs_fit(g, "STDiT2", &call->config->common, in->x, in->y)) return false;
    call->grid = kin_patch_grid_of(g, in->x, call->config->common.patch_size);
    const kin_patch_grid *grid = &call->grid;
    call->rows = grid->batch;
    call->tokens = grid->count[0] * grid->sites;
    if (!(in->pixels[0] > 0 && in->pixels[1] > 0)) {
        kin_graph_fail(g, KIN_INVALID, "STDiT2: the height and width in pixels must be above 0");
        return false;
    }
    if (!in->frame_mask.id) return true;
    if (grid->patch[0] != 1 || kin_rank(g, in->frame_mask) != 2 ||
        kin_dim(g, in->frame_mask, 1) != grid->count[0]) {
        kin_graph_fail(g, KIN_INVALID,
                       "STDiT2: a mask of frames must be [B, %lld], and patches one frame long",
                       (long long)grid->size[0]);
        return false;
    }
    call->rows = grid->batch * grid->count[0];
    call->tokens = grid->sites;
    call->frame_mask = kin_reshape(g, repeat_rows(call, in->frame_mask), 3,
                                   (int64_t[]){grid->batch, grid->count[0], 1});
    return true;
}

kin_tensor kin_stdit2(kin_graph *graph, const kin_stdit2_config *config,
                      const kin_precision *precision, const kin_stdit2_inputs *inputs) {
    kin_graph *g = graph;
    const kin_stdit_config *c = &config->common;
    stdit2_call call = {.graph = g, .config = config, .precision = precision, .inputs = inputs};
    if (!begin(&call)) return KIN_NONE;
    bool taps = inputs->name_hidden, masked = call.frame_mask.id != 0;

    kin_tensor x = embed_tokens(&call);
    kin_layer_tap(g, taps, "embed.tokens", -1, x);
    kin_tensor picture = embed_picture(&call), clip = embed_clip(&call);
    kin_tensor t = kin_stdit_embed_timestep(g, c, precision, inputs->timestep);
    kin_layer_tap(g, taps, "embed.t", -1, t);
    kin_tensor space = kin_stdit_time_rows(g, precision, "t_block", kin_add(g, t, picture), 6);
    kin_layer_tap(g, taps, "embed.t_mlp", -1, space);
    kin_tensor time = kin_stdit_time_rows(g, precision, "t_block_temp", kin_add(g, t, clip), 3);
    kin_tensor given_space = space, given_time = time, given_t = t;
    if (masked) {
        kin_tensor given = inputs->given_timestep;
        if (!given.id) given = kin_fill(g, KIN_F32, 1, &call.grid.batch, 0);
        kin_tensor t0 = kin_stdit_embed_timestep(g, c, precision, given);
        given_t = kin_add(g, t0, picture);
        given_space = kin_stdit_time_rows(g, precision, "t_block", given_t, 6);
        given_time = kin_stdit_time_rows(g, precision, "t_block_temp", kin_add(g, t0, clip), 3);
    }
    space = select_rows(&call, space, given_space);
    time = select_rows(&call, time, given_time);
    kin_tensor y = kin_stdit_embed_caption(g, c, precision, inputs->y, inputs->drop);
    kin_layer_tap(g, taps, "embed.y", -1, y);
    call.text = kin_stdit_text(g, y, inputs->y_lengths);

    for (int i = 0; i < c->depth; i++) {
        kin_scope_push(g, "blocks.%d", i);
        kin_segment_begin(g);
        x = block(&call, x, space, time);
        kin_segment_end(g);
        kin_scope_pop(g);
        kin_layer_tap(g, taps, "hidden", i, x);
    }
    x = final_layer(&call, x, t, given_t);
    kin_stdit_freeze_weights(g, c);
    return x;
}
