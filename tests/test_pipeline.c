/* The pipeline with tiny random models of all five systems: texts, latents and frames are those of
 * the models' graphs and the samplers' formulas run by hand; clips stand alone, whatever stands
 * beside them; budgets, sizes and samplers.
 *
 * The host computes samplers in double, the pipeline in f32, over 5 steps with guidance: 1e-5 of
 * the largest value. Negative controls differ by ten times as much. */
#define _XOPEN_SOURCE 700
#include "tests/pipeline_helper.h"

#include "tools/generate/pipeline_noise.h"

#include <limits.h>

#ifdef KIN_HAVE_SENTENCEPIECE

#define TOLERANCE 1e-5
#define BATCH_TOLERANCE 1e-4 /* products of other sizes may sum in another order */

static const char *const prompts[3] = {"A red Circle, moving  left", "a blue square", "rain"};
static const char *const against[1] = {"blurry"};
static const uint64_t seeds[3] = {11, 12, 1ull << 40};

static kin_text text_row(const kin_text *text, int64_t row) {
    kin_text one = *text;
    one.features.desc.dims[0] = one.lengths.desc.dims[0] = 1;
    size_t size = kin_desc_bytes(&one.features.desc);
    one.features.data = (char *)text->features.data + (size_t)row * size;
    one.lengths.data = (int32_t *)text->lengths.data + row;
    return one;
}

/* ---- texts ---- */

/* A text as it stands, through the tokenizer and the encoder's graph. */
static void encode_by_hand(const pipeline_world *w, const kin_pipeline *p, const char *text,
                           int length, float *out, int32_t *out_tokens) {
    const kin_t5_config *config = &p->system.text_encoder;
    int32_t *ids = malloc((size_t)length * sizeof *ids);
    int64_t dims[2] = {1, length};
    kin_tokenizer *tokenizer;
    kin_graph *graph;
    kin_plan *plan;
    kin_store *store;
    int tokens;
    assert_non_null(ids);
    pipeline_must(
        w, kin_tokenizer_load(w->context, p->system.parts[KIN_PART_TOKENIZER].path, &tokenizer));
    pipeline_must(w,
                  kin_tokenizer_encode_padded(tokenizer, text, strlen(text), length, ids, &tokens));
    kin_tokenizer_destroy(tokenizer);
    pipeline_must(w, kin_graph_create(w->context, &graph));
    kin_tensor in = kin_input(graph, "ids", KIN_I32, 2, dims);
    kin_tensor lengths = kin_input(graph, "lengths", KIN_I32, 1, dims);
    kin_output(graph, "out", kin_t5_encode(graph, config, &pipeline_f32, in, lengths, false));
    pipeline_must(w, kin_plan_build(graph, w->device, NULL, &plan));
    pipeline_must(w, kin_store_create(w->device, &store));
    pipeline_must(w, kin_store_add_graph(store, graph, 0));
    kin_weights_options load = {.rename = kin_t5_rename, .config = config};
    pipeline_must(
        w, kin_weights_load(store, p->system.parts[KIN_PART_TEXT_ENCODER].path, &load, NULL));
    pipeline_must(w, kin_plan_prepare(plan, store, NULL));
    *out_tokens = tokens;
    pipeline_must(w, kin_plan_write(plan, "ids", KIN_I32, ids));
    pipeline_must(w, kin_plan_write(plan, "lengths", KIN_I32, out_tokens));
    pipeline_must(w, kin_plan_run(plan));
    pipeline_must(w, kin_plan_read(plan, "out", KIN_F32, out));
    kin_plan_free(plan);
    kin_store_free(store);
    kin_graph_destroy(graph);
    free(ids);
}

