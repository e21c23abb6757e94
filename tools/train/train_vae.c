/* Training the image autoencoder on the frames of clips. */
#include "tools/train/train.h"

#include "runtime/file.h"
#include "runtime/philox.h"
#include "runtime/weights.h"
#include "tools/system/model_folder.h"

#include <math.h>
#include <string.h>

enum { STATISTICS_CLIPS = 64, STREAM_FRAME = 0x4652414D };

typedef struct vae_task {
    kin_context *context;
    kin_device *device;
    const kin_train_config *config;
    kin_dataset *data;
    int64_t first;          /* this rank's first image of a batch */
    int64_t clips_per_step; /* of all ranks; batch_size counts images */
    int64_t frames;         /* that each clip gives to a step */
    int64_t *indices;
    float *clip;   /* (3, T, Y, X) */
    float *images; /* (B, 3, Y, X) */
} vae_task;

static kin_tensor vae_loss(void *task, int shape, kin_graph *graph) {
    (void)shape;
    const vae_task *t = task;
    const kin_train_config *config = t->config;
    kin_vae_training training = {.vae = &config->vae,
                                 .loss = config->loss,
                                 .precision = config->precision,
                                 .batch = config->batch_size,
                                 .height = config->data.height,
                                 .width = config->data.width,
                                 .part = {t->first, config->batch_size * kin_train_ranks(config)}};
    return kin_vae_training_loss(graph, &training);
}

/* Frame f of a clip (3, T, Y, X) as an image (3, Y, X). */
static void copy_frame(const kin_train_config *config, const float *clip, int64_t frame,
                       float *out_image) {
    size_t plane = (size_t)config->data.height * (size_t)config->data.width;
    for (int64_t c = 0; c < 3; c++)
        memcpy(out_image + (size_t)c * plane,
               clip + (size_t)(c * config->data.frames + frame) * plane, plane * sizeof *clip);
}

static kin_status vae_write(void *user, kin_plan *plan, int64_t index) {
    vae_task *task = user;
    const kin_train_config *config = task->config;
    uint64_t seed = (uint64_t)config->seed;
    size_t image = 3 * (size_t)config->data.height * (size_t)config->data.width;
    kin_status status =
        kin_dataset_batch(task->data, seed, index, task->clips_per_step, task->indices);
    for (int64_t b = 0; status == KIN_OK && b < config->batch_size; b++) {
        int64_t image_number = task->first + b; /* in the batch of all ranks */
        int64_t clip = image_number / task->frames, frame = image_number % task->frames;
        if (frame == 0 || b == 0)
            status = kin_dataset_clip(task->data, task->indices[clip], seed, task->clip, NULL);
        if (status != KIN_OK) break;
        /* one frame from each stretch of the clip, at a place drawn by (seed, step, image) */
        double place =
            ((double)frame + (double)kin_philox_element_uniform(seed, STREAM_FRAME, (uint64_t)index,
                                                                (uint64_t)image_number)) /
            (double)task->frames;
        int64_t which = (int64_t)(place * (double)config->data.frames);
        if (which >= config->data.frames) which = config->data.frames - 1;
        copy_frame(config, task->clip, which, task->images + (size_t)b * image);
    }
    int64_t key[2] = {config->seed, index + 1};
    if (status == KIN_OK) status = kin_plan_write(plan, "images", KIN_F32, task->images);
    if (status == KIN_OK) status = kin_plan_write(plan, "seed", KIN_I64, key);
    return status;
}

/* A plan that encodes the frames of one clip; the store needs the variables under "vae". */
static kin_status encoder_plan(vae_task *task, kin_plan **out_plan) {
    const kin_train_config *config = task->config;
    int64_t dims[4] = {config->data.frames, 3, config->data.height, config->data.width};
    kin_graph *graph;
    kin_status status = kin_graph_create(task->context, &graph);
    if (status != KIN_OK) return status;
    kin_tensor images = kin_input(graph, "images", KIN_F32, 4, dims);
    kin_scope_push(graph, "vae");
    kin_tensor moments = kin_sd_vae_encode(graph, &config->vae, &config->precision, images, false);
    kin_scope_pop(graph);
    kin_output(graph, "moments", moments);
    status = kin_plan_build(graph, task->device, NULL, out_plan);
    kin_graph_destroy(graph);
    return status;
}

