/* Reading training configurations. */
#include "tools/train.h"

#include "runtime/file.h"
#include "runtime/json.h"
#include "tools/tool.h"

#include <string.h>

static const char *const top_keys[] = {
    "task",
    "output",
    "data",
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
    "vae_path",
    "init_path",
    "denoiser",
    "text_encoder",
    "train_text_encoder",
    "text_encoder_path",
    "tokenizer",
    "caption_dropout",
    "timesteps",
    "validate_every",
    "validation",
    "from_scratch",
    "posterior",
};
static const char *const data_keys[] = {"csv",   "num_frames", "frame_interval", "height",
                                        "width", "resize",     "memory_cache",   "frames_per_clip"};
static const char *const loss_keys[] = {"l1", "l2", "kl"};
static const char *const tokenizer_keys[] = {"path", "vocab_size"};
static const char *const timestep_keys[] = {"stratified", "shift", "weight_power", "weight_cap"};
static const char *const validation_keys[] = {"prompts", "steps", "cfg_scale", "sampling_method"};

/* One reading in progress: the first failure sticks. */
typedef struct reader {
    kin_context *context;
    const char *file;
    kin_status status;
} reader;

#define COUNT(array) (sizeof(array) / sizeof *(array))

static void check_keys(reader *r, const json_t *object, const char *const *known, size_t count) {
    if (r->status == KIN_OK && object)
        r->status = kin_json_check_keys(r->context, object, r->file, known, count);
}

static void get_int(reader *r, const json_t *object, const char *key, int64_t low, int64_t high,
                    int64_t *value) {
    if (r->status == KIN_OK && object)
        r->status =
            kin_json_get_int_between(r->context, object, r->file, key, low, high, *value, value);
}

static void get_number(reader *r, const json_t *object, const char *key, double low, double high,
                       double *value) {
    if (r->status != KIN_OK || !object) return;
    r->status = kin_json_get_double(r->context, object, r->file, key, *value, value);
    if (r->status == KIN_OK && !(*value >= low && *value <= high))
        r->status = kin_fail(r->context, KIN_INVALID, "%s: %s must lie within %g and %g, not %g",
                             r->file, key, low, high, *value);
}

static void get_bool(reader *r, const json_t *object, const char *key, bool *value) {
    if (r->status == KIN_OK && object)
        r->status = kin_json_get_bool(r->context, object, r->file, key, *value, value);
}

static void get_text(reader *r, const json_t *object, const char *key, const char **value) {
    if (r->status == KIN_OK && object)
        r->status = kin_json_get_string(r->context, object, r->file, key, *value, value);
}

static json_t *get_object(reader *r, const json_t *object, const char *key) {
    json_t *child = NULL;
    if (r->status == KIN_OK && object)
        r->status = kin_json_get_child(r->context, object, r->file, key, JSON_OBJECT, &child);
    return child;
}

/* One of two words. */
static bool get_choice(reader *r, const json_t *object, const char *key, const char *first,
                       const char *second) {
    const char *value = first;
    get_text(r, object, key, &value);
    if (r->status == KIN_OK && strcmp(value, first) != 0 && strcmp(value, second) != 0)
        r->status = kin_fail(r->context, KIN_INVALID, "%s: %s must be \"%s\" or \"%s\", not \"%s\"",
                             r->file, key, first, second, value);
    return r->status == KIN_OK && strcmp(value, second) == 0;
}

static void get_bytes(reader *r, const json_t *object, const char *key, uint64_t *value) {
    const char *text = NULL;
    get_text(r, object, key, &text);
    if (r->status == KIN_OK && text && !kin_parse_bytes(text, value))
        r->status = kin_fail(r->context, KIN_INVALID,
                             "%s: %s must be a size such as \"8G\" or \"512M\", not \"%s\"",
                             r->file, key, text);
}

static void need(reader *r, const json_t *object, const char *key) {
    if (r->status == KIN_OK) r->status = kin_json_require(r->context, object, r->file, key);
}

static void read_data(reader *r, kin_train_config *config) {
    need(r, config->root, "data");
    json_t *data = get_object(r, config->root, "data");
    check_keys(r, data, data_keys, COUNT(data_keys));
    need(r, data, "csv");
    int64_t height = 32, width = 32;
    config->data.frames = 16;
    config->data.interval = 1;
    config->data.memory = 1ull << 30;
    get_text(r, data, "csv", &config->data.csv);
    get_int(r, data, "num_frames", 1, 4096, &config->data.frames);
    get_int(r, data, "frame_interval", 1, 1000, &config->data.interval);
    get_int(r, data, "height", 8, 8192, &height);
    get_int(r, data, "width", 8, 8192, &width);
    config->data.height = (int)height;
    config->data.width = (int)width;
    config->data.resize = get_choice(r, data, "resize", "center", "resize_crop")
                              ? KIN_VIDEO_RESIZE_CROP
                              : KIN_VIDEO_CENTER;
    get_bytes(r, data, "memory_cache", &config->data.memory);
    config->frames_per_clip = 1;
    get_int(r, data, "frames_per_clip", 1, config->data.frames, &config->frames_per_clip);
}

