/* Fuzz target of the tokenizer: model files and texts. */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <unistd.h>

#include "runtime/file.h"
#include "runtime/tokenizer.h"
#include "tests/fuzz_patch.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void make_seed(kin_context *context, fuzz_seed *seed) {
    static const char *const sentences[] = {"a red circle moving to the left",
                                            "the blue square sliding up"};
    char path[64], *bytes = NULL;
    snprintf(path, sizeof path, "/tmp/kinora-fuzz-%ld.model", (long)getpid());
    kin_status status = kin_tokenizer_train(context, sentences, 2, 64, path);
    if (status == KIN_UNSUPPORTED) return;
    if (status != KIN_OK ||
        kin_file_read_all(context, path, 1 << 24, &bytes, &seed->size) != KIN_OK)
        abort();
    seed->data = (uint8_t *)bytes;
    unlink(path);
}

/* Byte 0 says how many of the rest are text; the others make the model. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static fuzz_seed seed; /* training for every input would be all that is done */
    static kin_context *context;
    if (!context) {
        if (kin_context_create(NULL, &context) != KIN_OK) abort();
        make_seed(context, &seed);
    }
    if (size < 2) return 0;
    size_t text_size = data[0] < size - 1 ? data[0] : size - 1, length = 0;
    const char *text = (const char *)data + 1;
    uint8_t *input =
        fuzz_make(data + 1 + text_size, size - 1 - text_size, &seed, seed.data ? 1 : 0, &length);
    kin_tokenizer *tokenizer = NULL;
    if (kin_tokenizer_load_bytes(context, "fuzz", input, length, &tokenizer) == KIN_OK) {
        int32_t ids[32];
        int count = 0;
        if (kin_tokenizer_encode_padded(tokenizer, text, text_size, 32, ids, &count) == KIN_OK &&
            (count < 1 || count > 32))
            abort();
        for (int i = 0; i < count; ++i)
            if (ids[i] < 0 || (ids[i] >= kin_tokenizer_size(tokenizer) && ids[i] > 1)) abort();
        kin_tokenizer_destroy(tokenizer);
    }
    free(input);
    return 0;
}
