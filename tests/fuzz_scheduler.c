/* Fuzzing scheduler_config.json: what is read makes a schedule of finite numbers, or is refused
 * with a message. The first byte is the number of steps. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "models/scheduler.h"
#include "runtime/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    kin_context *context = NULL;
    json_t *root = NULL;
    kin_scheduler *s = NULL;
    kin_scheduler_config config;
    if (size < 1) return 0;
    if (kin_context_create(NULL, &context) != KIN_OK) abort();
    kin_scheduler_options options = {.steps = data[0], .eta = 0.5, .mu = 1};
    kin_status status = kin_json_parse(context, "fuzz", (const char *)data + 1, size - 1, &root);
    if (status == KIN_OK) status = kin_scheduler_config_parse(context, root, "fuzz", &config);
    if (status == KIN_OK) status = kin_scheduler_create(context, &config, &options, &s);
    if (status != KIN_OK && kin_context_error(context)[0] == '\0') abort();
    if (status == KIN_OK)
        for (int i = 0; i < s->calls * s->rows * s->columns; i++)
            if (!isfinite(s->coefficients[i])) abort();
    kin_scheduler_free(s);
    json_decref(root);
    kin_context_destroy(context);
    return 0;
}
