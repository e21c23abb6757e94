/* The benchmarks: the peak, quartiles, records and their comparison. No time is held to a limit:
 * the machine may be busy. Quartiles and ratios are exact to 1e-12. */
#include "bench/bench.h"
#include "bench/compare.h"
#include "bench/graphs.h"
#include "runtime/file.h"
#include "tools/verbs.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const double exact = 1e-12;

static const char first_path[] = "test_bench_first.json";
static const char second_path[] = "test_bench_second.json";

static kin_context *new_context(void) {
    kin_context *context = NULL;
    assert_int_equal(kin_context_create(NULL, &context), KIN_OK);
    return context;
}

/* Calls a verb with up to nine words. */
static int call(int (*verb)(int, char **), const char *const *words) {
    char copies[10][256], *arguments[10];
    int count = 0;
    for (; words[count]; count++) {
        snprintf(copies[count], sizeof copies[count], "%s", words[count]);
        arguments[count] = copies[count];
    }
    return verb(count, arguments);
}
#define CALL(verb, ...) call(verb, (const char *const[]){__VA_ARGS__, NULL})

static json_t *load(const char *path) {
    json_error_t error;
    json_t *root = json_load_file(path, 0, &error);
    if (!root) fail_msg("%s: %s", path, error.text);
    return root;
}

static double number(const json_t *object, const char *key) {
    json_t *value = json_object_get(object, key);
    assert_true(json_is_number(value));
    return json_number_value(value);
}

/* ---- the peak ---- */

static void peak_is_positive(void **state) {
    (void)state;
    kin_context *context = new_context();
    kin_bench_peak peak;
    assert_int_equal(kin_bench_peak_measure(context, 1, 0.02, &peak), KIN_OK);
    assert_int_equal(peak.threads, 1);
    assert_true(peak.flops > 1e8 && peak.flops < 1e13);
    assert_true(peak.bytes > 1e7 && peak.bytes < 1e13);
    assert_true(strcmp(peak.isa, "generic") == 0 || strcmp(peak.isa, "avx2") == 0 ||
                strcmp(peak.isa, "avx512") == 0);
    assert_int_equal(kin_bench_peak_measure(context, 0, 0.02, &peak), KIN_INVALID);
    kin_context_destroy(context);
}

static void *refuse(void *user, void *ptr, size_t size) {
    (void)user;
    if (size > 1 << 20) return NULL;
    if (size == 0) {
        free(ptr);
        return NULL;
    }
    return realloc(ptr, size);
}

static void peak_without_memory(void **state) {
    (void)state;
    kin_context_options options = {.struct_size = sizeof options, .allocator = {refuse, NULL}};
    kin_context *context = NULL;
    kin_bench_peak peak;
    assert_int_equal(kin_context_create(&options, &context), KIN_OK);
    assert_int_equal(kin_bench_peak_measure(context, 1, 0.001, &peak), KIN_OUT_OF_MEMORY);
    kin_context_destroy(context);
}

/* ---- numbers ---- */

static void quartiles(void **state) {
    (void)state;
    const double values[] = {5, 1, 4, 2, 3}, pair[] = {2, 1};
    double low, median, high;
    kin_bench_quartiles(values, 5, &low, &median, &high);
    assert_float_equal(low, 2, exact);
    assert_float_equal(median, 3, exact);
    assert_float_equal(high, 4, exact);
    kin_bench_quartiles(pair, 2, &low, &median, &high);
    assert_float_equal(low, 1.25, exact);
    assert_float_equal(median, 1.5, exact);
    assert_float_equal(high, 1.75, exact);
    kin_bench_quartiles(values, 1, &low, &median, &high);
    assert_true(low == 5 && median == 5 && high == 5);
}

static void verdicts(void **state) {
    (void)state;
    const double slow[] = {2.0, 2.1, 1.9, 2.0}, fast[] = {1.0, 1.05, 0.95, 1.0};
    const double wide[] = {0.5, 0.9, 2.5, 3.5};
    kin_bench_ratio r = kin_bench_compare(slow, 4, fast, 4);
    assert_int_equal(r.verdict, KIN_BENCH_FASTER);
    assert_float_equal(r.ratio, 2, exact);
    assert_true(r.low < r.ratio && r.ratio < r.high && r.low > 1);
    assert_int_equal(kin_bench_compare(fast, 4, slow, 4).verdict, KIN_BENCH_SLOWER);
    assert_int_equal(kin_bench_compare(slow, 4, slow, 4).verdict, KIN_BENCH_SAME);
    /* the medians are as far apart as 1 and 1.7, but the noise is wider */
    assert_int_equal(kin_bench_compare(fast, 4, wide, 4).verdict, KIN_BENCH_SAME);
}

