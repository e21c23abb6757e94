/* One step of a graph on two devices, node by node. */
#include "tools/check/compare.h"

#include "runtime/inspect.h"
#include "tools/tool.h"

#include <math.h>
#include <string.h>

static const char tap[] = "kept.";

typedef struct comparer {
    kin_context *context;
    kin_graph *graph;
    const kin_check_values *values;
    kin_device *first, *second;
    const char *folder;
    int node_count;
    bool *live;     /* per node */
    bool *used;     /* per value: a base that a live node or an output reads */
    int32_t *after; /* per value: of a variable, what its last update returned; 0: none yet */
    int32_t values_end;
    kin_plan *kept; /* on `second`, with every result as an output */
    kin_store *store;
    kin_comparison *result;
} comparer;

/* ---- what is kept ---- */

static void mark_used(comparer *c, kin_tensor tensor) {
    if (tensor.id) c->used[kin_graph_value_at(c->graph, tensor).base.id] = true;
}

static bool is_update_output(const comparer *c, const kin_node_info *node, int j) {
    return (node->op->flags & KIN_OP_UPDATE) &&
           kin_graph_value_at(c->graph, node->out[j]).kind == KIN_VALUE_VARIABLE;
}

static void tap_name(char name[64], kin_tensor tensor) {
    snprintf(name, 64, "%s%d", tap, (int)tensor.id);
}

/* The largest id of a value, from the nodes and the outputs. */
static int32_t find_end(const kin_graph *graph) {
    int32_t end = 0;
    kin_tensor tensor;
    for (int n = 0; n < kin_graph_node_count(graph); n++) {
        kin_node_info node = kin_graph_node_at(graph, n);
        for (int j = 0; j < node.out_count; j++)
            if (node.out[j].id > end) end = node.out[j].id;
        for (int i = 0; i < node.in_count; i++)
            if (node.in[i].id > end) end = node.in[i].id;
    }
    for (int i = 0; kin_graph_output_at(graph, i, &tensor); i++)
        if (tensor.id > end) end = tensor.id;
    return end + 1;
}

static kin_status find_used(comparer *c) {
    kin_tensor tensor;
    c->node_count = kin_graph_node_count(c->graph);
    c->values_end = find_end(c->graph);
    c->live = kin_calloc(c->context, (size_t)c->node_count + 1, sizeof *c->live);
    c->used = kin_calloc(c->context, (size_t)c->values_end, sizeof *c->used);
    c->after = kin_calloc(c->context, (size_t)c->values_end, sizeof *c->after);
    if (!c->live || !c->used || !c->after) return KIN_OUT_OF_MEMORY;
    kin_status status = kin_graph_find_live(c->graph, c->live);
    for (int n = 0; n < c->node_count; n++) {
        kin_node_info node = kin_graph_node_at(c->graph, n);
        for (int i = 0; c->live[n] && i < node.in_count; i++) mark_used(c, node.in[i]);
    }
    for (int i = 0; kin_graph_output_at(c->graph, i, &tensor); i++) mark_used(c, tensor);
    return status;
}

/* Makes every result that is read an output, and what updates leave. */
static kin_status keep_all(comparer *c) {
    for (int n = c->node_count - 1; n >= 0; n--) {
        kin_node_info node = kin_graph_node_at(c->graph, n);
        bool view = (node.op->flags & KIN_OP_VIEW) != 0;
        for (int j = 0; c->live[n] && !view && j < node.out_count; j++) {
            char name[64];
            kin_value_info value = kin_graph_value_at(c->graph, node.out[j]);
            if (is_update_output(c, &node, j)) {
                /* Only what the last update leaves can be read after the run. */
                if (c->after[value.base.id]) continue;
                c->after[value.base.id] = node.out[j].id;
            } else if (!c->used[node.out[j].id]) {
                continue;
            }
            tap_name(name, node.out[j]);
            kin_output(c->graph, name, node.out[j]);
        }
    }
    return kin_graph_status(c->graph);
}

/* ---- plans ---- */

