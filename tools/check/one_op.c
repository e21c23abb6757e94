/* One op with its operands, run alone. */
#include "tools/check/one_op.h"

#include "ops/walk.h"
#include "runtime/check.h"
#include "runtime/evaluate.h"
#include "runtime/inspect.h"
#include "runtime/philox.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- a view with any strides ---- */

typedef struct stored_view {
    kin_desc view;
    int64_t offset;
} stored_view;

static kin_status infer_view(kin_infer *infer) {
    const stored_view *attrs = infer->attrs;
    infer->out[0] = attrs->view;
    infer->view_offset[0] = attrs->offset;
    return KIN_OK;
}

static void gather_view(const kin_reference *call) {
    const stored_view *attrs = call->attrs;
    int64_t count = kin_desc_count(&attrs->view);
    kin_walk walk = kin_walk_start(&attrs->view, attrs->view.rank, attrs->view.dims);
    for (int64_t i = 0; i < count; i++, kin_walk_next(&walk))
        call->out[0][i] = call->in[0][attrs->offset + walk.offset];
}

/* No device sees it: views are no work. */
static const kin_op op_stored_view = {.name = "stored_view",
                                      .summary = "a view with the strides that a model had",
                                      .flags = KIN_OP_VIEW,
                                      .attrs_size = sizeof(stored_view),
                                      .outputs = 1,
                                      .infer = infer_view,
                                      .reference = gather_view};

/* ---- making ---- */

static bool writes_input(const kin_op *op, int input) {
    for (int j = 0; (op->flags & KIN_OP_UPDATE) && j < op->outputs; j++)
        if (op->aliases[j] == input + 1) return true;
    return false;
}

kin_status kin_one_op_create(kin_context *context, const kin_op *op, const void *attrs,
                             int in_count, const char *path, kin_one_op **out_one) {
    kin_one_op *one = kin_calloc(context, 1, sizeof *one);
    *out_one = one;
    if (!one) return KIN_OUT_OF_MEMORY;
    one->context = context;
    one->op = op;
    one->in_count = in_count;
    one->in = kin_calloc(context, (size_t)in_count + 1, sizeof *one->in);
    one->attrs = op->attrs_size ? kin_alloc(context, op->attrs_size) : NULL;
    if (!one->in || (op->attrs_size && !one->attrs)) {
        kin_one_op_free(one);
        *out_one = NULL;
        return KIN_OUT_OF_MEMORY;
    }
    if (one->attrs) memcpy(one->attrs, attrs, op->attrs_size);
    for (int i = 0; i < in_count; i++) one->in[i].absent = true;
    snprintf(one->path, sizeof one->path, "%s", path);
    return KIN_OK;
}

void kin_one_op_free(kin_one_op *one) {
    if (!one) return;
    for (int i = 0; one->in && i < one->in_count; i++) kin_free(one->context, one->in[i].data);
    kin_free(one->context, one->in);
    kin_free(one->context, one->attrs);
    kin_free(one->context, one);
}

kin_status kin_one_op_set(kin_one_op *one, int i, const kin_desc *base, const void *data,
                          const kin_desc *view, int64_t offset) {
    kin_one_operand *in = &one->in[i];
    int64_t end = offset + 1;
    for (int a = 0; a < view->rank; a++) end += (view->dims[a] - 1) * view->strides[a];
    in->absent = false;
    in->variable = writes_input(one->op, i);
    in->view = *view;
    in->offset = offset;
    /* What lies behind the view is no part of the case, unless blocks must stay whole. */
    if (kin_desc_is_dense(view) && offset == 0)
        in->storage = kin_desc_dense(view->dtype, view->rank, view->dims);
    else if (view->dtype == KIN_Q8_0) in->storage = *base;
    else in->storage = kin_desc_dense(view->dtype, 1, &end);
    size_t bytes = kin_desc_bytes(&in->storage);
    kin_free(one->context, in->data);
    in->data = kin_alloc(one->context, bytes);
    if (!in->data) return KIN_OUT_OF_MEMORY;
    memcpy(in->data, data, bytes);
    return KIN_OK;
}

