/* PNG files with text chunks. */
#ifndef KIN_RUNTIME_IMAGE_H
#define KIN_RUNTIME_IMAGE_H

#include "runtime/context.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A text chunk: key of 1 to 79 ASCII characters ("parameters"), value in UTF-8. */
typedef struct kin_image_text {
    const char *key;
    const char *value;
} kin_image_text;

/* Writes an 8-bit RGB PNG: pixels is (height, width, 3), dense. ASCII values become tEXt chunks,
 * others iTXt. The file appears whole or not at all. KIN_INVALID for bad sizes or keys, KIN_IO,
 * KIN_UNSUPPORTED in a build without libpng. */
KIN_API kin_status kin_image_write_png(kin_context *context, const char *path,
                                       const uint8_t *pixels, int height, int width,
                                       const kin_image_text *texts, size_t text_count);

#ifdef __cplusplus
}
#endif
#endif
