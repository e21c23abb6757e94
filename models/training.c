/* Training steps as graphs. */
#include "models/training.h"

#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/layout.h"
#include "ops/optimizer.h"
#include "ops/random.h"
#include "ops/reduce.h"
#include "ops/split.h"
#include "ops/views.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_NAME = 1024 };

/* A state of the shape of `like`, named prefix + name. */
static kin_tensor state_of(kin_graph *graph, const char *prefix, const char *name,
                           kin_tensor like) {
    char full[MAX_NAME];
    kin_desc desc = *kin_tensor_desc(graph, like);
    snprintf(full, sizeof full, "%s%s", prefix, name);
    return kin_variable(graph, full, KIN_VARIABLE_STATE, KIN_F32, desc.rank, desc.dims,
                        (kin_init){KIN_INIT_ZERO, 0});
}

/* AdamW and the average for each of `count` weights; `gradients` in the same order. */
static void update_all(kin_graph *graph, const kin_tensor *weights, const kin_tensor *gradients,
                       int count, const kin_optimizer_options *options) {
    int64_t none = 1;
    kin_tensor lr = kin_input(graph, "lr", KIN_F32, 0, &none);
    kin_tensor step = kin_input(graph, "step", KIN_I64, 0, &none);
    kin_tensor norm = kin_global_norm(graph, gradients, count);
    kin_output(graph, "grad_norm", norm);
    double limit = options->max_grad_norm > 0 ? options->max_grad_norm : 1e30;
    kin_tensor scale = kin_clip_scale(graph, norm, limit);
    kin_adamw_attrs attrs = {.beta1 = options->beta1,
                             .beta2 = options->beta2,
                             .eps = options->epsilon,
                             .weight_decay = options->weight_decay};
    for (int i = 0; i < count; i++) {
        const char *name = kin_variable_name(graph, weights[i]);
        kin_tensor m = state_of(graph, KIN_MOMENT1_PREFIX, name, weights[i]);
        kin_tensor v = state_of(graph, KIN_MOMENT2_PREFIX, name, weights[i]);
        kin_tensor updated =
            kin_adamw(graph, weights[i], gradients[i], m, v, lr, step, scale, &attrs);
        if (options->ema_decay > 0) {
            kin_tensor average = state_of(graph, KIN_EMA_PREFIX, name, weights[i]);
            kin_ema(graph, average, updated, options->ema_decay, scale);
        }
    }
}

/* The trainable variables with a gradient, and the gradients; the caller frees both arrays' one
 * block. Returns the count, or -1. */
static int collect(kin_graph *graph, kin_tensor **out_weights, kin_tensor **out_gradients) {
    int variables = kin_variable_count(graph), count = 0;
    kin_tensor *block =
        kin_calloc(kin_graph_context(graph), 2 * (size_t)variables + 1, sizeof *block);
    *out_weights = block;
    if (!block) {
        kin_graph_fail(graph, KIN_OUT_OF_MEMORY, "no host memory for the training graph");
        return -1;
    }
    *out_gradients = block + variables;
    for (int i = 0; i < variables; i++) {
        kin_tensor variable = kin_variable_at(graph, i), gradient = kin_gradient(graph, variable);
        if (kin_variable_kind_of(graph, variable) != KIN_VARIABLE_WEIGHT || !gradient.id) continue;
        (*out_weights)[count] = variable;
        (*out_gradients)[count++] = gradient;
    }
    return count;
}

void kin_training_update(kin_graph *graph, kin_tensor loss, const kin_optimizer_options *options) {
    kin_tensor *weights, *gradients;
    kin_backward(graph, loss);
    int count = collect(graph, &weights, &gradients);
    if (count > 0) update_all(graph, weights, gradients, count, options);
    kin_free(kin_graph_context(graph), weights);
}

void kin_training_accumulate(kin_graph *graph, kin_tensor loss, double scale) {
    kin_tensor *weights, *gradients;
    kin_backward(graph, loss);
    int count = collect(graph, &weights, &gradients);
    for (int i = 0; i < count; i++) {
        const char *name = kin_variable_name(graph, weights[i]);
        kin_tensor sum = state_of(graph, KIN_GRADIENT_PREFIX, name, weights[i]);
        kin_accumulate(graph, sum, kin_scale(graph, gradients[i], scale, 0));
    }
    kin_free(kin_graph_context(graph), weights);
}

