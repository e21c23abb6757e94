/* The zip form of torch.save: the archive's records, checked and found in the mapped file.
 * minizip reads the directory, through functions that read from the mapping. */
#define _POSIX_C_SOURCE 200809L

#include "runtime/pickle_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if KIN_HAVE_MINIZIP
#include <unzip.h>

enum { NAME_LIMIT = 512, RECORD_LIMIT = 10000000 };

/* ---- minizip's view of the mapping ---- */

typedef struct stream {
    const kin_mapping *mapping;
    uint64_t at;
} stream;

static voidpf ZCALLBACK stream_open(voidpf opaque, const void *name, int mode) {
    (void)name;
    (void)mode;
    return opaque;
}

static uLong ZCALLBACK stream_read(voidpf opaque, voidpf handle, void *buffer, uLong size) {
    stream *in = handle;
    (void)opaque;
    if (in->at >= in->mapping->size) return 0;
    uint64_t left = in->mapping->size - in->at;
    size_t part = size < left ? size : (size_t)left;
    memcpy(buffer, in->mapping->data + in->at, part);
    in->at += part;
    return (uLong)part;
}

static ZPOS64_T ZCALLBACK stream_tell(voidpf opaque, voidpf handle) {
    (void)opaque;
    return ((stream *)handle)->at;
}

static long ZCALLBACK stream_seek(voidpf opaque, voidpf handle, ZPOS64_T offset, int origin) {
    stream *in = handle;
    (void)opaque;
    uint64_t base = origin == ZLIB_FILEFUNC_SEEK_SET   ? 0
                    : origin == ZLIB_FILEFUNC_SEEK_CUR ? in->at
                                                       : in->mapping->size;
    if (offset > in->mapping->size || base + offset > in->mapping->size) return -1;
    in->at = base + offset;
    return 0;
}

static int ZCALLBACK stream_close(voidpf opaque, voidpf handle) {
    (void)opaque;
    (void)handle;
    return 0;
}

static int ZCALLBACK stream_error(voidpf opaque, voidpf handle) {
    (void)opaque;
    (void)handle;
    return 0;
}

/* ---- records ---- */

static kin_status fail_zip(const kin_pickle *file, const char *what) {
    return kin_fail(file->context, KIN_FORMAT,
                    "%s: %s; is the file damaged or not downloaded in full?", file->path, what);
}

static kin_status fail_record(const kin_pickle *file, kin_status status, const char *name,
                              const char *what) {
    char shown[80];
    return kin_fail(file->context, status, "%s: record '%s': %s", file->path,
                    kin_pickle_printable(name, strlen(name), shown, sizeof shown), what);
}

/* The record that minizip stands at. Its local header is checked by opening it. */
static kin_status read_record(kin_pickle *file, unzFile zip, pickle_record *out_record) {
    unz_file_info64 info;
    char name[NAME_LIMIT];
    if (unzGetCurrentFileInfo64(zip, &info, name, sizeof name - 1, NULL, 0, NULL, 0) != UNZ_OK)
        return fail_zip(file, "the zip directory has a bad entry");
    if (info.size_filename >= sizeof name)
        return fail_zip(file, "the zip directory has a name that is too long");
    name[info.size_filename] = '\0';
    if (strlen(name) != info.size_filename)
        return fail_zip(file, "the zip directory has a name with a NUL");
    if ((info.flag & 1) != 0) return fail_record(file, KIN_UNSUPPORTED, name, "it is encrypted");
    out_record->name = kin_pickle_text(file, name, info.size_filename);
    if (out_record->name == NULL) return KIN_OUT_OF_MEMORY;
    /* An error only if it is needed: TorchScript compresses its program. */
    if (info.compression_method != 0) return KIN_OK;
    if (info.compressed_size != info.uncompressed_size)
        return fail_record(file, KIN_FORMAT, name, "its two sizes differ");
    if (unzOpenCurrentFile2(zip, NULL, NULL, 1) != UNZ_OK)
        return fail_record(file, KIN_FORMAT, name, "its header is damaged");
    uint64_t offset = unzGetCurrentFileZStreamPos64(zip);
    unzCloseCurrentFile(zip);
    if (offset > file->mapping.size || info.compressed_size > file->mapping.size - offset)
        return fail_record(file, KIN_FORMAT, name, "it lies beyond the end of the file");
    out_record->data = file->mapping.data + offset;
    out_record->size = (size_t)info.compressed_size;
    return KIN_OK;
}

