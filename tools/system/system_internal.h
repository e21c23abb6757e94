/* What the files of tools/system/system*.c share. */
#ifndef KIN_TOOLS_SYSTEM_INTERNAL_H
#define KIN_TOOLS_SYSTEM_INTERNAL_H

#include "runtime/checkpoint.h"
#include "tools/model_choice.h"
#include "tools/system/system.h"

/* ---- where things lie (system_places.c, system_find.c); nothing but names is read ---- */

/* The names in a folder, sorted; without those that begin with a dot. */
typedef struct kin_listing {
    char **names;
    size_t count;
} kin_listing;

kin_status kin_listing_open(kin_context *context, const char *folder, kin_listing *out_listing);
void kin_listing_close(kin_context *context, kin_listing *listing);

/* The snapshot behind a folder of the hub's cache, else the path itself; fresh memory.
 * KIN_NOT_FOUND if nothing is there. */
kin_status kin_place_resolve(kin_context *context, const char *path, char **out_path);
/* The same, and of a configuration (config.json, model_index.json) its folder. */
kin_status kin_place_of_part(kin_context *context, const char *path, char **out_path);
/* The weights in a folder, whatever they are called: *out_path NULL if there are none. KIN_INVALID
 * if several files may be meant. */
kin_status kin_place_weights(kin_context *context, const char *folder, char **out_path);
/* FOLDER/NAME if it exists, else NULL in *out_path. */
kin_status kin_place_join(kin_context *context, const char *folder, const char *name,
                          char **out_path);
/* The folder above, of names alone; fresh memory. */
char *kin_place_parent(kin_context *context, const char *path);

/* Finds a denoiser. out_base: the folder whose parts belong to it; fresh memory. */
kin_status kin_place_denoiser(kin_context *context, const char *path, const char *entry,
                              kin_part *out_part, char **out_base);
/* Finds another part of a system whose denoiser is known; it stays empty if it is nowhere. */
kin_status kin_place_part(kin_system *system, kin_part_kind kind, const char *base);
/* The tokenizer in the folder of a text encoder's weights or beside that; NULL if there is none. */
kin_status kin_place_tokenizer(kin_context *context, const char *text_encoder, char **out_path);

/* ---- configurations from tensors (system_guess*.c) ---- */

/* The tensors of a file, without what a wrapper puts in front of their names. */
typedef struct kin_guess_tensors {
    kin_context *context;
    const kin_checkpoint *file;
    const char *path;
    char prefix[256];
} kin_guess_tensors;

/* NULL if it is not there. */
const kin_desc *kin_guess_find(const kin_guess_tensors *tensors, const char *name);
/* Size `axis` of a tensor; 0 if it is not there. */
int64_t kin_guess_size(const kin_guess_tensors *tensors, const char *name, int axis);

/* forced: the system that the user named, or NULL. KIN_UNSUPPORTED says what cannot be told. */
kin_status kin_guess_denoiser(kin_context *context, const kin_checkpoint *file, const char *path,
                              const kin_system_kind *forced, kin_denoiser_config *out_config);
kin_status kin_guess_vae(kin_context *context, const kin_checkpoint *file, const char *path,
                         kin_vae_config *out_config);
kin_status kin_guess_t5(kin_context *context, const kin_checkpoint *file, const char *path,
                        kin_t5_config *out_config);
/* Which part a file's tensors are; KIN_PART_KINDS if none that is known. */
kin_part_kind kin_guess_part(const kin_checkpoint *file);
/* True if a denoiser's blocks over time are there. */
bool kin_guess_has_time(const kin_checkpoint *file);

/* ---- recommendations (system_defaults.c) ---- */

/* What a parsed model_index.json says, over what `defaults` has. out_ours: it has recommendations,
 * so Kinora wrote it. */
kin_status kin_system_parse_index(kin_context *context, struct json_t *index, const char *where,
                                  kin_system_defaults *defaults, bool *out_ours);
/* Reads BASE/model_index.json, if it is there, and the scheduler's configuration over the defaults.
 */
kin_status kin_system_read_defaults(kin_system *system, const char *base, bool own_scheduler);

#endif
