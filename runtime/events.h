/* TensorBoard event files: scalars written as TensorFlow's Event records, and read back.
 *
 * A file is a sequence of TFRecord frames: u64 length, masked CRC-32C of those 8 bytes, the bytes,
 * masked CRC-32C of the bytes; all little-endian. The bytes are a protobuf Event: 1 wall_time
 * (double, seconds since 1970), 2 step (int64), 3 file_version (string, first record) or 5 summary
 * { 1 value { 1 tag, 2 simple_value (float) } }. TensorBoard looks for files whose name contains
 * "tfevents", such as "events.out.tfevents.1700000000.kinora". */
#ifndef KIN_RUNTIME_EVENTS_H
#define KIN_RUNTIME_EVENTS_H

#include "runtime/context.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kin_event_writer kin_event_writer;

/* Opens `path` for appending and, if it is new or empty, writes the version record. What a killed
 * process left behind is cut off: the file is kept up to its last whole record. wall_time is in
 * seconds since 1970. KIN_IO if the system refuses, KIN_FORMAT if the file is of another kind. */
KIN_API kin_status kin_event_writer_open(kin_context *context, const char *path, double wall_time,
                                         kin_event_writer **out_writer);
/* Adds one scalar. Records are buffered until kin_event_writer_flush. KIN_IO: disk full, ... */
KIN_API kin_status kin_event_writer_scalar(kin_event_writer *writer, const char *tag, int64_t step,
                                           float value, double wall_time);
/* Hands everything to the operating system. */
KIN_API kin_status kin_event_writer_flush(kin_event_writer *writer);
/* Flushes and frees the writer, whatever the status. NULL is fine. */
KIN_API kin_status kin_event_writer_close(kin_event_writer *writer);

/* One scalar of a file; tag lives during the call only. */
typedef struct kin_event_scalar {
    const char *tag;
    int64_t step;
    double wall_time;
    float value;
} kin_event_scalar;

/* Returns KIN_OK to go on; anything else ends the reading, and is its result. */
typedef kin_status (*kin_event_fn)(void *user, const kin_event_scalar *scalar);

/* Calls `fn` for each scalar in the order of the file. A broken or cut record gives KIN_FORMAT with
 * the file and the byte where it begins, after the whole records before it were delivered. */
KIN_API kin_status kin_event_read(kin_context *context, const char *path, kin_event_fn fn,
                                  void *user);
/* The same from memory; `name` stands for the file in messages. */
KIN_API kin_status kin_event_read_bytes(kin_context *context, const char *name, const void *data,
                                        size_t size, kin_event_fn fn, void *user);

/* CRC-32C (Castagnoli, reflected 0x82F63B78). */
KIN_API uint32_t kin_crc32c(const void *data, size_t size);

#ifdef __cplusplus
}
#endif
#endif
