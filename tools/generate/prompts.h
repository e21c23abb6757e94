/* Prompts: from the command line, and from files with many. */
#ifndef KIN_TOOLS_PROMPTS_H
#define KIN_TOOLS_PROMPTS_H

#include "runtime/context.h"

/* What a clip is made of. Strings that are not given are NULL. */
typedef struct kin_prompt {
    char *text; /* may differ from pass to pass: "|0|first|2|second" */
    char *negative;
    char *reference_path; /* "path;path;..." */
    char *mask_strategy;
    char *name;   /* of the file, without folder and ending */
    int64_t seed; /* -1: not given */
} kin_prompt;

typedef struct kin_prompts {
    kin_prompt *list;
    size_t count, room;
} kin_prompts;

/* How the text of a prompt is read. */
typedef enum kin_prompt_form {
    KIN_PROMPT_PLAIN, /* as it is; JSON at its end that speaks of references is KIN_INVALID */
    KIN_PROMPT_JSON   /* Open-Sora 1.1's: it may end in {"reference_path": .., "mask_strategy": ..},
                         from its first '{' or '[' on */
} kin_prompt_form;

/* Adds one prompt. where: what messages call it, such as "--prompt" or "FILE: line 3". The JSON may
 * also have "negative_prompt", "seed" and "name"; other keys are KIN_INVALID with the nearest name.
 */
kin_status kin_prompts_add(kin_context *context, kin_prompts *prompts, const char *text,
                           kin_prompt_form form, const char *where);
/* Adds the prompts of a file, by its ending:
 *   .json  a list of texts and of objects with "prompt" and the keys above;
 *   .csv   rows with a column prompt, text or caption, and columns of the keys above where they
 * are; else   a prompt a line; empty lines are skipped. KIN_INVALID if there is none, KIN_FORMAT
 * for a line that is not UTF-8. */
kin_status kin_prompts_read(kin_context *context, kin_prompts *prompts, const char *path,
                            kin_prompt_form form);
void kin_prompts_free(kin_context *context, kin_prompts *prompts);

#endif