void kin_training_apply(kin_graph *graph, const kin_graph *accumulated,
                        const kin_optimizer_options *options) {
    const size_t prefix = strlen(KIN_GRADIENT_PREFIX);
    int variables = kin_variable_count(accumulated), count = 0;
    kin_context *context = kin_graph_context(graph);
    kin_tensor *weights = kin_calloc(context, 2 * (size_t)variables + 1, sizeof *weights);
    if (!weights) {
        kin_graph_fail(graph, KIN_OUT_OF_MEMORY, "no host memory for the training graph");
        return;
    }
    kin_tensor *gradients = weights + variables;
    for (int i = 0; i < variables; i++) {
        kin_tensor variable = kin_variable_at(accumulated, i);
        const char *name = kin_variable_name(accumulated, variable);
        if (strncmp(name, KIN_GRADIENT_PREFIX, prefix) != 0) continue;
        kin_desc desc = *kin_tensor_desc(accumulated, variable);
        kin_init zero = {KIN_INIT_ZERO, 0};
        weights[count] = kin_variable(graph, name + prefix, KIN_VARIABLE_WEIGHT, KIN_F32, desc.rank,
                                      desc.dims, zero);
        gradients[count++] =
            kin_variable(graph, name, KIN_VARIABLE_STATE, KIN_F32, desc.rank, desc.dims, zero);
    }
    update_all(graph, weights, gradients, count, options);
    for (int i = 0; i < count; i++) {
        kin_desc desc = *kin_tensor_desc(graph, gradients[i]);
        kin_assign(graph, gradients[i], kin_fill(graph, KIN_F32, desc.rank, desc.dims, 0));
    }
    kin_free(context, weights);
}

kin_status kin_training_start_averages(kin_store *store) {
    const size_t prefix = strlen(KIN_EMA_PREFIX);
    for (size_t i = 0; i < kin_store_count(store); i++) {
        kin_store_entry *entry = kin_store_at(store, i);
        if (strncmp(entry->name, KIN_EMA_PREFIX, prefix) != 0 || entry->loaded) continue;
        kin_status status = kin_store_copy(store, entry->name + prefix, entry->name);
        if (status != KIN_OK) return status;
        entry->loaded = true;
    }
    return KIN_OK;
}

/* Streams of random numbers within one step. */
enum { STREAM_POSTERIOR = 1, STREAM_TIMESTEP, STREAM_NOISE, STREAM_CAPTION };

static kin_tensor scalar_mean(kin_graph *graph, kin_tensor x) {
    return kin_rank(graph, x) ? kin_mean_all(graph, x) : x;
}

kin_tensor kin_vae_training_loss(kin_graph *graph, const kin_vae_training *training) {
    const kin_sd_vae_config *vae = training->vae;
    int64_t factor = kin_sd_vae_factor(vae), two = 2;
    int64_t image[4] = {training->batch, vae->in_channels, training->height, training->width};
    int64_t latent[4] = {training->batch, vae->latent_channels, training->height / factor,
                         training->width / factor};
    double values = (double)(image[1] * image[2] * image[3]);
    double latents = (double)(latent[1] * latent[2] * latent[3]);
    kin_tensor images = kin_input(graph, "images", KIN_F32, 4, image);
    kin_tensor seed = kin_input(graph, "seed", KIN_I64, 1, &two);
    kin_tensor noise = kin_random_normal(graph, seed, STREAM_POSTERIOR, 4, latent);
    kin_sd_vae_losses losses;
    kin_scope_push(graph, "vae");
    kin_sd_vae_train(graph, vae, &training->precision, &training->loss, images, noise, &losses);
    kin_scope_pop(graph);
    kin_tensor loss = kin_scale(graph, losses.loss, 1 / values, 0);
    kin_output(graph, "loss", loss);
    kin_output(graph, "reconstruction", kin_scale(graph, losses.rec_l1, 1 / values, 0));
    kin_output(graph, "kl", kin_scale(graph, scalar_mean(graph, losses.kl), 1 / latents, 0));
    return loss;
}

