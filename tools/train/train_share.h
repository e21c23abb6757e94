/* Work that is made once and kept in a file, shared out among the ranks of a training: latents of
 * clips, features of captions. The ranks make neighbouring items at the same time, and rank 0 takes
 * them in order, as the writer of its file asks for them. A process alone does the same. */
#ifndef KIN_TOOLS_TRAIN_SHARE_H
#define KIN_TOOLS_TRAIN_SHARE_H

#include "tools/ranks.h"

typedef struct kin_share {
    kin_context *context;
    kin_ranks *ranks; /* NULL: alone */
    int64_t count;    /* of items */
    size_t size;      /* bytes of each */
    /* Makes one item. An interruption (kin_interrupted) is looked for between items. */
    kin_status (*make)(void *user, int64_t item, void *bytes);
    void *user;
    const char *what; /* "the clips", for messages */
    /* the share's own */
    char *own, *round;    /* this rank's item; those of all ranks */
    int64_t begun, taken; /* items that were made, or are being made; that rank 0 has taken */
    bool ended;           /* by an error that all ranks know */
} kin_share;

/* Rank 0: a copy of the next item. */
kin_status kin_share_take(kin_share *share, void *bytes);
/* The others: makes what this rank has to, to the end. */
kin_status kin_share_serve(kin_share *share);
/* All: the end, with the status of either; returns one status to all ranks and frees the buffers.
 */
kin_status kin_share_end(kin_share *share, kin_status status);

#endif
