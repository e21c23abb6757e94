/* Building graphs: values, nodes, names, scopes. */
#include "runtime/graph_internal.h"

#include <stdio.h>
#include <string.h>

struct kin_pool_block {
    kin_pool_block *next;
    size_t used, size;
    /* data follows */
};

enum { POOL_BLOCK = 1 << 16, POOL_ALIGN = 16 };

void *kin_graph_pool(kin_graph *graph, size_t size) {
    size = (size + POOL_ALIGN - 1) & ~(size_t)(POOL_ALIGN - 1);
    size_t head = (sizeof(kin_pool_block) + POOL_ALIGN - 1) & ~(size_t)(POOL_ALIGN - 1);
    kin_pool_block *block = graph->pool;
    if (!block || block->size - block->used < size) {
        size_t room = size > POOL_BLOCK ? size : POOL_BLOCK;
        block = kin_alloc(graph->context, head + room);
        if (!block) {
            kin_graph_fail(graph, KIN_OUT_OF_MEMORY, "no host memory for the graph");
            return NULL;
        }
        *block = (kin_pool_block){.next = graph->pool, .used = 0, .size = room};
        graph->pool = block;
    }
    void *data = (char *)block + head + block->used;
    block->used += size;
    return data;
}

const char *kin_graph_pool_string(kin_graph *graph, const char *text) {
    size_t size = strlen(text) + 1;
    char *copy = kin_graph_pool(graph, size);
    if (copy) memcpy(copy, text, size);
    return copy;
}

/* Makes room for one more element of `size` bytes. */
static bool grow(kin_graph *graph, void **array, int32_t count, int32_t *capacity, size_t size) {
    if (count < *capacity) return true;
    int32_t wanted = *capacity ? 2 * *capacity : 64;
    void *larger = kin_realloc(graph->context, *array, (size_t)wanted * size);
    if (!larger) {
        kin_graph_fail(graph, KIN_OUT_OF_MEMORY, "no host memory for the graph");
        return false;
    }
    *array = larger;
    *capacity = wanted;
    return true;
}

kin_status kin_graph_create(kin_context *context, kin_graph **out_graph) {
    *out_graph = NULL;
    kin_graph *graph = kin_calloc(context, 1, sizeof *graph);
    if (!graph) return KIN_OUT_OF_MEMORY;
    graph->context = context;
    graph->segment = -1;
    if (!grow(graph, (void **)&graph->values, 0, &graph->value_capacity, sizeof *graph->values)) {
        kin_graph_destroy(graph);
        return KIN_OUT_OF_MEMORY;
    }
    graph->values[0] = (kin_value){.desc = kin_desc_dense(KIN_F32, 0, NULL), .node = -1};
    graph->value_count = 1;
    *out_graph = graph;
    return KIN_OK;
}

void kin_graph_destroy(kin_graph *graph) {
    if (!graph) return;
    kin_context *context = graph->context;
    kin_step_free(graph);
    while (graph->pool) {
        kin_pool_block *next = graph->pool->next;
        kin_free(context, graph->pool);
        graph->pool = next;
    }
    kin_free(context, graph->values);
    kin_free(context, graph->nodes);
    kin_free(context, graph->variables);
    kin_free(context, graph->inputs);
    kin_free(context, graph->outputs);
    kin_free(context, graph);
}

kin_context *kin_graph_context(const kin_graph *graph) {
    return graph->context;
}

kin_status kin_graph_status(kin_graph *graph) {
    if (graph->status != KIN_OK) kin_fail(graph->context, graph->status, "%s", graph->message);
    return graph->status;
}

kin_tensor kin_graph_fail(kin_graph *graph, kin_status status, const char *format, ...) {
    if (graph->status != KIN_OK) return KIN_NONE;
    int used = 0;
    if (graph->path[0]) used = snprintf(graph->message, sizeof graph->message, "%s: ", graph->path);
    if (used < 0 || (size_t)used >= sizeof graph->message) used = 0;
    va_list args;
    va_start(args, format);
    vsnprintf(graph->message + used, sizeof graph->message - (size_t)used, format, args);
    va_end(args);
    graph->status = status;
    return KIN_NONE;
}

void kin_graph_set_path(kin_graph *graph, const char *path) {
    if (strcmp(graph->path, path) == 0) return;
    snprintf(graph->path, sizeof graph->path, "%s", path);
    graph->pooled_path = NULL;
}