static int compare_places(const void *a, const void *b) {
    const pickle_record *x = a;
    const pickle_record *y = b;
    if (x->data != y->data) return x->data < y->data ? -1 : 1;
    return x->size < y->size ? -1 : x->size > y->size;
}

static int compare_names(const void *a, const void *b) {
    const pickle_record *x = a;
    const pickle_record *y = b;
    return strcmp(x->name, y->name);
}

static kin_status read_directory(kin_pickle *file, unzFile zip) {
    unz_global_info64 info;
    if (unzGetGlobalInfo64(zip, &info) != UNZ_OK)
        return fail_zip(file, "the zip directory cannot be read");
    /* 46 bytes is the least that an entry of the directory takes. */
    if (info.number_entry > file->mapping.size / 46 || info.number_entry > RECORD_LIMIT)
        return fail_zip(file, "the zip directory promises more entries than fit");
    size_t count = (size_t)info.number_entry;
    if (count == 0) return fail_zip(file, "the zip archive is empty");
    file->records = kin_pickle_alloc(file, count * sizeof *file->records);
    if (file->records == NULL) return KIN_OUT_OF_MEMORY;
    for (size_t i = 0; i < count; i++) {
        int code = i == 0 ? unzGoToFirstFile(zip) : unzGoToNextFile(zip);
        if (code != UNZ_OK) return fail_zip(file, "the zip directory is damaged");
        kin_status status = read_record(file, zip, &file->records[i]);
        if (status != KIN_OK) return status;
    }
    file->record_count = count;
    /* Overlapping records could make a small file unfold into a huge one. */
    qsort(file->records, count, sizeof *file->records, compare_places);
    for (size_t i = 1; i < count; i++)
        if (file->records[i - 1].data != NULL &&
            file->records[i - 1].data + file->records[i - 1].size > file->records[i].data)
            return fail_record(file, KIN_FORMAT, file->records[i].name, "it overlaps another");
    return KIN_OK;
}

/* Finds the folder that holds data.pkl; its length counts the slash. */
static kin_status find_root(kin_pickle *file, size_t *out_length) {
    const char *root = NULL;
    for (size_t i = 0; i < file->record_count; i++) {
        const char *name = file->records[i].name;
        const char *slash = strchr(name, '/');
        if (slash == NULL || strcmp(slash + 1, "data.pkl") != 0) continue;
        if (root != NULL)
            return kin_fail(file->context, KIN_FORMAT, "%s: the archive holds two data.pkl",
                            file->path);
        root = name;
        *out_length = (size_t)(slash - name) + 1;
    }
    if (root == NULL)
        return kin_fail(file->context, KIN_FORMAT,
                        "%s: a zip archive, but none of torch.save: it holds no data.pkl",
                        file->path);
    size_t kept = 0;
    for (size_t i = 0; i < file->record_count; i++) {
        if (strncmp(file->records[i].name, root, *out_length) != 0) continue;
        pickle_record record = file->records[i];
        record.name += *out_length;
        file->records[kept++] = record;
    }
    file->record_count = kept;
    return KIN_OK;
}

static kin_status check_format(kin_pickle *file) {
    const pickle_record *order = kin_pickle_find_record(file, "byteorder");
    if (order != NULL &&
        (order->data == NULL || order->size != 6 || memcmp(order->data, "little", 6) != 0))
        return kin_fail(file->context, KIN_UNSUPPORTED,
                        "%s: saved on a big-endian machine; save it again on another", file->path);
    for (size_t i = 0; i < file->record_count; i++)
        if (strcmp(file->records[i].name, "constants.pkl") == 0 ||
            strncmp(file->records[i].name, "code/", 5) == 0)
            return kin_fail(file->context, KIN_FORMAT,
                            "%s: a TorchScript program (torch.jit.save), not a checkpoint; save "
                            "the state dict with torch.save",
                            file->path);
    return KIN_OK;
}

