/* One step of a graph on two devices, node by node: behind `kinora check compare`.
 *
 * The devices lower the graph differently, so they are compared by the nodes that the model has.
 * One device runs the whole plan, with every node's result kept. The other one then does each node
 * alone, from the very inputs that the first one had for it. So rounding does not add up, and a
 * difference belongs to the node where it shows. A node may differ by the tolerances of both
 * devices (runtime/check.h), where it was lowered by what tools/check/op_suite.h allows, and where the
 * terms of a sum cancel by what the rounding of the terms comes to (kin_one_op_run).
 *
 * Keeping every result changes how memory is reused. So the plan as it is runs, too, and its
 * outputs must be those of the plan that keeps everything. */
#ifndef KIN_TOOLS_COMPARE_H
#define KIN_TOOLS_COMPARE_H

#include "tools/check/check_values.h"
#include "tools/check/one_op.h"

typedef struct kin_compare_output {
    char name[128];
    double
        relative; /* the largest difference of the two plans as they are, by the largest element */
    double reuse; /* the same of the second device's plan and the one that keeps everything */
} kin_compare_output;

enum { KIN_COMPARE_OUTPUTS = 64 };

typedef struct kin_comparison {
    int nodes, compared; /* of the model that work; those whose results could be held */
    bool differs;        /* the rest tells about the first node that does */
    int node;
    char op[64], path[256];
    int output;
    int64_t element;
    kin_desc desc;
    double first, second, reference; /* the element: of both devices, and in double */
    double error, allowed;
    char first_kernels[200], second_kernels[200];
    bool first_lowered, second_lowered;
    bool first_off, second_off; /* from the reference in double, by more than its tolerance */
    bool alone;                 /* the second device gives the same when it does the node alone */
    int output_count;
    kin_compare_output outputs[KIN_COMPARE_OUTPUTS];
} kin_comparison;

/* Runs the graph with these values on `second`, and each node alone on `first`. Adds outputs to the
 * graph. folder: where the first node that differs is written as a case, or NULL. KIN_OK whether
 * they differ or not. */
kin_status kin_compare_devices(kin_graph *graph, const kin_check_values *values, kin_device *first,
                               kin_device *second, const char *folder,
                               kin_comparison *out_comparison);

#endif
