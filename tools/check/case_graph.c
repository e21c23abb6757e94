/* Graphs whose inputs, weights and outputs are those of a case. */
#include "tools/check/case_run.h"

#include <string.h>

#include "ops/elementwise.h"
#include "ops/reduce.h"
#include "ops/views.h"
#include "tools/check/check_values.h"

bool kin_case_begin(kin_case_run *run, kin_case_graph *graph) {
    *graph = (kin_case_graph){.run = run};
    return kin_case_ok(run, "graph", kin_graph_create(run->context, &graph->graph));
}

void kin_case_end(kin_case_graph *graph) {
    kin_context *context = graph->run->context;
    for (int i = 0; i < graph->feed_count; i++) kin_free(context, graph->feeds[i].data);
    kin_free(context, graph->watched);
    kin_plan_free(graph->plan);
    kin_store_free(graph->store);
    kin_graph_destroy(graph->graph);
}

/* Takes ownership of `data`. */
static kin_tensor feed(kin_case_graph *graph, const char *name, kin_dtype dtype, int rank,
                       const int64_t *dims, void *data) {
    if (graph->feed_count == KIN_CASE_FEEDS || !data) {
        kin_free(graph->run->context, data);
        return kin_graph_fail(graph->graph, KIN_OUT_OF_MEMORY, "cannot feed \"%s\"", name);
    }
    kin_case_feed *entry = &graph->feeds[graph->feed_count++];
    *entry = (kin_case_feed){.dtype = dtype, .data = data};
    snprintf(entry->name, sizeof entry->name, "%s", name);
    entry->tensor = kin_input(graph->graph, name, dtype, rank, dims);
    return entry->tensor;
}

kin_tensor kin_case_feed_input(kin_case_graph *graph, const char *name, kin_dtype integers) {
    const kin_named_tensor *tensor = kin_case_input_tensor(graph->run, name);
    if (!tensor)
        return kin_graph_fail(graph->graph, KIN_NOT_FOUND, "the case has no input \"%s\"", name);
    kin_dtype dtype = kin_dtype_is_float(tensor->desc.dtype) ? KIN_F32 : integers;
    return feed(graph, name, dtype, tensor->desc.rank, tensor->desc.dims,
                kin_case_values(graph->run, tensor, dtype));
}

kin_tensor kin_case_feed_values(kin_case_graph *graph, const char *name, kin_dtype dtype, int rank,
                                const int64_t *dims, const void *values) {
    kin_desc desc = kin_desc_dense(dtype, rank, dims);
    void *copy = kin_alloc(graph->run->context, kin_desc_bytes(&desc));
    if (copy) memcpy(copy, values, kin_desc_bytes(&desc));
    return feed(graph, name, dtype, rank, dims, copy);
}

kin_tensor kin_case_lengths(kin_case_graph *graph, const char *name) {
    kin_case_run *run = graph->run;
    const kin_named_tensor *mask = kin_case_input_tensor(run, name);
    if (!mask || mask->desc.rank != 2)
        return kin_graph_fail(graph->graph, KIN_NOT_FOUND, "the case has no mask \"%s\"", name);
    int64_t rows = mask->desc.dims[0], columns = mask->desc.dims[1];
    int32_t *lengths = kin_calloc(run->context, (size_t)rows, sizeof *lengths);
    for (int64_t row = 0; lengths && row < rows; row++) {
        bool ended = false;
        for (int64_t i = 0; i < columns; i++) {
            bool one = kin_element_get(mask->data, mask->desc.dtype, row * columns + i) != 0;
            if (one && ended) {
                kin_free(run->context, lengths);
                return kin_graph_fail(graph->graph, KIN_INVALID,
                                      "mask \"%s\" has ones behind zeros", name);
            }
            ended = ended || !one;
            lengths[row] += one;
        }
    }
    return feed(graph, name, KIN_I32, 1, &rows, lengths);
}

kin_tensor kin_case_state(kin_case_graph *graph, const char *name, kin_variable_kind kind) {
    const kin_named_tensor *tensor = kin_case_input_tensor(graph->run, name);
    if (!tensor)
        return kin_graph_fail(graph->graph, KIN_NOT_FOUND, "the case has no input \"%s\"", name);
    return kin_variable(graph->graph, name, kind, KIN_F32, tensor->desc.rank, tensor->desc.dims,
                        (kin_init){KIN_INIT_ZERO, 0});
}

void kin_case_watch(kin_case_graph *graph, const char *name) {
    if (graph->watch_count == graph->watch_room) {
        size_t room = graph->watch_room ? 2 * graph->watch_room : 32;
        void *larger =
            kin_realloc(graph->run->context, graph->watched, room * sizeof *graph->watched);
        if (!larger) {
            kin_graph_fail(graph->graph, KIN_OUT_OF_MEMORY, "no host memory");
            return;
        }
        graph->watched = larger;
        graph->watch_room = room;
    }
    snprintf(graph->watched[graph->watch_count++], KIN_CASE_NAME, "%s", name);
}

