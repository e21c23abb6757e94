/* Where the parts of a system are, beside each other in any of the layouts that are around. */
#include "tools/system/system_internal.h"

#include "runtime/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A training's folder holds epochs, which hold a model. */
enum { MAX_DEPTH = 4 };

void kin_part_free(kin_context *context, kin_part *part) {
    kin_free(context, part->path);
    kin_free(context, part->entry);
    kin_free(context, part->config);
    *part = (kin_part){0};
}

/* What a config.json describes, by keys alone; KIN_PART_KINDS if it is none of ours. */
static kin_part_kind part_of_config(const json_t *json) {
    static const char *const denoisers[] = {"caption_channels",    "patch_size",
                                            "attention_head_dim",  "hidden_size",
                                            "num_attention_heads", "type"};
    if (json_object_get(json, "d_model")) return KIN_PART_TEXT_ENCODER;
    if (json_object_get(json, "block_out_channels") || json_object_get(json, "hidden_size_mult"))
        return KIN_PART_VAE;
    for (size_t i = 0; i < sizeof denoisers / sizeof *denoisers; i++)
        if (json_object_get(json, denoisers[i])) return KIN_PART_DENOISER;
    return KIN_PART_KINDS;
}

/* The configuration of a part in the folder of its weights. */
static kin_status find_config(kin_context *context, const char *folder, kin_part_kind kind,
                              char **out_path) {
    static const char *const names[] = {"config.json", "transformer_config.json"};
    kin_status status = KIN_OK;
    *out_path = NULL;
    for (int i = 0; status == KIN_OK && i < (kind == KIN_PART_DENOISER ? 2 : 1); i++) {
        json_t *json = NULL;
        char *path = NULL;
        status = kin_place_join(context, folder, names[i], &path);
        if (status == KIN_OK && path) status = kin_json_load(context, path, &json);
        if (status == KIN_OK && path && !*out_path && part_of_config(json) == kind)
            *out_path = path;
        else kin_free(context, path);
        json_decref(json);
    }
    return status;
}

/* Weights and what lies beside them, in a folder; the part stays empty if there are none. */
static kin_status take_folder(kin_context *context, const char *folder, kin_part_kind kind,
                              kin_part *part) {
    if (!kin_file_is_folder(folder)) return KIN_OK;
    kin_status status = kin_place_weights(context, folder, &part->path);
    if (status == KIN_OK && part->path) status = find_config(context, folder, kind, &part->config);
    return status;
}

static kin_status take_file(kin_context *context, const char *path, kin_part_kind kind,
                            kin_part *part) {
    char *folder = kin_path_folder(context, path);
    part->path = kin_strdup(context, path);
    kin_status status = folder && part->path ? KIN_OK : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK) status = find_config(context, folder, kind, &part->config);
    kin_free(context, folder);
    return status;
}

/* take_folder for FOLDER/NAME. */
static kin_status take_inside(kin_context *context, const char *folder, const char *name,
                              kin_part_kind kind, kin_part *part) {
    char *inside = NULL;
    kin_status status = kin_place_join(context, folder, name, &inside);
    if (status == KIN_OK && inside) status = take_folder(context, inside, kind, part);
    kin_free(context, inside);
    return status;
}

/* FOLDER/NAME, if it is a file. */
static kin_status take_named(kin_context *context, const char *folder, const char *name,
                             kin_part_kind kind, kin_part *part) {
    char *file = NULL;
    kin_status status = kin_place_join(context, folder, name, &file);
    if (status == KIN_OK && file && !kin_file_is_folder(file))
        status = take_file(context, file, kind, part);
    kin_free(context, file);
    return status;
}

/* ---- denoisers --------------------------------------------------------------------------------
 */

/* transformer/ of diffusers' layout. Latte's older folders keep the weights beside it, in t2v.pt.
 */
static kin_status find_transformer(kin_context *context, const char *folder, kin_part *part) {
    kin_status status = take_inside(context, folder, "transformer", KIN_PART_DENOISER, part);
    if (status != KIN_OK || part->path) return status;
    char *inside = kin_path_join(context, folder, "transformer");
    char *parent = kin_place_parent(context, folder);
    status = inside && parent ? find_config(context, inside, KIN_PART_DENOISER, &part->config)
                              : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK) status = kin_place_join(context, folder, "t2v.pt", &part->path);
    if (status == KIN_OK && !part->path)
        status = kin_place_join(context, parent, "t2v.pt", &part->path);
    if (status == KIN_OK && !part->path)
        status =
            kin_fail(context, KIN_NOT_FOUND,
                     "%s: no weights of the denoiser in it; name them with --denoiser", inside);
    kin_free(context, inside);
    kin_free(context, parent);
    return status;
}

