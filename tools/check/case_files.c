/* The cases of checkpoint files: safetensors files good and bad, and folders with shards. */
#include "tools/check/case_memory.h"
#include "tools/check/case_run.h"

#include <string.h>

#include "runtime/checkpoint.h"

enum { MEMORY_FACTOR = 64, MEMORY_FLOOR = 4 << 20 };

/* Every number of the file's tensors, as config.json lists them. */
static bool same_values(const kin_safetensors *file, const json_t *values, char *why, size_t size) {
    const char *name;
    const json_t *list;
    if (kin_safetensors_count(file) != json_object_size(values)) {
        snprintf(why, size, "%zu tensors, not %zu", kin_safetensors_count(file),
                 json_object_size(values));
        return false;
    }
    json_object_foreach((json_t *)values, name, list) {
        const kin_named_tensor *tensor = kin_safetensors_find(file, name);
        size_t count = json_array_size(list);
        bool same = tensor && (size_t)kin_desc_count(&tensor->desc) == count;
        for (size_t i = 0; same && i < count; i++)
            same = kin_element_get(tensor->data, tensor->desc.dtype, (int64_t)i) ==
                   json_number_value(json_array_get(list, i));
        if (same) continue;
        snprintf(why, size, "tensor \"%s\" %s", name, tensor ? "differs" : "is missing");
        return false;
    }
    return true;
}

/* One file in a context of its own. Returns whether it did what `entry` expects; an error counts as
 * clear if it names the file. */
static bool check_file(const char *folder, const json_t *entry, char *why, size_t size) {
    kin_case_memory memory = {0};
    kin_context *context = NULL;
    if (kin_case_memory_context(&memory, &context) != KIN_OK) return false;
    const char *name = json_string_value(json_object_get(entry, "file"));
    const char *expect = json_string_value(json_object_get(entry, "expect"));
    const json_t *values = json_object_get(entry, "values");
    char *path = kin_path_join(context, folder, name);
    kin_safetensors *file = NULL;
    kin_mapping mapping = {0};
    size_t limit = MEMORY_FLOOR;
    if (path && kin_file_map(context, path, &mapping) == KIN_OK) {
        limit += MEMORY_FACTOR * mapping.size;
        kin_file_unmap(&mapping);
    }
    kin_status status = path ? kin_safetensors_open(context, path, &file) : KIN_OUT_OF_MEMORY;
    bool good, refusal = expect && strcmp(expect, "load") != 0;
    if (status != KIN_OK) {
        snprintf(why, size, "%s", kin_context_error(context));
        good = refusal && status == KIN_FORMAT && strstr(why, name) != NULL;
    } else {
        good = expect && strcmp(expect, "refuse") != 0;
        if (!good) snprintf(why, size, "was not refused");
        else if (values) good = same_values(file, values, why, size);
    }
    kin_safetensors_close(file);
    kin_free(context, path);
    kin_context_destroy(context);
    if (memory.peak > limit || memory.now != 0) {
        snprintf(why, size, "took %zu bytes of memory and kept %zu", memory.peak, memory.now);
        good = false;
    }
    return good;
}

void kin_case_files(kin_case_run *run) {
    const json_t *files = json_object_get(run->config, "files"), *entry;
    size_t i;
    kin_case_expect(run, "files", json_array_size(files) > 0, "");
    json_array_foreach((json_t *)files, i, entry) {
        const char *name = json_string_value(json_object_get(entry, "file"));
        char why[512] = "";
        bool good = name && check_file(run->folder, entry, why, sizeof why);
        kin_case_expect(run, name ? name : "(no name)", good, why);
    }
}

/* Compares every tensor of outputs.safetensors, and that there are no others. */
static void compare_folder(kin_case_run *run, const char *name, const kin_checkpoint *folder) {
    char label[KIN_CASE_NAME], why[64];
    size_t wanted = kin_safetensors_count(run->outputs);
    snprintf(why, sizeof why, "%zu tensors", kin_checkpoint_count(folder));
    kin_case_expect(run, name, kin_checkpoint_count(folder) == wanted, why);
    for (size_t i = 0; i < wanted; i++) {
        const kin_named_tensor *want = kin_safetensors_at(run->outputs, i);
        const kin_named_tensor *got = kin_checkpoint_find(folder, want->name);
        snprintf(label, sizeof label, "%.40s: %.100s", name, want->name);
        bool fits = got && got->desc.dtype == want->desc.dtype &&
                    kin_desc_same_shape(&got->desc, &want->desc);
        kin_case_expect(run, label, fits, fits ? "" : "differs in dtype or shape, or is missing");
        size_t bytes = kin_desc_bytes(&want->desc);
        void *dense = fits ? kin_alloc(run->context, bytes + 1) : NULL;
        if (!dense) continue;
        kin_copy_dense(&got->desc, got->data, dense);
        kin_case_compare(run, want->name, want->desc.dtype, dense, kin_desc_count(&want->desc));
        kin_free(run->context, dense);
    }
}

void kin_case_shards(kin_case_run *run) {
    const json_t *folders = json_object_get(run->config, "folders"), *entry;
    size_t i;
    kin_case_expect(run, "folders", json_array_size(folders) > 0 && run->outputs, "");
    json_array_foreach((json_t *)folders, i, entry) {
        const char *name = json_string_value(json_object_get(entry, "folder"));
        const char *expect = json_string_value(json_object_get(entry, "expect"));
        if (!name || !expect || !run->outputs) continue;
        char *path = kin_path_join(run->context, run->folder, name);
        kin_checkpoint *folder = NULL;
        kin_status status =
            path ? kin_checkpoint_open(run->context, path, NULL, &folder) : KIN_OUT_OF_MEMORY;
        bool load = strcmp(expect, "load") == 0;
        if (!load) {
            const char *why =
                status == KIN_OK ? "was not refused" : kin_context_error(run->context);
            kin_case_expect(run, name, status != KIN_OK && strstr(why, name), why);
        } else if (kin_case_ok(run, name, status)) {
            compare_folder(run, name, folder);
        }
        kin_checkpoint_close(folder);
        kin_free(run->context, path);
    }
}