void kin_scope_push(kin_graph *graph, const char *format, ...) {
    size_t used = strlen(graph->path), size = sizeof graph->path;
    char part[256];
    va_list args;
    va_start(args, format);
    int length = vsnprintf(part, sizeof part, format, args);
    va_end(args);
    int marks = (int)(sizeof graph->scope_marks / sizeof graph->scope_marks[0]);
    if (length <= 0 || (size_t)length >= sizeof part || used + (size_t)length + 2 > size ||
        graph->scope_depth >= marks) {
        kin_graph_fail(graph, KIN_INVALID, "the model path is empty, too long or too deep");
        return;
    }
    graph->scope_marks[graph->scope_depth++] = (uint16_t)used;
    snprintf(graph->path + used, size - used, "%s%s", used ? "." : "", part);
    graph->pooled_path = NULL;
}

void kin_scope_pop(kin_graph *graph) {
    if (graph->scope_depth == 0) {
        kin_graph_fail(graph, KIN_INVALID, "kin_scope_pop without a push");
        return;
    }
    graph->path[graph->scope_marks[--graph->scope_depth]] = 0;
    graph->pooled_path = NULL;
}

void kin_segment_begin(kin_graph *graph) {
    if (graph->in_segment) {
        kin_graph_fail(graph, KIN_INVALID, "segments do not nest");
        return;
    }
    graph->in_segment = true;
    graph->segment = graph->segment_count++;
}

void kin_segment_end(kin_graph *graph) {
    graph->in_segment = false;
    graph->segment = -1;
}

static int32_t add_value(kin_graph *graph, const kin_value *value) {
    if (!grow(graph, (void **)&graph->values, graph->value_count, &graph->value_capacity,
              sizeof *graph->values))
        return 0;
    graph->values[graph->value_count] = *value;
    return graph->value_count++;
}

static bool valid_shape(kin_graph *graph, const char *name, int rank, const int64_t *dims) {
    bool good = rank >= 0 && rank <= KIN_MAX_RANK;
    int64_t count = 1;
    for (int i = 0; good && i < rank; i++) {
        good = dims[i] > 0 && dims[i] <= INT64_MAX / 16 / count;
        if (good) count *= dims[i];
    }
    if (!good)
        kin_graph_fail(graph, KIN_INVALID,
                       "\"%s\" has an impossible shape: at most %d dimensions, each at least 1",
                       name, KIN_MAX_RANK);
    return good;
}

/* Adds a source value, and its entry in a list of names if it has one. */
static kin_tensor add_source(kin_graph *graph, kin_value value, kin_named **list, int32_t *count,
                             int32_t *capacity) {
    value.node = -1;
    value.base = graph->value_count;
    int32_t id = add_value(graph, &value);
    if (!id) return KIN_NONE;
    if (list) {
        if (!grow(graph, (void **)list, *count, capacity, sizeof **list)) return KIN_NONE;
        (*list)[(*count)++] = (kin_named){value.name, id};
    }
    kin_status status = graph->step ? kin_step_add_source(graph, id) : KIN_OK;
    if (status != KIN_OK)
        return kin_graph_fail(graph, status, "%s", kin_context_error(graph->context));
    return (kin_tensor){id};
}

static int32_t find_named(const kin_named *list, int32_t count, const char *name) {
    for (int32_t i = 0; i < count; i++)
        if (strcmp(list[i].name, name) == 0) return list[i].value;
    return 0;
}

kin_tensor kin_input(kin_graph *graph, const char *name, kin_dtype dtype, int rank,
                     const int64_t *dims) {
    if (graph->status != KIN_OK || !valid_shape(graph, name, rank, dims)) return KIN_NONE;
    if (find_named(graph->inputs, graph->input_count, name))
        return kin_graph_fail(graph, KIN_INVALID, "there are two inputs named \"%s\"", name);
    kin_value value = {.desc = kin_desc_dense(dtype, rank, dims), .source = KIN_SOURCE_INPUT};
    value.name = kin_graph_pool_string(graph, name);
    if (!value.name) return KIN_NONE;
    return add_source(graph, value, &graph->inputs, &graph->input_count, &graph->input_capacity);
}

kin_tensor kin_variable(kin_graph *graph, const char *name, kin_variable_kind kind, kin_dtype dtype,
                        int rank, const int64_t *dims, kin_init init) {
    if (graph->status != KIN_OK || !valid_shape(graph, name, rank, dims)) return KIN_NONE;
    char full[768];
    snprintf(full, sizeof full, "%s%s%s", graph->path, graph->path[0] ? "." : "", name);
    kin_value value = {.desc = kin_desc_dense(dtype, rank, dims),
                       .source = KIN_SOURCE_VARIABLE,
                       .kind = kind,
                       .init = init};
    int32_t there = find_named(graph->variables, graph->variable_count, full);
    if (there) {
        const kin_value *old = &graph->values[there];
        if (old->desc.dtype != dtype || !kin_desc_same_shape(&old->desc, &value.desc))
            return kin_graph_fail(graph, KIN_INVALID,
                                  "variable \"%s\" is asked for with two shapes or dtypes", full);
        return (kin_tensor){there};
    }
    value.name = kin_graph_pool_string(graph, full);
    if (!value.name) return KIN_NONE;
    return add_source(graph, value, &graph->variables, &graph->variable_count,
                      &graph->variable_capacity);
}

