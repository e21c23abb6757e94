/* What a path holds: the parts, their configurations, and whether they fit each other. */
#include "tools/system/system.h"

#include "runtime/json.h"
#include "tools/system/system_internal.h"

#include <string.h>

static const char *const system_names[KIN_SYSTEM_KINDS] = {
    [KIN_SYSTEM_OPEN_SORA_1_0] = "open-sora-1.0",
    [KIN_SYSTEM_OPEN_SORA_1_1] = "open-sora-1.1",
    [KIN_SYSTEM_LATTE] = "latte",
    [KIN_SYSTEM_PIXART] = "pixart-alpha",
    [KIN_SYSTEM_OPEN_SORA_PLAN] = "open-sora-plan-1.2"};

static const char *const part_names[KIN_PART_KINDS] = {[KIN_PART_DENOISER] = "transformer",
                                                       [KIN_PART_VAE] = "vae",
                                                       [KIN_PART_TEXT_ENCODER] = "text_encoder",
                                                       [KIN_PART_TOKENIZER] = "tokenizer",
                                                       [KIN_PART_SCHEDULER] = "scheduler"};

/* The flag that names a part, and what the part is in words. */
static const char *const part_flags[KIN_PART_KINDS] = {[KIN_PART_DENOISER] = "--denoiser",
                                                       [KIN_PART_VAE] = "--vae",
                                                       [KIN_PART_TEXT_ENCODER] = "--text-encoder",
                                                       [KIN_PART_TOKENIZER] = "--tokenizer",
                                                       [KIN_PART_SCHEDULER] = "--scheduler"};
static const char *const part_words[KIN_PART_KINDS] = {
    [KIN_PART_DENOISER] = "denoiser",
    [KIN_PART_VAE] = "autoencoder",
    [KIN_PART_TEXT_ENCODER] = "text encoder",
    [KIN_PART_TOKENIZER] = "tokenizer (a SentencePiece model: spiece.model)",
    [KIN_PART_SCHEDULER] = "scheduler's configuration"};

const char *kin_system_name(kin_system_kind kind) {
    return system_names[kind];
}

const char *kin_part_name(kin_part_kind part) {
    return part_names[part];
}