/* A training's folder: Open-Sora's model/ and ema.pt, Open-Sora-Plan's model/ and model_ema/. The
 * scripts sample with the one's model and with the other's average; *entry says otherwise, and is
 * NULL once it has chosen. */
static kin_status find_training(kin_context *context, const char *folder, const char **entry,
                                kin_part *part) {
    bool ema = *entry && strcmp(*entry, "ema") == 0;
    bool model = *entry && strcmp(*entry, "model") == 0;
    kin_status status = KIN_OK;
    if (!model) status = take_inside(context, folder, "model_ema", KIN_PART_DENOISER, part);
    if (status == KIN_OK && !part->path && ema)
        status = take_named(context, folder, "ema.pt", KIN_PART_DENOISER, part);
    if (status == KIN_OK && !part->path)
        status = take_inside(context, folder, "model", KIN_PART_DENOISER, part);
    if (status == KIN_OK && !part->path)
        status = take_named(context, folder, "model_ckpt.pt", KIN_PART_DENOISER, part);
    if (status == KIN_OK && !part->path)
        status = take_named(context, folder, "ema.pt", KIN_PART_DENOISER, part);
    /* The names of Open-Sora's trainings say nothing of a configuration inside model/. */
    if (status == KIN_OK && part->path && !part->config)
        status = find_config(context, folder, KIN_PART_DENOISER, &part->config);
    if (part->path && (ema || model)) *entry = NULL;
    return status;
}

/* The number at the end of "epoch1-global_step5000" or "checkpoint-250"; -1 if the
 * name is none of a checkpoint. */
static long checkpoint_step(const char *name) {
    const char *digits = NULL;
    if (strncmp(name, "epoch", 5) == 0) digits = strstr(name, "global_step");
    if (digits) digits += strlen("global_step");
    else if (strncmp(name, "checkpoint-", 11) == 0) digits = name + 11;
    if (!digits || *digits < '0' || *digits > '9') return -1;
    char *end;
    long step = strtol(digits, &end, 10);
    return *end ? -1 : step;
}

/* "29x480p": a size that Open-Sora-Plan was published in. */
static bool is_size(const char *name) {
    size_t frames = strspn(name, "0123456789");
    if (!frames || name[frames] != 'x') return false;
    size_t rows = strspn(name + frames + 1, "0123456789");
    return rows && strcmp(name + frames + 1 + rows, "p") == 0;
}

/* The folder inside that is meant: the newest checkpoint, or the only size; NULL if there is none.
 */
static kin_status choose_inside(kin_context *context, const char *folder, char **out_path) {
    kin_listing listing;
    kin_status status = kin_listing_open(context, folder, &listing);
    if (status != KIN_OK) return status;
    const char *chosen = NULL, *other = NULL;
    long newest = -1;
    for (size_t i = 0; i < listing.count; i++) {
        const char *name = listing.names[i];
        long step = checkpoint_step(name);
        if (step > newest) {
            newest = step;
            chosen = name;
        } else if (newest < 0 && is_size(name)) {
            other = chosen;
            chosen = name;
        } else if (newest < 0 && !chosen && strcmp(name, "checkpoints") == 0) {
            chosen = name;
        }
    }
    if (newest < 0 && other)
        status = kin_fail(context, KIN_INVALID,
                          "%s: models of several sizes; name one of them: %s/%s, %s/%s ..", folder,
                          folder, other, folder, chosen);
    else if (chosen && !(*out_path = kin_path_join(context, folder, chosen)))
        status = KIN_OUT_OF_MEMORY;
    kin_listing_close(context, &listing);
    return status;
}

static kin_status find_in_folder(kin_context *context, const char *folder, const char **entry,
                                 int depth, kin_part *part, char **out_base);

/* find_in_folder for FOLDER/NAME. */
static kin_status descend(kin_context *context, const char *folder, const char *name,
                          const char **entry, int depth, kin_part *part, char **out_base) {
    char *inside = kin_path_join(context, folder, name);
    kin_status status =
        inside ? find_in_folder(context, inside, entry, depth, part, out_base) : KIN_OUT_OF_MEMORY;
    kin_free(context, inside);
    return status;
}

