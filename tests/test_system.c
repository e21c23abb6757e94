/* Finding systems in the layouts that are around: small folders are written with the names, forms
 * and shapes of the published files, and opened; whatever was written must be found, fit its model
 * without a tensor too many or too few, and have the configuration that it was written with.
 * Nothing is computed, so there are no tolerances. */
#define _XOPEN_SOURCE 700
#include "tests/system_helper.h"

#include "models/pixart_parts.h"
#include "tools/system/info.h"

/* ---- opening them ---------------------------------------------------------------------------- */

static void expect_same_config(const kin_model_choice *model, const kin_system *system) {
    json_t *want = NULL, *have = NULL;
    if (model->kind == KIN_MODEL_DENOISER) {
        must(kin_denoiser_config_json(context, &model->denoiser, &want));
        must(kin_denoiser_config_json(context, &system->denoiser, &have));
    } else if (model->kind == KIN_MODEL_VAE) {
        must(kin_vae_config_json(context, &model->vae, &want));
        must(kin_vae_config_json(context, &system->vae, &have));
    }
    if (!json_equal(want, have)) {
        char *a = json_dumps(want, JSON_SORT_KEYS), *b = json_dumps(have, JSON_SORT_KEYS);
        fail_msg("wrote %s, found %s", a, b);
    }
    json_decref(want);
    json_decref(have);
}

/* Opens a path, and expects a system whose denoiser is the file at `denoiser` in the folder. */
static kin_system open_system(const char *path, const kin_system_overrides *overrides,
                              kin_system_kind kind, const char *denoiser) {
    kin_system system;
    must(kin_system_open(context, path, overrides, &system));
    assert_string_equal(kin_system_name(system.kind), kin_system_name(kind));
    assert_string_equal(system.parts[KIN_PART_DENOISER].path, in(denoiser));
    return system;
}

/* Every part that is there fits its model to the last tensor. */
static void expect_fit(const kin_system *system) {
    kin_info_system info;
    must(kin_info_gather(system, &info));
    for (int i = 0; i < KIN_PART_KINDS; i++) {
        const kin_weights_match *m = &info.parts[i].match;
        if (m->misfit_count)
            fail_msg("%s: %s %s", kin_part_name((kin_part_kind)i),
                     kin_misfit_name(m->misfits[0].kind), m->misfits[0].name);
        if (info.parts[i].has_model) assert_true(m->found == m->variables && m->found > 10);
    }
    kin_info_free(&info);
}

static void expect_part(const kin_system *system, kin_part_kind kind, const char *path) {
    if (!path) assert_null(system->parts[kind].path);
    else assert_string_equal(system->parts[kind].path, in(path));
}

static void expect_failure(const char *path, const kin_system_overrides *overrides,
                           kin_status status, const char *part) {
    kin_system system;
    assert_int_equal(kin_system_open(context, path, overrides, &system), status);
    assert_message(context, part);
}

static void expect_same_scheduler(const kin_scheduler_config *a, const kin_scheduler_config *b) {
    json_t *one = NULL, *other = NULL;
    must(kin_scheduler_config_json(context, a, &one));
    must(kin_scheduler_config_json(context, b, &other));
    assert_true(json_equal(one, other));
    json_decref(one);
    json_decref(other);
}

/* ---- diffusers' layout ------------------------------------------------------------------------
 */

