/* Files of weights in the forms that are published. */
#define _XOPEN_SOURCE 700
#include "tools/system/weight_files.h"

#include "runtime/safetensors.h"
#include "tools/system/model_folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { MIB_BITS = 20, LEAST_PROGRESS = 64 << 20 };
enum { MAX_METADATA = 16, MAX_OPEN_FOLDERS = 16, STAGING_ATTEMPTS = 100 };

enum { Q8_0_ROW = 32, LARGE = 65536 };

/* Tables that are looked up, not multiplied. */
static bool is_table(const char *name) {
    static const char *const tables[] = {
        "shared.weight",    "embed_tokens.weight", "relative_attention_bias.weight",
        "embedding.weight", "embeddings.weight",   "pos_embed.weight"};
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        if (kin_path_ends_with(name, tables[i])) return true;
    return false;
}

kin_dtype kin_weight_dtype(const char *name, const kin_desc *desc, kin_dtype wanted) {
    if (!kin_dtype_is_float(desc->dtype)) return desc->dtype;
    if (wanted != KIN_Q8_0) return wanted;
    bool linear = desc->rank == 2 && desc->dims[1] % Q8_0_ROW == 0 && desc->dims[1] > 0 &&
                  kin_path_ends_with(name, ".weight") && !is_table(name);
    if (linear) return KIN_Q8_0;
    return desc->rank > 1 && kin_desc_count(desc) >= LARGE ? KIN_F16 : KIN_F32;
}

uint64_t kin_weight_bytes(const kin_named_tensor *tensors, size_t count) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < count; i++) bytes += kin_desc_bytes(&tensors[i].desc);
    return bytes;
}

/* One file: tensors first .. first + count - 1 of the list. */
typedef struct part {
    kin_context *context;
    kin_fill_piece fill;
    void *user;
    size_t first;
    kin_progress *progress;
    int64_t *done; /* bytes of all files */
} part;

static kin_status fill_part(void *user, size_t index, size_t offset, void *bytes, size_t size) {
    part *p = user;
    if (kin_interrupted()) return kin_fail(p->context, KIN_CANCELLED, "interrupted");
    kin_status status = p->fill(p->user, p->first + index, offset, bytes, size);
    *p->done += (int64_t)size;
    if (status == KIN_OK && p->progress) kin_progress_show(p->progress, *p->done >> MIB_BITS, NULL);
    return status;
}

static bool is_safetensors(const kin_weight_form *form) {
    return strcmp(form->ending, ".safetensors") == 0;
}

static kin_status write_pickle(const part *p, const char *path, const kin_weight_form *form,
                               const kin_named_tensor *tensors, size_t count) {
    kin_pickle_layout layout = form->layout ? *form->layout : (kin_pickle_layout){0};
    kin_pickle_alias *aliases = kin_calloc(p->context, layout.alias_count + 1, sizeof *aliases);
    size_t kept = 0;
    if (!aliases) return KIN_OUT_OF_MEMORY;
    for (size_t i = 0; i < layout.alias_count; i++) {
        size_t tensor = layout.aliases[i].tensor;
        if (tensor < p->first || tensor >= p->first + count) continue;
        aliases[kept++] = (kin_pickle_alias){layout.aliases[i].name, tensor - p->first};
    }
    layout.aliases = aliases;
    layout.alias_count = kept;
    kin_status status =
        kin_pickle_write(p->context, path, tensors, count, &layout, fill_part, (void *)p);
    kin_free(p->context, aliases);
    return status;
}

static kin_status write_part(const part *p, const char *folder, const char *name,
                             const kin_weight_form *form, const kin_named_tensor *tensors,
                             size_t count) {
    kin_metadata metadata[MAX_METADATA] = {{"format", "pt"}};
    size_t metadata_count = 1;
    for (size_t i = 0; i < form->metadata_count && metadata_count < MAX_METADATA; i++)
        if (strcmp(form->metadata[i].key, "format") != 0)
            metadata[metadata_count++] = form->metadata[i];
    char *path = kin_path_join(p->context, folder, name);
    if (!path) return KIN_OUT_OF_MEMORY;
    kin_status status =
        is_safetensors(form)
            ? kin_safetensors_write_pieces(p->context, path, tensors, count, metadata,
                                           metadata_count, fill_part, (void *)p)
            : write_pickle(p, path, form, tensors, count);
    kin_free(p->context, path);
    return status;
}

