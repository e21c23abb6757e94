/* Writing files of torch.save: the zip archive, by minizip. All records are
 * stored, not compressed, and their data begins at multiples of 64, as PyTorch
 * writes them, so that it can be mapped. */
#define _POSIX_C_SOURCE 200809L

#include "runtime/pickle_write_internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <zip.h>

enum {
    LOCAL_HEADER = 30, /* bytes before the name, */
    LOCAL_64 = 20,     /* and those of the 64-bit sizes, behind the extra field */
    EXTRA_HEADER = 4,
    ALIGNMENT = 64,
    MAX_NAME = 64
};

static const uLong date_1980 = 0x21uL << 16; /* 1 January, midnight: the same bytes every time */
static const size_t limit_32 = 0xFFFFFFFFu;

/* What minizip writes to: the temporary file. */
typedef struct sink {
    kin_file_writer file;
    uint64_t at, end;
    kin_status status; /* of the first write that failed */
} sink;

static voidpf ZCALLBACK sink_open(voidpf opaque, const void *name, int mode) {
    (void)name;
    (void)mode;
    return opaque;
}

static uLong ZCALLBACK sink_read(voidpf opaque, voidpf handle, void *buffer, uLong size) {
    (void)opaque, (void)handle, (void)buffer, (void)size;
    return 0; /* a new archive is never read */
}

static uLong ZCALLBACK sink_write(voidpf opaque, voidpf handle, const void *data, uLong size) {
    sink *out = handle;
    (void)opaque;
    if (out->status == KIN_OK) out->status = kin_file_writer_write(&out->file, data, size);
    if (out->status != KIN_OK) return 0;
    out->at += size;
    if (out->at > out->end) out->end = out->at;
    return size;
}

static ZPOS64_T ZCALLBACK sink_tell(voidpf opaque, voidpf handle) {
    (void)opaque;
    return ((sink *)handle)->at;
}

/* minizip goes back to fill in what it did not know when it wrote a header. */
static long ZCALLBACK sink_seek(voidpf opaque, voidpf handle, ZPOS64_T offset, int origin) {
    sink *out = handle;
    (void)opaque;
    uint64_t base = origin == ZLIB_FILEFUNC_SEEK_SET   ? 0
                    : origin == ZLIB_FILEFUNC_SEEK_CUR ? out->at
                                                       : out->end;
    if (out->status == KIN_OK && lseek(out->file.file, (off_t)(base + offset), SEEK_SET) < 0)
        out->status =
            kin_fail(out->file.context, KIN_IO, "%s: %s", out->file.temporary, strerror(errno));
    if (out->status != KIN_OK) return -1;
    out->at = base + offset;
    return 0;
}

static int ZCALLBACK sink_close(voidpf opaque, voidpf handle) {
    (void)opaque, (void)handle;
    return 0;
}

static int ZCALLBACK sink_error(voidpf opaque, voidpf handle) {
    (void)opaque;
    return ((sink *)handle)->status != KIN_OK;
}

/* What went wrong: a write, or minizip itself, which only ever lacks memory
 * here. */
static kin_status failure(const sink *out) {
    if (out->status != KIN_OK) return out->status;
    return kin_fail(out->file.context, KIN_OUT_OF_MEMORY, "no memory to write %s", out->file.path);
}

static kin_status begin_record(sink *out, zipFile zip, const char *name, size_t size) {
    static const unsigned char zeros[EXTRA_HEADER + ALIGNMENT];
    unsigned char extra[EXTRA_HEADER + ALIGNMENT];
    zip_fileinfo info = {.dosDate = date_1980};
    bool wide = size >= limit_32;
    size_t before = LOCAL_HEADER + strlen(name) + EXTRA_HEADER + (wide ? LOCAL_64 : 0);
    size_t padding = (ALIGNMENT - (out->end + before) % ALIGNMENT) % ALIGNMENT;
    memcpy(extra, zeros, sizeof extra);
    memcpy(extra, (const unsigned char[]){'F', 'B', (unsigned char)padding, 0}, EXTRA_HEADER);
    if (zipOpenNewFileInZip64(zip, name, &info, extra, (uInt)(EXTRA_HEADER + padding), NULL, 0,
                              NULL, 0, 0, wide) != ZIP_OK)
        return failure(out);
    return KIN_OK;
}