static void test_diffusers_folders(void **state) {
    (void)state;
    static const struct {
        kin_denoiser_kind denoiser;
        kin_system_kind system;
        kin_vae_kind vae;
    } rows[] = {{KIN_DENOISER_STDIT, KIN_SYSTEM_OPEN_SORA_1_0, KIN_VAE_SD},
                {KIN_DENOISER_STDIT2, KIN_SYSTEM_OPEN_SORA_1_1, KIN_VAE_SD},
                {KIN_DENOISER_LATTE, KIN_SYSTEM_LATTE, KIN_VAE_TEMPORAL},
                {KIN_DENOISER_PIXART, KIN_SYSTEM_PIXART, KIN_VAE_SD},
                {KIN_DENOISER_OPENSORA_PLAN, KIN_SYSTEM_OPEN_SORA_PLAN, KIN_VAE_CAUSAL}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char name[32], weights[256], path[128];
        kin_model_choice model = denoiser_of(rows[i].denoiser), vae = vae_of(rows[i].vae);
        snprintf(name, sizeof name, "model%zu", i);
        snprintf(path, sizeof path, "%s/transformer", name);
        write_part(&model, in(path), "diffusion_pytorch_model.safetensors");
        write_others(in(name), rows[i].vae);
        snprintf(weights, sizeof weights, "%s/diffusion_pytorch_model.safetensors", path);
        kin_system system = open_system(in(name), NULL, rows[i].system, weights);
        expect_same_config(&model, &system);
        expect_same_config(&vae, &system);
        assert_int_equal(system.text_encoder.d_ff, 40);
        assert_non_null(system.parts[KIN_PART_TOKENIZER].path);
        for (int part = 0; part < KIN_PART_SCHEDULER; part++)
            must(kin_system_need(&system, (kin_part_kind)part));
        expect_fit(&system);

        /* What is written of it is read again. */
        system.defaults.frames = 5;
        system.defaults.steps = 12;
        system.defaults.fps = 10;
        system.defaults.cfg_scale = 3.5;
        if (i == 0) system.defaults.ddim = true;
        must(kin_system_write_index(&system, in(name)));
        kin_system again = open_system(in(name), NULL, rows[i].system, weights);
        const kin_system_defaults *a = &system.defaults, *b = &again.defaults;
        assert_true(a->frames == b->frames && a->height == b->height && a->width == b->width &&
                    a->steps == b->steps && a->fps == b->fps && a->cfg_scale == b->cfg_scale &&
                    a->frame_interval == b->frame_interval && a->cfg_channels == b->cfg_channels);
        assert_true(a->iddpm == b->iddpm && a->ddim == b->ddim);
        assert_ptr_equal(a->negative, b->negative);
        if (!a->iddpm) expect_same_scheduler(&a->scheduler, &b->scheduler);
        kin_system_close(&again);
        kin_system_close(&system);

        /* A part alone, with the others beside it. */
        system = open_system(in(path), NULL, rows[i].system, weights);
        assert_non_null(system.parts[KIN_PART_VAE].path);
        assert_non_null(system.parts[KIN_PART_TOKENIZER].path);
        kin_system_close(&system);
    }
    expect_failure(in("nothing"), NULL, KIN_NOT_FOUND, "nothing");
    expect_failure(in("model0/vae"), NULL, KIN_UNSUPPORTED, "vae");
    must(kin_make_folders(context, in("empty")));
    expect_failure(in("empty"), NULL, KIN_NOT_FOUND, "no denoiser in it");
    kin_system_overrides other = {.system = "latte"};
    expect_failure(in("model0"), &other, KIN_INVALID, "open-sora-1.0");
    other.system = "late";
    expect_failure(in("model0"), &other, KIN_NOT_FOUND, "did you mean latte");
}

static void test_scripts_defaults(void **state) {
    (void)state;
    kin_denoiser_config c;
    const char *name;
    for (int i = 0; kin_denoiser_named_at(context, i, &name, &c); i++) {
        if (strcmp(name, "STDiT-XL/2") == 0) {
            kin_system_defaults d = kin_system_defaults_of(KIN_SYSTEM_OPEN_SORA_1_0, &c);
            assert_true(d.frames == 16 && d.height == 256 && d.steps == 100 && d.iddpm);
            assert_true(d.cfg_scale == 7 && d.cfg_channels == 3 && d.fps == 8 && !d.negative);
        } else if (strcmp(name, "STDiT2-XL/2") == 0) {
            kin_system_defaults d = kin_system_defaults_of(KIN_SYSTEM_OPEN_SORA_1_1, &c);
            assert_true(d.frames == 16 && d.height == 240 && d.width == 426 && d.iddpm);
            assert_true(d.fps == 24 && d.frame_interval == 3);
        } else if (strcmp(name, "Latte-1") == 0) {
            kin_system_defaults d = kin_system_defaults_of(KIN_SYSTEM_LATTE, &c);
            assert_true(d.frames == 16 && d.height == 512 && d.steps == 50 && d.cfg_scale == 7.5);
            assert_int_equal(d.scheduler.kind, KIN_SCHEDULER_DDIM);
            assert_true(!d.iddpm && !d.scheduler.clip_sample && d.cfg_channels == 0);
        } else if (strcmp(name, "PixArt-XL-2-1024-MS") == 0) {
            kin_system_defaults d = kin_system_defaults_of(KIN_SYSTEM_PIXART, &c);
            assert_true(d.frames == 1 && d.height == 1024 && d.steps == 20 && d.cfg_scale == 4.5);
            assert_int_equal(d.scheduler.kind, KIN_SCHEDULER_DPM_MULTISTEP);
        } else if (strcmp(name, "OpenSoraT2V-ROPE-L/122") == 0) {
            kin_system_defaults d = kin_system_defaults_of(KIN_SYSTEM_OPEN_SORA_PLAN, &c);
            assert_true(d.frames == 93 && d.height == 720 && d.width == 1280 && d.fps == 24);
            assert_int_equal(d.scheduler.kind, KIN_SCHEDULER_EULER_ANCESTRAL);
            assert_true(d.steps == 100 && strncmp(d.negative, "nsfw", 4) == 0);
        }
    }
}