/* The tensors that follow `first` in one shard. */
static size_t shard_end(const kin_named_tensor *tensors, size_t count, size_t first,
                        uint64_t limit) {
    uint64_t bytes = 0;
    size_t end = first;
    while (end < count) {
        bytes += kin_desc_bytes(&tensors[end].desc);
        if (end > first && bytes > limit) break;
        end++;
    }
    return end;
}

static kin_status add_to_map(json_t *map, const kin_weight_form *form,
                             const kin_named_tensor *tensors, size_t first, size_t end,
                             const char *file) {
    int failed = 0;
    for (size_t i = first; i < end; i++) {
        failed |= json_object_set_new(map, tensors[i].name, json_string(file));
        for (size_t k = 0; !is_safetensors(form) && form->layout && k < form->layout->alias_count;
             k++)
            if (form->layout->aliases[k].tensor == i)
                failed |=
                    json_object_set_new(map, form->layout->aliases[k].name, json_string(file));
    }
    return failed ? KIN_OUT_OF_MEMORY : KIN_OK;
}

static kin_status write_shards(part *p, const char *folder, const kin_weight_form *form,
                               const kin_named_tensor *tensors, size_t count) {
    size_t shards = 0, shard = 0;
    for (size_t at = 0; at < count; at = shard_end(tensors, count, at, form->shard_bytes)) shards++;
    json_t *map = json_object();
    kin_status status = map ? KIN_OK : KIN_OUT_OF_MEMORY;
    for (size_t at = 0; status == KIN_OK && at < count;) {
        char name[512];
        size_t end = shard_end(tensors, count, at, form->shard_bytes);
        snprintf(name, sizeof name, "%s-%05zu-of-%05zu%s", form->base, ++shard, shards,
                 form->ending);
        p->first = at;
        status = write_part(p, folder, name, form, tensors + at, end - at);
        if (status == KIN_OK) status = add_to_map(map, form, tensors, at, end, name);
        at = end;
    }
    char name[512];
    snprintf(name, sizeof name, "%s%s.index.json", form->base, form->ending);
    json_t *index = NULL;
    if (status == KIN_OK) {
        index = json_pack("{s:{s:I}, s:O}", "metadata", "total_size",
                          (json_int_t)kin_weight_bytes(tensors, count), "weight_map", map);
        if (!index) status = KIN_OUT_OF_MEMORY;
    }
    json_decref(map);
    return status == KIN_OK ? kin_write_json(p->context, folder, name, index) : status;
}

kin_status kin_weight_files_write(kin_context *context, const char *folder,
                                  const kin_weight_form *form, const kin_named_tensor *tensors,
                                  size_t count, kin_fill_piece fill, void *fill_user,
                                  kin_progress *progress) {
    int64_t done = 0;
    part p = {.context = context, .fill = fill, .user = fill_user, .progress = progress};
    p.done = &done;
    kin_status status = kin_make_folders(context, folder);
    if (status != KIN_OK) return status;
    uint64_t bytes = kin_weight_bytes(tensors, count);
    if (form->shard_bytes && bytes > form->shard_bytes && count > 1)
        return write_shards(&p, folder, form, tensors, count);
    char name[512];
    snprintf(name, sizeof name, "%s%s", form->base, form->ending);
    return write_part(&p, folder, name, form, tensors, count);
}

kin_progress kin_weight_progress(const char *label, uint64_t bytes, bool quiet) {
    return kin_progress_begin(label, 0, (int64_t)(bytes >> MIB_BITS),
                              quiet || bytes < LEAST_PROGRESS);
}

