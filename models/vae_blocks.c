#include "models/vae_blocks.h"

#include <math.h>

#include "ops/attention.h"
#include "ops/elementwise.h"
#include "ops/views.h"

kin_tensor kin_vae_resnet(kin_graph *graph, const kin_precision *precision, kin_tensor x, int out,
                          int groups, double eps) {
    kin_tensor h = kin_layer_group_norm(graph, precision, "norm1", x, groups, eps, true);
    h = kin_layer_conv2d(graph, precision, "conv1", h, out, 3, 1, 1, 1);
    h = kin_layer_group_norm(graph, precision, "norm2", h, groups, eps, true);
    h = kin_layer_conv2d(graph, precision, "conv2", h, out, 3, 1, 1, 1);
    if (kin_dim(graph, x, 1) != out)
        x = kin_layer_conv2d(graph, precision, "conv_shortcut", x, out, 1, 1, 0, 0);
    return kin_add(graph, x, h);
}

kin_tensor kin_vae_attention(kin_graph *graph, const kin_precision *precision, kin_tensor x,
                             int groups, double eps) {
    static const char *const names[] = {"to_q", "to_k", "to_v"};
    kin_graph *g = graph;
    int64_t image[] = {kin_dim(g, x, 0), kin_dim(g, x, 1), kin_dim(g, x, 2), kin_dim(g, x, 3)};
    int64_t batch = image[0], channels = image[1], count = image[2] * image[3];
    kin_tensor h = kin_layer_group_norm(g, precision, "group_norm", x, groups, eps, false), qkv[3];
    h = kin_transpose(g, kin_reshape(g, h, 3, (int64_t[]){batch, channels, count}), 1, 2);
    for (int i = 0; i < 3; i++)
        qkv[i] =
            kin_reshape(g, kin_layer_linear(g, precision, names[i], h, channels, KIN_START_TORCH),
                        4, (int64_t[]){batch, count, 1, channels});
    h = kin_attention(g, qkv[0], qkv[1], qkv[2], KIN_NONE, KIN_NONE, 1.0 / sqrt((double)channels));
    h = kin_reshape(g, h, 3, (int64_t[]){batch, count, channels});
    h = kin_layer_linear(g, precision, "to_out.0", h, channels, KIN_START_TORCH);
    return kin_add(g, x, kin_reshape(g, kin_transpose(g, h, 1, 2), 4, image));
}
