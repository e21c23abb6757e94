/* Configurations of denoisers from the names and shapes of their tensors. */
#include "tools/system/system_internal.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_NAME = 256, MAX_BLOCKS = 4096, PUBLISHED_TEXT = 120, PUBLISHED_TEXT_2 = 200 };

const kin_desc *kin_guess_find(const kin_guess_tensors *t, const char *name) {
    char full[3 * MAX_NAME];
    snprintf(full, sizeof full, "%s%s", t->prefix, name);
    const kin_named_tensor *tensor = kin_checkpoint_find(t->file, full);
    return tensor ? &tensor->desc : NULL;
}

int64_t kin_guess_size(const kin_guess_tensors *t, const char *name, int axis) {
    const kin_desc *desc = kin_guess_find(t, name);
    return desc && axis < desc->rank ? desc->dims[axis] : 0;
}

/* How many of "FORMAT" (with a number in it) there are, one after the other. */
static int count_blocks(const kin_guess_tensors *t, const char *before, const char *after) {
    int count = 0;
    char name[MAX_NAME];
    while (count < MAX_BLOCKS) {
        snprintf(name, sizeof name, "%s%d%s", before, count, after);
        if (!kin_guess_find(t, name)) break;
        count++;
    }
    return count;
}

static bool ends_with(const char *text, const char *ending, size_t *out_before) {
    size_t length = strlen(text), end = strlen(ending);
    if (length < end || strcmp(text + length - end, ending) != 0) return false;
    *out_before = length - end;
    return true;
}

/* Finds the embedding of patches, which every denoiser has, and with it the prefix. */
static bool open_tensors(kin_context *context, const kin_checkpoint *file, const char *path,
                         kin_guess_tensors *out) {
    static const char *const names[] = {"x_embedder.proj.weight", "pos_embed.proj.weight"};
    *out = (kin_guess_tensors){.context = context, .file = file, .path = path};
    for (size_t i = 0; i < kin_checkpoint_count(file); i++)
        for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
            const char *name = kin_checkpoint_at(file, i)->name;
            size_t before = 0;
            if (!ends_with(name, names[k], &before) || before >= sizeof out->prefix ||
                (before > 0 && name[before - 1] != '.'))
                continue;
            memcpy(out->prefix, name, before);
            out->prefix[before] = '\0';
            return true;
        }
    return false;
}

bool kin_guess_has_time(const kin_checkpoint *file) {
    for (size_t i = 0; i < kin_checkpoint_count(file); i++)
        if (strstr(kin_checkpoint_at(file, i)->name, "temporal_transformer_blocks.")) return true;
    return false;
}

static bool to_int(int64_t value, int *out) {
    *out = (int)value;
    return value >= 1 && value <= INT_MAX;
}

/* The published models have heads of 72 numbers at a width of 1152, and of 64 at the others. */
static kin_status guess_heads(const kin_guess_tensors *t, int64_t width, int64_t head_size,
                              int *out_heads) {
    if (head_size < 1) head_size = width == 1152 ? 72 : width == 2304 ? 96 : 64;
    if (width >= head_size && width % head_size == 0 && to_int(width / head_size, out_heads))
        return KIN_OK;
    return kin_fail(t->context, KIN_UNSUPPORTED,
                    "%s: nothing in the file tells the number of heads of a model %lld wide; put "
                    "its config.json beside it",
                    t->path, (long long)width);
}

/* The first "16x512x512" (or 512x512, as -512x512 or 512-) in the file's name. */
static bool size_in_name(const char *path, int *out_frames, int *out_side) {
    const char *name = strrchr(path, '/');
    for (const char *p = name ? name + 1 : path; *p; p++) {
        int frames = 0, rows = 0, columns = 0, used = 0;
        if (p > path && p[-1] >= '0' && p[-1] <= '9') continue;
        if (sscanf(p, "%4dx%4dx%4d%n", &frames, &rows, &columns, &used) == 3 && used > 0 &&
            frames > 0 && rows >= 64 && rows == columns) {
            *out_frames = frames;
            *out_side = rows;
            return true;
        }
        if (sscanf(p, "%4dx%4d%n", &rows, &columns, &used) == 2 && used > 0 && rows >= 64 &&
            rows == columns) {
            *out_side = rows;
            return true;
        }
    }
    return false;
}

/* ---- Open-Sora ---------------------------------------------------------------------------------
 */

