/* Finding backends in shared libraries, opening devices, choosing kernels. */
#define _POSIX_C_SOURCE 200809L
#include "runtime/device.h"

#include "runtime/collective_internal.h"

#include <ctype.h>
#include <dirent.h>
#include <dlfcn.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* The table as it was when version 1 of the ABI was made; all that follows is optional. */
enum {
    SMALLEST_TABLE = offsetof(kin_backend, counters),
    LARGEST_TABLE = 1 << 16,
    LONGEST_NAME = 24,
    MOST_DEVICES = 256,
    MOST_KERNELS = 1 << 16,
    LARGEST_ALIGNMENT = 1 << 20
};

struct kin_backends {
    kin_context *context;
    const kin_backend **list;
    void **handles; /* of shared libraries, whose tables are copies; NULL for the built-in ones */
    size_t count;
    kin_backend_file *files;
    size_t file_count;
};

static kin_status add_backend(kin_backends *all, const kin_backend *backend, void *handle) {
    size_t wanted = all->count + 1;
    const kin_backend **list =
        kin_realloc(all->context, (void *)all->list, wanted * sizeof *list);
    if (!list) return KIN_OUT_OF_MEMORY;
    all->list = list;
    void **handles = kin_realloc(all->context, all->handles, wanted * sizeof *handles);
    if (!handles) return KIN_OUT_OF_MEMORY;
    all->handles = handles;
    all->list[all->count] = backend;
    all->handles[all->count++] = handle;
    return KIN_OK;
}

static kin_status note_file(kin_backends *all, const char *path, bool loaded, const char *verdict) {
    kin_backend_file *files =
        kin_realloc(all->context, all->files, (all->file_count + 1) * sizeof *files);
    if (!files) return KIN_OUT_OF_MEMORY;
    all->files = files;
    kin_backend_file *file = &files[all->file_count];
    *file = (kin_backend_file){.path = kin_strdup(all->context, path),
                               .verdict = kin_strdup(all->context, verdict),
                               .loaded = loaded};
    all->file_count++;
    return file->path && file->verdict ? KIN_OK : KIN_OUT_OF_MEMORY;
}

/* A name that a device can be called by: letters, then a number that the user adds. */
static bool is_name(const char *name) {
    size_t length = name ? strnlen(name, LONGEST_NAME + 1) : 0;
    for (size_t i = 0; i < length; i++)
        if (!isalpha((unsigned char)name[i]) && name[i] != '-' && name[i] != '_') return false;
    return length > 0 && length <= LONGEST_NAME;
}

/* Why the head of a table cannot be read on, or NULL. */
static const char *head_fault(const kin_backend *backend) {
    if (!backend) return "kin_backend_get returned nothing: it does not serve this ABI version";
    if (backend->abi != KIN_BACKEND_ABI) return "its ABI version is another one; rebuild it";
    if (backend->struct_size < SMALLEST_TABLE || backend->struct_size > LARGEST_TABLE)
        return "its table has a size that cannot be; rebuild it";
    return NULL;
}

/* Why a table cannot be used, or NULL. */
static const char *fault(const kin_backends *all, const kin_backend *backend) {
    if (!is_name(backend->name)) return "its name is missing, too long, or not of letters";
    for (size_t i = 0; i < all->count; i++)
        if (strcasecmp(all->list[i]->name, backend->name) == 0)
            return "a backend of this name is there already";
    if (!backend->count || !backend->open || !backend->close || !backend->kernel ||
        !backend->allocate || !backend->release || !backend->upload || !backend->download ||
        !backend->copy || !backend->fill || !backend->begin || !backend->record || !backend->end ||
        !backend->submit || !backend->wait || !backend->discard)
        return "a required function is NULL";
    return NULL;
}

static kin_status try_file(kin_backends *all, const char *path) {
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!handle) {
        const char *why = dlerror();
        return note_file(all, path, false, why ? why : "it cannot be loaded");
    }
    kin_backend_get_fn get = NULL;
    *(void **)&get = dlsym(handle, KIN_BACKEND_SYMBOL);
    const kin_backend *given = get ? get(KIN_BACKEND_ABI) : NULL;
    const char *why = get ? head_fault(given) : "it does not export " KIN_BACKEND_SYMBOL;
    kin_backend *backend = why ? NULL : kin_calloc(all->context, 1, sizeof *backend);
    if (backend) {
        size_t known = given->struct_size < sizeof *backend ? given->struct_size : sizeof *backend;
        memcpy(backend, given, known);
        why = fault(all, backend);
    }
    kin_status status = KIN_OUT_OF_MEMORY;
    if (why) status = note_file(all, path, false, why);
    else if (backend) status = add_backend(all, backend, handle);
    if (why || status != KIN_OK) {
        kin_free(all->context, backend);
        dlclose(handle);
        return status;
    }
    char verdict[64];
    snprintf(verdict, sizeof verdict, "loaded: %s", backend->name);
    return note_file(all, path, true, verdict);
}

