/* Gives the bytes of a fuzzing input as a file without a disk. */
#ifndef KIN_TESTS_FUZZ_FILE_H
#define KIN_TESTS_FUZZ_FILE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* Opens the input; the path is written to `path`. The caller closes the result. */
static inline int fuzz_file(const uint8_t *data, size_t size, char path[64]) {
    int file = memfd_create("kinora-fuzz", 0);
    if (file < 0) abort();
    if (size > 0 && write(file, data, size) != (ssize_t)size) abort();
    snprintf(path, 64, "/proc/self/fd/%d", file);
    return file;
}

#endif
