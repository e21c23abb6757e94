/* Training steps as graphs. */
#include "models/training.h"

#include "ops/collective.h"
#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/optimizer.h"
#include "ops/random.h"
#include "ops/reduce.h"
#include "ops/views.h"

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
    kin_adamw_ema_attrs attrs = {.adamw = {.beta1 = options->beta1,
                                           .beta2 = options->beta2,
                                           .eps = options->epsilon,
                                           .weight_decay = options->weight_decay},
                                 .decay = options->ema_decay};
    for (int i = 0; i < count; i++) {
        const char *name = kin_variable_name(graph, weights[i]);
        kin_tensor m = state_of(graph, KIN_MOMENT1_PREFIX, name, weights[i]);
        kin_tensor v = state_of(graph, KIN_MOMENT2_PREFIX, name, weights[i]);
        if (options->ema_decay > 0) {
            kin_tensor average = state_of(graph, KIN_EMA_PREFIX, name, weights[i]);
            kin_adamw_ema(graph, weights[i], gradients[i], m, v, average, lr, step, scale, &attrs);
        } else {
            kin_adamw(graph, weights[i], gradients[i], m, v, lr, step, scale, &attrs.adamw);
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
    /* one behind the other, so that they are summed in large pieces */
    for (int i = 0; options->over_ranks && i < count; i++)
        gradients[i] = kin_all_reduce(graph, gradients[i], KIN_REDUCTION_MEAN);
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
    for (int i = 0; options->over_ranks && i < count; i++)
        gradients[i] = kin_all_reduce_variable(graph, gradients[i], KIN_REDUCTION_MEAN);
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

kin_tensor kin_batch_take(kin_graph *graph, const kin_batch_part *part, int64_t batch,
                          kin_tensor x) {
    if (part->whole <= batch) return x;
    return kin_slice(graph, x, 0, part->first, batch);
}

kin_tensor kin_batch_normal(kin_graph *graph, const kin_batch_part *part, kin_tensor seed,
                            uint32_t stream, int rank, const int64_t *dims) {
    int64_t whole[KIN_MAX_RANK];
    for (int axis = 0; axis < rank; axis++) whole[axis] = dims[axis];
    if (part->whole > dims[0]) whole[0] = part->whole;
    return kin_batch_take(graph, part, dims[0],
                          kin_random_normal(graph, seed, stream, rank, whole));
}

/* The stream of random numbers of the posterior. */
enum { STREAM_POSTERIOR = 1 };

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
    kin_tensor noise = kin_batch_normal(graph, &training->part, seed, STREAM_POSTERIOR, 4, latent);
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