kin_status kin_one_op_append(const kin_one_op *one, kin_graph *graph) {
    kin_tensor *in = kin_calloc(one->context, (size_t)one->in_count + 1, sizeof *in);
    kin_tensor out[KIN_MAX_OUTPUTS] = {{0}};
    if (!in) return KIN_OUT_OF_MEMORY;
    for (int i = 0; i < one->in_count; i++) {
        const kin_one_operand *operand = &one->in[i];
        const kin_desc *s = &operand->storage;
        char name[32];
        if (operand->absent) continue;
        snprintf(name, sizeof name, "in%d", i);
        if (operand->variable) {
            in[i] = kin_variable(graph, name, KIN_VARIABLE_STATE, s->dtype, s->rank, s->dims,
                                 (kin_init){KIN_INIT_ZERO, 0});
            continue;
        }
        in[i] = kin_input(graph, name, s->dtype, s->rank, s->dims);
        if (!kin_desc_same_shape(s, &operand->view) || !kin_desc_is_dense(&operand->view)) {
            stored_view attrs;
            memset(&attrs, 0, sizeof attrs);
            attrs.view = operand->view;
            attrs.offset = operand->offset;
            in[i] = kin_append1(graph, &op_stored_view, &attrs, &in[i], 1);
        }
    }
    kin_append(graph, one->op, one->attrs, in, one->in_count, out);
    kin_free(one->context, in);
    for (int j = 0; j < KIN_MAX_OUTPUTS && out[j].id; j++) {
        char name[32];
        snprintf(name, sizeof name, "out%d", j);
        kin_output(graph, name, out[j]);
    }
    return kin_graph_status(graph);
}

kin_status kin_one_op_finish(kin_one_op *one) {
    kin_graph *graph = NULL;
    kin_tensor tensor;
    kin_desc *descs = kin_calloc(one->context, (size_t)one->in_count + 1, sizeof *descs);
    kin_status status = descs ? kin_graph_create(one->context, &graph) : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK) status = kin_one_op_append(one, graph);
    one->out_count = 0;
    while (status == KIN_OK && kin_graph_output_at(graph, one->out_count, &tensor)) {
        const kin_desc *desc = kin_tensor_desc(graph, tensor);
        one->out[one->out_count++] = kin_desc_dense(desc->dtype, desc->rank, desc->dims);
    }
    for (int i = 0; status == KIN_OK && i < one->in_count; i++) {
        descs[i] = one->in[i].view;
        if (one->in[i].absent) descs[i].rank = -1;
    }
    if (status == KIN_OK)
        one->cost =
            kin_op_cost(one->op, one->attrs, one->in_count, descs, one->out_count, one->out);
    kin_graph_destroy(graph);
    kin_free(one->context, descs);
    return status;
}

kin_status kin_one_op_write(const kin_one_op *one, kin_plan *plan, kin_store *store) {
    kin_status status = KIN_OK;
    for (int i = 0; status == KIN_OK && i < one->in_count; i++) {
        const kin_one_operand *in = &one->in[i];
        char name[32];
        if (in->absent) continue;
        snprintf(name, sizeof name, "in%d", i);
        if (in->variable) status = kin_store_write(store, name, in->storage.dtype, in->data);
        else if (kin_plan_input_desc(plan, name))
            status = kin_plan_write(plan, name, in->storage.dtype, in->data);
    }
    return status;
}

/* ---- running ---- */

void kin_one_result_free(kin_context *context, kin_one_result *result) {
    for (int j = 0; j < KIN_MAX_OUTPUTS; j++) kin_free(context, result->out[j]);
    *result = (kin_one_result){.lowered = false};
}

