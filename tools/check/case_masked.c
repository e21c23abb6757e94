/* Cases of Open-Sora 1.1's sampler, where frames may be given. */
#include "tools/check/case_run.h"

#include <string.h>

#include "models/diffusion_masked.h"
#include "models/stdit2.h"

/* What the denoiser within the sampler's graph reads. */
typedef struct guided_model {
    const kin_stdit2_config *config;
    kin_precision precision;
    kin_stdit2_inputs video; /* all but x, the timestep and the text */
    kin_tensor y, lengths;
} guided_model;

static kin_tensor denoise(void *user, kin_graph *g, kin_tensor x, kin_tensor timestep,
                          kin_tensor frame_mask) {
    const guided_model *model = user;
    kin_stdit2_inputs in = model->video;
    in.x = x;
    in.timestep = timestep;
    in.frame_mask = frame_mask;
    kin_stdit_guided_text(g, &model->config->common, &model->precision, model->y, model->lengths,
                          &in.y, &in.y_lengths);
    return kin_stdit2(g, model->config, &model->precision, &in);
}

/* The recorded noise, and what every step gave. */
typedef struct sample_record {
    kin_case_graph *graph;
    const float *noise[2]; /* of the given frames (NULL: there are none), of the steps */
    size_t noise_stride, count, frames;
    float *latents;
    float *masks;
} sample_record;

static bool give_noise(void *user, int call, float *noise, size_t count) {
    const sample_record *record = user;
    const float *from = record->noise[call % 2];
    for (size_t i = 0; i < count; i++)
        noise[i] = from ? from[(size_t)(call / 2) * record->noise_stride + i] : 0;
    return true;
}

static bool keep_step(void *user, int call, int calls, const float *latents) {
    const sample_record *record = user;
    (void)calls;
    memcpy(record->latents + (size_t)call * record->count, latents,
           record->count * sizeof *latents);
    return kin_plan_read(record->graph->plan, "frame_mask", KIN_F32,
                         record->masks + (size_t)call * record->frames) == KIN_OK;
}

static int64_t elements(const kin_case_run *run, const char *name) {
    const kin_named_tensor *tensor = kin_case_input_tensor(run, name);
    return tensor && tensor->desc.dtype == KIN_F32 ? kin_desc_count(&tensor->desc) : 0;
}

/* The edit ratios [B, T], 1 where the case has none; kin_free. */
static float *edit_ratios(kin_case_run *run, int64_t frames) {
    const kin_named_tensor *mask = kin_case_input_tensor(run, "frame_mask");
    if (mask) return kin_case_values(run, mask, KIN_F32);
    float *ratios = kin_calloc(run->context, (size_t)frames, sizeof *ratios);
    for (int64_t i = 0; ratios && i < frames; i++) ratios[i] = 1;
    return ratios;
}

