#include "models/causal_vae.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "ops/attention.h"
#include "ops/conv.h"
#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/norm.h"
#include "ops/pad.h"
#include "ops/upsample.h"
#include "ops/views.h"

enum { GROUPS = 32, TIME = 2, ROWS = 3, COLUMNS = 4 };
static const double norm_eps = 1e-6;

/* Where blocks are built. */
typedef struct vae_call {
    kin_graph *graph;
    const kin_precision *precision;
} vae_call;

/* ---- convolutions --------------------------------------------------------------------------- */

/* How a convolution steps and pads; rows and columns alike. */
typedef struct conv_shape {
    int time, space; /* kernel */
    int time_stride, space_stride;
    int before, after; /* zeros around rows and columns */
    bool copies;       /* time - 1 copies of the first frame in front */
} conv_shape;

/* NAME.weight [out, C, time, space, space], which 2D files keep without `time`, and NAME.bias. */
static kin_tensor convolve(const vae_call *call, const char *name, kin_tensor x, int64_t out,
                           const conv_shape *s, bool flat) {
    kin_graph *g = call->graph;
    int64_t in = kin_dim(g, x, 1);
    int64_t dims[5] = {out, in, s->time, s->space, s->space};
    int64_t image[4] = {out, in, s->space, s->space};
    double fan_in = (double)in * s->time * s->space * s->space;
    kin_init start = {KIN_INIT_UNIFORM, 1.0 / sqrt(fan_in)};
    kin_scope_push(g, "%s", name);
    kin_tensor weight =
        kin_layer_weight(g, call->precision, "weight", flat ? 4 : 5, flat ? image : dims, start);
    kin_tensor bias = kin_layer_weight(g, call->precision, "bias", 1, &out, start);
    kin_scope_pop(g);
    if (flat) weight = kin_reshape(g, weight, 5, dims);
    kin_conv_attrs attrs = {.stride = {s->time_stride, s->space_stride, s->space_stride},
                            .before = {s->copies ? s->time - 1 : 0, s->before, s->before},
                            .after = {0, s->after, s->after},
                            .causal = s->copies};
    return kin_conv(g, x, weight, bias, &attrs);
}

/* CausalConv3d: its weights lie under "conv". */
static kin_tensor causal(const vae_call *call, const char *name, kin_tensor x, int64_t out,
                         conv_shape shape) {
    shape.copies = true;
    kin_scope_push(call->graph, "%s", name);
    x = convolve(call, "conv", x, out, &shape, false);
    kin_scope_pop(call->graph);
    return x;
}

/* A causal convolution with a cube as kernel, of stride 1, that keeps the sizes. */
static kin_tensor causal_cube(const vae_call *call, const char *name, kin_tensor x, int64_t out,
                              int size) {
    return causal(call, name, x, out, (conv_shape){size, size, 1, 1, size / 2, size / 2, true});
}

/* Conv2d on each frame. */
static kin_tensor frame_conv(const vae_call *call, const char *name, kin_tensor x, int64_t out,
                             int size, int stride, int before, int after) {
    conv_shape shape = {1, size, 1, stride, before, after, false};
    return convolve(call, name, x, out, &shape, true);
}

static kin_tensor conv_of_kind(const vae_call *call, kin_causal_block_kind kind, const char *name,
                               kin_tensor x, int64_t out, int size) {
    if (kind == KIN_CAUSAL_CONV_3D) return causal_cube(call, name, x, out, size);
    return frame_conv(call, name, x, out, size, 1, size / 2, size / 2);
}

/* ---- residual blocks ------------------------------------------------------------------------ */

/* [B, C, T, Y, X] -> [B T, C, 1, Y, X], so that norms see one frame each; and back. */
static kin_tensor split_frames(kin_graph *g, kin_tensor x) {
    int64_t b = kin_dim(g, x, 0), c = kin_dim(g, x, 1), t = kin_dim(g, x, TIME);
    int64_t dims[5] = {b * t, c, 1, kin_dim(g, x, ROWS), kin_dim(g, x, COLUMNS)};
    if (t == 1) return x;
    return kin_reshape(g, kin_permute(g, x, (int[]){0, 2, 1, 3, 4}), 5, dims);
}

static kin_tensor join_frames(kin_graph *g, kin_tensor x, int64_t frames) {
    int64_t b = kin_dim(g, x, 0) / frames, c = kin_dim(g, x, 1);
    int64_t dims[5] = {b, frames, c, kin_dim(g, x, ROWS), kin_dim(g, x, COLUMNS)};
    if (frames == 1) return x;
    return kin_permute(g, kin_reshape(g, x, 5, dims), (int[]){0, 2, 1, 3, 4});
}

