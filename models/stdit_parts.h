/* What STDiT and STDiT2 share, for models/stdit*.c only. */
#ifndef KIN_MODELS_STDIT_PARTS_H
#define KIN_MODELS_STDIT_PARTS_H

#include "models/blocks.h"
#include "models/stdit.h"

/* Reads the keys that both have over what *config holds; `type` sizes are applied before. */
kin_status kin_stdit_read_common(kin_context *context, const struct json_t *json, const char *where,
                                 kin_stdit_config *config);
/* Gives depth, width and heads of "PREFIX-XL/2" and its smaller kin, of those whose width is a
 * multiple of `multiple`. */
kin_status kin_stdit_apply_size(kin_context *context, const char *prefix, int multiple,
                                const char *name, kin_stdit_config *config);

/* False, with an error in the graph, unless x is [B, in_channels, T, Y, X] and y
 * [B, L, caption_channels]. `model` is for the message. */
bool kin_stdit_inputs_fit(kin_graph *graph, const char *model, const kin_stdit_config *config,
                          kin_tensor x, kin_tensor y);
/* t_embedder: [B] -> [B, C]. */
kin_tensor kin_stdit_embed_timestep(kin_graph *graph, const kin_stdit_config *config,
                                    const kin_precision *precision, kin_tensor timestep);
/* NAME.1 of SiLU(t): [B, C] -> [B, count * C]. */
kin_tensor kin_stdit_time_rows(kin_graph *graph, const kin_precision *precision, const char *name,
                               kin_tensor t, int count);
/* y_embedder with the null caption where drop (f32 [B] or KIN_NONE) is 1: -> [B, L, C]. */
kin_tensor kin_stdit_embed_caption(kin_graph *graph, const kin_stdit_config *config,
                                   const kin_precision *precision, kin_tensor y, kin_tensor drop);
/* As kin_block_cross_attention wants it: states [B, L, C], lengths i32 [B] or KIN_NONE. */
kin_block_text kin_stdit_text(kin_graph *graph, kin_tensor states, kin_tensor lengths);
/* mlp.fc1, GELU, mlp.fc2. */
kin_tensor kin_stdit_feed_forward(kin_graph *graph, const kin_stdit_config *config,
                                  const kin_precision *precision, kin_tensor x);
/* Six rows [R, 6, C] as shift, scale and gate of the attention, then of the feed-forward layer,
 * [R, 1, C] each. */
void kin_stdit_split_rows(kin_graph *graph, kin_tensor rows, kin_tensor attn[3], kin_tensor mlp[3]);
/* Keeps the weights that the configuration does not train from being trained. */
void kin_stdit_freeze_weights(kin_graph *graph, const kin_stdit_config *config);

#endif
