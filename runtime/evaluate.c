/* Evaluating graphs on the host in double. */
#include "runtime/evaluate.h"

#include "runtime/check.h"
#include "runtime/plan_internal.h"

#include <string.h>

typedef struct evaluation {
    kin_context *context;
    const kin_graph *graph;
    const kin_evaluate_value *given;
    int given_count;
    unsigned rounding;
    kin_dtype product_dtype; /* of operands of products; KIN_F32: as they are */
    double **values; /* per value; NULL: not needed, or not made yet */
    bool *needed;    /* nodes */
    double reduction;
} evaluation;

static kin_desc dense_desc(const kin_value *value) {
    return kin_desc_dense(value->desc.dtype, value->desc.rank, value->desc.dims);
}

static const double *find_given(const evaluation *ev, const char *name) {
    for (int i = 0; i < ev->given_count; i++)
        if (strcmp(ev->given[i].name, name) == 0) return ev->given[i].data;
    return NULL;
}

static kin_status new_value(evaluation *ev, int32_t id) {
    size_t count = (size_t)kin_desc_count(&ev->graph->values[id].desc);
    ev->values[id] = kin_alloc(ev->context, count * sizeof(double));
    return ev->values[id] ? KIN_OK : KIN_OUT_OF_MEMORY;
}

/* An input, a variable or a constant. */
static kin_status load_source(evaluation *ev, int32_t id) {
    const kin_value *value = &ev->graph->values[id];
    if (ev->values[id]) return KIN_OK;
    kin_status status = new_value(ev, id);
    if (status != KIN_OK) return status;
    int64_t count = kin_desc_count(&value->desc);
    if (value->source == KIN_SOURCE_CONSTANT) {
        kin_convert(value->data, value->desc.dtype, ev->values[id], KIN_F64, count);
        return KIN_OK;
    }
    const double *data = find_given(ev, value->name);
    if (!data)
        return kin_fail(ev->context, KIN_NOT_FOUND, "no values are given for \"%s\"", value->name);
    memcpy(ev->values[id], data, (size_t)count * sizeof(double));
    return KIN_OK;
}

static void round_values(double *values, kin_dtype dtype, int64_t count) {
    if (!kin_dtype_is_float(dtype) || dtype == KIN_Q8_0 || dtype == KIN_F64) return;
    for (int64_t i = 0; i < count; i++) {
        unsigned char bytes[8];
        kin_element_set(bytes, dtype, 0, values[i]);
        values[i] = kin_element_get(bytes, dtype, 0);
    }
}

static bool is_rounded(const evaluation *ev, const kin_desc *in, const kin_desc *out) {
    if (!(ev->rounding & KIN_ROUND_NARROWING)) return (ev->rounding & KIN_ROUND_ALL) != 0;
    return in && in->rank >= 0 && kin_dtype_is_float(in->dtype) &&
           kin_dtype_size(out->dtype) < kin_dtype_size(in->dtype);
}

/* Replaces the float operands of a product by rounded copies, which are noted in `copies`. */
static kin_status round_operands(evaluation *ev, const kin_node *node, const kin_desc *descs,
                                 double **data, double **copies) {
    if (ev->product_dtype == KIN_F32 || !(node->op->flags & KIN_OP_PRODUCT)) return KIN_OK;
    for (int i = 0; i < node->in_count; i++) {
        if (!data[i] || !kin_dtype_is_float(descs[i].dtype)) continue;
        int64_t count = kin_desc_count(&descs[i]);
        copies[i] = kin_alloc(ev->context, (size_t)count * sizeof(double));
        if (!copies[i]) return KIN_OUT_OF_MEMORY;
        memcpy(copies[i], data[i], (size_t)count * sizeof(double));
        round_values(copies[i], ev->product_dtype, count);
        data[i] = copies[i];
    }
    return KIN_OK;
}

static kin_status run_node(evaluation *ev, const kin_node *node) {
    if (!node->op->reference)
        return kin_fail(ev->context, KIN_UNSUPPORTED, "%s has no reference", node->op->name);
    size_t count = (size_t)(node->in_count + node->out_count);
    kin_desc *descs = kin_calloc(ev->context, count, sizeof *descs);
    double **data = kin_calloc(ev->context, count, sizeof *data);
    double **copies = kin_calloc(ev->context, count, sizeof *copies);
    kin_status status = descs && data && copies ? KIN_OK : KIN_OUT_OF_MEMORY;
    for (int i = 0; status == KIN_OK && i < node->in_count; i++) {
        int32_t id = node->in[i];
        if (!id) {
            descs[i].rank = -1;
            continue;
        }
        if (ev->graph->values[id].node < 0) status = load_source(ev, id);
        descs[i] = dense_desc(&ev->graph->values[id]);
        data[i] = ev->values[id];
    }
    for (int j = 0; status == KIN_OK && j < node->out_count; j++) {
        status = new_value(ev, node->out[j]);
        descs[node->in_count + j] = dense_desc(&ev->graph->values[node->out[j]]);
        data[node->in_count + j] = ev->values[node->out[j]];
    }
    if (status == KIN_OK) status = round_operands(ev, node, descs, data, copies);
    if (status == KIN_OK) {
        kin_reference call = {node->op,
                              node->attrs,
                              node->in_count,
                              descs,
                              (const double *const *)data,
                              node->out_count,
                              descs + node->in_count,
                              data + node->in_count};
        node->op->reference(&call);
        for (size_t j = (size_t)node->in_count; j < count; j++)
            if (is_rounded(ev, node->in_count ? &descs[0] : NULL, &descs[j]))
                round_values(data[j], descs[j].dtype, kin_desc_count(&descs[j]));
        kin_cost cost = kin_op_cost(node->op, node->attrs, node->in_count, descs, node->out_count,
                                    descs + node->in_count);
        if (cost.reduction > ev->reduction) ev->reduction = cost.reduction;
    }
    for (size_t k = 0; copies && k < count; k++) kin_free(ev->context, copies[k]);
    kin_free(ev->context, copies);
    kin_free(ev->context, descs);
    kin_free(ev->context, data);
    return status;
}

