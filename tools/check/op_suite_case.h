/* The inside of the op suite: a case made into inputs, graphs and wanted results. */
#ifndef KIN_TOOLS_OP_SUITE_CASE_H
#define KIN_TOOLS_OP_SUITE_CASE_H

#include "runtime/evaluate.h"
#include "tools/check/guard_device.h"
#include "tools/check/op_suite.h"

struct kin_suite {
    kin_context *context;
    kin_device *device; /* the caller's */
    kin_guard *guard;
};

typedef struct suite_input {
    char name[16]; /* "in0" */
    bool absent;
    bool variable; /* an update writes it */
    kin_case_layout layout;
    kin_desc logical; /* what the op sees, dense */
    kin_desc storage; /* what is written, dense */
    kin_desc view;    /* logical shape with the strides within the storage */
    int64_t offset;   /* of the view's first element */
    void *bytes;      /* storage, in its dtype; NaN where the view does not look */
    double *stored;   /* the same as doubles */
    double *values;   /* logical, as doubles */
    bool wants_gradient;
} suite_input;

typedef struct suite_case {
    kin_suite *suite;
    kin_context *context;
    const kin_op *op;
    const kin_case *test;
    kin_dtype dtype;
    kin_suite_result *result;
    suite_input inputs[KIN_MAX_CASE_INPUTS];
    int input_count, out_count;
    kin_desc out_desc[KIN_MAX_OUTPUTS];
    double *want[KIN_MAX_OUTPUTS];      /* by the reference */
    double *cotangent[KIN_MAX_OUTPUTS]; /* of float results; 0 where the result is not finite */
    double reduction, flops;
    int nodes; /* of the last plan of results */
} suite_case;

/* Sets a failure, unless there is one; returns false. */
bool suite_fail(suite_case *sc, const char *format, ...) KIN_PRINTF(2, 3);
/* False, and a failure with the context's message, unless status is KIN_OK. */
bool suite_ok(suite_case *sc, const char *what, kin_status status);

/* Plans on the guard's device. False, with a verdict of missing if the device and the lowerings
 * lack an op, else with a failure. */
bool suite_plan(suite_case *sc, const char *what, kin_graph *graph, kin_plan **out_plan);
/* True if the op writes input i. */
bool suite_is_alias(const kin_op *op, int input);

/* Makes inputs and wanted results. False: failed or skipped, as *result says. */
bool suite_case_open(suite_case *sc, kin_suite *suite, const kin_op *op, const kin_case *test,
                     kin_dtype dtype, kin_suite_result *result);
void suite_case_close(suite_case *sc);

/* Appends inputs (written at once if the graph is in step mode), views and the op. out_in receives
 * the graph's inputs or variables, out_tensors the results; either may be NULL. */
void suite_append(suite_case *sc, kin_graph *graph, bool step_mode, kin_tensor *out_in,
                  kin_tensor *out_tensors);
/* Fills `given` with the inputs' stored values; returns how many. */
int suite_given(const suite_case *sc, kin_evaluate_value *given);
/* Runs the reference on dense logical values. */
void suite_reference(const suite_case *sc, const double *const *in, double *const *out);

/* Compares; false, and a failure, if an element is off by more than
 *     kin_device_tolerance(device, op, dtype, reduction) * largest |wanted| + extra
 * and notes the worst error. Also checks that a deviation would be caught. */
bool suite_compare(suite_case *sc, const char *what, const kin_desc *desc, const double *got,
                   const double *want, double reduction, double extra);
/* False, and a failure, unless a program of simpler ops gives in double what the reference gives,
 * to 1e-6 of the largest element: its constants are f32. */
bool suite_same_in_double(suite_case *sc, const kin_desc *desc, const double *got,
                          const double *want);
/* The largest |a - b| where both are finite; 0 for integers, which must be equal. */
double suite_largest_change(const kin_desc *desc, const double *a, const double *b);
/* How a program is evaluated without the rounding of storage. In the suite's f32 runs a cast to a
 * smaller dtype is meant to round. */
kin_evaluate_rounding suite_exact(const suite_case *sc);
/* The units of rounding that the tolerance of the dtype under test stands for. */
double suite_units(const suite_case *sc, double reduction);
/* The units of the dtype that the device rounds operands of products to; 0 if it does not. */
double suite_product_units(const suite_case *sc, double reduction);

#endif
