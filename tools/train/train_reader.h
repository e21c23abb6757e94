/* Reading training configurations key by key. A key that is missing leaves the value as it is; the
 * first failure sticks, and later calls do nothing. */
#ifndef KIN_TOOLS_TRAIN_READER_H
#define KIN_TOOLS_TRAIN_READER_H

#include <jansson.h>

#include "runtime/context.h"

typedef struct kin_train_reader {
    kin_context *context;
    const char *file;
    kin_status status;
} kin_train_reader;

#define KIN_COUNT(array) (sizeof(array) / sizeof *(array))

/* Unknown keys are errors that name the nearest one. */
void kin_train_check_keys(kin_train_reader *r, const json_t *object, const char *const *known,
                          size_t count);
void kin_train_get_int(kin_train_reader *r, const json_t *object, const char *key, int64_t low,
                       int64_t high, int64_t *value);
void kin_train_get_number(kin_train_reader *r, const json_t *object, const char *key, double low,
                          double high, double *value);
void kin_train_get_bool(kin_train_reader *r, const json_t *object, const char *key, bool *value);
/* The string belongs to the object. */
void kin_train_get_text(kin_train_reader *r, const json_t *object, const char *key,
                        const char **value);
json_t *kin_train_get_object(kin_train_reader *r, const json_t *object, const char *key);
/* One of two words: true for the second; the first is the default. */
bool kin_train_get_choice(kin_train_reader *r, const json_t *object, const char *key,
                          const char *first, const char *second);
/* One of several words: its number; `value` is the default. */
int kin_train_get_word(kin_train_reader *r, const json_t *object, const char *key,
                       const char *const *words, size_t count, int value);
/* "8G", "512M" */
void kin_train_get_bytes(kin_train_reader *r, const json_t *object, const char *key,
                         uint64_t *value);
void kin_train_need(kin_train_reader *r, const json_t *object, const char *key);
/* Fails with a message of one's own, unless something failed before. */
void kin_train_refuse(kin_train_reader *r, const char *format, ...) KIN_PRINTF(2, 3);

#endif
