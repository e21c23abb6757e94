/* Evaluating graphs on the host in double, node by node through the ops' references: what a
 * device's result, and a gradient made by kin_backward, is held against.
 */
#ifndef KIN_RUNTIME_EVALUATE_H
#define KIN_RUNTIME_EVALUATE_H

#include "runtime/plan.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Values of a named tensor, dense, in the caller's memory. */
typedef struct kin_evaluate_value {
    const char *name; /* of an input or a variable if given, of an output if wanted */
    double *data;     /* only read if given; kin_desc_count doubles */
} kin_evaluate_value;

/* What is rounded on the way. */
typedef enum kin_evaluate_rounding {
    KIN_ROUND_NOTHING = 0,
    KIN_ROUND_NARROWING = 1, /* float results of a dtype smaller than input 0's: casts that mean to
                                round */
    KIN_ROUND_ALL = 2,       /* every float result, to its dtype, as a device stores it: what changes
                                by it tells how much one unit of rounding at every node matters */
    KIN_ROUND_PRODUCTS = 4   /* beside one of those: the operands of products, as the plan's device
                                does (kin_device_info.product_dtype) */
} kin_evaluate_rounding;

/* Computes the wanted outputs from the given inputs and variables. Updates return their new values
 * and leave what was given alone. out_reduction (may be NULL): the longest sum behind an element of
 * any node that was needed (kin_cost.reduction). KIN_NOT_FOUND if a name is missing,
 * KIN_UNSUPPORTED if an op has no reference. Memory for all values is taken meanwhile. */
KIN_API kin_status kin_graph_evaluate(kin_graph *graph, const kin_evaluate_value *given,
                                      int given_count, const kin_evaluate_value *wanted,
                                      int wanted_count, kin_evaluate_rounding rounding,
                                      double *out_reduction);
/* The same of the program that a plan made of its graph: lowered and with copies. */
KIN_API kin_status kin_plan_evaluate(kin_plan *plan, const kin_evaluate_value *given,
                                     int given_count, const kin_evaluate_value *wanted,
                                     int wanted_count, kin_evaluate_rounding rounding,
                                     double *out_reduction);

#ifdef __cplusplus
}
#endif
#endif