static void compare_text(const pipeline_world *w, const kin_pipeline *p, const kin_text *got,
                         const char *text) {
    int64_t length = got->features.desc.dims[1], count = kin_desc_count(&got->features.desc);
    float *want = malloc((size_t)count * sizeof *want),
          *other = malloc((size_t)count * sizeof *want);
    int32_t tokens, other_tokens;
    encode_by_hand(w, p, text, (int)length, want, &tokens);
    assert_int_equal(*(int32_t *)got->lengths.data, tokens);
    assert_true(pipeline_difference(got->features.data, want, count) <= 1e-6);
    encode_by_hand(w, p, "another text", (int)length, other, &other_tokens);
    assert_true(pipeline_difference(other, want, count) > 1e-2);
    free(other);
    free(want);
}

static void texts_are_prepared_as_by_the_scripts(void **state) {
    const pipeline_world *w = *state;
    static const int lengths[KIN_SYSTEM_KINDS] = {120, 200, 120, 120, 512};
    for (int kind = 0; kind < KIN_SYSTEM_KINDS; kind++) {
        kin_pipeline p = pipeline_of(w, (kin_system_kind)kind);
        kin_text text;
        bool plan = kind == KIN_SYSTEM_OPEN_SORA_PLAN;
        const char *framed = plan ? "masterpiece , best quality , ultra-detailed , a red circle, "
                                    "moving left."
                                  : "a red circle, moving left";
        pipeline_must(w, kin_pipeline_encode(&p, prompts, 1, &text));
        assert_int_equal(text.features.desc.dims[1], lengths[kind]);
        compare_text(w, &p, &text, framed);
        kin_text_free(w->context, &text);
        pipeline_must(w, kin_pipeline_encode_negative(&p, prompts, 1, &text));
        compare_text(w, &p, &text, "a red circle, moving left");
        kin_text_free(w->context, &text);
        /* without cleaning only the case and the ends change */
        p.clean_text = false;
        pipeline_must(w, kin_pipeline_encode_negative(&p, prompts, 1, &text));
        compare_text(w, &p, &text, "a red circle, moving  left");
        kin_text_free(w->context, &text);
        kin_pipeline_close(&p);
    }
}

/* ---- latents ---- */

static void compare_sample(const pipeline_world *w, kin_pipeline *p, const kin_generation *g,
                           const kin_text *text, const kin_text *null, const kin_text *hand_null) {
    kin_host_tensor latents, other;
    float *want = hand_sample(w, p, g, text, hand_null);
    pipeline_must(w, kin_pipeline_sample(p, g, text, null, &latents));
    int64_t count = kin_desc_count(&latents.desc);
    double off = pipeline_difference(latents.data, want, count);
    if (off > TOLERANCE)
        fail_msg("%s: latents are off by %g", kin_system_name(p->system.kind), off);
    /* another guidance is seen */
    kin_generation weaker = *g;
    weaker.sampling.cfg_scale = 1 + (g->sampling.cfg_scale - 1) / 2;
    pipeline_must(w, kin_pipeline_sample(p, &weaker, text, null, &other));
    assert_true(pipeline_difference(other.data, want, count) > 10 * TOLERANCE);
    kin_host_tensor_free(w->context, &other);
    kin_host_tensor_free(w->context, &latents);
    free(want);
}

static void latents_are_those_of_the_models(void **state) {
    const pipeline_world *w = *state;
    static const char *const empty[1] = {""};
    for (int kind = 0; kind < KIN_SYSTEM_KINDS; kind++) {
        kin_pipeline p = pipeline_of(w, (kin_system_kind)kind);
        kin_generation g = pipeline_small(&p, 1, seeds);
        kin_text text, null, nothing;
        g.fps = 24;
        pipeline_must(w, kin_pipeline_encode(&p, prompts, 1, &text));
        pipeline_must(w, kin_pipeline_encode_negative(&p, against, 1, &null));
        pipeline_must(w, kin_pipeline_encode_negative(&p, empty, 1, &nothing));
        compare_sample(w, &p, &g, &text, NULL, &nothing);
        g.sampling.noise = KIN_NOISE_TORCH_CPU;
        bool own = kin_denoiser_shape_of(&p.system.denoiser).own_null_caption;
        compare_sample(w, &p, &g, &text, own ? NULL : &null, &null);
        kin_text_free(w->context, &nothing);
        kin_text_free(w->context, &null);
        kin_text_free(w->context, &text);
        kin_pipeline_close(&p);
    }
}

