/* Prompts to text features. */
#include <string.h>

#include "tools/generate/caption_clean.h"
#include "tools/generate/pipeline_internal.h"

/* The script's f-string has these line ends and spaces; cleaning takes them out again. */
static const char plan_template[] =
    "\n    (masterpiece), (best quality), (ultra-detailed), \n    %s. \n    ";

void kin_text_free(kin_context *context, kin_text *text) {
    kin_host_tensor_free(context, &text->features);
    kin_host_tensor_free(context, &text->lengths);
}

/* The text that is tokenized; kin_free. */
static kin_status finish_prompt(const kin_pipeline *p, const char *prompt, bool negative,
                                char **out_text) {
    bool plan = p->system.kind == KIN_SYSTEM_OPEN_SORA_PLAN;
    char *framed = plan && !negative ? kin_format(p->context, plan_template, prompt)
                                     : kin_strdup(p->context, prompt);
    if (!framed) return KIN_OUT_OF_MEMORY;
    kin_status status = p->clean_text
                            ? kin_caption_clean(p->context, framed, strlen(framed), plan, out_text)
                            : kin_caption_lower(p->context, framed, strlen(framed), out_text);
    kin_free(p->context, framed);
    return status;
}

static kin_status tokenize(const kin_pipeline *p, const char *const *prompts, int64_t count,
                           bool negative, int max_length, int32_t *ids, int32_t *lengths) {
    const char *path = p->system.parts[KIN_PART_TOKENIZER].path;
    kin_tokenizer *tokenizer;
    kin_status status = kin_tokenizer_load(p->context, path, &tokenizer);
    if (status != KIN_OK) return status;
    if (kin_tokenizer_size(tokenizer) > p->system.text_encoder.vocab_size)
        status =
            kin_fail(p->context, KIN_INVALID, "%s has %d pieces, but the text encoder knows %d",
                     path, kin_tokenizer_size(tokenizer), p->system.text_encoder.vocab_size);
    for (int64_t i = 0; status == KIN_OK && i < count; i++) {
        char *text = NULL;
        int length = 0;
        status = finish_prompt(p, prompts[i], negative, &text);
        if (status == KIN_OK)
            status = kin_tokenizer_encode_padded(tokenizer, text, strlen(text), max_length,
                                                 ids + i * max_length, &length);
        lengths[i] = length;
        kin_free(p->context, text);
    }
    kin_tokenizer_destroy(tokenizer);
    return status;
}

/* One text at a time. */
static kin_status plan_encoder(const kin_pipeline *p, int64_t length, kin_graph **out_graph,
                               kin_pipeline_stage *stage) {
    const kin_t5_config *config = &p->system.text_encoder;
    int64_t one[2] = {1, length};
    kin_precision precision;
    *out_graph = NULL;
    kin_status status = kin_pipeline_part_precision(p, KIN_PART_TEXT_ENCODER, &precision);
    /* T5's activations are beyond the range of f16. */
    if (precision.compute == KIN_F16) precision.compute = KIN_F32;
    if (status == KIN_OK) status = kin_graph_create(p->context, out_graph);
    if (status != KIN_OK) return status;
    kin_graph *graph = *out_graph;
    kin_tensor tokens = kin_input(graph, "ids", KIN_I32, 2, one);
    kin_tensor lengths = kin_input(graph, "lengths", KIN_I32, 1, one);
    kin_scope_push(graph, "text_encoder");
    kin_tensor features = kin_t5_encode(graph, config, &precision, tokens, lengths, false);
    kin_scope_pop(graph);
    kin_output(graph, "features", features);
    status = kin_pipeline_plan_stage(p, graph, stage);
    if (status == KIN_OUT_OF_MEMORY)
        status =
            kin_fail_in(p->context, status, "encoding a prompt of %lld tokens", (long long)length);
    return status;
}

static kin_status open_encoder(const kin_pipeline *p, int64_t length, kin_pipeline_stage *stage) {
    kin_graph *graph;
    kin_status status = plan_encoder(p, length, &graph, stage);
    if (status == KIN_OK)
        status = kin_pipeline_load_stage(p, graph, KIN_PART_TEXT_ENCODER, "text_encoder",
                                         kin_t5_rename, &p->system.text_encoder, stage);
    kin_graph_destroy(graph);
    return status;
}

kin_status kin_pipeline_text_memory(const kin_pipeline *p, uint64_t *out_bytes) {
    kin_graph *graph;
    kin_pipeline_stage stage = {0};
    int64_t length = kin_denoiser_shape_of(&p->system.denoiser).text_length;
    kin_status status = plan_encoder(p, length, &graph, &stage);
    if (status == KIN_OK) *out_bytes = kin_plan_summarize(stage.plan)->peak;
    kin_pipeline_free_stage(&stage);
    kin_graph_destroy(graph);
    return status;
}

static kin_status encode(kin_pipeline *p, const char *const *prompts, int64_t count, bool negative,
                         kin_text *out_text) {
    int64_t length = kin_denoiser_shape_of(&p->system.denoiser).text_length;
    int64_t channels = p->system.text_encoder.d_model, dims[3] = {count, length, channels};
    kin_pipeline_stage stage = {0};
    *out_text = (kin_text){.features = {.data = NULL}};
    int32_t *ids = kin_alloc(p->context, (size_t)(count * length) * sizeof *ids);
    kin_status status = ids ? KIN_OK : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK)
        status = kin_host_tensor_create(p->context, KIN_F32, 3, dims, &out_text->features);
    if (status == KIN_OK)
        status = kin_host_tensor_create(p->context, KIN_I32, 1, dims, &out_text->lengths);
    int32_t *lengths = out_text->lengths.data;
    if (status == KIN_OK) status = tokenize(p, prompts, count, negative, (int)length, ids, lengths);
    if (status == KIN_OK) status = open_encoder(p, length, &stage);
    for (int64_t i = 0; status == KIN_OK && i < count; i++) {
        float *row = (float *)out_text->features.data + i * length * channels;
        status = kin_plan_write(stage.plan, "ids", KIN_I32, ids + i * length);
        if (status == KIN_OK) status = kin_plan_write(stage.plan, "lengths", KIN_I32, lengths + i);
        if (status == KIN_OK) status = kin_plan_run(stage.plan);
        if (status == KIN_OK) status = kin_plan_read(stage.plan, "features", KIN_F32, row);
    }
    kin_pipeline_free_stage(&stage);
    kin_free(p->context, ids);
    if (status != KIN_OK) kin_text_free(p->context, out_text);
    return status;
}

kin_status kin_pipeline_encode(kin_pipeline *pipeline, const char *const *prompts, int64_t count,
                               kin_text *out_text) {
    return encode(pipeline, prompts, count, false, out_text);
}

kin_status kin_pipeline_encode_negative(kin_pipeline *pipeline, const char *const *prompts,
                                        int64_t count, kin_text *out_text) {
    return encode(pipeline, prompts, count, true, out_text);
}
