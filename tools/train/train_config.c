/* Reading training configurations: the keys of every training, and stages. */
#include "tools/train/train_config.h"

#include "runtime/file.h"
#include "runtime/json.h"

#include <string.h>

static const char *const top_keys[] = {
    "task",
    "output",
    "data",
    "stages",
    "name",
    "steps",
    "batch_size",
    "accumulate_steps",
    "warmup_steps",
    "seed",
    "learning_rate",
    "min_learning_rate",
    "lr_schedule",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "weight_decay",
    "max_grad_norm",
    "ema_decay",
    "precision",
    "memory",
    "recompute",
    "log_every",
    "checkpoint_every",
    "keep_checkpoints",
    "vae",
    "loss",
    "model",
    "vae_path",
    "init_path",
    "denoiser",
    "text_encoder",
    "train_text_encoder",
    "text_encoder_path",
    "text_encoder_dtype",
    "text_features",
    "tokenizer",
    "caption_dropout",
    "clean_captions",
    "attend_padding",
    "diffusion",
    "frame_masks",
    "timesteps",
    "validate_every",
    "validation",
    "from_scratch",
    "posterior",
};
static const char *const data_keys[] = {"csv",
                                        "folder",
                                        "num_frames",
                                        "frame_interval",
                                        "frame_choice",
                                        "fps",
                                        "height",
                                        "width",
                                        "resize",
                                        "memory_cache",
                                        "frames_per_clip",
                                        "buckets",
                                        "fill_buckets",
                                        "images",
                                        "variable_length",
                                        "group_frame",
                                        "frame_multiple",
                                        "drop_short_ratio"};
static const char *const loss_keys[] = {"l1", "l2", "kl"};

static void read_data(kin_train_reader *r, kin_train_config *config) {
    static const char *const choices[] = {"interval", "linspace", "rate"};
    kin_train_need(r, config->root, "data");
    json_t *data = kin_train_get_object(r, config->root, "data");
    kin_train_check_keys(r, data, data_keys, KIN_COUNT(data_keys));
    kin_train_need(r, data, "csv");
    kin_dataset_options *o = &config->data;
    int64_t height = 32, width = 32;
    o->frames = 16;
    o->interval = 1;
    o->memory = 1ull << 30;
    kin_train_get_text(r, data, "csv", &o->csv);
    kin_train_get_text(r, data, "folder", &o->folder);
    kin_train_get_int(r, data, "num_frames", 1, 4096, &o->frames);
    kin_train_get_int(r, data, "frame_interval", 1, 1000, &o->interval);
    kin_train_get_int(r, data, "height", 8, 8192, &height);
    kin_train_get_int(r, data, "width", 8, 8192, &width);
    o->height = (int)height;
    o->width = (int)width;
    o->choice = (kin_frame_choice)kin_train_get_word(r, data, "frame_choice", choices,
                                                     KIN_COUNT(choices), KIN_FRAMES_INTERVAL);
    o->rate = 24;
    kin_train_get_number(r, data, "fps", 0.1, 1000, &o->rate);
    o->resize = kin_train_get_choice(r, data, "resize", "center", "resize_crop")
                    ? KIN_VIDEO_RESIZE_CROP
                    : KIN_VIDEO_CENTER;
    kin_train_get_bytes(r, data, "memory_cache", &o->memory);
    config->frames_per_clip = 1;
    kin_train_get_int(r, data, "frames_per_clip", 1, o->frames, &config->frames_per_clip);
    kin_train_read_order(r, config, data);
}

/* A word of kin_recompute; true and false are "segments" and "auto". */
static void read_recompute(kin_train_reader *r, const json_t *root, kin_recompute *value) {
    static const char *const words[] = {"auto", "nothing", "cheap", "segments"};
    if (json_is_boolean(json_object_get(root, "recompute")))
        *value = json_is_true(json_object_get(root, "recompute")) ? KIN_RECOMPUTE_SEGMENTS
                                                                  : KIN_RECOMPUTE_AUTO;
    else
        *value = (kin_recompute)kin_train_get_word(r, root, "recompute", words, KIN_COUNT(words),
                                                   KIN_RECOMPUTE_AUTO);
}

