/* The models and layers that `kinora bench model` times. */
#include "bench/graphs.h"

#include "models/causal_vae.h"
#include "models/training.h"
#include "models/vae_temporal.h"
#include "ops/attention.h"
#include "ops/conv.h"
#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/matmul.h"
#include "ops/norm.h"
#include "ops/optimizer.h"
#include "ops/reduce.h"
#include "ops/self_attention.h"

#include <math.h>
#include <stdio.h>

static const kin_init normal = {KIN_INIT_NORMAL, 0.05};

/* Weights that are trained stay f32. */
static kin_precision precision_of(kin_dtype dtype, bool train) {
    return (kin_precision){.weights = train ? KIN_F32 : dtype, .compute = dtype};
}

static kin_tensor weight(kin_graph *graph, const char *name, kin_dtype dtype, int rank,
                         const int64_t *dims) {
    return kin_variable(graph, name, KIN_VARIABLE_WEIGHT, dtype, rank, dims, normal);
}

/* The result as an output and, with train, the gradients of sum(result * cotangent), for a
 * cotangent that is given: what PyTorch's y.backward(cotangent) does. The sum itself is no output,
 * so the planner leaves it out. */
static kin_status finish(kin_graph *graph, kin_tensor result, const kin_tensor *inputs, int count,
                         bool train) {
    kin_output(graph, "out", result);
    if (!train) return kin_graph_status(graph);
    kin_desc desc = *kin_tensor_desc(graph, result);
    kin_tensor cotangent = kin_input(graph, "cotangent", desc.dtype, desc.rank, desc.dims);
    for (int i = 0; i < count; i++) kin_want_gradient(graph, inputs[i]);
    kin_tensor loss = kin_sum_all(graph, kin_mul(graph, result, cotangent));
    kin_backward(graph, kin_cast(graph, loss, KIN_F32));
    for (int i = 0; i < count; i++) {
        char name[32];
        snprintf(name, sizeof name, "gradient.%d", i);
        kin_output(graph, name, kin_gradient(graph, inputs[i]));
    }
    int variables = kin_variable_count(graph);
    for (int i = 0; i < variables; i++) {
        kin_tensor variable = kin_variable_at(graph, i), gradient = kin_gradient(graph, variable);
        char name[512];
        if (!gradient.id) continue;
        snprintf(name, sizeof name, "gradient.%s", kin_variable_name(graph, variable));
        kin_output(graph, name, gradient);
    }
    return kin_graph_status(graph);
}

/* ---- layers: sizes are those of the row ---- */

/* sizes: samples, tokens, heads, head size */
static kin_status append_attention(kin_graph *graph, const int64_t *sizes, kin_dtype dtype,
                                   bool train) {
    kin_tensor in[3];
    const char *const names[] = {"q", "k", "v"};
    for (int i = 0; i < 3; i++) in[i] = kin_input(graph, names[i], dtype, 4, sizes);
    kin_tensor y =
        kin_attention(graph, in[0], in[1], in[2], KIN_NONE, KIN_NONE, 1 / sqrt((double)sizes[3]));
    return finish(graph, y, in, 3, train);
}

/* sizes: frames, sites, heads, head size: over the frames of each site, from the packed product of
 * tokens to tokens in their order */
static kin_status append_self_attention(kin_graph *graph, const int64_t *sizes, kin_dtype dtype,
                                        bool train) {
    int64_t dims[6] = {1, sizes[0], sizes[1], 3, sizes[2], sizes[3]};
    kin_tensor qkv = kin_input(graph, "qkv", dtype, 6, dims);
    const kin_self_attention_options options = {.scale = 1 / sqrt((double)sizes[3]),
                                                .over_frames = true};
    return finish(graph, kin_self_attention_packed(graph, qkv, &options), &qkv, 1, train);
}

/* sizes: channels, frames (0: an image), rows, columns */
static kin_status append_conv(kin_graph *graph, const int64_t *sizes, kin_dtype dtype, bool train) {
    int64_t c = sizes[0], one[3] = {1, 1, 1};
    int64_t image[4] = {1, c, sizes[2], sizes[3]}, video[5] = {1, c, sizes[1], sizes[2], sizes[3]};
    int64_t kernel[5] = {c, c, 3, 3, 3};
    bool is_video = sizes[1] > 0;
    kin_tensor x = kin_input(graph, "x", dtype, is_video ? 5 : 4, is_video ? video : image);
    kin_tensor w = weight(graph, "weight", dtype, is_video ? 5 : 4, kernel);
    kin_tensor bias = weight(graph, "bias", dtype, 1, &c);
    kin_tensor y =
        is_video ? kin_conv3d(graph, x, w, bias, one, one) : kin_conv2d(graph, x, w, bias, 1, 1);
    return finish(graph, y, &x, 1, train);
}

