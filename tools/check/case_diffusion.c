/* Cases of the noise schedule: the training loss and the ancestral sampler. */
#include "tools/check/case_run.h"

#include <string.h>

#include "models/diffusion.h"
#include "models/stdit.h"
#include "ops/views.h"

void kin_case_schedule_tables(kin_case_run *run, const kin_schedule *schedule) {
    const kin_schedule *s = schedule;
    const struct {
        const char *name;
        const double *values;
    } tables[] = {
        {"table.betas", s->betas},
        {"table.alphas_cumprod", s->alphas_cumprod},
        {"table.sqrt_alphas_cumprod", s->sqrt_alphas_cumprod},
        {"table.sqrt_one_minus_alphas_cumprod", s->sqrt_one_minus_alphas_cumprod},
        {"table.sqrt_recip_alphas_cumprod", s->sqrt_recip_alphas_cumprod},
        {"table.sqrt_recipm1_alphas_cumprod", s->sqrt_recipm1_alphas_cumprod},
        {"table.posterior_variance", s->posterior_variance},
        {"table.posterior_log_variance_clipped", s->posterior_log_variance_clipped},
        {"table.posterior_mean_coef1", s->posterior_mean_coef1},
        {"table.posterior_mean_coef2", s->posterior_mean_coef2},
    };
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        if (kin_case_output_tensor(run, tables[i].name))
            kin_case_compare(run, tables[i].name, KIN_F64, tables[i].values, s->steps);
}

kin_status kin_case_schedule(kin_case_run *run, const json_t *config, kin_schedule **out_schedule) {
    const char *respacing = json_string_value(json_object_get(config, "timestep_respacing"));
    int steps = (int)kin_case_number(config, "diffusion_steps", 1000);
    int kept = (int)kin_case_number(config, "num_sampling_steps", 0);
    char text[32];
    snprintf(text, sizeof text, "%d", kept);
    return kin_schedule_create(run->context, steps, kept > 0 ? text : respacing, out_schedule);
}

/* The loss, with tables of f32 or double; the case may have a mask of the frames to learn. */
static void diffusion_loss(kin_case_run *run, bool single) {
    kin_schedule *schedule;
    kin_case_graph graph;
    if (!kin_case_ok(run, "schedule", kin_case_schedule(run, run->config, &schedule))) return;
    if (single) kin_schedule_use_single(schedule);
    kin_case_schedule_tables(run, schedule);
    if (kin_case_begin(run, &graph)) {
        kin_graph *g = graph.graph;
        kin_tensor x0 = kin_case_feed_input(&graph, "x_start", KIN_F32);
        kin_tensor noise = kin_case_feed_input(&graph, "noise", KIN_F32);
        kin_tensor t = kin_case_feed_input(&graph, "t", KIN_I32);
        kin_tensor out = kin_case_feed_input(&graph, "model_output", KIN_F32);
        kin_tensor mask = KIN_NONE;
        if (kin_case_input_tensor(run, "mask")) mask = kin_case_feed_input(&graph, "mask", KIN_F32);
        kin_diffusion_losses losses;
        kin_diffusion_loss_masked(g, schedule, x0, noise, t, mask, out, &losses);
        kin_case_output(&graph, "x_t",
                        mask.id ? kin_diffusion_noise_masked(g, schedule, x0, t, noise, mask)
                                : kin_diffusion_noise(g, schedule, x0, t, noise));
        kin_case_output(&graph, "model_t", kin_diffusion_timesteps(g, schedule, t));
        kin_case_output(&graph, "mse", losses.mse);
        kin_case_output(&graph, "vb", losses.vb);
        kin_case_output(&graph, "out", losses.per_sample);
        kin_case_output(&graph, "loss_mean", losses.loss);
        kin_case_gradients(&graph, kin_case_dot(&graph, losses.per_sample, "cotangent"));
        if (kin_case_prepare(&graph, NULL, NULL)) kin_case_run_and_compare(&graph);
        kin_case_end(&graph);
    }
    kin_schedule_free(schedule);
}

void kin_case_iddpm_loss(kin_case_run *run) {
    diffusion_loss(run, false);
}

void kin_case_masked_loss(kin_case_run *run) {
    diffusion_loss(run, true);
}

/* What the denoiser within the sampler's graph reads. */
typedef struct guided_model {
    const kin_stdit_config *config;
    kin_precision precision;
    kin_tensor y, lengths;
} guided_model;

static kin_tensor denoise(void *user, kin_graph *g, kin_tensor x, kin_tensor timestep) {
    const guided_model *model = user;
    kin_stdit_inputs in = {.x = x, .timestep = timestep};
    kin_stdit_guided_text(g, model->config, &model->precision, model->y, model->lengths, &in.y,
                          &in.y_lengths);
    return kin_stdit(g, model->config, &model->precision, &in);
}

/* The recorded noise, and the latents after every step. */
typedef struct sample_record {
    const float *noise;
    size_t noise_stride, count;
    float *latents;
} sample_record;

