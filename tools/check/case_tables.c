/* Cases of tables and rules that must be met exactly: buckets, mask strategies, the order of
 * training samples, and caption cleaning. */
#include "tools/check/case_run.h"

#include <math.h>
#include <string.h>

#include "tools/generate/caption_clean.h"
#include "tools/generate/mask_strategy.h"
#include "tools/train/buckets.h"
#include "tools/train/megabatch.h"

/* ---- buckets ------------------------------------------------------------------------------ */

/* Index of a resolution in the case's list, whose sizes must be the ones known here. */
static int case_resolution(kin_case_run *run, const json_t *list, const kin_bucket_resolution *r) {
    size_t i;
    const json_t *entry;
    json_array_foreach((json_t *)list, i, entry) {
        if (strcmp(json_string_value(json_array_get(entry, 0)), r->name) != 0) continue;
        const json_t *sizes = json_array_get(entry, 2);
        bool same = json_array_size(sizes) == r->size_count &&
                    json_integer_value(json_array_get(entry, 1)) == r->pixels;
        for (size_t k = 0; same && k < r->size_count; k++) {
            const json_t *size = json_array_get(sizes, k);
            same = json_integer_value(json_array_get(size, 1)) == r->sizes[k].height &&
                   json_integer_value(json_array_get(size, 2)) == r->sizes[k].width;
        }
        kin_case_expect(run, r->name, same, "sizes");
        return (int)i;
    }
    return -1;
}

static double no_draw(void *user, size_t entry) {
    (void)entry;
    *(bool *)user = true; /* all probabilities of these cases are 0 or 1 */
    return 0;
}

static void find_all(kin_case_run *run, const kin_buckets *buckets, const int *indices,
                     const kin_named_tensor *const in[3]) {
    int64_t rows = kin_desc_count(&in[0]->desc);
    int interval = (int)kin_case_number(json_object_get(run->info, "call"), "frame_interval", 1);
    int64_t *found = kin_calloc(run->context, (size_t)rows * 6, sizeof *found);
    if (!found) return;
    int64_t *sizes = found + 5 * rows;
    bool drawn = false;
    for (int64_t i = 0; i < rows; i++) {
        int64_t v[3];
        for (int k = 0; k < 3; k++)
            v[k] = (int64_t)kin_element_get(in[k]->data, in[k]->desc.dtype, i);
        kin_bucket b;
        bool fits = kin_buckets_find(buckets, v[0], v[1], v[2], interval, no_draw, &drawn, &b);
        int64_t row[5] = {-1, -1, -1, -1, -1};
        if (fits) {
            row[0] = indices[b.resolution];
            row[1] = b.frames;
            row[2] = b.ratio;
            row[3] = b.height;
            row[4] = b.width;
        }
        memcpy(found + 5 * i, row, sizeof row);
        sizes[i] = fits ? b.batch_size : -1;
    }
    kin_case_expect(run, "draws", !drawn, "");
    kin_case_compare(run, "bucket", KIN_I64, found, rows * 5);
    kin_case_compare(run, "batch_size", KIN_I64, sizes, rows);
    kin_free(run->context, found);
}

void kin_case_buckets(kin_case_run *run) {
    enum { MAX_RESOLUTIONS = 16 };
    const json_t *list = json_object_get(run->config, "resolutions");
    const kin_named_tensor *in[3] = {kin_case_input_tensor(run, "T"),
                                     kin_case_input_tensor(run, "H"),
                                     kin_case_input_tensor(run, "W")};
    int indices[MAX_RESOLUTIONS];
    for (int i = 0; i < kin_bucket_resolution_count && i < MAX_RESOLUTIONS; i++)
        indices[i] = case_resolution(run, list, &kin_bucket_resolutions[i]);
    kin_case_expect(run, "inputs", in[0] && in[1] && in[2], "");
    kin_buckets *buckets = NULL;
    kin_status status =
        kin_buckets_parse(run->context, json_object_get(run->config, "bucket_config"),
                          "config.json: bucket_config", &buckets);
    if (kin_case_ok(run, "bucket_config", status) && in[0] && in[1] && in[2])
        find_all(run, buckets, indices, in);
    kin_buckets_free(buckets);
}