/* sizes: rows, in, out */
static kin_status append_linear(kin_graph *graph, const int64_t *sizes, kin_dtype dtype,
                                bool train) {
    int64_t dims[2] = {sizes[2], sizes[1]};
    kin_tensor x = kin_input(graph, "x", dtype, 2, sizes);
    kin_tensor w = weight(graph, "weight", dtype, 2, dims),
               bias = weight(graph, "bias", dtype, 1, dims);
    return finish(graph, kin_linear(graph, x, w, bias), &x, 1, train);
}

/* sizes: rows, columns */
static kin_status append_layer_norm(kin_graph *graph, const int64_t *sizes, kin_dtype dtype,
                                    bool train) {
    kin_tensor x = kin_input(graph, "x", dtype, 2, sizes);
    kin_tensor w = weight(graph, "weight", dtype, 1, &sizes[1]),
               b = weight(graph, "bias", dtype, 1, &sizes[1]);
    return finish(graph, kin_layer_norm(graph, x, w, b, 1e-5), &x, 1, train);
}

/* sizes: channels, rows, columns; 32 groups, SiLU after it */
static kin_status append_group_norm(kin_graph *graph, const int64_t *sizes, kin_dtype dtype,
                                    bool train) {
    int64_t dims[4] = {1, sizes[0], sizes[1], sizes[2]};
    kin_tensor x = kin_input(graph, "x", dtype, 4, dims);
    kin_tensor w = weight(graph, "weight", dtype, 1, sizes),
               b = weight(graph, "bias", dtype, 1, sizes);
    return finish(graph, kin_group_norm(graph, x, w, b, 32, 1e-6, true), &x, 1, train);
}

/* sizes: tensors, elements of each. One step, with the given gradients. */
static kin_status append_adamw(kin_graph *graph, const int64_t *sizes, kin_dtype dtype,
                               bool train) {
    kin_adamw_attrs attrs = {.beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0.01};
    (void)dtype; /* states are f32 */
    (void)train;
    kin_tensor lr = kin_input(graph, "lr", KIN_F32, 0, sizes);
    kin_tensor step = kin_input(graph, "step", KIN_I64, 0, sizes);
    for (int i = 0; i < sizes[0]; i++) {
        static const char *const kinds[] = {"p", "m", "v"};
        kin_tensor state[3];
        char name[32];
        for (int s = 0; s < 3; s++) {
            snprintf(name, sizeof name, "%s.%d", kinds[s], i);
            state[s] = kin_variable(graph, name, KIN_VARIABLE_STATE, KIN_F32, 1, &sizes[1],
                                    s == 2 ? (kin_init){KIN_INIT_ONE, 0} : normal);
        }
        snprintf(name, sizeof name, "gradient.%d", i);
        kin_tensor gradient = kin_input(graph, name, KIN_F32, 1, &sizes[1]);
        kin_adamw(graph, state[0], gradient, state[1], state[2], lr, step, KIN_NONE, &attrs);
    }
    return kin_graph_status(graph);
}

/* ---- models ---- */

/* The denoiser alone: sizes are batch, frames, rows, columns of latents, text tokens. */
static kin_tensor append_denoiser(kin_graph *graph, const kin_stdit_config *config,
                                  const kin_precision *precision, const int64_t *sizes,
                                  kin_tensor features) {
    int64_t x[5] = {sizes[0], config->in_channels, sizes[1], sizes[2], sizes[3]};
    kin_stdit_inputs inputs = {.x = kin_input(graph, "x", KIN_F32, 5, x),
                               .timestep = kin_input(graph, "timestep", KIN_F32, 1, sizes),
                               .y = features,
                               .y_lengths = kin_input(graph, "lengths", KIN_I32, 1, sizes)};
    return kin_stdit(graph, config, precision, &inputs);
}

