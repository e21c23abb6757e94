/* The training loss of a denoiser on latents of videos, as a graph. */
#include "models/training.h"

#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/layout.h"
#include "ops/random.h"
#include "ops/reduce.h"
#include "ops/split.h"
#include "ops/views.h"

#include <math.h>

/* Streams of random numbers within one step. */
enum { STREAM_POSTERIOR = 1, STREAM_TIMESTEP, STREAM_NOISE, STREAM_CAPTION, STREAM_OFFSET };

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
    kin_tensor lengths = KIN_NONE;
    if (training->text_encoder || !training->whole_captions)
        lengths = kin_input(graph, "lengths", KIN_I32, several ? 2 : 1, dims);
    if (!training->whole_captions) in->y_lengths = lengths;
    if (!training->text_encoder) {
        in->y = kin_input(graph, "features", KIN_F32, rank, dims);
        return;
    }
    kin_tensor ids = kin_input(graph, "ids", KIN_I32, rank - 1, dims);
    kin_scope_push(graph, "text_encoder");
    in->y = kin_t5_encode(graph, training->text_encoder, &training->precision,
                          kin_reshape(graph, ids, 2, flat), kin_reshape(graph, lengths, 1, flat),
                          false);
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
        kin_tensor noise =
            kin_batch_normal(graph, &training->part, seed, STREAM_POSTERIOR, 5, dims);
        sample = kin_add(graph, sample, kin_mul(graph, deviation, noise));
    }
    return kin_scale(graph, sample, training->scaling_factor, 0);
}

/* SpeeD's draw (Wang et al. 2024, arXiv:2405.17403) as Open-Sora 1.1 has it: levels below the last
 * at which the noise still grows fast are five times as likely as those above, and the second half
 * of the batch is the first one, mirrored at the level where the growth ends. u f32 [B] in [0, 1)
 * -> f32 [B] in 0 .. steps. */
static kin_tensor speedy_levels(kin_graph *graph, const kin_schedule *schedule, kin_tensor u) {
    const double often = 2.5, seldom = 0.5, fast = 1e-4, slow = 5e-5;
    int steps = schedule->steps, many = 0, meaningful = 0;
    const double *s = schedule->sqrt_one_minus_alphas_cumprod;
    for (int i = 0; i < steps; i++) {
        int below = i > 0 ? i - 1 : i, above = i + 1 < steps ? i + 1 : i;
        double slope = (s[above] - s[below]) / (above - below);
        if (slope > fast) many = i + 1;
        if (slope < slow && meaningful == 0) meaningful = i + 1;
    }
    if (meaningful == 0) meaningful = 1;
    double edge = often * many, all = edge + seldom * (steps - many);
    int64_t batch = kin_dim(graph, u, 0), drawn = batch / 2 + 1 < batch ? batch / 2 + 1 : batch;
    kin_tensor mass = kin_scale(graph, kin_slice(graph, u, 0, 0, drawn), all, 0);
    kin_tensor below = kin_fill(graph, KIN_F32, 0, NULL, edge);
    kin_tensor t =
        kin_where(graph, kin_less(graph, mass, below), kin_scale(graph, mass, 1 / often, 0),
                  kin_scale(graph, mass, 1 / seldom, many - edge / seldom));
    /* whole levels before they are mirrored */
    t = kin_cast(graph, kin_cast(graph, kin_clamp(graph, t, 0, steps - 0.5), KIN_I32), KIN_F32);
    if (drawn == batch) return t;
    kin_tensor first = kin_slice(graph, t, 0, 0, batch - drawn);
    kin_tensor mirror = kin_fill(graph, KIN_F32, 0, NULL, meaningful);
    kin_tensor second =
        kin_where(graph, kin_less(graph, first, mirror), kin_scale(graph, first, -1, meaningful),
                  kin_scale(graph, first, 1, -meaningful));
    return kin_concat(graph, (kin_tensor[]){t, second}, 2, 0);
}

kin_tensor kin_training_levels(kin_graph *graph, const kin_schedule *schedule,
                               const kin_timestep_options *options, int64_t batch,
                               kin_tensor seed) {
    double steps = schedule->steps;
    kin_tensor u = kin_random_uniform(graph, seed, STREAM_TIMESTEP, 1, &batch);
    if (options->speed) {
        u = kin_clamp(graph, speedy_levels(graph, schedule, u), 0, steps - 0.5);
        return kin_cast(graph, u, KIN_I32);
    }
    if (options->stratified && batch > 1) {
        float *offsets = kin_alloc(kin_graph_context(graph), (size_t)batch * sizeof *offsets);
        if (!offsets) return kin_graph_fail(graph, KIN_OUT_OF_MEMORY, "no host memory");
        for (int64_t j = 0; j < batch; j++) offsets[j] = (float)j;
        kin_tensor offset = kin_constant(graph, KIN_F32, 1, &batch, offsets);
        kin_free(kin_graph_context(graph), offsets);
        u = kin_scale(graph, kin_add(graph, u, offset), 1 / (double)batch, 0);
    }
    double shift = options->shift;
    if (shift > 0 && shift != 1)
        u = kin_div(graph, kin_scale(graph, u, shift, 0), kin_scale(graph, u, shift - 1, 1));
    u = kin_clamp(graph, kin_scale(graph, u, steps, 0), 0, steps - 0.5);
    return kin_cast(graph, u, KIN_I32);
}

