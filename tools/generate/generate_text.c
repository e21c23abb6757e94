/* Texts of clips: encoded many at a time, since the text encoder is the largest part to load. */
#include "tools/generate/generate.h"

#include <string.h>

kin_stage kin_text_stage(const kin_clip_work *work) {
    return (kin_stage){work->clip->stages,
                       "embeddings",
                       work->text_key,
                       work->negative ? 4 : 2,
                       {"features", "lengths", "negative", "negative_lengths"}};
}

void kin_text_wants(const kin_generate *g, const kin_clip_work *work, kin_desc out_want[4]) {
    kin_denoiser_shape shape = kin_denoiser_shape_of(&g->pipeline.system.denoiser);
    (void)work;
    for (int i = 0; i < 2; i++) { /* -1: a row for each text that passes differ in */
        int64_t rows = i ? 1 : -1, dims[3] = {rows, shape.text_length, shape.caption_channels};
        out_want[2 * i] = (kin_desc){.dtype = KIN_F32, .rank = 3};
        out_want[2 * i + 1] = (kin_desc){.dtype = KIN_I32, .rank = 1};
        memcpy(out_want[2 * i].dims, dims, sizeof dims);
        out_want[2 * i + 1].dims[0] = rows;
    }
}

/* Texts without repetition, and which of them a clip's passes have. */
typedef struct text_list {
    char **texts;
    size_t count, room;
} text_list;

static void list_free(kin_context *context, text_list *list) {
    for (size_t i = 0; i < list->count; i++) kin_free(context, list->texts[i]);
    kin_free(context, list->texts);
    *list = (text_list){NULL, 0, 0};
}

/* Takes over `text`. */
static kin_status list_put(kin_context *context, text_list *list, char *text, size_t *out_index) {
    if (!text) return KIN_OUT_OF_MEMORY;
    for (*out_index = 0; *out_index < list->count; ++*out_index)
        if (strcmp(list->texts[*out_index], text) == 0) {
            kin_free(context, text);
            return KIN_OK;
        }
    if (list->count == list->room) {
        size_t room = list->room ? 2 * list->room : 16;
        char **texts = kin_realloc(context, list->texts, room * sizeof *texts);
        if (!texts) {
            kin_free(context, text);
            return KIN_OUT_OF_MEMORY;
        }
        list->texts = texts;
        list->room = room;
    }
    list->texts[list->count++] = text;
    return KIN_OK;
}

/* Passes that have a text of their own: all or, where they share it, one. */
static int text_rows(const kin_generate *g, const kin_clip_work *w) {
    return strncmp(w->clip->prompt->text, "|0|", 3) == 0 ? g->passes.count : 1;
}

/* The rows of a tensor [n, ...] that `indices` name, as a new tensor. */
static kin_status take_rows(kin_context *context, const kin_host_tensor *from,
                            const size_t *indices, int64_t count, kin_host_tensor *out) {
    int64_t dims[3] = {count, from->desc.dims[1], from->desc.dims[2]};
    kin_status status =
        kin_host_tensor_create(context, from->desc.dtype, from->desc.rank, dims, out);
    if (status != KIN_OK) return status;
    size_t row = kin_desc_bytes(&out->desc) / (size_t)count;
    for (int64_t i = 0; i < count; i++)
        memcpy((char *)out->data + (size_t)i * row, (const char *)from->data + indices[i] * row,
               row);
    return KIN_OK;
}

static kin_status save_text(kin_generate *g, const kin_clip_work *w, const kin_text *all,
                            const kin_text *negatives, const size_t *rows, size_t negative) {
    kin_host_tensor tensors[4] = {{.data = NULL}};
    kin_stage stage = kin_text_stage(w);
    int64_t count = text_rows(g, w);
    kin_status status = take_rows(g->context, &all->features, rows, count, &tensors[0]);
    if (status == KIN_OK) status = take_rows(g->context, &all->lengths, rows, count, &tensors[1]);
    if (status == KIN_OK && w->negative)
        status = take_rows(g->context, &negatives->features, &negative, 1, &tensors[2]);
    if (status == KIN_OK && w->negative)
        status = take_rows(g->context, &negatives->lengths, &negative, 1, &tensors[3]);
    if (status == KIN_OK) status = kin_stage_save(g->context, &stage, tensors);
    for (int i = 0; i < 4; i++) kin_host_tensor_free(g->context, &tensors[i]);
    return status;
}

static bool text_there(kin_generate *g, const kin_clip_work *w) {
    kin_desc want[4];
    kin_stage stage = kin_text_stage(w);
    kin_text_wants(g, w, want);
    return kin_stage_there(g->context, &stage, want);
}