static int32_t find_output(const kin_graph *graph, const char *name) {
    for (int32_t i = 0; i < graph->output_count; i++)
        if (strcmp(graph->outputs[i].name, name) == 0) return graph->outputs[i].value;
    return 0;
}

/* Marks the nodes that the wanted outputs depend on. */
static kin_status mark_needed(evaluation *ev, const kin_evaluate_value *wanted, int count) {
    const kin_graph *graph = ev->graph;
    bool *values = kin_calloc(ev->context, (size_t)graph->value_count, sizeof *values);
    if (!values) return KIN_OUT_OF_MEMORY;
    kin_status status = KIN_OK;
    for (int i = 0; status == KIN_OK && i < count; i++) {
        int32_t id = find_output(graph, wanted[i].name);
        if (id) values[id] = true;
        else
            status = kin_fail(ev->context, KIN_NOT_FOUND, "the graph has no output \"%s\"",
                              wanted[i].name);
    }
    for (int32_t n = graph->node_count - 1; n >= 0; n--) {
        const kin_node *node = &graph->nodes[n];
        for (int j = 0; j < node->out_count; j++)
            ev->needed[n] = ev->needed[n] || values[node->out[j]];
        for (int i = 0; ev->needed[n] && i < node->in_count; i++) values[node->in[i]] = true;
    }
    kin_free(ev->context, values);
    return status;
}

static kin_status evaluate(evaluation *ev, const kin_evaluate_value *wanted, int wanted_count) {
    const kin_graph *graph = ev->graph;
    kin_status status = mark_needed(ev, wanted, wanted_count);
    for (int32_t n = 0; status == KIN_OK && n < graph->node_count; n++)
        if (ev->needed[n]) status = run_node(ev, &graph->nodes[n]);
    for (int i = 0; status == KIN_OK && i < wanted_count; i++) {
        int32_t id = find_output(graph, wanted[i].name);
        if (graph->values[id].node < 0) status = load_source(ev, id);
        if (status == KIN_OK)
            memcpy(wanted[i].data, ev->values[id],
                   (size_t)kin_desc_count(&graph->values[id].desc) * sizeof(double));
    }
    return status;
}

static kin_status evaluate_graph(kin_graph *graph, kin_dtype product_dtype,
                                 const kin_evaluate_value *given, int given_count,
                                 const kin_evaluate_value *wanted, int wanted_count,
                                 unsigned rounding, double *out_reduction) {
    kin_status status = kin_graph_status(graph);
    if (status != KIN_OK) return status;
    evaluation ev = {.context = graph->context,
                     .graph = graph,
                     .given = given,
                     .given_count = given_count,
                     .rounding = rounding,
                     .product_dtype = product_dtype,
                     .reduction = 1};
    ev.values = kin_calloc(ev.context, (size_t)graph->value_count, sizeof *ev.values);
    ev.needed = kin_calloc(ev.context, (size_t)graph->node_count + 1, sizeof *ev.needed);
    status = ev.values && ev.needed ? evaluate(&ev, wanted, wanted_count) : KIN_OUT_OF_MEMORY;
    for (int32_t i = 0; ev.values && i < graph->value_count; i++)
        kin_free(ev.context, ev.values[i]);
    kin_free(ev.context, ev.values);
    kin_free(ev.context, ev.needed);
    if (out_reduction) *out_reduction = ev.reduction;
    return status;
}

kin_status kin_graph_evaluate(kin_graph *graph, const kin_evaluate_value *given, int given_count,
                              const kin_evaluate_value *wanted, int wanted_count,
                              kin_evaluate_rounding rounding, double *out_reduction) {
    return evaluate_graph(graph, KIN_F32, given, given_count, wanted, wanted_count, rounding,
                          out_reduction);
}

kin_status kin_plan_evaluate(kin_plan *plan, const kin_evaluate_value *given, int given_count,
                             const kin_evaluate_value *wanted, int wanted_count,
                             kin_evaluate_rounding rounding, double *out_reduction) {
    kin_dtype products =
        rounding & KIN_ROUND_PRODUCTS ? plan->device->info.product_dtype : KIN_F32;
    return evaluate_graph(plan->graph, products, given, given_count, wanted, wanted_count, rounding,
                          out_reduction);
}
