/* kinora convert: files and folders. */
#define _POSIX_C_SOURCE 200809L
#include "tools/system/convert.h"

#include "runtime/json.h"
#include "tools/system/model_folder.h"
#include "tools/system/system_internal.h"
#include "tools/system/weight_files.h"

#include <stdio.h>
#include <string.h>

enum { MAX_DEPTH = 8 };

static const char *const pickle_endings[] = {".pth", ".pt", ".ckpt", ".bin"};

/* The ending of a file of weights; NULL if it is none. */
static const char *weights_ending(const char *name) {
    static const char *const endings[] = {".safetensors", ".pth", ".pt", ".ckpt", ".bin"};
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
        if (kin_path_ends_with(name, endings[i])) return endings[i];
    return NULL;
}

static const char *last_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* The name of the target without its ending: that of the source, but as the libraries that read
 * safetensors look for it. */
static char *target_base(kin_context *context, const char *source) {
    const char *name = last_name(source);
    size_t length = strlen(name);
    static const char index[] = ".index.json";
    if (kin_path_ends_with(name, index)) length -= sizeof index - 1;
    char *base = kin_strndup(context, name, length);
    if (!base) return NULL;
    const char *ending = weights_ending(base);
    if (ending) base[strlen(base) - strlen(ending)] = 0;
    const char *better = strcmp(base, "pytorch_model") == 0 ? "model"
                         : strcmp(base, "checkpoint") == 0  ? "diffusion_pytorch_model"
                                                            : NULL;
    if (!better) return base;
    kin_free(context, base);
    return kin_strdup(context, better);
}

/* Lines name the final folder, not the one that is written to. */
typedef struct renaming {
    const kin_convert_options *options;
    const kin_staging *staging;
} renaming;

static void tell_renamed(void *user, const char *line) {
    const renaming *r = user;
    const char *at = strstr(line, r->staging->folder);
    char text[4096];
    if (!at) {
        r->options->told(r->options->told_user, line);
        return;
    }
    snprintf(text, sizeof text, "%.*s%s%s", (int)(at - line), line, r->staging->target,
             at + strlen(r->staging->folder));
    r->options->told(r->options->told_user, text);
}

static kin_convert_options staged(const kin_convert_options *options, renaming *r) {
    kin_convert_options o = *options;
    if (o.told) {
        o.told = tell_renamed;
        o.told_user = r;
    }
    return o;
}

/* ---- folders ---- */

/* A configuration says in which dtype the weights are. */
static kin_status copy_config(kin_context *context, const char *source, const char *folder,
                              const char *dtype) {
    json_t *root = NULL;
    kin_status status = kin_json_load(context, source, &root);
    const char *name = !dtype                       ? NULL
                       : strcmp(dtype, "f16") == 0  ? "float16"
                       : strcmp(dtype, "bf16") == 0 ? "bfloat16"
                       : strcmp(dtype, "f32") == 0  ? "float32"
                                                    : NULL;
    if (status != KIN_OK) return status;
    if (name && json_object_get(root, "torch_dtype"))
        json_object_set_new(root, "torch_dtype", json_string(name));
    return kin_write_json(context, folder, last_name(source), root);
}

static kin_status copy_other(kin_context *context, const char *source, const char *folder,
                             const char *dtype) {
    if (strcmp(last_name(source), "config.json") == 0)
        return copy_config(context, source, folder, dtype);
    char *target = kin_path_join(context, folder, last_name(source));
    kin_status status = target ? kin_make_folders(context, folder) : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK) status = kin_copy_file(context, source, target);
    kin_free(context, target);
    return status;
}

static kin_status convert_into(kin_context *context, const char *source, const char *folder,
                               const kin_convert_options *options) {
    char *base = target_base(context, source);
    if (!base) return KIN_OUT_OF_MEMORY;
    kin_status status = kin_make_folders(context, folder);
    if (status == KIN_OK)
        status = kin_convert_checkpoint(context, source, folder, base, ".safetensors", options);
    kin_free(context, base);
    return status;
}

static kin_status walk(kin_context *context, const char *source, const char *folder,
                       const kin_convert_options *options, int depth, size_t *found);

/* One name of a folder. chosen: the weights of the folder; NULL: all that look like some. */
static kin_status walk_one(kin_context *context, const char *path, const char *folder,
                           const char *chosen, const kin_convert_options *options, int depth,
                           size_t *found) {
    bool index = kin_path_ends_with(path, ".index.json");
    if (kin_file_is_folder(path)) {
        char *inside = kin_path_join(context, folder, last_name(path));
        kin_status status =
            inside ? walk(context, path, inside, options, depth + 1, found) : KIN_OUT_OF_MEMORY;
        kin_free(context, inside);
        return status;
    }
    if (!index && !weights_ending(path)) return copy_other(context, path, folder, options->dtype);
    if (chosen ? strcmp(chosen, path) == 0 : !index) {
        ++*found;
        return convert_into(context, path, folder, options);
    }
    if (!index && !strstr(last_name(path), "-of-"))
        kin_log(context, KIN_LOG_WARN, "%s: left out, for the folder's weights are in %s", path,
                chosen ? last_name(chosen) : "other files");
    return KIN_OK;
}

