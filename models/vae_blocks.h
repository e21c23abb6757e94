/* The pieces that the image autoencoders share, for models/ only. Names of weights are relative to
 * the graph's scope. */
#ifndef KIN_MODELS_VAE_BLOCKS_H
#define KIN_MODELS_VAE_BLOCKS_H

#include "models/layers.h"

/* x [B, C, Y, X] -> [B, out, Y, X]: norm1, SiLU, conv1, norm2, SiLU, conv2 (3x3), added to x, which
 * goes through conv_shortcut (1x1) where the channels change. */
kin_tensor kin_vae_resnet(kin_graph *graph, const kin_precision *precision, kin_tensor x, int out,
                          int groups, double eps);
/* x [B, C, Y, X] -> the same: group_norm, then one head as wide as the channels over all pixels by
 * to_q, to_k, to_v and to_out.0, added to x. */
kin_tensor kin_vae_attention(kin_graph *graph, const kin_precision *precision, kin_tensor x,
                             int groups, double eps);

#endif