/* What the denoiser reads of captions: features [B, L, C] or [B, 1 + I, L, C] from tokens, or as
 * given, and their lengths. */
static void read_captions(kin_graph *graph, const kin_video_training *training, int64_t channels,
                          kin_denoiser_inputs *in) {
    int64_t captions = 1 + training->images, batch = training->batch;
    int64_t dims[4] = {batch, captions, training->text_length, channels};
    int64_t flat[3] = {batch * captions, training->text_length, channels};
    bool several = training->images > 0;
    if (!several) { /* no axis for the one caption */
        dims[1] = dims[2];
        dims[2] = dims[3];
    }
    int rank = several ? 4 : 3;
    in->y_lengths = kin_input(graph, "lengths", KIN_I32, several ? 2 : 1, dims);
    if (!training->text_encoder) {
        in->y = kin_input(graph, "features", KIN_F32, rank, dims);
        return;
    }
    kin_tensor ids = kin_input(graph, "ids", KIN_I32, rank - 1, dims);
    kin_scope_push(graph, "text_encoder");
    in->y = kin_t5_encode(graph, training->text_encoder, &training->precision,
                          kin_reshape(graph, ids, 2, flat),
                          kin_reshape(graph, in->y_lengths, 1, flat), false);
    kin_scope_pop(graph);
    in->y = kin_reshape(graph, in->y, rank, dims);
}

/* The latents [B, C, T, Y, X] (dims) that the diffusion works on. */
static kin_tensor posterior_latents(kin_graph *graph, const kin_video_training *training,
                                    kin_tensor moments, kin_tensor seed, const int64_t *dims) {
    kin_tensor parts[KIN_MAX_OUTPUTS];
    kin_split(graph, moments, 1, 2, parts);
    kin_tensor sample = parts[0];
    if (!training->posterior_mean) {
        kin_tensor logvar = kin_clamp(graph, parts[1], -30, 20);
        kin_tensor deviation = kin_exp(graph, kin_scale(graph, logvar, 0.5, 0));
        kin_tensor noise = kin_random_normal(graph, seed, STREAM_POSTERIOR, 5, dims);
        sample = kin_add(graph, sample, kin_mul(graph, deviation, noise));
    }
    return kin_scale(graph, sample, training->scaling_factor, 0);
}

/* i32 [B]: the noise level of each sample. */
static kin_tensor draw_timesteps(kin_graph *graph, const kin_video_training *training,
                                 kin_tensor seed) {
    int64_t batch = training->batch;
    double steps = training->schedule->steps;
    kin_tensor u = kin_random_uniform(graph, seed, STREAM_TIMESTEP, 1, &batch);
    if (training->timesteps.stratified && batch > 1) {
        float *offsets = kin_alloc(kin_graph_context(graph), (size_t)batch * sizeof *offsets);
        if (!offsets) return kin_graph_fail(graph, KIN_OUT_OF_MEMORY, "no host memory");
        for (int64_t j = 0; j < batch; j++) offsets[j] = (float)j;
        kin_tensor offset = kin_constant(graph, KIN_F32, 1, &batch, offsets);
        kin_free(kin_graph_context(graph), offsets);
        u = kin_scale(graph, kin_add(graph, u, offset), 1 / (double)batch, 0);
    }
    double shift = training->timesteps.shift;
    if (shift > 0 && shift != 1)
        u = kin_div(graph, kin_scale(graph, u, shift, 0), kin_scale(graph, u, shift - 1, 1));
    u = kin_clamp(graph, kin_scale(graph, u, steps, 0), 0, steps - 0.5);
    return kin_cast(graph, u, KIN_I32);
}

