/* Reading training configurations: the keys of text-to-video. */
#include "tools/train/train_config.h"

#include "runtime/file.h"
#include "runtime/json.h"

#include <math.h>
#include <string.h>

static const char *const tokenizer_keys[] = {"path", "vocab_size"};
static const char *const timestep_keys[] = {"stratified", "shift", "weight_power", "weight_cap",
                                            "speed"};
static const char *const diffusion_keys[] = {"objective", "noise_offset", "snr_gamma",
                                             "prediction_type"};
static const char *const validation_keys[] = {"prompts", "steps",  "cfg_scale", "sampling_method",
                                              "frames",  "height", "width",     "fps"};

void kin_train_read_order(kin_train_reader *r, kin_train_config *config, const json_t *data) {
    kin_train_order_options *o = &config->order;
    kin_dataset_options *d = &config->data;
    json_t *buckets = kin_train_get_object(r, data, "buckets");
    o->buckets = buckets;
    o->where = "data.buckets";
    o->frame_multiple = 1;
    kin_train_get_bool(r, data, "fill_buckets", &o->fill_buckets);
    kin_train_get_int(r, data, "images", 0, 64, &o->images);
    kin_train_get_bool(r, data, "variable_length", &o->lengths);
    kin_train_get_bool(r, data, "group_frame", &o->group_frame);
    kin_train_get_int(r, data, "frame_multiple", 1, 64, &o->frame_multiple);
    o->drop_short = 1;
    kin_train_get_number(r, data, "drop_short_ratio", 0, 1, &o->drop_short);
    if (o->group_frame) o->lengths = true;
    d->any_length = o->buckets || o->images > 0 || o->lengths;
    if (o->buckets && (o->images || o->lengths))
        kin_train_refuse(r, "data.buckets already mixes pictures and lengths: leave out images, "
                            "variable_length and group_frame");
}

static void read_validation(kin_train_reader *r, kin_train_config *config) {
    json_t *validation = kin_train_get_object(r, config->root, "validation"), *prompts = NULL;
    kin_validation_options *v = &config->validation;
    kin_train_check_keys(r, validation, validation_keys, KIN_COUNT(validation_keys));
    *v = (kin_validation_options){.cfg_scale = -1};
    if (!config->order.buckets) { /* which have many sizes */
        v->frames = config->data.frames;
        v->height = config->data.height;
        v->width = config->data.width;
    }
    kin_train_get_int(r, config->root, "validate_every", 0, INT64_C(1) << 40, &v->every);
    kin_train_get_int(r, validation, "steps", 1, 1000, &v->steps);
    kin_train_get_number(r, validation, "cfg_scale", 0, 100, &v->cfg_scale);
    kin_train_get_text(r, validation, "sampling_method", &v->method);
    kin_train_get_int(r, validation, "frames", 1, 4096, &v->frames);
    kin_train_get_int(r, validation, "height", 8, 8192, &v->height);
    kin_train_get_int(r, validation, "width", 8, 8192, &v->width);
    kin_train_get_number(r, validation, "fps", 0, 1000, &v->fps);
    if (r->status == KIN_OK && validation)
        r->status =
            kin_json_get_child(r->context, validation, r->file, "prompts", JSON_ARRAY, &prompts);
    for (size_t i = 0; r->status == KIN_OK && prompts && i < json_array_size(prompts); i++) {
        const char *prompt = json_string_value(json_array_get(prompts, i));
        if (!prompt || i >= KIN_TRAIN_MAX_PROMPTS)
            kin_train_refuse(r, "validation.prompts must be at most %d strings",
                             KIN_TRAIN_MAX_PROMPTS);
        else v->prompts[v->prompt_count++] = prompt;
    }
}

/* init_path names a model folder: the text encoder is its own. */
static void use_init_text_encoder(kin_train_reader *r, kin_train_config *config) {
    if (r->status != KIN_OK) return;
    char *path = kin_path_join(r->context, config->init_path, "text_encoder");
    if (!path) {
        r->status = KIN_OUT_OF_MEMORY;
    } else if (kin_file_is_folder(path)) {
        json_object_set_new(config->root, "text_encoder_path", json_string(path));
        kin_train_get_text(r, config->root, "text_encoder_path", &config->text_encoder_path);
    }
    kin_free(r->context, path);
}

