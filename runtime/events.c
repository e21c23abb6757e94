#define _POSIX_C_SOURCE 200809L
#include "runtime/events.h"
#include "runtime/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BUFFER_BYTES = 1 << 16, FRAME_BYTES = 16, MAX_TAG = 4096 };
static const char version_text[] = "brain.Event:2";

struct kin_event_writer {
    kin_context *context;
    char *path;
    int file;
    size_t used;
    uint8_t buffer[BUFFER_BYTES];
};

uint32_t kin_crc32c(const void *data, size_t size) {
    /* Four bits at a time: a table of 16 entries is quick enough for event records. */
    static const uint32_t table[16] = {0x00000000u, 0x105EC76Fu, 0x20BD8EDEu, 0x30E349B1u,
                                       0x417B1DBCu, 0x5125DAD3u, 0x61C69362u, 0x7198540Du,
                                       0x82F63B78u, 0x92A8FC17u, 0xA24BB5A6u, 0xB21572C9u,
                                       0xC38D26C4u, 0xD3D3E1ABu, 0xE330A81Au, 0xF36E6F75u};
    const uint8_t *bytes = data;
    uint32_t crc = 0xFFFFFFFFu;
    for (size_t i = 0; i < size; ++i) {
        crc ^= bytes[i];
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
    return ~crc;
}

static uint32_t masked_crc(const void *data, size_t size) {
    uint32_t crc = kin_crc32c(data, size);
    return (crc >> 15 | crc << 17) + 0xA282EAD8u;
}

static uint8_t *put_bytes(uint8_t *at, uint64_t value, int count) {
    for (int i = 0; i < count; ++i) *at++ = (uint8_t)(value >> 8 * i);
    return at;
}

static uint64_t get_bytes(const uint8_t *at, int count) {
    uint64_t value = 0;
    for (int i = 0; i < count; ++i) value |= (uint64_t)at[i] << 8 * i;
    return value;
}

static uint8_t *put_varint(uint8_t *at, uint64_t value) {
    for (; value >= 128; value >>= 7) *at++ = (uint8_t)(value | 128);
    *at++ = (uint8_t)value;
    return at;
}

static size_t varint_size(uint64_t value) {
    size_t size = 1;
    for (; value >= 128; value >>= 7) ++size;
    return size;
}

static uint8_t *put_double(uint8_t *at, double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return put_bytes(at, bits, 8);
}

static uint8_t *put_text(uint8_t *at, uint8_t key, const char *text, size_t length) {
    *at++ = key;
    at = put_varint(at, length);
    memcpy(at, text, length);
    return at + length;
}

/* ---- writing ---- */

kin_status kin_event_writer_flush(kin_event_writer *writer) {
    size_t done = 0;
    while (done < writer->used) {
        ssize_t count = write(writer->file, writer->buffer + done, writer->used - done);
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) {
            /* What was not written stays: a later flush may succeed when there is space again. */
            memmove(writer->buffer, writer->buffer + done, writer->used - done);
            writer->used -= done;
            return kin_fail(writer->context, KIN_IO, "%s: cannot be written: %s", writer->path,
                            strerror(errno));
        }
        done += (size_t)count;
    }
    writer->used = 0;
    return KIN_OK;
}

/* Room for one record of `size` payload bytes; NULL with the status set if flushing failed. */
static uint8_t *record_begin(kin_event_writer *writer, size_t size, kin_status *out_status) {
    *out_status = KIN_OK;
    if (writer->used + size + FRAME_BYTES > BUFFER_BYTES) {
        *out_status = kin_event_writer_flush(writer);
        if (*out_status != KIN_OK) return NULL;
    }
    uint8_t *at = put_bytes(writer->buffer + writer->used, size, 8);
    return put_bytes(at, masked_crc(at - 8, 8), 4);
}

static void record_end(kin_event_writer *writer, uint8_t *payload, size_t size) {
    put_bytes(payload + size, masked_crc(payload, size), 4);
    writer->used += size + FRAME_BYTES;
}

static kin_status write_version(kin_event_writer *writer, double wall_time) {
    const size_t length = sizeof version_text - 1, size = 9 + 2 + length;
    kin_status status;
    uint8_t *payload = record_begin(writer, size, &status);
    if (!payload) return status;
    uint8_t *at = payload;
    *at++ = 0x09; /* wall_time, 8 bytes */
    at = put_double(at, wall_time);
    put_text(at, 0x1A, version_text, length);
    record_end(writer, payload, size);
    return KIN_OK;
}