static void fills(void **state) {
    (void)state;
    enum { COUNT = 10000 };
    kin_context *context = new_context();
    int32_t *values = kin_calloc(context, COUNT, sizeof *values);
    kin_case_input spec = {.fill = KIN_FILL_INDEX, .limit = 7};
    bool seen[7] = {false};
    assert_int_equal(kin_bench_fill(context, &spec, KIN_I32, COUNT, values), KIN_OK);
    for (int i = 0; i < COUNT; i++) {
        assert_in_range(values[i], 0, 6);
        seen[values[i]] = true;
    }
    for (int i = 0; i < 7; i++) assert_true(seen[i]);
    spec.fill = KIN_FILL_COUNT;
    assert_int_equal(kin_bench_fill(context, &spec, KIN_I32, COUNT, values), KIN_OK);
    for (int i = 0; i < COUNT; i++) assert_int_equal(values[i], i);
    spec.fill = KIN_FILL_LENGTH;
    assert_int_equal(kin_bench_fill(context, &spec, KIN_I32, COUNT, values), KIN_OK);
    for (int i = 0; i < COUNT; i++) assert_in_range(values[i], 0, 7);
    assert_int_equal(values[COUNT - 1], 7);
    kin_free(context, values);
    kin_context_destroy(context);
}

/* ---- records ---- */

static void check_record(const char *path, const char *kind) {
    json_t *root = load(path);
    assert_string_equal(json_string_value(json_object_get(root, "format")), "kinora-bench-1");
    assert_string_equal(json_string_value(json_object_get(root, "kind")), kind);
    assert_string_equal(json_string_value(json_object_get(root, "commit")), "abc123");
    assert_string_equal(json_string_value(json_object_get(root, "device")), "cpu");
    assert_string_equal(json_string_value(json_object_get(root, "version")), kin_version());
    assert_true(json_is_string(json_object_get(root, "isa")));
    assert_int_equal((int)number(root, "threads"), 1);
    assert_true(number(json_object_get(root, "peak"), "gflops") > 0);
    assert_true(number(json_object_get(root, "peak_at_end"), "gbytes") > 0);
    json_t *cases = json_object_get(root, "cases"), *object;
    size_t i;
    assert_true(json_array_size(cases) > 0);
    json_array_foreach(cases, i, object) {
        json_t *samples = json_object_get(object, "samples");
        double median = number(object, "median");
        assert_true(json_array_size(samples) >= KIN_BENCH_MIN_SAMPLES);
        assert_true(number(object, "low") > 0 && number(object, "low") <= median);
        assert_true(median <= number(object, "high"));
        assert_true(number(object, "flops") >= 0 && number(object, "bytes") > 0);
        assert_true(number(object, "fraction") > 0);
        assert_true(json_is_string(json_object_get(object, "kernel")));
    }
    json_decref(root);
}

static void ops_record(void **state) {
    (void)state;
    static const char *const ops[] = {"add", "linear", "adamw", "embedding"};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(CALL(kin_verb_bench_ops, "--op", ops[i], "--min-time", "0.0001", "-t1",
                              "--json", first_path, "--commit=abc123"),
                         KIN_EXIT_OK);
        check_record(first_path, "ops");
    }
    assert_int_equal(CALL(kin_verb_bench_ops, "--op", "softmax", "--dtype", "bf16", "--min-time",
                          "0.0001", "-t1", "--json", first_path),
                     KIN_EXIT_OK);
    json_t *root = load(first_path);
    json_t *object = json_array_get(json_object_get(root, "cases"), 0);
    assert_string_equal(json_string_value(json_object_get(object, "dtype")), "bf16");
    assert_null(json_object_get(root, "commit"));
    json_decref(root);
    remove(first_path);
}

static void model_record(void **state) {
    (void)state;
    assert_int_equal(CALL(kin_verb_bench_model, "-m", "demo", "--train", "--profile",
                          "--min-time=0", "-t1", "--json", first_path, "--commit=abc123"),
                     KIN_EXIT_OK);
    check_record(first_path, "model");
    assert_int_equal(
        CALL(kin_verb_bench_model, "-m", "layer-norm", "--dtype=bf16", "--min-time=0", "-t1"),
        KIN_EXIT_OK);
    assert_int_equal(CALL(kin_verb_bench_model, "-m", "layer-norm", "--train", "--min-time=0",
                          "-t1", "--json", second_path, "--commit=abc123"),
                     KIN_EXIT_OK);
    check_record(second_path, "model");
    remove(first_path);
    remove(second_path);
}

