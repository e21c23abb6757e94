/* What a system recommends: its scripts' settings, then those of a folder. */
#include "tools/system/system_internal.h"

#include "runtime/json.h"
#include "tools/system/model_folder.h"

#include <stdlib.h>
#include <string.h>

enum { FACTOR = 8, PLAN_TIME_FACTOR = 4 }; /* of the published autoencoders */

/* The negative prompt of Open-Sora-Plan's sampling scripts. */
static const char plan_negative[] =
    "nsfw, lowres, bad anatomy, bad hands, text, error, missing fingers, extra digit, fewer "
    "digits, "
    "cropped, worst quality, low quality, normal quality, jpeg artifacts, signature, watermark, "
    "username, blurry.";

/* A size of latents in pixels, or what is taken where the configuration says none. */
static int64_t pixels(int latents, int64_t otherwise) {
    return latents > 0 ? (int64_t)FACTOR * latents : otherwise;
}

static kin_scheduler_config scheduler_of(kin_system_kind kind) {
    static const kin_scheduler_kind kinds[KIN_SYSTEM_KINDS] = {
        [KIN_SYSTEM_OPEN_SORA_1_0] = KIN_SCHEDULER_DDIM,
        [KIN_SYSTEM_OPEN_SORA_1_1] = KIN_SCHEDULER_DDIM,
        [KIN_SYSTEM_LATTE] = KIN_SCHEDULER_DDIM,
        [KIN_SYSTEM_PIXART] = KIN_SCHEDULER_DPM_MULTISTEP,
        [KIN_SYSTEM_OPEN_SORA_PLAN] = KIN_SCHEDULER_EULER_ANCESTRAL};
    kin_scheduler_config config = kin_scheduler_config_default(kinds[kind]);
    config.clip_sample = false; /* latents are not within -1..1 */
    return config;
}

kin_system_defaults kin_system_defaults_of(kin_system_kind kind,
                                           const kin_denoiser_config *config) {
    kin_system_defaults d = {.frames = 16,
                             .steps = 100,
                             .fps = 8,
                             .frame_interval = 1,
                             .cfg_scale = 7.5,
                             .scheduler = scheduler_of(kind)};
    const int *size = config->stdit.input_size, *plan = config->opensora_plan.sample_size;
    switch (kind) {
    case KIN_SYSTEM_OPEN_SORA_1_0:
        if (size[0] > 0) d.frames = size[0];
        d.height = pixels(size[1], 256);
        d.width = pixels(size[2], 256);
        d.fps = config->stdit.time_scale < 1 ? 12 : 8; /* every second frame of 24, or third */
        d.cfg_scale = 7;
        d.cfg_channels = 3;
        d.iddpm = true;
        break;
    case KIN_SYSTEM_OPEN_SORA_1_1:
        d.height = 240;
        d.width = 426;
        d.fps = 24;
        d.frame_interval = 3;
        d.cfg_scale = 7;
        d.cfg_channels = 3;
        d.iddpm = true;
        break;
    case KIN_SYSTEM_LATTE:
        if (config->pixart.video_length > 0) d.frames = config->pixart.video_length;
        d.height = d.width = pixels(config->pixart.sample_size, 512);
        d.steps = 50;
        break;
    case KIN_SYSTEM_PIXART:
        d.frames = 1;
        d.height = d.width = pixels(config->pixart.sample_size, 512);
        d.steps = 20;
        d.cfg_scale = 4.5;
        break;
    case KIN_SYSTEM_OPEN_SORA_PLAN:
        d.frames = (int64_t)PLAN_TIME_FACTOR * (config->opensora_plan.sample_size_t - 1) + 1;
        d.height = pixels(plan[0], 480);
        d.width = pixels(plan[1], 640);
        d.fps = 24;
        d.negative = plan_negative;
        break;
    case KIN_SYSTEM_KINDS:
        break;
    }
    return d;
}

/* ---- model_index.json ------------------------------------------------------------------------ */

/* Diffusers' keys are ["library", "Class"], or begin with '_'; the others are ours, or a pipeline's
 * arguments that nothing here needs. */
static kin_status check_index_keys(kin_context *context, json_t *index, const char *path) {
    static const char *const known[] = {"num_frames",
                                        "height",
                                        "width",
                                        "num_sampling_steps",
                                        "fps",
                                        "frame_interval",
                                        "cfg_scale",
                                        "cfg_channels",
                                        "sampling_method",
                                        "force_zeros_for_empty_prompt",
                                        "requires_safety_checker"};
    json_t *rest = json_object();
    const char *key;
    json_t *value;
    if (!rest) return kin_fail(context, KIN_OUT_OF_MEMORY, "no memory for %s", path);
    json_object_foreach(index, key, value) {
        if (key[0] != '_' && !json_is_array(value)) json_object_set(rest, key, value);
    }
    kin_status status = kin_config_check_keys(context, rest, path, known,
                                              sizeof known / sizeof *known, KIN_UNKNOWN_KEYS_WARN);
    json_decref(rest);
    return status;
}

