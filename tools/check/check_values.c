/* Values for the inputs and variables of a graph. */
#include "tools/check/check_values.h"

#include "runtime/inspect.h"
#include "runtime/philox.h"

#include <math.h>
#include <string.h>

enum { STREAM_INPUT = 40, STREAM_VARIABLE = 41 };

static bool ends_with(const char *name, const char *end) {
    size_t length = strlen(name), tail = strlen(end);
    return length >= tail && strcmp(name + length - tail, end) == 0;
}

/* A seed for each name: FNV-1a. */
static uint64_t seed_of(uint64_t seed, const char *name) {
    uint64_t hash = 14695981039346656037u ^ seed;
    for (const char *c = name; *c; c++) hash = (hash ^ (unsigned char)*c) * 1099511628211u;
    return hash;
}

static double input_element(const char *name, kin_dtype dtype, const kin_check_limits *limits,
                            uint64_t seed, int64_t i) {
    double uniform = kin_philox_element_uniform(seed, STREAM_INPUT, 0, (uint64_t)i);
    if (strcmp(name, "lr") == 0) return 1e-3;
    if (strcmp(name, "step") == 0) return 1;
    if (strcmp(name, "seed") == 0) return i == 0 ? 7 : 1;
    if (strcmp(name, "timestep") == 0) return floor(uniform * 1000);
    if (ends_with(name, "ids")) return floor(uniform * (double)limits->vocabulary);
    if (ends_with(name, "lengths")) return 1 + floor(uniform * (double)limits->text_length);
    if (ends_with(name, "mask")) return i == 0 || uniform < 0.5;
    return kin_dtype_is_float(dtype) ? kin_philox_element_normal(seed, STREAM_INPUT, 1, (uint64_t)i)
                                     : 0;
}

static kin_status make_input(kin_check_value *value, kin_context *context,
                             const kin_check_limits *limits, uint64_t seed) {
    int64_t count = kin_desc_count(&value->desc);
    value->data = kin_calloc(context, 1, kin_desc_bytes(&value->desc));
    if (!value->data) return KIN_OUT_OF_MEMORY;
    if (value->desc.dtype == KIN_Q8_0) return KIN_OK;
    uint64_t own = seed_of(seed, value->name);
    for (int64_t i = 0; i < count; i++)
        kin_element_set(value->data, value->desc.dtype, i,
                        input_element(value->name, value->desc.dtype, limits, own, i));
    return KIN_OK;
}

/* Adds noise to a tensor that is the same number everywhere. */
static void stir(kin_check_value *value, uint64_t seed) {
    kin_dtype dtype = value->desc.dtype;
    int64_t count = kin_desc_count(&value->desc);
    if (!kin_dtype_is_float(dtype) || dtype == KIN_Q8_0) return;
    double first = kin_element_get(value->data, dtype, 0);
    for (int64_t i = 1; i < count; i++)
        if (kin_element_get(value->data, dtype, i) != first) return;
    uint64_t own = seed_of(seed, value->name);
    for (int64_t i = 0; i < count; i++) {
        double noise = kin_philox_element_normal(own, STREAM_VARIABLE, 0, (uint64_t)i);
        kin_element_set(value->data, dtype, i, first + 0.1 * noise);
    }
}

static kin_status make_variables(kin_graph *graph, kin_store *store, uint64_t seed,
                                 kin_check_values *out) {
    kin_status status = kin_store_add_graph(store, graph, seed);
    for (int i = 0; status == KIN_OK && i < kin_variable_count(graph); i++) {
        kin_tensor variable = kin_variable_at(graph, i);
        kin_check_value *value = &out->list[out->count];
        *value = (kin_check_value){.name = kin_variable_name(graph, variable), .variable = true};
        value->desc = kin_store_find(store, value->name)->desc;
        value->data = kin_alloc(out->context, kin_desc_bytes(&value->desc));
        if (!value->data) return KIN_OUT_OF_MEMORY;
        out->count++;
        status = kin_store_read(store, value->name, value->desc.dtype, value->data);
        if (status == KIN_OK && kin_variable_kind_of(graph, variable) != KIN_VARIABLE_STATE)
            stir(value, seed);
    }
    return status;
}

kin_status kin_check_values_make(kin_graph *graph, kin_device *device,
                                 const kin_check_limits *limits, uint64_t seed,
                                 kin_check_values *out) {
    kin_tensor tensor;
    int inputs = 0;
    kin_store *store = NULL;
    *out = (kin_check_values){.context = kin_graph_context(graph)};
    kin_status status = kin_graph_status(graph);
    if (status != KIN_OK) return status;
    while (kin_graph_input_at(graph, inputs, &tensor)) inputs++;
    out->list = kin_calloc(out->context, (size_t)(inputs + kin_variable_count(graph)) + 1,
                           sizeof *out->list);
    if (!out->list) return KIN_OUT_OF_MEMORY;
    for (int i = 0; status == KIN_OK && i < inputs; i++) {
        kin_check_value *value = &out->list[out->count++];
        value->name = kin_graph_input_at(graph, i, &tensor);
        value->desc = *kin_tensor_desc(graph, tensor);
        status = make_input(value, out->context, limits, seed);
    }
    if (status == KIN_OK) status = kin_store_create(device, &store);
    if (status == KIN_OK) status = make_variables(graph, store, seed, out);
    kin_store_free(store);
    if (status != KIN_OK) kin_check_values_free(out);
    return status;
}

void kin_check_values_free(kin_check_values *values) {
    for (int i = 0; i < values->count; i++) kin_free(values->context, values->list[i].data);
    if (values->context) kin_free(values->context, values->list);
    *values = (kin_check_values){NULL, NULL, 0};
}

kin_check_value *kin_check_values_find(const kin_check_values *values, const char *name) {
    for (int i = 0; i < values->count; i++)
        if (strcmp(values->list[i].name, name) == 0) return &values->list[i];
    return NULL;
}

kin_status kin_check_values_write(const kin_check_values *values, kin_plan *plan,
                                  kin_store *store) {
    kin_status status = KIN_OK;
    for (int i = 0; status == KIN_OK && i < values->count; i++) {
        const kin_check_value *value = &values->list[i];
        if (value->variable && store && kin_store_find(store, value->name))
            status = kin_store_write(store, value->name, value->desc.dtype, value->data);
        else if (!value->variable && plan && kin_plan_input_desc(plan, value->name))
            status = kin_plan_write(plan, value->name, value->desc.dtype, value->data);
    }
    return status;
}

kin_status kin_check_values_doubles(const kin_check_values *values,
                                    kin_evaluate_value **out_given) {
    kin_evaluate_value *given =
        kin_calloc(values->context, (size_t)values->count + 1, sizeof *given);
    *out_given = given;
    if (!given) return KIN_OUT_OF_MEMORY;
    for (int i = 0; i < values->count; i++) {
        const kin_check_value *value = &values->list[i];
        int64_t count = kin_desc_count(&value->desc);
        given[i].name = value->name;
        given[i].data = kin_alloc(values->context, (size_t)count * sizeof(double));
        if (!given[i].data) {
            kin_check_doubles_free(values->context, given, i);
            *out_given = NULL;
            return KIN_OUT_OF_MEMORY;
        }
        kin_convert(value->data, value->desc.dtype, given[i].data, KIN_F64, count);
    }
    return KIN_OK;
}

void kin_check_doubles_free(kin_context *context, kin_evaluate_value *given, int count) {
    for (int i = 0; given && i < count; i++) kin_free(context, given[i].data);
    kin_free(context, given);
}