/* STDiT-XL/2 with one block of its 28. The embeddings and the last layer are 1 % of its operations.
 */
static kin_status append_stdit_block(kin_graph *graph, const int64_t *sizes, kin_dtype dtype,
                                     bool train) {
    const kin_precision precision = precision_of(dtype, train);
    kin_stdit_config config = kin_stdit_config_default();
    int64_t y[3] = {sizes[0], sizes[4], config.caption_channels};
    config.depth = 1;
    kin_tensor out =
        append_denoiser(graph, &config, &precision, sizes, kin_input(graph, "y", KIN_F32, 3, y));
    return finish(graph, out, NULL, 0, train);
}

/* The others with one block (Latte: one over space and one over time) of their 28. */
static kin_status append_one_block(kin_graph *graph, const int64_t *sizes, kin_dtype dtype,
                                   bool train, kin_denoiser_config *config) {
    const kin_precision precision = precision_of(dtype, train);
    kin_denoiser_shape shape = kin_denoiser_shape_of(config);
    int64_t x[5] = {sizes[0], shape.in_channels, sizes[1], sizes[2], sizes[3]};
    int64_t y[3] = {sizes[0], sizes[4], shape.caption_channels};
    config->stdit2.common.depth = 1;
    config->pixart.num_layers = 1;
    kin_denoiser_inputs inputs = {.x = kin_input(graph, "x", KIN_F32, 5, x),
                                  .timestep = kin_input(graph, "timestep", KIN_F32, 1, sizes),
                                  .y = kin_input(graph, "y", KIN_F32, 3, y),
                                  .y_lengths = kin_input(graph, "lengths", KIN_I32, 1, sizes)};
    return finish(graph, kin_denoiser(graph, config, &precision, &inputs), NULL, 0, train);
}

static kin_status append_stdit2_block(kin_graph *graph, const int64_t *sizes, kin_dtype dtype,
                                      bool train) {
    kin_denoiser_config config = {.kind = KIN_DENOISER_STDIT2,
                                  .stdit2 = kin_stdit2_config_default()};
    return append_one_block(graph, sizes, dtype, train, &config);
}

static kin_status append_latte_block(kin_graph *graph, const int64_t *sizes, kin_dtype dtype,
                                     bool train) {
    kin_denoiser_config config = {.kind = KIN_DENOISER_LATTE, .pixart = kin_latte_config_default()};
    return append_one_block(graph, sizes, dtype, train, &config);
}

static kin_status append_pixart_block(kin_graph *graph, const int64_t *sizes, kin_dtype dtype,
                                      bool train) {
    kin_denoiser_config config = {.kind = KIN_DENOISER_PIXART,
                                  .pixart = kin_pixart_config_default()};
    return append_one_block(graph, sizes, dtype, train, &config);
}

static kin_stdit_config demo_denoiser(const int64_t *sizes) {
    kin_stdit_config config = kin_stdit_config_default();
    config.hidden_size = 128;
    config.depth = 4;
    config.num_heads = 4;
    config.caption_channels = 64;
    config.model_max_length = (int)sizes[4];
    config.train_y_embedding = true;
    config.space_scale = config.time_scale = 0.25;
    return config;
}

/* The demo's denoiser with its text encoder. train: the whole step, as `kinora train` runs it. */
static kin_status append_demo(kin_graph *graph, const int64_t *sizes, kin_dtype dtype, bool train) {
    const kin_precision precision = precision_of(dtype, train);
    kin_stdit_config denoiser = demo_denoiser(sizes);
    kin_t5_config text;
    kin_context *context = kin_graph_context(graph);
    kin_status status = kin_t5_config_named(context, "t5-v1_1-small", &text);
    if (status != KIN_OK) return status;
    text.vocab_size = KIN_BENCH_VOCABULARY;
    text.d_model = 64;
    text.num_heads = 4;
    text.d_kv = 16;
    text.d_ff = 128;
    text.num_layers = 2;
    if (!train) {
        int64_t dims[2] = {sizes[0], sizes[4]};
        kin_tensor ids = kin_input(graph, "ids", KIN_I32, 2, dims);
        kin_scope_push(graph, "text_encoder");
        kin_tensor features = kin_t5_encode(graph, &text, &precision, ids, KIN_NONE, false);
        kin_scope_pop(graph);
        return finish(graph, append_denoiser(graph, &denoiser, &precision, sizes, features), NULL,
                      0, false);
    }
    kin_schedule *schedule = NULL;
    status = kin_schedule_create(context, 1000, NULL, &schedule);
    if (status != KIN_OK) return status;
    kin_video_training training = {.denoiser = &denoiser,
                                   .text_encoder = &text,
                                   .schedule = schedule,
                                   .scaling_factor = 1,
                                   .caption_dropout = 0.1,
                                   .precision = precision,
                                   .batch = sizes[0],
                                   .frames = sizes[1],
                                   .latent_height = sizes[2],
                                   .latent_width = sizes[3],
                                   .text_length = sizes[4]};
    kin_optimizer_options optimizer = {
        .beta1 = 0.9, .beta2 = 0.99, .epsilon = 1e-8, .max_grad_norm = 1, .ema_decay = 0.999};
    kin_training_update(graph, kin_video_training_loss(graph, &training), &optimizer);
    kin_schedule_free(schedule);
    return kin_graph_status(graph);
}

