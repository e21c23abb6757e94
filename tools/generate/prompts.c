#include "tools/generate/prompts.h"

#include "runtime/csv.h"
#include "runtime/file.h"
#include "runtime/json.h"
#include "tools/generate/mask_strategy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_LIMIT = 64 << 20, MAX_PROMPTS = 1000000 };

/* Keys of a prompt's JSON; the first is for files only. */
static const char *const key_names[] = {"prompt",          "reference_path", "mask_strategy",
                                        "negative_prompt", "name",           "seed"};
enum { KEYS = sizeof key_names / sizeof *key_names };

static void prompt_free(kin_context *context, kin_prompt *p) {
    kin_free(context, p->text);
    kin_free(context, p->negative);
    kin_free(context, p->reference_path);
    kin_free(context, p->mask_strategy);
    kin_free(context, p->name);
}

void kin_prompts_free(kin_context *context, kin_prompts *prompts) {
    for (size_t i = 0; i < prompts->count; i++) prompt_free(context, &prompts->list[i]);
    kin_free(context, prompts->list);
    *prompts = (kin_prompts){NULL, 0, 0};
}

/* Takes over what `prompt` owns, also when it fails. */
static kin_status append(kin_context *context, kin_prompts *prompts, kin_prompt *prompt,
                         const char *where) {
    kin_status status = KIN_OK;
    if (prompt->name && (!*prompt->name || strchr(prompt->name, '/') || strchr(prompt->name, '%')))
        status = kin_fail(context, KIN_INVALID,
                          "%s: the name \"%s\" is no file's: it is without folder and ending",
                          where, prompt->name);
    if (status == KIN_OK && prompts->count == MAX_PROMPTS)
        status = kin_fail(context, KIN_INVALID, "%s: more than %d prompts", where, MAX_PROMPTS);
    if (status == KIN_OK && prompts->count == prompts->room) {
        size_t room = prompts->room ? 2 * prompts->room : 16;
        kin_prompt *list = kin_realloc(context, prompts->list, room * sizeof *list);
        if (!list) status = KIN_OUT_OF_MEMORY;
        else prompts->list = list, prompts->room = room;
    }
    if (status == KIN_OK) prompts->list[prompts->count++] = *prompt;
    else prompt_free(context, prompt);
    return status;
}

static kin_status copy_string(kin_context *context, const json_t *object, const char *where,
                              const char *key, char **out) {
    const char *value = NULL;
    kin_status status = kin_json_get_string(context, object, where, key, NULL, &value);
    if (status != KIN_OK || !value) return status;
    kin_free(context, *out);
    *out = kin_strdup(context, value);
    return *out ? KIN_OK : KIN_OUT_OF_MEMORY;
}

/* The keys that say more than the text. in_file: "prompt" is one of them. */
static kin_status read_object(kin_context *context, const json_t *object, const char *where,
                              bool in_file, kin_prompt *out) {
    struct {
        const char *key;
        char **value;
    } strings[] = {{"reference_path", &out->reference_path},
                   {"mask_strategy", &out->mask_strategy},
                   {"negative_prompt", &out->negative},
                   {"name", &out->name}};
    kin_status status =
        kin_json_check_keys(context, object, where, key_names + !in_file, KEYS - (size_t)!in_file);
    for (size_t i = 0; status == KIN_OK && i < sizeof strings / sizeof *strings; i++)
        status = copy_string(context, object, where, strings[i].key, strings[i].value);
    if (status == KIN_OK)
        status =
            kin_json_get_int_between(context, object, where, "seed", -1, INT64_MAX, -1, &out->seed);
    return status;
}

/* Whether a plain prompt ends in the JSON of another system. */
static bool speaks_of_references(const char *text) {
    const char *brace = strchr(text, '{');
    return brace && (strstr(brace, "\"reference_path\"") || strstr(brace, "\"mask_strategy\""));
}

/* The text, and what the JSON at its end says. */
static kin_status read_text(kin_context *context, const char *text, kin_prompt_form form,
                            const char *where, kin_prompt *out) {
    if (form == KIN_PROMPT_PLAIN && speaks_of_references(text))
        return kin_fail(context, KIN_INVALID,
                        "%s: reference_path and mask_strategy are for systems with frame masks "
                        "(Open-Sora 1.1): this one cannot take frames from elsewhere",
                        where);
    if (form == KIN_PROMPT_PLAIN) {
        out->text = kin_strdup(context, text);
        return out->text ? KIN_OK : KIN_OUT_OF_MEMORY;
    }
    json_t *object = NULL;
    kin_status status = kin_prompt_split(context, text, &out->text, &object);
    if (status == KIN_OK) status = read_object(context, object, where, false, out);
    else if (status != KIN_OUT_OF_MEMORY)
        status =
            kin_fail_in(context, status, "%s: from its first bracket on a prompt is JSON", where);
    json_decref(object);
    return status;
}

kin_status kin_prompts_add(kin_context *context, kin_prompts *prompts, const char *text,
                           kin_prompt_form form, const char *where) {
    kin_prompt prompt = {.seed = -1};
    kin_status status = KIN_OK;
    if (!kin_utf8_is_valid(text, strlen(text)))
        status = kin_fail(context, KIN_FORMAT, "%s: the prompt is not UTF-8", where);
    if (status == KIN_OK) status = read_text(context, text, form, where, &prompt);
    if (status == KIN_OK) return append(context, prompts, &prompt, where);
    prompt_free(context, &prompt);
    return status;
}

/* ---- files ----------------------------------------------------------------------------------- */