static bool give_noise(void *user, int call, float *noise, size_t count) {
    const sample_record *record = user;
    memcpy(noise, record->noise + (size_t)call * record->noise_stride, count * sizeof *noise);
    return true;
}

static bool keep_latents(void *user, int call, int calls, const float *latents) {
    const sample_record *record = user;
    (void)calls;
    memcpy(record->latents + (size_t)call * record->count, latents,
           record->count * sizeof *latents);
    return true;
}

/* Runs the loop and compares the latents of every step, the result and the timesteps. */
static void sample_and_compare(kin_case_graph *graph, const kin_schedule *schedule,
                               const kin_sampler_options *options) {
    kin_case_run *run = graph->run;
    const kin_named_tensor *z = kin_case_input_tensor(run, "z");
    const kin_named_tensor *noise = kin_case_input_tensor(run, "noise");
    int64_t count = kin_desc_count(&z->desc), steps = schedule->steps;
    float *latents = kin_case_values(run, z, KIN_F32);
    sample_record record = {.noise = noise->data,
                            .noise_stride = (size_t)(kin_desc_count(&noise->desc) / steps),
                            .count = (size_t)count};
    record.latents = kin_calloc(run->context, (size_t)(count * steps), sizeof *record.latents);
    int64_t *timesteps = kin_calloc(run->context, (size_t)steps, sizeof *timesteps);
    kin_sampler_loop loop = {.noise = give_noise,
                             .noise_user = &record,
                             .progress = keep_latents,
                             .progress_user = &record};
    kin_status status = latents && record.latents && timesteps ? KIN_OK : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK)
        status = kin_sampler_run(graph->plan, run->context, schedule, options, &loop, latents,
                                 (size_t)count);
    if (kin_case_ok(run, "sampler", status)) {
        kin_case_widen_loop(run);
        for (int64_t i = 0; i < steps; i++) timesteps[i] = schedule->timesteps[steps - 1 - i];
        kin_case_compare(run, "timesteps", KIN_I64, timesteps, steps);
        kin_case_compare(run, "latents", KIN_F32, record.latents, count * steps);
        kin_case_compare(run, "out", KIN_F32, latents, count);
    }
    kin_free(run->context, timesteps);
    kin_free(run->context, record.latents);
    kin_free(run->context, latents);
}

/* Tensors of the right kind, with noise for every step and at least as many rows as z. */
static bool sample_inputs_fit(const kin_case_run *run, int steps) {
    const kin_named_tensor *z = kin_case_input_tensor(run, "z");
    const kin_named_tensor *noise = kin_case_input_tensor(run, "noise");
    return z && noise && z->desc.rank == 5 && noise->desc.rank == 6 &&
           noise->desc.dtype == KIN_F32 && noise->desc.dims[0] == steps &&
           noise->desc.dims[1] >= z->desc.dims[0] &&
           kin_desc_count(&noise->desc) / steps >= kin_desc_count(&z->desc);
}

static void run_sampler(kin_case_run *run, const kin_stdit_config *config,
                        const kin_schedule *schedule, const kin_sampler_options *options) {
    kin_case_graph graph;
    bool fit = sample_inputs_fit(run, schedule->steps);
    kin_case_expect(run, "z, noise", fit, "");
    if (!fit || !kin_case_begin(run, &graph)) return;
    kin_graph *g = graph.graph;
    kin_tensor y = kin_case_feed_input(&graph, "y", KIN_F32);
    guided_model model = {.config = config};
    model.y =
        kin_reshape(g, y, 3, (int64_t[]){kin_dim(g, y, 0), kin_dim(g, y, 2), kin_dim(g, y, 3)});
    model.lengths = kin_case_lengths(&graph, "mask");
    kin_sampler_graph(g, schedule, options, kin_case_input_tensor(run, "z")->desc.dims, denoise,
                      &model);
    if (kin_case_prepare(&graph, kin_stdit_rename, config))
        sample_and_compare(&graph, schedule, options);
    kin_case_end(&graph);
}

void kin_case_iddpm_sample(kin_case_run *run) {
    const json_t *scheduler = json_object_get(json_object_get(run->info, "call"), "scheduler");
    kin_sampler_options options = {.method = KIN_SAMPLER_IDDPM,
                                   .cfg_scale = kin_case_number(scheduler, "cfg_scale", 4),
                                   .cfg_channels = 3};
    kin_stdit_config config;
    kin_schedule *schedule = NULL;
    kin_status status = kin_stdit_config_parse(run->context, run->config, "config.json",
                                               KIN_UNKNOWN_KEYS_FAIL, &config);
    if (status == KIN_OK) status = kin_case_schedule(run, scheduler, &schedule);
    if (kin_case_ok(run, "config.json", status)) {
        kin_case_schedule_tables(run, schedule);
        run_sampler(run, &config, schedule, &options);
    }
    kin_schedule_free(schedule);
}