static void read_optimisation(reader *r, kin_train_config *config) {
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
    *o = (kin_optimizer_options){0.9, 0.999, 1e-8, 0, 1.0, 0.9999};
    get_int(r, root, "steps", 1, INT64_C(1) << 40, &config->steps);
    get_int(r, root, "batch_size", 1, 65536, &config->batch_size);
    get_int(r, root, "accumulate_steps", 1, 65536, &config->accumulate_steps);
    get_int(r, root, "warmup_steps", 0, INT64_C(1) << 40, &config->warmup_steps);
    get_int(r, root, "seed", 0, INT64_MAX, &config->seed);
    get_number(r, root, "learning_rate", 0, 100, &config->learning_rate);
    get_number(r, root, "min_learning_rate", 0, 100, &config->min_learning_rate);
    config->cosine = get_choice(r, root, "lr_schedule", "constant", "cosine");
    get_number(r, root, "adam_beta1", 0, 0.99999999, &o->beta1);
    get_number(r, root, "adam_beta2", 0, 0.99999999, &o->beta2);
    get_number(r, root, "adam_epsilon", 0, 1, &o->epsilon);
    get_number(r, root, "weight_decay", 0, 100, &o->weight_decay);
    get_number(r, root, "max_grad_norm", 0, 1e30, &o->max_grad_norm);
    get_number(r, root, "ema_decay", 0, 0.99999999, &o->ema_decay);
    get_int(r, root, "log_every", 1, INT64_C(1) << 40, &config->log_every);
    get_int(r, root, "checkpoint_every", 1, INT64_C(1) << 40, &config->checkpoint_every);
    get_int(r, root, "keep_checkpoints", 1, 1000, &config->keep_checkpoints);
    if (get_choice(r, root, "precision", "f32", "bf16")) config->precision.compute = KIN_BF16;
    get_bytes(r, root, "memory", &config->memory);
    get_bool(r, root, "recompute", &config->recompute);
}

static void read_vae_task(reader *r, kin_train_config *config) {
    json_t *vae = get_object(r, config->root, "vae"), *loss = get_object(r, config->root, "loss");
    check_keys(r, loss, loss_keys, COUNT(loss_keys));
    config->vae = kin_sd_vae_config_default();
    config->loss = (kin_sd_vae_loss_options){.l1 = 1, .l2 = 0, .kl = 1e-6};
    get_number(r, loss, "l1", 0, 1e6, &config->loss.l1);
    get_number(r, loss, "l2", 0, 1e6, &config->loss.l2);
    get_number(r, loss, "kl", 0, 1e6, &config->loss.kl);
    if (r->status == KIN_OK && vae)
        r->status =
            kin_sd_vae_config_parse(r->context, vae, r->file, KIN_UNKNOWN_KEYS_FAIL, &config->vae);
    int factor = r->status == KIN_OK ? kin_sd_vae_factor(&config->vae) : 1;
    if (r->status == KIN_OK && (config->data.height % factor || config->data.width % factor))
        r->status =
            kin_fail(r->context, KIN_INVALID,
                     "%s: height and width must be multiples of %d for this vae", r->file, factor);
}

static void read_validation(reader *r, kin_train_config *config) {
    json_t *validation = get_object(r, config->root, "validation"), *prompts = NULL;
    check_keys(r, validation, validation_keys, COUNT(validation_keys));
    config->validation_steps = 30;
    config->validation_cfg_scale = 4;
    get_int(r, config->root, "validate_every", 0, INT64_C(1) << 40, &config->validate_every);
    get_int(r, validation, "steps", 1, 1000, &config->validation_steps);
    get_number(r, validation, "cfg_scale", 0, 100, &config->validation_cfg_scale);
    config->validation_method = get_choice(r, validation, "sampling_method", "iddpm", "ddim")
                                    ? KIN_SAMPLER_DDIM
                                    : KIN_SAMPLER_IDDPM;
    if (r->status == KIN_OK && validation)
        r->status =
            kin_json_get_child(r->context, validation, r->file, "prompts", JSON_ARRAY, &prompts);
    for (size_t i = 0; r->status == KIN_OK && prompts && i < json_array_size(prompts); i++) {
        const char *prompt = json_string_value(json_array_get(prompts, i));
        if (!prompt || i >= KIN_TRAIN_MAX_PROMPTS)
            r->status = kin_fail(r->context, KIN_INVALID,
                                 "%s: validation.prompts must be at most %d strings", r->file,
                                 KIN_TRAIN_MAX_PROMPTS);
        else config->validation_prompts[config->validation_prompt_count++] = prompt;
    }
}

