/* Rewriting a graph for a device: dead code, recomputation, lowering, dense copies. Each pass makes
 * a fresh graph, so that rules about appended nodes hold for what a pass appends, too. */
#include "runtime/backend.h"
#include "runtime/device.h"
#include "runtime/graph_internal.h"
#include "runtime/inspect.h"

#include <stdio.h>
#include <string.h>

typedef struct rewriter {
    kin_graph *source, *target;
    const kin_device *device;
    bool allow_reference;
    int32_t *map;   /* source value -> target value, 0: not made */
    bool *live;     /* source nodes that are wanted */
    int lowered;    /* nodes lowered in this pass */
    bool add_copies;
    kin_rewrite_counts *counts;
} rewriter;

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

/* A source value in the target graph, made now if it is an input, a variable or a constant. */
static kin_tensor map_source(rewriter *rw, int32_t id) {
    if (!id || rw->map[id]) return (kin_tensor){id ? rw->map[id] : 0};
    const kin_value *value = &rw->source->values[id];
    kin_graph *target = rw->target;
    kin_tensor made = KIN_NONE;
    kin_graph_set_path(target, "");
    switch (value->node >= 0 ? KIN_SOURCE_NODE : value->source) {
    case KIN_SOURCE_INPUT:
        made = kin_input(target, value->name, value->desc.dtype, value->desc.rank,
                         value->desc.dims);
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
static const char *keep_text(rewriter *rw, const char *text) {
    return text ? kin_graph_pool_string(rw->target, text) : NULL;
}

/* Appends `node` to the target as it is, with mapped inputs. */
static void emit(rewriter *rw, const kin_node *node, const kin_tensor *in, kin_tensor *out) {
    kin_graph_set_path(rw->target, node->path);
    rw->target->origin = node->origin;
    rw->target->why = keep_text(rw, node->why);
    rw->target->is_copy = node->is_copy;
    rw->target->segment = node->segment;
    rw->target->in_backward = node->backward;
    kin_append(rw->target, node->op, node->attrs, in, node->in_count, out);
}

/* The kernel for a node whose inputs are `in` in the target; needs the output descriptions. Without
 * one, *out_why says why, in the target's memory. */
static const kin_kernel *kernel_for(rewriter *rw, const kin_node *node, const kin_tensor *in,
                                    const char **out_why) {
    kin_operand *operands =
        kin_calloc(rw->source->context, (size_t)node->in_count + KIN_MAX_OUTPUTS, sizeof *operands);
    if (!operands) {
        kin_graph_fail(rw->target, KIN_OUT_OF_MEMORY, "no host memory for the plan");
        return NULL;
    }
    kin_operand *outs = operands + node->in_count;
    for (int i = 0; i < node->in_count; i++)
        kin_graph_operand(rw->target, in[i].id, &operands[i]);
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
    if (!kernel) {
        char text[400];
        kin_device_refusal(rw->device, &call, operands, outs, text, sizeof text);
        *out_why = kin_graph_pool_string(rw->target, text);
    }
    kin_free(rw->source->context, operands);
    return kernel;
}

/* Lowers a node into the target. */
static void lower(rewriter *rw, const kin_node *node, const char *why, const kin_tensor *in,
                  kin_tensor *out) {
    kin_graph *target = rw->target;
    kin_graph_set_path(target, node->path);
    target->origin = node->origin ? node->origin : node->op->name;
    target->why = keep_text(rw, node->origin ? node->why : why);
    target->is_copy = false;
    target->segment = node->segment;
    target->in_backward = node->backward;
    kin_lower_call call = {target,          node->op, node->attrs, node->in_count, in,
                           node->out_count, out};
    node->op->lower(&call);
    rw->lowered++;
    rw->counts->lowered++;
}

/* Puts a dense copy of every input that the kernel cannot take as it lies. */
static void make_dense(rewriter *rw, const kin_node *node, const kin_kernel *kernel,
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
        if ((strided && accepts) || kin_desc_is_dense(kin_tensor_desc(rw->target, in[i])))
            continue;
        char text[160];
        snprintf(text, sizeof text, "%s does not read input %d with these strides", kernel->name,
                 i);
        kin_graph_set_path(rw->target, node->path);
        rw->target->origin = node->op->name;
        rw->target->why = kin_graph_pool_string(rw->target, text);
        rw->target->is_copy = true;
        rw->target->segment = node->segment;
        rw->target->in_backward = node->backward;
        in[i] = kin_append1(rw->target, copy, NULL, &in[i], 1);
        rw->counts->copies++;
    }
}

static void rewrite_node(rewriter *rw, const kin_node *node) {
    kin_context *context = rw->source->context;
    kin_tensor *in = kin_calloc(context, (size_t)node->in_count + 1, sizeof *in);
    kin_tensor out[KIN_MAX_OUTPUTS] = {{0}};
    if (!in) {
        kin_graph_fail(rw->target, KIN_OUT_OF_MEMORY, "no host memory for the plan");
        return;
    }
    for (int i = 0; i < node->in_count; i++) in[i] = map_source(rw, node->in[i]);
    const kin_kernel *kernel = NULL;
    const char *why = NULL;
    bool is_view = (node->op->flags & KIN_OP_VIEW) != 0;
    /* kernels and lowerings may rely on inputs that are there */
    if (rw->target->status == KIN_OK && !is_view) kernel = kernel_for(rw, node, in, &why);
    if (rw->target->status == KIN_OK) {
        if (is_view) {
            emit(rw, node, in, out);
        } else if (kernel) {
            if (rw->add_copies) make_dense(rw, node, kernel, in);
            emit(rw, node, in, out);
        } else if (node->op->lower && !rw->add_copies) {
            lower(rw, node, why, in, out);
        } else if (rw->allow_reference && node->op->reference) {
            kin_node on_host = *node;
            on_host.why = why;
            emit(rw, &on_host, in, out);
        } else {
            kin_graph_set_path(rw->target, node->path);
            kin_graph_fail(rw->target, KIN_UNSUPPORTED,
                           "\"%s\" cannot run on %s: %s, and it cannot be lowered",
                           node->op->name, rw->device->info.name, why ? why : "no kernel");
        }
    }
    for (int j = 0; j < node->out_count; j++) rw->map[node->out[j]] = out[j].id;
    kin_free(context, in);
}

/* Carries over what is not in the nodes: marks of gradients, and the outputs. */
static void finish(rewriter *rw) {
    kin_graph *source = rw->source, *target = rw->target;
    target->segment_count = source->segment_count;
    target->segment = -1;
    target->origin = NULL;
    target->why = rw->add_copies ? "an output that is a view of another tensor" : NULL;
    target->is_copy = rw->add_copies;
    kin_graph_set_path(target, "");
    for (int32_t i = 1; i < source->value_count; i++)
        if (rw->map[i] && source->values[i].is_gradient)
            target->values[target->values[rw->map[i]].base].is_gradient = true;
    for (int32_t i = 0; i < source->output_count; i++) {
        kin_tensor value = map_source(rw, source->outputs[i].value);
        if (rw->add_copies && !kin_desc_is_dense(kin_tensor_desc(target, value)))
            value = kin_append1(target, kin_op_with_role(KIN_OP_ROLE_COPY), NULL, &value, 1);
        kin_output(target, source->outputs[i].name, value);
    }
}

/* One pass over all nodes; `visit` is called for each live one in order. */
static kin_status run_pass(rewriter *rw, kin_graph *source,
                           void (*visit)(rewriter *, int32_t index), kin_graph **out_graph) {
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

static void visit_for_device(rewriter *rw, int32_t index) {
    kin_node node = rw->source->nodes[index];
    rewrite_node(rw, &node);
}

/* Recomputation. The first backward node that reads a value from inside segment s (other than what
 * later forward nodes read, which is kept anyway) is preceded by clones of the segment's nodes; from
 * then on backward nodes read the clones. */
typedef struct recompute {
    rewriter rw;       /* first, so that a rewriter is a recompute */
    int recomputed;    /* segments 0 .. recomputed-1 */
    int32_t *clone;    /* source value -> clone in the target, 0: none */
    bool *kept;        /* source values read by forward nodes of other segments */
    bool *cloned;      /* segments done */
} recompute;

static bool inside(const recompute *re, int32_t value) {
    const kin_graph *source = re->rw.source;
    int32_t producer = source->values[value].node;
    if (producer < 0) return false;
    const kin_node *node = &source->nodes[producer];
    return !node->backward && node->segment >= 0 && node->segment < re->recomputed &&
           !re->kept[value];
}

static void clone_segment(recompute *re, int32_t segment) {
    rewriter *rw = &re->rw;
    for (int32_t n = 0; n < rw->source->node_count; n++) {
        kin_node node = rw->source->nodes[n];
        if (node.segment != segment || node.backward || !rw->live[n]) continue;
        kin_tensor *in = kin_calloc(rw->source->context, (size_t)node.in_count + 1, sizeof *in);
        kin_tensor out[KIN_MAX_OUTPUTS] = {{0}};
        if (!in) {
            kin_graph_fail(rw->target, KIN_OUT_OF_MEMORY, "no host memory for the plan");
            return;
        }
        for (int i = 0; i < node.in_count; i++) {
            int32_t id = node.in[i];
            in[i] = re->clone[id] ? (kin_tensor){re->clone[id]} : map_source(rw, id);
        }
        node.backward = true;
        node.segment = -1;
        emit(rw, &node, in, out);
        for (int j = 0; j < node.out_count; j++)
            if (!re->kept[node.out[j]]) re->clone[node.out[j]] = out[j].id;
        kin_free(rw->source->context, in);
    }
    re->cloned[segment] = true;
}

static void visit_recompute(rewriter *rw, int32_t index) {
    recompute *re = (recompute *)rw;
    kin_node node = rw->source->nodes[index];
    kin_tensor *in = kin_calloc(rw->source->context, (size_t)node.in_count + 1, sizeof *in);
    kin_tensor out[KIN_MAX_OUTPUTS] = {{0}};
    if (!in) {
        kin_graph_fail(rw->target, KIN_OUT_OF_MEMORY, "no host memory for the plan");
        return;
    }
    for (int i = 0; i < node.in_count; i++) {
        int32_t id = node.in[i];
        if (node.backward && id && inside(re, id)) {
            int32_t segment = rw->source->nodes[rw->source->values[id].node].segment;
            if (!re->cloned[segment]) clone_segment(re, segment);
            in[i].id = re->clone[id];
        } else {
            in[i] = map_source(rw, id);
        }
    }
    emit(rw, &node, in, out);
    for (int j = 0; j < node.out_count; j++) rw->map[node.out[j]] = out[j].id;
    kin_free(rw->source->context, in);
}

static kin_status recompute_pass(kin_graph *source, const kin_device *device, int recomputed,
                                 kin_rewrite_counts *counts, kin_graph **out_graph) {
    kin_context *context = source->context;
    recompute re = {.rw = {.device = device, .counts = counts}, .recomputed = recomputed};
    re.clone = kin_calloc(context, (size_t)source->value_count, sizeof *re.clone);
    re.kept = kin_calloc(context, (size_t)source->value_count, sizeof *re.kept);
    re.cloned = kin_calloc(context, (size_t)source->segment_count + 1, sizeof *re.cloned);
    kin_status status = KIN_OUT_OF_MEMORY;
    *out_graph = NULL;
    if (re.clone && re.kept && re.cloned) {
        for (int32_t n = 0; n < source->node_count; n++) {
            const kin_node *node = &source->nodes[n];
            for (int i = 0; !node->backward && i < node->in_count; i++) {
                int32_t producer = source->values[node->in[i]].node;
                if (producer >= 0 && source->nodes[producer].segment != node->segment)
                    re.kept[node->in[i]] = true;
            }
        }
        for (int32_t i = 0; i < source->output_count; i++)
            re.kept[source->outputs[i].value] = true;
        status = run_pass(&re.rw, source, visit_recompute, out_graph);
    }
    kin_free(context, re.clone);
    kin_free(context, re.kept);
    kin_free(context, re.cloned);
    return status;
}

kin_status kin_graph_rewrite(kin_graph *graph, const kin_device *device, int recomputed,
                             bool allow_reference, kin_graph **out_graph,
                             kin_rewrite_counts *out_counts) {
    enum { MAX_PASSES = 16 };
    kin_graph *current = graph;
    *out_counts = (kin_rewrite_counts){0};
    *out_graph = NULL;
    kin_status status = kin_graph_status(graph);
    if (status == KIN_OK && recomputed > 0)
        status = recompute_pass(graph, device, recomputed, out_counts, &current);
    for (int pass = 0; status == KIN_OK; pass++) {
        rewriter rw = {.device = device,
                       .allow_reference = allow_reference,
                       .counts = out_counts};
        kin_graph *next = NULL;
        status = pass < MAX_PASSES
                     ? run_pass(&rw, current, visit_for_device, &next)
                     : kin_fail(graph->context, KIN_INVALID,
                                "lowering does not end: some op is lowered to itself");
        if (current != graph) kin_graph_destroy(current);
        current = next;
        if (status == KIN_OK && rw.lowered == 0) break;
    }
    if (status == KIN_OK) {
        rewriter rw = {.device = device,
                       .allow_reference = allow_reference,
                       .add_copies = true,
                       .counts = out_counts};
        status = run_pass(&rw, current, visit_for_device, out_graph);
        kin_graph_destroy(current);
    }
    return status;
}