static kin_status run_plan(comparer *c, kin_device *device, kin_plan **out_plan,
                           kin_store **out_store) {
    kin_plan_options options = {.struct_size = sizeof options, .allow_reference = true};
    *out_plan = NULL;
    *out_store = NULL;
    kin_status status = kin_plan_build(c->graph, device, &options, out_plan);
    if (status == KIN_OK) status = kin_store_create(device, out_store);
    if (status == KIN_OK) status = kin_store_add_graph(*out_store, c->graph, 1);
    if (status == KIN_OK) status = kin_plan_prepare(*out_plan, *out_store, NULL);
    if (status == KIN_OK) status = kin_check_values_write(c->values, *out_plan, *out_store);
    return status == KIN_OK ? kin_plan_run(*out_plan) : status;
}

/* The largest |a - b| by the largest |a|; infinite where only one is NaN. */
static double relative_change(const double *a, const double *b, int64_t count) {
    double error = 0, largest = 0;
    for (int64_t i = 0; i < count; i++) {
        double e = a[i] == b[i] || (isnan(a[i]) && isnan(b[i])) ? 0 : fabs(a[i] - b[i]);
        if (isnan(e)) e = INFINITY;
        if (e > error) error = e;
        if (isfinite(a[i]) && fabs(a[i]) > largest) largest = fabs(a[i]);
    }
    return error == 0 ? 0 : largest > 0 ? error / largest : INFINITY;
}

static kin_status read_output(comparer *c, kin_plan *plan, const char *name, double **out_data) {
    const kin_desc *desc = kin_plan_output_desc(plan, name);
    *out_data = kin_alloc(c->context, (size_t)kin_desc_count(desc) * sizeof **out_data);
    return *out_data ? kin_plan_read(plan, name, KIN_F64, *out_data) : KIN_OUT_OF_MEMORY;
}

static kin_status compare_output(comparer *c, kin_plan *first, kin_plan *second,
                                 kin_compare_output *out) {
    double *a = NULL, *b = NULL, *kept = NULL;
    int64_t count = kin_desc_count(kin_plan_output_desc(second, out->name));
    kin_status status = read_output(c, first, out->name, &a);
    if (status == KIN_OK) status = read_output(c, second, out->name, &b);
    if (status == KIN_OK) status = read_output(c, c->kept, out->name, &kept);
    if (status == KIN_OK) {
        out->relative = relative_change(a, b, count);
        out->reuse = relative_change(kept, b, count);
    }
    kin_free(c->context, a);
    kin_free(c->context, b);
    kin_free(c->context, kept);
    return status;
}

/* The plans as they are on both devices, then the one that keeps everything on the second. */
static kin_status run_plans(comparer *c) {
    kin_plan *plans[2] = {NULL, NULL};
    kin_store *stores[2] = {NULL, NULL};
    kin_comparison *result = c->result;
    kin_tensor tensor;
    const char *name;
    kin_status status = run_plan(c, c->first, &plans[0], &stores[0]);
    if (status == KIN_OK) status = run_plan(c, c->second, &plans[1], &stores[1]);
    for (int i = 0; status == KIN_OK && (name = kin_graph_output_at(c->graph, i, &tensor)); i++)
        if (result->output_count < KIN_COMPARE_OUTPUTS)
            snprintf(result->outputs[result->output_count++].name, sizeof result->outputs[0].name,
                     "%s", name);
    if (status == KIN_OK) status = keep_all(c);
    if (status == KIN_OK) status = run_plan(c, c->second, &c->kept, &c->store);
    for (int i = 0; status == KIN_OK && i < result->output_count; i++)
        status = compare_output(c, plans[0], plans[1], &result->outputs[i]);
    for (int k = 0; k < 2; k++) {
        kin_plan_free(plans[k]);
        kin_store_free(stores[k]);
    }
    return status;
}

/* ---- one node ---- */

/* The whole tensor that an input lies in, as the second device had it; *out_owned is freed by the
 * caller. KIN_NOT_FOUND, without a message, if it was overwritten since. */
