/* Rewriting a graph for a device: the rewriter, and the passes that lower nodes and add dense
 * copies. */
#include "runtime/inspect.h"
#include "runtime/rewrite_internal.h"

#include <stdio.h>
#include <string.h>

void kin_graph_operand(const kin_graph *graph, int32_t id, kin_operand *out_operand) {
    memset(out_operand, 0, sizeof *out_operand);
    if (!id) {
        out_operand->desc.rank = -1;
        return;
    }
    const kin_value *value = &graph->values[id];
    out_operand->desc = value->desc;
    out_operand->offset = (size_t)value->offset * kin_dtype_size(value->desc.dtype);
}

kin_tensor kin_rewriter_map(kin_rewriter *rw, int32_t id) {
    if (!id || rw->map[id]) return (kin_tensor){id ? rw->map[id] : 0};
    const kin_value *value = &rw->source->values[id];
    kin_graph *target = rw->target;
    kin_tensor made = KIN_NONE;
    kin_graph_set_path(target, "");
    switch (value->node >= 0 ? KIN_SOURCE_NODE : value->source) {
    case KIN_SOURCE_INPUT:
        made =
            kin_input(target, value->name, value->desc.dtype, value->desc.rank, value->desc.dims);
        break;
    case KIN_SOURCE_VARIABLE:
        made = kin_variable(target, value->name, value->kind, value->desc.dtype, value->desc.rank,
                            value->desc.dims, value->init);
        break;
    case KIN_SOURCE_CONSTANT:
        made = kin_constant(target, value->desc.dtype, value->desc.rank, value->desc.dims,
                            value->data);
        break;
    case KIN_SOURCE_NODE:
        return kin_graph_fail(target, KIN_INVALID, "a value is read before its node");
    }
    rw->map[id] = made.id;
    return made;
}

/* A text in the target's memory: the source may go before it. */
static const char *keep_text(kin_rewriter *rw, const char *text) {
    return text ? kin_graph_pool_string(rw->target, text) : NULL;
}

void kin_rewriter_emit(kin_rewriter *rw, const kin_node *node, const kin_tensor *in,
                       kin_tensor *out) {
    kin_graph_set_path(rw->target, node->path);
    rw->target->origin = node->origin;
    rw->target->why = keep_text(rw, node->why);
    rw->target->fused = keep_text(rw, node->fused);
    rw->target->is_copy = node->is_copy;
    rw->target->segment = node->segment;
    rw->target->in_backward = node->backward;
    rw->target->again = node->again;
    kin_append(rw->target, node->op, node->attrs, in, node->in_count, out);
}

void kin_rewriter_keep(kin_rewriter *rw, int32_t index) {
    const kin_node *node = &rw->source->nodes[index];
    kin_tensor *in = kin_calloc(rw->source->context, (size_t)node->in_count + 1, sizeof *in);
    kin_tensor out[KIN_MAX_OUTPUTS] = {{0}};
    if (!in) {
        kin_graph_fail(rw->target, KIN_OUT_OF_MEMORY, "no host memory for the plan");
        return;
    }
    for (int i = 0; i < node->in_count; i++) in[i] = kin_rewriter_map(rw, node->in[i]);
    kin_rewriter_emit(rw, node, in, out);
    for (int j = 0; j < node->out_count; j++) rw->map[node->out[j]] = out[j].id;
    kin_free(rw->source->context, in);
}

const kin_kernel *kin_rewriter_kernel(kin_rewriter *rw, const kin_node *node, const kin_tensor *in,
                                      const char **out_why) {
    kin_operand *operands =
        kin_calloc(rw->source->context, (size_t)node->in_count + KIN_MAX_OUTPUTS, sizeof *operands);
    if (!operands) {
        kin_graph_fail(rw->target, KIN_OUT_OF_MEMORY, "no host memory for the plan");
        return NULL;
    }
    kin_operand *outs = operands + node->in_count;
    for (int i = 0; i < node->in_count; i++) kin_graph_operand(rw->target, in[i].id, &operands[i]);
    for (int j = 0; j < node->out_count; j++) {
        const kin_desc *desc = &rw->source->values[node->out[j]].desc;
        outs[j].desc = kin_desc_dense(desc->dtype, desc->rank, desc->dims);
    }
    kin_call call = {.op = node->op->name,
                     .attrs = node->attrs,
                     .in_count = node->in_count,
                     .out_count = node->out_count,
                     .in = operands,
                     .out = outs};
    const kin_kernel *kernel = kin_device_kernel(rw->device, &call);
    if (!kernel) {
        /* `can` may have said no to the strides only: ask again as if all inputs were dense */
        for (int i = 0; i < node->in_count; i++)
            if (operands[i].desc.rank >= 0)
                operands[i].desc = kin_desc_dense(operands[i].desc.dtype, operands[i].desc.rank,
                                                  operands[i].desc.dims);
        kernel = kin_device_kernel(rw->device, &call);
    }
    if (!kernel && out_why) {
        char text[400];
        kin_device_refusal(rw->device, &call, operands, outs, text, sizeof text);
        *out_why = kin_graph_pool_string(rw->target, text);
    }
    kin_free(rw->source->context, operands);
    return kernel;
}