static kin_status read_method(kin_context *context, json_t *index, const char *path,
                              kin_system_defaults *d) {
    const char *method = NULL;
    kin_status status = kin_json_get_string(context, index, path, "sampling_method", NULL, &method);
    if (status != KIN_OK || !method) return status;
    bool known = strcmp(method, "iddpm") == 0 || strcmp(method, "ddim") == 0 ||
                 strcmp(method, "scheduler") == 0;
    if (!known)
        return kin_fail(context, KIN_INVALID,
                        "%s: sampling_method must be \"iddpm\", \"ddim\" or \"scheduler\", not "
                        "\"%s\"",
                        path, method);
    d->iddpm = strcmp(method, "scheduler") != 0;
    d->ddim = strcmp(method, "ddim") == 0;
    return KIN_OK;
}

kin_status kin_system_parse_index(kin_context *context, json_t *index, const char *where,
                                  kin_system_defaults *d, bool *out_ours) {
    struct {
        const char *key;
        int64_t low, high, *value;
    } ints[] = {
        {"num_frames", 1, 1 << 16, &d->frames},    {"height", 1, 1 << 16, &d->height},
        {"width", 1, 1 << 16, &d->width},          {"num_sampling_steps", 1, 1 << 16, &d->steps},
        {"cfg_channels", 0, 64, &d->cfg_channels}, {"frame_interval", 1, 1024, &d->frame_interval}};
    struct {
        const char *key;
        double *value;
    } doubles[] = {{"fps", &d->fps}, {"cfg_scale", &d->cfg_scale}};
    kin_status status = KIN_OK;
    if (!json_is_object(index)) status = kin_fail(context, KIN_FORMAT, "%s: no JSON object", where);
    if (status == KIN_OK) status = check_index_keys(context, index, where);
    /* A rate alone is the file's. */
    if (status == KIN_OK && json_object_get(index, "fps")) d->frame_interval = 1;
    for (size_t i = 0; status == KIN_OK && i < sizeof ints / sizeof *ints; i++)
        status = kin_json_get_int_between(context, index, where, ints[i].key, ints[i].low,
                                          ints[i].high, *ints[i].value, ints[i].value);
    for (size_t i = 0; status == KIN_OK && i < sizeof doubles / sizeof *doubles; i++)
        status = kin_json_get_double(context, index, where, doubles[i].key, *doubles[i].value,
                                     doubles[i].value);
    if (status == KIN_OK && !(d->fps > 0))
        status = kin_fail(context, KIN_INVALID, "%s: fps must be above 0", where);
    if (status == KIN_OK) status = read_method(context, index, where, d);
    *out_ours = status == KIN_OK && json_object_get(index, "num_frames");
    return status;
}

static kin_status read_index(kin_context *context, const char *path, kin_system_defaults *d,
                             bool *out_ours) {
    json_t *index = NULL;
    kin_status status = kin_json_load(context, path, &index);
    if (status == KIN_OK) status = kin_system_parse_index(context, index, path, d, out_ours);
    json_decref(index);
    return status;
}

/* Latte's script takes what it needs from a scheduler's file of whatever class, and sets the rest
 * itself: betas, and that nothing is clipped. */
static void adapt_to_latte(json_t *json) {
    json_object_set_new(json, "_class_name", json_string("DDIMScheduler"));
    json_object_set_new(json, "beta_start", json_real(1e-4));
    json_object_set_new(json, "beta_end", json_real(0.02));
    json_object_set_new(json, "beta_schedule", json_string("linear"));
    json_object_set_new(json, "clip_sample", json_false());
}

kin_status kin_system_read_defaults(kin_system *system, const char *base, bool own_scheduler) {
    kin_context *context = system->context;
    kin_system_defaults *d = &system->defaults;
    const char *file = system->parts[KIN_PART_SCHEDULER].path;
    char *index = NULL;
    bool ours = false;
    *d = kin_system_defaults_of(system->kind, &system->denoiser);
    kin_status status = kin_place_join(context, base, "model_index.json", &index);
    if (status == KIN_OK && index) status = read_index(context, index, d, &ours);
    kin_free(context, index);
    if (status != KIN_OK || !file) return status;
    json_t *json = NULL;
    status = kin_json_load(context, file, &json);
    if (status == KIN_OK && system->kind == KIN_SYSTEM_LATTE && !ours && !own_scheduler)
        adapt_to_latte(json);
    if (status == KIN_OK) status = kin_scheduler_config_parse(context, json, file, &d->scheduler);
    if (status == KIN_OK && (own_scheduler || !ours)) d->iddpm = d->ddim = false;
    json_decref(json);
    return status;
}