static kin_status encode_list(kin_generate *g, const text_list *list, bool negative,
                              kin_text *out) {
    const char *const *texts = (const char *const *)list->texts;
    int64_t count = (int64_t)list->count;
    *out = (kin_text){{.data = NULL}, {.data = NULL}};
    if (count == 0) return KIN_OK;
    return negative ? kin_pipeline_encode_negative(&g->pipeline, texts, count, out)
                    : kin_pipeline_encode(&g->pipeline, texts, count, out);
}

static void tell(kin_generate *g, const kin_clip_work *w) {
    kin_stage stage = kin_text_stage(w);
    kin_stage_tell(g->context, &stage);
}

kin_status kin_generate_texts(kin_generate *g, kin_clip_work *work, size_t count) {
    text_list prompts = {NULL, 0, 0}, negatives = {NULL, 0, 0};
    kin_text all = {{.data = NULL}, {.data = NULL}}, none = all;
    kin_context *context = g->context;
    size_t passes = (size_t)g->passes.count;
    size_t *rows = kin_calloc(context, count * (passes + 1), sizeof *rows);
    bool *wanted = kin_calloc(context, count, sizeof *wanted);
    kin_status status = rows && wanted ? KIN_OK : KIN_OUT_OF_MEMORY;
    for (size_t i = 0; status == KIN_OK && i < count; i++) {
        kin_clip_work *w = &work[i];
        if (!w->needs_text) continue;
        wanted[i] = !text_there(g, w);
        if (!wanted[i]) tell(g, w);
        for (int k = 0; status == KIN_OK && wanted[i] && k < text_rows(g, w); k++) {
            char *text = NULL;
            status = kin_prompt_of_loop(context, w->clip->prompt->text, k, &text);
            if (status == KIN_OK)
                status = list_put(context, &prompts, text, &rows[i * (passes + 1) + (size_t)k]);
        }
        if (status == KIN_OK && wanted[i] && w->negative)
            status = list_put(context, &negatives, kin_strdup(context, w->negative),
                              &rows[i * (passes + 1) + passes]);
    }
    if (status == KIN_OK) status = encode_list(g, &prompts, false, &all);
    if (status == KIN_OK) status = encode_list(g, &negatives, true, &none);
    for (size_t i = 0; status == KIN_OK && i < count; i++)
        if (wanted[i])
            status = save_text(g, &work[i], &all, &none, rows + i * (passes + 1),
                               rows[i * (passes + 1) + passes]);
    kin_text_free(context, &all);
    kin_text_free(context, &none);
    list_free(context, &prompts);
    list_free(context, &negatives);
    kin_free(context, rows);
    kin_free(context, wanted);
    return status;
}

kin_status kin_clip_load_text(kin_generate *g, kin_clip_work *work) {
    kin_desc want[4];
    kin_host_tensor tensors[4];
    if (work->text.features.data) return KIN_OK;
    kin_stage stage = kin_text_stage(work);
    kin_text_wants(g, work, want);
    if (!kin_stage_load(g->context, &stage, want, tensors))
        return kin_fail(g->context, KIN_IO, "%s/%s.safetensors has gone", stage.folder, stage.name);
    work->text = (kin_text){tensors[0], tensors[1]};
    if (work->negative) work->negative_text = (kin_text){tensors[2], tensors[3]};
    return KIN_OK;
}

kin_status kin_generate_gather(kin_generate *g, kin_clip_work *const *work, size_t count, int pass,
                               bool negative, kin_text *out_text) {
    const kin_host_tensor *first =
        negative ? &work[0]->negative_text.features : &work[0]->text.features;
    int64_t dims[3] = {(int64_t)count, first->desc.dims[1], first->desc.dims[2]};
    size_t row = (size_t)(dims[1] * dims[2]);
    *out_text = (kin_text){{.data = NULL}, {.data = NULL}};
    kin_status status = kin_host_tensor_create(g->context, KIN_F32, 3, dims, &out_text->features);
    if (status == KIN_OK)
        status = kin_host_tensor_create(g->context, KIN_I32, 1, dims, &out_text->lengths);
    for (size_t i = 0; status == KIN_OK && i < count; i++) {
        const kin_text *text = negative ? &work[i]->negative_text : &work[i]->text;
        int64_t rows = text->lengths.desc.dims[0], at = pass < rows ? pass : rows - 1;
        memcpy((float *)out_text->features.data + i * row,
               (const float *)text->features.data + (size_t)at * row, row * sizeof(float));
        ((int32_t *)out_text->lengths.data)[i] = ((const int32_t *)text->lengths.data)[at];
    }
    if (status != KIN_OK) kin_text_free(g->context, out_text);
    return status;
}
