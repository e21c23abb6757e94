/* Looking at a graph from outside. */
#include "runtime/inspect.h"

#include "runtime/graph_internal.h"

int kin_graph_node_count(const kin_graph *graph) {
    return graph->node_count;
}

kin_node_info kin_graph_node_at(const kin_graph *graph, int index) {
    const kin_node *node = &graph->nodes[index];
    kin_node_info info = {.op = node->op,
                          .attrs = node->attrs,
                          .in_count = node->in_count,
                          .out_count = node->out_count,
                          .in = (const kin_tensor *)(const void *)node->in,
                          .path = node->path,
                          .backward = node->backward};
    for (int j = 0; j < node->out_count; j++) info.out[j].id = node->out[j];
    return info;
}

kin_value_info kin_graph_value_at(const kin_graph *graph, kin_tensor tensor) {
    static const kin_value_kind kinds[] = {[KIN_SOURCE_NODE] = KIN_VALUE_NODE,
                                           [KIN_SOURCE_INPUT] = KIN_VALUE_INPUT,
                                           [KIN_SOURCE_VARIABLE] = KIN_VALUE_VARIABLE,
                                           [KIN_SOURCE_CONSTANT] = KIN_VALUE_CONSTANT};
    const kin_value *value = &graph->values[tensor.id], *base = &graph->values[value->base];
    return (kin_value_info){.kind = base->node >= 0 ? KIN_VALUE_NODE : kinds[base->source],
                            .desc = value->desc,
                            .base = {value->base},
                            .offset = value->offset,
                            .version = value->version,
                            .name = base->name,
                            .data = base->data};
}

kin_status kin_graph_find_live(const kin_graph *graph, bool *live) {
    bool *wanted = kin_calloc(graph->context, (size_t)graph->value_count, sizeof *wanted);
    if (!wanted) return KIN_OUT_OF_MEMORY;
    for (int32_t i = 0; i < graph->output_count; i++) wanted[graph->outputs[i].value] = true;
    for (int32_t n = graph->node_count - 1; n >= 0; n--) {
        const kin_node *node = &graph->nodes[n];
        live[n] = (node->op->flags & KIN_OP_UPDATE) != 0;
        for (int j = 0; j < node->out_count; j++) live[n] = live[n] || wanted[node->out[j]];
        for (int i = 0; live[n] && i < node->in_count; i++) wanted[node->in[i]] = true;
    }
    kin_free(graph->context, wanted);
    return KIN_OK;
}

static const char *named_at(const kin_named *list, int32_t count, int index, kin_tensor *out) {
    if (index < 0 || index >= count) return NULL;
    out->id = list[index].value;
    return list[index].name;
}

const char *kin_graph_output_at(const kin_graph *graph, int index, kin_tensor *out_tensor) {
    return named_at(graph->outputs, graph->output_count, index, out_tensor);
}

const char *kin_graph_input_at(const kin_graph *graph, int index, kin_tensor *out_tensor) {
    return named_at(graph->inputs, graph->input_count, index, out_tensor);
}