static kin_status guess_stdit_common(const kin_guess_tensors *t, kin_stdit_config *c) {
    const kin_desc *patch = kin_guess_find(t, "x_embedder.proj.weight");
    int64_t width = patch->dims[0], volume = 1;
    bool good = patch->rank == 5 && to_int(width, &c->hidden_size) &&
                to_int(patch->dims[1], &c->in_channels);
    for (int i = 0; good && i < 3; i++) {
        good = to_int(patch->dims[2 + i], &c->patch_size[i]);
        volume *= patch->dims[2 + i];
    }
    c->depth = count_blocks(t, "blocks.", ".scale_shift_table");
    int64_t out = kin_guess_size(t, "final_layer.linear.weight", 0);
    int64_t inner = kin_guess_size(t, "blocks.0.mlp.fc1.weight", 0);
    int64_t rows = kin_guess_size(t, "y_embedder.y_embedding", 0);
    good = good && c->depth > 0 && inner > 0 &&
           to_int(kin_guess_size(t, "y_embedder.y_proj.fc1.weight", 1), &c->caption_channels) &&
           (out == volume * c->in_channels || out == 2 * volume * c->in_channels);
    if (rows) good = good && to_int(rows, &c->model_max_length);
    if (!good)
        return kin_fail(t->context, KIN_UNSUPPORTED,
                        "%s: the tensors are named as STDiT's, but their shapes are not its",
                        t->path);
    c->pred_sigma = out == 2 * volume * c->in_channels;
    c->mlp_ratio = (double)inner / (double)width;
    int64_t head = kin_guess_size(t, "blocks.0.attn.q_norm.weight", 0);
    if (!head) head = 2 * kin_guess_size(t, "rope.freqs", 0);
    return guess_heads(t, width, head, &c->num_heads);
}

/* What Open-Sora 1.0 keeps in the configurations of its runs: the size, and the scales of positions
 * that follow from it. Tables that some files have, and the files' names, tell the size. */
static void guess_stdit_size(const kin_guess_tensors *t, kin_stdit_config *c) {
    enum { FACTOR = 8, FULL_SIZE = 512, LONG = 64 };
    int frames = c->input_size[0], side = FACTOR * c->input_size[1];
    int64_t sites = kin_guess_size(t, "pos_embed", 1),
            times = kin_guess_size(t, "pos_embed_temporal", 1);
    int root = (int)lround(sqrt((double)sites));
    size_in_name(t->path, &frames, &side);
    if (sites > 0 && sites < 1 << 20 && (int64_t)root * root == sites)
        side = FACTOR * root * c->patch_size[1];
    if (times > 0 && times < 1 << 20) frames = (int)times * c->patch_size[0];
    c->input_size[0] = frames;
    c->input_size[1] = c->input_size[2] = side / FACTOR;
    c->space_scale = (double)side / FULL_SIZE;
    /* Trained with every second frame, not every third. */
    c->time_scale = frames >= LONG ? 2.0 / 3 : 1;
}

static kin_status guess_stdit(const kin_guess_tensors *t, kin_denoiser_config *c) {
    c->kind = KIN_DENOISER_STDIT;
    c->stdit = kin_stdit_config_default();
    c->stdit.model_max_length = PUBLISHED_TEXT;
    kin_status status = guess_stdit_common(t, &c->stdit);
    if (status != KIN_OK) return status;
    guess_stdit_size(t, &c->stdit);
    return kin_stdit_config_check(t->context, &c->stdit);
}

static kin_status guess_stdit2(const kin_guess_tensors *t, kin_denoiser_config *c) {
    enum { PUBLISHED_SQ_SIZE = 512 };
    c->kind = KIN_DENOISER_STDIT2;
    c->stdit2 = kin_stdit2_config_default();
    c->stdit2.common.model_max_length = PUBLISHED_TEXT_2;
    c->stdit2.input_sq_size = PUBLISHED_SQ_SIZE;
    c->stdit2.qk_norm = kin_guess_find(t, "blocks.0.attn.q_norm.weight") != NULL;
    kin_status status = guess_stdit_common(t, &c->stdit2.common);
    return status == KIN_OK ? kin_stdit2_config_check(t->context, &c->stdit2) : status;
}

/* ---- PixArt and what grew from it ---------------------------------------------------------- */

/* The names of PixArt's original and of diffusers for what is looked at. */
typedef struct pixart_names {
    const char *patch, *before, *after, *head, *caption, *aspect;
} pixart_names;

