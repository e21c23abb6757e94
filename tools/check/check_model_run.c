/* Running a graph on a device beside the host's evaluator. */
#include "tools/check/check_model_run.h"

#include "runtime/check.h"
#include "runtime/inspect.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char after[] = "after.";

/* How the host evaluates: each has its own values from step to step. */
enum { EXACT, ROUNDED, PRODUCTS, WAYS };

typedef struct way {
    bool used;
    unsigned rounding;
    kin_evaluate_value *given;                        /* as run->values */
    kin_evaluate_value wanted[KIN_CHECK_MAX_OUTPUTS]; /* as the graph's outputs */
    double reduction;
} way;

struct kin_model_run {
    kin_context *context;
    kin_graph *graph;
    kin_device *device;
    const kin_check_values *values;
    kin_dtype compute;
    kin_plan *plan;
    kin_store *store;
    int outputs;
    const char *names[KIN_CHECK_MAX_OUTPUTS];
    kin_desc descs[KIN_CHECK_MAX_OUTPUTS];
    const char *carry_from, *carry_to;
    bool started;
    double noise[WAYS][KIN_CHECK_MAX_OUTPUTS]; /* of single numbers: the largest change so far */
    way ways[WAYS];
};

/* ---- opening ---- */

static bool has_output(const kin_graph *graph, const char *name) {
    kin_tensor tensor;
    const char *found;
    for (int i = 0; (found = kin_graph_output_at(graph, i, &tensor)); i++)
        if (strcmp(found, name) == 0) return true;
    return false;
}

/* Names what the last update of each variable returns, so that the next step can start from it. */
static void name_updates(kin_graph *graph) {
    for (int n = kin_graph_node_count(graph) - 1; n >= 0; n--) {
        kin_node_info node = kin_graph_node_at(graph, n);
        for (int j = 0; (node.op->flags & KIN_OP_UPDATE) && j < node.out_count; j++) {
            kin_value_info value = kin_graph_value_at(graph, node.out[j]);
            char name[512];
            if (value.kind != KIN_VALUE_VARIABLE) continue;
            snprintf(name, sizeof name, "%s%s", after, value.name);
            if (!has_output(graph, name)) kin_output(graph, name, node.out[j]);
        }
    }
}

static kin_status list_outputs(kin_model_run *run) {
    kin_tensor tensor;
    const char *name;
    while ((name = kin_graph_output_at(run->graph, run->outputs, &tensor))) {
        if (run->outputs == KIN_CHECK_MAX_OUTPUTS)
            return kin_fail(run->context, KIN_UNSUPPORTED, "a model with more than %d outputs",
                            KIN_CHECK_MAX_OUTPUTS);
        const kin_desc *desc = kin_tensor_desc(run->graph, tensor);
        run->names[run->outputs] = name;
        run->descs[run->outputs++] = kin_desc_dense(desc->dtype, desc->rank, desc->dims);
    }
    return KIN_OK;
}

static kin_status open_ways(kin_model_run *run) {
    unsigned exact = run->compute == KIN_F32 ? KIN_ROUND_NARROWING : KIN_ROUND_NOTHING;
    run->ways[EXACT] = (way){.used = true, .rounding = exact};
    run->ways[ROUNDED] = (way){.used = true, .rounding = KIN_ROUND_ALL};
    run->ways[PRODUCTS] = (way){.used = run->device->info.product_dtype != KIN_F32,
                                .rounding = exact | KIN_ROUND_PRODUCTS};
    for (int w = 0; w < WAYS; w++) {
        way *one = &run->ways[w];
        if (!one->used) continue;
        kin_status status = kin_check_values_doubles(run->values, &one->given);
        if (status != KIN_OK) return status;
        for (int i = 0; i < run->outputs; i++) {
            size_t count = (size_t)kin_desc_count(&run->descs[i]);
            one->wanted[i].name = run->names[i];
            one->wanted[i].data = kin_alloc(run->context, count * sizeof(double));
            if (!one->wanted[i].data) return KIN_OUT_OF_MEMORY;
        }
    }
    return KIN_OK;
}

