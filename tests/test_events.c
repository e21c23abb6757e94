/* Event files: bytes checked against a hand-made record, reading back, resuming, broken files. All
 * comparisons are exact. */
#define _POSIX_C_SOURCE 200809L
#include "tests/media_helper.h"

#include "runtime/events.h"

static void crc_known_answers(void **state) {
    (void)state;
    /* RFC 3720, appendix B.4. */
    unsigned char data[32] = {0};
    assert_int_equal(kin_crc32c("123456789", 9), 0xE3069283u);
    assert_int_equal(kin_crc32c(data, 32), 0x8A9136AAu);
    memset(data, 0xFF, 32);
    assert_int_equal(kin_crc32c(data, 32), 0x62A8AB43u);
    for (int i = 0; i < 32; ++i) data[i] = (unsigned char)i;
    assert_int_equal(kin_crc32c(data, 32), 0x46DD794Eu);
    data[5] ^= 1;
    assert_int_not_equal(kin_crc32c(data, 32), 0x46DD794Eu);
}

typedef struct seen {
    int count, stop_at;
    char tags[16][32];
    int64_t steps[16];
    double times[16];
    float values[16];
} seen;

static kin_status collect(void *user, const kin_event_scalar *scalar) {
    seen *s = user;
    if (s->count < 16) {
        snprintf(s->tags[s->count], sizeof s->tags[0], "%s", scalar->tag);
        s->steps[s->count] = scalar->step;
        s->times[s->count] = scalar->wall_time;
        s->values[s->count] = scalar->value;
    }
    return ++s->count == s->stop_at ? KIN_CANCELLED : KIN_OK;
}

static void write_some(media *m, const char *path, int from, int to) {
    kin_event_writer *writer = NULL;
    assert_int_equal(kin_event_writer_open(m->context, path, 1.7e9, &writer), KIN_OK);
    for (int i = from; i < to; ++i)
        assert_int_equal(kin_event_writer_scalar(writer, i % 2 ? "train/loss" : "lr", i * 1000 - 1,
                                                 (float)i * 0.125f, 1.7e9 + i),
                         KIN_OK);
    assert_int_equal(kin_event_writer_close(writer), KIN_OK);
}

static void exact_bytes(void **state) {
    media *m = *state;
    const char *path = media_path(m, "bytes.tfevents");
    kin_event_writer *writer = NULL;
    assert_int_equal(kin_event_writer_open(m->context, path, 0, &writer), KIN_OK);
    assert_int_equal(kin_event_writer_scalar(writer, "a", 300, 1.0f, 0), KIN_OK);
    assert_int_equal(kin_event_writer_close(writer), KIN_OK);
    /* Payloads as the protobuf text formats them; framing is checked by the reader below. */
    static const unsigned char version[] = "\x09\0\0\0\0\0\0\0\0\x1A\x0D"
                                           "brain.Event:2";
    static const unsigned char scalar[] = "\x09\0\0\0\0\0\0\0\0\x10\xAC\x02\x2A\x0A\x0A\x08\x0A\x01"
                                          "a\x15\0\0\x80\x3F";
    size_t size = 0;
    unsigned char *data = media_read(path, &size);
    assert_int_equal(size, 16 + 24 + 16 + 24);
    assert_int_equal(data[0], 24);
    assert_memory_equal(data + 12, version, 24);
    assert_int_equal(data[40], 24);
    assert_memory_equal(data + 52, scalar, 24);
    /* Masked CRC of the length, by its definition: rotate right by 15, add a constant. */
    uint32_t crc = kin_crc32c(data, 8), mask = 0;
    memcpy(&mask, data + 8, 4);
    assert_int_equal(mask, (uint32_t)((crc >> 15 | crc << 17) + 0xA282EAD8u));
    free(data);
}

static void round_trip(void **state) {
    media *m = *state;
    const char *path = media_path(m, "round.tfevents");
    write_some(m, path, 0, 5);
    write_some(m, path, 5, 8); /* a second run appends */
    seen s = {0};
    assert_int_equal(kin_event_read(m->context, path, collect, &s), KIN_OK);
    assert_int_equal(s.count, 8);
    for (int i = 0; i < 8; ++i) {
        assert_string_equal(s.tags[i], i % 2 ? "train/loss" : "lr");
        assert_int_equal(s.steps[i], i * 1000 - 1); /* -1 for the first */
        assert_true(s.values[i] == (float)i * 0.125f && s.times[i] == 1.7e9 + i);
    }
    seen stopped = {.stop_at = 3};
    assert_int_equal(kin_event_read(m->context, path, collect, &stopped), KIN_CANCELLED);
    assert_int_equal(stopped.count, 3);
}