/* Lowers a node into the target. */
static void lower(kin_rewriter *rw, const kin_node *node, const char *why, const kin_tensor *in,
                  kin_tensor *out) {
    kin_graph *target = rw->target;
    kin_graph_set_path(target, node->path);
    target->origin = node->origin ? node->origin : node->op->name;
    target->why = keep_text(rw, node->origin ? node->why : why);
    target->fused = NULL;
    target->is_copy = false;
    target->segment = node->segment;
    target->in_backward = node->backward;
    target->again = node->again;
    kin_lower_call call = {target, node->op, node->attrs, node->in_count, in, node->out_count, out};
    node->op->lower(&call);
    rw->lowered++;
    rw->counts->lowered++;
}

/* Puts a dense copy of every input that the kernel cannot take as it lies. */
static void make_dense(kin_rewriter *rw, const kin_node *node, const kin_kernel *kernel,
                       kin_tensor *in) {
    const kin_op *copy = kin_op_with_role(KIN_OP_ROLE_COPY);
    bool accepts = true;
    if (kernel->can) {
        kin_operand operands[64];
        kin_operand outs[KIN_MAX_OUTPUTS];
        if (node->in_count <= 64) {
            for (int i = 0; i < node->in_count; i++)
                kin_graph_operand(rw->target, in[i].id, &operands[i]);
            for (int j = 0; j < node->out_count; j++) {
                memset(&outs[j], 0, sizeof outs[j]);
                const kin_desc *desc = &rw->source->values[node->out[j]].desc;
                outs[j].desc = kin_desc_dense(desc->dtype, desc->rank, desc->dims);
            }
            kin_call call = {.op = node->op->name,
                             .attrs = node->attrs,
                             .in_count = node->in_count,
                             .out_count = node->out_count,
                             .in = operands,
                             .out = outs};
            accepts = kernel->can(rw->device, &call);
        }
    }
    for (int i = 0; i < node->in_count; i++) {
        if (!in[i].id) continue;
        bool strided = i < 64 && (kernel->strided >> i & 1);
        if ((strided && accepts) || kin_desc_is_dense(kin_tensor_desc(rw->target, in[i]))) continue;
        char text[160];
        snprintf(text, sizeof text, "%s does not read input %d with these strides", kernel->name,
                 i);
        kin_graph_set_path(rw->target, node->path);
        rw->target->origin = node->op->name;
        rw->target->why = kin_graph_pool_string(rw->target, text);
        rw->target->fused = NULL;
        rw->target->is_copy = true;
        rw->target->segment = node->segment;
        rw->target->in_backward = node->backward;
        rw->target->again = node->again;
        in[i] = kin_append1(rw->target, copy, NULL, &in[i], 1);
        rw->counts->copies++;
    }
}

static void rewrite_node(kin_rewriter *rw, const kin_node *node) {
    kin_context *context = rw->source->context;
    kin_tensor *in = kin_calloc(context, (size_t)node->in_count + 1, sizeof *in);
    kin_tensor out[KIN_MAX_OUTPUTS] = {{0}};
    if (!in) {
        kin_graph_fail(rw->target, KIN_OUT_OF_MEMORY, "no host memory for the plan");
        return;
    }
    for (int i = 0; i < node->in_count; i++) in[i] = kin_rewriter_map(rw, node->in[i]);
    const kin_kernel *kernel = NULL;
    const char *why = NULL;
    bool is_view = (node->op->flags & KIN_OP_VIEW) != 0;
    /* kernels and lowerings may rely on inputs that are there */
    if (rw->target->status == KIN_OK && !is_view) kernel = kin_rewriter_kernel(rw, node, in, &why);
    if (rw->target->status == KIN_OK) {
        if (is_view) {
            kin_rewriter_emit(rw, node, in, out);
        } else if (kernel) {
            if (rw->add_copies) make_dense(rw, node, kernel, in);
            kin_rewriter_emit(rw, node, in, out);
        } else if (node->op->lower && !rw->add_copies) {
            lower(rw, node, why, in, out);
        } else if (rw->allow_reference && node->op->reference) {
            kin_node on_host = *node;
            on_host.why = why;
            kin_rewriter_emit(rw, &on_host, in, out);
        } else {
            kin_graph_set_path(rw->target, node->path);
            kin_graph_fail(rw->target, KIN_UNSUPPORTED,
                           "\"%s\" cannot run on %s: %s, and it cannot be lowered", node->op->name,
                           rw->device->info.name, why ? why : "no kernel");
        }
    }
    for (int j = 0; j < node->out_count; j++) rw->map[node->out[j]] = out[j].id;
    kin_free(context, in);
}

