#include "models/opensora_plan.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "models/blocks.h"
#include "ops/attention.h"
#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/modulate.h"
#include "ops/norm.h"
#include "ops/reduce.h"
#include "ops/rope.h"
#include "ops/split.h"
#include "ops/views.h"

static const double masked_score = -10000;

/* One call: its grid, and what every block looks at. */
typedef struct plan_call {
    kin_graph *graph;
    const kin_opensora_plan_config *config;
    const kin_precision *precision;
    kin_patch_grid grid;
    int64_t width;
    kin_tensor positions; /* f32 [3, N] */
    kin_rope_attrs rope;
    kin_tensor bias; /* f32 [B, 1, 1, N], or KIN_NONE */
    kin_block_text text;
    kin_tensor e;    /* [B, C]: the embedded timestep */
    kin_tensor rows; /* [B, 6, C] */
} plan_call;

void kin_opensora_plan_rope_scales(const kin_opensora_plan_config *config, const int64_t counts[3],
                                   double out_scales[3]) {
    out_scales[0] = config->interpolation_scale_t;
    out_scales[1] = config->interpolation_scale_h;
    out_scales[2] = config->interpolation_scale_w;
    for (int i = 1; i < 3; i++)
        for (int k = 0; k < i; k++)
            if (counts[k] == counts[i]) {
                out_scales[i] = out_scales[k];
                break;
            }
}

/* The places of the tokens, (t, h, w) with w fastest. */
static kin_tensor token_positions(kin_graph *g, const int64_t counts[3]) {
    int64_t tokens = counts[0] * counts[1] * counts[2], dims[] = {3, tokens};
    kin_context *context = kin_graph_context(g);
    float *values = kin_alloc(context, 3 * (size_t)tokens * sizeof *values);
    if (!values) return kin_graph_fail(g, KIN_OUT_OF_MEMORY, "no host memory for positions");
    for (int64_t i = 0; i < tokens; i++) {
        values[i] = (float)(i / (counts[1] * counts[2]));
        values[tokens + i] = (float)(i / counts[2] % counts[1]);
        values[2 * tokens + i] = (float)(i % counts[2]);
    }
    kin_tensor positions = kin_constant(g, KIN_F32, 2, dims, values);
    kin_free(context, values);
    return positions;
}

/* A patch counts if any of its latents does: [B, T, Y, X] -> bias [B, 1, 1, N]. */
static kin_tensor patch_bias(const plan_call *call, kin_tensor mask) {
    enum { PATCH_AXES = 1 << 2 | 1 << 4 | 1 << 6 };
    kin_graph *g = call->graph;
    const int64_t *count = call->grid.count, *patch = call->grid.patch;
    int64_t cells[] = {call->grid.batch, count[0], patch[0], count[1],
                       patch[1],         count[2], patch[2]};
    kin_tensor kept = kin_max(g, kin_reshape(g, mask, 7, cells), PATCH_AXES, false);
    kept = kin_reshape(g, kept, 4,
                       (int64_t[]){call->grid.batch, 1, 1, count[0] * count[1] * count[2]});
    return kin_scale(g, kept, -masked_score, masked_score);
}

static void embed_timestep(plan_call *call, kin_tensor timestep) {
    kin_graph *g = call->graph;
    kin_scope_push(g, "adaln_single");
    call->e = kin_block_embed_number(g, call->precision, "emb.timestep_embedder.linear_1",
                                     "emb.timestep_embedder.linear_2", timestep, call->width,
                                     KIN_START_NORMAL_02);
    kin_tensor rows = kin_layer_linear(g, call->precision, "linear", kin_silu(g, call->e),
                                       6 * call->width, KIN_START_NORMAL_02);
    call->rows = kin_reshape(g, rows, 3, (int64_t[]){call->grid.batch, 6, call->width});
    kin_scope_pop(g);
}

static void embed_text(plan_call *call, const kin_opensora_plan_inputs *in) {
    kin_graph *g = call->graph;
    kin_scope_push(g, "caption_projection");
    call->text.states = kin_block_mlp(g, call->precision, "linear_1", "linear_2",
                                      kin_cast(g, in->text, call->precision->compute), call->width,
                                      call->width, KIN_START_NORMAL_02, KIN_START_NORMAL_02);
    kin_scope_pop(g);
    if (in->text_mask.id)
        call->text.bias = kin_scale(g, in->text_mask, -masked_score, masked_score);
}

/* x [B, N, C] -> the same. */
static kin_tensor self_attention(const plan_call *call, kin_tensor x) {
    static const char *const names[] = {"to_q", "to_k", "to_v"};
    kin_graph *g = call->graph;
    int64_t heads = call->config->num_attention_heads, size = call->config->attention_head_dim;
    int64_t batch = call->grid.batch, tokens = kin_dim(g, x, 1);
    kin_tensor part[3];
    kin_scope_push(g, "attn1");
    for (int i = 0; i < 3; i++) {
        part[i] = kin_layer_linear(g, call->precision, names[i], x, call->width, KIN_START_XAVIER);
        part[i] = kin_reshape(g, part[i], 4, (int64_t[]){batch, tokens, heads, size});
        if (i < 2) part[i] = kin_rope(g, part[i], call->positions, &call->rope);
    }
    kin_tensor y =
        kin_attention(g, part[0], part[1], part[2], KIN_NONE, call->bias, 1 / sqrt((double)size));
    y = kin_reshape(g, y, 3, (int64_t[]){batch, tokens, call->width});
    y = kin_layer_linear(g, call->precision, "to_out.0", y, call->width, KIN_START_XAVIER);
    kin_scope_pop(g);
    return y;
}

