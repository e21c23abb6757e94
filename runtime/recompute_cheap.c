/* Cheap recomputation: a training step keeps only what the backward pass cannot have cheaply from
 * what is kept anyway. A weight's cast, an activation function of a kept product, a normalization,
 * a gated sum are computed again right before their first backward reader.
 *
 * What to keep is a smallest cut (runtime/cut.h). Each value of the forward pass is an edge that
 * costs its bytes; values that only a product gives hang on the source, what backward nodes read
 * hangs on the sink, and the inputs of a cheap node lie before its outputs. Variables, inputs,
 * constants and whatever else stays anyway cost nothing. Bytes alone would derive a whole chain of
 * residual sums from its parts, and the chain would then live through the backward pass, so chains
 * are limited in length, and clones in the time that they live; what exceeds that is kept, and the
 * cut is found anew. */
#include "runtime/check.h"
#include "runtime/cut.h"
#include "runtime/inspect.h"
#include "runtime/rewrite_internal.h"

enum {
    CHEAP_BYTES = 4,    /* a cheap node moves at most so many times the bytes that it saves, */
    CHEAP_FLOPS = 32,   /* and does at most so many operations for each byte moved */
    TINY = 1 << 15,     /* smaller parts of the sum than this are not worth a launch */
    LONG_CHAIN = 16,    /* nodes computed again in a row, */
    CROSSING_CHAIN = 4, /* and where a value leaves its segment */
    LONG_LIFE = 64,     /* backward nodes from the first reader to the last, or a quarter of them */
    ROUNDS = 8
};

/* A value with memory of its own that a forward node makes. */
typedef struct forward_value {
    uint64_t bytes;
    bool candidate;      /* the rest counts for these */
    bool needed;         /* a backward node reads it */
    bool must_keep;      /* if it is needed at all: dear, tiny, or at the end of a long chain */
    bool crossing;       /* a forward node of another segment reads it */
    bool again;          /* the verdict: computed again */
    int32_t first, last; /* backward readers, clones included */
    int32_t chain;       /* nodes to compute again for it */
} forward_value;

typedef struct cheap {
    kin_rewriter rw;       /* first, so that a rewriter is a cheap */
    forward_value *values; /* by base */
    int32_t *clone;        /* source value -> target value, 0: none */
    int32_t first_backward, last_backward;
} cheap;

static forward_value *base_of(const cheap *c, int32_t value) {
    forward_value *base = &c->values[c->rw.source->values[value].base];
    return value && base->candidate ? base : NULL;
}

static bool is_view(const kin_node *node) {
    return (node->op->flags & KIN_OP_VIEW) != 0;
}

/* True if the node may be computed again: it is no product, moves little, and reads no variable
 * that is updated before the backward pass ends. */
static bool is_cheap(const cheap *c, const kin_node *node, const int32_t *updated) {
    const kin_graph *graph = c->rw.source;
    if (node->op->flags & (KIN_OP_PRODUCT | KIN_OP_UPDATE | KIN_OP_COLLECTIVE)) return false;
    for (int i = 0; i < node->in_count; i++) {
        int32_t at = updated[graph->values[node->in[i]].base];
        if (at && at <= c->last_backward) return false;
    }
    enum { MOST_INPUTS = 64 };
    kin_desc in[MOST_INPUTS], out[KIN_MAX_OUTPUTS];
    if (node->in_count > MOST_INPUTS) return false;
    double saved = 0;
    for (int i = 0; i < node->in_count; i++) in[i] = graph->values[node->in[i]].desc;
    for (int j = 0; j < node->out_count; j++) {
        out[j] = graph->values[node->out[j]].desc;
        saved += (double)kin_desc_bytes(&out[j]);
    }
    kin_cost cost = kin_op_cost(node->op, node->attrs, node->in_count, in, node->out_count, out);
    return cost.bytes <= CHEAP_BYTES * saved && cost.flops <= CHEAP_FLOPS * cost.bytes;
}

/* Notes of each forward value who reads it; marks what must be kept. `updated` has room for the
 * node that first updates each value, 0: none. */
