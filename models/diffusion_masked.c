#include "models/diffusion_masked.h"

#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/views.h"
#include "runtime/philox.h"

void kin_masked_frame_steps(const float *ratios, size_t count, int steps, float *out_frame_steps) {
    for (size_t i = 0; i < count; i++) {
        float scaled = ratios[i] * (float)steps;
        out_frame_steps[i] = (float)(int)scaled;
    }
}

void kin_masked_sampler_graph(kin_graph *graph, const kin_schedule *schedule,
                              const kin_sampler_options *options, const int64_t dims[5],
                              kin_masked_denoiser_fn denoiser, void *user) {
    kin_graph *g = graph;
    bool guided = options->cfg_scale != 1;
    int64_t frames[] = {dims[0], dims[2]}, wide[] = {dims[0], 1, dims[2], 1, 1};
    kin_tensor x = kin_input(g, "latents", KIN_F32, 5, dims);
    kin_tensor step = kin_input(g, "step", KIN_I32, 1, (int64_t[]){1});
    kin_tensor frame_steps = kin_input(g, "frame_steps", KIN_F32, 2, frames);
    kin_tensor noise_given = kin_input(g, "noise_given", KIN_F32, 5, dims), noise = KIN_NONE;
    if (kin_sampler_needs_noise(options)) noise = kin_input(g, "noise", KIN_F32, 5, dims);

    kin_tensor now = kin_reshape(g, kin_cast(g, step, KIN_F32), 2, (int64_t[]){1, 1});
    kin_tensor changing = kin_greater(g, frame_steps, now), kept = kin_less(g, frame_steps, now);
    kin_output(g, "frame_mask", changing);
    /* Neither: this is the step of the frame. */
    kin_tensor off = kin_reshape(g, kin_add(g, changing, kept), 5, wide);
    x = kin_where(g, off, x, kin_diffusion_noise(g, schedule, x, step, noise_given));

    kin_tensor timestep = kin_diffusion_timesteps(g, schedule, step);
    timestep = kin_expand(g, timestep, 1, (int64_t[]){guided ? 2 * dims[0] : dims[0]});
    kin_tensor both = guided ? kin_concat(g, (kin_tensor[]){x, x}, 2, 0) : x;
    kin_tensor out = denoiser(user, g, both, timestep, changing);
    if (guided) out = kin_sampler_guide(g, options, out, dims[1]);
    kin_tensor next = kin_sampler_step(g, schedule, options, x, out, step, noise);
    kin_output(g, "next", kin_where(g, kin_reshape(g, kept, 5, wide), x, next));
}

/* Draws noise number `number` into `noise`; false: stop. */
static bool draw(const kin_sampler_loop *loop, int number, float *noise, size_t count) {
    if (loop->noise) return loop->noise(loop->noise_user, number, noise, count);
    kin_philox_fill_normal(loop->seed, loop->stream, (uint64_t)number + 1, 0, count, noise);
    return true;
}

static kin_status run_step(kin_plan *plan, int step, float *latents) {
    int32_t index = step;
    kin_status status = kin_plan_write(plan, "latents", KIN_F32, latents);
    if (status == KIN_OK) status = kin_plan_write(plan, "step", KIN_I32, &index);
    if (status == KIN_OK) status = kin_plan_run(plan);
    if (status == KIN_OK) status = kin_plan_read(plan, "next", KIN_F32, latents);
    return status;
}

kin_status kin_masked_sampler_run(kin_plan *plan, kin_context *context,
                                  const kin_schedule *schedule, const kin_sampler_options *options,
                                  const kin_sampler_loop *loop, const float *ratios,
                                  size_t ratio_count, float *latents, size_t count) {
    bool noisy = kin_sampler_needs_noise(options);
    float *noise = kin_alloc(context, count * sizeof *noise);
    float *frame_steps = kin_alloc(context, ratio_count * sizeof *frame_steps);
    kin_status status = noise && frame_steps ? KIN_OK : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK) {
        kin_masked_frame_steps(ratios, ratio_count, schedule->steps, frame_steps);
        status = kin_plan_write(plan, "frame_steps", KIN_F32, frame_steps);
    }
    for (int call = 0; status == KIN_OK && call < schedule->steps; call++) {
        bool go = draw(loop, 2 * call, noise, count);
        if (go) status = kin_plan_write(plan, "noise_given", KIN_F32, noise);
        if (go && noisy) go = draw(loop, 2 * call + 1, noise, count);
        if (go && noisy && status == KIN_OK) status = kin_plan_write(plan, "noise", KIN_F32, noise);
        if (go && status == KIN_OK) status = run_step(plan, schedule->steps - 1 - call, latents);
        if (go && status == KIN_OK && loop->progress)
            go = loop->progress(loop->progress_user, call, schedule->steps, latents);
        if (!go && status == KIN_OK)
            status = kin_fail(context, KIN_CANCELLED, "sampling was stopped at step %d of %d",
                              call + 1, schedule->steps);
    }
    kin_free(context, frame_steps);
    kin_free(context, noise);
    return status;
}