/* "denoiser": a configuration, or the name of a published size. "model": the same, or a path. */
static void read_denoiser(kin_train_reader *r, kin_train_config *config) {
    const json_t *model = json_object_get(config->root, "model");
    const json_t *denoiser = json_object_get(config->root, "denoiser");
    const char *key = "denoiser";
    if (r->status != KIN_OK) return;
    if (json_is_null(model)) model = NULL;
    if (json_is_null(denoiser)) denoiser = NULL;
    if (json_is_string(model)) {
        config->model_path = json_string_value(model);
    } else if (model) {
        if (denoiser) kin_train_refuse(r, "\"model\" and \"denoiser\" both configure it");
        denoiser = model;
        key = "model";
    }
    config->has_denoiser = denoiser || !config->model_path;
    if (!denoiser) {
        config->denoiser.kind = KIN_DENOISER_STDIT;
        config->denoiser.stdit = kin_stdit_config_default();
    } else if (json_is_object(denoiser)) {
        r->status = kin_denoiser_config_parse(r->context, denoiser, r->file, KIN_UNKNOWN_KEYS_FAIL,
                                              &config->denoiser);
    } else if (json_is_string(denoiser)) {
        const char *names[64], *wanted = json_string_value(denoiser);
        int count = kin_denoiser_named_count();
        bool found = false;
        for (int i = 0; i < count && i < 64 && !found; i++) {
            kin_denoiser_config c;
            kin_denoiser_named_at(r->context, i, &names[i], &c);
            found = strcmp(names[i], wanted) == 0;
            if (found) config->denoiser = c;
        }
        const char *nearest = found ? NULL : kin_nearest_name(wanted, names, (size_t)count);
        if (!found)
            kin_train_refuse(r, "%s: there is no size \"%s\"; did you mean \"%s\"?", key, wanted,
                             nearest ? nearest : names[0]);
    } else {
        kin_train_refuse(r, "%s must be a configuration or the name of a size", key);
    }
}

static void read_diffusion(kin_train_reader *r, kin_train_config *config) {
    static const char *const objectives[] = {"as_published", "iddpm", "open-sora-plan"};
    static const char *const targets[] = {"epsilon", "v_prediction", "sample"};
    json_t *diffusion = kin_train_get_object(r, config->root, "diffusion");
    kin_train_check_keys(r, diffusion, diffusion_keys, KIN_COUNT(diffusion_keys));
    config->objective = (kin_train_objective)kin_train_get_word(
        r, diffusion, "objective", objectives, KIN_COUNT(objectives), KIN_OBJECTIVE_AUTO);
    config->noise_offset = config->snr_gamma = -1;
    kin_train_get_number(r, diffusion, "noise_offset", 0, 10, &config->noise_offset);
    kin_train_get_number(r, diffusion, "snr_gamma", 0, 1e6, &config->snr_gamma);
    config->target = (kin_plan_target)kin_train_get_word(
        r, diffusion, "prediction_type", targets, KIN_COUNT(targets), KIN_PLAN_TARGET_EPSILON);

    json_t *timesteps = kin_train_get_object(r, config->root, "timesteps");
    kin_train_check_keys(r, timesteps, timestep_keys, KIN_COUNT(timestep_keys));
    config->timesteps.weight_cap = 10;
    kin_train_get_bool(r, timesteps, "stratified", &config->timesteps.stratified);
    config->timesteps.shift = 1;
    kin_train_get_number(r, timesteps, "shift", 0.01, 100, &config->timesteps.shift);
    kin_train_get_number(r, timesteps, "weight_power", 0, 4, &config->timesteps.weight_power);
    kin_train_get_number(r, timesteps, "weight_cap", 1, 1e6, &config->timesteps.weight_cap);
    kin_train_get_bool(r, timesteps, "speed", &config->timesteps.speed);
    if (config->timesteps.speed && (config->timesteps.stratified || config->timesteps.shift != 1 ||
                                    config->timesteps.weight_power > 0))
        kin_train_refuse(r, "timesteps.speed has a draw and weights of its own: leave out "
                            "stratified, shift and weight_power");
}

