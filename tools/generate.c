/* kinora generate: stages on disk, so that a failure after sampling costs only the decode. */
#include "runtime/file.h"
#include "runtime/safetensors.h"
#include "runtime/video.h"
#include "tools/fingerprint.h"
#include "tools/pipeline.h"
#include "tools/tool.h"
#include "tools/verbs.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char verb[] = "generate";

typedef struct request {
    const char *model, *prompt, *negative, *output, *method, *memory;
    int64_t width, height, frames, steps, seed, cfg_channels;
    double fps, cfg_scale, eta;
    bool keep_stages;
    char *parameters; /* what decides the result; kept in the video */
    char *made_from;  /* the same and the model's files; kept in the stages */
    char *decoded_by; /* the same and the autoencoder's files; kept with the frames */
    char *stages;     /* folder of the stages */
} request;

/* Flags that were not given take what the model recommends. */
static kin_status complete(kin_context *context, const kin_pipeline *pipeline, request *r) {
    const kin_pipeline_defaults *d = &pipeline->defaults;
    if (r->width <= 0) r->width = d->width;
    if (r->height <= 0) r->height = d->height;
    if (r->frames <= 0) r->frames = d->frames;
    if (r->steps <= 0) r->steps = d->steps;
    if (r->fps <= 0) r->fps = d->fps;
    if (r->cfg_scale < 0) r->cfg_scale = d->cfg_scale;
    if (r->cfg_channels < 0) r->cfg_channels = d->cfg_channels;
    if (!r->method) r->method = d->method == KIN_SAMPLER_DDIM ? "ddim" : "iddpm";
    r->parameters = kin_format(
        context,
        "prompt: %s\nnegative: %s\nmodel: %s\nsize: %lldx%lldx%lld\nsteps: %lld\ncfg_scale: %g\n"
        "cfg_channels: %lld\nsampling_method: %s\neta: %g\nseed: %lld\nfps: %g\nkinora: %s",
        r->prompt, r->negative ? r->negative : "(learned null caption)", r->model,
        (long long)r->frames, (long long)r->height, (long long)r->width, (long long)r->steps,
        r->cfg_scale, (long long)r->cfg_channels, r->method, r->eta, (long long)r->seed, r->fps,
        kin_version());
    uint64_t files = kin_fingerprint_path(KIN_FINGERPRINT_START, pipeline->denoiser_path);
    files = kin_fingerprint_path(files, pipeline->text_encoder_path);
    files = kin_fingerprint_path(files, pipeline->tokenizer_path);
    char text[KIN_FINGERPRINT_TEXT];
    kin_fingerprint_text(files, text);
    r->made_from = r->parameters ? kin_format(context, "%s\nfiles: %s", r->parameters, text) : NULL;
    kin_fingerprint_text(kin_fingerprint_path(files, pipeline->vae_path), text);
    r->decoded_by = r->made_from ? kin_format(context, "%s, %s", r->made_from, text) : NULL;
    r->stages = kin_format(context, "%s.stages", r->output);
    return r->decoded_by && r->stages ? KIN_OK : KIN_OUT_OF_MEMORY;
}

static kin_status save_stage(kin_context *context, const request *r, const char *key,
                             const char *name, const char *const *tensor_names,
                             const kin_host_tensor *tensors, size_t count) {
    kin_named_tensor list[4];
    kin_metadata made_from = {"kinora.made_from", key};
    char *path = kin_path_join(context, r->stages, name);
    kin_status status = path ? kin_make_folders(context, r->stages) : KIN_OUT_OF_MEMORY;
    for (size_t i = 0; i < count; i++)
        list[i] = (kin_named_tensor){tensor_names[i], tensors[i].desc, tensors[i].data};
    if (status == KIN_OK)
        status = kin_safetensors_write(context, path, list, count, &made_from, 1, NULL, NULL);
    kin_free(context, path);
    return status;
}

