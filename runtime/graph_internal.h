/* The inside of a graph, for the runtime's own files. */
#ifndef KIN_RUNTIME_GRAPH_INTERNAL_H
#define KIN_RUNTIME_GRAPH_INTERNAL_H

#include "runtime/arena.h"
#include "runtime/op.h"

typedef enum kin_source {
    KIN_SOURCE_NODE,
    KIN_SOURCE_INPUT,
    KIN_SOURCE_VARIABLE,
    KIN_SOURCE_CONSTANT
} kin_source;

typedef struct kin_value {
    kin_desc desc;
    kin_source source; /* of the base */
    int32_t node;      /* producer; -1 for inputs, variables and constants */
    int32_t base;      /* the value whose memory this one lies in; itself if not a view */
    int64_t offset;    /* elements from the base's first element */
    int32_t version;   /* of the base's content when this handle was made */
    int32_t updates;   /* base: how often it was updated so far */
    const char *name;  /* inputs, variables and outputs */
    const void *data;  /* constants */
    kin_variable_kind kind;
    kin_init init;
    bool wants_gradient, frozen;
    bool is_gradient; /* the finished gradient of a variable */
    int32_t gradient; /* made by kin_backward; 0 if none */
} kin_value;

typedef struct kin_node {
    const kin_op *op;
    const void *attrs;
    int in_count, out_count;
    const int32_t *in; /* value ids, 0 where absent */
    int32_t out[KIN_MAX_OUTPUTS];
    const char *path;   /* model path, "" at the top */
    const char *origin; /* name of the op that was lowered to this one, or NULL */
    const char *why;    /* planning: why the node is not as it was built, or NULL */
    const char *fused;  /* planning: the ops that it has taken on, or NULL */
    bool is_copy;       /* a dense copy that planning put in */
    int32_t segment;    /* -1: none */
    bool backward;      /* appended by kin_backward, or computed again for it */
    bool again;         /* planning: computed again */
} kin_node;

typedef struct kin_named {
    const char *name;
    int32_t value;
} kin_named;

typedef struct kin_pool_block kin_pool_block;

/* Step mode: see step.c. */
typedef struct kin_step kin_step;

struct kin_graph {
    kin_context *context;
    kin_status status;
    char message[1024];
    kin_pool_block *pool;
    kin_value *values; /* values[0] stands for "none" */
    int32_t value_count, value_capacity;
    kin_node *nodes;
    int32_t node_count, node_capacity;
    kin_named *variables, *inputs, *outputs;
    int32_t variable_count, variable_capacity;
    int32_t input_count, input_capacity;
    int32_t output_count, output_capacity;
    char path[512];
    uint16_t scope_marks[64]; /* lengths of the path before each push */
    int scope_depth;
    const char *pooled_path;          /* `path` in the pool, NULL if not made yet */
    const char *origin, *why, *fused; /* of the nodes to come, while planning */
    bool is_copy;
    int32_t segment, segment_count;
    bool in_segment, in_backward, has_backward;
    bool again; /* of the nodes to come, while planning */
    kin_step *step;
};

/* Memory that lives as long as the graph; NULL (and a sticky error) when there is none. */
void *kin_graph_pool(kin_graph *graph, size_t size);
const char *kin_graph_pool_string(kin_graph *graph, const char *text);

/* Adds a node whose outputs infer has described. Step mode runs it. */
bool kin_graph_add_node(kin_graph *graph, const kin_infer *infer, const int32_t *in,
                        kin_tensor *out_tensors);
/* Sets the path verbatim (rewriting keeps the paths of the original). */
void kin_graph_set_path(kin_graph *graph, const char *path);

/* step.c: runs the node just described, or lowers it. Fills out_tensors. */
bool kin_step_append(kin_graph *graph, const kin_infer *infer, const kin_tensor *inputs,
                     kin_tensor *out_tensors);
kin_status kin_step_add_source(kin_graph *graph, int32_t value);
void kin_step_free(kin_graph *graph);

/* rewrite.c: a fresh graph that computes the same on `device`: dead nodes gone, values recomputed
 * as the options say, ops without a kernel lowered, dense copies put where kernels want them. */
typedef struct kin_rewrite_options {
    bool segments; /* compute segments again in the backward pass, */
    int products;  /* but for so many of their products, the dearest */
    bool cheap;    /* and what comes cheaply from what is kept */
    bool allow_reference;
} kin_rewrite_options;

typedef struct kin_rewrite_counts {
    int lowered, copies;
    int fused;              /* nodes that became part of another */
    int products, segments; /* products inside recomputed segments; segments with some not kept */
} kin_rewrite_counts;

kin_status kin_graph_rewrite(kin_graph *graph, const struct kin_device *device,
                             const kin_rewrite_options *options, kin_graph **out_graph,
                             kin_rewrite_counts *out_counts);

/* refusal.c: says in words why no kernel of the device takes the call, whose operands are dense and
 * are changed and put back meanwhile. */
struct kin_call;
struct kin_operand;
void kin_device_refusal(const struct kin_device *device, const struct kin_call *call,
                        struct kin_operand *in, struct kin_operand *out, char *text, size_t size);

/* Fills in a call's operands for a node (buffers NULL, offsets in bytes from the base). */
void kin_graph_operand(const kin_graph *graph, int32_t value, struct kin_operand *out_operand);

#endif