static kin_status is_there(kin_context *context, const char *folder, const char *name,
                           bool *out_there) {
    char *path = NULL;
    kin_status status = kin_place_join(context, folder, name, &path);
    *out_there = path != NULL;
    kin_free(context, path);
    return status;
}

static kin_status find_in_folder(kin_context *context, const char *folder, const char **entry,
                                 int depth, kin_part *part, char **out_base) {
    kin_free(context, *out_base);
    *out_base = kin_strdup(context, folder);
    if (!*out_base) return KIN_OUT_OF_MEMORY;
    bool index = false, transformer = false, ours = false;
    kin_status status = is_there(context, folder, "model_index.json", &index);
    if (status == KIN_OK) status = is_there(context, folder, "transformer", &transformer);
    if (status == KIN_OK) status = is_there(context, folder, "model/model_index.json", &ours);
    if (status != KIN_OK) return status;
    if (index || transformer) return find_transformer(context, folder, part);
    if (ours && depth < MAX_DEPTH)
        return descend(context, folder, "model", entry, depth + 1, part, out_base);
    status = find_training(context, folder, entry, part);
    if (status == KIN_OK && !part->path)
        status = take_folder(context, folder, KIN_PART_DENOISER, part);
    if (status != KIN_OK || part->path) return status;
    char *inside = NULL;
    if (depth < MAX_DEPTH) status = choose_inside(context, folder, &inside);
    if (status == KIN_OK && inside)
        status = find_in_folder(context, inside, entry, depth + 1, part, out_base);
    else if (status == KIN_OK)
        status = kin_fail(context, KIN_NOT_FOUND,
                          "%s: no denoiser in it: neither a transformer folder nor a file of "
                          "weights (.safetensors, .ckpt, .pth, .pt, .bin or .index.json)",
                          folder);
    kin_free(context, inside);
    return status;
}

kin_status kin_place_denoiser(kin_context *context, const char *path, const char *entry,
                              kin_part *out_part, char **out_base) {
    char *place = NULL;
    *out_part = (kin_part){0};
    *out_base = NULL;
    kin_status status = kin_place_of_part(context, path, &place);
    if (status == KIN_OK && kin_file_is_folder(place)) {
        status = find_in_folder(context, place, &entry, 0, out_part, out_base);
    } else if (status == KIN_OK) {
        status = take_file(context, place, KIN_PART_DENOISER, out_part);
        *out_base = kin_path_folder(context, place);
        if (!*out_base) status = KIN_OUT_OF_MEMORY;
    }
    if (status == KIN_OK && entry && !(out_part->entry = kin_strdup(context, entry)))
        status = KIN_OUT_OF_MEMORY;
    kin_free(context, place);
    if (status == KIN_OK) return status;
    kin_part_free(context, out_part);
    kin_free(context, *out_base);
    *out_base = NULL;
    return status;
}

/* ---- the other parts ------------------------------------------------------------------------- */

#define BIT(kind) (1u << (kind))
enum {
    ALL = BIT(KIN_SYSTEM_KINDS) - 1,
    PLAN = BIT(KIN_SYSTEM_OPEN_SORA_PLAN),
    OTHERS = ALL & ~PLAN
};

/* What parts are called beside a denoiser, the best first. Names with a '/' are the hub's. */
static const struct candidate {
    kin_part_kind part;
    unsigned systems;
    const char *name;
} candidates[] = {
    {KIN_PART_VAE, BIT(KIN_SYSTEM_LATTE), "vae_temporal_decoder"},
    {KIN_PART_VAE, ALL, "vae"},
    {KIN_PART_VAE, OTHERS, "sd-vae-ft-ema"},
    {KIN_PART_VAE, OTHERS, "stabilityai/sd-vae-ft-ema"},
    {KIN_PART_VAE, OTHERS, "sd-vae-ft-mse"},
    {KIN_PART_VAE, OTHERS, "stabilityai/sd-vae-ft-mse"},
    {KIN_PART_VAE, OTHERS, "vae-ft-ema-560000-ema-pruned.safetensors"},
    {KIN_PART_VAE, OTHERS, "vae-ft-ema-560000-ema-pruned.ckpt"},
    {KIN_PART_VAE, OTHERS, "vae-ft-mse-840000-ema-pruned.safetensors"},
    {KIN_PART_VAE, OTHERS, "vae-ft-mse-840000-ema-pruned.ckpt"},
    {KIN_PART_TEXT_ENCODER, ALL, "text_encoder"},
    {KIN_PART_TEXT_ENCODER, OTHERS, "t5-v1_1-xxl"},
    {KIN_PART_TEXT_ENCODER, OTHERS, "DeepFloyd/t5-v1_1-xxl"},
    {KIN_PART_TEXT_ENCODER, OTHERS, "google/t5-v1_1-xxl"},
    {KIN_PART_TEXT_ENCODER, OTHERS, "t5_ckpts/t5-v1_1-xxl"},
    {KIN_PART_TEXT_ENCODER, PLAN, "mt5-xxl"},
    {KIN_PART_TEXT_ENCODER, PLAN, "google/mt5-xxl"},
};