/* The files that diffusers and Kinora write beside the parts. */
static void test_index_and_scheduler(void **state) {
    (void)state;
    kin_model_choice latte = denoiser_of(KIN_DENOISER_LATTE);
    write_part(&latte, in("transformer"), "diffusion_pytorch_model.safetensors");
    /* As Latte's older folder: PixArt's solver, of which the script makes its own DDIM. */
    write_text(in("scheduler/scheduler_config.json"),
               "{\"_class_name\": \"DPMSolverMultistepScheduler\", \"beta_schedule\": "
               "\"scaled_linear\", \"timestep_spacing\": \"linspace\", \"steps_offset\": 1}");
    write_text(in("model_index.json"),
               "{\"_class_name\": \"LattePipeline\", \"vae\": [\"diffusers\", "
               "\"AutoencoderKL\"], \"_diffusers_version\": \"0.24.0\"}");
    kin_system system;
    must(kin_system_open(context, folder, NULL, &system));
    assert_int_equal(system.defaults.scheduler.kind, KIN_SCHEDULER_DDIM);
    assert_int_equal(system.defaults.scheduler.spacing, KIN_SPACING_LINSPACE);
    assert_int_equal(system.defaults.scheduler.beta_schedule, KIN_BETAS_LINEAR);
    assert_int_equal(system.defaults.scheduler.steps_offset, 1);
    assert_false(system.defaults.scheduler.clip_sample);
    assert_true(system.defaults.scheduler.set_alpha_to_one);
    kin_system_close(&system);
    /* By a flag it is taken as it is. */
    kin_system_overrides overrides = {.scheduler = in("scheduler")};
    must(kin_system_open(context, folder, &overrides, &system));
    assert_int_equal(system.defaults.scheduler.kind, KIN_SCHEDULER_DPM_MULTISTEP);
    kin_system_close(&system);
    /* Open-Sora takes a scheduler in place of its own sampler. */
    kin_model_choice stdit = denoiser_of(KIN_DENOISER_STDIT);
    write_part(&stdit, in("other"), "model.safetensors");
    must(kin_system_open(context, in("other"), &overrides, &system));
    assert_false(system.defaults.iddpm);
    kin_system_close(&system);

    write_text(in("model_index.json"), "{\"num_frames\": 0}");
    expect_failure(folder, NULL, KIN_INVALID, "num_frames");
    write_text(in("model_index.json"), "{\"num_frames\": 4, \"sampling_method\": \"dim\"}");
    expect_failure(folder, NULL, KIN_INVALID, "sampling_method");
    write_text(in("model_index.json"), "[1]");
    expect_failure(folder, NULL, KIN_FORMAT, "model_index.json");
    write_text(in("model_index.json"), "{\"fps\": -1}");
    expect_failure(folder, NULL, KIN_INVALID, "fps");
    write_text(in("model_index.json"), "{");
    expect_failure(folder, NULL, KIN_FORMAT, "model_index.json");
}

/* ---- what the originals publish and write --------------------------------------------------- */

/* The null caption, too, and the buffers of Open-Sora 1.1. */
static void test_open_sora_files(void **state) {
    (void)state;
    kin_model_choice stdit = denoiser_of(KIN_DENOISER_STDIT);
    stdit.denoiser.stdit.input_size[0] = 64;
    stdit.denoiser.stdit.input_size[1] = stdit.denoiser.stdit.input_size[2] = 64;
    stdit.denoiser.stdit.space_scale = 1;
    stdit.denoiser.stdit.time_scale = 2.0 / 3;
    /* A lone .pth: the size is in its name, the rest in the tensors. */
    write_pickle(&stdit, in("OpenSora-v1-HQ-64x512x512.pth"), NULL, NULL, 0);
    kin_system system = open_system(in("OpenSora-v1-HQ-64x512x512.pth"), NULL,
                                    KIN_SYSTEM_OPEN_SORA_1_0, "OpenSora-v1-HQ-64x512x512.pth");
    expect_same_config(&stdit, &system);
    assert_null(system.parts[KIN_PART_DENOISER].config);
    expect_fit(&system);
    assert_int_equal(system.defaults.frames, 64);
    assert_int_equal(system.defaults.width, 512);
    assert_true(system.defaults.fps == 12);
    assert_int_equal(kin_system_need(&system, KIN_PART_VAE), KIN_NOT_FOUND);
    assert_message(context, "--vae");
    kin_system_close(&system);
    /* Several in one folder: nobody can tell which. */
    write_pickle(&stdit, in("OpenSora-v1-16x256x256.pth"), NULL, NULL, 0);
    expect_failure(folder, NULL, KIN_INVALID, "OpenSora-v1-16x256x256.pth, OpenSora-v1-HQ");

    /* The hub's folder of 1.1: config.json and model.safetensors, parts in the hub's cache. */
    kin_model_choice stdit2 = denoiser_of(KIN_DENOISER_STDIT2), t5 = t5_of();
    kin_model_choice vae = vae_of(KIN_VAE_SD);
    static const char model[] = "hub/models--hpcai-tech--OpenSora-STDiT-v2-stage3";
    char snapshot[256], weights[320];
    snprintf(snapshot, sizeof snapshot, "%s/snapshots/aa", model);
    snprintf(weights, sizeof weights, "%s/model.safetensors", snapshot);
    write_part(&stdit2, in(snapshot), "model.safetensors");
    snprintf(snapshot, sizeof snapshot, "%s/snapshots/bb/file", model);
    write_text(in(snapshot), "an older one");
    snprintf(snapshot, sizeof snapshot, "%s/refs/main", model);
    write_text(in(snapshot), "aa\n");
    write_part(&vae, in("hub/models--stabilityai--sd-vae-ft-ema/snapshots/cc"),
               "diffusion_pytorch_model.safetensors");
    write_shards(&t5, in("hub/models--DeepFloyd--t5-v1_1-xxl/snapshots/dd"), "pytorch_model",
                 ".bin");
    write_config(&t5, in("hub/models--DeepFloyd--t5-v1_1-xxl/snapshots/dd"), "config.json");
    write_text(in("hub/models--DeepFloyd--t5-v1_1-xxl/snapshots/dd/spiece.model"), "pieces");
    system = open_system(in(model), NULL, KIN_SYSTEM_OPEN_SORA_1_1, weights);
    expect_same_config(&stdit2, &system);
    expect_part(&system, KIN_PART_VAE,
                "hub/models--stabilityai--sd-vae-ft-ema/snapshots/cc/"
                "diffusion_pytorch_model.safetensors");
    expect_part(&system, KIN_PART_TEXT_ENCODER,
                "hub/models--DeepFloyd--t5-v1_1-xxl/snapshots/dd/pytorch_model.bin.index.json");
    expect_part(&system, KIN_PART_TOKENIZER,
                "hub/models--DeepFloyd--t5-v1_1-xxl/snapshots/dd/spiece.model");
    expect_fit(&system);
    kin_system_close(&system);
    /* Without the configuration the tensors tell the same. */
    snprintf(snapshot, sizeof snapshot, "%s/snapshots/aa/config.json", model);
    assert_int_equal(unlink(in(snapshot)), 0);
    system = open_system(in(model), NULL, KIN_SYSTEM_OPEN_SORA_1_1, weights);
    expect_same_config(&stdit2, &system);
    kin_system_close(&system);
}

