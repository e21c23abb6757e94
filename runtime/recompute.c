/* Segments computed again in the backward pass, instead of keeping what they have inside. */
#include "runtime/check.h"
#include "runtime/inspect.h"
#include "runtime/rewrite_internal.h"

#include <stdlib.h>

/* A product inside a segment. */
typedef struct product {
    int32_t node, segment;
    double worth; /* operations for each byte that its result takes */
} product;

/* The first backward node that reads a value from inside a segment (other than what is kept) is
 * preceded by clones of the segment's nodes; from then on backward nodes read the clones. Clones
 * that nobody reads are dead code for the next pass. */
typedef struct recompute {
    kin_rewriter rw; /* first, so that a rewriter is a recompute */
    int32_t *clone;  /* source value -> clone in the target, 0: none */
    bool *kept;      /* source values read by forward nodes of other segments, and dear ones */
    bool *cloned;    /* segments done */
} recompute;

static bool inside(const recompute *re, int32_t value) {
    const kin_graph *source = re->rw.source;
    int32_t producer = source->values[value].node;
    if (producer < 0) return false;
    const kin_node *node = &source->nodes[producer];
    return !node->backward && node->segment >= 0 && !re->kept[value];
}

static void clone_segment(recompute *re, int32_t segment) {
    kin_rewriter *rw = &re->rw;
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
            in[i] = re->clone[id] ? (kin_tensor){re->clone[id]} : kin_rewriter_map(rw, id);
        }
        node.backward = node.again = true;
        node.segment = -1;
        kin_rewriter_emit(rw, &node, in, out);
        for (int j = 0; j < node.out_count; j++)
            if (!re->kept[node.out[j]]) re->clone[node.out[j]] = out[j].id;
        kin_free(rw->source->context, in);
    }
    re->cloned[segment] = true;
}

static void visit_recompute(kin_rewriter *rw, int32_t index) {
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
            in[i] = kin_rewriter_map(rw, id);
        }
    }
    kin_rewriter_emit(rw, &node, in, out);
    for (int j = 0; j < node.out_count; j++) rw->map[node.out[j]] = out[j].id;
    kin_free(rw->source->context, in);
}

/* The dearest first; of equal ones those of the last segment. */
static int compare_products(const void *a, const void *b) {
    const product *x = a, *y = b;
    if (x->worth != y->worth) return x->worth > y->worth ? -1 : 1;
    if (x->segment != y->segment) return x->segment > y->segment ? -1 : 1;
    return x->node < y->node ? -1 : x->node > y->node;
}

/* Lists the products inside segments; returns how many. */
static int list_products(const kin_graph *graph, const bool *live, product *out_list) {
    enum { MOST_INPUTS = 64 };
    int count = 0;
    for (int32_t n = 0; n < graph->node_count; n++) {
        const kin_node *node = &graph->nodes[n];
        if (!live[n] || node->backward || node->segment < 0 ||
            !(node->op->flags & KIN_OP_PRODUCT) || node->in_count > MOST_INPUTS)
            continue;
        kin_desc in[MOST_INPUTS], out[KIN_MAX_OUTPUTS];
        double bytes = 1;
        for (int i = 0; i < node->in_count; i++) in[i] = graph->values[node->in[i]].desc;
        for (int j = 0; j < node->out_count; j++) {
            out[j] = graph->values[node->out[j]].desc;
            bytes += (double)kin_desc_bytes(&out[j]);
        }
        kin_cost cost =
            kin_op_cost(node->op, node->attrs, node->in_count, in, node->out_count, out);
        out_list[count++] = (product){n, node->segment, cost.flops / bytes};
    }
    return count;
}

/* Marks what the `products` dearest products give as kept, and counts the segments with others. */
static kin_status keep_products(recompute *re, kin_graph *graph, int products,
                                kin_rewrite_counts *counts) {
    kin_context *context = graph->context;
    size_t nodes = (size_t)graph->node_count + 1;
    bool *live = kin_calloc(context, nodes, sizeof *live);
    bool *again = kin_calloc(context, (size_t)graph->segment_count + 1, sizeof *again);
    product *list = kin_alloc(context, nodes * sizeof *list);
    kin_status status =
        live && again && list ? kin_graph_find_live(graph, live) : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK) {
        counts->products = list_products(graph, live, list);
        qsort(list, (size_t)counts->products, sizeof *list, compare_products);
        for (int i = 0; i < counts->products; i++) {
            const kin_node *node = &graph->nodes[list[i].node];
            for (int j = 0; i < products && j < node->out_count; j++) re->kept[node->out[j]] = true;
            if (i < products || again[list[i].segment]) continue;
            again[list[i].segment] = true;
            counts->segments++;
        }
    }
    kin_free(context, live);
    kin_free(context, again);
    kin_free(context, list);
    return status;
}

kin_status kin_graph_recompute(kin_graph *source, const kin_device *device, int products,
                               kin_rewrite_counts *counts, kin_graph **out_graph) {
    kin_context *context = source->context;
    recompute re = {.rw = {.device = device, .counts = counts}};
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
        for (int32_t i = 0; i < source->output_count; i++) re.kept[source->outputs[i].value] = true;
        status = keep_products(&re, source, products, counts);
        if (status == KIN_OK) status = kin_rewriter_run(&re.rw, source, visit_recompute, out_graph);
    }
    kin_free(context, re.clone);
    kin_free(context, re.kept);
    kin_free(context, re.cloned);
    return status;
}
