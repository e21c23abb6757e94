/* Strict reading of JSON configurations over jansson. */
#define _POSIX_C_SOURCE 200809L

#include "runtime/json.h"

#include <string.h>

#include "runtime/file.h"

static const char *type_name(const json_t *value) {
    if (value == NULL) return "nothing";
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a number with a fraction";
    case JSON_TRUE:
        return "true";
    case JSON_FALSE:
        return "false";
    case JSON_NULL:
        return "null";
    }
    return "something unknown";
}

kin_status kin_json_parse(kin_context *context, const char *name, const char *text, size_t size,
                          json_t **out_root) {
    json_error_t error;
    *out_root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &error);
    if (*out_root != NULL) return KIN_OK;
    if (json_error_code(&error) == json_error_out_of_memory)
        return kin_fail(context, KIN_OUT_OF_MEMORY, "%s: out of memory", name);
    return kin_fail(context, KIN_FORMAT, "%s:%d:%d: not valid JSON: %s", name, error.line,
                    error.column, error.text);
}

kin_status kin_json_load(kin_context *context, const char *path, json_t **out_root) {
    *out_root = NULL;
    char *text = NULL;
    size_t size = 0;
    kin_status status = kin_file_read_all(context, path, KIN_JSON_FILE_LIMIT, &text, &size);
    if (status != KIN_OK) return status;
    status = kin_json_parse(context, path, text, size, out_root);
    kin_free(context, text);
    return status;
}

static kin_status check_object(kin_context *context, const json_t *object, const char *where) {
    if (json_is_object(object)) return KIN_OK;
    return kin_fail(context, KIN_INVALID, "%s: must be an object, and is %s", where,
                    type_name(object));
}

kin_status kin_json_check_keys(kin_context *context, const json_t *object, const char *where,
                               const char *const *known_names, size_t count) {
    kin_status status = check_object(context, object, where);
    if (status != KIN_OK) return status;
    const char *key;
    json_t *value;
    /* jansson's iterators want a pointer to non-const; nothing is changed through it. */
    json_object_foreach((json_t *)(uintptr_t)object, key, value) {
        bool is_known = false;
        for (size_t i = 0; i < count && !is_known; i++) is_known = strcmp(key, known_names[i]) == 0;
        if (is_known) continue;
        const char *nearest = kin_nearest_name(key, known_names, count);
        if (nearest == NULL)
            return kin_fail(context, KIN_INVALID, "%s: unknown key '%s'", where, key);
        return kin_fail(context, KIN_INVALID, "%s: unknown key '%s'; did you mean '%s'?", where,
                        key, nearest);
    }
    return KIN_OK;
}

/* The value under the key, NULL if missing or null. */
static kin_status find_value(kin_context *context, const json_t *object, const char *where,
                             const char *key, const json_t **out_value) {
    *out_value = NULL;
    kin_status status = check_object(context, object, where);
    if (status != KIN_OK) return status;
    const json_t *value = json_object_get(object, key);
    if (value != NULL && !json_is_null(value)) *out_value = value;
    return KIN_OK;
}

static kin_status fail_type(kin_context *context, const char *where, const char *key,
                            const char *wanted, const json_t *value) {
    return kin_fail(context, KIN_INVALID, "%s: '%s' must be %s, and is %s", where, key, wanted,
                    type_name(value));
}

kin_status kin_json_require(kin_context *context, const json_t *object, const char *where,
                            const char *key) {
    const json_t *value;
    kin_status status = find_value(context, object, where, key, &value);
    if (status == KIN_OK && value == NULL)
        status = kin_fail(context, KIN_NOT_FOUND, "%s: the key '%s' is missing", where, key);
    return status;
}

kin_status kin_json_get_int(kin_context *context, const json_t *object, const char *where,
                            const char *key, int64_t fallback, int64_t *out_value) {
    const json_t *value;
    *out_value = fallback;
    kin_status status = find_value(context, object, where, key, &value);
    if (status != KIN_OK || value == NULL) return status;
    if (!json_is_integer(value)) return fail_type(context, where, key, "an integer", value);
    *out_value = json_integer_value(value);
    return KIN_OK;
}