static void test_training_folders(void **state) {
    (void)state;
    kin_model_choice stdit = denoiser_of(KIN_DENOISER_STDIT);
    static const char run[] = "outputs/001-STDiT-XL-2";
    static const char *const epochs[] = {"epoch0-global_step900", "epoch1-global_step5000"};
    char path[256], other[256];
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s/model", run, epochs[i]);
        write_shards(&stdit, in(path), "pytorch_model", ".bin");
        snprintf(path, sizeof path, "%s/%s/ema.pt", run, epochs[i]);
        write_pickle(&stdit, in(path), NULL, NULL, 0);
        snprintf(path, sizeof path, "%s/%s/optimizer/pytorch_optim-00001.bin", run, epochs[i]);
        write_text(in(path), "moments");
        snprintf(path, sizeof path, "%s/%s/running_states.json", run, epochs[i]);
        write_text(in(path), "{\"epoch\": 1}");
    }
    /* The last epoch of a run; the model, as the script samples, or the average. */
    snprintf(path, sizeof path, "%s/%s/model/pytorch_model.bin.index.json", run, epochs[1]);
    kin_system system = open_system(in(run), NULL, KIN_SYSTEM_OPEN_SORA_1_0, path);
    expect_fit(&system);
    kin_system_close(&system);
    snprintf(path, sizeof path, "%s/%s/ema.pt", run, epochs[0]);
    snprintf(other, sizeof other, "%s/%s", run, epochs[0]);
    kin_system_overrides ema = {.entry = "ema"};
    system = open_system(in(other), &ema, KIN_SYSTEM_OPEN_SORA_1_0, path);
    assert_null(system.parts[KIN_PART_DENOISER].entry);
    expect_fit(&system);
    kin_system_close(&system);

    /* Latte's: numbered files, of which the average is taken. */
    kin_model_choice latte = denoiser_of(KIN_DENOISER_LATTE);
    static const kin_pickle_place places[] = {{"model", NULL}, {"ema", NULL}};
    write_pickle(&latte, in("latte/checkpoints/0073000.pt"), NULL, places, 2);
    write_pickle(&latte, in("latte/checkpoints/0100000.pt"), NULL, places, 2);
    system = open_system(in("latte"), NULL, KIN_SYSTEM_LATTE, "latte/checkpoints/0100000.pt");
    expect_same_config(&latte, &system);
    expect_fit(&system);
    kin_system_close(&system);
    kin_system_overrides model = {.entry = "model"};
    system = open_system(in("latte/checkpoints/0073000.pt"), &model, KIN_SYSTEM_LATTE,
                         "latte/checkpoints/0073000.pt");
    assert_string_equal(system.parts[KIN_PART_DENOISER].entry, "model");
    expect_fit(&system);
    kin_system_close(&system);
    model.entry = "modle";
    expect_failure(in("latte/checkpoints/0073000.pt"), &model, KIN_NOT_FOUND, "modle");

    /* Open-Sora-Plan's: folders for the model and its average. */
    kin_model_choice plan = denoiser_of(KIN_DENOISER_OPENSORA_PLAN);
    write_part(&plan, in("plan/checkpoint-250/model"), "diffusion_pytorch_model.safetensors");
    write_part(&plan, in("plan/checkpoint-250/model_ema"), "diffusion_pytorch_model.safetensors");
    system = open_system(in("plan"), NULL, KIN_SYSTEM_OPEN_SORA_PLAN,
                         "plan/checkpoint-250/model_ema/diffusion_pytorch_model.safetensors");
    kin_system_close(&system);
    model.entry = "model";
    system = open_system(in("plan/checkpoint-250"), &model, KIN_SYSTEM_OPEN_SORA_PLAN,
                         "plan/checkpoint-250/model/diffusion_pytorch_model.safetensors");
    kin_system_close(&system);

    /* Wrappers in front of the names. */
    write_safetensors(&stdit, in("wrapped.safetensors"), NULL, "module._orig_mod.");
    system = open_system(in("wrapped.safetensors"), NULL, KIN_SYSTEM_OPEN_SORA_1_0,
                         "wrapped.safetensors");
    expect_fit(&system);
    kin_system_close(&system);

    /* Kinora's own runs keep a diffusers folder in model/. */
    write_part(&stdit, in("run/model/transformer"), "diffusion_pytorch_model.safetensors");
    write_text(in("run/model/model_index.json"), "{\"num_frames\": 8, \"fps\": 6}");
    system = open_system(in("run"), NULL, KIN_SYSTEM_OPEN_SORA_1_0,
                         "run/model/transformer/diffusion_pytorch_model.safetensors");
    assert_true(system.defaults.frames == 8 && system.defaults.fps == 6);
    kin_system_close(&system);
}

