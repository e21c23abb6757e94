/* Fuzzing the configuration reader: the first line is a setting, the rest is the file. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_keys(kin_context *context, const json_t *root) {
    static const char *const known[] = {"depth", "model", "heads"};
    const char *key;
    json_t *value;
    int64_t numbers[4];
    size_t count = 0;
    int64_t integer;
    double number;
    bool flag;
    const char *text;
    (void)kin_json_check_keys(context, root, "fuzz", known, 3);
    json_object_foreach((json_t *)(uintptr_t)root, key, value) {
        (void)kin_json_get_int(context, root, "fuzz", key, 1, &integer);
        (void)kin_json_get_double(context, root, "fuzz", key, 1, &number);
        (void)kin_json_get_bool(context, root, "fuzz", key, true, &flag);
        (void)kin_json_get_string(context, root, "fuzz", key, "", &text);
        (void)kin_json_get_ints(context, root, "fuzz", key, numbers, 4, &count);
        if (count > 4) abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *line = size > 0 ? memchr(data, '\n', size) : NULL;
    kin_context *context = NULL;
    json_t *root = NULL;
    if (line == NULL) return 0;
    if (kin_context_create(NULL, &context) != KIN_OK) abort();
    size_t length = (size_t)(line - data);
    char *setting = malloc(length + 1);
    memcpy(setting, data, length);
    setting[length] = '\0';
    const char *text = (const char *)line + 1;
    if (kin_json_parse(context, "fuzz", text, size - length - 1, &root) == KIN_OK) {
        read_keys(context, root);
        if (kin_json_set(context, root, setting) == KIN_OK) read_keys(context, root);
    } else if (kin_context_error(context)[0] == '\0') {
        abort();
    }
    json_decref(root);
    free(setting);
    kin_context_destroy(context);
    return 0;
}