kin_status kin_json_get_int_between(kin_context *context, const json_t *object, const char *where,
                                    const char *key, int64_t low, int64_t high, int64_t fallback,
                                    int64_t *out_value) {
    int64_t value;
    *out_value = fallback;
    kin_status status = kin_json_get_int(context, object, where, key, fallback, &value);
    if (status != KIN_OK) return status;
    if (value < low || value > high)
        return kin_fail(context, KIN_INVALID, "%s: '%s' is %lld; it must lie in %lld to %lld",
                        where, key, (long long)value, (long long)low, (long long)high);
    *out_value = value;
    return KIN_OK;
}

kin_status kin_json_get_double(kin_context *context, const json_t *object, const char *where,
                               const char *key, double fallback, double *out_value) {
    const json_t *value;
    *out_value = fallback;
    kin_status status = find_value(context, object, where, key, &value);
    if (status != KIN_OK || value == NULL) return status;
    if (!json_is_number(value)) return fail_type(context, where, key, "a number", value);
    *out_value = json_number_value(value);
    return KIN_OK;
}

kin_status kin_json_get_bool(kin_context *context, const json_t *object, const char *where,
                             const char *key, bool fallback, bool *out_value) {
    const json_t *value;
    *out_value = fallback;
    kin_status status = find_value(context, object, where, key, &value);
    if (status != KIN_OK || value == NULL) return status;
    if (!json_is_boolean(value)) return fail_type(context, where, key, "true or false", value);
    *out_value = json_is_true(value);
    return KIN_OK;
}

kin_status kin_json_get_string(kin_context *context, const json_t *object, const char *where,
                               const char *key, const char *fallback, const char **out_value) {
    const json_t *value;
    *out_value = fallback;
    kin_status status = find_value(context, object, where, key, &value);
    if (status != KIN_OK || value == NULL) return status;
    if (!json_is_string(value)) return fail_type(context, where, key, "a string", value);
    *out_value = json_string_value(value);
    return KIN_OK;
}

kin_status kin_json_get_ints(kin_context *context, const json_t *object, const char *where,
                             const char *key, int64_t *values, size_t capacity, size_t *count) {
    const json_t *array;
    kin_status status = find_value(context, object, where, key, &array);
    if (status != KIN_OK || array == NULL) return status;
    if (!json_is_array(array)) return fail_type(context, where, key, "an array", array);
    size_t size = json_array_size(array);
    if (size > capacity)
        return kin_fail(context, KIN_INVALID, "%s: '%s' has %zu elements; %zu are the most", where,
                        key, size, capacity);
    for (size_t i = 0; i < size; i++)
        if (!json_is_integer(json_array_get(array, i)))
            return fail_type(context, where, key, "an array of integers", json_array_get(array, i));
    for (size_t i = 0; i < size; i++) values[i] = json_integer_value(json_array_get(array, i));
    *count = size;
    return KIN_OK;
}

kin_status kin_json_get_int_list(kin_context *context, const json_t *object, const char *where,
                                 const char *key, int low, int high, int *values, size_t capacity,
                                 size_t *count) {
    const json_t *array;
    kin_status status = find_value(context, object, where, key, &array);
    if (status != KIN_OK || array == NULL) return status;
    if (!json_is_array(array)) return fail_type(context, where, key, "an array", array);
    size_t size = json_array_size(array);
    if (size > capacity)
        return kin_fail(context, KIN_INVALID, "%s: '%s' has %zu elements; %zu are the most", where,
                        key, size, capacity);
    for (size_t i = 0; i < size; i++) {
        const json_t *element = json_array_get(array, i);
        if (!json_is_integer(element))
            return fail_type(context, where, key, "an array of integers", element);
        if (json_integer_value(element) < low || json_integer_value(element) > high)
            return kin_fail(context, KIN_INVALID, "%s: '%s'[%zu] must be within %d..%d", where, key,
                            i, low, high);
    }
    for (size_t i = 0; i < size; i++) values[i] = (int)json_integer_value(json_array_get(array, i));
    *count = size;
    return KIN_OK;
}

kin_status kin_json_get_child(kin_context *context, const json_t *object, const char *where,
                              const char *key, json_type type, json_t **out_child) {
    const json_t *value;
    *out_child = NULL;
    kin_status status = find_value(context, object, where, key, &value);
    if (status != KIN_OK || value == NULL) return status;
    if (json_typeof(value) != type)
        return fail_type(context, where, key, type == JSON_ARRAY ? "an array" : "an object", value);
    *out_child = (json_t *)(uintptr_t)value;
    return KIN_OK;
}