/* Reads a stage that an earlier run with the same parameters and model left; false if there is
 * none. `want`: what its tensors must be like. */
static bool load_stage(kin_context *context, const request *r, const char *key, const char *name,
                       const char *const *tensor_names, const kin_desc *want,
                       kin_host_tensor *tensors, size_t count) {
    kin_safetensors *file = NULL;
    char *path = kin_path_join(context, r->stages, name);
    bool good =
        path && kin_file_exists(path) && kin_safetensors_open(context, path, &file) == KIN_OK;
    const char *made_from = good ? kin_safetensors_metadata(file, "kinora.made_from") : NULL;
    good = made_from && strcmp(made_from, key) == 0;
    for (size_t i = 0; good && i < count; i++) {
        const kin_named_tensor *t = kin_safetensors_find(file, tensor_names[i]);
        good = t && t->desc.dtype == want[i].dtype && kin_desc_same_shape(&t->desc, &want[i]) &&
               kin_host_tensor_create(context, t->desc.dtype, t->desc.rank, t->desc.dims,
                                      &tensors[i]) == KIN_OK;
        if (good) memcpy(tensors[i].data, t->data, kin_desc_bytes(&t->desc));
    }
    if (file) kin_safetensors_close(file);
    kin_free(context, path);
    for (size_t i = 0; !good && i < count; i++) kin_host_tensor_free(context, &tensors[i]);
    if (good) kin_log(context, KIN_LOG_INFO, "using %s of an earlier run", name);
    return good;
}

static void remove_stages(kin_context *context, const request *r) {
    static const char *const names[] = {"embeddings.safetensors", "latents.safetensors",
                                        "frames.safetensors"};
    for (size_t i = 0; i < 3; i++) {
        char *path = kin_path_join(context, r->stages, names[i]);
        if (path) unlink(path);
        kin_free(context, path);
    }
    rmdir(r->stages);
}

static kin_status make_embeddings(kin_pipeline *pipeline, const request *r,
                                  kin_host_tensor embeddings[4], size_t *out_count) {
    static const char *const names[] = {"features", "lengths", "negative", "negative_lengths"};
    kin_context *context = pipeline->context;
    int64_t dims[3] = {1, pipeline->denoiser.model_max_length, pipeline->text_encoder.d_model};
    kin_desc features = kin_desc_dense(KIN_F32, 3, dims),
             lengths = kin_desc_dense(KIN_I32, 1, dims);
    kin_desc want[4] = {features, lengths, features, lengths};
    *out_count = r->negative ? 4 : 2;
    if (load_stage(context, r, r->made_from, "embeddings.safetensors", names, want, embeddings,
                   *out_count))
        return KIN_OK;
    kin_status status =
        kin_pipeline_encode(pipeline, &r->prompt, 1, &embeddings[0], &embeddings[1]);
    if (status == KIN_OK && r->negative)
        status = kin_pipeline_encode(pipeline, &r->negative, 1, &embeddings[2], &embeddings[3]);
    if (status == KIN_OK)
        status = save_stage(context, r, r->made_from, "embeddings.safetensors", names, embeddings,
                            *out_count);
    return status;
}

