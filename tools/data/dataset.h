/* A data set of captioned clips, read through an Open-Sora CSV (`path,text,...`). */
#ifndef KIN_TOOLS_DATASET_H
#define KIN_TOOLS_DATASET_H

#include "runtime/tensor.h"
#include "runtime/video.h"

/* Which frames of its window a clip is made of. */
typedef enum kin_frame_choice {
    KIN_FRAMES_INTERVAL, /* every interval-th */
    KIN_FRAMES_LINSPACE, /* spread over frames * interval of them, rounded down, as Open-Sora and
                            Latte do: 0, 3, .., 21, 25, .. for 16 with an interval of 3 */
    KIN_FRAMES_RATE      /* `rate` a second, rounded down, as Open-Sora-Plan does */
} kin_frame_choice;

typedef struct kin_dataset_options {
    const char *csv;
    const char *folder; /* that relative paths begin at; NULL: the CSV's */
    int64_t frames;     /* per clip; 1 reads single frames (images too) */
    int64_t interval;   /* every interval-th frame of the file */
    kin_frame_choice choice;
    double rate; /* of KIN_FRAMES_RATE */
    int height, width;
    kin_video_resize resize;
    uint64_t memory; /* bytes of decoded clips kept in memory, as bytes per value */
    bool any_length; /* rows with few frames stay, for clips of other shapes */
} kin_dataset_options;

/* What a clip is read as. */
typedef struct kin_clip_shape {
    int64_t frames;
    int height, width;
} kin_clip_shape;

/* A row's file, as the CSV says it or, where it does not, the file. */
typedef struct kin_dataset_row {
    int64_t frames; /* 1: an image */
    int height, width;
    double fps; /* 0: not known */
} kin_dataset_row;

typedef struct kin_dataset kin_dataset;

/* Reads the CSV. Columns path and text (or Latte's video_file_name and prompt) must be there; a
 * table without a header is Open-Sora 1.0's: path, text and perhaps the number of frames; a .json
 * or .txt is Open-Sora-Plan's (tools/data/dataset_annotations.h). Rows whose num_frames column says that
 * they are too short are left out, and counted in the log. */
kin_status kin_dataset_open(kin_context *context, const kin_dataset_options *options,
                            kin_dataset **out_dataset);
void kin_dataset_close(kin_dataset *dataset);
int64_t kin_dataset_count(const kin_dataset *dataset);
const char *kin_dataset_text(const kin_dataset *dataset, int64_t index);
/* Frames a second of clips as read: by the first row that has the column fps, or by the first file
 * that says it, over the frame interval; 0 if neither does. */
double kin_dataset_fps(kin_dataset *dataset);
const char *kin_dataset_path(const kin_dataset *dataset, int64_t index);

/* Clip `index` as (3, T, Y, X) floats in -1..1. The window starts at a place that depends on
 * (seed, index) alone. A file that cannot be read is told once and replaced by the next one that
 * can; *out_index (may be NULL) tells which one was read, for its caption. KIN_FORMAT if ten in a
 * row are bad. */
kin_status kin_dataset_clip(kin_dataset *dataset, int64_t index, uint64_t seed, float *out_values,
                            int64_t *out_index);

/* The row's file is looked at if the CSV does not have all the columns num_frames, height and
 * width. KIN_NOT_FOUND, KIN_FORMAT, .. if it cannot be read. */
kin_status kin_dataset_measure(kin_dataset *dataset, int64_t index, kin_dataset_row *out_row);
/* Frames that a clip of the row can have, of those that are chosen. */
int64_t kin_dataset_clip_frames(const kin_dataset *dataset, const kin_dataset_row *row);
/* Clip `index` as (3, T, Y, X) floats of the given shape, from a place that depends on (seed,
 * index) alone; where one frame is wanted of a video, that is any of its frames. Only the first
 * real_frames are read, the others are 0. KIN_FORMAT, ... if the file cannot be read. */
kin_status kin_dataset_read(kin_dataset *dataset, int64_t index, uint64_t seed,
                            const kin_clip_shape *shape, int64_t real_frames, float *out_values);

/* Puts `count` items into an order that depends on (seed, epoch) alone. */
void kin_dataset_shuffle(uint64_t seed, int64_t epoch, int64_t *items, int64_t count);

/* The clips of step `step` (from 0): out_indices[0..batch). Every epoch is a fresh permutation that
 * depends on (seed, epoch) alone, so the order needs no state. */
kin_status kin_dataset_batch(kin_dataset *dataset, uint64_t seed, int64_t step, int64_t batch,
                             int64_t *out_indices);

#endif