/* sizes: images, rows, columns */
static kin_status append_vae_decode(kin_graph *graph, const int64_t *sizes, kin_dtype dtype,
                                    bool train) {
    const kin_precision precision = precision_of(dtype, train);
    kin_sd_vae_config config = kin_sd_vae_config_default();
    int64_t factor = kin_sd_vae_factor(&config);
    int64_t dims[4] = {sizes[0], config.latent_channels, sizes[1] / factor, sizes[2] / factor};
    kin_tensor latents = kin_input(graph, "latents", KIN_F32, 4, dims);
    return finish(graph, kin_sd_vae_decode(graph, &config, &precision, latents, false), NULL, 0,
                  train);
}

/* sizes: frames, rows, columns */
static kin_status append_temporal_decode(kin_graph *graph, const int64_t *sizes, kin_dtype dtype,
                                         bool train) {
    const kin_precision precision = precision_of(dtype, train);
    kin_sd_vae_config config = kin_sd_vae_config_default();
    int64_t factor = kin_sd_vae_factor(&config);
    int64_t dims[4] = {sizes[0], config.latent_channels, sizes[1] / factor, sizes[2] / factor};
    kin_tensor latents = kin_input(graph, "latents", KIN_F32, 4, dims);
    kin_tensor out = kin_vae_temporal_decode(graph, &config, &precision, latents, sizes[0], false);
    return finish(graph, out, NULL, 0, train);
}

/* sizes: captions, tokens, blocks of T5 v1.1 XXL's 24; with its last norm. */
static kin_status append_t5(kin_graph *graph, const int64_t *sizes, kin_dtype dtype, bool train) {
    const kin_precision precision = precision_of(dtype, train);
    kin_t5_config config;
    kin_status status = kin_t5_config_named(kin_graph_context(graph), "t5-v1_1-xxl", &config);
    if (status != KIN_OK) return status;
    config.num_layers = (int)sizes[2];
    config.vocab_size = KIN_BENCH_VOCABULARY;
    kin_tensor ids = kin_input(graph, "ids", KIN_I32, 2, sizes);
    return finish(graph, kin_t5_encode(graph, &config, &precision, ids, KIN_NONE, false), NULL, 0,
                  train);
}

/* sizes: frames, rows, columns */
static kin_status append_causal_encode(kin_graph *graph, const int64_t *sizes, kin_dtype dtype,
                                       bool train) {
    const kin_precision precision = precision_of(dtype, train);
    kin_causal_vae_config config;
    kin_status status =
        kin_causal_vae_config_named(kin_graph_context(graph), "causal-vae-1.2", &config);
    if (status != KIN_OK) return status;
    int64_t dims[5] = {1, 3, sizes[0], sizes[1], sizes[2]};
    kin_tensor x = kin_input(graph, "x", KIN_F32, 5, dims);
    return finish(graph, kin_causal_vae_encode(graph, &config, &precision, x), NULL, 0, train);
}

#define ATTENTION(tokens, samples, heads)                                                          \
    true, append_attention, {                                                                      \
        samples, tokens, heads, 72                                                                 \
    }