/* Ratios of all kinds; latents of frames that are not given are NaN: nobody reads them. */
static void given_frames_are_kept(void **state) {
    const pipeline_world *w = *state;
    static const float ratios[5] = {0, 0.5f, 1, 0.99f, 0};
    kin_pipeline p = pipeline_of(w, KIN_SYSTEM_OPEN_SORA_1_1);
    kin_generation g = pipeline_small(&p, 1, seeds);
    kin_text text;
    kin_host_tensor latents;
    int64_t dims[5], frames[5];
    kin_pipeline_sizes(&p, &g, dims, frames);
    int64_t frame = dims[3] * dims[4], each = dims[1] * dims[2] * frame;
    float *given = malloc((size_t)each * sizeof *given);
    assert_non_null(given);
    kin_philox_fill_normal(5, 0, 0, 0, (size_t)each, given);
    for (int64_t i = 0; i < each; i++)
        if (ratios[i / frame % dims[2]] == 1) given[i] = NAN;
    g.fps = 24;
    g.given = given;
    g.ratios = ratios;
    pipeline_must(w, kin_pipeline_encode(&p, prompts, 1, &text));
    compare_sample(w, &p, &g, &text, NULL, NULL);
    for (int keep = 0; keep < 2; keep++) {
        g.keep_given = keep;
        pipeline_must(w, kin_pipeline_sample(&p, &g, &text, NULL, &latents));
        const float *got = latents.data;
        int64_t same[5] = {0};
        for (int64_t i = 0; i < each; i++) {
            assert_true(isfinite(got[i]));
            same[i / frame % dims[2]] += got[i] == given[i];
        }
        for (int t = 0; t < 5; t++)
            assert_int_equal(same[t] == dims[1] * frame, keep && ratios[t] == 0);
        kin_host_tensor_free(w->context, &latents);
    }
    g.ratios = NULL;
    pipeline_refused(w, KIN_INVALID, "edit ratios", kin_pipeline_check(&p, &g));
    g.ratios = ratios;
    pipeline_must(w, kin_pipeline_sampler(&p, "euler", &g.sampling));
    pipeline_refused(w, KIN_INVALID, "iddpm", kin_pipeline_check(&p, &g));
    kin_pipeline_close(&p);
    p = pipeline_of(w, KIN_SYSTEM_OPEN_SORA_1_0);
    g.sampling = kin_pipeline_sampling(&p);
    g.sampling.steps = 3;
    pipeline_refused(w, KIN_INVALID, "Open-Sora 1.1", kin_pipeline_check(&p, &g));
    kin_pipeline_close(&p);
    kin_text_free(w->context, &text);
    free(given);
}

/* ---- frames ---- */

