/* kinora bench compare: ratios of two records, with their noise. */
#include "bench/compare.h"

#include "bench/bench.h"
#include "runtime/json.h"
#include "tools/verbs.h"

#include <math.h>
#include <string.h>

static const char verb[] = "bench compare";

kin_bench_ratio kin_bench_compare(const double *first, int first_count, const double *second,
                                  int second_count) {
    double a_low, a, a_high, b_low, b, b_high;
    kin_bench_quartiles(first, first_count, &a_low, &a, &a_high);
    kin_bench_quartiles(second, second_count, &b_low, &b, &b_high);
    kin_bench_ratio r = {.ratio = a / b, .low = a_low / b_high, .high = a_high / b_low};
    if (r.low > 1) r.verdict = KIN_BENCH_FASTER;
    else if (r.high < 1) r.verdict = KIN_BENCH_SLOWER;
    return r;
}

const char *kin_bench_verdict_text(kin_bench_verdict verdict) {
    return verdict == KIN_BENCH_FASTER   ? "faster"
           : verdict == KIN_BENCH_SLOWER ? "slower"
                                         : "same within noise";
}

/* ---- reading ---- */

typedef struct record {
    const char *path;
    json_t *root, *cases;
    const char *device, *description, *version, *commit;
    int64_t threads;
} record;

static kin_status read_record(kin_context *context, const char *path, record *out) {
    const char *format = NULL;
    *out = (record){.path = path};
    kin_status status = kin_json_load(context, path, &out->root);
    if (status == KIN_OK)
        status = kin_json_get_string(context, out->root, path, "format", "", &format);
    if (status == KIN_OK && strcmp(format, "kinora-bench-1") != 0)
        return kin_fail(context, KIN_FORMAT,
                        "%s: no record of kinora bench: \"format\" is not \"kinora-bench-1\"",
                        path);
    if (status == KIN_OK)
        status = kin_json_get_child(context, out->root, path, "cases", JSON_ARRAY, &out->cases);
    if (status == KIN_OK && !out->cases)
        status = kin_fail(context, KIN_FORMAT, "%s: no \"cases\"", path);
    const struct {
        const char *key;
        const char **text;
    } texts[] = {{"device", &out->device},
                 {"description", &out->description},
                 {"version", &out->version},
                 {"commit", &out->commit}};
    for (int i = 0; status == KIN_OK && i < 4; i++)
        status =
            kin_json_get_string(context, out->root, path, texts[i].key, "not said", texts[i].text);
    if (status == KIN_OK)
        status = kin_json_get_int(context, out->root, path, "threads", 0, &out->threads);
    return status;
}

/* One case's samples; *out_count 0 and KIN_FORMAT if they are no positive numbers. */
static kin_status read_samples(kin_context *context, const record *from, const json_t *object,
                               const char *name, double *samples, int *out_count) {
    json_t *list = json_object_get(object, "samples");
    size_t count = json_array_size(list);
    *out_count = 0;
    if (count == 0 || count > KIN_BENCH_MAX_SAMPLES)
        return kin_fail(context, KIN_FORMAT, "%s: %s: \"samples\" must have 1 to %d numbers",
                        from->path, name, KIN_BENCH_MAX_SAMPLES);
    for (size_t i = 0; i < count; i++) {
        samples[i] = json_number_value(json_array_get(list, i));
        if (!(samples[i] > 0) || !isfinite(samples[i]))
            return kin_fail(context, KIN_FORMAT, "%s: %s: a sample is no positive number",
                            from->path, name);
    }
    *out_count = (int)count;
    return KIN_OK;
}

/* "attention / head of 72 f32": what both records must have in common. */
static kin_status case_key(kin_context *context, const record *from, const json_t *object,
                           char *key, size_t size) {
    const char *name = json_string_value(json_object_get(object, "name"));
    const char *dtype = json_string_value(json_object_get(object, "dtype"));
    if (!name || !dtype)
        return kin_fail(context, KIN_FORMAT, "%s: a case has no \"name\" or no \"dtype\"",
                        from->path);
    snprintf(key, size, "%s %s", name, dtype);
    return KIN_OK;
}