static const pixart_names original_names = {
    "x_embedder.proj.weight",       "blocks.",
    ".scale_shift_table",           "final_layer.linear.weight",
    "y_embedder.y_proj.fc1.weight", "ar_embedder.mlp.0.weight"};
static const pixart_names diffusers_names = {
    "pos_embed.proj.weight",
    "transformer_blocks.",
    ".scale_shift_table",
    "proj_out.weight",
    "caption_projection.linear_1.weight",
    "adaln_single.emb.aspect_ratio_embedder.linear_1.weight"};

static kin_status fail_pixart(const kin_guess_tensors *t, const char *what) {
    return kin_fail(t->context, KIN_UNSUPPORTED,
                    "%s: the tensors are named as %s's, but their shapes are not its", t->path,
                    what);
}

/* The rows of latents that PixArt was trained with: micro-conditions mean 1024 pixels. */
static void guess_pixart_size(const kin_guess_tensors *t, bool latte, kin_pixart_config *c) {
    enum { FACTOR = 8, SMALL = 32 };
    int frames = 0, side = FACTOR * c->sample_size;
    int64_t sites = kin_guess_size(t, "pos_embed.pos_embed", 1);
    if (!sites) sites = kin_guess_size(t, "pos_embed", 1);
    int root = (int)lround(sqrt((double)sites));
    if (c->use_additional_conditions) side = 1024;
    else if (sites > 0 && sites < 1 << 20 && (int64_t)root * root == sites)
        side = FACTOR * root * c->patch_size;
    else if (!latte) size_in_name(t->path, &frames, &side);
    c->sample_size = side / FACTOR;
    c->interpolation_scale = c->sample_size / 64 > 1 ? c->sample_size / 64 : 1;
    if (!latte && c->sample_size == SMALL) c->interpolation_scale = 0.5;
}

static kin_status guess_pixart(const kin_guess_tensors *t, const pixart_names *names, bool latte,
                               kin_denoiser_config *out) {
    kin_pixart_config *c = &out->pixart;
    const char *what = latte ? "Latte" : "PixArt";
    out->kind = latte ? KIN_DENOISER_LATTE : KIN_DENOISER_PIXART;
    *c = latte ? kin_latte_config_default() : kin_pixart_config_default();
    const kin_desc *patch = kin_guess_find(t, names->patch);
    if (!patch || patch->rank != 4 || !to_int(patch->dims[1], &c->in_channels) ||
        !to_int(patch->dims[2], &c->patch_size) ||
        !to_int(kin_guess_size(t, names->caption, 1), &c->caption_channels))
        return fail_pixart(t, what);
    int64_t width = patch->dims[0], area = patch->dims[2] * patch->dims[3];
    int64_t out_rows = kin_guess_size(t, names->head, 0);
    c->num_layers = count_blocks(t, names->before, names->after);
    if (c->num_layers < 1 || area < 1 || out_rows % area != 0 ||
        !to_int(out_rows / area, &c->out_channels))
        return fail_pixart(t, what);
    c->use_additional_conditions = kin_guess_find(t, names->aspect) != NULL;
    kin_status status = guess_heads(t, width, 0, &c->num_attention_heads);
    if (status != KIN_OK) return status;
    c->attention_head_dim = (int)(width / c->num_attention_heads);
    guess_pixart_size(t, latte, c);
    return kin_pixart_config_check(t->context, c);
}

static kin_status guess_opensora_plan(const kin_guess_tensors *t, kin_denoiser_config *out) {
    const pixart_names *names = &diffusers_names;
    const kin_desc *patch = kin_guess_find(t, names->patch);
    bool small = strstr(t->path, "480p") != NULL;
    const char *name = small ? "OpenSoraT2V-ROPE-L/122-480p" : "OpenSoraT2V-ROPE-L/122";
    kin_opensora_plan_config *c = &out->opensora_plan;
    out->kind = KIN_DENOISER_OPENSORA_PLAN;
    kin_status status = kin_opensora_plan_config_named(t->context, name, c);
    if (status != KIN_OK) return status;
    int64_t volume = 1;
    bool good = patch && (patch->rank == 4 || patch->rank == 5) &&
                to_int(patch->dims[1], &c->in_channels) &&
                to_int(patch->dims[patch->rank - 1], &c->patch_size);
    if (good && patch->rank == 5) good = to_int(patch->dims[2], &c->patch_size_t);
    for (int i = 2; good && i < patch->rank; i++) volume *= patch->dims[i];
    c->num_layers = count_blocks(t, names->before, names->after);
    good = good && c->num_layers > 0 && volume > 0 &&
           to_int(kin_guess_size(t, names->head, 0) / volume, &c->out_channels) &&
           to_int(kin_guess_size(t, names->caption, 1), &c->caption_channels);
    if (!good) return fail_pixart(t, "OpenSoraT2V");
    /* The widths with heads of 96 and 128 in the published table are multiples of both. */
    status =
        guess_heads(t, patch->dims[0], patch->dims[0] == 2048 ? 128 : 96, &c->num_attention_heads);
    if (status != KIN_OK) return status;
    c->attention_head_dim = (int)(patch->dims[0] / c->num_attention_heads);
    return kin_opensora_plan_config_check(t->context, c);
}