static void frames_are_those_of_the_autoencoders(void **state) {
    const pipeline_world *w = *state;
    for (int kind = 0; kind < KIN_SYSTEM_KINDS; kind++) {
        kin_pipeline p = pipeline_of(w, (kin_system_kind)kind);
        kin_generation g = pipeline_small(&p, 1, seeds);
        kin_host_tensor latents, frames;
        kin_graph *graph;
        kin_plan *plan;
        kin_store *store;
        int64_t dims[5], sizes[5];
        kin_pipeline_sizes(&p, &g, dims, sizes);
        pipeline_must(w, kin_host_tensor_create(w->context, KIN_F32, 5, dims, &latents));
        int64_t count = kin_desc_count(&latents.desc);
        kin_philox_fill_normal(7, 0, 0, 0, (size_t)count, latents.data);
        pipeline_must(w, kin_pipeline_decode(&p, &latents, true, &frames));
        for (int i = 0; i < 5; i++) assert_int_equal(frames.desc.dims[i], sizes[i]);
        pipeline_must(w, kin_graph_create(w->context, &graph));
        kin_tensor in = kin_input(graph, "x", KIN_F32, 5, dims);
        kin_output(graph, "out", kin_vae_decode(graph, &p.system.vae, &pipeline_f32, in));
        pipeline_must(w, kin_plan_build(graph, w->device, NULL, &plan));
        pipeline_must(w, kin_store_create(w->device, &store));
        pipeline_must(w, kin_store_add_graph(store, graph, 0));
        kin_weights_options load = {
            .rename = kin_vae_rename, .config = &p.system.vae, .allow_unexpected = true};
        pipeline_must(w, kin_weights_load(store, p.system.parts[KIN_PART_VAE].path, &load, NULL));
        pipeline_must(w, kin_plan_prepare(plan, store, NULL));
        int64_t pixels = kin_desc_count(&frames.desc);
        float *want = malloc((size_t)pixels * sizeof *want);
        pipeline_must(w, kin_plan_write(plan, "x", KIN_F32, latents.data));
        pipeline_must(w, kin_plan_run(plan));
        pipeline_must(w, kin_plan_read(plan, "out", KIN_F32, want));
        for (int64_t i = 0; i < pixels; i++) want[i] = fminf(fmaxf(want[i], -1), 1);
        assert_true(pipeline_difference(frames.data, want, pixels) <= 1e-5);
        ((float *)latents.data)[0] += 1;
        pipeline_must(w, kin_plan_write(plan, "x", KIN_F32, latents.data));
        pipeline_must(w, kin_plan_run(plan));
        pipeline_must(w, kin_plan_read(plan, "out", KIN_F32, want));
        assert_true(pipeline_difference(frames.data, want, pixels) > 1e-4);
        free(want);
        kin_plan_free(plan);
        kin_store_free(store);
        kin_graph_destroy(graph);
        kin_host_tensor_free(w->context, &frames);
        kin_host_tensor_free(w->context, &latents);
        kin_pipeline_close(&p);
    }
}

static void videos_become_latents(void **state) {
    const pipeline_world *w = *state;
    static const int kinds[] = {KIN_SYSTEM_OPEN_SORA_1_1, KIN_SYSTEM_OPEN_SORA_PLAN};
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        kin_pipeline p = pipeline_of(w, (kin_system_kind)kinds[k]);
        kin_generation g = pipeline_small(&p, 2, seeds);
        kin_host_tensor video, mean, drawn, again;
        int64_t dims[5], sizes[5];
        static const uint64_t other[2] = {11, 13};
        kin_pipeline_sizes(&p, &g, dims, sizes);
        pipeline_must(w, kin_host_tensor_create(w->context, KIN_F32, 5, sizes, &video));
        kin_philox_fill_uniform(8, 0, 0, 0, (size_t)kin_desc_count(&video.desc), video.data);
        pipeline_must(w, kin_pipeline_encode_video(&p, &video, NULL, &mean));
        pipeline_must(w, kin_pipeline_encode_video(&p, &video, seeds, &drawn));
        pipeline_must(w, kin_pipeline_encode_video(&p, &video, other, &again));
        for (int i = 0; i < 5; i++) assert_int_equal(mean.desc.dims[i], dims[i]);
        int64_t each = kin_desc_count(&mean.desc) / 2;
        const float *m = mean.data, *d = drawn.data, *a = again.data;
        assert_true(pipeline_difference(d, m, 2 * each) > 1e-4);
        assert_memory_equal(d, a, (size_t)each * sizeof *d); /* each sample has its own seed */
        assert_true(pipeline_difference(d + each, a + each, each) > 1e-4);
        kin_host_tensor_free(w->context, &again);
        kin_host_tensor_free(w->context, &drawn);
        kin_host_tensor_free(w->context, &mean);
        kin_host_tensor_free(w->context, &video);
        kin_pipeline_close(&p);
    }
    /* the formula */
    float moments[4] = {1, -2, 100, -100}, noise[2], latents[2];
    kin_philox_fill_normal(seeds[0], 102, 0, 0, 2, noise);
    kin_posterior_draw(moments, 2, seeds, 0.5, latents);
    assert_true(fabs(latents[0] / (0.5 * (1 + exp(10) * (double)noise[0])) - 1) < 1e-5);
    assert_true(fabs(latents[1] - 0.5 * (-2 + exp(-15) * (double)noise[1])) < 1e-6);
}

