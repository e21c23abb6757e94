/* Text features for training. */
#include "tools/train/text_source.h"

#include <stdio.h>
#include <string.h>

#include "runtime/plan.h"
#include "runtime/safetensors.h"
#include "runtime/weights.h"
#include "tools/tool.h"
#include "tools/train/fingerprint.h"
#include "tools/train/train_share.h"

enum { CAPTION_NAME = 24 };

struct kin_text_source {
    kin_context *context;
    kin_text_source_options options;
    kin_t5_config config;
    kin_plan *plan; /* one caption; NULL with a cache that is made */
    kin_store *store;
    kin_safetensors *file;
    float *features; /* of one caption, [length, C] */
    kin_progress progress;
    kin_share share;
};

static void caption_name(int64_t caption, char out_name[CAPTION_NAME]) {
    snprintf(out_name, CAPTION_NAME, "%010lld", (long long)caption);
}

static size_t row_values(const kin_text_source *s) {
    return (size_t)s->options.length * (size_t)s->config.d_model;
}

/* Tokens of a caption whose features are kept. */
static int64_t kept_tokens(const kin_text_source *s, int64_t caption) {
    return s->options.whole ? s->options.length : s->options.lengths[caption];
}

static void unload(kin_text_source *s) {
    kin_plan_free(s->plan);
    kin_store_free(s->store);
    kin_free(s->context, s->features);
    s->plan = NULL;
    s->store = NULL;
    s->features = NULL;
}

static kin_status load(kin_text_source *s, kin_device *device) {
    const kin_text_source_options *o = &s->options;
    int64_t one[2] = {1, o->length}, single = 1;
    kin_weights_options weights = {
        .prefix = "text_encoder", .rename = kin_t5_rename, .config = &s->config, .entry = o->entry};
    kin_graph *graph;
    kin_status status = kin_graph_create(s->context, &graph);
    if (status != KIN_OK) return status;
    kin_tensor tokens = kin_input(graph, "ids", KIN_I32, 2, one);
    kin_tensor sizes = kin_input(graph, "lengths", KIN_I32, 1, &single);
    kin_scope_push(graph, "text_encoder");
    kin_tensor out = kin_t5_encode(graph, &s->config, &o->precision, tokens, sizes, false);
    kin_scope_pop(graph);
    kin_output(graph, "features", out);
    status = kin_plan_build(graph, device, NULL, &s->plan);
    if (status == KIN_OK) status = kin_store_create(device, &s->store);
    if (status == KIN_OK) status = kin_store_add_graph(s->store, graph, 0);
    if (status == KIN_OK) status = kin_weights_load(s->store, o->path, &weights, NULL);
    if (status == KIN_OK) status = kin_plan_prepare(s->plan, s->store, NULL);
    if (status == KIN_OK) {
        s->features = kin_alloc(s->context, row_values(s) * sizeof *s->features);
        if (!s->features) status = KIN_OUT_OF_MEMORY;
    }
    kin_graph_destroy(graph);
    return status;
}

/* s->features becomes those of a caption. */
static kin_status encode(kin_text_source *s, int64_t caption) {
    const kin_text_source_options *o = &s->options;
    kin_status status = kin_plan_write(s->plan, "ids", KIN_I32, o->ids + caption * o->length);
    if (status == KIN_OK)
        status = kin_plan_write(s->plan, "lengths", KIN_I32, o->lengths + caption);
    if (status == KIN_OK) status = kin_plan_run(s->plan);
    if (status == KIN_OK) status = kin_plan_read(s->plan, "features", KIN_F32, s->features);
    return status;
}

static kin_status encode_item(void *user, int64_t caption, void *bytes) {
    kin_text_source *s = user;
    kin_status status = encode(s, caption);
    if (status == KIN_OK) memcpy(bytes, s->features, s->share.size);
    return status;
}

/* What the writer asks for: the beginning of a caption's features. */
static kin_status fill(void *user, size_t index, void *bytes, size_t size) {
    kin_text_source *s = user;
    (void)index;
    kin_status status = kin_share_take(&s->share, s->features);
    if (status == KIN_OK) memcpy(bytes, s->features, size);
    kin_progress_show(&s->progress, s->share.taken, NULL);
    return status;
}

