/* Plan: graph + device -> a fixed program and one arena; then run it, as often as wanted.
 *
 * Planning needs no weights and allocates nothing on the device. kin_plan_prepare allocates; after
 * it, a run allocates nothing. Peak memory is known from the plan alone: weights and states (the
 * store), inputs, constants and the arena.
 */
#ifndef KIN_RUNTIME_PLAN_H
#define KIN_RUNTIME_PLAN_H

#include "runtime/backend.h"
#include "runtime/store.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kin_plan kin_plan;

/* What the backward pass computes again instead of finding it kept. The results are the same. */
typedef enum kin_recompute {
    KIN_RECOMPUTE_AUTO,    /* CHEAP; with a budget, the least that keeps it */
    KIN_RECOMPUTE_NOTHING, /* the fastest, and the most memory */
    KIN_RECOMPUTE_CHEAP,   /* what products do not give, and other values that are kept do: casts of
                              weights, activation functions, normalizations, gated sums */
    KIN_RECOMPUTE_SEGMENTS /* all of every segment but what it begins with, too */
} kin_recompute;

typedef struct kin_plan_options {
    size_t struct_size;
    uint64_t memory_budget;  /* bytes for everything; 0: no limit. More is recomputed to keep it:
                                first  what is cheap, then segments, as few as possible; if that does
                                not  suffice, KIN_OUT_OF_MEMORY names the largest tensors */
    kin_recompute recompute; /* at the least, whatever the budget */
    bool allow_reference; /* run ops that the device has neither a kernel nor a lowering for by the
                             host reference (slow); otherwise that is KIN_UNSUPPORTED */
} kin_plan_options;

enum { KIN_PLAN_LARGEST = 5 };

typedef struct kin_plan_large {
    const char *name; /* the model path and op, or the variable's name; the plan's memory */
    kin_desc desc;
    uint64_t bytes;
} kin_plan_large;

/* All sizes in bytes. peak = weights + states + inputs + constants + arena + communication. */
typedef struct kin_plan_summary {
    uint64_t weights, states, inputs, constants;
    uint64_t gradients;   /* of variables, part of the arena, at the arena's peak */
    uint64_t activations; /* the rest of the arena's peak */
    uint64_t arena;
    uint64_t lower_bound; /* the largest sum of live bytes over the schedule: no arena is smaller */
    uint64_t communication; /* kin_group_bytes, if the plan sums over the ranks of a group */
    uint64_t peak;
    int nodes, kernels_missing; /* missing: nodes that were lowered for want of a kernel */
    int copies;                 /* dense copies that the planner put in */
    int fused;                  /* nodes that became part of the one before them */
    int segments, segments_recomputed;
    int recomputed; /* nodes that compute again what a node before them did */
    double recomputed_flops, recomputed_bytes; /* of them, part of the two below */
    double flops;                              /* of one run */
    double bytes;                              /* moved in one run, each operand once */
    kin_plan_large largest[KIN_PLAN_LARGEST];  /* at the peak */
    int largest_count;
} kin_plan_summary;

/* Plans a graph. options may be NULL. The graph may be destroyed afterwards. The plan belongs to
 * the caller. Sticky errors of the graph surface here. */
KIN_API kin_status kin_plan_build(kin_graph *graph, kin_device *device,
                                  const kin_plan_options *options, kin_plan **out_plan);
KIN_API void kin_plan_free(kin_plan *plan);
KIN_API const kin_plan_summary *kin_plan_summarize(const kin_plan *plan);
KIN_API kin_device *kin_plan_device(const kin_plan *plan);

/* One arena for several plans that never run at the same time: it grows to the largest. */
typedef struct kin_workspace kin_workspace;
KIN_API kin_status kin_workspace_create(kin_device *device, kin_workspace **out_workspace);
KIN_API void kin_workspace_free(kin_workspace *workspace);

/* Allocates and records. store holds the plan's variables (may be NULL if it has none; every
 * variable must be there). workspace NULL: an arena of its own. A workspace that has grown since is
 * noticed: the plan is recorded anew at its next run. */
KIN_API kin_status kin_plan_prepare(kin_plan *plan, kin_store *store, kin_workspace *workspace);

/* Inputs and outputs by name; data is dense, in the host dtype given, of the tensor's shape. */
KIN_API kin_status kin_plan_write(kin_plan *plan, const char *input, kin_dtype dtype,
                                  const void *data);
KIN_API kin_status kin_plan_read(kin_plan *plan, const char *output, kin_dtype dtype, void *data);
KIN_API const kin_desc *kin_plan_input_desc(const kin_plan *plan, const char *input);
KIN_API const kin_desc *kin_plan_output_desc(const kin_plan *plan, const char *output);

/* Replays the program and waits for it. */
KIN_API kin_status kin_plan_run(kin_plan *plan);

/* The program, node by node: for reports, profiles and checks. */
typedef struct kin_plan_node {
    const char *op;
    const char *kernel; /* "reference" if the host runs it */
    const char *path;   /* the model path where it was appended; "" if none */
    const char *origin; /* the op that was lowered to it, or that it is a dense copy for; or NULL */
    const char *why;    /* why the node is not as it was built, or runs on the host; or NULL */
    const char *fused;  /* the ops of the nodes that became part of it, "gelu_tanh, add"; or NULL */
    bool is_copy;       /* a dense copy that the planner put in */
    bool backward;      /* made by kin_backward, or computed again for it */
    bool again;         /* computed again */
    double flops, bytes;
    double seconds;             /* of the last profiled run; 0 if none */
    kin_call_counters counters; /* of that run, where the device counts */
} kin_plan_node;

KIN_API int kin_plan_node_count(const kin_plan *plan);
KIN_API kin_plan_node kin_plan_node_at(const kin_plan *plan, int index);
/* As kin_plan_run, and times every node. */
KIN_API kin_status kin_plan_profile(kin_plan *plan);

/* As kin_plan_run, each node also through its reference on the host. Stops at the first node whose
 * output differs by more than its tolerance (tolerance_scale times the rule of check.h) and fills
 * out_divergence; KIN_NUMERIC then. */
typedef struct kin_divergence {
    int node;
    int output;
    double error, tolerance; /* max |got - want| and what was allowed */
    int64_t element;
    double got, want;
} kin_divergence;

KIN_API kin_status kin_plan_check(kin_plan *plan, double tolerance_scale,
                                  kin_divergence *out_divergence);

/* Runs node by node and stops at the first that writes a NaN or an infinity: *out_where is "PATH
 * op" (the plan's memory), or NULL if there is none. Updates run as they do in kin_plan_run. It
 * stops in front of the first node that sums over the ranks of a group, so that ranks may call it
 * alone. */
KIN_API kin_status kin_plan_find_nonfinite(kin_plan *plan, const char **out_where);

#ifdef __cplusplus
}
#endif
#endif
