/* Open-Sora-Plan's lists of training data as a table. */
#ifndef KIN_TOOLS_DATASET_ANNOTATIONS_H
#define KIN_TOOLS_DATASET_ANNOTATIONS_H

#include "runtime/csv.h"

/* Reads an annotation (.json): a list of {"path", "cap": a caption or a list of which the first is
 * taken, "resolution": {"height", "width"}, "fps", "duration"}, the last two of videos only; or a
 * list of them (.txt): lines "FOLDER,ANNOTATION.json". `folder` is where an annotation's paths
 * begin, NULL: where it lies. *out_csv has the columns path, text, num_frames, height, width and
 * fps, with whole paths. KIN_FORMAT says which entry is wrong. */
kin_status kin_annotations_open(kin_context *context, const char *path, const char *folder,
                                kin_csv **out_csv);

#endif