/* ---- mask strategies ------------------------------------------------------------------------ */

/* One sample's tuples, and its references in [C, T, area] form; all freed by the caller. */
static kin_status parse_sample(kin_case_run *run, size_t index, const json_t *strategy,
                               kin_mask_tuple **tuples, size_t *count) {
    char name[64];
    kin_status status =
        kin_mask_strategy_parse(run->context, json_string_value(strategy), tuples, count);
    if (status != KIN_OK || *count == 0) return status;
    float *rows = kin_calloc(run->context, *count * 6, sizeof *rows);
    if (!rows) return KIN_OUT_OF_MEMORY;
    for (size_t i = 0; i < *count; i++) {
        const kin_mask_tuple *t = &(*tuples)[i];
        float row[6] = {(float)t->loop,         (float)t->reference, (float)t->reference_start,
                        (float)t->target_start, (float)t->length,    (float)t->edit_ratio};
        memcpy(rows + 6 * i, row, sizeof row);
    }
    snprintf(name, sizeof name, "tuples.%zu", index);
    kin_case_compare(run, name, KIN_F32, rows, (int64_t)*count * 6);
    kin_free(run->context, rows);
    return KIN_OK;
}

static kin_status apply_sample(kin_case_run *run, size_t index, int loop,
                               const kin_mask_tuple *tuples, size_t count,
                               kin_mask_sample *sample) {
    enum { MAX_REFERENCES = 8 };
    kin_mask_reference references[MAX_REFERENCES];
    sample->references = references;
    sample->reference_count = 0;
    for (size_t k = 0; k < MAX_REFERENCES; k++) {
        char name[64];
        snprintf(name, sizeof name, "ref.%zu.%zu", index, k);
        const kin_named_tensor *tensor = kin_case_input_tensor(run, name);
        if (!tensor || tensor->desc.dtype != KIN_F32 || tensor->desc.rank != 4) break;
        references[k] = (kin_mask_reference){tensor->data, tensor->desc.dims[1]};
        sample->reference_count++;
    }
    return kin_mask_strategy_apply(run->context, tuples, count, loop, sample);
}

static void apply_all(kin_case_run *run, const json_t *strategies, const kin_named_tensor *z) {
    int loops = (int)kin_case_number(json_object_get(run->info, "call"), "loops", 0);
    const int64_t *dims = z->desc.dims;
    size_t samples = (size_t)dims[0], each = (size_t)(kin_desc_count(&z->desc) / dims[0]);
    float *mask = kin_calloc(run->context, samples * (size_t)dims[2], sizeof *mask);
    for (int loop = -1; mask && loop < loops; loop++) {
        float *latents = kin_case_values(run, z, KIN_F32);
        for (size_t i = 0; latents && i < samples; i++) {
            kin_mask_tuple *tuples = NULL;
            size_t count = 0;
            kin_mask_sample sample = {.latents = latents + i * each,
                                      .mask = mask + i * (size_t)dims[2],
                                      .channels = dims[1],
                                      .frames = dims[2],
                                      .area = dims[3] * dims[4]};
            kin_status status;
            if (loop < 0)
                status = parse_sample(run, i, json_array_get(strategies, i), &tuples, &count);
            else {
                const char *text = json_string_value(json_array_get(strategies, i));
                status = kin_mask_strategy_parse(run->context, text, &tuples, &count);
                if (status == KIN_OK) status = apply_sample(run, i, loop, tuples, count, &sample);
            }
            kin_free(run->context, tuples);
            if (!kin_case_ok(run, "mask_strategy", status)) break;
        }
        char name[32];
        snprintf(name, sizeof name, "mask.loop%d", loop);
        if (loop >= 0) kin_case_compare(run, name, KIN_F32, mask, (int64_t)samples * dims[2]);
        snprintf(name, sizeof name, "z.loop%d", loop);
        if (loop >= 0 && latents)
            kin_case_compare(run, name, KIN_F32, latents, kin_desc_count(&z->desc));
        kin_free(run->context, latents);
    }
    kin_free(run->context, mask);
}

