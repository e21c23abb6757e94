/* Fingerprints of files and folders. */
#define _POSIX_C_SOURCE 200809L
#include "tools/train/fingerprint.h"

#include "runtime/file.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

uint64_t kin_fingerprint_bytes(uint64_t hash, const void *data, size_t size) {
    const unsigned char *bytes = data;
    for (size_t i = 0; i < size; i++) hash = (hash ^ bytes[i]) * UINT64_C(1099511628211);
    return hash;
}

static uint64_t mix_file(uint64_t hash, const char *name, const struct stat *info) {
    int64_t facts[3] = {(int64_t)info->st_size, (int64_t)info->st_mtim.tv_sec,
                        (int64_t)info->st_mtim.tv_nsec};
    hash = kin_fingerprint_bytes(hash, name, strlen(name));
    return kin_fingerprint_bytes(hash, facts, sizeof facts);
}

uint64_t kin_fingerprint_path(uint64_t hash, const char *path) {
    struct stat info;
    uint64_t sum = 0; /* the order of a folder's entries does not matter */
    if (stat(path, &info) != 0) return hash;
    if (S_ISREG(info.st_mode)) return mix_file(hash, path, &info);
    DIR *folder = opendir(path);
    if (!folder) return hash;
    for (struct dirent *entry; (entry = readdir(folder));) {
        char full[4096];
        int length = snprintf(full, sizeof full, "%s/%s", path, entry->d_name);
        if (length < 0 || (size_t)length >= sizeof full || stat(full, &info) != 0) continue;
        if (S_ISREG(info.st_mode)) sum += mix_file(KIN_FINGERPRINT_START, full, &info);
    }
    closedir(folder);
    return kin_fingerprint_bytes(hash, &sum, sizeof sum);
}

void kin_fingerprint_text(uint64_t hash, char out_text[KIN_FINGERPRINT_TEXT]) {
    snprintf(out_text, KIN_FINGERPRINT_TEXT, "%016llx", (unsigned long long)hash);
}

bool kin_fingerprint_open(kin_context *context, const char *path, const char *fingerprint,
                          kin_safetensors **out_file) {
    *out_file = NULL;
    if (!kin_file_exists(path) || kin_safetensors_open(context, path, out_file) != KIN_OK)
        return false;
    const char *made_from = kin_safetensors_metadata(*out_file, KIN_FINGERPRINT_KEY);
    if (made_from && strcmp(made_from, fingerprint) == 0) return true;
    kin_safetensors_close(*out_file);
    *out_file = NULL;
    return false;
}
