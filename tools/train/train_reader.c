/* Reading configurations key by key: the first failure sticks. */
#include "tools/train/train_reader.h"

#include "runtime/json.h"
#include "tools/tool.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void kin_train_check_keys(kin_train_reader *r, const json_t *object, const char *const *known,
                          size_t count) {
    if (r->status == KIN_OK && object)
        r->status = kin_json_check_keys(r->context, object, r->file, known, count);
}

void kin_train_get_int(kin_train_reader *r, const json_t *object, const char *key, int64_t low,
                       int64_t high, int64_t *value) {
    const json_t *given = json_object_get(object, key);
    if (r->status == KIN_OK && given && !json_is_null(given))
        r->status =
            kin_json_get_int_between(r->context, object, r->file, key, low, high, *value, value);
}

void kin_train_get_number(kin_train_reader *r, const json_t *object, const char *key, double low,
                          double high, double *value) {
    if (r->status != KIN_OK || !object) return;
    r->status = kin_json_get_double(r->context, object, r->file, key, *value, value);
    bool given = json_is_number(json_object_get(object, key));
    if (r->status == KIN_OK && given && !(*value >= low && *value <= high))
        r->status = kin_fail(r->context, KIN_INVALID, "%s: %s must lie within %g and %g, not %g",
                             r->file, key, low, high, *value);
}

void kin_train_get_bool(kin_train_reader *r, const json_t *object, const char *key, bool *value) {
    if (r->status == KIN_OK && object)
        r->status = kin_json_get_bool(r->context, object, r->file, key, *value, value);
}

void kin_train_get_text(kin_train_reader *r, const json_t *object, const char *key,
                        const char **value) {
    if (r->status == KIN_OK && object)
        r->status = kin_json_get_string(r->context, object, r->file, key, *value, value);
}

json_t *kin_train_get_object(kin_train_reader *r, const json_t *object, const char *key) {
    json_t *child = NULL;
    if (r->status == KIN_OK && object)
        r->status = kin_json_get_child(r->context, object, r->file, key, JSON_OBJECT, &child);
    return child;
}

/* One of two words. */
bool kin_train_get_choice(kin_train_reader *r, const json_t *object, const char *key,
                          const char *first, const char *second) {
    const char *value = first;
    kin_train_get_text(r, object, key, &value);
    if (r->status == KIN_OK && strcmp(value, first) != 0 && strcmp(value, second) != 0)
        r->status = kin_fail(r->context, KIN_INVALID, "%s: %s must be \"%s\" or \"%s\", not \"%s\"",
                             r->file, key, first, second, value);
    return r->status == KIN_OK && strcmp(value, second) == 0;
}

void kin_train_get_bytes(kin_train_reader *r, const json_t *object, const char *key,
                         uint64_t *value) {
    const char *text = NULL;
    kin_train_get_text(r, object, key, &text);
    if (r->status == KIN_OK && text && !kin_parse_bytes(text, value))
        r->status = kin_fail(r->context, KIN_INVALID,
                             "%s: %s must be a size such as \"8G\" or \"512M\", not \"%s\"",
                             r->file, key, text);
}

void kin_train_need(kin_train_reader *r, const json_t *object, const char *key) {
    if (r->status == KIN_OK) r->status = kin_json_require(r->context, object, r->file, key);
}

int kin_train_get_word(kin_train_reader *r, const json_t *object, const char *key,
                       const char *const *words, size_t count, int value) {
    const char *word = NULL;
    kin_train_get_text(r, object, key, &word);
    for (size_t i = 0; word && i < count; i++)
        if (strcmp(word, words[i]) == 0) return (int)i;
    if (!word || r->status != KIN_OK) return value;
    const char *nearest = kin_nearest_name(word, words, count);
    r->status = kin_fail(r->context, KIN_INVALID, "%s: %s: unknown \"%s\"; did you mean \"%s\"?",
                         r->file, key, word, nearest ? nearest : words[0]);
    return value;
}

void kin_train_refuse(kin_train_reader *r, const char *format, ...) {
    char text[512];
    if (r->status != KIN_OK) return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    r->status = kin_fail(r->context, KIN_INVALID, "%s: %s", r->file, text);
}