kin_tensor kin_constant(kin_graph *graph, kin_dtype dtype, int rank, const int64_t *dims,
                        const void *data) {
    if (graph->status != KIN_OK || !valid_shape(graph, "constant", rank, dims)) return KIN_NONE;
    kin_value value = {.desc = kin_desc_dense(dtype, rank, dims), .source = KIN_SOURCE_CONSTANT};
    size_t bytes = kin_desc_bytes(&value.desc);
    void *copy = kin_graph_pool(graph, bytes);
    if (!copy) return KIN_NONE;
    memcpy(copy, data, bytes);
    value.data = copy;
    return add_source(graph, value, NULL, NULL, NULL);
}

void kin_output(kin_graph *graph, const char *name, kin_tensor tensor) {
    if (graph->status != KIN_OK) return;
    if (tensor.id <= 0 || tensor.id >= graph->value_count) {
        kin_graph_fail(graph, KIN_INVALID, "output \"%s\" is no tensor of this graph", name);
        return;
    }
    if (find_named(graph->outputs, graph->output_count, name)) {
        kin_graph_fail(graph, KIN_INVALID, "there are two outputs named \"%s\"", name);
        return;
    }
    const char *copy = kin_graph_pool_string(graph, name);
    if (!copy || !grow(graph, (void **)&graph->outputs, graph->output_count,
                       &graph->output_capacity, sizeof *graph->outputs))
        return;
    graph->outputs[graph->output_count++] = (kin_named){copy, tensor.id};
}

static const kin_value *value_of(const kin_graph *graph, kin_tensor tensor) {
    bool good = tensor.id > 0 && tensor.id < graph->value_count;
    return &graph->values[good ? tensor.id : 0];
}

const kin_desc *kin_tensor_desc(const kin_graph *graph, kin_tensor tensor) {
    return &value_of(graph, tensor)->desc;
}

int64_t kin_dim(const kin_graph *graph, kin_tensor tensor, int axis) {
    const kin_desc *desc = kin_tensor_desc(graph, tensor);
    if (axis < 0) axis += desc->rank;
    return axis >= 0 && axis < desc->rank ? desc->dims[axis] : 1;
}

int kin_rank(const kin_graph *graph, kin_tensor tensor) {
    return kin_tensor_desc(graph, tensor)->rank;
}

kin_dtype kin_dtype_of(const kin_graph *graph, kin_tensor tensor) {
    return kin_tensor_desc(graph, tensor)->dtype;
}

/* Checks the handles and marks of the inputs: absent, foreign, or read after an update. */
static bool check_inputs(kin_graph *graph, const kin_op *op, const kin_tensor *inputs, int count) {
    for (int i = 0; i < count; i++) {
        int32_t id = inputs[i].id;
        if (id < 0 || id >= graph->value_count) {
            kin_graph_fail(graph, KIN_INVALID, "%s: input %d is no tensor of this graph", op->name,
                           i);
            return false;
        }
        if (id == 0 && !(i < 32 && (op->optional >> i & 1))) {
            kin_graph_fail(graph, KIN_INVALID, "%s: input %d is missing", op->name, i);
            return false;
        }
        const kin_value *value = &graph->values[id], *base = &graph->values[value->base];
        if (id && value->version != base->updates) {
            kin_graph_fail(graph, KIN_INVALID,
                           "%s: input %d is \"%s\" as it was before an update; use the tensor that "
                           "the update returned, or read it before",
                           op->name, i, base->name ? base->name : "?");
            return false;
        }
    }
    return true;
}