static void test_latte_and_plan_folders(void **state) {
    (void)state;
    /* maxin-cn/Latte: t2v.pt beside t2v_required_models, which has PixArt's configuration. */
    kin_model_choice latte = denoiser_of(KIN_DENOISER_LATTE), pixart = latte;
    kin_model_choice temporal = vae_of(KIN_VAE_TEMPORAL);
    static const kin_pickle_place place = {"model", NULL};
    pixart.denoiser.kind = KIN_DENOISER_PIXART;
    write_pickle(&latte, in("Latte/t2v.pt"), NULL, &place, 1);
    write_text(in("Latte/ffs.pt"), "another model");
    write_config(&pixart, in("Latte/t2v_required_models/transformer"), "transformer_config.json");
    write_others(in("Latte/t2v_required_models"), KIN_VAE_SD);
    write_part(&temporal, in("Latte/t2v_required_models/vae_temporal_decoder"),
               "diffusion_pytorch_model.safetensors");
    static const char *const lattes[] = {"Latte", "Latte/t2v.pt", "Latte/t2v_required_models"};
    for (int i = 0; i < 3; i++) {
        kin_system system = open_system(in(lattes[i]), NULL, KIN_SYSTEM_LATTE, "Latte/t2v.pt");
        expect_same_config(&latte, &system);
        assert_int_equal(system.vae.kind, KIN_VAE_TEMPORAL);
        assert_non_null(system.parts[KIN_PART_TOKENIZER].path);
        expect_fit(&system);
        kin_system_close(&system);
    }
    /* The other decoder by its flag, as a folder that holds it. */
    kin_system_overrides image = {.vae = in("Latte/t2v_required_models")};
    kin_system system = open_system(in("Latte"), &image, KIN_SYSTEM_LATTE, "Latte/t2v.pt");
    assert_int_equal(system.vae.kind, KIN_VAE_SD);
    kin_system_close(&system);

    /* Open-Sora-Plan: sizes beside the autoencoder's checkpoint of its training. */
    kin_model_choice plan = denoiser_of(KIN_DENOISER_OPENSORA_PLAN),
                     causal = vae_of(KIN_VAE_CAUSAL);
    kin_model_choice mt5 = t5_of();
    static const kin_pickle_place both[] = {{"state_dict/gen_model", NULL},
                                            {"ema_state_dict", "module."}};
    write_part(&plan, in("Plan/29x480p"), "diffusion_pytorch_model.safetensors");
    write_pickle(&causal, in("Plan/vae/checkpoint.ckpt"), NULL, both, 2);
    write_config(&causal, in("Plan/vae"), "config.json");
    write_shards(&mt5, in("Plan/google/mt5-xxl"), "model", ".safetensors");
    write_config(&mt5, in("Plan/google/mt5-xxl"), "config.json");
    write_text(in("Plan/google/mt5-xxl/spiece.model"), "pieces");
    static const char *const plans[] = {"Plan", "Plan/29x480p",
                                        "Plan/29x480p/diffusion_pytorch_model.safetensors"};
    for (int i = 0; i < 3; i++) {
        system = open_system(in(plans[i]), NULL, KIN_SYSTEM_OPEN_SORA_PLAN,
                             "Plan/29x480p/diffusion_pytorch_model.safetensors");
        expect_same_config(&plan, &system);
        expect_same_config(&causal, &system);
        expect_part(&system, KIN_PART_VAE, "Plan/vae/checkpoint.ckpt");
        expect_part(&system, KIN_PART_TEXT_ENCODER,
                    "Plan/google/mt5-xxl/model.safetensors.index.json");
        expect_part(&system, KIN_PART_TOKENIZER, "Plan/google/mt5-xxl/spiece.model");
        assert_int_equal(system.defaults.frames, 29);
        expect_fit(&system);
        kin_system_close(&system);
    }
    assert_int_equal(unlink(in("Plan/29x480p/config.json")), 0);
    system = open_system(in("Plan"), NULL, KIN_SYSTEM_OPEN_SORA_PLAN,
                         "Plan/29x480p/diffusion_pytorch_model.safetensors");
    expect_same_config(&plan, &system);
    kin_system_close(&system);
    write_part(&plan, in("Plan/93x720p"), "diffusion_pytorch_model.safetensors");
    expect_failure(in("Plan"), NULL, KIN_INVALID, "Plan/93x720p");
}

