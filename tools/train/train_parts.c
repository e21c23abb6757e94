/* The parts that a text-to-video training begins with. */
#include "tools/train/train_video.h"

#include "runtime/checkpoint.h"
#include "runtime/file.h"
#include "runtime/json.h"
#include "tools/generate/caption_clean.h"
#include "tools/system/system_internal.h"

#include <string.h>

void kin_train_parts_close(kin_train_parts *parts) {
    kin_part_free(parts->context, &parts->start);
    kin_part_free(parts->context, &parts->vae_files);
    kin_part_free(parts->context, &parts->text_files);
    kin_free(parts->context, parts->tokenizer);
    memset(parts, 0, sizeof *parts);
}

/* The configuration of a part from its file, or from its tensors. */
static kin_status read_part(kin_train_parts *p, kin_part_kind kind, const kin_part *part) {
    if (part->config) {
        json_t *json = NULL;
        kin_status status = kin_json_load(p->context, part->config, &json);
        if (status == KIN_OK && kind == KIN_PART_VAE)
            status = kin_vae_config_parse(p->context, json, part->config, KIN_UNKNOWN_KEYS_WARN,
                                          &p->vae);
        else if (status == KIN_OK)
            status = kin_t5_config_parse(p->context, json, part->config, KIN_UNKNOWN_KEYS_WARN,
                                         &p->text);
        json_decref(json);
        return status;
    }
    kin_checkpoint *file = NULL;
    kin_status status = kin_checkpoint_open(p->context, part->path, part->entry, &file);
    if (status == KIN_OK && kind == KIN_PART_VAE)
        status = kin_guess_vae(p->context, file, part->path, &p->vae);
    else if (status == KIN_OK) status = kin_guess_t5(p->context, file, part->path, &p->text);
    kin_checkpoint_close(file);
    return status;
}

static kin_status open_part(kin_train_parts *p, kin_part_kind kind, const char *path,
                            kin_part *out_part) {
    kin_status status = kin_part_find(p->context, kind, path, out_part);
    return status == KIN_OK ? read_part(p, kind, out_part) : status;
}

static void move_part(kin_part *from, kin_part *to) {
    *to = *from;
    *from = (kin_part){NULL, NULL, NULL};
}

/* All that `model` has and the configuration does not name itself. */
static kin_status open_model(kin_train_parts *p, const kin_train_config *config) {
    const kin_system_overrides overrides = {.vae = config->vae_path,
                                            .text_encoder = config->text_encoder_path,
                                            .tokenizer = config->tokenizer_path};
    kin_system system;
    kin_status status = kin_system_open(p->context, config->model_path, &overrides, &system);
    if (status != KIN_OK) return status;
    bool own_text = config->text_encoder.d_model > 0;
    status = kin_system_need(&system, KIN_PART_VAE);
    if (status == KIN_OK && !own_text) status = kin_system_need(&system, KIN_PART_TEXT_ENCODER);
    if (status == KIN_OK) {
        if (!config->has_denoiser) p->denoiser = system.denoiser;
        if (!config->init_path) move_part(&system.parts[KIN_PART_DENOISER], &p->start);
        p->vae = system.vae;
        p->defaults = system.defaults;
        move_part(&system.parts[KIN_PART_VAE], &p->vae_files);
        if (!own_text) {
            p->text = system.text_encoder;
            move_part(&system.parts[KIN_PART_TEXT_ENCODER], &p->text_files);
            p->tokenizer = system.parts[KIN_PART_TOKENIZER].path;
            system.parts[KIN_PART_TOKENIZER].path = NULL;
        }
    }
    kin_system_close(&system);
    return status;
}

/* How samples of it are made: as the given system recommends, or, for a model of one's own, with
 * guidance of all channels; and what the configuration says. */
