/* Fusing: a node and the only reader of its result become one node, where the op says what that is
 * (kin_op.absorb) and the device has a kernel for it as its operands lie. Each pass over the graph
 * takes pairs that do not touch; passes follow until nothing changes, so that a product takes on an
 * activation, a sum and a cast one after the other.
 *
 * The one node stands where the producer stood if all its inputs are there by then; else where the
 * reader stood, if no work lies between the two. So no lifetime grows by more than a step. */
#include "runtime/inspect.h"
#include "runtime/rewrite_internal.h"

#include <stdio.h>
#include <string.h>

enum { MOST_VIEWS = 4 }; /* between a producer and its reader */

typedef enum fate { STAYS, FUSES, GOES } fate;

/* Two nodes that become one. */
typedef struct fusion {
    int32_t producer, reader, place; /* nodes */
    int32_t views[MOST_VIEWS];       /* from the producer's output to what the reader reads */
    int view_count;
    const kin_op *op;
    uint64_t attrs[KIN_MAX_ABSORBED_WORDS];
    int in_count;
    int32_t in[KIN_MAX_ABSORBED_INPUTS]; /* source values, 0: absent */
    kin_desc out;
} fusion;

typedef struct fuser {
    kin_rewriter rw; /* first, so that a rewriter is a fuser */
    bool *live;
    int32_t *readers; /* per value: how often it is read */
    int32_t *reader;  /* per value: the last node that reads it */
    int32_t *work;    /* per node: nodes before it that are no views */
    unsigned char *fates;
    fusion *fusions;
    int32_t *which; /* per node that FUSES: its fusion */
    int32_t count;
} fuser;

static bool allocate(fuser *f, const kin_graph *source) {
    kin_context *context = source->context;
    size_t values = (size_t)source->value_count, nodes = (size_t)source->node_count + 1;
    f->live = kin_calloc(context, nodes, sizeof *f->live);
    f->readers = kin_calloc(context, values, sizeof *f->readers);
    f->reader = kin_calloc(context, values, sizeof *f->reader);
    f->work = kin_calloc(context, nodes, sizeof *f->work);
    f->fates = kin_calloc(context, nodes, sizeof *f->fates);
    f->which = kin_calloc(context, nodes, sizeof *f->which);
    f->fusions = kin_calloc(context, nodes, sizeof *f->fusions);
    return f->live && f->readers && f->reader && f->work && f->fates && f->which && f->fusions;
}

static void release(fuser *f, kin_context *context) {
    kin_free(context, f->live);
    kin_free(context, f->readers);
    kin_free(context, f->reader);
    kin_free(context, f->work);
    kin_free(context, f->fates);
    kin_free(context, f->which);
    kin_free(context, f->fusions);
}

/* ---- looking ---- */

static kin_status count_readers(fuser *f, const kin_graph *source) {
    kin_status status = kin_graph_find_live(source, f->live);
    if (status != KIN_OK) return status;
    int32_t work = 0;
    for (int32_t n = 0; n < source->node_count; n++) {
        const kin_node *node = &source->nodes[n];
        f->work[n] = work;
        if (!f->live[n]) continue;
        if (!(node->op->flags & KIN_OP_VIEW)) work++;
        for (int i = 0; i < node->in_count; i++) {
            f->readers[node->in[i]]++;
            f->reader[node->in[i]] = n;
        }
    }
    /* An output is read by the caller, too. */
    for (int32_t i = 0; i < source->output_count; i++) f->readers[source->outputs[i].value] += 2;
    return KIN_OK;
}

/* The node that alone reads what `producer` makes, by way of views that keep the order of elements.
 */
static bool find_reader(const fuser *f, const kin_graph *source, int32_t producer, fusion *out) {
    const kin_node *node = &source->nodes[producer];
    int32_t value = node->out[0];
    for (;;) {
        if (f->readers[value] != 1) return false;
        const int32_t next = f->reader[value];
        const kin_node *reader = &source->nodes[next];
        if (f->fates[next] != STAYS || reader->out_count != 1 || reader->segment != node->segment ||
            reader->backward != node->backward || reader->again != node->again)
            return false;
        if (!(reader->op->flags & KIN_OP_VIEW)) {
            out->producer = producer;
            out->reader = next;
            return true;
        }
        value = reader->out[0];
        const kin_value *view = &source->values[value];
        if (out->view_count == MOST_VIEWS || view->base != node->out[0] || view->offset != 0 ||
            !kin_desc_is_dense(&view->desc) ||
            kin_desc_count(&view->desc) != kin_desc_count(&source->values[view->base].desc))
            return false;
        out->views[out->view_count++] = next;
    }
}

