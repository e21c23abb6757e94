/* Images and videos that clips take frames from, read, resized and cropped as Open-Sora 1.1 does.
 */
#ifndef KIN_TOOLS_REFERENCES_H
#define KIN_TOOLS_REFERENCES_H

#include "runtime/context.h"
#include "runtime/tensor.h"

typedef struct kin_reference {
    char *path;
    bool picture;   /* a file of one image */
    int64_t frames; /* that a clip can take: every interval-th of the file's */
    int64_t interval;
    double fps; /* of the file; 0: it does not say, or a picture */
} kin_reference;

typedef struct kin_references {
    kin_reference *list;
    size_t count;
} kin_references;

/* Looks at the files of "path;path;...", without decoding more than their heads. interval: of the
 * videos, every interval-th frame. NULL is none. The caller frees with kin_references_free. */
kin_status kin_references_probe(kin_context *context, const char *paths, int64_t interval,
                                kin_references *out_references);
void kin_references_free(kin_context *context, kin_references *references);

/* Reads frames for a clip of height x width: f32 [1, 3, count, height, width] in -1..1, which the
 * caller frees. wanted: `count` frame numbers of the reference, ascending; NULL: all of them.
 * Pictures are scaled by Pillow's bicubic filter and videos bilinearly until they cover the size,
 * and the middle is cut out. */
kin_status kin_reference_read(kin_context *context, const kin_reference *reference,
                              const int64_t *wanted, int64_t count, int64_t height, int64_t width,
                              kin_host_tensor *out_clip);

#endif