static kin_tensor norm_silu(const vae_call *call, const char *name, kin_tensor x) {
    return kin_layer_group_norm(call->graph, call->precision, name, x, GROUPS, norm_eps, true);
}

static kin_tensor resnet(const vae_call *call, kin_causal_block_kind kind, kin_tensor x,
                         int64_t out) {
    kin_graph *g = call->graph;
    bool flat = kind == KIN_CAUSAL_RESNET_2D;
    kin_causal_block_kind conv = flat ? KIN_CAUSAL_CONV_2D : KIN_CAUSAL_CONV_3D;
    int64_t frames = kin_dim(g, x, TIME);
    if (flat) x = split_frames(g, x);
    kin_tensor h = conv_of_kind(call, conv, "conv1", norm_silu(call, "norm1", x), out, 3);
    h = conv_of_kind(call, conv, "conv2", norm_silu(call, "norm2", h), out, 3);
    if (kin_dim(g, x, 1) != out) x = conv_of_kind(call, conv, "nin_shortcut", x, out, 1);
    x = kin_add(g, x, h);
    return flat ? join_frames(g, x, frames) : x;
}

/* ---- attention ------------------------------------------------------------------------------ */

/* [B, C, T, Y, X] as sequences [B, T, S, 1, C]: of each frame's places, or, mixed, of what lies
 * there if the elements are dealt out to B T sequences in the order of memory. */
static kin_tensor to_places(kin_graph *g, kin_tensor x, const int64_t dims[5], bool mixed) {
    int64_t places = dims[ROWS] * dims[COLUMNS];
    if (mixed) {
        x = kin_reshape(g, x, 4, (int64_t[]){dims[0], dims[TIME], dims[1], places});
        x = kin_permute(g, x, (int[]){0, 1, 3, 2});
    } else {
        x = kin_reshape(g, x, 4, (int64_t[]){dims[0], dims[1], dims[TIME], places});
        x = kin_permute(g, x, (int[]){0, 2, 3, 1});
    }
    return kin_reshape(g, x, 5, (int64_t[]){dims[0], dims[TIME], places, 1, dims[1]});
}

static kin_tensor from_places(kin_graph *g, kin_tensor x, const int64_t dims[5], bool mixed) {
    int64_t places = dims[ROWS] * dims[COLUMNS];
    x = kin_reshape(g, x, 4, (int64_t[]){dims[0], dims[TIME], places, dims[1]});
    x = kin_permute(g, x, mixed ? (int[]){0, 1, 3, 2} : (int[]){0, 3, 1, 2});
    return kin_reshape(g, x, 5, dims);
}

static kin_tensor attend(const vae_call *call, kin_tensor x, bool mixed) {
    static const char *const names[3] = {"q", "k", "v"};
    kin_graph *g = call->graph;
    int64_t dims[5];
    for (int i = 0; i < 5; i++) dims[i] = kin_dim(g, x, i);
    kin_tensor parts[3],
        h = kin_layer_group_norm(g, call->precision, "norm", x, GROUPS, norm_eps, false);
    for (int i = 0; i < 3; i++)
        parts[i] = to_places(g, causal_cube(call, names[i], h, dims[1], 1), dims, mixed);
    h = kin_attention(g, parts[0], parts[1], parts[2], KIN_NONE, KIN_NONE,
                      1 / sqrt((double)dims[1]));
    h = from_places(g, h, dims, mixed);
    return kin_add(g, x, causal_cube(call, "proj_out", h, dims[1], 1));
}

/* ---- fewer and more frames ------------------------------------------------------------------ */

/* Two copies of the first frame in front. */
static kin_tensor copies_in_front(kin_graph *g, kin_tensor x) {
    int64_t before[5] = {0, 0, 2, 0, 0}, after[5] = {0};
    return kin_pad_replicate(g, x, before, after);
}

/* a x + (1 - a) y, a = sigmoid(mix_factor), which starts at 1 (2 in the original). */
static kin_tensor mix(const vae_call *call, kin_tensor x, kin_tensor y) {
    kin_graph *g = call->graph;
    int64_t one = 1;
    kin_tensor factor =
        kin_layer_weight(g, call->precision, "mix_factor", 1, &one, (kin_init){KIN_INIT_ONE, 0});
    kin_tensor a = kin_sigmoid(g, factor);
    return kin_add(g, y, kin_mul(g, a, kin_sub(g, x, y)));
}

