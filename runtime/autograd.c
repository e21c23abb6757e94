/* Reverse-mode gradients as appended nodes. */
#include "runtime/graph_internal.h"

#include <string.h>

typedef struct backward_state {
    kin_graph *graph;
    int32_t value_count; /* before the first gradient node */
    bool *needs;         /* value depends on something whose gradient is wanted */
    bool *reaches;       /* the loss depends on the value */
    int32_t *gradient;   /* sum of the contributions so far */
} backward_state;

static bool is_wanted(const kin_value *value) {
    if (value->node >= 0 || !kin_dtype_is_float(value->desc.dtype)) return false;
    if (value->source == KIN_SOURCE_VARIABLE)
        return (value->kind == KIN_VARIABLE_WEIGHT && !value->frozen) || value->wants_gradient;
    return value->source == KIN_SOURCE_INPUT && value->wants_gradient;
}

/* Forward over the nodes: which values need gradients; backward: which the loss depends on. */
static void mark(backward_state *state, int32_t loss) {
    kin_graph *graph = state->graph;
    for (int32_t i = 1; i < state->value_count; i++)
        state->needs[i] = is_wanted(&graph->values[i]);
    for (int32_t n = 0; n < graph->node_count; n++) {
        const kin_node *node = &graph->nodes[n];
        if (!node->op->gradient || (node->op->flags & KIN_OP_UPDATE)) continue;
        bool any = false;
        for (int i = 0; i < node->in_count; i++) any = any || state->needs[node->in[i]];
        for (int j = 0; any && j < node->out_count; j++)
            state->needs[node->out[j]] =
                kin_dtype_is_float(graph->values[node->out[j]].desc.dtype);
    }
    state->reaches[loss] = true;
    for (int32_t n = graph->node_count - 1; n >= 0; n--) {
        const kin_node *node = &graph->nodes[n];
        bool any = false;
        for (int j = 0; j < node->out_count; j++) any = any || state->reaches[node->out[j]];
        for (int i = 0; any && i < node->in_count; i++) state->reaches[node->in[i]] = true;
    }
}

static void contribute(backward_state *state, int32_t value, kin_tensor part) {
    kin_graph *graph = state->graph;
    const kin_desc *want = &graph->values[value].desc, *got = kin_tensor_desc(graph, part);
    if (!kin_desc_same_shape(want, got) || want->dtype != got->dtype) {
        char a[128], b[128];
        kin_graph_fail(graph, KIN_INVALID, "a gradient has shape %s %s, its tensor %s %s",
                       kin_desc_shape_text(got, a, sizeof a), kin_dtype_name(got->dtype),
                       kin_desc_shape_text(want, b, sizeof b), kin_dtype_name(want->dtype));
        return;
    }
    if (!state->gradient[value]) {
        state->gradient[value] = part.id;
        return;
    }
    kin_tensor both[2] = {{state->gradient[value]}, part};
    state->gradient[value] =
        kin_append1(graph, kin_op_with_role(KIN_OP_ROLE_ADD), NULL, both, 2).id;
}

/* Appends the gradient nodes of one forward node. */
static void differentiate(backward_state *state, int32_t index) {
    kin_graph *graph = state->graph;
    kin_node node = graph->nodes[index]; /* appending moves the array */
    if (!node.op->gradient || (node.op->flags & KIN_OP_UPDATE)) return;
    bool flows = false, needed = false;
    for (int j = 0; j < node.out_count; j++) flows = flows || state->gradient[node.out[j]];
    for (int i = 0; i < node.in_count; i++) needed = needed || state->needs[node.in[i]];
    if (!flows || !needed) return;

    size_t count = (size_t)node.in_count;
    kin_tensor *in = kin_calloc(graph->context, 2 * count, sizeof *in);
    bool *wanted = kin_calloc(graph->context, count, sizeof *wanted);
    if (!in || !wanted) {
        kin_graph_fail(graph, KIN_OUT_OF_MEMORY, "no host memory for the gradients");
    } else {
        kin_tensor *in_grad = in + count;
        kin_tensor out[KIN_MAX_OUTPUTS] = {{0}}, out_grad[KIN_MAX_OUTPUTS] = {{0}};
        for (int i = 0; i < node.in_count; i++) {
            in[i].id = node.in[i];
            wanted[i] = node.in[i] && state->needs[node.in[i]];
        }
        for (int j = 0; j < node.out_count; j++) {
            out[j].id = node.out[j];
            out_grad[j].id = state->gradient[node.out[j]];
        }
        kin_gradient_call call = {graph,  node.op,        node.attrs, node.in_count, in,
                                  wanted, node.out_count, out,        out_grad,      in_grad};
        kin_graph_set_path(graph, node.path);
        node.op->gradient(&call);
        for (int i = 0; i < node.in_count; i++)
            if (wanted[i] && in_grad[i].id) contribute(state, node.in[i], in_grad[i]);
    }
    kin_free(graph->context, in);
    kin_free(graph->context, wanted);
}

