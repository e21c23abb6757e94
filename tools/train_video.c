/* Training the denoiser, and its text encoder if wanted, on latents of clips. */
#include "tools/train.h"

#include "models/stdit_start.h"
#include "runtime/file.h"
#include "runtime/json.h"
#include "runtime/weights.h"
#include "tools/latent_cache.h"
#include "tools/model_folder.h"
#include "tools/pipeline.h"
#include "tools/tool.h"

#include <string.h>

typedef struct video_task {
    kin_context *context;
    kin_device *device;
    const kin_train_config *config;
    bool quiet;
    kin_sd_vae_config vae;
    kin_t5_config text;
    kin_stdit_config denoiser;
    kin_schedule *schedule;
    kin_dataset *data;
    char *tokenizer_path;
    kin_latent_cache *latents;
    int32_t *ids, *lengths;   /* of all captions: [count, L], [count] */
    kin_host_tensor features; /* [count, L, C] if the text encoder is not trained */
    int64_t text_length;
    int64_t *indices;
    float *moments, *batch_features;
    int32_t *batch_ids, *batch_lengths;
} video_task;

static kin_tensor video_loss(void *user, kin_graph *graph) {
    const video_task *task = user;
    const kin_train_config *config = task->config;
    int64_t factor = kin_sd_vae_factor(&task->vae);
    kin_video_training training = {.denoiser = &task->denoiser,
                                   .text_encoder = config->train_text_encoder ? &task->text : NULL,
                                   .schedule = task->schedule,
                                   .scaling_factor = task->vae.scaling_factor,
                                   .posterior_mean = config->posterior_mean,
                                   .caption_dropout = config->caption_dropout,
                                   .timesteps = config->timesteps,
                                   .precision = config->precision,
                                   .batch = config->batch_size,
                                   .frames = config->data.frames,
                                   .latent_height = config->data.height / factor,
                                   .latent_width = config->data.width / factor,
                                   .text_length = task->text_length};
    return kin_video_training_loss(graph, &training);
}

/* Weights of init_path, a model folder, and of text_encoder_path. New layers keep their start. */
static kin_status video_load(void *user, kin_store *store) {
    video_task *task = user;
    const kin_train_config *config = task->config;
    kin_status status = KIN_OK;
    if (config->from_scratch)
        status = kin_stdit_start_from_nothing(store, "denoiser", &task->denoiser,
                                              (uint64_t)config->seed);
    if (status == KIN_OK && config->init_path) {
        kin_weights_report report;
        char *path = kin_path_join(task->context, config->init_path, "transformer");
        const char *from = path && kin_file_is_folder(path) ? path : config->init_path;
        kin_weights_options options = {.prefix = "denoiser",
                                       .rename = kin_stdit_rename,
                                       .config = &task->denoiser,
                                       .allow_missing = true};
        status = path ? kin_weights_load(store, from, &options, &report) : KIN_OUT_OF_MEMORY;
        if (status == KIN_OK)
            kin_log(task->context, KIN_LOG_INFO, "%s: %zu tensors taken, %zu start anew", from,
                    report.loaded, report.missing);
        kin_free(task->context, path);
    }
    if (status == KIN_OK && config->train_text_encoder && config->text_encoder_path) {
        kin_weights_options options = {
            .prefix = "text_encoder", .rename = kin_t5_rename, .config = &task->text};
        status = kin_weights_load(store, config->text_encoder_path, &options, NULL);
    }
    return status;
}