/* Lines end in LF or CRLF; space around a prompt is none of it. */
static kin_status read_lines(kin_context *context, kin_prompts *prompts, const char *path,
                             char *text, kin_prompt_form form) {
    kin_status status = KIN_OK;
    char where[4200];
    if (strncmp(text, "\xef\xbb\xbf", 3) == 0) text += 3;
    for (size_t line = 1; status == KIN_OK && *text; line++) {
        size_t length = strcspn(text, "\n");
        char *next = text + length + (text[length] == '\n');
        text[length] = 0;
        text += strspn(text, " \t\r");
        length = strlen(text);
        while (length > 0 && strchr(" \t\r", text[length - 1])) text[--length] = 0;
        snprintf(where, sizeof where, "%s: line %zu", path, line);
        if (length > 0) status = kin_prompts_add(context, prompts, text, form, where);
        text = next;
    }
    return status;
}

static kin_status read_entry(kin_context *context, kin_prompts *prompts, const json_t *entry,
                             const char *where, kin_prompt_form form) {
    if (json_is_string(entry))
        return kin_prompts_add(context, prompts, json_string_value(entry), form, where);
    if (!json_is_object(entry))
        return kin_fail(context, KIN_INVALID, "%s is neither a text nor an object with \"prompt\"",
                        where);
    kin_prompt prompt = {.seed = -1};
    kin_status status = kin_json_require(context, entry, where, "prompt");
    if (status == KIN_OK) status = copy_string(context, entry, where, "prompt", &prompt.text);
    if (status == KIN_OK) status = read_object(context, entry, where, true, &prompt);
    if (status == KIN_OK && form == KIN_PROMPT_PLAIN &&
        (prompt.reference_path || prompt.mask_strategy))
        status = read_text(context, "{\"reference_path\"", form, where, &prompt);
    if (status == KIN_OK) return append(context, prompts, &prompt, where);
    prompt_free(context, &prompt);
    return status;
}

static kin_status read_json(kin_context *context, kin_prompts *prompts, const char *path,
                            kin_prompt_form form) {
    json_t *root = NULL;
    char where[4200];
    kin_status status = kin_json_load(context, path, &root);
    if (status == KIN_OK && !json_is_array(root))
        status = kin_fail(context, KIN_INVALID, "%s: a file of prompts is a JSON list", path);
    for (size_t i = 0; status == KIN_OK && i < json_array_size(root); i++) {
        snprintf(where, sizeof where, "%s: entry %zu", path, i);
        status = read_entry(context, prompts, json_array_get(root, i), where, form);
    }
    json_decref(root);
    return status;
}

/* A row as the object that a list would have in its place. */
static kin_status read_row(kin_context *context, kin_prompts *prompts, const kin_csv *csv,
                           size_t row, const char *path, kin_prompt_form form) {
    char where[4200];
    snprintf(where, sizeof where, "%s: line %zu", path, kin_csv_line(csv, row));
    json_t *object = json_object();
    kin_status status = object ? KIN_OK : KIN_OUT_OF_MEMORY;
    for (size_t i = 0; status == KIN_OK && i < kin_csv_column_count(csv); i++) {
        const char *key = kin_csv_column_name(csv, i), *cell = kin_csv_cell(csv, row, i);
        bool text = strcmp(key, "text") == 0 || strcmp(key, "caption") == 0;
        if (text && !json_object_get(object, "prompt")) key = "prompt";
        bool known = false;
        for (size_t k = 0; k < KEYS; k++) known = known || strcmp(key, key_names[k]) == 0;
        if (!known || !*cell) continue;
        json_t *value = json_string(cell);
        if (strcmp(key, "seed") == 0) {
            char *end;
            long long seed = strtoll(cell, &end, 10);
            json_decref(value);
            value = *end ? json_string(cell) : json_integer(seed);
        }
        if (json_object_set_new(object, key, value) != 0)
            status = kin_fail(context, KIN_FORMAT, "%s: a cell is not UTF-8", where);
    }
    if (status == KIN_OK) status = read_entry(context, prompts, object, where, form);
    json_decref(object);
    return status;
}

static kin_status read_csv(kin_context *context, kin_prompts *prompts, const char *path,
                           kin_prompt_form form) {
    kin_csv *csv = NULL;
    size_t column;
    kin_status status = kin_csv_open(context, path, &csv);
    if (status != KIN_OK) return status;
    if (kin_csv_find_column(csv, "text", &column) != KIN_OK &&
        kin_csv_find_column(csv, "caption", &column) != KIN_OK &&
        kin_csv_find_column(csv, "prompt", &column) != KIN_OK)
        status =
            kin_fail(context, KIN_INVALID, "%s: there is no column prompt, text or caption", path);
    for (size_t row = 0; status == KIN_OK && row < kin_csv_row_count(csv); row++)
        status = read_row(context, prompts, csv, row, path, form);
    kin_csv_close(csv);
    return status;
}

kin_status kin_prompts_read(kin_context *context, kin_prompts *prompts, const char *path,
                            kin_prompt_form form) {
    size_t before = prompts->count;
    kin_status status;
    if (kin_path_ends_with(path, ".json")) status = read_json(context, prompts, path, form);
    else if (kin_path_ends_with(path, ".csv")) status = read_csv(context, prompts, path, form);
    else {
        char *text = NULL;
        size_t size = 0;
        status = kin_file_read_all(context, path, FILE_LIMIT, &text, &size);
        if (status == KIN_OK && memchr(text, 0, size))
            status = kin_fail(context, KIN_FORMAT, "%s: this is not a text file", path);
        if (status == KIN_OK) status = read_lines(context, prompts, path, text, form);
        kin_free(context, text);
    }
    if (status == KIN_OK && prompts->count == before)
        status = kin_fail(context, KIN_INVALID, "%s: there is no prompt in it", path);
    return status;
}