/* ---- lone files of other forms ------------------------------------------------------------- */

/* diffusers' names to those of PixArt's own files. */
static bool pixart_original(const char *variable, char *out, size_t size, int *out_parts) {
    int part = 0, parts = 1;
    if (!kin_pixart_original_name(variable, out, size)) return false;
    char *brace = strchr(out, '{');
    if (brace && sscanf(brace, "{%d/%d}", &part, &parts) != 2) fail_msg("%s", out);
    if (brace) *brace = '\0';
    *out_parts = parts;
    return part == 0;
}

static void replace(char *text, size_t size, const char *from, const char *to) {
    char rest[512], *at = strstr(text, from);
    if (!at) return;
    snprintf(rest, sizeof rest, "%s", at + strlen(from));
    snprintf(at, size - (size_t)(at - text), "%s%s", to, rest);
}

/* diffusers' names of an autoencoder of two levels to CompVis'. */
static bool compvis(const char *variable, char *out, size_t size, int *out_parts) {
    static const char *const pairs[][2] = {
        {"down_blocks.0.downsamplers.0.conv", "down.0.downsample.conv"},
        {"up_blocks.0.upsamplers.0.conv", "up.1.upsample.conv"},
        {"down_blocks.0.resnets", "down.0.block"},
        {"down_blocks.1.resnets", "down.1.block"},
        {"up_blocks.0.resnets", "up.1.block"},
        {"up_blocks.1.resnets", "up.0.block"},
        {"mid_block.resnets.0", "mid.block_1"},
        {"mid_block.resnets.1", "mid.block_2"},
        {"mid_block.attentions.0.group_norm", "mid.attn_1.norm"},
        {"mid_block.attentions.0.to_q", "mid.attn_1.q"},
        {"mid_block.attentions.0.to_k", "mid.attn_1.k"},
        {"mid_block.attentions.0.to_v", "mid.attn_1.v"},
        {"mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out"},
        {"conv_shortcut", "nin_shortcut"},
        {"conv_norm_out", "norm_out"}};
    *out_parts = 1;
    snprintf(out, size, "first_stage_model.%s", variable);
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        replace(out, size, pairs[i][0], pairs[i][1]);
    return true;
}

static void test_other_forms(void **state) {
    (void)state;
    kin_model_choice pixart = denoiser_of(KIN_DENOISER_PIXART);
    kin_model_choice image = vae_of(KIN_VAE_SD), causal = vae_of(KIN_VAE_CAUSAL), t5 = t5_of();
    static const kin_pickle_place inside = {"state_dict", NULL};
    write_pickle(&pixart, in("PixArt-XL-2-512x512.pth"), pixart_original, &inside, 1);
    write_pickle(&image, in("sd/v1-5.ckpt"), compvis, &inside, 1);
    write_safetensors(&t5, in("t5/t5.safetensors"), NULL, NULL);
    write_text(in("t5/sentencepiece.model"), "pieces");
    kin_system_overrides overrides = {.vae = in("sd/v1-5.ckpt"),
                                      .text_encoder = in("t5/t5.safetensors")};
    kin_system system = open_system(in("PixArt-XL-2-512x512.pth"), &overrides, KIN_SYSTEM_PIXART,
                                    "PixArt-XL-2-512x512.pth");
    expect_same_config(&pixart, &system);
    expect_same_config(&image, &system);
    assert_true(system.text_encoder.d_kv == 4 && system.text_encoder.num_heads == 3 &&
                system.text_encoder.d_ff == 40 && system.text_encoder.gated &&
                system.text_encoder.num_layers == 2 && system.text_encoder.vocab_size == 64);
    expect_part(&system, KIN_PART_TOKENIZER, "t5/sentencepiece.model");
    expect_fit(&system);
    kin_system_close(&system);

    /* PixArt's other sizes: by the name, by the micro-conditions. */
    pixart.denoiser.pixart.sample_size = 32;
    pixart.denoiser.pixart.interpolation_scale = 0.5;
    write_pickle(&pixart, in("PixArt-XL-2-256x256.pth"), pixart_original, &inside, 1);
    system = open_system(in("PixArt-XL-2-256x256.pth"), NULL, KIN_SYSTEM_PIXART,
                         "PixArt-XL-2-256x256.pth");
    expect_same_config(&pixart, &system);
    kin_system_close(&system);
    pixart.denoiser.pixart.sample_size = 128;
    pixart.denoiser.pixart.interpolation_scale = 2;
    pixart.denoiser.pixart.use_additional_conditions = true;
    pixart.denoiser.pixart.num_attention_heads = 3; /* a width of which a third exists */
    write_safetensors(&pixart, in("big.safetensors"), NULL, NULL);
    system = open_system(in("big.safetensors"), NULL, KIN_SYSTEM_PIXART, "big.safetensors");
    expect_same_config(&pixart, &system);
    expect_fit(&system);
    kin_system_close(&system);

    /* A causal autoencoder without its configuration; parts of other sizes do not fit. */
    kin_model_choice plan = denoiser_of(KIN_DENOISER_OPENSORA_PLAN);
    write_safetensors(&plan, in("480p.safetensors"), NULL, NULL);
    write_safetensors(&causal, in("causal/model.safetensors"), NULL, NULL);
    overrides = (kin_system_overrides){.vae = in("causal")};
    system = open_system(in("480p.safetensors"), &overrides, KIN_SYSTEM_OPEN_SORA_PLAN,
                         "480p.safetensors");
    expect_same_config(&plan, &system);
    expect_same_config(&causal, &system);
    expect_fit(&system);
    kin_system_close(&system);
    t5.t5.d_model = CAPTION + 4;
    write_safetensors(&t5, in("wide/model.safetensors"), NULL, NULL);
    overrides = (kin_system_overrides){.text_encoder = in("wide")};
    expect_failure(in("480p.safetensors"), &overrides, KIN_INVALID, "captions of 24 channels");
    causal.vae.causal.z_channels = causal.vae.causal.embed_dim = 8;
    write_safetensors(&causal, in("eight/model.safetensors"), NULL, NULL);
    overrides = (kin_system_overrides){.vae = in("eight")};
    expect_failure(in("480p.safetensors"), &overrides, KIN_INVALID, "latents of 4 channels");
    overrides = (kin_system_overrides){.vae = in("wide")};
    expect_failure(in("480p.safetensors"), &overrides, KIN_UNSUPPORTED, "no autoencoder");
    overrides = (kin_system_overrides){.vae = in("gone")};
    expect_failure(in("480p.safetensors"), &overrides, KIN_NOT_FOUND, "gone");

    /* Another denoiser for a folder; its configuration is taken if it is of the same kind. */
    kin_model_choice stdit = denoiser_of(KIN_DENOISER_STDIT), odd = stdit;
    odd.denoiser.stdit.num_heads = 4; /* which the tensors do not tell */
    write_part(&odd, in("home/transformer"), "diffusion_pytorch_model.safetensors");
    write_pickle(&stdit, in("elsewhere/own.pt"), NULL, NULL, 0);
    overrides = (kin_system_overrides){.denoiser = in("elsewhere/own.pt")};
    system = open_system(in("home"), &overrides, KIN_SYSTEM_OPEN_SORA_1_0, "elsewhere/own.pt");
    expect_same_config(&odd, &system);
    kin_system_close(&system);
    overrides = (kin_system_overrides){.denoiser = in("480p.safetensors")};
    system = open_system(in("home"), &overrides, KIN_SYSTEM_OPEN_SORA_PLAN, "480p.safetensors");
    expect_same_config(&plan, &system);
    kin_system_close(&system);
}

