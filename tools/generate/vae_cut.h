/* Coding a video piece by piece without loss. One half of an autoencoder is
 * written down as a list of nodes; some are stored in host memory, the others are computed where
 * they are wanted. A pass computes one stored node in pieces (stretches of time, bands of rows): a
 * piece is a plan over the parts of stored nodes that it needs, halo included. Norms take their
 * mean and deviation from statistics that the pass before has gathered over all pieces. */
#ifndef KIN_TOOLS_VAE_CUT_H
#define KIN_TOOLS_VAE_CUT_H

#include "models/vae.h"
#include "runtime/plan.h"

/* ---- nodes (vae_cut_nodes.c) ---------------------------------------------------------------- */

typedef enum cut_kind {
    CUT_INPUT,
    CUT_SCALE,     /* f32 input * scale */
    CUT_CONV,      /* NAME.weight, NAME.bias */
    CUT_NORM,      /* group norm, then SiLU if asked for: NAME.weight, NAME.bias */
    CUT_NEAREST,   /* twice the rows and columns */
    CUT_ENLARGE,   /* twice the frames but for the first; rows and columns `space` times; linear */
    CUT_MEAN_TIME, /* of 3 frames, every 2, with two copies of the first in front */
    CUT_ADD,
    CUT_ADD_MIXED, /* in[0] + sigmoid(NAME) in[1] */
    CUT_MIX,       /* in[1] + sigmoid(NAME) (in[0] - in[1]) */
    CUT_ATTEND     /* q, k, v: over the places of each frame */
} cut_kind;

typedef enum cut_time {
    CUT_TIME_ZEROS, /* kernel / 2 frames of zeros on both sides */
    CUT_TIME_COPIES /* kernel - 1 copies of the first frame in front */
} cut_time;

enum { CUT_INPUTS = 3, CUT_NAME = 96 };

typedef struct cut_node {
    cut_kind kind;
    int in[CUT_INPUTS];
    int in_count;
    char name[CUT_NAME];
    int64_t channels, frames, rows, columns;
    double scale; /* of CUT_SCALE */
    /* CUT_CONV: kernel and stride along time and space, zeros before and after rows and columns */
    int kernel[2], stride[2], before, after;
    cut_time time;
    int weight_rank; /* of the variable: 2 (linear), 4 or 5 */
    /* CUT_NORM */
    int groups;
    double eps;
    bool silu, over_time;
    int space;  /* of CUT_ENLARGE */
    bool mixed; /* CUT_ATTEND: memory [C, T, S] is read as [T, C, S] */
    /* how it is computed */
    bool stored;  /* in host memory, by a pass of its own */
    bool counted; /* a norm needs its statistics, of so many `groups` */
    bool costly;  /* large; where host memory is short it is computed again instead of stored */
} cut_node;

typedef struct cut_nodes {
    cut_node *at;
    int count, capacity;
    kin_precision precision;
} cut_nodes;

/* The nodes of encoder or decoder for one unit of input: [C, frames, rows, columns]. The last node
 * is the result. Stored are those that norms and attention read, and the result. */
kin_status kin_cut_nodes_make(kin_context *context, const kin_vae_config *config,
                              const kin_precision *precision, bool encode, int64_t frames,
                              int64_t rows, int64_t columns, cut_nodes *out_nodes);

/* ---- one piece (vae_cut_piece.c) ---------------------------------------------------------------
 */

typedef struct cut_span {
    int64_t from, to;
} cut_span;

/* Frames and rows, all columns. */
typedef struct cut_region {
    cut_span axis[2];
} cut_region;

enum { CUT_STEPS = 32, CUT_SOURCES = 6 };

/* A node over a region. */
typedef struct cut_step {
    int node;
    int source; /* a stored node is read: index of the source; else -1 */
    int in[CUT_INPUTS];
    cut_region region;
    int64_t before[2], after[2]; /* padding that this region needs, along time and rows */
    int64_t skip[2];             /* CUT_ENLARGE, CUT_NEAREST: what is too much in front */
} cut_step;

/* What a piece reads of a stored node. */
typedef struct cut_source {
    int node;
    cut_region region;
    int readers;
} cut_source;

/* All steps to compute one node over a region from stored ones; the last is that node. */
typedef struct cut_piece {
    cut_step steps[CUT_STEPS];
    int step_count;
    cut_source sources[CUT_SOURCES];
    int source_count;
} cut_piece;