static kin_status new_result(const kin_one_op *one, kin_one_result *out) {
    *out = (kin_one_result){.lowered = false};
    for (int j = 0; j < one->out_count; j++) {
        size_t count = (size_t)kin_desc_count(&one->out[j]);
        out->out[j] = kin_alloc(one->context, count * sizeof(double));
        if (!out->out[j]) {
            kin_one_result_free(one->context, out);
            return KIN_OUT_OF_MEMORY;
        }
    }
    return KIN_OK;
}

/* The inputs as doubles, for the evaluator. */
static kin_status make_given(const kin_one_op *one, kin_evaluate_value **out_given,
                             char (**out_names)[32], int *out_count) {
    size_t room = (size_t)one->in_count + 1;
    kin_evaluate_value *given = kin_calloc(one->context, room, sizeof *given);
    char(*names)[32] = kin_calloc(one->context, room, sizeof *names);
    kin_status status = given && names ? KIN_OK : KIN_OUT_OF_MEMORY;
    *out_given = given;
    *out_names = names;
    *out_count = 0;
    for (int i = 0; status == KIN_OK && i < one->in_count; i++) {
        const kin_one_operand *in = &one->in[i];
        int64_t count = kin_desc_count(&in->storage);
        int at = *out_count;
        if (in->absent) continue;
        snprintf(names[at], sizeof names[at], "in%d", i);
        given[at].name = names[at];
        given[at].data = kin_alloc(one->context, (size_t)count * sizeof(double));
        if (!given[at].data) status = KIN_OUT_OF_MEMORY;
        else kin_convert(in->data, in->storage.dtype, given[at].data, KIN_F64, count);
        ++*out_count;
    }
    return status;
}

static void free_given(const kin_one_op *one, kin_evaluate_value *given, char (*names)[32],
                       int count) {
    for (int i = 0; given && i < count; i++) kin_free(one->context, given[i].data);
    kin_free(one->context, given);
    kin_free(one->context, names);
}

/* Moves every element by a unit of rounding, up or down as Philox says. */
static void move_values(double *values, kin_dtype dtype, int64_t count, uint32_t stream) {
    double unit = dtype == KIN_BF16  ? ldexp(1, -8)
                  : dtype == KIN_F16 ? ldexp(1, -11)
                                     : ldexp(1, -24);
    for (int64_t i = 0; kin_dtype_is_float(dtype) && i < count; i++)
        values[i] *= kin_philox_element(1, stream, 0, (uint64_t)i) & 1 ? 1 + unit : 1 - unit;
}

/* Evaluates the graph, or the plan's program, in double; from inputs that were moved, if wanted. */
static kin_status evaluate(const kin_one_op *one, kin_graph *graph, kin_plan *plan,
                           unsigned rounding, bool moved, kin_one_result *out,
                           double *out_reduction) {
    kin_evaluate_value *given, wanted[KIN_MAX_OUTPUTS];
    char(*names)[32], out_names[KIN_MAX_OUTPUTS][32];
    int count;
    kin_status status = make_given(one, &given, &names, &count);
    for (int i = 0, at = 0; status == KIN_OK && moved && i < one->in_count; i++) {
        const kin_desc *storage = &one->in[i].storage;
        if (!one->in[i].absent)
            move_values(given[at++].data, storage->dtype, kin_desc_count(storage), (uint32_t)i);
    }
    for (int j = 0; j < one->out_count; j++) {
        snprintf(out_names[j], sizeof out_names[j], "out%d", j);
        wanted[j] = (kin_evaluate_value){out_names[j], out->out[j]};
    }
    if (status == KIN_OK)
        status = plan ? kin_plan_evaluate(plan, given, count, wanted, one->out_count,
                                          (kin_evaluate_rounding)rounding, out_reduction)
                      : kin_graph_evaluate(graph, given, count, wanted, one->out_count,
                                           (kin_evaluate_rounding)rounding, out_reduction);
    free_given(one, given, names, count);
    return status;
}