static kin_status fetch_base(comparer *c, const kin_value_info *value, const void **out_data,
                             void **out_owned) {
    kin_tensor from = value->base;
    *out_owned = NULL;
    if (value->kind == KIN_VALUE_CONSTANT) {
        *out_data = value->data;
        return KIN_OK;
    }
    if (value->kind == KIN_VALUE_INPUT ||
        (value->kind == KIN_VALUE_VARIABLE && value->version == 0)) {
        const kin_check_value *given = kin_check_values_find(c->values, value->name);
        *out_data = given ? given->data : NULL;
        return given ? KIN_OK : KIN_NOT_FOUND;
    }
    if (value->kind == KIN_VALUE_VARIABLE) {
        from.id = c->after[value->base.id];
        if (kin_graph_value_at(c->graph, from).version != value->version) return KIN_NOT_FOUND;
    }
    char name[64];
    tap_name(name, from);
    const kin_desc *desc = kin_plan_output_desc(c->kept, name);
    if (!desc) return KIN_NOT_FOUND;
    *out_owned = kin_alloc(c->context, kin_desc_bytes(desc));
    *out_data = *out_owned;
    if (!*out_owned) return KIN_OUT_OF_MEMORY;
    return kin_plan_read(c->kept, name, desc->dtype, *out_owned);
}

/* KIN_NOT_FOUND: an operand was overwritten, so the node cannot be held. */
static kin_status take_node(comparer *c, const kin_node_info *node, kin_one_op **out_one) {
    kin_status status =
        kin_one_op_create(c->context, node->op, node->attrs, node->in_count, node->path, out_one);
    for (int i = 0; status == KIN_OK && i < node->in_count; i++) {
        const void *data;
        void *owned;
        if (!node->in[i].id) continue;
        kin_value_info value = kin_graph_value_at(c->graph, node->in[i]);
        kin_desc base = *kin_tensor_desc(c->graph, value.base);
        status = fetch_base(c, &value, &data, &owned);
        if (status == KIN_OK)
            status = kin_one_op_set(*out_one, i, &base, data, &value.desc, value.offset);
        kin_free(c->context, owned);
    }
    return status == KIN_OK ? kin_one_op_finish(*out_one) : status;
}

/* What the second device's plan gave for output j; NULL if nothing reads it. */
static kin_status fetch_output(comparer *c, const kin_node_info *node, int j, double **out_data) {
    char name[64];
    tap_name(name, node->out[j]);
    *out_data = NULL;
    return kin_plan_output_desc(c->kept, name) ? read_output(c, c->kept, name, out_data) : KIN_OK;
}

typedef struct finding {
    int output;
    kin_one_difference d;
    double allowed;
} finding;

/* Compares `got` with the first device's `want`; true if an output is off. */
static bool is_off(const comparer *c, const kin_one_op *one, double *const *got,
                   const kin_one_result *want, const double *extra, finding *out) {
    for (int j = 0; j < one->out_count; j++) {
        if (!got[j]) continue;
        kin_one_difference d = kin_one_op_compare(one, j, got[j], want->out[j]);
        double tolerance =
            kin_one_op_tolerance(one, c->first, j) + kin_one_op_tolerance(one, c->second, j);
        double allowed = tolerance * d.largest + extra[j];
        if (!(d.error > allowed)) continue;
        *out = (finding){j, d, allowed};
        return true;
    }
    return false;
}

/* True if a device's result is not the reference's. */
static bool misses_reference(const kin_one_op *one, const kin_device *device, int output,
                             const double *got, const kin_one_result *reference, double extra) {
    kin_one_difference d = kin_one_op_compare(one, output, got, reference->out[output]);
    return d.error > kin_one_op_tolerance(one, device, output) * d.largest + extra;
}

static kin_status write_case(comparer *c, const kin_one_op *one) {
    const kin_comparison *r = c->result;
    char notes[1600];
    snprintf(notes, sizeof notes,
             "Node %d of a step, %s%s%s: output %d, element %lld is %.9g on %s (%s) and %.9g on %s "
             "(%s); %.9g in double, allowed is %.3g. kinora check case and kinora bench ops --case "
             "take this folder.",
             r->node, r->path, r->path[0] ? " " : "", r->op, r->output, (long long)r->element,
             r->first, c->first->info.name, r->first_kernels, r->second, c->second->info.name,
             r->second_kernels, r->reference, r->allowed);
    return kin_one_op_save(one, c->folder, notes);
}

