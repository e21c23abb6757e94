/* Fuzzing the safetensors reader: whatever it accepts must be readable to the last byte and be
 * found by its name; whatever it refuses must have a message. */
#define _GNU_SOURCE

#include "tests/fuzz_file.h"

#include "runtime/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned touch(const kin_named_tensor *tensor) {
    const unsigned char *bytes = tensor->data;
    unsigned sum = (unsigned char)tensor->name[0];
    size_t count = kin_desc_bytes(&tensor->desc);
    for (size_t i = 0; i < count; i++) sum += bytes[i];
    if (kin_desc_count(&tensor->desc) > 0) sum += kin_element_get(bytes, tensor->desc.dtype, 0) > 0;
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static volatile unsigned sink;
    char path[64];
    kin_context *context = NULL;
    kin_safetensors *file = NULL;
    if (kin_context_create(NULL, &context) != KIN_OK) abort();
    int handle = fuzz_file(data, size, path);
    if (kin_safetensors_open(context, path, &file) == KIN_OK) {
        for (size_t i = 0; i < kin_safetensors_count(file); i++) {
            const kin_named_tensor *tensor = kin_safetensors_at(file, i);
            sink += touch(tensor);
            if (kin_safetensors_find(file, tensor->name) != tensor) abort();
        }
        for (size_t i = 0; i < kin_safetensors_metadata_count(file); i++) {
            const kin_metadata *entry = kin_safetensors_metadata_at(file, i);
            if (kin_safetensors_metadata(file, entry->key) != entry->value) abort();
        }
    } else if (kin_context_error(context)[0] == '\0') {
        abort();
    }
    (void)sink; /* keeps the reads above */
    kin_safetensors_close(file);
    close(handle);
    kin_context_destroy(context);
    return 0;
}