static kin_tensor down_time(const vae_call *call, kin_tensor x, int64_t out, bool mixed) {
    kin_graph *g = call->graph;
    kin_tensor padded = copies_in_front(g, x), mean = kin_avg_pool_time(g, padded, 3, 2);
    if (!mixed) return mean;
    conv_shape shape = {3, 3, 2, 1, 1, 1, false};
    return mix(call, mean, convolve(call, "conv", padded, out, &shape, false));
}

/* The first frame enlarged by (1, space, space), the others, which do not see it, by (2, ...). */
static kin_tensor enlarge(kin_graph *g, kin_tensor x, int64_t space) {
    int64_t frames = kin_dim(g, x, TIME);
    kin_tensor first = kin_slice(g, x, TIME, 0, 1);
    if (space > 1) first = kin_upsample_linear(g, first, 1, space, space);
    if (frames == 1) return first;
    kin_tensor rest = kin_upsample_linear(g, kin_slice(g, x, TIME, 1, frames - 1), 2, space, space);
    return kin_concat(g, (kin_tensor[]){first, rest}, 2, TIME);
}

kin_tensor kin_causal_block(kin_graph *graph, const kin_precision *precision,
                            kin_causal_block_kind kind, kin_tensor x, int64_t out) {
    vae_call call = {graph, precision};
    kin_tensor y;
    switch (kind) {
    case KIN_CAUSAL_RESNET_2D:
    case KIN_CAUSAL_RESNET_3D:
        return resnet(&call, kind, x, out);
    case KIN_CAUSAL_ATTENTION:
    case KIN_CAUSAL_ATTENTION_MIXED:
        return attend(&call, x, kind == KIN_CAUSAL_ATTENTION_MIXED);
    case KIN_CAUSAL_DOWN_2D:
        return frame_conv(&call, "conv", x, out, 3, 2, 0, 1);
    case KIN_CAUSAL_DOWN_SPACE:
        return causal(&call, "conv", x, out, (conv_shape){1, 3, 1, 2, 0, 1, true});
    case KIN_CAUSAL_DOWN_BOTH:
        return causal(&call, "conv", x, out, (conv_shape){3, 3, 2, 2, 0, 1, true});
    case KIN_CAUSAL_DOWN_TIME:
    case KIN_CAUSAL_DOWN_TIME_MIXED:
        return down_time(&call, x, out, kind == KIN_CAUSAL_DOWN_TIME_MIXED);
    case KIN_CAUSAL_UP_SPACE:
        y = kin_upsample_nearest(graph, x, 1, 2, 2);
        return causal(&call, "conv", y, out, (conv_shape){1, 3, 1, 1, 1, 1, true});
    case KIN_CAUSAL_UP_BOTH:
        return causal_cube(&call, "conv", enlarge(graph, x, 2), out, 3);
    case KIN_CAUSAL_UP_TIME:
        return enlarge(graph, x, 1);
    case KIN_CAUSAL_UP_TIME_MIXED:
        y = enlarge(graph, x, 1);
        return mix(&call, y, causal_cube(&call, "conv", y, out, 3));
    default:
        return x;
    }
}

/* ---- encoder and decoder -------------------------------------------------------------------- */

/* A block under its name, recomputed as one in the backward pass. */
static kin_tensor named_block(const vae_call *call, const char *name, kin_causal_block_kind kind,
                              kin_tensor x, int64_t out) {
    if (kind == KIN_CAUSAL_NONE) return x;
    kin_scope_push(call->graph, "%s", name);
    kin_segment_begin(call->graph);
    x = kin_causal_block(call->graph, call->precision, kind, x, out);
    kin_segment_end(call->graph);
    kin_scope_pop(call->graph);
    return x;
}

static kin_tensor residual_blocks(const vae_call *call, kin_causal_block_kind kind, kin_tensor x,
                                  int64_t out, int count) {
    char name[32];
    for (int j = 0; j < count; j++) {
        snprintf(name, sizeof name, "block.%d", j);
        x = named_block(call, name, kind, x, out);
    }
    return x;
}

static kin_tensor middle(const vae_call *call, kin_causal_block_kind resnet_kind,
                         kin_causal_block_kind attention_kind, kin_tensor x) {
    int64_t channels = kin_dim(call->graph, x, 1);
    kin_scope_push(call->graph, "mid");
    x = named_block(call, "block_1", resnet_kind, x, channels);
    x = named_block(call, "attn_1", attention_kind, x, channels);
    x = named_block(call, "block_2", resnet_kind, x, channels);
    kin_scope_pop(call->graph);
    return x;
}

