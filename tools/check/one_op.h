/* One op with its operands, as a model has them: taken from a graph, run alone on a device, kept in
 * a folder and read back. The folder has the files of a reference case (case.json, config.json,
 * inputs.safetensors, outputs.safetensors); docs/add-a-backend.md describes it. */
#ifndef KIN_TOOLS_ONE_OP_H
#define KIN_TOOLS_ONE_OP_H

#include "runtime/device.h"
#include "runtime/op.h"
#include "runtime/plan.h"

/* How an input lies in memory. */
typedef struct kin_one_operand {
    bool absent;
    bool variable;    /* the op writes it */
    kin_desc storage; /* dense: what is written to the device */
    kin_desc view;    /* what the op sees of it, with strides */
    int64_t offset;   /* of the view, in elements */
    void *data;       /* the storage, in its dtype; owned */
} kin_one_operand;

typedef struct kin_one_op {
    kin_context *context;
    const kin_op *op;
    void *attrs; /* owned; NULL if the op has none */
    int in_count, out_count;
    kin_one_operand *in;
    kin_desc out[KIN_MAX_OUTPUTS];
    char path[256]; /* where in the model it was */
    kin_cost cost;  /* of one run */
} kin_one_op;

/* An op with room for its inputs, which are absent until kin_one_op_set. attrs is copied. */
kin_status kin_one_op_create(kin_context *context, const kin_op *op, const void *attrs,
                             int in_count, const char *path, kin_one_op **out_one);
void kin_one_op_free(kin_one_op *one);
/* Sets input i: `view` lies `offset` elements into a dense tensor `base`, whose data is copied as
 * far as the view reaches. */
kin_status kin_one_op_set(kin_one_op *one, int i, const kin_desc *base, const void *data,
                          const kin_desc *view, int64_t offset);
/* After the inputs are set: finds shapes and cost. KIN_INVALID if the op refuses them. */
kin_status kin_one_op_finish(kin_one_op *one);

/* Appends inputs "in0", ... (variables where the op writes), and the op; outputs "out0", ... */
kin_status kin_one_op_append(const kin_one_op *one, kin_graph *graph);
/* Writes the inputs to a prepared plan, and the variables to its store. */
kin_status kin_one_op_write(const kin_one_op *one, kin_plan *plan, kin_store *store);

/* What a device made of it. */
typedef struct kin_one_result {
    double *out[KIN_MAX_OUTPUTS];
    double extra[KIN_MAX_OUTPUTS]; /* see kin_one_op_run */
    bool lowered;
    char kernels[200]; /* "cpu_max, cpu_exp" */
} kin_one_result;

/* Runs it alone on the device. with_extra: measures by evaluations in double what each result may
 * err by beyond its tolerance: where the op was lowered, as tools/check/op_suite.h says; and where the
 * terms of a sum cancel. */
kin_status kin_one_op_run(const kin_one_op *one, kin_device *device, bool with_extra,
                          kin_one_result *out_result);
/* By the double reference, without rounding. */
kin_status kin_one_op_reference(const kin_one_op *one, kin_one_result *out_result);
void kin_one_result_free(kin_context *context, kin_one_result *result);

/* The largest error, and what it may be. */
typedef struct kin_one_difference {
    double error, largest; /* infinite where only one side is NaN or infinite */
    int64_t element;
} kin_one_difference;

kin_one_difference kin_one_op_compare(const kin_one_op *one, int output, const double *got,
                                      const double *want);
/* Relative to the largest wanted element: runtime/check.h's rule for this device. */
double kin_one_op_tolerance(const kin_one_op *one, const kin_device *device, int output);

/* Writes the folder, with the double reference's results as outputs; `notes` goes to case.json. */
kin_status kin_one_op_save(const kin_one_op *one, const char *folder, const char *notes);
/* Reads a folder that kin_one_op_save wrote. KIN_FORMAT says what is wrong with it. */
kin_status kin_one_op_load(kin_context *context, const char *folder, kin_one_op **out_one);

#endif
