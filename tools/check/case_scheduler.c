/* Cases of the schedulers: a formula stands for the model, and every latent on the way is compared.
 */
#include "tools/check/case_run.h"

#include <string.h>

#include "models/scheduler.h"
#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/views.h"

/* What the stand-in for the model reads, and the graph that it becomes a part of. */
typedef struct stand_in {
    kin_case_graph *graph;
    const kin_scheduler *scheduler;
    kin_tensor bias;
    int64_t channels;
    bool guided;
} stand_in;

/* 0.1 sin(t / 100) as [B, 1, ...]. */
static kin_tensor wave(kin_graph *g, kin_tensor timestep, int rank) {
    int64_t dims[KIN_MAX_RANK] = {kin_dim(g, timestep, 0)};
    for (int i = 1; i < rank; i++) dims[i] = 1;
    kin_tensor sine = kin_sin(g, kin_scale(g, timestep, 0.01, 0));
    return kin_reshape(g, kin_scale(g, sine, 0.1, 0), rank, dims);
}

/* The second half of a model with learned variance: 0.9 tanh(0.3 x) + 0.1 bias. */
static kin_tensor variance_half(kin_graph *g, const stand_in *model, kin_tensor x) {
    kin_tensor bias = kin_slice(g, model->bias, 1, model->channels, model->channels);
    kin_tensor y = kin_scale(g, kin_tanh(g, kin_scale(g, x, 0.3, 0)), 0.9, 0);
    return kin_add(g, y, kin_scale(g, bias, 0.1, 0));
}

/* 0.3 x + 0.1 sin(t / 100) + bias; the null half has -0.5 bias in its place. */
static kin_tensor stand_in_model(void *user, kin_graph *g, kin_tensor x, kin_tensor timestep) {
    const stand_in *model = user;
    kin_tensor bias = kin_slice(g, model->bias, 1, 0, model->channels);
    kin_tensor shift = bias;
    if (model->guided)
        shift = kin_concat(g, (kin_tensor[]){bias, kin_scale(g, bias, -0.5, 0)}, 2, 0);
    kin_tensor m = kin_add(g, kin_scale(g, x, 0.3, 0), wave(g, timestep, kin_rank(g, x)));
    m = kin_add(g, m, shift);
    if (kin_dim(g, model->bias, 1) == 2 * model->channels && !model->guided)
        m = kin_concat(g, (kin_tensor[]){m, variance_half(g, model, x)}, 2, 1);
    /* A copy: where the input is the state itself, it is overwritten by the end of the call. */
    kin_output(g, "model_input.0", kin_copy(g, x));
    kin_output(g, "model_output.0", m);
    return m;
}

static bool give_noise(void *user, int draw, float *noise, size_t count) {
    const stand_in *model = user;
    char name[32];
    snprintf(name, sizeof name, "noise.%d", draw);
    const kin_named_tensor *tensor = kin_case_input_tensor(model->graph->run, name);
    if (!tensor || kin_desc_count(&tensor->desc) != (int64_t)count) return false;
    kin_convert(tensor->data, tensor->desc.dtype, noise, KIN_F32, (int64_t)count);
    return true;
}

static bool compare_call(void *user, int call, int calls, const float *latents) {
    stand_in *model = user;
    kin_case_run *run = model->graph->run;
    static const char *const first[] = {"model_input.0", "model_output.0"};
    (void)calls;
    for (int i = 0; call == 0 && i < 2; i++) {
        float *values =
            kin_case_output_tensor(run, first[i]) ? kin_case_read(model->graph, first[i]) : NULL;
        if (values)
            kin_case_compare(run, first[i], KIN_F32, values,
                             kin_desc_count(kin_plan_output_desc(model->graph->plan, first[i])));
        kin_free(run->context, values);
    }
    char name[32];
    snprintf(name, sizeof name, "latents.%d", call + 1);
    kin_case_compare(run, name, KIN_F32, latents,
                     kin_desc_count(&kin_case_input_tensor(run, "sample")->desc));
    return true;
}

static void compare_tables(kin_case_run *run, const kin_scheduler *s) {
    int64_t drawn = 0;
    for (int i = 0; i < s->calls; i++) drawn += s->draws[i];
    kin_case_compare(run, "timesteps", KIN_F64, s->timesteps, (int64_t)s->calls * s->rows);
    if (kin_case_output_tensor(run, "init_noise_sigma"))
        kin_case_compare(run, "init_noise_sigma", KIN_F64, &s->init_noise_sigma, 1);
    if (kin_case_output_tensor(run, "alphas_cumprod") && s->alphas_cumprod)
        kin_case_compare(run, "alphas_cumprod", KIN_F64, s->alphas_cumprod, s->config.train_steps);
    if (kin_case_output_tensor(run, "sigmas") && s->sigmas)
        kin_case_compare(run, "sigmas", KIN_F64, s->sigmas, s->sigma_count);
    if (kin_case_output_tensor(run, "noise_used"))
        kin_case_compare(run, "noise_used", KIN_I64, &drawn, 1);
}

