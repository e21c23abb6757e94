/* What kinora info tells of a system or of one file. */
#ifndef KIN_TOOLS_INFO_H
#define KIN_TOOLS_INFO_H

#include <jansson.h>

#include "tools/system/system.h"
#include "tools/system/weights_match.h"

/* A part and its weights. */
typedef struct kin_info_part {
    bool there, has_model;
    char entry[64]; /* of pickled weights: the state dict that was found; "" without */
    kin_weights_totals totals;
    kin_model_choice model;
    kin_weights_match match;
    int pieces;    /* of a tokenizer; 0: not known */
    char *problem; /* why it cannot be used beside its weights; or NULL */
} kin_info_part;

typedef struct kin_info_system {
    const kin_system *system;
    kin_info_part parts[KIN_PART_KINDS];
} kin_info_system;

/* Opens the files of all parts and holds them against their models. The caller frees the info,
 * whatever this returns. */
kin_status kin_info_gather(const kin_system *system, kin_info_system *out_info);
void kin_info_free(kin_info_system *info);
/* The same of one file with a model, or with none (NULL). */
kin_status kin_info_file(kin_context *context, const kin_checkpoint *file,
                         const kin_model_choice *model, kin_info_part *out_part);
void kin_info_part_free(kin_context *context, kin_info_part *part);

/* True if generate has all that it needs. */
bool kin_info_can_generate(const kin_info_system *info);
/* True if the file's weights are the model's, or no model is known. extra: tensors that the model
 * does not know are read over. */
bool kin_info_fits(const kin_info_part *part, bool extra);

/* Tab-separated lines on standard output. */
void kin_info_print(const kin_info_system *info, const char *path);
void kin_info_print_file(const kin_info_part *part, const char *path);
/* The same as one object; NULL if there is no memory. */
json_t *kin_info_json(const kin_info_system *info, const char *path);
json_t *kin_info_file_json(const kin_info_part *part, const char *path);

#endif
