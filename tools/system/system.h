/* What a path holds: a published text-to-video system, whole or in parts, in any of the layouts
 * that are around. Only configurations and the names and shapes of tensors are read. */
#ifndef KIN_TOOLS_SYSTEM_H
#define KIN_TOOLS_SYSTEM_H

#include "models/denoiser.h"
#include "models/scheduler.h"
#include "models/t5.h"
#include "models/vae.h"

typedef enum kin_system_kind {
    KIN_SYSTEM_OPEN_SORA_1_0,
    KIN_SYSTEM_OPEN_SORA_1_1,
    KIN_SYSTEM_LATTE,
    KIN_SYSTEM_PIXART,
    KIN_SYSTEM_OPEN_SORA_PLAN, /* 1.2 */
    KIN_SYSTEM_KINDS
} kin_system_kind;

typedef enum kin_part_kind {
    KIN_PART_DENOISER,
    KIN_PART_VAE,
    KIN_PART_TEXT_ENCODER,
    KIN_PART_TOKENIZER,
    KIN_PART_SCHEDULER,
    KIN_PART_KINDS
} kin_part_kind;

/* A part as it was found. All strings are NULL for a part that is not there. */
typedef struct kin_part {
    char *path;   /* a file: of weights, or the index of their shards; a tokenizer's .model; a
                     scheduler's configuration */
    char *entry;  /* of pickled weights: the key of the state dict, such as "ema"; NULL: as found */
    char *config; /* the file that configures it; NULL: told from the tensors' names and shapes */
} kin_part;

/* How samples are made where nobody says otherwise: what the folder recommends, else what the
 * system's own scripts do. */
typedef struct kin_system_defaults {
    int64_t frames, height, width, steps;
    double fps;             /* that models are told which know it */
    int64_t frame_interval; /* the file's frames follow at fps / frame_interval */
    double cfg_scale;
    int64_t cfg_channels; /* 0: all */
    bool iddpm;           /* Open-Sora's own respaced IDDPM (or, with ddim, DDIM) */
    bool ddim;
    kin_scheduler_config scheduler; /* otherwise */
    const char *negative;           /* the scripts' negative prompt; NULL: none, or the model's own
                                       null caption */
} kin_system_defaults;

typedef struct kin_system {
    kin_context *context;
    kin_system_kind kind;
    kin_part parts[KIN_PART_KINDS];
    kin_denoiser_config denoiser; /* of parts that are there */
    kin_vae_config vae;
    kin_t5_config text_encoder;
    kin_system_defaults defaults;
} kin_system;

/* Paths in place of what the main path has; each may be NULL. */
typedef struct kin_system_overrides {
    const char *denoiser, *vae, *text_encoder, *tokenizer, *scheduler;
    const char *entry;  /* of a pickled denoiser */
    const char *system; /* "open-sora-1.0", ...: where the denoiser alone does not decide */
} kin_system_overrides;

/* "open-sora-1.0", "open-sora-1.1", "latte", "pixart-alpha", "open-sora-plan-1.2" */
const char *kin_system_name(kin_system_kind kind);
/* KIN_NOT_FOUND with the nearest name. */
kin_status kin_system_named(kin_context *context, const char *name, kin_system_kind *out_kind);
/* "transformer", "vae", "text_encoder", "tokenizer", "scheduler": folders in diffusers' layout. */
const char *kin_part_name(kin_part_kind part);

/* Finds the parts at `path`: a folder in diffusers' layout (model_index.json, or the folders of its
 * parts), a folder with config.json and weights, a training folder (shards, ema), an index of
 * shards, or one file of weights (.safetensors, .pth, .pt, .ckpt); docs/systems.md has all of them.
 * Parts that are not there stay NULL; a denoiser must be. KIN_INVALID if the parts do not fit each
 * other (channels of captions or latents; the number of a tokenizer's pieces is checked when it is
 * read). overrides may be NULL. Nothing is left to close after an error. */
kin_status kin_system_open(kin_context *context, const char *path,
                           const kin_system_overrides *overrides, kin_system *out_system);
void kin_system_close(kin_system *system);
/* KIN_NOT_FOUND, naming the part and the flag that gives it, unless the part is there. */
kin_status kin_system_need(const kin_system *system, kin_part_kind part);

/* The part at a path of its own: a file, or a folder that holds it or has it in its own folder.
 * KIN_NOT_FOUND. The caller frees it with kin_part_free. */
kin_status kin_part_find(kin_context *context, kin_part_kind kind, const char *path,
                         kin_part *out_part);
void kin_part_free(kin_context *context, kin_part *part);

/* What the scripts of a system do, with no folder at all. */
kin_system_defaults kin_system_defaults_of(kin_system_kind kind, const kin_denoiser_config *config);
/* Writes FOLDER/model_index.json and FOLDER/scheduler/scheduler_config.json (where the system has
 * one), from which kin_system_open reads kind and defaults. */
kin_status kin_system_write_index(const kin_system *system, const char *folder);

#endif