static kin_tensor block(const plan_call *call, kin_tensor x) {
    kin_graph *g = call->graph;
    const kin_precision *p = call->precision;
    const kin_patch_grid *grid = &call->grid;
    double eps = call->config->norm_eps;
    int64_t tokens = grid->count[0] * grid->sites;
    int64_t flat[] = {grid->batch, tokens, call->width};
    int64_t frames[] = {grid->batch, grid->count[0], grid->sites, call->width};
    kin_tensor half[2], attn[3], ff[3]; /* shift, scale and gate of either */
    kin_split(g, kin_block_scale_shift(g, p, "scale_shift_table", 6, call->rows), 1, 2, half);
    kin_split(g, half[0], 1, 3, attn);
    kin_split(g, half[1], 1, 3, ff);

    kin_tensor u = kin_layer_norm_modulate(g, x, attn[0], attn[1], eps);
    x = kin_gated_add(g, x, attn[2], self_attention(call, u));
    u = kin_block_cross_attention(g, p, "attn2", kin_reshape(g, x, 4, frames), &call->text,
                                  call->config->num_attention_heads, true);
    x = kin_add(g, x, kin_reshape(g, u, 3, flat));
    u = kin_layer_norm_modulate(g, x, ff[0], ff[1], eps);
    kin_scope_push(g, "ff");
    u = kin_block_mlp(g, p, "net.0.proj", "net.2", u, 4 * call->width, call->width,
                      KIN_START_XAVIER, KIN_START_XAVIER);
    kin_scope_pop(g);
    return kin_gated_add(g, x, ff[2], u);
}

static kin_tensor final_layer(const plan_call *call, kin_tensor x) {
    kin_graph *g = call->graph;
    const int64_t *patch = call->grid.patch;
    int64_t out = call->config->out_channels;
    kin_tensor row[2];
    kin_tensor e = kin_reshape(g, call->e, 3, (int64_t[]){call->grid.batch, 1, call->width});
    kin_split(g, kin_block_scale_shift(g, call->precision, "scale_shift_table", 2, e), 1, 2, row);
    x = kin_layer_norm_modulate(g, x, row[0], row[1], call->config->norm_eps);
    x = kin_layer_linear(g, call->precision, "proj_out", x, out * patch[0] * patch[1] * patch[2],
                         KIN_START_ZERO);
    return kin_block_unpatchify(g, x, &call->grid, out);
}

/* All frames of x are one video with one caption. */
static kin_tensor run_video(kin_graph *g, const kin_opensora_plan_config *config,
                            const kin_precision *precision, const kin_opensora_plan_inputs *in) {
    plan_call call = {.graph = g, .config = config, .precision = precision};
    call.width = (int64_t)config->num_attention_heads * config->attention_head_dim;
    const int patch[3] = {config->patch_size_t, config->patch_size, config->patch_size};
    call.grid = kin_patch_grid_of(g, in->x, patch);
    const kin_patch_grid *grid = &call.grid;
    call.positions = token_positions(g, grid->count);
    /* The original makes its tables in the dtype that it computes in. */
    bool narrow = config->bf16_rope || precision->compute == KIN_BF16;
    call.rope = (kin_rope_attrs){.theta = 10000, .axes = 3, .bf16_table = narrow};
    kin_opensora_plan_rope_scales(config, grid->count, call.rope.scales);
    if (in->mask.id) call.bias = patch_bias(&call, in->mask);
    kin_tensor x = kin_cast(g, in->x, precision->compute);
    x = kin_block_embed_patches(g, precision, "pos_embed.proj", x, grid, call.width,
                                config->patch_size_t == 1 ? 4 : 5);
    x = kin_reshape(g, x, 3, (int64_t[]){grid->batch, grid->count[0] * grid->sites, call.width});
    embed_timestep(&call, in->timestep);
    embed_text(&call, in);
    for (int i = 0; i < config->num_layers; i++) {
        kin_scope_push(g, "transformer_blocks.%d", i);
        kin_segment_begin(g);
        x = block(&call, x);
        kin_segment_end(g);
        kin_scope_pop(g);
        kin_layer_tap(g, in->name_hidden, "hidden", i, x);
    }
    return final_layer(&call, x);
}

