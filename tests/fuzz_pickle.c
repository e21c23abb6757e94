/* Fuzzing the reader of torch.save files: a walk of what it accepts must end and stay within the
 * storages; whatever it refuses must have a message. */
#define _GNU_SOURCE

#include "tests/fuzz_file.h"

#include "runtime/pickle.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Reads the first and the last element, and all of a tensor that is small. */
static double touch(const kin_named_tensor *tensor) {
    const kin_desc *desc = &tensor->desc;
    int64_t last = 0;
    int64_t count = kin_desc_count(desc);
    if (count == 0) return 0;
    for (int i = 0; i < desc->rank; i++) last += (desc->dims[i] - 1) * desc->strides[i];
    double sum = kin_element_get(tensor->data, desc->dtype, 0) +
                 kin_element_get(tensor->data, desc->dtype, last);
    if (count > 4096) return sum;
    void *dense = malloc(kin_desc_bytes(desc) + 1);
    kin_copy_dense(desc, tensor->data, dense);
    for (int64_t i = 0; i < count; i++) sum += kin_element_get(dense, desc->dtype, i);
    free(dense);
    return sum;
}

static size_t walk(const kin_pickle_value *value) {
    size_t sum = 1;
    if (value->kind == KIN_PICKLE_STRING || value->kind == KIN_PICKLE_BYTES ||
        value->kind == KIN_PICKLE_OPAQUE || value->kind == KIN_PICKLE_BIG_INT) {
        if (value->as.text.data[value->as.text.size] != '\0') abort();
    }
    if (value->kind != KIN_PICKLE_LIST && value->kind != KIN_PICKLE_TUPLE &&
        value->kind != KIN_PICKLE_DICT)
        return sum;
    if (value->kind == KIN_PICKLE_DICT && value->as.list.count % 2 != 0) abort();
    for (size_t i = 0; i < value->as.list.count; i++) sum += walk(value->as.list.items[i]);
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static volatile double sink;
    char path[64];
    kin_context *context = NULL;
    kin_pickle *file = NULL;
    const kin_named_tensor *tensors = NULL;
    size_t count = 0;
    if (kin_context_create(NULL, &context) != KIN_OK) abort();
    int handle = fuzz_file(data, size, path);
    if (kin_pickle_open(context, path, &file) == KIN_OK) {
        sink += (double)walk(kin_pickle_root(file));
        if (kin_pickle_flatten(file, kin_pickle_root(file), '.', &tensors, &count) == KIN_OK)
            for (size_t i = 0; i < count; i++) sink += touch(&tensors[i]);
        (void)kin_pickle_state_dict(file, NULL, &tensors, &count, NULL);
    } else if (kin_context_error(context)[0] == '\0') {
        abort();
    }
    (void)sink; /* keeps the reads above */
    kin_pickle_close(file);
    close(handle);
    kin_context_destroy(context);
    return 0;
}