static void survey(cheap *c, int32_t *updated) {
    const kin_graph *graph = c->rw.source;
    const bool *live = c->rw.live;
    uint64_t sum = 0;
    for (int32_t n = 0; n < graph->node_count; n++) {
        const kin_node *node = &graph->nodes[n];
        for (int j = 0; j < node->out_count; j++) {
            int32_t base = graph->values[node->out[j]].base;
            if ((node->op->flags & KIN_OP_UPDATE) && !updated[base]) updated[base] = n + 1;
            if (n >= c->first_backward || !live[n] || base != node->out[j]) continue;
            c->values[base] = (forward_value){.bytes = kin_desc_bytes(&graph->values[base].desc),
                                              .candidate = true};
        }
    }
    for (int32_t n = 0; n < graph->node_count; n++) {
        const kin_node *node = &graph->nodes[n];
        for (int i = 0; live[n] && !is_view(node) && i < node->in_count; i++) {
            forward_value *value = base_of(c, node->in[i]);
            if (!value) continue;
            int32_t producer = graph->values[graph->values[node->in[i]].base].node;
            if (node->backward) {
                if (!value->needed) sum += value->bytes;
                value->needed = true;
            } else if (n > c->first_backward) {
                value->candidate = false; /* kept for a later node anyway */
            } else if (graph->nodes[producer].segment != node->segment) {
                value->crossing = true;
            }
        }
    }
    for (int32_t i = 0; i < graph->output_count; i++) {
        forward_value *value = base_of(c, graph->outputs[i].value);
        if (value) value->candidate = false;
    }
    for (int32_t n = 0; n < c->first_backward; n++) {
        const kin_node *node = &graph->nodes[n];
        if (!live[n] || is_view(node)) continue;
        bool dear = !is_cheap(c, node, updated);
        for (int j = 0; j < node->out_count; j++) {
            forward_value *value = base_of(c, node->out[j]);
            if (value) value->must_keep = dear || value->bytes < sum / TINY;
        }
    }
}

/* Two nodes of the cut for each value: before and after the edge that costs its bytes. */
static int32_t before(int32_t base) {
    return 2 * base;
}
static int32_t after(int32_t base) {
    return 2 * base + 1;
}

static kin_status add_edges(const cheap *c, kin_cut *cut, int32_t source, int32_t sink) {
    const kin_graph *graph = c->rw.source;
    kin_status status = KIN_OK;
    for (int32_t n = 0; n < c->first_backward; n++) {
        const kin_node *node = &graph->nodes[n];
        if (!c->rw.live[n] || is_view(node)) continue;
        for (int j = 0; j < node->out_count && status == KIN_OK; j++) {
            const forward_value *value = base_of(c, node->out[j]);
            int32_t base = graph->values[node->out[j]].base;
            if (!value) continue;
            status = kin_cut_add(cut, before(base), after(base), value->bytes);
            if (status == KIN_OK && value->needed)
                status = kin_cut_add(cut, after(base), sink, KIN_CUT_NEVER);
            if (status == KIN_OK && value->must_keep)
                status = kin_cut_add(cut, source, before(base), KIN_CUT_NEVER);
            for (int i = 0; !value->must_keep && i < node->in_count && status == KIN_OK; i++)
                if (base_of(c, node->in[i]))
                    status = kin_cut_add(cut, after(graph->values[node->in[i]].base), before(base),
                                         KIN_CUT_NEVER);
        }
    }
    return status;
}

/* One verdict for all values. */
static kin_status choose(cheap *c) {
    const kin_graph *graph = c->rw.source;
    int32_t source = 2 * graph->value_count, sink = source + 1;
    bool *on_sink_side = kin_calloc(graph->context, (size_t)sink + 1, sizeof *on_sink_side);
    kin_cut *cut = NULL;
    kin_status status = kin_cut_create(graph->context, sink + 1, &cut);
    if (status == KIN_OK && !on_sink_side) status = KIN_OUT_OF_MEMORY;
    if (status == KIN_OK) status = add_edges(c, cut, source, sink);
    if (status == KIN_OK) {
        kin_cut_solve(cut, source, sink, on_sink_side);
        for (int32_t v = 1; v < graph->value_count; v++)
            c->values[v].again = c->values[v].candidate && on_sink_side[before(v)];
    }
    kin_cut_free(cut);
    kin_free(graph->context, on_sink_side);
    return status;
}

static void note_reader(forward_value *value, int32_t first, int32_t last) {
    if (value->first < 0 || first < value->first) value->first = first;
    if (last > value->last) value->last = last;
}

/* From the last node to the first: when the clones of each value would be made and last read. */
static void find_lives(cheap *c) {
    const kin_graph *graph = c->rw.source;
    for (int32_t v = 0; v < graph->value_count; v++) c->values[v].first = c->values[v].last = -1;
    for (int32_t n = graph->node_count - 1; n >= 0; n--) {
        const kin_node *node = &graph->nodes[n];
        if (!c->rw.live[n] || is_view(node)) continue;
        if (node->backward) {
            for (int i = 0; i < node->in_count; i++)
                if (base_of(c, node->in[i])) note_reader(base_of(c, node->in[i]), n, n);
            continue;
        }
        for (int j = 0; j < node->out_count; j++) {
            const forward_value *made = base_of(c, node->out[j]);
            if (!made || !made->again || made->first < 0) continue;
            for (int i = 0; i < node->in_count; i++)
                if (base_of(c, node->in[i]))
                    note_reader(base_of(c, node->in[i]), made->first, made->first);
        }
    }
}