/* A video of `channels`, or an error in the graph. */
static bool fits(kin_graph *g, kin_tensor x, int64_t channels, const char *what) {
    if (kin_rank(g, x) == 5 && kin_dim(g, x, 1) == channels) return true;
    kin_graph_fail(g, KIN_INVALID, "video VAE: %s must be [B, %lld, T, Y, X]", what,
                   (long long)channels);
    return false;
}

kin_tensor kin_causal_vae_encode(kin_graph *graph, const kin_causal_vae_config *config,
                                 const kin_precision *precision, kin_tensor videos) {
    vae_call call = {graph, precision};
    const kin_causal_vae_config *c = config;
    if (!fits(graph, videos, 3, "videos")) return KIN_NONE;
    kin_tensor x = kin_cast(graph, videos, precision->compute);
    kin_scope_push(graph, "encoder");
    x = conv_of_kind(&call, c->encoder_conv_in, "conv_in", x, c->hidden_size, 3);
    for (int i = 0; i < c->levels; i++) {
        int64_t width = (int64_t)c->hidden_size * c->hidden_size_mult[i];
        kin_scope_push(graph, "down.%d", i);
        x = residual_blocks(&call, c->encoder_resnet_blocks[i], x, width, c->num_res_blocks);
        /* What follows the last level's blocks is never used. */
        if (i + 1 < c->levels) {
            x = named_block(&call, "downsample", c->encoder_spatial_downsample[i], x, width);
            x = named_block(&call, "time_downsample", c->encoder_temporal_downsample[i], x, width);
        }
        kin_scope_pop(graph);
    }
    x = middle(&call, c->encoder_mid_resnet, c->encoder_attention, x);
    x = norm_silu(&call, "norm_out", x);
    x = conv_of_kind(&call, c->encoder_conv_out, "conv_out", x, 2 * c->z_channels, 3);
    kin_scope_pop(graph);
    if (c->use_quant_layer)
        x = conv_of_kind(&call, c->q_conv, "quant_conv", x, 2 * c->embed_dim, 1);
    return kin_cast(graph, x, KIN_F32);
}

kin_tensor kin_causal_vae_decode(kin_graph *graph, const kin_causal_vae_config *config,
                                 const kin_precision *precision, kin_tensor latents) {
    vae_call call = {graph, precision};
    const kin_causal_vae_config *c = config;
    if (!fits(graph, latents, c->embed_dim, "latents")) return KIN_NONE;
    kin_tensor x = kin_cast(graph, latents, precision->compute);
    if (c->use_quant_layer)
        x = conv_of_kind(&call, c->q_conv, "post_quant_conv", x, c->z_channels, 1);
    kin_scope_push(graph, "decoder");
    int64_t deepest = (int64_t)c->hidden_size * c->hidden_size_mult[c->levels - 1];
    x = conv_of_kind(&call, c->decoder_conv_in, "conv_in", x, deepest, 3);
    x = middle(&call, c->decoder_mid_resnet, c->decoder_attention, x);
    for (int i = c->levels - 1; i >= 0; i--) {
        int64_t width = (int64_t)c->hidden_size * c->hidden_size_mult[i];
        kin_scope_push(graph, "up.%d", i);
        x = residual_blocks(&call, c->decoder_resnet_blocks[i], x, width, c->num_res_blocks + 1);
        x = named_block(&call, "upsample", c->decoder_spatial_upsample[i], x, width);
        x = named_block(&call, "time_upsample", c->decoder_temporal_upsample[i], x, width);
        kin_scope_pop(graph);
    }
    x = norm_silu(&call, "norm_out", x);
    x = conv_of_kind(&call, c->decoder_conv_out, "conv_out", x, 3, 3);
    kin_scope_pop(graph);
    return kin_cast(graph, x, KIN_F32);
}

bool kin_causal_vae_rename(const void *config, const char *file_name, char *out_name, size_t size) {
    static const char *const prefixes[] = {"state_dict.", "gen_model.", "module."};
    static const char *const others[] = {"dics_model.", "loss."};
    (void)config;
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++)
        if (strncmp(file_name, prefixes[i], strlen(prefixes[i])) == 0)
            file_name += strlen(prefixes[i]);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (strncmp(file_name, others[i], strlen(others[i])) == 0) return false;
    snprintf(out_name, size, "%s", file_name);
    return true;
}