/* ---- writing ------------------------------------------------------------------------------- */

/* The classes of diffusers' pipelines, or of the originals that have none. */
static const char *const pipelines[KIN_SYSTEM_KINDS] = {
    [KIN_SYSTEM_OPEN_SORA_1_0] = "OpenSoraPipeline",
    [KIN_SYSTEM_OPEN_SORA_1_1] = "OpenSoraPipeline",
    [KIN_SYSTEM_LATTE] = "LattePipeline",
    [KIN_SYSTEM_PIXART] = "PixArtAlphaPipeline",
    [KIN_SYSTEM_OPEN_SORA_PLAN] = "OpenSoraPipeline"};

static const char *denoiser_class(kin_system_kind kind) {
    if (kind == KIN_SYSTEM_LATTE) return "LatteTransformer3DModel";
    if (kind == KIN_SYSTEM_PIXART) return "PixArtTransformer2DModel";
    if (kind == KIN_SYSTEM_OPEN_SORA_PLAN) return "OpenSoraT2V";
    return kind == KIN_SYSTEM_OPEN_SORA_1_1 ? "STDiT2" : "STDiT";
}

static bool has_scheduler(const kin_system *system) {
    return !system->defaults.iddpm && !system->defaults.ddim;
}

static json_t *index_of(const kin_system *system) {
    const kin_system_defaults *d = &system->defaults;
    bool diffusers = system->kind == KIN_SYSTEM_LATTE || system->kind == KIN_SYSTEM_PIXART;
    const char *method = d->ddim ? "ddim" : d->iddpm ? "iddpm" : "scheduler";
    bool multilingual = system->kind == KIN_SYSTEM_OPEN_SORA_PLAN;
    json_t *index = json_pack("{s:s, s:[s,s], s:[s,s], s:[s,s], s:[s,s]}", "_class_name",
                              pipelines[system->kind], "transformer",
                              diffusers ? "diffusers" : "kinora", denoiser_class(system->kind),
                              "vae", system->vae.kind == KIN_VAE_CAUSAL ? "kinora" : "diffusers",
                              kin_vae_kind_name(system->vae.kind), "text_encoder", "transformers",
                              multilingual ? "MT5EncoderModel" : "T5EncoderModel", "tokenizer",
                              "transformers", "T5Tokenizer");
    json_t *more =
        json_pack("{s:I, s:I, s:I, s:I, s:f, s:I, s:f, s:I, s:s}", "num_frames",
                  (json_int_t)d->frames, "height", (json_int_t)d->height, "width",
                  (json_int_t)d->width, "num_sampling_steps", (json_int_t)d->steps, "fps", d->fps,
                  "frame_interval", (json_int_t)d->frame_interval, "cfg_scale", d->cfg_scale,
                  "cfg_channels", (json_int_t)d->cfg_channels, "sampling_method", method);
    bool good = index && more && json_object_update(index, more) == 0;
    if (good && has_scheduler(system))
        good = json_object_set_new(
                   index, "scheduler",
                   json_pack("[s,s]", "diffusers", kin_scheduler_name(d->scheduler.kind))) == 0;
    json_decref(more);
    if (good) return index;
    json_decref(index);
    return NULL;
}

kin_status kin_system_write_index(const kin_system *system, const char *folder) {
    kin_context *context = system->context;
    json_t *index = index_of(system), *scheduler = NULL;
    if (!index) return kin_fail(context, KIN_OUT_OF_MEMORY, "no memory for %s", folder);
    kin_status status = kin_write_json(context, folder, "model_index.json", index);
    if (status != KIN_OK || !has_scheduler(system)) return status;
    status = kin_scheduler_config_json(context, &system->defaults.scheduler, &scheduler);
    char *inside = kin_path_join(context, folder, kin_part_name(KIN_PART_SCHEDULER));
    if (status == KIN_OK && !inside) status = KIN_OUT_OF_MEMORY;
    if (status == KIN_OK)
        status = kin_write_json(context, inside, "scheduler_config.json", scheduler);
    else json_decref(scheduler);
    kin_free(context, inside);
    return status;
}