void kin_case_output(kin_case_graph *graph, const char *name, kin_tensor tensor) {
    kin_output(graph->graph, name, tensor);
    kin_case_watch(graph, name);
}

void kin_case_watch_all(kin_case_graph *graph, const char *prefix, int count) {
    char name[KIN_CASE_NAME];
    for (int i = 0; i < count; i++) {
        snprintf(name, sizeof name, "%s.%d", prefix, i);
        kin_case_watch(graph, name);
    }
}

kin_tensor kin_case_dot(kin_case_graph *graph, kin_tensor out, const char *cotangent) {
    kin_tensor c = kin_case_feed_input(graph, cotangent, KIN_F32);
    return kin_sum_all(graph->graph, kin_mul(graph->graph, out, c));
}

/* The tensor whose gradient is called PREFIX... in the case; KIN_NONE if the graph lacks it. */
static kin_tensor gradient_target(const kin_case_graph *graph, const char *output) {
    const char *input = "grad.input.", *param = "grad.param.";
    if (strncmp(output, input, strlen(input)) == 0) {
        for (int i = 0; i < graph->feed_count; i++)
            if (strcmp(graph->feeds[i].name, output + strlen(input)) == 0)
                return graph->feeds[i].tensor;
    } else if (strncmp(output, param, strlen(param)) == 0) {
        for (int i = 0; i < kin_variable_count(graph->graph); i++) {
            kin_tensor variable = kin_variable_at(graph->graph, i);
            const char *name = kin_variable_name(graph->graph, variable);
            if (strcmp(name, output + strlen(param)) == 0) return variable;
        }
    }
    return KIN_NONE;
}

void kin_case_gradients(kin_case_graph *graph, kin_tensor loss) {
    const kin_safetensors *outputs = graph->run->outputs;
    size_t count = kin_safetensors_count(outputs);
    for (size_t i = 0; i < count; i++) {
        const char *name = kin_safetensors_at(outputs, i)->name;
        kin_tensor target = gradient_target(graph, name);
        if (target.id && strncmp(name, "grad.input.", 11) == 0)
            kin_want_gradient(graph->graph, target);
    }
    kin_backward(graph->graph, loss);
    for (size_t i = 0; i < count; i++) {
        const char *name = kin_safetensors_at(outputs, i)->name;
        kin_tensor target = gradient_target(graph, name);
        kin_tensor gradient = target.id ? kin_gradient(graph->graph, target) : KIN_NONE;
        if (gradient.id) kin_case_output(graph, name, gradient);
    }
}

/* Loads what the graph's variables need from the weights, or, where those lack it, from an input of
 * that name. Weights that the graph does not use (the other half of a VAE, a null caption) are
 * fine.
 */
static kin_status load_weights(kin_case_graph *graph, kin_weights_rename rename,
                               const void *config) {
    kin_case_run *run = graph->run;
    kin_status status = KIN_OK;
    if (run->weights) {
        kin_weights_options options = {
            .rename = rename, .config = config, .allow_missing = true, .allow_unexpected = true};
        char *path = kin_path_join(run->context, run->folder, "weights.safetensors");
        status = path ? kin_weights_load(graph->store, path, &options, NULL) : KIN_OUT_OF_MEMORY;
        kin_free(run->context, path);
    }
    for (size_t i = 0; status == KIN_OK && i < kin_store_count(graph->store); i++) {
        kin_store_entry *entry = kin_store_at(graph->store, i);
        const kin_named_tensor *tensor = kin_case_input_tensor(run, entry->name);
        if (entry->loaded) continue;
        if (tensor)
            status = kin_store_write(graph->store, entry->name, tensor->desc.dtype, tensor->data);
        else if (entry->kind != KIN_VARIABLE_STATE)
            status =
                kin_fail(run->context, KIN_NOT_FOUND, "the case has no weight %s", entry->name);
    }
    return status;
}

bool kin_case_prepare(kin_case_graph *graph, kin_weights_rename rename, const void *config) {
    kin_case_run *run = graph->run;
    kin_plan_options options = {.struct_size = sizeof options,
                                .recompute = run->options->recompute ? KIN_RECOMPUTE_SEGMENTS
                                                                    : KIN_RECOMPUTE_AUTO,
                                .allow_reference = run->options->allow_reference};
    kin_status status = kin_plan_build(graph->graph, run->device, &options, &graph->plan);
    if (status == KIN_OK) status = kin_store_create(run->device, &graph->store);
    if (status == KIN_OK) status = kin_store_add_graph(graph->store, graph->graph, 1);
    if (status == KIN_OK) status = load_weights(graph, rename, config);
    if (status == KIN_OK) status = kin_plan_prepare(graph->plan, graph->store, NULL);
    for (int i = 0; status == KIN_OK && i < graph->feed_count; i++) {
        kin_case_feed *f = &graph->feeds[i];
        /* A plan has no input that nothing reads. */
        if (kin_plan_input_desc(graph->plan, f->name))
            status = kin_plan_write(graph->plan, f->name, f->dtype, f->data);
    }
    return kin_case_ok(run, "plan", status);
}

