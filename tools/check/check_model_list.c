/* The tiny models that `kinora check model` runs: a row for each kind. Widths are such that no axis
 * is a multiple of a vector's length where the model allows it. */
#include "tools/check/check_models.h"

#include "models/causal_vae.h"
#include "models/denoiser.h"
#include "models/training.h"
#include "models/vae_temporal.h"

enum { CAPTION = 24, LATENTS = 4 };

/* ---- T5 ---- */

static kin_t5_config t5_config(int blocks) {
    return (kin_t5_config){.vocab_size = KIN_CHECK_VOCABULARY,
                           .d_model = CAPTION,
                           .num_heads = 3,
                           .d_kv = 8,
                           .d_ff = 40,
                           .num_layers = blocks,
                           .gated = true,
                           .layer_norm_epsilon = 1e-6,
                           .relative_attention_num_buckets = 32,
                           .relative_attention_max_distance = 128,
                           .initializer_factor = 1};
}

static kin_tensor append_t5(kin_graph *graph, const kin_precision *precision, int blocks,
                            kin_tensor x, kin_tensor timestep) {
    (void)timestep;
    kin_t5_config config = t5_config(blocks);
    int64_t batch = kin_dim(graph, x, 0);
    kin_tensor lengths = kin_input(graph, "lengths", KIN_I32, 1, &batch);
    return kin_t5_encode(graph, &config, precision, x, lengths, false);
}

/* ---- the autoencoder of Stable Diffusion ---- */

static kin_sd_vae_config sd_vae_config(int blocks) {
    kin_sd_vae_config config = kin_sd_vae_config_default();
    config.levels = blocks;
    for (int i = 0; i < blocks; i++) config.block_out_channels[i] = 8 * (i + 1);
    config.layers_per_block = 1;
    config.latent_channels = LATENTS;
    config.norm_num_groups = 4;
    return config;
}

static kin_tensor append_sd_encoder(kin_graph *graph, const kin_precision *precision, int blocks,
                                    kin_tensor x, kin_tensor timestep) {
    (void)timestep;
    kin_sd_vae_config config = sd_vae_config(blocks);
    return kin_sd_vae_encode(graph, &config, precision, x, false);
}

static kin_tensor append_sd_decoder(kin_graph *graph, const kin_precision *precision, int blocks,
                                    kin_tensor x, kin_tensor timestep) {
    (void)timestep;
    kin_sd_vae_config config = sd_vae_config(blocks);
    return kin_sd_vae_decode(graph, &config, precision, x, false);
}

static kin_tensor append_sd_loss(kin_graph *graph, const kin_precision *precision) {
    kin_sd_vae_config config = sd_vae_config(KIN_CHECK_BLOCKS);
    kin_vae_training training = {.vae = &config,
                                 .loss = {.l1 = 1, .kl = 1e-4},
                                 .precision = *precision,
                                 .batch = 2,
                                 .height = 10,
                                 .width = 8};
    return kin_vae_training_loss(graph, &training);
}

/* ---- STDiT ---- */

static kin_stdit_config stdit_config(int blocks) {
    kin_stdit_config config = kin_stdit_config_default();
    config.hidden_size = 36;
    config.num_heads = 3;
    config.depth = blocks;
    config.in_channels = LATENTS;
    config.caption_channels = CAPTION;
    config.model_max_length = KIN_CHECK_TEXT_LENGTH;
    config.train_y_embedding = true;
    return config;
}

/* Captions [B, L, CAPTION] and their lengths. */
static void append_captions(kin_graph *graph, int64_t batch, kin_tensor *out_y,
                            kin_tensor *out_lengths) {
    int64_t dims[3] = {batch, KIN_CHECK_TEXT_LENGTH, CAPTION};
    *out_y = kin_input(graph, "y", KIN_F32, 3, dims);
    *out_lengths = kin_input(graph, "y_lengths", KIN_I32, 1, &batch);
}

static kin_tensor append_stdit(kin_graph *graph, const kin_precision *precision, int blocks,
                               kin_tensor x, kin_tensor timestep) {
    kin_stdit_config config = stdit_config(blocks);
    kin_stdit_inputs inputs = {.x = x, .timestep = timestep};
    append_captions(graph, kin_dim(graph, x, 0), &inputs.y, &inputs.y_lengths);
    return kin_stdit(graph, &config, precision, &inputs);
}

