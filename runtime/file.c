/* Files: reading, mapping, atomic writing, and a few helpers on paths and bytes. */
#define _XOPEN_SOURCE 700
#define _DEFAULT_SOURCE /* madvise */

#include "runtime/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    IO_PART = 1 << 30,       /* one system call moves no more than 2 GiB on Linux */
    TEMPORARY_ATTEMPTS = 100 /* names left behind by crashed processes with the same number */
};

#ifdef PATH_MAX
#define PATH_LIMIT PATH_MAX
#else
#define PATH_LIMIT 4096
#endif

static kin_status fail_errno(kin_context *context, const char *path, const char *what) {
    int error = errno;
    if (error == ENOMEM)
        return kin_fail(context, KIN_OUT_OF_MEMORY, "%s: %s: out of memory", path, what);
    const char *hint = error == ENOSPC || error == EDQUOT || error == EFBIG
                           ? "; free some space or choose another folder"
                           : "";
    char text[128];
    if (strerror_r(error, text, sizeof text) != 0) snprintf(text, sizeof text, "error %d", error);
    return kin_fail(context, error == ENOENT ? KIN_NOT_FOUND : KIN_IO, "%s: %s: %s%s", path, what,
                    text, hint);
}

/* Opens a regular file for reading and tells its size. */
static kin_status open_regular(kin_context *context, const char *path, int *out_file,
                               size_t *out_size) {
    /* O_NONBLOCK: a named pipe must be refused, not waited for. */
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0) return fail_errno(context, path, "cannot be opened");
    struct stat status;
    kin_status result = KIN_OK;
    if (fstat(file, &status) != 0) result = fail_errno(context, path, "cannot be examined");
    else if (S_ISDIR(status.st_mode))
        result = kin_fail(context, KIN_IO, "%s: is a folder, not a file", path);
    else if (!S_ISREG(status.st_mode))
        result = kin_fail(context, KIN_IO, "%s: is not a regular file", path);
    else if ((uintmax_t)status.st_size > SIZE_MAX / 2)
        result = kin_fail(context, KIN_IO, "%s: is too large for this machine", path);
    if (result != KIN_OK) {
        close(file);
        return result;
    }
    *out_file = file;
    *out_size = (size_t)status.st_size;
    return KIN_OK;
}

static kin_status read_exactly(kin_context *context, const char *path, int file, char *data,
                               size_t size) {
    size_t done = 0;
    while (done < size) {
        size_t part = size - done < IO_PART ? size - done : IO_PART;
        ssize_t got = read(file, data + done, part);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return fail_errno(context, path, "cannot be read");
        if (got == 0) return kin_fail(context, KIN_IO, "%s: became shorter while read", path);
        done += (size_t)got;
    }
    return KIN_OK;
}

kin_status kin_file_read_all(kin_context *context, const char *path, size_t limit, char **out_data,
                             size_t *out_size) {
    *out_data = NULL;
    if (out_size != NULL) *out_size = 0;
    int file = -1;
    size_t size = 0;
    kin_status status = open_regular(context, path, &file, &size);
    if (status != KIN_OK) return status;
    char *data = NULL;
    if (size > limit)
        status =
            kin_fail(context, KIN_FORMAT, "%s: has %zu bytes; more than %zu are not expected here",
                     path, size, limit);
    else if ((data = kin_alloc(context, size + 1)) == NULL)
        status = kin_fail_in(context, KIN_OUT_OF_MEMORY, "%s", path);
    else status = read_exactly(context, path, file, data, size);
    close(file);
    if (status != KIN_OK) {
        kin_free(context, data);
        return status;
    }
    data[size] = '\0';
    *out_data = data;
    if (out_size != NULL) *out_size = size;
    return KIN_OK;
}

kin_status kin_file_map(kin_context *context, const char *path, kin_mapping *out_mapping) {
    *out_mapping = (kin_mapping){0};
    int file = -1;
    size_t size = 0;
    kin_status status = open_regular(context, path, &file, &size);
    if (status != KIN_OK) return status;
    if (size == 0) {
        out_mapping->data = (const unsigned char *)"";
    } else {
        void *data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, file, 0);
        if (data == MAP_FAILED) {
            status = fail_errno(context, path, "cannot be mapped into memory");
        } else {
            *out_mapping = (kin_mapping){.data = data, .size = size, .is_mapped = true};
        }
    }
    close(file);
    return status;
}

void kin_file_unmap(kin_mapping *mapping) {
    if (mapping == NULL) return;
    if (mapping->is_mapped) munmap((void *)(uintptr_t)mapping->data, mapping->size);
    *mapping = (kin_mapping){0};
}