/* ---- batches and memory ---- */

static void clips_stand_alone(void **state) {
    pipeline_world *w = *state;
    for (int kind = 0; kind < KIN_SYSTEM_KINDS; kind++) {
        kin_pipeline p = pipeline_of(w, (kin_system_kind)kind);
        kin_generation all = pipeline_small(&p, 3, seeds), one = all;
        kin_text text, null;
        kin_host_tensor batch, alone, split;
        pipeline_must(w, kin_pipeline_encode(&p, prompts, 3, &text));
        pipeline_must(w, kin_pipeline_encode_negative(&p, against, 1, &null));
        pipeline_must(w, kin_pipeline_sample(&p, &all, &text, &null, &batch));
        int64_t each = kin_desc_count(&batch.desc) / 3;
        /* what one clip needs, and a byte less: one clip after the other, or none */
        uint64_t peak, together, apart;
        kin_text row = text_row(&text, 0);
        int64_t group;
        one.count = 1;
        pipeline_must(w, kin_pipeline_sample_memory(&p, &one, true, &peak, &group));
        assert_int_equal(group, 1);
        pipeline_must(w, kin_pipeline_sample_memory(&p, &all, true, &together, &group));
        assert_true(group == 3 && together > peak);
        p.memory = peak - 1; /* less still with the guidance's sides in turn */
        pipeline_must(w, kin_pipeline_sample_memory(&p, &one, true, &apart, &group));
        assert_true(apart < peak);
        w->log[0] = 0;
        bool null_caption = kin_denoiser_shape_of(&p.system.denoiser).own_null_caption;
        for (int own = 0; own <= null_caption; own++) { /* the negative prompt; the model's own */
            kin_host_tensor want;
            p.memory = 0;
            pipeline_must(w, kin_pipeline_sample(&p, &one, &row, own ? NULL : &null, &want));
            p.memory = peak - 1;
            pipeline_must(w, kin_pipeline_sample(&p, &one, &row, own ? NULL : &null, &split));
            assert_true(pipeline_difference(split.data, want.data, each) <= BATCH_TOLERANCE);
            kin_host_tensor_free(w->context, &split);
            kin_host_tensor_free(w->context, &want);
        }
        if (!strstr(w->log, "in turn")) fail_msg("not in turn, but: %s", w->log);
        p.memory = apart - 1;
        pipeline_refused(w, KIN_OUT_OF_MEMORY, "sampling one clip",
                         kin_pipeline_sample(&p, &all, &text, &null, &split));
        p.memory = peak;
        w->log[0] = 0;
        pipeline_must(w, kin_pipeline_sample(&p, &all, &text, &null, &split));
        if (!strstr(w->log, "1 of 3 clips")) fail_msg("not split, but: %s", w->log);
        for (int64_t i = 0; i < 3; i++) {
            row = text_row(&text, i);
            one.seeds = seeds + i;
            pipeline_must(w, kin_pipeline_sample(&p, &one, &row, &null, &alone));
            const float *a = alone.data, *b = (float *)batch.data + i * each;
            assert_memory_equal(a, (float *)split.data + i * each, (size_t)each * sizeof *a);
            assert_true(pipeline_difference(b, a, each) <= BATCH_TOLERANCE);
            /* negative control: the neighbour is another clip */
            b = (float *)batch.data + (i + 1) % 3 * each;
            assert_true(pipeline_difference(b, a, each) > 100 * BATCH_TOLERANCE);
            kin_host_tensor_free(w->context, &alone);
        }
        /* two at a time: the second group has one clip alone */
        p.memory = 0;
        all.together = 2;
        kin_host_tensor_free(w->context, &split);
        pipeline_must(w, kin_pipeline_sample(&p, &all, &text, &null, &split));
        assert_true(pipeline_difference(split.data, batch.data, 3 * each) <= BATCH_TOLERANCE);
        kin_host_tensor_free(w->context, &split);
        kin_host_tensor_free(w->context, &batch);
        kin_text_free(w->context, &null);
        kin_text_free(w->context, &text);
        kin_pipeline_close(&p);
    }
}

