/* What the files of the reader of training configurations share. */
#ifndef KIN_TOOLS_TRAIN_CONFIG_H
#define KIN_TOOLS_TRAIN_CONFIG_H

#include "tools/train/train.h"
#include "tools/train/train_reader.h"

/* The keys of "data" that say which clips make a batch. */
void kin_train_read_order(kin_train_reader *r, kin_train_config *config, const json_t *data);
/* The keys of text-to-video. */
void kin_train_read_video(kin_train_reader *r, kin_train_config *config);

#endif