/* Fills in what absorb is told. descs: room for the inputs of both. */
static bool ask_op(const kin_graph *source, fusion *out, kin_desc *descs) {
    const kin_node *node = &source->nodes[out->producer], *reader = &source->nodes[out->reader];
    const int32_t read =
        out->view_count > 0 ? source->nodes[out->views[out->view_count - 1]].out[0] : node->out[0];
    kin_absorb_call call = {.op = node->op,
                            .attrs = node->attrs,
                            .in_count = node->in_count,
                            .in = descs,
                            .out = source->values[node->out[0]].desc,
                            .reader = reader->op,
                            .reader_attrs = reader->attrs,
                            .reader_in_count = reader->in_count,
                            .reader_in = descs + node->in_count,
                            .reader_out = source->values[reader->out[0]].desc};
    for (int k = 0; k < node->in_count + reader->in_count; k++) {
        const int32_t id = k < node->in_count ? node->in[k] : reader->in[k - node->in_count];
        if (id) descs[k] = source->values[id].desc;
        else descs[k].rank = -1;
        if (k >= node->in_count && id == read) call.reader_operand = k - node->in_count;
    }
    call.out_result = call.out;
    call.out_result.dtype = call.reader_out.dtype;
    if (!node->op->absorb(&call) || call.out_in_count > KIN_MAX_ABSORBED_INPUTS ||
        call.out_op->attrs_size > sizeof call.out_attrs)
        return false;
    out->op = call.out_op;
    memcpy(out->attrs, call.out_attrs, sizeof out->attrs);
    out->in_count = call.out_in_count;
    out->out = call.out_result;
    for (int i = 0; i < call.out_in_count; i++) {
        const int from = call.out_in[i];
        out->in[i] = from < 0                ? 0
                     : from < node->in_count ? node->in[from]
                                             : reader->in[from - node->in_count];
    }
    return true;
}

/* Where the one node can stand. */
static bool find_place(const fuser *f, const kin_graph *source, fusion *out) {
    const int32_t first = out->producer, last = out->reader;
    bool early = true;
    for (int i = 0; i < out->in_count; i++)
        if (out->in[i] && source->values[out->in[i]].node > first) early = false;
    out->place = early ? first : last;
    return early || f->work[last] == f->work[first] + 1;
}

/* True if the device has a kernel that reads the operands as they lie. */
static bool ask_device(const kin_device *device, const kin_graph *source, const fusion *fused) {
    kin_operand in[KIN_MAX_ABSORBED_INPUTS], result;
    memset(&result, 0, sizeof result);
    result.desc = kin_desc_dense(fused->out.dtype, fused->out.rank, fused->out.dims);
    for (int i = 0; i < fused->in_count; i++) kin_graph_operand(source, fused->in[i], &in[i]);
    const kin_call call = {.op = fused->op->name,
                           .attrs = fused->attrs,
                           .in_count = fused->in_count,
                           .out_count = 1,
                           .in = in,
                           .out = &result};
    const kin_kernel *kernel = kin_device_kernel(device, &call);
    if (!kernel) return false;
    for (int i = 0; i < fused->in_count; i++)
        if (fused->in[i] && !(kernel->strided >> i & 1) && !kin_desc_is_dense(&in[i].desc))
            return false;
    return true;
}

static kin_status look_at(fuser *f, const kin_graph *source, int32_t n) {
    const kin_node *node = &source->nodes[n];
    fusion *found = &f->fusions[f->count];
    memset(found, 0, sizeof *found);
    if (!node->op->absorb || node->out_count != 1 || f->fates[n] != STAYS) return KIN_OK;
    if (!find_reader(f, source, n, found)) return KIN_OK;
    const int inputs = node->in_count + source->nodes[found->reader].in_count;
    kin_desc *descs = kin_calloc(source->context, (size_t)inputs + 1, sizeof *descs);
    if (!descs) return KIN_OUT_OF_MEMORY;
    const bool taken = ask_op(source, found, descs) && find_place(f, source, found) &&
                       ask_device(f->rw.device, source, found);
    kin_free(source->context, descs);
    if (!taken) return KIN_OK;
    f->fates[found->producer] = f->fates[found->reader] = GOES;
    for (int i = 0; i < found->view_count; i++) f->fates[found->views[i]] = GOES;
    f->fates[found->place] = FUSES;
    f->which[found->place] = f->count++;
    return KIN_OK;
}

