/* A data set of captioned clips, read through an Open-Sora CSV (`path,text,...`). */
#ifndef KIN_TOOLS_DATASET_H
#define KIN_TOOLS_DATASET_H

#include "runtime/tensor.h"
#include "runtime/video.h"

typedef struct kin_dataset_options {
    const char *csv;
    int64_t frames;   /* per clip; 1 reads single frames (images too) */
    int64_t interval; /* every interval-th frame of the file */
    int height, width;
    kin_video_resize resize;
    uint64_t memory; /* bytes of decoded clips kept in memory, as bytes per value */
} kin_dataset_options;

typedef struct kin_dataset kin_dataset;

/* Reads the CSV. Columns path and text must be there; a relative path is relative to the CSV. Rows
 * whose num_frames column says that they are too short are left out, and counted in the log. */
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

/* The clips of step `step` (from 0): out_indices[0..batch). Every epoch is a fresh permutation that
 * depends on (seed, epoch) alone, so the order needs no state. */
kin_status kin_dataset_batch(kin_dataset *dataset, uint64_t seed, int64_t step, int64_t batch,
                             int64_t *out_indices);

#endif
