/* Fuzzing files of prompts. The first byte tells which kind: what is read has texts in UTF-8 and
 * names of files, and passes whose conditions are made or refused; what is not has a message. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/file.h"
#include "tools/generate/mask_strategy.h"
#include "tools/generate/prompts.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_text(const char *text) {
    if (text && !kin_utf8_is_valid(text, strlen(text))) abort();
}

static void check(kin_context *context, const kin_prompt *p) {
    char *text = NULL;
    kin_mask_tuple *tuples = NULL;
    size_t count = 0;
    check_text(p->text);
    check_text(p->negative);
    check_text(p->name);
    if (!p->text || p->seed < -1 || (p->name && strchr(p->name, '/'))) abort();
    if (kin_prompt_of_loop(context, p->text, 3, &text) == KIN_OK) check_text(text);
    kin_free(context, text);
    if (kin_mask_strategy_parse(context, p->mask_strategy, &tuples, &count) == KIN_OK) {
        bool needed[7] = {false};
        kin_mask_strategy_needed(tuples, count, 0, 7, 5, needed);
    }
    kin_free(context, tuples);
}

/* The ending decides, so this needs a file with a name. */
static void read_as(kin_context *context, const uint8_t *data, size_t size, const char *ending,
                    kin_prompt_form form) {
    char path[64] = "/tmp/kinora-fuzz-XXXXXX.json";
    strcpy(path + strlen("/tmp/kinora-fuzz-XXXXXX"), ending);
    int file = mkstemps(path, (int)strlen(ending));
    if (file < 0 || (size > 0 && write(file, data, size) != (ssize_t)size)) abort();
    close(file);
    kin_prompts prompts = {NULL, 0, 0};
    kin_status status = kin_prompts_read(context, &prompts, path, form);
    unlink(path);
    if (status != KIN_OK && kin_context_error(context)[0] == '\0') abort();
    if (status == KIN_OK && prompts.count == 0) abort();
    for (size_t i = 0; i < prompts.count; i++) check(context, &prompts.list[i]);
    kin_prompts_free(context, &prompts);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const endings[] = {".txt", ".json", ".csv"};
    kin_context *context = NULL;
    if (size == 0) return 0;
    if (kin_context_create(NULL, &context) != KIN_OK) abort();
    read_as(context, data + 1, size - 1, endings[data[0] % 3],
            data[0] & 64 ? KIN_PROMPT_PLAIN : KIN_PROMPT_JSON);
    kin_context_destroy(context);
    return 0;
}