kin_status kin_one_op_reference(const kin_one_op *one, kin_one_result *out_result) {
    kin_graph *graph = NULL;
    double reduction;
    kin_status status = new_result(one, out_result);
    if (status == KIN_OK) status = kin_graph_create(one->context, &graph);
    if (status == KIN_OK) status = kin_one_op_append(one, graph);
    if (status == KIN_OK)
        status = evaluate(one, graph, NULL, KIN_ROUND_NOTHING, false, out_result, &reduction);
    kin_graph_destroy(graph);
    if (status != KIN_OK) kin_one_result_free(one->context, out_result);
    snprintf(out_result->kernels, sizeof out_result->kernels, "the reference in double");
    return status;
}

static double largest_change(const kin_desc *desc, const double *a, const double *b) {
    int64_t count = kin_desc_count(desc);
    double largest = 0;
    for (int64_t i = 0; kin_dtype_is_float(desc->dtype) && i < count; i++) {
        double change = fabs(a[i] - b[i]);
        if (isfinite(change) && change > largest) largest = change;
    }
    return largest;
}

static double units_of(kin_dtype dtype, double reduction) {
    double unit = dtype == KIN_BF16  ? ldexp(1, -8)
                  : dtype == KIN_F16 ? ldexp(1, -11)
                                     : ldexp(1, -24);
    return kin_tolerance(dtype, reduction) / unit;
}

/* What rounding at every node of the program may do to each result (tools/check/op_suite.h): nothing
 * beyond the tolerance where a single kernel does it. */
static kin_status measure_extra(const kin_one_op *one, kin_plan *plan, kin_one_result *result) {
    kin_one_result ways[3] = {{.lowered = false}};
    kin_dtype products = kin_plan_device(plan)->info.product_dtype;
    double reduction = 1;
    kin_status status = KIN_OK;
    for (int w = 0; status == KIN_OK && w < 3; w++) {
        static const unsigned roundings[] = {KIN_ROUND_NARROWING, KIN_ROUND_ALL,
                                             KIN_ROUND_NARROWING | KIN_ROUND_PRODUCTS};
        status = new_result(one, &ways[w]);
        if (status == KIN_OK)
            status = evaluate(one, NULL, plan, roundings[w], false, &ways[w], &reduction);
    }
    for (int j = 0; status == KIN_OK && j < one->out_count; j++) {
        const kin_desc *desc = &one->out[j];
        result->extra[j] =
            units_of(desc->dtype, reduction) * largest_change(desc, ways[0].out[j], ways[1].out[j]);
        if (products != KIN_F32)
            result->extra[j] += units_of(products, reduction) *
                                largest_change(desc, ways[0].out[j], ways[2].out[j]);
    }
    for (int w = 0; w < 3; w++) kin_one_result_free(one->context, &ways[w]);
    return status;
}

/* Where the terms of a sum cancel, what is left may be smaller than the rounding of the terms. So a
 * sum may also err by the units that its tolerance stands for, times what one unit of rounding in
 * the inputs does to it in double. */
static kin_status measure_cancelling(const kin_one_op *one, kin_graph *graph,
                                     kin_one_result *result) {
    kin_one_result exact, moved = {.lowered = false};
    double reduction;
    kin_status status = new_result(one, &exact);
    if (status == KIN_OK) status = new_result(one, &moved);
    if (status == KIN_OK)
        status = evaluate(one, graph, NULL, KIN_ROUND_NOTHING, false, &exact, &reduction);
    if (status == KIN_OK)
        status = evaluate(one, graph, NULL, KIN_ROUND_NOTHING, true, &moved, &reduction);
    for (int j = 0; status == KIN_OK && j < one->out_count; j++)
        result->extra[j] += units_of(one->out[j].dtype, reduction) *
                            largest_change(&one->out[j], exact.out[j], moved.out[j]);
    kin_one_result_free(one->context, &exact);
    kin_one_result_free(one->context, &moved);
    return status;
}