/* ---- published sizes ----------------------------------------------------------------------- */

/* A safetensors file with a model's shapes and a hole in place of its bytes. */
static void write_hole(const kin_model_choice *model, const char *path) {
    kin_graph *graph;
    json_t *header = json_object();
    json_int_t at = 0;
    must(kin_graph_create(context, &graph));
    kin_model_append_any(graph, model);
    must(kin_graph_status(graph));
    for (int i = 0; i < kin_variable_count(graph); i++) {
        kin_tensor variable = kin_variable_at(graph, i);
        const kin_desc *desc = kin_tensor_desc(graph, variable);
        json_t *shape = json_array();
        for (int a = 0; a < desc->rank; a++)
            json_array_append_new(shape, json_integer((json_int_t)desc->dims[a]));
        json_int_t bytes = 4 * (json_int_t)kin_desc_count(desc);
        json_object_set_new(header, kin_variable_name(graph, variable),
                            json_pack("{s:s, s:o, s:[I,I]}", "dtype", "F32", "shape", shape,
                                      "data_offsets", at, at + bytes));
        at += bytes;
    }
    char *text = json_dumps(header, JSON_COMPACT);
    size_t length = strlen(text), padded = (length + 7) / 8 * 8;
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    for (int i = 0; i < 8; i++) fputc((int)(padded >> 8 * i & 255), file);
    fprintf(file, "%s%*s", text, (int)(padded - length), "");
    fflush(file);
    assert_int_equal(ftruncate(fileno(file), (off_t)(8 + padded) + (off_t)at), 0);
    fclose(file);
    free(text);
    json_decref(header);
    kin_graph_destroy(graph);
}

/* Of every model that has a name the tensors tell the configuration, heads included. */
static void test_published_sizes(void **state) {
    (void)state;
    kin_model_choice model;
    for (int i = 0; kin_model_named_at(context, i, &model); i++) {
        kin_checkpoint *file;
        kin_system told = {.context = context};
        char name[128];
        /* What the tensors do not tell, the names of published files do. */
        snprintf(name, sizeof name, "%s.safetensors", model.name);
        for (char *c = name; *c; c++)
            if (*c == '/') *c = '_';
        model.denoiser.stdit.space_scale = 0.5;
        write_hole(&model, in(name));
        must(kin_checkpoint_open(context, in(name), NULL, &file));
        if (model.kind == KIN_MODEL_DENOISER)
            must(kin_guess_denoiser(context, file, in(name), NULL, &told.denoiser));
        else if (model.kind == KIN_MODEL_VAE)
            must(kin_guess_vae(context, file, in(name), &told.vae));
        else {
            must(kin_guess_t5(context, file, in(name), &told.text_encoder));
            const kin_t5_config *a = &model.t5, *b = &told.text_encoder;
            assert_true(a->vocab_size == b->vocab_size && a->d_model == b->d_model &&
                        a->num_heads == b->num_heads && a->d_kv == b->d_kv && a->d_ff == b->d_ff &&
                        a->num_layers == b->num_layers && a->gated == b->gated);
        }
        if (model.kind != KIN_MODEL_T5) expect_same_config(&model, &told);
        kin_checkpoint_close(file);
        assert_int_equal(unlink(in(name)), 0);
    }
}