static kin_status find_case(kin_context *context, const record *in, const char *key,
                            const json_t **out_object) {
    size_t i;
    json_t *object;
    *out_object = NULL;
    json_array_foreach(in->cases, i, object) {
        char other[320];
        kin_status status = case_key(context, in, object, other, sizeof other);
        if (status != KIN_OK) return status;
        if (strcmp(other, key) == 0) {
            *out_object = object;
            return KIN_OK;
        }
    }
    return KIN_OK;
}

/* ---- telling ---- */

static void print_record(const char *letter, const record *r) {
    printf("%s  %s: %s (%s), %lld thread%s, version %s, commit %s\n", letter, r->path, r->device,
           r->description, (long long)r->threads, r->threads == 1 ? "" : "s", r->version,
           r->commit);
}

typedef struct totals {
    int verdicts[3], alone;
    double logarithms; /* of the ratios: their mean is that of the geometric mean */
} totals;

static kin_status compare_case(kin_context *context, const record *a, const record *b,
                               const json_t *object, totals *all) {
    char key[320];
    double first[KIN_BENCH_MAX_SAMPLES], second[KIN_BENCH_MAX_SAMPLES];
    int first_count = 0, second_count = 0;
    const json_t *other = NULL;
    kin_status status = case_key(context, a, object, key, sizeof key);
    if (status == KIN_OK) status = find_case(context, b, key, &other);
    if (status == KIN_OK && !other) all->alone++;
    if (status != KIN_OK || !other) return status;
    status = read_samples(context, a, object, key, first, &first_count);
    if (status == KIN_OK) status = read_samples(context, b, other, key, second, &second_count);
    if (status != KIN_OK) return status;
    kin_bench_ratio r = kin_bench_compare(first, first_count, second, second_count);
    printf("%-64s %7.3f  %6.3f..%-6.3f  %s\n", key, r.ratio, r.low, r.high,
           kin_bench_verdict_text(r.verdict));
    all->verdicts[r.verdict]++;
    all->logarithms += log(r.ratio);
    return KIN_OK;
}

static kin_status compare_records(kin_context *context, const record *a, const record *b) {
    totals all = {{0}, 0, 0};
    size_t i;
    json_t *object;
    kin_status status = KIN_OK;
    print_record("A", a);
    print_record("B", b);
    if (strcmp(a->device, b->device) != 0 || strcmp(a->description, b->description) != 0 ||
        a->threads != b->threads)
        fprintf(stderr, "warning: the two are of different devices or numbers of threads\n");
    printf("%-64s %7s  %-14s  %s\n", "case", "A / B", "noise", "B is");
    json_array_foreach(a->cases, i, object) {
        status = compare_case(context, a, b, object, &all);
        if (status != KIN_OK) return status;
    }
    int joined = all.verdicts[0] + all.verdicts[1] + all.verdicts[2];
    if (joined == 0)
        return kin_fail(context, KIN_NOT_FOUND, "%s and %s have no case in common", a->path,
                        b->path);
    printf("%d cases: %d faster, %d slower, %d same within noise; geometric mean of A / B %.3f\n",
           joined, all.verdicts[KIN_BENCH_FASTER], all.verdicts[KIN_BENCH_SLOWER],
           all.verdicts[KIN_BENCH_SAME], exp(all.logarithms / joined));
    int only_b = (int)json_array_size(b->cases) - joined;
    if (all.alone || only_b > 0) printf("only in A: %d, only in B: %d\n", all.alone, only_b);
    return KIN_OK;
}

int kin_verb_bench_compare(int count, char **arguments) {
    kin_common common = {0};
    int left = 0;
    const kin_flag flags[] = {
        {.name = "quiet", .letter = 'q', .on = &common.quiet, .help = "errors only"},
        {.name = "verbose", .letter = 'v', .on = &common.verbose, .help = "more of what happens"},
    };
    int code =
        kin_parse_flags(verb, flags, sizeof flags / sizeof *flags, count, arguments, 2, 2, &left);
    if (code < 0) code = kin_common_open(&common, false);
    if (code >= 0) return code;
    record a = {0}, b = {0};
    kin_status status = read_record(common.context, arguments[0], &a);
    if (status == KIN_OK) status = read_record(common.context, arguments[1], &b);
    if (status == KIN_OK) status = compare_records(common.context, &a, &b);
    code = status == KIN_OK ? KIN_EXIT_OK : kin_report(common.context, verb, status);
    json_decref(a.root);
    json_decref(b.root);
    kin_common_close(&common);
    return code;
}
