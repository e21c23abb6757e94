/* Samplers by name, PyTorch's noise, and the precisions of the pipeline's stages, with tiny random
 * models of all five systems.
 *
 * Latents of other samplers, and features and latents of other precisions, differ; those of
 * precisions by no more than the rounding of operands explains in networks of two blocks. */
#define _XOPEN_SOURCE 700
#include "tests/pipeline_helper.h"

#include "tools/generate/pipeline_noise.h"

#ifdef KIN_HAVE_SENTENCEPIECE

static const char *const prompts[1] = {"A red Circle, moving  left"};
static const uint64_t seeds[2] = {11, 12};

/* ---- samplers ---- */

static void samplers_have_names(void **state) {
    const pipeline_world *w = *state;
    for (int kind = 0; kind < KIN_SYSTEM_KINDS; kind++) {
        kin_pipeline p = pipeline_of(w, (kin_system_kind)kind);
        kin_generation g = pipeline_small(&p, 1, seeds);
        kin_text text;
        float *all[32];
        int64_t count = 0;
        int made = 0;
        g.frames = 1;
        pipeline_must(w, kin_pipeline_encode(&p, prompts, 1, &text));
        for (int i = 0; kin_sampler_name_at(i); i++) {
            const char *name = kin_sampler_name_at(i);
            kin_host_tensor latents;
            char again[32];
            if (strstr(name, "flow")) {
                pipeline_refused(w, KIN_INVALID, "does not go with",
                                 kin_pipeline_sampler(&p, name, &g.sampling));
                continue;
            }
            pipeline_must(w, kin_pipeline_sampler(&p, name, &g.sampling));
            assert_string_equal(kin_sampling_name(&g.sampling, again, sizeof again), name);
            pipeline_must(w, kin_pipeline_sample(&p, &g, &text, NULL, &latents));
            count = kin_desc_count(&latents.desc);
            /* Euler's steps on the same timesteps are DDIM's. */
            bool ddim_again = strcmp(name, "euler") == 0;
            for (int k = 0; k < made; k++)
                if (!(ddim_again && k == 1) &&
                    pipeline_difference(latents.data, all[k], count) <= 1e-6)
                    fail_msg("%s and sampler %d are the same", name, k);
            all[made] = malloc((size_t)count * sizeof(float));
            memcpy(all[made++], latents.data, (size_t)count * sizeof(float));
            kin_host_tensor_free(w->context, &latents);
        }
        for (int k = 0; k < made; k++) free(all[k]);
        assert_true(made >= 15);
        kin_sampling s = kin_pipeline_sampling(&p);
        pipeline_refused(w, KIN_NOT_FOUND, "\"euler-a\"", kin_pipeline_sampler(&p, "euler_a", &s));
        pipeline_must(w, kin_pipeline_sampler(&p, "EulerAncestralDiscrete", &s));
        assert_int_equal(s.scheduler.kind, KIN_SCHEDULER_EULER_ANCESTRAL);
        pipeline_must(w, kin_pipeline_sampler(&p, "DDIMScheduler", &s));
        assert_true(s.iddpm == (kind <= KIN_SYSTEM_OPEN_SORA_1_1) && s.ddim == s.iddpm);
        kin_text_free(w->context, &text);
        kin_pipeline_close(&p);
    }
}