static void recommend(kin_train_parts *p, const kin_train_config *config) {
    static const kin_system_kind kinds[] = {[KIN_DENOISER_STDIT] = KIN_SYSTEM_OPEN_SORA_1_0,
                                            [KIN_DENOISER_STDIT2] = KIN_SYSTEM_OPEN_SORA_1_1,
                                            [KIN_DENOISER_LATTE] = KIN_SYSTEM_LATTE,
                                            [KIN_DENOISER_PIXART] = KIN_SYSTEM_PIXART,
                                            [KIN_DENOISER_OPENSORA_PLAN] =
                                                KIN_SYSTEM_OPEN_SORA_PLAN};
    const kin_validation_options *v = &config->validation;
    kin_system_defaults *d = &p->defaults;
    if (!config->model_path || config->has_denoiser)
        *d = kin_system_defaults_of(kinds[p->denoiser.kind], &p->denoiser);
    if (!config->model_path) {
        d->steps = 30;
        d->cfg_scale = 4;
        d->cfg_channels = 0;
    }
    if (v->frames > 0) d->frames = v->frames;
    if (v->height > 0) d->height = v->height;
    if (v->width > 0) d->width = v->width;
    if (v->steps > 0) d->steps = v->steps;
    if (v->cfg_scale >= 0) d->cfg_scale = v->cfg_scale;
    if (v->fps > 0) d->fps = v->fps;
    if (p->denoiser.kind == KIN_DENOISER_STDIT2) d->frame_interval = config->data.interval;
    if (v->method && strcmp(v->method, "iddpm") == 0) d->iddpm = true, d->ddim = false;
    if (v->method && strcmp(v->method, "ddim") == 0) d->ddim = true;
}

/* A given text encoder needs the tokenizer that it was trained with, which lies beside it or in it.
 */
static kin_status find_tokenizer(kin_train_parts *p, const kin_train_config *config) {
    if (config->tokenizer_path) {
        kin_free(p->context, p->tokenizer);
        p->tokenizer = kin_strdup(p->context, config->tokenizer_path);
        return p->tokenizer ? KIN_OK : KIN_OUT_OF_MEMORY;
    }
    if (!p->text_files.path || p->tokenizer) return KIN_OK;
    kin_status status = kin_place_tokenizer(p->context, p->text_files.path, &p->tokenizer);
    if (status == KIN_OK && !p->tokenizer)
        status = kin_fail(p->context, KIN_NOT_FOUND,
                          "%s: no spiece.model beside it or in ../tokenizer: give its tokenizer's "
                          "file as tokenizer.path",
                          p->text_files.path);
    return status;
}

/* init_path: the folder of a run, whose newest checkpoint has the trained weights themselves, not
 * their averages; a model's folder, a denoiser's, or a file of weights in any layout. */
static kin_status find_start(kin_train_parts *p, const kin_train_config *config) {
    int64_t step;
    if (!config->init_path) return KIN_OK;
    if (kin_train_checkpoint_find(p->context, config->init_path, &p->start.path, &step) == KIN_OK) {
        p->start_is_run = true;
        return KIN_OK;
    }
    p->start = (kin_part){NULL, NULL, NULL};
    if (kin_part_find(p->context, KIN_PART_DENOISER, config->init_path, &p->start) == KIN_OK)
        return KIN_OK;
    kin_part_free(p->context, &p->start);
    p->start.path = kin_strdup(p->context, config->init_path); /* loading it tells what is wrong */
    return p->start.path ? KIN_OK : KIN_OUT_OF_MEMORY;
}

/* Sizes of the data that the denoiser's configuration has too. */
static void adopt_sizes(kin_train_parts *p, const kin_train_config *config) {
    int factor = kin_vae_shape_of(&p->vae).space_factor;
    int frames = (int)kin_vae_latent_frames(&p->vae, config->data.frames);
    kin_denoiser_config *d = &p->denoiser;
    if (d->kind == KIN_DENOISER_STDIT) {
        d->stdit.input_size[0] = frames;
        d->stdit.input_size[1] = config->data.height / factor;
        d->stdit.input_size[2] = config->data.width / factor;
    } else if (d->kind == KIN_DENOISER_LATTE) {
        d->pixart.video_length = frames;
    }
}

