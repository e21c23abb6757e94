/* Samples of what is being trained. */
#include "tools/train/train_video.h"

#include "runtime/file.h"
#include "tools/generate/pipeline.h"

#include <string.h>

/* Clips of the prompts, [count, 3, T, Y, X], from the folder at `model`. memory: bytes; 0: any. */
static kin_status generate(kin_video_task *t, const char *model, uint64_t memory, double *out_fps,
                           kin_host_tensor *out_frames) {
    const kin_train_config *config = t->config;
    const kin_validation_options *v = &config->validation;
    const kin_system_defaults *d = &t->parts.defaults;
    uint64_t seeds[KIN_TRAIN_MAX_PROMPTS];
    kin_pipeline pipeline;
    kin_status status = kin_pipeline_open(t->context, t->device, model, NULL, &pipeline);
    if (status != KIN_OK) return status;
    pipeline.precision = config->precision;
    pipeline.memory = memory;
    pipeline.clean_text = config->clean_captions;
    for (size_t i = 0; i < v->prompt_count; i++) seeds[i] = (uint64_t)(config->seed + (int64_t)i);
    kin_generation generation = {.count = (int64_t)v->prompt_count,
                                 .seeds = seeds,
                                 .frames = d->frames,
                                 .height = d->height,
                                 .width = d->width,
                                 .fps = pipeline.system.defaults.fps,
                                 .sampling = kin_pipeline_sampling(&pipeline),
                                 .quiet = true};
    *out_fps = pipeline.system.defaults.fps / (double)pipeline.system.defaults.frame_interval;
    if (v->method) status = kin_pipeline_sampler(&pipeline, v->method, &generation.sampling);
    if (status == KIN_OK)
        status = kin_pipeline_generate(&pipeline, &generation, v->prompts, NULL, out_frames);
    kin_pipeline_close(&pipeline);
    return status;
}

kin_status kin_train_validate(kin_video_task *task, kin_store *store, int64_t step) {
    const kin_validation_options *v = &task->config->validation;
    kin_host_tensor frames = {0};
    double fps = 0;
    if (v->prompt_count == 0) return KIN_OK;
    kin_status status = kin_train_export(task, store);
    char *model = kin_path_join(task->context, task->config->output, "model");
    char *folder = kin_path_join(task->context, task->config->output, "validation");
    if (status == KIN_OK) status = model && folder ? KIN_OK : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK) status = kin_make_folders(task->context, folder);
    /* plans have been given back; weights and states of the training stay */
    uint64_t memory = task->config->memory, stays = kin_store_bytes(store);
    if (task->text) stays += kin_text_source_memory(task->text);
    if (memory > 0) memory = memory > stays ? memory - stays : 1;
    if (status == KIN_OK) status = generate(task, model, memory, &fps, &frames);
    for (size_t i = 0; status == KIN_OK && i < v->prompt_count; i++) {
        kin_host_tensor clip = kin_pipeline_clip(&frames, (int64_t)i);
        kin_video_write_options options = {.fps = fps, .comment = v->prompts[i]};
        char *path = kin_format(task->context, "%s/%08lld-%zu.%s", folder, (long long)step, i,
                                clip.desc.dims[1] > 1 ? "mp4" : "png");
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
