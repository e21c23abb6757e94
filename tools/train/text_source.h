/* Features of captions for training: encoded once and kept on disk, or batch by batch. */
#ifndef KIN_TOOLS_TEXT_SOURCE_H
#define KIN_TOOLS_TEXT_SOURCE_H

#include "models/t5.h"
#include "runtime/device.h"
#include "tools/ranks.h"

typedef struct kin_text_source kin_text_source;

typedef struct kin_text_source_options {
    const kin_t5_config *config;
    kin_precision precision;
    const char *path, *entry;     /* of the encoder's weights, and which of a pickled file's */
    const char *tokenizer_path;   /* that the tokens come from: for the fingerprint */
    const int32_t *ids, *lengths; /* of all captions: [count, length], [count] */
    int64_t count, length;
    bool whole;        /* what the encoder makes of the padding is wanted, too */
    const char *cache; /* the file to keep features in; NULL: the encoder stays loaded, and encodes
                          what is asked for */
    bool quiet;
    kin_ranks *ranks; /* that share the encoding for the cache; NULL: this process alone */
} kin_text_source_options;

/* The cache has one tensor f32 [tokens, C] a caption, named by its number, and is mapped, not read:
 * it may be larger than memory. ids and lengths must live as long. */
kin_status kin_text_source_open(kin_context *context, kin_device *device,
                                const kin_text_source_options *options,
                                kin_text_source **out_source);
void kin_text_source_close(kin_text_source *source);
/* Features f32 [count, length, C] of captions; 0 behind the end of a caption, unless `whole`. */
kin_status kin_text_source_read(kin_text_source *source, const int64_t *captions, int64_t count,
                                float *out_features);
/* Device memory that the source keeps to itself, in bytes. */
uint64_t kin_text_source_memory(const kin_text_source *source);

#endif
