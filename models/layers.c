#include "models/layers.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "ops/conv.h"
#include "ops/layout.h"
#include "ops/matmul.h"
#include "ops/norm.h"
#include "runtime/json.h"

enum { Q8_0_ROW = 32, LARGE = 65536 };

kin_dtype kin_layer_dtype(const kin_precision *precision, int rank, const int64_t *dims) {
    if (precision->weights != KIN_Q8_0) return precision->weights;
    int64_t count = 1;
    for (int i = 0; i < rank; i++) count *= dims[i];
    return rank > 1 && count >= LARGE ? KIN_F16 : KIN_F32;
}

kin_tensor kin_layer_weight(kin_graph *graph, const kin_precision *precision, const char *name,
                            int rank, const int64_t *dims, kin_init init) {
    kin_tensor weight = kin_variable(graph, name, KIN_VARIABLE_WEIGHT,
                                     kin_layer_dtype(precision, rank, dims), rank, dims, init);
    return kin_cast(graph, weight, precision->compute);
}

/* "weight" [out, in] of a linear layer. */
static kin_tensor linear_weight(kin_graph *graph, const kin_precision *precision, int64_t out,
                                int64_t in, kin_init init) {
    int64_t dims[2] = {out, in};
    if (precision->weights != KIN_Q8_0 || in % Q8_0_ROW != 0)
        return kin_layer_weight(graph, precision, "weight", 2, dims, init);
    return kin_variable(graph, "weight", KIN_VARIABLE_WEIGHT, KIN_Q8_0, 2, dims, init);
}

/* The start of a weight, or, with is_bias, of the bias beside it. */
static kin_init start_of(kin_layer_start start, bool is_bias, double fan_in) {
    if (start == KIN_START_TORCH) return (kin_init){KIN_INIT_UNIFORM, 1.0 / sqrt(fan_in)};
    if (is_bias || start == KIN_START_ZERO) return (kin_init){KIN_INIT_ZERO, 0};
    if (start == KIN_START_XAVIER) return (kin_init){KIN_INIT_XAVIER_UNIFORM, 1};
    return (kin_init){KIN_INIT_NORMAL, 0.02};
}

kin_tensor kin_layer_linear(kin_graph *graph, const kin_precision *precision, const char *name,
                            kin_tensor x, int64_t out, kin_layer_start start) {
    int64_t in = kin_dim(graph, x, -1);
    kin_scope_push(graph, "%s", name);
    kin_tensor weight =
        linear_weight(graph, precision, out, in, start_of(start, false, (double)in));
    kin_tensor bias =
        kin_layer_weight(graph, precision, "bias", 1, &out, start_of(start, true, (double)in));
    kin_tensor y = kin_linear(graph, x, weight, bias);
    kin_scope_pop(graph);
    return y;
}

kin_tensor kin_layer_linear_plain(kin_graph *graph, const kin_precision *precision,
                                  const char *name, kin_tensor x, int64_t out, double std) {
    int64_t in = kin_dim(graph, x, -1);
    kin_scope_push(graph, "%s", name);
    kin_tensor weight = linear_weight(graph, precision, out, in, (kin_init){KIN_INIT_NORMAL, std});
    kin_tensor y = kin_linear(graph, x, weight, KIN_NONE);
    kin_scope_pop(graph);
    return y;
}

kin_tensor kin_layer_conv2d(kin_graph *graph, const kin_precision *precision, const char *name,
                            kin_tensor x, int64_t out, int size, int stride, int pad_before,
                            int pad_after) {
    int64_t in = kin_dim(graph, x, 1);
    double fan_in = (double)in * size * size;
    kin_scope_push(graph, "%s", name);
    kin_tensor weight =
        kin_layer_weight(graph, precision, "weight", 4, (int64_t[]){out, in, size, size},
                         start_of(KIN_START_TORCH, false, fan_in));
    kin_tensor bias = kin_layer_weight(graph, precision, "bias", 1, &out,
                                       start_of(KIN_START_TORCH, true, fan_in));
    kin_conv_attrs attrs = {.stride = {1, stride, stride},
                            .before = {0, pad_before, pad_before},
                            .after = {0, pad_after, pad_after}};
    kin_tensor y = kin_conv(graph, x, weight, bias, &attrs);
    kin_scope_pop(graph);
    return y;
}

kin_tensor kin_layer_group_norm(kin_graph *graph, const kin_precision *precision, const char *name,
                                kin_tensor x, int groups, double eps, bool silu) {
    int64_t channels = kin_dim(graph, x, 1);
    kin_scope_push(graph, "%s", name);
    kin_tensor weight =
        kin_layer_weight(graph, precision, "weight", 1, &channels, (kin_init){KIN_INIT_ONE, 0});
    kin_tensor bias =
        kin_layer_weight(graph, precision, "bias", 1, &channels, (kin_init){KIN_INIT_ZERO, 0});
    kin_tensor y = kin_group_norm(graph, x, weight, bias, groups, eps, silu);
    kin_scope_pop(graph);
    return y;
}

kin_tensor kin_layer_table(kin_graph *graph, const kin_precision *precision, int rank,
                           const int64_t *dims, const float *values) {
    kin_desc desc = kin_desc_dense(precision->compute, rank, dims);
    if (desc.dtype == KIN_F32) return kin_constant(graph, KIN_F32, rank, dims, values);
    kin_context *context = kin_graph_context(graph);
    void *converted = kin_alloc(context, kin_desc_bytes(&desc));
    if (!converted) return kin_graph_fail(graph, KIN_OUT_OF_MEMORY, "no host memory for a table");
    kin_convert(values, KIN_F32, converted, desc.dtype, kin_desc_count(&desc));
    kin_tensor table = kin_constant(graph, desc.dtype, rank, dims, converted);
    kin_free(context, converted);
    return table;
}

kin_status kin_config_check_keys(kin_context *context, const json_t *object, const char *where,
                                 const char *const *known, size_t count, kin_unknown_keys unknown) {
    if (unknown == KIN_UNKNOWN_KEYS_FAIL || !json_is_object(object))
        return kin_json_check_keys(context, object, where, known, count);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value) {
        size_t i = 0;
        while (i < count && strcmp(key, known[i]) != 0) i++;
        if (i < count) continue;
        const char *nearest = kin_nearest_name(key, known, count);
        kin_log(context, KIN_LOG_WARN, "%s: unknown key '%s' is ignored%s%s%s", where, key,
                nearest ? "; did you mean '" : "", nearest ? nearest : "", nearest ? "'?" : "");
    }
    return KIN_OK;
}

kin_status kin_config_get_int(kin_context *context, const json_t *object, const char *where,
                              const char *key, int low, int high, int *value) {
    int64_t wide = *value;
    kin_status status =
        kin_json_get_int_between(context, object, where, key, low, high, *value, &wide);
    if (status == KIN_OK) *value = (int)wide;
    return status;
}

void kin_layer_tap(kin_graph *graph, bool wanted, const char *name, int index, kin_tensor tensor) {
    if (!wanted) return;
    char text[64];
    if (index < 0) snprintf(text, sizeof text, "%s", name);
    else snprintf(text, sizeof text, "%s.%d", name, index);
    kin_output(graph, text, kin_cast(graph, tensor, KIN_F32));
}