kin_status kin_system_named(kin_context *context, const char *name, kin_system_kind *out_kind) {
    for (int i = 0; i < KIN_SYSTEM_KINDS; i++)
        if (strcmp(name, system_names[i]) == 0) {
            *out_kind = (kin_system_kind)i;
            return KIN_OK;
        }
    const char *near = kin_nearest_name(name, system_names, KIN_SYSTEM_KINDS);
    return kin_fail(context, KIN_NOT_FOUND,
                    "no system \"%s\"%s%s%s; there are open-sora-1.0, open-sora-1.1, latte, "
                    "pixart-alpha and open-sora-plan-1.2",
                    name, near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
}

static kin_system_kind kind_of(kin_denoiser_kind denoiser) {
    switch (denoiser) {
    case KIN_DENOISER_STDIT:
        return KIN_SYSTEM_OPEN_SORA_1_0;
    case KIN_DENOISER_STDIT2:
        return KIN_SYSTEM_OPEN_SORA_1_1;
    case KIN_DENOISER_LATTE:
        return KIN_SYSTEM_LATTE;
    case KIN_DENOISER_PIXART:
        return KIN_SYSTEM_PIXART;
    case KIN_DENOISER_OPENSORA_PLAN:
        return KIN_SYSTEM_OPEN_SORA_PLAN;
    }
    return KIN_SYSTEM_KINDS;
}

/* ---- configurations ---------------------------------------------------------------------------
 */

static kin_model_kind model_of(kin_part_kind part) {
    if (part == KIN_PART_DENOISER) return KIN_MODEL_DENOISER;
    return part == KIN_PART_VAE ? KIN_MODEL_VAE : KIN_MODEL_T5;
}

static kin_status parse_config(kin_system *s, kin_part_kind kind) {
    const char *path = s->parts[kind].config;
    json_t *json = NULL;
    kin_model_choice choice = {.kind = KIN_MODEL_DENOISER};
    kin_status status = kin_json_load(s->context, path, &json);
    if (status == KIN_OK) status = kin_model_parse(s->context, json, path, &choice);
    if (status == KIN_OK && choice.kind != model_of(kind))
        status = kin_fail(s->context, KIN_INVALID, "%s: this is a %s, not a %s", path, choice.name,
                          part_words[kind]);
    json_decref(json);
    if (status != KIN_OK) return status;
    if (kind == KIN_PART_DENOISER) s->denoiser = choice.denoiser;
    else if (kind == KIN_PART_VAE) s->vae = choice.vae;
    else s->text_encoder = choice.t5;
    return KIN_OK;
}

static kin_status guess_config(kin_system *s, kin_part_kind kind, const kin_system_kind *forced) {
    const kin_part *part = &s->parts[kind];
    kin_checkpoint *file = NULL;
    kin_status status = kin_checkpoint_open(s->context, part->path, part->entry, &file);
    if (status == KIN_OK && kind == KIN_PART_DENOISER)
        status = kin_guess_denoiser(s->context, file, part->path, forced, &s->denoiser);
    else if (status == KIN_OK && kind == KIN_PART_VAE)
        status = kin_guess_vae(s->context, file, part->path, &s->vae);
    else if (status == KIN_OK)
        status = kin_guess_t5(s->context, file, part->path, &s->text_encoder);
    kin_checkpoint_close(file);
    return status;
}

/* Latte's older folders keep PixArt's configuration: the weights tell. */
static kin_status recognise_latte(kin_system *s) {
    const kin_part *part = &s->parts[KIN_PART_DENOISER];
    kin_checkpoint *file = NULL;
    if (s->denoiser.kind != KIN_DENOISER_PIXART) return KIN_OK;
    kin_status status = kin_checkpoint_open(s->context, part->path, part->entry, &file);
    if (status == KIN_OK && kin_guess_has_time(file)) {
        s->denoiser.kind = KIN_DENOISER_LATTE;
        s->denoiser.pixart.video_length = kin_latte_config_default().video_length;
    }
    kin_checkpoint_close(file);
    return status;
}

static kin_status configure(kin_system *s, kin_part_kind kind, const kin_system_kind *forced) {
    if (!s->parts[kind].path) return KIN_OK;
    if (!s->parts[kind].config) return guess_config(s, kind, forced);
    kin_status status = parse_config(s, kind);
    return status == KIN_OK && kind == KIN_PART_DENOISER ? recognise_latte(s) : status;
}

/* Lone weights beside a folder: its configuration of a denoiser, if it is of the same kind or the
 * weights do not tell theirs. */
static kin_status configure_lone(kin_system *s, const char *base, const kin_system_kind *forced) {
    kin_part *part = &s->parts[KIN_PART_DENOISER];
    char *spare = NULL;
    kin_status found = kin_place_join(s->context, base, "transformer/config.json", &spare);
    if (found != KIN_OK) return found;
    kin_status status = configure(s, KIN_PART_DENOISER, forced);
    if (!spare) return status;
    kin_denoiser_config guessed = s->denoiser;
    part->config = spare;
    kin_status parsed = configure(s, KIN_PART_DENOISER, forced);
    if (parsed == KIN_OK && (status != KIN_OK || s->denoiser.kind == guessed.kind)) return KIN_OK;
    kin_free(s->context, spare);
    part->config = NULL;
    s->denoiser = guessed;
    return status == KIN_OK ? KIN_OK : parsed;
}

/* ---- opening ----------------------------------------------------------------------------------
 */

/* The denoiser of the override with the rest of `path`, or all of `path`. */
static kin_status find_denoiser(kin_system *s, const char *path,
                                const kin_system_overrides *overrides, char **out_base) {
    kin_part *part = &s->parts[KIN_PART_DENOISER];
    char *place = NULL, *ignored = NULL;
    if (!overrides->denoiser)
        return kin_place_denoiser(s->context, path, overrides->entry, part, out_base);
    kin_status status =
        kin_place_denoiser(s->context, overrides->denoiser, overrides->entry, part, &ignored);
    kin_free(s->context, ignored);
    if (status == KIN_OK) status = kin_place_of_part(s->context, path, &place);
    if (status == KIN_OK) {
        *out_base = kin_file_is_folder(place) ? kin_strdup(s->context, place)
                                              : kin_path_folder(s->context, place);
        if (!*out_base) status = KIN_OUT_OF_MEMORY;
    }
    kin_free(s->context, place);
    return status;
}

static kin_status find_others(kin_system *s, const kin_system_overrides *overrides,
                              const char *base) {
    const char *given[KIN_PART_KINDS] = {[KIN_PART_VAE] = overrides->vae,
                                         [KIN_PART_TEXT_ENCODER] = overrides->text_encoder,
                                         [KIN_PART_TOKENIZER] = overrides->tokenizer,
                                         [KIN_PART_SCHEDULER] = overrides->scheduler};
    kin_status status = KIN_OK;
    for (int i = KIN_PART_VAE; status == KIN_OK && i < KIN_PART_KINDS; i++) {
        kin_part *part = &s->parts[i];
        const char *text = s->parts[KIN_PART_TEXT_ENCODER].path;
        if (given[i]) {
            status = kin_part_find(s->context, (kin_part_kind)i, given[i], part);
            continue;
        }
        /* A text encoder from elsewhere brings its own pieces. */
        if (i == KIN_PART_TOKENIZER && given[KIN_PART_TEXT_ENCODER])
            status = kin_place_tokenizer(s->context, text, &part->path);
        if (status == KIN_OK && !part->path) status = kin_place_part(s, (kin_part_kind)i, base);
        if (status == KIN_OK && i == KIN_PART_TOKENIZER && text && !part->path)
            status = kin_place_tokenizer(s->context, text, &part->path);
    }
    return status;
}

static kin_status check_fit(const kin_system *s) {
    kin_denoiser_shape shape = kin_denoiser_shape_of(&s->denoiser);
    bool vae = s->parts[KIN_PART_VAE].path != NULL;
    int latents = vae ? kin_vae_shape_of(&s->vae).channels : 0;
    if (s->parts[KIN_PART_TEXT_ENCODER].path && shape.caption_channels != s->text_encoder.d_model)
        return kin_fail(s->context, KIN_INVALID,
                        "%s: the denoiser wants captions of %d channels, the text encoder %s makes "
                        "%d",
                        s->parts[KIN_PART_DENOISER].path, shape.caption_channels,
                        s->parts[KIN_PART_TEXT_ENCODER].path, s->text_encoder.d_model);
    if (vae && shape.in_channels != latents)
        return kin_fail(
            s->context, KIN_INVALID,
            "%s: the denoiser wants latents of %d channels, the autoencoder %s makes %d",
            s->parts[KIN_PART_DENOISER].path, shape.in_channels, s->parts[KIN_PART_VAE].path,
            latents);
    return KIN_OK;
}

static kin_status open_parts(kin_system *s, const char *path, const kin_system_overrides *overrides,
                             char **out_base) {
    kin_system_kind wanted = KIN_SYSTEM_KINDS;
    kin_status status = KIN_OK;
    if (overrides->system) status = kin_system_named(s->context, overrides->system, &wanted);
    if (status == KIN_OK) status = find_denoiser(s, path, overrides, out_base);
    const kin_system_kind *forced = overrides->system ? &wanted : NULL;
    if (status == KIN_OK && overrides->denoiser && !s->parts[KIN_PART_DENOISER].config)
        status = configure_lone(s, *out_base, forced);
    else if (status == KIN_OK) status = configure(s, KIN_PART_DENOISER, forced);
    if (status != KIN_OK) return status;
    s->kind = kind_of(s->denoiser.kind);
    if (overrides->system && wanted != s->kind)
        return kin_fail(s->context, KIN_INVALID, "%s: the denoiser is that of %s, not of %s",
                        s->parts[KIN_PART_DENOISER].path, kin_system_name(s->kind),
                        overrides->system);
    status = find_others(s, overrides, *out_base);
    if (status == KIN_OK) status = configure(s, KIN_PART_VAE, NULL);
    if (status == KIN_OK) status = configure(s, KIN_PART_TEXT_ENCODER, NULL);
    if (status == KIN_OK) status = check_fit(s);
    if (status == KIN_OK)
        status = kin_system_read_defaults(s, *out_base, overrides->scheduler != NULL);
    return status;
}

kin_status kin_system_open(kin_context *context, const char *path,
                           const kin_system_overrides *overrides, kin_system *out_system) {
    static const kin_system_overrides none = {0};
    char *base = NULL;
    *out_system = (kin_system){.context = context};
    kin_status status = open_parts(out_system, path, overrides ? overrides : &none, &base);
    kin_free(context, base);
    if (status != KIN_OK) kin_system_close(out_system);
    return status;
}

void kin_system_close(kin_system *system) {
    for (int i = 0; i < KIN_PART_KINDS; i++) kin_part_free(system->context, &system->parts[i]);
}

kin_status kin_system_need(const kin_system *system, kin_part_kind part) {
    if (system->parts[part].path) return KIN_OK;
    return kin_fail(system->context, KIN_NOT_FOUND, "%s: no %s beside it; name one with %s PATH",
                    system->parts[KIN_PART_DENOISER].path, part_words[part], part_flags[part]);
}
