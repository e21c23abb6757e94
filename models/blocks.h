/* The pieces that the diffusion transformers share (STDiT, STDiT2, PixArt, Latte): patches,
 * embeddings, attention over space, time and text, and the tables of adaptive norms (PixArt-alpha,
 * arXiv:2310.00426, section 2.3; DiT, arXiv:2212.09748). Tokens are [B, T, S, C]: T frames of S
 * tokens. Names of weights are relative to the graph's scope. */
#ifndef KIN_MODELS_BLOCKS_H
#define KIN_MODELS_BLOCKS_H

#include "models/layers.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The grid of patches over x [B, C, T, Y, X]; sizes that are no multiples of the patch are filled
 * up with zeros at their ends. */
typedef struct kin_patch_grid {
    int64_t batch;
    int64_t size[3];  /* of x: frames, rows, columns */
    int64_t patch[3]; /* of one patch */
    int64_t count[3]; /* patches along each axis */
    int64_t sites;    /* patches of a frame: S */
} kin_patch_grid;

KIN_API kin_patch_grid kin_patch_grid_of(const kin_graph *graph, kin_tensor x, const int patch[3]);
/* x -> tokens [B, T, S, width] by NAME.weight [width, C, (pt,) py, px] and NAME.bias. kernel_rank 4
 * leaves pt out, as files of image models do. */
KIN_API kin_tensor kin_block_embed_patches(kin_graph *graph, const kin_precision *precision,
                                           const char *name, kin_tensor x,
                                           const kin_patch_grid *grid, int64_t width,
                                           int kernel_rank);
/* tokens [.., channels * patch], entries ordered (dt, dy, dx, channel) -> [B, channels, T, Y, X],
 * cropped to the grid's sizes, in f32. */
KIN_API kin_tensor kin_block_unpatchify(kin_graph *graph, kin_tensor tokens,
                                        const kin_patch_grid *grid, int64_t channels);

/* 256 sinusoidal features of numbers [B] (timesteps, sizes), then FIRST, SiLU, SECOND: [B, width].
 */
KIN_API kin_tensor kin_block_embed_number(kin_graph *graph, const kin_precision *precision,
                                          const char *first, const char *second, kin_tensor numbers,
                                          int64_t width, kin_layer_start start);
/* FIRST [inner, C], GELU (tanh), SECOND [out, inner]: captions and feed-forward layers. */
KIN_API kin_tensor kin_block_mlp(kin_graph *graph, const kin_precision *precision,
                                 const char *first, const char *second, kin_tensor x, int64_t inner,
                                 int64_t out, kin_layer_start first_start,
                                 kin_layer_start second_start);
/* Rows of the table NAME [count, C] plus t [B, count, C] or [B, 1, C]: [B, count, C]. */
KIN_API kin_tensor kin_block_scale_shift(kin_graph *graph, const kin_precision *precision,
                                         const char *name, int count, kin_tensor t);

/* One self-attention. The names below are relative to PREFIX. */
typedef struct kin_self_attention_block {
    int heads;
    bool over_time; /* over the frames of each site, not over the sites of each frame */
    bool separate;  /* to_q, to_k, to_v and to_out.0 (diffusers), not qkv and proj */
    bool rotary;  /* turns q and k by the index of the frame, interleaved pairs, before any norm */
    bool qk_norm; /* RMS norms q_norm and k_norm over each head, eps 1e-6 */
    kin_layer_start out_start; /* of the last projection */
} kin_self_attention_block;

/* x [B, T, S, C] -> the same. */
KIN_API kin_tensor kin_block_self_attention(kin_graph *graph, const kin_precision *precision,
                                            const char *prefix, kin_tensor x,
                                            const kin_self_attention_block *block);

/* What tokens look at: captions [B, 1 + I, L, C]. With I > 0 the last I frames of x are images
 * with a caption each, and the first caption is that of the frames before them. */
typedef struct kin_block_text {
    kin_tensor states;  /* [B, 1 + I, L, C] */
    kin_tensor lengths; /* i32 [B, 1 + I]: tokens that take part; or KIN_NONE */
    kin_tensor bias;    /* f32 [B, 1 + I, L], added to the scores; or KIN_NONE */
} kin_block_text;

/* x [B, T, S, C] -> the same. separate: to_q, to_k, to_v and to_out.0, not q_linear, kv_linear and
 * proj. The last projection starts at zero. */
KIN_API kin_tensor kin_block_cross_attention(kin_graph *graph, const kin_precision *precision,
                                             const char *prefix, kin_tensor x,
                                             const kin_block_text *text, int heads, bool separate);

#ifdef __cplusplus
}
#endif
#endif