const kin_bench_graph kin_bench_graphs[] = {
    {"demo",
     "the demo's denoiser and text encoder: 16 clips of 8 frames of 8x8 latents",
     true,
     append_demo,
     {16, 8, 8, 8, 10}},
    {"STDiT-XL/2-block",
     "one block of STDiT-XL/2: 16 frames of 256 tokens, 120 of text",
     true,
     append_stdit_block,
     {1, 16, 32, 32, 120}},
    {"STDiT2-XL/2-block",
     "one block of STDiT2-XL/2: 16 frames of 256 tokens, 200 of text",
     true,
     append_stdit2_block,
     {1, 16, 32, 32, 200}},
    {"Latte-1-blocks",
     "a pair of Latte-1's blocks: 16 frames of 256 tokens, 120 of text",
     true,
     append_latte_block,
     {1, 16, 32, 32, 120}},
    {"PixArt-XL-2-block",
     "one block of PixArt-XL-2: a picture of 1024 tokens, 120 of text",
     true,
     append_pixart_block,
     {1, 1, 64, 64, 120}},
    {"vae-temporal",
     "Latte's temporal decoder: 2 frames of 128x128",
     false,
     append_temporal_decode,
     {2, 128, 128}},
    {"sd-vae",
     "the decoder of Stable Diffusion's VAE: an image of 256x256",
     false,
     append_vae_decode,
     {1, 256, 256}},
    {"sd-vae-512", "the same: an image of 512x512", false, append_vae_decode, {1, 512, 512}},
    {"causal-vae-encode",
     "Open-Sora-Plan 1.2's encoder: 33 frames of 256x256",
     false,
     append_causal_encode,
     {33, 256, 256}},
    {"t5-block", "one block of T5 v1.1 XXL: 300 tokens", false, append_t5, {1, 300, 1}},
    {"t5-xxl", "all of T5 v1.1 XXL but its vocabulary: 300 tokens", false, append_t5, {1, 300, 24}},
    {"attention-256", "16 heads of 72, 256 tokens", ATTENTION(256, 1, 16)},
    {"attention-1024", "16 heads of 72, 1024 tokens", ATTENTION(1024, 1, 16)},
    {"attention-4096", "16 heads of 72, 4096 tokens", ATTENTION(4096, 1, 16)},
    {"attention-spatial", "16 frames, 16 heads of 72, 256 tokens", ATTENTION(256, 16, 16)},
    {"attention-temporal", "256 places, 16 heads of 72, 16 frames", ATTENTION(16, 256, 16)},
    {"attention-frames",
     "16 frames of 256 tokens, 16 heads of 72, packed, over the frames",
     true,
     append_self_attention,
     {16, 256, 16, 72}},
    {"conv2d-128-64", "3x3, 128 channels of 64x64", true, append_conv, {128, 0, 64, 64}},
    {"conv2d-128-256", "3x3, 128 channels of 256x256", true, append_conv, {128, 0, 256, 256}},
    {"conv2d-256-128", "3x3, 256 channels of 128x128", true, append_conv, {256, 0, 128, 128}},
    {"conv2d-512-64", "3x3, 512 channels of 64x64", true, append_conv, {512, 0, 64, 64}},
    {"conv3d-128-64", "3x3x3, 128 channels of 9x64x64", true, append_conv, {128, 9, 64, 64}},
    {"conv3d-256-32", "3x3x3, 256 channels of 9x32x32", true, append_conv, {256, 9, 32, 32}},
    {"linear-qkv", "4096 rows, 1152 to 3456", true, append_linear, {4096, 1152, 3456}},
    {"linear-proj", "4096 rows, 1152 to 1152", true, append_linear, {4096, 1152, 1152}},
    {"linear-fc1", "4096 rows, 1152 to 4608", true, append_linear, {4096, 1152, 4608}},
    {"linear-fc2", "4096 rows, 4608 to 1152", true, append_linear, {4096, 4608, 1152}},
    {"linear-t5", "300 rows, 4096 to 10240", true, append_linear, {300, 4096, 10240}},
    {"layer-norm",
     "with weight and bias, 4096 rows of 1152",
     true,
     append_layer_norm,
     {4096, 1152}},
    {"group-norm-silu",
     "32 groups, 128 channels of 256x256",
     true,
     append_group_norm,
     {128, 256, 256}},
    {"adamw", "21 million weights in 4 tensors", false, append_adamw, {4, 5250000}},
    {NULL, NULL, false, NULL, {0}},
};