static void flush_shows(void **state) {
    media *m = *state;
    const char *path = media_path(m, "flush.tfevents");
    kin_event_writer *writer = NULL;
    assert_int_equal(kin_event_writer_open(m->context, path, 0, &writer), KIN_OK);
    for (int i = 0; i < 5000; ++i) /* more than the buffer holds */
        assert_int_equal(kin_event_writer_scalar(writer, "x", i, 1.0f, 0), KIN_OK);
    assert_int_equal(kin_event_writer_flush(writer), KIN_OK);
    seen s = {0};
    assert_int_equal(kin_event_read(m->context, path, collect, &s), KIN_OK);
    assert_int_equal(s.count, 5000);
    assert_int_equal(kin_event_writer_scalar(writer, "", 0, 1.0f, 0), KIN_INVALID);
    assert_int_equal(kin_event_writer_close(writer), KIN_OK);
    assert_int_equal(kin_event_writer_close(NULL), KIN_OK);
}

static void cut_and_broken(void **state) {
    media *m = *state;
    const char *path = media_path(m, "cut.tfevents");
    write_some(m, path, 0, 4);
    size_t size = 0;
    unsigned char *data = media_read(path, &size);
    for (size_t keep = 0; keep < size; ++keep) {
        seen s = {0};
        kin_status status = kin_event_read_bytes(m->context, "cut", data, keep, collect, &s);
        assert_true(status == KIN_FORMAT || s.count < 4);
        assert_true(s.count < 4);
    }
    for (size_t i = 0; i < size; ++i) { /* the checksums find any changed byte */
        seen s = {0};
        data[i] ^= 0x10;
        assert_int_equal(kin_event_read_bytes(m->context, "bad", data, size, collect, &s),
                         KIN_FORMAT);
        data[i] ^= 0x10;
    }
    assert_non_null(strstr(kin_context_error(m->context), "bad: the record at byte"));
    /* A killed process: the rest of its last record goes, the next run goes on behind the others.
     */
    media_write(path, data, size - 7);
    write_some(m, path, 4, 6);
    seen s = {0};
    assert_int_equal(kin_event_read(m->context, path, collect, &s), KIN_OK);
    assert_int_equal(s.count, 5);
    assert_int_equal(s.steps[2], 1999);
    assert_int_equal(s.steps[3], 3999);
    free(data);
}

static void refuses_other_files(void **state) {
    media *m = *state;
    const char *path = media_path(m, "other.txt");
    char text[100];
    memset(text, 'x', sizeof text);
    media_write(path, text, sizeof text);
    kin_event_writer *writer = NULL;
    assert_int_equal(kin_event_writer_open(m->context, path, 0, &writer), KIN_FORMAT);
    assert_null(writer);
    size_t size = 0;
    unsigned char *data = media_read(path, &size);
    assert_int_equal(size, sizeof text); /* and leaves them as they are */
    free(data);
    assert_int_equal(kin_event_writer_open(m->context, m->folder, 0, &writer), KIN_IO);
    seen s = {0};
    assert_int_not_equal(kin_event_read(m->context, media_path(m, "missing"), collect, &s), KIN_OK);
}

static kin_status append_and_read(kin_context *context, const media *m) {
    const char *path = media_path(m, "memory.tfevents");
    kin_event_writer *writer = NULL;
    seen s = {0};
    kin_status status = kin_event_writer_open(context, path, 0, &writer);
    if (status == KIN_OK) status = kin_event_writer_scalar(writer, "x", 1, 2.0f, 3);
    kin_event_writer_close(writer);
    return status != KIN_OK ? status : kin_event_read(context, path, collect, &s);
}

static void out_of_memory(void **state) {
    assert_true(media_starve(append_and_read, *state) > 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(crc_known_answers), cmocka_unit_test(exact_bytes),
        cmocka_unit_test(round_trip),        cmocka_unit_test(flush_shows),
        cmocka_unit_test(cut_and_broken),    cmocka_unit_test(refuses_other_files),
        cmocka_unit_test(out_of_memory)};
    return cmocka_run_group_tests(tests, media_setup, media_teardown);
}
