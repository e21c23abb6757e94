/* How the tensors of a file fit a model, told from names and shapes alone. */
#ifndef KIN_TOOLS_WEIGHTS_MATCH_H
#define KIN_TOOLS_WEIGHTS_MATCH_H

#include "runtime/checkpoint.h"
#include "tools/model_choice.h"

/* What a file holds. */
typedef struct kin_weights_totals {
    size_t tensors;
    int64_t parameters;
    uint64_t bytes;
    int64_t dtype_tensors[KIN_DTYPE_COUNT], dtype_parameters[KIN_DTYPE_COUNT];
} kin_weights_totals;

kin_weights_totals kin_weights_count(const kin_checkpoint *file);

typedef enum kin_misfit_kind { KIN_MISSING, KIN_UNEXPECTED, KIN_OTHER_SHAPE } kin_misfit_kind;

/* "missing", "unexpected", "another shape" */
const char *kin_misfit_name(kin_misfit_kind kind);

typedef struct kin_misfit {
    kin_misfit_kind kind;
    char *name;          /* in the file; of a missing one in the model */
    char *near;          /* of an unexpected one: the missing one whose name is like it; or NULL */
    kin_desc have, want; /* of another shape */
} kin_misfit;

typedef struct kin_weights_match {
    kin_context *context;
    int variables, found, missing, unexpected, other_shape;
    kin_misfit *misfits;
    size_t misfit_count;
} kin_weights_match;

/* Holds a file against a model. T5's table counts once though it may have two names. The caller
 * frees the match, whatever this returns. */
kin_status kin_weights_match_file(kin_context *context, const kin_checkpoint *file,
                                  const kin_model_choice *choice, kin_weights_match *out_match);
void kin_weights_match_free(kin_weights_match *match);
/* The named model that most of the file fits, if it is more than half; false if there is none. */
bool kin_weights_match_guess(kin_context *context, const kin_checkpoint *file,
                             kin_model_choice *out_choice);

#endif