/* The weights' file goes away between the calls. */
static void denoisers_stay_loaded(void **state) {
    const pipeline_world *w = *state;
    for (int kind = 0; kind < KIN_SYSTEM_KINDS; kind++) {
        kin_pipeline p = pipeline_of(w, (kin_system_kind)kind);
        kin_generation g = pipeline_small(&p, 2, seeds);
        kin_text text, null;
        kin_host_tensor first, again;
        const char *file = p.system.parts[KIN_PART_DENOISER].path;
        char away[2 * MEDIA_PATH];
        snprintf(away, sizeof away, "%s.away", file);
        pipeline_must(w, kin_pipeline_encode(&p, prompts, 2, &text));
        pipeline_must(w, kin_pipeline_encode_negative(&p, against, 1, &null));
        p.keep_denoiser = true;
        pipeline_must(w, kin_pipeline_sample(&p, &g, &text, &null, &first));
        assert_non_null(p.kept);
        assert_int_equal(rename(file, away), 0);
        for (int call = 0; call < 2; call++) { /* other clips, then the first ones again */
            static const uint64_t others[2] = {99, 98};
            g.seeds = call ? seeds : others;
            pipeline_must(w, kin_pipeline_sample(&p, &g, &text, &null, &again));
            bool same = memcmp(first.data, again.data, kin_desc_bytes(&first.desc)) == 0;
            assert_int_equal(same, call);
            kin_host_tensor_free(w->context, &again);
        }
        /* it is not taken for another one */
        p.keep_denoiser = false;
        g.sampling.cfg_scale += 1;
        pipeline_refused(w, KIN_NOT_FOUND, file, kin_pipeline_sample(&p, &g, &text, &null, &again));
        assert_int_equal(rename(away, file), 0);
        pipeline_must(w, kin_pipeline_sample(&p, &g, &text, &null, &again));
        assert_memory_not_equal(first.data, again.data, kin_desc_bytes(&first.desc));
        assert_null(p.kept);
        kin_host_tensor_free(w->context, &again);
        kin_host_tensor_free(w->context, &first);
        kin_text_free(w->context, &null);
        kin_text_free(w->context, &text);
        kin_pipeline_close(&p);
    }
}