static int compare_names(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Looks at libkinora-*.so of one folder, in alphabetical order. A folder that is not there is fine. */
static kin_status search_folder(kin_backends *all, const char *folder) {
    DIR *directory = opendir(folder);
    if (!directory) return KIN_OK;
    char **names = NULL;
    size_t count = 0;
    kin_status status = KIN_OK;
    for (struct dirent *entry; status == KIN_OK && (entry = readdir(directory));) {
        size_t length = strlen(entry->d_name);
        if (strncmp(entry->d_name, "libkinora-", 10) != 0 || length < 14 ||
            strcmp(entry->d_name + length - 3, ".so") != 0)
            continue;
        char **larger = kin_realloc(all->context, names, (count + 1) * sizeof *names);
        if (larger) names = larger;
        char *path = larger ? kin_format(all->context, "%s/%s", folder, entry->d_name) : NULL;
        if (path) names[count++] = path;
        else status = KIN_OUT_OF_MEMORY;
    }
    closedir(directory);
    if (count) qsort(names, count, sizeof *names, compare_names);
    for (size_t i = 0; i < count; i++) {
        if (status == KIN_OK) status = try_file(all, names[i]);
        kin_free(all->context, names[i]);
    }
    kin_free(all->context, names);
    return status;
}

kin_status kin_backends_load(kin_context *context, const char *path, kin_backends **out_backends) {
    *out_backends = NULL;
    kin_backends *all = kin_calloc(context, 1, sizeof *all);
    if (!all) return KIN_OUT_OF_MEMORY;
    all->context = context;
    kin_status status = add_backend(all, &kin_backend_cpu, NULL);
    if (status == KIN_OK) status = add_backend(all, &kin_backend_null, NULL);
    for (const char *part = path; status == KIN_OK && part && *part;) {
        size_t length = strcspn(part, ":");
        char *folder = kin_strndup(context, part, length);
        if (!folder) status = KIN_OUT_OF_MEMORY;
        else if (length) status = search_folder(all, folder);
        kin_free(context, folder);
        part += length;
        if (*part == ':') part++;
    }
    if (status == KIN_OK) *out_backends = all;
    else kin_backends_free(all);
    return status;
}

void kin_backends_free(kin_backends *all) {
    if (!all) return;
    for (size_t i = 0; i < all->file_count; i++) {
        kin_free(all->context, all->files[i].path);
        kin_free(all->context, all->files[i].verdict);
    }
    for (size_t i = 0; i < all->count; i++) {
        if (!all->handles[i]) continue;
        kin_free(all->context, (void *)all->list[i]);
        dlclose(all->handles[i]);
    }
    kin_free(all->context, all->files);
    kin_free(all->context, (void *)all->list);
    kin_free(all->context, all->handles);
    kin_free(all->context, all);
}

size_t kin_backends_count(const kin_backends *all) {
    return all->count;
}

const kin_backend *kin_backends_at(const kin_backends *all, size_t index) {
    return all->list[index];
}

size_t kin_backends_file_count(const kin_backends *all) {
    return all->file_count;
}

const kin_backend_file *kin_backends_file_at(const kin_backends *all, size_t index) {
    return &all->files[index];
}

static kin_status unknown_device(kin_backends *all, const char *name) {
    char list[256] = "";
    size_t used = 0;
    for (size_t i = 0; i < all->count; i++) {
        int length = snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "",
                              all->list[i]->name);
        if (length < 0 || (used += (size_t)length) >= sizeof list) break;
    }
    return kin_fail(all->context, KIN_NOT_FOUND, "there is no device \"%s\"; backends here: %s",
                    name, list);
}