static kin_status video_write(void *user, kin_plan *plan, int64_t index) {
    video_task *task = user;
    const kin_train_config *config = task->config;
    int64_t batch = config->batch_size, length = task->text_length;
    size_t clip = kin_latent_cache_values(task->latents);
    size_t row = (size_t)(length * task->denoiser.caption_channels);
    kin_status status =
        kin_dataset_batch(task->data, (uint64_t)config->seed, index, batch, task->indices);
    for (int64_t b = 0; status == KIN_OK && b < batch; b++) {
        int64_t i = kin_latent_cache_row(task->latents, task->indices[b]);
        memcpy(task->moments + (size_t)b * clip, kin_latent_cache_clip(task->latents, i),
               clip * sizeof(float));
        memcpy(task->batch_ids + b * length, task->ids + i * length,
               (size_t)length * sizeof(int32_t));
        task->batch_lengths[b] = task->lengths[i];
        if (task->features.data)
            memcpy(task->batch_features + (size_t)b * row,
                   (const float *)task->features.data + (size_t)i * row, row * sizeof(float));
    }
    int64_t key[2] = {config->seed, index + 1};
    if (status == KIN_OK) status = kin_plan_write(plan, "moments", KIN_F32, task->moments);
    if (status == KIN_OK) status = kin_plan_write(plan, "lengths", KIN_I32, task->batch_lengths);
    if (status == KIN_OK) status = kin_plan_write(plan, "seed", KIN_I64, key);
    if (status == KIN_OK && config->train_text_encoder)
        status = kin_plan_write(plan, "ids", KIN_I32, task->batch_ids);
    else if (status == KIN_OK)
        status = kin_plan_write(plan, "features", KIN_F32, task->batch_features);
    return status;
}

/* OUTPUT/model holds what is not trained too. */
static kin_status copy_weights(kin_context *context, const char *source, const char *target) {
    kin_status status = kin_make_folders(context, target);
    return status == KIN_OK ? kin_copy_weights(context, source, target) : status;
}

static kin_status export_text_encoder(video_task *task, kin_store *store, const char *folder) {
    char *file = kin_path_join(task->context, folder, "model.safetensors");
    kin_metadata format = {"format", "pt"};
    kin_status status =
        file ? kin_write_t5_config(task->context, folder, &task->text) : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK && task->config->train_text_encoder)
        status = kin_weights_save(store, file, "text_encoder", KIN_EMA_PREFIX, KIN_F32, &format, 1);
    else if (status == KIN_OK)
        status = copy_weights(task->context, task->config->text_encoder_path, folder);
    kin_free(task->context, file);
    return status;
}

/* Frames a second of what the model makes: that of the clips, or 8 if they do not say. */
static double clip_rate(const video_task *task) {
    double rate = kin_dataset_fps(task->data);
    return rate > 0 ? rate : 8;
}

/* OUTPUT/model: a folder that `kinora generate` takes, with averaged weights. */
static kin_status video_export(void *user, kin_store *store) {
    video_task *task = user;
    const kin_train_config *config = task->config;
    kin_context *context = task->context;
    char *root = kin_path_join(context, config->output, "model");
    char *transformer = root ? kin_path_join(context, root, "transformer") : NULL;
    char *text = root ? kin_path_join(context, root, "text_encoder") : NULL;
    char *vae = root ? kin_path_join(context, root, "vae") : NULL;
    char *tokenizer = root ? kin_path_join(context, root, "tokenizer") : NULL;
    char *weights = transformer
                        ? kin_path_join(context, transformer, "diffusion_pytorch_model.safetensors")
                        : NULL;
    char *pieces = tokenizer ? kin_path_join(context, tokenizer, "spiece.model") : NULL;
    kin_metadata format = {"format", "pt"};
    kin_status status = weights && text && vae && pieces ? KIN_OK : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK) status = kin_write_stdit_config(context, transformer, &task->denoiser);
    if (status == KIN_OK)
        status = kin_weights_save(store, weights, "denoiser", KIN_EMA_PREFIX, KIN_F32, &format, 1);
    if (status == KIN_OK) status = export_text_encoder(task, store, text);
    if (status == KIN_OK) status = kin_write_vae_config(context, vae, &task->vae);
    if (status == KIN_OK) status = copy_weights(context, config->vae_path, vae);
    if (status == KIN_OK) status = kin_make_folders(context, tokenizer);
    if (status == KIN_OK) status = kin_copy_file(context, task->tokenizer_path, pieces);
    kin_pipeline_defaults defaults = {.frames = config->data.frames,
                                      .height = config->data.height,
                                      .width = config->data.width,
                                      .steps = config->validation_steps,
                                      .fps = clip_rate(task),
                                      .cfg_scale = config->validation_cfg_scale,
                                      .cfg_channels = 0,
                                      .method = config->validation_method};
    if (status == KIN_OK) status = kin_pipeline_write_index(context, root, &defaults);
    kin_free(context, root);
    kin_free(context, transformer);
    kin_free(context, text);
    kin_free(context, vae);
    kin_free(context, tokenizer);
    kin_free(context, weights);
    kin_free(context, pieces);
    return status;
}

