#define _POSIX_C_SOURCE 200809L
#include "tools/generate/generate_stages.h"

#include "runtime/file.h"
#include "runtime/safetensors.h"

#include <dirent.h>
#include <string.h>
#include <unistd.h>

static const char key_name[] = "kinora.made_from";
static const char *const stage_names[] = {"embeddings", "references", "latents", "frames"};

static char *stage_path(kin_context *context, const kin_stage *stage) {
    return kin_format(context, "%s/%s.safetensors", stage->folder, stage->name);
}

kin_status kin_stage_save(kin_context *context, const kin_stage *stage,
                          const kin_host_tensor *tensors) {
    kin_named_tensor list[KIN_STAGE_TENSORS];
    kin_metadata made_from = {key_name, stage->key};
    char *path = stage_path(context, stage);
    kin_status status = path ? kin_make_folders(context, stage->folder) : KIN_OUT_OF_MEMORY;
    for (int i = 0; i < stage->count; i++)
        list[i] = (kin_named_tensor){stage->tensors[i], tensors[i].desc, tensors[i].data};
    if (status == KIN_OK)
        status = kin_safetensors_write(context, path, list, (size_t)stage->count, &made_from, 1,
                                       NULL, NULL);
    kin_free(context, path);
    return status;
}

static bool fits(const kin_desc *have, const kin_desc *want) {
    if (have->dtype != want->dtype || have->rank != want->rank) return false;
    for (int i = 0; i < have->rank; i++)
        if (want->dims[i] >= 0 && have->dims[i] != want->dims[i]) return false;
    return true;
}

/* The open file, or NULL if it does not count. */
static kin_safetensors *open_stage(kin_context *context, const kin_stage *stage,
                                   const kin_desc *want) {
    kin_safetensors *file = NULL;
    char *path = stage_path(context, stage);
    bool good =
        path && kin_file_exists(path) && kin_safetensors_open(context, path, &file) == KIN_OK;
    const char *key = good ? kin_safetensors_metadata(file, key_name) : NULL;
    good = key && strcmp(key, stage->key) == 0;
    for (int i = 0; good && i < stage->count; i++) {
        const kin_named_tensor *t = kin_safetensors_find(file, stage->tensors[i]);
        good = t && fits(&t->desc, &want[i]);
    }
    kin_free(context, path);
    if (good) return file;
    if (file) kin_safetensors_close(file);
    return NULL;
}

bool kin_stage_there(kin_context *context, const kin_stage *stage, const kin_desc *want) {
    kin_safetensors *file = open_stage(context, stage, want);
    if (file) kin_safetensors_close(file);
    return file != NULL;
}

bool kin_stage_load(kin_context *context, const kin_stage *stage, const kin_desc *want,
                    kin_host_tensor *out_tensors) {
    for (int i = 0; i < stage->count; i++) out_tensors[i] = (kin_host_tensor){.data = NULL};
    kin_safetensors *file = open_stage(context, stage, want);
    if (!file) return false;
    bool good = true;
    for (int i = 0; good && i < stage->count; i++) {
        const kin_named_tensor *t = kin_safetensors_find(file, stage->tensors[i]);
        good = kin_host_tensor_create(context, t->desc.dtype, t->desc.rank, t->desc.dims,
                                      &out_tensors[i]) == KIN_OK;
        if (good) memcpy(out_tensors[i].data, t->data, kin_desc_bytes(&t->desc));
    }
    kin_safetensors_close(file);
    for (int i = 0; !good && i < stage->count; i++) kin_host_tensor_free(context, &out_tensors[i]);
    return good;
}

void kin_stage_tell(kin_context *context, const kin_stage *stage) {
    kin_log(context, KIN_LOG_INFO, "using %s.safetensors of an earlier run", stage->name);
}

void kin_stages_remove(kin_context *context, const char *folder) {
    DIR *directory = opendir(folder);
    for (struct dirent *entry; directory && (entry = readdir(directory));) {
        bool ours = false;
        for (size_t i = 0; i < sizeof stage_names / sizeof *stage_names; i++)
            ours = ours || strncmp(entry->d_name, stage_names[i], strlen(stage_names[i])) == 0;
        if (!ours || !kin_path_ends_with(entry->d_name, ".safetensors")) continue;
        char *path = kin_path_join(context, folder, entry->d_name);
        if (path) unlink(path);
        kin_free(context, path);
    }
    if (directory) closedir(directory);
    rmdir(folder);
}