/* Why an open device cannot be used, or NULL: sizes that cannot be, a text without an end. */
static const char *info_fault(const kin_device_info *info) {
    uint32_t alignment = info->alignment;
    if (!memchr(info->name, 0, sizeof info->name) || !info->name[0] ||
        !memchr(info->description, 0, sizeof info->description))
        return "its name or description has no end";
    if (alignment & (alignment - 1) || alignment > LARGEST_ALIGNMENT)
        return "its alignment is not a power of two, or too large";
    if (info->max_allocation > INT64_MAX || info->memory_total > INT64_MAX)
        return "its memory or its largest allocation is larger than can be (0 means no limit)";
    if (info->max_allocation && info->max_allocation < (alignment ? alignment : 64))
        return "its largest allocation is smaller than its alignment";
    if (info->dtypes >> KIN_DTYPE_COUNT || !(info->dtypes >> KIN_F32 & 1))
        return "its dtypes are not known, or f32 is not among them";
    if (info->product_dtype != KIN_F32 && info->product_dtype != KIN_F16 &&
        info->product_dtype != KIN_BF16)
        return "its products have a dtype that is none of f32, f16 and bf16";
    if (info->threads < 0) return "it has less than no threads";
    return NULL;
}

static const char *kernels_fault(const kin_device *device) {
    const kin_kernel *kernel;
    for (size_t i = 0; (kernel = device->backend->kernel(device, i)); i++) {
        if (i == MOST_KERNELS) return "its kernel list has no end";
        if (!kernel->op || !kernel->name) return "a row of its kernel list has no op or no name";
        if (!kernel->launch && !device->backend->compile)
            return "a row of its kernel list has no launch, and the backend does not compile";
    }
    return NULL;
}

kin_status kin_device_open(kin_backends *all, const char *name, kin_device **out_device) {
    *out_device = NULL;
    size_t length = strlen(name), digits = length;
    while (digits > 0 && isdigit((unsigned char)name[digits - 1])) digits--;
    const kin_backend *backend = NULL;
    for (size_t i = 0; i < all->count && !backend; i++)
        if (strlen(all->list[i]->name) == digits && strncasecmp(all->list[i]->name, name, digits) == 0)
            backend = all->list[i];
    if (!backend || length - digits > 4) return unknown_device(all, name);
    int index = digits < length ? atoi(name + digits) : 0;
    const char *why = NULL;
    int count = backend->count(all->context, &why);
    if (count < 0 || count > MOST_DEVICES)
        return kin_fail(all->context, KIN_DEVICE, "device \"%s\": backend %s counts %d devices", name,
                        backend->name, count);
    if (index >= count)
        return kin_fail(all->context, KIN_NOT_FOUND, "device \"%s\": backend %s has %d device%s%s%s",
                        name, backend->name, count, count == 1 ? "" : "s", why ? ": " : "",
                        why ? why : "");
    kin_device *device = kin_calloc(all->context, 1, sizeof *device);
    if (!device) return KIN_OUT_OF_MEMORY;
    device->backend = backend;
    device->context = all->context;
    kin_status status = backend->open(device, index);
    if (status != KIN_OK) {
        kin_free(all->context, device);
        return kin_fail_in(all->context, status, "device %s", name);
    }
    const char *wrong = info_fault(&device->info);
    if (!wrong) wrong = kernels_fault(device);
    if (wrong) {
        backend->close(device);
        kin_free(all->context, device);
        return kin_fail(all->context, KIN_DEVICE, "device %s is not to be used: %s", name, wrong);
    }
    *out_device = device;
    return KIN_OK;
}

void kin_device_close(kin_device *device) {
    if (!device) return;
    device->backend->wait(device);
    device->backend->close(device);
    kin_free(device->context, device);
}

kin_status kin_device_allocate(kin_device *device, size_t size, kin_buffer **out_buffer) {
    *out_buffer = NULL;
    kin_status status = device->backend->allocate(device, size, out_buffer);
    if (status != KIN_OK) *out_buffer = NULL; /* whatever the backend left there */
    else if (!*out_buffer)
        status = kin_fail(device->context, KIN_DEVICE, "device %s gave no buffer of %zu bytes",
                          device->info.name, size);
    return status;
}

const kin_kernel *kin_device_kernel(const kin_device *device, const kin_call *call) {
    const kin_kernel *kernel = kin_collective_kernel(device, call);
    if (kernel) return kernel;
    for (size_t i = 0; (kernel = device->backend->kernel(device, i)); i++)
        if (strcmp(kernel->op, call->op) == 0 && (!kernel->can || kernel->can(device, call)))
            return kernel;
    return NULL;
}
