/* kinora init: folders with random weights in the layout of the published systems, so that every
 * command, the memory plan and the speed can be tried without the real weights. */
#ifndef KIN_TOOLS_INIT_H
#define KIN_TOOLS_INIT_H

#include "tools/system/system.h"

typedef enum kin_init_size {
    KIN_INIT_SIZE_PUBLISHED,
    KIN_INIT_SIZE_SMALL, /* tens of millions of parameters */
    KIN_INIT_SIZE_TINY   /* for tests: clips of 64 x 64 pixels in a second */
} kin_init_size;

enum { KIN_INIT_MAX_PARTS = 8 };

typedef struct kin_init_options {
    kin_system_kind system;
    kin_init_size size;
    const char *const *sets; /* "transformer.depth=4": keys of the parts' configurations, by the
                                names of their folders */
    int set_count;
    const char *const *parts; /* of these folders only; none: all */
    int part_count;
    const char *dtype; /* "f32", "f16", "bf16", "q8_0" of all weights; NULL: as published */
    uint64_t seed;
    bool quiet;
} kin_init_options;

/* Bytes of the weights that kin_init_folder would write. */
kin_status kin_init_bytes(kin_context *context, const kin_init_options *options,
                          uint64_t *out_bytes);
/* Makes the folder, which must not be there, or be empty; it appears whole or not at all. Parts lie
 * in folders named as in diffusers' layout (transformer, vae, text_encoder, ...); in each is what
 * its repository has: names of files, their form, shards, names and shapes of tensors, keys of
 * configurations. The tokenizer is a small one: the words of a built-in list. KIN_IO if the disk
 * has not enough room, KIN_CANCELLED after Ctrl-C. */
kin_status kin_init_folder(kin_context *context, const kin_init_options *options,
                           const char *folder);

/* ---- between the files of this part ---- */

/* The configurations that options ask for. The temporal decoder's is Latte's own part. */
typedef struct kin_init_configs {
    kin_denoiser_config denoiser;
    kin_vae_config vae, temporal;
    kin_t5_config t5;
    bool mt5;
} kin_init_configs;

kin_status kin_init_configure(kin_context *context, const kin_init_options *options,
                              kin_init_configs *out_configs);
/* config.json of the text encoder with the keys of the published files; the caller frees it. */
struct json_t *kin_init_t5_json(const kin_init_configs *configs, const char *dtype);
/* Writes a tokenizer of at most `pieces` pieces and the files beside it. */
kin_status kin_init_tokenizer(kin_context *context, const char *folder, int pieces, bool mt5);

#endif
