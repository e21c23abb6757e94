/* The list of clips that one command makes: which prompt, which seed, which file, and what of it is
 * there already. */
#ifndef KIN_TOOLS_GENERATE_JOB_H
#define KIN_TOOLS_GENERATE_JOB_H

#include "tools/generate/prompts.h"

/* How files are named. */
typedef struct kin_job_names {
    const char *output; /* a file, a folder (that is there, or ends in '/'), or NULL: "output" */
    bool picture;       /* of one frame: ".png" where the output has no ending, else ".mp4" */
    size_t prompts;
    int64_t samples; /* clips of each prompt */
} kin_job_names;

/* The file of a sample of a prompt, for kin_free; name may be NULL. One clip has the output's own
 * name. Several have "-SAMPLE" after it, if there are several samples, and "_PROMPT" before that,
 * if there are several prompts or the output is a folder, where the name begins with "sample": as
 * Open-Sora names them. A prompt's own name replaces all but "-SAMPLE". Of a pattern of pictures
 * ("shot_%03d.png") all this comes before its number. */
kin_status kin_job_path(kin_context *context, const kin_job_names *names, size_t prompt,
                        int64_t sample, const char *name, char **out_path);

typedef struct kin_job_clip {
    const kin_prompt *prompt;
    int64_t sample;
    uint64_t seed; /* the prompt's or the job's, plus the sample: whichever prompts stand beside */
    char *output;
    char *stages; /* the folder of what is kept until it is made: OUTPUT.stages */
} kin_job_clip;

typedef struct kin_job {
    kin_job_clip *clips;
    size_t count;
} kin_job;

/* Makes the list: all samples of a prompt, then the next prompt. The prompts must outlive it.
 * KIN_INVALID if two clips would be one file. */
kin_status kin_job_make(kin_context *context, const kin_prompts *prompts,
                        const kin_job_names *names, uint64_t seed, kin_job *out_job);
void kin_job_free(kin_context *context, kin_job *job);

typedef enum kin_job_state {
    KIN_JOB_TO_DO,
    KIN_JOB_FINISHED, /* by the same command with the same files */
    KIN_JOB_OTHER,    /* made by kinora generate, but otherwise: it may be replaced */
    KIN_JOB_FOREIGN   /* not made by kinora generate: it may not */
} kin_job_state;

/* Looks at the clip's file (of a pattern: the first one). It is finished if its comment is
 * `parameters` and it is not older than any of the files at `sources` (files or folders, ended by
 * NULL). */
kin_job_state kin_job_look(kin_context *context, const kin_job_clip *clip, const char *parameters,
                           const char *const *sources);

/* Both paths lead to one file that is there. */
bool kin_job_same_file(const char *one, const char *other);

#endif
