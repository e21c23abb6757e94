/* Fuzzing the recognition of models: by the names and shapes of a safetensors file's tensors and,
 * of bytes that begin with '{', by a config.json and a model_index.json. What is recognised must
 * make a graph that the tensors can be held against; what is not must be refused with a message. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>

#include "runtime/json.h"
#include "tests/fuzz_file.h"
#include "tools/system/system_internal.h"
#include "tools/system/weights_match.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(kin_context *context, kin_status status) {
    if (status != KIN_OK && kin_context_error(context)[0] == '\0') abort();
}

/* Models that are too large to be a tensor's fault are not built. */
static void match(kin_context *context, const kin_checkpoint *file, const kin_model_choice *model) {
    kin_weights_match found;
    check(context, kin_weights_match_file(context, file, model, &found));
    if (found.found > found.variables) abort();
    kin_weights_match_free(&found);
}

static void guess(kin_context *context, const char *path) {
    kin_checkpoint *file = NULL;
    if (kin_checkpoint_open(context, path, NULL, &file) != KIN_OK) return;
    kin_model_choice model = {.kind = KIN_MODEL_DENOISER};
    kin_status status = kin_guess_denoiser(context, file, path, NULL, &model.denoiser);
    check(context, status);
    if (status == KIN_OK) match(context, file, &model);
    model.kind = KIN_MODEL_VAE;
    status = kin_guess_vae(context, file, path, &model.vae);
    check(context, status);
    if (status == KIN_OK) match(context, file, &model);
    model.kind = KIN_MODEL_T5;
    status = kin_guess_t5(context, file, path, &model.t5);
    check(context, status);
    if (status == KIN_OK) match(context, file, &model);
    kin_checkpoint_close(file);
}

static void read_json(kin_context *context, const uint8_t *data, size_t size) {
    json_t *json = NULL;
    kin_model_choice model = {.kind = KIN_MODEL_DENOISER};
    kin_system_defaults defaults = {.fps = 1};
    bool ours;
    kin_status status = kin_json_parse(context, "fuzz", (const char *)data, size, &json);
    check(context, status);
    if (status == KIN_OK) {
        check(context, kin_model_parse(context, json, "fuzz", &model));
        status = kin_system_parse_index(context, json, "fuzz", &defaults, &ours);
        check(context, status);
        if (status == KIN_OK && !(defaults.fps > 0)) abort();
    }
    json_decref(json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    kin_context *context = NULL;
    char path[64];
    if (kin_context_create(NULL, &context) != KIN_OK) abort();
    if (size > 0 && data[0] == '{') {
        read_json(context, data, size);
    } else {
        int file = fuzz_file(data, size, path);
        guess(context, path);
        close(file);
    }
    kin_context_destroy(context);
    return 0;
}