/* The first node that differs: who is right, does it show alone, and the case. */
static kin_status describe(comparer *c, const kin_one_op *one, int index, double *const *got,
                           const kin_one_result *first, const kin_one_result *alone,
                           const finding *found) {
    kin_comparison *r = c->result;
    kin_one_result reference;
    int j = found->output;
    kin_status status = kin_one_op_reference(one, &reference);
    if (status != KIN_OK) return status;
    r->differs = true;
    r->node = index;
    snprintf(r->op, sizeof r->op, "%s", one->op->name);
    snprintf(r->path, sizeof r->path, "%s", one->path);
    r->output = j;
    r->element = found->d.element;
    r->desc = one->out[j];
    r->first = first->out[j][r->element];
    r->second = got[j][r->element];
    r->reference = reference.out[j][r->element];
    r->error = found->d.error;
    r->allowed = found->allowed;
    snprintf(r->first_kernels, sizeof r->first_kernels, "%s", first->kernels);
    snprintf(r->second_kernels, sizeof r->second_kernels, "%s", alone->kernels);
    r->first_lowered = first->lowered;
    r->second_lowered = alone->lowered;
    r->first_off = misses_reference(one, c->first, j, first->out[j], &reference, first->extra[j]);
    r->second_off = misses_reference(one, c->second, j, got[j], &reference, alone->extra[j]);
    kin_one_difference apart = kin_one_op_compare(one, j, alone->out[j], got[j]);
    r->alone = apart.error <= kin_one_op_tolerance(one, c->second, j) * apart.largest;
    if (c->folder) status = write_case(c, one);
    kin_one_result_free(c->context, &reference);
    return status;
}

/* Does the node on the first device, and looks closer if it differs. */
static kin_status hold_node(comparer *c, const kin_one_op *one, int index, double *const *got) {
    kin_one_result first = {.lowered = false}, alone = {.lowered = false};
    double none[KIN_MAX_OUTPUTS] = {0}, extra[KIN_MAX_OUTPUTS];
    finding found;
    kin_status status = kin_one_op_run(one, c->first, false, &first);
    c->result->compared += status == KIN_OK;
    if (status == KIN_OK && is_off(c, one, got, &first, none, &found)) {
        kin_one_result_free(c->context, &first);
        status = kin_one_op_run(one, c->first, true, &first);
        if (status == KIN_OK) status = kin_one_op_run(one, c->second, true, &alone);
        for (int j = 0; j < KIN_MAX_OUTPUTS; j++) extra[j] = first.extra[j] + alone.extra[j];
        if (status == KIN_OK && is_off(c, one, got, &first, extra, &found))
            status = describe(c, one, index, got, &first, &alone, &found);
    }
    kin_one_result_free(c->context, &first);
    kin_one_result_free(c->context, &alone);
    return status;
}

static kin_status check_node(comparer *c, int index) {
    kin_node_info node = kin_graph_node_at(c->graph, index);
    kin_one_op *one = NULL;
    double *got[KIN_MAX_OUTPUTS] = {NULL};
    c->result->nodes++;
    kin_status status = take_node(c, &node, &one);
    bool overwritten = status == KIN_NOT_FOUND;
    for (int j = 0; status == KIN_OK && j < node.out_count; j++)
        status = fetch_output(c, &node, j, &got[j]);
    if (status == KIN_OK) status = hold_node(c, one, index, got);
    for (int j = 0; j < node.out_count; j++) kin_free(c->context, got[j]);
    kin_one_op_free(one);
    return overwritten ? KIN_OK : status;
}

kin_status kin_compare_devices(kin_graph *graph, const kin_check_values *values, kin_device *first,
                               kin_device *second, const char *folder,
                               kin_comparison *out_comparison) {
    comparer c = {.context = kin_graph_context(graph),
                  .graph = graph,
                  .values = values,
                  .first = first,
                  .second = second,
                  .folder = folder,
                  .result = out_comparison};
    memset(out_comparison, 0, sizeof *out_comparison);
    kin_status status = find_used(&c);
    if (status == KIN_OK) status = run_plans(&c);
    for (int n = 0; status == KIN_OK && n < c.node_count && !out_comparison->differs; n++) {
        if (!c.live[n] || (kin_graph_node_at(graph, n).op->flags & KIN_OP_VIEW)) continue;
        if (kin_interrupted()) status = kin_fail(c.context, KIN_CANCELLED, "interrupted");
        else status = check_node(&c, n);
    }
    kin_plan_free(c.kept);
    kin_store_free(c.store);
    kin_free(c.context, c.live);
    kin_free(c.context, c.used);
    kin_free(c.context, c.after);
    return status;
}