kin_status kin_need_disk(kin_context *context, const char *folder, uint64_t bytes) {
    char *path = kin_strdup(context, folder);
    struct statvfs disk;
    kin_status status = path ? KIN_OK : KIN_OUT_OF_MEMORY;
    while (status == KIN_OK && statvfs(path, &disk) != 0) {
        char *above = kin_path_folder(context, path);
        bool ended = above && strcmp(above, path) == 0;
        kin_free(context, path);
        path = above;
        if (!path) status = KIN_OUT_OF_MEMORY;
        else if (ended) status = kin_fail(context, KIN_IO, "%s: no such file system", folder);
    }
    if (status == KIN_OK) {
        uint64_t free_bytes = (uint64_t)disk.f_bavail * disk.f_frsize;
        char need[32], have[32];
        if (free_bytes < bytes)
            status = kin_fail(context, KIN_IO, "%s: needs %s of disk space, and %s are free",
                              folder, kin_bytes_text(bytes, need, sizeof need),
                              kin_bytes_text(free_bytes, have, sizeof have));
    }
    kin_free(context, path);
    return status;
}

/* ---- folders that appear whole ---- */

static bool is_empty_folder(const char *path) {
    DIR *folder = opendir(path);
    bool empty = folder != NULL;
    if (!folder) return false;
    for (struct dirent *entry; empty && (entry = readdir(folder));)
        empty = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
    closedir(folder);
    return empty;
}

kin_status kin_staging_open(kin_context *context, const char *target, kin_staging *out_staging) {
    *out_staging = (kin_staging){.context = context};
    size_t length = strlen(target);
    while (length > 1 && target[length - 1] == '/') length--;
    char *path = kin_strndup(context, target, length);
    char *above = path ? kin_path_folder(context, path) : NULL;
    kin_status status = above ? KIN_OK : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK && kin_file_exists(path) && !is_empty_folder(path))
        status = kin_fail(context, KIN_INVALID,
                          "%s: is there already; name a folder that is not, or an empty one", path);
    if (status == KIN_OK) status = kin_make_folders(context, above);
    for (int i = 0; status == KIN_OK && !out_staging->folder; i++) {
        char name[64];
        snprintf(name, sizeof name, ".kinora-%ld-%d.tmp", (long)getpid(), i);
        char *folder = kin_path_join(context, above, name);
        if (!folder) status = KIN_OUT_OF_MEMORY;
        else if (mkdir(folder, 0777) == 0) out_staging->folder = folder;
        else {
            if (errno != EEXIST || i == STAGING_ATTEMPTS)
                status = kin_fail(context, KIN_IO, "%s: the folder cannot be made: %s", folder,
                                  errno == EACCES   ? "permission denied"
                                  : errno == ENOSPC ? "the disk is full"
                                  : errno == EROFS  ? "the file system is read-only"
                                                    : "the system refused");
            kin_free(context, folder);
        }
    }
    out_staging->target = path;
    kin_free(context, above);
    if (status != KIN_OK) kin_staging_abandon(out_staging);
    return status;
}

static void sync_folder(const char *path) {
    int file = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (file < 0) return;
    (void)fsync(file); /* some file systems have no such call */
    close(file);
}

kin_status kin_staging_commit(kin_staging *staging) {
    kin_context *context = staging->context;
    kin_status status = KIN_OK;
    sync_folder(staging->folder);
    if (rename(staging->folder, staging->target) != 0)
        status =
            kin_fail(context, KIN_IO, "%s: cannot be put in place%s", staging->target,
                     errno == ENOTEMPTY || errno == EEXIST ? ": it is not empty any more" : "");
    if (status == KIN_OK) {
        char *above = kin_path_folder(context, staging->target);
        if (above) sync_folder(above);
        kin_free(context, above);
        kin_free(context, staging->folder);
        staging->folder = NULL;
    }
    kin_staging_abandon(staging);
    return status;
}

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *walk) {
    (void)info, (void)kind, (void)walk;
    return remove(path);
}

void kin_staging_abandon(kin_staging *staging) {
    if (!staging->context) return;
    if (staging->folder)
        (void)nftw(staging->folder, remove_one, MAX_OPEN_FOLDERS, FTW_DEPTH | FTW_PHYS);
    kin_free(staging->context, staging->folder);
    kin_free(staging->context, staging->target);
    *staging = (kin_staging){.context = NULL};
}
