#include "models/blocks.h"

#include <math.h>

#include "models/positions.h"
#include "ops/attention.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/layout.h"
#include "ops/matmul.h"
#include "ops/pad.h"
#include "ops/self_attention.h"
#include "ops/split.h"
#include "ops/views.h"

enum { NUMBER_FEATURES = 256 };
static const double qk_norm_eps = 1e-6, theta = 10000;

kin_patch_grid kin_patch_grid_of(const kin_graph *graph, kin_tensor x, const int patch[3]) {
    kin_patch_grid grid = {.batch = kin_dim(graph, x, 0)};
    for (int i = 0; i < 3; i++) {
        grid.size[i] = kin_dim(graph, x, 2 + i);
        grid.patch[i] = patch[i];
        grid.count[i] = (grid.size[i] + patch[i] - 1) / patch[i];
    }
    grid.sites = grid.count[1] * grid.count[2];
    return grid;
}

kin_tensor kin_block_embed_patches(kin_graph *graph, const kin_precision *precision,
                                   const char *name, kin_tensor x, const kin_patch_grid *grid,
                                   int64_t width, int kernel_rank) {
    kin_graph *g = graph;
    const int64_t *patch = grid->patch;
    int64_t before[5] = {0}, after[5] = {0}, channels = kin_dim(g, x, 1);
    bool pad = false;
    for (int i = 0; i < 3; i++) {
        after[2 + i] = grid->count[i] * patch[i] - grid->size[i];
        pad = pad || after[2 + i] > 0;
    }
    if (pad) x = kin_pad(g, x, before, after);
    x = kin_patchify(g, x, patch[0], patch[1], patch[2]);

    int64_t fan_in = channels * patch[0] * patch[1] * patch[2];
    int64_t video[] = {width, channels, patch[0], patch[1], patch[2]};
    int64_t image[] = {width, channels, patch[1], patch[2]};
    kin_scope_push(g, "%s", name);
    kin_init start = {KIN_INIT_UNIFORM, sqrt(6.0 / (double)(fan_in + width))};
    kin_tensor weight = kin_layer_weight(g, precision, "weight", kernel_rank,
                                         kernel_rank == 4 ? image : video, start);
    start.scale = 1.0 / sqrt((double)fan_in);
    kin_tensor bias = kin_layer_weight(g, precision, "bias", 1, &width, start);
    x = kin_linear(g, x, kin_reshape(g, weight, 2, (int64_t[]){width, fan_in}), bias);
    kin_scope_pop(g);
    return kin_reshape(g, x, 4, (int64_t[]){grid->batch, grid->count[0], grid->sites, width});
}

kin_tensor kin_block_unpatchify(kin_graph *graph, kin_tensor tokens, const kin_patch_grid *grid,
                                int64_t channels) {
    const int64_t *patch = grid->patch, *count = grid->count;
    int64_t entries = channels * patch[0] * patch[1] * patch[2];
    int64_t flat[] = {grid->batch, count[0] * grid->sites, entries};
    kin_tensor x =
        kin_unpatchify(graph, kin_reshape(graph, tokens, 3, flat), channels, count[0] * patch[0],
                       count[1] * patch[1], count[2] * patch[2], patch[0], patch[1], patch[2]);
    for (int i = 0; i < 3; i++)
        if (count[i] * patch[i] != grid->size[i]) x = kin_slice(graph, x, 2 + i, 0, grid->size[i]);
    return kin_cast(graph, x, KIN_F32);
}

kin_tensor kin_block_embed_number(kin_graph *graph, const kin_precision *precision,
                                  const char *first, const char *second, kin_tensor numbers,
                                  int64_t width, kin_layer_start start) {
    kin_tensor x = kin_timestep_embedding(graph, numbers, NUMBER_FEATURES, theta);
    x = kin_cast(graph, x, precision->compute);
    x = kin_layer_linear(graph, precision, first, x, width, start);
    return kin_layer_linear(graph, precision, second, kin_silu(graph, x), width, start);
}

kin_tensor kin_block_mlp(kin_graph *graph, const kin_precision *precision, const char *first,
                         const char *second, kin_tensor x, int64_t inner, int64_t out,
                         kin_layer_start first_start, kin_layer_start second_start) {
    x = kin_layer_linear(graph, precision, first, x, inner, first_start);
    return kin_layer_linear(graph, precision, second, kin_gelu_tanh(graph, x), out, second_start);
}

kin_tensor kin_block_scale_shift(kin_graph *graph, const kin_precision *precision, const char *name,
                                 int count, kin_tensor t) {
    int64_t width = kin_dim(graph, t, -1);
    kin_tensor table = kin_layer_weight(graph, precision, name, 2, (int64_t[]){count, width},
                                        (kin_init){KIN_INIT_NORMAL, 1.0 / sqrt((double)width)});
    return kin_add(graph, kin_reshape(graph, table, 3, (int64_t[]){1, count, width}), t);
}

/* The gain of the RMS norm of each head, which is computed in f32 as in the original. */
static kin_tensor norm_gain(kin_graph *g, const kin_precision *p, const char *name, int64_t size) {
    kin_scope_push(g, "%s", name);
    kin_tensor weight = kin_layer_weight(g, p, "weight", 1, &size, (kin_init){KIN_INIT_ONE, 0});
    kin_scope_pop(g);
    return weight;
}