/* x_t and the velocity of training, by the scheduler's own factors. */
static void compare_training(kin_case_run *run, const kin_scheduler *s) {
    const kin_named_tensor *t = kin_case_input_tensor(run, "add.t");
    const kin_named_tensor *x0 = kin_case_input_tensor(run, "add.x0");
    const kin_named_tensor *noise = kin_case_input_tensor(run, "add.noise");
    if (!t || !x0 || !noise) return;
    int64_t count = kin_desc_count(&x0->desc), rows = kin_desc_count(&t->desc);
    double *noisy = kin_calloc(run->context, 2 * (size_t)count, sizeof *noisy);
    if (!noisy) return;
    double *velocity = noisy + count;
    for (int64_t row = 0; row < rows; row++) {
        double a, b;
        double step = kin_element_get(t->data, t->desc.dtype, row);
        if (!kin_case_ok(run, "add.t", kin_scheduler_noise_factors(s, step, &a, &b))) break;
        for (int64_t i = row * (count / rows); i < (row + 1) * (count / rows); i++) {
            double x = kin_element_get(x0->data, x0->desc.dtype, i);
            double n = kin_element_get(noise->data, noise->desc.dtype, i);
            noisy[i] = a * x + b * n;
            velocity[i] = a * n - b * x;
        }
    }
    kin_case_compare(run, "add_noise", KIN_F64, noisy, count);
    if (kin_case_output_tensor(run, "velocity"))
        kin_case_compare(run, "velocity", KIN_F64, velocity, count);
    kin_free(run->context, noisy);
}

static void sample(kin_case_run *run, const kin_scheduler *scheduler, kin_guidance guidance) {
    const kin_named_tensor *start = kin_case_input_tensor(run, "sample");
    kin_case_graph graph;
    if (!start || !kin_case_begin(run, &graph)) return;
    stand_in model = {.graph = &graph,
                      .scheduler = scheduler,
                      .channels = start->desc.dims[1],
                      .guided = guidance.scale != 1};
    model.bias = kin_case_feed_input(&graph, "bias", KIN_F32);
    kin_scheduler_graph_options options = {
        .rank = start->desc.rank, .dims = start->desc.dims, .guidance = guidance};
    kin_scheduler_graph(graph.graph, scheduler, &options, stand_in_model, &model);
    kin_sampler_loop loop = {.noise = give_noise,
                             .noise_user = &model,
                             .progress = compare_call,
                             .progress_user = &model};
    int64_t count = kin_desc_count(&start->desc);
    float *latents = kin_case_values(run, start, KIN_F32);
    float *first = kin_case_values(run, start, KIN_F32);
    if (latents && first && kin_case_prepare(&graph, NULL, NULL)) {
        for (int64_t i = 0; i < count; i++)
            first[i] = (float)(first[i] * scheduler->init_noise_sigma);
        kin_case_compare(run, "latents.0", KIN_F32, first, count);
        kin_case_ok(
            run, "sampler",
            kin_scheduler_run(graph.plan, graph.store, scheduler, &loop, latents, (size_t)count));
    }
    kin_free(run->context, first);
    kin_free(run->context, latents);
    kin_case_end(&graph);
}

void kin_case_scheduler(kin_case_run *run) {
    const json_t *call = json_object_get(run->info, "call");
    kin_scheduler_config config;
    kin_scheduler *scheduler = NULL;
    kin_scheduler_options options = {.steps = (int)kin_case_number(call, "num_inference_steps", 0),
                                     .eta = kin_case_number(call, "eta", 0),
                                     .mu = kin_case_number(call, "mu", 0)};
    kin_status status =
        kin_scheduler_config_parse(run->context, run->config, "config.json", &config);
    if (status == KIN_OK)
        status = kin_scheduler_create(run->context, &config, &options, &scheduler);
    if (kin_case_ok(run, "config.json", status)) {
        compare_tables(run, scheduler);
        sample(run, scheduler, (kin_guidance){.scale = 1});
        compare_training(run, scheduler);
    }
    kin_scheduler_free(scheduler);
}

void kin_case_rectified_flow(kin_case_run *run) {
    static const char *const names[] = {"height", "width", "num_frames"};
    const json_t *call = json_object_get(run->info, "call");
    kin_scheduler_config config;
    kin_scheduler *scheduler = NULL;
    double *sizes[3] = {NULL, NULL, NULL};
    int rows = 0;
    for (int i = 0; i < 3; i++) {
        const kin_named_tensor *tensor = kin_case_input_tensor(run, names[i]);
        kin_case_expect(run, names[i], tensor != NULL, "");
        if (!tensor) return;
        rows = (int)kin_desc_count(&tensor->desc);
        sizes[i] = kin_case_values(run, tensor, KIN_F64);
    }
    kin_scheduler_options options = {
        .rows = rows, .heights = sizes[0], .widths = sizes[1], .frames = sizes[2]};
    kin_status status =
        kin_scheduler_config_parse(run->context, run->config, "config.json", &config);
    if (status == KIN_OK)
        status = kin_scheduler_create(run->context, &config, &options, &scheduler);
    if (kin_case_ok(run, "config.json", status)) {
        compare_tables(run, scheduler);
        kin_guidance guidance = {.scale =
                                     kin_case_number(call, "guidance_scale", config.cfg_scale)};
        sample(run, scheduler, guidance);
    }
    kin_scheduler_free(scheduler);
    for (int i = 0; i < 3; i++) kin_free(run->context, sizes[i]);
}
