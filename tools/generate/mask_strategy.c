#include "tools/generate/mask_strategy.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/json.h"

enum { FIELDS = 6, MAX_TUPLES = 4096, MAX_NUMBER = 1 << 24 };

static kin_status bad_tuple(kin_context *context, const char *text) {
    return kin_fail(context, KIN_INVALID,
                    "mask strategy \"%s\": a tuple is 1 to 6 numbers with commas between: loop, "
                    "reference, its first frame, first frame of the target, length, edit ratio",
                    text);
}

/* Reads one tuple up to ';' or the end; *at moves behind it. */
static bool read_tuple(const char **at, kin_mask_tuple *tuple) {
    double values[FIELDS] = {0, 0, 0, 0, 1, 0};
    int count = 0;
    for (;;) {
        char *end;
        if (count == FIELDS) return false;
        values[count] = strtod(*at, &end);
        bool whole = values[count] == rint(values[count]);
        if (end == *at || !(fabs(values[count]) < MAX_NUMBER) || (count < 5 && !whole))
            return false;
        count++;
        while (*end == ' ') end++;
        *at = *end ? end + 1 : end;
        if (*end == 0 || *end == ';') break;
        if (*end != ',') return false;
    }
    *tuple = (kin_mask_tuple){(int)values[0], (int)values[1], (int)values[2],
                              (int)values[3], (int)values[4], values[5]};
    return true;
}

kin_status kin_mask_strategy_parse(kin_context *context, const char *text,
                                   kin_mask_tuple **out_tuples, size_t *out_count) {
    *out_tuples = NULL;
    *out_count = 0;
    if (!text) return KIN_OK;
    size_t count = 1;
    for (const char *c = text; *c; c++) count += *c == ';';
    if (count > MAX_TUPLES) return bad_tuple(context, text);
    kin_mask_tuple *tuples = kin_calloc(context, count, sizeof *tuples);
    if (!tuples) return KIN_OUT_OF_MEMORY;
    const char *at = text;
    for (size_t i = 0; i < count; i++)
        if (!read_tuple(&at, &tuples[i])) {
            kin_free(context, tuples);
            return bad_tuple(context, text);
        }
    *out_tuples = tuples;
    *out_count = count;
    return KIN_OK;
}

/* Where a stretch begins and how many frames of it there are. */
static int64_t clip_stretch(int64_t frames, int64_t start, int64_t length, int64_t *out_start) {
    if (start < 0) start = start + frames < 0 ? 0 : start + frames;
    if (start > frames) start = frames;
    *out_start = start;
    if (length < 0) return 0;
    return length < frames - start ? length : frames - start;
}

static kin_status apply_tuple(kin_context *context, const kin_mask_tuple *t,
                              const kin_mask_sample *s) {
    if (t->reference < 0 || (size_t)t->reference >= s->reference_count)
        return kin_fail(context, KIN_INVALID, "mask strategy: reference %d of %zu", t->reference,
                        s->reference_count);
    const kin_mask_reference *reference = &s->references[t->reference];
    int64_t from, to;
    int64_t given = clip_stretch(reference->frames, t->reference_start, t->length, &from);
    int64_t taken = clip_stretch(s->frames, t->target_start, t->length, &to);
    if (given != taken && given != 1)
        return kin_fail(context, KIN_INVALID,
                        "mask strategy: %lld frames of reference %d (it has %lld) cannot fill %lld "
                        "frames from frame %lld of %lld on",
                        (long long)given, t->reference, (long long)reference->frames,
                        (long long)taken, (long long)to, (long long)s->frames);
    for (int64_t c = 0; c < s->channels; c++)
        for (int64_t i = 0; i < taken; i++) {
            int64_t source = from + (given == 1 ? 0 : i);
            memcpy(s->latents + (c * s->frames + to + i) * s->area,
                   reference->latents + (c * reference->frames + source) * s->area,
                   (size_t)s->area * sizeof(float));
        }
    for (int64_t i = 0; i < taken; i++) s->mask[to + i] = (float)t->edit_ratio;
    return KIN_OK;
}

kin_status kin_mask_strategy_apply(kin_context *context, const kin_mask_tuple *tuples, size_t count,
                                   int loop, const kin_mask_sample *sample) {
    for (int64_t i = 0; i < sample->frames; i++) sample->mask[i] = 1;
    kin_status status = KIN_OK;
    for (size_t i = 0; status == KIN_OK && i < count; i++)
        if (tuples[i].loop == loop) status = apply_tuple(context, &tuples[i], sample);
    return status;
}

void kin_mask_strategy_needed(const kin_mask_tuple *tuples, size_t count, int reference,
                              int64_t frames, int64_t target_frames, bool *needed) {
    for (size_t i = 0; i < count; i++) {
        int64_t from, to;
        if (tuples[i].reference != reference) continue;
        int64_t given = clip_stretch(frames, tuples[i].reference_start, tuples[i].length, &from);
        int64_t taken = clip_stretch(target_frames, tuples[i].target_start, tuples[i].length, &to);
        for (int64_t k = 0; taken > 0 && k < given; k++) needed[from + k] = true;
    }
}

kin_status kin_prompt_split(kin_context *context, const char *prompt, char **out_text,
                            json_t **out_json) {
    size_t length = strcspn(prompt, "{[");
    *out_json = NULL;
    *out_text = kin_strndup(context, prompt, length);
    if (!*out_text) return KIN_OUT_OF_MEMORY;
    kin_status status = KIN_OK;
    if (prompt[length])
        status = kin_json_parse(context, "the prompt's JSON", prompt + length,
                                strlen(prompt + length), out_json);
    else if (!(*out_json = json_object())) status = KIN_OUT_OF_MEMORY;
    if (status == KIN_OK) return KIN_OK;
    kin_free(context, *out_text);
    *out_text = NULL;
    return status;
}

kin_status kin_prompt_of_loop(kin_context *context, const char *prompt, int loop, char **out_text) {
    *out_text = NULL;
    if (strncmp(prompt, "|0|", 3) != 0) {
        *out_text = kin_strdup(context, prompt);
        return *out_text ? KIN_OK : KIN_OUT_OF_MEMORY;
    }
    const char *at = prompt, *text = prompt + 3;
    size_t size = 0;
    while (*at == '|') {
        char *end;
        long start = strtol(at + 1, &end, 10);
        if (end == at + 1 || *end != '|')
            return kin_fail(context, KIN_INVALID,
                            "prompt \"%s\": texts of passes are written |0|text|2|text", prompt);
        size_t length = strcspn(end + 1, "|");
        if (start <= loop) text = end + 1, size = length;
        at = end + 1 + length;
    }
    *out_text = kin_strndup(context, text, size);
    return *out_text ? KIN_OK : KIN_OUT_OF_MEMORY;
}
