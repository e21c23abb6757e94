/* What training leaves: OUTPUT/model, with the keys, dtypes and layout of the published files. */
#define _POSIX_C_SOURCE 200809L
#include "tools/train/train_video.h"

#include "runtime/file.h"
#include "runtime/json.h"
#include "runtime/safetensors.h"
#include "runtime/weights.h"
#include "tools/system/model_folder.h"

#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- files that are not trained ---- */

/* Puts the file into the folder under its own name: a second name for the same bytes where the file
 * system can do that, else a copy. */
static kin_status place_file(kin_context *context, const char *source, const char *folder,
                             const char *name) {
    struct stat from, to;
    char *target = kin_path_join(context, folder, name);
    if (!target) return KIN_OUT_OF_MEMORY;
    kin_status status = KIN_OK;
    bool there = stat(target, &to) == 0;
    bool same =
        there && stat(source, &from) == 0 && from.st_dev == to.st_dev && from.st_ino == to.st_ino;
    if (!same) {
        if (there) unlink(target);
        /* of the file itself: the hub's caches are full of symbolic links */
        if (linkat(AT_FDCWD, source, AT_FDCWD, target, AT_SYMLINK_FOLLOW) != 0)
            status = kin_copy_file(context, source, target);
    }
    kin_free(context, target);
    return status;
}

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* The shards that an index names. */
static kin_status place_shards(kin_context *context, const char *index, const char *folder) {
    json_t *json = NULL;
    const char *key, *last = "";
    json_t *shard;
    char *from = kin_path_folder(context, index);
    kin_status status = from ? kin_json_load(context, index, &json) : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK) {
        json_object_foreach(json_object_get(json, "weight_map"), key, shard) {
            const char *name = json_string_value(shard);
            if (status != KIN_OK || !name || strcmp(name, last) == 0) continue;
            char *source = kin_path_join(context, from, name);
            status = source ? place_file(context, source, folder, name) : KIN_OUT_OF_MEMORY;
            kin_free(context, source);
            last = name;
        }
    }
    json_decref(json);
    kin_free(context, from);
    return status;
}

/* The weights of a part, and its configuration `json`, which is freed. */
static kin_status place_part(kin_context *context, const kin_part *part, json_t *json,
                             const char *folder) {
    kin_status status = json ? kin_write_json(context, folder, "config.json", json)
                             : kin_fail(context, KIN_OUT_OF_MEMORY, "no memory for %s", folder);
    if (status == KIN_OK) status = place_file(context, part->path, folder, base_name(part->path));
    if (status == KIN_OK && kin_path_ends_with(part->path, ".json"))
        status = place_shards(context, part->path, folder);
    return status;
}

/* ---- the denoiser ---- */

enum { MAX_TABLES = 2 };

/* A constant that the original keeps in its state dict. */
typedef struct table {
    const char *name;
    int rank;
    int64_t dims[3];
    float *values;
} table;

/* Frame or grid positions: [1, count, width] of the sines, then the cosines of place * w_k. */
static void fill_waves(float *out, int64_t count, int64_t stride, int64_t half, double step,
                       int64_t first, int64_t repeat) {
    for (int64_t i = 0; i < count; i++)
        for (int64_t k = 0; k < half; k++) {
            double place = (double)(first + i / repeat) * step;
            double angle = place * pow(10000, -(double)k / (double)half);
            out[i * stride + k] = (float)sin(angle);
            out[i * stride + half + k] = (float)cos(angle);
        }
}

/* STDiT's pos_embed [1, S, C] (columns first) and pos_embed_temporal [1, T, C]; STDiT2's rope.freqs
 * [head / 2]. Originals compute them and take no notice of what files have, but their state dicts
 * have them. */