static kin_status check_parts(const kin_train_parts *p, const kin_train_config *config) {
    kin_denoiser_shape shape = kin_denoiser_shape_of(&p->denoiser);
    kin_vae_shape vae = kin_vae_shape_of(&p->vae);
    kin_context *context = p->context;
    const kin_dataset_options *d = &config->data;
    const char *name = kin_denoiser_kind_name(p->denoiser.kind);
    int64_t multiple = (int64_t)vae.space_factor * shape.size_multiple;
    if (!config->train_text_encoder && !p->text_files.path)
        return kin_fail(context, KIN_INVALID,
                        "a text encoder that is not trained needs text_encoder_path; or set "
                        "train_text_encoder to true");
    if (!config->order.buckets && (d->height % multiple || d->width % multiple))
        return kin_fail(context, KIN_INVALID, "height and width must be multiples of %lld for %s",
                        (long long)multiple, p->vae_files.path);
    if (shape.caption_channels != p->text.d_model)
        return kin_fail(context, KIN_INVALID,
                        "denoiser.caption_channels is %d, but the text encoder makes %d",
                        shape.caption_channels, p->text.d_model);
    if (shape.in_channels != vae.channels)
        return kin_fail(context, KIN_INVALID, "denoiser.in_channels is %d, but the vae makes %d",
                        shape.in_channels, vae.channels);
    if (!config->order.buckets && !config->order.lengths &&
        kin_vae_video_frames(&p->vae, kin_vae_latent_frames(&p->vae, d->frames)) != d->frames)
        return kin_fail(
            context, KIN_INVALID,
            "data.num_frames is %lld, but %s codes 1 and multiples of %d more: %lld "
            "would do",
            (long long)d->frames, p->vae_files.path, vae.time_factor,
            (long long)kin_vae_video_frames(&p->vae, kin_vae_latent_frames(&p->vae, d->frames)));
    if (shape.pictures && (d->frames > 1 || config->order.images > 0))
        return kin_fail(context, KIN_INVALID,
                        "%s makes pictures: data.num_frames must be 1, without data.images", name);
    if (config->order.images > 0 && !shape.joint_pictures)
        return kin_fail(context, KIN_INVALID, "%s does not train with data.images", name);
    if (config->frame_masks && !shape.frame_masks)
        return kin_fail(context, KIN_INVALID, "%s does not know frame_masks", name);
    if (config->from_scratch && p->denoiser.kind != KIN_DENOISER_STDIT)
        return kin_fail(context, KIN_INVALID,
                        "from_scratch is a start of STDiT; %s starts as its original does", name);
    return KIN_OK;
}

kin_status kin_train_parts_open(kin_context *context, const kin_train_config *config,
                                kin_train_parts *out_parts) {
    kin_train_parts *p = out_parts;
    *p = (kin_train_parts){.context = context};
    p->denoiser = config->denoiser;
    p->text = config->text_encoder;
    kin_status status = KIN_OK;
    if (config->model_path) {
        status = open_model(p, config);
    } else {
        status = open_part(p, KIN_PART_VAE, config->vae_path, &p->vae_files);
        if (status == KIN_OK && config->text_encoder_path)
            status = open_part(p, KIN_PART_TEXT_ENCODER, config->text_encoder_path, &p->text_files);
    }
    if (status == KIN_OK) status = find_tokenizer(p, config);
    if (status == KIN_OK) status = find_start(p, config);
    if (status == KIN_OK) adopt_sizes(p, config);
    if (status == KIN_OK) recommend(p, config);
    if (status == KIN_OK) status = check_parts(p, config);
    return status;
}

/* ---- captions ---- */

/* Trains a tokenizer on the captions, unless a run that is resumed has one: it is not made anew
 * then, and one that an earlier start left is not used, since captions or vocabulary may have
 * changed. */
static kin_status train_tokenizer(kin_context *context, const kin_train_config *config,
                                  kin_train_parts *parts, kin_dataset *data) {
    kin_status status = kin_make_folders(context, config->output);
    parts->tokenizer = kin_path_join(context, config->output, "spiece.model");
    if (status == KIN_OK && !parts->tokenizer) status = KIN_OUT_OF_MEMORY;
    if (status != KIN_OK) return status;
    char *checkpoint;
    int64_t step;
    bool begun = kin_train_checkpoint_find(context, config->output, &checkpoint, &step) == KIN_OK;
    kin_free(context, checkpoint);
    if (begun && kin_file_exists(parts->tokenizer)) return KIN_OK;
    if (kin_train_rank(config) != 0) return KIN_OK; /* rank 0 has made it */
    int64_t count = kin_dataset_count(data);
    const char **captions = kin_alloc(context, (size_t)count * sizeof *captions);
    if (!captions) return KIN_OUT_OF_MEMORY;
    for (int64_t i = 0; i < count; i++) captions[i] = kin_dataset_text(data, i);
    status = kin_tokenizer_train(context, captions, (size_t)count,
                                 (int)config->tokenizer_vocabulary, parts->tokenizer);
    kin_free(context, (void *)captions);
    return status;
}