bool kin_graph_add_node(kin_graph *graph, const kin_infer *infer, const int32_t *in,
                        kin_tensor *out_tensors) {
    const kin_op *op = infer->op;
    if (!graph->pooled_path) graph->pooled_path = kin_graph_pool_string(graph, graph->path);
    int32_t *ids = kin_graph_pool(graph, sizeof *ids * (size_t)(infer->in_count + 1));
    void *attrs = op->attrs_size ? kin_graph_pool(graph, op->attrs_size) : NULL;
    if (!graph->pooled_path || !ids || (op->attrs_size && !attrs)) return false;
    if (!grow(graph, (void **)&graph->nodes, graph->node_count, &graph->node_capacity,
              sizeof *graph->nodes))
        return false;
    for (int i = 0; i < infer->in_count; i++) ids[i] = in[i];
    if (attrs) memcpy(attrs, infer->attrs, op->attrs_size);
    kin_node node = {.op = op,
                     .attrs = attrs,
                     .in_count = infer->in_count,
                     .out_count = infer->out_count,
                     .in = ids,
                     .path = graph->pooled_path,
                     .origin = graph->origin,
                     .why = graph->why,
                     .fused = graph->fused,
                     .is_copy = graph->is_copy,
                     .segment = graph->segment,
                     .backward = graph->in_backward,
                     .again = graph->again};
    for (int j = 0; j < infer->out_count; j++) {
        kin_value value = {.desc = infer->out[j], .node = graph->node_count};
        value.base = graph->value_count;
        if (op->flags & KIN_OP_VIEW) {
            const kin_value *source = &graph->values[ids[0]];
            value.base = source->base;
            value.source = source->source;
            value.version = source->version;
            value.offset = source->offset + infer->view_offset[j];
        } else if ((op->flags & KIN_OP_UPDATE) && op->aliases[j]) {
            int32_t target = ids[op->aliases[j] - 1];
            kin_value *base = &graph->values[graph->values[target].base];
            if (base->source != KIN_SOURCE_VARIABLE) {
                kin_graph_fail(graph, KIN_INVALID,
                               "%s: input %d is not a variable, so it cannot be updated", op->name,
                               op->aliases[j] - 1);
                return false;
            }
            value.base = graph->values[target].base;
            value.source = KIN_SOURCE_VARIABLE;
            value.version = ++base->updates;
        }
        int32_t id = add_value(graph, &value);
        if (!id) return false;
        node.out[j] = id;
        out_tensors[j] = (kin_tensor){id};
    }
    graph->nodes[graph->node_count++] = node;
    return true;
}

void kin_append(kin_graph *graph, const kin_op *op, const void *attrs, const kin_tensor *inputs,
                int input_count, kin_tensor *out_tensors) {
    for (int j = 0; j < op->outputs; j++) out_tensors[j] = KIN_NONE;
    if (graph->status != KIN_OK || !check_inputs(graph, op, inputs, input_count)) return;
    kin_infer infer = {.graph = graph,
                       .op = op,
                       .attrs = attrs,
                       .in_count = input_count,
                       .out_count = op->outputs};
    size_t count = (size_t)input_count + 1;
    const kin_desc **descs = kin_alloc(graph->context, count * sizeof *descs);
    int32_t *ids = kin_alloc(graph->context, count * sizeof *ids);
    if (!descs || !ids) {
        kin_graph_fail(graph, KIN_OUT_OF_MEMORY, "no host memory for the graph");
    } else {
        for (int i = 0; i < input_count; i++) {
            ids[i] = inputs[i].id;
            descs[i] = ids[i] ? &graph->values[ids[i]].desc : NULL;
        }
        infer.in = descs;
        kin_status status = op->infer(&infer);
        if (status != KIN_OK) kin_graph_fail(graph, status, "%s: wrong operands", op->name);
        else if (infer.out_count < 1 || infer.out_count > KIN_MAX_OUTPUTS)
            kin_graph_fail(graph, KIN_INVALID, "%s: bad number of outputs", op->name);
        else if (graph->step && !(op->flags & KIN_OP_VIEW))
            kin_step_append(graph, &infer, inputs, out_tensors);
        else kin_graph_add_node(graph, &infer, ids, out_tensors);
    }
    kin_free(graph->context, descs);
    kin_free(graph->context, ids);
}

kin_tensor kin_append1(kin_graph *graph, const kin_op *op, const void *attrs,
                       const kin_tensor *inputs, int input_count) {
    kin_tensor out[KIN_MAX_OUTPUTS] = {{0}};
    kin_append(graph, op, attrs, inputs, input_count, out);
    return out[0];
}

void kin_want_gradient(kin_graph *graph, kin_tensor tensor) {
    if (tensor.id > 0 && tensor.id < graph->value_count)
        graph->values[tensor.id].wants_gradient = true;
}

void kin_freeze(kin_graph *graph, kin_tensor variable) {
    if (variable.id > 0 && variable.id < graph->value_count)
        graph->values[variable.id].frozen = true;
}

int kin_variable_count(const kin_graph *graph) {
    return graph->variable_count;
}

kin_tensor kin_variable_at(const kin_graph *graph, int index) {
    if (index < 0 || index >= graph->variable_count) return KIN_NONE;
    return (kin_tensor){graph->variables[index].value};
}

const char *kin_variable_name(const kin_graph *graph, kin_tensor variable) {
    const char *name = value_of(graph, variable)->name;
    return name ? name : "";
}

kin_variable_kind kin_variable_kind_of(const kin_graph *graph, kin_tensor variable) {
    return value_of(graph, variable)->kind;
}

kin_init kin_variable_init_of(const kin_graph *graph, kin_tensor variable) {
    return value_of(graph, variable)->init;
}