/* With its text encoder, as the demo trains it. */
static kin_tensor append_stdit_loss(kin_graph *graph, const kin_precision *precision) {
    kin_stdit_config denoiser = stdit_config(KIN_CHECK_BLOCKS);
    kin_t5_config text = t5_config(KIN_CHECK_BLOCKS);
    kin_schedule *schedule = NULL;
    kin_status status = kin_schedule_create(kin_graph_context(graph), 1000, NULL, &schedule);
    if (status != KIN_OK) return kin_graph_fail(graph, status, "the schedule cannot be made");
    kin_video_training training = {.denoiser = &denoiser,
                                   .text_encoder = &text,
                                   .schedule = schedule,
                                   .scaling_factor = 1,
                                   .caption_dropout = 0.1,
                                   .precision = *precision,
                                   .batch = 2,
                                   .frames = 3,
                                   .latent_height = 4,
                                   .latent_width = 4,
                                   .text_length = KIN_CHECK_TEXT_LENGTH};
    kin_tensor loss = kin_video_training_loss(graph, &training);
    kin_schedule_free(schedule);
    return loss;
}

/* ---- STDiT2, Latte, PixArt and Open-Sora-Plan ---- */

static kin_denoiser_config denoiser_config(kin_denoiser_kind kind, int blocks) {
    kin_denoiser_config config = {.kind = kind,
                                  .stdit2 = kin_stdit2_config_default(),
                                  .pixart = kin_latte_config_default(),
                                  .opensora_plan = kin_opensora_plan_config_default()};
    kin_stdit_config common = stdit_config(blocks);
    config.stdit2.common = common;
    config.stdit2.input_sq_size = 32;
    config.pixart.num_attention_heads = 3;
    config.pixart.attention_head_dim = 12;
    config.pixart.num_layers = blocks;
    config.pixart.in_channels = LATENTS;
    config.pixart.out_channels = 2 * LATENTS;
    config.pixart.caption_channels = CAPTION;
    config.pixart.sample_size = 4;
    config.pixart.use_additional_conditions = kind == KIN_DENOISER_PIXART;
    config.opensora_plan.num_attention_heads = 2;
    config.opensora_plan.attention_head_dim = 18;
    config.opensora_plan.num_layers = blocks;
    config.opensora_plan.caption_channels = CAPTION;
    return config;
}

static kin_tensor append_denoiser(kin_graph *graph, const kin_precision *precision,
                                  kin_denoiser_kind kind, int blocks, kin_tensor x,
                                  kin_tensor timestep) {
    kin_denoiser_config config = denoiser_config(kind, blocks);
    kin_denoiser_inputs inputs = {.x = x, .timestep = timestep};
    int64_t frames[2] = {kin_dim(graph, x, 0), kin_dim(graph, x, 2)};
    append_captions(graph, frames[0], &inputs.y, &inputs.y_lengths);
    if (kind == KIN_DENOISER_STDIT2)
        inputs.frame_mask = kin_input(graph, "frame_mask", KIN_F32, 2, frames);
    return kin_denoiser(graph, &config, precision, &inputs);
}

static kin_tensor append_stdit2(kin_graph *graph, const kin_precision *precision, int blocks,
                                kin_tensor x, kin_tensor timestep) {
    return append_denoiser(graph, precision, KIN_DENOISER_STDIT2, blocks, x, timestep);
}

static kin_tensor append_latte(kin_graph *graph, const kin_precision *precision, int blocks,
                               kin_tensor x, kin_tensor timestep) {
    return append_denoiser(graph, precision, KIN_DENOISER_LATTE, blocks, x, timestep);
}

static kin_tensor append_pixart(kin_graph *graph, const kin_precision *precision, int blocks,
                                kin_tensor x, kin_tensor timestep) {
    return append_denoiser(graph, precision, KIN_DENOISER_PIXART, blocks, x, timestep);
}

static kin_tensor append_opensora_plan(kin_graph *graph, const kin_precision *precision, int blocks,
                                       kin_tensor x, kin_tensor timestep) {
    return append_denoiser(graph, precision, KIN_DENOISER_OPENSORA_PLAN, blocks, x, timestep);
}