static kin_status make_tables(kin_context *context, const kin_denoiser_config *config,
                              table out[MAX_TABLES], int *out_count) {
    *out_count = 0;
    if (config->kind == KIN_DENOISER_STDIT2) {
        const kin_stdit_config *c = &config->stdit2.common;
        int head = c->hidden_size / c->num_heads, half = head / 2;
        out[0] = (table){"rope.freqs", 1, {half, 0, 0}, NULL};
        out[0].values = kin_alloc(context, (size_t)half * sizeof(float));
        if (!out[0].values) return KIN_OUT_OF_MEMORY;
        for (int i = 0; i < half; i++) out[0].values[i] = (float)pow(10000, -2.0 * i / head);
        *out_count = 1;
        return KIN_OK;
    }
    const kin_stdit_config *c = &config->stdit;
    if (config->kind != KIN_DENOISER_STDIT || c->input_size[0] < 1) return KIN_OK;
    int64_t grid[3], width = c->hidden_size, quarter = width / 4;
    for (int i = 0; i < 3; i++)
        grid[i] = (c->input_size[i] + c->patch_size[i] - 1) / c->patch_size[i];
    int64_t sites = grid[1] * grid[2];
    out[0] = (table){"pos_embed", 3, {1, sites, width}, NULL};
    out[1] = (table){"pos_embed_temporal", 3, {1, grid[0], width}, NULL};
    *out_count = 2;
    out[0].values = kin_alloc(context, (size_t)(sites * width) * sizeof(float));
    out[1].values = kin_alloc(context, (size_t)(grid[0] * width) * sizeof(float));
    if (!out[0].values || !out[1].values) return KIN_OUT_OF_MEMORY;
    for (int64_t row = 0; row < grid[1]; row++) {
        float *at = out[0].values + row * grid[2] * width;
        fill_waves(at, grid[2], width, quarter, 1 / c->space_scale, 0, 1);
        fill_waves(at + 2 * quarter, grid[2], width, quarter, 1 / c->space_scale, row, grid[2]);
    }
    fill_waves(out[1].values, grid[0], width, width / 2, 1 / c->time_scale, 0, 1);
    return KIN_OK;
}

/* The store's side of the file's tensors. */
typedef struct writing {
    kin_store *store;
    char **names; /* in the store; NULL: a table, whose values are there */
} writing;

static kin_status fill_tensor(void *user, size_t index, void *bytes, size_t size) {
    const writing *w = user;
    (void)size;
    return kin_store_read(w->store, w->names[index], KIN_F32, bytes);
}

/* Weights and buffers under "denoiser.", averaged where there are averages, and the tables, as
 * f32. */
static kin_status write_weights(kin_context *context, kin_store *store, const char *path,
                                const table *tables, int table_count) {
    static const char prefix[] = "denoiser.";
    const size_t skip = sizeof prefix - 1;
    size_t room = kin_store_count(store) + MAX_TABLES, count = 0;
    kin_named_tensor *list = kin_calloc(context, room, sizeof *list);
    writing w = {store, kin_calloc(context, room, sizeof *w.names)};
    kin_status status = list && w.names ? KIN_OK : KIN_OUT_OF_MEMORY;
    for (size_t i = 0; status == KIN_OK && i < kin_store_count(store); i++) {
        const kin_store_entry *entry = kin_store_at(store, i);
        if (entry->kind == KIN_VARIABLE_STATE || strncmp(entry->name, prefix, skip) != 0) continue;
        char *average = kin_format(context, "%s%s", KIN_EMA_PREFIX, entry->name);
        if (!average) status = KIN_OUT_OF_MEMORY;
        else if (!kin_store_find(store, average)) {
            kin_free(context, average);
            average = kin_strdup(context, entry->name);
            if (!average) status = KIN_OUT_OF_MEMORY;
        }
        w.names[count] = average;
        list[count].name = entry->name + skip;
        list[count++].desc = kin_desc_dense(KIN_F32, entry->desc.rank, entry->desc.dims);
    }
    for (int i = 0; i < table_count; i++)
        list[count++] = (kin_named_tensor){tables[i].name,
                                           kin_desc_dense(KIN_F32, tables[i].rank, tables[i].dims),
                                           tables[i].values};
    kin_metadata format = {"format", "pt"};
    if (status == KIN_OK)
        status = kin_safetensors_write(context, path, list, count, &format, 1, fill_tensor, &w);
    for (size_t i = 0; w.names && i < count; i++) kin_free(context, w.names[i]);
    kin_free(context, (void *)w.names);
    kin_free(context, list);
    return status;
}

