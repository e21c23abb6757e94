/* What clips are conditioned on: references, the strategy that places their frames, and the passes
 * of a long video, each of which begins where the last one ended. */
#ifndef KIN_TOOLS_CONDITIONS_H
#define KIN_TOOLS_CONDITIONS_H

#include "tools/generate/mask_strategy.h"
#include "tools/generate/references.h"

/* Short ways to say what references and a strategy say. Each stands for what is written behind it;
 * T are the clip's frames and K the condition frames. */
typedef struct kin_condition_task {
    const char *image;       /* FILE, "0": the first frame is given */
    const char *video;       /* FILE, with edit or extend */
    double edit;             /* "0,0,0,0,T,edit", and the like for every pass; below 0: not asked */
    const char *extend;      /* "forward": "0,0,-K,0,K"; "backward": "0,0,0,-K,K" */
    const char *interpolate; /* "A,B": "0;0,1,0,-1,1"; more images are spread evenly */
    bool loop_video; /* with an image: "0;0,0,0,-1,1". Else the clip is continued in a further
                        pass that ends in its own first K frames, which are then left out */
} kin_condition_task;

/* The shape of a job's passes. */
typedef struct kin_passes {
    int count;       /* 1: no long video */
    int64_t frames;  /* of one pass */
    int64_t overlap; /* K: frames that a pass takes from the one before */
    bool backward;   /* a pass ends where the last one began */
    bool closed;     /* the last pass ends as the first one begins */
} kin_passes;

/* Frames of the whole video: count (frames - K) + K, less K if it is closed. */
int64_t kin_passes_frames(const kin_passes *passes);
/* Where frame 0 of a pass is put in the whole video, and which of its frames are: *out_first and
 * *out_count. */
int64_t kin_passes_place(const kin_passes *passes, int pass, int64_t *out_first,
                         int64_t *out_count);

/* Fills `passes` (frames, overlap and count are set: 0 is the default of overlap, a quarter of the
 * frames as in training, at least 1) for the task, and tells its reference paths and its strategy:
 * for kin_free, NULL where there is none. KIN_INVALID for flags that do not go together. */
kin_status kin_condition_task_resolve(kin_context *context, const kin_condition_task *task,
                                      int64_t interval, kin_passes *passes,
                                      char **out_reference_path, char **out_mask_strategy);

/* The conditions of a clip. References 0 .. references.count - 1 are files; pass i of the clip is
 * reference references.count + i for those after it. */
typedef struct kin_conditions {
    kin_references references;
    kin_mask_tuple *tuples; /* of the strategy, then those that join the passes */
    size_t count;
} kin_conditions;

/* reference_path and mask_strategy may be NULL. All passes are tried, so that a strategy that
 * cannot be applied is KIN_INVALID here. latent_frames: of a pass. latents_of tells the latent
 * frames of a reference of so many frames. */
kin_status kin_conditions_make(kin_context *context, const char *reference_path,
                               const char *mask_strategy, int64_t interval,
                               const kin_passes *passes, int64_t latent_frames,
                               int64_t (*latents_of)(void *user, int64_t frames), void *user,
                               kin_conditions *out_conditions);
void kin_conditions_free(kin_context *context, kin_conditions *conditions);
/* The tuples take frames from elsewhere in this pass. */
bool kin_conditions_act(const kin_conditions *conditions, int pass);

#endif
