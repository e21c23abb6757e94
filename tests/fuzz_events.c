/* Fuzz target of the event reader, and of opening such a file again for writing. */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <unistd.h>

#include "runtime/events.h"
#include "runtime/file.h"
#include "tests/fuzz_patch.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static kin_status count_one(void *user, const kin_event_scalar *scalar) {
    *(size_t *)user += strlen(scalar->tag);
    return KIN_OK;
}

static void make_seed(kin_context *context, const char *path, fuzz_seed *seed) {
    kin_event_writer *writer = NULL;
    char *bytes = NULL;
    unlink(path);
    if (kin_event_writer_open(context, path, 1.5e9, &writer) != KIN_OK) abort();
    for (int i = 0; i < 3; ++i) kin_event_writer_scalar(writer, "train/loss", i, 0.5f, 1.5e9);
    if (kin_event_writer_close(writer) != KIN_OK) abort();
    if (kin_file_read_all(context, path, 1 << 20, &bytes, &seed->size) != KIN_OK) abort();
    seed->data = (uint8_t *)bytes;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char path[64];
    snprintf(path, sizeof path, "/tmp/kinora-fuzz-%ld.tfevents", (long)getpid());
    kin_context *context = NULL;
    if (kin_context_create(NULL, &context) != KIN_OK) abort();
    fuzz_seed seed = {NULL, 0};
    make_seed(context, path, &seed);
    size_t length = 0, total = 0;
    uint8_t *input = fuzz_make(data, size, &seed, 1, &length);
    kin_event_read_bytes(context, "fuzz", input, length, count_one, &total);
    /* Whatever is there: after appending one scalar to it, the file reads without an error. */
    kin_event_writer *writer = NULL;
    if (kin_file_write_atomic(context, path, input, length) != KIN_OK) abort();
    if (kin_event_writer_open(context, path, 0, &writer) == KIN_OK) {
        if (kin_event_writer_scalar(writer, "x", 1, 1.0f, 0) != KIN_OK) abort();
        if (kin_event_writer_close(writer) != KIN_OK) abort();
    }
    unlink(path);
    free(input);
    kin_free(context, seed.data);
    kin_context_destroy(context);
    return 0;
}
