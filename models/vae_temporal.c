#include "models/vae_temporal.h"

#include "models/vae_blocks.h"
#include "ops/conv.h"
#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/upsample.h"
#include "ops/views.h"

static const double space_eps = 1e-6, time_eps = 1e-5;

typedef struct temporal_call {
    kin_graph *graph;
    const kin_sd_vae_config *config;
    const kin_precision *precision;
    int64_t frames;
} temporal_call;

/* [B T, C, Y, X] -> [B, C, T, Y, X] */
static kin_tensor to_video(const temporal_call *call, kin_tensor x) {
    kin_graph *g = call->graph;
    int64_t dims[] = {kin_dim(g, x, 0) / call->frames, call->frames, kin_dim(g, x, 1),
                      kin_dim(g, x, 2), kin_dim(g, x, 3)};
    return kin_transpose(g, kin_reshape(g, x, 5, dims), 1, 2);
}

/* The reverse. */
static kin_tensor to_images(const temporal_call *call, kin_tensor x) {
    return kin_flatten(call->graph, kin_transpose(call->graph, x, 1, 2), 0, 1);
}

/* NAME.weight [C, C, 3, 1, 1] over the frames, with zeros around them: x [B, C, T, Y, X]. */
static kin_tensor time_conv(const temporal_call *call, const char *name, kin_tensor x) {
    kin_graph *g = call->graph;
    int64_t channels = kin_dim(g, x, 1), kernel[] = {channels, channels, 3, 1, 1};
    kin_init start = {KIN_INIT_FAN_IN_UNIFORM, 1};
    kin_scope_push(g, "%s", name);
    kin_tensor weight = kin_layer_weight(g, call->precision, "weight", 5, kernel, start);
    start = (kin_init){KIN_INIT_ZERO, 0};
    kin_tensor bias = kin_layer_weight(g, call->precision, "bias", 1, &channels, start);
    x = kin_conv3d(g, x, weight, bias, (int64_t[]){1, 1, 1}, (int64_t[]){1, 0, 0});
    kin_scope_pop(g);
    return x;
}

/* What the frames around add to x [B T, C, Y, X]: two norms, SiLUs and convolutions over time. */
static kin_tensor time_branch(const temporal_call *call, kin_tensor x) {
    kin_graph *g = call->graph;
    int groups = call->config->norm_num_groups;
    kin_scope_push(g, "temporal_res_block");
    x = to_video(call, x);
    x = kin_layer_group_norm(g, call->precision, "norm1", x, groups, time_eps, true);
    x = time_conv(call, "conv1", x);
    x = kin_layer_group_norm(g, call->precision, "norm2", x, groups, time_eps, true);
    x = time_conv(call, "conv2", x);
    kin_scope_pop(g);
    return to_images(call, x);
}

/* A resnet of each frame, s, then t = s + the branch over time, mixed as (1 - a) s + a t with
 * a = sigmoid(mix_factor): s + a * branch. */
static kin_tensor resnet(const temporal_call *call, int index, kin_tensor x, int out) {
    kin_graph *g = call->graph;
    int64_t one = 1;
    kin_scope_push(g, "resnets.%d", index);
    kin_segment_begin(g);
    kin_scope_push(g, "spatial_res_block");
    x = kin_vae_resnet(g, call->precision, x, out, call->config->norm_num_groups, space_eps);
    kin_scope_pop(g);
    kin_tensor branch = time_branch(call, x);
    kin_scope_push(g, "time_mixer");
    kin_tensor mix =
        kin_layer_weight(g, call->precision, "mix_factor", 1, &one, (kin_init){KIN_INIT_ZERO, 0});
    kin_scope_pop(g);
    x = kin_add(g, x, kin_mul(g, kin_sigmoid(g, mix), branch));
    kin_segment_end(g);
    kin_scope_pop(g);
    return x;
}

/* As many resnets as layers_per_block are in the file; two at most are used, as in the original. */
static kin_tensor mid_block(const temporal_call *call, kin_tensor x, int channels) {
    kin_graph *g = call->graph;
    kin_scope_push(g, "mid_block");
    x = resnet(call, 0, x, channels);
    if (call->config->layers_per_block > 1) {
        kin_scope_push(g, "attentions.0");
        kin_segment_begin(g);
        x = kin_vae_attention(g, call->precision, x, call->config->norm_num_groups, space_eps);
        kin_segment_end(g);
        kin_scope_pop(g);
        x = resnet(call, 1, x, channels);
    }
    kin_scope_pop(g);
    return x;
}

kin_tensor kin_vae_temporal_decode(kin_graph *graph, const kin_sd_vae_config *config,
                                   const kin_precision *precision, kin_tensor latents,
                                   int64_t frames, bool name_hidden) {
    kin_graph *g = graph;
    temporal_call call = {g, config, precision, frames};
    int levels = config->levels, deepest = config->block_out_channels[levels - 1];
    if (frames < 1 || kin_rank(g, latents) != 4 || kin_dim(g, latents, 0) % frames != 0)
        return kin_graph_fail(g, KIN_INVALID,
                              "temporal decoder: latents must be [videos * %lld frames, C, Y, X]",
                              (long long)frames);
    kin_scope_push(g, "decoder");
    kin_tensor x = kin_cast(g, latents, precision->compute);
    x = kin_layer_conv2d(g, precision, "conv_in", x, deepest, 3, 1, 1, 1);
    kin_layer_tap(g, name_hidden, "hidden", 0, x);
    x = mid_block(&call, x, deepest);
    kin_layer_tap(g, name_hidden, "hidden", 1, x);
    for (int i = 0; i < levels; i++) {
        int channels = config->block_out_channels[levels - 1 - i];
        kin_scope_push(g, "up_blocks.%d", i);
        for (int j = 0; j <= config->layers_per_block; j++) x = resnet(&call, j, x, channels);
        if (i + 1 < levels) {
            x = kin_upsample_nearest(g, x, 1, 2, 2);
            x = kin_layer_conv2d(g, precision, "upsamplers.0.conv", x, channels, 3, 1, 1, 1);
        }
        kin_scope_pop(g);
        kin_layer_tap(g, name_hidden, "hidden", 2 + i, x);
    }
    x = kin_layer_group_norm(g, precision, "conv_norm_out", x, config->norm_num_groups, space_eps,
                             true);
    x = kin_layer_conv2d(g, precision, "conv_out", x, config->out_channels, 3, 1, 1, 1);
    kin_layer_tap(g, name_hidden, "hidden", 2 + levels, x);
    x = to_images(&call, time_conv(&call, "time_conv_out", to_video(&call, x)));
    kin_scope_pop(g);
    return kin_cast(g, x, KIN_F32);
}
