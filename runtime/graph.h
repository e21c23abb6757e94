/* Graph: ops are appended, shapes are checked at once, nothing is computed and nothing allocated.
 *
 * Errors are sticky: after the first one every call is a no-op that returns the tensor "none"
 * (id 0), and kin_graph_status, or planning, reports it with the op, its shapes and the model path.
 * Nodes, shapes and attributes never change once appended.
 */
#ifndef KIN_RUNTIME_GRAPH_H
#define KIN_RUNTIME_GRAPH_H

#include "runtime/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kin_graph kin_graph;
struct kin_op;
struct kin_device;

/* A value of one graph. id 0: none. */
typedef struct kin_tensor {
    int32_t id;
} kin_tensor;

#define KIN_NONE ((kin_tensor){0})

/* How a variable that no file provides starts. */
typedef enum kin_init_kind {
    KIN_INIT_ZERO,
    KIN_INIT_ONE,
    KIN_INIT_NORMAL,         /* scale * N(0, 1) */
    KIN_INIT_UNIFORM,        /* uniform in [-scale, scale] */
    KIN_INIT_XAVIER_UNIFORM, /* bound scale * sqrt(6 / (fan_in + fan_out)); dims [out, in,
                                kernel...] */
    KIN_INIT_FAN_IN_UNIFORM  /* bound scale / sqrt(fan_in), PyTorch's default for convolutions */
} kin_init_kind;

typedef struct kin_init {
    kin_init_kind kind;
    double scale;
} kin_init;

typedef enum kin_variable_kind {
    KIN_VARIABLE_WEIGHT, /* trainable: kin_backward makes its gradient */
    KIN_VARIABLE_BUFFER, /* part of a checkpoint, not trained */
    KIN_VARIABLE_STATE   /* optimizer moments, averages, accumulators */
} kin_variable_kind;

/* An empty graph. The caller owns it. */
KIN_API kin_status kin_graph_create(kin_context *context, kin_graph **out_graph);
/* A graph in step mode: each node runs on `device` as it is appended, and every value can be read
 * back at once with kin_graph_read. For debugging, tests and exploration: all intermediates stay.
 */
KIN_API kin_status kin_graph_create_step(struct kin_device *device, kin_graph **out_graph);
KIN_API void kin_graph_destroy(kin_graph *graph);
KIN_API kin_context *kin_graph_context(const kin_graph *graph);
/* KIN_OK, or the first error; its message is then the context's. */
KIN_API kin_status kin_graph_status(kin_graph *graph);
/* Records the first error, with the model path in front; returns KIN_NONE. */
KIN_API kin_tensor kin_graph_fail(kin_graph *graph, kin_status status, const char *format, ...)
    KIN_PRINTF(3, 4);

/* The model path: "blocks.3" then "attn" give "blocks.3.attn", which prefixes the names of
 * variables and the messages of errors. */
KIN_API void kin_scope_push(kin_graph *graph, const char *format, ...) KIN_PRINTF(2, 3);
KIN_API void kin_scope_pop(kin_graph *graph);

/* Marks a stretch of the forward pass that the planner may recompute in the backward pass instead
 * of keeping its intermediates (activation checkpointing). Segments do not nest. */
KIN_API void kin_segment_begin(kin_graph *graph);
KIN_API void kin_segment_end(kin_graph *graph);

/* A tensor that the caller writes before each run. Names are unique within a graph. */
KIN_API kin_tensor kin_input(kin_graph *graph, const char *name, kin_dtype dtype, int rank,
                             const int64_t *dims);
/* A persistent tensor that lives in a store (store.h) under "scope.name"; asked for twice with the
 * same name it is the same tensor. */
KIN_API kin_tensor kin_variable(kin_graph *graph, const char *name, kin_variable_kind kind,
                                kin_dtype dtype, int rank, const int64_t *dims, kin_init init);
/* Data known now (position tables); copied. Bytes of the dense form. */
KIN_API kin_tensor kin_constant(kin_graph *graph, kin_dtype dtype, int rank, const int64_t *dims,
                                const void *data);
/* Names a result that the caller reads after each run. */
KIN_API void kin_output(kin_graph *graph, const char *name, kin_tensor tensor);

/* The description of a tensor; of KIN_NONE: a scalar f32. Valid until the next append. */
KIN_API const kin_desc *kin_tensor_desc(const kin_graph *graph, kin_tensor tensor);
/* Dimension `axis`, negative from the end; 1 for KIN_NONE. */
KIN_API int64_t kin_dim(const kin_graph *graph, kin_tensor tensor, int axis);
KIN_API int kin_rank(const kin_graph *graph, kin_tensor tensor);
KIN_API kin_dtype kin_dtype_of(const kin_graph *graph, kin_tensor tensor);

/* Appends one node. attrs is copied (op->attrs_size bytes). out_tensors receives as many tensors as
 * the op has outputs. Inputs may be KIN_NONE where the op says that they are optional. */
KIN_API void kin_append(kin_graph *graph, const struct kin_op *op, const void *attrs,
                        const kin_tensor *inputs, int input_count, kin_tensor *out_tensors);
/* The same for an op of one output. */
KIN_API kin_tensor kin_append1(kin_graph *graph, const struct kin_op *op, const void *attrs,
                               const kin_tensor *inputs, int input_count);

/* Asks for the gradient of an input, too (variables of kind WEIGHT always get theirs). Before
 * kin_backward. */
KIN_API void kin_want_gradient(kin_graph *graph, kin_tensor tensor);
/* Keeps gradients from flowing into this variable: it is not trained in this graph. */
KIN_API void kin_freeze(kin_graph *graph, kin_tensor variable);
/* Appends the nodes of d loss / d everything wanted. loss is a scalar f32; called once a graph. */
KIN_API void kin_backward(kin_graph *graph, kin_tensor loss);
/* The gradient that kin_backward made; KIN_NONE if the loss does not depend on the tensor. */
KIN_API kin_tensor kin_gradient(kin_graph *graph, kin_tensor tensor);

/* The variables of a graph, in the order of their appearance. */
KIN_API int kin_variable_count(const kin_graph *graph);
KIN_API kin_tensor kin_variable_at(const kin_graph *graph, int index);
KIN_API const char *kin_variable_name(const kin_graph *graph, kin_tensor variable);
KIN_API kin_variable_kind kin_variable_kind_of(const kin_graph *graph, kin_tensor variable);
KIN_API kin_init kin_variable_init_of(const kin_graph *graph, kin_tensor variable);

/* Step mode only: writes an input (dense host data in the input's dtype) before the nodes that read
 * it are appended; reads any tensor, converted to `dtype`, into `data` (dense, count elements). */
KIN_API kin_status kin_graph_write(kin_graph *graph, kin_tensor input, const void *data);
KIN_API kin_status kin_graph_read(kin_graph *graph, kin_tensor tensor, kin_dtype dtype, void *data);

#ifdef __cplusplus
}
#endif
#endif