static void generating_is_all_stages(void **state) {
    const pipeline_world *w = *state;
    for (int kind = 0; kind < KIN_SYSTEM_KINDS; kind++) {
        kin_pipeline p = pipeline_of(w, (kin_system_kind)kind);
        kin_generation g = pipeline_small(&p, 2, seeds);
        kin_text text, null = {{.data = NULL}, {.data = NULL}};
        kin_host_tensor latents, want, got, other;
        const char *negative = p.system.defaults.negative;
        pipeline_must(w, kin_pipeline_encode(&p, prompts, 2, &text));
        if (negative) pipeline_must(w, kin_pipeline_encode_negative(&p, &negative, 1, &null));
        pipeline_must(
            w, kin_pipeline_sample(&p, &g, &text, null.features.data ? &null : NULL, &latents));
        pipeline_must(w, kin_pipeline_decode(&p, &latents, true, &want));
        pipeline_must(w, kin_pipeline_generate(&p, &g, prompts, NULL, &got));
        size_t size = kin_desc_bytes(&want.desc);
        assert_true(kin_desc_same_shape(&want.desc, &got.desc));
        assert_memory_equal(want.data, got.data, size);
        kin_host_tensor clip = kin_pipeline_clip(&got, 1);
        assert_ptr_equal(clip.data, (char *)got.data + size / 2);
        /* a negative prompt counts */
        static const char *const two[2] = {"blurry", "blurry"};
        pipeline_must(w, kin_pipeline_generate(&p, &g, prompts, two, &other));
        assert_memory_not_equal(other.data, got.data, size);
        kin_host_tensor_free(w->context, &other);
        kin_host_tensor_free(w->context, &got);
        kin_host_tensor_free(w->context, &want);
        kin_host_tensor_free(w->context, &latents);
        kin_text_free(w->context, &null);
        kin_text_free(w->context, &text);
        kin_pipeline_close(&p);
    }
}

/* ---- sizes ---- */