/* Exports what there is and generates the validation prompts: OUTPUT/validation/STEP-N.mp4. */
static kin_status video_validate(void *user, kin_store *store, int64_t step) {
    video_task *task = user;
    const kin_train_config *config = task->config;
    int64_t count = (int64_t)config->validation_prompt_count;
    uint64_t seeds[KIN_TRAIN_MAX_PROMPTS];
    kin_pipeline pipeline;
    kin_host_tensor frames = {0};
    if (count == 0) return KIN_OK;
    for (int64_t i = 0; i < count; i++) seeds[i] = (uint64_t)(config->seed + i);
    kin_status status = video_export(task, store);
    char *model = kin_path_join(task->context, config->output, "model");
    char *folder = kin_path_join(task->context, config->output, "validation");
    if (status == KIN_OK) status = model && folder ? KIN_OK : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK) status = kin_make_folders(task->context, folder);
    if (status == KIN_OK) status = kin_pipeline_open(task->context, task->device, model, &pipeline);
    if (status == KIN_OK) {
        kin_generation generation = {.count = count,
                                     .prompts = config->validation_prompts,
                                     .seeds = seeds,
                                     .frames = config->data.frames,
                                     .height = config->data.height,
                                     .width = config->data.width,
                                     .steps = config->validation_steps,
                                     .cfg_scale = config->validation_cfg_scale,
                                     .method = config->validation_method,
                                     .quiet = true};
        status = kin_pipeline_generate(&pipeline, &generation, &frames);
        kin_pipeline_close(&pipeline);
    }
    for (int64_t i = 0; status == KIN_OK && i < count; i++) {
        kin_host_tensor clip = kin_pipeline_clip(&frames, i);
        kin_video_write_options options = {.fps = clip_rate(task),
                                           .comment = config->validation_prompts[i]};
        char *path =
            kin_format(task->context, "%s/%08lld-%lld.mp4", folder, (long long)step, (long long)i);
        status = path ? kin_video_write(task->context, path, &clip, &options) : KIN_OUT_OF_MEMORY;
        kin_free(task->context, path);
    }
    if (status != KIN_OK && status != KIN_CANCELLED) { /* a picture less is no reason to stop */
        kin_log(task->context, KIN_LOG_WARN, "validation: %s", kin_context_error(task->context));
        status = KIN_OK;
    }
    kin_host_tensor_free(task->context, &frames);
    kin_free(task->context, model);
    kin_free(task->context, folder);
    return status == KIN_CANCELLED ? KIN_OK : status;
}

/* A given text encoder needs the tokenizer that it was trained with, which lies beside it or in it.
 */
static kin_status find_tokenizer(video_task *task) {
    static const char *const names[] = {"spiece.model", "../tokenizer/spiece.model"};
    const char *folder = task->config->text_encoder_path;
    for (size_t i = 0; i < 2; i++) {
        char *path = kin_path_join(task->context, folder, names[i]);
        if (!path) return KIN_OUT_OF_MEMORY;
        if (kin_file_exists(path)) {
            task->tokenizer_path = path;
            return KIN_OK;
        }
        kin_free(task->context, path);
    }
    return kin_fail(task->context, KIN_NOT_FOUND,
                    "%s: no spiece.model in it or in ../tokenizer: give its tokenizer's file as "
                    "tokenizer.path",
                    folder);
}

