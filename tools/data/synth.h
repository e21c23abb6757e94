/* The demo data set: clips of one moving coloured shape with captions, as H.264 MP4 files and CSVs
 * in Open-Sora's format. A clip is one of KIN_SYNTH_COMBINATIONS (colour, shape, direction). */
#ifndef KIN_TOOLS_SYNTH_H
#define KIN_TOOLS_SYNTH_H

#include "runtime/context.h"
#include "runtime/tensor.h"

enum {
    KIN_SYNTH_COLOURS = 6,
    KIN_SYNTH_SHAPES = 3,
    KIN_SYNTH_DIRECTIONS = 4,
    KIN_SYNTH_COMBINATIONS = KIN_SYNTH_COLOURS * KIN_SYNTH_SHAPES * KIN_SYNTH_DIRECTIONS,
    KIN_SYNTH_MAX_HELD_OUT = 36, /* every shape of every colour keeps two directions */
    KIN_SYNTH_MAX_CAPTION = 96
};

/* Colours: red green blue yellow magenta cyan. Shapes: circle square triangle. Directions: left
 * right up down. */
typedef struct kin_synth_combination {
    int colour, shape, direction;
} kin_synth_combination;

const char *kin_synth_colour_name(int colour);
const char *kin_synth_direction_name(int direction);
/* Red, green, blue in 0..255. */
const uint8_t *kin_synth_colour_rgb(int colour);

/* True if the combination is among the first `held_out` of the fixed order of held-out ones. For 12
 * there are two of each colour and four of each shape. */
bool kin_synth_is_held_out(kin_synth_combination combination, int held_out);
/* Finds the words of a combination in a caption; false if one of the three is missing. */
bool kin_synth_parse_caption(const char *caption, kin_synth_combination *out_combination);
/* "a red circle moving to the left": the plain wording. */
void kin_synth_plain_caption(kin_synth_combination combination,
                             char out_caption[KIN_SYNTH_MAX_CAPTION]);
/* The wording of clip `index` under `seed`. */
void kin_synth_caption(kin_synth_combination combination, uint64_t seed, uint32_t index,
                       char out_caption[KIN_SYNTH_MAX_CAPTION]);

/* Renders clip `index` of `seed`: a new tensor (3, frames, size, size) in -1..1, freed by the
 * caller. Size, place, speed, shade and background are drawn by Philox from (seed, index). */
kin_status kin_synth_render(kin_context *context, kin_synth_combination combination, uint64_t seed,
                            uint32_t index, int frames, int size, kin_host_tensor *out_clip);

typedef struct kin_synth_options {
    const char *folder; /* made if needed */
    int count;          /* training clips */
    int held_out_clips; /* clips of held-out combinations, for comparison only */
    int frames, size;   /* size is even, 16 or more */
    double fps;
    uint64_t seed;
    int held_out; /* combinations kept out of the training clips */
    bool (*progress)(void *user, int done, int total); /* NULL, or false to stop (KIN_CANCELLED) */
    void *progress_user;
} kin_synth_options;

/* 2400 clips of 8 frames of 32 x 32 at 8 frames a second, 48 held-out clips, 12 combinations. */
kin_synth_options kin_synth_defaults(void);

/* Writes into the folder:
 *   clips/000000.mp4 ...    training clips, the seen combinations in turn
 *   heldout/000000.mp4 ...  clips of the held-out combinations, in turn
 *   train.csv, heldout.csv  path,text,num_frames,height,width,aspect_ratio,fps; paths are relative
 * to the folder; aspect_ratio is height / width prompts_seen.txt, prompts_heldout.txt  one plain
 * caption per combination and line The same options give the same files. */
kin_status kin_synth_write(kin_context *context, const kin_synth_options *options);

#endif