/* ---- which one ------------------------------------------------------------------------------- */

/* Models that share names with these and are not here. */
static kin_status refuse_others(const kin_guess_tensors *t) {
    static const struct {
        const char *name, *what;
    } others[] = {
        {"spatial_blocks.0.scale_shift_table", "STDiT3 of Open-Sora 1.2, which is not here"},
        {"y_embedder.embedding_table.weight",
         "a class-conditional model (Latte, DiT), which has no prompts"},
        {"blocks.0.adaLN_modulation.1.weight", "a DiT, which has no prompts"}};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (kin_guess_find(t, others[i].name))
            return kin_fail(t->context, KIN_UNSUPPORTED, "%s: this is %s", t->path, others[i].what);
    return KIN_OK;
}

/* The system that names and shapes tell. */
static kin_system_kind system_of(const kin_guess_tensors *t) {
    const kin_desc *patch = kin_guess_find(t, "pos_embed.proj.weight");
    if (!patch) {
        if (kin_guess_find(t, "t_block_temp.1.weight")) return KIN_SYSTEM_OPEN_SORA_1_1;
        return kin_guess_find(t, "blocks.0.attn_temp.qkv.weight") ? KIN_SYSTEM_OPEN_SORA_1_0
                                                                  : KIN_SYSTEM_PIXART;
    }
    if (kin_guess_has_time(t->file)) return KIN_SYSTEM_LATTE;
    if (kin_guess_find(t, diffusers_names.aspect)) return KIN_SYSTEM_PIXART;
    /* PixArt predicts a variance beside the noise. */
    int64_t in = 1;
    for (int i = 1; i < patch->rank; i++) in *= patch->dims[i];
    return kin_guess_size(t, diffusers_names.head, 0) == in ? KIN_SYSTEM_OPEN_SORA_PLAN
                                                            : KIN_SYSTEM_PIXART;
}

kin_status kin_guess_denoiser(kin_context *context, const kin_checkpoint *file, const char *path,
                              const kin_system_kind *forced, kin_denoiser_config *out_config) {
    kin_guess_tensors t;
    kin_denoiser_config c = {.kind = KIN_DENOISER_STDIT};
    if (!open_tensors(context, file, path, &t)) {
        kin_part_kind part = kin_guess_part(file);
        return kin_fail(context, KIN_UNSUPPORTED, "%s: no denoiser that is known%s%s", path,
                        part < KIN_PART_KINDS ? "; it looks like a part of one: " : "",
                        part < KIN_PART_KINDS ? kin_part_name(part) : "");
    }
    kin_status status = refuse_others(&t);
    if (status != KIN_OK) return status;
    kin_system_kind kind = system_of(&t);
    bool original = kin_guess_find(&t, original_names.patch) != NULL;
    /* Only these two have the same names. */
    if (forced && !original && (kind == KIN_SYSTEM_PIXART || kind == KIN_SYSTEM_OPEN_SORA_PLAN) &&
        (*forced == KIN_SYSTEM_PIXART || *forced == KIN_SYSTEM_OPEN_SORA_PLAN))
        kind = *forced;
    if (kind == KIN_SYSTEM_OPEN_SORA_1_0) status = guess_stdit(&t, &c);
    else if (kind == KIN_SYSTEM_OPEN_SORA_1_1) status = guess_stdit2(&t, &c);
    else if (kind == KIN_SYSTEM_OPEN_SORA_PLAN) status = guess_opensora_plan(&t, &c);
    else
        status = guess_pixart(&t, original ? &original_names : &diffusers_names,
                              kind == KIN_SYSTEM_LATTE, &c);
    if (status == KIN_OK) *out_config = c;
    return status;
}
