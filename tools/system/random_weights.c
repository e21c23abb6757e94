#include "tools/system/random_weights.h"

#include "runtime/graph.h"
#include "runtime/store.h"
#include "tools/system/weight_files.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    PART = 1 << 14, /* elements made at a time: they stay in the cache */
    BLOCK = 32,
    BLOCK_BYTES = 34
};

struct kin_random_tensor {
    kin_init init;
    char *renamed; /* the published name, where it is not the variable's */
};

/* "encoder.mid_block.attentions.0.to_q.weight" -> "....query.weight"; NULL: stays, or no memory. */
static kin_status old_name(kin_context *context, const char *name, char **out_name) {
    static const char *const pairs[][2] = {{"attentions.0.to_q.", "query"},
                                           {"attentions.0.to_k.", "key"},
                                           {"attentions.0.to_v.", "value"},
                                           {"attentions.0.to_out.0.", "proj_attn"}};
    *out_name = NULL;
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        const char *at = strstr(name, pairs[i][0]);
        if (!at) continue;
        const char *behind = at + strlen(pairs[i][0]);
        *out_name = kin_format(context, "%.*sattentions.0.%s.%s", (int)(at - name), name,
                               pairs[i][1], behind);
        return *out_name ? KIN_OK : KIN_OUT_OF_MEMORY;
    }
    return KIN_OK;
}

static kin_status add_variable(kin_random_weights *w, kin_tensor variable, kin_dtype dtype,
                               bool old_names) {
    const kin_desc *desc = kin_tensor_desc(w->graph, variable);
    struct kin_random_tensor *source = &w->sources[w->count];
    kin_named_tensor *tensor = &w->tensors[w->count++];
    tensor->name = kin_variable_name(w->graph, variable);
    tensor->desc =
        kin_desc_dense(kin_weight_dtype(tensor->name, desc, dtype), desc->rank, desc->dims);
    source->init = kin_variable_init_of(w->graph, variable);
    if (source->init.kind == KIN_INIT_ZERO && desc->rank > 1)
        source->init = (kin_init){KIN_INIT_NORMAL, 0.02};
    if (!old_names) return KIN_OK;
    kin_status status = old_name(w->context, tensor->name, &source->renamed);
    if (source->renamed) tensor->name = source->renamed;
    return status;
}

/* Frequencies of STDiT2's rotary embedding, which its files hold: 10000^(-2i / head size). */
static kin_status add_rotary(kin_random_weights *w, const kin_stdit2_config *c, kin_dtype dtype) {
    int64_t size = c->common.hidden_size / c->common.num_heads, half = size / 2;
    w->rotary = kin_alloc(w->context, (size_t)half * sizeof *w->rotary);
    if (!w->rotary) return KIN_OUT_OF_MEMORY;
    for (int64_t i = 0; i < half; i++)
        w->rotary[i] = (float)pow(10000, -2.0 * (double)i / (double)size);
    kin_desc desc = kin_desc_dense(KIN_F32, 1, &half);
    dtype = kin_weight_dtype("rope.freqs", &desc, dtype);
    kin_convert(w->rotary, KIN_F32, w->rotary, dtype, half); /* in place: never wider */
    w->tensors[w->count++] = (kin_named_tensor){
        .name = "rope.freqs", .desc = kin_desc_dense(dtype, 1, &half), .data = w->rotary};
    return KIN_OK;
}

kin_status kin_random_weights_create(kin_context *context, const kin_model_choice *choice,
                                     kin_dtype dtype, uint64_t seed, bool old_names,
                                     kin_random_weights *w) {
    *w = (kin_random_weights){.context = context, .seed = seed};
    kin_status status = kin_graph_create(context, &w->graph);
    if (status != KIN_OK) return status;
    kin_model_append_any(w->graph, choice);
    status = kin_graph_status(w->graph);
    int variables = status == KIN_OK ? kin_variable_count(w->graph) : 0;
    w->tensors = kin_calloc(context, (size_t)variables + 1, sizeof *w->tensors);
    w->sources = kin_calloc(context, (size_t)variables + 1, sizeof *w->sources);
    if (!w->tensors || !w->sources) status = KIN_OUT_OF_MEMORY;
    for (int i = 0; status == KIN_OK && i < variables; i++) {
        kin_tensor variable = kin_variable_at(w->graph, i);
        const char *const *names = kin_t5_aliases(kin_variable_name(w->graph, variable));
        if (choice->kind == KIN_MODEL_T5 && names[0])
            w->alias = (kin_pickle_alias){names[1], w->count};
        status = add_variable(w, variable, dtype, old_names);
    }
    if (status == KIN_OK && choice->kind == KIN_MODEL_DENOISER &&
        choice->denoiser.kind == KIN_DENOISER_STDIT2)
        status = add_rotary(w, &choice->denoiser.stdit2, dtype);
    if (status != KIN_OK) kin_random_weights_free(w);
    return status;
}

void kin_random_weights_free(kin_random_weights *w) {
    if (!w->context) return;
    for (size_t i = 0; w->sources && i < w->count; i++) kin_free(w->context, w->sources[i].renamed);
    kin_free(w->context, w->sources);
    kin_free(w->context, w->tensors);
    kin_free(w->context, w->rotary);
    kin_graph_destroy(w->graph);
    *w = (kin_random_weights){.context = NULL};
}

static int64_t elements_of(kin_dtype dtype, size_t bytes) {
    if (dtype == KIN_Q8_0) return (int64_t)(bytes / BLOCK_BYTES * BLOCK);
    return (int64_t)(bytes / kin_dtype_size(dtype));
}

static size_t bytes_of(kin_dtype dtype, int64_t elements) {
    if (dtype == KIN_Q8_0) return (size_t)(elements / BLOCK) * BLOCK_BYTES;
    return (size_t)elements * kin_dtype_size(dtype);
}

kin_status kin_random_weights_fill(void *user, size_t index, size_t offset, void *bytes,
                                   size_t size) {
    const kin_random_weights *w = user;
    const kin_named_tensor *tensor = &w->tensors[index];
    const kin_init init = w->sources[index].init;
    const kin_dtype dtype = tensor->desc.dtype;
    const int64_t first = elements_of(dtype, offset), count = elements_of(dtype, size);
    unsigned char *out = bytes;
#pragma omp parallel for num_threads(kin_context_threads(w->context)) schedule(static)
    for (int64_t at = 0; at < count; at += PART) {
        float values[PART];
        int64_t part = count - at < PART ? count - at : PART;
        kin_init_values(tensor->name, &tensor->desc, init, w->seed, first + at, (size_t)part,
                        values);
        kin_convert(values, KIN_F32, out + bytes_of(dtype, at), dtype, part);
    }
    return KIN_OK;
}