kin_status kin_event_writer_scalar(kin_event_writer *writer, const char *tag, int64_t step,
                                   float value, double wall_time) {
    const size_t length = strlen(tag);
    if (length == 0 || length > MAX_TAG)
        return kin_fail(writer->context, KIN_INVALID, "%s: a tag has 1 to %d bytes, not %zu",
                        writer->path, MAX_TAG, length);
    const size_t value_size = 1 + varint_size(length) + length + 5;
    const size_t summary_size = 1 + varint_size(value_size) + value_size;
    const size_t size =
        9 + 1 + varint_size((uint64_t)step) + 1 + varint_size(summary_size) + summary_size;
    kin_status status;
    uint8_t *payload = record_begin(writer, size, &status);
    if (!payload) return status;
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint8_t *at = payload;
    *at++ = 0x09;
    at = put_double(at, wall_time);
    *at++ = 0x10; /* step, varint */
    at = put_varint(at, (uint64_t)step);
    *at++ = 0x2A; /* summary */
    at = put_varint(at, summary_size);
    *at++ = 0x0A; /* value */
    at = put_varint(at, value_size);
    at = put_text(at, 0x0A, tag, length);
    *at++ = 0x15; /* simple_value, 4 bytes */
    put_bytes(at, bits, 4);
    record_end(writer, payload, size);
    return KIN_OK;
}

/* Bytes of the whole records at the start of the file; they must begin with one of ours. */
static size_t whole_records(const uint8_t *data, size_t size) {
    size_t at = 0;
    while (size - at >= FRAME_BYTES) {
        uint64_t length = get_bytes(data + at, 8);
        if (length > size - at - FRAME_BYTES) break;
        if (get_bytes(data + at + 8, 4) != masked_crc(data + at, 8)) break;
        if (get_bytes(data + at + 12 + length, 4) != masked_crc(data + at + 12, (size_t)length))
            break;
        at += (size_t)length + FRAME_BYTES;
    }
    return at;
}

/* Cuts off what a killed process left of its last record and goes to the end. */
static kin_status resume(kin_event_writer *writer) {
    struct stat info;
    if (fstat(writer->file, &info) != 0 || !S_ISREG(info.st_mode))
        return kin_fail(writer->context, KIN_IO, "%s: not a regular file", writer->path);
    if (info.st_size == 0) return KIN_OK;
    char *data = NULL;
    size_t size = 0;
    kin_status status =
        kin_file_read_all(writer->context, writer->path, SIZE_MAX / 2, &data, &size);
    if (status != KIN_OK) return status;
    size_t keep = whole_records((const uint8_t *)data, size);
    kin_free(writer->context, data);
    if (keep == 0 && size >= 64)
        return kin_fail(writer->context, KIN_FORMAT,
                        "%s: not a TensorBoard event file; move it away or choose another name",
                        writer->path);
    if (ftruncate(writer->file, (off_t)keep) != 0 || lseek(writer->file, (off_t)keep, SEEK_SET) < 0)
        return kin_fail(writer->context, KIN_IO, "%s: cannot be cut to its whole records: %s",
                        writer->path, strerror(errno));
    return KIN_OK;
}

static kin_status open_file(kin_event_writer *writer, const char *path, double wall_time) {
    writer->path = kin_strdup(writer->context, path);
    if (!writer->path) return KIN_OUT_OF_MEMORY;
    writer->file = open(path, O_RDWR | O_CREAT, 0666);
    if (writer->file < 0)
        return kin_fail(writer->context, KIN_IO, "%s: cannot be opened: %s", path, strerror(errno));
    kin_status status = resume(writer);
    if (status != KIN_OK) return status;
    if (lseek(writer->file, 0, SEEK_CUR) != 0) return KIN_OK;
    status = write_version(writer, wall_time);
    return status != KIN_OK ? status : kin_event_writer_flush(writer);
}

static void release(kin_event_writer *writer) {
    if (writer->file >= 0) close(writer->file);
    kin_free(writer->context, writer->path);
    kin_free(writer->context, writer);
}

kin_status kin_event_writer_open(kin_context *context, const char *path, double wall_time,
                                 kin_event_writer **out_writer) {
    *out_writer = NULL;
    kin_event_writer *writer = kin_calloc(context, 1, sizeof *writer);
    if (!writer) return KIN_OUT_OF_MEMORY;
    writer->context = context;
    writer->file = -1;
    kin_status status = open_file(writer, path, wall_time);
    if (status != KIN_OK) {
        release(writer);
        return status;
    }
    *out_writer = writer;
    return KIN_OK;
}

kin_status kin_event_writer_close(kin_event_writer *writer) {
    if (!writer) return KIN_OK;
    kin_status status = kin_event_writer_flush(writer);
    release(writer);
    return status;
}

/* ---- reading ---- */

/* A protobuf message under the reader; `bad` once anything does not fit. */
typedef struct cursor {
    const uint8_t *at, *end;
    bool bad;
} cursor;

typedef struct field {
    uint64_t number, value; /* value: the varint or the fixed bits */
    int wire;
    const uint8_t *data; /* wire 2 */
    size_t size;
} field;

