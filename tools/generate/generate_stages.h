/* What kinora generate keeps on disk until a clip is made, so that nothing is made twice. */
#ifndef KIN_TOOLS_GENERATE_STAGES_H
#define KIN_TOOLS_GENERATE_STAGES_H

#include "runtime/tensor.h"

enum { KIN_STAGE_TENSORS = 4 };

/* A file FOLDER/NAME.safetensors. It counts only if it was made from the same `key`. */
typedef struct kin_stage {
    const char *folder;
    const char *name; /* "latents" */
    const char *key;  /* all that decides the content, as text */
    int count;        /* of tensors */
    const char *tensors[KIN_STAGE_TENSORS];
} kin_stage;

kin_status kin_stage_save(kin_context *context, const kin_stage *stage,
                          const kin_host_tensor *tensors);
/* Reads what an earlier run left into fresh tensors; false if there is none, or it is of another
 * key, broken, or not of the dtypes and shapes of `want` (a size of -1 is any). */
bool kin_stage_load(kin_context *context, const kin_stage *stage, const kin_desc *want,
                    kin_host_tensor *out_tensors);
/* Whether kin_stage_load would find it, as far as the head of the file tells. */
bool kin_stage_there(kin_context *context, const kin_stage *stage, const kin_desc *want);
/* Logs that what an earlier run left is used. */
void kin_stage_tell(kin_context *context, const kin_stage *stage);
/* Removes the stage files of a folder, and the folder if nothing else is in it. */
void kin_stages_remove(kin_context *context, const char *folder);

#endif