/* ---- doing ---- */

/* "gelu_tanh, add": what the producer has taken on, and the reader. */
static const char *name_of(fuser *f, const kin_node *producer, const kin_node *reader) {
    char text[160];
    if (!producer->fused) return kin_graph_pool_string(f->rw.target, reader->op->name);
    snprintf(text, sizeof text, "%s, %s", producer->fused, reader->op->name);
    return kin_graph_pool_string(f->rw.target, text);
}

static void append_fused(fuser *f, const fusion *fused) {
    kin_rewriter *rw = &f->rw;
    const kin_graph *source = rw->source;
    const kin_node *reader = &source->nodes[fused->reader];
    kin_node node = source->nodes[fused->producer];
    kin_tensor in[KIN_MAX_ABSORBED_INPUTS], out[KIN_MAX_OUTPUTS] = {{0}};
    for (int i = 0; i < fused->in_count; i++) in[i] = kin_rewriter_map(rw, fused->in[i]);
    node.fused = name_of(f, &node, reader);
    node.op = fused->op;
    node.attrs = fused->attrs;
    node.in_count = fused->in_count;
    kin_rewriter_emit(rw, &node, in, out);
    const kin_desc *want = &source->values[reader->out[0]].desc;
    const bool same = kin_desc_same_shape(kin_tensor_desc(rw->target, out[0]), want);
    for (int i = 0; i < fused->view_count && !same; i++) {
        const kin_node view = source->nodes[fused->views[i]];
        const kin_tensor from = out[0];
        kin_rewriter_emit(rw, &view, &from, out);
    }
    if (rw->target->status != KIN_OK) return;
    const kin_desc *have = kin_tensor_desc(rw->target, out[0]);
    if (have->dtype != want->dtype || !kin_desc_same_shape(have, want))
        kin_graph_fail(rw->target, KIN_INVALID, "%s takes on %s and has another result",
                       fused->op->name, reader->op->name);
    rw->map[reader->out[0]] = out[0].id;
    if (source->values[node.out[0]].is_gradient)
        rw->target->values[rw->target->values[out[0].id].base].is_gradient = true;
    rw->counts->fused++;
}

static void visit(kin_rewriter *rw, int32_t n) {
    fuser *f = (fuser *)rw;
    if (f->fates[n] == FUSES) append_fused(f, &f->fusions[f->which[n]]);
    else if (f->fates[n] == STAYS) kin_rewriter_keep(rw, n);
}

static kin_status fuse_once(kin_graph *source, const kin_device *device, kin_rewrite_counts *counts,
                            kin_graph **out_graph) {
    fuser f = {.rw = {.device = device, .counts = counts}};
    *out_graph = NULL;
    kin_status status = allocate(&f, source) ? count_readers(&f, source) : KIN_OUT_OF_MEMORY;
    for (int32_t n = 0; status == KIN_OK && n < source->node_count; n++)
        if (f.live[n]) status = look_at(&f, source, n);
    if (status == KIN_OK && f.count > 0) status = kin_rewriter_run(&f.rw, source, visit, out_graph);
    release(&f, source->context);
    return status;
}

kin_status kin_graph_fuse(kin_graph *source, const kin_device *device, kin_rewrite_counts *counts,
                          kin_graph **out_graph) {
    enum { MOST_PASSES = 8 };
    const char *setting = kin_context_setting(source->context, "plan.fuse");
    kin_graph *current = source;
    kin_status status = KIN_OK;
    if (setting && strcmp(setting, "on") != 0 && strcmp(setting, "off") != 0)
        status = kin_fail(source->context, KIN_INVALID,
                          "the setting plan.fuse=%s is neither on nor off", setting);
    if (setting && strcmp(setting, "off") == 0) {
        *out_graph = source;
        return KIN_OK;
    }
    for (int pass = 0; status == KIN_OK && pass < MOST_PASSES; pass++) {
        kin_graph *next;
        status = fuse_once(current, device, counts, &next);
        if (status != KIN_OK || !next) break;
        if (current != source) kin_graph_destroy(current);
        current = next;
    }
    if (status != KIN_OK && current != source) kin_graph_destroy(current);
    *out_graph = status == KIN_OK ? current : NULL;
    return status;
}
