/* Fuzzing what people write: captions are cleaned to valid UTF-8, and prompts and strategies are
 * read or refused. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tools/generate/caption_clean.h"
#include "tools/generate/caption_clean_internal.h"
#include "tools/generate/mask_strategy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A second look at cleaned text must decode without a bad byte. */
static void check_utf8(kin_context *context, const char *text) {
    kin_points points = {.context = context};
    kin_points_decode(&points, text, strlen(text));
    size_t bad = 0, marks = 0;
    for (size_t i = 0; i < points.count; i++) bad += points.at[i] == 0xFFFD;
    for (const char *p = text; (p = strstr(p, "\xEF\xBF\xBD")) != NULL; p += 3) marks++;
    if (bad != marks) abort();
    kin_points_free(&points);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    kin_context *context = NULL;
    if (kin_context_create(NULL, &context) != KIN_OK) abort();
    char *cleaned = NULL, *text = kin_strndup(context, (const char *)data, size), *part = NULL;
    if (!text) abort();
    if (kin_caption_clean(context, (const char *)data, size, size & 1, &cleaned) == KIN_OK)
        check_utf8(context, cleaned);
    else if (kin_context_error(context)[0] == '\0') abort();
    kin_free(context, cleaned);
    kin_mask_tuple *tuples = NULL;
    size_t count = 0;
    if (kin_mask_strategy_parse(context, text, &tuples, &count) == KIN_OK) {
        float latents[8] = {0}, mask[8], given[5] = {0};
        kin_mask_reference references[2] = {{given, 5}, {given, 1}};
        kin_mask_sample sample = {latents, mask, 1, 8, 1, references, 2};
        kin_mask_strategy_apply(context, tuples, count, 0, &sample);
    }
    kin_free(context, tuples);
    json_t *json = NULL;
    if (kin_prompt_split(context, text, &part, &json) == KIN_OK) {
        char *loop = NULL;
        if (kin_prompt_of_loop(context, part, 2, &loop) == KIN_OK) kin_free(context, loop);
        kin_free(context, part);
        json_decref(json);
    }
    kin_free(context, text);
    kin_context_destroy(context);
    return 0;
}
