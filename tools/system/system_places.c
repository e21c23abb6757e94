/* Files of weights by their names: in folders of the hub, of diffusers and of trainings. */
#define _POSIX_C_SOURCE 200809L
#include "tools/system/system_internal.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int compare_texts(const void *a, const void *b) {
    const char *const *x = a;
    const char *const *y = b;
    return strcmp(*x, *y);
}

kin_status kin_listing_open(kin_context *context, const char *folder, kin_listing *out) {
    size_t capacity = 0;
    kin_status status = KIN_OK;
    *out = (kin_listing){0};
    DIR *handle = opendir(folder);
    if (!handle) return kin_fail(context, KIN_NOT_FOUND, "%s: this folder cannot be read", folder);
    for (struct dirent *entry; status == KIN_OK && (entry = readdir(handle));) {
        if (entry->d_name[0] == '.') continue;
        if (out->count == capacity) {
            size_t more = capacity ? 2 * capacity : 32;
            char **names = kin_realloc(context, out->names, more * sizeof *names);
            if (!names) {
                status = KIN_OUT_OF_MEMORY;
                break;
            }
            out->names = names;
            capacity = more;
        }
        out->names[out->count] = kin_strdup(context, entry->d_name);
        if (out->names[out->count]) out->count++;
        else status = KIN_OUT_OF_MEMORY;
    }
    closedir(handle);
    if (status == KIN_OK && out->count)
        qsort(out->names, out->count, sizeof *out->names, compare_texts);
    if (status != KIN_OK) kin_listing_close(context, out);
    return status;
}

void kin_listing_close(kin_context *context, kin_listing *listing) {
    for (size_t i = 0; i < listing->count; i++) kin_free(context, listing->names[i]);
    kin_free(context, listing->names);
    *listing = (kin_listing){0};
}

kin_status kin_place_join(kin_context *context, const char *folder, const char *name,
                          char **out_path) {
    *out_path = kin_path_join(context, folder, name);
    if (!*out_path) return KIN_OUT_OF_MEMORY;
    if (kin_file_exists(*out_path)) return KIN_OK;
    kin_free(context, *out_path);
    *out_path = NULL;
    return KIN_OK;
}

char *kin_place_parent(kin_context *context, const char *path) {
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/') length--;
    size_t start = length;
    while (start > 0 && path[start - 1] != '/') start--;
    size_t name = length - start;
    /* The last name leads downwards only if it is none of these. */
    if (name == 0 || (name == 1 && path[start] == '.') ||
        (name == 2 && path[start] == '.' && path[start + 1] == '.'))
        return length == 1 && path[0] == '/' ? kin_strdup(context, "/")
                                             : kin_format(context, "%.*s/..", (int)length, path);
    while (start > 1 && path[start - 1] == '/') start--;
    return start ? kin_strndup(context, path, start) : kin_strdup(context, ".");
}

/* The hub keeps a model as refs/main, which names one of the folders in snapshots. */
static kin_status choose_snapshot(kin_context *context, const char *path, const char *snapshots,
                                  char **out_path) {
    enum { REF_LIMIT = 4096 };
    char *ref = kin_path_join(context, path, "refs/main"), *name = NULL;
    kin_status status = ref ? KIN_OK : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK && kin_file_exists(ref)) {
        status = kin_file_read_all(context, ref, REF_LIMIT, &name, NULL);
        if (status == KIN_OK) name[strcspn(name, "\r\n/")] = '\0';
        if (status == KIN_OK && name[0] && name[0] != '.')
            status = kin_place_join(context, snapshots, name, out_path);
    }
    kin_free(context, name);
    kin_free(context, ref);
    if (status != KIN_OK || *out_path) return status;
    kin_listing listing;
    status = kin_listing_open(context, snapshots, &listing);
    if (status != KIN_OK) return status;
    if (listing.count != 1)
        status = kin_fail(context, listing.count ? KIN_INVALID : KIN_NOT_FOUND,
                          "%s: %zu snapshots; name one of them", snapshots, listing.count);
    else if (!(*out_path = kin_path_join(context, snapshots, listing.names[0])))
        status = KIN_OUT_OF_MEMORY;
    kin_listing_close(context, &listing);
    return status;
}

kin_status kin_place_of_part(kin_context *context, const char *path, char **out_path) {
    kin_status status = kin_place_resolve(context, path, out_path);
    if (status != KIN_OK || kin_file_is_folder(*out_path)) return status;
    const char *place = *out_path, *slash = strrchr(place, '/');
    if (!kin_path_ends_with(place, ".json") || strstr(slash ? slash : place, ".index."))
        return KIN_OK;
    char *folder = kin_path_folder(context, place);
    kin_free(context, *out_path);
    *out_path = folder;
    return folder ? KIN_OK : KIN_OUT_OF_MEMORY;
}