/* Marks as to be kept what takes too long a chain or would live too long; true if there was any. */
static bool keep_more(cheap *c) {
    const kin_graph *graph = c->rw.source;
    int32_t life = (c->last_backward - c->first_backward) / 4;
    bool any = false;
    if (life < LONG_LIFE) life = LONG_LIFE;
    find_lives(c);
    for (int32_t n = 0; n < c->first_backward; n++) {
        const kin_node *node = &graph->nodes[n];
        int32_t longest = 0;
        if (!c->rw.live[n] || is_view(node)) continue;
        for (int i = 0; i < node->in_count; i++) {
            const forward_value *in = base_of(c, node->in[i]);
            if (in && in->again && in->chain > longest) longest = in->chain;
        }
        for (int j = 0; j < node->out_count; j++) {
            forward_value *value = base_of(c, node->out[j]);
            if (!value || !value->again) continue;
            value->chain = longest + 1;
            if (value->chain <= (value->crossing ? CROSSING_CHAIN : LONG_CHAIN) &&
                value->last - value->first <= life)
                continue;
            value->must_keep = any = true;
            value->again = false;
        }
    }
    return any;
}

/* The target's value for a source value that a backward node reads: what was kept, or a clone,
 * which is made now if there is none. Chains are short, so recursion is. */
static kin_tensor for_backward(cheap *c, int32_t id) {
    kin_rewriter *rw = &c->rw;
    const forward_value *base = id ? base_of(c, id) : NULL;
    if (!base || !base->again) return kin_rewriter_map(rw, id);
    if (c->clone[id]) return (kin_tensor){c->clone[id]};
    kin_node node = rw->source->nodes[rw->source->values[id].node];
    kin_tensor *in = kin_calloc(rw->source->context, (size_t)node.in_count + 1, sizeof *in);
    kin_tensor out[KIN_MAX_OUTPUTS] = {{0}};
    if (!in) return kin_graph_fail(rw->target, KIN_OUT_OF_MEMORY, "no host memory for the plan");
    for (int i = 0; i < node.in_count; i++) in[i] = for_backward(c, node.in[i]);
    node.backward = node.again = true;
    node.segment = -1;
    kin_rewriter_emit(rw, &node, in, out);
    for (int j = 0; j < node.out_count; j++) c->clone[node.out[j]] = out[j].id;
    kin_free(rw->source->context, in);
    return (kin_tensor){c->clone[id]};
}

static void visit(kin_rewriter *rw, int32_t index) {
    cheap *c = (cheap *)rw;
    kin_node node = rw->source->nodes[index];
    if (!node.backward) {
        kin_rewriter_keep(rw, index);
        return;
    }
    kin_tensor *in = kin_calloc(rw->source->context, (size_t)node.in_count + 1, sizeof *in);
    kin_tensor out[KIN_MAX_OUTPUTS] = {{0}};
    if (!in) {
        kin_graph_fail(rw->target, KIN_OUT_OF_MEMORY, "no host memory for the plan");
        return;
    }
    for (int i = 0; i < node.in_count; i++) in[i] = for_backward(c, node.in[i]);
    kin_rewriter_emit(rw, &node, in, out);
    for (int j = 0; j < node.out_count; j++)
        rw->map[node.out[j]] = c->clone[node.out[j]] = out[j].id; /* a view may be of a clone */
    kin_free(rw->source->context, in);
}

static void find_backward(cheap *c) {
    const kin_graph *graph = c->rw.source;
    c->first_backward = graph->node_count;
    c->last_backward = -1;
    for (int32_t n = graph->node_count - 1; n >= 0; n--) {
        if (!graph->nodes[n].backward) continue;
        c->first_backward = n;
        if (c->last_backward < 0) c->last_backward = n;
    }
}

/* The rewriter finds what is live only when it runs, and the choice wants to know before. */
static kin_status decide(cheap *c) {
    kin_graph *graph = c->rw.source;
    size_t count = (size_t)graph->value_count;
    int32_t *updated = kin_calloc(graph->context, count, sizeof *updated);
    c->rw.live = kin_calloc(graph->context, (size_t)graph->node_count + 1, sizeof *c->rw.live);
    kin_status status = updated && c->rw.live ? KIN_OK : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK) status = kin_graph_find_live(graph, c->rw.live);
    if (status == KIN_OK) {
        find_backward(c);
        survey(c, updated);
        status = choose(c);
        for (int round = 0; status == KIN_OK && keep_more(c) && round < ROUNDS; round++)
            status = choose(c);
    }
    kin_free(graph->context, updated);
    kin_free(graph->context, c->rw.live);
    c->rw.live = NULL;
    return status;
}

kin_status kin_graph_recompute_cheap(kin_graph *source, const kin_device *device,
                                     kin_rewrite_counts *counts, kin_graph **out_graph) {
    kin_context *context = source->context;
    cheap c = {.rw = {.source = source, .device = device, .counts = counts}};
    *out_graph = NULL;
    c.values = kin_calloc(context, (size_t)source->value_count, sizeof *c.values);
    c.clone = kin_calloc(context, (size_t)source->value_count, sizeof *c.clone);
    kin_status status = c.values && c.clone ? decide(&c) : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK) status = kin_rewriter_run(&c.rw, source, visit, out_graph);
    kin_free(context, c.values);
    kin_free(context, c.clone);
    return status;
}