void kin_mapping_forget(const kin_mapping *mapping, const void *data, size_t size) {
    uintptr_t first = (uintptr_t)mapping->data, last = first + mapping->size;
    uintptr_t begin = (uintptr_t)data, end = begin + size;
    long page = sysconf(_SC_PAGESIZE);
    if (!mapping->is_mapped || page <= 0) return;
    /* Whole pages, and never beyond the mapping: memory that is not of a file would be lost. */
    if (begin < first) begin = first;
    if (end > last) end = last;
    uintptr_t mask = (uintptr_t)page - 1;
    begin = (begin + mask) & ~mask;
    end &= ~mask;
    if (begin < end) (void)madvise((void *)begin, end - begin, MADV_DONTNEED);
}

bool kin_file_exists(const char *path) {
    struct stat status;
    return stat(path, &status) == 0;
}

bool kin_file_is_folder(const char *path) {
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

kin_status kin_make_folders(kin_context *context, const char *path) {
    char *text = kin_strdup(context, path);
    if (text == NULL) return KIN_OUT_OF_MEMORY;
    kin_status status = KIN_OK;
    size_t length = strlen(text);
    for (size_t i = 1; i <= length && status == KIN_OK; i++) {
        if (text[i] != '/' && text[i] != '\0') continue;
        char kept = text[i];
        text[i] = '\0';
        if (mkdir(text, 0777) != 0 && !kin_file_is_folder(text))
            status = fail_errno(context, text, "the folder cannot be made");
        text[i] = kept;
    }
    kin_free(context, text);
    return status;
}

char *kin_path_join(kin_context *context, const char *folder, const char *name) {
    size_t length = strlen(folder);
    bool needs_slash = length > 0 && folder[length - 1] != '/';
    return kin_format(context, "%s%s%s", folder, needs_slash ? "/" : "", name);
}

char *kin_path_folder(kin_context *context, const char *path) {
    const char *slash = strrchr(path, '/');
    if (slash == NULL) return kin_strdup(context, ".");
    return kin_strndup(context, path, slash == path ? 1 : (size_t)(slash - path));
}

bool kin_path_ends_with(const char *path, const char *ending) {
    size_t path_length = strlen(path);
    size_t ending_length = strlen(ending);
    return path_length >= ending_length && strcmp(path + path_length - ending_length, ending) == 0;
}

/* Length of the character at text, 0 if it is none. RFC 3629, section 4. */
static size_t utf8_character(const unsigned char *text, size_t size) {
    unsigned char first = text[0];
    if (first < 0x80) return 1;
    size_t length = first >= 0xC2 && first <= 0xDF   ? 2
                    : first >= 0xE0 && first <= 0xEF ? 3
                    : first >= 0xF0 && first <= 0xF4 ? 4
                                                     : 0;
    if (length == 0 || length > size) return 0;
    for (size_t i = 1; i < length; i++)
        if ((text[i] & 0xC0) != 0x80) return 0;
    if (first == 0xE0 && text[1] < 0xA0) return 0; /* overlong */
    if (first == 0xED && text[1] > 0x9F) return 0; /* surrogates */
    if (first == 0xF0 && text[1] < 0x90) return 0; /* overlong */
    if (first == 0xF4 && text[1] > 0x8F) return 0; /* above U+10FFFF */
    return length;
}

bool kin_utf8_is_valid(const char *text, size_t size) {
    const unsigned char *bytes = (const unsigned char *)text;
    size_t at = 0;
    while (at < size) {
        size_t length = utf8_character(bytes + at, size - at);
        if (length == 0) return false;
        at += length;
    }
    return true;
}

void kin_copy_dense(const kin_desc *desc, const void *data, void *target) {
    kin_desc dense = kin_desc_dense(desc->dtype, desc->rank, desc->dims);
    if (kin_desc_is_dense(desc)) {
        memcpy(target, data, kin_desc_bytes(&dense));
        return;
    }
    size_t size = kin_dtype_size(desc->dtype);
    int64_t count = kin_desc_count(desc);
    int64_t index[KIN_MAX_RANK] = {0};
    int64_t offset = 0;
    unsigned char *out = target;
    for (int64_t i = 0; i < count; i++) {
        memcpy(out, (const unsigned char *)data + (size_t)offset * size, size);
        out += size;
        for (int axis = desc->rank - 1; axis >= 0; axis--) {
            offset += desc->strides[axis];
            if (++index[axis] < desc->dims[axis]) break;
            offset -= desc->strides[axis] * desc->dims[axis];
            index[axis] = 0;
        }
    }
}

/* ---- atomic writing ---- */

static void writer_release(kin_file_writer *writer) {
    if (writer->file >= 0) close(writer->file);
    kin_free(writer->context, writer->path);
    kin_free(writer->context, writer->temporary);
    *writer = (kin_file_writer){.file = -1};
}

void kin_file_writer_abandon(kin_file_writer *writer) {
    if (writer == NULL || writer->context == NULL) return;
    if (writer->file >= 0 && writer->temporary != NULL) unlink(writer->temporary);
    writer_release(writer);
}

/* The name that will be replaced: a link stays a link, and its target is replaced. */
static kin_status resolve_target(kin_context *context, const char *path, char **out_path) {
    struct stat status;
    *out_path = NULL;
    if (path[0] == '\0') return kin_fail(context, KIN_INVALID, "an empty file name");
    if (stat(path, &status) == 0 && !S_ISREG(status.st_mode))
        return kin_fail(context, KIN_IO, "%s: is %s; it will not be replaced", path,
                        S_ISDIR(status.st_mode) ? "a folder" : "not a regular file");
    char resolved[PATH_LIMIT];
    bool is_link = lstat(path, &status) == 0 && S_ISLNK(status.st_mode);
    if (is_link && realpath(path, resolved) == NULL)
        return fail_errno(context, path, "the link cannot be followed");
    *out_path = kin_strdup(context, is_link ? resolved : path);
    return *out_path == NULL ? KIN_OUT_OF_MEMORY : KIN_OK;
}

/* The name is made here and not by mkstemp, whose files only their owner can read. */
static kin_status create_temporary(kin_file_writer *writer) {
    kin_context *context = writer->context;
    char *folder = kin_path_folder(context, writer->path);
    if (folder == NULL) return KIN_OUT_OF_MEMORY;
    kin_status status = KIN_OK;
    for (int attempt = 0; attempt < TEMPORARY_ATTEMPTS && status == KIN_OK; attempt++) {
        char name[64];
        snprintf(name, sizeof name, ".kinora-%ld-%d.tmp", (long)getpid(), attempt);
        kin_free(context, writer->temporary);
        writer->temporary = kin_path_join(context, folder, name);
        if (writer->temporary == NULL) {
            status = KIN_OUT_OF_MEMORY;
            break;
        }
        writer->file = open(writer->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (writer->file >= 0) break;
        if (errno != EEXIST || attempt + 1 == TEMPORARY_ATTEMPTS)
            status = fail_errno(context, writer->path, "cannot be created");
    }
    kin_free(context, folder);
    return status;
}

kin_status kin_file_writer_open(kin_context *context, const char *path,
                                kin_file_writer *out_writer) {
    *out_writer = (kin_file_writer){.context = context, .file = -1};
    kin_status status = resolve_target(context, path, &out_writer->path);
    if (status == KIN_OK) status = create_temporary(out_writer);
    if (status != KIN_OK) kin_file_writer_abandon(out_writer);
    return status;
}

kin_status kin_file_writer_write(kin_file_writer *writer, const void *data, size_t size) {
    size_t done = 0;
    while (done < size) {
        size_t part = size - done < IO_PART ? size - done : IO_PART;
        ssize_t got = write(writer->file, (const char *)data + done, part);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return fail_errno(writer->context, writer->path, "cannot be written");
        done += (size_t)got;
    }
    return KIN_OK;
}

/* Makes the rename itself survive a power cut. Some file systems have no such call. */
static kin_status sync_folder(kin_context *context, const char *path) {
    char *folder = kin_path_folder(context, path);
    if (folder == NULL) return KIN_OUT_OF_MEMORY;
    kin_status status = KIN_OK;
    int file = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (file >= 0) {
        if (fsync(file) != 0 && errno != EINVAL && errno != ENOTSUP && errno != EROFS)
            status = fail_errno(context, folder, "cannot be flushed to the disk");
        close(file);
    }
    kin_free(context, folder);
    return status;
}

kin_status kin_file_writer_commit(kin_file_writer *writer) {
    kin_context *context = writer->context;
    kin_status status = KIN_OK;
    int file = writer->file;
    if (fsync(file) != 0 && errno != EINVAL && errno != ENOTSUP)
        status = fail_errno(context, writer->path, "cannot be flushed to the disk");
    /* Network file systems report a full disk as late as here. */
    if (close(file) != 0 && status == KIN_OK)
        status = fail_errno(context, writer->path, "cannot be closed");
    writer->file = -1;
    if (status == KIN_OK && rename(writer->temporary, writer->path) != 0)
        status = fail_errno(context, writer->path, "cannot be put in place");
    if (status != KIN_OK) unlink(writer->temporary);
    else status = sync_folder(context, writer->path);
    writer_release(writer);
    return status;
}

kin_status kin_file_write_atomic(kin_context *context, const char *path, const void *data,
                                 size_t size) {
    kin_file_writer writer;
    kin_status status = kin_file_writer_open(context, path, &writer);
    if (status != KIN_OK) return status;
    status = kin_file_writer_write(&writer, data, size);
    if (status == KIN_OK) return kin_file_writer_commit(&writer);
    kin_file_writer_abandon(&writer);
    return status;
}