static uint64_t take_varint(cursor *c) {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        if (c->at == c->end) break;
        uint8_t byte = *c->at++;
        value |= (uint64_t)(byte & 127) << shift;
        if (byte < 128) return value;
    }
    c->bad = true;
    return 0;
}

static bool take_field(cursor *c, field *out_field) {
    if (c->bad || c->at == c->end) return false;
    uint64_t key = take_varint(c);
    *out_field = (field){.number = key >> 3, .wire = (int)(key & 7)};
    size_t left = (size_t)(c->end - c->at);
    int fixed = out_field->wire == 1 ? 8 : out_field->wire == 5 ? 4 : 0;
    if (out_field->wire == 0) {
        out_field->value = take_varint(c);
    } else if (fixed && left >= (size_t)fixed) {
        out_field->value = get_bytes(c->at, fixed);
        c->at += fixed;
    } else if (out_field->wire == 2) {
        uint64_t size = take_varint(c);
        if (size > (uint64_t)(c->end - c->at)) c->bad = true;
        if (c->bad) return false;
        out_field->data = c->at;
        out_field->size = (size_t)size;
        c->at += size;
    } else {
        c->bad = true;
    }
    return !c->bad;
}

typedef struct reader {
    kin_event_fn fn;
    void *user;
    char tag[MAX_TAG + 1];
} reader;

static kin_status read_value(reader *r, cursor value, kin_event_scalar scalar, bool *bad) {
    field f;
    bool has_tag = false, has_value = false;
    while (take_field(&value, &f)) {
        if (f.number == 1 && f.wire == 2) {
            if (f.size > MAX_TAG || memchr(f.data, 0, f.size)) {
                *bad = true;
                return KIN_OK;
            }
            memcpy(r->tag, f.data, f.size);
            r->tag[f.size] = 0;
            has_tag = true;
        } else if (f.number == 2 && f.wire == 5) {
            uint32_t bits = (uint32_t)f.value;
            memcpy(&scalar.value, &bits, sizeof bits);
            has_value = true;
        }
    }
    if (value.bad) *bad = true;
    if (value.bad || !has_tag || !has_value) return KIN_OK; /* other kinds of summary: skipped */
    scalar.tag = r->tag;
    return r->fn(r->user, &scalar);
}

static kin_status read_event(reader *r, cursor event, bool *bad) {
    kin_event_scalar scalar = {0};
    cursor summary = {NULL, NULL, false};
    field f;
    while (take_field(&event, &f)) {
        if (f.number == 1 && f.wire == 1) memcpy(&scalar.wall_time, &f.value, 8);
        if (f.number == 2 && f.wire == 0) scalar.step = (int64_t)f.value;
        if (f.number == 5 && f.wire == 2) summary = (cursor){f.data, f.data + f.size, false};
    }
    *bad = event.bad;
    kin_status status = KIN_OK;
    while (status == KIN_OK && !*bad && summary.at && take_field(&summary, &f)) {
        if (f.number == 1 && f.wire == 2)
            status = read_value(r, (cursor){f.data, f.data + f.size, false}, scalar, bad);
    }
    *bad = *bad || summary.bad;
    return status;
}

kin_status kin_event_read_bytes(kin_context *context, const char *name, const void *data,
                                size_t size, kin_event_fn fn, void *user) {
    const uint8_t *bytes = data;
    reader *r = kin_alloc(context, sizeof *r);
    if (!r) return KIN_OUT_OF_MEMORY;
    r->fn = fn;
    r->user = user;
    kin_status status = KIN_OK;
    size_t at = 0;
    while (status == KIN_OK && at < size) {
        bool bad = true;
        uint64_t length = size - at >= FRAME_BYTES ? get_bytes(bytes + at, 8) : 0;
        /* whole_records stops after one record when given just its bytes. */
        if (size - at >= FRAME_BYTES && length <= size - at - FRAME_BYTES &&
            whole_records(bytes + at, (size_t)length + FRAME_BYTES) != 0) {
            const uint8_t *payload = bytes + at + 12;
            status = read_event(r, (cursor){payload, payload + length, false}, &bad);
        }
        if (bad)
            status = kin_fail(context, KIN_FORMAT, "%s: the record at byte %zu is cut or broken",
                              name, at);
        at += (size_t)length + FRAME_BYTES;
    }
    kin_free(context, r);
    return status;
}

kin_status kin_event_read(kin_context *context, const char *path, kin_event_fn fn, void *user) {
    char *data = NULL;
    size_t size = 0;
    kin_status status = kin_file_read_all(context, path, SIZE_MAX / 2, &data, &size);
    if (status != KIN_OK) return status;
    status = kin_event_read_bytes(context, path, data, size, fn, user);
    kin_free(context, data);
    return status;
}
