/* Models by name, by configuration file or by folder, for verbs that need no weights. */
#ifndef KIN_TOOLS_MODEL_CHOICE_H
#define KIN_TOOLS_MODEL_CHOICE_H

#include "models/denoiser.h"
#include "models/t5.h"
#include "models/vae.h"

struct json_t;

typedef enum kin_model_kind {
    KIN_MODEL_DENOISER, /* of any kind */
    KIN_MODEL_VAE,
    KIN_MODEL_T5
} kin_model_kind;

typedef struct kin_model_choice {
    kin_model_kind kind;
    char name[64]; /* "STDiT-XL/2", "sd-vae", or of the configuration's kind: "STDiT" */
    kin_denoiser_config denoiser;
    kin_vae_config vae;
    kin_t5_config t5;
} kin_model_choice;

/* `text`: "STDiT-XL/2", "STDiT2-XL/2" and the other sizes of those families, "Latte-1",
 * "PixArt-XL-2-512x512" (256x256, 1024-MS), "OpenSoraT2V-ROPE-L/122", "sd-vae", "vae-temporal",
 * "causal-vae-1.2", "t5-v1_1-xxl" and the others of that family, a configuration file, or a folder
 * with config.json. KIN_NOT_FOUND says what there is. */
kin_status kin_model_choose(kin_context *context, const char *text, kin_model_choice *out_choice);
/* What a parsed config.json describes, by the keys that only one kind has; `where` names it. */
kin_status kin_model_parse(kin_context *context, const struct json_t *json, const char *where,
                           kin_model_choice *out_choice);
/* The models that have a name, one after the other; false past the end. */
bool kin_model_named_at(kin_context *context, int index, kin_model_choice *out_choice);

/* Appends the model so that a graph holds all its variables; sizes are small. */
void kin_model_append_any(kin_graph *graph, const kin_model_choice *choice);
/* The name in the graph of a tensor in a published file; false if it is no part of the model. */
bool kin_model_rename(const kin_model_choice *choice, const char *file_name, char *out_name,
                      size_t size);

#endif
