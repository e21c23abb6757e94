/* Strict reading of JSON configurations over jansson.
 *
 * `where` in the functions below names the object in messages: "config.json" or "config.json:
 * scheduler". A key that is missing or null takes the default. */
#ifndef KIN_RUNTIME_JSON_H
#define KIN_RUNTIME_JSON_H

#include <jansson.h>

#include "runtime/context.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { KIN_JSON_FILE_LIMIT = 256 << 20 }; /* bytes; larger files are refused */

/* Reads a file. Syntax errors and keys that come twice are KIN_FORMAT, with line and column. The
 * caller frees *out_root with json_decref. */
KIN_API kin_status kin_json_load(kin_context *context, const char *path, json_t **out_root);
/* The same from memory; `name` stands for the file in messages. */
KIN_API kin_status kin_json_parse(kin_context *context, const char *name, const char *text,
                                  size_t size, json_t **out_root);

/* KIN_INVALID if `object` is no object or has a key that is not among the known ones; the message
 * names the nearest known key. */
KIN_API kin_status kin_json_check_keys(kin_context *context, const json_t *object,
                                       const char *where, const char *const *known_names,
                                       size_t count);
/* KIN_NOT_FOUND if the key is missing or null. */
KIN_API kin_status kin_json_require(kin_context *context, const json_t *object, const char *where,
                                    const char *key);

/* A value, or the default. Of the wrong type: KIN_INVALID. */
KIN_API kin_status kin_json_get_int(kin_context *context, const json_t *object, const char *where,
                                    const char *key, int64_t fallback, int64_t *out_value);
/* The same, and low <= value <= high, else KIN_INVALID. */
KIN_API kin_status kin_json_get_int_between(kin_context *context, const json_t *object,
                                            const char *where, const char *key, int64_t low,
                                            int64_t high, int64_t fallback, int64_t *out_value);
/* Takes integers too. */
KIN_API kin_status kin_json_get_double(kin_context *context, const json_t *object,
                                       const char *where, const char *key, double fallback,
                                       double *out_value);
KIN_API kin_status kin_json_get_bool(kin_context *context, const json_t *object, const char *where,
                                     const char *key, bool fallback, bool *out_value);
/* The string belongs to the object. */
KIN_API kin_status kin_json_get_string(kin_context *context, const json_t *object,
                                       const char *where, const char *key, const char *fallback,
                                       const char **out_value);
/* An array of integers, of at most `capacity`. Missing: values and *count stay as they are, so the
 * caller puts the default there first. */
KIN_API kin_status kin_json_get_ints(kin_context *context, const json_t *object, const char *where,
                                     const char *key, int64_t *values, size_t capacity,
                                     size_t *count);
/* The same for ints, each within low..high. */
KIN_API kin_status kin_json_get_int_list(kin_context *context, const json_t *object,
                                         const char *where, const char *key, int low, int high,
                                         int *values, size_t capacity, size_t *count);
/* An object or array of the given type (JSON_OBJECT, JSON_ARRAY), or NULL if missing; borrowed. */
KIN_API kin_status kin_json_get_child(kin_context *context, const json_t *object, const char *where,
                                      const char *key, json_type type, json_t **out_child);

/* Applies "model.depth=28" to the root. The value is taken as JSON if it is that (28, true, null,
 * [1,2], "x"), else as a string. Objects on the way are made; a number picks an element of an
 * array. KIN_INVALID if the text has no '=', an empty name, or leads through a scalar. */
KIN_API kin_status kin_json_set(kin_context *context, json_t *root, const char *assignment);

#ifdef __cplusplus
}
#endif
#endif