/* The tokenizer as given, or trained on the captions. */
static kin_status prepare_tokenizer(video_task *task) {
    const kin_train_config *config = task->config;
    if (config->tokenizer_path) {
        task->tokenizer_path = kin_strdup(task->context, config->tokenizer_path);
        return task->tokenizer_path ? KIN_OK : KIN_OUT_OF_MEMORY;
    }
    if (config->text_encoder_path) return find_tokenizer(task);
    kin_status status = kin_make_folders(task->context, config->output);
    task->tokenizer_path = kin_path_join(task->context, config->output, "spiece.model");
    if (status == KIN_OK && !task->tokenizer_path) status = KIN_OUT_OF_MEMORY;
    if (status != KIN_OK) return status;
    /* the one that a run to be resumed was trained with; one that an earlier start left is not
     * used: captions or vocabulary may have changed */
    char *checkpoint;
    int64_t step;
    bool begun =
        kin_train_checkpoint_find(task->context, config->output, &checkpoint, &step) == KIN_OK;
    kin_free(task->context, checkpoint);
    if (begun && kin_file_exists(task->tokenizer_path)) return KIN_OK;
    int64_t count = kin_dataset_count(task->data);
    const char **captions = kin_alloc(task->context, (size_t)count * sizeof *captions);
    if (!captions) return KIN_OUT_OF_MEMORY;
    for (int64_t i = 0; i < count; i++) captions[i] = kin_dataset_text(task->data, i);
    status = kin_tokenizer_train(task->context, captions, (size_t)count,
                                 (int)config->tokenizer_vocabulary, task->tokenizer_path);
    kin_free(task->context, (void *)captions);
    return status;
}

static kin_status tokenize_captions(video_task *task) {
    int64_t count = kin_dataset_count(task->data), length = task->text_length;
    int64_t cut = 0, longest = 0;
    kin_tokenizer *tokenizer;
    kin_status status = kin_tokenizer_load(task->context, task->tokenizer_path, &tokenizer);
    if (status != KIN_OK) return status;
    task->ids = kin_alloc(task->context, (size_t)(count * length) * sizeof *task->ids);
    task->lengths = kin_alloc(task->context, (size_t)count * sizeof *task->lengths);
    if (!task->ids || !task->lengths) status = KIN_OUT_OF_MEMORY;
    if (status == KIN_OK && kin_tokenizer_size(tokenizer) > task->text.vocab_size)
        status = kin_fail(task->context, KIN_INVALID,
                          "the tokenizer has %d pieces, but text_encoder.vocab_size is %d",
                          kin_tokenizer_size(tokenizer), task->text.vocab_size);
    for (int64_t i = 0; status == KIN_OK && i < count; i++) {
        const char *text = kin_dataset_text(task->data, i);
        int size;
        int32_t *all;
        size_t tokens;
        status = kin_tokenizer_encode(tokenizer, text, strlen(text), &all, &tokens);
        if (status != KIN_OK) break;
        kin_free(task->context, all);
        if ((int64_t)tokens + 1 > length) cut++;
        if ((int64_t)tokens + 1 > longest) longest = (int64_t)tokens + 1;
        status = kin_tokenizer_encode_padded(tokenizer, text, strlen(text), (int)length,
                                             task->ids + i * length, &size);
        task->lengths[i] = size;
    }
    if (status == KIN_OK && cut > 0)
        kin_log(
            task->context, KIN_LOG_WARN,
            "%lld of %lld captions are cut to denoiser.model_max_length, %lld tokens: what they "
            "say last is never seen; the longest has %lld",
            (long long)cut, (long long)count, (long long)length, (long long)longest);
    kin_tokenizer_destroy(tokenizer);
    return status;
}

static kin_status load_part_config(kin_context *context, const char *folder, json_t **out_root,
                                   char **out_path) {
    *out_path = kin_path_join(context, folder, "config.json");
    return *out_path ? kin_json_load(context, *out_path, out_root) : KIN_OUT_OF_MEMORY;
}