static kin_status make_cache(kin_text_source *s, kin_device *device, const char *fingerprint) {
    int64_t count = s->options.count;
    kin_ranks *ranks = s->options.ranks;
    kin_named_tensor *tensors = kin_calloc(s->context, (size_t)count, sizeof *tensors);
    char(*names)[CAPTION_NAME] = kin_calloc(s->context, (size_t)count, sizeof *names);
    kin_status status = tensors && names ? load(s, device) : KIN_OUT_OF_MEMORY;
    for (int64_t i = 0; status == KIN_OK && i < count; i++) {
        int64_t dims[2] = {kept_tokens(s, i), s->config.d_model};
        caption_name(i, names[i]);
        tensors[i] = (kin_named_tensor){names[i], kin_desc_dense(KIN_F32, 2, dims), NULL};
    }
    kin_metadata made_from = {KIN_FINGERPRINT_KEY, fingerprint};
    s->share = (kin_share){.context = s->context,
                           .ranks = ranks,
                           .count = count,
                           .size = row_values(s) * sizeof *s->features,
                           .make = encode_item,
                           .user = s,
                           .what = "the captions"};
    s->progress = kin_progress_begin("encoding captions", 0, count, s->options.quiet);
    status = kin_ranks_agree(ranks, status);
    if (status == KIN_OK) {
        status = !ranks || ranks->rank == 0
                     ? kin_safetensors_write(s->context, s->options.cache, tensors, (size_t)count,
                                             &made_from, 1, fill, s)
                     : kin_share_serve(&s->share);
        status = kin_share_end(&s->share, status);
    }
    kin_progress_end(&s->progress);
    unload(s);
    kin_free(s->context, tensors);
    kin_free(s->context, names);
    return status;
}

static kin_status open_cache(kin_text_source *s, kin_device *device) {
    const kin_text_source_options *o = &s->options;
    char fingerprint[KIN_FINGERPRINT_TEXT];
    int64_t facts[] = {o->count,          o->length,
                       s->config.d_model, (int64_t)o->precision.compute,
                       o->whole,          (int64_t)o->precision.weights};
    uint64_t hash = kin_fingerprint_bytes(KIN_FINGERPRINT_START, o->ids,
                                          (size_t)(o->count * o->length) * sizeof *o->ids);
    hash = kin_fingerprint_path(kin_fingerprint_path(hash, o->path), o->tokenizer_path);
    kin_fingerprint_text(kin_fingerprint_bytes(hash, facts, sizeof facts), fingerprint);
    bool there = kin_fingerprint_open(s->context, o->cache, fingerprint, &s->file), same;
    kin_status status = kin_ranks_same(o->ranks, there, &same);
    if (status == KIN_OK && !same)
        status = kin_fail(s->context, KIN_IO,
                          "%s is not the same for all ranks: output must be a folder that all see",
                          o->cache);
    if (status != KIN_OK) return status;
    if (there) {
        kin_log(s->context, KIN_LOG_INFO, "text features: using %s", o->cache);
        return KIN_OK;
    }
    status = make_cache(s, device, fingerprint);
    return status == KIN_OK ? kin_safetensors_open(s->context, o->cache, &s->file) : status;
}

kin_status kin_text_source_open(kin_context *context, kin_device *device,
                                const kin_text_source_options *options,
                                kin_text_source **out_source) {
    *out_source = NULL;
    kin_text_source *s = kin_calloc(context, 1, sizeof *s);
    kin_status status =
        kin_ranks_agree(options->cache ? options->ranks : NULL, s ? KIN_OK : KIN_OUT_OF_MEMORY);
    if (status != KIN_OK) {
        kin_free(context, s);
        return status;
    }
    s->context = context;
    s->options = *options;
    s->config = *options->config;
    status = options->cache ? open_cache(s, device) : load(s, device);
    if (status == KIN_OK) *out_source = s;
    else kin_text_source_close(s);
    return status;
}

void kin_text_source_close(kin_text_source *source) {
    if (!source) return;
    unload(source);
    if (source->file) kin_safetensors_close(source->file);
    kin_free(source->context, source);
}

kin_status kin_text_source_read(kin_text_source *source, const int64_t *captions, int64_t count,
                                float *out_features) {
    kin_text_source *s = source;
    kin_status status = KIN_OK;
    for (int64_t i = 0; status == KIN_OK && i < count; i++) {
        float *row = out_features + (size_t)i * row_values(s);
        size_t kept = (size_t)kept_tokens(s, captions[i]) * (size_t)s->config.d_model;
        const float *from = s->features;
        if (s->file) {
            char name[CAPTION_NAME];
            const kin_named_tensor *tensor;
            caption_name(captions[i], name);
            status = kin_safetensors_get(s->file, name, &tensor);
            if (status == KIN_OK) from = tensor->data;
        } else {
            status = encode(s, captions[i]);
        }
        if (status != KIN_OK) break;
        memcpy(row, from, kept * sizeof *row);
        memset(row + kept, 0, (row_values(s) - kept) * sizeof *row);
    }
    return status;
}

uint64_t kin_text_source_memory(const kin_text_source *source) {
    return source->plan ? kin_plan_summarize(source->plan)->peak : 0;
}