/* The file of the scheduler counts for other classes, too. */
static void samplers_keep_the_schedule(void **state) {
    const pipeline_world *w = *state;
    static const char file[] = "{\"_class_name\": \"DPMSolverMultistepScheduler\", "
                               "\"beta_start\": 0.0002, \"beta_schedule\": \"scaled_linear\", "
                               "\"timestep_spacing\": \"trailing\"}";
    static const char flow[] = "{\"_class_name\": \"FlowMatchEulerDiscreteScheduler\"}";
    char path[2 * MEDIA_PATH];
    kin_pipeline p;
    kin_system_overrides overrides = {.scheduler = path};
    snprintf(path, sizeof path, "%s", media_path(w->media, "scheduler_config.json"));
    media_write(path, file, sizeof file - 1);
    pipeline_must(
        w, kin_pipeline_open(w->context, w->device, media_path(w->media, "3"), &overrides, &p));
    kin_sampling s = kin_pipeline_sampling(&p);
    assert_int_equal(s.scheduler.kind, KIN_SCHEDULER_DPM_MULTISTEP);
    static const char *const names[] = {"ddim", "ddpm", "euler", "unipc-karras", "dpm++-sde"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        pipeline_must(w, kin_pipeline_sampler(&p, names[i], &s));
        assert_true(s.scheduler.beta_start == 0.0002 && s.scheduler.beta_end == 0.02);
        assert_int_equal(s.scheduler.beta_schedule, KIN_BETAS_SCALED_LINEAR);
        assert_int_equal(s.scheduler.spacing, KIN_SPACING_TRAILING);
        assert_false(s.scheduler.clip_sample);
        assert_int_equal(s.scheduler.karras_sigmas, i == 3);
    }
    assert_int_equal(s.scheduler.algorithm, KIN_DPM_SDE_PLUS_PLUS);
    kin_pipeline_close(&p);
    media_write(path, flow, sizeof flow - 1);
    pipeline_must(
        w, kin_pipeline_open(w->context, w->device, media_path(w->media, "3"), &overrides, &p));
    s = kin_pipeline_sampling(&p);
    pipeline_must(w, kin_pipeline_sampler(&p, "flow", &s));
    assert_int_equal(s.scheduler.kind, KIN_SCHEDULER_FLOW_EULER);
    pipeline_refused(w, KIN_INVALID, "is a flow", kin_pipeline_sampler(&p, "ddim", &s));
    kin_generation g = pipeline_small(&p, 1, seeds);
    kin_host_tensor frames;
    pipeline_must(w, kin_pipeline_generate(&p, &g, prompts, NULL, &frames));
    for (int64_t i = 0; i < kin_desc_count(&frames.desc); i++)
        assert_true(isfinite(((float *)frames.data)[i]));
    kin_host_tensor_free(w->context, &frames);
    kin_pipeline_close(&p);
}

/* ---- noise ---- */

static void noise_is_drawn_as_by_pytorch(void **state) {
    const pipeline_world *w = *state;
    enum { EACH = 40 };
    kin_sampling sampling = {.noise = KIN_NOISE_TORCH_CUDA, .card_multiprocessors = 2};
    kin_clip_noise_options options = {.sampling = &sampling,
                                      .seeds = seeds,
                                      .count = 2,
                                      .each = EACH,
                                      .repeats = 2,
                                      .first = KIN_BF16,
                                      .later = KIN_F32};
    for (int source = 0; source < 2; source++) {
        float got[3][2 * EACH], want[2 * EACH];
        uint16_t half[2 * EACH];
        kin_clip_noise *noise;
        sampling.noise = source ? KIN_NOISE_TORCH_CPU : KIN_NOISE_TORCH_CUDA;
        pipeline_must(w, kin_clip_noise_open(w->context, &options, &noise));
        kin_clip_noise_start(noise, got[0]);
        assert_true(kin_clip_noise_step(noise, 0, got[1], 2 * EACH));
        assert_true(kin_clip_noise_step(noise, 1, got[2], 2 * EACH));
        assert_false(kin_clip_noise_step(noise, 2, got[2], EACH));
        kin_clip_noise_close(noise);
        for (int clip = 0; clip < 2; clip++) {
            kin_torch_cpu cpu;
            kin_torch_cuda cuda = {
                .seed = seeds[clip], .multiprocessors = 2, .threads_per_multiprocessor = 2048};
            kin_torch_cpu_seed(&cpu, seeds[clip]);
            for (int draw = 0; draw < 3; draw++) {
                size_t drawn = draw ? 2 * EACH : EACH; /* steps draw for both halves */
                kin_dtype dtype = draw < 2 ? KIN_BF16 : KIN_F32;
                void *to = draw < 2 ? (void *)half : want;
                if (source) kin_torch_cpu_normal(&cpu, dtype, drawn, to);
                else kin_torch_cuda_normal(&cuda, dtype, drawn, to);
                if (draw < 2) kin_convert(half, KIN_BF16, want, KIN_F32, EACH);
                assert_memory_equal(got[draw] + clip * EACH, want, EACH * sizeof *want);
            }
        }
    }
}

/* ---- precisions ---- */

/* Text features and latents of one clip, one after the other in malloc's memory. */
static float *features_and_latents(const pipeline_world *w, kin_pipeline *p, int64_t *out_features,
                                   int64_t *out_latents) {
    kin_generation g = pipeline_small(p, 1, seeds);
    kin_text text;
    kin_host_tensor latents;
    pipeline_must(w, kin_pipeline_encode(p, prompts, 1, &text));
    pipeline_must(w, kin_pipeline_sample(p, &g, &text, NULL, &latents));
    *out_features = kin_desc_count(&text.features.desc);
    *out_latents = kin_desc_count(&latents.desc);
    float *both = malloc((size_t)(*out_features + *out_latents) * sizeof *both);
    memcpy(both, text.features.data, (size_t)*out_features * sizeof *both);
    memcpy(both + *out_features, latents.data, (size_t)*out_latents * sizeof *both);
    kin_text_free(w->context, &text);
    kin_host_tensor_free(w->context, &latents);
    return both;
}

