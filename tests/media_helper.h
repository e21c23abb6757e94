/* Helpers of the tests of files: a folder to write in, contexts, reference cases. */
#ifndef KIN_TESTS_MEDIA_HELPER_H
#define KIN_TESTS_MEDIA_HELPER_H

#include <dirent.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "runtime/context.h"
#include "runtime/tensor.h"

enum { MEDIA_PATH = 512 };

typedef struct media {
    kin_context *context;
    char folder[MEDIA_PATH];
} media;

/* A group setup: *state becomes a media with a fresh folder. */
static inline int media_setup(void **state) {
    media *m = calloc(1, sizeof *m);
    if (!m || kin_context_create(NULL, &m->context) != KIN_OK) return -1;
    const char *base = getenv("TMPDIR");
    snprintf(m->folder, sizeof m->folder, "%s/kinora-test-XXXXXX", base ? base : "/tmp");
    *state = m;
    return mkdtemp(m->folder) ? 0 : -1;
}

static inline void media_remove(const char *folder) {
    DIR *directory = opendir(folder);
    if (directory) {
        struct dirent *entry;
        while ((entry = readdir(directory)) != NULL) {
            char path[4 * MEDIA_PATH];
            if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
            int length = snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
            if (length >= (int)sizeof path) continue;
            if (unlink(path) != 0) media_remove(path);
        }
        closedir(directory);
    }
    rmdir(folder);
}

static inline int media_teardown(void **state) {
    media *m = *state;
    media_remove(m->folder);
    kin_context_destroy(m->context);
    free(m);
    return 0;
}

/* The path of a file in the test's folder; lives until the fourth call after this one. */
static inline const char *media_path(const media *m, const char *name) {
    static char paths[4][2 * MEDIA_PATH];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", m->folder, name);
    return path;
}

static inline void media_write(const char *path, const void *data, size_t size) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

/* A whole file in malloc's memory. */
static inline unsigned char *media_read(const char *path, size_t *out_size) {
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    long size = ftell(file);
    rewind(file);
    unsigned char *data = malloc((size_t)size + 1);
    assert_non_null(data);
    assert_int_equal(fread(data, 1, (size_t)size, file), size);
    data[size] = 0;
    fclose(file);
    *out_size = (size_t)size;
    return data;
}

/* An allocator that refuses once `left` requests were granted. */
typedef struct media_budget {
    long left;
} media_budget;

static inline void *media_limited(void *user, void *ptr, size_t size) {
    media_budget *budget = user;
    if (size == 0) {
        free(ptr);
        return NULL;
    }
    return budget->left-- > 0 ? realloc(ptr, size) : NULL;
}

/* Runs `body` with 0, 1, 2, ... requests granted until it succeeds; every failure before must be
 * KIN_OUT_OF_MEMORY. Returns how many failed. */
static inline int media_starve(kin_status (*body)(kin_context *context, const media *m),
                               const media *m) {
    for (int granted = 0; granted < 10000; ++granted) {
        media_budget budget = {1000};
        const kin_context_options options = {
            .struct_size = sizeof options, .allocator = {media_limited, &budget}, .threads = 1};
        kin_context *context = NULL;
        assert_int_equal(kin_context_create(&options, &context), KIN_OK);
        budget.left = granted;
        kin_status status = body(context, m);
        budget.left = 1000;
        kin_context_destroy(context);
        if (status == KIN_OK) return granted;
        assert_int_equal(status, KIN_OUT_OF_MEMORY);
    }
    fail_msg("never enough memory");
    return 0;
}

/* KINORA_SHARED/reference/NAME if that folder exists, else false and a note. */
static inline bool media_reference(const char *name, char path[MEDIA_PATH]) {
    const char *shared = getenv("KINORA_SHARED");
    struct stat info;
    snprintf(path, MEDIA_PATH, "%s/reference/%s", shared ? shared : "", name);
    if (shared && stat(path, &info) == 0) return true;
    print_message("skipped: %s needs KINORA_SHARED\n", name);
    return false;
}

/* The bytes of one tensor of a safetensors file, in malloc's memory. Finds the name as a string:
 * good enough for the reference files, whose names have no escapes. */
static inline void *media_tensor(const char *folder, const char *file, const char *name,
                                 size_t *out_size) {
    char path[2 * MEDIA_PATH], key[128];
    size_t size = 0;
    snprintf(path, sizeof path, "%s/%s.safetensors", folder, file);
    unsigned char *data = media_read(path, &size);
    uint64_t header = 0;
    memcpy(&header, data, 8);
    assert_true(header < size - 8);
    char saved = (char)data[8 + header];
    data[8 + header] = 0;
    snprintf(key, sizeof key, "\"%s\":{", name);
    const char *entry = strstr((const char *)data + 8, key);
    assert_non_null(entry);
    const char *offsets = strstr(entry, "\"data_offsets\":[");
    assert_non_null(offsets);
    char *end = NULL;
    size_t from = strtoul(offsets + 16, &end, 10), to = strtoul(end + 1, NULL, 10);
    data[8 + header] = (unsigned char)saved;
    assert_true(from <= to && 8 + header + to <= size);
    void *copy = malloc(to - from + 1);
    assert_non_null(copy);
    memcpy(copy, data + 8 + header + from, to - from);
    free(data);
    *out_size = to - from;
    return copy;
}

/* True if two files of the folder have the same bytes. */
static inline bool same_file(const media *m, const char *one, const char *two) {
    size_t a_size, b_size;
    unsigned char *a = media_read(media_path(m, one), &a_size);
    unsigned char *b = media_read(media_path(m, two), &b_size);
    bool same = a_size == b_size && memcmp(a, b, a_size) == 0;
    free(a);
    free(b);
    return same;
}

#endif