/* f32 [steps]: the weight of the squared error at each level. */
static kin_tensor level_weights(kin_graph *graph, const kin_video_training *training) {
    const kin_schedule *schedule = training->schedule;
    double cap = training->timesteps.weight_cap > 0 ? training->timesteps.weight_cap : 10, mean = 0;
    int64_t steps = schedule->steps;
    float *weights = kin_alloc(kin_graph_context(graph), (size_t)steps * sizeof *weights);
    if (!weights) return kin_graph_fail(graph, KIN_OUT_OF_MEMORY, "no host memory");
    for (int64_t t = 0; t < steps; t++) {
        double alpha = schedule->alphas_cumprod[t];
        double weight = pow((1 - alpha) / alpha, training->timesteps.weight_power);
        weights[t] = (float)(weight < 1 / cap ? 1 / cap : weight > cap ? cap : weight);
        mean += weights[t] / (double)steps;
    }
    for (int64_t t = 0; t < steps; t++) weights[t] = (float)(weights[t] / mean);
    kin_tensor table = kin_constant(graph, KIN_F32, 1, &steps, weights);
    kin_free(kin_graph_context(graph), weights);
    return table;
}

kin_tensor kin_video_training_loss(kin_graph *graph, const kin_video_training *training) {
    kin_denoiser_config stdit = {.kind = KIN_DENOISER_STDIT};
    const kin_denoiser_config *denoiser = training->model;
    if (!denoiser) {
        stdit.stdit = *training->denoiser;
        denoiser = &stdit;
    }
    kin_denoiser_shape shape = kin_denoiser_shape_of(denoiser);
    int64_t batch = training->batch, two = 2, mask_dims[2] = {batch, training->frames};
    int64_t dims[5] = {batch, 2 * shape.in_channels, training->frames, training->latent_height,
                       training->latent_width};
    kin_denoiser_inputs inputs = {.images = training->images,
                                  .height = training->height,
                                  .width = training->width,
                                  .aspect_ratio = training->aspect_ratio,
                                  .fps = training->fps};
    kin_tensor moments = kin_input(graph, "moments", KIN_F32, 5, dims);
    kin_tensor seed = kin_input(graph, "seed", KIN_I64, 1, &two);
    if (training->frame_masks)
        inputs.frame_mask = kin_input(graph, "frame_mask", KIN_F32, 2, mask_dims);
    read_captions(graph, training, shape.caption_channels, &inputs);

    dims[1] = shape.in_channels;
    kin_tensor x0 = posterior_latents(graph, training, moments, seed, dims);
    kin_tensor t = draw_timesteps(graph, training, seed);
    kin_tensor noise = kin_random_normal(graph, seed, STREAM_NOISE, 5, dims);
    inputs.x = training->frame_masks ? kin_diffusion_noise_masked(graph, training->schedule, x0, t,
                                                                  noise, inputs.frame_mask)
                                     : kin_diffusion_noise(graph, training->schedule, x0, t, noise);
    inputs.timestep = kin_diffusion_timesteps(graph, training->schedule, t);
    if (training->caption_dropout > 0) {
        kin_tensor draw = kin_random_uniform(graph, seed, STREAM_CAPTION, 1, &batch);
        kin_tensor limit = kin_fill(graph, KIN_F32, 1, &batch, training->caption_dropout);
        inputs.drop = kin_less(graph, draw, limit);
    }
    kin_scope_push(graph, "denoiser");
    if (training->caption_dropout <= 0)
        kin_denoiser_keep_null_caption(graph, denoiser, &training->precision, inputs.y);
    kin_tensor out = kin_denoiser(graph, denoiser, &training->precision, &inputs);
    kin_scope_pop(graph);
    kin_diffusion_losses losses;
    kin_diffusion_loss_masked(graph, training->schedule, x0, noise, t, inputs.frame_mask, out,
                              &losses);
    kin_tensor loss = losses.loss;
    if (training->timesteps.weight_power > 0) {
        kin_tensor weights = kin_gather_rows(graph, level_weights(graph, training), t);
        loss = kin_mean_all(graph, kin_mul(graph, weights, losses.mse));
        if (losses.vb.id) loss = kin_add(graph, loss, kin_mean_all(graph, losses.vb));
    }
    kin_output(graph, "loss", loss);
    kin_output(graph, "mse", kin_mean_all(graph, losses.mse));
    if (losses.vb.id) kin_output(graph, "vb", kin_mean_all(graph, losses.vb));
    return loss;
}