static kin_status make_latents(kin_pipeline *pipeline, const request *r, bool quiet,
                               kin_host_tensor *out_latents) {
    static const char *const names[] = {"latents"};
    kin_context *context = pipeline->context;
    kin_host_tensor embeddings[4] = {{.data = NULL}};
    size_t count;
    uint64_t seed = (uint64_t)r->seed;
    kin_generation generation = {.count = 1,
                                 .prompts = &r->prompt,
                                 .seeds = &seed,
                                 .frames = r->frames,
                                 .height = r->height,
                                 .width = r->width,
                                 .steps = r->steps,
                                 .cfg_scale = r->cfg_scale,
                                 .eta = r->eta,
                                 .cfg_channels = r->cfg_channels,
                                 .method = strcmp(r->method, "ddim") == 0 ? KIN_SAMPLER_DDIM
                                                                          : KIN_SAMPLER_IDDPM,
                                 .quiet = quiet};
    int64_t factor = kin_sd_vae_factor(&pipeline->vae);
    int64_t dims[5] = {1, pipeline->vae.latent_channels, r->frames, r->height / factor,
                       r->width / factor};
    kin_desc want = kin_desc_dense(KIN_F32, 5, dims);
    if (load_stage(context, r, r->made_from, "latents.safetensors", names, &want, out_latents, 1))
        return KIN_OK;
    kin_status status = make_embeddings(pipeline, r, embeddings, &count);
    if (status == KIN_OK)
        status = kin_pipeline_sample(pipeline, &generation, &embeddings[0], &embeddings[1],
                                     r->negative ? &embeddings[2] : NULL,
                                     r->negative ? &embeddings[3] : NULL, out_latents);
    if (status == KIN_OK)
        status = save_stage(context, r, r->made_from, "latents.safetensors", names, out_latents, 1);
    for (int i = 0; i < 4; i++) kin_host_tensor_free(context, &embeddings[i]);
    return status;
}

/* Frames that cannot be kept are no reason to stop: the video comes next. */
static kin_status make_frames(kin_pipeline *pipeline, const request *r, bool quiet,
                              kin_host_tensor *out_frames) {
    static const char *const names[] = {"frames"}, file[] = "frames.safetensors";
    kin_context *context = pipeline->context;
    kin_host_tensor latents = {.data = NULL};
    int64_t dims[5] = {1, pipeline->vae.out_channels, r->frames, r->height, r->width};
    kin_desc want = kin_desc_dense(KIN_F32, 5, dims);
    if (load_stage(context, r, r->decoded_by, file, names, &want, out_frames, 1)) return KIN_OK;
    kin_status status = make_latents(pipeline, r, quiet, &latents);
    if (status == KIN_OK) status = kin_pipeline_decode(pipeline, &latents, quiet, out_frames);
    if (status == KIN_OK &&
        save_stage(context, r, r->decoded_by, file, names, out_frames, 1) != KIN_OK)
        kin_log(context, KIN_LOG_WARN, "frames are not kept: %s", kin_context_error(context));
    kin_host_tensor_free(context, &latents);
    return status;
}

static kin_status generate(kin_common *common, request *r) {
    kin_context *context = common->context;
    kin_pipeline pipeline;
    kin_host_tensor frames = {.data = NULL};
    kin_status status = kin_pipeline_open(context, common->handle, r->model, &pipeline);
    if (status != KIN_OK) return status;
    if (r->memory && !kin_parse_bytes(r->memory, &pipeline.memory))
        status = kin_fail(context, KIN_INVALID, "--memory wants a size such as 8G, not \"%s\"",
                          r->memory);
    if (status == KIN_OK) status = complete(context, &pipeline, r);
    kin_video_write_options options = {.fps = r->fps, .comment = r->parameters};
    if (status == KIN_OK)
        status =
            kin_video_check_write(context, r->output, r->frames, r->height, r->width, &options);
    if (status == KIN_OK) status = make_frames(&pipeline, r, common->quiet, &frames);
    if (status == KIN_OK) {
        kin_host_tensor clip = kin_pipeline_clip(&frames, 0);
        status = kin_video_write(context, r->output, &clip, &options);
    }
    if (status == KIN_OK) {
        if (!r->keep_stages) remove_stages(context, r);
        printf("%s\n", r->output);
    } else if (r->stages && kin_file_is_folder(r->stages)) {
        kin_log(context, KIN_LOG_INFO,
                "finished stages are kept in %s: the same command goes on "
                "from there",
                r->stages);
    }
    kin_host_tensor_free(context, &frames);
    kin_free(context, r->parameters);
    kin_free(context, r->made_from);
    kin_free(context, r->decoded_by);
    kin_free(context, r->stages);
    kin_pipeline_close(&pipeline);
    return status;
}