kin_status kin_model_run_open(kin_graph *graph, kin_device *device, const kin_check_values *values,
                              kin_dtype compute, kin_model_run **out_run) {
    kin_context *context = kin_graph_context(graph);
    kin_model_run *run = kin_calloc(context, 1, sizeof *run);
    kin_plan_options options = {.struct_size = sizeof options, .allow_reference = true};
    *out_run = NULL;
    if (!run) return KIN_OUT_OF_MEMORY;
    run->context = context;
    run->graph = graph;
    run->device = device;
    run->values = values;
    run->compute = compute;
    name_updates(graph);
    kin_status status = list_outputs(run);
    if (status == KIN_OK) status = open_ways(run);
    if (status == KIN_OK) status = kin_plan_build(graph, device, &options, &run->plan);
    if (status == KIN_OK) status = kin_store_create(device, &run->store);
    if (status == KIN_OK) status = kin_store_add_graph(run->store, graph, 1);
    if (status == KIN_OK) status = kin_plan_prepare(run->plan, run->store, NULL);
    if (status == KIN_OK) status = kin_check_values_write(values, run->plan, run->store);
    if (status == KIN_OK) *out_run = run;
    else kin_model_run_close(run);
    return status;
}

void kin_model_run_close(kin_model_run *run) {
    if (!run) return;
    for (int w = 0; w < WAYS; w++) {
        kin_check_doubles_free(run->context, run->ways[w].given, run->values->count);
        for (int i = 0; i < run->outputs; i++) kin_free(run->context, run->ways[w].wanted[i].data);
    }
    kin_plan_free(run->plan);
    kin_store_free(run->store);
    kin_free(run->context, run);
}

kin_plan *kin_model_run_plan(kin_model_run *run) {
    return run->plan;
}

/* ---- inputs ---- */

static int find_value(const kin_model_run *run, const char *name) {
    for (int i = 0; i < run->values->count; i++)
        if (strcmp(run->values->list[i].name, name) == 0) return i;
    return -1;
}

kin_status kin_model_run_set(kin_model_run *run, const char *input, const double *data) {
    int at = find_value(run, input);
    if (at < 0) return KIN_OK; /* a model need not have it */
    size_t bytes = (size_t)kin_desc_count(&run->values->list[at].desc) * sizeof *data;
    for (int w = 0; w < WAYS; w++)
        if (run->ways[w].used) memcpy(run->ways[w].given[at].data, data, bytes);
    if (!kin_plan_input_desc(run->plan, input)) return KIN_OK;
    return kin_plan_write(run->plan, input, KIN_F64, data);
}

void kin_model_run_carry(kin_model_run *run, const char *output, const char *input) {
    run->carry_from = output;
    run->carry_to = input;
}

/* The host's values of the next step: variables as updates left them, and the carried input. */
static void carry_host(kin_model_run *run, int output) {
    const char *name = run->names[output], *to = NULL;
    if (strncmp(name, after, strlen(after)) == 0) to = name + strlen(after);
    else if (run->carry_from && strcmp(name, run->carry_from) == 0) to = run->carry_to;
    int at = to ? find_value(run, to) : -1;
    if (at < 0) return;
    size_t bytes = (size_t)kin_desc_count(&run->descs[output]) * sizeof(double);
    for (int w = 0; w < WAYS; w++)
        if (run->ways[w].used)
            memcpy(run->ways[w].given[at].data, run->ways[w].wanted[output].data, bytes);
}

static kin_status carry_device(kin_model_run *run) {
    if (!run->carry_from) return KIN_OK;
    const kin_desc *desc = kin_plan_output_desc(run->plan, run->carry_from);
    double *data = kin_alloc(run->context, (size_t)kin_desc_count(desc) * sizeof *data);
    if (!data) return KIN_OUT_OF_MEMORY;
    kin_status status = kin_plan_read(run->plan, run->carry_from, KIN_F64, data);
    if (status == KIN_OK) status = kin_plan_write(run->plan, run->carry_to, KIN_F64, data);
    kin_free(run->context, data);
    return status;
}