static void wrong_sizes_are_told(void **state) {
    const pipeline_world *w = *state;
    static const struct {
        kin_system_kind kind;
        int64_t frames, height, width, steps;
        const char *told; /* NULL: it can be made */
    } rows[] = {
        {KIN_SYSTEM_OPEN_SORA_1_0, 4, 32, 33, 3, "multiples of 8"},
        {KIN_SYSTEM_OPEN_SORA_1_0, 4, 32, 40, 3, NULL},
        {KIN_SYSTEM_OPEN_SORA_1_0, 0, 32, 32, 3, "frames 1 to 4096"},
        {KIN_SYSTEM_OPEN_SORA_1_0, 4, 32, 32, 1001, "steps 1 to 1000"},
        {KIN_SYSTEM_OPEN_SORA_1_1, 4, 30, 53, 3, NULL},
        {KIN_SYSTEM_OPEN_SORA_1_1, 4, 7, 53, 3, "from 8"},
        {KIN_SYSTEM_LATTE, 4, 32, 36, 3, "multiples of 8"},
        {KIN_SYSTEM_PIXART, 2, 32, 32, 3, "1 frame"},
        {KIN_SYSTEM_PIXART, 1, 32, 40, 3, NULL},
        {KIN_SYSTEM_OPEN_SORA_PLAN, 8, 32, 32, 3, "4 k + 1: 1, 5, 9"},
        {KIN_SYSTEM_OPEN_SORA_PLAN, 13, 32, 32, 3, NULL},
        {KIN_SYSTEM_OPEN_SORA_PLAN, 1, 32, 32, 3, NULL},
        {KIN_SYSTEM_OPEN_SORA_PLAN, 9, 40, 32, 3, "multiples of 16"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        kin_pipeline p = pipeline_of(w, rows[i].kind);
        kin_generation g = pipeline_small(&p, 1, seeds);
        g.frames = rows[i].frames;
        g.height = rows[i].height;
        g.width = rows[i].width;
        g.sampling.steps = rows[i].steps;
        if (rows[i].told) {
            pipeline_refused(w, KIN_INVALID, rows[i].told, kin_pipeline_check(&p, &g));
        } else {
            kin_host_tensor frames;
            int64_t latents[5], sizes[5];
            kin_pipeline_sizes(&p, &g, latents, sizes);
            assert_true(sizes[2] == g.frames && sizes[3] == g.height / 8 * 8 &&
                        sizes[4] == g.width / 8 * 8);
            pipeline_must(w, kin_pipeline_generate(&p, &g, prompts, NULL, &frames));
            for (int k = 0; k < 5; k++) assert_int_equal(frames.desc.dims[k], sizes[k]);
            kin_host_tensor_free(w->context, &frames);
        }
        g = pipeline_small(&p, 1, seeds);
        g.sampling.cfg_channels = 5;
        pipeline_refused(w, KIN_INVALID, "4 channels", kin_pipeline_check(&p, &g));
        kin_pipeline_close(&p);
    }
}

static void pictures_have_bins(void **state) {
    const pipeline_world *w = *state;
    kin_pipeline p = pipeline_of(w, KIN_SYSTEM_PIXART);
    int64_t height = -1, width = -1;
    assert_false(kin_pipeline_bin(&p, 512, 512, &height, &width)); /* no published size */
    p.system.denoiser.pixart.sample_size = 128;
    assert_true(kin_pipeline_bin(&p, 1024, 1024, &height, &width));
    assert_true(height == 1024 && width == 1024);
    assert_true(
        kin_pipeline_bin(&p, 800, 1000, &height, &width)); /* 0.8: 0.78 is nearer than 0.82 */
    assert_true((height == 896 && width == 1152) || (height == 896 && width == 1088));
    assert_true(kin_pipeline_bin(&p, 100, 8000, &height, &width));
    assert_true(height == 512 && width == 2048);
    p.system.denoiser.pixart.sample_size = 64;
    assert_true(kin_pipeline_bin(&p, 768, 512, &height, &width));
    assert_true(height == 608 && width == 416); /* 1.46 of 1.5 */
    kin_pipeline_close(&p);
}

/* ---- memory that runs out ---- */

/* Every 61st request of a generation is the first that fails. */
static void failing_allocations_end_cleanly(void **state) {
    const pipeline_world *w = *state;
    static const int kinds[] = {KIN_SYSTEM_OPEN_SORA_1_1, KIN_SYSTEM_OPEN_SORA_PLAN};
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        media_budget budget = {LONG_MAX};
        const kin_context_options options = {
            .struct_size = sizeof options, .allocator = {media_limited, &budget}, .threads = 1};
        pipeline_world poor = {.media = w->media};
        kin_host_tensor frames;
        kin_status status = KIN_OUT_OF_MEMORY;
        int failures = 0;
        assert_int_equal(kin_context_create(&options, &poor.context), KIN_OK);
        assert_int_equal(kin_backends_load(poor.context, NULL, &poor.backends), KIN_OK);
        assert_int_equal(kin_device_open(poor.backends, "cpu", &poor.device), KIN_OK);
        kin_pipeline p = pipeline_of(&poor, (kin_system_kind)kinds[k]);
        kin_generation g = pipeline_small(&p, 1, seeds);
        g.sampling.steps = 1;
        for (long granted = 0; status != KIN_OK; granted += 61, failures++) {
            budget.left = granted;
            status = kin_pipeline_generate(&p, &g, prompts, against, &frames);
            budget.left = LONG_MAX;
            if (status != KIN_OK) assert_int_equal(status, KIN_OUT_OF_MEMORY);
            if (status != KIN_OK) assert_null(frames.data);
        }
        assert_true(failures > 20);
        kin_host_tensor_free(poor.context, &frames);
        kin_pipeline_close(&p);
        kin_device_close(poor.device);
        kin_backends_free(poor.backends);
        kin_context_destroy(poor.context);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_are_prepared_as_by_the_scripts),
        cmocka_unit_test(latents_are_those_of_the_models),
        cmocka_unit_test(given_frames_are_kept),
        cmocka_unit_test(frames_are_those_of_the_autoencoders),
        cmocka_unit_test(videos_become_latents),
        cmocka_unit_test(clips_stand_alone),
        cmocka_unit_test(denoisers_stay_loaded),
        cmocka_unit_test(generating_is_all_stages),
        cmocka_unit_test(wrong_sizes_are_told),
        cmocka_unit_test(pictures_have_bins),
        cmocka_unit_test(failing_allocations_end_cleanly),
    };
    return cmocka_run_group_tests(tests, pipeline_setup, pipeline_teardown);
}

#else

int main(void) {
    printf("skipped: text needs sentencepiece\n");
    return 0;
}

#endif