float *kin_case_read(kin_case_graph *graph, const char *name) {
    kin_case_run *run = graph->run;
    const kin_desc *desc = kin_plan_output_desc(graph->plan, name);
    if (!desc) {
        kin_case_expect(run, name, false, "is no output of the graph");
        return NULL;
    }
    float *values = kin_alloc(run->context, (size_t)kin_desc_count(desc) * sizeof *values);
    kin_status status =
        values ? kin_plan_read(graph->plan, name, KIN_F32, values) : KIN_OUT_OF_MEMORY;
    if (kin_case_ok(run, name, status)) return values;
    kin_free(run->context, values);
    return NULL;
}

/* Runs the plan node by node beside the references; tells the first node that is off. */
static kin_status check_nodes(kin_case_graph *graph) {
    kin_case_run *run = graph->run;
    kin_divergence off;
    kin_status status = kin_plan_check(graph->plan, 1, &off);
    if (status != KIN_NUMERIC) return status;
    kin_plan_node node = kin_plan_node_at(graph->plan, off.node);
    return kin_fail(run->context, KIN_NUMERIC,
                    "node %d, %s by %s in \"%s\": output %d is off by %.3g (allowed %.3g): element "
                    "%lld is %.9g, not %.9g",
                    off.node, node.op, node.kernel, node.path, off.output, off.error, off.tolerance,
                    (long long)off.element, off.got, off.want);
}

/* Hands the graph and its values to who watches. */
static kin_status show_graph(kin_case_graph *graph) {
    kin_context *context = graph->run->context;
    const kin_case_options *options = graph->run->options;
    size_t variables = kin_store_count(graph->store);
    kin_check_values values = {.context = context};
    kin_status status = KIN_OK;
    if (!options->watch) return KIN_OK;
    values.list =
        kin_calloc(context, variables + (size_t)graph->feed_count + 1, sizeof *values.list);
    if (!values.list) return KIN_OUT_OF_MEMORY;
    for (int i = 0; status == KIN_OK && i < graph->feed_count; i++) {
        const kin_case_feed *feed_of = &graph->feeds[i];
        kin_check_value *value = &values.list[values.count++];
        const kin_desc *desc = kin_tensor_desc(graph->graph, feed_of->tensor);
        *value = (kin_check_value){.name = feed_of->name, .desc = *desc};
        value->data = kin_alloc(context, kin_desc_bytes(desc));
        if (value->data) memcpy(value->data, feed_of->data, kin_desc_bytes(desc));
        else status = KIN_OUT_OF_MEMORY;
    }
    for (size_t i = 0; status == KIN_OK && i < variables; i++) {
        const kin_store_entry *entry = kin_store_at(graph->store, i);
        kin_check_value *value = &values.list[values.count++];
        *value = (kin_check_value){.name = entry->name, .desc = entry->desc, .variable = true};
        value->data = kin_alloc(context, kin_desc_bytes(&entry->desc));
        status = value->data
                     ? kin_store_read(graph->store, entry->name, entry->desc.dtype, value->data)
                     : KIN_OUT_OF_MEMORY;
    }
    if (status == KIN_OK) options->watch(options->watch_user, graph->graph, &values);
    kin_check_values_free(&values);
    return status;
}

bool kin_case_run_and_compare(kin_case_graph *graph) {
    kin_case_run *run = graph->run;
    const double usual = run->tolerance;
    double *noise = NULL;
    kin_status status = show_graph(graph);
    if (status == KIN_OK) status = kin_case_product_noise(graph, &noise);
    if (status == KIN_OK)
        status = run->options->check_nodes ? check_nodes(graph) : kin_plan_run(graph->plan);
    if (!kin_case_ok(run, "run", status)) {
        kin_free(run->context, noise);
        return false;
    }
    for (size_t i = 0; i < graph->watch_count; i++) {
        const char *name = graph->watched[i];
        float *values = kin_case_read(graph, name);
        if (!values) continue;
        const kin_desc *desc = kin_plan_output_desc(graph->plan, name);
        run->tolerance = usual + noise[i];
        kin_case_compare(run, name, KIN_F32, values, kin_desc_count(desc));
        kin_free(run->context, values);
    }
    run->tolerance = usual;
    kin_free(run->context, noise);
    return true;
}