/* ROOT/NAME, or in the hub's cache ROOT/models--ORG--NAME. */
static kin_status take_candidate(kin_context *context, const char *root, bool hub,
                                 const struct candidate *candidate, kin_part *part) {
    const char *name = candidate->name, *slash = strchr(name, '/');
    char *path = NULL, *place = NULL, *cached = NULL;
    kin_status status = KIN_OK;
    if (hub && !slash) return KIN_OK;
    if (hub) {
        cached = kin_format(context, "models--%.*s--%s", (int)(slash - name), name, slash + 1);
        if (!cached) status = KIN_OUT_OF_MEMORY;
    }
    if (status == KIN_OK) status = kin_place_join(context, root, hub ? cached : name, &path);
    if (status == KIN_OK && path) status = kin_place_resolve(context, path, &place);
    if (status == KIN_OK && place && kin_file_is_folder(place))
        status = take_folder(context, place, candidate->part, part);
    else if (status == KIN_OK && place &&
             (kin_path_ends_with(name, ".safetensors") || kin_path_ends_with(name, ".ckpt")))
        status = take_file(context, place, candidate->part, part);
    kin_free(context, cached);
    kin_free(context, place);
    kin_free(context, path);
    return status;
}

/* The pieces of a tokenizer in a folder. */
static kin_status find_pieces(kin_context *context, const char *folder, char **out_path) {
    static const char *const names[] = {"spiece.model", "sentencepiece.model", "tokenizer.model"};
    kin_status status = KIN_OK;
    for (size_t i = 0; status == KIN_OK && !*out_path && i < sizeof names / sizeof *names; i++)
        status = kin_place_join(context, folder, names[i], out_path);
    if (status != KIN_OK || *out_path || !kin_file_is_folder(folder)) return status;
    kin_listing listing;
    status = kin_listing_open(context, folder, &listing);
    if (status != KIN_OK) return status;
    const char *only = NULL;
    int count = 0;
    for (size_t i = 0; i < listing.count; i++)
        if (kin_path_ends_with(listing.names[i], ".model")) {
            only = listing.names[i];
            count++;
        }
    if (count == 1 && !(*out_path = kin_path_join(context, folder, only)))
        status = KIN_OUT_OF_MEMORY;
    kin_listing_close(context, &listing);
    return status;
}

/* find_pieces in FOLDER/tokenizer, then in the folder itself. */
static kin_status find_tokenizer(kin_context *context, const char *folder, char **out_path) {
    char *inside = NULL;
    kin_status status = kin_place_join(context, folder, "tokenizer", &inside);
    if (status == KIN_OK && inside) status = find_pieces(context, inside, out_path);
    if (status == KIN_OK && !*out_path) status = find_pieces(context, folder, out_path);
    kin_free(context, inside);
    return status;
}

static kin_status find_scheduler(kin_context *context, const char *folder, char **out_path) {
    kin_status status =
        kin_place_join(context, folder, "scheduler/scheduler_config.json", out_path);
    if (status == KIN_OK && !*out_path)
        status = kin_place_join(context, folder, "scheduler_config.json", out_path);
    return status;
}

/* The folder that holds "models--..." folders, of which one is on the way to a path. */
static char *hub_of(kin_context *context, const char *path) {
    const char *model = strstr(path, "/models--");
    if (strncmp(path, "models--", 8) == 0) return kin_strdup(context, ".");
    return model ? kin_strndup(context, path, (size_t)(model - path)) : NULL;
}