kin_status kin_pickle_get_record(const kin_pickle *file, const char *name,
                                 const pickle_record **out_record) {
    *out_record = kin_pickle_find_record(file, name);
    if (*out_record == NULL)
        return kin_fail(file->context, KIN_FORMAT, "%s: the archive has no record '%s'", file->path,
                        name);
    if ((*out_record)->data == NULL)
        return fail_record(file, KIN_UNSUPPORTED, name,
                           "it is compressed, which torch.save never does; unpack the archive and "
                           "zip it again without compression (zip -0)");
    return KIN_OK;
}

static kin_status read_archive(kin_pickle *file, unzFile zip, const pickle_record **out_pickle) {
    size_t root_length = 0;
    kin_status status = read_directory(file, zip);
    if (status == KIN_OK) status = find_root(file, &root_length);
    if (status != KIN_OK) return status;
    qsort(file->records, file->record_count, sizeof *file->records, compare_names);
    for (size_t i = 1; i < file->record_count; i++)
        if (strcmp(file->records[i - 1].name, file->records[i].name) == 0)
            return fail_record(file, KIN_FORMAT, file->records[i].name,
                               "the archive holds it twice");
    status = check_format(file);
    return status == KIN_OK ? kin_pickle_get_record(file, "data.pkl", out_pickle) : status;
}

/* minizip takes bytes beyond the end for zeros, so it is checked here that the record which closes
 * a zip archive (22 bytes and a comment) ends with the file. */
static bool has_whole_end(const kin_mapping *mapping) {
    enum { END_SIZE = 22, COMMENT_LIMIT = 65535 };
    if (mapping->size < END_SIZE) return false;
    size_t searched = mapping->size - END_SIZE;
    if (searched > COMMENT_LIMIT) searched = COMMENT_LIMIT;
    for (size_t i = 0; i <= searched + END_SIZE - 4; i++) {
        const unsigned char *at = mapping->data + mapping->size - 4 - i;
        if (memcmp(at, "PK\005\006", 4) != 0) continue;
        /* The last one counts, for minizip too. */
        return i + 4 >= END_SIZE && (size_t)(at[20] | at[21] << 8) == i + 4 - END_SIZE;
    }
    return false;
}

kin_status kin_pickle_read_zip(kin_pickle *file, const pickle_record **out_pickle) {
    stream in = {.mapping = &file->mapping};
    zlib_filefunc64_def functions = {
        .zopen64_file = stream_open,
        .zread_file = stream_read,
        .ztell64_file = stream_tell,
        .zseek64_file = stream_seek,
        .zclose_file = stream_close,
        .zerror_file = stream_error,
        .opaque = &in,
    };
    *out_pickle = NULL;
    unzFile zip = has_whole_end(&file->mapping) ? unzOpen2_64(file->path, &functions) : NULL;
    if (zip == NULL) return fail_zip(file, "the zip directory at its end cannot be read");
    kin_status status = read_archive(file, zip, out_pickle);
    unzClose(zip);
    return status;
}

const pickle_record *kin_pickle_find_record(const kin_pickle *file, const char *name) {
    pickle_record wanted = {.name = name};
    if (file->record_count == 0) return NULL;
    return bsearch(&wanted, file->records, file->record_count, sizeof wanted, compare_names);
}

#else

kin_status kin_pickle_read_zip(kin_pickle *file, const pickle_record **out_pickle) {
    *out_pickle = NULL;
    return kin_fail(file->context, KIN_UNSUPPORTED,
                    "%s: files of torch.save since PyTorch 1.6 are zip archives, and this build "
                    "has no minizip; build with it or convert the file to safetensors",
                    file->path);
}

kin_status kin_pickle_get_record(const kin_pickle *file, const char *name,
                                 const pickle_record **out_record) {
    *out_record = NULL;
    return kin_fail(file->context, KIN_UNSUPPORTED, "%s: record '%s': no zip in this build",
                    file->path, name);
}

const pickle_record *kin_pickle_find_record(const kin_pickle *file, const char *name) {
    (void)file;
    (void)name;
    return NULL;
}

#endif