/* The temporal decoder of Latte: two videos of two frames. */
static kin_tensor append_temporal_decoder(kin_graph *graph, const kin_precision *precision,
                                          int blocks, kin_tensor x, kin_tensor timestep) {
    (void)timestep;
    kin_sd_vae_config config = sd_vae_config(blocks);
    return kin_vae_temporal_decode(graph, &config, precision, x, 2, false);
}

/* ---- the video autoencoder of Open-Sora-Plan ---- */

/* The released blocks, one or two levels of them; 32 groups make 32 channels the least. */
static kin_causal_vae_config causal_config(int blocks) {
    kin_causal_vae_config config = kin_causal_vae_config_default();
    config.hidden_size = 32;
    config.z_channels = config.embed_dim = LATENTS;
    config.levels = blocks;
    config.num_res_blocks = 1;
    config.encoder_conv_in = KIN_CAUSAL_CONV_2D;
    config.encoder_attention = config.decoder_attention = KIN_CAUSAL_ATTENTION;
    config.encoder_resnet_blocks[0] = KIN_CAUSAL_RESNET_2D;
    for (int i = 0; i < blocks; i++) {
        config.hidden_size_mult[i] = i + 1;
        config.encoder_temporal_downsample[i] = config.decoder_temporal_upsample[i] =
            KIN_CAUSAL_NONE;
        config.encoder_spatial_downsample[i] =
            i + 1 < blocks ? KIN_CAUSAL_DOWN_BOTH : KIN_CAUSAL_NONE;
        config.decoder_spatial_upsample[i] = i > 0 ? KIN_CAUSAL_UP_BOTH : KIN_CAUSAL_NONE;
    }
    return config;
}

static kin_tensor append_causal_encoder(kin_graph *graph, const kin_precision *precision,
                                        int blocks, kin_tensor x, kin_tensor timestep) {
    (void)timestep;
    kin_causal_vae_config config = causal_config(blocks);
    return kin_causal_vae_encode(graph, &config, precision, x);
}

static kin_tensor append_causal_decoder(kin_graph *graph, const kin_precision *precision,
                                        int blocks, kin_tensor x, kin_tensor timestep) {
    (void)timestep;
    kin_causal_vae_config config = causal_config(blocks);
    return kin_causal_vae_decode(graph, &config, precision, x);
}

const kin_check_model kin_check_models[] = {
    {"T5", KIN_CHECK_TEXT_ENCODER, KIN_I32, 2, {2, KIN_CHECK_TEXT_LENGTH}, append_t5, NULL},
    {"STDiT",
     KIN_CHECK_DENOISER,
     KIN_F32,
     5,
     {2, LATENTS, 3, 4, 4},
     append_stdit,
     append_stdit_loss},
    {"STDiT2", KIN_CHECK_DENOISER, KIN_F32, 5, {2, LATENTS, 3, 4, 4}, append_stdit2, NULL},
    {"Latte", KIN_CHECK_DENOISER, KIN_F32, 5, {2, LATENTS, 3, 4, 4}, append_latte, NULL},
    {"PixArt", KIN_CHECK_DENOISER, KIN_F32, 5, {2, LATENTS, 1, 4, 6}, append_pixart, NULL},
    {"OpenSoraT2V",
     KIN_CHECK_DENOISER,
     KIN_F32,
     5,
     {2, LATENTS, 3, 4, 6},
     append_opensora_plan,
     NULL},
    {"SD VAE encoder", KIN_CHECK_ENCODER, KIN_F32, 4, {2, 3, 10, 8}, append_sd_encoder, NULL},
    {"SD VAE decoder",
     KIN_CHECK_DECODER,
     KIN_F32,
     4,
     {2, LATENTS, 5, 4},
     append_sd_decoder,
     append_sd_loss},
    {"temporal decoder",
     KIN_CHECK_DECODER,
     KIN_F32,
     4,
     {4, LATENTS, 3, 4},
     append_temporal_decoder,
     NULL},
    {"causal encoder", KIN_CHECK_ENCODER, KIN_F32, 5, {1, 3, 3, 6, 4}, append_causal_encoder, NULL},
    {"causal decoder",
     KIN_CHECK_DECODER,
     KIN_F32,
     5,
     {1, LATENTS, 2, 3, 2},
     append_causal_decoder,
     NULL},
    {NULL, KIN_CHECK_ROLES, KIN_F32, 0, {0}, NULL, NULL},
};