/* ---- a step ---- */

static kin_status evaluate(kin_model_run *run) {
    kin_status status = KIN_OK;
    for (int w = 0; status == KIN_OK && w < WAYS; w++) {
        way *one = &run->ways[w];
        if (!one->used) continue;
        if (w == EXACT)
            status = kin_graph_evaluate(run->graph, one->given, run->values->count, one->wanted,
                                        run->outputs, one->rounding, &one->reduction);
        else
            status = kin_plan_evaluate(run->plan, one->given, run->values->count, one->wanted,
                                       run->outputs, one->rounding, &one->reduction);
    }
    return status;
}

static double units_of(kin_dtype dtype, double reduction) {
    double unit = dtype == KIN_BF16  ? ldexp(1, -8)
                  : dtype == KIN_F16 ? ldexp(1, -11)
                                     : ldexp(1, -24);
    return kin_tolerance(dtype, reduction) / unit;
}

static double largest_change(kin_model_run *run, int output, int other) {
    double largest = 0;
    const double *a = run->ways[EXACT].wanted[output].data,
                 *b = run->ways[other].wanted[output].data;
    int64_t count = kin_desc_count(&run->descs[output]);
    if (!run->ways[other].used || !kin_dtype_is_float(run->descs[output].dtype)) return 0;
    for (int64_t i = 0; i < count; i++) {
        double change = fabs(a[i] - b[i]);
        if (isfinite(change) && change > largest) largest = change;
    }
    if (count > 1 || a[0] == 0) return largest;
    double *noise = &run->noise[other][output];
    *noise = fmax(*noise, largest / fabs(a[0]));
    return *noise * fabs(a[0]);
}

typedef struct difference {
    double error, largest;
    int64_t element;
} difference;

static difference find_difference(const double *got, const double *want, int64_t count) {
    difference d = {.error = 0};
    for (int64_t i = 0; i < count; i++) {
        bool same = got[i] == want[i] || (isnan(got[i]) && isnan(want[i]));
        double error = same ? 0 : fabs(got[i] - want[i]);
        if (isnan(error)) error = INFINITY;
        if (isfinite(want[i]) && fabs(want[i]) > d.largest) d.largest = fabs(want[i]);
        if (error > d.error) {
            d.error = error;
            d.element = i;
        }
    }
    return d;
}

/* One number (a loss, a norm) is a small sample to measure on what rounding does to it: it may err
 * by the tolerance of the dtype that the model is computed in, and the largest change of all steps
 * so far counts. */
static double own_tolerance(const kin_model_run *run, int output, double reduction) {
    double own = kin_tolerance(run->descs[output].dtype, reduction);
    if (kin_desc_count(&run->descs[output]) > 1) return own;
    own = fmax(own, kin_tolerance(run->compute, reduction));
    return fmax(own, kin_tolerance(run->device->info.product_dtype, reduction));
}

static double allowed_error(kin_model_run *run, int output, double largest) {
    double reduction = run->ways[ROUNDED].reduction;
    if (!kin_dtype_is_float(run->descs[output].dtype)) return 0;
    return own_tolerance(run, output, reduction) * largest +
           units_of(run->compute, reduction) * largest_change(run, output, ROUNDED) +
           units_of(run->device->info.product_dtype, reduction) *
               largest_change(run, output, PRODUCTS);
}

/* Compares one output of the device; false if it is off. With `control`, a wrong element must be
 * refused, too. */