/* init_path names a model folder: the text encoder is its own. */
static void use_init_text_encoder(reader *r, kin_train_config *config) {
    if (r->status != KIN_OK) return;
    char *path = kin_path_join(r->context, config->init_path, "text_encoder");
    if (!path) {
        r->status = KIN_OUT_OF_MEMORY;
    } else if (kin_file_is_folder(path)) {
        json_object_set_new(config->root, "text_encoder_path", json_string(path));
        get_text(r, config->root, "text_encoder_path", &config->text_encoder_path);
    }
    kin_free(r->context, path);
}

static void read_video_task(reader *r, kin_train_config *config) {
    json_t *root = config->root;
    json_t *denoiser = get_object(r, root, "denoiser"), *text = get_object(r, root, "text_encoder");
    json_t *tokenizer = get_object(r, root, "tokenizer"),
           *timesteps = get_object(r, root, "timesteps");
    check_keys(r, tokenizer, tokenizer_keys, COUNT(tokenizer_keys));
    check_keys(r, timesteps, timestep_keys, COUNT(timestep_keys));
    need(r, root, "vae_path");
    get_text(r, root, "vae_path", &config->vae_path);
    get_text(r, root, "init_path", &config->init_path);
    get_text(r, root, "text_encoder_path", &config->text_encoder_path);
    get_bool(r, root, "train_text_encoder", &config->train_text_encoder);
    get_bool(r, root, "from_scratch", &config->from_scratch);
    config->posterior_mean = get_choice(r, root, "posterior", "sample", "mean");
    config->denoiser = kin_stdit_config_default();
    if (r->status == KIN_OK && denoiser)
        r->status = kin_stdit_config_parse(r->context, denoiser, r->file, KIN_UNKNOWN_KEYS_FAIL,
                                           &config->denoiser);
    config->caption_dropout = config->denoiser.class_dropout_prob;
    get_number(r, root, "caption_dropout", 0, 1, &config->caption_dropout);
    if (r->status == KIN_OK && text)
        r->status = kin_t5_config_parse(r->context, text, r->file, KIN_UNKNOWN_KEYS_FAIL,
                                        &config->text_encoder);
    if (!text && !config->text_encoder_path && config->init_path) use_init_text_encoder(r, config);
    if (r->status == KIN_OK && !text && !config->text_encoder_path)
        r->status = kin_fail(r->context, KIN_INVALID,
                             "%s: text_encoder (a configuration), text_encoder_path, or the model "
                             "folder of one as init_path, must be given",
                             r->file);
    get_text(r, tokenizer, "path", &config->tokenizer_path);
    config->tokenizer_vocabulary = 256;
    get_int(r, tokenizer, "vocab_size", 8, 1000000, &config->tokenizer_vocabulary);
    config->timesteps.weight_cap = 10;
    get_bool(r, timesteps, "stratified", &config->timesteps.stratified);
    config->timesteps.shift = 1;
    get_number(r, timesteps, "shift", 0.01, 100, &config->timesteps.shift);
    get_number(r, timesteps, "weight_power", 0, 4, &config->timesteps.weight_power);
    get_number(r, timesteps, "weight_cap", 1, 1e6, &config->timesteps.weight_cap);
    read_validation(r, config);
}

kin_status kin_train_config_load(kin_context *context, const char *path, const char *const *sets,
                                 int set_count, kin_train_config *out_config) {
    memset(out_config, 0, sizeof *out_config);
    kin_train_config *config = out_config;
    reader r = {context, path, KIN_OK};
    r.status = kin_json_load(context, path, &config->root);
    for (int i = 0; r.status == KIN_OK && i < set_count; i++)
        r.status = kin_json_set(context, config->root, sets[i]);
    check_keys(&r, config->root, top_keys, COUNT(top_keys));
    if (r.status == KIN_OK) {
        need(&r, config->root, "task");
        need(&r, config->root, "output");
        bool video = get_choice(&r, config->root, "task", "vae", "text-to-video");
        config->task = video ? KIN_TRAIN_VIDEO : KIN_TRAIN_VAE;
        get_text(&r, config->root, "output", &config->output);
        read_data(&r, config);
        read_optimisation(&r, config);
        if (video) read_video_task(&r, config);
        else read_vae_task(&r, config);
    }
    if (r.status != KIN_OK) kin_train_config_free(config);
    return r.status;
}

void kin_train_config_free(kin_train_config *config) {
    json_decref(config->root);
    config->root = NULL;
}