static void name_kernels(const kin_plan *plan, char *text, size_t size) {
    size_t used = 0;
    text[0] = 0;
    for (int i = 0; i < kin_plan_node_count(plan) && used < size; i++) {
        kin_plan_node node = kin_plan_node_at(plan, i);
        bool again = i > 0 && strcmp(node.kernel, kin_plan_node_at(plan, i - 1).kernel) == 0;
        if (!again)
            used +=
                (size_t)snprintf(text + used, size - used, "%s%s", used ? ", " : "", node.kernel);
    }
}

kin_status kin_one_op_run(const kin_one_op *one, kin_device *device, bool with_extra,
                          kin_one_result *out_result) {
    kin_graph *graph = NULL;
    kin_plan *plan = NULL;
    kin_store *store = NULL;
    kin_plan_options options = {.struct_size = sizeof options, .allow_reference = true};
    kin_status status = new_result(one, out_result);
    if (status == KIN_OK) status = kin_graph_create(one->context, &graph);
    if (status == KIN_OK) status = kin_one_op_append(one, graph);
    if (status == KIN_OK) status = kin_plan_build(graph, device, &options, &plan);
    if (status == KIN_OK) status = kin_store_create(device, &store);
    if (status == KIN_OK) status = kin_store_add_graph(store, graph, 1);
    if (status == KIN_OK) status = kin_plan_prepare(plan, store, NULL);
    if (status == KIN_OK) status = kin_one_op_write(one, plan, store);
    if (status == KIN_OK) status = kin_plan_run(plan);
    for (int j = 0; status == KIN_OK && j < one->out_count; j++) {
        char name[32];
        snprintf(name, sizeof name, "out%d", j);
        status = kin_plan_read(plan, name, KIN_F64, out_result->out[j]);
    }
    if (status == KIN_OK) {
        out_result->lowered = kin_plan_summarize(plan)->kernels_missing > 0;
        name_kernels(plan, out_result->kernels, sizeof out_result->kernels);
        if (with_extra && (out_result->lowered || device->info.product_dtype != KIN_F32))
            status = measure_extra(one, plan, out_result);
        if (status == KIN_OK && with_extra && one->cost.reduction > 1)
            status = measure_cancelling(one, graph, out_result);
    }
    kin_plan_free(plan);
    kin_store_free(store);
    kin_graph_destroy(graph);
    if (status != KIN_OK) kin_one_result_free(one->context, out_result);
    return status;
}

/* ---- comparing ---- */

/* What is as large as this is infinite in f16. */
static const double f16_overflow = 65520;

kin_one_difference kin_one_op_compare(const kin_one_op *one, int output, const double *got,
                                      const double *want) {
    kin_one_difference d = {.error = 0};
    kin_dtype dtype = one->out[output].dtype;
    int64_t count = kin_desc_count(&one->out[output]);
    for (int64_t i = 0; i < count; i++) {
        double w = want[i];
        if (dtype == KIN_F16 && fabs(w) >= f16_overflow) w = copysign(INFINITY, w);
        bool same = got[i] == w || (isnan(got[i]) && isnan(w));
        double error = same ? 0 : fabs(got[i] - w);
        if (isnan(error)) error = INFINITY;
        if (isfinite(w) && fabs(w) > d.largest) d.largest = fabs(w);
        if (error > d.error) {
            d.error = error;
            d.element = i;
        }
    }
    return d;
}

double kin_one_op_tolerance(const kin_one_op *one, const kin_device *device, int output) {
    const kin_dtype operands = one->in_count > 0 ? one->in[0].view.dtype : KIN_F32;
    return kin_device_tolerance(&device->info, one->op, operands, one->out[output].dtype,
                                one->cost.reduction);
}