static kin_status walk(kin_context *context, const char *source, const char *folder,
                       const kin_convert_options *options, int depth, size_t *found) {
    kin_listing names;
    char *chosen = NULL;
    if (depth > MAX_DEPTH)
        return kin_fail(context, KIN_INVALID, "%s: folders within folders, more than %d deep",
                        source, MAX_DEPTH);
    kin_status status = kin_listing_open(context, source, &names);
    if (status != KIN_OK) return status;
    status = kin_place_weights(context, source, &chosen);
    if (status == KIN_INVALID) status = KIN_OK; /* several: all of them */
    for (size_t i = 0; status == KIN_OK && i < names.count; i++) {
        char *path = kin_path_join(context, source, names.names[i]);
        status = path ? walk_one(context, path, folder, chosen, options, depth, found)
                      : KIN_OUT_OF_MEMORY;
        kin_free(context, path);
    }
    kin_free(context, chosen);
    kin_listing_close(context, &names);
    return status;
}

static kin_status convert_folder(kin_context *context, const char *source, const char *target,
                                 const kin_convert_options *options) {
    kin_staging staging;
    renaming names = {options, &staging};
    kin_convert_options inner = staged(options, &names);
    size_t found = 0;
    char *place = NULL;
    kin_status status = kin_place_resolve(context, source, &place);
    if (status == KIN_OK) status = kin_staging_open(context, target, &staging);
    if (status == KIN_OK) {
        status = walk(context, place, staging.folder, &inner, 0, &found);
        if (status == KIN_OK && found == 0)
            status = kin_fail(context, KIN_NOT_FOUND, "%s: no weights in it", source);
        if (status == KIN_OK) status = kin_staging_commit(&staging);
        kin_staging_abandon(&staging);
    }
    kin_free(context, place);
    return status;
}

/* ---- single targets ---- */

static kin_status convert_to_folder(kin_context *context, const char *source, const char *target,
                                    const kin_convert_options *options) {
    kin_staging staging;
    renaming names = {options, &staging};
    kin_convert_options inner = staged(options, &names);
    kin_status status = kin_staging_open(context, target, &staging);
    if (status != KIN_OK) return status;
    status = convert_into(context, source, staging.folder, &inner);
    if (status == KIN_OK) status = kin_staging_commit(&staging);
    kin_staging_abandon(&staging);
    return status;
}

static kin_status convert_to_file(kin_context *context, const char *source, const char *target,
                                  const char *ending, const kin_convert_options *options) {
    if (options->shard_bytes)
        return kin_fail(context, KIN_INVALID,
                        "%s: shards and their index are written into a folder: name one as the "
                        "target",
                        target);
    char *folder = kin_path_folder(context, target);
    const char *name = last_name(target);
    char *base = kin_strndup(context, name, strlen(name) - strlen(ending));
    kin_status status = folder && base ? kin_make_folders(context, folder) : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK)
        status = kin_convert_checkpoint(context, source, folder, base, ending, options);
    kin_free(context, folder);
    kin_free(context, base);
    return status;
}

kin_status kin_convert_weights(kin_context *context, const char *source, const char *target,
                               const kin_convert_options *options) {
    const char *ending = weights_ending(target);
    bool pickled = false;
    for (size_t i = 0; i < sizeof pickle_endings / sizeof *pickle_endings; i++)
        pickled = pickled || (ending && strcmp(ending, pickle_endings[i]) == 0);
    if (options->into && !pickled)
        return kin_fail(context, KIN_INVALID,
                        "%s: only files of torch.save (.pth, .pt, .ckpt, .bin) have entries",
                        target);
    if (!kin_file_exists(source))
        return kin_fail(context, KIN_NOT_FOUND, "%s: there is no such file or folder", source);
    if (kin_file_is_folder(target)) ending = NULL;
    if (ending) {
        char *weights = NULL;
        kin_status status =
            kin_file_is_folder(source) ? kin_place_weights(context, source, &weights) : KIN_OK;
        if (status == KIN_OK && kin_file_is_folder(source) && !weights)
            status = kin_fail(context, KIN_NOT_FOUND,
                              "%s: no weights in it; name one of its parts, or a folder as the "
                              "target",
                              source);
        if (status == KIN_OK)
            status = convert_to_file(context, weights ? weights : source, target, ending, options);
        kin_free(context, weights);
        return status;
    }
    return kin_file_is_folder(source) ? convert_folder(context, source, target, options)
                                      : convert_to_folder(context, source, target, options);
}