/* A part in one of the folders around a denoiser. */
static kin_status find_in_root(kin_system *system, kin_part_kind kind, const char *root, bool hub) {
    kin_context *context = system->context;
    kin_part *part = &system->parts[kind];
    if (!root || part->path || !kin_file_is_folder(root)) return KIN_OK;
    if (kind == KIN_PART_TOKENIZER)
        return hub ? KIN_OK : find_tokenizer(context, root, &part->path);
    if (kind == KIN_PART_SCHEDULER)
        return hub ? KIN_OK : find_scheduler(context, root, &part->path);
    kin_status status = KIN_OK;
    for (size_t i = 0; i < sizeof candidates / sizeof *candidates; i++)
        if (status == KIN_OK && !part->path && candidates[i].part == kind &&
            (candidates[i].systems & BIT(system->kind)))
            status = take_candidate(context, root, hub, &candidates[i], part);
    return status;
}

kin_status kin_place_tokenizer(kin_context *context, const char *text_encoder, char **out_path) {
    char *folder = kin_path_folder(context, text_encoder);
    char *parent = folder ? kin_place_parent(context, folder) : NULL;
    char *sibling = NULL;
    *out_path = NULL;
    kin_status status = parent ? find_tokenizer(context, folder, out_path) : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK && !*out_path)
        status = kin_place_join(context, parent, "tokenizer", &sibling);
    if (status == KIN_OK && sibling) status = find_pieces(context, sibling, out_path);
    kin_free(context, folder);
    kin_free(context, parent);
    kin_free(context, sibling);
    return status;
}

kin_status kin_place_part(kin_system *system, kin_part_kind kind, const char *base) {
    kin_context *context = system->context;
    const char *denoiser = system->parts[KIN_PART_DENOISER].path;
    char *own = kin_path_folder(context, denoiser);
    char *roots[] = {kin_strdup(context, base), kin_path_join(context, base, "t2v_required_models"),
                     own, own ? kin_place_parent(context, own) : NULL,
                     kin_place_parent(context, base)};
    kin_status status = KIN_OK;
    for (size_t i = 0; i < sizeof roots / sizeof *roots; i++)
        if (!roots[i]) status = KIN_OUT_OF_MEMORY;
    for (size_t i = 0; status == KIN_OK && i < sizeof roots / sizeof *roots; i++)
        status = find_in_root(system, kind, roots[i], false);
    char *hub = hub_of(context, denoiser);
    if (status == KIN_OK) status = find_in_root(system, kind, hub, true);
    for (size_t i = 0; i < sizeof roots / sizeof *roots; i++) kin_free(context, roots[i]);
    kin_free(context, hub);
    return status;
}

/* The part in a folder: its weights, or those in the part's own folder inside. */
static kin_status find_inside(kin_context *context, kin_part_kind kind, const char *folder,
                              kin_part *part) {
    static const char *const temporal = "vae_temporal_decoder";
    kin_status status = KIN_OK;
    char *base = NULL;
    if (kind == KIN_PART_DENOISER) {
        status = kin_place_denoiser(context, folder, NULL, part, &base);
        kin_free(context, base);
        return status;
    }
    if (kind == KIN_PART_TOKENIZER) return find_tokenizer(context, folder, &part->path);
    if (kind == KIN_PART_SCHEDULER) return find_scheduler(context, folder, &part->path);
    status = take_inside(context, folder, kin_part_name(kind), kind, part);
    if (status == KIN_OK && !part->path && kind == KIN_PART_VAE)
        status = take_inside(context, folder, temporal, kind, part);
    if (status == KIN_OK && !part->path) status = take_folder(context, folder, kind, part);
    return status;
}

kin_status kin_part_find(kin_context *context, kin_part_kind kind, const char *path,
                         kin_part *out_part) {
    char *place = NULL;
    *out_part = (kin_part){0};
    kin_status status = kind < KIN_PART_TOKENIZER ? kin_place_of_part(context, path, &place)
                                                  : kin_place_resolve(context, path, &place);
    if (status == KIN_OK && kin_file_is_folder(place))
        status = find_inside(context, kind, place, out_part);
    else if (status == KIN_OK && kind < KIN_PART_TOKENIZER)
        status = take_file(context, place, kind, out_part);
    else if (status == KIN_OK && !(out_part->path = kin_strdup(context, place)))
        status = KIN_OUT_OF_MEMORY;
    if (status == KIN_OK && !out_part->path)
        status = kin_fail(context, KIN_NOT_FOUND, "%s: no %s in it", path, kin_part_name(kind));
    kin_free(context, place);
    if (status != KIN_OK) kin_part_free(context, out_part);
    return status;
}