/* False if the node needs more steps or sources than there are. */
bool kin_cut_piece_make(const cut_nodes *nodes, int node, cut_region region, cut_piece *out_piece);
/* True if one plan serves both. */
bool kin_cut_piece_same(const cut_piece *a, const cut_piece *b);
/* Inputs "sN" (source N) [1, C, t, y, X] in the stored dtype, and "meanN", "rateN" (step N, a norm:
 * mean and 1 / deviation) [1, C, t or 1, 1, 1]. Outputs: "y" if the node is stored, and if it is
 * counted "mean" and "spread" (mean square distance from it) [groups, t]. */
void kin_cut_piece_graph(kin_graph *graph, const cut_nodes *nodes, const cut_piece *piece);
/* The dtype in which a stored node lies in host memory: f32 for input and result. */
kin_dtype kin_cut_dtype(const cut_nodes *nodes, int node);

/* ---- all pieces (vae_cut_choose.c, vae_cut_run.c) ---------------------------------------------
 */

/* Computes one node. */
typedef struct cut_pass {
    int node;
    int64_t pieces[2]; /* along time and rows */
    uint64_t staging;  /* bytes, as in cut_needs */
} cut_pass;

/* Sums over what a node's pieces have in a group of channels of a frame. */
typedef struct cut_statistics {
    double count, mean, spread; /* spread: sum of squared distances from the mean */
} cut_statistics;

/* Where a stored node lies, and what is known of a counted one while the passes run. */
typedef struct cut_content {
    uint64_t offset;            /* in the host's arena */
    cut_statistics *statistics; /* [frames, groups] */
    int last_reader;            /* a pass; -1: none */
} cut_content;

/* Bytes that running a piece takes. */
typedef struct cut_needs {
    uint64_t inputs, arena; /* of its plan */
    uint64_t staging;       /* host memory for a part of a node, gathered */
} cut_needs;

/* Where a unit's input or result lies in the caller's memory, in elements. */
typedef struct kin_vae_place {
    float *data;
    int64_t channel_stride; /* frames follow each other */
} kin_vae_place;

typedef struct kin_vae_cutter {
    kin_context *context;
    kin_device *device;
    cut_nodes nodes;
    cut_content *contents;
    cut_pass *passes;
    int pass_count;
    bool host_counts; /* what the host keeps takes of the same memory as the device */
    uint64_t memory, weights;
    uint64_t kept;   /* host memory for all stored nodes */
    cut_needs needs; /* the largest of each */
    uint64_t peak;   /* memory that all of it takes */
    int64_t runs;    /* of plans, for one unit */
    bool tight;      /* nothing is kept from pass to pass that the next one may not need */
    /* while it runs */
    kin_workspace *workspace;
    char *host, *staging;
    const kin_vae_place *input, *result;
} kin_vae_cutter;

/* Finds pieces such that `memory` bytes suffice for the weights (of `weights` bytes), a piece's
 * plan and, on devices that are in host memory, all that is kept there for it. KIN_OUT_OF_MEMORY
 * says what would be needed. */
kin_status kin_vae_cutter_make(kin_device *device, const kin_vae_config *config,
                               const kin_precision *precision, bool encode, int64_t frames,
                               int64_t rows, int64_t columns, uint64_t memory, uint64_t weights,
                               kin_vae_cutter **out_cutter);
void kin_vae_cutter_free(kin_vae_cutter *cutter);
/* Codes one unit. `done` is called after each run; false: KIN_CANCELLED. What was allocated stays
 * for the next unit. */
kin_status kin_vae_cutter_run(kin_vae_cutter *cutter, kin_store *store, const kin_vae_place *input,
                              const kin_vae_place *result, bool (*done)(void *user), void *user);
/* Frees what runs have allocated. */
void kin_vae_cutter_rest(kin_vae_cutter *cutter);

/* For these two files. Piece number `index` (along time and rows) of a pass that has `pieces`. */
kin_status kin_cut_make_piece(const kin_vae_cutter *cutter, int node, const int64_t pieces[2],
                              const int64_t index[2], cut_piece *out_piece);
/* The kinds of pieces of a pass, each of which has a plan: one piece of each, in fresh memory. */
kin_status kin_cut_list_kinds(const kin_vae_cutter *cutter, int node, const int64_t pieces[2],
                              cut_piece **out_kinds, int *out_count);
kin_status kin_cut_plan_piece(const kin_vae_cutter *cutter, const cut_piece *piece,
                              kin_plan **out_plan);

#endif