static void compare_prompts(kin_case_run *run, const json_t *prompts) {
    const json_t *given = json_object_get(prompts, "given"), *entry;
    int loops = (int)kin_case_number(prompts, "loop", 0);
    size_t i;
    json_array_foreach((json_t *)given, i, entry) {
        char *text = NULL;
        json_t *json = NULL;
        kin_status status = kin_prompt_split(run->context, json_string_value(entry), &text, &json);
        if (!kin_case_ok(run, "prompt", status)) continue;
        const char *want = json_string_value(json_array_get(json_object_get(prompts, "text"), i));
        kin_case_expect(run, "prompt's text", want && strcmp(text, want) == 0, text);
        kin_case_expect(run, "prompt's JSON",
                        json_equal(json, json_array_get(json_object_get(prompts, "json"), i)), "");
        const json_t *per_loop = json_array_get(json_object_get(prompts, "per_loop"), i);
        for (int loop = 0; loop < loops; loop++) {
            char *part = NULL;
            want = json_string_value(json_array_get(per_loop, (size_t)loop));
            if (kin_case_ok(run, "prompt of a loop",
                            kin_prompt_of_loop(run->context, text, loop, &part)))
                kin_case_expect(run, "prompt of a loop", want && strcmp(part, want) == 0, part);
            kin_free(run->context, part);
        }
        kin_free(run->context, text);
        json_decref(json);
    }
}

void kin_case_mask_strategy(kin_case_run *run) {
    const json_t *call = json_object_get(run->info, "call");
    const json_t *strategies = json_object_get(call, "mask_strategy");
    const kin_named_tensor *z = kin_case_input_tensor(run, "z");
    bool fit = z && z->desc.rank == 5 && (size_t)z->desc.dims[0] == json_array_size(strategies);
    kin_case_expect(run, "z", fit, "");
    if (fit) apply_all(run, strategies, z);
    compare_prompts(run, json_object_get(call, "prompts"));
}

/* ---- megabatches ---------------------------------------------------------------------------- */

/* The recorded draws, given out in their order. */
typedef struct draws {
    const kin_named_tensor *tensor;
    int64_t at;
    bool wrong; /* asked for another number of choices than the original */
} draws;

static size_t next_draw(void *user, size_t count) {
    draws *d = user;
    if (d->at >= d->tensor->desc.dims[0]) {
        d->wrong = true;
        return 0;
    }
    int64_t choices = (int64_t)kin_element_get(d->tensor->data, d->tensor->desc.dtype, 2 * d->at);
    int64_t chosen =
        (int64_t)kin_element_get(d->tensor->data, d->tensor->desc.dtype, 2 * d->at + 1);
    d->at++;
    if (choices == (int64_t)count && chosen >= 0 && chosen < choices) return (size_t)chosen;
    d->wrong = true;
    return 0;
}

static void run_scenario(kin_case_run *run, const char *name, const json_t *scenario,
                         uint64_t seed) {
    char label[KIN_CASE_NAME];
    snprintf(label, sizeof label, "%s.lengths", name);
    const kin_named_tensor *lengths = kin_case_input_tensor(run, label);
    snprintf(label, sizeof label, "%s.draws", name);
    draws d = {.tensor = kin_case_input_tensor(run, label)};
    if (!lengths || lengths->desc.dtype != KIN_I64 || !d.tensor || d.tensor->desc.rank != 2) {
        kin_case_expect(run, name, false, "lacks lengths or draws");
        return;
    }
    kin_megabatch_options options = {
        .batch_size = (int64_t)kin_case_number(scenario, "batch_size", 0),
        .world_size = (int64_t)kin_case_number(scenario, "world_size", 0),
        .group_frame = json_is_true(json_object_get(scenario, "group_frame")),
        .seed = seed};
    int64_t *indices = NULL;
    size_t count = 0;
    kin_status status =
        kin_megabatch_order(run->context, lengths->data, (size_t)lengths->desc.dims[0], &options,
                            next_draw, &d, &indices, &count);
    if (!kin_case_ok(run, name, status)) return;
    kin_case_expect(run, label, !d.wrong && d.at == d.tensor->desc.dims[0], "");
    snprintf(label, sizeof label, "%s.indices", name);
    kin_case_compare(run, label, KIN_I64, indices, (int64_t)count);
    kin_free(run->context, indices);
}