static void backward(backward_state *state, kin_tensor loss) {
    kin_graph *graph = state->graph;
    mark(state, loss.id);
    if (!state->needs[loss.id]) {
        kin_graph_fail(graph, KIN_INVALID, "the loss depends on nothing that can be trained");
        return;
    }
    int32_t last = graph->node_count;
    char path[sizeof graph->path];
    memcpy(path, graph->path, sizeof path);
    graph->in_backward = true;
    kin_desc scalar = kin_desc_dense(KIN_F32, 0, NULL);
    state->gradient[loss.id] =
        kin_append1(graph, kin_op_with_role(KIN_OP_ROLE_ONE), &scalar, NULL, 0).id;
    for (int32_t n = last - 1; n >= 0 && graph->status == KIN_OK; n--) {
        bool reached = false;
        for (int j = 0; j < graph->nodes[n].out_count; j++)
            reached = reached || state->reaches[graph->nodes[n].out[j]];
        if (reached) differentiate(state, n);
    }
    graph->in_backward = false;
    kin_graph_set_path(graph, path);
    for (int32_t i = 1; i < state->value_count; i++) {
        kin_value *value = &graph->values[i];
        value->gradient = state->gradient[i];
        if (value->gradient && is_wanted(value) && value->source == KIN_SOURCE_VARIABLE)
            graph->values[graph->values[value->gradient].base].is_gradient = true;
    }
}

void kin_backward(kin_graph *graph, kin_tensor loss) {
    if (graph->status != KIN_OK) return;
    const kin_desc *desc = kin_tensor_desc(graph, loss);
    if (loss.id <= 0 || desc->rank != 0 || desc->dtype != KIN_F32) {
        kin_graph_fail(graph, KIN_INVALID, "the loss must be a scalar f32");
        return;
    }
    if (graph->has_backward) {
        kin_graph_fail(graph, KIN_INVALID, "kin_backward was called before on this graph");
        return;
    }
    if (!kin_op_with_role(KIN_OP_ROLE_ADD) || !kin_op_with_role(KIN_OP_ROLE_ONE)) {
        kin_graph_fail(graph, KIN_UNSUPPORTED, "the list of ops has no sum or no ones");
        return;
    }
    graph->has_backward = true;
    size_t count = (size_t)graph->value_count;
    backward_state state = {.graph = graph, .value_count = graph->value_count};
    state.needs = kin_calloc(graph->context, count, sizeof *state.needs);
    state.reaches = kin_calloc(graph->context, count, sizeof *state.reaches);
    state.gradient = kin_calloc(graph->context, count, sizeof *state.gradient);
    if (state.needs && state.reaches && state.gradient) backward(&state, loss);
    else kin_graph_fail(graph, KIN_OUT_OF_MEMORY, "no host memory for the gradients");
    kin_free(graph->context, state.needs);
    kin_free(graph->context, state.reaches);
    kin_free(graph->context, state.gradient);
}

kin_tensor kin_gradient(kin_graph *graph, kin_tensor tensor) {
    if (tensor.id <= 0 || tensor.id >= graph->value_count) return KIN_NONE;
    return (kin_tensor){graph->values[tensor.id].gradient};
}
