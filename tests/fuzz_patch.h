/* Inputs of the fuzz targets: the bytes as they are, or patches of a good file.
 *
 * Byte 0 chooses: 0 the rest is the file itself; k > 0 (modulo the number of good files + 1) the
 * rest is patches for good file k: two bytes place, one byte value; place 0xFFFF cuts the file to
 * value / 255 of its length. So the fuzzer gets behind the checks at the start of a format. */
#ifndef KIN_TESTS_FUZZ_PATCH_H
#define KIN_TESTS_FUZZ_PATCH_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct fuzz_seed {
    uint8_t *data;
    size_t size;
} fuzz_seed;

/* The input in malloc's memory. */
static inline uint8_t *fuzz_make(const uint8_t *data, size_t size, const fuzz_seed *seeds,
                                 size_t seed_count, size_t *out_size) {
    size_t which = size > 0 ? data[0] % (seed_count + 1) : 0;
    if (size > 0) ++data, --size;
    size_t length = which == 0 ? size : seeds[which - 1].size;
    uint8_t *made = malloc(length + 1);
    if (!made) abort();
    if (length > 0) memcpy(made, which == 0 ? data : seeds[which - 1].data, length);
    for (size_t i = 0; which > 0 && i + 3 <= size; i += 3) {
        size_t place = (size_t)data[i] << 8 | data[i + 1];
        if (place == 0xFFFF) length = length * data[i + 2] / 255;
        else if (length > 0) made[place % length] = data[i + 2];
    }
    *out_size = length;
    return made;
}

#endif