/* Files that look like a denoiser but are none of these. */
static void test_strangers(void **state) {
    (void)state;
    static const char *const names[][3] = {
        {"x_embedder.proj.weight", "y_embedder.embedding_table.weight", "no prompts"},
        {"x_embedder.proj.weight", "spatial_blocks.0.scale_shift_table", "Open-Sora 1.2"},
        {"pos_embed.proj.weight", "transformer_blocks.0.scale_shift_table", "shapes"},
        {"x_embedder.proj.weight", "t_block_temp.1.weight", "shapes"},
        {"something.weight", "else.weight", "no denoiser"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        float values[16] = {0};
        kin_named_tensor tensors[2];
        for (int k = 0; k < 2; k++)
            tensors[k] = (kin_named_tensor){names[i][k],
                                            kin_desc_dense(KIN_F32, 2, (int64_t[]){4, 4}), values};
        must(kin_safetensors_write(context, in("x.safetensors"), tensors, 2, NULL, 0, NULL, NULL));
        expect_failure(in("x.safetensors"), NULL, KIN_UNSUPPORTED, names[i][2]);
    }
    /* Heads of a width that no published model has, and shards without an index. */
    kin_model_choice odd = denoiser_of(KIN_DENOISER_STDIT);
    odd.denoiser.stdit.hidden_size = 96;
    write_safetensors(&odd, in("odd.safetensors"), NULL, NULL);
    expect_failure(in("odd.safetensors"), NULL, KIN_UNSUPPORTED, "number of heads");
    write_shards(&odd, in("cut"), "model", ".safetensors");
    assert_int_equal(unlink(in("cut/model.safetensors.index.json")), 0);
    expect_failure(in("cut"), NULL, KIN_NOT_FOUND, "without their index");
}

/* ---- memory -----------------------------------------------------------------------------------
 */

static kin_status open_and_gather(kin_context *with, void *user) {
    kin_system system;
    kin_info_system gathered;
    kin_status status = kin_system_open(with, user, NULL, &system);
    if (status != KIN_OK) return status;
    status = kin_info_gather(&system, &gathered);
    kin_info_free(&gathered);
    kin_system_close(&system);
    return status;
}

static void test_failing_memory(void **state) {
    (void)state;
    kin_model_choice stdit = denoiser_of(KIN_DENOISER_STDIT), vae = vae_of(KIN_VAE_SD);
    stdit.denoiser.stdit.depth = 1;
    write_pickle(&stdit, in("m/own.pt"), NULL, NULL, 0);
    write_part(&vae, in("m/vae"), "diffusion_pytorch_model.safetensors");
    write_text(in("m/model_index.json"), "{\"num_frames\": 8}");
    sweep_allocations(open_and_gather, (void *)in("m/own.pt"));
    write_part(&stdit, in("run/epoch0-global_step10/model"), "model.safetensors");
    write_text(in("run/epoch0-global_step10/optimizer/state.bin"), "moments");
    sweep_allocations(open_and_gather, (void *)in("run"));
    write_part(&stdit, in("d/transformer"), "diffusion_pytorch_model.safetensors");
    write_others(in("d"), KIN_VAE_SD);
    kin_system system;
    must(kin_system_open(context, in("d"), NULL, &system));
    system.defaults.iddpm = false;
    must(kin_system_write_index(&system, in("d")));
    kin_system_close(&system);
    sweep_allocations(open_and_gather, (void *)in("d"));
}

static void test_parents(void **state) {
    (void)state;
    static const char *const pairs[][2] = {{"a/b", "a"},    {"a/b//", "a"},      {"a", "."},
                                           {"/a", "/"},     {"/", "/"},          {".", "./.."},
                                           {"..", "../.."}, {"a/..", "a/../.."}, {"/a//b", "/a"}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        char *parent = kin_place_parent(context, pairs[i][0]);
        assert_string_equal(parent, pairs[i][1]);
        kin_free(context, parent);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_diffusers_folders, setup, teardown),
        cmocka_unit_test_setup_teardown(test_scripts_defaults, setup, teardown),
        cmocka_unit_test_setup_teardown(test_index_and_scheduler, setup, teardown),
        cmocka_unit_test_setup_teardown(test_open_sora_files, setup, teardown),
        cmocka_unit_test_setup_teardown(test_training_folders, setup, teardown),
        cmocka_unit_test_setup_teardown(test_latte_and_plan_folders, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_forms, setup, teardown),
        cmocka_unit_test_setup_teardown(test_published_sizes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_strangers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_failing_memory, setup, teardown),
        cmocka_unit_test_setup_teardown(test_parents, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