/* Mean and standard deviation of each latent channel over some clips. */
static kin_status latent_statistics(vae_task *task, kin_store *store, double *mean, double *std) {
    const kin_train_config *config = task->config;
    int channels = config->vae.latent_channels;
    kin_plan *plan = NULL;
    float *moments = NULL;
    double sum[64] = {0}, squares[64] = {0}, count = 0;
    if (channels > 64) return kin_fail(task->context, KIN_UNSUPPORTED, "more than 64 channels");
    kin_status status = encoder_plan(task, &plan);
    if (status == KIN_OK) status = kin_plan_prepare(plan, store, NULL);
    const kin_desc *desc = status == KIN_OK ? kin_plan_output_desc(plan, "moments") : NULL;
    if (desc) {
        moments = kin_alloc(task->context, kin_desc_bytes(desc));
        if (!moments) status = KIN_OUT_OF_MEMORY;
    }
    int64_t clips = kin_dataset_count(task->data);
    if (clips > STATISTICS_CLIPS) clips = STATISTICS_CLIPS;
    for (int64_t k = 0; status == KIN_OK && k < clips; k++) {
        int64_t pixels = desc->dims[2] * desc->dims[3];
        size_t image = 3 * (size_t)config->data.height * (size_t)config->data.width;
        int64_t which = k * kin_dataset_count(task->data) / clips;
        status = kin_dataset_clip(task->data, which, (uint64_t)config->seed, task->clip, NULL);
        float *frames =
            status == KIN_OK
                ? kin_alloc(task->context, (size_t)config->data.frames * image * sizeof *frames)
                : NULL;
        if (status == KIN_OK && !frames) status = KIN_OUT_OF_MEMORY;
        for (int64_t f = 0; status == KIN_OK && f < config->data.frames; f++)
            copy_frame(config, task->clip, f, frames + (size_t)f * image);
        if (status == KIN_OK) status = kin_plan_write(plan, "images", KIN_F32, frames);
        if (status == KIN_OK) status = kin_plan_run(plan);
        if (status == KIN_OK) status = kin_plan_read(plan, "moments", KIN_F32, moments);
        for (int64_t f = 0; status == KIN_OK && f < config->data.frames; f++)
            for (int c = 0; c < channels; c++)
                for (int64_t i = 0; i < pixels; i++) {
                    double x = moments[(f * 2 * channels + c) * pixels + i];
                    sum[c] += x;
                    squares[c] += x * x;
                }
        count += (double)(config->data.frames * pixels);
        kin_free(task->context, frames);
    }
    for (int c = 0; status == KIN_OK && c < channels; c++) {
        mean[c] = sum[c] / count;
        double variance = squares[c] / count - mean[c] * mean[c];
        std[c] = sqrt(variance > 1e-12 ? variance : 1e-12);
    }
    kin_free(task->context, moments);
    kin_plan_free(plan);
    return status;
}

static kin_status edit(kin_store *store, const char *name, size_t count, float *values,
                       bool write) {
    kin_store_entry *entry = kin_store_find(store, name);
    kin_context *context = kin_store_device(store)->context;
    if (!entry || (size_t)kin_desc_count(&entry->desc) != count)
        return kin_fail(context, KIN_NOT_FOUND, "the store has no \"%s\" of %zu values", name,
                        count);
    return write ? kin_store_write(store, name, KIN_F32, values)
                 : kin_store_read(store, name, KIN_F32, values);
}

/* Moves the normalisation of latents into the 1x1 convolutions around them: afterwards every
 * channel has mean 0 and deviation 1, and the decoder gives the same pictures. The model stays an
 * ordinary AutoencoderKL with scaling_factor 1. */