void kin_case_megabatch(kin_case_run *run) {
    const json_t *scenarios = json_object_get(json_object_get(run->info, "call"), "scenarios");
    uint64_t seed = (uint64_t)kin_case_number(run->config, "seed", 42);
    const char *name;
    const json_t *scenario;
    json_object_foreach((json_t *)scenarios, name, scenario)
        run_scenario(run, name, scenario, seed);
}

/* ---- captions ------------------------------------------------------------------------------- */

typedef kin_status (*clean_fn)(kin_context *context, const char *text, size_t size,
                               char **out_text);

static kin_status clean_plain(kin_context *context, const char *text, size_t size, char **out) {
    return kin_caption_clean(context, text, size, false, out);
}

static kin_status clean_keeping(kin_context *context, const char *text, size_t size, char **out) {
    return kin_caption_clean(context, text, size, true, out);
}

static void compare_texts(kin_case_run *run, const char *name, clean_fn clean) {
    char label[KIN_CASE_NAME];
    snprintf(label, sizeof label, "%s_offsets", name);
    const kin_named_tensor *text = kin_case_input_tensor(run, "text");
    const kin_named_tensor *offsets = kin_case_input_tensor(run, "text_offsets");
    const kin_named_tensor *want = kin_case_output_tensor(run, name);
    if (!want) return;
    const int64_t *at = offsets->data;
    int64_t count = offsets->desc.dims[0] - 1, used = 0, room = kin_desc_count(&want->desc);
    char *all = kin_calloc(run->context, (size_t)room + 1, 1);
    int64_t *ends = kin_calloc(run->context, (size_t)count + 1, sizeof *ends);
    for (int64_t i = 0; all && ends && i < count; i++) {
        char *cleaned = NULL;
        kin_status status = clean(run->context, (const char *)text->data + at[i],
                                  (size_t)(at[i + 1] - at[i]), &cleaned);
        if (!kin_case_ok(run, name, status)) break;
        int64_t size = (int64_t)strlen(cleaned);
        if (size > room - used) size = room - used;
        memcpy(all + used, cleaned, (size_t)size);
        ends[i + 1] = used += size;
        kin_free(run->context, cleaned);
    }
    if (all && ends) {
        kin_case_compare(run, name, KIN_U8, all, used);
        kin_case_compare(run, label, KIN_I64, ends, count + 1);
    }
    kin_free(run->context, all);
    kin_free(run->context, ends);
}

void kin_case_captions(kin_case_run *run) {
    const kin_named_tensor *text = kin_case_input_tensor(run, "text");
    const kin_named_tensor *offsets = kin_case_input_tensor(run, "text_offsets");
    bool fit = text && offsets && text->desc.dtype == KIN_U8 && offsets->desc.dtype == KIN_I64;
    for (int64_t i = 0; fit && i + 1 < offsets->desc.dims[0]; i++) {
        const int64_t *at = offsets->data;
        fit = at[i] >= 0 && at[i + 1] >= at[i] && at[i + 1] <= kin_desc_count(&text->desc);
    }
    kin_case_expect(run, "text", fit, "");
    if (!fit) return;
    compare_texts(run, "clean", clean_plain);
    compare_texts(run, "clean_keep_chinese", clean_keeping);
    compare_texts(run, "lower", kin_caption_lower);
}