static kin_status write_bytes(sink *out, zipFile zip, const void *data, size_t size) {
    return zipWriteInFileInZip(zip, data, (unsigned)size) == ZIP_OK ? KIN_OK : failure(out);
}

static kin_status end_record(sink *out, zipFile zip) {
    return zipCloseFileInZip(zip) == ZIP_OK && out->status == KIN_OK ? KIN_OK : failure(out);
}

static kin_status write_small(sink *out, zipFile zip, const char *name, const void *data,
                              size_t size) {
    kin_status status = begin_record(out, zip, name, size);
    if (status == KIN_OK) status = write_bytes(out, zip, data, size);
    return status == KIN_OK ? end_record(out, zip) : status;
}

static kin_status write_tensor(sink *out, zipFile zip, const kin_named_tensor *tensor, size_t index,
                               kin_fill_piece fill, void *user, void *buffer) {
    char name[MAX_NAME];
    size_t size = kin_desc_bytes(&tensor->desc);
    snprintf(name, sizeof name, "archive/data/%zu", index);
    kin_status status = begin_record(out, zip, name, size);
    for (size_t done = 0; done < size && status == KIN_OK; done += KIN_PIECE) {
        size_t part = size - done < KIN_PIECE ? size - done : KIN_PIECE;
        const void *data = buffer;
        if (tensor->data != NULL) data = (const unsigned char *)tensor->data + done;
        else status = fill(user, index, done, buffer, part);
        if (status == KIN_OK) status = write_bytes(out, zip, data, part);
    }
    return status == KIN_OK ? end_record(out, zip) : status;
}

static kin_status write_records(sink *out, zipFile zip, const void *pickle, size_t pickle_size,
                                const kin_named_tensor *tensors, size_t count, kin_fill_piece fill,
                                void *user, void *buffer) {
    kin_status status = write_small(out, zip, "archive/data.pkl", pickle, pickle_size);
    for (size_t i = 0; i < count && status == KIN_OK; i++)
        status = write_tensor(out, zip, &tensors[i], i, fill, user, buffer);
    return status == KIN_OK ? write_small(out, zip, "archive/version", "3\n", 2) : status;
}

static kin_status write_archive(sink *out, const void *pickle, size_t pickle_size,
                                const kin_named_tensor *tensors, size_t count, kin_fill_piece fill,
                                void *user, void *buffer) {
    zlib_filefunc64_def functions = {
        .zopen64_file = sink_open,
        .zread_file = sink_read,
        .zwrite_file = sink_write,
        .ztell64_file = sink_tell,
        .zseek64_file = sink_seek,
        .zclose_file = sink_close,
        .zerror_file = sink_error,
        .opaque = out,
    };
    zipFile zip = zipOpen2_64(out->file.path, APPEND_STATUS_CREATE, NULL, &functions);
    if (zip == NULL) return failure(out);
    kin_status status =
        write_records(out, zip, pickle, pickle_size, tensors, count, fill, user, buffer);
    bool closed = zipClose(zip, NULL) == ZIP_OK && out->status == KIN_OK;
    return status == KIN_OK && !closed ? failure(out) : status;
}

kin_status kin_pickle_write_zip(kin_context *context, const char *path, const void *pickle,
                                size_t pickle_size, const kin_named_tensor *tensors, size_t count,
                                kin_fill_piece fill, void *fill_user) {
    sink out = {.status = KIN_OK};
    void *buffer = fill ? kin_alloc(context, KIN_PIECE) : NULL;
    if (fill && !buffer) return kin_fail_in(context, KIN_OUT_OF_MEMORY, "%s", path);
    kin_status status = kin_file_writer_open(context, path, &out.file);
    if (status == KIN_OK) {
        status = write_archive(&out, pickle, pickle_size, tensors, count, fill, fill_user, buffer);
        if (status == KIN_OK) status = kin_file_writer_commit(&out.file);
        else kin_file_writer_abandon(&out.file);
    }
    kin_free(context, buffer);
    return status;
}