/* Other numbers, but not far from those of f32. */
static void precisions_are_kept(void **state) {
    const pipeline_world *w = *state;
    static const struct {
        kin_precision precision;
        double features, latents;
    } rows[] = {{{KIN_F16, KIN_F32}, 2e-3, 2e-3},
                {{KIN_F16, KIN_F16}, 2e-3, 4e-3},
                {{KIN_F32, KIN_BF16}, 5e-2, 2e-2},
                {{KIN_BF16, KIN_BF16}, 5e-2, 2e-2}};
    for (int kind = 0; kind < KIN_SYSTEM_KINDS; kind++) {
        kin_pipeline p = pipeline_of(w, (kin_system_kind)kind);
        int64_t features, latents;
        float *want = features_and_latents(w, &p, &features, &latents);
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            p.precision = rows[i].precision;
            float *got = features_and_latents(w, &p, &features, &latents);
            double text = pipeline_difference(got, want, features);
            double rest = pipeline_difference(got + features, want + features, latents);
            if (!(text > 0 && text < rows[i].features && rest > 0 && rest < rows[i].latents))
                fail_msg("%s, precision %zu: features off by %g, latents by %g",
                         kin_system_name(p.system.kind), i, text, rest);
            free(got);
        }
        free(want);
        kin_pipeline_close(&p);
    }
}

/* ---- weights in q8_0 ---- */

static void quantised_weights_stay_small(void **state) {
    const pipeline_world *w = *state;
    for (int kind = 0; kind < KIN_SYSTEM_KINDS; kind++) {
        kin_init_options init = {.system = (kin_system_kind)kind,
                                 .size = KIN_INIT_SIZE_TINY,
                                 .dtype = "q8_0",
                                 .seed = 3,
                                 .quiet = true};
        kin_pipeline plain = pipeline_of(w, (kin_system_kind)kind), small;
        char name[16];
        int64_t features, latents;
        snprintf(name, sizeof name, "q8-%d", kind);
        pipeline_must(w, kin_init_folder(w->context, &init, media_path(w->media, name)));
        pipeline_must(
            w, kin_pipeline_open(w->context, w->device, media_path(w->media, name), NULL, &small));
        float *want = features_and_latents(w, &plain, &features, &latents);
        float *got = features_and_latents(w, &small, &features, &latents);
        double text = pipeline_difference(got, want, features);
        double rest = pipeline_difference(got + features, want + features, latents);
        bool same_model = kind != KIN_SYSTEM_PIXART; /* the other has micro-conditions */
        if (!(text > 0 && text < 0.05 && rest > 0 && (rest < 0.02 || !same_model)))
            fail_msg("%d: features off by %g, latents by %g", kind, text, rest);
        free(got);
        free(want);
        for (int stage = 0; stage < 2; stage++) {
            kin_pipeline *both[2] = {&plain, &small};
            uint64_t peaks[2];
            for (int i = 0; i < 2; i++) {
                kin_generation g = pipeline_small(both[i], 1, seeds);
                int64_t group;
                pipeline_must(
                    w, stage ? kin_pipeline_sample_memory(both[i], &g, false, &peaks[i], &group)
                             : kin_pipeline_text_memory(both[i], &peaks[i]));
            }
            if (peaks[1] + 200000 > peaks[0])
                fail_msg("%d, stage %d: %llu bytes, %llu with q8_0", kind, stage,
                         (unsigned long long)peaks[0], (unsigned long long)peaks[1]);
        }
        kin_text encoded;
        small.memory = 1000;
        pipeline_refused(w, KIN_OUT_OF_MEMORY, "encoding a prompt",
                         kin_pipeline_encode(&small, prompts, 1, &encoded));
        kin_pipeline_close(&small);
        kin_pipeline_close(&plain);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(samplers_have_names),
        cmocka_unit_test(samplers_keep_the_schedule),
        cmocka_unit_test(noise_is_drawn_as_by_pytorch),
        cmocka_unit_test(precisions_are_kept),
        cmocka_unit_test(quantised_weights_stay_small),
    };
    return cmocka_run_group_tests(tests, pipeline_setup, pipeline_teardown);
}

#else

int main(void) {
    printf("skipped: text needs sentencepiece\n");
    return 0;
}

#endif
