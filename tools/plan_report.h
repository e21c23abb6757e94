/* What a plan made of a model's nodes on a device, told so that nothing is done in silence: which
 * ops were lowered and why, what was copied, what the host computes. */
#ifndef KIN_TOOLS_PLAN_REPORT_H
#define KIN_TOOLS_PLAN_REPORT_H

#include "runtime/plan.h"

#include <jansson.h>
#include <stdio.h>

/* Why a node of the plan is there. */
typedef enum kin_placement {
    KIN_PLACED_AS_BUILT, /* a kernel of the node's own op */
    KIN_PLACED_LOWERED,  /* part of what an op without a kernel was lowered to */
    KIN_PLACED_COPY,     /* a dense copy that the planner put in */
    KIN_PLACED_HOST      /* by the reference, on the host */
} kin_placement;

kin_placement kin_plan_placement(const kin_plan_node *node);
/* "kernel", "lowered", "copy", "host" */
const char *kin_placement_text(kin_placement placement);

/* Prints one line for each op and reason: lowered to what, copied, or run by the host. Nothing if
 * every node is as it was built. */
void kin_plan_report_placement(const kin_plan *plan, FILE *out);
/* Prints one line for each node: number, path, op, kernel, and why. */
void kin_plan_report_nodes(const kin_plan *plan, FILE *out);
/* {"placement": [...]} and, with `nodes`, "plan": one object for each node; NULL without memory.
 * The caller's. */
json_t *kin_plan_report_json(const kin_plan *plan, bool nodes);

#endif