/* ---- setting by a dotted name ---- */

/* Index of an array element; false if the text is no number below `size`. */
static bool parse_index(const char *text, size_t length, size_t size, size_t *out_index) {
    size_t index = 0;
    if (length == 0 || length > 9) return false;
    for (size_t i = 0; i < length; i++) {
        if (text[i] < '0' || text[i] > '9') return false;
        index = index * 10 + (size_t)(text[i] - '0');
    }
    *out_index = index;
    return index < size;
}

/* One step down; an object that lacks the key gets an empty object there. */
static kin_status step_down(kin_context *context, json_t *node, const char *assignment,
                            const char *name, json_t **out_child) {
    size_t index;
    *out_child = NULL;
    if (json_is_array(node)) {
        if (!parse_index(name, strlen(name), json_array_size(node), &index))
            return kin_fail(context, KIN_INVALID,
                            "'%s': '%s' is no element of the array, which has %zu", assignment,
                            name, json_array_size(node));
        *out_child = json_array_get(node, index);
        return KIN_OK;
    }
    json_t *child = json_object_get(node, name);
    if (child == NULL || json_is_null(child)) {
        if (json_object_set_new(node, name, json_object()) != 0)
            return kin_fail(context, KIN_OUT_OF_MEMORY, "'%s': out of memory", assignment);
        child = json_object_get(node, name);
    }
    *out_child = child;
    return KIN_OK;
}

/* Takes over the reference to the value. */
static kin_status put_value(kin_context *context, json_t *node, const char *assignment,
                            const char *name, json_t *value) {
    size_t index;
    if (json_is_array(node)) {
        if (!parse_index(name, strlen(name), json_array_size(node), &index)) {
            json_decref(value);
            return kin_fail(context, KIN_INVALID,
                            "'%s': '%s' is no element of the array, which has %zu", assignment,
                            name, json_array_size(node));
        }
        if (json_array_set_new(node, index, value) == 0) return KIN_OK;
    } else if (json_object_set_new(node, name, value) == 0) {
        return KIN_OK;
    }
    return kin_fail(context, KIN_OUT_OF_MEMORY, "'%s': out of memory", assignment);
}

static json_t *parse_value(const char *text) {
    json_t *value = json_loads(text, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, NULL);
    return value != NULL ? value : json_string(text);
}

/* `name` is the part before '=', which is cut at its dots here. */
static kin_status set_by_name(kin_context *context, json_t *root, const char *assignment,
                              char *name, const char *text) {
    json_t *node = root;
    for (;;) {
        if (!json_is_object(node) && !json_is_array(node))
            return kin_fail(context, KIN_INVALID, "'%s': the part before '%s' is %s", assignment,
                            name, type_name(node));
        char *dot = strchr(name, '.');
        if (dot != NULL) *dot = '\0';
        if (name[0] == '\0')
            return kin_fail(context, KIN_INVALID, "'%s': an empty name before or after a dot",
                            assignment);
        if (dot == NULL) break;
        kin_status status = step_down(context, node, assignment, name, &node);
        if (status != KIN_OK) return status;
        name = dot + 1;
    }
    json_t *value = parse_value(text);
    if (value == NULL)
        return kin_fail(context, KIN_OUT_OF_MEMORY, "'%s': out of memory", assignment);
    return put_value(context, node, assignment, name, value);
}

kin_status kin_json_set(kin_context *context, json_t *root, const char *assignment) {
    const char *equals = strchr(assignment, '=');
    if (equals == NULL)
        return kin_fail(context, KIN_INVALID, "'%s': write it as name=value", assignment);
    if (!kin_utf8_is_valid(assignment, strlen(assignment)))
        return kin_fail(context, KIN_INVALID, "a setting that is not UTF-8");
    char *name = kin_strndup(context, assignment, (size_t)(equals - assignment));
    if (name == NULL) return KIN_OUT_OF_MEMORY;
    kin_status status = set_by_name(context, root, assignment, name, equals + 1);
    kin_free(context, name);
    return status;
}