/* Every model can be made into a graph, forward and, where it says so, with gradients. */
static void model_graphs(void **state) {
    (void)state;
    kin_context *context = new_context();
    for (const kin_bench_graph *model = kin_bench_graphs; model->name; model++)
        for (int way = 0; way < 2 * (1 + model->trains); way++) {
            const kin_dtype dtype = way % 2 ? KIN_BF16 : KIN_F32;
            kin_graph *graph = NULL;
            assert_int_equal(kin_graph_create(context, &graph), KIN_OK);
            if (model->append(graph, model->sizes, dtype, way > 1) != KIN_OK)
                fail_msg("%s in %s: %s", model->name, kin_dtype_name(dtype),
                         kin_context_error(context));
            kin_graph_destroy(graph);
        }
    kin_context_destroy(context);
}

static void refusals(void **state) {
    (void)state;
    assert_int_equal(CALL(kin_verb_bench_ops, "--op", "atention"), KIN_EXIT_USAGE);
    assert_int_equal(CALL(kin_verb_bench_ops, "--op", "reshape"), KIN_EXIT_USAGE); /* a view */
    assert_int_equal(CALL(kin_verb_bench_ops, "--dtype", "i32"), KIN_EXIT_USAGE);
    assert_int_equal(CALL(kin_verb_bench_ops, "--min-time", "-1"), KIN_EXIT_USAGE);
    assert_int_equal(CALL(kin_verb_bench_ops, "--op=add", "--case=none has this", "--min-time=0"),
                     KIN_EXIT_FAILED);
    assert_int_equal(CALL(kin_verb_bench_ops, "--device", "null", "--op", "add"), KIN_EXIT_FAILED);
    assert_int_equal(CALL(kin_verb_bench_ops, "--device", "nosuch", "--op", "add"),
                     KIN_EXIT_FAILED);
    assert_int_equal(CALL(kin_verb_bench_model, "-m", "demoo"), KIN_EXIT_USAGE);
    assert_int_equal(CALL(kin_verb_bench_model, "--dtype", "i32"), KIN_EXIT_USAGE);
    assert_int_equal(CALL(kin_verb_bench_model, "-m", "sd-vae", "--train"), KIN_EXIT_USAGE);
    assert_int_equal(CALL(kin_verb_bench_model, "--list"), KIN_EXIT_OK);
    assert_int_equal(CALL(kin_verb_bench_ops, "--op=copy", "--min-time=0", "-t1", "--json",
                          "no such folder/a.json"),
                     KIN_EXIT_FAILED);
}

/* ---- comparing files ---- */

static void write_text(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

#define RECORD(cases) "{\"format\": \"kinora-bench-1\", \"threads\": 1, \"cases\": [" cases "]}"
#define CASE(name, samples)                                                                        \
    "{\"name\": \"" name "\", \"dtype\": \"f32\", \"samples\": [" samples "]}"

static void compare_files(void **state) {
    (void)state;
    write_text(first_path, RECORD(CASE("a", "2, 2.1, 1.9") "," CASE("b", "1, 1, 1")));
    write_text(second_path, RECORD(CASE("a", "1, 1.1, 0.9") "," CASE("c", "1, 1, 1")));
    assert_int_equal(CALL(kin_verb_bench_compare, first_path, second_path), KIN_EXIT_OK);
    assert_int_equal(CALL(kin_verb_bench_compare, first_path, first_path), KIN_EXIT_OK);
    static const char *const bad[] = {
        "",
        "{}",
        "[1]",
        "{\"format\": \"kinora-bench-1\"}",
        "{\"format\": \"kinora-bench-1\", \"cases\": {}}",
        RECORD("{}"),
        RECORD("7"),
        RECORD(CASE("a", "")),
        RECORD(CASE("a", "0")),
        RECORD(CASE("a", "-1")),
        RECORD(CASE("a", "\"fast\"")),
        RECORD("{\"name\": \"a\", \"dtype\": \"f32\"}"),
        RECORD(CASE("d", "1")), /* nothing in common */
        RECORD(""),
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_text(second_path, bad[i]);
        assert_int_not_equal(CALL(kin_verb_bench_compare, first_path, second_path), KIN_EXIT_OK);
        assert_int_not_equal(CALL(kin_verb_bench_compare, second_path, first_path), KIN_EXIT_OK);
    }
    assert_int_equal(CALL(kin_verb_bench_compare, first_path, "no such file.json"),
                     KIN_EXIT_FAILED);
    assert_int_equal(CALL(kin_verb_bench_compare, first_path), KIN_EXIT_USAGE);
    remove(first_path);
    remove(second_path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(peak_is_positive),
        cmocka_unit_test(peak_without_memory),
        cmocka_unit_test(quartiles),
        cmocka_unit_test(verdicts),
        cmocka_unit_test(fills),
        cmocka_unit_test(ops_record),
        cmocka_unit_test(model_record),
        cmocka_unit_test(model_graphs),
        cmocka_unit_test(refusals),
        cmocka_unit_test(compare_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