static void read_optimisation(kin_train_reader *r, kin_train_config *config) {
    json_t *root = config->root;
    kin_optimizer_options *o = &config->optimizer;
    config->steps = 1000;
    config->batch_size = 8;
    config->accumulate_steps = 1;
    config->seed = 42;
    config->learning_rate = 1e-4;
    config->log_every = 10;
    config->checkpoint_every = 500;
    config->keep_checkpoints = 2;
    *o = (kin_optimizer_options){.beta1 = 0.9,
                                 .beta2 = 0.999,
                                 .epsilon = 1e-8,
                                 .max_grad_norm = 1.0,
                                 .ema_decay = 0.9999};
    kin_train_get_int(r, root, "steps", 1, INT64_C(1) << 40, &config->steps);
    kin_train_get_int(r, root, "batch_size", 1, 65536, &config->batch_size);
    kin_train_get_int(r, root, "accumulate_steps", 1, 65536, &config->accumulate_steps);
    kin_train_get_int(r, root, "warmup_steps", 0, INT64_C(1) << 40, &config->warmup_steps);
    kin_train_get_int(r, root, "seed", 0, INT64_MAX, &config->seed);
    kin_train_get_number(r, root, "learning_rate", 0, 100, &config->learning_rate);
    kin_train_get_number(r, root, "min_learning_rate", 0, 100, &config->min_learning_rate);
    config->cosine = kin_train_get_choice(r, root, "lr_schedule", "constant", "cosine");
    kin_train_get_number(r, root, "adam_beta1", 0, 0.99999999, &o->beta1);
    kin_train_get_number(r, root, "adam_beta2", 0, 0.99999999, &o->beta2);
    kin_train_get_number(r, root, "adam_epsilon", 0, 1, &o->epsilon);
    kin_train_get_number(r, root, "weight_decay", 0, 100, &o->weight_decay);
    kin_train_get_number(r, root, "max_grad_norm", 0, 1e30, &o->max_grad_norm);
    kin_train_get_number(r, root, "ema_decay", 0, 0.99999999, &o->ema_decay);
    kin_train_get_int(r, root, "log_every", 1, INT64_C(1) << 40, &config->log_every);
    kin_train_get_int(r, root, "checkpoint_every", 1, INT64_C(1) << 40, &config->checkpoint_every);
    kin_train_get_int(r, root, "keep_checkpoints", 1, 1000, &config->keep_checkpoints);
    if (kin_train_get_choice(r, root, "precision", "f32", "bf16"))
        config->precision.compute = KIN_BF16;
    kin_train_get_bytes(r, root, "memory", &config->memory);
    read_recompute(r, root, &config->recompute);
}

static void read_vae_task(kin_train_reader *r, kin_train_config *config) {
    json_t *vae = kin_train_get_object(r, config->root, "vae");
    json_t *loss = kin_train_get_object(r, config->root, "loss");
    kin_train_check_keys(r, loss, loss_keys, KIN_COUNT(loss_keys));
    config->vae = kin_sd_vae_config_default();
    config->loss = (kin_sd_vae_loss_options){.l1 = 1, .l2 = 0, .kl = 1e-6};
    kin_train_get_number(r, loss, "l1", 0, 1e6, &config->loss.l1);
    kin_train_get_number(r, loss, "l2", 0, 1e6, &config->loss.l2);
    kin_train_get_number(r, loss, "kl", 0, 1e6, &config->loss.kl);
    if (r->status == KIN_OK && vae)
        r->status =
            kin_sd_vae_config_parse(r->context, vae, r->file, KIN_UNKNOWN_KEYS_FAIL, &config->vae);
    int factor = r->status == KIN_OK ? kin_sd_vae_factor(&config->vae) : 1;
    if (config->data.height % factor || config->data.width % factor)
        kin_train_refuse(r, "height and width must be multiples of %d for this vae", factor);
    if (config->order.buckets || config->order.images || config->order.lengths)
        kin_train_refuse(r, "buckets, images and variable_length are for text-to-video");
}

/* Reads config->root, which has no stages (any more). */
static kin_status read_one(kin_context *context, const char *file, kin_train_config *config) {
    kin_train_reader r = {context, file, KIN_OK};
    kin_train_check_keys(&r, config->root, top_keys, KIN_COUNT(top_keys));
    kin_train_need(&r, config->root, "task");
    kin_train_need(&r, config->root, "output");
    bool video = kin_train_get_choice(&r, config->root, "task", "vae", "text-to-video");
    config->task = video ? KIN_TRAIN_VIDEO : KIN_TRAIN_VAE;
    kin_train_get_text(&r, config->root, "output", &config->output);
    read_data(&r, config);
    read_optimisation(&r, config);
    if (video) kin_train_read_video(&r, config);
    else read_vae_task(&r, config);
    return r.status;
}

/* `changes` over `base`: objects within objects are merged, other values take their place. */
static void merge(json_t *base, const json_t *changes) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)changes, key, value) {
        json_t *old = json_object_get(base, key);
        if (json_is_object(old) && json_is_object(value)) merge(old, value);
        else json_object_set_new(base, key, json_deep_copy(value));
    }
}

/* The next stage takes up what the one before leaves: the weights of its last checkpoint, and its
 * text encoder. */
