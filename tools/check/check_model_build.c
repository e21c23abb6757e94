/* What is done with the tiny models of tools/check/check_model_list.c, as graphs. */
#include "models/diffusion.h"
#include "models/training.h"
#include "ops/elementwise.h"
#include "ops/reduce.h"
#include "tools/check/check_models.h"

#include <stdio.h>
#include <string.h>

const kin_check_model *kin_check_model_find(const char *name) {
    for (const kin_check_model *model = kin_check_models; model->name; model++)
        if (strcmp(model->name, name) == 0) return model;
    return NULL;
}

static kin_tensor append_x(kin_graph *graph, const kin_check_model *model) {
    bool ids = model->dtype == KIN_I32;
    return kin_input(graph, ids ? "ids" : "x", model->dtype, model->rank, model->dims);
}

static kin_tensor append_timestep(kin_graph *graph, const kin_check_model *model) {
    return model->role == KIN_CHECK_DENOISER ? kin_input(graph, "timestep", KIN_F32, 1, model->dims)
                                             : KIN_NONE;
}

/* d sum(result * cotangent) / d everything trained and d x. */
static void append_gradients(kin_graph *graph, kin_tensor result, kin_tensor x) {
    kin_desc desc = *kin_tensor_desc(graph, result);
    kin_tensor cotangent = kin_input(graph, "cotangent", KIN_F32, desc.rank, desc.dims);
    if (x.id) kin_want_gradient(graph, x);
    kin_backward(graph, kin_sum_all(graph, kin_mul(graph, result, cotangent)));
    if (x.id && kin_gradient(graph, x).id) kin_output(graph, "gradient.x", kin_gradient(graph, x));
    int variables = kin_variable_count(graph);
    for (int i = 0; i < variables; i++) {
        kin_tensor variable = kin_variable_at(graph, i), gradient = kin_gradient(graph, variable);
        char name[512];
        if (!gradient.id) continue;
        snprintf(name, sizeof name, "gradient.%s", kin_variable_name(graph, variable));
        kin_output(graph, name, gradient);
    }
}

kin_status kin_check_append_forward(kin_graph *graph, const kin_check_model *model,
                                    const kin_precision *precision, int blocks, bool gradients) {
    kin_tensor x = append_x(graph, model);
    kin_tensor result = model->append(graph, precision, blocks, x, append_timestep(graph, model));
    kin_output(graph, "out", result);
    if (gradients) append_gradients(graph, result, model->dtype == KIN_F32 ? x : KIN_NONE);
    return kin_graph_status(graph);
}

/* The mean square of the result's difference from an input. */
static kin_tensor append_mean_square(kin_graph *graph, const kin_check_model *model,
                                     const kin_precision *precision) {
    kin_tensor x = append_x(graph, model);
    kin_tensor result =
        model->append(graph, precision, KIN_CHECK_BLOCKS, x, append_timestep(graph, model));
    kin_desc desc = *kin_tensor_desc(graph, result);
    kin_tensor target = kin_input(graph, "target", KIN_F32, desc.rank, desc.dims);
    kin_tensor loss = kin_mean_all(graph, kin_square(graph, kin_sub(graph, result, target)));
    kin_output(graph, "loss", loss);
    return loss;
}

kin_status kin_check_append_training(kin_graph *graph, const kin_check_model *model,
                                     const kin_precision *precision) {
    static const kin_optimizer_options optimizer = {
        .beta1 = 0.9, .beta2 = 0.99, .epsilon = 1e-8, .max_grad_norm = 1, .ema_decay = 0.9};
    kin_tensor loss = model->append_loss ? model->append_loss(graph, precision)
                                         : append_mean_square(graph, model, precision);
    kin_training_update(graph, loss, &optimizer);
    return kin_graph_status(graph);
}

typedef struct denoising {
    const kin_check_model *model;
    const kin_precision *precision;
} denoising;

static kin_tensor denoise(void *user, kin_graph *graph, kin_tensor x, kin_tensor timestep) {
    const denoising *d = user;
    return d->model->append(graph, d->precision, KIN_CHECK_BLOCKS, x, timestep);
}

kin_status kin_check_append_sampling(kin_graph *graph, const kin_check_model *model,
                                     const kin_precision *precision, int steps) {
    static const kin_sampler_options sampler = {
        .method = KIN_SAMPLER_IDDPM, .cfg_scale = 4, .cfg_channels = 3};
    denoising user = {model, precision};
    kin_schedule *schedule = NULL;
    char respacing[16];
    snprintf(respacing, sizeof respacing, "%d", steps);
    kin_status status = kin_schedule_create(kin_graph_context(graph), 1000, respacing, &schedule);
    if (status != KIN_OK) return status;
    kin_sampler_graph(graph, schedule, &sampler, model->dims, denoise, &user);
    kin_schedule_free(schedule);
    return kin_graph_status(graph);
}