/* Open-Sora 1.1's mask_ratios; mask_no is the rest. */
static void read_masks(kin_train_reader *r, kin_train_config *config) {
    json_t *masks = kin_train_get_object(r, config->root, "frame_masks");
    double sum = 0;
    kin_train_check_keys(r, masks, kin_frame_mask_names, KIN_MASK_KINDS);
    for (int i = 0; masks && i < KIN_MASK_KINDS; i++) {
        kin_train_get_number(r, masks, kin_frame_mask_names[i], 0, 1, &config->mask_ratios[i]);
        sum += config->mask_ratios[i];
    }
    if (!masks || r->status != KIN_OK) return;
    if (!json_object_get(masks, kin_frame_mask_names[KIN_MASK_NO])) {
        config->mask_ratios[KIN_MASK_NO] = 1 - sum;
        sum = sum > 1 ? sum : 1;
    }
    if (fabs(sum - 1) > 1e-6) kin_train_refuse(r, "frame_masks add up to %g, not to 1", sum);
    config->frame_masks = true;
}

static void read_text(kin_train_reader *r, kin_train_config *config) {
    static const char *const dtypes[] = {"f32", "f16", "bf16", "q8_0"};
    json_t *root = config->root, *text = kin_train_get_object(r, root, "text_encoder");
    json_t *tokenizer = kin_train_get_object(r, root, "tokenizer");
    kin_train_check_keys(r, tokenizer, tokenizer_keys, KIN_COUNT(tokenizer_keys));
    kin_train_get_text(r, root, "text_encoder_path", &config->text_encoder_path);
    kin_train_get_bool(r, root, "train_text_encoder", &config->train_text_encoder);
    config->text_dtype = (kin_dtype[]){
        KIN_F32, KIN_F16, KIN_BF16,
        KIN_Q8_0}[kin_train_get_word(r, root, "text_encoder_dtype", dtypes, KIN_COUNT(dtypes), 0)];
    if (config->train_text_encoder && config->text_dtype != KIN_F32)
        kin_train_refuse(r, "a text encoder that is trained is kept in f32: leave out "
                            "text_encoder_dtype");
    config->features_each_batch =
        kin_train_get_choice(r, root, "text_features", "cached", "each_batch");
    if (r->status == KIN_OK && text)
        r->status = kin_t5_config_parse(r->context, text, r->file, KIN_UNKNOWN_KEYS_FAIL,
                                        &config->text_encoder);
    if (!text && !config->text_encoder_path && config->init_path) use_init_text_encoder(r, config);
    if (r->status == KIN_OK && !text && !config->text_encoder_path && !config->model_path)
        r->status = kin_fail(r->context, KIN_INVALID,
                             "%s: text_encoder (a configuration), text_encoder_path, model, or the "
                             "model folder of one as init_path, must be given",
                             r->file);
    kin_train_get_text(r, tokenizer, "path", &config->tokenizer_path);
    config->tokenizer_vocabulary = 256;
    kin_train_get_int(r, tokenizer, "vocab_size", 8, 1000000, &config->tokenizer_vocabulary);
    kin_train_get_bool(r, root, "clean_captions", &config->clean_captions);
    bool attend = false;
    config->attend_padding = -1;
    if (json_is_boolean(json_object_get(root, "attend_padding"))) {
        kin_train_get_bool(r, root, "attend_padding", &attend);
        config->attend_padding = attend;
    } else {
        kin_train_get_bool(r, root, "attend_padding", &attend); /* null, or the wrong type */
    }
}

void kin_train_read_video(kin_train_reader *r, kin_train_config *config) {
    json_t *root = config->root;
    read_denoiser(r, config);
    if (!config->model_path) kin_train_need(r, root, "vae_path");
    kin_train_get_text(r, root, "vae_path", &config->vae_path);
    kin_train_get_text(r, root, "init_path", &config->init_path);
    kin_train_get_bool(r, root, "from_scratch", &config->from_scratch);
    config->posterior_mean = kin_train_get_choice(r, root, "posterior", "sample", "mean");
    config->caption_dropout = -1;
    kin_train_get_number(r, root, "caption_dropout", 0, 1, &config->caption_dropout);
    read_text(r, config);
    read_diffusion(r, config);
    read_masks(r, config);
    read_validation(r, config);
}