static kin_status fold_statistics(vae_task *task, kin_store *store, const double *mean,
                                  const double *std) {
    size_t c = (size_t)task->config->vae.latent_channels;
    size_t total = 4 * c * c + 2 * c + c * c + c;
    float *block = kin_alloc(task->context, total * sizeof *block);
    if (!block) return KIN_OUT_OF_MEMORY;
    float *w = block, *b = w + 4 * c * c, *pw = b + 2 * c, *pb = pw + c * c;
    kin_status status = edit(store, "vae.quant_conv.weight", 4 * c * c, w, false);
    if (status == KIN_OK) status = edit(store, "vae.quant_conv.bias", 2 * c, b, false);
    if (status == KIN_OK) status = edit(store, "vae.post_quant_conv.weight", c * c, pw, false);
    if (status == KIN_OK) status = edit(store, "vae.post_quant_conv.bias", c, pb, false);
    for (size_t i = 0; status == KIN_OK && i < c; i++) {
        for (size_t j = 0; j < 2 * c; j++) w[i * 2 * c + j] = (float)(w[i * 2 * c + j] / std[i]);
        b[i] = (float)((b[i] - mean[i]) / std[i]);
        b[c + i] = (float)(b[c + i] - 2 * log(std[i]));
        for (size_t o = 0; o < c; o++) {
            pb[o] = (float)(pb[o] + pw[o * c + i] * mean[i]);
            pw[o * c + i] = (float)(pw[o * c + i] * std[i]);
        }
    }
    if (status == KIN_OK) status = edit(store, "vae.quant_conv.weight", 4 * c * c, w, true);
    if (status == KIN_OK) status = edit(store, "vae.quant_conv.bias", 2 * c, b, true);
    if (status == KIN_OK) status = edit(store, "vae.post_quant_conv.weight", c * c, pw, true);
    if (status == KIN_OK) status = edit(store, "vae.post_quant_conv.bias", c, pb, true);
    kin_free(task->context, block);
    return status;
}

/* The averaged weights take the place of the trained ones: what is exported is what was measured.
 */
static kin_status use_averages(kin_store *store) {
    size_t prefix = strlen(KIN_EMA_PREFIX);
    for (size_t i = 0; i < kin_store_count(store); i++) {
        const char *name = kin_store_at(store, i)->name;
        if (strncmp(name, KIN_EMA_PREFIX, prefix) != 0) continue;
        kin_status status = kin_store_copy(store, name, name + prefix);
        if (status != KIN_OK) return status;
    }
    return KIN_OK;
}

static kin_status vae_export(void *user, kin_store *store) {
    vae_task *task = user;
    double mean[64], std[64];
    kin_sd_vae_config vae = task->config->vae;
    /* channels have deviation 1 now: the factor is the deviation that the diffusion sees */
    if (!json_object_get(json_object_get(task->config->root, "vae"), "scaling_factor"))
        vae.scaling_factor = 1;
    char *folder = kin_path_join(task->context, task->config->output, "vae");
    char *file =
        folder ? kin_path_join(task->context, folder, "diffusion_pytorch_model.safetensors") : NULL;
    kin_status status = file ? use_averages(store) : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK) status = latent_statistics(task, store, mean, std);
    if (status == KIN_OK) status = fold_statistics(task, store, mean, std);
    if (status == KIN_OK) status = kin_write_vae_config(task->context, folder, &vae);
    if (status == KIN_OK) {
        kin_metadata format = {"format", "pt"};
        status = kin_weights_save(store, file, "vae", NULL, KIN_F32, &format, 1);
    }
    if (status == KIN_OK) kin_log(task->context, KIN_LOG_INFO, "wrote %s", folder);
    kin_free(task->context, folder);
    kin_free(task->context, file);
    return status;
}

kin_status kin_train_vae(kin_context *context, kin_device *device, const kin_train_config *config,
                         bool resume, bool quiet) {
    static const char *const metrics[] = {"reconstruction", "kl", NULL};
    static const kin_train_task_ops ops = {
        .loss = vae_loss, .write = vae_write, .export = vae_export, .metrics = metrics};
    vae_task task = {.context = context, .device = device, .config = config};
    size_t image = 3 * (size_t)config->data.height * (size_t)config->data.width;
    task.frames = config->frames_per_clip;
    int64_t batch = config->batch_size * kin_train_ranks(config);
    task.first = config->batch_size * kin_train_rank(config);
    task.clips_per_step = (batch + task.frames - 1) / task.frames;
    kin_status status = kin_dataset_open(context, &config->data, &task.data);
    if (status == KIN_OK) {
        task.indices = kin_alloc(context, (size_t)task.clips_per_step * sizeof *task.indices);
        task.clip = kin_alloc(context, (size_t)config->data.frames * image * sizeof(float));
        task.images = kin_alloc(context, (size_t)config->batch_size * image * sizeof(float));
        if (!task.indices || !task.clip || !task.images) status = KIN_OUT_OF_MEMORY;
    }
    status = kin_ranks_agree(config->ranks, status);
    if (status == KIN_OK)
        status = kin_train_run(context, device, config, &ops, &task, resume, quiet);
    kin_dataset_close(task.data);
    kin_free(context, task.indices);
    kin_free(context, task.clip);
    kin_free(context, task.images);
    return status;
}