/* Carries over what is not in the nodes: marks of gradients, and the outputs. */
static void finish(kin_rewriter *rw) {
    kin_graph *source = rw->source, *target = rw->target;
    target->segment_count = source->segment_count;
    target->segment = -1;
    target->again = target->in_backward = false;
    target->origin = NULL;
    target->why = rw->add_copies ? "an output that is a view of another tensor" : NULL;
    target->fused = NULL;
    target->is_copy = rw->add_copies;
    kin_graph_set_path(target, "");
    for (int32_t i = 1; i < source->value_count; i++)
        if (rw->map[i] && source->values[i].is_gradient)
            target->values[target->values[rw->map[i]].base].is_gradient = true;
    for (int32_t i = 0; i < source->output_count; i++) {
        kin_tensor value = kin_rewriter_map(rw, source->outputs[i].value);
        if (rw->add_copies && !kin_desc_is_dense(kin_tensor_desc(target, value)))
            value = kin_append1(target, kin_op_with_role(KIN_OP_ROLE_COPY), NULL, &value, 1);
        kin_output(target, source->outputs[i].name, value);
    }
}

kin_status kin_rewriter_run(kin_rewriter *rw, kin_graph *source,
                            void (*visit)(kin_rewriter *rw, int32_t node), kin_graph **out_graph) {
    *out_graph = NULL;
    kin_context *context = source->context;
    kin_status status = kin_graph_create(context, &rw->target);
    if (status != KIN_OK) return status;
    rw->source = source;
    rw->map = kin_calloc(context, (size_t)source->value_count, sizeof *rw->map);
    rw->live = kin_calloc(context, (size_t)source->node_count + 1, sizeof *rw->live);
    if (!rw->map || !rw->live) {
        status = KIN_OUT_OF_MEMORY;
    } else {
        if (kin_graph_find_live(source, rw->live) != KIN_OK)
            kin_graph_fail(rw->target, KIN_OUT_OF_MEMORY, "no host memory for the plan");
        for (int32_t n = 0; n < source->node_count && rw->target->status == KIN_OK; n++)
            if (rw->live[n]) visit(rw, n);
        if (rw->target->status == KIN_OK) finish(rw);
        status = kin_graph_status(rw->target);
    }
    kin_free(context, rw->map);
    kin_free(context, rw->live);
    if (status == KIN_OK) *out_graph = rw->target;
    else kin_graph_destroy(rw->target);
    return status;
}

static void visit_for_device(kin_rewriter *rw, int32_t index) {
    kin_node node = rw->source->nodes[index];
    rewrite_node(rw, &node);
}

kin_status kin_graph_rewrite(kin_graph *graph, const kin_device *device,
                             const kin_rewrite_options *options, kin_graph **out_graph,
                             kin_rewrite_counts *out_counts) {
    enum { MAX_PASSES = 16 };
    kin_graph *current = graph;
    *out_counts = (kin_rewrite_counts){0};
    *out_graph = NULL;
    kin_status status = kin_graph_status(graph);
    if (status == KIN_OK && options->segments)
        status = kin_graph_recompute(graph, device, options->products, out_counts, &current);
    if (status == KIN_OK && options->cheap) {
        kin_graph *kept = current;
        status = kin_graph_recompute_cheap(kept, device, out_counts, &current);
        if (kept != graph) kin_graph_destroy(kept);
    }
    if (status == KIN_OK) {
        kin_graph *separate = current;
        status = kin_graph_fuse(separate, device, out_counts, &current);
        if (separate != graph && separate != current) kin_graph_destroy(separate);
    }
    for (int pass = 0; status == KIN_OK; pass++) {
        kin_rewriter rw = {
            .device = device, .allow_reference = options->allow_reference, .counts = out_counts};
        kin_graph *next = NULL;
        status = pass < MAX_PASSES
                     ? kin_rewriter_run(&rw, current, visit_for_device, &next)
                     : kin_fail(graph->context, KIN_INVALID,
                                "lowering does not end: some op is lowered to itself");
        if (current != graph) kin_graph_destroy(current);
        current = next;
        if (status == KIN_OK && rw.lowered == 0) break;
    }
    if (status == KIN_OK) {
        kin_rewriter rw = {.device = device,
                           .allow_reference = options->allow_reference,
                           .add_copies = true,
                           .counts = out_counts};
        status = kin_rewriter_run(&rw, current, visit_for_device, out_graph);
        kin_graph_destroy(current);
    }
    return status;
}