/* [B, C, I, Y, X] -> [B I, C, 1, Y, X]; text and masks [B, I, ...] -> [B I, 1, ...]. */
static kin_tensor images_apart(kin_graph *g, kin_tensor x) {
    int64_t dims[] = {kin_dim(g, x, 0) * kin_dim(g, x, 2), kin_dim(g, x, 1), 1, kin_dim(g, x, 3),
                      kin_dim(g, x, 4)};
    return kin_reshape(g, kin_permute(g, x, (int[]){0, 2, 1, 3, 4}), 5, dims);
}

static kin_tensor rows_apart(kin_graph *g, kin_tensor x) {
    int rank = kin_rank(g, x);
    int64_t dims[KIN_MAX_RANK] = {kin_dim(g, x, 0) * kin_dim(g, x, 1), 1};
    for (int i = 2; i < rank; i++) dims[i] = kin_dim(g, x, i);
    return kin_reshape(g, x, rank, dims);
}

/* The timestep of every sample, once for each of its images. */
static kin_tensor repeat_timestep(kin_graph *g, kin_tensor timestep, int64_t images) {
    int64_t batch = kin_dim(g, timestep, 0), all = batch * images;
    kin_tensor t = kin_reshape(g, timestep, 2, (int64_t[]){batch, 1});
    return kin_reshape(g, kin_expand(g, t, 2, (int64_t[]){batch, images}), 1, &all);
}

/* Frames first .. first + count - 1, with their captions. */
static kin_opensora_plan_inputs part_of(kin_graph *g, const kin_opensora_plan_inputs *in,
                                        int64_t first, int64_t count, int64_t first_caption,
                                        int64_t captions) {
    kin_opensora_plan_inputs part = {.timestep = in->timestep};
    part.x = kin_slice(g, in->x, 2, first, count);
    part.text = kin_slice(g, in->text, 1, first_caption, captions);
    if (in->text_mask.id) part.text_mask = kin_slice(g, in->text_mask, 1, first_caption, captions);
    if (in->mask.id) part.mask = kin_slice(g, in->mask, 1, first, count);
    return part;
}

static bool fits(kin_graph *g, const kin_opensora_plan_config *c,
                 const kin_opensora_plan_inputs *in) {
    if (kin_graph_status(g) != KIN_OK) return false;
    bool good = kin_rank(g, in->x) == 5 && kin_dim(g, in->x, 1) == c->in_channels &&
                kin_rank(g, in->text) == 4 && kin_dim(g, in->text, 3) == c->caption_channels &&
                kin_dim(g, in->text, 0) == kin_dim(g, in->x, 0) &&
                kin_dim(g, in->text, 1) <= kin_dim(g, in->x, 2) + 1;
    for (int i = 0; good && i < 3; i++)
        good = kin_dim(g, in->x, 2 + i) % (i ? c->patch_size : c->patch_size_t) == 0;
    if (good) return true;
    char x_text[96], y_text[96];
    kin_graph_fail(g, KIN_INVALID,
                   "OpenSoraT2V: latents %s must have %d channels and whole patches of %d x %d x "
                   "%d, and text %s as many samples and features of %d numbers",
                   kin_desc_shape_text(kin_tensor_desc(g, in->x), x_text, sizeof x_text),
                   c->in_channels, c->patch_size_t, c->patch_size, c->patch_size,
                   kin_desc_shape_text(kin_tensor_desc(g, in->text), y_text, sizeof y_text),
                   c->caption_channels);
    return false;
}

kin_tensor kin_opensora_plan(kin_graph *graph, const kin_opensora_plan_config *config,
                             const kin_precision *precision,
                             const kin_opensora_plan_inputs *inputs) {
    kin_graph *g = graph;
    if (!fits(g, config, inputs)) return KIN_NONE;
    int64_t images = kin_dim(g, inputs->text, 1) - 1, frames = kin_dim(g, inputs->x, 2) - images;
    if (images == 0) return run_video(g, config, precision, inputs);
    kin_opensora_plan_inputs part = part_of(g, inputs, frames, images, 1, images);
    part.x = images_apart(g, part.x);
    part.text = rows_apart(g, part.text);
    if (part.text_mask.id) part.text_mask = rows_apart(g, part.text_mask);
    if (part.mask.id) part.mask = rows_apart(g, part.mask);
    part.timestep = repeat_timestep(g, inputs->timestep, images);
    kin_tensor out = run_video(g, config, precision, &part);
    int64_t dims[] = {kin_dim(g, inputs->x, 0), images, config->out_channels, kin_dim(g, out, 3),
                      kin_dim(g, out, 4)};
    out = kin_permute(g, kin_reshape(g, out, 5, dims), (int[]){0, 2, 1, 3, 4});
    if (frames == 0) return out;
    part = part_of(g, inputs, 0, frames, 0, 1);
    kin_tensor video = run_video(g, config, precision, &part);
    return kin_concat(g, (kin_tensor[]){video, out}, 2, 2);
}

bool kin_opensora_plan_rename(const void *config, const char *file_name, char *out_name,
                              size_t size) {
    (void)config;
    if (strcmp(file_name, "pos_embed.pos_embed") == 0 ||
        strcmp(file_name, "pos_embed.temp_pos_embed") == 0)
        return false;
    snprintf(out_name, size, "%s", file_name);
    return true;
}
