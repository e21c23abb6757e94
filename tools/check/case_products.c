/* What a reference case may come to on a device that rounds the operands of products
 * (kin_device_info.product_dtype). The case's tolerance is for f32. It is widened by twice what the
 * rounding alone does to an output, which is measured: the program of the plan is evaluated in
 * double with and without it. Loops of several runs cannot be evaluated so, and have a fixed
 * tolerance. */
#include "runtime/evaluate.h"
#include "tools/check/case_run.h"

#include <math.h>

static const double loop_tolerance = 0.25;

void kin_case_widen_loop(kin_case_run *run) {
    if (run->device->info.product_dtype != KIN_F32)
        run->tolerance = fmax(run->tolerance, loop_tolerance);
}

typedef struct values {
    kin_context *context;
    kin_evaluate_value *list;
    int count;
} values;

static kin_status add(values *all, const char *name, int64_t count) {
    double *data = kin_alloc(all->context, (size_t)count * sizeof *data);
    if (!data) return KIN_OUT_OF_MEMORY;
    all->list[all->count++] = (kin_evaluate_value){name, data};
    return KIN_OK;
}

static void release(values *all) {
    for (int i = 0; i < all->count; i++) kin_free(all->context, all->list[i].data);
    kin_free(all->context, all->list);
}

static kin_status start(values *all, kin_context *context, size_t room) {
    *all = (values){.context = context};
    all->list = kin_calloc(context, room + 1, sizeof *all->list);
    return all->list ? KIN_OK : KIN_OUT_OF_MEMORY;
}

/* Inputs and variables as they are before the run. */
static kin_status collect(kin_case_graph *graph, values *given) {
    size_t variables = kin_store_count(graph->store);
    kin_status status = start(given, graph->run->context, variables + (size_t)graph->feed_count);
    for (int i = 0; status == KIN_OK && i < graph->feed_count; i++) {
        const kin_case_feed *feed = &graph->feeds[i];
        const kin_desc *desc = kin_plan_input_desc(graph->plan, feed->name);
        if (!desc) continue;
        status = add(given, feed->name, kin_desc_count(desc));
        if (status == KIN_OK)
            kin_convert(feed->data, feed->dtype, given->list[given->count - 1].data, KIN_F64,
                        kin_desc_count(desc));
    }
    for (size_t i = 0; status == KIN_OK && i < variables; i++) {
        const kin_store_entry *entry = kin_store_at(graph->store, i);
        status = add(given, entry->name, kin_desc_count(&entry->desc));
        if (status == KIN_OK)
            status = kin_store_read(graph->store, entry->name, KIN_F64,
                                    given->list[given->count - 1].data);
    }
    return status;
}

static kin_status evaluate(kin_case_graph *graph, const values *given,
                           kin_evaluate_rounding rounding, values *out) {
    double reduction;
    kin_status status = start(out, graph->run->context, graph->watch_count);
    for (size_t i = 0; status == KIN_OK && i < graph->watch_count; i++) {
        const kin_desc *desc = kin_plan_output_desc(graph->plan, graph->watched[i]);
        status = add(out, graph->watched[i], desc ? kin_desc_count(desc) : 0);
    }
    if (status == KIN_OK)
        status = kin_plan_evaluate(graph->plan, given->list, given->count, out->list, out->count,
                                   rounding, &reduction);
    return status;
}

/* The largest change of a watched output, relative to its largest element. */
static double change(kin_case_graph *graph, int index, const values *exact, const values *rounded) {
    const kin_desc *desc = kin_plan_output_desc(graph->plan, graph->watched[index]);
    double largest = 0, most = 0;
    for (int64_t i = 0; desc && i < kin_desc_count(desc); i++) {
        double a = exact->list[index].data[i], b = rounded->list[index].data[i];
        if (isfinite(a) && fabs(a) > largest) largest = fabs(a);
        if (isfinite(a - b) && fabs(a - b) > most) most = fabs(a - b);
    }
    return largest > 0 ? most / largest : 0;
}

/* An output of a few elements may be lucky in this one sample of the rounding, so none gets less
 * than the quadratic mean of all. */
static void measure(kin_case_graph *graph, const values *exact, const values *rounded,
                    double *noise) {
    size_t count = graph->watch_count;
    double squares = 0;
    for (size_t i = 0; i < count; i++) {
        noise[i] = 2 * change(graph, (int)i, exact, rounded);
        squares += noise[i] * noise[i];
    }
    graph->noise = count ? sqrt(squares / (double)count) : 0;
    for (size_t i = 0; i < count; i++) noise[i] = noise[i] > 0 ? fmax(noise[i], graph->noise) : 0;
}

kin_status kin_case_product_noise(kin_case_graph *graph, double **out_noise) {
    kin_context *context = graph->run->context;
    *out_noise = kin_calloc(context, graph->watch_count + 1, sizeof **out_noise);
    if (!*out_noise) return KIN_OUT_OF_MEMORY;
    if (graph->run->device->info.product_dtype == KIN_F32) return KIN_OK;
    values given = {NULL}, exact = {NULL}, rounded = {NULL};
    kin_status status = collect(graph, &given);
    if (status == KIN_OK) status = evaluate(graph, &given, KIN_ROUND_NOTHING, &exact);
    if (status == KIN_OK) status = evaluate(graph, &given, KIN_ROUND_PRODUCTS, &rounded);
    if (status == KIN_OK) measure(graph, &exact, &rounded, *out_noise);
    if (given.context) release(&given);
    if (exact.context) release(&exact);
    if (rounded.context) release(&rounded);
    return status;
}