/* Runs the loop and compares the latents and masks of every step, the result and the timesteps. */
static void sample_and_compare(kin_case_graph *graph, const kin_schedule *schedule,
                               const kin_sampler_options *options) {
    kin_case_run *run = graph->run;
    const kin_named_tensor *z = kin_case_input_tensor(run, "z");
    const kin_named_tensor *noise_x = kin_case_input_tensor(run, "noise_x");
    int64_t steps = schedule->steps, count = kin_desc_count(&z->desc);
    int64_t frames = z->desc.dims[0] * z->desc.dims[2];
    float *latents = kin_case_values(run, z, KIN_F32), *ratios = edit_ratios(run, frames);
    sample_record record = {
        .graph = graph,
        .noise = {noise_x ? noise_x->data : NULL, kin_case_input_tensor(run, "noise")->data},
        .noise_stride = (size_t)(elements(run, "noise") / steps),
        .count = (size_t)count,
        .frames = (size_t)frames};
    record.latents = kin_calloc(run->context, (size_t)(count * steps), sizeof *record.latents);
    record.masks = kin_calloc(run->context, (size_t)(frames * steps), sizeof *record.masks);
    int64_t *timesteps = kin_calloc(run->context, (size_t)steps, sizeof *timesteps);
    kin_sampler_loop loop = {.noise = give_noise,
                             .noise_user = &record,
                             .progress = keep_step,
                             .progress_user = &record};
    bool room = latents && ratios && record.latents && record.masks && timesteps;
    kin_status status = room ? KIN_OK : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK)
        status = kin_masked_sampler_run(graph->plan, run->context, schedule, options, &loop, ratios,
                                        (size_t)frames, latents, (size_t)count);
    if (kin_case_ok(run, "sampler", status)) {
        kin_case_widen_loop(run);
        for (int64_t i = 0; i < steps; i++) timesteps[i] = schedule->timesteps[steps - 1 - i];
        kin_case_compare(run, "timesteps", KIN_I64, timesteps, steps);
        if (kin_case_output_tensor(run, "x_masks"))
            kin_case_compare(run, "x_masks", KIN_F32, record.masks, frames * steps);
        kin_case_compare(run, "latents", KIN_F32, record.latents, count * steps);
        kin_case_compare(run, "out", KIN_F32, latents, count);
    }
    kin_free(run->context, timesteps);
    kin_free(run->context, record.masks);
    kin_free(run->context, record.latents);
    kin_free(run->context, ratios);
    kin_free(run->context, latents);
}

/* Tensors of the right kind, with noise for every step and at least as many rows as z; edit ratios
 * and the noise for given frames come together or not at all. */
static bool inputs_fit(const kin_case_run *run, int steps) {
    const kin_named_tensor *z = kin_case_input_tensor(run, "z");
    const kin_named_tensor *mask = kin_case_input_tensor(run, "frame_mask");
    int64_t count = elements(run, "z"), noise = elements(run, "noise");
    if (count < 1 || z->desc.rank != 5 || noise < count * steps || noise % steps != 0) return false;
    if (!mask) return !kin_case_input_tensor(run, "noise_x");
    return elements(run, "noise_x") == noise && mask->desc.rank == 2 &&
           mask->desc.dims[0] == z->desc.dims[0] && mask->desc.dims[1] == z->desc.dims[2];
}

void kin_case_masked_sample(kin_case_run *run) {
    const json_t *scheduler = json_object_get(json_object_get(run->info, "call"), "scheduler");
    kin_stdit2_config config;
    kin_schedule *schedule = NULL;
    kin_case_graph graph;
    kin_status status = kin_stdit2_config_parse(run->context, run->config, "config.json",
                                                KIN_UNKNOWN_KEYS_FAIL, &config);
    if (status == KIN_OK) status = kin_case_schedule(run, scheduler, &schedule);
    if (!kin_case_ok(run, "config.json", status)) return;
    kin_schedule_use_single(schedule);
    kin_case_schedule_tables(run, schedule);
    /* Without cfg_channel all channels are guided. */
    kin_sampler_options options = {.method = KIN_SAMPLER_IDDPM,
                                   .cfg_scale = kin_case_number(scheduler, "cfg_scale", 4),
                                   .cfg_channels =
                                       (int)kin_case_number(scheduler, "cfg_channel", 0)};
    bool fit = inputs_fit(run, schedule->steps);
    kin_case_expect(run, "z, noise, noise_x, frame_mask", fit, "");
    if (fit && kin_case_begin(run, &graph)) {
        guided_model model = {.config = &config, .y = kin_case_caption(&graph)};
        model.lengths = kin_case_lengths(&graph, "mask");
        kin_case_stdit2_video(&graph, &model.video);
        kin_masked_sampler_graph(graph.graph, schedule, &options,
                                 kin_case_input_tensor(run, "z")->desc.dims, denoise, &model);
        if (kin_case_prepare(&graph, kin_stdit2_rename, &config))
            sample_and_compare(&graph, schedule, &options);
        kin_case_end(&graph);
    }
    kin_schedule_free(schedule);
}