static bool compare(kin_model_run *run, int output, double *got, bool control,
                    kin_model_verdict *verdict) {
    const double *want = run->ways[EXACT].wanted[output].data;
    int64_t count = kin_desc_count(&run->descs[output]), middle = count / 2;
    difference d = find_difference(got, want, count);
    double allowed = allowed_error(run, output, d.largest);
    double fraction = d.error == 0 ? 0 : allowed > 0 ? d.error / allowed : INFINITY;
    if (!control) return fraction <= 1;
    verdict->compared++;
    if (fraction > verdict->worst) verdict->worst = fraction;
    /* of what is nothing but rounding (the gradient of a bias before a norm) a share says nothing
     */
    bool means_something = allowed < 0.1 * d.largest;
    if (means_something && d.error / d.largest > verdict->relative)
        verdict->relative = d.error / d.largest;
    if (fraction > 1 && verdict->passed) {
        verdict->passed = false;
        snprintf(verdict->message, sizeof verdict->message,
                 "%s, element %lld: got %.9g, want %.9g; allowed is %.3g", run->names[output],
                 (long long)d.element, got[d.element], want[d.element], allowed);
    }
    got[middle] = isfinite(want[middle]) ? want[middle] + (allowed > 0 ? 10 * allowed : 1) : 0;
    if (find_difference(got, want, count).error > allowed) {
        verdict->controls++;
    } else if (verdict->passed) {
        verdict->passed = false;
        snprintf(verdict->message, sizeof verdict->message, "%s: a wrong element would not be seen",
                 run->names[output]);
    }
    return fraction <= 1;
}

/* Reads and compares all outputs; *out_off counts those that are off. */
static kin_status compare_all(kin_model_run *run, bool control, kin_model_verdict *verdict,
                              int *out_off) {
    kin_status status = KIN_OK;
    *out_off = 0;
    for (int i = 0; status == KIN_OK && i < run->outputs; i++) {
        if (strncmp(run->names[i], after, strlen(after)) == 0) continue;
        size_t count = (size_t)kin_desc_count(&run->descs[i]);
        double *got = kin_alloc(run->context, count * sizeof *got);
        if (!got) return KIN_OUT_OF_MEMORY;
        status = kin_plan_read(run->plan, run->names[i], KIN_F64, got);
        if (status == KIN_OK && !compare(run, i, got, control, verdict)) ++*out_off;
        kin_free(run->context, got);
    }
    return status;
}

kin_status kin_model_run_step(kin_model_run *run, kin_model_verdict *verdict) {
    int off;
    kin_status status = KIN_OK;
    if (run->started) {
        for (int i = 0; i < run->outputs; i++) carry_host(run, i);
        status = carry_device(run);
    }
    run->started = true;
    if (status == KIN_OK) status = evaluate(run);
    if (status == KIN_OK) status = kin_plan_run(run->plan);
    return status == KIN_OK ? compare_all(run, true, verdict, &off) : status;
}

kin_status kin_model_run_control(kin_model_run *run, const char *variable,
                                 kin_model_verdict *verdict) {
    const kin_check_value *value = kin_check_values_find(run->values, variable);
    int64_t count = value ? kin_desc_count(&value->desc) : 0;
    int off = 0;
    if (!value)
        return kin_fail(run->context, KIN_NOT_FOUND, "the model has no weight \"%s\"", variable);
    double *data = kin_alloc(run->context, (size_t)count * sizeof *data);
    if (!data) return KIN_OUT_OF_MEMORY;
    kin_convert(value->data, value->desc.dtype, data, KIN_F64, count);
    for (int64_t i = 0; i < count; i++) data[i] *= 2;
    kin_status status = kin_store_write(run->store, variable, KIN_F64, data);
    kin_free(run->context, data);
    if (status == KIN_OK) status = kin_plan_run(run->plan);
    if (status == KIN_OK) status = compare_all(run, false, verdict, &off);
    if (status == KIN_OK)
        status = kin_store_write(run->store, variable, value->desc.dtype, value->data);
    if (status != KIN_OK) return status;
    if (off > 0) {
        verdict->controls++;
    } else if (verdict->passed) {
        verdict->passed = false;
        snprintf(verdict->message, sizeof verdict->message,
                 "a model with %s doubled was not refused", variable);
    }
    return KIN_OK;
}