/* Configurations of the parts that come from folders. */
static kin_status read_parts(video_task *task) {
    const kin_train_config *config = task->config;
    json_t *root = NULL;
    char *path = NULL;
    task->denoiser = config->denoiser;
    task->text = config->text_encoder;
    kin_status status = load_part_config(task->context, config->vae_path, &root, &path);
    if (status == KIN_OK)
        status =
            kin_sd_vae_config_parse(task->context, root, path, KIN_UNKNOWN_KEYS_WARN, &task->vae);
    json_decref(root);
    kin_free(task->context, path);
    if (status == KIN_OK && config->text_encoder_path) {
        root = NULL;
        status = load_part_config(task->context, config->text_encoder_path, &root, &path);
        if (status == KIN_OK)
            status =
                kin_t5_config_parse(task->context, root, path, KIN_UNKNOWN_KEYS_WARN, &task->text);
        json_decref(root);
        kin_free(task->context, path);
    }
    if (status != KIN_OK) return status;
    int64_t factor = kin_sd_vae_factor(&task->vae);
    task->text_length = task->denoiser.model_max_length;
    task->denoiser.input_size[0] = (int)config->data.frames;
    task->denoiser.input_size[1] = (int)(config->data.height / factor);
    task->denoiser.input_size[2] = (int)(config->data.width / factor);
    if (!config->train_text_encoder && !config->text_encoder_path)
        return kin_fail(task->context, KIN_INVALID,
                        "a text encoder that is not trained needs text_encoder_path; or set "
                        "train_text_encoder to true");
    if (config->data.height % factor || config->data.width % factor)
        return kin_fail(task->context, KIN_INVALID,
                        "height and width must be multiples of %lld for %s", (long long)factor,
                        config->vae_path);
    if (task->denoiser.caption_channels != task->text.d_model)
        return kin_fail(task->context, KIN_INVALID,
                        "denoiser.caption_channels is %d, but the text encoder makes %d",
                        task->denoiser.caption_channels, task->text.d_model);
    if (task->denoiser.in_channels != task->vae.latent_channels)
        return kin_fail(task->context, KIN_INVALID,
                        "denoiser.in_channels is %d, but the vae makes %d",
                        task->denoiser.in_channels, task->vae.latent_channels);
    return KIN_OK;
}

static kin_status allocate_batch(video_task *task) {
    size_t batch = (size_t)task->config->batch_size, length = (size_t)task->text_length;
    size_t channels = (size_t)task->denoiser.caption_channels;
    kin_context *context = task->context;
    task->indices = kin_alloc(context, batch * sizeof *task->indices);
    task->moments =
        kin_alloc(context, batch * kin_latent_cache_values(task->latents) * sizeof(float));
    task->batch_ids = kin_alloc(context, batch * length * sizeof(int32_t));
    task->batch_lengths = kin_alloc(context, batch * sizeof(int32_t));
    task->batch_features = kin_alloc(context, batch * length * channels * sizeof(float));
    return task->indices && task->moments && task->batch_ids && task->batch_lengths &&
                   task->batch_features
               ? KIN_OK
               : KIN_OUT_OF_MEMORY;
}

kin_status kin_train_video(kin_context *context, kin_device *device, const kin_train_config *config,
                           bool resume, bool quiet) {
    static const char *const metrics[] = {"mse", "vb", NULL};
    static const char *const plain_metrics[] = {"mse", NULL};
    kin_train_task_ops ops = {.loss = video_loss,
                              .load = video_load,
                              .write = video_write,
                              .validate = video_validate,
                              .export = video_export,
                              .metrics = config->denoiser.pred_sigma ? metrics : plain_metrics};
    video_task task = {.context = context, .device = device, .config = config, .quiet = quiet};
    kin_status status = read_parts(&task);
    if (status == KIN_OK) status = kin_dataset_open(context, &config->data, &task.data);
    if (status == KIN_OK) status = prepare_tokenizer(&task);
    if (status == KIN_OK) status = tokenize_captions(&task);
    if (status == KIN_OK) status = kin_schedule_create(context, 1000, "", &task.schedule);
    if (status == KIN_OK)
        status = kin_latent_cache_open(context, device, config, &task.vae, task.data, quiet,
                                       &task.latents);
    if (status == KIN_OK && !config->train_text_encoder)
        status = kin_text_cache_open(context, device, config, &task.text, task.ids, task.lengths,
                                     kin_dataset_count(task.data), task.text_length,
                                     task.tokenizer_path, &task.features);
    if (status == KIN_OK) status = allocate_batch(&task);
    if (status == KIN_OK)
        status = kin_train_run(context, device, config, &ops, &task, resume, quiet);
    kin_host_tensor_free(context, &task.features);
    kin_latent_cache_close(task.latents);
    kin_schedule_free(task.schedule);
    kin_dataset_close(task.data);
    kin_free(context, task.tokenizer_path);
    kin_free(context, task.ids);
    kin_free(context, task.lengths);
    kin_free(context, task.indices);
    kin_free(context, task.moments);
    kin_free(context, task.batch_ids);
    kin_free(context, task.batch_lengths);
    kin_free(context, task.batch_features);
    return status;
}