static bool weighted(const kin_timestep_options *options) {
    return options->speed || options->weight_power > 0;
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
    for (int64_t t = 0; t < steps; t++)
        weights[t] = training->timesteps.speed ? (float)(1 - schedule->alphas_cumprod[t])
                                               : (float)(weights[t] / mean);
    kin_tensor table = kin_constant(graph, KIN_F32, 1, &steps, weights);
    kin_free(kin_graph_context(graph), weights);
    return table;
}

/* IDDPM's loss, over the frames that are to be learned. */
static kin_tensor iddpm_loss(kin_graph *graph, const kin_video_training *training, kin_tensor x0,
                             kin_tensor noise, kin_tensor t, kin_tensor frame_mask,
                             kin_tensor out) {
    kin_diffusion_losses losses;
    kin_diffusion_loss_masked(graph, training->schedule, x0, noise, t, frame_mask, out, &losses);
    kin_tensor loss = losses.loss;
    if (weighted(&training->timesteps)) {
        kin_tensor weights = kin_gather_rows(graph, level_weights(graph, training), t);
        loss = kin_mean_all(graph, kin_mul(graph, weights, losses.mse));
        if (losses.vb.id) loss = kin_add(graph, loss, kin_mean_all(graph, losses.vb));
    }
    kin_output(graph, "mse", kin_mean_all(graph, losses.mse));
    if (losses.vb.id) kin_output(graph, "vb", kin_mean_all(graph, losses.vb));
    return loss;
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
    int64_t real_dims[4] = {batch, dims[2], dims[3], dims[4]};
    kin_denoiser_inputs inputs = {.images = training->images,
                                  .height = training->height,
                                  .width = training->width,
                                  .aspect_ratio = training->aspect_ratio,
                                  .fps = training->fps};
    kin_tensor moments = kin_input(graph, "moments", KIN_F32, 5, dims);
    kin_tensor seed = kin_input(graph, "seed", KIN_I64, 1, &two);
    if (training->frame_masks)
        inputs.frame_mask = kin_input(graph, "frame_mask", KIN_F32, 2, mask_dims);
    if (training->padded) inputs.real = kin_input(graph, "real", KIN_F32, 4, real_dims);
    if (training->each_fps) inputs.each_fps = kin_input(graph, "fps", KIN_F32, 1, &batch);
    read_captions(graph, training, shape.caption_channels, &inputs);

    dims[1] = shape.in_channels;
    kin_tensor x0 = posterior_latents(graph, training, moments, seed, dims);
    const kin_batch_part *part = &training->part;
    int64_t whole = part->whole > batch ? part->whole : batch;
    kin_tensor t =
        kin_training_levels(graph, training->schedule, &training->timesteps, whole, seed);
    t = kin_batch_take(graph, part, batch, t);
    kin_tensor noise = kin_batch_normal(graph, part, seed, STREAM_NOISE, 5, dims);
    if (training->plan_loss && training->plan.noise_offset != 0) {
        int64_t one[5] = {batch, dims[1], 1, 1, 1};
        kin_tensor offset = kin_batch_normal(graph, part, seed, STREAM_OFFSET, 5, one);
        noise = kin_opensora_plan_noise(graph, &training->plan, noise, offset);
    }
    inputs.x = training->frame_masks ? kin_diffusion_noise_masked(graph, training->schedule, x0, t,
                                                                  noise, inputs.frame_mask)
                                     : kin_diffusion_noise(graph, training->schedule, x0, t, noise);
    inputs.timestep = kin_diffusion_timesteps(graph, training->schedule, t);
    if (training->caption_dropout > 0) {
        kin_tensor draw = kin_random_uniform(graph, seed, STREAM_CAPTION, 1, &whole);
        draw = kin_batch_take(graph, part, batch, draw);
        kin_tensor limit = kin_fill(graph, KIN_F32, 1, &batch, training->caption_dropout);
        inputs.drop = kin_less(graph, draw, limit);
    }
    kin_scope_push(graph, "denoiser");
    if (training->caption_dropout <= 0)
        kin_denoiser_keep_null_caption(graph, denoiser, &training->precision, inputs.y);
    kin_tensor out = kin_denoiser(graph, denoiser, &training->precision, &inputs);
    kin_scope_pop(graph);
    kin_tensor loss = training->plan_loss
                          ? kin_opensora_plan_loss(graph, training->schedule, &training->plan, x0,
                                                   noise, t, out, inputs.real)
                          : iddpm_loss(graph, training, x0, noise, t, inputs.frame_mask, out);
    kin_output(graph, "loss", loss);
    return loss;
}