kin_status kin_place_resolve(kin_context *context, const char *path, char **out_path) {
    *out_path = NULL;
    if (!kin_file_exists(path))
        return kin_fail(context, KIN_NOT_FOUND, "%s: there is no such file or folder", path);
    char *snapshots = kin_path_join(context, path, "snapshots");
    if (!snapshots) return KIN_OUT_OF_MEMORY;
    kin_status status = KIN_OK;
    if (kin_file_is_folder(snapshots)) {
        status = choose_snapshot(context, path, snapshots, out_path);
    } else {
        size_t length = strlen(path);
        while (length > 1 && path[length - 1] == '/') length--;
        *out_path = kin_strndup(context, path, length);
        if (!*out_path) status = KIN_OUT_OF_MEMORY;
    }
    kin_free(context, snapshots);
    return status;
}

/* ---- weights in a folder --------------------------------------------------------------------- */

/* Parts of a training's state that are no model. */
static bool is_state(const char *name) {
    static const char *const states[] = {"optimizer",     "scheduler", "random_states",
                                         "training_args", "scaler",    "rng_state",
                                         "lr_scheduler",  "sampler",   "running_states"};
    for (size_t i = 0; i < sizeof states / sizeof *states; i++)
        if (strncmp(name, states[i], strlen(states[i])) == 0) return true;
    return false;
}

/* "model-00001-of-00002.safetensors" */
static bool is_shard(const char *name) {
    const char *of = strstr(name, "-of-");
    return of && of > name && of[-1] >= '0' && of[-1] <= '9' && of[4] >= '0' && of[4] <= '9';
}

/* "0073000.pt": what Latte's training calls its checkpoints. */
static bool is_number(const char *name) {
    size_t digits = strspn(name, "0123456789");
    return digits > 0 && name[digits] == '.';
}

/* Of several names the newest, if they are all numbers of steps, or that of Latte's text-to-video
 * weights; NULL if nobody can tell. */
static const char *choose_name(const kin_listing *names) {
    const char *newest = NULL;
    bool numbers = true;
    for (size_t i = 0; i < names->count; i++) {
        if (strcmp(names->names[i], "t2v.pt") == 0) return names->names[i];
        numbers = numbers && is_number(names->names[i]);
        if (!newest || strlen(names->names[i]) > strlen(newest) ||
            (strlen(names->names[i]) == strlen(newest) && strcmp(names->names[i], newest) > 0))
            newest = names->names[i];
    }
    return numbers ? newest : NULL;
}

static kin_status fail_several(kin_context *context, const char *folder, const kin_listing *names) {
    char list[256];
    size_t used = 0;
    for (size_t i = 0; i < names->count && used + 1 < sizeof list; i++) {
        int length =
            snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", names->names[i]);
        used += length > 0 ? (size_t)length : 0;
    }
    return kin_fail(context, KIN_INVALID, "%s: several files of weights: %s; name one of them",
                    folder, list);
}

/* Files that only their ending tells. */
static kin_status find_loose(kin_context *context, const char *folder, char **out_path) {
    static const char *const endings[] = {".safetensors", ".ckpt", ".pth", ".pt", ".bin"};
    kin_listing all, some = {0};
    kin_status status = kin_listing_open(context, folder, &all);
    if (status != KIN_OK) return status;
    bool shards = false;
    const char *index = NULL;
    some.names = kin_calloc(context, all.count + 1, sizeof *some.names);
    if (!some.names) status = KIN_OUT_OF_MEMORY;
    for (size_t i = 0; status == KIN_OK && i < all.count; i++) {
        shards = shards || is_shard(all.names[i]);
        if (kin_path_ends_with(all.names[i], ".json") && strstr(all.names[i], ".index."))
            index = all.names[i];
    }
    const char *chosen = index;
    for (size_t e = 0; status == KIN_OK && !chosen && e < sizeof endings / sizeof *endings; e++) {
        some.count = 0;
        for (size_t i = 0; i < all.count; i++)
            if (kin_path_ends_with(all.names[i], endings[e]) && !is_shard(all.names[i]) &&
                !is_state(all.names[i]))
                some.names[some.count++] = all.names[i];
        chosen = some.count == 1 ? some.names[0] : choose_name(&some);
        if (!chosen && some.count) status = fail_several(context, folder, &some);
    }
    if (status == KIN_OK && !chosen && shards)
        status = kin_fail(context, KIN_NOT_FOUND,
                          "%s: shards of weights without their index (.index.json)", folder);
    if (status == KIN_OK && chosen && !(*out_path = kin_path_join(context, folder, chosen)))
        status = KIN_OUT_OF_MEMORY;
    kin_free(context, some.names);
    kin_listing_close(context, &all);
    return status;
}

kin_status kin_place_weights(kin_context *context, const char *folder, char **out_path) {
    static const char *const names[] = {"model.safetensors",
                                        "diffusion_pytorch_model.safetensors",
                                        "model.safetensors.index.json",
                                        "diffusion_pytorch_model.safetensors.index.json",
                                        "pytorch_model.bin",
                                        "diffusion_pytorch_model.bin",
                                        "pytorch_model.bin.index.json",
                                        "diffusion_pytorch_model.bin.index.json"};
    kin_status status = KIN_OK;
    *out_path = NULL;
    for (size_t i = 0; status == KIN_OK && !*out_path && i < sizeof names / sizeof *names; i++)
        status = kin_place_join(context, folder, names[i], out_path);
    if (status != KIN_OK || *out_path) return status;
    return find_loose(context, folder, out_path);
}
