/* Values for the inputs and variables of a graph, made from a seed: what checks feed to two
 * devices, or to a device and the host's evaluator. */
#ifndef KIN_TOOLS_CHECK_VALUES_H
#define KIN_TOOLS_CHECK_VALUES_H

#include "runtime/evaluate.h"

typedef struct kin_check_value {
    const char *name; /* the graph's */
    kin_desc desc;    /* dense */
    bool variable;    /* else an input */
    void *data;       /* in the dtype of desc */
} kin_check_value;

typedef struct kin_check_values {
    kin_context *context;
    kin_check_value *list;
    int count;
} kin_check_values;

/* What inputs of whole numbers may be. */
typedef struct kin_check_limits {
    int64_t vocabulary;  /* "...ids": 0 .. vocabulary - 1 */
    int64_t text_length; /* "...lengths": 1 .. text_length */
} kin_check_limits;

/* Makes a value for every input and every variable. Inputs by their names: "timestep" is a whole
 * number within 0 .. 999, "lr" 1e-3, "step" 1, "seed" {7, 1, ...}, "...ids" and "...lengths" as
 * `limits` says, "...mask" 0 or 1; other floats are N(0, 1), other whole numbers 0. Variables start
 * as the graph says (from the store of `device`, by the seed), but what would be all zeros or all
 * ones gets 0.1 N(0, 1) on top, so that nothing hides behind a zero; states stay as they start. */
kin_status kin_check_values_make(kin_graph *graph, kin_device *device,
                                 const kin_check_limits *limits, uint64_t seed,
                                 kin_check_values *out_values);
void kin_check_values_free(kin_check_values *values);
kin_check_value *kin_check_values_find(const kin_check_values *values, const char *name);
/* Writes inputs to a prepared plan and variables to a store, where these have them. Either may be
 * NULL. */
kin_status kin_check_values_write(const kin_check_values *values, kin_plan *plan, kin_store *store);

/* The same as doubles, for runtime/evaluate.h; free each `data`, and the list. */
kin_status kin_check_values_doubles(const kin_check_values *values, kin_evaluate_value **out_given);
void kin_check_doubles_free(kin_context *context, kin_evaluate_value *given, int count);

#endif