/* The caption as the system's own training gives it to the tokenizer; fresh memory. */
static kin_status clean_caption(kin_context *context, kin_denoiser_kind kind, const char *text,
                                char **out_text) {
    if (kind == KIN_DENOISER_LATTE) return kin_caption_lower(context, text, strlen(text), out_text);
    return kin_caption_clean(context, text, strlen(text), kind == KIN_DENOISER_OPENSORA_PLAN,
                             out_text);
}

static kin_status tokenize(kin_context *context, const kin_train_config *config,
                           kin_tokenizer *tokenizer, const char *text, kin_denoiser_kind kind,
                           kin_train_captions *c, int64_t row, int64_t *out_tokens) {
    char *clean = NULL;
    int32_t *all;
    size_t tokens;
    int size;
    kin_status status =
        config->clean_captions ? clean_caption(context, kind, text, &clean) : KIN_OK;
    if (clean) text = clean;
    if (status == KIN_OK)
        status = kin_tokenizer_encode(tokenizer, text, strlen(text), &all, &tokens);
    if (status == KIN_OK) {
        kin_free(context, all);
        *out_tokens = (int64_t)tokens + 1;
        status = kin_tokenizer_encode_padded(tokenizer, text, strlen(text), (int)c->length,
                                             c->ids + row * c->length, &size);
        c->lengths[row] = size;
    }
    kin_free(context, clean);
    return status;
}

static kin_status tokenize_all(kin_context *context, const kin_train_config *config,
                               const kin_train_parts *parts, kin_dataset *data,
                               kin_train_captions *c) {
    int64_t cut = 0, longest = 0;
    kin_tokenizer *tokenizer;
    kin_status status = kin_tokenizer_load(context, parts->tokenizer, &tokenizer);
    if (status != KIN_OK) return status;
    if (kin_tokenizer_size(tokenizer) > parts->text.vocab_size)
        status = kin_fail(context, KIN_INVALID,
                          "the tokenizer has %d pieces, but text_encoder.vocab_size is %d",
                          kin_tokenizer_size(tokenizer), parts->text.vocab_size);
    for (int64_t i = 0; status == KIN_OK && i <= c->count; i++) {
        int64_t tokens = 0;
        status = tokenize(context, config, tokenizer, i < c->count ? kin_dataset_text(data, i) : "",
                          parts->denoiser.kind, c, i, &tokens);
        if (tokens > c->length) cut++;
        if (tokens > longest) longest = tokens;
    }
    if (status == KIN_OK && cut > 0)
        kin_log(context, KIN_LOG_WARN,
                "%lld of %lld captions are cut to denoiser.model_max_length, %lld tokens: what "
                "they say last is never seen; the longest has %lld",
                (long long)cut, (long long)c->count, (long long)c->length, (long long)longest);
    kin_tokenizer_destroy(tokenizer);
    return status;
}

kin_status kin_train_captions_open(kin_context *context, const kin_train_config *config,
                                   kin_train_parts *parts, kin_dataset *data,
                                   kin_train_captions *out_captions) {
    kin_train_captions *c = out_captions;
    c->count = kin_dataset_count(data);
    c->length = kin_denoiser_shape_of(&parts->denoiser).text_length;
    kin_status status = parts->tokenizer ? KIN_OK : train_tokenizer(context, config, parts, data);
    size_t rows = (size_t)c->count + 1;
    c->ids = kin_calloc(context, rows * (size_t)c->length, sizeof *c->ids);
    c->lengths = kin_calloc(context, rows, sizeof *c->lengths);
    if (status == KIN_OK && (!c->ids || !c->lengths)) status = KIN_OUT_OF_MEMORY;
    return status == KIN_OK ? tokenize_all(context, config, parts, data, c) : status;
}

void kin_train_captions_close(kin_context *context, kin_train_captions *captions) {
    kin_free(context, captions->ids);
    kin_free(context, captions->lengths);
}
