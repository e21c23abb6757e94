/* Open-Sora 1.1's conditioning on images and videos: which latent frames are taken from references
 * and how much they are edited, and the prompts that say so. */
#ifndef KIN_TOOLS_MASK_STRATEGY_H
#define KIN_TOOLS_MASK_STRATEGY_H

#include <jansson.h>

#include "runtime/context.h"

/* One tuple of a strategy "loop,reference,reference start,target start,length,edit ratio;...".
 * Missing numbers are 0,0,0,0,1,0; the loop must be there. Starts below 0 count from the end. */
typedef struct kin_mask_tuple {
    int loop;      /* acts only in this pass of a long video */
    int reference; /* which of the sample's references */
    int reference_start, target_start, length;
    double edit_ratio; /* 0: kept as it is; 1: as if there were no reference */
} kin_mask_tuple;

/* Parses a strategy; NULL is none: no tuples. The caller frees *out_tuples with kin_free. */
kin_status kin_mask_strategy_parse(kin_context *context, const char *text,
                                   kin_mask_tuple **out_tuples, size_t *out_count);

/* Latents [channels, frames, area] of a reference. */
typedef struct kin_mask_reference {
    const float *latents;
    int64_t frames;
} kin_mask_reference;

/* What one sample of a pass is: latents [channels, frames, area] of noise, changed in place, and
 * the mask [frames], which this function fills. */
typedef struct kin_mask_sample {
    float *latents, *mask;
    int64_t channels, frames, area;
    const kin_mask_reference *references;
    size_t reference_count;
} kin_mask_sample;

/* Copies what the tuples of pass `loop` take from the references, in their order, and sets their
 * frames' mask to the edit ratio; it is 1 elsewhere. A stretch is cut at the end of the reference
 * or the target; a reference stretch of one frame is repeated. KIN_INVALID if the stretches'
 * lengths differ otherwise, or a reference or frame is not there. */
kin_status kin_mask_strategy_apply(kin_context *context, const kin_mask_tuple *tuples, size_t count,
                                   int loop, const kin_mask_sample *sample);

/* Marks in needed[frames] what the tuples, of all passes, copy from a reference of that many frames
 * into clips of target_frames; what is marked already stays so. */
void kin_mask_strategy_needed(const kin_mask_tuple *tuples, size_t count, int reference,
                              int64_t frames, int64_t target_frames, bool *needed);

/* Splits a prompt from the JSON that may end it, which begins at its first '{' or '[': *out_text is
 * for kin_free, *out_json (an empty object if there is none) for json_decref. */
kin_status kin_prompt_split(kin_context *context, const char *prompt, char **out_text,
                            json_t **out_json);
/* The text of a pass: "|0|first|2|second" is "first" from pass 0 and "second" from pass 2 on; a
 * prompt that does not begin with "|0|" is the same in all. kin_free. */
kin_status kin_prompt_of_loop(kin_context *context, const char *prompt, int loop, char **out_text);

#endif