static kin_status export_denoiser(kin_video_task *t, kin_store *store, const char *folder) {
    const kin_denoiser_config *config = &t->parts.denoiser;
    const char *name = config->kind == KIN_DENOISER_STDIT2
                           ? "model.safetensors" /* transformers' name, as published */
                           : "diffusion_pytorch_model.safetensors";
    table tables[MAX_TABLES] = {{0}};
    int count = 0;
    json_t *json = NULL;
    char *path = kin_path_join(t->context, folder, name);
    kin_status status =
        path ? kin_denoiser_config_json(t->context, config, &json) : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK) status = kin_write_json(t->context, folder, "config.json", json);
    if (status == KIN_OK) status = make_tables(t->context, config, tables, &count);
    if (status == KIN_OK) status = write_weights(t->context, store, path, tables, count);
    for (int i = 0; i < MAX_TABLES; i++) kin_free(t->context, tables[i].values);
    kin_free(t->context, path);
    return status;
}

/* ---- the folder ---- */

static kin_status export_text_encoder(kin_video_task *t, kin_store *store, const char *folder) {
    kin_metadata format = {"format", "pt"};
    const kin_part *part = &t->parts.text_files;
    kin_status status = kin_write_t5_config(t->context, folder, &t->parts.text);
    if (status != KIN_OK) return status;
    if (!t->config->train_text_encoder) {
        json_t *json = NULL; /* the original's has more keys than are known here */
        if (part->config) status = kin_json_load(t->context, part->config, &json);
        if (json) return place_part(t->context, part, json, folder);
        if (status == KIN_OK)
            status = place_file(t->context, part->path, folder, base_name(part->path));
        return status;
    }
    char *file = kin_path_join(t->context, folder, "model.safetensors");
    if (!file) return KIN_OUT_OF_MEMORY;
    status = kin_weights_save(store, file, "text_encoder", KIN_EMA_PREFIX, KIN_F32, &format, 1);
    kin_free(t->context, file);
    return status;
}

double kin_train_clip_rate(const kin_video_task *task) {
    double rate = kin_dataset_fps(task->data);
    return rate > 0 ? rate : 8;
}

/* Kind, parts and recommendations. */
static kin_status export_index(kin_video_task *t, const char *root) {
    kin_system system = {.context = t->context,
                         .denoiser = t->parts.denoiser,
                         .vae = t->parts.vae,
                         .text_encoder = t->parts.text,
                         .defaults = t->parts.defaults};
    static const kin_system_kind kinds[] = {[KIN_DENOISER_STDIT] = KIN_SYSTEM_OPEN_SORA_1_0,
                                            [KIN_DENOISER_STDIT2] = KIN_SYSTEM_OPEN_SORA_1_1,
                                            [KIN_DENOISER_LATTE] = KIN_SYSTEM_LATTE,
                                            [KIN_DENOISER_PIXART] = KIN_SYSTEM_PIXART,
                                            [KIN_DENOISER_OPENSORA_PLAN] =
                                                KIN_SYSTEM_OPEN_SORA_PLAN};
    system.kind = kinds[t->parts.denoiser.kind];
    if (t->config->validation.fps <= 0 && system.kind != KIN_SYSTEM_OPEN_SORA_1_1)
        system.defaults.fps = kin_train_clip_rate(t);
    return kin_system_write_index(&system, root);
}

kin_status kin_train_export(kin_video_task *task, kin_store *store) {
    kin_context *context = task->context;
    const char *output = task->config->output;
    enum { DENOISER, TEXT, VAE, TOKENIZER, PARTS };
    static const char *const names[PARTS] = {"transformer", "text_encoder", "vae", "tokenizer"};
    char *root = kin_path_join(context, output, "model"), *folders[PARTS] = {NULL};
    json_t *vae = NULL;
    kin_status status = root ? KIN_OK : KIN_OUT_OF_MEMORY;
    for (int i = 0; status == KIN_OK && i < PARTS; i++) {
        folders[i] = kin_path_join(context, root, names[i]);
        status = folders[i] ? kin_make_folders(context, folders[i]) : KIN_OUT_OF_MEMORY;
    }
    if (status == KIN_OK) status = export_denoiser(task, store, folders[DENOISER]);
    if (status == KIN_OK) status = export_text_encoder(task, store, folders[TEXT]);
    if (status == KIN_OK) status = kin_vae_config_json(context, &task->parts.vae, &vae);
    if (status == KIN_OK) status = place_part(context, &task->parts.vae_files, vae, folders[VAE]);
    if (status == KIN_OK)
        status = place_file(context, task->parts.tokenizer, folders[TOKENIZER], "spiece.model");
    if (status == KIN_OK) status = export_index(task, root);
    for (int i = 0; i < PARTS; i++) kin_free(context, folders[i]);
    kin_free(context, root);
    return status;
}
