/* What PixArt and Latte share, for models/ only. */
#ifndef KIN_MODELS_PIXART_PARTS_H
#define KIN_MODELS_PIXART_PARTS_H

#include "models/blocks.h"
#include "models/pixart.h"

/* Reads and checks a configuration over *out_config's values; `latte`: of Latte's class. */
kin_status kin_pixart_read_config(kin_context *context, const struct json_t *json,
                                  const char *where, kin_unknown_keys unknown, bool latte,
                                  kin_pixart_config *out_config);

/* The name that the original's files have for one of diffusers' (separate projections become parts
 * of fused ones, as kin_weights_rename has it); false if it is none of diffusers'. */
bool kin_pixart_original_name(const char *file_name, char *out_name, size_t size);

/* One call of either model. */
typedef struct pixart_call {
    kin_graph *graph;
    const kin_pixart_config *config;
    const kin_precision *precision;
    kin_patch_grid grid;
    kin_block_text text;
    kin_tensor e;    /* [B, C]: the embedded timestep (and sizes) */
    kin_tensor rows; /* [B, 6, C]: what every block's table is added to */
} pixart_call;

/* C */
int64_t kin_pixart_width(const kin_pixart_config *config);
/* The inputs of either model; x [B, C, T, Y, X], text [B, 1 + I, L, caption_channels], and lengths
 * and mask with the same leading axes. Fills the call and returns the tokens [B, T, S, C];
 * KIN_NONE, with an error in the graph, if they do not fit. */
kin_tensor kin_pixart_begin(pixart_call *call, const char *model, kin_tensor x, kin_tensor text,
                            const kin_pixart_inputs *inputs);
/* transformer_blocks.INDEX: x [B, T, S, C] -> the same. */
kin_tensor kin_pixart_space_block(const pixart_call *call, int index, kin_tensor x);
/* temporal_transformer_blocks.INDEX. Its two branches start at zero, so that a model with fresh
 * ones computes what it did without. */
kin_tensor kin_pixart_time_block(const pixart_call *call, int index, kin_tensor x);
/* Tokens -> [B, out_channels, T, Y, X] in f32. */
kin_tensor kin_pixart_end(const pixart_call *call, kin_tensor x);

#endif