static void follow(json_t *root, const kin_train_config *before, const json_t *changes) {
    char path[4096];
    if (!json_object_get(changes, "init_path"))
        json_object_set_new(root, "init_path", json_string(before->output));
    json_object_set_new(root, "from_scratch", json_false());
    if (json_object_get(changes, "text_encoder_path")) return;
    if (!before->train_text_encoder) {
        if (before->text_encoder_path)
            json_object_set_new(root, "text_encoder_path", json_string(before->text_encoder_path));
        return;
    }
    snprintf(path, sizeof path, "%s/model/text_encoder", before->output);
    json_object_set_new(root, "text_encoder_path", json_string(path));
    snprintf(path, sizeof path, "%s/model/tokenizer/spiece.model", before->output);
    json_object_set_new(root, "tokenizer", json_pack("{s:s}", "path", path));
    json_object_del(root, "text_encoder");
}

/* Stage number `index` as a configuration of its own; its root is fresh. */
static kin_status make_stage(kin_context *context, const char *file, const json_t *base,
                             const json_t *changes, const kin_train_config *before, int index,
                             kin_train_config *out_stage) {
    char where[1024];
    snprintf(where, sizeof where, "%s: stage %d", file, index + 1);
    const char *output = json_string_value(json_object_get(base, "output"));
    const char *name = json_string_value(json_object_get(changes, "name"));
    if (!json_is_object(changes)) return kin_fail(context, KIN_INVALID, "%s is no object", where);
    if (!output) return kin_json_require(context, base, file, "output");
    if (json_object_get(changes, "output") || json_object_get(changes, "stages"))
        return kin_fail(context, KIN_INVALID,
                        "%s: \"output\" and \"stages\" belong to the whole run; a stage has a "
                        "\"name\"",
                        where);
    if (name && (!*name || strchr(name, '/') || *name == '.'))
        return kin_fail(context, KIN_INVALID, "%s: \"%s\" is no name for a folder", where, name);
    out_stage->root = json_deep_copy(base);
    if (!out_stage->root) return kin_fail(context, KIN_OUT_OF_MEMORY, "no memory for %s", where);
    json_object_del(out_stage->root, "stages");
    merge(out_stage->root, changes);
    char *folder = name ? kin_path_join(context, output, name)
                        : kin_format(context, "%s/stage-%d", output, index + 1);
    if (!folder) return KIN_OUT_OF_MEMORY;
    json_object_set_new(out_stage->root, "output", json_string(folder));
    kin_free(context, folder);
    if (before) follow(out_stage->root, before, changes);
    return read_one(context, where, out_stage);
}

static kin_status read_stages(kin_context *context, const char *file, kin_train_config *config) {
    json_t *list = NULL;
    kin_status status =
        kin_json_get_child(context, config->root, file, "stages", JSON_ARRAY, &list);
    size_t count = json_array_size(list);
    if (status == KIN_OK && (count < 1 || count > KIN_TRAIN_MAX_STAGES))
        status = kin_fail(context, KIN_INVALID, "%s: stages must be 1 to %d objects", file,
                          KIN_TRAIN_MAX_STAGES);
    if (status != KIN_OK) return status;
    config->stages = kin_calloc(context, count, sizeof *config->stages);
    if (!config->stages) return KIN_OUT_OF_MEMORY;
    config->context = context;
    for (size_t i = 0; status == KIN_OK && i < count; i++) {
        config->stage_count = (int)i + 1;
        status = make_stage(context, file, config->root, json_array_get(list, i),
                            i > 0 ? &config->stages[i - 1] : NULL, (int)i, &config->stages[i]);
        if (status == KIN_OK && config->stages[i].task != KIN_TRAIN_VIDEO && i > 0)
            status = kin_fail(context, KIN_INVALID,
                              "%s: stage %zu: stages are for text-to-video: an autoencoder starts "
                              "from nothing",
                              file, i + 1);
    }
    config->output = json_string_value(json_object_get(config->root, "output"));
    return status;
}

kin_status kin_train_config_load(kin_context *context, const char *path, const char *const *sets,
                                 int set_count, kin_train_config *out_config) {
    memset(out_config, 0, sizeof *out_config);
    kin_train_config *config = out_config;
    kin_status status = kin_json_load(context, path, &config->root);
    for (int i = 0; status == KIN_OK && i < set_count; i++)
        status = kin_json_set(context, config->root, sets[i]);
    if (status == KIN_OK)
        status = kin_json_check_keys(context, config->root, path, top_keys, KIN_COUNT(top_keys));
    if (status == KIN_OK) {
        const json_t *stages = json_object_get(config->root, "stages");
        if (stages && !json_is_null(stages)) status = read_stages(context, path, config);
        else if (json_object_get(config->root, "name"))
            status =
                kin_fail(context, KIN_INVALID,
                         "%s: \"name\" is a key of stages; a run's folder is its \"output\"", path);
        else status = read_one(context, path, config);
    }
    if (status != KIN_OK) kin_train_config_free(config);
    return status;
}

void kin_train_config_free(kin_train_config *config) {
    for (int i = 0; i < config->stage_count; i++) kin_train_config_free(&config->stages[i]);
    if (config->stages) kin_free(config->context, config->stages);
    json_decref(config->root);
    config->root = NULL;
    config->stages = NULL;
    config->stage_count = 0;
}
