/* Looking at a graph from outside: its nodes, and where their operands lie. For tools that compare,
 * print or replay graphs; models need none of it. */
#ifndef KIN_RUNTIME_INSPECT_H
#define KIN_RUNTIME_INSPECT_H

#include "runtime/op.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A node as it was appended. Pointers are the graph's and stay valid while it lives. */
typedef struct kin_node_info {
    const kin_op *op;
    const void *attrs;
    int in_count, out_count;
    const kin_tensor *in; /* id 0 where absent */
    kin_tensor out[KIN_MAX_OUTPUTS];
    const char *path; /* model path; "" at the top */
    bool backward;    /* appended by kin_backward */
} kin_node_info;

typedef enum kin_value_kind {
    KIN_VALUE_NODE, /* a node's result */
    KIN_VALUE_INPUT,
    KIN_VALUE_VARIABLE,
    KIN_VALUE_CONSTANT
} kin_value_kind;

/* A value and the tensor whose memory it lies in. */
typedef struct kin_value_info {
    kin_value_kind kind; /* of the base */
    kin_desc desc;       /* strides within the base */
    kin_tensor base;     /* itself, unless it is a view or a variable that was updated */
    int64_t offset;      /* elements from the base's first */
    int version;         /* variables: how often it was updated before; 0: as the step found it */
    const char *name;    /* of the base, if that is an input or a variable; else NULL */
    const void *data;    /* of the base, if that is a constant; else NULL */
} kin_value_info;

KIN_API int kin_graph_node_count(const kin_graph *graph);
/* index within 0 .. kin_graph_node_count - 1, in the order of appending. */
KIN_API kin_node_info kin_graph_node_at(const kin_graph *graph, int index);
/* Of a tensor of this graph that is not KIN_NONE. */
KIN_API kin_value_info kin_graph_value_at(const kin_graph *graph, kin_tensor tensor);
/* The nodes that planning would keep: those that an output or an update needs. live has an entry
 * for each node. */
KIN_API kin_status kin_graph_find_live(const kin_graph *graph, bool *live);
/* The outputs by index, in the order of kin_output; NULL past the end. */
KIN_API const char *kin_graph_output_at(const kin_graph *graph, int index, kin_tensor *out_tensor);
/* The inputs by index; NULL past the end. */
KIN_API const char *kin_graph_input_at(const kin_graph *graph, int index, kin_tensor *out_tensor);

#ifdef __cplusplus
}
#endif
#endif