kin_tensor kin_block_self_attention(kin_graph *graph, const kin_precision *precision,
                                    const char *prefix, kin_tensor x,
                                    const kin_self_attention_block *block) {
    static const char *const names[] = {"to_q", "to_k", "to_v"};
    kin_graph *g = graph;
    int64_t batch = kin_dim(g, x, 0), frames = kin_dim(g, x, 1), sites = kin_dim(g, x, 2);
    int64_t width = kin_dim(g, x, 3), size = width / block->heads;
    int64_t dims[] = {batch, frames, sites, block->heads, size};
    int64_t packed[] = {batch, frames, sites, 3, block->heads, size};
    kin_self_attention_options options = {
        .scale = 1.0 / sqrt((double)size),
        .over_frames = block->over_time,
        .eps = qk_norm_eps,
        .rope = {.theta = theta, .scales = {1, 1, 1}, .axes = 1, .interleaved = 1}};
    kin_tensor y, part[3];
    kin_scope_push(g, "%s", prefix);
    if (block->rotary)
        options.positions = kin_positions_index(g, block->over_time ? frames : sites);
    if (block->separate) {
        for (int i = 0; i < 3; i++)
            part[i] = kin_reshape(
                g, kin_layer_linear(g, precision, names[i], x, width, KIN_START_XAVIER), 5, dims);
    } else {
        part[0] = kin_layer_linear(g, precision, "qkv", x, 3 * width, KIN_START_XAVIER);
        part[0] = kin_reshape(g, part[0], 6, packed);
    }
    if (block->qk_norm) {
        options.q_gain = norm_gain(g, precision, "q_norm", size);
        options.k_gain = norm_gain(g, precision, "k_norm", size);
    }
    y = block->separate ? kin_self_attention(g, part[0], part[1], part[2], &options)
                        : kin_self_attention_packed(g, part[0], &options);
    y = kin_reshape(g, y, 4, (int64_t[]){batch, frames, sites, width});
    y = kin_layer_linear(g, precision, block->separate ? "to_out.0" : "proj", y, width,
                         block->out_start);
    kin_scope_pop(g);
    return y;
}

/* Frames first .. first + frames - 1 of q [B, T, S, C] with captions first .. first + captions - 1
 * of k and v [B, 1 + I, L, C]; `captions` groups of frames / captions frames. -> [B, frames, S, C]
 */
static kin_tensor look_at_text(kin_graph *g, const kin_block_text *text, kin_tensor q, kin_tensor k,
                               kin_tensor v, int heads, const int64_t frames[2],
                               const int64_t captions[2]) {
    int64_t batch = kin_dim(g, q, 0), sites = kin_dim(g, q, 2), width = kin_dim(g, q, 3);
    int64_t words = kin_dim(g, k, 2), groups = batch * captions[1], size = width / heads;
    bool all = captions[1] == kin_dim(g, k, 1);
    kin_tensor lengths = text->lengths, bias = text->bias;
    if (!all) {
        q = kin_slice(g, q, 1, frames[0], frames[1]);
        k = kin_slice(g, k, 1, captions[0], captions[1]);
        v = kin_slice(g, v, 1, captions[0], captions[1]);
        if (lengths.id) lengths = kin_slice(g, lengths, 1, captions[0], captions[1]);
        if (bias.id) bias = kin_slice(g, bias, 1, captions[0], captions[1]);
    }
    int64_t tokens = frames[1] / captions[1] * sites;
    q = kin_reshape(g, q, 4, (int64_t[]){groups, tokens, heads, size});
    k = kin_reshape(g, k, 4, (int64_t[]){groups, words, heads, size});
    v = kin_reshape(g, v, 4, (int64_t[]){groups, words, heads, size});
    if (lengths.id) lengths = kin_reshape(g, lengths, 1, &groups);
    if (bias.id) bias = kin_reshape(g, bias, 4, (int64_t[]){groups, 1, 1, words});
    kin_tensor y = kin_attention(g, q, k, v, lengths, bias, 1.0 / sqrt((double)size));
    return kin_reshape(g, y, 4, (int64_t[]){batch, frames[1], sites, width});
}

kin_tensor kin_block_cross_attention(kin_graph *graph, const kin_precision *precision,
                                     const char *prefix, kin_tensor x, const kin_block_text *text,
                                     int heads, bool separate) {
    kin_graph *g = graph;
    const kin_precision *p = precision;
    int64_t frames = kin_dim(g, x, 1), width = kin_dim(g, x, 3);
    int64_t images = kin_dim(g, text->states, 1) - 1;
    if (images < 0 || images > frames)
        return kin_graph_fail(g, KIN_INVALID, "%lld frames cannot have %lld captions",
                              (long long)frames, (long long)images + 1);
    kin_tensor q, kv[2];
    kin_scope_push(g, "%s", prefix);
    if (separate) {
        q = kin_layer_linear(g, p, "to_q", x, width, KIN_START_XAVIER);
        kv[0] = kin_layer_linear(g, p, "to_k", text->states, width, KIN_START_XAVIER);
        kv[1] = kin_layer_linear(g, p, "to_v", text->states, width, KIN_START_XAVIER);
    } else {
        q = kin_layer_linear(g, p, "q_linear", x, width, KIN_START_XAVIER);
        kin_split(g, kin_layer_linear(g, p, "kv_linear", text->states, 2 * width, KIN_START_XAVIER),
                  -1, 2, kv);
    }
    int64_t video = frames - images;
    kin_tensor y = KIN_NONE, part[2];
    if (video > 0)
        y = part[0] =
            look_at_text(g, text, q, kv[0], kv[1], heads, (int64_t[]){0, video}, (int64_t[]){0, 1});
    if (images > 0) {
        part[1] = look_at_text(g, text, q, kv[0], kv[1], heads, (int64_t[]){video, images},
                               (int64_t[]){1, images});
        y = video > 0 ? kin_concat(g, part, 2, 1) : part[1];
    }
    y = kin_layer_linear(g, p, separate ? "to_out.0" : "proj", y, width, KIN_START_ZERO);
    kin_scope_pop(g);
    return y;
}