int kin_verb_generate(int count, char **arguments) {
    kin_common common = {0};
    request r = {.output = "output.mp4", .seed = 42, .cfg_scale = -1, .cfg_channels = -1};
    int left = 0;
    const kin_flag flags[] = {
        {.name = "model",
         .letter = 'm',
         .argument = "DIR",
         .text = &r.model,
         .help = "model folder (model_index.json and its parts)"},
        {.name = "prompt",
         .letter = 'p',
         .argument = "TEXT",
         .text = &r.prompt,
         .help = "what to show"},
        {.name = "negative-prompt",
         .letter = 'n',
         .argument = "TEXT",
         .text = &r.negative,
         .help = "what to steer away from; default: the learned null caption"},
        {.name = "width", .letter = 'W', .argument = "N", .integer = &r.width, .help = "pixels"},
        {.name = "height", .letter = 'H', .argument = "N", .integer = &r.height, .help = "pixels"},
        {.name = "video-frames", .argument = "N", .integer = &r.frames, .help = "frames"},
        {.name = "fps", .argument = "X", .number = &r.fps, .help = "frames a second of the file"},
        {.name = "steps", .argument = "N", .integer = &r.steps, .help = "sampling steps"},
        {.name = "cfg-scale",
         .argument = "X",
         .number = &r.cfg_scale,
         .help = "classifier-free guidance; 1: none"},
        {.name = "cfg-channels",
         .argument = "N",
         .integer = &r.cfg_channels,
         .help = "guide the first N latent channels only; 0: all"},
        {.name = "sampling-method", .argument = "NAME", .text = &r.method, .help = "ddim or iddpm"},
        {.name = "eta", .argument = "X", .number = &r.eta, .help = "noise of ddim, 0 to 1"},
        {.name = "seed",
         .letter = 's',
         .argument = "N",
         .integer = &r.seed,
         .help = "the same seed gives the same file; -1: a random one, told"},
        {.name = "memory",
         .argument = "SIZE",
         .text = &r.memory,
         .help = "refuse a stage that needs more, such as 8G"},
        {.name = "keep-stages",
         .on = &r.keep_stages,
         .help = "keep embeddings and latents beside the video"},
        {.name = "output",
         .letter = 'o',
         .argument = "FILE",
         .text = &r.output,
         .help = ".mp4, .mkv (lossless) or frame_%03d.png"},
        KIN_COMMON_FLAGS(&common),
    };
    int code =
        kin_parse_flags(verb, flags, sizeof flags / sizeof *flags, count, arguments, 0, 0, &left);
    if (code >= 0) return code;
    if (!r.model || !r.prompt) return kin_usage_error(verb, "--model and --prompt must be given");
    if (r.method && strcmp(r.method, "ddim") != 0 && strcmp(r.method, "iddpm") != 0)
        return kin_usage_error(verb, "--sampling-method must be ddim or iddpm, not \"%s\"",
                               r.method);
    if (r.width < 0 || r.height < 0 || r.frames < 0 || r.steps < 0 || r.fps < 0)
        return kin_usage_error(verb, "sizes, frames, steps and fps cannot be negative");
    if (r.eta < 0 || r.eta > 1) return kin_usage_error(verb, "--eta must lie within 0 and 1");
    code = kin_common_open(&common, true);
    if (code >= 0) return code;
    kin_catch_interrupts();
    if (r.seed < 0) {
        r.seed = (int64_t)(kin_wall_time() * 1e3) % 2147483647;
        kin_log(common.context, KIN_LOG_INFO, "seed %lld", (long long)r.seed);
    }
    kin_status status = generate(&common, &r);
    code = status == KIN_OK ? KIN_EXIT_OK : kin_report(common.context, verb, status);
    kin_common_close(&common);
    return code;
}
