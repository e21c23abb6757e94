/* The case of PyTorch's random streams. */
#include "tools/check/case_run.h"

#include <string.h>

#include "runtime/philox.h"
#include "runtime/torch_random.h"

typedef struct stream {
    bool cuda;
    kin_torch_cpu cpu;
    kin_torch_cuda card;
} stream;

static kin_dtype dtype_of(const json_t *draw, bool integers) {
    const char *name = json_string_value(json_object_get(draw, "dtype"));
    if (integers) return KIN_I64;
    if (!name || strcmp(name, "float32") == 0) return KIN_F32;
    if (strcmp(name, "float64") == 0) return KIN_F64;
    return strcmp(name, "bfloat16") == 0 ? KIN_BF16 : KIN_F16;
}

static bool take(stream *s, const char *kind, const json_t *draw, kin_dtype dtype, size_t count,
                 void *values) {
    int64_t low = (int64_t)kin_case_number(draw, "low", 0);
    int64_t high = (int64_t)kin_case_number(draw, "high", 0);
    if (strcmp(kind, "randint") == 0 && low < high) {
        if (s->cuda) kin_torch_cuda_integers(&s->card, low, high, count, values);
        else kin_torch_cpu_integers(&s->cpu, low, high, count, values);
        return true;
    }
    if (strcmp(kind, "randperm") == 0 && !s->cuda) {
        kin_torch_cpu_permutation(&s->cpu, count, values);
        return true;
    }
    if (strcmp(kind, "rand") == 0) {
        return s->cuda ? kin_torch_cuda_uniform(&s->card, dtype, count, values)
                       : kin_torch_cpu_uniform(&s->cpu, dtype, count, values);
    }
    if (strcmp(kind, "randn") != 0) return false;
    return s->cuda ? kin_torch_cuda_normal(&s->card, dtype, count, values)
                   : kin_torch_cpu_normal(&s->cpu, dtype, count, values);
}

/* Keeps only the elements that the case compares. */
static size_t select_elements(const json_t *list, kin_dtype dtype, size_t count, char *values) {
    size_t size = kin_dtype_size(dtype), kept = json_array_size(list);
    if (!list) return count;
    for (size_t i = 0; i < kept; i++) {
        size_t index = (size_t)json_integer_value(json_array_get(list, i));
        if (index >= count) return 0;
        memmove(values + i * size, values + index * size, size);
    }
    return kept;
}

static void run_draw(kin_case_run *run, stream *s, const json_t *draw) {
    const char *kind = json_string_value(json_object_get(draw, "kind"));
    const char *name = json_string_value(json_object_get(draw, "out"));
    double count = kin_case_number(draw, "n", 0);
    bool good = kind && name && count >= 1 && count <= 1 << 24;
    if (!good) {
        kin_case_expect(run, name ? name : "draw", false, "is not described");
        return;
    }
    bool integers = strcmp(kind, "randint") == 0 || strcmp(kind, "randperm") == 0;
    kin_dtype dtype = dtype_of(draw, integers);
    void *values = kin_calloc(run->context, (size_t)count, sizeof(double));
    if (!values) return;
    if (!take(s, kind, draw, dtype, (size_t)count, values))
        kin_case_expect(run, name, false, "cannot be drawn");
    double tolerance = run->tolerance;
    /* The case's notes: the GPU's fast functions, and one unit of the narrow types. */
    if (s->cuda) run->tolerance = 1e-5;
    if (dtype == KIN_BF16) run->tolerance = 1e-2;
    if (dtype == KIN_F16) run->tolerance = 1e-3;
    size_t kept = select_elements(json_object_get(draw, "take"), dtype, (size_t)count, values);
    kin_case_compare(run, name, dtype, values, (int64_t)kept);
    run->tolerance = tolerance;
    kin_free(run->context, values);
}

static void known_answers(kin_case_run *run) {
    const kin_named_tensor *in = kin_case_input_tensor(run, "philox.counter_key");
    if (!in || in->desc.rank != 2 || in->desc.dims[1] != 6) return;
    int64_t rows = in->desc.dims[0];
    int64_t *answers = kin_calloc(run->context, (size_t)rows * 4, sizeof *answers);
    if (!answers) return;
    for (int64_t row = 0; row < rows; row++) {
        uint32_t words[6], out[4];
        for (int i = 0; i < 6; i++)
            words[i] = (uint32_t)kin_element_get(in->data, in->desc.dtype, row * 6 + i);
        kin_philox(words, words + 4, out);
        for (int i = 0; i < 4; i++) answers[row * 4 + i] = out[i];
    }
    kin_case_compare(run, "philox.known", KIN_I64, answers, rows * 4);
    kin_free(run->context, answers);
}

void kin_case_random(kin_case_run *run) {
    const json_t *streams = json_object_get(run->config, "streams"), *entry;
    size_t i, k;
    kin_case_expect(run, "streams", json_array_size(streams) > 0, "");
    json_array_foreach((json_t *)streams, i, entry) {
        const char *device = json_string_value(json_object_get(entry, "device"));
        uint64_t seed = (uint64_t)json_integer_value(json_object_get(entry, "seed"));
        stream s = {.cuda = device && strcmp(device, "cuda") == 0};
        kin_torch_cpu_seed(&s.cpu, seed);
        s.card = (kin_torch_cuda){
            .seed = seed,
            .multiprocessors = (uint32_t)kin_case_number(entry, "multi_processor_count", 0),
            .threads_per_multiprocessor =
                (uint32_t)kin_case_number(entry, "max_threads_per_multi_processor", 0)};
        const json_t *draw;
        json_array_foreach(json_object_get(entry, "draws"), k, draw) run_draw(run, &s, draw);
    }
    known_answers(run);
}
